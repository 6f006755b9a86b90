/* test_stack.c - every capacity from one run. Goal: for every registered form of a policy
 * that declares kvt_setup.stack, the stack decides as a lane of each capacity does: the same
 * kept set after every step, the same losses bit for bit, contents nested. Method: one layer
 * of small traces (one and several query heads per cache, prompts of 17 to 300 tokens,
 * uniform rows, rows of zeros, a learned sink), capacities below, at and above the prompt,
 * every rule for ties; the lanes are the reference. Policies that declare `stack` and break
 * its conditions must be found out by the same comparison. */
#include "policy_specs.h"
#include "stack.h"

static const char *const budgets[] = {"1t", "2t", "3t", "4t", "5t", "7t", "9t", "12t", "15t", "16t", "17t", "18t", "25t", "33t", "40t",
                                      "60t", "61t", "99t", "150t", "299t", "300t", "301t", "380t", "999t"};
enum { N_BUDGETS = sizeof budgets / sizeof *budgets };

typedef struct side {         /* one layer, ready for kvt__lanes()              */
    kvt_source      src;
    kvt_replay_opts opts;
    run             r;
    kvt_budget      budget[N_BUDGETS];
} side;

static void good(kvt_status st, const kvt_err *err) { cr_assert(st == KVT_OK, "%s", err->text); }

static void side_open(side *s, const world *w, const kvt_config *c, uint64_t seed, int curve, uint32_t threads, size_t stage_bytes)
{
    run *r = &s->r;
    kvt_err err = {KVT_OK, ""};

    *s = (side){.opts = {.stage_bytes = stage_bytes}};
    good(kvt_source_open_memory(&s->src, &w->info, w->view, &err), &err);
    r->src = &s->src, r->info = &w->info, r->opts = &s->opts, r->kern = kvt_kernels_find(NULL);
    r->N = w->s.N, r->G = w->s.G, r->T = w->T, r->n_blocks = (r->G + KVT_TILE - 1) / KVT_TILE, r->window = r->n_q = w->s.N;
    r->need = c->policy->needs;
    r->n_layers_full = 1, r->n_heads_all = r->n_heads_most = w->s.Hq, r->n_kv_all = w->s.Hkv;
    good(kvt_pool_new(&r->pool, threads, &err), &err);
    r->cell = calloc(N_BUDGETS, sizeof *r->cell);
    for (uint32_t i = 0; i < N_BUDGETS; i++) {
        run_cell *cell = &r->cell[r->n_cells];
        budget_of(&s->budget[i], budgets[i], KVT_RULE_SHARE);
        if (kvt_plan_check(&w->info, c, &s->budget[i], NULL) < 0) continue;
        *cell = (run_cell){.config = c, .budget = &s->budget[i], .measured = 1, .curve = curve, .score_of = r->n_cells++};
        cell->id.seed = seed;
        kvt__job(c, &s->budget[i], &w->info, 0, 0, &cell->job);
        kvt__setup(c->policy, &cell->job, &cell->setup);
        cell->online = cell->setup.caps & KVT_POLICY_ONLINE && cell->setup.capacity != KVT_NO_LIMIT;
        cell->in_prompt = cell->setup.prompt_stride > 0;
    }
    r->item_status = calloc(N_BUDGETS + w->s.Hq, sizeof *r->item_status);
    r->item_err = calloc(N_BUDGETS + w->s.Hq, sizeof *r->item_err);
    r->scratch = calloc(threads, sizeof *r->scratch);
    r->scratch_bytes = ((size_t)w->s.d + r->T) * KVT_TILE * sizeof(double) + 8 * (size_t)r->T + 128;
    for (uint32_t i = 0; i < threads; i++) r->scratch[i] = aligned_alloc(64, r->scratch_bytes & ~(size_t)63);
    good(kvt__layer_load(r, 0, 0, &err), &err);
    good(kvt__jobs(r, &err), &err);
    good(kvt__choose_sets(r, 0, &err), &err);
    good(kvt__lanes_prompt(r, &err), &err);
    kvt__lane_counts(r);
    good(kvt__rows_all(r, &err), &err);
    for (uint32_t i = 0; i < r->n_cells; i++) r->cell[i].part = calloc((size_t)r->L.H * r->G * N_PARTS, sizeof(double));
}

