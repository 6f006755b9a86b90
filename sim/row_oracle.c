/* row_oracle.c - see row_oracle.h. A counter holds 23 bits of count above 41 bits of mass. */
#include "row_oracle.h"

#include <stdlib.h>
#include <string.h>
#include "kvt_status.h"
#include "measure.h"

enum {
    ORACLE_BASE = (127 - 41) << 23,     /* bits of 2^-41: what lies below has no mass      */
    ORACLE_TOP  = (127 + 1) << 23,      /* bits of 2                                       */
    ORACLE_BINS = 1 + ((ORACLE_TOP - ORACLE_BASE) >> 17),
    ORACLE_FEW  = 24,                   /* so many are sorted by insertion                 */
};
#define ORACLE_ONE  ((uint64_t)1 << 41)
#define ORACLE_MASS (ORACLE_ONE - 1)

typedef struct oracle_part {            /* a bin whose order matters                       */
    uint32_t bin, at, n;                /* its entries: o->sorted[at .. at + n)            */
    uint64_t below;                     /* counter of everything smaller                   */
} oracle_part;

struct kvt_row_oracle {
    uint32_t  shift, n_bins, n;         /* a bin is `bits >> shift`, from ORACLE_BASE on   */
    uint32_t  n_parts;
    uint32_t *entry, *sorted;           /* [n_max + 1]                                     */
    uint16_t *bin;                      /* [n_max] of the entries that compete             */
    uint64_t  hist[ORACLE_BINS];
    uint32_t  at[ORACLE_BINS];          /* where the next entry of a part goes             */
    uint8_t   mark[ORACLE_BINS];        /* 1: a part                                       */
    oracle_part part[ORACLE_BINS];
};

kvt_row_oracle *kvt_row_oracle_new(uint32_t n_max)
{
    kvt_row_oracle *o = calloc(1, sizeof *o);

    if (!o)
        return NULL;
    o->entry = malloc(((size_t)n_max + 1) * sizeof *o->entry);
    o->sorted = malloc(((size_t)n_max + 1) * sizeof *o->sorted);
    o->bin = malloc(((size_t)n_max + 1) * sizeof *o->bin);
    if (!o->entry || !o->sorted || !o->bin) {
        kvt_row_oracle_free(o);
        return NULL;
    }
    return o;
}

void kvt_row_oracle_free(kvt_row_oracle *o)
{
    if (!o)
        return;
    free(o->entry), free(o->sorted), free(o->bin);
    free(o);
}

void kvt_row_oracle_lanes(const float *tile, uint32_t n_keys, size_t stride, float *rows)
{
    const size_t whole = n_keys & ~(size_t)7;

    for (size_t j = 0; j < whole; j += 8)
        for (size_t i = 0; i < KVT_TILE; i++) {
            const float *in = tile + j * KVT_TILE + i;
            float *out = rows + i * stride + j;
            for (size_t k = 0; k < 8; k++)
                out[k] = in[k * KVT_TILE];
        }
    for (size_t j = whole; j < n_keys; j++)
        for (size_t i = 0; i < KVT_TILE; i++)
            rows[i * stride + j] = tile[j * KVT_TILE + i];
}

/* ------------------------------------------------------------------ histogram */

/* Few entries: few bins, whose clearing and scan would otherwise cost more than the row. */
void kvt_row_oracle_start(kvt_row_oracle *o, uint32_t n)
{
    o->shift = n < 1024 ? 19 : n < 8192 ? 18 : 17;
    o->n_bins = 1 + ((uint32_t)(ORACLE_TOP - ORACLE_BASE) >> o->shift);
    o->n = 0;
    memset(o->hist, 0, o->n_bins * sizeof *o->hist);
}

/* Bin 0: below 2^-41. A value of 2 and more, which the contract rules out, stays in range. */
static inline uint32_t oracle_bin(float x, uint32_t shift)
{
    const int32_t low = ORACLE_BASE - (1 << shift), high = ORACLE_TOP - 1;
    int32_t b;

    memcpy(&b, &x, sizeof b);
    b = b < low ? low : b;
    b = b > high ? high : b;
    return (uint32_t)(b - low) >> shift;
}

