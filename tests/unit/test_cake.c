/* test_cake.c - CAKE. Goal: shares of the layers, kept sets after the prompt and after every
 * decode step equal those of a literal transcription that shares no code with policies/.
 * Method: examples of the shares worked by hand; random operands whose layers look at
 * the prompt with different sharpness; a cache that is a list of positions in the order in
 * which the reference stores them; the boundaries C = W, C < W, n = C + W and n <= W. */
#include "policy_world.h"

enum { MAX_T = 128, MAX_L = 32, LATEST = UINT32_MAX };

/* ---- shares ------------------------------------------------------------------------------ */

static void hand_out(long *b, uint32_t m, long cap, long amount)
{
    long valid = 0, nth = 0;
    for (uint32_t i = 0; i < m; i++) valid += b[i] < cap;
    if (amount <= 0 || valid == 0) return;
    for (uint32_t i = 0; i < m; i++)
        if (b[i] < cap) b[i] += amount / valid + (nth++ < amount % valid);
}

static void adjust(const double *pref, uint32_t m, long total, long cap, long *b)
{
    double sum = 0;
    long excess = 0, held = 0;

    for (uint32_t i = 0; i < m; i++) sum += pref[i];
    for (uint32_t i = 0; i < m; i++) {
        b[i] = (long)(pref[i] / sum * (double)total);
        if (b[i] > cap) excess += b[i] - cap, b[i] = cap;
    }
    hand_out(b, m, cap, excess);
    for (uint32_t i = 0; i < m; i++) held += b[i];
    hand_out(b, m, cap, total - held);
    for (uint32_t i = 0; i < m; i++) b[i] = b[i] < cap ? b[i] : cap;
}

/* What the policy's allot() leaves of the prefixes of m layers of two caches; *stat: the
 * logarithm of a preference. */
static void allot(const kvt_config *c, const kvt_job *job, const double *pref, uint32_t m, uint32_t window, uint32_t *b)
{
    double stat[MAX_L][KVT_STATS] = {{0}};
    uint32_t keep[2 * MAX_L], capacity[2 * MAX_L];

    for (uint32_t l = 0; l < m; l++) stat[l][0] = log(pref[l]);
    for (uint32_t i = 0; i < 2 * m; i++) keep[i] = job->n, capacity[i] = job->keep_cache;
    c->policy->allot(job, &(kvt_layers){m, 2, stat}, keep, capacity);
    for (uint32_t l = 0; l < m; l++) {
        cr_assert(keep[2 * l] >= window && keep[2 * l] == keep[2 * l + 1] && keep[2 * l] == capacity[2 * l] && keep[2 * l] == capacity[2 * l + 1]);
        b[l] = keep[2 * l] - window;
    }
}

static kvt_job job_of(const kvt_config *c, uint32_t n_layers, uint32_t n, double tokens)
{
    return (kvt_job){.n_layers = n_layers, .n_q_heads = 2, .n_kv_heads = 2, .n_caches = 2, .n = n, .rule = KVT_RULE_REFERENCE, .tokens = tokens,
                     .keep_cache = (uint32_t)tokens, .param = c->param};
}

/* n 20, W 4: a prefix of 16. The preferences of a row add up to (C - W) L, so each is the
 * layer's real share. */