static void side_close(side *s)
{
    run *r = &s->r;

    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        free(c->kept), free(c->n_held), free(c->n_prompt), free(c->keep), free(c->score), free(c->part);
    }
    kvt__layer_free(r);
    for (uint32_t i = 0; i < kvt_pool_threads(r->pool); i++) free(r->scratch[i]);
    free(r->stage), free(r->scratch), free(r->item_status), free(r->item_err), free(r->cell);
    kvt_pool_free(r->pool);
    kvt_source_close(&s->src);
}

/* ---- the comparison -------------------------------------------------------------------- */

typedef struct verdict { uint32_t n_cells, n_sets, sets, losses, nested, counts; char where[160]; } verdict;

/* Kept sets after every step: what a lane holds has not left it; what the stack holds at a
 * cut lies in a segment up to it. cls: the segments as the moves change them. */
static void compare_block(const run *lanes, const run *r, const stack *k, const uint16_t *before, uint32_t block, verdict *v)
{
    const uint32_t exempt = r->cell[k->all.cell].setup.exempt;
    uint16_t *cls = malloc(r->T * sizeof *cls);
    uint32_t m = 0;

    memcpy(cls, before, r->T * sizeof *cls);
    for (uint32_t t = block * KVT_TILE; t < r->G && t < (block + 1) * KVT_TILE; t++) {
        for (; m < k->n_moves && k->move[m].step == t % KVT_TILE; m++) {
            cr_assert_eq(cls[k->move[m].pos], k->move[m].from);
            cls[k->move[m].pos] = k->move[m].to;
        }
        for (uint32_t i = 0; i < k->n_cells; i++) {
            const lane *l = kvt__lane_of(lanes, k->cell[i], k->all.head0);
            uint32_t held = 0;
            int same = 1;
            for (uint32_t p = exempt; p <= r->N + t; p++) {
                const int here = cls[p] <= k->cut_of[i];
                held += (uint32_t)here;
                same &= here == (l->left[p] > (int32_t)t);
            }
            v->n_sets++;
            v->counts += held != (k->cut[k->cut_of[i]] < r->N + t + 1 - exempt ? k->cut[k->cut_of[i]] : r->N + t + 1 - exempt);
            if (!same && v->sets++ == 0)
                snprintf(v->where, sizeof v->where, "set of %ut, cache %u, step %u", k->cut[k->cut_of[i]], k->all.cache, t);
        }
    }
    cr_assert_eq(m, k->n_moves);
    free(cls);
}

static void compare_losses(const run *lanes, const run *r, const stack *k, verdict *v)
{
    for (uint32_t i = 0; i < k->n_cells; i++)
        for (uint32_t h = 0; h < k->all.n_heads; h++)
            for (uint32_t t = 0; t < r->G; t++) {
                const double *p = lanes->cell[k->cell[i]].part + ((size_t)(k->all.head0 + h) * r->G + t) * N_PARTS;
                const double want = p[0] + p[1] + p[2] + p[3], got = k->lost[((size_t)h * k->n_cuts + k->cut_of[i]) * r->G + t];
                if (memcmp(&want, &got, sizeof want) && v->losses++ == 0 && !v->where[0])
                    snprintf(v->where, sizeof v->where, "loss of %ut, head %u, step %u: %.17g, not %.17g", k->cut[k->cut_of[i]],
                             k->all.head0 + h, t, got, want);
            }
}

/* Separate lanes themselves: a smaller cache loses every token no later than a larger one. */
static void compare_lanes(const run *lanes, verdict *v)
{
    for (uint32_t i = 1; i < lanes->n_cells; i++)
        for (uint32_t h = 0; h < lanes->L.H; h++)
            for (uint32_t p = lanes->cell[i].setup.exempt; p < lanes->T; p++)
                v->nested += kvt__lane_of(lanes, i - 1, h)->left[p] > kvt__lane_of(lanes, i, h)->left[p];
}

