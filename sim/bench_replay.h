/* bench_replay.h - a whole replay as one repetition: a trace (made from the seed, or
 * given), one-shot policies at many budgets, results dropped or put into a database. */
#ifndef KVT_BENCH_REPLAY_H
#define KVT_BENCH_REPLAY_H

#include "bench.h"
#include "kvt_sim.h"

enum { BENCH_STORE = 1, BENCH_CURVES = 2 };     /* curves over so many budgets, instead of cells */
enum { BENCH_POLICIES_MAX = 16, BENCH_BUDGETS_MAX = 256 };

typedef struct bench_replay {
    kvt_source      src;
    kvt_config     *config[BENCH_POLICIES_MAX];
    kvt_budget      budget[BENCH_BUDGETS_MAX];
    kvt_replay_opts opts;
    uint32_t        n_config, n_budget;
    uint32_t        n_cells;        /* combinations that can run                      */
    int             how;            /* BENCH_STORE: into a new database, else dropped; BENCH_CURVES */
    char            path[1024];     /* the trace, when it was made here               */
    char            db[1024];
} bench_replay;

/* name: of the files in c->dir; how: BENCH_* or 0. */
kvt_status bench_replay_new(bench_replay **out, const bench_conf *c, const char *name, int how, kvt_err *err) KVT_NODISCARD;
void       bench_replay_free(bench_replay *w);
kvt_status bench_replay_once(void *arg, double *s, kvt_err *err);      /* a bench_fn */
/* Sizes that a bench takes by itself; those of --trace in its place. */
kvt_status bench_replay_sizes(bench_conf *c, uint32_t n, uint32_t steps, uint32_t policies, uint32_t budgets, kvt_err *err) KVT_NODISCARD;

#endif
