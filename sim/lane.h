/* lane.h - the cache of one online policy while tokens enter. The only code that mutates
 * a cache. */
#ifndef KVT_LANE_H
#define KVT_LANE_H

#include "replay_impl.h"

typedef struct lane {
    uint32_t  cell, cache;          /* cache = KVT_ALL: one choice for the layer       */
    uint32_t  head0, n_heads;       /* query heads whose rows it sees                  */
    kvt_lane  view;
    uint32_t  n;                    /* slots taken                                     */
    uint32_t *pos;                  /* [cap] ascending                                 */
    float    *col;                  /* [slot_cols][cap]                                */
    float    *prob, *worth;         /* [cap]                                           */
    double   *mean;                 /* [cap]                                           */
    uint32_t *order, *tmp;          /* [cap]                                           */
    void     *ws;                   /* setup.ws_bytes and alignment                    */
    int       watching;             /* in the prompt: queries of this event are observed */
    /* per position: when it left, and how it stood then */
    int32_t  *left;                 /* [T] step after which it was gone; -1 = prefill; INT32_MAX = held */
    uint32_t *left_rank;            /* [T]                                             */
    float    *left_score, *left_margin;   /* [T]                                       */
    /* kept sets that were asked for: step, count, positions, score at the cut */
    uint32_t *snap;                 /* packed: step, n, bits of two floats, n positions */
    size_t    n_snap, cap_snap;
    float     last_kept, first_dropped;
    uint32_t  n_tied;               /* kept slots equal to first_dropped at the first eviction */
    int       evicted;              /* some eviction has happened                      */
    kvt_status status;
    char      why[200];             /* of an adapter's failure, or ""                  */
} lane;

/* The lane that holds the tokens of a query head under an online cell. */
const lane *kvt__lane_of(const run *r, uint32_t cell, uint32_t head);

#endif
