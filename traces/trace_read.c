/* trace_read.c - rows of a tensor: shapes, the checked read that every source goes
 * through, and the HDF5 source behind it. Nothing is converted by libhdf5: 16-bit floats
 * come as bits and are widened here, exactly. */
#include "trace_open.h"

#include "kvt_float16.h"

#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- shapes */

/* The letters of KVT_TENSOR_LIST, as functions of the trace and the layer. */
#define HEADS_Q  l->n_heads
#define HEADS_K  l->n_kv_heads
#define ROWS_T   info->n_tokens
#define ROWS_N   info->n_prompt
#define ROWS_R   info->n_rows
#define ROWS_1   1
#define WIDTH_D  l->d_k
#define WIDTH_M  l->d_v
#define WIDTH_1  1

uint32_t kvt_tensor_width(const kvt_trace_info *info, const kvt_layer_info *l, kvt_tensor t)
{
    (void)info;
    switch (t) {
#define X(name, num, path, heads, rows, width) case KVT_T_##name: return WIDTH_##width;
        KVT_TENSOR_LIST(X)
#undef X
    case KVT_T_END: break;
    }
    return 0;
}

uint32_t kvt_tensor_rows(const kvt_trace_info *info, const kvt_layer_info *l, kvt_tensor t)
{
    (void)l;
    switch (t) {
#define X(name, num, path, heads, rows, width) case KVT_T_##name: return ROWS_##rows;
        KVT_TENSOR_LIST(X)
#undef X
    case KVT_T_END: break;
    }
    return 0;
}

uint32_t kvt_tensor_heads(const kvt_layer_info *l, kvt_tensor t)
{
    switch (t) {
#define X(name, num, path, heads, rows, width) case KVT_T_##name: return HEADS_##heads;
        KVT_TENSOR_LIST(X)
#undef X
    case KVT_T_END: break;
    }
    return 0;
}

const char *kvt_tensor_path(kvt_tensor t)
{
    switch (t) {
#define X(name, num, path, heads, rows, width) case KVT_T_##name: return path;
        KVT_TENSOR_LIST(X)
#undef X
    case KVT_T_END: break;
    }
    return "";
}

/* ---------------------------------------------------------------- the checked read */

/* The first float that no operand may be: NaN, an infinity, or negative where a norm or
 * a sum of probabilities is stored. n when all are sound. */
static size_t read_first_bad(const float *x, size_t n, int negative_is_bad)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u || (negative_is_bad && x[i] < 0)) return i;
    }
    return n;
}

kvt_status kvt_source_read(kvt_source *src, kvt_tensor tensor, uint32_t layer, uint32_t head,
                           uint32_t row, uint32_t n, float *out, kvt_err *err)
{
    const kvt_trace_info *info = src->info;
    const kvt_layer_info *l;
    const int nonnegative = tensor >= KVT_T_NU && tensor != KVT_T_SINKS;
    uint32_t rows, width;
    size_t count, bad;

    KVT_ASSERT(tensor >= KVT_T_K && tensor < KVT_T_END);
    if (layer >= info->n_layers)
        return kvt_fail(err, KVT_ERANGE, "%s: layer %u of %u", src->path, layer, info->n_layers);
    l = &info->layer[layer];
    if (!(l->has & 1u << tensor))
        return kvt_fail(err, KVT_ENEED, "%s: /layers/%03u/%s: not in this trace", src->path, layer,
                        kvt_tensor_path(tensor));
    rows = kvt_tensor_rows(info, l, tensor);
    width = kvt_tensor_width(info, l, tensor);
    if (head >= kvt_tensor_heads(l, tensor) || row > rows || n > rows - row)
        return kvt_fail(err, KVT_ERANGE, "%s: /layers/%03u/%s: head %u of %u, rows %u to %u of %u",
                        src->path, layer, kvt_tensor_path(tensor), head, kvt_tensor_heads(l, tensor),
                        row, row + n, rows);
    if (n == 0) return KVT_OK;
    KVT_TRY(src->ops->read(src->self, tensor, layer, head, row, n, out, err));
    count = (size_t)n * width;
    bad = read_first_bad(out, count, nonnegative);
    if (bad < count)
        return kvt_fail(err, KVT_ECHECK, "%s: /layers/%03u/%s: head %u row %u holds %g; run kvtrace verify",
                        src->path, layer, kvt_tensor_path(tensor), head, row + (uint32_t)(bad / width),
                        (double)out[bad]);
    return KVT_OK;
}

