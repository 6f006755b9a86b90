/* trace_verify_rows.c - recompute every stored attention row from q and k in double:
 * with the stored lse it must sum to 1, and for the sampled rows the output must be the
 * engine's own.
 *
 * The rows of all query heads that share a KV head are taken together, so that keys are
 * read once. Keys are turned to [channel][16 keys] in double: 16 logits of a query are
 * then built side by side in registers, each summed in channel order. The numbers are
 * those of kvt_ref_row(); only the loops are turned round. */
#include "trace_verify_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TILE       16u                        /* keys side by side: 8 SSE2 registers  */
#define CHUNK      1024u                      /* keys per read                        */
#define BLOCK_BYTES ((size_t)16 << 20)        /* of queries taken together            */

static const double output_tol[] = {[KVT_F32] = 1e-5, [KVT_F16] = 5e-3, [KVT_BF16] = 2e-2};

typedef struct rows_work {
    kvt_verify_report    *out;
    kvt_source           *src;
    kvt_reader           *r;
    kvt_h5_dataset        attn_out;           /* /verify/attn_out; id invalid: none   */
    const kvt_layer_info *l;
    uint32_t              layer, kv_head;
    double                out_scale;          /* max |o_engine| over all samples      */
    float  *q, *lse, *sinks, *k, *v, *engine;
    double *tile, *sum, *o;                   /* o[n_wanted][d_v]                     */
    int32_t  *slot;                           /* per query of the block: o row, or -1 */
    uint32_t *sample, *sample_slot;           /* samples of this layer; for each its
                                               * query in the block + 1, or 0        */
    uint32_t  n_samples;                      /* of this layer                        */
    uint32_t  n_block, first, n_wanted;       /* queries first .. first + n_block - 1
                                               * of (group head, row), row fastest    */
} rows_work;

static uint32_t query_head(const rows_work *w, uint32_t i)
{
    const uint32_t group = w->l->n_heads / w->l->n_kv_heads;
    return w->kv_head * group + (w->first + i) / w->src->info->n_rows;
}

static uint32_t query_row(const rows_work *w, uint32_t i)
{
    return (w->first + i) % w->src->info->n_rows;
}

/* ---------------------------------------------------------------- arithmetic */

/* Keys first .. first+n-1, [n][d_k], as tiles [n / TILE][d_k][TILE]; the last is padded. */
static void rows_turn(rows_work *w, uint32_t n)
{
    const uint32_t d = w->l->d_k;

    for (uint32_t j = 0; j < (n + TILE - 1) / TILE * TILE; j++) {
        double *to = w->tile + (size_t)(j / TILE) * d * TILE + j % TILE;
        for (uint32_t c = 0; c < d; c++) to[(size_t)c * TILE] = j < n ? (double)w->k[(size_t)j * d + c] : 0;
    }
}

static void rows_dot(double x[TILE], const float *q, const double *tile, uint32_t d)
{
    double acc[TILE] = {0};

    for (uint32_t c = 0; c < d; c++) {
        const double qc = (double)q[c];
        for (uint32_t j = 0; j < TILE; j++) acc[j] += qc * tile[(size_t)c * TILE + j];
    }
    memcpy(x, acc, sizeof acc);
}

/* Query i against the keys first .. first+n-1 that the chunk holds. */
static void rows_query(rows_work *w, uint32_t i, uint32_t first, uint32_t n)
{
    const kvt_layer_info *l = w->l;
    const uint32_t p = (uint32_t)w->src->info->query_index[query_row(w, i)];
    const double lse = (double)w->lse[i];
    uint32_t from = first, to = first + n;    /* visible keys of this chunk */

    if (to > p + 1) to = p + 1;
    if (l->attn == KVT_ATTN_SLIDING && p >= l->window && from < p - l->window + 1)
        from = p - l->window + 1;
    if (l->attn == KVT_ATTN_CHUNKED && from < p / l->window * l->window)
        from = p / l->window * l->window;
    for (uint32_t j = from; j < to; ) {
        const uint32_t t = (j - first) / TILE;
        const uint32_t end = first + (t + 1) * TILE < to ? first + (t + 1) * TILE : to;
        double x[TILE];

        rows_dot(x, w->q + (size_t)i * l->d_k, w->tile + (size_t)t * TILE * l->d_k, l->d_k);
        for (; j < end; j++) {
            double z = l->scale * x[j - first - t * TILE], a;
            if (l->softcap > 0) z = l->softcap * tanh(z / l->softcap);
            a = exp(z - lse);
            w->sum[i] += a;
            if (w->slot[i] >= 0) {
                double *o = w->o + (size_t)w->slot[i] * l->d_v;
                const float *v = w->v + (size_t)(j - first) * l->d_v;
                for (uint32_t c = 0; c < l->d_v; c++) o[c] += a * (double)v[c];
            }
        }
    }
}

