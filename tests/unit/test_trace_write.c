/* test_trace_write.c - goal: what the writer writes is the trace that FORMAT.md describes,
 * and nothing else ever stands under the final name. Method: the worked example of
 * FORMAT.md 19 written in every way, read back with HDF5 and with the reader; refused
 * inputs; failing disks. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <hdf5.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvt_sha256.h"
#include "trace_digest.h"
#include "worked_example.h"

/* ---------------------------------------------------------------- a folder per test */

static char folder[64];

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/kvt_write_XXXXXX");
    cr_assert(mkdtemp(folder), "no folder below /tmp");
}

static void remove_folder(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert(system(command) == 0);
}

static const char *in_folder(const char *name)
{
    static char path[4][128];
    static int next;
    char *const p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static bool is_there(const char *name)
{
    struct stat s;
    return lstat(in_folder(name), &s) == 0;
}

static example ex;
static kvt_err err;

static void write_example(const char *name, const example_way *way)
{
    example_make(&ex);
    cr_assert(example_write(in_folder(name), &ex, way, &err) == KVT_OK, "%s", err.text);
    cr_assert(is_there(name));
    cr_assert(!is_there("t.h5.part"));
}

TestSuite(trace_write, .init = make_folder, .fini = remove_folder);

/* ---------------------------------------------------------------- FORMAT.md 19 */

/* The digest that /checksums lists for a path, as hex; "" when it is not listed. */
static void listed_digest(const char *file, const char *path, char out[65])
{
    const hid_t f = H5Fopen(file, H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t paths = H5Dopen2(f, "/checksums/path", H5P_DEFAULT);
    const hid_t sums = H5Dopen2(f, "/checksums/sha256", H5P_DEFAULT);
    const hid_t type = H5Dget_type(paths), space = H5Dget_space(paths);
    const size_t n = (size_t)H5Sget_simple_extent_npoints(space);
    char *const text = calloc(n, 128);
    uint8_t *const digest = calloc(n, 32);

    cr_assert(H5Tget_size(type) == 128);
    cr_assert(H5Dread(paths, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0);
    cr_assert(H5Dread(sums, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, digest) >= 0);
    out[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        if (strcmp(text + 128 * i, path) == 0) kvt_sha256_hex(digest + 32 * i, out);
        if (i > 0) cr_assert(strcmp(text + 128 * (i - 1), text + 128 * i) < 0, "entries are sorted");
    }
    free(text);
    free(digest);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(paths);
    H5Dclose(sums);
    H5Fclose(f);
}

Test(trace_write, digests_of_the_worked_example)
{
    static const struct { const char *path, *hex; } want[] = {
        { "/layers/000/k", "eb44ace79d0288aba95555d4060ea13d25656932d851ec1c6df8c107da7db00d" },
        { "/layers/000/v", "9c02bd1e61c7937b1def48314684a08976476f205e5abaa0e606039f31634edb" },
        { "/layers/000/q", "b8182ee268d761ea02fe59c260a524c1701e0889da28a9862c2a4a1bbddfae68" },
        { "/layers/000/nu", "18baa6671c1c87902bbee88d0cdeffc6a559209870ccebd8eaac32572ccc47f3" },
        { "/layers/001/k", "074f203b2c2a2e46d16f1a2a068ed410b5f333d89d7af4cbf730707c270cb612" },
        { "/layers/001/v", "9e8cef18cf70af76c717fc8eedeae32a00c95d32deb6fda592411a2ece9d30d7" },
        { "/layers/001/q", "8c3cdca98ce7c98ae83d69aa45d811e6e5285e3012a34600df7e5fc7a06b8e08" },
        { "/layers/001/nu", "fcb9e44bc8d8bbba7e82a41b40147429e063f41555c2ef07d8ba94bfc421881d" },
        { "/tokens/id", "05c473d9729373eea4c55d4de5eea89510d9cb8a58a472b622751170a6a736b8" },
        { "/tokens/position", "e64241643e04d6de21b66587a6e9ef4f250605319a64a023ba38607848794432" },
        { "/queries/index", "95e9667e439fc489525e117ddd47b0b794068d406fc2236184bb871c2b5e16cb" },
    };
    static const example_way ways[] = { { .type = KVT_BF16 },
                                        { .type = KVT_BF16, .chunked = 1, .piece = 2 },
                                        { .type = KVT_BF16, .unknown = 1 } };

    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        write_example("t.h5", &ways[w]);
        for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
            char hex[65];
            listed_digest(in_folder("t.h5"), want[i].path, hex);
            cr_assert(strcmp(hex, want[i].hex) == 0, "way %zu, %s: %s", w, want[i].path, hex);
        }
    }
}

static void near(const char *what, const float *got, const double *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(fabs(got[i] - want[i]) <= 2e-6, "%s[%zu]: %.7f, expected %.7f", what, i, (double)got[i], want[i]);
}

Test(trace_write, values_of_the_worked_example_read_back)
{
    static const double nu[] = { 2.9375, 0.25, 1.8125, 5.125, 2.375, 3.3125, 3.625, 2.1875, 1.0625 };
    static const double lse0[] = { 0.873697, 1.156396, 1.752339, 1.748169, 2.080916, 2.019171, 2.392712 };
    static const double lse1[] = { 0.883332, 1.562525, 1.402656, 1.428980, 1.323756, 1.281346, 1.460551 };
    static const double sum[] = { 2.470145, 1.568776, 0.994169, 0.608000, 0.262766, 0.096143 };
    static const double sumsq[] = { 1.504918, 0.543095, 0.280690, 0.133341, 0.034919, 0.009243 };
    static const double max[] = { 1.000000, 0.480479, 0.357026, 0.251332, 0.145460, 0.096143 };
    static const double sum13[] = { 2.329258, 1.105349, 1.103496, 0.753839, 0.507980, 0.200078 };
    static const double out0[] = { 0.0354646, 0.0971344, 0.0362368, 0.0013846 };
    static const double out1[] = { -0.1317534, 0.2201484, -0.5067534, 0.0350403 };
    static const double row8[] = { 0, 0, 0, 0, 0, 0.219405, 0.089361, 0.156803, 0.534431 };
    kvt_source src = { 0 };
    float x[EX_T * EX_D];
    double prob[EX_T];

    write_example("t.h5", &(example_way){ .type = KVT_BF16 });
    cr_assert(kvt_source_open(&src, in_folder("t.h5"), 0, &err) == KVT_OK, "%s", err.text);
#define READ(t, l, h, n) cr_assert(kvt_source_read(&src, t, l, h, 0, n, x, &err) == KVT_OK, "%s", err.text)
    READ(KVT_T_NU, 0, 0, EX_T);
    for (int i = 0; i < EX_T; i++) cr_assert(x[i] == (float)nu[i]);
    READ(KVT_T_LSE, 0, 0, EX_R);
    near("lse 0", x, lse0, EX_R);
    READ(KVT_T_LSE, 1, 0, EX_R);
    near("lse 1", x, lse1, EX_R);
    READ(KVT_T_STAT_SUM, 0, 0, EX_N);
    near("sum", x, sum, EX_N);
    READ(KVT_T_STAT_SUMSQ, 0, 0, EX_N);
    near("sumsq", x, sumsq, EX_N);
    READ(KVT_T_STAT_MAX, 0, 0, EX_N);
    near("max", x, max, EX_N);
    READ(KVT_T_STAT_SUM, 1, 3, EX_N);
    near("sum of layer 1", x, sum13, EX_N);
    READ(KVT_T_K, 0, 0, EX_T);
    cr_assert(x[0] == -1.0f && x[1] == -0.75f && x[2] == -0.5f && x[3] == -0.25f);
    cr_assert(src.info->n_samples == EX_S);
    kvt_source_close(&src);

    near("output of layer 0", ex.out[0], out0, EX_D);       /* samples 0 and 11: (0,0,3), (1,3,6) */
    near("output of layer 1", ex.out[11], out1, EX_D);
    cr_assert(fabs(kvt_ref_row(&ex.layer[1], 8, ex.q[1][3][8], ex.k[1][1][0], 0.0f, NULL, prob) - 1.602771) < 2e-6);
    for (int j = 0; j < EX_T; j++) cr_assert(fabs(prob[j] - row8[j]) < 2e-6);
    /* The same row, its log-sum-exp given, and asked for without the row. */
    cr_assert(kvt_ref_row(&ex.layer[1], 8, ex.q[1][3][8], ex.k[1][1][0], 0.0f, &(double){ 0.0 }, prob)
              == kvt_ref_row(&ex.layer[1], 8, ex.q[1][3][8], ex.k[1][1][0], 0.0f, NULL, NULL));
    cr_assert(fabs(prob[8] - row8[8] * exp(1.602771)) < 1e-5);
}

Test(trace_write, content_id_of_the_test_vector)
{
    static const struct { const char *path; uint64_t n; const char *hex; } data[] = {
        { "/queries/index", 7, "95e9667e439fc489525e117ddd47b0b794068d406fc2236184bb871c2b5e16cb" },
        { "/tokens/id", 9, "05c473d9729373eea4c55d4de5eea89510d9cb8a58a472b622751170a6a736b8" },
        { "/tokens/position", 9, "e64241643e04d6de21b66587a6e9ef4f250605319a64a023ba38607848794432" },
    };
    static const struct { const char *name; int64_t v; } number[] = {
        { "window", 4 }, { "redacted", 0 }, { "question_start", 4 }, { "n_prompt", 6 },
        { "n_layers", 2 }, { "n_decode", 3 }, { "model_dim", 8 },
    };
    kvt_id_lines *const l = kvt_id_lines_new();
    char hex[65];

    for (size_t i = 0; i < 3; i++) {
        uint8_t digest[32];
        for (int b = 0; b < 32; b++) {
            unsigned byte;
            cr_assert(sscanf(data[i].hex + 2 * b, "%2x", &byte) == 1);
            digest[b] = (uint8_t)byte;
        }
        cr_assert(kvt_id_lines_dataset(l, data[i].path, "i32", 1, &data[i].n, digest) == KVT_OK);
    }
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        cr_assert(kvt_id_lines_int(l, "/", number[i].name, number[i].v) == KVT_OK);
    cr_assert(kvt_id_lines_text(l, "/", "trace_kind", "causal") == KVT_OK);
    cr_assert(kvt_id_lines_text(l, "/", "exactness", "synthetic") == KVT_OK);
    kvt_id_lines_hash(l, hex);
    cr_assert(strcmp(hex, "fcbc4072826ae4eafe98ad3fa3db5c7f756c43d32ed13ac335896d6d39a41b2c") == 0, "%s", hex);
    kvt_id_lines_free(l);
}

Test(trace_write, what_enters_the_content_id)
{
    static const char *const in[] = { "/layers/000/k", "/tokens/id", "/spans/kind", "/verifyx", "/tokens/text" };
    static const char *const not_in[] = { "/provenance/config_json", "/logits/lse", "/verify/index", "/redact/x",
                                          "/checksums/path", "/tokens/text_bytes", "/tokens/text_offset" };
    for (size_t i = 0; i < sizeof in / sizeof *in; i++) cr_assert(kvt_id_includes(in[i]), "%s", in[i]);
    for (size_t i = 0; i < sizeof not_in / sizeof *not_in; i++)
        cr_assert(!kvt_id_includes(not_in[i]), "%s", not_in[i]);
}

/* ---------------------------------------------------------------- ways of writing */

Test(trace_write, layout_length_and_pieces_do_not_change_the_content_id)
{
    for (int type = KVT_F32; type <= KVT_BF16; type++) {
        char first[65] = "";
        for (int way = 0; way < 12; way++) {
            kvt_source src = { 0 };
            const kvt_trace_info *n;
            float k[EX_T * EX_D];
            write_example("t.h5", &(example_way){ .type = (kvt_dtype)type, .chunked = way & 1,
                                                  .unknown = way >> 1 & 1, .piece = (uint32_t)(way / 4) });
            cr_assert(kvt_source_open(&src, in_folder("t.h5"), 0, &err) == KVT_OK, "%s", err.text);
            n = src.info;
            if (way == 0) memcpy(first, n->content_id, 65);
            cr_assert(strcmp(n->content_id, first) == 0, "type %d, way %d: %s", type, way, n->content_id);
            cr_assert(n->n_decode == EX_G && n->n_tokens == EX_T && n->n_rows == EX_R && n->complete);
            cr_assert(n->layer[1].k_type == (kvt_dtype)type && n->layer[1].window == 4);
            cr_assert(kvt_source_read(&src, KVT_T_K, 1, 1, 0, EX_T, k, &err) == KVT_OK, "%s", err.text);
            cr_assert(memcmp(k, ex.k[1][1], sizeof k) == 0, "the numbers are exact in every type");
            kvt_source_close(&src);
        }
    }
}

static size_t file_bytes(const char *name, uint8_t **out)
{
    FILE *const f = fopen(in_folder(name), "rb");
    size_t n;

    *out = malloc(1 << 20);
    cr_assert(f && *out);
    n = fread(*out, 1, 1 << 20, f);
    cr_assert(n < 1 << 20);
    fclose(f);
    return n;
}

Test(trace_write, same_inputs_same_bytes)
{
    for (int way = 0; way < 4; way++) {
        const example_way w = { .type = KVT_F16, .chunked = way & 1, .unknown = way >> 1 };
        uint8_t *a, *b;
        size_t n;
        write_example("a.h5", &w);
        if (way == 0) sleep(1);                     /* a time stamp would differ */
        write_example("b.h5", &w);
        n = file_bytes("a.h5", &a);
        cr_assert(file_bytes("b.h5", &b) == n && memcmp(a, b, n) == 0);
        if (way == 1) cr_assert(n > 66000 && n < 68000, "%zu bytes; FORMAT.md 19 says 67 kB", n);
        free(a);
        free(b);
    }
}

/* One layer without attention, one that shares the cache of another, learned sinks, one
 * KV head, a wide head whose digest has several leaves, rows given in every portion. */
typedef struct wide { uint32_t n, g, portion; int unknown; } wide;

static kvt_status write_wide(const char *path, const wide *x, const float *k)
{
    const uint32_t d = 1024, t = x->n + x->g, has = 1u << KVT_T_Q | 1u << KVT_T_LSE;
    const kvt_layer_info none = { .attn = KVT_ATTN_NONE }, full = {
        .has = has | 1u << KVT_T_K | 1u << KVT_T_SINKS, .attn = KVT_ATTN_FULL, .n_heads = 2, .n_kv_heads = 1,
        .d_k = d, .d_v = 1, .kv_layer = 1, .scale = 0.01, .has_sinks = 1 };
    kvt_layer_info shares = full;
    const kvt_pair provenance[] = { { "engine", "none" }, { "host", "" } };
    const kvt_writer_head head = { .writer = "wide", .n_layers = 3, .n_prompt = x->n, .window = x->n,
        .n_decode = x->unknown ? KVT_LENGTH_UNKNOWN : x->g, .question_start = x->n, .model_dim = 1,
        .provenance = provenance, .n_provenance = 2, .config_json = "{}", .vocab_size = 5 };
    int32_t *const id = calloc(t, sizeof *id);
    const float sink[2] = { 0.5f, -0.25f };
    kvt_writer_tail tail = { .n_decode = x->g, .token_id = id, .verify_tol = 1e-5, .sample_width = 1 };
    kvt_writer *w = NULL;
    kvt_status st;

    shares.has = has;
    shares.has_sinks = 0;
    KVT_TRY_GOTO(st, kvt_writer_create(&w, path, &head, &err));
    KVT_TRY_GOTO(st, kvt_writer_layer(w, 0, &none, NULL, &err));
    KVT_TRY_GOTO(st, kvt_writer_layer(w, 1, &full, "engine", &err));
    KVT_TRY_GOTO(st, kvt_writer_layer(w, 2, &shares, NULL, &err));
    for (uint32_t h = 2; h-- > 0;) KVT_TRY_GOTO(st, kvt_writer_append(w, 1, KVT_T_SINKS, h, 1, &sink[h], &err));
    for (uint32_t row = 0; row < t;) {
        const uint32_t n = t - row < x->portion ? t - row : x->portion;
        KVT_TRY_GOTO(st, kvt_writer_append(w, 1, KVT_T_K, 0, n, k + (size_t)row * d, &err));
        for (uint32_t h = 0; h < 4; h++) {
            KVT_TRY_GOTO(st, kvt_writer_append(w, 1 + h / 2, KVT_T_Q, h % 2, n, k + (size_t)row * d, &err));
            KVT_TRY_GOTO(st, kvt_writer_append(w, 1 + h / 2, KVT_T_LSE, h % 2, n, k + row, &err));
        }
        row += n;
    }
    st = kvt_writer_commit(w, &tail, &err);
    w = NULL;
done:
    kvt_writer_abort(w, 0);
    free(id);
    return st;
}

Test(trace_write, long_heads_in_portions_of_any_size)
{
    const wide ways[] = { { 500, 100, 600, 0 }, { 500, 100, 1, 0 }, { 500, 100, 63, 1 }, { 500, 100, 65, 1 },
                          { 500, 100, 200, 0 } };
    const size_t n = 600 * 1024;
    float *const k = malloc(n * sizeof *k), row[2048];
    char want[65], first[65] = "", hex[65];
    uint8_t leaf[3][32], digest[32];

    for (size_t i = 0; i < n; i++) k[i] = (float)((i * 2654435761u >> 8) & 0xffff) / 65536.0f;
    for (int i = 0; i < 3; i++)                      /* 600 rows of 4096 bytes: leaves of 256, 256, 88 rows */
        kvt_sha256_of((const uint8_t *)k + (size_t)i * 1048576, i < 2 ? 1048576 : 88 * 4096, leaf[i]);
    kvt_sha256_of(leaf, sizeof leaf, digest);
    kvt_sha256_hex(digest, want);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        kvt_source src = { 0 };
        cr_assert(write_wide(in_folder("w.h5"), &ways[w], k) == KVT_OK, "%s", err.text);
        listed_digest(in_folder("w.h5"), "/layers/001/k", hex);
        cr_assert(strcmp(hex, want) == 0, "way %zu: %s", w, hex);
        cr_assert(kvt_source_open(&src, in_folder("w.h5"), 0, &err) == KVT_OK, "%s", err.text);
        if (w == 0) memcpy(first, src.info->content_id, 65);
        cr_assert(strcmp(src.info->content_id, first) == 0, "way %zu", w);
        cr_assert(src.info->layer[0].attn == KVT_ATTN_NONE && src.info->layer[2].kv_layer == 1);
        cr_assert(kvt_source_read(&src, KVT_T_SINKS, 1, 1, 0, 1, row, &err) == KVT_OK && row[0] == -0.25f, "%s",
                  err.text);
        cr_assert(kvt_source_read(&src, KVT_T_K, 1, 0, 598, 2, row, &err) == KVT_OK
                      && memcmp(row, k + 598 * 1024, sizeof row) == 0, "%s", err.text);
        kvt_source_close(&src);
    }
    free(k);
}

