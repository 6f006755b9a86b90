/* output_error.c - how far the attention output of a head is from that over the full cache,
 * for one-shot cells, every KVT_ERR_EVERY-th step. */
#include "replay_impl.h"

#include <math.h>
#include <string.h>

/* Output error of one cell, head and step; also used by the online lanes through
 * kvt__output_error(). o = sum a v over what is visible; o' the same over what is kept,
 * renormalised; a learned sink stays in the denominator. */
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

/* Attention output of a head at a step, over all keys or over the kept ones. */
static void output_row(const run *r, uint32_t head, const float *tile, uint32_t lane, uint32_t n_keys,
                       const uint8_t *kept, uint32_t n_kept_keys, double *out, double *mass)
{
    const layer_run *L = &r->L;
    const float *v = L->v + (size_t)(head / L->group) * r->T * L->d_v;

    memset(out, 0, L->d_v * sizeof *out);
    *mass = 0;
    for (uint32_t j = 0; j < n_keys; j++) {
        const double a = (double)tile[(size_t)j * KVT_TILE + lane];
        if (kept && j < n_kept_keys && !kept[j])
            continue;
        *mass += a;
        for (uint32_t c = 0; c < L->d_v; c++)
            out[c] += a * (double)v[(size_t)j * L->d_v + c];
    }
}

void kvt__output_errors(run *r, uint32_t head, uint32_t block, const float *tile)
{
    const layer_run *L = &r->L;
    const uint32_t t0 = block * KVT_TILE;
    double o[KVT_MAX_HEAD_DIM], ok[KVT_MAX_HEAD_DIM], mass;

    for (uint32_t i = 0; i < KVT_TILE && t0 + i < r->G; i += KVT_ERR_EVERY) {
        const uint32_t t = t0 + i, at = t / KVT_ERR_EVERY;
        const double sink = L->sink_share ? L->sink_share[(size_t)head * r->G + t] : 0;
        double norm = 0;
        output_row(r, head, tile, i, r->N + t + 1, NULL, 0, o, &mass);
        for (uint32_t c = 0; c < L->d_v; c++)
            norm += o[c] * o[c];
        L->o_norm[(size_t)head * r->n_err + at] = sqrt(norm);
        for (uint32_t k = 0; k < r->n_cells; k++) {
            run_cell *c = &r->cell[k];
            const double *part = c->part ? c->part + ((size_t)head * r->G + t) * N_PARTS : NULL;
            if (!c->measured || c->curve || c->online || c->bound)
                continue;
            output_row(r, head, tile, i, r->N + t + 1, kvt__kept_of(r, c, head), r->N, ok, &mass);
            kvt__output_error(o, ok, L->d_v, mass + sink, part[PART_SINK] + part[PART_SELECTION] + part[PART_LATE],
                              &c->err[(size_t)head * r->n_err + at], &c->sep[(size_t)head * r->n_err + at]);
        }
    }
}
