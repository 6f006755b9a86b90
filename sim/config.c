/* config.c - "id:param=value,param=value" as a checked configuration, and the names by
 * which results remember it.
 *
 * canonical_json is the identity of a configuration: an object with the keys caches, id,
 * params, rows, ties, version, sorted bytewise at both levels, no white space, numbers as
 * the shortest decimal that reads back; params holds every parameter, defaults included.
 * `steps` says when kept sets are read; it changes no result and is not part of it. */
#include "kvt_sim.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_sha256.h"
#include "kvt_text.h"

enum { CONFIG_WORD = 32, CONFIG_LABEL = 512, CONFIG_JSON = 2048, CONFIG_SPEC = 512, CONFIG_LIST = 320,
       CONFIG_SHOWN = 64 };

/* Known from the literature, not built into this version: refused by name. A policy that
 * gets its file, or a value that enters a policy's choices, is found before this list. */
static const char config_unbuilt_ids[] =
    "recency|oracle_minimax|pyramidkv|adakv_snap|adakv_pyramid|criticalkv|critical_adakv|layer_defensivekv|cake|roco"
    "|observed|expected|knorm|keydiff|lagkv|chunkkv|rkv|triattention|quest|fasa|think|block_normsum|stateful"
    "|external_scores|merge|scissorhands";
static const struct { const char *id, *param, *values; } config_unbuilt[] = {  /* values NULL: any */
    { "streaming", "impl", "online" },
    { "streaming", "pos", NULL },
    { "snapkv", "impl", "kvpress|original|ada|factory" },
    { "tova", "impl", "press|easykv" },
    { "h2o", "impl", "mask_sim|one_shot|easykv" },
    { "h2o", "mask_offbyone", NULL },
    { "random", "impl", "easykv" },
};
/* Parameters that belong to impl=easykv, which tova, h2o and random name. */
static const char config_easykv_ids[] = "tova|h2o|random";
static const char config_easykv[] = "mode|stride|keep_attention|recent_ratio|prompt|sinks";

static const char config_caches[] = "kv|query";

typedef struct config_box {         /* one allocation; c comes first                  */
    kvt_config      c;
    char            label[CONFIG_LABEL], json[CONFIG_JSON];
    char            word[KVT_PARAMS_MAX + 1][CONFIG_WORD];
    kvt_param_value value[KVT_PARAMS_MAX + 1];
} config_box;

typedef struct config_text {        /* a string that grows in place                   */
    char  *at;
    size_t size, used;
} config_text;

static void config_put(config_text *t, const char *fmt, ...) KVT_PRINTF(2, 3);
static void config_put(config_text *t, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(t->at + t->used, t->size - t->used, fmt, ap);
    va_end(ap);
    KVT_ASSERT(n >= 0 && (size_t)n < t->size - t->used);
    t->used += (size_t)n;
}

/* Index of a word in "a|b|c", or -1. */
static int config_choice(const char *choices, const char *word)
{
    const size_t len = strlen(word);

    for (int i = 0; len > 0; i++) {
        const char *end = strchr(choices, '|');
        const size_t n = end ? (size_t)(end - choices) : strlen(choices);
        if (n == len && !strncmp(choices, word, n))
            return i;
        if (!end)
            break;
        choices = end + 1;
    }
    return -1;
}

/* The index-th word of "a|b|c"; it exists. */
static void config_choice_word(const char *choices, int index, char out[CONFIG_WORD])
{
    size_t n;

    while (index-- > 0)
        choices = strchr(choices, '|') + 1;
    n = strcspn(choices, "|");
    KVT_ASSERT(n < CONFIG_WORD);
    memcpy(out, choices, n);
    out[n] = 0;
}

static uint32_t config_n_params(const kvt_policy *p)
{
    uint32_t n = 0;

    while (p->params && p->params[n].name)
        n++;
    KVT_ASSERT(n <= KVT_PARAMS_MAX);
    return n;
}

/* Index of a parameter, or -1. */
static int config_find(const kvt_policy *p, const char *name)
{
    for (uint32_t i = 0; i < config_n_params(p); i++)
        if (!strcmp(p->params[i].name, name))
            return (int)i;
    return -1;
}

/* A choice that all caches of a layer share, or no kept set at all, has no form per query head. */
static int config_per_cache(const kvt_policy *p)
{
    return p->rank_over == KVT_SPAN_CACHE && p->share_over == KVT_SPAN_CACHE && !(p->caps & KVT_POLICY_BOUND);
}

/* Digits with at most one point and nothing else. */
static int config_decimal(const char *s, double *out)
{
    const size_t n = strspn(s, "0123456789.");
    const char *point = strchr(s, '.');

    if (s[n] || n > 30 || n == (point != NULL) || (point && strchr(point + 1, '.')))
        return 0;
    *out = strtod(s, NULL);
    return 1;
}

