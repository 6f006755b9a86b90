/* The terminal summary of a results database: what it says, and that nothing in the
 * database can move the cursor. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>
#include "fake_results.h"
#include "kvt_store.h"
#include "kvt_summary.h"

static char dir[64], db_path[96];

static void make_dir(void)
{
    strcpy(dir, "/tmp/kvt_summary_XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    snprintf(db_path, sizeof db_path, "%s/r.db", dir);
}

static void remove_dir(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    cr_assert(system(command) == 0);
}

TestSuite(summary, .init = make_dir, .fini = remove_dir, .timeout = 60);

static kvt_store *open_store(void)
{
    static char *words[] = {"kvtrace"};
    static const kvt_run_info run = {"replay", 1, words, "cafe", 0, 1, "portable"};
    kvt_store *s = NULL;
    kvt_err err = {0};
    cr_assert(kvt_store_open(&s, db_path, &run, &err) == KVT_OK, "%s", err.text);
    return s;
}

static void finish_store(kvt_store *s)
{
    kvt_err err = {0};
    cr_assert(kvt_store_finish(s, 0, &err) == KVT_OK, "%s", err.text);
    kvt_store_close(s);
}

static void store_cell(kvt_store *s, const kvt_cell *c, void (*change)(fake_result *))
{
    static fake_result f;
    const kvt_sink sink = kvt_store_sink(s);
    kvt_err err = {0};
    int todo = 0;
    cr_assert(sink.ops->claim(sink.self, c, &todo, &err) == KVT_OK && todo, "%s", err.text);
    fake_fill(&f, c);
    if (change) change(&f);
    cr_assert(sink.ops->store(sink.self, c, &f.r, &err) == KVT_OK, "%s", err.text);
}

static void store_trace(kvt_store *s, const fake_trace *t)
{
    for (int config = 0; config < FAKE_CONFIGS; config++)
        for (int budget = 0; budget < FAKE_BUDGETS; budget++)
            for (uint64_t seed = 0; seed < (config == 2 ? 5u : 1u); seed++) {
                const kvt_cell c = fake_cell(t, config, budget, seed);
                store_cell(s, &c, NULL);
            }
}

/* The summary's text. Free it. */
static char *summary(void)
{
    sqlite3 *db = NULL;
    kvt_err err = {0};
    char *text = NULL;
    size_t n = 0;
    cr_assert(kvt_store_open_read(&db, db_path, &err) == KVT_OK, "%s", err.text);
    FILE *out = open_memstream(&text, &n);
    cr_assert(kvt_summary_print(db, db_path, out, &err) == KVT_OK, "%s", err.text);
    fclose(out);
    sqlite3_close(db);
    return text;
}

static void expect_text(const char *text, const char *part)
{
    cr_assert(strstr(text, part) != NULL, "missing: %s\nin:\n%s", part, text);
}

/* Line breaks of paragraphs become blanks, so that sentences can be looked for. */
static char *unwrapped(const char *text)
{
    char *out = strdup(text);
    for (char *p = out; *p; p++)
        if (*p == '\n') *p = ' ';
    return out;
}

static void no_violation(fake_result *f) { f->r.n_violation = 0; }

static void set_losses(fake_result *f)
{
    static const double max[FAKE_HEADS] = {0.25, 0.7125, 0.5, 0.0625};
    no_violation(f);
    for (int h = 0; h < FAKE_HEADS; h++) {
        f->head[h].lost_max = f->head[h].lost_q95 = f->head[h].lost_q99 = f->head[h].lost_cvar99 = max[h];
        f->head[h].lost_q90 = f->head[h].lost_q50 = 0;
        f->head[h].lost_cvar95 = max[h] - 0.0125;
        f->head[h].lost_mean = f->head[h].oracle_mean = 0.125 * max[h];
        for (int k = 0; k < 3; k++)
            f->tau[3 * h + k].n_exceed = f->tau[3 * h + k].n_run = max[h] > (k == 0 ? 0.5 : k == 1 ? 0.25 : 0.1);
    }
    f->r.lost_mean = 0.03125, f->r.lost_worst = 0.7125, f->r.worst_head = 1, f->r.worst_step = 7;
    f->r.cvar95_worst_head = 0.7, f->r.lost_ns_worst = 0.1234567;
    f->r.n_violation = 1;
    f->violation[0] = (kvt_violation){.head = 1, .tau = 0, .start_step = 6, .n_step = 2, .peak_step = 7, .peak_lost = 0.7125,
        .peak_oracle_lost = 0.1875, .excess_area = 0.2, .cause = KVT_CAUSE_SELECTION, .share_top1 = NAN, .share_top5 = NAN,
        .share_top20 = NAN, .foreseeable = -1, .recurrent = -1};
}

