/* bench_rows.c - one tile (16 steps of one head over n keys) per instruction set:
 * logits alone, and rows with the exponential, against the multiply-adds that the same
 * registers do in f32. The kernels accumulate in double, where the unit has half that
 * rate: so each is also printed against the f64 peak. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct rows_work {
    const kvt_kernels *kern;
    kvt_rows_args      a;
    double            *qt, *lse, *z, *exact;    /* exact: [n][16] logits, plainly     */
    float             *k, *tile;
    uint32_t          *visible;
} rows_work;

static void rows_free(rows_work *w)
{
    free(w->qt), free(w->lse), free(w->z), free(w->exact), free(w->k), free(w->tile), free(w->visible);
}

static kvt_status rows_make(rows_work *w, const bench_conf *c, kvt_err *err)
{
    const size_t n = c->n, lanes = KVT_TILE;
    const double scale = 1 / sqrt((double)c->d);

    w->qt = malloc(c->d * lanes * sizeof *w->qt);
    w->lse = malloc(lanes * sizeof *w->lse);
    w->z = malloc(n * lanes * sizeof *w->z);
    w->exact = malloc(n * lanes * sizeof *w->exact);
    w->k = malloc(n * c->d * sizeof *w->k);
    w->tile = malloc(n * lanes * sizeof *w->tile);
    w->visible = malloc(lanes * sizeof *w->visible);
    if (!w->qt || !w->lse || !w->z || !w->exact || !w->k || !w->tile || !w->visible)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (size_t i = 0; i < n * c->d; i++)
        w->k[i] = (float)bench_normal(c->seed, 1, i);
    for (size_t i = 0; i < c->d * lanes; i++)
        w->qt[i] = (float)(2 * bench_normal(c->seed, 2, i));
    for (uint32_t l = 0; l < lanes; l++) {
        double sum = 0;
        for (size_t j = 0; j < n; j++) {
            double z = 0;
            for (uint32_t i = 0; i < c->d; i++)
                z += (double)w->k[j * c->d + i] * w->qt[(size_t)i * lanes + l];
            w->exact[j * lanes + l] = z * scale;
            sum += exp(z * scale);
        }
        w->lse[l] = log(sum);
        w->visible[l] = c->n;
    }
    w->a = (kvt_rows_args){ .qt = w->qt, .k = w->k, .n_keys = c->n, .d = c->d, .scale = scale, .lse = w->lse,
                            .n_visible = w->visible, .tile = w->tile };
    return KVT_OK;
}

static kvt_status rows_rows(void *arg, double *s, kvt_err *err)
{
    const rows_work *w = arg;

    (void)s, (void)err;
    w->kern->rows(&w->a);
    return KVT_OK;
}

static kvt_status rows_logits(void *arg, double *s, kvt_err *err)
{
    const rows_work *w = arg;

    (void)s, (void)err;
    w->kern->logits(&w->a, w->z);
    return KVT_OK;
}

/* Largest relative error of the tile, largest error of the logits. */
static double rows_error(const rows_work *w, int logits)
{
    double worst = 0;

    for (uint32_t j = 0; j < w->a.n_keys; j++)
        for (uint32_t l = 0; l < KVT_TILE; l++) {
            const size_t i = (size_t)j * KVT_TILE + l;
            const double row = exp(w->exact[i] - w->lse[l]);
            const double e = logits ? fabs(w->z[i] - w->exact[i]) : fabs((double)w->tile[i] - row) / row;
            worst = e > worst || isnan(e) ? e : worst;
        }
    return worst;
}

