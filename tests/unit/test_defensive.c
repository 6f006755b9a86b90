/* test_defensive.c - DefensiveKV and Layer-DefensiveKV against their steps, as in the
 * reference code and as in the paper; method: stat_world.h. */
#include "stat_world.h"

/* ---- defensivekv, layer_defensivekv -------------------------------------------------- */

static double mass(const double *x, uint32_t from, uint32_t to)
{
    double sum = 0;
    for (uint32_t j = from; j < to; j++) sum += x[j];
    return sum;
}

/* Steps 3 to 6 for one cache: worst[] with the floor, mean[] attention. Returns the sum
 * over heads and rows of the mass that rho is about. */
static double worst_case(const world *w, uint32_t l, uint32_t g, const double *param, double *worst, double *mean)
{
    const uint32_t W = (uint32_t)param[1], half = (uint32_t)param[2] / 2, p = w->n - W;
    double rho = 0, floor_value;

    for (uint32_t j = 0; j < p; j++) worst[j] = mean[j] = 0;
    for (uint32_t h = g * w->gs; h < (g + 1) * w->gs; h++)
        for (uint32_t r = p; r < w->n; r++) {
            double a[MAX_N], pooled[MAX_N];
            for (uint32_t j = 0; j < w->n; j++) a[j] = (double)ROW(w, l, h, r)[j];
            for (uint32_t j = 0; j < p; j++) {
                pooled[j] = 0;
                for (uint32_t i = 0; i < p; i++)
                    if (i + half >= j && i <= j + half) pooled[j] += a[i] / param[2];
                mean[j] += a[j] / W / w->gs;
            }
            rho += param[3] > 0 ? mass(a, p, w->n) : mass(a, p > W ? p - W : 0, p);
            for (uint32_t j = 0; j < p; j++)
                worst[j] = fmax(worst[j], param[0] > 0 ? pooled[j] : pooled[j] * mass(a, 0, p) / mass(pooled, 0, p));
        }
    floor_value = mass(worst, 0, p) / p;
    for (uint32_t j = 0; j < p; j++) worst[j] = fmax(worst[j], floor_value);
    return rho;
}

static double nu_of(const world *w, uint32_t l, uint32_t g, uint32_t j)
{
    double sum = 0;
    for (uint32_t h = g * w->gs; h < (g + 1) * w->gs; h++) sum += (double)w->nu[l][h * w->n + j] / w->gs;
    return sum;
}

static void ref_defensive_layer(const world *w, const trial *t, uint32_t l, scores out)
{
    const uint32_t W = (uint32_t)t->param[1], p = w->n - W;
    const int paper = t->param[0] > 0, over_tokens = !strcmp(t->id, "layer_defensivekv");
    static double mean[MAX_H][MAX_N];
    double rho = 0, top = 0, limit = p * (1 - (1 - t->share)) - W;

    limit = t->rule == KVT_RULE_REFERENCE ? trunc(limit) : rint(p * t->share - W);
    for (uint32_t g = 0; g < w->Hkv; g++) {
        double tokens = 0;
        rho += worst_case(w, l, g, t->param, out[l][g], mean[g]) / w->Hq / W;
        for (uint32_t j = 0; j < p; j++) tokens += nu_of(w, l, g, j);
        for (uint32_t j = 0; j < p; j++) {
            double heads = 0;
            for (uint32_t i = 0; i < w->Hkv; i++) heads += nu_of(w, l, i, j);
            out[l][g][j] *= nu_of(w, l, g, j) / (!paper ? heads : over_tokens ? tokens : 1);
            top = fmax(top, out[l][g][j]);
        }
    }
    for (uint32_t g = 0; g < w->Hkv; g++) {
        const double all = mass(mean[g], 0, p), target = 0.9 - rho;
        uint32_t order[MAX_N], count = 0;
        double reached = 0;
        for (uint32_t j = 0; j < p; j++) {
            uint32_t rank = 0;
            for (uint32_t i = 0; i < p; i++) rank += mean[g][i] > mean[g][j] || (mean[g][i] == mean[g][j] && i < j);
            order[rank] = j;
        }
        for (uint32_t i = 0; i < p && !count && reached < target; i++)
            if ((reached += mean[g][order[i]] / all) >= target) count = i;
        if (count > limit) count = limit > 0 ? (uint32_t)limit : 0;
        for (uint32_t i = 0; !paper && i < count; i++) out[l][g][order[i]] = top;
        for (uint32_t j = p; j < w->n; j++) out[l][g][j] = paper ? 1e30 : top;
    }
}

