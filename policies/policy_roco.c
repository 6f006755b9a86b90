/* RoCo: robust cache omission. Entries whose attention varies much are protected; of the
 * others those with the smallest mean leave.
 *
 * Ren and Zhu, "On the Efficacy of Eviction Policy for Key-Value Constrained Generative
 * Language Model Inference", arXiv:2402.06262; impl=easykv. Columns: sum s, sum of squares
 * q2 and number c of the rows that attended the entry. std = sqrt(q2/c - (s/c)^2) counts as
 * 1e9 for the latest 10 entries and, in prompt chunks, the first `sinks`. The entries with
 * the smallest std are feasible; how many follows from the budget, and where it asks for
 * more than there are, the 1e9 group fills up, oldest first. Of the feasible ones the
 * smallest s/c leave. */
#include "family_easykv.h"

#include <math.h>

enum { P_IMPL, P_MODE };
enum { COL_SUM, COL_SQUARES, COL_COUNT, N_COLS };
enum { LATEST = 10 };               /* whatever the budget */
#define PROTECTED_STD 1e9f

static const kvt_param_def roco_params[] = {
    [P_IMPL] = { "impl", 0, 0, 0, "easykv", 1, "reference whose details are repeated" },
    KVT_EASYKV_PARAMS(P_MODE),
    { 0 }
};

static void roco_setup(const kvt_job *job, kvt_setup *out)
{
    const uint32_t slots = job->n + job->n_new;

    kvt_easykv_setup(job, P_MODE, KVT_EASYKV_ROCO, out);
    out->ws_bytes = 3 * KVT_WS_BYTES(slots, float) + 4 * KVT_WS_BYTES(slots, uint32_t)
        + KVT_WS_BYTES(slots, uint8_t) + kvt_top_bytes(1, slots);
}

static void roco_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    float *sum = col + COL_SUM * (size_t)lane->cap, *squares = col + COL_SQUARES * (size_t)lane->cap;
    float *count = col + COL_COUNT * (size_t)lane->cap;

    for (uint32_t s = 0; s < ev->n; s++) {
        sum[s] += ev->prob[s];
        squares[s] += ev->prob[s] * ev->prob[s];
        count[s] += 1;
    }
}

/* Feasible entries: of a chunk b - r - sinks, but as many as must leave; of a generated
 * token b - trunc(0.3 b). */
static uint32_t roco_feasible(const kvt_easykv *e, int chunk, uint32_t n)
{
    const int64_t k = chunk ? (int64_t)e->budget - e->recent - e->sinks : (int64_t)e->budget - e->recent_new;
    const int64_t least = chunk ? e->stride : 1;

    return (uint32_t)(k < least ? least : k < n ? k : n);
}

static void roco_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    const kvt_easykv e = kvt_easykv_plan(lane->job, P_MODE, KVT_EASYKV_ROCO);
    const int chunk = kvt_easykv_chunk(&e, lane->job, ev);
    const uint32_t n = ev->n, k = roco_feasible(&e, chunk, n), sinks = chunk ? e.sinks : 0;
    const float *sum = col + COL_SUM * (size_t)lane->cap, *squares = col + COL_SQUARES * (size_t)lane->cap;
    const float *count = col + COL_COUNT * (size_t)lane->cap;
    float *steady = kvt_ws_take(ws, n, sizeof *steady), *mean = kvt_ws_take(ws, n, sizeof *mean);
    float *few = kvt_ws_take(ws, n, sizeof *few), last = -1;
    uint32_t *slot = kvt_ws_take(ws, n, sizeof *slot), *by_std = kvt_ws_take(ws, n, sizeof *by_std);
    uint32_t *by_mean = kvt_ws_take(ws, n, sizeof *by_mean), *tmp = kvt_ws_take(ws, n, sizeof *tmp);
    uint8_t *feasible = kvt_ws_take(ws, n, sizeof *feasible);
    uint32_t m = 0;

    for (uint32_t s = 0; s < n; s++) {
        /* In float, as in the reference: after a single row the two terms cancel exactly. */
        const float mu = sum[s] / count[s], var = squares[s] / count[s] - mu * mu;
        mean[s] = mu;
        steady[s] = s < sinks || n - s <= LATEST ? -PROTECTED_STD : -sqrtf(var > 0 ? var : 0);
        worth[s] = KVT_ALWAYS_KEEP;
    }
    kvt_mark_top(lane->job, lane->layer, lane->cache, steady, n, k, ws, feasible);
    for (uint32_t s = 0; s < n; s++)
        if (feasible[s]) {
            slot[m] = s;
            few[m++] = steady[s];
        }
    kvt_rank(few, m, by_std, tmp);
    for (uint32_t i = 0; i < m; i++)
        few[i] = -mean[slot[by_std[i]]];
    kvt_rank(few, m, by_mean, tmp);
    for (uint32_t i = 0; i < m; i++) {          /* equal means: the smaller std is worth less, by one ulp */
        const uint32_t s = slot[by_std[by_mean[i]]];
        last = worth[s] = mean[s] > last ? mean[s] : nextafterf(last, INFINITY);
    }
}

extern const kvt_policy kvt_policy_roco;
const kvt_policy kvt_policy_roco = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONLINE, .needs = KVT_NEED_PROMPT, .version = 1,
    .id = "roco", .title = "Robust Cache Omission", .cite = "arXiv:2402.06262",
    .note = "The code adds the stride to the budget, exempts the prompt in mode=decoding and fixes the recent share at 0.3 while "
            "generating. Protection is a number of entries with a large std, not a recent window: only the latest 10 are safe.",
    .params = roco_params, .slot_cols = N_COLS,
    .setup = roco_setup, .observe = roco_observe, .worth = roco_worth,
};
