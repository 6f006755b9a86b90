/* test_online_forms.c - forms of H2O, TOVA and StreamingLLM against their references.
 * Goal: kept sets equal those of a literal transcription that shares no code with
 * policies/: the masks of H2O's masked form after every step, column sums for its one-shot
 * form, the last row for TOVA's press, sinks and latest for StreamingLLM. Method: random
 * operands; rows as softmax in double; selections by repeated search for the smallest. */
#include "policy_world.h"

enum { MAX_T = 112 };
static const shape shapes[] = {{2, 4, 2, 4, 61, 24, 61, 0}, {2, 6, 2, 6, 72, 20, 72, 0}};

/* Softmax of query p of head h over the first n tokens, hidden ones left out. */
static void attend(const world *w, uint32_t l, uint32_t h, uint32_t p, const uint8_t *hidden, uint32_t n, double *a)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double z = 0;
        for (uint32_t c = 0; c < w->s.d; c++) z += (double)world_q(w, l, h, p)[c] * (double)world_k(w, l, h / (w->s.Hq / w->s.Hkv), i)[c];
        a[i] = hidden && hidden[i] ? -INFINITY : z / sqrt(w->s.d);
        max = fmax(max, a[i]);
    }
    for (uint32_t i = 0; i < n; i++) sum += a[i] = exp(a[i] - max);
    for (uint32_t i = 0; i < n; i++) a[i] /= sum;
}

/* Mark the first smallest of x among from..to-1 that is not marked. */
static int smallest(const float *x, int from, int to, uint8_t *mark)
{
    int best = -1;
    for (int i = from; i < to; i++)
        if (!mark[i] && (best < 0 || x[i] < x[best])) best = i;
    cr_assert(best >= 0);
    mark[best] = 1;
    return best;
}

static tape sets_of(const world *w, const char *spec, const char *budget)
{
    kvt_config *c = config_of(spec);
    batch b = {.config = {c}, .n_config = 1, .n_budget = 1};
    tape got;

    budget_of(&b.budget[0], budget, KVT_RULE_SHARE);
    got = world_sets(w, &b, 1);
    kvt_config_free(c);
    return got;
}

static void expect_list(const tape *got, const char *spec, uint32_t l, uint32_t cache, uint32_t step, const uint8_t *kept, uint32_t n)
{
    const uint32_t *s = tape_find(got, 0, 0, 0, l, cache, step);
    uint32_t m = 0;

    cr_assert(s, "%s: layer %u cache %u: no set after step %d", spec, l, cache, (int)step);
    for (uint32_t j = 0; j < n; j++) m += kept[j];
    cr_assert(s[SET_N] == m, "%s: layer %u cache %u step %d: %u entries, expected %u", spec, l, cache, (int)step, s[SET_N], m);
    for (uint32_t j = 0; j < m; j++)
        cr_assert(kept[s[SET_POS + j]], "%s: layer %u cache %u step %d: %u is too much", spec, l, cache, (int)step, s[SET_POS + j]);
}

/* The mask of the reference: one entry per token and one more. mask[j] = 0: token j is not
 * attended by the next query; score[j] = 0: it never returns. */
static void mask_sim(const world *w, const tape *got, const char *spec, uint32_t l, uint32_t h, uint32_t C, double share, int off_by_one)
{
    const uint32_t heavy = (uint32_t)(C * (1 - share)), recent = C - heavy;
    float score[MAX_T + 1] = {0};
    uint8_t hidden[MAX_T + 1] = {0}, alive[MAX_T + 1];

    memset(alive, 1, sizeof alive);
    for (uint32_t len = w->s.N; len <= w->T; len++) {
        double a[MAX_T], column[MAX_T] = {0};
        for (uint32_t p = len == w->s.N ? 0 : len - 1; p < len; p++) {      /* the prompt's rows come together */
            attend(w, l, h, p, hidden, p + 1, a);
            for (uint32_t j = 0; j <= p; j++) column[j] += a[j];
        }
        for (uint32_t j = 0; j < len; j++) score[j] += (float)column[j];
        if (len > C) {
            uint8_t mask[MAX_T + 1] = {0}, mark[MAX_T + 1] = {0};
            float low[MAX_T];
            for (uint32_t j = off_by_one ? len + 1 - recent : len - recent; j <= len; j++) mask[j] = 1;
            for (uint32_t j = 0; j < len - recent; j++) low[j] = -score[j];
            for (uint32_t k = 0; k < heavy; k++) mask[smallest(low, 0, (int)(len - recent), mark)] = 1;
            for (uint32_t j = 0; j < len; j++) {
                hidden[j] = !mask[j];
                alive[j] = mask[j] || j >= len - recent;
                if (!alive[j]) score[j] = 0;
            }
        }
        expect_list(got, spec, l, h, len - w->s.N, alive, len);
    }
}

Test(h2o, masks_are_those_of_the_reference)
{
    static const struct { const char *spec; double recent; int off_by_one; } forms[] = {
        {"h2o:impl=mask_sim", 0.5, 1}, {"h2o:impl=mask_sim,recent=0.25", 0.25, 1}, {"h2o:impl=mask_sim,recent=1", 1, 1},
        {"h2o:impl=mask_sim,mask_offbyone=off", 0.5, 0}, {"h2o:impl=mask_sim,semantics=paper,recent=0.25", 0.25, 0}, {"h2o:recent=0.25", 0.25, 0},
    };
    static const uint32_t counts[] = {5, 13, 31, 80};
    world *w = world_make(&shapes[0], 12);
    uint32_t n_moved = 0;

    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
            char budget[16];
            snprintf(budget, sizeof budget, "%ut", counts[k]);
            tape got = sets_of(w, forms[i].spec, budget), off = sets_of(w, "h2o", budget);
            for (uint32_t l = 0; l < w->s.L; l++)
                for (uint32_t h = 0; h < w->s.Hq; h++) {
                    mask_sim(w, &got, forms[i].spec, l, h, counts[k], forms[i].recent, forms[i].off_by_one);
                    n_moved += i == 0 && !set_equal(tape_find(&got, 0, 0, 0, l, h, w->s.G), tape_find(&off, 0, 0, 0, l, h, w->s.G));
                }
            tape_free(&got), tape_free(&off);
        }
    cr_assert(n_moved > 0, "the hidden step changes some set");
    world_free(w);
}

