/* Loss at every budget of a grid: one small chart for each configuration whose curve is
 * stored, named budgets as points on it. A curve is the budget asked for against statistics
 * of query heads, so the points are computed in the same way and lie on the lines. */
#include "curves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_text.h"

enum {                              /* columns                                         */
    POINT_POLICY, POINT_BUDGET, POINT_SHARE, POINT_MEAN, POINT_Q95, POINT_CVAR, POINT_MAX, POINT_OUTSIDE, POINT_PAIRS, POINT_GRID,
    POINT_CONFIG
};
#define FINDING_LOSS 0.1            /* the finding says where the mean comes below      */

typedef struct chart {              /* rows [from, named) of a curve, [named, end) of named budgets */
    size_t            from, named, end;
    const kvt__entry *entry;
    int               drawn;
} chart;

static const struct { int col; const char *css, *what; } chart_line[] = {
    {POINT_MAX, "p-worst", "largest of any head and step"},
    {POINT_CVAR, "p-cvar", "CVaR95 of the worst query head"},
    {POINT_Q95, "p-q95", "95\xc2\xa0% quantile of the worst query head"},
    {POINT_MEAN, "p-mean", "mean over heads and steps"}};
enum { LINES = sizeof chart_line / sizeof *chart_line };

static kvt_status budgets_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(
        &fig->rows, &fig->sql, r->db, err,
        "WITH RECURSIVE\n"
        "  newest AS (SELECT max(engine_version * 1000000 + metric_version) AS v FROM cell),\n"
        "  curve AS (SELECT c.curve_id, c.config_id, c.n_not_nested, c.data, g.kept, g.n_point, t.n_prompt,\n"
        "      (SELECT count(*) FROM result_curve h WHERE h.trace_id = c.trace_id AND h.config_id = c.config_id AND h.seed = c.seed\n"
        "          AND h.engine_version = c.engine_version AND h.metric_version = c.metric_version AND h.level = 'head') AS n_head\n"
        "    FROM result_curve c JOIN curve_grid g USING(grid_id) JOIN trace t USING(trace_id)\n"
        "    WHERE c.level = 'model' AND c.metrics = 'lost_mean,lost_q95,lost_cvar95,lost_max' AND length(c.data) = 16 * g.n_point\n"
        "      AND c.engine_version * 1000000 + c.metric_version = (SELECT v FROM newest) AND t.model_id = %lld AND t.split = %Q),\n"
        "  point(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM point WHERE i + 1 < (SELECT max(n_point) FROM curve)),\n"
        "  part(m) AS (VALUES (0), (1), (2), (3), (4)),\n"
        "  word AS (SELECT curve_id, i, m, hex(substr(iif(m = 4, kept, data), 4 * (m %% 4 * n_point + i) + 1, 4)) AS x\n"
        "    FROM curve JOIN point ON i < n_point JOIN part),\n"
        "  value AS (SELECT curve_id, i, m,\n"
        "    " KVT__Q31_SQL " AS v FROM word),\n"
        "  at AS (SELECT curve_id, i, max(iif(m = 4, v * 2147483648.0, NULL)) AS kept, max(iif(m = 0, v, NULL)) AS lost_mean,\n"
        "      max(iif(m = 1, v, NULL)) AS lost_q95, max(iif(m = 2, v, NULL)) AS lost_cvar95, max(iif(m = 3, v, NULL)) AS lost_max\n"
        "    FROM value GROUP BY curve_id, i),\n"
        "  worst AS (SELECT cell_id, max(lost_q95) AS lost_q95, max(lost_cvar95) AS lost_cvar95 FROM result_head GROUP BY cell_id)\n"
        "SELECT * FROM (\n"
        "SELECT pc.label AS policy_label, NULL AS budget, round(avg(a.kept / c.n_prompt), 4) AS share_asked, round(avg(a.lost_mean), 4) AS lost_mean,\n"
        "       round(avg(a.lost_q95), 4) AS lost_q95, round(avg(a.lost_cvar95), 4) AS lost_cvar95, round(max(a.lost_max), 4) AS lost_max,\n"
        "       sum(c.n_not_nested) AS n_not_nested, sum(c.n_head * (c.n_point - 1)) AS n_pair, c.n_point, c.config_id\n"
        "  FROM curve c JOIN at a USING(curve_id) JOIN policy_config pc USING(config_id) GROUP BY c.config_id, c.n_point, a.i\n"
        "UNION ALL\n"
        "SELECT v.policy_label, v.budget, round(avg(v.requested_tokens / t.n_prompt), 4), round(avg(rc.lost_mean), 4), round(avg(w.lost_q95), 4),\n"
        "       round(avg(w.lost_cvar95), 4), round(max(rc.lost_worst), 4), NULL, NULL, NULL, v.config_id\n"
        "  FROM v_cell v JOIN trace t USING(trace_id) JOIN result_cell rc USING(cell_id) JOIN worst w USING(cell_id)\n"
        " WHERE %s AND v.config_id IN (SELECT config_id FROM curve) GROUP BY v.config_id, v.budget_id)\n"
        " ORDER BY config_id, budget IS NOT NULL, n_point, share_asked",
        (long long)s->model_id, s->split, s->where);
}

