/* Defensive scoring: keep what was important in the worst case, not on average.
 *
 * arXiv:2510.13334. semantics=paper: Algorithms 1 and 2 (pooled rows; maximum over rows and
 * the group's heads; floor at the head's mean; times the value norm; the window stays).
 * semantics=code, the reference implementation, differs: pooled rows get their mass back,
 * the value factor is the share among the KV heads of a token, the entries that hold the
 * first 0.9 - rho of the mean attention are protected, and the window ties with the
 * layer's best entry. rho is the mean mass of the W tokens before the window (rho=prefix,
 * as the code does) or of the window itself (rho=window, as intended). Where the budget
 * leaves less than nothing for that protection, the reference defines no kept set; the
 * count is then 0 and the run is flagged. */
#include "family_defensive.h"

#include <math.h>
#include <string.h>

enum { P_SEMANTICS, P_WINDOW, P_KERNEL, P_RHO };
const kvt_param_def kvt__defensive_params[] = {
    [P_SEMANTICS] = { "semantics", 0, 0, 1, "code|paper", 1, "reference code, or the paper's Algorithms 1 and 2" },
    [P_WINDOW]    = { "window", 32, 1, 4194304, NULL, 1, "last prompt queries that vote, tokens" },
    [P_KERNEL]    = { "kernel", 5, 1, 1023, NULL, 2, "width of the mean pooling, tokens" },
    [P_RHO]       = { "rho", 0, 0, 1, "prefix|window", 1, "mass taken off the 0.9 target (semantics=code)" },
    { 0 }
};

typedef struct defensive_scratch {
    float    *pooled, *mean;                    /* [n] a pooled row; mean attention      */
    double   *sum;                              /* [n]                                   */
    uint32_t *order, *tmp;                      /* [n]                                   */
} defensive_scratch;

static uint32_t defensive_prefix(const kvt_job *job)
{
    return job->n - (uint32_t)job->param[P_WINDOW];
}

/* Stage-1 limit of a head, as a whole number before the clamp at 0. */
static double defensive_limit(const kvt_job *job)
{
    const double cr = 1 - job->share;

    if (job->rule == KVT_RULE_REFERENCE)
        return trunc(defensive_prefix(job) * (1 - cr) - job->param[P_WINDOW]);
    {
        /* Nearest, halves to even. A budget is a decimal, so what lies within 1e-9 of a half
         * in double is a half. */
        const double x = defensive_prefix(job) * job->share - job->param[P_WINDOW], down = floor(x);
        return fabs(x - down - 0.5) < 1e-9 ? (fmod(down, 2) == 0 ? down : down + 1) : rint(x);
    }
}

void kvt__defensive_setup(const kvt_job *job, kvt_setup *out)
{
    const int paper = job->param[P_SEMANTICS] > 0;

    out->window = (uint32_t)job->param[P_WINDOW];
    out->ws_bytes = KVT_WS_BYTES((size_t)2 * job->n_caches * job->n, float) + 2 * KVT_WS_BYTES(job->n, float) + KVT_WS_BYTES(job->n, double)
                  + 2 * KVT_WS_BYTES(job->n, uint32_t);
    out->base_planes = paper ? 1 : 2;
    out->nested = paper;                        /* stage 1 of the code reads the budget */
    if (job->n <= out->window || job->keep_cache >= job->n)
        return;                                 /* everything stays */
    if (job->keep_cache < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
    if (!paper && defensive_limit(job) < 0)
        out->flags |= KVT_FLAG_CLAMPED;
}

/* Sum of one row over columns from..to-1, in order. */
static double defensive_mass(const float *row, uint32_t from, uint32_t to)
{
    double sum = 0;
    for (uint32_t j = from; j < to; j++)
        sum += row[j];
    return sum;
}

/* worst[j] of one cache: pooled rows, maximum over heads and rows, then the floor. With
 * restore, a pooled row is scaled back to the mass that it had. */
static void defensive_worst(const kvt_job *job, const kvt_prompt *in, uint32_t cache,
                            int restore, const defensive_scratch *s, float *worst)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = defensive_prefix(job);
    const uint32_t group = kvt_group(job);
    float floor_value;

    for (uint32_t j = 0; j < prefix; j++)
        worst[j] = 0;
    for (uint32_t i = 0; i < group; i++)
        for (uint32_t r = 0; r < window; r++) {
            const float *row = kvt_window_row(job, in, cache * group + i, window, r);
            double factor = 1;

            kvt_pool_mean(row, prefix, (uint32_t)job->param[P_KERNEL], s->pooled);
            if (restore) {                      /* a row without mass stays without */
                const double damped = defensive_mass(s->pooled, 0, prefix);
                factor = damped > 0 ? defensive_mass(row, 0, prefix) / damped : 0;
            }
            for (uint32_t j = 0; j < prefix; j++) {
                const float p = (float)(s->pooled[j] * factor);
                worst[j] = p > worst[j] ? p : worst[j];
            }
        }
    floor_value = (float)(defensive_mass(worst, 0, prefix) / prefix);
    for (uint32_t j = 0; j < prefix; j++)
        worst[j] = worst[j] > floor_value ? worst[j] : floor_value;
}

