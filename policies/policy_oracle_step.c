/* Oracle, per step: at every decode step the largest entries of that step's own row. No
 * eviction policy loses less at any step. It has no kept set: the engine computes the
 * bound from the rows. */
#include "kvt_prim.h"

static void oracle_step_setup(const kvt_job *job, kvt_setup *out)
{
    (void)job;
    out->nested = 1;
}

extern const kvt_policy kvt_policy_oracle_step;
const kvt_policy kvt_policy_oracle_step = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ORACLE | KVT_POLICY_BOUND | KVT_POLICY_BASELINE,
    .needs = KVT_NEED_FUTURE, .version = 1,
    .id = "oracle_step", .title = "Best set of every step", .cite = "",
    .setup = oracle_step_setup,
};
