/* stack.h - an online policy at every capacity from one run (Mattson, Gecsei, Slutz and
 * Traiger, "Evaluation techniques for storage hierarchies", IBM Systems Journal 9(2), 1970).
 *
 * Where kvt_setup.stack holds, what a cache of capacity C holds is inside what one of
 * capacity C + 1 holds; the proof stands there. One ordered list then represents all
 * caches: the first C entries are the content of capacity C. Only the capacities of the
 * points of a curve are asked for, so the list is cut at these, and inside a SEGMENT, what
 * a capacity holds more than the next smaller one, the order does not matter.
 *
 * Scores come from one lane without limit, which holds every token: a worth does not depend
 * on what else is cached. A decode step, in the order of a lane: the token enters every
 * cache; its row is measured; scores are updated; every capacity loses its least token. Of
 * capacity C that is the least of segment C and of what the next smaller capacity has just
 * lost: an exclusive prefix minimum over the segments.
 *
 * Losses are sums of multiples of 2^-40, so they equal those of separate lanes bit by bit. */
#ifndef KVT_STACK_H
#define KVT_STACK_H

#include "lane.h"

typedef struct stack_move {         /* a token changes its segment after a step of the block */
    uint32_t pos, step;             /* step: 0..15                                     */
    uint16_t from, to;
} stack_move;

typedef struct stack {              /* one cache (or layer) of the points of a curve   */
    lane        all;                /* every token; slot = position - exempt           */
    uint32_t   *cell, n_cells;      /* [n_cells] of the run, which it serves           */
    uint32_t   *cut_of;             /* [n_cells] their capacity: an index into cut     */
    uint32_t   *cut, n_cuts;        /* [n_cuts] capacities, strictly ascending         */
    uint32_t   *item, n_items;      /* [cut[n_cuts - 1]] slots: segment c is item[cut[c - 1]..cut[c] - 1] */
    uint32_t   *next;               /* [n_cuts] scratch                                */
    uint16_t   *cls;                /* [T] segment of a position before the block; 0: every cache has it; */
                                    /* n_cuts: none                                    */
    uint64_t   *tie;                /* [T] of a slot: among equals the lower stays     */
    float      *row;                /* [16][row_stride] rows of the block, by position */
    size_t      row_stride;
    stack_move *move;               /* [16 (n_cuts + 1)]                               */
    uint32_t    n_moves;
    double     *mass;               /* [n_cuts + 1][16]                                */
    double     *lost;               /* [n_heads][n_cuts][G] evicted mass               */
} stack;

typedef struct stacks {             /* of the layer at hand                            */
    run     *r;
    stack   *s;                     /* [n]                                             */
    uint32_t n, block;
} stacks;

/* Does a stack serve the cell? Its setup() must have been asked. */
int        kvt__stacked(const run_cell *c);
/* The stacks of the layer at hand, as the end of the prompt leaves them. *out is to be freed
 * whatever this returns. */
kvt_status kvt__stacks_new(stacks **out, run *r, kvt_err *err);
/* 16 decode steps; the rows are those of kvt__lane_tile(). */
void       kvt__stacks_block(stacks *s, uint32_t block);
/* Losses into the cells' `part`; the first failure of a policy. */
kvt_status kvt__stacks_end(stacks *s, kvt_err *err);
void       kvt__stacks_free(stacks *s);

#endif
