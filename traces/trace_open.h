/* trace_open.h - private: the HDF5 reader, shared by trace_open*.c, trace_read.c and
 * trace_verify*.c.
 *
 * Opening: root, layers, tokens, /verify and the rest of FORMAT.md 3 are opened by their
 * fixed names; every dataset found is remembered. Then the list of /checksums is opened
 * entry by entry, and what was found but is not listed is refused. */
#ifndef KVT_TRACE_OPEN_H
#define KVT_TRACE_OPEN_H

#include "trace_h5.h"

#define KVT_FORMAT_MAJOR 1u
#define KVT_FORMAT_MINOR 0u

typedef struct kvt_listed {                   /* one entry of /checksums              */
    char     path[128];
    uint64_t n_bytes;
    uint8_t  sha256[32];
} kvt_listed;

typedef struct kvt_id_attr {                  /* an attribute marked id in FORMAT.md  */
    char        path[128], name[32];
    char        kind;                         /* 'i', 'f' or 's'                      */
    int64_t     i;
    double      f;
    const char *s;
} kvt_id_attr;

typedef struct kvt_handle {                   /* an open dataset of a layer           */
    kvt_h5_dataset d;
    kvt_h5_map     map;
    uint32_t       layer;
    kvt_tensor     tensor;
} kvt_handle;

typedef struct kvt_reader {
    kvt_h5_file     file;
    kvt_h5_at       root, layers;
    kvt_trace_info  info;
    kvt_layer_info *layer;                    /* = info.layer                         */
    struct kvt_block *blocks;                 /* everything that info points to       */
    kvt_listed     *listed;                   /* sorted by path                       */
    uint32_t        n_listed;
    char          (*found)[128];              /* known datasets that are there        */
    uint32_t        n_found, found_cap;
    kvt_id_attr    *id_attr;
    uint32_t        n_id_attr, id_attr_cap;
    kvt_dtype       redact_source;            /* /redact@source_dtype                 */
    int64_t         n_nonfinite, passed;      /* attributes of /verify                */
    uint32_t        n_rope;                   /* rotary samples                       */
    const int32_t  *rope_index;               /* [n_rope][3] layer, KV head, token    */
    char           *path;                     /* printable, whole                     */
    kvt_handle      handle[8];
    uint32_t        next_handle;
} kvt_reader;

extern const kvt_source_ops kvt__hdf5_ops;    /* trace_read.c; self is a kvt_reader   */

/* ------------------------------------------------------------ trace_open.c */

/* Zeroed memory that lives as long as the reader; n_bytes may be 0. NULL: none left. */
void      *kvt__reader_alloc(kvt_reader *r, size_t n_bytes);
/* A copy of the text; on failure ENOMEM. */
kvt_status kvt__reader_keep(kvt_reader *r, const char **out, const char *text, kvt_err *err);
void       kvt__reader_free(kvt_reader *r);

/* Attributes with their range. `id`: it enters the content id. With found = NULL the
 * attribute is required. */
kvt_status kvt__reader_int(kvt_reader *r, const kvt_h5_at *at, const char *name, int64_t min,
                           int64_t max, int id, int64_t *out, int *found, kvt_err *err);
kvt_status kvt__reader_real(kvt_reader *r, const kvt_h5_at *at, const char *name, double min, int id,
                            double *out, int *found, kvt_err *err);
kvt_status kvt__reader_text(kvt_reader *r, const kvt_h5_at *at, const char *name, int id,
                            const char **out, int *found, kvt_err *err);

/* Open a dataset of FORMAT.md 3, check it and remember it. out = NULL: only check. */
kvt_status kvt__reader_dataset(kvt_reader *r, const kvt_h5_at *at, const char *name,
                               const kvt_h5_want *want, kvt_h5_dataset *out, int *found, kvt_err *err);
/* The same and read it whole; *n_out (may be NULL) gets dims[0]. */
kvt_status kvt__reader_load(kvt_reader *r, const kvt_h5_at *at, const char *name,
                            const kvt_h5_want *want, const void **out, uint64_t *n_out, int *found,
                            kvt_err *err);
/* A value that changes arithmetic and is not known: ENOTSUP. choices: "half|interleaved".
 * Returns its index through *out. */
kvt_status kvt__reader_choice(const kvt_h5_at *at, const char *name, const char *value,
                              const char *choices, uint32_t *out, kvt_err *err);

/* ------------------------------------------------------------ the parts of a file */

kvt_status kvt__open_layers(kvt_reader *r, kvt_err *err);             /* trace_open_layer.c */
kvt_status kvt__open_score(kvt_reader *r, uint32_t layer, const char *name, kvt_err *err);
kvt_status kvt__open_extra(kvt_reader *r, uint32_t layer, const char *name, kvt_err *err);
kvt_status kvt__open_tokens(kvt_reader *r, kvt_err *err);             /* trace_open_token.c */
kvt_status kvt__open_asides(kvt_reader *r, kvt_err *err);             /* trace_open_aside.c */
kvt_status kvt__open_list(kvt_reader *r, kvt_err *err);               /* trace_open_list.c  */

#endif
