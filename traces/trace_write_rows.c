/* trace_write_rows.c - tensors that arrive row by row. Leaves of the digest are cut on
 * the rows as they are appended; the file is never read again. */
#include "trace_write_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_mul.h"

enum { WRITE_GUESSED_STEPS = 128 };     /* chunks for a decode of unknown length: see write_chunk */

void kvt__write_tensor_path(char out[KVT_WRITE_PATH], uint32_t layer, kvt_tensor t)
{
    snprintf(out, KVT_WRITE_PATH, "/layers/%03u/%s", (unsigned)layer, kvt_tensor_path(t));
}

/* Rows of a chunk (FORMAT.md 7.2). The expected length of a trace of unknown length is a
 * guess on the low side: too low costs a few more chunks, too high wastes disk. */
static hsize_t write_chunk(const kvt_writer *w, kvt_tensor t, const kvt_write_tensor *x, uint32_t rows)
{
    uint64_t most = rows, chunk;

    if (!w->known && (t == KVT_T_K || t == KVT_T_V || t == KVT_T_NU))
        most = (uint64_t)w->info.n_prompt + WRITE_GUESSED_STEPS;
    if (!w->known && (t == KVT_T_Q || t == KVT_T_LSE)) most = (uint64_t)w->info.window + WRITE_GUESSED_STEPS;
    if (t == KVT_T_K || t == KVT_T_V) chunk = KVT_DIGEST_LEAF / x->row_bytes;
    else if (t == KVT_T_Q) chunk = 1024;
    else chunk = 65536;
    return chunk < most ? chunk : most;
}

/* lse and nu are small and never filtered: chunked only when they must grow. */
static bool write_is_chunked(const kvt_writer *w, kvt_tensor t, bool grows)
{
    return grows || (w->chunked && t != KVT_T_LSE && t != KVT_T_NU);
}

static kvt_status write_create(kvt_writer *w, const char *path, kvt_tensor t, kvt_write_tensor *x, uint32_t rows,
                               bool grows, kvt_err *err)
{
    const bool chunked = write_is_chunked(w, t, grows);
    hsize_t dims[3] = { x->n_heads, grows ? 0 : rows, x->width };
    hsize_t most[3] = { x->n_heads, grows ? H5S_UNLIMITED : rows, x->width };
    hsize_t chunk[3] = { 1, write_chunk(w, t, x, rows), x->width };
    const hid_t space = H5Screate_simple((int)x->rank, dims, most);
    const hid_t dcpl = H5Pcopy(w->plain), dapl = H5Pcreate(H5P_DATASET_ACCESS);

    /* No chunk cache: it would hold up to 1 MiB per dataset, and nothing is read back. */
    if (space >= 0 && dcpl >= 0 && dapl >= 0 && (!chunked || H5Pset_chunk(dcpl, (int)x->rank, chunk) >= 0)
        && H5Pset_chunk_cache(dapl, 1, 0, 0.0) >= 0)
        x->dset = H5Dcreate2(w->part.h5, path, w->type[x->type], space, H5P_DEFAULT, dcpl, dapl);
    if (space >= 0) H5Sclose(space);
    if (dcpl >= 0) H5Pclose(dcpl);
    if (dapl >= 0) H5Pclose(dapl);
    x->extent = (uint32_t)dims[1];
    if (x->dset < 0) return kvt__h5_fail(err, KVT_EIO, "%s: cannot create %s", w->part.shown, path);
    return kvt__part_check(&w->part, err);
}

