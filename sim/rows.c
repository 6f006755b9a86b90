/* rows.c - decode rows as tiles of 16 steps. The only place where Q.K of a decode step
 * is evaluated.
 *
 * a(p, j) = exp(z - lse) with the stored log-sum-exp. A row that misses 1 by more than
 * 2e-3 rejects the trace; by more than 2e-5: the head's log-sum-exp is recomputed from
 * the operands and noted. */
#define _DEFAULT_SOURCE             /* madvise() */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "kvt_mul.h"

static void rows_queries(const run *r, uint32_t head, uint32_t block, double *qt)
{
    const layer_run *L = &r->L;
    const uint32_t t0 = block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
    const float *q = L->q + ((size_t)head * r->G + t0) * L->d;

    memset(qt, 0, (size_t)L->d * KVT_TILE * sizeof *qt);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < L->d; c++)
            qt[(size_t)c * KVT_TILE + i] = (double)q[(size_t)i * L->d + c];
}

/* Rows of one block into tile[T][16]; keys behind the last step of the block are 0.
 * scratch: d * 16 doubles. */
static void rows_compute(const run *r, uint32_t head, uint32_t block, float *tile, double *scratch)
{
    const layer_run *L = &r->L;
    const uint32_t t0 = block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
    const uint32_t n_keys = r->N + t0 + n;
    double lse[KVT_TILE];
    uint32_t visible[KVT_TILE];

    for (uint32_t i = 0; i < KVT_TILE; i++) {
        lse[i] = i < n ? L->lse[(size_t)head * r->G + t0 + i] : INFINITY;
        visible[i] = i < n ? r->N + t0 + i + 1 : 0;
    }
    rows_queries(r, head, block, scratch);
    const kvt_rows_args a = {
        .qt = scratch, .k = L->k + (size_t)(head / L->group) * r->T * L->d, .n_keys = n_keys, .d = L->d,
        .scale = L->info->scale, .softcap = L->info->softcap, .lse = lse, .n_visible = visible, .tile = tile,
    };
    r->kern->rows(&a);
    memset(tile + (size_t)n_keys * KVT_TILE, 0, (size_t)(r->T - n_keys) * KVT_TILE * sizeof *tile);
}

const float *kvt__tile(const run *r, uint32_t head, uint32_t block, float *scratch)
{
    if (head < r->L.n_staged)
        return r->stage + ((size_t)head * r->n_blocks + block) * r->T * KVT_TILE;
    /* the queries go behind the tile */
    rows_compute(r, head, block, scratch, (double *)(void *)(scratch + (size_t)r->T * KVT_TILE));
    return scratch;
}

/* Replace the log-sum-exp of every decode row of a head by that of its operands.
 * scratch: (d + T) * 16 doubles. */
void kvt__own_lse(const run *r, uint32_t head, double *scratch)
{
    const layer_run *L = &r->L;
    double *qt = scratch, *z = scratch + (size_t)L->d * KVT_TILE;

    for (uint32_t b = 0; b < r->n_blocks; b++) {
        const uint32_t t0 = b * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
        const kvt_rows_args a = {
            .qt = qt, .k = L->k + (size_t)(head / L->group) * r->T * L->d, .n_keys = r->N + t0 + n, .d = L->d,
            .scale = L->info->scale, .softcap = L->info->softcap,
        };
        rows_queries(r, head, b, qt);
        r->kern->logits(&a, z);
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t n_visible = r->N + t0 + i + 1;
            const double sink = L->sink_share ? L->sink_share[(size_t)L->H * r->G + head] : -INFINITY;
            double max = sink, sum = 0;
            for (uint32_t j = 0; j < n_visible; j++)
                max = z[(size_t)j * KVT_TILE + i] > max ? z[(size_t)j * KVT_TILE + i] : max;
            for (uint32_t j = 0; j < n_visible; j++)
                sum += kvt_exp(z[(size_t)j * KVT_TILE + i] - max);
            if (L->sink_share)
                sum += kvt_exp(sink - max);
            L->lse[(size_t)head * r->G + t0 + i] = max + log(sum);
        }
    }
}

