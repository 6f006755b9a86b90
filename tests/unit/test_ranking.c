/* The order of configurations: its key, who has a place, who is apart; and which are
 * drawn in colour. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "fake_results.h"
#include "kvt_store.h"
#include "ranking.h"
#include "report_impl.h"

static char dir[64], db_path[96];
static kvt_store *store;

static void make_store(void)
{
    static char *words[] = {"kvtrace"};
    static const kvt_run_info run = {"replay", 1, words, "cafe", 0, 1, "portable"};
    kvt_err err = {0};
    strcpy(dir, "/tmp/kvt_ranking_XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    snprintf(db_path, sizeof db_path, "%s/r.db", dir);
    cr_assert(kvt_store_open(&store, db_path, &run, &err) == KVT_OK, "%s", err.text);
}

static void remove_store(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    cr_assert(system(command) == 0);
}

TestSuite(ranking, .init = make_store, .fini = remove_store, .timeout = 60);

/* One cell of policy `id` with that label, tail and mean. */
static void add(const fake_trace *t, const char *id, const char *label, int budget, double cvar95, double mean)
{
    static fake_result f;
    const kvt_sink sink = kvt_store_sink(store);
    const int kind = !strcmp(id, "full") ? 0 : !strncmp(id, "oracle", 6) ? 3 : !strncmp(id, "random", 6) ? 2 : 1;
    kvt_config_info config = *fake_config(kind);
    char json[96];
    kvt_cell c = fake_cell(t, kind, budget, 0);
    kvt_err err = {0};
    int todo = 0;
    snprintf(json, sizeof json, "{\"id\":\"%s\",\"label\":\"%s\"}", id, label);
    config.policy_id = config.title = id;
    config.label = label;
    config.canonical_json = json;
    config.query_aware = kind == 1 && strncmp(id, "knorm", 5) != 0;
    fake_hex(config.sha256, json);
    c.config = &config;
    kvt_cell_key(&c);
    fake_fill(&f, &c);
    f.r.lost_mean = mean;
    f.r.cvar95_worst_head = cvar95;
    f.r.lost_worst = 1;
    cr_assert(sink.ops->claim(sink.self, &c, &todo, &err) == KVT_OK && todo, "%s", err.text);
    cr_assert(sink.ops->store(sink.self, &c, &f.r, &err) == KVT_OK, "%s", err.text);
}

