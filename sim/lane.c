/* lane.c - online policies, token by token: the token enters, its query is measured on
 * the kept set including itself, then scores update, then eviction. A lane's own row is
 * the full-cache row divided by the mass it kept: exact, because the softmax over a
 * subset is the full row restricted and renormalised. In the prompt the same happens in
 * events of several tokens, where the policy asks for them. */
#include "lane.h"
#include "stack.h"

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

/* Remember the kept set after the token at position p - 1, where somebody wants it. */
static void lane_snapshot(const run *r, lane *l, uint32_t p)
{
    const run_cell *c = &r->cell[l->cell];
    const uint32_t every = r->opts->kept_every, from = c->setup.steps_from;
    const uint32_t exempt = c->setup.exempt < p ? c->setup.exempt : p;
    uint32_t head[4] = { p - from, exempt + l->n, 0, 0 };
    int ok;

    if (!r->opts->kept || !c->online || p < from
        || (p - from != c->config->steps && !(every && (p - from) % every == 0)))
        return;
    memcpy(&head[2], &l->last_kept, 4);
    memcpy(&head[3], &l->first_dropped, 4);
    ok = lane_push(l, head, 4);
    for (uint32_t j = 0; ok && j < exempt; j++)
        ok = lane_push(l, &j, 1);
    if (!ok || !lane_push(l, l->pos, l->n))
        l->status = KVT_ENOMEM;
}

void kvt__lane_rank(lane *l, uint32_t layer, kvt_first first)
{
    const kvt_job *job = l->view.job;
    const uint32_t n = l->n;
    const int reversed = (first == KVT_FIRST_LEAVES) != (job->ties == KVT_TIES_HIGH);
    float *x = l->prob + l->view.cap;           /* [cap] behind prob                      */
    uint32_t *place = l->order + l->view.cap;   /* [cap] behind order                     */

    if (job->ties == KVT_TIES_SEEDED) {
        for (uint32_t s = 0; s < n; s++)
            x[s] = kvt_uniform(job, layer, l->cache, KVT_PURPOSE_TIES, l->pos[s]);
        kvt_rank(x, n, place, l->tmp);
    } else {
        for (uint32_t s = 0; s < n; s++)
            place[s] = reversed ? n - 1 - s : s;
    }
    for (uint32_t s = 0; s < n; s++)
        x[s] = l->worth[place[s]];
    kvt_rank(x, n, l->order, l->tmp);
    for (uint32_t s = 0; s < n; s++)
        l->order[s] = place[l->order[s]];
}

/* The end of that order where one slot leaves: the last two places, without sorting. */
static void lane_rank_last(lane *l, kvt_first first)
{
    const int reversed = (first == KVT_FIRST_LEAVES) != (l->view.job->ties == KVT_TIES_HIGH);
    uint32_t last = 0, next = 1;

    if (l->worth[next] < l->worth[last] || (l->worth[next] == l->worth[last] && !reversed))
        last = 1, next = 0;
    for (uint32_t s = 2; s < l->n; s++) {        /* of equals the later slot leaves, or stays when reversed */
        if (l->worth[s] < l->worth[last] || (l->worth[s] == l->worth[last] && !reversed)) {
            next = last;
            last = s;
        } else if (l->worth[s] < l->worth[next]) {
            next = s;
        }
    }
    l->order[l->n - 1] = last;
    l->order[l->n - 2] = next;
}

