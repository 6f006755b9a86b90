/* test_text.c - what hostile bytes look like on a terminal, and numbers as text. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_philox.h"
#include "kvt_text.h"

static void shown(const char *bytes, const char *expected)
{
    char out[256];
    kvt_printable_str(out, sizeof out, bytes);
    cr_expect(strcmp(out, expected) == 0, "shown '%s', expected '%s'", out, expected);
}

Test(text, readable_text_is_left_alone)
{
    shown("", "");
    shown("plain ASCII ~!\\\"<>&'", "plain ASCII ~!\\\"<>&'");
    shown("\xC3\xA9 \xE4\xBD\xA0 \xF0\x9F\x98\x80", "\xC3\xA9 \xE4\xBD\xA0 \xF0\x9F\x98\x80");
    shown(NULL, "");
}

Test(text, controls_and_hidden_characters_become_escapes)
{
    shown("a\nb\tc", "a\xE2\x86\xB5" "b\xE2\x87\xA5" "c");
    shown("\r\x1b[31m\x7f", "\\u{D}\\u{1B}[31m\\u{7F}");
    shown("\xC2\x80\xC2\x9F\xC2\xA0", "\\u{80}\\u{9F}\xC2\xA0");       /* C1; U+A0 is visible space */
    shown("\xC2\xAD", "\\u{AD}");                                       /* soft hyphen */
    shown("\xE2\x80\x8B\xE2\x80\x8F", "\\u{200B}\\u{200F}");           /* zero width */
    shown("\xE2\x80\xA8\xE2\x80\xA9", "\\u{2028}\\u{2029}");
    shown("\xE2\x80\xAE\xE2\x81\xA6\xD8\x9C", "\\u{202E}\\u{2066}\\u{61C}");   /* bidi */
    shown("\xEF\xBB\xBF\xEF\xBF\xB9", "\\u{FEFF}\\u{FFF9}");
    shown("\xF3\xA0\x81\x81", "\\u{E0041}");                            /* tag */
}

Test(text, an_embedded_zero_is_shown)
{
    char out[32];
    cr_expect_str_eq(kvt_printable(out, sizeof out, "a\0b", 3), "a\\u{0}b");
}

Test(text, decoding_is_strict)
{
    shown("\x80\xBF\xFE\xFF", "\\x80\\xBF\\xFE\\xFF");
    shown("\xC0\x80\xC1\xBF", "\\xC0\\x80\\xC1\\xBF");                 /* overlong */
    shown("\xE0\x9F\xBF", "\\xE0\\x9F\\xBF");
    shown("\xF0\x8F\xBF\xBF", "\\xF0\\x8F\\xBF\\xBF");
    shown("\xED\xA0\x80\xED\xBF\xBF", "\\xED\\xA0\\x80\\xED\\xBF\\xBF");   /* surrogates */
    shown("\xF4\x90\x80\x80", "\\xF4\\x90\\x80\\x80");                 /* above 10FFFF */
    shown("\xE4\xBD", "\\xE4\\xBD");                                    /* cut short */
    shown("\xE4\xBDz", "\\xE4\\xBDz");
    shown("\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBD",
          "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBD");                  /* the good neighbours */
}

/* Goal: at every size the result is terminated, inside the buffer, whole characters
 * only, and says "..." when something is missing. */
Test(text, what_does_not_fit_ends_in_dots)
{
    static const char text[] = "ab\xE4\xBD\xA0\x01z";
    static const char *const expected[] = {
        NULL, "", ".", "..", "...", "a...", "ab...", "ab...", "ab...",
        "ab\xE4\xBD\xA0...", "ab\xE4\xBD\xA0...", "ab\xE4\xBD\xA0...",
        "ab\xE4\xBD\xA0\\u{1}z"};
    char out[40];

    for (size_t size = 1; size < sizeof expected / sizeof *expected; size++) {
        memset(out, '#', sizeof out);
        kvt_printable_str(out, size, text);
        cr_expect(strcmp(out, expected[size]) == 0, "size %zu: '%s'", size, out);
        cr_expect(out[size] == '#', "size %zu: wrote past the end", size);
    }
    cr_expect_str_eq(kvt_printable_str(out, 4, "abc"), "abc");
    cr_expect_str_eq(kvt_printable_str(out, 4, "abcd"), "...");
}

Test(text, a_shown_text_shows_as_itself)
{
    char once[64], twice[64];
    kvt_printable_str(once, sizeof once, "\x1b\xff\n\xE2\x80\xAE x");
    cr_expect_str_eq(kvt_printable_str(twice, sizeof twice, once), once);
}

static void number(double x, const char *expected)
{
    char out[32];
    cr_expect(strcmp(kvt_number(out, x), expected) == 0, "%.17g shown as '%s', expected '%s'", x, out,
              expected);
}

Test(text, numbers_are_the_shortest_that_read_back)
{
    number(0, "0");
    number(-0.0, "0");
    number(1, "1");
    number(-17, "-17");
    number(100000, "100000");
    number(1e15, "1000000000000000");
    number(0x1p53, "9007199254740992");
    number(1e22, "1e+22");
    number(0.1, "0.1");
    number(0.1 + 0.2, "0.30000000000000004");
    number(1.0 / 3, "0.3333333333333333");
    number(0.5, "0.5");
    number(1e-5, "1e-05");
    number(5e-324, "5e-324");
    number(-1.7976931348623157e308, "-1.7976931348623157e+308");
}

Test(text, every_number_reads_back_to_the_same_bits)
{
    const uint32_t key[2] = {7, 11};
    uint32_t done = 0;

    for (uint32_t i = 0; i < 20000; i++) {
        const uint32_t counter[4] = {i, 0, 0, 0};
        uint32_t r[4];
        char out[32];
        double x;

        kvt_philox4x32(counter, key, r);
        memcpy(&x, r, 8);
        if (!isfinite(x)) continue;
        kvt_number(out, x);
        cr_assert(strtod(out, NULL) == x && strlen(out) < 26, "%.17g shown as '%s'", x, out);
        done++;
    }
    cr_assert(done > 19000, "only %u numbers tried", done);
}
