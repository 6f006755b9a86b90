/* trace_verify.h - the expensive checks of a trace (FORMAT.md 13.4) as a list of results.
 *
 * Opening a source has already checked structure and ranges; these read every byte and
 * recompute attention. Tolerances are those of the format; the file can only tighten
 * its own test. */
#ifndef KVT_TRACE_VERIFY_H
#define KVT_TRACE_VERIFY_H

#include "kvt_trace.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_ROW_SUM_TOL 2e-3                  /* |sum of a row - 1|                    */

typedef enum kvt_check_result { KVT_CHECK_OK, KVT_CHECK_FAILED, KVT_CHECK_SKIPPED } kvt_check_result;

typedef struct kvt_check {
    const char      *name;                    /* "row sums"                            */
    kvt_check_result result;
    uint64_t         n_seen, n_failed;        /* rows, datasets, samples               */
    double           worst, tol;              /* largest error; tol 0 = exact or none  */
    char             text[400];               /* printable: first failure, or a remark */
} kvt_check;

/* In the order in which they are made and printed. */
enum {
    KVT_CHECK_CHECKSUMS, KVT_CHECK_CONTENT_ID, KVT_CHECK_FINITE, KVT_CHECK_ROW_SUMS,
    KVT_CHECK_STATS, KVT_CHECK_OUTPUT, KVT_CHECK_ROPE, KVT_N_CHECKS
};

typedef struct kvt_verify_report {
    kvt_check check[KVT_N_CHECKS];
    uint32_t  n_failed;                       /* checks, not rows                      */
} kvt_verify_report;

/* KVT_OK: all checks were made, whatever they found. Otherwise the trace could not be
 * read (EFORMAT, EIO) or there is no memory. A source in memory has no file, so only
 * row sums and column statistics are checked. */
kvt_status kvt_trace_verify(kvt_verify_report *out, kvt_source *src, kvt_err *err) KVT_NODISCARD;

const char *kvt_check_result_name(kvt_check_result r);   /* "OK", "FAILED", "skipped" */

#ifdef __cplusplus
}
#endif
#endif
