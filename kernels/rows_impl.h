/* rows_impl.h - the one source of the row kernels, compiled once per instruction set.
 *
 * A file rows_<isa>.c defines KVT_ISA (the table's name), KVT_ISA_KEYS and KVT_ISA_VECTORS
 * (keys, and vectors of lanes of each, whose sums fit its registers) and KVT_ISA_USABLE,
 * then includes this. The loops over
 * 16 lanes have no branch and no order of their own, so the compiler turns them into
 * packed instructions; the arithmetic of one lane is the same chain everywhere. What must
 * hold for that: every operation that has to be fused is written as such, contraction is
 * off, rounding is to nearest, queries are f32 values. Without KVT_ISA only the exponential is defined. */
#ifndef KVT_ROWS_IMPL_H
#define KVT_ROWS_IMPL_H

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif
#include "kvt_kernels.h"

/* Whether __builtin_fma() is an instruction; otherwise it is a call of the C library. */
#if defined(__FMA__) || defined(__FP_FAST_FMA) || defined(__aarch64__)
#define KVT_FMA_IS_FAST 1
#else
#define KVT_FMA_IS_FAST 0
#endif

static inline double kvt_mul_add(double a, double b, double c, int fused)
{
    return fused ? __builtin_fma(a, b, c) : a * b + c;
}

/* exp(x): n = x / ln 2 rounded to nearest, r = x - n ln 2 in two steps, |r| <= 0.3467, the
 * series of e^r up to r^12 / 12! (remainder below 2e-16) as one chain of even and one of
 * odd powers, times 2^n.
 * Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits of the sum,
 * without a rounding instruction that some instruction set lacks. NaN stays NaN. x is
 * within [-709, 710]: 2^n is +0 for n = -1023, infinity for n = 1024. Not fused, ln 2 is split so that n * ln2_hi is
 * exact: the result may differ in its last bits, by less than 1e-14 of itself. */
static inline double kvt_exp_series(double x, int fused)
{
    const double log2e = 0x1.71547652b82fep+0, shift = 0x1.8p+52,
                 ln2_hi = fused ? 0x1.62e42fefa39efp-1 : 0x1.62e42feep-1,
                 ln2_lo = fused ? 0x1.abc9e3b39803fp-56 : 0x1.a39ef35793c76p-33;
    double t, n, r, r2, two_n, even = 1.0 / 479001600.0, odd = 1.0 / 39916800.0;
    uint64_t bits;

    t = kvt_mul_add(x, log2e, shift, fused);
    n = t - shift;
    r = kvt_mul_add(-n, ln2_lo, kvt_mul_add(-n, ln2_hi, x, fused), fused);

    r2 = r * r;
    even = kvt_mul_add(even, r2, 1.0 / 3628800.0, fused);
    odd = kvt_mul_add(odd, r2, 1.0 / 362880.0, fused);
    even = kvt_mul_add(even, r2, 1.0 / 40320.0, fused);
    odd = kvt_mul_add(odd, r2, 1.0 / 5040.0, fused);
    even = kvt_mul_add(even, r2, 1.0 / 720.0, fused);
    odd = kvt_mul_add(odd, r2, 1.0 / 120.0, fused);
    even = kvt_mul_add(even, r2, 1.0 / 24.0, fused);
    odd = kvt_mul_add(odd, r2, 1.0 / 6.0, fused);
    even = kvt_mul_add(even, r2, 0.5, fused);
    odd = kvt_mul_add(odd, r2, 1.0, fused);
    even = kvt_mul_add(even, r2, 1.0, fused);
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 1023u) << 52;                    /* n + 1023 is the biased exponent */
    memcpy(&two_n, &bits, sizeof two_n);
    return kvt_mul_add(odd, r, even, fused) * two_n;
}

#endif

#ifdef KVT_ISA

#define KVT_PASTE_(a, b) a##b
#define KVT_PASTE(a, b)  KVT_PASTE_(a, b)
#define KVT_TEXT_(a)     #a
#define KVT_TEXT(a)      KVT_TEXT_(a)

/* row_v: as many lanes as a register holds, row_u: the same anywhere in memory; VECTORS of them per key are summed at a time. */
#if defined(__AVX512F__)
typedef double row_v __attribute__((vector_size(64))), row_u __attribute__((vector_size(64), aligned(8), may_alias));
#elif defined(__AVX__)
typedef double row_v __attribute__((vector_size(32))), row_u __attribute__((vector_size(32), aligned(8), may_alias));
#else
typedef double row_v __attribute__((vector_size(16))), row_u __attribute__((vector_size(16), aligned(8), may_alias));
#endif
enum { KEYS = KVT_ISA_KEYS, LANES = KVT_TILE, CHANNELS = 64, WIDTH = sizeof(row_v) / sizeof(double),
       VECTORS = KVT_ISA_VECTORS };

