/* test_choose.c - which entries stay. Goal: kvt_choose and kvt_rank agree with the rule
 * "higher score, then lower position, then lower cache" however many scores are equal.
 * Method: against a selection that compares every pair, over scores drawn from few values. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_prim.h"
#include "kvt_sim.h"

enum { MAX_CACHES = 4, MAX_N = 60, CANARY = 77 };

static uint64_t state = 1;
static uint32_t next_u32(void)                      /* splitmix64 */
{
    uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((x ^ (x >> 31)) >> 32);
}

/* Does (score, position, cache) a come before b? */
static int before(const float *score, uint32_t n, size_t a, size_t b)
{
    const size_t ja = a % n, jb = b % n;
    if (score[a] != score[b]) return score[a] > score[b];
    return ja != jb ? ja < jb : a / n < b / n;
}

/* Place of entry i among from..to-1. */
static uint64_t place(const float *score, uint32_t n, size_t i, size_t from, size_t to)
{
    uint64_t p = 0;
    for (size_t k = from; k < to; k++)
        p += k != i && before(score, n, k, i);
    return p;
}

static void draw(float *score, size_t n, uint32_t n_values)
{
    static const float value[] = {0.0f, -0.0f, 0.5f, 1e30f, -3.0f, 1e-40f, -1e-40f, 0.25f, INFINITY};
    for (size_t i = 0; i < n; i++)
        score[i] = n_values <= 9 ? value[next_u32() % n_values] : (float)next_u32() - 2e9f;
}

static void check(kvt_span span, uint32_t caches, uint32_t n, uint64_t keep, uint32_t n_values)
{
    float score[MAX_CACHES * MAX_N];
    uint8_t kept[MAX_CACHES * MAX_N + 1];
    uint32_t held[MAX_CACHES + 1], keep_each[MAX_CACHES], scratch[MAX_CACHES * (MAX_N + 1)];
    const size_t total = (size_t)caches * n;
    const kvt_job job = {.n_q_heads = caches, .n_kv_heads = caches, .n_caches = caches, .n = n,
                         .keep_cache = (uint32_t)keep, .keep_layer = keep};
    uint64_t n_held = 0, n_tied = 0;
    kvt_chosen out;

    draw(score, total, n_values);
    memset(kept, CANARY, sizeof kept);
    held[caches] = CANARY;
    const kvt_setup setup = {.rank_over = span};
    for (uint32_t c = 0; c < caches; c++) keep_each[c] = (uint32_t)keep;
    kvt_choose(&job, &setup, 0, score, keep_each, keep, kept, held, scratch, &out);
    for (size_t i = 0; i < total; i++) {
        const size_t c = i / n;
        const int want = span == KVT_SPAN_LAYER ? place(score, n, i, 0, total) < keep : place(score, n, i, c * n, (c + 1) * n) < keep;
        cr_assert(kept[i] == want, "span %d, %u caches, n %u, keep %u, %u values: entry %zu is %d", span, caches, n, (unsigned)keep,
                  n_values, i, kept[i]);
    }
    for (uint32_t c = 0; c < caches; c++) {         /* the counts, from the marks */
        uint32_t count = 0;
        float best = -INFINITY;
        int any = 0;
        for (size_t i = (size_t)c * n; i < (size_t)(c + 1) * n; i++) {
            count += kept[i];
            if (!kept[i] && (!any || score[i] > best)) best = score[i], any = 1;
        }
        for (size_t i = (size_t)c * n; any && i < (size_t)(c + 1) * n; i++)
            n_tied += kept[i] && score[i] == best;
        cr_assert(held[c] == count);
        n_held += count;
    }
    cr_assert(out.n_held == n_held && out.n_tied == n_tied, "held %lu of %lu, tied %lu of %lu", (unsigned long)out.n_held,
              (unsigned long)n_held, (unsigned long)out.n_tied, (unsigned long)n_tied);
    cr_assert(kept[total] == CANARY && held[caches] == CANARY, "wrote past the end");
    cr_assert(isnan(out.last_kept) == (n_held == 0 || n_held == total), "a cut exists when something stays and something goes");
    cr_assert(isnan(out.last_kept) || out.last_kept >= out.first_dropped);
}

