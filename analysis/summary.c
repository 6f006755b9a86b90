/* summary.c - what a results database says, in the terminal.
 *
 * For each model: a verdict in words, the policies at one budget, the heads that lose
 * most under the policy with the smallest tail, and the self-checks that are not ok.
 * Policies are ordered by CVaR95 of their worst KV head, the mean of the worst 5 % of
 * the steps. All text of the database may be hostile and passes through kvt_printable(). */
#include "kvt_summary.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_text.h"

#define OPEN_LOOP "Open-loop replay on full-cache trajectories: evictions do not feed back into later queries."
enum { PAGE_WIDTH = 80, LABEL_SIZE = 160, N_WORST_HEADS = 5 };

typedef struct page {                   /* where the text goes and what it is about   */
    sqlite3    *db;
    FILE       *out;
    char        shown[256];             /* path of the database, printable            */
    int64_t     model_id, budget_id, n_trace, n_cluster, n_head;
    char        model[LABEL_SIZE], split[16];
    char        share[96];              /* "20 % of the prompt's entries"             */
} page;

typedef struct best_policy {            /* smallest CVaR95 among the policies         */
    int64_t config_id;                  /* 0 = there is none                          */
    char    label[LABEL_SIZE];
    double  cvar95, held_share, largest;  /* largest: CVaR95 of the worst policy      */
    int64_t n_policy;
} best_policy;

/* ---------------------------------------------------------------- text */

/* Columns that a printable string takes: its characters, not its bytes. */
static int columns(const char *text)
{
    int n = 0;

    for (; *text; text++) n += ((unsigned char)*text & 0xc0u) != 0x80u;
    return n;
}

/* Print words between columns `indent` and 80; the first line continues at `at`. */
static void print_wrapped(FILE *out, const char *text, int indent, int at)
{
    while (*text) {
        char word[512];
        size_t n = strcspn(text, " ");
        int width;

        if (n >= sizeof word) n = sizeof word - 1;
        memcpy(word, text, n);
        word[n] = 0;
        text += n + strspn(text + n, " ");
        width = columns(word);
        if (at > indent && at + 1 + width > PAGE_WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', out);
            at++;
        }
        fputs(word, out);
        at += width;
    }
    fputc('\n', out);
}

static void print_paragraph(FILE *out, const char *fmt, ...) KVT_PRINTF(2, 3);
static void print_paragraph(FILE *out, const char *fmt, ...)
{
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    print_wrapped(out, text, 0, 0);
}

/* Three significant digits; NULL of the database (NaN here) is "-". */
static const char *digits(char out[16], double x)
{
    if (isnan(x)) return strcpy(out, "-");
    if (x == 0) return strcpy(out, "0");
    snprintf(out, 16, "%#.3g", x);                /* keeps the zeros of 0.200 */
    if (out[strlen(out) - 1] == '.') out[strlen(out) - 1] = 0;
    return out;
}

static double real_or_nan(sqlite3_stmt *st, int col)
{
    return sqlite3_column_type(st, col) == SQLITE_NULL ? (double)NAN : sqlite3_column_double(st, col);
}

static void copy_text(char *out, size_t size, sqlite3_stmt *st, int col)
{
    kvt_printable(out, size, sqlite3_column_blob(st, col), (size_t)sqlite3_column_bytes(st, col));
}

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

/* ---------------------------------------------------------------- queries */

static kvt_status fail_db(const page *p, kvt_err *err)
{
    char words[200];

    kvt_printable_str(words, sizeof words, sqlite3_errmsg(p->db));
    return kvt_fail(err, (sqlite3_errcode(p->db) & 0xff) == SQLITE_CORRUPT ? KVT_EFORMAT : KVT_EDB,
                    "%s: reading the results: %s", p->shown, words);
}

