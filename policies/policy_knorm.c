/* Knorm: keep the keys with the smallest L2 norm.
 *
 * arXiv:2406.11430, as in NVIDIA/kvpress 8bb29b9: nothing is protected. Ranked is the
 * squared norm, without the root: one f32 chain of fused multiply-adds over the channels in
 * order, because the cut is often decided by its last bits. */
#include "kvt_prim.h"

#include <math.h>

static void knorm_setup(const kvt_job *job, kvt_setup *out)
{
    (void)job;
    out->nested = 1;
}

static void knorm_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < job->n; j++) {
            const float *key = in->key + kvt_kv_head(job, c) * in->key_stride + (size_t)j * job->head_dim;
            float sum = 0;

            for (uint32_t i = 0; i < job->head_dim; i++)
                sum = fmaf(key[i], key[i], sum);
            out->score[(size_t)c * job->n + j] = -sum;
        }
}

extern const kvt_policy kvt_policy_knorm;
const kvt_policy kvt_policy_knorm = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .version = 1,
    .id = "knorm", .title = "Knorm", .cite = "arXiv:2406.11430",
    .setup = knorm_setup, .score = knorm_score,
};
