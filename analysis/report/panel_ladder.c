/* Heads that no fixed set can serve: what every set of so many prompt entries loses at its
 * worst step, against what the best set of that step would lose. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>

#include "svg.h"

#define LADDER_GAP  0.1             /* counted in the finding                          */
#define LADDER_WIDE 0.02            /* bound and set this far apart: "not resolved"    */

enum { COL_TRACE, COL_LAYER, COL_HEAD, COL_KEEP, COL_ORACLE, COL_BOUND, COL_FOUND, COL_GAP, COL_N, COL_N_GAP, COL_N_WIDE };

static kvt_status ladder_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(&fig->rows, &fig->sql, r->db, err,
                          "SELECT v.trace, l.layer, l.head, l.n_keep, round(l.oracle_max, 4) AS oracle_max, round(l.minimax_bound, 4) AS bound,\n"
                          "       round(l.minimax_found, 4) AS found, round(l.stability_gap, 4) AS gap, count(*) OVER () AS n_head,\n"
                          "       sum(l.stability_gap > %.9g) OVER () AS n_gap, sum(l.minimax_found - l.minimax_bound > %.9g) OVER () AS n_unresolved\n"
                          "  FROM ladder_head l JOIN v_cell v USING(cell_id)\n"
                          " WHERE %s AND v.budget_id = %lld AND l.n_trivial < l.n_step\n"
                          " ORDER BY l.stability_gap DESC, v.trace, v.trace_id, l.layer, l.head LIMIT 20",
                          LADDER_GAP, LADDER_WIDE, s->where, (long long)s->budget_id);
}

static int ladder_wide(const kvt__rows *rows, size_t i) { return kvt__num(rows, i, COL_FOUND) - kvt__num(rows, i, COL_BOUND) > LADDER_WIDE; }

static void ladder_finding(h_page *h, const kvt__rows *rows, const kvt__scope *s)
{
    char a[16], b[16];

    h_put(h, "At budget %s, %lld of %lld heads have a stability gap of at least %s", s->budget, (long long)kvt__int(rows, 0, COL_N_GAP),
          (long long)kvt__int(rows, 0, COL_N), h_loss(a, LADDER_GAP));
    h_put(h, ". The largest: whichever %lld prompt entries layer %lld head %lld holds for the whole answer, ", (long long)kvt__int(rows, 0, COL_KEEP),
          (long long)kvt__int(rows, 0, COL_LAYER), (long long)kvt__int(rows, 0, COL_HEAD));
    h_put(h, "some step loses at least %s; choosing anew at every step, no step loses more than %s.", h_loss(a, kvt__num(rows, 0, COL_BOUND)),
          h_loss(b, kvt__num(rows, 0, COL_ORACLE)));
    if (kvt__int(rows, 0, COL_N_WIDE) > 0)
        h_put(h, " For %lld heads bound and best set found are more than %s apart: not resolved.", (long long)kvt__int(rows, 0, COL_N_WIDE),
              h_loss(a, LADDER_WIDE));
    h_raw(h, "</p>\n");
}

/* Up to the oracle, up to the bound, up to the set that was found; one scale 0..1. */
static void ladder_bar(h_page *h, const kvt__rows *rows, size_t i, const kvt__scope *s)
{
    enum { WIDTH = 420 };
    const double at[4] = {0, kvt__num(rows, i, COL_ORACLE), kvt__num(rows, i, COL_BOUND), kvt__num(rows, i, COL_FOUND)};
    static const char *const css[3] = {"q-infeasible", "q-static", "q-selection"};
    char id[64], shows[160], a[16], b[16], c[16];

    snprintf(id, sizeof id, "svg-ladder%s-%zu", s->suffix, i);
    snprintf(shows, sizeof shows, "Oracle %s, bound %s, best set found %s.", h_loss(a, at[1]), h_loss(b, at[2]), h_loss(c, at[3]));
    svg_open(h, id, "chart bars", WIDTH, 22, "Worst step of one head", shows);
    h_raw(h, "<path class=\"axis\" d=\"M0 0V22\"/>");
    for (int k = 0; k < 3; k++) {
        const double width = (fmin(at[k + 1], 1) - fmin(at[k], 1)) * WIDTH;
        if (width > 0.05)
            h_put(h, "<rect class=\"part %s\" x=\"%.1f\" y=\"4\" width=\"%.1f\" height=\"14\"/>", css[k], at[k] * WIDTH, width);
    }
    svg_close(h);
}