Test(choose, agrees_with_comparing_every_pair)
{
    static const uint32_t lengths[] = {1, 2, 7, 33, MAX_N}, values[] = {1, 2, 3, 9, 1000};
    for (size_t l = 0; l < 5; l++)
        for (size_t v = 0; v < 5; v++)
            for (uint32_t caches = 1; caches <= MAX_CACHES; caches++)
                for (uint32_t k = 0; k < 12; k++) {
                    const uint32_t n = lengths[l];
                    check(KVT_SPAN_CACHE, caches, n, k * n / 10, values[v]);
                    check(KVT_SPAN_LAYER, caches, n, (uint64_t)k * n * caches / 10, values[v]);
                    check(KVT_SPAN_LAYER, caches, n, next_u32() % (n * caches + 1), values[v]);
                }
}

Test(choose, reports_the_closest_cut_of_all_caches)
{
    const float score[] = {8, 4, 2, 1, /* next cache */ 8, 7.5f, 2, 1};
    const kvt_job job = {.n_q_heads = 2, .n_kv_heads = 2, .n_caches = 2, .n = 4, .keep_cache = 1, .keep_layer = 3};
    const kvt_setup by_cache = {.rank_over = KVT_SPAN_CACHE}, by_layer = {.rank_over = KVT_SPAN_LAYER};
    const uint32_t keep[] = {1, 1};
    uint8_t kept[8];
    uint32_t held[2], scratch[10];
    kvt_chosen out;

    kvt_choose(&job, &by_cache, 0, score, keep, 3, kept, held, scratch, &out);
    cr_assert(out.last_kept == 8.0f && out.first_dropped == 7.5f, "got %g | %g", (double)out.last_kept, (double)out.first_dropped);
    kvt_choose(&job, &by_layer, 0, score, keep, 3, kept, held, scratch, &out);
    cr_assert(out.last_kept == 7.5f && out.first_dropped == 4.0f, "got %g | %g", (double)out.last_kept, (double)out.first_dropped);
    cr_assert(held[0] == 1 && held[1] == 2);
}

Test(choose, not_a_number_is_worth_less_than_anything)
{
    const float score[] = {NAN, -INFINITY, NAN, 1};
    const kvt_job job = {.n_q_heads = 1, .n_kv_heads = 1, .n_caches = 1, .n = 4, .keep_cache = 2, .keep_layer = 2};
    uint8_t kept[4];
    const kvt_setup setup = {.rank_over = KVT_SPAN_CACHE};
    const uint32_t keep = 2;
    uint32_t held[1], order[4], tmp[4], scratch[5];
    kvt_chosen out;

    kvt_choose(&job, &setup, 0, score, &keep, 2, kept, held, scratch, &out);
    cr_assert(!kept[0] && kept[1] && !kept[2] && kept[3]);
    kvt_rank(score, 4, order, tmp);
    cr_assert(order[0] == 3 && order[1] == 1 && order[2] == 0 && order[3] == 2);
}

Test(choose, rank_is_the_stable_descending_order)
{
    float score[MAX_N];
    uint32_t order[MAX_N + 1], tmp[MAX_N];

    for (uint32_t round = 0; round < 400; round++) {
        const uint32_t n = next_u32() % (MAX_N + 1), n_values = 1 + next_u32() % 12;
        draw(score, n, n_values);
        order[n] = CANARY;
        kvt_rank(score, n, order, tmp);
        cr_assert(order[n] == CANARY);
        for (uint32_t i = 0; i < n; i++)
            cr_assert(place(score, n, order[i], 0, n) == i, "n %u: entry %u is at place %u", n, order[i], i);
    }
}
