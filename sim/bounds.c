/* bounds.c - what was possible at all, per query head: the per-step oracle and the best
 * fixed set in hindsight, at every count that some cell holds.
 *
 * Two families of sets: `prompt` (the prompt competes, generated entries are never at
 * risk) and `all` (everything but the newcomer competes). Counts are shared by all heads
 * of a layer: one sorted list per family. */
#include "replay_impl.h"
#include "row_oracle.h"

#include <stdlib.h>
#include <string.h>

uint32_t kvt__held(const run *r, const run_cell *c, uint32_t head)
{
    (void)r;
    return c->n_held[kvt__cache_of(c, head)];
}

static int bounds_cmp(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Distinct counts of the cells of one family, ascending. The best fixed set by KV head
 * is chosen later, but how many it holds is known now (kvt__jobs). */
static kvt_status bounds_counts(const run *r, int online, uint32_t **out, uint32_t *n_out, kvt_err *err)
{
    size_t cap = KVT_LADDER_ANCHORS;
    uint32_t *x, n = 0, m = 0;
    int minimax = 0;

    for (uint32_t i = 0; i < r->n_cells; i++) {
        cap += r->cell[i].job.n_caches;
        minimax |= r->cell[i].minimax;
    }
    x = malloc((cap ? cap : 1) * sizeof *x);
    if (!x)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_cells; i++) {
        const run_cell *c = &r->cell[i];
        if (!c->measured || c->online != online || (c->curve && !c->bound))
            continue;
        for (uint32_t k = 0; k < c->job.n_caches; k++)
            x[n++] = c->n_held[k];
    }
    if (minimax && !online)
        n += kvt__ladder_anchors(r, x + n);
    qsort(x, n, sizeof *x, bounds_cmp);
    for (uint32_t i = 0; i < n; i++)
        if (m == 0 || x[m - 1] != x[i])
            x[m++] = x[i];
    *out = x;
    *n_out = m;
    return KVT_OK;
}

static uint32_t bounds_find(const uint32_t *list, uint32_t n, uint32_t value)
{
    uint32_t lo = 0, hi = n;

    while (lo + 1 < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (list[mid] <= value)
            lo = mid;
        else
            hi = mid;
    }
    KVT_ASSERT(n > 0 && list[lo] == value);
    return lo;
}

/* What one head is measured with. */
typedef struct bounds_buf {
    kvt_row_oracle *oracle;
    float    *rows;                 /* [16][stride] the rows of a tile                */
    size_t    stride;
    uint64_t *lost;                 /* [counts of the longer list] in 2^-40           */
} bounds_buf;

static void bounds_buf_free(bounds_buf *w)
{
    kvt_row_oracle_free(w->oracle);
    free(w->rows), free(w->lost);
}

/* An odd number of lines between rows: the same key of 16 rows then lies in 16 sets of a
 * cache. */
static kvt_status bounds_buf_alloc(const run *r, bounds_buf *w, kvt_err *err)
{
    const size_t n_count = r->L.n_b_prompt > r->L.n_b_all ? r->L.n_b_prompt : r->L.n_b_all;

    w->stride = (((size_t)r->T + 127) & ~(size_t)127) + KVT_TILE;
    w->oracle = kvt_row_oracle_new(r->T);
    w->rows = malloc(KVT_TILE * w->stride * sizeof *w->rows);
    w->lost = malloc((n_count + 1) * sizeof *w->lost);
    if (w->oracle && w->rows && w->lost)
        return KVT_OK;
    return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for the oracle; use a smaller -j", r->src->path, r->L.layer);
}

typedef float  bounds_f4 __attribute__((vector_size(16)));
typedef double bounds_d4 __attribute__((vector_size(32)));

