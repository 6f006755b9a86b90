/* bench_mass.c - evicted mass of all policies and budgets of one head by the replay's own
 * mass.c, against the plain way: gather a row in rank order and sum between the cuts.
 *
 * What mass.c does: one pass over the rows for all budgets of all policies; classes are by
 * key, so kept sets need not be nested. Its time includes making the classes and the
 * statistics over the steps, which the reference does not make. */
#include "bench_engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct mass_plain {         /* the reference                                  */
    const bench_engine *e;
    float    *row;                  /* [G][N]                                         */
    uint32_t *order;                /* [P][N] keys, best first                        */
    double   *lost;                 /* [P][B][G]                                      */
} mass_plain;

static kvt_status mass_make_plain(mass_plain *m, bench_engine *e, kvt_err *err)
{
    const run *r = &e->r;

    m->e = e;
    m->row = malloc((size_t)r->G * r->N * sizeof *m->row);
    m->order = malloc((size_t)e->n_policies * r->N * sizeof *m->order);
    m->lost = malloc((size_t)r->n_cells * r->G * sizeof *m->lost);
    if (!m->row || !m->order || !m->lost)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t t = 0; t < r->G; t++) {
        const float *tile = kvt__tile(r, 0, t / KVT_TILE, r->scratch[0]);
        for (uint32_t j = 0; j < r->N; j++)
            m->row[(size_t)t * r->N + j] = tile[(size_t)j * KVT_TILE + t % KVT_TILE];
    }
    for (uint32_t p = 0; p < e->n_policies; p++)
        for (uint32_t j = 0; j < r->N; j++)
            m->order[(size_t)p * r->N + e->rank[(size_t)p * r->N + j]] = j;
    return KVT_OK;
}

static kvt_status mass_scalar(void *arg, double *s, kvt_err *err)
{
    const mass_plain *m = arg;
    const bench_engine *e = m->e;
    const uint32_t N = e->r.N, G = e->r.G;

    (void)s, (void)err;
    for (uint32_t p = 0; p < e->n_policies; p++)
        for (uint32_t t = 0; t < G; t++) {
            const float *row = m->row + (size_t)t * N;
            const uint32_t *order = m->order + (size_t)p * N;
            uint32_t j = N;
            double sum = 0;
            for (uint32_t b = e->n_budgets; b-- > 0;) {          /* lost: from the worst key up */
                while (j > e->cut[b])
                    sum += (double)row[order[--j]];
                m->lost[((size_t)p * e->n_budgets + b) * G + t] = sum;
            }
        }
    return KVT_OK;
}

static kvt_status mass_engine(void *arg, double *s, kvt_err *err)
{
    bench_engine *e = arg;

    (void)s;
    return kvt__mass(&e->r, err);
}

static double mass_error(const mass_plain *m)
{
    const bench_engine *e = m->e;
    double worst = 0;

    for (uint32_t p = 0; p < e->n_policies; p++)
        for (uint32_t b = 0; b < e->n_budgets; b++) {
            const double d = bench_engine_error(e, p, b, 0, m->lost + ((size_t)p * e->n_budgets + b) * e->r.G);
            worst = d > worst || isnan(d) ? d : worst;
        }
    return worst;
}

static bench_item *mass_item(bench_out *o, const bench_engine *e, const bench_times *t, const char *name)
{
    const double ep = (double)e->n_policies * e->r.N * e->r.G;
    bench_item *it = bench_add(o, "%s, %u budgets", name, e->n_budgets);

    it->time = *t;
    it->elements = ep;
    it->bytes = 4 * ep;
    it->extra[0].name = "ns_per_elem_policy", it->extra[0].value = t->min_s / ep * 1e9;
    it->extra[1].name = "us_per_row", it->extra[1].value = t->min_s / e->r.G * 1e6;
    return it;
}

/* 4 bytes per element and policy over what L2 gives. */
static kvt_status mass_against_l2(bench_out *o, bench_engine *e, double err_max, kvt_err *err)
{
    bench_read_arg l2 = { .bytes = bench_l2_bytes(), .passes = 64 };
    bench_times rt, et;
    void *data = NULL;
    bench_item *it;
    kvt_status st;

    if (posix_memalign(&data, 4096, l2.bytes) != 0)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    memset(data, 1, l2.bytes);
    l2.data = data;
    st = bench_pair(&o->conf, bench_read, &l2, mass_engine, e, &rt, &et, err);
    free(data);
    KVT_TRY(st);
    it = mass_item(o, e, &et, "classes, of L2");
    bench_reference(it, "L2 read", &rt, (double)l2.bytes * l2.passes, "B/s");
    it->ratio = it->bytes / et.min_s / it->ref_value;
    bench_check(it, "f64", err_max, 2e-6);
    bench_target_add(o, "M2", it->ratio, ">=", 0.50);
    return KVT_OK;
}

kvt_status bench_mass(bench_out *o, kvt_err *err)
{
    bench_conf *c = &o->conf;
    bench_engine *e = NULL, *more = NULL;
    mass_plain plain = { 0 };
    bench_times rt, et;
    bench_item *it;
    double worst;
    kvt_status st;

    c->n = c->n ? c->n : 4608;
    c->d = c->d ? c->d : 64;
    c->steps = c->steps ? c->steps : 64;
    c->heads = c->kv_heads = c->threads = 1;
    c->policies = c->policies ? c->policies : 16;
    if (!c->budgets[0])
        c->budgets[0] = 32, c->budgets[1] = 250;
    KVT_TRY_GOTO(st, bench_engine_new(&e, c, c->budgets[0], SIZE_MAX, err));
    KVT_TRY_GOTO(st, kvt__rows_all(&e->r, err));
    KVT_TRY_GOTO(st, mass_make_plain(&plain, e, err));
    KVT_TRY_GOTO(st, bench_pair(c, mass_scalar, &plain, mass_engine, e, &rt, &et, err));
    worst = mass_error(&plain);
    it = mass_item(o, e, &rt, "scalar gather and prefix");
    it = mass_item(o, e, &et, "classes, speed over scalar");
    bench_reference(it, "scalar gather and prefix", &rt, 0, "s");
    it->ratio = rt.min_s / et.min_s;
    bench_check(it, "f64", worst, 2e-6);
    KVT_TRY_GOTO(st, mass_against_l2(o, e, worst, err));
    bench_target_add(o, "M3", rt.min_s / et.min_s, ">=", 10);
    if (c->budgets[1]) {
        KVT_TRY_GOTO(st, bench_engine_new(&more, c, c->budgets[1], SIZE_MAX, err));
        KVT_TRY_GOTO(st, kvt__rows_all(&more->r, err));
        KVT_TRY_GOTO(st, bench_pair(c, mass_engine, e, mass_engine, more, &rt, &et, err));
        it = mass_item(o, more, &et, "classes");
        bench_reference(it, "classes, first budget count", &rt, 0, "s");
        it->ratio = et.min_s / rt.min_s;
        bench_engine_plain(more, 0, 0, 0, plain.lost);
        bench_check(it, "f64, one curve point", bench_engine_error(more, 0, 0, 0, plain.lost), 2e-6);
        bench_target_add(o, "M4", it->ratio, "<=", 3.0);
    }
    bench_note(o, "classes: with the statistics over the steps of every policy and budget, which the scalar reference does not make");
done:
    free(plain.row), free(plain.order), free(plain.lost);
    bench_engine_free(e);
    bench_engine_free(more);
    return st;
}
