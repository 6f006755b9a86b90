/* mass.c - evicted mass of one-shot cells, per query head and step, split by the kind
 * of entry.
 *
 * All budgets of one configuration come out of one pass over the rows. Prompt entries
 * that fare alike at every budget form a class: what is evicted where, and as what kind
 * of entry. The kernel sums a row by class; a cell's loss is the sum of the classes that
 * it evicts. With nested sets a class is a stretch of ranks, evicted at every budget up to
 * one; nothing here depends on that. A class that is evicted over a run of budgets enters
 * at the first and leaves after the last, and one running sum over the budgets gives all
 * losses: masses are multiples of 2^-40, so what enters leaves exactly. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MASS_KEYS = 4096 };          /* keys of a block: 256 KB of a tile, which stays in L2 over all units */

/* Where a class enters and leaves the running sums of a unit. Rows of sums: for each kind
 * of entry one per named cell and one behind, then one per point and one behind. */
typedef struct mass_run { uint32_t cls, from, to; } mass_run;

typedef struct mass_unit {          /* classes of the prompt entries for one unit      */
    uint16_t *key;                  /* [N] inside each block of keys by class, then by position; from the block's first */
    uint32_t *start;                /* [key blocks][n_cls + 1]                         */
    uint32_t  n_cls;
    mass_run *run;
    uint32_t  n_runs;
    double   *mass;                 /* [n_cls][16] of the block at hand                */
    uint32_t *lost;                 /* [n_curve][G] Q1.31                              */
} mass_unit;

typedef struct mass_work {          /* one head                                        */
    uint64_t  *word;                /* [N] what becomes of an entry at some budgets    */
    uint32_t  *cls, *next;          /* [N] class so far                                */
    uint32_t  *slot;                /* [n_slots] class + 1 by hash                     */
    uint32_t   n_slots;
    uint32_t  *first;               /* [N] first entry of a class                      */
    mass_unit *unit;                /* [n_units]                                       */
    double    *sum;                 /* [most rows of sums][16]                         */
    float     *tile;                /* [MASS_KEYS][16] rounded to masses               */
} mass_work;

static uint32_t mass_key_blocks(const run *r) { return (r->N + MASS_KEYS - 1) / MASS_KEYS; }

/* Evicted kinds of an entry at a named cell, 0 = kept. */
static uint32_t mass_kind(const run *r, const run_cell *c, uint32_t head, uint32_t j)
{
    if (kvt__kept_of(r, c, head)[j])
        return 0;
    return j < KVT_N_SINK ? 1 + PART_SINK
        : r->L.win_rank[(size_t)head * r->N + j] < kvt__held(r, c, head) ? 1 + PART_SELECTION : 1 + PART_LATE;
}

/* Bits of one cell into the words: a named cell takes two (evicted, late), a point one. */
static uint32_t mass_bits(const run *r, const run_cell *c, uint32_t head, uint32_t shift, uint64_t *word)
{
    const uint8_t *kept = kvt__kept_of(r, c, head);
    const uint32_t *rank = r->L.win_rank + (size_t)head * r->N, held = kvt__held(r, c, head);

    if (c->curve) {
        for (uint32_t j = 0; j < r->N; j++)
            word[j] |= (uint64_t)(kept[j] ^ 1u) << shift;
        return 1;
    }
    for (uint32_t j = 0; j < r->N; j++)
        word[j] |= (uint64_t)((kept[j] ^ 1u) & 1u) * (uint64_t)(1u + 2u * (rank[j] >= held)) << shift;
    return 2;
}

/* Classes so far, split by the words: cls[j] becomes the class of (cls[j], word[j]), numbered
 * by first appearance. Returns how many. */
static uint32_t mass_refine(const run *r, mass_work *w)
{
    uint32_t n_cls = 0;

    memset(w->slot, 0, w->n_slots * sizeof *w->slot);
    for (uint32_t j = 0; j < r->N; j++) {
        uint64_t hash = (w->word[j] ^ (uint64_t)w->cls[j] << 32 ^ w->cls[j]) * 0x9E3779B97F4A7C15u;
        uint32_t at = (uint32_t)(hash >> 32) & (w->n_slots - 1);

        for (; w->slot[at]; at = (at + 1) & (w->n_slots - 1)) {
            const uint32_t f = w->first[w->slot[at] - 1];
            if (w->word[f] == w->word[j] && w->cls[f] == w->cls[j])
                break;
        }
        if (!w->slot[at]) {
            w->first[n_cls] = j;
            w->slot[at] = ++n_cls;
        }
        w->next[j] = w->slot[at] - 1;
    }
    memcpy(w->cls, w->next, r->N * sizeof *w->cls);
    return n_cls;
}

