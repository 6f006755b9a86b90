/* kvtrace info: what a trace holds, or what a results database says. */
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trace_guard.h"
#include "kvt_cli.h"
#include "kvt_store.h"
#include "kvt_summary.h"
#include "kvt_text.h"
#include "kvt_trace.h"
#include "kvt_version.h"

#define SHOWN 4200u                           /* room for a text attribute, printable  */

static const kvt_opt info_opts[] = {
    {.name = "format", .type = KVT_OPT_TEXT, .value = "FORMAT", .def = "table", .choices = "table|json",
     .help = "Output: a table for people, or one JSON object (traces only)."},
    {0}};

/* ---------------------------------------------------------------- words */

/* "k v q lse stats" into out. */
static const char *info_tensors(char *out, size_t size, const kvt_layer_info *l)
{
    size_t at = 0;

    out[0] = 0;
    for (uint32_t t = KVT_T_K; t < KVT_T_END; t++) {
        const char *name = kvt_tensor_path((kvt_tensor)t);
        if (!(l->has & 1u << t) || t == KVT_T_STAT_SUMSQ || t == KVT_T_STAT_MAX) continue;
        if (t == KVT_T_STAT_SUM) name = "stats";        /* the three come together */
        at += (size_t)snprintf(out + at, size - at, "%s%s", at ? " " : "", name);
    }
    if (l->rope_dims) snprintf(out + at, size - at, "%srope", at ? " " : "");
    return out;
}

/* Why the replay keeps this layer whole; NULL when it evicts there. */
static const char *info_whole(const kvt_layer_info *l, uint32_t layer)
{
    if (l->attn == KVT_ATTN_NONE) return "no attention";
    if (l->recorded) return "recorded rows";
    if (l->attn != KVT_ATTN_FULL) return kvt_attn_name(l->attn);
    return l->kv_layer == layer ? NULL : "shared cache";
}

static int info_same(const kvt_layer_info *a, uint32_t ia, const kvt_layer_info *b, uint32_t ib)
{
    return a->has == b->has && a->attn == b->attn && a->recorded == b->recorded &&
           a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads && a->d_k == b->d_k &&
           a->d_v == b->d_v && a->window == b->window && a->k_type == b->k_type &&
           a->v_type == b->v_type && a->q_type == b->q_type && a->has_sinks == b->has_sinks &&
           a->softcap == b->softcap && (a->rope_dims != 0) == (b->rope_dims != 0) &&
           (a->kv_layer == ia) == (b->kv_layer == ib);
}

static const char *info_value(const kvt_trace_info *info, const char *name)
{
    for (uint32_t i = 0; i < info->n_provenance; i++)
        if (strcmp(info->provenance[i].name, name) == 0) return info->provenance[i].value;
    return "";
}

static uint32_t info_written_layers(const kvt_trace_info *info)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < info->n_layers; l++) n += info->layer[l].has != 0;
    return n;
}

/* ---------------------------------------------------------------- table */

static void info_line(const char *name, const char *text)
{
    char shown[SHOWN];
    if (text && *text) printf("  %-14s %s\n", name, kvt_printable_str(shown, sizeof shown, text));
}

static void info_print_layers(const kvt_trace_info *info)
{
    printf("\n  layers     attention  heads   d_k   d_v  k/v/q          window  tensors\n");
    for (uint32_t first = 0, last; first < info->n_layers; first = last + 1) {
        const kvt_layer_info *l = &info->layer[first];
        char range[32], heads[24], types[32], window[16] = "-", tensors[128];

        last = first;
        while (last + 1 < info->n_layers && info_same(l, first, &info->layer[last + 1], last + 1)) last++;
        snprintf(range, sizeof range, last > first ? "%u-%u" : "%u", first, last);
        if (l->attn == KVT_ATTN_NONE) {
            printf("  %-9s  %s\n", range, info->complete ? "none" : "not written");
            continue;
        }
        snprintf(heads, sizeof heads, "%u/%u", l->n_heads, l->n_kv_heads);
        snprintf(types, sizeof types, "%s/%s/%s",
                 l->has & 1u << KVT_T_K ? kvt_dtype_name(l->k_type) : "-",
                 l->has & 1u << KVT_T_V ? kvt_dtype_name(l->v_type) : "-",
                 l->has & 1u << KVT_T_Q ? kvt_dtype_name(l->q_type) : "-");
        if (l->window) snprintf(window, sizeof window, "%u", l->window);
        printf("  %-9s  %-9s  %-5s  %4u  %4u  %-13s  %6s  %s%s\n", range, kvt_attn_name(l->attn), heads,
               l->d_k, l->d_v, types, window, info_tensors(tensors, sizeof tensors, l),
               l->recorded ? " (recorded rows)" : "");
    }
}

