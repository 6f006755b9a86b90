/* trace_verify.c - verify a trace: every byte against its checksum, every operand
 * finite, and the content id; the recomputed numbers are in trace_verify_rows.c and
 * trace_verify_stats.c. */
#include "trace_verify.h"

#include "trace_digest.h"
#include "trace_verify_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCAN_BYTES ((size_t)4 << 20)          /* one read; any multiple of 8 works */

const char *kvt_check_result_name(kvt_check_result r)
{
    return r == KVT_CHECK_OK ? "OK" : r == KVT_CHECK_FAILED ? "FAILED" : "skipped";
}

void kvt__check_fail(kvt_check *c, const char *fmt, ...)
{
    va_list ap;

    if (c->result != KVT_CHECK_FAILED) {
        va_start(ap, fmt);
        vsnprintf(c->text, sizeof c->text, fmt, ap);
        va_end(ap);
    }
    c->result = KVT_CHECK_FAILED;
    c->n_failed++;
}

void kvt__check_skip(kvt_check *c, const char *fmt, ...)
{
    va_list ap;

    if (c->result == KVT_CHECK_FAILED) return;
    va_start(ap, fmt);
    vsnprintf(c->text, sizeof c->text, fmt, ap);
    va_end(ap);
    c->result = KVT_CHECK_SKIPPED;
}

double kvt__check_worst(double worst, double error)
{
    return isnan(error) ? INFINITY : error > worst ? error : worst;
}

/* ---------------------------------------------------------------- finite operands */

typedef struct scan {
    kvt_verify_report *out;
    kvt_source        *src;
    kvt_h5_dataset     d;
    kvt_digest         digest;
    int                must_be_finite, must_not_be_negative;
    uint64_t           n_done;                /* elements before this piece            */
} scan;

/* Everything below /layers is an operand or a statistic, except explicit rows, where
 * -inf means invisible; outside, only what verify compares with. */
static int scan_is_operand(const kvt_h5_dataset *d)
{
    const char *last = strrchr(d->at.path, '/');

    if (!(KVT_H5_FLOATS & KVT_H5_BIT(d->type))) return 0;
    if (strncmp(d->at.path, "/layers/", 8) == 0) return strcmp(last, "/rows") != 0;
    return strcmp(d->at.path, "/verify/attn_out") == 0 || strcmp(d->at.path, "/verify/rope_k") == 0;
}

static void scan_report(scan *s, uint64_t element, const char *what)
{
    const kvt_h5_dataset *d = &s->d;
    const kvt_trace_info *info = s->src->info;
    const char *last = strrchr(d->at.path, '/') + 1;
    uint64_t per_row = d->rank == 3 ? d->dims[2] : 1, row, head;
    const int is_query = strcmp(last, "q") == 0 || strcmp(last, "lse") == 0;

    if (d->rank < 2 || d->rank > 3 || strncmp(d->at.path, "/layers/", 8) != 0) {
        kvt__check_fail(&s->out->check[KVT_CHECK_FINITE], "%s: element %" PRIu64 " is %s", d->at.path,
                        element, what);
        return;
    }
    row = element / per_row % d->dims[1];
    head = element / per_row / d->dims[1];
    if (is_query && row < info->n_rows)
        kvt__check_fail(&s->out->check[KVT_CHECK_FINITE], "%s: head %" PRIu64 " row %" PRIu64 " (token %"
                        PRId32 ") is %s", d->at.path, head, row, info->query_index[row], what);
    else
        kvt__check_fail(&s->out->check[KVT_CHECK_FINITE], "%s: head %" PRIu64 " token %" PRIu64 " is %s",
                        d->at.path, head, row, what);
}

static void scan_finite(scan *s, const unsigned char *bytes, size_t n)
{
    const size_t size = s->d.elem_bytes;
    const uint32_t exponent = s->d.type == KVT_H5_F16 ? 0x7c00u : s->d.type == KVT_H5_BF16 ? 0x7f80u
                            : 0x7f800000u;
    const uint32_t sign = size == 2 ? 0x8000u : 0x80000000u;

    for (size_t i = 0; i < n; i++) {
        uint32_t u = 0;
        memcpy(&u, bytes + i * size, size);             /* little-endian, as the file */
        if ((u & exponent) == exponent)
            scan_report(s, s->n_done + i, "not finite");
        else if (s->must_not_be_negative && (u & sign) && (u & ~sign))
            scan_report(s, s->n_done + i, "negative");
    }
}

