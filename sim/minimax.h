/* minimax.h - how small the worst step of one query head can be made by a fixed set of
 * `count` entries, chosen with full knowledge of the trace: a certified lower bound of
 * what every fixed set loses somewhere, and the best set found. */
#ifndef KVT_MINIMAX_H
#define KVT_MINIMAX_H

#include <stddef.h>
#include <stdint.h>
#include "kvt_kernels.h"
#include "kvt_status.h"

#define KVT_MINIMAX_ITER 20u        /* iterations of one search                        */
#define KVT_MINIMAX_MOST 64u        /* while bound and set are further apart than      */
#define KVT_MINIMAX_WIDE 0.02       /* this                                            */
#define KVT_MINIMAX_TOL  1e-3       /* a search ends when bound and set are this near  */

typedef enum kvt_minimax_stop {
    KVT_MINIMAX_TRIVIAL,            /* everything fits, or there is one row            */
    KVT_MINIMAX_CERTIFIED,          /* the set is within the tolerance of the bound    */
    KVT_MINIMAX_FRACTIONAL,         /* the bound is that of fractional sets: the rest is integrality */
    KVT_MINIMAX_LIMIT
} kvt_minimax_stop;

typedef struct kvt_minimax_rows {   /* the evictable part of the rows of one query head */
    const float *tile;              /* [blocks][block_stride] of [n][16]; lanes past n_rows are 0 */
    size_t       block_stride;      /* floats                                          */
    uint32_t     n, n_rows;
    const double *sum;              /* [n] of the rows, or NULL: sets of its largest entries are candidates */
    const kvt_kernels *kern;
} kvt_minimax_rows;

typedef struct kvt_minimax_point {  /* one count; the caller owns what is pointed to   */
    uint32_t  count;                /* in: size of the sets                            */
    int       shared;               /* in: its search improves all counts, not only its own */
    double    oracle_max;           /* in: largest loss of the per-step oracle         */
    uint32_t  oracle_at;            /* in: first row that reaches it                   */
    double    lo, up;               /* bound and worst loss of the set, in double      */
    double   *lambda;               /* [n_rows] weights of the bound                   */
    uint8_t  *set;                  /* [n] 0/1                                         */
    uint32_t  n_iter;               /* of the searches that could improve it           */
    kvt_minimax_stop stop;
} kvt_minimax_point;

/* Called after every iteration of a search, for tests. */
typedef struct kvt_minimax_trace {
    void (*step)(void *user, uint32_t r, double eta, const double *lambda, const double *lost, double bound, double delta,
                 const kvt_minimax_point *own);
    void  *user;
} kvt_minimax_trace;

/* Counts ascending. A search takes max_iter iterations, up to most_iter while its bound and
 * set are more than KVT_MINIMAX_WIDE apart, these for its own count alone. Searches run for shared counts first, then for the others: what a
 * point receives does not depend on which others that are not shared are there. trace may
 * be NULL. */
kvt_status kvt_minimax(const kvt_minimax_rows *rows, kvt_minimax_point *point, uint32_t n_points, uint32_t max_iter,
                       uint32_t most_iter, const kvt_minimax_trace *trace, kvt_err *err) KVT_NODISCARD;

/* The certificate uses integers only. Weights: floor(lambda 2^31), one more for the largest
 * remainders, ties to the lower row, so that the sum is 2^31. */
kvt_status kvt_minimax_quantise(const double *lambda, uint32_t n, uint32_t *out, kvt_err *err) KVT_NODISCARD;
/* Add 16 rows q[n][16] (Q1.31) with their weights: column[j] += weight q, *total += both. */
void kvt_minimax_weigh(const uint32_t *q, uint32_t n, const uint32_t *weight, uint64_t *column, uint64_t *total);
/* floor((total - sum of the `count` largest columns) / 2^31); sorts column. */
uint32_t kvt_minimax_bound_q31(uint64_t *column, uint32_t n, uint32_t count, uint64_t total);
/* All of it: weights of a point into weight[n_rows]; returns the bound. */
kvt_status kvt_minimax_certify(const kvt_minimax_rows *rows, const kvt_minimax_point *point, uint32_t *weight,
                               uint32_t *bound_q31, kvt_err *err) KVT_NODISCARD;

#endif
