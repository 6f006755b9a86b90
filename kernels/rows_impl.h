/* rows_impl.h - the one source of the row kernels, compiled once per instruction set.
 *
 * A file rows_<isa>.c defines KVT_ISA (the table's name), KVT_ISA_KEYS (keys whose
 * accumulators fit its registers) and KVT_ISA_USABLE, then includes this. The loops over
 * 16 lanes have no branch and no order of their own, so the compiler turns them into
 * packed instructions; the arithmetic of one lane is the same chain everywhere. What must
 * hold for that: every fused operation is written as __builtin_fma, contraction is off,
 * rounding is to nearest. Without KVT_ISA only the exponential is defined. */
#ifndef KVT_ROWS_IMPL_H
#define KVT_ROWS_IMPL_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif
#include "kvt_kernels.h"

/* exp(x): n = x / ln 2 rounded to nearest, r = x - n ln 2 in two fused steps,
 * |r| <= 0.3466, the series of e^r up to r^12 / 12! (remainder below 2e-16) as one chain
 * of even and one of odd powers, times 2^n.
 * Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits of the sum,
 * without a rounding instruction that some instruction set lacks. NaN stays NaN. The
 * two bounds are applied to x: a choice after the arithmetic would become a branch. */
static inline double kvt_exp_steps(double x)
{
    const double log2e = 0x1.71547652b82fep+0, ln2_hi = 0x1.62e42fefa39efp-1,
                 ln2_lo = 0x1.abc9e3b39803fp-56, shift = 0x1.8p+52;
    double t, n, r, r2, two_n, even = 1.0 / 479001600.0, odd = 1.0 / 39916800.0;
    uint64_t bits;

    x = x < -700.0 ? -709.0 : x;                    /* n = -1023: 2^n below is +0      */
    x = x > 709.0 ? 710.0 : x;                      /* n = 1024: 2^n below is infinity */
    t = __builtin_fma(x, log2e, shift);
    n = t - shift;
    r = __builtin_fma(-n, ln2_lo, __builtin_fma(-n, ln2_hi, x));

    r2 = r * r;
    even = __builtin_fma(even, r2, 1.0 / 3628800.0);
    odd = __builtin_fma(odd, r2, 1.0 / 362880.0);
    even = __builtin_fma(even, r2, 1.0 / 40320.0);
    odd = __builtin_fma(odd, r2, 1.0 / 5040.0);
    even = __builtin_fma(even, r2, 1.0 / 720.0);
    odd = __builtin_fma(odd, r2, 1.0 / 120.0);
    even = __builtin_fma(even, r2, 1.0 / 24.0);
    odd = __builtin_fma(odd, r2, 1.0 / 6.0);
    even = __builtin_fma(even, r2, 0.5);
    odd = __builtin_fma(odd, r2, 1.0);
    even = __builtin_fma(even, r2, 1.0);
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 1023u) << 52;                    /* n + 1023 is the biased exponent */
    memcpy(&two_n, &bits, sizeof two_n);
    return __builtin_fma(odd, r, even) * two_n;
}

#endif

#ifdef KVT_ISA

#define KVT_PASTE_(a, b) a##b
#define KVT_PASTE(a, b)  KVT_PASTE_(a, b)
#define KVT_TEXT_(a)     #a
#define KVT_TEXT(a)      KVT_TEXT_(a)

enum { KEYS = KVT_ISA_KEYS, LANES = KVT_TILE, CHANNELS = 128 };

/* x[i][lane] = sum_c q[lane][c] k[first + i][c], one fused chain from 0 over the channels
 * in index order. Keys behind the last one repeat it; their results are not used. */
static void dots(const kvt_rows_args *a, uint32_t first, double x[KEYS][LANES])
{
    double sum[KEYS][LANES] = {{0}}, wide[KEYS][CHANNELS];

    for (uint32_t c0 = 0; c0 < a->d; c0 += CHANNELS) {
        const uint32_t n = a->d - c0 < CHANNELS ? a->d - c0 : CHANNELS;

        for (uint32_t i = 0; i < KEYS; i++) {
            const uint32_t key = first + i < a->n_keys ? first + i : a->n_keys - 1;
            const float *k = a->k + (size_t)key * a->d + c0;
            for (uint32_t c = 0; c < n; c++) wide[i][c] = (double)k[c];
        }
        for (uint32_t c = 0; c < n; c++) {
            const double *q = a->qt + (size_t)(c0 + c) * LANES;
            for (uint32_t l = 0; l < LANES; l++)
                for (uint32_t i = 0; i < KEYS; i++)
                    sum[i][l] = __builtin_fma(wide[i][c], q[l], sum[i][l]);
        }
    }
    memcpy(x, sum, sizeof sum);
}

/* Products to logits, in place. tanh(y) = 1 - 2 / (exp(2 y) + 1) is exact to 2e-16 of
 * its range, which is what a logit needs, and does not depend on the C library. */
static void to_logits(const kvt_rows_args *a, double x[LANES])
{
    const double scale = a->scale, cap = a->softcap;

    for (uint32_t l = 0; l < LANES; l++) x[l] *= scale;
    if (cap > 0)
        for (uint32_t l = 0; l < LANES; l++)
            x[l] = cap * (1.0 - 2.0 / (kvt_exp_steps(2.0 * (x[l] / cap)) + 1.0));
}

