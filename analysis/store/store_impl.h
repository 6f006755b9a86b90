/* store_impl.h - what the files of the results database share; nobody else includes it. */
#ifndef KVT_STORE_IMPL_H
#define KVT_STORE_IMPL_H

#include <stdint.h>
#include <time.h>
#include "kvt_store.h"

#define KVT__APPLICATION_ID 0x4B565431   /* 'KVT1', in the file's header              */
#define KVT__SCHEMA_VERSION 3            /* PRAGMA user_version                       */
#define KVT__BUSY_MS        60000        /* a cell with many heads takes seconds      */

/* Statements that are prepared once per store; their text is in store_rows.c. */
typedef enum kvt__stmt {
    KVT__CELL_STATE, KVT__CELL_CLAIM, KVT__CELL_DONE, KVT__CELL_FAIL,
    KVT__MODEL_FIND, KVT__MODEL_ADD, KVT__MODEL_LAYERS, KVT__MODEL_LAYER_ADD,
    KVT__DATASET_ADD, KVT__DATASET_FIND, KVT__TRACE_FIND, KVT__TRACE_ADD, KVT__TOKEN_ADD,
    KVT__SEGMENT_ADD, KVT__POLICY_ADD, KVT__POLICY_FIND, KVT__CONFIG_FIND, KVT__CONFIG_ADD,
    KVT__PARAM_ADD, KVT__BUDGET_FIND, KVT__BUDGET_ADD, KVT__TAU_FIND,
    KVT__DEL_HEAD, KVT__DEL_KVHEAD, KVT__DEL_LAYER, KVT__DEL_CELL, KVT__DEL_LADDER, KVT__DEL_CHECK,
    KVT__ADD_CELL, KVT__ADD_HEAD, KVT__ADD_KVHEAD, KVT__ADD_LAYER, KVT__ADD_TAU,
    KVT__ADD_SERIES,
    KVT__VIOLATION_NEXT, KVT__ADD_VIOLATION, KVT__ADD_VIOLATIONS, KVT__ADD_TOKEN, KVT__ADD_TOKENS, KVT__ADD_LADDER, KVT__ADD_CERT, KVT__ADD_CHECK,
    KVT__GRID_FIND, KVT__GRID_ADD, KVT__CURVE_FIND, KVT__DEL_CURVE, KVT__ADD_CURVE, KVT__ADD_CURVES,
    KVT__N_STMT
} kvt__stmt;

enum { KVT__MANY = 40 };                 /* rows of KVT__ADD_VIOLATIONS, _TOKENS, _CURVES */
enum { KVT__N_HASH = 9 };                /* queries of the content hash, in store_hash.c  */

struct kvt_store {
    sqlite3      *db;
    char          shown[256];            /* printable form of the path, for messages  */
    int64_t       run_id;                /* 0 until the run has a row                 */
    int           created;               /* the file was made by this store           */
    int           finished;
    struct timespec started;
    sqlite3_stmt *stmt[KVT__N_STMT];     /* NULL until first used                     */
    sqlite3_stmt *hash[KVT__N_HASH];
};

extern const char kvt__schema_sql[];     /* schema_sql.c */

/* store_read.c ---------------------------------------------------------------- */

/* The path that makes SQLite open exactly this file: "./" before a relative one, so
 * that ":memory:" and "file:..." are names like any other. NULL = out of memory. */
char      *kvt__db_path(const char *path);
/* One line for the last error of `db`: file, what was being done, SQLite's words, what
 * to do about it. Returns EIO, EFORMAT, ENOMEM or EDB. */
kvt_status kvt__db_fail(sqlite3 *db, const char *shown, const char *doing, kvt_err *err);
/* Run statements; a transaction that they left open is rolled back on failure. */
kvt_status kvt__exec(sqlite3 *db, const char *sql, const char *shown, const char *doing, kvt_err *err);
/* First column of the first row of a query; `otherwise` when there is no row. */
kvt_status kvt__query_int(sqlite3 *db, const char *sql, int64_t otherwise, int64_t *out,
                          const char *shown, kvt_err *err);
/* Is this file ours? *empty = 1: it has no tables and no identity. Refuses everything
 * else that is not a results database with exactly the tables and views of schema.sql,
 * or of an older version of it. */
kvt_status kvt__identify(sqlite3 *db, const char *shown, int *empty, kvt_err *err);

/* store_hash.c ----------------------------------------------------------------- */

