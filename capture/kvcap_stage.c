/* kvcap_stage.c - rows wait here per head until a block of them is written: a decode
 * step must not become L x H small writes. The values of a block also become nu here,
 * so that the output projection is widened once per block and not once per step. */
#include "kvcap_impl.h"

#include <stdlib.h>
#include <string.h>

int kvcap__stage_room(kvcap_stage *s, uint32_t more)
{
    const size_t need = (size_t)s->n + more;
    uint32_t cap = s->cap;
    unsigned char *data;

    if (need <= cap) return KVCAP_OK;
    cap = need > KVCAP_BLOCK ? (uint32_t)need : KVCAP_BLOCK;
    data = kvcap__grow(NULL, (size_t)cap * s->n_heads, s->row_bytes);
    if (!data) return KVCAP_ENOMEM;
    for (uint32_t h = 0; h < s->n_heads && s->n; h++)
        memcpy(data + (size_t)h * cap * s->row_bytes, s->data + (size_t)h * s->cap * s->row_bytes, s->n * s->row_bytes);
    free(s->data);
    s->data = data;
    s->cap = cap;
    return KVCAP_OK;
}

void *kvcap__stage_row(const kvcap_stage *s, uint32_t head, uint32_t i)
{
    return s->data + ((size_t)head * s->cap + i) * s->row_bytes;
}

/* A prefill in one piece leaves a buffer of the prompt's size; give it back. */
static void stage_clear(kvcap_stage *s)
{
    s->n = 0;
    if (s->cap > 2 * KVCAP_BLOCK) {
        free(s->data);
        s->data = NULL;
        s->cap = 0;
    }
}

static int stage_write(kvcap *cap, uint32_t layer, kvt_tensor tensor, kvcap_stage *s)
{
    kvt_err err;

    if (s->n == 0) return KVCAP_OK;
    for (uint32_t h = 0; h < s->n_heads; h++)
        if (kvt_writer_append(cap->writer, layer, tensor, h, s->n, kvcap__stage_row(s, h, 0), &err) < 0)
            return kvcap__fail_kvt(cap, &err);
    cap->bytes_written += (uint64_t)s->n * s->n_heads * s->row_bytes;
    stage_clear(s);
    return KVCAP_OK;
}

static int stage_write_nu(kvcap *cap, uint32_t layer)
{
    kvcap_layer_state *ls = &cap->layer[layer];
    const uint32_t n = ls->v.n;
    kvt_err err;
    float *nu;
    int rc;

    if (!ls->wo.data || n == 0) return KVCAP_OK;
    nu = kvcap__grow(NULL, (size_t)ls->info.n_heads * n, sizeof *nu);
    if (!nu) return kvcap__no_memory(cap);
    rc = kvcap__nu(cap, layer, nu);
    for (uint32_t h = 0; h < ls->info.n_heads && rc == KVCAP_OK; h++)
        if (kvt_writer_append(cap->writer, layer, KVT_T_NU, h, n, nu + (size_t)h * n, &err) < 0)
            rc = kvcap__fail_kvt(cap, &err);
    if (rc == KVCAP_OK) cap->bytes_written += (uint64_t)ls->info.n_heads * n * sizeof *nu;
    free(nu);
    return rc;
}

int kvcap__flush_layer(kvcap *cap, uint32_t layer)
{
    kvcap_layer_state *ls = &cap->layer[layer];
    int rc = stage_write(cap, layer, KVT_T_K, &ls->k);

    if (rc == KVCAP_OK) rc = stage_write_nu(cap, layer);
    if (rc == KVCAP_OK && (cap->flags & KVCAP_STORE_V)) rc = stage_write(cap, layer, KVT_T_V, &ls->v);
    stage_clear(&ls->v);
    if (rc == KVCAP_OK) rc = stage_write(cap, layer, KVT_T_Q, &ls->q);
    if (rc == KVCAP_OK) rc = stage_write(cap, layer, KVT_T_LSE, &ls->lse);
    return rc;
}

int kvcap__finish_prompt(kvcap *cap, uint32_t layer)
{
    kvcap_layer_state *ls = &cap->layer[layer];
    const uint32_t n = cap->n_prompt;
    kvt_err err;
    float *row = NULL;
    int rc = kvcap__flush_layer(cap, layer);

    if (rc == KVCAP_OK && ls->col_sum) {
        row = kvcap__grow(NULL, n, sizeof *row);
        if (!row) rc = kvcap__no_memory(cap);
    }
    for (uint32_t h = 0; h < ls->info.n_heads && rc == KVCAP_OK && row; h++) {
        const size_t at = (size_t)h * ls->col_stride;
        kvt_status st;
        for (uint32_t j = 0; j < n; j++) row[j] = (float)ls->col_sum[at + j];
        st = kvt_writer_append(cap->writer, layer, KVT_T_STAT_SUM, h, n, row, &err);
        for (uint32_t j = 0; j < n; j++) row[j] = (float)ls->col_sumsq[at + j];
        if (st >= 0) st = kvt_writer_append(cap->writer, layer, KVT_T_STAT_SUMSQ, h, n, row, &err);
        if (st >= 0) st = kvt_writer_append(cap->writer, layer, KVT_T_STAT_MAX, h, n, ls->col_max + at, &err);
        if (st < 0) rc = kvcap__fail_kvt(cap, &err);
    }
    if (rc == KVCAP_OK && row) cap->bytes_written += (uint64_t)ls->info.n_heads * n * 3 * sizeof *row;
    free(row);
    free(ls->col_sum);
    free(ls->col_sumsq);
    free(ls->col_max);
    ls->col_sum = ls->col_sumsq = NULL;
    ls->col_max = NULL;
    if (rc == KVCAP_OK && kvt_writer_flush(cap->writer, &err) < 0) rc = kvcap__fail_kvt(cap, &err);
    return rc;
}

