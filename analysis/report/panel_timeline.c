/* Steps: the loss of the worst heads over the decode steps with the oracle's loss, the
 * violations shaded by cause, and what the model was writing at each step. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "svg.h"

enum { COL_LAYER, COL_HEAD, COL_STEP, COL_LOST, COL_ORACLE };
enum { V_LAYER, V_HEAD, V_TAU, V_START, V_N, V_PEAK, V_LOST, V_ORACLE, V_CAUSE };
enum { MOST_HEADS = 3, MOST_STEPS = 1 << 16 };

static const struct {
    const char *name, *words, *css, *meaning;
} cause[] = {
    {"infeasible", "infeasible", "v-infeasible", "no set of that size could have held enough"},
    {"sink_evicted", "sink evicted", "v-sink", "most of the evicted mass sits on the first positions"},
    {"late_bloomer", "late bloomer", "v-late", "most of it on entries that the last prompt queries hardly used"},
    {"selection", "selection", "v-selection",
     "most of it on entries that the last prompt queries did use, evicted all the same"},
    {"new_token", "new token", "v-new", "most of it on generated entries"},
    {"mixed", "mixed", "v-mixed", "no class has half of it"},
};

static size_t cause_find(const char *name)
{
    size_t i = 0;
    while (i < sizeof cause / sizeof *cause && strcmp(cause[i].name, name) != 0) i++;
    return i;
}

const char *kvt__cause_words(const char *name)
{
    const size_t i = cause_find(name);
    return i < sizeof cause / sizeof *cause ? cause[i].words : name;
}

const char *kvt__cause_meaning(const char *name)
{
    const size_t i = cause_find(name);
    return i < sizeof cause / sizeof *cause ? cause[i].meaning : NULL;
}

typedef struct head_series {        /* one head: values per step, NaN = not stored    */
    int64_t layer, head;
    double *lost, *oracle;          /* [n]                                            */
    size_t  n, peak;
} head_series;

/* ---- reading ----------------------------------------------------------------------- */

/* One value per step out of the blobs, in SQL alone, so that a reader can run it too. */
static kvt_status timeline_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(
        &fig->rows, &fig->sql, r->db, err,
        "WITH RECURSIVE step(t) AS (SELECT 0 UNION ALL SELECT t + 1 FROM step WHERE t + 1 < %lld),\n"
        "  worst AS (SELECT h.layer, h.head, h.lost_cvar95 FROM result_head h WHERE h.cell_id = %lld AND EXISTS\n"
        "      (SELECT 1 FROM result_series q WHERE q.cell_id = h.cell_id AND q.layer = h.layer AND q.head = h.head "
        "AND q.metric = 'lost')\n"
        "    ORDER BY h.lost_cvar95 DESC, h.layer, h.head LIMIT %d),\n"
        "  word AS (SELECT w.layer, w.head, w.lost_cvar95, q.metric, q.step0 + t AS step, hex(substr(q.data, 4 * t + "
        "1, 4)) AS x\n"
        "    FROM worst w JOIN result_series q ON q.cell_id = %lld AND q.layer = w.layer AND q.head = w.head JOIN step "
        "ON t < q.n\n"
        "    WHERE q.metric IN ('lost', 'oracle')),\n"
        "  value AS (SELECT layer, head, lost_cvar95, metric, step,\n"
        "    " KVT__Q31_SQL " AS v FROM word)\n"
        "SELECT layer, head, step, round(max(CASE metric WHEN 'lost' THEN v END), 4) AS lost,\n"
                      "       round(max(CASE metric WHEN 'oracle' THEN v END), 4) AS oracle\n"
        "  FROM value GROUP BY layer, head, step ORDER BY max(lost_cvar95) DESC, layer, head, step",
        (long long)(s->n_decode < MOST_STEPS ? s->n_decode : MOST_STEPS), (long long)s->cell_id, (int)MOST_HEADS,
        (long long)s->cell_id);
}

static int series_new(head_series *s, int64_t layer, int64_t head, size_t n)
{
    *s = (head_series){.layer = layer,
                       .head = head,
                       .n = n,
                       .lost = malloc(n * sizeof *s->lost),
                       .oracle = malloc(n * sizeof *s->oracle)};
    if (!s->lost || !s->oracle) return 0;
    for (size_t t = 0; t < n; t++) s->lost[t] = s->oracle[t] = NAN;
    return 1;
}

