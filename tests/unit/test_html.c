/* The HTML writer and the chart geometry. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "html.h"
#include "kvt_philox.h"
#include "kvt_sha256.h"
#include "kvt_text.h"
#include "report_impl.h"
#include "svg.h"

static char *page_text(const h_page *h)
{
    static char none[1];
    return h->data ? h->data : none;
}

/* Goal: values keep their form; method: one of each conversion. */
Test(html, put_writes_literals_numbers_and_text)
{
    h_page h = {0};
    h_put(&h, "<i class=\"c%u\">%d|%zu|%lld|%.3f|%x|%c|%%|%s</i>", 7u, -3, (size_t)9, -5LL, 0.25, 0xabu, 'Q', "a<b");
    cr_assert(eq(str, page_text(&h), "<i class=\"c7\">-3|9|-5|0.250|ab|Q|%|a&lt;b</i>"));
    h_free(&h);
}

Test(html, numbers_that_are_none_print_a_dash_and_minus_zero_has_no_sign)
{
    h_page h = {0};
    h_put(&h, "%.2f %.1f %.3f %.1f %.2f", NAN, (double)INFINITY, -0.0, -0.04, -1.5);
    cr_assert(eq(str, page_text(&h), "- - 0.000 0.0 -1.50"));
    h_free(&h);
}

Test(html, a_null_string_is_nothing)
{
    const char *volatile none = NULL;
    h_page h = {0};
    h_put(&h, "[%s]", none);
    cr_assert(eq(str, page_text(&h), "[]"));
    h_free(&h);
}

Test(html, every_special_character_is_an_entity)
{
    h_page h = {0};
    h_put(&h, "%s", "&<>\"'");
    cr_assert(eq(str, page_text(&h), "&amp;&lt;&gt;&quot;&#39;"));
    h_free(&h);
}

/* Goal: no token text becomes markup or moves other text; method: the classic attacks,
 * each with what must be shown. */
Test(html, hostile_tokens_are_inert)
{
    static const struct { const char *bytes; size_t n; const char *shown; } attack[] = {
        {"</script><script>alert(1)</script>", 34, "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"},
        {"<img src=x onerror=alert(1)>", 28, "&lt;img src=x onerror=alert(1)&gt;"},
        {"\xe2\x80\xaegnp.exe", 10, "\\u{202E}gnp.exe"},
        {"a\xe2\x80\xa8z", 5, "a\\u{2028}z"},
        {"\xf0\x9f\x9a", 3, "\\xF0\\x9F\\x9A"},
        {"a\0b", 3, "a\\u{0}b"},
        {"<!--<script>", 12, "&lt;!--&lt;script&gt;"},
        {"]]>&amp;", 8, "]]&gt;&amp;amp;"},
        {"\xed\xa0\xbd", 3, "\\xED\\xA0\\xBD"},
        {"caf\xc3\xa9\nx", 7, "caf\xc3\xa9\xe2\x86\xb5x"}};
    for (size_t i = 0; i < sizeof attack / sizeof *attack; i++) {
        h_page h = {0};
        char shown[64];
        snprintf(shown, sizeof shown, "%s", attack[i].shown);
        h_text(&h, attack[i].bytes, attack[i].n);
        cr_assert(eq(str, page_text(&h), shown), "attack %zu", i);
        h_free(&h);
    }
}

