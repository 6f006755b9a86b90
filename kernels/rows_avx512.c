/* rows_avx512.c - the row kernels with AVX-512 (F and DQ): 8 keys x 16 lanes are 16 of
 * the 32 registers. Compiled without these flags (another CPU), the table cannot be used. */
#include "rows_impl.h"

extern const kvt_kernels kvt_kernels_avx512;
int kvt_cpu_has_avx512(void);

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define KVT_ISA        avx512
#define KVT_ISA_KEYS   8
#define KVT_ISA_VECTORS 2
#define KVT_ISA_USABLE kvt_cpu_has_avx512
#include "output_impl.h"
#include "sort_impl.h"
#include "rows_impl.h"
#else
static int never(void) { return 0; }
const kvt_kernels kvt_kernels_avx512 = {"avx512", never, NULL, NULL, NULL, NULL};
#endif
