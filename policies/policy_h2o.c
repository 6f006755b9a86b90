/* H2O: keep the tokens that have received the most attention so far, and the latest.
 *
 * Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
 * Language Models", arXiv:2306.14048. Of a capacity C the best trunc(C (1 - recent)) older
 * tokens stay, the rest of C are the latest. impl=real_drop drops entries; impl=mask_sim
 * masks them, by a mask one entry too long: a token is hidden from one query when it stops
 * being recent, then competes (mask_offbyone). Both know one query head per cache, so with
 * grouped heads every query head has its own (caches=query); with caches=kv the group's
 * mean row counts. With score_src=full rows are those of the full cache, not renormalised over
 * the survivors, and the latest `window` stay instead of a share of the capacity: an ideal that
 * papers often plot, and a stack (kvt_setup.stack). impl=one_shot: the column sums of the whole prompt choose once, the last
 * `window` stay. impl=easykv (arXiv:2402.06262): sums of the group's mean rows. Column 0:
 * attention received since the token entered; column 1: hidden from the next query. */
#include "family_easykv.h"

enum { P_IMPL, P_SEMANTICS, P_SOURCE, P_RECENT, P_OFFBYONE, P_WINDOW, P_MODE };
enum { REAL_DROP, MASK_SIM, ONE_SHOT, EASYKV };
enum { COL_SUM, COL_HIDDEN, N_COLS };
static const kvt_param_def h2o_params[] = {
    [P_IMPL]      = { "impl", REAL_DROP, 0, 3, "real_drop|mask_sim|one_shot|easykv", 1, "reference whose details are repeated" },
    [P_SEMANTICS] = { "semantics", 0, 0, 1, "code|paper", 1, "paper: impl=mask_sim with mask_offbyone=off" },
    [P_SOURCE]    = { "score_src", 0, 0, 1, "live|full", 1, "impl=real_drop: rows over what is cached, or those of the full cache" },
    [P_RECENT]    = { "recent", 0.5, 0, 1, NULL, 0, "impl=real_drop, mask_sim: share of the capacity for the latest tokens" },
    [P_OFFBYONE]  = { "mask_offbyone", 1, 0, 1, "off|on", 1, "impl=mask_sim: hide a token for one query when it leaves the latest" },
    [P_WINDOW]    = { "window", 32, 1, 4194304, NULL, 1, "impl=one_shot: last prompt tokens that always stay; score_src=full: latest tokens" },
    KVT_EASYKV_PARAMS(P_MODE),
    { 0 }
};
static const kvt_param_alt h2o_alts[] = { { "recent", "score_src=full", 0 }, { 0 } };

static uint32_t h2o_recent(const kvt_job *job, uint32_t capacity)
{
    return capacity - kvt_trunc(capacity * (1 - job->param[P_RECENT]));
}

static int h2o_hides(const kvt_job *job)
{
    return job->param[P_IMPL] == MASK_SIM && job->param[P_OFFBYONE] > 0 && job->param[P_SEMANTICS] == 0;
}

static void h2o_setup(const kvt_job *job, kvt_setup *out)
{
    const int impl = (int)job->param[P_IMPL], full = job->param[P_SOURCE] > 0;

    if (impl == EASYKV) {
        kvt_easykv_setup(job, P_MODE, KVT_EASYKV_H2O, out);
    } else if (impl == ONE_SHOT) {
        out->caps &= ~(uint32_t)KVT_POLICY_ONLINE;
        out->nested = 1;
        if (job->n <= job->param[P_WINDOW]) {
            out->keep_all = 1;
            out->flags |= KVT_FLAG_KEPT_ALL;
        } else if (job->keep_cache <= job->param[P_WINDOW]) {
            out->refuse = "capacity must exceed the window";
        }
    } else {
        out->caps &= ~(uint32_t)KVT_POLICY_ONESHOT;
        out->hide_col = h2o_hides(job) ? COL_HIDDEN + 1 : 0;
        if (impl == MASK_SIM && h2o_recent(job, job->keep_cache) < 1)
            out->refuse = "the share `recent` of the capacity must be one token at least";
        out->full_rows = full;
        out->nested = out->stack = full && impl == REAL_DROP && job->param[P_RECENT] <= 0;
        if (full && job->keep_cache < job->n && job->keep_cache < job->param[P_WINDOW])
            out->flags |= KVT_FLAG_BELOW_WINDOW;
    }
    if (impl != REAL_DROP && full)
        out->refuse = "score_src=full is defined for impl=real_drop";
    if (impl != MASK_SIM && job->param[P_SEMANTICS] > 0)
        out->refuse = "semantics=paper is defined for impl=mask_sim";
}

