/* test_snap_family.c - SnapKV, PyramidKV, Ada-KV, CriticalKV, ChunkKV against their formulas.
 * Goal: kept sets equal those of a slow, literal transcription that shares no code with
 * policies/. Method: small random traces, among them traces full of ties; softmax and votes
 * in double, rounded to float once where a policy starts to rank; every set of every
 * layer, budget and rule must be the same. Degenerate budgets are stated one by one. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <float.h>
#include "policy_world.h"

enum { MAXN = 96, MAXH = 6 };

typedef struct how {                /* what the transcription needs to know of a spec */
    enum { PADDED, CAPACITY, PYRAMID, PYRAMID_FLAT, PYRAMID_REAL, ADA, ADA_PYRAMID, WRAPPER, EFFICIENT, CRITICAL, CRITICAL_ADA, CHUNK } kind;
    const char *spec;
    uint32_t    W, kernel;
    int         max, group_max, before, query, above, paper;   /* before: group, then pooling */
    double      alpha, first, eps;
    uint32_t    chunk;
} how;

static const how hows[] = {
    {PADDED, "snapkv:window=8", .W = 8, .kernel = 5},
    {PADDED, "snapkv:impl=kvpress,window=6,kernel=3,pooling=max,gqa=max", .W = 6, .kernel = 3, .max = 1, .group_max = 1, .above = 1},
    {PADDED, "snapkv:window=8,caches=query", .W = 8, .kernel = 5, .query = 1},
    {CAPACITY, "snapkv:impl=original,window=8", .W = 8, .kernel = 5, .before = 1, .query = 1},
    {CAPACITY, "snapkv:impl=original,window=8,caches=kv", .W = 8, .kernel = 5, .before = 1},
    {CAPACITY, "snapkv:impl=ada,window=8", .W = 8, .kernel = 7, .max = 1, .before = 1},
    {CAPACITY, "snapkv:impl=factory,window=4,gqa=max", .W = 4, .kernel = 5, .group_max = 1, .before = 1},
    {PYRAMID, "pyramidkv:window=8", .W = 8, .kernel = 7, .max = 1, .before = 1},
    {PYRAMID, "pyramidkv:window=3,kernel=1,pooling=avg,caches=query", .W = 3, .kernel = 1, .before = 1, .query = 1},
    {PYRAMID_FLAT, "pyramidkv:impl=factory,window=8", .W = 8, .kernel = 5, .before = 1},
    {PYRAMID_REAL, "pyramidkv:impl=kvpress,window=8", .W = 8, .kernel = 5, .above = 1},
    {PYRAMID_REAL, "pyramidkv:impl=kvpress,window=1", .W = 1, .kernel = 5, .above = 1},
    {ADA, "adakv_snap:window=8", .W = 8, .kernel = 7, .max = 1, .before = 1, .alpha = 0.2},
    {ADA, "adakv_snap:window=8,caches=query,alpha=0.55,kernel=3", .W = 8, .kernel = 3, .max = 1, .before = 1, .query = 1, .alpha = 0.55},
    {ADA, "adakv_snap:window=5,gqa=max,pooling=avg,alpha=0", .W = 5, .kernel = 7, .group_max = 1, .before = 1},
    {ADA_PYRAMID, "adakv_pyramid:window=8", .W = 8, .kernel = 7, .max = 1, .before = 1, .alpha = 0.2},
    {ADA_PYRAMID, "adakv_pyramid:window=8,caches=query,alpha=0.3", .W = 8, .kernel = 7, .max = 1, .before = 1, .query = 1, .alpha = 0.3},
    {WRAPPER, "adakv_snap:impl=wrapper,window=8", .W = 8, .kernel = 5, .alpha = 0.2},
    {WRAPPER, "adakv_snap:impl=wrapper,scorer=kvpress,window=8,alpha=0.6", .W = 8, .kernel = 5, .above = 1, .alpha = 0.6},
    {EFFICIENT, "adakv_snap:impl=efficient,window=8", .W = 8, .kernel = 5, .alpha = 0.2},
    {EFFICIENT, "adakv_snap:impl=efficient,window=8,alpha=0", .W = 8, .kernel = 5},
    {CRITICAL, "criticalkv:window=8", .W = 8, .kernel = 5, .first = 0.5, .eps = 1e-4},
    {CRITICAL, "criticalkv:window=6,scorer=kvpress,first_stage=0.3,eps=0.01", .W = 6, .kernel = 5, .above = 1, .first = 0.3, .eps = 0.01},
    {CRITICAL, "criticalkv:window=8,semantics=paper,caches=query", .W = 8, .kernel = 5, .query = 1, .paper = 1, .first = 0.5, .eps = 1e-4},
    {CRITICAL_ADA, "critical_adakv:window=8", .W = 8, .kernel = 5, .alpha = 0.2, .first = 0.5, .eps = 1e-4},
    {CRITICAL_ADA, "critical_adakv:window=6,scorer=kvpress,alpha=0.5", .W = 6, .kernel = 5, .above = 1, .alpha = 0.5, .first = 0.5, .eps = 1e-4},
    {CRITICAL_ADA, "critical_adakv:window=8,semantics=paper", .W = 8, .kernel = 5, .paper = 1, .alpha = 0.2, .first = 0.5, .eps = 1e-4},
    {CHUNK, "chunkkv:window=8,chunk=5", .W = 8, .kernel = 5, .above = 1, .chunk = 5},
    {CHUNK, "chunkkv:window=8,chunk=20,scorer=dkv", .W = 8, .kernel = 5, .chunk = 20},
    {CHUNK, "chunkkv:window=8,chunk=90", .W = 8, .kernel = 5, .above = 1, .chunk = 90},
};
enum { N_HOWS = sizeof hows / sizeof *hows };

