/* fake_curves.h - made-up curves for tests of the results database: the traces and
 * configurations of fake_results.h, two grids, values that are a pure function of what
 * the curve is of. */
#ifndef KVT_FAKE_CURVES_H
#define KVT_FAKE_CURVES_H

#include "fake_results.h"

enum { FAKE_POINTS = 5, FAKE_GRIDS = 2, FAKE_CURVE_ROWS = FAKE_HEADS + 2 };

typedef struct fake_curve {
    kvt_curve_id  id;
    kvt_curve_row row[FAKE_CURVE_ROWS];           /* heads of layer 0, the layer, the model */
    uint32_t      q31[FAKE_CURVE_ROWS][KVT_CURVE_METRICS][FAKE_POINTS];
} fake_curve;

static inline void fake_curve_fill(fake_curve *f, const fake_trace *t, int config, uint64_t seed, int grid)
{
    static const uint32_t kept[FAKE_GRIDS][FAKE_POINTS] = {{2, 5, 11, 21, 39}, {1, 300, 70000, 1u << 24, 0xfffffffeu}};
    const kvt_cell c = fake_cell(t, config, 0, seed);

    memset(f, 0, sizeof *f);
    f->id = (kvt_curve_id){.trace = &t->info, .trace_path = t->path, .config = fake_config(config), .seed = seed,
                           .kept = kept[grid], .n_point = FAKE_POINTS - (uint32_t)grid};
    for (uint32_t i = 0; i < FAKE_CURVE_ROWS; i++) {
        uint32_t *q31 = f->q31[i][0];
        f->row[i] = (kvt_curve_row){.layer = i <= FAKE_HEADS ? 0 : -1, .head = i < FAKE_HEADS ? (int32_t)i : -1, .q31 = q31,
                                    .n_not_nested = i < FAKE_HEADS ? i : FAKE_HEADS * (FAKE_HEADS - 1) / 2};
        for (uint32_t k = 0; k < KVT_CURVE_METRICS * f->id.n_point; k++)
            q31[k] = (uint32_t)(fake_uniform(&c, 1000 + 100 * i + k) * 2147483648.0);
        q31[0] = 0x80000000u;                     /* everything is lost with the fewest entries */
    }
}

#endif
