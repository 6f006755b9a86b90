/* curve.c - curves: one configuration at every budget of a grid. A point is a cell like
 * any other while its set is chosen and its losses are summed, but only statistics of
 * each head remain of it, a few integers per head and point. */
#include "stack.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const kvt_curve_metric[KVT_CURVE_METRICS] = { "lost_mean", "lost_q95", "lost_cvar95", "lost_max" };

kvt_status kvt__curve_grid(run *r, size_t n_most, kvt_err *err)
{
    const uint32_t want = r->sink.ops ? r->opts->n_curve : 0;
    uint32_t *kept = malloc((want ? want : 1) * sizeof *kept), n;
    kvt_status st = KVT_OK;

    KVT_ASSERT(want <= KVT_CURVE_POINTS_MAX);
    r->grid = calloc(2 * (size_t)want + 1, sizeof *r->grid);
    r->curve = calloc(n_most ? n_most : 1, sizeof *r->curve);
    if (!kept || !r->grid || !r->curve) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    n = want ? kvt_curve_grid(r->N, want, kept) : 0;
    for (uint32_t i = 0; i < n; i++) {
        char text[32];
        snprintf(text, sizeof text, "%ut", kept[i]);
        KVT_TRY_GOTO(st, kvt_budget_parse(&r->grid[i], text, KVT_RULE_SHARE, err));
        kvt_curve_share(text, kept[i], r->N);
        KVT_TRY_GOTO(st, kvt_budget_parse(&r->grid[n + i], text, KVT_RULE_SHARE, err));
    }
    r->n_grid = n;
done:
    free(kept);
    return st;
}

kvt_status kvt__curve_new(run *r, const kvt_config *config, uint64_t seed, uint32_t *point, uint32_t *n_point, kvt_err *err)
{
    const uint32_t first = config->caches == KVT_CACHES_QUERY ? r->n_grid : 0;
    run_curve *c = &r->curve[r->n_curves];
    int todo = 0;

    *n_point = 0;
    if (!(c->kept = calloc(r->n_grid ? r->n_grid : 1, sizeof *c->kept)))
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_grid; i++)
        if (kvt_plan_check(r->info, config, &r->grid[first + i], NULL) == KVT_OK) {
            c->kept[*n_point] = (uint32_t)r->grid[i].value;
            point[(*n_point)++] = first + i;
        }
    c->id = (kvt_curve_id){ r->info, r->src->path, &config->info, seed, c->kept, *n_point };
    if (*n_point)
        KVT_TRY(r->sink.ops->curve_claim(r->sink.self, &c->id, &todo, err));
    if (!todo) {
        free(c->kept);
        *c = (run_curve){ 0 };
        *n_point = 0;
    } else {
        r->n_curves++;
    }
    return KVT_OK;
}

kvt_status kvt__curve_alloc(run *r, kvt_err *err)
{
    for (uint32_t i = 0; i < r->n_curves; i++) {
        run_curve *c = &r->curve[i];
        c->q31 = calloc((size_t)r->n_heads_all * KVT_CURVE_METRICS * c->id.n_point, sizeof *c->q31);
        c->not_nested = calloc(r->n_heads_all, sizeof *c->not_nested);
        if (!c->q31 || !c->not_nested)
            return kvt_fail(err, KVT_ENOMEM, "%s: out of memory for %u curves; use fewer policies", r->src->path, r->n_curves);
    }
    return KVT_OK;
}

void kvt__curve_free(run *r)
{
    for (uint32_t i = 0; r->curve && i < r->n_curves; i++)
        free(r->curve[i].kept), free(r->curve[i].q31), free(r->curve[i].not_nested);
    free(r->curve);
    free(r->grid);
}

void kvt__curve_not_nested(run *r, const run_cell *c, uint32_t head, uint32_t n)
{
    r->curve[c->curve_at].not_nested[r->L.head0 + head] = n;
}

