/* defer.c - sets that need every layer's scores: a ranking over the whole model, or a
 * policy that shares the budget among layers (allot). A first pass over the layers scores
 * these cells and keeps the scores; then all layers are cut. The second pass, which
 * measures, takes the sets from here. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct defer_layer {        /* one cell, one layer                            */
    uint32_t  layer, n_caches;
    float    *score;                /* [n_caches][n]                                  */
    uint8_t  *kept;                 /* [n_caches][n]                                  */
    uint32_t *keep;                 /* [n_caches]                                     */
    uint64_t  keep_layer;
    kvt_chosen chosen;
} defer_layer;

void kvt__defer_free(run *r, run_cell *c)
{
    for (uint32_t l = 0; c->defer && l < r->n_layers_full; l++) {
        defer_layer *d = &c->defer[l];
        free(d->score), free(d->kept), free(d->keep);
    }
    free(c->defer);
    free(c->defer_capacity);
    free(c->defer_stat);
    c->defer = NULL;
    c->defer_capacity = NULL;
    c->defer_stat = NULL;
}

static int defer_wanted(const run_cell *c)
{
    return c->deferred && !kvt__keeps_all(&c->job, &c->setup);
}

/* allot() after layer n_done - 1: counts shrink, capacities are replaced. Layers have the
 * same number of caches (kvt_plan_check). */
static kvt_status defer_allot(run_cell *c, uint32_t n_done, kvt_err *err)
{
    const uint32_t caches = c->defer[0].n_caches;
    const kvt_layers done = { n_done, caches, (const double (*)[KVT_STATS])c->defer_stat };
    uint32_t *keep = malloc((size_t)n_done * caches * sizeof *keep);

    if (!keep)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t l = 0; l < n_done; l++) {
        KVT_ASSERT(c->defer[l].n_caches == caches);
        for (uint32_t k = 0; k < caches; k++) {
            keep[l * caches + k] = c->defer[l].keep[k];
            c->defer_capacity[l * caches + k] = c->setup.capacity;
        }
    }
    c->config->policy->allot(&c->job, &done, keep, c->defer_capacity);
    for (uint32_t i = 0; i < n_done * caches; i++)
        if (keep[i] < c->defer[i / caches].keep[i % caches])
            c->defer[i / caches].keep[i % caches] = keep[i];
    free(keep);
    return KVT_OK;
}

typedef struct defer_task { run *r; const uint32_t *cell; kvt_prompt prompt; } defer_task;

/* Score one cell on the layer at hand. */
static kvt_status defer_score(const defer_task *t, run_cell *c, kvt_err *err)
{
    run *r = t->r;
    defer_layer *d = &c->defer[r->L.slot];
    const uint32_t caches = c->job.n_caches;

    d->layer = r->L.layer;
    d->n_caches = caches;
    d->keep = c->keep = calloc(caches, sizeof *d->keep);
    d->kept = calloc((size_t)caches * r->N, 1);
    if (!d->keep || !d->kept)
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for kept sets", r->src->path, r->L.layer);
    {
        const kvt_status st = kvt__score(r, c, &t->prompt, c->defer_stat + (size_t)r->L.slot * KVT_STATS, err);
        d->score = c->score;
        d->keep_layer = c->keep_layer;
        return st;
    }
}

static void defer_item(void *arg, uint32_t item, uint32_t thread)
{
    const defer_task *t = arg;
    run_cell *c = &t->r->cell[t->cell[item]];
    kvt_status st;

    (void)thread;
    st = defer_score(t, c, &t->r->item_err[item]);
    c->score = NULL;                             /* these belong to c->defer              */
    c->keep = NULL;
    if (st == KVT_OK && c->config->policy->allot && (c->setup.caps & KVT_POLICY_CASCADE || t->r->L.slot + 1 == t->r->n_layers_full))
        st = defer_allot(c, t->r->L.slot + 1, &t->r->item_err[item]);
    t->r->item_status[item] = st;
}

