/* CAKE: layers share one budget by how spread out and how unsteady their attention is.
 *
 * arXiv:2503.12491, antgroup/cakekv c4675ce. Of a capacity C per cache, (C - W) L entries
 * are divided among the L layers by H^(1/tau1) V^(1/tau2): entropy and variance of the
 * window's rows over the prefix. A token is worth mean + gamma variance of its column.
 * impl=cakekv: the layers so far are cut again after each layer (cascade=on); nothing
 * leaves a prompt of at most C + W tokens; then the newest query's row alone decides at
 * every step, pooled over neighbours in the cache, which is stored best first.
 * impl=dkv, the copy in FFY0/DefensiveKV: once after the last layer, always, and never
 * while generating. semantics=paper: one allocation; mean + gamma variance of all rows
 * seen, pooled in text order, decides at every step too. Columns: code: place in the cache,
 * higher is nearer to its front (0: entered since the last eviction, by position); paper:
 * rows seen, their mean, their sum of squared deviations. */
#include "kvt_prim.h"

#include <math.h>
#include <string.h>

enum { P_IMPL, P_SEMANTICS, P_WINDOW, P_TAU1, P_TAU2, P_GAMMA, P_CASCADE };
static const kvt_param_def cake_params[] = {
    [P_IMPL]      = { "impl", 0, 0, 1, "cakekv|dkv", 1, "reference whose details are repeated" },
    [P_SEMANTICS] = { "semantics", 0, 0, 1, "code|paper", 1, "reference code, or the paper (impl=cakekv)" },
    [P_WINDOW]    = { "window", 32, 1, 4194304, NULL, 1, "last prompt queries that vote; the latest that stay, tokens" },
    [P_TAU1]      = { "tau1", 0, 0, 1e6, NULL, 0, "root of the entropy; 0 = 1, with impl=dkv 1.6" },
    [P_TAU2]      = { "tau2", 0, 0, 1e6, NULL, 0, "root of the variance; 0 = 1, with impl=dkv 0.6" },
    [P_GAMMA]     = { "gamma", 200, 0, 1e6, NULL, 0, "weight of the variance of a token" },
    [P_CASCADE]   = { "cascade", 0, 0, 1, "on|off", 1, "cut after every layer, or once after the last (impl=cakekv)" },
    { 0 }
};
enum { COL_PLACE = 0, COL_ROWS = 0, COL_MEAN = 1, COL_SQUARES = 2, CAKE_COLS = 3, CAKE_POOL = 5, CAKE_PARTS = 8 };
enum { STAT_PREFERENCE };                       /* logarithm, so that small taus cannot overflow */

static int cake_dkv(const kvt_job *job) { return job->param[P_IMPL] > 0; }
static int cake_paper(const kvt_job *job) { return job->param[P_SEMANTICS] > 0; }
static uint32_t cake_window(const kvt_job *job) { return (uint32_t)job->param[P_WINDOW]; }

static double cake_tau(const kvt_job *job, uint32_t which, double of_dkv)
{
    const double tau = job->param[which];
    return tau > 0 ? fmax(tau, 1e-6) : cake_dkv(job) ? of_dkv : 1;
}

static int cake_keeps_all(const kvt_job *job)
{
    return job->n <= cake_window(job)
        || (cake_dkv(job) ? job->tokens >= job->n : job->n <= (uint64_t)job->keep_cache + cake_window(job));
}