Test(trace_write, tokens_spans_and_text_are_kept)
{
    static const int64_t begin[] = { 0, 0, 2, 4 }, end[] = { 9, 4, 2, 5 };
    static const int32_t kind[] = { 0, 5, 6, 8 }, rotary[EX_T] = { 5, 6, 7, 8, 9, 10, 11, 12, 13 };
    static const int64_t offset[EX_T + 1] = { 0, 1, 1, 2, 3, 4, 5, 6, 7, 8 };
    const example_way way = { .type = KVT_F16 };
    const kvt_writer_head head = example_head(&way);
    kvt_writer_tail tail;
    kvt_writer *w = NULL;
    kvt_source src = { 0 };

    example_make(&ex);
    tail = example_tail(&ex);
    tail.n_spans = 4, tail.span_begin = begin, tail.span_end = end, tail.span_kind = kind;
    tail.rotary = rotary, tail.text = (const uint8_t *)"\xff" "bcdefg\n", tail.text_offset = offset;
    cr_assert(kvt_writer_create(&w, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
    cr_assert(example_fill(w, &ex, &way, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_writer_commit(w, &tail, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_source_open(&src, in_folder("t.h5"), 0, &err) == KVT_OK, "%s", err.text);
    cr_assert(src.info->n_spans == 4 && src.info->span_kind[3] == 8 && src.info->span_end[1] == 4);
    cr_assert(src.info->rotary[8] == 13 && src.info->token_id[1] == 10 && src.info->query_index[0] == 2);
    cr_assert(src.info->text_offset[EX_T] == 8 && memcmp(src.info->text, "\xff" "bcdefg\n", 8) == 0);
    kvt_source_close(&src);
}

/* ---------------------------------------------------------------- refused inputs */

#define REFUSED(call, word)                                                              \
    do {                                                                                 \
        const kvt_status st_ = (call);                                                   \
        cr_assert(st_ == KVT_EARG, "%s: %s", kvt_status_name(st_), err.text);            \
        cr_assert(strstr(err.text, word), "'%s' is not in: %s", word, err.text);         \
    } while (0)

Test(trace_write, rows_out_of_order_are_refused_and_do_no_harm)
{
    const example_way way = { .type = KVT_BF16 };
    const kvt_writer_head head = example_head(&way);
    kvt_writer_tail tail;
    kvt_writer *w = NULL;
    kvt_source src = { 0 };
    float x[64] = { 0 };

    example_make(&ex);
    tail = example_tail(&ex);
    cr_assert(kvt_writer_create(&w, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
    REFUSED(kvt_writer_append(w, 0, KVT_T_K, 0, 1, x, &err), "before it was announced");
    REFUSED(kvt_writer_layer(w, 1, &ex.layer[1], NULL, &err), "layer 0 comes next");
    cr_assert(example_fill(w, &ex, &way, &err) == KVT_OK, "%s", err.text);
    REFUSED(kvt_writer_layer(w, 2, &ex.layer[1], NULL, &err), "there are 2 layers");
    REFUSED(kvt_writer_append(w, 0, KVT_T_K, 0, 1, x, &err), "/layers/000/k: head 0 has 9 rows");
    REFUSED(kvt_writer_append(w, 0, KVT_T_STAT_SUM, 3, 1, x, &err), "/layers/000/stats/sum");
    REFUSED(kvt_writer_append(w, 0, KVT_T_K, 2, 1, x, &err), "no head 2");
    REFUSED(kvt_writer_append(w, 0, KVT_T_SINKS, 0, 1, x, &err), "not announced");
    REFUSED(kvt_writer_append(w, 2, KVT_T_K, 0, 1, x, &err), "layer 2");
    REFUSED(kvt_writer_append(w, 0, KVT_T_END, 0, 1, x, &err), "no such tensor");
    cr_assert(kvt_writer_commit(w, &tail, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_source_open(&src, in_folder("t.h5"), 0, &err) == KVT_OK, "%s", err.text);
    kvt_source_close(&src);
}

Test(trace_write, missing_rows_leave_no_file)
{
    const example_way way = { .type = KVT_BF16 };
    for (int unknown = 0; unknown < 2; unknown++) {
        const example_way u = { .type = KVT_BF16, .unknown = unknown };
        const kvt_writer_head head = example_head(&u);
        kvt_writer_tail tail;
        kvt_writer *w = NULL;
        example_make(&ex);
        tail = example_tail(&ex);
        cr_assert(kvt_writer_create(&w, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
        cr_assert(kvt_writer_layer(w, 0, &ex.layer[0], NULL, &err) == KVT_OK, "%s", err.text);
        REFUSED(kvt_writer_commit(w, &tail, &err), "1 of 2 layers");
        cr_assert(kvt_writer_create(&w, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
        cr_assert(kvt_writer_layer(w, 0, &ex.layer[0], NULL, &err) == KVT_OK, "%s", err.text);
        cr_assert(kvt_writer_layer(w, 1, &ex.layer[1], NULL, &err) == KVT_OK, "%s", err.text);
        for (uint32_t h = 0; h < EX_KV; h++)
            cr_assert(example_append(w, &ex, &way, 0, KVT_T_K, h, 0, h ? EX_N : EX_T, &err) == KVT_OK);
        REFUSED(kvt_writer_commit(w, &tail, &err), "/layers/000/k: head 1 has 6 of 9 rows");
        cr_assert(!is_there("t.h5") && !is_there("t.h5.part"));
    }
}

Test(trace_write, heads_that_a_reader_would_refuse)
{
    static char long_text[4098];
    static const kvt_pair no_engine[] = { { "gpu", "x" } }, twice[] = { { "engine", "x" }, { "engine", "y" } };
    static const kvt_pair bad_name[] = { { "engine", "x" }, { "a/b", "y" } };
    static const kvt_pair bad_seed[] = { { "engine", "x" }, { "seed", "9223372036854775808" } };
    const kvt_pair too_long[] = { { "engine", long_text } };
    const example_way way = { .type = KVT_BF16 };
    const kvt_writer_head good = example_head(&way);
    kvt_writer_head h;
    kvt_writer *w = NULL;

    memset(long_text, 'x', 4097);
#define HEAD(change, word) \
    do { h = good; change; REFUSED(kvt_writer_create(&w, in_folder("t.h5"), &h, &err), word); } while (0)
    HEAD(h.n_layers = 0, "n_layers");
    HEAD(h.n_layers = KVT_MAX_LAYERS + 1, "n_layers is 1025");
    HEAD(h.n_prompt = 0, "n_prompt");
    HEAD(h.n_prompt = KVT_MAX_TOKENS + 1, "n_prompt");
    HEAD(h.n_decode = KVT_MAX_TOKENS - 5, "n_decode");
    HEAD(h.window = 7, "window");
    HEAD(h.window = 0, "window");
    HEAD(h.question_start = 7, "question_start");
    HEAD(h.model_dim = 0, "model_dim");
    HEAD(h.model_dim = KVT_MAX_MODEL_DIM + 1, "model_dim");
    HEAD(h.writer = "", "writer");
    HEAD(h.writer = long_text, "4097");
    HEAD(h.exactness = "exact", "exactness");
    HEAD(h.uuid = "1234", "uuid");
    HEAD((h.provenance = no_engine, h.n_provenance = 1), "engine");
    HEAD((h.provenance = twice, h.n_provenance = 2), "twice");
    HEAD((h.provenance = bad_name, h.n_provenance = 2), "a/b");
    HEAD((h.provenance = bad_seed, h.n_provenance = 2), "seed");
    HEAD((h.provenance = too_long, h.n_provenance = 1), "4097");
    cr_assert(w == NULL && !is_there("t.h5.part"));
}

Test(trace_write, layers_that_a_reader_would_refuse)
{
    static const double bad_freq[] = { 1.0, INFINITY };
    static const int64_t starts[] = { 0, 0 };
    const example_way way = { .type = KVT_BF16 };
    const kvt_writer_head head = example_head(&way);
    kvt_layer_info l;
    kvt_writer *w = NULL;

    example_make(&ex);
    cr_assert(kvt_writer_create(&w, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
#define LAYER(change, word) \
    do { l = ex.layer[0]; change; REFUSED(kvt_writer_layer(w, 0, &l, NULL, &err), word); } while (0)
    LAYER(l.n_heads = 3, "3 query heads and 2 KV heads");
    LAYER(l.n_heads = 1026, "1026");
    LAYER(l.n_kv_heads = 0, "KV heads");
    LAYER(l.d_k = 1025, "1025");
    LAYER(l.d_v = 0, "d_v 0");
    LAYER(l.scale = 0.0, "scale");
    LAYER(l.scale = NAN, "scale");
    LAYER(l.softcap = -1.0, "softcap");
    LAYER(l.window = 4, "full");
    LAYER(l.attn = KVT_ATTN_SLIDING, "sliding");
    LAYER(l.kv_layer = 2, "kv_layer");
    LAYER(l.kv_layer = 1, "no k and v");
    LAYER(l.has &= ~(1u << KVT_T_Q), "q and lse");
    LAYER(l.has &= ~(1u << KVT_T_K), "k must");
    LAYER(l.has &= ~(1u << KVT_T_STAT_MAX), "together");
    LAYER(l.has |= 1u << KVT_T_SINKS, "sinks");
    LAYER(l.has |= 1u << KVT_T_END, "unknown tensor");
    LAYER(l.rope_dims = 3, "rope");
    LAYER(l.rope_offset = 1, "rope");
    LAYER(l.rope_inv_freq = bad_freq, "inv_freq[1]");
    LAYER(l.rope_angle_type = "f8", "rope");
    LAYER((l.rope_segments = 2, l.rope_segment_start = starts), "segment 1");
    LAYER(l.attn = KVT_ATTN_NONE, "no tensors");
    REFUSED(kvt_writer_layer(w, 0, &ex.layer[0], "guessed", &err), "lse");
    l = ex.layer[0], l.recorded = 1;
    cr_assert(kvt_writer_layer(w, 0, &l, NULL, &err) == KVT_ENOTSUP);
    cr_assert(kvt_writer_layer(w, 0, &ex.layer[0], NULL, &err) == KVT_OK, "%s", err.text);
    kvt_writer_abort(w, 0);
    cr_assert(!is_there("t.h5.part"));
}

static void tail_is_refused(const kvt_writer_tail *t, const char *word)
{
    const example_way way = { .type = KVT_BF16 };
    const kvt_writer_head head = example_head(&way);
    kvt_writer *w = NULL;

    cr_assert(kvt_writer_create(&w, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
    cr_assert(example_fill(w, &ex, &way, &err) == KVT_OK, "%s", err.text);
    REFUSED(kvt_writer_commit(w, t, &err), word);
    cr_assert(!is_there("t.h5") && !is_there("t.h5.part"), "%s", word);
}

Test(trace_write, tails_that_a_reader_would_refuse)
{
    static const int32_t bad_id[EX_T] = { 0, -2 }, gap[EX_T] = { 0, 1, 2, 3, 4, 5, 6, 7, 9 };
    static const int64_t offsets[EX_T + 1] = { 0, 2, 1 }, begin[] = { 0, 2 }, cross[] = { 3, 4 }, inside[] = { 3, 3 };
    static const int32_t kinds[] = { 5, 11 }, row7[] = { 0, 0, 7 };
    kvt_writer_tail good, t;

    example_make(&ex);
    good = example_tail(&ex);
#define TAIL(change, word) do { t = good; change; tail_is_refused(&t, word); } while (0)
    TAIL(t.n_decode = 2, "n_decode is 2");
    TAIL(t.token_id = NULL, "token ids");
    TAIL(t.token_id = bad_id, "token 1 has the id -2");
    TAIL(t.rotary = gap, "token 8");
    TAIL(t.text = (const uint8_t *)"ab", "together");
    TAIL((t.text = (const uint8_t *)"ab", t.text_offset = offsets), "token 1");
    TAIL((t.n_spans = 2, t.span_begin = begin, t.span_end = cross, t.span_kind = kinds), "span 1 [2, 4)");
    TAIL((t.n_spans = 2, t.span_begin = begin, t.span_end = inside, t.span_kind = kinds), "kind 11");
    TAIL((t.n_samples = 1, t.sample_index = row7), "row 7");
    TAIL(t.sample_width = 3, "3 wide, expected 4");
    TAIL(t.verify_tol = 0.0, "verify_tol");
    TAIL(t.verify_max_err = NAN, "verify_max_err");
    TAIL((t.n_rope_samples = 1, t.rope_index = row7, t.rope_k = ex.out[0], t.n_spans = 0,
          t.rope_index = (const int32_t[]){ 0, 2, 0 }), "rope sample 0");
}

/* ---------------------------------------------------------------- failing disks */

Test(trace_write, unwritable_places)
{
    const example_way way = { .type = KVT_BF16 };
    FILE *f;

    example_make(&ex);
    cr_assert(example_write(in_folder("no/such/t.h5"), &ex, &way, &err) == KVT_EIO);
    cr_assert(strstr(err.text, "No such file"), "%s", err.text);
    cr_assert((f = fopen(in_folder("file"), "w")) && fclose(f) == 0);
    cr_assert(example_write(in_folder("file/t.h5"), &ex, &way, &err) == KVT_EIO, "%s", err.text);
    cr_assert(mkdir(in_folder("d.h5"), 0777) == 0 && mkdir(in_folder("p.h5.part"), 0777) == 0);
    cr_assert(example_write(in_folder("d.h5"), &ex, &way, &err) == KVT_EIO);
    cr_assert(strstr(err.text, "is not a file"), "%s", err.text);
    cr_assert(example_write(in_folder("p.h5"), &ex, &way, &err) == KVT_EIO, "%s", err.text);
    cr_assert(example_write("", &ex, &way, &err) == KVT_EARG);
    cr_assert(!is_there("d.h5.part") && !is_there("p.h5"));
    if (geteuid() != 0) {                           /* nothing is unwritable for root */
        cr_assert(chmod(folder, 0555) == 0);
        cr_assert(example_write(in_folder("t.h5"), &ex, &way, &err) == KVT_EIO);
        cr_assert(chmod(folder, 0755) == 0);
    }
}

Test(trace_write, a_link_in_place_of_the_part_file_is_not_followed)
{
    const example_way way = { .type = KVT_BF16 };
    uint8_t *bytes;
    FILE *f;

    cr_assert((f = fopen(in_folder("precious"), "w")) && fputs("keep", f) >= 0 && fclose(f) == 0);
    cr_assert(symlink("precious", in_folder("t.h5.part")) == 0);
    write_example("t.h5", &way);
    cr_assert(file_bytes("precious", &bytes) == 4 && memcmp(bytes, "keep", 4) == 0);
    free(bytes);
}

/* A full disk, at every size up to that of the file: one error, the reason in it, no crash
 * of libhdf5 now or at exit, nothing left. The old file stays. */
Test(trace_write, full_disk)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    cr_assert(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    for (int unknown = 0; unknown < 2; unknown++) {
        const example_way way = { .type = KVT_BF16, .unknown = unknown };
        uint8_t *before, *after;
        size_t n;
        write_example("t.h5", &way);
        n = file_bytes("t.h5", &before);
        for (size_t room = 0; room < n; room += 1500) {
            kvt_status st;
            limit.rlim_cur = room;
            cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
            st = example_write(in_folder("t.h5"), &ex, &way, &err);
            limit.rlim_cur = limit.rlim_max;
            cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
            cr_assert(st == KVT_EIO, "%zu bytes: %s", room, kvt_status_name(st));
            cr_assert(strstr(err.text, "File too large"), "%zu bytes: %s", room, err.text);
            cr_assert(!is_there("t.h5.part"));
        }
        cr_assert(file_bytes("t.h5", &after) == n && memcmp(before, after, n) == 0);
        free(before);
        free(after);
        cr_assert(unlink(in_folder("t.h5")) == 0);
    }
    H5close();                                      /* what happens at exit */
}

Test(trace_write, abort_removes_or_keeps_the_part_file)
{
    kvt_source src = { 0 };

    example_make(&ex);
    cr_assert(example_write(in_folder("t.h5"), &ex, &(example_way){ .type = KVT_BF16, .stop_before_commit = 2 }, &err)
              == KVT_OK);
    cr_assert(!is_there("t.h5") && !is_there("t.h5.part"));
    cr_assert(example_write(in_folder("t.h5"), &ex, &(example_way){ .type = KVT_BF16, .stop_before_commit = 1 }, &err)
              == KVT_OK);
    cr_assert(!is_there("t.h5") && is_there("t.h5.part"));
    cr_assert(kvt_source_open(&src, in_folder("t.h5.part"), 0, &err) == KVT_EFORMAT);
    cr_assert(strstr(err.text, "complete"), "%s", err.text);
    write_example("t.h5", &(example_way){ .type = KVT_BF16 });     /* replaces the old .part */
    kvt_writer_abort(NULL, 0);
}

Test(trace_write, a_second_writer_of_the_same_name_is_noticed)
{
    const example_way way = { .type = KVT_BF16 };
    const kvt_writer_head head = example_head(&way);
    kvt_writer_tail tail;
    kvt_writer *first = NULL, *second = NULL;
    kvt_source src = { 0 };

    example_make(&ex);
    tail = example_tail(&ex);
    cr_assert(kvt_writer_create(&first, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_writer_create(&second, in_folder("t.h5"), &head, &err) == KVT_OK, "%s", err.text);
    cr_assert(example_fill(first, &ex, &way, &err) == KVT_OK && example_fill(second, &ex, &way, &err) == KVT_OK);
    cr_assert(kvt_writer_commit(first, &tail, &err) == KVT_EIO);
    cr_assert(strstr(err.text, "replaced"), "%s", err.text);
    cr_assert(!is_there("t.h5"));
    cr_assert(kvt_writer_commit(second, &tail, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_source_open(&src, in_folder("t.h5"), 0, &err) == KVT_OK, "%s", err.text);
    kvt_source_close(&src);
}

/* ---------------------------------------------------------------- samples */

Test(trace_write, sample_plan_follows_the_rule)
{
    /* Layer 1 of 5 is without attention, so the first, third and last of four count. */
    kvt_layer_info l[5] = { { .n_heads = 3 }, { .attn = KVT_ATTN_NONE }, { .n_heads = 2 }, { .n_heads = 16 },
                            { .n_heads = 1 } };
    static const int32_t want[][3] = {      /* W = 4, G = 5: row 3, then steps 0, 1, 3 and the last, 4 */
        { 0, 0, 3 }, { 0, 2, 3 }, { 0, 1, 3 }, { 0, 1, 4 }, { 0, 0, 5 }, { 0, 2, 7 }, { 0, 1, 8 },
        { 3, 5, 3 }, { 3, 10, 3 }, { 3, 15, 3 }, { 3, 4, 3 }, { 3, 9, 3 }, { 3, 14, 3 }, { 3, 3, 3 }, { 3, 8, 3 },
        { 3, 13, 4 }, { 3, 2, 5 }, { 3, 7, 7 }, { 3, 12, 8 },
        { 4, 0, 3 }, { 4, 0, 4 }, { 4, 0, 5 }, { 4, 0, 7 }, { 4, 0, 8 },
    };
    const uint32_t n = sizeof want / sizeof *want;
    int32_t got[64][3] = { { 0 } };

    cr_assert(kvt_sample_plan(l, 5, 4, 5, got[0], 64) == n);
    cr_assert(memcmp(got, want, sizeof want) == 0);
    memset(got, 0x55, sizeof got);
    cr_assert(kvt_sample_plan(l, 5, 4, 5, got[0], 2) == n, "the count does not depend on the room");
    cr_assert(got[1][1] == 2 && got[2][0] == 0x55555555);
    /* G = 4: step 3 is the last one; head 0 of layer 4 has it already. */
    cr_assert(kvt_sample_plan(&l[4], 1, 4, 4, got[0], 64) == 4);
    cr_assert(kvt_sample_plan(&l[4], 1, 4, 0, got[0], 64) == 1);
}
