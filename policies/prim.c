/* Arithmetic that policies share; see kvt_prim.h for what each function promises. */
#include "kvt_prim.h"

#include <string.h>
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

float kvt_uniform(const kvt_job *job, uint32_t layer, uint32_t cache, uint32_t purpose,
                  uint32_t index)
{
    const uint32_t counter[4] = { index, layer, cache, purpose };
    const uint32_t key[2] = { (uint32_t)job->key, (uint32_t)(job->key >> 32) };
    uint32_t out[4];

    kvt_philox4x32(counter, key, out);
    return (float)(out[0] >> 8) * 0x1p-24f;
}
