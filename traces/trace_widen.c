/* trace_widen.c - 16-bit floats widened eight at a time, without branches.
 *
 * One loop body in the compiler's vector type, compiled for the plain instruction set and
 * for AVX2. Only integers and one exact subtraction are used, so that the bits are those
 * of kvt_float16.h everywhere. The processor's own conversion of f16 is three times faster
 * but makes a signalling NaN quiet: a line with an infinity or NaN goes the other way.
 * Pages of a mapped file lie scattered in memory, and a processor's own read-ahead stops
 * at the end of each: the loop asks for what comes next itself. */
#include "trace_widen.h"

#include "kvt_float16.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define WIDEN_AHEAD 1024                     /* bytes: measured best of 0.5 to 8 KiB */
#define WIDEN_LINE  64                       /* bytes of input in one turn of the loop */

typedef int32_t  widen_i32 __attribute__((vector_size(32)));
typedef float    widen_f32 __attribute__((vector_size(32)));
typedef uint16_t widen_u16 __attribute__((vector_size(16)));

/* x: 16 bits in each element become the bits of the float. An f16 below its smallest
 * normal number is a multiple of 2^-24 and comes out of 2^-14 (1 + m / 1024) - 2^-14. */
static inline __attribute__((always_inline)) void widen_f16(widen_i32 *x)
{
    const widen_i32 magnitude = (*x & 0x7fff) << 13, sign = (*x & 0x8000) << 16;
    const widen_i32 small = magnitude < 1 << 23, last = magnitude >= 31 << 23;
    const widen_i32 normal = magnitude + (112 << 23) + (last & 112 << 23), one = magnitude + (113 << 23);
    const widen_i32 base = (widen_i32){ 0 } + (113 << 23);
    const widen_f32 tiny = (widen_f32)one - (widen_f32)base;

    *x = (small & (widen_i32)tiny) | (~small & normal) | sign;
}

/* Eight elements; *odd collects where the exponent is all ones. */
static inline __attribute__((always_inline)) void widen_eight(float *out, const unsigned char *in, kvt_h5_type type, widen_i32 *odd)
{
    widen_i32 x;

    if (type == KVT_H5_F32) {
        memcpy(&x, in, sizeof x);
    } else {
        widen_u16 h;
        memcpy(&h, in, sizeof h);
        x = __builtin_convertvector(h, widen_i32);
        if (type == KVT_H5_F16)
            widen_f16(&x);
        else
            x <<= 16;
    }
    *odd |= (x & 0x7f800000) == 0x7f800000;
    memcpy(out, &x, sizeof x);
}

/* What does not fill a line. */
static int widen_rest(float *out, const unsigned char *in, size_t n, kvt_h5_type type)
{
    const size_t bytes = type == KVT_H5_F32 ? 4 : 2;
    int any = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        uint16_t h;
        float x;
        memcpy(type == KVT_H5_F32 ? (void *)&x : (void *)&h, in + bytes * i, bytes);
        if (type != KVT_H5_F32)
            x = type == KVT_H5_BF16 ? kvt_from_bf16(h) : kvt_from_f16(h);
        memcpy(&bits, &x, 4);
        any |= (bits & 0x7f800000u) == 0x7f800000u;
        memcpy(out + i, &bits, 4);
    }
    return any;
}

static inline __attribute__((always_inline)) int widen_all(float *out, const unsigned char *in, size_t n, kvt_h5_type type)
{
    const size_t bytes = type == KVT_H5_F32 ? 4 : 2, line = WIDEN_LINE / bytes;
    widen_i32 odd = { 0 };
    int32_t any = 0;
    size_t i = 0;

    for (; i + line <= n; i += line) {
        __builtin_prefetch(in + bytes * i + WIDEN_AHEAD);
#pragma GCC unroll 4
        for (size_t k = 0; k < line; k += 8)
            widen_eight(out + i + k, in + bytes * (i + k), type, &odd);
    }
    for (int k = 0; k < 8; k++)
        any |= odd[k];
    return (any != 0) | widen_rest(out + i, in + bytes * i, n - i, type);
}

static inline __attribute__((always_inline)) int widen_type(float *out, const unsigned char *in, size_t n, kvt_h5_type type)
{
    switch (type) {
    case KVT_H5_F16: return widen_all(out, in, n, KVT_H5_F16);
    case KVT_H5_BF16: return widen_all(out, in, n, KVT_H5_BF16);
    default: return widen_all(out, in, n, KVT_H5_F32);
    }
}

int kvt__widen_plain(float *out, const void *in, size_t n, kvt_h5_type type)
{
    return widen_type(out, in, n, type);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static int widen_avx2(float *out, const void *in, size_t n, kvt_h5_type type)
{
    return widen_type(out, in, n, type);
}

__attribute__((target("avx2,f16c"))) static int widen_f16c(float *out, const unsigned char *in, size_t n)
{
    enum { LINE = WIDEN_LINE / 2 };
    const __m256i mask = _mm256_set1_epi32(0x7f800000);
    int any = 0;
    size_t i = 0;

    for (; i + LINE <= n; i += LINE) {
        __m256 x[LINE / 8];
        __m256i odd = _mm256_setzero_si256();

        __builtin_prefetch(in + 2 * i + WIDEN_AHEAD);
#pragma GCC unroll 4
        for (int k = 0; k < LINE / 8; k++) {
            __m128i h;
            memcpy(&h, in + 2 * i + 16 * (size_t)k, sizeof h);
            x[k] = _mm256_cvtph_ps(h);
            odd = _mm256_or_si256(odd, _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x[k]), mask), mask));
        }
        if (__builtin_expect(!_mm256_testz_si256(odd, odd), 0))
            any |= widen_all(out + i, in + 2 * i, LINE, KVT_H5_F16);
        else
            memcpy(out + i, x, sizeof x);
    }
    return any | widen_rest(out + i, in + 2 * i, n - i, KVT_H5_F16);
}
#endif

int kvt__widen(float *out, const void *in, size_t n, kvt_h5_type type)
{
    KVT_ASSERT(KVT_H5_BIT(type) & KVT_H5_FLOATS);
#if defined(__x86_64__)
    if (type == KVT_H5_F16 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
        return widen_f16c(out, in, n);
    if (__builtin_cpu_supports("avx2"))
        return widen_avx2(out, in, n, type);
#endif
    return kvt__widen_plain(out, in, n, type);
}
