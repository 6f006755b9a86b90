/* plugin.h - policies that are not part of the program: a shared library built against
 * kvt_policy.h and kvt_prim.h, or a Python file. A loaded policy stands in the registry
 * beside the built-in ones; kvt_policy_origin() tells them apart. For programs. */
#ifndef KVT_PLUGIN_H
#define KVT_PLUGIN_H

#include "kvt_cli.h"

/* The rows of a command's option table. */
#define KVT_PLUGIN_OPTS                                                                                                   \
    { "policy-plugin", 0, KVT_OPT_LIST, "FILE", NULL, 0, 0, NULL,                                                         \
      "a policy of your own in C, built as a shared library (policies/PLUGINS.md); may be repeated" },                    \
    { "policy-py", 0, KVT_OPT_LIST, "FILE", NULL, 0, 0, NULL, "a policy of your own in Python with numpy; may be repeated" }

/* Load what both options name, in that order; the first bad one ends it. A file that is no
 * usable policy is EFORMAT, EVERSION or ENOTSUP; a machine without Python or numpy is EIO.
 * Once per process, before any thread starts. From then on a crash inside a library ends
 * the program with one line that names it, and exit code 4. */
kvt_status kvt_plugins_load(const kvt_args *args, kvt_err *err) KVT_NODISCARD;
/* The file of this name goes when a library crashes; NULL: none. */
void       kvt_plugins_remove_on_crash(const char *path);
/* End the Python processes, whatever they compute: their calls fail. For signal handlers. */
void       kvt_plugins_interrupt(void);

#endif
