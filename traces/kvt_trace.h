/* kvt_trace.h - what a trace holds and how it is read and written.
 *
 * A trace is one token sequence: a prompt of N tokens and G decode steps, with the
 * operands of attention (post-RoPE Q, K and V). FORMAT.md is normative for the file;
 * this header is its C shape. Reading goes through kvt_source, so that an HDF5 file
 * and arrays in memory (a golden case, a test) look the same to the replay.
 *
 * Terms and symbols as in FORMAT.md 1: L layers, H query heads, Hkv KV heads, N, G,
 * T = N + G, R stored query rows, W of them in the prompt, d_k, d_v, Dm. "Position"
 * in this program means the token index 0..T-1.
 *
 * Threads: one source or writer is used by one thread at a time. HDF5 is never called
 * from two threads. */
#ifndef KVT_TRACE_H
#define KVT_TRACE_H

#include <stddef.h>
#include <stdint.h>
#include "kvt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Limits of FORMAT.md 13.1. Every number read from a file is checked against its
 * limit before it enters any arithmetic. */
#define KVT_MAX_LAYERS         1024u
#define KVT_MAX_HEADS          1024u
#define KVT_MAX_TOKENS         (1u << 22)
#define KVT_MAX_HEAD_DIM       1024u
#define KVT_MAX_MODEL_DIM      65536u
#define KVT_MAX_TOPK           256u
#define KVT_MAX_EXTRA          16u
#define KVT_MAX_EXTRA_ROWS     4096u
#define KVT_MAX_CHUNK_BYTES    (64u << 20)
#define KVT_MAX_STRING         4096u
#define KVT_MAX_JSON           (16u << 20)
#define KVT_MAX_TEXT           (256u << 20)
#define KVT_MAX_SPANS          65536u
#define KVT_MAX_VERIFY         65536u
#define KVT_MAX_SCORES         64u
#define KVT_MAX_ROPE_SEGMENTS  64u

/* X(name, number, path below /layers/NNN, heads, rows, width).
 * heads: Q query heads, K KV heads. rows: T every token, N prompt tokens, R stored
 * queries, 1 one, D d_v. width: D d_k, M d_v, E model_dim, 1 = no axis. Append only. */
#define KVT_TENSOR_LIST(X)                \
    X(K,           1, "k",           K, T, D) \
    X(V,           2, "v",           K, T, M) \
    X(Q,           3, "q",           Q, R, D) \
    X(LSE,         4, "lse",         Q, R, 1) \
    X(NU,          5, "nu",          Q, T, 1) \
    X(SINKS,       6, "sinks",       Q, 1, 1) \
    X(STAT_SUM,    7, "stats/sum",   Q, N, 1) \
    X(STAT_SUMSQ,  8, "stats/sumsq", Q, N, 1) \
    X(STAT_MAX,    9, "stats/max",   Q, N, 1)
typedef enum kvt_tensor {
#define X(name, num, path, heads, rows, width) KVT_T_##name = (num),
    KVT_TENSOR_LIST(X)
#undef X
    KVT_T_END
} kvt_tensor;

typedef enum kvt_dtype { KVT_F32, KVT_F16, KVT_BF16 } kvt_dtype;
typedef enum kvt_attn {
    KVT_ATTN_FULL, KVT_ATTN_SLIDING, KVT_ATTN_CHUNKED, KVT_ATTN_MLA, KVT_ATTN_NONE
} kvt_attn;
const char *kvt_dtype_name(kvt_dtype t);   /* "f32", "f16", "bf16" */
size_t      kvt_dtype_bytes(kvt_dtype t);
const char *kvt_attn_name(kvt_attn a);     /* "full", "sliding", "chunked", "mla", "none" */

typedef struct kvt_layer_info {            /* layers may differ                       */
    uint32_t  has;                         /* bit (1u << KVT_T_x): tensor x is there  */
    kvt_attn  attn;
    int       recorded;                    /* 1: score = recorded; cannot be replayed */
    uint32_t  n_heads, n_kv_heads, d_k, d_v; /* all 0 for KVT_ATTN_NONE               */
    uint32_t  window;                      /* sliding or chunked: tokens; else 0      */
    uint32_t  kv_layer;                    /* whose cache it attends to               */
    kvt_dtype k_type, v_type, q_type;      /* as stored                               */
    double    scale, softcap;              /* softcap 0 = none                        */
    int       has_sinks;
    /* RoPE metadata (FORMAT.md 7.4); rope_dims 0 = none. */
    uint32_t  rope_dims, rope_offset, rope_segments;
    int       rope_interleaved;
    double    rope_attention_scaling;
    const char *rope_type;                 /* "default", "llama3" ...; "" when none   */
    const char *rope_angle_type, *rope_table_type; /* "f64", "f32", "f16", "bf16"     */
    const double  *rope_inv_freq;          /* [rope_segments][rope_dims / 2]          */
    const int64_t *rope_segment_start;     /* [rope_segments]                         */
} kvt_layer_info;

