/* trace_synth.c - see trace_synth.h. Keys have a rotary half, which makes the local band,
 * and a content half: channel 0 marks sinks, 1 heavy hitters, 2 and 3 the late bloomers,
 * the rest is noise. A query states the logit that it wants on each mark. */
#include "trace_synth.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_float16.h"
#include "kvt_mul.h"
#include "kvt_philox.h"
#include "kvt_text.h"
#include "kvt_version.h"
#include "ref_attention.h"

enum { SYNTH_SINKS = 4, SYNTH_HEAVY_MAX = 32, SYNTH_NEEDLES = 2, SYNTH_EPISODES = 3, SYNTH_VOCAB = 4096 };
enum { SYNTH_MARKS = 4 };               /* content channels that carry marks */
static const double synth_mark = 2.0;   /* height of a mark in a key */

typedef enum synth_draw { DRAW_KEY, DRAW_VALUE, DRAW_QUERY, DRAW_HEAD, DRAW_WO, DRAW_TOKEN, DRAW_PLACE } synth_draw;

typedef struct synth_plan {             /* what is planted where */
    uint32_t n_sinks, n_heavy, n_needles, n_episodes, episode_steps;
    uint32_t heavy[SYNTH_HEAVY_MAX], needle[SYNTH_NEEDLES], episode[SYNTH_EPISODES];
    uint8_t *mark;                      /* [T] 1 + content channel, or 0 */
} synth_plan;

typedef struct synth_out {              /* what goes into the writer's tail */
    int32_t *id, *sample, *rope_index;
    float   *sample_out, *sample_lse, *rope_k;
    uint8_t *text;
    int64_t *text_offset;
    uint32_t n_samples, n_rope;
    double   max_err, max_out;
} synth_out;

typedef struct synth_work {
    const kvt_synth *s;
    uint32_t         n_tokens, window, model_dim;
    synth_plan       plan;
    synth_out        out;
    double          *inv_freq, *cosine, *sine;  /* [d / 4], [T][d / 4] */
    float           *k, *v, *q, *wo;    /* [Hkv][T][d] twice, [T][d], [d][Dm]: as stored */
    double          *prob, *sum, *sumsq, *max, *y;
    float           *row;               /* [T] one f32 row for the writer */
    uint8_t         *packed;            /* [T][d] in the stored type */
    kvt_layer_info  *layer;             /* [L] */
    kvt_writer      *writer;
} synth_work;

/* ---------------------------------------------------------------- random numbers */

static void synth_random(const synth_work *w, synth_draw what, uint32_t layer, uint32_t head, uint32_t item,
                         uint32_t channel, uint32_t out[4])
{
    const uint32_t key[2] = { (uint32_t)w->s->seed, (uint32_t)(w->s->seed >> 32) };
    const uint32_t counter[4] = { channel, item, layer << 16 | head, (uint32_t)what };
    kvt_philox4x32(counter, key, out);
}

/* Mean 0, variance 1, by the sum of four uniform numbers: no call of libm, so that the
 * operands do not depend on the machine. */
static double synth_normal(const synth_work *w, synth_draw what, uint32_t layer, uint32_t head, uint32_t item,
                           uint32_t channel)
{
    uint32_t u[4];
    synth_random(w, what, layer, head, item, channel, u);
    return ((double)((uint64_t)u[0] + u[1] + u[2] + u[3]) - 2.0 * 4294967295.0) * (1.7320508075688772 / 4294967296.0);
}

static uint32_t synth_below(const synth_work *w, synth_draw what, uint32_t item, uint32_t n)
{
    uint32_t u[4];
    synth_random(w, what, 0, 0, item, 0, u);
    return (uint32_t)((uint64_t)u[0] * n >> 32);
}

/* ---------------------------------------------------------------- plan */

static void synth_plant(synth_plan *p, uint32_t token, uint32_t channel)
{
    p->mark[token] = (uint8_t)(1 + channel);
}

/* Needles lie before the stored window (where there is room), one in each half, so that the
 * last prompt queries could see them and do not look. */
