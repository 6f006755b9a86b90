/* kvt_policy.h - what an eviction policy is. A policy file includes this header and
 * kvt_prim.h, and no other header of the project.
 *
 * A policy says how much each cached token is worth. It moves no memory, reads no file,
 * counts and reports nothing: the engine does that in one place for all, so two
 * policies can differ only in what they value. Every callback is pure: no allocation,
 * no I/O, no globals, no clock. Same inputs, same bits out, on any thread.
 *
 * Vocabulary. A POSITION is a token index: 0, 1, 2 ... in order of entry. A CACHE holds
 * the tokens kept for one head of one layer: a KV head, or a query head when the
 * configuration says caches=query. A LANE is what shares one choice while tokens enter:
 * a cache, or all caches of a layer. A SLOT is a place in a lane: slots 0..n-1 are taken,
 * oldest first, so slot order is position order. Each slot has .slot_cols floats that
 * belong to the policy, col[c * lane->cap + slot]; the engine zeroes them when a token
 * enters and closes the gaps when some leave.
 *
 * Legal call order per run (a NULL callback is skipped):
 *
 *   setup                             once per configuration, budget and layer
 *   score, allot                      one-shot: layer 0, 1, 2 ...; the engine keeps the best
 *   ( observe*, worth -> the lowest leave )*    where setup() asks for events in the prompt
 *   begin, [worth]                    online: each lane, when the prompt is complete
 *   ( observe, [worth] -> the lowest leave )*   online: each decode step
 *
 * A policy with score() chooses once, at the end of the prompt; one with worth() chooses
 * while tokens enter; CAKE does both. NaN in a score or a worth is a bug in the policy. */
#ifndef KVT_POLICY_H
#define KVT_POLICY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_POLICY_ABI  2u          /* changes with any struct or meaning below       */
#define KVT_ALWAYS_KEEP 1e30f       /* the score or worth of a protected token        */
#define KVT_PARAMS_MAX  16u
#define KVT_STATS       4u          /* numbers a layer may hand to allot()            */
#define KVT_ALL         UINT32_MAX  /* kvt_lane.cache of a lane shared by a layer     */
#define KVT_NO_LIMIT    UINT32_MAX

enum {                              /* .caps                                          */
    KVT_POLICY_ONESHOT = 1u << 0,   /* has score(); the prompt competes               */
    KVT_POLICY_ONLINE  = 1u << 1,   /* has worth(); prompt and generated compete      */
    KVT_POLICY_ORACLE  = 1u << 2,   /* reads the future; reports set it apart         */
    KVT_POLICY_RANDOM  = 1u << 3,   /* draws from job->key; replicated over seeds     */
    KVT_POLICY_BOUND   = 1u << 4,   /* no kept set: the engine computes it (oracle_step) */
    KVT_POLICY_BASELINE = 1u << 5,  /* always added to a replay                       */
    KVT_POLICY_CASCADE = 1u << 6    /* allot() after every layer, not after the last  */
};

enum {                              /* .needs: checked against the trace before a run; */
    KVT_NEED_WINDOW  = 1u << 0,     /* fills the pointers named. Rows of the last .window */
                                    /* prompt queries: in->win                        */
    KVT_NEED_COLSTAT = 1u << 1,     /* in->col_sum                                    */
    KVT_NEED_NU      = 1u << 2,     /* in->nu                                         */
    KVT_NEED_FUTURE  = 1u << 3,     /* oracles: in->future_sum                        */
    KVT_NEED_PROMPT  = 1u << 4,     /* queries of the whole prompt (trace with W = N): */
                                    /* in->q; events in the prompt                    */
    KVT_NEED_VALUES  = 1u << 5,     /* in->val                                        */
    KVT_NEED_ROPE    = 1u << 6      /* in->rope, for layers that rotate               */
};                                  /* keys are in every trace: in->key               */

