/* kvcap_attn.c - one attention call: everything about it is checked here, before any of
 * the caller's numbers are read. Everything is finished when the call returns, so the
 * caller may reuse its buffers at once. */
#include "kvcap_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int attn_refuse(kvcap *cap, const kvcap_attn_call *c)
{
    if (c->rows_kind != KVCAP_ROWS_NONE || c->rows.data)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "layer %u: explicit rows are not captured by this version", c->layer);
    if (c->mask_kind < KVCAP_MASK_CAUSAL || c->mask_kind > KVCAP_MASK_ADD_F32)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: unknown mask_kind %d", c->layer, (int)c->mask_kind);
    return KVCAP_OK;
}

/* The first call checks that everything that must precede it came. */
static int attn_start(kvcap *cap, uint32_t layer)
{
    if (cap->n_set != cap->n_layers)
        return kvcap__fail(cap, KVCAP_EORDER, "kvcap_attn of layer %u, but only %u of %u layers were set", layer,
                           cap->n_set, cap->n_layers);
    if (!cap->writer) return kvcap__fail(cap, KVCAP_EORDER, "kvcap_attn of layer %u before kvcap_prompt", layer);
    cap->started = 1;
    return kvcap__probes_start(cap);
}

static int attn_check_order(kvcap *cap, const kvcap_call *call)
{
    if (call->token0 != call->ls->seen)
        return kvcap__fail(cap, KVCAP_EORDER, "layer %u: token %lld comes next, but this call starts at token %lld",
                           call->layer, (long long)call->ls->seen, (long long)call->token0);
    if (call->token0 + call->n > cap->max_tokens)
        return kvcap__fail(cap, KVCAP_ERANGE, "layer %u: tokens %lld..%lld, but max_tokens is %lld", call->layer,
                           (long long)call->token0, (long long)(call->token0 + call->n - 1),
                           (long long)cap->max_tokens);
    if (call->token0 + call->n > cap->n_ids)
        return kvcap__fail(cap, KVCAP_EORDER,
                           "layer %u: token %lld is attended to before its id is known (kvcap_token comes first)",
                           call->layer, (long long)(call->token0 + call->n - 1));
    return KVCAP_OK;
}

/* Cut the new rows out of the visible cache. */
static kvcap_view attn_tail(const kvcap_view *all, int64_t n_new)
{
    kvcap_view v = *all;
    const int64_t skip = all->shape[0] - n_new;
    v.data = kvcap__row_at(all, skip, 0);
    v.shape[0] = n_new;
    return v;
}

static int attn_take_keys(kvcap *cap, const kvcap_attn_call *c, kvcap_call *call)
{
    const kvt_layer_info *info = &call->ls->info;
    const int is_new = c->k_new.data || c->v_new.data, is_all = c->k_all.data || c->v_all.data;
    const int64_t n_keys = is_all ? c->k_all.shape[0] : (int64_t)call->n;
    const int64_t k_shape[3] = {n_keys, info->n_kv_heads, info->d_k};
    const int64_t v_shape[3] = {n_keys, info->n_kv_heads, info->d_v};
    int64_t first = 0;
    int rc;

    if (is_new == is_all)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: pass either k_new and v_new, or k_all and v_all", call->layer);
    rc = kvcap__check_view(cap, call->layer, is_all ? "k_all" : "k_new", is_all ? &c->k_all : &c->k_new, 3, k_shape);
    if (rc == KVCAP_OK)
        rc =
            kvcap__check_view(cap, call->layer, is_all ? "v_all" : "v_new", is_all ? &c->v_all : &c->v_new, 3, v_shape);
    if (rc != KVCAP_OK) return rc;
    if (!is_all) {
        call->k = c->k_new;
        call->v = c->v_new;
        return KVCAP_OK;
    }
    if (info->attn == KVT_ATTN_SLIDING && call->token0 >= (int64_t)info->window)
        first = call->token0 - (int64_t)info->window + 1;
    if (info->attn == KVT_ATTN_CHUNKED) first = call->token0 - call->token0 % (int64_t)info->window;
    if (n_keys < (int64_t)call->n || c->key0 != call->token0 + (int64_t)call->n - n_keys)
        return kvcap__fail(cap, KVCAP_ESHAPE,
                           "layer %u: %lld visible keys from token %lld on, but the new tokens are %lld..%lld",
                           call->layer, (long long)n_keys, (long long)c->key0, (long long)call->token0,
                           (long long)(call->token0 + call->n - 1));
    if (c->key0 < 0 || c->key0 > first)
        return kvcap__fail(cap, KVCAP_ESHAPE,
                           "layer %u: the visible keys begin at token %lld, but %s attention of token %lld needs them "
                           "from %lld on (is the cache bounded?)",
                           call->layer, (long long)c->key0, kvt_attn_name(info->attn), (long long)call->token0,
                           (long long)first);
    call->k = attn_tail(&c->k_all, call->n);
    call->v = attn_tail(&c->v_all, call->n);
    return KVCAP_OK;
}

