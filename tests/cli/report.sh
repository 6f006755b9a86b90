#!/bin/sh
# Goal: `kvtrace report` writes one whole, inert page that says what the database says,
# or nothing, and stays readable with many policies. Method: made-up databases (plain,
# hostile text, redacted, several models, empty) and a replay of many configurations,
# checked by check_report.py; refusals by exit code and by what is left behind; a browser
# without scripts and network where there is one.
set -u
python=$(command -v python3) || exit 77
tools=$KVT_SOURCE_DIR/tests/python
schema=$KVT_SOURCE_DIR/analysis/store/schema.sql
fails=0

fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }
fake() { "$python" "$tools/fake_results.py" "$schema" "$@" || fail "fake_results.py $*"; }
check() { "$python" "$tools/check_report.py" "$@" || fail "check_report.py $*"; }

# refuse CODE WORD ARGUMENT...: one line that names the word, that exit code, nothing left
refuse() {
    want=$1 word=$2
    shift 2
    ls -A . out >before
    "$KVTRACE" report "$@" >stdout 2>stderr
    rc=$?
    [ $rc -eq "$want" ] || fail "report $*: exit $rc, expected $want: $(cat stderr)"
    [ "$(wc -l <stderr)" -eq 1 ] || fail "report $*: $(wc -l <stderr) lines on stderr: $(cat stderr)"
    grep -qF -e "$word" stderr || fail "report $*: does not name '$word': $(cat stderr)"
    [ ! -s stdout ] || fail "report $*: on stdout: $(cat stdout)"
    ls -A . out | diff before - >difference || fail "report $*: left behind: $(cat difference)"
}

rm -rf work
mkdir -p work/out && cd work || exit 1
: >before >stdout
: >stdout >stderr >difference

fake plain.db --layers 4 --steps 60 --prompt 180
fake hostile.db --hostile --layers 2 --steps 40 --prompt 150
fake redacted.db --redacted --layers 2 --steps 30 --prompt 120
fake several.db --traces 2 --models 2 --layers 2 --steps 24 --prompt 80 --kv 2 --group 1
fake curves.db --curves --layers 3 --steps 40 --prompt 150
fake curves2.db --curves --hostile --traces 2 --models 2 --layers 2 --steps 24 --prompt 80 --kv 2 --group 1
fake one_step.db --layers 1 --steps 1 --prompt 60 --kv 1 --group 1
fake empty.db --empty

# pages, each checked against its database
for name in plain hostile redacted several curves curves2 one_step empty; do
    "$KVTRACE" report $name.db -o out/$name.html >stdout 2>stderr || fail "report $name.db: $(cat stderr)"
    [ ! -s stderr ] || fail "report $name.db: on stderr: $(cat stderr)"
done
check out/plain.html plain.db --figures 8 --apart 6 --max-bytes 1000000 --chosen 'layer_defensivekv defensivekv adakv_snap criticalkv pyramidkv'
check out/hostile.html hostile.db --hostile --figures 8
check out/redacted.html redacted.db --figures 8
check out/several.html several.db --figures 16
check out/curves.html curves.db --figures 9 --max-bytes 1000000
check out/curves2.html curves2.db --hostile --figures 18
check out/one_step.html one_step.db
check out/empty.html empty.db --empty

# hostile text makes no element that plain text does not make
for name in plain hostile; do
    tr '<' '\n' <out/$name.html | sed -n 's/^\([a-z0-9]*\).*/\1/p' | sort -u >elements.$name
done
cmp -s elements.plain elements.hostile || fail "hostile text adds elements: $(diff elements.plain elements.hostile)"
grep -q '\\u{202E}' out/hostile.html || fail "the direction override is not shown as an escape"
rm elements.*

# curves: a line where sets nest, dots and the count where they do not; databases from before there were curves
grep -q 'not nested: [1-9][0-9]* of [1-9]' out/curves.html || fail "a policy that does not nest is drawn as if it did"
grep -q 'k of m.* pairs of neighbouring budgets' out/curves.html || fail "dots are not explained"
for version in 1 2; do
    "$python" - "$KVT_SOURCE_DIR/tests/golden/results_v$version.sql" old$version.db <<'END' || fail "results_v$version.sql"
