/* SnapKV: the last queries of the prompt vote on what to keep.
 *
 * Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation",
 * arXiv:2404.14469. Mean over the window's rows, pooling over the prefix, one score per
 * cache. impl=dkv (FFY0/DefensiveKV) and kvpress (NVIDIA/kvpress) merge the group after
 * pooling and pad: the window gets the best score of the layer, or that + 1, and a budget
 * below the window keeps the lowest of its positions. original (FasterDecoding/SnapKV,
 * one set per query head), ada (FFY0/AdaKV) and factory (KVCache-Factory) merge before
 * pooling and always keep the window, so the capacity must exceed it. */
#include "family_snap.h"

enum { DKV, KVPRESS, ORIGINAL, ADA, FACTORY };
enum { P_IMPL, P_WINDOW, P_KERNEL, P_POOLING, P_GQA };
static const kvt_param_def snapkv_params[] = {
    [P_IMPL]    = { "impl", DKV, DKV, FACTORY, "dkv|kvpress|original|ada|factory", 1, "reference whose details are repeated" },
    [P_WINDOW]  = SNAP_WINDOW(32),
    [P_KERNEL]  = SNAP_KERNEL(5),
    [P_POOLING] = SNAP_POOLING(0),
    [P_GQA]     = SNAP_GQA,
    { 0 }
};
static const kvt_param_alt snapkv_alts[] = {
    { "window", "impl=kvpress", 64 }, { "kernel", "impl=ada", 7 }, { "pooling", "impl=ada", 1 }, { 0 }
};

static void snapkv_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->ws_bytes = snap_bytes(job);
    out->nested = 1;
    if (job->param[P_IMPL] == ORIGINAL)
        out->caches = KVT_CACHES_QUERY;
    if (snap_trivial(job, out->window))
        return;
    if (job->param[P_IMPL] >= ORIGINAL && job->keep_cache <= out->window)
        out->refuse = "the capacity must exceed the window";
    else if (job->keep_cache < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static void snapkv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const double *p = job->param;
    const kvt_votes how = snap_votes(p[P_WINDOW], p[P_KERNEL], p[P_POOLING], p[P_GQA], p[P_IMPL] >= ORIGINAL);

    snap_padded(job, in, &how, p[P_IMPL] == DKV ? 0 : p[P_IMPL] == KVPRESS ? 1 : KVT_ALWAYS_KEEP, ws, out->score);
}

extern const kvt_policy kvt_policy_snapkv;
const kvt_policy kvt_policy_snapkv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "snapkv", .title = "SnapKV", .cite = "arXiv:2404.14469",
    .note = "The paper keeps a set per query head and the window apart (impl=original). Later codes merge the group; kvpress-style "
            "ones count the window in and protect it only by a high score.",
    .params = snapkv_params, .alts = snapkv_alts, .setup = snapkv_setup, .score = snapkv_score,
};
