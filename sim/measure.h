/* measure.h - from one series of losses, a value per decode step, to the numbers that
 * are stored. A series is Q1.31 integers (value x 2^31), so sums and comparisons are
 * exact and do not depend on an order; only the last division is floating point. */
#ifndef KVT_MEASURE_H
#define KVT_MEASURE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define KVT_Q31_ONE 2147483648.0

/* x 2^31 to the nearest integer, halves to even, clamped to [0, 2^31]; NaN is 0. Adding
 * 1.5 * 2^52 rounds and leaves the integer in the low bits, without a call of llrint(). */
static inline uint32_t kvt_q31(double x)
{
    double y = (!(x > 0) ? 0 : x >= 1 ? 1 : x) * KVT_Q31_ONE + 0x1.8p+52;
    uint64_t bits;

    memcpy(&bits, &y, sizeof bits);
    return (uint32_t)bits;
}
static inline double kvt_from_q31(uint32_t q) { return (double)q / KVT_Q31_ONE; }

typedef struct kvt_tail {           /* of the values that count                       */
    uint32_t n;
    double   mean, max;             /* 0 when n == 0                                  */
    uint32_t max_at;                /* index into the series of the first maximum     */
    double   q50, q90, q95, q99;    /* the value of rank ceil((n-1)p) + 1: `higher`   */
    double   cvar95, cvar99;        /* mean of the worst 5 %, 1 %, fractional last atom */
} kvt_tail;

/* Tail of the values x[i], i < n, with skip == NULL or skip[i] == 0. scratch: 2 n
 * entries. */
void kvt_tail_of(const uint32_t *x, const uint8_t *skip, uint32_t n, uint32_t *scratch, kvt_tail *out);

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

#endif
