/* test_stat_policies.c - policies that score by statistics of keys, values and queries
 * (observed, knorm, keydiff, lagkv, expected) against their formulas; method: stat_world.h. */
#include "stat_world.h"

/* ---- observed ---------------------------------------------------------------------- */

static void ref_observed(const world *w, const trial *t, scores out)
{
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < caches_of(w, t); c++)
            for (uint32_t j = 0; j < w->n; j++) {
                double mean = 0;
                for (uint32_t i = 0; i < group_of(w, t); i++)
                    for (uint32_t q = j; q < w->n; q++)
                        mean += (double)ROW(w, l, c * group_of(w, t) + i, q)[j] / (w->n - j) / group_of(w, t);
                out[l][c][j] = mean;
            }
}

Test(observed, is_the_mean_attention_of_the_queries_that_see_the_token)
{
    static const double none[MAX_PARAM];
    for (uint32_t n = 1; n <= 61; n += 20) {
        world *w = make(n, 6, n % 3 ? 2 : 3, 5, 4, n);
        sweep(w, "observed", none, NULL, ref_observed, 1e-6, 1);
        free(w);
    }
    near_ties_are_rare();
}

/* ---- knorm ------------------------------------------------------------------------- */

static void ref_knorm(const world *w, const trial *t, scores out)
{
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < caches_of(w, t); c++)
            for (uint32_t j = 0; j < w->n; j++) {
                double sum = 0;
                for (uint32_t i = 0; i < w->d; i++) sum += (double)KEY(w, l, kv_of(w, t, c), j)[i] * (double)KEY(w, l, kv_of(w, t, c), j)[i];
                out[l][c][j] = -sqrt(sum);
            }
}

Test(knorm, keeps_the_smallest_keys_and_earlier_ones_among_equals)
{
    static const double none[MAX_PARAM];
    for (uint32_t n = 1; n <= 61; n += 20) {
        world *w = make(n, 4, 2, 7, 4, n);
        for (uint32_t j = 3; j < n; j += 3)             /* the same key again and again */
            memcpy(KEY(w, 0, 0, j), KEY(w, 0, 0, 0), w->d * sizeof(float));
        sweep(w, "knorm", none, NULL, ref_knorm, INFINITY, 1);
        free(w);
    }
    near_ties_are_rare();
}

Test(knorm, is_a_chain_of_f32_fused_multiply_adds_without_a_root)
{
    static scores out;
    world *w = make(9, 2, 1, 8, 4, 40);
    const trial t = { .id = "knorm", .share = 0.5 };

    run(w, &t, out);
    for (uint32_t j = 0; j < w->n; j++) {
        float sum = 0;
        for (uint32_t i = 0; i < w->d; i++) sum = fmaf(KEY(w, 1, 0, j)[i], KEY(w, 1, 0, j)[i], sum);
        cr_assert_eq(out[1][0][j], -(double)sum);
    }
    free(w);
}

/* ---- keydiff ----------------------------------------------------------------------- */

static double cosine_to_mean(const world *w, uint32_t l, uint32_t g, const uint8_t *in, uint32_t j)
{
    double anchor[MAX_D] = { 0 }, dot = 0, aa = 0, kk = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        double norm = 0;
        for (uint32_t c = 0; c < w->d; c++) norm += pow((double)KEY(w, l, g, i)[c], 2);
        for (uint32_t c = 0; in[i] && norm > 0 && c < w->d; c++) anchor[c] += (double)KEY(w, l, g, i)[c] / sqrt(norm);
    }
    for (uint32_t c = 0; c < w->d; c++) {
        const double k = (double)KEY(w, l, g, j)[c];
        dot += k * anchor[c], aa += anchor[c] * anchor[c], kk += k * k;
    }
    return kk > 0 ? dot / sqrt(aa) / sqrt(kk) : 0;
}

