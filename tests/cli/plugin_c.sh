#!/bin/sh
# Goal: a policy built outside the tree against the installed headers runs as a built-in
# one does; every way in which it can be wrong is one clear line and the right exit code;
# a crash in it leaves nothing half-written.
# Method: the example, installed headers, `gcc -shared -fPIC`; mine:decay=1 must keep what
# snapkv:kernel=1 keeps; broken variants are made from the example with sed.
set -u
fail() { echo "FAILED: $*"; exit 1; }
CC=${CC:-gcc}
command -v "$CC" >/dev/null && command -v cmake >/dev/null || exit 77
rm -rf ./*
cmake --install "$(dirname "$KVTRACE")" --prefix "$PWD/prefix" >install.log 2>&1 || fail "install: $(tail -n 3 install.log)"
kvtrace=$PWD/prefix/bin/kvtrace
example=$KVT_SOURCE_DIR/policies/examples/mine.c
build() { "$CC" -shared -fPIC -Iprefix/include/kvtrace "$1" -o "$2" 2>cc.log || fail "$1 does not compile: $(head -n 5 cc.log)"; }
query() { python3 -c 'import sqlite3,sys
for r in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print("|".join(map(str,r)))' "$1" "$2" 2>/dev/null || sqlite3 "$1" "$2"; }
hashes() { query "$1" "SELECT key_sha256, result_sha256 FROM cell ORDER BY 1"; }
# kept FILE SPEC: what SPEC kept, without its name
kept() { grep -F "{\"policy\":\"$2\"," "$1" | sed 's/^{"policy":"[^"]*",//'; }

"$kvtrace" synth -o t.h5 --layers 2 --heads 4 --kv-heads 2 --prompt 120 --decode 24 >/dev/null || fail "synth"
build "$example" mine.so

# the same kept sets as the built-in policy that it equals at decay=1, others elsewhere
"$kvtrace" replay t.h5 --policy-plugin ./mine.so -p mine:decay=1,mine:decay=0.5,snapkv:kernel=1 -b 0.1,0.5 -o a.db --kept a.jsonl -q -j 1 ||
    fail "the example does not run"
kept a.jsonl mine:decay=1 >k1
kept a.jsonl snapkv:kernel=1 >k2
[ "$(wc -l <k1)" -eq 8 ] || fail "$(wc -l <k1) kept sets, expected 2 layers x 2 caches x 2 budgets"
cmp -s k1 k2 || fail "mine:decay=1 keeps other tokens than snapkv:kernel=1"
kept a.jsonl mine:decay=0.5 | cmp -s - k2 && fail "decay changes nothing"

# threads, resume, no -p for it
hashes a.db >a.txt
[ "$(grep -c . a.txt)" -ge 10 ] && ! grep -q '|$\|None' a.txt || fail "cells without a hash: $(cat a.txt)"
"$kvtrace" replay t.h5 --policy-plugin mine.so -p mine:decay=1,mine:decay=0.5,snapkv:kernel=1 -b 0.1 -o b.db -q -j 2 || fail "-j 2"
"$kvtrace" replay t.h5 --policy-plugin mine.so -p mine:decay=1,mine:decay=0.5,snapkv:kernel=1 -b 0.1,0.5 -o b.db -q -j 2 || fail "resume"
hashes b.db | cmp -s - a.txt || fail "-j 2 and a resumed run give other results"
"$kvtrace" replay t.h5 --policy-plugin mine.so -p snapkv -b 0.1 -o c.db --kept c.jsonl -q || fail "without -p for it"
[ "$(kept c.jsonl mine | wc -l)" -eq 4 ] || fail "a loaded policy is not added when no -p names it"

# the example of the manual
sed -n '/^```c$/,/^```$/p' "$KVT_SOURCE_DIR/policies/PLUGINS.md" | sed '/^```/d' >last.c
build last.c last.so
"$kvtrace" replay t.h5 --policy-plugin last.so -p last,last:keep_first=4 -b 0.2 -o l.db --kept l.jsonl -q || fail "PLUGINS.md: last.c"
[ "$(kept l.jsonl last | grep -c '115,116,117,118,119\]')" -eq 4 ] || fail "PLUGINS.md: last.c does not keep the latest"
[ "$(kept l.jsonl last:keep_first=4 | grep -c '\[0,1,2,3,')" -eq 4 ] || fail "keep_first does not work on a loaded policy"
"$kvtrace" policies show last --policy-plugin last.so | grep -q 'Last query and 16 latest' || fail "policies show does not know it"

# another build is another policy: nothing is shared, nothing overwritten
sed 's/(float)(sum \/ group)/(float)(sum * 0.5 \/ group)/' "$example" >other.c
build other.c other.so
# allot() that leaves everything as it is changes nothing, in a cache and over the layer
for span in CACHE LAYER; do
    for with in '' 'allot'; do
        sed -e "s/\.score = mine_score/.score = mine_score, .rank_over = KVT_SPAN_$span${with:+, .allot = v_allot}/" -e 's/^static const kvt_policy mine/static void v_allot(const kvt_job *j, const kvt_layers *d, uint32_t *k, uint32_t *c) { (void)j, (void)d, (void)k, (void)c; }\n__attribute__((unused)) &/' "$example" >allot.c
        build allot.c allot.so
        "$kvtrace" replay t.h5 --policy-plugin ./allot.so -p mine:decay=1 -b 0.3 -o "al$span$with.db" --kept "al$span$with.jsonl" -q || fail "allot $span $with"
    done
    cmp -s "al$span.jsonl" "al${span}allot.jsonl" || fail "allot() over a $span changes kept sets"
done
[ "$(grep -c '"kept":\[\]' alLAYERallot.jsonl)" = 0 ] || fail "allot() over a layer keeps nothing"
"$kvtrace" replay t.h5 --policy-plugin ./other.so -p mine:decay=1 -b 0.1,0.5 -o b.db -q || fail "other build"
[ "$(query b.db "SELECT count(*) FROM policy_config WHERE canonical_json LIKE '%,\"plugin\":\"%'")" = 3 ] || fail "two builds share a configuration"
[ "$(hashes b.db | wc -l)" -eq $(($(wc -l <a.txt) + 2)) ] || fail "two builds share cells"

# expect CODE WORD ARGUMENT...: one line on stderr that holds WORD, nothing on stdout, no results
expect() {
    want=$1 word=$2
    shift 2
    rm -f r.db r.jsonl
    "$kvtrace" replay t.h5 -b 0.2 -o r.db --kept r.jsonl -q "$@" >out 2>err </dev/null
    rc=$?
    [ $rc -eq "$want" ] || fail "$*: exit $rc, expected $want: $(cat err)"
    [ ! -s out ] || fail "$*: printed on stdout"
    [ "$(wc -l <err)" -eq "${lines:-1}" ] || fail "$*: $(wc -l <err) lines on stderr: $(cat err)"
    tail -n 1 err | grep -q '^kvtrace: ' || fail "$*: $(cat err)"
    tail -n 1 err | grep -qF -e "$word" || fail "$*: does not say '$word': $(cat err)"
    [ ! -f r.jsonl ] && [ ! -f r.jsonl.part ] || fail "$*: kept sets are left"
}
# variant WORD SED-COMMAND...: the example, changed, is refused with exit 3
variant() {
    word=$1
    shift
    sed "$@" "$example" >v.c
    cmp -s v.c "$example" && fail "$*: changes nothing"
    build v.c v.so
    expect 3 "$word" --policy-plugin ./v.so
    [ ! -f r.db ] || fail "$*: a database was made"
}

expect 3 'absent.so: No such file' --policy-plugin ./absent.so
expect 3 'prefix: not a regular file' --policy-plugin prefix
: >empty.so
expect 3 'empty.so: the file is empty' --policy-plugin empty.so
expect 3 'gcc -shared -fPIC' --policy-plugin "$example"
head -c 3000 mine.so >cut.so
expect 4 'cut.so: the policy crashed while it was loaded' --policy-plugin cut.so
expect 3 "policy id 'mine' is taken" --policy-plugin mine.so --policy-plugin ./mine.so
expect 2 "decay='2': expected a number from 0 to 1" --policy-plugin mine.so -p mine:decay=2
expect 2 "no parameter 'dcay'" --policy-plugin mine.so -p mine:dcay=1
variant 'has no kvt_policy_plugin()' -e '/^KVT_POLICY_PLUGIN/d'
variant 'returned NULL' -e 's/^KVT_POLICY_PLUGIN.*/const kvt_policy *kvt_policy_plugin(void) { return NULL; }/'
variant 'built for version 7 of the policy interface, this program has version 2: rebuild against' -e 's/KVT_POLICY_ABI/7/'
variant "policy id 'Mine'" -e 's/"mine"/"Mine"/'
variant "policy id ''" -e 's/\.id = "mine", //'
variant "policy id 'snapkv' is taken by SnapKV" -e 's/"mine"/"snapkv"/'
variant 'has neither score() nor worth()' -e 's/, \.score = mine_score//'
variant 'not KVT_POLICY_ONESHOT in .caps' -e 's/KVT_POLICY_ONESHOT/KVT_POLICY_RANDOM/'
variant 'KVT_POLICY_ONLINE in .caps and no worth()' -e 's/KVT_POLICY_ONESHOT/KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE/'
variant 'does not know' -e 's/KVT_POLICY_ONESHOT/KVT_POLICY_ONESHOT | 1u << 20/'
variant 'reads the future' -e 's/KVT_NEED_WINDOW/KVT_NEED_FUTURE/'
variant '.version is 0' -e 's/\.version = 1/.version = 0/'
variant 'columns per slot, at most 64' -e 's/KVT_POLICY_ONESHOT/KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE/' \
    -e 's/\.score = mine_score/.score = mine_score, .worth = v_worth, .slot_cols = 65/' \
    -e 's/^static const kvt_policy mine/static void v_worth(const kvt_lane *l, const kvt_event *e, kvt_ws *w, float *c, float *x) { (void)l, (void)e, (void)w, (void)c, (void)x; }\n&/'
