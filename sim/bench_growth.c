/* bench_growth.c - how the time of a replay grows, and what its database costs. */
#include "bench_replay.h"

kvt_status bench_store(bench_out *o, kvt_err *err)
{
    bench_replay *with = NULL, *without = NULL;
    bench_times rt, st_;
    bench_item *it;
    kvt_status st;

    KVT_TRY(bench_replay_sizes(&o->conf, 1024, 128, 8, 8, err));
    KVT_TRY_GOTO(st, bench_replay_new(&without, &o->conf, "without", 0, err));
    KVT_TRY_GOTO(st, bench_replay_new(&with, &o->conf, "with", 1, err));
    KVT_TRY_GOTO(st, bench_pair(&o->conf, bench_replay_once, without, bench_replay_once, with, &rt, &st_, err));
    it = bench_add(o, "sweep with store, over without");
    it->time = st_;
    it->extra[0].name = "cells", it->extra[0].value = with->n_cells;
    it->extra[1].name = "ms_per_cell", it->extra[1].value = (st_.min_s - rt.min_s) / with->n_cells * 1e3;
    bench_reference(it, "sweep without store", &rt, 0, "s");
    it->ratio = st_.min_s / rt.min_s;
    bench_target_add(o, "D1", it->ratio, "<=", 1.10);
    bench_note(o, "D1's other half compares a blob path with the prepared row path: there is no blob path yet");
done:
    bench_replay_free(with);
    bench_replay_free(without);
    return st;
}

/* Twice as much of one thing: ratio 2 is linear, 1 is free. */
static kvt_status growth_item(bench_out *o, bench_replay *base, const bench_conf *twice, const char *what, uint32_t times, kvt_err *err)
{
    bench_replay *w = NULL;
    bench_times rt, et;
    bench_item *it;
    kvt_status st;

    KVT_TRY(bench_replay_new(&w, twice, what, BENCH_CURVES, err));
    KVT_TRY_GOTO(st, bench_pair(&o->conf, bench_replay_once, base, bench_replay_once, w, &rt, &et, err));
    it = bench_add(o, "%u x %s", times, what);
    it->time = et;
    it->extra[0].name = "cells", it->extra[0].value = w->n_cells;
    bench_reference(it, "replay at 1 x", &rt, 0, "s");
    it->ratio = et.min_s / rt.min_s;
done:
    bench_replay_free(w);
    return st;
}

kvt_status bench_scale(bench_out *o, kvt_err *err)
{
    bench_replay *base = NULL;
    bench_conf c;
    kvt_status st;

    KVT_TRY(bench_replay_sizes(&o->conf, 1024, 128, 4, 8, err));
    KVT_TRY(bench_replay_new(&base, &o->conf, "base", BENCH_CURVES, err));
    c = o->conf, c.layers *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "layers", 2, err));
    c = o->conf, c.steps *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "steps", 2, err));
    c = o->conf, c.n *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "keys", 2, err));
    c = o->conf, c.budgets[0] *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "budgets", 2, err));
    c = o->conf, c.budgets[0] *= 4;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "budgets", 4, err));
    bench_note(o, "curves, dropped instead of stored; expected: 2 for layers, steps and keys, 1 for budgets");
done:
    bench_replay_free(base);
    return st;
}
