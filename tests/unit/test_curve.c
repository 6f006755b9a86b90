/* test_curve.c - curves: all budgets from one pass. Goal: every point of a curve has the
 * numbers of a cell that is replayed at that budget alone, and the count of budgets whose
 * sets are not nested is that of the kept sets. Method: all registered policies in all
 * their forms, every budget from 1 to n - 1, small random traces. */
#include <criterion/criterion.h>
#include "kvt_registry.h"
#include "measure.h"
#include "policy_specs.h"

enum { MOST_N = 96, MOST_HEADS = 24 };

typedef struct point { uint32_t q31[KVT_CURVE_METRICS]; int there; } point;

typedef struct book {               /* of one configuration, first seed               */
    point    point[MOST_N][MOST_HEADS];
    uint32_t not_nested[MOST_HEADS], sum_not_nested, n_head, n_row, n_curves;
    uint32_t layer_max[8], model_max, model_mean;       /* at the first point             */
    uint8_t *kept;                  /* [budget][layer][cache][n]                      */
    uint32_t n, layers, caches;
    int      fixed;                 /* the sets are fixed at the end of the prompt    */
} book;

/* Entries per KV head that a budget asks for. */
static uint32_t asked(const book *b, const kvt_budget_info *x) { return (uint32_t)(x->value < 1 ? x->value * b->n + 0.5 : x->value); }

static kvt_status claim(void *self, const kvt_cell *cell, int *todo, kvt_err *err)
{
    (void)self, (void)cell, (void)err;
    *todo = 1;
    return KVT_OK;
}

static kvt_status store(void *self, const kvt_cell *cell, const kvt_result *r, kvt_err *err)
{
    book *b = self;

    (void)err;
    if (cell->seed > 0) return KVT_OK;
    for (size_t i = 0; i < r->n_head; i++) {
        point *p = &b->point[asked(b, cell->budget)][i];
        p->there = 1;
        p->q31[KVT_CURVE_MEAN] = kvt_q31(r->head[i].lost_mean);
        p->q31[KVT_CURVE_Q95] = kvt_q31(r->head[i].lost_q95);
        p->q31[KVT_CURVE_CVAR95] = kvt_q31(r->head[i].lost_cvar95);
        p->q31[KVT_CURVE_MAX] = kvt_q31(r->head[i].lost_max);
    }
    b->n_head = (uint32_t)r->n_head;
    return KVT_OK;
}

static kvt_status fail(void *self, const kvt_cell *cell, const char *why, kvt_err *err)
{
    (void)self, (void)cell;
    return kvt_fail(err, KVT_ECHECK, "%s", why);
}

static kvt_status curve_claim(void *self, const kvt_curve_id *id, int *todo, kvt_err *err)
{
    (void)err;
    *todo = 1;
    ((book *)self)->n_curves++;
    for (uint32_t i = 1; i < id->n_point; i++) cr_assert(id->kept[i - 1] < id->kept[i]);
    return KVT_OK;
}

static kvt_status curve_store(void *self, const kvt_curve_id *id, const kvt_curve_row *row, size_t n_row, kvt_err *err)
{
    book *b = self;

    (void)err;
    if (id->seed > 0) return KVT_OK;
    b->n_row = (uint32_t)n_row;
    for (size_t i = 0; i < n_row; i++) {
        const uint32_t max = row[i].q31[KVT_CURVE_MAX * id->n_point];
        if (row[i].layer < 0) b->model_max = max, b->model_mean = row[i].q31[0], b->sum_not_nested = row[i].n_not_nested;
        else if (row[i].head < 0) b->layer_max[row[i].layer] = max;
        if (row[i].head < 0) continue;
        b->not_nested[b->n_head] = row[i].n_not_nested;
        for (uint32_t k = 0; k < id->n_point; k++) {
            point *p = &b->point[id->kept[k]][b->n_head];
            p->there = 1;
            for (uint32_t m = 0; m < KVT_CURVE_METRICS; m++) p->q31[m] = row[i].q31[m * id->n_point + k];
        }
        b->n_head++;
    }
    return KVT_OK;
}

static const kvt_sink_ops book_ops = { "book", claim, store, fail, curve_claim, curve_store };

static kvt_status on_kept(void *user, const kvt_kept_set *set, kvt_err *err)
{
    book *b = user;
    uint8_t *kept = b->kept + (((size_t)asked(b, &set->budget->info) * b->layers + set->layer) * b->caches + set->cache) * b->n;

    (void)err;
    if (set->seed > 0) return KVT_OK;
    b->fixed &= set->step < 0;
    for (uint32_t i = 0; i < set->n && set->step < 0; i++) kept[set->pos[i]] = 1;
    return KVT_OK;
}