static void cake_setup(const kvt_job *job, kvt_setup *out)
{
    const uint32_t window = cake_window(job), c = job->keep_cache;
    const size_t slots = (size_t)job->n + job->n_new;
    const size_t in_score = 3 * KVT_WS_BYTES(job->n, double) + 2 * KVT_WS_BYTES(job->n, float);
    const size_t in_worth = 3 * KVT_WS_BYTES(slots, float) + 3 * KVT_WS_BYTES(slots, uint32_t);

    out->window = window;
    out->base_planes = 1;
    out->ws_bytes = in_score > in_worth ? in_score : in_worth;
    out->keep_all = cake_keeps_all(job);
    out->uneven = 1;
    if (job->n > window && (cake_dkv(job) ? job->tokens < window - 1e-9 : c < window))
        out->refuse = "the capacity must not be below the window";
    if (job->n > window && c <= window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
    if (out->keep_all)                          /* paper: begin() still reads rows */
        out->window = !cake_paper(job) ? 0 : job->n < window ? job->n : window;
    if (out->window == 0)
        out->needs = 0;
    if (cake_dkv(job)) {
        out->caps &= ~(uint32_t)(KVT_POLICY_ONLINE | KVT_POLICY_CASCADE);
        return;
    }
    if (cake_paper(job) || job->param[P_CASCADE] > 0)
        out->caps &= ~(uint32_t)KVT_POLICY_CASCADE;
    out->overshoots = out->keep_all && job->n > c;
    out->capacity = c > window ? c : window;    /* a prompt within the window: it stays full */
    out->prompt_wait = 1;
}

/* e[j] of one query head over the prefix; adds to the layer's entropy and variance. A
 * single row has no variance. sum, squares: scratch. */
static void cake_head(const kvt_job *job, const kvt_prompt *in, uint32_t head, double *sum, double *squares,
                      float *e, double *entropy, double *variance)
{
    const uint32_t window = cake_window(job), prefix = job->n - window;

    memset(sum, 0, prefix * sizeof *sum);
    memset(squares, 0, prefix * sizeof *squares);
    for (uint32_t r = 0; r < window; r++) {
        const float *row = kvt_window_row(job, in, head, window, r);
        for (uint32_t j = 0; j < prefix; j++) {
            sum[j] += (double)row[j];
            *entropy -= (double)row[j] * log((double)row[j] + 1e-10);
        }
    }
    for (uint32_t r = 0; r < window; r++) {
        const float *row = kvt_window_row(job, in, head, window, r);
        for (uint32_t j = 0; j < prefix; j++) {
            const double off = (double)row[j] - sum[j] / window;
            squares[j] += off * off;
        }
    }
    for (uint32_t j = 0; j < prefix; j++) {
        const double var = window > 1 ? squares[j] / (window - 1) : 0;
        *variance += var;
        e[j] = (float)(sum[j] / window + job->param[P_GAMMA] * var);
    }
}

/* Scores of a layer and its preference: no part of them reads the budget. */
static void cake_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    const uint32_t n = job->n, prefix = n - cake_window(job), group = kvt_group(job);
    double *sum = kvt_ws_take(ws, n, sizeof *sum), *squares = kvt_ws_take(ws, n, sizeof *squares);
    double *merged = kvt_ws_take(ws, n, sizeof *merged), entropy = 0, variance = 0;
    float *e = kvt_ws_take(ws, n, sizeof *e), *pooled = kvt_ws_take(ws, n, sizeof *pooled);

    for (uint32_t c = 0; c < job->n_caches; c++) {
        float *score = base + (size_t)c * n;

        memset(merged, 0, prefix * sizeof *merged);
        for (uint32_t i = 0; i < group; i++) {
            cake_head(job, in, c * group + i, sum, squares, e, &entropy, &variance);
            kvt_pool_mean(e, prefix, CAKE_POOL, pooled);
            for (uint32_t j = 0; j < prefix; j++)
                merged[j] += (double)pooled[j];
        }
        for (uint32_t j = 0; j < n; j++)
            score[j] = j < prefix ? (float)(merged[j] / group) : KVT_ALWAYS_KEEP;
    }
    /* rows that look at the window alone have a preference of 0 */
    stat[STAT_PREFERENCE] = log(fmax(entropy, 0)) / cake_tau(job, P_TAU1, 1.6)
                          + log(variance) / cake_tau(job, P_TAU2, 0.6);
}

static void cake_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    if (in->base)
        memcpy(out->score, in->base, (size_t)job->n_caches * job->n * sizeof *out->score);
    else
        cake_base(job, in, ws, out->score, out->stat);
    for (uint32_t c = 0; c < job->n_caches; c++)
        out->keep[c] = job->n;                  /* allot() decides */
}

/* Evenly over the layers below cap; the first ones take the remainder. */
static void cake_spread(uint32_t *b, size_t stride, uint32_t layers, uint32_t cap, uint64_t amount)
{
    uint64_t open = 0, each, rest;

    for (uint32_t l = 0; l < layers; l++)
        open += b[l * stride] < cap;
    if (open == 0)
        return;
    each = amount / open;
    rest = amount % open;
    for (uint32_t l = 0; l < layers; l++)
        if (b[l * stride] < cap) {
            b[l * stride] += (uint32_t)(each + (rest > 0));
            rest -= rest > 0;
        }
}