static int attn_take_views(kvcap *cap, const kvcap_attn_call *c, kvcap_call *call)
{
    const kvt_layer_info *info = &call->ls->info;
    const int64_t q_shape[3] = {call->n, info->n_heads, info->d_k};
    const int64_t o_shape[3] = {call->n, info->n_heads, info->d_v};
    const int64_t l_shape[2] = {call->n, info->n_heads};
    int rc = kvcap__check_view(cap, call->layer, "q", &c->q, 3, q_shape);

    if (rc == KVCAP_OK) rc = attn_take_keys(cap, c, call);
    if (rc == KVCAP_OK && c->out.data) rc = kvcap__check_view(cap, call->layer, "out", &c->out, 3, o_shape);
    if (rc == KVCAP_OK && c->lse.data) {
        kvcap_view lse = c->lse;
        lse.stride[1] = 1; /* any strides are fine here */
        rc = kvcap__check_view(cap, call->layer, "lse", &lse, 2, l_shape);
        if (rc == KVCAP_OK && lse.dtype != KVCAP_F32)
            rc = kvcap__fail(cap, KVCAP_ENOTSUP, "layer %u: lse must be f32", call->layer);
    }
    if (rc != KVCAP_OK) return rc;
    call->q = c->q;
    call->out = c->out;
    call->lse = c->lse;
    if (call->ls->is_announced) {
        if (kvcap__dtype(c->q.dtype) != info->q_type || kvcap__dtype(call->k.dtype) != info->k_type ||
            kvcap__dtype(call->v.dtype) != info->v_type)
            return kvcap__fail(cap, KVCAP_ESHAPE, "layer %u: q, k or v changed its dtype during the run", call->layer);
        if ((c->lse.data != NULL) != call->ls->engine_lse)
            return kvcap__fail(cap, KVCAP_EARG, "layer %u: lse must come with every call of a layer or with none",
                               call->layer);
    }
    if (c->mask_kind != KVCAP_MASK_CAUSAL) rc = kvcap__check_mask(cap, c, call->ls, call->token0, call->n);
    return rc;
}

