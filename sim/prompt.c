/* prompt.c - what one layer lends to the replay: operands widened to f32, statistics,
 * and the rows of the last prompt queries, each a softmax over the whole prompt,
 * normalised by its own sum (the stored log-sum-exp is an f32 and would move a row by
 * up to 1e-6). */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_mul.h"
#include "kvt_prim.h"

/* calloc of a checked product; NULL when it does not fit. Never 0 bytes. */
static void *prompt_alloc(size_t a, size_t b, size_t c, size_t size)
{
    size_t n;
    if (!kvt_mul(a, b, &n) || !kvt_mul(n, c, &n) || !kvt_mul(n, size, &n))
        return NULL;
    return calloc(n ? n : 1, 1);
}

static kvt_status prompt_read_heads(run *r, kvt_tensor t, uint32_t heads, uint32_t row, uint32_t n,
                                    uint32_t width, float **out, kvt_err *err)
{
    float *x = prompt_alloc(heads, n, width, sizeof *x);

    if (!x)
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for %s", r->src->path, r->L.layer, kvt_tensor_path(t));
    for (uint32_t h = 0; h < heads; h++) {
        const kvt_status st = kvt_source_read(r->src, t, r->L.layer, h, row, n, x + (size_t)h * n * width, err);
        if (st < 0) {
            free(x);
            return st;
        }
    }
    *out = x;
    return KVT_OK;
}

/* Logits z[p0 + rows][16] to shares, lane by lane: query p0 + i sees keys 0 .. p0 + i, then the
 * sink. What a lane does not see is -INFINITY, so that all lanes take the same steps. */
static void prompt_softmax(const run *r, uint32_t p0, uint32_t rows, double sink, double *z, double *sink_share)
{
    const size_t n = (size_t)p0 + rows;
    double max[KVT_TILE], sum[KVT_TILE] = { 0 };

    for (uint32_t i = 0; i < KVT_TILE; i++)
        max[i] = sink;
    for (size_t j = (size_t)p0 + 1; j < n; j++)
        for (size_t i = 0; i < j - p0; i++)
            z[j * KVT_TILE + i] = -INFINITY;
    for (size_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < KVT_TILE; i++)
            max[i] = z[j * KVT_TILE + i] > max[i] ? z[j * KVT_TILE + i] : max[i];
    for (size_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < KVT_TILE; i++)
            z[j * KVT_TILE + i] -= max[i];
    r->kern->exps(z, n * KVT_TILE);
    for (size_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < KVT_TILE; i++)
            sum[i] += z[j * KVT_TILE + i];
    for (uint32_t i = 0; i < KVT_TILE; i++) {
        const double e = sink > -INFINITY ? kvt_exp(sink - max[i]) : 0;
        sum[i] += e;
        if (sink_share)
            sink_share[i] = i < rows ? e / sum[i] : 0;
    }
    for (size_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < KVT_TILE; i++)
            z[j * KVT_TILE + i] /= sum[i];
    for (size_t j = 0; rows < KVT_TILE && j < n; j++)
        for (uint32_t i = rows; i < KVT_TILE; i++)
            z[j * KVT_TILE + i] = 0;
}

/* Rows of the prompt queries at positions p0 .. p0 + rows - 1 of one head: z[N][16] becomes
 * probabilities, 0 behind a query's own position. scratch holds the queries, then z. */
static double *prompt_rows(const run *r, uint32_t h, uint32_t p0, uint32_t rows, double *scratch, double *sink_share)
{
    const layer_run *L = &r->L;
    double *qt = scratch, *z = qt + (size_t)L->d * KVT_TILE;
    const float *q = L->q_prompt + ((size_t)h * r->n_q + r->n_q - r->N + p0) * L->d;
    const float *k = L->k + (size_t)(h / L->group) * r->T * L->d;
    const double sink = L->info->has_sinks ? L->sink_share[(size_t)L->H * r->G + h] : -INFINITY;
    const kvt_rows_args a = { .qt = qt, .k = k, .n_keys = p0 + rows, .d = L->d, .scale = L->info->scale, .softcap = L->info->softcap };

    memset(qt, 0, (size_t)L->d * KVT_TILE * sizeof *qt);
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t c = 0; c < L->d; c++)
            qt[(size_t)c * KVT_TILE + i] = (double)q[(size_t)i * L->d + c];
    r->kern->logits(&a, z);
    prompt_softmax(r, p0, rows, sink, z, sink_share);
    memset(z + (size_t)(p0 + rows) * KVT_TILE, 0, (size_t)(r->N - p0 - rows) * KVT_TILE * sizeof *z);
    return z;
}