static void info_print_whole(const kvt_trace_info *info)
{
    uint32_t n = 0;

    if (!info->complete) return;
    for (uint32_t l = 0; l < info->n_layers; l++)
        if (info_whole(&info->layer[l], l))
            printf("%s%u (%s)", n++ ? ", " : "\n  held whole by a replay: ", l, info_whole(&info->layer[l], l));
    if (n) putchar('\n');
}

static void info_print_provenance(const kvt_trace_info *info)
{
    static const char *const pairs[][3] = {
        {"engine", "engine", "engine_version"},       {"front-end", "frontend", "frontend_version"},
        {"model", "model_name", "model_revision"},    {"architecture", "model_arch", ""},
        {"compute dtype", "compute_dtype", ""},       {"KV dtype", "kv_dtype", ""},
        {"attention", "attn_impl", ""},               {"GPU", "gpu", ""},
        {"decode mode", "decode_mode", ""},           {"corpus", "corpus", "corpus_revision"},
    };

    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char text[2 * KVT_MAX_STRING + 8];
        const char *a = info_value(info, pairs[i][1]), *b = info_value(info, pairs[i][2]);
        snprintf(text, sizeof text, "%s%s%s", a, *a && *b ? " " : "", b);
        info_line(pairs[i][0], text);
    }
}

static void info_print_tokens(const kvt_trace_info *info)
{
    char text[160];

    printf("  %-14s %u prompt + %u decode = %u", "tokens", info->n_prompt, info->n_decode, info->n_tokens);
    if (info->question_start < info->n_prompt) printf("; the question starts at %u", info->question_start);
    if (info->n_decode == 0 && info->complete) printf("; no decode steps, cannot be replayed");
    printf("\n  %-14s window of %u, %u stored rows per head\n", "queries", info->window, info->n_rows);
    printf("  %-14s text %s, flags %s, %u spans%s\n", "annotations", info->text ? "present" : "absent",
           info->token_flags ? "present" : "absent", info->n_spans, info->redacted ? "; redacted" : "");
    if (!info->complete) return;
    snprintf(text, sizeof text, "%u rows of the engine's output, largest error at capture %.2g",
             info->n_samples, info->verify_max_err);
    info_line("verification", text);
}

static void info_print(const kvt_source *src)
{
    const kvt_trace_info *info = src->info;
    char text[128];

    printf("%s\n", src->path);
    snprintf(text, sizeof text, "trace %u.%u.%u, needs a reader of %u.%u", info->format[0], info->format[1],
             info->format[2], info->min_reader[0], info->min_reader[1]);
    info_line("format", text);
    if (!info->complete) {
        snprintf(text, sizeof text, "%u of %u layers written; cannot be replayed or verified",
                 info_written_layers(info), info->n_layers);
        info_line("INCOMPLETE", "the writer died or still runs");
        info_line("", text);
    }
    info_line("writer", info->writer);
    info_line("created", info->created);
    info_line("content id", info->content_id);
    info_line("exactness", info->exactness);
    if (strcmp(info->cluster_id, info->uuid) != 0) info_line("cluster", info->cluster_id);
    info_line("sample", info->sample_id);
    info_print_provenance(info);
    info_print_tokens(info);
    printf("  %-14s %.3g MB (%" PRIu64 " bytes)\n", "file", (double)info->file_bytes / 1e6, info->file_bytes);
    info_print_layers(info);
    info_print_whole(info);
}