/* The capacity of a layer's first cache holds its share of the prefix until the end. */
static void cake_allot(const kvt_job *job, const kvt_layers *done, uint32_t *keep, uint32_t *capacity)
{
    const uint32_t window = cake_window(job), cap = job->n - window, layers = done->n_done;
    const size_t stride = done->n_caches;
    double best = -INFINITY, sum = 0, total;
    uint64_t excess = 0, held = 0;

    if (cake_keeps_all(job))
        return;
    total = cake_dkv(job) ? (double)kvt_count_of(job, (job->tokens - window) * job->n_layers)
                          : (double)(job->keep_cache - window) * job->n_layers;
    for (uint32_t l = 0; l < layers; l++)
        best = fmax(best, done->stat[l][STAT_PREFERENCE]);
    for (int fill = 0; fill < 2; fill++)
        for (uint32_t l = 0; l < layers; l++) { /* equal preferences, all 0 included, weigh 1 */
            const double at = done->stat[l][STAT_PREFERENCE], weight = at < best ? exp(at - best) : 1;
            if (fill) {
                const uint64_t x = (uint64_t)(weight / sum * total);
                capacity[l * stride] = (uint32_t)(x < cap ? x : cap);
                excess += x - capacity[l * stride];
            } else {
                sum += weight;
            }
        }
    cake_spread(capacity, stride, layers, cap, excess);
    for (uint32_t l = 0; l < layers; l++)
        held += capacity[l * stride];
    if (total > (double)held)
        cake_spread(capacity, stride, layers, cap, (uint64_t)total - held);
    for (uint32_t l = 0; l < layers; l++) {
        const uint32_t b = capacity[l * stride], slots = (b < cap ? b : cap) + window;
        for (size_t c = 0; c < stride; c++)
            keep[l * stride + c] = capacity[l * stride + c] = slots;
    }
}

/* Row r of the last `window` prompt queries: mean over the cache's query heads. */
static float cake_row(const kvt_job *job, const kvt_prompt *in, uint32_t cache, uint32_t window, uint32_t r, uint32_t pos)
{
    const uint32_t group = kvt_group(job);
    double sum = 0;

    for (uint32_t i = 0; i < group; i++)
        sum += (double)kvt_window_row(job, in, cache * group + i, window, r)[pos];
    return (float)(sum / group);
}

static void cake_see(float *col, uint32_t cap, uint32_t s, float p)
{
    float *rows = col + (size_t)COL_ROWS * cap + s, *mean = col + (size_t)COL_MEAN * cap + s;
    const float off = p - *mean;

    *rows += 1;
    *mean += off / *rows;
    col[(size_t)COL_SQUARES * cap + s] += off * (p - *mean);
}

static void cake_begin(const kvt_lane *lane, const kvt_prompt *in, const float *score, const kvt_event *ev, float *col)
{
    const kvt_job *job = lane->job;
    const uint32_t n = job->n, window = cake_window(job);

    if (n <= window)                            /* nothing was scored: text order         */
        return;
    if (cake_paper(job)) {
        for (uint32_t s = 0; s < ev->n; s++)
            for (uint32_t r = 0; r < window; r++)
                if (ev->pos[s] <= n - window + r)
                    cake_see(col, lane->cap, s, cake_row(job, in, lane->cache, window, r, ev->pos[s]));
        return;
    }
    for (uint32_t s = 0; score && s < ev->n && ev->pos[s] < n - window; s++)
        col[(size_t)COL_PLACE * lane->cap + s] = score[ev->pos[s]];
}

static void cake_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    if (cake_paper(lane->job))
        for (uint32_t s = 0; s < ev->n; s++)
            cake_see(col, lane->cap, s, ev->prob[s]);
}

/* mean + gamma variance of the rows seen by the first m slots */
static void cake_indicator(const kvt_lane *lane, const float *col, uint32_t m, float *e)
{
    const size_t cap = lane->cap;

    for (uint32_t s = 0; s < m; s++) {
        const float rows = col[COL_ROWS * cap + s], squares = col[COL_SQUARES * cap + s];
        const float variance = rows > 1 ? squares / (rows - 1) : 0;
        e[s] = col[COL_MEAN * cap + s] + (float)lane->job->param[P_GAMMA] * variance;
    }
}

