/* kvcap_impl.h - the state of one capture and what the files of libkvcap share.
 *
 * A capture goes open -> set_layer (every layer) -> prompt -> attention calls, and after
 * the prefill a token before each decode step -> close. Per layer the library keeps all
 * keys as f32 (to form rows), rows that wait for the file, and column sums until the
 * prompt has passed; values and outputs only of the three layers that are sampled.
 *
 * Errors are sticky: whoever finds one calls kvcap__fail(), every public function starts
 * with kvcap__stuck(). Nothing here is exported. */
#ifndef KVCAP_IMPL_H
#define KVCAP_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include "kvcap.h"
#include "kvt_trace.h"

enum {
    KVCAP_LANES = 16,          /* keys (or output channels) in one panel               */
    KVCAP_ROWS = 32,           /* rows that are formed together                        */
    KVCAP_BLOCK = 64,          /* rows per head that wait before they are written      */
    KVCAP_MAX_NONFINITE = 1024,
    KVCAP_MAX_PROBES = 48      /* samples of one layer: 8 + one per doubling of G + 1  */
};

/* Rows of one tensor of one layer that wait for the file: [n_heads][cap][row_bytes]. */
typedef struct kvcap_stage {
    unsigned char *data;
    size_t         row_bytes;
    uint32_t       n_heads, n, cap;
} kvcap_stage;

/* One sampled row of the engine's own output. */
typedef struct kvcap_probe {
    uint32_t head, row;
    int64_t  token;
    float    lse;              /* the engine's; NaN = not given                        */
    float   *q, *out;          /* [d_k], [d_v]                                         */
} kvcap_probe;

typedef struct kvcap_probes {  /* only for the layers that are sampled                 */
    kvcap_probe *item;         /* [KVCAP_MAX_PROBES]: n that stay; the last slot is the
                                * newest decode step                                  */
    uint32_t     n;
    float      **value;        /* [n_kv_heads] -> [cap][d_v]                           */
    size_t       cap;
} kvcap_probes;

typedef struct kvcap_layer_state {
    kvt_layer_info info;
    int            is_set, is_announced;
    int            engine_lse; /* from the first call on: 1 = every call brings it     */
    char          *rope_type;
    double        *rope_inv_freq;
    int64_t       *rope_segment;
    float         *sinks;      /* [n_heads] or NULL                                    */
    kvcap_view     wo;         /* data NULL = not given; not owned                     */
    int64_t        seen;       /* tokens that arrived                                  */
    float        **panel;      /* [n_kv_heads] -> [cap / LANES][d_k][LANES], keys      */
    size_t         cap;        /* keys                                                 */
    kvcap_stage    k, v, q, lse;
    double        *col_sum, *col_sumsq; /* [n_heads][col_stride] until the prompt ends */
    float         *col_max;
    size_t         col_stride;
    kvcap_probes  *probes;
} kvcap_layer_state;

typedef struct kvcap_piece_text { /* bytes of one token                                */
    char  *bytes;
    size_t n_bytes;
} kvcap_piece_text;

typedef struct kvcap_span_item {
    int64_t begin, end;
    int32_t kind;
} kvcap_span_item;

struct kvcap {
    int          status;       /* first error, or KVCAP_OK                             */
    char         text[480];
    char        *path, *cluster_id, *sample_id;
    char        *shown;        /* path made printable                                  */
    kvt_pair    *provenance;   /* both strings of a pair owned                         */
    uint32_t     n_provenance, n_attributes; /* the first n_attributes go to /provenance   */
    char        *model_files, *config; /* taken out of the provenance, or NULL         */
    uint32_t     n_layers, model_dim, vocab_size, asked_window, flags, stat_flags;
    int64_t      max_tokens;
    void       (*log)(int level, const char *msg, void *user);
    void        *log_user;

    kvcap_layer_state *layer;  /* [n_layers]                                           */
    uint32_t     n_set, n_announced;
    int          started;      /* the first attention call came                        */
    kvt_writer  *writer;       /* from kvcap_prompt on                                 */
    uint32_t     n_prompt, window, question_start;
    int32_t     *ids;          /* [n_ids] prompt and chosen tokens                     */
    int64_t      n_ids, cap_ids;
    int32_t     *rotary;       /* [n_rotary]                                           */
    int64_t      n_rotary, cap_rotary;
    kvcap_piece_text *piece;   /* [n_piece]                                            */
    int64_t      n_piece, cap_piece;
    size_t       text_bytes;
    kvcap_span_item *span;
    uint32_t     n_span, cap_span;
    int64_t      nonfinite[KVCAP_MAX_NONFINITE][4];
    uint32_t     n_nonfinite;
    uint64_t     calls, bytes_in, bytes_written;
    float       *z, *rows;     /* scratch                                              */
    size_t       cap_z, cap_rows;
};

/* A checked attention call: what is new, with f16/bf16/f32 host views. */
typedef struct kvcap_call {
    kvcap_layer_state *ls;
    uint32_t    layer;
    int64_t     token0;
    uint32_t    n;             /* T                                                    */
    kvcap_view  q, k, v;       /* k, v: the T new rows                                 */
    kvcap_view  lse, out;      /* data NULL = not given                                */
} kvcap_call;

