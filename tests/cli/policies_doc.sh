#!/bin/sh
# Goal: the table in policies/README.md is what the program says of its policies, and
# policies/results_table.sh makes a table from a database. With --update the first is put
# into the README:
#     KVTRACE=build/dev/kvtrace KVT_SOURCE_DIR=. sh tests/cli/policies_doc.sh --update
set -eu
readme=$KVT_SOURCE_DIR/policies/README.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$KVTRACE" policies list --markdown >"$work/table"
[ "$(grep -c '^<!-- begin policies' "$readme")" = 1 ] && [ "$(grep -c '^<!-- end policies' "$readme")" = 1 ] ||
    { echo "FAILED: $readme: the marks 'begin policies', 'end policies' are not there once each"; exit 1; }
awk -v table="$work/table" '
    /^<!-- begin policies/ { print; while ((getline line <table) > 0) print line; skip = 1 }
    /^<!-- end policies/ { skip = 0 }
    !skip' "$readme" >"$work/README.md"

if [ "${1:-}" = --update ]; then
    cat "$work/README.md" >"$readme"
    exit 0
fi
if ! diff "$readme" "$work/README.md" >"$work/diff"; then
    head -n 20 "$work/diff"
    echo "FAILED: policies/README.md is stale. Update it:"
    echo "    KVTRACE=$KVTRACE KVT_SOURCE_DIR=$KVT_SOURCE_DIR sh $KVT_SOURCE_DIR/tests/cli/policies_doc.sh --update"
    exit 1
fi

command -v sqlite3 >"$work/which" || exit 0
"$KVTRACE" replay "$KVT_SOURCE_DIR/traces/samples/tiny_gqa.h5" -p snapkv -b 0.2,0.4 -q -o "$work/r.db"
sh "$KVT_SOURCE_DIR/policies/results_table.sh" "$work/r.db" >"$work/results"
number='[0-9]\.[0-9]*'
for row in snapkv full random random_protect streaming oracle_fixed oracle_minimax oracle_step; do
    grep -Eq "^\| \`$row\` \| - \| - \| $number / $number \| $number / $number \| - \| - \| $number \| $number \|\$" "$work/results" ||
        { echo "FAILED: results_table.sh: no row of $row:"; cat "$work/results"; exit 1; }
done
