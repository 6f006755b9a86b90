/* test_metamorphic.c - pairs of traces whose kept sets are related by a theorem. Goal: a
 * policy reads what it says and nothing else: scaling that changes no attention row changes
 * no set, a copy of a token ranks beside it, a token without value gains nothing by that,
 * equals go where `ties` says. Method: one operand of a small trace changed; both replayed. */
#include <criterion/criterion.h>
#include "policy_statement.h"

static const shape small = {2, 4, 2, 4, 40, 10, 40, 0}, turning = {2, 4, 2, 4, 40, 10, 40, 1}, single = {2, 1, 1, 6, 40, 6, 40, 0};
static const char *const some[] = {"0.2", "0.5", "0.8", "13t"};
enum { N_SOME = sizeof some / sizeof *some };

static world *copy_of(const world *w)
{
    world *o = world_new(&w->s, 1);
    world_take(o, w, 0);
    return o;
}

/* Every set of a is that of b. */
static void same_sets(const tape *a, const tape *b, const char *spec, const char *what)
{
    size_t at = 0, bt = 0;
    for (const uint32_t *x; (x = tape_next(a, &at)) != NULL;) {
        const uint32_t *y = tape_next(b, &bt);
        cr_assert(y && !memcmp(x, y, SET_TIED * sizeof *x) && set_equal(x, y), "%s: layer %u cache %u step %d: %s changes the set", spec, x[SET_LAYER], x[SET_CACHE],
                  (int)x[SET_STEP], what);
    }
    cr_assert(a->n > 0 && bt == b->n);
}

/* ---- scaling ---------------------------------------------------------------------------- */

static void scale(world *w, float q, float k, float v)
{
    for (size_t i = 0; i < (size_t)w->s.L * w->s.Hq * w->T * w->s.d; i++) w->q[i] *= q;
    for (size_t i = 0; i < (size_t)w->s.L * w->s.Hkv * w->T * w->s.d; i++) w->k[i] *= k, w->v[i] *= v;
}

/* Powers of two commute with every rounding: keys twice as long under queries half as long
 * give the same rows, bit by bit, and values twice as long change no comparison. */
FOR_EVERY_POLICY(metamorphic, scaling_that_changes_no_row_changes_no_set)
{
    const kvt_policy *p = kvt_policy_at(*i);
    world *w = world_make(p->needs & KVT_NEED_ROPE ? &turning : &small, 21), *keys = copy_of(w), *values = copy_of(w);

    scale(keys, 0.5f, 2, 1), scale(values, 1, 1, 2);
    world_finish(keys), world_finish(values);
    specs_of(p, &list);
    for (uint32_t k = 0; k < list.n_core && !(p->caps & KVT_POLICY_BOUND); k++) {
        kvt_config *c = config_if(p, list.s[k]);
        batch b;
        tape a, t;
        if (!c) continue;
        batch_make(&b, w, c, k % 2 ? KVT_RULE_REFERENCE : KVT_RULE_SHARE, some, N_SOME, &n_refused);
        if (b.n_budget) {
            a = world_sets(w, &b, 2);
            t = world_sets(keys, &b, 2), same_sets(&a, &t, list.s[k], "2 K with Q / 2"), tape_free(&t);
            t = world_sets(values, &b, 2), same_sets(&a, &t, list.s[k], "2 V"), tape_free(&t);
            tape_free(&a);
        }
        kvt_config_free(c);
    }
    world_free(w), world_free(keys), world_free(values);
}

/* One head, one query: a larger temperature of that row is a monotone change of its
 * attention, so what ranks by that row alone keeps the same. */
