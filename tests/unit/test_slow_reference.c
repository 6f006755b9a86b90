/* test_slow_reference.c - the policies against their formulas. Goal: kept sets equal those
 * of a slow, literal transcription that shares no code with policies/ or the engine.
 * Method: random operands; rows as softmax in double; one function per policy; the engine
 * runs the same case through kvt__golden_run, the way of the reference data. Scores that
 * agree to 1e-6 at the cut may differ, and such cases must be rare. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "golden.h"

enum { L = 2, MAX_T = 128, MAX_HQ = 6, MAX_D = 8, DM = 12 };

typedef struct world {
    uint32_t Hq, Hkv, gs, d, n, gen, T;
    float    Q[L][MAX_HQ][MAX_T][MAX_D], K[L][MAX_HQ][MAX_T][MAX_D], V[L][MAX_HQ][MAX_T][MAX_D], Wo[L][DM][MAX_HQ][MAX_D];
    double   z[L][MAX_HQ][MAX_T][MAX_T];            /* logits */
    double   A[L][MAX_HQ][MAX_T][MAX_T];            /* full rows of all queries */
    double   nu[L][MAX_HQ][MAX_T];
} world;

typedef struct sets {                               /* what a reference keeps */
    uint32_t n_caches, n[L][MAX_HQ], pos[L][MAX_HQ][MAX_T];
} sets;

static uint64_t state;
static double normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {                  /* splitmix64, central limit */
        uint64_t x = state += 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        sum += (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
    }
    return sum;
}

/* softmax of z over the positions of list. */
static void softmax(const double *z, const uint32_t *list, uint32_t n, double *out)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) max = fmax(max, z[list[i]]);
    for (uint32_t i = 0; i < n; i++) sum += out[i] = exp(z[list[i]] - max);
    for (uint32_t i = 0; i < n; i++) out[i] /= sum;
}

static world *make(uint64_t seed, uint32_t Hq, uint32_t Hkv, uint32_t d, uint32_t n, uint32_t gen)
{
    world *w = calloc(1, sizeof *w);
    uint32_t all[MAX_T];

    state = seed;
    w->Hq = Hq, w->Hkv = Hkv, w->gs = Hq / Hkv, w->d = d, w->n = n, w->gen = gen, w->T = n + gen;
    cr_assert(w->T <= MAX_T && Hq <= MAX_HQ && d <= MAX_D);
    for (uint32_t i = 0; i < w->T; i++) all[i] = i;
    for (uint32_t l = 0; l < L; l++) {
        for (uint32_t h = 0; h < Hq; h++)
            for (uint32_t t = 0; t < w->T; t++)
                for (uint32_t c = 0; c < d; c++) {
                    w->Q[l][h][t][c] = (float)(1.5 * normal());
                    if (h < Hkv) w->K[l][h][t][c] = (float)(1.5 * normal()), w->V[l][h][t][c] = (float)normal();
                }
        for (uint32_t o = 0; o < DM; o++)
            for (uint32_t h = 0; h < Hq; h++)
                for (uint32_t c = 0; c < d; c++) w->Wo[l][o][h][c] = (float)normal();
        for (uint32_t h = 0; h < Hq; h++)
            for (uint32_t t = 0; t < w->T; t++) {
                for (uint32_t j = 0; j <= t; j++) {
                    double dot = 0;
                    for (uint32_t c = 0; c < d; c++) dot += (double)w->Q[l][h][t][c] * (double)w->K[l][h / w->gs][j][c];
                    w->z[l][h][t][j] = dot / sqrt(d);
                }
                softmax(w->z[l][h][t], all, t + 1, w->A[l][h][t]);
                for (uint32_t o = 0; o < DM; o++) {
                    double x = 0;
                    for (uint32_t c = 0; c < d; c++) x += (double)w->V[l][h / w->gs][t][c] * (double)w->Wo[l][o][h][c];
                    w->nu[l][h][t] += fabs(x);
                }
            }
    }
    return w;
}

/* ------------------------------------------------------- budgets and top-k */

typedef struct budget { const char *text; double share; uint32_t tokens; int reference; } budget;

/* Target of `entries` entries of which a share stays; shares here have few decimals, so
 * the product in double is on the right side of every half but an exact one. */
static uint32_t target(const budget *b, double entries, double divide)
{
    const double cr = 1 - b->share;
    if (b->reference) return (uint32_t)(entries * (1 - cr) / divide);
    return (uint32_t)rint(b->share * entries / divide);
}

