/* bench_colstat.c - column sums of the prompt's rows, as the replay makes such rows for
 * policies that look at all of them (prompt.c): tiles of 16 queries, each row normalised by
 * its own sum, added up by key in double. Against decode rows, which are given their
 * log-sum-exp; both per element that is visible. */
#include "bench_engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct colstat_bench {
    bench_engine *e;
    float        *tile;             /* [N][16]                                        */
    double       *sum, *exact;      /* [N]                                            */
} colstat_bench;

static kvt_status colstat_rows(void *arg, double *s, kvt_err *err)
{
    const colstat_bench *b = arg;

    (void)s, (void)err;
    bench_engine_only_rows(b->e);
    return KVT_OK;
}

static kvt_status colstat_columns(void *arg, double *s, kvt_err *err)
{
    const colstat_bench *b = arg;
    const run *r = &b->e->r;

    (void)s, (void)err;
    memset(b->sum, 0, r->N * sizeof *b->sum);
    for (uint32_t k = 0; k * KVT_TILE < r->N; k++) {
        const uint32_t seen = (k + 1) * KVT_TILE < r->N ? (k + 1) * KVT_TILE : r->N;
        kvt__prompt_tile(r, 0, k, b->tile, r->scratch[0], NULL);
        for (uint32_t j = 0; j < seen; j++) {
            double sum[4] = { 0 };
            for (uint32_t l = 0; l < KVT_TILE; l++)
                sum[l % 4] += (double)b->tile[(size_t)j * KVT_TILE + l];
            b->sum[j] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
    }
    return KVT_OK;
}

/* The same by the definition, query after query; p[N] is scratch. */
static void colstat_exact(const colstat_bench *b, double *p)
{
    const run *r = &b->e->r;
    const layer_run *L = &r->L;

    for (uint32_t i = 0; i < r->N; i++) {
        double max = -INFINITY, sum = 0;
        for (uint32_t j = 0; j <= i; j++) {
            double z = 0;
            for (uint32_t c = 0; c < L->d; c++)
                z += (double)L->q_prompt[(size_t)i * L->d + c] * (double)L->k[(size_t)j * L->d + c];
            p[j] = z * L->info->scale;
            max = fmax(max, p[j]);
        }
        for (uint32_t j = 0; j <= i; j++)
            sum += p[j] = exp(p[j] - max);
        for (uint32_t j = 0; j <= i; j++)
            b->exact[j] += p[j] / sum;
    }
}

static kvt_status colstat_make(colstat_bench *b, const bench_conf *c, kvt_err *err)
{
    run *r = &b->e->r;
    double *p = malloc(r->N * sizeof *p);

    r->n_q = r->N;
    r->L.q_prompt = malloc((size_t)r->N * r->L.d * sizeof *r->L.q_prompt);
    b->tile = malloc((size_t)r->N * KVT_TILE * sizeof *b->tile);
    b->sum = calloc(r->N, sizeof *b->sum);
    b->exact = calloc(r->N, sizeof *b->exact);
    if (!p || !r->L.q_prompt || !b->tile || !b->sum || !b->exact) {
        free(p);
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < (size_t)r->N * r->L.d; i++)
        r->L.q_prompt[i] = (float)(1.5 * bench_normal(c->seed, 8, i));
    colstat_exact(b, p);
    free(p);
    return KVT_OK;
}

static void colstat_free(colstat_bench *b)
{
    if (b->e)
        free(b->e->r.L.q_prompt);
    bench_engine_free(b->e);
    free(b->tile), free(b->sum), free(b->exact);
}

/* Results are stored as f32, so that is what is compared. */
static double colstat_error(const colstat_bench *b)
{
    double worst = 0;

    for (uint32_t j = 0; j < b->e->r.N; j++) {
        const double e = fabs((double)(float)b->sum[j] - b->exact[j]) / b->exact[j];
        worst = e > worst || isnan(e) ? e : worst;
    }
    return worst;
}

kvt_status bench_colstat(bench_out *o, kvt_err *err)
{
    bench_conf *c = &o->conf;
    colstat_bench b = { 0 };
    bench_times rt, t;
    bench_item *it;
    double rows;
    kvt_status st;

    c->n = c->n ? c->n : 4608;
    c->d = c->d ? c->d : 64;
    c->steps = c->steps ? c->steps : 2048;
    c->heads = c->kv_heads = c->policies = c->budgets[0] = c->threads = 1;
    KVT_TRY_GOTO(st, bench_engine_new(&b.e, c, 1, 0, err));
    KVT_TRY_GOTO(st, colstat_make(&b, c, err));
    KVT_TRY_GOTO(st, bench_pair(c, colstat_rows, &b, colstat_columns, &b, &rt, &t, err));
    rows = (double)c->steps * c->n + 0.5 * c->steps * (c->steps + 1.0);
    it = bench_add(o, "rows, n %u, d %u", c->n, c->d);
    it->time = rt;
    it->elements = rows;
    it->extra[0].name = "ns_per_element", it->extra[0].value = rt.min_s / rows * 1e9;
    it = bench_add(o, "column sums, n %u, d %u", c->n, c->d);
    it->time = t;
    it->elements = 0.5 * c->n * (c->n + 1.0);
    it->flops = 2.0 * c->d * it->elements;
    it->extra[0].name = "ns_per_element", it->extra[0].value = t.min_s / it->elements * 1e9;
    bench_reference(it, "rows", &rt, rows, "elements/s");
    it->ratio = t.min_s / it->elements * it->ref_value;
    bench_check(it, "f64, relative", colstat_error(&b), 2e-5);
    bench_target_add(o, "C1", it->ratio, "<=", 1.4);
    bench_note(o, "the rows of the prompt find their own sums, which the target leaves out; decode rows are given theirs");
done:
    colstat_free(&b);
    return st;
}
