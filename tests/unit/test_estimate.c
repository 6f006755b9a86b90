/* test_estimate.c - goal: the estimate of a replay counts the cells that the replay then
 * stores, asks claim() for each of them, and grows with everything that costs. Times are
 * computed from given rates, so nothing here depends on the machine's speed. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "estimate.h"
#include "trace_synth.h"

enum { MAX_BUDGETS = 4, MAX_CONFIGS = 6 };

static char folder[64], path[128];
static kvt_err err;
static const kvt_rates rates = { { 1e-10, 1e-8, 2e-10 } };

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/kvt_estimate_XXXXXX");
    cr_assert(mkdtemp(folder), "no folder below /tmp");
    snprintf(path, sizeof path, "%s/t.h5", folder);
}

static void remove_folder(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert(system(command) == 0);
}

TestSuite(estimate, .init = make_folder, .fini = remove_folder);

static kvt_source trace(uint32_t n_layers, uint32_t n_prompt, uint32_t n_decode)
{
    const kvt_synth s = { .n_layers = n_layers, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .n_prompt = n_prompt,
                          .n_decode = n_decode, .window = 64, .type = KVT_BF16, .seed = 9 };
    kvt_source src = { 0 };
    cr_assert(kvt_synth_write(path, &s, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_source_open(&src, path, 0, &err) == KVT_OK, "%s", err.text);
    return src;
}

/* ------------------------------------------------------------ a sink that counts */

typedef struct counting { uint32_t n_claimed, n_stored, n_heads; uint32_t done_below; } counting;

static kvt_status count_claim(void *self, const kvt_cell *cell, int *todo, kvt_err *e)
{
    counting *c = self;
    (void)cell, (void)e;
    *todo = c->n_claimed++ >= c->done_below;
    return KVT_OK;
}

static kvt_status count_store(void *self, const kvt_cell *cell, const kvt_result *r, kvt_err *e)
{
    counting *c = self;
    (void)cell, (void)e, (void)r;
    c->n_stored++;
    return KVT_OK;
}

static kvt_status count_fail(void *self, const kvt_cell *cell, const char *why, kvt_err *e)
{
    (void)self, (void)cell, (void)e;
    cr_assert(0, "%s", why);
    return KVT_OK;
}

static const kvt_sink_ops count_ops = { "counting", count_claim, count_store, count_fail, NULL, NULL };

/* ------------------------------------------------------------ a run */

typedef struct plan { kvt_config *config[MAX_CONFIGS]; kvt_budget budget[MAX_BUDGETS]; kvt_replay_opts opts; } plan;

static void plan_make(plan *p, uint32_t n_config, const char *const *spec, uint32_t n_budget, const char *const *budget)
{
    *p = (plan){ .opts = { .n_config = n_config, .n_budget = n_budget, .n_threads = 2 } };
    for (uint32_t i = 0; i < n_config; i++) cr_assert(kvt_config_parse(&p->config[i], spec[i], &err) == KVT_OK, "%s", err.text);
    for (uint32_t i = 0; i < n_budget; i++)
        cr_assert(kvt_budget_parse(&p->budget[i], budget[i], KVT_RULE_SHARE, &err) == KVT_OK, "%s", err.text);
    p->opts.config = (const kvt_config *const *)p->config;
    p->opts.budget = p->budget;
}

static void plan_free(plan *p)
{
    for (uint32_t i = 0; i < p->opts.n_config; i++) kvt_config_free(p->config[i]);
}

static const char *const specs[MAX_CONFIGS] = { "snapkv:window=8", "random", "tova", "oracle_fixed", "layer_defensivekv", "cake" };
static const char *const budgets[MAX_BUDGETS] = { "0.2", "0.5", "40t", "0.05" };

static kvt_estimate estimate(const kvt_source *src, const plan *p)
{
    kvt_estimate x;
    cr_assert(kvt_estimate_replay(src, &p->opts, (kvt_sink){ 0 }, &rates, &x, &err) == KVT_OK, "%s", err.text);
    return x;
}

