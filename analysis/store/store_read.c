/* store_read.c - recognising a results database, opening it for reading, and the content
 * hash of a cell.
 *
 * A file is ours when its header carries our application id, its schema version is known
 * and every table, index and view of schema.sql is in it, word for word. More tables and
 * views may be there: the database is an interface and people add their own. */
#include "store_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "kvt_sha256.h"
#include "kvt_text.h"

/* ---------------------------------------------------------------- small helpers */

char *kvt__db_path(const char *path)
{
    const size_t n = strlen(path);
    char *out = malloc(n + 3);

    if (!out) return NULL;
    snprintf(out, n + 3, "%s%s", path[0] == '/' ? "" : "./", path);
    return out;
}

kvt_status kvt__db_fail(sqlite3 *db, const char *shown, const char *doing, kvt_err *err)
{
    const int code = sqlite3_extended_errcode(db);
    char words[200];

    kvt_printable_str(words, sizeof words, sqlite3_errmsg(db));
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return kvt_fail(err, KVT_ENOMEM, "%s: %s: out of memory", shown, doing);
    case SQLITE_FULL:
        return kvt_fail(err, KVT_EIO, "%s: %s: the disk is full. Nothing half-written remains; free some "
                        "space and run the same command again", shown, doing);
    case SQLITE_READONLY:
        return kvt_fail(err, KVT_EIO, "%s: %s: the file or its folder is read-only (%s); choose another "
                        "place with -o", shown, doing, words);
    case SQLITE_CANTOPEN:
        return kvt_fail(err, KVT_EIO, "%s: %s: %s; may the folder be written to?", shown, doing, words);
    case SQLITE_IOERR:
        return kvt_fail(err, KVT_EIO, "%s: %s: %s (code %d): is the disk full, or the file too large?", shown,
                        doing, words, code);
    case SQLITE_BUSY: case SQLITE_LOCKED:
        return kvt_fail(err, KVT_EDB, "%s: %s: another process has kept the database locked for %d s; wait "
                        "for it or end it", shown, doing, KVT__BUSY_MS / 1000);
    case SQLITE_NOTADB:
        return kvt_fail(err, KVT_EFORMAT, "%s: not an SQLite database, so not a results database; give the "
                        "name of one, or of a new file", shown);
    case SQLITE_CORRUPT:
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: the database is damaged (%s); delete it and replay again",
                        shown, doing, words);
    default:
        return kvt_fail(err, KVT_EDB, "%s: %s: %s (code %d)", shown, doing, words, code);
    }
}

kvt_status kvt__exec(sqlite3 *db, const char *sql, const char *shown, const char *doing, kvt_err *err)
{
    kvt_status rc;

    if (sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK) return KVT_OK;
    rc = kvt__db_fail(db, shown, doing, err);
    if (!sqlite3_get_autocommit(db)) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

kvt_status kvt__query_int(sqlite3 *db, const char *sql, int64_t otherwise, int64_t *out,
                          const char *shown, kvt_err *err)
{
    sqlite3_stmt *st = NULL;
    kvt_status rc = KVT_OK;
    int64_t value = otherwise;
    int step = SQLITE_ERROR;

    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK) step = sqlite3_step(st);
    if (step == SQLITE_ROW) value = sqlite3_column_int64(st, 0);
    else if (step != SQLITE_DONE) rc = kvt__db_fail(db, shown, "reading", err);
    sqlite3_finalize(st);
    if (rc == KVT_OK) *out = value;
    return rc;
}

/* ---------------------------------------------------------------- identity */