Test(summary, numbers_come_from_the_right_place)
{
    fake_trace t;
    char *text, *flat;
    kvt_store *s = open_store();
    fake_trace_init(&t, 0);
    const kvt_cell full = fake_cell(&t, 0, 0, 0), snap = fake_cell(&t, 1, 0, 0), other = fake_cell(&t, 1, 1, 0);
    store_cell(s, &full, NULL);
    store_cell(s, &snap, set_losses);
    store_cell(s, &other, NULL);                  /* 50 %: not the nearest to 20 % */
    finish_store(s);
    text = summary();
    flat = unwrapped(text);
    expect_text(flat, "Open-loop replay on full-cache trajectories: evictions do not feed back into later queries.");
    expect_text(flat, "fake-1b: 1 trace, 1 cluster, 4 query heads with full attention");
    expect_text(flat, "At 20 % of the prompt's entries the CVaR95 of a worst KV head is 0.700: snapkv, which holds 0.200 of the "
                      "entries. Worst seen in 1 cluster: 0.713 of a head's attention in one step (layer 0, head 1, "
                      "step 7, trace t0); 0.188 of it could not have been avoided with this budget. 1 of 1 cluster had a "
                      "step above 0.5. Not shown: the effect of evictions on later tokens.");
    expect_text(text, "policies\n    snapkv  ");
    expect_text(text, " 0.200 0.0312  0.700  0.713    0.123    1\n");
    expect_text(text, "baselines\n    full  ");
    expect_text(text, "  1.00      0      0      0        0    0\n");
    expect_text(text, "snapkv: four heads with the largest CVaR95 (exploratory, one trace)\n");
    expect_text(text, "      0     1    0.700   0.0891    0.713       1\n      0     2    0.487 ");
    cr_assert(!strstr(text, "fragile") && !strstr(text, "0.5 %"));
    free(text), free(flat);
}

Test(summary, a_sweep_fits_the_page_and_puts_seeds_together)
{
    fake_trace t;
    char *text;
    int lines = 0;
    kvt_store *s = open_store();
    for (int i = 0; i < 3; i++) {
        fake_trace_init(&t, i);
        store_trace(s, &t);
    }
    finish_store(s);
    text = summary();
    expect_text(text, "random (5 seeds)");
    cr_assert(strstr(strstr(text, "random") + 1, "random") == NULL, "one line for random:\n%s", text);
    expect_text(text, "3 traces, 2 clusters");
    expect_text(text, "(exploratory, mean over 3 traces");
    expect_text(text, "bounds (these know the future)\n    oracle_step");
    expect_text(text, "\nSelf-checks that are not ok\n  warn    tie_share, 42 cells: half of the kept entries are tied\n");
    cr_assert(!strstr(text, "fragile") && !strstr(text, "Not finished"));
    for (char *p = text, *end; (end = strchr(p, '\n')); p = end + 1, lines++)
        cr_assert(end - p <= 80, "%.*s", (int)(end - p), p);
    cr_assert(lines > 20 && text[strlen(text) - 1] == '\n');
    free(text);
}

Test(summary, the_policy_with_the_smallest_tail_is_named)
{
    fake_trace t;
    char *text, *flat, other_json[] = "{\"id\":\"h2o\"}";
    kvt_config_info other = *fake_config(1);
    kvt_store *s = open_store();
    fake_trace_init(&t, 0);
    other.policy_id = other.title = other.label = "h2o";
    other.canonical_json = other_json;
    fake_hex(other.sha256, other_json);
    kvt_cell c, d = fake_cell(&t, 1, 0, 0), oracle = fake_cell(&t, 3, 0, 0);
    fake_result f;
    uint64_t seed = 0;
    do {                                          /* one that loses more than set_losses() */
        c = fake_cell(&t, 1, 0, seed++);
        fake_fill(&f, &c);
    } while (f.r.cvar95_worst_head <= 0.7 || f.r.cvar95_worst_head >= 0.9);
    const kvt_cell full = fake_cell(&t, 0, 0, 0);
    d.config = &other;
    kvt_cell_key(&d);
    store_cell(s, &c, NULL);
    store_cell(s, &d, set_losses);
    store_cell(s, &oracle, NULL);
    store_cell(s, &full, NULL);
    finish_store(s);
    text = summary(), flat = unwrapped(text);
    expect_text(flat, "the smallest CVaR95 of a worst KV head is 0.700 (of 2 policies, up to 0.");
    expect_text(flat, "): h2o, which holds 0.200");
    free(text), free(flat);
}