/* ---------------------------------------------------------------- JSON */

static int json_text(cJSON *o, const char *name, const char *text)
{
    char shown[SHOWN];
    return cJSON_AddStringToObject(o, name, kvt_printable_str(shown, sizeof shown, text)) != NULL;
}

static int json_number(cJSON *o, const char *name, double x)
{
    return cJSON_AddNumberToObject(o, name, x) != NULL;
}

static int json_layer(cJSON *list, const kvt_layer_info *l, uint32_t layer)
{
    cJSON *o = cJSON_CreateObject(), *tensors;
    const char *whole = info_whole(l, layer);
    int ok;

    if (!o || !cJSON_AddItemToArray(list, o)) {
        cJSON_Delete(o);
        return 0;
    }
    ok = json_number(o, "layer", layer) && json_text(o, "attn_type", kvt_attn_name(l->attn)) &&
         (whole ? json_text(o, "held_whole", whole) : cJSON_AddNullToObject(o, "held_whole") != NULL);
    if (!ok || l->attn == KVT_ATTN_NONE) return ok;
    ok = json_text(o, "score", l->recorded ? "recorded" : "dot") && json_number(o, "n_heads", l->n_heads) &&
         json_number(o, "n_kv_heads", l->n_kv_heads) && json_number(o, "d_k", l->d_k) &&
         json_number(o, "d_v", l->d_v) && json_number(o, "scale", l->scale) &&
         json_number(o, "softcap", l->softcap) &&
         json_number(o, "window", l->window ? (double)l->window : -1) &&
         cJSON_AddBoolToObject(o, "has_sinks", l->has_sinks) && json_number(o, "kv_layer", l->kv_layer) &&
         json_text(o, "k_type", l->has & 1u << KVT_T_K ? kvt_dtype_name(l->k_type) : "") &&
         json_text(o, "v_type", l->has & 1u << KVT_T_V ? kvt_dtype_name(l->v_type) : "") &&
         json_text(o, "q_type", l->has & 1u << KVT_T_Q ? kvt_dtype_name(l->q_type) : "") &&
         json_text(o, "rope_type", l->rope_type) && json_number(o, "rotary_dim", l->rope_dims) &&
         (tensors = cJSON_AddArrayToObject(o, "tensors")) != NULL;
    for (uint32_t t = KVT_T_K; t < KVT_T_END && ok; t++)
        if (l->has & 1u << t)
            ok = cJSON_AddItemToArray(tensors, cJSON_CreateString(kvt_tensor_path((kvt_tensor)t)));
    return ok;
}

static int json_head(cJSON *root, const kvt_source *src)
{
    const kvt_trace_info *info = src->info;
    char version[64];

    snprintf(version, sizeof version, "%u.%u.%u", info->format[0], info->format[1], info->format[2]);
    return json_number(root, "schema", 1) && json_text(root, "kind", "info") &&
           json_text(root, "version", KVT_VERSION) && json_text(root, "commit", KVT_GIT_COMMIT) &&
           cJSON_AddBoolToObject(root, "dirty", KVT_GIT_DIRTY) && json_text(root, "file", src->path) &&
           json_text(root, "format_version", version) &&
           cJSON_AddBoolToObject(root, "complete", info->complete) &&
           json_text(root, "created", info->created) && json_text(root, "writer", info->writer) &&
           json_text(root, "uuid", info->uuid) && json_text(root, "content_id", info->content_id) &&
           json_text(root, "exactness", info->exactness) && json_text(root, "cluster_id", info->cluster_id) &&
           json_text(root, "sample_id", info->sample_id);
}

