/* kvtrace selftest - does this build, on this machine, keep the same tokens as the
 * reference implementations? This file reads the golden JSON and prints; golden.c
 * replays and compares. Every value of the file is checked before it is used. */
#include "golden.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_cli.h"
#include "kvt_mul.h"
#include "kvt_text.h"

enum { SELFTEST_MAX_BYTES = 128 << 20, SELFTEST_MAX_CASES = 100000, SELFTEST_SHOWN = 96 };

typedef struct selftest_file {
    char             path[SELFTEST_SHOWN];      /* printable                              */
    size_t           n_bytes;
    cJSON           *root;
    kvt_golden       g;
    float           *q, *k, *v, *wo;
    kvt_golden_case *cases;
    uint32_t         n_cases;
} selftest_file;

/* ---- one value ---------------------------------------------------------------------- */

static kvt_status selftest_member(const selftest_file *f, const cJSON *object, const char *name, const cJSON **out, kvt_err *err)
{
    *out = cJSON_GetObjectItemCaseSensitive(object, name);
    return *out ? KVT_OK : kvt_fail(err, KVT_EFORMAT, "%s: no key '%s'; is it a golden file?", f->path, name);
}

static kvt_status selftest_count(const selftest_file *f, const cJSON *meta, const char *name, uint32_t max, uint32_t *out,
                                 kvt_err *err)
{
    const cJSON *x;

    KVT_TRY(selftest_member(f, meta, name, &x, err));
    if (!cJSON_IsNumber(x) || !(x->valuedouble >= 1) || x->valuedouble > max || x->valuedouble != floor(x->valuedouble))
        return kvt_fail(err, KVT_EFORMAT, "%s: meta.%s: expected a whole number from 1 to %u", f->path, name, max);
    *out = (uint32_t)x->valuedouble;
    return KVT_OK;
}

static kvt_status selftest_string(const selftest_file *f, const cJSON *object, const char *in, const char *name,
                                  const char *otherwise, const char **out, kvt_err *err)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(object, name);

    if (x ? !cJSON_IsString(x) : !otherwise)
        return kvt_fail(err, KVT_EFORMAT, "%s: results.%s.%s: expected a string", f->path, in, name);
    *out = x ? x->valuestring : otherwise;
    return KVT_OK;
}

/* Nested arrays of exactly `shape`, numbers innermost, into *out, which moves along. */
static kvt_status selftest_numbers(const selftest_file *f, const char *name, const cJSON *x, const size_t *shape, uint32_t rank,
                                   float **out, kvt_err *err)
{
    size_t n = 0;

    if (!cJSON_IsArray(x))
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: expected arrays nested %u deeper", f->path, name, rank);
    for (const cJSON *item = x->child; item && n <= shape[0]; item = item->next, n++) {
        if (n == shape[0])
            break;
        if (rank > 1) {
            KVT_TRY(selftest_numbers(f, name, item, shape + 1, rank - 1, out, err));
            continue;
        }
        if (!cJSON_IsNumber(item) || !isfinite((float)item->valuedouble))
            return kvt_fail(err, KVT_EFORMAT, "%s: %s: expected finite numbers", f->path, name);
        *(*out)++ = (float)item->valuedouble;
    }
    if (n != shape[0] || (size_t)cJSON_GetArraySize(x) != shape[0])
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: an array has %d elements, expected %zu (meta gives the shape)", f->path, name,
                        cJSON_GetArraySize(x), shape[0]);
    return KVT_OK;
}

static kvt_status selftest_tensor(selftest_file *f, const char *name, size_t a, size_t b, size_t c, size_t d, uint32_t rank,
                                  float **out, kvt_err *err)
{
    const size_t all[4] = { a, b, c, d };
    const cJSON *x;
    float *end;
    size_t n;

    KVT_TRY(selftest_member(f, f->root, name, &x, err));
    /* Every number takes two bytes of the file at least, so this bounds the memory. */
    if (!kvt_mul(a, b, &n) || !kvt_mul(n, c, &n) || !kvt_mul(n, d, &n) || n > f->n_bytes / 2)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: the shape that meta gives does not fit into the file", f->path, name);
    *out = malloc(n * sizeof **out);
    if (!*out)
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", f->path);
    end = *out;
    return selftest_numbers(f, name, x, all + 4 - rank, rank, &end, err);
}

/* ---- results ------------------------------------------------------------------------ */