/* ---- messages ---------------------------------------------------------------------- */

static kvt_status config_unknown_policy(const char *id, kvt_err *err)
{
    char list[CONFIG_LIST], shown[CONFIG_SHOWN];
    config_text t = { list, sizeof list, 0 };

    kvt_printable_str(shown, sizeof shown, id);
    if (config_choice(config_unbuilt_ids, id) >= 0)
        return kvt_fail(err, KVT_ENOTSUP, "policy '%s' is not built into this version", shown);
    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const char *name = kvt_policy_at(i)->id;
        if (t.used + strlen(name) + 8 < t.size)
            config_put(&t, "%s%s", i ? ", " : "", name);
    }
    return kvt_fail(err, KVT_EARG, "no policy '%s'; there are: %s", shown, list);
}

static kvt_status config_unknown_param(const kvt_policy *p, const char *name, kvt_err *err)
{
    char list[CONFIG_LIST], shown[CONFIG_SHOWN];
    config_text t = { list, sizeof list, 0 };

    kvt_printable_str(shown, sizeof shown, name);
    for (uint32_t i = 0; i < config_n_params(p); i++)
        config_put(&t, "%s, ", p->params[i].name);
    if (config_find(p, "semantics") < 0)
        config_put(&t, "semantics, ");
    config_put(&t, p->caps & KVT_POLICY_ONLINE ? "caches, steps" : "caches");
    return kvt_fail(err, KVT_EARG, "policy %s has no parameter '%s'; there are: %s", p->id, shown, list);
}

/* KVT_ENOTSUP when the parameter or its value is known, but not built. */
static kvt_status config_check_unbuilt(const kvt_policy *p, const char *name, const char *value, kvt_err *err)
{
    const int at = config_find(p, name);

    if (at >= 0 && (!p->params[at].choices || config_choice(p->params[at].choices, value) >= 0))
        return KVT_OK;
    for (size_t i = 0; i < sizeof config_unbuilt / sizeof *config_unbuilt; i++) {
        if (strcmp(config_unbuilt[i].id, p->id) || strcmp(config_unbuilt[i].param, name))
            continue;
        if (!config_unbuilt[i].values)
            return kvt_fail(err, KVT_ENOTSUP, "%s: parameter %s is not built into this version", p->id, name);
        if (config_choice(config_unbuilt[i].values, value) >= 0)
            return kvt_fail(err, KVT_ENOTSUP, "%s: %s=%s is not built into this version", p->id, name, value);
    }
    if (at < 0 && config_choice(config_easykv_ids, p->id) >= 0 && config_choice(config_easykv, name) >= 0)
        return kvt_fail(err, KVT_ENOTSUP, "%s: parameter %s (of impl=easykv) is not built into this version", p->id, name);
    return KVT_OK;
}

/* ---- parsing ------------------------------------------------------------------------ */

static kvt_status config_set_param(kvt_config *c, uint32_t i, const char *value, kvt_err *err)
{
    const kvt_param_def *d = &c->policy->params[i];
    char shown[CONFIG_SHOWN], min[32], max[32];
    double x = 0;

    kvt_printable_str(shown, sizeof shown, value);
    if (d->choices) {
        const int index = config_choice(d->choices, value);
        if (index < 0)
            return kvt_fail(err, KVT_EARG, "%s: %s='%s': expected one of %s", c->policy->id, d->name, shown, d->choices);
        x = index;
    } else {
        const char *kind = d->integer == 2 ? "an odd whole number" : d->integer ? "a whole number" : "a number";
        const int is_number = config_decimal(value, &x);
        if (!is_number || x < d->min || x > d->max || (d->integer && x != floor(x)) || (d->integer == 2 && fmod(x, 2) != 1))
            return kvt_fail(err, KVT_EARG, "%s: %s='%s': expected %s from %s to %s", c->policy->id, d->name, shown, kind,
                            kvt_number(min, d->min), kvt_number(max, d->max));
    }
    c->param[i] = x;
    return KVT_OK;
}

