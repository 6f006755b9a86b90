#!/bin/sh
# Goal: `replay --dry-run` says what a replay would take, writes nothing at all, counts only
# what the database does not have yet, and refuses what the replay refuses.
set -u
fails=0
fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }
rm -rf ./*
"$KVTRACE" synth -o a.h5 --prompt 200 --decode 30 >out 2>err || fail "synth: $(cat err)"
"$KVTRACE" synth -o b.h5 --prompt 300 --decode 20 --seed 2 >out 2>err || fail "synth: $(cat err)"

# dry OPTION...: exit 0; prints the five figures; the folder is as before.
dry() {
    ls | grep -v -e '^out$' -e '^err$' -e '^names$' >names
    "$KVTRACE" replay --dry-run "$@" >out 2>err
    rc=$?
    [ $rc -eq 0 ] || fail "$*: exit $rc: $(cat err)"
    for word in cells rows database memory time; do
        grep -q "^  $word  *[0-9]" out || fail "$*: no $word in $(cat out)"
    done
    ls | grep -v -e '^out$' -e '^err$' -e '^names$' | diff names - >/dev/null || fail "$*: changed the folder: $(ls)"
}
cells() { sed -n "/^$1/,/^  cells/s/^  cells  *//p" out; }

dry a.h5 -p snapkv,tova -b 0.2,0.5
grep -q 'results would go to a.db' out || fail "does not name the database: $(cat out)"
n=$(cells a.h5)
"$KVTRACE" replay -q a.h5 -p snapkv,tova -b 0.2,0.5 >out 2>err || fail "replay: $(cat err)"
sum=$(cksum <a.db)
dry a.h5 -p snapkv,tova -b 0.2,0.5
[ "$(cells a.h5)" = 0 ] || fail "counts cells that are there: $(cat out)"
dry a.h5 -p snapkv,tova -b 0.2,0.5,0.8
more=$(cells a.h5)
[ "$more" -gt 0 ] && [ $((2 * more)) -eq "$n" ] || fail "one budget more of two is $more cells, the two were $n"
[ "$sum" = "$(cksum <a.db)" ] || fail "the database was changed"
dry a.h5 b.h5 -p snapkv -b 0.2 -j 3 -o both.db
grep -q '^all traces' out || fail "no sum of two traces: $(cat out)"
[ $(($(cells a.h5) + $(cells b.h5))) -eq "$(cells 'all traces')" ] || fail "the sum is not the sum: $(cat out)"

# refuse CODE WORD OPTION...
refuse() {
    code=$1 word=$2
    shift 2
    "$KVTRACE" replay --dry-run "$@" >out 2>err
    rc=$?
    [ $rc -eq "$code" ] || fail "$*: exit $rc, expected $code: $(cat err)"
    grep -q -e "$word" err || fail "$*: does not say '$word': $(cat err)"
}
refuse 3 'No such file' no.h5
refuse 2 'no policy .nonsense' a.h5 -p nonsense
echo text >text.db
"$KVTRACE" replay --dry-run a.h5 -o text.db >out 2>err
[ $? -ne 0 ] && grep -q 'text.db' err || fail "a file that is no database: $(cat err)"

[ $fails -eq 0 ]
