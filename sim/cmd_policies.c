/* kvtrace policies: which policies there are, what each does and needs, and whether a
 * trace has it. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_cli.h"
#include "kvt_registry.h"
#include "kvt_text.h"
#include "kvt_version.h"
#include "plugin.h"
#include "policy_forms.h"
#include "trace_guard.h"

static const char *policy_title(const kvt_policy *p) { return p->title ? p->title : p->id; }
static const char *policy_cite(const kvt_policy *p) { return p->cite ? p->cite : ""; }

static const kvt_opt policies_opts[] = {
    { "json", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "one JSON object instead of a table" },
    { "markdown", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "list only: the table of policies/README.md" },
    KVT_PLUGIN_OPTS,
    { 0 }
};

typedef struct policies_all {
    kvt_forms *entry;               /* [n]                                                 */
    uint32_t   n;
    kvt_source src;                 /* zeroed: no trace given                              */
} policies_all;

/* ---- words ----------------------------------------------------------------------------- */

static const char *policies_value(const kvt_param_def *d, double x, char out[KVT_FORM_WORD])
{
    return d->choices ? kvt_choice_word(d->choices, (uint32_t)x, out) : kvt_number(out, x);
}

/* A bar ends a cell of a table in markdown. */
static void policies_print_text(const char *text, int markdown)
{
    for (; *text; text++)
        printf(markdown && *text == '|' ? "\\|" : "%c", *text);
}

static const char *policies_range(const kvt_param_def *d, char out[KVT_FORM_TEXT])
{
    char min[32], max[32];

    if (d->choices)
        snprintf(out, KVT_FORM_TEXT, "%s", d->choices);
    else
        snprintf(out, KVT_FORM_TEXT, "%s to %s%s", kvt_number(min, d->min), kvt_number(max, d->max),
                 d->integer == 2 ? ", odd" : "");
    return out;
}

static const char *policies_caches(kvt_caches caches)
{
    return caches == KVT_CACHES_QUERY ? "query" : "kv";
}

static int policies_has_paper(const kvt_policy *p)
{
    for (const kvt_param_def *d = p->params; d && d->name; d++)
        if (!strcmp(d->name, "semantics"))
            return 1;
    return 0;
}

/* Settings that a spec may have besides the policy's own parameters; NULL after the last. */
static const char *policies_setting(const kvt_policy *p, uint32_t index)
{
    static const char *const names[] = { "caches", "semantics", "ties", "keep_first", "keep_last", "steps" };
    const int chooses = p->caps & (KVT_POLICY_ONESHOT | KVT_POLICY_ONLINE) && !(p->caps & KVT_POLICY_ORACLE);

    return index < (p->caps & KVT_POLICY_ONLINE ? 6u : chooses ? 5u : 3u) ? names[index] : NULL;
}

static int policies_needs_differ(const kvt_forms *e)
{
    int differ = 0;

    for (uint32_t i = 1; i < e->n; i++)
        differ |= e->form[i].needs != e->form[0].needs || e->form[i].window != e->form[0].window;
    return differ;
}

/* "yes", "no", or "some" where forms differ. */
static const char *policies_verdict(const kvt_forms *e)
{
    uint32_t n_has = 0;

    for (uint32_t i = 0; i < e->n; i++)
        n_has += e->form[i].has > 0;
    return n_has == e->n ? "yes" : n_has ? "some" : "no";
}

/* ---- tables ------------------------------------------------------------------------------ */

/* One line for all forms that lack something. */
static void policies_print_missing(const kvt_forms *e)
{
    const kvt_form *first = NULL;
    uint32_t n = 0;

    for (uint32_t i = 0; i < e->n; i++)
        if (e->form[i].has == 0 && n++ == 0)
            first = &e->form[i];
    if (n)
        printf("    missing: %s", first->missing);
    if (n > 1)
        printf("; %u more form%s", n - 1, n > 2 ? "s" : "");
    if (n)
        putchar('\n');
}