static void ladder_table(h_page *h, const kvt__rows *rows, const kvt__scope *s)
{
    char a[16];

    h_put(h, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Stability gap at budget %s\"><table class=\"rank parts\">"
             "<caption>Largest loss of any step at budget %s, by stability gap, the first %zu of %lld heads; bars from 0 to 1</caption>"
             "<thead><tr><th scope=\"col\">head</th><th scope=\"col\">oracle</th><th scope=\"col\">any fixed set</th>"
             "<th scope=\"col\">gap, at least</th><th scope=\"col\" class=\"wide\"><span class=\"hid\">as bars</span></th></tr></thead><tbody>\n",
          s->budget, s->budget, rows->n_row, (long long)kvt__int(rows, 0, COL_N));
    for (size_t i = 0; i < rows->n_row; i++) {
        h_put(h, "<tr><th scope=\"row\">layer %lld head %lld", (long long)kvt__int(rows, i, COL_LAYER), (long long)kvt__int(rows, i, COL_HEAD));
        if (s->n_trace > 1)
            h_put(h, " of %s", kvt__str(rows, i, COL_TRACE));
        h_put(h, "</th><td>%s</td>", h_loss(a, kvt__num(rows, i, COL_ORACLE)));
        h_put(h, "<td>%s to ", h_loss(a, kvt__num(rows, i, COL_BOUND)));
        h_put(h, "%s%s</td>", h_loss(a, kvt__num(rows, i, COL_FOUND)), ladder_wide(rows, i) ? ", not resolved" : "");
        h_put(h, "<td>%s</td><td class=\"wide\">", h_loss(a, kvt__num(rows, i, COL_GAP)));
        ladder_bar(h, rows, i, s);
        h_raw(h, "</td></tr>\n");
    }
    h_raw(h, "</tbody></table></div>\n");
}

static kvt_status ladder_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    kvt__rows there;
    int64_t known;

    /* A database of schema version 1 has no such table, and reading does not change it. */
    KVT_TRY(kvt__rows_read(&there, NULL, r->db, err, "SELECT count(*) FROM sqlite_master WHERE name = 'ladder_head'"));
    known = kvt__int(&there, 0, 0);
    kvt__rows_free(&there);
    if (known) KVT_TRY(ladder_read(&fig, r, s, err));
    if (!fig.rows.n_row) {
        kvt__empty(r, "The bound was not computed at this budget, or everything fits. kvtrace replay TRACE.h5 -o RESULTS.db computes it with "
                      "every policy.");
        kvt__figure_free(&fig);
        return KVT_OK;
    }
    kvt__figure_begin(r, &fig, s, "ladder");
    ladder_finding(h, &fig.rows, s);
    h_raw(h, "<ul class=\"causes\"><li><span class=\"swatch q-infeasible\"></span> <b>oracle</b>: the worst step when every step may choose its "
             "own entries</li>"
             "<li><span class=\"swatch q-static\"></span> <b>stability gap</b>: certified on top of it for every fixed set, whoever chooses it</li>"
             "<li><span class=\"swatch q-selection\"></span> <b>open</b>: between that bound and the worst step of the best set found</li></ul>\n");
    ladder_table(h, &fig.rows, s);
    kvt__figure_end(r, &fig, s, "policies that drop or change entries while generating can stay below the bound when they take entries back.");
    return KVT_OK;
}

kvt_status kvt__panel_ladder(kvt__report *r, kvt_err *err)
{
    return kvt__section(r, "ladder", "Heads that no fixed set can serve", ladder_body,
        "No finished cell. kvtrace replay TRACE.h5 -o RESULTS.db computes the bound.", err);
}
