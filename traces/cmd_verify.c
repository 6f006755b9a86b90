/* kvtrace verify: is this trace sound, and does it reproduce the engine's output? */
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace_guard.h"
#include "kvt_cli.h"
#include "kvt_text.h"
#include "kvt_version.h"
#include "trace_verify.h"

static const kvt_opt verify_opts[] = {
    {.name = "format", .type = KVT_OPT_TEXT, .value = "FORMAT", .def = "table", .choices = "table|json",
     .help = "Output: a table for people, or one JSON object."},
    {0}};

/* What was looked at, as "69120 rows". */
static const char *verify_unit(int check)
{
    static const char *const units[KVT_N_CHECKS] = {
        [KVT_CHECK_CHECKSUMS] = "datasets", [KVT_CHECK_CONTENT_ID] = "", [KVT_CHECK_FINITE] = "numbers",
        [KVT_CHECK_ROW_SUMS] = "rows",      [KVT_CHECK_STATS] = "heads", [KVT_CHECK_OUTPUT] = "samples",
        [KVT_CHECK_ROPE] = "samples",
    };
    return units[check];
}

static void verify_print(const kvt_verify_report *report, const kvt_source *src)
{
    const kvt_trace_info *info = src->info;

    printf("%s: %u layers, %u prompt + %u decode tokens\n", src->path, info->n_layers, info->n_prompt,
           info->n_decode);
    for (int i = 0; i < KVT_N_CHECKS; i++) {
        const kvt_check *c = &report->check[i];
        const int absent = i == KVT_CHECK_ROPE && c->result == KVT_CHECK_SKIPPED;   /* few engines give them */

        printf("  %-17s  %-7s", c->name, absent ? "-" : kvt_check_result_name(c->result));
        if (c->n_seen && *verify_unit(i)) printf("  %" PRIu64 " %s", c->n_seen, verify_unit(i));
        if (c->n_failed) printf(", %" PRIu64 " bad", c->n_failed);
        if (c->n_seen && c->tol > 0) printf(", largest error %.2g (limit %.2g)", c->worst, c->tol);
        if (*c->text) printf("%s%s", c->n_seen && *verify_unit(i) ? "\n                              " : "  ",
                             c->text);
        if (absent) printf(" (they are optional)");
        putchar('\n');
    }
    if (report->n_failed)
        printf("FAILED: %u of %d checks\n", report->n_failed, KVT_N_CHECKS);
    else
        printf("OK\n");
}

static int verify_json_check(cJSON *list, const kvt_check *c)
{
    cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddItemToArray(list, o)) {
        cJSON_Delete(o);
        return 0;
    }
    return cJSON_AddStringToObject(o, "name", c->name) &&
           cJSON_AddStringToObject(o, "result", c->result == KVT_CHECK_OK ? "ok"
                                   : c->result == KVT_CHECK_FAILED ? "failed" : "skipped") &&
           cJSON_AddNumberToObject(o, "seen", (double)c->n_seen) &&
           cJSON_AddNumberToObject(o, "failed", (double)c->n_failed) &&
           cJSON_AddNumberToObject(o, "largest_error", c->worst) &&
           (c->tol > 0 ? cJSON_AddNumberToObject(o, "limit", c->tol) : cJSON_AddNullToObject(o, "limit")) &&
           cJSON_AddStringToObject(o, "text", c->text);
}

static kvt_status verify_print_json(const kvt_verify_report *report, const kvt_source *src, kvt_err *err)
{
    cJSON *root = cJSON_CreateObject(), *list = NULL;
    char *text = NULL;
    int ok = root && cJSON_AddNumberToObject(root, "schema", 1) &&
             cJSON_AddStringToObject(root, "kind", "verify") &&
             cJSON_AddStringToObject(root, "version", KVT_VERSION) &&
             cJSON_AddStringToObject(root, "commit", KVT_GIT_COMMIT) &&
             cJSON_AddBoolToObject(root, "dirty", KVT_GIT_DIRTY) &&
             cJSON_AddStringToObject(root, "file", src->path) &&
             cJSON_AddStringToObject(root, "content_id", src->info->content_id) &&
             cJSON_AddBoolToObject(root, "ok", report->n_failed == 0) &&
             (list = cJSON_AddArrayToObject(root, "checks")) != NULL;

    for (int i = 0; i < KVT_N_CHECKS && ok; i++) ok = verify_json_check(list, &report->check[i]);
    if (ok) text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", src->path);
    puts(text);
    cJSON_free(text);
    return KVT_OK;
}

static kvt_status verify_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    const char *path = kvt_arg_item(args, NULL, 0);
    kvt_verify_report report;
    kvt_source src = {0};
    kvt_status st;

    kvt_guard_begin(path);
    st = kvt_source_open(&src, path, 0, err);
    if (st == KVT_OK) st = kvt_trace_verify(&report, &src, err);
    kvt_guard_end();
    if (st == KVT_OK && strcmp(kvt_arg_text(args, "format"), "json") == 0)
        st = verify_print_json(&report, &src, err);
    else if (st == KVT_OK)
        verify_print(&report, &src);
    if (st == KVT_OK && report.n_failed) {
        int i = 0;
        while (report.check[i].result != KVT_CHECK_FAILED) i++;
        fprintf(stderr, "kvtrace: %s: %s: %s\n", src.path, report.check[i].name, report.check[i].text);
        *exit_code = KVT_EXIT_NO;
    }
    kvt_source_close(&src);
    if (st == KVT_EIO) {                      /* a file that cannot be read is a bad input */
        fprintf(stderr, "kvtrace: %s\n", err->text);
        *exit_code = KVT_EXIT_INPUT;
        st = KVT_OK;
    }
    return st;
}

const kvt_cmd kvt_cmd_verify = {
    .name = "verify", .operands = "TRACE", .summary = "check a trace: checksums, row sums, recomputed output",
    .details =
        "Opens the trace with all checks of its structure, then reads every byte:\n"
        "  checksums          every dataset against its SHA-256\n"
        "  content id         the name of the data that results refer to\n"
        "  finite operands    no NaN, no infinity, no negative norm\n"
        "  row sums           every stored attention row, recomputed from q and k,\n"
        "                     sums to 1 within 0.002\n"
        "  column statistics  of the prefill: ranges and totals\n"
        "  attention output   recomputed for the sampled rows, against the engine's\n"
        "                     own: 1e-5 for f32, 5e-3 for f16, 2e-2 for bf16 data\n"
        "  rotary samples     optional: keys un-rotated, against keys taken before\n"
        "                     rotation\n"
        "\n"
        "Exit code 0: sound. 1: a check failed. 3: the file cannot be used at all.\n"
        "\n"
        "Example: kvtrace verify traces/samples/tiny_gqa.h5\n",
    .min_operands = 1, .max_operands = 1, .opts = verify_opts, .run = verify_run};
