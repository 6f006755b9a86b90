#!/usr/bin/env python3
"""Recompute the results of a replay from the trace alone, and compare.

    recompute.py TRACE.h5 KEPT.jsonl RESULTS.db     results of one trace
    recompute.py --self-test                        this program's own definitions

Nothing of kvtrace is used: rows come from the K and Q of the trace in float64, kept sets
from the JSON lines of `kvtrace replay --kept` (for online policies with --kept-every 1),
and every number of the database that follows from them is computed again from its
definition. SnapKV, streaming and oracle_fixed sets are chosen again too; the sets of
oracle_minimax come from its certificates, whose bounds are evaluated again; points of curves
are compared with the losses of cells at the same budget. A mass may
differ by 2e-6 plus the stored row defect, a count not at all, except where a loss lies
within 4e-6 of a threshold or two entries tie within that. Exit 1 on any difference."""
import argparse
import json
import sqlite3
import sys
from fractions import Fraction

import numpy as np

from definitions import (N_SINK, Bounds, Trace, cause_of, cvar, nearest, output_error, quantile_higher, runs_above,
                         snapkv_scores, tail, top)

NEAR = 4e-6             # a loss this near to a threshold decides nothing
ERR_EVERY = 8           # output errors are sampled
Q31 = 2.0 ** 31


# --------------------------------------------------------------------- checks

class Checks:
    def __init__(self):
        self.table, self.failed = {}, 0

    def _note(self, name, bad, diff, where, text):
        row = self.table.setdefault(name, [0, 0, 0.0, 0])       # compared, failed, largest, near
        row[0] += 1
        row[2] = max(row[2], diff)
        if bad:
            row[1] += 1
            self.failed += 1
            if row[1] <= 5:
                print("FAIL %s %s: %s" % (name, where, text))

    def near(self, name):
        self.table.setdefault(name, [0, 0, 0.0, 0])[3] += 1

    def mass(self, name, got, want, tol, where):
        if got is None or want is None:
            self._note(name, (got is None) != (want is None), 0.0, where, "stored %s, recomputed %s" % (got, want))
            return
        diff = abs(got - want)
        self._note(name, not diff <= tol, diff if diff == diff else np.inf, where,
                   "stored %.9g, recomputed %.9g, tolerance %.2g" % (got, want, tol))

    def exact(self, name, got, want, where):
        self._note(name, got != want, 0.0, where, "stored %s, recomputed %s" % (got, want))

    def place(self, name, step, series, tol, where):
        """`step` must be the first largest of series, up to a near tie."""
        ok = step is not None and 0 <= step < len(series) and series[step] >= np.max(series) - 2 * tol
        first = int(np.argmax(series))
        if ok and step != first:
            self.near(name)
        self._note(name, not ok, 0.0, where, "stored %s, recomputed %d" % (step, first))

    def report(self):
        print("%-36s %9s %7s %7s %12s" % ("check", "compared", "failed", "near", "largest"))
        for name, (n, bad, diff, near) in sorted(self.table.items()):
            print("%-36s %9d %7d %7d %12.3g" % (name, n, bad, near, diff))


# ------------------------------------------------------------- cells and sets

class Cell:
    """A cell of the database with its kept sets."""

    def __init__(self, row):
        self.row = row
        self.id, self.label, self.all = row["cell_id"], row["label"], row["budgeted"] == "all"
        self.policy = row["policy"]
        words = self.label.partition(":")[2]
        self.params = dict(w.split("=", 1) for w in words.split(",") if w)
        self.sets = {}              # (layer, cache) -> mask [N], or {step: mask [T]}
        self.own = {}               # oracle_minimax: (layer, head) -> mask
        self.heads = {}             # (layer, head) -> Head
        self.held = {}              # (layer, kv head) -> prompt entries after the prefill eviction
        self.bytes_held = 0

    def amount(self, n):
        """budget x n as an exact number; tokens as they are."""
        b = Fraction(self.row["budget_label"].split()[0].rstrip("t"))
        return b if self.row["kind"] == "tokens" else b * n

    def keep_per_cache(self, n, copies):
        if self.row["kind"] == "tokens":
            return int(self.amount(n))
        if self.row["rule"] == "reference":
            return int(float(n) * (1 - (1 - self.row["value"])) / copies)
        return nearest(self.amount(n) / copies)

    def n_trivial(self, n, g):
        b = nearest(self.amount(n))
        return min(max(b - n + 1, 0), g) if self.all else (g if b >= n else 0)


class Head:
    """What a cell loses at one query head."""
    __slots__ = ("lost", "oracle", "ns", "ns_ok", "held", "tail", "ns_tail", "tol", "err")


def load_cells(db, content_id):
    db.row_factory = sqlite3.Row
    rows = db.execute(
        "SELECT c.cell_id, c.seed, c.config_id, c.trace_id, p.name AS policy, p.budgeted, k.label, b.kind, b.value, b.rule, b.label AS budget_label,"
        " r.* FROM cell c JOIN trace t USING(trace_id) JOIN policy_config k USING(config_id) JOIN policy p USING(policy_id)"
        " JOIN budget b USING(budget_id) JOIN result_cell r USING(cell_id) WHERE c.status = 'done' AND t.content_id = ?",
        (content_id,)).fetchall()
    return {(r["label"], r["budget_label"].split()[0], r["rule"], r["seed"]): Cell(r) for r in rows}


