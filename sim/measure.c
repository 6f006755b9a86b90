#include "measure.h"

#include <stdlib.h>
#include <string.h>
#include "kvt_status.h"

/* One radix pass of 11 bits over 32-bit keys. */
static void measure_pass(const uint32_t *in, uint32_t *out, uint32_t n, uint32_t shift)
{
    uint32_t at[2048] = { 0 }, sum = 0;

    for (uint32_t i = 0; i < n; i++)
        at[(in[i] >> shift) & 2047u]++;
    for (uint32_t b = 0; b < 2048; b++) {
        const uint32_t c = at[b];
        at[b] = sum;
        sum += c;
    }
    for (uint32_t i = 0; i < n; i++)
        out[at[(in[i] >> shift) & 2047u]++] = in[i];
}

void kvt_sort_u32(uint32_t *x, uint32_t n, uint32_t *tmp)
{
    if (n < 64) {                               /* insertion: few values, no histogram */
        for (uint32_t i = 1; i < n; i++) {
            const uint32_t v = x[i];
            uint32_t j = i;
            for (; j > 0 && x[j - 1] > v; j--)
                x[j] = x[j - 1];
            x[j] = v;
        }
        return;
    }
    measure_pass(x, tmp, n, 0);
    measure_pass(tmp, x, n, 11);
    measure_pass(x, tmp, n, 22);
    memcpy(x, tmp, (size_t)n * sizeof *x);
}

/* CVaR at level ppm of n ascending values, `stride` apart: T = n (1e6 - ppm) millionths of
 * values. */
static double measure_cvar_q31(const uint32_t *sorted, size_t stride, uint32_t n, uint32_t ppm)
{
    const uint64_t t = (uint64_t)n * (1000000u - ppm), m = t / 1000000u, r = t % 1000000u;
    uint64_t sum = 0;

    for (uint64_t i = 0; i < m; i++)
        sum += sorted[(n - 1 - i) * stride];
    /* r > 0 implies m < n, so there is a next value down. */
    return ((double)sum + (r ? (double)sorted[(n - 1 - m) * stride] * (double)r / 1e6 : 0)) / ((double)t / 1e6) / KVT_Q31_ONE;
}

static double measure_cvar_real(const double *sorted, uint32_t n, uint32_t ppm)
{
    const uint64_t t = (uint64_t)n * (1000000u - ppm), m = t / 1000000u, r = t % 1000000u;
    double sum = 0;

    for (uint64_t i = 0; i < m; i++)
        sum += sorted[n - 1 - i];
    return (sum + (r ? sorted[n - 1 - m] * (double)r / 1e6 : 0)) / ((double)t / 1e6);
}

/* 0-based index of the `higher` quantile: ceil((n - 1) p). */
static uint32_t measure_rank(uint32_t n, uint32_t ppm)
{
    return (uint32_t)(((uint64_t)(n - 1) * ppm + 999999u) / 1000000u);
}

/* What needs the values in order. */
static void measure_order(const uint32_t *sorted, size_t stride, uint32_t n, kvt_tail *out)
{
    out->q50 = kvt_from_q31(sorted[measure_rank(n, 500000) * stride]);
    out->q90 = kvt_from_q31(sorted[measure_rank(n, 900000) * stride]);
    out->q95 = kvt_from_q31(sorted[measure_rank(n, 950000) * stride]);
    out->q99 = kvt_from_q31(sorted[measure_rank(n, 990000) * stride]);
    out->cvar95 = measure_cvar_q31(sorted, stride, n, 950000);
    out->cvar99 = measure_cvar_q31(sorted, stride, n, 990000);
}

void kvt_top_of(const uint32_t *x, const uint8_t *skip, uint32_t n, kvt_tail *out)
{
    uint32_t m = 0, max = 0;
    uint64_t sum = 0;

    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t counts = skip ? !skip[i] : 1, v = counts ? x[i] : 0;
        m += counts;
        sum += v;
        max = v > max ? v : max;
    }
    out->n = m;
    if (m == 0)
        return;
    while ((skip && skip[out->max_at]) || x[out->max_at] != max)
        out->max_at++;
    out->mean = (double)sum / m / KVT_Q31_ONE;
    out->max = kvt_from_q31(max);
}

void kvt_tail_of(const uint32_t *x, const uint8_t *skip, uint32_t n, uint32_t *scratch, kvt_tail *out)
{
    uint32_t m = 0;

    kvt_top_of(x, skip, n, out);
    for (uint32_t i = 0; i < n; i++)
        if (!skip || !skip[i])
            scratch[m++] = x[i];
    if (m == 0)
        return;
    kvt_sort_u32(scratch, m, scratch + n);
    measure_order(scratch, 1, m, out);
}

