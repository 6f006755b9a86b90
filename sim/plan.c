/* plan.c - what can run on what, known before any work. */
#include "replay_impl.h"

#include <string.h>

kvt_status kvt_plan_check_trace(const kvt_source *src, kvt_err *err)
{
    const kvt_trace_info *info = src->info;
    uint32_t n_full = 0;

    if (!info->complete)
        return kvt_fail(err, KVT_EFORMAT, "%s: incomplete: its writer died or still runs; only `kvtrace info` reads it", src->path);
    if (info->n_decode == 0)
        return kvt_fail(err, KVT_ENEED, "%s: no decode steps; capture with --max-new-tokens of at least 2", src->path);
    for (uint32_t l = 0; l < info->n_layers; l++) {
        const kvt_layer_info *x = &info->layer[l];
        const uint32_t want = 1u << KVT_T_K | 1u << KVT_T_Q | 1u << KVT_T_LSE;
        if (x->attn != KVT_ATTN_FULL)
            continue;
        n_full++;
        if (x->kv_layer != l)
            return kvt_fail(err, KVT_ENOTSUP, "%s: /layers/%03u: attends to the cache of layer %u; replay of shared caches is not supported",
                            src->path, l, x->kv_layer);
        if (x->recorded)
            return kvt_fail(err, KVT_ENOTSUP, "%s: /layers/%03u: score = recorded; replay of recorded rows is not supported", src->path, l);
        if ((x->has & want) != want)
            return kvt_fail(err, KVT_ENEED, "%s: /layers/%03u: k, q and lse are needed for replay", src->path, l);
    }
    if (n_full == 0)
        return kvt_fail(err, KVT_ENEED, "%s: no layer with attn_type = full: nothing here can be evicted", src->path);
    return KVT_OK;
}

kvt_status kvt_plan_check_values(const kvt_source *src, kvt_err *err)
{
    for (uint32_t l = 0; l < src->info->n_layers; l++)
        if (src->info->layer[l].attn == KVT_ATTN_FULL && !(src->info->layer[l].has & 1u << KVT_T_V))
            return kvt_fail(err, KVT_ENEED, "%s: the output error needs /layers/%03u/v, which this trace lacks; capture with values",
                            src->path, l);
    return KVT_OK;
}

void kvt__job(const kvt_config *config, const kvt_budget *budget, const kvt_trace_info *info, uint32_t layer, uint64_t key,
              kvt_job *job)
{
    const kvt_layer_info *x = &info->layer[layer];
    uint32_t n_kv = 0;
    int uniform = 1;

    memset(job, 0, sizeof *job);
    for (uint32_t l = 0; l < info->n_layers; l++) {
        if (info->layer[l].attn != KVT_ATTN_FULL)
            continue;
        job->n_layers++;
        n_kv += info->layer[l].n_kv_heads;
        uniform &= info->layer[l].n_kv_heads == x->n_kv_heads;
    }
    job->n_q_heads = x->n_heads;
    job->n_kv_heads = x->n_kv_heads;
    job->n_caches = config->caches == KVT_CACHES_QUERY ? x->n_heads : x->n_kv_heads;
    job->head_dim = x->d_k, job->value_dim = x->d_v;
    job->n = info->n_prompt;
    job->n_new = info->n_decode;
    job->scale = x->scale;
    job->rule = budget->rule;
    job->ties = config->ties;
    job->key = key;
    job->param = config->param;
    job->self = config->policy->self;
    kvt_budget_counts(budget, n_kv, uniform, job);
}

void kvt__setup(const kvt_policy *policy, const kvt_job *job, kvt_setup *out)
{
    memset(out, 0, sizeof *out);
    out->caps = policy->caps;
    out->needs = policy->needs;
    out->caches = policy->caches;
    out->rank_over = policy->rank_over;
    out->share_over = policy->share_over;
    out->keep_all = -1;
    out->capacity = policy->caps & KVT_POLICY_ONLINE ? job->keep_cache : KVT_NO_LIMIT;
    out->steps_from = job->n;
    if (policy->setup)
        policy->setup(job, out);
}

int kvt__keeps_all(const kvt_job *job, const kvt_setup *setup)
{
    if (setup->keep_all >= 0)
        return setup->keep_all;
    return job->keep_cache >= job->n || (setup->window > 0 && job->n <= setup->window);
}

int kvt__reads_window(const kvt_policy *policy, const kvt_job *job, const kvt_setup *setup)
{
    return !kvt__keeps_all(job, setup) || (setup->caps & KVT_POLICY_ONLINE && policy->begin);
}

/* Why a policy is not defined at this budget, and the smallest budget at which it is; a
 * larger one is taken to be feasible too. */