static void policies_print_list(const policies_all *all)
{
    const int traced = all->src.ops != NULL;
    char needs[KVT_FORM_TEXT];

    printf("%-18s %-9s %s%-34s %s\n", "id", "class", traced ? "this trace  " : "", "title", "citation");
    for (uint32_t i = 0; i < all->n; i++) {
        const kvt_forms *e = &all->entry[i];
        const kvt_policy *p = e->config->policy;
        printf("%-18s %-9s ", p->id, kvt_policy_class(p));
        if (traced)
            printf("%-11s ", policies_verdict(e));
        printf(policy_cite(p)[0] ? "%-34s %s\n" : "%s%s\n", policy_title(p), policy_cite(p));
        printf("    needs: %s%s\n", kvt_form_needs(e->form, needs), policies_needs_differ(e) ? "; other forms differ" : "");
        policies_print_missing(e);
    }
    printf("\nEvery trace has keys and the queries of the decode steps; `needs` is what a policy reads besides.\n"
           "kvtrace policies show ID tells about one of them, and about its forms.\n");
}

/* "32, 64 with impl=kvpress". */
static void policies_print_default(const kvt_policy *p, const kvt_param_def *d, int markdown)
{
    char value[KVT_FORM_WORD];

    printf("%s", policies_value(d, d->def, value));
    for (const kvt_param_alt *a = p->alts; a && a->name; a++)
        if (!strcmp(a->name, d->name)) {
            printf(markdown ? "; %s with `" : ", %s with ", policies_value(d, a->def, value));
            policies_print_text(a->when, markdown);
            printf("%s", markdown ? "`" : "");
        }
}

static void policies_print_params(const kvt_forms *e)
{
    const kvt_policy *p = e->config->policy;
    char value[KVT_FORM_WORD], range[KVT_FORM_TEXT];
    const char *name;

    puts("\nparameters");
    for (uint32_t i = 0; p->params && p->params[i].name; i++) {
        const kvt_param_def *d = &p->params[i];
        printf("  %-15s %-10s %s\n  %-15s %-10s default ", d->name, policies_value(d, e->config->param[i], value), d->help, "", "");
        policies_print_default(p, d, 0);
        printf("; %s\n", policies_range(d, range));
    }
    printf("  besides, as with every policy:");
    for (uint32_t i = 0; (name = policies_setting(p, i)) != NULL; i++)
        printf(" %s", name);
    putchar('\n');
}

static void policies_print_forms(const kvt_forms *e)
{
    char needs[KVT_FORM_TEXT];

    puts("\nforms");
    for (uint32_t i = 0; i < e->n; i++) {
        const kvt_form *f = &e->form[i];
        printf("  %s\n", f->spec);
        if (f->refused) {
            printf("      refused     %s\n", f->refused);
            continue;
        }
        printf("      decides     %s; competes over: %s; caches=%s\n", kvt_form_decides(f), kvt_form_span(f), policies_caches(f->caches));
        printf("      needs       %s\n", kvt_form_needs(f, needs));
        printf("      kept sets   %s; %s\n", f->nested ? "nested: a smaller budget keeps a subset" : "not nested",
               f->overshoots ? "may hold more than asked for" : "never more than asked for");
        if (f->later)
            printf("      curves      %s\n", f->stack ? "a stack: one run gives every budget" : "every budget is simulated by itself");
        if (f->has >= 0)
            printf("      this trace  %s%s\n", f->has ? "yes" : "no: ", f->missing);
    }
}

static void policies_print_show(const kvt_forms *e)
{
    const kvt_policy *p = e->config->policy;

    printf("%s - %s\n", p->id, policy_title(p));
    if (policy_cite(p)[0])
        printf("  citation    %s\n", policy_cite(p));
    printf("  class       %s: %s\n", kvt_policy_class(p), kvt_policy_class_text(p));
    printf("  version     %u\n", p->version);
    if (kvt_policy_origin(p))
        printf("  plug-in     SHA-256 %s\n", kvt_policy_origin(p));
    printf("  paper form  %s\n", policies_has_paper(p) ? "yes: semantics=paper" : "no: semantics=code only");
    if (p->note)
        printf("  paper, code %s\n", p->note);
    policies_print_params(e);
    policies_print_forms(e);
    printf("\nexample\n  kvtrace replay TRACE -p %s -b 0.1,0.2,0.4 -o results.db\n", e->config->info.label);
}

/* ---- markdown ---------------------------------------------------------------------------- */

