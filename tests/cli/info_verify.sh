#!/bin/sh
# Goal: info describes traces, unfinished traces and results databases; verify says which
# check failed; both give JSON that parses, both refuse what is no trace with one line and
# exit code 3, and neither writes anything. Method: the sample traces, and copies of one
# with single bytes changed at places that h5dump-free tools can find.
set -u
sample=$KVT_SOURCE_DIR/traces/samples/tiny_gqa.h5
fails=0
fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }

rm -rf ./*
chmod u+w . 2>/dev/null

# ------------------------------------------------------------------ a sound trace
for trace in "$KVT_SOURCE_DIR"/traces/samples/*.h5; do
    "$KVTRACE" info "$trace" >out 2>err || fail "info $trace: exit $?: $(cat err)"
    [ -s err ] && fail "info $trace: writes to stderr: $(cat err)"
    for word in 'content id' 'engine' 'layers' 'prompt' 'decode' 'k/v/q'; do
        grep -q "$word" out || fail "info $trace: does not say '$word'"
    done
    "$KVTRACE" verify "$trace" >out 2>err || fail "verify $trace: exit $?: $(cat err)"
    [ -s err ] && fail "verify $trace: writes to stderr: $(cat err)"
    [ "$(tail -n 1 out)" = OK ] || fail "verify $trace: the last line is not OK: $(tail -n 1 out)"
    for word in checksums 'content id' 'finite operands' 'row sums' 'column statistics' 'attention output'; do
        grep -q "$word  *OK" out || fail "verify $trace: '$word' is not OK: $(grep "$word" out)"
    done
done
id=$("$KVTRACE" info "$sample" | sed -n 's/^  content id  *//p')
[ "${#id}" -eq 64 ] || fail "no content id of 64 digits: '$id'"

# ------------------------------------------------------------------ JSON
python=
for p in "${KVT_PYTHON:-python3}" python3; do
    "$p" -c 'import json' 2>/dev/null && python=$p && break
done
for verb in info verify; do
    "$KVTRACE" $verb --format json "$sample" >$verb.json 2>err || fail "$verb json: exit $?: $(cat err)"
    grep -q "\"kind\":.*\"$verb\"" $verb.json || fail "$verb json: no kind"
    grep -q "$id" $verb.json || fail "$verb json: not the content id"
    [ -z "$python" ] || "$python" - $verb.json $verb <<'END' || fail "$verb json: see above"
import json, sys
o = json.load(open(sys.argv[1]))
assert o["schema"] == 1 and o["kind"] == sys.argv[2], o
if sys.argv[2] == "info":
    assert len(o["layers"]) == o["n_layers"] and o["complete"] is True and o["provenance"]["engine"], o
    assert {"k", "q", "lse"} <= set(o["layers"][0]["tensors"]), o["layers"][0]
else:
    assert o["ok"] is True and len(o["checks"]) == 7, o
    assert all(c["result"] in ("ok", "skipped") for c in o["checks"]), o
END
done
"$KVTRACE" info --format yaml "$sample" >out 2>err
[ $? -eq 2 ] || fail "an unknown format is not exit 2"

# ------------------------------------------------------------------ damage
# flip FILE TEXT: change the first byte of the first place where TEXT stands.
flip() {
    cp "$sample" "$1"
    chmod u+w "$1"
    offset=$(LC_ALL=C grep -aobF -e "$2" "$1" | head -n 1 | cut -d: -f1)
    [ -n "$offset" ] || { fail "no '$2' in the sample"; return; }
    printf "$3" | dd of="$1" bs=1 seek="$offset" conv=notrunc 2>dd.log
}
digit=$(printf %.1s "$id")
other=0
[ "$digit" = 0 ] && other=1
flip id.h5 "$id" "$other"
"$KVTRACE" verify id.h5 >out 2>err
[ $? -eq 1 ] || fail "another content id: not exit 1: $(cat err)"
[ "$(wc -l <err)" -eq 1 ] || fail "another content id: not one line on stderr: $(cat err)"
grep -q '^kvtrace: id.h5: content id: ' err || fail "another content id: not named: $(cat err)"
grep -q '^FAILED: 1 of 7 checks' out || fail "another content id: $(tail -n 1 out)"
grep -q 'checksums  *OK' out || fail "another content id: the checksums are called bad: $(cat out)"
"$KVTRACE" verify --format json id.h5 >out 2>err
[ $? -eq 1 ] || fail "json of a failed check: not exit 1"
grep -q '"ok":.*false' out || fail "json of a failed check: no ok = false"
"$KVTRACE" info id.h5 >out 2>err || fail "info needs a sound content id"

