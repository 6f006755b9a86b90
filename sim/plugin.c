/* plugin.c - loads the policies that --policy-plugin and --policy-py name. The SHA-256 of
 * a file is part of every configuration of its policy, so that two builds, or two texts,
 * never share a result. */
#define _XOPEN_SOURCE 700            /* realpath */
#include "plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "kvt_registry.h"
#include "kvt_sha256.h"
#include "kvt_text.h"
#include "plugin_impl.h"

enum { PLUGIN_MAX_BYTES = 256 << 20 };

/* ---- files -------------------------------------------------------------------------- */

static kvt_status plugin_read_all(plugin_file *f, FILE *in, kvt_err *err)
{
    struct stat st;

    if (fstat(fileno(in), &st) != 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s", f->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return kvt_fail(err, KVT_EFORMAT, "%s: not a regular file", f->path);
    if (st.st_size == 0 || st.st_size > PLUGIN_MAX_BYTES)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s", f->path, st.st_size ? "too big for a policy (256 MiB)" : "the file is empty");
    f->data = malloc((size_t)st.st_size + 1);
    if (!f->data)
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", f->path);
    f->n_bytes = fread(f->data, 1, (size_t)st.st_size, in);
    f->data[f->n_bytes] = 0;
    if (f->n_bytes != (size_t)st.st_size)
        return kvt_fail(err, KVT_EFORMAT, "%s: cannot be read: %s", f->path, ferror(in) ? strerror(errno) : "it is being written");
    return KVT_OK;
}

kvt_status kvt__plugin_read(plugin_file *out, const char *path, kvt_err *err)
{
    plugin_file f = { 0 };
    uint8_t digest[32];
    FILE *in;
    kvt_status st;

    kvt_printable_str(f.path, sizeof f.path, path);
    f.real = realpath(path, NULL);
    in = f.real ? fopen(f.real, "rb") : NULL;
    st = in ? plugin_read_all(&f, in, err) : kvt_fail(err, KVT_EFORMAT, "%s: %s", f.path, strerror(errno));
    if (in)
        fclose(in);
    if (st < 0) {
        kvt__plugin_fini(&f);
        return st;
    }
    kvt_sha256_of(f.data, f.n_bytes, digest);
    kvt_sha256_hex(digest, f.sha256);
    *out = f;
    return KVT_OK;
}

void kvt__plugin_fini(plugin_file *f)
{
    free(f->real);
    free(f->data);
    f->real = f->data = NULL;
}

/* ---- registry ----------------------------------------------------------------------- */

typedef struct plugin_entry {       /* stays                                          */
    kvt_policy policy;
    char       sha256[65], title[PLUGIN_SHOWN], cite[PLUGIN_SHOWN], note[480];
} plugin_entry;

kvt_status kvt__plugin_add(const plugin_file *f, const kvt_policy *p, kvt_err *err)
{
    plugin_entry *e;

    KVT_TRY(kvt__plugin_check(f->path, p, err));
    e = malloc(sizeof *e);
    if (!e)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    memcpy(e->sha256, f->sha256, sizeof e->sha256);
    e->policy = *p;
    e->policy.title = kvt_printable_str(e->title, sizeof e->title, p->title && *p->title ? p->title : p->id);
    e->policy.cite = kvt_printable_str(e->cite, sizeof e->cite, p->cite);
    if (p->note)
        e->policy.note = kvt_printable_str(e->note, sizeof e->note, p->note);
    if (!kvt_policy_add(&e->policy, e->sha256)) {
        free(e);
        return kvt_fail(err, KVT_ENOTSUP, "%s: more than %u policies from files", f->path, KVT_PLUGINS_MAX);
    }
    return KVT_OK;
}

/* ---- a shared library --------------------------------------------------------------- */

static kvt_status plugin_not_a_library(const plugin_file *f, kvt_err *err)
{
    const char *why = dlerror(), *text = why ? why : "cannot be loaded";
    char shown[256];

    if (!strncmp(text, f->real, strlen(f->real)) && !strncmp(text + strlen(f->real), ": ", 2))
        text += strlen(f->real) + 2;
    kvt_printable_str(shown, sizeof shown, text);
    if (f->n_bytes < 4 || memcmp(f->data, "\177ELF", 4))
        return kvt_fail(err, KVT_EFORMAT, "%s: not a shared library (%s); build one: gcc -shared -fPIC -I<prefix>/include/kvtrace mine.c "
                        "-o mine.so", f->path, shown);
    return kvt_fail(err, KVT_EFORMAT, "%s: %s", f->path, shown);
}

static kvt_status plugin_load_library(const plugin_file *f, kvt_err *err)
{
    const kvt_policy *(*entry)(void);
    const kvt_policy *p;
    kvt_policy guarded;
    void *library, *symbol;

    kvt__guard_install();
    kvt__guard_enter(f->path, "while it was loaded");
    library = dlopen(f->real, RTLD_NOW | RTLD_LOCAL);
    kvt__guard_leave();
    if (!library)
        return plugin_not_a_library(f, err);
    symbol = dlsym(library, "kvt_policy_plugin");
    if (!symbol)
        return kvt_fail(err, KVT_EFORMAT, "%s: has no kvt_policy_plugin(): does the file end with KVT_POLICY_PLUGIN(its policy)?", f->path);
    memcpy(&entry, &symbol, sizeof entry);      /* ISO C has no cast for this */
    kvt__guard_enter(f->path, "in kvt_policy_plugin()");
    p = entry();
    kvt__guard_leave();
    KVT_TRY(kvt__plugin_check(f->path, p, err));
    KVT_TRY(kvt__guard_policy(f->path, p, &guarded, err));
    return kvt__plugin_add(f, &guarded, err);   /* the library stays loaded */
}

/* ---- options ------------------------------------------------------------------------ */

static kvt_status plugin_load_list(const kvt_args *args, const char *option, kvt_status (*load)(const plugin_file *, kvt_err *), kvt_err *err)
{
    for (uint32_t i = 0; i < kvt_arg_count(args, option); i++) {
        plugin_file f;
        kvt_status st;

        KVT_TRY(kvt__plugin_read(&f, kvt_arg_item(args, option, i), err));
        st = load(&f, err);
        kvt__plugin_fini(&f);
        KVT_TRY(st);
    }
    return KVT_OK;
}

kvt_status kvt_plugins_load(const kvt_args *args, kvt_err *err)
{
    KVT_TRY(plugin_load_list(args, "policy-plugin", plugin_load_library, err));
    return plugin_load_list(args, "policy-py", kvt__policy_py, err);
}
