/* test_trace_open.c - goal: the reader gives back what was written, refuses what breaks a
 * rule with the object's name, leaves nothing open, and verify finds what opening cannot.
 * Method: the worked example of FORMAT.md 19, whole and with one thing changed through
 * HDF5. Hundreds of further malformed files are made by tests/python/malformed.py. */
#include <criterion/criterion.h>
#include <hdf5.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trace_verify.h"
#include "worked_example.h"

static char folder[64], path[128];
static example ex;
static kvt_err err;

static void make_trace(void)
{
    const example_way way = {.type = KVT_BF16};

    snprintf(folder, sizeof folder, "/tmp/kvt_open_XXXXXX");
    cr_assert(mkdtemp(folder), "no folder below /tmp");
    snprintf(path, sizeof path, "%s/t.h5", folder);
    example_make(&ex);
    cr_assert(example_write(path, &ex, &way, &err) == KVT_OK, "%s", err.text);
}

static void remove_folder(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert(system(command) == 0);
    cr_assert(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0, "something is still open in HDF5");
}

TestSuite(trace_open, .init = make_trace, .fini = remove_folder);

static kvt_source open_trace(void)
{
    kvt_source src = {0};
    cr_assert(kvt_source_open(&src, path, 0, &err) == KVT_OK, "%s", err.text);
    return src;
}

/* Opening must fail with this status, name `word`, and leave *out alone. */
static void expect_refused(kvt_status st, const char *word)
{
    kvt_source src = {.path = "untouched"};

    err = (kvt_err){0};
    cr_assert(kvt_source_open(&src, path, 0, &err) == st, "expected %s, got %s: %s", kvt_status_name(st),
              kvt_status_name(err.status), err.text);
    cr_assert(strstr(err.text, word), "'%s' is not in: %s", word, err.text);
    cr_assert(strncmp(err.text, path, strlen(path)) == 0, "does not begin with the file: %s", err.text);
    cr_assert(!strchr(err.text, '\n'));
    cr_assert(src.ops == NULL && strcmp(src.path, "untouched") == 0);
    cr_assert(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0, "refused, but something is still open");
}

static hid_t edit(void)
{
    const hid_t f = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    cr_assert(f >= 0);
    return f;
}

static void set_int(const char *object, const char *name, int64_t value)
{
    const hid_t f = edit(), o = H5Oopen(f, object, H5P_DEFAULT), a = H5Aopen(o, name, H5P_DEFAULT);
    cr_assert(a >= 0 && H5Awrite(a, H5T_NATIVE_INT64, &value) >= 0);
    H5Aclose(a), H5Oclose(o), H5Fclose(f);
}

static void set_float(const char *dataset, hsize_t element, float value)
{
    const hid_t f = edit(), d = H5Dopen2(f, dataset, H5P_DEFAULT), s = H5Dget_space(d);
    hsize_t dims[3], at[3] = {0}, one = 1;
    const int rank = H5Sget_simple_extent_dims(s, dims, NULL);
    const hid_t m = H5Screate_simple(1, &one, NULL);

    for (int i = rank; i-- > 0; element /= dims[i]) at[i] = element % dims[i];
    cr_assert(H5Sselect_elements(s, H5S_SELECT_SET, 1, at) >= 0);
    cr_assert(H5Dwrite(d, H5T_NATIVE_FLOAT, m, s, H5P_DEFAULT, &value) >= 0);
    H5Sclose(m), H5Sclose(s), H5Dclose(d), H5Fclose(f);
}

static void remove_link(const char *name)
{
    const hid_t f = edit();
    cr_assert(H5Ldelete(f, name, H5P_DEFAULT) >= 0);
    H5Fclose(f);
}

/* ---------------------------------------------------------------- what is read */

