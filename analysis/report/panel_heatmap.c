/* Layers and heads: a table of KV heads, shaded by the tail loss of the series that takes
 * the largest loss of the group's query heads at each step. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { COL_LAYER, COL_HEAD, COL_CVAR, COL_NS, COL_MEAN, COL_WORST, COL_N };

static kvt_status heatmap_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(
        &fig->rows, &fig->sql, r->db, err,
        "SELECT layer, kv_head, round(avg(cvar95), 4) AS cvar95, round(avg(ns_cvar95), 4) AS ns_cvar95,\n"
        "       round(avg(mean), 4) AS mean, round(max(worst), 4) AS worst, count(*) AS n_cluster\n"
        "  FROM (SELECT k.layer, k.kv_head, v.cluster_id, max(k.lost_cvar95) AS cvar95, max(k.lost_ns_cvar95) AS "
        "ns_cvar95,\n"
        "               max(k.lost_mean) AS mean, max(k.lost_max) AS worst\n"
        "          FROM result_kvhead k JOIN v_cell v USING(cell_id)\n"
        "         WHERE %s AND v.config_id = %lld AND v.budget_id = %lld AND k.agg = 'max'\n"
        "         GROUP BY k.layer, k.kv_head, v.cluster_id)\n"
        " GROUP BY layer, kv_head ORDER BY layer, kv_head",
        s->where, (long long)s->config_id, (long long)s->budget_id);
}

static void heatmap_scale(h_page *h)
{
    h_raw(h, "<div class=\"key\"><span>0</span><svg class=\"scale\" aria-hidden=\"true\" viewBox=\"0 0 65 4\" "
             "preserveAspectRatio=\"none\">");
    for (unsigned k = 0; k <= 64; k++) h_put(h, "<rect class=\"c%u\" x=\"%u\" width=\"1.3\" height=\"4\"/>", k, k);
    h_raw(h, "</svg><span>100\xc2\xa0% of the attention lost</span></div>\n");
}

static void heatmap_cell(h_page *h, double v, const char *css)
{
    if (isnan(v)) h_put(h, "<td class=\"none%s\">-</td>", css);
    else h_put(h, "<td class=\"c%u%s\">%.0f</td>", kvt__shade(v), css, 100 * v);
}

/* One shaded table of column `col`: a row per layer, its largest head at the end. */
static void heatmap_table(h_page *h, const kvt__rows *rows, size_t col, const char *caption, int64_t n_head,
                          size_t n_cell)
{
    enum { ROOMY = 14 };            /* columns that fit with room to spare            */
    h_put(h, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"%s\">", caption);
    h_put(h, "<table class=\"heat%s\"><caption>%s</caption><thead><tr><th scope=\"col\">layer</th>",
          n_head > ROOMY ? " dense" : "", caption);
    for (int64_t k = 0; k < n_head; k++)
        h_put(h, "<th scope=\"col\"><span class=\"hid\">KV head </span>%lld</th>", (long long)k);
    h_raw(h, "<th scope=\"col\" class=\"top\">max</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < n_cell;) {
        const int64_t layer = kvt__int(rows, i, COL_LAYER);
        double top = NAN;
        h_put(h, "<tr><th scope=\"row\">%lld</th>", (long long)layer);
        for (int64_t k = 0; k < n_head; k++) {
            double v = NAN;
            if (i < n_cell && kvt__int(rows, i, COL_LAYER) == layer && kvt__int(rows, i, COL_HEAD) == k)
                v = kvt__num(rows, i++, col);
            if (isnan(top) || v > top) top = v;
            heatmap_cell(h, v, "");
        }
        while (i < n_cell && kvt__int(rows, i, COL_LAYER) == layer) i++;    /* heads beyond the limit */
        heatmap_cell(h, top, " top");
        h_raw(h, "</tr>\n");
    }
    h_raw(h, "</tbody></table></div>\n");
}

typedef struct head_order { double cvar; size_t row; } head_order;