/* One kernel against one peak: ratio = rate over rate. */
static kvt_status rows_item(bench_out *o, rows_work *w, int logits, int f64, double *ratio, kvt_err *err)
{
    const double elements = (double)w->a.n_keys * KVT_TILE;
    bench_fma_arg peak = { .isa = w->kern->name, .f64 = f64 };
    bench_times ref, sub;
    bench_item *it;

    KVT_TRY(bench_pair(&o->conf, bench_fma, &peak, logits ? rows_logits : rows_rows, w, &ref, &sub, err));
    it = bench_add(o, "%s %s, of the %s peak", logits ? "logits" : "rows", w->kern->name, f64 ? "f64" : "f32");
    it->time = sub;
    it->elements = elements;
    it->flops = 2.0 * w->a.d * elements;
    it->extra[0].name = "ns_per_element", it->extra[0].value = sub.min_s / elements * 1e9;
    it->extra[1].name = "GFLOP_per_s", it->extra[1].value = it->flops / sub.min_s * 1e-9;
    bench_reference(it, f64 ? "FMA f64" : "FMA f32", &ref, peak.flops, "FLOP/s");
    it->ratio = it->flops / sub.min_s / it->ref_value;
    bench_check(it, logits ? "f64, absolute" : "f64, relative", rows_error(w, logits), logits ? 1e-9 : 1e-6);
    *ratio = it->ratio;
    return KVT_OK;
}

static kvt_status rows_isa(bench_out *o, rows_work *w, kvt_err *err)
{
    const int wide = strcmp(w->kern->name, "avx512") == 0;
    double ratio, unused;

    KVT_TRY(rows_item(o, w, 1, 0, &ratio, err));
    bench_target_add(o, wide ? "R1 logits" : "R2 logits", ratio, ">=", wide ? 0.90 : 0.92);
    KVT_TRY(rows_item(o, w, 0, 0, &ratio, err));
    bench_target_add(o, wide ? "R1 rows" : "R2 rows", ratio, ">=", wide ? 0.75 : 0.78);
    KVT_TRY(rows_item(o, w, 1, 1, &unused, err));
    return rows_item(o, w, 0, 1, &unused, err);
}

/* The baseline build has no fused multiply-add unit to be measured against: time over
 * that of the AVX2 table. */
static kvt_status rows_portable(bench_out *o, rows_work *w, kvt_err *err)
{
    const kvt_kernels *avx2 = kvt_kernels_find("avx2");
    rows_work ref = *w;
    bench_times rt, st;
    bench_item *it;

    if (!avx2) {
        bench_note(o, "R5 skipped: this CPU cannot run the AVX2 table");
        return KVT_OK;
    }
    ref.kern = avx2;
    KVT_TRY(bench_pair(&o->conf, rows_rows, &ref, rows_rows, w, &rt, &st, err));
    it = bench_add(o, "rows portable, time over avx2");
    it->time = st;
    it->elements = (double)w->a.n_keys * KVT_TILE;
    it->flops = 2.0 * w->a.d * it->elements;
    it->extra[0].name = "ns_per_element", it->extra[0].value = st.min_s / it->elements * 1e9;
    bench_reference(it, "rows of the AVX2 table", &rt, 0, "s");
    it->ratio = st.min_s / rt.min_s;
    bench_check(it, "f64, relative", rows_error(w, 0), 1e-6);
    bench_target_add(o, "R5 portable", it->ratio, "<=", 1.3);
    bench_note(o, "R5 is meant for the portable source with AVX2 flags, which is the AVX2 table: as built here it has the baseline's registers");
    return KVT_OK;
}

kvt_status bench_rows(bench_out *o, kvt_err *err)
{
    bench_conf *c = &o->conf;
    rows_work w = { 0 };
    kvt_status st;

    c->n = c->n ? c->n : 4608;
    c->d = c->d ? c->d : 64;
    c->threads = 1;
    c->steps = KVT_TILE;
    KVT_TRY_GOTO(st, rows_make(&w, c, err));
    for (uint32_t i = 0; kvt_kernels_at(i) && st == KVT_OK; i++) {
        w.kern = kvt_kernels_at(i);
        if (!w.kern->usable() && strcmp(w.kern->name, "avx512") == 0)
            bench_note(o, "R1 skipped: this CPU has no AVX-512");
        if (!w.kern->usable() || (c->isa_given && w.kern != c->kern))
            continue;
        st = bench_fma_usable(w.kern->name) ? rows_isa(o, &w, err) : rows_portable(o, &w, err);
    }
    bench_note(o, "rows are accumulated in double, which has half the f32 peak: above 0.5 no target on that peak can be held");
done:
    rows_free(&w);
    return st;
}
