#!/bin/sh
# selftest: the built-in cases are identical, a changed set is seen, and a golden file that
# is not one ends with one line on stderr and exit code 3.
set -eu
fail() { echo "FAILED: $*"; exit 1; }

"$KVTRACE" selftest > out.txt || fail "the built-in cases differ"
[ "$(tail -n 1 out.txt)" = "33 cases: 33 identical, 0 tied, 0 different, 0 unsupported" ] || fail "last line: $(tail -n 1 out.txt)"

# The same file from disk gives the same answer; with another token in one set it does not.
golden="$KVT_SOURCE_DIR/tests/golden/policies_golden.json"
"$KVTRACE" selftest --golden "$golden" | cmp - out.txt || fail "the file and the built-in copy differ"
sed 's/"kvpress_streaming@0.6": {"kept": \[\[\[0, 1, 2, 3, 48/"kvpress_streaming@0.6": {"kept": [[[0, 1, 2, 3, 47/' "$golden" > changed.json
cmp -s "$golden" changed.json && fail "the golden file has another layout: nothing was changed"
code=0; "$KVTRACE" selftest --golden changed.json > changed.txt || code=$?
[ "$code" = 1 ] || fail "exit code $code for a changed set, expected 1"
grep -Eq '^different +kvpress_streaming@0.6 +layer 0 head 0: 1 of 28' changed.txt || fail "the changed set is not named"

refused() {  # refused WORD: the file bad.json is refused with a line that says WORD
    code=0; "$KVTRACE" selftest --golden bad.json > bad.out 2> bad.err || code=$?
    [ "$code" = 3 ] || fail "exit code $code, expected 3, for: $(head -c 120 bad.json)"
    [ "$(wc -l < bad.err)" = 1 ] || fail "not one line: $(cat bad.err)"
    grep -q "$1" bad.err || fail "'$(cat bad.err)' does not say '$1'"
}
meta='"meta": {"L": 1, "Hq": 1, "Hkv": 1, "d": 1, "n": 2, "gen": 1, "D_model": 1}'
rows='"Q": [[[[1], [2], [3]]]], "K": [[[[1], [2], [3]]]], "V": [[[[1], [2], [3]]]], "Wo": [[[1]]]'
case_() { echo "{$meta, $rows, \"results\": {\"x\": $1}}" > bad.json; }
case_ '{"kept": [[[1]]], "spec": "streaming:sinks=0", "budget": "0.5", "rule": "share"}'
"$KVTRACE" selftest --golden bad.json | grep -q '^1 cases: 1 identical, 0 tied, 0 different, 0 unsupported$' || fail "the smallest file"

rm -f bad.json; refused "No such file"
: > bad.json; refused "not JSON"
echo '{"meta": ' > bad.json; refused "not JSON"
echo "{$meta} x" > bad.json; refused "not JSON"
echo '[]' > bad.json; refused "no key"
echo '{"meta": {"L": 1e9}}' > bad.json; refused "meta.L"
echo "{$meta, \"Q\": 1}" > bad.json; refused "Q: expected arrays"
echo "{$meta, \"Q\": [[[[1], [2]]]]}" > bad.json; refused "expected 3"
echo "{$meta, \"Q\": [[[[1], [2], [1e999]]]]}" > bad.json; refused "finite"
echo '{"meta": {"L": 1000, "Hq": 1000, "Hkv": 1000, "d": 1000, "n": 1000000, "gen": 1, "D_model": 1}, "Q": []}' > bad.json; refused "does not fit"
case_ '{"kept": [[[1]]], "spec": 5}'; refused "spec: expected a string"
case_ '{"kept": [[[1]]], "spec": "full", "budget": "2"}'; refused "budget"
case_ '{"kept": [[[1]]], "spec": "full", "rule": "other"}'; refused "rule"
case_ '{"kept": [[[3]]], "spec": "full"}'; refused "below 3"
case_ '{"kept": [[[1, 1]]], "spec": "full"}'; refused "twice"
case_ '{"kept": [[1]], "spec": "full"}'; refused "list of positions"
case_ '{"kept": [[[1]], [[1]]], "spec": "full"}'; refused "expected 1 layers"
case_ '{"kept": [[[1]]], "spec": "tova:steps=2", "budget": "1t"}'; refused "decode steps"
echo "selftest: passed"
