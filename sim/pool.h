/* pool.h - a fixed set of threads that run one loop at a time. Items finish in any
 * order and write only to their own slots, so results do not depend on the number of
 * threads. */
#ifndef KVT_POOL_H
#define KVT_POOL_H

#include <stdint.h>
#include "kvt_status.h"

typedef struct kvt_pool kvt_pool;

/* n_threads >= 1; the calling thread is one of them. */
kvt_status kvt_pool_new(kvt_pool **out, uint32_t n_threads, kvt_err *err) KVT_NODISCARD;
void       kvt_pool_free(kvt_pool *p);
uint32_t   kvt_pool_threads(const kvt_pool *p);
/* fn(arg, item, thread) for every item < n; returns when all are done. thread is
 * 0..n_threads-1, for scratch memory. */
void       kvt_pool_run(kvt_pool *p, uint32_t n, void (*fn)(void *arg, uint32_t item, uint32_t thread),
                        void *arg);

#endif