/* What the first call of a layer decides: stored types, whose lse, column buffers. */
static int stage_first_call(kvcap *cap, kvcap_layer_state *ls, const kvcap_call *call)
{
    const uint32_t n_heads = ls->info.n_heads, n_kv = ls->info.n_kv_heads;

    ls->info.k_type = kvcap__dtype(call->k.dtype);
    ls->info.v_type = kvcap__dtype(call->v.dtype);
    ls->info.q_type = kvcap__dtype(call->q.dtype);
    ls->engine_lse = call->lse.data != NULL;
    ls->info.has = 1u << KVT_T_K | 1u << KVT_T_Q | 1u << KVT_T_LSE;
    if (cap->flags & KVCAP_STORE_V) ls->info.has |= 1u << KVT_T_V;
    if (ls->wo.data) ls->info.has |= 1u << KVT_T_NU;
    if (ls->sinks) ls->info.has |= 1u << KVT_T_SINKS;
    if (cap->stat_flags) ls->info.has |= 1u << KVT_T_STAT_SUM | 1u << KVT_T_STAT_SUMSQ | 1u << KVT_T_STAT_MAX;

    ls->k = (kvcap_stage){.row_bytes = ls->info.d_k * kvt_dtype_bytes(ls->info.k_type), .n_heads = n_kv};
    ls->v = (kvcap_stage){.row_bytes = ls->info.d_v * kvt_dtype_bytes(ls->info.v_type), .n_heads = n_kv};
    ls->q = (kvcap_stage){.row_bytes = ls->info.d_k * kvt_dtype_bytes(ls->info.q_type), .n_heads = n_heads};
    ls->lse = (kvcap_stage){.row_bytes = sizeof(float), .n_heads = n_heads};
    if (cap->stat_flags) {
        ls->col_stride = ((size_t)cap->n_prompt + KVCAP_LANES - 1) / KVCAP_LANES * KVCAP_LANES;
        ls->col_sum = calloc(n_heads * ls->col_stride, sizeof *ls->col_sum);
        ls->col_sumsq = calloc(n_heads * ls->col_stride, sizeof *ls->col_sumsq);
        ls->col_max = calloc(n_heads * ls->col_stride, sizeof *ls->col_max);
        if (!ls->col_sum || !ls->col_sumsq || !ls->col_max) return kvcap__no_memory(cap);
    }
    return KVCAP_OK;
}

static int stage_announce_one(kvcap *cap, uint32_t layer)
{
    kvcap_layer_state *ls = &cap->layer[layer];
    kvt_err err;

    if (kvt_writer_layer(cap->writer, layer, &ls->info,
                         ls->info.attn == KVT_ATTN_NONE ? NULL
                         : ls->engine_lse               ? "engine"
                                                        : "recomputed",
                         &err) < 0)
        return kvcap__fail_kvt(cap, &err);
    for (uint32_t h = 0; h < ls->info.n_heads && ls->sinks; h++)
        if (kvt_writer_append(cap->writer, layer, KVT_T_SINKS, h, 1, &ls->sinks[h], &err) < 0)
            return kvcap__fail_kvt(cap, &err);
    ls->is_announced = 1;
    cap->n_announced = layer + 1;
    return KVCAP_OK;
}

/* The file takes layers in order; those without attention have no call of their own. */
int kvcap__announce(kvcap *cap, uint32_t layer, const kvcap_call *call)
{
    int rc = KVCAP_OK;

    while (cap->n_announced < layer && cap->layer[cap->n_announced].info.attn == KVT_ATTN_NONE && rc == KVCAP_OK)
        rc = stage_announce_one(cap, cap->n_announced);
    if (rc != KVCAP_OK) return rc;
    if (cap->n_announced != layer)
        return kvcap__fail(cap, KVCAP_EORDER,
                           "layer %u was called before layer %u; the first calls of the layers must come in order",
                           layer, cap->n_announced);
    if (call) rc = stage_first_call(cap, &cap->layer[layer], call);
    return rc == KVCAP_OK ? stage_announce_one(cap, layer) : rc;
}
