/* replay.c - one trace through many policies: layer by layer, all cells together, so
 * that a decode row is evaluated once for all of them. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double replay_now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ------------------------------------------------------------------- plan */

/* A cell as it is planned; whether it is measured is not known yet. */
static run_cell replay_cell(run *r, const kvt_config *config, const kvt_budget *budget, uint64_t seed, uint32_t *needs)
{
    run_cell c = { .config = config, .budget = budget };

    *needs = 0;
    c.id.trace = r->info;
    c.id.trace_path = r->src->path;
    c.id.config = &config->info;
    c.id.budget = &budget->info;
    c.id.seed = seed;
    c.id.requested_tokens = budget->in_tokens ? budget->value : budget->value * r->N;
    for (uint32_t l = r->info->n_layers; l-- > 0;)       /* ends with the first layer that evicts */
        if (r->info->layer[l].attn == KVT_ATTN_FULL) {
            kvt__job(config, budget, r->info, l, 0, &c.job);
            kvt__setup(config->policy, &c.job, &c.setup);
            *needs |= c.setup.needs;
            if (kvt__reads_window(config->policy, &c.job, &c.setup) && c.setup.window > c.window)
                c.window = c.setup.window;
        }
    c.online = c.setup.caps & KVT_POLICY_ONLINE && c.setup.capacity != KVT_NO_LIMIT;
    c.in_prompt = c.setup.prompt_stride > 0;
    c.deferred = c.setup.caps & KVT_POLICY_ONESHOT && (config->policy->allot || c.setup.rank_over == KVT_SPAN_MODEL);
    c.minimax = strcmp(config->policy->id, "oracle_minimax") == 0;
    c.bound = (config->policy->caps & KVT_POLICY_BOUND) != 0 && !c.minimax;
    c.full = strcmp(config->policy->id, "full") == 0;
    c.held_min = UINT32_MAX;
    return c;
}

static void replay_take(run *r, run_cell c, uint32_t needs)
{
    c.score_of = c.base_of = r->n_cells;
    r->need |= needs;
    r->cell[r->n_cells++] = c;
}

static kvt_status replay_add_cell(run *r, const kvt_config *config, const kvt_budget *budget, uint64_t seed, kvt_err *err)
{
    uint32_t needs;
    run_cell c = replay_cell(r, config, budget, seed, &needs);
    int todo = r->sink.ops != NULL;

    kvt_cell_key(&c.id);
    if (todo)
        KVT_TRY(r->sink.ops->claim(r->sink.self, &c.id, &todo, err));
    c.measured = todo;
    if (todo || (r->opts->kept && !c.bound && !c.minimax))   /* or a result is there, and nobody wants the set */
        replay_take(r, c, needs);
    return KVT_OK;
}

/* Curves of a configuration. The full cache loses nothing at any budget; a minimax set is a
 * search per budget and head. */
static kvt_status replay_add_curve(run *r, const kvt_config *config, uint64_t seed, kvt_err *err)
{
    uint32_t point[KVT_CURVE_POINTS_MAX], n, needs;

    if (strcmp(config->policy->id, "full") == 0 || strcmp(config->policy->id, "oracle_minimax") == 0)
        return KVT_OK;
    KVT_TRY(kvt__curve_new(r, config, seed, point, &n, err));
    for (uint32_t i = 0; i < n; i++) {
        run_cell c = replay_cell(r, config, &r->grid[point[i]], seed, &needs);
        c.measured = c.curve = 1;
        c.curve_at = r->n_curves - 1;
        c.point = i;
        replay_take(r, c, needs);
    }
    return KVT_OK;
}

/* Does its result depend on a seed? */
static int replay_draws(const kvt_config *c)
{
    return (c->policy->caps & KVT_POLICY_RANDOM) || c->ties == KVT_TIES_SEEDED;
}

