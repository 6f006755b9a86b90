/* mass.c - evicted mass of one-shot cells, per query head and step, split by the kind
 * of entry, and the output error where asked.
 *
 * All budgets of one configuration come out of one pass over the rows. Every prompt
 * entry belongs to a class: which budgets keep it, which budgets' window top-B holds
 * it, and whether it is a sink. The kernel sums a row by class, in key order; a cell's
 * loss is the sum of the classes that it evicts. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MASS_KEYS (1u << (2 * KVT_UNIT_BUDGETS + 1))

typedef struct mass_unit {          /* classes of the prompt entries for one unit      */
    uint16_t *cls;                  /* [N]                                             */
    uint32_t *key;                  /* [n_cls]                                         */
    uint32_t  n_cls;
} mass_unit;

typedef struct mass_work {          /* per head at work */
    uint16_t  *map;                 /* [MASS_KEYS] class + 1 of a key, 0 = none        */
    uint32_t  *key;                 /* [n] keys found so far                           */
    mass_unit *unit;                /* [n_units]                                       */
    double    *mass;                /* [most classes][16]                              */
} mass_work;

/* Fills *out; 0: out of memory. */
static int mass_classes(const run *r, const unit *u, uint32_t head, const mass_work *w, mass_unit *out)
{
    const uint32_t *rank = r->L.win_rank + (size_t)head * r->N;
    const uint8_t *kept[KVT_UNIT_BUDGETS];
    uint32_t held[KVT_UNIT_BUDGETS], n_cls = 0;

    out->cls = malloc((size_t)r->N * sizeof *out->cls);
    if (!out->cls)
        return 0;

    for (uint32_t b = 0; b < u->n; b++) {
        const run_cell *c = &r->cell[u->cell[b]];
        kept[b] = kvt__kept_of(r, c, head);
        held[b] = kvt__held(r, c, head);
    }
    for (uint32_t j = 0; j < r->N; j++) {
        uint32_t key = j < KVT_N_SINK;
        for (uint32_t b = 0; b < u->n; b++) {
            key |= (uint32_t)kept[b][j] << (1 + b);
            key |= (uint32_t)(rank[j] < held[b]) << (1 + KVT_UNIT_BUDGETS + b);
        }
        if (!w->map[key]) {
            w->key[n_cls] = key;
            w->map[key] = (uint16_t)++n_cls;
        }
        out->cls[j] = (uint16_t)(w->map[key] - 1);
    }
    for (uint32_t k = 0; k < n_cls; k++)
        w->map[w->key[k]] = 0;
    out->n_cls = n_cls;
    out->key = malloc(n_cls * sizeof *out->key);
    if (out->key)
        memcpy(out->key, w->key, n_cls * sizeof *out->key);
    return out->key != NULL;
}

