/* py_child.h - Python processes that run one policy file, and the bytes to and from them.
 * The program does not link libpython: python3 is started with the text of
 * policies/kvtrace_policy.py, which is the other side of the socket. Private to
 * policy_py.c.
 *
 * py_take() lends a process to one thread; put..., get... talk to it; py_give() takes it
 * back. After a failure (get returns 0) the process is not used again. */
#ifndef KVT_PY_CHILD_H
#define KVT_PY_CHILD_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "kvt_status.h"
#include "plugin_impl.h"

enum { PY_CHILDREN_MAX = 64, PY_OUT = 1 << 13 };

typedef struct py_child {
    int    fd;
    pid_t  pid;
    int    broken;                  /* the socket failed: the process has ended       */
    size_t n_out;
    char   out[PY_OUT];
    struct py_child *next;          /* among those that nobody uses                   */
} py_child;

typedef struct py_pool {            /* all processes of one policy                    */
    plugin_file     file;           /* path, real, data: what every process is given  */
    pthread_mutex_t lock;
    pthread_cond_t  freed;
    py_child       *idle, *all[PY_CHILDREN_MAX];
    uint32_t        n;
    struct py_pool *next;           /* of the program, for its end                    */
} py_pool;

/* Start one process and read its description of the policy (NUL-terminated fields, owned
 * by the caller). EFORMAT: the file is no policy. EIO: no Python, no numpy. */
kvt_status py_start(py_pool *pool, char **fields, size_t *n_bytes, kvt_err *err) KVT_NODISCARD;
/* A process for this thread, started if none is free; NULL: it could not be started. */
py_child  *py_take(py_pool *pool, kvt_err *err);
void       py_give(py_pool *pool, py_child *c);

void py_put(py_child *c, const void *data, size_t n_bytes);
/* Begins the answer: what was put is sent. 1: it worked; 0: the policy refused, and `why`
 * is its text; -1: the process has ended, and `why` says how. */
int  py_answer(py_child *c, const char *what, char *why, size_t size);
/* 0: the process has ended. */
int  py_get(py_child *c, void *data, size_t n_bytes);

#endif
