/* estimate.h - what a replay will take, before it is run: cells, rows and bytes of the
 * database, memory, time. Memory is the sum of the engine's allocations; time is counted
 * work times rates that are measured on this machine. Both are meant to be right within a
 * factor of two. */
#ifndef KVT_ESTIMATE_H
#define KVT_ESTIMATE_H

#include "kvt_sim.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KVT_RATE_ROW, KVT_RATE_RANK, KVT_RATE_CLASS, KVT_N_RATES };

typedef struct kvt_rates {          /* seconds of one thread, per element             */
    double s[KVT_N_RATES];          /* ROW: attention row, per key, step and channel; RANK:
                                     * sorting floats; CLASS: adding a row to its classes */
} kvt_rates;

typedef struct kvt_estimate {
    uint32_t n_cells;               /* to be measured                                 */
    uint64_t n_rows, db_bytes;      /* that the database gains                        */
    uint64_t memory_bytes;          /* largest resident size of the process           */
    uint64_t cell_bytes, thread_bytes;   /* of these: fewer with fewer cells, fewer threads */
    double   seconds;               /* wall time                                      */
} kvt_estimate;

/* Run the real kernels for about a tenth of a second. ENOMEM. */
kvt_status kvt_rates_measure(const kvt_kernels *kern, kvt_rates *out, kvt_err *err) KVT_NODISCARD;

/* The replay of src with these options; kept sets, kernels, progress and cancel of opts are
 * not looked at. sink: of its functions only claim() is called, once per cell, and says
 * which are to do; ops NULL = all. Nothing is read from the trace but its description, and
 * nothing is written. Errors: those of kvt_plan_check_trace(), of claim(), ENOMEM. */
kvt_status kvt_estimate_replay(const kvt_source *src, const kvt_replay_opts *opts, kvt_sink sink, const kvt_rates *rates,
                               kvt_estimate *out, kvt_err *err) KVT_NODISCARD;

#ifdef __cplusplus
}
#endif
#endif