/* Cut all layers of one cell. */
static kvt_status defer_cut(run *r, run_cell *c, kvt_err *err)
{
    uint32_t n_strips = 0, most = 0, n = 0;
    kvt_strip *strip;
    uint32_t *scratch, *held;

    for (uint32_t l = 0; l < r->n_layers_full; l++) {
        n_strips += c->defer[l].n_caches;
        most = c->defer[l].n_caches > most ? c->defer[l].n_caches : most;
    }
    strip = malloc(n_strips * sizeof *strip);
    scratch = malloc((size_t)n_strips * (r->N + 1) * sizeof *scratch);
    held = malloc(most * sizeof *held);
    if (!strip || !scratch || !held) {
        free(strip), free(scratch), free(held);
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory for kept sets of all layers", r->src->path);
    }
    for (uint32_t l = 0; l < r->n_layers_full; l++)
        for (uint32_t k = 0; k < c->defer[l].n_caches; k++)
            strip[n++] = (kvt_strip){ c->defer[l].score + (size_t)k * r->N, c->defer[l].kept + (size_t)k * r->N, c->defer[l].layer, k };
    if (c->setup.rank_over == KVT_SPAN_MODEL)
        kvt_choose_cut(&c->job, c->setup.first, strip, n_strips, c->job.keep_model, scratch);
    for (uint32_t l = 0, at = 0; l < r->n_layers_full; l++) {
        defer_layer *d = &c->defer[l];
        kvt_job job = c->job;

        job.n_caches = d->n_caches;
        if (c->setup.rank_over == KVT_SPAN_LAYER)
            kvt_choose_cut(&job, c->setup.first, &strip[at], d->n_caches, d->keep_layer, scratch);
        for (uint32_t k = 0; c->setup.rank_over == KVT_SPAN_CACHE && k < d->n_caches; k++)
            kvt_choose_cut(&job, c->setup.first, &strip[at + k], 1, d->keep[k], scratch);
        kvt_choose_report(&job, c->setup.rank_over, d->score, d->kept, held, &d->chosen);
        at += d->n_caches;
    }
    for (uint32_t l = 0; c->setup.rank_over == KVT_SPAN_MODEL && l < r->n_layers_full; l++) {    /* one cut for all */
        kvt_chosen *all = &c->defer[0].chosen, *x = &c->defer[l].chosen;
        if (!(all->last_kept <= x->last_kept))
            all->last_kept = isnan(x->last_kept) ? all->last_kept : x->last_kept;
        if (!(all->first_dropped >= x->first_dropped))
            all->first_dropped = isnan(x->first_dropped) ? all->first_dropped : x->first_dropped;
    }
    for (uint32_t l = 0; l < r->n_layers_full; l++) {
        if (c->setup.rank_over == KVT_SPAN_MODEL) {
            c->defer[l].chosen.last_kept = c->defer[0].chosen.last_kept;
            c->defer[l].chosen.first_dropped = c->defer[0].chosen.first_dropped;
        }
    }
    free(strip), free(scratch), free(held);
    return KVT_OK;
}

static kvt_status defer_layer_pass(run *r, uint32_t layer, uint32_t slot, const uint32_t *list, uint32_t n, kvt_err *err)
{
    defer_task t = { r, list, { 0 } };

    KVT_TRY(kvt__layer_load(r, layer, slot, err));
    kvt__prompt_view(r, NULL, &t.prompt);
    for (uint32_t i = 0; i < n; i++) {
        run_cell *c = &r->cell[list[i]];
        kvt__job(c->config, c->budget, r->info, layer, kvt_random_key(c->id.seed, r->info->content_id), &c->job);
        kvt__setup(c->config->policy, &c->job, &c->setup);
    }
    KVT_TRY(kvt__bases(r, list, n, &t.prompt, err));
    kvt_pool_run(r->pool, n, defer_item, &t);
    for (uint32_t i = 0; i < n; i++) {
        free(r->cell[list[i]].base);
        r->cell[list[i]].base = NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        if (r->item_status[i] < 0) {
            if (err)
                *err = r->item_err[i];
            return r->item_status[i];
        }
    return KVT_OK;
}

kvt_status kvt__defer(run *r, kvt_err *err)
{
    uint32_t *list = malloc((r->n_cells ? r->n_cells : 1) * sizeof *list), n = 0, slot = 0;
    kvt_status st = KVT_OK;

    if (!list)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_cells && st == KVT_OK; i++) {
        run_cell *c = &r->cell[i];
        if (!defer_wanted(c))
            continue;
        c->defer = calloc(r->n_layers_full, sizeof *c->defer);
        c->defer_stat = calloc((size_t)r->n_layers_full * KVT_STATS, sizeof *c->defer_stat);
        c->defer_capacity = calloc((size_t)r->n_layers_full * KVT_MAX_HEADS, sizeof *c->defer_capacity);
        list[n++] = i;
        if (!c->defer || !c->defer_stat || !c->defer_capacity)
            st = kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    for (uint32_t l = 0; n > 0 && l < r->info->n_layers && st == KVT_OK; l++) {
        if (r->info->layer[l].attn != KVT_ATTN_FULL)
            continue;
        if (r->opts->cancel && *r->opts->cancel)
            st = kvt_fail(err, KVT_ECANCELLED, "%s: stopped; the same command goes on where this one ended", r->src->path);
        else
            st = defer_layer_pass(r, l, slot++, list, n, err);
        kvt__layer_free(r);
    }
    for (uint32_t i = 0; i < n && st == KVT_OK; i++)
        st = defer_cut(r, &r->cell[list[i]], err);
    memset(&r->L, 0, sizeof r->L);               /* the measuring pass counts heads from 0 */
    free(list);
    return st;
}

void kvt__defer_take(const run *r, run_cell *c)
{
    defer_layer *d = &c->defer[r->L.slot];
    const size_t n = (size_t)d->n_caches * r->N;

    memcpy(c->kept, d->kept, n);
    memset(c->n_held, 0, d->n_caches * sizeof *c->n_held);
    for (size_t i = 0; i < n; i++)
        c->n_held[i / r->N] += c->kept[i];
    c->n_tied += d->chosen.n_tied;
    c->n_kept_all += d->chosen.n_held;
    c->last_kept = d->chosen.last_kept;
    c->first_dropped = d->chosen.first_dropped;
    c->score = d->score;                         /* freed with the cell's layer           */
    d->score = NULL;
}

uint32_t kvt__defer_capacity(const run *r, const run_cell *c, uint32_t cache)
{
    return c->defer && c->config->policy->allot ? c->defer_capacity[(size_t)r->L.slot * c->defer[0].n_caches + cache]
                                                : c->setup.capacity;
}
