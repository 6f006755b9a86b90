/* trace_h5_object.c - groups, datasets and attributes of a hostile file; see trace_h5.h.
 *
 * The order of the steps is FORMAT.md 13.2 and is not a matter of taste: libhdf5 follows
 * an external link when it opens it, and opens the source of a virtual dataset when it
 * is asked for the shape. */
#include "trace_h5.h"

#include "kvt_mul.h"
#include "kvt_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- names and links */

static const char *h5_object_word(H5I_type_t t)
{
    return t == H5I_GROUP ? "a group" : t == H5I_DATASET ? "a dataset"
         : t == H5I_DATATYPE ? "a data type" : "another object";
}

/* One component of a path: hard link or nothing, then the kind of object. */
static kvt_status h5_step(hid_t *out, const kvt_h5_at *at, hid_t loc, const char *name,
                          const char *path, H5I_type_t want, kvt_err *err)
{
    const kvt_h5_file *f = at->file;
    const htri_t exists = H5Lexists(loc, name, f->lapl);
    H5L_info_t info;
    hid_t id;

    *out = H5I_INVALID_HID;
    if (exists == 0) return KVT_OK;
    if (exists < 0 || H5Lget_info(loc, name, &info, f->lapl) < 0)
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: its group is damaged", f->name, path);
    if (info.type != H5L_TYPE_HARD)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: %s link at '%s', expected a hard link", f->name,
                        path, info.type == H5L_TYPE_SOFT ? "soft"
                        : info.type == H5L_TYPE_EXTERNAL ? "external" : "user-defined", name);
    id = H5Oopen(loc, name, f->lapl);
    if (id < 0)
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: damaged, cannot be opened", f->name, path);
    if (H5Iget_type(id) != want) {
        const char *found = h5_object_word(H5Iget_type(id));
        H5Oclose(id);
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: '%s' is %s, expected %s", f->name, path, name,
                        found, h5_object_word(want));
    }
    *out = id;
    return KVT_OK;
}

typedef struct h5_names {
    const kvt_h5_at *group;
    uint32_t         max, n;
    kvt_status     (*each)(void *user, const char *name, kvt_err *err);
    void            *user;
    kvt_err         *err;
    kvt_status       st;
} h5_names;

static herr_t h5_name(hid_t group, const char *name, const H5L_info_t *info, void *user)
{
    h5_names *x = user;
    char text[96];

    (void)group;
    if (info->type != H5L_TYPE_HARD)
        x->st = kvt_fail(x->err, KVT_EFORMAT, "%s: %s/%s: %s link, expected a hard link", x->group->file->name, x->group->path,
                         kvt_printable_str(text, sizeof text, name), info->type == H5L_TYPE_SOFT ? "soft"
                         : info->type == H5L_TYPE_EXTERNAL ? "external" : "user-defined");
    else if (++x->n > x->max)
        x->st = kvt_fail(x->err, KVT_EFORMAT, "%s: %s: more than %u entries", x->group->file->name, x->group->path, x->max);
    else
        x->st = x->each(x->user, name, x->err);
    return x->st == KVT_OK ? 0 : 1;
}

kvt_status kvt__h5_group_each(const kvt_h5_at *group, uint32_t max,
                              kvt_status (*each)(void *user, const char *name, kvt_err *err),
                              void *user, kvt_err *err)
{
    h5_names x = { group, max, 0, each, user, err, KVT_OK };

    if (H5Literate(group->id, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, h5_name, &x) < 0 && x.st == KVT_OK)
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: damaged, its entries cannot be read", group->file->name, group->path);
    return x.st;
}

