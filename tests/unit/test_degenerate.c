/* test_degenerate.c - inputs at which there is nothing to choose, or not enough. Goal: each
 * has the stated result and flag, or is refused with one line that names the smallest
 * budget that works; scores stay numbers. Method: small traces, one situation each. */
#include <criterion/criterion.h>
#include "policy_probe.h"
#include "policy_statement.h"

enum { N = 46 };
static const shape usual = {2, 4, 2, 4, N, 10, N, 0};

typedef struct outcome {            /* one configuration at one budget                */
    tape     sets;
    uint32_t flags, held_min, held_max;
    int      says_empty;
    double   lost_worst;
    char     refused[512];          /* "" or the line                                 */
} outcome;

static outcome run_one(const world *w, const char *spec, const char *budget, kvt_rule rule)
{
    kvt_config *c = config_of(spec);
    batch b = {.config = {c}, .n_config = 1, .n_budget = 1};
    outcome o = {.refused = ""};
    kvt_err err = {KVT_OK, ""};
    notes n;

    budget_of(&b.budget[0], budget, rule);
    if (kvt_plan_check(&w->info, c, &b.budget[0], &err) != KVT_OK) {
        snprintf(o.refused, sizeof o.refused, "%s", err.text);
    } else {
        o.sets = world_sets(w, &b, 2);
        n = world_notes(w, &b);
        cr_assert(n.n >= 1, "%s", spec);
        o.flags = n.cell[0].flags, o.held_min = n.cell[0].held_min, o.held_max = n.cell[0].held_max, o.lost_worst = n.cell[0].lost_worst, o.says_empty = n.cell[0].says_empty;
    }
    kvt_config_free(c);
    return o;
}

/* The set of a cache at the end of the prompt, or after `step` steps. */
static const uint32_t *set_of(const outcome *o, uint32_t layer, uint32_t cache, uint32_t step)
{
    const uint32_t *s = tape_find(&o->sets, 0, 0, 0, layer, cache, step ? step : UINT32_MAX);
    if (!s) s = tape_find(&o->sets, 0, 0, 0, layer, cache, step);
    cr_assert(s, "no set of layer %u cache %u", layer, cache);
    return s;
}

static int set_is_run(const uint32_t *s, uint32_t from, uint32_t n)
{
    for (uint32_t i = 0; i < n && s[SET_N] == n; i++)
        if (s[SET_POS + i] != from + i) return 0;
    return s[SET_N] == n;
}

/* ---- flags and counts ---------------------------------------------------------------- */

