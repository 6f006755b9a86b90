/* test_kvcap.c - libkvcap through its public ABI: what a front-end hands over is what the
 * file holds, the derived numbers equal those formed term by term, and every mistake of a
 * front-end is refused by name. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kvcap.h"
#include "kvt_float16.h"
#include "kvt_trace.h"
#include "ref_attention.h"

_Static_assert(sizeof(kvcap_view) == 88, "ABI 1");
_Static_assert(sizeof(kvcap_params) == 104, "ABI 1");
_Static_assert(sizeof(kvcap_rope) == 64, "ABI 1");
_Static_assert(sizeof(kvcap_layer) == 80, "ABI 1");
_Static_assert(sizeof(kvcap_attn_call) == 832, "ABI 1");
_Static_assert(sizeof(kvcap_counters) == 40, "ABI 1");
_Static_assert((int)KVCAP_EIO == (int)KVT_EIO && (int)KVCAP_ENOTSUP == (int)KVT_ENOTSUP, "same numbers");

enum { L = 4, N = 50, G = 70, T = N + G, H = 4, HKV = 2, DK = 8, DV = 12, DM = 20, W = 10, SLIDE = 7 };

/* One model run, made up: layer 0 full f32, 1 without attention, 2 sliding with soft cap
 * and learned sinks in bf16, 3 full f16. All arrays are [token][head][dim]. */
typedef struct run {
    float q[L][T][H][DK], k[L][T][HKV][DK], v[L][T][HKV][DV], out[L][T][H][DV], wo[L][DM][H][DV];
    uint16_t q16[L][T][H][DK], k16[L][T][HKV][DK], v16[L][T][HKV][DV];
    float sinks[H], lse[L][T][H];
    int32_t id[T + 1];
} run;

static const char provenance[] =
    "{\"engine\": \"none\", \"model_name\": \"made \\u00fcp\", \"config_json\": \"{\\\"a\\\":1}\"}";
static char last_log[512];

static void keep_log(int level, const char *msg, void *user)
{
    (void)level, (void)user;
    snprintf(last_log, sizeof last_log, "%s", msg);
}

static float made_up(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    uint32_t x = a * 0x9e3779b9u + b * 0x85ebca6bu + c * 0xc2b2ae35u + d * 0x27d4eb2fu + 1u;
    x ^= x >> 15, x *= 0x2c1b3c6du, x ^= x >> 12, x *= 0x297a2d39u, x ^= x >> 15;
    return (float)(x & 0xffffu) / 32768.0f - 1.0f;
}

static float rounded(int layer, float x, uint16_t *bits)
{
    if (layer == 2) return kvt_from_bf16(*bits = kvt_to_bf16(x));
    if (layer == 3) return kvt_from_f16(*bits = kvt_to_f16(x));
    return x;
}

static kvt_layer_info layer_info(int layer)
{
    kvt_layer_info l = {.n_heads = H, .n_kv_heads = HKV, .d_k = DK, .d_v = DV, .scale = 0.9};
    if (layer == 2) l.attn = KVT_ATTN_SLIDING, l.window = SLIDE, l.softcap = 2.5, l.has_sinks = 1;
    return l;
}

static void make_outputs(run *r, int l)
{
    const kvt_layer_info info = layer_info(l);
    double *prob = malloc(T * sizeof *prob), out[DV];
    float *k = malloc(sizeof r->k[l]), *v = malloc(sizeof r->v[l]);

    for (int h = 0; h < H; h++) {
        const int g = h / (H / HKV);
        for (int t = 0; t < T; t++) {
            memcpy(k + t * DK, r->k[l][t][g], sizeof r->k[l][t][g]);
            memcpy(v + t * DV, r->v[l][t][g], sizeof r->v[l][t][g]);
        }
        for (int t = 0; t < T; t++) {
            r->lse[l][t][h] = (float)kvt_ref_row(&info, (uint32_t)t, r->q[l][t][h], k, r->sinks[h], NULL, prob);
            kvt_ref_output((uint32_t)t, DV, prob, v, out);
            for (int c = 0; c < DV; c++) r->out[l][t][h][c] = (float)out[c];
        }
    }
    free(prob);
    free(k);
    free(v);
}

