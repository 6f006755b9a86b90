/* text.c - see kvt_text.h. The decoder is strict: overlong forms, surrogates and values
 * above 10FFFF are bad bytes, each shown alone, so that nothing can hide in one. */
#include "kvt_text.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_status.h"

/* Code points that a reader cannot see or that move other text about: Unicode's
 * Default_Ignorable_Code_Point, the controls, the line and paragraph separators, the
 * interlinear annotations and the noncharacters of the first plane. Sorted. */
static const struct { uint32_t first, last; } hidden[] = {
    {0x0000, 0x001f}, {0x007f, 0x009f}, {0x00ad, 0x00ad}, {0x034f, 0x034f}, {0x061c, 0x061c},
    {0x115f, 0x1160}, {0x17b4, 0x17b5}, {0x180b, 0x180f}, {0x200b, 0x200f}, {0x2028, 0x202e},
    {0x2060, 0x206f}, {0x3164, 0x3164}, {0xfdd0, 0xfdef}, {0xfe00, 0xfe0f}, {0xfeff, 0xfeff},
    {0xffa0, 0xffa0}, {0xfff0, 0xfffb}, {0xfffe, 0xffff}, {0x1bca0, 0x1bca3},
    {0x1d173, 0x1d17a}, {0xe0000, 0xe0fff},
};

static bool text_is_hidden(uint32_t cp)
{
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden && cp >= hidden[i].first; i++)
        if (cp <= hidden[i].last) return true;
    return false;
}

/* Length in bytes of the character at s, and its code point; 0 when it is a bad byte. */
static size_t text_decode(const uint8_t *s, size_t n, uint32_t *cp)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len;
    uint32_t v;

    if (s[0] < 0x80) {
        *cp = s[0];
        return 1;
    }
    if (s[0] >= 0xc2 && s[0] <= 0xdf) len = 2, v = s[0] & 0x1fu;
    else if (s[0] >= 0xe0 && s[0] <= 0xef) len = 3, v = s[0] & 0x0fu;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4) len = 4, v = s[0] & 0x07u;
    else return 0;
    if (len > n) return 0;
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0u) != 0x80u) return 0;
        v = (v << 6) | (s[i] & 0x3fu);
    }
    if (v < smallest[len] || v > 0x10ffffu || (v >= 0xd800u && v <= 0xdfffu)) return 0;
    *cp = v;
    return len;
}

/* The printable form of what begins at s: its length into *shown_n, bytes used returned. */
static size_t text_show(const uint8_t *s, size_t n, char shown[16], size_t *shown_n)
{
    uint32_t cp = 0;
    const size_t used = text_decode(s, n, &cp);

    if (used == 0) {
        *shown_n = (size_t)snprintf(shown, 16, "\\x%02X", s[0]);
        return 1;
    }
    if (cp == '\n' || cp == '\t') {
        memcpy(shown, cp == '\n' ? "\xE2\x86\xB5" : "\xE2\x87\xA5", 3);
        *shown_n = 3;
    } else if (text_is_hidden(cp)) {
        *shown_n = (size_t)snprintf(shown, 16, "\\u{%X}", (unsigned)cp);
    } else {
        memcpy(shown, s, used);
        *shown_n = used;
    }
    return used;
}

char *kvt_printable(char *out, size_t size, const void *bytes, size_t n)
{
    const uint8_t *s = bytes;
    size_t at = 0, cut = 0;         /* cut: where "..." goes if the rest does not fit */

    KVT_ASSERT(out && size > 0 && (bytes || n == 0));
    while (n) {
        char shown[16];
        size_t shown_n;
        const size_t used = text_show(s, n, shown, &shown_n);

        if (shown_n >= size - at) {
            const size_t dots = size - 1 - cut < 3 ? size - 1 - cut : 3;
            memcpy(out + cut, "...", dots);
            at = cut + dots;
            break;
        }
        memcpy(out + at, shown, shown_n);
        at += shown_n;
        if (at + 3 < size) cut = at;
        s += used;
        n -= used;
    }
    out[at] = '\0';
    return out;
}

char *kvt_printable_str(char *out, size_t size, const char *text)
{
    return kvt_printable(out, size, text, text ? strlen(text) : 0);
}

char *kvt_number(char out[32], double x)
{
    KVT_ASSERT(isfinite(x));
    if (x == 0) x = 0;              /* negative zero prints as 0 */
    if (fabs(x) <= 0x1p53 && floor(x) == x) {
        snprintf(out, 32, "%.0f", x);
        return out;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, x);
        if (strtod(out, NULL) == x) break;
    }
    return out;
}