Test(degenerate, each_situation_has_its_flag)
{
    enum { ALL = KVT_FLAG_KEPT_ALL, BELOW = KVT_FLAG_BELOW_WINDOW, CLAMPED = KVT_FLAG_CLAMPED };
    static const struct { const char *spec; uint32_t n; const char *budget; uint32_t flags, held_min, held_max; } rows[] = {
        /* the prompt is not longer than the window */
        {"snapkv", 32, "0.2", ALL, 32, 32}, {"snapkv", 20, "0.2", ALL, 20, 20}, {"defensivekv", 20, "0.2", ALL, 20, 20}, {"adakv_snap", 20, "0.2", ALL, 20, 20},
        {"cake", 20, "0.2", ALL, 20, 20}, {"pyramidkv", 32, "5t", ALL, 32, 32}, {"adakv_snap:impl=wrapper", 32, "5t", ALL, 32, 32},
        {"layer_defensivekv", 32, "5t", ALL, 32, 32}, {"criticalkv", 31, "5t", ALL, 31, 31}, {"cake:impl=dkv", 20, "0.2", ALL, 20, 20},
        /* the budget covers the prompt */
        {"snapkv", 100, "1", ALL, 100, 100}, {"knorm", 100, "100t", ALL, 100, 100}, {"streaming", 20, "1", ALL, 20, 20}, {"random", 20, "21t", ALL, 20, 20},
        {"cake", 100, "1", ALL, 100, 100}, {"adakv_snap", 100, "101t", ALL, 100, 100}, {"roco:mode=encoding", 40, "1", ALL, 40, 40},
        /* CAKE leaves a prompt of C + W tokens alone, until generating exceeds C */
        {"cake:window=8", 40, "32t", ALL, 40, 40}, {"cake:window=8", 41, "32t", 0, 0, 0},
        /* the budget is below the protected tokens */
        {"snapkv", 100, "0.5", 0, 50, 50}, {"snapkv", 100, "0.2", BELOW, 20, 20}, {"snapkv", 100, "0.32", 0, 32, 32}, {"snapkv", 100, "0.31", BELOW, 31, 31},
        {"defensivekv", 100, "0.2", BELOW | CLAMPED, 0, 0}, {"defensivekv", 640, "0.05", CLAMPED, 0, 0}, {"defensivekv", 640, "0.1", 0, 0, 0},
        {"defensivekv:semantics=paper", 640, "0.05", 0, 0, 0}, {"defensivekv:semantics=paper", 100, "0.2", BELOW, 0, 0},
        {"layer_defensivekv", 100, "0.2", BELOW | CLAMPED, 0, 0},
        {"adakv_snap:impl=wrapper", 100, "0.2", BELOW, 0, 0}, {"adakv_snap:impl=efficient", 100, "0.2", BELOW, 0, 0},
        {"streaming", 100, "0.03", BELOW, 3, 3}, {"streaming", 100, "0.04", 0, 4, 4}, {"random_protect", 100, "0.35", BELOW, 35, 35},
        {"random_protect", 100, "0.36", 0, 36, 36}, {"criticalkv", 100, "0.5", BELOW, 50, 50}, {"criticalkv", 100, "0.64", 0, 64, 64},
        /* a capacity that is exactly the window */
        {"adakv_snap:window=20", 46, "20t", BELOW, 20, 20}, {"cake:window=20", 46, "20t", BELOW, 20, 20}, {"adakv_pyramid:window=20", 46, "20t", BELOW, 20, 20},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const shape s = {2, 4, 2, 4, rows[i].n, 4, rows[i].n, 0};
        world *w = world_make(&s, 3);
        outcome o = run_one(w, rows[i].spec, rows[i].budget, KVT_RULE_SHARE);
        cr_expect(!o.refused[0], "%s", o.refused);
        cr_expect(o.flags == rows[i].flags, "%s, n %u, %s: flags %u, expected %u", rows[i].spec, rows[i].n, rows[i].budget, o.flags, rows[i].flags);
        cr_expect(!rows[i].held_max || (o.held_min == rows[i].held_min && o.held_max == rows[i].held_max), "%s, n %u, %s: %u..%u held", rows[i].spec, rows[i].n,
                  rows[i].budget, o.held_min, o.held_max);
        tape_free(&o.sets), world_free(w);
    }
}

Test(degenerate, an_infeasible_budget_is_refused_with_the_smallest_that_works)
{
    static const struct { const char *spec, *budget, *says; } rows[] = {
        {"adakv_snap:window=20", "19t", "20t"}, {"adakv_pyramid:window=20", "19t", "20t"}, {"cake:window=20", "19t", "20t"}, {"cake:impl=dkv,window=20", "0.4", "20t"},
        {"snapkv:impl=ada,window=20", "20t", "21t"}, {"snapkv:impl=original,window=20", "20t", "21t"}, {"pyramidkv:impl=ada,window=20", "20t", "21t"},
        {"adakv_snap:window=20,caches=query", "0.4", "20t"},     /* each of two copies gets half of 18.4 */
    };
    world *w = world_make(&usual, 4);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        outcome o = run_one(w, rows[i].spec, rows[i].budget, KVT_RULE_SHARE), good;
        cr_assert(strstr(o.refused, rows[i].says) && !strchr(o.refused, '\n'), "%s @ %s: '%s' does not say %s", rows[i].spec, rows[i].budget, o.refused, rows[i].says);
        good = run_one(w, rows[i].spec, rows[i].says, KVT_RULE_SHARE);
        cr_assert(!good.refused[0], "%s: %s", rows[i].spec, good.refused);
        tape_free(&good.sets);
    }
    world_free(w);
}

