/* plugin_check.c - what the descriptor of a foreign policy must hold to. The engine relies
 * on it as on a built-in one, so everything is looked at before the first use. */
#include "plugin_impl.h"

#include <math.h>
#include <string.h>
#include "kvt_text.h"

enum { CHECK_WORD = 31, CHECK_NAMES = 200,      /* longest word; all parameter names together */
       CHECK_CAPS = (KVT_POLICY_CASCADE << 1) - 1, CHECK_NEEDS = (KVT_NEED_ROPE << 1) - 1 };

/* [a-z][a-z0-9_]*, at most CHECK_WORD characters. */
static int check_is_word(const char *s)
{
    const size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_");

    return n > 0 && n <= CHECK_WORD && s[n] == 0 && s[0] >= 'a' && s[0] <= 'z';
}

/* "a|b|c": how many words, all of them plain and different; 0 = not such a list. */
static uint32_t check_choices(const char *list)
{
    uint32_t n = 0;

    for (const char *at = list;; at++) {
        const size_t len = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
        if (len == 0 || len > CHECK_WORD || (at[len] && at[len] != '|'))
            return 0;
        for (const char *before = list; before < at; before += strcspn(before, "|") + 1)
            if (strcspn(before, "|") == len && !strncmp(before, at, len))
                return 0;
        n++;
        at += len;
        if (!*at)
            return n;
    }
}

static kvt_status check_param(const char *path, const kvt_policy *p, uint32_t i, kvt_err *err)
{
    static const char *const taken[] = { "caches", "steps", "ties", "keep_first", "keep_last" };
    const kvt_param_def *d = &p->params[i];
    char word[PLUGIN_SHOWN], def[32], min[32], max[32];

    if (!check_is_word(d->name))
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: parameter '%s': a name is [a-z][a-z0-9_]*, at most %d characters", path, p->id,
                        kvt_printable_str(word, sizeof word, d->name), CHECK_WORD);
    for (uint32_t k = 0; k < i; k++)
        if (!strcmp(p->params[k].name, d->name))
            return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: two parameters have the name '%s'", path, p->id, d->name);
    for (size_t k = 0; k < sizeof taken / sizeof *taken; k++)
        if (!strcmp(taken[k], d->name))
            return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: parameter '%s': every policy has that one already", path, p->id, d->name);
    if (!strcmp(d->name, "semantics") && !d->choices)
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: parameter 'semantics' needs the choices code|paper", path, p->id);
    if (d->choices) {
        const uint32_t n = check_choices(d->choices);
        if (n == 0)
            return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: parameter '%s': choices '%s': expected different words as in a|b|c", path,
                            p->id, d->name, kvt_printable_str(word, sizeof word, d->choices));
        if (!(d->def >= 0 && d->def < n && d->def == floor(d->def)))
            return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: parameter '%s': the default is an index of its %u choices", path, p->id,
                            d->name, n);
        return KVT_OK;
    }
    if (!isfinite(d->def) || !isfinite(d->min) || !isfinite(d->max) || d->min > d->def || d->def > d->max)
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: parameter '%s': default, min, max are %s, %s, %s: expected min <= default <= max",
                        path, p->id, d->name, isfinite(d->def) ? kvt_number(def, d->def) : "not finite",
                        isfinite(d->min) ? kvt_number(min, d->min) : "not finite", isfinite(d->max) ? kvt_number(max, d->max) : "not finite");
    if (d->integer < 0 || d->integer > 2 || (d->integer && d->def != floor(d->def)) || (d->integer == 2 && fmod(d->def, 2) != 1))
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: parameter '%s': the default %s is no such number as .integer = %d asks for", path,
                        p->id, d->name, kvt_number(def, d->def), d->integer);
    return KVT_OK;
}

static kvt_status check_params(const char *path, const kvt_policy *p, kvt_err *err)
{
    size_t names = 0;

    for (uint32_t i = 0; p->params && p->params[i].name; i++) {
        if (i == KVT_PARAMS_MAX)
            return kvt_fail(err, KVT_EFORMAT, "%s: policy %s has more than %u parameters, or .params does not end with { 0 }", path, p->id,
                            KVT_PARAMS_MAX);
        KVT_TRY(check_param(path, p, i, err));
        names += strlen(p->params[i].name);
    }
    if (names > CHECK_NAMES)
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: the names of its parameters have %zu characters together, at most %d are allowed",
                        path, p->id, names, CHECK_NAMES);
    return KVT_OK;
}

