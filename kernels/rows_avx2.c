/* rows_avx2.c - the row kernels with AVX2 and FMA: 3 keys x 16 lanes are 12 of the 16
 * registers. Compiled without these flags (another CPU), the table cannot be used. */
#include "rows_impl.h"

extern const kvt_kernels kvt_kernels_avx2;
int kvt_cpu_has_avx2(void);

#if defined(__AVX2__) && defined(__FMA__)
#define KVT_ISA        avx2
#define KVT_ISA_KEYS   3
#define KVT_ISA_VECTORS 4
#define KVT_ISA_USABLE kvt_cpu_has_avx2
#include "output_impl.h"
#include "sort_impl.h"
#include "rows_impl.h"
#else
static int never(void) { return 0; }
const kvt_kernels kvt_kernels_avx2 = {"avx2", never, NULL, NULL, NULL, NULL};
#endif