# A byte in the middle of the file, most of which is operands.
size=$(wc -c <"$sample")
n_found=0
for part in 2 3 4 5 6 7; do
    cp "$sample" middle.h5
    chmod u+w middle.h5
    printf '\125' | dd of=middle.h5 bs=1 seek=$((size * part / 9 + 1)) conv=notrunc 2>dd.log
    cmp -s "$sample" middle.h5 && continue
    "$KVTRACE" verify middle.h5 >out 2>err
    case $? in
    1 | 3) n_found=$((n_found + 1)) ;;
    0) ;;                                   # between two datasets
    *) fail "a changed byte at $part/9: exit $?: $(cat err)" ;;
    esac
done
[ $n_found -ge 2 ] || fail "only $n_found of 6 changed bytes were found"

# ------------------------------------------------------------------ what is no trace
# refused FILE WORD
refused() {
    for verb in info verify; do
        "$KVTRACE" $verb "$1" >out 2>err </dev/null
        rc=$?
        [ $rc -eq 3 ] || fail "$verb $1: exit $rc, expected 3: $(cat err)"
        [ "$(wc -l <err)" -eq 1 ] || fail "$verb $1: not one line on stderr: $(cat err)"
        [ ! -s out ] || fail "$verb $1: prints on stdout"
        grep -qF -e "$2" err || fail "$verb $1: does not say '$2': $(cat err)"
    done
}
mkdir folder.h5
: >empty.h5
mkfifo pipe.h5
printf 'hello\n' >text.h5
head -c 20000 "$sample" >cut.h5
ln -s nowhere.h5 dangling.h5
refused missing.h5 'No such file'
refused dangling.h5 'No such file'
refused folder.h5 folder
refused empty.h5 empty
refused pipe.h5 'regular file'
refused /dev/null 'regular file'
refused text.h5 'not an HDF5 file'
refused cut.h5 cut.h5
cp "$sample" locked.h5
chmod 000 locked.h5
[ -r locked.h5 ] || refused locked.h5 'Permission denied'
chmod 444 locked.h5
"$KVTRACE" verify locked.h5 >out 2>err || fail "a read-only file: $(cat err)"
chmod 644 locked.h5
bad=$(printf 'bad\033[2Jname.h5')
cp text.h5 "$bad"
refused "$bad" 'bad\u{1B}[2Jname.h5'

# ------------------------------------------------------------------ unfinished and other files
"$KVTRACE" synth -o part.h5 --layers 2 --heads 2 --kv-heads 1 --head-dim 8 --prompt 64 --decode 8 --window 16 \
    >out 2>err || fail "synth: $(cat err)"
before=$(cksum <part.h5)
"$KVTRACE" verify part.h5 >out 2>err || fail "verify of a synthetic trace: $(cat err)"
[ "$(cksum <part.h5)" = "$before" ] || fail "verify changed the file"

printf 'SQLite format 3\000' >not.db
head -c 100 /dev/zero >>not.db
"$KVTRACE" info not.db >out 2>err
[ $? -eq 3 ] || fail "a broken database: not exit 3: $(cat err)"
"$KVTRACE" verify not.db >out 2>err
[ $? -eq 3 ] || fail "verify of a database: not exit 3"
grep -q 'SQLite database' err || fail "verify of a database: does not say so: $(cat err)"
"$KVTRACE" replay part.h5 -p streaming -b 0.5 -o r.db >out 2>err || fail "replay: $(cat err)"
"$KVTRACE" info r.db >out 2>err || fail "info of a database: exit $?: $(cat err)"
grep -qi 'open.loop' out || fail "info of a database: no summary: $(head -n 3 out)"

[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
