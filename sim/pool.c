#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct worker {
    kvt_pool *pool;
    uint32_t  thread;
    pthread_t id;
} worker;

struct kvt_pool {
    pthread_mutex_t lock;
    pthread_cond_t  work, idle;
    uint32_t n_threads, n_started, n_busy;
    uint64_t round;                 /* one more for every loop; wakes the workers */
    int      stop;
    uint32_t n_items, next;
    void   (*fn)(void *, uint32_t, uint32_t);
    void    *arg;
    worker   w[];
};

/* Take items until none is left. The lock is held on entry and on exit. */
static void pool_drain(kvt_pool *p, uint32_t thread)
{
    while (p->next < p->n_items) {
        const uint32_t item = p->next++;
        pthread_mutex_unlock(&p->lock);
        p->fn(p->arg, item, thread);
        pthread_mutex_lock(&p->lock);
    }
}

static void *pool_main(void *arg)
{
    worker *w = arg;
    kvt_pool *p = w->pool;
    uint64_t seen = 0;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && p->round == seen)
            pthread_cond_wait(&p->work, &p->lock);
        if (p->stop)
            break;
        seen = p->round;
        p->n_busy++;
        pool_drain(p, w->thread);
        if (--p->n_busy == 0)
            pthread_cond_signal(&p->idle);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

kvt_status kvt_pool_new(kvt_pool **out, uint32_t n_threads, kvt_err *err)
{
    kvt_pool *p = calloc(1, sizeof *p + n_threads * sizeof(worker));

    if (!p)
        return kvt_fail(err, KVT_ENOMEM, "out of memory for %u threads", n_threads);
    p->n_threads = n_threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->idle, NULL);
    for (uint32_t i = 1; i < n_threads; i++) {
        p->w[i].pool = p;
        p->w[i].thread = i;
        if (pthread_create(&p->w[i].id, NULL, pool_main, &p->w[i]) != 0) {
            kvt_pool_free(p);
            return kvt_fail(err, KVT_ENOMEM, "cannot start thread %u of %u; use a smaller -j", i + 1, n_threads);
        }
        p->n_started = i;
    }
    *out = p;
    return KVT_OK;
}

void kvt_pool_free(kvt_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = 1;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 1; i <= p->n_started; i++)
        pthread_join(p->w[i].id, NULL);
    pthread_cond_destroy(&p->idle);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

uint32_t kvt_pool_threads(const kvt_pool *p) { return p->n_threads; }

void kvt_pool_run(kvt_pool *p, uint32_t n, void (*fn)(void *, uint32_t, uint32_t), void *arg)
{
    pthread_mutex_lock(&p->lock);
    p->fn = fn;
    p->arg = arg;
    p->n_items = n;
    p->next = 0;
    p->round++;
    if (n > 1)
        pthread_cond_broadcast(&p->work);
    pool_drain(p, 0);
    while (p->n_busy > 0)
        pthread_cond_wait(&p->idle, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
