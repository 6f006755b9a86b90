/* stack.c - see stack.h. */
#include "stack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_prim.h"

enum {
    STACK_PART = 64,                /* items whose smallest worth is found before they are looked at */
    STACK_SORT = 8                  /* blocks of steps after which segments are sorted again */
};

/* A point of a curve whose policy can be stacked. A policy that chooses once before, hides
 * slots or lets a cache overflow at first has states that no list represents. */
int kvt__stacked(const run_cell *c)
{
    return c->curve && c->online && c->measured && c->setup.stack && !(c->setup.caps & KVT_POLICY_ONESHOT)
        && !c->setup.hide_col && !c->setup.prompt_wait && c->setup.exempt <= c->job.n;
}

/* ---------------------------------------------------------------------- making */

/* Points of one configuration and seed whose lanes have the same tokens. */
static int stack_same(const run_cell *a, const run_cell *b)
{
    return a->config == b->config && a->id.seed == b->id.seed && a->setup.exempt == b->setup.exempt
        && a->setup.full_rows == b->setup.full_rows && a->setup.first == b->setup.first && kvt__n_lanes(a) == kvt__n_lanes(b);
}

/* Capacities of the cells, each once, ascending. */
static void stack_cuts(const run *r, stack *k)
{
    const uint32_t cache = k->all.cache == KVT_ALL ? 0 : k->all.cache;

    for (uint32_t i = 0; i < k->n_cells; i++) {
        const uint32_t x = kvt__defer_capacity(r, &r->cell[k->cell[i]], cache);
        uint32_t at = k->n_cuts;
        while (at > 0 && k->cut[at - 1] >= x)
            at--;
        if (at < k->n_cuts && k->cut[at] == x)
            continue;
        memmove(k->cut + at + 1, k->cut + at, (k->n_cuts - at) * sizeof *k->cut);
        k->cut[at] = x;
        k->n_cuts++;
    }
    for (uint32_t i = 0; i < k->n_cells; i++) {
        const uint32_t x = kvt__defer_capacity(r, &r->cell[k->cell[i]], cache);
        for (k->cut_of[i] = 0; k->cut[k->cut_of[i]] != x;)
            k->cut_of[i]++;
    }
}

static int stack_alloc(const run *r, stack *k)
{
    const uint32_t most = k->cut[k->n_cuts - 1] < r->T ? k->cut[k->n_cuts - 1] : r->T;

    k->row_stride = ((r->T + 15) & ~(size_t)15) + 16;      /* not a power of two: 16 rows are written side by side */
    k->item = malloc((most ? most : 1) * sizeof *k->item);
    k->next = malloc(k->n_cuts * sizeof *k->next);
    k->cls = calloc(r->T, sizeof *k->cls);
    k->tie = malloc(r->T * sizeof *k->tie);
    k->row = malloc(KVT_TILE * k->row_stride * sizeof *k->row);
    k->move = malloc(KVT_TILE * (size_t)(k->n_cuts + 1) * sizeof *k->move);
    k->mass = malloc((size_t)(k->n_cuts + 1) * KVT_TILE * sizeof *k->mass);
    k->lost = malloc((size_t)k->all.n_heads * k->n_cuts * r->G * sizeof *k->lost);
    return k->item && k->next && k->cls && k->tie && k->row && k->move && k->mass && k->lost;
}

/* The tie rule as numbers: kvt__lane_rank() with all worths equal. */
static void stack_ties(const run *r, stack *k)
{
    const run_cell *c = &r->cell[k->all.cell];
    const kvt_ties ties = c->job.ties;
    const int reversed = (c->setup.first == KVT_FIRST_LEAVES) != (ties == KVT_TIES_HIGH);

    for (uint32_t s = 0; s < r->T - c->setup.exempt; s++)
        if (ties == KVT_TIES_SEEDED)
            k->tie[s] = (uint64_t)((1 - kvt_uniform(&c->job, r->L.layer, k->all.cache, KVT_PURPOSE_TIES, c->setup.exempt + s)) * 0x1p+24f) << 32 | s;
        else
            k->tie[s] = reversed ? UINT32_MAX - s : s;
}

