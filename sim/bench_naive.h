/* bench_naive.h - the same losses the plain way: one masked sum per policy and budget,
 * in numpy (tests/bench/naive_sweep.py, a part of the program's text) or, where there is
 * no numpy, in C. */
#ifndef KVT_BENCH_NAIVE_H
#define KVT_BENCH_NAIVE_H

#include "bench_engine.h"

enum { NAIVE_PAIRS = 32, NAIVE_HEADS = 4 };

typedef struct bench_naive {
    bench_engine *e;
    uint32_t    n_heads, n_threads; /* heads that are measured                        */
    uint32_t    n_pairs;            /* (policy, budget) that are measured             */
    uint32_t    pair[NAIVE_PAIRS][2];
    double      scale_pairs, scale_heads;   /* to all of them                         */
    const char *dir;
    int         python;             /* 1: numpy, 0: C                                 */
    float      *row;                /* [n_heads][G][N]                                */
    float      *mask;               /* C: [n_heads][n_pairs][N]                       */
    float      *lost;               /* [n_heads][n_pairs][G]                          */
    float      *product;            /* C: [threads][N]                                */
    double      min_s[3];           /* forms a, b, c, scaled; c only in numpy         */
    int         form;               /* C: the one at hand                             */
} bench_naive;

/* Rows of e are computed here, and its first heads handed out. Tries numpy first. */
kvt_status bench_naive_new(bench_naive **out, bench_engine *e, const bench_conf *c, kvt_err *err) KVT_NODISCARD;
void       bench_naive_free(bench_naive *w);
/* A bench_fn: *s is form a, scaled to all heads, policies and budgets. */
kvt_status bench_naive_once(void *arg, double *s, kvt_err *err);
/* Largest difference to the mean and maximum losses of e; NaN when out of memory. */
double     bench_naive_error(const bench_naive *w);

#endif
