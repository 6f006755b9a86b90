/* DefensiveKV: keep what was important in the worst case, not on average.
 *
 * arXiv:2510.13334. semantics=paper: Algorithms 1 and 2 (pooled rows; maximum over rows and
 * the group's heads; floor at the head's mean; times the value norm; the window stays; the
 * best of the layer). semantics=code, the reference implementation, differs: pooled rows
 * get their mass back, the value factor is the share among the KV heads of a token, the
 * entries that hold the first 0.9 - rho of the mean attention are protected, and the
 * window ties with the best entry. rho is the mean mass of the W tokens before the window
 * (rho=prefix, as the code does) or of the window itself (rho=window, as intended).
 * Where the budget leaves less than nothing for that protection, the reference defines no
 * kept set; the count is then 0 and the run is flagged. */
#include "kvt_prim.h"

#include <math.h>

enum { P_SEMANTICS, P_WINDOW, P_KERNEL, P_RHO };
static const kvt_param_def defensivekv_params[] = {
    [P_SEMANTICS] = { "semantics", 0, 0, 1, "code|paper", 1, "reference code, or the paper's Algorithms 1 and 2" },
    [P_WINDOW]    = { "window", 32, 1, 4194304, NULL, 1, "last prompt queries that vote, tokens" },
    [P_KERNEL]    = { "kernel", 5, 1, 1023, NULL, 2, "width of the mean pooling, tokens" },
    [P_RHO]       = { "rho", 0, 0, 1, "prefix|window", 1, "mass taken off the 0.9 target (semantics=code)" },
    { 0 }
};

typedef struct defensivekv_scratch {
    float    *pooled, *mean;                    /* [n] a pooled row; mean attention      */
    double   *sum;                              /* [n]                                   */
    uint32_t *order, *tmp;                      /* [n]                                   */
} defensivekv_scratch;

static uint32_t defensivekv_prefix(const kvt_job *job)
{
    return job->n - (uint32_t)job->param[P_WINDOW];
}

/* Stage-1 limit of a head, as a whole number before the clamp at 0. */
static double defensivekv_limit(const kvt_job *job)
{
    const double cr = 1 - job->share;

    if (job->rule == KVT_RULE_REFERENCE)
        return trunc(defensivekv_prefix(job) * (1 - cr) - job->param[P_WINDOW]);
    {
        /* Nearest, halves to even. A budget is a decimal, so what lies within 1e-9 of a half
         * in double is a half. */
        const double x = defensivekv_prefix(job) * job->share - job->param[P_WINDOW], down = floor(x);
        return fabs(x - down - 0.5) < 1e-9 ? (fmod(down, 2) == 0 ? down : down + 1) : rint(x);
    }
}

static void defensivekv_setup(const kvt_job *job, kvt_setup *out)
{
    const int paper = job->param[P_SEMANTICS] > 0;

    out->window = (uint32_t)job->param[P_WINDOW];
    out->ws_bytes = 2 * KVT_WS_BYTES(job->n, float) + KVT_WS_BYTES(job->n, double)
                  + 2 * KVT_WS_BYTES(job->n, uint32_t);
    out->nested = paper;                        /* stage 1 of the code reads the budget */
    if (job->n <= out->window || job->keep_cache >= job->n)
        return;                                 /* everything stays */
    if (job->keep_cache < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
    if (!paper && defensivekv_limit(job) < 0)
        out->flags |= KVT_FLAG_CLAMPED;
}

/* Sum of one row over columns from..to-1, in order. */
static double defensivekv_mass(const float *row, uint32_t from, uint32_t to)
{
    double sum = 0;
    for (uint32_t j = from; j < to; j++)
        sum += row[j];
    return sum;
}

/* worst[j] of one cache: pooled rows, maximum over heads and rows, then the floor. With
 * restore, a pooled row is scaled back to the mass that it had. */
static void defensivekv_worst(const kvt_job *job, const kvt_prompt *in, uint32_t cache,
                              int restore, const defensivekv_scratch *s, float *worst)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = defensivekv_prefix(job);
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
                const double damped = defensivekv_mass(s->pooled, 0, prefix);
                factor = damped > 0 ? defensivekv_mass(row, 0, prefix) / damped : 0;
            }
            for (uint32_t j = 0; j < prefix; j++) {
                const float p = (float)(s->pooled[j] * factor);
                worst[j] = p > worst[j] ? p : worst[j];
            }
        }
    floor_value = (float)(defensivekv_mass(worst, 0, prefix) / prefix);
    for (uint32_t j = 0; j < prefix; j++)
        worst[j] = worst[j] > floor_value ? worst[j] : floor_value;
}

