/* kvcap_rows.c - the rows of one attention call: keys into panels, logits, log-sum-exp,
 * column statistics, and the rows that are stored.
 *
 * A panel holds KVCAP_LANES keys with the lanes innermost, [d_k][LANES]. A block of rows
 * is formed once and used three times: maximum and sum, column sums, stored lse. Column
 * sums run over the rows in ascending order in f64, so the bits do not depend on how the
 * prompt was cut into calls. */
#include "kvcap_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int rows_room(kvcap *cap, float **buf, size_t *have, size_t n, size_t width)
{
    float *more = NULL;

    if (n && width > *have / n) {
        more = kvcap__grow(NULL, n, width * sizeof **buf);
        if (!more) return kvcap__no_memory(cap);
        free(*buf);
        *buf = more;
        *have = n * width;
    }
    return KVCAP_OK;
}

static int rows_grow_panels(kvcap *cap, kvcap_layer_state *ls, int64_t need)
{
    size_t n = ls->cap ? ls->cap : (size_t)cap->n_prompt;

    if ((size_t)need <= ls->cap) return KVCAP_OK;
    if (n < (size_t)need) n = (size_t)need;
    if (ls->cap) n += n / 4 + KVCAP_BLOCK;
    n = (n + KVCAP_LANES - 1) / KVCAP_LANES * KVCAP_LANES;
    for (uint32_t g = 0; g < ls->info.n_kv_heads; g++) {
        float *more = kvcap__grow(ls->panel[g], n, ls->info.d_k * sizeof *more);
        if (!more) return kvcap__no_memory(cap);
        memset(more + ls->cap * ls->info.d_k, 0, (n - ls->cap) * ls->info.d_k * sizeof *more);
        ls->panel[g] = more;
    }
    ls->cap = n;
    return KVCAP_OK;
}

static int rows_all_finite(const float *x, uint32_t n)
{
    float bad = 0.0f;
    for (uint32_t c = 0; c < n; c++) bad += x[c] - x[c]; /* NaN for NaN and infinities */
    return bad == 0.0f;
}

/* Count a NaN or infinity at its place: tensor 0 q, 1 k, 2 v. */
static int rows_check_finite(kvcap *cap, const kvcap_call *call, int tensor, uint32_t head, int64_t token,
                             const float *x, uint32_t n)
{
    static const char *const name[] = {"q", "k", "v"};
    int64_t *to;

    if (rows_all_finite(x, n)) return KVCAP_OK;
    if (cap->flags & KVCAP_STRICT)
        return kvcap__fail(cap, KVCAP_EARG, "layer %u: %s of head %u, token %lld is not finite", call->layer,
                           name[tensor], head, (long long)token);
    if (cap->n_nonfinite < KVCAP_MAX_NONFINITE) {
        to = cap->nonfinite[cap->n_nonfinite];
        to[0] = call->layer, to[1] = tensor, to[2] = head, to[3] = token;
    }
    if (cap->n_nonfinite < INT32_MAX) cap->n_nonfinite++;
    return KVCAP_OK;
}

/* Stage K and V rows as they are, and spread the keys over their panels. */
int kvcap__take_keys(kvcap *cap, const kvcap_call *call)
{
    kvcap_layer_state *ls = call->ls;
    const uint32_t d_k = ls->info.d_k, d_v = ls->info.d_v;
    const int keep_v = (cap->flags & KVCAP_STORE_V) || ls->wo.data;
    int rc = rows_grow_panels(cap, ls, call->token0 + call->n);

    if (rc == KVCAP_OK) rc = rows_room(cap, &cap->rows, &cap->cap_rows, 1, d_k > d_v ? d_k : d_v);
    if (rc != KVCAP_OK) return rc;
    if (kvcap__stage_room(&ls->k, call->n) != KVCAP_OK || (keep_v && kvcap__stage_room(&ls->v, call->n) != KVCAP_OK))
        return kvcap__no_memory(cap);
    for (uint32_t g = 0; g < ls->info.n_kv_heads; g++)
        for (uint32_t t = 0; t < call->n; t++) {
            const size_t key = (size_t)call->token0 + t;
            float *panel = ls->panel[g] + key / KVCAP_LANES * d_k * KVCAP_LANES + key % KVCAP_LANES;

            kvcap__row_f32(&call->k, t, g, d_k, cap->rows);
            rc = rows_check_finite(cap, call, 1, g, (int64_t)key, cap->rows, d_k);
            if (rc != KVCAP_OK) return rc;
            for (uint32_t c = 0; c < d_k; c++) panel[(size_t)c * KVCAP_LANES] = cap->rows[c];
            memcpy(kvcap__stage_row(&ls->k, g, ls->k.n + t), kvcap__row_at(&call->k, t, g), ls->k.row_bytes);

            kvcap__row_f32(&call->v, t, g, d_v, cap->rows);
            rc = rows_check_finite(cap, call, 2, g, (int64_t)key, cap->rows, d_v);
            if (rc != KVCAP_OK) return rc;
            if (keep_v)
                memcpy(kvcap__stage_row(&ls->v, g, ls->v.n + t), kvcap__row_at(&call->v, t, g), ls->v.row_bytes);
        }
    ls->k.n += call->n;
    if (keep_v) ls->v.n += call->n;
    return KVCAP_OK;
}

