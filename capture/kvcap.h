/* kvcap.h - libkvcap: attention capture, ABI 1. C11; no CUDA, torch or ggml types. */
#ifndef KVCAP_H
#define KVCAP_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define KVCAP_ABI 1u

typedef struct kvcap kvcap; /* one open trace */

enum { /* status; same numbers as kvt_status where the meaning is the same */
    KVCAP_OK = 0,
    KVCAP_EARG = -1,     /* an argument has a value that is not allowed            */
    KVCAP_ENOMEM = -2,   /* out of host or device memory                           */
    KVCAP_EIO = -3,      /* HDF5 or the operating system refused a write           */
    KVCAP_ERANGE = -6,   /* layer, head, token outside what was announced          */
    KVCAP_ENOTSUP = -8,  /* this build cannot do that (dtype, mask, batch > 1 ...) */
    KVCAP_EDEVICE = -9,  /* CUDA reported an error                                 */
    KVCAP_EABI = -20,    /* struct_size or KVCAP_ABI unknown to this library       */
    KVCAP_EORDER = -21,  /* call out of order: layer not set, token gap, closed    */
    KVCAP_ESHAPE = -22   /* shape or stride contradicts kvcap_set_layer            */
};

enum { KVCAP_CPU = 1, KVCAP_CUDA = 2 }; /* = DLDeviceType */
enum { KVCAP_F32 = 0, KVCAP_F16 = 1, KVCAP_BF16 = 2, KVCAP_F8E4M3 = 3, KVCAP_F8E5M2 = 4, KVCAP_F64 = 5 };
enum { KVCAP_MASK_CAUSAL = 0, KVCAP_MASK_BOOL = 1, KVCAP_MASK_ADD_F16 = 2, KVCAP_MASK_ADD_F32 = 3 };
enum { /* stat_flags */
    KVCAP_STAT_SUM = 1,    /* stats/sum                                               */
    KVCAP_STAT_SUMSQ = 2,  /* stats/sumsq                                             */
    KVCAP_STAT_MAX = 4,    /* stats/max                                               */
    KVCAP_STAT_BLOCKS = 8, /* stats/block_sum, stat_block queries per block           */
    KVCAP_STAT_EA = 16     /* ea/q_mean, ea/q_cov                                     */
};
enum { /* flags */
    KVCAP_STORE_V = 1,       /* v                                                     */
    KVCAP_STORE_TEXT = 2,    /* tokens/text_*: off by default, privacy                */
    KVCAP_STORE_WO_GRAM = 4, /* wo_gram, where kvcap_set_wo was called                */
    KVCAP_EXACT_LEN = 8,     /* max_tokens is exactly N + G: contiguous datasets      */
    KVCAP_STRICT = 16        /* a non-finite operand is an error                      */
};
enum {
    KVCAP_ATTN_FULL = 0,
    KVCAP_ATTN_SLIDING = 1,
    KVCAP_ATTN_CHUNKED = 2,
    KVCAP_ATTN_MLA = 3,
    KVCAP_ATTN_NONE = 4
};
enum { KVCAP_SCORE_DOT = 0, KVCAP_SCORE_RECORDED = 1 };
enum { KVCAP_ROWS_NONE = 0, KVCAP_ROWS_LOGIT = 1, KVCAP_ROWS_PROB = 2 };
enum { KVCAP_ROPE_NONE = 0, KVCAP_ROPE_HALF = 1, KVCAP_ROPE_INTERLEAVED = 2 };

typedef struct kvcap_view { /* strided view, not owned; strides in ELEMENTS; axes [token, head, dim] */
    const void *data;
    int32_t dtype, device_type, device_id, ndim;
    int64_t shape[4], stride[4];
} kvcap_view;

typedef struct kvcap_params {
    uint32_t struct_size;        /* sizeof(kvcap_params): fields may be appended      */
    uint32_t abi;                /* KVCAP_ABI the caller was compiled with            */
    const char *path;            /* final name; the library writes path.part          */
    const char *provenance_json; /* flat JSON object of strings, FORMAT.md 5.2         */
    const char *cluster_id, *sample_id; /* may be NULL                                */
    uint32_t n_layers, model_dim, vocab_size;
    uint32_t window;             /* prompt rows of Q to keep; 0 = 128                 */
    int64_t max_tokens;          /* upper bound of N + G                              */
    uint32_t flags, stat_flags, stat_block;
    uint32_t compress;           /* 0 none, 1 deflate, 32001 blosc                    */
    size_t pinned_bytes;         /* staging ring; 0 = 256 MiB                         */
    void (*log)(int level, const char *msg, void *user);
    void *log_user;
} kvcap_params;

