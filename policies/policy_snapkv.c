/* SnapKV: the last queries of the prompt vote on what to keep.
 *
 * Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation",
 * arXiv:2404.14469; impl=dkv, the form in kvpress-style code: mean over the window's rows,
 * pooling over the prefix, then the mean (or maximum) over the group. The window gets the
 * best prefix score of the layer, so it ties with that token, and a budget below the
 * window keeps the lowest of those positions. */
#include "kvt_prim.h"

enum { P_IMPL, P_WINDOW, P_KERNEL, P_POOLING, P_GQA };
static const kvt_param_def snapkv_params[] = {
    [P_IMPL]    = { "impl", 0, 0, 0, "dkv", 1, "reference whose details are repeated" },
    [P_WINDOW]  = { "window", 32, 1, 4194304, NULL, 1, "last prompt queries that vote, tokens" },
    [P_KERNEL]  = { "kernel", 5, 1, 1023, NULL, 2, "width of the pooling, tokens" },
    [P_POOLING] = { "pooling", 0, 0, 1, "avg|max", 1, "how neighbours share a vote" },
    [P_GQA]     = { "gqa", 0, 0, 1, "mean|max", 1, "how the query heads of a cache share a vote" },
    { 0 }
};

static void snapkv_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->ws_bytes = 2 * KVT_WS_BYTES(job->n, double) + 2 * KVT_WS_BYTES(job->n, float);
    out->nested = 1;
    if (job->n > out->window && job->keep_cache < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

/* pooled[j] of one query head: mean over the rows, in order and in double, then pooling. */
static void snapkv_vote(const kvt_job *job, const kvt_prompt *in, uint32_t head,
                        double *sum, float *mean, float *pooled)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = job->n - window;
    const uint32_t kernel = (uint32_t)job->param[P_KERNEL];

    for (uint32_t j = 0; j < prefix; j++)
        sum[j] = 0;
    for (uint32_t r = 0; r < window; r++) {
        const float *row = kvt_window_row(job, in, head, window, r);
        for (uint32_t j = 0; j < prefix; j++)
            sum[j] += row[j];
    }
    for (uint32_t j = 0; j < prefix; j++)
        mean[j] = (float)(sum[j] / window);
    if (job->param[P_POOLING] > 0)
        kvt_pool_max(mean, prefix, kernel, pooled);
    else
        kvt_pool_mean(mean, prefix, kernel, pooled);
}

static void snapkv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *score)
{
    const uint32_t n = job->n, prefix = n - (uint32_t)job->param[P_WINDOW], group = kvt_group(job);
    double *sum = kvt_ws_take(ws, n, sizeof *sum), *merged = kvt_ws_take(ws, n, sizeof *merged);
    float *mean = kvt_ws_take(ws, n, sizeof *mean), *pooled = kvt_ws_take(ws, n, sizeof *pooled);
    float best = 0;

    for (uint32_t c = 0; c < job->n_caches; c++) {
        float *out = score + (size_t)c * n;

        for (uint32_t i = 0; i < group; i++) {
            snapkv_vote(job, in, c * group + i, sum, mean, pooled);
            for (uint32_t j = 0; j < prefix; j++)
                if (i == 0)
                    merged[j] = pooled[j];
                else if (job->param[P_GQA] > 0)
                    merged[j] = pooled[j] > merged[j] ? pooled[j] : merged[j];
                else
                    merged[j] += pooled[j];
        }
        for (uint32_t j = 0; j < prefix; j++) {
            out[j] = (float)(job->param[P_GQA] > 0 ? merged[j] : merged[j] / group);
            best = out[j] > best ? out[j] : best;
        }
    }
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = prefix; j < n; j++)
            score[(size_t)c * n + j] = best;
}

extern const kvt_policy kvt_policy_snapkv;
const kvt_policy kvt_policy_snapkv = {
    .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "snapkv", .title = "SnapKV", .cite = "arXiv:2404.14469",
    .params = snapkv_params, .setup = snapkv_setup, .score = snapkv_score,
};
