/* bench_replay.c - see bench_replay.h. */
#include "bench_replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "kvt_store.h"
#include "trace_synth.h"

enum { REPLAY_WINDOW = 128, REPLAY_WIDTH = 64 };   /* width: of the projection behind nu, which only costs time here */

/* One-shot policies that need no queries before the window. */
static const char *const replay_policies[BENCH_POLICIES_MAX] = {
    "snapkv", "pyramidkv", "adakv_snap", "adakv_pyramid", "criticalkv", "critical_adakv", "defensivekv", "layer_defensivekv",
    "cake:impl=dkv", "chunkkv", "keydiff", "knorm", "lagkv", "streaming", "random_protect", "random"
};

static kvt_status drop_claim(void *self, const kvt_cell *cell, int *todo, kvt_err *err)
{
    (void)self, (void)cell, (void)err;
    *todo = 1;
    return KVT_OK;
}

static kvt_status drop_store(void *self, const kvt_cell *cell, const kvt_result *r, kvt_err *err)
{
    (void)self, (void)cell, (void)r, (void)err;
    return KVT_OK;
}

static kvt_status drop_fail(void *self, const kvt_cell *cell, const char *why, kvt_err *err)
{
    (void)self, (void)cell, (void)why, (void)err;
    return KVT_OK;
}

static kvt_status drop_curve_claim(void *self, const kvt_curve_id *id, int *todo, kvt_err *err)
{
    (void)self, (void)id, (void)err;
    *todo = 1;
    return KVT_OK;
}

static kvt_status drop_curve_store(void *self, const kvt_curve_id *id, const kvt_curve_row *row, size_t n_row, kvt_err *err)
{
    (void)self, (void)id, (void)row, (void)n_row, (void)err;
    return KVT_OK;
}

static const kvt_sink_ops drop_ops = { "dropped", drop_claim, drop_store, drop_fail, drop_curve_claim, drop_curve_store };

kvt_status bench_replay_sizes(bench_conf *c, uint32_t n, uint32_t steps, uint32_t policies, uint32_t budgets, kvt_err *err)
{
    c->n = c->n ? c->n : n;
    c->d = c->d ? c->d : 64;
    c->steps = c->steps ? c->steps : steps;
    c->heads = c->heads ? c->heads : 9;
    c->kv_heads = c->kv_heads ? c->kv_heads : 3;
    c->layers = c->layers ? c->layers : 1;
    c->policies = c->policies ? c->policies : policies;
    c->budgets[0] = c->budgets[0] ? c->budgets[0] : budgets;
    if (c->trace) {
        kvt_source src = { 0 };
        const kvt_layer_info *first = NULL;

        KVT_TRY(kvt_source_open(&src, c->trace, 0, err));
        c->layers = 0;
        for (uint32_t l = 0; l < src.info->n_layers; l++)
            if (src.info->layer[l].attn == KVT_ATTN_FULL && c->layers++ == 0)
                first = &src.info->layer[l];
        c->n = src.info->n_prompt, c->steps = src.info->n_decode;
        if (first)
            c->d = first->d_k, c->heads = first->n_heads, c->kv_heads = first->n_kv_heads;
        kvt_source_close(&src);
        if (!first)
            return kvt_fail(err, KVT_ENOTSUP, "%s: no layer with full attention", c->trace);
    }
    return KVT_OK;
}