static void ref_keydiff(const world *w, const trial *t, scores out)
{
    static uint8_t kept[L][MAX_H][MAX_N];
    const uint32_t block = (uint32_t)t->param[0], keep = (uint32_t)count_of(t->rule, t->share, w->n);

    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < caches_of(w, t); c++) {
            uint32_t end = block ? keep : 0;
            for (uint32_t j = 0; j < w->n; j++) kept[l][c][j] = j < end;
            do {
                const uint32_t from = end;
                uint8_t in[MAX_N];
                end = block ? (end + block < w->n ? end + block : w->n) : w->n;
                for (uint32_t j = 0; j < w->n; j++) in[j] = kept[l][c][j] || (j >= from && j < end);
                for (uint32_t j = 0; j < w->n; j++) out[l][c][j] = in[j] ? (double)(float)-cosine_to_mean(w, l, kv_of(w, t, c), in, j) : -9;
                best(out, w->n, l, l + 1, c, c + 1, keep, kept);
            } while (end < w->n);
        }
}

Test(keydiff, keeps_the_keys_that_differ_from_the_mean_direction)
{
    static const double blocks[] = { 0, 1, 7, 16, 200 };
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++)
        for (uint32_t n = 2; n <= 60; n += 29) {
            const double param[MAX_PARAM] = { blocks[b] };
            world *w = make(n, 4, 2, 6, 4, n);
            if (n > 20) {
                memset(KEY(w, 0, 0, 5), 0, w->d * sizeof(float));       /* a zero key */
                memcpy(KEY(w, 1, 1, 19), KEY(w, 1, 1, 11), w->d * sizeof(float));
            }
            sweep(w, "keydiff", param, NULL, ref_keydiff, INFINITY, 1);
            free(w);
        }
    near_ties_are_rare();
}

/* ---- lagkv ------------------------------------------------------------------------- */

/* Softmax over the block of the spread of its tokens; 0 if a channel of `next` is constant. */
static int lag_part(const float *x, uint32_t d, uint32_t lag, double *out)
{
    double std[MAX_N], sum = 0;

    for (uint32_t j = 0; j < lag; j++) {
        double y[MAX_D], mean = 0, var = 0;
        for (uint32_t c = 0; c < d; c++) {
            double lo = INFINITY, hi = -INFINITY;
            for (uint32_t i = lag; i < 2 * lag; i++) lo = fmin(lo, (double)x[i * d + c]), hi = fmax(hi, (double)x[i * d + c]);
            if (hi <= lo) return 0;
            mean += y[c] = ((double)x[j * d + c] - lo) / (hi - lo);
        }
        for (uint32_t c = 0; c < d; c++) var += pow(y[c] - mean / d, 2);
        std[j] = sqrt(var / (d - 1.0));
    }
    for (uint32_t j = 0; j < lag; j++) sum += exp(std[j]);
    for (uint32_t j = 0; j < lag; j++) out[j] = exp(std[j]) / sum;
    return d > 1;
}

static void ref_lagkv(const world *w, const trial *t, scores out)
{
    const uint32_t sinks = (uint32_t)t->param[0], lag = (uint32_t)t->param[1], n = w->n;

    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < caches_of(w, t); c++) {
            const uint32_t g = kv_of(w, t, c);
            for (uint32_t j = 0; j < n; j++) out[l][c][j] = 1;
            if (n < sinks + 2 * lag) {
                for (uint32_t j = sinks; j < n; j++) out[l][c][j] = (double)(j - sinks) / (n - sinks);
                continue;
            }
            for (uint32_t at = sinks; at + 2 * lag <= n; at += lag) {
                double a[MAX_N], b[MAX_N];
                const int defined = lag_part(KEY(w, l, g, at), w->d, lag, a) && lag_part(VALUE(w, l, g, at), w->dv, lag, b);
                for (uint32_t j = 0; j < lag; j++) {
                    uint32_t rank = 0;
                    for (uint32_t i = 0; i < lag; i++)
                        rank += defined ? (float)(a[i] + b[i]) < (float)(a[j] + b[j]) || ((float)(a[i] + b[i]) == (float)(a[j] + b[j]) && i < j) : i < j;
                    out[l][c][at + j] = (double)rank / lag;
                }
            }
        }
}

