/* stat_world.h - policies against slow transcriptions of their formulas, without the
 * engine. setup() and score() are called as the engine does, with scratch of exactly the
 * promised size and poisoned; the scores of both sides go through one literal sort. Sets
 * may differ only where the reference's scores at the cut agree to 1e-6, and that must be
 * rare. References work in double and share no code with policies/. */
#ifndef KVT_STAT_WORLD_H
#define KVT_STAT_WORLD_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_prim.h"

enum { L = 3, MAX_N = 96, MAX_H = 6, MAX_D = 8, MAX_PARAM = 4 };

typedef struct world {
    uint32_t Hq, Hkv, gs, d, dv, n;
    float    q[L][MAX_H * MAX_N * MAX_D], k[L][MAX_H * MAX_N * MAX_D], v[L][MAX_H * MAX_N * MAX_D];
    float    nu[L][MAX_H * MAX_N], col[L][MAX_H * MAX_N], rows[L][MAX_H * MAX_N * MAX_N];   /* rows: all queries */
    double   before[MAX_H][MAX_N][MAX_D];               /* queries before rotation, layer 0 */
} world;

typedef double scores[L][MAX_H][MAX_N];
typedef struct trial {                                  /* what one run asks for            */
    const char *id;
    double      param[MAX_PARAM];
    kvt_rule    rule;
    double      share;
    int         per_query_head;
    const kvt_rope *rope;
} trial;

static uint64_t state;
static inline double uniform(void)
{
    uint64_t x = state += 0x9e3779b97f4a7c15u;          /* splitmix64 */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}
static inline double normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += uniform();
    return sum;
}

#define QUERY(w, l, h, t) ((w)->q[l] + ((size_t)(h) * (w)->n + (t)) * (w)->d)
#define KEY(w, l, g, j) ((w)->k[l] + ((size_t)(g) * (w)->n + (j)) * (w)->d)
#define VALUE(w, l, g, j) ((w)->v[l] + ((size_t)(g) * (w)->n + (j)) * (w)->dv)
#define ROW(w, l, h, t) ((w)->rows[l] + ((size_t)(h) * (w)->n + (t)) * (w)->n)

static inline void attend(world *w)                            /* rows and column sums from q and k */
{
    for (uint32_t l = 0; l < L; l++) {
        memset(w->col[l], 0, sizeof w->col[l]);
        for (uint32_t h = 0; h < w->Hq; h++)
            for (uint32_t t = 0; t < w->n; t++) {
                double e[MAX_N] = { 0 }, sum = 0;
                for (uint32_t j = 0; j <= t; j++) {
                    double dot = 0;
                    for (uint32_t c = 0; c < w->d; c++) dot += (double)QUERY(w, l, h, t)[c] * (double)KEY(w, l, h / w->gs, j)[c];
                    sum += e[j] = exp(dot / sqrt(w->d));
                }
                for (uint32_t j = 0; j < w->n; j++) ROW(w, l, h, t)[j] = (float)(e[j] / sum);
                for (uint32_t j = 0; j <= t; j++) w->col[l][h * w->n + j] += ROW(w, l, h, t)[j];
            }
    }
}

static inline world *make(uint64_t seed, uint32_t Hq, uint32_t Hkv, uint32_t d, uint32_t dv, uint32_t n)
{
    world *w = calloc(1, sizeof *w);

    cr_assert(Hq <= MAX_H && d <= MAX_D && dv <= MAX_D && n <= MAX_N);
    state = seed;
    w->Hq = Hq, w->Hkv = Hkv, w->gs = Hq / Hkv, w->d = d, w->dv = dv, w->n = n;
    for (uint32_t l = 0; l < L; l++) {
        for (uint32_t i = 0; i < Hq * n * d; i++) w->q[l][i] = (float)normal();
        for (uint32_t i = 0; i < Hkv * n * d; i++) w->k[l][i] = (float)(normal() + 0.5);
        for (uint32_t i = 0; i < Hkv * n * dv; i++) w->v[l][i] = (float)(normal() * (l + 1));
        for (uint32_t i = 0; i < Hq * n; i++) w->nu[l][i] = (float)(1 + uniform() * 5);
    }
    attend(w);
    return w;
}

/* ---- the run under test ------------------------------------------------------------- */

static inline double count_of(kvt_rule rule, double share, double x)   /* of x entries; the counts of a budget */
{
    if (rule == KVT_RULE_REFERENCE) return trunc(x * (1 - (1 - share)));
    return fabs(x * share - floor(x * share) - 0.5) < 1e-9 ? 2 * rint(x * share / 2) : rint(x * share);
}

