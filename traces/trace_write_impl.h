/* trace_write_impl.h - private: what the files trace_write*.c share. */
#ifndef KVT_TRACE_WRITE_IMPL_H
#define KVT_TRACE_WRITE_IMPL_H

#include <hdf5.h>
#include <stdbool.h>

#include "kvt_trace.h"
#include "trace_digest.h"
#include "trace_h5.h"
#include "trace_part.h"

#define KVT_WRITE_PATH  128u            /* of a dataset, terminator included (FORMAT.md 10) */
#define KVT_WRITE_STAGE 64u             /* rows of a head that are collected for one write  */

/* Heads arrive in any order, so the leaves of each are kept until the end. */
typedef struct kvt_write_head {
    uint32_t   rows, staged;            /* appended; of those, not yet written       */
    uint8_t   *stage;                   /* [KVT_WRITE_STAGE][row_bytes], or NULL     */
    kvt_sha256 leaf;
    size_t     in_leaf;
    uint8_t   *leaves;                  /* [n_leaves][32]                            */
    size_t     n_leaves, room;
} kvt_write_head;

typedef struct kvt_write_tensor {       /* n_heads 0: not in this trace              */
    hid_t           dset;
    kvt_h5_type     type;
    uint32_t        n_heads, rank, width, extent;   /* extent: rows that the dataset has */
    size_t          row_bytes;
    kvt_write_head *head;               /* [n_heads]                                 */
} kvt_write_tensor;

typedef struct kvt_write_entry {        /* one line of /checksums                    */
    char     path[KVT_WRITE_PATH];
    uint64_t n_bytes;
    uint8_t  digest[32];
} kvt_write_entry;

struct kvt_writer {
    kvt_part          part;
    kvt_status        failed;           /* first failure of a write: nothing works after it */
    kvt_err           failure;
    kvt_trace_info    info;             /* numbers only; n_rows, n_tokens: the most possible */
    int               known, chunked;   /* known: n_decode is final                  */
    uint32_t          n_announced;
    kvt_layer_info   *layer;            /* [n_layers]; its pointers are not kept     */
    kvt_write_tensor *tensor;           /* [n_layers][KVT_T_END]                     */
    hid_t             type[KVT_H5_OTHER], scalar, plain;  /* plain: creation properties */
    kvt_id_lines     *id;
    kvt_write_entry  *entry;
    size_t            n_entries, room;
};

/* ---------------------------------------------------------------- trace_write_check.c */

kvt_status kvt__write_check_head(const char *shown, const kvt_writer_head *head, kvt_err *err);
kvt_status kvt__write_check_layer(const kvt_writer *w, uint32_t layer, const kvt_layer_info *l,
                                  const char *lse_source, kvt_err *err);
kvt_status kvt__write_check_tail(const kvt_writer *w, const kvt_writer_tail *tail, kvt_err *err);

/* ---------------------------------------------------------------- trace_write_h5.c
 * `path` is that of the object, for the content id and for messages; attributes that do
 * not enter the content id are written with in_id = false. */

kvt_status kvt__write_group(kvt_writer *w, const char *path, kvt_err *err);
kvt_status kvt__write_int(kvt_writer *w, const char *path, const char *name, int64_t v, bool in_id, kvt_err *err);
kvt_status kvt__write_real(kvt_writer *w, const char *path, const char *name, double v, bool in_id, kvt_err *err);
/* Nothing is written when the text is NULL or empty. */
kvt_status kvt__write_text(kvt_writer *w, const char *path, const char *name, const char *text, bool in_id,
                           kvt_err *err);
kvt_status kvt__write_u32x3(kvt_writer *w, const char *name, const uint32_t v[3], kvt_err *err);
kvt_status kvt__write_complete(kvt_writer *w, uint8_t complete, kvt_err *err);   /* create or change */
/* A new integer for an attribute that is there. */
kvt_status kvt__write_int_again(kvt_writer *w, const char *path, const char *name, int64_t v, kvt_err *err);
/* A whole dataset from memory, with its digest and its lines. */
kvt_status kvt__write_dataset(kvt_writer *w, const char *path, kvt_h5_type type, uint32_t rank,
                              const uint64_t *dims, const void *data, kvt_err *err);
kvt_status kvt__write_checksums(kvt_writer *w, kvt_err *err);

/* A line of /checksums and of the content id. */
kvt_status kvt__write_entry(kvt_writer *w, const char *path, kvt_h5_type type, uint32_t rank, const uint64_t *dims,
                            const uint8_t digest[32], kvt_err *err);

/* ---------------------------------------------------------------- trace_write_rows.c */

kvt_status kvt__write_tensor_open(kvt_writer *w, uint32_t layer, kvt_tensor t, kvt_err *err);
/* n rows after those of before; the counts have been checked. */
kvt_status kvt__write_rows(kvt_writer *w, uint32_t layer, kvt_tensor t, uint32_t head, uint32_t n,
                           const void *data, kvt_err *err);
/* Staged rows to the file. */
kvt_status kvt__write_tensor_drain(kvt_writer *w, uint32_t layer, kvt_tensor t, kvt_err *err);
/* Drain, digest, catalogue, close: all rows are there. */
kvt_status kvt__write_tensor_end(kvt_writer *w, uint32_t layer, kvt_tensor t, kvt_err *err);
void       kvt__write_tensor_free(kvt_write_tensor *t);

/* ---------------------------------------------------------------- trace_write_end.c */

/* Everything that follows the rows, up to the final name. */
kvt_status kvt__write_end(kvt_writer *w, const kvt_writer_tail *tail, kvt_err *err);

/* "/layers/007/k" */
void       kvt__write_tensor_path(char out[KVT_WRITE_PATH], uint32_t layer, kvt_tensor t);

static inline kvt_write_tensor *kvt__write_tensor_of(kvt_writer *w, uint32_t layer, kvt_tensor t)
{
    return &w->tensor[(size_t)layer * KVT_T_END + (size_t)t];
}

#endif
