/* kvt_store.h - the results database: one SQLite file, written cell by cell.
 *
 * schema.sql is the contract (names, units in column_doc). A killed run leaves a sound
 * file with fewer finished cells; the same command finishes it. One thread per store. */
#ifndef KVT_STORE_H
#define KVT_STORE_H

#include <sqlite3.h>
#include "kvt_result.h"
#include "kvt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvt_store kvt_store;

typedef struct kvt_run_info {       /* provenance of one run                          */
    const char *command;            /* "replay"                                       */
    int         argc;
    char      **argv;
    const char *config_sha256;      /* of the effective configuration                 */
    uint64_t    seed;
    uint32_t    n_threads;
    const char *isa;                /* instruction set of the row kernels             */
} kvt_run_info;

/* Create `path` or continue it. Refuses, by name: not a database, a database of another
 * program, a newer schema (EVERSION), a read-only file or folder (EIO), SQLite < 3.38.
 * Cells that a dead process left `running` go back to `todo`. */
kvt_status kvt_store_open(kvt_store **out, const char *path, const kvt_run_info *run,
                          kvt_err *err) KVT_NODISCARD;
kvt_sink   kvt_store_sink(kvt_store *s);       /* valid until kvt_store_close()        */
/* The run is over: status done (exit 0), failed or interrupted (130); checkpoint. */
kvt_status kvt_store_finish(kvt_store *s, int exit_code, kvt_err *err) KVT_NODISCARD;
void       kvt_store_close(kvt_store *s);      /* NULL is fine */

/* Open for reading (report, summary, info): the same refusals; EIO when missing. Close
 * with sqlite3_close(). */
kvt_status kvt_store_open_read(sqlite3 **out, const char *path, kvt_err *err) KVT_NODISCARD;

#ifdef __cplusplus
}
#endif
#endif
