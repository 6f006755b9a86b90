/* fake_results.h - made-up cells and results for tests of the results database.
 *
 * One model of three layers: 0 full (4 query heads, 2 KV heads), 1 sliding, 2 none. Values
 * are a pure function of (trace, configuration, budget, seed), keep every invariant of
 * the schema and every cell has at least one violation. Not thread safe. */
#ifndef KVT_FAKE_RESULTS_H
#define KVT_FAKE_RESULTS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_philox.h"
#include "kvt_policy.h"
#include "kvt_result.h"
#include "kvt_sha256.h"

enum { FAKE_HEADS = 4, FAKE_KV = 2, FAKE_PROMPT = 40, FAKE_STEPS = 12, FAKE_TOKENS = FAKE_PROMPT + FAKE_STEPS };
enum { FAKE_CONFIGS = 4, FAKE_BUDGETS = 2 };

typedef struct fake_trace {
    kvt_trace_info info;
    kvt_layer_info layer[3];
    kvt_pair       provenance[3];
    int32_t        token[FAKE_TOKENS];
    uint8_t        text[2 * FAKE_TOKENS];
    int64_t        offset[FAKE_TOKENS + 1];
    int64_t        begin[2], end[2];
    int32_t        kind[2];
    char           content_id[65], cluster[32], path[64];
} fake_trace;

static inline void fake_hex(char out[65], const char *text)
{
    uint8_t digest[32];
    kvt_sha256_of(text, strlen(text), digest);
    kvt_sha256_hex(digest, out);
}

/* Trace number `id`; every second one shares its cluster with the one before. */
static inline void fake_trace_init(fake_trace *t, int id)
{
    char text[32];

    memset(t, 0, sizeof *t);
    snprintf(text, sizeof text, "trace %d", id);
    fake_hex(t->content_id, text);
    snprintf(t->cluster, sizeof t->cluster, "document-%d", id / 2);
    snprintf(t->path, sizeof t->path, "some/folder/t%d.h5", id);
    t->layer[0] = (kvt_layer_info){.has = 1u << KVT_T_K | 1u << KVT_T_V | 1u << KVT_T_Q, .attn = KVT_ATTN_FULL,
        .n_heads = FAKE_HEADS, .n_kv_heads = FAKE_KV, .d_k = 8, .d_v = 8, .k_type = KVT_F16, .v_type = KVT_F16,
        .q_type = KVT_BF16};
    t->layer[1] = t->layer[0];
    t->layer[1].attn = KVT_ATTN_SLIDING;
    t->layer[1].window = 16;
    t->layer[2].attn = KVT_ATTN_NONE;
    t->provenance[0] = (kvt_pair){"engine", "transformers"};
    t->provenance[1] = (kvt_pair){"model_name", "fake-1b"};
    t->provenance[2] = (kvt_pair){"corpus", "letters"};
    for (int i = 0; i <= FAKE_TOKENS; i++) {
        if (i < FAKE_TOKENS) t->token[i] = 1000 + i;
        t->offset[i] = 2 * i;
    }
    for (int i = 0; i < 2 * FAKE_TOKENS; i++) t->text[i] = (uint8_t)('a' + i % 26);
    t->offset[1] = 0;                             /* token 0 is empty, token 1 has four bytes */
    t->begin[0] = 0, t->end[0] = FAKE_PROMPT, t->kind[0] = 2;
    t->begin[1] = 4, t->end[1] = 20, t->kind[1] = 5;
    t->info = (kvt_trace_info){.format = {1, 0, 0}, .complete = 1, .created = "", .writer = "", .uuid = "",
        .content_id = t->content_id, .exactness = "rounded", .cluster_id = t->cluster, .sample_id = "", .n_layers = 3,
        .n_prompt = FAKE_PROMPT, .n_decode = FAKE_STEPS, .n_tokens = FAKE_TOKENS, .window = 8,
        .question_start = FAKE_PROMPT, .token_id = t->token, .text = t->text, .text_offset = t->offset, .n_spans = 2,
        .span_begin = t->begin, .span_end = t->end, .span_kind = t->kind, .n_provenance = 3,
        .provenance = t->provenance, .file_bytes = 123456, .layer = t->layer};
}