Test(lagkv, ranks_the_tokens_of_a_block_by_what_the_next_block_looks_like)
{
    static const struct { uint32_t n, sinks, lag, d, dv; } shape[] = {
        { 80, 4, 16, 6, 3 }, { 79, 0, 13, 8, 8 }, { 40, 4, 16, 4, 4 }, { 36, 4, 16, 4, 4 }, { 35, 4, 16, 4, 4 },   /* n around sinks + 2 lag */
        { 3, 4, 16, 4, 4 }, { 4, 4, 1, 4, 4 }, { 30, 4, 1, 4, 4 }, { 50, 7, 4, 1, 4 }, { 50, 7, 4, 4, 1 }, { 60, 2, 4096, 4, 4 },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        const double param[MAX_PARAM] = { shape[i].sinks, shape[i].lag };
        world *w = make(i + 1, 4, 2, shape[i].d, shape[i].dv, shape[i].n);
        sweep(w, "lagkv", param, NULL, ref_lagkv, 1e-6, 1);
        free(w);
    }
    near_ties_are_rare();
}

Test(lagkv, a_constant_channel_ranks_the_block_by_position)
{
    static scores out, ref;
    world *w = make(77, 2, 1, 4, 4, 64);
    const trial t = { .id = "lagkv", .param = { 4, 16 }, .share = 0.3 };

    for (uint32_t j = 20; j < 36; j++) KEY(w, 0, 0, j)[2] = 0.25f;      /* seen from the block 4..19 */
    for (uint32_t j = 36; j < 52; j++) VALUE(w, 1, 0, j)[0] = 0;        /* seen from the block 20..35 */
    for (uint32_t j = 5; j < 20; j++) {                                 /* equal tokens: by position, too */
        memcpy(KEY(w, 2, 0, j), KEY(w, 2, 0, 4), 4 * sizeof(float));
        memcpy(VALUE(w, 2, 0, j), VALUE(w, 2, 0, 4), 4 * sizeof(float));
    }
    run(w, &t, out);
    for (uint32_t j = 0; j < 16; j++) {
        cr_assert_eq(out[0][0][4 + j], j / 16.0);
        cr_assert_eq(out[1][0][20 + j], j / 16.0);
        cr_assert_eq(out[2][0][4 + j], j / 16.0);
    }
    ref_lagkv(w, &t, ref);
    compare(w, &t, out, ref);
    free(w);
}

/* ---- expected ---------------------------------------------------------------------- */

static double f32(double x, const char *type) { return strcmp(type, "f32") ? x : (double)(float)x; }

/* x <- R_p x for the token at `position`, as the engine of the trace would have done it. */
static void rotate(const kvt_rope *r, uint32_t position, int64_t rotary, double *x)
{
    uint32_t z = 0;
    while (z + 1 < r->n_segments && r->segment_start[z + 1] <= (int64_t)position) z++;
    for (uint32_t f = 0; f < r->dims / 2; f++) {
        const double freq = f32(r->inv_freq[z * (r->dims / 2) + f], r->angle), th = f32((double)rotary * freq, r->angle);
        const double c = f32(cos(th) * r->scaling, r->table), s = f32(sin(th) * r->scaling, r->table);
        const uint32_t a = r->offset + (r->interleaved ? 2 * f : f), b = r->interleaved ? a + 1 : a + r->dims / 2;
        const double xa = x[a];
        x[a] = xa * c - x[b] * s;
        x[b] = x[b] * c + xa * s;
    }
}

