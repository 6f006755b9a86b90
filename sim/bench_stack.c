/* bench_stack.c - curves of online policies: one stack for all budgets (stack.c), against
 * a simulation of every budget by itself.
 *
 * Two references. The engine's own lanes (lane.c) do the same work for the same cells, and
 * every loss must be the same number. They are made for any policy and rank all slots at
 * each eviction; so the second is the tightest loop for these two policies alone: rows laid
 * out by step beforehand, one gather per held entry with its update, the running minimum
 * and the kept mass, and the last entry moves into the gap. */
#include "bench_engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_prim.h"
#include "stack.h"

static const char *const stack_specs[] = { "h2o:score_src=full", "tova:score_src=full" };
enum { STACK_H2O, STACK_TOVA, STACK_SPECS };

typedef struct stack_side {         /* one policy on the engine's rows                */
    bench_engine  *e;
    run            r;               /* e's, with cells of its own                     */
    kvt_trace_info info;
    kvt_config    *config;
    kvt_budget    *budget;          /* [n_cells]                                      */
    int            curve, kind;     /* 1: a stack serves the cells                    */
    uint32_t       window;
    double        *want;            /* [n_cells][G] losses of the lanes               */
    float         *row;             /* [G][T] of the tight loop, and what follows     */
    float         *score, *start;   /* [T] of held entries; [N] at the end of the prompt */
    uint32_t      *held, *order, *tmp;      /* [T]                                    */
    double        *kept;            /* [n_cells][G]                                   */
} stack_side;

/* ---- the engine ------------------------------------------------------------------------ */

static kvt_status stack_cells(stack_side *s, const bench_conf *c, kvt_err *err)
{
    run *r = &s->r;

    r->cell = calloc(r->n_cells, sizeof *r->cell);
    s->budget = calloc(r->n_cells, sizeof *s->budget);
    if (!r->cell || !s->budget)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_cells; i++) {
        char text[16];
        snprintf(text, sizeof text, "%ut", s->e->cut[i]);
        KVT_TRY(kvt_budget_parse(&s->budget[i], text, KVT_RULE_SHARE, err));
        r->cell[i] = (run_cell){ .config = s->config, .budget = &s->budget[i], .measured = 1, .online = 1, .score_of = i };
        r->cell[i].id.seed = c->seed;
        if (!(r->cell[i].part = calloc((size_t)r->G * N_PARTS, sizeof(double))))
            return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    KVT_TRY(kvt__jobs(r, err));
    KVT_TRY(kvt__choose_sets(r, 0, err));
    kvt__lane_counts(r);
    return KVT_OK;
}

/* What the policies read of the prompt: attention of its last token, and of all its tokens,
 * older ones seen by more. */
static kvt_status stack_prompt(stack_side *s, const bench_conf *c, kvt_err *err)
{
    layer_run *L = &s->r.L;
    const uint32_t N = s->r.N;
    double sum = 0;

    L->win = calloc(N, sizeof *L->win);
    L->col_sum = calloc(N, sizeof *L->col_sum);
    if (!L->win || !L->col_sum)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t j = 0; j < N; j++) {
        sum += exp(2 * bench_normal(c->seed, 5, j));
        L->col_sum[j] = (float)(exp(bench_normal(c->seed, 6, j)) * log((N + 1.0) / (j + 1.0)));
    }
    for (uint32_t j = 0; j < N; j++)
        L->win[j] = (float)(exp(2 * bench_normal(c->seed, 5, j)) / sum);
    s->r.window = 1;
    return KVT_OK;
}

static kvt_status stack_engine(stack_side *s, int curve, double *took, kvt_err *err)
{
    run *r = &s->r;
    kvt_status st;
    double start;

    for (uint32_t i = 0; i < r->n_cells; i++) {
        r->cell[i].curve = curve;
        memset(r->cell[i].part, 0, (size_t)r->G * N_PARTS * sizeof(double));
    }
    start = bench_now_s();
    st = kvt__lanes_prompt(r, err);
    if (st == KVT_OK)
        st = kvt__lanes(r, err);
    kvt__lanes_free(r);
    *took = bench_now_s() - start;
    return st;
}

static double stack_lost(const stack_side *s, uint32_t i, uint32_t t)
{
    const double *p = s->r.cell[i].part + (size_t)t * N_PARTS;
    return p[PART_SINK] + p[PART_SELECTION] + p[PART_LATE] + p[PART_NEW];
}