/* Configuration 0 full, 1 a policy, 2 random, 3 oracle. */
static inline const kvt_config_info *fake_config(int i)
{
    static const kvt_param_value param[2] = {{"kernel", NULL, 7}, {"pooling", "avg", NAN}};
    static const char *const id[FAKE_CONFIGS] = {"full", "snapkv", "random", "oracle_step"};
    static const char *const role[FAKE_CONFIGS] = {"baseline", "policy", "baseline", "oracle"};
    static const char *const timing[FAKE_CONFIGS] = {"none", "prefill", "prefill", "hindsight"};
    static kvt_config_info info[FAKE_CONFIGS];
    static char json[FAKE_CONFIGS][64];

    snprintf(json[i], sizeof json[i], "{\"id\":\"%s\",\"version\":1}", id[i]);
    info[i] = (kvt_config_info){.policy_id = id[i], .title = id[i], .cite = "arXiv", .policy_version = 1, .role = role[i],
        .timing = timing[i], .budgeted = "prompt", .fixed_set = 1, .nested = 1, .query_aware = i == 1, .semantics = "same",
        .label = id[i], .canonical_json = json[i], .param = param, .n_param = i == 1 ? 2 : 0};
    fake_hex(info[i].sha256, json[i]);
    return &info[i];
}

static inline const kvt_budget_info *fake_budget(int i)
{
    static const kvt_budget_info budget[FAKE_BUDGETS] = {{"share", 0.2, "share", "0.2"}, {"share", 0.5, "share", "0.5"}};
    return &budget[i];
}

static inline kvt_cell fake_cell(const fake_trace *t, int config, int budget, uint64_t seed)
{
    kvt_cell c = {.trace = &t->info, .trace_path = t->path, .config = fake_config(config), .budget = fake_budget(budget),
                  .seed = seed, .requested_tokens = fake_budget(budget)->value * FAKE_PROMPT};
    kvt_cell_key(&c);
    return c;
}

typedef struct fake_result {
    kvt_result        r;
    kvt_head_result   head[FAKE_HEADS];
    kvt_kvhead_result kvhead[2 * FAKE_KV];
    kvt_layer_result  layer[1];
    kvt_tau_result    tau[3 * FAKE_HEADS];
    kvt_violation     violation[FAKE_HEADS];
    kvt_responsible   responsible[2];
    kvt_series        series[FAKE_HEADS];
    kvt_check         check[2];
    uint32_t          q31[FAKE_HEADS][FAKE_STEPS];
} fake_result;

/* Reproducible number in [0, 1). */
static inline double fake_uniform(const kvt_cell *c, uint32_t index)
{
    uint32_t key[2] = {(uint32_t)c->seed, 0}, counter[4] = {index, 0, 0, 0}, out[4];
    memcpy(&key[1], c->key_sha256, 4);
    memcpy(&counter[1], c->key_sha256 + 8, 8);
    kvt_philox4x32(counter, key, out);
    return out[0] / 4294967296.0;
}

static inline void fake_head_fill(fake_result *f, const kvt_cell *c, uint32_t h, double max)
{
    kvt_head_result *x = &f->head[h];
    const double part = fake_uniform(c, 100 + h);

    *x = (kvt_head_result){.layer = 0, .head = h, .n_step = FAKE_STEPS, .n_held = f->r.held_min, .lost_max = max,
        .max_step = h, .lost_mean = 0.5 * max * part, .lost_q50 = 0.4 * max, .lost_q90 = 0.8 * max, .lost_q95 = max,
        .lost_q99 = max, .lost_cvar95 = max, .lost_cvar99 = max, .ns_n = h == 3 ? 0 : FAKE_STEPS, .ns_max_step = h,
        .lost_ns_mean = h == 3 ? NAN : 0.6 * max * part, .lost_ns_max = h == 3 ? NAN : max,
        .lost_ns_q95 = h == 3 ? NAN : max, .lost_ns_cvar95 = h == 3 ? NAN : max, .lost_prompt_mean = 0.5 * max * part,
        .lost_prompt_max = max, .err_n = 0, .out_err_mean = NAN, .out_err_max = NAN, .out_err_q95 = NAN,
        .out_err_cvar95 = NAN, .value_sep_mean = NAN, .oracle_mean = 0.25 * max * part, .oracle_max = 0.5 * max,
        .fixed_mean = h ? 0.3 * max * part : NAN, .fixed_max = h ? 0.6 * max : NAN, .regret_mean = 0.25 * max * part,
        .regret_max = 0.5 * max};
    for (uint32_t k = 0; k < 3; k++) {
        static const double tau[3] = {0.5, 0.25, 0.1};
        const uint32_t n = max > tau[k];
        f->tau[3 * h + k] = (kvt_tau_result){.layer = 0, .head = h, .tau = k, .n_exceed = n, .n_run = n, .longest_run = n,
            .longest_start = h, .first_step = h, .excess_area = n ? max - tau[k] : 0};
    }
    for (uint32_t t = 0; t < FAKE_STEPS; t++) f->q31[h][t] = t == h ? (uint32_t)(max * 2147483648.0) : 7 * t;
    f->series[h] = (kvt_series){0, h, "lost", 0, FAKE_STEPS, f->q31[h]};
}

