/* replay_impl.h - what the files of one replay share; private to sim/.
 *
 * Work goes layer by layer; inside a layer the threads share heads, lanes and cells:
 *
 *   prompt.c    K, Q, statistics of the layer; window rows
 *   defer.c     before all: sets that need every layer's scores
 *   oneshot.c   score -> choose -> kept sets
 *   rows.c      decode rows, as tiles of 16 steps; each row is checked to sum to 1
 *   bounds.c    per head: column sums, per-step oracle, best fixed set
 *   ladder.c    per head: the fixed set for the worst step, with a bound
 *   mass.c      per head: evicted mass of every one-shot cell, split by kind of entry
 *   output_error.c  per head: error of the attention output of one-shot cells
 *   curve.c     statistics of the cells that are points of a curve
 *   lane.c      online policies, step by step
 *   violation.c per head: runs above tau, causes, responsible entries
 *   gather.c    series -> rows of results; cells -> sink
 *
 * Tiles of as many heads of a layer as fit stage_bytes are kept, the others are computed
 * again where they are needed: the same bits. */
#ifndef KVT_REPLAY_IMPL_H
#define KVT_REPLAY_IMPL_H

#include "kvt_sim.h"
#include "measure.h"
#include "pool.h"

#define KVT_N_SINK       4u         /* positions that lost_ns leaves out               */
#define KVT_OBSERVE      32u        /* last prompt rows that define "late bloomer"     */
#define KVT_HUGE_PAGE    ((size_t)2 << 20)
#define KVT_ERR_EVERY    8u         /* output error: every 8th step                    */
#define KVT_SERIES_WORST 32u        /* heads of a cell whose series are stored         */
#define KVT_DEFECT_REDO  2e-5       /* recompute the head's log-sum-exp                */
#define KVT_DEFECT_BAD   2e-3       /* reject the trace                                */

/* How the evicted mass of a step is split. */
enum { PART_SINK, PART_SELECTION, PART_LATE, PART_NEW, N_PARTS };

typedef struct run_cell {           /* one cell of this replay                         */
    kvt_cell          id;
    const kvt_config *config;
    const kvt_budget *budget;
    int      measured;              /* 0: only its kept sets are wanted                */
    int      online, bound, full;   /* online: tokens leave while generating; bound: no set */
    int      curve;                 /* a point of a curve: only statistics of its losses ... */
    uint32_t curve_at, point;       /* ... of curve run.curve[curve_at]                */
    int      minimax;               /* a set of its own per query head: see ladder.c   */
    int      in_prompt;             /* a lane that acts in the prompt makes its set    */
    int      deferred;              /* its sets need all layers: see defer.c           */
    uint32_t window;                /* prompt rows that some layer of it looks at      */
    uint32_t score_of;              /* index of the cell whose scores this one uses    */
    struct defer_layer *defer;      /* [n_layers_full] or NULL: see defer.c            */
    double   *defer_stat;           /* [n_layers_full][KVT_STATS]                      */
    uint32_t *defer_capacity;       /* [n_layers_full][n_caches]                       */

    /* the layer at hand */
    kvt_job   job;
    kvt_setup setup;
    uint8_t  *kept;                 /* [n_caches][n] after the prompt; minimax: [H][n] */
    uint32_t *n_held;               /* [n_caches] count that losses are measured at: held, or the capacity */
    uint32_t *n_prompt;             /* [n_caches] held after the prompt                */
    float    *score;                /* [n_caches][n] or NULL: see score_of             */
    float    *base;                 /* what base() made, at cell base_of; see kvt_prompt.base */
    double    base_stat[KVT_STATS];
    uint32_t  base_of;              /* itself, or an earlier cell of the same configuration */
    uint32_t *keep;                 /* [n_caches] how many score() wants kept          */
    uint64_t  keep_layer;
    float     last_kept, first_dropped;   /* scores at the cut, for kept sets          */
    double   *part;                 /* [H][G][N_PARTS] evicted mass                    */
    double   *err;                  /* [H][n_err] output error, or NULL                */
    double   *sep;                  /* [H][n_err] value separation                     */
    struct vio_list *vio;           /* [H]                                             */

    /* all layers */
    uint64_t  n_tied, n_kept_all;   /* for tie_share                                   */
    uint64_t  held_sum, held_caches_kv, bytes_held;
    double    want_sum, want_slack; /* tokens asked for, of the same KV heads; rounding */
    uint32_t  held_min, held_max;
    uint32_t  flags;
    double    wall_s;
    kvt_head_result   *head;        /* [n_heads_all]                                   */
    kvt_kvhead_result *kvhead;      /* [n_kv_all][2]                                   */
    kvt_layer_result  *layer;       /* [n_layers_full]                                 */
    kvt_tau_result    *tau;         /* [n_heads_all][KVT_N_TAU]                        */
    kvt_ladder_result *ladder;      /* [n_heads_all] or NULL: minimax                  */
    uint32_t          *lost_q31;    /* [n_heads_all][G]                                */
    uint32_t          *oracle_q31;  /* [n_heads_all][G]                                */
    struct vio_list   *all_vio;     /* one list, in order                              */
} run_cell;

