/* bench_io.c - traces against the memory and the disk that they lie on.
 *
 * The trace holds one head's K or V in 1 MiB (4096 tokens of 128 channels, 16 bits; 32
 * heads, as in Llama 2 7B), so that writer and plain blocks move the same pieces. Reads go through
 * kvt_source_read(), head by head in blocks of 512 rows into the same 256 KiB of floats,
 * which stay in the cache: what is timed is reading, widening to f32 and the search for
 * NaN, not a second stream to memory. The file is opened before the clock starts; its
 * datasets are opened and mapped anew in every repetition. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "kvt_float16.h"
#include "kvt_sha256.h"
#include "kvt_trace.h"

enum { IO_TOKENS = 4096, IO_D = 128, IO_HEADS = 32, IO_FLOATS = IO_TOKENS * IO_D, IO_ROWS = 512 };

typedef struct io_work {
    bench_disk raw;
    char       path[1024];          /* the trace                                      */
    kvt_dtype  type;
    int        chunked, cold;
    uint32_t   n_layers, n_heads;   /* fewer heads only where less than a layer is asked for */
    void      *head;                /* [IO_FLOATS] of one head, as stored              */
    float     *want, *out;          /* [IO_FLOATS] the same widened; [IO_ROWS][IO_D] as read */
    double     max_err;
} io_work;

/* ------------------------------------------------------------------ writing */

static kvt_status io_layer(kvt_writer *w, const io_work *x, uint32_t layer, kvt_err *err)
{
    const kvt_layer_info info = {
        .has = 1u << KVT_T_K | 1u << KVT_T_V | 1u << KVT_T_Q | 1u << KVT_T_LSE, .attn = KVT_ATTN_FULL, .n_heads = x->n_heads,
        .n_kv_heads = x->n_heads, .d_k = IO_D, .d_v = IO_D, .kv_layer = layer, .k_type = x->type, .v_type = x->type,
        .q_type = x->type, .scale = 0.125,
    };
    const float lse = 0;

    KVT_TRY(kvt_writer_layer(w, layer, &info, "recomputed", err));
    for (uint32_t h = 0; h < x->n_heads; h++) {
        KVT_TRY(kvt_writer_append(w, layer, KVT_T_K, h, IO_TOKENS, x->head, err));
        KVT_TRY(kvt_writer_append(w, layer, KVT_T_V, h, IO_TOKENS, x->head, err));
        KVT_TRY(kvt_writer_append(w, layer, KVT_T_Q, h, 1, x->head, err));
        KVT_TRY(kvt_writer_append(w, layer, KVT_T_LSE, h, 1, &lse, err));
    }
    return kvt_writer_flush(w, err);
}

/* Created, written, hashed, synced and renamed. */
static kvt_status io_write(void *arg, double *s, kvt_err *err)
{
    static const kvt_pair provenance[] = { { "engine", "none" } };
    static const int32_t token[IO_TOKENS];
    const io_work *x = arg;
    const kvt_writer_head head = { .writer = "kvtrace bench", .exactness = "synthetic", .n_layers = x->n_layers, .n_prompt = IO_TOKENS,
                                   .window = 1, .model_dim = x->n_heads * IO_D, .provenance = provenance, .n_provenance = 1,
                                   .chunked = x->chunked };
    const kvt_writer_tail tail = { .token_id = token, .sample_width = IO_D, .verify_tol = 1e-2, .verify_passed = 1 };
    kvt_writer *w = NULL;
    kvt_status st = KVT_OK;
    double start;

    unlink(x->path);
    start = bench_now_s();
    KVT_TRY(kvt_writer_create(&w, x->path, &head, err));
    for (uint32_t l = 0; l < x->n_layers && st == KVT_OK; l++)
        st = io_layer(w, x, l, err);
    if (st < 0) {
        kvt_writer_abort(w, 0);
        return st;
    }
    KVT_TRY(kvt_writer_commit(w, &tail, err));
    *s = bench_now_s() - start;
    return KVT_OK;
}

static kvt_status io_hash(void *arg, double *s, kvt_err *err)
{
    const io_work *x = arg;
    kvt_sha256 sha;
    uint8_t digest[32];

    (void)s, (void)err;
    kvt_sha256_init(&sha);
    for (size_t done = 0; done < x->raw.bytes; done += BENCH_BLOCK)
        kvt_sha256_update(&sha, x->raw.block, BENCH_BLOCK);
    kvt_sha256_final(&sha, digest);
    return KVT_OK;
}

/* ------------------------------------------------------------------ reading */