import sqlite3, sys
sqlite3.connect(sys.argv[2]).executescript(open(sys.argv[1], encoding="utf-8").read())
END
    "$KVTRACE" report old$version.db -o out/old$version.html >stdout 2>stderr || fail "report of schema version $version: $(cat stderr)"
    ! grep -q 'fig-budgets' out/old$version.html || fail "curves out of nothing"
done

# one n: no verdict beyond the document
grep -q 'n.*=.*1.*cluster.*exploratory' out/plain.html || fail "one cluster is not called exploratory"
grep -q ' of 2 documents have a step' out/several.html || fail "no rate over documents"

# the default name; the same bytes from a copy under another name
"$KVTRACE" report plain.db >stdout 2>stderr || fail "default name: $(cat stderr)"
cmp -s plain.html out/plain.html || fail "the same database gives another page"
cp plain.db out/copy.db
"$KVTRACE" report out/copy.db >stdout 2>&1 || fail "report of a copy: $(cat stdout)"
cmp -s out/copy.html out/plain.html || fail "the file's name changes the page"

# --policy and --budget
"$KVTRACE" report plain.db -o out/h2o.html --policy h2o --budget 0.10 >stdout 2>stderr || fail "--policy: $(cat stderr)"
check out/h2o.html plain.db --figures 8
grep -q 'At 10 % of the prompt.*<b>h2o</b>' out/h2o.html || fail "--policy and --budget do not choose"
for p in full random oracle_step; do
    "$KVTRACE" report plain.db -o out/$p.html --policy $p >stdout 2>stderr || fail "--policy $p: $(cat stderr)"
    check out/$p.html plain.db
done
refuse 2 frobnicate plain.db -o out/x.html --policy frobnicate
grep -q snapkv stderr || fail "--policy frobnicate does not list what there is"
refuse 2 0.3 plain.db -o out/x.html --budget 0.3
refuse 2 '--budget 7t: no finished cell of h2o has it; there are: 0.05,' plain.db -o out/x.html --policy h2o --budget 7t
refuse 2 snapkv empty.db -o out/x.html --policy snapkv

# --highlight: ids, labels with commas of their own, baselines; at most eight, no oracle
"$KVTRACE" report plain.db -o out/three.html --highlight h2o,snapkv:kernel=7,window=64,random >stdout 2>stderr ||
    fail "--highlight: $(cat stderr)"
check out/three.html plain.db --chosen 'h2o snapkv:kernel=7,window=64 random' --apart 8
grep -q 'named with --highlight' out/three.html || fail "the page does not say who chose"
refuse 2 nobody plain.db -o out/x.html --highlight h2o,nobody
refuse 2 oracle_step plain.db -o out/x.html --highlight oracle_step
refuse 2 full plain.db -o out/x.html --highlight full
refuse 2 'at most 8' plain.db -o out/x.html --highlight h2o,tova,cake,random,snapkv,criticalkv,pyramidkv,defensivekv,streaming

# many configurations, some on one of two traces only, some not at every budget
some=
for kernel in 1 3 5 7 9 11 13; do
    for pooling in avg max; do
        for gqa in mean max; do some="$some,snapkv:kernel=$kernel,pooling=$pooling,gqa=$gqa"; done
    done
done
for seed in 1 2; do
    "$KVTRACE" synth -o many$seed.h5 --seed $seed --layers 30 --heads 2 --kv-heads 1 --head-dim 8 --prompt 72 --decode 8 \
        --window $((seed * 36)) >stdout 2>&1 || fail "synth: $(cat stdout)"
done
"$KVTRACE" replay many2.h5 -o many.db -q -p "tova,adakv_snap$some,random_protect:window=8" >stdout 2>stderr ||
    fail "replay: $(cat stderr)"
"$KVTRACE" replay many1.h5 -o many.db -q -p snapkv,tova,h2o >stdout 2>stderr || fail "replay: $(cat stderr)"
"$KVTRACE" report many.db -o out/many.html >stdout 2>stderr || fail "report many.db: $(cat stderr)"
check out/many.html many.db --max-bytes 1500000
"$python" - many.db <<'END' || fail "the database does not have what is to be drawn"
import sqlite3, sys
n, half, gaps = sqlite3.connect(sys.argv[1]).execute(
    "SELECT count(DISTINCT config_id), count(DISTINCT CASE WHEN n = 1 THEN config_id END), count(DISTINCT CASE WHEN b < 6 THEN config_id END)"
    " FROM (SELECT config_id, count(DISTINCT trace_id) AS n, count(DISTINCT budget_id) AS b FROM v_cell WHERE status = 'done' GROUP BY 1)").fetchone()
