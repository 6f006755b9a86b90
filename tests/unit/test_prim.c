/* test_prim.c - arithmetic that policies share. Goal: each function of kvt_prim.h does what
 * it promises. Method: small cases worked out by hand, and selection against comparing
 * every pair under every order of equals. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_prim.h"

Test(prim, pooling_counts_outside_as_zero_in_a_mean_and_not_at_all_in_a_maximum)
{
    const float x[] = {-1, 2, 4, -8};
    float out[5] = {0, 0, 0, 0, 77};

    kvt_pool_mean(x, 4, 3, out);
    cr_assert(out[0] == (float)(1 / 3.0) && out[1] == (float)(5 / 3.0) && out[2] == (float)(-2 / 3.0) && out[3] == (float)(-4 / 3.0));
    kvt_pool_max(x, 4, 3, out);
    cr_assert(out[0] == 2 && out[1] == 4 && out[2] == 4 && out[3] == 4 && out[4] == 77);
    kvt_pool_max(x + 3, 1, 5, out);
    cr_assert(out[0] == -8, "outside does not count as zero");
    kvt_pool_mean(x, 4, 99, out);
    cr_assert(out[0] == (float)(-3 / 99.0) && out[3] == out[0]);
    kvt_pool_mean(x, 4, 1, out);
    cr_assert(!memcmp(out, x, sizeof x));
}

Test(prim, random_draws_differ_by_layer_cache_position_purpose_and_key)
{
    const kvt_job a = {.key = 1}, b = {.key = 1ull << 32};
    double sum = 0;

    cr_assert(kvt_uniform(&a, 0, 0, 0, 0) != kvt_uniform(&b, 0, 0, 0, 0));
    cr_assert(kvt_uniform(&a, 1, 0, 0, 0) != kvt_uniform(&a, 0, 1, 0, 0));
    cr_assert(kvt_uniform(&a, 0, 0, 1, 0) != kvt_uniform(&a, 0, 0, 0, 1));
    for (uint32_t i = 0; i < 10000; i++) {
        const float x = kvt_uniform(&a, 2, 3, 0, i);
        cr_assert(x >= 0 && x < 1 && x == kvt_uniform(&a, 2, 3, 0, i));
        sum += (double)x;
    }
    cr_assert(fabs(sum / 10000 - 0.5) < 5 * 0.2887 / 100, "mean %g", sum / 10000);
}

Test(prim, counts_round_to_even_or_are_truncated_as_the_rule_says)
{
    const kvt_job share = {.rule = KVT_RULE_SHARE}, reference = {.rule = KVT_RULE_REFERENCE};
    static const struct { double x; uint64_t nearest, truncated; } rows[] = {
        {-3, 0, 0}, {0, 0, 0}, {0.5, 0, 0}, {1.5, 2, 1}, {2.5, 2, 2}, {0.35 * 10, 4, 3}, {2.4999999, 2, 2}, {2.51, 3, 2}, {199.99999999999997, 200, 199}, {1e15, (uint64_t)1e15, (uint64_t)1e15},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cr_assert(kvt_count_of(&share, rows[i].x) == rows[i].nearest, "%.17g -> %lu", rows[i].x, (unsigned long)kvt_count_of(&share, rows[i].x));
        cr_assert(kvt_count_of(&reference, rows[i].x) == rows[i].truncated, "%.17g -> %lu", rows[i].x, (unsigned long)kvt_count_of(&reference, rows[i].x));
    }
    cr_assert(kvt_trunc(-0.5) == 0 && kvt_trunc(2.999) == 2 && kvt_trunc(NAN) == 0);
}

/* Does entry a of (cache, position) come before b among equals? */
static int comes_first(const kvt_job *job, uint32_t layer, uint32_t cache0, uint32_t n, uint32_t a, uint32_t b)
{
    const uint32_t ca = a / n, cb = b / n, ja = a % n, jb = b % n;
    if (job->ties == KVT_TIES_FLAT) return a < b;
    if (job->ties == KVT_TIES_HIGH) return ja != jb ? ja > jb : ca > cb;
    if (job->ties == KVT_TIES_SEEDED) {
        const float x = kvt_uniform(job, layer, cache0 + ca, KVT_PURPOSE_TIES, ja), y = kvt_uniform(job, layer, cache0 + cb, KVT_PURPOSE_TIES, jb);
        if (x != y) return x > y;
        return a < b;
    }
    return ja != jb ? ja < jb : ca < cb;
}

