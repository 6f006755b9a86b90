#!/bin/sh
# Goal: `kvtrace bench` measures what it says, in valid JSON, with outputs that are right and
# exit codes that do not depend on how fast this machine is: two repetitions are never
# conclusive, so --check gives 4, unless an output is wrong (1). It leaves no file behind.
set -u
fails=0
fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }
rm -rf ./*
path=$PATH                          # what the program looks for python3 in

"$KVTRACE" bench list >out 2>err || fail "list: exit $?: $(cat err)"
for name in peak rows mass oracle stats sweep scale store stack minimax outerr colstat trace-read trace-write; do
    grep -q "^$name  *[a-z]" out || fail "list does not name $name: $(cat out)"
done

# tiny NAME WORD OPTION...: exit 4 and JSON with the word.
tiny() {
    name=$1 word=$2
    shift 2
    PATH=$path "$KVTRACE" bench "$name" --reps 2 --json --check "$@" >out.json 2>err
    rc=$?
    [ $rc -eq 4 ] || fail "$name $*: exit $rc, expected 4: $(cat err)"
    [ -s err ] && fail "$name $*: wrote to stderr: $(cat err)"
    for part in '"schema":.*"kvtrace-bench/1"' "\"bench\":.*\"$name\"" '"conclusive":.*false' "$word"; do
        grep -q -e "$part" out.json || fail "$name $*: no $part in $(cat out.json)"
    done
    if python3 -c '' 2>/dev/null; then
        python3 -c '
import json, sys
run = json.load(open("out.json"))
assert run["items"], "no items"
for item in run["items"]:
    assert item["time_s"]["min"] > 0 and item["reps"] >= 2, item
    assert item["accuracy"] is None or item["accuracy"]["ok"], item
    assert (item["ratio"] is None) == (item["reference"] is None), item
for target in run["targets"]:
    assert target["ok"] == (target["value"] >= target["limit"] if target["op"] == ">=" else target["value"] <= target["limit"]), target
' || fail "$name $*: $(cat out.json)"
    fi
    [ -z "$(ls -d kvtrace-bench.* 2>/dev/null)" ] || fail "$name $*: left $(ls -d kvtrace-bench.*)"
}
small="--steps 20 --policies 3 --budgets 5"
tiny rows '"name":.*"rows portable' --n 70 --d 20 --isa portable
tiny mass '"id":.*"M4"' --n 70 --d 16 --steps 20 --policies 2 --budgets 3,9
tiny oracle '"name":.*"n 70, selection"' --n 70 --steps 20 --budgets 9
tiny stats '"id":.*"S6"' --steps 37 --policies 3 --budgets 6
tiny store '"id":.*"D1"' --n 300 $small
tiny stack '"id":.*"N1"' --n 300 --steps 20 --budgets 5
tiny minimax '"id":.*"X2"' --n 300 --steps 40 --budgets 9
tiny outerr '"name":.*"d 20, of the f64 peak"' --n 300 --d 20 --steps 20 --budgets 5
tiny colstat '"id":.*"C1"' --n 300 --d 20 --steps 20
tiny trace-read '"id":.*"I1c"' --bytes 1
grep -q '"name":.*"bf16 widened, warm"' out.json || fail "trace-read does not read every type: $(cat out.json)"
tiny trace-write '"id":.*"I2c"' --bytes 1
tiny scale '"name":.*"4 x budgets"' --n 300 $small
tiny sweep '"name":.*"whole sweep' --n 300 $small --threads 2
path=/nowhere
tiny sweep '"baseline":.*null' --n 300 $small --baseline
path=$PATH
if python3 -c 'import numpy' 2>/dev/null; then
    tiny sweep '"baseline":.*"numpy"' --n 300 $small --baseline --threads 2
    grep -q '"S4c"' out.json || fail "no S4c with numpy: $(cat out.json)"
fi
"$KVTRACE" synth -o t.h5 --prompt 300 --decode 20 --window 128 >out 2>err || fail "synth: $(cat err)"
tiny store '"heads":.*8' --trace t.h5 --policies 2 --budgets 2
"$KVTRACE" bench peak --reps 2 --bytes 1 >out 2>err || fail "peak: exit $?: $(cat err)"
grep -q 'disk write and fsync .*GB_per_s [0-9]' out || fail "peak does not print the disk: $(cat out)"
grep -q 'inconclusive: fewer than 10' out || fail "peak does not say that it is a quick look: $(cat out)"

# refuse CODE WORD OPTION...: one line on stderr with the word.
refuse() {
    code=$1 word=$2
    shift 2
    "$KVTRACE" bench "$@" >out 2>err
    rc=$?
    [ $rc -eq "$code" ] || fail "bench $*: exit $rc, expected $code: $(cat err)"
    grep -q -e "$word" err || fail "bench $*: does not say '$word': $(cat err)"
    [ -s out ] && fail "bench $*: wrote to stdout: $(cat out)"
}
refuse 2 'bench list' nonsense
refuse 2 'no GPU code' rows --device cuda
refuse 2 'budgets' mass --budgets 0
refuse 2 'budgets' mass --budgets 257
refuse 2 'at most two' mass --budgets 1,2,3
refuse 2 'multiple of 4' rows --d 30
refuse 2 'for sweep and store' rows --trace t.h5
refuse 3 'No such file' sweep --trace no.h5
refuse 4 'cannot make a folder' peak --dir nowhere

[ $fails -eq 0 ]
