/* trace_h5_attr.c - attributes of a hostile file, in the few forms that FORMAT.md 2.4
 * and 2.5 allow; see trace_h5.h. The type and the number of elements are checked before
 * anything is read, so no size in the file decides how much is read. */
#include "trace_h5.h"

#include "kvt_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct h5_attr {
    hid_t       id, type;
    H5T_class_t class;
    size_t      size;
} h5_attr;

static const char *h5_attr_path(const kvt_h5_at *at) { return *at->path ? at->path : "/"; }

static void h5_attr_close(h5_attr *a)
{
    if (a->type >= 0) H5Tclose(a->type);
    if (a->id >= 0) H5Aclose(a->id);
}

/* Open it and check that it has n elements. id stays invalid when it is not there. */
static kvt_status h5_attr_open(h5_attr *out, const kvt_h5_at *at, const char *name, uint32_t n,
                               int required, kvt_err *err)
{
    h5_attr a = {.id = H5I_INVALID_HID, .type = H5I_INVALID_HID};
    const htri_t exists = H5Aexists(at->id, name);
    hid_t space = H5I_INVALID_HID;
    hssize_t n_found = -1;

    *out = a;
    if (exists == 0 && !required) return KVT_OK;
    if (exists == 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s is missing", at->file->name,
                        h5_attr_path(at), name);
    if (exists > 0) a.id = H5Aopen(at->id, name, H5P_DEFAULT);
    if (a.id >= 0) a.type = H5Aget_type(a.id);
    if (a.id >= 0) space = H5Aget_space(a.id);
    if (a.id < 0 || a.type < 0 || space < 0) {
        if (space >= 0) H5Sclose(space);
        h5_attr_close(&a);
        return kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: attribute %s is damaged", at->file->name,
                            h5_attr_path(at), name);
    }
    if (H5Sget_simple_extent_type(space) != H5S_NULL) n_found = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    a.class = H5Tget_class(a.type);
    a.size = H5Tget_size(a.type);
    if (n_found != (hssize_t)n) {
        h5_attr_close(&a);
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s has %lld elements, expected %u",
                        at->file->name, h5_attr_path(at), name, n_found < 0 ? 0 : (long long)n_found, n);
    }
    *out = a;
    return KVT_OK;
}

static kvt_status h5_attr_mistyped(const kvt_h5_at *at, const char *name, const char *expected,
                                   kvt_err *err)
{
    return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s has the wrong type, expected %s",
                    at->file->name, h5_attr_path(at), name, expected);
}

/* The bits of a number that the library may convert: odd fields have crashed it before. */
static int h5_sound_integer(hid_t type, size_t size)
{
    const size_t precision = H5Tget_precision(type);
    const int offset = H5Tget_offset(type);
    const H5T_order_t order = H5Tget_order(type);

    return H5Tget_class(type) == H5T_INTEGER && size >= 1 && size <= 8 && precision >= 1 &&
           offset >= 0 && precision + (size_t)offset <= 8 * size &&
           (order == H5T_ORDER_LE || order == H5T_ORDER_BE);
}

kvt_status kvt__h5_attr_int(const kvt_h5_at *at, const char *name, uint32_t n, int64_t *out,
                            int *found, kvt_err *err)
{
    /* Room for n elements of 8 bytes: the conversion happens in place. */
    int64_t value[4] = {0};
    hid_t base = H5I_INVALID_HID;
    h5_attr a;
    kvt_status st = KVT_OK;

    KVT_ASSERT(n >= 1 && n <= 4);
    KVT_TRY(h5_attr_open(&a, at, name, n, found == NULL, err));
    if (found) *found = a.id >= 0;
    if (a.id < 0) return KVT_OK;
    base = a.class == H5T_ENUM ? H5Tget_super(a.type) : H5Tcopy(a.type);
    if ((a.class != H5T_INTEGER && a.class != H5T_ENUM) || base < 0 || !h5_sound_integer(base, a.size))
        st = h5_attr_mistyped(at, name, "an integer of up to 8 bytes", err);
    else if (H5Aread(a.id, a.type, value) < 0 ||
             H5Tconvert(base, H5T_NATIVE_INT64, n, value, NULL, H5P_DEFAULT) < 0)
        st = kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: attribute %s cannot be read", at->file->name,
                          h5_attr_path(at), name);
    if (base >= 0) H5Tclose(base);
    h5_attr_close(&a);
    if (st == KVT_OK) memcpy(out, value, n * sizeof *value);
    return st;
}

