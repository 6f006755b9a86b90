/* TOVA: keep what the newest query attends to.
 *
 * Oren et al., "Transformers are Multi-State RNNs", arXiv:2401.06104. impl=original: after
 * the prompt and after every token the best `capacity` entries of the newest row, averaged
 * over all query heads of the layer, stay; all heads keep the same set; no sinks, no
 * window; the newest token itself can leave. score_src=full: that row is the full cache's, not
 * renormalised over the survivors head by head before the mean, which makes it a stack
 * (kvt_setup.stack). impl=press: the same row once, at the end of
 * the prompt; the last token gets the best value of the others. impl=easykv
 * (arXiv:2402.06262): by the last row of each chunk of the prompt, meant over the layer,
 * between sinks and recent tokens; while generating, and in mode=encoding_decoding
 * throughout, per KV head, where any entry can leave. Column 0 is the newest row. */
#include "family_easykv.h"

enum { P_IMPL, P_SOURCE, P_MODE };
enum { ORIGINAL, PRESS, EASYKV };
static const kvt_param_def tova_params[] = {
    [P_IMPL]   = { "impl", ORIGINAL, 0, 2, "original|press|easykv", 1, "reference whose details are repeated" },
    [P_SOURCE] = { "score_src", 0, 0, 1, "live|full", 1, "impl=original: rows over what is cached, or those of the full cache" },
    KVT_EASYKV_PARAMS(P_MODE),
    { 0 }
};

static void tova_setup(const kvt_job *job, kvt_setup *out)
{
    const int full = job->param[P_SOURCE] > 0;
    const char *only = full && job->param[P_IMPL] != ORIGINAL ? "score_src=full is defined for impl=original" : NULL;

    out->refuse = only;
    if (job->param[P_IMPL] == EASYKV) {
        kvt_easykv_setup(job, P_MODE, KVT_EASYKV_TOVA, out);
        out->refuse = only ? only : out->refuse;
        return;
    }
    out->window = 1;
    if (job->param[P_IMPL] == PRESS) {
        out->caps &= ~(uint32_t)KVT_POLICY_ONLINE;
        out->nested = 1;
    } else {
        out->caps &= ~(uint32_t)KVT_POLICY_ONESHOT;
        out->full_rows = out->nested = out->stack = full;
    }
}

/* The last prompt token's attention to position j, mean over all query heads. */
static float tova_last_row(const kvt_job *job, const kvt_prompt *in, uint32_t j)
{
    double sum = 0;

    for (uint32_t h = 0; h < job->n_q_heads; h++)
        sum += kvt_window_row(job, in, h, 1, 0)[j];
    return (float)(sum / job->n_q_heads);
}

static void tova_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n;
    float best = 0;

    (void)ws;
    for (uint32_t j = 0; j + 1 < n; j++) {
        out->score[j] = tova_last_row(job, in, j);
        best = out->score[j] > best ? out->score[j] : best;
    }
    out->score[n - 1] = best;
    for (uint32_t c = 1; c < job->n_caches; c++)
        for (uint32_t j = 0; j < n; j++)
            out->score[(size_t)c * n + j] = out->score[j];
}

static void tova_begin(const kvt_lane *lane, const kvt_prompt *in, const float *score,
                       const kvt_event *ev, float *col)
{
    (void)score;
    if (lane->job->param[P_IMPL] == EASYKV)     /* its entries are generated tokens: none yet */
        return;
    for (uint32_t s = 0; s < ev->n; s++)
        col[s] = tova_last_row(lane->job, in, ev->pos[s]);
}

static void tova_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    (void)lane;
    for (uint32_t s = 0; s < ev->n; s++)
        col[s] = ev->prob[s];
}

static void tova_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    uint32_t sinks = 0, recent = 0;

    (void)ws;
    if (lane->job->param[P_IMPL] == EASYKV) {
        const kvt_easykv e = kvt_easykv_plan(lane->job, P_MODE, KVT_EASYKV_TOVA);
        if (kvt_easykv_chunk(&e, lane->job, ev)) {
            sinks = e.sinks;
            recent = e.recent;
        }
    }
    for (uint32_t s = 0; s < ev->n; s++)
        worth[s] = col[s];
    for (uint32_t s = 0; s < sinks && s < ev->n; s++)
        worth[s] = KVT_ALWAYS_KEEP;
    for (uint32_t s = ev->n > recent ? ev->n - recent : 0; s < ev->n; s++)
        worth[s] = KVT_ALWAYS_KEEP;
}

extern const kvt_policy kvt_policy_tova;
const kvt_policy kvt_policy_tova = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONLINE | KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW, .version = 1,
    .id = "tova", .title = "Token Omission Via Attention", .cite = "arXiv:2401.06104",
    .note = "The paper and its code drop any token, the newest too; impl=press protects the last prompt token. "
            "impl=easykv shares a set over the layer in prompt chunks only, and adds the stride to the budget.",
    .params = tova_params, .slot_cols = 1, .share_over = KVT_SPAN_LAYER,
    .setup = tova_setup, .score = tova_score, .begin = tova_begin, .observe = tova_observe, .worth = tova_worth,
};