static void curve_put(const run *r, const run_cell *c, uint32_t head, const kvt_tail *tail)
{
    const run_curve *k = &r->curve[c->curve_at];
    uint32_t *q31 = k->q31 + ((size_t)r->L.head0 + head) * KVT_CURVE_METRICS * k->id.n_point + c->point;

    q31[KVT_CURVE_MEAN * k->id.n_point] = kvt_q31(tail->mean);
    q31[KVT_CURVE_Q95 * k->id.n_point] = kvt_q31(tail->q95);
    q31[KVT_CURVE_CVAR95 * k->id.n_point] = kvt_q31(tail->cvar95);
    q31[KVT_CURVE_MAX * k->id.n_point] = kvt_q31(tail->max);
}

kvt_status kvt__curve_losses(run *r, const uint32_t *cell, uint32_t n, uint32_t head, const uint32_t *lost, kvt_err *err)
{
    uint32_t *scratch = malloc((size_t)KVT_TILE * r->G * sizeof *scratch);
    uint8_t *trivial = malloc((size_t)KVT_TILE * r->G);

    if (!scratch || !trivial) {
        free(scratch), free(trivial);
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < n; i += KVT_TILE) {
        const uint32_t m = n - i < KVT_TILE ? n - i : KVT_TILE;
        const uint32_t *x[KVT_TILE];
        const uint8_t *skip[KVT_TILE];
        kvt_tail tail[KVT_TILE];

        for (uint32_t k = 0; k < m; k++) {
            const uint32_t n_trivial = kvt__n_trivial(r, &r->cell[cell[i + k]]);
            uint8_t *own = trivial + (size_t)k * r->G;
            for (uint32_t t = 0; t < r->G; t++)
                own[t] = t < n_trivial;
            skip[k] = own;
            x[k] = lost + (size_t)(i + k) * r->G;
        }
        kvt_tails_of(r->kern, x, skip, m, r->G, scratch, tail);
        for (uint32_t k = 0; k < m; k++)
            curve_put(r, &r->cell[cell[i + k]], head, &tail[k]);
    }
    free(scratch), free(trivial);
    return KVT_OK;
}

/* Does the larger cache hold, after the last step, all that the smaller one holds? */
static int curve_inside(const lane *less, const lane *more)
{
    uint32_t k = 0;

    for (uint32_t i = 0; i < less->n; i++) {
        while (k < more->n && more->pos[k] < less->pos[i])
            k++;
        if (k == more->n || more->pos[k] != less->pos[i])
            return 0;
    }
    return 1;
}

/* Losses of a point that mass.c does not sum. */
static void curve_series(const run *r, const run_cell *c, uint32_t head, uint32_t *lost)
{
    if (c->bound) {
        memcpy(lost, kvt__oracle_of(r, c, head), r->G * sizeof *lost);
        return;
    }
    for (uint32_t t = 0; t < r->G; t++) {
        const double *p = c->part + ((size_t)head * r->G + t) * N_PARTS;
        lost[t] = kvt_q31(p[PART_SINK] + p[PART_SELECTION] + p[PART_LATE] + p[PART_NEW]);
    }
}

static void curve_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;
    uint32_t *lost = malloc((size_t)(r->n_grid ? r->n_grid : 1) * r->G * sizeof *lost), *cell = malloc((r->n_grid ? r->n_grid : 1) * sizeof *cell);

    (void)thread;
    r->item_status[head] = lost && cell ? KVT_OK : kvt_fail(&r->item_err[head], KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0, n = 0; i < r->n_cells && r->item_status[head] == KVT_OK; i++) {
        const run_cell *c = &r->cell[i];
        if (!c->curve)
            continue;
        if (c->online || c->bound) {
            curve_series(r, c, head, lost + (size_t)n * r->G);
            cell[n++] = i;
        }
        /* the points of a curve follow one another; contents of a stack are nested */
        if (c->online && c->point > 0 && !kvt__stacked(c) && !kvt__stacked(c - 1) && r->cell[i - 1].online)
            r->curve[c->curve_at].not_nested[r->L.head0 + head]
                += !curve_inside(kvt__lane_of(r, i - 1, head), kvt__lane_of(r, i, head));
        if (n > 0 && (i + 1 == r->n_cells || !r->cell[i + 1].curve || r->cell[i + 1].curve_at != c->curve_at)) {
            r->item_status[head] = kvt__curve_losses(r, cell, n, head, lost, &r->item_err[head]);
            n = 0;
        }
    }
    free(lost);
    free(cell);
}