/* ---- results --------------------------------------------------------------------------- */

/* The window of 20 ties with the best token of the layer: 10 of 46 are the first of these. */
Test(degenerate, a_budget_below_the_window_keeps_its_first_tokens)
{
    world *w = world_make(&usual, 5);
    outcome o = run_one(w, "snapkv:window=20", "10t", KVT_RULE_SHARE);

    for (uint32_t l = 0; l < 2; l++) {
        const uint32_t *a = set_of(&o, l, 0, 0), *b = set_of(&o, l, 1, 0);
        const int best_in_a = a[SET_POS] < 26, best_in_b = b[SET_POS] < 26;
        cr_assert(best_in_a + best_in_b == 1, "one cache of the layer holds the best token");
        cr_assert(set_is_run(best_in_a ? b : a, 26, 10));
        for (uint32_t i = 1; i < 10; i++) cr_assert((best_in_a ? a : b)[SET_POS + i] == 25 + i);
    }
    tape_free(&o.sets), world_free(w);
}

/* Where stage 1 would be negative the window and the best token tie for the slots of the
 * layer: lower positions first, over both heads. */
Test(degenerate, defensivekv_clamps_a_negative_first_stage)
{
    world *w = world_make(&usual, 5);
    outcome o = run_one(w, "defensivekv:window=20", "10t", KVT_RULE_SHARE);

    for (uint32_t l = 0; l < 2; l++) {
        uint32_t n = 0;
        for (uint32_t g = 0; g < 2; g++) {
            const uint32_t *s = set_of(&o, l, g, 0);
            n += s[SET_N];
            for (uint32_t i = 0; i < s[SET_N]; i++) cr_assert(s[SET_POS + i] >= 26 ? s[SET_POS + i] <= 36 : i == 0, "layer %u head %u holds %u", l, g, s[SET_POS + i]);
        }
        cr_assert(n == 20);
    }
    tape_free(&o.sets), world_free(w);
}

/* Rows are uniform, so entries reach 0.9 - rho of the mean attention in order of position:
 * those before the one that crosses stay although they have no value, that one does not. */
Test(degenerate, defensivekv_protects_what_lies_before_the_crossing_entry)
{
    enum { W = 6, PREFIX = N - W };
    world *w = world_equal(&usual), *o = world_new(&usual, 5);
    double rho = 0, all = 0, reached = 0;
    uint32_t crossing = 0;
    outcome kept;

    for (uint32_t p = PREFIX; p < N; p++) rho += (double)W / (p + 1) / W, all += 1.0 / (p + 1);
    while ((reached = (crossing + 1.0) / PREFIX) < 0.9 - rho) crossing++;
    cr_assert(all > 0 && crossing > 20 && crossing + 2 < PREFIX && reached > 0.9 - rho + 1e-3);
    world_take(o, w, 0);
    for (uint32_t l = 0; l < 2; l++)
        for (uint32_t p = 0; p < N; p++) world_v(o, l, 0, p)[0] *= p == crossing || p == crossing - 1 ? 0 : 1 + 0.01f * (float)p;
    for (uint32_t l = 0; l < 2; l++)
        for (uint32_t c = 1; c < 4; c++) world_v(o, l, 0, crossing)[c] = world_v(o, l, 0, crossing - 1)[c] = 0;
    world_finish(o);
    kept = run_one(o, "defensivekv:window=6,kernel=1", "0.95", KVT_RULE_SHARE);
    for (uint32_t l = 0; l < 2; l++) {
        const uint32_t *s = set_of(&kept, l, 0, 0);
        cr_assert(set_has(s, crossing - 1), "layer %u: entry %u is before the crossing", l, crossing - 1);
        cr_assert(!set_has(s, crossing), "layer %u: entry %u crosses", l, crossing);
    }
    tape_free(&kept.sets), world_free(w), world_free(o);
}

