/* Arithmetic that policies share; see kvt_prim.h for what each function promises. */
#include "kvt_prim.h"

#include <math.h>
#include <string.h>
#include "kvt_float16.h"
#include "kvt_philox.h"
#include "kvt_status.h"

enum { RANK_BITS = 11, RANK_BUCKETS = 1 << RANK_BITS, RANK_PASSES = 3 };   /* 33 >= 32 bits */

void *kvt_ws_take(kvt_ws *ws, size_t count, size_t size)
{
    KVT_ASSERT(size > 0 && count <= (SIZE_MAX - 63) / size);
    {
        const size_t bytes = (count * size + 63u) & ~(size_t)63u, at = ws->used;

        KVT_ASSERT(bytes <= ws->size - at);
        ws->used = at + bytes;
        return ws->base + at;
    }
}

void kvt_pool_mean(const float *x, uint32_t n, uint32_t k, float *out)
{
    const uint32_t half = k / 2;

    for (uint32_t j = 0; j < n; j++) {
        const uint32_t from = j > half ? j - half : 0, to = n - j > half ? j + half : n - 1;
        double sum = 0;
        for (uint32_t i = from; i <= to; i++)
            sum += x[i];
        out[j] = (float)(sum / k);
    }
}

void kvt_pool_max(const float *x, uint32_t n, uint32_t k, float *out)
{
    const uint32_t half = k / 2;

    for (uint32_t j = 0; j < n; j++) {
        const uint32_t from = j > half ? j - half : 0, to = n - j > half ? j + half : n - 1;
        float best = x[from];
        for (uint32_t i = from + 1; i <= to; i++)
            best = x[i] > best ? x[i] : best;
        out[j] = best;
    }
}

void kvt_mean_rows(const float *x, uint32_t rows, size_t stride, uint32_t n, double *sum, float *out)
{
    for (uint32_t j = 0; j < n; j++)
        sum[j] = 0;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < n; j++)
            sum[j] += (double)x[r * stride + j];
    for (uint32_t j = 0; j < n; j++)
        out[j] = (float)(sum[j] / rows);
}

size_t kvt_vote_bytes(const kvt_job *job)
{
    return 2 * KVT_WS_BYTES(job->n, double) + 2 * KVT_WS_BYTES(job->n, float);
}

void kvt_vote(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, uint32_t cache,
              kvt_ws *ws, float *out)
{
    const uint32_t prefix = job->n - how->window, group = kvt_group(job);
    const size_t used = ws->used;
    double *sum = kvt_ws_take(ws, job->n, sizeof *sum), *merged = kvt_ws_take(ws, job->n, sizeof *merged);
    float *mean = kvt_ws_take(ws, job->n, sizeof *mean), *pooled = kvt_ws_take(ws, job->n, sizeof *pooled);

    for (uint32_t i = 0; i < group; i++) {
        const float *vote = mean;

        kvt_mean_rows(kvt_window_row(job, in, cache * group + i, how->window, 0), how->window, job->n, prefix, sum, mean);
        if (!how->merge_first && how->pool != KVT_POOL_NONE) {
            (how->pool == KVT_POOL_MAX ? kvt_pool_max : kvt_pool_mean)(mean, prefix, how->pool_width, pooled);
            vote = pooled;
        }
        for (uint32_t j = 0; j < prefix; j++)
            if (i == 0)
                merged[j] = vote[j];
            else if (how->merge == KVT_MERGE_MAX)
                merged[j] = vote[j] > merged[j] ? vote[j] : merged[j];
            else
                merged[j] += vote[j];
    }
    for (uint32_t j = 0; j < prefix; j++)
        out[j] = (float)(how->merge == KVT_MERGE_MAX ? merged[j] : merged[j] / group);
    if (how->merge_first && how->pool != KVT_POOL_NONE) {
        memcpy(mean, out, prefix * sizeof *mean);
        (how->pool == KVT_POOL_MAX ? kvt_pool_max : kvt_pool_mean)(mean, prefix, how->pool_width, out);
    }
    ws->used = used;
}

void kvt_group_nu(const kvt_job *job, const kvt_prompt *in, uint32_t cache, float *out)
{
    const uint32_t group = kvt_group(job);

    for (uint32_t j = 0; j < job->n; j++) {
        double sum = 0;
        for (uint32_t i = 0; i < group; i++)
            sum += (double)in->nu[(size_t)(cache * group + i) * job->n + j];
        out[j] = (float)(sum / group);
    }
}

static double rope_round(double x, const char *type)
{
    if (!strcmp(type, "f64"))
        return x;
    if (!strcmp(type, "f32"))
        return (double)(float)x;
    return (double)(strcmp(type, "f16") ? kvt_from_bf16(kvt_to_bf16((float)x)) : kvt_from_f16(kvt_to_f16((float)x)));
}

void kvt_rope_turn(const kvt_rope *rope, uint32_t position, int64_t rotary, double *cs)
{
    const double at = rope_round((double)rotary, rope->angle);
    uint32_t z = 0;

    while (z + 1 < rope->n_segments && rope->segment_start[z + 1] <= (int64_t)position)
        z++;
    for (uint32_t f = 0; f < rope->dims / 2; f++) {
        const double freq = rope_round(rope->inv_freq[(size_t)z * (rope->dims / 2) + f], rope->angle);
        const double angle = rope_round(at * freq, rope->angle);
        cs[2 * f] = rope_round(cos(angle) * rope->scaling, rope->table);
        cs[2 * f + 1] = rope_round(sin(angle) * rope->scaling, rope->table);
    }
}

