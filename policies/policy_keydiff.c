/* KeyDiff: keep the keys that point away from the mean direction.
 *
 * arXiv:2504.15364, as in NVIDIA/kvpress 8bb29b9: anchor = mean of the normalised keys of a
 * cache, score = -cos(key, anchor), nothing protected. block=0 scores the whole prompt at
 * once (KeyDiffPress). block=B is the published algorithm (BlockPress): start with the
 * first tokens that fit the budget, then add B tokens at a time, take the anchor of what
 * is there and keep what fits. What left in an earlier round stays away. */
#include "kvt_prim.h"

#include <math.h>
#include <string.h>

enum { P_BLOCK };
static const kvt_param_def keydiff_params[] = {
    [P_BLOCK] = { "block", 0, 0, 4194304, NULL, 1, "tokens per round of the published algorithm (128); 0 = one round" },
    { 0 }
};

#define KEYDIFF_GONE (-2.0f)                    /* below every -cos */

static void keydiff_setup(const kvt_job *job, kvt_setup *out)
{
    out->nested = job->param[P_BLOCK] <= 0;
    out->ws_bytes = KVT_WS_BYTES(job->n, uint8_t) + KVT_WS_BYTES(job->head_dim, double) + kvt_top_bytes(1, job->n);
}

static double keydiff_norm(const float *key, uint32_t d)
{
    double sum = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += (double)key[i] * (double)key[i];
    return sqrt(sum);
}

/* score[j], j < end, of the tokens with mark[j]. The limits of the norms are those of the
 * reference; a zero key has cosine 0. anchor: [d] scratch. */
static void keydiff_rate(const float *key, uint32_t d, uint32_t end, const uint8_t *mark, double *anchor, float *score)
{
    uint32_t count = 0;
    double length = 0;

    for (uint32_t i = 0; i < d; i++)
        anchor[i] = 0;
    for (uint32_t j = 0; j < end; j++)
        if (mark[j]) {
            const double norm = fmax(keydiff_norm(key + (size_t)j * d, d), 1e-12);
            count++;
            for (uint32_t i = 0; i < d; i++)
                anchor[i] += key[(size_t)j * d + i] / norm;
        }
    for (uint32_t i = 0; i < d; i++) {
        anchor[i] /= count;
        length += anchor[i] * anchor[i];
    }
    length = fmax(sqrt(length), 1e-8);
    for (uint32_t j = 0; j < end; j++) {
        double dot = 0;

        for (uint32_t i = 0; mark[j] && i < d; i++)
            dot += key[(size_t)j * d + i] * anchor[i];
        score[j] = mark[j] ? (float)(-dot / fmax(keydiff_norm(key + (size_t)j * d, d), 1e-8) / length) : KEYDIFF_GONE;
    }
}

static void keydiff_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n, d = job->head_dim, block = (uint32_t)job->param[P_BLOCK];
    const uint32_t first = block == 0 || job->keep_cache > n ? n : job->keep_cache;
    uint8_t *mark = kvt_ws_take(ws, n, sizeof *mark);
    double *anchor = kvt_ws_take(ws, d, sizeof *anchor);

    for (uint32_t c = 0; c < job->n_caches; c++) {
        const float *key = in->key + kvt_kv_head(job, c) * in->key_stride;
        float *score = out->score + (size_t)c * n;
        uint32_t end = first;

        memset(mark, 1, n);
        if (end == n)
            keydiff_rate(key, d, n, mark, anchor, score);
        while (end < n) {                       /* mark: what earlier rounds kept, and the rest */
            end = n - end > block ? end + block : n;
            keydiff_rate(key, d, end, mark, anchor, score);
            if (end < n)
                kvt_mark_top(job, in->layer, c, score, end, first, ws, mark);
        }
    }
}

extern const kvt_policy kvt_policy_keydiff;
const kvt_policy kvt_policy_keydiff = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .version = 1,
    .id = "keydiff", .title = "KeyDiff", .cite = "arXiv:2504.15364",
    .note = "The paper's algorithm works block by block (block=128); the usual implementation scores the prompt at once. "
            "Keys of later blocks come from full attention here, as in the reference.",
    .params = keydiff_params, .setup = keydiff_setup, .score = keydiff_score,
};