/* Values that do not count are larger than any that does: they end up behind. Done for 16
 * steps of every series at a time, which is 16 lines of x. */
static void measure_lanes(const uint32_t *const *x, const uint8_t *const *skip, uint32_t n_series, uint32_t n, uint32_t *lanes)
{
    for (uint32_t first = 0; first < n; first += KVT_TILE) {
        const uint32_t end = n - first < KVT_TILE ? n : first + KVT_TILE;
        for (uint32_t k = 0; k < KVT_TILE; k++)
            for (uint32_t i = first; i < end; i++)
                lanes[(size_t)i * KVT_TILE + k] = k >= n_series || skip[k][i] ? UINT32_MAX : x[k][i];
    }
}

void kvt_tails_of(const kvt_kernels *kern, const uint32_t *const *x, const uint8_t *const *skip, uint32_t n_series, uint32_t n,
                  uint32_t *scratch, kvt_tail *out)
{
    KVT_ASSERT(n_series <= KVT_TILE);
    measure_lanes(x, skip, n_series, n, scratch);
    kern->sort16(scratch, n);
    for (uint32_t k = 0; k < n_series; k++) {
        kvt_top_of(x[k], skip[k], n, &out[k]);
        if (out[k].n > 0)
            measure_order(scratch + k, KVT_TILE, out[k].n, &out[k]);
    }
}

static int measure_cmp(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void kvt_tail_of_real(const double *x, uint32_t n, double *scratch, kvt_tail *out)
{
    uint32_t m = 0;
    double sum = 0;

    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            continue;
        if (m == 0 || x[i] > out->max) {
            out->max = x[i];
            out->max_at = i;
        }
        scratch[m++] = x[i];
        sum += x[i];
    }
    out->n = m;
    if (m == 0)
        return;
    qsort(scratch, m, sizeof *scratch, measure_cmp);
    out->mean = sum / m;
    out->q50 = scratch[measure_rank(m, 500000)];
    out->q90 = scratch[measure_rank(m, 900000)];
    out->q95 = scratch[measure_rank(m, 950000)];
    out->q99 = scratch[measure_rank(m, 990000)];
    out->cvar95 = measure_cvar_real(scratch, m, 950000);
    out->cvar99 = measure_cvar_real(scratch, m, 990000);
}

void kvt_runs_of(const uint32_t *x, uint32_t first, uint32_t n, uint32_t tau_q31, kvt_runs *out)
{
    uint32_t start = 0, len = 0;
    uint64_t area = 0;

    memset(out, 0, sizeof *out);
    for (uint32_t i = first; i < n; i++) {
        if (x[i] <= tau_q31) {
            len = 0;
            continue;
        }
        if (out->n_exceed++ == 0)
            out->first = i;
        if (len++ == 0) {
            start = i;
            out->n_run++;
        }
        if (len > out->longest) {
            out->longest = len;
            out->longest_start = start;
        }
        area += x[i] - tau_q31;
    }
    out->area = (double)area / KVT_Q31_ONE;
}

/* The bits of non-negative doubles sort like the doubles, inverted they fall. Eight stable
 * passes of 8 bits; one whose digits are all the same changes nothing. */
void kvt_rank_sums(const double *x, uint32_t n, kvt_ranked *out, kvt_ranked *tmp)
{
    uint32_t count[8][256] = {{ 0 }};
    kvt_ranked *from = out, *to = tmp;

    for (uint32_t j = 0; j < n; j++) {
        memcpy(&out[j].key, &x[j], sizeof out[j].key);
        out[j] = (kvt_ranked){ ~out[j].key, j };
        for (uint32_t d = 0; d < 8; d++)
            count[d][(out[j].key >> (8 * d)) & 255u]++;
    }
    for (uint32_t d = 0; d < 8 && n > 0; d++) {
        uint32_t *at = count[d], sum = 0;
        if (at[(from[0].key >> (8 * d)) & 255u] == n)
            continue;
        for (uint32_t b = 0; b < 256; b++) {
            const uint32_t c = at[b];
            at[b] = sum;
            sum += c;
        }
        for (uint32_t i = 0; i < n; i++)
            to[at[(from[i].key >> (8 * d)) & 255u]++] = from[i];
        kvt_ranked *swap = from;
        from = to;
        to = swap;
    }
    if (from != out)
        memcpy(out, from, n * sizeof *out);
}