/* col[j] += every row's entry j, row after row. */
static void bounds_columns(const bounds_buf *w, uint32_t n_rows, uint32_t n_keys, double *col)
{
    uint32_t j = 0;

    for (; j + 4 <= n_keys; j += 4) {
        bounds_d4 sum;
        memcpy(&sum, col + j, sizeof sum);
        for (uint32_t i = 0; i < n_rows; i++) {
            bounds_f4 a;
            memcpy(&a, w->rows + i * w->stride + j, sizeof a);
            sum += __builtin_convertvector(a, bounds_d4);
        }
        memcpy(col + j, &sum, sizeof sum);
    }
    for (; j < n_keys; j++)
        for (uint32_t i = 0; i < n_rows; i++)
            col[j] += (double)w->rows[i * w->stride + j];
}

/* What the per-step oracle evicts at step t, split at the sinks: an entry is evicted when
 * at least `keep` entries are larger, or equal and at a lower position. above[s]: how many
 * are larger than sink s; lost: by the list of the prompt. */
static void bounds_split_oracle(run *r, uint32_t head, uint32_t t, const float *row, const uint32_t *above, const uint64_t *lost)
{
    const uint32_t n_sink = r->N < KVT_N_SINK ? r->N : KVT_N_SINK;

    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        double *part, all;
        uint32_t keep;
        if (!c->bound || !c->measured || c->curve)
            continue;
        keep = kvt__held(r, c, head);
        part = c->part + ((size_t)head * r->G + t) * N_PARTS;
        for (uint32_t s = 0; s < n_sink; s++) {
            uint32_t before = above[s];
            for (uint32_t q = 0; q < s; q++)
                before += row[q] == row[s];
            if (before >= keep)
                part[PART_SINK] += kvt_mass(row[s]);
        }
        all = (double)lost[bounds_find(r->L.b_prompt, r->L.n_b_prompt, keep)] * 0x1p-40;
        part[PART_LATE] = all > part[PART_SINK] ? all - part[PART_SINK] : 0;
    }
}

/* Both families of one row, at every count. */
static void bounds_oracle_row(run *r, uint32_t head, uint32_t t, const float *row, int any_bound, bounds_buf *w)
{
    layer_run *L = &r->L;
    const uint32_t n_sink = r->N < KVT_N_SINK ? r->N : KVT_N_SINK;
    uint32_t above[KVT_N_SINK];

    kvt_row_oracle_start(w->oracle, r->N + t);
    if (L->n_b_prompt) {
        uint32_t *out = L->oracle_prompt + (size_t)head * L->n_b_prompt * r->G + t;
        kvt_row_oracle_more(w->oracle, row, r->N);
        kvt_row_oracle_lost(w->oracle, row, L->b_prompt, L->n_b_prompt, w->lost, row, any_bound ? n_sink : 0, above);
        for (uint32_t k = 0; k < L->n_b_prompt; k++)
            out[(size_t)k * r->G] = kvt_q31((double)w->lost[k] * 0x1p-40);
        if (any_bound)
            bounds_split_oracle(r, head, t, row, above, w->lost);
    }
    if (L->n_b_all) {
        uint32_t *out = L->oracle_all + (size_t)head * L->n_b_all * r->G + t;
        kvt_row_oracle_more(w->oracle, row, r->N + t);
        kvt_row_oracle_lost(w->oracle, row, L->b_all, L->n_b_all, w->lost, NULL, 0, NULL);
        for (uint32_t k = 0; k < L->n_b_all; k++)
            out[(size_t)k * r->G] = kvt_q31((double)w->lost[k] * 0x1p-40);
    }
}