/* ---------------------------------------------------------------- one pass over a dataset */

/* Read the dataset in C order in pieces of at most SCAN_BYTES: whole indexes of axis
 * `split`, the first axis whose single index fits. */
static kvt_status scan_dataset(scan *s, unsigned char *buffer, kvt_err *err)
{
    const kvt_h5_dataset *d = &s->d;
    uint64_t start[KVT_H5_MAX_RANK] = {0}, count[KVT_H5_MAX_RANK];
    uint32_t split = 0;
    size_t inner = (size_t)d->n_bytes / (size_t)(d->dims[0] ? d->dims[0] : 1);

    kvt_digest_init(&s->digest);
    if (d->n_bytes == 0) return KVT_OK;
    while (inner > SCAN_BYTES) inner /= (size_t)d->dims[++split];
    for (uint32_t i = 0; i < d->rank; i++) count[i] = i < split ? 1 : d->dims[i];
    for (;;) {
        const uint64_t left = d->dims[split] - start[split], fit = SCAN_BYTES / inner;
        const size_t n = (size_t)(left < fit ? left : fit), bytes = n * inner;
        uint32_t axis = split;

        count[split] = n;
        KVT_TRY(kvt__h5_dataset_read_block(d, start, count, buffer, err));
        if (s->must_be_finite) scan_finite(s, buffer, bytes / d->elem_bytes);
        s->n_done += bytes / d->elem_bytes;
        for (size_t i = 0; split == 0 && d->rank > 1 && i < n; i++) {
            kvt_digest_update(&s->digest, buffer + i * inner, inner);
            kvt_digest_part(&s->digest);
        }
        if (split > 0 || d->rank == 1) kvt_digest_update(&s->digest, buffer, bytes);
        start[split] += n;
        while (axis > 0 && start[axis] == d->dims[axis]) {
            start[axis] = 0;
            start[--axis]++;
        }
        if (split > 0 && axis == 0) kvt_digest_part(&s->digest);
        if (start[0] == d->dims[0]) return KVT_OK;
    }
}

static kvt_status verify_listed(kvt_verify_report *out, kvt_source *src, kvt_reader *r, uint32_t i,
                                kvt_id_lines *lines, unsigned char *buffer, kvt_err *err)
{
    const kvt_listed *listed = &r->listed[i];
    const kvt_h5_want any = {.types = KVT_H5_ANY};
    const char *last = strrchr(listed->path, '/') + 1;
    scan s = {.out = out, .src = src};
    uint8_t digest[32];
    kvt_status st;

    KVT_TRY(kvt__h5_dataset_open(&s.d, &r->root, listed->path + 1, &any, NULL, err));
    s.must_be_finite = scan_is_operand(&s.d);
    s.must_not_be_negative = strcmp(last, "nu") == 0 || strcmp(last, "v_l1") == 0;
    KVT_TRY_GOTO(st, scan_dataset(&s, buffer, err));
    kvt_digest_final(&s.digest, digest);
    out->check[KVT_CHECK_FINITE].n_seen += s.must_be_finite ? s.d.n_elem : 0;
    out->check[KVT_CHECK_CHECKSUMS].n_seen++;
    if (memcmp(digest, listed->sha256, sizeof digest) != 0) {
        char found[65], expected[65];
        kvt_sha256_hex(digest, found);
        kvt_sha256_hex(listed->sha256, expected);
        kvt__check_fail(&out->check[KVT_CHECK_CHECKSUMS], "%s: its data have the digest %.12s..., the list "
                        "says %.12s...", listed->path, found, expected);
    }
    if (kvt_id_includes(listed->path) &&
        kvt_id_lines_dataset(lines, listed->path, kvt__h5_type_name(s.d.type), s.d.rank, s.d.dims,
                             digest) < 0)
        st = kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
done:
    kvt__h5_dataset_close(&s.d);
    return st;
}

