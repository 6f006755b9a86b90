/* golden.h - kept sets of the reference implementations, and whether this build makes the
 * same ones. Reading them from JSON is the caller's part (cmd_selftest.c). */
#ifndef KVT_GOLDEN_H
#define KVT_GOLDEN_H

#include "kvt_sim.h"

#define KVT_GOLDEN_TIE 1e-6         /* relative gap at the cut below which sets may differ */

/* tests/golden/policies_golden.json, linked into the program. */
extern const char   kvt__golden_json[];
extern const char   kvt__golden_json_end[];

typedef struct kvt_golden_case {    /* what one reference run kept                    */
    const char *name, *spec, *rule; /* as in the file: hostile                        */
    const char *budget;             /* NULL when the file gives none                  */
    uint32_t    n_caches;           /* per layer                                      */
    uint32_t   *start;              /* [n_layers * n_caches + 1] into pos             */
    uint32_t   *pos;                /* ascending per cache                            */
} kvt_golden_case;

typedef struct kvt_golden {         /* operands of a tiny trace                       */
    const char *path;               /* for messages                                   */
    uint32_t    n_layers, n_heads, n_kv_heads, d, n, gen, model_dim;
    const float *q;                 /* [n_layers][n_heads][n + gen][d] after RoPE     */
    const float *k, *v;             /* [n_layers][n_kv_heads][n + gen][d]             */
    const float *wo;                /* [n_layers][model_dim][n_heads * d]             */
} kvt_golden;

typedef enum kvt_verdict {
    KVT_VERDICT_IDENTICAL, KVT_VERDICT_TIED, KVT_VERDICT_DIFFERENT, KVT_VERDICT_UNSUPPORTED, KVT_N_VERDICTS
} kvt_verdict;

typedef struct kvt_golden_result {
    kvt_verdict verdict;
    char        detail[480];        /* why, "" for identical; printable               */
} kvt_golden_result;

/* A trace in memory with all that a policy can ask for: prompt rows of every token,
 * log-sum-exp, value norms and column sums. Borrows g. */
typedef struct kvt_golden_trace kvt_golden_trace;
kvt_status kvt__golden_open(kvt_golden_trace **out, const kvt_golden *g, kvt_err *err) KVT_NODISCARD;
void       kvt__golden_close(kvt_golden_trace *t);       /* NULL is fine */
/* Replay one case and compare. A case that this version cannot run is a verdict; a
 * status means that the file is wrong or the machine failed. */
kvt_status kvt__golden_run(kvt_golden_trace *t, const kvt_golden_case *c, kvt_golden_result *out,
                           kvt_err *err) KVT_NODISCARD;

#endif
