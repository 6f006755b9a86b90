/* TOVA: keep what the newest query attends to.
 *
 * Oren et al., "Transformers are Multi-State RNNs", arXiv:2401.06104; impl=original: after
 * the prompt and after every token, the best `capacity` entries of the newest row, averaged
 * over all query heads of the layer, stay; all heads keep the same set. No sinks, no
 * window; the newest token itself can leave. Column 0 is the newest row. */
#include "kvt_prim.h"

enum { P_IMPL };
static const kvt_param_def tova_params[] = {
    [P_IMPL] = { "impl", 0, 0, 0, "original", 1, "reference whose details are repeated" },
    { 0 }
};

static void tova_setup(const kvt_job *job, kvt_setup *out)
{
    (void)job;
    out->window = 1;
}

static void tova_begin(const kvt_lane *lane, const kvt_prompt *in, const kvt_event *ev, float *col)
{
    const kvt_job *job = lane->job;

    for (uint32_t s = 0; s < ev->n; s++) {
        double sum = 0;
        for (uint32_t h = 0; h < job->n_q_heads; h++)
            sum += kvt_window_row(job, in, h, 1, 0)[ev->pos[s]];
        col[s] = (float)(sum / job->n_q_heads);
    }
}

static void tova_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    (void)lane;
    for (uint32_t s = 0; s < ev->n; s++)
        col[s] = ev->prob[s];
}

static void tova_worth(const kvt_lane *lane, const kvt_event *ev, const float *col, float *worth)
{
    (void)lane;
    for (uint32_t s = 0; s < ev->n; s++)
        worth[s] = col[s];
}

extern const kvt_policy kvt_policy_tova;
const kvt_policy kvt_policy_tova = {
    .caps = KVT_POLICY_ONLINE, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "tova", .title = "Token Omission Via Attention", .cite = "arXiv:2401.06104",
    .params = tova_params, .slot_cols = 1, .share_over = KVT_SPAN_LAYER,
    .setup = tova_setup, .begin = tova_begin, .observe = tova_observe, .worth = tova_worth,
};