Test(estimate, cells_are_those_that_the_replay_stores)
{
    kvt_source src = trace(2, 150, 20);
    counting asked = { 0 }, ran = { 0 };
    kvt_estimate x;
    plan p;

    plan_make(&p, MAX_CONFIGS, specs, MAX_BUDGETS, budgets);     /* some pairs are refused: both must skip them */
    cr_assert(kvt_estimate_replay(&src, &p.opts, (kvt_sink){ &count_ops, &asked }, &rates, &x, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_replay(&src, &p.opts, (kvt_sink){ &count_ops, &ran }, &err) == KVT_OK, "%s", err.text);
    cr_assert(asked.n_claimed == ran.n_claimed && x.n_cells == ran.n_stored && ran.n_stored > 20, "%u claimed, %u cells, %u stored",
              asked.n_claimed, x.n_cells, ran.n_stored);
    cr_assert(asked.n_stored == 0);
    cr_assert(x.n_rows > (uint64_t)x.n_cells * 2 * (1 + 4 * 4) && x.db_bytes > x.n_rows * 20);
    plan_free(&p);
    kvt_source_close(&src);
}

Test(estimate, what_is_there_is_not_counted_again)
{
    kvt_source src = trace(1, 150, 20);
    counting some = { .done_below = 3 }, all = { .done_below = UINT32_MAX };
    kvt_estimate x, whole;
    plan p;

    plan_make(&p, 3, specs, 2, budgets);
    whole = estimate(&src, &p);
    cr_assert(kvt_estimate_replay(&src, &p.opts, (kvt_sink){ &count_ops, &some }, &rates, &x, &err) == KVT_OK);
    cr_assert(x.n_cells == whole.n_cells - 3 && x.n_rows < whole.n_rows && x.db_bytes < whole.db_bytes && x.seconds < whole.seconds);
    cr_assert(kvt_estimate_replay(&src, &p.opts, (kvt_sink){ &count_ops, &all }, &rates, &x, &err) == KVT_OK);
    cr_assert(x.n_cells == 0 && x.n_rows == 0 && x.db_bytes == 0 && x.seconds == 0);
    plan_free(&p);
    kvt_source_close(&src);
}

/* a costs less than b in every respect */
static void expect_less(const kvt_estimate *a, const kvt_estimate *b, const char *what)
{
    cr_assert(a->n_rows < b->n_rows && a->db_bytes < b->db_bytes && a->memory_bytes < b->memory_bytes && a->seconds < b->seconds,
              "%s: %g rows, %g bytes, %g in memory, %g s against %g, %g, %g, %g", what, (double)a->n_rows, (double)a->db_bytes,
              (double)a->memory_bytes, a->seconds, (double)b->n_rows, (double)b->db_bytes, (double)b->memory_bytes, b->seconds);
}

Test(estimate, grows_with_what_costs)
{
    kvt_source src = trace(1, 150, 20);
    kvt_estimate base, more;
    plan p;

    plan_make(&p, 3, specs, 1, budgets);
    base = estimate(&src, &p);
    p.opts.n_threads = 16;
    more = estimate(&src, &p);
    cr_assert(more.memory_bytes > base.memory_bytes && more.thread_bytes > base.thread_bytes && more.seconds < base.seconds);
    p.opts.n_threads = 2;
    p.opts.output_error = 1;
    more = estimate(&src, &p);
    cr_assert(more.memory_bytes > base.memory_bytes);
    plan_free(&p);
    plan_make(&p, 3, specs, 2, budgets);
    more = estimate(&src, &p);
    expect_less(&base, &more, "a second budget");
    cr_assert(more.cell_bytes > base.cell_bytes);
    plan_free(&p);
    plan_make(&p, 4, specs, 1, budgets);
    more = estimate(&src, &p);
    expect_less(&base, &more, "a fourth configuration");
    plan_free(&p);
    kvt_source_close(&src);

    plan_make(&p, 3, specs, 1, budgets);
    static const uint32_t larger[][3] = { { 2, 150, 20 }, { 1, 150, 40 } };
    for (int i = 0; i < 2; i++) {
        src = trace(larger[i][0], larger[i][1], larger[i][2]);
        more = estimate(&src, &p);
        expect_less(&base, &more, i ? "more steps" : "a second layer");
        kvt_source_close(&src);
    }
    src = trace(1, 600, 20);
    more = estimate(&src, &p);
    cr_assert(more.n_rows == base.n_rows && more.memory_bytes > base.memory_bytes && more.seconds > base.seconds, "a longer prompt");
    kvt_source_close(&src);
    plan_free(&p);
}

/* The arrays that must be there at once, counted by hand for one cell without a policy's
 * scratch: keys, queries, rows, masses, series. The estimate may not be below them. */
Test(estimate, memory_covers_what_is_known_to_be_there)
{
    kvt_source src = trace(2, 600, 64);
    const uint64_t N = 600, G = 64, T = N + G, H = 4, Hkv = 2, d = 16, layers = 2;
    const uint64_t keys = Hkv * T * d * 4, queries = H * (32 + G) * d * 4, window = H * 32 * N * 4, stage = H * (G / 16) * T * 64;
    const uint64_t series = layers * H * G * 8, parts = H * G * 32;
    kvt_estimate x;
    plan p;

    plan_make(&p, 1, &specs[0], 1, budgets);
    x = estimate(&src, &p);
    cr_assert(x.n_cells == 1);
    cr_assert(x.memory_bytes >= keys + queries + window + stage + series + parts);
    cr_assert(x.cell_bytes >= series + parts && x.memory_bytes >= x.cell_bytes + x.thread_bytes + stage);
    plan_free(&p);
    kvt_source_close(&src);
}

Test(estimate, rates_are_those_of_this_machine)
{
    kvt_rates r = { { 0 } };

    for (uint32_t i = 0; kvt_kernels_at(i); i++) {
        if (!kvt_kernels_at(i)->usable()) continue;
        cr_assert(kvt_rates_measure(kvt_kernels_at(i), &r, &err) == KVT_OK);
        for (int k = 0; k < KVT_N_RATES; k++) cr_assert(r.s[k] > 0 && r.s[k] < 1e-3, "%s: rate %d is %g s", kvt_kernels_at(i)->name, k, r.s[k]);
    }
}

Test(estimate, a_trace_that_cannot_be_replayed_is_refused)
{
    kvt_source src = trace(1, 150, 0);
    kvt_estimate x = { .n_cells = 7 };
    plan p;

    plan_make(&p, 1, specs, 1, budgets);
    cr_assert(kvt_estimate_replay(&src, &p.opts, (kvt_sink){ 0 }, &rates, &x, &err) == KVT_ENEED);
    cr_assert(x.n_cells == 7, "outputs are untouched");
    plan_free(&p);
    kvt_source_close(&src);
}
