/* lane.c - online policies, step by step: the token enters, its query is measured on
 * the kept set including itself, then scores update, then eviction. A lane's own row is
 * the full-cache row divided by the mass it kept: exact, because the softmax over a
 * subset is the full row restricted and renormalised. */
#include "lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_prim.h"

static int lane_push(lane *l, const uint32_t *words, size_t n)
{
    if (l->n_snap + n > l->cap_snap) {
        const size_t cap = (l->n_snap + n) * 2;
        uint32_t *p = realloc(l->snap, cap * sizeof *p);
        if (!p)
            return 0;
        l->snap = p;
        l->cap_snap = cap;
    }
    memcpy(l->snap + l->n_snap, words, n * sizeof *words);
    l->n_snap += n;
    return 1;
}

/* Remember the kept set after `step` decode steps, where somebody wants it. */
static void lane_snapshot(const run *r, lane *l, uint32_t step)
{
    const uint32_t every = r->opts->kept_every;
    uint32_t head[4] = { step, l->n, 0, 0 };

    if (!r->opts->kept || (step != r->cell[l->cell].config->steps && !(every && step % every == 0)))
        return;
    memcpy(&head[2], &l->last_kept, 4);
    memcpy(&head[3], &l->first_dropped, 4);
    if (!lane_push(l, head, 4) || !lane_push(l, l->pos, l->n))
        l->status = KVT_ENOMEM;
}

/* Keep the best `capacity` slots; among equals the older stays. Closes the gaps. */
static void lane_evict(const run *r, lane *l, int32_t step)
{
    const kvt_policy *p = r->cell[l->cell].config->policy;
    const uint32_t cap = l->view.capacity, n = l->n;
    const kvt_event ev = { .n = n, .pos = l->pos, .prob = step < 0 ? NULL : l->prob };
    uint32_t w = 0;
    float last;

    if (n <= cap)
        return;
    p->worth(&l->view, &ev, l->col, l->worth);
    kvt_rank(l->worth, n, l->order, l->tmp);
    last = cap ? l->worth[l->order[cap - 1]] : NAN;
    l->last_kept = last;
    l->first_dropped = l->worth[l->order[cap]];
    for (uint32_t i = cap; i < n; i++) {
        const uint32_t s = l->order[i], pos = l->pos[s];
        l->left[pos] = step;
        l->left_rank[pos] = i + 1;
        l->left_score[pos] = l->worth[s];
        l->left_margin[pos] = last - l->worth[s];
    }
    for (uint32_t s = 0; s < n; s++) {
        if (l->left[l->pos[s]] != INT32_MAX)
            continue;
        l->pos[w] = l->pos[s];
        for (uint32_t c = 0; c < p->slot_cols; c++)
            l->col[(size_t)c * l->view.cap + w] = l->col[(size_t)c * l->view.cap + s];
        w++;
    }
    l->n = w;
}

/* Evicted mass of one head at step t, by kind, from the gaps between the slots. */
static void lane_measure(const run *r, const lane *l, uint32_t head, uint32_t t, const float *tile, uint32_t i)
{
    const run_cell *c = &r->cell[l->cell];
    const uint32_t *rank = r->L.win_rank + (size_t)head * r->N, held = kvt__held(r, c, head);
    double *part = c->part + ((size_t)head * r->G + t) * N_PARTS;

    for (uint32_t s = 0, j = 0; s < l->n; j = l->pos[s] + 1, s++)
        for (; j < l->pos[s]; j++) {
            const uint32_t kind = j < KVT_N_SINK ? PART_SINK : j >= r->N ? PART_NEW
                                : rank[j] < held ? PART_SELECTION : PART_LATE;
            part[kind] += kvt_mass(tile[(size_t)j * KVT_TILE + i]);
        }
}

static void lane_error(const run *r, const lane *l, uint32_t head, uint32_t t, const float *tile, uint32_t i, double kept_mass)
{
    const layer_run *L = &r->L;
    const run_cell *c = &r->cell[l->cell];
    const float *v = L->v + (size_t)(head / L->group) * r->T * L->d_v;
    const double *part = c->part + ((size_t)head * r->G + t) * N_PARTS;
    const size_t at = (size_t)head * r->n_err + t / KVT_ERR_EVERY;
    double o[KVT_MAX_HEAD_DIM] = { 0 }, ok[KVT_MAX_HEAD_DIM] = { 0 };

    for (uint32_t j = 0, s = 0; j <= r->N + t; j++) {
        const double a = (double)tile[(size_t)j * KVT_TILE + i];
        const int kept = s < l->n && l->pos[s] == j;
        s += (uint32_t)kept;
        for (uint32_t k = 0; k < L->d_v; k++) {
            const double x = a * (double)v[(size_t)j * L->d_v + k];
            o[k] += x;
            if (kept)
                ok[k] += x;
        }
    }
    kvt__output_error(o, ok, L->d_v, kept_mass + (L->sink_share ? L->sink_share[(size_t)head * r->G + t] : 0),
                      part[0] + part[1] + part[2] + part[3], &c->err[at], &c->sep[at]);
}