/* Prepare a query and bind ?1 model, ?2 split, ?3 budget, ?4 configuration where used. */
static kvt_status query(const page *p, const char *sql, int64_t config_id, sqlite3_stmt **st, kvt_err *err)
{
    if (sqlite3_prepare_v2(p->db, sql, -1, st, NULL) != SQLITE_OK) return fail_db(p, err);
    sqlite3_bind_int64(*st, 1, p->model_id);
    if (sqlite3_bind_parameter_count(*st) >= 2) sqlite3_bind_text(*st, 2, p->split, -1, SQLITE_STATIC);
    if (sqlite3_bind_parameter_count(*st) >= 3) sqlite3_bind_int64(*st, 3, p->budget_id);
    if (sqlite3_bind_parameter_count(*st) >= 4) sqlite3_bind_int64(*st, 4, config_id);
    return KVT_OK;
}

/* End of a loop over rows: the last step() must have been the end. */
static kvt_status finish(const page *p, sqlite3_stmt *st, int step, kvt_err *err)
{
    const kvt_status rc = step == SQLITE_DONE ? KVT_OK : fail_db(p, err);
    sqlite3_finalize(st);
    return rc;
}

/* The budget nearest to 20 % of the prompt; shares before token counts, one rule before
 * the other, the smaller before the larger. */
static kvt_status choose_budget(page *p, kvt_err *err)
{
    static const char sql[] =
        "SELECT v.budget_id, v.budget_kind, v.budget_value, v.budget, b.rule, avg(v.requested_tokens / t.n_prompt) AS share"
        " FROM v_cell v JOIN trace t USING(trace_id) JOIN budget b USING(budget_id)"
        " WHERE v.model_id = ?1 AND v.split = ?2 AND v.status = 'done' GROUP BY v.budget_id"
        " ORDER BY round(abs(share - 0.2), 9), v.budget_kind, b.rule DESC, share, v.budget_id LIMIT 1";
    sqlite3_stmt *st;
    int step;

    KVT_TRY(query(p, sql, 0, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const char *kind = (const char *)sqlite3_column_text(st, 1), *rule = (const char *)sqlite3_column_text(st, 4);
        const double value = sqlite3_column_double(st, 2);
        const char *how = strcmp(rule, "reference") == 0 ? ", counted as in the reference codes" : "";
        p->budget_id = sqlite3_column_int64(st, 0);
        if (strcmp(kind, "share") == 0)
            snprintf(p->share, sizeof p->share, "%.4g %% of the prompt's entries%s", 100 * value, how);
        else
            snprintf(p->share, sizeof p->share, "%.0f tokens per cache%s", value, how);
        step = sqlite3_step(st);
    }
    return finish(p, st, step, err);
}

/* ---------------------------------------------------------------- policies */

#define SEEDS                                                                                                \
    "(SELECT count(DISTINCT c.seed) FROM cell c JOIN trace t USING(trace_id) WHERE c.config_id = s.config_id" \
    " AND c.budget_id = s.budget_id AND c.status = 'done' AND t.model_id = s.model_id AND t.split = s.split)"

/* "random (5 seeds)" */
static void copy_label(char *out, size_t size, sqlite3_stmt *st, int label_col, int seed_col)
{
    const int64_t n_seed = sqlite3_column_int64(st, seed_col);

    copy_text(out, LABEL_SIZE, st, label_col);
    if (n_seed > 1) snprintf(out + strlen(out), size - strlen(out), " (%" PRId64 " seeds)", n_seed);
}

static kvt_status label_width(const page *p, int *width, kvt_err *err)
{
    static const char sql[] = "SELECT s.policy_label, " SEEDS " FROM v_policy_summary s"
                              " WHERE s.model_id = ?1 AND s.split = ?2 AND s.budget_id = ?3";
    char label[LABEL_SIZE + 32];
    sqlite3_stmt *st;
    int step;

    *width = 20;
    KVT_TRY(query(p, sql, 0, &st, err));
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        copy_label(label, sizeof label, st, 0, 1);
        if (columns(label) + 2 > *width) *width = columns(label) + 2;
    }
    return finish(p, st, step, err);
}

static const char *role_heading(const char *role)
{
    if (strcmp(role, "policy") == 0) return "policies";
    return strcmp(role, "baseline") == 0 ? "baselines" : "bounds (these know the future)";
}