static uint32_t per_cache(const world *w, const budget *b, int query)
{
    return b->tokens ? b->tokens : target(b, w->n, query ? w->gs : 1);
}

/* Mark the k best of x[0..n): higher first, then the lower index. */
static void mark_top(const float *x, uint32_t n, uint32_t k, uint8_t *mark)
{
    memset(mark, 0, n);
    for (uint32_t i = 0; i < k && i < n; i++) {
        uint32_t best = n;
        for (uint32_t j = 0; j < n; j++)
            if (!mark[j] && (best == n || x[j] > x[best])) best = j;
        mark[best] = 1;
    }
}

static void keep_marked(sets *s, uint32_t l, uint32_t c, const uint8_t *mark, uint32_t n)
{
    s->n[l][c] = 0;
    for (uint32_t j = 0; j < n; j++)
        if (mark[j]) s->pos[l][c][s->n[l][c]++] = j;
}

/* ------------------------------------------------------------- the policies */

static double pooled(const double *x, uint32_t n, uint32_t j, uint32_t k, int max)
{
    double sum = 0, best = -INFINITY;
    for (int64_t i = (int64_t)j - k / 2; i <= (int64_t)j + k / 2; i++)
        if (i >= 0 && i < n) sum += x[i], best = fmax(best, x[i]);
    return max ? best : sum / k;
}

static void streaming(const world *w, const budget *b, uint32_t sinks, sets *s)
{
    const uint32_t k = per_cache(w, b, 0);
    s->n_caches = w->Hkv;
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t g = 0; g < w->Hkv; g++) {
            uint8_t mark[MAX_T] = {0};
            for (uint32_t j = 0; j < sinks && j < k; j++) mark[j] = 1;
            for (uint32_t i = sinks; i < k; i++) mark[w->n - 1 - (i - sinks)] = 1;
            keep_marked(s, l, g, mark, w->n);
        }
}

static void snapkv(const world *w, const budget *b, uint32_t W, uint32_t kernel, int max, int query, sets *s)
{
    const uint32_t np = w->n - W, caches = query ? w->Hq : w->Hkv, gs = w->Hq / caches;
    s->n_caches = caches;
    for (uint32_t l = 0; l < L; l++) {
        float S[MAX_HQ][MAX_T], best = 0;
        for (uint32_t c = 0; c < caches; c++)
            for (uint32_t j = 0; j < np; j++) {
                double group = 0;
                for (uint32_t h = c * gs; h < (c + 1) * gs; h++) {
                    double m[MAX_T] = {0};
                    for (uint32_t i = 0; i < np; i++) {
                        for (uint32_t r = 0; r < W; r++) m[i] += w->A[l][h][np + r][i];
                        m[i] /= W;
                    }
                    group += pooled(m, np, j, kernel, max);
                }
                S[c][j] = (float)(group / gs);
                best = fmaxf(best, S[c][j]);
            }
        for (uint32_t c = 0; c < caches; c++) {
            uint8_t mark[MAX_T];
            for (uint32_t j = np; j < w->n; j++) S[c][j] = best;
            mark_top(S[c], w->n, per_cache(w, b, query), mark);
            keep_marked(s, l, c, mark, w->n);
        }
    }
}

/* (10) the largest entries of the layer: higher first, lower position, lower head. */
static void keep_layer(const world *w, uint32_t l, float S[MAX_HQ][MAX_T], uint32_t k, sets *s)
{
    float flat[MAX_HQ * MAX_T];
    uint8_t mark[MAX_HQ * MAX_T], own[MAX_T];
    for (uint32_t j = 0; j < w->n; j++)
        for (uint32_t g = 0; g < w->Hkv; g++) flat[j * w->Hkv + g] = S[g][j];
    mark_top(flat, w->n * w->Hkv, k, mark);
    for (uint32_t g = 0; g < w->Hkv; g++) {
        for (uint32_t j = 0; j < w->n; j++) own[j] = mark[j * w->Hkv + g];
        keep_marked(s, l, g, own, w->n);
    }
}

static double group_norm(const world *w, uint32_t l, uint32_t g, uint32_t j)
{
    double sum = 0;
    for (uint32_t h = g * w->gs; h < (g + 1) * w->gs; h++) sum += w->nu[l][h][j];
    return sum / w->gs;
}

