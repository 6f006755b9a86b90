/* test_trace_read.c - goal: the fast paths of the reader (mapped, pread) give the bits that
 * H5Dread and kvt_float16.h give, and a file that becomes shorter while it is open is an
 * error, not a signal. Method: every 16-bit pattern; synthetic traces large enough to be
 * mapped, read both ways and through libhdf5; truncate() on the open file. */
#include <criterion/criterion.h>
#include <hdf5.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvt_float16.h"
#include "trace_guard.h"
#include "trace_synth.h"
#include "trace_widen.h"

static char folder[64], path[128];
static kvt_err err;

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/kvt_read_XXXXXX");
    cr_assert(mkdtemp(folder), "no folder below /tmp");
    snprintf(path, sizeof path, "%s/t.h5", folder);
}

static void remove_folder(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert(system(command) == 0);
}

TestSuite(trace_read, .init = make_folder, .fini = remove_folder);

/* ---------------------------------------------------------------- widening */

typedef int (*widen_fn)(float *out, const void *in, size_t n, kvt_h5_type type);
static const widen_fn widen[] = {kvt__widen, kvt__widen_plain};

static int same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

Test(trace_read, every_16_bit_pattern_is_widened_exactly)
{
    static uint16_t in[65536];
    static float out[65536];

    for (uint32_t i = 0; i < 65536; i++) in[i] = (uint16_t)i;
    for (int w = 0; w < 2; w++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            cr_assert(widen[w](out, in, 65536, bf16 ? KVT_H5_BF16 : KVT_H5_F16) == 1);
            for (uint32_t i = 0; i < 65536; i++)
                cr_assert(same_bits(out[i], bf16 ? kvt_from_bf16(in[i]) : kvt_from_f16(in[i])), "%s %04x gives %a",
                          bf16 ? "bf16" : "f16", i, (double)out[i]);
        }
}

/* Any length and alignment; also where the input is the end of the output. */
Test(trace_read, widening_has_no_edges)
{
    static const kvt_h5_type types[] = {KVT_H5_F16, KVT_H5_BF16, KVT_H5_F32};
    unsigned char raw[4 * 200 + 8];
    float out[202];

    for (size_t i = 0; i < sizeof raw; i++) raw[i] = (unsigned char)(37 * i + 11 * (i >> 3));
    for (int w = 0; w < 2; w++)
        for (int t = 0; t < 3; t++)
            for (size_t n = 0; n <= 200; n++) {
                const size_t bytes = types[t] == KVT_H5_F32 ? 4 : 2;
                float in_place[202];
                out[n] = in_place[n] = 77;
                memcpy((unsigned char *)in_place + (4 - bytes) * n, raw + 3, bytes * n);
                widen[w](out, raw + 3, n, types[t]);
                widen[w](in_place, (unsigned char *)in_place + (4 - bytes) * n, n, types[t]);
                for (size_t i = 0; i < n; i++) {
                    uint16_t h;
                    float x;
                    memcpy(bytes == 4 ? (void *)&x : (void *)&h, raw + 3 + bytes * i, bytes);
                    if (bytes == 2) x = types[t] == KVT_H5_F16 ? kvt_from_f16(h) : kvt_from_bf16(h);
                    cr_assert(same_bits(out[i], x) && same_bits(in_place[i], x), "type %d, element %zu of %zu", t, i, n);
                }
                cr_assert(out[n] == 77 && in_place[n] == 77, "wrote behind %zu elements", n);
            }
}

Test(trace_read, widening_reports_what_is_not_finite)
{
    static const uint16_t odd16[] = {0x7c00, 0xfc00, 0x7c01, 0x7e00, 0xffff};
    uint16_t in[75] = {0};
    float x[75] = {0}, out[75];

    for (int w = 0; w < 2; w++)
        for (size_t at = 0; at < 75; at++) {
            in[at] = 0x7bff;                    /* the largest f16 */
            cr_assert(widen[w](out, in, 75, KVT_H5_F16) == 0);
            for (size_t k = 0; k < sizeof odd16 / sizeof *odd16; k++) {
                in[at] = odd16[k];
                cr_assert(widen[w](out, in, 75, KVT_H5_F16) == 1, "%04x at %zu", odd16[k], at);
            }
            in[at] = 0x7f80;                    /* bf16: infinity; f16: NaN */
            cr_assert(widen[w](out, in, 75, KVT_H5_BF16) == 1);
            in[at] = 0xff7f;
            cr_assert(widen[w](out, in, 75, KVT_H5_BF16) == 0);
            in[at] = 0;
            x[at] = -3.4e38f;
            cr_assert(widen[w](out, x, 75, KVT_H5_F32) == 0);
            x[at] = -INFINITY;
            cr_assert(widen[w](out, x, 75, KVT_H5_F32) == 1);
            x[at] = 0;
        }
}