/* One decode step. tiles[h]: the block's tile of head head0 + h; i: lane in the tile. */
static void lane_step(const run *r, lane *l, uint32_t t, const float *const *tiles, uint32_t i)
{
    const run_cell *c = &r->cell[l->cell];
    const kvt_policy *p = c->config->policy;
    kvt_event ev;

    l->pos[l->n] = r->N + t;
    for (uint32_t k = 0; k < p->slot_cols; k++)
        l->col[(size_t)k * l->view.cap + l->n] = 0;
    l->n++;
    memset(l->mean, 0, l->n * sizeof *l->mean);
    for (uint32_t h = 0; h < l->n_heads; h++) {
        const float *tile = tiles[h];
        /* a learned sink is a key that is always kept */
        const double sink = r->L.sink_share ? r->L.sink_share[(size_t)(l->head0 + h) * r->G + t] : 0;
        double kept = 0;
        for (uint32_t s = 0; s < l->n; s++)
            kept += (double)tile[(size_t)l->pos[s] * KVT_TILE + i];
        for (uint32_t s = 0; s < l->n && kept + sink > 0; s++)
            l->mean[s] += (double)tile[(size_t)l->pos[s] * KVT_TILE + i] / (kept + sink);
        if (!c->measured)
            continue;
        lane_measure(r, l, l->head0 + h, t, tile, i);
        if (r->L.v && t % KVT_ERR_EVERY == 0)
            lane_error(r, l, l->head0 + h, t, tile, i, kept);
    }
    for (uint32_t s = 0; s < l->n; s++)
        l->prob[s] = (float)(l->mean[s] / l->n_heads);
    ev.n = l->n;
    ev.pos = l->pos;
    ev.prob = l->prob;
    if (p->observe)
        p->observe(&l->view, &ev, l->col);
    lane_evict(r, l, (int32_t)t);
    lane_snapshot(r, l, t + 1);
}

/* The prompt is complete: columns get their meaning, the first eviction. */
static void lane_begin(void *arg, uint32_t item, uint32_t thread)
{
    run *r = arg;
    layer_run *L = &r->L;
    lane *l = &L->lane[item];
    run_cell *c = &r->cell[l->cell];
    const kvt_policy *p = c->config->policy;
    const kvt_prompt prompt = { .layer = L->layer, .window = r->window, .win = L->win, .col_sum = L->col_sum, .nu = L->nu };
    kvt_event ev = { .n = r->N, .pos = l->pos, .prob = NULL };

    (void)thread;
    for (uint32_t j = 0; j < r->N; j++)
        l->pos[j] = j;
    for (uint32_t j = 0; j < r->T; j++)
        l->left[j] = INT32_MAX;
    l->n = r->N;
    if (p->begin)
        p->begin(&l->view, &prompt, &ev, l->col);
    lane_evict(r, l, -1);
    lane_snapshot(r, l, 0);
}

typedef struct lane_task { run *r; uint32_t block; } lane_task;

static void lane_rows(void *arg, uint32_t head, uint32_t thread)
{
    const lane_task *t = arg;
    const size_t stride = (size_t)t->r->T * KVT_TILE + (size_t)t->r->L.d * KVT_TILE * 2;

    (void)thread;
    kvt__tile(t->r, head, t->block, t->r->L.one + head * stride);
}

static void lane_block(void *arg, uint32_t item, uint32_t thread)
{
    const lane_task *task = arg;
    run *r = task->r;
    lane *l = &r->L.lane[item];
    const uint32_t t0 = task->block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
    const size_t stride = (size_t)r->T * KVT_TILE + (size_t)r->L.d * KVT_TILE * 2;
    const float *tiles[KVT_MAX_HEADS];

    (void)thread;
    for (uint32_t h = 0; h < l->n_heads; h++)
        tiles[h] = r->L.stage ? kvt__tile(r, l->head0 + h, task->block, NULL) : r->L.one + (l->head0 + h) * stride;
    for (uint32_t i = 0; i < n; i++)
        lane_step(r, l, t0 + i, tiles, i);
}

