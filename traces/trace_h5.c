/* trace_h5.c - types, errors, files and groups; see trace_h5.h. Datasets and attributes
 * are in trace_h5_object.c. */
#include "trace_h5.h"

#include "kvt_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------- types */

static const struct {
    const char *name;
    size_t      bytes;
    unsigned    exponent, mantissa;         /* bits of a float; 0 for integers */
    size_t      bias;
    int         is_signed;
} h5_types[] = {
    [KVT_H5_U8] = {"u8", 1, 0, 0, 0, 0},       [KVT_H5_U16] = {"u16", 2, 0, 0, 0, 0},
    [KVT_H5_U64] = {"u64", 8, 0, 0, 0, 0},     [KVT_H5_I32] = {"i32", 4, 0, 0, 0, 1},
    [KVT_H5_I64] = {"i64", 8, 0, 0, 0, 1},     [KVT_H5_F16] = {"f16", 2, 5, 10, 15, 1},
    [KVT_H5_BF16] = {"bf16", 2, 8, 7, 127, 1}, [KVT_H5_F32] = {"f32", 4, 8, 23, 127, 1},
    [KVT_H5_F64] = {"f64", 8, 11, 52, 1023, 1}, [KVT_H5_OTHER] = {"other", 0, 0, 0, 0, 0},
};

const char *kvt__h5_type_name(kvt_h5_type t) { return h5_types[t].name; }
size_t kvt__h5_type_bytes(kvt_h5_type t) { return h5_types[t].bytes; }

kvt_h5_type kvt__h5_type_from(kvt_dtype t)
{
    return t == KVT_F16 ? KVT_H5_F16 : t == KVT_BF16 ? KVT_H5_BF16 : KVT_H5_F32;
}

/* libhdf5 before 1.14 has no 16-bit float, so both are made from f32. The order of the
 * calls matters: the fields must fit the size at every step. */
static hid_t h5_float16_new(unsigned exponent, unsigned mantissa, size_t bias)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    if (t >= 0 && (H5Tset_fields(t, 15, 15 - exponent, exponent, 0, mantissa) < 0 ||
                   H5Tset_ebias(t, bias) < 0 || H5Tset_size(t, 2) < 0)) {
        H5Tclose(t);
        t = H5I_INVALID_HID;
    }
    return t;
}

hid_t kvt__h5_type_new(kvt_h5_type t)
{
    switch (t) {
    case KVT_H5_U8: return H5Tcopy(H5T_STD_U8LE);
    case KVT_H5_U16: return H5Tcopy(H5T_STD_U16LE);
    case KVT_H5_U64: return H5Tcopy(H5T_STD_U64LE);
    case KVT_H5_I32: return H5Tcopy(H5T_STD_I32LE);
    case KVT_H5_I64: return H5Tcopy(H5T_STD_I64LE);
    case KVT_H5_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case KVT_H5_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case KVT_H5_F16:
    case KVT_H5_BF16: return h5_float16_new(h5_types[t].exponent, h5_types[t].mantissa,
                                            h5_types[t].bias);
    case KVT_H5_OTHER: break;
    }
    KVT_ASSERT(!"a type of FORMAT.md 2.6");
    return H5I_INVALID_HID;
}

static int h5_is_float(hid_t type, kvt_h5_type t)
{
    size_t sign, epos, esize, mpos, msize;

    return H5Tget_fields(type, &sign, &epos, &esize, &mpos, &msize) >= 0 &&
           sign == 8 * h5_types[t].bytes - 1 && epos == h5_types[t].mantissa &&
           esize == h5_types[t].exponent && mpos == 0 && msize == h5_types[t].mantissa &&
           H5Tget_ebias(type) == h5_types[t].bias && H5Tget_norm(type) == H5T_NORM_IMPLIED;
}

kvt_h5_type kvt__h5_type_of(hid_t type)
{
    const H5T_class_t class = H5Tget_class(type);
    const size_t size = H5Tget_size(type);

    if (class != H5T_INTEGER && class != H5T_FLOAT) return KVT_H5_OTHER;
    if (H5Tget_precision(type) != 8 * size || H5Tget_offset(type) != 0) return KVT_H5_OTHER;
    /* One byte has no order, whatever the file claims. */
    if (size > 1 && H5Tget_order(type) != H5T_ORDER_LE) return KVT_H5_OTHER;
    for (kvt_h5_type t = KVT_H5_U8; t < KVT_H5_OTHER; t++) {
        if (h5_types[t].bytes != size || (h5_types[t].exponent != 0) != (class == H5T_FLOAT))
            continue;
        if (class == H5T_FLOAT ? h5_is_float(type, t)
                               : H5Tget_sign(type) == (h5_types[t].is_signed ? H5T_SGN_2
                                                                             : H5T_SGN_NONE))
            return t;
    }
    return KVT_H5_OTHER;
}

/* ---------------------------------------------------------------- errors */

static herr_t h5_innermost(unsigned n, const H5E_error2_t *e, void *out)
{
    if (n == 0 && e->desc) kvt_printable_str(out, 160, e->desc);
    return 0;
}

kvt_status kvt__h5_fail(kvt_err *err, kvt_status st, const char *fmt, ...)
{
    char text[sizeof err->text], why[160] = "";
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, h5_innermost, why);
    if (*why) return kvt_fail(err, st, "%s (HDF5: %s)", text, why);
    return kvt_fail(err, st, "%s", text);
}

void kvt__h5_init(void)
{
    H5PLset_loading_state(0);
}

