/* kvcap_view.c - strided views of the caller's memory: checks, rows, masks. */
#include "kvcap_impl.h"

#include <math.h>
#include <string.h>
#include "kvt_float16.h"

static size_t view_bytes(int32_t dtype)
{
    switch (dtype) {
    case KVCAP_F32: return 4;
    case KVCAP_F16:
    case KVCAP_BF16: return 2;
    default: return 0;
    }
}

kvt_dtype kvcap__dtype(int32_t dtype)
{
    return dtype == KVCAP_F32 ? KVT_F32 : dtype == KVCAP_F16 ? KVT_F16 : KVT_BF16;
}

int kvcap__check_view(kvcap *cap, uint32_t layer, const char *what, const kvcap_view *view, int ndim,
                      const int64_t *shape)
{
    const size_t bytes = view_bytes(view->dtype);

    if (!view->data) return kvcap__fail(cap, KVCAP_EARG, "layer %u: %s: no data pointer", layer, what);
    if (view->device_type == KVCAP_CUDA)
        return kvcap__fail(cap, KVCAP_ENOTSUP,
                           "layer %u: %s: a CUDA pointer, but this build takes host pointers; copy to the host first",
                           layer, what);
    if (view->device_type != KVCAP_CPU)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: %s: device_type %d, expected KVCAP_CPU", layer, what,
                           (int)view->device_type);
    if (view->dtype == KVCAP_F8E4M3 || view->dtype == KVCAP_F8E5M2 || view->dtype == KVCAP_F64)
        return kvcap__fail(cap, KVCAP_ENOTSUP,
                           "layer %u: %s: fp8 and f64 are not captured by this version; pass f32, f16 or bf16", layer,
                           what);
    if (!bytes) return kvcap__fail(cap, KVCAP_EARG, "layer %u: %s: unknown dtype %d", layer, what, (int)view->dtype);
    if ((uintptr_t)view->data % bytes != 0)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: %s: the pointer is not aligned to its element", layer, what);
    if (view->ndim != ndim)
        return kvcap__fail(cap, KVCAP_ESHAPE, "layer %u: %s: %d axes, expected %d", layer, what, (int)view->ndim, ndim);
    for (int i = 0; i < ndim; i++)
        if (view->shape[i] != shape[i])
            return kvcap__fail(cap, KVCAP_ESHAPE, "layer %u: %s: axis %d has %lld elements, expected %lld", layer, what,
                               i, (long long)view->shape[i], (long long)shape[i]);
    if (view->stride[ndim - 1] != 1)
        return kvcap__fail(cap, KVCAP_ESHAPE,
                           "layer %u: %s: the last axis has stride %lld, expected 1 (make it contiguous)", layer, what,
                           (long long)view->stride[ndim - 1]);
    return KVCAP_OK;
}

const void *kvcap__row_at(const kvcap_view *view, int64_t t, int64_t h)
{
    const int64_t bytes = (int64_t)view_bytes(view->dtype);
    return (const unsigned char *)view->data + (t * view->stride[0] + h * view->stride[1]) * bytes;
}

void kvcap__row_f32(const kvcap_view *view, int64_t t, int64_t h, uint32_t width, float *out)
{
    const void *row = kvcap__row_at(view, t, h);
    const uint16_t *half = row;

    if (view->dtype == KVCAP_F32)
        memcpy(out, row, (size_t)width * 4);
    else if (view->dtype == KVCAP_BF16)
        for (uint32_t c = 0; c < width; c++) out[c] = kvt_from_bf16(half[c]);
    else
        for (uint32_t c = 0; c < width; c++) out[c] = kvt_from_f16(half[c]);
}

/* One element of a mask: 1 visible, 0 invisible, -1 neither (a bias). Engines write the
 * most negative finite number of the type instead of -inf; -1e4 is below any real bias. */
static int view_mask_at(const kvcap_view *mask, int kind, int64_t t, int64_t j)
{
    const int64_t at = t * mask->stride[0] + j * mask->stride[1];
    float x;

    if (kind == KVCAP_MASK_BOOL) return ((const unsigned char *)mask->data)[at] != 0;
    x = kind == KVCAP_MASK_ADD_F32 ? ((const float *)mask->data)[at] : kvt_from_f16(((const uint16_t *)mask->data)[at]);
    if (x == 0.0f) return 1;
    return x <= -1e4f ? 0 : -1;
}

static int view_visible(const kvt_layer_info *info, int64_t p, int64_t j)
{
    if (j > p) return 0;
    if (info->attn == KVT_ATTN_SLIDING) return p - j < (int64_t)info->window;
    if (info->attn == KVT_ATTN_CHUNKED) return j / (int64_t)info->window == p / (int64_t)info->window;
    return 1;
}

int kvcap__check_mask(kvcap *cap, const kvcap_attn_call *call, const kvcap_layer_state *ls, int64_t token0,
                      int64_t n_new)
{
    const kvcap_view *mask = &call->mask;
    const int64_t key0 = call->key0, n_keys = token0 + n_new - key0; /* column 0 is token key0 */

    if (!mask->data)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: mask_kind %d without a mask", call->layer, (int)call->mask_kind);
    if (mask->device_type != KVCAP_CPU)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "layer %u: mask: this build takes host pointers", call->layer);
    if ((uintptr_t)mask->data % (call->mask_kind == KVCAP_MASK_ADD_F32   ? 4
                                 : call->mask_kind == KVCAP_MASK_ADD_F16 ? 2
                                                                         : 1))
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: mask: the pointer is not aligned to its element", call->layer);
    if (key0 < 0 || key0 > token0)
        return kvcap__fail(cap, KVCAP_ESHAPE, "layer %u: mask: column 0 is token %lld, the first query token %lld",
                           call->layer, (long long)key0, (long long)token0);
    if (mask->ndim != 2 || mask->shape[0] != n_new || mask->shape[1] != n_keys)
        return kvcap__fail(cap, KVCAP_ESHAPE, "layer %u: mask: shape %lldx%lld, expected %lldx%lld (queries x keys)",
                           call->layer, (long long)mask->shape[0], (long long)mask->shape[1], (long long)n_new,
                           (long long)n_keys);
    for (int64_t t = 0; t < n_new; t++)
        for (int64_t j = 0; j < n_keys; j++) {
            const int want = view_visible(&ls->info, token0 + t, key0 + j);
            if (view_mask_at(mask, call->mask_kind, t, j) != want)
                return kvcap__fail(cap, KVCAP_ENOTSUP,
                                   "layer %u: the mask says otherwise for query %lld and key %lld than causal %s "
                                   "attention (padding, prefix or tree masks and biases are not captured)",
                                   call->layer, (long long)(token0 + t), (long long)(key0 + j),
                                   kvt_attn_name(ls->info.attn));
        }
    return KVCAP_OK;
}
