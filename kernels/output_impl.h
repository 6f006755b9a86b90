/* output_impl.h - sums of value vectors by weight, compiled once per instruction set.
 *
 * Lanes are channels. A channel is one chain in the order of the keys, product rounded and
 * then added, so neither the width nor how channels are grouped changes a bit. Eight vectors
 * of sums stay in registers while the keys go by. Included by rows_<isa>.c before
 * rows_impl.h makes the table. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif
#include "kvt_kernels.h"

typedef float  output_f4 __attribute__((vector_size(16)));
typedef double output_d4 __attribute__((vector_size(32)));

/* 4 * n_vec channels of out from v on; n_vec is a constant. */
static inline __attribute__((always_inline)) void output_channels(const float *v, uint32_t d, const double *weight, const uint32_t *key,
                                                                  uint32_t n, double *out, const uint32_t n_vec)
{
    output_d4 sum[8];

    for (uint32_t k = 0; k < n_vec; k++)
        memcpy(&sum[k], out + 4 * k, sizeof sum[k]);
    for (uint32_t i = 0; i < n; i++) {
        const float *x = v + (size_t)key[i] * d;
        for (uint32_t k = 0; k < n_vec; k++) {
            output_f4 a;
            memcpy(&a, x + 4 * k, sizeof a);
#ifdef __AVX__
            sum[k] += weight[i] * (output_d4)_mm256_cvtps_pd((__m128)a);
#else
            sum[k] += weight[i] * __builtin_convertvector(a, output_d4);
#endif
        }
    }
    for (uint32_t k = 0; k < n_vec; k++)
        memcpy(out + 4 * k, &sum[k], sizeof sum[k]);
}

static void weigh_values(const float *v, uint32_t d, const double *weight, const uint32_t *key, uint32_t n, double *out)
{
    uint32_t c = 0;

    for (; c + 32 <= d; c += 32)
        output_channels(v + c, d, weight, key, n, out + c, 8);
    for (; c + 4 <= d; c += 4)
        output_channels(v + c, d, weight, key, n, out + c, 1);
    for (; c < d; c++)
        for (uint32_t i = 0; i < n; i++)
            out[c] += weight[i] * (double)v[(size_t)key[i] * d + c];
}
