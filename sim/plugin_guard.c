/* plugin_guard.c - a crash inside a library ends the program with one line that names it.
 * Every callback of a foreign policy runs between guard_enter() and guard_leave(), which
 * note for this thread who is running. After a crash nothing in memory can be trusted, so
 * nothing is finished: the process ends at once, as if it had been killed. */
#define _XOPEN_SOURCE 700            /* sigaltstack */
#include "plugin_impl.h"

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "kvt_cli.h"
#include "plugin.h"

enum { GUARD_LINE = 512, GUARD_STACK = 1 << 14 };

static const struct { int number; const char *name; } guard_signal[] = {
    { SIGSEGV, "SIGSEGV" }, { SIGBUS, "SIGBUS" }, { SIGFPE, "SIGFPE" }, { SIGILL, "SIGILL" }, { SIGABRT, "SIGABRT" },
};
enum { N_SIGNALS = sizeof guard_signal / sizeof *guard_signal };

typedef struct guard_wall { const kvt_policy *real; char path[PLUGIN_SHOWN]; } guard_wall;

static _Thread_local const char   *guard_path, *guard_doing;      /* NULL: not in a library */
static _Thread_local int           guard_has_stack;
static _Thread_local unsigned char guard_stack[GUARD_STACK];      /* a runaway recursion has none left */
static const char *volatile        guard_last;                    /* the library that ran last */
static atomic_flag                 guard_dying = ATOMIC_FLAG_INIT;
static char                        guard_unfinished[PATH_MAX];

static size_t guard_put(char *line, size_t at, const char *text)
{
    while (*text && at < GUARD_LINE)
        line[at++] = *text++;
    return at;
}

/* Only what is safe in a handler: write, unlink, _exit. */
static void guard_on_crash(int sig)
{
    char line[GUARD_LINE];
    const char *name = "";
    size_t n;

    if (!guard_path && !guard_last) {            /* not about a library */
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    while (atomic_flag_test_and_set(&guard_dying))
        pause();                     /* another thread is writing the line */
    for (int i = 0; i < N_SIGNALS; i++)
        if (guard_signal[i].number == sig)
            name = guard_signal[i].name;
    n = guard_put(line, 0, "kvtrace: ");
    n = guard_put(line, n, guard_path ? guard_path : guard_last);
    if (guard_path) {
        n = guard_put(line, n, ": the policy crashed ");
        n = guard_put(line, n, guard_doing);
    } else {
        n = guard_put(line, n, ": the program crashed after this policy had run: does it write beyond its arrays?");
    }
    n = guard_put(line, n, " (");
    n = guard_put(line, n, name);
    n = guard_put(line, n, sig == SIGABRT ? ": is .ws_bytes of setup() too small?)\n" : ")\n");
    if (guard_unfinished[0])
        unlink(guard_unfinished);
    if (write(STDERR_FILENO, line, n) < 0)
        _exit(KVT_EXIT_FAILED);
    _exit(KVT_EXIT_FAILED);
}

void kvt__guard_install(void)
{
    struct sigaction action = { .sa_handler = guard_on_crash, .sa_flags = SA_ONSTACK };

    sigemptyset(&action.sa_mask);
    for (int i = 0; i < N_SIGNALS; i++)
        sigaction(guard_signal[i].number, &action, NULL);
}

void kvt_plugins_remove_on_crash(const char *path)
{
    guard_unfinished[0] = 0;
    if (path && strlen(path) < sizeof guard_unfinished)
        strcpy(guard_unfinished, path);
}

void kvt__guard_enter(const char *path, const char *doing)
{
    if (!guard_has_stack) {          /* a sanitizer has given the thread one, and takes it back */
        const stack_t mine = { .ss_sp = guard_stack, .ss_size = sizeof guard_stack };
        stack_t there;
        if (sigaltstack(NULL, &there) == 0 && (there.ss_flags & SS_DISABLE))
            sigaltstack(&mine, NULL);
        guard_has_stack = 1;
    }
    guard_doing = doing;
    guard_path = path;
}

void kvt__guard_leave(void)
{
    guard_path = NULL;
}

/* ---- the callbacks ------------------------------------------------------------------ */

/* The library sees its own .self. */
static const guard_wall *guard_open(const kvt_job *job, kvt_job *its_job, const char *doing)
{
    const guard_wall *w = job->self;

    *its_job = *job;
    its_job->self = w->real->self;
    guard_last = w->path;
    kvt__guard_enter(w->path, doing);
    return w;
}

static void guard_setup(const kvt_job *job, kvt_setup *out)
{
    kvt_job its;
    guard_open(job, &its, "in setup()")->real->setup(&its, out);
    kvt__guard_leave();
}

static void guard_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    kvt_job its;
    guard_open(job, &its, "in score()")->real->score(&its, in, ws, out);
    kvt__guard_leave();
}

static void guard_allot(const kvt_job *job, const kvt_layers *done, uint32_t *keep, uint32_t *capacity)
{
    kvt_job its;
    guard_open(job, &its, "in allot()")->real->allot(&its, done, keep, capacity);
    kvt__guard_leave();
}

static void guard_begin(const kvt_lane *lane, const kvt_prompt *in, const float *score, const kvt_event *ev, float *col)
{
    kvt_job its;
    kvt_lane its_lane = *lane;
    its_lane.job = &its;
    guard_open(lane->job, &its, "in begin()")->real->begin(&its_lane, in, score, ev, col);
    kvt__guard_leave();
}

static void guard_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    kvt_job its;
    kvt_lane its_lane = *lane;
    its_lane.job = &its;
    guard_open(lane->job, &its, "in observe()")->real->observe(&its_lane, ev, col);
    kvt__guard_leave();
}

static void guard_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    kvt_job its;
    kvt_lane its_lane = *lane;
    its_lane.job = &its;
    guard_open(lane->job, &its, "in worth()")->real->worth(&its_lane, ev, ws, col, worth);
    kvt__guard_leave();
}

static const char *guard_why(void *self)
{
    const guard_wall *w = self;
    const char *why;

    kvt__guard_enter(w->path, "in why()");
    why = w->real->why(w->real->self);
    kvt__guard_leave();
    return why;
}

kvt_status kvt__guard_policy(const char *path, const kvt_policy *p, kvt_policy *out, kvt_err *err)
{
    guard_wall *w = calloc(1, sizeof *w);

    if (!w)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    w->real = p;
    strncpy(w->path, path, sizeof w->path - 1);
    *out = *p;
    out->self = w;
    out->setup = p->setup ? guard_setup : NULL;
    out->base = NULL;                           /* score() makes it: one call less to guard */
    out->score = p->score ? guard_score : NULL;
    out->allot = p->allot ? guard_allot : NULL;
    out->begin = p->begin ? guard_begin : NULL;
    out->observe = p->observe ? guard_observe : NULL;
    out->worth = p->worth ? guard_worth : NULL;
    out->why = p->why ? guard_why : NULL;
    return KVT_OK;
}
