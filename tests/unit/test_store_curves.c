/* Curves in the results database: what comes back, resuming, replacement, contradictions, faults. */
#include "fake_curves.h"
#include "store_fixture.h"

TestSuite(store_curves, .init = make_dir, .fini = remove_dir, .timeout = 120);

static int claim_curve(kvt_store *s, const fake_curve *f)
{
    const kvt_sink sink = kvt_store_sink(s);
    kvt_err err = {0};
    int todo = -1;

    must(sink.ops->curve_claim(sink.self, &f->id, &todo, &err) == KVT_OK, "%s", err.text);
    return todo;
}

static kvt_status keep_curve(kvt_store *s, const fake_curve *f, kvt_err *err)
{
    const kvt_sink sink = kvt_store_sink(s);

    return sink.ops->curve_store(sink.self, &f->id, f->row, FAKE_CURVE_ROWS, err);
}

static int do_curve(kvt_store *s, const fake_curve *f)
{
    kvt_err err = {0};

    if (!claim_curve(s, f)) return 0;
    must(keep_curve(s, f, &err) == KVT_OK, "%s", err.text);
    return 1;
}

/* Two traces, two configurations, two seeds of each, and a cell beside each. */
enum { SWEEP_CURVES = 2 * 2 * 2 };

static int do_curve_sweep(kvt_store *s, int grid)
{
    static fake_trace t[2];
    static fake_curve f;
    int done = 0;

    for (int i = 0; i < 2; i++) {
        fake_trace_init(&t[i], i);
        for (int config = 1; config <= 2; config++)
            for (uint64_t seed = 0; seed < 2; seed++) {
                const kvt_cell c = fake_cell(&t[i], config, 1, seed);
                fake_curve_fill(&f, &t[i], config, seed, grid);
                done += do_curve(s, &f);
                do_cell(s, &c);
            }
    }
    return done;
}

/* Every curve by natural keys. */
static char *dump_curves(sqlite3 *db)
{
    return dump(db, "SELECT t.content_id, p.sha256, c.seed, c.engine_version, c.metric_version, level, layer, head, metrics, g.sha256, hex(kept),"
                    " hex(data), n_not_nested FROM result_curve c JOIN curve_grid g USING(grid_id) JOIN trace t USING(trace_id)"
                    " JOIN policy_config p USING(config_id) ORDER BY 1, 2, 3, 4, 5, 6, 7, 8");
}

static void expect_blob(sqlite3 *db, const char *sql, const uint32_t *want, size_t n)
{
    sqlite3_stmt *st = NULL;

    cr_assert(sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW, "%s: %s", sql, sqlite3_errmsg(db));
    const uint8_t *have = sqlite3_column_blob(st, 0);
    cr_assert(sqlite3_column_bytes(st, 0) == (int)(4 * n), "%s: %d bytes", sql, sqlite3_column_bytes(st, 0));
    for (size_t i = 0; i < n; i++) {
        const uint32_t x = have[4 * i] | (uint32_t)have[4 * i + 1] << 8 | (uint32_t)have[4 * i + 2] << 16 | (uint32_t)have[4 * i + 3] << 24;
        cr_assert(x == want[i], "%s: word %zu is %u, expected %u", sql, i, x, want[i]);
    }
    sqlite3_finalize(st);
}

