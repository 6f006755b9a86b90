/* test_base.c - the small parts of traces/base against published vectors and brute force. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_float16.h"
#include "kvt_mul.h"
#include "kvt_philox.h"
#include "kvt_sha256.h"
#include "kvt_status.h"

/* FIPS 180-4 examples, and NIST's million a's. */
Test(base, sha256_agrees_with_the_published_vectors)
{
    static const struct { const char *text, *hex; } vectors[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"}};
    uint8_t digest[32];
    char hex[65];
    kvt_sha256 s;

    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        kvt_sha256_of(vectors[i].text, strlen(vectors[i].text), digest);
        kvt_sha256_hex(digest, hex);
        cr_expect_str_eq(hex, vectors[i].hex);
    }
    kvt_sha256_init(&s);
    for (int i = 0; i < 1000; i++) {
        char a[1000];
        memset(a, 'a', sizeof a);
        kvt_sha256_update(&s, a, sizeof a);
    }
    kvt_sha256_final(&s, digest);
    kvt_sha256_hex(digest, hex);
    cr_expect_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* The instructions of the processor, where it has them, against the standard's loops. */
Test(base, sha256_blocks_are_those_of_the_standard)
{
    uint8_t data[64 * 33 + 1];

    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 131 + (i >> 5) * 17);
    for (size_t n = 0; n <= 33; n++) {
        uint32_t a[8] = { 0x01234567u, 0x89abcdefu, 0xffffffffu, 0, 0x80000000u, 7, 0xdeadbeefu, (uint32_t)n }, b[8];
        memcpy(b, a, sizeof a);
        kvt_sha256_blocks(a, data + n % 2, n);
        kvt_sha256_blocks_plain(b, data + n % 2, n);
        cr_assert(memcmp(a, b, sizeof a) == 0, "%zu blocks", n);
    }
}

Test(base, sha256_does_not_depend_on_the_pieces)
{
    uint8_t data[300], whole[32], pieces[32];

    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 37);
    for (size_t n = 0; n <= sizeof data; n += 13)
        for (size_t step = 1; step < 140; step += 7) {
            kvt_sha256 s;
            kvt_sha256_of(data, n, whole);
            kvt_sha256_init(&s);
            for (size_t at = 0; at < n; at += step)
                kvt_sha256_update(&s, data + at, n - at < step ? n - at : step);
            kvt_sha256_final(&s, pieces);
            cr_assert(memcmp(whole, pieces, 32) == 0, "%zu bytes in pieces of %zu", n, step);
        }
}

/* The three known answers of the Random123 distribution. */
Test(base, philox_agrees_with_the_published_vectors)
{
    static const struct { uint32_t counter[4], key[2], out[4]; } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};

    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint32_t out[4];
        kvt_philox4x32(vectors[i].counter, vectors[i].key, out);
        cr_expect(memcmp(out, vectors[i].out, 16) == 0, "vector %zu: %08x %08x %08x %08x", i, out[0],
                  out[1], out[2], out[3]);
    }
}

/* The value of 16 bits by the definition of the format, in double. */
static double wide(uint32_t u, int exponent_bits, int mantissa_bits)
{
    const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
    const int e = (int)(u >> mantissa_bits) & top;
    const double m = (double)(u & ((1u << mantissa_bits) - 1)) / (double)(1u << mantissa_bits);
    const double x = e == top ? (m > 0 ? NAN : INFINITY)
                   : e ? ldexp(1 + m, e - bias) : ldexp(m, 1 - bias);
    return u & 0x8000u ? -x : x;
}

