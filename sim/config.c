/* config.c - "id:param=value,param=value" as a checked configuration, and the names by
 * which results remember it.
 *
 * canonical_json is the identity of a configuration: an object with the keys caches, id,
 * params, rows, ties, version, sorted bytewise at both levels, no white space, numbers as
 * the shortest decimal that reads back; params holds every parameter, defaults included;
 * keep_first and keep_last stand in it where they are not 0, and plugin, the hash of its
 * file, where a policy was not built in.
 * `steps` says when kept sets are read; it changes no result and is not part of it. */
#include "replay_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_registry.h"
#include "kvt_sha256.h"
#include "kvt_text.h"

enum { CONFIG_WORD = 32, CONFIG_LABEL = 512, CONFIG_JSON = 2048, CONFIG_SPEC = 512, CONFIG_LIST = 320,
       CONFIG_SHOWN = 64 };

/* Known from the literature, not built into this version: refused by name. A policy that
 * gets its file, or a value that enters a policy's choices, is found before this list. */
static const char config_unbuilt_ids[] =
    "rkv|triattention|quest|fasa|think|block_normsum|stateful|external_scores|merge|scissorhands";
static const struct { const char *id, *param, *values; } config_unbuilt[] = {  /* values NULL: any */
    { "streaming", "pos", NULL },
    { "pyramidkv", "frozen_budget", NULL },
    { "adakv_pyramid", "frozen_budget", NULL },
};
static const char config_caches[] = "kv|query";
static const char config_ties[] = "low|flat|high|seeded";
static const char *const config_ties_word[] = { "low", "flat", "high", "seeded" };

