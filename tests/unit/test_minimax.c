/* Goal: the bound is below what every fixed set loses somewhere, and the set that is found
 * loses what is said. Method: a worked example whose iterations are known, enumeration of
 * all sets of small cases, and exact integers for the certificate. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_philox.h"
#include "measure.h"
#include "minimax.h"

#define MOST 24u                    /* entries and rows of a case                      */
#define UNIT 1.6                    /* rows are 20ths written as 32nds: exact floats; times this they sum to 1 */

static const int worked[4][8] = { { 8, 1, 1, 5, 1, 2, 1, 1 }, { 7, 1, 1, 5, 2, 2, 1, 1 }, { 6, 1, 5, 2, 2, 2, 1, 1 }, { 2, 1, 10, 1, 2, 2, 1, 1 } };

typedef struct game {
    float    tile[2 * MOST * KVT_TILE];
    uint32_t n, n_rows;
    double   lambda[MOST][MOST];
    uint8_t  set[MOST][MOST];
    kvt_minimax_point point[MOST];
} game;

static float *cell_of(game *g, uint32_t t, uint32_t j) { return &g->tile[(size_t)(t / KVT_TILE) * g->n * KVT_TILE + j * KVT_TILE + t % KVT_TILE]; }

static kvt_minimax_rows rows_of(const game *g)
{
    return (kvt_minimax_rows){ g->tile, (size_t)g->n * KVT_TILE, g->n, g->n_rows, NULL, kvt_kernels_find(NULL) };
}

/* Rows of the worked example, columns first..end-1. */
static void worked_game(game *g, uint32_t first, uint32_t end)
{
    memset(g, 0, sizeof *g);
    g->n = end - first, g->n_rows = 4;
    for (uint32_t t = 0; t < 4; t++)
        for (uint32_t j = first; j < end; j++)
            *cell_of(g, t, j - first) = (float)worked[t][j] / 32.0f;
}

static double loss_of(game *g, uint32_t t, uint32_t held)
{
    double lost = 0;

    for (uint32_t j = 0; j < g->n; j++)
        lost += held >> j & 1u ? 0 : kvt_mass(*cell_of(g, t, j));
    return lost;
}

/* Smallest worst loss over all sets of `count` entries; *oracle: largest over rows of the smallest loss. */
static double enumerate(game *g, uint32_t count, double *oracle, uint32_t *oracle_at)
{
    double best = INFINITY, least[MOST];

    for (uint32_t t = 0; t < g->n_rows; t++)
        least[t] = INFINITY;
    for (uint32_t held = 0; held < 1u << g->n; held++) {
        double worst = 0;
        if ((uint32_t)__builtin_popcount(held) != count)
            continue;
        for (uint32_t t = 0; t < g->n_rows; t++) {
            const double lost = loss_of(g, t, held);
            worst = lost > worst ? lost : worst;
            least[t] = lost < least[t] ? lost : least[t];
        }
        best = worst < best ? worst : best;
    }
    *oracle_at = 0;
    for (uint32_t t = 0; t < g->n_rows; t++)
        if (least[t] > least[*oracle_at])
            *oracle_at = t;
    *oracle = least[*oracle_at];
    return best;
}

static double point_at(game *g, uint32_t k, uint32_t count, int shared)
{
    kvt_minimax_point *p = &g->point[k];
    double value;

    *p = (kvt_minimax_point){ .count = count, .shared = shared, .lambda = g->lambda[k], .set = g->set[k] };
    value = enumerate(g, count, &p->oracle_max, &p->oracle_at);
    return value;
}

static void play(game *g, uint32_t n_points, uint32_t max_iter, const kvt_minimax_trace *trace)
{
    const kvt_minimax_rows rows = rows_of(g);
    kvt_err err;

    cr_assert(kvt_minimax(&rows, g->point, n_points, max_iter, KVT_MINIMAX_MOST, trace, &err) == KVT_OK, "%s", err.text);
}

static void near(double got, double want, double tol, const char *what, uint32_t r)
{
    cr_assert(fabs(got - want) <= tol, "%s at %u: %.12g, expected %.12g", what, r, got, want);
}

/* ---------------------------------------------------------- the worked example */

typedef struct known { double eta, lambda[4], lost[4], bound, delta, lo; } known;

