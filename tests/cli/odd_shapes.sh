#!/bin/sh
# Replays of traces with unusual shapes: layers that differ in heads, layers that evict
# nothing in between, learned sinks, prompts of one token, one step, no window. Goal: every
# cell is done or its policy is named before any work; nothing crashes.
set -u
fail() { echo "FAILED: $*"; exit 1; }
py=/usr/bin/python3
export PYTHONDONTWRITEBYTECODE=1
"$py" -c 'import h5py, numpy' 2>/dev/null || { echo "skipped: $py lacks h5py or numpy"; exit 77; }

"$py" - "$KVT_SOURCE_DIR/tests/python" <<'PY' || fail "traces"
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import trace_builder as tb

rng = np.random.RandomState(3)
tb.m = lambda x: np.round(rng.randn(*np.shape(x)) * 8) / 8          # random operands, exact in bf16

def full(heads, kv_heads, sinks=0, dk=4, dv=4):
    return dict(attn="full", H=heads, Hkv=kv_heads, dk=dk, dv=dv, scale=.5, softcap=0., window=-1, sinks=sinks, kind="f32")

def trace(name, n, g, w, layers):
    tb.N, tb.G, tb.W, tb.T, tb.R, tb.LAYERS = n, g, w, n + g, w + g, layers
    tb.make(name, optional=False)

sliding = dict(full(4, 2), attn="sliding", window=4)
trace("kv_heads.h5", 200, 10, 200, [full(4, 2), sliding, full(4, 4)])
trace("groups.h5", 40, 20, 40, [full(4, 2), full(4, 1), full(4, 4)])
trace("mixed.h5", 40, 20, 40, [sliding, full(4, 2), dict(attn="none"), full(6, 2), full(3, 1, 1, 4, 6), full(4, 4)])
trace("sinks.h5", 40, 20, 40, [full(4, 2, 1), full(4, 2, 1)])
trace("one_layer.h5", 40, 20, 40, [full(3, 3)])
trace("one_token.h5", 1, 5, 1, [full(4, 2), full(4, 2)])
trace("one_step.h5", 40, 1, 40, [full(4, 2), full(4, 2)])
trace("no_window.h5", 40, 20, 0, [full(4, 2), full(4, 2)])
PY

query() { sqlite3 "$1" "$2" 2>/dev/null || python3 -c 'import sqlite3,sys
for r in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print("|".join(map(str, r)))' "$1" "$2"; }

forms=snapkv:window=4,adakv_snap:impl=wrapper,window=4,critical_adakv:window=4,defensivekv:window=4,layer_defensivekv:window=4
forms=$forms,cake:window=4,h2o,tova,knorm,keydiff,lagkv:lag=8,observed,expected,roco:stride=3,recency:stride=3,random:impl=easykv
for t in kv_heads groups mixed sinks one_layer one_token one_step no_window; do
    "$KVTRACE" replay $t.h5 -p $forms -b 0.2,0.6,1 -o $t.db -q --kept $t.jsonl 2>$t.err || fail "$t: exit $?: $(tail -n 1 $t.err)"
    [ "$(query $t.db "SELECT count(*) FROM cell WHERE status <> 'done'")" = 0 ] || fail "$t: cells that are not done"
    [ -z "$(query $t.db 'SELECT * FROM v_check')" ] || fail "$t: $(query $t.db 'SELECT * FROM v_check')"
    [ "$(grep -vc ': skipped: ' $t.err)" = 0 ] || fail "$t: $(grep -v ': skipped: ' $t.err)"
done
grep -q 'skipped: cake:window=4 at budget 0.2: shares its budget among layers, and layers 0 and 2 have 2 and 4 caches' kv_heads.err ||
    fail "cake is not named where layers have different caches"
"$KVTRACE" replay groups.h5 -p roco:stride=3,caches=query -b 1 -o q.db -q 2>q.err && fail "roco over layers that differ runs"
grep -q 'different heads' q.err || fail "roco over layers that differ: $(cat q.err)"
echo "odd_shapes: passed"
