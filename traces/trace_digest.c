/* trace_digest.c - digests of datasets and the content id. */
#include "trace_digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_mul.h"

/* ---------------------------------------------------------------- one dataset */

void kvt_digest_init(kvt_digest *d)
{
    kvt_sha256_init(&d->leaf);
    kvt_sha256_init(&d->top);
    d->in_leaf = 0;
}

static void digest_end_leaf(kvt_digest *d)
{
    uint8_t leaf[32];
    kvt_sha256_final(&d->leaf, leaf);
    kvt_sha256_update(&d->top, leaf, sizeof leaf);
    kvt_sha256_init(&d->leaf);
    d->in_leaf = 0;
}

void kvt_digest_update(kvt_digest *d, const void *data, size_t n)
{
    const uint8_t *p = data;
    while (n > 0) {
        const size_t room = KVT_DIGEST_LEAF - d->in_leaf, now = n < room ? n : room;
        kvt_sha256_update(&d->leaf, p, now);
        d->in_leaf += now;
        if (d->in_leaf == KVT_DIGEST_LEAF) digest_end_leaf(d);
        p += now;
        n -= now;
    }
}

void kvt_digest_part(kvt_digest *d)
{
    if (d->in_leaf > 0) digest_end_leaf(d);
}

void kvt_digest_final(kvt_digest *d, uint8_t out[32])
{
    kvt_digest_part(d);
    kvt_sha256_final(&d->top, out);
}

/* ---------------------------------------------------------------- content id */

bool kvt_id_includes(const char *path)
{
    static const char *const group[] = { "/provenance", "/logits", "/verify", "/redact", "/checksums" };

    for (size_t i = 0; i < sizeof group / sizeof *group; i++) {
        const size_t n = strlen(group[i]);
        if (strncmp(path, group[i], n) == 0 && (path[n] == '/' || path[n] == '\0')) return false;
    }
    return strcmp(path, "/tokens/text_bytes") != 0 && strcmp(path, "/tokens/text_offset") != 0;
}

typedef struct id_line {                    /* text may hold any byte but is mostly ASCII */
    char  *text;
    size_t n;
} id_line;

struct kvt_id_lines {
    id_line *line;
    size_t   n, room;
};

kvt_id_lines *kvt_id_lines_new(void)
{
    return calloc(1, sizeof(kvt_id_lines));
}

void kvt_id_lines_free(kvt_id_lines *l)
{
    if (!l) return;
    for (size_t i = 0; i < l->n; i++) free(l->line[i].text);
    free(l->line);
    free(l);
}

/* "<kind> <path> <rest>\n"; takes a copy. */
static kvt_status id_line_add(kvt_id_lines *l, char kind, const char *path, const char *rest)
{
    char *text;
    size_t n = 0, room;

    if (l->n == l->room) {
        id_line *grown;
        size_t n_bytes;
        room = l->room ? 2 * l->room : 64;
        if (!kvt_mul(room, sizeof *grown, &n_bytes)) return KVT_ENOMEM;
        if (!(grown = realloc(l->line, n_bytes))) return KVT_ENOMEM;
        l->line = grown;
        l->room = room;
    }
    if (!kvt_add(strlen(path), strlen(rest), &n) || !kvt_add(n, 5, &n)) return KVT_ENOMEM;
    if (!(text = malloc(n))) return KVT_ENOMEM;
    snprintf(text, n, "%c %s %s\n", kind, path, rest);
    l->line[l->n++] = (id_line){ text, n - 1 };
    return KVT_OK;
}

kvt_status kvt_id_lines_dataset(kvt_id_lines *l, const char *path, const char *type, uint32_t rank,
                                const uint64_t *dims, const uint8_t digest[32])
{
    char rest[32 * 21 + 96];                /* HDF5 has at most 32 axes; 2^64 has 20 digits */
    int at;

    KVT_ASSERT(rank >= 1 && rank <= 32 && strlen(type) <= 8);
    at = snprintf(rest, sizeof rest, "%s ", type);
    for (uint32_t i = 0; i < rank; i++)
        at += snprintf(rest + at, sizeof rest - (size_t)at, "%s%" PRIu64, i ? "x" : "", dims[i]);
    rest[at++] = ' ';
    kvt_sha256_hex(digest, rest + at);
    return id_line_add(l, 'D', path, rest);
}

static kvt_status id_attr(kvt_id_lines *l, const char *path, const char *name, char kind, const char *value)
{
    char *rest;
    size_t n;
    kvt_status st;

    if (!kvt_add(strlen(name), strlen(value), &n) || !kvt_add(n, 4, &n)) return KVT_ENOMEM;
    if (!(rest = malloc(n))) return KVT_ENOMEM;
    snprintf(rest, n, "%s %c %s", name, kind, value);
    st = id_line_add(l, 'A', path, rest);
    free(rest);
    return st;
}

kvt_status kvt_id_lines_int(kvt_id_lines *l, const char *path, const char *name, int64_t v)
{
    char value[24];
    snprintf(value, sizeof value, "%" PRId64, v);
    return id_attr(l, path, name, 'i', value);
}

kvt_status kvt_id_lines_real(kvt_id_lines *l, const char *path, const char *name, double v)
{
    char value[20];
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    snprintf(value, sizeof value, "%016" PRIx64, bits);
    return id_attr(l, path, name, 'f', value);
}

kvt_status kvt_id_lines_text(kvt_id_lines *l, const char *path, const char *name, const char *text)
{
    return id_attr(l, path, name, 's', text);
}

static int id_line_cmp(const void *a, const void *b)
{
    const id_line *x = a, *y = b;
    const size_t n = x->n < y->n ? x->n : y->n;
    const int c = memcmp(x->text, y->text, n);
    return c != 0 ? c : (x->n > y->n) - (x->n < y->n);
}

void kvt_id_lines_hash(kvt_id_lines *l, char out[65])
{
    kvt_sha256 s;
    uint8_t digest[32];

    if (l->n > 0) qsort(l->line, l->n, sizeof *l->line, id_line_cmp);
    kvt_sha256_init(&s);
    for (size_t i = 0; i < l->n; i++) kvt_sha256_update(&s, l->line[i].text, l->line[i].n);
    kvt_sha256_final(&s, digest);
    kvt_sha256_hex(digest, out);
}