static kvt_status replay_plan(run *r, kvt_err *err)
{
    const kvt_replay_opts *o = r->opts;
    const uint32_t n_seeds = o->n_seeds ? o->n_seeds : 5;
    size_t n_draws = 0;

    for (uint32_t i = 0; i < o->n_config; i++)
        n_draws += replay_draws(o->config[i]) ? n_seeds : 1;
    KVT_TRY(kvt__curve_grid(r, n_draws, err));
    r->cell = calloc(n_draws * ((size_t)o->n_budget + r->n_grid) + 1, sizeof *r->cell);
    if (!r->cell)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < o->n_config; i++) {
        const int random = replay_draws(o->config[i]);
        for (uint32_t b = 0; b < o->n_budget; b++) {
            if (kvt_plan_check(r->info, o->config[i], &o->budget[b], NULL) < 0)
                continue;
            for (uint32_t s = 0; s < (random ? n_seeds : 1); s++)
                KVT_TRY(replay_add_cell(r, o->config[i], &o->budget[b], random ? o->seed + s : 0, err));
        }
        for (uint32_t s = 0; r->n_grid && s < (random ? n_seeds : 1); s++)
            KVT_TRY(replay_add_curve(r, o->config[i], random ? o->seed + s : 0, err));
    }
    return KVT_OK;
}

/* A cell takes its place in the unit, by ascending budget; points come so already. */
static void replay_unit_add(const run *r, unit *u, uint32_t i)
{
    uint32_t at = u->n_named + u->n_curve;

    if (r->cell[i].curve) {
        u->cell[at] = i;
        u->n_curve++;
        return;
    }
    for (; at > 0 && (at > u->n_named || r->cell[u->cell[at - 1]].id.requested_tokens > r->cell[i].id.requested_tokens); at--)
        u->cell[at] = u->cell[at - 1];
    u->cell[at] = i;
    u->n_named++;
}

/* One-shot cells of one configuration and seed, all budgets. */
static kvt_status replay_units(run *r, kvt_err *err)
{
    const size_t most = (size_t)r->opts->n_budget + r->n_grid;

    r->unit = calloc(r->n_cells ? r->n_cells : 1, sizeof *r->unit);
    if (!r->unit)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_cells; i++) {
        const run_cell *c = &r->cell[i];
        unit *u = NULL;
        if (!c->measured || c->online || c->bound)
            continue;
        for (uint32_t k = 0; k < r->n_units && !u; k++) {
            const run_cell *first = &r->cell[r->unit[k].cell[0]];
            if (first->config == c->config && first->id.seed == c->id.seed)
                u = &r->unit[k];
        }
        if (!u) {
            u = &r->unit[r->n_units++];
            if (!(u->cell = malloc(most * sizeof *u->cell)))
                return kvt_fail(err, KVT_ENOMEM, "out of memory");
        }
        replay_unit_add(r, u, i);
    }
    return KVT_OK;
}

/* Prompt rows that some configuration or the violations look at. */
static uint32_t replay_window(const run *r)
{
    uint32_t w = r->info->window < KVT_OBSERVE ? r->info->window : KVT_OBSERVE;

    for (uint32_t i = 0; i < r->n_cells; i++) {
        const run_cell *c = &r->cell[i];
        w = c->window > w ? c->window : w;
    }
    return w < r->info->window ? w : r->info->window;
}

/* -------------------------------------------------------------- memory */

