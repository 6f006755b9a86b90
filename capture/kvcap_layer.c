/* kvcap_layer.c - what the front-end says about a layer before the first attention call:
 * shapes, scale, mask kind, rotary embedding, learned sinks, output projection. */
#include "kvcap_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *layer_dtype_name(int32_t dtype)
{
    switch (dtype) {
    case KVCAP_F64: return "f64";
    case KVCAP_F32: return "f32";
    case KVCAP_F16: return "f16";
    case KVCAP_BF16: return "bf16";
    default: return NULL;
    }
}

static int layer_check_rope(kvcap *cap, uint32_t layer, uint32_t d_k, const kvcap_rope *r)
{
    if (r->pairing != KVCAP_ROPE_HALF && r->pairing != KVCAP_ROPE_INTERLEAVED)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: rope pairing %d, expected 1 (half) or 2 (interleaved)", layer,
                           (int)r->pairing);
    if (r->rotary_dim == 0 || r->rotary_dim % 2 != 0 || r->rotary_dim > d_k || r->offset > d_k - r->rotary_dim)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: rope channels %u..+%u do not fit in d_k %u in pairs", layer,
                           r->offset, r->rotary_dim, d_k);
    if (!(isfinite(r->attention_scaling) && r->attention_scaling > 0.0))
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: rope attention_scaling must be finite and > 0", layer);
    if (!layer_dtype_name(r->table_dtype) || !layer_dtype_name(r->angle_dtype))
        return kvcap__fail(cap, KVCAP_EARG,
                           "layer %u: rope table_dtype %d, angle_dtype %d: expected f32, f16, bf16 or f64", layer,
                           (int)r->table_dtype, (int)r->angle_dtype);
    if (r->n_segments == 0 || r->n_segments > KVT_MAX_ROPE_SEGMENTS || !r->inv_freq || !r->segment_start)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: rope needs 1..%u segments with inv_freq and segment_start",
                           layer, KVT_MAX_ROPE_SEGMENTS);
    for (uint32_t z = 0; z < r->n_segments; z++)
        if (z == 0 ? r->segment_start[0] != 0 : r->segment_start[z] <= r->segment_start[z - 1])
            return kvcap__fail(cap, KVCAP_EARG, "layer %u: rope segment_start must begin with 0 and ascend", layer);
    for (size_t i = 0; i < (size_t)r->n_segments * (r->rotary_dim / 2); i++)
        if (!isfinite(r->inv_freq[i]))
            return kvcap__fail(cap, KVCAP_EARG, "layer %u: rope inv_freq[%zu] is not finite", layer, i);
    return KVCAP_OK;
}

static int layer_take_rope(kvcap *cap, uint32_t layer, const kvcap_rope *given)
{
    kvcap_layer_state *ls = &cap->layer[layer];
    kvt_layer_info *info = &ls->info;
    kvcap_rope r;
    size_t n;
    int rc;

    if (!given) return KVCAP_OK;
    if (kvcap__take(&r, sizeof r, given) != KVCAP_OK)
        return kvcap__fail(cap, KVCAP_EABI, "layer %u: kvcap_rope of %u bytes with fields unknown to this library",
                           layer, given->struct_size);
    if (r.pairing == KVCAP_ROPE_NONE) return KVCAP_OK;
    rc = layer_check_rope(cap, layer, info->d_k, &r);
    if (rc != KVCAP_OK) return rc;
    n = (size_t)r.n_segments * (r.rotary_dim / 2);
    ls->rope_inv_freq = kvcap__grow(NULL, n, sizeof *ls->rope_inv_freq);
    ls->rope_segment = kvcap__grow(NULL, r.n_segments, sizeof *ls->rope_segment);
    ls->rope_type = strdup(r.type && *r.type ? r.type : "default");
    if (!ls->rope_inv_freq || !ls->rope_segment || !ls->rope_type) return kvcap__no_memory(cap);
    if (strlen(ls->rope_type) > KVT_MAX_STRING)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: the rope type is longer than %u bytes", layer, KVT_MAX_STRING);
    memcpy(ls->rope_inv_freq, r.inv_freq, n * sizeof *ls->rope_inv_freq);
    memcpy(ls->rope_segment, r.segment_start, r.n_segments * sizeof *ls->rope_segment);
    info->rope_dims = r.rotary_dim;
    info->rope_offset = r.offset;
    info->rope_segments = r.n_segments;
    info->rope_interleaved = r.pairing == KVCAP_ROPE_INTERLEAVED;
    info->rope_attention_scaling = r.attention_scaling;
    info->rope_type = ls->rope_type;
    info->rope_angle_type = layer_dtype_name(r.angle_dtype);
    info->rope_table_type = layer_dtype_name(r.table_dtype);
    info->rope_inv_freq = ls->rope_inv_freq;
    info->rope_segment_start = ls->rope_segment;
    return KVCAP_OK;
}

