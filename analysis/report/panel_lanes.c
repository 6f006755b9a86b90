/* The same head under several policies: one lane for each of the chosen few, in step. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curves.h"
#include "svg.h"

enum { COL_POLICY, COL_CONFIG, COL_STEP, COL_LOST, COL_ORACLE };
enum { MOST_STEPS = 1 << 16, MOST_LANES = KVT__MOST_CHOSEN + 3 };

typedef struct lane {
    const kvt__entry *entry;
    double           *lost, *oracle;    /* [n_step], NaN = not stored                  */
    size_t            peak, n;          /* n: steps that are stored                    */
} lane;

static int lane_compare(const void *pa, const void *pb)
{
    const lane *a = pa, *b = pb;
    return (a->entry > b->entry) - (a->entry < b->entry);
}

/* The configurations with a lane in the order of the ranking, "NULL, 3, 17": the policy of
 * the figures above, the chosen, the references. */
static size_t lanes_pick(lane *out, char *ids, size_t size, const kvt__scope *s)
{
    const kvt__entry *focus = kvt__ranking_find(&s->rank, s->config_id);
    size_t n = 0, at = (size_t)snprintf(ids, size, "NULL");
    if (focus) out[n++].entry = focus;
    for (size_t i = 0; i < s->n_chosen; i++)
        if (&s->rank.e[s->chosen[i]] != focus) out[n++].entry = &s->rank.e[s->chosen[i]];
    for (size_t i = 0; i < s->n_reference; i++)
        if (&s->rank.e[s->reference[i]] != focus) out[n++].entry = &s->rank.e[s->reference[i]];
    qsort(out, n, sizeof *out, lane_compare);
    for (size_t i = 0; i < n; i++) at += (size_t)snprintf(ids + at, size - at, ", %lld", (long long)out[i].entry->config_id);
    return n;
}

static kvt_status lanes_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, int64_t layer, int64_t head,
                             const char *ids, kvt_err *err)
{
    return kvt__rows_read(
        &fig->rows, &fig->sql, r->db, err,
        "WITH RECURSIVE step(t) AS (SELECT 0 UNION ALL SELECT t + 1 FROM step WHERE t + 1 < %lld),\n"
        "  one AS (SELECT v.policy_label, v.config_id, min(v.cell_id) AS cell_id FROM v_cell v\n"
        "    WHERE v.status = 'done' AND v.trace_id = %lld AND v.budget_id = %lld AND v.config_id IN (%s)\n"
        "    GROUP BY v.config_id),\n"
        "  word AS (SELECT o.policy_label, o.config_id, q.metric, q.step0 + t AS step, hex(substr(q.data, 4 * t + 1, 4)) AS x\n"
        "    FROM one o JOIN result_series q USING(cell_id) JOIN step ON t < q.n\n"
        "    WHERE q.layer = %lld AND q.head = %lld AND q.metric IN ('lost', 'oracle')),\n"
        "  value AS (SELECT policy_label, config_id, metric, step,\n"
        "    " KVT__Q31_SQL " AS v FROM word)\n"
        "SELECT policy_label, config_id, step, round(max(CASE metric WHEN 'lost' THEN v END), 4) AS lost,\n"
        "       round(max(CASE metric WHEN 'oracle' THEN v END), 4) AS oracle\n"
        "  FROM value GROUP BY config_id, step ORDER BY config_id, step",
        (long long)(s->n_decode < MOST_STEPS ? s->n_decode : MOST_STEPS), (long long)s->trace_id, (long long)s->budget_id,
        ids, (long long)layer, (long long)head);
}

static int lane_fill(lane *l, const kvt__rows *rows, size_t n_step)
{
    l->lost = malloc(2 * n_step * sizeof *l->lost);
    if (!l->lost) return 0;
    l->oracle = l->lost + n_step;
    for (size_t t = 0; t < 2 * n_step; t++) l->lost[t] = NAN;
    for (size_t i = 0; i < rows->n_row; i++) {
        const int64_t t = kvt__int(rows, i, COL_STEP);
        if (kvt__int(rows, i, COL_CONFIG) != l->entry->config_id || t < 0 || (uint64_t)t >= n_step) continue;
        l->lost[t] = kvt__num(rows, i, COL_LOST);
        l->oracle[t] = kvt__num(rows, i, COL_ORACLE);
        if (!isnan(l->lost[t])) l->n++;
        if (isnan(l->lost[l->peak]) || l->lost[t] > l->lost[l->peak]) l->peak = (size_t)t;
    }
    return 1;
}

static size_t lane_over(const lane *l, size_t n_step, double tau)
{
    size_t n = 0;
    for (size_t t = 0; t < n_step; t++) n += l->lost[t] > tau;
    return n;
}

