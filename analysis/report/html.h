/* html.h - writing HTML from C so that text from a file cannot become markup.
 *
 * A page is one growing buffer. Markup stands in string literals only; h_put() checks
 * them like printf and escapes every %s, so text cannot enter unescaped by mistake.
 * Running out of memory sets `failed` and turns every later call into nothing: check
 * once, at the end. */
#ifndef HTML_H
#define HTML_H

#include <stddef.h>
#include "kvt_status.h"

typedef struct h_page {
    char  *data;                    /* n bytes and a terminating zero; NULL when n = 0 */
    size_t n, cap;
    int    failed;
} h_page;

void h_free(h_page *h);

/* A literal, copied as it stands. */
#define h_raw(h, literal) h_raw_n((h), "" literal "", sizeof(literal) - 1)
void h_raw_n(h_page *h, const char *markup, size_t n);

/* Literal markup with values in it. Conversions: %s (text of any origin: made printable
 * and escaped, good in elements and in double-quoted attributes; NULL is empty), %d %u
 * %x %lld %llu %zu, %f with a precision (NaN prints as -), %c of a literal, %%. */
void h_put(h_page *h, const char *fmt, ...) KVT_PRINTF(2, 3);

/* n bytes of any kind, printable and escaped. */
void h_text(h_page *h, const void *bytes, size_t n);
/* The same for <pre>: line breaks stay line breaks. */
void h_code(h_page *h, const char *text);

/* A loss as people read it: three decimals, "0" for exactly none, "<0.001". */
char *h_loss(char out[16], double x);
/* A share as "20 %" or "12.5 %". */
char *h_percent(char out[16], double share);

/* Base64 of SHA-256 of n bytes, as Content-Security-Policy wants it. */
void h_csp_hash(char out[45], const void *bytes, size_t n);

#endif
