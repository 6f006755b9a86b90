/* trace_open_list.c - /checksums (FORMAT.md 10): the authoritative list of datasets.
 *
 * Every entry is a path of the file's author: checked as text, then opened component by
 * component. What section 3 names and was found before must be listed; scores and extra
 * queries are found through the list, because their names are free. */
#include "trace_open.h"

#include "kvt_text.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_PATH_BYTES  128u
#define LIST_MAX_ENTRIES 262144u              /* 256 datasets for each of 1,024 layers */

static kvt_status list_refuse(const kvt_reader *r, uint32_t i, const char *bytes, const char *why,
                              kvt_err *err)
{
    char shown[96];

    return kvt_fail(err, KVT_EFORMAT, "%s: /checksums/path: entry %u, '%s', %s", r->file.name, i,
                    kvt_printable(shown, sizeof shown, bytes, strnlen(bytes, LIST_PATH_BYTES)), why);
}

/* (/[A-Za-z0-9_]+)+ and at most 127 bytes. */
static int list_is_path(const char *s)
{
    size_t i = 0;

    while (s[i] == '/') {
        const size_t n = strspn(s + ++i, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
        if (n == 0) return 0;
        i += n;
    }
    return i > 0 && s[i] == 0;
}

static kvt_status list_path(kvt_reader *r, uint32_t i, const char *bytes, int space_padded, kvt_err *err)
{
    char *path = r->listed[i].path;
    size_t n = strnlen(bytes, LIST_PATH_BYTES);

    while (space_padded && n > 0 && bytes[n - 1] == ' ') n--;
    if (n >= LIST_PATH_BYTES) return list_refuse(r, i, bytes, "is longer than 127 bytes", err);
    memcpy(path, bytes, n);
    path[n] = 0;
    if (!list_is_path(path))
        return list_refuse(r, i, path, "is not a path of components [A-Za-z0-9_]", err);
    if (strncmp(path, "/checksums/", 11) == 0)
        return list_refuse(r, i, path, "lists the list itself", err);
    if (i && strcmp(r->listed[i - 1].path, path) >= 0)
        return list_refuse(r, i, path, strcmp(r->listed[i - 1].path, path) == 0
                           ? "is there twice" : "is out of order, expected bytewise sorting", err);
    return KVT_OK;
}

static kvt_status list_load(kvt_reader *r, const kvt_h5_at *at, kvt_err *err)
{
    kvt_h5_want want = {.string_bytes = LIST_PATH_BYTES, .rank = 1,
                        .dims = {KVT_H5_UP_TO(LIST_MAX_ENTRIES)}};
    kvt_h5_dataset path, nbytes = {.at.id = H5I_INVALID_HID}, sha = {.at.id = H5I_INVALID_HID};
    char *paths = NULL;
    uint64_t n, *sizes = NULL;
    uint8_t *digests = NULL;
    kvt_status st;

    KVT_TRY(kvt__h5_dataset_open(&path, at, "path", &want, NULL, err));
    n = path.dims[0];
    want = (kvt_h5_want){.types = KVT_H5_BIT(KVT_H5_U64), .rank = 1, .dims = {n}};
    KVT_TRY_GOTO(st, kvt__h5_dataset_open(&nbytes, at, "nbytes", &want, NULL, err));
    want = (kvt_h5_want){.types = KVT_H5_BIT(KVT_H5_U8), .rank = 2, .dims = {n, 32}};
    KVT_TRY_GOTO(st, kvt__h5_dataset_open(&sha, at, "sha256", &want, NULL, err));
    paths = malloc((size_t)path.n_bytes + 1);
    sizes = malloc((size_t)nbytes.n_bytes + 1);
    digests = malloc((size_t)sha.n_bytes + 1);
    r->listed = calloc((size_t)n + 1, sizeof *r->listed);
    if (!paths || !sizes || !digests || !r->listed) {
        st = kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
        goto done;
    }
    KVT_TRY_GOTO(st, kvt__h5_dataset_read(&path, paths, err));
    KVT_TRY_GOTO(st, kvt__h5_dataset_read(&nbytes, sizes, err));
    KVT_TRY_GOTO(st, kvt__h5_dataset_read(&sha, digests, err));
    for (uint32_t i = 0; i < n; i++) {
        KVT_TRY_GOTO(st, list_path(r, i, paths + (size_t)i * LIST_PATH_BYTES, path.space_padded, err));
        r->listed[i].n_bytes = sizes[i];
        memcpy(r->listed[i].sha256, digests + (size_t)i * 32, 32);
    }
    r->n_listed = (uint32_t)n;
done:
    free(digests);
    free(sizes);
    free(paths);
    kvt__h5_dataset_close(&sha);
    kvt__h5_dataset_close(&nbytes);
    kvt__h5_dataset_close(&path);
    return st;
}

/* ---------------------------------------------------------------- scores and extra */

/* "/layers/NNN/<group>/NAME[/...]": copy NAME, return the layer or -1. */
static int64_t list_layer_name(const kvt_reader *r, const char *path, const char *group, char name[128])
{
    char *end;
    unsigned long layer;
    char canonical[32];
    size_t n;

    if (strncmp(path, "/layers/", 8) != 0 || !isdigit((unsigned char)path[8])) return -1;
    layer = strtoul(path + 8, &end, 10);
    if (layer >= r->info.n_layers) return -1;
    n = (size_t)snprintf(canonical, sizeof canonical, "/layers/%03lu/%s/", layer, group);
    if (strncmp(path, canonical, n) != 0) return -1;
    snprintf(name, 128, "%s", path + n);
    name[strcspn(name, "/")] = 0;
    return (int64_t)layer;
}

static int list_is_name(const char *name)
{
    const size_t n = strlen(name);
    return n >= 1 && n <= 48 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

/* The list is sorted, so the names of one layer stand together: a limit per layer needs
 * one counter, and an extra group is opened when its first entry comes. */
static kvt_status list_open_named(kvt_reader *r, kvt_err *err)
{
    int64_t scores_layer = -1, extra_layer = -1;
    uint32_t n_scores = 0, n_extra = 0;
    char name[128], extra[128] = "";

    for (uint32_t i = 0; i < r->n_listed; i++) {
        const char *path = r->listed[i].path;
        int64_t layer = list_layer_name(r, path, "scores", name);

        if (layer >= 0) {
            if (!list_is_name(name) || strlen(strrchr(path, '/') + 1) != strlen(name))
                return list_refuse(r, i, path, "is not named [a-z0-9_]{1,48}", err);
            n_scores = layer == scores_layer ? n_scores + 1 : 1;
            scores_layer = layer;
            if (n_scores > KVT_MAX_SCORES) return list_refuse(r, i, path, "is one score too many (64)", err);
            KVT_TRY(kvt__open_score(r, (uint32_t)layer, name, err));
        }
        layer = list_layer_name(r, path, "extra", name);
        if (layer >= 0) {
            if (!list_is_name(name)) return list_refuse(r, i, path, "is not named [a-z0-9_]{1,48}", err);
            if (layer == extra_layer && strcmp(name, extra) == 0) continue;
            n_extra = layer == extra_layer ? n_extra + 1 : 1;
            extra_layer = layer;
            memcpy(extra, name, sizeof extra);
            if (n_extra > KVT_MAX_EXTRA) return list_refuse(r, i, path, "is one too many (16)", err);
            KVT_TRY(kvt__open_extra(r, (uint32_t)layer, name, err));
        }
    }
    return KVT_OK;
}

/* What stands in a layer's scores or extra group, but not in the list. */
typedef struct list_group {
    kvt_reader      *r;
    const kvt_h5_at *at;
} list_group;

static kvt_status list_find_name(void *user, const char *name, kvt_err *err)
{
    const list_group *g = user;
    char path[256], shown[96];
    const size_t n = (size_t)snprintf(path, sizeof path, "%s/%.64s", g->at->path, name);

    for (uint32_t i = 0; i < g->r->n_listed; i++) {
        const char *listed = g->r->listed[i].path;
        if (strncmp(listed, path, n) == 0 && (listed[n] == 0 || listed[n] == '/')) return KVT_OK;
    }
    return kvt_fail(err, KVT_EFORMAT, "%s: %s/%s: not listed in /checksums/path", g->r->file.name, g->at->path,
                    kvt_printable_str(shown, sizeof shown, name));
}

/* Their names are free, so the list is the only place that could forget them. */
static kvt_status list_check_groups(kvt_reader *r, kvt_err *err)
{
    static const char *const groups[] = {"scores", "extra"};
    static const uint32_t most[] = {KVT_MAX_SCORES, KVT_MAX_EXTRA};

    for (uint32_t layer = 0; layer < r->info.n_layers; layer++) {
        for (int k = 0; k < 2 && r->layer[layer].attn != KVT_ATTN_NONE; k++) {
            char name[32];
            kvt_h5_at at;
            kvt_status st;
            int found;

            snprintf(name, sizeof name, "%03u/%s", layer, groups[k]);
            KVT_TRY(kvt__h5_group_open(&at, &r->layers, name, &found, err));
            if (!found) continue;
            st = kvt__h5_group_each(&at, most[k], list_find_name, &(list_group){r, &at}, err);
            kvt__h5_group_close(&at);
            KVT_TRY(st);
        }
    }
    return KVT_OK;
}

/* ---------------------------------------------------------------- the two sides agree */

static int list_compare(const void *a, const void *b) { return strcmp(a, b); }

static kvt_status list_match(kvt_reader *r, kvt_err *err)
{
    const kvt_h5_want any = {.types = KVT_H5_ANY};
    uint32_t k = 0;

    if (r->n_found) qsort(r->found, r->n_found, sizeof *r->found, list_compare);
    for (uint32_t i = 0; i < r->n_listed; i++) {
        const char *path = r->listed[i].path;
        kvt_h5_dataset d;

        if (k < r->n_found && strcmp(r->found[k], path) < 0) break;
        /* Shapes of section 3 were checked where it was found; here it needs a sound type
         * and the size that the list gives. */
        KVT_TRY(kvt__h5_dataset_open(&d, &r->root, path + 1, &any, NULL, err));
        kvt__h5_dataset_close(&d);
        if (d.n_bytes != r->listed[i].n_bytes)
            return kvt_fail(err, KVT_EFORMAT, "%s: /checksums/nbytes: %s has %" PRIu64 " bytes, the list "
                            "says %" PRIu64, r->file.name, path, d.n_bytes, r->listed[i].n_bytes);
        if (k < r->n_found && strcmp(r->found[k], path) == 0) k++;
    }
    if (k < r->n_found)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: not listed in /checksums/path", r->file.name, r->found[k]);
    return KVT_OK;
}

kvt_status kvt__open_list(kvt_reader *r, kvt_err *err)
{
    const char *algorithm = "";
    uint32_t choice;
    kvt_h5_at at;
    kvt_status st;

    KVT_TRY(kvt__h5_group_open(&at, &r->root, "checksums", NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_text(r, &at, "algorithm", 0, &algorithm, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_choice(&at, "algorithm", algorithm, "sha256-1m", &choice, err));
    KVT_TRY_GOTO(st, list_load(r, &at, err));
    KVT_TRY_GOTO(st, list_open_named(r, err));
    KVT_TRY_GOTO(st, list_check_groups(r, err));
    st = list_match(r, err);
done:
    kvt__h5_group_close(&at);
    return st;
}
