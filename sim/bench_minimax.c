/* bench_minimax.c - the search for the fixed set whose worst step loses least (minimax.c):
 *
 * an iteration of six searches, each offering its weights to every budget, against reading
 * the rows of the head once, in order; and how far the bound after 20
 * iterations is below that after 500, for rows of four kinds. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "minimax.h"

enum { MM_SEARCHES = 6, MM_TIMED = 3, MM_PASSES = 256, MM_SHORT = KVT_MINIMAX_ITER, MM_LONG = 500 };

typedef enum mm_family { MM_DRIFT, MM_PHASES, MM_UNSTABLE, MM_NEEDLES, MM_FAMILIES } mm_family;
static const char *const mm_name[MM_FAMILIES] = { "stable and drifting", "four phases", "unstable", "sink and needles" };

typedef struct mm_bench {
    kvt_minimax_rows   rows;
    float             *tile;        /* [blocks][n][16]                                */
    kvt_minimax_point *point;       /* [n_points] with their lambda and set           */
    double            *lambda;      /* [n_points][n_rows]                             */
    uint8_t           *set;         /* [n_points][n]                                  */
    uint32_t           n_points, iter;
    double             last, spent; /* of the search: clock at its last iteration; seconds of the timed ones */
    uint32_t           n_timed;
    int                timed;       /* *s = seconds of the timed iterations           */
} mm_bench;

/* ------------------------------------------------------------------------ rows */

static double mm_weight(const mm_bench *m, uint64_t seed, mm_family f, uint32_t t, uint32_t j)
{
    const uint32_t n = m->rows.n, G = m->rows.n_rows, phase = 4 * t / G;
    const uint64_t at = (uint64_t)t * n + j;
    const double base = bench_normal(seed, 30, j), noise = bench_normal(seed, 31, at);

    switch (f) {
    case MM_DRIFT:
        return exp(2 * base + 2 * bench_normal(seed, 32, j) * t / G + 0.5 * noise);
    case MM_PHASES:
        return exp(base + 2 * bench_normal(seed, 33 + phase, j) + 0.5 * noise);
    case MM_UNSTABLE:
        return exp(2.5 * noise);
    default:                                     /* every fifth row looks for one entry   */
        return exp(1.5 * base + 0.5 * noise) + (j == 0 ? n : 0)
            + (t % 5 == 0 && j == (uint32_t)(bench_uniform(seed, 37, t) * n) ? n : 0);
    }
}

static void mm_rows(mm_bench *m, uint64_t seed, mm_family f)
{
    const uint32_t n = m->rows.n;

    for (uint32_t t = 0; t < m->rows.n_rows; t++) {
        float *x = m->tile + (size_t)(t / KVT_TILE) * n * KVT_TILE + t % KVT_TILE;
        double sum = 0;
        for (uint32_t j = 0; j < n; j++)
            sum += x[(size_t)j * KVT_TILE] = (float)mm_weight(m, seed, f, t, j);
        for (uint32_t j = 0; j < n; j++)
            x[(size_t)j * KVT_TILE] = (float)(x[(size_t)j * KVT_TILE] / sum);
    }
}

