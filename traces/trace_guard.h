/* trace_guard.h - libhdf5 parses metadata before any check of ours can run, and some
 * damaged files crash it. Between kvt_guard_begin() and kvt_guard_end() a crash of the
 * process ends it with one line that names the file, and exit code 3, as any other
 * damaged file. For programs, not for libraries. */
#ifndef KVT_TRACE_GUARD_H
#define KVT_TRACE_GUARD_H

#include <stddef.h>

/* `path` is shown printable. Not nested; the previous handlers come back at the end. */
void kvt_guard_begin(const char *path);
void kvt_guard_end(void);

/* A file that is mapped and becomes shorter kills whoever reads the lost pages. For a
 * program, once, before it opens traces: from then on such a fault inside
 * kvt_guard_touch() ends that call instead; every other SIGBUS goes where it went before.
 * In a program that never calls it, traces are not mapped. */
void kvt_guard_maps(void);
int  kvt_guard_maps_are_on(void);
/* fn(arg), which reads n mapped bytes from `from` on and can be cut off anywhere. 0: a page
 * could not be read, and fn did not end; else 1. Any number of threads; not nested. */
int  kvt_guard_touch(const void *from, size_t n, void (*fn)(void *arg), void *arg);

#endif