Test(degenerate, a_capacity_of_one_window_keeps_the_window)
{
    static const char *const spec[] = {"adakv_snap:window=20", "adakv_pyramid:window=20", "cake:window=20", "cake:impl=dkv,window=20", "adakv_snap:window=20,caches=query"};
    world *w = world_make(&usual, 6);

    for (size_t k = 0; k < sizeof spec / sizeof *spec; k++) {
        outcome o = run_one(w, spec[k], "20t", KVT_RULE_SHARE);
        cr_assert(!o.refused[0], "%s", o.refused);
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t g = 0; g < 2; g++) cr_assert(set_is_run(set_of(&o, l, g, 0), 26, 20), "%s: layer %u head %u", spec[k], l, g);
        tape_free(&o.sets);
    }
    world_free(w);
}

/* Layer 1 looks at nothing but its own window, so its scores are far below those of layer 0:
 * it loses everything, and with it all that its decode steps look for. */
Test(degenerate, a_weak_layer_may_lose_everything)
{
    world *w = world_new(&usual, 7);
    outcome o;

    for (uint32_t h = 0; h < 4; h++)
        for (uint32_t p = 0; p < w->T; p++) {
            memset(world_q(w, 0, h, p), 0, 4 * sizeof(float));
            world_q(w, 1, h, p)[0] = p < N ? 30 : -30;
            if (h < 2) world_k(w, 1, h, p)[0] = p < N - 8 ? -3 : 3;
        }
    world_finish(w);
    o = run_one(w, "layer_defensivekv:window=8", "0.4", KVT_RULE_SHARE);
    for (uint32_t g = 0; g < 2; g++) cr_assert(set_of(&o, 1, g, 0)[SET_N] == 0 && set_of(&o, 0, g, 0)[SET_N] > 0, "head %u", g);
    cr_assert(o.says_empty);
    cr_assert(o.held_min == 0 && o.lost_worst > 0.99, "%u held at least, %g lost", o.held_min, o.lost_worst);
    tape_free(&o.sets), world_free(w);
}

Test(degenerate, an_empty_cache_loses_all_of_the_prompt)
{
    static const char *const spec[] = {"snapkv:window=7", "random", "knorm", "streaming:sinks=0", "tova", "tova:impl=press"};
    world *w = world_make(&usual, 8);

    for (size_t k = 0; k < sizeof spec / sizeof *spec; k++) {
        outcome o = run_one(w, spec[k], "0.01", KVT_RULE_SHARE);
        cr_assert(!o.refused[0], "%s", o.refused);
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t g = 0; g < 2; g++) cr_assert(set_of(&o, l, g, 0)[SET_N] == 0);
        cr_assert(o.says_empty && o.held_max == 0, "%s: %u held", spec[k], o.held_max);
        cr_assert(o.lost_worst > 0.9, "%s: %g: at the first step there is nothing else", spec[k], o.lost_worst);
        tape_free(&o.sets);
    }
    world_free(w);
}

/* trunc(0.3 * 3) recent tokens are none: the reference fails, here the oldest leaves. */
Test(degenerate, h2o_of_easykv_with_three_generated_tokens_drops_the_oldest)
{
    world *w = world_make(&usual, 9);
    outcome o = run_one(w, "h2o:impl=easykv,mode=decoding", "3t", KVT_RULE_SHARE);

    for (uint32_t step = 1; step <= 10; step++) {
        const uint32_t *s = set_of(&o, 1, 1, step), n = step < 3 ? step : 3;
        cr_assert(s[SET_N] == N + n && set_is_run(s, 0, N + n) == (step <= 3), "step %u", step);
        for (uint32_t i = 0; i < n; i++) cr_assert(s[SET_POS + N + i] == N + step - n + i);
    }
    tape_free(&o.sets), world_free(w);
}