/* semantics=code: a value norm counts as its share among the token's caches. */
static void defensive_share_values(const kvt_job *job, const kvt_prompt *in, const defensive_scratch *s, float *score)
{
    const uint32_t n = job->n, prefix = defensive_prefix(job);

    for (uint32_t j = 0; j < prefix; j++)
        s->sum[j] = 0;
    for (uint32_t c = 0; c < job->n_caches; c++) {
        kvt_group_nu(job, in, c, s->mean);
        for (uint32_t j = 0; j < prefix; j++)
            s->sum[j] += s->mean[j];
    }
    for (uint32_t c = 0; c < job->n_caches; c++) {
        kvt_group_nu(job, in, c, s->mean);
        for (uint32_t j = 0; j < prefix; j++)
            score[(size_t)c * n + j] *= s->sum[j] > 0 ? (float)(s->mean[j] / s->sum[j]) : 0;
    }
}

/* semantics=paper: times the value norm, as it is or as a share of the cache's tokens. */
static void defensive_weigh_values(const kvt_job *job, const kvt_prompt *in, int over_tokens,
                                   const defensive_scratch *s, float *score)
{
    const uint32_t n = job->n, prefix = defensive_prefix(job);

    for (uint32_t c = 0; c < job->n_caches; c++) {
        double all;

        kvt_group_nu(job, in, c, s->mean);
        all = over_tokens ? defensive_mass(s->mean, 0, prefix) : 1;
        for (uint32_t j = 0; j < prefix; j++)
            score[(size_t)c * n + j] *= all > 0 ? (float)(s->mean[j] / all) : 0;
    }
}

/* rho: mean over all heads and rows of the mass in W columns. */
static double defensive_rho(const kvt_job *job, const kvt_prompt *in)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = defensive_prefix(job);
    uint32_t from = prefix > window ? prefix - window : 0, to = prefix;
    double sum = 0;

    if (job->param[P_RHO] > 0) {
        from = prefix;
        to = job->n;
    }
    for (uint32_t h = 0; h < job->n_q_heads; h++)
        for (uint32_t r = 0; r < window; r++)
            sum += defensive_mass(kvt_window_row(job, in, h, window, r), from, to);
    return sum / job->n_q_heads / window;
}

/* Entries of one cache, best first in s->order, that hold the first `target` of the mean
 * attention. The entry that crosses the target is not among them. */
