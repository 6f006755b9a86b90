/* bench_engine.c - see bench_engine.h. */
#include "bench_engine.h"

#include <math.h>
#include <stdlib.h>

enum { ENGINE_PHASE = 64, ENGINE_HEAVY = 8 };   /* steps of one set of heavy hitters; how many */

/* A direction that phase p of KV head g looks for. */
static double engine_direction(uint64_t seed, uint32_t g, uint32_t p, uint32_t c)
{
    return bench_normal(seed, 4, ((uint64_t)g * 4096 + p) * 2048 + c);
}

static void engine_operands(bench_engine *e, uint64_t seed)
{
    run *r = &e->r;
    layer_run *L = &r->L;
    const uint32_t d = L->d, n_phases = (r->G + ENGINE_PHASE - 1) / ENGINE_PHASE;

    for (size_t i = 0; i < (size_t)L->Hkv * r->T * d; i++)
        L->k[i] = (float)bench_normal(seed, 1, i);
    for (size_t i = 0; i < (size_t)L->H * r->G * d; i++)
        L->q[i] = (float)bench_normal(seed, 2, i);
    for (uint32_t g = 0; g < L->Hkv; g++) {
        float *k = L->k + (size_t)g * r->T * d;
        for (uint32_t p = 0; p < n_phases; p++)
            for (uint32_t i = 0; i < ENGINE_HEAVY; i++) {
                const uint32_t j = (uint32_t)(bench_uniform(seed, 3, ((uint64_t)g * 4096 + p) * 64 + i) * r->N);
                for (uint32_t c = 0; c < d; c++)
                    k[(size_t)j * d + c] += (float)engine_direction(seed, g, p, c);
            }
        for (uint32_t c = 0; c < d; c++)
            k[c] = (float)(1.2 * engine_direction(seed, g, 4095, c));
    }
    for (uint32_t h = 0; h < L->H; h++)
        for (uint32_t t = 0; t < r->G; t++)
            for (uint32_t c = 0; c < d; c++)
                L->q[((size_t)h * r->G + t) * d + c] += (float)(engine_direction(seed, h / L->group, t / ENGINE_PHASE, c)
                                                               + 0.8 * engine_direction(seed, h / L->group, 4095, c));
}

static void engine_own_lse(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;
    kvt__own_lse(r, head, r->scratch[thread]);
}

static void engine_cells(bench_engine *e, uint64_t seed)
{
    run *r = &e->r;
    const uint32_t Hkv = r->L.Hkv;

    bench_cuts(r->N, e->n_budgets, e->cut);
    for (uint32_t b = 0; b < e->n_budgets; b++)
        e->budget[b] = (kvt_budget){ .in_tokens = 1, .value = e->cut[b] };
    for (uint32_t i = 0; i < e->n_policies * Hkv; i++)
        bench_permutation(seed, 16 + i, r->N, e->rank + (size_t)i * r->N);
    for (uint32_t h = 0; h < r->L.H; h++)
        bench_permutation(seed, 8192 + h, r->N, r->L.win_rank + (size_t)h * r->N);
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        const uint32_t p = i / e->n_budgets, b = i % e->n_budgets;
        unit *u = &r->unit[p];

        c->measured = c->curve = 1;
        c->curve_at = p;
        c->point = b;
        c->budget = &e->budget[b];
        c->job.n_q_heads = r->L.H;
        c->job.n_kv_heads = c->job.n_caches = Hkv;
        c->kept = e->kept + (size_t)i * Hkv * r->N;
        for (uint32_t k = 0; k < Hkv; k++) {
            c->n_held[k] = e->cut[b];
            for (uint32_t j = 0; j < r->N; j++)
                c->kept[(size_t)k * r->N + j] = e->rank[((size_t)p * Hkv + k) * r->N + j] < e->cut[b];
        }
        u->cell[u->n_curve++] = i;
    }
}

static kvt_status engine_alloc(bench_engine *e, const bench_conf *c, kvt_err *err)
{
    run *r = &e->r;
    layer_run *L = &r->L;
    const uint32_t n_threads = c->threads;
    size_t n_items = L->H > r->n_cells ? L->H : r->n_cells;
    int ok = 1;

    L->k = calloc((size_t)L->Hkv * r->T * L->d, sizeof *L->k);
    L->q = calloc((size_t)L->H * r->G * L->d, sizeof *L->q);
    L->lse = calloc((size_t)L->H * r->G, sizeof *L->lse);
    L->win_rank = calloc((size_t)L->H * r->N, sizeof *L->win_rank);
    e->cut = calloc(e->n_budgets, sizeof *e->cut);
    e->rank = calloc((size_t)e->n_policies * L->Hkv * r->N, sizeof *e->rank);
    e->kept = calloc((size_t)r->n_cells * L->Hkv * r->N, 1);
    r->cell = calloc(r->n_cells, sizeof *r->cell);
    r->unit = calloc(r->n_units, sizeof *r->unit);
    r->curve = calloc(r->n_curves, sizeof *r->curve);
    e->budget = calloc(e->n_budgets, sizeof *e->budget);
    r->item_status = calloc(n_items, sizeof *r->item_status);
    r->item_err = calloc(n_items, sizeof *r->item_err);
    r->scratch = calloc(n_threads, sizeof *r->scratch);
    r->scratch_bytes = ((size_t)L->d + r->T) * KVT_TILE * sizeof(double) + 64;
    r->scratch_bytes = (r->scratch_bytes + 63) & ~(size_t)63;
    if (!L->k || !L->q || !L->lse || !L->win_rank || !e->cut || !e->rank || !e->kept || !r->cell || !r->unit || !r->curve || !e->budget
        || !r->item_status || !r->item_err || !r->scratch)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n_threads; i++)
        ok &= (r->scratch[i] = malloc(r->scratch_bytes)) != NULL;
    for (uint32_t i = 0; i < r->n_cells; i++)
        ok &= (r->cell[i].n_held = calloc(L->Hkv, sizeof(uint32_t))) != NULL;
    for (uint32_t i = 0; i < r->n_curves; i++) {
        r->curve[i].id.n_point = e->n_budgets;
        ok &= (r->unit[i].cell = calloc(e->n_budgets, sizeof *r->unit[i].cell)) != NULL;
    }
    KVT_TRY(kvt__curve_alloc(r, err));
    return ok ? KVT_OK : kvt_fail(err, KVT_ENOMEM, "out of memory");
}