/* What every spec may say besides the policy's own parameters; *known = 0: none of these. */
static kvt_status config_set_common(kvt_config *c, const char *name, const char *value, int *known, kvt_err *err)
{
    const kvt_policy *p = c->policy;
    char shown[CONFIG_SHOWN];
    double x = 0;

    *known = 1;
    kvt_printable_str(shown, sizeof shown, value);
    if (!strcmp(name, "caches")) {
        const int index = config_choice(config_caches, value);
        if (index < 0)
            return kvt_fail(err, KVT_EARG, "%s: caches='%s': expected one of %s", p->id, shown, config_caches);
        if (index == KVT_CACHES_QUERY && !config_per_cache(p))
            return kvt_fail(err, KVT_EARG, "%s: caches=query: this policy does not choose per cache; use caches=kv", p->id);
        c->caches = index == KVT_CACHES_QUERY ? KVT_CACHES_QUERY : KVT_CACHES_KV;
    } else if (!strcmp(name, "semantics")) {
        if (strcmp(value, "code"))
            return kvt_fail(err, KVT_EARG, "%s: semantics='%s': expected code, the only form of this policy", p->id, shown);
    } else if (!strcmp(name, "steps") && (p->caps & KVT_POLICY_ONLINE)) {
        if (!config_decimal(value, &x) || x != floor(x) || x > KVT_MAX_TOKENS)
            return kvt_fail(err, KVT_EARG, "%s: steps='%s': expected a whole number of decode steps from 0 to %u", p->id, shown,
                            KVT_MAX_TOKENS);
        c->steps = (uint32_t)x;
    } else {
        *known = 0;
    }
    return KVT_OK;
}

static kvt_status config_set(kvt_config *c, const char *name, const char *value, kvt_err *err)
{
    const int i = config_find(c->policy, name);
    int known;

    KVT_TRY(config_check_unbuilt(c->policy, name, value, err));
    if (i >= 0)
        return config_set_param(c, (uint32_t)i, value, err);
    KVT_TRY(config_set_common(c, name, value, &known, err));
    return known ? KVT_OK : config_unknown_param(c->policy, name, err);
}

/* "a=1,b=x"; text is cut up in place. */
static kvt_status config_set_all(kvt_config *c, char *text, kvt_err *err)
{
    char shown[CONFIG_SHOWN];
    const char *seen[KVT_PARAMS_MAX + 4];
    uint32_t n_seen = 0;

    for (char *item = text, *next; item; item = next) {
        char *equals;

        next = strchr(item, ',');
        if (next)
            *next++ = 0;
        equals = strchr(item, '=');
        kvt_printable_str(shown, sizeof shown, item);
        if (!equals || equals == item || !equals[1])
            return kvt_fail(err, KVT_EARG, "policy %s: '%s': expected param=value", c->policy->id, shown);
        *equals = 0;
        KVT_TRY(config_set(c, item, equals + 1, err));
        for (uint32_t i = 0; i < n_seen; i++)
            if (!strcmp(seen[i], item))
                return kvt_fail(err, KVT_EARG, "policy %s: parameter %s is given twice", c->policy->id, item);
        KVT_ASSERT(n_seen < sizeof seen / sizeof *seen);    /* only known names, each once */
        seen[n_seen++] = item;
    }
    return KVT_OK;
}

/* ---- names -------------------------------------------------------------------------- */

/* Every parameter, sorted by name. */
static uint32_t config_values(config_box *b)
{
    const kvt_policy *p = b->c.policy;
    uint32_t n = 0;

    for (; n < config_n_params(p); n++) {
        const kvt_param_def *d = &p->params[n];
        b->value[n] = (kvt_param_value){ d->name, NULL, b->c.param[n] };
        if (d->choices) {
            config_choice_word(d->choices, (int)b->c.param[n], b->word[n]);
            b->value[n] = (kvt_param_value){ d->name, b->word[n], NAN };
        }
    }
    if (config_find(p, "semantics") < 0)
        b->value[n++] = (kvt_param_value){ "semantics", "code", NAN };
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && strcmp(b->value[k - 1].name, b->value[k].name) > 0; k--) {
            const kvt_param_value swap = b->value[k];
            b->value[k] = b->value[k - 1];
            b->value[k - 1] = swap;
        }
    return n;
}

static void config_put_value(config_text *t, const kvt_param_value *v, const char *quote)
{
    char number[32];

    if (v->word)
        config_put(t, "%s%s%s", quote, v->word, quote);
    else
        config_put(t, "%s", kvt_number(number, v->num));
}

static void config_write_label(config_box *b)
{
    const kvt_config *c = &b->c;
    config_text t = { b->label, sizeof b->label, 0 };
    const char *separator = ":";

    config_put(&t, "%s", c->policy->id);
    for (uint32_t i = 0; i < config_n_params(c->policy); i++) {
        const kvt_param_def *d = &c->policy->params[i];
        const kvt_param_value v = { d->name, d->choices ? b->word[i] : NULL, c->param[i] };
        if (c->param[i] == d->def)
            continue;
        config_put(&t, "%s%s=", separator, d->name);
        config_put_value(&t, &v, "");
        separator = ",";
    }
    if (c->caches != c->policy->caches)
        config_put(&t, "%scaches=%s", separator, c->caches == KVT_CACHES_QUERY ? "query" : "kv");
}

