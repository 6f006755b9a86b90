/* Loss against budget: mean and tail of the chosen few in two charts, with the oracles
 * and what any choice should beat in grey. All axes run 0..1 and none is fitted, so that
 * charts can be compared by eye. */
#include "curves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int overlay_wants(int drawn) { return drawn <= KVT__DRAWN_REFERENCE; }

/* Labels stand at the end of the lines where these lie further apart. */
static int overlay_label_left(const kvt__rows *rows, const kvt__curve *c, size_t n, size_t col)
{
    double lo[2] = {1, 1}, hi[2] = {0, 0};
    for (size_t i = 0; i < n; i++)
        for (int end = 0; end < 2; end++) {
            const double v = kvt__num(rows, end ? c[i].end - 1 : c[i].from, col);
            if (isnan(v)) continue;
            lo[end] = fmin(lo[end], v);
            hi[end] = fmax(hi[end], v);
        }
    return hi[0] - lo[0] >= hi[1] - lo[1];
}

static void overlay_labels(h_page *h, const svg_axes *a, const kvt__rows *rows, const kvt__curve *c, size_t n, size_t col,
                           int left)
{
    enum { MOST = 32 };             /* chosen, references, and more oracles than there are */
    double at[MOST], y[MOST];
    char css[32], shown[KVT__LABEL_BYTES];
    if (n > MOST) n = MOST;
    for (size_t i = 0; i < n; i++) at[i] = y[i] = svg_y(a, kvt__num(rows, left ? c[i].from : c[i].end - 1, col));
    svg_spread(y, n, 17, a->top + 2, a->bottom);
    for (size_t i = 0; i < n; i++) {
        const double x0 = svg_x(a, kvt__num(rows, left ? c[i].from : c[i].end - 1, CURVE_HELD)), sign = left ? -1 : 1;
        const double x1 = left ? a->left - 12 : a->right + 12;
        kvt__curve_css(css, sizeof css, &c[i]);
        h_put(h, "<path class=\"leader %s\" d=\"M%.1f %.1fL%.1f %.1fH%.1f\"/>", css, x0 + 5 * sign, at[i],
              x1 - 6 * sign, y[i], x1);
        h_put(h, "<text class=\"label %s%s\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", css, left ? " end" : "", x1 + 3 * sign,
              y[i] + 4, kvt__curve_label(shown, &c[i], 20));
    }
}

static void overlay_draw(h_page *h, const kvt__rows *rows, const kvt__curve *c, size_t n, size_t col, const char *what,
                         const kvt__scope *s)
{
    static const double tick[6] = {0, 0.2, 0.4, 0.6, 0.8, 1};
    const int left = overlay_label_left(rows, c, n, col);
    const svg_axes a = {.left = left ? 196 : 34, .right = left ? 546 : 384, .top = 26, .bottom = 366,
                        .x_lo = 0, .x_hi = 1, .y_lo = 0, .y_hi = 1};
    char id[48], css[32], shows[96];
    snprintf(id, sizeof id, "svg-overlay-%s%s", col == CURVE_MEAN ? "mean" : "tail", s->suffix);
    snprintf(shows, sizeof shows, "%s against the share of entries held; lower is better. Oracles and references are grey.",
             what);
    h_raw(h, "<div>");
    svg_open(h, id, "chart overlay", 580, 406, what, shows);
    for (size_t i = 0; i < n; i++)
        if (strcmp(c[i].entry->policy, "oracle_step") == 0) kvt__curve_area(h, &a, rows, &c[i], (int)col, "unavoidable");
    svg_grid_y(h, &a, 5, 1, left);
    svg_ticks_x(h, &a, tick, 6, 1);
    h_put(h, "<text class=\"axis-title strong%s\" x=\"%.1f\" y=\"13\">%s</text>", left ? " end" : "", left ? 576.0 : 8.0, what);
    h_put(h, "<text class=\"axis-title mid\" x=\"%.1f\" y=\"400\">share of the prompt\xe2\x80\x99s entries held</text>\n",
          (a.left + a.right) / 2);
    for (size_t i = n; i-- > 0;) {                      /* guides first, the best policy on top */
        kvt__curve_css(css, sizeof css, &c[i]);
        kvt__curve_line(h, &a, rows, &c[i], (int)col, css, kvt__curve_shape(&c[i]));
    }
    overlay_labels(h, &a, rows, c, n, col, left);
    svg_close(h);
    h_raw(h, "</div>\n");
}