Test(trace_open, the_description_is_that_of_the_example)
{
    kvt_source src = open_trace();
    const kvt_trace_info *info = src.info;

    cr_assert(info->complete && info->format[0] == 1 && strlen(info->content_id) == 64);
    cr_assert(info->n_layers == EX_L && info->n_prompt == EX_N && info->n_decode == EX_G);
    cr_assert(info->n_tokens == EX_T && info->n_rows == EX_R && info->window == EX_W);
    cr_assert(info->question_start == 4 && info->model_dim == EX_DM && info->redacted == 0);
    cr_assert(strcmp(info->cluster_id, info->uuid) == 0, "the uuid is the cluster by default");
    cr_assert(info->n_provenance == 2 && strcmp(info->provenance[0].value, "none") == 0);
    cr_assert(strcmp(info->provenance[1].name, "seed") == 0 && strcmp(info->provenance[1].value, "7") == 0);
    for (int i = 0; i < EX_T; i++) cr_assert(info->token_id[i] == ex.id[i] && info->rotary[i] == i);
    for (int i = 0; i < EX_R; i++) cr_assert(info->query_index[i] == EX_N - EX_W + i);
    cr_assert(info->text == NULL && info->token_flags == NULL && info->n_spans == 0);
    cr_assert(info->n_samples == EX_S && memcmp(info->sample_index, ex.sample, sizeof ex.sample) == 0);
    for (int l = 0; l < EX_L; l++) {
        const kvt_layer_info *a = &info->layer[l], *b = &ex.layer[l];
        cr_assert(a->has == b->has && a->attn == b->attn && a->window == b->window && !a->recorded);
        cr_assert(a->n_heads == EX_H && a->n_kv_heads == EX_KV && a->d_k == EX_D && a->d_v == EX_D);
        cr_assert(a->k_type == KVT_BF16 && a->scale == b->scale && a->softcap == b->softcap);
        cr_assert(a->rope_dims == 4 && a->rope_segments == 1 && !a->rope_interleaved);
        cr_assert(a->rope_inv_freq[1] == 0.01 && a->rope_segment_start[0] == 0);
    }
    kvt_source_close(&src);
    cr_assert(src.ops == NULL);
    kvt_source_close(&src);                    /* a zeroed source is fine */
}

/* Every tensor of both layers, every head, whole and row by row. */
Test(trace_open, all_numbers_come_back_in_all_types)
{
    for (int type = KVT_F32; type <= KVT_BF16; type++) {
        const example_way way = {.type = (kvt_dtype)type, .chunked = type == KVT_F16};
        kvt_source src = {0};

        cr_assert(example_write(path, &ex, &way, &err) == KVT_OK, "%s", err.text);
        src = open_trace();
        for (uint32_t l = 0; l < EX_L; l++)
            for (uint32_t h = 0; h < EX_H; h++) {
                float x[EX_T * EX_D], y[EX_T * EX_D];
                cr_assert(kvt_source_read(&src, KVT_T_Q, l, h, 0, EX_R, x, &err) == KVT_OK, "%s", err.text);
                cr_assert(memcmp(x, ex.q[l][h][EX_N - EX_W], EX_R * EX_D * sizeof *x) == 0);
                cr_assert(kvt_source_read(&src, KVT_T_LSE, l, h, 0, EX_R, x, &err) == KVT_OK);
                cr_assert(memcmp(x, ex.lse[l][h], EX_R * sizeof *x) == 0);
                cr_assert(kvt_source_read(&src, KVT_T_STAT_SUMSQ, l, h, 0, EX_N, x, &err) == KVT_OK);
                cr_assert(memcmp(x, ex.sumsq[l][h], EX_N * sizeof *x) == 0);
                if (h >= EX_KV) continue;
                cr_assert(kvt_source_read(&src, KVT_T_K, l, h, 0, EX_T, x, &err) == KVT_OK);
                cr_assert(memcmp(x, ex.k[l][h], EX_T * EX_D * sizeof *x) == 0);
                for (uint32_t row = 0; row < EX_T; row++)
                    cr_assert(kvt_source_read(&src, KVT_T_K, l, h, row, 1, y + row * EX_D, &err) == KVT_OK);
                cr_assert(memcmp(x, y, sizeof x) == 0, "row by row differs from whole");
            }
        kvt_source_close(&src);
    }
}