def load_sets(path, cells, trace, checks):
    with open(path, encoding="utf-8") as f:
        for line in f:
            s = json.loads(line)
            if s.get("trace", trace.content_id) != trace.content_id:
                continue
            cell = cells.get((s["policy"], s["budget"], s["rule"], s["seed"]))
            where = "%(policy)s %(budget)s seed %(seed)d layer %(layer)d cache %(cache)d" % s
            kept = np.asarray(s["kept"], np.int64)
            checks.exact("kept: ascending positions", bool(np.all(np.diff(kept) > 0)), True, where)
            if cell is None:
                checks.exact("kept: set has a cell", "none", "one", where)
                continue
            mask = np.zeros(trace.T if "step" in s else trace.N, bool)
            mask[kept] = True
            if "step" in s:
                cell.sets.setdefault((s["layer"], s["cache"]), {})[s["step"]] = mask
            else:
                cell.sets[(s["layer"], s["cache"])] = mask


def positions(blob):
    """A set as it is stored: varint count, then varint differences."""
    x, shift, out = 0, 0, []
    for byte in blob:
        x |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            out.append(x)
            x, shift = 0, 0
    assert shift == 0 and out and out[0] == len(out) - 1
    return np.cumsum(out[1:], dtype=np.int64)


def load_own_sets(db, cell, trace):
    for layer, head, blob in db.execute("SELECT layer, head, best_set FROM minimax_cert WHERE cell_id = ?", (cell.id,)):
        cell.own[(layer, head)] = np.zeros(trace.N, bool)
        cell.own[(layer, head)][positions(blob)] = True


def usable(cell, trace):
    """Why a cell cannot be recomputed, or None."""
    if cell.policy in ("oracle_step", "oracle_minimax"):
        return None
    if not cell.sets:
        return None if cell.policy == "full" else "no kept sets in the file"
    if cell.all:
        for steps in cell.sets.values():
            if not isinstance(steps, dict) or any(t not in steps for t in range(trace.G)):
                return "kept sets of some steps are missing (--kept-every 1)"
    return None


# ------------------------------------------------------------ choosing again

def check_choice(checks, name, kept, score, b, where):
    """kept must be the b best of score, ties low, up to scores that f32 cannot tell apart."""
    want = top(score, b)
    checks.exact(name + " count", int(kept.sum()), int(want.sum()), where)
    differ = np.flatnonzero(kept != want)
    cut = np.sort(score)[::-1][min(b, len(score)) - 1] if b else np.inf
    bad = [int(j) for j in differ if abs(score[j] - cut) > 1e-6 * abs(cut) + 1e-30]
    if len(differ) and not bad:
        checks.near(name)
    checks.exact(name, bad, [], where)


