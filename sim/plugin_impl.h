/* plugin_impl.h - what the loaders share; private to sim/plugin*.c and policy_py.c. */
#ifndef KVT_PLUGIN_IMPL_H
#define KVT_PLUGIN_IMPL_H

#include <stddef.h>
#include "kvt_policy.h"
#include "kvt_status.h"

enum { PLUGIN_SHOWN = 128, PLUGIN_COLS_MAX = 64 };

typedef struct plugin_file {        /* a policy's file                                */
    char  path[PLUGIN_SHOWN];       /* as typed, printable                            */
    char *real;                     /* absolute                                       */
    char *data;                     /* with a terminating 0                           */
    size_t n_bytes;
    char  sha256[65];
} plugin_file;

/* plugin.c. EFORMAT when the file cannot be read. */
kvt_status kvt__plugin_read(plugin_file *out, const char *path, kvt_err *err) KVT_NODISCARD;
void       kvt__plugin_fini(plugin_file *f);

/* plugin_check.c: every rule that a descriptor must hold to before it is used. */
kvt_status kvt__plugin_check(const char *path, const kvt_policy *p, kvt_err *err) KVT_NODISCARD;
/* plugin.c: checks, then enters a copy of *p into the registry for good, with copies of its
 * title, cite, note and of the hash. What else *p points to is borrowed for good. */
kvt_status kvt__plugin_add(const plugin_file *f, const kvt_policy *p, kvt_err *err) KVT_NODISCARD;

/* plugin_guard.c: *out is the library's policy p, which has been checked, with callbacks
 * that note who is running. */
kvt_status kvt__guard_policy(const char *path, const kvt_policy *p, kvt_policy *out, kvt_err *err) KVT_NODISCARD;
void kvt__guard_install(void);
/* Between the two, a crash of this thread is the library's; doing: "while it was loaded". */
void kvt__guard_enter(const char *path, const char *doing);
void kvt__guard_leave(void);

/* policy_py.c */
kvt_status kvt__policy_py(const plugin_file *f, kvt_err *err) KVT_NODISCARD;

#endif
