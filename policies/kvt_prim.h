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

/* out[j] = mean over rows of x[r * stride + j], j < n; rows summed in order, in double.
 * sum: n doubles of scratch. */
void kvt_mean_rows(const float *x, uint32_t rows, size_t stride, uint32_t n, double *sum, float *out);

/* order[0..n-1] = indices by score, highest first, ties to the lower index (stable).
 * -0 equals +0. tmp has n entries. */
void kvt_rank(const float *score, uint32_t n, uint32_t *order, uint32_t *tmp);

/* The k best as a policy means them inside its score(); ties by job->ties. Both take
 * kvt_top_bytes(caches, n) of scratch and give it back.
 * kvt_mark_top: mark[j] = 1 for the k best of score[0..n-1] of one cache, else 0.
 * kvt_top_counts: count[c] = how many of the k best of score[c * stride + j], j < n, c <
 * caches, lie in cache c. */
size_t kvt_top_bytes(uint32_t caches, uint32_t n);
void   kvt_mark_top(const kvt_job *job, uint32_t layer, uint32_t cache, const float *score, uint32_t n,
                    uint64_t k, kvt_ws *ws, uint8_t *mark);
void   kvt_top_counts(const kvt_job *job, uint32_t layer, const float *score, uint32_t caches, size_t stride,
                      uint32_t n, uint64_t k, kvt_ws *ws, uint32_t *count);

/* Votes of the observation window, the first stage of the SnapKV family, for one cache:
 * mean over the last `window` rows, pooling over the prefix and the reduction over the
 * cache's query heads, the last two in either order. Writes out[0 .. n-window-1]. Takes
 * kvt_vote_bytes() of scratch and gives it back. */
typedef enum kvt_pool_kind { KVT_POOL_MEAN, KVT_POOL_MAX, KVT_POOL_NONE } kvt_pool_kind;
typedef enum kvt_merge { KVT_MERGE_MEAN, KVT_MERGE_MAX } kvt_merge;
typedef struct kvt_votes {
    uint32_t      window;
    kvt_pool_kind pool;
    uint32_t      pool_width;       /* odd                                            */
    kvt_merge     merge;            /* over the query heads of a cache                */
    int           merge_first;      /* 1 = before pooling                             */
} kvt_votes;
size_t kvt_vote_bytes(const kvt_job *job);
void   kvt_vote(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, uint32_t cache,
                kvt_ws *ws, float *out);
/* nu of a cache: mean over its query heads, in double: out[0 .. n-1]. */
void   kvt_group_nu(const kvt_job *job, const kvt_prompt *in, uint32_t cache, float *out);

/* cos and sin of a token's rotation as the engine rounded them, cs[2f] and cs[2f + 1] of
 * pair f < dims / 2. position picks the row of frequencies, rotary is what is multiplied
 * with them: rope->rotary[position] where the trace has one. */
void   kvt_rope_turn(const kvt_rope *rope, uint32_t position, int64_t rotary, double *cs);

/* A real-valued target as a count under the run's rule: nearest, halves to even (within
 * 1e-9 of a half counts as a half, so 0.35 * 10 is one); truncated under REFERENCE. */
uint64_t kvt_count_of(const kvt_job *job, double x);

/* Uniform in [0, 1), 24 bits: Philox4x32-10 keyed by job->key, counter (index, layer,
 * cache, purpose). */
#define KVT_PURPOSE_TIES 0x7469u     /* draws that order equals under ties=seeded      */
float kvt_uniform(const kvt_job *job, uint32_t layer, uint32_t cache, uint32_t purpose,
                  uint32_t index);

/* (int)x of the reference codes: toward zero, in double; negative gives 0. */
static inline uint32_t kvt_trunc(double x) { return x > 0 ? (uint32_t)x : 0u; }

#ifdef __cplusplus
}
#endif
#endif