/* ---------------------------------------------------------------- judging */

static void judge_sum(rows_work *w, uint32_t i)
{
    kvt_check *c = &w->out->check[KVT_CHECK_ROW_SUMS];
    const uint32_t head = query_head(w, i), row = query_row(w, i);
    const double sink = w->l->has_sinks ? exp((double)w->sinks[head] - (double)w->lse[i]) : 0;
    const double total = w->sum[i] + sink, defect = fabs(total - 1);

    w->sum[i] = total;
    c->n_seen++;
    c->worst = kvt__check_worst(c->worst, defect);
    if (!(defect <= KVT_ROW_SUM_TOL))
        kvt__check_fail(c, "layer %u head %u row %u (token %d): sums to %.6g with the stored lse, expected "
                        "1 within %g; a wrong scale, mask or lse", w->layer, head, row,
                        (int)w->src->info->query_index[row], total, KVT_ROW_SUM_TOL);
}

static double rows_tolerance(const rows_work *w)
{
    const kvt_layer_info *l = w->l, *owner = &w->src->info->layer[l->kv_layer];
    kvt_dtype coarsest = owner->k_type;

    if (owner->v_type > coarsest) coarsest = owner->v_type;
    if (l->q_type > coarsest) coarsest = l->q_type;
    if (w->src->info->redacted && w->r->redact_source > coarsest) coarsest = w->r->redact_source;
    return fmin(w->src->info->verify_tol, output_tol[coarsest]);
}

/* A row normalised by its own sum against the engine's. Columns past d_v must be 0. */
static kvt_status judge_output(rows_work *w, uint32_t sample, uint32_t i, kvt_err *err)
{
    kvt_check *c = &w->out->check[KVT_CHECK_OUTPUT];
    const uint64_t width = w->attn_out.dims[1], start[2] = {sample, 0}, count[2] = {1, width};
    const double *o = w->o + (size_t)w->slot[i] * w->l->d_v, tol = rows_tolerance(w);
    double worst = 0;
    uint32_t channel = 0;

    KVT_TRY(kvt__h5_dataset_read_block(&w->attn_out, start, count, w->engine, err));
    for (uint32_t e = 0; e < width; e++) {
        const double mine = e < w->l->d_v ? o[e] / w->sum[i] : 0;
        const double diff = fabs(mine - (double)w->engine[e]);
        if (!(diff <= worst)) channel = e;
        worst = kvt__check_worst(worst, diff);
    }
    if (worst > 0) worst /= w->out_scale;     /* 0/0 for an engine that gave only zeros */
    c->n_seen++;
    c->worst = kvt__check_worst(c->worst, worst);
    if (c->tol == 0 || tol < c->tol) c->tol = tol;
    if (!(worst <= tol))
        kvt__check_fail(c, "layer %u head %u row %u (token %d) channel %u: differs from the engine's output "
                        "by %.3g of its largest value, tolerance %.3g", w->layer, query_head(w, i),
                        query_row(w, i), (int)w->src->info->query_index[query_row(w, i)], channel, worst,
                        tol);
    return KVT_OK;
}

/* ---------------------------------------------------------------- a block of queries */

/* Which queries of this block are sampled; each gets one row of o. */
static void block_samples(rows_work *w)
{
    const kvt_trace_info *info = w->src->info;
    const uint32_t group = w->l->n_heads / w->l->n_kv_heads;

    w->n_wanted = 0;
    for (uint32_t i = 0; i < w->n_block; i++) w->slot[i] = -1;
    if (w->attn_out.at.id < 0 || !(info->layer[w->l->kv_layer].has & 1u << KVT_T_V)) return;
    for (uint32_t s = 0; s < w->n_samples; s++) {
        const int32_t *index = info->sample_index + 3 * (size_t)w->sample[s];
        const uint32_t head = (uint32_t)index[1];
        const uint64_t query = (uint64_t)(head % group) * info->n_rows + (uint32_t)index[2];

        w->sample_slot[s] = 0;
        if (head / group != w->kv_head || query < w->first || query >= (uint64_t)w->first + w->n_block)
            continue;
        w->sample_slot[s] = (uint32_t)(query - w->first) + 1;
        if (w->slot[query - w->first] < 0) w->slot[query - w->first] = (int32_t)w->n_wanted++;
    }
}