static double mean_of_next, cvar_of_next;

static void set_tail(fake_result *f)
{
    f->r.lost_mean = mean_of_next, f->r.cvar95_worst_head = cvar_of_next, f->r.lost_worst = 1;
}

/* A policy of its own name, or a variant of snapkv, with that mean and tail. */
static void store_variant(kvt_store *s, const fake_trace *t, const char *id, const char *label, double mean, double cvar95)
{
    char json[128];
    kvt_config_info other = *fake_config(1);
    kvt_cell c = fake_cell(t, 1, 0, 0);
    snprintf(json, sizeof json, "{\"id\":\"%s\",\"label\":\"%s\"}", id, label);
    other.policy_id = other.title = id;
    other.label = label;
    other.canonical_json = json;
    fake_hex(other.sha256, json);
    c.config = &other;
    kvt_cell_key(&c);
    mean_of_next = mean, cvar_of_next = cvar95;
    store_cell(s, &c, set_tail);
}

Test(summary, the_mean_ranks_where_the_tails_are_alike)
{
    fake_trace t;
    char *text, *flat;
    kvt_store *s = open_store();
    fake_trace_init(&t, 0);
    store_variant(s, &t, "snapkv", "snapkv", 0.2, 0.9990);
    store_variant(s, &t, "tova", "tova", 0.1, 0.9995);
    store_variant(s, &t, "h2o", "h2o", 0.105, 0.9999);
    finish_store(s);
    text = summary(), flat = unwrapped(text);
    expect_text(flat, "the smallest mean loss is 0.100 (of 3 policies, up to 0.200): tova, which holds");
    expect_text(flat, "CVaR95 does not separate these policies: 3 of 3 lie between 0.999 and 1.00. Ordered by the mean (~: within "
                      "0.01 of the line above; a test of the order needs 6 clusters).");
    expect_text(text, "policies\n  1 tova ");
    expect_text(text, "\n ~2 h2o ");
    expect_text(text, "\n  3 snapkv ");
    free(text), free(flat);
}

/* Goal: forty configurations do not fill the screen; the best, the best of each baseline
 * and the oracles have a line, and long labels are cut. */
Test(summary, many_configurations_have_a_short_form)
{
    static const char *const gone[3] = {"snapkv:kernel=13", "snapkv:kernel=77", "    full "};
    char label[FAKE_PROMPT][96];
    fake_trace t;
    char *text, *row;
    int lines = 0;
    kvt_store *s = open_store();
    fake_trace_init(&t, 0);
    for (int i = 0; i < FAKE_PROMPT; i++) {
        snprintf(label[i], sizeof label[i], i == 3 ? "snapkv:kernel=7,window=64,gqa=max,pooling=avg,impl=dkv" : "snapkv:kernel=%d", 2 * i + 1);
        store_variant(s, &t, "snapkv", label[i], 0.1 + 0.001 * i, 0.3 + 0.011 * i);
    }
    for (int config = 0; config < FAKE_CONFIGS; config++)
        if (config != 1) {
            const kvt_cell c = fake_cell(&t, config, 0, 0);
            store_cell(s, &c, NULL);
        }
    finish_store(s);
    text = summary();
    expect_text(text, "policies\n  1 snapkv:kernel=1 ");
    expect_text(text, "\n  6 snapkv:kernel=11 ");
    expect_text(text, "\n    ... 34 more, up to a CVaR95 of 0.729; kvtrace report shows all\nbaselines\n    random ");
    expect_text(text, "bounds (these know the future)\n    oracle_step");
    row = strstr(text, "\n  4 snapkv:kernel=7,window=64,gqa=");
    cr_assert(row && strstr(row, ".. ") && strstr(row, ".. ") < strchr(row + 1, '\n'), "%s", text);
    for (int i = 0; i < 3; i++) cr_assert(!strstr(text, gone[i]), "%s is there:\n%s", gone[i], text);
    for (char *p = text, *end; (end = strchr(p, '\n')); p = end + 1, lines++)
        cr_assert(end - p <= 80, "%.*s", (int)(end - p), p);
    cr_assert(lines <= 40, "%d lines:\n%s", lines, text);
    free(text);
}