static int head_compare(const void *pa, const void *pb)
{
    const head_order *a = pa, *b = pb;
    if (a->cvar != b->cvar) return a->cvar > b->cvar ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static void heatmap_largest(h_page *h, const kvt__rows *rows, const head_order *o, const kvt__scope *s)
{
    enum { SHOWN = 5 };
    char x[16], y[16], z[16];
    h_put(h, "<div class=\"five\"><h4>Five heads with the largest CVaR95%s</h4><ol>\n",
          s->n_cluster < 20 ? ", exploratory" : "");
    for (size_t i = 0; i < rows->n_row && i < SHOWN; i++)
        h_put(h, "<li>layer %lld, KV head %lld: <b>%s</b> <span class=\"soft\">mean %s, worst %s</span></li>\n",
              (long long)kvt__int(rows, o[i].row, COL_LAYER), (long long)kvt__int(rows, o[i].row, COL_HEAD),
              h_loss(x, o[i].cvar), h_loss(y, kvt__num(rows, o[i].row, COL_MEAN)),
              h_loss(z, kvt__num(rows, o[i].row, COL_WORST)));
    h_put(h, "</ol><p class=\"soft\">Values, not ranks: %u %s.</p></div>\n", s->n_cluster,
          s->n_cluster == 1 ? "document cannot separate heads from chance"
                            : "documents; no test of separation was made");
}

/* How many rows fit the page: whole layers, drawn with n_head cells each. */
static size_t heatmap_fit(const kvt__rows *rows, int64_t n_head)
{
    enum { MOST_CELLS = 8192 };
    int64_t n_layer = 0;
    for (size_t i = 0; i < rows->n_row; i++)
        if ((!i || kvt__int(rows, i, COL_LAYER) != kvt__int(rows, i - 1, COL_LAYER)) && ++n_layer * n_head > MOST_CELLS)
            return i;
    return rows->n_row;
}

static kvt_status heatmap_figure(kvt__report *r, kvt__figure *fig, const kvt__scope *s)
{
    h_page *h = &r->page;
    const kvt__rows *rows = &fig->rows;
    int64_t n_head = 0;
    size_t n_cell;
    char x[16], y[16];
    head_order *o = malloc(rows->n_row * sizeof *o);
    if (!o) return KVT_ENOMEM;
    for (size_t i = 0; i < rows->n_row; i++) {
        o[i] = (head_order){kvt__num(rows, i, COL_CVAR), i};
        if (kvt__int(rows, i, COL_HEAD) >= n_head) n_head = kvt__int(rows, i, COL_HEAD) + 1;
    }
    if (n_head > KVT__MOST_HEADS) n_head = KVT__MOST_HEADS;
    n_cell = heatmap_fit(rows, n_head);
    qsort(o, rows->n_row, sizeof *o, head_compare);
    kvt__figure_begin(r, fig, s, "heatmap");
    h_put(h,
          "Layer %lld, KV head %lld has the largest tail loss under %s at budget %s: CVaR95 %s; the median head has "
          "%s.</p>\n",
          (long long)kvt__int(rows, o[0].row, COL_LAYER), (long long)kvt__int(rows, o[0].row, COL_HEAD), s->policy,
          s->budget, h_loss(x, o[0].cvar), h_loss(y, o[rows->n_row / 2].cvar));
    h_raw(h, "<div class=\"heats\">\n");
    heatmap_table(h, rows, COL_CVAR, "CVaR95 of the loss, percent", n_head, n_cell);
    heatmap_table(h, rows, COL_NS, "The same, sinks excluded", n_head, n_cell);
    heatmap_largest(h, rows, o, s);
    h_raw(h, "</div>\n");
    heatmap_scale(h);
    h_put(h,
          "<p class=\"under\">Per KV head: at each step the largest loss of its query heads, then the mean of the "
          "worst 5\xc2\xa0%% of the steps%s.",
          s->n_cluster > 1 ? ", then the mean over documents" : "");
    if (n_cell < rows->n_row) h_put(h, " %zu of %zu heads are drawn; the SQL gives all.", n_cell, rows->n_row);
    h_raw(h, "</p>\n");
    free(o);
    kvt__figure_end(r, fig, s, "whether a head matters for the answer, and layers without full attention.");
    return KVT_OK;
}

static kvt_status heatmap_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    kvt__figure fig = {0};
    kvt_status st = KVT_OK;
    KVT_TRY(heatmap_read(&fig, r, s, err));
    if (!fig.rows.n_row)
        kvt__empty(r, "No loss per KV head is stored for this policy and budget. kvtrace replay TRACE.h5 -o RESULTS.db "
                      "computes it.");
    else st = heatmap_figure(r, &fig, s);
    kvt__figure_free(&fig);
    return st < 0 ? kvt_fail(err, st, "out of memory for the heatmap") : KVT_OK;
}

kvt_status kvt__panel_heatmap(kvt__report *r, kvt_err *err)
{
    return kvt__section(r, "heatmap", "Layers and heads", heatmap_body,
        "No finished cell. kvtrace replay TRACE.h5 -o RESULTS.db computes the loss of every head.", err);
}