/* ---- kvcap_session.c */
#define KVCAP_LOG_ERROR 0
#define KVCAP_LOG_WARN  1
#define KVCAP_LOG_INFO  2
/* Record the first error, tell the log, return `status`. */
int  kvcap__fail(kvcap *cap, int status, const char *fmt, ...) KVT_PRINTF(3, 4);
int  kvcap__fail_kvt(kvcap *cap, const kvt_err *err);
void kvcap__say(const kvcap *cap, int level, const char *fmt, ...) KVT_PRINTF(3, 4);
/* The status that every call returns: sticky error, or EARG for a NULL handle. */
int  kvcap__stuck(const kvcap *cap);
int  kvcap__no_memory(kvcap *cap);
/* Copy a caller's struct of its own struct_size over a zeroed one of `size` bytes:
 * smaller is accepted, larger only when the excess is zero. 0 or KVCAP_EABI. */
int  kvcap__take(void *dst, size_t size, const void *src);
/* realloc of n * size bytes that cannot wrap; NULL and *p kept on failure. */
void *kvcap__grow(void *p, size_t n, size_t size);
void kvcap__free(kvcap *cap);

/* ---- kvcap_json.c */
/* Parse a flat JSON object of strings. Both strings of each pair are allocated. Returns
 * 0, KVCAP_EARG (why[] says what and where) or KVCAP_ENOMEM. */
int  kvcap__json_pairs(const char *json, kvt_pair **out, uint32_t *n, char *why, size_t why_size);
void kvcap__pairs_free(kvt_pair *pair, uint32_t n);

/* ---- kvcap_layer.c */
void kvcap__layer_free(kvcap_layer_state *ls);

/* ---- kvcap_view.c */
/* Is the view f16, bf16 or f32 on the host, of this shape, last stride 1? Fails by name. */
int  kvcap__check_view(kvcap *cap, uint32_t layer, const char *what, const kvcap_view *view,
                       int ndim, const int64_t *shape);
kvt_dtype kvcap__dtype(int32_t dtype);                /* of a checked view */
/* Row [t, h] of a checked view: its address, and widened to f32. */
const void *kvcap__row_at(const kvcap_view *view, int64_t t, int64_t h);
void kvcap__row_f32(const kvcap_view *view, int64_t t, int64_t h, uint32_t width, float *out);
/* Does the mask equal the visibility that follows from token indexes? */
int  kvcap__check_mask(kvcap *cap, const kvcap_attn_call *call, const kvcap_layer_state *ls,
                       int64_t token0, int64_t n_new);

/* ---- kvcap_rows.c */
/* Take the new keys, form every row of the call, collect columns, lse, samples. */
int  kvcap__take_keys(kvcap *cap, const kvcap_call *call);
int  kvcap__form_rows(kvcap *cap, const kvcap_call *call);
/* nu of the staged values, [n_heads][v.n]; into `out`. */
int  kvcap__nu(kvcap *cap, uint32_t layer, float *out);

/* ---- kvcap_stage.c */
int  kvcap__stage_room(kvcap_stage *s, uint32_t more);       /* 0 or KVCAP_ENOMEM */
void *kvcap__stage_row(const kvcap_stage *s, uint32_t head, uint32_t i); /* i from the first waiting */
int  kvcap__announce(kvcap *cap, uint32_t layer, const kvcap_call *call);
int  kvcap__flush_layer(kvcap *cap, uint32_t layer);
int  kvcap__finish_prompt(kvcap *cap, uint32_t layer);       /* statistics to the file */

/* ---- kvcap_verify.c */
int  kvcap__probes_start(kvcap *cap);                        /* choose the layers      */
int  kvcap__probe_values(kvcap *cap, const kvcap_call *call);
int  kvcap__probe_row(kvcap *cap, const kvcap_call *call, uint32_t head, uint32_t t);
void kvcap__probes_free(kvcap_layer_state *ls);
typedef struct kvcap_verdict {
    uint32_t n_samples, width; /* width: max d_v                                       */
    int32_t *index;            /* [n_samples][3]                                       */
    float   *out, *lse;        /* lse NULL = the engine never gave one                 */
    double   tol, max_err;
    int      passed;
} kvcap_verdict;
int  kvcap__verdict(kvcap *cap, uint32_t n_decode, kvcap_verdict *v);
void kvcap__verdict_free(kvcap_verdict *v);

/* ---- kvcap_math.c: the loops that decide the speed. Same bits on every machine: lanes
 * are keys (or channels), sums go over the head dimension in index order, no FMA. */
/* out[r * ld + x] = sum_c a[r * d + c] * panel(c, x), r < n_rows (a multiple of 4), for the
 * panels tile0 .. tile1 - 1; x counts from tile0 * LANES. */
void kvcap__dot_panels(const float *a, uint32_t n_rows, uint32_t d, const float *panels, size_t tile0,
                       size_t tile1, float *out, size_t ld);
/* z[n] (n a multiple of LANES, -inf where invisible) becomes exp(z - top); *top starts as
 * the sink or -inf and becomes the maximum. Returns the sum in f64, the sink not in it. */
double kvcap__exp_row(float *z, size_t n, float *top);
/* a = e * factor; sum += a, sumsq += a^2, max = max(max, a). */
void kvcap__add_columns(const float *e, size_t n, float factor, double *sum, double *sumsq, float *max);
/* Sum of |y| in f64, n a multiple of LANES. */
double kvcap__abs_sum(const float *y, size_t n);

#endif
