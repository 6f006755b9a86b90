/* golden.c - replay reference cases and compare the kept sets; see golden.h. The operands
 * that the file does not give are computed here from their definitions, in double. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_mul.h"
#include "kvt_text.h"
#include "ref_attention.h"
#include "replay_impl.h"

struct kvt_golden_trace {
    const kvt_golden *g;
    kvt_source        src;
    kvt_layer_info   *layer;        /* [n_layers]                                     */
    int32_t          *index;        /* [n + gen] 0, 1, 2 ...; rotary and query index  */
    int32_t          *token;        /* [n + gen] 0                                    */
    const float     **data;         /* [n_layers * KVT_T_END]                         */
    float            *lse, *nu;     /* [n_layers][n_heads][n + gen]                   */
    float            *sum;          /* [n_layers][n_heads][n]                         */
};

static void *golden_alloc(size_t a, size_t b, size_t size)
{
    size_t n;

    return kvt_mul(a, b, &n) && n > 0 ? calloc(n, size) : NULL;
}

static void golden_layer_info(const kvt_golden *g, kvt_layer_info *l, uint32_t layer)
{
    l->has = 1u << KVT_T_K | 1u << KVT_T_V | 1u << KVT_T_Q | 1u << KVT_T_LSE | 1u << KVT_T_NU | 1u << KVT_T_STAT_SUM;
    l->attn = KVT_ATTN_FULL;
    l->n_heads = g->n_heads;
    l->n_kv_heads = g->n_kv_heads;
    l->d_k = l->d_v = g->d;
    l->kv_layer = layer;
    l->k_type = l->v_type = l->q_type = KVT_F32;
    l->scale = 1 / sqrt(g->d);
    l->rope_type = "";
    l->rope_angle_type = l->rope_table_type = "";
}

/* Log-sum-exp of every row and column sums of the prompt's rows, of one head. */
static void golden_rows(const kvt_golden *g, const kvt_layer_info *info, const float *q, const float *k,
                        double *prob, double *column, float *lse, float *sum)
{
    memset(column, 0, g->n * sizeof *column);
    for (uint32_t p = 0; p < g->n + g->gen; p++) {
        lse[p] = (float)kvt_ref_row(info, p, q + (size_t)p * g->d, k, 0, NULL, prob);
        for (uint32_t j = 0; p < g->n && j <= p; j++)
            column[j] += prob[j];
    }
    for (uint32_t j = 0; j < g->n; j++)
        sum[j] = (float)column[j];
}

/* L1 norm of v Wo, the share of one query head in the layer's output. */
static float golden_norm(const kvt_golden *g, const float *wo, uint32_t head, const float *v)
{
    double norm = 0;

    for (uint32_t o = 0; o < g->model_dim; o++) {
        const float *w = wo + ((size_t)o * g->n_heads + head) * g->d;
        double x = 0;
        for (uint32_t c = 0; c < g->d; c++)
            x += (double)v[c] * (double)w[c];
        norm += fabs(x);
    }
    return (float)norm;
}

static void golden_layer(kvt_golden_trace *t, uint32_t layer, double *prob, double *column)
{
    const kvt_golden *g = t->g;
    const size_t T = (size_t)g->n + g->gen, row = T * g->d;
    const size_t q0 = (size_t)layer * g->n_heads, k0 = (size_t)layer * g->n_kv_heads;
    const float **data = t->data + (size_t)layer * KVT_T_END;

    data[KVT_T_Q] = g->q + q0 * row;
    data[KVT_T_K] = g->k + k0 * row;
    data[KVT_T_V] = g->v + k0 * row;
    data[KVT_T_LSE] = t->lse + q0 * T;
    data[KVT_T_NU] = t->nu + q0 * T;
    data[KVT_T_STAT_SUM] = t->sum + q0 * g->n;
    for (uint32_t h = 0; h < g->n_heads; h++) {
        const size_t kv = h / (g->n_heads / g->n_kv_heads);
        const float *wo = g->wo + (size_t)layer * g->model_dim * g->n_heads * g->d;

        golden_rows(g, &t->layer[layer], data[KVT_T_Q] + h * row, data[KVT_T_K] + kv * row, prob, column,
                    t->lse + (q0 + h) * T, t->sum + (q0 + h) * g->n);
        for (size_t j = 0; j < T; j++)
            t->nu[(q0 + h) * T + j] = golden_norm(g, wo, h, data[KVT_T_V] + kv * row + j * g->d);
    }
}

