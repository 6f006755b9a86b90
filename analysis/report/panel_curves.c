/* Loss against budget: the tail of all policies in one chart, then one small chart per
 * policy with mean, tail, worst step and what no choice could have avoided. All axes run
 * 0..1 and none is fitted, so that charts can be compared by eye. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_text.h"
#include "svg.h"

enum {                              /* columns of the figure's rows                   */
    COL_POLICY, COL_ROLE, COL_BUDGET, COL_HELD, COL_MEAN, COL_CVAR, COL_WORST, COL_WORST_NS, COL_ORACLE, COL_BYTES,
    COL_EXCEED, COL_NESTED, COL_CONFIG, COL_BUDGET_ID
};
enum { N_COLOUR = 5, N_DASH = 3, MOST_SERIES = 40, LABEL_BYTES = 160 };

typedef struct curve {              /* rows [from, end) of one configuration          */
    size_t from, end;
    int    is_focus;
    int    guide;                   /* baseline or oracle: grey                       */
    double at_focus, mean;          /* CVaR95 and mean at the focus budget; NaN = not there */
    size_t focus_row;               /* SIZE_MAX = not there                           */
} curve;

static kvt_status curves_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(
        &fig->rows, &fig->sql, r->db, err,
        "SELECT s.policy_label, s.role, s.budget, round(s.held_share, 4) AS held_share,\n"
        "       round(s.mean_lost, 4) AS mean_lost, round(s.cvar95_worst_head, 4) AS cvar95_worst_head,\n"
        "       round(s.worst_lost, 4) AS worst_lost, round(s.worst_lost_ns, 4) AS worst_lost_ns,\n"
        "       round(s.oracle_worst, 4) AS oracle_worst, round(s.bytes_physical) AS bytes_physical,\n"
        "       (SELECT sum(x.n_exceed) FROM result_head_tau x JOIN tau USING(tau_id) JOIN v_cell v USING(cell_id)\n"
        "         WHERE tau.tau = 0.5 AND v.status = 'done' AND v.config_id = s.config_id AND v.budget_id = "
        "s.budget_id\n"
        "           AND v.model_id = s.model_id AND v.split = s.split) AS n_exceed_half,\n"
        "       p.nested, s.config_id, s.budget_id\n"
        "  FROM v_policy_summary s JOIN policy_config USING(config_id) JOIN policy p USING(policy_id)\n"
        " WHERE s.model_id = %lld AND s.split = %Q AND s.policy <> 'full'\n"
        " ORDER BY CASE s.role WHEN 'policy' THEN 0 WHEN 'baseline' THEN 1 ELSE 2 END,\n"
        "          s.policy_label, s.config_id, s.held_share, s.budget",
        (long long)s->model_id, s->split);
}

static int curve_compare(const void *pa, const void *pb)
{
    const curve *a = pa, *b = pb;
    const double x = isnan(a->at_focus) ? 2 : a->at_focus, y = isnan(b->at_focus) ? 2 : b->at_focus;
    if (a->guide != b->guide) return a->guide - b->guide;
    if (x < y) return -1;
    if (x > y) return 1;
    if (a->is_focus != b->is_focus) return b->is_focus - a->is_focus;   /* rounded values tie, the exact ones did not */
    if (a->mean != b->mean && a->focus_row != SIZE_MAX) return a->mean < b->mean ? -1 : 1;
    return a->from < b->from ? -1 : 1;
}

/* Curves in the order of their tail loss at the focus budget, policies before guides. */
static size_t curves_split(curve **out, const kvt__rows *rows, const kvt__scope *s)
{
    curve *c = calloc(rows->n_row ? rows->n_row : 1, sizeof *c);
    size_t n = 0;
    *out = c;
    if (!c) return 0;
    for (size_t i = 0; i < rows->n_row; i++) {
        if (!i || kvt__int(rows, i, COL_CONFIG) != kvt__int(rows, i - 1, COL_CONFIG))
            c[n++] = (curve){.from = i,
                             .at_focus = NAN,
                             .focus_row = SIZE_MAX,
                             .guide = strcmp(kvt__str(rows, i, COL_ROLE), "policy") != 0};
        c[n - 1].end = i + 1;
        if (kvt__int(rows, i, COL_BUDGET_ID) == s->budget_id) {
            c[n - 1].at_focus = kvt__num(rows, i, COL_CVAR);
            c[n - 1].mean = kvt__num(rows, i, COL_MEAN);
            c[n - 1].focus_row = i;
            c[n - 1].is_focus = kvt__int(rows, i, COL_CONFIG) == s->config_id;
        }
    }
    qsort(c, n, sizeof *c, curve_compare);
    return n;
}