typedef struct vio_list {           /* violations and their responsible entries        */
    kvt_violation   *v;
    uint32_t         n, cap;
    kvt_responsible *r;             /* v[i].responsible is set from r_at when it ends  */
    uint32_t        *r_at;          /* [cap] first entry of v[i] in r                  */
    uint32_t         n_r, cap_r;
} vio_list;

typedef struct unit {               /* one-shot cells of one configuration and seed    */
    uint32_t *cell;                 /* [n_named + n_curve] both by ascending budget    */
    uint32_t  n_named, n_curve;
} unit;

typedef struct run_curve {          /* one configuration and seed at every point of a grid */
    kvt_curve_id id;
    uint32_t *kept;                 /* [n_point]                                       */
    uint32_t *q31;                  /* [n_heads_all][KVT_CURVE_METRICS][n_point]       */
    uint32_t *not_nested;           /* [n_heads_all]                                   */
} run_curve;

struct lane;

typedef struct layer_run {          /* the layer at hand                               */
    const kvt_layer_info *info;
    uint32_t  layer, slot;          /* layer index; index among the layers that evict  */
    uint32_t  H, Hkv, group, d, d_v;
    uint32_t  head0, kv0;           /* index of its first head, KV head over all layers */
    float    *k;                    /* [Hkv][T][d]                                     */
    float    *q_prompt;             /* [H][n_q][d] queries of the last prompt tokens   */
    float    *q;                    /* [H][G][d] queries of the decode steps           */
    double   *lse;                  /* [H][G]                                          */
    double   *sink_share;           /* [H][G] share of the learned sink, or NULL       */
    float    *v;                    /* [Hkv][T][d_v], where something needs it         */
    kvt_rope  rope;                 /* dims 0: the layer does not rotate, or nobody asks */
    double   *o_norm;               /* [H][n_err] norm of the full-cache output, with v */
    float    *nu, *col_sum;         /* [H][N] or NULL                                  */
    float    *win;                  /* [H][window][N]                                  */
    uint32_t *win_rank;             /* [H][N] 0 = best by the mean of the last rows    */
    uint32_t  n_staged;             /* heads whose tiles are in run.stage              */
    float    *one;                  /* [H][T][16] when not all heads are staged        */
    /* bounds */
    double   *col;                  /* [H][T] column sums over decode rows, own entry left out */
    double   *prompt_mass, *ns_mass;/* [H][G] row mass on the prompt, off the sinks    */
    double   *defect;               /* [H] largest that remains                        */
    uint8_t  *lse_redone;           /* [H]                                             */
    uint32_t *b_prompt, *b_all;     /* [Hkv or H] distinct counts: see bounds.c        */
    uint32_t  n_b_prompt, n_b_all;  /* sorted ascending, shared by all heads           */
    uint32_t *oracle_prompt, *oracle_all;  /* [H][n_b][G] Q1.31                        */
    uint32_t *fixed_prompt, *fixed_all;
    struct lane *lane;
    uint32_t  n_lanes;
} layer_run;