typedef struct count { const char *text; double share; uint32_t tokens; } count;
static const count counts[] = {{"0.01", 0.01, 0}, {"0.16", 0.16, 0}, {"0.35", 0.35, 0}, {"0.5", 0.5, 0}, {"0.77", 0.77, 0}, {"0.97", 0.97, 0},
                               {"1", 1, 0}, {"28t", 0, 28}, {"31t", 0, 31}, {"80t", 0, 80}};
enum { N_COUNTS = sizeof counts / sizeof *counts };

typedef struct layer_ref {          /* one layer, one spec, one budget                */
    uint32_t n, W, H, copies;
    float    S[MAXH][MAXN], nu[MAXH][MAXN];     /* S: votes of the prefix; nu of a cache */
    uint8_t  kept[MAXH][MAXN];
} layer_ref;

/* ---- votes --------------------------------------------------------------------------- */

static void attention(const world *w, uint32_t l, uint32_t h, uint32_t p, double *a)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t j = 0; j <= p; j++) {
        double z = 0;
        for (uint32_t c = 0; c < w->s.d; c++) z += (double)world_q(w, l, h, p)[c] * (double)world_k(w, l, h / (w->s.Hq / w->s.Hkv), j)[c];
        a[j] = z / sqrt(w->s.d);
        max = fmax(max, a[j]);
    }
    for (uint32_t j = 0; j <= p; j++) sum += a[j] = exp(a[j] - max);
    for (uint32_t j = 0; j <= p; j++) a[j] /= sum;
}

static void pool(const double *x, uint32_t n, const how *h, double *out)
{
    for (uint32_t j = 0; j < n; j++) {
        double sum = 0, best = -INFINITY;
        for (int i = (int)j - (int)h->kernel / 2; i <= (int)j + (int)h->kernel / 2; i++)
            if (i >= 0 && i < (int)n) sum += x[i], best = fmax(best, x[i]);
        out[j] = h->max ? best : sum / h->kernel;
    }
}

