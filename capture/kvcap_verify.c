/* kvcap_verify.c - the acceptance test of a capture: for a few rows the attention output
 * is recomputed in f64 from what was stored and compared with the engine's own.
 *
 * Which rows: FORMAT.md 9. G is unknown while recording, so each sampled layer keeps the
 * rows of decode steps 0, 1, 3, 7 ... and one slot that every step overwrites; at the end
 * kvt_sample_plan() says which of them the file must hold. */
#include "kvcap_impl.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "ref_attention.h"

int kvcap__probes_start(kvcap *cap)
{
    uint32_t m = 0, i = 0;

    for (uint32_t l = 0; l < cap->n_layers; l++) m += cap->layer[l].info.attn != KVT_ATTN_NONE;
    for (uint32_t l = 0; l < cap->n_layers; l++) {
        kvcap_layer_state *ls = &cap->layer[l];
        if (ls->info.attn == KVT_ATTN_NONE) continue;
        if (m < 3 || i == 0 || i == m / 2 || i == m - 1) {
            ls->probes = calloc(1, sizeof *ls->probes);
            if (!ls->probes) return kvcap__no_memory(cap);
            ls->probes->item = calloc(KVCAP_MAX_PROBES, sizeof *ls->probes->item);
            ls->probes->value = calloc(ls->info.n_kv_heads, sizeof *ls->probes->value);
            if (!ls->probes->item || !ls->probes->value) return kvcap__no_memory(cap);
        }
        i++;
    }
    return KVCAP_OK;
}

void kvcap__probes_free(kvcap_layer_state *ls)
{
    if (!ls->probes) return;
    for (uint32_t i = 0; i < KVCAP_MAX_PROBES && ls->probes->item; i++) {
        free(ls->probes->item[i].q);
        free(ls->probes->item[i].out);
    }
    for (uint32_t g = 0; g < ls->info.n_kv_heads && ls->probes->value; g++) free(ls->probes->value[g]);
    free(ls->probes->item);
    free(ls->probes->value);
    free(ls->probes);
    ls->probes = NULL;
}

int kvcap__probe_values(kvcap *cap, const kvcap_call *call)
{
    kvcap_layer_state *ls = call->ls;
    kvcap_probes *pr = ls->probes;
    const uint32_t d_v = ls->info.d_v;
    const size_t need = (size_t)call->token0 + call->n;

    if (!pr) return KVCAP_OK;
    if (need > pr->cap) {
        const size_t more = need + need / 4 + KVCAP_BLOCK;
        for (uint32_t g = 0; g < ls->info.n_kv_heads; g++) {
            float *value = kvcap__grow(pr->value[g], more, d_v * sizeof *value);
            if (!value) return kvcap__no_memory(cap);
            pr->value[g] = value;
        }
        pr->cap = more;
    }
    for (uint32_t g = 0; g < ls->info.n_kv_heads; g++)
        for (uint32_t t = 0; t < call->n; t++)
            kvcap__row_f32(&call->v, t, g, d_v, pr->value[g] + ((size_t)call->token0 + t) * d_v);
    return KVCAP_OK;
}

static int probe_keep(kvcap *cap, const kvcap_call *call, kvcap_probe *to, uint32_t head, uint32_t t)
{
    const kvt_layer_info *info = &call->ls->info;

    if (!to->q) {
        to->q = malloc(info->d_k * sizeof *to->q);
        to->out = malloc(info->d_v * sizeof *to->out);
        if (!to->q || !to->out) return kvcap__no_memory(cap);
    }
    to->head = head;
    to->token = call->token0 + t;
    to->row = (uint32_t)(to->token - (int64_t)cap->n_prompt + cap->window);
    to->lse =
        call->lse.data ? ((const float *)call->lse.data)[t * call->lse.stride[0] + head * call->lse.stride[1]] : NAN;
    kvcap__row_f32(&call->q, t, head, info->d_k, to->q);
    kvcap__row_f32(&call->out, t, head, info->d_v, to->out);
    return KVCAP_OK;
}

/* Number n of a layer's sequence of sampled heads. */
static uint32_t probe_head(uint32_t layer, uint32_t n, uint32_t n_heads)
{
    return (7u * layer + 5u * n) % n_heads;
}

int kvcap__probe_row(kvcap *cap, const kvcap_call *call, uint32_t head, uint32_t t)
{
    kvcap_probes *pr = call->ls->probes;
    const uint32_t n_heads = call->ls->info.n_heads;
    const int64_t step = call->token0 + t - (int64_t)cap->n_prompt;
    uint32_t n = 8;
    int64_t s = 0;
    int rc = KVCAP_OK;

    if (!pr || !call->out.data || step < -1) return KVCAP_OK;
    if (step == -1) { /* last prompt row */
        for (uint32_t i = 0; i < 8; i++)
            if (probe_head(call->layer, i, n_heads) == head) return probe_keep(cap, call, &pr->item[pr->n++], head, t);
        return KVCAP_OK;
    }
    for (; s < step; s = 2 * s + 1) n++;
    if (s == step) { /* 0, 1, 3, 7 ... */
        if (probe_head(call->layer, n, n_heads) == head) rc = probe_keep(cap, call, &pr->item[pr->n++], head, t);
        n++;
    }
    if (rc == KVCAP_OK && probe_head(call->layer, n, n_heads) == head)
        rc = probe_keep(cap, call, &pr->item[KVCAP_MAX_PROBES - 1], head, t); /* perhaps the last step */
    return rc;
}

static const kvcap_probe *probe_find(const kvcap_probes *pr, uint32_t head, uint32_t row)
{
    for (uint32_t i = 0; i < KVCAP_MAX_PROBES; i++)
        if (pr->item[i].q && pr->item[i].head == head && pr->item[i].row == row) return &pr->item[i];
    return NULL;
}