static const known iteration[8] = {
    { 0, { .25, .25, .25, .25 }, { .55, .60, .45, .40 }, .5, .1, .5 },
    { 13.862943611198894, { .296296296296296, .5925925925925929, .07407407407407413, .037037037037037104 }, { .35, .40, .60, .85 },
      .41666666666666674, .3025665258450996, .5 },
    { 4.581783649886011, { .10481650277089635, .16573491156934103, .20840405681257157, .521044528847191 }, { .55, .60, .45, .40 },
      .4592896605701312, .3176272947288498, .5 },
    { 4.364531588204137, { .1523866878682714, .29327215299702564, .18954905735871774, .3647921017759852 }, { .55, .60, .45, .40 },
      .4909898866475817, .3337352203228451, .5 },
    { 4.153874918552851, { .1873224407974046, .42992311829367824, .15219120659010651, .23056323431881062 }, { .55, .60, .45, .40 },
      .5216925501078518, .3472991882692161, .5216925501078518 },
    { 3.991642963603117, { .20271684914798918, .5498914606483756, .11139291535700725, .135998774846628 }, { .35, .40, .60, .85 },
      .4733421892949846, .41884571079870353, .5216925501078518 },
    { 3.3097972006836214, { .11299935783893494, .3050029034468585, .15733257168542708, .4246651670287795 }, { .55, .60, .45, .40 },
      .4858171129494834, .43192076149267855, .5216925501078518 },
    { 3.209603438207009, { .13687260911491872, .4209069703134807, .1368726091149191, .30534781145668144 }, { .55, .60, .45, .40 },
      .51155591588568, .44405244679716627, .5216925501078518 },
};

static void check_iteration(void *user, uint32_t r, double eta, const double *lambda, const double *lost, double bound, double delta,
                            const kvt_minimax_point *own)
{
    static const struct { uint32_t r; double lo; } progress[6] = {
        { 8, .5216925501078518 }, { 16, .5251439098956784 }, { 32, .5316005399887359 }, { 64, .5347484300881037 },
        { 128, .5367698608036575 }, { 256, .538301080733729 } };
    uint32_t *seen = user;

    for (uint32_t i = 0; i < 6; i++)
        if (progress[i].r == r)
            near(own->lo * UNIT, progress[i].lo, 1e-6, "lo", r);
    near(own->up * UNIT, .60, 1e-9, "up", r);
    ++*seen;
    if (r > 8)
        return;
    near(eta / UNIT, iteration[r - 1].eta, 1e-9, "eta", r);
    near(bound * UNIT, iteration[r - 1].bound, 1e-9, "D", r);
    near(delta * UNIT, iteration[r - 1].delta, 1e-9, "Delta", r);
    near(own->lo * UNIT, iteration[r - 1].lo, 1e-9, "lo", r);
    for (uint32_t t = 0; t < 4; t++) {
        near(lambda[t], iteration[r - 1].lambda[t], 1e-9, "lambda", r);
        near(lost[t] * UNIT, iteration[r - 1].lost[t], 1e-9, "lost", r);
    }
}

Test(minimax, the_worked_example_goes_iteration_by_iteration)
{
    static const uint8_t set[8] = { 1, 0, 1, 0, 0, 0, 0, 0 };
    uint32_t seen = 0;
    const kvt_minimax_trace trace = { check_iteration, &seen };
    game g;

    worked_game(&g, 0, 8);
    near(point_at(&g, 0, 2, 1) * UNIT, .60, 1e-9, "V", 0);
    near(g.point[0].oracle_max * UNIT, .45, 1e-9, "oracle", 0);
    play(&g, 1, 256, &trace);
    cr_assert(seen == 256 && g.point[0].n_iter == 256 && g.point[0].stop == KVT_MINIMAX_LIMIT, "%u iterations, stop %d", seen, g.point[0].stop);
    cr_assert(memcmp(g.point[0].set, set, 8) == 0);
    near(g.point[0].lo * UNIT, .538301080733729, 1e-6, "lo", 256);
    near(g.point[0].up * UNIT, .60, 1e-9, "up", 256);
}

Test(minimax, what_always_stays_and_what_is_protected_leave_the_rows)
{
    game g;

    worked_game(&g, 0, 6);                       /* entries 6 and 7 are never at risk */
    near(point_at(&g, 0, 2, 1) * UNIT, .50, 1e-9, "V", 0);
    near(g.point[0].oracle_max * UNIT, .35, 1e-9, "oracle", 0);
    play(&g, 1, 256, NULL);
    near(g.point[0].lo * UNIT, .43830108073374496, 1e-6, "lo", 0);
    near(g.point[0].up * UNIT, .50, 1e-9, "up", 0);
    cr_assert(g.point[0].set[0] && g.point[0].set[2]);
    worked_game(&g, 1, 8);                       /* entry 0 is protected: one is free */
    near(point_at(&g, 0, 1, 1) * UNIT, .60, 1e-9, "V", 1);
    play(&g, 1, 256, NULL);
    near(g.point[0].lo * UNIT, .538301080733729, 1e-6, "lo", 1);
    near(g.point[0].up * UNIT, .60, 1e-9, "up", 1);
    cr_assert(g.point[0].set[1] && !g.point[0].set[0]);
}

/* ------------------------------------------------------------- the certificate */