typedef struct kvt_pair { const char *name, *value; } kvt_pair;

/* What a whole trace says about itself. Pointers are borrowed: they live as long as
 * the source. Strings are never NULL ("" = absent) and may be hostile. */
typedef struct kvt_trace_info {
    uint32_t    format[3], min_reader[3];
    int         complete;
    const char *created, *writer, *uuid, *content_id, *exactness;
    const char *cluster_id;                /* unit of statistics; the uuid by default */
    const char *sample_id;
    uint32_t    n_layers, n_prompt, n_decode, n_tokens;   /* L, N, G, T               */
    uint32_t    n_rows, window;            /* R, W; rows R-G..R-1 are the decode steps */
    uint32_t    question_start, model_dim, vocab_size, redacted;
    const int32_t *token_id, *rotary;      /* [n_tokens]                              */
    const int32_t *query_index;            /* [n_rows] position of a stored query     */
    const uint8_t *token_flags;            /* [n_tokens] or NULL                      */
    const uint8_t *text;                   /* bytes of all tokens, or NULL            */
    const int64_t *text_offset;            /* [n_tokens + 1] into text, or NULL       */
    uint32_t       n_spans;
    const int64_t *span_begin, *span_end;  /* [n_spans]                               */
    const int32_t *span_kind;              /* [n_spans] numbers of FORMAT.md 6        */
    uint32_t       n_samples;              /* of the engine's own attention output    */
    const int32_t *sample_index;           /* [n_samples][3] layer, query head, row   */
    double         verify_tol, verify_max_err;
    uint32_t       n_provenance;
    const kvt_pair *provenance;            /* attributes of /provenance               */
    uint64_t       file_bytes;
    const kvt_layer_info *layer;           /* [n_layers]                              */
} kvt_trace_info;

/* ---------------------------------------------------------------- reading */

typedef struct kvt_source_ops {
    const char *name;                      /* "hdf5", "memory"                        */
    /* Rows row..row+n-1 of one head, widened to f32, [n][width] packed, into out,
     * which holds exactly n * width floats. *finite, 0 on entry, becomes 1 when the source
     * knows that none of them is NaN or an infinity; it need not look. */
    kvt_status (*read)(void *self, kvt_tensor tensor, uint32_t layer, uint32_t head,
                       uint32_t row, uint32_t n, float *out, int *finite, kvt_err *err);
    void       (*close)(void *self);
} kvt_source_ops;

typedef struct kvt_source {                /* passed by pointer, owned by the caller  */
    const kvt_source_ops *ops;
    void                 *self;
    const kvt_trace_info *info;
    const char           *path;            /* for messages; never NULL once open      */
} kvt_source;

/* Open a trace file, check everything that FORMAT.md 13.2 and 13.3 ask for, and give
 * it to *out; kvt_source_close() takes it back. With allow_incomplete a file whose
 * writer died can be described (never replayed). Errors: EIO (cannot open), EFORMAT,
 * EVERSION, ENOTSUP, ENOMEM; *out is untouched then. */
kvt_status kvt_source_open(kvt_source *out, const char *path, int allow_incomplete,
                           kvt_err *err) KVT_NODISCARD;
void       kvt_source_close(kvt_source *src);        /* a zeroed source is fine */

/* Floats in one row of a tensor of a layer (d_k, d_v or 1), and its rows and heads. */
uint32_t kvt_tensor_width(const kvt_trace_info *info, const kvt_layer_info *l, kvt_tensor t);
uint32_t kvt_tensor_rows(const kvt_trace_info *info, const kvt_layer_info *l, kvt_tensor t);
uint32_t kvt_tensor_heads(const kvt_layer_info *l, kvt_tensor t);
const char *kvt_tensor_path(kvt_tensor t);           /* "k", "stats/sum" ... */

/* Checked read: ENEED when the trace lacks the tensor, ERANGE when layer, head or rows
 * are not there, EFORMAT/EIO from the file. out holds n * width floats. */
kvt_status kvt_source_read(kvt_source *src, kvt_tensor tensor, uint32_t layer, uint32_t head,
                           uint32_t row, uint32_t n, float *out, kvt_err *err) KVT_NODISCARD;

/* A source over arrays that the caller keeps alive: data[layer * KVT_T_END + tensor]
 * is [heads][rows][width] f32 or NULL. `info` is copied as a struct. */
