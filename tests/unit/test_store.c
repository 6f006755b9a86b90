/* The results database: schema, round trip, what is refused. */
#include "store_fixture.h"

TestSuite(store, .init = make_dir, .fini = remove_dir, .timeout = 120);

/* ---------------------------------------------------------------- schema */

Test(store, an_empty_database_is_sound_and_one_file)
{
    char name[128];
    finish_store(open_store(db_path));
    sqlite3 *db = open_plain(db_path);
    expect_sound(db);
    expect_rows(db, "PRAGMA application_id", "1263948849\n");
    expect_rows(db, "PRAGMA user_version", "3\n");
    expect_rows(db, "PRAGMA journal_mode", "delete\n");
    expect_rows(db, "SELECT version, length(sql_sha256) FROM schema_migration", "3|64\n");
    expect_rows(db, "SELECT tau_id, tau FROM tau ORDER BY 1", "1|0.5\n2|0.25\n3|0.1\n");
    expect_rows(db, "SELECT status, exit_code, pid > 0, seed, n_thread, config_sha256, backend, finished_utc >= started_utc,"
                    " wall_s >= 0, cpu_s >= 0, peak_rss_bytes > 100000 FROM run", "done|0|1|7|2|cafe|cpu|1|1|1|1\n");
    sqlite3_close(db);
    snprintf(name, sizeof name, "%s-wal", db_path);
    cr_assert(!exists(name));
    snprintf(name, sizeof name, "%s-shm", db_path);
    cr_assert(!exists(name));
}

Test(store, the_schema_loads_with_the_command_line_program)
{
    char command[512];
    if (system("command -v sqlite3 >/dev/null 2>&1") != 0) cr_skip_test("no sqlite3 program");
    snprintf(command, sizeof command, "sqlite3 %s < %s/analysis/store/schema.sql", db_path, KVT_SOURCE_DIR);
    cr_assert(system(command) == 0);
    finish_store(open_store(db_path));            /* and the program accepts it as its own */
}

Test(store, argv_is_valid_json_whatever_the_bytes)
{
    finish_store(open_store(db_path));
    sqlite3 *db = open_plain(db_path);
    char *text = dump(db, "SELECT argv_json FROM run");
    cJSON *json = cJSON_Parse(text);
    cr_assert(json && cJSON_GetArraySize(json) == 4, "%s", text);
    cr_assert(strcmp(cJSON_GetArrayItem(json, 2)->valuestring, "a \"b\".h5") == 0);
    cr_assert(strcmp(cJSON_GetArrayItem(json, 3)->valuestring, "\\xFF\\u{1B}[31m") == 0, "%s", text);
    cJSON_Delete(json);
    sqlite3_free(text);
    sqlite3_close(db);
}

/* ---------------------------------------------------------------- round trip */

