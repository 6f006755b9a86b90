/* trace_verify_stats.c - column statistics of the prefill, and keys un-rotated against
 * the samples taken before rotation. */
#include "trace_verify_impl.h"

#include "kvt_float16.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATS_CHUNK 65536u
#define STATS_SLACK 1e-5                      /* of f32 probabilities that exceed 1   */
#define STATS_SUM_TOL 1e-3                    /* of the N rows                        */

/* ---------------------------------------------------------------- column statistics */

/* The three columns of one head; every row of the prompt spreads a mass of 1. */
static kvt_status stats_head(kvt_check *c, kvt_source *src, uint32_t layer, uint32_t head, float *x,
                             kvt_err *err)
{
    static const kvt_tensor tensor[3] = {KVT_T_STAT_SUM, KVT_T_STAT_SUMSQ, KVT_T_STAT_MAX};
    const uint32_t n_prompt = src->info->n_prompt;
    const int has_sinks = src->info->layer[layer].has_sinks;
    double total = 0, defect;

    for (uint32_t at = 0; at < n_prompt; at += STATS_CHUNK) {
        const uint32_t n = n_prompt - at < STATS_CHUNK ? n_prompt - at : STATS_CHUNK;
        int finite = 0;

        for (uint32_t t = 0; t < 3; t++)
            KVT_TRY(src->ops->read(src->self, tensor[t], layer, head, at, n, x + t * STATS_CHUNK, &finite, err));
        for (uint32_t j = 0; j < n; j++) {
            const double sum = (double)x[j], sumsq = (double)x[STATS_CHUNK + j];
            const double max = (double)x[2 * STATS_CHUNK + j];
            total += sum;
            if (!(sum >= 0 && sumsq >= 0 && max >= 0 && max <= 1 + STATS_SLACK &&
                  sumsq <= sum * (1 + STATS_SLACK)))
                kvt__check_fail(c, "layer %u head %u key %u: sum %.6g, sumsq %.6g, max %.6g, expected 0 <= "
                                "sumsq <= sum and 0 <= max <= 1", layer, head, at + j, sum, sumsq, max);
        }
    }
    /* A learned sink takes a share of every row, so then N is only an upper bound. */
    defect = (has_sinks ? fmax(total - n_prompt, 0) : fabs(total - n_prompt)) / n_prompt;
    c->n_seen++;
    c->worst = kvt__check_worst(c->worst, defect);
    if (!(defect <= STATS_SUM_TOL))
        kvt__check_fail(c, "layer %u head %u: the column sums add up to %.6g, expected %s%u within %g",
                        layer, head, total, has_sinks ? "at most " : "", n_prompt,
                        STATS_SUM_TOL * n_prompt);
    return KVT_OK;
}

kvt_status kvt__verify_stats(kvt_check *out, kvt_source *src, kvt_err *err)
{
    const uint32_t all = 1u << KVT_T_STAT_SUM | 1u << KVT_T_STAT_SUMSQ | 1u << KVT_T_STAT_MAX;
    const kvt_trace_info *info = src->info;
    float *x = malloc(3 * STATS_CHUNK * sizeof *x);
    kvt_status st = KVT_OK;

    if (!x) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", src->path);
    out->tol = STATS_SUM_TOL;
    for (uint32_t layer = 0; layer < info->n_layers; layer++) {
        if ((info->layer[layer].has & all) != all) continue;
        for (uint32_t head = 0; head < info->layer[layer].n_heads; head++)
            KVT_TRY_GOTO(st, stats_head(out, src, layer, head, x, err));
    }
    if (out->n_seen == 0) kvt__check_skip(out, "no stats in this trace");
done:
    free(x);
    return st;
}

/* ---------------------------------------------------------------- rotary samples */

static double rope_round(double x, const char *type)
{
    if (strcmp(type, "f64") == 0) return x;
    if (strcmp(type, "f32") == 0) return (double)(float)x;
    if (strcmp(type, "f16") == 0) return (double)kvt_from_f16(kvt_to_f16((float)x));
    return (double)kvt_from_bf16(kvt_to_bf16((float)x));
}

/* Four times the error that FORMAT.md 7.4 measured for keys or tables of this precision. */
static double rope_tolerance(const kvt_layer_info *l)
{
    if (l->k_type == KVT_BF16 || strcmp(l->rope_table_type, "bf16") == 0) return 4 * 2.7e-3;
    if (l->k_type == KVT_F16 || strcmp(l->rope_table_type, "f16") == 0) return 4 * 2.9e-4;
    return 4 * 9.3e-8;
}

