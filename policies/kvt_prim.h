/* kvt_prim.h - arithmetic that policies share, as plain C on the caller's memory.
 * Output never overlaps input. Every function states its order of summation, because a
 * kept set can hang on the last bit. */
#ifndef KVT_PRIM_H
#define KVT_PRIM_H

#include "kvt_policy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* count * size bytes of scratch, 64-byte aligned, not zeroed, valid until the callback
 * returns. Asserts that setup() promised enough. */
void *kvt_ws_take(kvt_ws *ws, size_t count, size_t size);

/* out[j] = mean of x[j-k/2 .. j+k/2]; k odd; outside counts as 0 and the divisor stays
 * k, so edges are damped as in the reference codes. Summed left to right in double. */
void kvt_pool_mean(const float *x, uint32_t n, uint32_t k, float *out);
/* out[j] = max over the same span; outside does not count. */
void kvt_pool_max(const float *x, uint32_t n, uint32_t k, float *out);

/* order[0..n-1] = indices by score, highest first, ties to the lower index (stable).
 * -0 equals +0. tmp has n entries. */
void kvt_rank(const float *score, uint32_t n, uint32_t *order, uint32_t *tmp);

/* Uniform in [0, 1), 24 bits: Philox4x32-10 keyed by job->key, counter (index, layer,
 * cache, purpose). */
float kvt_uniform(const kvt_job *job, uint32_t layer, uint32_t cache, uint32_t purpose,
                  uint32_t index);

/* (int)x of the reference codes: toward zero, in double; negative gives 0. */
static inline uint32_t kvt_trunc(double x) { return x > 0 ? (uint32_t)x : 0u; }

#ifdef __cplusplus
}
#endif
#endif