Test(degenerate, where_easykv_fails_or_asserts_there_is_a_run)
{
    static const struct { const char *spec; uint32_t held; } rows[] = {
        {"roco:mode=auto,stride=1", 21}, {"roco:mode=encoding_decoding,stride=1", 21}, {"random:impl=easykv,mode=encoding_decoding,stride=2", 22},
        {"random:impl=easykv,mode=encoding_decoding,stride=4", 22},
    };
    world *w = world_make(&usual, 10);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        outcome o = run_one(w, rows[i].spec, "20t", KVT_RULE_SHARE);
        cr_assert(!o.refused[0], "%s", o.refused);
        for (uint32_t step = 0; step <= 10; step++) {
            const uint32_t *s = tape_find(&o.sets, 0, 0, 0, 0, 0, step);
            cr_assert(s && s[SET_N] == rows[i].held, "%s: step %u: %u held", rows[i].spec, step, s ? s[SET_N] : 0);
        }
        tape_free(&o.sets);
    }
    world_free(w);
}

Test(degenerate, one_layer_makes_a_pyramid_flat)
{
    static const char *const pair[][2] = {
        {"pyramidkv:window=7", "snapkv:impl=ada,window=7"}, {"pyramidkv:impl=kvpress,window=7", "snapkv:impl=kvpress,window=7"}, {"adakv_pyramid:window=7", "adakv_snap:window=7"},
    };
    const shape one = {1, 4, 2, 4, N, 4, N, 0};
    world *w = world_make(&one, 11);

    for (size_t k = 0; k < sizeof pair / sizeof *pair; k++) {
        outcome a = run_one(w, pair[k][0], "20t", KVT_RULE_SHARE), b = run_one(w, pair[k][1], "20t", KVT_RULE_SHARE);
        cr_assert(!a.refused[0] && !b.refused[0], "%s%s", a.refused, b.refused);
        for (uint32_t g = 0; g < 2; g++) cr_assert(set_equal(set_of(&a, 0, g, 0), set_of(&b, 0, g, 0)), "%s: head %u", pair[k][0], g);
        tape_free(&a.sets), tape_free(&b.sets);
    }
    world_free(w);
}

/* A mean square below the squared mean, as rounding can leave it: a deviation of 0, so such
 * an entry is feasible like a steady one, and the reference's NaN would have protected it. */
Test(degenerate, roco_takes_a_negative_variance_for_none)
{
    enum { n = 42 };
    kvt_config *c = config_of("roco:mode=decoding");
    kvt_job job = {.n_layers = 1, .n_q_heads = 1, .n_kv_heads = 1, .n_caches = 1, .head_dim = 4, .value_dim = 4, .n = 40, .n_new = 62, .scale = 0.5,
                   .in_tokens = 1, .tokens = 41, .keep_cache = 41, .keep_layer = 41, .keep_model = 41, .param = c->param};
    kvt_setup setup;
    kvt_lane lane = {&job, 0, 0, n, 41};
    uint32_t pos[n], worst = 0;
    float prob[n], col[3 * n], worth[n];
    kvt_event ev = {.n = n, .pos = pos, .query = 40 + n - 1, .prob = prob, .n_heads = 1};
    kvt_ws ws;

    kvt__setup(c->policy, &job, &setup);
    for (uint32_t s = 0; s < n; s++) {              /* s, squares, rows; the steadier the larger the mean */
        pos[s] = 40 + s, prob[s] = 0.01f;
        col[s] = 0.5f + 0.01f * (float)s, col[n + s] = 0.5f, col[2 * n + s] = 1;
    }
    col[5] = 0.25f, col[n + 5] = 0.0624999f;        /* 0.25 squared is 0.0625 */
    ws = (kvt_ws){aligned_alloc(64, setup.ws_bytes + 64), 0, setup.ws_bytes};
    c->policy->worth(&lane, &ev, &ws, col, worth);
    for (uint32_t s = 0; s < n; s++) {
        cr_assert(!isnan(worth[s]));
        if (worth[s] < worth[worst]) worst = s;
    }
    cr_assert(worst == 5, "slot %u leaves", worst);
    free(ws.base), kvt_config_free(c);
}