static void votes(const world *w, uint32_t l, const how *h, layer_ref *r)
{
    const uint32_t gs = w->s.Hq / r->H, cut = r->n - r->W;
    double a[MAXN], mean[MAXN], pooled[MAXN], merged[MAXN];

    for (uint32_t c = 0; c < r->H; c++) {
        for (uint32_t i = 0; i < gs; i++) {
            memset(mean, 0, sizeof mean);
            for (uint32_t p = cut; p < r->n; p++) {
                attention(w, l, c * gs + i, p, a);
                for (uint32_t j = 0; j < cut; j++) mean[j] += a[j] / r->W;
            }
            pool(mean, cut, h, pooled);
            for (uint32_t j = 0; j < cut; j++) {
                const double x = h->before ? mean[j] : pooled[j];
                merged[j] = i == 0 ? (h->group_max ? x : x / gs) : h->group_max ? fmax(merged[j], x) : merged[j] + x / gs;
            }
        }
        if (h->before) pool(merged, cut, h, pooled);
        for (uint32_t j = 0; j < cut; j++) r->S[c][j] = (float)(h->before ? pooled[j] : merged[j]);
        for (uint32_t j = 0; j < r->n; j++) {
            double sum = 0;
            for (uint32_t i = 0; i < gs; i++) sum += (double)w->data[l * KVT_T_END + KVT_T_NU][(c * gs + i) * w->T + j];
            r->nu[c][j] = (float)(sum / gs);
        }
    }
}

static void window_to(layer_ref *r, float value)
{
    for (uint32_t c = 0; c < r->H; c++)
        for (uint32_t j = r->n - r->W; j < r->n; j++) r->S[c][j] = value;
}

static float best_of(const layer_ref *r, uint32_t n)
{
    float best = -1;
    for (uint32_t c = 0; c < r->H; c++)
        for (uint32_t j = 0; j < n; j++) best = fmaxf(best, r->S[c][j]);
    return best;
}

/* ---- choices ------------------------------------------------------------------------- */

/* mark = the k best of caches from..to-1 and positions below n: score, then position, then cache. */
static void top(const layer_ref *r, uint32_t from, uint32_t to, uint32_t n, uint64_t k, uint8_t mark[MAXH][MAXN])
{
    for (uint32_t c = from; c < to; c++) memset(mark[c], 0, MAXN);
    for (; k > 0; k--) {
        int bc = -1, bj = -1;
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t c = from; c < to; c++)
                if (!mark[c][j] && (bc < 0 || r->S[c][j] > r->S[bc][bj])) bc = (int)c, bj = (int)j;
        if (bc < 0) return;
        mark[bc][bj] = 1;
    }
}

static void to_max(layer_ref *r, uint32_t c, uint32_t n, uint64_t k)
{
    uint8_t mark[MAXH][MAXN];
    top(r, c, c + 1, n, k, mark);
    for (uint32_t j = 0; j < n; j++)
        if (mark[c][j]) r->S[c][j] = FLT_MAX;
}

static uint32_t sum(const uint8_t *x, uint32_t n)
{
    uint32_t s = 0;
    for (uint32_t j = 0; j < n; j++) s += x[j];
    return s;
}

/* The best of the prefix and the window, in one cache. */
static void keep_prefix(layer_ref *r, uint32_t c, uint64_t k)
{
    top(r, c, c + 1, r->n - r->W, k, r->kept);
    for (uint32_t j = r->n - r->W; j < r->n; j++) r->kept[c][j] = 1;
}

static int64_t floor_div(int64_t a, int64_t b) { return (int64_t)floor((double)a / (double)b); }

static int64_t pyramid(int64_t b, int64_t cap, int64_t L, int64_t l)
{
    int64_t mn = floor_div(b, 20), mx = 2 * b - mn;
    if (L == 1) return b;
    if (mx >= cap) mx = cap, mn = 2 * b - mx;
    return mx - l * floor_div(mx - mn, L - 1);
}

