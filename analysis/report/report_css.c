/* The style sheet of the report: report.css, embedded at build time, and the 65 shades
 * of the cividis scale (anchors of d3-scale-chromatic 3.1.1, ISC licence). The text on
 * a shade is black or white, whichever has the larger contrast by relative luminance. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

__asm__(".pushsection .rodata\n"
        "kvt__css:\n"
        ".incbin \"" KVT_CSS_PATH "\"\n"
        "kvt__css_end:\n"
        ".byte 0\n"
        ".globl kvt__css, kvt__css_end\n"
        ".popsection\n");
extern const char kvt__css[], kvt__css_end[];

enum { N_SHADE = 64 };

static const uint32_t anchor[11] = {
    0x002051, 0x0a326a, 0x2b446e, 0x4d566d, 0x696970, 0x7f7c75, 0x948f78, 0xada476, 0xcaba6a, 0xead156, 0xfdea45};

unsigned kvt__shade(double loss)
{
    if (!(loss > 0)) return 0;
    return loss >= 1 ? N_SHADE : (unsigned)lround(loss * N_SHADE);
}

static double css_linear(double channel)        /* of sRGB 0..255 */
{
    const double c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4);
}

static void css_shade(h_page *h, unsigned k)
{
    const double at = 10.0 * k / N_SHADE;
    const unsigned below = at >= 10 ? 9 : (unsigned)at;
    const double part = at - below;
    static const double weight[3] = {0.2126, 0.7152, 0.0722};
    unsigned rgb[3];
    double light = 0;
    for (unsigned i = 0; i < 3; i++) {
        const double a = anchor[below] >> (16 - 8 * i) & 255u, b = anchor[below + 1] >> (16 - 8 * i) & 255u;
        rgb[i] = (unsigned)lround(a + part * (b - a));
        light += weight[i] * css_linear(rgb[i]);
    }
    /* (1 + .05) / (L + .05) > (L + .05) / (0 + .05) */
    h_put(h, ".c%u{background:#%02x%02x%02x;fill:#%02x%02x%02x;color:#%s}\n", k, rgb[0], rgb[1], rgb[2],
          rgb[0], rgb[1], rgb[2], 1.05 * 0.05 > (light + 0.05) * (light + 0.05) ? "fff" : "000");
}

void kvt__css_put(h_page *h)
{
    h_raw_n(h, kvt__css, (size_t)(kvt__css_end - kvt__css));
    for (unsigned k = 0; k <= N_SHADE; k++) css_shade(h, k);
}
