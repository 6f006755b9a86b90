/* trace_plan.c - which rows of an engine's own attention output a trace keeps
 * (FORMAT.md 9). The list grows with G only at its end, except for the last decode step
 * of each layer: a recorder that does not know G keeps that one in a slot that every
 * step overwrites. */
#include "kvt_trace.h"

typedef struct plan_list {
    int32_t *out;
    uint32_t n, cap;
} plan_list;

static void plan_add(plan_list *p, uint32_t layer, uint32_t head, uint32_t row)
{
    if (p->n < p->cap) {
        p->out[3 * (size_t)p->n] = (int32_t)layer;
        p->out[3 * (size_t)p->n + 1] = (int32_t)head;
        p->out[3 * (size_t)p->n + 2] = (int32_t)row;
    }
    p->n++;
}

/* The head of number n of a layer's sequence. */
static uint32_t plan_head(uint32_t layer, uint32_t n, uint32_t n_heads)
{
    return (7u * layer + 5u * n) % n_heads;
}

static void plan_layer(plan_list *p, uint32_t layer, uint32_t n_heads, uint32_t window, uint32_t n_decode)
{
    uint32_t n = 8, last_head, step, sampled_by = UINT32_MAX;

    for (uint32_t i = 0; i < 8 && window > 0; i++) {
        const uint32_t head = plan_head(layer, i, n_heads);
        int seen = 0;
        for (uint32_t j = 0; j < i; j++) seen |= plan_head(layer, j, n_heads) == head;
        if (!seen) plan_add(p, layer, head, window - 1);
    }
    if (n_decode == 0) return;
    for (step = 0; step < n_decode; step = 2 * step + 1, n++) {
        const uint32_t head = plan_head(layer, n, n_heads);
        plan_add(p, layer, head, window + step);
        if (step == n_decode - 1) sampled_by = head;
    }
    last_head = plan_head(layer, n, n_heads);
    if (last_head != sampled_by) plan_add(p, layer, last_head, window + n_decode - 1);
}

uint32_t kvt_sample_plan(const kvt_layer_info *layer, uint32_t n_layers, uint32_t window,
                         uint32_t n_decode, int32_t *out, uint32_t cap)
{
    plan_list p = { out, 0, cap };
    uint32_t m = 0, i = 0;

    for (uint32_t l = 0; l < n_layers; l++) m += layer[l].attn != KVT_ATTN_NONE;
    for (uint32_t l = 0; l < n_layers; l++) {
        if (layer[l].attn == KVT_ATTN_NONE) continue;
        if (m < 3 || i == 0 || i == m / 2 || i == m - 1)
            plan_layer(&p, l, layer[l].n_heads, window, n_decode);
        i++;
    }
    return p.n;
}
