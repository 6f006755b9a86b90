/* One small chart for each configuration that is not drawn with the chosen and has no curve
 * of all budgets, in the order of the ranking: mean and tail, over what the oracle loses and
 * beside random_protect. */
#include "curves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The oracles and references stand behind every chart. */
static int multiples_wants(int drawn)
{
    return drawn == KVT__DRAWN_APART || drawn == KVT__DRAWN_ORACLE || drawn == KVT__DRAWN_REFERENCE;
}

typedef struct background {         /* the same in every chart; NULL = not there       */
    const kvt__curve *oracle, *reference;
} background;

static const kvt__curve *background_find(const kvt__curve *c, size_t n, const char *policy)
{
    for (size_t i = 0; i < n; i++)
        if (c[i].drawn != KVT__DRAWN_APART && strcmp(c[i].entry->policy, policy) == 0) return &c[i];
    return NULL;
}

static void multiple_draw(h_page *h, const kvt__rows *rows, const kvt__curve *c, const background *b, const kvt__scope *s)
{
    static const double tick[3] = {0, 0.5, 1};
    const svg_axes a = {.left = 24, .right = 184, .top = 6, .bottom = 112, .x_lo = 0, .x_hi = 1, .y_lo = 0, .y_hi = 1};
    char id[56], shown[KVT__LABEL_BYTES], what[KVT__LABEL_BYTES + 32], x[16], y[16];
    kvt__curve_label(shown, c, 40);
    h_put(h, "<div class=\"small\" id=\"drawn%s-%lld\"><h4>", s->suffix, (long long)c->entry->config_id);
    if (c->entry->place) h_put(h, "<span class=\"soft\">%u</span> ", c->entry->place);
    kvt__put_label(h, c->entry->label);
    if (c->entry->here)
        h_put(h, "</h4><p>mean %s, CVaR95 %s", h_loss(x, c->entry->mean), h_loss(y, c->entry->cvar95));
    else h_put(h, "</h4><p>not measured at budget %s", s->budget);
    if (c->entry->here && c->entry->role == KVT__POLICY && !c->entry->place)
        h_put(h, ", on %u of %u traces", (unsigned)c->entry->n_trace, s->n_trace);
    h_raw(h, "</p>\n");
    snprintf(id, sizeof id, "svg-curve%s-%lld", s->suffix, (long long)c->entry->config_id);
    snprintf(what, sizeof what, "Loss against budget: %s", shown);
    svg_open(h, id, "chart", 192, 132, what, "Mean and CVaR95; grey: the oracle, and random_protect.");
    if (b->oracle) kvt__curve_area(h, &a, rows, b->oracle, CURVE_MEAN, "unavoidable");
    svg_grid_y(h, &a, 2, 1, 0);
    svg_ticks_x(h, &a, tick, 3, 1);
    if (b->reference) kvt__curve_line(h, &a, rows, b->reference, CURVE_MEAN, "guide g2", -1);
    kvt__curve_line(h, &a, rows, c, CURVE_CVAR, "other tail", -1);
    kvt__curve_line(h, &a, rows, c, CURVE_MEAN, "other", -1);
    svg_close(h);
    h_raw(h, "</div>\n");
}

static void multiples_key(h_page *h, const background *b)
{
    static const char *const line[3][2] = {{"other", "mean over heads and steps"},
                                           {"other tail", "CVaR95 of the worst KV head"},
                                           {"guide g2", "random_protect, mean"}};
    const size_t n = b->reference ? 3 : 2;
    h_raw(h, "<ul class=\"cast\">");
    for (size_t i = 0; i < n; i++)
        h_put(h, "<li><svg viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"line %s\" d=\"M1 6H33\"/></svg> %s</li>\n",
              line[i][0], line[i][1]);
    if (b->oracle)
        h_raw(h, "<li><svg viewBox=\"0 0 34 12\" aria-hidden=\"true\"><path class=\"unavoidable\" d=\"M1 1H33V11H1z\"/></svg> "
                 "unavoidable: the mean of the per-step oracle</li>\n");
    h_raw(h, "</ul>\n");
}

static void multiples_finding(h_page *h, const kvt__curve *c, size_t n, const background *b, const kvt__scope *s)
{
    const kvt__entry *reference = b->reference ? b->reference->entry : NULL;
    size_t n_less = 0, n_here = 0;
    for (size_t i = 0; i < n; i++) {
        if (c[i].drawn != KVT__DRAWN_APART || !c[i].entry->place) continue;
        n_here++;
        n_less += reference && c[i].entry->mean < reference->mean;
    }
    if (!reference || !reference->here || !n_here) h_raw(h, "The other configurations, one chart each.</p>\n");
    else
        h_put(h, "Of the other %zu ranked configurations %zu %s less on average at budget %s than random entries with "
                 "sinks and window protected.</p>\n", n_here, n_less, n_less == 1 ? "loses" : "lose", s->budget);
}

/* Those with a chart of all budgets leave the list. */
static size_t multiples_rest(kvt__curve *c, size_t n, const int64_t *drawn, size_t n_drawn, size_t *n_apart)
{
    size_t left = 0;
    *n_apart = 0;
    for (size_t i = 0; i < n; i++) {
        int has = 0;
        for (size_t k = 0; k < n_drawn; k++) has |= drawn[k] == c[i].entry->config_id;
        if (has && c[i].drawn == KVT__DRAWN_APART) continue;
        *n_apart += c[i].drawn == KVT__DRAWN_APART;
        c[left++] = c[i];
    }
    return left;
}

kvt_status kvt__multiples(kvt__report *r, const kvt__scope *s, const int64_t *drawn, size_t n_drawn, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    kvt__curve *c = NULL;
    background b;
    size_t n = 0, n_apart = 0;
    kvt_status st = kvt__curves_read(&fig, &c, &n, r, s, multiples_wants, err);
    if (st == KVT_OK) n = multiples_rest(c, n, drawn, n_drawn, &n_apart);
    if (!n_apart) goto done;
    b = (background){background_find(c, n, "oracle_step"), background_find(c, n, "random_protect")};
    kvt__figure_begin(r, &fig, s, "curves");
    multiples_finding(h, c, n, &b, s);
    multiples_key(h, &b);
    h_raw(h, "<div class=\"multiples\">\n");
    for (size_t i = 0; i < n; i++)
        if (c[i].drawn == KVT__DRAWN_APART) multiple_draw(h, &fig.rows, &c[i], &b, s);
    h_raw(h, "</div>\n<p class=\"under\">Horizontal: share of the prompt\xe2\x80\x99s entries held. Vertical: share of the "
             "attention lost. Both run 0 to 1 in every chart. Small figures: the place in the ranking.</p>\n");
    kvt__figure_end(r, &fig, s,
                    "worst steps (in the ranking), budgets between the points, and the full cache, which loses nothing.");
done:
    kvt__figure_free(&fig);
    free(c);
    return st;
}