Test(cake, shares_are_those_worked_by_hand)
{
    static const struct { const char *spec; kvt_rule rule; double tokens; uint32_t layers; double pref[4]; uint32_t b[4]; } rows[] = {
        /* 4 5 4 5 leave 2: one each to the first two */
        {"cake:window=4", KVT_RULE_SHARE, 9, 4, {4.4, 5.6, 4.8, 5.2}, {5, 6, 4, 5}},
        /* 23 2 3: 7 above the cap, 3 each and 1 to the first; 16 6 6 leave 2, one each */
        {"cake:window=4", KVT_RULE_SHARE, 14, 3, {23.8, 2.9, 3.3}, {16, 7, 7}},
        /* 23 15 2 2: 7 above the cap, 2 each and 1 to the first: 16 18 4 4; 2 more: 16 18 5 5;
         * layer 1 cannot hold 18: two entries of the budget are lost */
        {"cake:window=4", KVT_RULE_SHARE, 15, 4, {23.4, 15.6, 2.5, 2.5}, {16, 16, 5, 5}},
        /* 27 0 0 0: 11 above the cap, 3 each and 1 to the first two: 16 4 4 3; 1 more */
        {"cake:window=4", KVT_RULE_SHARE, 11, 4, {27.97, 0.01, 0.01, 0.01}, {16, 5, 4, 3}},
        {"cake:window=4", KVT_RULE_SHARE, 4, 3, {1, 2, 3}, {0, 0, 0}},
        /* the copy in DefensiveKV: trunc(10.65 * 3) = 31, to nearest 32; an even split of 32 */
        {"cake:impl=dkv,window=4", KVT_RULE_REFERENCE, 14.65, 3, {10, 10.1, 10.2}, {11, 10, 10}},
        {"cake:impl=dkv,window=4", KVT_RULE_SHARE, 14.65, 3, {10, 10.1, 10.2}, {11, 11, 10}},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kvt_config *c = config_of(rows[i].spec);
        kvt_job job = job_of(c, rows[i].layers, 20, rows[i].tokens);
        uint32_t b[4];
        job.rule = rows[i].rule;
        allot(c, &job, rows[i].pref, rows[i].layers, 4, b);
        for (uint32_t l = 0; l < rows[i].layers; l++) cr_expect(b[l] == rows[i].b[l], "row %zu layer %u: %u, expected %u", i, l, b[l], rows[i].b[l]);
        kvt_config_free(c);
    }
}

/* 32 layers, n 4000, C 1024: the sum over the layers that the cascade ends with, and with
 * one allocation; each stage is compared with the transcription. */
static void both_ways(double sigma, uint64_t seed, uint32_t *cascade, uint32_t *once)
{
    kvt_config *c = config_of("cake:window=32");
    const kvt_job job = job_of(c, MAX_L, 4000, 1024);
    double pref[MAX_L];
    uint32_t left[MAX_L], b[MAX_L];
    long x[MAX_L];

    world_state = seed;
    for (uint32_t l = 0; l < MAX_L; l++) left[l] = UINT32_MAX, pref[l] = exp(sigma * (double)world_normal());
    for (uint32_t m = 1; m <= MAX_L; m++) {
        allot(c, &job, pref, m, 32, b);
        adjust(pref, m, (1024 - 32) * MAX_L, 4000 - 32, x);
        for (uint32_t l = 0; l < m; l++) {
            cr_assert(b[l] == (uint32_t)x[l], "sigma %g, stage %u, layer %u: %u, expected %ld", sigma, m, l, b[l], x[l]);
            left[l] = b[l] < left[l] ? b[l] : left[l];
        }
    }
    *cascade = *once = 0;
    for (uint32_t l = 0; l < MAX_L; l++) *cascade += left[l], *once += b[l];
    kvt_config_free(c);
}

Test(cake, the_cascade_is_one_allocation_for_mild_preferences_only)
{
    uint32_t cascade, once, least = UINT32_MAX, n_below = 0;

    for (uint64_t seed = 1; seed <= 20; seed++) {
        both_ways(0.3, seed, &cascade, &once);
        cr_assert(cascade == once && once == (1024 - 32) * MAX_L, "seed %lu: %u and %u", (unsigned long)seed, cascade, once);
        both_ways(2, seed, &cascade, &once);
        cr_assert(cascade <= once && once <= (1024 - 32) * MAX_L);
        n_below += cascade < once;
        least = cascade < least ? cascade : least;
    }
    cr_assert(n_below > 1 && least < (1024 - 32) * MAX_L * 97 / 100, "%u of 20 below, least %u", n_below, least);
}

/* ---- prompt -------------------------------------------------------------------------------- */

typedef struct trial {
    uint32_t W, C;
    double   tau1, tau2, gamma, tokens;             /* tokens: dkv, else C                */
    int      cascade, dkv, query;
} trial;

typedef struct lane {               /* a cache in the order in which it is stored       */
    uint32_t n, at[2 * MAX_T];
    int      clear;                 /* no choice so far hung on the last bits           */
} lane;