static void ref_expected(const world *w, const trial *t, scores out)
{
    const uint32_t s = (uint32_t)t->param[0], n = w->n, d = w->d, group = group_of(w, t);
    double R[MAX_D][MAX_D] = { { 0 } }, all;

    for (uint32_t c = 0; c < d; c++)                                    /* column c of the mean rotation */
        for (uint32_t p = n; p < n + 512; p++) {
            double x[MAX_D] = { 0 };
            x[c] = 1;
            if (t->rope) rotate(t->rope, p, t->rope->rotary[n - 1] + 1 + (int64_t)(p - n), x);
            for (uint32_t i = 0; i < d; i++) R[i][c] += x[i] / 512;
        }
    for (uint32_t l = 0; l < L; l++) {
        all = 0;
        for (uint32_t c = 0; c < caches_of(w, t); c++) {
            const uint32_t g = kv_of(w, t, c);
            double sum[MAX_N] = { 0 };
            for (uint32_t i = 0; i < group; i++) {
                double mu[MAX_D] = { 0 }, z[MAX_N], total = 0;
                for (uint32_t q = s; q < n; q++)
                    for (uint32_t a = 0; a < d; a++) mu[a] += w->before[c * group + i][q][a] / (n - s);
                for (uint32_t j = s; j < n; j++) {                      /* turn the key back instead of mu and the covariance */
                    double y[MAX_D] = { 0 }, m = 0, var = 0;
                    for (uint32_t a = 0; a < d; a++)
                        for (uint32_t b = 0; b < d; b++) y[a] += R[b][a] * (double)KEY(w, l, g, j)[b];
                    for (uint32_t a = 0; a < d; a++) m += y[a] * mu[a];
                    for (uint32_t q = s; q < n; q++) {
                        double dot = 0;
                        for (uint32_t a = 0; a < d; a++) dot += y[a] * (w->before[c * group + i][q][a] - mu[a]);
                        var += dot * dot / (n - s);
                    }
                    total += z[j] = exp(m / sqrt(d) + var / (2.0 * d));
                }
                for (uint32_t j = s; j < n; j++) sum[j] += z[j] / total;
            }
            for (uint32_t j = s; j < n; j++) {
                double norm = 0;
                for (uint32_t a = 0; a < w->dv; a++) norm += pow((double)VALUE(w, l, g, j)[a], 2);
                out[l][c][j] = (double)(float)((sum[j] / group + t->param[1]) * sqrt(norm));
                all = fmax(all, out[l][c][j]);
            }
        }
        for (uint32_t c = 0; c < caches_of(w, t); c++)
            for (uint32_t j = 0; j < s && j < n; j++) out[l][c][j] = all;
    }
}

/* The same queries in every layer: drawn before rotation, then rotated. */
static void draw_queries(world *w, const kvt_rope *rope)
{
    for (uint32_t h = 0; h < w->Hq; h++)
        for (uint32_t t = 0; t < w->n; t++) {
            double x[MAX_D];
            for (uint32_t c = 0; c < w->d; c++) x[c] = w->before[h][t][c] = normal() + 0.3 * c;
            if (rope) rotate(rope, t, rope->rotary[t], x);
            for (uint32_t l = 0; l < L; l++)
                for (uint32_t c = 0; c < w->d; c++) QUERY(w, l, h, t)[c] = (float)x[c];
        }
}

