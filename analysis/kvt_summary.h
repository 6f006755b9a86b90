/* kvt_summary.h - what a results database says, in the terminal. */
#ifndef KVT_SUMMARY_H
#define KVT_SUMMARY_H

#include <sqlite3.h>
#include <stdio.h>
#include "kvt_status.h"

/* Print the verdict sentence, the policies at one budget (20 %, or the nearest that is
 * there) with mean, CVaR95 and worst loss, the five heads with the largest CVaR95, the
 * validity lines that are not ok, to `out`. Header line says open loop and n. Policies
 * stand in the order of CVaR95, or of the mean where CVaR95 does not tell them apart,
 * which is said; of many configurations the best few and the references have a line. */
kvt_status kvt_summary_print(sqlite3 *db, const char *path, FILE *out, kvt_err *err) KVT_NODISCARD;

#endif
