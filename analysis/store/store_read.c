/* store_read.c - recognising a results database, and opening it for reading.
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
