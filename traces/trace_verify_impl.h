/* trace_verify_impl.h - private: the parts of kvt_trace_verify(). */
#ifndef KVT_TRACE_VERIFY_IMPL_H
#define KVT_TRACE_VERIFY_IMPL_H

#include "trace_open.h"
#include "trace_verify.h"

/* Count a failure; the first one writes the text. */
void kvt__check_fail(kvt_check *c, const char *fmt, ...) KVT_PRINTF(2, 3);
/* Skipped, unless something failed. */
void kvt__check_skip(kvt_check *c, const char *fmt, ...) KVT_PRINTF(2, 3);

/* Keep the largest error; NaN counts as infinite, so that it is never forgotten. */
double kvt__check_worst(double worst, double error);

/* Row sums of every stored row, and the attention output of the samples of `r` (NULL: a
 * source in memory, no samples). trace_verify_rows.c */
kvt_status kvt__verify_rows(kvt_verify_report *out, kvt_source *src, kvt_reader *r, kvt_err *err);
/* trace_verify_stats.c */
kvt_status kvt__verify_stats(kvt_check *out, kvt_source *src, kvt_err *err);
kvt_status kvt__verify_rope(kvt_check *out, kvt_source *src, kvt_reader *r, kvt_err *err);

#endif