Test(store, a_sweep_comes_back_and_is_not_done_twice)
{
    kvt_store *s = open_store(db_path);
    cr_assert(do_sweep(s, 4, 0) == 4 * CELLS_PER_TRACE);
    cr_assert(do_sweep(s, 4, 0) == 0);            /* in the same run */
    finish_store(s);
    s = open_store(db_path);
    cr_assert(do_sweep(s, 4, 1) == 0);            /* and in the next */
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    expect_sound(db);
    expect_rows(db, "SELECT count(*), sum(attempt), count(DISTINCT result_sha256) = count(*) FROM cell", "48|48|0\n");
    expect_rows(db, "SELECT count(*) FROM result_head", "192\n");
    expect_rows(db, "SELECT status, n_cell FROM v_todo", "done|48\n");
    expect_rows(db, "SELECT name, n_layer FROM model", "fake-1b|3\n");
    expect_rows(db, "SELECT layer, n_q_head, attn_type, span FROM model_layer ORDER BY layer",
                "0|4|full|NULL\n1|4|sliding|16\n2|0|none|NULL\n");
    expect_rows(db, "SELECT name, revision FROM dataset", "letters|\n");
    expect_rows(db, "SELECT name, cluster_id, split, kind, end_reason, k_dtype, v_dtype, q_dtype, row_source, has_value,"
                    " has_wo, has_value_norm, engine, path FROM trace WHERE trace_id = 1",
                "t0|document-0|test|recorded|unknown|f16|f16|bf16|qk|1|0|0|transformers|some/folder/t0.h5\n");
    expect_rows(db, "SELECT pos, token_id, typeof(bytes), length(bytes) FROM trace_token WHERE trace_id = 1 AND pos < 3",
                "0|1000|blob|0\n1|1001|blob|4\n2|1002|blob|2\n");
    expect_rows(db, "SELECT seg_no, kind, start_pos, end_pos FROM trace_segment WHERE trace_id = 1",
                "0|user|0|40\n1|document|4|20\n2|generated|40|52\n");
    expect_rows(db, "SELECT key, value_num, value_text FROM policy_param ORDER BY key", "kernel|7.0|NULL\npooling|NULL|avg\n");
    expect_rows(db, "SELECT role, n_cell, n_trace, n_cluster FROM v_policy_summary WHERE policy = 'random' AND budget = '0.2'",
                "baseline|12|4|2\n");
    expect_rows(db, "SELECT count(*) > 0 FROM v_pareto WHERE dominated_by IS NOT NULL", "1\n");
    expect_rows(db, "SELECT n_cluster FROM v_fail_rate WHERE policy_label = 'snapkv' AND budget = '0.2' AND tau = 0.5", "2\n");
    expect_rows(db, "SELECT ord, pos, segment, token_id, evicted_step, window_rank, window_score, last_important, idle_steps"
                    " FROM v_token_postmortem WHERE policy_label = 'snapkv' AND budget = '0.2' AND trace = 't0' AND head = 0",
                "1|1|user|1001|-1|30|0.125|NULL|NULL\n2|9|document|1009|3|NULL|NULL|-1|2\n");
    static const char *const view[] = {"v_cell", "v_worst_heads", "v_policy_summary", "v_policy_rank", "v_pareto",
        "v_trace_fail", "v_fail_rate", "v_violations", "v_violation_cause", "v_token_postmortem", "v_decomposition",
        "v_validity", "v_todo"};
    for (size_t i = 0; i < sizeof view / sizeof view[0]; i++) {
        char sql[96];
        snprintf(sql, sizeof sql, "SELECT count(*) > 0 FROM %s", view[i]);
        expect_rows(db, sql, "1\n");
    }
    sqlite3_close(db);
}

Test(store, not_measured_is_null)
{
    fake_trace t;
    kvt_store *s = open_store(db_path);
    fake_trace_init(&t, 0);
    t.info.text = NULL;
    const kvt_config_info *prompt = fake_config(1);
    kvt_config_info all = *prompt;
    kvt_cell c = fake_cell(&t, 1, 0, 0);
    all.budgeted = "all";
    c.config = &all;
    do_cell(s, &c);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    expect_rows(db, "SELECT lost_prompt_mean, lost_prompt_max, out_err_mean, err_max_step, fixed_mean FROM result_head WHERE head = 0",
                "NULL|NULL|NULL|NULL|NULL\n");
    expect_rows(db, "SELECT ns_n, lost_ns_mean, ns_max_step FROM result_head WHERE head = 3", "0|NULL|NULL\n");
    expect_rows(db, "SELECT foreseeable, share_top1 FROM violation WHERE head = 0", "NULL|NULL\n");
    expect_rows(db, "SELECT count(*), count(bytes) FROM trace_token", "52|0\n");
    sqlite3_close(db);
}

Test(store, the_content_hash_depends_on_content_alone)
{
    char other[128], *a, *b;
    snprintf(other, sizeof other, "%s/other.db", dir);
    kvt_store *s = open_store(db_path), *o = open_store(other);
    do_sweep(s, 3, 0);
    do_sweep(o, 3, 1);                            /* other order, so other surrogate ids */
    finish_store(s);
    finish_store(o);
    sqlite3 *x = open_plain(db_path), *y = open_plain(other);
    a = dump_results(x), b = dump_results(y);
    cr_assert(strcmp(a, b) == 0);
    cr_assert(strlen(a) > 10000);
    sqlite3_free(a), sqlite3_free(b);
    a = dump(x, "SELECT result_sha256 FROM cell WHERE result_sha256 IS NOT NULL AND length(result_sha256) = 64 ORDER BY 1");
    cr_assert(strlen(a) == 65 * 3 * CELLS_PER_TRACE);
    sqlite3_free(a);
    sqlite3_close(x), sqlite3_close(y);
}