static kvt_status block_load_queries(rows_work *w, kvt_err *err)
{
    const uint32_t n_rows = w->src->info->n_rows;

    for (uint32_t i = 0; i < w->n_block; ) {
        const uint32_t row = query_row(w, i), head = query_head(w, i);
        const uint32_t left = w->n_block - i, n = n_rows - row < left ? n_rows - row : left;

        KVT_TRY(kvt_source_read(w->src, KVT_T_Q, w->layer, head, row, n, w->q + (size_t)i * w->l->d_k, err));
        KVT_TRY(kvt_source_read(w->src, KVT_T_LSE, w->layer, head, row, n, w->lse + i, err));
        i += n;
    }
    return KVT_OK;
}

static kvt_status rows_block(rows_work *w, kvt_err *err)
{
    const kvt_trace_info *info = w->src->info;
    const uint32_t owner = w->l->kv_layer;
    kvt_status st = KVT_OK;

    block_samples(w);
    free(w->o);
    w->o = calloc((size_t)w->n_wanted * w->l->d_v + 1, sizeof *w->o);
    if (!w->o) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", w->src->path);
    memset(w->sum, 0, w->n_block * sizeof *w->sum);
    KVT_TRY(block_load_queries(w, err));
    for (uint32_t first = 0; first < info->n_tokens; first += CHUNK) {
        const uint32_t n = info->n_tokens - first < CHUNK ? info->n_tokens - first : CHUNK;

        KVT_TRY(kvt_source_read(w->src, KVT_T_K, owner, w->kv_head, first, n, w->k, err));
        if (w->n_wanted)
            KVT_TRY(kvt_source_read(w->src, KVT_T_V, owner, w->kv_head, first, n, w->v, err));
        rows_turn(w, n);
        for (uint32_t i = 0; i < w->n_block; i++) rows_query(w, i, first, n);
    }
    for (uint32_t i = 0; i < w->n_block; i++) judge_sum(w, i);
    for (uint32_t s = 0; w->n_wanted && s < w->n_samples && st == KVT_OK; s++)
        if (w->sample_slot[s]) st = judge_output(w, w->sample[s], w->sample_slot[s] - 1, err);
    return st;
}

/* ---------------------------------------------------------------- a layer */

static kvt_status rows_allocate(rows_work *w, uint64_t n_queries, kvt_err *err)
{
    const kvt_layer_info *l = w->l;
    const size_t most = BLOCK_BYTES / (l->d_k * sizeof(float));
    const size_t n = n_queries < most ? (size_t)n_queries : most;

    free(w->q), free(w->lse), free(w->sinks), free(w->k), free(w->v), free(w->tile), free(w->sum);
    free(w->slot);
    w->q = malloc(n * l->d_k * sizeof *w->q);
    w->lse = malloc(n * sizeof *w->lse);
    w->sinks = malloc(l->n_heads * sizeof *w->sinks);
    w->k = malloc((size_t)CHUNK * l->d_k * sizeof *w->k);
    w->v = malloc((size_t)CHUNK * l->d_v * sizeof *w->v);
    w->tile = malloc((size_t)CHUNK * l->d_k * sizeof *w->tile);
    w->sum = malloc(n * sizeof *w->sum);
    w->slot = malloc(n * sizeof *w->slot);
    if (!w->q || !w->lse || !w->sinks || !w->k || !w->v || !w->tile || !w->sum || !w->slot)
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory for layer %u", w->src->path, w->layer);
    w->n_block = (uint32_t)n;
    return KVT_OK;
}

static kvt_status rows_layer(rows_work *w, kvt_err *err)
{
    const kvt_layer_info *l = w->l;
    const uint64_t n_queries = (uint64_t)(l->n_heads / l->n_kv_heads) * w->src->info->n_rows;
    uint32_t n_most;

    if (n_queries == 0) return KVT_OK;
    if (n_queries > UINT32_MAX)
        return kvt_fail(err, KVT_ENOTSUP, "%s: layer %u has more rows than can be checked", w->src->path,
                        w->layer);
    KVT_TRY(rows_allocate(w, n_queries, err));
    n_most = w->n_block;
    w->n_samples = 0;
    for (uint32_t s = 0; w->sample && s < w->src->info->n_samples; s++)
        if ((uint32_t)w->src->info->sample_index[3 * (size_t)s] == w->layer) w->sample[w->n_samples++] = s;
    for (uint32_t h = 0; h < l->n_heads && l->has_sinks; h++)
        KVT_TRY(kvt_source_read(w->src, KVT_T_SINKS, w->layer, h, 0, 1, w->sinks + h, err));
    for (w->kv_head = 0; w->kv_head < l->n_kv_heads; w->kv_head++) {
        for (uint64_t first = 0; first < n_queries; first += n_most) {
            const uint64_t left = n_queries - first;
            w->first = (uint32_t)first;
            w->n_block = left < n_most ? (uint32_t)left : n_most;
            KVT_TRY(rows_block(w, err));
        }
    }
    return KVT_OK;
}

