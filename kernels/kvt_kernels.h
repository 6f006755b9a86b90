/* kvt_kernels.h - the arithmetic of attention rows, one table per instruction set.
 *
 * Kept sets are decided by these numbers, so every table gives the same bits: a row
 * element is one chain of multiply-adds over the head dimension in index order, in
 * double (a product of two 16-bit floats, or of two f32, is then exact before it is
 * added, fused or not), one exponential that is a fixed sequence of double operations, and one
 * rounding to f32. Lanes are steps, never keys or channels, so the vector width cannot
 * change an order of summation.
 *
 * Tiles. A tile holds 16 consecutive query rows of one query head over all keys,
 * key-major: tile[key * 16 + lane]; 64 bytes per key. */
#ifndef KVT_KERNELS_H
#define KVT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_TILE 16u

/* An element as a mass: the nearest multiple of 2^-40 (between 2^12 and 2^13 that is the
 * spacing of doubles). Sums of up to 2^12 of mass are then exact, so a mass does not depend
 * on the order or the grouping of its terms: not on which other budgets are in a run. */
static inline double kvt_mass(float x) { return ((double)x + 6144.0) - 6144.0; }

typedef struct kvt_rows_args {
    const double *qt;       /* [d][16] queries, channel-major; unused lanes 0. Every value
                             * is one of f32: with another a product is not exact, and
                             * tables that fuse differ from those that do not          */
    const float  *k;        /* [n_keys][d]                                             */
    uint32_t      n_keys, d;
    double        scale, softcap;   /* softcap 0 = none                                */
    const double *lse;      /* [16] natural-log sum of each row; +INFINITY for an unused
                             * lane gives exactly 0                                    */
    const uint32_t *n_visible; /* [16] keys 0..n_visible-1 are visible; the rest is 0  */
    float        *tile;     /* out [n_keys][16]                                        */
} kvt_rows_args;

typedef struct kvt_kernels {
    const char *name;                       /* "portable", "avx2", "avx512"            */
    int       (*usable)(void);              /* on this CPU                             */
    /* tile[j][lane] = exp(z - lse[lane]), z from FORMAT.md 1. */
    void      (*rows)(const kvt_rows_args *a);
    /* z[j * 16 + lane] = the logit itself, in double (for a row's own log-sum-exp); lse,
     * n_visible and tile are not used. */
    void      (*logits)(const kvt_rows_args *a, double *z);
    /* mass[class][16] += kvt_mass(tile[j][16]) for every key j, class = cls[j]. mass is not
     * zeroed here. */
    void      (*class_mass)(const float *tile, uint32_t n_keys, const uint16_t *cls, double *mass);
    /* out[j][16] = kvt_mass(tile[j][16]), which an f32 holds exactly; out may be tile. */
    void      (*masses)(const float *tile, uint32_t n_keys, float *out);
    /* The sums of class_mass out of a tile of masses(), with the keys listed by class: those
     * of class c are key[start[c] .. start[c + 1] - 1]. Faster, the more passes there are
     * over one tile. start: n_cls + 1 entries. */
    void      (*line_mass)(const float *tile, const uint16_t *key, const uint32_t *start, uint32_t n_cls, double *mass);
    /* out[c] += weight[i] v[key[i]][c] over i in order, for every c < d; products are rounded. */
    void      (*weigh_values)(const float *v, uint32_t d, const double *weight, const uint32_t *key, uint32_t n, double *out);
    /* x[i] = kvt_exp(x[i]). */
    void      (*exps)(double *x, size_t n);
    /* sum[j] += (s0 + s1) + (s2 + s3), with s_k = the sum of weight[l] tile[j][l] over l = k, k + 4,
     * k + 8, k + 12; products are rounded. */
    void      (*weigh_lanes)(const float *tile, uint32_t n_keys, const double *weight, double *sum);
    /* x[n][16]: every lane by itself, ascending. */
    void      (*sort16)(uint32_t *x, uint32_t n);
} kvt_kernels;

/* isa NULL or "auto": the widest table that this CPU runs. "portable", "avx2", "avx512":
 * that one; NULL when it is unknown or this CPU cannot run it. */
const kvt_kernels *kvt_kernels_find(const char *isa);
/* All compiled tables, for tests and help; NULL past the end. */
const kvt_kernels *kvt_kernels_at(uint32_t i);

/* exp(x) of the row kernels, in double: relative error below 1e-14 for x in [-700, 700],
 * 0 below -700 (and for -INFINITY). The same bits in every table. */
double kvt_exp(double x);

#ifdef __cplusplus
}
#endif
#endif
