/* Goal: the numbers of a series mean what they say. Method: worked examples with values
 * known in closed form, and one small ladder of bounds whose rows are planted exactly. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_sim.h"
#include "measure.h"

static const double d10[10] = { 0, .01, .01, .02, .03, .05, .08, .13, .34, .89 };

static void near(double got, double want, const char *what)
{
    cr_assert(fabs(got - want) < 1.5e-9, "%s: %.12g, expected %.12g", what, got, want);
}

Test(measure, quantiles_are_observed_values_of_the_higher_rank)
{
    uint32_t q[10], scratch[20];
    kvt_tail t;

    for (int i = 0; i < 10; i++)
        q[i] = kvt_q31(d10[(i * 7) % 10]);       /* any order */
    kvt_tail_of(q, NULL, 10, scratch, &t);
    cr_assert(t.n == 10);
    near(t.mean, .156, "mean");
    near(t.q50, .05, "q50");
    near(t.q90, .89, "q90");
    near(t.q95, .89, "q95");
    near(t.max, .89, "max");
    near(t.cvar95, .89, "CVaR95 of 10 values is the maximum");
}

Test(measure, cvar_takes_a_fraction_of_the_last_atom)
{
    uint32_t q[30], scratch[60];
    kvt_tail t;

    for (uint32_t i = 0; i < 30; i++)
        q[i] = kvt_q31((i + 1) / 100.0);
    kvt_tail_of(q, NULL, 30, scratch, &t);       /* 5 % of 30 are 1.5 steps */
    near(t.cvar95, (.30 + .5 * .29) / 1.5, "CVaR95");
    near(t.cvar99, .30, "CVaR99");
}

Test(measure, skipped_steps_do_not_count_and_keep_their_index)
{
    uint32_t q[6] = { kvt_q31(.9), kvt_q31(.1), kvt_q31(.3), kvt_q31(.2), kvt_q31(.3), kvt_q31(.8) }, scratch[12];
    const uint8_t skip[6] = { 1, 0, 0, 0, 0, 1 };
    kvt_tail t;

    kvt_tail_of(q, skip, 6, scratch, &t);
    cr_assert(t.n == 4 && t.max_at == 2, "first of two equal maxima, at %u", t.max_at);
    near(t.mean, .225, "mean");
    kvt_tail_of(q, (const uint8_t[6]){ 1, 1, 1, 1, 1, 1 }, 6, scratch, &t);
    cr_assert(t.n == 0 && t.mean == 0 && t.max == 0);
}

Test(measure, runs_are_maximal_and_thresholds_strict)
{
    const double x[10] = { 0, .2, .3, .05, .4, .4, .4, 0, .1, .5 };
    uint32_t q[10];
    kvt_runs r;

    for (int i = 0; i < 10; i++)
        q[i] = kvt_q31(x[i]);
    kvt_runs_of(q, 0, 10, kvt_q31(.1), &r);
    cr_assert(r.n_exceed == 6 && r.n_run == 3 && r.longest == 3 && r.longest_start == 4 && r.first == 1);
    near(r.area, .1 + .2 + .9 + .4, "excess area");
    kvt_runs_of(q, 2, 10, kvt_q31(.1), &r);
    cr_assert(r.n_exceed == 5 && r.first == 2);
}

Test(measure, words_sort_like_the_floats_they_hold)
{
    float x[300];
    uint32_t bits[300], tmp[300];

    for (int i = 0; i < 300; i++) {
        x[i] = (float)((i * 7919) % 301) / 1e3f;
        memcpy(&bits[i], &x[i], 4);
    }
    kvt_sort_u32(bits, 300, tmp);
    for (int i = 1; i < 300; i++) {
        float a, b;
        memcpy(&a, &bits[i - 1], 4);
        memcpy(&b, &bits[i], 4);
        cr_assert(a <= b);
    }
}

