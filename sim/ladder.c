/* ladder.c - cells of oracle_minimax: for each query head the fixed set whose worst step
 * loses least, a certified bound of what every fixed set of that size loses, and the rungs
 * beside it (per-step oracle, best fixed set for the mean, a random set).
 *
 * A search at one count yields a bound and a set at every count. Those at the anchors, the
 * same shares of the prompt in every run, serve all; one at a count that is no anchor
 * serves that count alone. So a cell does not depend on the other budgets of its run. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "minimax.h"

static const char *const ladder_stop[] = {
    [KVT_MINIMAX_TRIVIAL] = "trivial", [KVT_MINIMAX_CERTIFIED] = "certified",
    [KVT_MINIMAX_FRACTIONAL] = "fractional", [KVT_MINIMAX_LIMIT] = "limit",
};

uint32_t kvt__ladder_anchors(const run *r, uint32_t out[KVT_LADDER_ANCHORS])
{
    static const double share[KVT_LADDER_ANCHORS] = { 0.05, 0.1, 0.2, 0.4, 0.6, 0.8 };
    uint32_t n = 0;

    for (uint32_t i = 0; i < KVT_LADDER_ANCHORS; i++) {
        const uint32_t count = (uint32_t)lrint(share[i] * r->N);
        if (count > 0 && count < r->N && (n == 0 || out[n - 1] != count))
            out[n++] = count;
    }
    return n;
}

void kvt__ladder_free(const run *r, run_cell *c)
{
    for (uint32_t i = 0; c->ladder && i < r->n_heads_all; i++) {
        free(c->ladder[i].lambda);
        free(c->ladder[i].best_set);
    }
    free(c->ladder);
    c->ladder = NULL;
}

static int ladder_measures(const run_cell *c) { return c->minimax && c->measured; }

/* Anchors and the counts of the cells, ascending, each once; returns how many. */
static uint32_t ladder_counts(const run *r, uint32_t head, kvt_minimax_point *point)
{
    uint32_t anchor[KVT_LADDER_ANCHORS], n = 0;
    const uint32_t n_anchors = kvt__ladder_anchors(r, anchor);

    for (uint32_t i = 0; i < n_anchors + r->n_cells; i++) {
        const run_cell *c = i < n_anchors ? NULL : &r->cell[i - n_anchors];
        const uint32_t count = c ? (ladder_measures(c) ? kvt__held(r, c, head) : UINT32_MAX) : anchor[i];
        uint32_t at = n;
        while (at > 0 && point[at - 1].count > count)
            at--;
        if (count == UINT32_MAX || (at > 0 && point[at - 1].count == count))
            continue;
        memmove(point + at + 1, point + at, (n - at) * sizeof *point);
        point[at] = (kvt_minimax_point){ .count = count, .shared = c == NULL };
        n++;
    }
    return n;
}

/* Rows of one head: the staged tiles, or a copy of the prompt's part in *own. */
static kvt_status ladder_rows(const run *r, uint32_t head, uint32_t thread, kvt_minimax_rows *rows, float **own, kvt_err *err)
{
    const size_t n = (size_t)r->N * KVT_TILE;

    *rows = (kvt_minimax_rows){ .n = r->N, .n_rows = r->G, .sum = r->L.col + (size_t)head * r->T, .kern = r->kern };
    if (head < r->L.n_staged) {
        rows->tile = kvt__tile(r, head, 0, NULL);
        rows->block_stride = (size_t)r->T * KVT_TILE;
        return KVT_OK;
    }
    if (!(*own = malloc(r->n_blocks * n * sizeof **own)))
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for the rows of a head; use a smaller -j", r->src->path, r->L.layer);
    for (uint32_t b = 0; b < r->n_blocks; b++)
        memcpy(*own + b * n, kvt__tile(r, head, b, r->scratch[thread]), n * sizeof **own);
    rows->tile = *own;
    rows->block_stride = n;
    return KVT_OK;
}

