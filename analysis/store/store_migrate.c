/* store_migrate.c - an older results database becomes one of this version, forward only.
 *
 *   1 -> 2   tables ladder_head and minimax_cert, view v_ladder; v_check knows them
 *   2 -> 3   tables curve_grid and result_curve; v_check knows them
 *
 * Tables are only added and views replaced, so the texts come from schema.sql, and rows
 * that are there keep their content and their content hash. */
#include "store_impl.h"

#include <stdio.h>
#include <string.h>

int kvt__is_newer(const char *name, int64_t version)
{
    static const struct { const char *name; int since; } later[] = {
        {"ladder_head", 2}, {"minimax_cert", 2}, {"v_ladder", 2}, {"curve_grid", 3}, {"result_curve", 3}};

    if (version < KVT__SCHEMA_VERSION && strcmp(name, "v_check") == 0) return 2;
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++)
        if (version < later[i].since && strcmp(name, later[i].name) == 0) return 1;
    return 0;
}

kvt_status kvt__model_open(sqlite3 **out, kvt_err *err)
{
    sqlite3 *model = NULL;
    kvt_status rc;

    if (sqlite3_open_v2(":memory:", &model, SQLITE_OPEN_READWRITE | SQLITE_OPEN_MEMORY, NULL) == SQLITE_OK
        && sqlite3_exec(model, kvt__schema_sql, NULL, NULL, NULL) == SQLITE_OK) {
        *out = model;
        return KVT_OK;
    }
    rc = kvt__db_fail(model, "schema.sql", "loading", err);
    sqlite3_close(model);
    return rc;
}

/* What version `version` lacks or has with another text. */
static kvt_status migrate_objects(sqlite3 *db, sqlite3 *model, int64_t version, const char *shown, kvt_err *err)
{
    static const char list[] = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid";
    sqlite3_stmt *want = NULL;
    kvt_status rc = KVT_OK;
    int step = sqlite3_prepare_v2(model, list, -1, &want, NULL);

    if (step == SQLITE_OK) step = sqlite3_step(want);
    for (; rc == KVT_OK && step == SQLITE_ROW; step = sqlite3_step(want)) {
        const char *name = (const char *)sqlite3_column_text(want, 0);
        const int newer = kvt__is_newer(name, version);
        char drop[96];
        if (!newer) continue;
        snprintf(drop, sizeof drop, "DROP VIEW %s", name);
        if (newer == 2) rc = kvt__exec(db, drop, shown, "bringing its schema up to date", err);
        if (rc == KVT_OK)
            rc = kvt__exec(db, (const char *)sqlite3_column_text(want, 1), shown, "bringing its schema up to date", err);
    }
    if (rc == KVT_OK && step != SQLITE_DONE) rc = kvt__db_fail(model, "schema.sql", "reading", err);
    sqlite3_finalize(want);
    return rc;
}

static kvt_status migrate_docs(sqlite3 *db, sqlite3 *model, const char *shown, kvt_err *err)
{
    sqlite3_stmt *from = NULL, *to = NULL;
    kvt_status rc = KVT_OK;
    int step;

    if (sqlite3_prepare_v2(model, "SELECT * FROM column_doc", -1, &from, NULL) != SQLITE_OK
        || sqlite3_prepare_v2(db, "INSERT OR IGNORE INTO column_doc VALUES(?, ?, ?, ?, ?, ?)", -1, &to, NULL) != SQLITE_OK) {
        rc = kvt__db_fail(from ? db : model, shown, "bringing its schema up to date", err);
        goto done;
    }
    while ((step = sqlite3_step(from)) == SQLITE_ROW) {
        for (int i = 0; i < 6; i++) sqlite3_bind_value(to, i + 1, sqlite3_column_value(from, i));
        if (sqlite3_step(to) != SQLITE_DONE) {
            rc = kvt__db_fail(db, shown, "bringing its schema up to date", err);
            goto done;
        }
        sqlite3_reset(to);
    }
    if (step != SQLITE_DONE) rc = kvt__db_fail(model, "schema.sql", "reading", err);
done:
    sqlite3_finalize(from);
    sqlite3_finalize(to);
    return rc;
}

static kvt_status migrate_inside(sqlite3 *db, sqlite3 *model, const char *shown, kvt_err *err)
{
    char pragma[48];
    int64_t version;

    KVT_TRY(kvt__query_int(db, "PRAGMA user_version", 0, &version, shown, err));   /* now that nobody else can write */
    if (version >= KVT__SCHEMA_VERSION) return KVT_OK;
    KVT_TRY(migrate_objects(db, model, version, shown, err));
    KVT_TRY(migrate_docs(db, model, shown, err));
    snprintf(pragma, sizeof pragma, "PRAGMA user_version = %d", KVT__SCHEMA_VERSION);
    return kvt__exec(db, pragma, shown, "bringing its schema up to date", err);
}

kvt_status kvt__migrate(sqlite3 *db, const char *shown, kvt_err *err)
{
    sqlite3 *model = NULL;
    int64_t version;
    kvt_status rc;

    KVT_TRY(kvt__query_int(db, "PRAGMA user_version", 0, &version, shown, err));
    if (version >= KVT__SCHEMA_VERSION) return KVT_OK;
    KVT_TRY(kvt__model_open(&model, err));
    rc = kvt__exec(db, "BEGIN IMMEDIATE", shown, "bringing its schema up to date", err);
    if (rc == KVT_OK) {
        rc = migrate_inside(db, model, shown, err);
        if (rc == KVT_OK) rc = kvt__exec(db, "COMMIT", shown, "bringing its schema up to date", err);
        else if (!sqlite3_get_autocommit(db)) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    sqlite3_close(model);
    return rc;
}