Test(store_curves, a_curve_comes_back_bit_for_bit)
{
    static fake_trace t;
    static fake_curve f;
    char sql[128], want[128], grid[65];
    uint8_t digest[32], kept[16] = {1, 0, 0, 0, 0x2c, 1, 0, 0, 0x70, 0x11, 1, 0, 0, 0, 0, 1};
    kvt_store *s = open_store(db_path);

    fake_trace_init(&t, 0);
    fake_curve_fill(&f, &t, 1, 3, 1);
    cr_assert(do_curve(s, &f) == 1);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    expect_sound(db);
    expect_rows(db, "SELECT level, layer, head, n_not_nested, metrics, seed FROM result_curve ORDER BY curve_id",
                "head|0|0|0|lost_mean,lost_q95,lost_cvar95,lost_max|3\nhead|0|1|1|lost_mean,lost_q95,lost_cvar95,lost_max|3\n"
                "head|0|2|2|lost_mean,lost_q95,lost_cvar95,lost_max|3\nhead|0|3|3|lost_mean,lost_q95,lost_cvar95,lost_max|3\n"
                "layer|0|-1|6|lost_mean,lost_q95,lost_cvar95,lost_max|3\nmodel|-1|-1|6|lost_mean,lost_q95,lost_cvar95,lost_max|3\n");
    for (size_t i = 0; i < FAKE_CURVE_ROWS; i++) {
        snprintf(sql, sizeof sql, "SELECT data FROM result_curve ORDER BY curve_id LIMIT 1 OFFSET %zu", i);
        expect_blob(db, sql, f.row[i].q31, KVT_CURVE_METRICS * f.id.n_point);
    }
    expect_blob(db, "SELECT kept FROM curve_grid", f.id.kept, f.id.n_point);
    kvt_sha256_of(kept, sizeof kept, digest);
    kvt_sha256_hex(digest, grid);
    snprintf(want, sizeof want, "%s|4\n", grid);
    expect_rows(db, "SELECT sha256, n_point FROM curve_grid", want);
    expect_rows(db, "SELECT name, n_prompt, path FROM trace", "t0|40|some/folder/t0.h5\n");
    expect_rows(db, "SELECT label, key, value_num FROM policy_config JOIN policy_param USING(config_id) WHERE value_num", "snapkv|kernel|7.0\n");
    sqlite3_close(db);
}

/* More rows than fit two statements for many, and every number beside that. */
Test(store_curves, curves_of_many_rows)
{
    enum { ROWS = 97 };
    static const uint32_t kept[2] = {3, 9};
    static uint32_t q31[ROWS][KVT_CURVE_METRICS * 2];
    static kvt_curve_row row[ROWS];
    static fake_trace t;
    kvt_err err = {0};
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);
    sqlite3 *db = open_plain(db_path);

    fake_trace_init(&t, 0);
    for (uint32_t i = 0; i < ROWS; i++) {
        row[i] = (kvt_curve_row){.layer = (int32_t)(i / 10), .head = (int32_t)(i % 10) - 1, .q31 = q31[i], .n_not_nested = i};
        for (uint32_t k = 0; k < KVT_CURVE_METRICS * 2; k++) q31[i][k] = 1000003 * i + k;
    }
    for (uint64_t n = 1; n <= ROWS; n++) {
        const kvt_curve_id id = {.trace = &t.info, .trace_path = t.path, .config = fake_config(1), .seed = n, .kept = kept, .n_point = 2};
        char sql[160], want[96];
        cr_assert(sink.ops->curve_store(sink.self, &id, row, n, &err) == KVT_OK, "%s", err.text);
        snprintf(sql, sizeof sql, "SELECT count(*), sum(n_not_nested), sum(layer), sum(head) FROM result_curve WHERE seed = %d", (int)n);
        int64_t sum[3] = {0};
        for (uint64_t i = 0; i < n; i++) sum[0] += (int64_t)i, sum[1] += row[i].layer, sum[2] += row[i].head;
        snprintf(want, sizeof want, "%d|%lld|%lld|%lld\n", (int)n, (long long)sum[0], (long long)sum[1], (long long)sum[2]);
        expect_rows(db, sql, want);
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        char sql[160];
        snprintf(sql, sizeof sql, "SELECT data FROM result_curve WHERE seed = %d AND layer = %d AND head = %d", ROWS, row[i].layer, row[i].head);
        expect_blob(db, sql, q31[i], KVT_CURVE_METRICS * 2);
    }
    sqlite3_close(db);
    finish_store(s);
}

Test(store_curves, a_curve_that_is_there_is_not_done_again)
{
    char *first, *second;
    kvt_store *s = open_store(db_path);
    sqlite3 *db = open_plain(db_path);

    cr_assert(do_curve_sweep(s, 0) == SWEEP_CURVES);
    first = dump_curves(db);
    cr_assert(do_curve_sweep(s, 0) == 0);
    finish_store(s);
    s = open_store(db_path);                      /* another run */
    cr_assert(do_curve_sweep(s, 0) == 0);
    finish_store(s);
    second = dump_curves(db);
    cr_assert(strcmp(first, second) == 0);
    expect_sound(db);
    /* Curves and cells share traces and configurations; one grid serves all. */
    expect_rows(db, "SELECT (SELECT count(*) FROM trace), (SELECT count(*) FROM policy_config), (SELECT count(*) FROM curve_grid),"
                    " (SELECT count(*) FROM result_curve), (SELECT count(*) FROM cell)", "2|2|1|48|8\n");
    sqlite3_free(first), sqlite3_free(second);
    sqlite3_close(db);
}