/* Column sums and oracles of one head. */
static void bounds_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;
    double *col = r->L.col + (size_t)head * r->T;
    bounds_buf w = { 0 };
    int any_bound = 0;

    r->item_status[head] = bounds_buf_alloc(r, &w, &r->item_err[head]);
    for (uint32_t i = 0; i < r->n_cells; i++)
        any_bound |= r->cell[i].bound && r->cell[i].measured;
    for (uint32_t b = 0; b < r->n_blocks && r->item_status[head] == KVT_OK; b++) {
        const float *tile = kvt__tile(r, head, b, r->scratch[thread]);
        const uint32_t t0 = b * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
        kvt_row_oracle_lanes(tile, r->N + t0 + n, w.stride, w.rows);
        bounds_columns(&w, n, r->N + t0, col);
        for (uint32_t j = r->N + t0; j < r->N + t0 + n; j++)
            for (uint32_t i = 0; i < n; i++)
                if (j != r->N + t0 + i)          /* the newcomer is not at risk */
                    col[j] += (double)w.rows[i * w.stride + j];
        for (uint32_t i = 0; i < n; i++)
            bounds_oracle_row(r, head, t0 + i, w.rows + i * w.stride, any_bound, &w);
    }
    bounds_buf_free(&w);
}

/* Class of key j: index of the smallest count whose best fixed set holds it. */
static kvt_status bounds_fixed_classes(const double *col, uint32_t n, const uint32_t *count, uint32_t n_count,
                                       uint16_t *cls, kvt_err *err)
{
    kvt_ranked *x = malloc((2 * (size_t)n + 1) * sizeof *x);

    if (!x)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    kvt_rank_sums(col, n, x, x + n);
    for (uint32_t rank = 0, k = 0; rank < n; rank++) {
        while (k < n_count && rank >= count[k])
            k++;
        cls[x[rank].j] = (uint16_t)k;
    }
    free(x);
    return KVT_OK;
}

/* Losses of the best fixed sets of one family, all counts in one pass. */
static kvt_status bounds_fixed(run *r, uint32_t head, uint32_t thread, int all, kvt_err *err)
{
    layer_run *L = &r->L;
    const uint32_t n_count = all ? L->n_b_all : L->n_b_prompt, *count = all ? L->b_all : L->b_prompt;
    const uint32_t n_rank = all ? r->T : r->N;
    uint32_t *out = (all ? L->fixed_all : L->fixed_prompt) + (size_t)head * n_count * r->G;
    double *mass = malloc(((size_t)n_count + 1) * KVT_TILE * sizeof *mass);
    uint16_t *cls = malloc((n_rank ? n_rank : 1) * sizeof *cls);
    kvt_status st = KVT_OK;

    if (!mass || !cls)
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
    else
        st = bounds_fixed_classes(L->col + (size_t)head * r->T, n_rank, count, n_count, cls, err);
    for (uint32_t b = 0; b < r->n_blocks && st == KVT_OK; b++) {
        const float *tile = kvt__tile(r, head, b, r->scratch[thread]);
        const uint32_t t0 = b * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
        memset(mass, 0, ((size_t)n_count + 1) * KVT_TILE * sizeof *mass);
        r->kern->class_mass(tile, all ? r->N + t0 : r->N, cls, mass);
        if (all)                                 /* the diagonal: only what came before the step */
            for (uint32_t i = 1; i < n; i++)
                for (uint32_t j = r->N + t0; j < r->N + t0 + i; j++)
                    mass[(size_t)cls[j] * KVT_TILE + i] += kvt_mass(tile[(size_t)j * KVT_TILE + i]);
        for (uint32_t i = 0; i < n; i++) {
            double lost = 0;
            for (uint32_t k = n_count; k-- > 0;) {
                lost += mass[((size_t)k + 1) * KVT_TILE + i];
                out[(size_t)k * r->G + t0 + i] = kvt_q31(lost);
            }
        }
    }
    free(cls);
    free(mass);
    return st;
}

static void bounds_fixed_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;

    r->item_status[head] = KVT_OK;
    if (r->L.n_b_prompt)
        r->item_status[head] = bounds_fixed(r, head, thread, 0, &r->item_err[head]);
    if (r->item_status[head] == KVT_OK && r->L.n_b_all)
        r->item_status[head] = bounds_fixed(r, head, thread, 1, &r->item_err[head]);
}