static uint32_t mass_classes(const run *r, const unit *u, uint32_t head, mass_work *w)
{
    uint32_t shift = 0, n_cls = 1;

    for (uint32_t j = 0; j < r->N; j++) {
        w->cls[j] = 0;
        w->word[j] = j < KVT_N_SINK && u->n_named > 0;
    }
    shift = 1;
    for (uint32_t i = 0; i < u->n_named + u->n_curve; i++) {
        if (shift > 62) {
            n_cls = mass_refine(r, w);
            memset(w->word, 0, r->N * sizeof *w->word);
            shift = 0;
        }
        shift += mass_bits(r, &r->cell[u->cell[i]], head, shift, w->word);
    }
    n_cls = mass_refine(r, w);
    return n_cls;
}

/* Entries by class inside each block of keys. */
static int mass_order(const run *r, const mass_work *w, uint32_t n_cls, mass_unit *m)
{
    const uint32_t n_blocks = mass_key_blocks(r);

    m->n_cls = n_cls;
    m->key = malloc(r->N * sizeof *m->key);
    m->start = calloc((size_t)n_blocks * (n_cls + 1), sizeof *m->start);
    if (!m->key || !m->start)
        return 0;
    for (uint32_t b = 0; b < n_blocks; b++) {
        const uint32_t j0 = b * MASS_KEYS, n = r->N - j0 < MASS_KEYS ? r->N - j0 : MASS_KEYS;
        uint32_t *start = m->start + (size_t)b * (n_cls + 1);

        for (uint32_t j = 0; j < n; j++)
            start[w->cls[j0 + j]]++;
        for (uint32_t c = 0, sum = 0; c <= n_cls; c++) {     /* first places ... */
            const uint32_t here = start[c];
            start[c] = sum;
            sum += here;
        }
        for (uint32_t j = 0; j < n; j++)
            m->key[j0 + start[w->cls[j0 + j]]++] = (uint16_t)j;
        for (uint32_t c = n_cls; c > 0; c--)                 /* ... and they have moved by one class */
            start[c] = start[c - 1];
        start[0] = 0;
    }
    return 1;
}

static int mass_add_run(mass_unit *m, uint32_t *cap, uint32_t cls, uint32_t from, uint32_t to)
{
    if (m->n_runs == *cap) {
        mass_run *more = realloc(m->run, (size_t)(*cap = *cap ? 2 * *cap : 128) * sizeof *more);
        if (!more)
            return 0;
        m->run = more;
    }
    m->run[m->n_runs++] = (mass_run){ cls, from, to };
    return 1;
}

/* Runs of one class: over the named cells by kind, over the points. */
static int mass_class_runs(const run *r, const unit *u, uint32_t head, uint32_t cls, uint32_t j, mass_unit *m, uint32_t *cap)
{
    const uint32_t points = (N_PARTS - 1) * (u->n_named + 1);
    uint32_t since = 0, kind = 0;

    for (uint32_t i = 0; i <= u->n_named; i++) {
        const uint32_t here = i < u->n_named ? mass_kind(r, &r->cell[u->cell[i]], head, j) : 0;
        const uint32_t row = (kind - 1) * (u->n_named + 1);
        if (here == kind)
            continue;
        if (kind && !mass_add_run(m, cap, cls, row + since, row + i))
            return 0;
        kind = here;
        since = i;
    }
    kind = 0;
    for (uint32_t i = 0; i <= u->n_curve; i++) {
        const uint32_t here = i < u->n_curve && !kvt__kept_of(r, &r->cell[u->cell[u->n_named + i]], head)[j];
        if (here == kind)
            continue;
        if (kind && !mass_add_run(m, cap, cls, points + since, points + i))
            return 0;
        kind = here;
        since = i;
    }
    return 1;
}

