/* store_write.c - the sink: claim a cell, store its result, or note why it failed (curves:
 * store_curve.c).
 *
 * One immediate transaction per call: a kill at any point leaves every cell either
 * complete and `done` or without a result. Storing a cell again replaces its rows. */
#include "store_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- claim */

typedef struct cell_state {
    int64_t cell_id;                    /* 0 = not there                              */
    int     done, foreign;              /* foreign: running, and not in this run      */
} cell_state;

static kvt_status read_state(kvt_store *s, const kvt_cell *cell, cell_state *out, kvt_err *err)
{
    kvt_status rc = KVT_OK;
    kvt__row r = kvt__row_begin(s, KVT__CELL_STATE);

    memset(out, 0, sizeof *out);
    kvt__add_text(&r, cell->key_sha256);
    if (r.code == SQLITE_OK) r.code = sqlite3_step(r.st);
    if (r.code == SQLITE_ROW) {
        const char *status = (const char *)sqlite3_column_text(r.st, 1);
        out->cell_id = sqlite3_column_int64(r.st, 0);
        out->done = strcmp(status, "done") == 0;
        out->foreign = strcmp(status, "running") == 0 && sqlite3_column_int64(r.st, 2) != s->run_id;
    } else if (r.code != SQLITE_DONE) {
        rc = kvt__row_fail(s, &r, cell, "cell", err);
    }
    if (r.st) sqlite3_reset(r.st);
    return rc;
}

static kvt_status claim_inside(kvt_store *s, const kvt_cell *cell, int64_t *cell_id, kvt_err *err)
{
    int64_t trace_id, config_id, budget_id;
    kvt__row r;

    KVT_TRY(kvt__need_trace(s, cell, &trace_id, err));
    KVT_TRY(kvt__need_config(s, cell, &config_id, err));
    KVT_TRY(kvt__need_budget(s, cell, &budget_id, err));
    r = kvt__row_begin(s, KVT__CELL_CLAIM);
    kvt__add_text(&r, cell->key_sha256);
    kvt__add_int(&r, trace_id);
    kvt__add_int(&r, config_id);
    kvt__add_int(&r, budget_id);
    kvt__add_int(&r, KVT_ENGINE_VERSION);
    kvt__add_int(&r, KVT_METRIC_VERSION);
    kvt__add_int(&r, (int64_t)cell->seed);
    kvt__add_real(&r, cell->requested_tokens);
    kvt__add_int(&r, s->run_id);
    return kvt__row_find(s, &r, cell, "cell", cell_id, err);
}

kvt_status kvt__end_transaction(kvt_store *s, kvt_status rc, const char *doing, kvt_err *err)
{
    if (rc == KVT_OK) return kvt__exec(s->db, "COMMIT", s->shown, doing, err);
    if (!sqlite3_get_autocommit(s->db)) sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

static kvt_status store_claim(void *self, const kvt_cell *cell, int *todo, kvt_err *err)
{
    kvt_store *s = self;
    cell_state state;
    int64_t cell_id = 0;

    KVT_TRY(read_state(s, cell, &state, err));
    if (state.done) {
        *todo = 0;
        return KVT_OK;
    }
    if (state.foreign) KVT_TRY(kvt__reap(s, err));   /* its process may have died since we started */
    KVT_TRY(kvt__exec(s->db, "BEGIN IMMEDIATE", s->shown, "claiming a cell", err));
    KVT_TRY(kvt__end_transaction(s, claim_inside(s, cell, &cell_id, err), "claiming a cell", err));
    *todo = cell_id != 0;
    return KVT_OK;
}

/* ---------------------------------------------------------------- store */

static kvt_status delete_children(kvt_store *s, const kvt_cell *cell, int64_t cell_id, kvt_err *err)
{
    static const struct { kvt__stmt stmt; const char *table; } child[] = {
        {KVT__DEL_HEAD, "result_head"}, {KVT__DEL_KVHEAD, "result_kvhead"}, {KVT__DEL_LAYER, "result_layer"},
        {KVT__DEL_CELL, "result_cell"}, {KVT__DEL_LADDER, "ladder_head"}, {KVT__DEL_CHECK, "validity"}};

    for (size_t i = 0; i < sizeof child / sizeof child[0]; i++) {
        kvt__row r = kvt__row_begin(s, child[i].stmt);
        kvt__add_int(&r, cell_id);
        KVT_TRY(kvt__row_run(s, &r, cell, child[i].table, err));
    }
    return KVT_OK;
}

static kvt_status add_summary(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_result *x, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__ADD_CELL);

    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->n_head_total);
    kvt__add_real(&r, x->held_share);
    kvt__add_real(&r, x->held_mean);
    kvt__add_int(&r, x->held_min);
    kvt__add_int(&r, x->held_max);
    kvt__add_int(&r, (int64_t)x->bytes_logical);
    kvt__add_int(&r, (int64_t)x->bytes_physical);
    kvt__add_real(&r, x->tie_share);
    kvt__add_real(&r, x->row_defect_max);
    kvt__add_real(&r, x->lost_mean);
    kvt__add_real(&r, x->lost_worst);
    kvt__add_int(&r, x->worst_layer);
    kvt__add_int(&r, x->worst_head);
    kvt__add_int(&r, x->worst_step);
    kvt__add_real(&r, x->cvar95_mean);
    kvt__add_real(&r, x->cvar95_worst_head);
    kvt__add_real(&r, x->lost_ns_worst);
    kvt__add_real(&r, x->ns_cvar95_worst);
    kvt__add_text(&r, x->out_err_basis);
    kvt__add_real(&r, x->out_err_worst);
    kvt__add_real(&r, x->oracle_worst);
    kvt__add_real(&r, x->regret_mean);
    kvt__add_int(&r, x->n_violation_total);
    kvt__add_int(&r, x->flags);
    return kvt__row_run(s, &r, cell, "result_cell", err);
}

