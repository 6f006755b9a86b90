/* My idea: a token is worth the attention that it got lately.
 *
 * A complete policy to start from: copy it to policy_<id>.c, put your id in place of
 * "myidea" everywhere, delete the callbacks that you do not need. A policy that chooses
 * once, when the prompt is complete, needs score(); one that chooses at every decode step
 * needs worth(); this one does both. Name the paper here (arXiv id, algorithm), and the
 * commit of the reference code whose details you repeat. */
#include "kvt_prim.h"

/* Parameters: name, default, limits, choices, 1 = whole numbers, help. job->param[P_X]. */
enum { P_WINDOW, P_DECAY };
static const kvt_param_def myidea_params[] = {
    [P_WINDOW] = { "window", 8, 1, 4194304, NULL, 1, "last prompt queries that vote, and latest tokens that stay" },
    [P_DECAY]  = { "decay", 0.9, 0, 1, NULL, 0, "weight of older attention, per decode step" },
    { 0 }
};

/* Once per budget and layer: what this run wants. *out is preset; change what differs.
 * Here: how many prompt queries, how much scratch, and what a reader must know. */
static void myidea_setup(const kvt_job *job, kvt_setup *out)
{
    out->window = (uint32_t)job->param[P_WINDOW];
    out->ws_bytes = KVT_WS_BYTES(job->n, double);
    if (job->n <= out->window)
        out->needs = 0;                         /* everything stays: no query is asked      */
    else if (job->keep_cache < out->window)
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

/* One-shot, one layer: a score for every token of every cache; the engine keeps the best
 * out->keep[cache]. Here: the mean attention of the window's queries; the window stays. */
static void myidea_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n, window = (uint32_t)job->param[P_WINDOW], group = kvt_group(job);
    double *sum = kvt_ws_take(ws, n, sizeof *sum);

    for (uint32_t c = 0; c < job->n_caches; c++) {
        float *score = out->score + (size_t)c * n;

        for (uint32_t j = 0; j < n; j++)
            sum[j] = 0;
        for (uint32_t i = 0; i < group; i++)
            for (uint32_t r = 0; r < window; r++) {
                const float *row = kvt_window_row(job, in, c * group + i, window, r);
                for (uint32_t j = 0; j < n; j++)
                    sum[j] += row[j];
            }
        for (uint32_t j = 0; j < n; j++)
            score[j] = j < n - window ? (float)(sum[j] / group / window) : KVT_ALWAYS_KEEP;
        for (uint32_t j = 0; j < n - window; j++)
            out->stat[0] += score[j];           /* for allot(): attention before the window */
        out->keep[c] = n;                       /* allot() decides; without it, leave as it is */
    }
}

/* One-shot, after the last layer: how many entries every layer and cache holds now, and
 * its capacity while generating. Here: of two neighbouring layers, the one that looks
 * further back gets a quarter of what the other has besides the window. */
static void myidea_allot(const kvt_job *job, const kvt_layers *done, uint32_t *keep, uint32_t *capacity)
{
    const uint32_t window = (uint32_t)job->param[P_WINDOW], even = job->keep_cache;
    const uint32_t room = even < job->n ? job->n - even : 0, spare = even > window ? (even - window) / 4 : 0;
    const uint32_t shift = spare < room ? spare : room;

    for (uint32_t l = 0; l < done->n_done; l++) {
        const uint32_t other = (l ^ 1u) < done->n_done ? l ^ 1u : l;
        const double mine = done->stat[l][0], its = done->stat[other][0];
        const uint32_t count = mine > its ? even + shift : mine < its ? even - shift : even;

        for (uint32_t c = 0; c < done->n_caches; c++)
            keep[l * done->n_caches + c] = capacity[l * done->n_caches + c] = count;
    }
}

/* Online, once per lane when the prompt is complete: what the slots' columns start with.
 * score: this cache's row of score(), by position. */
static void myidea_begin(const kvt_lane *lane, const kvt_prompt *in, const float *score, const kvt_event *ev, float *col)
{
    (void)lane, (void)in;
    for (uint32_t s = 0; s < ev->n; s++)
        col[s] = score && score[ev->pos[s]] < KVT_ALWAYS_KEEP ? score[ev->pos[s]] : 0;
}

/* Online, once per decode step: learn from the attention that the slots have just got. */
static void myidea_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    const float decay = (float)lane->job->param[P_DECAY];

    for (uint32_t s = 0; s < ev->n; s++)
        col[s] = decay * col[s] + ev->prob[s];
}

/* Online, when a slot must go: the lowest leave until lane->capacity are left. Slots are
 * in order of position, the newest last. */
static void myidea_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    const uint32_t window = (uint32_t)lane->job->param[P_WINDOW];

    (void)ws;
    for (uint32_t s = 0; s < ev->n; s++)
        worth[s] = ev->n - s <= window ? KVT_ALWAYS_KEEP : col[s];
}

extern const kvt_policy kvt_policy_myidea;
const kvt_policy kvt_policy_myidea = {
    .abi = KVT_POLICY_ABI, .version = 1,        /* + 1 whenever a kept set can change   */
    .caps = KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE, .needs = KVT_NEED_WINDOW,
    .id = "myidea", .title = "Attention got lately", .cite = "",
    .params = myidea_params, .slot_cols = 1,    /* floats of a slot: col[]              */
    .setup = myidea_setup, .score = myidea_score, .allot = myidea_allot,
    .begin = myidea_begin, .observe = myidea_observe, .worth = myidea_worth,
};
