/* Ada-KV over PyramidKV: layers get the budgets of a pyramid, heads share within a layer.
 *
 * Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for
 * Efficient LLM Inference", arXiv:2407.11550; the form of the authors' repository
 * (FFY0/AdaKV). The pyramid (arXiv:2406.02069) gives a layer b prefix tokens per head;
 * the heads' counts follow from the best b per head on average and a floor of alpha b.
 * The window always stays. The repository computes the pyramid for the first prompt of a
 * process and uses it for all; here every prompt gets its own. */
#include "family_snap.h"

enum { P_WINDOW, P_KERNEL, P_POOLING, P_GQA, P_ALPHA };
static const kvt_param_def adakv_pyramid_params[] = {
    [P_WINDOW] = SNAP_WINDOW(32), [P_KERNEL] = SNAP_KERNEL(7), [P_POOLING] = SNAP_POOLING(1), [P_GQA] = SNAP_GQA,
    [P_ALPHA] = SNAP_ALPHA, { 0 }
};

static void adakv_pyramid_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->base_planes = 1;
    out->ws_bytes = snap_bytes(job);
    out->overshoots = out->uneven = 1;
    out->keep_all = job->n <= out->window;      /* what a layer keeps whole, score() decides */
    if (!out->keep_all && job->keep_cache < out->window)
        out->refuse = "the capacity must not be below the window";
    else if (!out->keep_all && job->keep_cache == out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static kvt_votes adakv_pyramid_votes(const kvt_job *job)
{
    const double *p = job->param;

    return snap_votes(p[P_WINDOW], p[P_KERNEL], p[P_POOLING], p[P_GQA], 1);
}

static void adakv_pyramid_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    snap_base(job, in, adakv_pyramid_votes(job), ws, base);
}

static void adakv_pyramid_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const double *p = job->param;
    const kvt_votes how = adakv_pyramid_votes(job);
    const uint32_t base = snap_pyramid(job->keep_cache - how.window, job->n - how.window, job->n_layers, in->slot);

    snap_adaptive(job, in, &how, base, p[P_ALPHA], ws, out);
}

extern const kvt_policy kvt_policy_adakv_pyramid;
const kvt_policy kvt_policy_adakv_pyramid = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "adakv_pyramid", .title = "Ada-KV over PyramidKV", .cite = "arXiv:2407.11550",
    .note = "Floored steps of the pyramid and rounded counts of the heads hold more than asked for; the held share is what is reported.",
    .params = adakv_pyramid_params, .setup = adakv_pyramid_setup, .base = adakv_pyramid_base, .score = adakv_pyramid_score,
};