static void policies_md_needs(const kvt_forms *e)
{
    char needs[KVT_FORM_TEXT], other[KVT_FORM_TEXT];

    printf("%s", kvt_form_needs(e->form, needs));
    for (uint32_t i = 1; i < e->n; i++) {
        int seen = !strcmp(kvt_form_needs(&e->form[i], other), needs);
        for (uint32_t k = 1; k < i && !seen; k++) {
            char earlier[KVT_FORM_TEXT];
            seen = !strcmp(kvt_form_needs(&e->form[k], earlier), other);
        }
        if (seen)
            continue;
        printf("; `%s`", strchr(e->form[i].spec, ':') + 1);
        for (uint32_t k = i + 1; k < e->n; k++) {
            char later[KVT_FORM_TEXT];
            if (!strcmp(kvt_form_needs(&e->form[k], later), other))
                printf(", `%s`", strchr(e->form[k].spec, ':') + 1);
        }
        printf(": %s", other);
    }
}

static void policies_print_markdown(const policies_all *all)
{
    puts("| id | what | class | needs | parameters (default) | citation |\n|---|---|---|---|---|---|");
    for (uint32_t i = 0; i < all->n; i++) {
        const kvt_policy *p = all->entry[i].config->policy;
        printf("| `%s` | ", p->id);
        policies_print_text(policy_title(p), 1);
        printf(" | %s | ", kvt_policy_class(p));
        policies_md_needs(&all->entry[i]);
        printf(" |");
        for (const kvt_param_def *d = p->params; d && d->name; d++) {
            printf("%s `%s", d == p->params ? "" : ",", d->name);
            if (d->choices) {
                putchar('=');
                policies_print_text(d->choices, 1);
            }
            printf("` (");
            policies_print_default(p, d, 1);
            putchar(')');
        }
        printf("%s | %s |\n", p->caches == KVT_CACHES_QUERY ? "; `caches` (query)" : "", policy_cite(p));
    }
    printf("\nStacks, whose curves come from one run for all budgets (`kvt_setup.stack`):");
    for (uint32_t i = 0, n = 0; i < all->n; i++)
        for (uint32_t k = 0; k < all->entry[i].n; k++)
            if (all->entry[i].form[k].stack)
                printf("%s `%s`", n++ ? "," : "", all->entry[i].form[k].spec);
    puts(". The other online forms are simulated budget by budget.");
    puts("\nWhere paper and code differ, and which of it is built:\n");
    for (uint32_t i = 0; i < all->n; i++)
        if (all->entry[i].config->policy->note)
            printf("* `%s`: %s\n", all->entry[i].config->policy->id, all->entry[i].config->policy->note);
}

/* ---- JSON -------------------------------------------------------------------------------- */

static int json_text(cJSON *o, const char *name, const char *text)
{
    return cJSON_AddStringToObject(o, name, text) != NULL;
}

static int json_number(cJSON *o, const char *name, double x)
{
    return cJSON_AddNumberToObject(o, name, x) != NULL;
}

static cJSON *json_item(cJSON *list)
{
    cJSON *o = cJSON_CreateObject();

    if (o && cJSON_AddItemToArray(list, o))
        return o;
    cJSON_Delete(o);
    return NULL;
}

/* Defaults under other choices. */
static int json_alts(cJSON *o, const kvt_policy *p, const kvt_param_def *d)
{
    char value[KVT_FORM_WORD];
    cJSON *list = cJSON_AddArrayToObject(o, "other_defaults"), *x;
    int ok = list != NULL;

    for (const kvt_param_alt *a = p->alts; ok && a && a->name; a++)
        if (!strcmp(a->name, d->name))
            ok = (x = json_item(list)) != NULL && json_text(x, "when", a->when)
              && (d->choices ? json_text(x, "default", policies_value(d, a->def, value)) : json_number(x, "default", a->def));
    return ok;
}

static int json_param(cJSON *list, const kvt_policy *p, const kvt_param_def *d, double x)
{
    char value[KVT_FORM_WORD];
    cJSON *o = json_item(list), *choices;
    int ok = o && json_text(o, "name", d->name) && json_alts(o, p, d);

    if (!d->choices)
        return ok && json_number(o, "default", d->def) && json_number(o, "value", x) && json_number(o, "min", d->min)
            && json_number(o, "max", d->max) && cJSON_AddBoolToObject(o, "integer", d->integer > 0)
            && cJSON_AddBoolToObject(o, "odd", d->integer == 2) && json_text(o, "help", d->help);
    ok = ok && json_text(o, "default", policies_value(d, d->def, value)) && json_text(o, "value", policies_value(d, x, value))
      && (choices = cJSON_AddArrayToObject(o, "choices")) != NULL;
    for (uint32_t i = 0; ok && i < kvt_choice_count(d->choices); i++)
        ok = cJSON_AddItemToArray(choices, cJSON_CreateString(kvt_choice_word(d->choices, i, value)));
    return ok && json_text(o, "help", d->help);
}