/* One line per configuration: its traces and seeds together. */
static kvt_status print_policies(const page *p, kvt_err *err)
{
    static const char sql[] =
        "SELECT s.role, s.policy_label, s.held_share, s.mean_lost, s.cvar95_worst_head, s.worst_lost, s.worst_lost_ns, "
        SEEDS ", (SELECT count(*) FROM result_head_tau x JOIN tau t USING(tau_id) JOIN v_cell v USING(cell_id) WHERE"
        "  v.config_id = s.config_id AND v.budget_id = s.budget_id AND v.model_id = s.model_id AND v.split = s.split AND"
        "  v.status = 'done' AND t.tau = 0.5 AND x.n_exceed > 0) * 1.0 / s.n_cell AS n_head"
        " FROM v_policy_summary s WHERE s.model_id = ?1 AND s.split = ?2 AND s.budget_id = ?3"
        " ORDER BY CASE s.role WHEN 'policy' THEN 0 WHEN 'baseline' THEN 1 ELSE 2 END, s.cvar95_worst_head, s.mean_lost,"
        " s.policy_label, s.config_id";
    char role[16] = "", last[16] = "", label[LABEL_SIZE + 32], text[6][16];
    sqlite3_stmt *st;
    int step, width;

    KVT_TRY(label_width(p, &width, err));
    fprintf(p->out, "%-*s %6s %8s %8s %8s %8s %5s\n", width, "share lost, 0..1", "held", "mean", "CVaR95", "worst",
            "no sinks", ">0.5");
    KVT_TRY(query(p, sql, 0, &st, err));
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const double n_head = sqlite3_column_double(st, 8);
        copy_text(role, sizeof role, st, 0);
        copy_label(label, sizeof label, st, 1, 7);
        if (strcmp(role, last) != 0) fprintf(p->out, "%s\n", role_heading(role));
        memcpy(last, role, sizeof last);
        for (int i = 0; i < 5; i++) digits(text[i], real_or_nan(st, 2 + i));
        if (n_head == floor(n_head)) snprintf(text[5], sizeof text[5], "%.0f", n_head);
        else digits(text[5], n_head);
        fprintf(p->out, "  %s%*s %6s %8s %8s %8s %8s %5s\n", label, width - 2 - columns(label), "", text[0], text[1],
                text[2], text[3], text[4], text[5]);
    }
    KVT_TRY(finish(p, st, step, err));
    print_paragraph(p->out, "held: share of the prompt's entries that stay. mean: over heads and steps. CVaR95: mean of "
                    "the worst 5 %% of the steps of the worst KV head%s. worst: largest loss of any head and step. "
                    "no sinks: the same without positions 0 to 3. >0.5: query heads with a step that loses more than "
                    "half%s.", p->n_trace > 1 ? ", mean over traces" : "", p->n_trace > 1 ? ", mean per trace" : "");
    return KVT_OK;
}

