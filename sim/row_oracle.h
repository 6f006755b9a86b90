/* row_oracle.h - the per-step oracle of one attention row at every count of a list, without
 * sorting the row.
 *
 * The set of B entries that loses least at one step is the row's B largest; what it loses is
 * the sum of the n - B smallest. A histogram over logarithmic bins holds count and mass of
 * each bin, masses as integers (multiples of 2^-40, see kvt_mass()), so sums over whole bins
 * are exact; only the entries of a bin that a count falls into are put in order. The result
 * is that of sorting, bit for bit.
 *
 * Rows are non-negative floats whose sum is below 2, of at most 2^22 entries. Order of
 * calls: _new, then for every row _start, _more, _lost; _more and _lost again when further
 * entries compete. */
#ifndef KVT_ROW_ORACLE_H
#define KVT_ROW_ORACLE_H

#include <stddef.h>
#include <stdint.h>
#include "kvt_kernels.h"

typedef struct kvt_row_oracle kvt_row_oracle;

/* For rows of up to n_max entries. NULL: out of memory. */
kvt_row_oracle *kvt_row_oracle_new(uint32_t n_max);
void            kvt_row_oracle_free(kvt_row_oracle *o);

/* A tile[n_keys][16] as 16 rows: lane i to rows[i * stride + key]. stride >= n_keys. */
void kvt_row_oracle_lanes(const float *tile, uint32_t n_keys, size_t stride, float *rows);

/* Nothing competes yet. n: how many entries the row will have, roughly. */
void kvt_row_oracle_start(kvt_row_oracle *o, uint32_t n);

/* The first n entries of the row compete; those of the last call since _start already do. */
void kvt_row_oracle_more(kvt_row_oracle *o, const float *row, uint32_t n);

/* lost[k]: what is lost when count[k] entries are held, in multiples of 2^-40. count:
 * ascending; one that exceeds the row loses nothing. above[i]: how many entries are larger
 * than probe[i], i < n_probe <= 4. row: that of the last _more. */
void kvt_row_oracle_lost(kvt_row_oracle *o, const float *row, const uint32_t *count, uint32_t n_count, uint64_t *lost,
                         const float *probe, uint32_t n_probe, uint32_t *above);

#define KVT_ROW_ORACLE_PROBES 4u

#endif