static kvt_status add_head(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_head_result *x, kvt_err *err)
{
    const int all = strcmp(cell->config->budgeted, "all") == 0;   /* no prompt-only denominator there */
    kvt__row r = kvt__row_begin(s, KVT__ADD_HEAD);

    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->layer);
    kvt__add_int(&r, x->head);
    kvt__add_int(&r, x->n_step);
    kvt__add_int(&r, x->n_trivial);
    kvt__add_int(&r, x->n_held);
    kvt__add_real(&r, x->lost_mean);
    kvt__add_real(&r, x->lost_max);
    kvt__add_int(&r, x->max_step);
    kvt__add_real(&r, x->lost_q50);
    kvt__add_real(&r, x->lost_q90);
    kvt__add_real(&r, x->lost_q95);
    kvt__add_real(&r, x->lost_q99);
    kvt__add_real(&r, x->lost_cvar95);
    kvt__add_real(&r, x->lost_cvar99);
    kvt__add_int(&r, x->ns_n);
    kvt__add_real(&r, x->lost_ns_mean);
    kvt__add_real(&r, x->lost_ns_max);
    kvt__add_int_if(&r, x->ns_n > 0, x->ns_max_step);
    kvt__add_real(&r, x->lost_ns_q95);
    kvt__add_real(&r, x->lost_ns_cvar95);
    kvt__add_real(&r, all ? (double)NAN : x->lost_prompt_mean);
    kvt__add_real(&r, all ? (double)NAN : x->lost_prompt_max);
    kvt__add_int(&r, x->err_n);
    kvt__add_real(&r, x->out_err_mean);
    kvt__add_real(&r, x->out_err_max);
    kvt__add_int_if(&r, x->err_n > 0, x->err_max_step);
    kvt__add_real(&r, x->out_err_q95);
    kvt__add_real(&r, x->out_err_cvar95);
    kvt__add_real(&r, x->value_sep_mean);
    kvt__add_real(&r, x->oracle_mean);
    kvt__add_real(&r, x->oracle_max);
    kvt__add_real(&r, x->fixed_mean);
    kvt__add_real(&r, x->fixed_max);
    kvt__add_real(&r, x->regret_mean);
    kvt__add_real(&r, x->regret_max);
    return kvt__row_run(s, &r, cell, "result_head", err);
}

