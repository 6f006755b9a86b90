/* Full cache: evicts nothing, whatever the budget; its loss is 0. It has neither score()
 * nor worth(), which is how the engine knows that everything stays. */
#include "kvt_prim.h"

static void full_setup(const kvt_job *job, kvt_setup *out)
{
    (void)job;
    out->nested = 1;
}

extern const kvt_policy kvt_policy_full;
const kvt_policy kvt_policy_full = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_BASELINE, .version = 1,
    .id = "full", .title = "Full cache", .cite = "",
    .setup = full_setup,
};