static kvt_status lane_alloc(const run *r, lane *l, kvt_err *err)
{
    const size_t cap = (size_t)r->T + 1, cols = r->cell[l->cell].config->policy->slot_cols;

    l->view.cap = (uint32_t)cap;
    l->pos = malloc(cap * sizeof *l->pos);
    l->col = calloc((cols ? cols : 1) * cap, sizeof *l->col);
    l->prob = malloc(cap * sizeof *l->prob);
    l->worth = malloc(cap * sizeof *l->worth);
    l->mean = malloc(cap * sizeof *l->mean);
    l->order = malloc(cap * sizeof *l->order);
    l->tmp = malloc(cap * sizeof *l->tmp);
    l->left = malloc(cap * sizeof *l->left);
    l->left_rank = calloc(cap, sizeof *l->left_rank);
    l->left_score = malloc(cap * sizeof *l->left_score);
    l->left_margin = malloc(cap * sizeof *l->left_margin);
    l->last_kept = l->first_dropped = NAN;
    return l->pos && l->col && l->prob && l->worth && l->mean && l->order && l->tmp && l->left && l->left_rank
        && l->left_score && l->left_margin ? KVT_OK : kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for online caches", r->src->path, r->L.layer);
}

static kvt_status lane_make_all(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_cells; i++)
        if (r->cell[i].online)
            n += r->cell[i].setup.share_over == KVT_SPAN_LAYER ? 1 : r->cell[i].job.n_caches;
    L->lane = calloc(n ? n : 1, sizeof *L->lane);
    if (!L->lane)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        const int shared = c->setup.share_over == KVT_SPAN_LAYER;
        for (uint32_t k = 0; c->online && k < (shared ? 1 : c->job.n_caches); k++) {
            lane *l = &L->lane[L->n_lanes++];
            l->cell = i;
            l->cache = shared ? KVT_ALL : k;
            l->n_heads = shared ? L->H : kvt_group(&c->job);
            l->head0 = shared ? 0 : k * l->n_heads;
            l->view = (kvt_lane){ .job = &c->job, .layer = L->layer, .cache = l->cache, .capacity = c->setup.capacity };
            KVT_TRY(lane_alloc(r, l, err));
        }
    }
    return KVT_OK;
}

kvt_status kvt__lanes(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    lane_task task = { r, 0 };

    if (!r->any_online)
        return KVT_OK;
    KVT_TRY(lane_make_all(r, err));
    kvt_pool_run(r->pool, L->n_lanes, lane_begin, r);
    for (uint32_t i = 0; i < L->n_lanes; i++) {          /* ties of the first eviction */
        const lane *l = &L->lane[i];
        run_cell *c = &r->cell[l->cell];
        const uint32_t copies = l->cache == KVT_ALL ? c->job.n_caches : 1;
        c->n_kept_all += (uint64_t)l->n * copies;
        for (uint32_t k = 0; k < l->n && l->n < r->N; k++)
            c->n_tied += copies * (l->worth[l->order[k]] == l->first_dropped);
    }
    for (task.block = 0; task.block < r->n_blocks; task.block++) {
        if (!L->stage)
            kvt_pool_run(r->pool, L->H, lane_rows, &task);
        kvt_pool_run(r->pool, L->n_lanes, lane_block, &task);
    }
    for (uint32_t i = 0; i < L->n_lanes; i++)
        if (L->lane[i].status < 0)
            return kvt_fail(err, L->lane[i].status, "%s: layer %u: out of memory for kept sets", r->src->path, L->layer);
    return KVT_OK;
}

void kvt__lanes_free(run *r)
{
    layer_run *L = &r->L;

    for (uint32_t i = 0; L->lane && i < L->n_lanes; i++) {
        lane *l = &L->lane[i];
        free(l->pos), free(l->col), free(l->prob), free(l->worth), free(l->mean), free(l->order), free(l->tmp);
        free(l->left), free(l->left_rank), free(l->left_score), free(l->left_margin), free(l->snap);
    }
    free(L->lane);
    L->lane = NULL;
    L->n_lanes = 0;
}

const lane *kvt__lane_of(const run *r, uint32_t cell, uint32_t head)
{
    for (uint32_t i = 0; i < r->L.n_lanes; i++) {
        const lane *l = &r->L.lane[i];
        if (l->cell == cell && head >= l->head0 && head < l->head0 + l->n_heads)
            return l;
    }
    return NULL;
}