static void adaptive(layer_ref *r, int64_t b, double alpha)
{
    const uint32_t cut = r->n - r->W;
    uint8_t mark[MAXH][MAXN];

    top(r, 0, r->H, cut, (uint64_t)(r->H * b), mark);
    for (uint32_t c = 0; c < r->H; c++) {
        const float cap = nearbyintf((float)sum(mark[c], cut) * (float)(1 - alpha) + (float)(int)((double)b * alpha));
        keep_prefix(r, c, b > cut ? cut : (uint64_t)cap);
    }
}

static void wrapper(layer_ref *r, uint32_t keep, double alpha)
{
    for (uint32_t c = 0; c < r->H; c++) {
        to_max(r, c, r->n, (uint64_t)(keep * alpha));
        memset(r->kept[c], 1, r->n);
    }
    for (uint32_t k = r->H * (r->n - keep); k > 0; k--) {       /* the smallest leave; ties: the lower position */
        int bc = -1, bj = -1;
        for (uint32_t j = 0; j < r->n; j++)
            for (uint32_t c = 0; c < r->H; c++)
                if (r->kept[c][j] && (bc < 0 || r->S[c][j] < r->S[bc][bj])) bc = (int)c, bj = (int)j;
        r->kept[bc][bj] = 0;
    }
}

static void value_factor(layer_ref *r, uint32_t c, uint32_t n, double eps, int protected_too)
{
    for (uint32_t j = 0; j < n; j++)
        if (protected_too || r->S[c][j] < FLT_MAX) r->S[c][j] = (r->S[c][j] + (float)eps) * r->nu[c][j];
}

static void chunks(layer_ref *r, const how *h, double kept_share)
{
    const uint32_t n_chunks = (r->n + h->chunk - 1) / h->chunk;
    layer_ref m = {.H = 1};
    uint8_t mark[MAXH][MAXN];
    uint64_t k = (uint64_t)kept_share > 1 ? (uint64_t)kept_share : 1;

    for (uint32_t i = 0; i < n_chunks; i++) {
        const uint32_t to = (i + 1) * h->chunk < r->n ? (i + 1) * h->chunk : r->n;
        double s = 0;
        for (uint32_t j = i * h->chunk; j < to; j++) {
            double heads = 0;
            for (uint32_t c = 0; c < r->H; c++) heads += (double)r->S[c][j];
            s += heads;
        }
        m.S[0][i] = (float)(s / (to - i * h->chunk));
    }
    top(&m, 0, 1, n_chunks, k, mark);
    for (uint32_t c = 0; c < r->H; c++)
        for (uint32_t j = 0; j < r->n; j++) r->kept[c][j] = mark[0][j / h->chunk];
}

/* ---- one spec at one budget ---------------------------------------------------------- */

/* The nearest whole number, halves to even; shares here have few decimals. */
static double nearest(double x) { return fabs(x - floor(x) - 0.5) < 1e-9 ? 2 * floor((floor(x) + 1) / 2) : floor(x + 0.5); }

static int is_capacity(const how *h)
{
    return h->kind == CAPACITY || h->kind == PYRAMID || h->kind == PYRAMID_FLAT || h->kind == ADA || h->kind == ADA_PYRAMID;
}

static uint32_t keep_of(const count *b, kvt_rule rule, uint32_t n, uint32_t copies)
{
    if (b->tokens) return b->tokens;
    return rule == KVT_RULE_REFERENCE ? (uint32_t)(n * (1 - (1 - b->share)) / copies) : (uint32_t)nearest(n * b->share / copies);
}

/* 1 = this code knows no such run. */
static int refused(const how *h, uint32_t n, uint32_t keep)
{
    if (!is_capacity(h) || n <= h->W) return 0;
    if (h->kind == ADA || h->kind == ADA_PYRAMID) return keep < h->W;
    return keep <= h->W && keep < n;
}

