/* What the tests of the results database share: a folder of their own, a store with a
 * fixed run, dumps of tables. One test program includes it once. */
#ifndef KVT_STORE_FIXTURE_H
#define KVT_STORE_FIXTURE_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cJSON.h"
#include "fake_results.h"
#include "kvt_store.h"

static char dir[64], db_path[96];

static inline void make_dir(void)
{
    strcpy(dir, "/tmp/kvt_store_XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    cr_assert(chmod(dir, 0755) == 0);
    snprintf(db_path, sizeof db_path, "%s/r.db", dir);
}

static inline void remove_dir(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    cr_assert(system(command) == 0);
}

static char *words[] = {"kvtrace", "replay", "a \"b\".h5", "\xff\x1b[31m"};
static const kvt_run_info run_info = {"replay", 4, words, "cafe", 7, 2, "portable"};

/* An assertion that a forked child may make too: there it ends the child with code 9. */
static int in_child;
#define must(cond, ...)                                             \
    do {                                                            \
        if (!(cond)) {                                              \
            fprintf(stderr, __VA_ARGS__);                           \
            if (in_child) _exit(9);                                 \
            cr_assert(0, __VA_ARGS__);                              \
        }                                                           \
    } while (0)

static inline pid_t fork_child(void)
{
    const pid_t pid = fork();
    if (pid == 0) in_child = 1;
    return pid;
}

static inline int exit_status(pid_t pid)
{
    int status;
    cr_assert(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline void limit_file_size(rlim_t bytes)
{
    const struct rlimit limit = {bytes, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static inline int exists(const char *path) { return access(path, F_OK) == 0; }

static inline kvt_store *open_store(const char *path)
{
    kvt_store *s = NULL;
    kvt_err err = {0};
    must(kvt_store_open(&s, path, &run_info, &err) == KVT_OK, "%s", err.text);
    return s;
}

static inline void finish_store(kvt_store *s)
{
    kvt_err err = {0};
    must(kvt_store_finish(s, 0, &err) == KVT_OK, "%s", err.text);
    kvt_store_close(s);
}

/* Expect a refusal that names the file, is one line and contains `part`. */
static inline void expect_refusal(const char *path, kvt_status want, const char *part)
{
    kvt_store *s = NULL;
    kvt_err err = {0};
    const kvt_status st = kvt_store_open(&s, path, &run_info, &err);
    cr_assert(st == want, "%s: status %s, text %s", path, kvt_status_name(st), err.text);
    cr_assert(s == NULL);
    cr_assert(strstr(err.text, path) && strstr(err.text, part) && !strchr(err.text, '\n'), "%s", err.text);
}

static inline sqlite3 *open_plain(const char *path)
{
    sqlite3 *db;
    cr_assert(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) == SQLITE_OK);
    sqlite3_exec(db, "PRAGMA foreign_keys=ON", NULL, NULL, NULL);
    return db;
}

/* All columns of all rows of a query, with '|' and newlines. Free with sqlite3_free. */
static inline char *dump(sqlite3 *db, const char *sql)
{
    sqlite3_str *out = sqlite3_str_new(NULL);
    sqlite3_stmt *st = NULL;
    int step;
    cr_assert(sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(st); i++) {
            const char *text = (const char *)sqlite3_column_text(st, i);
            sqlite3_str_appendf(out, "%s%s", i ? "|" : "", text ? text : "NULL");
        }
        sqlite3_str_appendall(out, "\n");
    }
    cr_assert(step == SQLITE_DONE, "%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_finalize(st);
    char *text = sqlite3_str_finish(out);
    return text ? text : sqlite3_mprintf("");
}

static inline void expect_rows(sqlite3 *db, const char *sql, const char *want)
{
    char *have = dump(db, sql);
    cr_assert(strcmp(have, want) == 0, "%s\ngave\n%sexpected\n%s", sql, have, want);
    sqlite3_free(have);
}

static inline void expect_sound(sqlite3 *db)
{
    expect_rows(db, "PRAGMA integrity_check", "ok\n");
    expect_rows(db, "PRAGMA foreign_key_check", "");
    expect_rows(db, "SELECT * FROM v_check", "");
}

/* Everything that is a result, by natural keys only. */
static inline char *dump_results(sqlite3 *db)
{
    return dump(db,
        "SELECT key_sha256, status, result_sha256 FROM cell WHERE 1 UNION ALL "
        "SELECT c.key_sha256, 'head', r.layer || ':' || r.head || ':' || r.lost_mean || ':' || r.lost_cvar95 FROM result_head r "
        "JOIN cell c USING(cell_id) UNION ALL "
        "SELECT c.key_sha256, 'series', s.head || ':' || hex(s.data) FROM result_series s JOIN cell c USING(cell_id) UNION ALL "
        "SELECT c.key_sha256, 'token', x.head || ':' || x.start_step || ':' || y.ord || ':' || y.pos || ':' || y.mass_share FROM "
        "violation_token y JOIN violation x USING(violation_id) JOIN cell c USING(cell_id) UNION ALL "
        "SELECT c.key_sha256, 'check', v.check_name || v.status || v.message FROM validity v JOIN cell c USING(cell_id) "
        "ORDER BY 1, 2, 3");
}

static inline int do_cell(kvt_store *s, const kvt_cell *c)
{
    static fake_result f;
    const kvt_sink sink = kvt_store_sink(s);
    kvt_err err = {0};
    int todo = -1;

    must(sink.ops->claim(sink.self, c, &todo, &err) == KVT_OK, "%s", err.text);
    if (!todo) return 0;
    fake_fill(&f, c);
    must(sink.ops->store(sink.self, c, &f.r, &err) == KVT_OK, "%s", err.text);
    return 1;
}

/* Every configuration and budget of traces 0..n-1, random with three seeds; n computed. */
static inline int do_sweep(kvt_store *s, int n_trace, int backwards)
{
    static fake_trace t[8];
    int done = 0;

    for (int k = 0; k < n_trace; k++) {
        const int i = backwards ? n_trace - 1 - k : k;
        fake_trace_init(&t[i], i);
        for (int j = 0; j < FAKE_CONFIGS * FAKE_BUDGETS; j++) {
            const int at = backwards ? FAKE_CONFIGS * FAKE_BUDGETS - 1 - j : j, config = at / FAKE_BUDGETS;
            for (uint64_t seed = 0; seed < (config == 2 ? 3u : 1u); seed++) {
                const kvt_cell c = fake_cell(&t[i], config, at % FAKE_BUDGETS, seed);
                done += do_cell(s, &c);
            }
        }
    }
    return done;
}

enum { CELLS_PER_TRACE = 2 * 3 + 2 * 3 };

#endif
