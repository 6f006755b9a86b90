/* trace_open.c - open a trace: the root, and what the parts share (see trace_open.h).
 *
 * Order: nothing of a file is used before `format` and the versions have been read,
 * because a newer major version may mean something else by every other name. */
#include "trace_open.h"

#include "kvt_mul.h"
#include "kvt_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- memory */

struct kvt_block {
    struct kvt_block *next;
    max_align_t       bytes[];
};

void *kvt__reader_alloc(kvt_reader *r, size_t n_bytes)
{
    struct kvt_block *b;
    size_t total;

    if (!kvt_add(n_bytes, sizeof *b, &total)) return NULL;
    b = calloc(1, total);
    if (!b) return NULL;
    b->next = r->blocks;
    r->blocks = b;
    return b->bytes;
}

kvt_status kvt__reader_keep(kvt_reader *r, const char **out, const char *text, kvt_err *err)
{
    const size_t n = strlen(text) + 1;
    char *copy = kvt__reader_alloc(r, n);

    if (!copy) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
    memcpy(copy, text, n);
    *out = copy;
    return KVT_OK;
}

void kvt__reader_free(kvt_reader *r)
{
    if (!r) return;
    for (size_t i = 0; i < sizeof r->handle / sizeof *r->handle; i++) {
        kvt__h5_map_close(&r->handle[i].map);
        kvt__h5_dataset_close(&r->handle[i].d);
    }
    kvt__h5_group_close(&r->layers);
    kvt__h5_group_close(&r->root);
    kvt__h5_file_close(&r->file);
    while (r->blocks) {
        struct kvt_block *b = r->blocks;
        r->blocks = b->next;
        free(b);
    }
    free(r->listed);
    free(r->found);
    free(r->id_attr);
    free(r->path);
    free(r);
}

/* ---------------------------------------------------------------- attributes */

static const char *reader_at(const kvt_h5_at *at) { return *at->path ? at->path : "/"; }

static kvt_status reader_note_id(kvt_reader *r, const kvt_h5_at *at, const char *name, kvt_id_attr value,
                                 kvt_err *err)
{
    if (r->n_id_attr == r->id_attr_cap) {
        const uint32_t cap = r->id_attr_cap ? 2 * r->id_attr_cap : 64;
        kvt_id_attr *grown = realloc(r->id_attr, cap * sizeof *grown);
        if (!grown) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
        r->id_attr = grown;
        r->id_attr_cap = cap;
    }
    snprintf(value.path, sizeof value.path, "%.127s", reader_at(at));
    snprintf(value.name, sizeof value.name, "%.31s", name);
    r->id_attr[r->n_id_attr++] = value;
    return KVT_OK;
}

kvt_status kvt__reader_int(kvt_reader *r, const kvt_h5_at *at, const char *name, int64_t min,
                           int64_t max, int id, int64_t *out, int *found, kvt_err *err)
{
    int64_t x = 0;

    KVT_TRY(kvt__h5_attr_int(at, name, 1, &x, found, err));
    if (found && !*found) return KVT_OK;
    if (x < min || x > max)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s is %" PRId64 ", expected %" PRId64
                        " to %" PRId64, r->file.name, reader_at(at), name, x, min, max);
    *out = x;
    return id ? reader_note_id(r, at, name, (kvt_id_attr){.kind = 'i', .i = x}, err) : KVT_OK;
}

kvt_status kvt__reader_real(kvt_reader *r, const kvt_h5_at *at, const char *name, double min, int id,
                            double *out, int *found, kvt_err *err)
{
    double x = 0;
    char number[32];

    KVT_TRY(kvt__h5_attr_real(at, name, &x, found, err));
    if (found && !*found) return KVT_OK;
    if (x < min)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s is %s, which is too small", r->file.name,
                        reader_at(at), name, kvt_number(number, x));
    *out = x;
    return id ? reader_note_id(r, at, name, (kvt_id_attr){.kind = 'f', .f = x}, err) : KVT_OK;
}