static void replay(const world *w, const kvt_config *c, uint32_t n_curve, uint32_t threads, size_t stage, const char *isa, book *b)
{
    static kvt_budget budget[MOST_N];
    kvt_source src = {0};
    kvt_err err = { KVT_OK, "" };
    kvt_replay_opts o = { .config = &c, .n_config = 1, .budget = budget, .n_curve = n_curve, .n_seeds = 2, .n_threads = threads,
        .stage_bytes = stage, .kernels = kvt_kernels_find(isa), .kept = n_curve ? NULL : on_kept, .kept_user = b };

    for (uint32_t k = 1; !n_curve && k < w->s.N; k++) {
        char text[32];
        snprintf(text, sizeof text, "%ut", k);
        if (c->caches == KVT_CACHES_QUERY) kvt_curve_share(text, k, w->s.N);
        budget_of(&budget[o.n_budget++], text, KVT_RULE_SHARE);
    }
    b->n = w->s.N, b->layers = w->s.L, b->caches = w->s.Hq, b->fixed = 1;
    b->kept = calloc((size_t)w->s.N * w->s.L * w->s.Hq, w->s.N);
    cr_assert(kvt_source_open_memory(&src, &w->info, w->view, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_replay(&src, &o, (kvt_sink){ &book_ops, b }, &err) == KVT_OK, "%s: %s", c->info.label, err.text);
    kvt_source_close(&src);
}

/* Neighbouring budgets of one head whose smaller set is not inside the larger. */
static uint32_t count_not_nested(const book *b, const kvt_config *c, const world *w, uint32_t head)
{
    const uint32_t layer = head / w->s.Hq, h = head % w->s.Hq;
    const uint32_t cache = c->caches == KVT_CACHES_QUERY ? h : h / (w->s.Hq / w->s.Hkv);
    const uint8_t *before = NULL;
    uint32_t n = 0;

    for (uint32_t k = 1; k < w->s.N; k++) {
        const uint8_t *kept = b->kept + (((size_t)k * b->layers + layer) * b->caches + cache) * b->n;
        int leaves = 0;
        if (!b->point[k][head].there) continue;
        for (uint32_t j = 0; before && j < b->n; j++) leaves |= before[j] && !kept[j];
        n += (uint32_t)leaves;
        before = kept;
    }
    return n;
}

static void compare(const world *w, const kvt_config *c, uint32_t *points, uint32_t *broken)
{
    book *one = calloc(1, sizeof *one), *all = calloc(1, sizeof *all);
    uint32_t first = 1, max = 0, sum = 0;
    uint64_t mean = 0;

    replay(w, c, 0, 2, 0, NULL, one);
    replay(w, c, w->s.N, 2, *points % 2, NULL, all);
    if (one->n_head == 0) {                      /* defined nowhere                        */
        cr_assert(all->n_row == 0, "%s", c->info.label);
        goto done;
    }
    cr_assert(all->n_head == one->n_head && all->n_row == all->n_head + w->s.L + 1, "%s", c->info.label);
    while (!all->point[first][0].there) first++;
    for (uint32_t h = 0; h < one->n_head; h++) {
        for (uint32_t k = 0; k < w->s.N; k++) {
            const point *a = &one->point[k][h], *b = &all->point[k][h];
            cr_assert(a->there == b->there, "%s, %u tokens: there %d, on the curve %d", c->info.label, k, a->there, b->there);
            for (uint32_t m = 0; a->there && m < KVT_CURVE_METRICS; m++)
                cr_assert(a->q31[m] == b->q31[m], "%s, %u tokens, head %u: %s is %u, on the curve %u", c->info.label, k, h,
                          kvt_curve_metric[m], a->q31[m], b->q31[m]);
            *points += (uint32_t)a->there;
        }
        if (one->fixed) {
            const uint32_t n = count_not_nested(one, c, w, h);
            cr_assert(n == all->not_nested[h], "%s, head %u: %u neighbours are not nested, on the curve %u", c->info.label, h, n, all->not_nested[h]);
            *broken += n;
        }
        max = one->point[first][h].q31[KVT_CURVE_MAX] > max ? one->point[first][h].q31[KVT_CURVE_MAX] : max;
        mean += one->point[first][h].q31[KVT_CURVE_MEAN];
        sum += all->not_nested[h];
        if (h % w->s.Hq == w->s.Hq - 1) {        /* the layer's row                        */
            uint32_t top = 0;
            for (uint32_t i = 0; i < w->s.Hq; i++) top = one->point[first][h - i].q31[KVT_CURVE_MAX] > top ? one->point[first][h - i].q31[KVT_CURVE_MAX] : top;
            cr_assert(all->layer_max[h / w->s.Hq] == top, "%s", c->info.label);
        }
    }
    cr_assert(all->model_max == max && all->sum_not_nested == sum, "%s", c->info.label);
    cr_assert(all->model_mean == (uint32_t)llrint((double)mean / one->n_head), "%s", c->info.label);
done:
    free(one->kept), free(all->kept), free(one), free(all);
}

/* oracle_minimax has no curve: a search per budget and head. */
static int has_curve(const kvt_policy *p) { return strcmp(p->id, "full") && strcmp(p->id, "oracle_minimax"); }

Test(curve, every_point_is_the_cell_at_that_budget, .timeout = 240)
{
    static const shape shapes[] = { { 2, 4, 2, 4, 24, 9, 24, 0 }, { 1, 6, 2, 8, 41, 19, 41, 0 } };
    uint32_t points = 0, broken = 0;

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        world *w = world_make(&shapes[s], 77 + s);
        for (size_t i = 0; i < kvt_policy_count(); i++) {
            specs *list = calloc(1, sizeof *list);
            if (has_curve(kvt_policy_at(i))) specs_of(kvt_policy_at(i), list);
            for (uint32_t k = 0; k < list->n_core; k += s + 1) {
                kvt_config *c = config_if(kvt_policy_at(i), list->s[k]);
                if (!c) continue;
                compare(w, c, &points, &broken);
                kvt_config_free(c);
            }
            free(list);
        }
        world_free(w);
    }
    cr_assert(points > 10000 && broken > 0, "%u points, %u pairs of budgets that are not nested", points, broken);
}