static kvt_status add_kvhead(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_kvhead_result *x, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__ADD_KVHEAD);

    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->layer);
    kvt__add_int(&r, x->kv_head);
    kvt__add_text(&r, x->agg_mean ? "mean" : "max");
    kvt__add_int(&r, x->n_held);
    kvt__add_real(&r, x->lost_mean);
    kvt__add_real(&r, x->lost_max);
    kvt__add_int(&r, x->max_step);
    kvt__add_real(&r, x->lost_q95);
    kvt__add_real(&r, x->lost_cvar95);
    kvt__add_real(&r, x->lost_ns_mean);
    kvt__add_real(&r, x->lost_ns_max);
    kvt__add_real(&r, x->lost_ns_cvar95);
    kvt__add_real(&r, x->out_err_cvar95);
    return kvt__row_run(s, &r, cell, "result_kvhead", err);
}

static kvt_status add_layer(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_layer_result *x, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__ADD_LAYER);

    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->layer);
    kvt__add_real(&r, x->held_mean);
    kvt__add_real(&r, x->lost_mean);
    kvt__add_real(&r, x->lost_worst);
    kvt__add_int(&r, x->worst_head);
    kvt__add_real(&r, x->cvar95_worst_head);
    return kvt__row_run(s, &r, cell, "result_layer", err);
}

static kvt_status add_tau(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const int64_t *tau_id,
                          const kvt_tau_result *x, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__ADD_TAU);

    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->layer);
    kvt__add_int(&r, x->head);
    kvt__add_int(&r, tau_id[x->tau]);
    kvt__add_int(&r, x->n_exceed);
    kvt__add_int(&r, x->n_infeasible);
    kvt__add_int(&r, x->n_run);
    kvt__add_int(&r, x->longest_run);
    kvt__add_int_if(&r, x->n_run > 0, x->longest_start);
    kvt__add_int_if(&r, x->n_exceed > 0, x->first_step);
    kvt__add_real(&r, x->excess_area);
    return kvt__row_run(s, &r, cell, "result_head_tau", err);
}

static kvt_status add_series(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_series *x, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__ADD_SERIES);

    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->layer);
    kvt__add_int(&r, x->head);
    kvt__add_text(&r, x->metric);
    kvt__add_int(&r, x->step0);
    kvt__add_int(&r, x->n);
    kvt__add_u32(&r, x->q31, x->n);
    return kvt__row_run(s, &r, cell, "result_series", err);
}

/* Count and differences of ascending positions, 7 bits to a byte, low ones first. */
static kvt_status add_positions(kvt_store *s, kvt__row *r, const uint32_t *pos, uint32_t n, kvt_err *err)
{
    uint8_t *data = malloc(5 * ((size_t)n + 1));
    size_t used = 0;

    if (!data) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", s->shown);
    for (uint32_t i = 0; i <= n; i++) {
        uint32_t x = i == 0 ? n : i == 1 ? pos[0] : pos[i - 1] - pos[i - 2];
        for (; x >= 128; x >>= 7) data[used++] = (uint8_t)(x | 128);
        data[used++] = (uint8_t)x;
    }
    if (r->st) kvt__add_code(r, sqlite3_bind_blob64(r->st, ++r->col, data, used, free));
    else free(data);
    return KVT_OK;
}

static kvt_status add_ladder(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_ladder_result *x, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__ADD_LADDER);

    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->layer);
    kvt__add_int(&r, x->head);
    kvt__add_int(&r, x->n_keep);
    kvt__add_int(&r, x->n_step);
    kvt__add_int(&r, x->n_trivial);
    kvt__add_real(&r, x->oracle_mean);
    kvt__add_real(&r, x->oracle_max);
    kvt__add_int(&r, x->oracle_max_step);
    kvt__add_real(&r, x->fixed_mean);
    kvt__add_real(&r, x->fixed_max);
    kvt__add_real(&r, x->random_mean);
    kvt__add_real(&r, x->minimax_bound);
    kvt__add_real(&r, x->minimax_found);
    kvt__add_int(&r, x->minimax_iters);
    kvt__add_text(&r, x->minimax_stop);
    kvt__add_real(&r, x->minimax_bound - x->oracle_max);
    KVT_TRY(kvt__row_run(s, &r, cell, "ladder_head", err));
    if (x->n_lambda == 0) return KVT_OK;
    r = kvt__row_begin(s, KVT__ADD_CERT);
    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, x->layer);
    kvt__add_int(&r, x->head);
    kvt__add_int(&r, x->bound_q31);
    kvt__add_int(&r, x->n_lambda);
    kvt__add_u32(&r, x->lambda, x->n_lambda);
    KVT_TRY(add_positions(s, &r, x->best_set, x->n_keep, err));
    return kvt__row_run(s, &r, cell, "minimax_cert", err);
}