Test(metamorphic, a_monotone_change_of_one_row_keeps_its_order)
{
    static const char *const spec[] = {"tova:impl=press", "snapkv:window=1,kernel=1", "snapkv:window=1,kernel=3,pooling=max"};
    world *w = world_make(&single, 4), *hot = copy_of(w);

    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t d = 0; d < w->s.d; d++) world_q(hot, l, 0, w->s.N - 1)[d] *= 1.75f;
    world_finish(hot);
    for (size_t k = 0; k < sizeof spec / sizeof *spec; k++) {
        kvt_config *c = config_of(spec[k]);
        batch b;
        tape a, t;
        batch_make(&b, w, c, KVT_RULE_SHARE, some, N_SOME, &n_refused);
        cr_assert(b.n_budget == N_SOME);
        a = world_sets(w, &b, 1), t = world_sets(hot, &b, 1);
        same_sets(&a, &t, spec[k], "a hotter last query");
        tape_free(&a), tape_free(&t), kvt_config_free(c);
    }
    world_free(w), world_free(hot);
}

/* ---- a copy of a token -------------------------------------------------------------------- */

/* Tokens 11 and 17 have the same key and value, and all that looks comes later: their scores
 * are equal. So at every budget the one that comes first among equals stays at least as long
 * as the other, and at some budget only it stays. */
static void copies(const char *spec)
{
    enum { FIRST = 11, COPY = 17, STEPS = 160, CELLS = 8 };
    world *w = world_new(&small, 31);
    uint32_t apart = 0, n = 0;

    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t g = 0; g < w->s.Hkv; g++) {
            memcpy(world_k(w, l, g, COPY), world_k(w, l, g, FIRST), w->s.d * sizeof(float));
            memcpy(world_v(w, l, g, COPY), world_v(w, l, g, FIRST), w->s.d * sizeof(float));
        }
    world_finish(w);
    for (uint32_t i = 0; i < 2 * ((STEPS - 36) / CELLS); i++) {   /* windows here are at most 8 of 40 */
        char text[SPEC + 16], share[CELLS][16];
        const char *budget[CELLS];
        const int high = i % 2;
        const uint32_t k = 36 + i / 2 * CELLS;
        size_t at = 0;
        kvt_config *c;
        batch b;
        tape t;

        snprintf(text, sizeof text, "%s%cties=%s", spec, strchr(spec, ':') ? ',' : ':', high ? "high" : "low");
        c = config_of(text);
        for (uint32_t m = 0; m < CELLS; m++) {              /* entry by entry of both layers and heads */
            snprintf(share[m], sizeof share[m], "%.5f", (double)(k + m) / STEPS);
            budget[m] = share[m];
        }
        batch_make(&b, w, c, KVT_RULE_SHARE, budget, CELLS, &n_refused);
        t = b.n_budget ? world_sets(w, &b, 1) : (tape){0};
        for (const uint32_t *s; (s = tape_next(&t, &at)) != NULL; n++) {
            const int first = set_has(s, FIRST), copy = set_has(s, COPY);
            if ((int32_t)s[SET_STEP] > 0) continue;
            apart += first != copy;
            cr_assert(high ? first <= copy : first >= copy, "%s @ %s: layer %u: the wrong one of two equals stays", text, b.budget[s[SET_BUDGET]].text, s[SET_LAYER]);
        }
        tape_free(&t), kvt_config_free(c);
    }
    cr_assert(n > 0 && apart > 0, "%s: no cut between the two in %u sets", spec, n);
    world_free(w);
}

Test(metamorphic, a_copy_of_a_token_ranks_beside_it, .timeout = 120)
{
    static const char *const spec[] = {
        "snapkv:window=8,kernel=1", "snapkv:impl=ada,window=8,kernel=1", "tova:impl=press", "knorm", "keydiff", "oracle_fixed",
        "adakv_snap:impl=ada,window=8,kernel=1", "adakv_snap:impl=efficient,window=8,kernel=1", "criticalkv:window=8,kernel=1",
        "defensivekv:window=8,kernel=1", "layer_defensivekv:window=8,kernel=1", "tova:impl=original",
    };
    for (size_t k = 0; k < sizeof spec / sizeof *spec; k++) copies(spec[k]);
}

/* ---- a token without value ------------------------------------------------------------------ */