static void synth_make_plan(synth_work *w)
{
    const kvt_synth *const s = w->s;
    synth_plan *const p = &w->plan;
    const uint32_t first = SYNTH_SINKS, n = s->n_prompt;
    const uint32_t last = n > w->window + 2 * first ? n - w->window : n - (n > 1);

    p->n_sinks = n < SYNTH_SINKS ? n : SYNTH_SINKS;
    for (uint32_t i = 0; i < p->n_sinks; i++) synth_plant(p, i, 0);
    if (last < first + 4) return;               /* too short for anything else */
    p->n_needles = s->n_decode > 0 ? SYNTH_NEEDLES : 0;
    for (uint32_t i = 0; i < p->n_needles; i++) {
        const uint32_t half = (last - first) / 2;
        p->needle[i] = first + i * half + synth_below(w, DRAW_PLACE, i, half);
        synth_plant(p, p->needle[i], 2 + i);
    }
    for (uint32_t i = 0; i < 2 + n / 64 && i < SYNTH_HEAVY_MAX; i++) {
        const uint32_t token = first + synth_below(w, DRAW_PLACE, 100 + i, n - first);
        if (!p->mark[token]) synth_plant(p, token, 1);      /* taken: one fewer */
    }
    for (uint32_t i = first; i < n; i++)
        if (p->mark[i] == 2) p->heavy[p->n_heavy++] = i;
    if (p->n_needles == 0) return;
    /* Needle 0, needle 1, needle 0 again; a short decode has the first only. */
    p->n_episodes = s->n_decode >= 8 ? SYNTH_EPISODES : 1;
    p->episode_steps = s->n_decode >= 32 ? s->n_decode / 16 : 1;
    for (uint32_t e = 0; e < p->n_episodes; e++)
        p->episode[e] = p->n_episodes == 1 ? s->n_decode / 2 : (uint32_t)((uint64_t)s->n_decode * (e + 1) / 4);
}

/* The needle that retrieval heads look at in the step of this token, or -1. */
static int synth_bloom(const synth_work *w, uint32_t token)
{
    for (uint32_t e = 0; e < w->plan.n_episodes; e++) {
        const uint32_t begin = w->s->n_prompt + w->plan.episode[e];
        if (token >= begin && token - begin < w->plan.episode_steps) return (int)(e % 2);
    }
    return -1;
}

static void synth_describe(const synth_work *w, char *out, size_t size)
{
    const synth_plan *const p = &w->plan;
    size_t at = 0;
#define SAY(...) at += (size_t)snprintf(out + at, size - at, __VA_ARGS__)
    SAY("synthetic; role of query head h of layer l by (h + l) mod 4: 0 retrieval, 1 sink, 2 local, 3 heavy; "
        "sinks: tokens 0 to %" PRIu32, p->n_sinks - 1);
    for (uint32_t i = 0; i < p->n_heavy; i++) SAY("%s%" PRIu32, i ? ", " : "; heavy hitters: tokens ", p->heavy[i]);
    for (uint32_t e = 0; e < p->n_episodes; e++) {
        SAY("%stoken %" PRIu32 " in decode step %" PRIu32, e ? ", " : "; late bloomers: ", p->needle[e % 2],
            p->episode[e]);
        if (p->episode_steps > 1) SAY(" to %" PRIu32, p->episode[e] + p->episode_steps - 1);
    }
#undef SAY
    KVT_ASSERT(at < size);                      /* 32 heavy hitters of 7 digits fit */
}

/* ---------------------------------------------------------------- operands */

/* Round to the stored type, in place; the packed bytes go to the writer. */
static void synth_round(uint8_t *packed, float *x, size_t n, kvt_dtype type)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t u;
        if (type == KVT_F32) {
            memcpy(packed + 4 * i, &x[i], 4);
            continue;
        }
        u = type == KVT_F16 ? kvt_to_f16(x[i]) : kvt_to_bf16(x[i]);
        x[i] = type == KVT_F16 ? kvt_from_f16(u) : kvt_from_bf16(u);
        memcpy(packed + 2 * i, &u, 2);
    }
}

