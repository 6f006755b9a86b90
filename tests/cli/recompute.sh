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

# Curves: every point of a short grid is replayed once more as a budget of its own, with its kept sets.
policies=snapkv,pyramidkv,adakv_snap,defensivekv,streaming,tova
"$KVTRACE" replay "$samples/tiny_gqa.h5" -p snapkv -b auto:5 -o grid.db -q
grid=$("$py" -c 'import sqlite3, struct
rows = sqlite3.connect("grid.db").execute("SELECT kept FROM curve_grid ORDER BY n_point DESC LIMIT 1").fetchall()
print(",".join("%dt" % k for k in struct.unpack("<%dI" % (len(rows[0][0]) // 4), rows[0][0])))')
"$KVTRACE" replay "$samples/tiny_gqa.h5" -p $policies -b "$grid,auto:5" -o curve.db -q --kept curve.jsonl --kept-every 1
echo "== curve at $grid"
"$py" "$prog" "$samples/tiny_gqa.h5" curve.jsonl curve.db >curve.txt || { cat curve.txt; exit 1; }
cat curve.txt
grep -q '^curve: head lost_cvar95 *[1-9][0-9][0-9]' curve.txt
grep -q '^curve: n_not_nested *[1-9]' curve.txt
for change in "data = CAST(substr(data, 1, 4) || x'01020304' || substr(data, 9) AS BLOB) WHERE level = 'layer'" \
    "n_not_nested = n_not_nested + 1 WHERE level = 'head'"; do
    cp curve.db spoiled.db
    "$py" -c 'import sqlite3, sys
db = sqlite3.connect("spoiled.db")
db.execute("UPDATE result_curve SET " + sys.argv[1])
db.commit()' "$change"
    if "$py" "$prog" "$samples/tiny_gqa.h5" curve.jsonl spoiled.db >spoiled.txt; then
        echo "a changed curve was not noticed: $change"
        exit 1
    fi
    grep -q '^FAIL curve:' spoiled.txt
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
