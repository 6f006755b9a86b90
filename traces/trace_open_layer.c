/* trace_open_layer.c - the groups /layers/NNN (FORMAT.md 7): attributes, tensors, rope,
 * and the optional datasets that this version describes and checks but does not use. */
#include "trace_open.h"

#include "kvt_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LAYER_SCORE_RECORDED 1u

const char *kvt_dtype_name(kvt_dtype t) { return kvt__h5_type_name(kvt__h5_type_from(t)); }
size_t kvt_dtype_bytes(kvt_dtype t) { return kvt__h5_type_bytes(kvt__h5_type_from(t)); }

static const char *const attn_names[] = {
    [KVT_ATTN_FULL] = "full", [KVT_ATTN_SLIDING] = "sliding", [KVT_ATTN_CHUNKED] = "chunked",
    [KVT_ATTN_MLA] = "mla",   [KVT_ATTN_NONE] = "none",
};
const char *kvt_attn_name(kvt_attn a) { return attn_names[a]; }

/* ---------------------------------------------------------------- attributes */

static kvt_status layer_window(const kvt_h5_at *at, kvt_layer_info *l, int64_t window, kvt_err *err)
{
    const int windowed = l->attn == KVT_ATTN_SLIDING || l->attn == KVT_ATTN_CHUNKED;

    if (windowed ? window < 1 : window != -1)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute window is %" PRId64 ", expected %s for "
                        "attn_type %s", at->file->name, at->path, window,
                        windowed ? "at least 1" : "-1", kvt_attn_name(l->attn));
    l->window = windowed ? (uint32_t)window : 0;
    return KVT_OK;
}

static kvt_status layer_attributes(kvt_reader *r, const kvt_h5_at *at, uint32_t layer, kvt_err *err)
{
    kvt_layer_info *l = &r->layer[layer];
    const char *text = "";
    uint32_t choice;
    int64_t h, g, dk, dv, window, sinks, kv_layer;
    int found = 1;

    /* A writer that died may have left a group that it had not described yet. */
    KVT_TRY(kvt__reader_text(r, at, "attn_type", 1, &text, r->info.complete ? NULL : &found, err));
    if (!found) return KVT_OK;
    KVT_TRY(kvt__reader_choice(at, "attn_type", text, "full|sliding|chunked|mla|none", &choice, err));
    l->attn = (kvt_attn)choice;
    if (l->attn == KVT_ATTN_NONE) return KVT_OK;
    KVT_TRY(kvt__reader_text(r, at, "score", 1, &text, NULL, err));
    KVT_TRY(kvt__reader_choice(at, "score", text, "dot|recorded", &choice, err));
    l->recorded = choice == LAYER_SCORE_RECORDED;
    KVT_TRY(kvt__reader_int(r, at, "n_heads", 1, KVT_MAX_HEADS, 1, &h, NULL, err));
    KVT_TRY(kvt__reader_int(r, at, "n_kv_heads", 1, h, 1, &g, NULL, err));
    if (h % g != 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute n_heads is %" PRId64 ", not a multiple of "
                        "n_kv_heads, %" PRId64, r->file.name, at->path, h, g);
    KVT_TRY(kvt__reader_int(r, at, "d_k", 1, KVT_MAX_HEAD_DIM, 1, &dk, NULL, err));
    KVT_TRY(kvt__reader_int(r, at, "d_v", 1, KVT_MAX_HEAD_DIM, 1, &dv, NULL, err));
    KVT_TRY(kvt__reader_real(r, at, "scale", -INFINITY, 1, &l->scale, NULL, err));
    if (!(l->scale > 0)) {
        char number[32];
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute scale is %s, expected more than 0",
                        r->file.name, at->path, kvt_number(number, l->scale));
    }
    KVT_TRY(kvt__reader_real(r, at, "softcap", 0, 1, &l->softcap, NULL, err));
    KVT_TRY(kvt__reader_int(r, at, "window", -1, INT32_MAX, 1, &window, NULL, err));
    KVT_TRY(layer_window(at, l, window, err));
    KVT_TRY(kvt__reader_int(r, at, "has_sinks", 0, 1, 1, &sinks, NULL, err));
    KVT_TRY(kvt__reader_int(r, at, "kv_layer", 0, (int64_t)r->info.n_layers - 1, 1, &kv_layer, NULL, err));
    l->n_heads = (uint32_t)h;
    l->n_kv_heads = (uint32_t)g;
    l->d_k = (uint32_t)dk;
    l->d_v = (uint32_t)dv;
    l->has_sinks = (int)sinks;
    l->kv_layer = (uint32_t)kv_layer;
    return KVT_OK;
}