static kvt_status replay_budgets(bench_replay *w, const bench_conf *c, kvt_err *err)
{
    uint32_t cut[BENCH_BUDGETS_MAX];

    w->n_config = c->policies;
    for (uint32_t p = 0; p < c->policies; p++)
        KVT_TRY(kvt_config_parse(&w->config[p], replay_policies[p], err));
    if (w->how & BENCH_CURVES) {
        w->n_cells = c->policies * kvt_curve_grid(w->src.info->n_prompt, c->budgets[0], cut);
        return KVT_OK;
    }
    w->n_budget = c->budgets[0] < BENCH_BUDGETS_MAX ? c->budgets[0] : BENCH_BUDGETS_MAX;
    bench_cuts(1000000, w->n_budget, cut);
    for (uint32_t b = 0; b < w->n_budget; b++) {
        char text[32];
        snprintf(text, sizeof text, "%.6f", cut[b] / 1e6);
        KVT_TRY(kvt_budget_parse(&w->budget[b], text, KVT_RULE_SHARE, err));
    }
    for (uint32_t p = 0; p < w->n_config; p++)
        for (uint32_t b = 0; b < w->n_budget; b++)
            w->n_cells += kvt_plan_check(w->src.info, w->config[p], &w->budget[b], NULL) == KVT_OK;
    return w->n_cells ? KVT_OK : kvt_fail(err, KVT_EARG, "no policy can run at these sizes; use a longer prompt, or more budgets");
}

kvt_status bench_replay_new(bench_replay **out, const bench_conf *c, const char *name, int how, kvt_err *err)
{
    bench_replay *w = calloc(1, sizeof *w);
    const kvt_synth synth = { .n_layers = c->layers, .n_heads = c->heads, .n_kv_heads = c->kv_heads, .head_dim = c->d,
                              .n_prompt = c->n, .n_decode = c->steps, .window = REPLAY_WINDOW, .type = KVT_BF16, .seed = c->seed,
                              .model_dim = REPLAY_WIDTH, .no_stats = 1 };
    kvt_status st;

    if (!w)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    w->how = how;
    snprintf(w->db, sizeof w->db, "%s/%s.db", c->dir, name);
    if (!c->trace) {
        snprintf(w->path, sizeof w->path, "%s/%s.h5", c->dir, name);
        KVT_TRY_GOTO(st, kvt_synth_write(w->path, &synth, err));
    }
    KVT_TRY_GOTO(st, kvt_source_open(&w->src, c->trace ? c->trace : w->path, 0, err));
    KVT_TRY_GOTO(st, replay_budgets(w, c, err));
    w->opts = (kvt_replay_opts){ .config = (const kvt_config *const *)w->config, .n_config = w->n_config, .budget = w->budget,
                                 .n_budget = w->n_budget,
                                 .n_curve = how & BENCH_CURVES ? c->budgets[0] : 0, .seed = c->seed, .n_seeds = 1, .n_threads = c->threads, .kernels = c->kern };
    *out = w;
    return KVT_OK;
done:
    bench_replay_free(w);
    return st;
}

static void replay_remove_db(const bench_replay *w)
{
    char side[sizeof w->db + 8];

    unlink(w->db);
    snprintf(side, sizeof side, "%s-wal", w->db);
    unlink(side);
    snprintf(side, sizeof side, "%s-shm", w->db);
    unlink(side);
}

void bench_replay_free(bench_replay *w)
{
    if (!w)
        return;
    kvt_source_close(&w->src);
    for (uint32_t i = 0; i < w->n_config; i++)
        kvt_config_free(w->config[i]);
    if (w->path[0])
        unlink(w->path);
    replay_remove_db(w);
    free(w);
}

kvt_status bench_replay_once(void *arg, double *s, kvt_err *err)
{
    static char word[] = "bench";
    bench_replay *w = arg;
    char *argv[] = { word, NULL };
    const kvt_run_info run = { .command = "bench", .argc = 1, .argv = argv, .config_sha256 = "", .seed = w->opts.seed,
                               .n_threads = w->opts.n_threads, .isa = w->opts.kernels->name };
    kvt_store *store = NULL;
    double start;
    kvt_status st;

    if (!(w->how & BENCH_STORE)) {
        const kvt_sink sink = { &drop_ops, NULL };
        return kvt_replay(&w->src, &w->opts, sink, err);
    }
    replay_remove_db(w);
    start = bench_now_s();
    KVT_TRY(kvt_store_open(&store, w->db, &run, err));
    st = kvt_replay(&w->src, &w->opts, kvt_store_sink(store), err);
    if (st == KVT_OK)
        st = kvt_store_finish(store, 0, err);
    kvt_store_close(store);
    *s = bench_now_s() - start;
    return st;
}
