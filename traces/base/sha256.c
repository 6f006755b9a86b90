/* sha256.c - SHA-256 of FIPS 180-4, sections 4 to 6, straight from the standard; and with
 * the instructions that x86 has for it, several times faster: a trace is hashed while it is
 * written. */
#include "kvt_sha256.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

static const uint32_t sha256_k[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u,
};

static inline uint32_t sha256_ror(uint32_t x, unsigned n)
{
    return (x >> n) | (x << (32u - n));
}

void kvt_sha256_blocks_plain(uint32_t h[8], const uint8_t *p, size_t n_blocks)
{
    for (; n_blocks > 0; n_blocks--, p += 64) {
        uint32_t w[64], s[8];

        for (unsigned i = 0; i < 16; i++)
            w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8
                   | (uint32_t)p[4 * i + 3];
        for (unsigned i = 16; i < 64; i++) {
            const uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + (sha256_ror(a, 7) ^ sha256_ror(a, 18) ^ (a >> 3)) + w[i - 7]
                   + (sha256_ror(b, 17) ^ sha256_ror(b, 19) ^ (b >> 10));
        }
        memcpy(s, h, sizeof s);
        for (unsigned i = 0; i < 64; i++) {
            const uint32_t a = s[0], e = s[4];
            const uint32_t t1 = s[7] + (sha256_ror(e, 6) ^ sha256_ror(e, 11) ^ sha256_ror(e, 25))
                                + ((e & s[5]) ^ (~e & s[6])) + sha256_k[i] + w[i];
            const uint32_t t2 = (sha256_ror(a, 2) ^ sha256_ror(a, 13) ^ sha256_ror(a, 22))
                                + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
            s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t1;
            s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t1 + t2;
        }
        for (unsigned i = 0; i < 8; i++) h[i] += s[i];
    }
}

#if defined(__x86_64__)
/* The instructions keep the state as two registers ABEF, CDGH and take four words of the
 * schedule at a time. */
__attribute__((target("sha,sse4.1"))) static void sha256_blocks_x86(uint32_t h[8], const uint8_t *p, size_t n_blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const __m128i dcba = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)h), 0xb1);
    const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)(h + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(dcba, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, dcba, 0xf0), feba, dchg;

    for (; n_blocks > 0; n_blocks--, p += 64) {
        const __m128i abef0 = abef, cdgh0 = cdgh;
        __m128i w[4];

        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            const __m128i k = _mm_add_epi32(w[i % 4], _mm_loadu_si128((const __m128i *)(const void *)(sha256_k + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
            if (i < 12)                                 /* words 4 i + 16 to 4 i + 19 */
                w[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]),
                                                              _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4)), w[(i + 3) % 4]);
        }
        abef = _mm_add_epi32(abef, abef0);
        cdgh = _mm_add_epi32(cdgh, cdgh0);
    }
    feba = _mm_shuffle_epi32(abef, 0x1b);
    dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)(void *)h, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* CPUID is asked once: it is slow inside a virtual machine. */
static int sha256_has_x86(void)
{
    static _Atomic int known;                           /* 0 not asked, 1 no, 2 yes */
    unsigned a, b = 0, c, d;
    int has = known;

    if (has == 0) {
        has = __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1) ? 2 : 1;
        known = has;
    }
    return has == 2;
}
#endif

void kvt_sha256_blocks(uint32_t h[8], const uint8_t *p, size_t n_blocks)
{
#if defined(__x86_64__)
    if (sha256_has_x86()) {
        sha256_blocks_x86(h, p, n_blocks);
        return;
    }
#endif
    kvt_sha256_blocks_plain(h, p, n_blocks);
}

void kvt_sha256_init(kvt_sha256 *s)
{
    static const uint32_t h0[8] = { 0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                    0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u };
    memcpy(s->h, h0, sizeof s->h);
    s->n_bytes = 0;
}

void kvt_sha256_update(kvt_sha256 *s, const void *data, size_t n_bytes)
{
    const uint8_t *p = data;
    const size_t held = (size_t)(s->n_bytes % 64);

    if (n_bytes == 0) return;                       /* data may be NULL then */
    s->n_bytes += n_bytes;
    if (held > 0) {
        const size_t n = 64 - held < n_bytes ? 64 - held : n_bytes;
        memcpy(s->block + held, p, n);
        p += n;
        n_bytes -= n;
        if (held + n < 64) return;
        kvt_sha256_blocks(s->h, s->block, 1);
    }
    kvt_sha256_blocks(s->h, p, n_bytes / 64);
    if (n_bytes % 64 > 0) memcpy(s->block, p + n_bytes / 64 * 64, n_bytes % 64);
}

void kvt_sha256_final(kvt_sha256 *s, uint8_t out[32])
{
    const uint64_t n_bits = s->n_bytes * 8;
    size_t held = (size_t)(s->n_bytes % 64);

    s->block[held++] = 0x80;
    if (held > 56) {                                /* no room for the length */
        memset(s->block + held, 0, 64 - held);
        kvt_sha256_blocks(s->h, s->block, 1);
        held = 0;
    }
    memset(s->block + held, 0, 56 - held);
    for (unsigned i = 0; i < 8; i++) s->block[56 + i] = (uint8_t)(n_bits >> (56 - 8 * i));
    kvt_sha256_blocks(s->h, s->block, 1);
    for (unsigned i = 0; i < 32; i++) out[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}

void kvt_sha256_of(const void *data, size_t n_bytes, uint8_t out[32])
{
    kvt_sha256 s;
    kvt_sha256_init(&s);
    kvt_sha256_update(&s, data, n_bytes);
    kvt_sha256_final(&s, out);
}

void kvt_sha256_hex(const uint8_t digest[32], char out[65])
{
    static const char hex[16] = "0123456789abcdef";
    for (unsigned i = 0; i < 32; i++) {
        out[2 * i] = hex[digest[i] >> 4];
        out[2 * i + 1] = hex[digest[i] & 15];
    }
    out[64] = '\0';
}