kvt_status kvt_source_open_memory(kvt_source *out, const kvt_trace_info *info,
                                  const float *const *data, kvt_err *err) KVT_NODISCARD;

/* ---------------------------------------------------------------- writing */

typedef struct kvt_writer kvt_writer;

#define KVT_LENGTH_UNKNOWN UINT32_MAX

typedef struct kvt_writer_head {           /* what is known when recording starts     */
    const char *writer;                    /* "libkvcap 0.1.0"                        */
    const char *exactness, *cluster_id, *sample_id;  /* NULL or "" = default          */
    const char *created, *uuid;            /* NULL = now, random. Tests fix them      */
    uint32_t    n_layers, n_prompt;
    uint32_t    n_decode;                  /* exact, or KVT_LENGTH_UNKNOWN: datasets are
                                            * then chunked and extensible along T     */
    uint32_t    window;                    /* W; already min(asked, N)                */
    uint32_t    question_start, model_dim, vocab_size;   /* vocab_size 0 = unknown    */
    const kvt_pair *provenance;            /* must contain "engine"                   */
    uint32_t    n_provenance;
    const char *model_files_json, *config_json;          /* NULL = absent             */
    int         chunked;                   /* 1: chunked even if the length is known  */
} kvt_writer_head;

typedef struct kvt_writer_tail {           /* what is known when it ends              */
    uint32_t       n_decode;               /* the real G                              */
    const int32_t *token_id;               /* [N + G]                                 */
    const int32_t *rotary;                 /* [N + G], or NULL = token index          */
    const uint8_t *text;                   /* with text_offset [N + G + 1], or NULL   */
    const int64_t *text_offset;
    uint32_t       n_spans;
    const int64_t *span_begin, *span_end;
    const int32_t *span_kind;
    uint32_t       n_samples;              /* engine's own attention output           */
    const int32_t *sample_index;           /* [n_samples][3]                          */
    const float   *sample_out;             /* [n_samples][sample_width]               */
    const float   *sample_lse;             /* [n_samples] or NULL                     */
    uint32_t       sample_width;           /* max d_v over all layers                 */
    double         verify_tol, verify_max_err;
    int            verify_passed;
    uint32_t       n_nonfinite;            /* all that were seen                      */
    const int64_t *nonfinite;              /* [min(n_nonfinite, 1024)][4]             */
    uint32_t       n_rope_samples;
    const int32_t *rope_index;             /* [n][3] layer, KV head, token            */
    const float   *rope_k;                 /* [n][max d_k] before rotation            */
} kvt_writer_tail;

/* Create path.part (an existing one is replaced). Q rows are those of the prompt's
 * last `window` tokens and of every decode step. */
kvt_status kvt_writer_create(kvt_writer **out, const char *path, const kvt_writer_head *head,
                             kvt_err *err) KVT_NODISCARD;
/* Announce a layer before its tensors, 0, 1, 2 ...; `info->has` says which tensors will
 * come. lse_source: "engine", "recomputed" or NULL. */
kvt_status kvt_writer_layer(kvt_writer *w, uint32_t layer, const kvt_layer_info *info,
                            const char *lse_source, kvt_err *err) KVT_NODISCARD;
/* Append n rows of one head; `data` is [n][width] packed in the stored type (K, V, Q as
 * the layer says, else f32). Rows of one head arrive in order, heads in any order;
 * digests are computed here. */
kvt_status kvt_writer_append(kvt_writer *w, uint32_t layer, kvt_tensor tensor, uint32_t head,
                             uint32_t n, const void *data, kvt_err *err) KVT_NODISCARD;
/* H5Fflush: after each layer of the prefill and each block of decode rows. */
kvt_status kvt_writer_flush(kvt_writer *w, kvt_err *err) KVT_NODISCARD;
/* Trim, checksums, content id, complete = 1, fsync, rename path.part to path, fsync the
 * directory. Frees w in any case; on failure no file stands under `path`. */
kvt_status kvt_writer_commit(kvt_writer *w, const kvt_writer_tail *tail, kvt_err *err) KVT_NODISCARD;
void       kvt_writer_abort(kvt_writer *w, int keep_part); /* NULL is fine; removes or leaves path.part */

/* The (layer, head, row) triples that FORMAT.md 9 asks to sample at capture, for a trace
 * whose length is known. Writes up to cap triples, returns how many there are. */
uint32_t kvt_sample_plan(const kvt_layer_info *layer, uint32_t n_layers, uint32_t window,
                         uint32_t n_decode, int32_t *out, uint32_t cap);

#ifdef __cplusplus
}
#endif
#endif
