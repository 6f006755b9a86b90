/* LagKV: keep the tokens whose keys and values look irregular to the tokens that follow.
 *
 * arXiv:2504.04704, as in NVIDIA/kvpress 8bb29b9. After the sinks come blocks of `lag`
 * tokens. Every channel is rescaled by its minimum and maximum over the next block; a
 * token's score is the standard deviation over the channels, softmax over the block, mean
 * of keys and values, replaced by its rank in the block over lag. Sinks, the last full
 * block and the rest after it score 1. A prompt shorter than sinks + 2 lag is kept by
 * recency. Ranks of equals go by position. A channel that is constant over the next block
 * divides by zero in the reference: every score of the block is NaN, the ranks are whatever
 * its sort leaves. Here they go by position, as for equals. */
#include "kvt_prim.h"

#include <math.h>

enum { P_SINKS, P_LAG };
static const kvt_param_def lagkv_params[] = {
    [P_SINKS] = { "sinks", 4, 0, 4194304, NULL, 1, "first tokens that score highest" },
    [P_LAG]   = { "lag", 128, 1, 4194304, NULL, 1, "tokens per block" },
    { 0 }
};

/* Full blocks; the last one is not scored. Below 2: recency. */
static uint32_t lagkv_blocks(const kvt_job *job)
{
    const uint32_t sinks = (uint32_t)job->param[P_SINKS];

    return job->n > sinks ? (job->n - sinks) / (uint32_t)job->param[P_LAG] : 0;
}

static uint32_t lagkv_channels(const kvt_job *job)
{
    return job->head_dim > job->value_dim ? job->head_dim : job->value_dim;
}