/* Budgets of the curve at which some entry leaves that the budget before kept. */
static uint32_t mass_not_nested(const run *r, const unit *u, uint32_t head, const mass_work *w, uint32_t n_cls)
{
    uint32_t n = 0;

    for (uint32_t i = 1; i < u->n_curve; i++) {
        const uint8_t *less = kvt__kept_of(r, &r->cell[u->cell[u->n_named + i - 1]], head);
        const uint8_t *more = kvt__kept_of(r, &r->cell[u->cell[u->n_named + i]], head);
        int leaves = 0;
        for (uint32_t c = 0; c < n_cls && !leaves; c++)
            leaves = less[w->first[c]] && !more[w->first[c]];
        n += leaves ? 1u : 0u;
    }
    return n;
}

static int mass_unit_new(run *r, const unit *u, uint32_t head, mass_work *w, mass_unit *m)
{
    const uint32_t n_cls = mass_classes(r, u, head, w);
    uint32_t cap = 0;

    if (!mass_order(r, w, n_cls, m))
        return 0;
    for (uint32_t c = 0; c < n_cls; c++)
        if (!mass_class_runs(r, u, head, c, w->first[c], m, &cap))
            return 0;
    m->mass = malloc((size_t)n_cls * KVT_TILE * sizeof *m->mass);
    if (!m->mass || u->n_curve == 0)
        return m->mass != NULL;
    kvt__curve_not_nested(r, &r->cell[u->cell[u->n_named]], head, mass_not_nested(r, u, head, w, n_cls));
    m->lost = malloc((size_t)u->n_curve * r->G * sizeof *m->lost);
    return m->lost != NULL;
}

static uint32_t mass_rows_of_sums(const unit *u)
{
    return (N_PARTS - 1) * (u->n_named + 1) + u->n_curve + 1;
}

/* Class sums of one block of steps into the losses of the unit's cells. */
static void mass_split(const run *r, const unit *u, uint32_t head, uint32_t block, const mass_unit *m, const mass_work *w)
{
    const uint32_t t0 = block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
    const double *row = w->sum;
    double lost[KVT_TILE] = { 0 };

    memset(w->sum, 0, (size_t)mass_rows_of_sums(u) * KVT_TILE * sizeof *w->sum);
    for (uint32_t k = 0; k < m->n_runs; k++) {
        const double *mass = m->mass + (size_t)m->run[k].cls * KVT_TILE;
        double *from = w->sum + (size_t)m->run[k].from * KVT_TILE, *to = w->sum + (size_t)m->run[k].to * KVT_TILE;
        for (uint32_t i = 0; i < KVT_TILE; i++)
            from[i] += mass[i];
        for (uint32_t i = 0; i < KVT_TILE; i++)
            to[i] -= mass[i];
    }
    for (uint32_t kind = 0; kind < N_PARTS - 1; kind++, row += KVT_TILE, memset(lost, 0, sizeof lost))
        for (uint32_t b = 0; b < u->n_named; b++, row += KVT_TILE) {
            double *part = r->cell[u->cell[b]].part + ((size_t)head * r->G + t0) * N_PARTS + kind;
            for (uint32_t i = 0; i < KVT_TILE; i++)
                lost[i] += row[i];
            for (uint32_t i = 0; i < n; i++)
                part[(size_t)i * N_PARTS] = lost[i];
        }
    for (uint32_t b = 0; b < u->n_curve; b++, row += KVT_TILE) {
        uint32_t q31[KVT_TILE];                  /* all lanes: a loop of a fixed length is packed */
        for (uint32_t i = 0; i < KVT_TILE; i++) {
            lost[i] += row[i];
            q31[i] = kvt_q31(lost[i]);
        }
        memcpy(m->lost + (size_t)b * r->G + t0, q31, n * sizeof *q31);
    }
}

static int mass_prepare(run *r, uint32_t head, mass_work *w)
{
    uint32_t most_rows = 1;
    const size_t n = r->N ? r->N : 1;

    for (w->n_slots = 16; w->n_slots < 2 * n;)
        w->n_slots *= 2;
    w->word = malloc(n * sizeof *w->word);
    w->cls = malloc(n * sizeof *w->cls);
    w->next = malloc(n * sizeof *w->next);
    w->first = malloc(n * sizeof *w->first);
    w->slot = malloc(w->n_slots * sizeof *w->slot);
    w->unit = calloc(r->n_units ? r->n_units : 1, sizeof *w->unit);
    w->tile = malloc((size_t)MASS_KEYS * KVT_TILE * sizeof *w->tile);
    if (!w->word || !w->cls || !w->next || !w->first || !w->slot || !w->unit || !w->tile)
        return 0;
    for (uint32_t i = 0; i < r->n_units; i++) {
        const uint32_t rows = mass_rows_of_sums(&r->unit[i]);
        if (!mass_unit_new(r, &r->unit[i], head, w, &w->unit[i]))
            return 0;
        most_rows = rows > most_rows ? rows : most_rows;
    }
    free(w->word), free(w->cls), free(w->next), free(w->first), free(w->slot);
    w->word = NULL, w->cls = w->next = w->first = w->slot = NULL;
    w->sum = malloc((size_t)most_rows * KVT_TILE * sizeof *w->sum);
    return w->sum != NULL;
}

