#!/bin/sh
# Goal: a program that cannot write its result says so in one line that names the file,
# exits 4 (2 or 3 where it may not write), and leaves neither a file under the final name
# nor a temporary one; what was there before is untouched. A full disk under a results
# database costs nothing but time: the same command completes it later.
set -u
trace=$KVT_SOURCE_DIR/traces/samples/tiny_gqa.h5
options='-q -p streaming,h2o -b 0.1,0.2,0.4'
fails=0

fail() { printf 'FAILED: %s\n' "$*"; fails=$((fails + 1)); }

# refuse CODE FILE ARGUMENT...: exit CODE, one line on stderr that names FILE.
refuse() {
    want=$1 file=$2
    shift 2
    "$KVTRACE" "$@" >out 2>err </dev/null
    rc=$?
    [ $rc -eq "$want" ] || fail "kvtrace $*: exit $rc, expected $want: $(head -n 3 err)"
    [ "$(wc -l <err)" -eq 1 ] || fail "kvtrace $*: not one line on stderr: $(head -n 3 err)"
    grep -qF -e "$file" err || fail "kvtrace $*: does not name $file: $(head -n 1 err)"
}

# holds FOLDER NAME...: exactly these, in the order of ls.
holds() {
    folder=$1
    shift
    found=$(cd "$folder" && echo * .[!.]*)
    [ "$found" = "$* .[!.]*" ] || fail "$folder holds '$found', expected '$*'"
}

# Every finished cell and the hash of its results.
cells() {
    python3 - "$1" <<'END'
import sqlite3, sys
db = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
for row in db.execute("SELECT key_sha256, status, result_sha256 FROM cell ORDER BY 1"):
    print(*row)
END
}

whole() {
    rm -rf work
    mkdir work && cd work || exit 1
    "$KVTRACE" replay "$trace" $options -o whole.db >out 2>&1 || fail "replay: $(cat out)"
    cells whole.db >whole.cells
    [ "$(grep -c ' done ' whole.cells)" -gt 10 ] || fail "only these cells: $(cat whole.cells)"
}

# Not even root makes a file in /proc.
unwritable() {
    proc=
    [ ! -e /proc/self ] || proc=/proc
    for folder in absent whole.db /dev/null $proc; do
        refuse 4 $folder/x.db replay "$trace" $options -o $folder/x.db
        refuse 4 $folder/x.html report whole.db -o $folder/x.html
        refuse 4 $folder/x.h5 synth -o $folder/x.h5
        refuse 4 $folder/x.jsonl replay "$trace" $options -o new.db --kept $folder/x.jsonl
    done
    rm -f new.db
    holds . err out whole.cells whole.db
}

# Without the powers of root a folder can be read-only.
read_only() {
    mkdir locked
    chmod 555 locked
    if ! (: >locked/probe) 2>/dev/null; then
        refuse 4 locked/x.db replay "$trace" $options -o locked/x.db
        refuse 4 locked/x.html report whole.db -o locked/x.html
        refuse 4 locked/x.h5 synth -o locked/x.h5
    fi
    rm -f locked/probe
    [ -z "$(ls -A locked)" ] || fail "locked/ holds $(ls -A locked)"
    chmod 755 locked
    rmdir locked
}

existing() {
    echo precious >mine
    cp mine saved
    refuse 2 mine report whole.db -o mine
    refuse 2 whole.db report whole.db -o whole.db --force
    refuse 2 mine synth -o mine
    refuse 3 mine replay "$trace" $options -o mine
    cmp -s mine saved || fail "a file that was there is changed"
    cp "$trace" own.h5
    refuse 3 own.h5 replay own.h5 $options -o own.h5
    cmp -s own.h5 "$trace" || fail "the trace is overwritten by its results"
    cells whole.db | cmp -s - whole.cells || fail "the database is changed by its report"
    "$KVTRACE" report whole.db -o mine --force >out 2>&1 || fail "--force: $(cat out)"
    grep -q '</html>' mine || fail "--force does not replace the file"
    holds . err mine out own.h5 saved whole.cells whole.db
}

# leave KIB: a fresh disk/ with so much room; ballast takes the rest.
leave() {
    mount -t tmpfs -o size=16m tmpfs disk || exit 1
    head -c $((16384 - $1))k /dev/zero >disk/ballast
}

on_full_disk() {
    mkdir disk
    for kib in 8 64 200 600 1200; do
        leave $kib
        refuse 4 disk/r.db replay "$trace" $options -o disk/r.db
        rm disk/ballast
        [ -e disk/r.db ] || [ -z "$(ls -A disk)" ] || fail "$kib KiB: without a database, but $(ls -A disk)"
        "$KVTRACE" replay "$trace" $options -o disk/r.db >out 2>&1 || fail "$kib KiB: second try: $(cat out)"
        cells disk/r.db | cmp -s - whole.cells || fail "$kib KiB: other results than without the trouble"
        holds disk r.db
        umount disk
    done
    for kib in 0 4 16 64; do
        leave $kib
        refuse 4 disk/r.html report whole.db -o disk/r.html
        refuse 4 disk/t.h5 synth -o disk/t.h5
        [ $kib -gt 4 ] || refuse 4 disk/k.jsonl replay "$trace" $options -o whole.db --kept disk/k.jsonl
        holds disk ballast
        umount disk
    done
}

if [ "${1:-}" = full-disk ]; then           # inside a mount namespace of its own
    on_full_disk
else
    whole
    unwritable
    read_only
    existing
    # Root of a namespace may mount a small file system; where none is to be had, this
    # machine cannot be asked.
    for how in '-m' '-rm'; do
        if unshare $how mount -t tmpfs tmpfs "$PWD" 2>/dev/null; then
            unshare $how sh "$0" full-disk || fails=$((fails + 1))
            rm -rf disk
            break
        fi
    done
fi
[ $fails -eq 0 ] || { echo "$fails failures"; exit 1; }