/* Take the value of one token of one KV head away: whoever weighs attention with the size of
 * values does not start to keep it there, and drops nothing else there for it. */
static void valueless(const char *spec, uint32_t pos, uint32_t *n_left)
{
    world *w = world_make(&small, 41), *empty = copy_of(w);
    kvt_config *c = config_of(spec);
    batch b;
    tape a, t;
    size_t at = 0;

    for (uint32_t l = 0; l < w->s.L; l++) memset(world_v(empty, l, 1, pos), 0, w->s.d * sizeof(float));
    world_finish(empty);
    batch_make(&b, w, c, KVT_RULE_SHARE, some, N_SOME, &n_refused);
    cr_assert(b.n_budget > 0, "%s", spec);
    a = world_sets(w, &b, 1), t = world_sets(empty, &b, 1);
    for (const uint32_t *x; (x = tape_next(&a, &at)) != NULL;) {
        const uint32_t *y = tape_find(&t, 0, x[SET_BUDGET], x[SET_SEED], x[SET_LAYER], x[SET_CACHE], x[SET_STEP]);
        if (x[SET_CACHE] != 1) continue;
        cr_assert(set_has(x, pos) || !set_has(y, pos), "%s @ %s: layer %u: token %u is kept for having no value", spec, b.budget[x[SET_BUDGET]].text, x[SET_LAYER], pos);
        *n_left += set_has(x, pos) && !set_has(y, pos);
    }
    tape_free(&a), tape_free(&t), kvt_config_free(c), world_free(w), world_free(empty);
}

Test(metamorphic, a_token_without_value_is_not_preferred, .timeout = 120)
{
    static const char *const spec[] = {
        "criticalkv:window=7", "criticalkv:window=7,semantics=paper", "critical_adakv:window=7", "critical_adakv:window=7,semantics=paper",
        "defensivekv:window=7", "defensivekv:window=7,semantics=paper", "layer_defensivekv:window=7", "layer_defensivekv:window=7,semantics=paper", "expected",
    };
    for (size_t k = 0; k < sizeof spec / sizeof *spec; k++) {
        uint32_t n_left = 0;
        for (uint32_t pos = 4; pos < 33; pos++) valueless(spec[k], pos, &n_left);
        cr_assert(n_left > 0, "%s: no token ever left for its value: nothing was tested", spec[k]);
    }
}

/* A score that is a product with the value is 0, the smallest there is: such a token is kept
 * only when nothing that has a value is dropped. */
Test(metamorphic, a_score_that_is_a_product_with_the_value_drops_it_first)
{
    static const char *const spec[] = {"expected", "defensivekv:window=7,semantics=paper"};
    const uint32_t pos = 20;
    world *w = world_new(&small, 51);

    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t g = 0; g < w->s.Hkv; g++) memset(world_v(w, l, g, pos), 0, w->s.d * sizeof(float));
    world_finish(w);
    for (size_t k = 0; k < sizeof spec / sizeof *spec; k++) {
        kvt_config *c = config_of(spec[k]);
        batch b;
        tape t;
        size_t at = 0;
        batch_make(&b, w, c, KVT_RULE_SHARE, some, N_SOME, &n_refused);
        t = world_sets(w, &b, 1);
        for (const uint32_t *s; (s = tape_next(&t, &at)) != NULL;) cr_assert(!set_has(s, pos), "%s @ %s", spec[k], b.budget[s[SET_BUDGET]].text);
        cr_assert(t.n > 0);
        tape_free(&t), kvt_config_free(c);
    }
    world_free(w);
}

/* ---- growth of the budget ------------------------------------------------------------------- */

