/* Goal: what the per-step oracle loses is what sorting the row says, bit for bit, for rows of
 * every kind and every count. Reference: qsort and sums of kvt_mass() in double, which are
 * exact. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "row_oracle.h"

enum { MOST = 20000, COUNTS = 400 };

static uint64_t draw_state = 88172645463325252u;
static uint32_t draw(void)
{
    draw_state ^= draw_state << 13, draw_state ^= draw_state >> 7, draw_state ^= draw_state << 17;
    return (uint32_t)(draw_state >> 20);
}
static double unit(void) { return draw() / 4294967296.0; }

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}
static int by_count(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

enum { LOG_NORMAL, WIDE, FEW_VALUES, EQUAL, ZEROS, ONE_ENTRY, CLOSE, TINY, FALLING, KINDS };

static void fill(float *row, uint32_t n, int kind)
{
    double sum = 0;

    for (uint32_t j = 0; j < n; j++) {
        const double normal = unit() + unit() + unit() + unit() - 2;
        row[j] = (float)(kind == LOG_NORMAL ? exp(4 * normal)
            : kind == WIDE ? exp(25 * normal)            /* most below 2^-41 */
            : kind == FEW_VALUES ? 1 + draw() % 3
            : kind == EQUAL ? 1
            : kind == ZEROS ? draw() % 5 == 0
            : kind == ONE_ENTRY ? j == n / 2
            : kind == CLOSE ? 1 + unit() * 1e-4           /* one bin, different values */
            : kind == TINY ? exp(30 * normal) * 1e-38     /* denormals */
            : (double)(n - j));
        sum += (double)row[j];
    }
    for (uint32_t j = 0; j < n && kind != TINY && sum > 0; j++)
        row[j] = (float)(row[j] / sum);
}

static uint32_t make_counts(uint32_t *count, uint32_t n, uint32_t n_random)
{
    uint32_t m = 0, all = 5 + n_random;

    count[0] = 0, count[1] = 1, count[2] = n - 1, count[3] = n, count[4] = n + 3;
    for (uint32_t k = 5; k < all; k++)
        count[k] = draw() % (n + 2);
    qsort(count, all, sizeof *count, by_count);
    for (uint32_t k = 0; k < all; k++)
        if (m == 0 || count[m - 1] != count[k])
            count[m++] = count[k];
    return m;
}

static void check(kvt_row_oracle *o, const float *row, uint32_t n, int kind, const float *probe, uint32_t n_probe)
{
    static float sorted[MOST];
    static uint32_t count[COUNTS];
    static uint64_t lost[COUNTS];
    const uint32_t n_count = make_counts(count, n, draw() % 3 ? draw() % 20 : COUNTS - 5);
    uint32_t above[KVT_ROW_ORACLE_PROBES], done = 0;
    double sum = 0;

    memcpy(sorted, row, n * sizeof *row);
    qsort(sorted, n, sizeof *sorted, by_value);
    memset(lost, 0xff, sizeof lost);
    kvt_row_oracle_lost(o, row, count, n_count, lost, probe, n_probe, above);
    for (uint32_t k = n_count; k-- > 0;) {
        for (; done < (count[k] < n ? n - count[k] : 0); done++)
            sum += kvt_mass(sorted[done]);
        cr_assert((double)lost[k] * 0x1p-40 == sum, "kind %d, %u entries, count %u: %a, expected %a", kind, n, count[k],
                  (double)lost[k] * 0x1p-40, sum);
    }
    for (uint32_t i = 0; i < n_probe; i++) {
        uint32_t larger = 0;
        for (uint32_t j = 0; j < n; j++)
            larger += row[j] > probe[i];
        cr_assert(above[i] == larger, "kind %d, %u entries, probe %a: %u above, expected %u", kind, n, (double)probe[i], above[i], larger);
    }
}

/* One object for all rows, as the engine uses it: nothing of a row may stay behind. */
Test(row_oracle, every_count_loses_what_sorting_says)
{
    static const uint32_t size[] = { 1, 2, 3, 5, 16, 17, 63, 64, 100, 616, 1023, 1024, 2500, 5000, 8191, 8192, 15000 };
    static float row[MOST];
    kvt_row_oracle *o = kvt_row_oracle_new(MOST);

    cr_assert(o);
    for (size_t s = 0; s < sizeof size / sizeof *size; s++)
        for (int kind = 0; kind < KINDS; kind++) {
            const uint32_t n = size[s], more = n + 1 + draw() % 300, n_probe = draw() % (KVT_ROW_ORACLE_PROBES + 1);
            fill(row, more, kind);
            kvt_row_oracle_start(o, n);
            kvt_row_oracle_more(o, row, n);
            check(o, row, n, kind, row, n_probe < n ? n_probe : n);
            kvt_row_oracle_more(o, row, more);   /* generated entries join */
            check(o, row, more, kind, row + more - 1, 1);
        }
    kvt_row_oracle_free(o);
}

Test(row_oracle, a_row_of_nothing_loses_nothing)
{
    kvt_row_oracle *o = kvt_row_oracle_new(1);
    const uint32_t count[2] = { 0, 4 };
    uint64_t lost[2] = { 9, 9 };

    cr_assert(o);
    kvt_row_oracle_start(o, 0);
    kvt_row_oracle_lost(o, NULL, count, 2, lost, NULL, 0, NULL);
    cr_assert(lost[0] == 0 && lost[1] == 0);
    kvt_row_oracle_free(o);
}

Test(row_oracle, lanes_become_rows)
{
    static float tile[100 * 16], rows[16 * 120];

    for (uint32_t i = 0; i < 100 * 16; i++)
        tile[i] = (float)i;
    for (uint32_t n = 1; n <= 100; n += 11) {
        for (uint32_t i = 0; i < 16 * 120; i++)
            rows[i] = -1;
        kvt_row_oracle_lanes(tile, n, 120, rows);
        for (uint32_t i = 0; i < 16; i++)
            for (uint32_t j = 0; j < 120; j++)
                cr_assert(rows[i * 120 + j] == (j < n ? (float)(j * 16 + i) : -1));
    }
}