Test(trace_open, reads_outside_the_trace_are_refused)
{
    kvt_source src = open_trace();
    float x[EX_T * EX_D], before = 42;

    x[0] = before;
    cr_assert(kvt_source_read(&src, KVT_T_K, EX_L, 0, 0, 1, x, &err) == KVT_ERANGE);
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, EX_KV, 0, 1, x, &err) == KVT_ERANGE);
    cr_assert(kvt_source_read(&src, KVT_T_Q, 0, EX_H, 0, 1, x, &err) == KVT_ERANGE);
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 0, EX_T, 1, x, &err) == KVT_ERANGE);
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 0, 1, UINT32_MAX, x, &err) == KVT_ERANGE);
    cr_assert(kvt_source_read(&src, KVT_T_Q, 0, 0, 0, EX_R + 1, x, &err) == KVT_ERANGE);
    cr_assert(kvt_source_read(&src, KVT_T_SINKS, 0, 0, 0, 1, x, &err) == KVT_ENEED);
    cr_assert(strstr(err.text, "/layers/000/sinks"), "%s", err.text);
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 0, EX_T, 0, x, &err) == KVT_OK, "no rows are always there");
    cr_assert(x[0] == before);
    kvt_source_close(&src);
}

/* A source in memory gives the same numbers as the file it was read from. */
Test(trace_open, memory_equals_file)
{
    kvt_source file = open_trace(), memory = {0};
    static float held[EX_L * KVT_T_END][EX_H * EX_T * EX_D];
    const float *data[EX_L * KVT_T_END] = {0};

    for (uint32_t l = 0; l < EX_L; l++)
        for (uint32_t t = KVT_T_K; t < KVT_T_END; t++) {
            const kvt_layer_info *li = &file.info->layer[l];
            const uint32_t rows = kvt_tensor_rows(file.info, li, (kvt_tensor)t);
            const uint32_t width = kvt_tensor_width(file.info, li, (kvt_tensor)t);
            if (!(li->has & 1u << t)) continue;
            data[l * KVT_T_END + t] = held[l * KVT_T_END + t];
            for (uint32_t h = 0; h < kvt_tensor_heads(li, (kvt_tensor)t); h++)
                cr_assert(kvt_source_read(&file, (kvt_tensor)t, l, h, 0, rows,
                                          held[l * KVT_T_END + t] + h * rows * width, &err) == KVT_OK);
        }
    cr_assert(kvt_source_open_memory(&memory, file.info, data, &err) == KVT_OK, "%s", err.text);
    for (uint32_t h = 0; h < EX_H; h++) {
        float a[EX_D], b[EX_D];
        cr_assert(kvt_source_read(&file, KVT_T_Q, 1, h, 5, 1, a, &err) == KVT_OK);
        cr_assert(kvt_source_read(&memory, KVT_T_Q, 1, h, 5, 1, b, &err) == KVT_OK);
        cr_assert(memcmp(a, b, sizeof a) == 0);
    }
    {
        kvt_verify_report report;
        cr_assert(kvt_trace_verify(&report, &memory, &err) == KVT_OK && report.n_failed == 0);
        cr_assert(report.check[KVT_CHECK_ROW_SUMS].n_seen == EX_L * EX_H * EX_R);
        cr_assert(report.check[KVT_CHECK_CHECKSUMS].result == KVT_CHECK_SKIPPED);
    }
    kvt_source_close(&memory);
    data[KVT_T_K] = NULL;
    cr_assert(kvt_source_open_memory(&memory, file.info, data, &err) == KVT_EARG);
    kvt_source_close(&file);
}

/* ---------------------------------------------------------------- what is refused */

Test(trace_open, wrong_numbers_are_refused_by_name)
{
    static const struct { const char *object, *name; int64_t value; kvt_status st; } cases[] = {
        {"/", "n_layers", 0, KVT_EFORMAT},          {"/", "n_layers", KVT_MAX_LAYERS + 1, KVT_EFORMAT},
        {"/", "n_prompt", KVT_MAX_TOKENS + 1, KVT_EFORMAT}, {"/", "n_decode", -1, KVT_EFORMAT},
        {"/", "window", EX_N + 1, KVT_EFORMAT},     {"/", "complete", 0, KVT_EFORMAT},
        {"/", "complete", 2, KVT_EFORMAT},          {"/", "question_start", EX_N + 1, KVT_EFORMAT},
        {"/layers/000", "n_heads", 3, KVT_EFORMAT}, {"/layers/000", "n_heads", 1025, KVT_EFORMAT},
        {"/layers/000", "d_k", 1025, KVT_EFORMAT},  {"/layers/000", "window", 4, KVT_EFORMAT},
        {"/layers/001", "window", 0, KVT_EFORMAT},  {"/layers/000", "has_sinks", 1, KVT_EFORMAT},
        {"/layers/000", "kv_layer", 2, KVT_EFORMAT}, {"/layers/000/stats", "n_queries", 5, KVT_EFORMAT},
        {"/layers/001/rope", "rotary_dim", 3, KVT_EFORMAT}, {"/verify", "passed", 7, KVT_EFORMAT},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_trace();
        set_int(cases[i].object, cases[i].name, cases[i].value);
        expect_refused(cases[i].st, cases[i].name[0] == 'h' ? "/layers/000/sinks" : cases[i].name);
        remove_folder();
    }
    make_trace();
}