/* ---------------------------------------------------------------- tensors */

static kvt_dtype layer_dtype(kvt_h5_type t)
{
    return t == KVT_H5_F16 ? KVT_F16 : t == KVT_H5_BF16 ? KVT_BF16 : KVT_F32;
}

static int layer_needs(const kvt_layer_info *l, uint32_t layer, kvt_tensor t)
{
    switch (t) {
    case KVT_T_K: return l->kv_layer == layer;
    case KVT_T_Q: case KVT_T_LSE: return !l->recorded;
    case KVT_T_SINKS: return l->has_sinks;
    default: return 0;
    }
}

static kvt_status layer_tensor(kvt_reader *r, const kvt_h5_at *at, uint32_t layer, kvt_tensor t,
                               kvt_err *err)
{
    kvt_layer_info *l = &r->layer[layer];
    const int floats = t == KVT_T_K || t == KVT_T_V || t == KVT_T_Q;
    const uint32_t rows = kvt_tensor_rows(&r->info, l, t), width = kvt_tensor_width(&r->info, l, t);
    const int complete = r->info.complete;
    kvt_h5_want want = {.types = floats ? KVT_H5_FLOATS : KVT_H5_BIT(KVT_H5_F32),
                        .rank = t == KVT_T_SINKS ? 1 : floats ? 3 : 2,
                        .dims = {kvt_tensor_heads(l, t), rows, width}, .unfinished = !complete};
    kvt_h5_dataset d;
    int found = 1;

    if (!complete) want.rank = 0;
    KVT_TRY(kvt__reader_dataset(r, at, kvt_tensor_path(t), &want, &d,
                                layer_needs(l, layer, t) && complete ? NULL : &found, err));
    if (d.at.id < 0) return KVT_OK;
    if ((t == KVT_T_K || t == KVT_T_V) && l->kv_layer != layer) {
        kvt__h5_dataset_close(&d);
        return kvt_fail(err, KVT_EFORMAT, "%s: %s/%s: present, although kv_layer says that this layer "
                        "uses the cache of layer %u", r->file.name, at->path, kvt_tensor_path(t),
                        l->kv_layer);
    }
    l->has |= 1u << t;
    if (t == KVT_T_K) l->k_type = layer_dtype(d.type);
    if (t == KVT_T_V) l->v_type = layer_dtype(d.type);
    if (t == KVT_T_Q) l->q_type = layer_dtype(d.type);
    kvt__h5_dataset_close(&d);
    return KVT_OK;
}

/* The three column statistics are there together or not at all. */
static kvt_status layer_stats(kvt_reader *r, const kvt_h5_at *at, uint32_t layer, kvt_err *err)
{
    const kvt_layer_info *l = &r->layer[layer];
    const uint32_t all = 1u << KVT_T_STAT_SUM | 1u << KVT_T_STAT_SUMSQ | 1u << KVT_T_STAT_MAX;
    const uint32_t n = r->info.n_prompt, has = l->has & all;
    kvt_h5_at stats;
    int64_t x, block = 0;
    int found, has_block;
    kvt_status st = KVT_OK;

    if (r->info.complete && has != 0 && has != all)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s/stats: sum, sumsq and max must be there together, "
                        "and %s is missing", r->file.name, at->path,
                        !(has & 1u << KVT_T_STAT_SUM) ? "sum"
                        : !(has & 1u << KVT_T_STAT_SUMSQ) ? "sumsq" : "max");
    KVT_TRY(kvt__h5_group_open(&stats, at, "stats", &found, err));
    if (!found || !r->info.complete) goto done;
    if (has) {
        KVT_TRY_GOTO(st, kvt__reader_int(r, &stats, "n_queries", n, n, 1, &x, NULL, err));
        KVT_TRY_GOTO(st, kvt__reader_int(r, &stats, "first_query", 0, 0, 1, &x, NULL, err));
    }
    KVT_TRY_GOTO(st, kvt__reader_int(r, &stats, "block", 1, KVT_MAX_TOKENS, 1, &block, &has_block, err));
    {
        const uint64_t n_blocks = has_block ? (n + (uint64_t)block - 1) / (uint64_t)block : 0;
        const kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 3,
                                  .dims = {l->n_heads, n_blocks, n}};
        KVT_TRY_GOTO(st, kvt__reader_dataset(r, &stats, "block_sum", &want, NULL, &found, err));
        if (found && !has_block)
            st = kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute block is missing, block_sum needs it",
                          r->file.name, stats.path);
    }
