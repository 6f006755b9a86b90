/* Goal: a cell of oracle_minimax holds what its certificate and its sets say, no fixed set
 * of the run beats its bound, and it does not depend on how rows are kept or which other
 * budgets are asked for. Method: replays of a sample trace into a sink that looks. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "kvt_sim.h"
#include "measure.h"

enum { HEADS = 64, BUDGETS = 4 };
static const char *const specs[] = { "oracle_minimax", "oracle_fixed", "oracle_step", "snapkv:window=8", "streaming", "knorm", "random" };
enum { N_SPECS = sizeof specs / sizeof *specs };

typedef struct seen {
    double   bound[BUDGETS][HEADS], worst[BUDGETS][HEADS];      /* by budget and head of all layers */
    uint64_t digest[BUDGETS];
    uint32_t n_bound, n_fixed, n_trivial, n_kept;
    const kvt_budget *budget;
} seen;

static kvt_status claim(void *self, const kvt_cell *cell, int *todo, kvt_err *err)
{
    (void)self, (void)cell, (void)err;
    *todo = 1;
    return KVT_OK;
}

static kvt_status fail(void *self, const kvt_cell *cell, const char *why, kvt_err *err)
{
    (void)self, (void)cell, (void)err;
    cr_assert_fail("%s", why);
    return KVT_OK;
}

static void digest(uint64_t *to, uint64_t x) { *to = (*to ^ x) * 1099511628211u; }

static void look_at_ladder(const kvt_ladder_result *x, const kvt_head_result *h, uint64_t *to)
{
    uint64_t sum = 0;

    cr_assert(x->layer == h->layer && x->head == h->head && x->n_keep == h->n_held && x->n_trivial == h->n_trivial);
    cr_assert(x->minimax_found == h->lost_max && x->oracle_max == h->oracle_max && x->fixed_max == h->fixed_max && x->oracle_mean == h->oracle_mean);
    cr_assert(x->oracle_max <= x->minimax_bound && x->minimax_bound <= x->minimax_found && x->minimax_found <= x->fixed_max, "%g %g %g %g",
              x->oracle_max, x->minimax_bound, x->minimax_found, x->fixed_max);
    cr_assert(x->random_mean > x->fixed_mean);
    for (uint32_t t = 0; t < x->n_lambda; t++) {
        sum += x->lambda[t];
        digest(to, x->lambda[t]);
    }
    cr_assert(sum == 0x80000000u && x->n_lambda == x->n_step);
    for (uint32_t i = 0; i < x->n_keep; i++) {
        cr_assert(i == 0 || x->best_set[i] > x->best_set[i - 1]);
        digest(to, x->best_set[i]);
    }
    digest(to, x->bound_q31);
    digest(to, x->minimax_iters);
}

static kvt_status store(void *self, const kvt_cell *cell, const kvt_result *r, kvt_err *err)
{
    seen *s = self;
    uint32_t b = 0;

    (void)err;
    while (strcmp(cell->budget->label, s->budget[b].info.label) != 0)
        b++;
    cr_assert(r->n_head <= HEADS && r->n_ladder == (strcmp(cell->config->label, "oracle_minimax") ? 0 : r->n_head));
    for (size_t i = 0; i < r->n_head; i++) {
        const kvt_ladder_result *x = r->n_ladder ? &r->ladder[i] : NULL;
        if (x && x->n_lambda == 0) {
            cr_assert(x->n_trivial == x->n_step && x->minimax_bound == 0 && x->minimax_found == 0 && !strcmp(x->minimax_stop, "trivial"));
            s->n_trivial++;
        } else if (x) {
            look_at_ladder(x, &r->head[i], &s->digest[b]);
            s->bound[b][i] = x->minimax_bound;
            s->n_bound++;
        } else if (cell->config->fixed_set && r->head[i].n_trivial < r->head[i].n_step) {
            s->worst[b][i] = fmin(s->worst[b][i], r->head[i].lost_max);
            s->n_fixed++;
        }
    }
    return KVT_OK;
}

static kvt_status on_kept(void *user, const kvt_kept_set *set, kvt_err *err)
{
    (void)err;
    cr_assert(strncmp(set->config->info.policy_id, "oracle_", 7) || !strcmp(set->config->info.policy_id, "oracle_fixed"), "kept sets of a bound");
    ((seen *)user)->n_kept++;
    return KVT_OK;
}

static void replay(seen *s, const char *const *budgets, uint32_t n, uint32_t threads, size_t stage)
{
    static const kvt_sink_ops ops = { "look", claim, store, fail, NULL, NULL };
    kvt_config *config[N_SPECS];
    kvt_budget budget[BUDGETS];
    kvt_source src = { 0 };
    kvt_err err;

    memset(s, 0, sizeof *s);
    for (uint32_t b = 0; b < BUDGETS; b++)
        for (uint32_t i = 0; i < HEADS; i++)
            s->worst[b][i] = INFINITY;
    for (int i = 0; i < N_SPECS; i++)
        cr_assert(kvt_config_parse(&config[i], specs[i], &err) == KVT_OK, "%s", err.text);
    for (uint32_t b = 0; b < n; b++)
        cr_assert(kvt_budget_parse(&budget[b], budgets[b], KVT_RULE_SHARE, &err) == KVT_OK);
    s->budget = budget;
    cr_assert(kvt_source_open(&src, KVT_SOURCE_DIR "/traces/samples/tiny_gqa.h5", 0, &err) == KVT_OK, "%s", err.text);
    const kvt_replay_opts o = { .config = (const kvt_config *const *)config, .n_config = N_SPECS, .budget = budget, .n_budget = n, .n_seeds = 1,
        .n_threads = threads, .stage_bytes = stage, .output_error = 1, .kept = on_kept, .kept_user = s };
    cr_assert(kvt_replay(&src, &o, (kvt_sink){ &ops, s }, &err) == KVT_OK, "%s", err.text);
    kvt_source_close(&src);
    for (int i = 0; i < N_SPECS; i++)
        kvt_config_free(config[i]);
}

Test(ladder, no_fixed_set_of_a_run_beats_the_bound)
{
    static const char *const budgets[] = { "0.1", "0.25", "0.6", "1" };
    static seen s;

    replay(&s, budgets, 4, 1, 0);
    cr_assert(s.n_bound > 0 && s.n_trivial * 3 == s.n_bound && s.n_fixed > 3 * s.n_bound && s.n_kept > 0, "%u %u %u", s.n_bound, s.n_trivial, s.n_fixed);
    for (uint32_t b = 0; b < 3; b++)
        for (uint32_t i = 0; i < HEADS && i < s.n_trivial; i++)
            cr_assert(s.worst[b][i] >= s.bound[b][i] - 1e-9 && s.bound[b][i] > 0, "budget %s, head %u: %g below %g", budgets[b], i, s.worst[b][i], s.bound[b][i]);
}

Test(ladder, neither_threads_nor_memory_nor_other_budgets_matter)
{
    static const char *const all[] = { "0.1", "0.25", "0.33", "0.6" }, *const one[] = { "0.33" };
    static seen a, b, c;

    replay(&a, all, 4, 1, 0);
    replay(&b, all, 4, 3, 1);                    /* rows are computed again where they are needed */
    replay(&c, one, 1, 1, 0);
    cr_assert(memcmp(a.digest, b.digest, sizeof a.digest) == 0);
    cr_assert(a.digest[2] == c.digest[0] && a.digest[2] != a.digest[1]);
}