Test(prim, the_best_of_a_cache_or_a_layer_agree_with_comparing_every_pair)
{
    enum { CACHES = 3, N = 13, STRIDE = 17 };
    float score[CACHES * STRIDE];
    unsigned char mem[4096] __attribute__((aligned(64)));
    uint32_t seed = 7;

    for (int round = 0; round < 400; round++) {
        const kvt_job job = {.ties = (kvt_ties)(round % 4), .key = (uint64_t)round};
        const uint32_t k = (uint32_t)round % (CACHES * N + 2), values = 1 + (uint32_t)round % 6;
        uint32_t count[CACHES + 1] = {9, 9, 9, 77}, want[CACHES] = {0};
        uint8_t mark[N + 1];
        kvt_ws ws = {mem, 0, kvt_top_bytes(CACHES, N)};

        cr_assert(ws.size <= sizeof mem);
        for (uint32_t i = 0; i < CACHES * STRIDE; i++) score[i] = i % STRIDE < N ? (float)((seed = seed * 1664525u + 1013904223u) >> 16 & 0xff) / 256 : NAN;
        for (uint32_t i = 0; i < CACHES * STRIDE; i++) score[i] = floorf(score[i] * (float)values);
        for (uint32_t a = 0; a < CACHES * N; a++) {
            uint32_t place = 0;
            for (uint32_t b = 0; b < CACHES * N; b++) {
                const float x = score[a / N * STRIDE + a % N], y = score[b / N * STRIDE + b % N];
                place += b != a && (y > x || (y == x && comes_first(&job, 2, 0, N, b, a)));
            }
            want[a / N] += place < k;
        }
        kvt_top_counts(&job, 2, score, CACHES, STRIDE, N, k, &ws, count);
        cr_assert(!memcmp(count, want, sizeof want) && count[CACHES] == 77 && ws.used == 0, "ties %d, k %u", job.ties, k);
        ws.size = kvt_top_bytes(1, N);
        mark[N] = 77;
        kvt_mark_top(&job, 2, 1, score + STRIDE, N, k, &ws, mark);
        cr_assert(mark[N] == 77 && ws.used == 0);
        for (uint32_t a = 0; a < N; a++) {
            uint32_t place = 0;
            for (uint32_t b = 0; b < N; b++)
                place += b != a && (score[STRIDE + b] > score[STRIDE + a] || (score[STRIDE + b] == score[STRIDE + a] && comes_first(&job, 2, 1, N, b, a)));
            cr_assert(mark[a] == (place < k), "ties %d, k %u, entry %u", job.ties, k, a);
        }
    }
}

/* Two query heads, window 2, prefix 3. Rows: (1,0,4) and (3,0,0), (0,8,0) and (0,0,0): means
 * (2,0,2) and (0,4,0). */
Test(prim, votes_pool_before_or_after_the_heads_are_merged)
{
    const float rows[2][2][5] = {{{1, 0, 4, 9, 0}, {3, 0, 0, 9, 9}}, {{0, 8, 0, 9, 0}, {0, 0, 0, 9, 9}}};
    const kvt_job job = {.n_q_heads = 2, .n_kv_heads = 1, .n_caches = 1, .n = 5};
    const kvt_prompt in = {.window = 2, .win = rows[0][0]};
    static const struct { kvt_votes how; float want[3]; } cases[] = {
        {{2, KVT_POOL_NONE, 1, KVT_MERGE_MEAN, 0}, {1, 2, 1}},
        {{2, KVT_POOL_NONE, 1, KVT_MERGE_MAX, 0}, {2, 4, 2}},
        {{2, KVT_POOL_MAX, 3, KVT_MERGE_MEAN, 0}, {3, 3, 3}},       /* heads (2,2,2) and (4,4,4) */
        {{2, KVT_POOL_MAX, 3, KVT_MERGE_MEAN, 1}, {2, 2, 2}},       /* of (1,2,1) */
        {{2, KVT_POOL_MEAN, 3, KVT_MERGE_MAX, 0}, {4 / 3.f, 4 / 3.f, 4 / 3.f}},     /* heads (2,4,2)/3 and (4,4,4)/3 */
        {{2, KVT_POOL_MEAN, 3, KVT_MERGE_MAX, 1}, {2, 8 / 3.f, 2}}, /* of (2,4,2) */
    };
    unsigned char mem[2048] __attribute__((aligned(64)));

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float out[4] = {0, 0, 0, 77};
        kvt_ws ws = {mem, 0, kvt_vote_bytes(&job)};
        cr_assert(ws.size <= sizeof mem);
        kvt_vote(&job, &in, &cases[i].how, 0, &ws, out);
        cr_assert(out[3] == 77 && ws.used == 0);
        for (int j = 0; j < 3; j++)
            cr_assert(fabsf(out[j] - cases[i].want[j]) < 1e-6f, "case %zu: out[%d] = %g, expected %g", i, j, (double)out[j], (double)cases[i].want[j]);
    }
}

Test(prim, the_norm_of_a_cache_is_the_mean_of_its_heads)
{
    const float nu[] = {1, 2, 3, 4, 10, 20, 30, 40};
    const kvt_job job = {.n_q_heads = 4, .n_kv_heads = 2, .n_caches = 2, .n = 2}, query = {.n_q_heads = 4, .n_kv_heads = 2, .n_caches = 4, .n = 2};
    const kvt_prompt in = {.nu = nu};
    float out[3] = {0, 0, 77};

    kvt_group_nu(&job, &in, 1, out);
    cr_assert(out[0] == 20 && out[1] == 30 && out[2] == 77);
    kvt_group_nu(&query, &in, 3, out);
    cr_assert(out[0] == 30 && out[1] == 40);
}
