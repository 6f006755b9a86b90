/* py_child.c - starts Python, sends and receives, notices its end. */
#define _XOPEN_SOURCE 700
#include "py_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "kvt_text.h"
#include "plugin.h"

__asm__(".pushsection .rodata\n"
        "kvt__py_module:\n"
        ".incbin \"" KVT_PY_MODULE_PATH "\"\n"
        ".byte 0\n"
        ".globl kvt__py_module\n"
        ".popsection\n");
extern const char kvt__py_module[];
extern char **environ;

enum { PY_START_S = 60, PY_SAY_AFTER_S = 5, PY_FD = 3 };

static py_pool *py_pools;

/* ---- the end ------------------------------------------------------------------------ */

static void py_end(py_child *c)
{
    close(c->fd);
    if (c->pid == 0)                 /* known to have ended */
        return;
    kill(c->pid, SIGKILL);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static void py_end_all(void)
{
    for (py_pool *p = py_pools; p; p = p->next)
        for (uint32_t i = 0; i < p->n; i++)
            if (p->all[i])
                py_end(p->all[i]);
}

void kvt_plugins_interrupt(void)
{
    for (py_pool *p = py_pools; p; p = p->next)
        for (uint32_t i = 0; i < p->n; i++)
            if (p->all[i] && p->all[i]->pid > 0)
                kill(p->all[i]->pid, SIGKILL);
}

/* How a process ended that closed its socket. */
static void py_how_it_ended(py_child *c, const char *what, char *why, size_t size)
{
    const struct timespec pause = { 0, 10000000 };
    int status = 0;
    pid_t pid = 0;

    c->broken = 1;
    for (int i = 0; i < 100 && pid == 0; i++) {     /* it may close its socket a moment before */
        pid = waitpid(c->pid, &status, WNOHANG);
        if (pid == 0)
            nanosleep(&pause, NULL);
    }
    if (pid != 0)
        c->pid = 0;
    if (pid > 0 && WIFSIGNALED(status))
        snprintf(why, size, "Python was ended by signal %d %s", WTERMSIG(status), what);
    else if (pid > 0 && WIFEXITED(status))
        snprintf(why, size, "Python ended with exit code %d %s", WEXITSTATUS(status), what);
    else
        snprintf(why, size, "Python closed the connection %s", what);
}

/* ---- bytes -------------------------------------------------------------------------- */

static void py_send(py_child *c, const char *data, size_t n)
{
    while (n > 0 && !c->broken) {
        const ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            c->broken = 1;
        else
            data += sent, n -= (size_t)sent;
    }
}

static void py_flush(py_child *c)
{
    py_send(c, c->out, c->n_out);
    c->n_out = 0;
}

void py_put(py_child *c, const void *data, size_t n_bytes)
{
    if (n_bytes > sizeof c->out - c->n_out)
        py_flush(c);
    if (n_bytes > sizeof c->out) {
        py_send(c, data, n_bytes);
        return;
    }
    if (n_bytes)
        memcpy(c->out + c->n_out, data, n_bytes);
    c->n_out += n_bytes;
}

int py_get(py_child *c, void *data, size_t n_bytes)
{
    char *to = data;

    while (n_bytes > 0) {
        const ssize_t got = recv(c->fd, to, n_bytes, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        to += got, n_bytes -= (size_t)got;
    }
    return 1;
}

int py_answer(py_child *c, const char *what, char *why, size_t size)
{
    uint32_t refused, n;
    char text[512];

    py_flush(c);
    if (!py_get(c, &refused, sizeof refused) || (refused && (!py_get(c, &n, sizeof n) || n >= sizeof text || !py_get(c, text, n)))) {
        py_how_it_ended(c, what, why, size);
        return -1;
    }
    if (!refused)
        return 1;
    kvt_printable(why, size, text, n);
    return 0;
}

/* ---- the start ---------------------------------------------------------------------- */

static kvt_status py_spawn(const py_pool *pool, py_child *c, kvt_err *err)
{
    char python[] = "python3", unbuffered[] = "-u", command[] = "-c", fd[] = "3";
    char *const module = malloc(strlen(kvt__py_module) + 1);
    char *const argv[] = { python, unbuffered, command, module, fd, NULL };
    posix_spawn_file_actions_t files;
    int pair[2], rc;

    if (!module)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        free(module);
        return kvt_fail(err, KVT_EIO, "%s: python3 cannot be started: %s", pool->file.path, strerror(errno));
    }
    strcpy(module, kvt__py_module);
    posix_spawn_file_actions_init(&files);
    rc = posix_spawn_file_actions_adddup2(&files, pair[1], PY_FD);
    rc = rc ? rc : posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);   /* print() must not hurt */
    rc = rc ? rc : posix_spawnp(&c->pid, python, &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    close(pair[1]);
    free(module);
    c->fd = pair[0];
    if (rc) {
        close(pair[0]);
        return kvt_fail(err, KVT_EIO, rc == ENOENT ? "%s: python3 is not on PATH; --policy-py needs Python 3 and numpy"
                        : "%s: python3 cannot be started: %s", pool->file.path, strerror(rc));
    }
    return KVT_OK;
}

/* Seconds that loading may take: KVTRACE_PY_START_S for slow file systems. */
static long py_start_limit(void)
{
    const char *text = getenv("KVTRACE_PY_START_S");
    const long s = text ? strtol(text, NULL, 10) : 0;

    return s > 0 && s < 86400 ? s : PY_START_S;
}

static kvt_status py_wait(const py_pool *pool, py_child *c, kvt_err *err)
{
    const long limit = py_start_limit();
    struct pollfd p = { c->fd, POLLIN, 0 };

    for (long s = 0; s < limit; s++) {
        const int ready = poll(&p, 1, 1000);
        if (ready > 0)
            return KVT_OK;
        if (s + 1 == PY_SAY_AFTER_S)
            fprintf(stderr, "kvtrace: %s: Python is still loading it\n", pool->file.path);
    }
    return kvt_fail(err, KVT_EFORMAT, "%s: Python has not loaded it within %ld s: does it compute at its top level, or wait for something? "
                    "KVTRACE_PY_START_S=N allows more", pool->file.path, limit);
}

static void py_send_file(const plugin_file *f, py_child *c)
{
    const uint32_t n_path = (uint32_t)strlen(f->real), n_text = (uint32_t)f->n_bytes;

    py_put(c, &n_path, sizeof n_path);
    py_put(c, f->real, n_path);
    py_put(c, &n_text, sizeof n_text);
    py_put(c, f->data, n_text);
    py_flush(c);
}

static kvt_status py_hello(const py_pool *pool, py_child *c, char **fields, size_t *n_bytes, kvt_err *err)
{
    char why[400], *text;
    uint32_t n;
    int ok;

    py_send_file(&pool->file, c);
    KVT_TRY(py_wait(pool, c, err));
    ok = py_answer(c, "while it loaded the policy", why, sizeof why);
    if (ok <= 0)
        return kvt_fail(err, strncmp(why, "numpy", 5) ? KVT_EFORMAT : KVT_EIO, "%s: %s", pool->file.path, why);
    if (!py_get(c, &n, sizeof n) || n == 0 || n > 1 << 16)
        return kvt_fail(err, KVT_EFORMAT, "%s: Python ended while it loaded the policy", pool->file.path);
    text = malloc(n);
    if (!text)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    if (!py_get(c, text, n) || text[n - 1]) {
        free(text);
        return kvt_fail(err, KVT_EFORMAT, "%s: Python ended while it loaded the policy", pool->file.path);
    }
    *fields = text;
    *n_bytes = n;
    return KVT_OK;
}

static kvt_status py_new(py_pool *pool, py_child **out, char **fields, size_t *n_bytes, kvt_err *err)
{
    py_child *c = calloc(1, sizeof *c);
    kvt_status st;

    if (!c)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    st = py_spawn(pool, c, err);
    if (st == KVT_OK) {
        st = py_hello(pool, c, fields, n_bytes, err);
        if (st < 0)
            py_end(c);
    }
    if (st < 0) {
        free(c);
        return st;
    }
    *out = c;
    return KVT_OK;
}

kvt_status py_start(py_pool *pool, char **fields, size_t *n_bytes, kvt_err *err)
{
    KVT_TRY(py_new(pool, &pool->idle, fields, n_bytes, err));
    pool->all[pool->n++] = pool->idle;
    if (!py_pools)
        atexit(py_end_all);
    pool->next = py_pools;
    py_pools = pool;
    return KVT_OK;
}

py_child *py_take(py_pool *pool, kvt_err *err)
{
    py_child *c;
    char *fields;
    size_t n;
    uint32_t at;

    pthread_mutex_lock(&pool->lock);
    while (!pool->idle && pool->n == PY_CHILDREN_MAX)
        pthread_cond_wait(&pool->freed, &pool->lock);
    c = pool->idle;
    if (c)
        pool->idle = c->next;
    at = c ? 0 : pool->n++;
    pthread_mutex_unlock(&pool->lock);
    if (!c && py_new(pool, &c, &fields, &n, err) == KVT_OK) {    /* others go on meanwhile */
        free(fields);
        pthread_mutex_lock(&pool->lock);
        pool->all[at] = c;
        pthread_mutex_unlock(&pool->lock);
    }
    return c;
}

void py_give(py_pool *pool, py_child *c)
{
    pthread_mutex_lock(&pool->lock);
    c->next = pool->idle;
    pool->idle = c;
    pthread_cond_signal(&pool->freed);
    pthread_mutex_unlock(&pool->lock);
}