typedef enum kvt_span { KVT_SPAN_CACHE, KVT_SPAN_LAYER, KVT_SPAN_MODEL } kvt_span;
typedef enum kvt_caches { KVT_CACHES_KV, KVT_CACHES_QUERY } kvt_caches;

/* Order among equals. LOW: the lower position comes first, then the lower cache, then the
 * lower layer. FLAT: the lower index of the flattened array (layer, cache, position).
 * HIGH: LOW from the other end. SEEDED: by draws. */
typedef enum kvt_ties { KVT_TIES_LOW, KVT_TIES_FLAT, KVT_TIES_HIGH, KVT_TIES_SEEDED } kvt_ties;
/* What "first" among equals does. Rules that name what to keep: it stays. Rules that name
 * the smallest to remove (argmin, "evict the k smallest"): it leaves. */
typedef enum kvt_first { KVT_FIRST_STAYS, KVT_FIRST_LEAVES } kvt_first;

/* SHARE: counts follow from one meaning of "budget", rounded to nearest, halves to even.
 * REFERENCE: they repeat the double truncation of the reference codes. */
typedef enum kvt_rule { KVT_RULE_SHARE, KVT_RULE_REFERENCE } kvt_rule;

typedef struct kvt_job {            /* one trace, configuration, budget and layer     */
    uint32_t n_layers;              /* that evict (with full attention)               */
    uint32_t n_q_heads, n_kv_heads; /* of the layer                                   */
    uint32_t n_caches;              /* of the layer: n_kv_heads, or n_q_heads         */
    uint32_t head_dim, value_dim;
    uint32_t n;                     /* prompt tokens                                  */
    uint32_t n_new;                 /* decode steps that come after them              */
    double   scale;                 /* logit = scale * q.k                            */
    kvt_rule rule;
    int      in_tokens;             /* the budget was given as tokens per cache       */
    double   share;                 /* of the prompt's entries, every copy counted    */
    double   tokens;                /* per cache, window and sinks in, unrounded: n share */
                                    /* over the copies; n (1 - (1 - share)) under REFERENCE */
    uint32_t keep_cache;            /* ... rounded by the rule                        */
    uint64_t keep_layer;            /* ... of all caches of the layer; not a product  */
    uint64_t keep_model;            /* ... of all layers                              */
    kvt_ties ties;
    uint64_t key;                   /* random key: SHA-256 of "seed|content_id"       */
    const double *param;            /* values in the order of .params                 */
    void    *self;                  /* kvt_policy.self                                */
} kvt_job;

static inline uint32_t kvt_group(const kvt_job *job)            /* query heads of a cache: */
{ return job->n_q_heads / job->n_caches; }                      /* c*group .. c*group+group-1 */
static inline uint32_t kvt_kv_head(const kvt_job *job, uint32_t cache)
{ return cache / (job->n_caches / job->n_kv_heads); }