static run *make_run(void)
{
    run *r = calloc(1, sizeof *r);

    for (int h = 0; h < H; h++) r->sinks[h] = 0.5f * (float)h - 0.4f;
    for (int t = 0; t <= T; t++) r->id[t] = (7 * t + 3) % 97;
    for (int l = 0; l < L; l++) {
        for (int t = 0; t < T; t++) {
            for (int h = 0; h < H; h++)
                for (int c = 0; c < DK; c++)
                    r->q[l][t][h][c] = rounded(l, 2.0f * made_up(l, t, h, c), &r->q16[l][t][h][c]);
            for (int g = 0; g < HKV; g++) {
                for (int c = 0; c < DK; c++)
                    r->k[l][t][g][c] = rounded(l, made_up(l + 10, t, g, c), &r->k16[l][t][g][c]);
                for (int c = 0; c < DV; c++)
                    r->v[l][t][g][c] = rounded(l, made_up(l + 20, t, g, c), &r->v16[l][t][g][c]);
            }
        }
        for (int h = 0; h < H; h++)
            for (int c = 0; c < DV; c++)
                for (int e = 0; e < DM; e++) r->wo[l][e][h][c] = made_up(l + 30, h, c, e);
        if (l != 1) make_outputs(r, l);
    }
    return r;
}

static kvcap_view view3(const void *data, int dtype, int64_t n, int64_t heads, int64_t width)
{
    return (kvcap_view){.data = data,
                        .dtype = dtype,
                        .device_type = KVCAP_CPU,
                        .ndim = 3,
                        .shape = {n, heads, width},
                        .stride = {heads * width, width, 1}};
}

static kvcap_params params(const char *path)
{
    return (kvcap_params){.struct_size = sizeof(kvcap_params),
                          .abi = KVCAP_ABI,
                          .path = path,
                          .provenance_json = provenance,
                          .n_layers = L,
                          .model_dim = DM,
                          .vocab_size = 97,
                          .window = W,
                          .max_tokens = T + 5,
                          .flags = KVCAP_STORE_V | KVCAP_STORE_TEXT,
                          .stat_flags = KVCAP_STAT_SUM | KVCAP_STAT_SUMSQ | KVCAP_STAT_MAX,
                          .log = keep_log};
}

static const double inv_freq[DK / 2] = {1.0, 0.1, 0.01, 0.001};
static const int64_t segment_start[1] = {0};

static kvcap_layer layer_of(const run *r, int l)
{
    static const kvcap_rope rope = {.struct_size = sizeof rope,
                                    .pairing = KVCAP_ROPE_HALF,
                                    .rotary_dim = DK,
                                    .attention_scaling = 1.0,
                                    .table_dtype = KVCAP_BF16,
                                    .angle_dtype = KVCAP_F32,
                                    .n_segments = 1,
                                    .inv_freq = inv_freq,
                                    .segment_start = segment_start};
    const kvt_layer_info info = layer_info(l);
    kvcap_layer y = {.struct_size = sizeof y,
                     .layer = (uint32_t)l,
                     .n_heads = H,
                     .n_kv_heads = HKV,
                     .d_k = DK,
                     .d_v = DV,
                     .kv_layer = l,
                     .scale = info.scale,
                     .softcap = info.softcap,
                     .window = -1,
                     .rope = &rope};
    if (l == 1) y.attn_type = KVCAP_ATTN_NONE;
    if (l == 2) y.attn_type = KVCAP_ATTN_SLIDING, y.window = SLIDE, y.sinks = r->sinks;
    return y;
}

/* Everything before the first attention call. */
static kvcap *begin(const run *r, const kvcap_params *p)
{
    kvcap *cap = NULL;

    cr_assert(eq(int, kvcap_open(&cap, p), KVCAP_OK), "%s", last_log);
    for (int l = 0; l < L; l++) {
        const kvcap_layer y = layer_of(r, l);
        cr_assert(eq(int, kvcap_set_layer(cap, &y), KVCAP_OK));
        if (l == 1) continue;
        {
            /* The weight [DM][H * DV] seen as [H][DV][DM]: the last stride is not 1. */
            kvcap_view wo = view3(r->wo[l], KVCAP_F32, H, DV, DM);
            wo.stride[0] = DV, wo.stride[1] = 1, wo.stride[2] = H * DV;
            cr_assert(eq(int, kvcap_set_wo(cap, (uint32_t)l, &wo, NULL), KVCAP_OK));
        }
    }
    cr_assert(eq(int, kvcap_prompt(cap, r->id, N, 40), KVCAP_OK));
    return cap;
}