/* More budget never means fewer entries held, over all layers and heads. */
FOR_EVERY_POLICY(metamorphic, a_larger_budget_holds_at_least_as_much)
{
    static const char *const rising[] = {"0.15", "0.3", "0.31", "0.5", "0.77", "0.9", "0.97", "1"};
    enum { N = sizeof rising / sizeof *rising };
    const kvt_policy *p = kvt_policy_at(*i);
    world *w = world_make(&turning, 61);

    specs_of(p, &list);
    for (uint32_t k = 0; k < list.n_core && !(p->caps & KVT_POLICY_BOUND); k++) {
        kvt_config *c = config_if(p, list.s[k]);
        uint64_t sum[N] = {0};
        size_t at = 0;
        batch b;
        tape t;
        if (!c) continue;
        batch_make(&b, w, c, k % 2 ? KVT_RULE_REFERENCE : KVT_RULE_SHARE, rising, N, &n_refused);
        t = b.n_budget ? world_sets(w, &b, 2) : (tape){0};
        for (const uint32_t *s; (s = tape_next(&t, &at)) != NULL;) sum[s[SET_BUDGET]] += s[SET_N];
        for (uint32_t m = 1; m < b.n_budget; m++)
            cr_assert(sum[m] >= sum[m - 1], "%s: %s holds %lu, %s holds %lu", list.s[k], b.budget[m - 1].text, (unsigned long)sum[m - 1], b.budget[m].text, (unsigned long)sum[m]);
        tape_free(&t), kvt_config_free(c);
    }
    world_free(w);
}

/* ---- CAKE's stages -------------------------------------------------------------------------- */

enum { CAKE_L = 6, CAKE_W = 7 };

/* Entropy and variance of the window's rows over the prefix, from the definition; tau 1, 1. */
static double preference(const world *w, uint32_t l)
{
    const uint32_t n = w->s.N, prefix = n - CAKE_W;
    double row[CAKE_W][64], entropy = 0, variance = 0;

    for (uint32_t h = 0; h < w->s.Hq; h++) {
        for (uint32_t r = 0; r < CAKE_W; r++)
            kvt_ref_row(&w->layer[l], prefix + r, world_q(w, l, h, prefix + r), world_k(w, l, h / (w->s.Hq / w->s.Hkv), 0), 0, NULL, row[r]);
        for (uint32_t j = 0; j < prefix; j++) {
            double mean = 0, square = 0;
            for (uint32_t r = 0; r < CAKE_W; r++) mean += row[r][j] / CAKE_W, entropy -= row[r][j] * log(row[r][j] + 1e-10);
            for (uint32_t r = 0; r < CAKE_W; r++) square += (row[r][j] - mean) * (row[r][j] - mean);
            variance += square / (CAKE_W - 1);
        }
    }
    return entropy * variance;
}

static void hand_out(uint32_t *b, uint32_t m, uint32_t cap, uint32_t amount)
{
    uint32_t valid = 0, each, rest;
    for (uint32_t i = 0; i < m; i++) valid += b[i] < cap;
    if (!valid) return;
    each = amount / valid, rest = amount % valid;
    for (uint32_t i = 0; i < m; i++)
        if (b[i] < cap) b[i] += each + (rest > 0), rest -= rest > 0;
}

/* Prefix entries of the first m layers after stage m. */
static void stage(const double *pref, uint32_t m, uint32_t total, uint32_t cap, uint32_t *b)
{
    double sum = 0;
    uint32_t excess = 0, held = 0;

    for (uint32_t i = 0; i < m; i++) sum += pref[i];
    for (uint32_t i = 0; i < m; i++) {
        const uint32_t x = (uint32_t)(pref[i] / sum * total);
        b[i] = x < cap ? x : cap, excess += x - b[i];
    }
    hand_out(b, m, cap, excess);
    for (uint32_t i = 0; i < m; i++) held += b[i];
    if (total > held) hand_out(b, m, cap, total - held);
    for (uint32_t i = 0; i < m; i++) b[i] = b[i] < cap ? b[i] : cap;
}