static void critical(layer_ref *r, const how *h, uint32_t keep, double tokens, kvt_rule rule)
{
    const uint32_t n = h->paper ? r->n - r->W : r->n;
    const double b1 = h->first * (h->paper ? (double)keep - r->W : tokens);

    for (uint32_t c = 0; c < r->H; c++) {
        to_max(r, c, n, b1 > 0 ? (uint64_t)(rule == KVT_RULE_REFERENCE ? b1 : nearest(b1)) : 0);
        value_factor(r, c, n, h->eps, 0);
    }
    if (h->paper) window_to(r, FLT_MAX);
    for (uint32_t c = 0; c < r->H; c++) top(r, c, c + 1, r->n, keep, r->kept);
}

static void critical_ada(layer_ref *r, const how *h, uint32_t keep)
{
    const uint32_t apart = !h->paper ? 0 : keep < r->W ? keep : r->W, n = h->paper ? r->n - r->W : r->n;
    uint8_t mark[MAXH][MAXN];

    for (uint32_t c = 0; c < r->H; c++) to_max(r, c, n, (uint64_t)((keep - apart) * h->alpha));
    top(r, 0, r->H, n, (uint64_t)r->H * (keep - apart), mark);
    for (uint32_t c = 0; c < r->H; c++) {
        const uint32_t own = sum(mark[c], n);
        to_max(r, c, n, (uint64_t)(own * h->first));
        value_factor(r, c, n, h->eps, !h->paper);
        top(r, c, c + 1, n, own, r->kept);
        for (uint32_t j = n; j < n + apart; j++) r->kept[c][j] = 1;
    }
}

static double real_pyramid(const layer_ref *r, double tokens, uint32_t L, uint32_t l)
{
    const double M = r->W + tokens - r->W;
    double lo = M / 20, hi = M * 2 - lo;
    if (hi >= r->n - r->W) hi = r->n - r->W, lo = M * 2 - hi;
    return L == 1 || !(r->n >= hi && hi >= lo && lo >= r->W) ? tokens : hi - l * ((hi - lo) / (L - 1));
}

static void choose(const world *w, uint32_t l, const how *h, const count *b, kvt_rule rule, layer_ref *r)
{
    const uint32_t n = w->s.N, L = w->s.L;
    const double share = rule == KVT_RULE_REFERENCE && !b->tokens ? 1 - (1 - b->share) : b->tokens ? 0 : b->share;

    *r = (layer_ref){.n = n, .W = h->W, .H = h->query ? w->s.Hq : w->s.Hkv};
    r->copies = r->H / w->s.Hkv;
    const uint32_t keep = keep_of(b, rule, n, r->copies), cut = n - h->W;
    const double tokens = b->tokens ? b->tokens : n * share / r->copies;
    const int all = n <= h->W || (keep >= n && h->kind != ADA && h->kind != ADA_PYRAMID);

    memset(r->kept, all, sizeof r->kept);
    if (all) return;
    votes(w, l, h, r);
    if (!is_capacity(h)) window_to(r, best_of(r, cut) + (float)h->above);
    for (uint32_t c = 0; c < r->H; c++) {
        if (h->kind == PADDED) top(r, c, c + 1, n, keep, r->kept);
        if (h->kind == CAPACITY) keep_prefix(r, c, keep - h->W);
        if (h->kind == PYRAMID) keep_prefix(r, c, (uint64_t)pyramid(keep - h->W, cut, L, l));
        if (h->kind == PYRAMID_FLAT) keep_prefix(r, c, n < 2 * (keep - h->W) ? keep - h->W : (uint64_t)pyramid(keep - h->W, cut, L, l));
        if (h->kind == PYRAMID_REAL) {
            const double x = real_pyramid(r, tokens, L, l);
            top(r, c, c + 1, n, (uint64_t)(rule == KVT_RULE_REFERENCE ? rint(x) : nearest(x)), r->kept);
        }
        if (h->kind == EFFICIENT) to_max(r, c, cut, (uint64_t)(tokens * h->alpha));
        if (h->kind == CHUNK && h->chunk > n) top(r, c, c + 1, n, keep, r->kept);
    }
    if (h->kind == ADA) adaptive(r, keep - h->W, h->alpha);
    if (h->kind == ADA_PYRAMID) adaptive(r, pyramid(keep - h->W, cut, L, l), h->alpha);
    if (h->kind == WRAPPER) wrapper(r, keep, h->alpha);
    if (h->kind == EFFICIENT) {
        window_to(r, best_of(r, cut));
        top(r, 0, r->H, n, b->tokens ? (uint64_t)b->tokens * r->H : rule == KVT_RULE_REFERENCE ? (uint64_t)(n * share * r->H)
            : (uint64_t)nearest(n * share * r->H), r->kept);
    }
    if (h->kind == CRITICAL) critical(r, h, keep, tokens, rule);
    if (h->kind == CRITICAL_ADA) critical_ada(r, h, keep);
    if (h->kind == CHUNK && h->chunk <= n) {
        const double x = (n + h->chunk - 1) / h->chunk * (b->tokens ? (double)b->tokens / n : share / r->copies);
        chunks(r, h, rule == KVT_RULE_REFERENCE ? floor(x) : nearest(x));
    }
}