/* Tokens t0 .. t0+n-1 of one layer; whole = the visible cache instead of the new rows. */
static kvcap_attn_call call_of(const run *r, int l, int t0, int n, int whole)
{
    const int dtype = l == 2 ? KVCAP_BF16 : l == 3 ? KVCAP_F16 : KVCAP_F32;
    const void *q = l == 0 ? (const void *)r->q[l][t0] : (const void *)r->q16[l][t0];
    const int first = !whole ? t0 : l == 2 && t0 > SLIDE ? t0 - SLIDE + 1 : 0;
    const void *k = l == 0 ? (const void *)r->k[l][first] : (const void *)r->k16[l][first];
    const void *v = l == 0 ? (const void *)r->v[l][first] : (const void *)r->v16[l][first];
    kvcap_attn_call c = {.struct_size = sizeof c,
                         .layer = (uint32_t)l,
                         .token0 = t0,
                         .q = view3(q, dtype, n, H, DK),
                         .out = view3(r->out[l][t0], KVCAP_F32, n, H, DV)};

    if (whole) {
        c.key0 = first;
        c.k_all = view3(k, dtype, t0 + n - first, HKV, DK);
        c.v_all = view3(v, dtype, t0 + n - first, HKV, DV);
    } else {
        c.k_new = view3(k, dtype, n, HKV, DK);
        c.v_new = view3(v, dtype, n, HKV, DV);
    }
    return c;
}

static void step(kvcap *cap, const run *r, int t0, int n, int whole)
{
    for (int l = 0; l < L; l++) {
        const kvcap_attn_call c = call_of(r, l, t0, n, whole);
        if (l == 1) continue;
        cr_assert(eq(int, kvcap_attn(cap, &c, NULL), KVCAP_OK), "%s", last_log);
    }
}

static void drive(kvcap *cap, const run *r, int chunk, int whole)
{
    for (int t = 0; t < N; t += chunk) step(cap, r, t, N - t < chunk ? N - t : chunk, whole);
    for (int t = N; t < T; t++) {
        cr_assert(eq(int, kvcap_token(cap, r->id[t], NULL, NULL, 0, NAN), KVCAP_OK), "%s", last_log);
        step(cap, r, t, 1, whole);
    }
    cr_assert(eq(int, kvcap_token(cap, r->id[T], NULL, NULL, 0, NAN), KVCAP_OK)); /* never enters the cache */
}

static char *capture(const run *r, const char *path, int chunk, int whole, char content_id[65])
{
    const kvcap_params p = params(path);
    kvcap *cap = begin(r, &p);
    kvt_source src;
    kvt_err err;

    drive(cap, r, chunk, whole);
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_OK), "%s", last_log);
    cr_assert(eq(ptr, cap, NULL));
    cr_assert(kvt_source_open(&src, path, 0, &err) == KVT_OK, "%s", err.text);
    snprintf(content_id, 65, "%s", src.info->content_id);
    kvt_source_close(&src);
    return content_id;
}

static float *read_all(kvt_source *src, kvt_tensor tensor, int layer, int head, int rows, int width)
{
    float *x = malloc((size_t)rows * (size_t)width * sizeof *x);
    kvt_err err;
    cr_assert(kvt_source_read(src, tensor, (uint32_t)layer, (uint32_t)head, 0, (uint32_t)rows, x, &err) == KVT_OK, "%s",
              err.text);
    return x;
}

static void near(double got, double want, double rel, const char *what, int layer, int head, int at)
{
    cr_assert(fabs(got - want) <= rel * fabs(want) + 1e-12, "%s: layer %d head %d at %d: %.9g, expected %.9g", what,
              layer, head, at, got, want);
}

/* Goal: operands arrive bit for bit, lse, nu and column statistics equal sums written out.
 * Method: one capture in pieces of 16, read back through the trace reader. */
