"""The Python side of kvtrace replay --policy-py: runs one policy file for kvtrace.

kvtrace starts it as a child process and talks through one socket; whatever the policy
prints goes to stderr. A message is: operation, job, then named arrays, in native byte
order; sim/policy_py.c is the other side and lists the fields in the same order.
policies/PLUGINS.md says what a policy file may contain.
"""
import io
import os
import select
import signal
import struct
import sys
import threading
import traceback
import types

SETUP, SCORE, BEGIN, OBSERVE, WORTH = 1, 2, 3, 4, 5
JOB_INTS = "n_layers n_q_heads n_kv_heads n_caches head_dim value_dim n n_new rule in_tokens keep_cache keep_layer keep_model ties".split()
JOB_REALS = "scale share tokens".split()
SETUP_INTS = ("caps needs window caches rank_over share_over first nested keep_all overshoots flags prompt_stride prompt_first "
              "prompt_capacity quiet capacity prompt_wait exempt steps_from hide_col uneven").split()
CAPS = dict(oneshot=1, online=2, oracle=4, random=8)
NEEDS = dict(win=1, col_sum=2, nu=4, future_sum=8, q=16, val=32, rope=64)
ASIDE = dict(key=1, event_q=2, event_key=4)     # what is sent only when asked for
NAMES = dict(caches=["kv", "query"], rank_over=["cache", "layer", "model"], share_over=["cache", "layer"], first=["stays", "leaves"])
RULES, TIES = ["share", "reference"], ["low", "flat", "high", "seeded"]
ALL = 2 ** 32 - 1                               # lane.cache of a lane shared by a layer; setup: no limit


class Bad(Exception):
    """A message for the user that needs no traceback."""