kvt_status bench_engine_new(bench_engine **out, const bench_conf *c, uint32_t n_budgets, size_t stage_bytes, kvt_err *err)
{
    bench_engine *e = calloc(1, sizeof *e);
    run *r;
    kvt_status st;

    if (!e)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    r = &e->r;
    e->layer = (kvt_layer_info){ .attn = KVT_ATTN_FULL, .n_heads = c->heads, .n_kv_heads = c->kv_heads, .d_k = c->d, .d_v = c->d,
                                 .scale = 1 / sqrt((double)c->d) };
    e->src.path = "synthetic rows";
    e->opts = (kvt_replay_opts){ .kernels = c->kern, .stage_bytes = stage_bytes };
    e->n_policies = c->policies;
    e->n_budgets = n_budgets;
    r->src = &e->src, r->opts = &e->opts, r->kern = c->kern;
    r->N = c->n, r->G = c->steps, r->T = c->n + c->steps, r->n_blocks = (c->steps + KVT_TILE - 1) / KVT_TILE;
    r->n_cells = c->policies * n_budgets;
    r->once = stage_bytes == 0;
    r->n_units = r->n_curves = c->policies;
    r->n_heads_all = r->n_heads_most = c->heads;
    r->L.info = &e->layer;
    r->L.H = c->heads, r->L.Hkv = c->kv_heads, r->L.group = c->heads / c->kv_heads, r->L.d = r->L.d_v = c->d;
    KVT_TRY_GOTO(st, kvt_pool_new(&r->pool, c->threads, err));
    KVT_TRY_GOTO(st, engine_alloc(e, c, err));
    engine_operands(e, c->seed);
    engine_cells(e, c->seed);
    kvt_pool_run(r->pool, r->L.H, engine_own_lse, r);
    *out = e;
    return KVT_OK;
done:
    bench_engine_free(e);
    return st;
}

void bench_engine_drop(bench_engine *e)
{
    layer_run *L = &e->r.L;

    free(L->prompt_mass), free(L->ns_mass), free(L->defect), free(L->lse_redone);
    L->prompt_mass = L->ns_mass = L->defect = NULL;
    L->lse_redone = NULL;
    L->n_staged = 0;
}

void bench_engine_free(bench_engine *e)
{
    run *r;

    if (!e)
        return;
    r = &e->r;
    bench_engine_drop(e);
    for (uint32_t i = 0; r->cell && i < r->n_cells; i++)
        free(r->cell[i].n_held);
    for (uint32_t i = 0; r->unit && i < r->n_units; i++)
        free(r->unit[i].cell);
    kvt__curve_free(r);
    free(r->stage), free(e->budget);
    for (uint32_t i = 0; r->scratch && i < kvt_pool_threads(r->pool); i++)
        free(r->scratch[i]);
    free(r->L.k), free(r->L.q), free(r->L.lse), free(r->L.win_rank), free(e->cut), free(e->rank), free(e->kept);
    free(r->cell), free(r->unit), free(r->item_status), free(r->item_err), free(r->scratch);
    kvt_pool_free(r->pool);
    free(e);
}

static void engine_only_rows(void *arg, uint32_t head, uint32_t thread)
{
    const run *r = arg;

    for (uint32_t b = 0; b < r->n_blocks; b++)
        (void)kvt__tile(r, head, b, r->scratch[thread]);
}

void bench_engine_only_rows(bench_engine *e)
{
    KVT_ASSERT(!e->r.L.n_staged);
    kvt_pool_run(e->r.pool, e->r.L.H, engine_only_rows, &e->r);
}

void bench_engine_plain(const bench_engine *e, uint32_t policy, uint32_t budget, uint32_t head, double *lost)
{
    const run *r = &e->r;
    const uint8_t *kept = kvt__kept_of(r, &r->cell[policy * e->n_budgets + budget], head);

    for (uint32_t t = 0; t < r->G; t++) {
        const float *tile = kvt__tile(r, head, t / KVT_TILE, r->scratch[0]);
        lost[t] = 0;
        for (uint32_t j = 0; j < r->N; j++)
            if (!kept[j])
                lost[t] += (double)tile[(size_t)j * KVT_TILE + t % KVT_TILE];
    }
}

double bench_engine_error(const bench_engine *e, uint32_t policy, uint32_t budget, uint32_t head, const double *lost)
{
    const run *r = &e->r;
    const uint32_t P = e->n_budgets, *q31 = r->curve[policy].q31 + (size_t)head * KVT_CURVE_METRICS * P + budget;
    double mean = 0, max = 0, a, b;

    for (uint32_t t = 0; t < r->G; t++) {
        mean += lost[t] / r->G;
        max = lost[t] > max ? lost[t] : max;
    }
    a = fabs(kvt_from_q31(q31[KVT_CURVE_MEAN * P]) - mean);
    b = fabs(kvt_from_q31(q31[KVT_CURVE_MAX * P]) - max);
    return a > b || isnan(a) ? a : b;
}
