/* CriticalKV with Ada-KV's budgets: the heads of a layer share one budget, then each spends
 * half of its own by attention and the rest by attention times value norm.
 *
 * Feng et al., arXiv:2502.03805 and arXiv:2407.11550, scores of SnapKV (`scorer`).
 * semantics=code, the press of the authors: alpha of the budget is sure for every head,
 * the best of the layer say how many tokens each head keeps, all with the padded window
 * among the candidates. paper: the window always stays, the rest of the budget is shared
 * and spent in the same way among the tokens before it. */
#include "family_snap.h"

enum { P_SEMANTICS, P_SCORER, P_WINDOW, P_KERNEL, P_ALPHA, P_FIRST_STAGE, P_EPS };
static const kvt_param_def critical_adakv_params[] = {
    [P_SEMANTICS]   = { "semantics", 0, 0, 1, "code|paper", 1, "reference code, or the window always stays" },
    [P_SCORER]      = SNAP_SCORER(0),
    [P_WINDOW]      = SNAP_WINDOW(32),
    [P_KERNEL]      = SNAP_KERNEL(5),
    [P_ALPHA]       = SNAP_ALPHA,
    [P_FIRST_STAGE] = SNAP_FIRST_STAGE,
    [P_EPS]         = SNAP_EPS,
    { 0 }
};
static const kvt_param_alt critical_adakv_alts[] = { { "window", "scorer=kvpress", 64 }, { 0 } };

static void critical_adakv_setup(const kvt_job *job, kvt_setup *out)
{
    const double sure = job->param[P_SEMANTICS] > 0 ? 1 : job->param[P_FIRST_STAGE];

    out->window = (uint32_t)job->param[P_WINDOW];
    out->uneven = 1;
    out->base_planes = 1;
    out->ws_bytes = snap_bytes(job) + KVT_WS_BYTES(job->n, float);
    if (!snap_trivial(job, out->window) && kvt_trunc(job->keep_cache * sure) < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static kvt_votes critical_adakv_votes(const kvt_job *job)
{
    const double *p = job->param;

    return snap_votes(p[P_WINDOW], p[P_KERNEL], 0, 0, 0);
}

static void critical_adakv_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    snap_base(job, in, critical_adakv_votes(job), ws, base);
}

static void critical_adakv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const double *p = job->param;
    const int paper = p[P_SEMANTICS] > 0;
    const kvt_votes how = critical_adakv_votes(job);
    const uint32_t apart = !paper ? 0 : job->keep_cache < how.window ? job->keep_cache : how.window;
    const uint32_t n = paper ? job->n - how.window : job->n, budget = job->keep_cache - apart;
    const float eps = (float)p[P_EPS];
    float *nu = kvt_ws_take(ws, job->n, sizeof *nu);

    snap_padded(job, in, &how, paper ? KVT_ALWAYS_KEEP : (float)p[P_SCORER], ws, out->score);
    for (uint32_t c = 0; c < job->n_caches; c++)
        snap_protect(job, in, c, out->score + (size_t)c * job->n, n, kvt_trunc(budget * p[P_ALPHA]), ws);
    kvt_top_counts(job, in->layer, out->score, job->n_caches, job->n, n, (uint64_t)job->n_caches * budget, ws, out->keep);
    for (uint32_t c = 0; c < job->n_caches; c++) {
        float *score = out->score + (size_t)c * job->n;

        kvt_group_nu(job, in, c, nu);
        snap_protect(job, in, c, score, n, kvt_trunc(out->keep[c] * p[P_FIRST_STAGE]), ws);
        for (uint32_t j = 0; j < n; j++)        /* the code multiplies the protected, too */
            if (!paper || score[j] < KVT_ALWAYS_KEEP)
                score[j] = (score[j] + eps) * nu[j];
        out->keep[c] += apart;
    }
}

extern const kvt_policy kvt_policy_critical_adakv;
const kvt_policy kvt_policy_critical_adakv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW | KVT_NEED_NU, .version = 1,
    .id = "critical_adakv", .title = "CriticalKV with Ada-KV budgets", .cite = "arXiv:2502.03805",
    .note = "The paper always keeps the window. The code protects it only by ties, and its floor counts the window tokens.",
    .params = critical_adakv_params, .alts = critical_adakv_alts, .setup = critical_adakv_setup, .base = critical_adakv_base, .score = critical_adakv_score,
};