/* Rotary positions: the first layer that brings a token says them, the others agree. */
static int attn_take_positions(kvcap *cap, const kvcap_call *call, const int32_t *pos)
{
    const kvt_attn attn = call->ls->info.attn;
    const int64_t end = call->token0 + call->n;

    if (end > cap->cap_rotary) {
        const int64_t more = end + end / 4 + KVCAP_BLOCK;
        int32_t *rotary = kvcap__grow(cap->rotary, (size_t)more, sizeof *rotary);
        if (!rotary) return kvcap__no_memory(cap);
        cap->rotary = rotary;
        cap->cap_rotary = more;
    }
    for (int64_t i = call->token0; i < end; i++) {
        const int32_t at = pos ? pos[i - call->token0] : (int32_t)i;
        if (i < cap->n_rotary) {
            if (cap->rotary[i] != at)
                return kvcap__fail(cap, KVCAP_EARG, "layer %u: token %lld has rotary position %d, other layers say %d",
                                   call->layer, (long long)i, (int)at, (int)cap->rotary[i]);
        } else {
            if (at < 0 || (i > 0 && at < cap->rotary[i - 1]))
                return kvcap__fail(cap, KVCAP_EARG, "layer %u: token %lld: rotary position %d is negative or goes back",
                                   call->layer, (long long)i, (int)at);
            cap->rotary[i] = at;
            cap->n_rotary = i + 1;
        }
        if ((attn == KVT_ATTN_SLIDING || attn == KVT_ATTN_CHUNKED) && at - i != cap->rotary[0])
            return kvcap__fail(
                cap, KVCAP_ENOTSUP,
                "layer %u: rotary position minus token index changes at token %lld, which a %s layer cannot "
                "have in a trace",
                call->layer, (long long)i, kvt_attn_name(attn));
    }
    return KVCAP_OK;
}

static int attn_last_layer(const kvcap *cap, uint32_t layer)
{
    for (uint32_t l = layer + 1; l < cap->n_layers; l++)
        if (cap->layer[l].info.attn != KVT_ATTN_NONE) return 0;
    return 1;
}

/* After the checks: keys, rows, and what is ready for the file. */
static int attn_run(kvcap *cap, const kvcap_call *call)
{
    kvcap_layer_state *ls = call->ls;
    const int64_t end = call->token0 + call->n;
    kvt_err err;
    int rc = kvcap__take_keys(cap, call);

    if (rc == KVCAP_OK) rc = kvcap__probe_values(cap, call);
    if (rc == KVCAP_OK) rc = kvcap__form_rows(cap, call);
    if (rc != KVCAP_OK) return rc;
    ls->seen = end;
    cap->calls++;
    cap->bytes_in += (uint64_t)call->n * ((uint64_t)ls->info.n_kv_heads * (ls->k.row_bytes + ls->v.row_bytes) +
                                          (uint64_t)ls->info.n_heads * ls->q.row_bytes);
    if (end == cap->n_prompt) return kvcap__finish_prompt(cap, call->layer);
    if (ls->k.n < KVCAP_BLOCK) return KVCAP_OK;
    rc = kvcap__flush_layer(cap, call->layer);
    if (rc == KVCAP_OK && end > cap->n_prompt && attn_last_layer(cap, call->layer) &&
        kvt_writer_flush(cap->writer, &err) < 0)
        rc = kvcap__fail_kvt(cap, &err);
    return rc;
}

int kvcap_attn(kvcap *cap, const kvcap_attn_call *given, void *cuda_stream)
{
    kvcap_attn_call c;
    kvcap_call call = {0};
    int rc = kvcap__stuck(cap);

    (void)cuda_stream;
    if (rc != KVCAP_OK) return rc;
    if (!given) return kvcap__fail(cap, KVCAP_EARG, "kvcap_attn: NULL");
    if (kvcap__take(&c, sizeof c, given) != KVCAP_OK)
        return kvcap__fail(cap, KVCAP_EABI, "kvcap_attn_call of %u bytes with fields unknown to this library",
                           given->struct_size);
    if (c.layer >= cap->n_layers)
        return kvcap__fail(cap, KVCAP_ERANGE, "kvcap_attn: layer %u of %u", c.layer, cap->n_layers);
    rc = cap->started ? KVCAP_OK : attn_start(cap, c.layer);
    if (rc == KVCAP_OK) rc = attn_refuse(cap, &c);
    if (rc != KVCAP_OK) return rc;
    call.ls = &cap->layer[c.layer];
    call.layer = c.layer;
    call.token0 = c.token0;
    if (call.ls->info.attn == KVT_ATTN_NONE)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u was announced as one without attention", c.layer);
    if (!c.q.data || c.q.ndim < 1 || c.q.shape[0] < 1 || c.q.shape[0] > KVT_MAX_TOKENS)
        return kvcap__fail(cap, KVCAP_ESHAPE, "layer %u: q is missing or has no rows", c.layer);
    call.n = (uint32_t)c.q.shape[0];
    rc = attn_check_order(cap, &call);
    if (rc == KVCAP_OK && call.token0 < cap->n_prompt && call.token0 + call.n > cap->n_prompt)
        rc =
            kvcap__fail(cap, KVCAP_EORDER, "layer %u: one call holds the end of the prompt and a decode step", c.layer);
    if (rc == KVCAP_OK) rc = attn_take_views(cap, &c, &call);
    if (rc == KVCAP_OK) rc = attn_take_positions(cap, &call, c.pos);
    if (rc == KVCAP_OK && !call.ls->is_announced) rc = kvcap__announce(cap, c.layer, &call);
    return rc == KVCAP_OK ? attn_run(cap, &call) : rc;
}

