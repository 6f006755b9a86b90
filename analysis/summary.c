/* summary.c - what a results database says, in the terminal.
 *
 * For each model: a verdict in words, the policies at one budget in the order of
 * ranking.h, the heads that lose most under the first of them, and the self-checks that
 * are not ok. Of many configurations only the best few have a line. All text of the
 * database may be hostile and passes through kvt_printable(). */
#include "kvt_summary.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_text.h"
#include "summary_impl.h"

#define OPEN_LOOP "Open-loop replay on full-cache trajectories: evictions do not feed back into later queries."
enum { PAGE_WIDTH = 80, N_WORST_HEADS = 5 };

/* ---------------------------------------------------------------- text */

int kvt__columns(const char *text)
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
        width = kvt__columns(word);
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

void kvt__say(FILE *out, const char *fmt, ...)
{
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    print_wrapped(out, text, 0, 0);
}

const char *kvt__digits(char out[16], double x)
{
    if (isnan(x)) return strcpy(out, "-");
    if (x == 0) return strcpy(out, "0");
    snprintf(out, 16, "%#.3g", x);                /* keeps the zeros of 0.200 */
    if (out[strlen(out) - 1] == '.') out[strlen(out) - 1] = 0;
    return out;
}

static void copy_text(char *out, size_t size, sqlite3_stmt *st, int col)
{
    kvt_printable(out, size, sqlite3_column_blob(st, col), (size_t)sqlite3_column_bytes(st, col));
}

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

/* ---------------------------------------------------------------- queries */

static kvt_status fail_db(const kvt__summary *p, kvt_err *err)
{
    char words[200];

    kvt_printable_str(words, sizeof words, sqlite3_errmsg(p->db));
    return kvt_fail(err, (sqlite3_errcode(p->db) & 0xff) == SQLITE_CORRUPT ? KVT_EFORMAT : KVT_EDB,
                    "%s: reading the results: %s", p->shown, words);
}

kvt_status kvt__summary_query(const kvt__summary *p, const char *sql, int64_t config_id, sqlite3_stmt **st, kvt_err *err)
{
    if (sqlite3_prepare_v2(p->db, sql, -1, st, NULL) != SQLITE_OK) return fail_db(p, err);
    sqlite3_bind_int64(*st, 1, p->model_id);
    if (sqlite3_bind_parameter_count(*st) >= 2) sqlite3_bind_text(*st, 2, p->split, -1, SQLITE_STATIC);
    if (sqlite3_bind_parameter_count(*st) >= 3) sqlite3_bind_int64(*st, 3, p->budget_id);
    if (sqlite3_bind_parameter_count(*st) >= 4) sqlite3_bind_int64(*st, 4, config_id);
    return KVT_OK;
}

kvt_status kvt__summary_end(const kvt__summary *p, sqlite3_stmt *st, int step, kvt_err *err)
{
    const kvt_status rc = step == SQLITE_DONE ? KVT_OK : fail_db(p, err);
    sqlite3_finalize(st);
    return rc;
}

/* The budget nearest to 20 % of the prompt; shares before token counts, one rule before
 * the other, the smaller before the larger. */
static kvt_status choose_budget(kvt__summary *p, kvt_err *err)
{
    static const char sql[] =
        "SELECT v.budget_id, v.budget_kind, v.budget_value, v.budget, b.rule, avg(v.requested_tokens / t.n_prompt) AS share"
        " FROM v_cell v JOIN trace t USING(trace_id) JOIN budget b USING(budget_id)"
        " WHERE v.model_id = ?1 AND v.split = ?2 AND v.status = 'done' GROUP BY v.budget_id"
        " ORDER BY round(abs(share - 0.2), 9), v.budget_kind, b.rule DESC, share, v.budget_id LIMIT 1";
    sqlite3_stmt *st;
    int step;

    KVT_TRY(kvt__summary_query(p, sql, 0, &st, err));
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
    return kvt__summary_end(p, st, step, err);
}

/* ---------------------------------------------------------------- verdict */

/* Without a real policy a baseline that evicts: the full cache always loses nothing. */
static const kvt__entry *find_best(const kvt__ranking *r)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->e[i].here && r->e[i].role != KVT__ORACLE && strcmp(r->e[i].policy, "full") != 0) return &r->e[i];
    return NULL;
}