static double probe_tolerance(const kvt_layer_info *info)
{
    if (info->k_type == KVT_BF16 || info->v_type == KVT_BF16 || info->q_type == KVT_BF16) return 2e-2;
    if (info->k_type == KVT_F16 || info->v_type == KVT_F16 || info->q_type == KVT_F16) return 5e-3;
    return 1e-5;
}

/* Largest difference and largest output of one sample; ws: d_k (token + 1) floats for the
 * keys, token + 1 + d_v doubles. */
static void probe_compare(const kvcap_layer_state *ls, const kvcap_probe *pr, float *key, double *prob, double *out,
                          double *diff, double *scale)
{
    const uint32_t g = pr->head / (ls->info.n_heads / ls->info.n_kv_heads), p = (uint32_t)pr->token;
    const uint32_t d_k = ls->info.d_k;

    for (size_t j = 0; j <= p; j++) {
        const float *panel = ls->panel[g] + j / KVCAP_LANES * d_k * KVCAP_LANES + j % KVCAP_LANES;
        for (uint32_t c = 0; c < d_k; c++) key[j * d_k + c] = panel[(size_t)c * KVCAP_LANES];
    }
    (void)kvt_ref_row(&ls->info, p, pr->q, key, ls->sinks ? ls->sinks[pr->head] : 0.0f, NULL, prob);
    kvt_ref_output(p, ls->info.d_v, prob, ls->probes->value[g], out);
    for (uint32_t c = 0; c < ls->info.d_v; c++) {
        const double d = fabs(out[c] - (double)pr->out[c]), o = fabs((double)pr->out[c]);
        if (!(d <= *diff)) *diff = d; /* a NaN stays */
        if (!(o <= *scale)) *scale = o;
        if (isnan(*diff) || isnan(*scale)) return;
    }
}

static int verdict_samples(kvcap *cap, kvcap_verdict *v, const int32_t *plan, uint32_t n_plan, size_t n_tokens,
                           size_t max_dk)
{
    float *key = kvcap__grow(NULL, n_tokens * max_dk, sizeof *key);
    double *prob = kvcap__grow(NULL, n_tokens, sizeof *prob), *out = kvcap__grow(NULL, v->width, sizeof *out);
    double diff = 0.0, scale = 0.0;
    int any_lse = 0, rc = KVCAP_OK;

    if (!key || !prob || !out) rc = kvcap__no_memory(cap);
    for (uint32_t i = 0; i < n_plan && rc == KVCAP_OK; i++) {
        const int32_t *at = plan + 3 * (size_t)i;
        const kvcap_layer_state *ls = &cap->layer[at[0]];
        const kvcap_probe *pr = probe_find(ls->probes, (uint32_t)at[1], (uint32_t)at[2]);

        if (!pr) continue; /* that call brought no output */
        memcpy(v->index + 3 * (size_t)v->n_samples, at, 3 * sizeof *at);
        memcpy(v->out + (size_t)v->n_samples * v->width, pr->out, ls->info.d_v * sizeof *pr->out);
        v->lse[v->n_samples++] = pr->lse;
        any_lse |= !isnan(pr->lse);
        if (probe_tolerance(&ls->info) > v->tol) v->tol = probe_tolerance(&ls->info);
        if (!isnan(diff) && !isnan(scale)) probe_compare(ls, pr, key, prob, out, &diff, &scale);
    }
    if (rc == KVCAP_OK) {
        const double err = scale > 0.0 ? diff / scale : diff;
        v->max_err = isfinite(err) ? err : DBL_MAX; /* attributes of a trace are finite */
        v->passed = v->n_samples > 0 && v->max_err <= v->tol;
        if (!any_lse) {
            free(v->lse);
            v->lse = NULL;
        }
    }
    free(key);
    free(prob);
    free(out);
    return rc;
}

int kvcap__verdict(kvcap *cap, uint32_t n_decode, kvcap_verdict *v)
{
    kvt_layer_info *info = kvcap__grow(NULL, cap->n_layers, sizeof *info);
    int32_t *plan = NULL;
    size_t max_dk = 1;
    uint32_t n_plan;
    int rc = KVCAP_OK;

    *v = (kvcap_verdict){.width = 1, .tol = 1e-5};
    if (!info) return kvcap__no_memory(cap);
    for (uint32_t l = 0; l < cap->n_layers; l++) {
        info[l] = cap->layer[l].info;
        if (info[l].d_v > v->width) v->width = info[l].d_v;
        if (info[l].d_k > max_dk) max_dk = info[l].d_k;
    }
    n_plan = kvt_sample_plan(info, cap->n_layers, cap->window, n_decode, NULL, 0);
    plan = kvcap__grow(NULL, (size_t)n_plan + 1, 3 * sizeof *plan);
    v->index = kvcap__grow(NULL, (size_t)n_plan + 1, 3 * sizeof *v->index);
    v->out = calloc((size_t)n_plan + 1, v->width * sizeof *v->out);
    v->lse = kvcap__grow(NULL, (size_t)n_plan + 1, sizeof *v->lse);
    if (!plan || !v->index || !v->out || !v->lse) {
        rc = kvcap__no_memory(cap);
    } else {
        (void)kvt_sample_plan(info, cap->n_layers, cap->window, n_decode, plan, n_plan);
        rc = verdict_samples(cap, v, plan, n_plan, (size_t)cap->n_prompt + n_decode, max_dk);
    }
    free(info);
    free(plan);
    return rc;
}

void kvcap__verdict_free(kvcap_verdict *v)
{
    free(v->index);
    free(v->out);
    free(v->lse);
}
