/* The ladder of a minimax cell in the results database. */
#include "store_fixture.h"

TestSuite(store_ladder, .init = make_dir, .fini = remove_dir, .timeout = 120);

static kvt_ladder_result ladder[FAKE_HEADS];
static uint32_t lambda[FAKE_STEPS], best_set[FAKE_PROMPT];

/* oracle 0.05 <= bound 0.1 <= found = lost_max of the head. */
static kvt_cell minimax_cell(const fake_trace *t)
{
    static kvt_config_info info;
    kvt_cell c = fake_cell(t, 3, 0, 0);

    info = *fake_config(3);
    info.policy_id = info.label = info.title = "oracle_minimax";
    info.canonical_json = "{\"id\":\"oracle_minimax\"}";
    fake_hex(info.sha256, info.canonical_json);
    c.config = &info;
    kvt_cell_key(&c);
    return c;
}

static void fill(fake_result *f, const kvt_cell *c)
{
    fake_fill(f, c);
    for (uint32_t i = 0; i < FAKE_STEPS; i++) lambda[i] = i ? 7 : 0x80000000u - 7 * (FAKE_STEPS - 1);
    for (uint32_t i = 0; i < FAKE_PROMPT; i++) best_set[i] = i < 7 ? 2 * i : 70000;
    for (uint32_t h = 0; h < FAKE_HEADS; h++)
        ladder[h] = (kvt_ladder_result){.layer = 0, .head = h, .n_keep = f->r.held_min, .n_step = FAKE_STEPS, .oracle_mean = 0.01,
            .oracle_max = 0.05, .oracle_max_step = 3, .fixed_mean = 0.02, .fixed_max = f->head[h].lost_max, .random_mean = 0.8,
            .minimax_bound = 214748364 / 2147483648.0, .minimax_found = f->head[h].lost_max, .minimax_iters = 20 + h,
            .minimax_stop = "limit", .bound_q31 = 214748364, .n_lambda = FAKE_STEPS, .lambda = lambda, .best_set = best_set};
    ladder[3].minimax_bound = ladder[3].minimax_found = ladder[3].oracle_max = ladder[3].oracle_mean = 0;    /* everything fits */
    ladder[3].n_trivial = FAKE_STEPS, ladder[3].n_lambda = 0, ladder[3].minimax_stop = "trivial";
    ladder[3].fixed_mean = ladder[3].fixed_max = 0;
    f->head[3].n_trivial = FAKE_STEPS;
    f->head[3].lost_max = f->head[3].lost_mean = f->head[3].lost_q50 = f->head[3].lost_q90 = f->head[3].lost_q95 = 0;
    f->head[3].lost_q99 = f->head[3].lost_cvar95 = f->head[3].lost_cvar99 = f->head[3].oracle_mean = f->head[3].oracle_max = 0;
    f->r.ladder = ladder, f->r.n_ladder = FAKE_HEADS;
}

static kvt_status keep(kvt_store *s, const kvt_cell *c, const fake_result *f, kvt_err *err)
{
    const kvt_sink sink = kvt_store_sink(s);
    int todo = 0;
    const kvt_status st = sink.ops->claim(sink.self, c, &todo, err);

    return st == KVT_OK ? sink.ops->store(sink.self, c, &f->r, err) : st;
}

/* A minimax cell and a policy's, in a finished database. */
static sqlite3 *database(void)
{
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    kvt_store *s = open_store(db_path);

    fake_trace_init(&t, 0);
    const kvt_cell c = minimax_cell(&t), policy = fake_cell(&t, 1, 0, 0);
    fill(&f, &c);
    cr_assert(keep(s, &c, &f, &err) == KVT_OK, "%s", err.text);
    do_cell(s, &policy);
    finish_store(s);
    return open_plain(db_path);
}

Test(store_ladder, a_ladder_comes_back_with_its_certificate)
{
    sqlite3 *db = database();

    expect_sound(db);
    expect_rows(db, "SELECT head, n_keep, n_trivial, oracle_max, oracle_max_step, fixed_mean, random_mean, minimax_iters, minimax_stop,"
                    " round(stability_gap, 6) FROM ladder_head ORDER BY head",
                "0|8|0|0.05|3|0.02|0.8|20|limit|0.05\n1|8|0|0.05|3|0.02|0.8|21|limit|0.05\n2|8|0|0.05|3|0.02|0.8|22|limit|0.05\n"
                "3|8|12|0.0|3|0.0|0.8|23|trivial|0.0\n");
    expect_rows(db, "SELECT head, bound_q31, n_lambda, hex(substr(lambda, 1, 8)), hex(best_set) FROM minimax_cert ORDER BY head LIMIT 1",
                "0|214748364|12|B3FFFF7F07000000|080002020202020" "2E4A204\n");
    expect_rows(db, "SELECT count(*) FROM minimax_cert", "3\n");
    expect_rows(db, "SELECT count(*), min(round(minimax_width, 3) > 0), max(budget) FROM v_ladder", "3|1|0.2\n");
    cr_assert(sqlite3_exec(db, "DELETE FROM cell WHERE config_id = 1", NULL, NULL, NULL) == SQLITE_OK);
    expect_rows(db, "SELECT (SELECT count(*) FROM ladder_head), (SELECT count(*) FROM minimax_cert)", "0|0\n");
    sqlite3_close(db);
}

