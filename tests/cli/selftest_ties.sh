#!/bin/sh
# selftest under the other order of equals: all sets of the reference implementations hold
# under ties=low and ties=flat alike.
set -eu
fail() { echo "FAILED: $*"; exit 1; }

golden="$KVT_SOURCE_DIR/tests/golden/policies_golden.json"
"$KVTRACE" selftest > low.txt || fail "the built-in cases differ"
for ties in low flat; do
    sed -e "s/\"spec\": \"\([^\":]*\)\"/\"spec\": \"\1:ties=$ties\"/g" -e "s/\"spec\": \"\([^\"]*:[^\"]*\)\"/\"spec\": \"\1,ties=$ties\"/g" \
        -e "s/:ties=$ties,ties=$ties/:ties=$ties/g" "$golden" > "$ties.json"
    [ "$(grep -o "ties=$ties\"" "$ties.json" | wc -l)" = 33 ] || fail "the golden file has another layout: $(grep -o "ties=$ties\"" "$ties.json" | wc -l) specs"
    "$KVTRACE" selftest --golden "$ties.json" > "$ties.txt" || fail "ties=$ties: $(grep -v '^identical' "$ties.txt")"
    tail -n 1 "$ties.txt" | grep -q '^33 cases: 33 identical, 0 tied, 0 different, 0 unsupported$' || fail "ties=$ties: $(tail -n 1 "$ties.txt")"
done
echo "selftest_ties: passed"
