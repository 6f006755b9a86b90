/* StreamingLLM: attention sinks and the most recent tokens.
 *
 * Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
 * arXiv:2309.17453. impl=static: chosen once, at the end of the prompt, as kvpress-style
 * code does. impl=online: while generating, too, the oldest token behind the sinks leaves
 * a full cache, as in the paper. Positions are not renumbered. A budget below `sinks` keeps
 * the first sinks. */
#include "kvt_prim.h"

enum { P_IMPL, P_SINKS };
enum { STATIC, ONLINE };
static const kvt_param_def streaming_params[] = {
    [P_IMPL]  = { "impl", STATIC, 0, 1, "static|online", 1, "reference whose details are repeated" },
    [P_SINKS] = { "sinks", 4, 0, 4194304, NULL, 1, "first tokens that always stay" },
    { 0 }
};

static void streaming_setup(const kvt_job *job, kvt_setup *out)
{
    const int online = job->param[P_IMPL] == ONLINE;

    out->caps &= ~(uint32_t)(online ? KVT_POLICY_ONESHOT : KVT_POLICY_ONLINE);
    out->nested = 1;
    out->stack = online;
    if (job->keep_cache < job->n && job->keep_cache < job->param[P_SINKS])
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static float streaming_value(const kvt_job *job, uint32_t pos)  /* exact: positions are below 2^24 */
{
    return pos < job->param[P_SINKS] ? KVT_ALWAYS_KEEP : (float)pos;
}

static void streaming_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    (void)in, (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < job->n; j++)
            out->score[(size_t)c * job->n + j] = streaming_value(job, j);
}

static void streaming_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    (void)ws, (void)col;
    for (uint32_t s = 0; s < ev->n; s++)
        worth[s] = streaming_value(lane->job, ev->pos[s]);
}

extern const kvt_policy kvt_policy_streaming;
const kvt_policy kvt_policy_streaming = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONLINE | KVT_POLICY_ONESHOT | KVT_POLICY_BASELINE, .version = 1,
    .id = "streaming", .title = "StreamingLLM (sinks and recent)", .cite = "arXiv:2309.17453",
    .note = "The paper renumbers positions inside the cache; here keys keep the positions that they had.",
    .params = streaming_params,
    .setup = streaming_setup, .score = streaming_score, .worth = streaming_worth,
};
