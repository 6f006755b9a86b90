/* Recency: the oldest entries leave.
 *
 * The baseline of EasyKV (Ren and Zhu, arXiv:2402.06262). Chunks of the prompt leave the
 * first `sinks` tokens in place, and so does mode=encoding_decoding while generating; in
 * mode=decoding the prompt is what stays and the oldest generated token leaves. The same
 * for all heads and layers. */
#include "family_easykv.h"

enum { P_IMPL, P_MODE };
static const kvt_param_def recency_params[] = {
    [P_IMPL] = { "impl", 0, 0, 0, "easykv", 1, "reference whose details are repeated" },
    KVT_EASYKV_PARAMS(P_MODE),
    { 0 }
};

static void recency_setup(const kvt_job *job, kvt_setup *out)
{
    kvt_easykv_setup(job, P_MODE, KVT_EASYKV_RECENCY, out);
    /* Elsewhere the sinks are places in the cache, which keep_last= can give to others. */
    out->nested = out->stack = job->param[P_MODE + KVT_EASYKV_P_MODE] == KVT_EASYKV_DECODING;
}

static void recency_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    const kvt_easykv e = kvt_easykv_plan(lane->job, P_MODE, KVT_EASYKV_RECENCY);
    const uint32_t sinks = e.mode == KVT_EASYKV_DECODING ? 0 : e.sinks;

    (void)ws, (void)col;
    for (uint32_t s = 0; s < ev->n; s++)                        /* exact: n is below 2^24 */
        worth[s] = s < sinks ? KVT_ALWAYS_KEEP : (float)s;
}

extern const kvt_policy kvt_policy_recency;
const kvt_policy kvt_policy_recency = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONLINE, .needs = KVT_NEED_PROMPT, .version = 1,
    .id = "recency", .title = "Recency (EasyKV)", .cite = "arXiv:2402.06262",
    .note = "The code adds the stride to the budget.",
    .params = recency_params, .share_over = KVT_SPAN_LAYER,
    .setup = recency_setup, .worth = recency_worth,
};