/* Column sum of the prompt, mean over the cache's query heads. */
static float h2o_received(const kvt_job *job, const kvt_prompt *in, uint32_t cache, uint32_t j)
{
    const uint32_t group = kvt_group(job);
    const float *received = in->col_sum + (size_t)cache * group * job->n;
    double sum = 0;

    for (uint32_t i = 0; i < group; i++)
        sum += received[(size_t)i * job->n + j];
    return (float)(sum / group);
}

static void h2o_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < job->n; j++)
            out->score[(size_t)c * job->n + j] = job->n - j <= job->param[P_WINDOW]
                ? KVT_ALWAYS_KEEP : h2o_received(job, in, c, j);
}

static void h2o_begin(const kvt_lane *lane, const kvt_prompt *in, const float *score,
                      const kvt_event *ev, float *col)
{
    (void)score;
    if (lane->job->param[P_IMPL] == EASYKV)     /* its entries are generated tokens: none yet */
        return;
    for (uint32_t s = 0; s < ev->n; s++)
        col[s] = h2o_received(lane->job, in, lane->cache, ev->pos[s]);
}

static void h2o_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    (void)lane;
    for (uint32_t s = 0; s < ev->n; s++)
        col[s] += ev->prob[s];
}

static void h2o_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    const kvt_job *job = lane->job;
    uint32_t sinks = 0, recent, safe, window = 0;       /* safe: the first of the latest */

    (void)ws;
    if (job->param[P_IMPL] == EASYKV) {
        const kvt_easykv e = kvt_easykv_plan(job, P_MODE, KVT_EASYKV_H2O);
        const int chunk = kvt_easykv_chunk(&e, job, ev);
        sinks = chunk ? e.sinks : 0;
        /* Without a recent token the reference fails; the oldest leaves then. */
        recent = chunk ? e.recent : e.recent_new ? e.recent_new : ev->n - 1;
    } else {
        recent = h2o_recent(job, lane->capacity);
        window = job->param[P_SOURCE] > 0 ? (uint32_t)job->param[P_WINDOW] : 0;
    }
    safe = ev->n > recent ? ev->n - recent : 0;
    while (safe > 0 && ev->query - ev->pos[safe - 1] < window)
        safe--;
    for (uint32_t s = 0; s < safe; s++)
        worth[s] = col[s];
    for (uint32_t s = safe; s < ev->n; s++)
        worth[s] = KVT_ALWAYS_KEEP;
    for (uint32_t s = 0; s < sinks && s < ev->n; s++)
        worth[s] = KVT_ALWAYS_KEEP;
    for (uint32_t s = 0; s < ev->n && h2o_hides(job); s++)
        col[COL_HIDDEN * (size_t)lane->cap + s] = ev->n - s == recent;
}

extern const kvt_policy kvt_policy_h2o;
const kvt_policy kvt_policy_h2o = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONLINE | KVT_POLICY_ONESHOT, .needs = KVT_NEED_COLSTAT, .version = 1,
    .id = "h2o", .title = "Heavy-Hitter Oracle", .cite = "arXiv:2306.14048",
    .note = "Three programs carry the name; impl= picks one. The masked form hides a token for one query by an index error that the "
            "paper does not have (semantics=paper). score_src=full sums rows of the full cache, which no running program sees. impl=easykv adds the stride to the budget and exempts the prompt in mode=decoding.",
    .params = h2o_params, .alts = h2o_alts, .caches = KVT_CACHES_QUERY, .slot_cols = N_COLS,
    .setup = h2o_setup, .score = h2o_score, .begin = h2o_begin, .observe = h2o_observe, .worth = h2o_worth,
};