/* at->path/name, component by component. Invalid and KVT_OK: some component is absent. */
static kvt_status h5_walk(kvt_h5_at *out, const kvt_h5_at *at, const char *name, H5I_type_t want,
                          int *found, kvt_err *err)
{
    kvt_h5_at to = {.file = at->file, .id = H5I_INVALID_HID};
    hid_t loc = at->id;
    const char *rest = name;
    int n_path;

    n_path = snprintf(to.path, sizeof to.path, "%s/%s", at->path, name);
    KVT_ASSERT(n_path > 0 && (size_t)n_path < sizeof to.path);
    for (;;) {
        const char *slash = strchr(rest, '/');
        const size_t n = slash ? (size_t)(slash - rest) : strlen(rest);
        char component[128];
        kvt_status st;

        KVT_ASSERT(n > 0 && n < sizeof component);
        memcpy(component, rest, n);
        component[n] = 0;
        st = h5_step(&to.id, &to, loc, component, to.path, slash ? H5I_GROUP : want, err);
        if (loc != at->id) H5Oclose(loc);
        KVT_TRY(st);
        loc = to.id;
        if (!slash || loc < 0) break;
        rest = slash + 1;
    }
    if (to.id < 0 && !found)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: missing, expected %s", at->file->name, to.path,
                        h5_object_word(want));
    if (found) *found = to.id >= 0;
    *out = to;
    return KVT_OK;
}

kvt_status kvt__h5_group_open(kvt_h5_at *out, const kvt_h5_at *at, const char *name, int *found,
                              kvt_err *err)
{
    return h5_walk(out, at, name, H5I_GROUP, found, err);
}

void kvt__h5_group_close(kvt_h5_at *at)
{
    if (at->id > 0) H5Oclose(at->id);
    at->id = H5I_INVALID_HID;
}

/* ---------------------------------------------------------------- datasets */

char *kvt__h5_shape(char *out, size_t size, uint32_t rank, const uint64_t *dims)
{
    size_t at = 0;

    out[0] = 0;
    for (uint32_t i = 0; i < rank && at < size; i++) {
        const int n = snprintf(out + at, size - at, "%s%s%" PRIu64, i ? "x" : "",
                               dims[i] & KVT_H5_ATMOST ? "up to " : "", dims[i] & ~KVT_H5_ATMOST);
        at += n > 0 ? (size_t)n : 0;
    }
    return out;
}

/* Layout, external storage and filters: what must be known before the library is asked
 * for shape or type. The list is closed at once: libhdf5 1.10 crashes at exit on an open
 * list of a virtual dataset. */
static kvt_status h5_check_layout(const kvt_h5_at *at, hid_t *dcpl_out, kvt_err *err)
{
    const char *file = at->file->name;
    const hid_t dcpl = H5Dget_create_plist(at->id);
    kvt_status st = KVT_OK;
    int n_filters, n_external;

    if (dcpl < 0)
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: no creation properties", file, at->path);
    n_external = H5Pget_external_count(dcpl);
    n_filters = H5Pget_nfilters(dcpl);
    switch (H5Pget_layout(dcpl)) {
    case H5D_CONTIGUOUS: case H5D_CHUNKED: case H5D_COMPACT: break;
    case H5D_VIRTUAL:
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s: a virtual dataset; a trace holds its own data", file,
                      at->path);
        break;
    default:
        st = kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: unknown layout", file, at->path);
    }
    if (st == KVT_OK && n_external != 0)
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s: data in external files; a trace holds its own data",
                      file, at->path);
    if (st == KVT_OK && n_filters < 0)
        st = kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: damaged filter list", file, at->path);
    if (st == KVT_OK && n_filters > 0) {
        unsigned flags = 0, config = 0;
        size_t n_values = 0;
        const H5Z_filter_t id = H5Pget_filter2(dcpl, 0, &flags, &n_values, NULL, 0, NULL, &config);
        st = kvt_fail(err, KVT_ENOTSUP, "%s: %s: stored with filter %d%s; this version reads "
                      "uncompressed traces (h5repack -f NONE OLD NEW removes filters)", file, at->path,
                      (int)id, id == H5Z_FILTER_DEFLATE ? " (deflate)"
                      : id == H5Z_FILTER_SHUFFLE ? " (shuffle)"
                      : id == H5Z_FILTER_FLETCHER32 ? " (fletcher32)" : "");
    }
    if (st < 0)
        H5Pclose(dcpl);
    else
        *dcpl_out = dcpl;
    return st;
}

