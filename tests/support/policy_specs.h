/* policy_specs.h - the configurations that tests visit of a policy, made from its parameter
 * table: every combination of the choices (every pair where that is too many), and with
 * every value of every choice the ends of every number. */
#ifndef POLICY_SPECS_H
#define POLICY_SPECS_H

#include <stdarg.h>
#include "policy_world.h"

enum { MAX_SPECS = 1024, SPEC = 160, MAX_COMBINATIONS = 96 };

typedef struct specs {
    char     s[MAX_SPECS][SPEC];
    uint32_t n, n_core;             /* the first n_core: choices; the rest: ends of numbers */
} specs;

static inline uint32_t spec_choices(const kvt_param_def *d)
{
    uint32_t n = d->choices != NULL;
    for (const char *c = d->choices; c && *c; c++) n += *c == '|';
    return n;
}

static inline uint32_t spec_params(const kvt_policy *p)
{
    uint32_t n = 0;
    while (p->params && p->params[n].name) n++;
    return n;
}

static inline void spec_add(char *params, const char *fmt, ...) KVT_PRINTF(2, 3);
static inline void spec_add(char *params, const char *fmt, ...)
{
    size_t n = strlen(params);
    va_list ap;
    if (n) params[n++] = ',';
    va_start(ap, fmt);
    cr_assert(vsnprintf(params + n, SPEC - n, fmt, ap) < (int)(SPEC - n));
    va_end(ap);
}

/* Each once. */
static inline void spec_put(specs *out, const kvt_policy *p, const char *params)
{
    cr_assert(out->n < MAX_SPECS, "%s: more than %d specs", p->id, MAX_SPECS);
    cr_assert(snprintf(out->s[out->n], SPEC, "%s%s%s", p->id, *params ? ":" : "", params) < SPEC);
    for (uint32_t i = 0; i < out->n; i++)
        if (!strcmp(out->s[i], out->s[out->n])) return;
    out->n++;
}

/* Parameters with the choices as told; numbers whose default does not fit a small trace are 7. */
static inline void spec_base(const kvt_policy *p, const uint32_t *choice, const char *leave_out, char params[SPEC])
{
    params[0] = 0;
    for (uint32_t i = 0; i < spec_params(p); i++) {
        const kvt_param_def *d = &p->params[i];
        if (leave_out && !strcmp(d->name, leave_out)) continue;
        if (d->choices && choice[i] != (uint32_t)d->def) {
            const char *word = d->choices;
            for (uint32_t k = 0; k < choice[i]; k++) word = strchr(word, '|') + 1;
            spec_add(params, "%s=%.*s", d->name, (int)strcspn(word, "|"), word);
        } else if (!d->choices && d->integer && d->def > 7 && d->min <= 7) {
            spec_add(params, "%s=7", d->name);
        }
    }
}

static inline void spec_ends(specs *out, const kvt_policy *p, const uint32_t *choice)
{
    for (uint32_t i = 0; i < spec_params(p); i++) {
        const kvt_param_def *d = &p->params[i];
        const double inner = d->max > 64 ? fmax(d->min, 9) : d->max, end[] = {d->min, inner, d->max};
        char params[SPEC], with[SPEC];

        spec_base(p, choice, d->name, params);
        for (uint32_t k = 0; k < 3 && !d->choices; k++) {
            strcpy(with, params);
            spec_add(with, "%s=%.15g", d->name, end[k]);
            if (!k || end[k] != end[k - 1]) spec_put(out, p, with);
        }
    }
}

static inline void spec_defaults(const kvt_policy *p, uint32_t *choice)
{
    for (uint32_t i = 0; i < spec_params(p); i++) choice[i] = p->params[i].choices ? (uint32_t)p->params[i].def : 0;
}

static inline void spec_core(specs *out, const kvt_policy *p)
{
    const uint32_t n = spec_params(p);
    uint32_t choice[KVT_PARAMS_MAX], count[KVT_PARAMS_MAX];
    uint64_t all = 1;
    char params[SPEC];

    for (uint32_t i = 0; i < n; i++) {
        count[i] = spec_choices(&p->params[i]) ? spec_choices(&p->params[i]) : 1;
        all *= count[i];
    }
    for (uint64_t k = 0; k < all && all <= MAX_COMBINATIONS; k++) {
        uint64_t rest = k;
        for (uint32_t i = 0; i < n; rest /= count[i], i++) choice[i] = (uint32_t)(rest % count[i]);
        spec_base(p, choice, NULL, params);
        spec_put(out, p, params);
    }
    for (uint32_t a = 0; a < n && all > MAX_COMBINATIONS; a++)
        for (uint32_t b = a + 1; b < n; b++)
            for (uint32_t k = 0; k < count[a] * count[b] && count[a] > 1 && count[b] > 1; k++) {
                spec_defaults(p, choice);
                choice[a] = k % count[a], choice[b] = k / count[a];
                spec_base(p, choice, NULL, params);
                spec_put(out, p, params);
            }
    spec_defaults(p, choice);
    for (uint32_t i = 0; i < 2; i++) {
        spec_base(p, choice, NULL, params);
        spec_add(params, "caches=%s", i ? "query" : "kv");
        spec_put(out, p, params);
    }
}

static inline void specs_of(const kvt_policy *p, specs *out)
{
    uint32_t choice[KVT_PARAMS_MAX];

    out->n = 0;
    spec_core(out, p);
    out->n_core = out->n;
    spec_defaults(p, choice);
    spec_ends(out, p, choice);
    for (uint32_t i = 0; i < spec_params(p); i++)
        for (uint32_t x = 0; x < spec_choices(&p->params[i]); x++) {
            spec_defaults(p, choice);
            if (x == choice[i]) continue;
            choice[i] = x;
            spec_ends(out, p, choice);
        }
}

/* ---- what runs ------------------------------------------------------------------------- */

/* NULL: this combination of parameters is refused, with one line that names the policy. */
static inline kvt_config *config_if(const kvt_policy *p, const char *spec)
{
    kvt_config *c = NULL;
    kvt_err err = {KVT_OK, ""};
    const kvt_status st = kvt_config_parse(&c, spec, &err);

    cr_assert(st == KVT_OK || (st == KVT_EARG && strstr(err.text, p->id) && !strchr(err.text, '\n')), "%s: %s", spec, err.text);
    return st == KVT_OK ? c : NULL;
}

/* One configuration at those of n budgets that it takes; the number of the others is added
 * to *n_refused. A trace that has everything is refused for the budget alone. */
static inline void batch_make(batch *b, const world *w, const kvt_config *c, kvt_rule rule, const char *const *budget, uint32_t n, uint32_t *n_refused)
{
    *b = (batch){.config = {c}, .n_config = 1};
    for (uint32_t i = 0; i < n; i++) {
        kvt_err err = {KVT_OK, ""};
        kvt_status st;

        budget_of(&b->budget[b->n_budget], budget[i], rule);
        st = kvt_plan_check(&w->info, c, &b->budget[b->n_budget], &err);
        cr_assert(st == KVT_OK || (st == KVT_EARG && strstr(err.text, c->policy->id)), "%s @ %s: %s", c->info.label, budget[i], err.text);
        *n_refused += st != KVT_OK;
        b->n_budget += st == KVT_OK;
    }
}

#endif
