/* kvt_text.h - hostile text made printable, and numbers made text.
 *
 * Every byte that comes from a trace, a database or the command line may be hostile.
 * These functions are the only way such bytes reach a terminal, a message or a
 * report. Decoding is strict UTF-8; what does not decode, control characters and
 * invisible or direction-changing characters are shown as escapes, so one message is
 * one line and nothing can move the cursor. */
#ifndef KVT_TEXT_H
#define KVT_TEXT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Write the printable form of n bytes into out[0..size-1], always terminated; when it
 * does not fit it ends in "...". Returns out, so that it can stand in a printf call.
 * Bad bytes become \xNN; C0, C1, soft hyphen, zero-width, bidi controls, U+2028/9,
 * tags and the byte-order mark become \u{HEX}; newline and tab become U+21B5, U+21E5. */
char *kvt_printable(char *out, size_t size, const void *bytes, size_t n);
/* The same for a terminated string; NULL prints as "". */
char *kvt_printable_str(char *out, size_t size, const char *text);

/* Shortest of %.1g .. %.17g that reads back to the same double; integers without an
 * exponent up to 2^53; negative zero as 0. Not for NaN or infinities (asserted).
 * out needs 32 bytes. Returns out. */
char *kvt_number(char out[32], double x);

#ifdef __cplusplus
}
#endif
#endif
