/* Layer-DefensiveKV: the entries of the model that were important in the worst case.
 *
 * arXiv:2510.13334; reference code FFY0/DefensiveKV 9251b95. The scores are those of
 * family_defensive.c; the best of all layers stay. No layer and no cache has a floor: the
 * window and the protected entries of a layer tie with that layer's best entry, so a weak
 * layer can lose them, and a cache can end up empty. semantics=paper keeps the window. */
#include "family_defensive.h"

static void layer_defensivekv_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    kvt__defensive_base(job, in, 1, ws, base);
}

static void layer_defensivekv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    kvt__defensive_score(job, in, 1, ws, out);
}

extern const kvt_policy kvt_policy_layer_defensivekv;
const kvt_policy kvt_policy_layer_defensivekv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW | KVT_NEED_NU, .version = 1,
    .id = "layer_defensivekv", .title = "Layer-DefensiveKV", .cite = "arXiv:2510.13334",
    .note = "To make layers comparable the paper divides the value norm by its sum over the tokens of the cache, the code by "
            "its sum over the KV heads of the token; the code also has the additions named under defensivekv.",
    .params = kvt__defensive_params, .rank_over = KVT_SPAN_MODEL,
    .setup = kvt__defensive_setup, .base = layer_defensivekv_base, .score = layer_defensivekv_score,
};
