/* Rows and lines of loss against budget. */
#include "curves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_text.h"

/* "3, 17, 4" of the configurations that are wanted; NULL without memory. */
static char *curves_ids(const kvt__scope *s, int (*wanted)(int drawn))
{
    const size_t size = 22 * s->rank.n + 8;
    char *ids = malloc(size);
    size_t n = 0;
    if (!ids) return NULL;
    strcpy(ids, "NULL");            /* an empty list is no SQL                         */
    for (size_t i = 0; i < s->rank.n; i++)
        if (wanted(kvt__drawn_as(s, &s->rank.e[i])))
            n += (size_t)snprintf(ids + n, size - n, "%s%lld", n ? ", " : "", (long long)s->rank.e[i].config_id);
    return ids;
}

static int curve_compare(const void *pa, const void *pb)
{
    const kvt__curve *a = pa, *b = pb;
    return (a->entry > b->entry) - (a->entry < b->entry);
}

static size_t curves_split(kvt__curve *c, const kvt__rows *rows, const kvt__scope *s)
{
    size_t n = 0;
    for (size_t i = 0; i < rows->n_row; i++) {
        if (!i || kvt__int(rows, i, CURVE_CONFIG) != kvt__int(rows, i - 1, CURVE_CONFIG)) {
            const kvt__entry *e = kvt__ranking_find(&s->rank, kvt__int(rows, i, CURVE_CONFIG));
            c[n++] = (kvt__curve){.from = i, .here = SIZE_MAX, .entry = e, .drawn = kvt__drawn_as(s, e)};
        }
        c[n - 1].end = i + 1;
        if (kvt__int(rows, i, CURVE_BUDGET_ID) == s->budget_id) c[n - 1].here = i;
    }
    qsort(c, n, sizeof *c, curve_compare);
    return n;
}

kvt_status kvt__curves_read(kvt__figure *fig, kvt__curve **curve, size_t *n, kvt__report *r, const kvt__scope *s,
                            int (*wanted)(int drawn), kvt_err *err)
{
    char *ids = curves_ids(s, wanted);
    kvt__curve *c;
    kvt_status st;
    if (!ids) return kvt_fail(err, KVT_ENOMEM, "out of memory for a list of %zu configurations", s->rank.n);
    st = kvt__rows_read(
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
        " WHERE s.model_id = %lld AND s.split = %Q AND s.config_id IN (%s)\n"
        " ORDER BY CASE s.role WHEN 'policy' THEN 0 WHEN 'baseline' THEN 1 ELSE 2 END,\n"
        "          s.policy_label, s.config_id, s.held_share, s.budget",
        (long long)s->model_id, s->split, ids);
    free(ids);
    if (st < 0) return st;
    c = calloc(fig->rows.n_row + 1, sizeof *c);
    if (!c) return kvt_fail(err, KVT_ENOMEM, "out of memory for %zu results", fig->rows.n_row);
    *n = curves_split(c, &fig->rows, s);
    *curve = c;
    return KVT_OK;
}

/* ---- drawing ------------------------------------------------------------------------- */

static size_t curve_points(const kvt__rows *rows, const kvt__curve *c, int col, double *x, double *y)
{
    size_t n = 0;
    for (size_t i = c->from; i < c->end && n < KVT__MOST_POINTS; i++, n++) {
        x[n] = kvt__num(rows, i, CURVE_HELD);
        y[n] = kvt__num(rows, i, (size_t)col);
    }
    return n;
}

void kvt__curve_line(h_page *h, const svg_axes *a, const kvt__rows *rows, const kvt__curve *c, int col, const char *css,
                     int shape)
{
    double x[KVT__MOST_POINTS], y[KVT__MOST_POINTS];
    const size_t n = curve_points(rows, c, col, x, y);
    const int nested = kvt__int(rows, c->from, CURVE_NESTED) != 0;
    char line[64];
    snprintf(line, sizeof line, "line %s%s", css, nested ? "" : " eye");
    svg_line(h, a, line, x, y, n);
    snprintf(line, sizeof line, "mark %s", css);
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i]) || isnan(y[i])) continue;
        if (shape >= 0) svg_marker(h, line, (unsigned)shape, svg_x(a, x[i]), svg_y(a, y[i]));
        else if (!nested)
            h_put(h, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"1.8\"/>", line, svg_x(a, x[i]), svg_y(a, y[i]));
    }
}

void kvt__curve_area(h_page *h, const svg_axes *a, const kvt__rows *rows, const kvt__curve *c, int col, const char *css)
{
    double x[KVT__MOST_POINTS], y[KVT__MOST_POINTS];
    const size_t n = curve_points(rows, c, col, x, y);
    int drawn = 0;
    double last = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i]) || isnan(y[i])) continue;
        if (!drawn++) h_put(h, "<path class=\"%s\" d=\"M%.1f %.1fL", css, svg_x(a, x[i]), a->bottom);
        h_put(h, "%.1f %.1f ", svg_x(a, x[i]), svg_y(a, y[i]));
        last = svg_x(a, x[i]);
    }
    if (drawn) h_put(h, "%.1f %.1fz\"/>\n", last, a->bottom);
}

char *kvt__curve_label(char out[KVT__LABEL_BYTES], const kvt__curve *c, size_t most)
{
    char shown[KVT__LABEL_BYTES];   /* made printable first, because escapes are longer */
    return svg_shorten(out, kvt_printable_str(shown, sizeof shown, c->entry->label), most);
}

void kvt__curve_css(char *out, size_t size, const kvt__curve *c)
{
    if (c->drawn < KVT__MOST_CHOSEN) snprintf(out, size, "s%d d%d", c->drawn % 5, c->drawn);
    else if (c->drawn == KVT__DRAWN_ORACLE)
        snprintf(out, size, "guide %s", strcmp(c->entry->policy, "oracle_step") ? "g1" : "g0");
    else snprintf(out, size, "guide %s", strcmp(c->entry->policy, "streaming") ? "g2" : "g3");
}

int kvt__curve_shape(const kvt__curve *c)
{
    return c->drawn < KVT__MOST_CHOSEN ? (c->drawn + c->drawn / 5) % 5 : -1;
}