/* Where the worst step was, and how much of it even the per-step oracle would have lost. */
static kvt_status describe_worst(const kvt__summary *p, char *text, size_t size, kvt_err *err)
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
    KVT_TRY(kvt__summary_query(p, sql, p->best->config_id, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        copy_text(trace, sizeof trace, st, 4);
        snprintf(text, size, " Worst seen in %" PRId64 " cluster%s: %s of a head's attention in one step (layer %d, "
                 "head %d, step %d, trace %s)", p->n_cluster, plural(p->n_cluster),
                 kvt__digits(worst, sqlite3_column_double(st, 0)), sqlite3_column_int(st, 1), sqlite3_column_int(st, 2),
                 sqlite3_column_int(st, 3), trace);
        if (sqlite3_column_type(st, 5) != SQLITE_NULL)
            snprintf(text + strlen(text), size - strlen(text), "; %s of it could not have been avoided with this budget",
                     kvt__digits(oracle, sqlite3_column_double(st, 5)));
        snprintf(text + strlen(text), size - strlen(text), ".");
        step = sqlite3_step(st);
    }
    return kvt__summary_end(p, st, step, err);
}

static kvt_status describe_failures(const kvt__summary *p, char *text, size_t size, kvt_err *err)
{
    static const char sql[] =
        "SELECT count(*), sum(failed) FROM (SELECT max(failed) AS failed FROM v_trace_fail WHERE model_id = ?1 AND"
        " split = ?2 AND budget_id = ?3 AND config_id = ?4 AND tau = 0.5 GROUP BY cluster_id)";
    sqlite3_stmt *st;
    int step;

    text[0] = 0;
    KVT_TRY(kvt__summary_query(p, sql, p->best->config_id, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const int64_t n = sqlite3_column_int64(st, 0), failed = sqlite3_column_int64(st, 1);
        if (n > 0)
            snprintf(text, size, " %" PRId64 " of %" PRId64 " cluster%s had a step above 0.5.", failed, n, plural(n));
        step = sqlite3_step(st);
    }
    return kvt__summary_end(p, st, step, err);
}

static kvt_status print_verdict(const kvt__summary *p, kvt_err *err)
{
    const kvt__ranking *r = &p->rank;
    char worst[512], failures[96], label[LABEL_SIZE], held[16], value[16], largest[16], range[64] = "";

    if (!p->best) {
        kvt__say(p->out, "At %s no policy has been replayed yet, only the full cache and bounds.", p->share);
        return KVT_OK;
    }
    KVT_TRY(describe_worst(p, worst, sizeof worst, err));
    KVT_TRY(describe_failures(p, failures, sizeof failures, err));
    if (r->n_ranked > 1)
        snprintf(range, sizeof range, " (of %zu policies, up to %s)", r->n_ranked,
                 kvt__digits(largest, kvt__entry_value(r, &r->e[r->n_ranked - 1])));
    kvt__say(p->out, "At %s %s %s is %s%s: %s, which holds %s of the entries.%s%s "
                    "Not shown: the effect of evictions on later tokens.", p->share,
                    r->n_ranked > 1 ? "the smallest" : "the", r->by_mean ? "mean loss" : "CVaR95 of a worst KV head",
                    kvt__digits(value, kvt__entry_value(r, p->best)), range,
                    kvt_printable_str(label, sizeof label, p->best->label), kvt__digits(held, p->best->held), worst, failures);
    return KVT_OK;
}

/* ---------------------------------------------------------------- heads */

typedef struct worst_head { int layer, head, step; double cvar95, mean, worst; char trace[LABEL_SIZE]; } worst_head;

static void print_head_table(const kvt__summary *p, const worst_head *w, int n)
{
    char a[16], b[16], c[16];

    fprintf(p->out, "%7s %5s %8s %8s %8s %7s%s\n", "layer", "head", "CVaR95", "mean", "worst", "at step",
            p->n_trace > 1 ? "  of trace" : "");
    for (int i = 0; i < n; i++)
        fprintf(p->out, "%7d %5d %8s %8s %8s %7d%s%s\n", w[i].layer, w[i].head, kvt__digits(a, w[i].cvar95),
                kvt__digits(b, w[i].mean), kvt__digits(c, w[i].worst), w[i].step, p->n_trace > 1 ? "  " : "", p->n_trace > 1 ? w[i].trace : "");
}

/* "layer 21 head 8 (1.00), 23/2 (0.999)" */
static void print_head_list(const kvt__summary *p, const char *label, const char *of, const worst_head *w, int n)
{
    char list[256], a[16];
    int at = snprintf(list, sizeof list, "layer %d head %d (%s)", w[0].layer, w[0].head, kvt__digits(a, w[0].cvar95));

    for (int i = 1; i < n; i++)
        at += snprintf(list + at, sizeof list - (size_t)at, ", %d/%d (%s)", w[i].layer, w[i].head, kvt__digits(a, w[i].cvar95));
    kvt__say(p->out, "Largest CVaR95 under %s: %s; exploratory, %s.", label, list, of);
}

static kvt_status print_heads(const kvt__summary *p, kvt_err *err)
{
    static const char *const count_word[N_WORST_HEADS + 1] = {"no", "one", "two", "three", "four", "five"};
    static const char sql[] =
        "SELECT r.layer, r.head, avg(r.lost_cvar95) AS cvar95, avg(r.lost_mean), max(r.lost_max), r.max_step, v.trace"
        " FROM result_head r JOIN v_cell v USING(cell_id) WHERE v.model_id = ?1 AND v.split = ?2 AND v.budget_id = ?3 AND"
        " v.config_id = ?4 AND v.status = 'done' AND r.n_trivial < r.n_step GROUP BY r.layer, r.head"
        " ORDER BY cvar95 DESC, r.layer, r.head LIMIT 5";
    worst_head w[N_WORST_HEADS];
    char label[LABEL_SIZE], of[96] = "one trace";
    sqlite3_stmt *st;
    int step, n = 0;

    if (!p->best) return KVT_OK;
    KVT_TRY(kvt__summary_query(p, sql, p->best->config_id, &st, err));
    while ((step = sqlite3_step(st)) == SQLITE_ROW && n < N_WORST_HEADS) {
        w[n] = (worst_head){sqlite3_column_int(st, 0), sqlite3_column_int(st, 1), sqlite3_column_int(st, 5),
                            sqlite3_column_double(st, 2), sqlite3_column_double(st, 3), sqlite3_column_double(st, 4), ""};
        copy_text(w[n++].trace, LABEL_SIZE, st, 6);
    }
    KVT_TRY(kvt__summary_end(p, st, step, err));
    if (n == 0) {
        kvt__say(p->out, "Every step of every head fits into this budget: nothing is ranked.");
        return KVT_OK;
    }
    if (p->n_cluster > 1)
        snprintf(of, sizeof of, "mean over %" PRId64 " traces of %" PRId64 " clusters", p->n_trace, p->n_cluster);
    kvt_printable_str(label, sizeof label, p->best->label);
    if (p->rank.n > KVT__MANY) print_head_list(p, label, of, w, n);
    else {
        kvt__say(p->out, "%s: %s head%s with the largest CVaR95 (exploratory, %s)", label, count_word[n], plural(n), of);
        print_head_table(p, w, n);
    }
    return KVT_OK;
}

/* ---------------------------------------------------------------- checks */

static kvt_status print_checks(const kvt__summary *p, kvt_err *err)
{
    static const char sql[] = "SELECT check_name, status, n, example FROM v_validity WHERE ?1 IS NOT NULL";
    char name[64], status[16], message[300], text[480];
    int64_t n_ok = 0, n_bad = 0;
    sqlite3_stmt *st;
    int step;

    KVT_TRY(kvt__summary_query(p, sql, 0, &st, err));
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
    KVT_TRY(kvt__summary_end(p, st, step, err));
    if (n_bad == 0 && n_ok > 0) fprintf(p->out, "\nSelf-checks: %" PRId64 ", all ok.\n", n_ok);
    else if (n_bad == 0) fprintf(p->out, "\nSelf-checks: none recorded.\n");
    else fprintf(p->out, "  ok      %" PRId64 " others\n", n_ok);
    return KVT_OK;
}

static kvt_status print_unfinished(const kvt__summary *p, kvt_err *err)
{
    static const char sql[] =
        "SELECT sum(status = 'todo'), sum(status = 'running'), sum(status = 'failed'),"
        " (SELECT error FROM cell WHERE status = 'failed' ORDER BY cell_id LIMIT 1) FROM cell WHERE ?1 IS NOT NULL";
    char why[300];
    sqlite3_stmt *st;
    int step;

    KVT_TRY(kvt__summary_query(p, sql, 0, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const int64_t todo = sqlite3_column_int64(st, 0), running = sqlite3_column_int64(st, 1);
        const int64_t failed = sqlite3_column_int64(st, 2);
        copy_text(why, sizeof why, st, 3);
        if (todo + running + failed > 0)
            kvt__say(p->out, "Not finished: %" PRId64 " cell%s to do, %" PRId64 " running, %" PRId64 " failed%s%s. "
                            "The same replay command does what is missing.", todo, plural(todo), running, failed,
                            failed ? ", the first because: " : "", failed ? why : "");
        step = sqlite3_step(st);
    }
    return kvt__summary_end(p, st, step, err);
}

/* ---------------------------------------------------------------- the page */

static kvt_status print_ranked(kvt__summary *p, kvt_err *err)
{
    p->best = find_best(&p->rank);
    fputc('\n', p->out);
    kvt__say(p->out, "%s: %" PRId64 " trace%s, %" PRId64 " cluster%s, %" PRId64 " query heads with full attention",
                    p->model, p->n_trace, plural(p->n_trace), p->n_cluster, plural(p->n_cluster), p->n_head);
    KVT_TRY(print_verdict(p, err));
    fputc('\n', p->out);
    KVT_TRY(kvt__summary_table(p, err));
    fputc('\n', p->out);
    return print_heads(p, err);
}

static kvt_status print_model(kvt__summary *p, kvt_err *err)
{
    static const char sql[] = "SELECT coalesce(sum(n_q_head), 0) FROM model_layer WHERE model_id = ?1 AND attn_type = 'full'";
    sqlite3_stmt *st;
    kvt_status rc;
    int step;

    KVT_TRY(kvt__summary_query(p, sql, 0, &st, err));
    if ((step = sqlite3_step(st)) == SQLITE_ROW) {
        p->n_head = sqlite3_column_int64(st, 0);
        step = sqlite3_step(st);
    }
    KVT_TRY(kvt__summary_end(p, st, step, err));
    KVT_TRY(choose_budget(p, err));
    KVT_TRY(kvt__ranking_read(&p->rank, p->db, p->model_id, p->split, p->budget_id, err));
    rc = print_ranked(p, err);
    kvt__ranking_free(&p->rank);
    return rc;
}

kvt_status kvt_summary_print(sqlite3 *db, const char *path, FILE *out, kvt_err *err)
{
    static const char sql[] =
        "SELECT v.model_id, v.split, v.model || CASE m.revision WHEN '' THEN '' ELSE ' ' || m.revision END,"
        " count(DISTINCT v.trace_id), count(DISTINCT v.cluster_id) FROM v_cell v JOIN model m USING(model_id)"
        " WHERE v.status = 'done' AND ?1 IS NOT NULL GROUP BY v.model_id, v.split ORDER BY v.model, m.revision, v.split";
    kvt__summary p = {.db = db, .out = out};
    sqlite3_stmt *st;
    int step, n = 0;

    kvt_printable_str(p.shown, sizeof p.shown, path);
    kvt__say(out, "kvtrace results in %s", p.shown);
    kvt__say(out, "%s", OPEN_LOOP);
    KVT_TRY(kvt__summary_query(&p, sql, 0, &st, err));
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
    KVT_TRY(kvt__summary_end(&p, st, step, err));
    if (n == 0) fprintf(out, "\nNo finished cells yet.\n");
    KVT_TRY(print_checks(&p, err));
    KVT_TRY(print_unfinished(&p, err));
    if (fflush(out) != 0 || ferror(out)) return kvt_fail(err, KVT_EIO, "%s: the summary could not be written out", p.shown);
    return KVT_OK;
}