/* ---------------------------------------------------------------- whole traces */

enum { N_PROMPT = 2100, N_DECODE = 20, HEADS = 4, KV_HEADS = 2, DIM = 64, WINDOW = 1000 };

static void make_trace(kvt_dtype type)
{
    const kvt_synth s = {.n_layers = 1, .n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = DIM, .n_prompt = N_PROMPT,
                         .n_decode = N_DECODE, .window = WINDOW, .type = type, .seed = 5};
    cr_assert(kvt_synth_write(path, &s, &err) == KVT_OK, "%s", err.text);
}

static kvt_source open_trace(void)
{
    kvt_source src = {0};
    cr_assert(kvt_source_open(&src, path, 0, &err) == KVT_OK, "%s", err.text);
    return src;
}

/* The dataset as libhdf5 gives it, widened one by one. */
static float *by_library(const char *name, kvt_dtype type, size_t n)
{
    const hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), d = H5Dopen2(f, name, H5P_DEFAULT), t = H5Dget_type(d);
    float *const out = malloc(n * sizeof *out);
    uint16_t *const raw = malloc(n * sizeof *raw);

    cr_assert(f >= 0 && d >= 0 && t >= 0 && out && raw);
    cr_assert(H5Dget_storage_size(d) == n * kvt_dtype_bytes(type));
    cr_assert(H5Dread(d, t, H5S_ALL, H5S_ALL, H5P_DEFAULT, type == KVT_F32 ? (void *)out : (void *)raw) >= 0);
    for (size_t i = 0; type != KVT_F32 && i < n; i++) out[i] = type == KVT_BF16 ? kvt_from_bf16(raw[i]) : kvt_from_f16(raw[i]);
    free(raw);
    H5Tclose(t), H5Dclose(d), H5Fclose(f);
    return out;
}

static void expect_like_library(kvt_source *src, kvt_tensor tensor, const char *name, kvt_dtype type)
{
    const kvt_layer_info *const l = &src->info->layer[0];
    const uint32_t rows = kvt_tensor_rows(src->info, l, tensor), width = kvt_tensor_width(src->info, l, tensor);
    const uint32_t heads = kvt_tensor_heads(l, tensor), pieces[][2] = {{0, rows}, {1, rows - 1}, {rows - 1, 1}, {rows / 2, 7}};
    float *const whole = by_library(name, type, (size_t)heads * rows * width), *const x = malloc((size_t)rows * width * sizeof *x);

    cr_assert(x);
    for (uint32_t h = 0; h < heads; h++)
        for (int k = 0; k < 4; k++) {
            cr_assert(kvt_source_read(src, tensor, 0, h, pieces[k][0], pieces[k][1], x, &err) == KVT_OK, "%s", err.text);
            cr_assert(memcmp(x, whole + ((size_t)h * rows + pieces[k][0]) * width, (size_t)pieces[k][1] * width * sizeof *x) == 0,
                      "%s: head %u, %u rows from %u", name, h, pieces[k][1], pieces[k][0]);
        }
    free(x);
    free(whole);
}

Test(trace_read, mapped_and_copied_data_are_those_of_libhdf5)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        if (mapped) kvt_guard_maps();
        cr_assert(kvt_guard_maps_are_on() == mapped);
        for (kvt_dtype type = KVT_F32; type <= KVT_BF16; type++) {
            kvt_source src;
            make_trace(type);
            src = open_trace();
            expect_like_library(&src, KVT_T_K, "/layers/000/k", type);
            expect_like_library(&src, KVT_T_V, "/layers/000/v", type);
            expect_like_library(&src, KVT_T_Q, "/layers/000/q", type);
            expect_like_library(&src, KVT_T_LSE, "/layers/000/lse", KVT_F32);
            kvt_source_close(&src);
        }
    }
}