Test(kvcap, the_file_holds_what_was_handed_over)
{
    const char *path = "kvcap_whole.h5";
    run *r = make_run();
    char id[65];
    kvt_source src;
    kvt_err err;

    capture(r, path, 16, 1, id);
    cr_assert(strstr(last_log, "acceptance test passed") != NULL, "%s", last_log);
    cr_assert(kvt_source_open(&src, path, 0, &err) == KVT_OK, "%s", err.text);
    cr_assert(src.info->n_prompt == N && src.info->n_decode == G && src.info->window == W &&
              src.info->question_start == 40);
    cr_assert(memcmp(src.info->token_id, r->id, T * sizeof(int32_t)) == 0);
    cr_assert(src.info->n_samples >= 3 * 8, "%u samples", src.info->n_samples);
    cr_assert(src.info->verify_max_err <= 1e-5, "max_err %g", src.info->verify_max_err);
    cr_assert(src.info->layer[1].attn == KVT_ATTN_NONE && src.info->layer[2].window == SLIDE &&
              src.info->layer[2].has_sinks);
    cr_assert(src.info->layer[0].k_type == KVT_F32 && src.info->layer[2].q_type == KVT_BF16 &&
              src.info->layer[3].v_type == KVT_F16);
    cr_assert(strcmp(src.info->layer[3].rope_table_type, "bf16") == 0 && src.info->layer[3].rope_inv_freq[2] == 0.01);
    for (int l = 0; l < L; l++)
        for (int h = 0; h < H && l != 1; h++) {
            const int g = h / (H / HKV);
            const kvt_layer_info info = layer_info(l);
            float *q = read_all(&src, KVT_T_Q, l, h, W + G, DK), *k = read_all(&src, KVT_T_K, l, g, T, DK);
            float *v = read_all(&src, KVT_T_V, l, g, T, DV), *lse = read_all(&src, KVT_T_LSE, l, h, W + G, 1);
            float *nu = read_all(&src, KVT_T_NU, l, h, T, 1), *sum = read_all(&src, KVT_T_STAT_SUM, l, h, N, 1);
            float *sumsq = read_all(&src, KVT_T_STAT_SUMSQ, l, h, N, 1),
                  *max = read_all(&src, KVT_T_STAT_MAX, l, h, N, 1);
            double want_sum[N] = {0}, want_sq[N] = {0}, want_max[N] = {0}, prob[N];

            for (int t = 0; t < T; t++) {
                cr_assert(memcmp(k + t * DK, r->k[l][t][g], sizeof r->k[l][t][g]) == 0);
                cr_assert(memcmp(v + t * DV, r->v[l][t][g], sizeof r->v[l][t][g]) == 0);
                double norm = 0.0;
                for (int e = 0; e < DM; e++) {
                    double y = 0.0;
                    for (int c = 0; c < DV; c++) y += (double)r->v[l][t][g][c] * r->wo[l][e][h][c];
                    norm += fabs(y);
                }
                near(nu[t], norm, 1e-5, "nu", l, h, t);
            }
            for (int i = 0; i < W + G; i++) {
                cr_assert(memcmp(q + i * DK, r->q[l][N - W + i][h], sizeof r->q[l][0][h]) == 0);
                cr_assert(fabs((double)lse[i] - r->lse[l][N - W + i][h]) < 2e-6, "lse layer %d head %d row %d", l, h,
                          i);
            }
            for (int p = 0; p < N; p++) {
                (void)kvt_ref_row(&info, (uint32_t)p, r->q[l][p][h], k, r->sinks[h], NULL, prob);
                for (int j = 0; j <= p; j++) {
                    want_sum[j] += prob[j];
                    want_sq[j] += prob[j] * prob[j];
                    if (prob[j] > want_max[j]) want_max[j] = prob[j];
                }
            }
            for (int j = 0; j < N; j++) {
                near(sum[j], want_sum[j], 5e-6, "sum", l, h, j);
                near(sumsq[j], want_sq[j], 5e-6, "sumsq", l, h, j);
                near(max[j], want_max[j], 5e-6, "max", l, h, j);
            }
            free(q), free(k), free(v), free(lse), free(nu), free(sum), free(sumsq), free(max);
        }
    kvt_source_close(&src);
    free(r);
}

/* Goal: how the run was cut into calls cannot be seen in the file. Method: content ids,
 * which cover every dataset. */
Test(kvcap, pieces_of_any_size_give_the_same_file)
{
    static const int chunk[] = {N, 1, 7, 17, 49};
    run *r = make_run();
    char want[65], got[65];

    capture(r, "kvcap_piece.h5", 16, 0, want);
    for (size_t i = 0; i < sizeof chunk / sizeof *chunk; i++)
        for (int whole = 0; whole < 2; whole++)
            cr_assert(eq(str, capture(r, "kvcap_piece2.h5", chunk[i], whole, got), want), "pieces of %d", chunk[i]);
    free(r);
}

Test(kvcap, the_flat_call_is_the_same_call)
{
    run *r = make_run();
    const kvcap_params p = params("kvcap_flat.h5");
    kvcap *cap = begin(r, &p);
    char want[65];
    kvt_source src;
    kvt_err err;

    capture(r, "kvcap_flat_want.h5", 25, 1, want);
    for (int t = 0; t < T; t += t < N ? 25 : 1) {
        const int n = t < N ? 25 : 1;
        if (t >= N) cr_assert(eq(int, kvcap_token(cap, r->id[t], NULL, NULL, 0, NAN), KVCAP_OK));
        for (int l = 0; l < L; l++) {
            const kvcap_attn_call c = call_of(r, l, t, n, 1);
            if (l == 1) continue;
            cr_assert(
                eq(int,
                   kvcap_attn_flat(cap, l, -1, c.q.dtype, KVCAP_CPU, 0, c.q.data, c.k_all.data, c.v_all.data, NULL, n,
                                   c.k_all.shape[0], c.key0, c.q.stride, c.k_all.stride, c.v_all.stride, NULL, NULL),
                   KVCAP_OK),
                "%s", last_log);
        }
    }
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_OK));
    cr_assert(strstr(last_log, "not possible") != NULL, "no outputs were given: %s", last_log);
    cr_assert(kvt_source_open(&src, "kvcap_flat.h5", 0, &err) == KVT_OK, "%s", err.text);
    cr_assert(eq(str, (char *)(uintptr_t)src.info->content_id, want));
    kvt_source_close(&src);
    free(r);
}

