/* The modes of EasyKV as events of the engine; see family_easykv.h. Counts repeat the
 * reference's arithmetic: the stride is added to the budget, and what stays after an
 * eviction is the largest number within it that differs from n by whole strides. */
#include "family_easykv.h"

/* Chunks of the prompt: b, idx, r0 and r of the reference. */
static void easykv_chunks(const kvt_job *job, kvt_easykv *e, uint32_t tokens, double recent_ratio)
{
    const int64_t n = job->n, stride = e->stride;
    int64_t b = tokens + stride, over;

    if (e->mode == KVT_EASYKV_ENCODING_DECODING && b >= n)
        b -= stride;
    over = (b - n) % stride;
    over += over < 0 ? stride : 0;
    e->budget = (uint32_t)b;
    e->size = (uint32_t)(b > over ? b - over : 0);
    if (e->mode == KVT_EASYKV_ENCODING)
        e->first = e->size > e->stride ? e->size - e->stride : 0;
    else
        e->first = e->size % e->stride ? e->size % e->stride : e->stride;
    e->recent = kvt_trunc((double)b * recent_ratio);
    e->recent_new = kvt_trunc((double)b * 0.3);
}

/* Lengths at which the reference fails, or would drop fewer entries than it should. */
static const char *easykv_infeasible(const kvt_job *job, const kvt_easykv *e, kvt_easykv_rule rule)
{
    const int cuts = e->size < job->n;

    if (e->mode == KVT_EASYKV_ENCODING_DECODING && rule == KVT_EASYKV_H2O)
        return "h2o is not defined for mode=encoding_decoding";
    if (e->mode == KVT_EASYKV_ENCODING_DECODING && job->keep_cache > job->n)
        return "a budget above the prompt needs mode=auto";
    if (e->mode == KVT_EASYKV_ENCODING ? e->size < e->stride : e->size <= 1)
        return "the budget is too small for the stride";
    if (rule == KVT_EASYKV_RECENCY && e->size < e->sinks)
        return "the budget must hold the sinks";
    if (cuts && (rule == KVT_EASYKV_H2O || rule == KVT_EASYKV_TOVA)) {
        if (e->recent < 1)
            return "recent_ratio gives less than one recent token";
        if (e->size < (uint64_t)e->sinks + e->recent)
            return "the budget must hold the sinks and the recent tokens";
    }
    return NULL;
}

kvt_easykv kvt_easykv_plan(const kvt_job *job, uint32_t at, kvt_easykv_rule rule)
{
    const double *p = job->param + at;
    const uint32_t copies = job->n_caches / job->n_kv_heads, prompt = (uint32_t)p[KVT_EASYKV_P_PROMPT];
    const kvt_easykv_mode mode = (kvt_easykv_mode)(int)p[KVT_EASYKV_P_MODE];
    kvt_easykv e = { .mode = mode, .prompt = prompt ? prompt : job->n, .stride = (uint32_t)p[KVT_EASYKV_P_STRIDE],
                     .sinks = (uint32_t)p[KVT_EASYKV_P_SINKS], .keep_attention = p[KVT_EASYKV_P_KEEP] > 0 };
    /* The reference reads a share as trunc(n share): no detour over 1 - share. */
    const uint32_t tokens = job->rule == KVT_RULE_REFERENCE && !job->in_tokens
        ? kvt_trunc((double)job->n * job->share / copies) : job->keep_cache;

    if (prompt && mode != KVT_EASYKV_DECODING)
        e.refuse = "prompt= belongs to mode=decoding";
    else if (prompt > job->n)
        e.refuse = "prompt= exceeds the prompt of the trace";
    else if (mode != KVT_EASYKV_ENCODING && mode != KVT_EASYKV_PPL && !job->in_tokens)
        e.refuse = "this mode takes its budget in tokens, as in 200t";
    if (mode == KVT_EASYKV_AUTO)
        e.mode = job->in_tokens && tokens > job->n ? KVT_EASYKV_DECODING : KVT_EASYKV_ENCODING_DECODING;
    if (e.mode == KVT_EASYKV_DECODING) {
        e.budget = e.size = mode == KVT_EASYKV_AUTO ? tokens - job->n : tokens;
        e.recent_new = kvt_trunc(e.budget * 0.3);
        return e;
    }
    e.keep_all = e.mode != KVT_EASYKV_ENCODING_DECODING && tokens >= job->n;
    if (!e.keep_all) {
        easykv_chunks(job, &e, tokens, p[KVT_EASYKV_P_RECENT]);
        if (!e.refuse)
            e.refuse = easykv_infeasible(job, &e, rule);
    }
    return e;
}

void kvt_easykv_setup(const kvt_job *job, uint32_t at, kvt_easykv_rule rule, kvt_setup *out)
{
    const kvt_easykv e = kvt_easykv_plan(job, at, rule);
    const int encodes = e.mode == KVT_EASYKV_ENCODING || e.mode == KVT_EASYKV_PPL;
    const int chunks = e.mode != KVT_EASYKV_DECODING && !e.keep_all, early = e.mode == KVT_EASYKV_DECODING && e.prompt < job->n;

    out->caps &= ~(uint32_t)KVT_POLICY_ONESHOT;
    out->needs = chunks || early ? KVT_NEED_PROMPT : 0;
    out->caches = KVT_CACHES_KV;
    out->share_over = rule == KVT_EASYKV_RANDOM || rule == KVT_EASYKV_RECENCY || (rule == KVT_EASYKV_TOVA && encodes)
        ? KVT_SPAN_LAYER : KVT_SPAN_CACHE;
    out->first = KVT_FIRST_LEAVES;
    out->keep_all = e.keep_all;
    out->overshoots = 1;
    out->refuse = e.refuse;
    out->capacity = encodes ? KVT_NO_LIMIT : e.size;
    if (e.keep_all)
        out->flags |= KVT_FLAG_KEPT_ALL;
    if (chunks) {
        out->prompt_stride = e.stride;
        out->prompt_first = e.first;
        out->prompt_capacity = e.size;
        /* Only sums remember earlier rows. */
        out->quiet = !e.keep_attention || (rule != KVT_EASYKV_H2O && rule != KVT_EASYKV_ROCO);
    }
    if (e.mode == KVT_EASYKV_DECODING) {
        out->exempt = out->steps_from = e.prompt;
        if (early) {
            out->prompt_stride = 1;
            out->prompt_first = e.prompt;
            out->prompt_capacity = e.size;
        }
    }
}
