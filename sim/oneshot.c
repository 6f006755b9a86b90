/* oneshot.c - the choice at the end of the prompt: score -> choose -> kept set, for
 * every cell whose policy has a score(). A policy whose scores ignore the budget
 * (kvt_setup.nested) is scored once for all its budgets. */
#include "replay_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint32_t kvt__n_trivial(const run *r, const run_cell *c)
{
    uint64_t uniform = kvt_budget_uniform(c->budget, r->N);
    uint32_t n = 0;

    if (c->setup.exempt > 0)                     /* the budget counts generated tokens    */
        uniform = (uint64_t)c->setup.exempt + c->setup.capacity;
    if (uniform >= r->N && !c->online)
        return r->G;                             /* |E_t| = N at every step               */
    if (uniform >= r->N)
        n = uniform - r->N + 1 < r->G ? (uint32_t)(uniform - r->N + 1) : r->G;   /* |E_t| = N + t */
    if (c->setup.prompt_wait && n == 0 && r->G > 0 && kvt__keeps_all(&c->job, &c->setup))
        n = 1;                                   /* nothing leaves before the first step  */
    return n;
}

/* Job and setup of a cell for the layer at hand. */
static void oneshot_job(const run *r, run_cell *c)
{
    kvt__job(c->config, c->budget, r->info, r->L.layer, kvt_random_key(c->id.seed, r->info->content_id), &c->job);
    kvt__setup(c->config->policy, &c->job, &c->setup);
}

/* The engine keeps everything itself when there is nothing to choose. */
static int oneshot_keeps_all(const run_cell *c)
{
    return c->full || kvt__keeps_all(&c->job, &c->setup) || !(c->setup.caps & (KVT_POLICY_ONESHOT | KVT_POLICY_BOUND));
}

kvt_status kvt__jobs(run *r, kvt_err *err)
{
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        size_t n;

        oneshot_job(r, c);
        n = (size_t)(c->minimax ? r->L.H : c->job.n_caches) * r->N;
        c->n_held = calloc(c->job.n_caches, sizeof *c->n_held);
        c->n_prompt = calloc(c->job.n_caches, sizeof *c->n_prompt);
        c->keep = calloc(c->job.n_caches, sizeof *c->keep);
        if (!c->bound)
            c->kept = calloc(n, 1);
        if (!c->n_held || !c->n_prompt || !c->keep || (!c->bound && !c->kept))
            return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for kept sets", r->src->path, r->L.layer);
        for (uint32_t k = 0; k < c->job.n_caches; k++)
            c->n_held[k] = c->n_prompt[k] = c->job.keep_cache < r->N ? c->job.keep_cache : r->N;
    }
    return KVT_OK;
}

typedef struct oneshot_task { run *r; const uint32_t *cell; kvt_prompt prompt; } oneshot_task;

void kvt__prompt_view(const run *r, const double *future, kvt_prompt *out)
{
    const layer_run *L = &r->L;

    *out = (kvt_prompt){
        .layer = L->layer, .slot = L->slot, .window = r->window, .win = L->win, .col_sum = L->col_sum, .nu = L->nu,
        .future_sum = future, .q = r->n_q == r->N ? L->q_prompt : NULL,
        .key = L->k, .key_stride = (size_t)r->T * L->d, .val = L->v, .val_stride = (size_t)r->T * L->d_v,
        .rope = L->rope.dims ? &L->rope : NULL,
    };
}

/* The first tokens and the last stay whatever the policy says. */
static void oneshot_protect(const run *r, run_cell *c)
{
    const uint32_t first = c->config->keep_first, last = c->config->keep_last;

    for (uint32_t k = 0; k < c->job.n_caches; k++)
        for (uint32_t j = 0; j < r->N; j++)
            if (j < first || r->N - j <= last)
                c->score[(size_t)k * r->N + j] = INFINITY;
}

typedef struct oneshot_bases { run *r; uint32_t *owner; const kvt_prompt *prompt; } oneshot_bases;

static void oneshot_base(void *arg, uint32_t item, uint32_t thread)
{
    const oneshot_bases *t = arg;
    run *r = t->r;
    run_cell *c = &r->cell[t->owner[item]];
    kvt_ws ws = { NULL, 0, c->setup.ws_bytes };
    void *raw = malloc(ws.size + 64);

    (void)thread;
    c->base = calloc((size_t)c->setup.base_planes * c->job.n_caches * r->N, sizeof *c->base);
    memset(c->base_stat, 0, sizeof c->base_stat);
    r->item_status[item] = raw && c->base ? KVT_OK
        : kvt_fail(&r->item_err[item], KVT_ENOMEM, "%s: layer %u: out of memory for scores of %s", r->src->path, r->L.layer, c->config->info.label);
    if (r->item_status[item] == KVT_OK) {
        ws.base = (unsigned char *)raw + (64 - (uintptr_t)raw % 64) % 64;
        c->config->policy->base(&c->job, t->prompt, &ws, c->base, c->base_stat);
    }
    free(raw);
}