/* ---- comparison with the engine ------------------------------------------------------ */

static uint32_t n_sets;

static void compare(const world *w, const how *h, const batch *b, const count *const *which)
{
    tape t = world_sets(w, b, 1);
    static layer_ref r;

    for (uint32_t i = 0; i < b->n_budget; i++)
        for (uint32_t l = 0; l < w->s.L; l++) {
            choose(w, l, h, which[i], b->budget[i].rule, &r);
            for (uint32_t c = 0; c < r.H; c++) {
                const uint32_t *s = tape_find(&t, 0, i, 0, l, c, (uint32_t)-1);
                cr_assert_not_null(s, "%s %s: layer %u cache %u: no set", h->spec, which[i]->text, l, c);
                cr_assert(s[SET_N] == sum(r.kept[c], r.n), "%s %s, L %u, N %u: layer %u cache %u: holds %u, formula %u", h->spec,
                          b->budget[i].text, w->s.L, r.n, l, c, s[SET_N], sum(r.kept[c], r.n));
                for (uint32_t k = 0; k < s[SET_N]; k++)
                    cr_assert(r.kept[c][s[SET_POS + k]], "%s %s, L %u, N %u: layer %u cache %u: position %u is not in the formula's set",
                              h->spec, b->budget[i].text, w->s.L, r.n, l, c, s[SET_POS + k]);
                n_sets++;
            }
        }
    tape_free(&t);
}

static void compare_all(const world *w)
{
    for (uint32_t k = 0; k < N_HOWS; k++) {
        const how *h = &hows[k];
        kvt_config *c = config_of(h->spec);
        for (int rule = 0; rule < 2; rule++) {
            batch b = {.config = {c}, .n_config = 1};
            const count *which[8];
            for (uint32_t i = 0; i < N_COUNTS; i++) {
                kvt_budget x;
                budget_of(&x, counts[i].text, rule ? KVT_RULE_REFERENCE : KVT_RULE_SHARE);
                kvt_err err = {KVT_OK, ""};
                const kvt_status st = kvt_plan_check(&w->info, c, &x, &err);
                const int no = refused(h, w->s.N, keep_of(&counts[i], x.rule, w->s.N, h->query ? w->s.Hq / w->s.Hkv : 1));
                cr_assert(st == (no ? KVT_EARG : KVT_OK), "%s %s, N %u: status %d: %s", h->spec, x.text, w->s.N, st, err.text);
                if (no) continue;
                which[b.n_budget] = &counts[i], b.budget[b.n_budget++] = x;
                if (b.n_budget == 8) compare(w, h, &b, which), b.n_budget = 0;
            }
            if (b.n_budget) compare(w, h, &b, which);
        }
        kvt_config_free(c);
    }
}

