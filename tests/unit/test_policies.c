/* test_policies.c - what every policy must hold to, whatever it values. Goal: scores and
 * worths are written in full, never NaN, nowhere else; they depend on nothing that was not
 * asked for; kept sets follow a permutation of the heads and nest where that is promised.
 * Method: the callbacks are called as the engine does, on random operands, for every value
 * of every parameter, several lengths, budgets and both rules. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_prim.h"
#include "kvt_sim.h"

enum { GUARD = 16, HQ = 6, HKV = 2, N_SHARES = 4, MAX_VARIANTS = 40 };
static const uint32_t lengths[] = {2, 10, 41, 130};
static const double shares[N_SHARES] = {0.05, 0.3, 0.5, 0.9};

static uint64_t state = 1;
static double uniform(void)                         /* splitmix64 */
{
    uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

typedef enum shape { RANDOM_ROWS, EQUAL_ROWS, ROWS_ON_THE_NEWEST, NO_VALUE_NORMS } shape;

typedef struct operands {
    kvt_prompt prompt;
    float     *win, *col_sum, *nu;
    double    *future;
} operands;

/* Rows of the last `window` queries that sum to 1, and statistics of the right sign. */
static operands make(uint32_t n, uint32_t window, shape how)
{
    operands o;
    const size_t rows = (size_t)HQ * window;

    o.win = calloc(rows * n + 1, sizeof *o.win);
    o.col_sum = calloc((size_t)HQ * n, sizeof *o.col_sum);
    o.nu = calloc((size_t)HQ * n, sizeof *o.nu);
    o.future = calloc((size_t)HQ * n, sizeof *o.future);
    for (size_t r = 0; r < rows; r++) {
        const uint32_t p = n - window + (uint32_t)(r % window);
        double sum = 0;
        for (uint32_t j = 0; j <= p; j++) {
            o.win[r * n + j] = how == EQUAL_ROWS ? 1 : how == ROWS_ON_THE_NEWEST ? j == p : (float)exp(4 * uniform());
            sum += o.win[r * n + j];
        }
        for (uint32_t j = 0; j <= p; j++)
            o.win[r * n + j] = (float)(o.win[r * n + j] / sum);
    }
    for (size_t i = 0; i < (size_t)HQ * n; i++) {
        o.col_sum[i] = how == EQUAL_ROWS ? 1 : (float)(9 * uniform());
        o.nu[i] = how == NO_VALUE_NORMS ? 0 : how == EQUAL_ROWS ? 1 : (float)(0.1 + uniform());
        o.future[i] = how == EQUAL_ROWS ? 1 : 9 * uniform();
    }
    o.prompt = (kvt_prompt){.layer = 3, .window = window, .win = o.win, .col_sum = o.col_sum, .nu = o.nu, .future_sum = o.future};
    return o;
}

static void drop(operands *o)
{
    free(o->win), free(o->col_sum), free(o->nu), free(o->future);
}

/* Only what the policy asks for; the rest is NULL. */
static kvt_prompt asked(const kvt_policy *p, const operands *o)
{
    kvt_prompt in = o->prompt;
    if (!(p->needs & KVT_NEED_WINDOW)) in.win = NULL;
    if (!(p->needs & KVT_NEED_COLSTAT)) in.col_sum = NULL;
    if (!(p->needs & KVT_NEED_NU)) in.nu = NULL;
    if (!(p->needs & KVT_NEED_FUTURE)) in.future_sum = NULL;
    return in;
}

/* Specs that visit every choice and the ends of every number, with a window below the lengths. */
static uint32_t variants(const kvt_policy *p, char out[MAX_VARIANTS][96])
{
    const int has_window = p->needs & KVT_NEED_WINDOW && strcmp(p->id, "tova");
    const char *base = has_window ? "window=7" : p->params && !strcmp(p->id, "random_protect") ? "window=6" : NULL;
    uint32_t n = 0;

    snprintf(out[n++], 96, "%s%s%s", p->id, base ? ":" : "", base ? base : "");
    for (const kvt_param_def *d = p->params; d && d->name; d++) {
        if (base && !strcmp(d->name, "window")) {
            snprintf(out[n++], 96, "%s:window=1", p->id);
            continue;
        }
        for (const char *c = d->choices; c && *c; c += strcspn(c, "|"), c += *c == '|')
            snprintf(out[n++], 96, "%s:%s%s%s=%.*s", p->id, base ? base : "", base ? "," : "", d->name, (int)strcspn(c, "|"), c);
        for (int end = 0; !d->choices && end < 3; end++)
            snprintf(out[n++], 96, "%s:%s%s%s=%.17g", p->id, base ? base : "", base ? "," : "", d->name,
                     end == 0 ? d->min : end == 1 ? d->def : d->integer ? d->min + 8 : d->max);
        cr_assert(n < MAX_VARIANTS);
    }
    if (p->caches == KVT_CACHES_QUERY)
        snprintf(out[n++], 96, "%s:caches=kv", p->id);
    else if (p->rank_over == KVT_SPAN_CACHE && p->share_over == KVT_SPAN_CACHE && !(p->caps & KVT_POLICY_BOUND))
        snprintf(out[n++], 96, "%s:%s%scaches=query", p->id, base ? base : "", base ? "," : "");
    return n;
}

typedef struct trial {
    kvt_config *config;
    kvt_job     job;
    kvt_setup   setup;
} trial;

static trial try(const char *spec, uint32_t n, double share, kvt_rule rule)
{
    trial t;
    char text[24];
    kvt_budget b;
    kvt_err err = {KVT_OK, ""};

    cr_assert(kvt_config_parse(&t.config, spec, &err) == KVT_OK, "%s: %s", spec, err.text);
    snprintf(text, sizeof text, "%.17g", share);
    cr_assert(kvt_budget_parse(&b, text, rule, &err) == KVT_OK, "%s", err.text);
    t.job = (kvt_job){.n_q_heads = HQ, .n_kv_heads = HKV, .n_caches = t.config->caches == KVT_CACHES_QUERY ? HQ : HKV, .n = n,
                      .n_new = 5, .rule = rule, .key = 0x123456789abcdef0u, .param = t.config->param};
    kvt_budget_counts(&b, &t.job);
    t.setup = (kvt_setup){.rank_over = t.config->policy->rank_over, .share_over = t.config->policy->share_over,
                          .capacity = t.job.keep_cache};
    if (t.config->policy->setup) t.config->policy->setup(&t.job, &t.setup);
    return t;
}

/* Call score() with guards around the scores and the scratch; the caller frees. */
static float *scores(const trial *t, const kvt_prompt *in)
{
    const size_t n = (size_t)t->job.n_caches * t->job.n;
    const float guard = -12345;
    float *all = malloc((n + 2 * GUARD) * sizeof *all), *out = malloc(n * sizeof *out);
    unsigned char *ws = aligned_alloc(64, t->setup.ws_bytes + 128);
    kvt_ws lent = {ws + 64, 0, t->setup.ws_bytes};

    memset(ws, 0xff, t->setup.ws_bytes + 128);      /* scratch full of NaN */
    for (size_t i = 0; i < n + 2 * GUARD; i++)
        all[i] = i < GUARD || i >= GUARD + n ? guard : NAN;
    t->config->policy->score(&t->job, in, &lent, all + GUARD);
    for (size_t i = 0; i < n; i++)
        cr_assert(!isnan(all[GUARD + i]), "%s: n %u: score %zu is NaN or was not written", t->config->info.label, t->job.n, i);
    for (size_t i = 0; i < GUARD; i++)
        cr_assert(all[i] == guard && all[GUARD + n + i] == guard, "%s wrote beyond its scores", t->config->info.label);
    for (size_t i = 0; i < 64; i++)
        cr_assert(ws[i] == 0xff && ws[64 + t->setup.ws_bytes + i] == 0xff, "%s wrote beyond its scratch", t->config->info.label);
    memcpy(out, all + GUARD, n * sizeof *out);
    free(all);
    free(ws);
    return out;
}

/* *tied: the cut goes through equal scores. */
static uint8_t *choose_tied(const trial *t, const float *score, int *tied)
{
    const size_t n = (size_t)t->job.n_caches * t->job.n;
    uint8_t *kept = malloc(n);
    uint32_t *scratch = malloc(2 * n * sizeof *scratch), held[HQ];
    kvt_chosen chosen;

    kvt_choose(&t->job, t->setup.rank_over, score, kept, held, scratch, scratch + n, &chosen);
    *tied = chosen.last_kept == chosen.first_dropped;
    free(scratch);
    return kept;
}

static uint8_t *choose(const trial *t, const float *score)
{
    int tied;
    return choose_tied(t, score, &tied);
}

/* The engine keeps everything itself where there is nothing to choose. */
static int asks_for_scores(const trial *t)
{
    return t->config->policy->caps & KVT_POLICY_ONESHOT && t->job.n > t->setup.window && t->job.keep_cache < t->job.n;
}

ParameterizedTestParameters(policies, each)
{
    static size_t index[64];
    for (size_t i = 0; i < kvt_policy_count(); i++) index[i] = i;
    return cr_make_param_array(size_t, index, kvt_policy_count());
}

static void check_scores(const trial *t)
{
    const kvt_policy *p = t->config->policy;
    operands o = make(t->job.n, t->setup.window ? t->setup.window : 1, RANDOM_ROWS);
    const kvt_prompt in = asked(p, &o);
    float *a = scores(t, &in), *b;
    trial later = *t;
    uint8_t *kept = choose(t, a);

    later.job.n_new = 77;                           /* what comes later is not an input */
    b = scores(&later, &in);
    cr_assert(!memcmp(a, b, (size_t)t->job.n_caches * t->job.n * sizeof *a), "%s reads n_new", t->config->info.label);
    free(a), free(b), free(kept);
    drop(&o);
}

/* More rows in the prompt than asked for: the last ones count. */
static void check_wide_window(const trial *t)
{
    const uint32_t n = t->job.n, wide = n, narrow = t->setup.window;
    operands o = make(n, wide, RANDOM_ROWS), cut = make(n, narrow ? narrow : 1, RANDOM_ROWS);
    const size_t bytes = (size_t)t->job.n_caches * n * sizeof(float);
    kvt_prompt in = asked(t->config->policy, &o);
    float *a = scores(t, &in), *b;

    for (uint32_t h = 0; h < HQ && narrow; h++)
        memcpy(cut.win + (size_t)h * narrow * n, o.win + ((size_t)h * wide + wide - narrow) * n, (size_t)narrow * n * sizeof *cut.win);
    if (in.win) in.win = cut.win, in.window = narrow;
    b = scores(t, &in);
    cr_assert(!memcmp(a, b, bytes), "%s looks at rows that it did not ask for", t->config->info.label);
    free(a), free(b);
    drop(&o), drop(&cut);
}

/* Swap the two KV heads; kept sets must swap with them. Exact: sums over two heads
 * commute. Of equal scores across heads the lower head wins, so a tied cut proves nothing. */
static uint32_t n_permuted;
static void check_permutation(const trial *t)
{
    const uint32_t n = t->job.n, window = t->setup.window ? t->setup.window : 1, half = t->job.n_caches / 2;
    const size_t row = (size_t)n * window, group = HQ / HKV;
    operands o = make(n, window, RANDOM_ROWS), s = make(n, window, RANDOM_ROWS);
    kvt_prompt in = asked(t->config->policy, &o), swapped = asked(t->config->policy, &s);
    float *a, *b;
    uint8_t *ka, *kb;
    int tied;

    for (size_t h = 0; h < HQ; h++) {
        const size_t to = (h + group) % HQ;
        memcpy(s.win + to * row, o.win + h * row, row * sizeof *s.win);
        memcpy(s.nu + to * n, o.nu + h * n, n * sizeof *s.nu);
        memcpy(s.col_sum + to * n, o.col_sum + h * n, n * sizeof *s.col_sum);
        memcpy(s.future + to * n, o.future + h * n, n * sizeof *s.future);
    }
    a = scores(t, &in), b = scores(t, &swapped);
    ka = choose_tied(t, a, &tied), kb = choose(t, b);
    n_permuted += !tied || t->setup.rank_over == KVT_SPAN_CACHE;
    cr_assert((tied && t->setup.rank_over == KVT_SPAN_LAYER) || (!memcmp(ka, kb + (size_t)half * n, (size_t)half * n) && !memcmp(kb, ka + (size_t)half * n, (size_t)half * n)),
              "%s: n %u share %g: kept sets do not follow the heads", t->config->info.label, n, t->job.share);
    free(a), free(b), free(ka), free(kb);
    drop(&o), drop(&s);
}

ParameterizedTest(size_t *i, policies, each)
{
    const kvt_policy *p = kvt_policy_at(*i);
    char spec[MAX_VARIANTS][96];
    const uint32_t n_specs = variants(p, spec);
    uint32_t n_scored = 0;

    cr_assert(p && kvt_policy_find(p->id) == p && p->version >= 1 && p->title && p->cite);
    cr_assert(*i == 0 || strcmp(kvt_policy_at(*i - 1)->id, p->id) < 0, "policies are sorted by id");
    cr_assert(!(p->caps & KVT_POLICY_ONESHOT) == !p->score && !(p->caps & KVT_POLICY_ONLINE) == !p->worth);
    cr_assert(!(p->caps & KVT_POLICY_ORACLE) == !(p->needs & KVT_NEED_FUTURE), "who reads the future is an oracle");
    for (uint32_t v = 0; v < n_specs; v++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            for (int s = 0; s < N_SHARES; s++)
                for (int rule = 0; rule < 2; rule++) {
                    trial t = try(spec[v], lengths[l], shares[s], rule ? KVT_RULE_REFERENCE : KVT_RULE_SHARE);
                    if (asks_for_scores(&t)) {
                        n_scored++;
                        check_scores(&t);
                        check_wide_window(&t);
                        if (!(p->caps & KVT_POLICY_RANDOM))
                            check_permutation(&t);
                    }
                    kvt_config_free(t.config);
                }
    cr_assert((n_scored > 0) == !!(p->caps & KVT_POLICY_ONESHOT));
    cr_assert(!n_scored || p->caps & KVT_POLICY_RANDOM || n_permuted >= 10, "%u permutations said something", n_permuted);
}

Test(policies, a_nested_policy_scores_the_same_at_every_budget_and_its_sets_nest)
{
    char spec[MAX_VARIANTS][96];
    uint32_t n_nested = 0;

    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const uint32_t n_specs = variants(kvt_policy_at(i), spec);
        for (uint32_t v = 0; v < n_specs; v++) {
            operands o = make(130, 9, RANDOM_ROWS);
            float *first = NULL;
            uint8_t *smaller = NULL;
            for (int s = 0; s < N_SHARES; s++) {
                trial t = try(spec[v], 130, shares[s], KVT_RULE_SHARE);
                if (t.setup.nested && asks_for_scores(&t) && t.setup.window <= 9) {
                    const size_t n = (size_t)t.job.n_caches * 130;
                    const kvt_prompt in = asked(t.config->policy, &o);
                    float *a = scores(&t, &in);
                    uint8_t *kept = choose(&t, a);
                    cr_assert(!first || !memcmp(first, a, n * sizeof *a), "%s: scores depend on the budget", spec[v]);
                    for (size_t k = 0; smaller && k < n; k++)
                        cr_assert(!smaller[k] || kept[k], "%s: entry %zu is kept at a smaller budget only", spec[v], k);
                    free(first), free(smaller);
                    first = a, smaller = kept;
                    n_nested++;
                }
                kvt_config_free(t.config);
            }
            free(first), free(smaller);
            drop(&o);
        }
    }
    cr_assert(n_nested > 20);
}

Test(policies, defensivekv_code_is_not_called_nested_because_its_scores_read_the_budget)
{
    trial a = try("defensivekv:window=7", 130, 0.2, KVT_RULE_SHARE), b = try("defensivekv:window=7", 130, 0.6, KVT_RULE_SHARE);
    operands o = make(130, 7, RANDOM_ROWS);
    float *x = scores(&a, &o.prompt), *y = scores(&b, &o.prompt);

    cr_assert(!a.setup.nested && memcmp(x, y, (size_t)HKV * 130 * sizeof *x));
    free(x), free(y);
    drop(&o);
    kvt_config_free(a.config), kvt_config_free(b.config);
}

Test(policies, the_whole_budget_keeps_everything)
{
    for (size_t i = 0; i < kvt_policy_count(); i++) {
        trial t = try(kvt_policy_at(i)->id, 40, 1, KVT_RULE_SHARE);
        const size_t n = (size_t)t.job.n_caches * 40;
        float *zero = calloc(n, sizeof *zero);
        uint8_t *kept;

        if (t.job.n_caches == HQ) t.job.keep_cache = 40;        /* one copy per query head holds a third each */
        kept = choose(&t, zero);
        for (size_t k = 0; k < n; k++) cr_assert(kept[k] == 1);
        free(zero), free(kept);
        kvt_config_free(t.config);
    }
}

Test(policies, degenerate_rows_give_scores_that_are_numbers)
{
    char spec[MAX_VARIANTS][96];

    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const uint32_t n_specs = variants(kvt_policy_at(i), spec);
        for (uint32_t v = 0; v < n_specs; v++)
            for (int how = EQUAL_ROWS; how <= NO_VALUE_NORMS; how++)
                for (uint32_t n = 8; n <= 20; n += 6) {         /* 8: one token more than the window */
                    trial t = try(spec[v], n, 0.3, KVT_RULE_REFERENCE);
                    if (asks_for_scores(&t)) {
                        operands o = make(n, t.setup.window ? t.setup.window : 1, (shape)how);
                        const kvt_prompt in = asked(t.config->policy, &o);
                        float *a = scores(&t, &in);
                        uint8_t *kept = choose(&t, a);
                        free(a), free(kept);
                        drop(&o);
                    }
                    kvt_config_free(t.config);
                }
    }
}

