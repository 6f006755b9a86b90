/* test_contract_sets.c - what the kept sets of every policy must be, whatever it values.
 * Goal: counts follow the rule, a budget that covers everything loses nothing, sets follow
 * their heads, budgets do not disturb each other, nobody beats the oracles, protection
 * stays inside the budget; for every registered policy and every value of its parameters.
 * Method: the engine on small random traces, whole or with one thing changed. */
#include <criterion/criterion.h>
#include "policy_statement.h"

/* ---- counts ---------------------------------------------------------------------------- */

/* What EasyKV's modes hold of n prompt tokens, from its own arithmetic: b = budget + stride,
 * and the largest number up to b that is n less whole strides. */
static uint32_t easykv_holds(const kvt_config *c, const kvt_job *job, const kvt_budget *budget)
{
    enum { DECODING, ENCODING, PPL, AUTO, ENCODING_DECODING };
    const uint32_t n = job->n, stride = (uint32_t)kvt_config_param(c, "stride", 0), prompt = (uint32_t)kvt_config_param(c, "prompt", 0);
    const uint32_t copies = job->n_caches / job->n_kv_heads;
    const uint32_t tokens = budget->in_tokens ? (uint32_t)budget->value : budget->rule == KVT_RULE_REFERENCE ? (uint32_t)(n * budget->value / copies) : job->keep_cache;
    const uint32_t mode = (uint32_t)kvt_config_param(c, "mode", 0);
    const int decodes = mode == DECODING || (mode == AUTO && tokens > n);
    uint32_t b = tokens + stride;

    if (decodes) return prompt && n - prompt > tokens ? prompt + tokens : n;
    if (mode <= PPL && tokens >= n) return n;
    if (mode >= AUTO && b >= n) b -= stride;
    while (b > n || (n - b) % stride) b--;
    return b;
}

static int is_easykv(const kvt_config *c) { return kvt_config_param(c, "stride", 0) > 0 && c->caps & KVT_POLICY_ONLINE && (!strcmp(c->policy->id, "roco") || !strcmp(c->policy->id, "recency") || strstr(c->info.label, "easykv")); }

/* Entries held at the end of the prompt. Most policies take exactly the best of every cache,
 * layer or the model; those that split the budget by rules of their own stay within it,
 * unless they say that they may not. */
static void held(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    static const char *const own[] = {"adakv_pyramid", "pyramidkv", "cake", "chunkkv"};
    const char *id = c->policy->id;
    int exact = strcmp(id, "adakv_snap") || kvt_config_param(c, "impl", 0) != 0;    /* impl=ada */
    tape t = world_sets(w, b, 2);

    for (size_t o = 0; o < sizeof own / sizeof *own; o++) exact &= strcmp(id, own[o]) != 0;
    for (uint32_t k = 0; k < b->n_budget && strcmp(id, "full") && !(c->caps & KVT_POLICY_BOUND); k++) {
        kvt_job job;
        const kvt_setup s = setup_of(w, b, k, 0, &job);
        const uint64_t L = w->s.L, caches = L * job.n_caches, per_cache = caches * (job.keep_cache < job.n ? job.keep_cache : job.n);
        uint64_t sum = 0, want = per_cache, most;
        size_t at = 0;

        if (s.rank_over == KVT_SPAN_LAYER) want = L * job.keep_layer;
        if (s.rank_over == KVT_SPAN_MODEL) want = job.keep_model;
        if (!strncmp(spec, "adakv_snap:impl=wrapper", 23)) want = per_cache;    /* the layer's count is heads x the cache's */
        if (kvt__keeps_all(&job, &s)) want = caches * job.n;
        if (is_easykv(c)) want = caches * easykv_holds(c, &job, &b->budget[k]);
        most = want > job.keep_model ? want : job.keep_model;
        for (const uint32_t *set; (set = tape_next(&t, &at)) != NULL;)
            if (set[SET_BUDGET] == k && set[SET_SEED] == b->seed && at_prompt_end(set))
                sum += (uint64_t)set[SET_N] * (set[SET_CACHE] == KVT_ALL ? job.n_caches : 1);
        cr_assert(s.overshoots || sum <= most, "%s @ %s: %lu held, %lu asked for", spec, b->budget[k].text, (unsigned long)sum, (unsigned long)most);
        cr_assert(!exact || sum == want, "%s @ %s: %lu held, %lu wanted", spec, b->budget[k].text, (unsigned long)sum, (unsigned long)want);
    }
    tape_free(&t);
}

FOR_EVERY_POLICY(sets, the_held_count_is_what_the_rule_says)
{
    specs_of(kvt_policy_at(*i), &list);
    for (uint32_t s = 0; s < N_SHAPES; s++) say(kvt_policy_at(*i), held, s, 0, list.n_core);
}

