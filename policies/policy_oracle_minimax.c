/* Oracle, fixed set for the worst step: per query head the set whose worst decode step
 * loses least, searched by multiplicative weights over the steps, with a certified bound
 * that no fixed set of that size can beat. The engine computes both from the rows: query
 * heads of one cache have sets of their own. */
#include "kvt_prim.h"

extern const kvt_policy kvt_policy_oracle_minimax;
const kvt_policy kvt_policy_oracle_minimax = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ORACLE | KVT_POLICY_BOUND | KVT_POLICY_BASELINE,
    .needs = KVT_NEED_FUTURE, .version = 1,
    .id = "oracle_minimax", .title = "Best fixed set for the worst step", .cite = "",
};
