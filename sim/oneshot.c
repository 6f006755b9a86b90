/* oneshot.c - the choice at the end of the prompt: score -> choose -> kept set, for
 * every cell whose policy has a score(). A policy whose scores ignore the budget
 * (kvt_setup.nested) is scored once for all its budgets. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint32_t kvt__n_trivial(const run *r, const run_cell *c)
{
    const uint64_t uniform = kvt_budget_uniform(c->budget, r->N);

    if (uniform < r->N)
        return 0;
    if (!c->online)
        return r->G;                             /* |E_t| = N at every step           */
    return uniform - r->N + 1 < r->G ? (uint32_t)(uniform - r->N + 1) : r->G;   /* |E_t| = N + t */
}

/* Job and setup of a cell for the layer at hand. */
static void oneshot_job(const run *r, run_cell *c)
{
    const kvt_policy *p = c->config->policy;
    const layer_run *L = &r->L;

    memset(&c->job, 0, sizeof c->job);
    c->job.n_q_heads = L->H;
    c->job.n_kv_heads = L->Hkv;
    c->job.n_caches = c->config->caches == KVT_CACHES_QUERY ? L->H : L->Hkv;
    c->job.n = r->N;
    c->job.n_new = r->G;
    c->job.rule = c->budget->rule;
    c->job.key = kvt_random_key(c->id.seed, r->info->content_id);
    c->job.param = c->config->param;
    kvt_budget_counts(c->budget, &c->job);
    if (c->full) {
        c->job.keep_cache = r->N;
        c->job.keep_layer = (uint64_t)r->N * c->job.n_caches;
    }
    memset(&c->setup, 0, sizeof c->setup);
    c->setup.rank_over = p->rank_over;
    c->setup.share_over = p->share_over;
    c->setup.capacity = c->job.keep_cache;
    if (p->setup)
        p->setup(&c->job, &c->setup);
}

/* The engine keeps everything itself when there is nothing to choose. */
static int oneshot_keeps_all(const run *r, const run_cell *c)
{
    return c->full || c->job.keep_cache >= r->N || (c->setup.window > 0 && r->N <= c->setup.window);
}

kvt_status kvt__jobs(run *r, kvt_err *err)
{
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        size_t n;

        oneshot_job(r, c);
        n = (size_t)c->job.n_caches * r->N;
        c->n_held = calloc(c->job.n_caches, sizeof *c->n_held);
        if (!c->online && !c->bound)
            c->kept = calloc(n, 1);
        if (!c->n_held || (!c->online && !c->bound && !c->kept))
            return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for kept sets", r->src->path, r->L.layer);
        if (c->online)
            c->flags |= c->setup.flags | (c->setup.capacity >= r->N ? KVT_FLAG_KEPT_ALL : 0);
        for (uint32_t k = 0; k < c->job.n_caches; k++)
            c->n_held[k] = c->online ? c->setup.capacity : c->job.keep_cache < r->N ? c->job.keep_cache : r->N;
    }
    return KVT_OK;
}

typedef struct oneshot_task { run *r; const uint32_t *cell; kvt_prompt prompt; const double *future; } oneshot_task;

static kvt_status oneshot_score(const oneshot_task *t, run_cell *c, kvt_err *err)
{
    const run *r = t->r;
    const size_t n = (size_t)c->job.n_caches * r->N;
    kvt_ws ws = { NULL, 0, c->setup.ws_bytes };
    void *raw = malloc(ws.size + 64);

    c->score = malloc((n ? n : 1) * sizeof *c->score);
    if (!c->score || !raw) {
        free(raw);
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for scores of %s", r->src->path, r->L.layer, c->config->info.label);
    }
    ws.base = (unsigned char *)raw + (64 - (uintptr_t)raw % 64) % 64;
    c->config->policy->score(&c->job, &t->prompt, &ws, c->score);
    free(raw);
    for (size_t i = 0; i < n; i++)
        if (isnan(c->score[i]))
            return kvt_fail(err, KVT_ECHECK, "%s: layer %u: policy %s gave NaN for cache %zu token %zu; operands with NaN or Inf? run: kvtrace verify",
                            r->src->path, r->L.layer, c->config->info.label, i / r->N, i % r->N);
    return KVT_OK;
}

