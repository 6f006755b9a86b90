#!/usr/bin/env python3
"""Make a plausible results database without replaying anything.

    fake_results.py SCHEMA.sql OUT.db [--layers 30] [--kv 3] [--group 3] [--prompt 560]
        [--steps 128] [--traces 1] [--models 1] [--curves] [--hostile] [--redacted] [--empty]

Numbers are a fixed function of their place; the schema's CHECKs hold. --hostile puts
markup, control and direction characters and broken UTF-8 wherever text may stand.
"""
import argparse
import functools
import hashlib
import json
import math
import sqlite3
import struct

POLICIES = [  # name, title, role, timing, budgeted, fixed, nested, adaptive, aware, quality (1 = oracle)
    ("adakv_snap", "AdaKV on SnapKV scores", "policy", "prefill", "prompt", 1, 1, 1, 1, .80),
    ("cake", "CAKE", "policy", "prefill", "prompt", 1, 0, 1, 1, .62),
    ("criticalkv", "CriticalKV", "policy", "prefill", "prompt", 1, 0, 0, 1, .77),
    ("defensivekv", "DefensiveKV", "policy", "prefill", "prompt", 1, 0, 1, 1, .84),
    ("h2o", "Heavy-hitter oracle", "policy", "decode", "all", 0, 0, 0, 1, .55),
    ("layer_defensivekv", "DefensiveKV over layers", "policy", "prefill", "prompt", 1, 0, 1, 1, .86),
    ("pyramidkv", "PyramidKV", "policy", "prefill", "prompt", 1, 0, 0, 1, .70),
    ("snapkv", "SnapKV", "policy", "prefill", "prompt", 1, 1, 0, 1, .74),
    ("snapkv:kernel=7,window=64", "SnapKV", "policy", "prefill", "prompt", 1, 1, 0, 1, .72),
    ("tova", "TOVA", "policy", "decode", "all", 0, 0, 0, 1, .58),
    ("full", "Full cache", "baseline", "none", "prompt", 1, 1, 0, 0, 9),
    ("random", "Random", "baseline", "prefill", "prompt", 1, 1, 0, 0, .05),
    ("random_protect", "Random, sinks and window protected", "baseline", "prefill", "prompt", 1, 1, 0, 0, .40),
    ("streaming", "Sinks and recent entries", "baseline", "prefill", "prompt", 1, 1, 0, 0, .35),
    ("oracle_fixed", "Best fixed set in hindsight", "oracle", "hindsight", "prompt", 1, 1, 0, 1, .92),
    ("oracle_step", "Best set per step", "oracle", "hindsight", "prompt", 0, 1, 0, 1, 1),
]
BUDGETS = [.05, .1, .2, .4, .6, .8]
CAUSES = ["late_bloomer", "selection", "infeasible", "sink_evicted", "new_token", "mixed"]
WORDS = ("The committee met in the old customs house on the river to hear what the harbour master had to say about the "
         "missing ledger . Nobody could remember who had signed for it , and the key to the strong room was gone . Café "
         "owners along the quay spoke of a stranger with a grey coat ; the clerk wrote everything down twice .").split()
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\u202egnp.exe", "a\u2028b", "\ud83d",
           "\x00nul", "<!--<script>", "]]>&amp;&#x3c;", "caf\u00e9\nnext\tcell", "\x1b[31mred\x07", "' OR 1=1 --", "\" onclick=\"x",
           "%s%n%d", "\ufeff\u200b\u00ad", "</title></style><h1>big"]


def sha(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def noise(*key):
    """A number in 0..1 that depends on the key alone."""
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:12], 16) / 16 ** 12


def quantile(values, q):
    return values[min(len(values) - 1, math.ceil(q * (len(values) - 1)))]


def cvar(values, share):
    """Mean of the largest `share`, the last atom in part."""
    left, total, mass = share * len(values), 0.0, share * len(values)
    for v in reversed(values):
        take = min(1.0, left)
        total += take * v
        left -= take
        if left <= 0:
            break
    return total / mass


