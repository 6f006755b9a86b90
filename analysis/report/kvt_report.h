/* kvt_report.h - one self-contained HTML page about a results database.
 *
 * HTML and inline SVG, no script, nothing fetched. The same database gives the same
 * bytes: there is no clock and no path in the page. */
#ifndef KVT_REPORT_H
#define KVT_REPORT_H

#include <sqlite3.h>
#include <stddef.h>
#include "kvt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvt_report_opts {
    const char *policy;             /* label or id for heatmap and timeline; NULL = the
                                     * policy that is ranked first                        */
    const char *budget;             /* label or number; NULL = the share nearest to 0.2   */
    const char *const *highlight;   /* labels or ids that are drawn in colour, at most 8  */
    size_t      n_highlight;        /* 0 = a few by rank                                  */
} kvt_report_opts;

/* The page as text; *html is the caller's to free. EARG when policy or budget has no
 * finished cell (says what there is), EFORMAT for a damaged database. */
kvt_status kvt_report_build(char **html, size_t *n_bytes, sqlite3 *db, const kvt_report_opts *opts,
                            kvt_err *err) KVT_NODISCARD;

/* May `path` be written? EARG when it exists and force is 0, when it is not a plain file,
 * or when it is the database itself. */
kvt_status kvt_report_check_target(const char *path, const char *db_path, int force, kvt_err *err) KVT_NODISCARD;

/* All of it or nothing: a temporary file beside `path`, fsync, rename. EIO otherwise. */
kvt_status kvt_report_save(const char *path, const char *html, size_t n_bytes, kvt_err *err) KVT_NODISCARD;

#ifdef __cplusplus
}
#endif
#endif