/* IEEE binary16, binary32 or binary64 (or bf16), either byte order. */
static int h5_sound_float(hid_t type, size_t size)
{
    kvt_h5_type t = KVT_H5_OTHER;
    const H5T_order_t order = H5Tget_order(type);
    hid_t le;

    if (H5Tget_class(type) != H5T_FLOAT || size > 8) return 0;
    if (order != H5T_ORDER_LE && order != H5T_ORDER_BE) return 0;
    le = H5Tcopy(type);
    if (le >= 0 && H5Tset_order(le, H5T_ORDER_LE) >= 0) t = kvt__h5_type_of(le);
    if (le >= 0) H5Tclose(le);
    return t == KVT_H5_F16 || t == KVT_H5_BF16 || t == KVT_H5_F32 || t == KVT_H5_F64;
}

kvt_status kvt__h5_attr_real(const kvt_h5_at *at, const char *name, double *out, int *found,
                             kvt_err *err)
{
    double value = 0;
    h5_attr a;
    kvt_status st = KVT_OK;

    KVT_TRY(h5_attr_open(&a, at, name, 1, found == NULL, err));
    if (found) *found = a.id >= 0;
    if (a.id < 0) return KVT_OK;
    if (!h5_sound_float(a.type, a.size))
        st = h5_attr_mistyped(at, name, "an IEEE float of up to 8 bytes", err);
    else if (H5Aread(a.id, a.type, &value) < 0 ||
             H5Tconvert(a.type, H5T_NATIVE_DOUBLE, 1, &value, NULL, H5P_DEFAULT) < 0)
        st = kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: attribute %s cannot be read", at->file->name,
                          h5_attr_path(at), name);
    else if (!isfinite(value))
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s is %s, expected a finite number",
                      at->file->name, h5_attr_path(at), name, isnan(value) ? "NaN" : "infinite");
    h5_attr_close(&a);
    if (st == KVT_OK) *out = value;
    return st;
}

kvt_status kvt__h5_attr_text(const kvt_h5_at *at, const char *name, char *out, int *found, kvt_err *err)
{
    h5_attr a;
    size_t n;
    kvt_status st = KVT_OK;
    char text[KVT_MAX_STRING + 1] = "";

    KVT_TRY(h5_attr_open(&a, at, name, 1, found == NULL, err));
    if (found) *found = a.id >= 0;
    if (a.id < 0) return KVT_OK;
    if (a.class == H5T_STRING && H5Tis_variable_str(a.type) != 0)
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s is variable-length text, expected "
                      "fixed-length text", at->file->name, h5_attr_path(at), name);
    else if (a.class != H5T_STRING)
        st = h5_attr_mistyped(at, name, "fixed-length text", err);
    else if (a.size > KVT_MAX_STRING)
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s has %zu bytes, at most %u are allowed",
                      at->file->name, h5_attr_path(at), name, a.size, KVT_MAX_STRING);
    else if (H5Aread(a.id, a.type, text) < 0)
        st = kvt__h5_fail(err, KVT_EFORMAT, "%s: %s: attribute %s cannot be read", at->file->name,
                          h5_attr_path(at), name);
    n = strlen(text);
    if (st == KVT_OK && H5Tget_strpad(a.type) == H5T_STR_SPACEPAD)
        while (n > 0 && text[n - 1] == ' ') text[--n] = 0;
    if (st == KVT_OK && !found && n == 0)
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute %s is empty", at->file->name,
                      h5_attr_path(at), name);
    h5_attr_close(&a);
    if (st == KVT_OK) memcpy(out, text, n + 1);
    return st;
}