static kvt_status stack_lanes(void *arg, double *took, kvt_err *err)
{
    stack_side *s = arg;

    KVT_TRY(stack_engine(s, 0, took, err));
    for (uint32_t i = 0; i < s->r.n_cells; i++)
        for (uint32_t t = 0; t < s->r.G; t++)
            s->want[(size_t)i * s->r.G + t] = stack_lost(s, i, t);
    return KVT_OK;
}

static kvt_status stack_once(void *arg, double *took, kvt_err *err)
{
    return stack_engine(arg, 1, took, err);
}

/* Losses that are not the lanes' to the last bit. */
static double stack_mismatches(const stack_side *s)
{
    double n = 0;

    for (uint32_t i = 0; i < s->r.n_cells; i++)
        for (uint32_t t = 0; t < s->r.G; t++)
            n += stack_lost(s, i, t) != s->want[(size_t)i * s->r.G + t];
    return n;
}

/* ---- the tight loop --------------------------------------------------------------------- */

static kvt_status stack_tight_new(stack_side *s, kvt_err *err)
{
    const run *r = &s->r;
    const size_t T = r->T;

    s->row = malloc(r->G * T * sizeof *s->row);
    s->score = malloc(T * sizeof *s->score);
    s->start = malloc(T * sizeof *s->start);
    s->held = malloc(T * sizeof *s->held);
    s->order = malloc(T * sizeof *s->order);
    s->tmp = malloc(T * sizeof *s->tmp);
    s->kept = malloc((size_t)r->n_cells * r->G * sizeof *s->kept);
    s->want = malloc((size_t)r->n_cells * r->G * sizeof *s->want);
    if (!s->row || !s->score || !s->start || !s->held || !s->order || !s->tmp || !s->kept || !s->want)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t t = 0; t < r->G; t++) {
        const float *tile = kvt__tile(r, 0, t / KVT_TILE, r->scratch[0]);
        for (uint32_t j = 0; j < r->T; j++)
            s->row[t * T + j] = tile[(size_t)j * KVT_TILE + t % KVT_TILE];
    }
    for (uint32_t j = 0; j < r->N; j++)
        s->start[j] = s->kind == STACK_TOVA ? r->L.win[j] : r->N - 1 - j < s->window ? KVT_ALWAYS_KEEP : r->L.col_sum[j];
    kvt_rank(s->start, r->N, s->order, s->tmp);
    return KVT_OK;
}

/* One step of one budget: scores of n held entries, the place of the one that leaves. Where
 * all are among the latest it is the newcomer, which is the last. */
static uint32_t stack_tight_step(stack_side *s, const float *row, uint32_t n, uint32_t p, double *kept)
{
    const uint32_t *held = s->held, safe = p + 1 > s->window ? p + 1 - s->window : 0;
    const float keep = s->kind == STACK_H2O ? 1 : 0;
    float *score = s->score, low = INFINITY;
    uint32_t at = n - 1;
    double mass = 0;

    for (uint32_t k = 0; k < n; k++) {
        const float a = row[held[k]], x = score[k] * keep + a;
        mass += (double)a;
        score[k] = x;
        if (x > low || held[k] >= safe || (x == low && held[k] < held[at]))
            continue;
        low = x;
        at = k;
    }
    *kept = mass;
    return at;
}

static kvt_status stack_tight(void *arg, double *took, kvt_err *err)
{
    stack_side *s = arg;
    const run *r = &s->r;

    (void)took, (void)err;
    for (uint32_t i = 0; i < r->n_cells; i++) {
        const uint32_t n = s->e->cut[i];
        for (uint32_t k = 0; k < n; k++) {
            s->held[k] = s->order[k];
            s->score[k] = s->kind == STACK_TOVA ? 0 : r->L.col_sum[s->order[k]];
        }
        for (uint32_t t = 0; t < r->G; t++) {
            uint32_t at;
            s->held[n] = r->N + t;
            s->score[n] = 0;
            at = stack_tight_step(s, s->row + (size_t)t * r->T, n + 1, r->N + t, &s->kept[(size_t)i * r->G + t]);
            s->held[at] = s->held[n];
            s->score[at] = s->score[n];
        }
    }
    return KVT_OK;
}

