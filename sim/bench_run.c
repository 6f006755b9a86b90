/* bench_run.c - the method: alternating repetitions, minima, inputs from the seed. */
#include "bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "kvt_philox.h"

enum { RUN_REPS_MAX = 1 << 20 };

const bench_def bench_defs[] = {
    { "peak",  "what the machine can do: DRAM, L2, L3, fused multiply-adds, disk", bench_peak },
    { "rows",  "attention rows of one head per instruction set, against the measured FMA peak", bench_rows },
    { "mass",  "evicted mass of all policies and budgets, against a scalar gather", bench_mass },
    { "oracle", "per-step oracle at every budget, against sorting each row", bench_oracle },
    { "stats", "quantiles and tail means of cells, against qsort of each cell", bench_stats },
    { "sweep", "a whole replay against its decode rows alone; --baseline: against a naive sweep in numpy", bench_sweep },
    { "scale", "growth of a replay with layers, steps, keys and budgets", bench_scale },
    { "store", "a replay into a database against one whose results are dropped", bench_store },
    { "trace-read", "a trace read as floats: warm against the memory, cold against plain reads of the disk", bench_trace_read },
    { "trace-write", "a trace written, with digests, up to its final name, against plain writes and fsync", bench_trace_write },
    { "stack", "curves of online policies from one run, against a simulation of every budget", bench_stack },
    { "minimax", "the search for the best fixed set, against reading the rows; its bound after few and many iterations", bench_minimax },
    { "outerr", "error of the attention output at every budget, against the measured FMA peak", bench_outerr },
    { "colstat", "column sums of the prompt's rows, against decode rows", bench_colstat },
    { NULL, NULL, NULL }
};

double bench_now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int run_cmp(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run_times(double *s, uint32_t n, bench_times *out)
{
    qsort(s, n, sizeof *s, run_cmp);
    *out = (bench_times){ .reps = n, .min_s = s[0], .p25_s = s[n / 4], .median_s = s[n / 2] };
}

static kvt_status run_once(bench_fn fn, void *arg, double *s, kvt_err *err)
{
    const double start = bench_now_s();

    *s = -1;
    KVT_TRY(fn(arg, s, err));
    if (*s < 0)
        *s = bench_now_s() - start;
    return KVT_OK;
}

kvt_status bench_pair(const bench_conf *c, bench_fn ref, void *ref_arg, bench_fn sub, void *sub_arg,
                      bench_times *ref_times, bench_times *sub_times, kvt_err *err)
{
    double *s[2] = { NULL, NULL }, total[2] = { 0, 0 };
    uint32_t n = 0, cap = 0;
    kvt_status st = KVT_OK;

    while (n < RUN_REPS_MAX && (n < c->reps || total[1] < c->least_s || (ref && total[0] < c->least_s))) {
        if (n == cap) {
            cap = cap ? 2 * cap : 64;
            for (int k = 0; k < 2; k++) {
                double *more = realloc(s[k], cap * sizeof *more);
                if (!more) {
                    st = kvt_fail(err, KVT_ENOMEM, "out of memory");
                    goto done;
                }
                s[k] = more;
            }
        }
        if (ref)
            KVT_TRY_GOTO(st, run_once(ref, ref_arg, &s[0][n], err));
        KVT_TRY_GOTO(st, run_once(sub, sub_arg, &s[1][n], err));
        total[0] += ref ? s[0][n] : 0;
        total[1] += s[1][n++];
    }
    if (ref)
        run_times(s[0], n, ref_times);
    run_times(s[1], n, sub_times);
done:
    free(s[0]), free(s[1]);
    return st;
}

bench_item *bench_add(bench_out *o, const char *fmt, ...)
{
    bench_item *it = &o->item[o->n_items++];
    va_list ap;

    KVT_ASSERT(o->n_items <= BENCH_ITEMS_MAX);
    *it = (bench_item){ .ratio = NAN, .ref_value = NAN };
    va_start(ap, fmt);
    vsnprintf(it->name, sizeof it->name, fmt, ap);
    va_end(ap);
    return it;
}

/* work > 0: the reference is a rate, else its time. */
void bench_reference(bench_item *it, const char *name, const bench_times *t, double work, const char *unit)
{
    it->ref_name = name;
    it->ref_unit = unit;
    it->ref_value = work > 0 ? work / t->min_s : t->min_s;
    it->spread = t->median_s / t->min_s;
}

void bench_check(bench_item *it, const char *against, double max_err, double tol)
{
    it->against = against;
    it->max_err = max_err;
    it->tol = tol;
}

void bench_target_add(bench_out *o, const char *id, double value, const char *op, double limit)
{
    bench_target *t = &o->target[o->n_targets++];

    KVT_ASSERT(o->n_targets <= BENCH_TARGETS_MAX);
    *t = (bench_target){ .id = id, .op = op, .value = value, .limit = limit };
    t->ok = op[0] == '>' ? value >= limit : value <= limit;      /* NaN holds nothing */
}

void bench_note(bench_out *o, const char *fmt, ...)
{
    va_list ap;

    KVT_ASSERT(o->n_notes < BENCH_NOTES_MAX);
    va_start(ap, fmt);
    vsnprintf(o->note[o->n_notes++], sizeof o->note[0], fmt, ap);
    va_end(ap);
}

double bench_uniform(uint64_t seed, uint32_t stream, uint64_t i)
{
    const uint32_t counter[4] = { (uint32_t)i, (uint32_t)(i >> 32), stream, 0 }, key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t x[4];

    kvt_philox4x32(counter, key, x);
    return (double)x[0] / 4294967296.0;
}

/* The sum of four uniform numbers, scaled to variance 1: near enough to a bell. */
double bench_normal(uint64_t seed, uint32_t stream, uint64_t i)
{
    const uint32_t counter[4] = { (uint32_t)i, (uint32_t)(i >> 32), stream, 1 }, key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t x[4];

    kvt_philox4x32(counter, key, x);
    return (((double)x[0] + (double)x[1] + (double)x[2] + (double)x[3]) / 4294967296.0 - 2) * sqrt(3.0);
}

void bench_permutation(uint64_t seed, uint32_t stream, uint32_t n, uint32_t *rank)
{
    for (uint32_t j = 0; j < n; j++)
        rank[j] = j;
    for (uint32_t j = n; j > 1; j--) {
        const uint32_t k = (uint32_t)(bench_uniform(seed, stream, j) * j), x = rank[j - 1];
        rank[j - 1] = rank[k];
        rank[k] = x;
    }
}

void bench_cuts(uint32_t n, uint32_t n_budgets, uint32_t *cut)
{
    for (uint32_t b = 0; b < n_budgets; b++) {
        const double at = n_budgets > 1 ? (double)b / (n_budgets - 1) : 1;
        const double x = 0.01 * pow(99.0, at) * n;
        cut[b] = x < 1 ? 1 : (uint32_t)(x + 0.5);
    }
}