/* The rows as one series per head, worst first. Returns their number; 0 = no memory. */
static size_t series_collect(head_series *out, const kvt__rows *rows, size_t n_step)
{
    size_t n = 0;
    for (size_t i = 0; i < rows->n_row; i++) {
        const int64_t layer = kvt__int(rows, i, COL_LAYER), head = kvt__int(rows, i, COL_HEAD),
                      t = kvt__int(rows, i, COL_STEP);
        head_series *s;
        if (!n || out[n - 1].layer != layer || out[n - 1].head != head) {
            if (n == MOST_HEADS) break;
            if (!series_new(&out[n++], layer, head, n_step)) return 0;
        }
        s = &out[n - 1];
        if (t < 0 || (uint64_t)t >= n_step) continue;
        s->lost[t] = kvt__num(rows, i, COL_LOST);
        s->oracle[t] = kvt__num(rows, i, COL_ORACLE);
        if (isnan(s->lost[s->peak]) || s->lost[t] > s->lost[s->peak]) s->peak = (size_t)t;
    }
    return n;
}

/* ---- violations --------------------------------------------------------------------- */

/* The largest threshold at which this head has violations; NaN = none. */
static double violation_tau(const kvt__rows *v, const head_series *s)
{
    double tau = NAN;
    for (size_t i = 0; i < v->n_row; i++)
        if (kvt__int(v, i, V_LAYER) == s->layer && kvt__int(v, i, V_HEAD) == s->head && !(kvt__num(v, i, V_TAU) <= tau))
            tau = kvt__num(v, i, V_TAU);
    return tau;
}

static int violation_of(const kvt__rows *v, size_t i, const head_series *s, double tau)
{
    return kvt__int(v, i, V_LAYER) == s->layer && kvt__int(v, i, V_HEAD) == s->head && kvt__num(v, i, V_TAU) == tau;
}

/* Step t of head s lies in a violation. */
static int violation_at(const kvt__rows *v, const head_series *s, double tau, size_t t)
{
    for (size_t i = 0; i < v->n_row; i++)
        if (violation_of(v, i, s, tau) && (int64_t)t >= kvt__int(v, i, V_START) &&
            (int64_t)t < kvt__int(v, i, V_START) + kvt__int(v, i, V_N))
            return 1;
    return 0;
}

static void violation_shade(h_page *h, const svg_axes *a, const kvt__rows *v, const head_series *s, double tau)
{
    for (size_t i = 0; i < v->n_row; i++) {
        const size_t k = cause_find(kvt__str(v, i, V_CAUSE));
        double from, to;
        if (!violation_of(v, i, s, tau) || k == sizeof cause / sizeof *cause) continue;
        from = fmax(svg_x(a, kvt__num(v, i, V_START) - 0.5), a->left);
        to = fmin(svg_x(a, kvt__num(v, i, V_START) + kvt__num(v, i, V_N) - 0.5), a->right);
        if (to < a->left || from > a->right) continue;
        if (to - from < 3) to = from + 3;
        h_put(h, "<rect class=\"violation %s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
              cause[k].css, from, a->top, to - from, a->bottom - a->top);
    }
}

static void violation_key(h_page *h, const kvt__rows *v, const head_series *s, size_t n_head, const double *tau)
{
    int any = 0;
    for (size_t k = 0; k < sizeof cause / sizeof *cause; k++) {
        int used = 0;
        for (size_t i = 0; i < v->n_row && !used; i++)
            for (size_t q = 0; q < n_head && !used; q++)
                used = violation_of(v, i, &s[q], tau[q]) && strcmp(kvt__str(v, i, V_CAUSE), cause[k].name) == 0;
        if (!used) continue;
        if (!any++) h_raw(h, "<ul class=\"causes\">");
        h_put(h,
              "<li><svg viewBox=\"0 0 22 14\" aria-hidden=\"true\"><rect class=\"violation %s\" width=\"22\" "
              "height=\"14\"/></svg> "
              "<b>%s</b>: %s</li>\n",
              cause[k].css, cause[k].words, cause[k].meaning);
    }
    if (any) h_raw(h, "</ul>\n");
}