/* e[0..n-W) of a query head before pooling; adds to entropy and variance. */
static void indicator(const world *w, const trial *t, uint32_t l, uint32_t h, double *e, double *entropy, double *variance)
{
    static double a[MAX_T][MAX_T];
    uint32_t text[MAX_T];

    for (uint32_t j = 0; j < w->s.N; j++) text[j] = j;
    for (uint32_t r = 0; r < t->W; r++) world_attend(w, l, h, w->s.N - t->W + r, text, w->s.N - t->W + r + 1, a[r]);
    for (uint32_t j = 0; j < w->s.N - t->W; j++) {
        double mean = 0, var = 0;
        for (uint32_t r = 0; r < t->W; r++) mean += a[r][j] / t->W, *entropy -= a[r][j] * log(a[r][j] + 1e-10);
        for (uint32_t r = 0; r < t->W; r++) var += (a[r][j] - mean) * (a[r][j] - mean) / (t->W - 1);
        e[j] = mean + t->gamma * var;
        *variance += var;
    }
}

/* The prefix of every cache of a layer, best first; returns the layer's preference. */
static double rank_prefix(const world *w, const trial *t, uint32_t l, lane *of)
{
    const uint32_t n_caches = t->query ? w->s.Hq : w->s.Hkv, gs = w->s.Hq / n_caches, m = w->s.N - t->W;
    double entropy = 0, variance = 0;

    for (uint32_t c = 0; c < n_caches; c++) {
        double score[MAX_T] = {0}, e[MAX_T], last = 0;
        lane *k = &of[c];
        for (uint32_t h = c * gs; h < (c + 1) * gs; h++) {
            indicator(w, t, l, h, e, &entropy, &variance);
            for (int j = 0; j < (int)m; j++)
                for (int i = j - 2; i <= j + 2; i++)
                    if (i >= 0 && i < (int)m) score[j] += e[i] / 5 / gs;
        }
        for (k->n = 0; k->n < m; k->n++) {          /* repeatedly the best that is left */
            uint32_t best = LATEST;
            for (uint32_t j = 0; j < m; j++)
                if (score[j] >= 0 && (best == LATEST || score[j] > score[best])) best = j;
            if (k->n > 0 && score[best] > last * (1 - 1e-6)) k->clear = 0;
            k->at[k->n] = best, last = score[best], score[best] = -1;
        }
    }
    return pow(entropy, 1 / t->tau1) * pow(variance, 1 / t->tau2);
}

/* All layers after the prompt: lane c of layer l is k[l * Hq + c]; hh[l]: its share. */
static void prefill(const world *w, const trial *t, lane *k, long *hh)
{
    const shape *s = &w->s;
    const long cap = (long)s->N - (long)t->W, total = t->dkv ? (long)((t->tokens - t->W) * s->L) : ((long)t->C - (long)t->W) * s->L;
    double pref[MAX_L];
    const int all = s->N <= t->W || (!t->dkv && s->N <= t->C + t->W);

    for (uint32_t i = 0; i < s->L * s->Hq; i++) k[i].clear = 1;
    for (uint32_t l = 0; l < s->L; l++) {
        hh[l] = t->C > t->W ? t->C - t->W : 0;
        if (!all) pref[l] = rank_prefix(w, t, l, k + l * s->Hq);
        if (all || (!t->cascade && l + 1 < s->L)) continue;
        adjust(pref, l + 1, total, cap, hh);
        for (uint32_t i = 0; i < (l + 1) * s->Hq; i++)
            if (k[i].n > (uint32_t)hh[i / s->Hq]) k[i].n = (uint32_t)hh[i / s->Hq];
    }
    for (uint32_t i = 0; i < s->L * s->Hq; i++) {
        for (uint32_t j = all ? 0 : s->N - t->W; j < s->N; j++) k[i].at[k[i].n++] = j;
    }
}

/* ---- decode -------------------------------------------------------------------------------- */

/* Do two places average the very same ones? Then they are equal in any arithmetic. */
static int same_span(uint32_t a, uint32_t b, uint32_t m)
{
    const uint32_t first = a < b ? a : b, last = a < b ? b : a;
    return last <= 2 && first + 3 >= m;
}

