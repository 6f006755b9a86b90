#!/bin/sh
# Goal: policies/TEMPLATE.c is a policy as it stands. Method: the recipe of CONTRIBUTING.md
# in a copy of the tree, and the same file as a plug-in; both replay and keep the same
# tokens, and no rule of the tree is broken.
set -u
command -v cc >/dev/null && command -v cmake >/dev/null || exit 77
sample=$KVT_SOURCE_DIR/traces/samples/tiny_gqa.h5
fails=0
fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }

rm -rf ./*
mkdir tree
(cd "$KVT_SOURCE_DIR" && tar cf - --exclude=samples/real* CMakeLists.txt CONTRIBUTING.md traces kernels policies sim analysis capture tests) |
    tar xf - -C tree || exit 1

# a plug-in
cp tree/policies/TEMPLATE.c mine.c
echo 'KVT_POLICY_PLUGIN(kvt_policy_myidea)' >>mine.c
cc -std=c17 -O1 -Wall -Wextra -Werror -ffp-contract=off -shared -fPIC -I"$KVT_SOURCE_DIR/policies" mine.c -o mine.so 2>err || fail "plug-in: $(cat err)"
"$KVTRACE" replay "$sample" --policy-plugin ./mine.so -p myidea -b 0.2,0.5 -o plugin.db --kept plugin.jsonl >out 2>err ||
    fail "replay of the plug-in: exit $?: $(cat err)"

# in the tree
cp tree/policies/TEMPLATE.c tree/policies/policy_myidea.c
cmake -S tree -B build -DCMAKE_BUILD_TYPE=Debug -DKVT_TESTS=OFF -DKVT_WERROR=ON >log 2>&1 &&
    cmake --build build --target kvtrace --parallel 2 >log 2>&1 || fail "build: $(tail -n 20 log)"
./build/kvtrace replay "$sample" -p myidea -b 0.2,0.5 -o tree.db --kept tree.jsonl >out 2>err || fail "replay: exit $?: $(cat err)"
grep -q '^ *myidea ' out || fail "no row of myidea in the summary: $(cat out)"
[ -s tree.jsonl ] && cmp tree.jsonl plugin.jsonl || fail "the plug-in keeps other tokens"
[ "$(grep -c '"policy":"myidea"' tree.jsonl)" -gt 0 ] || fail "no kept sets: $(head -n 2 tree.jsonl)"
./build/kvtrace policies show myidea >out 2>err || fail "show: exit $?: $(cat err)"
for check in layers words; do
    cmake -DSOURCE_DIR="$PWD/tree" -P "tree/tests/lint/check_$check.cmake" >log 2>&1
    grep -E 'myidea|TEMPLATE' log >found && fail "check_$check: $(cat found)"
done

[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
rm -rf tree build
