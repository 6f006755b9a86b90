/* Random. impl=uniform: an independent uniform score for every layer, cache and position
 * chooses once, at the end of the prompt; nothing is protected. What a policy must beat.
 *
 * impl=easykv (Ren and Zhu, arXiv:2402.06262): of a full cache one run of `stride` entries
 * leaves with every chunk of the prompt, one entry with every generated token; the start
 * is uniform and the same for all heads and layers. */
#include "family_easykv.h"

enum { P_IMPL, P_SCOPE, P_MODE };
enum { UNIFORM, EASYKV };
enum { PURPOSE_SCORE, PURPOSE_EVICT };
static const kvt_param_def random_params[] = {
    [P_IMPL]  = { "impl", UNIFORM, 0, 1, "uniform|easykv", 1, "reference whose details are repeated" },
    [P_SCOPE] = { "scope", 0, 0, 1, "head|model", 1, "impl=uniform: draws of their own for each cache, or the same for all" },
    KVT_EASYKV_PARAMS(P_MODE),
    { 0 }
};

static void random_setup(const kvt_job *job, kvt_setup *out)
{
    if (job->param[P_IMPL] == EASYKV) {
        kvt_easykv_setup(job, P_MODE, KVT_EASYKV_RANDOM, out);
        return;
    }
    out->caps &= ~(uint32_t)KVT_POLICY_ONLINE;
    out->nested = 1;
}

static void random_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const int shared = job->param[P_SCOPE] > 0;

    (void)ws;
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < job->n; j++)
            out->score[(size_t)c * job->n + j] = kvt_uniform(job, shared ? 0 : in->layer, shared ? 0 : c, PURPOSE_SCORE, j);
}

static void random_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    const kvt_easykv e = kvt_easykv_plan(lane->job, P_MODE, KVT_EASYKV_RANDOM);
    const uint32_t leave = ev->n - lane->capacity;
    const uint32_t starts = kvt_easykv_chunk(&e, lane->job, ev) ? ev->n - leave : ev->n;
    const uint32_t start = kvt_trunc((double)kvt_uniform(lane->job, 0, 0, PURPOSE_EVICT, ev->query) * starts);

    (void)ws, (void)col;
    for (uint32_t s = 0; s < ev->n; s++)
        worth[s] = s < start || s - start >= leave;
}

extern const kvt_policy kvt_policy_random;
const kvt_policy kvt_policy_random = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONLINE | KVT_POLICY_ONESHOT | KVT_POLICY_RANDOM | KVT_POLICY_BASELINE, .version = 1,
    .id = "random", .title = "Random", .cite = "",
    .note = "impl=easykv does not protect sinks and never takes the newest entry of a prompt chunk; in mode=encoding_decoding, "
            "where the reference fails while generating, the draw is over all entries.",
    .params = random_params,
    .setup = random_setup, .score = random_score, .worth = random_worth,
};