/* 16 window rows of one head. */
static void prompt_window_tile(void *arg, uint32_t item, uint32_t thread)
{
    run *r = arg;
    const uint32_t per_head = (r->window + KVT_TILE - 1) / KVT_TILE;
    const uint32_t h = item / per_head, row0 = (item % per_head) * KVT_TILE;
    const uint32_t rows = r->window - row0 < KVT_TILE ? r->window - row0 : KVT_TILE;
    const double *z = prompt_rows(r, h, r->N - r->window + row0, rows, r->scratch[thread], NULL);

    for (uint32_t i = 0; i < rows; i++) {
        float *out = r->L.win + ((size_t)h * r->window + row0 + i) * r->N;
        for (uint32_t j = 0; j < r->N; j++)
            out[j] = (float)z[(size_t)j * KVT_TILE + i];
    }
}

void kvt__prompt_tile(const run *r, uint32_t head, uint32_t block, float *tile, double *scratch, double *sink)
{
    const uint32_t p0 = block * KVT_TILE, rows = r->N - p0 < KVT_TILE ? r->N - p0 : KVT_TILE;
    const double *z = prompt_rows(r, head, p0, rows, scratch, sink);

    for (size_t i = 0; i < (size_t)r->N * KVT_TILE; i++)
        tile[i] = (float)z[i];
}

/* Rank of every prompt entry by the mean of the last rows: the yardstick of "late
 * bloomer", the same for every policy. */
static void prompt_rank_head(void *arg, uint32_t h, uint32_t thread)
{
    run *r = arg;
    layer_run *L = &r->L;
    const uint32_t n = r->N, rows = r->window < KVT_OBSERVE ? r->window : KVT_OBSERVE;
    double *sum = r->scratch[thread];
    float *mean = (float *)(void *)(sum + n);
    uint32_t *order = (uint32_t *)(void *)(mean + n), *tmp = order + n;

    memset(sum, 0, n * sizeof *sum);
    for (uint32_t i = r->window - rows; i < r->window; i++) {
        const float *row = L->win + ((size_t)h * r->window + i) * n;
        for (uint32_t j = 0; j < n; j++)
            sum[j] += (double)row[j];
    }
    for (uint32_t j = 0; j < n; j++)
        mean[j] = rows ? (float)(sum[j] / rows) : 0;
    kvt_rank(mean, n, order, tmp);
    for (uint32_t i = 0; i < n; i++)
        L->win_rank[(size_t)h * n + order[i]] = i;
}

/* NaN anywhere would poison every sum: say where it is. */
static kvt_status prompt_check_window(const run *r, kvt_err *err)
{
    const layer_run *L = &r->L;

    for (uint32_t h = 0; h < L->H; h++)
        for (uint32_t i = 0; i < r->window; i++) {
            const float *row = L->win + ((size_t)h * r->window + i) * r->N;
            for (uint32_t j = 0; j < r->N; j++)
                if (!(row[j] >= 0 && row[j] <= 1))
                    return kvt_fail(err, KVT_ECHECK, "%s: layer %u head %u: attention row of prompt token %u is not finite at key %u; "
                                    "run: kvtrace verify", r->src->path, L->layer, h, r->N - r->window + i, j);
        }
    return KVT_OK;
}

static kvt_status prompt_check_nonneg(const run *r, const float *x, size_t n_per_head, const char *what, kvt_err *err)
{
    for (uint32_t h = 0; h < r->L.H; h++)
        for (size_t j = 0; j < n_per_head; j++)
            if (!(x[h * n_per_head + j] >= 0) || isinf(x[h * n_per_head + j]))
                return kvt_fail(err, KVT_ECHECK, "%s: /layers/%03u/%s: head %u token %zu is %g, expected a finite number >= 0; "
                                "run: kvtrace verify", r->src->path, r->L.layer, what, h, j, (double)x[h * n_per_head + j]);
    return KVT_OK;
}

/* Learned sinks: logits behind the [H][G] shares, which rows.c fills. */
static kvt_status prompt_load_sinks(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    float one;

    if (!L->info->has_sinks)
        return KVT_OK;
    L->sink_share = prompt_alloc(L->H, (size_t)r->G + 1, 1, sizeof *L->sink_share);
    if (!L->sink_share)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t h = 0; h < L->H; h++) {
        KVT_TRY(kvt_source_read(r->src, KVT_T_SINKS, L->layer, h, 0, 1, &one, err));
        L->sink_share[(size_t)L->H * r->G + h] = (double)one;
    }
    return KVT_OK;
}

static kvt_status prompt_load_lse(run *r, kvt_err *err)
{
    layer_run *L = &r->L;
    const uint32_t G = r->G;
    float *x = NULL;

    KVT_TRY(prompt_read_heads(r, KVT_T_LSE, L->H, r->info->n_rows - G, G, 1, &x, err));
    L->lse = prompt_alloc(L->H, G, 1, sizeof *L->lse);
    for (size_t i = 0; L->lse && i < (size_t)L->H * G; i++)
        L->lse[i] = (double)x[i];
    free(x);
    return L->lse ? KVT_OK : kvt_fail(err, KVT_ENOMEM, "out of memory");
}

