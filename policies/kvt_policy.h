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
 * configuration says caches=query. A LANE is what shares one decode-time choice: a
 * cache, or all caches of a layer. A SLOT is a place in a lane: slots 0..n-1 are taken,
 * oldest first, so slot order is position order. Each slot has .slot_cols floats that
 * belong to the policy, col[c * lane->cap + slot]; the engine zeroes them when a token
 * enters and closes the gaps when some leave.
 *
 * Legal call order per run (a NULL callback is skipped):
 *
 *   setup                                   once per configuration and budget
 *   score                                   one-shot: each layer; the engine keeps the best
 *   begin, [worth]                          online: each lane when the prompt is complete
 *   ( observe, [worth] -> the lowest leave )*    online: each decode step
 *
 * NaN in a score or a worth is a bug in the policy. */
#ifndef KVT_POLICY_H
#define KVT_POLICY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_ALWAYS_KEEP 1e30f       /* the score or worth of a protected token        */
#define KVT_PARAMS_MAX  16u
#define KVT_ALL         UINT32_MAX  /* kvt_lane.cache of a lane shared by a layer     */

enum {                              /* .caps                                          */
    KVT_POLICY_ONESHOT = 1u << 0,   /* has score(); the prompt competes               */
    KVT_POLICY_ONLINE  = 1u << 1,   /* has worth(); prompt and generated compete      */
    KVT_POLICY_ORACLE  = 1u << 2,   /* reads the future; reports set it apart         */
    KVT_POLICY_RANDOM  = 1u << 3,   /* draws from job->key; replicated over seeds     */
    KVT_POLICY_BOUND   = 1u << 4,   /* no kept set: the engine computes it (oracle_step) */
    KVT_POLICY_BASELINE = 1u << 5   /* always added to a replay                       */
};

enum {                              /* .needs: checked against the trace before a run */
    KVT_NEED_WINDOW  = 1u << 0,     /* rows of the last prompt queries: q, lse        */
    KVT_NEED_COLSTAT = 1u << 1,     /* column statistics of the prompt: stats/sum     */
    KVT_NEED_NU      = 1u << 2,     /* value norms: nu                                */
    KVT_NEED_FUTURE  = 1u << 3      /* oracles: attention still to come               */
};

typedef enum kvt_span { KVT_SPAN_CACHE, KVT_SPAN_LAYER } kvt_span;
typedef enum kvt_caches { KVT_CACHES_KV, KVT_CACHES_QUERY } kvt_caches;

/* SHARE: counts follow from one meaning of "budget", rounded to nearest, halves to even.
 * REFERENCE: they repeat the double truncation of the reference codes. */
typedef enum kvt_rule { KVT_RULE_SHARE, KVT_RULE_REFERENCE } kvt_rule;

typedef struct kvt_job {            /* one trace, configuration and budget            */
    uint32_t n_q_heads, n_kv_heads; /* of the layer                                   */
    uint32_t n_caches;              /* of the layer: n_kv_heads, or n_q_heads         */
    uint32_t n;                     /* prompt tokens                                  */
    uint32_t n_new;                 /* decode steps that come after them              */
    kvt_rule rule;
    double   share;                 /* of the prompt's entries, every copy counted    */
    uint32_t keep_cache;            /* ... as tokens per cache, window and sinks in,  */
    uint64_t keep_layer;            /* ... per layer over its caches; not a product   */
    uint64_t key;                   /* random key: SHA-256 of "seed|content_id"       */
    const double *param;            /* values in the order of .params                 */
} kvt_job;

static inline uint32_t kvt_group(const kvt_job *job)            /* query heads of a cache: */
{ return job->n_q_heads / job->n_caches; }                      /* c*group .. c*group+group-1 */