static kvt_status plan_refuse(const kvt_config *config, const kvt_job *job, const char *label, const char *why, kvt_err *err)
{
    const uint32_t copies = job->n_caches / job->n_kv_heads;
    uint32_t lo = 1, hi = job->n + job->n_new;  /* the answer, if any, is in lo..hi */
    kvt_job probe = *job;
    kvt_setup setup;

    probe.in_tokens = 1;
    while (lo <= hi && hi > 0) {
        const uint32_t mid = lo + (hi - lo) / 2;
        probe.tokens = probe.keep_cache = mid;
        probe.keep_layer = (uint64_t)mid * job->n_caches;
        probe.keep_model = probe.keep_layer * job->n_layers;
        probe.share = (double)mid * copies / job->n;
        kvt__setup(config->policy, &probe, &setup);
        if (setup.refuse)
            lo = mid + 1;
        else
            hi = mid - 1;
    }
    if (lo > job->n + job->n_new)
        return kvt_fail(err, KVT_EARG, "%s at budget %s: %s; no budget works for a prompt of %u tokens", config->info.label, label, why, job->n);
    if ((uint64_t)lo * copies > job->n)          /* no share says that */
        return kvt_fail(err, KVT_EARG, "%s at budget %s: %s; the smallest budget that works here is %ut", config->info.label, label, why, lo);
    return kvt_fail(err, KVT_EARG, "%s at budget %s: %s; the smallest budget that works here is %ut (a share of %.4g)",
                    config->info.label, label, why, lo, (double)lo * copies / job->n);
}

static kvt_status plan_check_needs(const kvt_trace_info *info, const kvt_config *config, const kvt_setup *setup, int keeps_all, uint32_t layer, kvt_err *err)
{
    static const struct { uint32_t need; uint32_t tensor; const char *how; } list[] = {
        { KVT_NEED_WINDOW, KVT_T_Q, "capture with a window" },
        { KVT_NEED_COLSTAT, KVT_T_STAT_SUM, "capture the whole prompt in one run, with column statistics" },
        { KVT_NEED_NU, KVT_T_NU, "capture with the output projection (kvcap_set_wo)" },
        { KVT_NEED_VALUES, KVT_T_V, "capture with values" },
    };

    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (setup->needs & list[i].need && !(info->layer[layer].has & 1u << list[i].tensor))
            return kvt_fail(err, KVT_ENEED, "%s needs /layers/%03u/%s, which this trace lacks; %s", config->info.label, layer,
                            kvt_tensor_path((kvt_tensor)list[i].tensor), list[i].how);
    if (setup->needs & KVT_NEED_PROMPT && info->window < info->n_prompt)
        return kvt_fail(err, KVT_ENEED, "%s needs the queries of the whole prompt (%u tokens), this trace holds the last %u; "
                        "capture with --window %u", config->info.label, info->n_prompt, info->window, info->n_prompt);
    /* A policy is not asked when everything stays anyway. */
    if (setup->needs & KVT_NEED_WINDOW && setup->window > info->window && !keeps_all)
        return kvt_fail(err, KVT_ENEED, "%s needs the queries of the last %u prompt tokens, this trace holds %u; capture with --window %u",
                        config->info.label, setup->window, info->window, setup->window);
    return KVT_OK;
}

/* Layers can differ in heads. What a policy does must not: the engine decides once for all
 * whether a cell acts in the prompt, while generating, or needs every layer. */
static kvt_status plan_check_layers(const kvt_trace_info *info, const kvt_config *config, const kvt_budget *budget, uint32_t layer,
                                    const kvt_job *a, const kvt_setup *x, kvt_err *err)
{
    const int whole = x->caps & KVT_POLICY_ONESHOT && (config->policy->allot || x->rank_over == KVT_SPAN_MODEL);

    for (uint32_t l = layer + 1; l < info->n_layers; l++) {
        kvt_job b;
        kvt_setup y;

        if (info->layer[l].attn != KVT_ATTN_FULL)
            continue;
        kvt__job(config, budget, info, l, 0, &b);
        kvt__setup(config->policy, &b, &y);
        if (x->caps != y.caps || x->rank_over != y.rank_over || (x->prompt_stride > 0) != (y.prompt_stride > 0)
            || (x->capacity == KVT_NO_LIMIT) != (y.capacity == KVT_NO_LIMIT)
            || (whole && kvt__keeps_all(a, x) != kvt__keeps_all(&b, &y)))
            return kvt_fail(err, KVT_ENOTSUP, "%s at budget %s: layers %u and %u have different heads and would be treated differently; "
                            "not supported", config->info.label, budget->info.label, layer, l);
        if (whole && config->policy->allot && !kvt__keeps_all(a, x) && a->n_caches != b.n_caches)
            return kvt_fail(err, KVT_ENOTSUP, "%s at budget %s: shares its budget among layers, and layers %u and %u have %u and %u caches; "
                            "not supported", config->info.label, budget->info.label, layer, l, a->n_caches, b.n_caches);
    }
    return KVT_OK;
}

kvt_status kvt_plan_check(const kvt_trace_info *info, const kvt_config *config, const kvt_budget *budget, kvt_err *err)
{
    int first = 1;

    for (uint32_t l = 0; l < info->n_layers; l++) {
        kvt_job job;
        kvt_setup setup;

        if (info->layer[l].attn != KVT_ATTN_FULL)
            continue;
        kvt__job(config, budget, info, l, 0, &job);
        kvt__setup(config->policy, &job, &setup);
        if (setup.refuse)
            return plan_refuse(config, &job, budget->info.label, setup.refuse, err);
        if (first)
            KVT_TRY(plan_check_layers(info, config, budget, l, &job, &setup, err));
        first = 0;
        KVT_TRY(plan_check_needs(info, config, &setup, !kvt__reads_window(config->policy, &job, &setup), l, err));
    }
    return KVT_OK;
}