/* Every object of schema.sql that version `version` had is in `db` with the same text. */
static kvt_status same_schema(sqlite3 *db, int64_t version, const char *shown, kvt_err *err)
{
    static const char list[] = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    sqlite3 *model = NULL;
    sqlite3_stmt *want = NULL, *have = NULL;
    kvt_status rc = KVT_OK;
    int step;

    KVT_TRY(kvt__model_open(&model, err));
    if (sqlite3_prepare_v2(model, list, -1, &want, NULL) != SQLITE_OK) {
        rc = kvt__db_fail(model, "schema.sql", "loading", err);
        goto done;
    }
    if (sqlite3_prepare_v2(db, "SELECT sql = ?3 FROM sqlite_master WHERE type = ?1 AND name = ?2", -1, &have,
                           NULL) != SQLITE_OK) {
        rc = kvt__db_fail(db, shown, "reading its tables", err);
        goto done;
    }
    while ((step = sqlite3_step(want)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(want, 1);
        if (kvt__is_newer(name, version)) continue;
        for (int i = 0; i < 3; i++) sqlite3_bind_value(have, i + 1, sqlite3_column_value(want, i));
        step = sqlite3_step(have);
        if (step != SQLITE_ROW && step != SQLITE_DONE) {
            rc = kvt__db_fail(db, shown, "reading its tables", err);
            goto done;
        }
        if (step == SQLITE_DONE || sqlite3_column_int(have, 0) != 1) {
            rc = kvt_fail(err, KVT_EFORMAT, "%s: %s %s is %s; the database was made or altered by another "
                          "program: use a new file", shown, (const char *)sqlite3_column_text(want, 0), name,
                          step == SQLITE_DONE ? "missing" : "not that of this program");
            goto done;
        }
        sqlite3_reset(have);
    }
    if (step != SQLITE_DONE) rc = kvt__db_fail(model, "schema.sql", "reading", err);
done:
    sqlite3_finalize(want);
    sqlite3_finalize(have);
    sqlite3_close(model);
    return rc;
}

kvt_status kvt__identify(sqlite3 *db, const char *shown, int *empty, kvt_err *err)
{
    int64_t id, version, n_object;

    KVT_TRY(kvt__query_int(db, "PRAGMA application_id", 0, &id, shown, err));
    KVT_TRY(kvt__query_int(db, "PRAGMA user_version", 0, &version, shown, err));
    KVT_TRY(kvt__query_int(db, "SELECT count(*) FROM sqlite_master", 0, &n_object, shown, err));
    *empty = id == 0 && version == 0 && n_object == 0;
    if (*empty) return KVT_OK;
    if (id != KVT__APPLICATION_ID)
        return kvt_fail(err, KVT_EFORMAT, "%s: an SQLite database of another program (application id %" PRId64
                        ", expected %d); it is left as it is: use a new file", shown, id, KVT__APPLICATION_ID);
    if (version > KVT__SCHEMA_VERSION)
        return kvt_fail(err, KVT_EVERSION, "%s: results schema %" PRId64 ", this program knows up to %d: use the "
                        "newer program, or a new file", shown, version, KVT__SCHEMA_VERSION);
    if (version < 1)
        return kvt_fail(err, KVT_EFORMAT, "%s: results schema %" PRId64 " does not exist; the file is damaged: "
                        "use a new one", shown, version);
    return same_schema(db, version, shown, err);
}

kvt_status kvt_store_open_read(sqlite3 **out, const char *path, kvt_err *err)
{
    char shown[256], *real;
    sqlite3 *db = NULL;
    kvt_status rc;
    struct stat st;
    int empty;

    kvt_printable_str(shown, sizeof shown, path);
    if (sqlite3_libversion_number() < 3038000)
        return kvt_fail(err, KVT_ENOTSUP, "SQLite %s is too old: 3.38 or newer is needed", sqlite3_libversion());
    if (stat(path, &st) != 0)
        return kvt_fail(err, KVT_EIO, "%s: %s; expected a results database made by kvtrace replay", shown,
                        strerror(errno));
    if (!S_ISREG(st.st_mode))
        return kvt_fail(err, KVT_EIO, "%s: %s, expected a results database", shown,
                        S_ISDIR(st.st_mode) ? "is a folder" : "is not a regular file");
    real = kvt__db_path(path);
    if (!real) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", shown);
    /* Read-write, because the log of a run that is going on or was killed has to be read
     * too; SQLite falls back to read-only where it must. query_only forbids changes. */
    if (sqlite3_open_v2(real, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        rc = kvt__db_fail(db, shown, "opening", err);
        goto done;
    }
    sqlite3_extended_result_codes(db, 1);
    sqlite3_busy_timeout(db, KVT__BUSY_MS);
    KVT_TRY_GOTO(rc, kvt__exec(db, "PRAGMA query_only=ON; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-65536",
                               shown, "opening", err));
    KVT_TRY_GOTO(rc, kvt__identify(db, shown, &empty, err));
    if (empty)
        rc = kvt_fail(err, KVT_EFORMAT, "%s: an empty file, expected a results database made by kvtrace replay", shown);
done:
    free(real);
    if (rc == KVT_OK) *out = db;
    else sqlite3_close(db);
    return rc;
}

/* ---------------------------------------------------------------- content hash */

/* The child tables in the order of schema.sql, rows by natural key, surrogate ids left
 * out: the tau value stands for tau_id, and a row of a violation names its violation by
 * layer, head, tau and first step. The run that wrote a check is not content. */
static const char *const hash_query[] = {
    "SELECT 'result_cell', n_head, held_share, held_mean, held_min, held_max, bytes_logical, bytes_physical,"
    " tie_share, row_defect_max, lost_mean, lost_worst, worst_layer, worst_head, worst_step, cvar95_mean,"
    " cvar95_worst_head, lost_ns_worst, ns_cvar95_worst, out_err_basis, out_err_worst, oracle_worst,"
    " regret_mean, n_violation, flags FROM result_cell WHERE cell_id = ?1",

    "SELECT 'result_head', layer, head, n_step, n_trivial, n_held, lost_mean, lost_max, max_step, lost_q50,"
    " lost_q90, lost_q95, lost_q99, lost_cvar95, lost_cvar99, ns_n, lost_ns_mean, lost_ns_max, ns_max_step,"
    " lost_ns_q95, lost_ns_cvar95, lost_prompt_mean, lost_prompt_max, err_n, out_err_mean, out_err_max,"
    " err_max_step, out_err_q95, out_err_cvar95, value_sep_mean, oracle_mean, oracle_max, fixed_mean,"
    " fixed_max, regret_mean, regret_max FROM result_head WHERE cell_id = ?1 ORDER BY layer, head",

    "SELECT 'result_kvhead', layer, kv_head, agg, n_held, lost_mean, lost_max, max_step, lost_q95, lost_cvar95,"
    " lost_ns_mean, lost_ns_max, lost_ns_cvar95, out_err_cvar95 FROM result_kvhead WHERE cell_id = ?1"
    " ORDER BY layer, kv_head, agg",

    "SELECT 'result_layer', layer, held_mean, lost_mean, lost_worst, worst_head, cvar95_worst_head"
    " FROM result_layer WHERE cell_id = ?1 ORDER BY layer",

    "SELECT 'result_head_tau', layer, head, tau, n_exceed, n_infeasible, n_run, longest_run, longest_start,"
    " first_step, excess_area FROM result_head_tau JOIN tau USING(tau_id) WHERE cell_id = ?1"
    " ORDER BY layer, head, tau",

    "SELECT 'result_series', layer, head, metric, step0, n, codec, data FROM result_series WHERE cell_id = ?1"
    " ORDER BY layer, head, metric",

    "SELECT 'violation', layer, head, tau, start_step, n_step, peak_step, peak_lost, peak_oracle_lost,"
    " excess_area, cause, foreseeable, recurrent, share_top1, share_top5, share_top20"
    " FROM violation JOIN tau USING(tau_id) WHERE cell_id = ?1 ORDER BY layer, head, tau, start_step",

    "SELECT 'violation_token', layer, head, tau, start_step, ord, pos, mass_share, evicted_step, window_rank,"
    " window_score, score_margin, last_important, idle_steps FROM violation_token JOIN violation"
    " USING(violation_id) JOIN tau USING(tau_id) WHERE cell_id = ?1 ORDER BY layer, head, tau, start_step, ord",

    "SELECT 'ladder_head', layer, head, n_keep, n_step, n_trivial, oracle_mean, oracle_max, oracle_max_step,"
    " fixed_mean, fixed_max, random_mean, minimax_bound, minimax_found, minimax_iters, minimax_stop, stability_gap"
    " FROM ladder_head WHERE cell_id = ?1 ORDER BY layer, head",

    "SELECT 'minimax_cert', layer, head, bound_q31, n_lambda, lambda, best_set FROM minimax_cert WHERE cell_id = ?1"
    " ORDER BY layer, head",

    "SELECT 'validity', check_name, status, value, lim, message FROM validity WHERE cell_id = ?1"
    " ORDER BY check_name, message, status, value",
};

/* One value and a '|': INTEGER decimal, REAL %a, TEXT and BLOB "length:bytes", NULL '-'. */
static void hash_value(kvt_sha256 *h, sqlite3_stmt *st, int col)
{
    char text[48] = "-";
    const void *bytes = NULL;
    size_t n = 0;

    switch (sqlite3_column_type(st, col)) {
    case SQLITE_INTEGER:
        snprintf(text, sizeof text, "%lld", sqlite3_column_int64(st, col));
        break;
    case SQLITE_FLOAT:
        snprintf(text, sizeof text, "%a", sqlite3_column_double(st, col));
        break;
    case SQLITE_TEXT: case SQLITE_BLOB:
        bytes = sqlite3_column_blob(st, col);
        n = (size_t)sqlite3_column_bytes(st, col);
        snprintf(text, sizeof text, "%zu:", n);
        break;
    default:
        break;
    }
    kvt_sha256_update(h, text, strlen(text));
    if (n) kvt_sha256_update(h, bytes, n);
    kvt_sha256_update(h, "|", 1);
}

kvt_status kvt__result_sha256(sqlite3 *db, int64_t cell_id, char out[65], const char *shown, kvt_err *err)
{
    kvt_sha256 h;
    uint8_t digest[32];

    kvt_sha256_init(&h);
    for (size_t i = 0; i < sizeof hash_query / sizeof hash_query[0]; i++) {
        sqlite3_stmt *st = NULL;
        int step = sqlite3_prepare_v2(db, hash_query[i], -1, &st, NULL);
        if (step == SQLITE_OK) {
            sqlite3_bind_int64(st, 1, cell_id);
            while ((step = sqlite3_step(st)) == SQLITE_ROW) {
                for (int col = 0; col < sqlite3_column_count(st); col++) hash_value(&h, st, col);
                kvt_sha256_update(&h, "\n", 1);
            }
        }
        if (step != SQLITE_DONE) {
            const kvt_status rc = kvt__db_fail(db, shown, "hashing a cell", err);
            sqlite3_finalize(st);
            return rc;
        }
        sqlite3_finalize(st);
    }
    kvt_sha256_final(&h, digest);
    kvt_sha256_hex(digest, out);
    return KVT_OK;
}