class Script:
    """The policy file, executed once, and what it declares."""

    def __init__(self, path, text):
        self.path = path
        self.module = types.ModuleType(os.path.splitext(os.path.basename(path))[0])
        self.module.__file__ = path
        sys.modules[self.module.__name__] = self.module
        sys.path.insert(0, os.path.dirname(path))
        exec(compile(text, path, "exec"), self.module.__dict__)
        self.calls = {name: getattr(self.module, name) for name in ("setup", "score", "begin", "observe", "worth", "allot")
                      if hasattr(self.module, name)}
        for name, call in self.calls.items():
            if not callable(call):
                raise Bad("%s is not a function" % name)
        if "allot" in self.calls:
            raise Bad("allot() is not supported in Python: return counts from score(), or write the policy in C")
        if "score" not in self.calls and "worth" not in self.calls:
            raise Bad("has neither score() nor worth(): nothing says what a token is worth")
        if "worth" not in self.calls and ("begin" in self.calls or "observe" in self.calls):
            raise Bad("has begin() or observe(), but no worth()")
        self.params = [self.parameter(name, value) for name, value in self.get("params", {}, dict).items()]
        self.needs, self.aside = self.wanted()

    def get(self, name, default, kind):
        value = getattr(self.module, name, default)
        if not isinstance(value, kind) or isinstance(value, bool) and kind is int:
            raise Bad("%s = %r: expected %s" % (name, value, kind.__name__))
        return value

    def choice(self, name):
        value = getattr(self.module, name, NAMES[name][0])
        if value not in NAMES[name]:
            raise Bad("%s = %r: expected one of %s" % (name, value, ", ".join(NAMES[name])))
        return NAMES[name].index(value)

    def parameter(self, name, value):
        """name, default, min, max, choices, integer; from a number, (default, min, max) or "a|b|c"."""
        if isinstance(value, str):
            return name, 0, 0, 0, value, 1
        given = value if isinstance(value, tuple) else (value, 0, 4194304 if isinstance(value, int) else 1e30)
        if len(given) != 3 or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in given):
            raise Bad("params: %s = %r: expected a number, (default, min, max), or choices as 'a|b|c'" % (name, value))
        return (name, *given, "", int(isinstance(given[0], int)))

    def wanted(self):
        names = getattr(self.module, "needs", ())
        names = names.replace(",", " ").split() if isinstance(names, str) else list(names)
        unknown = [x for x in names if x not in NEEDS and x not in ASIDE]
        if unknown:
            raise Bad("needs: no such data: %s; there are: %s" % (unknown[0], ", ".join([*NEEDS, *ASIDE])))
        return sum(NEEDS[x] for x in set(names) if x in NEEDS), sum(ASIDE[x] for x in set(names) if x in ASIDE)

    def describe(self):
        """Every field of the descriptor as text, in the order that kvtrace reads."""
        if not isinstance(getattr(self.module, "id", None), str):
            raise Bad("has no id: write id = \"my_policy\"")
        window = getattr(self.module, "window", 0)
        if isinstance(window, str) and window not in [p[0] for p in self.params]:
            raise Bad("window = %r: no such parameter" % window)
        if not isinstance(window, (str, int)) or isinstance(window, int) and not 0 <= window <= 4194304:
            raise Bad("window = %r: expected a number of tokens, or the name of a parameter" % (window,))
        cols = self.get("cols", 1 if "worth" in self.calls else 0, int)
        if cols < 0:
            raise Bad("cols = %d: expected a number of columns" % cols)
        caps = sum(CAPS[k] for k, there in dict(
            oneshot="score" in self.calls, online="worth" in self.calls, oracle=self.get("oracle", False, bool),
            random=self.get("random", False, bool)).items() if there)
        needs = self.needs | NEEDS["win"] * bool(window)
        if needs & NEEDS["win"] and not window:
            raise Bad("needs win, but says no window: write window = 32, or the name of a parameter")
        fields = [self.module.id, self.get("title", self.module.id, str), self.get("cite", "", str), self.get("note", "", str),
                  caps, needs, self.aside, self.get("version", 1, int), self.choice("caches"), self.choice("rank_over"),
                  self.choice("share_over"), self.choice("first"), int(self.get("nested", False, bool)),
                  cols, window if isinstance(window, str) else "",
                  0 if isinstance(window, str) else window,
                  *(int(name in self.calls) for name in ("setup", "begin", "observe")), len(self.params)]
        for p in self.params:
            fields.extend(p)
        return b"".join(str(x).replace("\0", " ").encode("utf-8", "replace") + b"\0" for x in fields)