/* What a layer holds is the smallest that a stage left it; one allocation is the last stage. */
Test(metamorphic, the_cascade_of_cake_ends_with_the_smallest_of_its_stages)
{
    static const char *const in_tokens[] = {"9t", "10t", "13t", "24t", "29t"};
    const shape s = {CAKE_L, 4, 2, 4, 40, 4, 40, 0};
    uint32_t n_apart = 0;

    for (uint64_t seed = 1; seed < 9; seed++) {
        world *w = world_new(&s, seed);
        double pref[CAKE_L];
        for (uint32_t l = 0; l < CAKE_L; l++)           /* layers that differ */
            for (uint32_t h = 0; h < s.Hq; h++)
                for (uint32_t p = 0; p < w->T; p++)
                    for (uint32_t d = 0; d < s.d; d++) world_q(w, l, h, p)[d] *= 0.4f + 0.4f * (float)((l * 7 + seed) % 5);
        world_finish(w);
        for (uint32_t l = 0; l < CAKE_L; l++) pref[l] = preference(w, l);
        for (int cascade = 0; cascade < 2; cascade++) {
            kvt_config *c = config_of(cascade ? "cake:window=7,tau1=1,tau2=1" : "cake:window=7,tau1=1,tau2=1,cascade=off");
            batch b;
            tape t;
            batch_make(&b, w, c, KVT_RULE_SHARE, in_tokens, 5, &n_refused);
            cr_assert(b.n_budget == 5);
            t = world_sets(w, &b, 2);
            for (uint32_t k = 0; k < 5; k++) {
                const uint32_t C = (uint32_t)b.budget[k].value, cap = s.N - CAKE_W;
                uint32_t left[CAKE_L], x[CAKE_L];
                for (uint32_t l = 0; l < CAKE_L; l++) left[l] = cap;
                for (uint32_t m = 1; m <= CAKE_L; m++) {
                    stage(pref, m, (C - CAKE_W) * CAKE_L, cap, x);
                    for (uint32_t l = 0; l < m; l++) left[l] = !cascade ? x[l] : x[l] < left[l] ? x[l] : left[l];
                }
                for (uint32_t l = 0; l < CAKE_L; l++) {
                    const uint32_t *set = tape_find(&t, 0, k, 0, l, 0, 0);
                    cr_assert(set && set[SET_N] == left[l] + CAKE_W, "cascade %d, %s, seed %lu, layer %u: %u held, expected %u", cascade, b.budget[k].text, (unsigned long)seed,
                              l, set ? set[SET_N] : 0, left[l] + CAKE_W);
                    n_apart += cascade && left[l] != x[l];
                }
            }
            tape_free(&t), kvt_config_free(c);
        }
        world_free(w);
    }
    cr_assert(n_apart > 0, "the cascade never ended apart from its last stage");
}

/* ---- equals --------------------------------------------------------------------------------- */

/* At 13t of 40, KV head g keeps the n[g] positions from from[g]. */
static void expect_run(const world *w, const char *spec, const char *ties, const uint32_t from[2], const uint32_t n[2])
{
    static const char *const one[] = {"13t"};
    char text[SPEC + 16];
    kvt_config *c;
    batch b;
    tape t;

    snprintf(text, sizeof text, "%s%cties=%s", spec, strchr(spec, ':') ? ',' : ':', ties);
    c = config_of(text);
    batch_make(&b, w, c, KVT_RULE_SHARE, one, 1, &n_refused);
    cr_assert(b.n_budget == 1, "%s", text);
    t = world_sets(w, &b, 1);
    for (uint32_t g = 0; g < 2; g++) {
        const uint32_t *s = tape_find(&t, 0, 0, 0, 0, g, c->caps & KVT_POLICY_ONLINE ? 0 : UINT32_MAX);
        cr_assert(s && s[SET_N] == n[g], "%s: head %u holds %u, expected %u", text, g, s ? s[SET_N] : 0, n[g]);
        for (uint32_t k = 0; k < n[g]; k++) cr_assert(s[SET_POS + k] == from[g] + k, "%s: head %u holds %u", text, g, s[SET_POS + k]);
    }
    tape_free(&t), kvt_config_free(c);
}

