/* bench_engine.h - the replay's own functions (rows.c, mass.c) on one synthetic layer,
 * without a trace, policies or results around them.
 *
 * Queries and keys are normal, with one sink and heavy hitters that change every 64
 * steps; the ranks of the "policies" are random permutations, and each keeps its first
 * cut[b] keys at budget b: one curve per policy. Order: kvt__rows_all, kvt__mass, bench_engine_drop. */
#ifndef KVT_BENCH_ENGINE_H
#define KVT_BENCH_ENGINE_H

#include "bench.h"
#include "replay_impl.h"

typedef struct bench_engine {
    run             r;
    kvt_source      src;
    kvt_layer_info  layer;
    kvt_replay_opts opts;
    uint32_t        n_policies, n_budgets;
    uint32_t       *cut;            /* [n_budgets]                                    */
    kvt_budget     *budget;         /* [n_budgets] the same                           */
    uint32_t       *rank;           /* [n_policies][Hkv][N]                           */
    uint8_t        *kept;           /* [n_cells][Hkv][N]                              */
} bench_engine;

/* Sizes from c; stage_bytes as in kvt_replay_opts, 0: rows are checked and summed in one pass, as
 * in a replay of curves alone. */
kvt_status bench_engine_new(bench_engine **out, const bench_conf *c, uint32_t n_budgets, size_t stage_bytes, kvt_err *err) KVT_NODISCARD;
void       bench_engine_free(bench_engine *e);
/* What kvt__rows_all has allocated; its stage stays, as between the layers of a replay. */
void       bench_engine_drop(bench_engine *e);
/* Every decode row once, into one tile per thread: the work that no replay can avoid. */
void       bench_engine_only_rows(bench_engine *e);
/* lost[G]: losses of a cell summed in double over the rows, key by key. */
void       bench_engine_plain(const bench_engine *e, uint32_t policy, uint32_t budget, uint32_t head, double *lost);
/* How far the engine's mean and maximum over the steps are from those of lost[G]. */
double     bench_engine_error(const bench_engine *e, uint32_t policy, uint32_t budget, uint32_t head, const double *lost);

#endif
