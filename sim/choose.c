/* choose.c - which entries stay: the best `keep` scores, of each cache or of the layer.
 *
 * Only the score at the cut matters, so nothing is sorted: the cut is found by radix
 * selection, then everything above it stays, and of its equals the lower positions, then
 * the lower caches, until the count is full. -0 equals +0; a NaN, which no policy may
 * produce, comes last. */
#include "kvt_sim.h"

#include <math.h>
#include <string.h>

enum { CHOOSE_BITS = 11, CHOOSE_BUCKETS = 1 << CHOOSE_BITS };

/* Unsigned order of the keys = order of the floats; 0 is NaN. */
static uint32_t choose_key(float x)
{
    uint32_t bits;

    if (x != x)
        return 0;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float choose_value(uint32_t key)
{
    const uint32_t bits = key & 0x80000000u ? key ^ 0x80000000u : ~key;
    float x;

    memcpy(&x, &bits, sizeof x);
    return key ? x : NAN;
}

/* The k-th largest of n keys, 1 <= k <= n. Keys are destroyed. */
static uint32_t choose_select(uint32_t *key, size_t n, uint64_t k)
{
    uint32_t prefix = 0;
    int shift = 32;

    while (shift > 0) {
        const int bits = shift < CHOOSE_BITS ? shift : CHOOSE_BITS;
        const uint32_t mask = (1u << bits) - 1u;
        size_t count[CHOOSE_BUCKETS] = { 0 }, m = 0;
        uint32_t bucket = mask;

        shift -= bits;
        for (size_t i = 0; i < n; i++)
            count[(key[i] >> shift) & mask]++;
        while (count[bucket] < k)
            k -= count[bucket--];
        prefix |= bucket << shift;
        for (size_t i = 0; i < n; i++)
            if (((key[i] >> shift) & mask) == bucket)
                key[m++] = key[i];
        n = m;
    }
    return prefix;
}

/* Cut the caches first..first+count-1 as one list of `keep` entries. */
static void choose_cut(const kvt_job *job, uint32_t first, uint32_t count, uint64_t keep,
                       const float *score, uint8_t *kept, uint32_t *key)
{
    const size_t n = job->n, total = n * count;
    uint64_t above = 0, equal = 0;
    uint32_t cut;

    if (keep >= total || keep == 0) {
        memset(kept + first * n, keep != 0, total);
        return;
    }
    for (size_t i = 0; i < total; i++)
        key[i] = choose_key(score[first * n + i]);
    cut = choose_select(key, total, keep);
    for (size_t i = 0; i < total; i++) {
        const uint32_t x = choose_key(score[first * n + i]);
        kept[first * n + i] = x >= cut;
        above += x > cut;
        equal += x == cut;
    }
    /* Too many equals: the higher positions, and there the higher caches, leave again. */
    for (size_t j = n; j-- > 0 && above + equal > keep;)
        for (uint32_t c = count; c-- > 0 && above + equal > keep;)
            if (choose_key(score[(first + c) * n + j]) == cut) {
                kept[(first + c) * n + j] = 0;
                equal--;
            }
}

/* Scores on both sides of a cut, lowest kept and highest dropped; 0 and UINT32_MAX mean none. */
typedef struct choose_edge {
    uint32_t kept, dropped;
    int      any_kept, any_dropped;
} choose_edge;

static void choose_edge_add(choose_edge *e, uint32_t key, int kept)
{
    if (kept && (!e->any_kept || key < e->kept)) {
        e->kept = key;
        e->any_kept = 1;
    } else if (!kept && (!e->any_dropped || key > e->dropped)) {
        e->dropped = key;
        e->any_dropped = 1;
    }
}

/* Take the cut into *out when it is closer than what is there. */
static void choose_closest(kvt_chosen *out, const choose_edge *e)
{
    const float a = choose_value(e->kept), b = choose_value(e->dropped);
    const float old = fmaxf(fabsf(out->last_kept), fabsf(out->first_dropped)), new = fmaxf(fabsf(a), fabsf(b));
    const double gap = new > 0 ? (double)(a - b) / (double)new : 0;
    const double best = old > 0 ? (double)(out->last_kept - out->first_dropped) / (double)old : 0;

    if (!e->any_kept || !e->any_dropped)
        return;
    if (isnan(out->last_kept) || gap < best) {
        out->last_kept = a;
        out->first_dropped = b;
    }
}

void kvt_choose(const kvt_job *job, kvt_span rank_over, const float *score, uint8_t *kept,
                uint32_t *n_held, uint32_t *order, uint32_t *tmp, kvt_chosen *out)
{
    const size_t n = job->n;
    choose_edge layer = { 0, 0, 0, 0 };

    (void)tmp;
    *out = (kvt_chosen){ 0, 0, NAN, NAN };
    if (rank_over == KVT_SPAN_LAYER)
        choose_cut(job, 0, job->n_caches, job->keep_layer, score, kept, order);
    for (uint32_t c = 0; c < job->n_caches; c++) {
        choose_edge edge = { 0, 0, 0, 0 };

        if (rank_over == KVT_SPAN_CACHE)
            choose_cut(job, c, 1, job->keep_cache, score, kept, order);
        n_held[c] = 0;
        for (size_t i = c * n; i < (c + 1) * n; i++) {
            n_held[c] += kept[i];
            choose_edge_add(&edge, choose_key(score[i]), kept[i]);
            choose_edge_add(&layer, choose_key(score[i]), kept[i]);
        }
        out->n_held += n_held[c];
        for (size_t i = c * n; edge.any_dropped && i < (c + 1) * n; i++)
            out->n_tied += kept[i] && choose_key(score[i]) == edge.dropped;
        if (rank_over == KVT_SPAN_CACHE)
            choose_closest(out, &edge);
    }
    if (rank_over == KVT_SPAN_LAYER)
        choose_closest(out, &layer);
}