/* kvt_mass() in multiples of 2^-40: the low bits of x + 6144. */
static inline uint64_t oracle_units(float x)
{
    const double shifted = (double)x + 6144.0, zero = 6144.0;
    uint64_t a, b;

    memcpy(&a, &shifted, sizeof a);
    memcpy(&b, &zero, sizeof b);
    return a - b;
}

void kvt_row_oracle_more(kvt_row_oracle *o, const float *row, uint32_t n)
{
    const uint32_t shift = o->shift;
    uint64_t *const hist = o->hist;
    uint16_t *const bin = o->bin;

    for (size_t first = o->n; first < n; first += 256) {
        const size_t end = n - first < 256 ? n : first + 256;
        size_t i = first;
        for (size_t k = first; k < end; k++)
            bin[k] = (uint16_t)oracle_bin(row[k], shift);
        for (; i + 4 <= end; i += 4) {
            hist[bin[i]] += ORACLE_ONE + oracle_units(row[i]);
            hist[bin[i + 1]] += ORACLE_ONE + oracle_units(row[i + 1]);
            hist[bin[i + 2]] += ORACLE_ONE + oracle_units(row[i + 2]);
            hist[bin[i + 3]] += ORACLE_ONE + oracle_units(row[i + 3]);
        }
        for (; i < end; i++)
            hist[bin[i]] += ORACLE_ONE + oracle_units(row[i]);
    }
    o->n = n;
}

/* ------------------------------------------------------------------ selection */

static uint32_t oracle_evicted(uint32_t n, uint32_t count) { return count < n ? n - count : 0; }

/* Upwards through the bins: lost[] where a count falls between two bins, parts for the bins
 * that it falls into and for marked ones. Nothing of a bin without mass is ever lost, so
 * its order does not matter. */
static void oracle_scan(kvt_row_oracle *o, const uint32_t *count, uint32_t n_count, uint64_t *lost)
{
    uint32_t k = n_count, end = k ? oracle_evicted(o->n, count[k - 1]) : UINT32_MAX, at = 0;
    uint64_t sum = 0;

    o->n_parts = 0;
    for (uint32_t b = 0; b < o->n_bins; b++) {
        const uint64_t next = sum + o->hist[b];
        const uint32_t n_next = (uint32_t)(next >> 41);
        int part = o->mark[b];
        while (end < n_next) {
            lost[k - 1] = sum & ORACLE_MASS;
            part |= end > (uint32_t)(sum >> 41) && (o->hist[b] & ORACLE_MASS);
            end = --k ? oracle_evicted(o->n, count[k - 1]) : UINT32_MAX;
        }
        if (part) {
            const uint32_t n = n_next - (uint32_t)(sum >> 41);
            o->part[o->n_parts++] = (oracle_part){ b, at, n, sum };
            o->mark[b] = 1;
            o->at[b] = at;
            at += n;
        }
        sum = next;
    }
    KVT_ASSERT((uint32_t)(sum >> 41) == o->n);
    while (k-- > 0)                              /* everything is evicted */
        lost[k] = sum & ORACLE_MASS;
}

/* The entries of one bin, ascending. Only their low bits differ: a pass over the highest 6
 * of those leaves little to do, unless they too are the same everywhere. */
static void oracle_sort(uint32_t *x, uint32_t n, uint32_t shift, uint32_t *tmp)
{
    uint32_t at[65] = { 0 }, most = 0;

    if (n > ORACLE_FEW) {
        for (uint32_t i = 0; i < n; i++)
            at[1 + ((x[i] >> (shift - 6)) & 63u)]++;
        for (uint32_t b = 1; b <= 64; b++) {
            most = at[b] > most ? at[b] : most;
            at[b] += at[b - 1];
        }
        if (most > ORACLE_FEW) {
            kvt_sort_u32(x, n, tmp);
            return;
        }
        for (uint32_t i = 0; i < n; i++)
            tmp[at[(x[i] >> (shift - 6)) & 63u]++] = x[i];
        memcpy(x, tmp, n * sizeof *x);
    }
    for (uint32_t i = 1; i < n; i++) {
        const uint32_t v = x[i];
        uint32_t j = i;
        for (; j > 0 && x[j - 1] > v; j--)
            x[j] = x[j - 1];
        x[j] = v;
    }
}

/* Entries of the bins that are parts, to o->entry; returns how many. 64 at a time become a
 * mask, since which of them belong to a part is not foreseeable. */