static kvt_status replay_alloc(run *r, kvt_err *err)
{
    uint32_t n_items = r->n_cells, d_max = 1;
    const size_t n_threads = kvt_pool_threads(r->pool);

    for (uint32_t l = 0; l < r->info->n_layers; l++) {
        const kvt_layer_info *x = &r->info->layer[l];
        if (x->attn != KVT_ATTN_FULL)
            continue;
        r->n_layers_full++;
        r->n_heads_all += x->n_heads;
        r->n_kv_all += x->n_kv_heads;
        n_items = x->n_heads > n_items ? x->n_heads : n_items;
        r->n_heads_most = x->n_heads > r->n_heads_most ? x->n_heads : r->n_heads_most;
        d_max = x->d_k > d_max ? x->d_k : d_max;
    }
    r->item_status = calloc(n_items, sizeof *r->item_status);
    r->item_err = calloc(n_items, sizeof *r->item_err);
    r->lse_redone_layers = calloc(r->n_layers_full, 1);
    /* tile or logits of one block, its queries */
    r->scratch_bytes = ((size_t)d_max + r->T) * KVT_TILE * sizeof(double) + 64;
    r->scratch_bytes = (r->scratch_bytes + 63) & ~(size_t)63;
    r->scratch = calloc(n_threads, sizeof *r->scratch);
    if (!r->item_status || !r->item_err || !r->lse_redone_layers || !r->scratch)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (size_t i = 0; i < n_threads; i++)
        if (!(r->scratch[i] = malloc(r->scratch_bytes)))
            return kvt_fail(err, KVT_ENOMEM, "%s: out of memory for %zu threads; use a smaller -j", r->src->path, n_threads);
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        if (!c->measured || c->curve)
            continue;
        c->head = calloc(r->n_heads_all, sizeof *c->head);
        c->kvhead = calloc((size_t)r->n_kv_all * 2, sizeof *c->kvhead);
        c->layer = calloc(r->n_layers_full, sizeof *c->layer);
        c->tau = calloc((size_t)r->n_heads_all * KVT_N_TAU, sizeof *c->tau);
        c->lost_q31 = calloc((size_t)r->n_heads_all * r->G, sizeof *c->lost_q31);
        c->oracle_q31 = calloc((size_t)r->n_heads_all * r->G, sizeof *c->oracle_q31);
        c->ladder = c->minimax ? calloc(r->n_heads_all, sizeof *c->ladder) : NULL;
        c->all_vio = calloc(1, sizeof *c->all_vio);
        if (!c->head || !c->kvhead || !c->layer || !c->tau || !c->lost_q31 || !c->oracle_q31 || !c->all_vio || (c->minimax && !c->ladder))
            return kvt_fail(err, KVT_ENOMEM, "%s: out of memory for the results of %u cells; use fewer policies or budgets",
                            r->src->path, r->n_cells);
    }
    return kvt__curve_alloc(r, err);
}

/* What a cell holds of one layer. */
static void replay_cell_layer_free(run *r)
{
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        for (uint32_t h = 0; c->vio && h < r->L.H; h++)
            kvt__vio_free(&c->vio[h]);
        free(c->kept), free(c->n_held), free(c->n_prompt), free(c->keep), free(c->score);
        free(c->part), free(c->err), free(c->sep), free(c->vio), free(c->base);
        c->kept = NULL, c->n_held = c->n_prompt = c->keep = NULL, c->score = c->base = NULL;
        c->part = c->err = c->sep = NULL, c->vio = NULL;
        c->score_of = c->base_of = i;
    }
}

static void replay_free(run *r)
{
    replay_cell_layer_free(r);
    kvt__layer_free(r);
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        free(c->head), free(c->kvhead), free(c->layer), free(c->tau), free(c->lost_q31), free(c->oracle_q31);
        if (c->all_vio)
            kvt__vio_free(c->all_vio);
        free(c->all_vio);
        kvt__defer_free(r, c);
        kvt__ladder_free(r, c);
    }
    for (uint32_t i = 0; r->scratch && r->pool && i < kvt_pool_threads(r->pool); i++)
        free(r->scratch[i]);
    for (uint32_t i = 0; i < r->n_units; i++)
        free(r->unit[i].cell);
    kvt__curve_free(r);
    free(r->stage);
    free(r->cell), free(r->unit), free(r->scratch), free(r->item_status), free(r->item_err), free(r->lse_redone_layers);
    kvt_pool_free(r->pool);
}

/* ---------------------------------------------------------------- loop */