void kvt__lane_worth(const run *r, lane *l, uint32_t query, const float *prob)
{
    const run_cell *c = &r->cell[l->cell];
    const kvt_policy *p = c->config->policy;
    const uintptr_t raw = (uintptr_t)l->ws;
    kvt_ws ws = { (unsigned char *)l->ws + (64 - raw % 64) % 64, 0, c->setup.ws_bytes };
    const size_t kv = l->cache == KVT_ALL ? 0 : kvt_kv_head(&c->job, l->cache);
    const int own = prob && query >= r->N && l->cache != KVT_ALL;
    const kvt_event ev = {
        .n = l->n, .pos = l->pos, .query = query, .prob = prob, .n_heads = l->n_heads,
        .q_stride = (size_t)r->G * r->L.d,
        .q = own ? r->L.q + ((size_t)l->head0 * r->G + (query - r->N)) * r->L.d : NULL,
        .key = own ? r->L.k + kv * r->T * r->L.d : NULL,
    };
    int bad = 0;

    p->worth(&l->view, &ev, &ws, l->col, l->worth);
    for (uint32_t s = 0; s < l->n && (c->config->keep_first || c->config->keep_last); s++)
        if (l->pos[s] < c->config->keep_first || query - l->pos[s] < c->config->keep_last)
            l->worth[s] = INFINITY;
    for (uint32_t s = 0; s < l->n; s++)
        bad |= isnan(l->worth[s]);
    if (bad && l->status == KVT_OK) {
        const char *why = p->why ? p->why(p->self) : NULL;
        l->status = KVT_ECHECK;
        if (why) {
            strncpy(l->why, why, sizeof l->why - 1);
        }
    }
}

/* Keep the best `capacity` slots and close the gaps. step: -1 in or after the prompt. */
static void lane_evict(const run *r, lane *l, uint32_t query, int32_t step, const float *prob)
{
    const run_cell *c = &r->cell[l->cell];
    const kvt_policy *p = c->config->policy;
    const uint32_t cap = l->view.capacity, n = l->n;
    uint32_t w = 0;
    float last;

    if (n <= cap || l->status < 0)
        return;
    kvt__lane_worth(r, l, query, prob);
    if (n == cap + 1 && cap > 0 && c->job.ties != KVT_TIES_SEEDED)
        lane_rank_last(l, c->setup.first);
    else
        kvt__lane_rank(l, r->L.layer, c->setup.first);
    last = cap ? l->worth[l->order[cap - 1]] : NAN;
    l->last_kept = last;
    l->first_dropped = l->worth[l->order[cap]];
    for (uint32_t s = 0; !l->evicted && s < n; s++)
        l->n_tied += l->worth[s] == l->first_dropped;
    for (uint32_t i = cap; !l->evicted && i < n; i++)
        l->n_tied -= l->worth[l->order[i]] == l->first_dropped;
    l->evicted = 1;
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
        for (uint32_t k = 0; k < p->slot_cols; k++)
            l->col[(size_t)k * l->view.cap + w] = l->col[(size_t)k * l->view.cap + s];
        w++;
    }
    l->n = w;
}

void kvt__lane_enter(const run *r, lane *l, uint32_t p)
{
    const run_cell *c = &r->cell[l->cell];

    if (p < c->setup.exempt)
        return;
    l->pos[l->n] = p;
    for (uint32_t k = 0; k < c->config->policy->slot_cols; k++)
        l->col[(size_t)k * l->view.cap + l->n] = 0;
    l->n++;
}

static int lane_hidden(const run *r, const lane *l, uint32_t s)
{
    const uint32_t hide = r->cell[l->cell].setup.hide_col;

    return hide && l->col[(size_t)(hide - 1) * l->view.cap + s] != 0;
}

/* Evicted mass of one head at step t, by kind: what is neither exempt nor an attended slot. */
static void lane_measure(const run *r, const lane *l, uint32_t head, uint32_t t, const float *tile, uint32_t i)
{
    const run_cell *c = &r->cell[l->cell];
    const uint32_t *rank = r->L.win_rank + (size_t)head * r->N, held = kvt__held(r, c, head);
    double *part = c->part + ((size_t)head * r->G + t) * N_PARTS;

    for (uint32_t s = 0, j = c->setup.exempt; s < l->n; j = l->pos[s] + 1, s++)
        for (; j < l->pos[s] + (uint32_t)lane_hidden(r, l, s); j++) {
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
        const int slot = s < l->n && l->pos[s] == j;
        const int kept = j < c->setup.exempt || (slot && !lane_hidden(r, l, s));
        s += (uint32_t)slot;
        for (uint32_t k = 0; k < L->d_v; k++) {
            const double x = a * (double)v[(size_t)j * L->d_v + k];
            o[k] += x;
            if (kept)
                ok[k] += x;
        }
    }
    kvt__output_error(o, ok, L->d_v, kept_mass, part[0] + part[1] + part[2] + part[3], &c->err[at], &c->sep[at]);
}

