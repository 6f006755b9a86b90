/* svg.h - charts as inline SVG. Coordinates are user units of the viewBox; colours,
 * widths and dashes come from classes of report.css, so that light and dark work. */
#ifndef SVG_H
#define SVG_H

#include <stddef.h>
#include <stdint.h>
#include "html.h"

typedef struct svg_axes {           /* the plot's rectangle and its data ranges        */
    double left, right, top, bottom;
    double x_lo, x_hi, y_lo, y_hi;
} svg_axes;

double svg_x(const svg_axes *a, double x);
double svg_y(const svg_axes *a, double y);   /* clipped to the plot */

/* <svg> with role, title (what it is) and description (what it shows), a sentence each.
 * id must be unique in the page. */
void svg_open(h_page *h, const char *id, const char *css_class, double width, double height,
              const char *what, const char *shows);
void svg_close(h_page *h);

/* Horizontal lines with labels at y_lo .. y_hi in `steps` equal parts, the labels left
 * or right of the plot. */
void svg_grid_y(h_page *h, const svg_axes *a, unsigned steps, int decimals, int on_right);
/* Ticks with labels below the plot. */
void svg_ticks_x(h_page *h, const svg_axes *a, const double *at, size_t n, int decimals);
/* A round tick distance of 1, 2 or 5 times a power of ten that gives at most `most`
 * intervals of a range of whole numbers. */
uint32_t svg_tick_step(uint32_t range, uint32_t most);

/* A line through the points; NaN interrupts it. A run of one point is drawn as a dot. */
void svg_line(h_page *h, const svg_axes *a, const char *css_class, const double *x, const double *y, size_t n);
/* y of 0, 1, 2, ..., n - 1: more than two points per unit of width are drawn as the
 * largest and the smallest of each column, so that no peak is lost. */
void svg_series(h_page *h, const svg_axes *a, const char *css_class, const double *y, size_t n);

/* shape 0..4: disc, square, triangle, diamond, cross */
void svg_marker(h_page *h, const char *css_class, unsigned shape, double x, double y);

/* Labels beside line ends: y[i] are moved so that neighbours are `gap` apart inside
 * lo .. hi and keep their order; moved as little as a simple sweep can. n <= 64. */
void svg_spread(double *y, size_t n, double gap, double lo, double hi);

/* At most `most` characters of text, the last an ellipsis when something was cut. The
 * text is UTF-8 or bytes; out needs 4 * most + 1 bytes. */
char *svg_shorten(char *out, const char *text, size_t most);

#endif