/* What base() makes is made once for all budgets: the sets are those of a policy whose
 * score() makes it at every budget. */
Test(curve, base_changes_no_set, .timeout = 120)
{
    static const shape s = { 3, 4, 2, 4, 40, 5, 40, 0 };
    static const char *const budgets[] = { "0.15", "0.3", "17t", "0.75", "1" };
    world *w = world_make(&s, 5);
    uint32_t n_with = 0, n_refused = 0;

    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const kvt_policy *p = kvt_policy_at(i);
        kvt_policy without = *p;
        specs *list = calloc(1, sizeof *list);

        without.base = NULL;
        if (p->base) specs_of(p, list);
        for (uint32_t k = 0; k < list->n_core; k++) {
            kvt_config *c = config_if(p, list->s[k]);
            batch b = { 0 };
            if (!c) continue;
            batch_make(&b, w, c, KVT_RULE_SHARE, budgets, 5, &n_refused);
            if (b.n_budget) {
                tape with_base = world_sets(w, &b, 2), plain;
                c->policy = &without;
                plain = world_sets(w, &b, 2);
                cr_assert(with_base.n > 0 && tape_equal(&with_base, &plain), "%s", list->s[k]);
                tape_free(&with_base), tape_free(&plain);
                n_with++;
            }
            kvt_config_free(c);
        }
        free(list);
    }
    cr_assert(n_with > 50, "%u configurations", n_with);
    world_free(w);
}

/* A stored log-sum-exp that is off by more than 2e-5 is recomputed, also where rows are
 * checked and summed in one pass; off by more than 2e-3, the trace is refused. */
Test(curve, a_wrong_log_sum_exp_is_recomputed_or_refused)
{
    static const shape s = { 2, 4, 2, 4, 40, 33, 40, 0 };
    world *w = world_make(&s, 9);
    kvt_config *c = config_of("snapkv:window=7");
    uint32_t points = 0, broken = 0;
    float *lse = w->data[KVT_T_END + KVT_T_LSE] + w->R + w->s.W;     /* layer 1, head 1, decode steps */
    kvt_source src = { 0 };
    kvt_err err = { KVT_OK, "" };
    kvt_replay_opts o = { .config = (const kvt_config *const *)&c, .n_config = 1, .n_curve = 8, .n_threads = 1 };
    book *b = calloc(1, sizeof *b);

    for (uint32_t t = 20; t < s.G; t++) lse[t] += 3e-4f;
    compare(w, c, &points, &broken);
    cr_assert(points > 0);
    lse[20] += 0.1f;
    cr_assert(kvt_source_open_memory(&src, &w->info, w->view, &err) == KVT_OK);
    cr_assert(kvt_replay(&src, &o, (kvt_sink){ &book_ops, b }, &err) == KVT_ECHECK);
    cr_assert(strstr(err.text, "layer 1 head 1 step 20"), "%s", err.text);
    kvt_source_close(&src);
    kvt_config_free(c);
    world_free(w);
    free(b);
}