uint64_t kvt_count_of(const kvt_job *job, double x)
{
    const double whole = floor(x);

    if (!(x > 0))
        return 0;
    if (job->rule == KVT_RULE_REFERENCE)
        return (uint64_t)x;
    if (fabs(x - whole - 0.5) < 1e-9)
        return (uint64_t)whole + ((uint64_t)whole & 1u);
    return (uint64_t)floor(x + 0.5);
}

/* Unsigned order of the keys = descending order of the floats. Adding zero folds -0 into
 * +0; a NaN, which no policy may produce, comes last wherever it came from. */
static uint32_t rank_key(float x)
{
    uint32_t bits;

    if (x != x)
        return UINT32_MAX;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

void kvt_rank(const float *score, uint32_t n, uint32_t *order, uint32_t *tmp)
{
    uint32_t count[RANK_BUCKETS];
    const uint32_t *from = NULL;                /* NULL: the identity */
    uint32_t *to = order;

    /* Least significant digit first, stable; an odd number of passes ends in `order`. */
    for (uint32_t pass = 0; pass < RANK_PASSES; pass++) {
        const uint32_t shift = pass * RANK_BITS;
        uint32_t start = 0;

        memset(count, 0, sizeof count);
        for (uint32_t i = 0; i < n; i++)
            count[(rank_key(score[i]) >> shift) & (RANK_BUCKETS - 1u)]++;
        for (uint32_t b = 0; b < RANK_BUCKETS; b++) {
            const uint32_t c = count[b];
            count[b] = start;
            start += c;
        }
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t at = from ? from[i] : i;
            to[count[(rank_key(score[at]) >> shift) & (RANK_BUCKETS - 1u)]++] = at;
        }
        from = to;
        to = to == order ? tmp : order;
    }
}

/* Order of the flattened array under job->ties: `at` is cache-major. The ranking is stable,
 * so the presentation order is the tie order. */
static uint32_t rank_place(const kvt_job *job, uint32_t i, uint32_t caches, uint32_t n)
{
    switch (job->ties) {
    case KVT_TIES_FLAT: return i;
    case KVT_TIES_HIGH: return (caches - 1 - i % caches) * n + (n - 1 - i / caches);
    default:            return i % caches * n + i / caches;     /* position-major */
    }
}

/* place[0..total-1] = flat indices, best first. flat, tmp: scratch of total entries. */
static void rank_flat(const kvt_job *job, uint32_t layer, uint32_t cache0, const float *score, uint32_t caches, size_t stride,
                      uint32_t n, float *flat, uint32_t *place, uint32_t *tmp)
{
    const uint32_t total = caches * n;

    if (job->ties == KVT_TIES_SEEDED) {         /* presentation by draws, then stable by score */
        for (uint32_t i = 0; i < total; i++)
            flat[i] = kvt_uniform(job, layer, cache0 + i / n, KVT_PURPOSE_TIES, i % n);
        kvt_rank(flat, total, place, tmp);
    } else {
        for (uint32_t i = 0; i < total; i++)
            place[i] = rank_place(job, i, caches, n);
    }
    for (uint32_t i = 0; i < total; i++) {
        flat[i] = score[place[i] / n * stride + place[i] % n];
        tmp[i] = place[i];
    }
    {
        uint32_t *order = place + total;        /* see the sizes in kvt_prim.h */
        kvt_rank(flat, total, order, order + total);
        for (uint32_t i = 0; i < total; i++)
            place[i] = tmp[order[i]];
    }
}

void kvt_top_counts(const kvt_job *job, uint32_t layer, const float *score, uint32_t caches, size_t stride,
                    uint32_t n, uint64_t k, kvt_ws *ws, uint32_t *count)
{
    const size_t used = ws->used, total = (size_t)caches * n;
    float *flat = kvt_ws_take(ws, total, sizeof *flat);
    uint32_t *place = kvt_ws_take(ws, 3 * total, sizeof *place), *tmp = kvt_ws_take(ws, total, sizeof *tmp);

    rank_flat(job, layer, 0, score, caches, stride, n, flat, place, tmp);
    for (uint32_t c = 0; c < caches; c++)
        count[c] = 0;
    for (size_t i = 0; i < k && i < total; i++)
        count[place[i] / n]++;
    ws->used = used;
}

void kvt_mark_top(const kvt_job *job, uint32_t layer, uint32_t cache, const float *score, uint32_t n,
                  uint64_t k, kvt_ws *ws, uint8_t *mark)
{
    const size_t used = ws->used;
    float *flat = kvt_ws_take(ws, n, sizeof *flat);
    uint32_t *place = kvt_ws_take(ws, 3 * (size_t)n, sizeof *place), *tmp = kvt_ws_take(ws, n, sizeof *tmp);

    rank_flat(job, layer, cache, score, 1, n, n, flat, place, tmp);
    for (uint32_t i = 0; i < n; i++)
        mark[place[i]] = i < k;
    ws->used = used;
}

size_t kvt_top_bytes(uint32_t caches, uint32_t n)
{
    const size_t total = (size_t)caches * n;

    return 2 * KVT_WS_BYTES(total, float) + KVT_WS_BYTES(3 * total, uint32_t);
}

float kvt_uniform(const kvt_job *job, uint32_t layer, uint32_t cache, uint32_t purpose,
                  uint32_t index)
{
    const uint32_t counter[4] = { index, layer, cache, purpose };
    const uint32_t key[2] = { (uint32_t)job->key, (uint32_t)(job->key >> 32) };
    uint32_t out[4];

    kvt_philox4x32(counter, key, out);
    return (float)(out[0] >> 8) * 0x1p-24f;
}