/* prob = row i of the lane's heads, softmax over what is cached and attended (setup.full_rows:
 * over everything), mean over the heads. sink[h * sink_stride]: share of head h's learned sink, a key that is always
 * kept; NULL = none. kept[h]: the mass that is left, sink included. */
static void lane_row(const run *r, lane *l, const float *const *tiles, uint32_t i, const double *sink, size_t sink_stride, double *kept)
{
    const uint32_t exempt = r->cell[l->cell].setup.exempt;
    const int full = r->cell[l->cell].setup.full_rows;

    memset(l->mean, 0, l->n * sizeof *l->mean);
    for (uint32_t h = 0; h < l->n_heads; h++) {
        const float *tile = tiles[h];
        double all = 0;
        for (uint32_t j = 0; j < exempt; j++)
            all += (double)tile[(size_t)j * KVT_TILE + i];
        for (uint32_t s = 0; s < l->n; s++)
            if (!lane_hidden(r, l, s))
                all += (double)tile[(size_t)l->pos[s] * KVT_TILE + i];
        all += sink ? sink[h * sink_stride] : 0;
        for (uint32_t s = 0; s < l->n && all > 0; s++)
            if (!lane_hidden(r, l, s))
                l->mean[s] += (double)tile[(size_t)l->pos[s] * KVT_TILE + i] / (full ? 1 : all);
        kept[h] = all;
    }
    for (uint32_t s = 0; s < l->n; s++)
        l->prob[s] = (float)(l->mean[s] / l->n_heads);
}

void kvt__lane_observe(const run *r, lane *l, uint32_t query, const float *prob)
{
    const kvt_policy *p = r->cell[l->cell].config->policy;
    const kvt_event ev = { .n = l->n, .pos = l->pos, .query = query, .prob = prob, .n_heads = l->n_heads };

    if (p->observe && l->n > 0)
        p->observe(&l->view, &ev, l->col);
}

/* One decode step. tiles[h]: the block's tile of head head0 + h; i: lane in the tile. */
static void lane_step(const run *r, lane *l, uint32_t t, const float *const *tiles, uint32_t i)
{
    const run_cell *c = &r->cell[l->cell];
    double kept[KVT_MAX_HEADS];

    kvt__lane_enter(r, l, r->N + t);
    lane_row(r, l, tiles, i, r->L.sink_share ? r->L.sink_share + (size_t)l->head0 * r->G + t : NULL, r->G, kept);
    for (uint32_t h = 0; c->measured && h < l->n_heads; h++) {
        lane_measure(r, l, l->head0 + h, t, tiles[h], i);
        if (r->opts->output_error && t % KVT_ERR_EVERY == 0)
            lane_error(r, l, l->head0 + h, t, tiles[h], i, kept[h]);
    }
    kvt__lane_observe(r, l, r->N + t, l->prob);
    lane_evict(r, l, r->N + t, (int32_t)t, l->prob);
    lane_snapshot(r, l, r->N + t + 1);
}

/* ------------------------------------------------------------------ the prompt */

/* Is p the last token of its event? The tokens below prompt_first are no event. */
static int lane_event_ends(const kvt_setup *s, uint32_t p)
{
    return p >= s->prompt_first && (p - s->prompt_first + 1) % s->prompt_stride == 0;
}

/* A lane of its own that acts in the prompt. */
static int lane_in_prompt(const run_cell *c)
{
    return c->in_prompt && !kvt__stacked(c);
}

