#!/bin/sh
# Goal: `kvtrace synth` writes traces that verify, the same content for the same seed, and
# refuses what it cannot do without leaving anything behind.
set -u
fails=0
fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }

rm -rf ./*
small="--layers 2 --heads 4 --kv-heads 2 --head-dim 16 --prompt 80 --decode 24 --window 32"

# synth FILE OPTION...: must succeed and verify; prints the content id.
synth() {
    file=$1
    shift
    "$KVTRACE" synth -o "$file" $small "$@" >out 2>err || fail "synth $*: exit $?: $(cat err)"
    [ -s err ] && fail "synth $*: wrote to stderr: $(cat err)"
    [ -e "$file.part" ] && fail "synth $*: left $file.part"
    "$KVTRACE" verify "$file" >verified 2>&1 || fail "verify after synth $*: $(cat verified)"
    sed -n 's/^content id: //p' out
}

first=$(synth a.h5 --seed 7)
[ "${#first}" -eq 64 ] || fail "no content id in the output: $(cat out)"
grep -q 'late bloomers: token' out || fail "does not say what was planted: $(cat out)"
[ "$(synth b.h5 --seed 7)" = "$first" ] || fail "the same seed gave another content id"
[ "$(synth c.h5 --seed 8)" != "$first" ] || fail "another seed gave the same content id"
[ "$(synth d.h5 --seed 7 --text)" = "$first" ] || fail "text entered the content id"
for type in f32 f16; do
    [ "$(synth "$type.h5" --seed 7 --dtype "$type")" != "$first" ] || fail "$type gave the content id of bf16"
done
[ "$(wc -c <d.h5)" -le 100000 ] || fail "a tiny trace has $(wc -c <d.h5) bytes"

# refuse CODE WORD OPTION...: one line on stderr with the word, nothing written.
refuse() {
    code=$1 word=$2
    shift 2
    "$KVTRACE" synth "$@" >out 2>err
    rc=$?
    [ $rc -eq "$code" ] || fail "synth $*: exit $rc, expected $code: $(cat err)"
    grep -q -e "$word" err || fail "synth $*: does not say '$word': $(cat err)"
    [ -s out ] && fail "synth $*: wrote to stdout: $(cat out)"
    ls no*.h5* >/dev/null 2>&1 && fail "synth $*: left $(ls no*.h5*)"
}
refuse 2 '-o FILE'
refuse 2 'layers' -o no.h5 --layers 0
refuse 2 'layers' -o no.h5 --layers 1025
refuse 2 'dtype' -o no.h5 --dtype f64
refuse 2 'head dimension 14' -o no.h5 --head-dim 14
refuse 2 '8 query heads and 3 KV heads' -o no.h5 --kv-heads 3
refuse 2 'prompt' -o no.h5 --prompt 4194304 --decode 1
refuse 2 'sampling' -o no.h5 --sampling
refuse 4 'No such file' -o nowhere/no.h5
refuse 4 'Not a directory' -o a.h5/no.h5

# An old file stays, unless --force; a folder stays in any case.
before=$(cksum <a.h5)
refuse 2 'a.h5.*--force' -o a.h5
[ "$(cksum <a.h5)" = "$before" ] || fail "synth without --force changed a.h5"
"$KVTRACE" synth -o a.h5 $small --seed 9 --force >out 2>err || fail "--force: $(cat err)"
[ "$(cksum <a.h5)" != "$before" ] || fail "synth --force did not replace a.h5"
mkdir folder.h5
refuse 4 'folder.h5' -o folder.h5 --force
[ -d folder.h5 ] && [ ! -e folder.h5.part ] || fail "the folder is gone, or a .part beside it is left"

# A full disk (no file may grow beyond 20 kB): exit 4, the reason, nothing left.
(trap '' XFSZ; ulimit -f 40; "$KVTRACE" synth -o no.h5 $small 2>err; echo $? >rc)
[ "$(cat rc)" = 4 ] || fail "full disk: exit $(cat rc): $(cat err)"
grep -q 'no.h5.*File too large' err || fail "full disk: $(cat err)"
ls no.h5* >/dev/null 2>&1 && fail "full disk: left $(ls no.h5*)"

# h5py, where there is one, reads every dataset and every attribute.
python=
for p in /usr/bin/python3 python3; do
    [ -z "$python" ] && "$p" -c 'import h5py' 2>/dev/null && python=$p
done
if [ -n "$python" ]; then
    "$python" - d.h5 <<'PYTHON' || fail "h5py cannot read the trace"
import sys, h5py
f = h5py.File(sys.argv[1], "r")
seen = []
def visit(name, obj):
    for a in obj.attrs: obj.attrs[a]
    if isinstance(obj, h5py.Dataset):
        assert obj[()].shape == obj.shape
        if not name.startswith("checksums/"): seen.append("/" + name)
f.visititems(visit)
assert sorted(seen) == [p.decode() for p in f["checksums/path"]], seen
assert f.attrs["complete"] == 1 and f.attrs["format"] == b"kvtrace"
assert bytes(f["tokens/text_bytes"][()]).decode().split(), "no text"
PYTHON
fi
exit $((fails > 0))
