/* Databases of older schema versions: tests/golden/results_v<version>.sql. */
#include "store_fixture.h"

TestSuite(store_migrate, .init = make_dir, .fini = remove_dir, .timeout = 120);

/* What version 1, 2 had: configurations at one budget, and rows of ladder_head (-1: no such table). */
static const struct { int n_config, n_ladder; const char *mine, *later; } old[] = {
    {2, -1, "ladder_head", "minimax_cert"}, {3, 2, "result_curve", "curve_grid"}};
enum { OLDER = sizeof old / sizeof old[0] };

static void make_old(int version, const char *extra)
{
    static char text[1 << 18];
    char name[256], want[16];
    sqlite3 *db = NULL;
    FILE *f;
    size_t n;

    snprintf(name, sizeof name, KVT_SOURCE_DIR "/tests/golden/results_v%d.sql", version);
    f = fopen(name, "rb");
    cr_assert(f && sqlite3_open(db_path, &db) == SQLITE_OK);
    n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    cr_assert(feof(f) && n > 50000);
    fclose(f);
    cr_assert(sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    cr_assert(sqlite3_exec(db, extra, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    snprintf(want, sizeof want, "%d\n", version);
    expect_rows(db, "PRAGMA user_version", want);
    sqlite3_close(db);
}

Test(store_migrate, an_older_database_is_brought_up_to_date_and_continued)
{
    for (int version = 1; version <= OLDER; version++) {
        char *before, *after, want[64];
        kvt_store *s;
        sqlite3 *db;

        unlink(db_path);
        make_old(version, "CREATE TABLE note(x); CREATE VIEW my_view AS SELECT * FROM v_check");
        db = open_plain(db_path);
        before = dump_results(db);
        cr_assert(strlen(before) > 1000);
        sqlite3_close(db);
        finish_store(open_store(db_path));
        db = open_plain(db_path);
        expect_sound(db);
        expect_rows(db, "PRAGMA user_version", "3\n");
        snprintf(want, sizeof want, "%d\n3\n", version);
        expect_rows(db, "SELECT version FROM schema_migration ORDER BY 1", want);
        snprintf(want, sizeof want, "%d|0|0|0\n", old[version - 1].n_ladder < 0 ? 0 : old[version - 1].n_ladder);
        expect_rows(db, "SELECT (SELECT count(*) FROM v_ladder), (SELECT count(*) FROM result_curve), (SELECT count(*) FROM note),"
                        " (SELECT count(*) FROM my_view)", want);
        expect_rows(db, "SELECT count(*) FROM column_doc WHERE table_name IN ('ladder_head', 'result_curve', 'curve_grid')", "34\n");
        after = dump_results(db);
        cr_assert(strcmp(before, after) == 0);
        sqlite3_free(before), sqlite3_free(after);
        sqlite3_close(db);
        s = open_store(db_path);                  /* it is one like any other now */
        cr_assert(do_sweep(s, 2, 0) == 2 * CELLS_PER_TRACE);
        finish_store(s);
        db = open_plain(db_path);
        expect_sound(db);
        sqlite3_close(db);
    }
}

/* Whatever its age, a migrated database has the tables and views of a new one, word for word. */
Test(store_migrate, a_migrated_schema_is_that_of_a_new_database)
{
    static const char list[] = "SELECT type, name, sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_*' ORDER BY type, name";
    static const char docs[] = "SELECT * FROM column_doc ORDER BY 1, 2";
    char path[128], *want, *want_docs;
    sqlite3 *db;

    snprintf(path, sizeof path, "%s/new.db", dir);
    finish_store(open_store(path));
    db = open_plain(path);
    want = dump(db, list), want_docs = dump(db, docs);
    sqlite3_close(db);
    for (int version = 1; version <= OLDER; version++) {
        unlink(db_path);
        make_old(version, "");
        finish_store(open_store(db_path));
        db = open_plain(db_path);
        expect_rows(db, list, want);
        expect_rows(db, docs, want_docs);
        sqlite3_close(db);
    }
    sqlite3_free(want), sqlite3_free(want_docs);
}

Test(store_migrate, an_older_database_is_read_as_it_is)
{
    for (int version = 1; version <= OLDER; version++) {
        struct stat before, after;
        sqlite3 *db = NULL;
        kvt_err err = {0};
        char want[8];

        unlink(db_path);
        make_old(version, "");
        cr_assert(stat(db_path, &before) == 0);
        cr_assert(kvt_store_open_read(&db, db_path, &err) == KVT_OK, "%s", err.text);
        snprintf(want, sizeof want, "%d\n", old[version - 1].n_config);
        expect_rows(db, "SELECT count(*) FROM v_policy_summary", want);
        sqlite3_close(db);
        cr_assert(stat(db_path, &after) == 0 && before.st_size == after.st_size && before.st_mtime == after.st_mtime);
        db = open_plain(db_path);
        snprintf(want, sizeof want, "%d\n", version);
        expect_rows(db, "PRAGMA user_version", want);
        sqlite3_close(db);
    }
}

Test(store_migrate, an_older_database_that_was_altered_is_refused)
{
    for (int version = 1; version <= OLDER; version++) {
        unlink(db_path);
        make_old(version, "ALTER TABLE result_head ADD COLUMN mood REAL");
        expect_refusal(db_path, KVT_EFORMAT, "result_head");
    }
}

Test(store_migrate, tables_of_the_user_are_not_overwritten)
{
    for (int version = 1; version <= OLDER; version++) {
        char sql[160], want[8];
        sqlite3 *db;

        unlink(db_path);
        snprintf(sql, sizeof sql, "CREATE TABLE %s(mine); INSERT INTO %s VALUES('precious')", old[version - 1].mine, old[version - 1].mine);
        make_old(version, sql);
        expect_refusal(db_path, KVT_EDB, "already exists");
        db = open_plain(db_path);                 /* and nothing half done remains */
        snprintf(sql, sizeof sql, "SELECT mine FROM %s", old[version - 1].mine);
        expect_rows(db, sql, "precious\n");
        snprintf(want, sizeof want, "%d\n", version);
        expect_rows(db, "PRAGMA user_version", want);
        snprintf(sql, sizeof sql, "SELECT count(*) FROM sqlite_master WHERE name = '%s'", old[version - 1].later);
        expect_rows(db, sql, "0\n");
        sqlite3_close(db);
    }
}
