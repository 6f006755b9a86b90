/* Random with protected sinks and window: the first `sinks` and the last `window` prompt
 * tokens stay, the rest of the budget is drawn as the policy `random` draws it (the same
 * numbers, so the two differ only by the protection). */
#include "kvt_prim.h"

enum { P_SINKS, P_WINDOW };
static const kvt_param_def random_protect_params[] = {
    [P_SINKS]  = { "sinks", 4, 0, 4194304, NULL, 1, "first tokens that always stay" },
    [P_WINDOW] = { "window", 32, 1, 4194304, NULL, 1, "last prompt tokens that always stay" },
    { 0 }
};

static void random_protect_setup(const kvt_job *job, kvt_setup *out)
{
    const double protect = job->param[P_SINKS] + job->param[P_WINDOW];

    out->nested = 1;
    if (job->keep_cache < job->n && job->keep_cache < protect)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static void random_protect_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    float *score = out->score;
    const uint32_t n = job->n;
    const uint32_t sinks = (uint32_t)job->param[P_SINKS], window = (uint32_t)job->param[P_WINDOW];

    (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < n; j++)
            score[(size_t)c * n + j] = j < sinks || n - j <= window
                ? KVT_ALWAYS_KEEP : kvt_uniform(job, in->layer, c, 0, j);
}

extern const kvt_policy kvt_policy_random_protect;
const kvt_policy kvt_policy_random_protect = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT | KVT_POLICY_RANDOM | KVT_POLICY_BASELINE, .version = 1,
    .id = "random_protect", .title = "Random, sinks and window protected", .cite = "",
    .params = random_protect_params,
    .setup = random_protect_setup, .score = random_protect_score,
};