void kvt__golden_close(kvt_golden_trace *t)
{
    if (!t)
        return;
    kvt_source_close(&t->src);
    free(t->layer), free(t->index), free(t->token), free(t->data), free(t->lse), free(t->nu), free(t->sum);
    free(t);
}

static kvt_status golden_build(kvt_golden_trace *t, kvt_err *err)
{
    const kvt_golden *g = t->g;
    const size_t T = (size_t)g->n + g->gen, heads = (size_t)g->n_layers * g->n_heads;
    kvt_trace_info info = {
        .format = { 1, 0, 0 }, .complete = 1, .created = "", .writer = "", .uuid = "", .content_id = "golden",
        .exactness = "", .cluster_id = "golden", .sample_id = "", .n_layers = g->n_layers, .n_prompt = g->n,
        .n_decode = g->gen, .n_tokens = g->n + g->gen, .n_rows = g->n + g->gen, .window = g->n,
        .question_start = g->n, .model_dim = g->model_dim,
    };
    double *prob = golden_alloc(T, 2, sizeof *prob);

    t->layer = golden_alloc(g->n_layers, 1, sizeof *t->layer);
    t->index = golden_alloc(T, 1, sizeof *t->index);
    t->token = golden_alloc(T, 1, sizeof *t->token);
    t->data = golden_alloc(g->n_layers, KVT_T_END, sizeof *t->data);
    t->lse = golden_alloc(heads, T, sizeof *t->lse);
    t->nu = golden_alloc(heads, T, sizeof *t->nu);
    t->sum = golden_alloc(heads, g->n, sizeof *t->sum);
    if (!prob || !t->layer || !t->index || !t->token || !t->data || !t->lse || !t->nu || !t->sum) {
        free(prob);
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", g->path);
    }
    for (size_t j = 0; j < T; j++)
        t->index[j] = (int32_t)j;
    for (uint32_t l = 0; l < g->n_layers; l++) {
        golden_layer_info(g, &t->layer[l], l);
        golden_layer(t, l, prob, prob + T);
    }
    free(prob);
    info.layer = t->layer;
    info.token_id = t->token;
    info.rotary = info.query_index = t->index;
    return kvt_source_open_memory(&t->src, &info, t->data, err);
}

kvt_status kvt__golden_open(kvt_golden_trace **out, const kvt_golden *g, kvt_err *err)
{
    kvt_golden_trace *t = calloc(1, sizeof *t);
    kvt_status st;

    if (!t)
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", g->path);
    t->g = g;
    st = golden_build(t, err);
    if (st < 0) {
        kvt__golden_close(t);
        return st;
    }
    *out = t;
    return KVT_OK;
}

/* ---- comparing ---------------------------------------------------------------------- */

typedef struct golden_check {
    const kvt_golden_case *c;
    kvt_golden_result     *out;
    uint32_t               n_seen;
} golden_check;

/* How many of a[0..n) are not in b[0..m); both ascending. */
static uint32_t golden_missing(const uint32_t *a, uint32_t n, const uint32_t *b, uint32_t m)
{
    uint32_t missing = 0;

    for (uint32_t i = 0, k = 0; i < n; i++) {
        while (k < m && b[k] < a[i])
            k++;
        missing += k == m || b[k] != a[i];
    }
    return missing;
}

/* The worst set decides; the first of that kind is described. */
static void golden_judge(kvt_golden_result *out, kvt_verdict verdict, const char *detail)
{
    if (verdict <= out->verdict)
        return;
    out->verdict = verdict;
    snprintf(out->detail, sizeof out->detail, "%s", detail);
}

static void golden_compare(golden_check *check, const kvt_kept_set *set, uint32_t cache)
{
    const kvt_golden_case *c = check->c;
    const uint32_t *start = c->start + (size_t)set->layer * c->n_caches + cache;
    const uint32_t *want = c->pos + start[0], n_want = start[1] - start[0];
    const uint32_t extra = golden_missing(set->pos, set->n, want, n_want);
    const uint32_t lost = golden_missing(want, n_want, set->pos, set->n);
    const double a = (double)set->last_kept, b = (double)set->first_dropped, scale = fmax(fabs(a), fabs(b));
    const double gap = scale > 0 ? fabs(a - b) / scale : 0;
    char detail[200];

    check->n_seen++;
    if (!extra && !lost)
        return;
    snprintf(detail, sizeof detail, "layer %u head %u: %u of %u positions missing, %u more than the reference; scores at the cut %.9g | %.9g",
             set->layer, cache, lost, n_want, extra, a, b);
    /* A NaN (no cut) is not below the limit. */
    golden_judge(check->out, set->n == n_want && !isnan(a) && !isnan(b) && gap < KVT_GOLDEN_TIE ? KVT_VERDICT_TIED
                 : KVT_VERDICT_DIFFERENT, detail);
}