Test(store_curves, another_grid_replaces_the_curve)
{
    char other[128], *want, *have;
    kvt_store *s = open_store(db_path);

    cr_assert(do_curve_sweep(s, 0) == SWEEP_CURVES);
    cr_assert(do_curve_sweep(s, 1) == SWEEP_CURVES);
    cr_assert(do_curve_sweep(s, 1) == 0);
    finish_store(s);
    snprintf(other, sizeof other, "%s/other.db", dir);
    s = open_store(other);
    do_curve_sweep(s, 1);
    finish_store(s);
    sqlite3 *x = open_plain(db_path), *y = open_plain(other);
    expect_sound(x);
    have = dump_curves(x), want = dump_curves(y);
    cr_assert(strcmp(want, have) == 0);
    sqlite3_free(want), sqlite3_free(have);
    sqlite3_close(x), sqlite3_close(y);
}

Test(store_curves, what_makes_a_curve_another_one)
{
    static const char *const age[] = {"UPDATE result_curve SET engine_version = engine_version - 1", "UPDATE result_curve SET metric_version = 99",
        "UPDATE result_curve SET metrics = 'lost_mean,lost_q95,lost_cvar95,lost_most'", "DELETE FROM result_curve WHERE level = 'model'"};
    static fake_trace t[3];
    static fake_curve f, g;
    kvt_err err = {0};
    kvt_store *s = open_store(db_path);
    sqlite3 *db = open_plain(db_path);

    for (int i = 0; i < 3; i++) fake_trace_init(&t[i], i);
    fake_curve_fill(&f, &t[0], 1, 0, 0);
    cr_assert(claim_curve(s, &f) == 1 && claim_curve(s, &f) == 1);     /* claiming alone does not make it done */
    cr_assert(do_curve(s, &f) == 1 && claim_curve(s, &f) == 0);
    fake_curve_fill(&g, &t[1], 1, 0, 0);
    cr_assert(claim_curve(s, &g) == 1);           /* trace */
    fake_curve_fill(&g, &t[0], 2, 0, 0);
    cr_assert(claim_curve(s, &g) == 1);           /* configuration */
    fake_curve_fill(&g, &t[0], 1, UINT64_MAX, 0);
    cr_assert(claim_curve(s, &g) == 1);           /* seed */
    t[2] = t[0];
    snprintf(t[2].cluster, sizeof t[2].cluster, "another document");
    t[2].info.cluster_id = t[2].cluster;
    fake_curve_fill(&g, &t[2], 1, 0, 0);
    cr_assert(claim_curve(s, &g) == 1);           /* the same content as another document */
    for (size_t i = 0; i < sizeof age / sizeof age[0]; i++) {
        cr_assert(keep_curve(s, &f, &err) == KVT_OK, "%s", err.text);
        cr_assert(claim_curve(s, &f) == 0);
        cr_assert(sqlite3_exec(db, age[i], NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
        cr_assert(claim_curve(s, &f) == 1, "%s", age[i]);
    }
    sqlite3_close(db);
    finish_store(s);
}

static void break_twice(fake_curve *f) { f->row[2].head = 1; }
static void break_layer(fake_curve *f) { f->row[FAKE_CURVE_ROWS - 1].layer = -2; }
static void break_level(fake_curve *f) { f->row[0].layer = -1; }

Test(store_curves, a_curve_that_cannot_be_is_refused_whole)
{
    static void (*const breaker[])(fake_curve *) = {break_twice, break_layer, break_level};
    static fake_trace t;
    static fake_curve f;
    kvt_err err = {0};
    char *before, *after;
    kvt_store *s = open_store(db_path);
    sqlite3 *db = open_plain(db_path);

    fake_trace_init(&t, 0);
    for (int there = 0; there < 2; there++) {     /* in an empty file, then over a curve that is there */
        before = dump_curves(db);
        for (size_t i = 0; i < sizeof breaker / sizeof breaker[0]; i++) {
            fake_curve_fill(&f, &t, 1, 0, 1);
            breaker[i](&f);
            cr_assert(keep_curve(s, &f, &err) == KVT_EDB, "breaker %zu", i);
            cr_assert(strstr(err.text, db_path) && strstr(err.text, "result_curve of trace some/folder/t0.h5, policy snapkv, budget grid"),
                      "%s", err.text);
            after = dump_curves(db);
            cr_assert(strcmp(before, after) == 0);
            sqlite3_free(after);
        }
        sqlite3_free(before);
        if (!there) expect_rows(db, "SELECT (SELECT count(*) FROM trace), (SELECT count(*) FROM curve_grid)", "0|0\n");
        fake_curve_fill(&f, &t, 1, 0, 0);
        cr_assert(do_curve(s, &f) == !there);
    }
    expect_rows(db, "SELECT count(*), max(n_point) FROM curve_grid", "1|5\n");
    sqlite3_close(db);
    finish_store(s);
}

/* What one row shows is a CHECK. */
Test(store_curves, contradictions_in_a_row_are_refused)
{
    static const char *const sql[] = {
        "UPDATE result_curve SET layer = 3 WHERE level = 'model'", "UPDATE result_curve SET head = 3 WHERE level = 'layer'",
        "UPDATE result_curve SET head = -1 WHERE level = 'head'", "UPDATE result_curve SET head = -2 WHERE level = 'layer'",
        "UPDATE result_curve SET level = 'cache'", "UPDATE result_curve SET metrics = ''", "UPDATE result_curve SET metrics = 'lost mean'",
        "UPDATE result_curve SET data = substr(data, 2)", "UPDATE result_curve SET n_not_nested = -1", "UPDATE result_curve SET grid_id = 77",
        "UPDATE curve_grid SET kept = substr(kept, 5)", "UPDATE curve_grid SET n_point = 0, kept = x''"};
    kvt_store *s = open_store(db_path);

    do_curve_sweep(s, 0);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++)
        cr_assert((sqlite3_exec(db, sql[i], NULL, NULL, NULL) & 0xff) == SQLITE_CONSTRAINT, "%s", sql[i]);
    sqlite3_close(db);
}

/* What only several rows show is a line of v_check. */
Test(store_curves, v_check_reports_contradictions)
{
    static const struct { const char *sql, *defect; } plant[] = {
        {"UPDATE result_curve SET data = substr(data, 5) WHERE curve_id = 3", "curve length differs from its grid\n"},
        {"UPDATE result_curve SET data = CAST(data || x'00000000' AS BLOB) WHERE level = 'model'", "curve length differs from its grid\n"},
        {"UPDATE result_curve SET metrics = 'lost_mean' WHERE curve_id = 6", "curve length differs from its grid\n"},
        {"UPDATE curve_grid SET n_point = 4, kept = substr(kept, 5)", "curve length differs from its grid\n"},
        {"DELETE FROM result_curve WHERE curve_id = 2", "curve whose heads are not complete\n"}};
    kvt_store *s = open_store(db_path);

    do_curve_sweep(s, 0);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    for (size_t i = 0; i < sizeof plant / sizeof plant[0]; i++) {
        char *have;
        sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
        cr_assert(sqlite3_exec(db, plant[i].sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", plant[i].sql, sqlite3_errmsg(db));
        have = dump(db, "SELECT DISTINCT defect FROM v_check ORDER BY 1");
        cr_assert(strstr(have, plant[i].defect), "%s: v_check says %s", plant[i].sql, have);
        sqlite3_free(have);
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    expect_sound(db);
    cr_assert(sqlite3_exec(db, "DELETE FROM cell; DELETE FROM trace WHERE trace_id = 1", NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    expect_rows(db, "SELECT count(*) FROM result_curve", "24\n");      /* those of the other trace */
    sqlite3_close(db);
}

/* ---------------------------------------------------------------- faults */

/* Goal: after a kill at any moment a curve is there whole or not at all, and the same sweep
 * finishes. Every round begins with the curves of the other grid, so replacing is hit too. */
Test(store_curves, killed_runs_leave_whole_curves)
{
    static const char torn[] = "SELECT trace_id, config_id, seed, count(*), count(DISTINCT grid_id) FROM result_curve GROUP BY 1, 2, 3"
                               " HAVING count(*) <> 6 OR count(DISTINCT grid_id) <> 1";
    char other[128], *want, *have;
    int kills = 0, status = 1;

    snprintf(other, sizeof other, "%s/other.db", dir);
    for (unsigned i = 0; status != 0 && i < 400; i++) {
        const pid_t pid = fork_child();
        if (pid == 0) {
            kvt_store *s = open_store(db_path);
            for (int k = 0; k < 10; k++) do_curve_sweep(s, k & 1);
            finish_store(s);
            _exit(0);
        }
        const struct timespec delay = {0, (long)(2000000 + 1000000 * i + (i * 2654435761u) % 3000000)};
        nanosleep(&delay, NULL);
        kill(pid, SIGKILL);
        status = exit_status(pid);
        kills += status != 0;
        if (exists(db_path)) {
            sqlite3 *db = open_plain(db_path);
            expect_rows(db, "PRAGMA integrity_check", "ok\n");
            if (sqlite3_table_column_metadata(db, NULL, "result_curve", NULL, NULL, NULL, NULL, NULL, NULL) == SQLITE_OK)
                expect_rows(db, torn, "");
            sqlite3_close(db);
        }
    }
    cr_assert(status == 0 && kills >= 5, "%d kills", kills);
    kvt_store *s = open_store(other);
    do_curve_sweep(s, 1);
    finish_store(s);
    sqlite3 *x = open_plain(db_path), *y = open_plain(other);
    expect_sound(x);
    have = dump_curves(x), want = dump_curves(y);
    cr_assert(strcmp(want, have) == 0);
    sqlite3_free(want), sqlite3_free(have);
    sqlite3_close(x), sqlite3_close(y);
}

Test(store_curves, no_space_loses_only_the_curve_at_hand)
{
    static fake_trace t;
    static fake_curve f;
    char wal[128], want[32];
    kvt_err err = {0};
    kvt_status st = KVT_OK;
    struct stat size;
    int stored = 0;
    kvt_store *s = open_store(db_path);

    fake_trace_init(&t, 0);
    snprintf(wal, sizeof wal, "%s-wal", db_path);
    cr_assert(stat(wal, &size) == 0);             /* the log is the file that grows */
    limit_file_size((rlim_t)size.st_size + 1000000);
    for (uint64_t seed = 0; seed < 1000 && st == KVT_OK; seed++) {
        fake_curve_fill(&f, &t, 2, seed, 0);
        st = keep_curve(s, &f, &err);
        stored += st == KVT_OK;
    }
    cr_assert(st == KVT_EIO && stored > 5 && strstr(err.text, db_path), "%s %s after %d", kvt_status_name(st), err.text, stored);
    kvt_store_close(s);
    limit_file_size(RLIM_INFINITY);
    s = open_store(db_path);
    sqlite3 *db = open_plain(db_path);
    snprintf(want, sizeof want, "%d\n", FAKE_CURVE_ROWS * stored);
    expect_rows(db, "SELECT count(*) FROM result_curve", want);
    cr_assert(do_curve(s, &f) == 1);              /* the one that failed */
    finish_store(s);
    expect_sound(db);
    sqlite3_close(db);
}

Test(store_curves, two_processes_that_store_the_same_curves_agree)
{
    pid_t pid[2];
    char other[128], *want, *have;

    for (int i = 0; i < 2; i++) {
        pid[i] = fork_child();
        if (pid[i] == 0) {
            kvt_store *s = open_store(db_path);
            do_curve_sweep(s, 0);
            finish_store(s);
            _exit(0);
        }
    }
    for (int i = 0; i < 2; i++) cr_assert(exit_status(pid[i]) == 0);
    snprintf(other, sizeof other, "%s/other.db", dir);
    kvt_store *s = open_store(other);
    do_curve_sweep(s, 0);
    finish_store(s);
    sqlite3 *x = open_plain(db_path), *y = open_plain(other);
    expect_sound(x);
    have = dump_curves(x), want = dump_curves(y);
    cr_assert(strcmp(want, have) == 0);
    sqlite3_free(want), sqlite3_free(have);
    sqlite3_close(x), sqlite3_close(y);
}
