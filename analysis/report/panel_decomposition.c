/* Decomposition of the mean loss: infeasible + staticity + selection. The three terms add
 * up exactly: oracle; best fixed set minus oracle; policy minus best fixed set. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "svg.h"

enum { COL_POLICY, COL_BUDGET, COL_LOST, COL_INFEASIBLE, COL_STATIC, COL_SELECTION, COL_N, COL_CONFIG, COL_BUDGET_ID };

static kvt_status decomposition_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(&fig->rows, &fig->sql, r->db, err,
                          "SELECT v.policy_label, v.budget, round(avg(r.lost_mean), 4) AS lost, "
                          "round(avg(r.oracle_mean), 4) AS infeasible,\n"
                          "       round(avg(r.fixed_mean - r.oracle_mean), 4) AS staticity, round(avg(r.lost_mean - "
                          "r.fixed_mean), 4) AS selection,\n"
                          "       count(*) AS n_head_cells, v.config_id, v.budget_id\n"
                          "  FROM result_head r JOIN v_cell v USING(cell_id)\n"
                          " WHERE %s AND v.policy <> 'full' AND r.n_trivial < r.n_step AND r.fixed_mean IS NOT NULL\n"
                          " GROUP BY v.config_id, v.budget_id ORDER BY v.budget_value, v.budget, avg(r.lost_mean), "
                          "v.policy_label, v.config_id",
                          s->where);
}

static void bar_part(h_page *h, const char *css, double from, double width)
{
    if (width > 0.05)
        h_put(h, "<rect class=\"part %s\" x=\"%.1f\" y=\"4\" width=\"%.1f\" height=\"14\"/>", css, from, width);
}

/* One bar: unavoidable part first; a negative selection is a gain, drawn to the left. */
static void bar_draw(h_page *h, const kvt__rows *rows, size_t i, double scale, const kvt__scope *s, size_t index)
{
    enum { ZERO = 60, WIDTH = 420 };
    const double u = fmax(kvt__num(rows, i, COL_INFEASIBLE), 0), st = fmax(kvt__num(rows, i, COL_STATIC), 0);
    const double sel = kvt__num(rows, i, COL_SELECTION), unit = (WIDTH - ZERO - 4) / scale;
    char id[48], what[80], shows[160], a[16], b[16], c[16];
    snprintf(id, sizeof id, "svg-parts%s-%zu", s->suffix, index);
    snprintf(what, sizeof what, "Parts of the mean loss");
    snprintf(shows, sizeof shows, "Infeasible %s, staticity %s, selection %s.", h_loss(a, u), h_loss(b, st),
             h_loss(c, sel));
    svg_open(h, id, "chart bars", WIDTH, 22, what, shows);
    h_put(h, "<path class=\"axis\" d=\"M%d 0V22\"/>", (int)ZERO);
    bar_part(h, "q-infeasible", ZERO, u * unit);
    bar_part(h, "q-static", ZERO + u * unit, st * unit);
    if (sel >= 0) bar_part(h, "q-selection", ZERO + (u + st) * unit, sel * unit);
    else bar_part(h, "q-gain", ZERO - fmin(-sel * unit, ZERO), fmin(-sel * unit, ZERO));
    svg_close(h);
}

static void decomposition_finding(h_page *h, const kvt__rows *rows, const kvt__scope *s)
{
    char a[16], b[16], c[16], d[16];
    for (size_t i = 0; i < rows->n_row; i++) {
        const double lost = kvt__num(rows, i, COL_LOST);
        if (kvt__int(rows, i, COL_CONFIG) != s->config_id || kvt__int(rows, i, COL_BUDGET_ID) != s->budget_id) continue;
        h_put(h, "Of the mean loss %s of %s at budget %s, %s is infeasible, %s staticity, ", h_loss(a, lost), s->policy,
              s->budget, h_loss(b, kvt__num(rows, i, COL_INFEASIBLE)), h_loss(c, kvt__num(rows, i, COL_STATIC)));
        if (kvt__num(rows, i, COL_SELECTION) < 0)
            h_put(h, "and adapting to the text gains %s back.</p>\n", h_loss(d, -kvt__num(rows, i, COL_SELECTION)));
        else h_put(h, "%s selection.</p>\n", h_loss(d, kvt__num(rows, i, COL_SELECTION)));
        return;
    }
    h_put(h, "Parts of the mean loss at budget %s.</p>\n", s->budget);
}

static double decomposition_scale(const kvt__rows *rows, const kvt__scope *s)
{
    double scale = 0.01;
    for (size_t i = 0; i < rows->n_row; i++)
        if (kvt__int(rows, i, COL_BUDGET_ID) == s->budget_id)
            scale = fmax(scale, kvt__num(rows, i, COL_LOST) - fmin(kvt__num(rows, i, COL_SELECTION), 0));
    return scale;
}

