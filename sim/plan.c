/* plan.c - what can run on what, known before any work. */
#include "replay_impl.h"

#include <stdio.h>
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

uint32_t kvt__policy_window(const kvt_config *config, uint32_t n_prompt)
{
    kvt_job job = { .n_q_heads = 1, .n_kv_heads = 1, .n_caches = 1, .n = n_prompt, .keep_cache = 1, .keep_layer = 1, .param = config->param };
    kvt_setup setup = { .rank_over = config->policy->rank_over, .share_over = config->policy->share_over };

    if (config->policy->setup)
        config->policy->setup(&job, &setup);
    return setup.window;
}

kvt_status kvt_plan_check(const kvt_trace_info *info, const kvt_config *config, kvt_err *err)
{
    static const struct { uint32_t need; uint32_t tensor; const char *how; } list[] = {
        { KVT_NEED_WINDOW, KVT_T_Q, "capture with a window" },
        { KVT_NEED_COLSTAT, KVT_T_STAT_SUM, "capture the whole prompt in one run, with column statistics" },
        { KVT_NEED_NU, KVT_T_NU, "capture with the output projection (kvcap_set_wo)" },
    };
    const uint32_t window = kvt__policy_window(config, info->n_prompt);

    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        for (uint32_t l = 0; config->policy->needs & list[i].need && l < info->n_layers; l++)
            if (info->layer[l].attn == KVT_ATTN_FULL && !(info->layer[l].has & 1u << list[i].tensor))
                return kvt_fail(err, KVT_ENEED, "%s needs /layers/%03u/%s, which this trace lacks; %s", config->info.label, l,
                                kvt_tensor_path((kvt_tensor)list[i].tensor), list[i].how);
    /* A one-shot policy is not asked when the prompt fits its window; an online one is. */
    if (config->policy->needs & KVT_NEED_WINDOW && window > info->window
        && (info->n_prompt > window || config->policy->caps & KVT_POLICY_ONLINE))
        return kvt_fail(err, KVT_ENEED, "%s needs the queries of the last %u prompt tokens, this trace holds %u; capture with --window %u",
                        config->info.label, window, info->window, window);
    return KVT_OK;
}