/* Patterns of all charts of the page. */
static void violation_patterns(h_page *h)
{
    static const char *const stroke[6] = {"M0 8L8 0M-2 2L2 -2M6 10L10 6",
                                          "M0 2H4M4 6H8",
                                          "M0 0L8 8M-2 6L2 10M6 -2L10 2",
                                          "M0 4H8",
                                          "M4 2V6M2 4H6",
                                          "M0 0H1M4 4H5"};
    h_raw(h, "<svg class=\"defs\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>");
    for (size_t k = 0; k < 6; k++)
        h_put(h,
              "<pattern id=\"%s\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\"><rect class=\"%s ground\" "
              "width=\"8\" height=\"8\"/>"
              "<path class=\"%s hatch\" d=\"%s\"/></pattern>",
              cause[k].css, cause[k].css, cause[k].css, stroke[k]);
    h_raw(h, "</defs></svg>\n");
}

/* ---- the chart of one head ------------------------------------------------------------ */

static void lane_tau(h_page *h, const svg_axes *a)
{
    static const double tau[3] = {0.5, 0.25, 0.1};
    for (unsigned i = 0; i < 3; i++)
        h_put(h,
              "<path class=\"tau\" d=\"M%.1f %.1fH%.1f\"/><text class=\"tick\" x=\"%.1f\" y=\"%.1f\">\xcf\x84 "
              "%.2f</text>\n",
              a->left, svg_y(a, tau[i]), a->right, a->right + 6, svg_y(a, tau[i]) + 3.5, tau[i]);
}

static void lane_steps(h_page *h, const svg_axes *a, uint32_t n)
{
    const uint32_t step = svg_tick_step(n > 1 ? n - 1 : 1, 12);
    for (uint32_t t = 0; t < n; t += step) {
        const double at = t;
        svg_ticks_x(h, a, &at, 1, 0);
    }
}

static void lane_draw(h_page *h, const head_series *s, const kvt__rows *v, double tau, size_t index, int last,
                      const char *suffix)
{
    const double height = index ? 96 : 150;
    const svg_axes a = {.left = 40,
                        .right = 1010,
                        .top = 22,
                        .bottom = 22 + height,
                        .x_lo = -0.5,
                        .x_hi = (double)s->n - 0.5,
                        .y_lo = 0,
                        .y_hi = 1};
    const double px = svg_x(&a, (double)s->peak), py = svg_y(&a, s->lost[s->peak]);
    char id[64], what[96], shows[128], number[16];
    snprintf(id, sizeof id, "svg-lane%s-%zu", suffix, index);
    snprintf(what, sizeof what, "Loss per decode step of layer %lld, head %lld", (long long)s->layer,
             (long long)s->head);
    snprintf(shows, sizeof shows, "Largest loss %s at step %zu.", h_loss(number, s->lost[s->peak]), s->peak);
    svg_open(h, id, "chart lane", 1080, a.bottom + (last ? 40 : 8), what, shows);
    h_put(h, "<text class=\"lane-title\" x=\"40\" y=\"13\">layer %lld, head %lld</text>", (long long)s->layer,
          (long long)s->head);
    violation_shade(h, &a, v, s, tau);
    svg_grid_y(h, &a, 2, 1, 0);
    lane_tau(h, &a);
    svg_series(h, &a, "line p-oracle", s->oracle, s->n);
    svg_series(h, &a, "line p-cvar thin", s->lost, s->n);
    svg_marker(h, "mark p-cvar", 0, px, py);
    h_put(h, "<text class=\"label halo%s\" x=\"%.1f\" y=\"%.1f\">%s at step %zu</text>\n", px > 860 ? " end" : "",
          px + (px > 860 ? -7 : 7), py < a.top + 20 ? py + 15 : py - 6, number, s->peak);
    if (last) {
        lane_steps(h, &a, (uint32_t)s->n);
        h_put(h, "<text class=\"axis-title end\" x=\"%.1f\" y=\"%.1f\">decode step</text>", a.right, a.bottom + 34);
    }
    svg_close(h);
}

/* ---- around the peak: one bar per step with its token ---------------------------------- */

