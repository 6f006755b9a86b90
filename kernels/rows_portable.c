/* rows_portable.c - the row kernels for any CPU, with the baseline's registers. Where it has
 * no fused multiply-add, the C library's fma() takes its place in the few exponentials that
 * need it, and in a soft-cap: slow, and the same bits. */
#include "rows_impl.h"

extern const kvt_kernels kvt_kernels_portable;
static int always(void) { return 1; }

#define KVT_ISA        portable
#define KVT_ISA_KEYS   3
#define KVT_ISA_VECTORS 4
#define KVT_ISA_USABLE always
#include "output_impl.h"
#include "sort_impl.h"
#include "rows_impl.h"
