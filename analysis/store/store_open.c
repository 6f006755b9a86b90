/* store_open.c - making or continuing a results database, the row of a run, and the end.
 *
 * The schema is one transaction: a file has all of it or is empty, and an empty one that
 * this process made is removed again. While a store is open the file is in WAL mode; a
 * killed run leaves file + log, which SQLite joins at the next open; finish() leaves one
 * plain file.
 *
 * Who is alive? A store holds a shared lock on a WAL file as long as it is open, so a
 * process that can leave WAL mode is alone and every older `running` run is dead. Where
 * that does not decide (somebody else is there), the process id and its start time do. */
#include "store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "kvt_sha256.h"
#include "kvt_text.h"
#include "kvt_version.h"

#define OPEN_LOOP "Open-loop replay on full-cache trajectories: evictions do not feed back into later queries."

/* ---------------------------------------------------------------- the machine */

static void utc_now(char out[24])
{
    const time_t now = time(NULL);
    struct tm tm;

    if (!gmtime_r(&now, &tm) || !strftime(out, 24, "%Y-%m-%dT%H:%M:%SZ", &tm)) strcpy(out, "1970-01-01T00:00:00Z");
}

/* The text after `key` and a colon in a file of "key : value" lines, or "" */
static void proc_value(const char *file, const char *key, char *out, size_t size)
{
    char line[512];
    FILE *f = fopen(file, "re");

    out[0] = 0;
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || !colon) continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = 0;
        kvt_printable_str(out, size, colon);
        break;
    }
    fclose(f);
}

static void random_uuid(char out[37])
{
    uint8_t b[16] = {0};
    const int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, b, sizeof b);

    if (fd >= 0) close(fd);
    if (n != (ssize_t)sizeof b) {          /* no device: time, process and address differ enough */
        struct timespec t;
        uint8_t digest[32];
        char seed[96];
        clock_gettime(CLOCK_REALTIME, &t);
        snprintf(seed, sizeof seed, "%lld.%ld.%ld.%p", (long long)t.tv_sec, t.tv_nsec, (long)getpid(), (void *)out);
        kvt_sha256_of(seed, strlen(seed), digest);
        memcpy(b, digest, sizeof b);
    }
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    for (int i = 0, o = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) out[o++] = '-';
        o += snprintf(out + o, 3, "%02x", b[i]);
    }
}

/* When the process started, seconds since 1970, or -1; a zombie counts as gone (-2). */
static int64_t process_start(int64_t pid)
{
    char file[64], line[1024], boot[64], *p;
    long long ticks = -1, boot_s = -1;
    FILE *f;

    snprintf(file, sizeof file, "/proc/%" PRId64 "/stat", pid);
    f = fopen(file, "re");
    if (!f) return -1;
    p = fgets(line, sizeof line, f);
    fclose(f);
    p = p ? strrchr(line, ')') : NULL;             /* the name before it may hold anything */
    if (!p || p[1] != ' ') return -1;
    if (p[2] == 'Z' || p[2] == 'X') return -2;
    for (int field = 2; p && field < 22; field++) p = strchr(p + 1, ' ');
    if (!p || sscanf(p, " %lld", &ticks) != 1) return -1;
    f = fopen("/proc/stat", "re");
    if (!f) return -1;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "btime %63s", boot) == 1) boot_s = atoll(boot);
    fclose(f);
    return boot_s < 0 ? -1 : boot_s + ticks / sysconf(_SC_CLK_TCK);
}

/* Is the process that started a run at run_start_s still there? Process ids come again
 * after a reboot or in a container: one that started later is another process. */
static int run_is_alive(int64_t pid, int64_t run_start_s)
{
    int64_t start;

    if (pid <= 0 || (kill((pid_t)pid, 0) != 0 && errno == ESRCH)) return 0;
    start = process_start(pid);
    return start != -2 && (start < 0 || start <= run_start_s + 2);
}

