/* PyramidKV: SnapKV's votes, with more tokens in low layers and fewer in high ones.
 *
 * Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information
 * Funneling", arXiv:2406.02069. Budgets fall linearly from 2b - b/20 to b/20 around the
 * prefix budget b, flatter where the prefix is the limit. impl=ada (FFY0/AdaKV) and
 * factory (KVCache-Factory; flat where the prompt is shorter than 2b) work in whole
 * numbers, keep the window apart and may hold more than asked for, since steps are
 * floored. kvpress (NVIDIA/kvpress) works in reals with the window counted in, and is flat
 * where the last layer would get less than the window. ada computes the budgets for the
 * first prompt of a process and uses them for all; here every prompt gets its own. */
#include "family_snap.h"

#include <math.h>

enum { ADA, KVPRESS, FACTORY };
enum { P_IMPL, P_WINDOW, P_KERNEL, P_POOLING, P_GQA };
static const kvt_param_def pyramidkv_params[] = {
    [P_IMPL]    = { "impl", ADA, ADA, FACTORY, "ada|kvpress|factory", 1, "reference whose details are repeated" },
    [P_WINDOW]  = SNAP_WINDOW(32),
    [P_KERNEL]  = SNAP_KERNEL(7),
    [P_POOLING] = SNAP_POOLING(1),
    [P_GQA]     = SNAP_GQA,
    { 0 }
};
static const kvt_param_alt pyramidkv_alts[] = {
    { "window", "impl=kvpress", 64 }, { "kernel", "impl=kvpress|factory", 5 }, { "pooling", "impl=kvpress|factory", 0 }, { 0 }
};

static void pyramidkv_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->base_planes = 1;
    out->ws_bytes = snap_bytes(job);
    out->overshoots = out->uneven = 1;
    if (snap_trivial(job, out->window))
        return;
    if (job->param[P_IMPL] != KVPRESS && job->keep_cache <= out->window)
        out->refuse = "the capacity must exceed the window";
    else if (job->keep_cache < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

/* Halves to even, as Python's round(); a share is a decimal, so under the other rule what
 * lies within 1e-9 of a half is one. */
static uint32_t pyramidkv_round(const kvt_job *job, double x)
{
    return job->rule == KVT_RULE_REFERENCE ? (uint32_t)rint(x) : (uint32_t)kvt_count_of(job, x);
}

/* Tokens of a layer, window in. (window + tokens) - window is what the code computes. */
static uint32_t pyramidkv_real(const kvt_job *job, uint32_t slot)
{
    const double window = job->param[P_WINDOW], base = window + job->tokens - window;
    double low = base / 20, high = base * 2 - low;

    if (high >= job->n - window) {
        high = job->n - window;
        low = base * 2 - high;
    }
    if (job->n_layers < 2 || !(job->n >= high && high >= low && low >= window))
        return pyramidkv_round(job, job->tokens);
    return pyramidkv_round(job, high - slot * ((high - low) / (job->n_layers - 1)));
}

static kvt_votes pyramidkv_votes(const kvt_job *job)
{
    const double *p = job->param;

    return snap_votes(p[P_WINDOW], p[P_KERNEL], p[P_POOLING], p[P_GQA], p[P_IMPL] != KVPRESS);
}

static void pyramidkv_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    snap_base(job, in, pyramidkv_votes(job), ws, base);
}

static void pyramidkv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const double *p = job->param;
    const int kvpress = p[P_IMPL] == KVPRESS;
    const kvt_votes how = pyramidkv_votes(job);
    const uint32_t prefix = job->n - how.window;
    uint32_t keep;

    if (kvpress) {
        keep = pyramidkv_real(job, in->slot);
    } else {
        const uint32_t base = job->keep_cache - how.window;
        const int flat = p[P_IMPL] == FACTORY && job->n < 2 * base;
        keep = (flat ? base : snap_pyramid(base, prefix, job->n_layers, in->slot)) + how.window;
    }
    for (uint32_t c = 0; c < job->n_caches; c++)
        out->keep[c] = keep;
    snap_padded(job, in, &how, kvpress ? 1 : KVT_ALWAYS_KEEP, ws, out->score);
}

extern const kvt_policy kvt_policy_pyramidkv;
const kvt_policy kvt_policy_pyramidkv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "pyramidkv", .title = "PyramidKV", .cite = "arXiv:2406.02069",
    .note = "The codes floor or round the budgets of the layers, so they hold more than asked for (ada, factory) or fall back to equal "
            "budgets (kvpress, factory). The held share is what is reported.",
    .params = pyramidkv_params, .alts = pyramidkv_alts, .setup = pyramidkv_setup, .base = pyramidkv_base, .score = pyramidkv_score,
};