/* max over heads and rows of pooled rows; mass restored or not. */
static double worst(const world *w, uint32_t l, uint32_t g, uint32_t j, uint32_t W, uint32_t kernel, int restore)
{
    const uint32_t np = w->n - W;
    double best = 0;
    for (uint32_t h = g * w->gs; h < (g + 1) * w->gs; h++)
        for (uint32_t r = 0; r < W; r++) {
            const double *row = w->A[l][h][np + r];
            double M = 0, P = 0;
            for (uint32_t i = 0; i < np; i++) M += row[i], P += pooled(row, np, i, kernel, 0);
            best = fmax(best, pooled(row, np, j, kernel, 0) * (restore ? M / P : 1));
        }
    return best;
}

static double rho(const world *w, uint32_t l, uint32_t W, int window)
{
    const uint32_t np = w->n - W, from = window ? np : np > W ? np - W : 0, to = window ? w->n : np;
    double sum = 0;
    for (uint32_t h = 0; h < w->Hq; h++)
        for (uint32_t r = 0; r < W; r++)
            for (uint32_t j = from; j < to; j++) sum += w->A[l][h][np + r][j];
    return sum / (w->Hq * W);
}

/* Stage 1: how many entries of the descending mean attention, and which. */
static void stage1(const world *w, const budget *b, uint32_t l, uint32_t g, uint32_t W, double tau, uint8_t *mark)
{
    const uint32_t np = w->n - W;
    const double share = b->tokens ? (double)b->tokens / w->n : b->share, cr = 1 - share;
    const double limit = b->reference ? trunc(np * (1 - cr) - W) : rint(np * share - W);
    float a[MAX_T];
    double sum = 0, reached = 0;
    uint32_t count = 0;

    for (uint32_t j = 0; j < np; j++) {
        double x = 0;
        for (uint32_t h = g * w->gs; h < (g + 1) * w->gs; h++)
            for (uint32_t r = 0; r < W; r++) x += w->A[l][h][np + r][j];
        a[j] = (float)x;
        sum += x;
    }
    for (uint32_t k = 1; k <= np; k++) {            /* c_{k-1} = sum of the k best */
        mark_top(a, np, k, mark);
        reached = 0;
        for (uint32_t j = 0; j < np; j++) reached += mark[j] ? (double)a[j] / sum : 0;
        if (reached >= tau) {
            count = k - 1;
            break;
        }
    }
    mark_top(a, np, fmin(count, fmax(0, limit)), mark);
}

static void defensivekv(const world *w, const budget *b, uint32_t W, uint32_t kernel, int paper, int rho_window, sets *s)
{
    const uint32_t np = w->n - W;
    s->n_caches = w->Hkv;
    for (uint32_t l = 0; l < L; l++) {
        float S[MAX_HQ][MAX_T], smax = 0;
        for (uint32_t g = 0; g < w->Hkv; g++) {
            double R[MAX_T], mean = 0;
            for (uint32_t j = 0; j < np; j++) mean += R[j] = worst(w, l, g, j, W, kernel, !paper);
            mean /= np;
            for (uint32_t j = 0; j < np; j++) {
                double all = 0;
                for (uint32_t other = 0; other < w->Hkv; other++) all += group_norm(w, l, other, j);
                S[g][j] = (float)(fmax(R[j], mean) * group_norm(w, l, g, j) / (paper ? 1 : all));
                smax = fmaxf(smax, S[g][j]);
            }
        }
        for (uint32_t g = 0; g < w->Hkv; g++) {
            uint8_t mark[MAX_T] = {0};
            if (!paper) stage1(w, b, l, g, W, 0.9 - rho(w, l, W, rho_window), mark);
            for (uint32_t j = 0; j < np; j++)
                if (mark[j]) S[g][j] = smax;
            for (uint32_t j = np; j < w->n; j++) S[g][j] = paper ? INFINITY : smax;
        }
        keep_layer(w, l, S, b->tokens ? b->tokens * w->Hkv : target(b, (double)w->n * w->Hkv, 1), s);
    }
}

/* Keep the best k of the list by x; the rest of the list is closed up. */
static uint32_t cut(uint32_t *list, float *x, uint32_t n, uint32_t k, uint32_t n_latest)
{
    uint8_t mark[MAX_T];
    uint32_t m = 0;
    mark_top(x, n - n_latest, k, mark);
    for (uint32_t i = 0; i < n; i++)
        if (i >= n - n_latest || mark[i]) list[m] = list[i], x[m] = x[i], m++;
    return m;
}

