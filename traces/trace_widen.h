/* trace_widen.h - private: the numbers of a trace as floats. */
#ifndef KVT_TRACE_WIDEN_H
#define KVT_TRACE_WIDEN_H

#include "trace_h5.h"

/* out[i] = element i of `in`, exactly (NaN keeps its bits), for KVT_H5_F16, _BF16 and _F32;
 * `in` needs no alignment. `in` may be the last n elements' worth of bytes of out itself.
 * Returns 1 when some element is NaN or an infinity. Same bits on every instruction set. */
int kvt__widen(float *out, const void *in, size_t n, kvt_h5_type type);
/* The same with the plain instruction set: what a processor without AVX2 runs. */
int kvt__widen_plain(float *out, const void *in, size_t n, kvt_h5_type type);

#endif