static uint32_t oracle_collect(kvt_row_oracle *o, const float *row)
{
    const uint8_t *const mark = o->mark;
    uint32_t m = 0;

    for (uint32_t first = 0; first < o->n; first += 64) {
        const uint32_t n = o->n - first < 64 ? o->n - first : 64;
        const uint16_t *const bin = o->bin + first;
        uint64_t chosen = 0;
        uint32_t i = 0;
        for (; i + 8 <= n; i += 8)               /* eight without a loop: the shifts are constants */
            chosen |= (uint64_t)(mark[bin[i]] | mark[bin[i + 1]] << 1 | mark[bin[i + 2]] << 2 | mark[bin[i + 3]] << 3
                                 | mark[bin[i + 4]] << 4 | mark[bin[i + 5]] << 5 | mark[bin[i + 6]] << 6 | mark[bin[i + 7]] << 7) << i;
        for (; i < n; i++)
            chosen |= (uint64_t)mark[bin[i]] << i;
        for (; chosen; chosen &= chosen - 1)
            memcpy(&o->entry[m++], &row[first + (uint32_t)__builtin_ctzll(chosen)], sizeof *o->entry);
    }
    return m;
}

/* The entries of every part, in order, at o->sorted. */
static void oracle_parts(kvt_row_oracle *o, const float *row)
{
    uint32_t *const entry = o->entry, *const sorted = o->sorted, *const at = o->at;
    const uint32_t m = o->n_parts ? oracle_collect(o, row) : 0, shift = o->shift;

    for (uint32_t i = 0; i < m; i++) {
        float x;
        memcpy(&x, &entry[i], sizeof x);
        sorted[at[oracle_bin(x, shift)]++] = entry[i];
    }
    for (uint32_t p = 0; p < o->n_parts; p++) {
        const oracle_part *q = &o->part[p];
        if (q->bin)
            oracle_sort(o->sorted + q->at, q->n, o->shift, o->entry);
        else
            kvt_sort_u32(o->sorted + q->at, q->n, o->entry);
    }
}

/* lost[] of the counts that fall into a part. */
static void oracle_inside(const kvt_row_oracle *o, const uint32_t *count, uint32_t n_count, uint64_t *lost)
{
    uint32_t k = n_count;

    for (uint32_t p = 0; p < o->n_parts; p++) {
        const oracle_part *q = &o->part[p];
        const uint32_t first = (uint32_t)(q->below >> 41);
        uint64_t sum = q->below & ORACLE_MASS;
        uint32_t i = 0;
        while (k > 0 && oracle_evicted(o->n, count[k - 1]) <= first)
            k--;
        for (; k > 0 && oracle_evicted(o->n, count[k - 1]) < first + q->n; k--) {
            for (; first + i < oracle_evicted(o->n, count[k - 1]); i++) {
                float x;
                memcpy(&x, &o->sorted[q->at + i], sizeof x);
                sum += oracle_units(x);
            }
            lost[k - 1] = sum;
        }
    }
}

static uint32_t oracle_above(const kvt_row_oracle *o, float probe)
{
    const uint32_t bin = oracle_bin(probe, o->shift);
    const oracle_part *q;
    uint32_t lo = 0, hi = o->n_parts, bits, n = 0;

    while (lo + 1 < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (o->part[mid].bin <= bin)
            lo = mid;
        else
            hi = mid;
    }
    q = &o->part[lo];
    memcpy(&bits, &probe, sizeof bits);
    while (n < q->n && o->sorted[q->at + n] <= bits)
        n++;
    return o->n - (uint32_t)(q->below >> 41) - n;
}

void kvt_row_oracle_lost(kvt_row_oracle *o, const float *row, const uint32_t *count, uint32_t n_count, uint64_t *lost,
                         const float *probe, uint32_t n_probe, uint32_t *above)
{
    for (uint32_t i = 0; i < n_probe; i++)
        o->mark[oracle_bin(probe[i], o->shift)] = 1;
    oracle_scan(o, count, n_count, lost);
    oracle_parts(o, row);
    oracle_inside(o, count, n_count, lost);
    for (uint32_t i = 0; i < n_probe; i++)
        above[i] = oracle_above(o, probe[i]);
    for (uint32_t p = 0; p < o->n_parts; p++)
        o->mark[o->part[p].bin] = 0;
}
