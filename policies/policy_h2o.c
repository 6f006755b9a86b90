/* H2O: keep the tokens that have received the most attention so far, and the latest.
 *
 * Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
 * Language Models", arXiv:2306.14048; impl=real_drop, the form that really drops entries.
 * The reference knows one query head per cache; with grouped heads its keys are expanded,
 * so every query head has a cache of its own (caches=query). With caches=kv the group's
 * mean row counts. Column 0 is the attention received since the token entered, prompt
 * queries included. Of a capacity C the best trunc(C (1 - recent)) older tokens stay, the
 * rest of C are the latest. */
#include "kvt_prim.h"

enum { P_IMPL, P_RECENT };
static const kvt_param_def h2o_params[] = {
    [P_IMPL]   = { "impl", 0, 0, 0, "real_drop", 1, "reference whose details are repeated" },
    [P_RECENT] = { "recent", 0.5, 0, 1, NULL, 0, "share of the capacity for the latest tokens" },
    { 0 }
};

static void h2o_begin(const kvt_lane *lane, const kvt_prompt *in, const kvt_event *ev, float *col)
{
    const uint32_t n = lane->job->n, group = kvt_group(lane->job);
    const float *received = in->col_sum + (size_t)lane->cache * group * n;

    for (uint32_t s = 0; s < ev->n; s++) {
        double sum = 0;
        for (uint32_t i = 0; i < group; i++)
            sum += received[(size_t)i * n + ev->pos[s]];
        col[s] = (float)(sum / group);
    }
}

static void h2o_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    (void)lane;
    for (uint32_t s = 0; s < ev->n; s++)
        col[s] += ev->prob[s];
}

static void h2o_worth(const kvt_lane *lane, const kvt_event *ev, const float *col, float *worth)
{
    const uint32_t heavy = kvt_trunc(lane->capacity * (1 - lane->job->param[P_RECENT]));
    const uint32_t recent = lane->capacity - heavy;

    for (uint32_t s = 0; s < ev->n; s++)
        worth[s] = ev->n - s <= recent ? KVT_ALWAYS_KEEP : col[s];
}

extern const kvt_policy kvt_policy_h2o;
const kvt_policy kvt_policy_h2o = {
    .caps = KVT_POLICY_ONLINE, .needs = KVT_NEED_COLSTAT, .version = 1,
    .id = "h2o", .title = "Heavy-Hitter Oracle", .cite = "arXiv:2306.14048",
    .params = h2o_params, .caches = KVT_CACHES_QUERY, .slot_cols = 1,
    .begin = h2o_begin, .observe = h2o_observe, .worth = h2o_worth,
};
