#!/bin/sh
# Goal: `policies list` and `policies show` say of every registered policy what it is, what
# its parameters are and what a trace must contain; what they call missing is what replay
# refuses; a mistake is exit 2 with the message of replay.
set -u
sample=$KVT_SOURCE_DIR/traces/samples/tiny_gqa.h5
fails=0
fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }

rm -rf ./*
"$KVTRACE" policies list >list 2>err || fail "list: exit $?: $(cat err)"
[ ! -s err ] || fail "list: on stderr: $(cat err)"
ids=$(sed -n 's/^\([a-z][a-z0-9_]*\)  *\(baseline\|oracle\|one-shot\|online\|both\)  .*/\1/p' list)
files=$(ls "$KVT_SOURCE_DIR"/policies/policy_*.c | sed 's/.*policy_\(.*\)\.c/\1/' | LC_ALL=C sort)
[ "$(echo $ids)" = "$(echo $files)" ] || fail "list names $(echo $ids), the folder holds $(echo $files)"

# ------------------------------------------------------------------ show, every policy
"$KVTRACE" policies show >out 2>err
[ $? -eq 2 ] || fail "show without an id is not exit 2"
for id in $ids; do
    "$KVTRACE" policies show "$id" >out 2>err || fail "show $id: exit $?: $(cat err)"
    [ ! -s err ] || fail "show $id: on stderr: $(cat err)"
    for word in "^$id - " '^  class ' '^  paper form ' '^parameters' '^forms' "^  $id" '^      decides ' '^      needs ' '^      kept sets ' \
        "^  kvtrace replay TRACE -p $id -b"; do
        grep -q "$word" out || fail "show $id: no line '$word': $(cat out)"
    done
    grep -q refused out && fail "show $id: a refused form is shown: $(grep refused out)"
    # every form is a configuration that replay takes; the first is the default
    sed -n 's/^  \('"$id"'[:a-z0-9_=,.]*\)$/\1/p' out >forms
    [ "$(head -n 1 forms)" = "$id" ] || fail "show $id: the first form is '$(head -n 1 forms)'"
    while read -r spec; do
        [ "$spec" = "$id" ] && continue
        "$KVTRACE" policies show "$spec" >one 2>err || fail "show $spec: exit $?: $(cat err)"
        [ "$(grep -c '^      decides ' one)" = 1 ] || fail "show $spec: not one form"
    done <forms
done
"$KVTRACE" policies show snapkv:window=9 >out 2>err || fail "show of a configuration: $(cat err)"
grep -Eq '^  window +9 ' out || fail "show snapkv:window=9: the value is not shown: $(cat out)"
grep -q 'needs .*last 9 prompt tokens' out || fail "show snapkv:window=9: needs are those of another window: $(cat out)"

# ------------------------------------------------------------------ a trace
"$KVTRACE" policies list "$sample" >list 2>err || fail "list TRACE: exit $?: $(cat err)"
grep -Eq '^streaming +[a-z-]+ +(yes|some) ' list || fail "list TRACE: streaming needs nothing: $(grep '^streaming' list)"
"$KVTRACE" synth -o narrow.h5 --layers 1 --heads 2 --kv-heads 1 --head-dim 8 --prompt 64 --decode 4 --window 16 >out 2>err || fail "synth: $(cat err)"
"$KVTRACE" policies show snapkv narrow.h5 >out 2>err || fail "show TRACE: exit $?: $(cat err)"
grep -q 'this trace  no: .*32.*holds 16.*--window 32' out || fail "show snapkv: does not say what is missing: $(cat out)"
"$KVTRACE" policies show snapkv:window=16 narrow.h5 | grep -q 'this trace  yes' || fail "show snapkv:window=16: the trace has that"
"$KVTRACE" policies list narrow.h5 >list 2>err || fail "list narrow.h5: exit $?: $(cat err)"
grep -Eq '^snapkv +one-shot +(no|some) ' list || fail "list narrow.h5: snapkv: $(grep '^snapkv' list)"
# The verdict on the default form is that of replay.
for id in $ids; do
    "$KVTRACE" policies show "$id" narrow.h5 | sed -n 's/^      this trace  //p' | head -n 1 >verdict
    "$KVTRACE" replay narrow.h5 -p "$id" -b 0.5,33t -q -o r.db >out 2>err
    rc=$?
    case $(cat verdict) in
    yes*) [ $rc -eq 0 ] || fail "$id: the trace has what it needs, and replay exits $rc: $(cat err)" ;;
    no:*) [ $rc -ne 0 ] || fail "$id: something is missing ($(cat verdict)), and replay runs" ;;
    *) fail "$id: no verdict: $(cat verdict)" ;;
    esac