kvt_status kvt__write_tensor_open(kvt_writer *w, uint32_t layer, kvt_tensor t, kvt_err *err)
{
    static const char axes[KVT_T_END][2] = {    /* rows, width of KVT_TENSOR_LIST */
#define X(name, num, path, heads, rows, width) [KVT_T_##name] = { #rows[0], #width[0] },
        KVT_TENSOR_LIST(X)
#undef X
    };
    const kvt_layer_info *const l = &w->layer[layer];
    kvt_write_tensor *const x = kvt__write_tensor_of(w, layer, t);
    const char rows = axes[t][0];
    char path[KVT_WRITE_PATH];

    kvt__write_tensor_path(path, layer, t);
    x->type = t == KVT_T_K   ? kvt__h5_type_from(l->k_type)
              : t == KVT_T_V ? kvt__h5_type_from(l->v_type)
              : t == KVT_T_Q ? kvt__h5_type_from(l->q_type)
                             : KVT_H5_F32;
    x->width = kvt_tensor_width(&w->info, l, t);
    x->rank = axes[t][1] != '1' ? 3 : rows == '1' ? 1 : 2;
    x->row_bytes = x->width * kvt__h5_type_bytes(x->type);
    x->head = calloc(kvt_tensor_heads(l, t), sizeof *x->head);
    if (!x->head) return kvt_fail(err, KVT_ENOMEM, "%s: no memory for %s", w->part.shown, path);
    x->n_heads = kvt_tensor_heads(l, t);
    for (uint32_t h = 0; h < x->n_heads; h++) kvt_sha256_init(&x->head[h].leaf);
    if (x->rank == 1) return KVT_OK;            /* collected, written at the end */
    return write_create(w, path, t, x, kvt_tensor_rows(&w->info, l, t), !w->known && rows != 'N', err);
}

/* ---------------------------------------------------------------- rows */

static kvt_status write_block(kvt_writer *w, uint32_t layer, kvt_tensor t, uint32_t head, uint32_t row, uint32_t n,
                              const void *data, kvt_err *err)
{
    kvt_write_tensor *const x = kvt__write_tensor_of(w, layer, t);
    const hsize_t start[3] = { head, row, 0 }, count[3] = { 1, n, x->width };
    hid_t file_space = H5I_INVALID_HID, memory_space = H5I_INVALID_HID;
    herr_t wrote = 0;
    char path[KVT_WRITE_PATH];

    if (row + n > x->extent) {
        const hsize_t dims[3] = { x->n_heads, row + n, x->width };
        wrote = H5Dset_extent(x->dset, dims);
        x->extent = row + n;
    }
    if (wrote >= 0) file_space = H5Dget_space(x->dset);
    memory_space = H5Screate_simple((int)x->rank, count, NULL);
    if (file_space < 0 || memory_space < 0
        || H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL) < 0)
        wrote = -1;
    else
        wrote = H5Dwrite(x->dset, w->type[x->type], memory_space, file_space, H5P_DEFAULT, data);
    if (file_space >= 0) H5Sclose(file_space);
    if (memory_space >= 0) H5Sclose(memory_space);
    if (wrote < 0) {
        kvt__write_tensor_path(path, layer, t);
        return kvt__h5_fail(err, KVT_EIO, "%s: cannot write rows %u to %u of head %u of %s", w->part.shown,
                            (unsigned)row, (unsigned)(row + n - 1), (unsigned)head, path);
    }
    return kvt__part_check(&w->part, err);
}

static kvt_status write_leaves(kvt_write_head *h, const uint8_t *p, size_t n)
{
    while (n > 0) {
        const size_t room = KVT_DIGEST_LEAF - h->in_leaf, now = n < room ? n : room;
        kvt_sha256_update(&h->leaf, p, now);
        h->in_leaf += now;
        p += now;
        n -= now;
        if (h->in_leaf < KVT_DIGEST_LEAF) break;
        if (h->n_leaves == h->room) {
            const size_t more = h->room ? 2 * h->room : 4;
            uint8_t *const grown = realloc(h->leaves, more * 32);
            if (!grown) return KVT_ENOMEM;
            h->leaves = grown;
            h->room = more;
        }
        kvt_sha256_final(&h->leaf, h->leaves + 32 * h->n_leaves++);
        kvt_sha256_init(&h->leaf);
        h->in_leaf = 0;
    }
    return KVT_OK;
}

static kvt_status write_drain(kvt_writer *w, uint32_t layer, kvt_tensor t, uint32_t head, kvt_err *err)
{
    kvt_write_head *const h = &kvt__write_tensor_of(w, layer, t)->head[head];
    const uint32_t n = h->staged;

    if (n == 0) return KVT_OK;
    h->staged = 0;
    return write_block(w, layer, t, head, h->rows - n, n, h->stage, err);
}

