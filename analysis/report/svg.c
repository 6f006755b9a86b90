/* Charts as inline SVG: axes, lines, markers, labels that do not collide. */
#include "svg.h"

#include <math.h>
#include <string.h>

double svg_x(const svg_axes *a, double x)
{
    const double share = (x - a->x_lo) / (a->x_hi - a->x_lo);
    return a->left + share * (a->right - a->left);
}

double svg_y(const svg_axes *a, double y)
{
    double share = (y - a->y_lo) / (a->y_hi - a->y_lo);
    if (share < 0) share = 0;
    if (share > 1) share = 1;
    return a->bottom - share * (a->bottom - a->top);
}

void svg_open(h_page *h, const char *id, const char *css_class, double width, double height,
              const char *what, const char *shows)
{
    h_put(h, "<svg id=\"%s\" class=\"%s\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-labelledby=\"%s-t %s-d\">",
          id, css_class, width, height, id, id);
    h_put(h, "<title id=\"%s-t\">%s</title><desc id=\"%s-d\">%s</desc>\n", id, what, id, shows);
}

void svg_close(h_page *h)
{
    h_raw(h, "</svg>\n");
}

static void svg_number(h_page *h, double x, int decimals)
{
    if (decimals <= 0) h_put(h, "%.0f", x);
    else if (decimals == 1) h_put(h, "%.1f", x);
    else h_put(h, "%.2f", x);
}

void svg_grid_y(h_page *h, const svg_axes *a, unsigned steps, int decimals, int on_right)
{
    for (unsigned i = 0; i <= steps; i++) {
        const double v = a->y_lo + (a->y_hi - a->y_lo) * i / steps, y = svg_y(a, v);
        h_put(h, "<path class=\"%s\" d=\"M%.1f %.1fH%.1f\"/>", i ? "grid" : "axis", a->left, y, a->right);
        h_put(h, "<text class=\"tick %s\" x=\"%.1f\" y=\"%.1f\">", on_right ? "start" : "end",
              on_right ? a->right + 7 : a->left - 7, y + 3.5);
        svg_number(h, v, decimals);
        h_raw(h, "</text>\n");
    }
}

void svg_ticks_x(h_page *h, const svg_axes *a, const double *at, size_t n, int decimals)
{
    for (size_t i = 0; i < n; i++) {
        const double x = svg_x(a, at[i]);
        h_put(h, "<path class=\"axis\" d=\"M%.1f %.1fv4\"/><text class=\"tick mid\" x=\"%.1f\" y=\"%.1f\">",
              x, a->bottom, x, a->bottom + 16);
        svg_number(h, at[i], decimals);
        h_raw(h, "</text>\n");
    }
}

uint32_t svg_tick_step(uint32_t range, uint32_t most)
{
    static const uint32_t mantissa[3] = {1, 2, 5};
    uint64_t ten = 1;
    KVT_ASSERT(most > 0);
    for (;; ten *= 10)
        for (unsigned i = 0; i < 3; i++)
            if (range / (ten * mantissa[i]) <= most) return (uint32_t)(ten * mantissa[i]);
}

void svg_line(h_page *h, const svg_axes *a, const char *css_class, const double *x, const double *y, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        if (isnan(x[i]) || isnan(y[i])) {
            i++;
            continue;
        }
        while (end < n && !isnan(x[end]) && !isnan(y[end])) end++;
        if (end - i == 1) {
            h_put(h, "<circle class=\"%s dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"2\"/>\n", css_class, svg_x(a, x[i]),
                  svg_y(a, y[i]));
        } else {
            h_put(h, "<path class=\"%s\" d=\"", css_class);
            for (size_t k = i; k < end; k++)
                h_put(h, "%c%.1f %.1f", k == i ? 'M' : 'L', svg_x(a, x[k]), svg_y(a, y[k]));
            h_raw(h, "\"/>\n");
        }
        i = end;
    }
}