static void peak_draw(h_page *h, const head_series *s, const kvt__rows *v, double tau, const kvt__tokens *tok,
                      const char *suffix)
{
    enum { AROUND = 24, SHOWN = 12 };
    const size_t from = s->peak > AROUND ? s->peak - AROUND : 0;
    const size_t to = s->peak + AROUND + 1 < s->n ? s->peak + AROUND + 1 : s->n;
    const svg_axes a = {.left = 40,
                        .right = 1010,
                        .top = 8,
                        .bottom = 128,
                        .x_lo = (double)from - 0.5,
                        .x_hi = (double)to - 0.5,
                        .y_lo = 0,
                        .y_hi = 1};
    const double width = fmin(14, 0.7 * (a.right - a.left) / (double)(to - from));
    char id[48], cut[4 * SHOWN + 1], label[64];
    snprintf(id, sizeof id, "svg-peak%s", suffix);
    h_put(h,
          "<h4>Around the peak: layer %lld, head %lld, steps %zu to %zu with the token whose query is "
          "evaluated</h4>\n<div class=\"scroll\">",
          (long long)s->layer, (long long)s->head, from, to - 1);
    svg_open(h, id, "chart peak", 1080, tok->n ? 222 : 150,
             "Loss per step around the peak, with the token of each step",
             "Bars: loss; the grey part could not have been avoided.");
    violation_shade(h, &a, v, s, tau);
    svg_grid_y(h, &a, 2, 1, 0);
    lane_tau(h, &a);
    for (size_t t = from; t < to; t++) {
        const double x = svg_x(&a, (double)t), y = isnan(s->lost[t]) ? a.bottom : svg_y(&a, s->lost[t]);
        const int peak = t == s->peak;
        h_put(h, "<rect class=\"bar%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>", peak ? " top" : "",
              x - width / 2, y, width, a.bottom - y);
        if (!isnan(s->oracle[t]))
            h_put(h, "<rect class=\"bar unavoidable\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                  x - width / 2, svg_y(&a, s->oracle[t]), width, a.bottom - svg_y(&a, s->oracle[t]));
        if (peak || (t % 4 == 0 && t + 1 != s->peak && t != s->peak + 1))
            h_put(h, "<text class=\"tick mid%s\" x=\"%.1f\" y=\"%.1f\">%zu</text>", peak ? " strong" : "", x,
                  a.bottom + 13, t);
        if (t < tok->n) {
            h_put(h, "<text class=\"tok%s\" transform=\"translate(%.1f %.1f) rotate(-55)\">", peak ? " strong" : "",
                  x + 4, a.bottom + 24);
            h_put(h, "%s</text>\n", svg_shorten(cut, kvt__tokens_label(label, tok, t), SHOWN));
        }
    }
    svg_close(h);
    h_raw(h, "</div>\n");
}

/* ---- the generated text, shaded ---------------------------------------------------------- */

static void text_draw(h_page *h, const head_series *s, const kvt__rows *v, double tau, const kvt__tokens *tok)
{
    enum { MOST = 2000, EVERY = 32 };
    const size_t n = tok->n < s->n ? tok->n : s->n;
    size_t from = 0, to = n;
    if (n > MOST) {                                     /* the part around the peak    */
        from = s->peak > MOST / 2 ? s->peak - MOST / 2 : 0;
        if (from > n - MOST) from = n - MOST;
        to = from + MOST;
    }
    h_put(h, "<h4>What the model was writing, shaded by the loss of layer %lld, head %lld</h4>\n<p class=\"text\">",
          (long long)s->layer, (long long)s->head);
    for (size_t t = from, mark = from; t < to;) {
        size_t end = kvt__tokens_group(tok, t);
        double lost = 0;
        if (end > to) end = to;
        for (size_t k = t; k < end; k++)
            if (s->lost[k] > lost) lost = s->lost[k];
        if (t >= mark) {
            h_put(h, "<span class=\"at\">%zu</span>", t);
            mark = (t / EVERY + 1) * EVERY;
        }
        h_put(h, "<span class=\"k%u%s\">", (unsigned)(lost > 0.1) + (unsigned)(lost > 0.25) + (unsigned)(lost > 0.5),
              violation_at(v, s, tau, t) ? " bad" : "");
        kvt__tokens_put(h, tok, t, end);
        h_raw(h, "</span>");
        t = end;
    }
    h_raw(h, "</p>\n<p class=\"under\">Loss above <span class=\"k1\">0.1</span> <span class=\"k2\">0.25</span> <span "
             "class=\"k3\">0.5</span>. "
             "Underlined: inside a violation that is shaded above. Small figures: decode step.");
    if (to - from < n) h_put(h, " Steps %zu to %zu of %zu.", from, to - 1, n);
    h_raw(h, "</p>\n");
}

/* ---- the figure ---------------------------------------------------------------------------- */

static void timeline_finding(h_page *h, const kvt__scope *s, const head_series *w, const kvt__rows *v, double tau)
{
    size_t n_over = 0, n_run = 0;
    char number[16];
    for (size_t i = 0; i < v->n_row; i++) {
        if (!violation_of(v, i, w, tau)) continue;
        n_over += (size_t)kvt__int(v, i, V_N);
        n_run++;
    }
    if (isnan(tau))
        h_put(h,
              "Layer %lld, head %lld under %s at budget %s stays below every threshold: at most %s, at step %zu of "
              "%s.</p>\n",
              (long long)w->layer, (long long)w->head, s->policy, s->budget, h_loss(number, w->lost[w->peak]), w->peak,
              s->trace);
    else
        h_put(h,
              "Layer %lld, head %lld under %s at budget %s loses more than %.2f of its attention in %zu of %zu steps "
              "of %s, in %zu %s.</p>\n",
              (long long)w->layer, (long long)w->head, s->policy, s->budget, tau, n_over, w->n, s->trace, n_run,
              n_run == 1 ? "run" : "runs");
}

static kvt_status timeline_figure(kvt__report *r, kvt__figure *fig, const kvt__scope *s, const kvt__rows *v,
                                  kvt_err *err)
{
    h_page *h = &r->page;
    head_series w[MOST_HEADS] = {{0}};
    kvt__tokens tok = {0};
    double tau[MOST_HEADS];
    kvt_status st = KVT_OK;
    const size_t n_step = s->n_decode < MOST_STEPS ? s->n_decode : MOST_STEPS;
    const size_t n = series_collect(w, &fig->rows, n_step);
    if (!n) st = kvt_fail(err, KVT_ENOMEM, "out of memory for a series of %zu steps", n_step);
    if (st == KVT_OK) st = kvt__tokens_read(&tok, r->db, s->trace_id, s->n_prompt, (int64_t)n_step, err);
    if (st < 0) goto done;
    kvt__figure_begin(r, fig, s, "timeline");
    for (size_t i = 0; i < n; i++) tau[i] = violation_tau(v, &w[i]);
    timeline_finding(h, s, &w[0], v, tau[0]);
    h_raw(h, "<p class=\"under\"><span class=\"swatch p-cvar\"></span> lost under the policy <span class=\"swatch "
             "p-oracle\"></span> "
             "lost by the per-step oracle with as many entries: unavoidable</p>\n<div class=\"scroll lanes\">");
    for (size_t i = 0; i < n; i++) lane_draw(h, &w[i], v, tau[i], i, i + 1 == n, s->suffix);
    h_raw(h, "</div>\n");
    violation_key(h, v, w, n, tau);
    peak_draw(h, &w[0], v, tau[0], &tok, s->suffix);
    if (tok.n) text_draw(h, &w[0], v, tau[0], &tok);
    else kvt__empty(r, "This trace has no token text.");
    kvt__figure_end(r, fig, s, s->n_decode > MOST_STEPS ? "other heads, and steps from 65536 on." : "other heads.");
    st = kvt__lanes_figure(r, s, w[0].layer, w[0].head, err);
done:
    kvt__tokens_free(&tok);
    for (size_t i = 0; i < MOST_HEADS; i++) {
        free(w[i].lost);
        free(w[i].oracle);
    }
    return st;
}

static kvt_status timeline_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    kvt__figure fig = {0};
    kvt__rows v = {0};
    kvt_status st = timeline_read(&fig, r, s, err);
    if (st == KVT_OK)
        st = kvt__rows_read(&v, NULL, r->db, err,
                            "SELECT layer, head, tau, start_step, n_step, peak_step, peak_lost, peak_oracle_lost, "
                            "cause FROM v_violations\n"
                            " WHERE cell_id = %lld ORDER BY layer, head, tau DESC, start_step",
                            (long long)s->cell_id);
    if (st == KVT_OK) {
        if (!fig.rows.n_row || !s->n_decode)
            kvt__empty(r, "No series of steps is stored for this policy and budget. kvtrace replay TRACE.h5 -o "
                          "RESULTS.db stores those of the worst heads.");
        else st = timeline_figure(r, &fig, s, &v, err);
    }
    kvt__rows_free(&v);
    kvt__figure_free(&fig);
    return st;
}

kvt_status kvt__panel_timeline(kvt__report *r, kvt_err *err)
{
    if (r->n_scope) violation_patterns(&r->page);
    return kvt__section(
        r, "timeline", "Steps", timeline_body,
        "No finished cell. kvtrace replay TRACE.h5 -o RESULTS.db stores the loss of the worst heads at each step.",
        err);
}
