/* kvt_result.h - what a replay produces, and the sink that takes it.
 *
 * A CELL is one trace under one policy configuration at one budget and seed: the unit
 * of work, of resume and of idempotence. sim/ fills these structs and knows nothing of
 * SQLite; analysis/store/ writes them under the same names (schema.sql, where every
 * column has its unit and definition in column_doc). All losses are shares of attention
 * 0..1 over non-trivial steps (those at which something can have been evicted). NaN means "not measured", stored as NULL.
 * Lists are ordered by their natural key: layer, head (KV head, agg), tau, step. */
#ifndef KVT_RESULT_H
#define KVT_RESULT_H

#include <stddef.h>
#include <stdint.h>
#include "kvt_status.h"
#include "kvt_trace.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_ENGINE_VERSION 1u       /* bump when replay semantics change              */
#define KVT_METRIC_VERSION 1u       /* bump when the definition of a number changes   */

#define KVT_N_TAU 3u
extern const double kvt_tau[KVT_N_TAU];          /* 0.5, 0.25, 0.1 */
#define KVT_MAX_RESPONSIBLE 20u

/* ---- what identifies a cell ------------------------------------------------ */

typedef struct kvt_param_value {    /* num is NaN when the parameter is a word        */
    const char *name, *word;
    double      num;
} kvt_param_value;

typedef struct kvt_config_info {    /* one policy configuration                       */
    const char *policy_id, *title, *cite;
    uint32_t    policy_version;
    const char *role;               /* "policy" "baseline" "oracle"                   */
    const char *timing;             /* "none" "prefill" "decode" "hindsight"          */
    const char *budgeted;           /* "prompt" "all"                                 */
    int         fixed_set, nested, head_adaptive, query_aware;
    const char *semantics;          /* "paper" "code" "same"                          */
    int         may_overshoot;
    const char *label;              /* short spec: what was asked for, defaults left out */
    const char *canonical_json;     /* its SHA-256 names the configuration    */
    char        sha256[65];
    const kvt_param_value *param;   /* every parameter, sorted by name                */
    uint32_t    n_param;
} kvt_config_info;

typedef struct kvt_budget_info {
    const char *kind;               /* "share" "tokens"                               */
    double      value;
    const char *rule;               /* "share" "reference"                            */
    const char *label;              /* "0.2", "28t"; "... reference" under that rule  */
} kvt_budget_info;

typedef struct kvt_cell {
    const kvt_trace_info  *trace;
    const char            *trace_path;
    const kvt_config_info *config;
    const kvt_budget_info *budget;
    uint64_t               seed;
    double                 requested_tokens;  /* budget x N, before rounding          */
    char                   key_sha256[65];
} kvt_cell;

/* Fill cell->key_sha256: SHA-256 of the text "v1|content_id|config sha256|kind:value:rule|
 * engine version|metric version|seed|cluster_id", value as the shortest decimal that
 * reads back. Equal keys are the same work. */
void kvt_cell_key(kvt_cell *cell);

/* ---- results ---------------------------------------------------------------- */

typedef struct kvt_head_result {    /* one query head: table result_head              */
    uint32_t layer, head;
    uint32_t n_step, n_trivial, n_held;
    double   lost_mean, lost_max;
    uint32_t max_step;
    double   lost_q50, lost_q90, lost_q95, lost_q99, lost_cvar95, lost_cvar99;
    uint32_t ns_n, ns_max_step;
    double   lost_ns_mean, lost_ns_max, lost_ns_q95, lost_ns_cvar95;
    double   lost_prompt_mean, lost_prompt_max;
    uint32_t err_n, err_max_step;
    double   out_err_mean, out_err_max, out_err_q95, out_err_cvar95, value_sep_mean;
    double   oracle_mean, oracle_max, fixed_mean, fixed_max, regret_mean, regret_max;
} kvt_head_result;