static kvt_status find_best(const page *p, best_policy *best, kvt_err *err)
{
    /* Without a real policy a baseline that evicts: the full cache always loses nothing. */
    static const char sql[] =
        "SELECT config_id, policy_label, cvar95_worst_head, held_share, count(*) OVER (),"
        " max(cvar95_worst_head) OVER () FROM v_policy_summary"
        " WHERE model_id = ?1 AND split = ?2 AND budget_id = ?3 AND role <> 'oracle' AND policy <> 'full'"
        " AND (role = 'policy' OR NOT EXISTS (SELECT 1 FROM v_policy_summary x WHERE x.model_id = ?1 AND x.split = ?2"
        " AND x.budget_id = ?3 AND x.role = 'policy'))"
        " ORDER BY cvar95_worst_head, mean_lost, policy_label, config_id LIMIT 1";
    sqlite3_stmt *st;
    int step;

    memset(best, 0, sizeof *best);
    KVT_TRY(query(p, sql, 0, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        best->config_id = sqlite3_column_int64(st, 0);
        copy_text(best->label, sizeof best->label, st, 1);
        best->cvar95 = sqlite3_column_double(st, 2);
        best->held_share = sqlite3_column_double(st, 3);
        best->n_policy = sqlite3_column_int64(st, 4);
        best->largest = sqlite3_column_double(st, 5);
        step = sqlite3_step(st);
    }
    return finish(p, st, step, err);
}

/* Where the worst step was, and how much of it even the per-step oracle would have lost. */
static kvt_status describe_worst(const page *p, const best_policy *best, char *text, size_t size, kvt_err *err)
{
    static const char sql[] =
        "SELECT rc.lost_worst, rc.worst_layer, rc.worst_head, rc.worst_step, v.trace,"
        " (SELECT max(x.peak_oracle_lost) FROM violation x WHERE x.cell_id = rc.cell_id AND x.layer = rc.worst_layer"
        "  AND x.head = rc.worst_head AND x.peak_step = rc.worst_step)"
        " FROM result_cell rc JOIN v_cell v USING(cell_id) WHERE v.model_id = ?1 AND v.split = ?2 AND v.budget_id = ?3"
        " AND v.config_id = ?4 AND v.status = 'done' ORDER BY rc.lost_worst DESC, v.trace_id, rc.cell_id LIMIT 1";
    char trace[LABEL_SIZE], worst[16], oracle[16];
    sqlite3_stmt *st;
    int step;

    text[0] = 0;
    KVT_TRY(query(p, sql, best->config_id, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        copy_text(trace, sizeof trace, st, 4);
        snprintf(text, size, " Worst seen in %" PRId64 " cluster%s: %s of a head's attention in one step (layer %d, "
                 "head %d, step %d, trace %s)", p->n_cluster, plural(p->n_cluster),
                 digits(worst, sqlite3_column_double(st, 0)), sqlite3_column_int(st, 1), sqlite3_column_int(st, 2),
                 sqlite3_column_int(st, 3), trace);
        if (sqlite3_column_type(st, 5) != SQLITE_NULL)
            snprintf(text + strlen(text), size - strlen(text), "; %s of it could not have been avoided with this budget",
                     digits(oracle, sqlite3_column_double(st, 5)));
        snprintf(text + strlen(text), size - strlen(text), ".");
        step = sqlite3_step(st);
    }
    return finish(p, st, step, err);
}

static kvt_status describe_failures(const page *p, const best_policy *best, char *text, size_t size, kvt_err *err)
{
    static const char sql[] =
        "SELECT count(*), sum(failed) FROM (SELECT max(failed) AS failed FROM v_trace_fail WHERE model_id = ?1 AND"
        " split = ?2 AND budget_id = ?3 AND config_id = ?4 AND tau = 0.5 GROUP BY cluster_id)";
    sqlite3_stmt *st;
    int step;

    text[0] = 0;
    KVT_TRY(query(p, sql, best->config_id, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const int64_t n = sqlite3_column_int64(st, 0), failed = sqlite3_column_int64(st, 1);
        if (n > 0)
            snprintf(text, size, " %" PRId64 " of %" PRId64 " cluster%s had a step above 0.5.", failed, n, plural(n));
        step = sqlite3_step(st);
    }
    return finish(p, st, step, err);
}

static kvt_status print_verdict(const page *p, const best_policy *best, kvt_err *err)
{
    char worst[512], failures[96], held[16], cvar[16], largest[16], range[64] = "";

    if (best->config_id == 0) {
        print_paragraph(p->out, "At %s no policy has been replayed yet, only the full cache and bounds.", p->share);
        return KVT_OK;
    }
    KVT_TRY(describe_worst(p, best, worst, sizeof worst, err));
    KVT_TRY(describe_failures(p, best, failures, sizeof failures, err));
    if (best->n_policy > 1)
        snprintf(range, sizeof range, " (of %" PRId64 " policies, up to %s)", best->n_policy, digits(largest, best->largest));
    print_paragraph(p->out, "At %s %s CVaR95 of a worst KV head is %s%s: %s, which holds %s of the entries.%s%s "
                    "Not shown: the effect of evictions on later tokens.", p->share,
                    best->n_policy > 1 ? "the smallest" : "the", digits(cvar, best->cvar95), range, best->label,
                    digits(held, best->held_share), worst, failures);
    return KVT_OK;
}

/* ---------------------------------------------------------------- heads */

static kvt_status print_heads(const page *p, const best_policy *best, kvt_err *err)
{
    static const char *const count_word[N_WORST_HEADS + 1] = {"no", "one", "two", "three", "four", "five"};
    static const char sql[] =
        "SELECT r.layer, r.head, avg(r.lost_cvar95) AS cvar95, avg(r.lost_mean), max(r.lost_max), r.max_step, v.trace"
        " FROM result_head r JOIN v_cell v USING(cell_id) WHERE v.model_id = ?1 AND v.split = ?2 AND v.budget_id = ?3 AND"
        " v.config_id = ?4 AND v.status = 'done' AND r.n_trivial < r.n_step GROUP BY r.layer, r.head"
        " ORDER BY cvar95 DESC, r.layer, r.head LIMIT 5";
    char line[N_WORST_HEADS][96], trace[N_WORST_HEADS][LABEL_SIZE], a[16], b[16], c[16];
    sqlite3_stmt *st;
    int step, n = 0;

    if (best->config_id == 0) return KVT_OK;
    KVT_TRY(query(p, sql, best->config_id, &st, err));
    while ((step = sqlite3_step(st)) == SQLITE_ROW && n < N_WORST_HEADS) {
        snprintf(line[n], sizeof line[n], "%7d %5d %8s %8s %8s %7d", sqlite3_column_int(st, 0), sqlite3_column_int(st, 1),
                 digits(a, sqlite3_column_double(st, 2)), digits(b, sqlite3_column_double(st, 3)),
                 digits(c, sqlite3_column_double(st, 4)), sqlite3_column_int(st, 5));
        copy_text(trace[n++], LABEL_SIZE, st, 6);
    }
    KVT_TRY(finish(p, st, step, err));
    if (n == 0) {
        print_paragraph(p->out, "Every step of every head fits into this budget: nothing is ranked.");
        return KVT_OK;
    }
    if (p->n_cluster == 1)
        print_paragraph(p->out, "%s: %s head%s with the largest CVaR95 (exploratory, one trace)", best->label,
                        count_word[n], plural(n));
    else
        print_paragraph(p->out, "%s: %s head%s with the largest CVaR95 (exploratory, mean over %" PRId64 " traces of %"
                        PRId64 " clusters)", best->label, count_word[n], plural(n), p->n_trace, p->n_cluster);
    fprintf(p->out, "%7s %5s %8s %8s %8s %7s%s\n", "layer", "head", "CVaR95", "mean", "worst", "at step",
            p->n_trace > 1 ? "  of trace" : "");
    for (int i = 0; i < n; i++)
        fprintf(p->out, "%s%s%s\n", line[i], p->n_trace > 1 ? "  " : "", p->n_trace > 1 ? trace[i] : "");
    return KVT_OK;
}

/* ---------------------------------------------------------------- checks */

static kvt_status print_checks(const page *p, kvt_err *err)
{
    static const char sql[] = "SELECT check_name, status, n, example FROM v_validity WHERE ?1 IS NOT NULL";
    char name[64], status[16], message[300], text[480];
    int64_t n_ok = 0, n_bad = 0;
    sqlite3_stmt *st;
    int step;

    KVT_TRY(query(p, sql, 0, &st, err));
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const int64_t n = sqlite3_column_int64(st, 2);
        copy_text(name, sizeof name, st, 0);
        copy_text(status, sizeof status, st, 1);
        copy_text(message, sizeof message, st, 3);
        if (strcmp(status, "ok") == 0) {
            n_ok += n;
            continue;
        }
        if (n_bad == 0) fprintf(p->out, "\nSelf-checks that are not ok\n");
        n_bad += n;
        snprintf(text, sizeof text, "%s, %" PRId64 " cell%s: %s", name, n, plural(n), message);
        fprintf(p->out, "  %-8s", status);
        print_wrapped(p->out, text, 10, 10);
    }
    KVT_TRY(finish(p, st, step, err));
    if (n_bad == 0 && n_ok > 0) fprintf(p->out, "\nSelf-checks: %" PRId64 ", all ok.\n", n_ok);
    else if (n_bad == 0) fprintf(p->out, "\nSelf-checks: none recorded.\n");
    else fprintf(p->out, "  ok      %" PRId64 " others\n", n_ok);
    return KVT_OK;
}

static kvt_status print_unfinished(const page *p, kvt_err *err)
{
    static const char sql[] =
        "SELECT sum(status = 'todo'), sum(status = 'running'), sum(status = 'failed'),"
        " (SELECT error FROM cell WHERE status = 'failed' ORDER BY cell_id LIMIT 1) FROM cell WHERE ?1 IS NOT NULL";
    char why[300];
    sqlite3_stmt *st;
    int step;

    KVT_TRY(query(p, sql, 0, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const int64_t todo = sqlite3_column_int64(st, 0), running = sqlite3_column_int64(st, 1);
        const int64_t failed = sqlite3_column_int64(st, 2);
        copy_text(why, sizeof why, st, 3);
        if (todo + running + failed > 0)
            print_paragraph(p->out, "Not finished: %" PRId64 " cell%s to do, %" PRId64 " running, %" PRId64 " failed%s%s. "
                            "The same replay command does what is missing.", todo, plural(todo), running, failed,
                            failed ? ", the first because: " : "", failed ? why : "");
        step = sqlite3_step(st);
    }
    return finish(p, st, step, err);
}

/* ---------------------------------------------------------------- the page */

static kvt_status print_model(page *p, kvt_err *err)
{
    static const char sql[] = "SELECT coalesce(sum(n_q_head), 0) FROM model_layer WHERE model_id = ?1 AND attn_type = 'full'";
    best_policy best;
    sqlite3_stmt *st;
    int step;

    KVT_TRY(query(p, sql, 0, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        p->n_head = sqlite3_column_int64(st, 0);
        step = sqlite3_step(st);
    }
    KVT_TRY(finish(p, st, step, err));
    KVT_TRY(choose_budget(p, err));
    KVT_TRY(find_best(p, &best, err));
    fputc('\n', p->out);
    print_paragraph(p->out, "%s: %" PRId64 " trace%s, %" PRId64 " cluster%s, %" PRId64 " query heads with full attention",
                    p->model, p->n_trace, plural(p->n_trace), p->n_cluster, plural(p->n_cluster), p->n_head);
    KVT_TRY(print_verdict(p, &best, err));
    fputc('\n', p->out);
    KVT_TRY(print_policies(p, err));
    fputc('\n', p->out);
    return print_heads(p, &best, err);
}

kvt_status kvt_summary_print(sqlite3 *db, const char *path, FILE *out, kvt_err *err)
{
    static const char sql[] =
        "SELECT v.model_id, v.split, v.model || CASE m.revision WHEN '' THEN '' ELSE ' ' || m.revision END,"
        " count(DISTINCT v.trace_id), count(DISTINCT v.cluster_id) FROM v_cell v JOIN model m USING(model_id)"
        " WHERE v.status = 'done' AND ?1 IS NOT NULL GROUP BY v.model_id, v.split ORDER BY v.model, m.revision, v.split";
    page p = {.db = db, .out = out};
    sqlite3_stmt *st;
    int step, n = 0;

    kvt_printable_str(p.shown, sizeof p.shown, path);
    print_paragraph(out, "kvtrace results in %s", p.shown);
    print_paragraph(out, "%s", OPEN_LOOP);
    KVT_TRY(query(&p, sql, 0, &st, err));
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        kvt_status rc;
        p.model_id = sqlite3_column_int64(st, 0);
        copy_text(p.split, sizeof p.split, st, 1);
        copy_text(p.model, sizeof p.model, st, 2);
        p.n_trace = sqlite3_column_int64(st, 3);
        p.n_cluster = sqlite3_column_int64(st, 4);
        rc = print_model(&p, err);
        if (rc < 0) {
            sqlite3_finalize(st);
            return rc;
        }
        n++;
    }
    KVT_TRY(finish(&p, st, step, err));
    if (n == 0) fprintf(out, "\nNo finished cells yet.\n");
    KVT_TRY(print_checks(&p, err));
    KVT_TRY(print_unfinished(&p, err));
    if (fflush(out) != 0 || ferror(out)) return kvt_fail(err, KVT_EIO, "%s: the summary could not be written out", p.shown);
    return KVT_OK;
}
