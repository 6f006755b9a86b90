/* The results database when the world is hostile: other files, no space, kills, several
 * processes. */
#include "store_fixture.h"

TestSuite(store_faults, .init = make_dir, .fini = remove_dir, .timeout = 120);

/* ---------------------------------------------------------------- other files */

static void make_plain(const char *sql)
{
    sqlite3 *db = open_plain(db_path);
    cr_assert(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

static void write_file(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(text, 1, n, f) == n && fclose(f) == 0);
}

/* Neither program call may change the file. */
static void expect_untouched_refusal(kvt_status want, const char *part)
{
    struct stat before, after;
    sqlite3 *db = NULL;
    kvt_err err = {0};
    char name[128];
    cr_assert(stat(db_path, &before) == 0);
    expect_refusal(db_path, want, part);
    cr_assert(kvt_store_open_read(&db, db_path, &err) == want && db == NULL);
    cr_assert(strstr(err.text, part) && strstr(err.text, db_path), "%s", err.text);
    cr_assert(stat(db_path, &after) == 0 && before.st_size == after.st_size && before.st_mtime == after.st_mtime);
    snprintf(name, sizeof name, "%s-wal", db_path);
    cr_assert(!exists(name));
}

Test(store_faults, a_database_of_another_program_is_left_alone)
{
    make_plain("PRAGMA application_id = 42; CREATE TABLE t(x)");
    expect_untouched_refusal(KVT_EFORMAT, "another program");
}
Test(store_faults, foreign_tables_without_an_application_id_are_left_alone)
{
    make_plain("CREATE TABLE cell(x)");
    expect_untouched_refusal(KVT_EFORMAT, "another program");
}
Test(store_faults, a_newer_schema_is_refused)
{
    finish_store(open_store(db_path));
    make_plain("PRAGMA user_version = 7");
    expect_untouched_refusal(KVT_EVERSION, "schema 7");
}
Test(store_faults, an_altered_table_is_refused)
{
    finish_store(open_store(db_path));
    make_plain("ALTER TABLE result_head ADD COLUMN mood REAL");
    expect_untouched_refusal(KVT_EFORMAT, "result_head");
}
Test(store_faults, a_missing_view_is_refused)
{
    finish_store(open_store(db_path));
    make_plain("DROP VIEW v_todo");
    expect_untouched_refusal(KVT_EFORMAT, "v_todo is missing");
}
Test(store_faults, more_tables_and_views_are_welcome)
{
    finish_store(open_store(db_path));
    make_plain("CREATE TABLE note(x); CREATE VIEW my_view AS SELECT * FROM v_todo");
    finish_store(open_store(db_path));
}
Test(store_faults, a_text_file_is_left_alone)
{
    write_file(db_path, "\x89HDF\r\n\x1a\n", 8);
    expect_untouched_refusal(KVT_EFORMAT, "not an SQLite database");
}
Test(store_faults, a_damaged_database_is_named)
{
    char zero[20000];
    kvt_store *s = open_store(db_path);
    do_sweep(s, 1, 0);
    finish_store(s);
    memset(zero, 0xa5, sizeof zero);
    const int fd = open(db_path, O_WRONLY);
    cr_assert(fd >= 0 && pwrite(fd, zero, sizeof zero, 100) == (ssize_t)sizeof zero && close(fd) == 0);
    expect_untouched_refusal(KVT_EFORMAT, "damaged");
}
Test(store_faults, an_empty_file_becomes_a_database)
{
    sqlite3 *db = NULL;
    kvt_err err = {0};
    write_file(db_path, "", 0);
    cr_assert(kvt_store_open_read(&db, db_path, &err) == KVT_EFORMAT && strstr(err.text, "empty"));
    finish_store(open_store(db_path));
    cr_assert(kvt_store_open_read(&db, db_path, &err) == KVT_OK);
    sqlite3_close(db);
}
Test(store_faults, a_folder_a_pipe_and_a_missing_folder_are_named)
{
    char name[160];
    sqlite3 *db = NULL;
    kvt_err err = {0};
    expect_refusal(dir, KVT_EIO, "is a folder");
    cr_assert(kvt_store_open_read(&db, dir, &err) == KVT_EIO && strstr(err.text, "is a folder"));
    cr_assert(mkfifo(db_path, 0600) == 0);
    expect_refusal(db_path, KVT_EIO, "not a regular file");
    cr_assert(kvt_store_open_read(&db, db_path, &err) == KVT_EIO && strstr(err.text, "not a regular file"));
    snprintf(name, sizeof name, "%s/none/r.db", dir);
    expect_refusal(name, KVT_EIO, "No such file");
    cr_assert(kvt_store_open_read(&db, name, &err) == KVT_EIO && strstr(err.text, name));
    snprintf(name, sizeof name, "%s/none.db", dir);
    cr_assert(kvt_store_open_read(&db, name, &err) == KVT_EIO && strstr(err.text, name));
    cr_assert(!exists(name));                     /* reading creates nothing */
    cr_assert(db == NULL);
}
Test(store_faults, names_that_sqlite_treats_specially_are_files)
{
    cr_assert(chdir(dir) == 0);
    finish_store(open_store(":memory:"));
    finish_store(open_store("file:x?mode=ro"));
    finish_store(open_store("-o.db"));
    cr_assert(exists(":memory:") && exists("file:x?mode=ro") && exists("-o.db"));
}

/* Goal: read-only places. Method: root may write anywhere, so a child becomes nobody. */
Test(store_faults, a_read_only_file_or_folder_is_named_and_readable)
{
    char name[128];
    kvt_store *w = open_store(db_path);
    do_sweep(w, 1, 0);
    finish_store(w);
    cr_assert(chmod(db_path, 0444) == 0 && chmod(dir, 0555) == 0);
    snprintf(name, sizeof name, "%s/fresh.db", dir);
    const pid_t pid = fork_child();
    if (pid == 0) {
        kvt_store *s = NULL;
        sqlite3 *db = NULL;
        kvt_err err = {0};
        if (getuid() == 0 && setuid(65534) != 0) _exit(1);
        if (kvt_store_open(&s, db_path, &run_info, &err) != KVT_EIO) _exit(2);
        if (!strstr(err.text, db_path) || !strstr(err.text, "read-only")) _exit(3);
        if (kvt_store_open(&s, name, &run_info, &err) != KVT_EIO) _exit(4);
        if (!strstr(err.text, name) || !strstr(err.text, "denied")) _exit(5);
        if (kvt_store_open_read(&db, db_path, &err) != KVT_OK) _exit(6);
        if (sqlite3_exec(db, "SELECT * FROM v_policy_rank; SELECT * FROM v_check", NULL, NULL, NULL) != SQLITE_OK) _exit(7);
        if (sqlite3_exec(db, "DELETE FROM cell", NULL, NULL, NULL) == SQLITE_OK) _exit(8);
        sqlite3_close(db);
        _exit(0);
    }
    cr_assert(exit_status(pid) == 0);
    cr_assert(chmod(dir, 0755) == 0);
    cr_assert(!exists(name));
}

Test(store_faults, a_writable_file_in_a_read_only_folder_is_named)
{
    finish_store(open_store(db_path));
    cr_assert(chmod(db_path, 0666) == 0 && chmod(dir, 0555) == 0);
    const pid_t pid = fork_child();
    if (pid == 0) {
        kvt_store *s = NULL;
        kvt_err err = {0};
        if (getuid() == 0 && setuid(65534) != 0) _exit(1);
        if (kvt_store_open(&s, db_path, &run_info, &err) != KVT_EIO) _exit(2);
        _exit(strstr(err.text, db_path) ? 0 : 3);
    }
    cr_assert(exit_status(pid) == 0);
    cr_assert(chmod(dir, 0755) == 0);
    cr_assert(exists(db_path));
}

/* ---------------------------------------------------------------- no space */

Test(store_faults, no_space_at_creation_leaves_no_file)
{
    char name[128];
    for (rlim_t bytes = 0; bytes <= 131072; bytes += 32768 - 16) {
        limit_file_size(bytes);
        expect_refusal(db_path, KVT_EIO, "");
        static const char *const suffix[] = {"", "-journal", "-wal", "-shm"};
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "%s%s", db_path, suffix[i]);
            cr_assert(!exists(name), "%s", name);
        }
    }
    limit_file_size(RLIM_INFINITY);
    finish_store(open_store(db_path));
}

