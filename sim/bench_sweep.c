/* bench_sweep.c - the whole sweep of one SmolLM2-like layer (more with --layers), many
 * policies at many budgets, against its decode rows alone and against a naive sweep.
 *
 * S1: rows.c and mass.c on synthetic rows. S3: kvt_replay on a trace with a database:
 * reading, window rows, scores, choices, decode rows, mass, statistics, store; curves over
 * all budgets, no oracles.
 * S1 in one pass over the rows, as a replay of curves alone, and with the rows kept between
 * the check and the sums, as where oracles look at them too. */
#include "bench_engine.h"
#include "bench_naive.h"
#include "bench_replay.h"

#include <stdlib.h>
#include <string.h>

typedef struct sweep_rows { bench_engine *e; uint32_t layers; } sweep_rows;

static kvt_status sweep_only_rows(void *arg, double *s, kvt_err *err)
{
    const sweep_rows *w = arg;

    (void)s, (void)err;
    for (uint32_t l = 0; l < w->layers; l++)
        bench_engine_only_rows(w->e);
    return KVT_OK;
}

static kvt_status sweep_rows_mass(void *arg, double *s, kvt_err *err)
{
    bench_engine *e = arg;
    double start;

    bench_engine_drop(e);
    start = bench_now_s();
    KVT_TRY(kvt__rows_all(&e->r, err));
    KVT_TRY(kvt__mass(&e->r, err));
    *s = bench_now_s() - start;
    return KVT_OK;
}

static void sweep_item(bench_item *it, const bench_engine *e, const bench_times *rows, const bench_times *t, uint32_t layers)
{
    const double elements = ((double)e->r.N + (e->r.G + 1) / 2.0) * e->r.G * e->r.L.H * layers;

    it->time = *t;
    it->elements = elements;
    it->extra[0].name = "ns_per_element", it->extra[0].value = t->min_s / elements * 1e9;
    it->extra[1].name = "rows_ns_per_element", it->extra[1].value = rows->min_s / elements * 1e9;
    bench_reference(it, "decode rows alone", rows, 0, "s");
    it->ratio = t->min_s / rows->min_s;
}

/* The limits depend on the row back end: a slower one hides the rest. */
static void sweep_target(bench_out *o, const char *id, double ratio, double avx512, double avx2)
{
    if (strcmp(o->conf.kern->name, "avx512") == 0)
        bench_target_add(o, id, ratio, "<=", avx512);
    else if (strcmp(o->conf.kern->name, "avx2") == 0)
        bench_target_add(o, id, ratio, "<=", avx2);
}

static kvt_status sweep_mass(bench_out *o, sweep_rows *plain, size_t stage_bytes, kvt_err *err)
{
    bench_engine *e = NULL;
    bench_times rows, both;
    bench_item *it;
    double *lost = malloc(o->conf.steps * sizeof *lost);
    kvt_status st;

    if (!lost)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    KVT_TRY_GOTO(st, bench_engine_new(&e, &o->conf, o->conf.budgets[0], stage_bytes, err));
    plain->layers = 1;
    KVT_TRY_GOTO(st, bench_pair(&o->conf, sweep_only_rows, plain, sweep_rows_mass, e, &rows, &both, err));
    it = bench_add(o, "rows + mass, %s", stage_bytes ? "rows kept between" : "one pass");
    sweep_item(it, e, &rows, &both, 1);
    bench_engine_plain(e, 0, 0, 0, lost);
    bench_check(it, "f64, one curve point", bench_engine_error(e, 0, 0, 0, lost), 2e-6);
    if (!stage_bytes)
        sweep_target(o, "S1", it->ratio, 2.2, 2.0);
done:
    free(lost);
    bench_engine_free(e);
    return st;
}

static kvt_status sweep_whole(bench_out *o, sweep_rows *plain, kvt_err *err)
{
    bench_replay *w = NULL;
    bench_times rows, all;
    bench_item *it;
    kvt_status st;

    KVT_TRY(bench_replay_new(&w, &o->conf, "sweep", BENCH_STORE | BENCH_CURVES, err));
    plain->layers = o->conf.layers;
    KVT_TRY_GOTO(st, bench_pair(&o->conf, sweep_only_rows, plain, bench_replay_once, w, &rows, &all, err));
    it = bench_add(o, "whole sweep, %u points of curves", w->n_cells);
    sweep_item(it, plain->e, &rows, &all, o->conf.layers);
    sweep_target(o, "S3", it->ratio, 3.5, 3.0);
done:
    bench_replay_free(w);
    return st;
}

static void sweep_naive_item(bench_out *o, const bench_naive *w, int form, const bench_times *ref, const bench_times *sub)
{
    static const char *const what[] = { "(A*mask).sum(1)", "A @ mask", "A @ all masks" };
    static const char *const id[] = { "S4a", "S4b", "S4c" };
    static const double limit[] = { 50, 20, 3 };
    bench_item *it = bench_add(o, "rows + mass, against %s", what[form]);

    it->time = *sub;
    it->extra[0].name = "naive_s", it->extra[0].value = w->min_s[form];
    bench_reference(it, w->python ? "numpy, scaled" : "C, scaled", ref, 0, "s");
    it->ref_value = w->min_s[form];
    it->ratio = w->min_s[form] / sub->min_s;
    if (form == 0)
        bench_check(it, "naive sweep", bench_naive_error(w), 2e-6);
    if (w->python || form > 0)                   /* in C the multiply-and-sum is no yardstick */
        bench_target_add(o, id[form], it->ratio, ">=", limit[form]);
}

static kvt_status sweep_naive(bench_out *o, kvt_err *err)
{
    bench_engine *e = NULL;
    bench_naive *w = NULL;
    bench_times ref, sub;
    kvt_status st;

    KVT_TRY(bench_engine_new(&e, &o->conf, o->conf.budgets[0], 0, err));
    KVT_TRY_GOTO(st, bench_naive_new(&w, e, &o->conf, err));
    KVT_TRY_GOTO(st, bench_pair(&o->conf, bench_naive_once, w, sweep_rows_mass, e, &ref, &sub, err));
    o->has_baseline = w->python;
    for (int form = 0; form < (w->python ? 3 : 2); form++)
        sweep_naive_item(o, w, form, &ref, &sub);
    bench_note(o, "naive: %u of %u heads and %u of %u pairs measured and scaled, %u processes; masks and rows are given to it",
               w->n_heads, e->r.L.H, w->n_pairs, e->r.n_cells, w->n_threads);
    if (!w->python)
        bench_note(o, "python3 with numpy did not run: forms a and b in C; c needs a BLAS and is not measured");
done:
    bench_naive_free(w);
    bench_engine_free(e);
    return st;
}

kvt_status bench_sweep(bench_out *o, kvt_err *err)
{
    sweep_rows plain = { NULL, 1 };
    kvt_status st;

    KVT_TRY(bench_replay_sizes(&o->conf, 4096, 512, BENCH_POLICIES_MAX, 32, err));
    KVT_TRY(bench_engine_new(&plain.e, &o->conf, 1, 0, err));
    KVT_TRY_GOTO(st, sweep_mass(o, &plain, 0, err));
    KVT_TRY_GOTO(st, sweep_mass(o, &plain, SIZE_MAX, err));
    KVT_TRY_GOTO(st, sweep_whole(o, &plain, err));
    if (o->conf.baseline)
        KVT_TRY_GOTO(st, sweep_naive(o, err));
done:
    bench_engine_free(plain.e);
    return st;
}
