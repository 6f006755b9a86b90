/* trace_synth.h - synthetic traces with planted structure.
 *
 * Query head h of layer l has the role (h + l) mod 4:
 *   0 retrieval  sinks, except in the planted decode steps, in which one late bloomer gets
 *                nearly all mass; no query before those steps looked at it
 *   1 sink       most mass on tokens 0 to 3
 *   2 local      a band before the query, made by the rotary embedding
 *   3 heavy      most mass on a few tokens of the prompt, in every step
 * All numbers come from Philox keyed by the seed; the planted places are in the trace:
 * spans of kind needle (the late bloomers) and the attribute `corpus` of /provenance. */
#ifndef KVT_TRACE_SYNTH_H
#define KVT_TRACE_SYNTH_H

#include <stdint.h>
#include "kvt_trace.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvt_synth_role {
    KVT_SYNTH_RETRIEVAL, KVT_SYNTH_SINK, KVT_SYNTH_LOCAL, KVT_SYNTH_HEAVY
} kvt_synth_role;

typedef struct kvt_synth {
    uint32_t    n_layers, n_heads, n_kv_heads;
    uint32_t    head_dim;               /* a multiple of 4, at least 8               */
    uint32_t    model_dim;              /* 0: n_heads * head_dim                     */
    uint32_t    n_prompt, n_decode, window;     /* window: at most n_prompt is used  */
    kvt_dtype   type;                   /* of k, v and q                             */
    uint64_t    seed;                   /* at most INT64_MAX                         */
    int         text;                   /* store made-up words                       */
    int         no_stats;               /* without the statistics over all prompt queries, whose */
                                        /* cost is the square of the prompt          */
    const char *command;                /* for provenance, or NULL                   */
    const char *created, *uuid;         /* NULL = now, random                        */
} kvt_synth;

static inline kvt_synth_role kvt_synth_role_of(uint32_t layer, uint32_t head)
{
    return (kvt_synth_role)((head % 4 + layer % 4) % 4);
}

/* Write the trace to path, replacing a file that is there. */
kvt_status kvt_synth_write(const char *path, const kvt_synth *s, kvt_err *err) KVT_NODISCARD;

#ifdef __cplusplus
}
#endif
#endif