/* ---- any policy ---------------------------------------------------------------------------- */

/* Values that are all zero; rows that put everything on one token; all rows equal. */
static world *odd_world(int how)
{
    world *w = how == 0 ? world_equal(&usual) : world_new(&usual, 12);

    if (how == 0) return w;
    for (uint32_t l = 0; l < usual.L; l++)
        for (uint32_t h = 0; h < usual.Hq; h++)
            for (uint32_t p = 0; p < w->T; p++) {
                if (how == 1 && h < usual.Hkv) memset(world_v(w, l, h, p), 0, usual.d * sizeof(float));
                if (how == 2) world_q(w, l, h, p)[0] = 400;         /* probabilities of 0 and 1 */
                if (how == 3 && h < usual.Hkv) memset(world_k(w, l, h, p), 0, usual.d * sizeof(float));
            }
    world_finish(w);
    return w;
}

FOR_EVERY_POLICY(degenerate, odd_operands_give_numbers_and_full_counts)
{
    static const char *const some[] = {"0.2", "0.6", "21t"};
    const kvt_policy *p = kvt_policy_at(*i);

    specs_of(p, &list);
    for (int how = 0; how < 4; how++) {
        world *w = odd_world(how);
        for (uint32_t k = 0; k < list.n_core; k++) {
            kvt_config *c = config_if(p, list.s[k]);
            kvt_err err = {KVT_OK, ""};
            tape t = {0};
            batch b;
            if (!c) continue;
            batch_make(&b, w, c, k % 2 ? KVT_RULE_REFERENCE : KVT_RULE_SHARE, some, 3, &n_refused);
            probe_enter(c, 0);
            cr_assert(!b.n_budget || world_replay(w, &b, 1, (kvt_sink){NULL, NULL}, &t, &err) == KVT_OK, "%s: %s", list.s[k], err.text);
            probe_leave(c);
            cr_assert(!probe.why[0], "%s, operands %d: %s", list.s[k], how, probe.why);
            tape_free(&t), kvt_config_free(c);
        }
        world_free(w);
    }
}

/* A prompt as long as the window, or shorter: nothing is chosen. */
FOR_EVERY_POLICY(degenerate, a_prompt_within_the_window_stays_whole)
{
    static const char *const half[] = {"0.5"};
    const kvt_policy *p = kvt_policy_at(*i);
    world *w = world_make(&usual, 13);

    specs_of(p, &list);
    for (uint32_t k = 0; k < list.n_core; k++)
        for (uint32_t window = N; window < N + 6; window += 5) {
            char text[SPEC];
            char *at = strstr(list.s[k], "window=7");
            kvt_config *c;
            kvt_job job;
            kvt_setup setup;
            batch b;
            if (!at) continue;
            snprintf(text, sizeof text, "%.*swindow=%u%s", (int)(at - list.s[k]), list.s[k], window, at + 8);
            c = config_if(p, text);
            if (!c) continue;
            batch_make(&b, w, c, KVT_RULE_SHARE, half, 1, &n_refused);
            kvt__job(c, &b.budget[0], &w->info, 0, 1, &job);
            kvt__setup(p, &job, &setup);
            if (b.n_budget && setup.window) {
                outcome o = run_one(w, text, half[0], KVT_RULE_SHARE);
                size_t at_set = 0;
                for (const uint32_t *s; (s = tape_next(&o.sets, &at_set)) != NULL;)
                    cr_assert((int32_t)s[SET_STEP] > 0 || s[SET_N] == N, "%s: %u held", text, s[SET_N]);
                cr_assert(o.flags & KVT_FLAG_KEPT_ALL, "%s: flags %u", text, o.flags);
                tape_free(&o.sets);
            }
            kvt_config_free(c);
        }
    world_free(w);
}
