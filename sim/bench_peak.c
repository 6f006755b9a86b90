/* bench_peak.c - what the machine can do: the references of all other benches.
 *
 * Reads add 64-bit words, so a compiler cannot leave them out and no rounding orders
 * them. The multiply-add loop keeps as many independent chains as the unit is deep. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pool.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PEAK_DRAM_BYTES ((size_t)256 << 20)
#define PEAK_L3_BYTES   ((size_t)24 << 20)

/* ------------------------------------------------------------------ reads */

typedef uint64_t word4 __attribute__((vector_size(32)));

static inline __attribute__((always_inline)) uint64_t peak_sum(const word4 *x, size_t n)
{
    word4 a = { 0 }, b = a, c = a, d = a, e = a, f = a, g = a, h = a;

    for (size_t i = 0; i + 8 <= n; i += 8) {
        a += x[i], b += x[i + 1], c += x[i + 2], d += x[i + 3];
        e += x[i + 4], f += x[i + 5], g += x[i + 6], h += x[i + 7];
    }
    a += b + c + d + e + f + g + h;
    return a[0] + a[1] + a[2] + a[3];
}

static uint64_t peak_sum_any(const word4 *x, size_t n) { return peak_sum(x, n); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t peak_sum_avx2(const word4 *x, size_t n) { return peak_sum(x, n); }
#endif

kvt_status bench_read(void *arg, double *s, kvt_err *err)
{
    bench_read_arg *a = arg;
    uint64_t (*sum)(const word4 *, size_t) = peak_sum_any;

    (void)s, (void)err;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        sum = peak_sum_avx2;
#endif
    for (uint32_t p = 0; p < a->passes; p++)
        a->sum += sum(a->data, a->bytes / sizeof(word4));
    return KVT_OK;
}

size_t bench_l2_bytes(void)
{
    long l2 = 0;

#ifdef _SC_LEVEL2_CACHE_SIZE
    l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return l2 >= 65536 ? (size_t)l2 / 2 & ~(size_t)4095 : 262144;
}

/* ------------------------------------------------------ fused multiply-adds */

#if defined(__x86_64__)
#define PEAK_CHAINS_8  12
#define PEAK_CHAINS_16 24
#define PEAK_FMA(name, isa, vec, chains, set1, fma, store, type, width)                          \
    __attribute__((target(isa))) static double name(uint64_t n)                                  \
    {                                                                                            \
        vec a[chains], m = set1((type)0.9999999), b = set1((type)1e-7);                          \
        type out[width];                                                                         \
        double sum = 0;                                                                          \
        for (int k = 0; k < chains; k++) a[k] = set1((type)k);                                   \
        for (uint64_t i = 0; i < n; i++)                                                         \
            for (int k = 0; k < chains; k++) a[k] = fma(a[k], m, b);                             \
        for (int k = 0; k < chains; k++) {                                                       \
            store(out, a[k]);                                                                    \
            for (int w = 0; w < width; w++) sum += (double)out[w];                               \
        }                                                                                        \
        return sum;                                                                              \
    }
PEAK_FMA(peak_fma_avx2_f32, "avx2,fma", __m256, PEAK_CHAINS_8, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, float, 8)
PEAK_FMA(peak_fma_avx2_f64, "avx2,fma", __m256d, PEAK_CHAINS_8, _mm256_set1_pd, _mm256_fmadd_pd, _mm256_storeu_pd, double, 4)
PEAK_FMA(peak_fma_avx512_f32, "avx512f", __m512, PEAK_CHAINS_16, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, float, 16)
PEAK_FMA(peak_fma_avx512_f64, "avx512f", __m512d, PEAK_CHAINS_16, _mm512_set1_pd, _mm512_fmadd_pd, _mm512_storeu_pd, double, 8)
#endif

int bench_fma_usable(const char *isa)
{
#if defined(__x86_64__)
    const kvt_kernels *k = kvt_kernels_find(isa);
    return k && strcmp(k->name, "portable") != 0;
#else
    (void)isa;
    return 0;
#endif
}

kvt_status bench_fma(void *arg, double *s, kvt_err *err)
{
    bench_fma_arg *a = arg;

    (void)s, (void)err;
#if defined(__x86_64__)
    const uint64_t n = 200000;
    if (strcmp(a->isa, "avx512") == 0) {
        a->flops = (double)n * PEAK_CHAINS_16 * (a->f64 ? 8 : 16) * 2;
        a->sum += a->f64 ? peak_fma_avx512_f64(n) : peak_fma_avx512_f32(n);
    } else {
        a->flops = (double)n * PEAK_CHAINS_8 * (a->f64 ? 4 : 8) * 2;
        a->sum += a->f64 ? peak_fma_avx2_f64(n) : peak_fma_avx2_f32(n);
    }
#else
    (void)a;
#endif
    return KVT_OK;
}

/* ---------------------------------------------------------------- threads */

typedef struct peak_each {          /* the same work in every thread                  */
    kvt_pool *pool;
    uint32_t  n;
    bench_fn  fn;
    char     *arg;                  /* [n] of arg_bytes                               */
    size_t    arg_bytes;
} peak_each;

static void peak_item(void *arg, uint32_t item, uint32_t thread)
{
    const peak_each *e = arg;
    double s = -1;

    (void)thread;
    (void)e->fn(e->arg + item * e->arg_bytes, &s, NULL);   /* bench_read and bench_fma cannot fail */
}

static kvt_status peak_run(void *arg, double *s, kvt_err *err)
{
    peak_each *e = arg;

    (void)s, (void)err;
    kvt_pool_run(e->pool, e->n, peak_item, e);
    return KVT_OK;
}

static kvt_status peak_read(bench_out *o, kvt_pool *pool, const char *name, char *data, size_t bytes_each, uint32_t passes, kvt_err *err)
{
    const uint32_t n = o->conf.threads;
    bench_read_arg *a = calloc(n, sizeof *a);
    peak_each e = { .pool = pool, .n = n, .fn = bench_read, .arg = (char *)a, .arg_bytes = sizeof *a };
    bench_times t;
    kvt_status st;

    if (!a)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        a[i] = (bench_read_arg){ .data = data + i * bytes_each, .bytes = bytes_each, .passes = passes };
    st = bench_pair(&o->conf, NULL, NULL, peak_run, &e, NULL, &t, err);
    if (st == KVT_OK) {
        bench_item *it = bench_add(o, "%s read", name);
        it->time = t;
        it->bytes = (double)bytes_each * n * passes;
        it->extra[0].name = "GB_per_s", it->extra[0].value = it->bytes / t.min_s * 1e-9;
    }
    free(a);
    return st;
}

static kvt_status peak_multiply(bench_out *o, kvt_pool *pool, const char *isa, int f64, kvt_err *err)
{
    const uint32_t n = o->conf.threads;
    bench_fma_arg *a = calloc(n, sizeof *a);
    peak_each e = { .pool = pool, .n = n, .fn = bench_fma, .arg = (char *)a, .arg_bytes = sizeof *a };
    bench_times t;
    kvt_status st;

    if (!a)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        a[i].isa = isa, a[i].f64 = f64;
    st = bench_pair(&o->conf, NULL, NULL, peak_run, &e, NULL, &t, err);
    if (st == KVT_OK) {
        bench_item *it = bench_add(o, "FMA %s %s", f64 ? "f64" : "f32", isa);
        it->time = t;
        it->flops = a[0].flops * n;
        it->extra[0].name = "GFLOP_per_s", it->extra[0].value = it->flops / t.min_s * 1e-9;
    }
    free(a);
    return st;
}

/* ------------------------------------------------------------------- disk */

static kvt_status disk_fail(const bench_disk *d, int fd, kvt_err *err)
{
    const int why = errno;

    if (fd >= 0)
        close(fd);
    return kvt_fail(err, KVT_EIO, "%s: %s", d->path, strerror(why));
}

kvt_status bench_disk_write(void *arg, double *s, kvt_err *err)
{
    bench_disk *d = arg;
    double start;
    int fd;

    unlink(d->path);
    start = bench_now_s();
    fd = open(d->path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return disk_fail(d, fd, err);
    for (size_t done = 0; done < d->bytes;) {
        const ssize_t n = write(fd, d->block, BENCH_BLOCK);
        if (n < 0)
            return disk_fail(d, fd, err);
        done += (size_t)n;
    }
    if (fsync(fd) != 0)
        return disk_fail(d, fd, err);
    *s = bench_now_s() - start;
    close(fd);
    return KVT_OK;
}

/* Cold: the pages are given back first, or this would read the page cache. */
kvt_status bench_disk_read(void *arg, double *s, kvt_err *err)
{
    bench_disk *d = arg;
    const int fd = open(d->path, O_RDONLY);
    double start;
    ssize_t n;

    if (fd < 0)
        return disk_fail(d, fd, err);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    start = bench_now_s();
    while ((n = read(fd, d->block, BENCH_BLOCK)) > 0) { }
    if (n < 0)
        return disk_fail(d, fd, err);
    *s = bench_now_s() - start;
    close(fd);
    return KVT_OK;
}

static kvt_status peak_disks(bench_out *o, kvt_err *err)
{
    bench_disk *d = calloc(1, sizeof *d);
    bench_times w, r;
    kvt_status st;

    if (!d || !(d->block = malloc(BENCH_BLOCK))) {
        free(d);
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    d->bytes = (size_t)(o->conf.disk_bytes + BENCH_BLOCK - 1) / BENCH_BLOCK * BENCH_BLOCK;
    memset(d->block, 0x5a, BENCH_BLOCK);
    snprintf(d->path, sizeof d->path, "%s/disk", o->conf.dir);
    st = bench_pair(&o->conf, bench_disk_write, d, bench_disk_read, d, &w, &r, err);
    unlink(d->path);
    for (int k = 0; st == KVT_OK && k < 2; k++) {
        bench_item *it = bench_add(o, k ? "disk read, cold" : "disk write and fsync");
        it->time = k ? r : w;
        it->bytes = (double)d->bytes;
        it->extra[0].name = "GB_per_s", it->extra[0].value = it->bytes / it->time.min_s * 1e-9;
    }
    free(d->block);
    free(d);
    return st;
}

kvt_status bench_peak(bench_out *o, kvt_err *err)
{
    static const char *const isa[] = { "avx2", "avx512" };
    const uint32_t n = o->conf.threads;
    const size_t l2 = bench_l2_bytes();
    kvt_pool *pool = NULL;
    void *data = NULL;
    kvt_status st = KVT_OK;

    KVT_TRY(kvt_pool_new(&pool, n, err));
    if (posix_memalign(&data, 4096, PEAK_DRAM_BYTES > l2 * n ? PEAK_DRAM_BYTES : l2 * n) != 0) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    memset(data, 1, PEAK_DRAM_BYTES > l2 * n ? PEAK_DRAM_BYTES : l2 * n);
    KVT_TRY_GOTO(st, peak_read(o, pool, "DRAM", data, PEAK_DRAM_BYTES / n & ~(size_t)4095, 1, err));
    KVT_TRY_GOTO(st, peak_read(o, pool, "L2", data, l2, 64, err));
    KVT_TRY_GOTO(st, peak_read(o, pool, "L3", data, PEAK_L3_BYTES / n & ~(size_t)4095, 4, err));
    for (int i = 0; i < 2; i++)
        for (int f64 = 0; f64 < 2 && bench_fma_usable(isa[i]); f64++)
            KVT_TRY_GOTO(st, peak_multiply(o, pool, isa[i], f64, err));
    KVT_TRY_GOTO(st, peak_disks(o, err));
    bench_note(o, "no targets: these are what other benches are measured against, and those measure their own again");
done:
    free(data);
    kvt_pool_free(pool);
    return st;
}