static void config_write_json(config_box *b)
{
    const kvt_config *c = &b->c;
    config_text t = { b->json, sizeof b->json, 0 };

    config_put(&t, "{\"caches\":\"%s\",\"id\":\"%s\",\"params\":{", c->caches == KVT_CACHES_QUERY ? "query" : "kv", c->policy->id);
    for (uint32_t i = 0; i < c->info.n_param; i++) {
        config_put(&t, "%s\"%s\":", i ? "," : "", b->value[i].name);
        config_put_value(&t, &b->value[i], "\"");
    }
    config_put(&t, "},\"rows\":\"exact\",\"ties\":\"low\",\"version\":%u}", c->policy->version);
}

/* What setup() promises whatever the trace: asked with a job of round numbers. */
static kvt_setup config_setup(const kvt_config *c)
{
    const kvt_policy *p = c->policy;
    const kvt_job job = { .n_q_heads = 1, .n_kv_heads = 1, .n_caches = 1, .n = 1024, .n_new = 16, .rule = KVT_RULE_SHARE,
                          .share = 0.5, .keep_cache = 512, .keep_layer = 512, .param = c->param };
    kvt_setup setup = { .rank_over = p->rank_over, .share_over = p->share_over, .capacity = job.keep_cache };

    if (p->setup)
        p->setup(&job, &setup);
    return setup;
}

static void config_describe(config_box *b)
{
    kvt_config *c = &b->c;
    const kvt_policy *p = c->policy;
    const kvt_setup setup = config_setup(c);
    const int online = (p->caps & KVT_POLICY_ONLINE) != 0, oracle = (p->caps & KVT_POLICY_ORACLE) != 0;
    uint8_t digest[32];

    c->paper = kvt_config_param(c, "semantics", 0) > 0;
    c->info.policy_id = p->id;
    c->info.title = p->title;
    c->info.cite = p->cite;
    c->info.policy_version = p->version;
    c->info.role = oracle ? "oracle" : p->caps & KVT_POLICY_BASELINE ? "baseline" : "policy";
    c->info.timing = oracle ? "hindsight" : online ? "decode" : p->caps & KVT_POLICY_ONESHOT ? "prefill" : "none";
    c->info.budgeted = online ? "all" : "prompt";
    c->info.fixed_set = !online && !(p->caps & KVT_POLICY_BOUND);
    c->info.nested = setup.nested;
    c->info.head_adaptive = setup.rank_over == KVT_SPAN_LAYER;
    c->info.query_aware = (p->needs & (KVT_NEED_WINDOW | KVT_NEED_COLSTAT | KVT_NEED_FUTURE)) != 0;
    c->info.semantics = config_find(p, "semantics") < 0 ? "same" : c->paper ? "paper" : "code";
    c->info.may_overshoot = c->caches == KVT_CACHES_QUERY;
    c->info.n_param = config_values(b);
    c->info.param = b->value;
    config_write_label(b);
    config_write_json(b);
    c->info.label = b->label;
    c->info.canonical_json = b->json;
    kvt_sha256_of(b->json, strlen(b->json), digest);
    kvt_sha256_hex(digest, c->info.sha256);
}

kvt_status kvt_config_parse(kvt_config **out, const char *spec, kvt_err *err)
{
    char text[CONFIG_SPEC], *params;
    const kvt_policy *policy;
    config_box *b;
    kvt_status st = KVT_OK;

    if (!*spec || strlen(spec) >= sizeof text)
        return kvt_fail(err, KVT_EARG, "a policy is written id or id:param=value,param=value, in at most %u characters",
                        (unsigned)sizeof text - 1);
    memcpy(text, spec, strlen(spec) + 1);
    params = strchr(text, ':');
    if (params)
        *params++ = 0;
    policy = kvt_policy_find(text);
    if (!policy)
        return config_unknown_policy(text, err);
    b = calloc(1, sizeof *b);
    if (!b)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    b->c.policy = policy;
    b->c.caches = policy->caches;
    for (uint32_t i = 0; i < config_n_params(policy); i++)
        b->c.param[i] = policy->params[i].def;
    if (params)
        st = config_set_all(&b->c, params, err);
    if (st < 0) {
        free(b);
        return st;
    }
    config_describe(b);
    *out = &b->c;
    return KVT_OK;
}

void kvt_config_free(kvt_config *c)
{
    free(c);                        /* the first member of its config_box */
}

double kvt_config_param(const kvt_config *c, const char *name, double otherwise)
{
    const int i = config_find(c->policy, name);

    return i < 0 ? otherwise : c->param[i];
}