static int layer_check_shape(kvcap *cap, const kvcap_layer *l)
{
    if (l->n_heads == 0 || l->n_heads > KVT_MAX_HEADS || l->n_kv_heads == 0 || l->n_heads % l->n_kv_heads != 0)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: %u query heads over %u KV heads; expected 1..%u, a multiple",
                           l->layer, l->n_heads, l->n_kv_heads, KVT_MAX_HEADS);
    if (l->d_k == 0 || l->d_k > KVT_MAX_HEAD_DIM || l->d_v == 0 || l->d_v > KVT_MAX_HEAD_DIM)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: d_k %u, d_v %u; expected 1..%u", l->layer, l->d_k, l->d_v,
                           KVT_MAX_HEAD_DIM);
    if (!(isfinite(l->scale) && l->scale > 0.0) || !(isfinite(l->softcap) && l->softcap >= 0.0))
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: scale must be finite and > 0, softcap finite and >= 0",
                           l->layer);
    if (l->attn_type == KVCAP_ATTN_SLIDING || l->attn_type == KVCAP_ATTN_CHUNKED) {
        if (l->window < 1 || l->window > UINT32_MAX)
            return kvcap__fail(cap, KVCAP_EARG, "layer %u: a sliding or chunked layer needs a window >= 1", l->layer);
    } else if (l->window != -1) {
        return kvcap__fail(cap, KVCAP_EARG,
                           "layer %u: window %lld on a layer that is neither sliding nor chunked; expected -1",
                           l->layer, (long long)l->window);
    }
    if (l->score == KVCAP_SCORE_RECORDED)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "layer %u: recorded rows are not captured by this version", l->layer);
    if (l->score != KVCAP_SCORE_DOT)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: unknown score %d", l->layer, (int)l->score);
    if (l->kv_layer < 0 || (uint32_t)l->kv_layer != l->layer)
        return kvcap__fail(cap, KVCAP_ENOTSUP,
                           "layer %u attends to the cache of layer %d: shared caches are not captured", l->layer,
                           (int)l->kv_layer);
    return KVCAP_OK;
}