kvt_status kvt__write_rows(kvt_writer *w, uint32_t layer, kvt_tensor t, uint32_t head, uint32_t n,
                           const void *data, kvt_err *err)
{
    kvt_write_tensor *const x = kvt__write_tensor_of(w, layer, t);
    kvt_write_head *const h = &x->head[head];
    const uint8_t *p = data;

    if (write_leaves(h, p, n * x->row_bytes) < 0) goto no_memory;
    while (n > 0) {
        uint32_t now = n;
        if (h->staged == 0 && n >= KVT_WRITE_STAGE) {
            KVT_TRY(write_block(w, layer, t, head, h->rows, n, p, err));
        } else {
            if (!h->stage && !(h->stage = malloc(KVT_WRITE_STAGE * x->row_bytes))) goto no_memory;
            if (now > KVT_WRITE_STAGE - h->staged) now = KVT_WRITE_STAGE - h->staged;
            memcpy(h->stage + h->staged * x->row_bytes, p, now * x->row_bytes);
            h->staged += now;
        }
        h->rows += now;
        p += now * x->row_bytes;
        n -= now;
        if (h->staged == KVT_WRITE_STAGE) KVT_TRY(write_drain(w, layer, t, head, err));
    }
    return KVT_OK;
no_memory:
    return kvt_fail(err, KVT_ENOMEM, "%s: no memory for rows of layer %u", w->part.shown, (unsigned)layer);
}

kvt_status kvt__write_tensor_drain(kvt_writer *w, uint32_t layer, kvt_tensor t, kvt_err *err)
{
    kvt_write_tensor *const x = kvt__write_tensor_of(w, layer, t);

    if (x->rank == 1) return KVT_OK;
    for (uint32_t head = 0; head < x->n_heads; head++) KVT_TRY(write_drain(w, layer, t, head, err));
    return KVT_OK;
}

/* ---------------------------------------------------------------- the end */

/* The one tensor without a row axis: one value per head, in any order. */
static kvt_status write_values(kvt_writer *w, const char *path, kvt_write_tensor *x, kvt_err *err)
{
    const uint64_t n = x->n_heads;
    uint8_t *const all = malloc(x->n_heads * x->row_bytes);
    kvt_status st;

    if (!all) return kvt_fail(err, KVT_ENOMEM, "%s: no memory for %s", w->part.shown, path);
    for (uint32_t head = 0; head < x->n_heads; head++)
        memcpy(all + head * x->row_bytes, x->head[head].stage, x->row_bytes);
    st = kvt__write_dataset(w, path, x->type, 1, &n, all, err);
    free(all);
    return st;
}

kvt_status kvt__write_tensor_end(kvt_writer *w, uint32_t layer, kvt_tensor t, kvt_err *err)
{
    kvt_write_tensor *const x = kvt__write_tensor_of(w, layer, t);
    uint64_t dims[3] = { x->n_heads, 0, x->width };
    char path[KVT_WRITE_PATH];
    kvt_sha256 top;
    uint8_t digest[32];
    herr_t closed;

    kvt__write_tensor_path(path, layer, t);
    if (x->rank == 1) return write_values(w, path, x, err);
    KVT_TRY(kvt__write_tensor_drain(w, layer, t, err));
    dims[1] = x->extent;
    kvt_sha256_init(&top);
    for (uint32_t head = 0; head < x->n_heads; head++) {
        kvt_write_head *const h = &x->head[head];
        if (h->n_leaves > 0) kvt_sha256_update(&top, h->leaves, 32 * h->n_leaves);
        if (h->in_leaf == 0) continue;
        kvt_sha256_final(&h->leaf, digest);
        kvt_sha256_update(&top, digest, 32);
    }
    kvt_sha256_final(&top, digest);
    closed = H5Dclose(x->dset);
    x->dset = H5I_INVALID_HID;
    if (closed < 0) return kvt__h5_fail(err, KVT_EIO, "%s: cannot close %s", w->part.shown, path);
    return kvt__write_entry(w, path, x->type, x->rank, dims, digest, err);
}

void kvt__write_tensor_free(kvt_write_tensor *t)
{
    for (uint32_t head = 0; head < t->n_heads; head++) {
        free(t->head[head].stage);
        free(t->head[head].leaves);
    }
    free(t->head);
    if (t->dset >= 0) H5Dclose(t->dset);
}