/* The same on a file system that is really full, where one can be mounted. */
Test(store_faults, a_full_disk_is_named_and_nothing_is_lost)
{
    char command[256], path[128];
    kvt_err err = {0};
    kvt_store *s = NULL;
    static fake_result f;
    fake_trace t;
    kvt_status st = KVT_OK;
    int todo, stored = 0;
    snprintf(command, sizeof command, "mkdir %s/small && mount -t tmpfs -o size=200k none %s/small 2>/dev/null", dir, dir);
    if (getuid() != 0 || system(command) != 0) cr_skip_test("cannot mount a small file system");
    snprintf(path, sizeof path, "%s/small/r.db", dir);
    st = kvt_store_open(&s, path, &run_info, &err);      /* too small for the schema and its log */
    const int left = exists(path);
    snprintf(command, sizeof command, "mount -o remount,size=4m %s/small", dir);
    cr_expect(system(command) == 0);
    cr_expect(st == KVT_EIO && !left && strstr(err.text, path), "%s %s", kvt_status_name(st), err.text);
    st = kvt_store_open(&s, path, &run_info, &err);
    if (st == KVT_OK) {
        const kvt_sink sink = kvt_store_sink(s);
        fake_trace_init(&t, 0);
        for (uint64_t seed = 0; seed < 100 && st == KVT_OK; seed++) {
            const kvt_cell c = fake_cell(&t, 2, 0, seed);
            fake_fill(&f, &c);
            st = sink.ops->claim(sink.self, &c, &todo, &err);
            if (st == KVT_OK) st = sink.ops->store(sink.self, &c, &f.r, &err);
            stored += st == KVT_OK;
        }
        kvt_store_close(s);
    }
    cr_expect(st == KVT_EIO && strstr(err.text, path) && stored > 3, "%s %s after %d", kvt_status_name(st), err.text, stored);
    snprintf(command, sizeof command, "mount -o remount,size=40m %s/small", dir);
    cr_expect(system(command) == 0);
    st = kvt_store_open(&s, path, &run_info, &err);
    cr_expect(st == KVT_OK, "%s", err.text);
    if (st == KVT_OK) {
        finish_store(s);
        sqlite3 *db = open_plain(path);
        char *have = dump(db, "SELECT count(*) FROM cell WHERE status = 'done'"), *check = dump(db, "PRAGMA integrity_check");
        cr_expect(atoi(have) == stored && strcmp(check, "ok\n") == 0, "%s done, %d stored, %s", have, stored, check);
        sqlite3_free(have), sqlite3_free(check);
        sqlite3_close(db);
    }
    snprintf(command, sizeof command, "umount %s/small", dir);
    cr_expect(system(command) == 0);
}

