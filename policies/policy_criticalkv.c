/* CriticalKV: half of the budget by attention, the rest by attention times value norm.
 *
 * Feng et al., "Identify Critical KV Cache in LLM Inference from an Output Perturbation
 * Perspective", arXiv:2502.03805. Scores are those of SnapKV (`scorer`); the norm is
 * || V Wo ||_1, mean over the group. semantics=code, the press of its authors: stage 1
 * ranks the padded scores, window included, stage 2 multiplies what stage 1 left, window
 * included; so the window stays only as far as ties put it into stage 1. paper: the window
 * always stays, both stages share what is left of the budget. */
#include "family_snap.h"

enum { P_SEMANTICS, P_SCORER, P_WINDOW, P_KERNEL, P_FIRST_STAGE, P_EPS };
static const kvt_param_def criticalkv_params[] = {
    [P_SEMANTICS]   = { "semantics", 0, 0, 1, "code|paper", 1, "reference code, or the window always stays" },
    [P_SCORER]      = SNAP_SCORER(0),
    [P_WINDOW]      = SNAP_WINDOW(32),
    [P_KERNEL]      = SNAP_KERNEL(5),
    [P_FIRST_STAGE] = SNAP_FIRST_STAGE,
    [P_EPS]         = SNAP_EPS,
    { 0 }
};
static const kvt_param_alt criticalkv_alts[] = { { "window", "scorer=kvpress", 64 }, { 0 } };

/* Tokens of a cache in stage 1. */
static uint64_t criticalkv_stage1(const kvt_job *job)
{
    const double window = job->param[P_WINDOW];
    const double budget = job->param[P_SEMANTICS] > 0 ? job->keep_cache - window : job->tokens;

    return kvt_count_of(job, budget * job->param[P_FIRST_STAGE]);
}

static void criticalkv_setup(const kvt_job *job, kvt_setup *out)
{
    const int paper = job->param[P_SEMANTICS] > 0;

    out->window = (uint32_t)job->param[P_WINDOW];
    out->base_planes = 1;
    out->ws_bytes = snap_bytes(job) + KVT_WS_BYTES(job->n, float);
    if (!snap_trivial(job, out->window) && (paper ? job->keep_cache : criticalkv_stage1(job)) < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static kvt_votes criticalkv_votes(const kvt_job *job)
{
    const double *p = job->param;

    return snap_votes(p[P_WINDOW], p[P_KERNEL], 0, 0, 0);
}

static void criticalkv_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    snap_base(job, in, criticalkv_votes(job), ws, base);
}

static void criticalkv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const double *p = job->param;
    const kvt_votes how = criticalkv_votes(job);
    const uint32_t n = p[P_SEMANTICS] > 0 ? job->n - how.window : job->n;      /* that compete in the stages */
    const float eps = (float)p[P_EPS], above = p[P_SEMANTICS] > 0 ? KVT_ALWAYS_KEEP : (float)p[P_SCORER];
    float *nu = kvt_ws_take(ws, job->n, sizeof *nu);

    snap_padded(job, in, &how, above, ws, out->score);
    for (uint32_t c = 0; c < job->n_caches; c++) {
        float *score = out->score + (size_t)c * job->n;

        kvt_group_nu(job, in, c, nu);
        snap_protect(job, in, c, score, n, criticalkv_stage1(job), ws);
        for (uint32_t j = 0; j < n; j++)
            if (score[j] < KVT_ALWAYS_KEEP)
                score[j] = (score[j] + eps) * nu[j];
    }
}

extern const kvt_policy kvt_policy_criticalkv;
const kvt_policy kvt_policy_criticalkv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW | KVT_NEED_NU, .version = 1,
    .id = "criticalkv", .title = "CriticalKV over SnapKV", .cite = "arXiv:2502.03805",
    .note = "The paper always keeps the window. The code protects it only by ties: a budget below two windows can lose window tokens.",
    .params = criticalkv_params, .alts = criticalkv_alts, .setup = criticalkv_setup, .base = criticalkv_base, .score = criticalkv_score,
};
