/* DefensiveKV: the entries of a layer that were important in the worst case.
 *
 * arXiv:2510.13334, Algorithms 1 and 2; reference code FFY0/DefensiveKV 9251b95. The scores
 * are those of family_defensive.c; the layer keeps the best of all its caches together. */
#include "family_defensive.h"

static void defensivekv_base(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat)
{
    (void)stat;
    kvt__defensive_base(job, in, 0, ws, base);
}

static void defensivekv_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    kvt__defensive_score(job, in, 0, ws, out);
}

extern const kvt_policy kvt_policy_defensivekv;
const kvt_policy kvt_policy_defensivekv = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_WINDOW | KVT_NEED_NU, .version = 1,
    .id = "defensivekv", .title = "DefensiveKV", .cite = "arXiv:2510.13334",
    .note = "The code adds what the paper does not describe: pooled rows get their mass back, the value norm is "
            "divided by its sum over the KV heads of the token, and the entries that hold 0.9 - rho of the mean attention are "
            "protected; rho measures the tokens before the window, meant was the window (rho=window).",
    .params = kvt__defensive_params, .rank_over = KVT_SPAN_LAYER,
    .setup = kvt__defensive_setup, .base = defensivekv_base, .score = defensivekv_score,
};