/* Room for every token that ever comes: nothing leaves, at any step; nothing is lost. */
FOR_EVERY_POLICY(sets, a_budget_that_covers_everything_equals_full)
{
    const kvt_policy *p = kvt_policy_at(*i);
    world *w = world_make(&shapes[0], 5);
    const uint32_t T = w->T;
    char text[16];
    const char *const all[] = {text};

    snprintf(text, sizeof text, "%ut", T);
    specs_of(p, &list);
    for (uint32_t k = 0; k < list.n_core; k++) {
        kvt_config *c = config_if(p, list.s[k]);
        batch b;
        tape t;
        notes n;
        size_t at = 0;
        if (!c) continue;
        batch_make(&b, w, c, k % 2 ? KVT_RULE_REFERENCE : KVT_RULE_SHARE, all, 1, &n_refused);
        if (b.n_budget) {
            const int pyramid = !strcmp(p->id, "adakv_pyramid");    /* its first layer gets no more than the prompt: Ada-KV's rounding acts */
            t = world_sets(w, &b, 2), n = world_notes(w, &b);
            for (const uint32_t *s; (s = tape_next(&t, &at)) != NULL;)
                cr_assert(s[SET_N] == w->s.N + (step_of(s) > 0 ? s[SET_STEP] : 0) || (pyramid && s[SET_LAYER] == 0 && s[SET_N] == w->s.N - 1), "%s: step %d: %u held",
                          list.s[k], step_of(s), s[SET_N]);
            for (uint32_t m = 0; m < n.n; m++) cr_assert(n.cell[m].lost_worst == 0 || pyramid, "%s loses %g", list.s[k], n.cell[m].lost_worst);
            cr_assert(n.n >= 1);
            tape_free(&t);
            n_run++;
        }
        kvt_config_free(c);
    }
    cr_assert(n_run > n_refused, "%u specs run, %u are refused", n_run, n_refused);
    world_free(w);
}

/* The whole prompt as a share: all of it is there when generation starts. What Ada-KV's own
 * code does there is another thing: it may drop one entry per head. */
FOR_EVERY_POLICY(sets, the_whole_prompt_as_a_share_keeps_the_prompt)
{
    const kvt_policy *p = kvt_policy_at(*i);
    static const char *const one[] = {"1"};
    world *w = world_make(&shapes[0], 6);

    specs_of(p, &list);
    for (uint32_t k = 0; k < list.n_core; k++) {
        kvt_config *c = config_if(p, list.s[k]);
        batch b;
        tape t;
        kvt_job job;
        kvt_setup setup;
        size_t at = 0;
        if (!c) continue;
        batch_make(&b, w, c, k % 2 ? KVT_RULE_REFERENCE : KVT_RULE_SHARE, one, 1, &n_refused);
        if (b.n_budget && c->caches == KVT_CACHES_KV) {
            setup = setup_of(w, &b, 0, 0, &job);
            t = world_sets(w, &b, 2);
            for (const uint32_t *s; (s = tape_next(&t, &at)) != NULL;)
                if (at_prompt_end(s))
                    cr_assert(s[SET_N] == w->s.N || (setup.keep_all == 0 && s[SET_N] + 1 >= w->s.N), "%s: %u held", list.s[k], s[SET_N]);
            tape_free(&t);
        }
        kvt_config_free(c);
    }
    world_free(w);
}

/* ---- heads ------------------------------------------------------------------------------ */

static uint32_t n_moved;

static void permutation(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    const uint32_t Hkv = w->s.Hkv, gs = w->s.Hq / Hkv;
    world *other = world_new(&w->s, 1);
    tape a, o;
    size_t at = 0;

    world_take(other, w, 1);                                /* its head g is head g + 1 of w */
    world_finish(other);
    a = world_sets(w, b, 2), o = world_sets(other, b, 2);
    for (const uint32_t *x; (x = tape_next(&a, &at)) != NULL;) {
        const uint32_t cache = x[SET_CACHE], n_caches = c->caches == KVT_CACHES_QUERY ? w->s.Hq : Hkv, by = c->caches == KVT_CACHES_QUERY ? gs : 1;
        const uint32_t *y = tape_find(&o, 0, x[SET_BUDGET], x[SET_SEED], x[SET_LAYER], cache == KVT_ALL ? cache : (cache + n_caches - by) % n_caches, x[SET_STEP]);
        kvt_job job;
        const kvt_setup s = setup_of(w, b, x[SET_BUDGET], x[SET_LAYER], &job);
        cr_assert(y, "%s: no set", spec);
        if (s.flags & KVT_FLAG_BELOW_WINDOW || (x[SET_TIED] && s.rank_over != KVT_SPAN_CACHE)) continue;    /* ties decide between heads */
        n_moved++;
        cr_assert(set_equal(x, y), "%s @ %s: layer %u cache %u step %d does not follow its head", spec, b->budget[x[SET_BUDGET]].text, x[SET_LAYER], cache, step_of(x));
    }
    tape_free(&a), tape_free(&o);
    world_free(other);
}