static const shape sizes[] = {{3, 4, 2, 4, 72, 2, 72, 0}, {2, 6, 2, 4, 45, 2, 45, 0}, {1, 3, 3, 4, 61, 2, 61, 0}, {5, 4, 1, 4, 30, 2, 30, 0}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

ParameterizedTestParameters(snap_family, kept_sets_are_those_of_the_formulas)
{
    static uint32_t index[N_SIZES] = {0, 1, 2, 3};
    return cr_make_param_array(uint32_t, index, N_SIZES);
}
ParameterizedTest(uint32_t *i, snap_family, kept_sets_are_those_of_the_formulas, .timeout = 120)
{
    world *w = world_make(&sizes[*i], 77 + *i);
    compare_all(w);
    cr_assert(n_sets > 500);
    world_free(w);
}

/* Zero queries: every row is flat, in every head. */
Test(snap_family, equal_scores_go_to_the_lower_position, .timeout = 120)
{
    world *w = world_new(&sizes[1], 5);
    memset(w->q, 0, (size_t)w->s.L * w->s.Hq * w->T * w->s.d * sizeof *w->q);
    world_finish(w);
    compare_all(w);
    world_free(w);
}

/* Tokens that repeat have the same keys; their scores tie within a head. */
Test(snap_family, repeated_tokens_tie, .timeout = 120)
{
    world *w = world_new(&sizes[0], 6);
    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t g = 0; g < w->s.Hkv; g++)
            for (uint32_t p = 7; p < w->s.N; p++) memcpy(world_k(w, l, g, p), world_k(w, l, g, p % 7), w->s.d * sizeof(float));
    world_finish(w);
    compare_all(w);
    world_free(w);
}

/* Values of no norm: a token that was sure of its place in critical_adakv loses it. */
Test(snap_family, values_of_no_norm_count_nothing, .timeout = 120)
{
    world *w = world_new(&sizes[0], 8);
    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t g = 0; g < w->s.Hkv; g++)
            for (uint32_t p = 0; p < w->s.N; p += 3) memset(world_v(w, l, g, p), 0, w->s.d * sizeof(float));
    world_finish(w);
    compare_all(w);
    world_free(w);
}

/* ---- degenerate cases, stated -------------------------------------------------------- */

static const uint32_t *only_set(const world *w, const char *spec, const char *budget, tape *t)
{
    batch b = {.config = {config_of(spec)}, .n_config = 1, .n_budget = 1};
    budget_of(&b.budget[0], budget, KVT_RULE_REFERENCE);
    *t = world_sets(w, &b, 1);
    kvt_config_free((kvt_config *)(uintptr_t)b.config[0]);
    return tape_find(t, 0, 0, 0, w->s.L - 1, 0, (uint32_t)-1);
}

Test(snap_family, a_prompt_within_the_window_stays_whole)
{
    static const char *const specs[] = {"snapkv:window=45", "snapkv:impl=ada,window=45", "pyramidkv:window=45", "pyramidkv:impl=kvpress,window=45",
        "adakv_snap:window=45", "adakv_snap:impl=wrapper,window=45", "adakv_snap:impl=efficient,window=45", "adakv_pyramid:window=45",
        "criticalkv:window=45", "critical_adakv:window=45", "chunkkv:window=45"};
    world *w = world_make(&sizes[1], 1);
    for (uint32_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        tape t;
        const uint32_t *s = only_set(w, specs[i], "0.2", &t);
        cr_assert(s && s[SET_N] == 45, "%s", specs[i]);
        tape_free(&t);
    }
    world_free(w);
}