/* What .caps and .needs promise, and the callbacks that are there. */
static kvt_status check_callbacks(const char *path, const kvt_policy *p, kvt_err *err)
{
    const int oneshot = (p->caps & KVT_POLICY_ONESHOT) != 0, online = (p->caps & KVT_POLICY_ONLINE) != 0;
    const char *why = NULL;

    if (p->caps & ~(unsigned)CHECK_CAPS || p->needs & ~(unsigned)CHECK_NEEDS)
        why = "has a bit in .caps or .needs that this interface does not know";
    else if (p->caps & (KVT_POLICY_BOUND | KVT_POLICY_BASELINE))
        why = "has KVT_POLICY_BOUND or KVT_POLICY_BASELINE in .caps: those are for policies of the program";
    else if (!p->score && !p->worth)
        why = "has neither score() nor worth(): nothing says what a token is worth";
    else if (oneshot != (p->score != NULL))
        why = oneshot ? "has KVT_POLICY_ONESHOT in .caps and no score()" : "has score(), but not KVT_POLICY_ONESHOT in .caps";
    else if (online != (p->worth != NULL))
        why = online ? "has KVT_POLICY_ONLINE in .caps and no worth()" : "has worth(), but not KVT_POLICY_ONLINE in .caps";
    else if (!online && (p->begin || p->observe || p->slot_cols))
        why = "has begin(), observe() or columns, but not KVT_POLICY_ONLINE in .caps";
    else if (p->allot && !oneshot)
        why = "has allot(), but no score()";
    else if ((p->caps & KVT_POLICY_CASCADE) && !p->allot)
        why = "has KVT_POLICY_CASCADE in .caps and no allot()";
    else if ((p->needs & KVT_NEED_FUTURE) && !(p->caps & KVT_POLICY_ORACLE))
        why = "reads the future (KVT_NEED_FUTURE) and does not say so (KVT_POLICY_ORACLE)";
    else if ((p->caps & KVT_POLICY_ORACLE) && (online || p->allot || p->rank_over != KVT_SPAN_CACHE))
        why = "has KVT_POLICY_ORACLE in .caps: an oracle chooses once, per cache";
    return why ? kvt_fail(err, KVT_EFORMAT, "%s: policy %s %s", path, p->id, why) : KVT_OK;
}

kvt_status kvt__plugin_check(const char *path, const kvt_policy *p, kvt_err *err)
{
    char word[PLUGIN_SHOWN];

    if (!p)
        return kvt_fail(err, KVT_EFORMAT, "%s: kvt_policy_plugin() returned NULL", path);
    if (p->abi != KVT_POLICY_ABI)       /* nothing behind .abi means anything then */
        return kvt_fail(err, KVT_EVERSION, "%s: built for version %u of the policy interface, this program has version %u: rebuild against "
                        "the kvt_policy.h of this kvtrace (or is .abi = KVT_POLICY_ABI missing?)", path, p->abi, KVT_POLICY_ABI);
    if (!p->id || !check_is_word(p->id))
        return kvt_fail(err, KVT_EFORMAT, "%s: policy id '%s': expected [a-z][a-z0-9_]*, at most %d characters", path,
                        kvt_printable_str(word, sizeof word, p->id), CHECK_WORD);
    if (kvt_policy_find(p->id))
        return kvt_fail(err, KVT_EFORMAT, "%s: policy id '%s' is taken by %s: choose another", path, p->id, kvt_policy_find(p->id)->title);
    if (p->version == 0)
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: .version is 0: start at 1, add 1 when a kept set can change", path, p->id);
    KVT_TRY(check_callbacks(path, p, err));
    if ((unsigned)p->caches > KVT_CACHES_QUERY || (unsigned)p->rank_over > KVT_SPAN_MODEL || (unsigned)p->share_over > KVT_SPAN_LAYER)
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: .caches, .rank_over or .share_over has a value that is not allowed", path, p->id);
    if (p->slot_cols > PLUGIN_COLS_MAX)
        return kvt_fail(err, KVT_EFORMAT, "%s: policy %s: %u columns per slot, at most %d are allowed", path, p->id, p->slot_cols,
                        PLUGIN_COLS_MAX);
    return check_params(path, p, err);
}