/* Addresses count from behind the user block: those files are left to libhdf5. */
Test(trace_read, a_user_block_moves_no_number)
{
    char command[600], plain[128];
    kvt_source a, b;
    static float x[N_PROMPT * DIM], y[N_PROMPT * DIM];

    kvt_guard_maps();
    make_trace(KVT_F16);
    snprintf(plain, sizeof plain, "%s/plain.h5", folder);
    snprintf(command, sizeof command, "mv '%s' '%s' && { head -c 512 /dev/zero; cat '%s'; } > '%s'", path, plain, plain, path);
    cr_assert(system(command) == 0);
    a = open_trace();
    cr_assert(kvt_source_open(&b, plain, 0, &err) == KVT_OK, "%s", err.text);
    for (uint32_t h = 0; h < KV_HEADS; h++) {
        cr_assert(kvt_source_read(&a, KVT_T_K, 0, h, 0, N_PROMPT, x, &err) == KVT_OK, "%s", err.text);
        cr_assert(kvt_source_read(&b, KVT_T_K, 0, h, 0, N_PROMPT, y, &err) == KVT_OK, "%s", err.text);
        cr_assert(memcmp(x, y, sizeof x) == 0);
    }
    kvt_source_close(&a);
    kvt_source_close(&b);
}

/* ---------------------------------------------------------------- a file that shrinks */

/* The file offset of a dataset. */
static off_t offset_of(const char *name)
{
    const hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), d = H5Dopen2(f, name, H5P_DEFAULT);
    const haddr_t at = H5Dget_offset(d);

    cr_assert(at != HADDR_UNDEF);
    H5Dclose(d), H5Fclose(f);
    return (off_t)at;
}

static void expect_cut(int mapped)
{
    static float x[(N_PROMPT + N_DECODE) * DIM];
    const off_t k_bytes = (off_t)(N_PROMPT + N_DECODE) * DIM * 2;
    kvt_source src;

    if (mapped) kvt_guard_maps();
    make_trace(KVT_F16);
    src = open_trace();
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 1, 0, 10, x, &err) == KVT_OK, "%s", err.text);
    cr_assert(truncate(path, offset_of("/layers/000/k") + k_bytes + k_bytes / 2) == 0);
    cr_assert(kvt_source_read(&src, KVT_T_K, 0, 0, 0, N_PROMPT, x, &err) == KVT_OK, "head 0 is still there: %s", err.text);
    for (int again = 0; again < 2; again++) {
        cr_assert(kvt_source_read(&src, KVT_T_K, 0, 1, 0, N_PROMPT + N_DECODE, x, &err) == KVT_EFORMAT);
        cr_assert(strstr(err.text, "t.h5: /layers/000/k: its data lie past the end of the file: it became shorter"), "%s", err.text);
    }
    kvt_source_close(&src);
}

Test(trace_read, a_copied_file_that_shrinks_is_an_error) { expect_cut(0); }
Test(trace_read, a_mapped_file_that_shrinks_is_an_error) { expect_cut(1); }

static void touch_all(void *arg)
{
    const volatile char *const x = arg;
    for (size_t i = 0; i < 3 * (size_t)sysconf(_SC_PAGESIZE); i += 512) (void)x[i];
}

/* Only faults inside the guarded bytes are caught, and only during the call. */
Test(trace_read, a_fault_elsewhere_still_kills, .signal = SIGBUS)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    FILE *const f = fopen(path, "w+");
    char *x;

    signal(SIGBUS, SIG_DFL);                    /* whatever a sanitizer put there */
    kvt_guard_maps();
    cr_assert(f && ftruncate(fileno(f), (off_t)page) == 0);
    x = mmap(NULL, 3 * page, PROT_READ, MAP_SHARED, fileno(f), 0);
    cr_assert(x != MAP_FAILED);
    cr_assert(kvt_guard_touch(x, 3 * page, touch_all, x) == 0);
    cr_assert(ftruncate(fileno(f), (off_t)(3 * page)) == 0);
    cr_assert(kvt_guard_touch(x, 3 * page, touch_all, x) == 1);
    cr_assert(ftruncate(fileno(f), (off_t)page) == 0);
    (void)kvt_guard_touch(x, page, touch_all, x);
}
