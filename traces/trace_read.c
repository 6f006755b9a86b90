/* trace_read.c - rows of a tensor: shapes, the checked read that every source goes
 * through, and the HDF5 source behind it. Nothing is converted by libhdf5: 16-bit floats
 * come as bits and are widened here, exactly.
 *
 * Contiguous, unfiltered data are read without libhdf5: out of a mapping where the program
 * guards mapped pages, else by pread(), which copies once more and reaches little more than
 * half of the speed. Everything else goes through H5Dread. */
#include "trace_open.h"

#include "trace_guard.h"
#include "trace_widen.h"

#include <stdio.h>
#include <string.h>

#define READ_BLOCK ((size_t)128 << 10)         /* bytes: still in the cache when they are widened */

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
    int finite = 0;

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
    KVT_TRY(src->ops->read(src->self, tensor, layer, head, row, n, out, &finite, err));
    if (finite && !nonnegative) return KVT_OK;
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
static kvt_status hdf5_handle(kvt_reader *r, kvt_tensor tensor, uint32_t layer, kvt_handle **out, kvt_err *err)
{
    const size_t n_handles = sizeof r->handle / sizeof *r->handle;
    const kvt_layer_info *l = &r->info.layer[layer];
    const uint32_t width = kvt_tensor_width(&r->info, l, tensor);
    kvt_h5_want want = {.types = KVT_H5_FLOATS,
                        .rank = tensor == KVT_T_SINKS ? 1 : tensor <= KVT_T_Q ? 3 : 2,
                        .dims = {kvt_tensor_heads(l, tensor), kvt_tensor_rows(&r->info, l, tensor), width}};
    char name[32];
    kvt_handle *h;
    kvt_h5_dataset d;

    for (size_t i = 0; i < n_handles; i++) {
        h = &r->handle[i];
        if (h->d.at.id >= 0 && h->layer == layer && h->tensor == tensor) {
            *out = h;
            return KVT_OK;
        }
    }
    snprintf(name, sizeof name, "%03u/%s", layer, kvt_tensor_path(tensor));
    KVT_TRY(kvt__h5_dataset_open(&d, &r->layers, name, &want, NULL, err));
    r->next_handle = (r->next_handle + 1) % (uint32_t)n_handles;
    h = &r->handle[r->next_handle];
    kvt__h5_map_close(&h->map);
    kvt__h5_dataset_close(&h->d);
    *h = (kvt_handle){.d = d, .layer = layer, .tensor = tensor};
    kvt__h5_map_open(&h->map, &d);
    *out = h;
    return KVT_OK;
}

typedef struct hdf5_mapped { const unsigned char *in; float *out; size_t n; kvt_h5_type type; int odd; } hdf5_mapped;

static void hdf5_widen_mapped(void *arg)
{
    hdf5_mapped *m = arg;
    m->odd = kvt__widen(m->out, m->in, m->n, m->type);
}

/* n elements from byte `from` of the dataset on. */
static kvt_status hdf5_read_mapped(kvt_handle *h, uint64_t from, size_t n, float *out, int *finite, kvt_err *err)
{
    const size_t bytes = n * h->d.elem_bytes;
    hdf5_mapped m = {h->map.base + h->map.skip + from, out, n, h->d.type, 0};

    kvt__h5_map_expect(&h->map, from + bytes, bytes);
    if (!kvt_guard_touch(m.in, bytes, hdf5_widen_mapped, &m)) return kvt__h5_direct_failed(&h->d, 0, err);
    *finite = !m.odd;
    return KVT_OK;
}

/* The same by pread(), block by block, into the last bytes of where the floats go. */
static kvt_status hdf5_read_direct(const kvt_h5_dataset *d, uint64_t from, size_t n, float *out, int *finite, kvt_err *err)
{
    const size_t each = READ_BLOCK / d->elem_bytes;
    int odd = 0;

    for (size_t done = 0, now; done < n; done += now) {
        unsigned char *at;
        now = n - done < each ? n - done : each;
        at = (unsigned char *)(out + done) + now * (sizeof *out - d->elem_bytes);
        KVT_TRY(kvt__h5_direct_read(d, from + done * d->elem_bytes, now * d->elem_bytes, at, err));
        odd |= kvt__widen(out + done, at, now, d->type);
    }
    *finite = !odd;
    return KVT_OK;
}

static kvt_status hdf5_read_rows(kvt_reader *r, kvt_tensor tensor, uint32_t layer, uint32_t head,
                                 uint32_t row, uint32_t n, float *out, int *finite, kvt_err *err)
{
    const kvt_layer_info *l = &r->info.layer[layer];
    const uint32_t width = kvt_tensor_width(&r->info, l, tensor);
    const uint64_t start[3] = {head, row, 0}, count[3] = {1, n, width};
    const size_t floats = (size_t)n * width;
    kvt_handle *h = NULL;
    unsigned char *at;
    uint64_t from;

    if (!r->info.complete)
        return kvt_fail(err, KVT_EFORMAT, "%s: incomplete: the writer died or still runs", r->file.name);
    KVT_TRY(hdf5_handle(r, tensor, layer, &h, err));
    from = ((uint64_t)head * kvt_tensor_rows(&r->info, l, tensor) + row) * width * h->d.elem_bytes;
    if (h->map.base) return hdf5_read_mapped(h, from, floats, out, finite, err);
    if (h->d.direct) return hdf5_read_direct(&h->d, from, floats, out, finite, err);
    at = (unsigned char *)out + floats * (sizeof *out - h->d.elem_bytes);
    KVT_TRY(kvt__h5_dataset_read_block(&h->d, start, count, at, err));
    *finite = !kvt__widen(out, at, floats, h->d.type);
    return KVT_OK;
}

static kvt_status hdf5_read(void *self, kvt_tensor tensor, uint32_t layer, uint32_t head, uint32_t row,
                            uint32_t n, float *out, int *finite, kvt_err *err)
{
    kvt_status st;

    H5E_BEGIN_TRY {
        st = hdf5_read_rows(self, tensor, layer, head, row, n, out, finite, err);
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