sys.exit(n < 36 or half < 25 or gaps < 1)
END
grep -q 'on 1 of 2 traces' out/many.html || fail "policies on one trace only are not marked"
"$KVTRACE" report many.db -o out/many.html --force --highlight adakv_snap,tova -b 0.05 >stdout 2>stderr || fail "report -b 0.05: $(cat stderr)"
check out/many.html many.db --chosen 'adakv_snap tova'

# overwriting
refuse 2 --force plain.db
refuse 2 plain.db plain.db -o plain.db --force
ln plain.db out/link.db
refuse 2 link.db plain.db -o out/link.db --force
refuse 2 out plain.db -o out --force
echo old >out/old.html
"$KVTRACE" report plain.db -o out/old.html --force >stdout 2>&1 || fail "--force: $(cat stdout)"
cmp -s out/old.html out/plain.html || fail "--force does not replace the file"

# databases that are none
printf 'not a database, but long enough to be one\n' >text.db
"$python" - <<'END'
import sqlite3
db = sqlite3.connect("other.db")
db.execute("CREATE TABLE t(x)")
db.commit()
db = sqlite3.connect("plain.db")
new = sqlite3.connect("newer.db")
db.backup(new)
new.execute("PRAGMA user_version = 99")
new.commit()
END
refuse 3 missing.db missing.db -o out/x.html
refuse 3 text.db text.db -o out/x.html
refuse 3 other.db other.db -o out/x.html
refuse 3 newer.db newer.db -o out/x.html
refuse 3 out out -o out/x.html

# damage: half the file gone; pages of the last tables overwritten, which opening does not see
cp plain.db cut.db
"$python" - <<'END'
import os, sqlite3
size = os.path.getsize("cut.db")
os.truncate("cut.db", size // 2 // 8192 * 8192)
data = bytearray(open("plain.db", "rb").read())
for (page,) in sqlite3.connect("plain.db").execute(
        "SELECT pageno FROM dbstat WHERE name IN ('violation_token', 'result_series', 'sqlite_autoindex_result_series_1')"):
    data[(page - 1) * 8192:page * 8192] = b"\xff" * 8192
open("holes.db", "wb").write(data)
END
refuse 3 cut.db cut.db -o out/x.html
refuse 3 'holes.db: the database is damaged' holes.db -o out/x.html

# a place that cannot be written, and a disk that fills up
refuse 4 absent plain.db -o absent/x.html
refuse 4 x.html plain.db -o plain.db/x.html
(
    trap '' XFSZ
    ulimit -f 100
    "$KVTRACE" report plain.db -o out/x.html >stdout 2>stderr
    echo $? >code
)
[ "$(cat code)" = 4 ] || fail "a file that cannot grow: exit $(cat code), $(cat stderr)"
[ -z "$(ls out | grep x.html)" ] || fail "a file that cannot grow leaves $(ls out | grep x.html)"
if [ -e /dev/full ]; then
    "$KVTRACE" report plain.db -o out/stdout.html >/dev/full 2>stderr
    [ -f out/stdout.html ] || fail "a full stdout costs the page"
fi

# a browser: nothing is fetched, no policy is violated, the text is there without scripts
browser=$(command -v chromium || command -v chromium-browser || :)
if [ -n "$browser" ]; then
    "$browser" --headless=new --no-sandbox --disable-gpu --user-data-dir="$PWD/profile" --enable-logging=stderr --v=0 \
        --host-resolver-rules='MAP * ~NOTFOUND' --dump-dom "file://$PWD/out/hostile.html" >dom 2>log ||
        fail "the browser gives up: $(tail -n 3 log)"
    grep -q 'Not shown:' dom || fail "the browser does not show the page: $(head -c 200 dom)"
    if grep -q 'CONSOLE' log; then fail "the browser complains: $(grep CONSOLE log | head -n 3)"; fi
    if grep -q '<script\|<img\|onerror=alert(1)"' dom; then fail "hostile text became an element"; fi
    grep -q '<title>kvtrace report: made-up-135m' dom || fail "the title is changed"
    rm -rf profile dom log
fi

[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