static kvt__ranking rank(sqlite3 **db)
{
    kvt__ranking r;
    kvt_err err = {0};
    cr_assert(kvt_store_finish(store, 0, &err) == KVT_OK, "%s", err.text);
    kvt_store_close(store);
    cr_assert(kvt_store_open_read(db, db_path, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt__ranking_read(&r, *db, 1, "test", 1, &err) == KVT_OK, "%s", err.text);
    return r;
}

static void done(kvt__ranking *r, sqlite3 *db)
{
    kvt__ranking_free(r);
    sqlite3_close(db);
}

static void expect_order(const kvt__ranking *r, const char *const *label, size_t n)
{
    cr_assert(r->n == n, "%zu entries", r->n);
    for (size_t i = 0; i < n; i++) cr_assert(strcmp(r->e[i].label, label[i]) == 0, "%zu is %s, not %s", i, r->e[i].label, label[i]);
}

Test(ranking, the_tail_decides_where_it_differs)
{
    static const char *const order[] = {"b", "a", "c", "full", "random", "oracle_step"};
    fake_trace t;
    sqlite3 *db;
    fake_trace_init(&t, 0);
    add(&t, "full", "full", 0, 0, 0);
    add(&t, "random", "random", 0, 0.9, 0.5);
    add(&t, "oracle_step", "oracle_step", 0, 0.1, 0.05);
    add(&t, "a", "a", 0, 0.5, 0.1);
    add(&t, "b", "b", 0, 0.4, 0.3);
    add(&t, "c", "c", 0, 0.8, 0.2);
    kvt__ranking r = rank(&db);
    expect_order(&r, order, 6);
    cr_assert(!r.by_mean && r.n_ranked == 3 && r.n_alike == 1 && r.n_cluster == 1 && r.n_trace == 1);
    cr_assert(r.e[0].place == 1 && r.e[2].place == 3 && r.e[3].place == 0);
    cr_assert(r.e[1].apart && r.e[2].apart && r.e[2].apart_first);
    done(&r, db);
}

Test(ranking, the_mean_decides_where_most_tails_are_alike)
{
    static const char *const order[] = {"a", "c", "b", "d"};
    fake_trace t;
    sqlite3 *db;
    fake_trace_init(&t, 0);
    add(&t, "a", "a", 0, 0.9995, 0.100);
    add(&t, "b", "b", 0, 0.9993, 0.300);
    add(&t, "c", "c", 0, 0.9999, 0.105);
    add(&t, "d", "d", 0, 0.5000, 0.400);
    kvt__ranking r = rank(&db);
    expect_order(&r, order, 4);
    cr_assert(r.by_mean && r.n_alike == 3 && r.alike_lo == 0.9993 && r.alike_hi == 0.9999);
    cr_assert(!r.e[1].apart && r.e[2].apart && r.e[3].apart && !r.e[1].apart_first && r.e[3].apart_first);
    cr_assert(kvt__entry_value(&r, &r.e[3]) == 0.4 && strcmp(kvt__ranking_key(&r), "mean") == 0);
    done(&r, db);
}

Test(ranking, half_is_not_most)
{
    fake_trace t;
    sqlite3 *db;
    fake_trace_init(&t, 0);
    add(&t, "a", "a", 0, 0.90, 0.1);
    add(&t, "b", "b", 0, 0.90, 0.2);
    add(&t, "c", "c", 0, 0.70, 0.3);
    add(&t, "d", "d", 0, 0.50, 0.4);
    kvt__ranking r = rank(&db);
    cr_assert(!r.by_mean && r.n_alike == 2 && strcmp(r.e[0].label, "d") == 0);
    done(&r, db);
}

Test(ranking, a_policy_of_other_traces_has_no_place)
{
    static const char *const order[] = {"b", "a", "few", "elsewhere"};
    fake_trace t[2];
    sqlite3 *db;
    for (int i = 0; i < 2; i++) {
        fake_trace_init(&t[i], 2 * i);
        add(&t[i], "a", "a", 0, 0.5, 0.2);
        add(&t[i], "b", "b", 0, 0.3, 0.1);
    }
    add(&t[1], "few", "few", 0, 0.1, 0.05);
    add(&t[0], "elsewhere", "elsewhere", 1, 0.1, 0.05);  /* not at this budget */
    kvt__ranking r = rank(&db);
    expect_order(&r, order, 4);
    cr_assert(r.n_ranked == 2 && r.n_trace == 2 && r.n_cluster == 2);
    cr_assert(r.e[2].place == 0 && r.e[2].here && r.e[2].n_trace == 1 && !r.e[3].here && isnan(r.e[3].mean));
    cr_assert(r.n_budget == 2 && isnan(r.e[3].at[0]) && r.e[3].at[1] == 0.1);
    done(&r, db);
}

/* Goal: with enough documents a sign test says who is apart; method: 10 documents; b is
 * worse than a in all, c than b in half of them; knorm does not see the question. */
Test(ranking, documents_separate_policies)
{
    fake_trace t;
    sqlite3 *db;
    for (int i = 0; i < 10; i++) {
        const double x = 0.1 + 0.01 * i;
        fake_trace_init(&t, 2 * i);               /* every second number is another document */
        add(&t, "a", "a", 0, x, 0.1);
        add(&t, "b", "b", 0, x + 0.005, 0.1);     /* closer than 0.01, and yet apart */
        add(&t, "c", "c", 0, x + (i % 2 ? 0.045 : 0), 0.1);
        add(&t, "knorm", "knorm", 0, x + 0.5, 0.1);
    }
    kvt__ranking r = rank(&db);
    cr_assert(r.n_cluster == 10 && !r.by_mean && r.n_ranked == 4);
    cr_assert(strcmp(r.e[1].label, "b") == 0 && r.e[1].apart && r.e[1].apart_first);
    cr_assert(strcmp(r.e[2].label, "c") == 0 && !r.e[2].apart);
    cr_assert(strcmp(r.e[3].label, "knorm") == 0 && !r.e[3].apart && !r.e[3].apart_first);
    done(&r, db);
}

Test(ranking, the_groups_of_alike_values_are_found)
{
    static const double v[6] = {0.1, 0.105, 0.109, 0.115, 0.5, 0.501};
    size_t first;
    cr_assert(kvt__most_alike(v, 6, &first) == 3 && first == 0);
    cr_assert(kvt__most_alike(v + 4, 2, &first) == 2 && first == 0);
    cr_assert(kvt__most_alike(v, 0, &first) == 0);
    static const double none[2] = {0.5, NAN};
    cr_assert(kvt__most_alike(none, 2, &first) == 1 && first == 0);
}

Test(ranking, the_sign_test_is_binomial)
{
    double a[12] = {0}, b[12];
    for (int i = 0; i < 12; i++) b[i] = i < 8 ? 0.1 : i < 10 ? -0.1 : 1e-7;
    cr_assert_float_eq(kvt__sign_test(a, b, 12), 0.109375, 1e-12);    /* 8 : 2, two without a difference */
    cr_assert_float_eq(kvt__sign_test(b, a, 12), 0.109375, 1e-12);
    cr_assert_float_eq(kvt__sign_test(a, b, 6), 0.03125, 1e-12);
    cr_assert_float_eq(kvt__sign_test(a, a, 12), 1, 1e-12);
    cr_assert_float_eq(kvt__sign_test(a, b, 0), 1, 1e-12);
}

Test(ranking, holm_is_monotone_and_keeps_its_order)
{
    double p[4] = {.01, .04, .03, .005}, q[5] = {.0001, .02, .02, .5, .9};
    static const double want_p[4] = {.03, .06, .06, .02}, want_q[5] = {.0005, .08, .08, 1, 1};
    cr_assert(kvt__holm(p, 4) && kvt__holm(q, 5));
    for (int i = 0; i < 4; i++) cr_assert_float_eq(p[i], want_p[i], 1e-12);
    for (int i = 0; i < 5; i++) cr_assert_float_eq(q[i], want_q[i], 1e-12);
}

/* ---- in colour --------------------------------------------------------------------- */

static kvt__scope scope_of(kvt__ranking *r)
{
    return (kvt__scope){.rank = *r, .config_id = r->e[0].config_id, .budget = "0.2"};
}

/* Labels of the chosen, separated by blanks. */
static const char *chosen(const kvt__scope *s)
{
    static char out[256];
    out[0] = 0;
    for (size_t i = 0; i < s->n_chosen; i++) {
        if (i) strcat(out, " ");
        strcat(out, s->rank.e[s->chosen[i]].label);
    }
    return out;
}

/* a1 .. a3 are one policy; f is bad here and best at the other budget. */
static void add_seven(void)
{
    static const char *const label[7] = {"a1", "a2", "b", "c", "d", "e", "f"};
    fake_trace t;
    fake_trace_init(&t, 0);
    for (int i = 0; i < 7; i++) {
        const char *id = i < 2 ? "a" : label[i];
        add(&t, id, label[i], 0, 0.1 + 0.1 * i, 0.1);
        add(&t, id, label[i], 1, i == 6 ? 0.01 : 0.05 + 0.05 * i, 0.1);
    }
    add(&t, "random_protect", "random_protect", 0, 0.9, 0.5);
    add(&t, "random_protect", "random_protect:window=8", 0, 0.8, 0.4);
    add(&t, "oracle_step", "oracle_step", 0, 0.05, 0.05);
    add(&t, "full", "full", 0, 0, 0);
}

Test(ranking, the_best_of_each_policy_and_the_contested_one_are_chosen)
{
    static const kvt_report_opts none = {0};
    kvt_err err = {0};
    sqlite3 *db;
    add_seven();
    kvt__ranking r = rank(&db);
    kvt__scope s = scope_of(&r);
    cr_assert(kvt__highlight(&s, &none, NULL, &err) == KVT_OK);
    cr_assert(strcmp(chosen(&s), "a1 b c d f") == 0, "%s", chosen(&s));
    cr_assert(s.contested == 4 && s.place_lo == 1 && s.place_hi == 6 && !s.named);
    for (size_t i = 0; i < r.n; i++) {
        const char *l = r.e[i].label;
        const int drawn = kvt__drawn_as(&s, &r.e[i]);
        const int want = !strcmp(l, "a1") ? 0 : !strcmp(l, "f") ? 4 : !strcmp(l, "oracle_step") ? KVT__DRAWN_ORACLE
            : !strcmp(l, "full") ? KVT__NOT_DRAWN : !strcmp(l, "random_protect") ? KVT__DRAWN_REFERENCE
            : strchr("ae", l[0]) || l[0] == 'r' ? KVT__DRAWN_APART : l[0] - 'a';
        cr_assert(drawn == want, "%s is drawn as %d, not %d", l, drawn, want);
    }
    done(&r, db);
}

Test(ranking, the_user_chooses_by_label_or_id)
{
    static const char *const name[4] = {"a2", "a", "random_protect", "nobody"}, *const oracle[1] = {"oracle_step"};
    const kvt_report_opts opts = {.highlight = name, .n_highlight = 4}, bad = {.highlight = oracle, .n_highlight = 1};
    int found[4] = {0};
    kvt_err err = {0};
    sqlite3 *db;
    add_seven();
    kvt__ranking r = rank(&db);
    kvt__scope s = scope_of(&r);
    cr_assert(kvt__highlight(&s, &opts, found, &err) == KVT_OK);
    cr_assert(strcmp(chosen(&s), "a2 a1 random_protect") == 0, "%s", chosen(&s));
    cr_assert(s.named && found[0] && found[1] && found[2] && !found[3] && s.n_reference == 0);
    s = scope_of(&r);
    cr_assert(kvt__highlight(&s, &bad, found, &err) == KVT_EARG && strstr(err.text, "oracle_step"));
    done(&r, db);
}