/* Value norm of a position in one cache: mean over the group, heads in order. */
static float defensivekv_norm(const kvt_job *job, const kvt_prompt *in, uint32_t cache, uint32_t j)
{
    const uint32_t group = kvt_group(job);
    double sum = 0;

    for (uint32_t i = 0; i < group; i++)
        sum += in->nu[((size_t)cache * group + i) * job->n + j];
    return (float)(sum / group);
}

static void defensivekv_value_factor(const kvt_job *job, const kvt_prompt *in, int paper, float *score)
{
    const uint32_t n = job->n, prefix = defensivekv_prefix(job);

    for (uint32_t j = 0; j < prefix; j++) {
        double all = 0;

        for (uint32_t c = 0; c < job->n_caches; c++)
            all += defensivekv_norm(job, in, c, j);
        for (uint32_t c = 0; c < job->n_caches; c++) {
            const float norm = defensivekv_norm(job, in, c, j);
            const float factor = paper ? norm : all > 0 ? (float)(norm / all) : 0;
            score[(size_t)c * n + j] *= factor;
        }
    }
}

/* rho: mean over all heads and rows of the mass in W columns. */
static double defensivekv_rho(const kvt_job *job, const kvt_prompt *in)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = defensivekv_prefix(job);
    uint32_t from = prefix > window ? prefix - window : 0, to = prefix;
    double sum = 0;

    if (job->param[P_RHO] > 0) {
        from = prefix;
        to = job->n;
    }
    for (uint32_t h = 0; h < job->n_q_heads; h++)
        for (uint32_t r = 0; r < window; r++)
            sum += defensivekv_mass(kvt_window_row(job, in, h, window, r), from, to);
    return sum / job->n_q_heads / window;
}

/* Entries of one cache, best first in s->order, that hold the first `target` of the mean
 * attention. The entry that crosses the target is not among them. */
static uint32_t defensivekv_stage1(const kvt_job *job, const kvt_prompt *in, uint32_t cache,
                                   double target, const defensivekv_scratch *s)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], prefix = defensivekv_prefix(job);
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

static void defensivekv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *score)
{
    const uint32_t n = job->n, prefix = defensivekv_prefix(job);
    const int paper = job->param[P_SEMANTICS] > 0;
    defensivekv_scratch s;
    float best = 0;

    s.pooled = kvt_ws_take(ws, n, sizeof *s.pooled);
    s.mean = kvt_ws_take(ws, n, sizeof *s.mean);
    s.sum = kvt_ws_take(ws, n, sizeof *s.sum);
    s.order = kvt_ws_take(ws, n, sizeof *s.order);
    s.tmp = kvt_ws_take(ws, n, sizeof *s.tmp);

    for (uint32_t c = 0; c < job->n_caches; c++)
        defensivekv_worst(job, in, c, !paper, &s, score + (size_t)c * n);
    defensivekv_value_factor(job, in, paper, score);
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < prefix; j++)
            best = score[(size_t)c * n + j] > best ? score[(size_t)c * n + j] : best;
    if (paper) {
        best = KVT_ALWAYS_KEEP;
    } else {
        const double target = 0.9 - defensivekv_rho(job, in), limit = defensivekv_limit(job);

        for (uint32_t c = 0; c < job->n_caches; c++) {
            uint32_t count = defensivekv_stage1(job, in, c, target, &s);
            count = count > limit ? kvt_trunc(limit) : count;
            for (uint32_t i = 0; i < count; i++)
                score[(size_t)c * n + s.order[i]] = best;
        }
    }
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = prefix; j < n; j++)
            score[(size_t)c * n + j] = best;
}

extern const kvt_policy kvt_policy_defensivekv;
const kvt_policy kvt_policy_defensivekv = {
    .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW | KVT_NEED_NU, .version = 1,
    .id = "defensivekv", .title = "DefensiveKV", .cite = "arXiv:2510.13334",
    .params = defensivekv_params, .rank_over = KVT_SPAN_LAYER,
    .setup = defensivekv_setup, .score = defensivekv_score,
};
