/* StreamingLLM: attention sinks and the most recent tokens.
 *
 * Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
 * arXiv:2309.17453. impl=static: chosen once, at the end of the prompt, as kvpress-style
 * code does; positions are not renumbered. A budget below `sinks` keeps the first sinks. */
#include "kvt_prim.h"

enum { P_IMPL, P_SINKS };
static const kvt_param_def streaming_params[] = {
    [P_IMPL]  = { "impl", 0, 0, 0, "static", 1, "reference whose details are repeated" },
    [P_SINKS] = { "sinks", 4, 0, 4194304, NULL, 1, "first tokens that always stay" },
    { 0 }
};

static void streaming_setup(const kvt_job *job, kvt_setup *out)
{
    out->nested = 1;
    if (job->keep_cache < job->n && job->keep_cache < job->param[P_SINKS])
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static void streaming_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *score)
{
    (void)in, (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < job->n; j++)                   /* exact: n is below 2^24 */
            score[(size_t)c * job->n + j] = j < job->param[P_SINKS] ? KVT_ALWAYS_KEEP : (float)j;
}

extern const kvt_policy kvt_policy_streaming;
const kvt_policy kvt_policy_streaming = {
    .caps = KVT_POLICY_ONESHOT | KVT_POLICY_BASELINE, .version = 1,
    .id = "streaming", .title = "StreamingLLM (sinks and recent)", .cite = "arXiv:2309.17453",
    .params = streaming_params,
    .setup = streaming_setup, .score = streaming_score,
};