typedef struct kvt_kvhead_result {  /* table result_kvhead                            */
    uint32_t layer, kv_head;
    int      agg_mean;              /* 0 = max over the group per step, 1 = mean      */
    uint32_t n_held;
    double   lost_mean, lost_max;
    uint32_t max_step;
    double   lost_q95, lost_cvar95, lost_ns_mean, lost_ns_max, lost_ns_cvar95, out_err_cvar95;
} kvt_kvhead_result;

typedef struct kvt_layer_result {   /* table result_layer                             */
    uint32_t layer;
    double   held_mean, lost_mean, lost_worst;
    uint32_t worst_head;
    double   cvar95_worst_head;
} kvt_layer_result;

typedef struct kvt_tau_result {     /* table result_head_tau                          */
    uint32_t layer, head, tau;      /* tau: index into kvt_tau                        */
    uint32_t n_exceed, n_infeasible, n_run, longest_run;
    uint32_t longest_start;         /* valid when n_run > 0                           */
    uint32_t first_step;            /* valid when n_exceed > 0                        */
    double   excess_area;
} kvt_tau_result;

typedef enum kvt_cause {
    KVT_CAUSE_INFEASIBLE, KVT_CAUSE_SINK_EVICTED, KVT_CAUSE_LATE_BLOOMER,
    KVT_CAUSE_SELECTION, KVT_CAUSE_NEW_TOKEN, KVT_CAUSE_MIXED
} kvt_cause;
const char *kvt_cause_name(kvt_cause c);

typedef struct kvt_responsible {    /* table violation_token                          */
    uint32_t pos;
    double   mass_share;
    int32_t  evicted_step;          /* -1 = at the prefill eviction                   */
    uint32_t rank;                  /* 1 = best when the choice was made; 0 = unknown */
    double   score, score_margin;   /* NaN = unknown                                  */
    int32_t  last_important;        /* -1 = in the window, -2 = never                 */
    int32_t  idle_steps;            /* -1 = never important                           */
} kvt_responsible;

typedef struct kvt_violation {      /* table violation                                */
    uint32_t  layer, head, tau, start_step, n_step, peak_step;
    double    peak_lost, peak_oracle_lost, excess_area;
    kvt_cause cause;
    int       foreseeable, recurrent;            /* -1 = not determined               */
    double    share_top1, share_top5, share_top20; /* NaN = not determined            */
    uint32_t  n_responsible;
    const kvt_responsible *responsible;
} kvt_violation;

typedef struct kvt_ladder_result {  /* one query head of oracle_minimax: tables ladder_head, minimax_cert */
    uint32_t layer, head, n_keep, n_step, n_trivial;
    double   oracle_mean, oracle_max, fixed_mean, fixed_max, random_mean;
    uint32_t oracle_max_step;
    double   minimax_bound, minimax_found;
    uint32_t minimax_iters;
    const char *minimax_stop;       /* "trivial" "certified" "fractional" "limit"     */
    uint32_t bound_q31;             /* of the weights alone                           */
    uint32_t n_lambda;              /* steps that count; 0 = everything fits: no certificate */
    uint32_t *lambda;               /* [n_lambda] weights x 2^31, sum 2^31            */
    uint32_t *best_set;             /* [n_keep] positions, ascending                  */
} kvt_ladder_result;

typedef struct kvt_series {         /* table result_series: one value per step        */
    uint32_t        layer, head;
    const char     *metric;         /* "lost" "oracle"                                */
    uint32_t        step0, n;
    const uint32_t *q31;            /* value x 2^31                                   */
} kvt_series;

typedef struct kvt_check {          /* table validity                                 */
    const char *name, *status;      /* schema's check_name; "ok" "warn" "fail"        */
    double      value, limit;       /* NaN = none                                     */
    char        message[200];
} kvt_check;

