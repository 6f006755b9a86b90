/* curves.h - loss against budget: what the ranking, the chart of the chosen and the small
 * charts of the others have in common. */
#ifndef CURVES_H
#define CURVES_H

#include "report_impl.h"
#include "svg.h"

enum {                              /* columns of the rows of all three figures        */
    CURVE_POLICY, CURVE_ROLE, CURVE_BUDGET, CURVE_HELD, CURVE_MEAN, CURVE_CVAR, CURVE_WORST, CURVE_WORST_NS,
    CURVE_ORACLE, CURVE_BYTES, CURVE_EXCEED, CURVE_NESTED, CURVE_CONFIG, CURVE_BUDGET_ID
};
enum { KVT__LABEL_BYTES = 160, KVT__MOST_POINTS = 64 };

typedef struct kvt__curve {         /* rows [from, end) of one configuration           */
    size_t            from, end, here;  /* here: at the budget of the focus; SIZE_MAX = none */
    const kvt__entry *entry;
    int               drawn;        /* kvt__drawn_as()                                 */
} kvt__curve;

/* The rows of the configurations that `wanted` says yes to, and a curve of each in the
 * order of the ranking; *curve is the caller's to free. */
kvt_status kvt__curves_read(kvt__figure *fig, kvt__curve **curve, size_t *n, kvt__report *r, const kvt__scope *s,
                            int (*wanted)(int drawn), kvt_err *err) KVT_NODISCARD;

/* Column `col` as a line with points. shape: 0..4, or -1 = small dots where kept sets do
 * not nest in the budget: there nothing is claimed between two points. */
void kvt__curve_line(h_page *h, const svg_axes *a, const kvt__rows *rows, const kvt__curve *c, int col, const char *css,
                     int shape);
/* What lies under column `col`, filled. */
void kvt__curve_area(h_page *h, const svg_axes *a, const kvt__rows *rows, const kvt__curve *c, int col, const char *css);
/* Its label, printable, at most `most` characters. */
char *kvt__curve_label(char out[KVT__LABEL_BYTES], const kvt__curve *c, size_t most);
/* Colour and dash; shape of its points (0..4, -1 = none). */
void kvt__curve_css(char *out, size_t size, const kvt__curve *c);
int  kvt__curve_shape(const kvt__curve *c);

kvt_status kvt__overlay(kvt__report *r, const kvt__scope *s, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__ranking_table(kvt__report *r, const kvt__scope *s, kvt_err *err) KVT_NODISCARD;
/* Small charts from curves of all budgets. *drawn: ids of the configurations that got one,
 * the caller's to free; none without curves. */
kvt_status kvt__budgets(kvt__report *r, const kvt__scope *s, int64_t **drawn, size_t *n_drawn, kvt_err *err) KVT_NODISCARD;
/* Small charts of the named budgets for those that are not chosen and not in `drawn`. */
kvt_status kvt__multiples(kvt__report *r, const kvt__scope *s, const int64_t *drawn, size_t n_drawn, kvt_err *err) KVT_NODISCARD;

#endif