/* a * b + c with one rounding. A product of two f32 is exact in double, so where nothing is
 * fused the plain addition has that one rounding as well. */
static inline row_v row_chain(row_v a, row_v b, row_v c)
{
#if defined(__AVX512F__)
    return (row_v)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (row_v)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

/* x[i][lane] += sum_c q[c][lane] wide[i][c] over n channels, for VECTORS * WIDTH lanes; all
 * sums stay in registers. */
static inline void dots_lanes(const double *q, double wide[KEYS][CHANNELS], uint32_t n, double *x)
{
    row_v sum[KEYS][VECTORS];

    for (uint32_t i = 0; i < KEYS; i++)
        for (uint32_t l = 0; l < VECTORS; l++)
            sum[i][l] = *(row_u *)(x + i * LANES + l * WIDTH);
    for (uint32_t c = 0; c < n; c++, q += LANES)
        for (uint32_t l = 0; l < VECTORS; l++) {
            const row_v v = *(const row_u *)(q + l * WIDTH);
            for (uint32_t i = 0; i < KEYS; i++)
                sum[i][l] = row_chain(wide[i][c] - (row_v){0}, v, sum[i][l]);
        }
    for (uint32_t i = 0; i < KEYS; i++)
        for (uint32_t l = 0; l < VECTORS; l++)
            *(row_u *)(x + i * LANES + l * WIDTH) = sum[i][l];
}

/* x[i][lane] = sum_c q[c][lane] k[first + i][c], one chain from 0 over the channels in
 * index order. Keys behind the last one repeat it; their results are not used. */
static void dots(const kvt_rows_args *a, uint32_t first, double x[KEYS][LANES])
{
    double wide[KEYS][CHANNELS];

    for (uint32_t i = 0; i < KEYS; i++)
        for (uint32_t l = 0; l < LANES; l++) x[i][l] = 0;
    for (uint32_t c0 = 0; c0 < a->d; c0 += CHANNELS) {
        const uint32_t n = a->d - c0 < CHANNELS ? a->d - c0 : CHANNELS;

        for (uint32_t i = 0; i < KEYS; i++) {
            const uint32_t key = first + i < a->n_keys ? first + i : a->n_keys - 1;
            const float *k = a->k + (size_t)key * a->d + c0;
            for (uint32_t c = 0; c < n; c++) wide[i][c] = (double)k[c];
        }
        for (uint32_t l = 0; l < LANES; l += VECTORS * WIDTH)
            dots_lanes(a->qt + (size_t)c0 * LANES + l, wide, n, &x[0][l]);
    }
}

/* What dots() builds on. */
static inline int queries_are_f32(const kvt_rows_args *a)
{
    for (size_t i = 0; i < (size_t)a->d * LANES; i++)
        if (!isnan(a->qt[i]) && (double)(float)a->qt[i] != a->qt[i])
            return 0;
    return 1;
}

/* x[lane] brought within the bounds of kvt_exp_series(); a NaN stays. Said explicitly: a
 * compiler makes comparisons and choices of two bounds, or one lane at a time of each. */
static inline void exponents(double *x)
{
    for (uint32_t l = 0; l < LANES; l += WIDTH) {
        row_u *v = (row_u *)(x + l);
#if defined(__AVX512F__)
        *v = (row_v)_mm512_min_pd(_mm512_set1_pd(710), _mm512_max_pd(_mm512_set1_pd(-709), (__m512d)*v));
#elif defined(__AVX__)
        *v = (row_v)_mm256_min_pd(_mm256_set1_pd(710), _mm256_max_pd(_mm256_set1_pd(-709), (__m256d)*v));
#elif defined(__SSE2__)
        *v = (row_v)_mm_min_pd(_mm_set1_pd(710), _mm_max_pd(_mm_set1_pd(-709), (__m128d)*v));
#else
        for (uint32_t i = 0; i < WIDTH; i++) (*v)[i] = (*v)[i] < -709 ? -709 : (*v)[i] > 710 ? 710 : (*v)[i];
#endif
    }
}

/* Products to logits, in place. tanh(y) = 1 - 2 / (exp(2 y) + 1) is exact to 2e-16 of
 * its range, which is what a logit needs, and does not depend on the C library. */
static void to_logits(const kvt_rows_args *a, double x[LANES])
{
    const double scale = a->scale, cap = a->softcap;

    for (uint32_t l = 0; l < LANES; l++) x[l] *= scale;
    if (cap > 0) {
        for (uint32_t l = 0; l < LANES; l++) x[l] = 2.0 * (x[l] / cap);
        exponents(x);
        for (uint32_t l = 0; l < LANES; l++) x[l] = cap * (1.0 - 2.0 / (kvt_exp_series(x[l], 1) + 1.0));
    }
}

/* e[lane] = (float)exp(x[lane] - lse[lane]), by fused steps. Where those are slow, first by
 * others: what is off by less than 1e-14 and rounds to the same f32 with 2^-40 (9e-13) taken
 * off and put on rounds like the fused steps. Of 2^11 keys about one does not. x is used up. */
static inline void exponentials(double *x, const double *lse, float *e)
{
    for (uint32_t l = 0; l < LANES; l += WIDTH) *(row_u *)(x + l) -= *(const row_u *)(lse + l);
    exponents(x);
    if (!KVT_FMA_IS_FAST) {
        float low[LANES];

        for (uint32_t l = 0; l < LANES; l++) {
            const double y = kvt_exp_series(x[l], 0);
            low[l] = (float)(y * (1.0 - 0x1p-40));
            e[l] = (float)(y * (1.0 + 0x1p-40));
        }
        if (memcmp(low, e, sizeof low) == 0)
            return;
    }
    for (uint32_t l = 0; l < LANES; l++) e[l] = (float)kvt_exp_series(x[l], 1);
}

static void rows(const kvt_rows_args *a)
{
    double x[KEYS][LANES];
    uint32_t limit[LANES], seen = 0, all = a->n_keys;    /* lane l sees keys 0..limit[l]-1 */

    assert(queries_are_f32(a));
    for (uint32_t l = 0; l < LANES; l++) {
        limit[l] = a->lse[l] == (double)INFINITY ? 0 : a->n_visible[l];
        seen = limit[l] > seen ? limit[l] : seen;        /* the most, the fewest */
        all = limit[l] < all ? limit[l] : all;
    }
    seen = seen < a->n_keys ? seen : a->n_keys;
    for (uint32_t j0 = 0; j0 < seen; j0 += KEYS) {
        const uint32_t n = seen - j0 < KEYS ? seen - j0 : KEYS;

        dots(a, j0, x);
        for (uint32_t i = 0; i < n; i++) {
            float *out = a->tile + (size_t)(j0 + i) * LANES;
            const uint32_t j = j0 + i;

            to_logits(a, x[i]);
            exponentials(x[i], a->lse, out);
            for (uint32_t l = 0; j >= all && l < LANES; l++) out[l] = j < limit[l] ? out[l] : 0.0f;
        }
    }
    if (seen < a->n_keys)
        memset(a->tile + (size_t)seen * LANES, 0, (size_t)(a->n_keys - seen) * LANES * sizeof(float));
}

static void logits(const kvt_rows_args *a, double *z)
{
    double x[KEYS][LANES];

    assert(queries_are_f32(a));
    for (uint32_t j0 = 0; j0 < a->n_keys; j0 += KEYS) {
        const uint32_t n = a->n_keys - j0 < KEYS ? a->n_keys - j0 : KEYS;

        dots(a, j0, x);
        for (uint32_t i = 0; i < n; i++) {
            to_logits(a, x[i]);
            memcpy(z + (size_t)(j0 + i) * LANES, x[i], sizeof x[i]);
        }
    }
}

static void exps(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {             /* the bounds of kvt_exp() */
        const double y = x[i] < -700.0 ? -709.0 : x[i];
        x[i] = kvt_exp_series(y > 709.0 ? 710.0 : y, 1);
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

static void weigh_lanes(const float *tile, uint32_t n_keys, const double *weight, double *sum)
{
    row_d4 w[LANES / 4];

    memcpy(w, weight, sizeof w);
    for (uint32_t j = 0; j < n_keys; j++) {
        row_d4 s = { 0 }, x;

        for (uint32_t l = 0; l < LANES / 4; l++) {
            row_widen(tile + (size_t)j * LANES + 4 * l, &x);
            s += w[l] * x;
        }
        sum[j] += (s[0] + s[1]) + (s[2] + s[3]);
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
    KVT_TEXT(KVT_ISA), KVT_ISA_USABLE, rows, logits, class_mass, masses, line_mass, weigh_values, exps, weigh_lanes, sort16
};

#endif
