/* worked_example.h - the trace of FORMAT.md 19, made by its formulas and written with the
 * writer in several ways. */
#ifndef KVT_WORKED_EXAMPLE_H
#define KVT_WORKED_EXAMPLE_H

#include <math.h>
#include <string.h>

#include "kvt_float16.h"
#include "kvt_trace.h"
#include "ref_attention.h"

enum { EX_L = 2, EX_H = 4, EX_KV = 2, EX_D = 4, EX_DM = 8, EX_N = 6, EX_G = 3, EX_W = 4, EX_T = 9, EX_R = 7, EX_S = 12 };

typedef struct example {
    float   k[EX_L][EX_KV][EX_T][EX_D], v[EX_L][EX_KV][EX_T][EX_D], q[EX_L][EX_H][EX_T][EX_D];
    float   lse[EX_L][EX_H][EX_R], nu[EX_L][EX_H][EX_T];
    float   sum[EX_L][EX_H][EX_N], sumsq[EX_L][EX_H][EX_N], max[EX_L][EX_H][EX_N];
    float   out[EX_S][EX_D];
    int32_t id[EX_T], sample[EX_S][3];
    kvt_layer_info layer[EX_L];
} example;

typedef struct example_way {                /* how it is written */
    kvt_dtype type;
    int       chunked, unknown;
    uint32_t  piece;                        /* rows per append, 0 = all              */
    int       stop_before_commit;           /* 1 = leave .part, 2 = remove it        */
} example_way;

static inline float example_m(int x)
{
    return (float)((x % 17 - 8) / 8.0);
}

static inline void example_layers(example *e)
{
    static const double inv_freq[2] = { 1.0, 0.01 };
    static const int64_t start[1] = { 0 };

    for (uint32_t l = 0; l < EX_L; l++)
        e->layer[l] = (kvt_layer_info){
            .has = (1u << KVT_T_END) - 1u - (1u << KVT_T_SINKS) - 1u,
            .attn = l ? KVT_ATTN_SLIDING : KVT_ATTN_FULL, .n_heads = EX_H, .n_kv_heads = EX_KV,
            .d_k = EX_D, .d_v = EX_D, .window = l ? 4 : 0, .kv_layer = l,
            .k_type = KVT_BF16, .v_type = KVT_BF16, .q_type = KVT_BF16, .scale = 0.5, .softcap = l ? 30.0 : 0.0,
            .rope_dims = 4, .rope_segments = 1, .rope_attention_scaling = 1.0, .rope_type = "default",
            .rope_angle_type = "f32", .rope_table_type = "f32", .rope_inv_freq = inv_freq,
            .rope_segment_start = start,
        };
}

static inline void example_rows(example *e, int l, int h)
{
    const int g = h / (EX_H / EX_KV);
    double prob[EX_T], sum[EX_N] = { 0 }, sumsq[EX_N] = { 0 }, max[EX_N] = { 0 };

    for (int p = 0; p < EX_T; p++) {
        const double lse = kvt_ref_row(&e->layer[l], (uint32_t)p, e->q[l][h][p], e->k[l][g][0], 0.0f, NULL, prob);
        if (p >= EX_N - EX_W) e->lse[l][h][p - (EX_N - EX_W)] = (float)lse;
        for (int j = 0; j <= p && p < EX_N; j++) {
            sum[j] += prob[j];
            sumsq[j] += prob[j] * prob[j];
            max[j] = fmax(max[j], prob[j]);
        }
    }
    for (int j = 0; j < EX_N; j++) {
        e->sum[l][h][j] = (float)sum[j];
        e->sumsq[l][h][j] = (float)sumsq[j];
        e->max[l][h][j] = (float)max[j];
    }
}

static inline void example_output(const example *e, int l, int h, int row, double out[EX_D])
{
    const int g = h / (EX_H / EX_KV), p = EX_N - EX_W + row;
    double prob[EX_T];

    kvt_ref_row(&e->layer[l], (uint32_t)p, e->q[l][h][p], e->k[l][g][0], 0.0f, NULL, prob);
    kvt_ref_output((uint32_t)p, EX_D, prob, e->v[l][g][0], out);
}