/* Masses of one block of steps: a stretch of keys is rounded once and summed for every
 * unit while it is in the cache. */
static void mass_block(const run *r, const float *tile, const mass_work *w)
{
    for (uint32_t i = 0; i < r->n_units; i++)
        memset(w->unit[i].mass, 0, (size_t)w->unit[i].n_cls * KVT_TILE * sizeof *w->unit[i].mass);
    for (uint32_t b = 0; b < mass_key_blocks(r); b++) {
        const uint32_t j0 = b * MASS_KEYS, n = r->N - j0 < MASS_KEYS ? r->N - j0 : MASS_KEYS;

        r->kern->masses(tile + (size_t)j0 * KVT_TILE, n, w->tile);
        for (uint32_t i = 0; i < r->n_units; i++) {
            const mass_unit *m = &w->unit[i];
            r->kern->line_mass(w->tile, m->key + j0, m->start + (size_t)b * (m->n_cls + 1), m->n_cls, m->mass);
        }
    }
}

static void mass_free(const run *r, mass_work *w)
{
    for (uint32_t i = 0; w->unit && i < r->n_units; i++) {
        mass_unit *m = &w->unit[i];
        free(m->key), free(m->start), free(m->run), free(m->mass), free(m->lost);
    }
    free(w->word), free(w->cls), free(w->next), free(w->first), free(w->slot);
    free(w->unit), free(w->sum), free(w->tile);
}

typedef struct mass_head_task { run *r; const mass_work *w; } mass_head_task;

/* A row is evaluated once, for all units. */
static void mass_steps(void *user, uint32_t head, uint32_t block, const float *tile)
{
    const mass_head_task *t = user;
    run *r = t->r;

    if (r->item_status[head] < 0)
        return;
    mass_block(r, tile, t->w);
    for (uint32_t i = 0; i < r->n_units; i++)
        mass_split(r, &r->unit[i], head, block, &t->w->unit[i], t->w);
    if (r->opts->output_error)
        r->item_status[head] = kvt__output_errors(r, head, block, tile, &r->item_err[head]);
}

static void mass_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;
    mass_work w = { 0 };
    mass_head_task task = { r, &w };

    r->item_status[head] = KVT_OK;
    if (!mass_prepare(r, head, &w))
        r->item_status[head] = kvt_fail(&r->item_err[head], KVT_ENOMEM, "%s: layer %u: out of memory for losses", r->src->path, r->L.layer);
    if (r->once && r->item_status[head] == KVT_OK)
        kvt__rows_head(r, head, thread, mass_steps, &task);
    for (uint32_t b = 0; !r->once && r->item_status[head] == KVT_OK && b < r->n_blocks; b++)
        mass_steps(&task, head, b, kvt__tile(r, head, b, r->scratch[thread]));
    for (uint32_t i = 0; r->item_status[head] == KVT_OK && i < r->n_units; i++) {
        const unit *u = &r->unit[i];
        r->item_status[head] = kvt__curve_losses(r, u->cell + u->n_named, u->n_curve, head, w.unit[i].lost, &r->item_err[head]);
    }
    mass_free(r, &w);
}

kvt_status kvt__mass(run *r, kvt_err *err)
{
    const size_t HG = (size_t)r->L.H * r->G, HE = (size_t)r->L.H * r->n_err;

    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        if (!c->measured || c->bound || (c->curve && !c->online))
            continue;
        c->part = calloc(HG * N_PARTS, sizeof *c->part);
        if (r->opts->output_error && !c->curve) {
            c->err = malloc((HE ? HE : 1) * sizeof *c->err);
            c->sep = malloc((HE ? HE : 1) * sizeof *c->sep);
        }
        if (!c->part || (r->opts->output_error && !c->curve && (!c->err || !c->sep)))
            return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for losses", r->src->path, r->L.layer);
        for (size_t k = 0; c->err && k < HE; k++)
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