static void oneshot_cell(void *arg, uint32_t item, uint32_t thread)
{
    const oneshot_task *t = arg;
    run *r = t->r;
    run_cell *c = &r->cell[t->cell[item]];
    const size_t n = (size_t)c->job.n_caches * r->N;
    kvt_chosen chosen = { 0, 0, NAN, NAN };
    uint32_t *order, *tmp;

    (void)thread;
    r->item_status[item] = KVT_OK;
    if (oneshot_keeps_all(r, c)) {
        memset(c->kept, 1, n);
        for (uint32_t k = 0; k < c->job.n_caches; k++)
            c->n_held[k] = r->N;
        if (!c->full)
            c->flags |= KVT_FLAG_KEPT_ALL;
        c->last_kept = c->first_dropped = NAN;
        return;
    }
    if (&r->cell[c->score_of] == c) {
        r->item_status[item] = oneshot_score(t, c, &r->item_err[item]);
        if (r->item_status[item] < 0)
            return;
    }
    order = malloc((n ? n : 1) * 2 * sizeof *order);
    if (!order) {
        r->item_status[item] = kvt_fail(&r->item_err[item], KVT_ENOMEM, "out of memory");
        return;
    }
    tmp = order + n;
    kvt_choose(&c->job, c->setup.rank_over, r->cell[c->score_of].score, c->kept, c->n_held, order, tmp, &chosen);
    free(order);
    c->n_tied += chosen.n_tied;
    c->n_kept_all += chosen.n_held;
    c->flags |= c->setup.flags;
    c->last_kept = chosen.last_kept;
    c->first_dropped = chosen.first_dropped;
}

/* Cells whose turn it is: oracles read the future, the others must not wait for it. In
 * two rounds: first those that are scored, then those that borrow scores. */
kvt_status kvt__choose_sets(run *r, int oracles, kvt_err *err)
{
    uint32_t *list = malloc((r->n_cells ? r->n_cells : 1) * sizeof *list);
    double *future = NULL;
    kvt_status st = KVT_OK;
    oneshot_task t = { r, list, { 0 }, NULL };

    if (!list)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    t.prompt.layer = r->L.layer;
    t.prompt.window = r->window;
    t.prompt.win = r->L.win;
    t.prompt.col_sum = r->L.col_sum;
    t.prompt.nu = r->L.nu;
    if (oracles) {                               /* [H][N] out of [H][T] */
        future = malloc((size_t)r->L.H * r->N * sizeof *future);
        if (!future) {
            st = kvt_fail(err, KVT_ENOMEM, "out of memory");
            goto done;
        }
        for (uint32_t h = 0; h < r->L.H; h++)
            memcpy(future + (size_t)h * r->N, r->L.col + (size_t)h * r->T, r->N * sizeof *future);
        t.prompt.future_sum = future;
    }
    for (int borrow = 0; borrow < 2 && st == KVT_OK; borrow++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < r->n_cells; i++) {
            run_cell *c = &r->cell[i];
            if (c->online || c->bound || ((c->config->policy->caps & KVT_POLICY_ORACLE) != 0) != (oracles != 0))
                continue;
            if (!borrow) {                       /* who scores for whom in this layer */
                uint32_t owner = i;
                if (c->setup.nested && !oneshot_keeps_all(r, c))
                    for (uint32_t k = 0; k < i && owner == i; k++)
                        if (r->cell[k].config == c->config && r->cell[k].id.seed == c->id.seed && r->cell[k].setup.nested
                            && !oneshot_keeps_all(r, &r->cell[k]))
                            owner = r->cell[k].score_of;
                c->score_of = owner;
            }
            if ((c->score_of != i) == borrow)
                list[n++] = i;
        }
        kvt_pool_run(r->pool, n, oneshot_cell, &t);
        for (uint32_t i = 0; i < n && st == KVT_OK; i++)
            if (r->item_status[i] < 0) {
                st = r->item_status[i];
                if (err)
                    *err = r->item_err[i];
            }
    }
done:
    free(future);
    free(list);
    return st;
}