/* The prompt is complete: of each capacity the best stay. */
static void stack_start(const run *r, stack *k)
{
    lane *l = &k->all;
    const uint32_t most = k->cut[k->n_cuts - 1];

    l->view.capacity = KVT_NO_LIMIT;
    kvt__lane_start(r, l);
    if (l->n > 0) {
        kvt__lane_worth(r, l, r->N - 1, NULL);
        kvt__lane_rank(l, r->L.layer, r->cell[l->cell].setup.first);
    }
    for (uint32_t i = 0, c = 0; i < l->n; i++) {
        while (c < k->n_cuts && i >= k->cut[c])
            c++;
        k->cls[l->pos[l->order[i]]] = (uint16_t)c;
        if (i < most)
            k->item[k->n_items++] = l->order[i];
    }
}

/* A stack for each lane of a group of cells: cell[0..n-1]. */
static kvt_status stack_group(stacks *s, const uint32_t *cell, uint32_t n, kvt_err *err)
{
    const run *r = s->r;

    for (uint32_t i = 0; i < kvt__n_lanes(&r->cell[cell[0]]); i++) {
        stack *k = &s->s[s->n++];

        k->cell = malloc(n * sizeof *k->cell);
        k->cut_of = malloc(n * sizeof *k->cut_of);
        k->cut = malloc((n + 1) * sizeof *k->cut);
        KVT_TRY(kvt__lane_init(r, &k->all, cell[0], i, err));
        if (k->cell && k->cut_of && k->cut) {
            memcpy(k->cell, cell, n * sizeof *cell);
            k->n_cells = n;
            stack_cuts(r, k);
        }
        if (!k->n_cuts || !stack_alloc(r, k))
            return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for curves of online policies", r->src->path, r->L.layer);
    }
    return KVT_OK;
}

static void stack_start_item(void *arg, uint32_t item, uint32_t thread)
{
    const stacks *s = arg;

    (void)thread;
    stack_ties(s->r, &s->s[item]);
    stack_start(s->r, &s->s[item]);
}

kvt_status kvt__stacks_new(stacks **out, run *r, kvt_err *err)
{
    stacks *s = calloc(1, sizeof *s);
    uint32_t *cell = malloc((r->n_cells ? r->n_cells : 1) * sizeof *cell);
    uint8_t *done = calloc(r->n_cells ? r->n_cells : 1, 1);
    kvt_status st = KVT_OK;
    size_t most = 0;

    *out = s;
    for (uint32_t i = 0; i < r->n_cells; i++)
        most += kvt__stacked(&r->cell[i]) ? kvt__n_lanes(&r->cell[i]) : 0;
    if (s)
        s->s = calloc(most ? most : 1, sizeof *s->s);
    if (!s || !s->s || !cell || !done) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    s->r = r;
    for (uint32_t i = 0; i < r->n_cells; i++) {
        uint32_t n = 0;
        for (uint32_t k = i; k < r->n_cells && kvt__stacked(&r->cell[i]); k++)
            if (!done[k] && kvt__stacked(&r->cell[k]) && stack_same(&r->cell[i], &r->cell[k])) {
                cell[n++] = k;
                done[k] = 1;
            }
        if (n > 0)
            KVT_TRY_GOTO(st, stack_group(s, cell, n, err));
    }
    kvt_pool_run(r->pool, s->n, stack_start_item, s);
done:
    free(cell);
    free(done);
    return st;
}

/* -------------------------------------------------------------------- decoding */

typedef float stack_f4 __attribute__((vector_size(16)));

/* Four keys of four steps, from key by key to step by step. */
static void stack_turn(const float *from, float *to, size_t stride)
{
    stack_f4 a, b, c, d, ab, cd;

    memcpy(&a, from, sizeof a);
    memcpy(&b, from + KVT_TILE, sizeof b);
    memcpy(&c, from + 2 * KVT_TILE, sizeof c);
    memcpy(&d, from + 3 * KVT_TILE, sizeof d);
    ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    a = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    c = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    b = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    d = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    memcpy(to, &b, sizeof b);
    memcpy(to + stride, &d, sizeof d);
    b = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    d = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    memcpy(to + 2 * stride, &b, sizeof b);
    memcpy(to + 3 * stride, &d, sizeof d);
}

/* Keys j0 .. j0 + n - 1 of a block: the mean over the lane's heads as lane.c has it. */
static void stack_mean(const stack *k, const float *const *tiles, uint32_t j0, uint32_t n, float out[KVT_TILE * KVT_TILE])
{
    const uint32_t n_heads = k->all.n_heads;

    for (uint32_t j = 0; j < n; j++) {
        const size_t at = (size_t)(j0 + j) * KVT_TILE;
        double sum[KVT_TILE] = { 0 };
        for (uint32_t h = 0; h < n_heads; h++)
            for (uint32_t i = 0; i < KVT_TILE; i++)
                sum[i] += (double)tiles[h][at + i];
        for (uint32_t i = 0; i < KVT_TILE; i++)
            out[j * KVT_TILE + i] = (float)(sum[i] / n_heads);
    }
}