/* Goal: engine lse is stored as given. Method: shift it and look. */
Test(kvcap, the_engines_lse_is_kept)
{
    run *r = make_run();
    const kvcap_params p = params("kvcap_lse.h5");
    kvcap *cap = begin(r, &p);
    kvt_source src;
    kvt_err err;
    float *lse;

    for (int l = 0; l < L; l++) {
        kvcap_attn_call c = call_of(r, l, 0, N, 0);
        if (l == 1) continue;
        for (int t = 0; t < N; t++) r->lse[l][t][2] += 0.25f;
        c.lse = (kvcap_view){.data = r->lse[l],
                             .dtype = KVCAP_F32,
                             .device_type = KVCAP_CPU,
                             .ndim = 2,
                             .shape = {N, H},
                             .stride = {H, 1}};
        cr_assert(eq(int, kvcap_attn(cap, &c, NULL), KVCAP_OK), "%s", last_log);
    }
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_OK));
    cr_assert(kvt_source_open(&src, "kvcap_lse.h5", 0, &err) == KVT_OK, "%s", err.text);
    lse = read_all(&src, KVT_T_LSE, 3, 2, W, 1);
    cr_assert(src.info->n_decode == 0 && lse[0] == r->lse[3][N - W][2]);
    free(lse);
    kvt_source_close(&src);
    free(r);
}

Test(kvcap, a_wrong_engine_output_fails_the_acceptance_test)
{
    run *r = make_run();
    const kvcap_params p = params("kvcap_wrong.h5");
    kvcap *cap = begin(r, &p);

    for (int h = 0; h < H; h++) r->out[2][N - 1][h][3] += 0.2f;
    drive(cap, r, N, 0);
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_OK));
    cr_assert(strstr(last_log, "FAILED") != NULL, "%s", last_log);
    free(r);
}

Test(kvcap, text_and_spans_end_where_the_trace_ends)
{
    run *r = make_run();
    const kvcap_params p = params("kvcap_text.h5");
    kvcap *cap = begin(r, &p);
    kvt_source src;
    kvt_err err;

    cr_assert(eq(int, kvcap_text(cap, 3, "c\xc3", 2), KVCAP_OK));
    cr_assert(eq(int, kvcap_text(cap, 0, "ab", 2), KVCAP_OK));
    cr_assert(eq(int, kvcap_text(cap, T, "never", 5), KVCAP_OK));
    cr_assert(eq(int, kvcap_span(cap, 30, T + 1, 3), KVCAP_OK));
    cr_assert(eq(int, kvcap_span(cap, 0, 20, 1), KVCAP_OK));
    cr_assert(eq(int, kvcap_span(cap, 5, 9, 8), KVCAP_OK));
    cr_assert(eq(int, kvcap_span(cap, 0, 30, 2), KVCAP_OK));
    drive(cap, r, 16, 0);
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_OK), "%s", last_log);
    cr_assert(kvt_source_open(&src, "kvcap_text.h5", 0, &err) == KVT_OK, "%s", err.text);
    cr_assert(src.info->text_offset[1] == 2 && src.info->text_offset[3] == 2 && src.info->text_offset[T] == 4);
    cr_assert(memcmp(src.info->text, "abc\xc3", 4) == 0);
    cr_assert(src.info->n_spans == 4 && src.info->span_kind[0] == 2 && src.info->span_kind[1] == 1 &&
              src.info->span_kind[2] == 8);
    cr_assert(src.info->span_end[3] == T);
    kvt_source_close(&src);
    free(r);
}

static void refused(kvcap *cap, int got, int want, const char *word)
{
    char text[480] = "";
    const int sticky = kvcap_error(cap, text, sizeof text);
    cr_assert(got == want && sticky == want && strstr(text, word), "status %d (expected %d): %s (expected '%s')", got,
              want, text, word);
    cr_assert(eq(int, kvcap_token(cap, 1, NULL, NULL, 0, NAN), want), "errors are sticky");
    cr_assert(eq(int, kvcap_close(&cap), want));
    cr_assert(access("kvcap_refused.h5", F_OK) != 0);
}

/* Goal: every call out of order or of a later version is refused by name, stays refused
 * and leaves no file under the final name. */
