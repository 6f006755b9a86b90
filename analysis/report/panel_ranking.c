/* The ranking: a row for each configuration, its loss at every budget, and which places
 * are not apart. */
#include "curves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLUMNS = 8 };

static int ranking_wants(int drawn)
{
    (void)drawn;
    return 1;
}

/* Which budgets get a column: all, or of many that of the focus and others evenly spaced. */
static size_t ranking_columns(const kvt__scope *s, size_t column[MOST_COLUMNS])
{
    const size_t n = s->rank.n_budget;
    size_t m = 0, focus = 0;
    while (focus < n && s->rank.budget[focus].budget_id != s->budget_id) focus++;
    for (size_t i = 0; i < n; i++) {
        const size_t step = (n + MOST_COLUMNS - 1) / MOST_COLUMNS;
        if (m < MOST_COLUMNS && i % step == focus % step) column[m++] = i;
    }
    return m;
}

/* Row of a curve at a budget; SIZE_MAX = not measured there. */
static size_t ranking_row(const kvt__rows *rows, const kvt__curve *c, int64_t budget_id)
{
    for (size_t i = c->from; i < c->end; i++)
        if (kvt__int(rows, i, CURVE_BUDGET_ID) == budget_id) return i;
    return SIZE_MAX;
}

static double ranking_value(const kvt__rows *rows, const kvt__curve *c, int64_t budget_id, size_t col)
{
    const size_t i = ranking_row(rows, c, budget_id);
    return i == SIZE_MAX ? (double)NAN : kvt__num(rows, i, col);
}

/* ---- words ------------------------------------------------------------------------------- */

static void ranking_finding(h_page *h, const kvt__scope *s)
{
    const kvt__ranking *r = &s->rank;
    char x[16], y[16];
    size_t n_together = 0;
    if (r->n_ranked < 2) {
        h_put(h, "Losses of every configuration at every budget.</p>\n");
        return;
    }
    for (size_t i = 1; i < r->n_ranked; i++) n_together += !r->e[i].apart_first;
    if (r->by_mean)
        h_put(h, "CVaR95 does not tell these policies apart at budget %s: %zu of %zu lie between %s and %s. Ranked by the "
                 "mean, ", s->budget, r->n_alike, r->n_ranked, h_loss(x, r->alike_lo), h_loss(y, r->alike_hi));
    else h_put(h, "Ranked by CVaR95 at budget %s, ", s->budget);
    h_put(h, "%s loses least (%s) and %s most (%s)", r->e[0].label, h_loss(x, kvt__entry_value(r, &r->e[0])),
          r->e[r->n_ranked - 1].label, h_loss(y, kvt__entry_value(r, &r->e[r->n_ranked - 1])));
    if (n_together) h_put(h, "; %zu %s not apart from the first.</p>\n", n_together, n_together == 1 ? "other is" : "others are");
    else h_raw(h, ".</p>\n");
}

static void ranking_notes(h_page *h, const kvt__scope *s)
{
    const kvt__ranking *r = &s->rank;
    h_put(h, "<p class=\"under\">Place: by the %s at budget %s. ", kvt__ranking_key(r), s->budget);
    if (r->by_mean)
        h_raw(h, "By the mean, because more than half of the policies have a CVaR95 within 0.01 of each other. ");
    if (r->n_cluster < KVT__FEWEST_CLUSTERS)
        h_put(h, "\xe2\x89\x88: within 0.01 of the row above, not apart. With %u %s no test can separate two policies (a sign "
                 "test needs %d): the order describes what was replayed here. ",
              r->n_cluster, r->n_cluster == 1 ? "document" : "documents", KVT__FEWEST_CLUSTERS);
    else
        h_put(h, "\xe2\x89\x88: not separated from the row above by a sign test over %u documents (5\xc2\xa0%%, Holm over all "
                 "pairs; policies that see the question and those that do not are two families and are not tested against "
                 "each other). ", r->n_cluster);
    h_raw(h, "Bold: smallest loss of a ranked policy at that budget. -: not measured there, for example because the budget "
             "is below the window.");
    for (size_t i = 0; i < r->n; i++)
        if (r->e[i].role == KVT__POLICY && r->e[i].here && !r->e[i].place) {
            h_put(h, " Policies without a place were measured on other traces than the %u of the ranked ones.", r->n_trace);
            break;
        }
    h_raw(h, "</p>\n");
}

/* ---- the table ------------------------------------------------------------------------- */

static void ranking_head(h_page *h, const kvt__scope *s, const size_t *column, size_t n_column)
{
    const kvt__ranking *r = &s->rank;
    h_put(h, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Ranking at budget %s\"><table class=\"rank "
             "order\"><caption>%s at each budget, then more at budget %s</caption><thead><tr><th scope=\"col\">place</th><th "
             "scope=\"col\">policy</th>",
          s->budget, r->by_mean ? "Mean loss over heads and steps" : "CVaR95 of the worst KV head", s->budget);
    for (size_t k = 0; k < n_column; k++)
        h_put(h, "<th scope=\"col\" class=\"%s\">%s</th>",
              r->budget[column[k]].budget_id == s->budget_id ? "at" : "", r->budget[column[k]].label);
    h_put(h, "<th scope=\"col\" class=\"more\">%s</th><th scope=\"col\">worst</th><th scope=\"col\"><abbr title=\"worst step "
             "with the sink positions removed from numerator and denominator\">no sinks</abbr></th><th scope=\"col\"><abbr "
             "title=\"worst loss of the per-step oracle with as many entries\">oracle</abbr></th></tr></thead><tbody>\n",
          r->by_mean ? "CVaR95" : "mean");
}