static int chart_compare(const void *pa, const void *pb)
{
    const chart *a = pa, *b = pb;
    return (a->entry > b->entry) - (a->entry < b->entry);
}

/* Charts in the order of the ranking. A curve without a finished cell has no place in it. */
static size_t charts_split(chart *c, const kvt__rows *rows, const kvt__scope *s)
{
    size_t n = 0;
    for (size_t from = 0, end; from < rows->n_row; from = end) {
        const int64_t id = kvt__int(rows, from, POINT_CONFIG);
        const kvt__entry *e = kvt__ranking_find(&s->rank, id);
        size_t named = from;
        for (end = from; end < rows->n_row && kvt__int(rows, end, POINT_CONFIG) == id; end++)
            named += kvt__at(rows, end, POINT_BUDGET)->type == SQLITE_NULL;
        if (e) c[n++] = (chart){from, named, end, e, kvt__drawn_as(s, e)};
    }
    qsort(c, n, sizeof *c, chart_compare);
    return n;
}

static int chart_nested(const kvt__rows *rows, const chart *c)
{
    for (size_t i = c->from; i < c->named; i++)
        if (kvt__int(rows, i, POINT_OUTSIDE)) return 0;
    return 1;
}

/* A line for each grid: traces of other lengths can have fewer points. x, y: room for all rows. */
static void chart_curve(h_page *h, const svg_axes *a, const kvt__rows *rows, const chart *c, int col, const char *css, double *x, double *y)
{
    const int nested = chart_nested(rows, c);
    char line[48];
    snprintf(line, sizeof line, "line %s", css);
    for (size_t from = c->from, end; from < c->named; from = end) {
        for (end = from; end < c->named && kvt__int(rows, end, POINT_GRID) == kvt__int(rows, from, POINT_GRID); end++) {
            x[end - from] = kvt__num(rows, end, POINT_SHARE);
            y[end - from] = kvt__num(rows, end, (size_t)col);
            if (!nested) h_put(h, "<circle class=\"mark %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"1.4\"/>", css, svg_x(a, x[end - from]), svg_y(a, y[end - from]));
        }
        if (nested) svg_line(h, a, line, x, y, end - from);
    }
}

static void chart_area(h_page *h, const svg_axes *a, const kvt__rows *rows, const chart *c)
{
    const int64_t grid = kvt__int(rows, c->named - 1, POINT_GRID);      /* the longest */
    size_t from = c->from;
    while (kvt__int(rows, from, POINT_GRID) != grid) from++;
    h_put(h, "<path class=\"unavoidable\" d=\"M%.1f %.1f", svg_x(a, kvt__num(rows, from, POINT_SHARE)), a->bottom);
    for (size_t i = from; i < c->named; i++)
        h_put(h, "L%.1f %.1f", svg_x(a, kvt__num(rows, i, POINT_SHARE)), svg_y(a, kvt__num(rows, i, POINT_MEAN)));
    h_put(h, "L%.1f %.1fz\"/>\n", svg_x(a, kvt__num(rows, c->named - 1, POINT_SHARE)), a->bottom);
}