Test(measure, rounding_is_to_nearest_and_halves_go_to_even)
{
    for (uint32_t i = 0; i < 4000; i++) {
        const double x = i < 40 ? (i + .5) / KVT_Q31_ONE : fmod(i * .7548776662, 1);
        cr_assert(kvt_q31(x) == (uint32_t)llrint(x * KVT_Q31_ONE), "%.17g", x);
    }
    cr_assert(kvt_q31(-1) == 0 && kvt_q31(NAN) == 0 && kvt_q31(1) == 0x80000000u && kvt_q31(7) == 0x80000000u);
    cr_assert(kvt_q31(1 - 0x1p-40) == 0x80000000u && kvt_q31(1 - 0x1p-31) == 0x7fffffffu);
}

static uint32_t draw_state = 1;
static uint32_t draw(void)
{
    draw_state ^= draw_state << 13, draw_state ^= draw_state >> 17, draw_state ^= draw_state << 5;
    return draw_state;
}
static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Reference: qsort of each lane. */
Test(measure, every_table_sorts_sixteen_lanes)
{
    enum { MOST = 530 };
    static uint32_t x[MOST * 16], lane[MOST];

    for (uint32_t k = 0; kvt_kernels_at(k); k++) {
        const kvt_kernels *kern = kvt_kernels_at(k);
        for (uint32_t n = 0; kern->usable() && n <= MOST; n += n < 70 ? 1 : 23) {
            uint32_t before[MOST * 16];
            for (uint32_t i = 0; i < n * 16; i++)
                before[i] = x[i] = i % 16 < 4 ? draw() % 3 : draw();
            kern->sort16(x, n);
            for (uint32_t l = 0; l < 16; l++) {
                for (uint32_t i = 0; i < n; i++)
                    lane[i] = before[i * 16 + l];
                qsort(lane, n, sizeof *lane, by_value);
                for (uint32_t i = 0; i < n; i++)
                    cr_assert(x[i * 16 + l] == lane[i], "%s, %u entries, lane %u, entry %u", kern->name, n, l, i);
            }
        }
    }
}

/* Series of different kinds side by side against kvt_tail_of, one after the other. */
Test(measure, tails_side_by_side_are_those_one_by_one)
{
    enum { MOST = 300 };
    static uint32_t value[16][MOST], one[2 * MOST], lanes[16 * MOST];
    static uint8_t out[16][MOST];
    const uint32_t *x[16];
    const uint8_t *skip[16];

    for (uint32_t round = 0; round < 200; round++) {
        const uint32_t n = 1 + draw() % MOST, n_series = 1 + draw() % 16;
        kvt_tail many[16], want;
        for (uint32_t s = 0; s < n_series; s++) {
            x[s] = value[s], skip[s] = out[s];
            for (uint32_t i = 0; i < n; i++) {
                value[s][i] = s % 3 == 0 ? draw() % 4 * 0x20000000u : draw() >> (1 + draw() % 31);
                out[s][i] = s == 1 || (s % 4 == 2 && draw() % 2) || (s % 4 == 3 && i < n / 3);
            }
        }
        for (uint32_t k = 0; kvt_kernels_at(k); k++) {
            if (!kvt_kernels_at(k)->usable())
                continue;
            memset(many, 0xff, sizeof many);
            kvt_tails_of(kvt_kernels_at(k), x, skip, n_series, n, lanes, many);
            for (uint32_t s = 0; s < n_series; s++) {
                kvt_tail_of(x[s], skip[s], n, one, &want);
                cr_assert(memcmp(&many[s], &want, sizeof want) == 0, "%s, series %u of %u, %u values", kvt_kernels_at(k)->name, s, n_series, n);
            }
        }
    }
}

Test(measure, the_top_of_a_series_needs_no_order)
{
    const uint32_t q[5] = { kvt_q31(.5), kvt_q31(.25), kvt_q31(.75), kvt_q31(.75), 0 };
    kvt_tail t;

    kvt_top_of(q, NULL, 5, &t);
    cr_assert(t.n == 5 && t.mean == .45 && t.max == .75 && t.max_at == 2 && t.q95 == 0 && t.cvar95 == 0);
    kvt_top_of(q, (const uint8_t[5]){ 1, 1, 1, 1, 0 }, 5, &t);
    cr_assert(t.n == 1 && t.mean == 0 && t.max == 0 && t.max_at == 4, "a largest value of 0 has a place too");
}