/* Channels c and c + d / 4 are a pair. */
static void synth_rotate(const synth_work *w, uint32_t token, float *x)
{
    const uint32_t n = w->s->head_dim / 4;
    for (uint32_t f = 0; f < n; f++) {
        const double c = w->cosine[(size_t)token * n + f], s = w->sine[(size_t)token * n + f];
        const double a = x[f], b = x[f + n];
        x[f] = (float)(a * c - b * s);
        x[f + n] = (float)(b * c + a * s);
    }
}

static void synth_key(const synth_work *w, uint32_t layer, uint32_t head, uint32_t token, float *k)
{
    const uint32_t d = w->s->head_dim, half = d / 2;
    const uint32_t mark = w->plan.mark[token];

    for (uint32_t c = 0; c < d; c++) {
        const double noise = synth_normal(w, DRAW_KEY, layer, head, token, c);
        if (c < half) k[c] = (float)((c < half / 2 ? 1.0 : 0.0) + 0.1 * noise);
        else if (c < half + SYNTH_MARKS) k[c] = (float)((mark == 1 + c - half ? synth_mark : 0.0) + 0.05 * noise);
        else k[c] = (float)noise;
    }
}

/* The logits that a query wants: on a sink, a heavy hitter, each needle; of its own
 * position through the rotary half. ln(n) makes a share independent of the length. */
static void synth_wish(const synth_work *w, kvt_synth_role role, uint32_t token, double mark[SYNTH_MARKS],
                       double *local)
{
    const double log_n = log((double)token + 1.0);
    const int bloom = synth_bloom(w, token);

    mark[0] = log_n + 0.5;
    mark[1] = 0.5;
    mark[2] = mark[3] = 0.0;
    *local = 2.0;
    if (role == KVT_SYNTH_SINK) mark[0] = log_n + 2.5;
    if (role == KVT_SYNTH_LOCAL) mark[0] = log_n - 1.0, *local = 16.0;
    if (role == KVT_SYNTH_HEAVY) mark[1] = log_n + 2.0 - log((double)(w->plan.n_heavy ? w->plan.n_heavy : 1));
    if (role != KVT_SYNTH_RETRIEVAL) return;
    mark[0] = log_n + 1.5;
    mark[2] = mark[3] = -3.0;
    if (bloom < 0) return;
    mark[0] = 0.0;
    mark[2 + bloom] = log_n + 4.0;
}

static void synth_query(const synth_work *w, uint32_t layer, uint32_t head, uint32_t token, float *q)
{
    const uint32_t d = w->s->head_dim, half = d / 2, n_noise = half - SYNTH_MARKS;
    const double scale = w->layer[layer].scale;
    double mark[SYNTH_MARKS], local;

    synth_wish(w, kvt_synth_role_of(layer, head), token, mark, &local);
    for (uint32_t c = 0; c < d; c++) {
        double x = 0.0;
        if (c < half / 2) {
            x = local / (half / 2);
        } else if (c >= half && c < half + SYNTH_MARKS) {
            x = mark[c - half] / synth_mark;
        } else if (c >= half) {                 /* a taste of the head, and one of the step */
            x = 0.5 * synth_normal(w, DRAW_HEAD, layer, head, 0, c) + 0.5 * synth_normal(w, DRAW_QUERY, layer, head,
                                                                                        token, c);
            x /= sqrt((double)n_noise);
        }
        q[c] = (float)(x / scale);
    }
    synth_rotate(w, token, q);
}

/* ---------------------------------------------------------------- one layer */