static void tova(const world *w, const budget *b, uint32_t steps, sets *s)
{
    const uint32_t C = per_cache(w, b, 0);
    s->n_caches = w->Hkv;
    for (uint32_t l = 0; l < L; l++) {
        uint32_t list[MAX_T], n = 0;
        for (uint32_t p = 0; p < w->n + steps; p++) {
            double row[MAX_T], mean[MAX_T] = {0};
            float x[MAX_T];
            list[n++] = p;
            if (p < w->n - 1 || n <= C) continue;   /* nothing leaves before the prompt is complete */
            for (uint32_t h = 0; h < w->Hq; h++) {
                softmax(w->z[l][h][p], list, n, row);
                for (uint32_t i = 0; i < n; i++) mean[i] += row[i];
            }
            for (uint32_t i = 0; i < n; i++) x[i] = (float)(mean[i] / w->Hq);
            n = cut(list, x, n, C, 0);
        }
        for (uint32_t g = 0; g < w->Hkv; g++) {
            s->n[l][g] = n;
            memcpy(s->pos[l][g], list, n * sizeof *list);
        }
    }
}

/* GQA rule: a cache per query head (query), or the group's mean rows. */
static void h2o(const world *w, const budget *b, double recent, uint32_t steps, int query, sets *s)
{
    const uint32_t C = per_cache(w, b, query), heavy = (uint32_t)(C * (1 - recent)), latest = C - heavy;
    const uint32_t caches = query ? w->Hq : w->Hkv, gs = w->Hq / caches;
    s->n_caches = caches;
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < caches; c++) {
            uint32_t *list = s->pos[l][c], n = w->n;
            float hh[MAX_T];
            for (uint32_t j = 0; j < n; j++) {
                double sum = 0;
                for (uint32_t h = c * gs; h < (c + 1) * gs; h++) {
                    double column = 0;
                    for (uint32_t p = j; p < w->n; p++) column += w->A[l][h][p][j];
                    sum += (double)(float)column;
                }
                list[j] = j, hh[j] = (float)(sum / gs);
            }
            if (n > C) n = cut(list, hh, n, heavy, latest);
            for (uint32_t t = 0; t < steps; t++) {
                double row[MAX_T], mean[MAX_T] = {0};
                hh[n] = 0, list[n++] = w->n + t;
                for (uint32_t h = c * gs; h < (c + 1) * gs; h++) {
                    softmax(w->z[l][h][w->n + t], list, n, row);
                    for (uint32_t i = 0; i < n; i++) mean[i] += row[i];
                }
                for (uint32_t i = 0; i < n; i++) hh[i] += (float)(mean[i] / gs);
                if (n > C) n = cut(list, hh, n, heavy, latest);
            }
            s->n[l][c] = n;
        }
}

/* ------------------------------------------------------------- comparing */

typedef struct bench {
    const world      *w;
    kvt_golden        g;
    float            *q, *k, *v, *wo;
    kvt_golden_trace *trace;
    uint32_t          n_cases, n_tied;
} bench;

static void bench_open(bench *t, const world *w)
{
    float *q, *k, *v, *wo;
    kvt_err err = {KVT_OK, ""};

    memset(t, 0, sizeof *t);
    t->w = w;
    q = t->q = calloc((size_t)L * w->Hq * w->T * w->d, sizeof *q);
    k = t->k = calloc((size_t)L * w->Hkv * w->T * w->d, sizeof *k);
    v = t->v = calloc((size_t)L * w->Hkv * w->T * w->d, sizeof *v);
    wo = t->wo = calloc((size_t)L * DM * w->Hq * w->d, sizeof *wo);
    for (uint32_t l = 0; l < L; l++) {
        for (uint32_t h = 0; h < w->Hq; h++)
            for (uint32_t p = 0; p < w->T; p++)
                for (uint32_t c = 0; c < w->d; c++) {
                    *q++ = w->Q[l][h][p][c];
                    if (h < w->Hkv) *k++ = w->K[l][h][p][c], *v++ = w->V[l][h][p][c];
                }
        for (uint32_t o = 0; o < DM; o++)
            for (uint32_t h = 0; h < w->Hq; h++)
                for (uint32_t c = 0; c < w->d; c++) *wo++ = w->Wo[l][o][h][c];
    }
    t->g = (kvt_golden){"random operands", L, w->Hq, w->Hkv, w->d, w->n, w->gen, DM, t->q, t->k, t->v, t->wo};
    cr_assert(kvt__golden_open(&t->trace, &t->g, &err) == KVT_OK, "%s", err.text);
}