/* pooled[i] of one query head for the first m slots in cache order; z, pooled: [n]. Every
 * result is rounded to f32, and the softmax is summed in eight partial sums, since the order
 * of near-equals feeds the next pooling: so the reference does it on a CPU. */
static void cake_newest(const kvt_lane *lane, const kvt_event *ev, uint32_t head, const uint32_t *at, uint32_t m,
                        float *z, float *pooled)
{
    const uint32_t d = lane->job->head_dim;
    const float *q = ev->q + head * ev->q_stride, root = (float)(1 / lane->job->scale);
    float top = -INFINITY, part[CAKE_PARTS] = { 0 };

    for (uint32_t i = 0; i < ev->n; i++) {
        const float *k = ev->key + (size_t)ev->pos[at[i]] * d;
        double dot = 0;
        for (uint32_t c = 0; c < d; c++)
            dot += (double)q[c] * (double)k[c];
        z[i] = (float)dot / root;
        top = z[i] > top ? z[i] : top;
    }
    for (uint32_t i = 0; i < ev->n; i++) {
        z[i] = (float)exp((double)(z[i] - top));
        part[i % CAKE_PARTS] += z[i];
    }
    for (uint32_t half = CAKE_PARTS / 2; half > 0; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            part[i] += part[i + half];
    for (uint32_t i = 0; i < ev->n; i++)
        z[i] /= part[0];
    for (uint32_t i = 0; i < m; i++) {
        float near = 0;
        for (uint32_t j = i > CAKE_POOL / 2 ? i - CAKE_POOL / 2 : 0; j < m && j <= i + CAKE_POOL / 2; j++)
            near += z[j];
        pooled[i] = near / CAKE_POOL;
    }
}

static void cake_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    const uint32_t n = ev->n, m = n - cake_window(lane->job);   /* the first m may leave */
    float *z = kvt_ws_take(ws, n, sizeof *z), *pooled = kvt_ws_take(ws, n, sizeof *pooled);
    float *e = kvt_ws_take(ws, n, sizeof *e), *place = col + (size_t)COL_PLACE * lane->cap;
    uint32_t *at = kvt_ws_take(ws, n, sizeof *at), *best = kvt_ws_take(ws, n, sizeof *best);
    uint32_t *tmp = kvt_ws_take(ws, n, sizeof *tmp);

    for (uint32_t s = m; s < n; s++)
        worth[s] = KVT_ALWAYS_KEEP;
    if (cake_paper(lane->job)) {
        cake_indicator(lane, col, m, e);
        kvt_pool_mean(e, m, CAKE_POOL, worth);
        return;
    }
    kvt_rank(place, n, at, tmp);                /* cache order -> slot */
    for (uint32_t i = 0; i < m; i++)
        e[i] = 0;
    for (uint32_t h = 0; h < ev->n_heads; h++) {
        cake_newest(lane, ev, h, at, m, z, pooled);
        for (uint32_t i = 0; i < m; i++)
            e[i] += pooled[i];
    }
    for (uint32_t i = 0; i < m; i++)
        e[i] /= (float)ev->n_heads;
    kvt_rank(e, m, best, tmp);                  /* new place -> old place */
    for (uint32_t i = 0; i < m; i++) {
        place[at[best[i]]] = (float)(m - i);
        worth[at[best[i]]] = -(float)i;
    }
}

extern const kvt_policy kvt_policy_cake;
const kvt_policy kvt_policy_cake = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE | KVT_POLICY_CASCADE,
    .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "cake", .title = "CAKE", .cite = "arXiv:2503.12491",
    .note = "code: shares are cut again after every layer, and while generating the newest query's row alone decides, pooled "
            "over neighbours in the stored order, best first. paper: one allocation after the last layer; every step ranks by "
            "mean + gamma variance of the rows since the window's first (mean of the cache's query heads), pooled in text "
            "order; the paper leaves open which rows those are.",
    .params = cake_params, .slot_cols = CAKE_COLS,
    .setup = cake_setup, .base = cake_base, .score = cake_score, .allot = cake_allot,
    .begin = cake_begin, .observe = cake_observe, .worth = cake_worth,
};