Test(store_faults, no_space_in_the_middle_loses_only_the_cell_at_hand)
{
    static fake_result f;
    static fake_trace t[8];
    kvt_err err = {0};
    int stored = 0, todo = 0, n;
    char *want, *have, other[128];
    kvt_status st = KVT_OK;
    struct stat size;
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);
    do_sweep(s, 1, 0);
    snprintf(other, sizeof other, "%s-wal", db_path);
    cr_assert(stat(other, &size) == 0);           /* the log is the file that grows */
    limit_file_size((rlim_t)size.st_size + 3000000);
    for (int i = 1; i < 8 && st == KVT_OK; i++) {
        fake_trace_init(&t[i], i);
        for (int seed = 0; seed < 40 && st == KVT_OK; seed++) {
            const kvt_cell c = fake_cell(&t[i], 2, 0, (uint64_t)seed);
            fake_fill(&f, &c);
            st = sink.ops->claim(sink.self, &c, &todo, &err);
            if (st == KVT_OK) st = sink.ops->store(sink.self, &c, &f.r, &err);
            stored += st == KVT_OK;
        }
    }
    cr_assert(st == KVT_EIO, "%s %s after %d", kvt_status_name(st), err.text, stored);
    cr_assert(strstr(err.text, db_path) && stored > 5, "%s", err.text);
    kvt_store_close(s);
    limit_file_size(RLIM_INFINITY);
    s = open_store(db_path);                      /* what was stored is there, the rest can go on */
    sqlite3 *db = open_plain(db_path);
    want = dump(db, "SELECT count(*) FROM cell WHERE status = 'done'");
    cr_assert(sscanf(want, "%d", &n) == 1 && n == stored + CELLS_PER_TRACE, "%s", want);
    sqlite3_free(want);
    do_sweep(s, 2, 0);
    finish_store(s);
    expect_sound(db);
    snprintf(other, sizeof other, "%s/other.db", dir);
    s = open_store(other);
    do_sweep(s, 2, 0);
    finish_store(s);
    sqlite3 *y = open_plain(other);
    static const char sql[] = "SELECT key_sha256, result_sha256 FROM cell WHERE seed = 0 AND trace_id IN"
        " (SELECT trace_id FROM trace WHERE name IN ('t0', 't1')) ORDER BY 1";
    want = dump(y, sql), have = dump(db, sql);
    cr_assert(strcmp(want, have) == 0);
    sqlite3_free(want), sqlite3_free(have);
    sqlite3_close(y), sqlite3_close(db);
}