static kvt_status add_check(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_check *x, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__ADD_CHECK);

    kvt__add_int(&r, s->run_id);
    kvt__add_int(&r, cell_id);
    kvt__add_text(&r, x->name);
    kvt__add_text(&r, x->status);
    kvt__add_real(&r, x->value);
    kvt__add_real(&r, x->limit);
    kvt__add_printable(&r, x->message);
    return kvt__row_run(s, &r, cell, "validity", err);
}

static kvt_status store_inside(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const kvt_result *x, kvt_err *err)
{
    int64_t tau_id[KVT_N_TAU];
    char hash[65];
    kvt__row r;

    for (uint32_t i = 0; i < KVT_N_TAU; i++) {
        r = kvt__row_begin(s, KVT__TAU_FIND);
        kvt__add_real(&r, kvt_tau[i]);
        KVT_TRY(kvt__row_find(s, &r, cell, "tau", &tau_id[i], err));
    }
    KVT_TRY(delete_children(s, cell, cell_id, err));
    KVT_TRY(add_summary(s, cell, cell_id, x, err));
    for (size_t i = 0; i < x->n_head; i++) KVT_TRY(add_head(s, cell, cell_id, &x->head[i], err));
    for (size_t i = 0; i < x->n_kvhead; i++) KVT_TRY(add_kvhead(s, cell, cell_id, &x->kvhead[i], err));
    for (size_t i = 0; i < x->n_layer; i++) KVT_TRY(add_layer(s, cell, cell_id, &x->layer[i], err));
    for (size_t i = 0; i < x->n_tau; i++) KVT_TRY(add_tau(s, cell, cell_id, tau_id, &x->tau[i], err));
    for (size_t i = 0; i < x->n_series; i++) KVT_TRY(add_series(s, cell, cell_id, &x->series[i], err));
    KVT_TRY(kvt__add_violations(s, cell, cell_id, tau_id, x->violation, x->n_violation, err));
    for (size_t i = 0; i < x->n_ladder; i++) KVT_TRY(add_ladder(s, cell, cell_id, &x->ladder[i], err));
    for (size_t i = 0; i < x->n_check; i++) KVT_TRY(add_check(s, cell, cell_id, &x->check[i], err));
    KVT_TRY(kvt__result_sha256(s, cell_id, x, hash, err));
    r = kvt__row_begin(s, KVT__CELL_DONE);
    kvt__add_int(&r, cell_id);
    kvt__add_int(&r, s->run_id);
    kvt__add_text(&r, hash);
    kvt__add_real(&r, x->wall_s);
    return kvt__row_run(s, &r, cell, "cell", err);
}

static kvt_status store_store(void *self, const kvt_cell *cell, const kvt_result *x, kvt_err *err)
{
    kvt_store *s = self;
    cell_state state;
    kvt_status rc;

    KVT_TRY(kvt__exec(s->db, "BEGIN IMMEDIATE", s->shown, "storing a cell", err));
    rc = read_state(s, cell, &state, err);
    if (rc == KVT_OK && state.cell_id == 0)
        rc = kvt_fail(err, KVT_EDB, "%s: a result came for a cell that was not claimed (key %s)", s->shown, cell->key_sha256);
    if (rc == KVT_OK) rc = store_inside(s, cell, state.cell_id, x, err);
    return kvt__end_transaction(s, rc, "storing a cell", err);
}

static kvt_status store_fail(void *self, const kvt_cell *cell, const char *why, kvt_err *err)
{
    kvt_store *s = self;
    kvt__row r = kvt__row_begin(s, KVT__CELL_FAIL);

    kvt__add_text(&r, cell->key_sha256);
    kvt__add_printable(&r, why);
    return kvt__row_run(s, &r, cell, "cell", err);
}

kvt_sink kvt_store_sink(kvt_store *s)
{
    static const kvt_sink_ops ops = {"sqlite", store_claim, store_store, store_fail, kvt__sink_curve_claim, kvt__sink_curve_store};
    return (kvt_sink){&ops, s};
}
