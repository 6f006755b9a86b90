/* Attention votes that fade: what the latest queries look at is worth more than what
 * earlier ones looked at. A policy outside the tree; policies/PLUGINS.md says how to build
 * and run it. With decay=1 it is SnapKV without pooling (snapkv:kernel=1). */
#include "kvt_prim.h"

enum { P_WINDOW, P_DECAY };
static const kvt_param_def mine_params[] = {
    [P_WINDOW] = { "window", 32, 1, 4194304, NULL, 1, "last prompt queries that vote, tokens" },
    [P_DECAY]  = { "decay", 0.9, 0, 1, NULL, 0, "weight of a query's vote, per token of its age" },
    { 0 }
};

static void mine_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->ws_bytes = KVT_WS_BYTES(out->window, double);
    out->nested = 1;                            /* the score does not look at the budget */
}

/* The weighted mean of the window's rows for one token, as one query head sees it. */
static float mine_vote(const kvt_job *job, const kvt_prompt *in, uint32_t head, const double *weight, double all, uint32_t token)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW];
    double sum = 0;

    for (uint32_t r = 0; r < window; r++)
        sum += weight[r] * kvt_window_row(job, in, head, window, r)[token];
    return (float)(sum / all);
}

static void mine_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = job->n - window, group = kvt_group(job);
    double *weight = kvt_ws_take(ws, window, sizeof *weight), all = 0, w = 1;
    float best = 0;

    for (uint32_t r = window; r-- > 0; w *= job->param[P_DECAY])
        weight[r] = w;
    for (uint32_t r = 0; r < window; r++)
        all += weight[r];
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < prefix; j++) {
            float *score = out->score + (size_t)c * job->n + j;
            double sum = 0;
            for (uint32_t h = c * group; h < (c + 1) * group; h++)
                sum += mine_vote(job, in, h, weight, all, j);
            *score = (float)(sum / group);
            best = *score > best ? *score : best;
        }
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = prefix; j < job->n; j++)
            out->score[(size_t)c * job->n + j] = best;      /* the window ties with the best */
}

static const kvt_policy mine = {
    .abi = KVT_POLICY_ABI, .version = 1, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW,
    .id = "mine", .title = "Attention votes that fade", .cite = "",
    .params = mine_params, .setup = mine_setup, .score = mine_score,
};
KVT_POLICY_PLUGIN(mine)
