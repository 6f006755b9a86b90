#define _XOPEN_SOURCE 700            /* sigaltstack, siglongjmp */
#include "trace_guard.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kvt_cli.h"
#include "kvt_text.h"

static const int guard_signal[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
enum { N_SIGNALS = sizeof guard_signal / sizeof *guard_signal };

static struct sigaction guard_before[N_SIGNALS];
static char             guard_line[512];
static size_t           guard_n;
static char             guard_stack[1 << 16];    /* a runaway recursion has none left */

/* Only write() and _exit(): both are safe here. */
static void guard_on_crash(int sig)
{
    (void)sig;
    if (write(STDERR_FILENO, guard_line, guard_n) < 0)
        _exit(KVT_EXIT_INPUT);
    _exit(KVT_EXIT_INPUT);
}

void kvt_guard_begin(const char *path)
{
    const stack_t stack = { .ss_sp = guard_stack, .ss_size = sizeof guard_stack };
    struct sigaction action = { .sa_handler = guard_on_crash, .sa_flags = SA_ONSTACK };
    char name[256];
    int n;

    n = snprintf(guard_line, sizeof guard_line, "kvtrace: %s: damaged: the HDF5 library crashed while it read the file\n",
                 kvt_printable_str(name, sizeof name, path));
    guard_n = n > 0 ? (size_t)n : 0;
    sigaltstack(&stack, NULL);
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < N_SIGNALS; i++)
        sigaction(guard_signal[i], &action, &guard_before[i]);
}

void kvt_guard_end(void)
{
    for (int i = 0; i < N_SIGNALS; i++)
        sigaction(guard_signal[i], &guard_before[i], NULL);
}

/* ------------------------------------------------------------ mapped pages */

typedef struct guard_touch { sigjmp_buf out; const char *from, *to; } guard_touch;

static _Thread_local guard_touch *guard_touched;
static struct sigaction guard_bus_before;
static int              guard_maps_on;

static void guard_on_bus(int sig, siginfo_t *info, void *context)
{
    guard_touch *t = guard_touched;
    const char *at = info->si_addr;

    (void)context;
    if (t && info->si_code > 0 && at >= t->from && at < t->to)
        siglongjmp(t->out, 1);
    sigaction(sig, &guard_bus_before, NULL);         /* a fault happens again after this */
    if (info->si_code <= 0)
        raise(sig);
}

void kvt_guard_maps(void)
{
    /* not blocked inside the handler: siglongjmp() leaves it without a system call */
    struct sigaction action = { .sa_sigaction = guard_on_bus, .sa_flags = SA_SIGINFO | SA_NODEFER };

    if (guard_maps_on)
        return;
    sigemptyset(&action.sa_mask);
    guard_maps_on = sigaction(SIGBUS, &action, &guard_bus_before) == 0;
}

int kvt_guard_maps_are_on(void) { return guard_maps_on; }

int kvt_guard_touch(const void *from, size_t n, void (*fn)(void *arg), void *arg)
{
    guard_touch t = { .from = from, .to = (const char *)from + n };
    int whole;

    whole = sigsetjmp(t.out, 0) == 0;
    if (whole) {
        guard_touched = &t;
        fn(arg);
    }
    guard_touched = NULL;
    return whole;
}