static void chart_draw(h_page *h, const kvt__rows *rows, const chart *c, const chart *oracle, const kvt__scope *s, double *x, double *y)
{
    static const double tick[3] = {0, 0.5, 1};
    const svg_axes a = {.left = 24, .right = 184, .top = 6, .bottom = 112, .x_lo = 0, .x_hi = 1, .y_lo = 0, .y_hi = 1};
    char id[56], mark[48], printable[KVT__LABEL_BYTES], shown[4 * 40 + 1], what[4 * 40 + 40];
    svg_shorten(shown, kvt_printable_str(printable, sizeof printable, c->entry->label), 40);
    if (c->drawn == KVT__DRAWN_APART) h_put(h, "<div class=\"small\" id=\"drawn%s-%lld\"><h4>", s->suffix, (long long)c->entry->config_id);
    else h_raw(h, "<div class=\"small\"><h4>");
    if (c->entry->place) h_put(h, "<span class=\"soft\">%u</span> ", c->entry->place);
    kvt__put_label(h, c->entry->label);
    h_raw(h, "</h4>\n");
    if (!chart_nested(rows, c)) {
        int64_t outside = 0, pairs = 0;
        for (size_t i = c->from; i < c->named; i++)
            if (i == c->from || kvt__int(rows, i, POINT_GRID) != kvt__int(rows, i - 1, POINT_GRID))
                outside += kvt__int(rows, i, POINT_OUTSIDE), pairs += kvt__int(rows, i, POINT_PAIRS);
        h_put(h, "<p>not nested: %lld of %lld</p>\n", (long long)outside, (long long)pairs);
    }
    snprintf(id, sizeof id, "svg-budgets%s-%lld", s->suffix, (long long)c->entry->config_id);
    snprintf(what, sizeof what, "Loss at every budget: %s", shown);
    svg_open(h, id, "chart", 192, 132, what, "Mean, 95 % quantile, CVaR95 and largest loss; grey: the per-step oracle.");
    if (oracle) chart_area(h, &a, rows, oracle);
    svg_grid_y(h, &a, 2, 1, 0);
    svg_ticks_x(h, &a, tick, 3, 1);
    if (oracle) chart_curve(h, &a, rows, oracle, POINT_MAX, "p-oracle", x, y);
    for (size_t k = 0; k < LINES; k++) {
        chart_curve(h, &a, rows, c, chart_line[k].col, chart_line[k].css, x, y);
        snprintf(mark, sizeof mark, "mark %s", chart_line[k].css);
        for (size_t i = c->named; i < c->end; i++)
            h_put(h, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.3\"/>\n", mark, svg_x(&a, kvt__num(rows, i, POINT_SHARE)),
                  svg_y(&a, kvt__num(rows, i, (size_t)chart_line[k].col)));
    }
    svg_close(h);
    h_raw(h, "</div>\n");
}

static void budgets_key(h_page *h, int oracle)
{
    h_raw(h, "<ul class=\"cast\">");
    for (size_t k = LINES; k-- > 0;)
        h_put(h, "<li><svg viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"line %s\" d=\"M1 6H33\"/></svg> %s</li>\n",
              chart_line[k].css, chart_line[k].what);
    if (oracle)
        h_raw(h, "<li><svg viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"unavoidable\" d=\"M1 3H33V11H1z\"/><path class=\"line p-oracle\" "
                 "d=\"M1 3H33\"/></svg> infeasible: the per-step oracle, mean (filled) and largest</li>\n");
    h_raw(h, "</ul>\n");
}