static kvcap_view attn_flat_view(const void *data, int dtype, int device_type, int device_id, int64_t n, uint32_t heads,
                                 uint32_t width, const int64_t stride[2])
{
    kvcap_view v = {.data = data,
                    .dtype = dtype,
                    .device_type = device_type,
                    .device_id = device_id,
                    .ndim = 3,
                    .shape = {n, heads, width},
                    .stride = {0, 0, 1}};
    if (stride) {
        v.stride[0] = stride[0];
        v.stride[1] = stride[1];
    }
    return v;
}

int kvcap_attn_flat(kvcap *cap, int layer, int64_t token0, int dtype, int device_type, int device_id, const void *q,
                    const void *k, const void *v, const void *out, int64_t n_q, int64_t n_k, int64_t key0,
                    const int64_t q_stride[2], const int64_t k_stride[2], const int64_t v_stride[2],
                    const int64_t out_stride[2], void *cuda_stream)
{
    const kvt_layer_info *info;
    kvcap_attn_call c = {.struct_size = sizeof c};
    const int rc = kvcap__stuck(cap);

    if (rc != KVCAP_OK) return rc;
    if (layer < 0 || (uint32_t)layer >= cap->n_layers)
        return kvcap__fail(cap, KVCAP_ERANGE, "kvcap_attn_flat: layer %d of %u", layer, cap->n_layers);
    if (!q || !k || !v || !q_stride || !k_stride || !v_stride || (out && !out_stride))
        return kvcap__fail(cap, KVCAP_EARG, "layer %d: kvcap_attn_flat: a pointer or its strides are NULL", layer);
    if (n_q < 1 || n_k < n_q || n_k > KVT_MAX_TOKENS || key0 < 0 || key0 > KVT_MAX_TOKENS)
        return kvcap__fail(cap, KVCAP_ESHAPE, "layer %d: %lld queries, %lld keys from token %lld", layer,
                           (long long)n_q, (long long)n_k, (long long)key0);
    info = &cap->layer[layer].info;
    c.layer = (uint32_t)layer;
    c.token0 = token0 < 0 ? key0 + n_k - n_q : token0;
    c.key0 = key0;
    c.q = attn_flat_view(q, dtype, device_type, device_id, n_q, info->n_heads, info->d_k, q_stride);
    c.k_all = attn_flat_view(k, dtype, device_type, device_id, n_k, info->n_kv_heads, info->d_k, k_stride);
    c.v_all = attn_flat_view(v, dtype, device_type, device_id, n_k, info->n_kv_heads, info->d_v, v_stride);
    if (out) c.out = attn_flat_view(out, dtype, device_type, device_id, n_q, info->n_heads, info->d_v, out_stride);
    return kvcap_attn(cap, &c, cuda_stream);
}
