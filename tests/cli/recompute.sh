#!/bin/sh
# recompute.sh - replays of the sample traces, recomputed by a second program in numpy.
set -eu

py=/usr/bin/python3
prog="$KVT_SOURCE_DIR/tests/python/recompute.py"
samples="$KVT_SOURCE_DIR/traces/samples"
export PYTHONDONTWRITEBYTECODE=1

if ! "$py" -c 'import h5py, numpy' 2>/dev/null; then
    echo "skipped: $py lacks h5py or numpy (Debian: apt-get install python3-h5py)"
    exit 77
fi

"$py" "$prog" --self-test

# check TRACE NAME OPTION...: replay into NAME.db, then compare.
check() {
    trace=$1
    name=$2
    shift 2
    rm -f "$name.db" "$name.db-wal" "$name.db-shm" "$name.jsonl"
    "$KVTRACE" replay "$trace" "$@" --kept "$name.jsonl" --kept-every 1 -o "$name.db" -q
    echo "== $name"
    "$py" "$prog" "$trace" "$name.jsonl" "$name.db"
}

check "$samples/tiny_gqa.h5" share --output-error -b 0.1,0.25,0.5
check "$samples/tiny_gqa.h5" tokens -p snapkv:window=16,tova,h2o -b 24t,60t
check "$samples/tiny_gqa.h5" reference --budget-rule reference -p snapkv,defensivekv -b 0.2
for trace in "$samples"/*.h5; do
    name=$(basename "$trace" .h5)
    [ "$name" = tiny_gqa ] || check "$trace" "$name" -p snapkv,defensivekv,h2o -b 0.2
done

# A program that agrees with everything would be worthless: one changed number must fail.
cp share.db spoiled.db
"$py" - <<'END'
import sqlite3
db = sqlite3.connect("spoiled.db")
db.execute("UPDATE result_head SET lost_mean = lost_mean + 1e-5 WHERE (cell_id, layer, head) IN"
           " (SELECT cell_id, layer, head FROM result_head WHERE lost_mean > 0.01 LIMIT 1)")
db.commit()
END
if "$py" "$prog" "$samples/tiny_gqa.h5" share.jsonl spoiled.db >spoiled.txt; then
    echo "a changed lost_mean was not noticed"
    exit 1
fi
grep -q '^FAIL head: lost_mean' spoiled.txt
grep -q '^ladder: bound_q31 *[1-9]' spoiled.txt

cp share.db spoiled.db
"$py" - <<'END'
import sqlite3
db = sqlite3.connect("spoiled.db")
db.execute("UPDATE minimax_cert SET bound_q31 = bound_q31 + 20000 WHERE minimax_cert_id = 1")
db.commit()
END
if "$py" "$prog" "$samples/tiny_gqa.h5" share.jsonl spoiled.db >spoiled.txt; then
    echo "a changed bound was not noticed"
    exit 1
fi
grep -q '^FAIL ladder: bound_q31' spoiled.txt