/* One column of a curve as a line, with markers when `shape` is 0..4. Kept sets that do
 * not nest say nothing between two budgets: points, and a thin line for the eye. */
static void curve_draw(h_page *h, const svg_axes *a, const kvt__rows *rows, const curve *c, int col, const char *css,
                       int shape)
{
    double x[64], y[64];
    const int nested = kvt__int(rows, c->from, COL_NESTED) != 0;
    size_t n = 0;
    char line[48];
    for (size_t i = c->from; i < c->end && n < 64; i++, n++) {
        x[n] = kvt__num(rows, i, COL_HELD);
        y[n] = kvt__num(rows, i, (size_t)col);
    }
    snprintf(line, sizeof line, "line %s%s", css, nested ? "" : " eye");
    svg_line(h, a, line, x, y, n);
    snprintf(line, sizeof line, "mark %s", css);
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i]) || isnan(y[i])) continue;
        if (shape >= 0) svg_marker(h, line, (unsigned)shape, svg_x(a, x[i]), svg_y(a, y[i]));
        else if (!nested)
            h_put(h, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2\"/>", line, svg_x(a, x[i]), svg_y(a, y[i]));
    }
}

/* A label that fits beside a chart: made printable first, because escapes are longer. */
static char *curve_label(char out[LABEL_BYTES], const char *label, size_t most)
{
    char shown[LABEL_BYTES];
    return svg_shorten(out, kvt_printable_str(shown, sizeof shown, label), most);
}

static void curve_css(char *out, size_t size, const curve *c, size_t i)
{
    if (c->guide) snprintf(out, size, "guide");
    else snprintf(out, size, "s%zu d%zu", i % N_COLOUR, i / N_COLOUR % N_DASH);
}

/* Labels stand at the end of the lines where these lie further apart. */
static int overlay_label_left(const kvt__rows *rows, const curve *c, size_t n)
{
    double lo[2] = {1, 1}, hi[2] = {0, 0};
    for (size_t i = 0; i < n; i++)
        for (int end = 0; end < 2; end++) {
            const double v = kvt__num(rows, end ? c[i].end - 1 : c[i].from, COL_CVAR);
            lo[end] = fmin(lo[end], v);
            hi[end] = fmax(hi[end], v);
        }
    return hi[0] - lo[0] > hi[1] - lo[1];
}

static void overlay_labels(h_page *h, const svg_axes *a, const kvt__rows *rows, const curve *c, size_t n, int left)
{
    double at[MOST_SERIES], y[MOST_SERIES];
    char css[24], shown[LABEL_BYTES];
    for (size_t i = 0; i < n; i++)
        at[i] = y[i] = svg_y(a, kvt__num(rows, left ? c[i].from : c[i].end - 1, COL_CVAR));
    svg_spread(y, n, 16, a->top + 2, a->bottom);
    for (size_t i = 0; i < n; i++) {
        const double x0 = svg_x(a, kvt__num(rows, left ? c[i].from : c[i].end - 1, COL_HELD)), sign = left ? -1 : 1;
        const double x1 = left ? a->left - 14 : a->right + 14;
        curve_css(css, sizeof css, &c[i], i);
        h_put(h, "<path class=\"leader %s\" d=\"M%.1f %.1fL%.1f %.1fH%.1f\"/>", css, x0 + 5 * sign, at[i],
              x1 - 6 * sign, y[i], x1);
        h_put(h, "<text class=\"label %s%s\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", css, left ? " end" : "", x1 + 3 * sign,
              y[i] + 4, curve_label(shown, kvt__str(rows, c[i].from, COL_POLICY), 28));
    }
}

static void overlay_draw(h_page *h, const kvt__rows *rows, const curve *c, size_t n, const kvt__scope *s)
{
    static const double tick[6] = {0, 0.2, 0.4, 0.6, 0.8, 1};
    const int left = overlay_label_left(rows, c, n);
    const svg_axes a = {.left = left ? 226 : 40,
                        .right = left ? 684 : 490,
                        .top = 26,
                        .bottom = 420,
                        .x_lo = 0,
                        .x_hi = 1,
                        .y_lo = 0,
                        .y_hi = 1};
    char id[48], css[24];
    snprintf(id, sizeof id, "svg-overlay%s", s->suffix);
    svg_open(h, id, "chart overlay", 720, 462,
             "CVaR95 of the worst KV head against the share of entries held, one line per policy",
             "Lower is better. Baselines and oracles are grey. The values are in the data table below.");
    svg_grid_y(h, &a, 5, 1, left);
    svg_ticks_x(h, &a, tick, 6, 1);
    h_put(
        h,
        "<text class=\"axis-title%s\" x=\"%.1f\" y=\"13\">CVaR95 of the worst KV head, share of attention lost</text>",
        left ? " end" : "", left ? 712.0 : 14.0);
    h_put(h,
          "<text class=\"axis-title mid\" x=\"%.1f\" y=\"456\">share of the prompt\xe2\x80\x99s entries held</text>\n",
          (a.left + a.right) / 2);
    for (size_t i = n; i-- > 0;) {                      /* guides first, the best policy on top */
        curve_css(css, sizeof css, &c[i], i);
        curve_draw(h, &a, rows, &c[i], COL_CVAR, css, c[i].guide ? -1 : (int)(i % 5));
    }
    overlay_labels(h, &a, rows, c, n, left);
    svg_close(h);
}