/* Do the queries at positions p0..p0+n-1 matter to anybody? */
static int lane_prompt_needs(const run *r, uint32_t p0, uint32_t n)
{
    for (uint32_t i = 0; i < r->n_cells; i++)
        if (lane_in_prompt(&r->cell[i]) && (!r->cell[i].setup.quiet || p0 + n > r->cell[i].setup.prompt_first))
            return 1;
    return 0;
}

/* The prompt token at position p, row i of the tiles (NULL: nobody looks at it). */
static void lane_prompt_step(const run *r, lane *l, uint32_t p, const float *const *tiles, uint32_t i, const double *sink)
{
    const kvt_setup *s = &r->cell[l->cell].setup;
    double kept[KVT_MAX_HEADS];

    if (p < s->prompt_first)
        l->watching = !s->quiet;
    else if ((p - s->prompt_first) % s->prompt_stride == 0)
        l->watching = !s->quiet || l->n + s->prompt_stride > s->prompt_capacity;
    kvt__lane_enter(r, l, p);
    if (l->watching && l->n > 0) {
        lane_row(r, l, tiles, i, sink ? sink + l->head0 : NULL, 1, kept);
        kvt__lane_observe(r, l, p, l->prob);
    }
    if (lane_event_ends(s, p))
        lane_evict(r, l, p, -1, l->prob);
    if (p + 1 < r->N)
        lane_snapshot(r, l, p + 1);
}

typedef struct lane_task { run *r; uint32_t block; double *sink; } lane_task;

static void lane_prompt_rows(void *arg, uint32_t head, uint32_t thread)
{
    const lane_task *t = arg;

    kvt__prompt_tile(t->r, head, t->block, t->r->L.one + (size_t)head * t->r->N * KVT_TILE, t->r->scratch[thread],
                     t->sink + head * KVT_TILE);
}

static void lane_prompt_block(void *arg, uint32_t item, uint32_t thread)
{
    const lane_task *t = arg;
    run *r = t->r;
    lane *l = &r->L.lane[item];
    const uint32_t p0 = t->block * KVT_TILE, n = r->N - p0 < KVT_TILE ? r->N - p0 : KVT_TILE;
    const float *tiles[KVT_MAX_HEADS];
    double sink[KVT_MAX_HEADS];

    (void)thread;
    if (!r->cell[l->cell].in_prompt)
        return;
    for (uint32_t h = 0; h < l->n_heads; h++)
        tiles[h] = r->L.one + (size_t)(l->head0 + h) * r->N * KVT_TILE;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t h = 0; h < r->L.H; h++)
            sink[h] = t->sink[h * KVT_TILE + i];
        lane_prompt_step(r, l, p0 + i, tiles, i, r->L.info->has_sinks ? sink : NULL);
    }
}

/* What the lanes of fixed sets hold becomes the set of their cell. */
static void lane_prompt_take(run *r)
{
    for (uint32_t i = 0; i < r->L.n_lanes; i++) {
        const lane *l = &r->L.lane[i];
        run_cell *c = &r->cell[l->cell];
        const uint32_t from = l->cache == KVT_ALL ? 0 : l->cache, to = l->cache == KVT_ALL ? c->job.n_caches : l->cache + 1;

        if (!c->in_prompt)
            continue;
        c->flags |= c->setup.flags;
        for (uint32_t k = from; k < to; k++) {
            uint8_t *kept = c->kept + (size_t)k * r->N;
            for (uint32_t j = 0; j < r->N; j++)
                kept[j] = j < c->setup.exempt;
            for (uint32_t s = 0; s < l->n; s++)
                kept[l->pos[s]] = 1;
            c->n_prompt[k] = (c->setup.exempt < r->N ? c->setup.exempt : r->N) + l->n;
            if (!c->online) {
                c->n_held[k] = c->n_prompt[k];
                c->n_kept_all += c->n_held[k];
                c->n_tied += l->n_tied;
            }
        }
        if (!c->online)
            c->last_kept = l->last_kept, c->first_dropped = l->first_dropped;
    }
}