Test(store_ladder, storing_again_replaces_and_the_content_hash_sees_it)
{
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    char *first, *next;
    kvt_store *s = open_store(db_path);
    const kvt_sink sink = kvt_store_sink(s);

    fake_trace_init(&t, 0);
    const kvt_cell c = minimax_cell(&t);
    fill(&f, &c);
    cr_assert(keep(s, &c, &f, &err) == KVT_OK, "%s", err.text);
    sqlite3 *db = open_plain(db_path);
    first = dump(db, "SELECT result_sha256 FROM cell");
    for (int change = 0; change < 5; change++) {
        fill(&f, &c);
        switch (change) {
        case 0: f.r.wall_s = 99; break;           /* not content */
        case 1: ladder[1].random_mean += 1e-9; break;
        case 2: ladder[2].minimax_iters++; break;
        case 3: lambda[3]++, lambda[4]--; break;
        default: best_set[1]++; break;
        }
        cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_OK, "%s", err.text);
        next = dump(db, "SELECT result_sha256 FROM cell");
        cr_assert((strcmp(first, next) == 0) == (change == 0), "change %d", change);
        sqlite3_free(next);
    }
    expect_rows(db, "SELECT (SELECT count(*) FROM ladder_head), (SELECT count(*) FROM minimax_cert)", "4|3\n");
    sqlite3_free(first);
    sqlite3_close(db);
    finish_store(s);
}

static void break_bound(void)  { ladder[0].minimax_bound = ladder[0].minimax_found + 1e-3; }
static void break_found(void)  { ladder[1].minimax_found = ladder[1].fixed_max + 1e-3; }
static void break_oracle(void) { ladder[1].minimax_bound = ladder[1].oracle_max - 1e-3; }
static void break_mean(void)   { ladder[2].oracle_mean = ladder[2].fixed_mean + 1e-3; }
static void break_stop(void)   { ladder[2].minimax_stop = "tired"; }
static void break_twice(void)  { ladder[2].head = 1; }
static void break_q31(void)    { ladder[0].bound_q31 = 0x80000001u; }

Test(store_ladder, a_ladder_that_cannot_be_is_refused_whole)
{
    static void (*const breaker[])(void) = {break_bound, break_found, break_oracle, break_mean, break_stop, break_twice, break_q31};
    static fake_result f;
    fake_trace t;
    kvt_err err = {0};
    kvt_store *s = open_store(db_path);

    fake_trace_init(&t, 0);
    const kvt_cell c = minimax_cell(&t);
    for (size_t i = 0; i < sizeof breaker / sizeof breaker[0]; i++) {
        fill(&f, &c);
        breaker[i]();
        cr_assert(keep(s, &c, &f, &err) == KVT_EDB, "breaker %zu", i);
        cr_assert(strstr(err.text, "oracle_minimax") && (strstr(err.text, "ladder_head") || strstr(err.text, "minimax_cert")), "%s", err.text);
    }
    sqlite3 *db = open_plain(db_path);
    expect_rows(db, "SELECT (SELECT count(*) FROM result_head) + (SELECT count(*) FROM ladder_head) + (SELECT count(*) FROM minimax_cert)", "0\n");
    sqlite3_close(db);
    finish_store(s);
}

Test(store_ladder, v_check_reports_contradictions)
{
    static const struct { const char *sql, *defect; } plant[] = {
        {"DELETE FROM ladder_head WHERE head = 1", "minimax cell whose ladder is not complete"},
        {"DELETE FROM minimax_cert WHERE head = 1", "minimax bound without certificate"},
        {"UPDATE minimax_cert SET bound_q31 = bound_q31 + 100 WHERE head = 1", "minimax bound without certificate"},
        {"UPDATE ladder_head SET minimax_found = minimax_found - 0.001 WHERE head = 1", "minimax set loses something else than minimax_found"},
        {"UPDATE ladder_head SET stability_gap = stability_gap + 0.001 WHERE head = 1", "stability gap is not minimax_bound - oracle_max"},
        {"UPDATE result_head SET lost_mean = 0, lost_q50 = 0, lost_q90 = 0, lost_q95 = 0, lost_q99 = 0, lost_cvar95 = 0, lost_cvar99 = 0,"
         " lost_max = 0.09 WHERE head = 1 AND cell_id = 2", "fixed set beats certified minimax bound"}};
    sqlite3 *db = database();

    sqlite3_exec(db, "PRAGMA foreign_keys = ON", NULL, NULL, NULL);
    for (size_t i = 0; i < sizeof plant / sizeof plant[0]; i++) {
        char want[128], *have;
        sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
        cr_assert(sqlite3_exec(db, plant[i].sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", plant[i].sql, sqlite3_errmsg(db));
        snprintf(want, sizeof want, "%s\n", plant[i].defect);
        have = dump(db, "SELECT DISTINCT defect FROM v_check ORDER BY 1");
        cr_assert(strstr(have, want), "%s: v_check says %s", plant[i].sql, have);
        sqlite3_free(have);
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    expect_sound(db);
    sqlite3_close(db);
}