/* ---------------------------------------------------------------- several processes */

/* Goal: a kill at any moment loses nothing that was stored and the same sweep finishes.
 * Method: the same sweep is started and killed after a growing, jittered delay until one
 * gets through; then all rows equal those of an uninterrupted sweep. */
Test(store_faults, killed_runs_resume_to_the_same_rows)
{
    char other[128], *want, *have;
    int kills = 0, status = 1;
    snprintf(other, sizeof other, "%s/other.db", dir);
    for (unsigned i = 0; status != 0 && i < 400; i++) {
        const pid_t pid = fork_child();
        if (pid == 0) {
            kvt_store *s = open_store(db_path);
            do_sweep(s, 6, 0);
            finish_store(s);
            _exit(0);
        }
        const struct timespec delay = {0, (long)(500000 + 400000 * i + (i * 2654435761u) % 3000000)};
        nanosleep(&delay, NULL);
        kill(pid, SIGKILL);
        status = exit_status(pid);
        kills += status != 0;
        if (i % 5 == 0 && exists(db_path)) {      /* sound in between, not only at the end */
            sqlite3 *db = open_plain(db_path);
            expect_rows(db, "PRAGMA integrity_check", "ok\n");
            expect_rows(db, "PRAGMA foreign_key_check", "");
            sqlite3_close(db);
        }
    }
    cr_assert(status == 0 && kills >= 5, "%d kills", kills);
    kvt_store *s = open_store(other);
    do_sweep(s, 6, 0);
    finish_store(s);
    sqlite3 *x = open_plain(db_path), *y = open_plain(other);
    expect_sound(x);
    have = dump_results(x), want = dump_results(y);
    cr_assert(strcmp(want, have) == 0);
    sqlite3_free(want), sqlite3_free(have);
    expect_rows(x, "SELECT DISTINCT status FROM run ORDER BY 1", "done\ninterrupted\n");
    sqlite3_close(x), sqlite3_close(y);
}