kvt_status kvt__reader_text(kvt_reader *r, const kvt_h5_at *at, const char *name, int id,
                            const char **out, int *found, kvt_err *err)
{
    char text[KVT_MAX_STRING + 1];

    KVT_TRY(kvt__h5_attr_text(at, name, text, found, err));
    if (found && !*found) return KVT_OK;
    KVT_TRY(kvt__reader_keep(r, out, text, err));
    return id ? reader_note_id(r, at, name, (kvt_id_attr){.kind = 's', .s = *out}, err) : KVT_OK;
}

kvt_status kvt__reader_choice(const kvt_h5_at *at, const char *name, const char *value,
                              const char *choices, uint32_t *out, kvt_err *err)
{
    const size_t n = strlen(value);
    const char *c = choices;
    char shown[64];

    for (uint32_t i = 0; ; i++) {
        const size_t len = strcspn(c, "|");
        if (len == n && memcmp(c, value, n) == 0) {
            *out = i;
            return KVT_OK;
        }
        if (!c[len]) break;
        c += len + 1;
    }
    return kvt_fail(err, KVT_ENOTSUP, "%s: %s: attribute %s is '%s'; this version knows %s",
                    at->file->name, reader_at(at), name, kvt_printable_str(shown, sizeof shown, value),
                    choices);
}

/* ---------------------------------------------------------------- datasets */

kvt_status kvt__reader_dataset(kvt_reader *r, const kvt_h5_at *at, const char *name,
                               const kvt_h5_want *want, kvt_h5_dataset *out, int *found, kvt_err *err)
{
    kvt_h5_dataset d;

    KVT_TRY(kvt__h5_dataset_open(&d, at, name, want, found, err));
    if (d.at.id >= 0) {
        if (r->n_found == r->found_cap) {
            const uint32_t cap = r->found_cap ? 2 * r->found_cap : 64;
            char (*grown)[128] = realloc(r->found, cap * sizeof *grown);
            if (!grown) {
                kvt__h5_dataset_close(&d);
                return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
            }
            r->found = grown;
            r->found_cap = cap;
        }
        snprintf(r->found[r->n_found++], sizeof *r->found, "%.127s", d.at.path);
    }
    if (out)
        *out = d;
    else
        kvt__h5_dataset_close(&d);
    return KVT_OK;
}

kvt_status kvt__reader_load(kvt_reader *r, const kvt_h5_at *at, const char *name,
                            const kvt_h5_want *want, const void **out, uint64_t *n_out, int *found,
                            kvt_err *err)
{
    kvt_h5_dataset d;
    void *data;
    kvt_status st;

    KVT_TRY(kvt__reader_dataset(r, at, name, want, &d, found, err));
    if (d.at.id < 0) return KVT_OK;
    data = kvt__reader_alloc(r, (size_t)d.n_bytes);
    st = data ? kvt__h5_dataset_read(&d, data, err)
              : kvt_fail(err, KVT_ENOMEM, "%s: %s: no memory for %" PRIu64 " bytes", r->file.name,
                         d.at.path, d.n_bytes);
    if (st == KVT_OK) {
        *out = data;
        if (n_out) *n_out = d.dims[0];
    }
    kvt__h5_dataset_close(&d);
    return st;
}

/* ---------------------------------------------------------------- root */

static kvt_status root_version(kvt_reader *r, kvt_err *err)
{
    static const char *const names[2] = {"format_version", "min_reader"};
    kvt_trace_info *info = &r->info;
    char text[KVT_MAX_STRING + 1] = "", shown[64];
    int64_t v[2][3];

    KVT_TRY(kvt__h5_attr_text(&r->root, "format", text, NULL, err));
    if (strcmp(text, "kvtrace") != 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: /: attribute format is '%s', expected 'kvtrace'",
                        r->file.name, kvt_printable_str(shown, sizeof shown, text));
    for (int i = 0; i < 2; i++) {
        KVT_TRY(kvt__h5_attr_int(&r->root, names[i], 3, v[i], NULL, err));
        for (int j = 0; j < 3; j++)
            if (v[i][j] < 0 || v[i][j] > UINT32_MAX)
                return kvt_fail(err, KVT_EFORMAT, "%s: /: attribute %s has the part %" PRId64
                                ", expected 0 to 4294967295", r->file.name, names[i], v[i][j]);
        for (int j = 0; j < 3; j++) (i ? info->min_reader : info->format)[j] = (uint32_t)v[i][j];
    }
    if (info->format[0] != KVT_FORMAT_MAJOR || info->min_reader[0] > KVT_FORMAT_MAJOR ||
        (info->min_reader[0] == KVT_FORMAT_MAJOR && info->min_reader[1] > KVT_FORMAT_MINOR))
        return kvt_fail(err, KVT_EVERSION, "%s: /: format_version %u.%u.%u, min_reader %u.%u.%u; this "
                        "program reads format %u.%u: use a newer kvtrace", r->file.name,
                        info->format[0], info->format[1], info->format[2], info->min_reader[0],
                        info->min_reader[1], info->min_reader[2], KVT_FORMAT_MAJOR, KVT_FORMAT_MINOR);
    return KVT_OK;
}