static inline void example_make(example *e)
{
    memset(e, 0, sizeof *e);
    example_layers(e);
    for (int i = 0; i < EX_T; i++) e->id[i] = (7 * i + 3) % 32;
    for (int l = 0; l < EX_L; l++) {
        for (int g = 0; g < EX_KV; g++)
            for (int i = 0; i < EX_T; i++)
                for (int c = 0; c < EX_D; c++) {
                    e->k[l][g][i][c] = example_m(5 * l + 7 * g + 3 * i + 2 * c + i * c);
                    e->v[l][g][i][c] = example_m(11 * l + 3 * g + 5 * i + 7 * c + 1);
                }
        for (int h = 0; h < EX_H; h++) {
            for (int i = 0; i < EX_T; i++) {
                double nu = 0.0;
                for (int c = 0; c < EX_D; c++)
                    e->q[l][h][i][c] = example_m(2 * l + 5 * h + 4 * i + 3 * c + i * c + 2);
                for (int x = 0; x < EX_DM; x++) {
                    double y = 0.0;
                    for (int c = 0; c < EX_D; c++)
                        y += (double)e->v[l][h / (EX_H / EX_KV)][i][c] * example_m(3 * l + h + 2 * c + x);
                    nu += fabs(y);
                }
                e->nu[l][h][i] = (float)nu;
            }
            example_rows(e, l, h);
        }
    }
    /* 6 samples per layer: the last prompt row of every head, then two decode rows. */
    for (int s = 0; s < EX_S; s++) {
        static const int head[6] = { 0, 1, 2, 3, 0, 3 }, row[6] = { 3, 3, 3, 3, 4, 6 };
        double out[EX_D];
        e->sample[s][0] = s / 6;
        e->sample[s][1] = head[s % 6];
        e->sample[s][2] = row[s % 6];
        example_output(e, s / 6, head[s % 6], row[s % 6], out);
        for (int c = 0; c < EX_D; c++) e->out[s][c] = (float)out[c];
    }
}

/* n rows in the stored type, at most EX_T * EX_D numbers. */
static inline void example_pack(void *out, const float *in, size_t n, kvt_dtype type)
{
    for (size_t i = 0; i < n; i++) {
        const uint16_t u = type == KVT_F16 ? kvt_to_f16(in[i]) : kvt_to_bf16(in[i]);
        if (type == KVT_F32) memcpy((uint8_t *)out + 4 * i, &in[i], 4);
        else memcpy((uint8_t *)out + 2 * i, &u, 2);
    }
}

/* The rows from..to-1 of a head of a tensor. */
static inline kvt_status example_append(kvt_writer *w, const example *e, const example_way *way, uint32_t l,
                                        kvt_tensor t, uint32_t h, uint32_t from, uint32_t to, kvt_err *err)
{
    const float *const rows = t == KVT_T_K          ? e->k[l][h][0]
                              : t == KVT_T_V        ? e->v[l][h][0]
                              : t == KVT_T_Q        ? e->q[l][h][EX_N - EX_W]
                              : t == KVT_T_LSE      ? e->lse[l][h]
                              : t == KVT_T_NU       ? e->nu[l][h]
                              : t == KVT_T_STAT_SUM ? e->sum[l][h]
                              : t == KVT_T_STAT_MAX ? e->max[l][h]
                                                    : e->sumsq[l][h];
    const uint32_t width = t == KVT_T_K || t == KVT_T_V || t == KVT_T_Q ? EX_D : 1;
    const kvt_dtype type = width == 1 ? KVT_F32 : way->type;
    uint8_t packed[EX_T * EX_D * 4];

    for (uint32_t row = from; row < to;) {
        const uint32_t n = way->piece && way->piece < to - row ? way->piece : to - row;
        example_pack(packed, rows + row * width, n * width, type);
        KVT_TRY(kvt_writer_append(w, l, t, h, n, packed, err));
        row += n;
    }
    return KVT_OK;
}