/* Token p enters; every number is a float, as in the reference. */
static void decode(const world *w, const trial *t, uint32_t l, uint32_t c, uint32_t p, uint32_t hh, lane *k)
{
    const uint32_t gs = w->s.Hq / (t->query ? w->s.Hq : w->s.Hkv), d = w->s.d;
    float e[MAX_T] = {0}, x[MAX_T];
    uint32_t order[MAX_T], m;

    k->at[k->n++] = p;
    if (k->n <= hh + t->W) return;
    m = k->n - t->W;
    for (uint32_t h = c * gs; h < (c + 1) * gs; h++) {
        float max = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < k->n; i++) {
            const float *key = world_k(w, l, h / (w->s.Hq / w->s.Hkv), k->at[i]);
            float z = 0;
            for (uint32_t j = 0; j < d; j++) z += world_q(w, l, h, p)[j] * key[j];
            x[i] = z / sqrtf((float)d);
            max = fmaxf(max, x[i]);
        }
        for (uint32_t i = 0; i < k->n; i++) sum += x[i] = expf(x[i] - max);
        for (uint32_t i = 0; i < k->n; i++) x[i] /= sum;
        for (int i = 0; i < (int)m; i++) {
            float near = 0;
            for (int j = i - 2; j <= i + 2; j++)
                if (j >= 0 && j < (int)m) near += x[j];
            e[i] += near / 5;
        }
    }
    for (uint32_t i = 0; i < m; i++) {              /* insertion into a stable order */
        uint32_t j = i;
        for (; j > 0 && e[i] > e[order[j - 1]]; j--) order[j] = order[j - 1];
        order[j] = i;
    }
    for (uint32_t i = 1; i < m; i++)
        if (e[order[i]] > e[order[i - 1]] * (1 - 1e-6f) && !same_span(order[i], order[i - 1], m)) k->clear = 0;
    lane next = {.clear = k->clear};
    for (uint32_t i = 0; i < m && i < hh; i++) next.at[next.n++] = k->at[order[i]];
    for (uint32_t i = m; i < k->n; i++) next.at[next.n++] = k->at[i];
    *k = next;
}

static void expect_set(const tape *got, const lane *k, const char *what, uint32_t l, uint32_t c, uint32_t step)
{
    const uint32_t *s = tape_find(got, 0, 0, 0, l, c, step);

    cr_assert(s && s[SET_N] == k->n, "%s: layer %u cache %u step %d: %u entries, expected %u", what, l, c, (int)step, s ? s[SET_N] : 0, k->n);
    for (uint32_t i = 0; i < k->n; i++) cr_assert(set_has(s, k->at[i]), "%s: layer %u cache %u step %d: %u is not held", what, l, c, (int)step, k->at[i]);
}

/* ---- comparing ----------------------------------------------------------------------------- */

typedef struct seen { uint32_t n_sets, n_unclear, n_left_at_once, n_room; } seen;

static void compare(const world *w, const trial *t, const char *budget, seen *n)
{
    const shape *s = &w->s;
    char spec[200], what[260];
    lane *k = calloc(s->L * s->Hq, sizeof *k);
    long hh[MAX_L];
    batch b = {.n_config = 1, .n_budget = 1};

    snprintf(spec, sizeof spec, "cake:window=%u,tau1=%g,tau2=%g,gamma=%g,caches=%s%s", t->W, t->tau1, t->tau2, t->gamma, t->query ? "query" : "kv",
             t->dkv ? ",impl=dkv" : t->cascade ? "" : ",cascade=off");
    snprintf(what, sizeof what, "n %u, %s at %s", s->N, spec, budget);
    kvt_config *c = config_of(spec);
    b.config[0] = c;
    budget_of(&b.budget[0], budget, KVT_RULE_REFERENCE);
    tape got = world_sets(w, &b, 2);
    prefill(w, t, k, hh);
    for (uint32_t l = 0; l < s->L; l++)
        for (uint32_t i = 0; i < (t->query ? s->Hq : s->Hkv); i++) {
            lane *of = &k[l * s->Hq + i];
            expect_set(&got, of, what, l, i, t->dkv ? LATEST : 0);
            n->n_room += of->n < (uint32_t)hh[l] + t->W;
            for (uint32_t step = 1; step <= s->G && !t->dkv; step++) {
                const uint32_t before = of->n;
                decode(w, t, l, i, s->N + step - 1, (uint32_t)hh[l], of);
                n->n_left_at_once += of->n < before;
                n->n_sets++, n->n_unclear += !of->clear;
                if (of->clear) expect_set(&got, of, what, l, i, step);
            }
        }
    tape_free(&got), kvt_config_free(c), free(k);
}

