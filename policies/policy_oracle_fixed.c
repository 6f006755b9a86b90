/* Oracle, fixed set: the best single set in hindsight for the mean loss. A token is worth
 * the attention that all decode steps will pay it, summed over the query heads of its
 * cache, heads in order, in double. It reads the future: a bound, not a policy. */
#include "kvt_prim.h"

static void oracle_fixed_setup(const kvt_job *job, kvt_setup *out)
{
    (void)job;
    out->nested = 1;
}

static void oracle_fixed_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    float *score = out->score;
    const uint32_t n = job->n, group = kvt_group(job);

    (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < n; j++) {
            double sum = 0;
            for (uint32_t i = 0; i < group; i++)
                sum += in->future_sum[((size_t)c * group + i) * n + j];
            score[(size_t)c * n + j] = (float)sum;
        }
}

extern const kvt_policy kvt_policy_oracle_fixed;
const kvt_policy kvt_policy_oracle_fixed = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT | KVT_POLICY_ORACLE | KVT_POLICY_BASELINE,
    .needs = KVT_NEED_FUTURE, .version = 1,
    .id = "oracle_fixed", .title = "Best fixed set in hindsight", .cite = "",
    .setup = oracle_fixed_setup, .score = oracle_fixed_score,
};