kvt_status kvt__bases(run *r, const uint32_t *list, uint32_t n, const kvt_prompt *in, kvt_err *err)
{
    oneshot_bases t = { r, malloc((n ? n : 1) * sizeof *t.owner), in };
    uint32_t n_owners = 0;
    kvt_status st = KVT_OK;

    if (!t.owner)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++) {           /* cells of a configuration follow one another */
        run_cell *c = &r->cell[list[i]];
        const run_cell *last = n_owners ? &r->cell[t.owner[n_owners - 1]] : NULL;
        c->base_of = list[i];
        if (!c->config->policy->base || c->setup.base_planes == 0)
            continue;
        if (last && last->config == c->config)
            c->base_of = t.owner[n_owners - 1];
        else
            t.owner[n_owners++] = list[i];
    }
    kvt_pool_run(r->pool, n_owners, oneshot_base, &t);
    for (uint32_t i = 0; i < n_owners && st == KVT_OK; i++)
        if (r->item_status[i] < 0) {
            st = r->item_status[i];
            if (err)
                *err = r->item_err[i];
        }
    free(t.owner);
    return st;
}

kvt_status kvt__score(const run *r, run_cell *c, const kvt_prompt *prompt, double *stat, kvt_err *err)
{
    const kvt_policy *p = c->config->policy;
    const size_t n = (size_t)c->job.n_caches * r->N;
    const run_cell *from = &r->cell[c->base_of];
    kvt_prompt view = *prompt, *in = &view;
    kvt_ws ws = { NULL, 0, c->setup.ws_bytes };
    void *raw = malloc(ws.size + 64);
    kvt_choice choice;

    view.base = from->base;
    if (from->base)
        memcpy(stat, from->base_stat, sizeof from->base_stat);

    free(c->score);
    c->score = malloc((n ? n : 1) * sizeof *c->score);
    if (!c->score || !raw) {
        free(raw);
        return kvt_fail(err, KVT_ENOMEM, "%s: layer %u: out of memory for scores of %s", r->src->path, r->L.layer, c->config->info.label);
    }
    for (uint32_t k = 0; k < c->job.n_caches; k++)
        c->keep[k] = c->job.keep_cache;
    c->keep_layer = c->job.keep_layer;
    ws.base = (unsigned char *)raw + (64 - (uintptr_t)raw % 64) % 64;
    choice = (kvt_choice){ c->score, c->keep, &c->keep_layer, stat };
    p->score(&c->job, in, &ws, &choice);
    free(raw);
    for (size_t i = 0; i < n; i++)
        if (isnan(c->score[i])) {
            const char *why = p->why ? p->why(p->self) : NULL;
            if (why)
                return kvt_fail(err, KVT_ECHECK, "policy %s: %s", c->config->info.label, why);
            return kvt_fail(err, KVT_ECHECK, "%s: layer %u: policy %s gave NaN for cache %zu token %zu; operands with NaN or Inf? run: kvtrace verify",
                            r->src->path, r->L.layer, c->config->info.label, i / r->N, i % r->N);
        }
    oneshot_protect(r, c);
    return KVT_OK;
}

static void oneshot_keep_all(const run *r, run_cell *c)
{
    memset(c->kept, 1, (size_t)c->job.n_caches * r->N);
    for (uint32_t k = 0; k < c->job.n_caches; k++)
        c->n_held[k] = r->N;
    if (!c->full && kvt__keeps_all(&c->job, &c->setup))
        c->flags |= KVT_FLAG_KEPT_ALL;
    c->last_kept = c->first_dropped = NAN;
}

static kvt_status oneshot_choose(run *r, run_cell *c, const kvt_prompt *in, kvt_err *err)
{
    const size_t n = (size_t)c->job.n_caches * ((size_t)r->N + 1);
    double stat[KVT_STATS] = { 0 };
    kvt_chosen chosen;
    const run_cell *from = &r->cell[c->score_of];
    uint32_t *scratch;

    if (from == c)
        KVT_TRY(kvt__score(r, c, in, stat, err));
    scratch = malloc((n ? n : 1) * sizeof *scratch);
    if (!scratch)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    /* who borrows scores has its own counts: nested policies leave the preset ones */
    for (uint32_t k = 0; from != c && k < c->job.n_caches; k++)
        c->keep[k] = c->job.keep_cache;
    kvt_choose(&c->job, &c->setup, r->L.layer, from->score, c->keep, from == c ? c->keep_layer : c->job.keep_layer, c->kept,
               c->n_held, scratch, &chosen);
    free(scratch);
    c->n_tied += chosen.n_tied;
    c->n_kept_all += chosen.n_held;
    c->last_kept = chosen.last_kept;
    c->first_dropped = chosen.first_dropped;
    return KVT_OK;
}