uint32_t kvt__n_lanes(const run_cell *c)
{
    return c->setup.share_over == KVT_SPAN_LAYER ? 1 : c->job.n_caches;
}

kvt_status kvt__lane_init(const run *r, lane *l, uint32_t cell, uint32_t index, kvt_err *err)
{
    const run_cell *c = &r->cell[cell];
    const int shared = c->setup.share_over == KVT_SPAN_LAYER;
    const size_t cap = (size_t)r->T + 1, cols = c->config->policy->slot_cols;

    l->cell = cell;
    l->cache = shared ? KVT_ALL : index;
    l->n_heads = shared ? r->L.H : kvt_group(&c->job);
    l->head0 = shared ? 0 : index * l->n_heads;
    l->view = (kvt_lane){ .job = &c->job, .layer = r->L.layer, .cache = l->cache, .cap = (uint32_t)cap };
    l->pos = malloc(cap * sizeof *l->pos);
    l->col = calloc((cols ? cols : 1) * cap, sizeof *l->col);
    l->prob = malloc(2 * cap * sizeof *l->prob);
    l->worth = malloc(cap * sizeof *l->worth);
    l->mean = malloc(cap * sizeof *l->mean);
    l->order = malloc(2 * cap * sizeof *l->order);
    l->tmp = malloc(cap * sizeof *l->tmp);
    l->ws = malloc(c->setup.ws_bytes + 64);
    l->left = malloc(cap * sizeof *l->left);
    l->left_rank = calloc(cap, sizeof *l->left_rank);
    l->left_score = malloc(cap * sizeof *l->left_score);
    l->left_margin = malloc(cap * sizeof *l->left_margin);
    l->last_kept = l->first_dropped = NAN;
    if (!l->pos || !l->col || !l->prob || !l->worth || !l->mean || !l->order || !l->tmp || !l->ws || !l->left || !l->left_rank
        || !l->left_score || !l->left_margin)
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for online caches", r->src->path, r->L.layer);
    for (uint32_t j = 0; j < r->T; j++)
        l->left[j] = INT32_MAX;
    return KVT_OK;
}

static int lane_wanted(const run_cell *c)
{
    return (c->online || c->in_prompt) && !kvt__stacked(c);
}

static kvt_status lane_make_all(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_cells; i++)
        n += lane_wanted(&r->cell[i]) ? kvt__n_lanes(&r->cell[i]) : 0;
    if (n == 0)
        return KVT_OK;
    L->lane = calloc(n, sizeof *L->lane);
    if (!L->lane)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_cells; i++) {
        const run_cell *c = &r->cell[i];
        for (uint32_t k = 0; lane_wanted(c) && k < kvt__n_lanes(c); k++) {
            lane *l = &L->lane[L->n_lanes++];
            KVT_TRY(kvt__lane_init(r, l, i, k, err));
            l->view.capacity = c->setup.prompt_capacity;
        }
    }
    return KVT_OK;
}

kvt_status kvt__lane_failed(const run *r, const lane *l, kvt_err *err)
{
    const kvt_config *config = r->cell[l->cell].config;

    if (l->status == KVT_ENOMEM)
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for kept sets", r->src->path, r->L.layer);
    if (l->status < 0 && l->why[0])
        return kvt_fail(err, l->status, "policy %s: %s", config->info.label, l->why);
    if (l->status < 0)
        return kvt_fail(err, l->status, "%s: layer %u cache %u: policy %s gave NaN for a slot; operands with NaN or Inf? run: kvtrace verify",
                        r->src->path, r->L.layer, l->cache == KVT_ALL ? 0 : l->cache, config->info.label);
    return KVT_OK;
}

/* First failure of a lane. */
static kvt_status lane_status(const run *r, kvt_err *err)
{
    for (uint32_t i = 0; i < r->L.n_lanes; i++)
        KVT_TRY(kvt__lane_failed(r, &r->L.lane[i], err));
    return KVT_OK;
}