Test(base, all_16_bit_values_widen_to_their_definition_and_come_back)
{
    for (uint32_t u = 0; u < 65536; u++) {
        const double h = wide(u, 5, 10), b = wide(u, 8, 7);
        const float fh = kvt_from_f16((uint16_t)u), fb = kvt_from_bf16((uint16_t)u);

        if (isnan(h)) {
            cr_assert(isnan(fh) && isnan(kvt_from_f16(kvt_to_f16(fh))), "f16 %04x", u);
        } else {
            cr_assert((double)fh == h && !signbit(fh) == !signbit(h), "f16 %04x: %a", u, (double)fh);
            cr_assert(kvt_to_f16(fh) == u, "f16 %04x comes back as %04x", u, kvt_to_f16(fh));
        }
        if (isnan(b)) {
            cr_assert(isnan(fb) && isnan(kvt_from_bf16(kvt_to_bf16(fb))), "bf16 %04x", u);
        } else {
            cr_assert((double)fb == b && !signbit(fb) == !signbit(b), "bf16 %04x: %a", u, (double)fb);
            cr_assert(kvt_to_bf16(fb) == u, "bf16 %04x comes back as %04x", u, kvt_to_bf16(fb));
        }
    }
}

/* Goal: rounding to nearest even, everywhere. Method: between two neighbours of the
 * format, the middle goes to the even one and the floats next to the middle go to the
 * nearer one; the pair of the largest value and the infinity behaves as IEEE says. */
static void rounds(uint32_t u, float lo, float hi, uint16_t (*narrow)(float))
{
    const float middle = (float)(((double)lo + (double)hi) / 2);
    const uint32_t even = u & 1u ? u + 1 : u;

    cr_assert(narrow(middle) == even, "middle above %04x goes to %04x", u, narrow(middle));
    cr_assert(narrow(nextafterf(middle, 0)) == u, "below the middle above %04x", u);
    cr_assert(narrow(nextafterf(middle, INFINITY)) == u + 1, "above the middle above %04x", u);
    cr_assert(narrow(-middle) == (even | 0x8000u), "negative middle above %04x", u);
}

Test(base, narrowing_rounds_to_nearest_even)
{
    for (uint32_t u = 0; u < 0x7c00; u++)
        rounds(u, kvt_from_f16((uint16_t)u), u == 0x7bff ? 65536.0f : kvt_from_f16((uint16_t)(u + 1)),
               kvt_to_f16);
    for (uint32_t u = 0; u < 0x7f7f; u++)
        rounds(u, kvt_from_bf16((uint16_t)u), kvt_from_bf16((uint16_t)(u + 1)), kvt_to_bf16);
    cr_assert(kvt_to_bf16(3.40282347e38f) == 0x7f80);
    cr_assert(kvt_to_f16(INFINITY) == 0x7c00 && kvt_to_f16(-1e30f) == 0xfc00);
}

Test(base, sizes_cannot_wrap)
{
    size_t out = 77;

    cr_expect(!kvt_mul(SIZE_MAX, 2, &out) && out == 77);
    cr_expect(!kvt_mul((size_t)1 << 32, (size_t)1 << 32, &out) && out == 77);
    cr_expect(!kvt_add(SIZE_MAX, 1, &out) && out == 77);
    cr_expect(kvt_mul(SIZE_MAX, 1, &out) && out == SIZE_MAX);
    cr_expect(kvt_mul(0, SIZE_MAX, &out) && out == 0);
    cr_expect(kvt_mul(0xffffffffu, 0xffffffffu, &out) && out == 0xfffffffe00000001u);
    cr_expect(kvt_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
}

Test(base, a_failure_carries_its_status_and_one_line)
{
    kvt_err err = {0};
    char longer[2 * sizeof err.text];

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    cr_expect(kvt_fail(&err, KVT_ERANGE, "layer %d of %d", 9, 4) == KVT_ERANGE);
    cr_expect(err.status == KVT_ERANGE);
    cr_expect_str_eq(err.text, "layer 9 of 4");
    cr_expect(kvt_fail(NULL, KVT_EIO, "nobody reads this") == KVT_EIO);
    kvt_fail(&err, KVT_EIO, "%s", longer);
    cr_expect(strlen(err.text) == sizeof err.text - 1);
}

Test(base, every_status_has_a_name_and_a_text)
{
#define X(name, num, text)                             \
    cr_expect_str_eq(kvt_status_name((kvt_status)(num)), #name); \
    cr_expect_str_eq(kvt_status_text((kvt_status)(num)), text);
    KVT_STATUS_LIST(X)
#undef X
    cr_expect_str_eq(kvt_status_name((kvt_status)-99), "UNKNOWN");
}