static int64_t rows_first_visible(const kvt_layer_info *info, int64_t p)
{
    if (info->attn == KVT_ATTN_SLIDING) return p - (int64_t)info->window + 1 > 0 ? p - (int64_t)info->window + 1 : 0;
    if (info->attn == KVT_ATTN_CHUNKED) return p - p % (int64_t)info->window;
    return 0;
}

/* Logits of one row in z[0 .. n), key0 = token of z[0]: scale, soft cap, -inf where the
 * query does not look. */
static void rows_logits(const kvt_layer_info *info, float *z, size_t n, int64_t key0, int64_t p)
{
    const float scale = (float)info->scale;
    const size_t low = (size_t)(rows_first_visible(info, p) - key0), high = (size_t)(p - key0);

    if (info->softcap > 0.0)
        for (size_t j = 0; j < n; j++) z[j] = (float)(info->softcap * tanh((double)(z[j] * scale) / info->softcap));
    else
        for (size_t j = 0; j < n; j++) z[j] *= scale;
    for (size_t j = 0; j < low; j++) z[j] = -INFINITY;
    for (size_t j = high + 1; j < n; j++) z[j] = -INFINITY;
}

/* Finish one formed row: its lse, its share of the columns, and the stored row. */
static int rows_finish(kvcap *cap, const kvcap_call *call, uint32_t head, uint32_t t, float *z, size_t n, int64_t key0)
{
    kvcap_layer_state *ls = call->ls;
    const int64_t p = call->token0 + t;
    float top = ls->sinks ? ls->sinks[head] : -INFINITY, lse_f32;
    double sum, lse;

    rows_logits(&ls->info, z, n, key0, p);
    sum = kvcap__exp_row(z, n, &top);
    if (ls->sinks) sum += exp((double)ls->sinks[head] - (double)top);
    lse = (double)top + log(sum);
    if (call->lse.data) {
        kvcap_view one = call->lse;
        lse = ((const float *)one.data)[t * one.stride[0] + head * one.stride[1]];
    }
    lse_f32 = (float)lse;
    if (ls->col_sum && p < cap->n_prompt) {
        const size_t at = (size_t)head * ls->col_stride + (size_t)key0;
        const size_t stop = ls->col_stride - (size_t)key0;
        kvcap__add_columns(z, n < stop ? n : stop, (float)exp((double)top - lse), ls->col_sum + at, ls->col_sumsq + at,
                           ls->col_max + at);
    }
    if (p >= (int64_t)cap->n_prompt - cap->window) {
        const uint32_t skipped = (uint32_t)((int64_t)cap->n_prompt - cap->window > call->token0
                                                ? (int64_t)cap->n_prompt - cap->window - call->token0
                                                : 0);
        const uint32_t i = t - skipped;
        memcpy(kvcap__stage_row(&ls->q, head, ls->q.n + i), kvcap__row_at(&call->q, t, head), ls->q.row_bytes);
        memcpy(kvcap__stage_row(&ls->lse, head, ls->lse.n + i), &lse_f32, sizeof lse_f32);
    }
    return kvcap__probe_row(cap, call, head, t);
}

/* Rows of `n_heads` query heads from `head` on (one KV head) times tokens t0 .. t0+n_t-1. */
static int rows_block(kvcap *cap, const kvcap_call *call, uint32_t g, uint32_t head, uint32_t n_heads, uint32_t t0,
                      uint32_t n_t)
{
    kvcap_layer_state *ls = call->ls;
    const uint32_t d = ls->info.d_k, n_rows = n_heads * n_t, padded = (n_rows + 3) / 4 * 4;
    const int64_t last = call->token0 + t0 + n_t - 1;
    const size_t tile0 = (size_t)rows_first_visible(&ls->info, call->token0 + t0) / KVCAP_LANES;
    const size_t tile1 = (size_t)last / KVCAP_LANES + 1, n = (tile1 - tile0) * KVCAP_LANES;
    int rc = rows_room(cap, &cap->z, &cap->cap_z, padded, n);

    if (rc == KVCAP_OK) rc = rows_room(cap, &cap->rows, &cap->cap_rows, padded, d);
    if (rc != KVCAP_OK) return rc;
    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t t = 0; t < n_t; t++) {
            float *row = cap->rows + ((size_t)h * n_t + t) * d;
            kvcap__row_f32(&call->q, t0 + t, head + h, d, row);
            rc = rows_check_finite(cap, call, 0, head + h, call->token0 + t0 + t, row, d);
            if (rc != KVCAP_OK) return rc;
        }
    memset(cap->rows + (size_t)n_rows * d, 0, (size_t)(padded - n_rows) * d * sizeof *cap->rows);
    kvcap__dot_panels(cap->rows, padded, d, ls->panel[g], tile0, tile1, cap->z, n);
    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t t = 0; t < n_t; t++) {
            rc = rows_finish(cap, call, head + h, t0 + t, cap->z + ((size_t)h * n_t + t) * n, n,
                             (int64_t)(tile0 * KVCAP_LANES));
            if (rc != KVCAP_OK) return rc;
        }
    return KVCAP_OK;
}

