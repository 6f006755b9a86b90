#!/bin/sh
# Goal: a writer killed at any moment leaves no file under the final name, or a complete
# one (the old one, before it is replaced); what it leaves beside it never looks complete
# unless it is.
set -u
runs=40
options="--layers 3 --heads 4 --kv-heads 2 --head-dim 32 --prompt 300 --decode 100"
fails=0 killed=0 finished=0
fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }

rm -rf ./*
start=$(date +%s%N)
"$KVTRACE" synth -o whole.h5 $options >/dev/null || exit 1
whole_ms=$((($(date +%s%N) - start) / 1000000 + 1))

run=0
while [ $run -lt $runs ]; do
    # Every third run replaces a complete file.
    case $((run % 3)) in
        0) cp whole.h5 t.h5 ;;
        *) rm -f t.h5 ;;
    esac
    "$KVTRACE" synth -o t.h5 --force --seed $((run + 2)) $options >/dev/null 2>&1 &
    pid=$!
    # From the start to a little beyond the end, in steps that are no multiple of it.
    sleep "$(awk "BEGIN { print $whole_ms * 1.3 / 1000 * ($run * 17 % $runs) / $runs }")"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    if [ $? -gt 128 ]; then killed=$((killed + 1)); else finished=$((finished + 1)); fi
    if [ -e t.h5 ]; then
        "$KVTRACE" verify t.h5 >out 2>&1 || fail "run $run: t.h5 is not complete: $(head -n 3 out)"
    elif [ $((run % 3)) -eq 0 ]; then
        fail "run $run: the old t.h5 is gone"
    fi
    if [ -e t.h5.part ]; then
        "$KVTRACE" verify t.h5.part >out 2>&1
        rc=$?
        # Killed between the last write and the rename it is complete, and verifies.
        [ $rc -eq 3 ] || [ $rc -eq 0 ] || fail "run $run: t.h5.part: verify exits $rc: $(head -n 3 out)"
    fi
    run=$((run + 1))
done
rm -f t.h5
"$KVTRACE" synth -o t.h5 $options >/dev/null || fail "an old .part stands in the way"
[ -e t.h5.part ] && fail "the old .part is still there"
echo "$runs runs: $killed killed, $finished finished"
[ $killed -gt 0 ] || fail "no run was killed in time"
exit $((fails > 0))