static kvt_status synth_write_cache(synth_work *w, uint32_t layer, kvt_err *err)
{
    const uint32_t d = w->s->head_dim, n = w->n_tokens;

    for (uint32_t head = 0; head < w->s->n_kv_heads; head++) {
        float *const k = w->k + (size_t)head * n * d, *const v = w->v + (size_t)head * n * d;
        for (uint32_t i = 0; i < n; i++) {
            synth_key(w, layer, head, i, k + (size_t)i * d);
            if (head == 0 && (i == 0 || i == n / 2 || i == n - 1) && w->out.n_rope < 3 * (layer + 1)) {
                int32_t *const x = w->out.rope_index + 3 * (size_t)w->out.n_rope;
                x[0] = (int32_t)layer, x[1] = 0, x[2] = (int32_t)i;
                memcpy(w->out.rope_k + (size_t)w->out.n_rope++ * d, k + (size_t)i * d, d * sizeof *k);
            }
            synth_rotate(w, i, k + (size_t)i * d);
            for (uint32_t c = 0; c < d; c++)    /* values of sinks are small, as in real models */
                v[(size_t)i * d + c] = (float)((w->plan.mark[i] == 1 ? 0.1 : 1.0)
                                               * synth_normal(w, DRAW_VALUE, layer, head, i, c));
        }
        synth_round(w->packed, k, (size_t)n * d, w->s->type);
        KVT_TRY(kvt_writer_append(w->writer, layer, KVT_T_K, head, n, w->packed, err));
        synth_round(w->packed, v, (size_t)n * d, w->s->type);
        KVT_TRY(kvt_writer_append(w->writer, layer, KVT_T_V, head, n, w->packed, err));
    }
    return KVT_OK;
}

/* Output of the samples of this row; the generator's own, beside what the stored f32
 * log-sum-exp gives. */
static void synth_sample(synth_work *w, uint32_t layer, uint32_t head, uint32_t row, uint32_t p, const float *q,
                         const float *k, const float *v, double lse)
{
    const uint32_t d = w->s->head_dim;

    for (uint32_t i = 0; i < w->out.n_samples; i++) {
        const int32_t *const x = w->out.sample + 3 * (size_t)i;
        float *const out = w->out.sample_out + (size_t)i * d;
        const double stored = (double)(float)lse;
        if (x[0] != (int32_t)layer || x[1] != (int32_t)head || x[2] != (int32_t)row) continue;
        kvt_ref_output(p, d, w->prob, v, w->y);
        for (uint32_t c = 0; c < d; c++) out[c] = (float)w->y[c];
        w->out.sample_lse[i] = (float)lse;
        kvt_ref_row(&w->layer[layer], p, q, k, 0.0f, &stored, w->prob);
        kvt_ref_output(p, d, w->prob, v, w->y);
        for (uint32_t c = 0; c < d; c++) {
            w->out.max_err = fmax(w->out.max_err, fabs(w->y[c] - (double)out[c]));
            w->out.max_out = fmax(w->out.max_out, fabs((double)out[c]));
        }
    }
}

static kvt_status synth_append_f32(synth_work *w, uint32_t layer, kvt_tensor t, uint32_t head, uint32_t n,
                                   const double *x, kvt_err *err)
{
    for (uint32_t i = 0; i < n; i++) w->row[i] = (float)x[i];
    return kvt_writer_append(w->writer, layer, t, head, n, w->row, err);
}

static kvt_status synth_write_nu(synth_work *w, uint32_t layer, uint32_t head, const float *v, kvt_err *err)
{
    const uint32_t d = w->s->head_dim, dm = w->model_dim;
    const double size = 1.0 / sqrt((double)w->s->n_heads * d);

    for (uint32_t c = 0; c < d; c++)
        for (uint32_t e = 0; e < dm; e++)
            w->wo[(size_t)c * dm + e] = (float)(size * synth_normal(w, DRAW_WO, layer, head, c, e));
    for (uint32_t i = 0; i < w->n_tokens; i++) {
        double nu = 0.0;
        for (uint32_t e = 0; e < dm; e++) w->y[e] = 0.0;
        for (uint32_t c = 0; c < d; c++) {
            const double x = v[(size_t)i * d + c];
            for (uint32_t e = 0; e < dm; e++) w->y[e] += x * (double)w->wo[(size_t)c * dm + e];
        }
        for (uint32_t e = 0; e < dm; e++) nu += fabs(w->y[e]);
        w->row[i] = (float)nu;
    }
    return kvt_writer_append(w->writer, layer, KVT_T_NU, head, w->n_tokens, w->row, err);
}