int kvt__wants_bounds(const run *r)
{
    for (uint32_t i = 0; i < r->n_cells; i++)
        if ((r->cell[i].measured && !r->cell[i].curve) || r->cell[i].config->policy->caps & (KVT_POLICY_ORACLE | KVT_POLICY_BOUND))
            return 1;
    return 0;
}

static kvt_status bounds_each_head(run *r, void (*work)(void *arg, uint32_t head, uint32_t thread), kvt_err *err)
{
    kvt_pool_run(r->pool, r->L.H, work, r);
    for (uint32_t h = 0; h < r->L.H; h++)
        if (r->item_status[h] < 0) {
            if (err)
                *err = r->item_err[h];
            return r->item_status[h];
        }
    return KVT_OK;
}

kvt_status kvt__bounds(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    const size_t HG = (size_t)L->H * r->G;

    for (uint32_t i = 0; i < r->n_cells; i++)
        if (r->cell[i].bound && r->cell[i].measured && !r->cell[i].curve && !(r->cell[i].part = calloc(HG * N_PARTS, sizeof(double))))
            return kvt_fail(err, KVT_ENOMEM, "out of memory");
    KVT_TRY(bounds_counts(r, 0, &L->b_prompt, &L->n_b_prompt, err));
    KVT_TRY(bounds_counts(r, 1, &L->b_all, &L->n_b_all, err));
    if (L->n_b_prompt > UINT16_MAX || L->n_b_all > UINT16_MAX)
        return kvt_fail(err, KVT_ERANGE, "%s: layer %u: caches hold more than 65,535 distinct counts; use fewer policies or budgets",
                        r->src->path, L->layer);
    L->col = calloc((size_t)L->H * r->T, sizeof *L->col);
    L->oracle_prompt = calloc(HG * L->n_b_prompt + 1, sizeof(uint32_t));
    L->fixed_prompt = calloc(HG * L->n_b_prompt + 1, sizeof(uint32_t));
    L->oracle_all = calloc(HG * L->n_b_all + 1, sizeof(uint32_t));
    L->fixed_all = calloc(HG * L->n_b_all + 1, sizeof(uint32_t));
    if (!L->col || !L->oracle_prompt || !L->fixed_prompt || !L->oracle_all || !L->fixed_all)
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for bounds", r->src->path, L->layer);
    KVT_TRY(bounds_each_head(r, bounds_head, err));
    return bounds_each_head(r, bounds_fixed_head, err);
}

const uint32_t *kvt__oracle_at(const run *r, uint32_t head, uint32_t count)
{
    const layer_run *L = &r->L;

    return L->oracle_prompt + ((size_t)head * L->n_b_prompt + bounds_find(L->b_prompt, L->n_b_prompt, count)) * r->G;
}

const uint32_t *kvt__oracle_of(const run *r, const run_cell *c, uint32_t head)
{
    const layer_run *L = &r->L;
    const uint32_t held = kvt__held(r, c, head);

    return c->online ? L->oracle_all + ((size_t)head * L->n_b_all + bounds_find(L->b_all, L->n_b_all, held)) * r->G
                     : kvt__oracle_at(r, head, held);
}

/* NULL for `all` with leading trivial steps: the set would have to be chosen over the
 * other steps only. */
const uint32_t *kvt__fixed_of(const run *r, const run_cell *c, uint32_t head)
{
    const layer_run *L = &r->L;
    const uint32_t held = kvt__held(r, c, head);

    if (c->online)
        return kvt__n_trivial(r, c) ? NULL
            : L->fixed_all + ((size_t)head * L->n_b_all + bounds_find(L->b_all, L->n_b_all, held)) * r->G;
    return L->fixed_prompt + ((size_t)head * L->n_b_prompt + bounds_find(L->b_prompt, L->n_b_prompt, held)) * r->G;
}
