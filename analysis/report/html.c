/* The HTML writer: one buffer, one escaper. */
#include "html.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_mul.h"
#include "kvt_sha256.h"
#include "kvt_text.h"

void h_free(h_page *h)
{
    free(h->data);
    *h = (h_page){0};
}

static int page_reserve(h_page *h, size_t more)
{
    size_t need, cap = h->cap ? h->cap : 4096;
    char *p;
    if (h->failed) return 0;
    if (!kvt_add(h->n, more, &need) || !kvt_add(need, 1, &need)) goto full;
    while (cap < need)
        if (!kvt_mul(cap, 2, &cap)) goto full;
    if (cap == h->cap) return 1;
    p = realloc(h->data, cap);
    if (!p) goto full;
    h->data = p;
    h->cap = cap;
    return 1;
full:
    h->failed = 1;
    return 0;
}

void h_raw_n(h_page *h, const char *markup, size_t n)
{
    if (!page_reserve(h, n)) return;
    memcpy(h->data + h->n, markup, n);
    h->n += n;
    h->data[h->n] = 0;
}

static void page_escape(h_page *h, const char *text)
{
    for (;;) {
        const size_t plain = strcspn(text, "&<>\"'");
        h_raw_n(h, text, plain);
        text += plain;
        switch (*text++) {
        case '&': h_raw(h, "&amp;"); break;
        case '<': h_raw(h, "&lt;"); break;
        case '>': h_raw(h, "&gt;"); break;
        case '"': h_raw(h, "&quot;"); break;
        case '\'': h_raw(h, "&#39;"); break;
        default: return;
        }
    }
}

void h_text(h_page *h, const void *bytes, size_t n)
{
    enum { WORST = 10 };            /* \u{10FFFF} for one character                   */
    char small[512], *big = NULL;
    size_t size;
    if (!n) return;
    if (!kvt_mul(n, WORST, &size) || !kvt_add(size, 16, &size)) {
        h->failed = 1;
        return;
    }
    if (size > sizeof small) {
        big = malloc(size);
        if (!big) {
            h->failed = 1;
            return;
        }
    }
    page_escape(h, kvt_printable(big ? big : small, big ? size : sizeof small, bytes, n));
    free(big);
}

void h_code(h_page *h, const char *text)
{
    for (;;) {
        const size_t line = strcspn(text, "\n");
        h_text(h, text, line);
        if (!text[line]) return;
        h_raw(h, "\n");
        text += line + 1;
    }
}

/* One conversion of h_put(): spec is "%...X". Returns through the page. */
static void page_number(h_page *h, const char *spec, size_t n, va_list *ap)
{
    char one[16], out[64];
    const char conv = spec[n - 1];
    int len;
    KVT_ASSERT(n < sizeof one);
    memcpy(one, spec, n);
    one[n] = 0;
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"   /* the compiler checked the whole literal at h_put() */
#endif
    if (conv == 'f') {
        const double x = va_arg(*ap, double);
        len = isfinite(x) ? snprintf(out, sizeof out, one, x) : snprintf(out, sizeof out, "-");
        if (len > 1 && out[0] == '-' && !out[strspn(out, "-0.")]) {    /* -0.0 reads as a mistake */
            memmove(out, out + 1, (size_t)len);
            len--;
        }
    } else if (strstr(one, "ll")) {
        len = snprintf(out, sizeof out, one, va_arg(*ap, long long));
    } else if (strchr(one, 'z')) {
        len = snprintf(out, sizeof out, one, va_arg(*ap, size_t));
    } else {
        KVT_ASSERT(conv == 'd' || conv == 'u' || conv == 'x' || conv == 'c');
        len = snprintf(out, sizeof out, one, va_arg(*ap, int));
    }
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
    KVT_ASSERT(len >= 0);
    h_raw_n(h, out, (size_t)len < sizeof out ? (size_t)len : sizeof out - 1);
}

void h_put(h_page *h, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    for (;;) {
        const size_t plain = strcspn(fmt, "%");
        size_t n;
        h_raw_n(h, fmt, plain);
        fmt += plain;
        if (!*fmt) break;
        n = 1 + strcspn(fmt + 1, "scdufFeEgGxXpi%") + 1;
        if (fmt[n - 1] == '%') {
            h_raw(h, "%");
        } else if (fmt[n - 1] == 's') {
            const char *s = va_arg(ap, const char *);
            KVT_ASSERT(n == 2);
            if (s) h_text(h, s, strlen(s));
        } else {
            page_number(h, fmt, n, &ap);
        }
        fmt += n;
    }
    va_end(ap);
}

char *h_loss(char out[16], double x)
{
    if (!isfinite(x)) snprintf(out, 16, "-");
    else if (x == 0) snprintf(out, 16, "0");
    else if (x > 0 && x < 0.0005) snprintf(out, 16, "<0.001");
    else snprintf(out, 16, "%.3f", x > 1e6 ? 1e6 : x < -1e6 ? -1e6 : x);
    return out;
}

char *h_percent(char out[16], double share)
{
    double p = 100 * share;
    if (!isfinite(p)) {
        snprintf(out, 16, "-");
    } else {
        if (p > 1e6) p = 1e6;
        if (p < -1e6) p = -1e6;
        snprintf(out, 16, fabs(p - round(p)) < 0.05 ? "%.0f %%" : "%.1f %%", p);
    }
    return out;
}

void h_csp_hash(char out[45], const void *bytes, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t d[33] = {0};
    kvt_sha256_of(bytes, n, d);
    for (unsigned i = 0; i < 11; i++) {
        const uint32_t w = (uint32_t)d[3 * i] << 16 | (uint32_t)d[3 * i + 1] << 8 | d[3 * i + 2];
        for (unsigned k = 0; k < 4; k++) out[4 * i + k] = digit[w >> (18 - 6 * k) & 63];
    }
    out[43] = '=';                  /* 32 bytes leave one byte of padding             */
    out[44] = 0;
}
