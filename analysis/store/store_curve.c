/* store_curve.c - the sink of curves: the loss of one trace, configuration and seed at every
 * budget of a grid.
 *
 * A curve is one transaction: all of its rows are there or none. There is one for each
 * (trace, configuration, versions, seed), so storing one replaces what another grid left.
 * Nobody claims a curve for himself: two processes that compute the same one at the same
 * time store the same rows twice. */
#include "store_impl.h"

#include <string.h>
#include "kvt_sha256.h"

enum { CURVE_METRICS_BYTES = 32 * KVT_CURVE_METRICS };

/* Names of the metrics in the order of the blob. */
static void curve_metrics(char out[CURVE_METRICS_BYTES])
{
    size_t used = 0;

    for (int m = 0; m < KVT_CURVE_METRICS; m++) {
        const size_t n = strlen(kvt_curve_metric[m]);
        KVT_ASSERT(used + n + 2 <= CURVE_METRICS_BYTES);
        if (m) out[used++] = ',';
        memcpy(out + used, kvt_curve_metric[m], n);
        used += n;
    }
    out[used] = 0;
}

/* SHA-256 of the blob curve_grid.kept. */
static void curve_grid_sha256(const kvt_curve_id *id, char out[65])
{
    uint8_t digest[32];
    kvt_sha256 h;

    kvt_sha256_init(&h);
    for (uint32_t i = 0; i < id->n_point; i++) {
        const uint32_t x = id->kept[i];
        const uint8_t word[4] = {(uint8_t)x, (uint8_t)(x >> 8), (uint8_t)(x >> 16), (uint8_t)(x >> 24)};
        kvt_sha256_update(&h, word, sizeof word);
    }
    kvt_sha256_final(&h, digest);
    kvt_sha256_hex(digest, out);
}

/* What store_refs.c and messages need to know of a curve. */
static kvt_cell curve_as_cell(const kvt_curve_id *id)
{
    static const kvt_budget_info whole_grid = {.label = "grid"};

    return (kvt_cell){.trace = id->trace, .trace_path = id->trace_path, .config = id->config, .budget = &whole_grid,
                      .seed = id->seed};
}

kvt_status kvt__sink_curve_claim(void *self, const kvt_curve_id *id, int *todo, kvt_err *err)
{
    kvt_store *s = self;
    const kvt_cell cell = curve_as_cell(id);
    char metrics[CURVE_METRICS_BYTES], grid[65];
    int64_t curve_id;
    kvt__row r = kvt__row_begin(s, KVT__CURVE_FIND);

    curve_metrics(metrics);
    curve_grid_sha256(id, grid);
    kvt__add_text(&r, id->trace->content_id);
    kvt__add_printable(&r, id->trace->cluster_id);
    kvt__add_text(&r, id->config->sha256);
    kvt__add_int(&r, KVT_ENGINE_VERSION);
    kvt__add_int(&r, KVT_METRIC_VERSION);
    kvt__add_int(&r, (int64_t)id->seed);
    kvt__add_text(&r, metrics);
    kvt__add_text(&r, grid);
    KVT_TRY(kvt__row_find(s, &r, &cell, "result_curve", &curve_id, err));
    *todo = curve_id == 0;
    return KVT_OK;
}

static kvt_status need_grid(kvt_store *s, const kvt_cell *cell, const kvt_curve_id *id, int64_t *grid_id, kvt_err *err)
{
    char sha256[65];
    kvt__row r = kvt__row_begin(s, KVT__GRID_FIND);

    curve_grid_sha256(id, sha256);
    kvt__add_text(&r, sha256);
    KVT_TRY(kvt__row_find(s, &r, cell, "curve_grid", grid_id, err));
    if (*grid_id) return KVT_OK;
    r = kvt__row_begin(s, KVT__GRID_ADD);
    kvt__add_text(&r, sha256);
    kvt__add_int(&r, id->n_point);
    kvt__add_u32(&r, id->kept, id->n_point);
    KVT_TRY(kvt__row_run(s, &r, cell, "curve_grid", err));
    *grid_id = sqlite3_last_insert_rowid(s->db);
    return KVT_OK;
}

/* The columns that name a curve, first in KVT__DEL_CURVE and KVT__ADD_CURVE. */
static void fill_curve_key(kvt__row *r, int64_t trace_id, int64_t config_id, uint64_t seed)
{
    kvt__add_int(r, trace_id);
    kvt__add_int(r, config_id);
    kvt__add_int(r, KVT_ENGINE_VERSION);
    kvt__add_int(r, KVT_METRIC_VERSION);
    kvt__add_int(r, (int64_t)seed);
}

static kvt_status curve_inside(kvt_store *s, const kvt_curve_id *id, const kvt_curve_row *row, size_t n_row, kvt_err *err)
{
    const kvt_cell cell = curve_as_cell(id);
    kvt__batch b = {.s = s, .cell = &cell, .table = "result_curve", .one = KVT__ADD_CURVE, .left = n_row};
    char metrics[CURVE_METRICS_BYTES];
    int64_t trace_id, config_id, grid_id;
    kvt__row r;

    KVT_TRY(kvt__need_trace(s, &cell, &trace_id, err));
    KVT_TRY(kvt__need_config(s, &cell, &config_id, err));
    KVT_TRY(need_grid(s, &cell, id, &grid_id, err));
    r = kvt__row_begin(s, KVT__DEL_CURVE);
    fill_curve_key(&r, trace_id, config_id, id->seed);
    KVT_TRY(kvt__row_run(s, &r, &cell, "result_curve", err));
    curve_metrics(metrics);
    for (const kvt_curve_row *x = row; x < row + n_row; x++) {
        kvt__batch_row(&b);
        fill_curve_key(&b.r, trace_id, config_id, id->seed);
        kvt__add_text(&b.r, metrics);
        kvt__add_int(&b.r, grid_id);
        kvt__add_text(&b.r, x->head >= 0 ? "head" : x->layer >= 0 ? "layer" : "model");
        kvt__add_int(&b.r, x->layer);
        kvt__add_int(&b.r, x->head);
        kvt__add_u32(&b.r, x->q31, (size_t)KVT_CURVE_METRICS * id->n_point);
        kvt__add_int(&b.r, x->n_not_nested);
        KVT_TRY(kvt__batch_end_row(&b, err));
    }
    return KVT_OK;
}

kvt_status kvt__sink_curve_store(void *self, const kvt_curve_id *id, const kvt_curve_row *row, size_t n_row, kvt_err *err)
{
    kvt_store *s = self;

    KVT_TRY(kvt__exec(s->db, "BEGIN IMMEDIATE", s->shown, "storing a curve", err));
    return kvt__end_transaction(s, curve_inside(s, id, row, n_row, err), "storing a curve", err);
}