/* ---------------------------------------------------------------- files */

static herr_t h5_refuse_external(const char *parent_file, const char *parent_group,
                                 const char *child_file, const char *child_object,
                                 unsigned *acc_flags, hid_t fapl_id, void *op_data)
{
    (void)parent_file, (void)parent_group, (void)child_file, (void)child_object;
    (void)acc_flags, (void)fapl_id, (void)op_data;
    return -1;
}

/* What can be said before libhdf5 sees the file: opening a FIFO would block, and the
 * library's words for an empty file or a folder help nobody. */
static kvt_status h5_file_probe(const char *path, const char *name, kvt_err *err)
{
    static const char sqlite[] = "SQLite format 3";
    static const unsigned char hdf5[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[16] = {0};
    struct stat sb;
    ssize_t n;
    int fd;

    if (stat(path, &sb) < 0) return kvt_fail(err, KVT_EIO, "%s: %s", name, strerror(errno));
    if (S_ISDIR(sb.st_mode)) return kvt_fail(err, KVT_EIO, "%s: a folder, not a trace file", name);
    if (!S_ISREG(sb.st_mode))
        return kvt_fail(err, KVT_EIO, "%s: not a regular file; a trace cannot be read from a pipe or "
                        "a device", name);
    if (sb.st_size == 0) return kvt_fail(err, KVT_EFORMAT, "%s: the file is empty", name);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return kvt_fail(err, KVT_EIO, "%s: %s", name, strerror(errno));
    n = read(fd, head, sizeof head);
    close(fd);
    if (n < 0) return kvt_fail(err, KVT_EIO, "%s: %s", name, strerror(errno));
    if (n == 16 && memcmp(head, sqlite, 16) == 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: an SQLite database, not a trace", name);
    if (memcmp(head, hdf5, sizeof hdf5) != 0 && H5Fis_hdf5(path) <= 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: not an HDF5 file, so not a trace", name);
    return KVT_OK;
}

/* The size of the file that libhdf5 really opened, not of what stands there now. */
static kvt_status h5_file_size(kvt_h5_file *f, hid_t fapl, kvt_err *err)
{
    void *handle = NULL;
    struct stat sb;

    if (H5Fget_vfd_handle(f->id, fapl, &handle) < 0 || !handle)
        return kvt__h5_fail(err, KVT_EIO, "%s: no file descriptor", f->name);
    if (fstat(*(const int *)handle, &sb) < 0 || sb.st_size < 0)
        return kvt_fail(err, KVT_EIO, "%s: %s", f->name, strerror(errno));
    f->n_bytes = (uint64_t)sb.st_size;
    f->fd = *(const int *)handle;
    return KVT_OK;
}

static kvt_status h5_file_user_block(kvt_h5_file *f, kvt_err *err)
{
    const hid_t fcpl = H5Fget_create_plist(f->id);
    hsize_t bytes = 0;
    const int ok = fcpl >= 0 && H5Pget_userblock(fcpl, &bytes) >= 0;

    if (fcpl >= 0) H5Pclose(fcpl);
    f->user_block = bytes != 0;
    return ok ? KVT_OK : kvt__h5_fail(err, KVT_EFORMAT, "%s: no creation properties", f->name);
}

kvt_status kvt__h5_file_open(kvt_h5_file *out, const char *path, kvt_err *err)
{
    kvt_h5_file f = {.id = H5I_INVALID_HID, .lapl = H5I_INVALID_HID};
    hid_t fapl = H5I_INVALID_HID;
    kvt_status st;

    kvt__h5_init();
    kvt_printable_str(f.name, sizeof f.name, path);
    KVT_TRY(h5_file_probe(path, f.name, err));
    f.lapl = H5Pcreate(H5P_LINK_ACCESS);
    fapl = H5Pcreate(H5P_FILE_ACCESS);
    /* No chunk cache: chunks are unfiltered and read in order, straight into place. */
    if (f.lapl < 0 || fapl < 0 || H5Pset_elink_cb(f.lapl, h5_refuse_external, NULL) < 0 ||
        H5Pset_fapl_sec2(fapl) < 0 || H5Pset_cache(fapl, 0, 1, 0, 0.75) < 0) {
        st = kvt__h5_fail(err, KVT_ENOMEM, "%s: cannot prepare HDF5", f.name);
        goto done;
    }
#if (H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 10 && H5_VERS_RELEASE >= 7) || \
    (H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 12 && H5_VERS_RELEASE >= 1) || \
    (H5_VERS_MAJOR == 1 && H5_VERS_MINOR >= 13) || H5_VERS_MAJOR >= 2
    H5Pset_file_locking(fapl, 1, 1);        /* best effort: not every file system locks */
#endif
    f.id = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    if (f.id < 0) {
        st = kvt__h5_fail(err, KVT_EFORMAT, "%s: cannot be opened as HDF5: truncated, damaged, or "
                          "still being written", f.name);
        goto done;
    }
    KVT_TRY_GOTO(st, h5_file_size(&f, fapl, err));
    KVT_TRY_GOTO(st, h5_file_user_block(&f, err));
    *out = f;
done:
    if (fapl >= 0) H5Pclose(fapl);
    if (st < 0) kvt__h5_file_close(&f);
    return st;
}

void kvt__h5_file_close(kvt_h5_file *f)
{
    if (f->id > 0) H5Fclose(f->id);
    if (f->lapl > 0) H5Pclose(f->lapl);
    f->id = f->lapl = H5I_INVALID_HID;
}
