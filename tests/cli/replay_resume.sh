#!/bin/sh
# Goal: a killed replay leaves a sound database and the same command finishes it with the
# same results; results do not depend on threads or instruction sets.
# Method: a reference run; runs with other -j and --isa; runs killed with SIGKILL at many
# moments and then repeated. Compared: key and content hash of every cell.
set -u
fail() { echo "FAILED: $*"; exit 1; }
rm -rf ./*
"$KVTRACE" synth -o t.h5 --layers 6 --heads 6 --kv-heads 2 --prompt 300 --decode 60 >/dev/null || fail "synth"

hashes() { sqlite3 "$1" "SELECT key_sha256, result_sha256 FROM cell ORDER BY 1" 2>/dev/null || python3 - "$1" <<'PY'
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute("SELECT key_sha256, result_sha256 FROM cell ORDER BY 1"):
    print("|".join(map(str, row)))
PY
}
query() { sqlite3 "$1" "$2" 2>/dev/null || python3 -c 'import sqlite3,sys
for r in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print("|".join(map(str,r)))' "$1" "$2"; }

"$KVTRACE" replay t.h5 -b 0.1,0.3 -o ref.db -q -j 1 || fail "reference run"
hashes ref.db >ref.txt
n=$(wc -l <ref.txt)
[ "$n" -gt 20 ] || fail "only $n cells"
grep -q '|$' ref.txt && fail "a cell without a content hash"

for j in 2 3; do
    "$KVTRACE" replay t.h5 -b 0.1,0.3 -o "j$j.db" -q -j "$j" || fail "-j $j"
    hashes "j$j.db" | cmp -s - ref.txt || fail "-j $j gives other results"
done
"$KVTRACE" replay t.h5 -b 0.1,0.3 -o isa.db -q --isa portable || fail "--isa portable"
hashes isa.db | cmp -s - ref.txt || fail "--isa portable gives other results"

# Cells in two runs of one budget each are the same cells.
"$KVTRACE" replay t.h5 -b 0.3 -o two.db -q || fail "one budget"
"$KVTRACE" replay t.h5 -b 0.1 -o two.db -q || fail "the other budget"
hashes two.db | cmp -s - ref.txt || fail "one budget at a time gives other results"

# A cell does not depend on which other budgets are in the run, output errors included.
"$KVTRACE" replay t.h5 -b 0.3 -o oe1.db -q --output-error || fail "output error, one budget"
"$KVTRACE" replay t.h5 -b 0.1,0.2,0.3,0.7 -o oe4.db -q --output-error || fail "output error, four budgets"
hashes oe1.db >oe1.txt
hashes oe4.db >oe4.txt
[ "$(grep -cxF -f oe1.txt oe4.txt)" -eq "$(wc -l <oe1.txt)" ] || fail "--output-error: other budgets change a cell"

# Kept sets replace a file, nothing else, and are asked about before anything is done.
mkfifo pipe
"$KVTRACE" replay t.h5 -b 0.3 -o pipe.db -q --kept pipe 2>pipe.err && fail "a pipe is replaced by a file"
[ -p pipe ] && [ ! -e pipe.db ] && grep -q 'is not a file' pipe.err || fail "kept sets into a pipe: $(cat pipe.err)"

interrupted=0
i=0
while [ $i -lt 12 ]; do
    rm -f kill.db kill.db-wal kill.db-shm kept.jsonl kept.jsonl.part
    "$KVTRACE" replay t.h5 -b 0.1,0.3 -o kill.db -q -j 2 --kept kept.jsonl 2>/dev/null &
    pid=$!
    sleep "0.$(printf %03d $((i * 53 + 5)))"
    if kill -9 $pid 2>/dev/null; then interrupted=$((interrupted + 1)); fi
    wait $pid 2>/dev/null
    [ -f kept.jsonl ] && [ "$(tail -c 1 kept.jsonl | od -An -c | tr -d ' ')" != '\n' ] && fail "half-written kept sets under the final name"
    if [ -f kill.db ]; then
        query kill.db "PRAGMA integrity_check" | grep -qx ok || fail "kill $i: database is damaged"
    fi
    "$KVTRACE" replay t.h5 -b 0.1,0.3 -o kill.db -q -j 2 || fail "kill $i: the same command does not finish"
    hashes kill.db | cmp -s - ref.txt || fail "kill $i: results differ after the resume"
    [ -z "$(query kill.db "SELECT * FROM v_check")" ] || fail "kill $i: v_check: $(query kill.db "SELECT * FROM v_check")"
    i=$((i + 1))
done
[ $interrupted -gt 0 ] || fail "no run was interrupted"

# Ctrl-C: exit 130, and the same command goes on.
"$KVTRACE" synth -o big.h5 --layers 24 --heads 8 --kv-heads 2 --prompt 600 --decode 120 >/dev/null || fail "synth big"
"$KVTRACE" replay big.h5 -b 0.1 -o int.db -q 2>int.err &
pid=$!
sleep 0.4
kill -INT $pid 2>/dev/null
wait $pid
code=$?
[ $code -eq 130 ] || [ $code -eq 0 ] || fail "interrupt: exit $code, expected 130"
[ $code -eq 0 ] || [ "$(grep -vc ": skipped: " int.err)" -eq 1 ] || fail "interrupt: not one line: $(cat int.err)"
"$KVTRACE" replay big.h5 -b 0.1 -o int.db -q || fail "after the interrupt"
[ "$(query int.db "SELECT count(*) FROM cell WHERE status <> 'done'")" = 0 ] || fail "cells left after the resume"
echo "replay_resume: $interrupted of 12 runs were interrupted; all equal the uninterrupted one"