FOR_EVERY_POLICY(sets, kept_sets_follow_a_permutation_of_the_heads)
{
    const kvt_policy *p = kvt_policy_at(*i);

    specs_of(p, &list);
    if (p->caps & KVT_POLICY_RANDOM) return;                /* draws belong to a head's number */
    say(p, permutation, 0, 0, list.n_core);
    say(p, permutation, 1, 0, list.n_core);
    cr_assert((n_moved > 0) == !(p->caps & KVT_POLICY_BOUND), "%u sets were compared", n_moved);
}

/* ---- budgets ---------------------------------------------------------------------------- */

static uint32_t n_nested;

static void many_budgets(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    tape all = world_sets(w, b, 2);
    size_t at = 0;

    for (uint32_t k = 0; k < b->n_budget; k++) {
        batch one = *b;
        tape t;
        size_t ot = 0;
        one.n_budget = 1;
        budget_move(&one.budget[0], &b->budget[k]);
        t = world_sets(w, &one, 2);
        for (const uint32_t *x; (x = tape_next(&t, &ot)) != NULL;) {
            const uint32_t *y = tape_find(&all, 0, k, x[SET_SEED], x[SET_LAYER], x[SET_CACHE], x[SET_STEP]);
            cr_assert(y && set_equal(x, y), "%s @ %s: another set when other budgets are run beside it", spec, b->budget[k].text);
        }
        tape_free(&t);
    }
    for (const uint32_t *x; (x = tape_next(&all, &at)) != NULL;)
        for (uint32_t k = 0; k < b->n_budget; k++) {
            const uint32_t *y = tape_find(&all, 0, k, x[SET_SEED], x[SET_LAYER], x[SET_CACHE], x[SET_STEP]);
            kvt_job small, large;
            const kvt_setup s = setup_of(w, b, x[SET_BUDGET], x[SET_LAYER], &small), l = setup_of(w, b, k, x[SET_LAYER], &large);
            if (small.keep_cache > large.keep_cache || s.rank_over != KVT_SPAN_CACHE || step_of(x) >= 0 || s.overshoots) continue;
            if (s.nested && l.nested) n_nested++;
            cr_assert(!(s.nested && l.nested) || set_within(x, y), "%s: %s keeps what %s does not", spec, b->budget[x[SET_BUDGET]].text, b->budget[k].text);
        }
    tape_free(&all);
    (void)c;
}

FOR_EVERY_POLICY(sets, budgets_do_not_disturb_each_other_and_nest_where_that_is_claimed)
{
    const kvt_policy *p = kvt_policy_at(*i);

    specs_of(p, &list);
    say(p, many_budgets, 1, 0, list.n_core);
}

/* ---- bounds ----------------------------------------------------------------------------- */

static void bounds(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    const notes n = world_notes(w, b);
    (void)c;
    cr_assert(n.n >= b->n_budget);
    for (uint32_t k = 0; k < n.n; k++) cr_assert(!n.cell[k].broken[0], "%s @ %s: %s", spec, n.cell[k].budget, n.cell[k].broken);
}

FOR_EVERY_POLICY(sets, nobody_beats_the_oracles)
{
    specs_of(kvt_policy_at(*i), &list);
    say(kvt_policy_at(*i), bounds, 0, 0, list.n_core);
}

/* Attention on the prompt, mean over heads and steps: what an empty cache loses; and what
 * the sets of one seed lose. */
static double lost_with(const world *w, const tape *t, uint32_t seed, double *all)
{
    double lost = 0, row[128];

    *all = 0;
    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t h = 0; h < w->s.Hq; h++) {
            const uint32_t g = h / (w->s.Hq / w->s.Hkv), *set = tape_find(t, 0, 0, seed, l, g, UINT32_MAX);
            cr_assert(set);
            for (uint32_t p = w->s.N; p < w->T; p++) {
                kvt_ref_row(&w->layer[l], p, world_q(w, l, h, p), world_k(w, l, g, 0), 0, NULL, row);
                for (uint32_t j = 0; j < w->s.N; j++) *all += row[j], lost += set_has(set, j) ? 0 : row[j];
            }
        }
    return lost;
}