typedef struct kvcap_rope {
    uint32_t struct_size;
    int32_t pairing;              /* KVCAP_ROPE_*                                     */
    uint32_t rotary_dim, offset;  /* rotated channels [offset, offset + rotary_dim)   */
    double attention_scaling;
    int32_t table_dtype, angle_dtype; /* how the engine rounds cos/sin and the angle  */
    uint32_t n_segments;
    const double *inv_freq;       /* [n_segments][rotary_dim / 2], as the engine has them */
    const int64_t *segment_start; /* [n_segments] token index, ascending, first 0     */
    const char *type;             /* "default", "llama3", "yarn" ... informational    */
} kvcap_rope;

typedef struct kvcap_layer {
    uint32_t struct_size, layer, n_heads, n_kv_heads, d_k, d_v;
    int32_t attn_type;            /* KVCAP_ATTN_*                                     */
    int32_t score;                /* KVCAP_SCORE_*                                    */
    int32_t kv_layer;             /* layer whose cache is used; = layer normally      */
    int32_t reserved;             /* 0                                                */
    double scale, softcap;        /* softcap 0 = none                                 */
    int64_t window;               /* sliding or chunk size in tokens; -1 = none       */
    const float *sinks;           /* host, [n_heads], learned sink logits, or NULL    */
    const kvcap_rope *rope;       /* NULL: no rotary embedding                        */
} kvcap_layer;

typedef struct kvcap_attn_call { /* one attention call of one layer                   */
    uint32_t struct_size, layer;
    int64_t token0;              /* token index of q row 0; rows are consecutive      */
    const int32_t *pos;          /* host [T] rotary positions; NULL = token index     */
    kvcap_view q;                /* [T, H, d_k], as the kernel gets it                */
    kvcap_view k_new, v_new;     /* [T, Hkv, d] entries appended by this call, or     */
    kvcap_view k_all, v_all;     /* [S, Hkv, d] visible cache, newest last            */
    int64_t key0;                /* token index of row 0 of k_all                     */
    kvcap_view lse;              /* optional [T, H] f32, natural log, sinks included  */
    kvcap_view out;              /* optional [T, H, d_v] the engine's own output      */
    int32_t mask_kind;           /* KVCAP_MASK_*                                      */
    int32_t rows_kind;           /* KVCAP_ROWS_*: explicit rows, for score = recorded */
    kvcap_view mask;             /* [T, S] for BOOL and ADD kinds                     */
    kvcap_view rows;             /* [T, H, S] f32 or f16                              */
} kvcap_attn_call;

typedef struct kvcap_counters {
    uint32_t struct_size, n_nonfinite;
    uint64_t calls, bytes_in, bytes_written;
    double blocked_seconds;      /* time kvcap_attn waited for the ring               */
} kvcap_counters;

#if defined(__GNUC__)
#pragma GCC visibility push(default) /* everything else in the library is hidden */
#endif

uint32_t kvcap_abi(void);
const char *kvcap_version(void);
const char *kvcap_strerror(int status);

int kvcap_open(kvcap **out, const kvcap_params *params);
int kvcap_set_layer(kvcap *cap, const kvcap_layer *layer);
int kvcap_set_wo(kvcap *cap, uint32_t layer, const kvcap_view *wo, void *cuda_stream);
int kvcap_prompt(kvcap *cap, const int32_t *ids, int64_t n, int64_t question_start);
int kvcap_text(kvcap *cap, int64_t token, const char *bytes, size_t n_bytes);
int kvcap_span(kvcap *cap, int64_t begin, int64_t end, int32_t kind);
int kvcap_attn(kvcap *cap, const kvcap_attn_call *call, void *cuda_stream);
int kvcap_token(kvcap *cap, int32_t id, const int32_t *top_id, const float *top_logit, int32_t n_top,
                float lse);
int kvcap_scores(kvcap *cap, uint32_t layer, const char *name, const float *host, int64_t n_heads,
                 int64_t n_tokens);
int kvcap_extra(kvcap *cap, uint32_t layer, const char *name, int64_t after, const int32_t *pos,
                const kvcap_view *q, const kvcap_view *k, const kvcap_view *v, void *cuda_stream);
int kvcap_counters_get(const kvcap *cap, kvcap_counters *out);
int kvcap_error(const kvcap *cap, char *text, size_t n);
int kvcap_close(kvcap **cap);
void kvcap_abort(kvcap **cap);

int kvcap_attn_flat(kvcap *cap, int layer, int64_t token0, int dtype, int device_type, int device_id,
                    const void *q, const void *k, const void *v, const void *out, int64_t n_q, int64_t n_k,
                    int64_t key0, const int64_t q_stride[2], const int64_t k_stride[2],
                    const int64_t v_stride[2], const int64_t out_stride[2], void *cuda_stream);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