many=$(i=0; while [ $i -lt 17 ]; do printf '{ "p%d", 0, 0, 1, NULL, 0, "" }, ' $i; i=$((i + 1)); done)
variant 'more than 16 parameters' -e "s/^    { 0 }/    $many { 0 }/"
variant "two parameters have the name 'window'" -e 's/"decay"/"window"/'
variant "parameter 'ties'" -e 's/"decay"/"ties"/'
variant 'min <= default <= max' -e 's/"decay", 0\.9/"decay", 1.5/'
variant 'undefined symbol: kvt_nothing' -e 's/all = 0, w = 1;/all = kvt_nothing(), w = 1;/' -e 's/^enum/double kvt_nothing(void);\n&/'

variant 'an oracle chooses once, per cache' -e 's/\.rank_over = [A-Z_]*,//; s/\.caps = KVT_POLICY_ONESHOT/.rank_over = KVT_SPAN_LAYER, .caps = KVT_POLICY_ONESHOT | KVT_POLICY_ORACLE/'

# while it runs: NaN, crashes (Debug and sanitized builds alike)
sed 's/\*score = (float)(sum \/ group);/*score = j == 7 ? NAN : (float)(sum \/ group);/; s/^enum/#include <math.h>\n&/' "$example" >nan.c
build nan.c nan.so
expect 3 'policy mine gave NaN for cache 0 token 7' --policy-plugin nan.so -p mine
crash() {
    word=$1
    shift
    sed "$@" "$example" >v.c
    build v.c v.so
    expect 4 "v.so: the policy crashed $word" --policy-plugin ./v.so -p mine -j 2
    [ ! -f r.db ] || [ "$(query r.db "PRAGMA integrity_check")" = ok ] || fail "$*: the database is damaged"
}
crash 'in score() (SIGSEGV)' -e 's/    float best = 0;/    float best = *(volatile float *)8;/'
[ "$(query r.db "SELECT count(*) FROM cell WHERE status = 'done'")" = 0 ] || fail "a crashed run stored results"
"$kvtrace" replay t.h5 --policy-plugin mine.so -p mine -b 0.2 -o r.db -q || fail "the database of a crashed run cannot be continued"
crash 'in score() (SIGSEGV)' -e 's/^    float best = 0;/    volatile char pad[4096]; pad[0] = 1; mine_score(job, in, ws, out); float best = pad[0];/' -e 's/ws_take(ws, window/ws_take(ws, 0/'
crash 'in setup() (SIGFPE)' -e 's/    out->nested = 1;.*/    out->nested = 1 \/ (int)(job->n - job->n);/'
crash 'while it was loaded (SIGSEGV)' -e 's/^enum/__attribute__((constructor)) static void v(void) { *(volatile int *)8 = 1; }\n&/'
crash 'in kvt_policy_plugin() (SIGILL)' -e 's/^KVT_POLICY_PLUGIN.*/const kvt_policy *kvt_policy_plugin(void) { __builtin_trap(); }/'
lines=2 crash 'in score() (SIGABRT: is .ws_bytes' -e '/out->ws_bytes/d'
echo "plugin_c: the example equals snapkv:kernel=1; every error has its line"