typedef struct config_box {         /* one allocation; c comes first                  */
    kvt_config      c;
    int             caches_given;
    uint8_t         given[KVT_PARAMS_MAX];  /* parameters that the spec names         */
    double          def[KVT_PARAMS_MAX];    /* defaults in force with these choices   */
    kvt_caches      caches_default;
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
static int config_per_cache(const kvt_policy *p, const kvt_setup *setup)
{
    return setup->rank_over == KVT_SPAN_CACHE && setup->share_over == KVT_SPAN_CACHE && !(p->caps & KVT_POLICY_BOUND);
}

/* Does it choose anything that protection could be laid over? */
static int config_chooses(const kvt_policy *p)
{
    return (p->caps & (KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE)) && !(p->caps & KVT_POLICY_ORACLE);
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
    config_put(&t, "caches, ties%s%s", config_chooses(p) ? ", keep_first, keep_last" : "", p->caps & KVT_POLICY_ONLINE ? ", steps" : "");
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

static kvt_status config_set_count(const kvt_policy *p, const char *name, const char *value, const char *what, uint32_t *out, kvt_err *err)
{
    char shown[CONFIG_SHOWN];
    double x = 0;

    kvt_printable_str(shown, sizeof shown, value);
    if (!config_decimal(value, &x) || x != floor(x) || x > KVT_MAX_TOKENS)
        return kvt_fail(err, KVT_EARG, "%s: %s='%s': expected a whole number of %s from 0 to %u", p->id, name, shown, what, KVT_MAX_TOKENS);
    *out = (uint32_t)x;
    return KVT_OK;
}

/* What every spec may say besides the policy's own parameters; *known = 0: none of these. */
static kvt_status config_set_common(config_box *b, const char *name, const char *value, int *known, kvt_err *err)
{
    kvt_config *c = &b->c;
    const kvt_policy *p = c->policy;
    char shown[CONFIG_SHOWN];

    *known = 1;
    kvt_printable_str(shown, sizeof shown, value);
    if (!strcmp(name, "caches")) {
        const int index = config_choice(config_caches, value);
        if (index < 0)
            return kvt_fail(err, KVT_EARG, "%s: caches='%s': expected one of %s", p->id, shown, config_caches);
        c->caches = index == KVT_CACHES_QUERY ? KVT_CACHES_QUERY : KVT_CACHES_KV;
        b->caches_given = 1;
    } else if (!strcmp(name, "ties")) {
        const int index = config_choice(config_ties, value);
        if (index < 0)
            return kvt_fail(err, KVT_EARG, "%s: ties='%s': expected one of %s", p->id, shown, config_ties);
        c->ties = (kvt_ties)index;
    } else if (!strcmp(name, "keep_first") && config_chooses(p)) {
        return config_set_count(p, name, value, "tokens", &c->keep_first, err);
    } else if (!strcmp(name, "keep_last") && config_chooses(p)) {
        return config_set_count(p, name, value, "tokens", &c->keep_last, err);
    } else if (!strcmp(name, "semantics")) {
        if (strcmp(value, "code"))
            return kvt_fail(err, KVT_EARG, "%s: semantics='%s': expected code, the only form of this policy", p->id, shown);
    } else if (!strcmp(name, "steps") && (p->caps & KVT_POLICY_ONLINE)) {
        return config_set_count(p, name, value, "decode steps", &c->steps, err);
    } else {
        *known = 0;
    }
    return KVT_OK;
}

static kvt_status config_set(config_box *b, const char *name, const char *value, kvt_err *err)
{
    kvt_config *c = &b->c;
    const int i = config_find(c->policy, name);
    int known;

    KVT_TRY(config_check_unbuilt(c->policy, name, value, err));
    if (i >= 0) {
        b->given[i] = 1;
        return config_set_param(c, (uint32_t)i, value, err);
    }
    KVT_TRY(config_set_common(b, name, value, &known, err));
    return known ? KVT_OK : config_unknown_param(c->policy, name, err);
}

/* "a=1,b=x"; text is cut up in place. */
static kvt_status config_set_all(config_box *b, char *text, kvt_err *err)
{
    const kvt_config *c = &b->c;
    char shown[CONFIG_SHOWN];
    const char *seen[KVT_PARAMS_MAX + 8];
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
        KVT_TRY(config_set(b, item, equals + 1, err));
        for (uint32_t i = 0; i < n_seen; i++)
            if (!strcmp(seen[i], item))
                return kvt_fail(err, KVT_EARG, "policy %s: parameter %s is given twice", c->policy->id, item);
        KVT_ASSERT(n_seen < sizeof seen / sizeof *seen);    /* only known names, each once */
        seen[n_seen++] = item;
    }
    return KVT_OK;
}

/* "impl=kvpress|factory" with the choices in force. */
static int config_holds(const kvt_config *c, const char *when)
{
    const size_t len = strcspn(when, "=");
    char word[CONFIG_WORD];

    for (uint32_t i = 0; i < config_n_params(c->policy); i++) {
        const kvt_param_def *d = &c->policy->params[i];
        if (strncmp(d->name, when, len) || d->name[len])
            continue;
        config_choice_word(d->choices, (int)c->param[i], word);
        return config_choice(when + len + 1, word) >= 0;
    }
    return 0;
}

/* Parameters that the spec does not name: defaults, which can hang on a choice. */
static void config_set_defaults(config_box *b)
{
    const kvt_policy *p = b->c.policy;

    for (uint32_t i = 0; i < config_n_params(p); i++) {
        b->def[i] = p->params[i].def;
        for (const kvt_param_alt *a = p->alts; a && a->name; a++)
            if (!strcmp(a->name, p->params[i].name) && config_holds(&b->c, a->when))
                b->def[i] = a->def;
        if (!b->given[i])
            b->c.param[i] = b->def[i];
    }
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
        if (c->param[i] == b->def[i])
            continue;
        config_put(&t, "%s%s=", separator, d->name);
        config_put_value(&t, &v, "");
        separator = ",";
    }
    if (c->caches != b->caches_default) {
        config_put(&t, "%scaches=%s", separator, c->caches == KVT_CACHES_QUERY ? "query" : "kv");
        separator = ",";
    }
    if (c->ties != KVT_TIES_LOW) {
        config_put(&t, "%sties=%s", separator, config_ties_word[c->ties]);
        separator = ",";
    }
    if (c->keep_first) {
        config_put(&t, "%skeep_first=%u", separator, c->keep_first);
        separator = ",";
    }
    if (c->keep_last)
        config_put(&t, "%skeep_last=%u", separator, c->keep_last);
}

