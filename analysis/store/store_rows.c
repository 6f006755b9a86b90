/* store_rows.c - the text of every prepared statement of the store, and filling them in.
 *
 * A row is filled left to right; the first error is kept and comes out when the row is
 * run, so that callers read as a list of columns. */
#include "store_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_text.h"

/* NULL: the one before, for many rows. */
static const char *const stmt_sql[KVT__N_STMT] = {
    [KVT__CELL_STATE] = "SELECT cell_id, status, run_id FROM cell WHERE key_sha256 = ?1",
    /* Not `done`, and not in the hands of another run that is still going on. */
    [KVT__CELL_CLAIM] =
        "INSERT INTO cell(key_sha256, trace_id, config_id, budget_id, engine_version, metric_version, seed,"
        " requested_tokens, status, run_id, attempt) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'running', ?9, 1)"
        " ON CONFLICT(key_sha256) DO UPDATE SET status = 'running', attempt = attempt + 1,"
        " run_id = excluded.run_id, error = NULL WHERE cell.status <> 'done' AND NOT (cell.status = 'running'"
        " AND cell.run_id IS NOT excluded.run_id AND EXISTS(SELECT 1 FROM run r WHERE r.run_id = cell.run_id"
        " AND r.status = 'running')) RETURNING cell_id",
    [KVT__CELL_DONE] = "UPDATE cell SET status = 'done', run_id = ?2, result_sha256 = ?3, wall_s = ?4, error = NULL"
                       " WHERE cell_id = ?1",
    [KVT__CELL_FAIL] = "UPDATE cell SET status = 'failed', error = ?2 WHERE key_sha256 = ?1 AND status <> 'done'",

    [KVT__MODEL_FIND] = "SELECT model_id FROM model WHERE name = ?1 AND revision = ?2",
    [KVT__MODEL_ADD] = "INSERT INTO model(name, revision, n_layer) VALUES(?1, ?2, ?3)",
    [KVT__MODEL_LAYERS] = "SELECT n_q_head, n_kv_head, d_k, d_v, attn_type, coalesce(span, 0) FROM model_layer"
                          " WHERE model_id = ?1 ORDER BY layer",
    [KVT__MODEL_LAYER_ADD] = "INSERT INTO model_layer VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [KVT__DATASET_FIND] = "SELECT dataset_id FROM dataset WHERE name = ?1 AND revision = ?2",
    [KVT__DATASET_ADD] = "INSERT INTO dataset(name, revision, licence) VALUES(?1, ?2, ?3)",
    [KVT__TRACE_FIND] = "SELECT trace_id FROM trace WHERE content_id = ?1 AND cluster_id = ?2",
    [KVT__TRACE_ADD] =
        "INSERT INTO trace(content_id, name, model_id, dataset_id, cluster_id, split, kind, exactness, n_prompt,"
        " n_decode, n_window, question_start, end_reason, k_dtype, v_dtype, q_dtype, row_source, has_value, has_wo,"
        " has_value_norm, redacted, engine, format_major, format_minor, bytes, path) VALUES(?1, ?2, ?3, ?4, ?5,"
        " 'test', ?6, ?7, ?8, ?9, ?10, ?11, 'unknown', ?12, ?13, ?14, 'qk', ?15, 0, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
    [KVT__TOKEN_ADD] = "INSERT INTO trace_token VALUES(?1, ?2, ?3, ?4)",
    [KVT__SEGMENT_ADD] = "INSERT INTO trace_segment VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [KVT__POLICY_FIND] = "SELECT policy_id FROM policy WHERE name = ?1",
    [KVT__POLICY_ADD] = "INSERT INTO policy(name, title, role, timing, budgeted, fixed_set, nested, head_adaptive,"
                        " query_aware, reference) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    [KVT__CONFIG_FIND] = "SELECT config_id FROM policy_config WHERE sha256 = ?1",
    [KVT__CONFIG_ADD] = "INSERT INTO policy_config(policy_id, label, semantics, may_overshoot, canonical_json, sha256)"
                        " VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [KVT__PARAM_ADD] = "INSERT INTO policy_param VALUES(?1, ?2, ?3, ?4)",
    [KVT__BUDGET_FIND] = "SELECT budget_id FROM budget WHERE kind = ?1 AND value = ?2 AND rule = ?3",
    [KVT__BUDGET_ADD] = "INSERT INTO budget(kind, value, rule, label) VALUES(?1, ?2, ?3, ?4)",
    [KVT__TAU_FIND] = "SELECT tau_id FROM tau WHERE tau = ?1",

    [KVT__DEL_HEAD] = "DELETE FROM result_head WHERE cell_id = ?1",   /* cascades to tau, series, violations */
    [KVT__DEL_KVHEAD] = "DELETE FROM result_kvhead WHERE cell_id = ?1",
    [KVT__DEL_LAYER] = "DELETE FROM result_layer WHERE cell_id = ?1",
    [KVT__DEL_CELL] = "DELETE FROM result_cell WHERE cell_id = ?1",
    [KVT__DEL_LADDER] = "DELETE FROM ladder_head WHERE cell_id = ?1",   /* cascades to the certificate */
    [KVT__DEL_CHECK] = "DELETE FROM validity WHERE cell_id = ?1",
    [KVT__ADD_CELL] =
        "INSERT INTO result_cell(cell_id, n_head, held_share, held_mean, held_min, held_max, bytes_logical,"
        " bytes_physical, tie_share, row_defect_max, lost_mean, lost_worst, worst_layer, worst_head, worst_step,"
        " cvar95_mean, cvar95_worst_head, lost_ns_worst, ns_cvar95_worst, out_err_basis, out_err_worst,"
        " oracle_worst, regret_mean, n_violation, flags)"
        " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_HEAD] =
        "INSERT INTO result_head(cell_id, layer, head, n_step, n_trivial, n_held, lost_mean, lost_max, max_step,"
        " lost_q50, lost_q90, lost_q95, lost_q99, lost_cvar95, lost_cvar99, ns_n, lost_ns_mean, lost_ns_max,"
        " ns_max_step, lost_ns_q95, lost_ns_cvar95, lost_prompt_mean, lost_prompt_max, err_n, out_err_mean,"
        " out_err_max, err_max_step, out_err_q95, out_err_cvar95, value_sep_mean, oracle_mean, oracle_max,"
        " fixed_mean, fixed_max, regret_mean, regret_max)"
        " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_KVHEAD] =
        "INSERT INTO result_kvhead(cell_id, layer, kv_head, agg, n_held, lost_mean, lost_max, max_step, lost_q95,"
        " lost_cvar95, lost_ns_mean, lost_ns_max, lost_ns_cvar95, out_err_cvar95) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_LAYER] = "INSERT INTO result_layer(cell_id, layer, held_mean, lost_mean, lost_worst, worst_head,"
                       " cvar95_worst_head) VALUES(?,?,?,?,?,?,?)",
    [KVT__ADD_TAU] = "INSERT INTO result_head_tau(cell_id, layer, head, tau_id, n_exceed, n_infeasible, n_run,"
                     " longest_run, longest_start, first_step, excess_area) VALUES(?,?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_SERIES] = "INSERT INTO result_series(cell_id, layer, head, metric, step0, n, codec, data)"
                        " VALUES(?,?,?,?,?,?,'u32q31le',?)",
    [KVT__VIOLATION_NEXT] = "SELECT coalesce(max(violation_id), 0) + 1 FROM violation",
    [KVT__ADD_VIOLATION] =
        "INSERT INTO violation(violation_id, cell_id, layer, head, tau_id, start_step, n_step, peak_step, peak_lost,"
        " peak_oracle_lost, excess_area, cause, foreseeable, recurrent, share_top1, share_top5, share_top20)"
        " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_TOKEN] = "INSERT INTO violation_token(violation_id, ord, pos, mass_share, evicted_step, window_rank,"
                       " window_score, score_margin, last_important, idle_steps) VALUES(?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_LADDER] =
        "INSERT INTO ladder_head(cell_id, layer, head, n_keep, n_step, n_trivial, oracle_mean, oracle_max,"
        " oracle_max_step, fixed_mean, fixed_max, random_mean, minimax_bound, minimax_found, minimax_iters,"
        " minimax_stop, stability_gap) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_CERT] = "INSERT INTO minimax_cert(cell_id, layer, head, bound_q31, n_lambda, lambda, best_set)"
                      " VALUES(?,?,?,?,?,?,?)",
    [KVT__GRID_FIND] = "SELECT grid_id FROM curve_grid WHERE sha256 = ?1",
    [KVT__GRID_ADD] = "INSERT INTO curve_grid(sha256, n_point, kept) VALUES(?1, ?2, ?3)",
    /* A curve is stored whole, so the row of the model says that all of it is there. */
    [KVT__CURVE_FIND] =
        "SELECT curve_id FROM result_curve JOIN curve_grid g USING(grid_id) JOIN trace t USING(trace_id)"
        " JOIN policy_config p USING(config_id) WHERE t.content_id = ?1 AND t.cluster_id = ?2 AND p.sha256 = ?3"
        " AND engine_version = ?4 AND metric_version = ?5 AND seed = ?6 AND level = 'model' AND metrics = ?7"
        " AND g.sha256 = ?8",
    [KVT__DEL_CURVE] = "DELETE FROM result_curve WHERE trace_id = ?1 AND config_id = ?2 AND engine_version = ?3"
                       " AND metric_version = ?4 AND seed = ?5",
    [KVT__ADD_CURVE] =
        "INSERT INTO result_curve(trace_id, config_id, engine_version, metric_version, seed, metrics, grid_id,"
        " level, layer, head, data, n_not_nested) VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
    [KVT__ADD_CHECK] = "INSERT INTO validity(run_id, cell_id, check_name, status, value, lim, message)"
                       " VALUES(?,?,?,?,?,?,?)",
};

void kvt__stmt_finalize(kvt_store *s)
{
    for (int i = 0; i < KVT__N_STMT; i++) {
        sqlite3_finalize(s->stmt[i]);
        s->stmt[i] = NULL;
    }
    for (int i = 0; i < KVT__N_HASH; i++) {
        sqlite3_finalize(s->hash[i]);
        s->hash[i] = NULL;
    }
}

/* ---------------------------------------------------------------- one statement */

/* The statement before it with KVT__MANY rows: a statement has a price of its own, and
 * SQLite builds the list of a CHECK(x IN (...)) anew for every single row. */
static int prepare_many(kvt_store *s, kvt__stmt which)
{
    const char *one = stmt_sql[which - 1], *row = strstr(one, "VALUES") + strlen("VALUES");
    sqlite3_str *text = sqlite3_str_new(s->db);
    char *sql;
    int code;

    sqlite3_str_appendall(text, one);
    for (int i = 1; i < KVT__MANY; i++) sqlite3_str_appendf(text, ",%s", row);
    sql = sqlite3_str_finish(text);
    if (!sql) return SQLITE_NOMEM;
    code = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->stmt[which], NULL);
    sqlite3_free(sql);
    return code;
}

kvt__row kvt__row_begin(kvt_store *s, kvt__stmt which)
{
    kvt__row r = {NULL, 0, SQLITE_OK};

    if (!s->stmt[which] && !stmt_sql[which])
        r.code = prepare_many(s, which);
    else if (!s->stmt[which])
        r.code = sqlite3_prepare_v3(s->db, stmt_sql[which], -1, SQLITE_PREPARE_PERSISTENT, &s->stmt[which], NULL);
    r.st = s->stmt[which];
    if (r.st) sqlite3_reset(r.st);
    return r;
}

void kvt__add_code(kvt__row *r, int code)
{
    if (r->code == SQLITE_OK) r->code = code;
}

void kvt__add_int(kvt__row *r, int64_t x) { if (r->st) kvt__add_code(r, sqlite3_bind_int64(r->st, ++r->col, x)); }
void kvt__add_null(kvt__row *r)           { if (r->st) kvt__add_code(r, sqlite3_bind_null(r->st, ++r->col)); }
/* NaN = not measured: SQLite makes it NULL. */
void kvt__add_real(kvt__row *r, double x) { if (r->st) kvt__add_code(r, sqlite3_bind_double(r->st, ++r->col, x)); }

void kvt__add_int_if(kvt__row *r, int there, int64_t x)
{
    if (there) kvt__add_int(r, x);
    else kvt__add_null(r);
}

void kvt__add_text(kvt__row *r, const char *x)      /* NULL stays NULL */
{
    if (r->st) kvt__add_code(r, sqlite3_bind_text(r->st, ++r->col, x, -1, SQLITE_TRANSIENT));
}

/* Text from a trace: valid UTF-8 without control characters, whatever was in the file. */
void kvt__add_printable(kvt__row *r, const char *x)
{
    const size_t size = 8 * strlen(x) + 16;
    char *shown = malloc(size);

    if (!r->st) {
        free(shown);
        return;
    }
    if (shown) kvt__add_code(r, sqlite3_bind_text(r->st, ++r->col, kvt_printable_str(shown, size, x), -1, free));
    else kvt__add_code(r, SQLITE_NOMEM);
}

/* n integers, little endian whatever the machine. */
void kvt__add_u32(kvt__row *r, const uint32_t *x, size_t n)
{
    uint8_t *data = malloc(4 * n + 1);

    if (!r->st || !data) {
        kvt__add_code(r, SQLITE_NOMEM);
        free(data);
        return;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < 4; b++) data[4 * i + b] = (uint8_t)(x[i] >> (8 * b));
    kvt__add_code(r, sqlite3_bind_blob64(r->st, ++r->col, data, 4 * (sqlite3_uint64)n, free));
}

/* What a message says about a failing statement. */
kvt_status kvt__row_fail(kvt_store *s, const kvt__row *r, const kvt_cell *cell, const char *table, kvt_err *err)
{
    char policy[80], trace[80], doing[280];

    kvt_printable_str(policy, sizeof policy, cell->config->label);
    kvt_printable_str(trace, sizeof trace, cell->trace_path);
    snprintf(doing, sizeof doing, "%s of trace %s, policy %s, budget %s", table, trace, policy, cell->budget->label);
    if (r->code == SQLITE_NOMEM) return kvt_fail(err, KVT_ENOMEM, "%s: %s: out of memory", s->shown, doing);
    return kvt__db_fail(s->db, s->shown, doing, err);
}

/* Run a statement that gives no row. */
kvt_status kvt__row_run(kvt_store *s, kvt__row *r, const kvt_cell *cell, const char *table, kvt_err *err)
{
    kvt_status rc = KVT_OK;

    if (r->code == SQLITE_OK) r->code = sqlite3_step(r->st);
    if (r->code != SQLITE_DONE) rc = kvt__row_fail(s, r, cell, table, err);
    if (r->st) sqlite3_reset(r->st);
    return rc;
}

/* First column of the first row, or 0: ids start at 1. */
kvt_status kvt__row_find(kvt_store *s, kvt__row *r, const kvt_cell *cell, const char *table, int64_t *id, kvt_err *err)
{
    kvt_status rc = KVT_OK;

    *id = 0;
    if (r->code == SQLITE_OK) r->code = sqlite3_step(r->st);
    if (r->code == SQLITE_ROW) {
        *id = sqlite3_column_int64(r->st, 0);
        r->code = sqlite3_step(r->st);            /* to the end: RETURNING writes there */
    }
    if (r->code != SQLITE_DONE) rc = kvt__row_fail(s, r, cell, table, err);
    if (r->st) sqlite3_reset(r->st);
    return rc;
}

/* ---------------------------------------------------------------- many rows */

void kvt__batch_row(kvt__batch *b)
{
    if (b->held > 0) return;
    b->size = b->left >= KVT__MANY ? KVT__MANY : 1;
    b->r = kvt__row_begin(b->s, b->size > 1 ? (kvt__stmt)(b->one + 1) : b->one);
}

kvt_status kvt__batch_end_row(kvt__batch *b, kvt_err *err)
{
    b->left--;
    if (++b->held < b->size) return KVT_OK;
    b->held = 0;
    return kvt__row_run(b->s, &b->r, b->cell, b->table, err);
}
