/* kvtrace report: a results database as one HTML page. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvt_cli.h"
#include "kvt_report.h"
#include "kvt_store.h"
#include "kvt_text.h"

static const kvt_opt report_opts[] = {
    {.name = "output",
     .letter = 'o',
     .type = KVT_OPT_TEXT,
     .value = "FILE",
     .help = "HTML file to write; default: the database's name with .html, beside it."},
    {.name = "force", .type = KVT_OPT_FLAG, .help = "Overwrite an existing file."},
    {.name = "policy",
     .letter = 'p',
     .type = KVT_OPT_TEXT,
     .value = "LABEL",
     .help = "Policy of the heatmap, the timeline and the post-mortem; default: the one that is ranked first, by "
             "CVaR95 of the worst KV head, or by the mean where CVaR95 does not tell policies apart."},
    {.name = "budget",
     .letter = 'b',
     .type = KVT_OPT_TEXT,
     .value = "LABEL",
     .help = "Budget of the same, a share of the prompt's entries (0.2) or tokens (28t); default: the share nearest to "
             "0.2."},
    {.name = "highlight",
     .type = KVT_OPT_LIST,
     .value = "ID[,ID...]",
     .help = "Policies drawn in colour in one chart and in the timeline, ids or labels, at most 8; default: the best "
             "configuration of each of the best policies, and the policy whose place moves most with the budget."},
    {0}};

/* "dir/x.db" -> "dir/x.html"; a name without a suffix gets one. */
static char *report_default_output(const char *db_path)
{
    const char *slash = strrchr(db_path, '/'), *base = slash ? slash + 1 : db_path, *dot = strrchr(base, '.');
    const size_t stem = dot && dot != base ? (size_t)(dot - db_path) : strlen(db_path);
    char *out = malloc(stem + sizeof ".html");
    if (!out) return NULL;
    memcpy(out, db_path, stem);
    memcpy(out + stem, ".html", sizeof ".html");
    return out;
}

static kvt_status report_make(const kvt_args *args, sqlite3 *db, const char *db_path, const char *path, kvt_err *err)
{
    const uint32_t n_highlight = kvt_arg_count(args, "highlight");
    const char **highlight = malloc((n_highlight + 1) * sizeof *highlight);
    const kvt_report_opts opts = {.policy = kvt_arg_text(args, "policy"), .budget = kvt_arg_text(args, "budget"),
                                  .highlight = highlight, .n_highlight = n_highlight};
    char *html, shown[300];
    size_t n;
    kvt_err why = {0};
    kvt_status st;
    if (!highlight) return kvt_fail(err, KVT_ENOMEM, "out of memory for %u names", (unsigned)n_highlight);
    for (uint32_t i = 0; i < n_highlight; i++) highlight[i] = kvt_arg_item(args, "highlight", i);
    st = kvt_report_build(&html, &n, db, &opts, &why);
    free(highlight);
    if (st < 0) {                                       /* the page knows no path; people want one */
        kvt_printable_str(shown, sizeof shown, db_path);
        return kvt_fail(err, st, "%s: %.*s", shown, (int)(sizeof why.text - 1), why.text);
    }
    st = kvt_report_save(path, html, n, err);
    free(html);
    if (st == KVT_OK)
        printf("%s: %zu kB; open it in a browser\n", kvt_printable_str(shown, sizeof shown, path), (n + 999) / 1000);
    return st;
}

static kvt_status report_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    const char *db_path = kvt_arg_item(args, NULL, 0);
    char *path = kvt_arg_text(args, "output") ? strdup(kvt_arg_text(args, "output")) : report_default_output(db_path);
    sqlite3 *db = NULL;
    kvt_status st;

    if (!path) return kvt_fail(err, KVT_ENOMEM, "out of memory for a file name");
    st = kvt_store_open_read(&db, db_path, err);
    if (st == KVT_EIO) {                                /* an input that is missing is exit 3, not 4 */
        fprintf(stderr, "kvtrace: %s\n", err->text);
        *exit_code = KVT_EXIT_INPUT;
        st = KVT_OK;
        goto done;
    }
    if (st < 0) goto done;
    KVT_TRY_GOTO(st, kvt_report_check_target(path, db_path, kvt_arg_flag(args, "force"), err));
    KVT_TRY_GOTO(st, report_make(args, db, db_path, path, err));
    *exit_code = KVT_EXIT_OK;
done:
    sqlite3_close(db);
    free(path);
    return st;
}

extern const kvt_cmd kvt_cmd_report;
const kvt_cmd kvt_cmd_report = {
    .name = "report", .operands = "RESULTS.db", .summary = "one self-contained HTML page about a results database",
    .details =
        "Writes one HTML file with inline SVG and without scripts: verdict, validity checks, ranking and loss against\n"
        "budget, layer x head heatmap, step timeline with the generated text, post-mortem of the worst violations,\n"
        "decomposition, heads that no fixed set can serve, and an appendix with definitions, parameters, the SQL of every\n"
        "figure and provenance.\n"
        "The same database gives the same bytes.\n"
        "\n"
        "Example:  kvtrace report results.db -o report.html",
    .min_operands = 1, .max_operands = 1, .opts = report_opts, .run = report_run};
