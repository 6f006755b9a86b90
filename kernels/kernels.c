/* kernels.c - which tables there are, and which of them this CPU can run. */
#include "kvt_kernels.h"
#include <string.h>
#include "rows_impl.h"

extern const kvt_kernels kvt_kernels_portable, kvt_kernels_avx2, kvt_kernels_avx512;
int kvt_cpu_has_avx2(void);
int kvt_cpu_has_avx512(void);

/* Widest last. */
static const kvt_kernels *const tables[] = {
    &kvt_kernels_portable, &kvt_kernels_avx2, &kvt_kernels_avx512
};
enum { N_TABLES = sizeof tables / sizeof tables[0] };

/* __builtin_cpu_supports() asks the CPU and whether the operating system saves the
 * registers. These stand here because rows_<isa>.c may use what is being asked for. */
#if defined(__x86_64__)
int kvt_cpu_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

int kvt_cpu_has_avx512(void)
{
    return kvt_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
}

__attribute__((target("fma"))) static double exp_fma(double x) { return kvt_exp_series(x, 1); }

static double exp_any(double x) { return __builtin_cpu_supports("fma") ? exp_fma(x) : kvt_exp_series(x, 1); }
#else
int    kvt_cpu_has_avx2(void) { return 0; }
int    kvt_cpu_has_avx512(void) { return 0; }
static double exp_any(double x) { return kvt_exp_series(x, 1); }
#endif

/* 0 and infinity a little earlier than the tables, whose f32 and soft-cap cannot tell. */
double kvt_exp(double x) { return exp_any(x < -700.0 ? -709.0 : x > 709.0 ? 710.0 : x); }

const kvt_kernels *kvt_kernels_at(uint32_t i)
{
    return i < N_TABLES ? tables[i] : NULL;
}

const kvt_kernels *kvt_kernels_find(const char *isa)
{
    const int any = isa == NULL || strcmp(isa, "auto") == 0;

    for (uint32_t i = N_TABLES; i-- > 0;)
        if ((any || strcmp(isa, tables[i]->name) == 0) && tables[i]->usable()) return tables[i];
    return NULL;
}
