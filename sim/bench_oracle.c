/* bench_oracle.c - what the engine selects and sorts with, against sorting:
 *
 * oracle   the per-step oracle of a row at every budget (row_oracle.c), from a tile of 16
 *          steps, against sorting a copy of each row and summing up to the cuts
 * stats    tails of cells (kvt_tails_of), against the C library's qsort of each cell
 *
 * Rows are log-normal (standard deviation of the logarithm 2.5), with one sink. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "measure.h"
#include "row_oracle.h"

/* --------------------------------------------------------------------- oracle */

typedef struct oracle_bench {
    uint32_t  n, steps, n_budgets, *cut;
    float    *tile, *row, *rows, *copy; /* [steps / 16][n][16], [steps][n], [16][stride], [n] */
    size_t    stride;
    uint32_t *plain, *fast;         /* [steps][n_budgets] losses x 2^31               */
    uint64_t *lost;                 /* [n_budgets]                                    */
    kvt_row_oracle *oracle;
} oracle_bench;

static void oracle_insert(float *x, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        const float v = x[i];
        size_t j = i;
        for (; j > 0 && x[j - 1] > v; j--)
            x[j] = x[j - 1];
        x[j] = v;
    }
}

/* Quicksort as std::sort does it: median of three, halves down to 16, one insertion pass. */
static void oracle_halve(float *x, size_t n)
{
    while (n > 16) {
        const float a = x[0], b = x[n / 2], c = x[n - 1], lo = a < b ? a : b, hi = a < b ? b : a;
        const float pivot = c < lo ? lo : c > hi ? hi : c;
        size_t i = 0, j = n - 1;
        for (;;) {
            while (x[i] < pivot)
                i++;
            while (pivot < x[j])
                j--;
            if (i >= j)
                break;
            const float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (i < n - i) {
            oracle_halve(x, i);
            x += i, n -= i;
        } else {
            oracle_halve(x + i, n - i);
            n = i;
        }
    }
}

static kvt_status oracle_sorted(void *arg, double *s, kvt_err *err)
{
    const oracle_bench *o = arg;

    (void)s, (void)err;
    for (uint32_t t = 0; t < o->steps; t++) {
        double sum = 0;
        uint32_t done = 0;
        memcpy(o->copy, o->row + (size_t)t * o->n, o->n * sizeof *o->copy);
        oracle_halve(o->copy, o->n);
        oracle_insert(o->copy, o->n);
        for (uint32_t b = o->n_budgets; b-- > 0;) {
            for (; done + o->cut[b] < o->n; done++)
                sum += kvt_mass(o->copy[done]);
            o->plain[(size_t)t * o->n_budgets + b] = kvt_q31(sum);
        }
    }
    return KVT_OK;
}

static kvt_status oracle_selected(void *arg, double *s, kvt_err *err)
{
    const oracle_bench *o = arg;

    (void)s, (void)err;
    for (uint32_t t = 0; t < o->steps; t++) {
        const float *row = o->rows + (t % KVT_TILE) * o->stride;
        if (t % KVT_TILE == 0)
            kvt_row_oracle_lanes(o->tile + (size_t)t * o->n, o->n, o->stride, o->rows);
        kvt_row_oracle_start(o->oracle, o->n);
        kvt_row_oracle_more(o->oracle, row, o->n);
        kvt_row_oracle_lost(o->oracle, row, o->cut, o->n_budgets, o->lost, NULL, 0, NULL);
        for (uint32_t b = 0; b < o->n_budgets; b++)
            o->fast[(size_t)t * o->n_budgets + b] = kvt_q31((double)o->lost[b] * 0x1p-40);
    }
    return KVT_OK;
}

static void oracle_free(oracle_bench *o)
{
    free(o->cut), free(o->tile), free(o->row), free(o->rows), free(o->copy), free(o->plain), free(o->fast), free(o->lost);
    kvt_row_oracle_free(o->oracle);
}

static kvt_status oracle_make(oracle_bench *o, const bench_conf *c, uint32_t n, kvt_err *err)
{
    uint32_t n_cut = 0;

    *o = (oracle_bench){ .n = n, .steps = c->steps, .stride = (((size_t)n + 127) & ~(size_t)127) + KVT_TILE };
    o->cut = calloc(c->budgets[0], sizeof *o->cut);
    o->tile = calloc((size_t)(c->steps + KVT_TILE) * n, sizeof *o->tile);
    o->row = calloc((size_t)c->steps * n, sizeof *o->row);
    o->rows = calloc(KVT_TILE * o->stride, sizeof *o->rows);
    o->copy = calloc(n, sizeof *o->copy);
    o->plain = calloc((size_t)c->steps * c->budgets[0], sizeof *o->plain);
    o->fast = calloc((size_t)c->steps * c->budgets[0], sizeof *o->fast);
    o->lost = calloc(c->budgets[0], sizeof *o->lost);
    o->oracle = kvt_row_oracle_new(n);
    if (!o->cut || !o->tile || !o->row || !o->rows || !o->copy || !o->plain || !o->fast || !o->lost || !o->oracle)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    bench_cuts(n, c->budgets[0], o->cut);
    for (uint32_t b = 0; b < c->budgets[0]; b++)         /* each count once */
        if (n_cut == 0 || o->cut[n_cut - 1] != o->cut[b])
            o->cut[n_cut++] = o->cut[b];
    o->n_budgets = n_cut;
    for (uint32_t t = 0; t < c->steps; t++) {
        float *row = o->row + (size_t)t * n;
        double sum = 0;
        for (uint32_t j = 0; j < n; j++)
            sum += row[j] = (float)exp(2.5 * bench_normal(c->seed, 5, (uint64_t)t * n + j));
        row[0] += (float)(0.25 * sum);
        for (uint32_t j = 0; j < n; j++) {
            row[j] = (float)(row[j] / (1.25 * sum));
            o->tile[((size_t)(t / KVT_TILE) * n + j) * KVT_TILE + t % KVT_TILE] = row[j];
        }
    }
    return KVT_OK;
}

static bench_item *oracle_item(bench_out *out, const oracle_bench *o, const bench_times *t, const char *name)
{
    bench_item *it = bench_add(out, "n %u, %s", o->n, name);

    it->time = *t;
    it->elements = (double)o->n * o->steps;
    it->bytes = 4 * it->elements;
    it->extra[0].name = "ns_per_elem", it->extra[0].value = t->min_s / it->elements * 1e9;
    it->extra[1].name = "us_per_row", it->extra[1].value = t->min_s / o->steps * 1e6;
    return it;
}

static kvt_status oracle_size(bench_out *out, uint32_t n, kvt_err *err)
{
    oracle_bench o;
    bench_times rt, st_times;
    bench_item *it;
    double worst = 0;
    kvt_status st;

    KVT_TRY_GOTO(st, oracle_make(&o, &out->conf, n, err));
    KVT_TRY_GOTO(st, bench_pair(&out->conf, oracle_sorted, &o, oracle_selected, &o, &rt, &st_times, err));
    for (size_t i = 0; i < (size_t)o.steps * o.n_budgets; i++)
        worst = fmax(worst, fabs(kvt_from_q31(o.plain[i]) - kvt_from_q31(o.fast[i])));
    (void)oracle_item(out, &o, &rt, "sort and prefix");
    it = oracle_item(out, &o, &st_times, "selection");
    bench_reference(it, "sort and prefix", &rt, 0, "s");
    it->ratio = rt.min_s / st_times.min_s;
    bench_check(it, "sort and prefix", worst, 0);
    if (n == 4608)
        bench_target_add(out, "O1", it->ratio, ">=", 12);
    if (n == 32768)
        bench_target_add(out, "O1 32768", it->ratio, ">=", 40);
done:
    oracle_free(&o);
    return st;
}

kvt_status bench_oracle(bench_out *o, kvt_err *err)
{
    bench_conf *c = &o->conf;
    const uint32_t n = c->n;

    c->steps = c->steps ? c->steps : 64;
    c->budgets[0] = c->budgets[0] ? c->budgets[0] : 32;
    c->threads = 1;
    KVT_TRY(oracle_size(o, n ? n : 4608, err));
    if (!n)
        KVT_TRY(oracle_size(o, c->n = 32768, err));
    bench_note(o, "selection includes the transposition of a tile into rows; the reference is given rows");
    return KVT_OK;
}

/* ---------------------------------------------------------------------- stats */

typedef struct stats_bench {
    const kvt_kernels *kern;
    uint32_t  cells, steps;
    uint32_t *x, *scratch;          /* [cells][steps] losses x 2^31; [16][steps]      */
    uint8_t  *skip;                 /* [steps] none                                   */
    kvt_tail *plain, *fast;         /* [cells]                                        */
} stats_bench;

static int stats_cmp(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Mean, largest, 95 % quantile, mean of the worst 5 %. */
static kvt_status stats_qsort(void *arg, double *s, kvt_err *err)
{
    const stats_bench *b = arg;
    const uint32_t n = b->steps, at = (uint32_t)(((uint64_t)(n - 1) * 95 + 99) / 100);
    const double worst = 0.05 * n;

    (void)s, (void)err;
    for (uint32_t k = 0; k < b->cells; k++) {
        double sum = 0, tail = 0;
        memcpy(b->scratch, b->x + (size_t)k * n, n * sizeof *b->scratch);
        qsort(b->scratch, n, sizeof *b->scratch, stats_cmp);
        for (uint32_t i = 0; i < n; i++)
            sum += b->scratch[i];
        for (uint32_t i = 0; i < (uint32_t)worst; i++)
            tail += b->scratch[n - 1 - i];
        if ((uint32_t)worst < n)
            tail += b->scratch[n - 1 - (uint32_t)worst] * (worst - (uint32_t)worst);
        b->plain[k] = (kvt_tail){ .n = n, .mean = sum / n / KVT_Q31_ONE, .max = kvt_from_q31(b->scratch[n - 1]),
                                  .q95 = kvt_from_q31(b->scratch[at]), .cvar95 = tail / worst / KVT_Q31_ONE };
    }
    return KVT_OK;
}

static kvt_status stats_radix(void *arg, double *s, kvt_err *err)
{
    const stats_bench *b = arg;

    (void)s, (void)err;
    for (uint32_t k = 0; k < b->cells; k++)
        kvt_tail_of(b->x + (size_t)k * b->steps, b->skip, b->steps, b->scratch, &b->plain[k]);
    return KVT_OK;
}

static kvt_status stats_lanes(void *arg, double *s, kvt_err *err)
{
    const stats_bench *b = arg;

    (void)s, (void)err;
    for (uint32_t k = 0; k < b->cells; k += KVT_TILE) {
        const uint32_t *x[KVT_TILE];
        const uint8_t *skip[KVT_TILE];
        const uint32_t n = b->cells - k < KVT_TILE ? b->cells - k : KVT_TILE;
        for (uint32_t i = 0; i < n; i++)
            x[i] = b->x + (size_t)(k + i) * b->steps, skip[i] = b->skip;
        kvt_tails_of(b->kern, x, skip, n, b->steps, b->scratch, b->fast + k);
    }
    return KVT_OK;
}

static bench_item *stats_item(bench_out *o, const stats_bench *b, const bench_times *t, const char *name)
{
    const double values = (double)b->cells * b->steps;
    bench_item *it = bench_add(o, "%s", name);

    it->time = *t;
    it->elements = values;
    it->bytes = 4 * values;
    it->extra[0].name = "ns_per_value", it->extra[0].value = t->min_s / values * 1e9;
    return it;
}

static double stats_error(const stats_bench *b)
{
    double worst = 0;

    for (uint32_t k = 0; k < b->cells; k++) {
        const kvt_tail *p = &b->plain[k], *f = &b->fast[k];
        worst = fmax(worst, fmax(fmax(fabs(p->mean - f->mean), fabs(p->max - f->max)), fmax(fabs(p->q95 - f->q95), fabs(p->cvar95 - f->cvar95))));
    }
    return worst;
}

/* Against reading as many values from L2. */
static kvt_status stats_against_l2(bench_out *o, stats_bench *b, kvt_err *err)
{
    bench_read_arg l2 = { .bytes = bench_l2_bytes(), .passes = 64 };
    bench_times rt, t;
    void *data = NULL;
    bench_item *it;
    kvt_status st;

    if (posix_memalign(&data, 4096, l2.bytes) != 0)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    memset(data, 1, l2.bytes);
    l2.data = data;
    st = bench_pair(&o->conf, bench_read, &l2, stats_lanes, b, &rt, &t, err);
    free(data);
    KVT_TRY(st);
    it = stats_item(o, b, &t, "16 cells at a time, of L2");
    bench_reference(it, "L2 read", &rt, (double)l2.bytes * l2.passes, "B/s");
    it->ratio = it->bytes / t.min_s / it->ref_value;
    return KVT_OK;
}

kvt_status bench_stats(bench_out *o, kvt_err *err)
{
    bench_conf *c = &o->conf;
    stats_bench b = { .kern = c->kern };
    bench_times rt, t;
    bench_item *it;
    kvt_status st;

    c->steps = c->steps ? c->steps : 512;
    c->policies = c->policies ? c->policies : 16;
    c->budgets[0] = c->budgets[0] ? c->budgets[0] : 32;
    c->threads = 1;
    b.steps = c->steps, b.cells = c->policies * c->budgets[0];
    b.x = malloc((size_t)b.cells * b.steps * sizeof *b.x);
    b.scratch = malloc((size_t)b.steps * KVT_TILE * sizeof *b.scratch);
    b.skip = calloc(b.steps, 1);
    b.plain = calloc(b.cells, sizeof *b.plain);
    b.fast = calloc(b.cells, sizeof *b.fast);
    if (!b.x || !b.scratch || !b.skip || !b.plain || !b.fast) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    for (size_t i = 0; i < (size_t)b.cells * b.steps; i++)
        b.x[i] = kvt_q31(fmin(1, 0.05 * exp(bench_normal(c->seed, 6, i))));
    KVT_TRY_GOTO(st, bench_pair(c, stats_qsort, &b, stats_radix, &b, &rt, &t, err));
    it = stats_item(o, &b, &t, "radix sort of each cell");
    bench_reference(it, "qsort of each cell", &rt, 0, "s");
    it->ratio = rt.min_s / t.min_s;
    KVT_TRY_GOTO(st, bench_pair(c, stats_qsort, &b, stats_lanes, &b, &rt, &t, err));
    (void)stats_item(o, &b, &rt, "qsort of each cell");
    it = stats_item(o, &b, &t, "16 cells at a time");
    bench_reference(it, "qsort of each cell", &rt, 0, "s");
    it->ratio = rt.min_s / t.min_s;
    bench_check(it, "qsort of each cell", stats_error(&b), 1e-12);
    bench_target_add(o, "S6", it->ratio, ">=", 15);
    KVT_TRY_GOTO(st, stats_against_l2(o, &b, err));
done:
    free(b.x), free(b.scratch), free(b.skip), free(b.plain), free(b.fast);
    return st;
}