kvt_status kvt__lanes_prompt(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    const uint32_t n_blocks = (r->N + KVT_TILE - 1) / KVT_TILE;
    lane_task task = { r, 0, NULL };
    int any = 0;

    KVT_TRY(lane_make_all(r, err));
    for (uint32_t i = 0; i < r->n_cells; i++)
        any |= lane_in_prompt(&r->cell[i]);
    if (!any)
        return KVT_OK;
    L->one = malloc((size_t)L->H * r->N * KVT_TILE * sizeof *L->one);
    task.sink = calloc((size_t)L->H * KVT_TILE, sizeof *task.sink);
    if (!L->one || !task.sink) {
        free(task.sink);
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for prompt rows", r->src->path, L->layer);
    }
    for (task.block = 0; task.block < n_blocks; task.block++) {
        if (lane_prompt_needs(r, task.block * KVT_TILE, KVT_TILE))
            kvt_pool_run(r->pool, L->H, lane_prompt_rows, &task);
        kvt_pool_run(r->pool, L->n_lanes, lane_prompt_block, &task);
    }
    free(task.sink);
    free(L->one);
    L->one = NULL;
    lane_prompt_take(r);
    return lane_status(r, err);
}

/* ------------------------------------------------------------------- decoding */

/* Slots = what the one-shot choice kept; the others left with its scores. */
static void lane_fill(const run *r, lane *l, const float *score)
{
    const run_cell *c = &r->cell[l->cell];
    const uint8_t *kept = c->kept + (size_t)(l->cache == KVT_ALL ? 0 : l->cache) * r->N;
    float last = INFINITY;

    for (uint32_t j = c->setup.exempt; j < r->N; j++) {
        if (kept[j])
            l->pos[l->n++] = j;
        else
            l->left[j] = -1;
        if (kept[j] && score && score[j] < last)
            last = score[j];
    }
    for (uint32_t j = 0; j < r->N; j++) {
        l->left_score[j] = score ? score[j] : NAN;
        l->left_margin[j] = score && last < INFINITY ? last - score[j] : NAN;
    }
    if (score) {
        kvt_rank(score, r->N, l->order, l->tmp);
        for (uint32_t i = 0; i < r->N; i++)
            l->left_rank[l->order[i]] = i + 1;
    }
}

void kvt__lane_start(const run *r, lane *l)
{
    const run_cell *c = &r->cell[l->cell];
    const kvt_policy *p = c->config->policy;
    const uint32_t first = l->cache == KVT_ALL ? 0 : l->cache;
    const float *score = r->cell[c->score_of].score;
    const float *own = score ? score + (size_t)first * r->N : NULL;
    kvt_prompt prompt;

    lane_fill(r, l, own);
    if (p->begin) {
        const kvt_event ev = { .n = l->n, .pos = l->pos, .query = r->N - 1, .n_heads = l->n_heads };
        kvt__prompt_view(r, NULL, &prompt);
        p->begin(&l->view, &prompt, own, &ev, l->col);
    }
}

/* The prompt is complete: columns get their meaning, the first eviction. */
static void lane_begin(void *arg, uint32_t item, uint32_t thread)
{
    run *r = arg;
    lane *l = &r->L.lane[item];
    const run_cell *c = &r->cell[l->cell];

    (void)thread;
    if (!c->online)
        return;
    l->view.capacity = kvt__defer_capacity(r, c, l->cache == KVT_ALL ? 0 : l->cache);
    if (!c->in_prompt) {
        kvt__lane_start(r, l);
        if (!c->setup.prompt_wait)
            lane_evict(r, l, r->N - 1, -1, NULL);
    }
    lane_snapshot(r, l, r->N);
}

static size_t lane_tile_stride(const run *r)
{
    return (size_t)r->T * KVT_TILE + (size_t)r->L.d * KVT_TILE * 2;
}