typedef struct kvt_setup {          /* preset from the descriptor and the budget;     */
    uint32_t caps, needs;           /* setup() overwrites what this run does otherwise */
    uint32_t window;                /* prompt queries wanted in kvt_prompt.win        */
    size_t   ws_bytes;              /* sum of KVT_WS_BYTES() of the largest callback  */
    kvt_caches caches;              /* default of the setting caches= for these parameters */
    kvt_span rank_over;             /* one-shot scores compete in a cache, layer or model */
    kvt_span share_over;            /* one online choice per cache or per layer       */
    kvt_first first;                /* preset STAYS                                   */
    int      nested;                /* 1 = score() reads no budget and writes no count: */
                                    /* a smaller budget keeps a subset                */
    uint32_t base_planes;           /* of base(); preset 0: it is not called          */
    int      keep_all;              /* preset -1: the engine keeps everything itself when */
                                    /* the budget covers the prompt, or the prompt is not */
                                    /* longer than the window. 0, 1: the policy decides */
    int      overshoots;            /* 1 = may hold more than asked for, by its definition */
    int      uneven;                /* 1 = counts differ between caches or layers; known by */
                                    /* itself where scores compete beyond a cache     */
    uint32_t flags;                 /* KVT_FLAG_*: what a reader must know            */
    const char *refuse;             /* NULL, or why this budget is infeasible: static text */

    /* online: events in the prompt */
    uint32_t prompt_stride;         /* tokens per event; preset 0: the prompt comes at once */
    uint32_t prompt_first;          /* tokens that enter together before the first event */
    uint32_t prompt_capacity;       /* slots after an event in the prompt             */
    int      quiet;                 /* 1 = a query is observed only when its event evicts */
    /* online: every decode step */
    uint32_t capacity;              /* slots after each step; preset keep_cache if ONLINE. */
                                    /* NO_LIMIT: nothing leaves while generating      */
    int      prompt_wait;           /* 1 = no eviction before the first decode step   */
    uint32_t exempt;                /* positions below it stay and are no slots; preset 0 */
    uint32_t steps_from;            /* `steps` counts tokens from this position; preset n */
    uint32_t hide_col;              /* 0, or c + 1: a slot whose column c is not 0 stays */
                                    /* but is not attended                            */
    int      full_rows;             /* 1 = kvt_event.prob is the row of the full cache at */
                                    /* the slots, not renormalised over them          */
    int      stack;                 /* 1 = what a smaller cache holds is, at every step, */
                                    /* inside what a larger one holds: see below      */
} kvt_setup;

/* kvt_setup.stack: one run gives an online policy at every capacity (sim/stack.h).
 *
 * Theorem. At every step let a total order of all tokens seen so far be given, the same for
 * every capacity. Each cache takes the step's new token and then gives up its last ones in
 * that order until it holds its capacity. If the contents are nested in the capacity once,
 * they stay so. Proof. Let X be what a cache of capacity C holds after the token has
 * entered, and X + x the same of capacity C + 1, which holds at most one token more. The
 * new contents are the first C of X and the first C + 1 of X + x. A token among the first C
 * of X has at most C - 1 others before it in X, hence at most C in X + x: it is among the
 * first C + 1 there.
 *
 * So a policy may say 1 when worth() and observe() give a slot the same order among the
 * others whatever else is cached:
 *   - rows are full (full_rows), or not read. A row that is renormalised over the survivors
 *     is multiplied by 1 / (mass kept), which differs between capacities and, before a mean
 *     over heads, between heads;
 *   - what is protected has a constant size (sinks, a window), not a share of the capacity;
 *   - nothing is computed from the cached set: no pooling or ranking over slots, no counter
 *     that starts again; worth() changes no column and gives the same when it is called at
 *     steps without an eviction. lane->capacity is NO_LIMIT in such a run, the job that of
 *     some budget of it;
 *   - random numbers are drawn by position and step, not by place in the cache;
 *   - there is no score(), no hide_col, no prompt_wait; and with events in the prompt they
 *     leave what worth() calls the best of the whole prompt at its end.
 * Equal worths need nothing: every rule of kvt_ties orders positions, not slots. */

enum {                              /* kvt_setup.flags, stored with the cell          */
    KVT_FLAG_KEPT_ALL     = 1u << 0,/* prompt not longer than the window, or budget >= n */
    KVT_FLAG_BELOW_WINDOW = 1u << 1,/* budget below the protected tokens: ties decide */
    KVT_FLAG_CLAMPED      = 1u << 2 /* DefensiveKV: stage-1 count clamped at 0        */
};

typedef struct kvt_rope {           /* rotation of the layer's keys and queries       */
    uint32_t       dims, offset;    /* rotated channels offset .. offset + dims - 1   */
    int            interleaved;     /* pairs (2i, 2i+1) instead of (i, i + dims/2)    */
    uint32_t       n_segments;      /* rows of inv_freq                               */
    const int64_t *segment_start;   /* [n_segments] ascending: position from which a row */
                                    /* is in force; the first is 0                    */
    const double  *inv_freq;        /* [n_segments][dims / 2]                         */
    double         scaling;         /* factor in cos and sin                          */
    const char    *angle, *table;   /* "f64" "f32" "f16" "bf16": how the engine rounded */
                                    /* angles, and cos and sin                        */
    const int32_t *rotary;          /* [n + n_new] rotary position of a position      */
} kvt_rope;

