/* kvcap_math.c - the loops that decide the speed of a capture on a CPU.
 *
 * Every loop is written so that vector lanes are independent outputs, or lanes of a sum
 * whose number and order are fixed here: no reassociation is needed to vectorise it and
 * the bits do not depend on the width of the machine's vectors. The same bodies are
 * compiled for the base instruction set and for AVX2; the choice is made at run time.
 * The file is compiled with -O3 and without contraction into fused multiply-adds. */
#include "kvcap_impl.h"

#include <math.h>
#include <string.h>

#define MATH_INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__)
#define MATH_AVX2       __attribute__((target("avx2")))
#define MATH_HAS_AVX2() __builtin_cpu_supports("avx2")
#else
#define MATH_AVX2
#define MATH_HAS_AVX2() 0
#endif

typedef float math_lane8 __attribute__((vector_size(32)));

/* Four rows times one panel stay in registers while c runs over the head dimension. */
MATH_INLINE void dot_body(const float *a, uint32_t n_rows, uint32_t d, const float *panels, size_t tile0, size_t tile1,
                          float *out, size_t ld)
{
    for (size_t tile = tile0; tile < tile1; tile++) {
        const float *panel = panels + tile * d * KVCAP_LANES;
        float *to = out + (tile - tile0) * KVCAP_LANES;
        for (uint32_t r = 0; r < n_rows; r += 4) {
            const float *a0 = a + (size_t)r * d, *a1 = a0 + d, *a2 = a1 + d, *a3 = a2 + d;
            math_lane8 s00 = {0}, s01 = {0}, s10 = {0}, s11 = {0};
            math_lane8 s20 = {0}, s21 = {0}, s30 = {0}, s31 = {0};
            for (uint32_t c = 0; c < d; c++) {
                math_lane8 k0, k1;
                memcpy(&k0, panel + (size_t)c * KVCAP_LANES, sizeof k0);
                memcpy(&k1, panel + (size_t)c * KVCAP_LANES + 8, sizeof k1);
                s00 += a0[c] * k0;
                s01 += a0[c] * k1;
                s10 += a1[c] * k0;
                s11 += a1[c] * k1;
                s20 += a2[c] * k0;
                s21 += a2[c] * k1;
                s30 += a3[c] * k0;
                s31 += a3[c] * k1;
            }
            memcpy(to + r * ld, &s00, sizeof s00);
            memcpy(to + r * ld + 8, &s01, sizeof s01);
            memcpy(to + (r + 1) * ld, &s10, sizeof s10);
            memcpy(to + (r + 1) * ld + 8, &s11, sizeof s11);
            memcpy(to + (r + 2) * ld, &s20, sizeof s20);
            memcpy(to + (r + 2) * ld + 8, &s21, sizeof s21);
            memcpy(to + (r + 3) * ld, &s30, sizeof s30);
            memcpy(to + (r + 3) * ld + 8, &s31, sizeof s31);
        }
    }
}

/* exp(x) for x <= 0, relative error below 2e-7: Cody-Waite reduction by ln 2 and the
 * polynomial of Cephes' expf. The integer part is read from the bits of a sum with
 * 1.5 * 2^23, so that a NaN passes through without a conversion. Below -87: 0. */
MATH_INLINE float exp_neg(float x)
{
    const float shifted = x * 1.44269504088896341f + 12582912.0f, n = shifted - 12582912.0f;
    const float r = x - n * 0.693359375f - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f, power;
    uint32_t bits;

    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4b400000u + 127u) << 23;
    memcpy(&power, &bits, 4);
    return x < -87.0f ? 0.0f : p * power;
}

MATH_INLINE double exp_row_body(float *z, size_t n, float *top)
{
    float high[KVCAP_LANES], max = *top;
    double sum[KVCAP_LANES], total = 0.0;

    for (int l = 0; l < KVCAP_LANES; l++) high[l] = *top, sum[l] = 0.0;
    for (size_t j = 0; j < n; j += KVCAP_LANES)
        for (int l = 0; l < KVCAP_LANES; l++) high[l] = z[j + (size_t)l] > high[l] ? z[j + (size_t)l] : high[l];
    for (int l = 0; l < KVCAP_LANES; l++) max = high[l] > max ? high[l] : max;
    for (size_t j = 0; j < n; j += KVCAP_LANES)
        for (int l = 0; l < KVCAP_LANES; l++) {
            const float e = exp_neg(z[j + (size_t)l] - max);
            z[j + (size_t)l] = e;
            sum[l] += (double)e;
        }
    for (int l = 0; l < KVCAP_LANES; l++) total += sum[l];
    *top = max;
    return total;
}

MATH_INLINE void add_columns_body(const float *e, size_t n, float factor, double *restrict sum, double *restrict sumsq,
                                  float *restrict max)
{
    for (size_t j = 0; j < n; j++) {
        const float a = e[j] * factor;
        const double wide = (double)a;
        sum[j] += wide;
        sumsq[j] += wide * wide;
        max[j] = a > max[j] ? a : max[j];
    }
}

MATH_INLINE double abs_sum_body(const float *y, size_t n)
{
    double sum[KVCAP_LANES], total = 0.0;

    for (int l = 0; l < KVCAP_LANES; l++) sum[l] = 0.0;
    for (size_t j = 0; j < n; j += KVCAP_LANES)
        for (int l = 0; l < KVCAP_LANES; l++) sum[l] += (double)fabsf(y[j + (size_t)l]);
    for (int l = 0; l < KVCAP_LANES; l++) total += sum[l];
    return total;
}

static void dot_base(const float *a, uint32_t n_rows, uint32_t d, const float *panels, size_t tile0, size_t tile1,
                     float *out, size_t ld)
{
    dot_body(a, n_rows, d, panels, tile0, tile1, out, ld);
}

MATH_AVX2 static void dot_avx2(const float *a, uint32_t n_rows, uint32_t d, const float *panels, size_t tile0,
                               size_t tile1, float *out, size_t ld)
{
    dot_body(a, n_rows, d, panels, tile0, tile1, out, ld);
}

static double exp_row_base(float *z, size_t n, float *top)
{
    return exp_row_body(z, n, top);
}

MATH_AVX2 static double exp_row_avx2(float *z, size_t n, float *top)
{
    return exp_row_body(z, n, top);
}

static void add_columns_base(const float *e, size_t n, float factor, double *sum, double *sumsq, float *max)
{
    add_columns_body(e, n, factor, sum, sumsq, max);
}

MATH_AVX2 static void add_columns_avx2(const float *e, size_t n, float factor, double *sum, double *sumsq, float *max)
{
    add_columns_body(e, n, factor, sum, sumsq, max);
}

void kvcap__dot_panels(const float *a, uint32_t n_rows, uint32_t d, const float *panels, size_t tile0, size_t tile1,
                       float *out, size_t ld)
{
    if (MATH_HAS_AVX2())
        dot_avx2(a, n_rows, d, panels, tile0, tile1, out, ld);
    else
        dot_base(a, n_rows, d, panels, tile0, tile1, out, ld);
}

double kvcap__exp_row(float *z, size_t n, float *top)
{
    return MATH_HAS_AVX2() ? exp_row_avx2(z, n, top) : exp_row_base(z, n, top);
}

void kvcap__add_columns(const float *e, size_t n, float factor, double *sum, double *sumsq, float *max)
{
    if (MATH_HAS_AVX2())
        add_columns_avx2(e, n, factor, sum, sumsq, max);
    else
        add_columns_base(e, n, factor, sum, sumsq, max);
}

double kvcap__abs_sum(const float *y, size_t n)
{
    return abs_sum_body(y, n);
}