static kvt_status synth_write_head(synth_work *w, uint32_t layer, uint32_t head, kvt_err *err)
{
    const kvt_synth *const s = w->s;
    const uint32_t d = s->head_dim, n = w->n_tokens, first = s->n_prompt - w->window;
    const size_t cache = (size_t)(head / (s->n_heads / s->n_kv_heads)) * n * d;
    const float *const k = w->k + cache, *const v = w->v + cache;
    double *const lse = w->max + s->n_prompt;   /* [R], behind the statistics */

    for (uint32_t p = 0; p < n; p++) synth_query(w, layer, head, p, w->q + (size_t)p * d);
    synth_round(w->packed, w->q, (size_t)n * d, s->type);
    memset(w->sum, 0, s->n_prompt * sizeof *w->sum);
    memset(w->sumsq, 0, s->n_prompt * sizeof *w->sumsq);
    memset(w->max, 0, s->n_prompt * sizeof *w->max);
    for (uint32_t p = s->no_stats ? first : 0; p < n; p++) {
        const float *const q = w->q + (size_t)p * d;
        const double z = kvt_ref_row(&w->layer[layer], p, q, k, 0.0f, NULL, w->prob);
        for (uint32_t j = 0; !s->no_stats && j <= p && p < s->n_prompt; j++) {
            const double a = w->prob[j];
            w->sum[j] += a;
            w->sumsq[j] += a * a;
            if (a > w->max[j]) w->max[j] = a;
        }
        if (p < first) continue;
        lse[p - first] = z;
        synth_sample(w, layer, head, p - first, p, q, k, v, z);
    }
    KVT_TRY(kvt_writer_append(w->writer, layer, KVT_T_Q, head, n - first,
                              w->packed + (size_t)first * d * kvt_dtype_bytes(s->type), err));
    KVT_TRY(synth_append_f32(w, layer, KVT_T_LSE, head, n - first, lse, err));
    if (!s->no_stats) {
        KVT_TRY(synth_append_f32(w, layer, KVT_T_STAT_SUM, head, s->n_prompt, w->sum, err));
        KVT_TRY(synth_append_f32(w, layer, KVT_T_STAT_SUMSQ, head, s->n_prompt, w->sumsq, err));
        KVT_TRY(synth_append_f32(w, layer, KVT_T_STAT_MAX, head, s->n_prompt, w->max, err));
    }
    return synth_write_nu(w, layer, head, v, err);
}

/* ---------------------------------------------------------------- the whole */

static kvt_status synth_check(const char *shown, const kvt_synth *s, kvt_err *err)
{
    if (s->head_dim % 4 != 0 || s->head_dim < 8 || s->head_dim > KVT_MAX_HEAD_DIM)
        return kvt_fail(err, KVT_EARG, "%s: head dimension %u; a multiple of 4 from 8 to %u is needed", shown,
                        s->head_dim, KVT_MAX_HEAD_DIM);
    if (s->n_heads < 1 || s->n_heads > KVT_MAX_HEADS || s->n_kv_heads < 1 || s->n_heads % s->n_kv_heads != 0)
        return kvt_fail(err, KVT_EARG, "%s: %u query heads and %u KV heads; at most %u, a multiple", shown,
                        s->n_heads, s->n_kv_heads, KVT_MAX_HEADS);
    if (s->n_layers < 1 || s->n_layers > KVT_MAX_LAYERS || s->model_dim > KVT_MAX_MODEL_DIM
        || (s->model_dim == 0 && s->n_heads * s->head_dim > KVT_MAX_MODEL_DIM))
        return kvt_fail(err, KVT_EARG, "%s: %u layers, model dimension %u (0: heads x head dimension); at most %u "
                        "and %u", shown, s->n_layers, s->model_dim, KVT_MAX_LAYERS, KVT_MAX_MODEL_DIM);
    if (s->n_prompt < 1 || s->n_prompt > KVT_MAX_TOKENS || s->n_decode > KVT_MAX_TOKENS - s->n_prompt
        || s->window < 1)
        return kvt_fail(err, KVT_EARG, "%s: %u prompt tokens, %u decode steps, window %u; at least 1, 0, 1, together "
                        "at most %u tokens", shown, s->n_prompt, s->n_decode, s->window, KVT_MAX_TOKENS);
    if (s->seed > INT64_MAX)
        return kvt_fail(err, KVT_EARG, "%s: seed %" PRIu64 " is above %" PRId64, shown, s->seed, INT64_MAX);
    return KVT_OK;
}