static kvt_status replay_layer(run *r, uint32_t layer, uint32_t slot, kvt_err *err)
{
    KVT_TRY(kvt__layer_load(r, layer, slot, err));
    KVT_TRY(kvt__jobs(r, err));
    KVT_TRY(kvt__choose_sets(r, 0, err));
    KVT_TRY(kvt__lanes_prompt(r, err));
    kvt__lane_counts(r);
    KVT_TRY(kvt__rows_all(r, err));
    if (kvt__wants_bounds(r)) {
        KVT_TRY(kvt__bounds(r, err));
        KVT_TRY(kvt__ladder(r, err));
        KVT_TRY(kvt__choose_sets(r, 1, err));
    }
    KVT_TRY(kvt__mass(r, err));
    KVT_TRY(kvt__lanes(r, err));
    KVT_TRY(kvt__curve_layer(r, err));
    kvt__series(r);
    KVT_TRY(kvt__violations(r, err));
    for (uint32_t h = 0; h < r->L.H; h++) {
        r->defect_max = r->L.defect[h] > r->defect_max ? r->L.defect[h] : r->defect_max;
        r->lse_redone_layers[slot] |= r->L.lse_redone[h];
    }
    return kvt__gather_layer(r, err);
}

static kvt_status replay_layers(run *r, kvt_err *err)
{
    uint32_t slot = 0;

    for (uint32_t l = 0; l < r->info->n_layers; l++) {
        kvt_status st;
        if (r->info->layer[l].attn != KVT_ATTN_FULL)
            continue;
        if (r->opts->cancel && *r->opts->cancel)
            return kvt_fail(err, KVT_ECANCELLED, "%s: stopped; the same command goes on where this one ended", r->src->path);
        st = replay_layer(r, l, slot++, err);
        replay_cell_layer_free(r);
        kvt__layer_free(r);
        KVT_TRY(st);
        if (r->opts->progress)
            r->opts->progress(r->opts->progress_user, slot, r->n_layers_full);
    }
    return KVT_OK;
}

/* Cells that were claimed and will not be stored say why. */
static void replay_fail_cells(run *r, const char *why)
{
    for (uint32_t i = 0; i < r->n_cells; i++)
        if (r->cell[i].measured && !r->cell[i].curve && r->sink.ops->fail(r->sink.self, &r->cell[i].id, why, NULL) < 0)
            return;
}

kvt_status kvt_replay(kvt_source *src, const kvt_replay_opts *opts, kvt_sink sink, kvt_err *err)
{
    run r = { .src = src, .info = src->info, .opts = opts, .sink = sink };
    const double start_s = replay_now_s();
    long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    kvt_err why = { KVT_OK, "" };
    kvt_status st;

    KVT_TRY(kvt_plan_check_trace(src, err));
    if (opts->output_error)
        KVT_TRY(kvt_plan_check_values(src, err));
    r.N = r.info->n_prompt, r.G = r.info->n_decode, r.T = r.info->n_tokens;
    r.n_blocks = (r.G + KVT_TILE - 1) / KVT_TILE;
    r.n_err = (r.G + KVT_ERR_EVERY - 1) / KVT_ERR_EVERY;
    r.kern = opts->kernels ? opts->kernels : kvt_kernels_find(NULL);
    KVT_TRY_GOTO(st, replay_plan(&r, &why));
    if (r.n_cells == 0)
        goto done;
    KVT_TRY_GOTO(st, replay_units(&r, &why));
    KVT_TRY_GOTO(st, kvt_pool_new(&r.pool, opts->n_threads ? opts->n_threads : (uint32_t)(n_cores > 0 ? n_cores : 1), &why));
    r.window = replay_window(&r);
    r.once = !kvt__wants_bounds(&r);
    for (uint32_t i = 0; i < r.n_cells; i++)
        r.once &= !r.cell[i].online;
    r.n_q = r.need & KVT_NEED_PROMPT ? r.N : r.window;
    KVT_TRY_GOTO(st, replay_alloc(&r, &why));
    KVT_TRY_GOTO(st, kvt__defer(&r, &why));
    KVT_TRY_GOTO(st, replay_layers(&r, &why));
    for (uint32_t i = 0; i < r.n_cells; i++)
        r.cell[i].wall_s = (replay_now_s() - start_s) / r.n_cells;
    KVT_TRY_GOTO(st, kvt__store_cells(&r, &why));
    KVT_TRY_GOTO(st, kvt__store_curves(&r, &why));
done:
    if (st < 0) {
        if (r.sink.ops && r.cell)
            replay_fail_cells(&r, why.text);
        if (err)
            *err = why;
    }
    replay_free(&r);
    return st;
}