static void config_write_json(config_box *b)
{
    const kvt_config *c = &b->c;
    config_text t = { b->json, sizeof b->json, 0 };

    config_put(&t, "{\"caches\":\"%s\",\"id\":\"%s\",", c->caches == KVT_CACHES_QUERY ? "query" : "kv", c->policy->id);
    if (c->keep_first)
        config_put(&t, "\"keep_first\":%u,", c->keep_first);
    if (c->keep_last)
        config_put(&t, "\"keep_last\":%u,", c->keep_last);
    config_put(&t, "\"params\":{");
    for (uint32_t i = 0; i < c->info.n_param; i++) {
        config_put(&t, "%s\"%s\":", i ? "," : "", b->value[i].name);
        config_put_value(&t, &b->value[i], "\"");
    }
    config_put(&t, "},");
    if (kvt_policy_origin(c->policy))
        config_put(&t, "\"plugin\":\"%s\",", kvt_policy_origin(c->policy));
    config_put(&t, "\"rows\":\"exact\",\"ties\":\"%s\",\"version\":%u}", config_ties_word[c->ties], c->policy->version);
}

/* What setup() promises whatever the trace: asked with a job of round numbers. */
static kvt_setup config_setup(const kvt_config *c)
{
    const kvt_job job = { .n_layers = 4, .n_q_heads = 2, .n_kv_heads = 2, .n_caches = 2, .head_dim = 64, .value_dim = 64,
                          .n = 1024, .n_new = 16, .scale = 0.125, .rule = KVT_RULE_SHARE, .in_tokens = 1, .share = 0.5,
                          .tokens = 512, .keep_cache = 512, .keep_layer = 1024, .keep_model = 4096, .param = c->param,
                          .self = c->policy->self };
    kvt_setup setup;

    kvt__setup(c->policy, &job, &setup);
    return setup;
}

static kvt_status config_describe(config_box *b, kvt_err *err)
{
    kvt_config *c = &b->c;
    const kvt_policy *p = c->policy;
    const kvt_setup setup = config_setup(c);
    const int online = setup.caps & KVT_POLICY_ONLINE && setup.capacity != KVT_NO_LIMIT;
    const int oracle = (p->caps & KVT_POLICY_ORACLE) != 0;
    uint8_t digest[32];

    c->caps = setup.caps;
    c->refuse = setup.refuse;
    b->caches_default = setup.caches;
    if (!b->caches_given)
        c->caches = setup.caches;
    if (c->caches == KVT_CACHES_QUERY && !config_per_cache(p, &setup))
        return kvt_fail(err, KVT_EARG, "%s: caches=query: this policy does not choose per cache; use caches=kv", p->id);
    c->paper = kvt_config_param(c, "semantics", 0) > 0;
    c->info.policy_id = p->id;
    c->info.title = p->title ? p->title : p->id;
    c->info.cite = p->cite ? p->cite : "";
    c->info.policy_version = p->version;
    c->info.role = oracle ? "oracle" : p->caps & KVT_POLICY_BASELINE ? "baseline" : "policy";
    c->info.timing = oracle ? "hindsight" : online ? "decode"
                   : setup.caps & (KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE) ? "prefill" : "none";
    c->info.budgeted = online ? "all" : "prompt";
    c->info.fixed_set = !online && strcmp(p->id, "oracle_step") != 0;
    c->info.nested = setup.nested;
    c->info.head_adaptive = setup.rank_over != KVT_SPAN_CACHE || setup.uneven;
    c->info.query_aware = online || (setup.needs & (KVT_NEED_WINDOW | KVT_NEED_COLSTAT | KVT_NEED_FUTURE | KVT_NEED_PROMPT)) != 0;
    c->info.semantics = config_find(p, "semantics") < 0 ? "same" : c->paper ? "paper" : "code";
    c->info.may_overshoot = c->caches == KVT_CACHES_QUERY || setup.overshoots;
    c->info.n_param = config_values(b);
    c->info.param = b->value;
    config_write_label(b);
    config_write_json(b);
    c->info.label = b->label;
    c->info.canonical_json = b->json;
    kvt_sha256_of(b->json, strlen(b->json), digest);
    kvt_sha256_hex(digest, c->info.sha256);
    return KVT_OK;
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
    for (uint32_t i = 0; i < config_n_params(policy); i++)
        b->c.param[i] = policy->params[i].def;
    if (params)
        st = config_set_all(b, params, err);
    if (st == KVT_OK) {
        config_set_defaults(b);
        st = config_describe(b, err);
    }
    if (st < 0) {
        free(b);
        return st;
    }
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