/* Every line with its whole label and its place: the charts cut labels. */
static void overlay_key(h_page *h, const kvt__rows *rows, const kvt__curve *c, size_t n, const kvt__scope *s)
{
    char css[32], x[16], y[16];
    h_raw(h, "<ul class=\"cast\">\n");
    for (size_t i = 0; i < n; i++) {
        kvt__curve_css(css, sizeof css, &c[i]);
        h_put(h, "<li id=\"drawn%s-%lld\"><svg viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"line %s%s\" d=\"M1 6H33\"/>",
              s->suffix, (long long)c[i].entry->config_id, css, kvt__int(rows, c[i].from, CURVE_NESTED) ? "" : " eye");
        if (kvt__curve_shape(&c[i]) >= 0) {
            char mark[48];
            snprintf(mark, sizeof mark, "mark %s", css);
            svg_marker(h, mark, (unsigned)kvt__curve_shape(&c[i]), 17, 6);
        }
        h_raw(h, "</svg> <b>");
        kvt__put_label(h, c[i].entry->label);
        h_raw(h, "</b> <span class=\"soft\">");
        if (c[i].entry->place) h_put(h, "place %u of %zu, ", c[i].entry->place, s->rank.n_ranked);
        else if (c[i].drawn == KVT__DRAWN_ORACLE) h_raw(h, "oracle, ");
        else if (c[i].entry->role == KVT__BASELINE) h_raw(h, "baseline, ");
        h_put(h, "mean %s, CVaR95 %s</span></li>\n", h_loss(x, c[i].entry->mean), h_loss(y, c[i].entry->cvar95));
    }
    h_raw(h, "</ul>\n");
}

static void overlay_finding(h_page *h, const kvt__scope *s)
{
    const kvt__ranking *r = &s->rank;
    const kvt__entry *reference = s->n_reference ? &r->e[s->reference[0]] : NULL;
    char x[16], y[16];
    if (!r->n_ranked) {
        h_raw(h, "The loss of the baselines against the share of entries they hold.</p>\n");
        return;
    }
    h_put(h, "At budget %s %s loses %s on average", s->budget, r->e[0].label, h_loss(x, r->e[0].mean));
    if (reference && reference->here)
        h_put(h, ", %s %s", reference->label, h_loss(y, reference->mean));
    h_put(h, "; the CVaR95 of its worst KV head is %s.</p>\n", h_loss(x, r->e[0].cvar95));
}

kvt_status kvt__overlay(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    kvt__curve *c = NULL;
    size_t n = 0;
    kvt_status st = kvt__curves_read(&fig, &c, &n, r, s, overlay_wants, err);
    if (st < 0) goto done;
    if (!n) {
        kvt__empty(r, "Only the full cache was replayed. kvtrace replay TRACE.h5 -o RESULTS.db adds policies.");
        goto done;
    }
    kvt__figure_begin(r, &fig, s, "overlay");
    overlay_finding(h, s);
    h_raw(h, "<div class=\"pair\">\n");
    overlay_draw(h, &fig.rows, c, n, CURVE_MEAN, "mean over heads and steps", s);
    overlay_draw(h, &fig.rows, c, n, CURVE_CVAR, "CVaR95 of the worst KV head", s);
    h_raw(h, "</div>\n");
    overlay_key(h, &fig.rows, c, n, s);
    h_raw(h, "<p class=\"under\">");
    kvt__put_rule(h, s);
    h_raw(h, " Vertical: share of the attention lost, 0 to 1. CVaR95: mean of the worst 5\xc2\xa0% of the steps of a KV "
             "head; the one where it is largest is shown. Filled: what the per-step oracle loses, which no choice can "
             "avoid. Thin lines: kept sets do not nest in the budget, nothing is claimed between the points.</p>\n");
    kvt__figure_end(r, &fig, s,
                    "the other policies (small charts below), which head is the worst (it differs between points), and "
                    "the spread over documents.");
done:
    kvt__figure_free(&fig);
    free(c);
    return st;
}

static kvt_status curves_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    int64_t *drawn = NULL;
    size_t n_drawn = 0;
    kvt_status st;
    KVT_TRY(kvt__overlay(r, s, err));
    KVT_TRY(kvt__ranking_table(r, s, err));
    KVT_TRY(kvt__budgets(r, s, &drawn, &n_drawn, err));
    st = kvt__multiples(r, s, drawn, n_drawn, err);
    free(drawn);
    return st;
}

kvt_status kvt__panel_curves(kvt__report *r, kvt_err *err)
{
    return kvt__section(r, "curves", "Ranking, and loss against budget", curves_body,
        "No finished cell. kvtrace replay TRACE.h5 -b 0.05,0.1,0.2,0.4,0.6,0.8 -o RESULTS.db computes them.", err);
}
