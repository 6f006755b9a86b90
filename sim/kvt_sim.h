/* kvt_sim.h - replay: one trace x policy configurations x budgets -> cells in a sink.
 *
 * Open loop: Q, K and V come from a full-cache run; evicting here changes no later
 * hidden state. Results do not depend on the number of threads or the instruction set.
 *
 * Order of a caller: parse configurations and budgets; open a source; kvt_plan_check()
 * says which combinations cannot run and why, before any work; kvt_replay(). */
#ifndef KVT_SIM_H
#define KVT_SIM_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include "kvt_kernels.h"
#include "kvt_policy.h"
#include "kvt_result.h"
#include "kvt_trace.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- configurations: "id:param=value,param=value,..." (config.c) ---------------- */

typedef struct kvt_config {         /* owned by the caller of kvt_config_parse        */
    const kvt_policy *policy;
    double            param[KVT_PARAMS_MAX];   /* order of policy->params             */
    kvt_caches        caches;
    uint32_t          caps;         /* KVT_POLICY_* in force with these parameters    */
    const char       *refuse;       /* why half of a prompt of 1024 is no budget for them; or NULL */
    int               paper;        /* semantics=paper                                */
    kvt_ties          ties;
    uint32_t          keep_first, keep_last;   /* protection laid over the policy     */
    uint32_t          steps;        /* kept sets are read after that many decode steps */
    kvt_config_info   info;
} kvt_config;

/* EARG with the list of what exists for an unknown policy, parameter or value. Besides
 * the policy's own parameters every spec takes caches=kv|query (policies that rank per
 * cache), semantics=code|paper (paper only where the policy has that parameter), ties=,
 * keep_first=N and keep_last=N (the first tokens, and the latest, stay whatever the policy
 * says, inside the budget) and, online, steps=N. */
kvt_status kvt_config_parse(kvt_config **out, const char *spec, kvt_err *err) KVT_NODISCARD;
void       kvt_config_free(kvt_config *c);      /* NULL is fine */
double     kvt_config_param(const kvt_config *c, const char *name, double otherwise);

/* ---- budgets: "0.2" a share, "28t" tokens per cache (budget.c) ------------------- */

typedef struct kvt_budget {
    kvt_budget_info info;           /* strings point into text                        */
    char            text[48];
    int             in_tokens;
    double          value;
    kvt_rule        rule;
} kvt_budget;

/* A share is > 0 and <= 1, a token count a whole number >= 1. EARG otherwise. */
kvt_status kvt_budget_parse(kvt_budget *out, const char *spec, kvt_rule rule, kvt_err *err) KVT_NODISCARD;
/* Integer counts for one layer: SHARE rounds the exact product to nearest, halves to even;
 * REFERENCE truncates n * (1 - cr) in double, cr = 1 - budget, as the reference codes do. */
/* Reads n, heads, caches of job and the KV heads of all layers that evict; fills in_tokens,
 * share, tokens, keep_*. uniform: all layers have job->n_kv_heads. */
void kvt_budget_counts(const kvt_budget *b, uint32_t n_kv_heads_model, int uniform, kvt_job *job);
/* Nearest integer to b N, halves to even: what a uniform policy holds. A step at which that
 * covers every evictable entry is trivial and counts in no mean, rate or quantile. */
uint32_t kvt_budget_uniform(const kvt_budget *b, uint32_t n_prompt);

/* The grid of a curve: n_point counts from 1 to 99 % of the prompt in equal ratios, rounded
 * to whole tokens and at least 1, each once, ascending; every count below the prompt when
 * n_point is not less than that. Returns how many there are. out: n_point entries. */
#define KVT_CURVE_POINTS     32u
#define KVT_CURVE_POINTS_MAX 1024u
uint32_t kvt_curve_grid(uint32_t n_prompt, uint32_t n_point, uint32_t *out);
/* text[32] = kept / n_prompt as a budget: the smallest decimal of 12 places above it, so that
 * neither rounding nor truncation gives less than is asked for. */
void     kvt_curve_share(char *text, uint32_t kept, uint32_t n_prompt);

/* key = first 64 bits of SHA-256 of the text "seed|content_id". */
uint64_t kvt_random_key(uint64_t seed, const char *content_id);

/* ---- choosing (choose.c) ---------------------------------------------------------- */

typedef struct kvt_chosen {
    uint64_t n_held, n_tied;        /* all caches; kept entries equal to the first rejected score of their head */
    float    last_kept, first_dropped;   /* scores at the cut that was closest; NaN = none */
} kvt_chosen;

