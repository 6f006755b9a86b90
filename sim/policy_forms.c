/* policy_forms.c - every combination of a policy's choice parameters is parsed and asked
 * by setup(); a parameter that changes no answer is not named. */
#include "policy_forms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "replay_impl.h"

enum { FORMS_MAX = 1024, FORMS_LAYERS = 4 };

uint32_t kvt_choice_count(const char *choices)
{
    uint32_t n = 1;

    for (; *choices; choices++)
        n += *choices == '|';
    return n;
}

const char *kvt_choice_word(const char *choices, uint32_t index, char out[KVT_FORM_WORD])
{
    while (index-- > 0)
        choices += strcspn(choices, "|") + 1;
    snprintf(out, KVT_FORM_WORD, "%.*s", (int)strcspn(choices, "|"), choices);
    return out;
}

/* ---- one configuration ---------------------------------------------------------------- */

/* Asked with a model of round numbers; some policies take a budget in tokens only. */
static kvt_status forms_ask(const kvt_config *c, kvt_form *f, kvt_err *err)
{
    static const kvt_layer_info layer = { .n_heads = 8, .n_kv_heads = 4, .d_k = 64, .d_v = 64, .scale = 0.125 };
    static const char *const budgets[] = { "0.5", "512t" };
    const kvt_layer_info layers[FORMS_LAYERS] = { layer, layer, layer, layer };
    const kvt_trace_info info = { .n_layers = FORMS_LAYERS, .n_prompt = 1024, .n_decode = 128, .layer = layers };
    kvt_setup s = { .refuse = "" };
    int online;

    for (size_t i = 0; i < sizeof budgets / sizeof *budgets && s.refuse; i++) {
        kvt_budget budget;
        kvt_job job;
        KVT_TRY(kvt_budget_parse(&budget, budgets[i], KVT_RULE_SHARE, err));
        kvt__job(c, &budget, &info, 0, 0, &job);
        kvt__setup(c->policy, &job, &s);
    }
    online = (s.caps & KVT_POLICY_ONLINE) != 0;
    f->refused = s.refuse;
    f->caps = s.caps;
    f->needs = s.needs;
    f->window = s.needs & KVT_NEED_WINDOW ? s.window : 0;
    f->caches = c->caches;
    f->span = s.caps & KVT_POLICY_ONESHOT ? s.rank_over : s.share_over;
    f->in_prompt = online && s.prompt_stride > 0;
    f->later = online && s.capacity != KVT_NO_LIMIT;
    f->nested = s.nested;
    f->stack = s.stack;
    f->overshoots = s.overshoots || c->info.may_overshoot;
    f->has = -1;
    return KVT_OK;
}

/* Does b behave as a? What is refused behaves as anything. */
static int forms_same(const kvt_form *a, const kvt_form *b)
{
    return b->refused || (!a->refused && a->caps == b->caps && a->needs == b->needs && a->window == b->window
                          && a->caches == b->caches && a->span == b->span && a->in_prompt == b->in_prompt
                          && a->later == b->later && a->nested == b->nested && a->stack == b->stack
                          && a->overshoots == b->overshoots);
}

/* ---- all of them ------------------------------------------------------------------------ */

typedef struct forms_table {            /* the first parameter varies slowest              */
    const kvt_policy *policy;
    uint32_t  param[KVT_PARAMS_MAX], n_words[KVT_PARAMS_MAX], n_params, n;
    kvt_form *answer;                   /* [n]                                             */
} forms_table;

static void forms_axes(forms_table *t)
{
    t->n = 1;
    for (uint32_t i = 0; t->policy->params && t->policy->params[i].name; i++) {
        const char *choices = t->policy->params[i].choices;
        const uint32_t words = choices ? kvt_choice_count(choices) : 0;
        if (words < 2 || words > FORMS_MAX / t->n)
            continue;
        t->param[t->n_params] = i;
        t->n_words[t->n_params++] = words;
        t->n *= words;
    }
}

/* The spec of a combination names only what differs from the default: a parameter that
 * belongs to another impl may be refused when it is named. */
