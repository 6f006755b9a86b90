/* trace_digest.h - the names of data: the two-level digest of a dataset and the content
 * id of a trace (FORMAT.md 10). Reader and writer share this one implementation. */
#ifndef KVT_TRACE_DIGEST_H
#define KVT_TRACE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvt_sha256.h"
#include "kvt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_DIGEST_LEAF 1048576u            /* bytes; a part's last leaf is shorter */

/* init; for every part: update any number of times, then part; final. A part is one
 * index of the first axis when the rank is 2 or more, else the whole dataset. Leaves are
 * cut here: the caller may pass pieces of any size. */
typedef struct kvt_digest {
    kvt_sha256 leaf, top;
    size_t     in_leaf;                     /* bytes of the open leaf */
} kvt_digest;

void kvt_digest_init(kvt_digest *d);
void kvt_digest_update(kvt_digest *d, const void *data, size_t n);
void kvt_digest_part(kvt_digest *d);
void kvt_digest_final(kvt_digest *d, uint8_t out[32]);

/* Does the dataset of this path enter the content id? No: those below /provenance,
 * /logits, /verify, /redact, /checksums, and the token text. */
bool kvt_id_includes(const char *path);

/* The lines that the content id is the hash of, in any order; they are sorted here. The
 * calls fail with ENOMEM only, and are then safe to ignore until kvt_id_lines_free. */
typedef struct kvt_id_lines kvt_id_lines;

kvt_id_lines *kvt_id_lines_new(void);       /* NULL = no memory */
/* type: "u8" "u16" "u64" "i32" "i64" "f16" "bf16" "f32" "f64". */
kvt_status kvt_id_lines_dataset(kvt_id_lines *l, const char *path, const char *type, uint32_t rank,
                                const uint64_t *dims, const uint8_t digest[32]) KVT_NODISCARD;
kvt_status kvt_id_lines_int(kvt_id_lines *l, const char *path, const char *name, int64_t v) KVT_NODISCARD;
kvt_status kvt_id_lines_real(kvt_id_lines *l, const char *path, const char *name, double v) KVT_NODISCARD;
kvt_status kvt_id_lines_text(kvt_id_lines *l, const char *path, const char *name, const char *text) KVT_NODISCARD;
void       kvt_id_lines_hash(kvt_id_lines *l, char out[65]);
void       kvt_id_lines_free(kvt_id_lines *l);          /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