done:
    kvt__h5_group_close(&stats);
    return st;
}

/* ---------------------------------------------------------------- rope */

static kvt_status rope_numbers(kvt_reader *r, const kvt_h5_at *at, kvt_layer_info *l, kvt_err *err)
{
    static const char dtypes[] = "f64|f32|f16|bf16";
    const char *pairing = "";
    int64_t dims, offset;
    uint32_t choice;

    KVT_TRY(kvt__reader_text(r, at, "type", 0, &l->rope_type, NULL, err));
    KVT_TRY(kvt__reader_text(r, at, "pairing", 1, &pairing, NULL, err));
    KVT_TRY(kvt__reader_choice(at, "pairing", pairing, "half|interleaved", &choice, err));
    l->rope_interleaved = choice == 1;
    KVT_TRY(kvt__reader_int(r, at, "rotary_dim", 2, l->d_k, 1, &dims, NULL, err));
    if (dims % 2 != 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute rotary_dim is %" PRId64 ", expected an even "
                        "number", r->file.name, at->path, dims);
    KVT_TRY(kvt__reader_int(r, at, "offset", 0, l->d_k - dims, 1, &offset, NULL, err));
    KVT_TRY(kvt__reader_real(r, at, "attention_scaling", -INFINITY, 1, &l->rope_attention_scaling, NULL,
                             err));
    if (!(l->rope_attention_scaling > 0))
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: attribute attention_scaling is not more than 0",
                        r->file.name, at->path);
    KVT_TRY(kvt__reader_text(r, at, "angle_dtype", 1, &l->rope_angle_type, NULL, err));
    KVT_TRY(kvt__reader_choice(at, "angle_dtype", l->rope_angle_type, dtypes, &choice, err));
    KVT_TRY(kvt__reader_text(r, at, "table_dtype", 1, &l->rope_table_type, NULL, err));
    KVT_TRY(kvt__reader_choice(at, "table_dtype", l->rope_table_type, dtypes, &choice, err));
    l->rope_dims = (uint32_t)dims;
    l->rope_offset = (uint32_t)offset;
    return KVT_OK;
}

static kvt_status rope_tables(kvt_reader *r, const kvt_h5_at *at, kvt_layer_info *l, kvt_err *err)
{
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_I64), .rank = 1,
                        .dims = {KVT_H5_UP_TO(KVT_MAX_ROPE_SEGMENTS)}};
    const void *start = NULL, *freq = NULL;
    uint64_t z = 0;

    KVT_TRY(kvt__reader_load(r, at, "segment_start", &want, &start, &z, NULL, err));
    if (z == 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s/segment_start: shape 0, expected 1 to %u", r->file.name,
                        at->path, KVT_MAX_ROPE_SEGMENTS);
    l->rope_segments = (uint32_t)z;
    l->rope_segment_start = start;
    for (uint32_t i = 0; i < l->rope_segments; i++) {
        const int64_t s = l->rope_segment_start[i];
        if (i == 0 ? s != 0 : s <= l->rope_segment_start[i - 1])
            return kvt_fail(err, KVT_EFORMAT, "%s: %s/segment_start: element %u is %" PRId64 ", expected "
                            "%s", r->file.name, at->path, i, s,
                            i == 0 ? "0" : "more than the one before");
    }
    want = (kvt_h5_want){.types = KVT_H5_BIT(KVT_H5_F64), .rank = 2, .dims = {z, l->rope_dims / 2}};
    KVT_TRY(kvt__reader_load(r, at, "inv_freq", &want, &freq, NULL, NULL, err));
    l->rope_inv_freq = freq;
    for (uint64_t i = 0; i < z * (l->rope_dims / 2); i++)
        if (!isfinite(l->rope_inv_freq[i]))
            return kvt_fail(err, KVT_EFORMAT, "%s: %s/inv_freq: element %" PRIu64 " is not finite",
                            r->file.name, at->path, i);
    return KVT_OK;
}

