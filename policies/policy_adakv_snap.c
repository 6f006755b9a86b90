/* Ada-KV over SnapKV: the heads of a layer share one budget, with a floor for each.
 *
 * Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for
 * Efficient LLM Inference", arXiv:2407.11550. impl=ada, the authors' repository: counts
 * of the best b per head on average, mixed with a floor of alpha b, b = capacity - window;
 * the window always stays; sums need not come out exactly. wrapper (kvpress-style, scores
 * of `scorer`): alpha of each head's budget, window in, is sure, then the smallest of the
 * layer leave. efficient (FFY0/DefensiveKV): alpha of the prefix and the window are sure,
 * then the best of the layer stay. */
#include "family_snap.h"

enum { ADA, WRAPPER, EFFICIENT };
enum { P_IMPL, P_SCORER, P_WINDOW, P_KERNEL, P_POOLING, P_GQA, P_ALPHA };
static const kvt_param_def adakv_snap_params[] = {
    [P_IMPL]    = { "impl", ADA, ADA, EFFICIENT, "ada|wrapper|efficient", 1, "reference whose details are repeated" },
    [P_SCORER]  = { "scorer", 0, 0, 1, "dkv|kvpress", 1, "impl=wrapper: the window ties with the best token, or lies above it" },
    [P_WINDOW]  = SNAP_WINDOW(32),
    [P_KERNEL]  = SNAP_KERNEL(7),
    [P_POOLING] = SNAP_POOLING(1),
    [P_GQA]     = SNAP_GQA,
    [P_ALPHA]   = SNAP_ALPHA,
    { 0 }
};
static const kvt_param_alt adakv_snap_alts[] = {
    { "window", "scorer=kvpress", 64 }, { "kernel", "impl=wrapper|efficient", 5 }, { "pooling", "impl=wrapper|efficient", 0 }, { 0 }
};

static void adakv_snap_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->base_planes = 1;
    out->ws_bytes = snap_bytes(job);
    if (job->param[P_IMPL] == ADA) {            /* even C = n may lose a token per head */
        out->overshoots = out->uneven = 1;
        out->keep_all = job->n <= out->window || job->keep_cache > job->n;
        if (!out->keep_all && job->keep_cache < out->window)
            out->refuse = "the capacity must not be below the window";
        else if (!out->keep_all && job->keep_cache == out->window)
            out->flags |= KVT_FLAG_BELOW_WINDOW;
        return;
    }
    out->rank_over = KVT_SPAN_LAYER;
    if (job->param[P_IMPL] == WRAPPER)
        out->first = KVT_FIRST_LEAVES;
    if (!snap_trivial(job, out->window)) {
        const uint64_t sure = job->param[P_IMPL] == WRAPPER ? out->window
                            : kvt_trunc(job->tokens * job->param[P_ALPHA]) + out->window;
        if (job->keep_layer < sure * job->n_caches)
            out->flags |= KVT_FLAG_BELOW_WINDOW;
    }
}

/* Of every head the best alpha of its budget is sure; all caches then drop the smallest. */
static void adakv_snap_wrapper(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t sure = kvt_trunc(job->keep_cache * job->param[P_ALPHA]);

    snap_padded(job, in, how, (float)job->param[P_SCORER], ws, out->score);
    for (uint32_t c = 0; c < job->n_caches; c++)
        snap_protect(job, in, c, out->score + (size_t)c * job->n, job->n, sure, ws);
    *out->keep_layer = (uint64_t)job->n_caches * job->keep_cache;
}

/* The window gets the value of the best entry, protected ones included. */
static void adakv_snap_efficient(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t sure = kvt_trunc(job->tokens * job->param[P_ALPHA]);
    const float best = snap_prefix(job, in, how, ws, out->score);

    for (uint32_t c = 0; c < job->n_caches; c++)
        snap_protect(job, in, c, out->score + (size_t)c * job->n, job->n - how->window, sure, ws);
    snap_fill_window(job, how->window, sure > 0 ? KVT_ALWAYS_KEEP : best, out->score);
}

static kvt_votes adakv_snap_votes(const kvt_job *job)
{
    const double *p = job->param;

    return snap_votes(p[P_WINDOW], p[P_KERNEL], p[P_POOLING], p[P_GQA], p[P_IMPL] == ADA);
}

static void adakv_snap_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    snap_base(job, in, adakv_snap_votes(job), ws, base);
}

static void adakv_snap_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const double *p = job->param;
    const kvt_votes how = adakv_snap_votes(job);

    if (p[P_IMPL] == ADA)
        snap_adaptive(job, in, &how, job->keep_cache - how.window, p[P_ALPHA], ws, out);
    else if (p[P_IMPL] == WRAPPER)
        adakv_snap_wrapper(job, in, &how, ws, out);
    else
        adakv_snap_efficient(job, in, &how, ws, out);
}

extern const kvt_policy kvt_policy_adakv_snap;
const kvt_policy kvt_policy_adakv_snap = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "adakv_snap", .title = "Ada-KV over SnapKV", .cite = "arXiv:2407.11550",
    .note = "The paper shares a layer's budget exactly; impl=ada rounds the counts of the heads, so the sum can differ by a few tokens, and "
            "a budget equal to the prompt can lose one per head. alpha is 0.5 in that code's configuration, 0.2 in its evaluation.",
    .params = adakv_snap_params, .alts = adakv_snap_alts, .setup = adakv_snap_setup, .base = adakv_snap_base, .score = adakv_snap_score,
};