static kvt_status forms_answer(const forms_table *t, uint32_t at, kvt_err *err)
{
    kvt_form *f = &t->answer[at];
    const char *separator = ":";
    kvt_config *c = NULL;
    uint32_t block = t->n;
    kvt_status st;
    int used = snprintf(f->spec, sizeof f->spec, "%s", t->policy->id);

    for (uint32_t k = 0; k < t->n_params; k++) {
        const kvt_param_def *d = &t->policy->params[t->param[k]];
        char word[KVT_FORM_WORD];
        uint32_t value;

        block /= t->n_words[k];
        value = at / block % t->n_words[k];
        if (value == (uint32_t)d->def || used < 0 || (size_t)used >= sizeof f->spec)
            continue;
        used += snprintf(f->spec + used, sizeof f->spec - (size_t)used, "%s%s=%s", separator, d->name,
                         kvt_choice_word(d->choices, value, word));
        separator = ",";
    }
    st = kvt_config_parse(&c, f->spec, err);
    if (st == KVT_OK)
        st = forms_ask(c, f, err);
    else if (st != KVT_ENOMEM)
        f->refused = "no such configuration", st = KVT_OK;
    kvt_config_free(c);
    return st;
}

/* Append the forms among answer[at .. at+block-1], whose first k parameters are settled. */
static void forms_split(const forms_table *t, uint32_t k, uint32_t at, uint32_t block, kvt_forms *out)
{
    uint32_t sub, usual;
    int same = 1;

    if (k == t->n_params) {
        if (!t->answer[at].refused)
            out->form[out->n++] = t->answer[at];
        return;
    }
    sub = block / t->n_words[k];
    usual = at + (uint32_t)t->policy->params[t->param[k]].def * sub;
    for (uint32_t i = 0; i < block; i++)
        same &= forms_same(&t->answer[usual + i % sub], &t->answer[at + i]);
    forms_split(t, k + 1, usual, sub, out);
    for (uint32_t v = 0; v < t->n_words[k] && !same; v++)
        if (at + v * sub != usual)
            forms_split(t, k + 1, at + v * sub, sub, out);
}

static kvt_status forms_all(kvt_forms *out, kvt_err *err)
{
    forms_table t = { .policy = out->config->policy };
    kvt_status st = KVT_OK;

    forms_axes(&t);
    t.answer = calloc(t.n, sizeof *t.answer);
    out->form = calloc(t.n, sizeof *out->form);
    if (!t.answer || !out->form)
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < t.n && st == KVT_OK; i++)
        st = forms_answer(&t, i, err);
    if (st == KVT_OK)
        forms_split(&t, 0, 0, t.n, out);
    free(t.answer);
    return st;
}

kvt_status kvt_forms_init(kvt_forms *out, const char *spec, kvt_err *err)
{
    kvt_forms f = { 0 };
    kvt_status st;

    KVT_TRY(kvt_config_parse(&f.config, spec, err));
    if (!strchr(spec, ':')) {
        st = forms_all(&f, err);
    } else {
        f.form = calloc(1, sizeof *f.form);
        st = f.form ? forms_ask(f.config, f.form, err) : kvt_fail(err, KVT_ENOMEM, "out of memory");
        if (st == KVT_OK)
            snprintf(f.form->spec, sizeof f.form->spec, "%s", spec);
        f.n = st == KVT_OK;
    }
    if (st < 0)
        kvt_forms_fini(&f);
    else
        *out = f;
    return st;
}

void kvt_forms_fini(kvt_forms *f)
{
    kvt_config_free(f->config);
    free(f->form);
    *f = (kvt_forms){ 0 };
}

/* A budget that a policy refuses says nothing about the trace, so several are tried. */
static kvt_status forms_check(kvt_form *f, const kvt_trace_info *info, kvt_err *err)
{
    char tokens[16];
    const char *budgets[] = { "0.5", tokens, "0.9" };
    kvt_status st = KVT_EARG;
    kvt_config *c = NULL;
    kvt_err why = { KVT_OK, "" };

    snprintf(tokens, sizeof tokens, "%ut", info->n_prompt / 2 + 1);
    KVT_TRY(kvt_config_parse(&c, f->spec, err));
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets && st == KVT_EARG; i++) {
        kvt_budget budget;
        st = kvt_budget_parse(&budget, budgets[i], KVT_RULE_SHARE, &why);
        if (st == KVT_OK)
            st = kvt_plan_check(info, c, &budget, &why);
    }
    kvt_config_free(c);
    f->has = st == KVT_OK;
    snprintf(f->missing, sizeof f->missing, "%s", f->has ? "" : why.text);
    return KVT_OK;
}