static kvt_status layer_rope(kvt_reader *r, const kvt_h5_at *at, uint32_t layer, kvt_err *err)
{
    kvt_layer_info *l = &r->layer[layer];
    kvt_h5_at rope;
    kvt_status st = KVT_OK;
    int found;

    KVT_TRY(kvt__h5_group_open(&rope, at, "rope", &found, err));
    if (!found || !r->info.complete) goto done;
    KVT_TRY_GOTO(st, rope_numbers(r, &rope, l, err));
    st = rope_tables(r, &rope, l, err);
done:
    kvt__h5_group_close(&rope);
    return st;
}

/* ---------------------------------------------------------------- what is only checked */

/* `encoding` of explicit rows must be known and agree with the type. */
static kvt_status rows_encoding(kvt_reader *r, kvt_h5_dataset *d, kvt_err *err)
{
    const char *text = "";
    uint32_t choice;

    KVT_TRY(kvt__reader_text(r, &d->at, "encoding", 1, &text, NULL, err));
    KVT_TRY(kvt__reader_choice(&d->at, "encoding", text, "logit_f32|logp_u16", &choice, err));
    if ((choice == 0) != (d->type == KVT_H5_F32))
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: type %s, expected %s for encoding %s", r->file.name,
                        d->at.path, kvt__h5_type_name(d->type), choice == 0 ? "f32" : "u16", text);
    return KVT_OK;
}

static kvt_status layer_rows(kvt_reader *r, const kvt_h5_at *at, uint32_t layer, kvt_err *err)
{
    const kvt_layer_info *l = &r->layer[layer];
    const kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_F32) | KVT_H5_BIT(KVT_H5_U16), .rank = 3,
                              .dims = {l->n_heads, r->info.n_rows, r->info.n_tokens}};
    kvt_h5_dataset d;
    kvt_status st = KVT_OK;
    int found;

    KVT_TRY(kvt__reader_dataset(r, at, "rows", &want, &d, l->recorded ? NULL : &found, err));
    if (d.at.id >= 0) st = rows_encoding(r, &d, err);
    kvt__h5_dataset_close(&d);
    return st;
}

static kvt_status layer_ea(kvt_reader *r, const kvt_h5_at *at, uint32_t layer, kvt_err *err)
{
    const uint64_t h = r->layer[layer].n_heads, d = r->layer[layer].d_k;
    const kvt_h5_want mean = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 2, .dims = {h, d}};
    const kvt_h5_want cov = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 3, .dims = {h, d, d}};
    const int64_t n = r->info.n_prompt;
    const char *basis = "";
    int64_t first, last, horizon;
    uint32_t choice;
    kvt_h5_at ea;
    kvt_status st = KVT_OK;
    int found, has_mean, has_cov;

    KVT_TRY(kvt__h5_group_open(&ea, at, "ea", &found, err));
    if (!found) return KVT_OK;
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &ea, "q_mean", &mean, NULL, &has_mean, err));
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &ea, "q_cov", &cov, NULL, &has_cov, err));
    if (!has_mean && !has_cov) goto done;
    KVT_TRY_GOTO(st, kvt__reader_int(r, &ea, "first", 0, n - 1, 1, &first, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_int(r, &ea, "last", first, n - 1, 1, &last, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_text(r, &ea, "basis", 1, &basis, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_choice(&ea, "basis", basis, "pre_rope|future", &choice, err));
    st = kvt__reader_int(r, &ea, "horizon", 1, KVT_MAX_TOKENS, 1, &horizon, choice == 1 ? NULL : &found,
                         err);
done:
    kvt__h5_group_close(&ea);
    return st;
}

static kvt_status layer_unused(kvt_reader *r, const kvt_h5_at *at, uint32_t layer, kvt_err *err)
{
    const kvt_layer_info *l = &r->layer[layer];
    const kvt_h5_want l1 = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 2,
                            .dims = {l->n_kv_heads, r->info.n_tokens}};
    const kvt_h5_want gram = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 3,
                              .dims = {l->n_heads, l->d_v, l->d_v}};
    const kvt_h5_want wo = {.types = KVT_H5_FLOATS, .rank = 3,
                            .dims = {l->n_heads, l->d_v, r->info.model_dim}};
    int found;

    KVT_TRY(kvt__reader_dataset(r, at, "v_l1", &l1, NULL, &found, err));
    KVT_TRY(kvt__reader_dataset(r, at, "wo_gram", &gram, NULL, &found, err));
    KVT_TRY(kvt__reader_dataset(r, at, "wo", &wo, NULL, &found, err));
    KVT_TRY(layer_rows(r, at, layer, err));
    return layer_ea(r, at, layer, err);
}