int kvcap__form_rows(kvcap *cap, const kvcap_call *call)
{
    kvcap_layer_state *ls = call->ls;
    const uint32_t group = ls->info.n_heads / ls->info.n_kv_heads;
    const uint32_t n_heads = group < KVCAP_ROWS ? group : KVCAP_ROWS, n_t = KVCAP_ROWS / n_heads;
    const int64_t first_kept = (int64_t)cap->n_prompt - cap->window, end = call->token0 + call->n;
    const uint32_t kept = end <= first_kept ? 0 : call->token0 >= first_kept ? call->n : (uint32_t)(end - first_kept);
    /* Without column statistics nobody needs the rows that are not stored. */
    const uint32_t skip = ls->col_sum ? 0 : call->n - kept;

    if (kvcap__stage_room(&ls->q, kept) != KVCAP_OK || kvcap__stage_room(&ls->lse, kept) != KVCAP_OK)
        return kvcap__no_memory(cap);
    for (uint32_t g = 0; g < ls->info.n_kv_heads; g++)
        for (uint32_t h = 0; h < group; h += n_heads)
            for (uint32_t t = skip; t < call->n; t += n_t) {
                const int rc = rows_block(cap, call, g, g * group + h, group - h < n_heads ? group - h : n_heads, t,
                                          call->n - t < n_t ? call->n - t : n_t);
                if (rc != KVCAP_OK) return rc;
            }
    ls->q.n += kept;
    ls->lse.n += kept;
    return KVCAP_OK;
}

/* The output projection of one head as panels over its output channels, widened. */
static void rows_wo_panels(const kvcap_layer_state *ls, uint32_t head, uint32_t model_dim, float *panel)
{
    const uint32_t d_v = ls->info.d_v;
    kvcap_view one = ls->wo;
    const int64_t e_stride = one.stride[2], bytes = one.dtype == KVCAP_F32 ? 4 : 2;
    const size_t n_tiles = (model_dim + KVCAP_LANES - 1) / KVCAP_LANES;

    memset(panel, 0, n_tiles * d_v * KVCAP_LANES * sizeof *panel);
    for (uint32_t e = 0; e < model_dim; e++)
        for (uint32_t c = 0; c < d_v; c++) {
            one.data = (const unsigned char *)ls->wo.data + (int64_t)e * e_stride * bytes;
            kvcap__row_f32(&one, head, c, 1,
                           panel + ((size_t)(e / KVCAP_LANES) * d_v + c) * KVCAP_LANES + e % KVCAP_LANES);
        }
}

int kvcap__nu(kvcap *cap, uint32_t layer, float *out)
{
    kvcap_layer_state *ls = &cap->layer[layer];
    const uint32_t d_v = ls->info.d_v, n = ls->v.n, group = ls->info.n_heads / ls->info.n_kv_heads;
    const size_t n_tiles = (cap->model_dim + KVCAP_LANES - 1) / KVCAP_LANES, ld = n_tiles * KVCAP_LANES;
    float *panel = kvcap__grow(NULL, ld * d_v, sizeof *panel);
    int rc = panel ? KVCAP_OK : kvcap__no_memory(cap);

    if (rc == KVCAP_OK) rc = rows_room(cap, &cap->z, &cap->cap_z, KVCAP_ROWS, ld);
    if (rc == KVCAP_OK) rc = rows_room(cap, &cap->rows, &cap->cap_rows, KVCAP_ROWS, d_v);
    for (uint32_t h = 0; h < ls->info.n_heads && rc == KVCAP_OK; h++) {
        rows_wo_panels(ls, h, cap->model_dim, panel);
        for (uint32_t i = 0; i < n; i += KVCAP_ROWS) {
            const uint32_t m = n - i < KVCAP_ROWS ? n - i : KVCAP_ROWS;
            memset(cap->rows, 0, (size_t)KVCAP_ROWS * d_v * sizeof *cap->rows);
            for (uint32_t r = 0; r < m; r++) {
                const kvcap_view one = {.data = kvcap__stage_row(&ls->v, h / group, i + r),
                                        .dtype = ls->info.v_type == KVT_F32   ? KVCAP_F32
                                                 : ls->info.v_type == KVT_F16 ? KVCAP_F16
                                                                              : KVCAP_BF16};
                kvcap__row_f32(&one, 0, 0, d_v, cap->rows + (size_t)r * d_v);
            }
            kvcap__dot_panels(cap->rows, (m + 3) / 4 * 4, d_v, panel, 0, n_tiles, cap->z, ld);
            for (uint32_t r = 0; r < m; r++) out[(size_t)h * n + i + r] = (float)kvcap__abs_sum(cap->z + r * ld, ld);
        }
    }
    free(panel);
    return rc;
}