/* ---------------------------------------------------------------- the run */

/* A JSON array of the words of the command line; hostile bytes become printable first. */
static char *argv_json(int argc, char **argv)
{
    size_t size = 3, used = 0, longest = 0;
    char *out, *word;

    for (int i = 0; i < argc; i++) {
        const size_t n = strlen(argv[i]);
        longest = n > longest ? n : longest;
        size += 12 * n + 16;                      /* one byte: at most 6 printable, then escaped */
    }
    word = malloc(8 * longest + 16);
    out = malloc(size);
    if (word && out) {
        out[used++] = '[';
        for (int i = 0; i < argc; i++) {
            kvt_printable_str(word, 8 * longest + 16, argv[i]);
            if (i) out[used++] = ',';
            out[used++] = '"';
            for (const char *p = word; *p; p++) {
                if (*p == '"' || *p == '\\') out[used++] = '\\';
                out[used++] = *p;
            }
            out[used++] = '"';
        }
        out[used++] = ']';
        out[used] = 0;
    } else {
        free(out);
        out = NULL;
    }
    free(word);
    return out;
}

static kvt_status add_run(kvt_store *s, const kvt_run_info *run, kvt_err *err)
{
    static const char sql[] =
        "INSERT INTO run(uuid, command, started_utc, status, tool_version, git_commit, git_dirty, argv_json,"
        " config_sha256, seed, n_thread, host, pid, backend, compiler, cflags, libc, cpu, os, sqlite_version)"
        " VALUES(?1, ?2, ?3, 'running', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'cpu', ?13, ?14, ?15, ?16, ?17, ?18)";
    char uuid[37], now[24], host[256] = "", libc[64] = "unknown", model[160], cpu[256], os[256] = "unknown";
    char *json = argv_json(run->argc, run->argv);
    struct utsname u;
    sqlite3_stmt *st = NULL;
    kvt_status rc = KVT_OK;

    if (!json) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", s->shown);
    random_uuid(uuid);
    utc_now(now);
    if (gethostname(host, sizeof host - 1) != 0) strcpy(host, "unknown");
#ifdef _CS_GNU_LIBC_VERSION
    if (!confstr(_CS_GNU_LIBC_VERSION, libc, sizeof libc)) strcpy(libc, "unknown");
#endif
    proc_value("/proc/cpuinfo", "model name", model, sizeof model);
    snprintf(cpu, sizeof cpu, "%s; kernels %s", model[0] ? model : "unknown", run->isa ? run->isa : "unknown");
    if (uname(&u) == 0) snprintf(os, sizeof os, "%.64s %.128s %.48s", u.sysname, u.release, u.machine);

    if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) == SQLITE_OK) {
        const struct { int pos; const char *value; } text[] = {
            {1, uuid}, {2, run->command}, {3, now}, {4, KVT_VERSION}, {5, KVT_GIT_COMMIT}, {7, json},
            {8, run->config_sha256 ? run->config_sha256 : ""}, {11, host}, {13, KVT_COMPILER},
            {14, KVT_CFLAGS}, {15, libc}, {16, cpu}, {17, os}, {18, sqlite3_libversion()}};
        for (size_t i = 0; i < sizeof text / sizeof text[0]; i++)
            sqlite3_bind_text(st, text[i].pos, text[i].value, -1, SQLITE_STATIC);
        sqlite3_bind_int(st, 6, KVT_GIT_DIRTY);
        sqlite3_bind_int64(st, 9, (int64_t)run->seed);
        sqlite3_bind_int64(st, 10, run->n_threads);
        sqlite3_bind_int64(st, 12, getpid());
    }
    if (!st || sqlite3_step(st) != SQLITE_DONE) rc = kvt__db_fail(s->db, s->shown, "recording the run", err);
    else s->run_id = sqlite3_last_insert_rowid(s->db);
    sqlite3_finalize(st);
    free(json);
    return rc;
}

/* ---------------------------------------------------------------- dead runs */