static void all_trivial(fake_result *f)
{
    no_violation(f);
    for (int h = 0; h < FAKE_HEADS; h++) f->head[h].n_trivial = FAKE_STEPS;
}

Test(summary, heads_with_trivial_steps_only_are_not_ranked)
{
    fake_trace t;
    char *text;
    kvt_store *s = open_store();
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0);
    store_cell(s, &c, all_trivial);
    finish_store(s);
    text = summary();
    expect_text(text, "Every step of every head fits into this budget");
    cr_assert(!strstr(text, "largest CVaR95 (exp"));
    free(text);
}

Test(summary, an_empty_database_and_unfinished_cells_are_said)
{
    fake_trace t;
    kvt_err err = {0};
    char *text, *flat;
    int todo;
    kvt_store *s = open_store();
    finish_store(s);
    text = summary();
    expect_text(text, "No finished cells yet.");
    expect_text(text, "Self-checks: none recorded.");
    free(text);
    s = open_store();
    const kvt_sink sink = kvt_store_sink(s);
    fake_trace_init(&t, 0);
    const kvt_cell c = fake_cell(&t, 1, 0, 0), d = fake_cell(&t, 1, 1, 0), e = fake_cell(&t, 0, 0, 0);
    cr_assert(sink.ops->claim(sink.self, &c, &todo, &err) == KVT_OK);
    cr_assert(sink.ops->claim(sink.self, &d, &todo, &err) == KVT_OK);
    cr_assert(sink.ops->fail(sink.self, &c, "row 3 sums to 0.9", &err) == KVT_OK);
    store_cell(s, &e, NULL);
    text = summary(), flat = unwrapped(text);     /* while the run is going on */
    expect_text(flat, "Not finished: 0 cells to do, 1 running, 1 failed, the first because: row 3 sums to 0.9.");
    expect_text(flat, "no policy has been replayed yet");
    expect_text(flat, "Self-checks: 2, all ok.");
    free(text), free(flat);
    finish_store(s);
}

Test(summary, hostile_text_stays_in_its_line)
{
    char long_label[400];
    fake_trace t;
    char *text;
    kvt_config_info evil = *fake_config(1);
    kvt_store *s = open_store();
    memset(long_label, 'x', sizeof long_label - 1);
    long_label[sizeof long_label - 1] = 0;
    memcpy(long_label, "\x1b[2J\r\xff\xe2\x80\xae", 9);
    evil.label = long_label;
    fake_trace_init(&t, 0);
    t.provenance[1].value = "\x1b]0;title\x07\nAt 20 % all is well";
    strcpy(t.path, "a/\x1b[31m\xff.h5");
    kvt_cell c = fake_cell(&t, 1, 0, 0);
    c.config = &evil;
    store_cell(s, &c, NULL);
    finish_store(s);
    text = summary();
    for (char *p = text; *p; p++) cr_assert((unsigned char)*p >= 0x20 || *p == '\n', "byte %d", *p);
    cr_assert(!strchr(text, '\x7f') && !strstr(text, "\xe2\x80\xae") && !strchr(text, '\xff'));
    expect_text(text, "\\u{1B}]0;title\\u{7}");
    cr_assert(!strstr(text, "\nAt 20 % all is well"));
    free(text);
}

/* A budget in tokens alone; and, with several, the one nearest to 20 % of the prompt. */
Test(summary, the_budget_nearest_to_a_fifth_is_shown)
{
    static const kvt_budget_info token[2] = {{"tokens", 28, "share", "28t"}, {"tokens", 9, "share", "9t"}};
    fake_trace t;
    char *text;
    kvt_store *s = open_store();
    fake_trace_init(&t, 0);
    for (int i = 0; i < 2; i++) {
        kvt_cell c = fake_cell(&t, 1, 0, 0);
        c.budget = &token[i];
        c.requested_tokens = token[i].value;
        kvt_cell_key(&c);
        store_cell(s, &c, NULL);
    }
    finish_store(s);
    text = summary();
    expect_text(text, "At 9 tokens per cache the CVaR95");
    free(text);
}

Test(summary, a_full_disk_is_reported)
{
    sqlite3 *db = NULL;
    kvt_err err = {0};
    FILE *full = fopen("/dev/full", "w");
    finish_store(open_store());
    if (!full) cr_skip_test("no /dev/full");
    cr_assert(kvt_store_open_read(&db, db_path, &err) == KVT_OK);
    cr_assert(kvt_summary_print(db, db_path, full, &err) == KVT_EIO);
    fclose(full);
    sqlite3_close(db);
}