typedef struct kvt_strip {          /* the prompt entries of one cache                */
    const float *score;             /* [n]                                            */
    uint8_t     *kept;              /* [n] becomes 0/1                                */
    uint32_t     layer, cache;
} kvt_strip;

/* Keep the best `keep` entries of the strips taken as one list; equals by job->ties and
 * `first`. scratch: n_strips * (n + 1) entries. */
void kvt_choose_cut(const kvt_job *job, kvt_first first, const kvt_strip *strip, uint32_t n_strips, uint64_t keep,
                    uint32_t *scratch);

/* Keep the best of score[n_caches][n]: keep[c] of each cache (above n: all), or keep_layer
 * over the layer. kept[n_caches][n] becomes 0/1, n_held[n_caches] the counts. scratch:
 * n_caches * (n + 1) entries. */
void kvt_choose(const kvt_job *job, const kvt_setup *setup, uint32_t layer, const float *score, const uint32_t *keep,
                uint64_t keep_layer, uint8_t *kept, uint32_t *n_held, uint32_t *scratch, kvt_chosen *out);
/* The same report for sets that are already chosen: *out from score and kept. */
void kvt_choose_report(const kvt_job *job, kvt_span span, const float *score, const uint8_t *kept, uint32_t *n_held,
                       kvt_chosen *out);

/* ---- replay ------------------------------------------------------------------------ */

typedef struct kvt_kept_set {       /* borrowed during the call                       */
    const kvt_config *config;
    const kvt_budget *budget;
    uint64_t          seed;
    uint32_t          layer, cache;
    int64_t           step;         /* -1: a one-shot policy; else decode steps done  */
    const uint32_t   *pos;          /* ascending                                      */
    uint32_t          n;
    float             last_kept, first_dropped; /* scores at the cut; NaN = no cut    */
} kvt_kept_set;
/* Called from one thread, in order of layer, configuration, budget, seed, cache, step. */
typedef kvt_status (*kvt_kept_fn)(void *user, const kvt_kept_set *set, kvt_err *err);

typedef struct kvt_replay_opts {
    const kvt_config *const *config;
    uint32_t                 n_config;
    const kvt_budget        *budget;
    uint32_t                 n_budget;
    uint32_t                 n_curve;      /* points of the budget grid for curves; 0 = no curves. At most KVT_CURVE_POINTS_MAX */
    uint64_t                 seed;         /* first seed of KVT_POLICY_RANDOM policies */
    uint32_t                 n_seeds;      /* 0 = 5                                    */
    uint32_t                 n_threads;    /* 0 = cores                                */
    const kvt_kernels       *kernels;      /* NULL = the widest                        */
    int                      output_error; /* 1: every 8th step (needs V)              */
    size_t                   stage_bytes;  /* rows of a layer are kept up to this size, the rest
                                            * computed again (same bits); 0 = kvt_stage_default() */
    kvt_kept_fn              kept;         /* NULL = not wanted                        */
    void                    *kept_user;
    uint32_t                 kept_every;   /* online: also every so many steps; 0 = only `steps` */
    const volatile sig_atomic_t *cancel;   /* NULL = never                             */
    void (*progress)(void *user, uint32_t layers_done, uint32_t n_layers);
    void                    *progress_user;
} kvt_replay_opts;

/* A quarter of the machine's memory, 2 GiB at most. */
size_t kvt_stage_default(void);

/* Can this configuration run at this budget? KVT_OK; ENEED: the trace lacks a dataset, which
 * is named with how to capture it; EARG: the policy is not defined at this budget, with
 * the smallest budget that works. */
kvt_status kvt_plan_check(const kvt_trace_info *info, const kvt_config *config, const kvt_budget *budget,
                          kvt_err *err) KVT_NODISCARD;
/* ENEED: the output error needs values that the trace lacks. */
kvt_status kvt_plan_check_values(const kvt_source *src, kvt_err *err) KVT_NODISCARD;
/* The whole trace: complete, G > 0, at least one layer with full attention that can be
 * recomputed. */
kvt_status kvt_plan_check_trace(const kvt_source *src, kvt_err *err) KVT_NODISCARD;

/* Combinations that kvt_plan_check() refuses are skipped. sink.ops == NULL: nothing is
 * measured, only kept sets are made. ECHECK when a row does not sum to 1 within 2e-3. */
kvt_status kvt_replay(kvt_source *src, const kvt_replay_opts *opts, kvt_sink sink, kvt_err *err) KVT_NODISCARD;

#ifdef __cplusplus
}
#endif
#endif