/* The block's rows, by position. The mean over one head is that head. */
static void stack_rows(const run *r, stack *k, const float *const *tiles, uint32_t n_keys)
{
    float mean[KVT_TILE * KVT_TILE] = { 0 };

    for (uint32_t j0 = r->cell[k->all.cell].setup.exempt & ~15u; j0 < n_keys; j0 += KVT_TILE) {
        const int whole = n_keys - j0 >= KVT_TILE;
        const float *from = whole ? tiles[0] + (size_t)j0 * KVT_TILE : mean;

        if (k->all.n_heads > 1 || !whole) {
            stack_mean(k, tiles, j0, whole ? KVT_TILE : n_keys - j0, mean);
            from = mean;
        }
        for (uint32_t j = 0; j < KVT_TILE; j += 4)
            for (uint32_t i = 0; i < KVT_TILE; i += 4)
                stack_turn(from + j * KVT_TILE + i, k->row + i * k->row_stride + j0 + j, k->row_stride);
    }
}

/* Segments in order of position, so that passes read in order; few items move in a block. */
static void stack_sort(stack *k, uint32_t exempt)
{
    const uint16_t *cls = k->cls + exempt;
    const uint32_t n = k->all.n, n_cuts = k->n_cuts;
    uint32_t *next = k->next, *item = k->item;

    for (uint32_t c = 0; c < n_cuts; c++)
        next[c] = c ? k->cut[c - 1] : 0;
    for (uint32_t s = 0; s < n; s++)
        if (cls[s] < n_cuts)
            item[next[cls[s]]++] = s;
}

static void stack_moves(stack *k, uint32_t slot, uint32_t step, uint32_t from, uint32_t to)
{
    if (from != to)
        k->move[k->n_moves++] = (stack_move){ k->all.pos[slot], step, (uint16_t)from, (uint16_t)to };
}

/* Smallest worth of n items. Four chains, so that one need not wait for the other. */
static float stack_low(const float *worth, const uint32_t *item, uint32_t n)
{
    float low[4] = { INFINITY, INFINITY, INFINITY, INFINITY };
    uint32_t j = 0;

    for (; j + 4 <= n; j += 4)
        for (uint32_t i = 0; i < 4; i++)
            low[i] = worth[item[j + i]] < low[i] ? worth[item[j + i]] : low[i];
    for (; j < n; j++)
        low[0] = worth[item[j]] < low[0] ? worth[item[j]] : low[0];
    low[0] = low[1] < low[0] ? low[1] : low[0];
    low[2] = low[3] < low[2] ? low[3] : low[2];
    return low[2] < low[0] ? low[2] : low[0];
}

/* Place of the least of item[begin..end - 1] and *least, or `end`: then that is the least;
 * else *least becomes the item there. Only parts that reach as low are looked at one by one. */
static uint32_t stack_find(const stack *k, uint32_t begin, uint32_t end, uint32_t *least)
{
    const float *worth = k->all.worth;
    float low = worth[*least];
    uint32_t at = end;

    for (uint32_t part = begin; part < end; part += STACK_PART) {
        const uint32_t n = end - part < STACK_PART ? end - part : STACK_PART;
        if (stack_low(worth, k->item + part, n) > low)
            continue;
        for (uint32_t j = part; j < part + n; j++) {
            const uint32_t slot = k->item[j];
            if (worth[slot] > low || (worth[slot] == low && k->tie[slot] < k->tie[*least]))
                continue;
            low = worth[slot];
            *least = slot;
            at = j;
        }
    }
    return at;
}

/* Every capacity loses its least token. `carry` is what the next smaller one has lost; at
 * first the newcomer, which all of them hold. */
static void stack_evict(stack *k, uint32_t carry, uint32_t step)
{
    uint32_t from = 0;

    for (uint32_t c = 0, begin = 0; c < k->n_cuts; begin = k->cut[c++]) {
        const uint32_t end = k->cut[c];
        uint32_t least = carry, at;

        if (k->n_items < end) {         /* not full: nothing leaves this cache or a larger one */
            k->item[k->n_items++] = carry;
            stack_moves(k, carry, step, from, c);
            return;
        }
        at = stack_find(k, begin, end, &least);
        if (at == end)
            continue;
        k->item[at] = carry;
        stack_moves(k, carry, step, from, c);
        carry = least;
        from = c;
    }
    stack_moves(k, carry, step, from, k->n_cuts);
}