static void lane_draw(h_page *h, const lane *l, const kvt__scope *s, size_t n_step, size_t index, int last)
{
    const svg_axes a = {.left = 40, .right = 1010, .top = 20, .bottom = 82, .x_lo = -0.5, .x_hi = (double)n_step - 0.5,
                        .y_lo = 0, .y_hi = 1};
    const kvt__curve c = {.entry = l->entry, .drawn = kvt__drawn_as(s, l->entry)};
    char id[64], css[32], line[64], shown[KVT__LABEL_BYTES], what[KVT__LABEL_BYTES + 32], shows[96], number[16];
    kvt__curve_css(css, sizeof css, &c);
    kvt__curve_label(shown, &c, 60);
    snprintf(id, sizeof id, "svg-policy%s-%zu", s->suffix, index);
    snprintf(what, sizeof what, "Loss per decode step under %s", shown);
    snprintf(shows, sizeof shows, "Largest loss %s at step %zu.", h_loss(number, l->lost[l->peak]), l->peak);
    svg_open(h, id, "chart lane", 1080, a.bottom + (last ? 40 : 8), what, shows);
    h_put(h, "<text class=\"lane-title\" x=\"40\" y=\"13\">%s</text><text class=\"tick end\" x=\"%.1f\" y=\"13\">above 0.5 in "
             "%zu of %zu steps, largest %s at step %zu</text>", shown, a.right, lane_over(l, n_step, 0.5), n_step, number, l->peak);
    svg_grid_y(h, &a, 2, 1, 0);
    svg_series(h, &a, "line p-oracle", l->oracle, n_step);
    snprintf(line, sizeof line, "line solid thin %s", c.drawn < KVT__MOST_CHOSEN ? css : "other");
    svg_series(h, &a, line, l->lost, n_step);
    if (last) {
        const uint32_t step = svg_tick_step(n_step > 1 ? (uint32_t)n_step - 1 : 1, 12);
        for (uint32_t t = 0; t < n_step; t += step) {
            const double at = t;
            svg_ticks_x(h, &a, &at, 1, 0);
        }
        h_put(h, "<text class=\"axis-title end\" x=\"%.1f\" y=\"%.1f\">decode step</text>", a.right, a.bottom + 34);
    }
    svg_close(h);
}

static void lanes_finding(h_page *h, const lane *l, size_t n, size_t n_step, int64_t layer, int64_t head, const kvt__scope *s)
{
    const lane *least = &l[0];
    for (size_t i = 1; i < n; i++)
        if (l[i].n && (!least->n || lane_over(&l[i], n_step, 0.5) < lane_over(least, n_step, 0.5))) least = &l[i];
    h_put(h, "The same head, layer %lld, head %lld, under the chosen policies: %s exceeds 0.5 in the fewest steps of %s, %zu "
             "of %zu.</p>\n", (long long)layer, (long long)head, least->entry->label, s->trace,
          lane_over(least, n_step, 0.5), n_step);
}

static void lanes_missing(h_page *h, const lane *l, size_t n)
{
    size_t missing = 0;
    for (size_t i = 0; i < n; i++) {
        if (l[i].n) continue;
        if (missing++) h_raw(h, ", ");
        else h_raw(h, "<p class=\"under\">Not drawn: ");
        h_put(h, "%s", l[i].entry->label);
    }
    if (missing)
        h_raw(h, ". A cell stores the steps of its worst heads only, and this head is none of them there, or the policy was "
                 "not measured here.</p>\n");
}

kvt_status kvt__lanes_figure(kvt__report *r, const kvt__scope *s, int64_t layer, int64_t head, kvt_err *err)
{
    h_page *h = &r->page;
    const size_t n_step = s->n_decode < MOST_STEPS ? s->n_decode : MOST_STEPS;
    kvt__figure fig = {0};
    lane l[MOST_LANES] = {{0}};
    char ids[24 * MOST_LANES];
    size_t n = lanes_pick(l, ids, sizeof ids, s), n_drawn = 0, drawn = 0;
    kvt_status st = lanes_read(&fig, r, s, layer, head, ids, err);
    for (size_t i = 0; st == KVT_OK && i < n; i++) {
        if (!lane_fill(&l[i], &fig.rows, n_step)) st = kvt_fail(err, KVT_ENOMEM, "out of memory for a series of %zu steps", n_step);
        n_drawn += l[i].n > 0;
    }
    if (st < 0 || n_drawn < 2) goto done;               /* one policy stands above already */
    kvt__figure_begin(r, &fig, s, "policies");
    lanes_finding(h, l, n, n_step, layer, head, s);
    h_raw(h, "<div class=\"scroll lanes\">");
    for (size_t i = 0; i < n; i++)
        if (l[i].n) lane_draw(h, &l[i], s, n_step, i, ++drawn == n_drawn);
    h_raw(h, "</div>\n");
    lanes_missing(h, l, n);
    h_raw(h, "<p class=\"under\">Grey under each line: the per-step oracle with as many entries. ");
    kvt__put_rule(h, s);
    h_raw(h, "</p>\n");
    kvt__figure_end(r, &fig, s, "other policies and other heads; a random policy is shown with its first seed.");
done:
    kvt__figure_free(&fig);
    for (size_t i = 0; i < n; i++) free(l[i].lost);
    return st;
}