typedef struct kvt_result {
    uint32_t n_head_total;
    double   held_share, held_mean;
    uint32_t held_min, held_max;
    uint64_t bytes_logical, bytes_physical;
    double   tie_share, row_defect_max;
    double   lost_mean, lost_worst;
    uint32_t worst_layer, worst_head, worst_step;
    double   cvar95_mean, cvar95_worst_head, lost_ns_worst, ns_cvar95_worst;
    const char *out_err_basis;      /* "none" "v"                                     */
    double   out_err_worst, oracle_worst, regret_mean;
    uint32_t n_violation_total;     /* over all thresholds and heads                  */
    uint32_t flags;                 /* KVT_FLAG_* of kvt_policy.h                     */
    double   wall_s;                /* not part of the content                        */

    const kvt_head_result   *head;      size_t n_head;
    const kvt_kvhead_result *kvhead;    size_t n_kvhead;
    const kvt_layer_result  *layer;     size_t n_layer;
    const kvt_tau_result    *tau;       size_t n_tau;
    const kvt_violation     *violation; size_t n_violation;
    const kvt_series        *series;    size_t n_series;
    const kvt_ladder_result *ladder;    size_t n_ladder;   /* oracle_minimax only     */
    const kvt_check         *check;     size_t n_check;
} kvt_result;

/* ---- curves: one configuration and seed at every budget of a grid ------------- */

/* Statistics over the decode steps, value x 2^31: the mean, the 95 % quantile (`higher`),
 * the mean of the worst 5 % and the largest of `lost`. */
enum { KVT_CURVE_MEAN, KVT_CURVE_Q95, KVT_CURVE_CVAR95, KVT_CURVE_MAX, KVT_CURVE_METRICS };
extern const char *const kvt_curve_metric[KVT_CURVE_METRICS];   /* "lost_mean" "lost_q95" "lost_cvar95" "lost_max" */

typedef struct kvt_curve_id {       /* what identifies a curve                        */
    const kvt_trace_info  *trace;
    const char            *trace_path;
    const kvt_config_info *config;
    uint64_t               seed;
    const uint32_t        *kept;    /* [n_point] entries asked for per KV head, strictly ascending: the budgets "<kept>t" or,
                                     * where every query head has a cache of its own, the share kept / n */
    uint32_t               n_point;
} kvt_curve_id;

typedef struct kvt_curve_row {      /* a head; a layer (head -1); the model (both -1) */
    int32_t         layer, head;
    const uint32_t *q31;            /* [KVT_CURVE_METRICS][n_point]. Layer and model: lost_mean is the mean over the heads, the
                                     * others the largest of any head                 */
    uint32_t        n_not_nested;   /* neighbours on the grid of which the smaller kept set is not inside the larger; layer
                                     * and model: summed over heads                   */
} kvt_curve_row;

typedef struct kvt_sink_ops {
    const char *name;               /* "sqlite", "memory"                             */
    /* *todo = 1: this cell is to be computed (and is marked as running); 0: a result is
     * already there. */
    kvt_status (*claim)(void *self, const kvt_cell *cell, int *todo, kvt_err *err);
    /* All of the cell or nothing. */
    kvt_status (*store)(void *self, const kvt_cell *cell, const kvt_result *r, kvt_err *err);
    kvt_status (*fail)(void *self, const kvt_cell *cell, const char *why, kvt_err *err);
    /* The same for curves. A curve that is there with another grid is replaced. Rows come
     * by layer and head, the layer's after its heads, the model's last. Only called when
     * the replay was asked for curves. */
    kvt_status (*curve_claim)(void *self, const kvt_curve_id *id, int *todo, kvt_err *err);
    kvt_status (*curve_store)(void *self, const kvt_curve_id *id, const kvt_curve_row *row, size_t n_row, kvt_err *err);
} kvt_sink_ops;

typedef struct kvt_sink {
    const kvt_sink_ops *ops;
    void               *self;
} kvt_sink;

#ifdef __cplusplus
}
#endif
#endif
