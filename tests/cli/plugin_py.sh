#!/bin/sh
# Goal: a policy in Python keeps what the same policy built in keeps, whatever it prints;
# every way in which a script can be wrong is one clear line and the right exit code.
# Method: the example at decay=1 against snapkv:kernel=1, TOVA written in Python against
# tova; broken scripts of a few lines each.
set -u
fail() { echo "FAILED: $*"; exit 1; }
python3 -c 'import numpy' 2>/dev/null || exit 77
rm -rf ./*
example=$KVT_SOURCE_DIR/policies/examples/mine.py
query() { python3 -c 'import sqlite3,sys
for r in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print("|".join(map(str,r)))' "$1" "$2"; }
hashes() { query "$1" "SELECT key_sha256, result_sha256 FROM cell ORDER BY 1"; }
# kept FILE SPEC: what SPEC kept, without its name
kept() { grep -F "{\"policy\":\"$2\"," "$1" | sed 's/^{"policy":"[^"]*",//'; }
same() { kept "$1" "$2" >k1; kept "$1" "$3" >k2; [ -s k1 ] && cmp -s k1 k2 || fail "$2 keeps other tokens than $3"; }
"$KVTRACE" synth -o t.h5 --layers 2 --heads 4 --kv-heads 2 --prompt 120 --decode 24 >/dev/null || fail "synth"

# one-shot: the example
"$KVTRACE" replay t.h5 --policy-py "$example" -p mine_py:decay=1,mine_py:decay=0.5,snapkv:kernel=1 -b 0.1,0.5 -o a.db --kept a.jsonl -q -j 1 ||
    fail "the example does not run"
same a.jsonl mine_py:decay=1 snapkv:kernel=1
[ "$(wc -l <k1)" -eq 8 ] || fail "$(wc -l <k1) kept sets, expected 2 layers x 2 caches x 2 budgets"
kept a.jsonl mine_py:decay=0.5 | cmp -s - k2 && fail "decay changes nothing"

# the examples of the manual
sed -n '/^```python$/,/^```$/p' "$KVT_SOURCE_DIR/policies/PLUGINS.md" | awk '/^```python$/ { n++ } !/^```/ { print >("doc" n ".py") }'
cmp -s doc1.py "$example" || fail "PLUGINS.md: the first example is not examples/mine.py"
"$KVTRACE" replay t.h5 --policy-py doc2.py -p fade:decay=0,fade -b 0.2 -o f.db --kept f.jsonl -q || fail "PLUGINS.md: the second example"
[ "$(kept f.jsonl fade | grep -c '"step":0')" -eq 4 ] || fail "PLUGINS.md: the second example keeps nothing: $(head -c 300 f.jsonl)"

# online: TOVA; it prints, which must not get into the way
cat >tova_py.py <<'PY'
import os
import numpy as np
id, title, share_over, window, needs = "tova_py", "TOVA in Python", "layer", 1, "win"
print("printed at the top")

def begin(lane, prompt, ev, col):
    assert prompt.win.shape == (lane.job.n_q_heads, 1, lane.job.n) and lane.cache is None and ev.prob is None
    col[0] = prompt.win[:, 0, ev.pos].mean(axis=0, dtype=np.float64)

def observe(lane, ev, col):
    assert ev.query == ev.pos[-1] and len(ev.prob) == ev.n == col.shape[1]
    os.write(1, b"written in observe\n")
    col[0] = ev.prob

def worth(lane, ev, col):
    assert ev.n > lane.capacity
    return col[0]
PY
"$KVTRACE" replay t.h5 --policy-py tova_py.py -p tova_py,tova -b 0.1,0.5 -o o.db --kept o.jsonl --kept-every 4 -q -j 2 >out 2>err || fail "TOVA: $(tail -n 1 err)"
[ ! -s out ] || fail "what a policy prints reaches stdout"
grep -q 'printed at the top' err && grep -q 'written in observe' err || fail "what a policy prints is lost"
same o.jsonl tova_py tova
[ "$(wc -l <k1)" -eq 56 ] || fail "$(wc -l <k1) kept sets, expected 2 layers x 2 caches x 2 budgets x 7 steps"

# all data there is, in the promised shapes; setup(), choices, counts per cache
cat >data.py <<'PY'
import numpy as np
id, params, needs, window = "data", dict(kind="all|half", width=3, sharp=(0.5, 0, 1)), "key val nu col_sum rope", 4
rank_over = "layer"

def setup(job, out):
    assert out.rank_over == "layer" and out.capacity >= 0 and job.keep_layer >= job.keep_cache > 0
    out.rank_over = "cache"
    if job.keep_cache < 3:
        out.refuse = "three tokens at least"

def score(job, prompt):
    kv, n, g = job.n_kv_heads, job.n, job.n_new
    assert prompt.key.shape == (kv, n, job.head_dim) and prompt.val.shape == (kv, n, job.value_dim)
    assert prompt.nu.shape == prompt.col_sum.shape == (job.n_q_heads, n) and prompt.win.shape == (job.n_q_heads, 4, n)
    assert abs(float(prompt.win[0, 3].sum()) - 1) < 1e-4 and prompt.key.dtype == prompt.win.dtype == np.float32
    assert not hasattr(prompt, "rope") or prompt.rope.rotary.shape == (n + g,) and prompt.rope.inv_freq.shape == (prompt.rope.dims // 2,)
    assert job.param.kind in ("all", "half") and job.param.width == 3 and job.param.sharp == 0.5 and job.rule == "share"
    count = [job.keep_cache] * job.n_caches if job.param.kind == "all" else [job.keep_cache // 2] * job.n_caches
    return np.broadcast_to(np.arange(n), (job.n_caches, n)), count
PY
"$KVTRACE" replay t.h5 --policy-py data.py -p data,data:kind=half,streaming:sinks=0 -b 0.5,2t -o d.db --kept d.jsonl -q 2>err || fail "data.py: $(cat err)"
grep -q 'data.* at budget 2t: three tokens at least; the smallest budget that works here is 3t' err || fail "a refusal of setup(): $(cat err)"
kept d.jsonl streaming:sinks=0 | grep -F '"budget":"0.5"' >k2
kept d.jsonl data | cmp -s - k2 || fail "the last half is not what streaming without sinks keeps"
[ "$(kept d.jsonl data:kind=half | head -n 1 | tr , '\n' | grep -c '[0-9]]*}*$')" -lt "$(head -n 1 k2 | tr , '\n' | grep -c '[0-9]]*}*$')" ] || fail "counts from score() are ignored"

# threads, resume, no -p for it; another text is another policy
hashes a.db >a.txt
"$KVTRACE" replay t.h5 --policy-py "$example" -p mine_py:decay=1,mine_py:decay=0.5,snapkv:kernel=1 -b 0.1 -o b.db -q -j 2 || fail "-j 2"
"$KVTRACE" replay t.h5 --policy-py "$example" -p mine_py:decay=1,mine_py:decay=0.5,snapkv:kernel=1 -b 0.1,0.5 -o b.db -q -j 2 || fail "resume"
hashes b.db | cmp -s - a.txt || fail "-j 2 and a resumed run give other results"
sed 's/0\.9/0.90/' "$example" >mine.py
"$KVTRACE" replay t.h5 --policy-py mine.py -p snapkv:kernel=1 -b 0.1 -o b.db --kept c.jsonl -q || fail "without -p for it"
[ "$(kept c.jsonl mine_py | wc -l)" -eq 4 ] || fail "a loaded policy is not added when no -p names it"
[ "$(query b.db "SELECT count(*) FROM policy_config WHERE canonical_json LIKE '%,\"plugin\":\"%'")" = 3 ] || fail "two texts share a configuration"

# expect CODE WORD ARGUMENT...: one line on stderr that holds WORD, nothing on stdout, no kept sets
expect() {
    want=$1 word=$2
    shift 2
    rm -f r.db r.jsonl
    "$KVTRACE" replay t.h5 -b 0.2 -o r.db --kept r.jsonl -q -j 2 "$@" >out 2>err </dev/null
    rc=$?
    [ $rc -eq "$want" ] || fail "$word: exit $rc, expected $want: $(cat err)"
    [ ! -s out ] || fail "$word: printed on stdout"
    [ "$(wc -l <err)" -eq 1 ] || fail "$word: not one line: $(cat err)"
    grep -q '^kvtrace: ' err && grep -qF -e "$word" err || fail "does not say '$word': $(cat err)"
    [ ! -f r.jsonl ] && [ ! -f r.jsonl.part ] || fail "$word: kept sets are left"
}
# script WORD: the script on stdin is refused when it is loaded
script() { cat >s.py; expect 3 "s.py: $1" --policy-py s.py; [ ! -f r.db ] || fail "$1: a database was made"; }
# running WORD: it is refused when it runs
running() { { echo 'import numpy as np'; cat; } >s.py; expect 3 "$1" --policy-py s.py -p s; }

( PATH=$PWD/nowhere; "$KVTRACE" replay t.h5 --policy-py "$example" -o r.db -q 2>err; [ $? -eq 4 ] ) || fail "no python3 on PATH: $(cat err)"
grep -q 'python3 is not on PATH' err || fail "no python3 on PATH: $(cat err)"
mkdir without && echo "raise ImportError('No module named numpy')" >without/numpy.py
PYTHONPATH=$PWD/without "$KVTRACE" replay t.h5 --policy-py "$example" -o r.db -q 2>err
[ $? -eq 4 ] && grep -q 'mine.py: numpy cannot be imported by .*No module named numpy' err || fail "no numpy: $(cat err)"

expect 3 'absent.py: No such file' --policy-py absent.py
expect 3 "policy id 'mine_py' is taken" --policy-py "$example" --policy-py "$example"
expect 2 "decay='2': expected a number from 0 to 1" --policy-py "$example" -p mine_py:decay=2
script 'SyntaxError: ' <<'PY'
id = "s"
def score(job, prompt) return 1
PY
grep -q 's.py:2)' err || fail "a syntax error without its line: $(cat err)"
script "ModuleNotFoundError: No module named 'nothing_of_this_name' (s.py:2)" <<'PY'
id = "s"
import nothing_of_this_name
PY
script 'SystemExit: 5 (s.py:1)' <<'PY'
raise SystemExit(5)
PY
script 'has neither score() nor worth()' <<'PY'
id = "s"
PY
script 'has no id' <<'PY'
def score(job, prompt): pass
PY
script "policy id 'S s'" <<'PY'
id = "S s"
def score(job, prompt): pass
PY
script "policy id 'snapkv' is taken by SnapKV" <<'PY'
id = "snapkv"
def score(job, prompt): pass
PY
script 'needs: no such data: keys; there are: win,' <<'PY'
id, needs = "s", ["keys"]
def score(job, prompt): pass
PY
script "needs win, but says no window" <<'PY'
id, needs = "s", "win"
def score(job, prompt): pass
PY
script "params: a = [1]: expected a number" <<'PY'
id, params = "s", dict(a=[1])
def score(job, prompt): pass
PY
script "params: 17 parameters, at most 16" <<'PY'
id, params = "s", {"p%d" % i: i for i in range(17)}
def score(job, prompt): pass
PY
script "policy s: 65 columns per slot, at most 64" <<'PY'
id, cols = "s", 65
def worth(lane, ev, col): pass
PY
script "policy s reads the future" <<'PY'
id, needs = "s", "future_sum"
def score(job, prompt): pass
PY
script 'Python ended with exit code 7 while it loaded the policy' <<'PY'
import os
os._exit(7)
PY
echo 'import time; time.sleep(1000)' >s.py
KVTRACE_PY_START_S=2 expect 3 's.py: Python has not loaded it within 2 s' --policy-py s.py

running 'policy s: score(): ZeroDivisionError: division by zero (s.py:4)' <<'PY'
id = "s"
def score(job, prompt):
    return 1 / (job.n - job.n)
PY
running 'policy s: score() gave shape (2, 119), expected (n_caches, n) = (2, 120)' <<'PY'
id = "s"
def score(job, prompt): return np.zeros((job.n_caches, job.n - 1))
PY
running 'policy s: score() gave dtype complex128, expected float32 or float64' <<'PY'
id = "s"
def score(job, prompt): return np.zeros((job.n_caches, job.n), complex)
PY
running 'policy s: score() gave dtype object' <<'PY'
id = "s"
def score(job, prompt): pass
PY
running 'policy s: score() gave NaN for 2 of 240, first for cache 1, token 7' <<'PY'
id = "s"
def score(job, prompt):
    x = np.zeros((job.n_caches, job.n))
    x[1, 7:9] = np.nan
    return x
PY
running "score(): AttributeError: 'types.SimpleNamespace' object has no attribute 'key' (s.py:3)" <<'PY'
id = "s"
def score(job, prompt): return prompt.key
PY
running 'score(): ValueError: assignment destination is read-only (s.py:4)' <<'PY'
id, window = "s", 4
def score(job, prompt):
    prompt.win[0] = 0
PY
running 'policy s: Python ended with exit code 9 in score()' <<'PY'
import os
id = "s"
def score(job, prompt): os._exit(9)
PY
running 'policy s: Python was ended by signal 11 in score()' <<'PY'
import os
id = "s"
def score(job, prompt): os.kill(os.getpid(), 11)
PY
running 'policy s: worth() gave shape (1, ' <<'PY'
id = "s"
def worth(lane, ev, col): return col
PY
running 'policy s: worth() gave NaN for 1 of ' <<'PY'
id = "s"
def worth(lane, ev, col):
    x = np.zeros(ev.n)
    x[ev.pos == 5] = np.nan
    return x
PY
grep -q 'first for token 5' err || fail "NaN of worth() without its token: $(cat err)"
running 'policy s: observe(): KeyError: 3 (s.py:4)' <<'PY'
id = "s"
def worth(lane, ev, col): return col[0]
def observe(lane, ev, col): {}[3]
PY
{ echo 'id = "s"'; echo 'def setup(job, out): out.widow = 3'; echo 'def score(job, prompt): pass'; } >s.py
"$KVTRACE" replay t.h5 --policy-py s.py -p s -b 0.2 -o r.db -q >out 2>err
[ $? -eq 2 ] && grep -q 's at budget 0.2: setup() set out.widow: no such field' err || fail "setup: $(cat err)"

# a policy that computes for ever: Ctrl-C ends it, and no process is left
echo 'import os
id = "s"
open("pids", "a").write("%d " % os.getpid())
def score(job, prompt):
    while True: pass' >s.py
"$KVTRACE" replay t.h5 --policy-py s.py -p s -b 0.2 -o r.db -q -j 1 2>err &
pid=$!
i=0
while [ ! -s pids ] && [ $i -lt 60 ]; do sleep 0.5; i=$((i + 1)); done
sleep 1
kill -INT $pid
wait $pid
[ $? -eq 130 ] || fail "interrupted: not exit 130: $(cat err)"
alive() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null; }
for p in $(cat pids); do
    i=0
    while alive "$p" && [ $i -lt 20 ]; do sleep 0.5; i=$((i + 1)); done
    alive "$p" && fail "Python process $p is left"
done
echo "plugin_py: example and TOVA equal the built-in ones; every error has its line"