kvt_status kvt__curve_layer(run *r, kvt_err *err)
{
    if (r->n_curves == 0)
        return KVT_OK;
    kvt_pool_run(r->pool, r->L.H, curve_head, r);
    for (uint32_t h = 0; h < r->L.H; h++)
        if (r->item_status[h] < 0) {
            if (err)
                *err = r->item_err[h];
            return r->item_status[h];
        }
    return KVT_OK;
}

/* Several heads as one row: the mean of the means, the largest of the rest. */
static void curve_join(const run_curve *c, const kvt_curve_row *head, size_t n, uint32_t *q31, kvt_curve_row *out)
{
    const uint32_t P = c->id.n_point;

    memset(q31, 0, (size_t)KVT_CURVE_METRICS * P * sizeof *q31);
    for (uint32_t p = 0; p < P; p++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < n; i++) {
            sum += head[i].q31[KVT_CURVE_MEAN * P + p];
            for (uint32_t m = KVT_CURVE_MEAN + 1; m < KVT_CURVE_METRICS; m++)
                q31[m * P + p] = head[i].q31[m * P + p] > q31[m * P + p] ? head[i].q31[m * P + p] : q31[m * P + p];
        }
        q31[KVT_CURVE_MEAN * P + p] = (uint32_t)llrint((double)sum / (double)n);
    }
    out->q31 = q31;
    for (size_t i = 0; i < n; i++)
        out->n_not_nested += head[i].n_not_nested;
}

static kvt_status curve_store_one(run *r, const run_curve *c, kvt_err *err)
{
    const size_t values = (size_t)KVT_CURVE_METRICS * c->id.n_point, n_joined = (size_t)r->n_layers_full + 1;
    kvt_curve_row *head = calloc(r->n_heads_all, sizeof *head), *row = calloc(r->n_heads_all + n_joined, sizeof *row);
    uint32_t *joined = malloc(n_joined * values * sizeof *joined), slot = 0;
    size_t at = 0, n = 0;
    kvt_status st;

    if (!head || !row || !joined) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    for (uint32_t l = 0; l < r->info->n_layers; l++) {
        const uint32_t H = r->info->layer[l].n_heads;
        if (r->info->layer[l].attn != KVT_ATTN_FULL)
            continue;
        for (uint32_t h = 0; h < H; h++)
            row[n++] = head[at + h] = (kvt_curve_row){ (int32_t)l, (int32_t)h, c->q31 + (at + h) * values, c->not_nested[at + h] };
        row[n] = (kvt_curve_row){ .layer = (int32_t)l, .head = -1 };
        curve_join(c, head + at, H, joined + slot++ * values, &row[n++]);
        at += H;
    }
    row[n] = (kvt_curve_row){ .layer = -1, .head = -1 };
    curve_join(c, head, at, joined + slot * values, &row[n++]);
    st = r->sink.ops->curve_store(r->sink.self, &c->id, row, n, err);
done:
    free(head);
    free(row);
    free(joined);
    return st;
}

kvt_status kvt__store_curves(run *r, kvt_err *err)
{
    for (uint32_t i = 0; i < r->n_curves; i++)
        KVT_TRY(curve_store_one(r, &r->curve[i], err));
    return KVT_OK;
}
