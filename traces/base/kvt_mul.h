/* kvt_mul.h - size arithmetic that cannot wrap. Every size that depends on a number
 * from a file or from the user goes through these before it reaches malloc or read. */
#ifndef KVT_MUL_H
#define KVT_MUL_H

#include <stdbool.h>
#include <stddef.h>

/* *out = a * b (or a + b); false and *out untouched when it does not fit. */
static inline bool kvt_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool kvt_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
#endif