static void overlay_table(h_page *h, const kvt__rows *rows, const curve *c, size_t n, const kvt__scope *s)
{
    char number[16];
    h_put(h,
          "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Policies at budget %s\"><table "
          "class=\"rank\">"
          "<caption>At budget %s, smallest tail loss first</caption><thead><tr><th scope=\"col\">policy</th>"
          "<th scope=\"col\">mean</th><th scope=\"col\">CVaR95</th><th scope=\"col\">worst</th>"
          "<th scope=\"col\"><abbr title=\"worst step with the sink positions removed from numerator and "
          "denominator\">no sinks</abbr></th>"
          "<th scope=\"col\"><abbr title=\"worst loss of the per-step oracle with as many "
          "entries\">oracle</abbr></th></tr></thead><tbody>\n",
          s->budget, s->budget);
    for (size_t i = 0; i < n; i++) {
        const size_t k = c[i].focus_row;
        if (k == SIZE_MAX) continue;
        h_put(h, "<tr class=\"%s%s\"><th scope=\"row\">",
              kvt__int(rows, k, COL_CONFIG) == s->config_id ? "here"
              : c[i].guide                                  ? "soft"
                                                            : "",
              i && c[i].guide && !c[i - 1].guide ? " first" : "");
        kvt__put_label(h, kvt__str(rows, k, COL_POLICY));
        h_raw(h, "</th>");
        for (size_t col = COL_MEAN; col <= COL_ORACLE; col++)
            h_put(h, "<td>%s</td>", h_loss(number, kvt__num(rows, k, col)));
        h_raw(h, "</tr>\n");
    }
    h_raw(h, "</tbody></table></div>\n");
}

/* ---- small multiples ------------------------------------------------------------------ */

static const struct {
    int col; const char *css, *name;
} part[4] = {{COL_WORST, "p-worst", "worst"},
             {COL_CVAR, "p-cvar", "CVaR95"},
             {COL_MEAN, "p-mean", "mean"},
             {COL_ORACLE, "p-oracle", "oracle"}};

static void multiple_finding(h_page *h, const kvt__rows *rows, const curve *c)
{
    double from = NAN;                                  /* smallest share from which on no step exceeds 0.5 */
    for (size_t i = c->end; i-- > c->from && kvt__num(rows, i, COL_WORST) <= 0.5;) from = kvt__num(rows, i, COL_HELD);
    char number[16];
    if (isnan(from)) h_raw(h, "a step above 0.5 at every budget");
    else if (from <= kvt__num(rows, c->from, COL_HELD)) h_raw(h, "no step above 0.5 at these budgets");
    else h_put(h, "no step above 0.5 from %s on", h_percent(number, from));
}

static void multiple_draw(h_page *h, const kvt__rows *rows, const curve *c, size_t index, const kvt__scope *s)
{
    static const double tick[3] = {0, 0.5, 1};
    const svg_axes a = {.left = 30, .right = 200, .top = 8, .bottom = 150, .x_lo = 0, .x_hi = 1, .y_lo = 0, .y_hi = 1};
    double y[4], at[4];
    char id[56], shown[LABEL_BYTES], what[LABEL_BYTES + 32];
    curve_label(shown, kvt__str(rows, c->from, COL_POLICY), 34);
    h_put(h, "<div class=\"small\"><h4>%s</h4><p>", shown);
    multiple_finding(h, rows, c);
    h_raw(h, "</p>\n");
    snprintf(id, sizeof id, "svg-curve%s-%zu", s->suffix, index);
    snprintf(what, sizeof what, "Loss against budget: %s", shown);
    svg_open(h, id, "chart", 260, 176, what,
             "Mean, CVaR95 of the worst KV head, worst step, and the oracle's worst step.");
    svg_grid_y(h, &a, 4, 2, 0);
    svg_ticks_x(h, &a, tick, 3, 1);
    for (size_t k = 4; k-- > 0;) {
        curve_draw(h, &a, rows, c, part[k].col, part[k].css, -1);
        at[k] = svg_y(&a, kvt__num(rows, c->end - 1, (size_t)part[k].col));
        y[k] = at[k];
    }
    svg_spread(y, 4, 12, a.top + 2, a.bottom - 1);
    for (size_t k = 0; k < 4; k++) {
        const double x = svg_x(&a, kvt__num(rows, c->end - 1, COL_HELD));
        h_put(h,
              "<path class=\"leader %s\" d=\"M%.1f %.1fL%.1f %.1f\"/><text class=\"label %s\" x=\"%.1f\" "
              "y=\"%.1f\">%s</text>\n",
              part[k].css, x + 2, at[k], a.right + 4, y[k], part[k].css, a.right + 7, y[k] + 3.5, part[k].name);
    }
    svg_close(h);
    h_raw(h, "</div>\n");
}