static void bench_close(bench *t)
{
    kvt__golden_close(t->trace);
    free(t->q), free(t->k), free(t->v), free(t->wo);
}

static kvt_golden_result run(bench *t, const char *spec, const budget *b, const sets *s)
{
    uint32_t start[L * MAX_HQ + 1] = {0}, at = 0, cache = 0;
    uint32_t *pos = calloc((size_t)L * MAX_HQ * MAX_T, sizeof *pos);
    const kvt_golden_case c = {spec, spec, b->reference ? "reference" : "share", b->text, s->n_caches, start, pos};
    kvt_golden_result result;
    kvt_err err = {KVT_OK, ""};

    for (uint32_t l = 0; l < L; l++)
        for (uint32_t h = 0; h < s->n_caches; h++) {
            memcpy(pos + at, s->pos[l][h], s->n[l][h] * sizeof *pos);
            at += s->n[l][h];
            start[++cache] = at;
        }
    cr_assert(kvt__golden_run(t->trace, &c, &result, &err) == KVT_OK, "%s: %s", spec, err.text);
    free(pos);
    return result;
}

static void expect(bench *t, const char *spec, const budget *b, const sets *s)
{
    const kvt_golden_result r = run(t, spec, b, s);

    cr_assert(r.verdict == KVT_VERDICT_IDENTICAL || r.verdict == KVT_VERDICT_TIED, "%u heads, %u KV heads, n %u, budget %s%s: %s: %s",
              t->w->Hq, t->w->Hkv, t->w->n, b->text, b->reference ? " reference" : "", spec, r.detail);
    t->n_cases++;
    t->n_tied += r.verdict == KVT_VERDICT_TIED;
}

static const struct { uint32_t Hq, Hkv, d, n, gen; } shape[] = {
    {4, 2, 4, 60, 30}, {6, 2, 8, 83, 17}, {3, 3, 5, 50, 40}, {4, 1, 4, 33, 8},
};
enum { N_SHAPES = sizeof shape / sizeof *shape, N_BUDGETS = 11 };
static const budget budgets[N_BUDGETS] = {
    {"0.05", 0.05, 0, 0}, {"0.2", 0.2, 0, 0}, {"0.35", 0.35, 0, 0}, {"0.6", 0.6, 0, 0}, {"0.8", 0.8, 0, 0}, {"19t", 0, 19, 0},
    {"0.05", 0.05, 0, 1}, {"0.2", 0.2, 0, 1}, {"0.4", 0.4, 0, 1}, {"0.8", 0.8, 0, 1}, {"19t", 0, 19, 1},
};

static void one_shot(bench *t, const budget *b)
{
    sets s;

    streaming(t->w, b, 4, &s), expect(t, "streaming", b, &s);
    streaming(t->w, b, 1, &s), expect(t, "streaming:impl=static,sinks=1", b, &s);
    snapkv(t->w, b, 8, 5, 0, 0, &s), expect(t, "snapkv:window=8", b, &s);
    snapkv(t->w, b, 4, 7, 1, 0, &s), expect(t, "snapkv:window=4,kernel=7,pooling=max", b, &s);
    snapkv(t->w, b, 8, 3, 0, 1, &s), expect(t, "snapkv:window=8,kernel=3,caches=query", b, &s);
    defensivekv(t->w, b, 8, 5, 0, 0, &s), expect(t, "defensivekv:window=8", b, &s);
    defensivekv(t->w, b, 3, 5, 0, 0, &s), expect(t, "defensivekv:window=3", b, &s);
    defensivekv(t->w, b, 3, 5, 0, 1, &s), expect(t, "defensivekv:window=3,rho=window", b, &s);
    defensivekv(t->w, b, 8, 3, 1, 0, &s), expect(t, "defensivekv:window=8,kernel=3,semantics=paper", b, &s);
}