/* SHA-256 of the child rows of a cell, lower-case hex (RESULTS.md, "Content hash"). The rows
 * are stored; `x` is what they were stored from. */
kvt_status kvt__result_sha256(kvt_store *s, int64_t cell_id, const kvt_result *x, char out[65], kvt_err *err);

/* store_migrate.c -------------------------------------------------------------- */

/* 1 = schema version `version` did not have this object, 2 = it was a view with another text. */
int        kvt__is_newer(const char *name, int64_t version);
/* An older database gets what it lacks, in one transaction; rows stay as they are. */
kvt_status kvt__migrate(sqlite3 *db, const char *shown, kvt_err *err);
/* schema.sql in memory. */
kvt_status kvt__model_open(sqlite3 **out, kvt_err *err);

/* store_open.c ----------------------------------------------------------------- */

/* Runs of dead processes become `interrupted`, their running cells `todo`. */
kvt_status kvt__reap(kvt_store *s, kvt_err *err);

/* store_rows.c ----------------------------------------------------------------- */

typedef struct kvt__row {                /* a statement being filled, left to right   */
    sqlite3_stmt *st;                    /* NULL when it could not be prepared        */
    int           col, code;             /* code: the first SQLite error              */
} kvt__row;

kvt__row   kvt__row_begin(kvt_store *s, kvt__stmt which);
void       kvt__add_code(kvt__row *r, int code);             /* of an own sqlite3_bind_ */
void       kvt__add_int(kvt__row *r, int64_t x);
void       kvt__add_int_if(kvt__row *r, int there, int64_t x);  /* else NULL */
void       kvt__add_null(kvt__row *r);
void       kvt__add_real(kvt__row *r, double x);             /* NaN becomes NULL */
void       kvt__add_text(kvt__row *r, const char *x);        /* NULL stays NULL */
void       kvt__add_printable(kvt__row *r, const char *x);   /* text from a trace */
void       kvt__add_u32(kvt__row *r, const uint32_t *x, size_t n);  /* a blob, 4 n bytes, little endian */
/* Run a statement that gives no row; or take the first column of its first row, 0 when
 * there is none (ids start at 1). `table` and the cell stand in the message. */
kvt_status kvt__row_run(kvt_store *s, kvt__row *r, const kvt_cell *cell, const char *table, kvt_err *err);
kvt_status kvt__row_find(kvt_store *s, kvt__row *r, const kvt_cell *cell, const char *table,
                         int64_t *id, kvt_err *err);
kvt_status kvt__row_fail(kvt_store *s, const kvt__row *r, const kvt_cell *cell, const char *table, kvt_err *err);
void       kvt__stmt_finalize(kvt_store *s);

/* A table being filled with a known number of rows, KVT__MANY to a statement while enough
 * are left. Set the first five; then for every row: kvt__batch_row(), fill b->r,
 * kvt__batch_end_row(). */
typedef struct kvt__batch {
    kvt_store      *s;
    const kvt_cell *cell;
    const char     *table;
    kvt__stmt       one;                 /* one + 1 is the same statement for KVT__MANY   */
    size_t          left;                /* rows to come                                  */
    kvt__row        r;
    size_t          held, size;          /* in the statement; as many as it takes         */
} kvt__batch;

void       kvt__batch_row(kvt__batch *b);
kvt_status kvt__batch_end_row(kvt__batch *b, kvt_err *err);

/* store_write.c ---------------------------------------------------------------- */

/* Commit when rc is OK, else roll back. */
kvt_status kvt__end_transaction(kvt_store *s, kvt_status rc, const char *doing, kvt_err *err);

/* store_violation.c ------------------------------------------------------------ */

/* The n violations of a cell and the entries responsible for them. tau_id[KVT_N_TAU]. */
kvt_status kvt__add_violations(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const int64_t *tau_id,
                               const kvt_violation *x, size_t n, kvt_err *err);

/* store_curve.c: curve_claim and curve_store of the sink ------------------------ */

kvt_status kvt__sink_curve_claim(void *self, const kvt_curve_id *id, int *todo, kvt_err *err);
kvt_status kvt__sink_curve_store(void *self, const kvt_curve_id *id, const kvt_curve_row *row, size_t n_row, kvt_err *err);

/* store_refs.c ----------------------------------------------------------------- */

kvt_status kvt__need_trace(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err);
kvt_status kvt__need_config(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err);
kvt_status kvt__need_budget(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err);

#endif