const float *kvt__lane_tile(const run *r, uint32_t head, uint32_t block)
{
    return head < r->L.n_staged ? kvt__tile(r, head, block, NULL) : r->L.one + head * lane_tile_stride(r);
}

static void lane_rows(void *arg, uint32_t head, uint32_t thread)
{
    const lane_task *t = arg;

    (void)thread;
    kvt__tile(t->r, head, t->block, t->r->L.one + head * lane_tile_stride(t->r));
}

static void lane_block(void *arg, uint32_t item, uint32_t thread)
{
    const lane_task *task = arg;
    run *r = task->r;
    lane *l = &r->L.lane[item];
    const uint32_t t0 = task->block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
    const float *tiles[KVT_MAX_HEADS];

    (void)thread;
    if (!r->cell[l->cell].online)
        return;
    for (uint32_t h = 0; h < l->n_heads; h++)
        tiles[h] = kvt__lane_tile(r, l->head0 + h, task->block);
    for (uint32_t i = 0; i < n; i++)
        lane_step(r, l, t0 + i, tiles, i);
}

/* Counts of online cells: what the prompt's end left, and the capacity that losses are
 * measured at. Capacities are known before any lane runs. */
void kvt__lane_counts(run *r)
{
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        for (uint32_t k = 0; c->online && k < c->job.n_caches; k++)
            c->n_held[k] = c->setup.exempt + kvt__defer_capacity(r, c, k);
    }
}

/* What the prompt's end left, and the ties of the first eviction. */
static void lane_note(run *r, const lane *l)
{
    run_cell *c = &r->cell[l->cell];
    const uint32_t from = l->cache == KVT_ALL ? 0 : l->cache, to = l->cache == KVT_ALL ? c->job.n_caches : l->cache + 1;

    if (!c->online)
        return;
    c->flags |= c->setup.flags;
    if (!(c->setup.caps & KVT_POLICY_ONESHOT) && !c->in_prompt && !l->evicted && c->setup.exempt == 0)
        c->flags |= KVT_FLAG_KEPT_ALL;
    for (uint32_t k = from; k < to; k++) {
        c->n_prompt[k] = (c->setup.exempt < r->N ? c->setup.exempt : r->N) + l->n;
        c->n_kept_all += c->setup.caps & KVT_POLICY_ONESHOT ? 0 : c->n_prompt[k];
        c->n_tied += l->n_tied;
    }
}

kvt_status kvt__lanes(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    lane_task task = { r, 0, NULL };
    stacks *s = NULL;
    kvt_status st;
    int any = 0;

    for (uint32_t i = 0; i < r->n_cells; i++)
        any |= r->cell[i].online;
    if (!any)
        return KVT_OK;
    KVT_TRY(kvt__stacks_new(&s, r, err));
    kvt_pool_run(r->pool, L->n_lanes, lane_begin, r);
    for (uint32_t i = 0; i < L->n_lanes; i++)
        lane_note(r, &L->lane[i]);
    for (task.block = 0; task.block < r->n_blocks; task.block++) {
        if (L->n_staged < L->H)
            kvt_pool_run(r->pool, L->H, lane_rows, &task);
        kvt_pool_run(r->pool, L->n_lanes, lane_block, &task);
        kvt__stacks_block(s, task.block);
    }
    st = kvt__stacks_end(s, err);
    kvt__stacks_free(s);
    KVT_TRY(st);
    return lane_status(r, err);
}

void kvt__lane_fini(lane *l)
{
    free(l->pos), free(l->col), free(l->prob), free(l->worth), free(l->mean), free(l->order), free(l->tmp), free(l->ws);
    free(l->left), free(l->left_rank), free(l->left_score), free(l->left_margin), free(l->snap);
}

void kvt__lanes_free(run *r)
{
    layer_run *L = &r->L;

    for (uint32_t i = 0; L->lane && i < L->n_lanes; i++)
        kvt__lane_fini(&L->lane[i]);
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
