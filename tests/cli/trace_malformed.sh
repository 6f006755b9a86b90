#!/bin/sh
# Goal: no trace file crashes the reader, hangs it or is believed when it breaks a rule of
# FORMAT.md. Method: about 1,750 files, each one change away from a valid one (wrong types,
# shapes, links, layouts, sizes, lists, attributes; cut and damaged at random), each with
# the exit code and the name that the one line on stderr must have.
set -u
for python in "${KVT_PYTHON:-python3}" /usr/bin/python3; do
    if "$python" -c 'import h5py, numpy' 2>/dev/null; then
        PYTHONDONTWRITEBYTECODE=1 exec "$python" "$KVT_SOURCE_DIR/tests/python/malformed.py" "$KVTRACE" work
    fi
done
echo "trace_malformed: skipped, no python3 with h5py and numpy"
exit 77
