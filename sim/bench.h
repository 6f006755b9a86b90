/* bench.h - measured ratios: what the engine does beside what the machine can do, or
 * beside the plain way of doing it.
 *
 * Reference and subject alternate (A B A B ...), at least `reps` times and `least_s`
 * seconds each; a ratio is minimum over minimum. Medians are kept to tell whether the
 * machine was quiet: `spread` is median over minimum of the reference. Accuracy is that
 * of the output that was timed. Private to cmd_bench.c and bench_*.c. */
#ifndef KVT_BENCH_H
#define KVT_BENCH_H

#include <stddef.h>
#include <stdint.h>
#include "kvt_kernels.h"
#include "kvt_status.h"

enum { BENCH_ITEMS_MAX = 32, BENCH_TARGETS_MAX = 8, BENCH_NOTES_MAX = 8, BENCH_REPS = 10 };

typedef struct bench_conf {         /* 0 = what the bench takes by itself             */
    const kvt_kernels *kern;
    int         isa_given;          /* rows: only this one                            */
    uint32_t    threads, layers, heads, kv_heads, d, n, steps, policies;
    uint32_t    budgets[2];         /* mass: [1] is the count to compare with, 0 = none */
    uint32_t    reps;               /* at least; below BENCH_REPS nothing is conclusive */
    double      least_s;            /* of each side                                   */
    uint64_t    seed, disk_bytes;
    const char *dir;                /* for files that are made and removed            */
    const char *trace;              /* instead of a synthetic one, or NULL            */
    int         baseline;           /* sweep: against the naive one                   */
} bench_conf;

typedef struct bench_times {
    uint32_t reps;
    double   min_s, p25_s, median_s;
} bench_times;

typedef struct bench_item {
    char        name[48];
    bench_times time;
    double      elements, bytes, flops;     /* of one repetition; 0 = not counted     */
    struct { const char *name; double value; } extra[2];
    const char *ref_name, *ref_unit;        /* NULL: measured without a reference     */
    double      ref_value, spread;
    double      ratio;
    const char *against;                    /* NULL: no output to check               */
    double      max_err, tol;
} bench_item;

typedef struct bench_target {
    const char *id, *op;            /* ">=" or "<="                                   */
    double      value, limit;
    int         ok;
} bench_target;

typedef struct bench_out {          /* what one bench measured                        */
    bench_conf   conf;              /* with the sizes that were used                  */
    bench_item   item[BENCH_ITEMS_MAX];
    uint32_t     n_items;
    bench_target target[BENCH_TARGETS_MAX];
    uint32_t     n_targets;
    char         note[BENCH_NOTES_MAX][240];
    uint32_t     n_notes;
    int          has_baseline;      /* sweep: 1 = naive_sweep.py ran, 0 = it could not, -1 = not asked */
} bench_out;

typedef struct bench_def {
    const char *name, *what;
    kvt_status (*run)(bench_out *o, kvt_err *err);      /* o->conf is filled in       */
} bench_def;
extern const bench_def bench_defs[];        /* ends with name NULL                    */

/* One repetition. *s < 0 on entry: the caller's clock counts; a function that prepares
 * something first, or is timed elsewhere, sets it. */
typedef kvt_status (*bench_fn)(void *arg, double *s, kvt_err *err);

/* bench_run.c */
double      bench_now_s(void);
/* ref NULL: the subject alone. */
kvt_status  bench_pair(const bench_conf *c, bench_fn ref, void *ref_arg, bench_fn sub, void *sub_arg,
                       bench_times *ref_times, bench_times *sub_times, kvt_err *err) KVT_NODISCARD;
bench_item *bench_add(bench_out *o, const char *fmt, ...) KVT_PRINTF(2, 3);
void        bench_reference(bench_item *it, const char *name, const bench_times *t, double work, const char *unit);
void        bench_check(bench_item *it, const char *against, double max_err, double tol);
void        bench_target_add(bench_out *o, const char *id, double value, const char *op, double limit);
void        bench_note(bench_out *o, const char *fmt, ...) KVT_PRINTF(2, 3);
/* Uniform in [0, 1) and roughly normal numbers, by counter. */
double      bench_uniform(uint64_t seed, uint32_t stream, uint64_t i);
double      bench_normal(uint64_t seed, uint32_t stream, uint64_t i);
/* rank[n]: a random permutation. */
void        bench_permutation(uint64_t seed, uint32_t stream, uint32_t n, uint32_t *rank);
/* cut[n_budgets]: counts between 1 and 99 % of n, geometric, ascending. */
void        bench_cuts(uint32_t n, uint32_t n_budgets, uint32_t *cut);

/* bench_peak.c */
typedef struct bench_read_arg { const void *data; size_t bytes; uint32_t passes; uint64_t sum; } bench_read_arg;
kvt_status  bench_read(void *arg, double *s, kvt_err *err);     /* reads data, passes times */
/* Bytes of a buffer that lies in L2. */
size_t      bench_l2_bytes(void);
typedef struct bench_fma_arg { const char *isa; int f64; double flops, sum; } bench_fma_arg;
kvt_status  bench_fma(void *arg, double *s, kvt_err *err);      /* sets flops                */
int         bench_fma_usable(const char *isa);
/* A file of `bytes`, a multiple of BENCH_BLOCK, in blocks of that size: written anew and
 * synced; read after its pages were given back. block: [BENCH_BLOCK], the caller's. */
#define BENCH_BLOCK ((size_t)1 << 20)
typedef struct bench_disk { char path[1024], *block; size_t bytes; } bench_disk;
kvt_status  bench_disk_write(void *arg, double *s, kvt_err *err);
kvt_status  bench_disk_read(void *arg, double *s, kvt_err *err);
kvt_status  bench_peak(bench_out *o, kvt_err *err);

/* bench_rows.c, bench_mass.c, bench_oracle.c, bench_sweep.c, bench_growth.c, bench_io.c, bench_stack.c,
 * bench_minimax.c, bench_outerr.c, bench_colstat.c */
kvt_status  bench_rows(bench_out *o, kvt_err *err);
kvt_status  bench_mass(bench_out *o, kvt_err *err);
kvt_status  bench_oracle(bench_out *o, kvt_err *err);
kvt_status  bench_stats(bench_out *o, kvt_err *err);
kvt_status  bench_sweep(bench_out *o, kvt_err *err);
kvt_status  bench_scale(bench_out *o, kvt_err *err);
kvt_status  bench_store(bench_out *o, kvt_err *err);
kvt_status  bench_trace_read(bench_out *o, kvt_err *err);
kvt_status  bench_trace_write(bench_out *o, kvt_err *err);
kvt_status  bench_stack(bench_out *o, kvt_err *err);
kvt_status  bench_minimax(bench_out *o, kvt_err *err);
kvt_status  bench_outerr(bench_out *o, kvt_err *err);
kvt_status  bench_colstat(bench_out *o, kvt_err *err);

#endif
