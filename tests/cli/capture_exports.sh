#!/bin/sh
# Goal: libkvcap.so exports the functions of kvcap.h and nothing else, so that it can share
# a process with any other library, and it needs no library but HDF5, libm and libc.
set -eu

grep -o 'kvcap_[a-z_]*(' "$KVT_SOURCE_DIR/capture/kvcap.h" | tr -d '(' | sort -u >want
nm -D --defined-only "$KVCAP" | sed 's/.* //' | grep -v '^__\|^_init$\|^_fini$' | sort >got
if ! cmp -s want got; then
    echo "FAILED: exported symbols differ from kvcap.h"
    diff want got
    exit 1
fi
[ "$(wc -l <want)" -ge 17 ] || { echo "FAILED: only $(wc -l <want) functions found in kvcap.h"; exit 1; }
needed=$(readelf -d "$KVCAP" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -v '^libhdf5\|^libm\.\|^libc\.\|^ld-linux\|^libasan\|^libubsan' || true)
[ -z "$needed" ] || { echo "FAILED: libkvcap.so needs $needed"; exit 1; }
echo "$(wc -l <want) symbols"