static inline void fake_fill(fake_result *f, const kvt_cell *c)
{
    const int full = strcmp(c->config->policy_id, "full") == 0;
    const uint32_t held = full ? FAKE_PROMPT : (uint32_t)c->requested_tokens;

    memset(f, 0, sizeof *f);
    f->r = (kvt_result){.n_head_total = FAKE_HEADS, .held_share = (double)held / FAKE_PROMPT, .held_mean = held,
        .held_min = held, .held_max = held, .bytes_logical = 64u * held, .bytes_physical = 64u * held,
        .row_defect_max = 1e-7, .out_err_basis = "none", .out_err_worst = NAN, .wall_s = 0.25, .head = f->head,
        .n_head = FAKE_HEADS, .kvhead = f->kvhead, .n_kvhead = 2 * FAKE_KV, .layer = f->layer, .n_layer = 1,
        .tau = f->tau, .n_tau = 3 * FAKE_HEADS, .violation = f->violation, .series = f->series,
        .n_series = FAKE_HEADS, .check = f->check, .n_check = 2};
    f->responsible[0] = (kvt_responsible){1, 0.75, -1, 30, 0.125, 0.5, -2, -1};
    f->responsible[1] = (kvt_responsible){9, 0.25, 3, 0, NAN, NAN, -1, 2};
    for (uint32_t h = 0; h < FAKE_HEADS; h++) {
        const double max = full ? 0 : 0.15 + 0.8 * fake_uniform(c, h);
        fake_head_fill(f, c, h, max);
        f->r.lost_mean += f->head[h].lost_mean / FAKE_HEADS;
        f->r.cvar95_mean += max / FAKE_HEADS;
        f->r.regret_mean += f->head[h].regret_mean / FAKE_HEADS;
        f->r.oracle_worst = fmax(f->r.oracle_worst, 0.5 * max);
        if (h != 3) f->r.lost_ns_worst = f->r.ns_cvar95_worst = fmax(f->r.lost_ns_worst, max);
        if (max > f->r.lost_worst) f->r.lost_worst = max, f->r.worst_head = f->r.worst_step = h;
        if (!full)
            f->violation[f->r.n_violation++] = (kvt_violation){.layer = 0, .head = h, .tau = 2, .start_step = h, .n_step = 1,
                .peak_step = h, .peak_lost = max, .peak_oracle_lost = 0.5 * max, .excess_area = max - 0.1,
                .cause = (kvt_cause)(h % 6), .foreseeable = h == 0 ? -1 : 1, .recurrent = 0, .share_top1 = h == 0 ? NAN : 0.75,
                .share_top5 = 1, .share_top20 = 1, .n_responsible = 2, .responsible = f->responsible};
    }
    f->r.n_violation_total = (uint32_t)f->r.n_violation;
    f->r.cvar95_worst_head = f->r.lost_worst;
    for (uint32_t i = 0; i < 2 * FAKE_KV; i++)
        f->kvhead[i] = (kvt_kvhead_result){.layer = 0, .kv_head = i / 2, .agg_mean = (int)(i % 2), .n_held = held,
            .lost_mean = f->r.lost_mean, .lost_max = f->r.lost_worst, .max_step = f->r.worst_step,
            .lost_q95 = f->r.lost_worst, .lost_cvar95 = f->r.lost_worst, .lost_ns_mean = NAN, .lost_ns_max = NAN,
            .lost_ns_cvar95 = NAN, .out_err_cvar95 = NAN};
    f->layer[0] = (kvt_layer_result){0, held, f->r.lost_mean, f->r.lost_worst, f->r.worst_head, f->r.lost_worst};
    f->check[0] = (kvt_check){"budget_realised", "ok", held, c->requested_tokens, "tokens held against what was asked for"};
    f->check[1] = (kvt_check){"tie_share", full ? "ok" : "warn", 0.5, NAN, "half of the kept entries are tied"};
}

#endif
