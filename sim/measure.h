/* measure.h - from one series of losses, a value per decode step, to the numbers that
 * are stored. A series is Q1.31 integers (value x 2^31), so sums and comparisons are
 * exact and do not depend on an order; only the last division is floating point. */
#ifndef KVT_MEASURE_H
#define KVT_MEASURE_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#include "kvt_kernels.h"

#define KVT_Q31_ONE 2147483648.0

/* x in [0, 2^31] to the nearest integer, halves to even: added to 2^52 it is rounded to an
 * integer and stands in the low bits, without a call of the C library. */
static inline uint32_t kvt_round(double x)
{
    const double shifted = x + 4503599627370496.0;
    uint64_t bits;

    memcpy(&bits, &shifted, sizeof bits);
    return (uint32_t)bits;
}

/* x 2^31, rounded, clamped to [0, 2^31]; NaN gives 0. */
static inline uint32_t kvt_q31(double x) { return kvt_round((x > 0 ? x < 1 ? x : 1 : 0) * KVT_Q31_ONE); }
static inline double kvt_from_q31(uint32_t q) { return (double)q / KVT_Q31_ONE; }

typedef struct kvt_tail {           /* of the values that count                       */
    uint32_t n;
    double   mean, max;             /* 0 when n == 0                                  */
    uint32_t max_at;                /* index into the series of the first maximum     */
    double   q50, q90, q95, q99;    /* the value of rank ceil((n-1)p) + 1: `higher`   */
    double   cvar95, cvar99;        /* mean of the worst 5 %, 1 %, fractional last atom */
} kvt_tail;

/* Of the values x[i], i < n, with skip == NULL or skip[i] == 0: n, mean, max and max_at; the
 * rest, which needs them in order, is 0. */
void kvt_top_of(const uint32_t *x, const uint8_t *skip, uint32_t n, kvt_tail *out);

/* Tail of the values x[i], i < n, with skip == NULL or skip[i] == 0. scratch: 2 n
 * entries. */
void kvt_tail_of(const uint32_t *x, const uint8_t *skip, uint32_t n, uint32_t *scratch, kvt_tail *out);

/* The same for n_series <= 16 series x[k] of n values each, none above 2^31, with skip[k]
 * not NULL: sorted side by side, the same numbers. scratch: 16 n entries. */
void kvt_tails_of(const kvt_kernels *kern, const uint32_t *const *x, const uint8_t *const *skip, uint32_t n_series, uint32_t n,
                  uint32_t *scratch, kvt_tail *out);

/* The same for unbounded values (output errors); NaN is skipped. scratch: n doubles. */
void kvt_tail_of_real(const double *x, uint32_t n, double *scratch, kvt_tail *out);

/* Exceedances of tau by the steps that count; runs end where a step does not exceed. */
typedef struct kvt_runs {
    uint32_t n_exceed, n_run, longest, longest_start, first;
    double   area;                  /* sum of (x - tau)+                              */
} kvt_runs;
void kvt_runs_of(const uint32_t *x, uint32_t first, uint32_t n, uint32_t tau_q31, kvt_runs *out);

/* Sort ascending; tmp has n entries. The bits of non-negative floats sort like the
 * floats. */
void kvt_sort_u32(uint32_t *x, uint32_t n, uint32_t *tmp);

/* out[i].j: the index of the i-th largest of sums x[n], equal ones by rising index. Sums are
 * not negative (nor -0). tmp: n more. */
typedef struct kvt_ranked { uint64_t key; uint32_t j; } kvt_ranked;
void kvt_rank_sums(const double *x, uint32_t n, kvt_ranked *out, kvt_ranked *tmp);

#endif