void svg_series(h_page *h, const svg_axes *a, const char *css_class, const double *y, size_t n)
{
    const size_t n_col = (size_t)(a->right - a->left);
    int drawn = 0;
    if (n <= 2 * n_col) {
        for (size_t i = 0; i < n; i++) {
            if (isnan(y[i])) {
                if (drawn) h_raw(h, "\"/>\n");
                drawn = 0;
                continue;
            }
            if (!drawn) h_put(h, "<path class=\"%s\" d=\"", css_class);
            h_put(h, "%c%.1f %.1f", drawn ? 'L' : 'M', svg_x(a, (double)i), svg_y(a, y[i]));
            if (!drawn) h_raw(h, "h0.1");               /* one point alone is still seen */
            drawn = 1;
        }
        if (drawn) h_raw(h, "\"/>\n");
        return;
    }
    h_put(h, "<path class=\"%s\" d=\"", css_class);
    for (size_t c = 0; c < n_col; c++) {
        const size_t from = c * n / n_col, to = (c + 1) * n / n_col;
        double lo = NAN, hi = NAN;
        for (size_t i = from; i < to; i++) {
            if (isnan(lo) || y[i] < lo) lo = y[i];
            if (isnan(hi) || y[i] > hi) hi = y[i];
        }
        if (isnan(lo)) continue;
        h_put(h, "%c%.1f %.1fV%.1f", drawn ? 'L' : 'M', a->left + (double)c + 0.5, svg_y(a, hi), svg_y(a, lo));
        drawn = 1;
    }
    h_raw(h, "\"/>\n");
}

void svg_marker(h_page *h, const char *css_class, unsigned shape, double x, double y)
{
    switch (shape % 5) {
    case 0: h_put(h, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\"/>", css_class, x, y); break;
    case 1: h_put(h, "<path class=\"%s\" d=\"M%.1f %.1fh5.8v5.8h-5.8z\"/>", css_class, x - 2.9, y - 2.9); break;
    case 2: h_put(h, "<path class=\"%s\" d=\"M%.1f %.1fl3.8 6.6h-7.6z\"/>", css_class, x, y - 4.2); break;
    case 3: h_put(h, "<path class=\"%s\" d=\"M%.1f %.1fl4 4l-4 4l-4 -4z\"/>", css_class, x, y - 4); break;
    default: h_put(h, "<path class=\"%s cross\" d=\"M%.1f %.1fl6 6m0 -6l-6 6\"/>", css_class, x - 3, y - 3);
    }
    h_raw(h, "\n");
}

void svg_spread(double *y, size_t n, double gap, double lo, double hi)
{
    enum { MOST = 64 };
    size_t order[MOST];
    KVT_ASSERT(n <= MOST);
    if (!n) return;
    for (size_t i = 0; i < n; i++) {                    /* insertion sort: n is small, and it is stable */
        size_t k = i;
        for (; k > 0 && y[order[k - 1]] > y[i]; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    if (gap * (double)(n - 1) > hi - lo) gap = n > 1 ? (hi - lo) / (double)(n - 1) : 0;
    for (size_t k = 0; k < n; k++) {                    /* push down from the top ... */
        const double least = k ? y[order[k - 1]] + gap : lo;
        if (y[order[k]] < least) y[order[k]] = least;
    }
    for (size_t k = n; k-- > 0;) {                      /* ... and back up from the bottom */
        const double largest = k + 1 < n ? y[order[k + 1]] - gap : hi;
        if (y[order[k]] > largest) y[order[k]] = largest;
    }
}

char *svg_shorten(char *out, const char *text, size_t most)
{
    size_t n = 0, at = 0;
    KVT_ASSERT(most > 0);
    for (size_t i = 0; text[i]; i++) {
        if (((unsigned char)text[i] & 0xc0u) == 0x80u) continue;
        n++;
    }
    if (n <= most && strlen(text) <= 4 * most) {
        memcpy(out, text, strlen(text) + 1);
        return out;
    }
    n = 0;
    for (size_t i = 0; text[i]; i++) {                  /* whole characters only      */
        if (((unsigned char)text[i] & 0xc0u) != 0x80u && ++n == most) break;
        if (at >= 4 * (most - 1)) break;
        out[at++] = text[i];
    }
    memcpy(out + at, "\xe2\x80\xa6", 4);                /* U+2026 and the zero        */
    return out;
}