static int mm_cmp(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* What the weighted rows hold outside their largest entries; x[n] is overwritten. */
static double mm_outside(const mm_bench *m, const double *lambda, uint32_t count, double *x)
{
    const uint32_t n = m->rows.n;
    double sum = 0;

    memset(x, 0, n * sizeof *x);
    for (uint32_t t = 0; t < m->rows.n_rows; t++)
        for (uint32_t j = 0; lambda[t] > 0 && j < n; j++)
            x[j] += lambda[t] * kvt_mass(m->tile[((size_t)(t / KVT_TILE) * n + j) * KVT_TILE + t % KVT_TILE]);
    qsort(x, n, sizeof *x, mm_cmp);
    for (uint32_t j = n; j-- > count;)
        sum += x[j];
    return sum;
}

/* Largest loss of the per-step oracle at each point, from one sort of each row. */
static void mm_oracle(mm_bench *m, double *x)
{
    const uint32_t n = m->rows.n;

    for (uint32_t k = 0; k < m->n_points; k++)
        m->point[k].oracle_max = -1;
    for (uint32_t t = 0; t < m->rows.n_rows; t++) {
        double lost = 0;
        uint32_t j = n;
        for (uint32_t i = 0; i < n; i++)
            x[i] = kvt_mass(m->tile[((size_t)(t / KVT_TILE) * n + i) * KVT_TILE + t % KVT_TILE]);
        qsort(x, n, sizeof *x, mm_cmp);
        for (uint32_t k = m->n_points; k-- > 0;) {
            while (j > m->point[k].count)
                lost += x[--j];
            if (lost > m->point[k].oracle_max)
                m->point[k].oracle_max = lost, m->point[k].oracle_at = t;
        }
    }
}

/* ---------------------------------------------------------------------- search */

/* The interval between two iterations of one search; between searches other things happen. */
static void mm_step(void *user, uint32_t r, double eta, const double *lambda, const double *lost, double bound, double delta,
                    const kvt_minimax_point *own)
{
    mm_bench *m = user;
    const double now = bench_now_s();

    (void)eta, (void)lambda, (void)lost, (void)bound, (void)delta, (void)own;
    if (r > 1)
        m->spent += now - m->last, m->n_timed++;
    m->last = now;
}

static kvt_status mm_search(void *arg, double *s, kvt_err *err)
{
    mm_bench *m = arg;
    const kvt_minimax_trace trace = { mm_step, m };

    m->spent = m->n_timed = 0;
    KVT_TRY(kvt_minimax(&m->rows, m->point, m->n_points, m->iter, m->iter, m->timed ? &trace : NULL, err));
    if (m->timed && m->n_timed == 0)
        return kvt_fail(err, KVT_EARG, "these sizes need no search; use more --n and --steps");
    if (m->timed)
        *s = m->spent;
    return KVT_OK;
}

static void mm_free(mm_bench *m)
{
    free(m->tile), free(m->point), free(m->lambda), free(m->set);
}

/* Counts of n_points budgets; all are searched, and each search serves all. */
static kvt_status mm_new(mm_bench *m, const bench_conf *c, uint32_t n, uint32_t n_rows, uint32_t n_points, kvt_err *err)
{
    const uint32_t n_blocks = (n_rows + KVT_TILE - 1) / KVT_TILE;
    uint32_t cut[256], k = 0;

    *m = (mm_bench){ .rows = { .block_stride = (size_t)n * KVT_TILE, .n = n, .n_rows = n_rows, .kern = c->kern } };
    m->tile = calloc((size_t)n_blocks * n * KVT_TILE, sizeof *m->tile);
    m->point = calloc(n_points, sizeof *m->point);
    m->lambda = calloc((size_t)n_points * n_rows, sizeof *m->lambda);
    m->set = calloc((size_t)n_points * n, 1);
    if (!m->tile || !m->point || !m->lambda || !m->set)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    m->rows.tile = m->tile;
    bench_cuts(n, n_points, cut);
    for (uint32_t i = 0; i < n_points; i++)
        if (k == 0 || m->point[k - 1].count != cut[i]) {
            m->point[k] = (kvt_minimax_point){ .count = cut[i], .shared = 1, .lambda = m->lambda + (size_t)k * n_rows,
                                               .set = m->set + (size_t)k * n };
            k++;
        }
    m->n_points = k;
    return KVT_OK;
}

/* The worst row of a set. */
static double mm_worst(const mm_bench *m, const uint8_t *set)
{
    double worst = 0;

    for (uint32_t t = 0; t < m->rows.n_rows; t++) {
        const float *x = m->tile + (size_t)(t / KVT_TILE) * m->rows.block_stride + t % KVT_TILE;
        double lost = 0;
        for (uint32_t j = 0; j < m->rows.n; j++)
            lost += set[j] ? 0 : kvt_mass(x[(size_t)j * KVT_TILE]);
        worst = fmax(worst, lost);
    }
    return worst;
}

/* Bounds and sets that were found, against weights and sets evaluated plainly. */
static double mm_error(const mm_bench *m, double *x)
{
    double worst = 0;

    for (uint32_t k = 0; k < m->n_points; k++) {
        const kvt_minimax_point *p = &m->point[k];
        const double lo = fabs(p->lo - mm_outside(m, p->lambda, p->count, x)), up = fabs(p->up - mm_worst(m, p->set));
        worst = lo > worst || isnan(lo) ? lo : worst;
        worst = up > worst || isnan(up) ? up : worst;
    }
    return worst;
}

static kvt_status mm_time(bench_out *o, mm_bench *m, double *x, kvt_err *err)
{
    const double values = (double)m->rows.n * m->rows.n_rows;
    const size_t n_blocks = (m->rows.n_rows + KVT_TILE - 1) / KVT_TILE;
    bench_read_arg read = { .data = m->tile, .bytes = n_blocks * m->rows.block_stride * sizeof *m->tile, .passes = MM_PASSES };
    bench_times rt, t;
    bench_item *it;
    double each;

    m->iter = MM_TIMED;
    m->timed = 1;
    mm_rows(m, o->conf.seed, MM_UNSTABLE);
    mm_oracle(m, x);
    KVT_TRY(bench_pair(&o->conf, bench_read, &read, mm_search, m, &rt, &t, err));
    each = MM_SEARCHES * t.min_s / m->n_timed;
    it = bench_add(o, "iterations of a search, %u budgets", m->n_points);
    it->time = t;
    it->elements = m->n_timed * values;
    it->bytes = 4 * it->elements;
    it->extra[0].name = "ns_per_elem", it->extra[0].value = t.min_s / it->elements * 1e9;
    it->extra[1].name = "ms_of_six", it->extra[1].value = each * 1e3;
    bench_reference(it, "read of the rows", &rt, (double)read.bytes * read.passes, "B/s");
    it->ratio = each / (rt.min_s / read.passes);
    bench_check(it, "weights and sets summed plainly", mm_error(m, x), 1e-9);
    bench_target_add(o, "X1", it->ratio, "<=", 4);
    return KVT_OK;
}

static kvt_status mm_bounds(bench_out *o, mm_bench *m, mm_family f, double *x, double *worst, kvt_err *err)
{
    double lo[MM_SEARCHES], far = 0, open = 0, s;
    bench_item *it;
    bench_times t;

    mm_rows(m, o->conf.seed, f);
    mm_oracle(m, x);
    m->iter = MM_LONG;
    KVT_TRY(mm_search(m, &s, err));
    for (uint32_t k = 0; k < m->n_points; k++)
        lo[k] = m->point[k].lo;
    m->iter = MM_SHORT;
    KVT_TRY(bench_pair(&o->conf, NULL, NULL, mm_search, m, NULL, &t, err));
    for (uint32_t k = 0; k < m->n_points; k++) {
        far = fmax(far, lo[k] - m->point[k].lo);
        open = fmax(open, m->point[k].up - m->point[k].lo);
    }
    it = bench_add(o, "bound after %d, %s", MM_SHORT, mm_name[f]);
    it->time = t;
    it->extra[0].name = "below_that_after_500", it->extra[0].value = far;
    it->extra[1].name = "set_above_bound", it->extra[1].value = open;
    bench_check(it, "weights and sets summed plainly", mm_error(m, x), 1e-9);
    *worst = fmax(*worst, far);
    return KVT_OK;
}

kvt_status bench_minimax(bench_out *o, kvt_err *err)
{
    bench_conf *c = &o->conf;
    mm_bench full = { 0 }, small = { 0 };
    double *x, worst = 0;
    kvt_status st;

    c->n = c->n ? c->n : 4096;
    c->steps = c->steps ? c->steps : 512;
    c->budgets[0] = c->budgets[0] ? c->budgets[0] : 32;
    c->threads = 1;
    if (!(x = malloc(c->n * sizeof *x)))
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    KVT_TRY_GOTO(st, mm_new(&full, c, c->n, c->steps, c->budgets[0], err));
    KVT_TRY_GOTO(st, mm_time(o, &full, x, err));
    KVT_TRY_GOTO(st, mm_new(&small, c, (c->n + 3) / 4, (c->steps + 3) / 4, MM_SEARCHES, err));
    for (int f = 0; f < MM_FAMILIES; f++)
        KVT_TRY_GOTO(st, mm_bounds(o, &small, (mm_family)f, x, &worst, err));
    bench_target_add(o, "X2", worst, "<=", 0.012);
    bench_note(o, "ratio: one iteration of %d searches, over reading the %.3g MB of rows once, in order", MM_SEARCHES,
               4e-6 * (double)full.rows.n * full.rows.n_rows);
    bench_note(o, "bounds after 20 and 500 iterations: %u keys, %u steps, %u counts", small.rows.n, small.rows.n_rows, small.n_points);
done:
    free(x);
    mm_free(&full);
    mm_free(&small);
    return st;
}