Test(snap_family, a_capacity_of_one_window_keeps_the_window_or_is_refused)
{
    static const char *const keeps[] = {"adakv_snap:window=8", "adakv_pyramid:window=8"};
    static const char *const refuses[] = {"snapkv:impl=ada,window=8", "snapkv:impl=original,window=8", "snapkv:impl=factory,window=8",
                                          "pyramidkv:window=8", "pyramidkv:impl=factory,window=8"};
    world *w = world_make(&sizes[0], 2);
    for (uint32_t i = 0; i < 2; i++) {
        tape t;
        const uint32_t *s = only_set(w, keeps[i], "8t", &t);
        cr_assert(s && s[SET_N] == 8 && s[SET_POS] == 64, "%s", keeps[i]);
        tape_free(&t);
    }
    for (uint32_t i = 0; i < 7; i++) {
        const char *spec = i < 2 ? keeps[i] : refuses[i - 2];
        kvt_budget b;
        kvt_config *c = config_of(spec);
        kvt_err err = {KVT_OK, ""};
        budget_of(&b, i < 2 ? "7t" : "8t", KVT_RULE_SHARE);
        cr_assert(kvt_plan_check(&w->info, c, &b, &err) == KVT_EARG && strstr(err.text, i < 2 ? "8t" : "9t"), "%s: %s", spec, err.text);
        kvt_config_free(c);
    }
    world_free(w);
}

Test(snap_family, adakv_may_drop_a_token_per_head_of_a_budget_that_covers_the_prompt)
{
    world *w = world_make(&sizes[0], 3);    /* b = n' = 64: 64 * 0.8 + trunc(12.8) = 63.2 */
    tape t;
    const uint32_t *s = only_set(w, "adakv_snap:window=8", "72t", &t);
    cr_assert(s && s[SET_N] == 63 + 8);
    tape_free(&t);
    s = only_set(w, "adakv_snap:window=8", "73t", &t);
    cr_assert(s && s[SET_N] == 72);
    tape_free(&t);
    world_free(w);
}

Test(snap_family, defaults_follow_the_implementation)
{
    static const struct { const char *spec, *param; double value; } want[] = {
        {"snapkv", "window", 32}, {"snapkv:impl=kvpress", "window", 64}, {"snapkv:impl=ada", "kernel", 7}, {"snapkv:impl=ada", "pooling", 1},
        {"snapkv:impl=factory", "kernel", 5}, {"pyramidkv", "kernel", 7}, {"pyramidkv:impl=factory", "kernel", 5},
        {"pyramidkv:impl=kvpress", "pooling", 0}, {"pyramidkv:impl=kvpress", "window", 64}, {"adakv_snap", "pooling", 1},
        {"adakv_snap:impl=efficient", "pooling", 0}, {"adakv_snap:impl=wrapper", "kernel", 5}, {"adakv_snap:impl=wrapper,scorer=kvpress", "window", 64},
        {"adakv_snap:impl=wrapper,scorer=kvpress,window=16", "window", 16}, {"criticalkv:scorer=kvpress", "window", 64},
        {"critical_adakv:scorer=kvpress", "window", 64}, {"chunkkv", "window", 64}, {"chunkkv:scorer=dkv", "window", 32}};

    for (uint32_t i = 0; i < sizeof want / sizeof *want; i++) {
        kvt_config *c = config_of(want[i].spec);
        cr_assert(kvt_config_param(c, want[i].param, -1) == want[i].value, "%s: %s", want[i].spec, want[i].param);
        kvt_config_free(c);
    }
    kvt_config *a = config_of("snapkv:impl=ada"), *b = config_of("snapkv:impl=ada,kernel=7,pooling=max"), *q = config_of("snapkv:impl=original");
    cr_assert_str_eq(a->info.sha256, b->info.sha256);
    cr_assert_str_eq(b->info.label, "snapkv:impl=ada");
    cr_assert(q->caches == KVT_CACHES_QUERY);
    kvt_config_free(a), kvt_config_free(b), kvt_config_free(q);
}