/* ---- the ladder of bounds, on rows that are planted exactly ----------------------- */

enum { N = 8, G = 4, T = N + G, W = 1, R = W + G };
static const double planted[R][N] = {
    { .42, .06, .04, .22, .03, .12, .06, .05 },  /* the last prompt query */
    { .40, .05, .05, .25, .05, .10, .05, .05 },
    { .35, .05, .05, .25, .10, .10, .05, .05 },
    { .302, .05, .248, .10, .10, .10, .05, .05 },
    { .10, .05, .50, .05, .10, .10, .05, .05 },
};

typedef struct ladder { int n; double mean[8], max[8], oracle[8], fixed[8]; char id[8][32]; kvt_violation v; int n_v; } ladder;

static kvt_status ladder_claim(void *s, const kvt_cell *c, int *todo, kvt_err *e)
{
    (void)s, (void)c, (void)e;
    *todo = 1;
    return KVT_OK;
}
static kvt_status ladder_store(void *self, const kvt_cell *c, const kvt_result *r, kvt_err *e)
{
    ladder *l = self;
    (void)e;
    strcpy(l->id[l->n], c->config->policy_id);
    l->mean[l->n] = r->head[0].lost_mean;
    l->max[l->n] = r->head[0].lost_max;
    l->oracle[l->n] = r->head[0].oracle_mean;
    l->fixed[l->n++] = r->head[0].fixed_mean;
    for (size_t i = 0; i < r->n_violation && strcmp(c->config->policy_id, "h2o") == 0; i++)
        if (r->violation[i].tau == 0) {
            l->v = r->violation[i];
            l->n_v++;
            cr_assert(l->v.n_responsible == 5 && l->v.responsible[0].pos == 2);
            static const uint32_t pos[5] = { 2, 4, 1, 6, 7 };   /* falling; the last three lost the same */
            for (int k = 0; k < 5; k++)
                cr_assert(l->v.responsible[k].pos == pos[k], "responsible %d is %u", k, l->v.responsible[k].pos);
            cr_assert(fabs(l->v.share_top1 - .5 / .75) < 1e-6);
        }
    return KVT_OK;
}
static kvt_status ladder_fail(void *s, const kvt_cell *c, const char *w, kvt_err *e)
{
    (void)s, (void)c, (void)w, (void)e;
    return KVT_OK;
}

/* Keys are unit vectors and queries logarithms, so that a row is what is planted; the
 * newcomers get nothing. B = 3: the best fixed set is {0, 2, 3}; the window's best are
 * {0, 3, 5}, which is what h2o without a recent part keeps. */