static kvt_status mark_dead(kvt_store *s, int64_t run_id, kvt_err *err)
{
    char sql[320];

    snprintf(sql, sizeof sql,
             "BEGIN IMMEDIATE;"
             "UPDATE cell SET status='todo' WHERE status='running' AND run_id=%" PRId64 ";"
             "UPDATE run SET status='interrupted' WHERE status='running' AND run_id=%" PRId64 ";"
             "COMMIT", run_id, run_id);
    return kvt__exec(s->db, sql, s->shown, "marking an interrupted run", err);
}

kvt_status kvt__reap(kvt_store *s, kvt_err *err)
{
    static const char sql[] =
        "SELECT run_id, coalesce(pid, 0), CAST(strftime('%s', started_utc) AS INTEGER) FROM run"
        " WHERE status = 'running' AND host = ?1 AND run_id <> ?2 AND run_id > ?3 ORDER BY run_id LIMIT 1";
    char host[256] = "";
    int64_t after = 0;

    if (gethostname(host, sizeof host - 1) != 0) strcpy(host, "unknown");
    for (;;) {                                    /* one at a time: no read is open while writing */
        sqlite3_stmt *st = NULL;
        int step = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL), alive = 1;
        if (step == SQLITE_OK) {
            sqlite3_bind_text(st, 1, host, -1, SQLITE_STATIC);
            sqlite3_bind_int64(st, 2, s->run_id);
            sqlite3_bind_int64(st, 3, after);
            step = sqlite3_step(st);
        }
        if (step == SQLITE_ROW) {
            after = sqlite3_column_int64(st, 0);
            alive = run_is_alive(sqlite3_column_int64(st, 1), sqlite3_column_int64(st, 2));
        }
        sqlite3_finalize(st);
        if (step == SQLITE_DONE) return KVT_OK;
        if (step != SQLITE_ROW) return kvt__db_fail(s->db, s->shown, "looking for interrupted runs", err);
        if (!alive) KVT_TRY(mark_dead(s, after, err));
    }
}