kvt_status kvt__open_score(kvt_reader *r, uint32_t layer, const char *name, kvt_err *err)
{
    const kvt_layer_info *l = &r->layer[layer];
    const uint64_t n = r->info.n_prompt, t = r->info.n_tokens;
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_F32)};
    char path[96], found[160];
    const char *text = "";
    uint32_t choice;
    uint64_t heads;
    int64_t higher;
    kvt_h5_dataset d;
    kvt_status st;

    snprintf(path, sizeof path, "%03u/scores/%s", layer, name);
    KVT_TRY(kvt__reader_dataset(r, &r->layers, path, &want, &d, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_text(r, &d.at, "granularity", 1, &text, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_choice(&d.at, "granularity", text, "kv_head|query_head", &choice, err));
    KVT_TRY_GOTO(st, kvt__reader_int(r, &d.at, "higher_is_better", 0, 1, 1, &higher, NULL, err));
    heads = choice == 0 ? l->n_kv_heads : l->n_heads;
    if (!((d.rank == 2 && d.dims[0] == heads && (d.dims[1] == n || d.dims[1] == t)) ||
          (d.rank == 3 && d.dims[0] == heads && d.dims[1] == r->info.n_decode && d.dims[2] == t)))
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s: shape %s, expected %" PRIu64 "x%" PRIu64 ", %" PRIu64
                      "x%" PRIu64 " or %" PRIu64 "x%ux%" PRIu64, r->file.name, d.at.path,
                      kvt__h5_shape(found, sizeof found, d.rank, d.dims), heads, n, heads, t, heads,
                      r->info.n_decode, t);
done:
    kvt__h5_dataset_close(&d);
    return st;
}

kvt_status kvt__open_extra(kvt_reader *r, uint32_t layer, const char *name, kvt_err *err)
{
    const kvt_layer_info *l = &r->layer[layer];
    const uint64_t most = KVT_H5_UP_TO(KVT_MAX_EXTRA_ROWS);
    kvt_h5_want rows = {.types = KVT_H5_BIT(KVT_H5_F32) | KVT_H5_BIT(KVT_H5_U16), .rank = 3,
                        .dims = {l->n_heads, most, r->info.n_prompt}};
    kvt_h5_want position = {.types = KVT_H5_BIT(KVT_H5_I32), .rank = 1, .dims = {most}};
    kvt_h5_want q = {.types = KVT_H5_FLOATS, .rank = 3, .dims = {l->n_heads, most, l->d_k}};
    char path[96];
    int64_t after;
    kvt_h5_at at;
    kvt_h5_dataset d;
    kvt_status st;
    int has_rows, has_position, *needed = NULL;

    snprintf(path, sizeof path, "%03u/extra/%s", layer, name);
    KVT_TRY(kvt__h5_group_open(&at, &r->layers, path, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_int(r, &at, "after", 0, r->info.n_tokens, 1, &after, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &at, "rows", &rows, &d, &has_rows, err));
    if (has_rows) {
        st = rows_encoding(r, &d, err);
        q.dims[1] = position.dims[0] = d.dims[1];
        needed = &has_position;                       /* rows stand for q and k */
        kvt__h5_dataset_close(&d);
        if (st < 0) goto done;
    }
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &at, "position", &position, &d, needed, err));
    if (d.at.id >= 0) q.dims[1] = d.dims[0];
    kvt__h5_dataset_close(&d);
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &at, "q", &q, NULL, needed, err));
    q.dims[0] = l->n_kv_heads;
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &at, "k", &q, NULL, needed, err));
    q.dims[2] = l->d_v;
    st = kvt__reader_dataset(r, &at, "v", &q, NULL, &has_position, err);