static void rows(const kvt_rows_args *a)
{
    double x[KEYS][LANES];
    uint32_t limit[LANES], seen = 0;     /* lane l sees keys 0..limit[l]-1; seen: the most */

    for (uint32_t l = 0; l < LANES; l++) {
        limit[l] = a->lse[l] == (double)INFINITY ? 0 : a->n_visible[l];
        seen = limit[l] > seen ? limit[l] : seen;
    }
    seen = seen < a->n_keys ? seen : a->n_keys;
    for (uint32_t j0 = 0; j0 < seen; j0 += KEYS) {
        const uint32_t n = seen - j0 < KEYS ? seen - j0 : KEYS;

        dots(a, j0, x);
        for (uint32_t i = 0; i < n; i++) {
            float *restrict out = a->tile + (size_t)(j0 + i) * LANES;
            const uint32_t j = j0 + i;
            double e[LANES];

            to_logits(a, x[i]);
            for (uint32_t l = 0; l < LANES; l++) e[l] = kvt_exp_steps(x[i][l] - a->lse[l]);
            for (uint32_t l = 0; l < LANES; l++) out[l] = j < limit[l] ? (float)e[l] : 0.0f;
        }
    }
    if (seen < a->n_keys)
        memset(a->tile + (size_t)seen * LANES, 0, (size_t)(a->n_keys - seen) * LANES * sizeof(float));
}

static void logits(const kvt_rows_args *a, double *z)
{
    double x[KEYS][LANES];

    for (uint32_t j0 = 0; j0 < a->n_keys; j0 += KEYS) {
        const uint32_t n = a->n_keys - j0 < KEYS ? a->n_keys - j0 : KEYS;

        dots(a, j0, x);
        for (uint32_t i = 0; i < n; i++) {
            to_logits(a, x[i]);
            memcpy(z + (size_t)(j0 + i) * LANES, x[i], sizeof x[i]);
        }
    }
}

/* Four lanes at a time, said explicitly: left as a loop over 16 lanes it is unrolled before
 * it could be vectorised. The terms are those of kvt_mass(). */
typedef float  row_f4 __attribute__((vector_size(16)));
typedef double row_d4 __attribute__((vector_size(32)));

/* *x = the four floats at p, by one instruction where there is one: gcc 12 makes four of
 * __builtin_convertvector(). */
static inline void row_widen(const float *p, row_d4 *x)
{
    row_f4 a;

    memcpy(&a, p, sizeof a);
#ifdef __AVX__
    *x = (row_d4)_mm256_cvtps_pd((__m128)a);
#else
    *x = __builtin_convertvector(a, row_d4);
#endif
}

static void class_mass(const float *tile, uint32_t n_keys, const uint16_t *cls, double *mass)
{
    for (uint32_t j = 0; j < n_keys; j++) {
        double *m = mass + (size_t)cls[j] * LANES;

        for (uint32_t l = 0; l < LANES; l += 4) {
            row_d4 sum, x;

            row_widen(tile + (size_t)j * LANES + l, &x);
            memcpy(&sum, m + l, sizeof sum);
            sum += (x + 6144.0) - 6144.0;
            memcpy(m + l, &sum, sizeof sum);
        }
    }
}

static void masses(const float *tile, uint32_t n_keys, float *out)
{
    for (uint32_t j = 0; j < n_keys; j++)
        for (uint32_t l = 0; l < LANES; l += 4) {
            row_f4 a;
            row_d4 x;

            row_widen(tile + (size_t)j * LANES + l, &x);
            a = __builtin_convertvector((x + 6144.0) - 6144.0, row_f4);
            memcpy(out + (size_t)j * LANES + l, &a, sizeof a);
        }
}

/* A class is summed in registers: two keys at a time, so that an addition need not wait for
 * the one before it. The sums are exact, so how they are paired does not matter. */
static void line_mass(const float *tile, const uint16_t *key, const uint32_t *start, uint32_t n_cls, double *mass)
{
    for (uint32_t c = 0; c < n_cls; c++) {
        row_d4 even[LANES / 4], odd[LANES / 4] = {{ 0 }};
        uint32_t i = start[c];

        memcpy(even, mass + (size_t)c * LANES, sizeof even);
        for (; i + 2 <= start[c + 1]; i += 2) {
            const float *x = tile + (size_t)key[i] * LANES, *y = tile + (size_t)key[i + 1] * LANES;
            for (uint32_t l = 0; l < LANES / 4; l++) {
                row_d4 a, b;
                row_widen(x + 4 * l, &a);
                row_widen(y + 4 * l, &b);
                even[l] += a;
                odd[l] += b;
            }
        }
        for (uint32_t l = 0; i < start[c + 1] && l < LANES / 4; l++) {
            row_d4 a;
            row_widen(tile + (size_t)key[i] * LANES + 4 * l, &a);
            even[l] += a;
        }
        for (uint32_t l = 0; l < LANES / 4; l++)
            even[l] += odd[l];
        memcpy(mass + (size_t)c * LANES, even, sizeof even);
    }
}

const kvt_kernels KVT_PASTE(kvt_kernels_, KVT_ISA) = {
    KVT_TEXT(KVT_ISA), KVT_ISA_USABLE, rows, logits, class_mass, masses, line_mass, sort16
};

#endif