/* A hidden token's mass is lost for that step. */
Test(h2o, a_hidden_token_is_not_attended)
{
    world *w = world_make(&shapes[0], 13);
    kvt_config *on = config_of("h2o:impl=mask_sim,recent=1"), *off = config_of("h2o:impl=mask_sim,recent=1,mask_offbyone=off");
    batch b = {.config = {on, off}, .n_config = 2, .n_budget = 1};
    notes n;

    budget_of(&b.budget[0], "12t", KVT_RULE_SHARE);
    n = world_notes(w, &b);
    /* With only recent tokens both keep the same sets. */
    cr_assert(n.n == 2 && n.cell[0].config != n.cell[1].config);
    cr_assert(n.cell[n.cell[0].config == 0 ? 0 : 1].lost_mean > n.cell[n.cell[0].config == 0 ? 1 : 0].lost_mean + 1e-4);
    kvt_config_free(on), kvt_config_free(off);
    world_free(w);
}

Test(h2o, one_shot_keeps_the_largest_column_sums_and_the_window)
{
    world *w = world_make(&shapes[1], 14);
    const uint32_t n = w->s.N;

    for (int query = 0; query < 2; query++)
        for (uint32_t C = 9; C <= 50; C += 13) {
            const uint32_t caches = query ? w->s.Hq : w->s.Hkv, gs = w->s.Hq / caches;
            char budget[16];
            const char *const spec = query ? "h2o:impl=one_shot,window=8" : "h2o:impl=one_shot,window=8,caches=kv";
            snprintf(budget, sizeof budget, "%ut", C);
            tape got = sets_of(w, spec, budget);
            for (uint32_t l = 0; l < w->s.L; l++)
                for (uint32_t c = 0; c < caches; c++) {
                    uint8_t kept[MAX_T] = {0};
                    float low[MAX_T];
                    for (uint32_t j = 0; j < n; j++) {
                        double sum = 0;
                        for (uint32_t h = c * gs; h < (c + 1) * gs; h++) sum += w->data[(size_t)l * KVT_T_END + KVT_T_STAT_SUM][h * n + j];
                        low[j] = -(float)(sum / gs);
                        kept[j] = j >= n - 8;
                    }
                    for (uint32_t k = 8; k < C; k++) smallest(low, 0, (int)n - 8, kept);
                    expect_list(&got, spec, l, c, UINT32_MAX, kept, n);
                }
            tape_free(&got);
        }
    world_free(w);
}

Test(tova, press_ties_the_last_token_with_the_best)
{
    world *w = world_make(&shapes[1], 15);
    const uint32_t n = w->s.N;

    for (uint32_t C = 1; C <= 40; C += 13) {
        char budget[16];
        snprintf(budget, sizeof budget, "%ut", C);
        tape got = sets_of(w, "tova:impl=press", budget);
        for (uint32_t l = 0; l < w->s.L; l++) {
            uint8_t kept[MAX_T] = {0};
            float low[MAX_T];
            double mean[MAX_T] = {0}, a[MAX_T];
            for (uint32_t h = 0; h < w->s.Hq; h++) {
                attend(w, l, h, n - 1, NULL, n, a);
                for (uint32_t j = 0; j < n; j++) mean[j] += a[j];
            }
            for (uint32_t j = 0; j + 1 < n; j++) low[j] = -(float)(mean[j] / w->s.Hq);
            low[n - 1] = 0;
            for (uint32_t j = 0; j + 1 < n; j++) low[n - 1] = fminf(low[n - 1], low[j]);
            for (uint32_t k = 0; k < C; k++) smallest(low, 0, (int)n, kept);
            cr_assert(kept[n - 1] == (C > 1));          /* the best comes first */
            for (uint32_t g = 0; g < w->s.Hkv; g++) expect_list(&got, "tova:impl=press", l, g, UINT32_MAX, kept, n);
        }
        tape_free(&got);
    }
    world_free(w);
}

Test(streaming, online_drops_the_oldest_behind_the_sinks)
{
    static const struct { const char *spec; uint32_t sinks; } forms[] = {{"streaming:impl=online", 4}, {"streaming:impl=online,sinks=0", 0}, {"streaming:impl=online,sinks=20", 20}};
    static const uint32_t counts[] = {3, 10, 61, 70, 90};
    world *w = world_make(&shapes[0], 16);

    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
            const uint32_t C = counts[k], sinks = forms[i].sinks < C ? forms[i].sinks : C;
            char budget[16];
            snprintf(budget, sizeof budget, "%ut", C);
            tape got = sets_of(w, forms[i].spec, budget);
            for (uint32_t len = w->s.N; len <= w->T; len++) {
                uint8_t kept[MAX_T];
                for (uint32_t j = 0; j < len; j++) kept[j] = j < sinks || j + (C - sinks) >= len;
                for (uint32_t g = 0; g < w->s.Hkv; g++) expect_list(&got, forms[i].spec, 1, g, len - w->s.N, kept, len);
            }
            tape_free(&got);
        }
    world_free(w);
}