/* ---- the two figures ------------------------------------------------------------------ */

static kvt_status curves_overlay(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    curve *c;
    size_t n, n_drawn, best = SIZE_MAX, last = SIZE_MAX;
    char x[16], y[16];
    KVT_TRY(curves_read(&fig, r, s, err));
    n = curves_split(&c, &fig.rows, s);
    n_drawn = n < MOST_SERIES ? n : MOST_SERIES;
    kvt__figure_begin(r, &fig, s, "overlay");
    for (size_t i = 0; i < n; i++)
        if (!c[i].guide && !isnan(c[i].at_focus)) {
            if (best == SIZE_MAX) best = i;
            last = i;
        }
    if (best == SIZE_MAX || best == last)
        h_put(h, "The tail loss of every policy against the share of entries it holds.");
    else
        h_put(h, "At budget %s the tail loss lies between %s (%s) and %s (%s).", s->budget,
              h_loss(x, c[best].at_focus), kvt__str(&fig.rows, c[best].from, COL_POLICY),
              h_loss(y, c[last].at_focus), kvt__str(&fig.rows, c[last].from, COL_POLICY));
    h_raw(h, "</p>\n<div class=\"split\"><div class=\"scroll\">");
    overlay_draw(h, &fig.rows, c, n_drawn, s);
    h_raw(h, "</div>");
    overlay_table(h, &fig.rows, c, n, s);
    h_raw(h, "</div>\n<p class=\"under\">CVaR95: mean of the worst 5\xc2\xa0% of the steps of a KV head; the one where "
             "it is largest is shown. "
             "Grey: baselines and oracles. Thin lines: kept sets do not nest in the budget, nothing is claimed between "
             "the points.");
    if (n > n_drawn) h_put(h, " The first %u of %zu lines are drawn.", (unsigned)n_drawn, n);
    h_raw(h, "</p>\n");
    if (!c) h->failed = 1;
    free(c);
    kvt__figure_end(r, &fig, s, "which head is the worst (it differs between points), and the spread over documents.");
    return KVT_OK;
}

static kvt_status curves_multiples(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    curve *c;
    size_t n, focus = SIZE_MAX;
    char x[16], y[16];
    KVT_TRY(curves_read(&fig, r, s, err));
    n = curves_split(&c, &fig.rows, s);
    kvt__figure_begin(r, &fig, s, "curves");
    for (size_t i = 0; i < n; i++)
        if (kvt__int(&fig.rows, c[i].from, COL_CONFIG) == s->config_id) focus = c[i].focus_row;
    if (focus == SIZE_MAX) h_raw(h, "The mean says little about the worst step.");
    else
        h_put(h, "The mean hides the worst step: at budget %s, %s loses %s on average and %s at its worst step.",
              s->budget, s->policy, h_loss(x, kvt__num(&fig.rows, focus, COL_MEAN)),
              h_loss(y, kvt__num(&fig.rows, focus, COL_WORST)));
    h_raw(h, "</p>\n<div class=\"multiples\">\n");
    for (size_t i = 0; i < n; i++) multiple_draw(h, &fig.rows, &c[i], i, s);
    h_raw(h, "</div>\n<p class=\"under\">Horizontal: share of the prompt\xe2\x80\x99s entries held. Vertical: share of "
             "attention lost, 0 to 1 in every chart. "
             "Oracle: worst step when the best entries are chosen anew at each step; what lies below it no choice can "
             "avoid.</p>\n");
    if (!c) h->failed = 1;
    free(c);
    kvt__figure_end(r, &fig, s, "budgets between the points, and the full cache, which loses nothing.");
    return KVT_OK;
}

static kvt_status curves_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    KVT_TRY(curves_overlay(r, s, err));
    return curves_multiples(r, s, err);
}

kvt_status kvt__panel_curves(kvt__report *r, kvt_err *err)
{
    return kvt__section(r, "curves", "Loss against budget", curves_body,
        "No finished cell. kvtrace replay TRACE.h5 -b 0.05,0.1,0.2,0.4,0.6,0.8 -o RESULTS.db computes them.", err);
}