int kvcap_set_layer(kvcap *cap, const kvcap_layer *layer)
{
    kvcap_layer_state *ls;
    kvcap_layer l;
    int rc = kvcap__stuck(cap);

    if (rc != KVCAP_OK) return rc;
    if (!layer) return kvcap__fail(cap, KVCAP_EARG, "kvcap_set_layer: NULL");
    if (kvcap__take(&l, sizeof l, layer) != KVCAP_OK)
        return kvcap__fail(cap, KVCAP_EABI, "kvcap_layer of %u bytes with fields unknown to this library",
                           layer->struct_size);
    if (l.layer >= cap->n_layers)
        return kvcap__fail(cap, KVCAP_ERANGE, "kvcap_set_layer: layer %u of %u", l.layer, cap->n_layers);
    if (cap->started)
        return kvcap__fail(cap, KVCAP_EORDER, "layer %u: kvcap_set_layer after the first kvcap_attn", l.layer);
    ls = &cap->layer[l.layer];
    if (ls->is_set) return kvcap__fail(cap, KVCAP_EORDER, "layer %u is set twice", l.layer);
    if (l.attn_type < KVCAP_ATTN_FULL || l.attn_type > KVCAP_ATTN_NONE)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: unknown attn_type %d", l.layer, (int)l.attn_type);
    if (l.attn_type == KVCAP_ATTN_NONE) {
        ls->info = (kvt_layer_info){.attn = KVT_ATTN_NONE, .kv_layer = l.layer};
    } else {
        static const kvt_attn attn[] = {KVT_ATTN_FULL, KVT_ATTN_SLIDING, KVT_ATTN_CHUNKED, KVT_ATTN_MLA};
        rc = layer_check_shape(cap, &l);
        if (rc != KVCAP_OK) return rc;
        ls->info = (kvt_layer_info){.attn = attn[l.attn_type],
                                    .n_heads = l.n_heads,
                                    .n_kv_heads = l.n_kv_heads,
                                    .d_k = l.d_k,
                                    .d_v = l.d_v,
                                    .window = l.window > 0 ? (uint32_t)l.window : 0,
                                    .kv_layer = l.layer,
                                    .scale = l.scale,
                                    .softcap = l.softcap,
                                    .has_sinks = l.sinks != NULL};
    }
    ls->info.rope_type = ls->info.rope_angle_type = ls->info.rope_table_type = "";
    if (l.attn_type != KVCAP_ATTN_NONE) {
        rc = layer_take_rope(cap, l.layer, l.rope);
        if (rc != KVCAP_OK) return rc;
        ls->panel = calloc(l.n_kv_heads, sizeof *ls->panel);
        if (!ls->panel) return kvcap__no_memory(cap);
    }
    if (ls->info.has_sinks) {
        ls->sinks = kvcap__grow(NULL, l.n_heads, sizeof *ls->sinks);
        if (!ls->sinks) return kvcap__no_memory(cap);
        memcpy(ls->sinks, l.sinks, l.n_heads * sizeof *ls->sinks);
        for (uint32_t h = 0; h < l.n_heads; h++)
            if (!isfinite(ls->sinks[h]))
                return kvcap__fail(cap, KVCAP_EARG, "layer %u: the sink logit of head %u is not finite", l.layer, h);
    }
    ls->is_set = 1;
    cap->n_set++;
    return KVCAP_OK;
}

int kvcap_set_wo(kvcap *cap, uint32_t layer, const kvcap_view *wo, void *cuda_stream)
{
    kvcap_layer_state *ls;
    kvcap_view shaped;
    int64_t shape[3];
    int rc = kvcap__stuck(cap);

    (void)cuda_stream;
    if (rc != KVCAP_OK) return rc;
    if (layer >= cap->n_layers)
        return kvcap__fail(cap, KVCAP_ERANGE, "kvcap_set_wo: layer %u of %u", layer, cap->n_layers);
    if (!wo) return kvcap__fail(cap, KVCAP_EARG, "layer %u: kvcap_set_wo without a view", layer);
    ls = &cap->layer[layer];
    if (!ls->is_set || ls->is_announced || ls->info.attn == KVT_ATTN_NONE)
        return kvcap__fail(cap, KVCAP_EORDER,
                           "layer %u: kvcap_set_wo comes after kvcap_set_layer and before the first "
                           "call of an attention layer",
                           layer);
    shape[0] = ls->info.n_heads, shape[1] = ls->info.d_v, shape[2] = cap->model_dim;
    shaped = *wo;
    shaped.stride[2] = 1; /* any stride is fine here */
    rc = kvcap__check_view(cap, layer, "Wo", &shaped, 3, shape);
    if (rc == KVCAP_OK) ls->wo = *wo;
    return rc;
}

void kvcap__layer_free(kvcap_layer_state *ls)
{
    kvcap__probes_free(ls);
    for (uint32_t g = 0; g < ls->info.n_kv_heads && ls->panel; g++) free(ls->panel[g]);
    free(ls->panel);
    free(ls->k.data);
    free(ls->v.data);
    free(ls->q.data);
    free(ls->lse.data);
    free(ls->col_sum);
    free(ls->col_sumsq);
    free(ls->col_max);
    free(ls->rope_type);
    free(ls->rope_inv_freq);
    free(ls->rope_segment);
    free(ls->sinks);
}