Test(store, the_content_hash_sees_every_child_table_but_not_the_time)
{
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    char *first, *next;
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0);
    do_cell(s, &c);
    sqlite3 *db = open_plain(db_path);
    first = dump(db, "SELECT result_sha256 FROM cell");
    for (int change = 0; change <= 9; change++) {
        fake_fill(&f, &c);
        switch (change) {
        case 0: f.r.wall_s = 99; break;           /* the only one that is not content */
        case 1: f.r.row_defect_max = 2e-7; break;
        case 2: f.head[1].fixed_mean = NAN; break;
        case 3: f.kvhead[3].max_step++; break;
        case 4: f.layer[0].worst_head = 1; break;
        case 5: f.tau[0].longest_run++; break;
        case 6: f.q31[2][5]++; break;
        case 7: f.violation[1].cause = KVT_CAUSE_MIXED; break;
        case 8: f.responsible[1].pos++; break;
        default: f.check[1].message[0] = 'H'; break;
        }
        cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_OK, "%s", err.text);
        next = dump(db, "SELECT result_sha256 FROM cell");
        cr_assert((strcmp(first, next) == 0) == (change == 0), "change %d", change);
        sqlite3_free(next);
    }
    expect_rows(db, "SELECT count(*) FROM result_head", "4\n");      /* replaced, not added */
    expect_rows(db, "SELECT count(*) FROM validity", "2\n");
    sqlite3_free(first);
    sqlite3_close(db);
    finish_store(s);
}

Test(store, the_key_of_a_cell_is_the_hash_of_its_text)
{
    char text[512], want[65];
    fake_trace t;
    fake_trace_init(&t, 3);
    const kvt_cell c = fake_cell(&t, 1, 0, 18446744073709551615ull);
    snprintf(text, sizeof text, "v1|%s|%s|share:0.2:share|%u|%u|18446744073709551615|document-1", t.content_id,
             fake_config(1)->sha256, KVT_ENGINE_VERSION, KVT_METRIC_VERSION);
    fake_hex(want, text);
    cr_assert(strcmp(c.key_sha256, want) == 0);
}

Test(store, another_shape_under_the_same_model_name_is_another_model)
{
    fake_trace a, b;
    kvt_store *s = open_store(db_path);
    fake_trace_init(&a, 0);
    fake_trace_init(&b, 2);
    b.layer[1].window = 32;
    for (int k = 0; k < 2; k++) {
        kvt_cell c = fake_cell(&a, 1, k, 0), d = fake_cell(&b, 1, k, 0);
        do_cell(s, &c);
        do_cell(s, &d);
    }
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    expect_sound(db);
    expect_rows(db, "SELECT name, revision = '', revision GLOB '+[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'"
                    " FROM model ORDER BY model_id", "fake-1b|1|0\nfake-1b|0|1\n");
    sqlite3_close(db);
}

Test(store, hostile_names_become_printable)
{
    fake_trace t;
    kvt_store *s = open_store(db_path);
    fake_trace_init(&t, 0);
    t.provenance[1].value = "m\x1b[2J\n'; DROP TABLE cell;--\xc3";
    strcpy(t.cluster, "\xff");
    const kvt_cell c = fake_cell(&t, 1, 0, 0);
    cr_assert(do_cell(s, &c) == 1);
    cr_assert(do_cell(s, &c) == 0);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    expect_rows(db, "SELECT name FROM model", "m\\u{1B}[2J\xe2\x86\xb5'; DROP TABLE cell;--\\xC3\n");
    expect_rows(db, "SELECT cluster_id FROM trace", "\\xFF\n");
    sqlite3_close(db);
}

Test(store, a_failed_cell_is_tried_again)
{
    fake_trace t;
    kvt_err err = {0};
    int todo = 0;
    kvt_store *s = open_store(db_path);
    kvt_sink sink = kvt_store_sink(s);
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0);
    cr_assert(sink.ops->claim(sink.self, &c, &todo, &err) == KVT_OK && todo == 1);
    cr_assert(sink.ops->fail(sink.self, &c, "row sums to 0.9\nat step 3", &err) == KVT_OK);
    cr_assert(kvt_store_finish(s, 4, &err) == KVT_OK);
    kvt_store_close(s);
    sqlite3 *db = open_plain(db_path);
    expect_rows(db, "SELECT status, error FROM cell", "failed|row sums to 0.9\xe2\x86\xb5""at step 3\n");
    expect_rows(db, "SELECT status, exit_code FROM run", "failed|4\n");
    sqlite3_close(db);
    s = open_store(db_path);
    cr_assert(do_cell(s, &c) == 1);
    finish_store(s);
    db = open_plain(db_path);
    expect_rows(db, "SELECT status, error, attempt FROM cell", "done|NULL|2\n");
    expect_sound(db);
    sqlite3_close(db);
}