Test(measure, bounds_and_a_violation_of_planted_rows)
{
    static float k[T][N], q[R][N], lse[R], sum[N], nu[T];
    static int32_t id[T], index[R];
    kvt_layer_info layer = { .attn = KVT_ATTN_FULL, .n_heads = 1, .n_kv_heads = 1, .d_k = N, .d_v = N, .scale = 1, .rope_type = "",
        .rope_angle_type = "", .rope_table_type = "",
        .has = 1u << KVT_T_K | 1u << KVT_T_Q | 1u << KVT_T_LSE | 1u << KVT_T_STAT_SUM | 1u << KVT_T_NU };
    const kvt_trace_info info = { .complete = 1, .created = "", .writer = "", .uuid = "u", .content_id = "c", .exactness = "synthetic",
        .cluster_id = "u", .sample_id = "", .n_layers = 1, .n_prompt = N, .n_decode = G, .n_tokens = T, .n_rows = R, .window = W,
        .question_start = N, .model_dim = N, .token_id = id, .rotary = id, .query_index = index, .layer = &layer };
    const float *data[KVT_T_END] = { [KVT_T_K] = &k[0][0], [KVT_T_Q] = &q[0][0], [KVT_T_LSE] = lse, [KVT_T_STAT_SUM] = sum, [KVT_T_NU] = nu };
    static const char *const spec[] = { "oracle_step", "oracle_fixed", "h2o:recent=0,caches=kv" };
    kvt_config *config[3];
    kvt_budget budget;
    kvt_source src = { 0 };
    kvt_err err = { KVT_OK, "" };
    ladder l = { 0 };
    static const kvt_sink_ops ops = { "memory", ladder_claim, ladder_store, ladder_fail, NULL, NULL };

    for (int i = 0; i < R; i++) {
        index[i] = N - W + i;
        for (int j = 0; j < N; j++) {
            q[i][j] = (float)log(planted[i][j]);
            k[j][j] = 1;
            sum[j] = (float)planted[0][j];
        }
    }
    for (int t = 0; t < G; t++)
        for (int j = 0; j < N; j++)
            k[N + t][j] = 30;                    /* times negative logarithms: exp(-400) */
    for (int i = 0; i < 3; i++)
        cr_assert(kvt_config_parse(&config[i], spec[i], &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_budget_parse(&budget, "3t", KVT_RULE_SHARE, &err) == KVT_OK);
    cr_assert(kvt_source_open_memory(&src, &info, data, &err) == KVT_OK, "%s", err.text);
    const kvt_replay_opts o = { .config = (const kvt_config *const *)config, .n_config = 3, .budget = &budget, .n_budget = 1, .n_threads = 2 };
    cr_assert(kvt_replay(&src, &o, (kvt_sink){ &ops, &l }, &err) == KVT_OK, "%s", err.text);
    cr_assert(l.n == 3);
    cr_assert(fabs(l.mean[0] - (.25 + .30 + .35 + .30) / 4) < 1e-6, "per-step oracle %g", l.mean[0]);
    cr_assert(fabs(l.mean[1] - (.30 + .35 + .35 + .35) / 4) < 1e-6 && fabs(l.fixed[1] - l.mean[1]) < 1e-9, "best fixed set %g", l.mean[1]);
    cr_assert(fabs(l.mean[2] - (.25 + .30 + .498 + .75) / 4) < 1e-6 && fabs(l.max[2] - .75) < 1e-6, "h2o %g", l.mean[2]);
    cr_assert(l.n_v == 1 && l.v.start_step == 3 && l.v.n_step == 1 && l.v.cause == KVT_CAUSE_SINK_EVICTED);
    cr_assert(fabs(l.v.peak_lost - .75) < 1e-6 && fabs(l.v.peak_oracle_lost - .30) < 1e-6);
    kvt_source_close(&src);
    for (int i = 0; i < 3; i++)
        kvt_config_free(config[i]);
}

/* Falling, equal ones by rising index; zeros, equal values and neighbours that differ in the
 * last bit among them, and sums that share their upper digits. */
Test(measure, ranks_of_sums)
{
    enum { SUMS = 700 };
    static double x[SUMS];
    static kvt_ranked got[SUMS], tmp[SUMS];
    static const uint32_t sizes[] = { 0, 1, 2, SUMS };

    for (uint32_t j = 0; j < SUMS; j++)
        x[j] = j % 7 == 0 ? 0 : j % 5 == 0 ? 0.25 : j % 3 == 0 ? 0x1.0000000000001p-2 : (double)((j * 2654435761u) >> 8) * 0x1p-26;
    for (uint32_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const uint32_t n = sizes[k];
        static uint8_t seen[SUMS];
        memset(seen, 0, sizeof seen);
        kvt_rank_sums(x, n, got, tmp);
        for (uint32_t i = 0; i < n; i++) {
            cr_assert(got[i].j < n && !seen[got[i].j], "%u of %u", i, n);
            seen[got[i].j] = 1;
            cr_assert(i == 0 || x[got[i - 1].j] > x[got[i].j] || (x[got[i - 1].j] == x[got[i].j] && got[i - 1].j < got[i].j), "%u of %u", i, n);
        }
    }
}