Test(policies, flags_say_when_ties_decide)
{
    static const struct { const char *spec; uint32_t n; double share; uint32_t flags; } rows[] = {
        {"snapkv", 100, 0.5, 0}, {"snapkv", 100, 0.2, KVT_FLAG_BELOW_WINDOW}, {"snapkv", 32, 0.2, 0}, {"snapkv", 100, 0.32, 0},
        {"defensivekv", 100, 0.2, KVT_FLAG_BELOW_WINDOW | KVT_FLAG_CLAMPED},
        {"defensivekv", 640, 0.05, KVT_FLAG_CLAMPED}, {"defensivekv", 640, 0.1, 0}, {"defensivekv", 20, 0.2, 0},
        {"defensivekv:semantics=paper", 640, 0.05, 0}, {"defensivekv:semantics=paper", 100, 0.2, KVT_FLAG_BELOW_WINDOW},
        {"streaming", 100, 0.03, KVT_FLAG_BELOW_WINDOW}, {"streaming", 100, 0.04, 0},
        {"random_protect", 100, 0.35, KVT_FLAG_BELOW_WINDOW}, {"random_protect", 100, 0.36, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        trial t = try(rows[i].spec, rows[i].n, rows[i].share, KVT_RULE_SHARE);
        cr_assert(t.setup.flags == rows[i].flags, "%s, n %u, share %g: flags %u", rows[i].spec, rows[i].n, rows[i].share, t.setup.flags);
        kvt_config_free(t.config);
    }
}

Test(policies, protected_tokens_stay)
{
    trial t = try("random_protect:sinks=3,window=5", 50, 0.2, KVT_RULE_SHARE), r = try("random", 50, 0.2, KVT_RULE_SHARE);
    operands o = make(50, 1, RANDOM_ROWS);
    float *a = scores(&t, &o.prompt), *b = scores(&r, &o.prompt);
    uint8_t *kept = choose(&t, a);

    for (uint32_t c = 0; c < HKV; c++)
        for (uint32_t j = 0; j < 50; j++) {
            const int guarded = j < 3 || j >= 45;
            cr_assert(!guarded || kept[c * 50 + j]);
            cr_assert(guarded || a[c * 50 + j] == b[c * 50 + j], "the same draws as `random`");
        }
    free(a), free(b), free(kept);
    drop(&o);
    kvt_config_free(t.config), kvt_config_free(r.config);
}

Test(policies, random_draws_differ_by_layer_cache_position_and_key)
{
    const kvt_job a = {.key = 1}, b = {.key = 1ull << 32};
    double sum = 0;

    cr_assert(kvt_uniform(&a, 0, 0, 0, 0) != kvt_uniform(&b, 0, 0, 0, 0));
    cr_assert(kvt_uniform(&a, 1, 0, 0, 0) != kvt_uniform(&a, 0, 1, 0, 0));
    cr_assert(kvt_uniform(&a, 0, 0, 1, 0) != kvt_uniform(&a, 0, 0, 0, 1));
    for (uint32_t i = 0; i < 10000; i++) {
        const float x = kvt_uniform(&a, 2, 3, 0, i);
        cr_assert(x >= 0 && x < 1 && x == kvt_uniform(&a, 2, 3, 0, i));
        sum += (double)x;
    }
    cr_assert(fabs(sum / 10000 - 0.5) < 5 * 0.2887 / 100, "mean %g", sum / 10000);
}

/* ---------------------------------------------------------------- online */

/* Run a lane for `steps` steps as the engine does, with columns of stride cap; the kept
 * positions after the last. */
static uint32_t run_lane(const trial *t, const operands *o, uint32_t cap, uint32_t steps, uint32_t *pos)
{
    const kvt_policy *p = t->config->policy;
    const int shared = t->setup.share_over == KVT_SPAN_LAYER;
    const kvt_lane lane = {&t->job, 3, shared ? KVT_ALL : 1, cap, t->setup.capacity};
    const kvt_prompt in = asked(p, o);
    const size_t cells = (size_t)p->slot_cols * cap;
    float *col = malloc((cells + GUARD) * sizeof *col), *worth = malloc((cap + GUARD) * sizeof *worth), *prob = malloc(cap * sizeof *prob);
    uint32_t *order = malloc(2 * cap * sizeof *order), n = t->job.n;
    kvt_event ev = {0, pos, NULL};

    state = 99;                                     /* the same rows for every stride */
    for (size_t i = 0; i < cells; i++) col[i] = 0;
    for (size_t i = 0; i < GUARD; i++) col[cells + i] = -12345;
    for (uint32_t s = 0; s < n; s++) pos[s] = s;
    for (uint32_t step = 0; step <= steps; step++) {
        uint32_t w = 0;
        if (step) {
            for (uint32_t c = 0; c < p->slot_cols; c++) col[(size_t)c * cap + n] = 0;
            pos[n++] = t->job.n + step - 1;
            for (uint32_t s = 0; s < n; s++) prob[s] = (float)uniform();
        }
        ev.n = n;
        ev.prob = step ? prob : NULL;
        if (!step && p->begin) p->begin(&lane, &in, &ev, col);
        if (step && p->observe) p->observe(&lane, &ev, col);
        if (n <= lane.capacity) continue;
        for (uint32_t s = 0; s < cap + GUARD; s++) worth[s] = s < n ? NAN : -12345;
        p->worth(&lane, &ev, col, worth);
        for (uint32_t s = 0; s < cap + GUARD; s++)
            cr_assert(s < n ? !isnan(worth[s]) : worth[s] == -12345, "%s: worth %u of %u", t->config->info.label, s, n);
        kvt_rank(worth, n, order, order + cap);
        for (uint32_t s = 0; s < n; s++) {
            int stays = 0;
            for (uint32_t k = 0; k < lane.capacity && !stays; k++) stays = order[k] == s;
            if (!stays) continue;
            pos[w] = pos[s];
            for (uint32_t c = 0; c < p->slot_cols; c++) col[(size_t)c * cap + w] = col[(size_t)c * cap + s];
            w++;
        }
        n = w;
    }
    for (size_t i = 0; i < GUARD; i++) cr_assert(col[cells + i] == -12345, "%s wrote beyond its columns", t->config->info.label);
    free(col), free(worth), free(prob), free(order);
    return n;
}

Test(policies, online_callbacks_write_every_worth_and_only_their_columns)
{
    char spec[MAX_VARIANTS][96];
    uint32_t n_runs = 0;

    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const kvt_policy *p = kvt_policy_at(i);
        const uint32_t n_specs = variants(p, spec);
        for (uint32_t v = 0; p->caps & KVT_POLICY_ONLINE && v < n_specs; v++)
            for (int s = 0; s < N_SHARES; s++) {
                trial t = try(spec[v], 41, shares[s], KVT_RULE_SHARE);
                operands o = make(41, t.setup.window ? t.setup.window : 1, RANDOM_ROWS);
                uint32_t a[64], b[128];
                const uint32_t n = run_lane(&t, &o, 64, 20, a), m = run_lane(&t, &o, 128, 20, b);
                cr_assert(n == t.setup.capacity && m == n && !memcmp(a, b, n * sizeof *a), "%s: another stride, another set", spec[v]);
                n_runs++;
                drop(&o);
                kvt_config_free(t.config);
            }
    }
    cr_assert(n_runs >= 8);
}