/* dims 0 = the layer does not rotate. */
static void prompt_rope(run *r)
{
    const kvt_layer_info *x = r->L.info;

    if (x->rope_dims > 0)
        r->L.rope = (kvt_rope){ .dims = x->rope_dims, .offset = x->rope_offset, .interleaved = x->rope_interleaved,
                                .n_segments = x->rope_segments, .segment_start = x->rope_segment_start,
                                .inv_freq = x->rope_inv_freq, .scaling = x->rope_attention_scaling,
                                .angle = x->rope_angle_type, .table = x->rope_table_type, .rotary = r->info->rotary };
}

kvt_status kvt__layer_load(run *r, uint32_t layer, uint32_t slot, kvt_err *err)
{
    layer_run *L = &r->L;
    const uint32_t N = r->N, G = r->G, R = r->info->n_rows;

    const uint32_t head0 = L->head0 + L->H, kv0 = L->kv0 + L->Hkv;
    memset(L, 0, sizeof *L);
    L->info = &r->info->layer[layer];
    L->layer = layer;
    L->slot = slot;
    L->head0 = head0;
    L->kv0 = kv0;
    L->H = L->info->n_heads;
    L->Hkv = L->info->n_kv_heads;
    L->group = L->H / L->Hkv;
    L->d = L->info->d_k;
    L->d_v = L->info->d_v;
    KVT_TRY(prompt_read_heads(r, KVT_T_K, L->Hkv, 0, r->T, L->d, &L->k, err));
    KVT_TRY(prompt_read_heads(r, KVT_T_Q, L->H, R - G - r->n_q, r->n_q, L->d, &L->q_prompt, err));
    KVT_TRY(prompt_read_heads(r, KVT_T_Q, L->H, R - G, G, L->d, &L->q, err));
    KVT_TRY(prompt_load_lse(r, err));
    KVT_TRY(prompt_load_sinks(r, err));
    if (r->opts->output_error || r->need & KVT_NEED_VALUES)
        KVT_TRY(prompt_read_heads(r, KVT_T_V, L->Hkv, 0, r->T, L->d_v, &L->v, err));
    if (r->need & KVT_NEED_NU) {
        KVT_TRY(prompt_read_heads(r, KVT_T_NU, L->H, 0, N, 1, &L->nu, err));
        KVT_TRY(prompt_check_nonneg(r, L->nu, N, "nu", err));
    }
    if (r->need & KVT_NEED_COLSTAT) {
        KVT_TRY(prompt_read_heads(r, KVT_T_STAT_SUM, L->H, 0, N, 1, &L->col_sum, err));
        KVT_TRY(prompt_check_nonneg(r, L->col_sum, N, "stats/sum", err));
    }
    if (r->need & KVT_NEED_ROPE)
        prompt_rope(r);
    L->win = prompt_alloc(L->H, r->window, N, sizeof *L->win);
    L->win_rank = prompt_alloc(L->H, N, 1, sizeof *L->win_rank);
    if (!L->win || !L->win_rank)
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for window rows", r->src->path, layer);
    kvt_pool_run(r->pool, L->H * ((r->window + KVT_TILE - 1) / KVT_TILE), prompt_window_tile, r);
    KVT_TRY(prompt_check_window(r, err));
    kvt_pool_run(r->pool, L->H, prompt_rank_head, r);
    return KVT_OK;
}

void kvt__layer_free(run *r)
{
    layer_run *L = &r->L;

    kvt__lanes_free(r);
    free(L->k), free(L->q), free(L->lse), free(L->sink_share), free(L->v), free(L->o_norm), free(L->nu), free(L->col_sum);
    free(L->q_prompt), free(L->win), free(L->win_rank), free(L->one);
    free(L->col), free(L->prompt_mass), free(L->ns_mass), free(L->defect), free(L->lse_redone);
    free(L->b_prompt), free(L->b_all);
    free(L->oracle_prompt), free(L->oracle_all), free(L->fixed_prompt), free(L->fixed_all);
    L->k = L->q = L->q_prompt = L->v = L->nu = L->col_sum = L->win = L->one = NULL;
    L->lse = L->sink_share = L->col = L->prompt_mass = L->ns_mass = L->defect = NULL;
    L->lse_redone = NULL;
    L->o_norm = NULL;
    L->n_staged = 0;
    L->win_rank = L->b_prompt = L->b_all = NULL;
    L->oracle_prompt = L->oracle_all = L->fixed_prompt = L->fixed_all = NULL;
}