/* Evicted mass of one head at every cut: sums by segment as they were before the block, then
 * every move puts the later steps right. What leaves a sum leaves it exactly. */
static void stack_measure(const run *r, stack *k, uint32_t head, const float *tile, uint32_t t0, uint32_t n)
{
    double sum[KVT_TILE] = { 0 };

    memset(k->mass, 0, (size_t)(k->n_cuts + 1) * KVT_TILE * sizeof *k->mass);
    r->kern->class_mass(tile, r->N + t0 + n, k->cls, k->mass);
    for (uint32_t m = 0; m < k->n_moves; m++) {
        const stack_move *v = &k->move[m];
        const float *a = tile + (size_t)v->pos * KVT_TILE;
        double *from = k->mass + (size_t)v->from * KVT_TILE, *to = k->mass + (size_t)v->to * KVT_TILE;
        for (uint32_t i = v->step + 1; i < n; i++) {
            const double x = kvt_mass(a[i]);
            from[i] -= x;
            to[i] += x;
        }
    }
    for (uint32_t c = k->n_cuts; c-- > 0;) {
        double *lost = k->lost + ((size_t)head * k->n_cuts + c) * r->G + t0;
        for (uint32_t i = 0; i < KVT_TILE; i++)
            sum[i] += k->mass[(size_t)(c + 1) * KVT_TILE + i];
        for (uint32_t i = 0; i < n; i++)
            lost[i] = sum[i];
    }
}

static void stack_block(void *arg, uint32_t item, uint32_t thread)
{
    const stacks *s = arg;
    const run *r = s->r;
    stack *k = &s->s[item];
    lane *l = &k->all;
    const uint32_t exempt = r->cell[l->cell].setup.exempt, t0 = s->block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
    const float *tiles[KVT_MAX_HEADS];

    (void)thread;
    for (uint32_t h = 0; h < l->n_heads; h++)
        tiles[h] = kvt__lane_tile(r, l->head0 + h, s->block);
    stack_rows(r, k, tiles, r->N + t0 + n);
    if (s->block % STACK_SORT == 0)
        stack_sort(k, exempt);
    k->n_moves = 0;
    for (uint32_t i = 0; i < n && l->status == KVT_OK; i++) {
        const float *row = k->row + i * k->row_stride + exempt;
        const uint32_t p = r->N + t0 + i;
        kvt__lane_enter(r, l, p);
        kvt__lane_observe(r, l, p, row);
        kvt__lane_worth(r, l, p, row);
        stack_evict(k, l->n - 1, i);
    }
    for (uint32_t h = 0; h < l->n_heads; h++)
        stack_measure(r, k, h, tiles[h], t0, n);
    for (uint32_t m = 0; m < k->n_moves; m++)
        k->cls[k->move[m].pos] = k->move[m].to;
}

void kvt__stacks_block(stacks *s, uint32_t block)
{
    s->block = block;
    kvt_pool_run(s->r->pool, s->n, stack_block, s);
}

/* ------------------------------------------------------------------------ end */

/* Of a point of a curve nobody asks what kind of entry was lost: all of it stands as one. */
static void stack_deliver(const run *r, const stack *k)
{
    for (uint32_t i = 0; i < k->n_cells; i++)
        for (uint32_t h = 0; h < k->all.n_heads; h++) {
            const double *lost = k->lost + ((size_t)h * k->n_cuts + k->cut_of[i]) * r->G;
            double *part = r->cell[k->cell[i]].part + (size_t)(k->all.head0 + h) * r->G * N_PARTS;
            for (uint32_t t = 0; t < r->G; t++)
                part[(size_t)t * N_PARTS + PART_SELECTION] = lost[t];
        }
}

kvt_status kvt__stacks_end(stacks *s, kvt_err *err)
{
    for (uint32_t i = 0; i < s->n; i++) {
        KVT_TRY(kvt__lane_failed(s->r, &s->s[i].all, err));
        stack_deliver(s->r, &s->s[i]);
    }
    return KVT_OK;
}

void kvt__stacks_free(stacks *s)
{
    for (uint32_t i = 0; s && s->s && i < s->n; i++) {
        stack *k = &s->s[i];
        kvt__lane_fini(&k->all);
        free(k->cell), free(k->cut_of), free(k->cut), free(k->item), free(k->next), free(k->cls), free(k->tie), free(k->row), free(k->move);
        free(k->mass), free(k->lost);
    }
    free(s ? s->s : NULL);
    free(s);
}
