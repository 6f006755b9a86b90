/* trace_guard.h - libhdf5 parses metadata before any check of ours can run, and some
 * damaged files crash it. Between kvt_guard_begin() and kvt_guard_end() a crash of the
 * process ends it with one line that names the file, and exit code 3, as any other
 * damaged file. For programs, not for libraries. */
#ifndef KVT_TRACE_GUARD_H
#define KVT_TRACE_GUARD_H

/* `path` is shown printable. Not nested; the previous handlers come back at the end. */
void kvt_guard_begin(const char *path);
void kvt_guard_end(void);

#endif