/* Row i is at the budget of the focus and belongs to this table: the first has what is
 * drawn together and the focus, the second the rest. */
static int decomposition_in(const kvt__rows *rows, size_t i, const kvt__scope *s, int rest)
{
    const kvt__entry *e = kvt__ranking_find(&s->rank, kvt__int(rows, i, COL_CONFIG));
    if (kvt__int(rows, i, COL_BUDGET_ID) != s->budget_id || !e) return 0;
    return (e->config_id != s->config_id && kvt__drawn_as(s, e) >= KVT__DRAWN_APART) == rest;
}

static void decomposition_table(h_page *h, const kvt__rows *rows, const kvt__scope *s, int rest)
{
    const double scale = decomposition_scale(rows, s);
    char number[16], css[16];
    h_put(h,
          "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Decomposition at budget %s%s\"><table "
          "class=\"rank parts\">"
          "<caption>Mean loss over heads and steps at budget %s, smallest first; one scale for all "
          "bars</caption><thead><tr><th scope=\"col\">policy</th>"
          "<th scope=\"col\">loss</th><th scope=\"col\">infeasible</th><th scope=\"col\">staticity</th><th "
          "scope=\"col\">selection</th>"
          "<th scope=\"col\" class=\"wide\"><span class=\"hid\">parts as bars</span></th></tr></thead><tbody>\n",
          s->budget, rest ? ", the others" : "", s->budget);
    for (size_t i = 0; i < rows->n_row; i++) {
        int drawn;
        if (!decomposition_in(rows, i, s, rest)) continue;
        drawn = kvt__drawn_as(s, kvt__ranking_find(&s->rank, kvt__int(rows, i, COL_CONFIG)));
        h_put(h, "<tr class=\"%s\"><th scope=\"row\">", kvt__int(rows, i, COL_CONFIG) == s->config_id ? "here" : "");
        snprintf(css, sizeof css, "s%d", drawn % 5);
        if (drawn < KVT__MOST_CHOSEN) h_put(h, "<span class=\"swatch %s\"></span> ", css);
        kvt__put_label(h, kvt__str(rows, i, COL_POLICY));
        h_raw(h, "</th>");
        for (size_t col = COL_LOST; col <= COL_SELECTION; col++)
            h_put(h, "<td>%s</td>", h_loss(number, kvt__num(rows, i, col)));
        h_raw(h, "<td class=\"wide\">");
        bar_draw(h, rows, i, scale, s, i);
        h_raw(h, "</td></tr>\n");
    }
    h_raw(h, "</tbody></table></div>\n");
}

static void decomposition_tables(h_page *h, const kvt__rows *rows, const kvt__scope *s)
{
    size_t n_rest = 0;
    for (size_t i = 0; i < rows->n_row; i++) n_rest += decomposition_in(rows, i, s, 1) != 0;
    decomposition_table(h, rows, s, 0);
    if (!n_rest) return;
    h_put(h, "<details><summary>The other %zu configurations</summary>\n", n_rest);
    decomposition_table(h, rows, s, 1);
    h_raw(h, "</details>\n");
}

static kvt_status decomposition_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    KVT_TRY(decomposition_read(&fig, r, s, err));
    if (!fig.rows.n_row) {
        kvt__empty(r, "The best fixed set was not computed for these cells. kvtrace replay TRACE.h5 -o RESULTS.db "
                      "computes it with every policy.");
        kvt__figure_free(&fig);
        return KVT_OK;
    }
    kvt__figure_begin(r, &fig, s, "decomposition");
    decomposition_finding(h, &fig.rows, s);
    h_raw(h, "<ul class=\"causes\"><li><span class=\"swatch q-infeasible\"></span> <b>infeasible</b>: the per-step "
             "oracle loses it with as many entries</li>"
             "<li><span class=\"swatch q-static\"></span> <b>staticity</b>: the best fixed set loses it on top, the "
             "price of choosing once</li>"
             "<li><span class=\"swatch q-selection\"></span> <b>selection</b>: the policy loses it on top, by choosing "
             "another set</li>"
             "<li><span class=\"swatch q-gain\"></span> <b>gain from adapting</b>: negative selection of policies that "
             "follow the text</li></ul>\n");
    decomposition_tables(h, &fig.rows, s);
    kvt__figure_end(r, &fig, s,
                    "the tail: the parts are means over steps and over the heads that have a non-trivial step.");
    return KVT_OK;
}

kvt_status kvt__panel_decomposition(kvt__report *r, kvt_err *err)
{
    return kvt__section(r, "decomposition", "Decomposition", decomposition_body,
        "No finished cell. kvtrace replay TRACE.h5 -o RESULTS.db computes the parts.", err);
}
