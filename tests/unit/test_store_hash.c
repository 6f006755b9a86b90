/* The content hash of a cell against its definition: SHA-256 over the stored rows, written
 * down from the schema with printf, nothing left out but surrogate ids and the run. */
#include "store_fixture.h"

TestSuite(store_hash, .init = make_dir, .fini = remove_dir, .timeout = 120);

/* Child tables in the order of the schema; what stands in front of the own columns; the key. */
static const struct { const char *table, *before, *join, *order; } child[] = {
    {"result_cell", "", "", "1"}, {"result_head", "", "", "layer, head"}, {"result_kvhead", "", "", "layer, kv_head, agg"},
    {"result_layer", "", "", "layer"}, {"result_head_tau", "", " JOIN tau USING(tau_id)", "layer, head, tau"},
    {"result_series", "", "", "layer, head, metric"}, {"violation", "", " JOIN tau USING(tau_id)", "layer, head, tau, start_step"},
    {"violation_token", ", violation.layer, violation.head, tau.tau, violation.start_step", " JOIN violation USING(violation_id) JOIN tau USING(tau_id)",
     "layer, head, tau, start_step, ord"},
    {"ladder_head", "", "", "layer, head"}, {"minimax_cert", "", "", "layer, head"},
    {"validity", "", "", "check_name, message, status, value"}};

/* "SELECT 'table', column, column ...": every column but ids; tau for tau_id. */
static char *table_query(sqlite3 *db, size_t i)
{
    sqlite3_str *q = sqlite3_str_new(NULL);
    sqlite3_stmt *st = NULL;

    sqlite3_str_appendf(q, "SELECT %Q%s", child[i].table, child[i].before);
    cr_assert(sqlite3_prepare_v2(db, "SELECT name FROM pragma_table_info(?1) ORDER BY cid", -1, &st, NULL) == SQLITE_OK);
    sqlite3_bind_text(st, 1, child[i].table, -1, SQLITE_STATIC);
    while (sqlite3_step(st) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        const size_t n = strlen(name);
        if (strcmp(name, "tau_id") == 0) sqlite3_str_appendall(q, ", tau.tau");
        else if (n < 3 || strcmp(name + n - 3, "_id") != 0) sqlite3_str_appendf(q, ", %s.%s", child[i].table, name);
    }
    sqlite3_finalize(st);
    sqlite3_str_appendf(q, " FROM %s%s WHERE cell_id = ?1 ORDER BY %s", child[i].table, child[i].join, child[i].order);
    return sqlite3_str_finish(q);
}

static void hash_row(kvt_sha256 *h, sqlite3_stmt *st)
{
    char text[64];

    for (int c = 0; c < sqlite3_column_count(st); c++) {
        const int type = sqlite3_column_type(st, c);
        if (type == SQLITE_INTEGER) snprintf(text, sizeof text, "%lld", (long long)sqlite3_column_int64(st, c));
        else if (type == SQLITE_FLOAT) snprintf(text, sizeof text, "%a", sqlite3_column_double(st, c));
        else if (type == SQLITE_NULL) strcpy(text, "-");
        else snprintf(text, sizeof text, "%d:", sqlite3_column_bytes(st, c));
        kvt_sha256_update(h, text, strlen(text));
        if (type == SQLITE_TEXT || type == SQLITE_BLOB) kvt_sha256_update(h, sqlite3_column_blob(st, c), (size_t)sqlite3_column_bytes(st, c));
        kvt_sha256_update(h, "|", 1);
    }
    kvt_sha256_update(h, "\n", 1);
}