typedef struct kvt_prompt {         /* one layer; a pointer is NULL unless needed     */
    uint32_t     layer;             /* index in the trace                             */
    uint32_t     slot;              /* rank among the layers that evict: 0..n_layers-1 */
    uint32_t     window;            /* rows usable through kvt_window_row(): at least */
                                    /* kvt_setup.window                               */
    const float *win;               /* [n_q_heads][window][n] softmax over all n      */
    const float *col_sum;           /* [n_q_heads][n] attention received, all queries */
    const float *nu;                /* [n_q_heads][n] L1 norm of V times Wo           */
    const double *future_sum;       /* [n_q_heads][n] over later queries              */
    const float *q;                 /* [n_q_heads][n][head_dim] after rotation        */
    const float *key;               /* KV head g: key + g * key_stride, [n][head_dim] after rotation */
    const float *val;               /* KV head g: val + g * val_stride, [n][value_dim] */
    size_t       key_stride, val_stride;
    const kvt_rope *rope;           /* NULL also where the layer does not rotate      */
    const float *base;              /* [base_planes][n_caches][n] what base() made of this layer; */
                                    /* NULL: score() makes it itself                  */
} kvt_prompt;

/* Row r of the last `window` prompt queries of a query head (r = window - 1 is the last
 * prompt token), [n]; columns behind the query's own position are 0. */
static inline const float *kvt_window_row(const kvt_job *job, const kvt_prompt *in,
                                          uint32_t head, uint32_t window, uint32_t r)
{
    return in->win + ((size_t)head * in->window + (in->window - window + r)) * job->n;
}

typedef struct kvt_choice {         /* what score() fills for one layer               */
    float    *score;                /* [n_caches][n]: write all of it                 */
    uint32_t *keep;                 /* [n_caches] preset keep_cache; for rank_over CACHE */
    uint64_t *keep_layer;           /* preset job->keep_layer; for rank_over LAYER    */
    double   *stat;                 /* [KVT_STATS] preset 0, with in->base what base() wrote; for allot() */
} kvt_choice;

typedef struct kvt_layers {         /* the layers scored so far, 0 .. n_done-1        */
    uint32_t n_done;
    uint32_t n_caches;              /* of every layer                                 */
    const double (*stat)[KVT_STATS];
} kvt_layers;

typedef struct kvt_lane {
    const kvt_job *job;
    uint32_t layer, cache;          /* cache = KVT_ALL where a layer shares the choice */
    uint32_t cap;                   /* stride of the columns, slots                   */
    uint32_t capacity;              /* slots that stay after the eviction at hand     */
} kvt_lane;

typedef struct kvt_event {          /* what a lane sees when a token has entered      */
    uint32_t        n;              /* slots taken, the newcomer last                 */
    const uint32_t *pos;            /* [n] ascending                                  */
    uint32_t        query;          /* position of the query that attended; below job->n */
                                    /* in the prompt                                  */
    const float    *prob;           /* [n] its attention, softmax over what is cached and */
                                    /* not hidden (kvt_setup.full_rows: over everything), */
                                    /* mean over the lane's query heads;              */
                                    /* NULL at the end of the prompt                  */
    uint32_t        n_heads;        /* query heads of the lane                        */
    size_t          q_stride;       /* head i: q + i * q_stride, [head_dim]; while    */
    const float    *q;              /* generating, of lanes that serve one cache      */
    const float    *key;            /* [position][head_dim] of the lane's KV head, likewise */
} kvt_event;

typedef struct kvt_ws {             /* lent scratch; kvt_ws_take() in kvt_prim.h      */
    unsigned char *base;
    size_t used, size;
} kvt_ws;
#define KVT_WS_BYTES(count, type) (((size_t)(count) * sizeof(type) + 63u) & ~(size_t)63u)