/* Largest |o_engine| of all samples: the unit of the error. */
static kvt_status rows_open_samples(rows_work *w, kvt_err *err)
{
    const uint32_t n = w->src->info->n_samples;
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 2, .dims = {n, KVT_H5_UP_TO(KVT_MAX_HEAD_DIM)}};

    if (!w->r || n == 0) return KVT_OK;
    KVT_TRY(kvt__h5_dataset_open(&w->attn_out, &w->r->root, "verify/attn_out", &want, NULL, err));
    w->engine = malloc((size_t)w->attn_out.dims[1] * sizeof *w->engine + 1);
    w->sample = calloc(n, sizeof *w->sample);
    w->sample_slot = calloc(n, sizeof *w->sample_slot);
    if (!w->engine || !w->sample || !w->sample_slot) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", w->src->path);
    for (uint64_t s = 0; s < n; s++) {
        const uint64_t start[2] = {s, 0}, count[2] = {1, w->attn_out.dims[1]};
        KVT_TRY(kvt__h5_dataset_read_block(&w->attn_out, start, count, w->engine, err));
        for (uint64_t e = 0; e < count[1]; e++)
            w->out_scale = fmax(w->out_scale, fabs((double)w->engine[e]));
    }
    return KVT_OK;
}

static void rows_conclude(rows_work *w, uint32_t n_recorded)
{
    kvt_check *sums = &w->out->check[KVT_CHECK_ROW_SUMS], *output = &w->out->check[KVT_CHECK_OUTPUT];
    const uint32_t n = w->src->info->n_samples;

    if (sums->n_seen == 0)
        kvt__check_skip(sums, n_recorded ? "all layers have recorded rows" : "no stored rows");
    else if (sums->result == KVT_CHECK_OK && n_recorded)
        snprintf(sums->text, sizeof sums->text, "%u layers with recorded rows were not checked", n_recorded);
    if (output->n_seen == 0)
        kvt__check_skip(output, !w->r ? "not a file" : n == 0 ? "no samples in /verify"
                        : "no values (v), or no keys and queries, for the sampled layers");
    else if (output->result == KVT_CHECK_OK && output->n_seen < n)
        snprintf(output->text, sizeof output->text, "%u of %u samples lie in layers without values, and "
                 "were not checked", n - (uint32_t)output->n_seen, n);
}

kvt_status kvt__verify_rows(kvt_verify_report *out, kvt_source *src, kvt_reader *r, kvt_err *err)
{
    const kvt_trace_info *info = src->info;
    const uint32_t needed = 1u << KVT_T_Q | 1u << KVT_T_LSE;
    rows_work w = {.out = out, .src = src, .r = r, .attn_out.at.id = H5I_INVALID_HID};
    uint32_t n_recorded = 0;
    kvt_status st;

    out->check[KVT_CHECK_ROW_SUMS].tol = KVT_ROW_SUM_TOL;
    KVT_TRY_GOTO(st, rows_open_samples(&w, err));
    for (w.layer = 0; w.layer < info->n_layers; w.layer++) {
        kvt_err why = {0};

        w.l = &info->layer[w.layer];
        if (w.l->attn == KVT_ATTN_NONE) continue;
        n_recorded += w.l->recorded != 0;
        if (w.l->recorded || (w.l->has & needed) != needed ||
            !(info->layer[w.l->kv_layer].has & 1u << KVT_T_K))
            continue;
        st = rows_layer(&w, &why);
        if (st == KVT_ECHECK) {               /* an operand that is not finite: named, next layer */
            kvt__check_fail(&out->check[KVT_CHECK_ROW_SUMS], "layer %u cannot be recomputed: an operand is "
                            "NaN or infinite", w.layer);
        } else if (st < 0) {
            st = kvt_fail(err, st, "%s", why.text);
            goto done;
        }
    }
    st = KVT_OK;
    rows_conclude(&w, n_recorded);
done:
    free(w.q), free(w.lse), free(w.sinks), free(w.k), free(w.v), free(w.engine);
    free(w.tile), free(w.sum), free(w.o), free(w.slot), free(w.sample), free(w.sample_slot);
    kvt__h5_dataset_close(&w.attn_out);
    return st;
}