static uint32_t certificate(const uint32_t weight[4])
{
    static const uint32_t row[4][8] = {
        { 858993459, 107374182, 107374182, 536870912, 107374182, 214748365, 107374182, 107374182 },
        { 751619277, 107374182, 107374182, 536870912, 214748365, 214748365, 107374182, 107374182 },
        { 644245094, 107374182, 536870912, 214748365, 214748365, 214748365, 107374182, 107374182 },
        { 214748365, 107374182, 1073741824, 107374182, 214748365, 214748365, 107374182, 107374182 } };
    uint32_t q[8 * KVT_TILE] = { 0 }, w[KVT_TILE] = { 0 };
    uint64_t column[8] = { 0 }, total = 0;

    for (uint32_t t = 0; t < 4; t++) {
        w[t] = weight[t];
        for (uint32_t j = 0; j < 8; j++)
            q[j * KVT_TILE + t] = row[t][j];
    }
    kvt_minimax_weigh(q, 8, w, column, &total);
    return kvt_minimax_bound_q31(column, 8, 2, total);
}

Test(minimax, the_certificate_is_exact)
{
    const uint32_t best[4] = { 0, 1486719449, 0, 660764199 }, last[4] = { 1830429, 1482794815, 3315640, 659542764 };
    const double cvar[4] = { .19, .5, 0, .31 };
    uint32_t w[4];
    kvt_err err;

    cr_assert(certificate(best) == 1156337347, "%u", certificate(best));
    cr_assert(certificate(last) == 1155992767, "%u", certificate(last));
    cr_assert(kvt_minimax_quantise(cvar, 4, w, &err) == KVT_OK);
    near(kvt_from_q31(certificate(w)), .5285, 1e-8, "CVaR weights", 0);
}

Test(minimax, weights_sum_to_one_and_the_largest_remainders_get_what_is_missing)
{
    const double third[3] = { 1.0 / 3, 1.0 / 3, 1.0 / 3 }, one[3] = { 0, 1, 0 }, more[3] = { .5, .5, 1e-9 };
    uint32_t q[3];
    kvt_err err;

    cr_assert(kvt_minimax_quantise(third, 3, q, &err) == KVT_OK);
    cr_assert(q[0] == 715827883 && q[1] == 715827883 && q[2] == 715827882);
    cr_assert(kvt_minimax_quantise(one, 3, q, &err) == KVT_OK);
    cr_assert(q[0] == 0 && q[1] == 0x80000000u && q[2] == 0);
    cr_assert(kvt_minimax_quantise(more, 3, q, &err) == KVT_OK);     /* a sum above 1 */
    cr_assert((uint64_t)q[0] + q[1] + q[2] == 0x80000000u);
}

/* --------------------------------------------------------------- enumeration */

static uint32_t draw(uint32_t a, uint32_t b, uint32_t c)
{
    const uint32_t counter[4] = { a, b, c, 0 }, key[2] = { 20, 6 };
    uint32_t out[4];

    kvt_philox4x32(counter, key, out);
    return out[0];
}

/* Heavy-tailed rows that sum to about 1; in every second case some entries are not there at some steps. */
static void random_game(game *g, uint32_t i)
{
    memset(g, 0, sizeof *g);
    g->n = 4 + draw(i, 0, 1) % 7;
    g->n_rows = i % 10 == 9 ? 17 + i % 7 : 2 + draw(i, 0, 2) % 6;
    for (uint32_t t = 0; t < g->n_rows; t++) {
        double x[MOST], sum = 0;
        for (uint32_t j = 0; j < g->n; j++) {
            x[j] = pow((draw(i, t + 1, j + 3) + .5) / 4294967296.0, 4);
            if (i % 2 && draw(i, t + 1, j + 103) % 4 == 0 && j > 0)
                x[j] = 0;
            sum += x[j];
        }
        for (uint32_t j = 0; j < g->n; j++)
            *cell_of(g, t, j) = (float)(x[j] / sum);
    }
}

static void check_point(game *g, uint32_t k, double value, uint32_t i)
{
    const kvt_minimax_point *p = &g->point[k];
    const kvt_minimax_rows rows = rows_of(g);
    uint32_t weight[MOST], bound, n = 0, held = 0;
    double worst = 0;
    kvt_err err;

    for (uint32_t j = 0; j < g->n; j++) {
        n += p->set[j];
        held |= (uint32_t)p->set[j] << j;
    }
    for (uint32_t t = 0; t < g->n_rows; t++)
        worst = loss_of(g, t, held) > worst ? loss_of(g, t, held) : worst;
    cr_assert(n == p->count, "case %u: a set of %u, not %u", i, n, p->count);
    cr_assert(fabs(worst - p->up) < 1e-12, "case %u: the set loses %.12g, not %.12g", i, worst, p->up);
    cr_assert(p->oracle_max <= p->lo && p->lo <= value + 1e-12 && value <= p->up + 1e-12, "case %u, %u entries: %.9g, %.9g, %.9g, %.9g", i, p->count,
              p->oracle_max, p->lo, value, p->up);
    cr_assert(kvt_minimax_certify(&rows, p, weight, &bound, &err) == KVT_OK);
    cr_assert(kvt_from_q31(bound) <= value + g->n * 0x1p-31, "case %u: %.9g is no bound of %.9g", i, kvt_from_q31(bound), value);
    cr_assert(fabs(kvt_from_q31(bound) - p->lo) < 1e-7, "case %u: the certificate says %.9g, the search %.9g", i, kvt_from_q31(bound), p->lo);
}