/* Fill type and string width from the file; text is only looked at when it is wanted. */
static kvt_status h5_check_type(kvt_h5_dataset *d, const kvt_h5_want *want, kvt_err *err)
{
    char expected[96] = "";
    const hid_t type = H5Dget_type(d->at.id);
    H5T_class_t class;
    H5T_order_t order;
    size_t size, at = 0;

    if (type < 0)
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: damaged type", d->at.file->name, d->at.path);
    class = H5Tget_class(type);
    size = H5Tget_size(type);
    order = class == H5T_INTEGER || class == H5T_FLOAT ? H5Tget_order(type) : H5T_ORDER_LE;
    if (class == H5T_STRING && H5Tis_variable_str(type) == 0) {
        d->string_bytes = size;
        d->space_padded = H5Tget_strpad(type) == H5T_STR_SPACEPAD;
    }
    d->type = kvt__h5_type_of(type);
    H5Tclose(type);
    if (want->string_bytes) {
        d->elem_bytes = d->string_bytes;
        if (d->string_bytes == want->string_bytes) return KVT_OK;
        snprintf(expected, sizeof expected, "text of %zu bytes", want->string_bytes);
    } else {
        d->elem_bytes = kvt__h5_type_bytes(d->type);
        if (d->type != KVT_H5_OTHER && (want->types & KVT_H5_BIT(d->type))) return KVT_OK;
        for (kvt_h5_type t = KVT_H5_U8; t < KVT_H5_OTHER && at + 6 < sizeof expected; t++)
            if (want->types & KVT_H5_BIT(t))
                at += (size_t)snprintf(expected + at, sizeof expected - at, "%s%s", at ? "|" : "",
                                       kvt__h5_type_name(t));
    }
    return kvt_fail(err, KVT_EFORMAT, "%s: %s: type %s%s%s of %zu bytes, expected %s",
                    d->at.file->name, d->at.path, order == H5T_ORDER_LE ? "" : "big-endian ",
                    class == H5T_INTEGER ? "integer" : class == H5T_FLOAT ? "float"
                    : class == H5T_STRING ? (d->string_bytes ? "text" : "variable-length text")
                    : class == H5T_VLEN ? "variable-length" : class == H5T_OPAQUE ? "opaque"
                    : class == H5T_COMPOUND ? "compound" : class == H5T_ENUM ? "enumeration"
                    : class == H5T_REFERENCE ? "reference" : "other",
                    d->type == KVT_H5_OTHER ? "" : d->type < KVT_H5_F16 ? " " : "", size, expected);
}

static kvt_status h5_check_shape(kvt_h5_dataset *d, const kvt_h5_want *want, kvt_err *err)
{
    const hid_t space = H5Dget_space(d->at.id);
    hsize_t dims[KVT_H5_MAX_RANK];
    char found[160], expected[160];
    size_t n = 1, bytes;
    int rank, ok;

    if (space < 0)
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: damaged shape", d->at.file->name, d->at.path);
    ok = H5Sget_simple_extent_type(space) == H5S_SIMPLE;
    rank = ok ? H5Sget_simple_extent_ndims(space) : 0;
    ok = ok && rank >= 1 && rank <= KVT_H5_MAX_RANK &&
         H5Sget_simple_extent_dims(space, dims, NULL) == rank;
    H5Sclose(space);
    if (!ok)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: has no axes, expected an array of rank %s",
                        d->at.file->name, d->at.path, want->rank == 1 ? "1" : want->rank == 2 ? "2"
                        : want->rank == 3 ? "3" : "1 or more");
    d->rank = (uint32_t)rank;
    for (int i = 0; i < rank; i++) d->dims[i] = dims[i];
    ok = want->rank == 0 || want->rank == d->rank;
    for (uint32_t i = 0; ok && i < want->rank; i++) {
        const uint64_t w = want->dims[i];
        ok = w & KVT_H5_ATMOST ? d->dims[i] <= (w & ~KVT_H5_ATMOST) : d->dims[i] == w;
    }
    if (!ok)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: shape %s, expected %s", d->at.file->name, d->at.path,
                        kvt__h5_shape(found, sizeof found, d->rank, d->dims),
                        kvt__h5_shape(expected, sizeof expected, want->rank, want->dims));
    for (uint32_t i = 0; ok && i < d->rank; i++) ok = kvt_mul(n, (size_t)d->dims[i], &n);
    if (!ok || !kvt_mul(n, d->elem_bytes, &bytes))
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: shape %s is larger than any file", d->at.file->name,
                        d->at.path, kvt__h5_shape(found, sizeof found, d->rank, d->dims));
    d->n_elem = n;
    d->n_bytes = bytes;
    return KVT_OK;
}

