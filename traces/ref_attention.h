/* ref_attention.h - attention straight from FORMAT.md 1, in f64: slow and obviously
 * right. The oracle of synth, verify, capture and the tests; the replay's kernels are
 * compared with it. */
#ifndef KVT_REF_ATTENTION_H
#define KVT_REF_ATTENTION_H

#include <stdint.h>
#include "kvt_trace.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Is key j visible to the query at token index p? */
int kvt_ref_visible(const kvt_layer_info *l, uint32_t p, uint32_t j);

/* One row. q [d_k]; k [p + 1][d_k] (keys of the KV head); sink: learned sink logit,
 * used when l->has_sinks. prob [p + 1] receives a(p, j), 0 where invisible; NULL = not
 * wanted. Normalised by its own sum (lse == NULL or NaN: computed), or by *lse_in when
 * given. Returns ln den(p). */
double kvt_ref_row(const kvt_layer_info *l, uint32_t p, const float *q, const float *k,
                   float sink, const double *lse_in, double *prob);

/* out[d_v] = sum_j prob[j] v[j][:], j = 0..p. */
void kvt_ref_output(uint32_t p, uint32_t d_v, const double *prob, const float *v, double *out);

#ifdef __cplusplus
}
#endif
#endif
