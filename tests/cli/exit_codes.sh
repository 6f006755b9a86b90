#!/bin/sh
# Goal: a mistake on the command line is exit 2, an input that cannot be used is exit 3;
# either way nothing on stdout, one line on stderr that names the word at fault, and
# nothing written. Help is exit 0, on stdout, within 80 columns.
set -u
trace=$KVT_SOURCE_DIR/traces/samples/tiny_gqa.h5
fails=0

fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }

# expect CODE WORD ARGUMENT...
expect() {
    want=$1 word=$2
    shift 2
    "$KVTRACE" "$@" >out 2>err </dev/null
    rc=$?
    lines=$(wc -l <err)
    [ $rc -eq "$want" ] || fail "kvtrace $*: exit $rc, expected $want: $(head -n 3 err)"
    [ ! -s out ] || fail "kvtrace $*: printed on stdout: $(head -n 3 out)"
    [ "$lines" -eq 1 ] || fail "kvtrace $*: $lines lines on stderr: $(head -n 3 err)"
    grep -q '^kvtrace: ' err || fail "kvtrace $*: does not begin with 'kvtrace: ': $(head -n 1 err)"
    grep -qF -e "$word" err || fail "kvtrace $*: does not name '$word': $(head -n 1 err)"
}

[ -f "$trace" ] || fail "$trace is missing"
rm -rf scratch
mkdir scratch
: >scratch/empty.h5
printf 'not a trace\n' >scratch/text.h5
head -c 4096 "$trace" >scratch/cut.h5
mkdir scratch/folder.h5
ls -A scratch >before

# words that nobody knows
expect 2 'no subcommand'
expect 2 frobnicate frobnicate
expect 2 "'replay'" replya "$trace"
expect 2 --frobnicate --frobnicate
expect 2 frobnicate help frobnicate
verbs=$("$KVTRACE" help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
for verb in info verify synth replay report selftest; do
    case " $(echo $verbs) " in *" $verb "*) ;; *) fail "help does not list $verb" ;; esac
done
for verb in $verbs; do
    expect 2 --frobnicate "$verb" --frobnicate
    expect 2 "'-Z'" "$verb" -Z
done

# operands
for verb in info verify replay report; do
    expect 2 operand "$verb"
done
expect 2 scratch/two.db report scratch/one.db scratch/two.db

# policies and their parameters
out=scratch/r.db
expect 2 frobnicate replay "$trace" -o $out -p frobnicate
expect 2 frobnicate replay "$trace" -o $out -p snapkv,frobnicate
expect 2 "snapkv" replay "$trace" -o $out -p snapvk
expect 2 windw replay "$trace" -o $out -p snapkv:windw=3
expect 2 window replay "$trace" -o $out -p snapkv:window=abc
expect 2 window replay "$trace" -o $out -p snapkv:window=-1
expect 2 window replay "$trace" -o $out -p snapkv:window=99999999999999999999
expect 2 window replay "$trace" -o $out -p snapkv:window=
expect 2 window replay "$trace" -o $out -p snapkv:window
expect 2 semantics replay "$trace" -o $out -p snapkv:semantics=rumour
expect 2 empty replay "$trace" -o $out -p snapkv,,h2o
expect 2 empty replay "$trace" -o $out -p ''

# budgets
for budget in 0 0.0 -0.2 1.5 abc 0.1x nan inf 1e 0x1 0t -5t t 1.5t 99999999999999999999t 20%; do
    expect 2 "$budget" replay "$trace" -o $out -p h2o -b "$budget"
    expect 2 "$budget" replay "$trace" -o $out -p h2o -b "0.2,$budget"
done
expect 2 empty replay "$trace" -o $out -b 0.2,,0.4

# numbers
for jobs in 0 -1 x 1.5 '' 99999999999 99999999999999999999; do
    expect 2 "'$jobs'" replay "$trace" -o $out -j "$jobs"
done
expect 2 --jobs replay "$trace" -o $out -j
expect 2 --output replay "$trace" -o ''
expect 2 --force report $out --force=yes

# inputs that cannot be used
for verb in info verify replay report; do
    for input in absent.h5 empty.h5 text.h5 folder.h5; do
        expect 3 $input $verb scratch/$input
    done
done
expect 3 cut.h5 replay scratch/cut.h5 -o $out
expect 3 cut.h5 replay "$trace" scratch/cut.h5 -o $out

ls -A scratch | cmp -s before - || fail "something was written: $(ls -A scratch | tr '\n' ' ')"

# help
for verb in $verbs; do
    "$KVTRACE" "$verb" --help >help1 2>err || fail "$verb --help: exit $?"
    "$KVTRACE" help "$verb" >help2 2>>err || fail "help $verb: exit $?"
    [ ! -s err ] || fail "$verb --help: prints on stderr: $(head -n 3 err)"
    cmp -s help1 help2 || fail "help $verb differs from $verb --help"
    head -n 1 help1 | grep -q "^Usage: kvtrace $verb " || fail "$verb --help: no usage line"
    long=$(awk 'length > 80 && !/^  kvtrace /' help1)             # examples may be longer
    [ -z "$long" ] || fail "$verb --help: more than 80 columns: $long"
done
"$KVTRACE" --version >out 2>err || fail "--version: exit $?"
grep -q '^kvtrace [0-9]*\.[0-9]*\.[0-9]* (commit ' out || fail "--version: $(cat out)"

# results that do not reach stdout
if [ -w /dev/full ]; then
    "$KVTRACE" info "$trace" >/dev/full 2>err
    rc=$?
    [ $rc -eq 4 ] || fail "info >/dev/full: exit $rc, expected 4"
fi

[ $fails -eq 0 ] || { echo "$fails failures"; exit 1; }