static void hash_by_definition(sqlite3 *db, int64_t cell_id, char out[65])
{
    uint8_t digest[32];
    kvt_sha256 h;

    kvt_sha256_init(&h);
    for (size_t i = 0; i < sizeof child / sizeof child[0]; i++) {
        char *sql = table_query(db, i);
        sqlite3_stmt *st = NULL;
        cr_assert(sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
        sqlite3_bind_int64(st, 1, cell_id);
        while (sqlite3_step(st) == SQLITE_ROW) hash_row(&h, st);
        sqlite3_finalize(st);
        sqlite3_free(sql);
    }
    kvt_sha256_final(&h, digest);
    kvt_sha256_hex(digest, out);
}

/* Every done cell; returns how many there are. */
static int expect_hashes(sqlite3 *db)
{
    sqlite3_stmt *st = NULL;
    char want[65];
    int n = 0;

    cr_assert(sqlite3_prepare_v2(db, "SELECT cell_id, result_sha256 FROM cell WHERE status = 'done'", -1, &st, NULL) == SQLITE_OK);
    for (; sqlite3_step(st) == SQLITE_ROW; n++) {
        hash_by_definition(db, sqlite3_column_int64(st, 0), want);
        cr_assert(strcmp(want, (const char *)sqlite3_column_text(st, 1)) == 0, "cell %lld", (long long)sqlite3_column_int64(st, 0));
    }
    sqlite3_finalize(st);
    return n;
}

Test(store_hash, the_hash_is_that_of_the_stored_rows)
{
    kvt_store *s = open_store(db_path);
    do_sweep(s, 3, 0);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    cr_assert(expect_hashes(db) == 3 * CELLS_PER_TRACE);
    sqlite3_close(db);
}

/* ---------------------------------------------------------------- many violations */

enum { VIOLATIONS = 3 * KVT_N_TAU * 43, MOST = VIOLATIONS };   /* three heads; more than fit three statements */

static kvt_violation many[VIOLATIONS];
static kvt_responsible entry[KVT_MAX_RESPONSIBLE];

/* Numbers that are hard to write: no mantissa, a full one, the smallest, a 0 with a sign. */
static double hard(uint32_t i)
{
    static const double x[] = {0.0, 0.5, 0x1.fffffffffffffp-1, 0x1p-1074, 0x1.00001p-1030, 0x1p-1022, 1.0, 0x1.0000000000001p-9, 0x1.8p-3, -0.0};
    return x[i % (sizeof x / sizeof x[0])];
}

/* Violations 0 .. n - 1 of heads 0, 1, 2: in the order of sim/, or shuffled. */
static void fill_many(fake_result *f, const kvt_cell *c, size_t n, int shuffled)
{
    fake_fill(f, c);
    for (uint32_t k = 0; k < KVT_MAX_RESPONSIBLE; k++)
        entry[k] = (kvt_responsible){.pos = k * 1000003u, .mass_share = hard(k), .evicted_step = (int32_t)k - 1, .rank = k % 3, .score = k % 4 ? -hard(k) : NAN,
            .score_margin = k % 5 ? 1e300 * hard(k) : NAN, .last_important = (int32_t)(k % 4) - 2, .idle_steps = (int32_t)(k % 3) - 1};
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t at = shuffled ? (uint32_t)(i * 101u % n) : i, step = 3 * (at % 43);
        many[i] = (kvt_violation){.layer = 0, .head = at / (43 * KVT_N_TAU), .tau = at / 43 % KVT_N_TAU, .start_step = step, .n_step = 2,
            .peak_step = step + at % 2, .peak_lost = hard(at + 1), .peak_oracle_lost = -hard(at), .excess_area = hard(at + 3), .cause = (kvt_cause)(at % 6),
            .foreseeable = (int)(at % 3) - 1, .recurrent = (int)(at / 3 % 3) - 1, .share_top1 = at % 7 ? hard(at) : NAN, .share_top5 = at % 5 ? 1 : NAN,
            .share_top20 = hard(at + 5), .n_responsible = at % 11 ? at % (KVT_MAX_RESPONSIBLE + 1) : 0, .responsible = entry};
    }
    f->r.violation = many, f->r.n_violation = n, f->r.n_violation_total = (uint32_t)n;
}

Test(store_hash, many_violations_are_stored_and_hashed_one_by_one)
{
    static const size_t count[] = {0, 1, 39, 40, 41, 80, 81, MOST};
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);
    sqlite3 *db = open_plain(db_path);
    int todo;

    fake_trace_init(&t, 0);
    for (size_t i = 0; i < sizeof count / sizeof count[0]; i++) {
        char want[64], *hash[2];
        for (int shuffled = 0; shuffled < 2; shuffled++) {
            const kvt_cell c = fake_cell(&t, 2, 0, i);
            uint64_t n_entry = 0;
            fill_many(&f, &c, count[i], shuffled);
            for (size_t k = 0; k < count[i]; k++) n_entry += many[k].n_responsible;
            cr_assert(sink.ops->claim(sink.self, &c, &todo, &err) == KVT_OK, "%s", err.text);
            cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_OK, "%zu violations: %s", count[i], err.text);
            snprintf(want, sizeof want, "%zu|%llu\n", count[i], (unsigned long long)n_entry);
            char *sql = sqlite3_mprintf("SELECT (SELECT count(*) FROM violation JOIN cell USING(cell_id) WHERE seed = %d),"
                " (SELECT count(*) FROM violation_token JOIN violation USING(violation_id) JOIN cell USING(cell_id) WHERE seed = %d)", (int)i, (int)i);
            expect_rows(db, sql, want);
            sqlite3_free(sql);
            cr_assert(expect_hashes(db) == (int)i + 1);
            sql = sqlite3_mprintf("SELECT result_sha256 FROM cell WHERE seed = %d", (int)i);
            hash[shuffled] = dump(db, sql);
            sqlite3_free(sql);
        }
        cr_assert(strcmp(hash[0], hash[1]) == 0, "the order in which %zu violations come is in the hash", count[i]);
        sqlite3_free(hash[0]), sqlite3_free(hash[1]);
    }
    finish_store(s);
    expect_sound(db);
    sqlite3_close(db);
}

/* A row that is refused in the middle of many takes the cell with it. */
Test(store_hash, one_bad_row_of_many_is_refused)
{
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);
    int todo;

    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 2, 0, 0);
    cr_assert(sink.ops->claim(sink.self, &c, &todo, &err) == KVT_OK, "%s", err.text);
    for (size_t bad = 0; bad < MOST; bad += MOST / 7) {
        fill_many(&f, &c, MOST, 0);
        many[bad].share_top1 = 1.5;
        cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_EDB && strstr(err.text, "violation of trace"), "%s", err.text);
        fill_many(&f, &c, MOST, 0);
        entry[7].mass_share = -1;
        cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_EDB && strstr(err.text, "violation_token of trace"), "%s", err.text);
    }
    fill_many(&f, &c, MOST, 0);
    cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_OK, "%s", err.text);
    sqlite3 *db = open_plain(db_path);
    cr_assert(expect_hashes(db) == 1);
    finish_store(s);
    expect_sound(db);
    sqlite3_close(db);
}