done

# ------------------------------------------------------------------ JSON
python=
for p in "${KVT_PYTHON:-python3}" python3; do
    "$p" -c 'import json' 2>/dev/null && python=$p && break
done
"$KVTRACE" policies list --json >list.json 2>err || fail "list --json: exit $?: $(cat err)"
"$KVTRACE" policies list --json narrow.h5 >trace.json 2>err || fail "list --json TRACE: exit $?: $(cat err)"
"$KVTRACE" policies show --json tova >show.json 2>err || fail "show --json: exit $?: $(cat err)"
[ -z "$python" ] || "$python" - $ids <<'END' || fail "JSON: see above"
import json, sys
ids = sys.argv[1:]
for name in ("list", "trace", "show"):
    o = json.load(open(name + ".json"))
    assert set(o) == {"schema", "kind", "version", "trace", "policies"} and o["schema"] == 1 and o["kind"] == "policies", o
    assert [p["id"] for p in o["policies"]] == (["tova"] if name == "show" else ids), name
    for p in o["policies"]:
        assert set(p) == {"id", "title", "citation", "class", "version", "paper_form", "plugin_sha256", "note", "parameters", "settings", "forms"}, p
        assert p["class"] in ("baseline", "oracle", "one-shot", "online", "both") and p["plugin_sha256"] is None and p["version"] >= 1, p
        assert p["paper_form"] == any(x["name"] == "semantics" for x in p["parameters"]), p["id"]
        for x in p["parameters"]:
            assert x["help"], x
            if "choices" in x:
                assert x["default"] in x["choices"] and x["value"] == x["default"], x
            else:
                assert x["min"] <= x["default"] <= x["max"], x
        assert p["forms"] and p["forms"][0]["spec"] == p["id"], p["id"]
        assert len({f["spec"] for f in p["forms"]}) == len(p["forms"]), p["id"]
        for f in p["forms"]:
            assert set(f["needs"]) <= {"window", "prompt", "colstat", "nu", "values", "rope"}, f
            assert (f["window"] > 0) == ("window" in f["needs"]), f
            assert f["caches"] in ("kv", "query") and f["competes_over"] in ("cache", "layer", "model", "-"), f
            assert isinstance(f["nested"], bool) and isinstance(f["may_overshoot"], bool), f
            assert isinstance(f["stack"], bool) and f["stack"] <= f["nested"] and f["stack"] <= f["online"], f
            assert ("trace_has" in f) == (name == "trace"), f
            if name == "trace":
                assert (f["missing"] is None) == f["trace_has"], f
    assert (o["trace"] is None) == (name != "trace"), o["trace"]
kinds = {p["id"]: p["class"] for p in json.load(open("list.json"))["policies"]}
assert kinds["full"] == "baseline" and kinds["oracle_step"] == "oracle" and kinds["snapkv"] == "one-shot", kinds
END

# ------------------------------------------------------------------ mistakes
# refused CODE WORD ARGUMENT...
refused() {
    want=$1 word=$2
    shift 2
    "$KVTRACE" policies "$@" >out 2>err
    rc=$?
    [ $rc -eq "$want" ] || fail "policies $*: exit $rc, expected $want: $(cat err)"
    [ ! -s out ] || fail "policies $*: on stdout: $(head -n 2 out)"
    [ "$(wc -l <err)" -eq 1 ] || fail "policies $*: not one line on stderr: $(cat err)"
    grep -qF -e "$word" err || fail "policies $*: does not name '$word': $(cat err)"
}
for spec in frobnicate snapkv:frob=1 snapkv:window=0 quest; do
    refused 2 "${spec%%:*}" show "$spec"
    cp err shown
    "$KVTRACE" replay "$sample" -p "$spec" -o r2.db >out 2>err
    cmp -s err shown || fail "show $spec says '$(cat shown)', replay says '$(cat err)'"
done
refused 2 frobnicate frobnicate
refused 2 operand
refused 2 nine list "$sample" nine
refused 2 nine show snapkv "$sample" nine
refused 2 markdown list --markdown --json
refused 2 markdown show snapkv --markdown
refused 3 absent.h5 list absent.h5
refused 3 text.h5 show snapkv text.h5
: >empty.h5
refused 3 empty.h5 list --json empty.h5
[ ! -e r2.db ] || fail "something was written"

[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