/* key [d_k] of a token, rotated by the engine, back to what it was: FORMAT.md 7.4. */
static void rope_undo(const kvt_layer_info *l, int32_t position, uint32_t token, const float *key,
                      double *out)
{
    const uint32_t half = l->rope_dims / 2;
    uint32_t z = 0;

    while (z + 1 < l->rope_segments && l->rope_segment_start[z + 1] <= (int64_t)token) z++;
    for (uint32_t c = 0; c < l->d_k; c++) out[c] = (double)key[c];
    for (uint32_t f = 0; f < half; f++) {
        const double freq = rope_round(l->rope_inv_freq[(size_t)z * half + f], l->rope_angle_type);
        const double angle = rope_round(rope_round(position, l->rope_angle_type) * freq, l->rope_angle_type);
        const double c = rope_round(cos(angle) * l->rope_attention_scaling, l->rope_table_type);
        const double s = rope_round(sin(angle) * l->rope_attention_scaling, l->rope_table_type);
        const uint32_t ia = l->rope_offset + (l->rope_interleaved ? 2 * f : f);
        const uint32_t ib = l->rope_offset + (l->rope_interleaved ? 2 * f + 1 : f + half);
        const double a = (double)key[ia], b = (double)key[ib], norm = c * c + s * s;

        out[ia] = (a * c + b * s) / norm;
        out[ib] = (b * c - a * s) / norm;
    }
}

static void rope_judge(kvt_check *c, const kvt_trace_info *info, const int32_t *index, const float *key,
                       const float *before)
{
    const kvt_layer_info *l = &info->layer[index[0]];
    const double tol = rope_tolerance(l);
    double undone[KVT_MAX_HEAD_DIM], diff = 0, norm = 0, error;

    rope_undo(l, info->rotary[index[2]], (uint32_t)index[2], key, undone);
    for (uint32_t i = 0; i < l->d_k; i++) {
        const double d = undone[i] - (double)before[i];
        diff += d * d;
        norm += (double)before[i] * (double)before[i];
    }
    error = diff == 0 ? 0 : sqrt(diff / norm);
    c->n_seen++;
    c->worst = kvt__check_worst(c->worst, error);
    if (c->tol == 0 || tol < c->tol) c->tol = tol;
    if (!(error <= tol))
        kvt__check_fail(c, "layer %d KV head %d token %d: the un-rotated key differs from the engine's by "
                        "%.3g of its length, tolerance %.3g; wrong pairing, frequencies or positions",
                        (int)index[0], (int)index[1], (int)index[2], error, tol);
}

kvt_status kvt__verify_rope(kvt_check *out, kvt_source *src, kvt_reader *r, kvt_err *err)
{
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 2};
    kvt_h5_dataset before = {.at.id = H5I_INVALID_HID};
    float x[KVT_MAX_HEAD_DIM], y[KVT_MAX_HEAD_DIM];
    kvt_status st = KVT_OK;

    if (!r || r->n_rope == 0) {
        kvt__check_skip(out, r ? "no rotary samples in /verify" : "not a file");
        return KVT_OK;
    }
    want.dims[0] = r->n_rope;
    want.dims[1] = KVT_H5_UP_TO(KVT_MAX_HEAD_DIM);
    KVT_TRY(kvt__h5_dataset_open(&before, &r->root, "verify/rope_k", &want, NULL, err));
    for (uint32_t i = 0; i < r->n_rope; i++) {
        const int32_t *s = r->rope_index + 3 * (size_t)i;
        const uint64_t start[2] = {i, 0}, count[2] = {1, before.dims[1]};
        const kvt_layer_info *l = &src->info->layer[s[0]];
        int finite = 0;

        if (!(l->has & 1u << KVT_T_K) || l->rope_dims == 0) continue;
        KVT_TRY_GOTO(st, kvt__h5_dataset_read_block(&before, start, count, x, err));
        KVT_TRY_GOTO(st, src->ops->read(src->self, KVT_T_K, (uint32_t)s[0], (uint32_t)s[1], (uint32_t)s[2],
                                        1, y, &finite, err));
        rope_judge(out, src->info, s, y, x);
    }
    if (out->n_seen == 0) kvt__check_skip(out, "the sampled layers have no rope or no keys of their own");
done:
    kvt__h5_dataset_close(&before);
    return st;
}