/* ---------------------------------------------------------------- what is refused */

static void break_mean(fake_result *f)    { f->head[0].lost_mean = 1.2; }
static void break_cvar(fake_result *f)    { f->head[0].lost_cvar95 = f->head[0].lost_max + 0.01; }
static void break_order(fake_result *f)   { f->head[1].lost_q50 = f->head[1].lost_q90 + 0.001; }
static void break_nan(fake_result *f)     { f->head[1].lost_mean = NAN; }
static void break_regret(fake_result *f)  { f->head[2].regret_mean = -0.001; }
static void break_ns(fake_result *f)      { f->head[1].ns_n = 0; }
static void break_err(fake_result *f)     { f->head[1].err_n = 3; }
static void break_trivial(fake_result *f) { f->head[1].n_trivial = FAKE_STEPS + 1; }
static void break_held(fake_result *f)    { f->r.held_max = f->r.held_min - 1; }
static void break_bytes(fake_result *f)   { f->r.bytes_physical = f->r.bytes_logical - 1; }
static void break_flags(fake_result *f)   { f->r.flags = 8; }
static void break_basis(fake_result *f)   { f->r.out_err_basis = "q"; }
static void break_exceed(fake_result *f)  { f->tau[0].n_infeasible = f->tau[0].n_exceed + 1; }
static void break_peak(fake_result *f)    { f->violation[0].peak_step = f->violation[0].start_step + 1; }
static void break_twice(fake_result *f)   { f->violation[1] = f->violation[0]; }
static void break_orphan(fake_result *f)  { f->violation[1].head = 77; }
static void break_metric(fake_result *f)  { f->series[0].metric = "sorrow"; }
static void break_check(fake_result *f)   { f->check[1].status = "fine"; }
static void break_share(fake_result *f)   { f->responsible[0].mass_share = 1.1; }

Test(store, a_result_that_cannot_be_is_refused_whole)
{
    static void (*const breaker[])(fake_result *) = {break_mean, break_cvar, break_order, break_nan, break_regret, break_ns,
        break_err, break_trivial, break_held, break_bytes, break_flags, break_basis, break_exceed, break_peak, break_twice,
        break_orphan, break_metric, break_check, break_share};
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    int todo;
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0);
    cr_assert(sink.ops->claim(sink.self, &c, &todo, &err) == KVT_OK && todo == 1);
    for (size_t i = 0; i < sizeof breaker / sizeof breaker[0]; i++) {
        fake_fill(&f, &c);
        breaker[i](&f);
        memset(&err, 0, sizeof err);
        const kvt_status st = sink.ops->store(sink.self, &c, &f.r, &err);
        cr_assert(st == KVT_EDB, "breaker %zu: %s", i, kvt_status_name(st));
        cr_assert(strstr(err.text, db_path) && strstr(err.text, "snapkv") && strstr(err.text, "0.2"), "%s", err.text);
    }
    sqlite3 *db = open_plain(db_path);
    expect_rows(db, "SELECT (SELECT count(*) FROM result_cell) + (SELECT count(*) FROM result_head) + (SELECT count(*) FROM validity)"
                    " + (SELECT count(*) FROM result_kvhead) + (SELECT count(*) FROM result_layer)", "0\n");
    expect_rows(db, "SELECT status FROM cell", "running\n");
    sqlite3_close(db);
    cr_assert(do_cell(s, &c) == 1);               /* the store still works */
    finish_store(s);
}

Test(store, a_result_for_a_cell_that_was_not_claimed_is_refused)
{
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0);
    fake_fill(&f, &c);
    cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_EDB && strstr(err.text, "not claimed"));
    finish_store(s);
}