static int json_form(cJSON *list, const kvt_form *f)
{
    cJSON *o = json_item(list), *needs = NULL;
    const char *word;
    size_t at = 0;
    int ok = o && json_text(o, "spec", f->spec) && json_text(o, "decides", kvt_form_decides(f))
          && cJSON_AddBoolToObject(o, "one_shot", (f->caps & KVT_POLICY_ONESHOT) != 0)
          && cJSON_AddBoolToObject(o, "online", (f->caps & KVT_POLICY_ONLINE) != 0)
          && json_text(o, "competes_over", kvt_form_span(f)) && json_text(o, "caches", policies_caches(f->caches))
          && cJSON_AddBoolToObject(o, "nested", f->nested) && cJSON_AddBoolToObject(o, "stack", f->stack)
          && cJSON_AddBoolToObject(o, "may_overshoot", f->overshoots)
          && json_number(o, "window", f->window) && (needs = cJSON_AddArrayToObject(o, "needs")) != NULL;

    while (ok && (word = kvt_form_need_word(f, &at)) != NULL)
        ok = cJSON_AddItemToArray(needs, cJSON_CreateString(word));
    if (ok && f->has >= 0)
        ok = cJSON_AddBoolToObject(o, "trace_has", f->has) && (f->has ? cJSON_AddNullToObject(o, "missing") != NULL
                                                                      : json_text(o, "missing", f->missing));
    return ok;
}

static int json_entry(cJSON *o, const kvt_forms *e)
{
    const kvt_policy *p = e->config->policy;
    cJSON *params = NULL, *settings = NULL, *forms = NULL;
    const char *name;
    int ok = o && json_text(o, "id", p->id) && json_text(o, "title", policy_title(p)) && json_text(o, "citation", policy_cite(p))
          && json_text(o, "class", kvt_policy_class(p)) && json_number(o, "version", p->version)
          && cJSON_AddBoolToObject(o, "paper_form", policies_has_paper(p))
          && (kvt_policy_origin(p) ? json_text(o, "plugin_sha256", kvt_policy_origin(p)) : cJSON_AddNullToObject(o, "plugin_sha256") != NULL)
          && (p->note ? json_text(o, "note", p->note) : cJSON_AddNullToObject(o, "note") != NULL)
          && (params = cJSON_AddArrayToObject(o, "parameters")) != NULL;

    for (uint32_t i = 0; ok && p->params && p->params[i].name; i++)
        ok = json_param(params, p, &p->params[i], e->config->param[i]);
    ok = ok && (settings = cJSON_AddArrayToObject(o, "settings")) != NULL;
    for (uint32_t i = 0; ok && (name = policies_setting(p, i)) != NULL; i++)
        ok = cJSON_AddItemToArray(settings, cJSON_CreateString(name));
    ok = ok && (forms = cJSON_AddArrayToObject(o, "forms")) != NULL;
    for (uint32_t i = 0; ok && i < e->n; i++)
        ok = json_form(forms, &e->form[i]);
    return ok;
}

static kvt_status policies_print_json(const policies_all *all, kvt_err *err)
{
    char path[KVT_FORM_TEXT];
    cJSON *root = cJSON_CreateObject(), *list = NULL;
    char *text = NULL;
    int ok = root && json_number(root, "schema", 1) && json_text(root, "kind", "policies") && json_text(root, "version", KVT_VERSION)
          && (all->src.ops ? json_text(root, "trace", kvt_printable_str(path, sizeof path, all->src.path))
                           : cJSON_AddNullToObject(root, "trace") != NULL)
          && (list = cJSON_AddArrayToObject(root, "policies")) != NULL;

    for (uint32_t i = 0; ok && i < all->n; i++)
        ok = json_entry(json_item(list), &all->entry[i]);
    if (ok)
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    puts(text);
    cJSON_free(text);
    return KVT_OK;
}

/* ---- the command -------------------------------------------------------------------------- */