/* The rungs of one head, and what the search found. */
static kvt_status ladder_result(const run *r, run_cell *c, uint32_t head, const kvt_minimax_rows *rows, const kvt_minimax_point *p,
                                uint32_t *scratch, kvt_err *err)
{
    kvt_ladder_result *out = &c->ladder[r->L.head0 + head];
    const uint32_t n_trivial = kvt__n_trivial(r, c), n = r->G - n_trivial;
    double mass = 0, lo;
    kvt_tail tail;

    *out = (kvt_ladder_result){ .layer = r->L.layer, .head = head, .n_keep = p->count, .n_step = r->G, .n_trivial = n_trivial,
                                .minimax_stop = ladder_stop[KVT_MINIMAX_TRIVIAL] };
    if (n == 0)                                  /* all steps are trivial, or none        */
        return KVT_OK;
    kvt_tail_of(kvt__oracle_of(r, c, head), NULL, n, scratch, &tail);
    out->oracle_mean = tail.mean, out->oracle_max = tail.max, out->oracle_max_step = tail.max_at;
    kvt_tail_of(kvt__fixed_of(r, c, head), NULL, n, scratch, &tail);
    out->fixed_mean = tail.mean, out->fixed_max = tail.max;
    for (uint32_t t = 0; t < n; t++)
        mass += r->L.prompt_mass[(size_t)head * r->G + t];
    out->random_mean = mass / n * (1 - (double)p->count / r->N);
    out->lambda = malloc(n * sizeof *out->lambda);
    out->best_set = malloc(((size_t)p->count + 1) * sizeof *out->best_set);
    if (!out->lambda || !out->best_set)
        return kvt_fail(err, KVT_ENOMEM, "out of memory for certificates");
    KVT_TRY(kvt_minimax_certify(rows, p, out->lambda, &out->bound_q31, err));
    out->n_lambda = n;
    for (uint32_t j = 0, k = 0; j < r->N; j++)
        if (p->set[j])
            out->best_set[k++] = j;
    out->minimax_found = kvt_from_q31(kvt_q31(p->up));
    lo = kvt_from_q31(out->bound_q31);
    lo = lo > out->oracle_max ? lo : out->oracle_max;
    out->minimax_bound = lo < out->minimax_found ? lo : out->minimax_found;
    out->minimax_iters = p->n_iter;
    out->minimax_stop = ladder_stop[p->stop];
    return KVT_OK;
}

/* Memory of the points of one head; lambda and set of the first one are the blocks. */
static kvt_status ladder_points(const run *r, uint32_t head, kvt_minimax_point *point, uint32_t n, uint32_t *scratch, kvt_err *err)
{
    double *lambda = malloc((size_t)n * r->G * sizeof *lambda);
    uint8_t *set = malloc((size_t)n * r->N);

    point[0].lambda = lambda, point[0].set = set;
    if (!lambda || !set)
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for the minimax bound", r->src->path, r->L.layer);
    for (uint32_t k = 0; k < n; k++) {
        kvt_tail tail;
        kvt_tail_of(kvt__oracle_at(r, head, point[k].count), NULL, r->G, scratch, &tail);
        point[k].oracle_max = tail.max;
        point[k].oracle_at = tail.max_at;
        point[k].lambda = lambda + (size_t)k * r->G;
        point[k].set = set + (size_t)k * r->N;
    }
    return KVT_OK;
}

static kvt_status ladder_search(run *r, uint32_t head, uint32_t thread, kvt_err *err)
{
    const size_t most = KVT_LADDER_ANCHORS + (size_t)r->n_cells;
    kvt_minimax_point *point = calloc(most + 1, sizeof *point);
    uint32_t *scratch = malloc(2 * (size_t)r->G * sizeof *scratch), n;
    kvt_minimax_rows rows;
    float *own = NULL;
    kvt_status st = KVT_OK;

    if (!point || !scratch) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    n = ladder_counts(r, head, point);
    KVT_TRY_GOTO(st, ladder_points(r, head, point, n, scratch, err));
    KVT_TRY_GOTO(st, ladder_rows(r, head, thread, &rows, &own, err));
    KVT_TRY_GOTO(st, kvt_minimax(&rows, point, n, KVT_MINIMAX_ITER, KVT_MINIMAX_MOST, NULL, err));
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        uint32_t k = 0;
        if (!ladder_measures(c))
            continue;
        while (point[k].count != kvt__held(r, c, head))
            k++;
        memcpy(kvt__kept_of(r, c, head), point[k].set, r->N);
        KVT_TRY_GOTO(st, ladder_result(r, c, head, &rows, &point[k], scratch, err));
    }
done:
    if (point)
        free(point[0].lambda), free(point[0].set);
    free(point);
    free(scratch);
    free(own);
    return st;
}

static void ladder_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;

    r->item_status[head] = ladder_search(r, head, thread, &r->item_err[head]);
}

kvt_status kvt__ladder(run *r, kvt_err *err)
{
    int any = 0;

    for (uint32_t i = 0; i < r->n_cells; i++)
        any |= ladder_measures(&r->cell[i]);
    if (!any)
        return KVT_OK;
    kvt_pool_run(r->pool, r->L.H, ladder_head, r);
    for (uint32_t h = 0; h < r->L.H; h++)
        if (r->item_status[h] < 0) {
            if (err)
                *err = r->item_err[h];
            return r->item_status[h];
        }
    return KVT_OK;
}
