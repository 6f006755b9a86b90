/* output_error.c - how far the attention output of a head is from that over the full cache,
 * for one-shot cells, every KVT_ERR_EVERY-th step.
 *
 * Sums run over the entries in order, channel by channel in double. A stretch of entries
 * goes through all steps and sets of a block while its values are in the cache. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>

enum { ERROR_KEYS = 512 };

typedef struct error_work {         /* one head and block of steps; set 0 is the full cache */
    const uint8_t **kept;           /* [n_sets] prompt entries, NULL = all            */
    uint32_t *cell;                 /* [n_sets]                                       */
    uint32_t  n_sets, n_steps;
    double   *sum;                  /* [n_sets][n_steps][d_v + 1] outputs, then the mass */
} error_work;

/* o = sum a v over what is visible; o' the same over what is kept, renormalised; a learned
 * sink stays in the denominator. */
void kvt__output_error(const double *o, const double *o_kept, uint32_t d_v, double kept_mass, double lost,
                       double *err, double *sep)
{
    double diff = 0, norm = 0;

    for (uint32_t c = 0; c < d_v; c++) {
        const double e = o[c] - (kept_mass > 0 ? o_kept[c] / kept_mass : 0);
        diff += e * e;
        norm += o[c] * o[c];
    }
    *err = kept_mass > 0 ? sqrt(diff) / sqrt(norm) : 1;
    *sep = lost > 1e-6 ? *err / lost : NAN;
}

static double *error_sum(const run *r, const error_work *w, uint32_t set, uint32_t step)
{
    return w->sum + ((size_t)set * w->n_steps + step) * (r->L.d_v + 1);
}

static int error_sets(const run *r, uint32_t head, uint32_t block, error_work *w)
{
    const uint32_t n = r->G - block * KVT_TILE < KVT_TILE ? r->G - block * KVT_TILE : KVT_TILE;

    w->n_steps = (n + KVT_ERR_EVERY - 1) / KVT_ERR_EVERY;
    w->kept = calloc((size_t)r->n_cells + 1, sizeof *w->kept);
    w->cell = calloc((size_t)r->n_cells + 1, sizeof *w->cell);
    w->n_sets = 1;
    for (uint32_t k = 0; w->kept && w->cell && k < r->n_cells; k++) {
        const run_cell *c = &r->cell[k];
        if (!c->measured || c->curve || c->online || c->bound)
            continue;
        w->kept[w->n_sets] = kvt__kept_of(r, c, head);
        w->cell[w->n_sets++] = k;
    }
    w->sum = calloc((size_t)w->n_sets * w->n_steps * ((size_t)r->L.d_v + 1), sizeof *w->sum);
    return w->kept && w->cell && w->sum;
}

/* Entries j0 .. j0 + n - 1 of one set into its sums; new tokens are always kept. */
static void error_add(const run *r, const float *v, const float *tile, uint32_t t0, uint32_t j0, uint32_t n, uint32_t set, error_work *w)
{
    uint32_t key[ERROR_KEYS], n_key = 0;
    double weight[ERROR_KEYS];

    for (uint32_t j = j0; j < j0 + n; j++) {
        key[n_key] = j;
        n_key += j >= r->N || !w->kept[set] || w->kept[set][j];
    }
    for (uint32_t i = 0; i < w->n_steps; i++) {
        const uint32_t lane = i * KVT_ERR_EVERY, end = r->N + t0 + lane + 1;
        double *sum = error_sum(r, w, set, i), mass = sum[r->L.d_v];
        uint32_t m = 0;

        for (; m < n_key && key[m] < end; m++) {
            weight[m] = (double)tile[(size_t)key[m] * KVT_TILE + lane];
            mass += weight[m];
        }
        sum[r->L.d_v] = mass;
        r->kern->weigh_values(v, r->L.d_v, weight, key, m, sum);
    }
}

static void error_results(run *r, uint32_t head, uint32_t t0, const error_work *w)
{
    const layer_run *L = &r->L;

    for (uint32_t i = 0; i < w->n_steps; i++) {
        const uint32_t t = t0 + i * KVT_ERR_EVERY;
        const double sink = L->sink_share ? L->sink_share[(size_t)head * r->G + t] : 0, *o = error_sum(r, w, 0, i);
        const size_t at = (size_t)head * r->n_err + t / KVT_ERR_EVERY;
        double norm = 0;

        for (uint32_t c = 0; c < L->d_v; c++)
            norm += o[c] * o[c];
        L->o_norm[at] = sqrt(norm);
        for (uint32_t set = 1; set < w->n_sets; set++) {
            run_cell *c = &r->cell[w->cell[set]];
            const double *part = c->part + ((size_t)head * r->G + t) * N_PARTS, *sum = error_sum(r, w, set, i);
            kvt__output_error(o, sum, L->d_v, sum[L->d_v] + sink, part[PART_SINK] + part[PART_SELECTION] + part[PART_LATE],
                              &c->err[at], &c->sep[at]);
        }
    }
}

kvt_status kvt__output_errors(run *r, uint32_t head, uint32_t block, const float *tile, kvt_err *err)
{
    const layer_run *L = &r->L;
    const float *v = L->v + (size_t)(head / L->group) * r->T * L->d_v;
    const uint32_t t0 = block * KVT_TILE;
    error_work w = { 0 };
    uint32_t end;
    kvt_status st = KVT_OK;

    if (!error_sets(r, head, block, &w)) {
        st = kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for output errors", r->src->path, L->layer);
        goto done;
    }
    end = r->N + t0 + (w.n_steps - 1) * KVT_ERR_EVERY + 1;
    for (uint32_t j = 0; j < end; j += ERROR_KEYS)
        for (uint32_t set = 0; set < w.n_sets; set++)
            error_add(r, v, tile, t0, j, end - j < ERROR_KEYS ? end - j : ERROR_KEYS, set, &w);
    error_results(r, head, t0, &w);
done:
    free(w.kept), free(w.cell), free(w.sum);
    return st;
}