/* Bytes that a chunked dataset of this shape occupies when nothing is missing. */
static kvt_status h5_chunk_storage(const kvt_h5_dataset *d, hid_t dcpl, size_t *out, kvt_err *err)
{
    hsize_t chunk[KVT_H5_MAX_RANK];
    size_t n = 1, bytes = d->elem_bytes;
    int ok = H5Pget_chunk(dcpl, KVT_H5_MAX_RANK, chunk) == (int)d->rank;

    for (uint32_t i = 0; ok && i < d->rank; i++) {
        ok = chunk[i] > 0 && kvt_mul(bytes, (size_t)chunk[i], &bytes) &&
             kvt_mul(n, (size_t)(d->dims[i] / chunk[i] + (d->dims[i] % chunk[i] != 0)), &n);
    }
    if (!ok)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: its chunks do not fit its shape", d->at.file->name,
                        d->at.path);
    if (bytes > KVT_MAX_CHUNK_BYTES)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: chunks of %zu bytes, at most %u are allowed",
                        d->at.file->name, d->at.path, bytes, KVT_MAX_CHUNK_BYTES);
    if (!kvt_mul(n, bytes, out)) *out = SIZE_MAX;       /* no file is that large */
    return KVT_OK;
}

/* Fill values must never stand for data, and no byte may lie outside the file. */
static kvt_status h5_check_storage(kvt_h5_dataset *d, hid_t dcpl, kvt_err *err)
{
    const H5D_layout_t layout = H5Pget_layout(dcpl);
    const uint64_t file_bytes = d->at.file->n_bytes, stored = H5Dget_storage_size(d->at.id);
    size_t needed = (size_t)d->n_bytes;

    if (layout == H5D_CHUNKED) KVT_TRY(h5_chunk_storage(d, dcpl, &needed, err));
    if (d->n_bytes == 0) return KVT_OK;
    if (needed > file_bytes)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: needs %zu bytes, but the file has only %" PRIu64,
                        d->at.file->name, d->at.path, needed, file_bytes);
    if (stored != needed)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: %" PRIu64 " bytes are stored, expected %zu%s",
                        d->at.file->name, d->at.path, stored, needed,
                        layout == H5D_CHUNKED ? ": chunks are missing" : ": it was never written");
    if (layout == H5D_CONTIGUOUS) {
        const haddr_t at = H5Dget_offset(d->at.id);
        if (at == HADDR_UNDEF || at > file_bytes || d->n_bytes > file_bytes - at)
            return kvt_fail(err, KVT_EFORMAT, "%s: %s: its data lie past the end of the file",
                            d->at.file->name, d->at.path);
        d->direct = d->type != KVT_H5_OTHER && H5Pget_nfilters(dcpl) == 0 && !d->at.file->user_block;
        d->first_byte = at;
    }
    return KVT_OK;
}

kvt_status kvt__h5_dataset_open(kvt_h5_dataset *out, const kvt_h5_at *at, const char *name,
                                const kvt_h5_want *want, int *found, kvt_err *err)
{
    kvt_h5_dataset d = {.at.id = H5I_INVALID_HID};
    hid_t dcpl = H5I_INVALID_HID;
    kvt_status st;

    KVT_TRY(h5_walk(&d.at, at, name, H5I_DATASET, found, err));
    if (d.at.id < 0) {
        *out = d;
        return KVT_OK;
    }
    KVT_TRY_GOTO(st, h5_check_layout(&d.at, &dcpl, err));
    KVT_TRY_GOTO(st, h5_check_type(&d, want, err));
    KVT_TRY_GOTO(st, h5_check_shape(&d, want, err));
    if (!want->unfinished) KVT_TRY_GOTO(st, h5_check_storage(&d, dcpl, err));
    *out = d;
done:
    if (dcpl >= 0) H5Pclose(dcpl);
    if (st < 0) kvt__h5_dataset_close(&d);
    return st;
}