static void ranking_place(h_page *h, const kvt__entry *e)
{
    if (!e->place) h_raw(h, "<td class=\"place\">-</td>");
    else if (e->place > 1 && !e->apart)
        h_put(h, "<td class=\"place\"><abbr title=\"not apart from the row above\">\xe2\x89\x88</abbr>\xc2\xa0%u</td>", e->place);
    else h_put(h, "<td class=\"place\">%u</td>", e->place);
}

static void ranking_policy(h_page *h, const kvt__curve *c, const kvt__scope *s)
{
    char css[32];
    h_raw(h, "<th scope=\"row\">");
    if (c->drawn < KVT__MOST_CHOSEN) {
        kvt__curve_css(css, sizeof css, c);
        h_put(h, "<span class=\"swatch %s\"></span> ", css);
    }
    if (c->drawn != KVT__NOT_DRAWN)
        h_put(h, "<a href=\"#drawn%s-%lld\">", s->suffix, (long long)c->entry->config_id);
    kvt__put_label(h, c->entry->label);
    if (c->drawn != KVT__NOT_DRAWN) h_raw(h, "</a>");
    if (c->entry->role == KVT__BASELINE) h_raw(h, " <span class=\"soft\">baseline</span>");
    else if (c->entry->role == KVT__ORACLE) h_raw(h, " <span class=\"soft\">oracle</span>");
    else if (c->entry->here && !c->entry->place)
        h_put(h, " <span class=\"soft\">on %u of %u traces</span>", c->entry->n_trace, s->n_trace);
    h_raw(h, "</th>");
}

static void ranking_line(h_page *h, const kvt__rows *rows, const kvt__curve *c, size_t i, const kvt__scope *s,
                         const size_t *column, size_t n_column, const double *least)
{
    const kvt__ranking *r = &s->rank;
    const size_t key = r->by_mean ? CURVE_MEAN : CURVE_CVAR;
    const kvt__entry *e = c[i].entry;
    char number[16];
    h_put(h, "<tr id=\"rank%s-%lld\" class=\"%s%s\">", s->suffix, (long long)e->config_id,
          e->config_id == s->config_id ? "here" : e->role != KVT__POLICY ? "soft" : "",
          i && (e->role != c[i - 1].entry->role || (e->place != 0) != (c[i - 1].entry->place != 0)) ? " first" : "");
    ranking_place(h, e);
    ranking_policy(h, &c[i], s);
    for (size_t k = 0; k < n_column; k++) {
        const double v = ranking_value(rows, &c[i], r->budget[column[k]].budget_id, key);
        const char *css = r->budget[column[k]].budget_id == s->budget_id ? "at" : "";
        if (e->place && v == least[k]) h_put(h, "<td class=\"%s\"><b>%s</b></td>", css, h_loss(number, v));
        else h_put(h, "<td class=\"%s\">%s</td>", css, h_loss(number, v));
    }
    h_put(h, "<td class=\"more\">%s</td>",
          h_loss(number, ranking_value(rows, &c[i], s->budget_id, r->by_mean ? CURVE_CVAR : CURVE_MEAN)));
    for (size_t col = CURVE_WORST; col <= CURVE_ORACLE; col++)
        h_put(h, "<td>%s</td>", h_loss(number, ranking_value(rows, &c[i], s->budget_id, col)));
    h_raw(h, "</tr>\n");
}

kvt_status kvt__ranking_table(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    kvt__curve *c = NULL;
    size_t n = 0, column[MOST_COLUMNS], n_column = ranking_columns(s, column);
    double least[MOST_COLUMNS];
    kvt_status st = kvt__curves_read(&fig, &c, &n, r, s, ranking_wants, err);
    if (st < 0) goto done;
    for (size_t k = 0; k < n_column; k++) {
        least[k] = NAN;
        for (size_t i = 0; i < n; i++)
            if (c[i].entry->place)
                least[k] = fmin(least[k], ranking_value(&fig.rows, &c[i], s->rank.budget[column[k]].budget_id,
                                                        s->rank.by_mean ? CURVE_MEAN : CURVE_CVAR));
    }
    kvt__figure_begin(r, &fig, s, "ranking");
    ranking_finding(h, s);
    ranking_head(h, s, column, n_column);
    for (size_t i = 0; i < n; i++) ranking_line(h, &fig.rows, c, i, s, column, n_column, least);
    h_raw(h, "</tbody></table></div>\n");
    ranking_notes(h, s);
    kvt__figure_end(r, &fig, s,
                    n_column < s->rank.n_budget ? "some of the budgets (the data have all), and the spread over documents."
                                                : "the spread over documents.");
done:
    kvt__figure_free(&fig);
    free(c);
    return st;
}