static int root_is_hex(const char *s, size_t n)
{
    return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

/* uuid, content_id and the other words of the root. An unfinished file may lack them. */
static kvt_status root_texts(kvt_reader *r, kvt_err *err)
{
    kvt_trace_info *info = &r->info;
    const char *kind = "causal";
    const struct { const char *name; const char **out; int id, required; } texts[] = {
        {"created", &info->created, 0, 1},       {"writer", &info->writer, 0, 1},
        {"uuid", &info->uuid, 0, 1},             {"content_id", &info->content_id, 0, info->complete},
        {"trace_kind", &kind, 1, 1},             {"exactness", &info->exactness, 1, 1},
        {"cluster_id", &info->cluster_id, 0, 0}, {"sample_id", &info->sample_id, 0, 0},
    };
    uint32_t choice;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int found, *optional = texts[i].required && info->complete ? NULL : &found;
        KVT_TRY(kvt__reader_text(r, &r->root, texts[i].name, texts[i].id, texts[i].out, optional, err));
    }
    KVT_TRY(kvt__reader_choice(&r->root, "trace_kind", kind, "causal", &choice, err));
    if (!*info->cluster_id) info->cluster_id = info->uuid;
    if (!info->complete) return KVT_OK;
    if (strlen(info->uuid) != 36 || strspn(info->uuid, "0123456789abcdefABCDEF-") != 36)
        return kvt_fail(err, KVT_EFORMAT, "%s: /: attribute uuid is not a UUID of 36 characters",
                        r->file.name);
    if (!root_is_hex(info->content_id, 64))
        return kvt_fail(err, KVT_EFORMAT, "%s: /: attribute content_id is not 64 lower-case hex digits",
                        r->file.name);
    return KVT_OK;
}

static kvt_status root_shards(kvt_reader *r, kvt_err *err)
{
    int64_t index = 0, count = 1;
    int has_index, has_count;

    KVT_TRY(kvt__reader_int(r, &r->root, "shard_index", 0, KVT_MAX_LAYERS, 0, &index, &has_index, err));
    KVT_TRY(kvt__reader_int(r, &r->root, "shard_count", 1, KVT_MAX_LAYERS, 0, &count, &has_count, err));
    if (has_index != has_count)
        return kvt_fail(err, KVT_EFORMAT, "%s: /: attributes shard_index and shard_count: one is missing",
                        r->file.name);
    if (index >= count)
        return kvt_fail(err, KVT_EFORMAT, "%s: /: attribute shard_index is %" PRId64 ", expected 0 to %"
                        PRId64, r->file.name, index, count - 1);
    if (count != 1)
        return kvt_fail(err, KVT_ENOTSUP, "%s: /: shard %" PRId64 " of %" PRId64 " (shard_count); this "
                        "version reads whole traces only", r->file.name, index, count);
    return KVT_OK;
}