static kvt_status golden_kept(void *user, const kvt_kept_set *set, kvt_err *err)
{
    golden_check *check = user;

    (void)err;
    if (set->step >= 0 && set->step != set->config->steps)
        return KVT_OK;
    if (set->cache == KVT_ALL) {
        for (uint32_t cache = 0; cache < check->c->n_caches; cache++)
            golden_compare(check, set, cache);
    } else if (set->cache < check->c->n_caches) {
        golden_compare(check, set, set->cache);
    }
    return KVT_OK;
}

static kvt_status golden_replay(kvt_golden_trace *t, const kvt_golden_case *c, const kvt_config *config,
                                const kvt_budget *budget, kvt_golden_result *out, kvt_err *err)
{
    const kvt_golden *g = t->g;
    const uint32_t n_caches = config->caches == KVT_CACHES_QUERY ? g->n_heads : g->n_kv_heads;
    const kvt_sink nowhere = { NULL, NULL };
    golden_check check = { c, out, 0 };
    const kvt_replay_opts opts = { .config = &config, .n_config = 1, .budget = budget, .n_budget = 1, .n_seeds = 1,
                                   .kept = golden_kept, .kept_user = &check };
    kvt_err refused = { KVT_OK, "" };
    char detail[200];

    if (c->n_caches != n_caches) {
        snprintf(detail, sizeof detail, "the file has %u heads per layer, the policy has %u caches", c->n_caches, n_caches);
        golden_judge(out, KVT_VERDICT_DIFFERENT, detail);
        return KVT_OK;
    }
    if (kvt_plan_check(t->src.info, config, budget, &refused) < 0) {
        golden_judge(out, KVT_VERDICT_DIFFERENT, refused.text);
        return KVT_OK;
    }
    KVT_TRY(kvt_replay(&t->src, &opts, nowhere, err));
    if (check.n_seen != g->n_layers * n_caches) {
        snprintf(detail, sizeof detail, "%u kept sets were made, expected %u", check.n_seen, g->n_layers * n_caches);
        golden_judge(out, KVT_VERDICT_DIFFERENT, detail);
    }
    return KVT_OK;
}

/* Steps that a case can ask for: tokens behind the position that its steps count from. */
static uint32_t golden_steps(const kvt_golden_trace *t, const kvt_config *config, const kvt_budget *budget)
{
    kvt_job job;
    kvt_setup setup;

    kvt__job(config, budget, t->src.info, 0, 0, &job);
    kvt__setup(config->policy, &job, &setup);
    return t->g->n + t->g->gen - (setup.steps_from < t->g->n ? setup.steps_from : t->g->n);
}

kvt_status kvt__golden_run(kvt_golden_trace *t, const kvt_golden_case *c, kvt_golden_result *out, kvt_err *err)
{
    const kvt_rule rule = strcmp(c->rule, "reference") ? KVT_RULE_SHARE : KVT_RULE_REFERENCE;
    kvt_config *config = NULL;
    kvt_budget budget;
    kvt_err why = { KVT_OK, "" };
    kvt_status st;

    *out = (kvt_golden_result){ KVT_VERDICT_IDENTICAL, "" };
    st = kvt_config_parse(&config, c->spec, &why);
    if (st == KVT_ENOTSUP || st == KVT_EARG) {           /* newer than this version, or misspelt: said, not hidden */
        golden_judge(out, KVT_VERDICT_UNSUPPORTED, why.text);
        return KVT_OK;
    }
    if (st < 0) {
        if (err)
            *err = why;
        return st;
    }
    if (!c->budget) {
        golden_judge(out, KVT_VERDICT_UNSUPPORTED, "the file gives no budget");
    } else if (kvt_budget_parse(&budget, c->budget, rule, &why) < 0) {
        st = kvt_fail(err, KVT_EFORMAT, "%s: %s", t->g->path, why.text);
    } else if (config->steps > golden_steps(t, config, &budget)) {
        st = kvt_fail(err, KVT_EFORMAT, "%s: a case asks for %u decode steps, there are %u", t->g->path, config->steps,
                      golden_steps(t, config, &budget));
    } else {
        st = golden_replay(t, c, config, &budget, out, err);
    }
    kvt_config_free(config);
    return st;
}