/* n * m elements; sets *ok to false when there is no memory. */
static void *synth_alloc(size_t n, size_t m, size_t element_bytes, bool *ok)
{
    size_t count;
    void *const p = kvt_mul(n, m, &count) ? calloc(count ? count : 1, element_bytes) : NULL;
    if (!p) *ok = false;
    return p;
}

static bool synth_allocate(synth_work *w)
{
    const kvt_synth *const s = w->s;
    const size_t n = w->n_tokens, d = s->head_dim, widest = w->model_dim > d ? w->model_dim : d;
    bool ok = true;

    w->plan.mark = synth_alloc(n, 1, 1, &ok);
    w->inv_freq = synth_alloc(d / 4, 1, sizeof *w->inv_freq, &ok);
    w->cosine = synth_alloc(n, d / 4, sizeof *w->cosine, &ok);
    w->sine = synth_alloc(n, d / 4, sizeof *w->sine, &ok);
    w->k = synth_alloc(n * d, s->n_kv_heads, sizeof *w->k, &ok);
    w->v = synth_alloc(n * d, s->n_kv_heads, sizeof *w->v, &ok);
    w->q = synth_alloc(n, d, sizeof *w->q, &ok);
    w->wo = synth_alloc(w->model_dim, d, sizeof *w->wo, &ok);
    w->prob = synth_alloc(n, 1, sizeof *w->prob, &ok);
    w->sum = synth_alloc(n, 1, sizeof *w->sum, &ok);
    w->sumsq = synth_alloc(n, 1, sizeof *w->sumsq, &ok);
    w->max = synth_alloc(n, 2, sizeof *w->max, &ok);
    w->y = synth_alloc(widest, 1, sizeof *w->y, &ok);
    w->row = synth_alloc(n, 1, sizeof *w->row, &ok);
    w->packed = synth_alloc(n, d, kvt_dtype_bytes(s->type), &ok);
    w->out.id = synth_alloc(n, 1, sizeof *w->out.id, &ok);
    w->out.rope_index = synth_alloc(s->n_layers, 9, sizeof *w->out.rope_index, &ok);
    w->out.rope_k = synth_alloc(s->n_layers, 3 * d, sizeof *w->out.rope_k, &ok);
    w->out.text = synth_alloc(s->text ? n : 0, 16, 1, &ok);
    w->out.text_offset = synth_alloc(n + 1, 1, sizeof *w->out.text_offset, &ok);
    return ok;
}

static bool synth_allocate_samples(synth_work *w)
{
    const kvt_synth *const s = w->s;
    const uint32_t n = kvt_sample_plan(w->layer, s->n_layers, w->window, s->n_decode, NULL, 0);
    bool ok = true;

    w->out.sample = synth_alloc(n, 3, sizeof *w->out.sample, &ok);
    w->out.sample_out = synth_alloc(n, s->head_dim, sizeof *w->out.sample_out, &ok);
    w->out.sample_lse = synth_alloc(n, 1, sizeof *w->out.sample_lse, &ok);
    if (!ok) return false;
    w->out.n_samples = kvt_sample_plan(w->layer, s->n_layers, w->window, s->n_decode, w->out.sample, n);
    return true;
}