class Wire:
    """Reads requests and writes replies."""

    def __init__(self, fd):
        self.inp = io.open(fd, "rb", buffering=1 << 16)
        self.out = io.open(fd, "wb", buffering=1 << 16, closefd=False)

    def take(self, n):
        data = self.inp.read(n)
        if len(data) < n:                       # kvtrace has ended
            os._exit(0)
        return data

    def numbers(self, fmt):
        return struct.unpack("=" + fmt, self.take(struct.calcsize("=" + fmt)))

    def text(self):
        return self.take(*self.numbers("I"))

    def arrays(self, into):
        """Named arrays up to the empty name: dtype, three dimensions (0 = none), data."""
        while True:
            name = self.take(16).rstrip(b"\0").decode()
            if not name:
                return into
            code, *dims = self.numbers("4I")
            dtype, shape = np.dtype(["<f4", "<u4", "<f8", "<i4"][code]).newbyteorder("="), [d - 1 for d in dims if d]
            data = self.take(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            setattr(into, name, np.frombuffer(data, dtype).reshape(shape))

    def reply(self, ok, *parts):
        self.out.write(struct.pack("=I", 0 if ok else 1))
        for part in parts:
            self.out.write(part)
        self.out.flush()

    def refuse(self, text):
        data = " ".join(text.split()).encode("utf-8", "replace")[:400]
        self.reply(False, struct.pack("=I", len(data)), data)


def last_line(path):
    """What went wrong, in one line, with the place in the policy's file."""
    kind, error, trace = sys.exc_info()
    text = "".join(traceback.format_exception_only(kind, error)).strip().splitlines()[-1]
    if isinstance(error, SyntaxError) and error.filename == path:
        return "%s (%s:%s)" % (text, os.path.basename(path), error.lineno)
    frames = traceback.extract_tb(trace)
    frames = [f for f in frames if f.filename == path] or frames
    return "%s (%s:%s)" % (text, os.path.basename(frames[-1].filename), frames[-1].lineno)


def floats(what, value, shape, names, positions=None):
    """The policy's answer as float32 of this shape, without NaN."""
    value = np.asarray(value)
    if value.dtype.kind not in "fiub":
        raise Bad("%s gave dtype %s, expected float32 or float64" % (what, value.dtype))
    if value.shape != shape:
        raise Bad("%s gave shape %s, expected (%s) = %s" % (what, value.shape, ", ".join(names) + "," * (len(names) == 1), shape))
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(value, np.float32)
    nan = np.argwhere(np.isnan(value))
    if len(nan):
        where = [int(x) for x in nan[0]]
        token = where[-1] if positions is None else int(positions[where[-1]])
        cache = "cache %d, " % where[0] if len(where) > 1 else ""
        raise Bad("%s gave NaN for %d of %d, first for %stoken %d" % (what, len(nan), value.size, cache, token))
    return value


def read_job(wire, script):
    values = wire.numbers("%dqQ%dd" % (len(JOB_INTS), len(JOB_REALS) + len(script.params)))
    job = types.SimpleNamespace(**dict(zip(JOB_INTS, values)))
    job.key = values[len(JOB_INTS)]
    reals = values[len(JOB_INTS) + 1:]
    vars(job).update(zip(JOB_REALS, reals))
    job.rule, job.ties, job.in_tokens = RULES[job.rule], TIES[job.ties], bool(job.in_tokens)
    job.group = job.n_q_heads // job.n_caches
    job.param = types.SimpleNamespace()
    for (name, _, _, _, choices, integer), x in zip(script.params, reals[len(JOB_REALS):]):
        setattr(job.param, name, choices.split("|")[int(x)] if choices else int(x) if integer else x)
    return job


def do_setup(wire, script, job):
    out = types.SimpleNamespace(**dict(zip(SETUP_INTS, wire.numbers("%dq" % len(SETUP_INTS)))))
    for name, words in NAMES.items():
        setattr(out, name, words[getattr(out, name)])
    before, window = set(vars(out)), out.window
    out.refuse = None
    script.calls["setup"](job, out)
    unknown = set(vars(out)) - before - {"refuse"}
    if unknown:
        raise Bad("setup() set out.%s: no such field" % sorted(unknown)[0])
    if out.window != window:
        raise Bad("setup() set out.window: say window = ... at the top level, a number or the name of a parameter")
    for name, words in NAMES.items():
        if getattr(out, name) not in words:
            raise Bad("setup() set out.%s = %r: expected one of %s" % (name, getattr(out, name), ", ".join(words)))
        setattr(out, name, words.index(getattr(out, name)))
    values = [int(getattr(out, name)) for name in SETUP_INTS]
    for name, x in zip(SETUP_INTS, values):
        if not (-1 if name == "keep_all" else 0) <= x <= ALL:
            raise Bad("setup() set out.%s = %d: out of range" % (name, x))
    text = str(out.refuse or "").encode("utf-8", "replace")[:200]
    return [struct.pack("=%dq" % len(values), *values), struct.pack("=I", len(text)), text]


def do_score(wire, script, job):
    prompt = types.SimpleNamespace()
    prompt.layer, prompt.slot = wire.numbers("2I")
    wire.arrays(prompt)
    read_rope(prompt)
    answer, count = script.calls["score"](job, prompt), None
    if isinstance(answer, tuple):
        if len(answer) != 2:
            raise Bad("score() gave a tuple of %d, expected (scores, counts)" % len(answer))
        answer, count = answer
    score = floats("score()", answer, (job.n_caches, job.n), ("n_caches", "n"))
    keep_layer, keep = -1, np.zeros(0, np.uint32)
    if count is not None:
        counts = np.asarray(count)
        if counts.dtype.kind not in "iu" or counts.shape not in ((), (job.n_caches,)) or (counts < 0).any():
            raise Bad("score() gave counts of dtype %s, shape %s: expected whole numbers >= 0, (n_caches,) = (%d,) or one for the layer"
                      % (counts.dtype, counts.shape, job.n_caches))
        if counts.shape:
            keep = np.minimum(counts, job.n).astype(np.uint32)
        else:
            keep_layer = int(counts)
    return [score.data, struct.pack("=Iq", len(keep), keep_layer), keep.data]


def read_rope(prompt):
    if hasattr(prompt, "rope_shape"):
        rope = types.SimpleNamespace(inv_freq=prompt.rope_inv_freq, rotary=prompt.rope_rotary)
        rope.dims, rope.offset, interleaved = (int(x) for x in prompt.rope_shape)
        rope.interleaved, rope.scaling = bool(interleaved), float(prompt.rope_scaling[0])
        prompt.rope = rope
        for name in ("rope_shape", "rope_scaling", "rope_inv_freq", "rope_rotary"):
            delattr(prompt, name)


def read_event(wire, job):
    lane, ev = types.SimpleNamespace(job=job), types.SimpleNamespace()
    lane.layer, lane.cache, lane.capacity, ev.n, ev.query, ev.n_heads, cols = wire.numbers("7I")
    lane.cache = None if lane.cache == ALL else lane.cache
    ev.prob = ev.score = ev.q = ev.key = None
    wire.arrays(ev)
    col = np.frombuffer(bytearray(wire.take(cols * ev.n * 4)), np.float32).reshape(cols, ev.n)
    return lane, ev, col


def do_begin(wire, script, job):
    prompt = types.SimpleNamespace()
    prompt.layer, prompt.slot = wire.numbers("2I")
    wire.arrays(prompt)
    read_rope(prompt)
    lane, ev, col = read_event(wire, job)
    script.calls["begin"](lane, prompt, ev, col)
    return [col.data]


def do_observe(wire, script, job):
    lane, ev, col = read_event(wire, job)
    script.calls["observe"](lane, ev, col)
    return [col.data]


def do_worth(wire, script, job):
    lane, ev, col = read_event(wire, job)
    worth = floats("worth()", script.calls["worth"](lane, ev, col), (ev.n,), ("ev.n",), ev.pos)
    return [col.data, worth.data]


DO = {SETUP: do_setup, SCORE: do_score, BEGIN: do_begin, OBSERVE: do_observe, WORTH: do_worth}


def watch(fd):
    """A policy that computes for ever ends when kvtrace has ended."""
    poll = select.poll()
    poll.register(fd, 0)
    poll.poll()
    os._exit(0)


def main(fd):
    global np
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C is for kvtrace, which ends this process
    wire = Wire(fd)
    path, text = wire.text().decode("utf-8", "surrogateescape"), wire.text()
    try:
        import numpy as np
    except ImportError:
        wire.refuse("numpy cannot be imported by %s (Python %d.%d): %s" % (sys.executable, *sys.version_info[:2], last_line(path)))
        return
    threading.Thread(target=watch, args=(fd,), daemon=True).start()
    try:
        script = Script(path, text)
        fields = script.describe()
        wire.reply(True, struct.pack("=I", len(fields)), fields)
    except Bad as bad:
        wire.refuse(str(bad))
        return
    except BaseException:
        wire.refuse(last_line(path))
        return
    while True:
        op, = wire.numbers("I")
        try:
            wire.reply(True, *DO[op](wire, script, read_job(wire, script)))
        except Bad as bad:
            wire.refuse(str(bad))
        except BaseException:
            wire.refuse("%s(): %s" % (["", "setup", "score", "begin", "observe", "worth"][op], last_line(path)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