/* All zero where no cell of the configuration is stacked. */
static verdict compare(const world *w, const kvt_config *c, uint64_t seed)
{
    side a, b;
    stacks *s = NULL;
    verdict v = {0};
    kvt_err err = {KVT_OK, ""};

    side_open(&a, w, c, seed, 0, 1, 0);
    side_open(&b, w, c, seed, 1, 2, 0);
    for (uint32_t i = 0; i < b.r.n_cells; i++) v.n_cells += (uint32_t)kvt__stacked(&b.r.cell[i]);
    if (v.n_cells) {
        cr_assert_eq(v.n_cells, b.r.n_cells, "%s: some budgets are stacked, some are not", c->info.label);
        cr_assert_eq(b.r.L.n_lanes, 0);
        good(kvt__lanes(&a.r, &err), &err);
        compare_lanes(&a.r, &v);
        good(kvt__stacks_new(&s, &b.r, &err), &err);
        cr_assert_eq(s->n, kvt__n_lanes(&b.r.cell[0]));
        for (uint32_t block = 0; block < b.r.n_blocks; block++) {
            uint16_t *all = malloc(s->n * (size_t)b.r.T * sizeof *all);
            for (uint32_t i = 0; i < s->n; i++) memcpy(all + (size_t)i * b.r.T, s->s[i].cls, b.r.T * sizeof *all);
            kvt__stacks_block(s, block);
            for (uint32_t i = 0; i < s->n; i++) compare_block(&a.r, &b.r, &s->s[i], all + (size_t)i * b.r.T, block, &v);
            free(all);
        }
        for (uint32_t i = 0; i < s->n; i++) compare_losses(&a.r, &b.r, &s->s[i], &v);
        good(kvt__stacks_end(s, &err), &err);
        kvt__stacks_free(s);
    }
    side_close(&a), side_close(&b);
    return v;
}

/* ---- traces ------------------------------------------------------------------------------ */

static const shape worlds[] = {
    {1, 3, 3, 4, 17, 1, 17, 0}, {1, 6, 2, 4, 61, 24, 61, 0}, {1, 3, 1, 4, 40, 80, 40, 0}, {1, 2, 2, 4, 300, 37, 300, 0},
};
enum { N_WORLDS = sizeof worlds / sizeof *worlds, UNIFORM = N_WORLDS, ZEROS, SINKS, N_TRACES };

static float sink_logits[] = {1.5f, -2, 0.25f, 3, 0, 1};

/* The trace number `index`; beside random rows: all entries alike, all but one or two of a row
 * exactly zero, a learned sink. */
static world *trace_of(uint32_t index)
{
    world *w;

    if (index == UNIFORM) return world_equal(&worlds[1]);
    w = world_new(&worlds[index < N_WORLDS ? index : 1], 100 + index);
    for (size_t i = 0; index == ZEROS && i < (size_t)w->s.Hq * w->T * w->s.d; i++) w->q[i] *= 900;
    world_finish(w);
    if (index != SINKS) return w;
    w->layer[0].has_sinks = 1;
    w->layer[0].has |= 1u << KVT_T_SINKS;
    w->view[KVT_T_SINKS] = sink_logits;
    for (uint32_t h = 0; h < w->s.Hq; h++)
        for (uint32_t i = 0; i < w->R; i++) {
            float *lse = &w->data[KVT_T_LSE][(size_t)h * w->R + i];
            *lse = (float)log(exp(*lse) + exp(sink_logits[h]));
        }
    return w;
}

/* ---- every registered form -------------------------------------------------------------- */

static const char *const over[] = {"", "ties=high", "ties=flat", "ties=seeded", "keep_first=3", "keep_last=5"};
enum { N_OVER = sizeof over / sizeof *over };

static specs list;

static int declares(const world *w, const kvt_config *c)
{
    int any = 0;
    for (uint32_t i = 0; i < N_BUDGETS; i++) {
        kvt_budget b;
        kvt_job job;
        kvt_setup s;
        budget_of(&b, budgets[i], KVT_RULE_SHARE);
        kvt__job(c, &b, &w->info, 0, 0, &job);
        kvt__setup(c->policy, &job, &s);
        any |= s.stack && !s.refuse;
    }
    return any;
}

/* Compares every form of a policy on one trace, the core ones under every rule of the engine;
 * returns how many are stacks. */
static uint32_t check_policy(const kvt_policy *p, const world *w, const char *trace)
{
    uint32_t n = 0;

    specs_of(p, &list);
    for (uint32_t k = 0; k < list.n; k++)
        for (uint32_t o = 0; o < (k < list.n_core ? N_OVER : 1); o++) {
            char spec[SPEC + 32];
            kvt_config *c;
            verdict v;
            snprintf(spec, sizeof spec, "%s%s%s", list.s[k], !*over[o] ? "" : strchr(list.s[k], ':') ? "," : ":", over[o]);
            c = config_if(p, spec);
            if (!c) continue;
            v = declares(w, c) ? compare(w, c, 7 + o) : (verdict){0};
            n += declares(w, c);
            cr_assert_eq(v.n_cells > 0, declares(w, c), "%s", spec);
            kvt_config_free(c);
            if (!v.n_cells) break;
            cr_assert(v.n_sets > 0 && !v.sets && !v.losses && !v.counts && !v.nested,
                      "%s, trace %s: %u of %u kept sets and %u losses differ, %u sets have the wrong size, %u lanes are not nested; first: %s",
                      spec, trace, v.sets, v.n_sets, v.losses, v.counts, v.nested, v.where);
        }
    return n;
}