Test(kvcap, calls_out_of_order_are_refused)
{
    run *r = make_run();
    const kvcap_params p = params("kvcap_refused.h5");
    kvcap *cap = begin(r, &p);
    kvcap_attn_call c = call_of(r, 0, 0, 16, 0);
    kvcap_layer y = layer_of(r, 0);

    cr_assert(eq(int, kvcap_attn(cap, &c, NULL), KVCAP_OK));
    c = call_of(r, 0, 17, 8, 0);
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_EORDER, "token 16 comes next");

    cap = begin(r, &p);
    c = call_of(r, 2, 0, 16, 0);
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_EORDER, "before layer 0");

    cap = begin(r, &p);
    refused(cap, kvcap_set_layer(cap, &y), KVCAP_EORDER, "twice");

    cap = begin(r, &p);
    refused(cap, kvcap_prompt(cap, r->id, N, -1), KVCAP_EORDER, "twice");

    cap = begin(r, &p);
    step(cap, r, 0, N, 0);
    c = call_of(r, 0, N, 1, 0);
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_EORDER, "before its id is known");

    cap = begin(r, &p);
    step(cap, r, 0, N, 0);
    cr_assert(eq(int, kvcap_token(cap, 1, NULL, NULL, 0, NAN), KVCAP_OK));
    refused(cap, kvcap_token(cap, 1, NULL, NULL, 0, NAN), KVCAP_EORDER, "has seen only 50");

    cap = begin(r, &p);
    step(cap, r, 0, N, 0);
    cr_assert(eq(int, kvcap_token(cap, 1, NULL, NULL, 0, NAN), KVCAP_OK));
    c = call_of(r, 0, N, 1, 0);
    cr_assert(eq(int, kvcap_attn(cap, &c, NULL), KVCAP_OK));
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_EORDER));
    cr_assert(strstr(last_log, "middle of a step") && access("kvcap_refused.h5", F_OK) != 0, "%s", last_log);

    cap = begin(r, &p);
    step(cap, r, 0, N - 1, 0);
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_EORDER));
    cr_assert(strstr(last_log, "prefill") != NULL, "%s", last_log);
    free(r);
}

Test(kvcap, views_that_this_build_cannot_take_are_refused)
{
    run *r = make_run();
    const kvcap_params p = params("kvcap_refused.h5");
    kvcap *cap = begin(r, &p);
    kvcap_attn_call c = call_of(r, 0, 0, 16, 0);

    c.q.device_type = KVCAP_CUDA;
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_ENOTSUP, "this build takes host pointers");
    cap = begin(r, &p);
    c = call_of(r, 0, 0, 16, 0), c.k_new.dtype = KVCAP_F8E4M3;
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_ENOTSUP, "fp8");
    cap = begin(r, &p);
    c = call_of(r, 0, 0, 16, 0), c.v_new.stride[2] = 2;
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_ESHAPE, "stride 2");
    cap = begin(r, &p);
    c = call_of(r, 0, 0, 16, 0), c.k_new.shape[1] = H;
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_ESHAPE, "axis 1 has 4 elements, expected 2");
    cap = begin(r, &p);
    c = call_of(r, 0, 0, 16, 0), c.rows_kind = KVCAP_ROWS_LOGIT;
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_ENOTSUP, "explicit rows");
    cap = begin(r, &p);
    c = call_of(r, 0, 0, 16, 1), c.key0 = 1;
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_ESHAPE, "visible keys");
    cap = begin(r, &p);
    step(cap, r, 0, 20, 0);
    c = call_of(r, 0, 20, 16, 1); /* a full layer whose cache lost its first tokens */
    c.k_all.shape[0] -= 2, c.v_all.shape[0] -= 2, c.key0 = 2;
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_ESHAPE, "bounded");
    cap = begin(r, &p);
    refused(cap, kvcap_scores(cap, 0, "x", r->sinks, 1, 1), KVCAP_ENOTSUP, "kvcap_scores");
    cap = begin(r, &p);
    refused(cap, kvcap_extra(cap, 0, "x", 0, NULL, NULL, NULL, NULL, NULL), KVCAP_ENOTSUP, "kvcap_extra");
    cap = begin(r, &p);
    refused(cap, kvcap_token(cap, 1, r->id, r->sinks, 1, 0.0f), KVCAP_ENOTSUP, "logits");
    cap = begin(r, &p);
    cr_assert(eq(int, kvcap_span(cap, 0, 10, 1), KVCAP_OK));
    refused(cap, kvcap_span(cap, 5, 15, 1), KVCAP_EARG, "crosses");
    free(r);
}