static void lagkv_setup(const kvt_job *job, kvt_setup *out)
{
    const uint32_t blocks = lagkv_blocks(job), sinks = (uint32_t)job->param[P_SINKS], lag = (uint32_t)job->param[P_LAG];
    uint32_t top = sinks < job->n ? sinks : job->n;     /* tokens that score 1 */

    out->nested = 1;
    if (blocks >= 2) {
        top = job->n - (blocks - 1) * lag;
        out->ws_bytes = 2 * KVT_WS_BYTES(lagkv_channels(job), float) + KVT_WS_BYTES(lag, double)
                      + 2 * KVT_WS_BYTES(lag, float) + 2 * KVT_WS_BYTES(lag, uint32_t);
    }
    if (job->keep_cache < top)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

typedef struct lagkv_scratch {
    float    *low, *high;                       /* [channels] range over the next block   */
    double   *spread;                           /* [lag] standard deviation               */
    float    *part, *sum;                       /* [lag] softmax; sum over keys and values */
    uint32_t *order, *tmp;                      /* [lag]                                  */
} lagkv_scratch;

/* Range of every channel over `lag` tokens; 0 if one is constant. */
static int lagkv_range(const float *x, uint32_t d, uint32_t lag, const lagkv_scratch *s)
{
    for (uint32_t i = 0; i < d; i++) {
        s->low[i] = s->high[i] = x[i];
        for (uint32_t j = 1; j < lag; j++) {
            const float v = x[(size_t)j * d + i];
            s->low[i] = v < s->low[i] ? v : s->low[i];
            s->high[i] = v > s->high[i] ? v : s->high[i];
        }
        if (!(s->high[i] > s->low[i]))
            return 0;
    }
    return 1;
}

/* Unbiased standard deviation over the channels of one rescaled token, d > 1. */
static double lagkv_spread(const float *x, uint32_t d, const lagkv_scratch *s)
{
    double mean = 0, sum = 0;

    for (uint32_t i = 0; i < d; i++)
        mean += ((double)x[i] - s->low[i]) / ((double)s->high[i] - s->low[i]);
    mean /= d;
    for (uint32_t i = 0; i < d; i++) {
        const double v = ((double)x[i] - s->low[i]) / ((double)s->high[i] - s->low[i]) - mean;
        sum += v * v;
    }
    return sqrt(sum / (d - 1));
}

/* s->part: softmax over a block of its tokens' spread, seen from the next block. Rounded
 * to f32 before the division, so that what vanishes in f32 vanishes. 0: not defined. */
static int lagkv_softmax(const float *block, uint32_t d, uint32_t lag, const lagkv_scratch *s)
{
    double top = 0, all = 0;

    if (d < 2 || !lagkv_range(block + (size_t)lag * d, d, lag, s))
        return 0;
    for (uint32_t j = 0; j < lag; j++) {
        s->spread[j] = lagkv_spread(block + (size_t)j * d, d, s);
        top = s->spread[j] > top ? s->spread[j] : top;
    }
    for (uint32_t j = 0; j < lag; j++) {
        s->part[j] = (float)exp(s->spread[j] - top);
        all += s->part[j];
    }
    for (uint32_t j = 0; j < lag; j++)
        s->part[j] = (float)(s->part[j] / all);
    return 1;
}

/* score[0..lag-1]: rank of the block's tokens over lag. */
static void lagkv_rank(const float *key, uint32_t d_key, const float *val, uint32_t d_val, uint32_t lag,
                       const lagkv_scratch *s, float *score)
{
    int defined = lagkv_softmax(key, d_key, lag, s);

    for (uint32_t j = 0; j < lag; j++)          /* negated: kvt_rank() puts the highest first */
        s->sum[j] = defined ? -s->part[j] : 0;
    defined = defined && lagkv_softmax(val, d_val, lag, s);
    for (uint32_t j = 0; j < lag; j++)
        s->sum[j] = defined ? s->sum[j] - s->part[j] : 0;
    kvt_rank(s->sum, lag, s->order, s->tmp);
    for (uint32_t r = 0; r < lag; r++)
        score[s->order[r]] = (float)r / (float)lag;
}

static void lagkv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n, sinks = (uint32_t)job->param[P_SINKS], lag = (uint32_t)job->param[P_LAG];
    const uint32_t blocks = lagkv_blocks(job), d = job->head_dim, d_val = job->value_dim;
    lagkv_scratch s = { 0 };

    if (blocks >= 2) {
        s.low = kvt_ws_take(ws, lagkv_channels(job), sizeof *s.low);
        s.high = kvt_ws_take(ws, lagkv_channels(job), sizeof *s.high);
        s.spread = kvt_ws_take(ws, lag, sizeof *s.spread);
        s.part = kvt_ws_take(ws, lag, sizeof *s.part);
        s.sum = kvt_ws_take(ws, lag, sizeof *s.sum);
        s.order = kvt_ws_take(ws, lag, sizeof *s.order);
        s.tmp = kvt_ws_take(ws, lag, sizeof *s.tmp);
    }
    for (uint32_t c = 0; c < job->n_caches; c++) {
        const float *key = in->key + kvt_kv_head(job, c) * in->key_stride;
        const float *val = in->val + kvt_kv_head(job, c) * in->val_stride;
        float *score = out->score + (size_t)c * n;

        for (uint32_t j = 0; j < n; j++)
            score[j] = j < sinks || blocks >= 2 ? 1 : (float)(j - sinks) / (float)(n - sinks);
        for (uint32_t b = 0; b + 1 < blocks; b++) {
            const size_t at = sinks + (size_t)b * lag;
            lagkv_rank(key + at * d, d, val + at * d_val, d_val, lag, &s, score + at);
        }
    }
}

extern const kvt_policy kvt_policy_lagkv;
const kvt_policy kvt_policy_lagkv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_VALUES, .version = 1,
    .id = "lagkv", .title = "LagKV", .cite = "arXiv:2504.04704",
    .note = "One choice over the prompt, as in kvpress; the authors' code compresses block after block (sinks 16, lag 1024). "
            "Every block holds the same ranks, so ties decide much of the kept set. A channel that is constant over a block divides by "
            "zero in the reference; here the block before it is ranked by position.",
    .params = lagkv_params, .setup = lagkv_setup, .score = lagkv_score,
};
