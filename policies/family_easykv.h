/* family_easykv.h - what h2o, tova, roco, recency and random share as policies of EasyKV
 * (Ren and Zhu, arXiv:2402.06262): the modes and their budget arithmetic.
 *
 *   decoding            the prompt stays whatever happens; B generated tokens stay
 *   encoding            the prompt comes in chunks of `stride`; after each, the cache is cut
 *                       to its size; while generating nothing leaves
 *   ppl                 as encoding, from the shortest first pass on
 *   auto                decoding with B = budget - n when the budget exceeds the prompt,
 *                       else encoding_decoding
 *   encoding_decoding   chunks as in ppl, then one entry leaves per generated token
 *
 * Rows are softmax over what is cached, meant over the query heads of a cache. */
#ifndef KVT_FAMILY_EASYKV_H
#define KVT_FAMILY_EASYKV_H

#include "kvt_prim.h"

typedef enum kvt_easykv_mode {
    KVT_EASYKV_DECODING, KVT_EASYKV_ENCODING, KVT_EASYKV_PPL, KVT_EASYKV_AUTO, KVT_EASYKV_ENCODING_DECODING
} kvt_easykv_mode;
typedef enum kvt_easykv_rule {
    KVT_EASYKV_RANDOM, KVT_EASYKV_RECENCY, KVT_EASYKV_H2O, KVT_EASYKV_TOVA, KVT_EASYKV_ROCO
} kvt_easykv_rule;

/* Six rows of a policy's parameter table, from index `at` on. */
enum { KVT_EASYKV_P_MODE, KVT_EASYKV_P_STRIDE, KVT_EASYKV_P_RECENT, KVT_EASYKV_P_SINKS, KVT_EASYKV_P_KEEP, KVT_EASYKV_P_PROMPT };
#define KVT_EASYKV_PARAMS(at) \
    [(at) + KVT_EASYKV_P_MODE]   = { "mode", KVT_EASYKV_ENCODING, 0, 4, "decoding|encoding|ppl|auto|encoding_decoding", 1, \
                                     "impl=easykv: when entries leave" }, \
    [(at) + KVT_EASYKV_P_STRIDE] = { "stride", 1, 1, 4194304, NULL, 1, "impl=easykv: prompt tokens per chunk" }, \
    [(at) + KVT_EASYKV_P_RECENT] = { "recent_ratio", 0.1, 0, 1, NULL, 0, "impl=easykv: share of the latest tokens, in prompt chunks" }, \
    [(at) + KVT_EASYKV_P_SINKS]  = { "sinks", 4, 0, 4194304, NULL, 1, "impl=easykv: first tokens that stay, in prompt chunks" }, \
    [(at) + KVT_EASYKV_P_KEEP]   = { "keep_attention", 0, 0, 1, "off|on", 1, "impl=easykv: queries count before the cache is full" }, \
    [(at) + KVT_EASYKV_P_PROMPT] = { "prompt", 0, 0, 4194304, NULL, 1, \
                                     "impl=easykv, mode=decoding: prompt tokens, the rest counts as generated; 0 = all" }

typedef struct kvt_easykv {
    kvt_easykv_mode mode;           /* auto is resolved                               */
    uint32_t    prompt;             /* decoding: tokens that stay                     */
    uint32_t    stride, sinks;
    uint32_t    budget;             /* b: with the stride in it; decoding: B          */
    uint32_t    size;               /* entries after an eviction                      */
    uint32_t    first;              /* tokens of the first pass over the prompt       */
    uint32_t    recent;             /* latest tokens, in prompt chunks                */
    uint32_t    recent_new;         /* ... while generating: always 0.3 of the budget */
    int         keep_attention, keep_all;
    const char *refuse;             /* NULL, or why there is no such run              */
} kvt_easykv;

/* Pure arithmetic on the job; at = index of `mode` among the parameters. */
kvt_easykv kvt_easykv_plan(const kvt_job *job, uint32_t at, kvt_easykv_rule rule);
/* A whole setup() for impl=easykv. */
void       kvt_easykv_setup(const kvt_job *job, uint32_t at, kvt_easykv_rule rule, kvt_setup *out);

/* 1: the event is a chunk of the prompt; 0: a generated token. */
static inline int kvt_easykv_chunk(const kvt_easykv *e, const kvt_job *job, const kvt_event *ev)
{
    return e->mode != KVT_EASYKV_DECODING && ev->query < job->n;
}

#endif
