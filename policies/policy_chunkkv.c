/* ChunkKV: neighbours stay or leave together.
 *
 * Liu et al., "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient
 * Long-Context LLM Inference", arXiv:2502.00299; the press of NVIDIA/kvpress. The prompt
 * is cut into chunks; a chunk is worth the mean of its tokens' SnapKV scores, summed over
 * the heads of the layer; the best chunks stay in every head. The rest at the end is a
 * chunk like the others, so the tokens held differ from what was asked for. A prompt
 * shorter than a chunk keeps its best tokens, as SnapKV does. */
#include "family_snap.h"

#include <float.h>
#include <math.h>

enum { P_SCORER, P_WINDOW, P_KERNEL, P_CHUNK };
static const kvt_param_def chunkkv_params[] = {
    [P_SCORER] = SNAP_SCORER(1),
    [P_WINDOW] = SNAP_WINDOW(64),
    [P_KERNEL] = SNAP_KERNEL(5),
    [P_CHUNK]  = { "chunk", 20, 1, 4194304, NULL, 1, "tokens of a chunk" },
    { 0 }
};
static const kvt_param_alt chunkkv_alts[] = { { "window", "scorer=dkv", 32 }, { 0 } };

static void chunkkv_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->base_planes = 1;
    out->ws_bytes = snap_bytes(job) + KVT_WS_BYTES(job->n, float) + KVT_WS_BYTES(job->n, uint8_t);
    out->overshoots = 1;
    if (!snap_trivial(job, out->window) && job->keep_cache < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

static float chunkkv_mean(const kvt_job *job, const float *score, uint32_t from, uint32_t to)
{
    double sum = 0;

    for (uint32_t j = from; j < to; j++) {
        double heads = 0;
        for (uint32_t c = 0; c < job->n_caches; c++)
            heads += score[(size_t)c * job->n + j];
        sum += heads;
    }
    return (float)(sum / (to - from));
}

/* Chunks that stay: the share of the tokens, of the chunks; at least one. */
static uint64_t chunkkv_count(const kvt_job *job, uint32_t n_chunks)
{
    const double share = job->rule == KVT_RULE_REFERENCE && !job->in_tokens ? 1 - (1 - job->share) : job->share;
    const uint64_t count = kvt_count_of(job, n_chunks * share / (job->n_caches / job->n_kv_heads));

    return count > 0 ? count : 1;
}

static kvt_votes chunkkv_votes(const kvt_job *job)
{
    const double *p = job->param;

    return snap_votes(p[P_WINDOW], p[P_KERNEL], 0, 0, 0);
}

static void chunkkv_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    snap_base(job, in, chunkkv_votes(job), ws, base);
}

static void chunkkv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const double *p = job->param;
    const kvt_votes how = chunkkv_votes(job);
    const uint32_t n = job->n, length = (uint32_t)p[P_CHUNK], n_chunks = n / length + (n % length > 0);
    float *mean = kvt_ws_take(ws, n, sizeof *mean);
    uint8_t *stays = kvt_ws_take(ws, n, sizeof *stays);
    uint32_t held = 0;

    snap_padded(job, in, &how, (float)p[P_SCORER], ws, out->score);
    if (length > n)
        return;
    for (uint32_t k = 0; k < n_chunks; k++)
        mean[k] = chunkkv_mean(job, out->score, k * length, k * length + length < n ? k * length + length : n);
    kvt_mark_top(job, in->layer, 0, mean, n_chunks, chunkkv_count(job, n_chunks), ws, stays);
    for (uint32_t j = 0; j < n; j++) {
        /* A draw decides among chunks, never inside of one. */
        const int apart = job->ties == KVT_TIES_SEEDED && !stays[j / length];
        const float score = apart ? nextafterf(mean[j / length], -FLT_MAX) : mean[j / length];

        held += stays[j / length];
        for (uint32_t c = 0; c < job->n_caches; c++)
            out->score[(size_t)c * n + j] = score;
    }
    for (uint32_t c = 0; c < job->n_caches; c++)
        out->keep[c] = held;
}

extern const kvt_policy kvt_policy_chunkkv;
const kvt_policy kvt_policy_chunkkv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "chunkkv", .title = "ChunkKV over SnapKV", .cite = "arXiv:2502.00299",
    .note = "At least one chunk stays, and the shorter last one counts as a whole: the held share is what is reported.",
    .params = chunkkv_params, .alts = chunkkv_alts, .setup = chunkkv_setup, .base = chunkkv_base, .score = chunkkv_score,
};