static int open_status(kvcap_params p, const char *word)
{
    kvcap *cap = (kvcap *)(uintptr_t)8;
    const int rc = kvcap_open(&cap, &p);
    cr_assert(rc != KVCAP_OK && cap == (kvcap *)(uintptr_t)8, "the handle is untouched");
    if (word) cr_assert(strstr(last_log, word) != NULL, "%s (expected '%s')", last_log, word);
    return rc;
}

Test(kvcap, open_refuses_what_it_does_not_know)
{
    kvcap_params p = params("kvcap_refused.h5");
    struct {
        kvcap_params p;
        uint64_t more;
    } longer = {p, 0};
    kvcap *cap = NULL;

    longer.p.struct_size = sizeof longer;
    cr_assert(eq(int, kvcap_open(&cap, &longer.p), KVCAP_OK), "a larger struct whose excess is zero");
    kvcap_abort(&cap);
    cr_assert(cap == NULL && access("kvcap_refused.h5.part", F_OK) == 0);
    longer.more = 1;
    cr_assert(eq(int, kvcap_open(&cap, &longer.p), KVCAP_EABI));
    p.struct_size = offsetof(kvcap_params, log); /* an older caller */
    cr_assert(eq(int, kvcap_open(&cap, &p), KVCAP_OK));
    kvcap_abort(&cap);

    p = params("kvcap_refused.h5"), p.abi = 2;
    cr_assert(eq(int, open_status(p, NULL), KVCAP_EABI));
    p = params("kvcap_refused.h5"), p.flags |= KVCAP_STORE_WO_GRAM;
    cr_assert(eq(int, open_status(p, "WO_GRAM"), KVCAP_ENOTSUP));
    p = params("kvcap_refused.h5"), p.stat_flags |= KVCAP_STAT_EA;
    cr_assert(eq(int, open_status(p, "STAT_EA"), KVCAP_ENOTSUP));
    p = params("kvcap_refused.h5"), p.stat_flags |= KVCAP_STAT_BLOCKS;
    cr_assert(eq(int, open_status(p, "STAT_BLOCKS"), KVCAP_ENOTSUP));
    p = params("kvcap_refused.h5"), p.stat_flags = KVCAP_STAT_SUM;
    cr_assert(eq(int, open_status(p, "together"), KVCAP_EARG));
    p = params("kvcap_refused.h5"), p.compress = 1;
    cr_assert(eq(int, open_status(p, "compress"), KVCAP_ENOTSUP));
    p = params("no/such/folder/x.h5");
    cr_assert(eq(int, open_status(p, "No such file"), KVCAP_EIO));
    p = params("kvcap_refused.h5"), p.n_layers = KVT_MAX_LAYERS + 1;
    cr_assert(eq(int, open_status(p, "n_layers"), KVCAP_EARG));
    p = params("kvcap_refused.h5"), p.max_tokens = (int64_t)KVT_MAX_TOKENS + 1;
    cr_assert(eq(int, open_status(p, "max_tokens"), KVCAP_EARG));
}

Test(kvcap, provenance_is_a_flat_object_of_strings)
{
    static const char *const bad[] = {"",
                                      "[]",
                                      "{",
                                      "{\"engine\":1}",
                                      "{\"engine\":\"x\"",
                                      "{\"engine\":\"x\"} x",
                                      "{\"a\":\"x\"}",
                                      "{\"engine\":\"x\",\"engine\":\"y\"}",
                                      "{\"engine\":\"\\u12\"}",
                                      "{\"engine\":\"\\ud800\"}",
                                      "{\"engine\":\"\\udc00\"}",
                                      "{\"engine\":\"\\u0000\"}",
                                      "{\"engine\":\"\\q\"}",
                                      "{\"engine\":\"a\nb\"}",
                                      "{\"Bad name\":\"x\"}",
                                      "{\"engine\":\"x\",}",
                                      "{\"engine\":\"\\",
                                      "{\"engine\":\"\\\"}"};
    kvcap_params p = params("kvcap_refused.h5");
    kvcap *cap = NULL;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        p.provenance_json = bad[i];
        cr_assert(eq(int, open_status(p, "provenance"), KVCAP_EARG), "%s", bad[i]);
    }
    p.provenance_json = " { \"engine\" : \"\\u00e4\\ud83d\\ude00\\n\\/\" , \"note\":\"\" } ";
    cr_assert(eq(int, kvcap_open(&cap, &p), KVCAP_OK), "%s", last_log);
    kvcap_abort(&cap);
}

/* Goal: a mask that says what token indexes say passes; one key less for one query does
 * not. Both as booleans and as additive f32. */