Test(policies, h2o_protects_what_its_heavy_share_leaves)
{
    /* capacity 5, recent 0.3: trunc(3.5) = 3 heavy slots, so the last 2 stay */
    const double param[] = {0, 0.3};
    const kvt_job job = {.n_q_heads = 1, .n_kv_heads = 1, .n_caches = 1, .n = 7, .param = param};
    const kvt_lane lane = {&job, 0, 0, 8, 5};
    const uint32_t pos[] = {0, 1, 2, 3, 4, 5, 6};
    const kvt_event ev = {7, pos, NULL};
    const float col[8] = {7, 6, 5, 4, 3, 2, 1, 0};
    float worth[8];

    kvt_policy_find("h2o")->worth(&lane, &ev, col, worth);
    for (uint32_t s = 0; s < 7; s++)
        cr_assert(worth[s] == (s < 5 ? col[s] : KVT_ALWAYS_KEEP), "slot %u", s);
}

/* ---------------------------------------------------------------- pooling */

Test(prim, pooling_counts_outside_as_zero_in_a_mean_and_not_at_all_in_a_maximum)
{
    const float x[] = {-1, 2, 4, -8};
    float out[5] = {0, 0, 0, 0, 77};

    kvt_pool_mean(x, 4, 3, out);
    cr_assert(out[0] == (float)(1 / 3.0) && out[1] == (float)(5 / 3.0) && out[2] == (float)(-2 / 3.0) && out[3] == (float)(-4 / 3.0));
    kvt_pool_max(x, 4, 3, out);
    cr_assert(out[0] == 2 && out[1] == 4 && out[2] == 4 && out[3] == 4 && out[4] == 77);
    kvt_pool_max(x + 3, 1, 5, out);
    cr_assert(out[0] == -8, "outside does not count as zero");
    kvt_pool_mean(x, 4, 99, out);
    cr_assert(out[0] == (float)(-3 / 99.0) && out[3] == out[0]);
    kvt_pool_mean(x, 4, 1, out);
    cr_assert(!memcmp(out, x, sizeof x));
}