typedef struct kvt_setup {          /* preset from the descriptor; setup() overwrites */
    uint32_t window;                /* prompt queries wanted in kvt_prompt            */
    size_t   ws_bytes;              /* sum of KVT_WS_BYTES() of the largest callback  */
    kvt_span rank_over;             /* one-shot scores compete within a cache or layer */
    kvt_span share_over;            /* one online choice per cache or per layer       */
    int      nested;                /* 1 = scores ignore the budget: a smaller budget */
                                    /* keeps a subset                                 */
    uint32_t flags;                 /* KVT_FLAG_*: what a reader must know            */
    uint32_t capacity;              /* online: slots after each eviction; preset      */
                                    /* keep_cache                                     */
} kvt_setup;

enum {                              /* kvt_setup.flags, stored with the cell          */
    KVT_FLAG_KEPT_ALL     = 1u << 0,/* prompt not longer than the window, or budget >= n */
    KVT_FLAG_BELOW_WINDOW = 1u << 1,/* budget below the protected tokens: ties decide */
    KVT_FLAG_CLAMPED      = 1u << 2 /* DefensiveKV: stage-1 count clamped at 0        */
};

typedef struct kvt_prompt {         /* one layer; a pointer is NULL unless needed     */
    uint32_t     layer;
    uint32_t     window;            /* rows usable through kvt_window_row(): at least */
                                    /* kvt_setup.window                               */
    const float *win;               /* [n_q_heads][window][n] softmax over all n      */
    const float *col_sum;           /* [n_q_heads][n] attention received, all queries */
    const float *nu;                /* [n_q_heads][n] L1 norm of V times Wo           */
    const double *future_sum;       /* [n_q_heads][n] over later queries              */
} kvt_prompt;

/* Row r of the last `window` prompt queries of a query head (r = window - 1 is the last
 * prompt token), [n]; columns behind the query's own position are 0. */
static inline const float *kvt_window_row(const kvt_job *job, const kvt_prompt *in,
                                          uint32_t head, uint32_t window, uint32_t r)
{
    return in->win + ((size_t)head * in->window + (in->window - window + r)) * job->n;
}

typedef struct kvt_lane {
    const kvt_job *job;
    uint32_t layer, cache;          /* cache = KVT_ALL where a layer shares the choice */
    uint32_t cap;                   /* stride of the columns, slots                   */
    uint32_t capacity;              /* slots that stay after an eviction              */
} kvt_lane;

typedef struct kvt_event {          /* what a lane sees when a token has entered      */
    uint32_t        n;              /* slots taken, the newcomer last                 */
    const uint32_t *pos;            /* [n] ascending                                  */
    const float    *prob;           /* [n] this step's attention, softmax over what is */
                                    /* cached, mean over the lane's query heads; NULL */
                                    /* at the end of the prompt                       */
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

typedef struct kvt_policy {
    uint32_t    caps, needs;
    uint32_t    version;            /* bump whenever any kept set can change          */
    const char *id;                 /* [a-z][a-z0-9_]*; in databases: never reuse     */
    const char *title, *cite;
    const kvt_param_def *params;    /* ends at name == NULL; NULL = no parameters     */
    kvt_caches  caches;             /* default of the setting caches=                 */
    uint32_t    slot_cols;
    kvt_span    rank_over, share_over;

    /* Adapt *out to this run: parameters, budget, scratch size. */
    void (*setup)(const kvt_job *job, kvt_setup *out);
    /* One-shot, one layer: score[n_caches][n], every entry. */
    void (*score)(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, float *score);
    /* Online: give the columns of a lane a meaning when the prompt is complete. */
    void (*begin)(const kvt_lane *lane, const kvt_prompt *in, const kvt_event *ev, float *col);
    /* Online: learn from this step's row. */
    void (*observe)(const kvt_lane *lane, const kvt_event *ev, float *col);
    /* Online: worth[s] for every slot. The best `capacity` stay; among equals the older
     * stays. */
    void (*worth)(const kvt_lane *lane, const kvt_event *ev, const float *col, float *worth);
} kvt_policy;

size_t            kvt_policy_count(void);
const kvt_policy *kvt_policy_at(size_t i);         /* sorted by id; NULL past the end */
const kvt_policy *kvt_policy_find(const char *id); /* NULL if there is none           */

#ifdef __cplusplus
}
#endif
#endif