static int selftest_by_position(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* One list of positions behind *used of c->pos; sorted, because some references give
 * them in cache order. */
static kvt_status selftest_positions(const selftest_file *f, const char *name, const cJSON *list, kvt_golden_case *c, uint32_t *used,
                                     kvt_err *err)
{
    const uint32_t first = *used, limit = f->g.n + f->g.gen;

    if (!cJSON_IsArray(list))
        return kvt_fail(err, KVT_EFORMAT, "%s: results.%s.kept: expected a list of positions", f->path, name);
    for (const cJSON *x = list->child; x; x = x->next) {
        if (!cJSON_IsNumber(x) || !(x->valuedouble >= 0) || x->valuedouble >= limit || x->valuedouble != floor(x->valuedouble))
            return kvt_fail(err, KVT_EFORMAT, "%s: results.%s.kept: a position is not a whole number below %u", f->path, name, limit);
        c->pos[(*used)++] = (uint32_t)x->valuedouble;
    }
    qsort(c->pos + first, *used - first, sizeof *c->pos, selftest_by_position);
    for (uint32_t i = first + 1; i < *used; i++)
        if (c->pos[i] == c->pos[i - 1])
            return kvt_fail(err, KVT_EFORMAT, "%s: results.%s.kept: position %u is there twice", f->path, name, c->pos[i]);
    return KVT_OK;
}

/* kept[layer][cache] -> c->start, c->pos. */
static kvt_status selftest_kept(const selftest_file *f, const char *name, const cJSON *kept, kvt_golden_case *c, kvt_err *err)
{
    const int n_caches = cJSON_IsArray(kept) ? cJSON_GetArraySize(kept->child) : 0;
    size_t total = 0, at = 0;
    uint32_t used = 0;

    if (!cJSON_IsArray(kept) || (size_t)cJSON_GetArraySize(kept) != f->g.n_layers || n_caches < 1 || (uint32_t)n_caches > f->g.n_heads)
        return kvt_fail(err, KVT_EFORMAT, "%s: results.%s.kept: expected %u layers of lists, one list per head", f->path, name,
                        f->g.n_layers);
    for (const cJSON *layer = kept->child; layer; layer = layer->next) {
        if (!cJSON_IsArray(layer) || cJSON_GetArraySize(layer) != n_caches)
            return kvt_fail(err, KVT_EFORMAT, "%s: results.%s.kept: expected %d lists in every layer", f->path, name, n_caches);
        for (const cJSON *list = layer->child; list; list = list->next)
            total += (size_t)cJSON_GetArraySize(list);
    }
    c->n_caches = (uint32_t)n_caches;
    c->start = calloc((size_t)f->g.n_layers * c->n_caches + 1, sizeof *c->start);
    c->pos = calloc(total + 1, sizeof *c->pos);
    if (!c->start || !c->pos)
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", f->path);
    for (const cJSON *layer = kept->child; layer; layer = layer->next)
        for (const cJSON *list = layer->child; list; list = list->next) {
            KVT_TRY(selftest_positions(f, name, list, c, &used, err));
            c->start[++at] = used;
        }
    return KVT_OK;
}

static kvt_status selftest_case(selftest_file *f, const cJSON *x, kvt_golden_case *c, kvt_err *err)
{
    char name[SELFTEST_SHOWN];

    kvt_printable_str(name, sizeof name, x->string);
    if (!cJSON_IsObject(x))
        return kvt_fail(err, KVT_EFORMAT, "%s: results.%s: expected an object", f->path, name);
    c->name = x->string;
    KVT_TRY(selftest_string(f, x, name, "spec", NULL, &c->spec, err));
    KVT_TRY(selftest_string(f, x, name, "rule", "reference", &c->rule, err));
    if (strcmp(c->rule, "reference") && strcmp(c->rule, "share"))
        return kvt_fail(err, KVT_EFORMAT, "%s: results.%s.rule: expected \"share\" or \"reference\"", f->path, name);
    KVT_TRY(selftest_string(f, x, name, "budget", "", &c->budget, err));
    if (!cJSON_GetObjectItemCaseSensitive(x, "budget"))
        c->budget = NULL;
    return selftest_kept(f, name, cJSON_GetObjectItemCaseSensitive(x, "kept"), c, err);
}

static kvt_status selftest_cases(selftest_file *f, kvt_err *err)
{
    const cJSON *results;
    int n;

    KVT_TRY(selftest_member(f, f->root, "results", &results, err));
    n = cJSON_IsObject(results) ? cJSON_GetArraySize(results) : 0;
    if (n < 1 || n > SELFTEST_MAX_CASES)
        return kvt_fail(err, KVT_EFORMAT, "%s: results: expected an object with 1 to %d cases", f->path, (int)SELFTEST_MAX_CASES);
    f->cases = calloc((size_t)n, sizeof *f->cases);
    if (!f->cases)
        return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", f->path);
    for (const cJSON *x = results->child; x; x = x->next)
        KVT_TRY(selftest_case(f, x, &f->cases[f->n_cases++], err));
    return KVT_OK;
}

/* ---- the file ------------------------------------------------------------------------ */

static void selftest_free(selftest_file *f)
{
    for (uint32_t i = 0; i < f->n_cases; i++) {
        free(f->cases[i].start);
        free(f->cases[i].pos);
    }
    free(f->cases), free(f->q), free(f->k), free(f->v), free(f->wo);
    cJSON_Delete(f->root);
}

static kvt_status selftest_parse(selftest_file *f, const char *text, size_t n_bytes, kvt_err *err)
{
    kvt_golden *g = &f->g;
    const char *end = NULL;
    const cJSON *meta;
    size_t T;

    f->root = cJSON_ParseWithLengthOpts(text, n_bytes, &end, 0);
    while (f->root && end < text + n_bytes && strchr(" \t\r\n", *end) && *end)
        end++;
    if (!f->root || end != text + n_bytes)
        return kvt_fail(err, KVT_EFORMAT, "%s: not JSON from byte %zu on", f->path, end ? (size_t)(end - text) : 0);
    f->n_bytes = n_bytes;
    g->path = f->path;
    KVT_TRY(selftest_member(f, f->root, "meta", &meta, err));
    KVT_TRY(selftest_count(f, meta, "L", KVT_MAX_LAYERS, &g->n_layers, err));
    KVT_TRY(selftest_count(f, meta, "Hq", KVT_MAX_HEADS, &g->n_heads, err));
    KVT_TRY(selftest_count(f, meta, "Hkv", KVT_MAX_HEADS, &g->n_kv_heads, err));
    KVT_TRY(selftest_count(f, meta, "d", KVT_MAX_HEAD_DIM, &g->d, err));
    KVT_TRY(selftest_count(f, meta, "n", KVT_MAX_TOKENS / 2, &g->n, err));
    KVT_TRY(selftest_count(f, meta, "gen", KVT_MAX_TOKENS / 2, &g->gen, err));
    KVT_TRY(selftest_count(f, meta, "D_model", KVT_MAX_MODEL_DIM, &g->model_dim, err));
    if (g->n_heads % g->n_kv_heads)
        return kvt_fail(err, KVT_EFORMAT, "%s: meta: Hq = %u is not a multiple of Hkv = %u", f->path, g->n_heads, g->n_kv_heads);
    T = (size_t)g->n + g->gen;
    KVT_TRY(selftest_tensor(f, "Q", g->n_layers, g->n_heads, T, g->d, 4, &f->q, err));
    KVT_TRY(selftest_tensor(f, "K", g->n_layers, g->n_kv_heads, T, g->d, 4, &f->k, err));
    KVT_TRY(selftest_tensor(f, "V", g->n_layers, g->n_kv_heads, T, g->d, 4, &f->v, err));
    KVT_TRY(selftest_tensor(f, "Wo", 1, g->n_layers, g->model_dim, (size_t)g->n_heads * g->d, 3, &f->wo, err));
    g->q = f->q;
    g->k = f->k;
    g->v = f->v;
    g->wo = f->wo;
    return selftest_cases(f, err);
}

/* The whole file; EIO when it cannot be read. */
static kvt_status selftest_read(const char *path, const char *shown, char **out, size_t *n_bytes, kvt_err *err)
{
    FILE *in = fopen(path, "rb");
    size_t cap = 1 << 16, n = 0;
    char *text = NULL, *more;

    if (!in)
        return kvt_fail(err, KVT_EIO, "%s: %s", shown, strerror(errno));
    for (;;) {
        more = realloc(text, cap);
        if (!more)
            break;
        text = more;
        n += fread(text + n, 1, cap - n, in);
        if (n < cap || cap > SELFTEST_MAX_BYTES)
            break;
        cap *= 2;
    }
    if (!more || ferror(in) || n > SELFTEST_MAX_BYTES) {
        const kvt_status st = !more ? kvt_fail(err, KVT_ENOMEM, "%s: out of memory", shown)
                            : ferror(in) ? kvt_fail(err, KVT_EIO, "%s: %s", shown, strerror(errno))
                            : kvt_fail(err, KVT_EFORMAT, "%s: more than %d MiB", shown, SELFTEST_MAX_BYTES >> 20);
        fclose(in);
        free(text);
        return st;
    }
    fclose(in);
    text[n] = 0;                                /* n < cap; the parser may look one byte ahead */
    *out = text;
    *n_bytes = n;
    return KVT_OK;
}

/* ---- the run -------------------------------------------------------------------------- */

static kvt_status selftest_run_cases(const selftest_file *f, int *exit_code, kvt_err *err)
{
    static const char *const word[KVT_N_VERDICTS] = { "identical", "tied", "different", "unsupported" };
    uint32_t count[KVT_N_VERDICTS] = { 0 };
    kvt_golden_trace *t = NULL;
    kvt_status st;

    KVT_TRY(kvt__golden_open(&t, &f->g, err));
    for (uint32_t i = 0; i < f->n_cases; i++) {
        const kvt_golden_case *c = &f->cases[i];
        char name[SELFTEST_SHOWN], spec[SELFTEST_SHOWN];
        kvt_golden_result result;

        st = kvt__golden_run(t, c, &result, err);
        if (st < 0) {
            kvt__golden_close(t);
            return st;
        }
        count[result.verdict]++;
        printf("%-11s  %-42s  %s\n", word[result.verdict], kvt_printable_str(name, sizeof name, c->name),
               result.detail[0] ? result.detail : kvt_printable_str(spec, sizeof spec, c->spec));
    }
    kvt__golden_close(t);
    printf("%u cases: %u identical, %u tied, %u different, %u unsupported\n", f->n_cases, count[KVT_VERDICT_IDENTICAL],
           count[KVT_VERDICT_TIED], count[KVT_VERDICT_DIFFERENT], count[KVT_VERDICT_UNSUPPORTED]);
    *exit_code = count[KVT_VERDICT_DIFFERENT] ? KVT_EXIT_NO : KVT_EXIT_OK;
    return KVT_OK;
}

static kvt_status selftest_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    const char *path = kvt_arg_text(args, "golden");
    selftest_file f = { "built-in golden file", 0, NULL, { 0 }, NULL, NULL, NULL, NULL, NULL, 0 };
    char *text = NULL;
    kvt_status st;

    if (path) {
        size_t n_bytes = 0;
        kvt_err why = { KVT_OK, "" };

        kvt_printable_str(f.path, sizeof f.path, path);
        st = selftest_read(path, f.path, &text, &n_bytes, &why);
        if (st == KVT_EIO) {                    /* an input, so not the 4 of a failing disk */
            fprintf(stderr, "kvtrace: %s\n", why.text);
            *exit_code = KVT_EXIT_INPUT;
            return KVT_OK;
        }
        if (st < 0) {
            if (err)
                *err = why;
            return st;
        }
        st = selftest_parse(&f, text, n_bytes, err);
    } else {
        st = selftest_parse(&f, kvt__golden_json, (size_t)(kvt__golden_json_end - kvt__golden_json), err);
    }
    free(text);
    if (st == KVT_OK)
        st = selftest_run_cases(&f, exit_code, err);
    selftest_free(&f);
    return st;
}

static const kvt_opt selftest_opts[] = {
    { "golden", 0, KVT_OPT_TEXT, "FILE", NULL, 0, 0, NULL, "another golden file (JSON) instead of the built-in one" },
    { NULL, 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, NULL }
};

extern const kvt_cmd kvt_cmd_selftest;
const kvt_cmd kvt_cmd_selftest = {
    .name = "selftest", .operands = "", .summary = "compare kept sets with those of the reference implementations",
    .details = "Replays a small trace whose kept sets were made by the reference implementations of\n"
               "the policies, and compares position by position. A set may differ only where the\n"
               "scores on both sides of the cut agree to 1e-6 (tied). Cases of policies that this\n"
               "version does not have are counted as unsupported.\n"
               "\n"
               "Exit code: 0 nothing differs, 1 a kept set differs, 3 the file cannot be used.\n",
    .min_operands = 0, .max_operands = 0, .opts = selftest_opts, .run = selftest_run,
};