static inline kvt_job job_of(const world *w, const trial *t)
{
    const kvt_job job = {
        .n_layers = L, .n_q_heads = w->Hq, .n_kv_heads = w->Hkv, .n_caches = t->per_query_head ? w->Hq : w->Hkv,
        .head_dim = w->d, .value_dim = w->dv, .n = w->n, .scale = 1 / sqrt(w->d), .rule = t->rule, .share = t->share,
        .tokens = w->n * t->share, .keep_cache = (uint32_t)count_of(t->rule, t->share, w->n),
        .keep_layer = (uint64_t)count_of(t->rule, t->share, w->n * w->Hkv),
        .keep_model = (uint64_t)count_of(t->rule, t->share, w->n * w->Hkv * L), .param = t->param,
    };
    return job;
}

static inline kvt_setup setup_of(const world *w, const trial *t)
{
    const kvt_policy *p = kvt_policy_find(t->id);
    const kvt_job job = job_of(w, t);
    kvt_setup s;

    cr_assert(p && p->score, "%s", t->id);
    s = (kvt_setup){ .caps = p->caps, .needs = p->needs, .rank_over = p->rank_over, .share_over = p->share_over,
                     .keep_all = -1, .capacity = job.keep_cache, .steps_from = job.n };
    if (p->setup) p->setup(&job, &s);
    return s;
}

static inline void run(const world *w, const trial *t, scores out)
{
    const kvt_policy *p = kvt_policy_find(t->id);
    const kvt_job job = job_of(w, t);
    const kvt_setup s = setup_of(w, t);
    unsigned char *mem = aligned_alloc(64, s.ws_bytes + 64);
    float *score = malloc(MAX_H * MAX_N * sizeof *score);

    cr_assert(s.keep_all != 1 && s.window <= w->n);
    for (uint32_t l = 0; l < L; l++) {
        const kvt_prompt in = {
            .layer = l, .slot = l, .window = w->n, .win = w->rows[l], .col_sum = w->col[l], .nu = w->nu[l], .q = w->q[l],
            .key = w->k[l], .val = w->v[l], .key_stride = w->n * w->d, .val_stride = w->n * w->dv, .rope = t->rope,
        };
        uint32_t keep[MAX_H];
        uint64_t keep_layer = job.keep_layer;
        double stat[KVT_STATS] = { 0 };
        kvt_ws ws = { mem, 0, s.ws_bytes };
        kvt_choice choice = { score, keep, &keep_layer, stat };

        for (uint32_t c = 0; c < job.n_caches; c++) keep[c] = job.keep_cache;
        for (size_t i = 0; i < (size_t)job.n_caches * job.n; i++) score[i] = NAN;   /* all of it must be written */
        memset(mem, 0xff, s.ws_bytes);
        p->score(&job, &in, &ws, &choice);
        for (uint32_t c = 0; c < job.n_caches; c++) {
            cr_assert_eq(keep[c], job.keep_cache);
            for (uint32_t j = 0; j < job.n; j++) {
                cr_assert(!isnan(score[c * job.n + j]), "%s layer %u cache %u token %u", t->id, l, c, j);
                out[l][c][j] = (double)score[c * job.n + j];
            }
        }
    }
    free(mem), free(score);
}

/* ---- choosing ------------------------------------------------------------------------- */

typedef struct entry { double score; uint32_t l, c, j; } entry;
static inline int by_rank(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->j != y->j) return x->j < y->j ? -1 : 1;
    if (x->c != y->c) return x->c < y->c ? -1 : 1;
    return x->l < y->l ? -1 : x->l > y->l;
}

/* The `keep` best of layers l0..l1-1, caches c0..c1-1; returns the score at the cut. */
static inline double best(scores s, uint32_t n, uint32_t l0, uint32_t l1, uint32_t c0, uint32_t c1, uint64_t keep, uint8_t kept[L][MAX_H][MAX_N])
{
    static entry e[L * MAX_H * MAX_N];
    size_t m = 0;

    for (uint32_t l = l0; l < l1; l++)
        for (uint32_t c = c0; c < c1; c++)
            for (uint32_t j = 0; j < n; j++) e[m++] = (entry){ s[l][c][j], l, c, j };
    qsort(e, m, sizeof *e, by_rank);
    for (size_t i = 0; i < m; i++) kept[e[i].l][e[i].c][e[i].j] = i < keep;
    return keep ? e[keep < m ? keep - 1 : m - 1].score : 0;
}

