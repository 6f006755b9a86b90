/* choose.c - which entries stay: the best `keep` scores, of a cache, a layer or the model.
 *
 * Only the score at the cut matters, so nothing is sorted: the cut is found by radix
 * selection, then everything above it stays, and of its equals as many as fit, in the
 * order that kvt_ties names. -0 equals +0; a NaN, which no policy may produce, comes
 * last. */
#include "kvt_sim.h"

#include <math.h>
#include <string.h>
#include "kvt_prim.h"

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

/* Strips by (cache, layer) for the orders that go position by position, by (layer, cache)
 * for the flattened one; they come layer by layer. */
static void choose_strip_order(const kvt_strip *strip, uint32_t n_strips, kvt_ties ties, uint32_t *order)
{
    for (uint32_t i = 0; i < n_strips; i++) {
        uint32_t k = i;
        for (; ties != KVT_TIES_FLAT && k > 0 && strip[order[k - 1]].cache > strip[i].cache; k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
}

/* Entry number i in the order "first comes first" of equals. */
static void choose_at(kvt_ties ties, const uint32_t *order, uint32_t n_strips, uint32_t n, uint64_t i, uint32_t *strip, uint32_t *pos)
{
    if (ties == KVT_TIES_HIGH)
        i = (uint64_t)n_strips * n - 1 - i;
    if (ties == KVT_TIES_FLAT) {
        *strip = order[i / n];
        *pos = (uint32_t)(i % n);
    } else {
        *strip = order[i % n_strips];
        *pos = (uint32_t)(i / n_strips);
    }
}

static uint32_t choose_draw(const kvt_job *job, const kvt_strip *s, uint32_t pos)
{
    return (uint32_t)(kvt_uniform(job, s->layer, s->cache, KVT_PURPOSE_TIES, pos) * 0x1p24f);
}

/* Entries equal to the cut leave until `excess` have: those with the smaller draw first
 * (ties=seeded), else from the end that does not come first. */
static void choose_trim(const kvt_job *job, kvt_first first, const kvt_strip *strip, uint32_t n_strips, uint32_t cut,
                        uint64_t equal, uint64_t excess, uint32_t *key, const uint32_t *order)
{
    const uint64_t total = (uint64_t)n_strips * job->n;
    uint32_t limit = UINT32_MAX;                /* ties=seeded: draws below it leave, equal ones by order */

    if (job->ties == KVT_TIES_SEEDED && excess < equal) {
        size_t m = 0;
        for (uint32_t s = 0; s < n_strips; s++)
            for (uint32_t j = 0; j < job->n; j++)
                if (choose_key(strip[s].score[j]) == cut)
                    key[m++] = choose_draw(job, &strip[s], j);
        limit = choose_select(key, m, equal - excess);
        for (uint32_t s = 0; s < n_strips; s++)
            for (uint32_t j = 0; j < job->n; j++)
                if (choose_key(strip[s].score[j]) == cut && choose_draw(job, &strip[s], j) < limit) {
                    strip[s].kept[j] = 0;
                    excess--;
                }
    }
    for (uint64_t i = 0; i < total && excess > 0; i++) {
        uint32_t s, j;
        choose_at(job->ties, order, n_strips, job->n, first == KVT_FIRST_STAYS ? total - 1 - i : i, &s, &j);
        if (choose_key(strip[s].score[j]) != cut || !strip[s].kept[j]
            || (limit != UINT32_MAX && choose_draw(job, &strip[s], j) != limit))
            continue;
        strip[s].kept[j] = 0;
        excess--;
    }
}

void kvt_choose_cut(const kvt_job *job, kvt_first first, const kvt_strip *strip, uint32_t n_strips, uint64_t keep,
                    uint32_t *scratch)
{
    const size_t n = job->n, total = n * n_strips;
    uint32_t *key = scratch, *order = scratch + total;
    uint64_t above = 0, equal = 0;
    uint32_t cut;

    if (keep >= total || keep == 0) {
        for (uint32_t s = 0; s < n_strips; s++)
            memset(strip[s].kept, keep != 0, n);
        return;
    }
    for (uint32_t s = 0; s < n_strips; s++)
        for (size_t j = 0; j < n; j++)
            key[s * n + j] = choose_key(strip[s].score[j]);
    cut = choose_select(key, total, keep);
    for (uint32_t s = 0; s < n_strips; s++)
        for (size_t j = 0; j < n; j++) {
            const uint32_t x = choose_key(strip[s].score[j]);
            strip[s].kept[j] = x >= cut;
            above += x > cut;
            equal += x == cut;
        }
    if (above + equal > keep) {
        choose_strip_order(strip, n_strips, job->ties, order);
        choose_trim(job, first, strip, n_strips, cut, equal, above + equal - keep, key, order);
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

void kvt_choose_report(const kvt_job *job, kvt_span span, const float *score, const uint8_t *kept, uint32_t *n_held,
                       kvt_chosen *out)
{
    const size_t n = job->n;
    choose_edge all = { 0, 0, 0, 0 };

    *out = (kvt_chosen){ 0, 0, NAN, NAN };
    for (uint32_t c = 0; c < job->n_caches; c++) {
        choose_edge edge = { 0, 0, 0, 0 };

        n_held[c] = 0;
        for (size_t i = c * n; i < (c + 1) * n; i++) {
            n_held[c] += kept[i];
            choose_edge_add(&edge, choose_key(score[i]), kept[i]);
            choose_edge_add(&all, choose_key(score[i]), kept[i]);
        }
        out->n_held += n_held[c];
        for (size_t i = c * n; edge.any_dropped && i < (c + 1) * n; i++)
            out->n_tied += kept[i] && choose_key(score[i]) == edge.dropped;
        if (span == KVT_SPAN_CACHE)
            choose_closest(out, &edge);
    }
    if (span != KVT_SPAN_CACHE)
        choose_closest(out, &all);
}

void kvt_choose(const kvt_job *job, const kvt_setup *setup, uint32_t layer, const float *score, const uint32_t *keep,
                uint64_t keep_layer, uint8_t *kept, uint32_t *n_held, uint32_t *scratch, kvt_chosen *out)
{
    const size_t n = job->n;
    kvt_strip strip[KVT_MAX_HEADS];

    for (uint32_t c = 0; c < job->n_caches; c++)
        strip[c] = (kvt_strip){ score + c * n, kept + c * n, layer, c };
    if (setup->rank_over == KVT_SPAN_LAYER)
        kvt_choose_cut(job, setup->first, strip, job->n_caches, keep_layer, scratch);
    for (uint32_t c = 0; setup->rank_over == KVT_SPAN_CACHE && c < job->n_caches; c++)
        kvt_choose_cut(job, setup->first, &strip[c], 1, keep[c], scratch);
    kvt_choose_report(job, setup->rank_over, score, kept, n_held, out);
}