typedef struct run {
    kvt_source            *src;
    const kvt_trace_info  *info;
    const kvt_replay_opts *opts;
    kvt_sink               sink;
    const kvt_kernels     *kern;
    kvt_pool              *pool;
    uint32_t  N, G, T, n_blocks, n_err;
    uint32_t  window;               /* prompt rows that are turned into window rows    */
    uint32_t  n_q;                  /* prompt queries in L.q: window, or all           */
    uint32_t  need;                 /* KVT_NEED_* of all cells                         */
    int       once;                 /* only mass.c looks at decode rows: they are checked and summed in one pass */
    uint32_t  n_layers_full, n_heads_all, n_kv_all;
    uint32_t  n_heads_most;         /* of one layer                                    */
    float    *stage;                /* [n_stage][n_blocks][T][16], used again by every layer; or NULL */
    uint32_t  n_stage;
    run_cell *cell;
    uint32_t  n_cells;
    unit     *unit;
    uint32_t  n_units;
    kvt_budget *grid;               /* [2 n_grid] budgets of the curves: in tokens, the same as shares */
    uint32_t  n_grid;
    run_curve *curve;
    uint32_t  n_curves;
    double    defect_max;           /* of all layers so far                            */
    uint8_t  *lse_redone_layers;    /* [n_layers_full]                                 */
    layer_run L;
    /* per thread */
    void    **scratch;              /* [threads] scratch_bytes                         */
    size_t    scratch_bytes;
    /* first failure of a parallel part */
    kvt_status *item_status;        /* [items]                                         */
    kvt_err    *item_err;
} run;

/* prompt.c */
kvt_status kvt__layer_load(run *r, uint32_t layer, uint32_t slot, kvt_err *err);
void       kvt__layer_free(run *r);
/* Rows of 16 prompt queries as a tile[N][16], each normalised by its own sum; sink[16]:
 * share of the learned sink. scratch: (d + N) * 16 doubles. */
void       kvt__prompt_tile(const run *r, uint32_t head, uint32_t block, float *tile, double *scratch, double *sink);
/* rows.c */
/* Checks the sums of all rows and stages tiles; with run.once only makes room. */
kvt_status kvt__rows_all(run *r, kvt_err *err);
/* Rows of one head, each block checked and then handed to each(); all again when the head's
 * log-sum-exp had to be recomputed. The outcome is in item_status. */
typedef void (*kvt_rows_fn)(void *user, uint32_t head, uint32_t block, const float *tile);
void       kvt__rows_head(run *r, uint32_t head, uint32_t thread, kvt_rows_fn each, void *user);
const float *kvt__tile(const run *r, uint32_t head, uint32_t block, float *scratch);
void       kvt__own_lse(const run *r, uint32_t head, double *scratch);
/* plan.c */
void kvt__job(const kvt_config *config, const kvt_budget *budget, const kvt_trace_info *info, uint32_t layer, uint64_t key,
              kvt_job *job);