static void mass_split(const run *r, const unit *u, uint32_t head, uint32_t block, const mass_unit *m, const double *mass)
{
    const uint32_t t0 = block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;

    for (uint32_t b = 0; b < u->n; b++) {
        double *part = r->cell[u->cell[b]].part + ((size_t)head * r->G + t0) * N_PARTS;
        for (uint32_t k = 0; k < m->n_cls; k++) {
            const uint32_t key = m->key[k];
            const uint32_t kind = key & 1u ? PART_SINK : key >> (1 + KVT_UNIT_BUDGETS + b) & 1u ? PART_SELECTION : PART_LATE;
            if (key >> (1 + b) & 1u)
                continue;
            for (uint32_t i = 0; i < n; i++)
                part[(size_t)i * N_PARTS + kind] += mass[(size_t)k * KVT_TILE + i];
        }
    }
}

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
static void mass_output(const run *r, uint32_t head, const float *tile, uint32_t lane, uint32_t n_keys,
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

static void mass_errors(run *r, uint32_t head, uint32_t block, const float *tile)
{
    const layer_run *L = &r->L;
    const uint32_t t0 = block * KVT_TILE;
    double o[KVT_MAX_HEAD_DIM], ok[KVT_MAX_HEAD_DIM], mass;

    for (uint32_t i = 0; i < KVT_TILE && t0 + i < r->G; i += KVT_ERR_EVERY) {
        const uint32_t t = t0 + i, at = t / KVT_ERR_EVERY;
        const double sink = L->sink_share ? L->sink_share[(size_t)head * r->G + t] : 0;
        double norm = 0;
        mass_output(r, head, tile, i, r->N + t + 1, NULL, 0, o, &mass);
        for (uint32_t c = 0; c < L->d_v; c++)
            norm += o[c] * o[c];
        L->o_norm[(size_t)head * r->n_err + at] = sqrt(norm);
        for (uint32_t k = 0; k < r->n_cells; k++) {
            run_cell *c = &r->cell[k];
            const double *part = c->part ? c->part + ((size_t)head * r->G + t) * N_PARTS : NULL;
            if (!c->measured || c->online || c->bound)
                continue;
            mass_output(r, head, tile, i, r->N + t + 1, kvt__kept_of(r, c, head), r->N, ok, &mass);
            kvt__output_error(o, ok, L->d_v, mass + sink, part[PART_SINK] + part[PART_SELECTION] + part[PART_LATE],
                              &c->err[(size_t)head * r->n_err + at], &c->sep[(size_t)head * r->n_err + at]);
        }
    }
}

/* Classes of all units, and room for the masses of the largest. */
static int mass_prepare(const run *r, uint32_t head, mass_work *w)
{
    uint32_t most = 1;

    w->map = calloc(MASS_KEYS, sizeof *w->map);
    w->key = malloc((size_t)(r->N < MASS_KEYS ? r->N : MASS_KEYS) * sizeof *w->key);
    w->unit = calloc(r->n_units ? r->n_units : 1, sizeof *w->unit);
    if (!w->map || !w->key || !w->unit)
        return 0;
    for (uint32_t i = 0; i < r->n_units; i++) {
        if (!mass_classes(r, &r->unit[i], head, w, &w->unit[i]))
            return 0;
        most = w->unit[i].n_cls > most ? w->unit[i].n_cls : most;
    }
    w->mass = malloc((size_t)most * KVT_TILE * sizeof *w->mass);
    return w->mass != NULL;
}

/* A row is evaluated once and summed for every unit while it is in the cache. */
static void mass_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;
    mass_work w = { 0 };

    r->item_status[head] = KVT_OK;
    if (!mass_prepare(r, head, &w))
        r->item_status[head] = kvt_fail(&r->item_err[head], KVT_ENOMEM, "out of memory");
    for (uint32_t b = 0; r->item_status[head] == KVT_OK && b < r->n_blocks; b++) {
        const float *tile = kvt__tile(r, head, b, r->scratch[thread]);

        for (uint32_t i = 0; i < r->n_units; i++) {
            memset(w.mass, 0, (size_t)w.unit[i].n_cls * KVT_TILE * sizeof *w.mass);
            r->kern->class_mass(tile, r->N, w.unit[i].cls, w.mass);
            mass_split(r, &r->unit[i], head, b, &w.unit[i], w.mass);
        }
        if (r->opts->output_error)
            mass_errors(r, head, b, tile);
    }
    for (uint32_t i = 0; w.unit && i < r->n_units; i++) {
        free(w.unit[i].cls);
        free(w.unit[i].key);
    }
    free(w.map), free(w.key), free(w.unit), free(w.mass);
}

kvt_status kvt__mass(run *r, kvt_err *err)
{
    const size_t HG = (size_t)r->L.H * r->G, HE = (size_t)r->L.H * r->n_err;

    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        if (!c->measured || c->bound)
            continue;
        c->part = calloc(HG * N_PARTS, sizeof *c->part);
        if (r->opts->output_error) {
            c->err = malloc((HE ? HE : 1) * sizeof *c->err);
            c->sep = malloc((HE ? HE : 1) * sizeof *c->sep);
        }
        if (!c->part || (r->opts->output_error && (!c->err || !c->sep)))
            return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for losses", r->src->path, r->L.layer);
        for (size_t k = 0; r->opts->output_error && k < HE; k++)
            c->err[k] = c->sep[k] = NAN;
    }
    if (r->opts->output_error && !(r->L.o_norm = calloc(HE ? HE : 1, sizeof *r->L.o_norm)))
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    kvt_pool_run(r->pool, r->L.H, mass_head, r);
    for (uint32_t h = 0; h < r->L.H; h++)
        if (r->item_status[h] < 0) {
            if (err)
                *err = r->item_err[h];
            return r->item_status[h];
        }
    return KVT_OK;
}
