/* ref_attention.c - one attention row in f64, term by term as FORMAT.md 1 writes it. */
#include "ref_attention.h"

#include <math.h>

int kvt_ref_visible(const kvt_layer_info *l, uint32_t p, uint32_t j)
{
    if (j > p) return 0;
    if (l->attn == KVT_ATTN_SLIDING) return p - j < l->window;
    if (l->attn == KVT_ATTN_CHUNKED) return j / l->window == p / l->window;
    return 1;
}

static double ref_logit(const kvt_layer_info *l, const float *q, const float *k)
{
    double x = 0.0;
    for (uint32_t c = 0; c < l->d_k; c++) x += (double)q[c] * (double)k[c];
    x *= l->scale;
    return l->softcap > 0.0 ? l->softcap * tanh(x / l->softcap) : x;
}

/* Without prob there is nowhere to keep the logits, so they are formed again for the sum:
 * the same bits either way, and the caller needs no buffer. */
double kvt_ref_row(const kvt_layer_info *l, uint32_t p, const float *q, const float *k,
                   float sink, const double *lse_in, double *prob)
{
    double top = l->has_sinks ? (double)sink : -INFINITY, sum = 0.0, lse, used;

    for (uint32_t j = 0; j <= p; j++) {
        double z;
        if (!kvt_ref_visible(l, p, j)) continue;
        z = ref_logit(l, q, k + (size_t)j * l->d_k);
        if (prob) prob[j] = z;
        if (z > top || isnan(z)) top = z;           /* a NaN operand must show in the result */
    }
    for (uint32_t j = 0; j <= p; j++)
        if (kvt_ref_visible(l, p, j))
            sum += exp((prob ? prob[j] : ref_logit(l, q, k + (size_t)j * l->d_k)) - top);
    if (l->has_sinks) sum += exp((double)sink - top);
    lse = top + log(sum);

    if (prob) {
        used = lse_in && !isnan(*lse_in) ? *lse_in : lse;
        for (uint32_t j = 0; j <= p; j++)
            prob[j] = kvt_ref_visible(l, p, j) ? exp(prob[j] - used) : 0.0;
    }
    return lse;
}

void kvt_ref_output(uint32_t p, uint32_t d_v, const double *prob, const float *v, double *out)
{
    for (uint32_t c = 0; c < d_v; c++) out[c] = 0.0;
    for (uint32_t j = 0; j <= p; j++)
        for (uint32_t c = 0; c < d_v; c++) out[c] += prob[j] * (double)v[(size_t)j * d_v + c];
}