Test(trace_open, missing_objects_are_refused_by_name)
{
    static const char *const names[] = {
        "/layers/000/k", "/layers/000/q", "/layers/001/lse", "/layers/001/rope/inv_freq", "/layers/000/stats/max",
        "/layers/001", "/tokens/id", "/tokens/position", "/queries/index", "/verify/index", "/verify/attn_out",
        "/provenance", "/checksums/path", "/checksums",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        make_trace();
        remove_link(names[i]);
        expect_refused(KVT_EFORMAT, strstr(names[i], "stats") ? "/layers/000/stats" : names[i]);
        remove_folder();
    }
    make_trace();
    remove_link("/layers/000/v");              /* optional, but the list still names it */
    expect_refused(KVT_EFORMAT, "/layers/000/v");
}

Test(trace_open, links_that_lead_elsewhere_are_never_followed)
{
    hid_t f = edit();

    H5Ldelete(f, "/layers/000/k", H5P_DEFAULT);
    cr_assert(H5Lcreate_external("/nowhere/else.h5", "/k", f, "/layers/000/k", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    H5Fclose(f);
    expect_refused(KVT_EFORMAT, "external link");
    f = edit();
    H5Ldelete(f, "/layers/000/k", H5P_DEFAULT);
    cr_assert(H5Lcreate_soft("/layers/000/k", f, "/layers/000/k", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    H5Fclose(f);
    expect_refused(KVT_EFORMAT, "soft link");
}

Test(trace_open, a_filter_is_refused_as_not_supported)
{
    const hid_t f = edit(), plist = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t dims[2] = {EX_H, EX_R};
    const hid_t space = H5Screate_simple(2, dims, NULL);
    hid_t d;

    H5Pset_chunk(plist, 2, dims);
    H5Pset_deflate(plist, 1);
    H5Ldelete(f, "/layers/000/lse", H5P_DEFAULT);
    d = H5Dcreate2(f, "/layers/000/lse", H5T_IEEE_F32LE, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    cr_assert(d >= 0 && H5Dwrite(d, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, ex.lse[0]) >= 0);
    H5Dclose(d), H5Sclose(space), H5Pclose(plist), H5Fclose(f);
    expect_refused(KVT_ENOTSUP, "/layers/000/lse: stored with filter 1 (deflate)");
}

Test(trace_open, every_truncation_is_refused)
{
    struct stat sb;

    cr_assert(stat(path, &sb) == 0 && sb.st_size > 20000);
    for (off_t n = sb.st_size - 1; n > 0; n -= 997) {
        cr_assert(truncate(path, n) == 0);
        expect_refused(KVT_EFORMAT, "t.h5");
    }
    cr_assert(truncate(path, 0) == 0);
    expect_refused(KVT_EFORMAT, "empty");
}

Test(trace_open, an_unfinished_file_can_be_described_only)
{
    const example_way way = {.type = KVT_BF16, .unknown = 1, .stop_before_commit = 1};
    kvt_source src = {0};
    kvt_verify_report report;
    float x[EX_D];

    cr_assert(remove(path) == 0);
    cr_assert(example_write(path, &ex, &way, &err) == KVT_OK, "%s", err.text);
    snprintf(path, sizeof path, "%s/t.h5.part", folder);
    expect_refused(KVT_EFORMAT, "complete is 0");
    cr_assert(kvt_source_open(&src, path, 1, &err) == KVT_OK, "%s", err.text);
    cr_assert(!src.info->complete && src.info->n_layers == EX_L && src.info->n_prompt == EX_N);
    cr_assert(src.info->layer[1].has & 1u << KVT_T_K && src.info->layer[1].n_heads == EX_H);
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 0, 0, 1, x, &err) == KVT_EFORMAT);
    cr_assert(kvt_trace_verify(&report, &src, &err) == KVT_EFORMAT);
    kvt_source_close(&src);
}

/* ---------------------------------------------------------------- verify */

static kvt_verify_report verify(void)
{
    kvt_source src = open_trace();
    kvt_verify_report report;

    cr_assert(kvt_trace_verify(&report, &src, &err) == KVT_OK, "%s", err.text);
    kvt_source_close(&src);
    return report;
}

Test(trace_open, verify_accepts_the_example)
{
    const kvt_verify_report r = verify();

    cr_assert(r.n_failed == 0);
    cr_assert(r.check[KVT_CHECK_CHECKSUMS].n_seen == 25, "%d datasets", (int)r.check[KVT_CHECK_CHECKSUMS].n_seen);
    cr_assert(r.check[KVT_CHECK_ROW_SUMS].n_seen == EX_L * EX_H * EX_R);
    cr_assert(r.check[KVT_CHECK_ROW_SUMS].worst < 1e-6);
    cr_assert(r.check[KVT_CHECK_STATS].n_seen == EX_L * EX_H && r.check[KVT_CHECK_STATS].worst < 1e-6);
    cr_assert(r.check[KVT_CHECK_OUTPUT].n_seen == EX_S && r.check[KVT_CHECK_OUTPUT].worst < 1e-6);
    cr_assert(r.check[KVT_CHECK_OUTPUT].tol == 1e-5, "the file's own limit is the tighter one");
    cr_assert(r.check[KVT_CHECK_ROPE].result == KVT_CHECK_SKIPPED);
}

/* One changed number each: the checks that must fail, and a place that must be named. */
Test(trace_open, verify_names_what_is_wrong)
{
    static const struct { const char *dataset; hsize_t element; float value; int check; const char *word; } cases[] = {
        {"/layers/000/lse", EX_R + 2, 9, KVT_CHECK_ROW_SUMS, "layer 0 head 1 row 2 (token 4)"},
        {"/layers/001/k", 5, NAN, KVT_CHECK_FINITE, "/layers/001/k: head 0 token 1"},
        {"/layers/001/q", 0, INFINITY, KVT_CHECK_FINITE, "/layers/001/q: head 0 row 0 (token 2)"},
        {"/layers/000/nu", 3, -1, KVT_CHECK_FINITE, "/layers/000/nu: head 0 token 3 is negative"},
        {"/layers/000/stats/max", 2, 1.5f, KVT_CHECK_STATS, "layer 0 head 0 key 2"},
        {"/layers/001/stats/sum", 0, 4, KVT_CHECK_STATS, "layer 1 head 0"},
        {"/verify/attn_out", 4 * EX_D + 1, 5, KVT_CHECK_OUTPUT, "channel 1"},
        {"/layers/001/v", 5 * EX_D, 7, KVT_CHECK_OUTPUT, "layer 1 head"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const kvt_check *c;
        kvt_verify_report r;

        make_trace();
        set_float(cases[i].dataset, cases[i].element, cases[i].value);
        r = verify();
        c = &r.check[cases[i].check];
        cr_assert(c->result == KVT_CHECK_FAILED, "%s: '%s' did not fail", cases[i].dataset, c->name);
        cr_assert(strstr(c->text, cases[i].word), "'%s' is not in: %s", cases[i].word, c->text);
        cr_assert(r.check[KVT_CHECK_CHECKSUMS].result == KVT_CHECK_FAILED);
        cr_assert(strstr(r.check[KVT_CHECK_CHECKSUMS].text, cases[i].dataset));
        remove_folder();
    }
    make_trace();
}

Test(trace_open, a_replay_never_sees_a_broken_operand)
{
    kvt_source src;
    float x[EX_T * EX_D];

    set_float("/layers/000/k", 2 * EX_D + 1, NAN);
    src = open_trace();
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 0, 0, 2, x, &err) == KVT_OK);
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 0, 0, EX_T, x, &err) == KVT_ECHECK);
    cr_assert(strstr(err.text, "/layers/000/k: head 0 row 2"), "%s", err.text);
    kvt_source_close(&src);
}
