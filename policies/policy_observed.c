/* Observed attention: the mean attention that a token got from the queries that saw it.
 *
 * A relative of H2O (arXiv:2306.14048) as in NVIDIA/kvpress 8bb29b9 and FFY0/DefensiveKV
 * 9251b95: the column sum of every query head over the prompt is divided by the number of
 * queries that can see the token, then averaged over the group. Nothing is protected, and
 * the last token counts with its attention to itself. */
#include "kvt_prim.h"

static void observed_setup(const kvt_job *job, kvt_setup *out)
{
    (void)job;
    out->nested = 1;
}

static void observed_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n, group = kvt_group(job);

    (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < n; j++) {
            double sum = 0;
            for (uint32_t i = 0; i < group; i++)
                sum += (double)in->col_sum[(size_t)(c * group + i) * n + j] / (n - j);
            out->score[(size_t)c * n + j] = (float)(sum / group);
        }
}

extern const kvt_policy kvt_policy_observed;
const kvt_policy kvt_policy_observed = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_COLSTAT, .version = 1,
    .id = "observed", .title = "Observed attention", .cite = "arXiv:2306.14048",
    .note = "H2O sums the attention that a token got; this mean over the queries that saw it does not favour early tokens.",
    .setup = observed_setup, .score = observed_score,
};