/* What a browser reads back out of escaped text. */
static size_t page_unescape(char *out, const char *text)
{
    static const struct { const char *entity; char c; } known[5] = {
        {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&#39;", '\''}};
    size_t n = 0;
    while (*text) {
        const char c = *text;
        size_t k = 0;
        while (k < 5 && strncmp(text, known[k].entity, strlen(known[k].entity)) != 0) k++;
        cr_assert(c != '<' && c != '>' && c != '"' && c != '\'');
        cr_assert(c != '&' || k < 5, "a bare ampersand: %.10s", text);
        out[n++] = k < 5 ? known[k].c : c;
        text += k < 5 ? strlen(known[k].entity) : 1;
    }
    out[n] = 0;
    return n;
}

/* Goal: for any bytes the parsed text is their printable form and no tag appears;
 * method: 20 000 random strings, half of them of characters that matter. */
Test(html, random_bytes_read_back_as_their_printable_form)
{
    static const char special[] = "<>&\"'\\/!-= \n\xe2\x80\xae\xf0\x9f";
    static const uint32_t key[2] = {1, 2};
    for (uint32_t i = 0; i < 20000; i++) {
        uint8_t bytes[40];
        char shown[sizeof bytes * 10 + 16], back[sizeof shown];
        uint32_t random[4];
        h_page h = {0};
        kvt_philox4x32((uint32_t[4]){i}, key, random);
        const size_t n = random[0] % (sizeof bytes + 1);
        for (size_t k = 0; k < n; k++) {
            kvt_philox4x32((uint32_t[4]){i, (uint32_t)k + 1}, key, random);
            bytes[k] = random[0] & 1 ? (uint8_t)special[random[1] % (sizeof special - 1)] : (uint8_t)random[2];
        }
        h_text(&h, bytes, n);
        page_unescape(back, page_text(&h));
        cr_assert(eq(str, back, kvt_printable(shown, sizeof shown, bytes, n)));
        h_free(&h);
    }
}

Test(html, long_text_is_not_cut)
{
    enum { N = 100000 };
    char *text = malloc(N);
    h_page h = {0};
    cr_assert(text != NULL);
    memset(text, '<', N);
    h_text(&h, text, N);
    cr_assert(eq(sz, h.n, (size_t)4 * N));
    cr_assert(eq(int, h.failed, 0));
    h_free(&h);
    free(text);
}

Test(html, code_keeps_its_line_breaks_and_nothing_else)
{
    h_page h = {0};
    h_code(&h, "SELECT 'a<b'\n\n  FROM\tt");
    cr_assert(eq(str, page_text(&h), "SELECT &#39;a&lt;b&#39;\n\n  FROM\xe2\x87\xa5t"));
    h_free(&h);
}

Test(html, a_page_without_memory_stays_failed_and_keeps_quiet)
{
    h_page h = {.failed = 1};
    h_put(&h, "<p>%s</p>", "x");
    cr_assert(eq(sz, h.n, 0));
    cr_assert(eq(int, h.failed, 1));
}

/* Known answers: SHA-256 of "" and "abc" in base64. */
Test(html, csp_hash_is_base64_of_sha256)
{
    char out[45];
    h_csp_hash(out, "", 0);
    cr_assert(eq(str, out, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="));
    h_csp_hash(out, "abc", 3);
    cr_assert(eq(str, out, "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="));
}

Test(html, losses_read_as_people_write_them)
{
    char s[16];
    cr_assert(eq(str, h_loss(s, 0), "0"));
    cr_assert(eq(str, h_loss(s, 0.00049), "<0.001"));
    cr_assert(eq(str, h_loss(s, 0.0005), "0.001"));
    cr_assert(eq(str, h_loss(s, 0.7104), "0.710"));
    cr_assert(eq(str, h_loss(s, -0.01), "-0.010"));
    cr_assert(eq(str, h_loss(s, NAN), "-"));
    cr_assert(eq(str, h_percent(s, 0.2), "20 %"));
    cr_assert(eq(str, h_percent(s, 0.125), "12.5 %"));
    cr_assert(eq(str, h_percent(s, NAN), "-"));
}

/* ---- shades ---- */

static double luminance(unsigned rgb)
{
    double sum = 0;
    static const double weight[3] = {0.2126, 0.7152, 0.0722};
    for (int i = 0; i < 3; i++) {
        const double c = (rgb >> (16 - 8 * i) & 255u) / 255.0;
        sum += weight[i] * (c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4));
    }
    return sum;
}

/* Goal: 65 shades, ends of cividis, text readable on each (4.5:1), lightness rising. */
Test(shades, text_on_every_shade_is_readable)
{
    h_page h = {0};
    double before = -1, least = 21;
    kvt__css_put(&h);
    cr_assert(h.data != NULL);
    for (unsigned k = 0; k <= 64; k++) {
        char name[16];
        unsigned rgb, fill, text;
        const char *at;
        snprintf(name, sizeof name, "\n.c%u{", k);
        at = strstr(h.data, name);
        cr_assert(at != NULL, "no class c%u", k);
        cr_assert(eq(int, sscanf(at + strlen(name), "background:#%6x;fill:#%6x;color:#%3x}", &rgb, &fill, &text), 3));
        cr_assert(eq(uint, rgb, fill));
        cr_assert(text == 0 || text == 0xfff);
        const double light = luminance(rgb), contrast = text ? 1.05 / (light + 0.05) : (light + 0.05) / 0.05;
        if (contrast < least) least = contrast;
        cr_assert(gt(dbl, light, before), "shade %u is not lighter than the one before", k);
        before = light;
        if (k == 0) cr_assert(eq(uint, rgb, 0x002051u));
        if (k == 64) cr_assert(eq(uint, rgb, 0xfdea45u));
    }
    cr_assert(ge(dbl, least, 4.5), "smallest contrast %f", least);
    h_free(&h);
}

Test(shades, a_loss_maps_to_the_nearest_shade)
{
    cr_assert(eq(uint, kvt__shade(0), 0u));
    cr_assert(eq(uint, kvt__shade(1), 64u));
    cr_assert(eq(uint, kvt__shade(0.5), 32u));
    cr_assert(eq(uint, kvt__shade(0.0079), 1u));
    cr_assert(eq(uint, kvt__shade(-1), 0u));
    cr_assert(eq(uint, kvt__shade(7), 64u));
    cr_assert(eq(uint, kvt__shade(NAN), 0u));
}

/* ---- charts ---- */

Test(svg, labels_are_spread_in_order_and_inside)
{
    double y[6] = {100, 100, 100, 99, 10, 400};
    svg_spread(y, 6, 12, 20, 150);
    cr_assert(y[4] >= 20 && y[5] <= 150);
    cr_assert(y[4] + 12 <= y[3] + 1e-9);
    cr_assert(y[3] + 12 <= y[0] + 1e-9);
    cr_assert(y[0] + 12 <= y[1] + 1e-9 && y[1] + 12 <= y[2] + 1e-9);
    cr_assert(y[2] + 12 <= y[5] + 1e-9);
}

Test(svg, too_many_labels_share_the_room)
{
    double y[5] = {0, 0, 0, 0, 0};
    svg_spread(y, 5, 12, 0, 20);
    for (int i = 0; i < 5; i++) cr_assert(epsilon_eq(dbl, y[i], 5.0 * i, 1e-9));
}

Test(svg, labels_that_do_not_touch_stay)
{
    double y[3] = {90, 10, 50};
    svg_spread(y, 3, 12, 0, 100);
    cr_assert(y[0] == 90 && y[1] == 10 && y[2] == 50);
}

Test(svg, tick_steps_are_round)
{
    cr_assert(eq(uint, svg_tick_step(1, 12), 1u));
    cr_assert(eq(uint, svg_tick_step(127, 12), 10u));
    cr_assert(eq(uint, svg_tick_step(300, 12), 50u));
    cr_assert(eq(uint, svg_tick_step(1023, 12), 100u));
    for (uint32_t n = 1; n < 100000; n = n * 3 / 2 + 1) cr_assert(n / svg_tick_step(n, 12) <= 12);
}

Test(svg, text_is_cut_between_characters)
{
    char out[4 * 5 + 1];
    cr_assert(eq(str, svg_shorten(out, "abcde", 5), "abcde"));
    cr_assert(eq(str, svg_shorten(out, "abcdef", 5), "abcd\xe2\x80\xa6"));
    cr_assert(eq(str, svg_shorten(out, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 5), "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xe2\x80\xa6"));
    cr_assert(strlen(svg_shorten(out, "a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 5)) < sizeof out);
}

/* Goal: a gap stays a gap and one point alone is seen. */
Test(svg, lines_break_at_missing_values)
{
    const svg_axes a = {.left = 0, .right = 10, .top = 0, .bottom = 10, .x_lo = 0, .x_hi = 10, .y_lo = 0, .y_hi = 1};
    const double x[5] = {0, 1, 2, 3, 4}, y[5] = {0, 1, NAN, 0.5, NAN};
    h_page h = {0};
    svg_line(&h, &a, "k", x, y, 5);
    cr_assert(eq(str, page_text(&h), "<path class=\"k\" d=\"M0.0 10.0L1.0 0.0\"/>\n<circle class=\"k dot\" cx=\"3.0\" cy=\"5.0\" r=\"2\"/>\n"));
    h_free(&h);
}

/* Goal: decimating keeps the peak; method: 100 000 zeros with a single 1. */
Test(svg, a_decimated_series_keeps_its_peak)
{
    enum { N = 100000 };
    const svg_axes a = {.left = 0, .right = 100, .top = 0, .bottom = 50, .x_lo = -0.5, .x_hi = N - 0.5, .y_lo = 0, .y_hi = 1};
    double *y = calloc(N, sizeof *y);
    h_page h = {0};
    cr_assert(y != NULL);
    y[54321] = 1;
    svg_series(&h, &a, "k", y, N);
    cr_assert(strstr(page_text(&h), "L54.5 0.0V50.0") != NULL, "%s", page_text(&h));
    cr_assert(h.n < 3000);
    h_free(&h);
    free(y);
}

Test(svg, values_outside_are_clipped)
{
    const svg_axes a = {.left = 0, .right = 10, .top = 0, .bottom = 10, .x_lo = 0, .x_hi = 1, .y_lo = 0, .y_hi = 1};
    cr_assert(svg_y(&a, 3) == 0 && svg_y(&a, -3) == 10 && svg_y(&a, 0.25) == 7.5);
}
