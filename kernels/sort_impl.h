/* sort_impl.h - 16 lists sorted side by side, compiled once per instruction set.
 *
 * Merge exchange (Batcher 1968; Knuth, The Art of Computer Programming 3, 5.2.2, algorithm
 * M): which pairs are compared depends on the length alone, so 16 lists are 16 lanes, there
 * is no branch on a value, and integers leave nothing to an order of operations. 9,727
 * exchanges for 512 entries. Included by rows_<isa>.c before rows_impl.h makes the table. */
#include <stddef.h>
#include <stdint.h>
#include "kvt_kernels.h"

/* Lines of 16 lanes: the smaller of each pair to a, the larger to b. */
static void sort_exchange(uint32_t *restrict a, uint32_t *restrict b, size_t n_lines)
{
    for (size_t i = 0; i < n_lines * KVT_TILE; i++) {
        const uint32_t u = a[i], v = b[i];
        a[i] = u < v ? u : v;
        b[i] = u < v ? v : u;
    }
}

/* Pairs at distance d of one stage come in stretches of p neighbours, 2 p apart; a stretch
 * and its partners do not overlap, since d is an odd multiple of p. */
static void sort16(uint32_t *x, uint32_t n)
{
    size_t top = 1;

    while (top < n - top)
        top *= 2;
    for (size_t p = top; n > 1 && p > 0; p /= 2)
        for (size_t q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
            for (size_t i = r; i + d < n; i += 2 * p)
                sort_exchange(x + i * KVT_TILE, x + (i + d) * KVT_TILE, p < n - d - i ? p : n - d - i);
            if (q == p)
                break;
        }
}
