#!/bin/sh
# Goal: traces that the transformers shim records on tiny random models pass the shim's own
# acceptance tests and `kvtrace verify`. KVT_PYTHON names a Python that has torch,
# transformers, h5py; without one the test is skipped.
set -eu

python=${KVT_PYTHON:-python3}
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$KVT_SOURCE_DIR/capture/python" HF_HUB_OFFLINE=1

if ! "$python" -c 'import torch, transformers, h5py' 2>/dev/null; then
    echo "skipped: $python cannot import torch, transformers and h5py (set KVT_PYTHON)"
    exit 77
fi
if nm "$KVCAP" 2>/dev/null | grep -q __asan_init; then
    echo "skipped: an instrumented libkvcap.so cannot be loaded into $python"
    exit 77
fi

rm -f ./*.h5 ./*.part
KVCAP_LIB="$KVCAP" "$python" "$KVT_SOURCE_DIR/capture/python/test_kvcap_hf.py" 2>&1

n=0
for trace in ./*.h5; do
    "$KVTRACE" verify "$trace" >verify.out 2>&1 || { cat verify.out; echo "FAILED: kvtrace verify $trace"; exit 1; }
    n=$((n + 1))
done
[ $n -ge 10 ] || { echo "FAILED: only $n traces were left to verify"; exit 1; }
echo "$n traces verified"