typedef struct kvt_param_def {
    const char *name;
    double      def, min, max;
    const char *choices;            /* "code|paper": the value is the index; or NULL  */
    int         integer;            /* 1 = whole numbers; 2 = odd whole numbers       */
    const char *help;               /* one line, with the unit                        */
} kvt_param_def;

/* Another default of a parameter, in force when the spec does not give it and `when` holds. */
typedef struct kvt_param_alt {
    const char *name;               /* the parameter; NULL ends the list              */
    const char *when;               /* "impl=kvpress|factory": any of these words     */
    double      def;
} kvt_param_alt;

typedef struct kvt_policy {
    uint32_t    abi;                /* KVT_POLICY_ABI                                 */
    uint32_t    caps, needs;
    uint32_t    version;            /* bump whenever any kept set can change          */
    const char *id;                 /* [a-z][a-z0-9_]*; in databases: never reuse     */
    const char *title, *cite;
    const char *note;               /* what differs between paper and code; or NULL   */
    const kvt_param_def *params;    /* ends at name == NULL; NULL = no parameters     */
    kvt_caches  caches;             /* default of the setting caches=                 */
    uint32_t    slot_cols;
    kvt_span    rank_over, share_over;
    void       *self;               /* for adapters to other languages; else NULL     */
    const kvt_param_alt *alts;      /* defaults that depend on a choice; or NULL      */

    /* Adapt *out to this run: parameters, budget, scratch size. */
    void (*setup)(const kvt_job *job, kvt_setup *out);
    /* One-shot, one layer, optional: the part of score() that reads no budget and no seed,
     * base[base_planes][n_caches][n]. It is made once for all budgets; job is that of any
     * of them. Not called for policies from files. */
    void (*base)(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *base, double *stat);
    /* One-shot, one layer: score every token of every cache, and optionally say how many
     * each keeps. A count above n means all. */
    void (*score)(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out);
    /* One-shot, across layers: keep[layer * n_caches + cache] for layers 0..n_done-1,
     * preset to what each still holds; the smaller of old and new wins. capacity[..]: the
     * decode-time capacity of each lane, preset to setup's. */
    void (*allot)(const kvt_job *job, const kvt_layers *done, uint32_t *keep, uint32_t *capacity);
    /* Online: give the columns of a lane a meaning when the prompt is complete. score:
     * this cache's row of score(), by position, or NULL. Not called after events in the
     * prompt. */
    void (*begin)(const kvt_lane *lane, const kvt_prompt *in, const float *score,
                  const kvt_event *ev, float *col);
    /* Online: learn from one query's row. No slot moves between the calls of one event. */
    void (*observe)(const kvt_lane *lane, const kvt_event *ev, float *col);
    /* Online: worth[s] for every slot; the lowest leave until `capacity` are left. May
     * update the columns. */
    void (*worth)(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth);
    /* Adapters: why the last callback of this run wrote NaN; NULL = no reason known. */
    const char *(*why)(void *self);
} kvt_policy;

/* The entry point of a policy built outside the tree (kvtrace replay --policy-plugin):
 * KVT_POLICY_PLUGIN(my_policy) once in its file, at the end. */
#ifdef __cplusplus
#define KVT_POLICY_PLUGIN(policy) \
    extern "C" const kvt_policy *kvt_policy_plugin(void) { return &(policy); }
#else
#define KVT_POLICY_PLUGIN(policy)              \
    const kvt_policy *kvt_policy_plugin(void); \
    const kvt_policy *kvt_policy_plugin(void) { return &(policy); }
#endif

size_t            kvt_policy_count(void);
const kvt_policy *kvt_policy_at(size_t i);         /* sorted by id; NULL past the end */
const kvt_policy *kvt_policy_find(const char *id); /* NULL if there is none           */

#ifdef __cplusplus
}
#endif
#endif