static kvt_status io_drop_pages(const char *path, kvt_err *err)
{
    const int fd = open(path, O_RDONLY);

    if (fd < 0)
        return kvt_fail(err, KVT_EIO, "%s: %s", path, strerror(errno));
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return KVT_OK;
}

/* The last block of a head is what out holds at the end. */
static void io_compare(io_work *x)
{
    for (size_t i = 0; i < (size_t)IO_ROWS * IO_D; i++) {
        const double e = (double)x->out[i] - (double)x->want[IO_FLOATS - IO_ROWS * IO_D + i];
        x->max_err = e > x->max_err ? e : -e > x->max_err ? -e : x->max_err;
    }
}

static kvt_status io_read_head(kvt_source *src, kvt_tensor t, uint32_t layer, uint32_t head, float *out, kvt_err *err)
{
    for (uint32_t row = 0; row < IO_TOKENS; row += IO_ROWS)
        KVT_TRY(kvt_source_read(src, t, layer, head, row, IO_ROWS, out, err));
    return KVT_OK;
}

static kvt_status io_read(void *arg, double *s, kvt_err *err)
{
    io_work *x = arg;
    kvt_source src = { 0 };
    kvt_status st = KVT_OK;
    double start;

    KVT_TRY(kvt_source_open(&src, x->path, 0, err));
    if (x->cold)
        KVT_TRY_GOTO(st, io_drop_pages(x->path, err));
    start = bench_now_s();
    for (uint32_t l = 0; l < x->n_layers; l++)
        for (int v = 0; v < 2; v++)
            for (uint32_t h = 0; h < x->n_heads; h++)
                KVT_TRY_GOTO(st, io_read_head(&src, v ? KVT_T_V : KVT_T_K, l, h, x->out, err));
    *s = bench_now_s() - start;
    io_compare(x);
done:
    kvt_source_close(&src);
    return st;
}

/* ------------------------------------------------------------------- set-up */

/* Floats between -4 and 4 in the stored type, and what they widen to. */
static void io_fill(io_work *x, uint64_t seed, kvt_dtype type)
{
    x->type = type;
    x->max_err = 0;
    for (size_t i = 0; i < IO_FLOATS; i++) {
        const float f = (float)(8 * bench_uniform(seed, 0, i) - 4);
        const uint16_t u = type == KVT_BF16 ? kvt_to_bf16(f) : kvt_to_f16(f);
        x->want[i] = type == KVT_F32 ? f : type == KVT_BF16 ? kvt_from_bf16(u) : kvt_from_f16(u);
        memcpy((char *)x->head + i * kvt_dtype_bytes(type), type == KVT_F32 ? (const void *)&f : (const void *)&u, kvt_dtype_bytes(type));
    }
}

/* Bytes of K and V of the trace. */
static double io_bytes(const io_work *x)
{
    return (double)x->n_layers * 2 * x->n_heads * IO_FLOATS * (double)kvt_dtype_bytes(x->type);
}

static kvt_status io_new(io_work *x, const bench_out *o, kvt_err *err)
{
    const size_t head = 2 * (size_t)IO_FLOATS * 2;       /* its K and its V */
    const uint64_t heads = (o->conf.disk_bytes + head - 1) / head;

    x->n_heads = heads < IO_HEADS ? (uint32_t)heads : IO_HEADS;
    x->n_layers = (uint32_t)((heads + x->n_heads - 1) / x->n_heads);
    x->raw.bytes = (size_t)x->n_layers * x->n_heads * head;
    snprintf(x->path, sizeof x->path, "%s/io.h5", o->conf.dir);
    snprintf(x->raw.path, sizeof x->raw.path, "%s/raw", o->conf.dir);
    x->head = malloc(IO_FLOATS * sizeof(float));
    x->want = malloc(IO_FLOATS * sizeof *x->want);
    x->out = calloc((size_t)IO_ROWS * IO_D, sizeof *x->out);
    x->raw.block = malloc(BENCH_BLOCK);
    if (!x->head || !x->want || !x->out || !x->raw.block)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    io_fill(x, o->conf.seed, KVT_F16);
    memcpy(x->raw.block, x->head, BENCH_BLOCK);
    return KVT_OK;
}

static void io_free(io_work *x)
{
    unlink(x->path), unlink(x->raw.path);
    free(x->head), free(x->want), free(x->out), free(x->raw.block);
}