/* A trace that is missing or cannot be replayed is bad input, whatever open() called it. */
static kvt_status policies_open(policies_all *all, const char *path, int *exit_code, kvt_err *err)
{
    kvt_err why;
    kvt_status st;

    kvt_guard_begin(path);
    st = kvt_source_open(&all->src, path, 0, &why);
    kvt_guard_end();
    if (st == KVT_OK)
        st = kvt_plan_check_trace(&all->src, &why);
    if (st == KVT_EIO) {
        fprintf(stderr, "kvtrace: %s\n", why.text);
        *exit_code = KVT_EXIT_INPUT;
        return KVT_OK;
    }
    if (st < 0 && err)
        *err = why;
    return st;
}

static kvt_status policies_add(policies_all *all, const char *spec, kvt_err *err)
{
    const kvt_status st = kvt_forms_init(&all->entry[all->n], spec, err);

    if (st == KVT_ENOTSUP) {                     /* not built yet is a usage error, as in replay */
        if (err)
            err->status = KVT_EARG;
        return KVT_EARG;
    }
    KVT_TRY(st);
    all->n++;
    return all->src.ops ? kvt_forms_check(&all->entry[all->n - 1], all->src.info, err) : KVT_OK;
}

static kvt_status policies_fill(policies_all *all, const char *spec, kvt_err *err)
{
    all->entry = calloc(spec ? 1 : kvt_policy_count(), sizeof *all->entry);
    if (!all->entry)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    if (spec)
        return policies_add(all, spec, err);
    for (size_t i = 0; i < kvt_policy_count(); i++)
        KVT_TRY(policies_add(all, kvt_policy_at(i)->id, err));
    return KVT_OK;
}

static kvt_status policies_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    const char *verb = kvt_arg_item(args, NULL, 0);
    const int show = !strcmp(verb, "show"), json = kvt_arg_flag(args, "json"), markdown = kvt_arg_flag(args, "markdown");
    const uint32_t n = kvt_arg_count(args, NULL), at = show ? 2 : 1;
    policies_all all = { 0 };
    char shown[KVT_FORM_WORD];
    kvt_status st = KVT_OK;

    if (!show && strcmp(verb, "list"))
        return kvt_fail(err, KVT_EARG, "policies: '%s' is neither list nor show", kvt_printable_str(shown, sizeof shown, verb));
    if (show && n < 2)
        return kvt_fail(err, KVT_EARG, "policies show: missing operand: the id of a policy");
    if (n > at + 1)
        return kvt_fail(err, KVT_EARG, "policies %s: unexpected operand '%s'", verb,
                        kvt_printable_str(shown, sizeof shown, kvt_arg_item(args, NULL, at + 1)));
    if (markdown && (show || json || n > at))
        return kvt_fail(err, KVT_EARG, "--markdown belongs to `kvtrace policies list` alone");
    KVT_TRY(kvt_plugins_load(args, err));
    if (n > at)
        KVT_TRY_GOTO(st, policies_open(&all, kvt_arg_item(args, NULL, at), exit_code, err));
    if (*exit_code != KVT_EXIT_OK)
        goto done;
    KVT_TRY_GOTO(st, policies_fill(&all, show ? kvt_arg_item(args, NULL, 1) : NULL, err));
    if (json)
        st = policies_print_json(&all, err);
    else if (markdown)
        policies_print_markdown(&all);
    else if (show)
        policies_print_show(all.entry);
    else
        policies_print_list(&all);
done:
    for (uint32_t i = 0; i < all.n; i++)
        kvt_forms_fini(&all.entry[i]);
    free(all.entry);
    kvt_source_close(&all.src);
    return st;
}

extern const kvt_cmd kvt_cmd_policies;
const kvt_cmd kvt_cmd_policies = {
    .name = "policies", .operands = "list|show ID [TRACE]", .summary = "list the eviction policies, or tell what one does and needs",
    .details =
        "list names every policy; show ID tells about one: parameters, what it needs in each of its\n"
        "forms, whether its kept sets nest, what differs between paper and code. ID may be a whole\n"
        "configuration, id:param=value,...: then only that form is shown. With a TRACE both say\n"
        "whether the trace has what is needed, and what is missing.\n\n"
        "  kvtrace policies list traces/samples/tiny_gqa.h5\n"
        "  kvtrace policies show snapkv\n"
        "  kvtrace policies show tova --json\n",
    .min_operands = 1, .max_operands = 3, .opts = policies_opts, .run = policies_run,
};