static kvt_status verify_content_id(kvt_check *c, const kvt_reader *r, kvt_id_lines *lines, kvt_err *err)
{
    char id[65];
    kvt_status st = KVT_OK;

    for (uint32_t i = 0; i < r->n_id_attr && st == KVT_OK; i++) {
        const kvt_id_attr *a = &r->id_attr[i];
        st = a->kind == 'i' ? kvt_id_lines_int(lines, a->path, a->name, a->i)
           : a->kind == 'f' ? kvt_id_lines_real(lines, a->path, a->name, a->f)
                            : kvt_id_lines_text(lines, a->path, a->name, a->s);
    }
    if (st < 0) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
    kvt_id_lines_hash(lines, id);
    c->n_seen = 1;
    if (strcmp(id, r->info.content_id) != 0)
        kvt__check_fail(c, "the data have the content id %s, the file says %s", id, r->info.content_id);
    else
        snprintf(c->text, sizeof c->text, "%s", id);
    return KVT_OK;
}

/* Checksums, finite operands and content id share one pass over the file. */
static kvt_status verify_bytes(kvt_verify_report *out, kvt_source *src, kvt_reader *r, kvt_err *err)
{
    unsigned char *buffer = malloc(SCAN_BYTES);
    kvt_id_lines *lines = kvt_id_lines_new();
    kvt_check *finite = &out->check[KVT_CHECK_FINITE];
    kvt_status st;

    if (!buffer || !lines) {
        st = kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
        goto done;
    }
    for (uint32_t i = 0; i < r->n_listed; i++)
        KVT_TRY_GOTO(st, verify_listed(out, src, r, i, lines, buffer, err));
    if (r->n_nonfinite > 0)
        kvt__check_fail(finite, "/verify: attribute n_nonfinite is %" PRId64 ": the capture saw operands "
                        "that are NaN or infinite", r->n_nonfinite);
    st = verify_content_id(&out->check[KVT_CHECK_CONTENT_ID], r, lines, err);
done:
    kvt_id_lines_free(lines);
    free(buffer);
    return st;
}

/* ---------------------------------------------------------------- all of it */

static kvt_status verify_all(kvt_verify_report *out, kvt_source *src, kvt_err *err)
{
    kvt_reader *r = src->ops == &kvt__hdf5_ops ? src->self : NULL;

    if (r) {
        KVT_TRY(verify_bytes(out, src, r, err));
    } else {
        kvt__check_skip(&out->check[KVT_CHECK_CHECKSUMS], "not a file");
        kvt__check_skip(&out->check[KVT_CHECK_CONTENT_ID], "not a file");
        kvt__check_skip(&out->check[KVT_CHECK_FINITE], "not a file");
    }
    KVT_TRY(kvt__verify_rows(out, src, r, err));
    KVT_TRY(kvt__verify_stats(&out->check[KVT_CHECK_STATS], src, err));
    return kvt__verify_rope(&out->check[KVT_CHECK_ROPE], src, r, err);
}

kvt_status kvt_trace_verify(kvt_verify_report *out, kvt_source *src, kvt_err *err)
{
    static const char *const names[KVT_N_CHECKS] = {
        "checksums", "content id", "finite operands", "row sums", "column statistics",
        "attention output", "rotary samples",
    };
    kvt_verify_report report = {0};
    kvt_status st;

    if (!src->info->complete && src->ops == &kvt__hdf5_ops)
        return kvt_fail(err, KVT_EFORMAT, "%s: incomplete: the writer died or still runs", src->path);
    for (int i = 0; i < KVT_N_CHECKS; i++) report.check[i].name = names[i];
    H5E_BEGIN_TRY {
        st = verify_all(&report, src, err);
    } H5E_END_TRY;
    if (st < 0) return st;
    for (int i = 0; i < KVT_N_CHECKS; i++) report.n_failed += report.check[i].result == KVT_CHECK_FAILED;
    *out = report;
    return KVT_OK;
}
