/* Parts of the SnapKV family; see family_snap.h for what each function promises. */
#include "family_snap.h"

#include <math.h>
#include <string.h>

enum { SNAP_BETA = 20 };            /* steepness of the pyramid, in all its codes     */

kvt_votes snap_votes(double window, double kernel, double pooling, double gqa, int merge_first)
{
    return (kvt_votes){ (uint32_t)window, pooling > 0 ? KVT_POOL_MAX : KVT_POOL_MEAN, (uint32_t)kernel,
                        gqa > 0 ? KVT_MERGE_MAX : KVT_MERGE_MEAN, merge_first };
}

size_t snap_bytes(const kvt_job *job)
{
    const size_t vote = kvt_vote_bytes(job), top = kvt_top_bytes(job->n_caches, job->n) + KVT_WS_BYTES(job->n, uint8_t);

    return vote > top ? vote : top;
}

int snap_trivial(const kvt_job *job, uint32_t window)
{
    return job->n <= window || job->keep_cache >= job->n;
}

void snap_base(const kvt_job *job, const kvt_prompt *in, kvt_votes how, kvt_ws *ws, float *base)
{
    for (uint32_t c = 0; c < job->n_caches; c++)
        kvt_vote(job, in, &how, c, ws, base + (size_t)c * job->n);
}

float snap_prefix(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, kvt_ws *ws, float *score)
{
    const uint32_t prefix = job->n - how->window;
    float best = 0;

    for (uint32_t c = 0; c < job->n_caches; c++) {
        float *own = score + (size_t)c * job->n;

        if (in->base)
            memcpy(own, in->base + (size_t)c * job->n, prefix * sizeof *own);
        else
            kvt_vote(job, in, how, c, ws, own);
        for (uint32_t j = 0; j < prefix; j++)
            best = own[j] > best ? own[j] : best;
    }
    return best;
}

void snap_fill_window(const kvt_job *job, uint32_t window, float value, float *score)
{
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = job->n - window; j < job->n; j++)
            score[(size_t)c * job->n + j] = value;
}

void snap_padded(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, float above, kvt_ws *ws, float *score)
{
    snap_fill_window(job, how->window, snap_prefix(job, in, how, ws, score) + above, score);
}

void snap_protect(const kvt_job *job, const kvt_prompt *in, uint32_t cache, float *score, uint32_t n, uint64_t k, kvt_ws *ws)
{
    const size_t used = ws->used;
    uint8_t *mark = kvt_ws_take(ws, n, sizeof *mark);

    kvt_mark_top(job, in->layer, cache, score, n, k, ws, mark);
    for (uint32_t j = 0; j < n; j++)
        score[j] = mark[j] ? KVT_ALWAYS_KEEP : score[j];
    ws->used = used;
}

/* Whole numbers as in the reference codes, whose // rounds down. The steps are floored, so
 * the layers together may hold more than base each. */
uint32_t snap_pyramid(uint32_t base, uint32_t prefix, uint32_t n_layers, uint32_t slot)
{
    const int64_t b = base, layers = n_layers;
    int64_t low = b / SNAP_BETA, high = 2 * b - low, step, range;

    if (layers < 2)
        return base;
    if (high >= prefix) {
        high = prefix;
        low = 2 * b - high;
    }
    range = high - low;
    step = range >= 0 ? range / (layers - 1) : -((-range + layers - 2) / (layers - 1));
    return (uint32_t)(high - slot * step);
}

void snap_adaptive(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, uint32_t base, double alpha,
                   kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n, prefix = n - how->window;
    const float weight = (float)(1 - alpha), sure = (float)kvt_trunc(base * alpha);

    snap_prefix(job, in, how, ws, out->score);
    snap_fill_window(job, how->window, KVT_ALWAYS_KEEP, out->score);
    if (base > prefix) {
        for (uint32_t c = 0; c < job->n_caches; c++)
            out->keep[c] = n;
        return;
    }
    kvt_top_counts(job, in->layer, out->score, job->n_caches, n, prefix, (uint64_t)job->n_caches * base, ws, out->keep);
    for (uint32_t c = 0; c < job->n_caches; c++)    /* f32 and halves to even, as torch rounds */
        out->keep[c] = (uint32_t)rintf((float)out->keep[c] * weight + sure) + how->window;
}