Test(store_faults, cells_of_a_dead_run_on_another_host_come_back_too)
{
    fake_trace t;
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0);
    const pid_t pid = fork_child();
    if (pid == 0) {
        kvt_store *s = open_store(db_path);
        const kvt_sink sink = kvt_store_sink(s);
        int todo;
        kvt_err err;
        if (sink.ops->claim(sink.self, &c, &todo, &err) != KVT_OK || !todo) _exit(1);
        kill(getpid(), SIGKILL);
    }
    cr_assert(exit_status(pid) == 1000 + SIGKILL);
    make_plain("UPDATE run SET host = 'elsewhere'");
    kvt_store *s = open_store(db_path);
    cr_assert(do_cell(s, &c) == 1);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    expect_sound(db);
    expect_rows(db, "SELECT status FROM run ORDER BY run_id", "interrupted\ndone\n");
    sqlite3_close(db);
}

Test(store_faults, a_live_process_keeps_its_running_cells)
{
    int ready[2];
    char byte;
    kvt_err err = {0};
    fake_trace t;
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0), d = fake_cell(&t, 1, 1, 0);
    cr_assert(pipe(ready) == 0);
    const pid_t pid = fork_child();
    if (pid == 0) {
        kvt_store *s = open_store(db_path);
        const kvt_sink sink = kvt_store_sink(s);
        int todo = 0;
        if (sink.ops->claim(sink.self, &c, &todo, &err) != KVT_OK || !todo) _exit(1);
        if (write(ready[1], "x", 1) != 1) _exit(2);
        alarm(60);                                /* if the test fails nobody kills it */
        for (;;) pause();
    }
    close(ready[1]);
    cr_assert(read(ready[0], &byte, 1) == 1);
    kvt_store *s = open_store(db_path);
    cr_assert(do_cell(s, &c) == 0);               /* in other hands */
    cr_assert(do_cell(s, &d) == 1);
    sqlite3 *db = open_plain(db_path);
    expect_rows(db, "SELECT status, run_id FROM cell ORDER BY cell_id", "running|1\ndone|2\n");
    sqlite3_close(db);
    kill(pid, SIGKILL);
    cr_assert(exit_status(pid) == 1000 + SIGKILL);
    cr_assert(do_cell(s, &c) == 1);               /* its owner died while we were running */
    finish_store(s);
    db = open_plain(db_path);
    expect_sound(db);
    expect_rows(db, "PRAGMA journal_mode", "delete\n");
    sqlite3_close(db);
}

Test(store_faults, processes_share_the_work_without_doing_a_cell_twice)
{
    pid_t pid[3];
    char *want, *have, other[128];
    snprintf(other, sizeof other, "%s/other.db", dir);
    for (int i = 0; i < 3; i++) {                 /* they also race to create the file */
        pid[i] = fork_child();
        if (pid[i] == 0) {
            kvt_store *s = open_store(db_path);
            do_sweep(s, 6, i & 1);
            finish_store(s);
            _exit(0);
        }
    }
    for (int i = 0; i < 3; i++) cr_assert(exit_status(pid[i]) == 0);
    kvt_store *s = open_store(other);
    do_sweep(s, 6, 0);
    finish_store(s);
    sqlite3 *x = open_plain(db_path), *y = open_plain(other);
    expect_sound(x);
    expect_rows(x, "SELECT count(*), max(attempt) FROM cell WHERE status = 'done'", "72|1\n");
    expect_rows(x, "SELECT count(*) FROM run WHERE status = 'done'", "3\n");
    have = dump_results(x), want = dump_results(y);
    cr_assert(strcmp(want, have) == 0);
    sqlite3_free(want), sqlite3_free(have);
    expect_rows(x, "PRAGMA journal_mode", "delete\n");
    sqlite3_close(x), sqlite3_close(y);
}

Test(store_faults, closing_without_finishing_counts_as_interrupted)
{
    kvt_store *s = open_store(db_path);
    do_sweep(s, 1, 0);
    kvt_store_close(s);
    kvt_store_close(NULL);
    sqlite3 *db = open_plain(db_path);
    expect_sound(db);
    expect_rows(db, "SELECT status, exit_code FROM run", "interrupted|130\n");
    sqlite3_close(db);
}