typedef struct regret { double lost[MOST], bound; uint32_t n_rows, checked; } regret;

/* The mean of the answers is no worse than the mean of the bounds plus 2 Delta / r. */
static void check_regret(void *user, uint32_t r, double eta, const double *lambda, const double *lost, double bound, double delta,
                         const kvt_minimax_point *own)
{
    regret *x = user;
    double worst = 0;

    (void)eta, (void)lambda, (void)own;
    x->bound += bound;
    for (uint32_t t = 0; t < x->n_rows; t++) {
        x->lost[t] += lost[t];
        worst = x->lost[t] > worst ? x->lost[t] : worst;
    }
    cr_assert(worst <= x->bound + 2 * delta + 1e-9, "iteration %u: %.9g above %.9g + 2 %.9g", r, worst, x->bound, delta);
    x->checked++;
}

Test(minimax, every_case_agrees_with_enumeration)
{
    enum { CASES = 400 };
    uint32_t found = 0, checked = 0;

    for (uint32_t i = 0; i < CASES; i++) {
        game g;
        regret x = { .n_rows = 0 };
        const kvt_minimax_trace trace = { check_regret, &x };
        double value;
        random_game(&g, i);
        x.n_rows = g.n_rows;
        value = point_at(&g, 0, 1 + draw(i, 0, 3) % (g.n - 1), 1);
        play(&g, 1, 256, &trace);
        check_point(&g, 0, value, i);
        found += g.point[0].up <= value + 1e-12;
        checked += x.checked;
    }
    cr_assert(found >= CASES * 95 / 100, "the best set was found in %u cases", found);
    cr_assert(checked > CASES);
}

Test(minimax, one_search_serves_all_counts)
{
    for (uint32_t i = 0; i < 150; i++) {
        static game g;
        double value[MOST];
        random_game(&g, i + 1000);
        for (uint32_t k = 0; k <= g.n; k++)      /* 0 entries, all entries, and all between */
            value[k] = point_at(&g, k, k, k % 3 == 1);
        play(&g, g.n + 1, KVT_MINIMAX_ITER, NULL);
        for (uint32_t k = 0; k <= g.n; k++)
            check_point(&g, k, value[k], i);
        cr_assert(g.point[g.n].stop == KVT_MINIMAX_TRIVIAL && g.point[g.n].n_iter == 0 && g.point[g.n].up == 0);
    }
}

Test(minimax, a_count_does_not_see_which_others_are_asked_for)
{
    for (uint32_t i = 0; i < 60; i++) {
        static game g, h;
        uint32_t last;
        random_game(&g, i + 2000);
        h = g;
        last = g.n - 1;
        point_at(&g, 0, 1, 1), point_at(&g, 1, 2, 0), point_at(&g, 2, last, 0);
        point_at(&h, 0, 1, 1), point_at(&h, 1, last, 0);
        play(&g, 3, KVT_MINIMAX_ITER, NULL);
        play(&h, 2, KVT_MINIMAX_ITER, NULL);
        cr_assert(g.point[2].lo == h.point[1].lo && g.point[2].up == h.point[1].up && g.point[2].n_iter == h.point[1].n_iter, "case %u", i);
        cr_assert(memcmp(g.set[2], h.set[1], g.n) == 0 && memcmp(g.lambda[2], h.lambda[1], sizeof *g.lambda) == 0, "case %u", i);
    }
}

Test(minimax, nothing_to_choose_is_trivial)
{
    game g;

    random_game(&g, 7);
    g.n_rows = 1;                                /* one row: its own best set */
    point_at(&g, 0, 2, 1);
    play(&g, 1, 256, NULL);
    cr_assert(g.point[0].stop == KVT_MINIMAX_TRIVIAL && fabs(g.point[0].up - g.point[0].oracle_max) < 1e-12);
    random_game(&g, 8);
    point_at(&g, 0, g.n, 1);
    g.n_rows = 0;                                /* no row counts: every step is trivial */
    g.point[0].count = 1;
    play(&g, 1, 256, NULL);
    cr_assert(g.point[0].stop == KVT_MINIMAX_TRIVIAL && g.point[0].lo == 0 && g.point[0].up == 0);
}