Test(kvcap, masks_must_equal_causal_visibility)
{
    static unsigned char seen[N * N];
    static float add[N * N];
    run *r = make_run();
    const kvcap_params p = params("kvcap_refused.h5");

    for (int bad = 0; bad < 2; bad++)
        for (int kind = KVCAP_MASK_BOOL; kind <= KVCAP_MASK_ADD_F32; kind += 2) {
            kvcap *cap = begin(r, &p);
            for (int l = 0; l < L; l++) {
                const kvt_layer_info info = layer_info(l);
                kvcap_attn_call c = call_of(r, l, 0, N, 1);
                int rc;
                if (l == 1) continue;
                for (int t = 0; t < N; t++)
                    for (int j = 0; j < N; j++) {
                        seen[t * N + j] = (unsigned char)kvt_ref_visible(&info, (uint32_t)t, (uint32_t)j);
                        add[t * N + j] = seen[t * N + j] ? 0.0f : -3.4028235e38f;
                    }
                if (bad && l == 3) seen[20 * N + 4] = 0, add[20 * N + 4] = -1.0f;
                c.mask_kind = kind;
                c.mask = (kvcap_view){.data = kind == KVCAP_MASK_BOOL ? (const void *)seen : (const void *)add,
                                      .device_type = KVCAP_CPU,
                                      .ndim = 2,
                                      .shape = {N, N},
                                      .stride = {N, 1}};
                rc = kvcap_attn(cap, &c, NULL);
                if (!bad || l != 3) {
                    cr_assert(eq(int, rc, KVCAP_OK), "%s", last_log);
                    continue;
                }
                refused(cap, rc, KVCAP_ENOTSUP, "query 20 and key 4");
                cap = NULL;
            }
            kvcap_abort(&cap);
        }
    free(r);
}

Test(kvcap, non_finite_operands_are_listed_or_refused)
{
    run *r = make_run();
    kvcap_params p = params("kvcap_nan.h5");
    kvcap *cap = begin(r, &p);
    kvcap_counters n = {.struct_size = sizeof n};
    kvcap_attn_call c;

    r->v[0][N + 3][1][5] = INFINITY;
    r->q[0][N - 2][3][0] = NAN;
    drive(cap, r, 16, 0);
    cr_assert(eq(int, kvcap_counters_get(cap, &n), KVCAP_OK));
    cr_assert(n.n_nonfinite == 2 && n.calls == 3 * (4 + G) && n.bytes_in > 0 && n.bytes_written > 0);
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_OK), "%s", last_log);
    cr_assert(strstr(last_log, "FAILED") != NULL, "an infinite value reaches a sample: %s", last_log);

    p = params("kvcap_refused.h5"), p.flags |= KVCAP_STRICT;
    cap = begin(r, &p);
    c = call_of(r, 0, 0, N, 0);
    refused(cap, kvcap_attn(cap, &c, NULL), KVCAP_EARG, "q of head 3, token 48 is not finite");
    free(r);
}

/* Goal: an announced exact length gives contiguous datasets with the same contents, and
 * is held to. */
Test(kvcap, an_exact_length_is_held_to)
{
    run *r = make_run();
    kvcap_params p = params("kvcap_exact.h5");
    kvcap *cap;
    char want[65];
    kvt_source src;
    kvt_err err;

    capture(r, "kvcap_exact_want.h5", 16, 0, want);
    p.flags |= KVCAP_EXACT_LEN, p.max_tokens = T;
    cap = begin(r, &p);
    drive(cap, r, 16, 0);
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_OK), "%s", last_log);
    cr_assert(kvt_source_open(&src, "kvcap_exact.h5", 0, &err) == KVT_OK, "%s", err.text);
    cr_assert(eq(str, (char *)(uintptr_t)src.info->content_id, want));
    kvt_source_close(&src);

    p = params("kvcap_refused.h5"), p.flags |= KVCAP_EXACT_LEN;
    cap = begin(r, &p);
    drive(cap, r, 16, 0);
    cr_assert(eq(int, kvcap_close(&cap), KVCAP_ERANGE));
    cr_assert(access("kvcap_refused.h5", F_OK) != 0);
    free(r);
}

Test(kvcap, a_killed_run_leaves_no_file)
{
    run *r = make_run();
    const kvcap_params p = params("kvcap_killed.h5");
    int status;
    const pid_t pid = fork();

    if (pid == 0) {
        kvcap *cap = begin(r, &p);
        drive(cap, r, 16, 0);
        _exit(7); /* neither closed nor aborted */
    }
    cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    cr_assert(access("kvcap_killed.h5", F_OK) != 0 && access("kvcap_killed.h5.part", F_OK) == 0);
    free(r);
}