/* Largest |row sum - 1| of a head; prompt and non-sink masses on the way. NaN wins. */
static double rows_sums(run *r, uint32_t head, float *scratch, kvt_rows_fn each, void *user, uint32_t *bad_step)
{
    layer_run *L = &r->L;
    double worst = 0;

    for (uint32_t b = 0; b < r->n_blocks; b++) {
        const uint32_t t0 = b * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
        float *tile = scratch;
        double sink[KVT_TILE] = { 0 }, prompt[KVT_TILE] = { 0 }, rest[KVT_TILE] = { 0 };
        const uint32_t n_sink = r->N < KVT_N_SINK ? r->N : KVT_N_SINK;

        if (head < L->n_staged) {
            tile = r->stage + ((size_t)head * r->n_blocks + b) * r->T * KVT_TILE;
            rows_compute(r, head, b, tile, (double *)(void *)(scratch + (size_t)r->T * KVT_TILE));
        } else {
            kvt__tile(r, head, b, scratch);
        }
        for (uint32_t j = 0; j < r->T; j++) {
            double *sum = j < n_sink ? sink : j < r->N ? prompt : rest;
            for (uint32_t i = 0; i < KVT_TILE; i++)
                sum[i] += (double)tile[(size_t)j * KVT_TILE + i];
        }
        for (uint32_t i = 0; i < n; i++) {
            const size_t at = (size_t)head * r->G + t0 + i;
            double defect;
            if (L->sink_share)
                L->sink_share[at] = kvt_exp(L->sink_share[(size_t)L->H * r->G + head] - L->lse[at]);
            L->prompt_mass[at] = sink[i] + prompt[i];
            /* positions below 4 that are generated tokens (a prompt of under 4) are sinks too */
            L->ns_mass[at] = prompt[i] + rest[i];
            for (uint32_t j = n_sink; j < KVT_N_SINK && j < r->T; j++)
                L->ns_mass[at] -= (double)tile[(size_t)j * KVT_TILE + i];
            defect = fabs(sink[i] + prompt[i] + rest[i] + (L->sink_share ? L->sink_share[at] : 0) - 1);
            if (!(defect <= worst)) {
                worst = defect;
                *bad_step = t0 + i;
                if (isnan(defect))
                    return defect;
            }
        }
        if (each)
            each(user, head, b, tile);
    }
    return worst;
}

void kvt__rows_head(run *r, uint32_t head, uint32_t thread, kvt_rows_fn each, void *user)
{
    layer_run *L = &r->L;
    uint32_t step = 0;
    double defect = rows_sums(r, head, r->scratch[thread], each, user, &step);

    r->item_status[head] = KVT_OK;
    if (!(defect <= KVT_DEFECT_BAD)) {
        r->item_status[head] = kvt_fail(&r->item_err[head], KVT_ECHECK,
            "%s: layer %u head %u step %u: the attention row misses 1 by %.3g, expected at most %g; wrong scale, softcap or lse? "
            "run: kvtrace verify", r->src->path, L->layer, head, step, defect, KVT_DEFECT_BAD);
        return;
    }
    if (defect > KVT_DEFECT_REDO) {
        kvt__own_lse(r, head, r->scratch[thread]);
        L->lse_redone[head] = 1;
        defect = rows_sums(r, head, r->scratch[thread], each, user, &step);
    }
    L->defect[head] = defect;
}

static void rows_head(void *arg, uint32_t head, uint32_t thread) { kvt__rows_head(arg, head, thread, NULL, NULL); }

size_t kvt_stage_default(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const size_t most = (size_t)2 << 30;
    const size_t quarter = pages > 0 && page > 0 ? (size_t)pages / 4 * (size_t)page : most;

    return quarter < most ? quarter : most;
}

/* How many heads of this layer have their tiles kept. The memory is taken once, for the
 * layer with the most heads; without it tiles are computed again. */
static void rows_stage(run *r)
{
    const size_t limit = r->opts->stage_bytes ? r->opts->stage_bytes : kvt_stage_default();
    size_t bytes, head_bytes;

    if (!kvt_mul(r->n_blocks, r->T, &head_bytes) || !kvt_mul(head_bytes, KVT_TILE * sizeof(float), &head_bytes))
        return;
    if (!r->stage && head_bytes <= limit) {
        r->n_stage = limit / head_bytes < r->n_heads_most ? (uint32_t)(limit / head_bytes) : r->n_heads_most;
        bytes = (r->n_stage * head_bytes + KVT_HUGE_PAGE - 1) / KVT_HUGE_PAGE * KVT_HUGE_PAGE;
        r->stage = aligned_alloc(KVT_HUGE_PAGE, bytes);
        if (r->stage)
            (void)madvise(r->stage, bytes, MADV_HUGEPAGE);   /* only faster */
    }
    r->L.n_staged = !r->stage ? 0 : r->n_stage < r->L.H ? r->n_stage : r->L.H;
}

kvt_status kvt__rows_all(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    int any_online = 0;

    L->prompt_mass = calloc((size_t)L->H * r->G, sizeof *L->prompt_mass);
    L->ns_mass = calloc((size_t)L->H * r->G, sizeof *L->ns_mass);
    L->defect = calloc(L->H, sizeof *L->defect);
    L->lse_redone = calloc(L->H, 1);
    if (!L->prompt_mass || !L->ns_mass || !L->defect || !L->lse_redone)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    if (r->once)
        return KVT_OK;
    rows_stage(r);
    for (uint32_t i = 0; i < r->n_cells; i++)
        any_online |= r->cell[i].online;
    if (L->n_staged < L->H && any_online) {
        L->one = malloc((size_t)L->H * ((size_t)r->T * KVT_TILE * sizeof(float) + (size_t)L->d * KVT_TILE * sizeof(double)));
        if (!L->one)
            return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for attention rows", r->src->path, L->layer);
    }
    kvt_pool_run(r->pool, L->H, rows_head, r);
    for (uint32_t h = 0; h < L->H; h++)
        if (r->item_status[h] < 0) {
            if (err)
                *err = r->item_err[h];
            return r->item_status[h];
        }
    return KVT_OK;
}