/* Layers whose rows are flat to sharp, in no order. */
static world *uneven(const shape *s, uint64_t seed)
{
    static const float sharp[] = {0.6f, 0.2f, 0.9f, 0.4f, 1.2f};
    world *w = world_new(s, seed);
    for (uint32_t l = 0; l < s->L; l++)
        for (size_t i = 0; i < (size_t)s->Hq * w->T * s->d; i++) world_q(w, l, 0, 0)[i] *= sharp[(l + seed) % 5];
    world_finish(w);
    return w;
}

Test(cake, kept_sets_are_those_of_the_rule_in_prompt_and_decode, .timeout = 120)
{
    static const shape shapes[] = {{5, 4, 2, 4, 70, 24, 70, 0}, {3, 3, 1, 8, 61, 30, 24, 0}};
    static const char *const budgets[] = {"10t", "14t", "20t", "30t", "45t"};
    seen n = {0};

    for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            world *w = uneven(&shapes[i], seed);
            for (uint32_t k = 0; k < 5; k++)
                for (int form = 0; form < 4; form++)        /* cascade or not, caches of KV or query heads */
                    compare(w, &(trial){.W = k % 2 ? 8 : 10, .C = (uint32_t)atoi(budgets[k]), .tau1 = form & 1 ? 1.6 : 1, .tau2 = k % 2 ? 0.25 : 1.3,
                                        .gamma = k == 2 ? 0 : 200, .cascade = form & 1, .query = form / 2}, budgets[k], &n);
            world_free(w);
        }
    cr_assert(n.n_unclear * 20 < n.n_sets, "%u of %u sets hang on the last bits", n.n_unclear, n.n_sets);
    cr_assert(n.n_room > 0, "no layer held less than its last share");
}

Test(cake, the_copy_in_defensivekv_allots_once_and_lets_nothing_leave_later)
{
    static const struct { const char *share; double b; } budgets[] = {{"0.15", 0.15}, {"0.3", 0.3}, {"0.55", 0.55}, {"0.9", 0.9}};
    const shape s = {5, 4, 2, 4, 70, 6, 70, 0};
    seen n = {0};

    for (uint64_t seed = 1; seed <= 3; seed++) {
        world *w = uneven(&s, seed);
        for (uint32_t k = 0; k < 4; k++)
            compare(w, &(trial){.W = 9, .tau1 = 1.6, .tau2 = 0.6, .gamma = 200, .dkv = 1, .tokens = 70 * (1 - (1 - budgets[k].b))}, budgets[k].share, &n);
        world_free(w);
    }
}

/* ---- boundaries ------------------------------------------------------------------------------- */

Test(cake, short_prompts_stay_whole_and_leave_at_the_first_step)
{
    static const struct { uint32_t W, C; const char *budget; uint32_t left; } rows[] = {
        {8, 32, "32t", 9},          /* n = C + W: nine leave at the first step            */
        {8, 39, "39t", 2}, {20, 20, "20t", 21}, /* C = W: the latest 20 alone              */
        {40, 40, "40t", 1},         /* n = W = C                                          */
        {45, 60, "60t", 0},         /* n < W; room for 20 more                            */
        {8, 31, "31t", 0},          /* n > C + W: the prompt is cut                       */
        {16, 16, "16t", 0},         /* C = W: to the window                               */
    };
    const shape s = {2, 4, 2, 4, 40, 24, 40, 0};
    world *w = uneven(&s, 3);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const trial t = {.W = rows[i].W, .C = rows[i].C, .tau1 = 1, .tau2 = 1, .gamma = 200, .cascade = 1};
        seen n = {0};
        char spec[40];
        batch b = {.n_config = 1, .n_budget = 1};

        compare(w, &t, rows[i].budget, &n);
        snprintf(spec, sizeof spec, "cake:window=%u", t.W);
        kvt_config *c = config_of(spec);
        b.config[0] = c;
        budget_of(&b.budget[0], rows[i].budget, KVT_RULE_REFERENCE);
        tape got = world_sets(w, &b, 1);
        const uint32_t *first = tape_find(&got, 0, 0, 0, 0, 0, 0), *next = tape_find(&got, 0, 0, 0, 0, 0, 1);
        cr_assert((first[SET_N] == 40) == (40 <= t.C + t.W), "row %zu: %u after the prompt", i, first[SET_N]);
        if (first[SET_N] == 40) cr_assert(first[SET_N] + 1 - next[SET_N] == rows[i].left, "row %zu: %u after a step", i, next[SET_N]);
        for (uint32_t j = 0; t.C == t.W && j < next[SET_N]; j++) cr_assert(next[SET_POS + j] == 41 - t.W + j, "row %zu", i);
        tape_free(&got), kvt_config_free(c);
    }
    world_free(w);
}