static int json_counts(cJSON *root, const kvt_trace_info *info)
{
    return json_number(root, "n_layers", info->n_layers) && json_number(root, "n_prompt", info->n_prompt) &&
           json_number(root, "n_decode", info->n_decode) && json_number(root, "window", info->window) &&
           json_number(root, "n_rows", info->n_rows) &&
           json_number(root, "question_start", info->question_start) &&
           json_number(root, "model_dim", info->model_dim) &&
           json_number(root, "vocab_size", info->vocab_size) &&
           cJSON_AddBoolToObject(root, "redacted", (cJSON_bool)info->redacted) &&
           cJSON_AddBoolToObject(root, "has_text", info->text != NULL) &&
           cJSON_AddBoolToObject(root, "has_flags", info->token_flags != NULL) &&
           json_number(root, "n_spans", info->n_spans) && json_number(root, "n_samples", info->n_samples) &&
           json_number(root, "verify_max_err", info->verify_max_err) &&
           json_number(root, "file_bytes", (double)info->file_bytes);
}

static kvt_status info_print_json(const kvt_source *src, kvt_err *err)
{
    const kvt_trace_info *info = src->info;
    cJSON *root = cJSON_CreateObject(), *provenance = NULL, *layers = NULL;
    char *text = NULL;
    int ok = root && json_head(root, src) && json_counts(root, info) &&
             (provenance = cJSON_AddObjectToObject(root, "provenance")) != NULL;

    for (uint32_t i = 0; i < info->n_provenance && ok; i++)
        ok = json_text(provenance, info->provenance[i].name, info->provenance[i].value);
    ok = ok && (layers = cJSON_AddArrayToObject(root, "layers")) != NULL;
    for (uint32_t l = 0; l < info->n_layers && ok; l++) ok = json_layer(layers, &info->layer[l], l);
    if (ok) text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", src->path);
    puts(text);
    cJSON_free(text);
    return KVT_OK;
}

/* ---------------------------------------------------------------- the command */

static int info_is_database(const char *path)
{
    static const char magic[16] = "SQLite format 3";
    char head[16] = {0};
    struct stat sb;
    ssize_t n;
    int fd;

    if (stat(path, &sb) < 0 || !S_ISREG(sb.st_mode)) return 0;      /* open() blocks on a pipe */
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    n = read(fd, head, sizeof head);
    close(fd);
    return n == (ssize_t)sizeof head && memcmp(head, magic, sizeof magic) == 0;
}

static kvt_status info_database(const char *path, int json, kvt_err *err)
{
    char shown[256];
    sqlite3 *db = NULL;
    kvt_status st;

    if (json)
        return kvt_fail(err, KVT_EARG, "%s: a results database is described as a table only; query it with "
                        "sqlite3", kvt_printable_str(shown, sizeof shown, path));
    KVT_TRY(kvt_store_open_read(&db, path, err));
    st = kvt_summary_print(db, path, stdout, err);
    sqlite3_close(db);
    return st;
}

static kvt_status info_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    const char *path = kvt_arg_item(args, NULL, 0);
    const int json = strcmp(kvt_arg_text(args, "format"), "json") == 0;
    kvt_source src = {0};
    kvt_status st;

    if (info_is_database(path)) {
        st = info_database(path, json, err);
    } else {
        kvt_guard_begin(path);
        st = kvt_source_open(&src, path, 1, err);
        kvt_guard_end();
        if (st == KVT_OK && json)
            st = info_print_json(&src, err);
        else if (st == KVT_OK)
            info_print(&src);
        kvt_source_close(&src);
    }
    if (st == KVT_EIO) {                      /* a file that cannot be read is a bad input */
        fprintf(stderr, "kvtrace: %s\n", err->text);
        *exit_code = KVT_EXIT_INPUT;
        st = KVT_OK;
    }
    return st;
}

const kvt_cmd kvt_cmd_info = {
    .name = "info", .operands = "FILE", .summary = "describe a trace or a results database",
    .details =
        "For a trace: format, engine and model, tokens, and one line per run of equal\n"
        "layers. Nothing but tokens and attributes is read, so it is fast for any size;\n"
        "kvtrace verify reads the rest. A trace whose writer died is described as far\n"
        "as it goes. For a results database: the summary that ends a replay.\n"
        "\n"
        "Example: kvtrace info traces/samples/tiny_gqa.h5\n",
    .min_operands = 1, .max_operands = 1, .opts = info_opts, .run = info_run};