void kvt__setup(const kvt_policy *policy, const kvt_job *job, kvt_setup *out);
int  kvt__keeps_all(const kvt_job *job, const kvt_setup *setup);
/* Does anybody look at window rows for it? Not where everything stays anyway. */
int  kvt__reads_window(const kvt_policy *policy, const kvt_job *job, const kvt_setup *setup);
/* oneshot.c */
kvt_status kvt__jobs(run *r, kvt_err *err);              /* job, setup of every cell      */
kvt_status kvt__choose_sets(run *r, int oracles, kvt_err *err);
void       kvt__prompt_view(const run *r, const double *future, kvt_prompt *out);   /* what score() and begin() see */
/* base() of the configurations of the cells list[n], once each, into the cells. */
kvt_status kvt__bases(run *r, const uint32_t *list, uint32_t n, const kvt_prompt *in, kvt_err *err);
/* score() of one cell on the layer at hand: c->score, c->keep, c->keep_layer, stat. */
kvt_status kvt__score(const run *r, run_cell *c, const kvt_prompt *in, double *stat, kvt_err *err);
/* defer.c: first pass over all layers, for sets that need them. */
kvt_status kvt__defer(run *r, kvt_err *err);
void       kvt__defer_free(run *r, run_cell *c);
/* Sets of the layer at hand into kept, n_held, score (for begin()). */
void       kvt__defer_take(const run *r, run_cell *c);
uint32_t   kvt__defer_capacity(const run *r, const run_cell *c, uint32_t cache);
/* bounds.c */
/* Does some cell look at them? Points of curves of ordinary policies do not. */
int        kvt__wants_bounds(const run *r);
kvt_status kvt__bounds(run *r, kvt_err *err);
uint32_t   kvt__held(const run *r, const run_cell *c, uint32_t head);   /* count a head is measured at */
const uint32_t *kvt__oracle_of(const run *r, const run_cell *c, uint32_t head);
const uint32_t *kvt__fixed_of(const run *r, const run_cell *c, uint32_t head);
/* ladder.c */
/* Counts that are searched whatever the budgets of the run, ascending; returns how many. */
#define KVT_LADDER_ANCHORS 6u
uint32_t   kvt__ladder_anchors(const run *r, uint32_t out[KVT_LADDER_ANCHORS]);
kvt_status kvt__ladder(run *r, kvt_err *err);
void       kvt__ladder_free(const run *r, run_cell *c);
/* bounds.c: losses of the per-step oracle at a listed count of the prompt family. */
const uint32_t *kvt__oracle_at(const run *r, uint32_t head, uint32_t count);
/* mass.c */
kvt_status kvt__mass(run *r, kvt_err *err);
/* output_error.c */
/* Errors of one-shot cells at the steps of a block that have one: err, sep of the cells, o_norm. */
kvt_status kvt__output_errors(run *r, uint32_t head, uint32_t block, const float *tile, kvt_err *err);
/* |o - o'| / |o| with o' = o_kept / kept_mass (1 when nothing is kept), and that over
 * `lost` (NaN when nothing is lost). */
void       kvt__output_error(const double *o, const double *o_kept, uint32_t d_v, double kept_mass, double lost,
                             double *err, double *sep);
/* curve.c: before the layers; for each layer; behind the layers */
kvt_status kvt__curve_grid(run *r, size_t n_most, kvt_err *err);    /* room for so many curves */
/* A curve of a configuration over those points at which it is defined; *n_point = 0: there
 * is none, or the sink has it. point[n_grid]: their places in run.grid. */
kvt_status kvt__curve_new(run *r, const kvt_config *config, uint64_t seed, uint32_t *point, uint32_t *n_point, kvt_err *err);
kvt_status kvt__curve_alloc(run *r, kvt_err *err);
void       kvt__curve_not_nested(run *r, const run_cell *c, uint32_t head, uint32_t n);
/* Statistics of lost[n][G] of the points cell[n], one query head. */
kvt_status kvt__curve_losses(run *r, const uint32_t *cell, uint32_t n, uint32_t head, const uint32_t *lost, kvt_err *err);
kvt_status kvt__curve_layer(run *r, kvt_err *err);       /* points that are online or bounds */
kvt_status kvt__store_curves(run *r, kvt_err *err);
void       kvt__curve_free(run *r);
/* lane.c */
kvt_status kvt__lanes_prompt(run *r, kvt_err *err);      /* make the lanes; events in the prompt */
kvt_status kvt__lanes(run *r, kvt_err *err);             /* decode                         */
void       kvt__lane_counts(run *r);
void       kvt__lanes_free(run *r);
/* violation.c */
kvt_status kvt__violations(run *r, kvt_err *err);
void       kvt__vio_free(vio_list *l);
kvt_status kvt__vio_move(vio_list *to, vio_list *from);  /* append, empty `from`          */
/* gather.c */
void       kvt__series(run *r);                          /* lost and oracle, before the violations */
kvt_status kvt__gather_layer(run *r, kvt_err *err);
kvt_status kvt__store_cells(run *r, kvt_err *err);

/* Trivial steps of a cell: leading ones (prompt: all or none). */
uint32_t kvt__n_trivial(const run *r, const run_cell *c);
/* Cache of a query head under the cell's configuration. */
static inline uint32_t kvt__cache_of(const run_cell *c, uint32_t head) { return head / kvt_group(&c->job); }
/* [N] what a query head finds of the prompt after it. */
static inline uint8_t *kvt__kept_of(const run *r, const run_cell *c, uint32_t head)
{
    return c->kept + (size_t)(c->minimax ? head : kvt__cache_of(c, head)) * r->N;
}

#endif