Test(store, rows_that_cannot_be_are_refused_by_the_schema)
{
    static const char *const sql[] = {
        "INSERT INTO budget(kind, value, rule, label) VALUES('share', 20, 'share', 'x')",
        "INSERT INTO budget(kind, value, rule, label) VALUES('percent', 0.2, 'share', 'y')",
        "UPDATE trace SET split = 'train'", "UPDATE trace SET question_start = n_prompt + 1",
        "UPDATE trace SET has_value = 0", "UPDATE model_layer SET n_q_head = 3 WHERE layer = 0",
        "UPDATE model_layer SET n_q_head = 4 WHERE layer = 2", "UPDATE cell SET status = 'maybe'",
        "UPDATE result_series SET n = n + 1", "UPDATE result_series SET codec = 'f32le'",
        "UPDATE violation SET cause = 'bad luck'", "UPDATE policy_param SET value_text = 'a' WHERE value_num IS NOT NULL",
        "UPDATE policy_config SET canonical_json = '{'", "UPDATE result_head SET cell_id = 999",
        "UPDATE run SET argv_json = '[\"a'", "UPDATE result_head_tau SET first_step = NULL WHERE n_exceed > 0",
        "UPDATE violation_token SET ord = 21 WHERE ord = 2", "INSERT INTO tau(tau, label) VALUES(1.5, 'x')",
        "UPDATE result_head SET lost_max = 'high'", "DELETE FROM trace"};
    kvt_store *s = open_store(db_path);
    do_sweep(s, 1, 0);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++)
        cr_assert((sqlite3_exec(db, sql[i], NULL, NULL, NULL) & 0xff) == SQLITE_CONSTRAINT, "%s: %s", sql[i], sqlite3_errmsg(db));
    sqlite3_close(db);
}

Test(store, v_check_reports_what_one_row_cannot_show)
{
    static const struct { const char *sql, *defect; } plant[] = {
        {"DELETE FROM result_cell WHERE cell_id = 1", "done cell without summary"},
        {"DELETE FROM result_head WHERE cell_id = 1", "done cell without heads"},
        {"DELETE FROM result_head WHERE cell_id = 1 AND head = 2", "head count differs from model"},
        {"DELETE FROM model_layer WHERE layer = 2", "layer count differs from model"},
        {"UPDATE result_head SET oracle_mean = lost_mean + 0.001 WHERE cell_id = 3 AND head = 1", "policy beats per-step oracle"},
        {"UPDATE result_head SET lost_max = 0.1 WHERE cell_id = 1", "full cache loses mass"},
        {"UPDATE result_cell SET held_mean = 30, held_max = 40 WHERE cell_id = 3", "budget exceeded"},
        {"UPDATE run SET status = 'running'", "run left running"},
        {"ALTER TABLE result_head ADD COLUMN mood REAL", "undocumented column: result_head.mood"},
        {"INSERT INTO column_doc VALUES('result_head', 'mood', 'share', 0, 1, 'x')",
         "documented column does not exist: result_head.mood"}};
    kvt_store *s = open_store(db_path);
    do_sweep(s, 1, 0);
    finish_store(s);
    sqlite3 *db = open_plain(db_path);
    for (size_t i = 0; i < sizeof plant / sizeof plant[0]; i++) {
        char want[128];
        sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
        cr_assert(sqlite3_exec(db, plant[i].sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", plant[i].sql, sqlite3_errmsg(db));
        snprintf(want, sizeof want, "%s\n", plant[i].defect);
        char *have = dump(db, "SELECT DISTINCT defect FROM v_check ORDER BY 1");
        cr_assert(strstr(have, want), "%s: v_check says %s", plant[i].sql, have);
        sqlite3_free(have);
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    expect_sound(db);
    cr_assert(sqlite3_exec(db, "DELETE FROM cell", NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    expect_rows(db, "SELECT (SELECT count(*) FROM result_cell) + (SELECT count(*) FROM result_head) + (SELECT count(*) FROM validity)"
                    " + (SELECT count(*) FROM result_kvhead) + (SELECT count(*) FROM result_layer) + (SELECT count(*) FROM violation)"
                    " + (SELECT count(*) FROM result_head_tau) + (SELECT count(*) FROM result_series)"
                    " + (SELECT count(*) FROM violation_token)", "0\n");
    sqlite3_close(db);
}
