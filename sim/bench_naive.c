/* bench_naive.c - see bench_naive.h. */
#include "bench_naive.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
extern const char kvt__naive_py[];

__asm__(".section .rodata\n"
        ".global kvt__naive_py\n"
        ".type kvt__naive_py, %object\n"
        "kvt__naive_py:\n"
        ".incbin \"" KVT_NAIVE_PATH "\"\n"
        ".byte 0\n"
        ".size kvt__naive_py, . - kvt__naive_py\n"
        ".section .note.GNU-stack,\"\",%progbits\n"
        ".text\n");

static void naive_path(const bench_naive *w, const char *name, char path[1100])
{
    snprintf(path, 1100, "%s/%s", w->dir, name);
}

static kvt_status naive_write(const bench_naive *w, const char *name, const void *data, size_t bytes, kvt_err *err)
{
    char path[1100];
    FILE *f;
    int ok;

    naive_path(w, name, path);
    f = fopen(path, "wb");
    ok = f && fwrite(data, 1, bytes, f) == bytes;
    if (f && fclose(f) != 0)
        ok = 0;
    return ok ? KVT_OK : kvt_fail(err, KVT_EIO, "%s: %s", path, strerror(errno));
}

static kvt_status naive_files(const bench_naive *w, kvt_err *err)
{
    const bench_engine *e = w->e;
    const uint32_t N = e->r.N, group = e->r.L.group;
    const size_t n_rank = (size_t)e->n_policies * w->n_heads * N;
    uint32_t *rank = malloc(n_rank * sizeof *rank);
    kvt_status st;

    if (!rank)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t p = 0; p < e->n_policies; p++)
        for (uint32_t h = 0; h < w->n_heads; h++)
            memcpy(rank + ((size_t)p * w->n_heads + h) * N, e->rank + ((size_t)p * e->r.L.Hkv + h / group) * N, N * sizeof *rank);
    st = naive_write(w, "rank.u32", rank, n_rank * sizeof *rank, err);
    free(rank);
    KVT_TRY(st);
    KVT_TRY(naive_write(w, "rows.f32", w->row, (size_t)w->n_heads * e->r.G * N * sizeof *w->row, err));
    KVT_TRY(naive_write(w, "cut.u32", e->cut, e->n_budgets * sizeof *e->cut, err));
    return naive_write(w, "pairs.u32", w->pair, w->n_pairs * sizeof w->pair[0], err);
}

/* ------------------------------------------------------------------ numpy */

/* Runs the script; t[3] its seconds. 0: there is no python3 or no numpy, or it failed. */
static int naive_python(const bench_naive *w, double t[3])
{
    char python[] = "python3", command[] = "-c", dir[1024], number[7][16], out[1100];
    char *script = malloc(strlen(kvt__naive_py) + 1);
    char *argv[] = { python, command, script, dir, number[0], number[1], number[2], number[3], number[4], number[5], number[6], NULL };
    const uint32_t value[7] = { w->n_heads, w->e->r.G, w->e->r.N, w->e->n_policies, w->e->n_budgets, w->n_pairs, w->n_threads };
    posix_spawn_file_actions_t files;
    int status = 1, ok;
    pid_t pid;
    FILE *f;

    if (!script)
        return 0;
    strcpy(script, kvt__naive_py);
    snprintf(dir, sizeof dir, "%s", w->dir);
    for (int i = 0; i < 7; i++)
        snprintf(number[i], sizeof number[i], "%u", value[i]);
    naive_path(w, "naive.out", out);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    ok = posix_spawnp(&pid, python, &files, NULL, argv, environ) == 0;
    posix_spawn_file_actions_destroy(&files);
    while (ok && waitpid(pid, &status, 0) < 0)
        ok = errno == EINTR;
    free(script);
    f = ok && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? fopen(out, "r") : NULL;
    ok = f && fscanf(f, "%lf %lf %lf", &t[0], &t[1], &t[2]) == 3;
    if (f)
        fclose(f);
    unlink(out);
    return ok;
}

static kvt_status naive_read_lost(bench_naive *w, kvt_err *err)
{
    const size_t n = (size_t)w->n_heads * w->n_pairs * w->e->r.G;
    char path[1100];
    FILE *f;
    int ok;

    naive_path(w, "lost.f32", path);
    f = fopen(path, "rb");
    ok = f && fread(w->lost, sizeof *w->lost, n, f) == n;
    if (f)
        fclose(f);
    return ok ? KVT_OK : kvt_fail(err, KVT_EIO, "%s: shorter than the naive sweep should have written it", path);
}

/* ---------------------------------------------------------------------- C */

/* Form a: multiply, then sum. Form b: the dot product of a row and a mask. */
static void naive_head(void *arg, uint32_t head, uint32_t thread)
{
    const bench_naive *w = arg;
    const uint32_t N = w->e->r.N, G = w->e->r.G;
    float *restrict product = w->product + (size_t)thread * N;

    for (uint32_t k = 0; k < w->n_pairs; k++) {
        const float *mask = w->mask + ((size_t)head * w->n_pairs + k) * N;
        for (uint32_t t = 0; t < G; t++) {
            const float *row = w->row + ((size_t)head * G + t) * N;
            float sum[16] = { 0 }, all = 0;
            if (w->form == 0)
                for (uint32_t j = 0; j < N; j++)
                    product[j] = row[j] * mask[j];
            for (uint32_t j = 0; j + 16 <= N; j += 16)
                for (uint32_t i = 0; i < 16; i++)
                    sum[i] += w->form == 0 ? product[j + i] : row[j + i] * mask[j + i];
            for (uint32_t j = N & ~15u; j < N; j++)
                all += row[j] * mask[j];
            for (uint32_t i = 0; i < 16; i++)
                all += sum[i];
            w->lost[((size_t)head * w->n_pairs + k) * G + t] = all;
        }
    }
}