static kvt_status root_numbers(kvt_reader *r, kvt_err *err)
{
    kvt_trace_info *info = &r->info;
    const int64_t most = KVT_MAX_TOKENS;
    int64_t layers, n, g = 0, w = 0, question, dim = 0, vocab = 0, redacted = 0;
    int found, *optional = info->complete ? NULL : &found;

    KVT_TRY(kvt__reader_int(r, &r->root, "n_layers", 1, KVT_MAX_LAYERS, 1, &layers, NULL, err));
    KVT_TRY(kvt__reader_int(r, &r->root, "n_prompt", 1, most, 1, &n, NULL, err));
    /* A writer that does not know the length yet has no number to write. */
    KVT_TRY(kvt__reader_int(r, &r->root, "n_decode", info->complete ? 0 : INT64_MIN,
                            info->complete ? most - n : INT64_MAX, 1, &g, optional, err));
    if (g < 0 || g > most - n) g = 0;
    KVT_TRY(kvt__reader_int(r, &r->root, "window", 0, n, 1, &w, optional, err));
    question = n;
    KVT_TRY(kvt__reader_int(r, &r->root, "question_start", 0, n, 1, &question, optional, err));
    KVT_TRY(kvt__reader_int(r, &r->root, "model_dim", 1, KVT_MAX_MODEL_DIM, 1, &dim, optional, err));
    KVT_TRY(kvt__reader_int(r, &r->root, "redacted", 0, 1, 1, &redacted, optional, err));
    KVT_TRY(kvt__reader_int(r, &r->root, "vocab_size", 0, INT32_MAX, 0, &vocab, &found, err));
    info->n_layers = (uint32_t)layers;
    info->n_prompt = (uint32_t)n;
    info->n_decode = (uint32_t)g;
    info->n_tokens = (uint32_t)(n + g);
    info->window = (uint32_t)w;
    info->question_start = (uint32_t)question;
    info->model_dim = (uint32_t)dim;
    info->vocab_size = (uint32_t)vocab;
    info->redacted = (uint32_t)redacted;
    return KVT_OK;
}

static kvt_status reader_open(kvt_reader *r, const char *path, int allow_incomplete, kvt_err *err)
{
    const size_t shown = 10 * strlen(path) + 1;     /* the longest escape of one byte */
    int64_t complete;

    r->path = malloc(shown);
    if (!r->path) return kvt_fail(err, KVT_ENOMEM, "out of memory");
    kvt_printable_str(r->path, shown, path);
    KVT_TRY(kvt__h5_file_open(&r->file, path, err));
    r->info.file_bytes = r->file.n_bytes;
    r->root.file = &r->file;
    r->root.id = H5Gopen2(r->file.id, "/", H5P_DEFAULT);
    if (r->root.id < 0)
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: /: damaged, cannot be opened", r->file.name);
    KVT_TRY(root_version(r, err));
    KVT_TRY(kvt__reader_int(r, &r->root, "complete", 0, 1, 0, &complete, NULL, err));
    r->info.complete = (int)complete;
    if (!complete && !allow_incomplete)
        return kvt_fail(err, KVT_EFORMAT, "%s: /: attribute complete is 0: incomplete, the writer died or "
                        "still runs", r->file.name);
    KVT_TRY(root_texts(r, err));
    KVT_TRY(root_shards(r, err));
    KVT_TRY(root_numbers(r, err));
    KVT_TRY(kvt__open_layers(r, err));
    KVT_TRY(kvt__open_tokens(r, err));
    KVT_TRY(kvt__open_asides(r, err));
    return r->info.complete ? kvt__open_list(r, err) : KVT_OK;
}

kvt_status kvt_source_open(kvt_source *out, const char *path, int allow_incomplete, kvt_err *err)
{
    kvt_reader *r = calloc(1, sizeof *r);
    kvt_status st;

    if (!r) return kvt_fail(err, KVT_ENOMEM, "out of memory");
    r->file.id = r->file.lapl = r->root.id = r->layers.id = H5I_INVALID_HID;
    for (size_t i = 0; i < sizeof r->handle / sizeof *r->handle; i++)
        r->handle[i].d.at.id = H5I_INVALID_HID;
    r->info.created = r->info.writer = r->info.uuid = r->info.content_id = r->info.exactness = "";
    r->info.cluster_id = r->info.sample_id = "";
    /* After a damaged file libhdf5 1.10 may fail to close itself at exit and fill stderr
     * with "infinite loop closing library". Only before the first other call has it an
     * effect; every file is closed by its owner anyway. */
    H5dont_atexit();
    H5E_BEGIN_TRY {
        st = reader_open(r, path, allow_incomplete, err);
        if (st < 0) kvt__reader_free(r);
    } H5E_END_TRY;
    if (st < 0) return st;
    *out = (kvt_source){.ops = &kvt__hdf5_ops, .self = r, .info = &r->info, .path = r->path};
    return KVT_OK;
}