static void ref_defensive(const world *w, const trial *t, scores out)
{
    for (uint32_t l = 0; l < L; l++) ref_defensive_layer(w, t, l, out);
}

Test(defensive, keeps_what_was_important_in_the_worst_case)
{
    for (int variant = 0; variant < 6; variant++)
        for (uint32_t n = 11; n <= 90; n += 26) {
            /* code with either rho, and paper */
            const double param[MAX_PARAM] = { variant % 3 == 2, n < 30 ? 3 : 8, n < 30 ? 3 : 5, variant % 3 == 1 };
            world *w = make(n * 7 + (uint32_t)variant, 6, n % 2 ? 3 : 2, 8, 4, n);
            for (uint32_t l = 1; l < L; l++)            /* peaked rows: the target ends stage 1, not the budget */
                for (uint32_t i = 0; i < w->Hq * n * w->d; i++) w->q[l][i] *= 2 * (float)l;
            attend(w);
            sweep(w, variant < 3 ? "defensivekv" : "layer_defensivekv", param, NULL, ref_defensive, 1e-6, 0);
            free(w);
        }
    near_ties_are_rare();
}

Test(defensive, a_weak_layer_can_lose_everything_but_not_its_window_in_the_paper)
{
    static scores out;
    static uint8_t kept[L][MAX_H][MAX_N];
    world *w = make(12, 2, 2, 4, 4, 60);
    trial t = { .id = "layer_defensivekv", .param = { 0, 4, 5, 0 }, .rule = KVT_RULE_SHARE, .share = 0.1 };

    for (uint32_t i = 0; i < 2 * w->n * w->d; i++) w->q[1][i] *= 0.001f;   /* layer 1: flat rows, so small maxima */
    for (uint32_t i = 0; i < 2 * w->n * w->d; i++) w->q[0][i] *= 4, w->q[2][i] *= 4;
    attend(w);
    for (int paper = 0; paper < 2; paper++) {
        uint32_t held[L] = { 0 }, window = 0;
        t.param[0] = paper;
        run(w, &t, out);
        best(out, w->n, 0, L, 0, 2, 36, kept);
        for (uint32_t l = 0; l < L; l++)
            for (uint32_t c = 0; c < 2; c++)
                for (uint32_t j = 0; j < w->n; j++) held[l] += kept[l][c][j], window += kept[l][c][j] && j >= 56;
        cr_assert_eq(held[0] + held[1] + held[2], 36u);
        if (paper) cr_assert_eq(window, 24u);
        else cr_assert_eq(held[1], 0u);
    }
    free(w);
}

Test(defensive, says_when_the_budget_is_below_the_window_or_the_protection_is_clamped)
{
    world *w = make(13, 2, 2, 4, 4, 60);
    trial t = { .id = "layer_defensivekv", .param = { 0, 8, 5, 0 }, .rule = KVT_RULE_REFERENCE, .share = 0.1 };

    cr_assert_eq(setup_of(w, &t).flags, KVT_FLAG_BELOW_WINDOW | KVT_FLAG_CLAMPED);
    t.share = 0.14;                                     /* 8 of 60 tokens; trunc(52 * 0.14 - 8) = 0 */
    cr_assert_eq(setup_of(w, &t).flags, 0u);
    t.share = 1;
    cr_assert_eq(setup_of(w, &t).flags, 0u);
    t.share = 0.1;
    t.param[0] = 1;
    cr_assert_eq(setup_of(w, &t).flags, KVT_FLAG_BELOW_WINDOW);
    free(w);
}