static void naive_c(bench_naive *w, double t[3])
{
    for (w->form = 0; w->form < 2; w->form++) {
        const double start = bench_now_s();
        kvt_pool_run(w->e->r.pool, w->n_heads, naive_head, w);
        t[w->form] = bench_now_s() - start;
    }
    t[2] = NAN;
}

/* -------------------------------------------------------------------- both */

kvt_status bench_naive_once(void *arg, double *s, kvt_err *err)
{
    bench_naive *w = arg;
    double t[3];

    if (!w->python)
        naive_c(w, t);
    else if (!naive_python(w, t))
        return kvt_fail(err, KVT_EIO, "naive_sweep.py: python3 ran it before and now failed");
    else
        KVT_TRY(naive_read_lost(w, err));
    for (int i = 0; i < 3; i++) {
        t[i] *= w->scale_heads * (i < 2 ? w->scale_pairs : 1);
        if (!(w->min_s[i] <= t[i]))
            w->min_s[i] = t[i];
    }
    *s = t[0];
    return KVT_OK;
}

static kvt_status naive_alloc(bench_naive *w, kvt_err *err)
{
    const size_t N = w->e->r.N, G = w->e->r.G, H = w->n_heads;

    w->row = malloc(H * G * N * sizeof *w->row);
    w->mask = malloc(H * w->n_pairs * N * sizeof *w->mask);
    w->lost = malloc(H * w->n_pairs * G * sizeof *w->lost);
    w->product = malloc(w->n_threads * N * sizeof *w->product);
    return w->row && w->mask && w->lost && w->product ? KVT_OK : kvt_fail(err, KVT_ENOMEM, "out of memory");
}

static void naive_fill(bench_naive *w)
{
    const run *r = &w->e->r;
    const size_t N = r->N, G = r->G;

    for (uint32_t h = 0; h < w->n_heads; h++)
        for (uint32_t b = 0; b < r->n_blocks; b++) {
            const float *tile = kvt__tile(r, h, b, r->scratch[0]);
            for (uint32_t i = 0; i < KVT_TILE && b * KVT_TILE + i < G; i++)
                for (size_t j = 0; j < N; j++)
                    w->row[(h * G + b * KVT_TILE + i) * N + j] = tile[j * KVT_TILE + i];
        }
    for (uint32_t h = 0; h < w->n_heads; h++)
        for (uint32_t k = 0; k < w->n_pairs; k++) {
            const uint8_t *kept = r->cell[w->pair[k][0] * w->e->n_budgets + w->pair[k][1]].kept + h / r->L.group * N;
            for (size_t j = 0; j < N; j++)
                w->mask[((size_t)h * w->n_pairs + k) * N + j] = kept[j] ? 0.0f : 1.0f;
        }
}

kvt_status bench_naive_new(bench_naive **out, bench_engine *e, const bench_conf *c, kvt_err *err)
{
    bench_naive *w = calloc(1, sizeof *w);
    double t[3];
    kvt_status st;

    if (!w)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    w->e = e, w->dir = c->dir, w->n_threads = c->threads;
    w->n_heads = e->r.L.H < NAIVE_HEADS ? e->r.L.H : NAIVE_HEADS;
    w->n_pairs = e->r.n_cells < NAIVE_PAIRS ? e->r.n_cells : NAIVE_PAIRS;
    for (uint32_t k = 0; k < w->n_pairs; k++) {          /* spread over policies and budgets */
        const uint32_t cell = (uint32_t)((uint64_t)k * e->r.n_cells / w->n_pairs);
        w->pair[k][0] = cell / e->n_budgets;
        w->pair[k][1] = (cell + k) % e->n_budgets;
    }
    w->scale_pairs = (double)e->r.n_cells / w->n_pairs;
    w->scale_heads = (double)e->r.L.H / w->n_heads;
    for (int i = 0; i < 3; i++)
        w->min_s[i] = NAN;
    KVT_TRY_GOTO(st, naive_alloc(w, err));
    naive_fill(w);
    KVT_TRY_GOTO(st, naive_files(w, err));
    w->python = naive_python(w, t);
    *out = w;
    return KVT_OK;
done:
    bench_naive_free(w);
    return st;
}

void bench_naive_free(bench_naive *w)
{
    static const char *const made[] = { "rows.f32", "rank.u32", "cut.u32", "pairs.u32", "lost.f32" };

    if (!w)
        return;
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        char path[1100];
        naive_path(w, made[i], path);
        unlink(path);
    }
    free(w->row), free(w->mask), free(w->lost), free(w->product);
    free(w);
}

double bench_naive_error(const bench_naive *w)
{
    const uint32_t G = w->e->r.G;
    double worst = 0, *lost = malloc(G * sizeof *lost);

    if (!lost)
        return NAN;
    for (uint32_t h = 0; h < w->n_heads; h++)
        for (uint32_t k = 0; k < w->n_pairs; k++) {
            double d;
            for (uint32_t t = 0; t < G; t++)
                lost[t] = (double)w->lost[((size_t)h * w->n_pairs + k) * G + t];
            d = bench_engine_error(w->e, w->pair[k][0], w->pair[k][1], h, lost);
            worst = d > worst || isnan(d) ? d : worst;
        }
    free(lost);
    return worst;
}