static void check_trace(uint32_t index)
{
    static const char *const must[] = {"h2o", "recency", "streaming", "tova"};
    world *w = trace_of(index);
    char name[16];
    uint32_t found = 0;

    snprintf(name, sizeof name, "%u", index);
    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const kvt_policy *p = kvt_policy_at(i);
        const uint32_t n = p->caps & KVT_POLICY_ONLINE ? check_policy(p, w, name) : 0;
        for (size_t k = 0; k < sizeof must / sizeof *must; k++) found += n > 0 && !strcmp(p->id, must[k]);
    }
    cr_assert_eq(found, sizeof must / sizeof *must, "policies that were stacks are no more");
    world_free(w);
}

Test(stack, decides_as_lanes_of_a_short_prompt, .timeout = 280) { check_trace(0); }
Test(stack, decides_as_lanes_of_several_heads_per_cache, .timeout = 280) { check_trace(1); }
Test(stack, decides_as_lanes_over_more_steps_than_prompt_tokens, .timeout = 280) { check_trace(2); }
Test(stack, decides_as_lanes_of_a_long_prompt, .timeout = 280) { check_trace(3); }
Test(stack, decides_as_lanes_where_all_entries_are_equal, .timeout = 280) { check_trace(UNIFORM); }
Test(stack, decides_as_lanes_where_rows_are_mostly_zero, .timeout = 280) { check_trace(ZEROS); }
Test(stack, decides_as_lanes_beside_a_learned_sink, .timeout = 280) { check_trace(SINKS); }

/* ---- the engine's way -------------------------------------------------------------------- */

/* kvt__lanes() with points of a curve, whose rows are not kept but made again. */
Test(stack, points_of_a_curve_lose_what_their_lanes_lose)
{
    static const char *const spec[] = {"h2o:score_src=full,window=3", "tova:score_src=full", "streaming:impl=online", "recency:mode=decoding", "h2o"};
    world *w = trace_of(1);
    kvt_err err = {KVT_OK, ""};

    for (size_t k = 0; k < sizeof spec / sizeof *spec; k++) {
        kvt_config *c = config_of(spec[k]);
        side a, b;
        side_open(&a, w, c, 1, 0, 1, 0), side_open(&b, w, c, 1, 1, 2, 1);
        good(kvt__lanes(&a.r, &err), &err), good(kvt__lanes(&b.r, &err), &err);
        for (uint32_t i = 0; i < a.r.n_cells; i++)
            for (size_t x = 0; x < (size_t)w->s.Hq * w->s.G; x++) {
                const double *p = a.r.cell[i].part + x * N_PARTS, *q = b.r.cell[i].part + x * N_PARTS;
                cr_assert_eq(p[0] + p[1] + p[2] + p[3], q[0] + q[1] + q[2] + q[3], "%s, cell %u", spec[k], i);
            }
        side_close(&a), side_close(&b);
        kvt_config_free(c);
    }
    world_free(w);
}

/* ---- planted violations ------------------------------------------------------------------ */

static const kvt_policy *honest;
static void liar_setup(const kvt_job *job, kvt_setup *out)
{
    honest->setup(job, out);
    out->stack = 1;
}

/* The policy of a spec that says stack where it should not. */
static verdict lie(const char *spec)
{
    world *w = trace_of(1);
    kvt_config *c = config_of(spec);
    kvt_policy liar = *c->policy;
    verdict v;

    honest = c->policy;
    liar.setup = liar_setup;
    c->policy = &liar;
    v = compare(w, c, 3);
    c->policy = honest;
    kvt_config_free(c);
    world_free(w);
    cr_assert(v.n_cells > 0, "%s was not taken for a stack", spec);
    return v;
}

Test(stack, a_policy_that_renormalises_is_found_out)
{
    const char *const spec[] = {"h2o:recent=0", "tova"};
    for (size_t i = 0; i < 2; i++) {
        const verdict v = lie(spec[i]);
        cr_assert(v.sets > 0 && v.losses > 0, "%s: %u sets and %u losses differ", spec[i], v.sets, v.losses);
    }
}

Test(stack, a_window_in_proportion_to_the_capacity_is_found_out)
{
    const verdict v = lie("h2o:score_src=full,recent=0.5");
    cr_assert(v.sets > 0 && v.losses > 0, "%u sets and %u losses differ", v.sets, v.losses);
}