/* Largest distance from what the tight loop has kept. Rows sum to 1 within 1e-6. */
static double stack_tight_error(const stack_side *s)
{
    double worst = 0;

    for (uint32_t i = 0; i < s->r.n_cells; i++)
        for (uint32_t t = 0; t < s->r.G; t++) {
            const double d = fabs(1 - s->kept[(size_t)i * s->r.G + t] - stack_lost(s, i, t));
            worst = d > worst || isnan(d) ? d : worst;
        }
    return worst;
}

/* ---- all of it --------------------------------------------------------------------------- */

static void stack_free(stack_side *s)
{
    run *r = &s->r;

    for (uint32_t i = 0; r->cell && i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        free(c->kept), free(c->n_held), free(c->n_prompt), free(c->keep), free(c->score), free(c->part);
    }
    free(r->cell), free(r->L.win), free(r->L.col_sum), free(s->budget);
    free(s->want), free(s->row), free(s->score), free(s->start), free(s->held), free(s->order), free(s->tmp), free(s->kept);
    kvt_config_free(s->config);
}

static bench_item *stack_item(bench_out *o, const stack_side *s, const bench_times *t, const char *name)
{
    bench_item *it = bench_add(o, "%s, %s", s->config->policy->id, name);

    it->time = *t;
    it->elements = (double)s->r.G * (s->r.N + (s->r.G + 1) / 2.0);
    it->extra[0].name = "ns_per_key_and_step";
    it->extra[0].value = t->min_s * 1e9 / it->elements;
    return it;
}

static kvt_status stack_policy(bench_out *o, bench_engine *e, int kind, kvt_err *err)
{
    const bench_conf *c = &o->conf;
    stack_side s = { .e = e, .r = e->r, .kind = kind };
    bench_times rt, st_times;
    bench_item *it;
    kvt_status st;

    s.r.cell = NULL;
    s.info = (kvt_trace_info){ .content_id = "bench", .n_layers = 1, .n_prompt = c->n, .n_decode = c->steps, .n_tokens = c->n + c->steps,
                               .layer = &e->layer };
    s.r.info = &s.info;
    KVT_TRY_GOTO(st, kvt_config_parse(&s.config, stack_specs[kind], err));
    s.window = kind == STACK_H2O ? (uint32_t)kvt_config_param(s.config, "window", 0) : 0;
    KVT_TRY_GOTO(st, stack_prompt(&s, c, err));
    KVT_TRY_GOTO(st, stack_cells(&s, c, err));
    KVT_TRY_GOTO(st, stack_tight_new(&s, err));

    KVT_TRY_GOTO(st, bench_pair(c, stack_lanes, &s, stack_once, &s, &rt, &st_times, err));
    it = stack_item(o, &s, &st_times, "stack, speed over lanes");
    bench_reference(it, "lanes of every budget", &rt, 0, "s");
    it->ratio = rt.min_s / st_times.min_s;
    bench_check(it, "losses unlike the lanes'", stack_mismatches(&s), 0);
    bench_target_add(o, c->n < 16384 ? "N1" : "N2", it->ratio, ">=", c->n < 16384 ? 8 : 12);

    KVT_TRY_GOTO(st, bench_pair(c, stack_tight, &s, stack_once, &s, &rt, &st_times, err));
    it = stack_item(o, &s, &st_times, "stack, speed over loops");
    bench_reference(it, "tight loop of every budget", &rt, 0, "s");
    it->ratio = rt.min_s / st_times.min_s;
    bench_check(it, "f64", stack_tight_error(&s), 2e-6);
done:
    stack_free(&s);
    return st;
}

kvt_status bench_stack(bench_out *o, kvt_err *err)
{
    bench_conf *c = &o->conf;
    bench_engine *e = NULL;
    kvt_status st;

    c->n = c->n ? c->n : 4096;
    c->d = c->d ? c->d : 64;
    c->steps = c->steps ? c->steps : 512;
    c->heads = c->kv_heads = c->policies = c->threads = 1;
    c->budgets[0] = c->budgets[0] ? c->budgets[0] : 32;
    KVT_TRY_GOTO(st, bench_engine_new(&e, c, c->budgets[0], SIZE_MAX, err));
    KVT_TRY_GOTO(st, kvt__rows_all(&e->r, err));
    for (int kind = 0; kind < STACK_SPECS; kind++)
        KVT_TRY_GOTO(st, stack_policy(o, e, kind, err));
    bench_note(o, "one query head; rows are staged on both sides and not part of the time");
    bench_note(o, "the tight loop knows the policy, gets its rows laid out by step, and does not split the mass by kind of entry");
done:
    bench_engine_free(e);
    return st;
}