def check_sets(checks, cell, layer, column_sums):
    caches = sorted(c for (l, c) in cell.sets if l == layer.index)
    if not caches or cell.all or cell.policy not in ("snapkv", "streaming", "oracle_fixed"):
        return
    n_caches = len(caches)
    b = min(cell.keep_per_cache(layer.N, n_caches // layer.Hkv), layer.N)
    if cell.policy == "snapkv":
        if layer.N <= int(cell.params.get("window", 32)):
            b = layer.N
        score = snapkv_scores(layer, n_caches, cell.params)
    elif cell.policy == "streaming":
        j = np.arange(layer.N, dtype=float)
        score = np.tile(np.where(j < int(cell.params.get("sinks", 4)), 1e9, j), (n_caches, 1))
    else:
        score = column_sums.reshape(n_caches, -1, layer.N).sum(axis=1)
    for c in caches:
        check_choice(checks, "set: " + cell.policy, cell.sets[(layer.index, c)], score[c], b,
                     "%s %s layer %d cache %d" % (cell.label, cell.row["budget_label"], layer.index, c))


# --------------------------------------------------------- one head of a cell

def evicted_mask(cell, layer, head):
    """[G][T] entries that are gone when the query of step t looks, and the count to compare at."""
    N, G, T = layer.N, layer.G, layer.T
    caches = [c for (l, c) in cell.sets if l == layer.index]
    out = np.zeros((G, T), bool)
    if cell.policy == "oracle_minimax":
        if (layer.index, head) in cell.own:                     # else everything fits
            out[:, :N] = ~cell.own[(layer.index, head)]
        return out, min(cell.keep_per_cache(N, 1), N)
    if not caches:                                              # full
        return out, N
    cache = head // (layer.H // len(caches))
    if cell.all:
        steps = cell.sets[(layer.index, cache)]
        for t in range(G):
            out[t, :N + t] = ~steps[t][:N + t]
        return out, cell.keep_per_cache(N, len(caches) // layer.Hkv)
    out[:, :N] = ~cell.sets[(layer.index, cache)]
    return out, int(cell.sets[(layer.index, cache)].sum())


def measure(cell, layer, head, rows, sink, bounds, first):
    h = Head()
    N, tol = layer.N, 2e-6 + cell.row["row_defect_max"]
    h.tol = tol
    if cell.policy == "oracle_step":
        h.held = min(cell.keep_per_cache(N, 1), N)
        gone = None
        h.oracle = h.lost = bounds.oracle(False, h.held)
    else:
        gone, h.held = evicted_mask(cell, layer, head)
        h.oracle = bounds.oracle(cell.all, h.held)
        h.lost = np.where(gone, rows, 0).sum(axis=1)
    h.tail = tail(h.lost[first:])
    h.ns, h.ns_ok, h.ns_tail, h.err = None, None, None, {}
    if gone is None:
        return h, gone
    rest = rows[:, N_SINK:].sum(axis=1)
    h.ns_ok = (rest >= 1e-6) & (np.arange(layer.G) >= first)
    h.ns = np.where(h.ns_ok, np.where(gone, rows, 0)[:, N_SINK:].sum(axis=1) / np.where(h.ns_ok, rest, 1), 0)
    h.ns_tail = tail(h.ns[h.ns_ok])
    if layer.v is not None and cell.row["out_err_basis"] == "v":
        for t in range(0, layer.G, ERR_EVERY):
            if t >= first:
                h.err[t] = output_error(rows[t], layer.v[head // layer.group], gone[t], sink[t])
    return h, gone


# ------------------------------------------------------------ against the rows

def compare_head(checks, row, cell, layer, head, h, rows, bounds, first, where):
    tol = h.tol
    checks.exact("head: n_step, n_trivial, n_held", (row["n_step"], row["n_trivial"], row["n_held"]),
                 (layer.G, first, h.held), where)
    if h.tail is None:
        for name in ("lost_mean", "lost_max", "lost_cvar95", "lost_q50", "oracle_mean", "regret_mean"):
            checks.exact("head: nothing counts", row[name], 0.0, where)
        return
    for name, value in h.tail.items():
        checks.mass("head: lost_" + name, row["lost_" + name], value, tol, where)
    checks.place("head: max_step", row["max_step"] - first, h.lost[first:], tol, where)
    oracle = h.oracle[first:]
    checks.mass("head: oracle_mean", row["oracle_mean"], oracle.mean(), tol, where)
    checks.mass("head: oracle_max", row["oracle_max"], oracle.max(), tol, where)
    regret = h.lost[first:] - oracle
    checks.mass("head: regret_mean", row["regret_mean"], regret.mean(), 2 * tol, where)
    checks.mass("head: regret_max", row["regret_max"], regret.max(), 2 * tol, where)
    if row["fixed_mean"] is not None:
        fixed, tie = bounds.fixed(cell.all, h.held, first)
        checks.mass("head: fixed_mean", row["fixed_mean"], fixed[first:].mean(), tol, where)
        if tie:
            checks.near("head: fixed_max")
        else:
            checks.mass("head: fixed_max", row["fixed_max"], fixed[first:].max(), tol, where)
    else:
        checks.exact("head: fixed may be missing", cell.all and first > 0, True, where)
    if h.ns is not None:
        compare_ns(checks, row, h, where)
        compare_error(checks, row, h, where)
    if not cell.all:
        share = h.lost[first:] / rows[first:, :layer.N].sum(axis=1)
        checks.mass("head: lost_prompt_mean", row["lost_prompt_mean"], share.mean(), tol, where)
        checks.mass("head: lost_prompt_max", row["lost_prompt_max"], share.max(), tol, where)
    else:
        checks.exact("head: no lost_prompt", row["lost_prompt_mean"], None, where)


def compare_ns(checks, row, h, where):
    checks.exact("head: ns_n", row["ns_n"], int(h.ns_ok.sum()), where)
    if h.ns_tail is None:
        checks.exact("head: no lost_ns", row["lost_ns_mean"], None, where)
        return
    for name in ("mean", "max", "q95", "cvar95"):
        checks.mass("head: lost_ns_" + name, row["lost_ns_" + name], h.ns_tail[name], h.tol, where)
    checks.place("head: ns_max_step", row["ns_max_step"], np.where(h.ns_ok, h.ns, -1), h.tol, where)


def compare_error(checks, row, h, where):
    steps = np.array([t for t, x in h.err.items() if np.isfinite(x)], int)
    checks.exact("head: err_n", row["err_n"], len(steps), where)
    if not len(steps) or not row["err_n"]:
        return
    e = np.array([h.err[t] for t in steps])
    slack = 5e-6 * (1 + e.max())
    for name, value in (("mean", e.mean()), ("max", e.max()), ("q95", quantile_higher(e, 950000)), ("cvar95", cvar(e, 950000))):
        checks.mass("head: out_err_" + name, row["out_err_" + name], value, slack, where)
    checks.exact("head: err_max_step is sampled", row["err_max_step"] in steps, True, where)
    if row["err_max_step"] in steps:
        checks.mass("head: err_max_step", h.err[row["err_max_step"]], e.max(), slack, where)
    big = h.lost[steps] > 1e-6
    if row["value_sep_mean"] is not None and big.any():
        checks.mass("head: value_sep_mean", row["value_sep_mean"], (e[big] / h.lost[steps][big]).mean(),
                    slack * (1 + (1 / h.lost[steps][big]).mean()), where)


def compare_series(checks, db, cell, layer, head, h, where):
    for metric, step0, codec, data in db.execute(
            "SELECT metric, step0, codec, data FROM result_series WHERE cell_id = ? AND layer = ? AND head = ?",
            (cell.id, layer.index, head)):
        want = {"lost": h.lost, "oracle": h.oracle}.get(metric)
        if want is None or codec != "u32q31le":
            continue
        x = np.frombuffer(data, "<u4") / Q31
        checks.exact("series: steps", (step0, len(x)), (0, layer.G), where)
        if len(x) == layer.G:
            checks.mass("series: " + metric, 0.0, float(np.max(np.abs(x - want))), h.tol, where)


def compare_tau(checks, db, cell, layer, head, h, gone, rows, first, where):
    """Exceedances and violations; returns the number of violations, None when near a threshold."""
    total = 0
    for tau_id, tau in db.execute("SELECT tau_id, tau FROM tau ORDER BY tau_id").fetchall():
        at = "%s tau %g" % (where, tau)
        limit = np.rint(tau * Q31) / Q31
        row = db.execute("SELECT * FROM result_head_tau WHERE cell_id = ? AND layer = ? AND head = ? AND tau_id = ?",
                         (cell.id, layer.index, head, tau_id)).fetchone()
        if row is None:
            checks.exact("tau: row", "missing", "present", at)
            continue
        x, o = h.lost[first:], h.oracle[first:]
        if np.any(np.abs(x - limit) < NEAR):
            checks.near("tau: counts")
            total = None
            continue
        runs = runs_above(h.lost, limit, first)
        longest = max((n for _, n in runs), default=0)
        want = (int((x > limit).sum()), len(runs), longest,
                min((s for s, n in runs if n == longest), default=None), runs[0][0] if runs else None)
        got = (row["n_exceed"], row["n_run"], row["longest_run"], row["longest_start"] if row["n_run"] else None,
               row["first_step"])
        checks.exact("tau: counts", got, want, at)
        if np.any(np.abs(o - limit)[x > limit] < NEAR):
            checks.near("tau: n_infeasible")
        else:
            checks.exact("tau: n_infeasible", row["n_infeasible"], int(((x > limit) & (o > limit)).sum()), at)
        checks.mass("tau: excess_area", row["excess_area"], np.maximum(x - limit, 0).sum(), h.tol * max(1, want[0]), at)
        stored = db.execute("SELECT * FROM violation WHERE cell_id = ? AND layer = ? AND head = ? AND tau_id = ?"
                            " ORDER BY start_step", (cell.id, layer.index, head, tau_id)).fetchall()
        checks.exact("violation: runs", [(v["start_step"], v["n_step"]) for v in stored], runs, at)
        if total is not None:
            total += len(runs)
        if gone is not None and [(v["start_step"], v["n_step"]) for v in stored] == runs:
            # the worst run above 0.5 is the one whose evicted entries are stored
            worst = max(range(len(stored)), key=lambda i: (stored[i]["excess_area"], -i), default=None) if tau == 0.5 else None
            for i, v in enumerate(stored):
                compare_violation(checks, db, v, layer, head, h, gone, rows, limit, i == worst, cell, at)
    return total


def compare_violation(checks, db, v, layer, head, h, gone, rows, limit, named, cell, where):
    steps = slice(v["start_step"], v["start_step"] + v["n_step"])
    at = "%s start %d" % (where, v["start_step"])
    x, o = h.lost[steps], h.oracle[steps]
    checks.place("violation: peak_step", v["peak_step"] - v["start_step"], x, h.tol, at)
    if steps.start <= v["peak_step"] < steps.stop:
        checks.mass("violation: peak_lost", v["peak_lost"], h.lost[v["peak_step"]], h.tol, at)
        checks.mass("violation: peak_oracle_lost", v["peak_oracle_lost"], h.oracle[v["peak_step"]], h.tol, at)
    checks.mass("violation: excess_area", v["excess_area"], (x - limit).sum(), h.tol * len(x), at)
    lost_rows = np.where(gone[steps], rows[steps], 0)
    mass = lost_rows[o <= limit].sum(axis=0)
    seen, doubt = layer.observed(head, h.held)
    causes = {cause_of(mass, m, bool(np.any(o <= limit)), layer.N) for m in (seen, seen | doubt, seen & ~doubt)}
    if len(causes) > 1 or np.any(np.abs(o - limit) < NEAR):
        checks.near("violation: cause")
    else:
        checks.exact("violation: cause", v["cause"], causes.pop(), at)
    compare_tokens(checks, db, v, layer, lost_rows.sum(axis=0), rows, named, cell, head, h, h.tol * len(x), at)


def compare_tokens(checks, db, v, layer, mass, rows, named, cell, head, h, tol, where):
    total = mass.sum()
    order = np.sort(mass)[::-1] / total
    slack = 2 * tol / total
    for k in (1, 5, 20):
        if v["share_top%d" % k] is not None:
            checks.mass("violation: share_top%d" % k, v["share_top%d" % k], order[:k].sum(), slack, where)
    stored = db.execute("SELECT * FROM violation_token WHERE violation_id = ? ORDER BY ord", (v["violation_id"],)).fetchall()
    if not named:
        checks.exact("token: only of the worst run", (len(stored), v["share_top1"]), (0, None), where)
        return
    checks.exact("token: count", len(stored), min(20, int((mass > 0).sum())), where)
    for i, s in enumerate(stored):
        checks.mass("token: mass_share", s["mass_share"], mass[s["pos"]] / total, slack, where)
        checks.mass("token: order", mass[s["pos"]] / total, order[i], slack, where)
        compare_history(checks, s, layer, head, rows, v["start_step"], where)
        checks.exact("token: evicted_step", s["evicted_step"], evicted_step(cell, layer, head, s["pos"], v["start_step"]), where)
    if stored:
        compare_flags(checks, v, stored[0], layer, head, h, where)


def compare_history(checks, s, layer, head, rows, start, where):
    last, near = layer.last_important(head, rows, s["pos"], start)
    if near:
        checks.near("token: last_important")
        return
    checks.exact("token: last_important", s["last_important"], None if last == -2 else last, where)
    checks.exact("token: idle_steps", s["idle_steps"], None if last == -2 else start - last - 1, where)


def compare_flags(checks, v, main, layer, head, h, where):
    want = layer.foreseeable(head, main["pos"], h.held)
    if want is None:
        checks.near("violation: foreseeable")
    else:
        checks.exact("violation: foreseeable", v["foreseeable"], want, where)
    checks.exact("violation: recurrent", v["recurrent"], int((main["idle_steps"] or 0) >= 32), where)


def evicted_step(cell, layer, head, pos, start):
    """-1 for the prefill eviction, else the decode step after which the entry left."""
    if not cell.all:
        return -1
    n_caches = sum(1 for (l, _) in cell.sets if l == layer.index)
    steps = cell.sets[(layer.index, head // (layer.H // n_caches))]
    t = next(t for t in range(max(0, pos - layer.N + 1), layer.G) if not steps[t][pos])
    return t - 1


def compare_kvhead(checks, db, cell, layer, g, heads, first, held):
    where = "%s %s seed %d layer %d kv head %d" % (cell.label, cell.row["budget_label"], cell.row["seed"], layer.index, g)
    tol = max(h.tol for h in heads)
    for agg, reduce in (("max", np.max), ("mean", np.mean)):
        row = db.execute("SELECT * FROM result_kvhead WHERE cell_id = ? AND layer = ? AND kv_head = ? AND agg = ?",
                         (cell.id, layer.index, g, agg)).fetchone()
        if row is None:
            checks.exact("kvhead: row", "missing", "present", where)
            continue
        if not cell.all:
            checks.exact("kvhead: n_held", row["n_held"], held, where)
        steps = [t for t in heads[0].err if all(np.isfinite(h.err[t]) for h in heads)]
        if steps:
            e = reduce([[h.err[t] for t in steps] for h in heads], axis=0)
            checks.mass("kvhead: out_err_cvar95", row["out_err_cvar95"], cvar(e, 950000), 5e-6 * (1 + e.max()), where + " " + agg)
        series = reduce([h.lost for h in heads], axis=0)[first:]
        if agg == "max":
            cell.kv_cvar95.setdefault(layer.index, []).append(cvar(series, 950000) if len(series) else 0.0)
        if not len(series):
            continue
        for name, value in (("mean", series.mean()), ("max", series.max()), ("q95", quantile_higher(series, 950000)),
                            ("cvar95", cvar(series, 950000))):
            checks.mass("kvhead: lost_" + name, row["lost_" + name], value, tol, where + " " + agg)
        checks.place("kvhead: max_step", row["max_step"] - first, series, tol, where + " " + agg)
        if heads[0].ns is None:
            continue
        ok = np.any([h.ns_ok for h in heads], axis=0)
        masked = np.ma.array([h.ns for h in heads], mask=[~h.ns_ok for h in heads])
        ns = (masked.max(axis=0) if agg == "max" else masked.mean(axis=0))[ok]
        if len(ns):
            slack = max(h.tol for h in heads)
            ns = np.asarray(ns)
            checks.mass("kvhead: lost_ns_mean", row["lost_ns_mean"], ns.mean(), slack, where + " " + agg)
            checks.mass("kvhead: lost_ns_max", row["lost_ns_max"], ns.max(), slack, where + " " + agg)
            checks.mass("kvhead: lost_ns_cvar95", row["lost_ns_cvar95"], cvar(ns, 950000), slack, where + " " + agg)


def held_after_prefill(cell, layer):
    """Prompt entries per KV head, every copy counted."""
    caches = sorted(c for (l, c) in cell.sets if l == layer.index)
    if not caches:
        held = min(cell.keep_per_cache(layer.N, 1), layer.N) if cell.policy in ("oracle_step", "oracle_minimax") else layer.N
        return [held] * layer.Hkv
    copies = len(caches) // layer.Hkv
    count = [int((cell.sets[(layer.index, c)][0] if cell.all else cell.sets[(layer.index, c)]).sum()) for c in caches]
    return [sum(count[i:i + copies]) for i in range(0, len(caches), copies)]


def compare_layer(checks, db, cell, layer, first, held):
    where = "%s %s seed %d layer %d" % (cell.label, cell.row["budget_label"], cell.row["seed"], layer.index)
    row = db.execute("SELECT * FROM result_layer WHERE cell_id = ? AND layer = ?", (cell.id, layer.index)).fetchone()
    if row is None:
        checks.exact("layer: row", "missing", "present", where)
        return
    heads = [cell.heads[(layer.index, h)] for h in range(layer.H)]
    checks.mass("layer: held_mean", row["held_mean"], float(np.mean(held)), 1e-9, where)
    if first >= layer.G:
        return
    tol = max(h.tol for h in heads)
    worst = np.array([h.tail["max"] for h in heads])
    checks.mass("layer: lost_mean", row["lost_mean"], float(np.mean([h.tail["mean"] for h in heads])), tol, where)
    checks.mass("layer: lost_worst", row["lost_worst"], worst.max(), tol, where)
    checks.place("layer: worst_head", row["worst_head"], worst, tol, where)
    checks.mass("layer: cvar95_worst_head", row["cvar95_worst_head"], max(cell.kv_cvar95[layer.index]), tol, where)


def compare_cell(checks, cell, trace, n_violation):
    r = cell.row
    where = "%s %s seed %d" % (cell.label, r["budget_label"], r["seed"])
    held = np.array([n for (_, n) in sorted(cell.held.items())], float)
    checks.exact("cell: n_head", r["n_head"], len(cell.heads), where)
    checks.mass("cell: held_share", r["held_share"], held.mean() / trace.N, 1e-9, where)
    checks.mass("cell: held_mean", r["held_mean"], held.mean(), 1e-6, where)
    checks.exact("cell: held_min, held_max", (r["held_min"], r["held_max"]), (int(held.min()), int(held.max())), where)
    checks.mass("cell: row_defect_max", r["row_defect_max"], trace.defect, 1e-6, where)
    errors = [x for h in cell.heads.values() for x in h.err.values() if np.isfinite(x)]
    if errors:
        checks.exact("cell: out_err_basis", r["out_err_basis"], "v", where)
        checks.mass("cell: out_err_worst", r["out_err_worst"], max(errors), 5e-6 * (1 + max(errors)), where)
    checks.exact("cell: bytes_logical", r["bytes_logical"], cell.bytes_held, where)
    if n_violation is None:
        checks.near("cell: n_violation")
    else:
        checks.exact("cell: n_violation", r["n_violation"], n_violation, where)
    counted = {k: h for k, h in cell.heads.items() if h.tail is not None}
    if not counted:
        return
    tol = 2e-6 + r["row_defect_max"]
    worst = max(h.tail["max"] for h in counted.values())
    checks.mass("cell: lost_mean", r["lost_mean"], float(np.mean([h.tail["mean"] for h in counted.values()])), tol, where)
    checks.mass("cell: cvar95_mean", r["cvar95_mean"], float(np.mean([h.tail["cvar95"] for h in counted.values()])), tol, where)
    checks.mass("cell: lost_worst", r["lost_worst"], worst, tol, where)
    there = cell.heads.get((r["worst_layer"], r["worst_head"]))
    place = there is not None and 0 <= r["worst_step"] < trace.G and there.lost[r["worst_step"]] >= worst - 2 * tol
    checks.exact("cell: place of lost_worst", bool(place), True, where)
    checks.mass("cell: cvar95_worst_head", r["cvar95_worst_head"], max(max(x) for x in cell.kv_cvar95.values()), tol, where)
    checks.mass("cell: oracle_worst", r["oracle_worst"],
                max(h.oracle[cell.n_trivial(trace.N, trace.G):].max() for h in counted.values()), tol, where)
    checks.mass("cell: regret_mean", r["regret_mean"], float(np.mean(
        [(h.lost - h.oracle)[cell.n_trivial(trace.N, trace.G):].mean() for h in counted.values()])), 2 * tol, where)
    ns = [h for h in counted.values() if h.ns_tail is not None]
    if ns:
        slack = max(h.tol for h in ns)
        checks.mass("cell: lost_ns_worst", r["lost_ns_worst"], max(h.ns_tail["max"] for h in ns), slack, where)
        checks.mass("cell: ns_cvar95_worst", r["ns_cvar95_worst"], max(h.ns_tail["cvar95"] for h in ns), slack, where)


def bound_q31(weights, rows_q31, b):
    """floor((weighted mass outside the b largest columns) / 2^31), with integers."""
    columns = np.sort((weights.astype(np.uint64)[:, None] * rows_q31.astype(np.uint64)).sum(axis=0, dtype=np.uint64))
    return int(columns[:len(columns) - b].sum(dtype=np.uint64)) >> 31


def compare_ladder(checks, db, cell, layer, head, h, rows, bounds, first, where):
    at = (cell.id, layer.index, head)
    row = db.execute("SELECT * FROM ladder_head WHERE cell_id = ? AND layer = ? AND head = ?", at).fetchone()
    cert = db.execute("SELECT * FROM minimax_cert WHERE cell_id = ? AND layer = ? AND head = ?", at).fetchone()
    checks.exact("ladder: counts", (row["n_keep"], row["n_step"], row["n_trivial"]), (h.held, layer.G, first), where)
    checks.exact("ladder: certificate", cert is not None, first < layer.G, where)
    if cert is None or first >= layer.G:
        return
    weights = np.frombuffer(cert["lambda"], "<u4")
    checks.exact("ladder: weights", (len(weights), int(weights.sum(dtype=np.uint64))), (layer.G - first, 2 ** 31), where)
    checks.exact("ladder: size of the set", int(cell.own[(layer.index, head)].sum()), h.held, where)
    prompt = rows[first:, :layer.N]
    bound = bound_q31(weights, np.rint(prompt.astype(np.float32).astype(float) * Q31), h.held)
    checks.mass("ladder: bound_q31", cert["bound_q31"] / Q31, bound / Q31, h.tol, where)
    oracle, fixed = h.oracle[first:], bounds.fixed(False, h.held, first)
    found = h.lost[first:].max()
    checks.mass("ladder: minimax_found", row["minimax_found"], found, h.tol, where)
    checks.mass("ladder: minimax_bound", row["minimax_bound"], min(max(bound / Q31, oracle.max()), found), h.tol, where)
    checks.mass("ladder: oracle_mean", row["oracle_mean"], oracle.mean(), h.tol, where)
    checks.mass("ladder: oracle_max", row["oracle_max"], oracle.max(), h.tol, where)
    checks.place("ladder: oracle_max_step", row["oracle_max_step"], oracle, h.tol, where)
    checks.mass("ladder: fixed_mean", row["fixed_mean"], fixed[0][first:].mean(), h.tol, where)
    if not fixed[1]:
        checks.mass("ladder: fixed_max", row["fixed_max"], fixed[0][first:].max(), h.tol, where)
    checks.mass("ladder: random_mean", row["random_mean"], prompt.sum(axis=1).mean() * (1 - h.held / layer.N), h.tol, where)


# --------------------------------------------------------------------- curves

CURVE_METRICS = ("mean", "q95", "cvar95", "max")


def load_curves(db, cell):
    """{(layer, head): (values [metric][point], n_not_nested)} of the cell's configuration and seed, and the grid."""
    out, grid = {}, None
    for layer, head, metrics, kept, data, n in db.execute(
            "SELECT layer, head, metrics, kept, data, n_not_nested FROM result_curve JOIN curve_grid USING(grid_id)"
            " WHERE config_id = ? AND trace_id = ? AND seed = ?", (cell.row["config_id"], cell.row["trace_id"], cell.row["seed"])):
        assert metrics == ",".join("lost_" + m for m in CURVE_METRICS)
        grid = np.frombuffer(kept, "<u4").tolist()
        out[(layer, head)] = np.frombuffer(data, "<u4").reshape(len(CURVE_METRICS), len(grid)) / Q31, n
    return out, grid


def compare_curve(checks, curves, point, cell):
    """The point of the curve at the cell's budget: the cell's losses, recomputed from its kept sets."""
    where = "%s %s seed %d layer %%d head %%d" % (cell.label, cell.row["budget_label"], cell.row["seed"])
    own = {key: [h.tail[m] for m in CURVE_METRICS] for key, h in cell.heads.items()}
    tol = max(h.tol for h in cell.heads.values())
    want = dict(own)
    for layer in sorted({l for l, _ in own}) + [-1]:
        rows = np.array([v for (l, _), v in own.items() if layer in (l, -1)])
        want[(layer, -1)] = [rows[:, 0].mean()] + rows[:, 1:].max(axis=0).tolist()
    checks.exact("curve: rows", sorted(curves), sorted(want), where % (-1, -1))
    for key in want.keys() & curves.keys():
        level = "head" if key[1] >= 0 else "layer" if key[0] >= 0 else "model"
        for m, metric in enumerate(CURVE_METRICS):
            checks.mass("curve: %s lost_%s" % (level, metric), curves[key][0][m][point], want[key][m], tol, where % key)


def compare_nesting(checks, curves, at, trace):
    """n_not_nested, where every point of the grid is a cell with one set of prompt entries."""
    cells = [at[k] for k in sorted(at)]
    total = {}
    for index in trace.layers:
        layer = trace.layer(index)
        for head in range(layer.H):
            gone = [evicted_mask(cell, layer, head)[0][0] for cell in cells]
            n = sum(bool(np.any(more & ~less)) for less, more in zip(gone, gone[1:]))
            for key in ((index, head), (index, -1), (-1, -1)):
                total[key] = total.get(key, 0) + n
    for key, n in total.items():
        checks.exact("curve: n_not_nested", curves[key][1], n, "%s layer %d head %d" % ((cells[0].label,) + key))


def compare_curves(checks, db, cells, trace):
    """Cells whose budget in tokens is a point of a curve. Every configuration and seed once."""
    groups = {}
    for cell in cells:
        if cell.row["kind"] == "tokens" and cell.row["rule"] == "share":
            groups.setdefault((cell.row["config_id"], cell.row["seed"]), []).append(cell)
    for group in groups.values():
        curves, grid = load_curves(db, group[0])
        at = {int(c.amount(trace.N)): c for c in group if curves and int(c.amount(trace.N)) in grid}
        for kept, cell in at.items():
            compare_curve(checks, curves, grid.index(kept), cell)
        one_set = all(not c.all and c.policy not in ("oracle_step", "oracle_minimax") for c in group)
        if curves and one_set and len(at) == len(grid):
            compare_nesting(checks, curves, at, trace)


# ----------------------------------------------------------------------- runs

def compare_one_head(checks, db, cell, layer, head, rows, sink, bounds):
    first = cell.n_trivial(layer.N, layer.G)
    where = "%s %s seed %d layer %d head %d" % (cell.label, cell.row["budget_label"], cell.row["seed"], layer.index, head)
    h, gone = measure(cell, layer, head, rows, sink, bounds, first)
    cell.heads[(layer.index, head)] = h
    row = db.execute("SELECT * FROM result_head WHERE cell_id = ? AND layer = ? AND head = ?",
                     (cell.id, layer.index, head)).fetchone()
    if row is None:
        checks.exact("head: row", "missing", "present", where)
        return 0
    compare_head(checks, row, cell, layer, head, h, rows, bounds, first, where)
    compare_series(checks, db, cell, layer, head, h, where)
    if cell.policy == "oracle_minimax":
        compare_ladder(checks, db, cell, layer, head, h, rows, bounds, first, where)
    return compare_tau(checks, db, cell, layer, head, h, gone, rows, first, where)


def compare(trace_path, kept_path, db_path):
    checks, trace = Checks(), Trace(trace_path)
    db = sqlite3.connect("file:%s?mode=ro" % db_path, uri=True)
    cells = load_cells(db, trace.content_id)
    load_sets(kept_path, cells, trace, checks)
    todo = []
    for cell in cells.values():
        why = usable(cell, trace)
        if why:
            print("not compared: %s %s seed %d: %s" % (cell.label, cell.row["budget_label"], cell.row["seed"], why))
            continue
        cell.kv_cvar95, cell.n_violation = {}, 0
        load_own_sets(db, cell, trace)
        todo.append(cell)
    for index in trace.layers:
        layer = trace.layer(index)
        sums = np.zeros((layer.H, layer.N))
        for head in range(layer.H):
            rows, sink, defect = layer.decode_rows(head)
            trace.defect = max(trace.defect, defect)
            sums[head] = rows[:, :layer.N].sum(axis=0)
            bounds = Bounds(rows, layer.N)
            for cell in todo:
                n = compare_one_head(checks, db, cell, layer, head, rows, sink, bounds)
                cell.n_violation = None if n is None or cell.n_violation is None else cell.n_violation + n
        for cell in todo:
            first = cell.n_trivial(trace.N, trace.G)
            held = held_after_prefill(cell, layer)
            for g in range(layer.Hkv):
                heads = [cell.heads[(index, h)] for h in range(g * layer.group, (g + 1) * layer.group)]
                compare_kvhead(checks, db, cell, layer, g, heads, first, held[g])
                cell.held[(index, g)] = held[g]
                cell.bytes_held += held[g] * layer.entry_bytes
            compare_layer(checks, db, cell, layer, first, held)
            check_sets(checks, cell, layer, sums)
    for cell in todo:
        compare_cell(checks, cell, trace, cell.n_violation)
    compare_curves(checks, db, todo, trace)
    checks.report()
    print("%d cells of %d compared, %d differences" % (len(todo), len(cells), checks.failed))
    return 0 if todo and not checks.failed else 1


def self_test():
    """The definitions against worked examples."""
    checks = Checks()
    d = np.array([0, .01, .01, .02, .03, .05, .08, .13, .34, .89])
    for ppm, want in ((500000, .05), (900000, .89), (950000, .89), (990000, .89)):
        checks.mass("quantile", quantile_higher(d, ppm), want, 0, ppm)
    for ppm, want in ((0, .156), (500000, .298), (750000, .518), (850000, .70666666666666667), (950000, .89)):
        checks.mass("cvar", cvar(d, ppm), want, 1e-15, ppm)
    checks.exact("runs", runs_above([0, .2, .3, .05, .4, .4, .4, 0, .1, .5], .1), [(1, 2), (4, 3), (9, 1)], "")

    a = np.array([[.40, .05, .05, .25, .05, .10, .05, .05], [.35, .05, .05, .25, .10, .10, .05, .05],
                  [.30, .05, .25, .10, .10, .10, .05, .05], [.10, .05, .50, .05, .10, .10, .05, .05]])
    w = np.array([.42, .06, .04, .22, .03, .12, .06, .05])
    gone = ~top(w, 3)                                           # positions 0, 3, 5 stay
    bounds = Bounds(a, 8)
    for name, got, want in (
            ("lost", a[:, gone].sum(axis=1), (.25, .30, .50, .75)),
            ("oracle", bounds.oracle(False, 3), (.25, .30, .35, .30)),
            ("fixed", bounds.fixed(False, 3, 0)[0], (.30, .35, .35, .35)),
            ("lost_ns", a[:, gone].sum(axis=1) / a[:, 1:].sum(axis=1), (5 / 12, 6 / 13, 5 / 7, 5 / 6))):
        checks.mass(name, float(np.abs(got - want).max()), 0.0, 1e-12, "")
    mass = (a * gone)[2:4].sum(axis=0)                          # the run above .35
    checks.exact("cause", [cause_of(mass, ~gone, True, 8, n_sink) for n_sink in (1, 4)], ["late_bloomer", "sink_evicted"], "")
    checks.mass("share_top1", mass.max() / mass.sum(), .6, 1e-12, "")
    checks.mass("output error", output_error(np.array([.5, .3, .2]), np.array([[1., 0], [0, 2], [2, 1]]),
                                             np.array([False, True, False])), .5338637990597569, 1e-12, "")
    q = np.rint(a * Q31)                                        # exact for the stored integers
    checks.exact("bound", [bound_q31(np.array(w), np.array(q, np.int64), 2) for w in
                           ((0, 1486719449, 0, 660764199), (1830429, 1482794815, 3315640, 659542764))], [1156337347, 1155992767], "")
    checks.exact("positions", positions(bytes([3, 5, 0x80 | 2, 1, 7])).tolist(), [5, 135, 142], "")
    checks.report()
    return 1 if checks.failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("files", nargs="*", metavar="TRACE KEPT DB")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    if len(args.files) != 3:
        parser.error("expected TRACE.h5 KEPT.jsonl RESULTS.db")
    return compare(*args.files)


if __name__ == "__main__":
    sys.exit(main())
