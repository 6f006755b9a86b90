"""What recompute.py compares with: the definitions of the losses and their statistics,
and attention rows from the K and Q of a trace, in float64."""
from fractions import Fraction

import h5py
import numpy as np

N_SINK = 4
OBSERVE = 32            # last prompt rows that define a late bloomer


# ---------------------------------------------------------------- definitions

def quantile_higher(x, ppm):
    s = np.sort(x)
    return s[-(-(len(s) - 1) * ppm // 1000000)]


def cvar(x, ppm):
    """Mean of the worst share, with a fractional last atom."""
    s = np.sort(x)[::-1]
    t = len(s) * (1000000 - ppm)
    m, r = divmod(t, 1000000)
    total = s[:m].sum() + (s[m] * (r / 1e6) if r else 0.0)
    return total / (t / 1e6)


def runs_above(x, tau, first=0):
    """[(start, length)] of the maximal runs of x > tau at steps >= first."""
    out, start = [], None
    for t in range(first, len(x)):
        if x[t] > tau and start is None:
            start = t
        if not x[t] > tau and start is not None:
            out.append((start, t - start))
            start = None
    if start is not None:
        out.append((start, len(x) - start))
    return out


def top(score, b):
    """The b best, ties to the lower position, as a mask."""
    mask = np.zeros(len(score), bool)
    mask[np.argsort(-score, kind="stable")[:b]] = True
    return mask


def oracle_loss(rows, n_evictable, b):
    """Per row the mass outside the b largest of its first n_evictable[t] entries."""
    x = np.sort(np.where(np.arange(rows.shape[1]) < n_evictable[:, None], rows, np.inf), axis=1)
    c = np.cumsum(np.where(np.isinf(x), 0, x), axis=1)
    last = n_evictable - b - 1
    return np.where(last >= 0, c[np.arange(len(rows)), np.maximum(last, 0)], 0.0)


def cause_of(mass, observed, fault_steps, n_prompt, n_sink=N_SINK):
    """mass[pos]: evicted mass over the policy-fault steps."""
    if not fault_steps:
        return "infeasible"
    pos = np.arange(len(mass))
    seen = np.zeros(len(mass), bool)
    seen[:n_prompt] = observed
    kind = np.where(pos < n_sink, 0, np.where(pos >= n_prompt, 1, np.where(seen, 2, 3)))
    share = np.bincount(kind, mass, 4)
    best = int(np.argmax(share))
    return ("sink_evicted", "new_token", "selection", "late_bloomer")[best] if share[best] >= 0.5 * share.sum() else "mixed"


def output_error(row, values, evicted, sink_share=0.0):
    """|o - o'| / |o|, o' renormalised over what is kept (a learned sink is always kept)."""
    o = row @ values
    kept = np.where(evicted, 0, row)
    mass = kept.sum() + sink_share
    if not mass > 0:
        return 1.0
    return np.linalg.norm(o - kept @ values / mass) / np.linalg.norm(o)


def nearest(x):
    return round(Fraction(x))       # halves to even


# ---------------------------------------------------------------------- trace

def attr(obj, name, otherwise=None):
    if name not in obj.attrs:
        return otherwise
    v = np.asarray(obj.attrs[name]).reshape(-1)[0]
    return v.decode().rstrip("\0 ") if isinstance(v, bytes) else v


def floats(ds):
    t = ds.id.get_type()
    if t.get_size() == 2 and t.get_ebias() == 127:      # bf16: read the bits, widen here
        u = np.empty(ds.shape, np.uint16)
        ds.id.read(h5py.h5s.ALL, h5py.h5s.ALL, u, mtype=t)
        return (u.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return ds[...].astype(np.float64)


class Layer:
    """One layer with full attention: operands, and rows on demand."""

    def __init__(self, trace, index, group):
        self.index, self.N, self.G, self.T = index, trace.N, trace.G, trace.T
        self.observe, self.seen_head = min(OBSERVE, trace.W), None
        self.H, self.Hkv = int(attr(group, "n_heads")), int(attr(group, "n_kv_heads"))
        self.group = self.H // self.Hkv
        self.scale, self.softcap = float(attr(group, "scale")), float(attr(group, "softcap", 0.0))
        self.k, self.q = floats(group["k"]), floats(group["q"])
        self.v = floats(group["v"]) if "v" in group else None
        self.lse = group["lse"][...].astype(np.float64)
        self.sinks = group["sinks"][...].astype(np.float64) if int(attr(group, "has_sinks", 0)) else None
        self.row_of = {int(p): i for i, p in enumerate(trace.queries)}
        self.entry_bytes = self.k.shape[2] * group["k"].id.get_type().get_size()
        if self.v is not None:
            self.entry_bytes += self.v.shape[2] * group["v"].id.get_type().get_size()

    def rows(self, head, positions, own_lse):
        """Attention of the queries at `positions`, [len][T], and the learned sink's share."""
        at = [self.row_of[p] for p in positions]
        z = self.scale * (self.q[head, at] @ self.k[head // self.group].T)
        if self.softcap > 0:
            z = self.softcap * np.tanh(z / self.softcap)
        z[np.arange(self.T) > np.asarray(positions)[:, None]] = -np.inf
        lse = self.lse[head, at]
        if own_lse:
            m = z.max(axis=1)
            total = np.exp(z - m[:, None]).sum(axis=1)
            if self.sinks is not None:
                total += np.exp(self.sinks[head] - m)
            lse = m + np.log(total)
        sink = np.exp(self.sinks[head] - lse) if self.sinks is not None else np.zeros(len(at))
        return np.exp(z - lse[:, None]), sink

    def decode_rows(self, head):
        """As a replay takes them: by the stored log-sum-exp, unless it is off by 2e-5.
        Rows, the learned sink's share, and the largest defect that remains."""
        positions = list(range(self.N, self.T))
        a, sink = self.rows(head, positions, False)
        defect = np.max(np.abs(a.sum(axis=1) + sink - 1))
        if not defect <= 2e-5:
            a, sink = self.rows(head, positions, True)
            defect = np.max(np.abs(a.sum(axis=1) + sink - 1))
        return a, sink, defect

    def window_rows(self, head, window):
        return self.rows(head, list(range(self.N - window, self.N)), True)[0][:, :self.N]

    def observed(self, head, b):
        """The b best by the mean of the last prompt rows, which any policy could have seen,
        and the entries so near to the cut that they may stand on either side."""
        if self.seen_head != head:
            self.seen_head, self.seen, self.seen_rows = head, {}, self.window_rows(head, self.observe)
        if b not in self.seen:
            score = self.seen_rows.mean(axis=0)
            mask = top(score, b)
            cut = score[mask].min() if mask.any() else np.inf
            self.seen[b] = mask, np.abs(score - cut) < 1e-9 + 1e-6 * cut
        return self.seen[b]

    def foreseeable(self, head, pos, b):
        """Was it among the b best of an observed row? None: too near to say."""
        self.observed(head, b)
        if pos >= self.N or b == 0:
            return 0
        x = self.seen_rows[:, pos][:, None]
        slack = 1e-6 * x + 1e-30
        surely = np.any((self.seen_rows >= x - slack).sum(axis=1) <= b)
        maybe = np.any((self.seen_rows > x + slack).sum(axis=1) < b)
        return int(surely) if surely == maybe else None

    def last_important(self, head, rows, pos, start):
        """Last step before `start` with more attention than 1/n_t; -1: only in an observed
        row; -2: never. And whether a value was too near to say."""
        self.observed(head, 0)
        line = 1.0 / (self.N + 1 + np.arange(start))
        decode = rows[:start, pos]
        window_line = 1.0 / (self.N - self.observe + 1 + np.arange(self.observe))
        window = self.seen_rows[:, pos] if pos < self.N else np.zeros(self.observe)
        near = np.any(np.abs(decode / line - 1) < 1e-5) or np.any(np.abs(window / window_line - 1) < 1e-5)
        steps = np.flatnonzero(decode > line)
        return (int(steps[-1]) if len(steps) else -1 if np.any(window > window_line) else -2), near


class Trace:
    def __init__(self, path):
        f = h5py.File(path, "r")
        self.content_id = attr(f, "content_id")
        self.N, self.G, self.W = (int(attr(f, n)) for n in ("n_prompt", "n_decode", "window"))
        self.T = self.N + self.G
        self.queries = f["queries/index"][...]
        self.file, self.layers, self.defect = f, [], 0.0
        for i in range(int(attr(f, "n_layers"))):
            g = f["layers/%03d" % i]
            if attr(g, "attn_type") == "full" and attr(g, "score") == "dot" and int(attr(g, "kv_layer", i)) == i:
                self.layers.append(i)

    def layer(self, i):
        return Layer(self, i, self.file["layers/%03d" % i])


# ------------------------------------------------------------ choosing again

def pool_mean(x, kernel):
    padded = np.concatenate([np.zeros(kernel // 2), x, np.zeros(kernel // 2)])
    return np.convolve(padded, np.ones(kernel), "valid") / kernel


def pool_max(x, kernel):
    padded = np.concatenate([np.full(kernel // 2, -np.inf), x, np.full(kernel // 2, -np.inf)])
    return np.lib.stride_tricks.sliding_window_view(padded, kernel).max(axis=1)


def snapkv_scores(layer, n_caches, params):
    """The form of kvpress-style code: pooling, then the group; the window gets the best score."""
    window, kernel = int(params.get("window", 32)), int(params.get("kernel", 5))
    pool = pool_max if params.get("pooling") == "max" else pool_mean
    n, group = layer.N, layer.H // n_caches
    if n <= window:
        return np.ones((n_caches, n))
    out = np.empty((n_caches, n))
    for c in range(n_caches):
        s = np.array([pool(layer.window_rows(h, window)[:, :n - window].mean(axis=0), kernel)
                      for h in range(c * group, (c + 1) * group)])
        out[c, :n - window] = s.max(axis=0) if params.get("gqa") == "max" else s.mean(axis=0)
    out[:, n - window:] = out[:, :n - window].max()
    return out


# ----------------------------------------------------------- series of a head

def tail(x):
    if not len(x):
        return None
    return {"mean": x.mean(), "max": x.max(), "q50": quantile_higher(x, 500000), "q90": quantile_higher(x, 900000),
            "q95": quantile_higher(x, 950000), "q99": quantile_higher(x, 990000),
            "cvar95": cvar(x, 950000), "cvar99": cvar(x, 990000)}


class Bounds:
    """Oracles of one head, each computed once."""

    def __init__(self, rows, n_prompt):
        self.rows, self.n, self.done = rows, n_prompt, {}
        self.g = len(rows)

    def evictable(self, everything):
        return self.n + np.arange(self.g) if everything else np.full(self.g, self.n)

    def oracle(self, everything, b):
        if (0, everything, b) not in self.done:
            m = self.rows.shape[1] if everything else self.n
            self.done[0, everything, b] = oracle_loss(self.rows[:, :m], self.evictable(everything), b)
        return self.done[0, everything, b]

    def fixed(self, everything, b, first):
        """Losses of the best fixed set, and whether its choice is a near tie."""
        key = (1, everything, b, first)
        if key not in self.done:
            m = self.rows.shape[1] if everything else self.n
            at_risk = np.where(np.arange(m) < self.evictable(everything)[:, None], self.rows[:, :m], 0.0)
            score = at_risk[first:].sum(axis=0)
            order = np.sort(score)[::-1]
            tie = 0 < b < m and order[b - 1] - order[b] < 1e-6
            self.done[key] = (at_risk[:, ~top(score, b)].sum(axis=1), tie)
        return self.done[key]