void kvt_source_close(kvt_source *src)
{
    if (src->ops) src->ops->close(src->self);
    *src = (kvt_source){0};
}

/* ---------------------------------------------------------------- HDF5 */

/* A few datasets stay open: the replay reads one layer at a time, head by head. */
static kvt_status hdf5_handle(kvt_reader *r, kvt_tensor tensor, uint32_t layer,
                              const kvt_h5_dataset **out, kvt_err *err)
{
    const size_t n_handles = sizeof r->handle / sizeof *r->handle;
    const kvt_layer_info *l = &r->info.layer[layer];
    const uint32_t width = kvt_tensor_width(&r->info, l, tensor);
    kvt_h5_want want = {.types = KVT_H5_FLOATS,
                        .rank = tensor == KVT_T_SINKS ? 1 : tensor <= KVT_T_Q ? 3 : 2,
                        .dims = {kvt_tensor_heads(l, tensor), kvt_tensor_rows(&r->info, l, tensor), width}};
    char name[32];
    kvt_h5_dataset d;

    for (size_t i = 0; i < n_handles; i++) {
        if (r->handle[i].d.at.id >= 0 && r->handle[i].layer == layer && r->handle[i].tensor == tensor) {
            *out = &r->handle[i].d;
            return KVT_OK;
        }
    }
    snprintf(name, sizeof name, "%03u/%s", layer, kvt_tensor_path(tensor));
    KVT_TRY(kvt__h5_dataset_open(&d, &r->layers, name, &want, NULL, err));
    r->next_handle = (r->next_handle + 1) % (uint32_t)n_handles;
    kvt__h5_dataset_close(&r->handle[r->next_handle].d);
    r->handle[r->next_handle].d = d;
    r->handle[r->next_handle].layer = layer;
    r->handle[r->next_handle].tensor = tensor;
    *out = &r->handle[r->next_handle].d;
    return KVT_OK;
}

/* 16-bit floats lie in the upper half of out; element i is written below the first
 * element that is still to be read. */
static void hdf5_widen(float *out, size_t n, kvt_h5_type type)
{
    unsigned char *bytes = (unsigned char *)out;
    const unsigned char *in = bytes + 2 * n;

    for (size_t i = 0; i < n; i++) {
        uint16_t u;
        float x;
        memcpy(&u, in + 2 * i, 2);
        x = type == KVT_H5_BF16 ? kvt_from_bf16(u) : kvt_from_f16(u);
        memcpy(bytes + 4 * i, &x, 4);
    }
}

static kvt_status hdf5_read_rows(kvt_reader *r, kvt_tensor tensor, uint32_t layer, uint32_t head,
                                 uint32_t row, uint32_t n, float *out, kvt_err *err)
{
    const uint32_t width = kvt_tensor_width(&r->info, &r->info.layer[layer], tensor);
    const uint64_t start[3] = {head, row, 0}, count[3] = {1, n, width};
    const size_t floats = (size_t)n * width;
    const kvt_h5_dataset *d = NULL;
    unsigned char *at = (unsigned char *)out;

    if (!r->info.complete)
        return kvt_fail(err, KVT_EFORMAT, "%s: incomplete: the writer died or still runs", r->file.name);
    KVT_TRY(hdf5_handle(r, tensor, layer, &d, err));
    if (d->elem_bytes == 2) at += 2 * floats;
    KVT_TRY(kvt__h5_dataset_read_block(d, start, count, at, err));
    if (d->elem_bytes == 2) hdf5_widen(out, floats, d->type);
    return KVT_OK;
}

static kvt_status hdf5_read(void *self, kvt_tensor tensor, uint32_t layer, uint32_t head, uint32_t row,
                            uint32_t n, float *out, kvt_err *err)
{
    kvt_status st;

    H5E_BEGIN_TRY {
        st = hdf5_read_rows(self, tensor, layer, head, row, n, out, err);
    } H5E_END_TRY;
    return st;
}

static void hdf5_close(void *self)
{
    H5E_BEGIN_TRY {
        kvt__reader_free(self);
    } H5E_END_TRY;
}

const kvt_source_ops kvt__hdf5_ops = {.name = "hdf5", .read = hdf5_read, .close = hdf5_close};
