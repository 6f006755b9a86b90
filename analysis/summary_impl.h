/* summary_impl.h - what the parts of the terminal summary share. */
#ifndef SUMMARY_IMPL_H
#define SUMMARY_IMPL_H

#include <sqlite3.h>
#include <stdio.h>
#include "kvt_status.h"
#include "ranking.h"

enum { LABEL_SIZE = 160 };
enum { KVT__MANY = 16 };             /* more configurations than that: a short form   */

typedef struct kvt__summary {       /* where the text goes and what it is about       */
    sqlite3    *db;
    FILE       *out;
    char        shown[256];         /* path of the database, printable                */
    int64_t     model_id, budget_id, n_trace, n_cluster, n_head;
    char        model[LABEL_SIZE], split[16];
    char        share[96];          /* "20 % of the prompt's entries"                 */
    kvt__ranking rank;
    const kvt__entry *best;         /* whom the verdict is about; NULL = nobody       */
} kvt__summary;

/* A paragraph, wrapped at the width of the page. */
void        kvt__say(FILE *out, const char *fmt, ...) KVT_PRINTF(2, 3);
/* Columns that a printable string takes: its characters, not its bytes. */
int         kvt__columns(const char *text);
/* Three significant digits; NaN, which is NULL of the database, is "-". */
const char *kvt__digits(char out[16], double x);

/* Prepare a query and bind ?1 model, ?2 split, ?3 budget, ?4 configuration where used. */
kvt_status kvt__summary_query(const kvt__summary *p, const char *sql, int64_t config_id, sqlite3_stmt **st, kvt_err *err)
    KVT_NODISCARD;
/* End of a loop over rows: the last step() must have been the end. */
kvt_status kvt__summary_end(const kvt__summary *p, sqlite3_stmt *st, int step, kvt_err *err) KVT_NODISCARD;

kvt_status kvt__summary_table(const kvt__summary *p, kvt_err *err) KVT_NODISCARD;

#endif