void kvt__h5_dataset_close(kvt_h5_dataset *d)
{
    kvt__h5_group_close(&d->at);
}

/* A failed read of checked storage: the disk when the system gave an errno, else damage. */
static kvt_status h5_read_failed(const kvt_h5_dataset *d, kvt_err *err)
{
    kvt_err why = {0};

    kvt__h5_fail(&why, KVT_EFORMAT, "%s: %s: its data cannot be read", d->at.file->name, d->at.path);
    return kvt_fail(err, strstr(why.text, "errno") ? KVT_EIO : KVT_EFORMAT, "%s", why.text);
}

static kvt_status h5_read(const kvt_h5_dataset *d, hid_t mem_space, hid_t file_space, void *out,
                          kvt_err *err)
{
    const hid_t type = H5Dget_type(d->at.id);       /* memory type = file type: no conversion */
    kvt_status st = KVT_OK;

    if (type < 0 || H5Dread(d->at.id, type, mem_space, file_space, H5P_DEFAULT, out) < 0)
        st = h5_read_failed(d, err);
    if (type >= 0) H5Tclose(type);
    return st;
}

kvt_status kvt__h5_dataset_read(const kvt_h5_dataset *d, void *out, kvt_err *err)
{
    if (d->n_bytes == 0) return KVT_OK;
    return h5_read(d, H5S_ALL, H5S_ALL, out, err);
}

/* Is the block one run of bytes of the dataset? Yes: *from and *n. */
static int h5_block_is_run(const kvt_h5_dataset *d, const uint64_t *start, const uint64_t *count, uint64_t *from, size_t *n)
{
    uint64_t first = 0, elements = 1;
    int whole = 1;                                  /* of all axes behind this one */

    for (uint32_t i = d->rank; i-- > 0;) {
        if (!whole && count[i] != 1) return 0;
        whole = whole && count[i] == d->dims[i];
        elements *= count[i];
    }
    for (uint32_t i = 0; i < d->rank; i++) first = first * d->dims[i] + start[i];
    *from = first * d->elem_bytes;
    *n = (size_t)(elements * d->elem_bytes);
    return 1;
}

kvt_status kvt__h5_dataset_read_block(const kvt_h5_dataset *d, const uint64_t *start,
                                      const uint64_t *count, void *out, kvt_err *err)
{
    hsize_t s[KVT_H5_MAX_RANK], c[KVT_H5_MAX_RANK], n = 1;
    hid_t file_space, mem_space;
    uint64_t from;
    size_t bytes;
    kvt_status st;

    for (uint32_t i = 0; i < d->rank; i++) {
        KVT_ASSERT(start[i] <= d->dims[i] && count[i] <= d->dims[i] - start[i]);
        s[i] = start[i];
        c[i] = count[i];
        n *= count[i];
    }
    if (n == 0) return KVT_OK;
    if (d->direct && h5_block_is_run(d, start, count, &from, &bytes)) return kvt__h5_direct_read(d, from, bytes, out, err);
    file_space = H5Dget_space(d->at.id);
    mem_space = H5Screate_simple(1, &n, NULL);
    if (file_space < 0 || mem_space < 0 ||
        H5Sselect_hyperslab(file_space, H5S_SELECT_SET, s, NULL, c, NULL) < 0)
        st = kvt__h5_fail(err, KVT_ENOMEM, "%s: %s: cannot select rows", d->at.file->name, d->at.path);
    else
        st = h5_read(d, mem_space, file_space, out, err);
    if (mem_space >= 0) H5Sclose(mem_space);
    if (file_space >= 0) H5Sclose(file_space);
    return st;
}