static uint32_t defensive_stage1(const kvt_job *job, const kvt_prompt *in, uint32_t cache,
                                 double target, const defensive_scratch *s)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = defensive_prefix(job);
    const uint32_t group = kvt_group(job);
    double all = 0, reached = 0;

    for (uint32_t j = 0; j < prefix; j++)
        s->sum[j] = 0;
    for (uint32_t r = 0; r < window; r++)
        for (uint32_t i = 0; i < group; i++) {
            const float *row = kvt_window_row(job, in, cache * group + i, window, r);
            for (uint32_t j = 0; j < prefix; j++)
                s->sum[j] += row[j];
        }
    for (uint32_t j = 0; j < prefix; j++)
        all += s->sum[j];
    for (uint32_t j = 0; j < prefix; j++)
        s->mean[j] = all > 0 ? (float)(s->sum[j] / all) : 0;
    kvt_rank(s->mean, prefix, s->order, s->tmp);
    for (uint32_t i = 0; i < prefix; i++) {
        reached += s->mean[s->order[i]];
        if (reached >= target)
            return i;
    }
    return 0;
}

/* semantics=code: places[c][j] = place of an entry among those that stage 1 protects where
 * the budget lets it, infinity for the others. */
static void defensive_places(const kvt_job *job, const kvt_prompt *in, const defensive_scratch *s, float *places)
{
    const double target = 0.9 - defensive_rho(job, in);

    for (uint32_t c = 0; c < job->n_caches; c++) {
        float *own = places + (size_t)c * job->n;
        const uint32_t count = defensive_stage1(job, in, c, target, s);

        for (uint32_t j = 0; j < job->n; j++)
            own[j] = INFINITY;
        for (uint32_t i = 0; i < count; i++)
            own[s->order[i]] = (float)i;
    }
}

void kvt__defensive_base(const kvt_job *job, const kvt_prompt *in, int over_tokens, kvt_ws *ws, float *base)
{
    const uint32_t n = job->n;
    const int paper = job->param[P_SEMANTICS] > 0;
    defensive_scratch s;

    s.pooled = kvt_ws_take(ws, n, sizeof *s.pooled);
    s.mean = kvt_ws_take(ws, n, sizeof *s.mean);
    s.sum = kvt_ws_take(ws, n, sizeof *s.sum);
    s.order = kvt_ws_take(ws, n, sizeof *s.order);
    s.tmp = kvt_ws_take(ws, n, sizeof *s.tmp);

    for (uint32_t c = 0; c < job->n_caches; c++)
        defensive_worst(job, in, c, !paper, &s, base + (size_t)c * n);
    if (paper) {
        defensive_weigh_values(job, in, over_tokens, &s, base);
    } else {
        defensive_share_values(job, in, &s, base);
        defensive_places(job, in, &s, base + (size_t)job->n_caches * n);
    }
}

/* semantics=code: the entries that stage 1 protects get the best score of the layer. */
static float defensive_protect(const kvt_job *job, const float *places, float *score)
{
    const uint32_t n = job->n, prefix = defensive_prefix(job);
    const double limit = defensive_limit(job);
    float best = 0;

    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < prefix; j++)
            best = score[(size_t)c * n + j] > best ? score[(size_t)c * n + j] : best;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < prefix; j++)
            if ((double)places[(size_t)c * n + j] < (double)kvt_trunc(limit))
                score[(size_t)c * n + j] = best;
    return best;
}

void kvt__defensive_score(const kvt_job *job, const kvt_prompt *in, int over_tokens, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n, prefix = defensive_prefix(job);
    const int paper = job->param[P_SEMANTICS] > 0;
    const float *base = in->base;
    float *score = out->score, best = KVT_ALWAYS_KEEP;

    if (!base) {
        float *own = kvt_ws_take(ws, (size_t)(paper ? 1 : 2) * job->n_caches * n, sizeof *own);
        kvt__defensive_base(job, in, over_tokens, ws, own);
        base = own;
    }
    for (uint32_t c = 0; c < job->n_caches; c++)
        memcpy(score + (size_t)c * n, base + (size_t)c * n, prefix * sizeof *score);
    if (!paper)
        best = defensive_protect(job, base + (size_t)job->n_caches * n, score);
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = prefix; j < n; j++)
            score[(size_t)c * n + j] = best;
}
