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

/* The lane that holds the tokens of a query head under an online cell; NULL where a stack
 * serves the cell. */
const lane *kvt__lane_of(const run *r, uint32_t cell, uint32_t head);

/* Parts of a lane's life, for stack.c. Caches of a cell that choose by themselves: */
uint32_t   kvt__n_lanes(const run_cell *c);
/* Fills a zeroed lane, the index-th of a cell; view.capacity stays 0. Whatever it returns,
 * kvt__lane_fini() takes back what it has allocated. */
kvt_status kvt__lane_init(const run *r, lane *l, uint32_t cell, uint32_t index, kvt_err *err);
void       kvt__lane_fini(lane *l);
/* The prompt is complete: the slots are what the cell kept of it; begin(). */
void       kvt__lane_start(const run *r, lane *l);
/* The token at position p takes the next slot; exempt ones are no slots. */
void       kvt__lane_enter(const run *r, lane *l, uint32_t p);
/* prob[n]: row of the query over the slots; NULL for the worths at the end of the prompt.
 * NaN among the worths sets l->status. */
void       kvt__lane_observe(const run *r, lane *l, uint32_t query, const float *prob);
void       kvt__lane_worth(const run *r, lane *l, uint32_t query, const float *prob);
/* order[0..n-1] = slots by worth, those that stay first; equals as the tie rule says. */
void       kvt__lane_rank(lane *l, uint32_t layer, kvt_first first);
kvt_status kvt__lane_failed(const run *r, const lane *l, kvt_err *err);
/* Tile of a head while kvt__lanes() is in that block of steps. */
const float *kvt__lane_tile(const run *r, uint32_t head, uint32_t block);

#endif