class Fake:
    def __init__(self, args):
        self.a = args
        self.db = sqlite3.connect(args.out)
        self.db.executescript(open(args.schema, encoding="utf-8").read())
        self.n_hostile = 0

    def text(self, plain):
        """The plain text, or the next hostile one. SQLite text holds any valid UTF-8, and NUL."""
        if not self.a.hostile:
            return plain
        self.n_hostile += 1
        bad = HOSTILE[self.n_hostile % len(HOSTILE)].encode("utf-8", "replace").decode()
        return "%s %s %d" % (plain, bad, self.n_hostile)

    def insert(self, table, **row):
        columns = ", ".join(row)
        cur = self.db.execute("INSERT INTO %s(%s) VALUES (%s)" % (table, columns, ", ".join("?" * len(row))), list(row.values()))
        return cur.lastrowid

    def fill_run(self):
        self.insert("run", uuid="run-1", command="replay", started_utc="2025-03-04T05:06:07Z", finished_utc="2025-03-04T05:09:10Z",
                    status="done", exit_code=0, tool_version="0.1.0", git_commit="0123456789abcdef0123456789abcdef01234567",
                    git_dirty=1, argv_json=json.dumps([self.text("kvtrace"), "replay", "t.h5", "-o", "r.db"]), config_sha256=sha("c"),
                    seed=1, n_thread=2, host=self.text("host"), pid=1, backend="cpu", compiler=self.text("GNU 12.2.0"),
                    cflags="-O2 -ffp-contract=off", libc="glibc 2.36", cpu=self.text("x86-64, avx2"), os="Linux 6.1", sqlite_version="3.40.1")

    def fill_policies(self):
        for i, (name, title, role, timing, budgeted, fixed, nested, adaptive, aware, _) in enumerate(POLICIES, 1):
            self.insert("policy", policy_id=i, name=name.replace(":", "_").replace(",", "_").replace("=", "_"), title=self.text(title), role=role,
                        timing=timing, budgeted=budgeted, fixed_set=fixed, nested=nested, head_adaptive=adaptive, query_aware=aware,
                        reference=self.text("arXiv 2404.14469") if role == "policy" else None)
            config = json.dumps({"id": name})
            self.insert("policy_config", config_id=i, policy_id=i, label=self.text(name), semantics="code" if role == "policy" else "same",
                        may_overshoot=0, canonical_json=config, sha256=sha(config))
            if role == "policy":
                self.insert("policy_param", config_id=i, key="window", value_num=32)
                self.insert("policy_param", config_id=i, key="kernel", value_num=5)
                self.insert("policy_param", config_id=i, key="pooling", value_text=self.text("max"))
        for i, b in enumerate(BUDGETS, 1):
            self.insert("budget", budget_id=i, kind="share", value=b, rule="share", label=str(b))

    def fill_model(self, m):
        self.insert("model", model_id=m, name=self.text("made-up-%dm" % (135 * m)), revision="1", n_layer=self.a.layers)
        for layer in range(self.a.layers):
            self.insert("model_layer", model_id=m, layer=layer, n_q_head=self.a.kv * self.a.group, n_kv_head=self.a.kv, d_k=64, d_v=64, attn_type="full")

    def token(self, trace, pos):
        if self.a.hostile and pos % 3 == 0:
            return HOSTILE[pos // 3 % len(HOSTILE)].encode("utf-8", "surrogatepass")
        if pos % 41 == 7:
            return b" \xf0\x9f"                     # the first half of a character ...
        if pos % 41 == 8:
            return b"\x9a\xa2"                      # ... and its second half
        if pos % 57 == 11:
            return b"\n"
        word = WORDS[(pos * 7 + trace) % len(WORDS)]
        return (word if word in ".,;" else " " + word).encode()

    def fill_trace(self, trace, m):
        a = self.a
        self.insert("trace", trace_id=trace, content_id=sha("trace %d" % trace), name=self.text("harbour-%d" % trace), model_id=m, dataset_id=1,
                    cluster_id=self.text("document-%d" % trace), split="test", kind="recorded", exactness="engine-operands", n_prompt=a.prompt, n_decode=a.steps,
                    n_window=32, question_start=a.prompt - 20, end_reason="limit", k_dtype="f16", v_dtype="f16", q_dtype="f16", row_source="qk",
                    has_value=1, has_wo=0, has_value_norm=0, redacted=int(a.redacted), engine="transformers", format_major=1, format_minor=0, bytes=12345678)
        for pos in range(a.prompt + a.steps):
            self.insert("trace_token", trace_id=trace, pos=pos, token_id=1000 + pos % 97, bytes=None if a.redacted else self.token(trace, pos))
        self.insert("trace_segment", trace_id=trace, seg_no=0, kind="system", label=self.text("system"), start_pos=0, end_pos=24)
        self.insert("trace_segment", trace_id=trace, seg_no=1, kind="document", label="text", start_pos=24, end_pos=a.prompt - 20)
        self.insert("trace_segment", trace_id=trace, seg_no=2, kind="question", label="q", start_pos=a.prompt - 20, end_pos=a.prompt)

    @functools.lru_cache(maxsize=None)
    def need(self, trace, layer, head):
        """How much of the attention goes to few old entries, per step."""
        level = noise("level", layer, head) ** 3 * .5 + .01
        bursts = [(noise("h", layer, head, k) ** 2, self.a.steps * noise("at", trace, layer, head, k), 1.5 + 3 * noise("w", layer, k)) for k in range(3)]
        return [min(.97, level + .03 * noise("t", trace, layer, head, t) + sum(h * math.exp(-((t - at) / w) ** 2) for h, at, w in bursts))
                for t in range(self.a.steps)]

    def series(self, trace, config, share, layer, head):
        """(lost, oracle) per step: a floor with a few bursts that differ by head."""
        quality = POLICIES[config - 1][9]
        if quality > 1:
            return [0.0] * self.a.steps, [0.0] * self.a.steps
        lost, oracle = [], []
        other = [.6 + .8 * noise(config, layer, head, k) for k in range(self.a.steps // 9 + 1)]
        for t, need in enumerate(self.need(trace, layer, head)):
            floor = need * (1 - share) ** 3 * .35
            oracle.append(floor)
            lost.append(min(.995, floor + (1 - quality) * need * (1 - share) ** 1.5 * other[t // 9]))
        return lost, oracle

    def fill_head(self, cell, trace, config, budget, layer, head, n_held):
        lost, oracle = self.series(trace, config, BUDGETS[budget - 1], layer, head)
        lo, n = sorted(lost), len(lost)
        ns = [min(1.0, 1.15 * x) for x in lost]
        fixed = [o + .35 * (x - o) for x, o in zip(lost, oracle)]
        c95 = cvar(lo, .05)
        self.insert("result_head", cell_id=cell, layer=layer, head=head, n_step=n, n_trivial=0, n_held=n_held, lost_mean=sum(lost) / n,
                    lost_max=lo[-1], max_step=lost.index(lo[-1]), lost_q50=quantile(lo, .5), lost_q90=quantile(lo, .9), lost_q95=quantile(lo, .95),
                    lost_q99=quantile(lo, .99), lost_cvar95=c95, lost_cvar99=max(c95, cvar(lo, .01)), ns_n=n, lost_ns_mean=sum(ns) / n,
                    lost_ns_max=max(ns), ns_max_step=ns.index(max(ns)), lost_ns_q95=quantile(sorted(ns), .95), lost_ns_cvar95=cvar(sorted(ns), .05),
                    err_n=0, oracle_mean=sum(oracle) / n, oracle_max=max(oracle), fixed_mean=sum(fixed) / n, fixed_max=max(fixed),
                    regret_mean=sum(x - o for x, o in zip(lost, oracle)) / n, regret_max=max(x - o for x, o in zip(lost, oracle)))
        runs = 0
        for tau_id, tau in ((1, .5), (2, .25), (3, .1)):
            over = [x > tau for x in lost]
            starts = [t for t in range(n) if over[t] and (t == 0 or not over[t - 1])]
            ends = [next((u for u in range(t, n) if not over[u]), n) for t in starts]
            lengths = [e - s for s, e in zip(starts, ends)]
            longest = max(lengths, default=0)
            self.insert("result_head_tau", cell_id=cell, layer=layer, head=head, tau_id=tau_id, n_exceed=sum(over), n_infeasible=sum(o > tau for o in oracle),
                        n_run=len(starts), longest_run=longest, longest_start=starts[lengths.index(longest)] if starts else None,
                        first_step=starts[0] if starts else None, excess_area=sum(x - tau for x in lost if x > tau))
            runs += len(starts)
        return lost, oracle, ns, runs

    def fill_violation(self, cell, trace, layer, head, tau_id, start, end, lost, oracle):
        peak = max(range(start, end), key=lambda t: lost[t])
        cause = CAUSES[int(noise("c", layer, head, start) * 3.2)] if start % 11 else CAUSES[3 + start % 3]
        top = .25 + .5 * noise("s", layer, start)
        v = self.insert("violation", cell_id=cell, layer=layer, head=head, tau_id=tau_id, start_step=start, n_step=end - start, peak_step=peak,
                        peak_lost=lost[peak], peak_oracle_lost=oracle[peak], excess_area=sum(x - .5 for x in lost[start:end] if x > .5), cause=cause,
                        foreseeable=int(noise(start) > .5), recurrent=int(noise(head, start) > .5), share_top1=top, share_top5=top + .1, share_top20=min(1, top + .2))
        for k in range(8):
            pos = int(noise("pos", layer, head, start, k) * (self.a.prompt - 33))
            important = [None, -1, max(0, peak - 40)][k % 3]
            self.insert("violation_token", violation_id=v, ord=k + 1, pos=pos, mass_share=top / (1 + 3 * k), evicted_step=-1 if k % 4 else start // 2,
                        window_rank=int(100 + 300 * noise("r", k, start)), window_score=.001 * noise("x", k), score_margin=.002 * noise("m", k) / (1 + 40 * (k == 2)),
                        last_important=important, idle_steps=None if important is None else start - max(important, 0) if start > max(important, 0) else 0)

    def fill_cell(self, trace, config, budget):
        a = self.a
        n_head, share = a.kv * a.group, 1.0 if POLICIES[config - 1][0] == "full" else BUDGETS[budget - 1]
        held = round(share * a.prompt)
        cell = self.insert("cell", key_sha256=sha("cell %d %d %d" % (trace, config, budget)), trace_id=trace, config_id=config, budget_id=budget, engine_version=1,
                           metric_version=1, seed=1, requested_tokens=BUDGETS[budget - 1] * a.prompt, status="done", run_id=1, attempt=1, wall_s=1.0, result_sha256=sha("r"))
        heads = {}
        n_violation = 0
        for layer in range(a.layers):
            rows = [self.fill_head(cell, trace, config, budget, layer, h, held) for h in range(n_head)]
            for h, row in enumerate(rows):
                heads[layer, h] = row
                n_violation += row[3]
            for g in range(a.kv):
                group = rows[g * a.group:(g + 1) * a.group]
                for agg in ("max", "mean"):
                    x = [max(v) if agg == "max" else sum(v) / len(v) for v in zip(*(r[0] for r in group))]
                    y = [max(v) if agg == "max" else sum(v) / len(v) for v in zip(*(r[2] for r in group))]
                    self.insert("result_kvhead", cell_id=cell, layer=layer, kv_head=g, agg=agg, n_held=held, lost_mean=sum(x) / len(x), lost_max=max(x),
                                max_step=x.index(max(x)), lost_q95=quantile(sorted(x), .95), lost_cvar95=cvar(sorted(x), .05), lost_ns_mean=sum(y) / len(y),
                                lost_ns_max=max(y), lost_ns_cvar95=cvar(sorted(y), .05))
            tail = [cvar(sorted(r[0]), .05) for r in rows]
            peaks = [max(r[0]) for r in rows]
            self.insert("result_layer", cell_id=cell, layer=layer, held_mean=held, lost_mean=sum(sum(r[0]) / len(r[0]) for r in rows) / n_head,
                        lost_worst=max(peaks), worst_head=peaks.index(max(peaks)), cvar95_worst_head=max(tail))
        self.fill_summary(cell, heads, held, share, n_violation)
        worst = sorted(heads, key=lambda k: (-cvar(sorted(heads[k][0]), .05), k))[:8]
        for layer, h in worst:
            lost, oracle = heads[layer, h][:2]
            for name, x in (("lost", lost), ("oracle", oracle)):
                self.insert("result_series", cell_id=cell, layer=layer, head=h, metric=name, step0=0, n=len(x), codec="u32q31le",
                            data=struct.pack("<%dI" % len(x), *(round(v * 2 ** 31) for v in x)))
            for tau_id, tau in ((1, .5), (2, .25), (3, .1)):
                t = 0
                while t < len(lost):
                    end = t
                    while end < len(lost) and lost[end] > tau:
                        end += 1
                    if end > t:
                        self.fill_violation(cell, trace, layer, h, tau_id, t, end, lost, oracle)
                    t = max(end, t + 1)
        return cell

    def fill_summary(self, cell, heads, held, share, n_violation):
        n = len(heads)
        (layer, head), row = max(heads.items(), key=lambda kv: max(kv[1][0]))
        tails = [cvar(sorted(r[0]), .05) for r in heads.values()]
        self.insert("result_cell", cell_id=cell, n_head=n, held_share=share, held_mean=held, held_min=held, held_max=held, bytes_logical=held * 256 * n,
                    bytes_physical=held * 256 * n, tie_share=0.0, row_defect_max=1e-6, lost_mean=sum(sum(r[0]) / len(r[0]) for r in heads.values()) / n,
                    lost_worst=max(row[0]), worst_layer=layer, worst_head=head, worst_step=row[0].index(max(row[0])), cvar95_mean=sum(tails) / n,
                    cvar95_worst_head=max(tails), lost_ns_worst=max(max(r[2]) for r in heads.values()),
                    ns_cvar95_worst=max(cvar(sorted(r[2]), .05) for r in heads.values()), out_err_basis="none",
                    oracle_worst=max(max(r[1]) for r in heads.values()), regret_mean=.01, n_violation=n_violation, flags=0)

    def fill_curve(self, trace, config):
        """24 budgets in equal ratios, and the named ones between them."""
        a, n_head = self.a, self.a.kv * self.a.group
        if POLICIES[config - 1][3] not in ("prefill", "hindsight"):
            return
        kept = sorted({max(1, round(a.prompt * .01 * 99 ** (i / 23))) for i in range(24)} | {round(a.prompt * b) for b in BUDGETS})
        blob = struct.pack("<%dI" % len(kept), *kept)
        self.db.execute("INSERT OR IGNORE INTO curve_grid(sha256, n_point, kept) VALUES (?, ?, ?)", (hashlib.sha256(blob).hexdigest(), len(kept), blob))
        grid = self.db.execute("SELECT grid_id FROM curve_grid WHERE kept = ?", (blob,)).fetchone()[0]
        outside = 0 if POLICIES[config - 1][6] else 2

        def insert(level, layer, head, points, n_not_nested):
            words = [round(points[k][m] * 2 ** 31) for m in range(4) for k in range(len(kept))]
            self.insert("result_curve", trace_id=trace, config_id=config, engine_version=1, metric_version=1, seed=1, level=level, layer=layer, head=head,
                        metrics="lost_mean,lost_q95,lost_cvar95,lost_max", grid_id=grid, data=struct.pack("<%dI" % len(words), *words), n_not_nested=n_not_nested)

        def join(rows):
            return [[sum(r[k][0] for r in rows) / len(rows)] + [max(r[k][m] for r in rows) for m in (1, 2, 3)] for k in range(len(kept))]

        every = []
        for layer in range(a.layers):
            rows = []
            for head in range(n_head):
                sorts = [sorted(self.series(trace, config, k / a.prompt, layer, head)[0]) for k in kept]
                rows.append([[sum(x) / len(x), quantile(x, .95), cvar(x, .05), x[-1]] for x in sorts])
                insert("head", layer, head, rows[-1], outside)
            insert("layer", layer, -1, join(rows), outside * n_head)
            every += rows
        insert("model", -1, -1, join(every), outside * len(every))

    def fill_checks(self, cell):
        for name, status, value, lim, message in (
                ("full_cache_floor", "ok", 0.0, 0.0, ""), ("oracle_dominates", "ok", 0.0, 5e-5, ""), ("budget_realised", "ok", 0.0, 1.0, "held 112, asked for 112"),
                ("row_defect", "ok", 1e-6, 2e-3, "largest |sum - 1|"), ("tie_share", "warn", .031, .01, "layer 3: 3.1 % of the choices were ties"),
                ("cluster_count", "warn", 1.0, 20.0, "one document: numbers describe this document only")):
            self.insert("validity", run_id=1, cell_id=cell, check_name=name, status=status, value=value, lim=lim, message=self.text(message) if message else "")

    def fill(self):
        a = self.a
        if not a.empty:
            self.fill_run()
            self.fill_policies()
            self.insert("dataset", dataset_id=1, name=self.text("letters"), revision="1")
            trace = 0
            for m in range(1, a.models + 1):
                self.fill_model(m)
                for _ in range(a.traces):
                    trace += 1
                    self.fill_trace(trace, m)
                    for config in range(1, len(POLICIES) + 1):
                        for budget in range(1, len(BUDGETS) + 1):
                            cell = self.fill_cell(trace, config, budget)
                        if a.curves:
                            self.fill_curve(trace, config)
            self.fill_checks(cell)
        self.db.commit()
        self.db.close()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("schema")
    p.add_argument("out")
    for name, value in (("layers", 30), ("kv", 3), ("group", 3), ("prompt", 560), ("steps", 128), ("traces", 1), ("models", 1)):
        p.add_argument("--" + name, type=int, default=value)
    for name in ("curves", "hostile", "redacted", "empty"):
        p.add_argument("--" + name, action="store_true")
    Fake(p.parse_args()).fill()


if __name__ == "__main__":
    main()
