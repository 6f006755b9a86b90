/* Which configurations are drawn in colour. A chart with a line for each of forty
 * configurations shows nothing: a few are drawn together, each other one has a small
 * chart of its own.
 *
 * Chosen, unless the user names others: the best configuration of each of the best four
 * policies and of the most contested of the others, the one whose place moves most
 * between budgets; of fewer policies the next configurations. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

#include "kvt_text.h"

enum { N_CHOSEN = 5, N_BEST = 4 };

int kvt__drawn_as(const kvt__scope *s, const kvt__entry *e)
{
    const size_t at = (size_t)(e - s->rank.e);
    for (size_t i = 0; i < s->n_chosen; i++)
        if (s->chosen[i] == at) return (int)i;
    if (e->role == KVT__ORACLE) return KVT__DRAWN_ORACLE;
    for (size_t i = 0; i < s->n_reference; i++)
        if (s->reference[i] == at) return KVT__DRAWN_REFERENCE;
    return strcmp(e->policy, "full") == 0 ? KVT__NOT_DRAWN : KVT__DRAWN_APART;
}

static int highlight_has(const kvt__scope *s, size_t at)
{
    for (size_t i = 0; i < s->n_chosen; i++)
        if (s->chosen[i] == at) return 1;
    return 0;
}

static void highlight_add(kvt__scope *s, size_t at)
{
    if (s->n_chosen < KVT__MOST_CHOSEN && !highlight_has(s, at)) s->chosen[s->n_chosen++] = at;
}

/* ---- the rule ------------------------------------------------------------------------ */

/* Place of entry i among the leading configurations at a budget; 0 = not measured there. */
static unsigned entry_place_at(const kvt__ranking *r, size_t i, size_t budget)
{
    unsigned place = 1;
    if (isnan(r->e[i].at[budget])) return 0;
    for (size_t k = 0; k < r->n_ranked; k++)
        if (r->e[k].leads && r->e[k].at[budget] < r->e[i].at[budget]) place++;
    return place;
}

static void entry_places(const kvt__ranking *r, size_t i, unsigned *lo, unsigned *hi)
{
    *lo = *hi = 0;
    for (size_t b = 0; b < r->n_budget; b++) {
        const unsigned place = entry_place_at(r, i, b);
        if (!place) continue;
        if (!*lo || place < *lo) *lo = place;
        if (place > *hi) *hi = place;
    }
}

static void highlight_contested(kvt__scope *s)
{
    const kvt__ranking *r = &s->rank;
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < r->n_ranked; i++) {
        unsigned lo, hi;
        if (!r->e[i].leads || highlight_has(s, i)) continue;
        entry_places(r, i, &lo, &hi);
        if (hi - lo <= s->place_hi - s->place_lo) continue;
        s->place_lo = lo;
        s->place_hi = hi;
        best = i;
    }
    if (best == SIZE_MAX) return;
    s->contested = (int)s->n_chosen;
    highlight_add(s, best);
}

static void highlight_by_rule(kvt__scope *s)
{
    const kvt__ranking *r = &s->rank;
    const kvt__entry *focus = kvt__ranking_find(r, s->config_id);
    if (focus && focus->role != KVT__ORACLE && strcmp(focus->policy, "full") != 0 && s->by_user)
        highlight_add(s, (size_t)(focus - r->e));
    for (size_t i = 0; i < r->n_ranked && s->n_chosen < N_BEST; i++)
        if (r->e[i].leads) highlight_add(s, i);
    highlight_contested(s);
    for (size_t i = 0; i < r->n && r->e[i].role == KVT__POLICY && s->n_chosen < N_CHOSEN; i++) highlight_add(s, i);
}

/* ---- the user's choice ----------------------------------------------------------------- */

/* The configuration of a label, or the best placed of a policy's id. */
static const kvt__entry *highlight_find(const kvt__ranking *r, const char *name)
{
    const kvt__entry *of_policy = NULL;
    for (size_t i = 0; i < r->n; i++) {
        if (strcmp(r->e[i].label, name) == 0) return &r->e[i];
        if (!of_policy && strcmp(r->e[i].policy, name) == 0) of_policy = &r->e[i];
    }
    return of_policy;
}

kvt_status kvt__highlight(kvt__scope *s, const kvt_report_opts *opts, int *found, kvt_err *err)
{
    static const char *const reference[2] = {"random_protect", "streaming"};
    char name[64];
    s->contested = -1;
    if (opts->n_highlight > KVT__MOST_CHOSEN)
        return kvt_fail(err, KVT_EARG, "--highlight: %zu policies, at most %d can be told apart in one chart",
                        opts->n_highlight, (int)KVT__MOST_CHOSEN);
    for (size_t i = 0; i < opts->n_highlight; i++) {
        const kvt__entry *e = highlight_find(&s->rank, opts->highlight[i]);
        if (!e) continue;
        found[i] = 1;
        if (e->role == KVT__ORACLE || strcmp(e->policy, "full") == 0)
            return kvt_fail(err, KVT_EARG, "--highlight %s: oracles are drawn in every chart, the full cache in none",
                            kvt_printable_str(name, sizeof name, opts->highlight[i]));
        highlight_add(s, (size_t)(e - s->rank.e));
    }
    s->named = s->n_chosen > 0;
    if (!s->named) highlight_by_rule(s);
    for (size_t k = 0; k < 2; k++) {
        const kvt__entry *e = highlight_find(&s->rank, reference[k]);
        if (e && !highlight_has(s, (size_t)(e - s->rank.e))) s->reference[s->n_reference++] = (size_t)(e - s->rank.e);
    }
    return KVT_OK;
}

void kvt__put_rule(h_page *h, const kvt__scope *s)
{
    if (s->named) {
        h_raw(h, "In colour: the policies named with --highlight.");
        return;
    }
    h_put(h, "In colour, by the %s at budget %s: the best configuration of each of the best policies",
          kvt__ranking_key(&s->rank), s->budget);
    if (s->contested >= 0)
        h_put(h, ", and %s, the most contested of the others: its place among the best configurations moves between "
                 "%u and %u with the budget", s->rank.e[s->chosen[s->contested]].label, s->place_lo, s->place_hi);
    h_raw(h, ". kvtrace report --highlight ID,ID chooses others.");
}