static void synth_free(synth_work *w)
{
    free(w->plan.mark);
    free(w->inv_freq), free(w->cosine), free(w->sine);
    free(w->k), free(w->v), free(w->q), free(w->wo);
    free(w->prob), free(w->sum), free(w->sumsq), free(w->max), free(w->y);
    free(w->row);
    free(w->packed);
    free(w->layer);
    free(w->out.id), free(w->out.rope_index), free(w->out.rope_k);
    free(w->out.text), free(w->out.text_offset);
    free(w->out.sample), free(w->out.sample_out), free(w->out.sample_lse);
}

static void synth_make_layers(synth_work *w)
{
    static const int64_t start[1] = { 0 };
    const uint32_t d = w->s->head_dim, n = d / 4;

    for (uint32_t f = 0; f < n; f++) w->inv_freq[f] = pow(10000.0, -(double)f / n);
    for (uint32_t i = 0; i < w->n_tokens; i++)
        for (uint32_t f = 0; f < n; f++) {
            w->cosine[(size_t)i * n + f] = cos(i * w->inv_freq[f]);
            w->sine[(size_t)i * n + f] = sin(i * w->inv_freq[f]);
        }
    for (uint32_t l = 0; l < w->s->n_layers; l++)
        w->layer[l] = (kvt_layer_info){
            .has = 1u << KVT_T_K | 1u << KVT_T_V | 1u << KVT_T_Q | 1u << KVT_T_LSE | 1u << KVT_T_NU
                   | (w->s->no_stats ? 0 : 1u << KVT_T_STAT_SUM | 1u << KVT_T_STAT_SUMSQ | 1u << KVT_T_STAT_MAX),
            .attn = KVT_ATTN_FULL, .n_heads = w->s->n_heads, .n_kv_heads = w->s->n_kv_heads, .d_k = d, .d_v = d,
            .kv_layer = l, .k_type = w->s->type, .v_type = w->s->type, .q_type = w->s->type,
            .scale = 1.0 / sqrt((double)d), .rope_dims = d / 2, .rope_segments = 1, .rope_attention_scaling = 1.0,
            .rope_type = "default", .rope_angle_type = "f64", .rope_table_type = "f64",
            .rope_inv_freq = w->inv_freq, .rope_segment_start = start,
        };
}

/* Ids; and words made of syllables, the same word for the same id. */
static void synth_make_tokens(synth_work *w)
{
    static const char consonants[] = "bdfgklmnprstvzhj", vowels[] = "aeio";
    size_t at = 0;

    for (uint32_t i = 0; i < w->n_tokens; i++) {
        uint32_t id = i == 0 ? 1 : 16 + synth_below(w, DRAW_TOKEN, i, SYNTH_VOCAB - 16);
        w->out.id[i] = (int32_t)id;
        w->out.text_offset[i] = (int64_t)at;
        if (!w->s->text) continue;
        if (i > 0) w->out.text[at++] = ' ';
        for (int syllable = 0; syllable < 2; syllable++, id /= 64) {
            w->out.text[at++] = (uint8_t)consonants[id % 16];
            w->out.text[at++] = (uint8_t)vowels[id / 16 % 4];
        }
    }
    w->out.text_offset[w->n_tokens] = (int64_t)at;
}

static kvt_status synth_create(synth_work *w, const char *path, kvt_err *err)
{
    const kvt_synth *const s = w->s;
    char planted[KVT_MAX_STRING + 1], seed[24], cluster[40];
    const char *const type = kvt_dtype_name(s->type);
    const kvt_pair provenance[] = {
        { "engine", "none" }, { "frontend", "kvtrace synth" }, { "frontend_version", KVT_VERSION },
        { "model_name", "synthetic" }, { "kv_dtype", type }, { "compute_dtype", "f64" }, { "decode_mode", "forced" },
        { "corpus", planted }, { "seed", seed }, { "command", s->command },
    };
    const kvt_writer_head head = {
        .writer = "kvtrace " KVT_VERSION, .exactness = "synthetic", .cluster_id = cluster, .created = s->created,
        .uuid = s->uuid, .n_layers = s->n_layers, .n_prompt = s->n_prompt, .n_decode = s->n_decode,
        .window = w->window, .question_start = s->n_prompt, .model_dim = w->model_dim, .vocab_size = SYNTH_VOCAB,
        .provenance = provenance, .n_provenance = sizeof provenance / sizeof *provenance,
    };

    synth_describe(w, planted, sizeof planted);
    snprintf(seed, sizeof seed, "%" PRIu64, s->seed);
    snprintf(cluster, sizeof cluster, "synth-%" PRIu64, s->seed);
    return kvt_writer_create(&w->writer, path, &head, err);
}