static void io_item(bench_out *o, const char *name, const io_work *x, const bench_times *sub, const bench_times *ref, const char *ref_name,
                    double ref_bytes)
{
    bench_item *it = bench_add(o, "%s", name);

    it->time = *sub;
    it->bytes = io_bytes(x);
    it->extra[0].name = "GB_per_s", it->extra[0].value = it->bytes / sub->min_s * 1e-9;
    bench_reference(it, ref_name, ref, ref_bytes, "B/s");
    it->ratio = it->bytes / sub->min_s / it->ref_value;
}

/* ---------------------------------------------------------------- the benches */

/* Every stored type, out of the page cache, against reading as many bytes of memory. */
static kvt_status io_warm(bench_out *o, io_work *x, const bench_read_arg *memory, kvt_err *err)
{
    double least = 1e9, once;

    for (kvt_dtype type = KVT_F32; type <= KVT_BF16; type++) {
        bench_read_arg a = *memory;
        bench_times ref, sub;
        char name[48];
        io_fill(x, o->conf.seed, type);
        KVT_TRY(io_write(x, &once, err));
        KVT_TRY(bench_pair(&o->conf, bench_read, &a, io_read, x, &ref, &sub, err));
        snprintf(name, sizeof name, "%s, warm", type == KVT_F32 ? "f32" : type == KVT_F16 ? "f16 widened" : "bf16 widened");
        io_item(o, name, x, &sub, &ref, "DRAM read", (double)a.bytes);
        bench_check(&o->item[o->n_items - 1], "the written numbers", x->max_err, 0);
        least = o->item[o->n_items - 1].ratio < least ? o->item[o->n_items - 1].ratio : least;
    }
    bench_target_add(o, "I1", least, ">=", 0.80);
    return KVT_OK;
}

kvt_status bench_trace_read(bench_out *o, kvt_err *err)
{
    io_work x = { .cold = 0 };
    bench_read_arg memory = { .bytes = (size_t)256 << 20, .passes = 1 };
    bench_times ref, sub;
    void *data = NULL;
    double once;
    kvt_status st;

    KVT_TRY_GOTO(st, io_new(&x, o, err));
    if (posix_memalign(&data, 4096, memory.bytes) != 0) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    memset(data, 1, memory.bytes);
    memory.data = data;
    KVT_TRY_GOTO(st, io_warm(o, &x, &memory, err));
    x.cold = 1;
    io_fill(&x, o->conf.seed, KVT_F16);
    KVT_TRY_GOTO(st, io_write(&x, &once, err));
    memcpy(x.raw.path, x.path, sizeof x.path);           /* the same file, block by block */
    KVT_TRY_GOTO(st, bench_pair(&o->conf, bench_disk_read, &x.raw, io_read, &x, &ref, &sub, err));
    io_item(o, "f16 widened, cold", &x, &sub, &ref, "1 MiB reads, cold", (double)x.raw.bytes);
    bench_check(&o->item[o->n_items - 1], "the written numbers", x.max_err, 0);
    bench_target_add(o, "I1c", o->item[o->n_items - 1].ratio, ">=", 0.80);
    bench_note(o, "contiguous data, in blocks of 512 rows into the same 256 KiB of floats; the search for NaN is part of it");
    bench_note(o, "cold: the file's pages are dropped after fsync; a disk that caches on its own side still does");
done:
    free(data);
    io_free(&x);
    return st;
}

kvt_status bench_trace_write(bench_out *o, kvt_err *err)
{
    static const char *const name[] = { "contiguous, with digests", "chunked, with digests" }, *const id[] = { "I2", "I2c" };
    io_work x = { .cold = 0 };
    bench_times ref, sub;
    bench_item *it;
    kvt_status st;

    KVT_TRY_GOTO(st, io_new(&x, o, err));
    for (x.chunked = 0; x.chunked < 2; x.chunked++) {
        KVT_TRY_GOTO(st, bench_pair(&o->conf, bench_disk_write, &x.raw, io_write, &x, &ref, &sub, err));
        io_item(o, name[x.chunked], &x, &sub, &ref, "1 MiB writes and fsync", (double)x.raw.bytes);
        bench_target_add(o, id[x.chunked], o->item[o->n_items - 1].ratio, ">=", 0.70);
    }
    KVT_TRY_GOTO(st, bench_pair(&o->conf, NULL, NULL, io_hash, &x, NULL, &sub, err));
    it = bench_add(o, "SHA-256 alone");
    it->time = sub;
    it->bytes = (double)x.raw.bytes;
    it->extra[0].name = "GB_per_s", it->extra[0].value = it->bytes / sub.min_s * 1e-9;
    bench_note(o, "the writer is timed from its creation to the final name: HDF5, digests, fsync, rename");
done:
    io_free(&x);
    return st;
}