kvt_status kvt_forms_check(kvt_forms *f, const kvt_trace_info *info, kvt_err *err)
{
    for (uint32_t i = 0; i < f->n; i++)
        KVT_TRY(forms_check(&f->form[i], info, err));
    return KVT_OK;
}

/* ---- words ------------------------------------------------------------------------------ */

const char *kvt_policy_class(const kvt_policy *p)
{
    const uint32_t both = KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE;

    return p->caps & KVT_POLICY_ORACLE ? "oracle" : p->caps & KVT_POLICY_BASELINE ? "baseline"
         : (p->caps & both) == both ? "both" : p->caps & KVT_POLICY_ONLINE ? "online" : "one-shot";
}

const char *kvt_policy_class_text(const kvt_policy *p)
{
    const uint32_t both = KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE;

    if (p->caps & KVT_POLICY_ORACLE)
        return "reads the future; a bound, not a policy";
    if (p->caps & KVT_POLICY_BASELINE)
        return "added to every replay";
    return (p->caps & both) == both ? "chooses when the prompt is complete, while tokens enter, or at both; see the forms"
         : p->caps & KVT_POLICY_ONLINE ? "chooses while tokens enter" : "chooses once, when the prompt is complete";
}

static const struct { uint32_t need; const char *word, *text; } forms_need[] = {
    { KVT_NEED_WINDOW, "window", NULL },
    { KVT_NEED_PROMPT, "prompt", "queries of the whole prompt" },
    { KVT_NEED_COLSTAT, "colstat", "column statistics" },
    { KVT_NEED_NU, "nu", "value norms" },
    { KVT_NEED_VALUES, "values", "values" },
    { KVT_NEED_ROPE, "rope", "rotary metadata" },
};

const char *kvt_form_needs(const kvt_form *f, char out[KVT_FORM_TEXT])
{
    size_t used = 0;

    out[0] = 0;
    for (size_t i = 0; i < sizeof forms_need / sizeof *forms_need; i++) {
        char text[64];
        if (!(f->needs & forms_need[i].need))
            continue;
        if (forms_need[i].need == KVT_NEED_WINDOW)
            snprintf(text, sizeof text, f->window == 1 ? "query of the last prompt token" : "queries of the last %u prompt tokens", f->window);
        else
            snprintf(text, sizeof text, "%s", forms_need[i].text);
        used += (size_t)snprintf(out + used, KVT_FORM_TEXT - used, "%s%s", used ? ", " : "", text);
    }
    return used ? out : strcpy(out, "nothing more");
}

const char *kvt_form_decides(const kvt_form *f)
{
    if (f->caps & KVT_POLICY_BOUND)
        return "per step, in hindsight";
    if (f->caps & KVT_POLICY_ORACLE)
        return "in hindsight";
    if (f->caps & KVT_POLICY_ONESHOT && f->caps & KVT_POLICY_CASCADE)
        return f->later ? "after each layer of the prompt, then every step" : "after each layer of the prompt";
    if (f->caps & KVT_POLICY_ONESHOT)
        return f->later ? "after the prompt, then every step" : "after the prompt";
    if (f->caps & KVT_POLICY_ONLINE)
        return f->in_prompt && f->later ? "in the prompt, then every step" : f->in_prompt ? "in the prompt" : "every step";
    return "never";
}

const char *kvt_form_span(const kvt_form *f)
{
    return !(f->caps & (KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE)) ? "-" : f->span == KVT_SPAN_MODEL ? "model"
         : f->span == KVT_SPAN_LAYER ? "layer" : "cache";
}

const char *kvt_form_need_word(const kvt_form *f, size_t *at)
{
    for (; *at < sizeof forms_need / sizeof *forms_need; ++*at)
        if (f->needs & forms_need[*at].need)
            return forms_need[(*at)++].word;
    return NULL;
}
