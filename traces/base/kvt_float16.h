/* kvt_float16.h - the two 16-bit floating-point formats of a trace, widened exactly
 * and rounded to nearest even. NaN stays NaN, infinities stay infinities. */
#ifndef KVT_FLOAT16_H
#define KVT_FLOAT16_H

#include <stdint.h>
#include <string.h>

static inline float kvt_from_bf16(uint16_t u)
{
    const uint32_t bits = (uint32_t)u << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint16_t kvt_to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);                /* quiet NaN */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float kvt_from_f16(uint16_t u)
{
    const uint32_t sign = (uint32_t)(u & 0x8000u) << 16;
    uint32_t exponent = (u >> 10) & 31u, mantissa = u & 1023u, bits;
    float x;

    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112u) << 23) | (mantissa << 13);
    } else if (mantissa == 0) {
        bits = sign;
    } else {                                                    /* subnormal: normalise */
        exponent = 113;
        while (!(mantissa & 1024u)) {
            mantissa <<= 1;
            exponent--;
        }
        bits = sign | (exponent << 23) | ((mantissa & 1023u) << 13);
    }
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint16_t kvt_to_f16(float x)
{
    uint32_t bits, mag, sign;
    memcpy(&bits, &x, 4);
    sign = (bits >> 16) & 0x8000u;
    mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((mag >> 13) & 1023u));
    if (mag >= 0x477ff000u)                                     /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (mag >= 0x38800000u)                                     /* normal */
        return (uint16_t)(sign | ((mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13));
    if (mag < 0x33000000u)                                      /* below half the smallest */
        return (uint16_t)sign;
    {                                                           /* subnormal */
        const uint32_t shift = 126u - (mag >> 23), m = (mag & 0x7fffffu) | 0x800000u;
        const uint32_t q = m >> shift, rest = m & ((1u << shift) - 1u), half = 1u << (shift - 1);
        return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1u)))));
    }
}
#endif