/* 13 of 40 tokens of each of two heads are kept and every score is the same. Rules that name
 * what stays: low keeps the first positions, high the last. Over a layer's 26 of 80 entries
 * flat fills the first head before the second. */
Test(metamorphic, equals_go_where_ties_says)
{
    static const char *const per_cache[] = {"knorm", "snapkv:window=7,kernel=1", "tova:impl=press", "oracle_fixed", "tova:impl=original", "keydiff"};
    static const uint32_t n[2] = {13, 13}, first[2] = {0, 0}, last[2] = {27, 27};
    world *w = world_equal(&small);

    for (size_t k = 0; k < sizeof per_cache / sizeof *per_cache; k++) {
        expect_run(w, per_cache[k], "low", first, n);
        expect_run(w, per_cache[k], "flat", first, n);
        expect_run(w, per_cache[k], "high", last, n);
    }
    world_free(w);
}

/* adakv wrapper removes the smallest: the lower position leaves. Its floor of trunc(0.2 * 13)
 * goes to the first positions of each head under low. */
Test(metamorphic, rules_that_name_what_leaves_let_the_first_go)
{
    static const char *const one[] = {"13t"};
    world *w = world_equal(&small);
    kvt_config *c = config_of("adakv_snap:impl=wrapper,window=7,kernel=1,alpha=0.2");
    batch b;
    tape t;

    batch_make(&b, w, c, KVT_RULE_SHARE, one, 1, &n_refused);
    t = world_sets(w, &b, 1);
    for (uint32_t g = 0; g < 2; g++) {
        const uint32_t *s = tape_find(&t, 0, 0, 0, 0, g, UINT32_MAX);
        cr_assert(s && s[SET_N] == 13 && set_has(s, 0) && set_has(s, 1), "head %u: the floor of 2", g);
        for (uint32_t p = 29; p < 40; p++) cr_assert(set_has(s, p), "head %u: %u is among the last to leave", g, p);
    }
    tape_free(&t), kvt_config_free(c), world_free(w);
}

/* A layer's best 26 of 80 equals: by positions, or one head after the other. */
Test(metamorphic, flat_fills_one_head_before_the_next)
{
    static const uint32_t even[2] = {13, 13}, first[2] = {0, 0}, last[2] = {27, 27}, uneven[2] = {26, 0};
    world *w = world_equal(&small);

    expect_run(w, "adakv_snap:impl=efficient,window=1,kernel=1,alpha=0", "low", first, even);
    expect_run(w, "adakv_snap:impl=efficient,window=1,kernel=1,alpha=0", "flat", first, uneven);
    expect_run(w, "adakv_snap:impl=efficient,window=1,kernel=1,alpha=0", "high", last, even);
    world_free(w);
}

Test(metamorphic, seeded_ties_are_the_seeds)
{
    static const char *const one[] = {"13t"};
    world *w = world_equal(&small);
    kvt_config *c = config_of("snapkv:window=7,kernel=1,ties=seeded");
    batch b;
    tape t[3];

    batch_make(&b, w, c, KVT_RULE_SHARE, one, 1, &n_refused);
    for (int k = 0; k < 3; k++) b.seed = (uint64_t)k / 2 * 7, t[k] = world_sets(w, &b, 1);
    cr_assert(t[0].n == t[1].n && tape_equal(&t[0], &t[1]), "the same seed, the same sets");
    cr_assert(t[2].n == t[0].n);
    cr_assert(!set_equal(t[0].word, t[2].word), "another seed, other sets");
    cr_assert(tape_find(&t[0], 0, 0, 0, 0, 0, UINT32_MAX) && !set_equal(tape_find(&t[0], 0, 0, 0, 0, 0, UINT32_MAX), tape_find(&t[0], 0, 0, 0, 0, 1, UINT32_MAX)),
              "heads draw for themselves");
    for (int k = 0; k < 3; k++) tape_free(&t[k]);
    kvt_config_free(c), world_free(w);
}