done:
    kvt__h5_group_close(&at);
    return st;
}

/* ---------------------------------------------------------------- all layers */

static kvt_status open_layer(kvt_reader *r, uint32_t layer, kvt_err *err)
{
    kvt_layer_info *l = &r->layer[layer];
    char name[8];
    kvt_h5_at at;
    kvt_status st;
    int found;

    l->attn = KVT_ATTN_NONE;
    l->rope_type = l->rope_angle_type = l->rope_table_type = "";
    l->kv_layer = layer;
    snprintf(name, sizeof name, "%03u", layer % (KVT_MAX_LAYERS + 1));
    KVT_TRY(kvt__h5_group_open(&at, &r->layers, name, r->info.complete ? NULL : &found, err));
    if (at.id < 0) return KVT_OK;
    KVT_TRY_GOTO(st, layer_attributes(r, &at, layer, err));
    if (l->attn == KVT_ATTN_NONE) goto done;
    for (uint32_t t = KVT_T_K; t < KVT_T_END; t++)
        KVT_TRY_GOTO(st, layer_tensor(r, &at, layer, (kvt_tensor)t, err));
    KVT_TRY_GOTO(st, layer_stats(r, &at, layer, err));
    KVT_TRY_GOTO(st, layer_rope(r, &at, layer, err));
    if (r->info.complete) st = layer_unused(r, &at, layer, err);
done:
    kvt__h5_group_close(&at);
    return st;
}

/* A shared cache must be one that its own layer keeps, in the shape this layer expects. */
static kvt_status check_shared_cache(const kvt_reader *r, uint32_t layer, kvt_err *err)
{
    const kvt_layer_info *l = &r->layer[layer], *owner = &r->layer[l->kv_layer];

    if (l->attn == KVT_ATTN_NONE || l->kv_layer == layer) return KVT_OK;
    if (owner->attn == KVT_ATTN_NONE || owner->kv_layer != l->kv_layer ||
        owner->n_kv_heads != l->n_kv_heads || owner->d_k != l->d_k || owner->d_v != l->d_v)
        return kvt_fail(err, KVT_EFORMAT, "%s: /layers/%03u: attribute kv_layer is %u, a layer without a "
                        "cache of its own in this shape", r->file.name, layer, l->kv_layer);
    return KVT_OK;
}

/* n_rows is needed for the shapes; the indexes themselves are checked with the tokens. */
static kvt_status count_rows(kvt_reader *r, kvt_err *err)
{
    const kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_I32), .rank = 1,
                              .dims = {KVT_H5_UP_TO(r->info.n_tokens)},
                              .unfinished = !r->info.complete};
    kvt_h5_dataset d;
    int found;

    KVT_TRY(kvt__h5_dataset_open(&d, &r->root, "queries/index", &want, r->info.complete ? NULL : &found,
                                 err));
    if (d.at.id >= 0) r->info.n_rows = (uint32_t)d.dims[0];
    kvt__h5_dataset_close(&d);
    return KVT_OK;
}

kvt_status kvt__open_layers(kvt_reader *r, kvt_err *err)
{
    int found;

    r->layer = kvt__reader_alloc(r, r->info.n_layers * sizeof *r->layer);
    if (!r->layer) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
    r->info.layer = r->layer;
    KVT_TRY(count_rows(r, err));
    KVT_TRY(kvt__h5_group_open(&r->layers, &r->root, "layers", r->info.complete ? NULL : &found, err));
    for (uint32_t layer = 0; layer < r->info.n_layers; layer++) {
        if (r->layers.id >= 0) {
            KVT_TRY(open_layer(r, layer, err));
        } else {
            r->layer[layer].attn = KVT_ATTN_NONE;
            r->layer[layer].rope_type = r->layer[layer].rope_angle_type = "";
            r->layer[layer].rope_table_type = "";
        }
    }
    for (uint32_t layer = 0; layer < r->info.n_layers && r->info.complete; layer++)
        KVT_TRY(check_shared_cache(r, layer, err));
    return KVT_OK;
}