static kvt_status synth_commit(synth_work *w, kvt_err *err)
{
    const kvt_synth *const s = w->s;
    const synth_out *const o = &w->out;
    int64_t begin[SYNTH_NEEDLES + 2] = { 0 }, end[SYNTH_NEEDLES + 2] = { s->n_prompt };
    int32_t kind[SYNTH_NEEDLES + 2] = { 2 };    /* user turn, needles, assistant turn */
    uint32_t n = 1;
    kvt_writer *const writer = w->writer;
    kvt_writer_tail tail = {
        .n_decode = s->n_decode, .token_id = o->id, .span_begin = begin, .span_end = end, .span_kind = kind,
        .n_samples = o->n_samples, .sample_index = o->sample, .sample_out = o->sample_out,
        .sample_lse = o->sample_lse, .sample_width = s->head_dim, .verify_tol = 1e-5,
        .verify_max_err = o->max_out > 0.0 ? o->max_err / o->max_out : 0.0, .verify_passed = 1,
        .n_rope_samples = o->n_rope, .rope_index = o->rope_index, .rope_k = o->rope_k,
    };

    for (uint32_t i = 0; i < w->plan.n_needles; i++, n++)
        begin[n] = w->plan.needle[i], end[n] = begin[n] + 1, kind[n] = 8;
    if (s->n_decode > 0) begin[n] = s->n_prompt, end[n] = w->n_tokens, kind[n++] = 3;
    tail.n_spans = n;
    tail.verify_passed = tail.verify_max_err <= tail.verify_tol;
    if (s->text) tail.text = o->text, tail.text_offset = o->text_offset;
    w->writer = NULL;                           /* commit frees it in any case */
    return kvt_writer_commit(writer, &tail, err);
}

kvt_status kvt_synth_write(const char *path, const kvt_synth *s, kvt_err *err)
{
    synth_work w = { .s = s };
    char shown[256];
    kvt_status st;

    KVT_TRY(synth_check(kvt_printable_str(shown, sizeof shown, path), s, err));
    w.n_tokens = s->n_prompt + s->n_decode;
    w.window = s->window < s->n_prompt ? s->window : s->n_prompt;
    w.model_dim = s->model_dim ? s->model_dim : s->n_heads * s->head_dim;
    w.layer = calloc(s->n_layers, sizeof *w.layer);
    if (!w.layer || !synth_allocate(&w)) goto no_memory;
    synth_make_plan(&w);
    synth_make_layers(&w);
    if (!synth_allocate_samples(&w)) goto no_memory;
    synth_make_tokens(&w);
    KVT_TRY_GOTO(st, synth_create(&w, path, err));
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        KVT_TRY_GOTO(st, kvt_writer_layer(w.writer, layer, &w.layer[layer], "recomputed", err));
        KVT_TRY_GOTO(st, synth_write_cache(&w, layer, err));
        for (uint32_t head = 0; head < s->n_heads; head++) KVT_TRY_GOTO(st, synth_write_head(&w, layer, head, err));
        KVT_TRY_GOTO(st, kvt_writer_flush(w.writer, err));
    }
    st = synth_commit(&w, err);
    goto done;
no_memory:
    st = kvt_fail(err, KVT_ENOMEM, "%s: no memory for %u tokens", shown, w.n_tokens);
done:
    kvt_writer_abort(w.writer, 0);
    synth_free(&w);
    return st;
}