Test(cake, a_capacity_below_the_window_is_refused)
{
    static const struct { const char *spec, *budget; int works; } rows[] = {
        {"cake:window=20", "19t", 0}, {"cake:window=20", "20t", 1}, {"cake:window=20,caches=query", "0.9", 0}, {"cake:window=17,caches=query", "0.9", 1},
        {"cake:impl=dkv,window=20", "0.49", 0}, {"cake:impl=dkv,window=20", "0.5", 1}, {"cake:semantics=paper,window=20", "19t", 0},
        {"cake:window=40", "19t", 1},           /* a prompt within the window is not cut   */
    };
    const shape s = {2, 4, 2, 4, 40, 4, 40, 0};
    world *w = uneven(&s, 4);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kvt_config *c = config_of(rows[i].spec);
        kvt_err err = {KVT_OK, ""};
        kvt_budget b;
        budget_of(&b, rows[i].budget, KVT_RULE_REFERENCE);
        const kvt_status st = kvt_plan_check(&w->info, c, &b, &err);
        cr_assert((st == KVT_OK) == rows[i].works, "%s at %s: %s", rows[i].spec, rows[i].budget, st ? err.text : "must be refused");
        if (st) cr_assert(st == KVT_EARG && strstr(err.text, "the capacity must not be below the window"), "%s", err.text);
        kvt_config_free(c);
    }
    world_free(w);
}

/* ---- the paper --------------------------------------------------------------------------------- */

Test(cake, the_paper_allots_once_whatever_cascade_says)
{
    const shape s = {5, 4, 2, 4, 70, 12, 70, 0};
    const char *const specs[] = {"cake:window=8,tau1=1,tau2=1,semantics=paper", "cake:window=8,tau1=1,tau2=1,semantics=paper,cascade=off"};
    world *w = uneven(&s, 2);
    const trial t = {.W = 8, .C = 20, .tau1 = 1, .tau2 = 1, .gamma = 200};
    lane *k = calloc(s.L * s.Hq, sizeof *k);
    long hh[MAX_L];

    prefill(w, &t, k, hh);
    for (uint32_t i = 0; i < 2; i++) {
        batch b = {.n_config = 1, .n_budget = 1};
        kvt_config *c = config_of(specs[i]);
        b.config[0] = c;
        budget_of(&b.budget[0], "20t", KVT_RULE_REFERENCE);
        tape got = world_sets(w, &b, 1);
        for (uint32_t l = 0; l < s.L; l++)
            for (uint32_t g = 0; g < s.Hkv; g++) {
                expect_set(&got, &k[l * s.Hq + g], specs[i], l, g, 0);
                for (uint32_t step = 1; step <= s.G; step++) {      /* the share stays, and so do the latest */
                    const uint32_t *set = tape_find(&got, 0, 0, 0, l, g, step);
                    cr_assert(set && set[SET_N] == (uint32_t)hh[l] + t.W);
                    for (uint32_t j = 0; j < t.W; j++) cr_assert(set_has(set, s.N + step - 1 - j));
                }
            }
        tape_free(&got), kvt_config_free(c);
    }
    free(k), world_free(w);
}