/* First word of "PRAGMA journal_mode..." is `mode`. An error counts as no. */
static int journal_mode_is(sqlite3 *db, const char *pragma, const char *mode)
{
    sqlite3_stmt *st = NULL;
    int same = 0;

    if (sqlite3_prepare_v2(db, pragma, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        same = strcmp((const char *)sqlite3_column_text(st, 0), mode) == 0;
    sqlite3_finalize(st);
    return same;
}

/* Leave WAL mode; possible only when no other process has the file open. */
static int leave_wal(sqlite3 *db)
{
    int left;

    sqlite3_busy_timeout(db, 0);
    left = journal_mode_is(db, "PRAGMA journal_mode=DELETE", "delete");
    sqlite3_busy_timeout(db, KVT__BUSY_MS);
    return left;
}

static kvt_status mark_dead_runs(kvt_store *s, kvt_err *err)
{
    int64_t last, run_id;

    KVT_TRY(kvt__query_int(s->db, "SELECT max(run_id) FROM run WHERE status = 'running'", 0, &last, s->shown, err));
    if (last == 0) return KVT_OK;
    if (journal_mode_is(s->db, "PRAGMA journal_mode", "wal") && leave_wal(s->db)) {
        /* Alone just now: whoever started a run up to `last` is not there any more. */
        char sql[128];
        for (;;) {
            snprintf(sql, sizeof sql, "SELECT run_id FROM run WHERE status='running' AND run_id <= %" PRId64
                     " LIMIT 1", last);
            KVT_TRY(kvt__query_int(s->db, sql, 0, &run_id, s->shown, err));
            if (run_id == 0) return KVT_OK;
            KVT_TRY(mark_dead(s, run_id, err));
        }
    }
    return kvt__reap(s, err);
}

/* ---------------------------------------------------------------- open */

static kvt_status create_schema(kvt_store *s, kvt_err *err)
{
    kvt_status rc = kvt__exec(s->db, kvt__schema_sql, s->shown, "creating its tables", err);
    kvt_err other;
    int empty = 1;

    if (rc == KVT_OK) return KVT_OK;
    /* Another process may have created them at the same moment. */
    if (kvt__identify(s->db, s->shown, &empty, &other) == KVT_OK && !empty) return KVT_OK;
    return rc;
}

static kvt_status record_versions(kvt_store *s, kvt_err *err)
{
    char now[24], hash[65], sql[1200];
    uint8_t digest[32];

    utc_now(now);
    kvt_sha256_of(kvt__schema_sql, strlen(kvt__schema_sql), digest);
    kvt_sha256_hex(digest, hash);
    snprintf(sql, sizeof sql,
             "BEGIN IMMEDIATE;"
             "INSERT OR IGNORE INTO schema_migration VALUES(%d, '%s', '%s', '%s');"
             "INSERT OR IGNORE INTO meta VALUES('created_utc', '%s'), ('created_by', 'kvtrace %s'),"
             " ('title', 'kvtrace results'), ('note', '%s');"
             "INSERT INTO meta VALUES('engine_version', '%u'), ('metric_version', '%u')"
             " ON CONFLICT(key) DO UPDATE SET value = excluded.value;"
             "COMMIT", KVT__SCHEMA_VERSION, now, KVT_VERSION, hash, now, KVT_VERSION, OPEN_LOOP,
             KVT_ENGINE_VERSION, KVT_METRIC_VERSION);
    return kvt__exec(s->db, sql, s->shown, "recording versions", err);
}

/* Make the file if it is not there, so that we know that it is ours to remove. */
static kvt_status touch(kvt_store *s, const char *path, kvt_err *err)
{
    struct stat st;
    int fd;

    if (stat(path, &st) == 0) {
        if (S_ISREG(st.st_mode)) return KVT_OK;
        return kvt_fail(err, KVT_EIO, "%s: %s; give the name of a results database, or of a new file", s->shown,
                        S_ISDIR(st.st_mode) ? "is a folder" : "is not a regular file");
    }
    if (errno != ENOENT) return kvt_fail(err, KVT_EIO, "%s: %s", s->shown, strerror(errno));
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) {
        s->created = 1;
        close(fd);
    } else if (errno != EEXIST) {
        return kvt_fail(err, KVT_EIO, "%s: cannot create the results database: %s; is its folder there, and may "
                        "it be written to?", s->shown, strerror(errno));
    }
    return KVT_OK;
}

static kvt_status connect(kvt_store *s, const char *path, kvt_err *err)
{
    char *real = kvt__db_path(path);
    int code, empty;

    if (!real) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", s->shown);
    code = sqlite3_open_v2(real, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    free(real);
    if (code != SQLITE_OK) return kvt__db_fail(s->db, s->shown, "opening", err);
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, KVT__BUSY_MS);
    KVT_TRY(kvt__exec(s->db, "PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL;"
                      "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-65536", s->shown, "opening", err));
    KVT_TRY(kvt__identify(s->db, s->shown, &empty, err));
    if (sqlite3_db_readonly(s->db, "main") == 1)
        return kvt_fail(err, KVT_EIO, "%s: the file is read-only; make it writable or choose another with -o", s->shown);
    KVT_TRY(empty ? create_schema(s, err) : kvt__migrate(s->db, s->shown, err));
    KVT_TRY(mark_dead_runs(s, err));
    /* Where there is no shared memory (network file systems) the old mode stays: slower, as sound. */
    if (!journal_mode_is(s->db, "PRAGMA journal_mode=WAL", "wal"))
        KVT_TRY(kvt__exec(s->db, "PRAGMA synchronous=FULL", s->shown, "opening", err));
    return record_versions(s, err);
}

/* Close, and remove a file that was made here and holds no run: worth nothing to anybody. */
static void close_unborn(kvt_store *s, const char *path)
{
    static const char *const suffix[] = {"-journal", "-wal", "-shm", ""};
    const size_t n = strlen(path) + 16;
    char *name = malloc(n);
    kvt_err ignored;
    int64_t n_run = 0;

    if (s->created && s->db)                      /* unless another process works in it already */
        if (kvt__query_int(s->db, "SELECT count(*) FROM run", 0, &n_run, s->shown, &ignored) == KVT_OK && n_run > 0)
            s->created = 0;
    sqlite3_close(s->db);
    for (size_t i = 0; name && s->created && i < sizeof suffix / sizeof suffix[0]; i++) {
        snprintf(name, n, "%s%s", path, suffix[i]);
        unlink(name);
    }
    free(name);
}

kvt_status kvt_store_open(kvt_store **out, const char *path, const kvt_run_info *run, kvt_err *err)
{
    kvt_store *s;
    kvt_status rc;

    if (sqlite3_libversion_number() < 3038000)
        return kvt_fail(err, KVT_ENOTSUP, "SQLite %s is too old: 3.38 or newer is needed", sqlite3_libversion());
    s = calloc(1, sizeof *s);
    if (!s) return kvt_fail(err, KVT_ENOMEM, "out of memory");
    kvt_printable_str(s->shown, sizeof s->shown, path);
    clock_gettime(CLOCK_MONOTONIC, &s->started);
    KVT_TRY_GOTO(rc, touch(s, path, err));
    KVT_TRY_GOTO(rc, connect(s, path, err));
    KVT_TRY_GOTO(rc, add_run(s, run, err));
    *out = s;
    return KVT_OK;
done:
    close_unborn(s, path);
    free(s);
    return rc;
}

/* ---------------------------------------------------------------- the end */

kvt_status kvt_store_finish(kvt_store *s, int exit_code, kvt_err *err)
{
    char now[24], sql[640];
    struct timespec t;
    struct rusage use = {0};
    double wall_s, cpu_s;

    utc_now(now);
    clock_gettime(CLOCK_MONOTONIC, &t);
    getrusage(RUSAGE_SELF, &use);
    wall_s = (double)(t.tv_sec - s->started.tv_sec) + 1e-9 * (double)(t.tv_nsec - s->started.tv_nsec);
    cpu_s = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec)
          + 1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    kvt__stmt_finalize(s);
    snprintf(sql, sizeof sql,
             "BEGIN IMMEDIATE;"
             "UPDATE cell SET status='todo' WHERE status='running' AND run_id=%" PRId64 ";"
             "UPDATE run SET finished_utc='%s', status='%s', exit_code=%d, wall_s=%.6f, cpu_s=%.6f,"
             " peak_rss_bytes=%" PRId64 " WHERE run_id=%" PRId64 ";"
             "COMMIT", s->run_id, now,
             exit_code == 0 ? "done" : exit_code == 130 ? "interrupted" : "failed", exit_code, wall_s, cpu_s,
             (int64_t)use.ru_maxrss * 1024, s->run_id);
    KVT_TRY(kvt__exec(s->db, sql, s->shown, "ending the run", err));
    s->finished = 1;
    /* Only a help for later queries; it cannot wait for another writer, so it may be refused. */
    (void)sqlite3_exec(s->db, "PRAGMA optimize", NULL, NULL, NULL);
    /* One plain file remains, unless another process still works on it: then it will do this. */
    (void)sqlite3_wal_checkpoint_v2(s->db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    (void)leave_wal(s->db);
    return KVT_OK;
}

void kvt_store_close(kvt_store *s)
{
    kvt_err ignored;

    if (!s) return;
    if (!s->finished) {                           /* the caller gave up; as good as killed */
        const kvt_status rc = kvt_store_finish(s, 130, &ignored);
        (void)rc;
    }
    kvt__stmt_finalize(s);
    sqlite3_close(s->db);
    free(s);
}