/* B of n entries at random hold B / n of the attention in expectation. */
Test(sets, random_loses_one_minus_its_share)
{
    enum { SEEDS = 60 };
    static const char *const half[] = {"23t"};
    world *w = world_make(&shapes[0], 77);
    kvt_config *c = config_of("random");
    double sum = 0, square = 0, all = 0, error;
    batch b;

    batch_make(&b, w, c, KVT_RULE_SHARE, half, 1, &n_refused);
    for (uint32_t seed = 0; seed < SEEDS; seed += 2) {      /* two seeds per replay */
        tape t;
        b.seed = seed;
        t = world_sets(w, &b, 2);
        for (uint32_t k = 0; k < 2; k++) {
            const double lost = lost_with(w, &t, seed + k, &all);
            sum += lost / all, square += lost / all * lost / all;
        }
        tape_free(&t);
    }
    error = sqrt((square / SEEDS - sum / SEEDS * sum / SEEDS) / (SEEDS - 1));
    cr_assert(error > 0 && error < 0.02 && fabs(sum / SEEDS - 0.5) < 5 * error, "loses %g +- %g, expected 0.5", sum / SEEDS, error);
    kvt_config_free(c), world_free(w);
}

/* The rest of its budget goes to the tokens that `random` would take first. */
Test(sets, random_protect_keeps_what_it_protects_and_draws_like_random)
{
    static const char *const some[] = {"20t", "12t"};
    world *w = world_make(&shapes[0], 78);
    kvt_config *c = config_of("random_protect:sinks=3,window=5"), *r = config_of("random");
    batch b;
    tape t, all;
    size_t at = 0;

    batch_make(&b, w, c, KVT_RULE_SHARE, some, 2, &n_refused);
    t = world_sets(w, &b, 1);
    b.config[0] = r;
    all = world_sets(w, &b, 1);
    for (const uint32_t *s; (s = tape_next(&t, &at)) != NULL;) {
        const uint32_t *wide = tape_find(&all, 0, 0, s[SET_SEED], s[SET_LAYER], s[SET_CACHE], UINT32_MAX);
        uint32_t guarded = 0;
        for (uint32_t i = 0; i < s[SET_N]; i++) {
            const uint32_t p = s[SET_POS + i];
            if (p < 3 || p >= w->s.N - 5) guarded++;
            else cr_assert(s[SET_BUDGET] == 0 || set_has(wide, p), "token %u is not among the best 20 draws", p);
        }
        cr_assert(guarded == 8 && s[SET_N] == b.budget[s[SET_BUDGET]].value);
    }
    cr_assert(t.n > 0);
    tape_free(&t), tape_free(&all), kvt_config_free(c), kvt_config_free(r), world_free(w);
}

/* ---- protection laid over a policy ---------------------------------------------------- */

static void protection(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    char text[SPEC + 40];
    kvt_config *guarded = NULL;
    kvt_err err = {KVT_OK, ""};
    batch g = *b;
    tape plain, t;
    size_t at = 0;

    snprintf(text, sizeof text, "%s%ckeep_first=2,keep_last=3", spec, strchr(spec, ':') ? ',' : ':');
    if (c->caps & KVT_POLICY_ORACLE || !strcmp(c->policy->id, "full")) {
        cr_assert(kvt_config_parse(&guarded, text, &err) == KVT_EARG && strstr(err.text, "keep_first"), "%s", err.text);
        return;
    }
    cr_assert(kvt_config_parse(&guarded, text, &err) == KVT_OK, "%s: %s", text, err.text);
    g.config[0] = guarded;
    plain = world_sets(w, b, 2), t = world_sets(w, &g, 2);
    for (const uint32_t *x; (x = tape_next(&t, &at)) != NULL;) {
        const uint32_t *y = tape_find(&plain, 0, x[SET_BUDGET], x[SET_SEED], x[SET_LAYER], x[SET_CACHE], x[SET_STEP]);
        const uint32_t end = w->s.N + (step_of(x) > 0 ? x[SET_STEP] : 0);
        kvt_job job;
        const kvt_setup s = setup_of(w, b, x[SET_BUDGET], x[SET_LAYER], &job);
        cr_assert(s.rank_over != KVT_SPAN_CACHE || (y && x[SET_N] == y[SET_N]), "%s: protection changes the count", text);
        if (x[SET_N] < 5 || s.rank_over != KVT_SPAN_CACHE) continue;
        cr_assert(set_has(x, 0) && set_has(x, 1), "%s @ %s: step %d: a first token is gone", text, b->budget[x[SET_BUDGET]].text, step_of(x));
        for (uint32_t p = end - 3; p < end; p++)
            cr_assert(set_has(x, p), "%s @ %s: step %d: token %u of the latest is gone", text, b->budget[x[SET_BUDGET]].text, step_of(x), p);
    }
    tape_free(&plain), tape_free(&t);
    kvt_config_free(guarded);
}

FOR_EVERY_POLICY(sets, protection_lies_over_any_policy_inside_its_budget)
{
    specs_of(kvt_policy_at(*i), &list);
    say(kvt_policy_at(*i), protection, 0, 0, list.n_core);
}