Test(expected, undoes_the_rotation_and_applies_the_mean_one)
{
    static const double freq[] = { 1, 0.31, 0.07, 0.011, 0.5, 0.2, 0.05, 0.009 };
    static const int64_t start[] = { 0, 20 };
    static int32_t rotary[MAX_N + 512];
    static const kvt_rope shape[] = {
        { .dims = 8, .n_segments = 1, .scaling = 1, .angle = "f64", .table = "f64" },
        { .dims = 8, .interleaved = 1, .n_segments = 1, .scaling = 1.3, .angle = "f64", .table = "f64" },
        { .dims = 4, .offset = 2, .n_segments = 1, .scaling = 1, .angle = "f32", .table = "f32" },
        { .dims = 4, .offset = 4, .interleaved = 1, .n_segments = 2, .scaling = 0.8, .angle = "f64", .table = "f64" },
        { .dims = 8, .n_segments = 2, .scaling = 1, .angle = "f32", .table = "f32" },
    };
    const double params[][MAX_PARAM] = { { 4, 0 }, { 0, 0 }, { 7, 0.02 } };

    for (int32_t i = 0; i < MAX_N + 512; i++) rotary[i] = i + 100 * (i > 8);    /* a gap in the positions */
    for (size_t i = 0; i <= sizeof shape / sizeof *shape; i++) {        /* the last: no rotation */
        world *w = make(i + 1, 6, i % 2 ? 2 : 3, 8, 5, i == 1 ? 9 : 48);
        kvt_rope rope = i < sizeof shape / sizeof *shape ? shape[i] : (kvt_rope){ 0 };

        rope.inv_freq = freq, rope.segment_start = start, rope.rotary = rotary;
        draw_queries(w, rope.dims ? &rope : NULL);
        for (uint32_t c = 0; c < w->dv; c++) VALUE(w, 0, 0, 8)[c] = 0;  /* a value without effect */
        sweep(w, "expected", params[i % 3], rope.dims ? &rope : NULL, ref_expected, 2e-6, 1);
        free(w);
    }
    near_ties_are_rare();
}

Test(rope, rounds_angles_and_tables_as_the_engine_did)
{
    static const double freq[] = { 0.1, 1 };
    static const struct { const char *angle, *table; double angle0, step; } of[] = {
        { "f64", "f64", 100000 * 0.1, 0 }, { "f32", "f64", (double)(float)(100000 * (double)0.1f), 0 },
        { "f64", "f32", 100000 * 0.1, 0x1p-24 }, { "f64", "f16", 100000 * 0.1, 0x1p-11 }, { "f64", "bf16", 100000 * 0.1, 0x1p-8 },
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const int64_t start = 0;
        const kvt_rope r = { .dims = 4, .n_segments = 1, .segment_start = &start, .inv_freq = freq, .scaling = 1.5,
                             .angle = of[i].angle, .table = of[i].table };
        double cs[4];

        kvt_rope_turn(&r, 3, 100000, cs);
        cr_assert(fabs(cs[0] - 1.5 * cos(of[i].angle0)) <= of[i].step * 1.5);
        cr_assert(fabs(cs[3] - 1.5 * sin(100000)) <= of[i].step * 1.5);
        if (of[i].step > 0)                             /* a multiple of half its last place at 2 */
            cr_assert_eq(cs[0], rint(cs[0] / (of[i].step / 4)) * (of[i].step / 4));
        if (of[i].step > 1e-6)
            cr_assert_neq(cs[0], 1.5 * cos(of[i].angle0));
    }
}

Test(expected, a_prompt_of_sinks_only_is_kept_and_a_budget_below_them_is_flagged)
{
    world *w = make(3, 2, 1, 4, 4, 12);
    trial t = { .id = "expected", .param = { 12, 0 }, .share = 0.5 };

    cr_assert_eq(setup_of(w, &t).keep_all, 1);
    t.param[0] = 11;
    cr_assert_eq(setup_of(w, &t).keep_all, -1);
    cr_assert(setup_of(w, &t).flags & KVT_FLAG_BELOW_WINDOW);
    t.param[0] = 6;
    cr_assert_eq(setup_of(w, &t).flags, 0u);
    free(w);
}

Test(expected, zero_values_and_far_keys_give_zero_and_no_nan)
{
    static scores out;
    world *w = make(4, 4, 2, 4, 4, 20);
    const trial t = { .id = "expected", .param = { 4, 0 }, .share = 0.5 };

    memset(w->v[0], 0, sizeof w->v[0]);
    for (uint32_t c = 0; c < 4; c++) KEY(w, 1, 0, 10)[c] = 1e15f;       /* takes all of the softmax */
    run(w, &t, out);
    for (uint32_t j = 0; j < w->n; j++) {
        cr_assert_eq(out[0][0][j], 0.0);
        cr_assert(j < 4 || j == 10 ? out[1][0][j] > 0 : out[1][0][j] == 0, "token %u: %g", j, out[1][0][j]);
    }
    free(w);
}
