/* trace_write_h5.c - groups, attributes and datasets of a trace that is being written.
 * Every function checks the part file last: HDF5 is never told that a write failed. */
#include "trace_write_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_mul.h"

static kvt_status write_no_memory(const kvt_writer *w, const char *path, kvt_err *err)
{
    return kvt_fail(err, KVT_ENOMEM, "%s: no memory for %s", w->part.shown, path);
}

/* ---------------------------------------------------------------- groups, attributes */

kvt_status kvt__write_group(kvt_writer *w, const char *path, kvt_err *err)
{
    const hid_t group = H5Gcreate2(w->part.h5, path, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (group < 0 || H5Gclose(group) < 0)
        return kvt__h5_fail(err, KVT_EIO, "%s: cannot create the group %s", w->part.shown, path);
    return kvt__part_check(&w->part, err);
}

static kvt_status write_attr(kvt_writer *w, const char *path, const char *name, hid_t file_type, hid_t memory_type,
                             hid_t space, const void *value, kvt_err *err)
{
    const hid_t attr = H5Acreate_by_name(w->part.h5, path, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT,
                                         H5P_DEFAULT);
    const herr_t wrote = attr < 0 ? -1 : H5Awrite(attr, memory_type, value);

    if (attr >= 0) H5Aclose(attr);
    if (wrote < 0)
        return kvt__h5_fail(err, KVT_EIO, "%s: cannot write the attribute %s of %s", w->part.shown, name, path);
    return kvt__part_check(&w->part, err);
}

kvt_status kvt__write_int(kvt_writer *w, const char *path, const char *name, int64_t v, bool in_id, kvt_err *err)
{
    if (in_id && kvt_id_lines_int(w->id, path, name, v) < 0) return write_no_memory(w, path, err);
    return write_attr(w, path, name, H5T_STD_I64LE, H5T_NATIVE_INT64, w->scalar, &v, err);
}

kvt_status kvt__write_real(kvt_writer *w, const char *path, const char *name, double v, bool in_id, kvt_err *err)
{
    if (in_id && kvt_id_lines_real(w->id, path, name, v) < 0) return write_no_memory(w, path, err);
    return write_attr(w, path, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, w->scalar, &v, err);
}

kvt_status kvt__write_text(kvt_writer *w, const char *path, const char *name, const char *text, bool in_id,
                           kvt_err *err)
{
    hid_t type;
    kvt_status st;

    if (!text || !*text) return KVT_OK;
    KVT_ASSERT(strlen(text) <= KVT_MAX_STRING);
    if (in_id && kvt_id_lines_text(w->id, path, name, text) < 0) return write_no_memory(w, path, err);
    type = H5Tcopy(H5T_C_S1);
    if (type < 0 || H5Tset_size(type, strlen(text)) < 0 || H5Tset_strpad(type, H5T_STR_NULLPAD) < 0
        || H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        st = kvt__h5_fail(err, KVT_ENOMEM, "%s: no type for the attribute %s of %s", w->part.shown, name, path);
    else
        st = write_attr(w, path, name, type, type, w->scalar, text, err);
    if (type >= 0) H5Tclose(type);
    return st;
}

kvt_status kvt__write_u32x3(kvt_writer *w, const char *name, const uint32_t v[3], kvt_err *err)
{
    const hsize_t n = 3;
    const hid_t space = H5Screate_simple(1, &n, NULL);
    const kvt_status st = write_attr(w, "/", name, H5T_STD_U32LE, H5T_NATIVE_UINT32, space, v, err);
    if (space >= 0) H5Sclose(space);
    return st;
}

static kvt_status write_attr_again(kvt_writer *w, const char *path, const char *name, hid_t memory_type,
                                   const void *value, kvt_err *err)
{
    const hid_t attr = H5Aopen_by_name(w->part.h5, path, name, H5P_DEFAULT, H5P_DEFAULT);
    const herr_t wrote = attr < 0 ? -1 : H5Awrite(attr, memory_type, value);

    if (attr >= 0) H5Aclose(attr);
    if (wrote < 0)
        return kvt__h5_fail(err, KVT_EIO, "%s: cannot change the attribute %s of %s", w->part.shown, name, path);
    return kvt__part_check(&w->part, err);
}

kvt_status kvt__write_int_again(kvt_writer *w, const char *path, const char *name, int64_t v, kvt_err *err)
{
    return write_attr_again(w, path, name, H5T_NATIVE_INT64, &v, err);
}

kvt_status kvt__write_complete(kvt_writer *w, uint8_t complete, kvt_err *err)
{
    if (complete) return write_attr_again(w, "/", "complete", H5T_NATIVE_UINT8, &complete, err);
    return write_attr(w, "/", "complete", H5T_STD_U8LE, H5T_NATIVE_UINT8, w->scalar, &complete, err);
}

/* ---------------------------------------------------------------- catalogue */

kvt_status kvt__write_entry(kvt_writer *w, const char *path, kvt_h5_type type, uint32_t rank, const uint64_t *dims,
                            const uint8_t digest[32], kvt_err *err)
{
    kvt_write_entry *e;

    if (w->n_entries == w->room) {
        const size_t room = w->room ? 2 * w->room : 64;
        size_t n_bytes;
        if (!kvt_mul(room, sizeof *e, &n_bytes) || !(e = realloc(w->entry, n_bytes)))
            return write_no_memory(w, path, err);
        w->entry = e;
        w->room = room;
    }
    if (kvt_id_includes(path)
        && kvt_id_lines_dataset(w->id, path, kvt__h5_type_name(type), rank, dims, digest) < 0)
        return write_no_memory(w, path, err);
    e = &w->entry[w->n_entries++];
    memset(e, 0, sizeof *e);
    KVT_ASSERT(strlen(path) < sizeof e->path);
    memcpy(e->path, path, strlen(path));
    e->n_bytes = kvt__h5_type_bytes(type);
    for (uint32_t i = 0; i < rank; i++) e->n_bytes *= dims[i];
    memcpy(e->digest, digest, 32);
    return KVT_OK;
}

/* Contiguous, from memory; not in the catalogue. */
static kvt_status write_all(kvt_writer *w, const char *path, hid_t type, uint32_t rank, const uint64_t *dims,
                            const void *data, kvt_err *err)
{
    hsize_t extent[4] = { 0 };
    hid_t space, dset;
    herr_t wrote = -1;
    bool empty = false;

    KVT_ASSERT(rank <= 4);
    for (uint32_t i = 0; i < rank; i++) {
        extent[i] = dims[i];
        empty |= dims[i] == 0;
    }
    space = H5Screate_simple((int)rank, extent, NULL);
    dset = H5Dcreate2(w->part.h5, path, type, space, H5P_DEFAULT, w->plain, H5P_DEFAULT);
    if (dset >= 0) {
        wrote = empty ? 0 : H5Dwrite(dset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
        if (H5Dclose(dset) < 0) wrote = -1;
    }
    if (space >= 0) H5Sclose(space);
    if (wrote < 0) return kvt__h5_fail(err, KVT_EIO, "%s: cannot write %s", w->part.shown, path);
    return kvt__part_check(&w->part, err);
}

kvt_status kvt__write_dataset(kvt_writer *w, const char *path, kvt_h5_type type, uint32_t rank,
                              const uint64_t *dims, const void *data, kvt_err *err)
{
    const uint64_t n_parts = rank >= 2 ? dims[0] : 1;
    size_t part_bytes = kvt__h5_type_bytes(type);
    kvt_digest d;
    uint8_t digest[32];

    for (uint32_t i = rank >= 2; i < rank; i++) part_bytes *= (size_t)dims[i];
    kvt_digest_init(&d);
    for (uint64_t i = 0; i < n_parts; i++) {
        if (part_bytes > 0) kvt_digest_update(&d, (const uint8_t *)data + i * part_bytes, part_bytes);
        kvt_digest_part(&d);
    }
    kvt_digest_final(&d, digest);
    KVT_TRY(kvt__write_entry(w, path, type, rank, dims, digest, err));
    return write_all(w, path, w->type[type], rank, dims, data, err);
}

static int write_entry_cmp(const void *a, const void *b)
{
    return strcmp(((const kvt_write_entry *)a)->path, ((const kvt_write_entry *)b)->path);
}

kvt_status kvt__write_checksums(kvt_writer *w, kvt_err *err)
{
    const uint64_t n = w->n_entries, dims[2] = { n, 32 };
    hid_t text = H5I_INVALID_HID;
    uint8_t *const digest = calloc(w->n_entries, 32);
    char *const path = calloc(w->n_entries, KVT_WRITE_PATH);
    uint64_t *const n_bytes = calloc(w->n_entries, sizeof *n_bytes);
    kvt_status st = KVT_OK;

    if (!digest || !path || !n_bytes) {
        st = write_no_memory(w, "/checksums", err);
        goto done;
    }
    qsort(w->entry, w->n_entries, sizeof *w->entry, write_entry_cmp);
    for (size_t i = 0; i < w->n_entries; i++) {
        memcpy(path + i * KVT_WRITE_PATH, w->entry[i].path, KVT_WRITE_PATH);
        memcpy(digest + i * 32, w->entry[i].digest, 32);
        n_bytes[i] = w->entry[i].n_bytes;
    }
    text = H5Tcopy(H5T_C_S1);
    if (text < 0 || H5Tset_size(text, KVT_WRITE_PATH) < 0 || H5Tset_strpad(text, H5T_STR_NULLPAD) < 0) {
        st = kvt__h5_fail(err, KVT_ENOMEM, "%s: no type for /checksums/path", w->part.shown);
        goto done;
    }
    KVT_TRY_GOTO(st, kvt__write_group(w, "/checksums", err));
    KVT_TRY_GOTO(st, kvt__write_text(w, "/checksums", "algorithm", "sha256-1m", false, err));
    KVT_TRY_GOTO(st, write_all(w, "/checksums/path", text, 1, &n, path, err));
    KVT_TRY_GOTO(st, write_all(w, "/checksums/nbytes", w->type[KVT_H5_U64], 1, &n, n_bytes, err));
    KVT_TRY_GOTO(st, write_all(w, "/checksums/sha256", w->type[KVT_H5_U8], 2, dims, digest, err));
done:
    if (text >= 0) H5Tclose(text);
    free(digest);
    free(path);
    free(n_bytes);
    return st;
}