static uint32_t n_sets, n_near;

/* Same kept sets from both scores, over the span of the policy. */
static inline void compare(const world *w, const trial *t, scores ours, scores ref)
{
    static uint8_t a[L][MAX_H][MAX_N], b[L][MAX_H][MAX_N];
    const kvt_job job = job_of(w, t);
    const kvt_setup s = setup_of(w, t);
    const uint32_t C = job.n_caches;

    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < C; c++) {
            const int first = s.rank_over == KVT_SPAN_CACHE || (c == 0 && (l == 0 || s.rank_over == KVT_SPAN_LAYER));
            const uint32_t l0 = s.rank_over == KVT_SPAN_MODEL ? 0 : l, l1 = s.rank_over == KVT_SPAN_MODEL ? L : l + 1;
            const uint32_t c0 = s.rank_over == KVT_SPAN_CACHE ? c : 0, c1 = s.rank_over == KVT_SPAN_CACHE ? c + 1 : C;
            const uint64_t keep = s.rank_over == KVT_SPAN_CACHE ? job.keep_cache : s.rank_over == KVT_SPAN_LAYER ? job.keep_layer : job.keep_model;
            double cut;
            int near = 0;

            if (!first) continue;
            best(ours, w->n, l0, l1, c0, c1, keep, a);
            cut = best(ref, w->n, l0, l1, c0, c1, keep, b);
            n_sets++;
            for (uint32_t i = l0; i < l1; i++)
                for (uint32_t k = c0; k < c1; k++)
                    for (uint32_t j = 0; j < w->n; j++)
                        if (a[i][k][j] != b[i][k][j]) {
                            near = 1;
                            cr_assert(fabs(ref[i][k][j] - cut) <= 1e-6 * fabs(cut), "%s share %g rule %d: layer %u cache %u token %u: %g against %g, cut %g",
                                      t->id, t->share, (int)t->rule, i, k, j, ours[i][k][j], ref[i][k][j], cut);
                        }
            n_near += (uint32_t)near;
        }
}

typedef void reference(const world *w, const trial *t, scores out);

static inline void compare_scores(const world *w, const trial *t, scores ours, scores ref, double tol)
{
    const kvt_job job = job_of(w, t);
    for (uint32_t l = 0; l < L; l++)
        for (uint32_t c = 0; c < job.n_caches; c++)
            for (uint32_t j = 0; j < w->n; j++)
                cr_assert(!(fabs(ours[l][c][j] - ref[l][c][j]) > tol * fabs(ref[l][c][j])), "%s share %g rule %d: layer %u cache %u token %u: %g against %g",
                          t->id, t->share, (int)t->rule, l, c, j, ours[l][c][j], ref[l][c][j]);
}

/* One policy on a world at many budgets, both rules, both kinds of caches if it has them.
 * tol: of the scores, relative; INFINITY where the reference's only rank alike. */
static inline void sweep(const world *w, const char *id, const double *param, const kvt_rope *rope, reference *ref, double tol, int query_too)
{
    static const double share[] = { 0.02, 0.1, 0.2, 0.35, 0.5, 0.7, 0.95 };
    static scores ours, theirs;

    for (size_t b = 0; b < sizeof share / sizeof *share; b++)
        for (int rule = 0; rule < 2; rule++)
            for (int query = 0; query <= query_too; query++) {
                trial t = { .id = id, .rule = rule ? KVT_RULE_REFERENCE : KVT_RULE_SHARE, .share = share[b], .per_query_head = query, .rope = rope };
                memcpy(t.param, param, sizeof t.param);
                run(w, &t, ours);
                ref(w, &t, theirs);
                compare(w, &t, ours, theirs);
                compare_scores(w, &t, ours, theirs, tol);
            }
}

static inline void near_ties_are_rare(void)
{
    cr_assert(n_sets > 0 && n_near * 100 <= n_sets, "%u of %u sets differ at a near tie", n_near, n_sets);
}

static inline uint32_t caches_of(const world *w, const trial *t) { return t->per_query_head ? w->Hq : w->Hkv; }
static inline uint32_t group_of(const world *w, const trial *t) { return w->Hq / caches_of(w, t); }
static inline uint32_t kv_of(const world *w, const trial *t, uint32_t c) { return t->per_query_head ? c / w->gs : c; }
#endif