/* Prompt layer by layer, then step by step, as a recorder does; heads in descending order. */
static inline kvt_status example_fill(kvt_writer *w, const example *e, const example_way *way, kvt_err *err)
{
    for (uint32_t l = 0; l < EX_L; l++) {
        kvt_layer_info info = e->layer[l];
        info.k_type = info.v_type = info.q_type = way->type;
        KVT_TRY(kvt_writer_layer(w, l, &info, "recomputed", err));
        for (uint32_t h = EX_H; h-- > 0;) {
            for (int t = KVT_T_STAT_SUM; t <= KVT_T_STAT_MAX; t++)
                KVT_TRY(example_append(w, e, way, l, (kvt_tensor)t, h, 0, EX_N, err));
            KVT_TRY(example_append(w, e, way, l, KVT_T_NU, h, 0, EX_N, err));
            KVT_TRY(example_append(w, e, way, l, KVT_T_Q, h, 0, EX_W, err));
            KVT_TRY(example_append(w, e, way, l, KVT_T_LSE, h, 0, EX_W, err));
            if (h >= EX_KV) continue;
            KVT_TRY(example_append(w, e, way, l, KVT_T_K, h, 0, EX_N, err));
            KVT_TRY(example_append(w, e, way, l, KVT_T_V, h, 0, EX_N, err));
        }
        KVT_TRY(kvt_writer_flush(w, err));
    }
    for (uint32_t step = 0; step < EX_G; step++)
        for (uint32_t l = 0; l < EX_L; l++)
            for (uint32_t h = 0; h < EX_H; h++) {
                KVT_TRY(example_append(w, e, way, l, KVT_T_NU, h, EX_N + step, EX_N + step + 1, err));
                KVT_TRY(example_append(w, e, way, l, KVT_T_Q, h, EX_W + step, EX_W + step + 1, err));
                KVT_TRY(example_append(w, e, way, l, KVT_T_LSE, h, EX_W + step, EX_W + step + 1, err));
                if (h >= EX_KV) continue;
                KVT_TRY(example_append(w, e, way, l, KVT_T_K, h, EX_N + step, EX_N + step + 1, err));
                KVT_TRY(example_append(w, e, way, l, KVT_T_V, h, EX_N + step, EX_N + step + 1, err));
            }
    return KVT_OK;
}

static inline kvt_writer_head example_head(const example_way *way)
{
    static const kvt_pair provenance[] = { { "engine", "none" }, { "seed", "7" } };
    return (kvt_writer_head){
        .writer = "example 1", .exactness = "synthetic", .created = "2026-01-01T00:00:00Z",
        .uuid = "00000000-0000-4000-8000-000000000000", .n_layers = EX_L, .n_prompt = EX_N,
        .n_decode = way->unknown ? KVT_LENGTH_UNKNOWN : EX_G, .window = EX_W, .question_start = 4,
        .model_dim = EX_DM, .provenance = provenance, .n_provenance = 2, .chunked = way->chunked,
    };
}

static inline kvt_writer_tail example_tail(const example *e)
{
    return (kvt_writer_tail){
        .n_decode = EX_G, .token_id = e->id, .n_samples = EX_S, .sample_index = e->sample[0],
        .sample_out = e->out[0], .sample_width = EX_D, .verify_tol = 1e-5, .verify_passed = 1,
    };
}

static inline kvt_status example_write(const char *path, const example *e, const example_way *way, kvt_err *err)
{
    const kvt_writer_head head = example_head(way);
    const kvt_writer_tail tail = example_tail(e);
    kvt_writer *w = NULL;
    kvt_status st;

    KVT_TRY(kvt_writer_create(&w, path, &head, err));
    st = example_fill(w, e, way, err);
    if (st == KVT_OK && !way->stop_before_commit) return kvt_writer_commit(w, &tail, err);
    kvt_writer_abort(w, way->stop_before_commit == 1);
    return st;
}

#endif