/* Of the best ranked policy that has a curve: from which budget on its mean stays low, and what its tail is there. */
static void budgets_finding(h_page *h, const kvt__rows *rows, const chart *c, size_t n)
{
    const chart *best = NULL;
    size_t low;
    char x[16], y[16], z[16];
    for (size_t i = 0; i < n && !best; i++)
        if (c[i].entry->place) best = &c[i];
    if (!best) {
        h_raw(h, "Loss at every budget of a grid, one chart for each configuration.</p>\n");
        return;
    }
    low = best->named;
    while (low > best->from && kvt__int(rows, low - 1, POINT_GRID) == kvt__int(rows, best->named - 1, POINT_GRID)
           && kvt__num(rows, low - 1, POINT_MEAN) <= FINDING_LOSS) low--;
    if (low == best->named)
        h_put(h, "%s loses more than %s on average at the largest budget of the grid.</p>\n", best->entry->label, h_loss(x, FINDING_LOSS));
    else
        h_put(h, "%s loses at most %s on average from a budget of %s of the prompt on; the CVaR95 of its worst query head is %s there.</p>\n",
              best->entry->label, h_loss(x, FINDING_LOSS), h_percent(y, kvt__num(rows, low, POINT_SHARE)), h_loss(z, kvt__num(rows, low, POINT_CVAR)));
}

static void budgets_draw(kvt__report *r, kvt__figure *fig, const kvt__scope *s, const chart *c, size_t n, double *xy)
{
    h_page *h = &r->page;
    const chart *oracle = NULL;
    int dots = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(c[i].entry->policy, "oracle_step") == 0) oracle = &c[i];
        dots |= !chart_nested(&fig->rows, &c[i]);
    }
    kvt__figure_begin(r, fig, s, "budgets");
    budgets_finding(h, &fig->rows, c, n);
    budgets_key(h, oracle != NULL);
    h_raw(h, "<div class=\"multiples\">\n");
    for (size_t i = 0; i < n; i++)
        if (c[i].drawn != KVT__DRAWN_ORACLE && c[i].drawn != KVT__NOT_DRAWN)
            chart_draw(h, &fig->rows, &c[i], oracle, s, xy, xy + fig->rows.n_row);
    h_raw(h, "</div>\n<p class=\"under\">Horizontal: budget asked for, as a share of the prompt\xe2\x80\x99s entries. Vertical: share of the attention "
             "lost. Both run 0 to 1 in every chart. Lines: every budget of the grid was replayed (table result_curve); discs: the named "
             "budgets. Mean, quantile and CVaR95 are means over traces and seeds, the largest is of all.");
    if (dots)
        h_raw(h, " Dots instead of a line, \xe2\x80\x9cnot nested: k of m\xe2\x80\x9d: at k of m pairs of neighbouring budgets, counted for every head, the "
                 "smaller kept set is not inside the larger, and nothing is claimed between two budgets.");
    h_raw(h, "</p>\n");
    kvt__figure_end(r, fig, s, "single heads and layers (result_curve has them), and the full cache, which loses nothing.");
}

kvt_status kvt__budgets(kvt__report *r, const kvt__scope *s, int64_t **drawn, size_t *n_drawn, kvt_err *err)
{
    kvt__figure fig = {0};
    kvt__rows there;
    chart *c = NULL;
    double *xy = NULL;
    int64_t known, *ids = NULL;
    size_t n, n_ids = 0;
    kvt_status st = KVT_OK;

    /* A database of schema version 1 or 2 has no such table, and reading does not change it. */
    KVT_TRY(kvt__rows_read(&there, NULL, r->db, err, "SELECT count(*) FROM sqlite_master WHERE name = 'result_curve'"));
    known = kvt__int(&there, 0, 0);
    kvt__rows_free(&there);
    if (known) KVT_TRY(budgets_read(&fig, r, s, err));
    c = malloc((fig.rows.n_row + 1) * sizeof *c);
    xy = malloc((2 * fig.rows.n_row + 1) * sizeof *xy);
    ids = malloc((fig.rows.n_row + 1) * sizeof *ids);
    if (!c || !xy || !ids) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory for %zu points of curves", fig.rows.n_row);
        free(ids);
        goto done;
    }
    n = charts_split(c, &fig.rows, s);
    for (size_t i = 0; i < n; i++)
        if (c[i].drawn != KVT__DRAWN_ORACLE && c[i].drawn != KVT__NOT_DRAWN) ids[n_ids++] = c[i].entry->config_id;
    if (n_ids) budgets_draw(r, &fig, s, c, n, xy);
    *drawn = ids;
    *n_drawn = n_ids;
done:
    kvt__figure_free(&fig);
    free(c);
    free(xy);
    return st;
}
