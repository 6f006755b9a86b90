/* trace_write.c - the writer: NAME.part from creation to its final name (FORMAT.md 14).
 *
 * Order: create; layer 0, 1, 2 ... each before its rows; append and flush; commit or
 * abort. After a failed write every later call repeats that failure. */
#include "trace_write_impl.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kvt_text.h"

static bool writer_has_text(const char *text)
{
    return text && *text;
}

/* The first failure of a write is final: the file on disk is in an unknown state. */
static kvt_status writer_fail(kvt_writer *w, kvt_status st, const kvt_err *why, kvt_err *err)
{
    if (st < 0 && w->failed == KVT_OK) {
        w->failed = st;
        w->failure = *why;
    }
    if (w->failed < 0 && err) *err = w->failure;
    return w->failed;
}

/* ---------------------------------------------------------------- creation */

static kvt_status writer_uuid(char out[37], const char *shown, kvt_err *err)
{
    uint8_t b[16];
    const int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, b, sizeof b);

    if (fd >= 0) close(fd);
    if (n != (ssize_t)sizeof b) return kvt_fail(err, KVT_EIO, "%s: cannot read /dev/urandom for its uuid", shown);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);     /* RFC 9562: version 4, random */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
             b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return KVT_OK;
}

static void writer_now(char out[32])
{
    const time_t now = time(NULL);
    struct tm utc;

    if (!gmtime_r(&now, &utc) || strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
        memcpy(out, "1970-01-01T00:00:00Z", 21);
}

static kvt_status writer_put_root(kvt_writer *w, const kvt_writer_head *h, kvt_err *err)
{
    static const uint32_t version[3] = { 1, 0, 0 };
    const kvt_trace_info *const n = &w->info;
    char now[32], uuid[37];

    writer_now(now);
    if (!writer_has_text(h->uuid)) KVT_TRY(writer_uuid(uuid, w->part.shown, err));
    KVT_TRY(kvt__write_text(w, "/", "format", "kvtrace", false, err));
    KVT_TRY(kvt__write_u32x3(w, "format_version", version, err));
    KVT_TRY(kvt__write_u32x3(w, "min_reader", version, err));
    KVT_TRY(kvt__write_complete(w, 0, err));
    KVT_TRY(kvt__write_text(w, "/", "created", writer_has_text(h->created) ? h->created : now, false, err));
    KVT_TRY(kvt__write_text(w, "/", "writer", h->writer, false, err));
    KVT_TRY(kvt__write_text(w, "/", "uuid", writer_has_text(h->uuid) ? h->uuid : uuid, false, err));
    KVT_TRY(kvt__write_text(w, "/", "trace_kind", "causal", true, err));
    KVT_TRY(kvt__write_text(w, "/", "exactness", writer_has_text(h->exactness) ? h->exactness : "engine-operands",
                            true, err));
    KVT_TRY(kvt__write_text(w, "/", "cluster_id", h->cluster_id, false, err));
    KVT_TRY(kvt__write_text(w, "/", "sample_id", h->sample_id, false, err));
    KVT_TRY(kvt__write_int(w, "/", "n_layers", n->n_layers, true, err));
    KVT_TRY(kvt__write_int(w, "/", "n_prompt", n->n_prompt, true, err));
    /* Corrected at the end, when it also enters the content id. */
    KVT_TRY(kvt__write_int(w, "/", "n_decode", w->known ? n->n_decode : 0, false, err));
    KVT_TRY(kvt__write_int(w, "/", "window", n->window, true, err));
    KVT_TRY(kvt__write_int(w, "/", "question_start", h->question_start, true, err));
    KVT_TRY(kvt__write_int(w, "/", "model_dim", h->model_dim, true, err));
    KVT_TRY(kvt__write_int(w, "/", "redacted", 0, true, err));
    return h->vocab_size ? kvt__write_int(w, "/", "vocab_size", h->vocab_size, false, err) : KVT_OK;
}

static kvt_status writer_put_provenance(kvt_writer *w, const kvt_writer_head *h, kvt_err *err)
{
    static const char path[] = "/provenance";

    KVT_TRY(kvt__write_group(w, path, err));
    for (uint32_t i = 0; i < h->n_provenance; i++) {
        const kvt_pair *const p = &h->provenance[i];
        if (strcmp(p->name, "seed") == 0 && writer_has_text(p->value))
            KVT_TRY(kvt__write_int(w, path, "seed", strtoll(p->value, NULL, 10), false, err));
        else
            KVT_TRY(kvt__write_text(w, path, p->name, p->value, false, err));
    }
    if (writer_has_text(h->model_files_json)) {
        const uint64_t n = strlen(h->model_files_json);
        KVT_TRY(kvt__write_dataset(w, "/provenance/model_files", KVT_H5_U8, 1, &n, h->model_files_json, err));
    }
    if (writer_has_text(h->config_json)) {
        const uint64_t n = strlen(h->config_json);
        KVT_TRY(kvt__write_dataset(w, "/provenance/config_json", KVT_H5_U8, 1, &n, h->config_json, err));
    }
    return KVT_OK;
}

static kvt_status writer_begin(kvt_writer *w, const kvt_writer_head *h, kvt_err *err)
{
    w->scalar = H5Screate(H5S_SCALAR);
    w->plain = H5Pcreate(H5P_DATASET_CREATE);
    /* Without times two runs with the same inputs are the same bytes; nothing is read
     * before it is written, so filling is waste. */
    if (w->scalar < 0 || w->plain < 0 || H5Pset_obj_track_times(w->plain, 0) < 0
        || H5Pset_fill_time(w->plain, H5D_FILL_TIME_NEVER) < 0)
        return kvt__h5_fail(err, KVT_ENOMEM, "%s: HDF5 has no memory", w->part.shown);
    for (int t = 0; t < KVT_H5_OTHER; t++)
        if ((w->type[t] = kvt__h5_type_new((kvt_h5_type)t)) < 0)
            return kvt__h5_fail(err, KVT_ENOMEM, "%s: HDF5 has no memory", w->part.shown);
    KVT_TRY(writer_put_root(w, h, err));
    KVT_TRY(writer_put_provenance(w, h, err));
    return kvt__write_group(w, "/layers", err);
}

static kvt_writer *writer_new(const kvt_writer_head *h)
{
    kvt_writer *const w = calloc(1, sizeof *w);
    size_t n_tensors = (size_t)h->n_layers * KVT_T_END;

    if (!w) return NULL;
    w->known = h->n_decode != KVT_LENGTH_UNKNOWN;
    w->chunked = h->chunked;
    w->info.n_layers = h->n_layers;
    w->info.n_prompt = h->n_prompt;
    w->info.n_decode = w->known ? h->n_decode : KVT_MAX_TOKENS - h->n_prompt;
    w->info.n_tokens = h->n_prompt + w->info.n_decode;
    w->info.window = h->window;
    w->info.n_rows = h->window + w->info.n_decode;
    w->info.model_dim = h->model_dim;
    w->scalar = w->plain = H5I_INVALID_HID;
    for (int t = 0; t < KVT_H5_OTHER; t++) w->type[t] = H5I_INVALID_HID;
    w->layer = calloc(h->n_layers, sizeof *w->layer);
    w->tensor = calloc(n_tensors, sizeof *w->tensor);
    w->id = kvt_id_lines_new();
    if (!w->layer || !w->tensor || !w->id) {
        kvt_id_lines_free(w->id);
        free(w->tensor);
        free(w->layer);
        free(w);
        return NULL;
    }
    for (size_t i = 0; i < n_tensors; i++) w->tensor[i].dset = H5I_INVALID_HID;
    return w;
}

kvt_status kvt_writer_create(kvt_writer **out, const char *path, const kvt_writer_head *head, kvt_err *err)
{
    char shown[256];
    kvt_writer *w;
    kvt_status st;

    KVT_TRY(kvt__write_check_head(kvt_printable_str(shown, sizeof shown, path), head, err));
    w = writer_new(head);
    if (!w) return kvt_fail(err, KVT_ENOMEM, "%s: no memory for %u layers", shown, head->n_layers);
    kvt__h5_init();
    H5E_BEGIN_TRY {
        st = kvt__part_create(&w->part, path, err);
        if (st == KVT_OK) st = writer_begin(w, head, err);
    } H5E_END_TRY;
    if (st == KVT_OK) *out = w;
    else kvt_writer_abort(w, 0);
    return st;
}

/* ---------------------------------------------------------------- layers */

static kvt_status writer_put_rope(kvt_writer *w, const char *group, const kvt_layer_info *l, kvt_err *err)
{
    const uint64_t dims[2] = { l->rope_segments, l->rope_dims / 2 };
    char path[32], dataset[KVT_WRITE_PATH];

    snprintf(path, sizeof path, "%.24s/rope", group);
    KVT_TRY(kvt__write_group(w, path, err));
    KVT_TRY(kvt__write_text(w, path, "type", writer_has_text(l->rope_type) ? l->rope_type : "default", false, err));
    KVT_TRY(kvt__write_text(w, path, "pairing", l->rope_interleaved ? "interleaved" : "half", true, err));
    KVT_TRY(kvt__write_int(w, path, "rotary_dim", l->rope_dims, true, err));
    KVT_TRY(kvt__write_int(w, path, "offset", l->rope_offset, true, err));
    KVT_TRY(kvt__write_real(w, path, "attention_scaling", l->rope_attention_scaling, true, err));
    KVT_TRY(kvt__write_text(w, path, "angle_dtype", l->rope_angle_type, true, err));
    KVT_TRY(kvt__write_text(w, path, "table_dtype", l->rope_table_type, true, err));
    snprintf(dataset, sizeof dataset, "%s/inv_freq", path);
    KVT_TRY(kvt__write_dataset(w, dataset, KVT_H5_F64, 2, dims, l->rope_inv_freq, err));
    snprintf(dataset, sizeof dataset, "%s/segment_start", path);
    return kvt__write_dataset(w, dataset, KVT_H5_I64, 1, dims, l->rope_segment_start, err);
}

static kvt_status writer_put_layer(kvt_writer *w, const char *path, const kvt_layer_info *l, kvt_err *err)
{
    const bool windowed = l->attn == KVT_ATTN_SLIDING || l->attn == KVT_ATTN_CHUNKED;

    KVT_TRY(kvt__write_group(w, path, err));
    KVT_TRY(kvt__write_text(w, path, "attn_type", kvt_attn_name(l->attn), true, err));
    if (l->attn == KVT_ATTN_NONE) return KVT_OK;
    KVT_TRY(kvt__write_text(w, path, "score", "dot", true, err));
    KVT_TRY(kvt__write_int(w, path, "n_heads", l->n_heads, true, err));
    KVT_TRY(kvt__write_int(w, path, "n_kv_heads", l->n_kv_heads, true, err));
    KVT_TRY(kvt__write_int(w, path, "d_k", l->d_k, true, err));
    KVT_TRY(kvt__write_int(w, path, "d_v", l->d_v, true, err));
    KVT_TRY(kvt__write_real(w, path, "scale", l->scale, true, err));
    KVT_TRY(kvt__write_real(w, path, "softcap", l->softcap, true, err));
    KVT_TRY(kvt__write_int(w, path, "window", windowed ? (int64_t)l->window : -1, true, err));
    KVT_TRY(kvt__write_int(w, path, "has_sinks", l->has_sinks != 0, true, err));
    return kvt__write_int(w, path, "kv_layer", l->kv_layer, true, err);
}

static kvt_status writer_layer(kvt_writer *w, uint32_t layer, const kvt_layer_info *l, const char *lse_source,
                               kvt_err *err)
{
    char path[24], sub[KVT_WRITE_PATH];

    snprintf(path, sizeof path, "/layers/%03u", (unsigned)layer);
    KVT_TRY(writer_put_layer(w, path, l, err));
    if (l->rope_dims > 0) KVT_TRY(writer_put_rope(w, path, l, err));
    if (l->has & 1u << KVT_T_STAT_SUM) {
        snprintf(sub, sizeof sub, "%s/stats", path);
        KVT_TRY(kvt__write_group(w, sub, err));
        KVT_TRY(kvt__write_int(w, sub, "n_queries", w->info.n_prompt, true, err));
        KVT_TRY(kvt__write_int(w, sub, "first_query", 0, true, err));
    }
    for (int t = KVT_T_K; t < KVT_T_END; t++)
        if (l->has & 1u << t) KVT_TRY(kvt__write_tensor_open(w, layer, (kvt_tensor)t, err));
    if (!(l->has & 1u << KVT_T_LSE)) return KVT_OK;
    snprintf(sub, sizeof sub, "%s/lse", path);
    return kvt__write_text(w, sub, "source", lse_source, false, err);
}

kvt_status kvt_writer_layer(kvt_writer *w, uint32_t layer, const kvt_layer_info *info, const char *lse_source,
                            kvt_err *err)
{
    kvt_layer_info *const kept = &w->layer[layer < w->info.n_layers ? layer : 0];
    kvt_err why = { 0 };
    kvt_status st;

    if (w->failed < 0) return writer_fail(w, w->failed, &w->failure, err);
    KVT_TRY(kvt__write_check_layer(w, layer, info, lse_source, err));
    *kept = *info;
    if (info->attn == KVT_ATTN_NONE) *kept = (kvt_layer_info){ .attn = KVT_ATTN_NONE };
    H5E_BEGIN_TRY {
        st = writer_layer(w, layer, kept, lse_source, &why);
    } H5E_END_TRY;
    kept->rope_type = kept->rope_angle_type = kept->rope_table_type = NULL;     /* the caller's */
    kept->rope_inv_freq = NULL;
    kept->rope_segment_start = NULL;
    w->n_announced++;
    return writer_fail(w, st, &why, err);
}

/* ---------------------------------------------------------------- rows */

static kvt_status writer_check_rows(const kvt_writer *w, uint32_t layer, kvt_tensor t, uint32_t head, uint32_t n,
                                    kvt_err *err)
{
    const kvt_write_tensor *x;
    uint32_t most;
    char path[KVT_WRITE_PATH];

    if (layer >= w->n_announced)
        return kvt_fail(err, KVT_EARG, "%s: rows for layer %u before it was announced", w->part.shown, layer);
    if (t < KVT_T_K || t >= KVT_T_END)
        return kvt_fail(err, KVT_EARG, "%s: layer %u: no such tensor: %d", w->part.shown, layer, (int)t);
    kvt__write_tensor_path(path, layer, t);
    x = &w->tensor[(size_t)layer * KVT_T_END + (size_t)t];
    if (x->n_heads == 0)
        return kvt_fail(err, KVT_EARG, "%s: %s was not announced with its layer", w->part.shown, path);
    if (head >= x->n_heads)
        return kvt_fail(err, KVT_EARG, "%s: %s has %u heads, there is no head %u", w->part.shown, path, x->n_heads,
                        head);
    most = x->rank == 1 ? 1 : kvt_tensor_rows(&w->info, &w->layer[layer], t);
    if (n > most - x->head[head].rows)
        return kvt_fail(err, KVT_EARG, "%s: %s: head %u has %u rows and can have %u, %u more were given",
                        w->part.shown, path, head, x->head[head].rows, most, n);
    return KVT_OK;
}

kvt_status kvt_writer_append(kvt_writer *w, uint32_t layer, kvt_tensor tensor, uint32_t head, uint32_t n,
                             const void *data, kvt_err *err)
{
    kvt_err why = { 0 };
    kvt_status st;

    if (w->failed < 0) return writer_fail(w, w->failed, &w->failure, err);
    KVT_TRY(writer_check_rows(w, layer, tensor, head, n, err));
    H5E_BEGIN_TRY {
        st = kvt__write_rows(w, layer, tensor, head, n, data, &why);
    } H5E_END_TRY;
    return writer_fail(w, st, &why, err);
}

static kvt_status writer_flush(kvt_writer *w, kvt_err *err)
{
    for (uint32_t layer = 0; layer < w->n_announced; layer++)
        for (int t = KVT_T_K; t < KVT_T_END; t++)
            KVT_TRY(kvt__write_tensor_drain(w, layer, (kvt_tensor)t, err));
    if (H5Fflush(w->part.h5, H5F_SCOPE_GLOBAL) < 0)
        return kvt__h5_fail(err, KVT_EIO, "%s: HDF5 cannot flush its .part file", w->part.shown);
    return kvt__part_check(&w->part, err);
}

kvt_status kvt_writer_flush(kvt_writer *w, kvt_err *err)
{
    kvt_err why = { 0 };
    kvt_status st;

    if (w->failed < 0) return writer_fail(w, w->failed, &w->failure, err);
    H5E_BEGIN_TRY {
        st = writer_flush(w, &why);
    } H5E_END_TRY;
    return writer_fail(w, st, &why, err);
}

/* ---------------------------------------------------------------- the end */

kvt_status kvt_writer_commit(kvt_writer *w, const kvt_writer_tail *tail, kvt_err *err)
{
    kvt_err why = { 0 };
    kvt_status st = w->failed;

    if (st < 0) {
        if (err) *err = w->failure;
    } else {
        H5E_BEGIN_TRY {
            st = kvt__write_end(w, tail, &why);
        } H5E_END_TRY;
        if (st < 0 && err) *err = why;
    }
    kvt_writer_abort(w, 0);             /* of what was published nothing is left to remove */
    return st;
}

void kvt_writer_abort(kvt_writer *w, int keep_part)
{
    if (!w) return;
    H5E_BEGIN_TRY {
        for (size_t i = 0; i < (size_t)w->info.n_layers * KVT_T_END; i++) kvt__write_tensor_free(&w->tensor[i]);
        for (int t = 0; t < KVT_H5_OTHER; t++)
            if (w->type[t] >= 0) H5Tclose(w->type[t]);
        if (w->scalar >= 0) H5Sclose(w->scalar);
        if (w->plain >= 0) H5Pclose(w->plain);
        kvt__part_discard(&w->part, keep_part);
    } H5E_END_TRY;
    kvt_id_lines_free(w->id);
    free(w->entry);
    free(w->tensor);
    free(w->layer);
    free(w);
}