static int oneshot_scores(const run *r, uint32_t i)
{
    const run_cell *c = &r->cell[i];

    return c->score_of == i && !c->deferred && !oneshot_keeps_all(c);
}

static void oneshot_cell(void *arg, uint32_t item, uint32_t thread)
{
    const oneshot_task *t = arg;
    run *r = t->r;
    run_cell *c = &r->cell[t->cell[item]];

    (void)thread;
    r->item_status[item] = KVT_OK;
    if (oneshot_keeps_all(c)) {
        oneshot_keep_all(r, c);
    } else {
        if (c->deferred)
            kvt__defer_take(r, c);
        else
            r->item_status[item] = oneshot_choose(r, c, &t->prompt, &r->item_err[item]);
        if (r->item_status[item] < 0)
            return;
        c->flags |= c->setup.flags;
    }
    /* the bounds of an oracle are there before its set: for the count that was planned */
    for (uint32_t k = 0; c->config->policy->caps & KVT_POLICY_ORACLE && k < c->job.n_caches; k++)
        if (c->n_held[k] != c->n_prompt[k]) {
            r->item_status[item] = kvt_fail(&r->item_err[item], KVT_ECHECK, "%s: layer %u cache %u: oracle %s keeps %u tokens, its budget is %u",
                                            r->src->path, r->L.layer, k, c->config->info.label, c->n_held[k], c->n_prompt[k]);
            return;
        }
    memcpy(c->n_prompt, c->n_held, c->job.n_caches * sizeof *c->n_held);
}

/* base() for those of the cells that are scored now. */
static kvt_status oneshot_make_bases(run *r, const uint32_t *list, uint32_t n, const kvt_prompt *in, kvt_err *err)
{
    uint32_t *some = malloc((n ? n : 1) * sizeof *some), m = 0;
    kvt_status st;

    if (!some)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        if (oneshot_scores(r, list[i]))
            some[m++] = list[i];
    st = kvt__bases(r, some, m, in, err);
    free(some);
    return st;
}

/* Cells whose turn it is: oracles read the future, the others must not wait for it. In
 * two rounds: first those that are scored, then those that borrow scores. */
kvt_status kvt__choose_sets(run *r, int oracles, kvt_err *err)
{
    uint32_t *list = malloc((r->n_cells ? r->n_cells : 1) * sizeof *list);
    double *future = NULL;
    kvt_status st = KVT_OK;
    oneshot_task t = { r, list, { 0 } };

    if (!list)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    if (oracles) {                               /* [H][N] out of [H][T] */
        future = malloc((size_t)r->L.H * r->N * sizeof *future);
        if (!future) {
            st = kvt_fail(err, KVT_ENOMEM, "out of memory");
            goto done;
        }
        for (uint32_t h = 0; h < r->L.H; h++)
            memcpy(future + (size_t)h * r->N, r->L.col + (size_t)h * r->T, r->N * sizeof *future);
    }
    kvt__prompt_view(r, future, &t.prompt);
    for (int borrow = 0; borrow < 2 && st == KVT_OK; borrow++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < r->n_cells; i++) {
            run_cell *c = &r->cell[i];
            if (c->bound || c->minimax || ((c->config->policy->caps & KVT_POLICY_ORACLE) != 0) != (oracles != 0))
                continue;
            if (!borrow) {                       /* who scores for whom in this layer */
                uint32_t owner = i;
                if (c->setup.nested && !c->deferred && !oneshot_keeps_all(c))
                    for (uint32_t k = 0; k < i && owner == i; k++)
                        if (r->cell[k].config == c->config && r->cell[k].id.seed == c->id.seed && r->cell[k].setup.nested
                            && !oneshot_keeps_all(&r->cell[k]))
                            owner = r->cell[k].score_of;
                c->score_of = owner;
            }
            if ((c->score_of != i) == borrow)
                list[n++] = i;
        }
        st = borrow ? KVT_OK : oneshot_make_bases(r, list, n, &t.prompt, err);
        if (st < 0)
            break;
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