static void online(bench *t, const budget *b)
{
    sets s;
    char spec[64];

    for (uint32_t steps = 0; steps <= t->w->gen; steps += steps ? t->w->gen - 1 : 1) {
        snprintf(spec, sizeof spec, "tova:impl=original,steps=%u", steps);
        tova(t->w, b, steps, &s), expect(t, spec, b, &s);
        snprintf(spec, sizeof spec, "h2o:steps=%u", steps);
        h2o(t->w, b, 0.5, steps, 1, &s), expect(t, spec, b, &s);
        snprintf(spec, sizeof spec, "h2o:recent=0.25,caches=kv,steps=%u", steps);
        h2o(t->w, b, 0.25, steps, 0, &s), expect(t, spec, b, &s);
    }
}

Test(slow_reference, kept_sets_are_those_of_the_formulas, .timeout = 240)
{
    uint32_t n_cases = 0, n_tied = 0;

    for (uint32_t i = 0; i < N_SHAPES; i++) {
        world *w = make(i + 1, shape[i].Hq, shape[i].Hkv, shape[i].d, shape[i].n, shape[i].gen);
        bench t;
        bench_open(&t, w);
        for (uint32_t b = 0; b < N_BUDGETS; b++) {
            one_shot(&t, &budgets[b]);
            online(&t, &budgets[b]);
        }
        n_cases += t.n_cases, n_tied += t.n_tied;
        bench_close(&t);
        free(w);
    }
    cr_assert(n_cases > 700 && n_tied * 30 <= n_cases, "%u of %u cases are decided by the last bit", n_tied, n_cases);
}

Test(slow_reference, a_capacity_above_the_prompt_fills_up_before_anything_leaves)
{
    world *w = make(7, 4, 2, 4, 40, 30);
    const budget b = {"50t", 0, 50, 0};
    bench t;
    sets s;

    bench_open(&t, w);
    tova(w, &b, 30, &s), expect(&t, "tova:steps=30", &b, &s);
    cr_assert(s.n[0][0] == 50);
    h2o(w, &b, 0.5, 30, 1, &s), expect(&t, "h2o:steps=30", &b, &s);
    tova(w, &b, 5, &s), expect(&t, "tova:steps=5", &b, &s);
    cr_assert(s.n[0][0] == 45);
    bench_close(&t);
    free(w);
}

Test(slow_reference, equal_rows_keep_the_lower_positions)
{
    world *w = calloc(1, sizeof *w);                /* all logits 0: every score of a row is equal */
    const budget b = {"10t", 0, 10, 0};
    bench t;
    sets s;

    w->Hq = 2, w->Hkv = 1, w->gs = 2, w->d = 4, w->n = 20, w->gen = 5, w->T = 25;
    bench_open(&t, w);
    s.n_caches = 1;
    for (uint32_t l = 0; l < L; l++) {              /* TOVA names what stays: the newest leaves */
        s.n[l][0] = 10;
        for (uint32_t j = 0; j < 10; j++) s.pos[l][0][j] = j;
    }
    cr_assert(run(&t, "tova:steps=5", &b, &s).verdict == KVT_VERDICT_IDENTICAL);
    bench_close(&t);
    free(w);
}

Test(slow_reference, a_wrong_set_is_called_different)
{
    world *w = make(9, 4, 2, 4, 60, 10);
    const budget b = {"0.4", 0.4, 0, 0};
    bench t;
    sets s;

    bench_open(&t, w);
    snapkv(w, &b, 8, 5, 0, 0, &s);
    cr_assert(run(&t, "snapkv:window=8", &b, &s).verdict == KVT_VERDICT_IDENTICAL);
    for (uint32_t j = 0; j + 1 < w->n; j++)         /* another token in place of a window token */
        if (j != s.pos[1][1][j]) {
            s.pos[1][1][j] = j;
            break;
        }
    cr_assert(run(&t, "snapkv:window=8", &b, &s).verdict == KVT_VERDICT_DIFFERENT);
    snapkv(w, &b, 8, 5, 0, 0, &s);
    s.n[0][0]--;
    cr_assert(run(&t, "snapkv:window=8", &b, &s).verdict == KVT_VERDICT_DIFFERENT);
    cr_assert(run(&t, "snapkv:window=8,caches=query", &b, &s).verdict == KVT_VERDICT_DIFFERENT);
    cr_assert(run(&t, "rkv", &b, &s).verdict == KVT_VERDICT_UNSUPPORTED);
    bench_close(&t);
    free(w);
}
