/* Random: an independent uniform score for every layer, cache and position; nothing is
 * protected. What a policy must beat. */
#include "kvt_prim.h"

static void random_setup(const kvt_job *job, kvt_setup *out)
{
    (void)job;
    out->nested = 1;
}

static void random_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *score)
{
    (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < job->n; j++)
            score[(size_t)c * job->n + j] = kvt_uniform(job, in->layer, c, 0, j);
}

extern const kvt_policy kvt_policy_random;
const kvt_policy kvt_policy_random = {
    .caps = KVT_POLICY_ONESHOT | KVT_POLICY_RANDOM | KVT_POLICY_BASELINE, .version = 1,
    .id = "random", .title = "Random", .cite = "",
    .setup = random_setup, .score = random_score,
};
