/* estimate.c - see estimate.h.
 *
 * One pass over layers and cells adds up allocations and work. What depends on the data
 * (how many runs above a threshold, how many series are stored) is taken from the bundled
 * trace of a real model. The two tables at the top hold every constant that was fitted;
 * memory follows the allocations of the files that it names. */
#include "estimate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "kvt_prim.h"
#include "lane.h"

/* ------------------------------------------------------------- fitted numbers */

/* What is counted, the measured rate that prices it, and the factor between them. */
enum { WORK_ROWS, WORK_CLASSES, WORK_ORACLE, WORK_SCORE, WORK_LANE, WORK_TAIL, WORK_RUNS, WORK_CAUSES, WORK_MINIMAX, WORK_STORE, N_WORK };
static const struct { int rate; double times; int serial; } est_price[N_WORK] = {
    [WORK_ROWS]    = { KVT_RATE_ROW, 1.2, 0 },   /* keys x steps x channels of rows, each time they are evaluated */
    [WORK_CLASSES] = { KVT_RATE_CLASS, 3, 0 },   /* keys x steps x configurations, all budgets together  */
    [WORK_ORACLE]  = { KVT_RATE_RANK, 1, 0 },    /* keys x steps that are sorted                         */
    [WORK_SCORE]   = { KVT_RATE_RANK, 0.15, 0 }, /* window rows x keys that a score() reads              */
    [WORK_LANE]    = { KVT_RATE_RANK, 1.3, 0 },  /* slots x steps of online caches                       */
    [WORK_TAIL]    = { KVT_RATE_RANK, 32, 0 },   /* steps of the series of heads and cells               */
    [WORK_RUNS]    = { KVT_RATE_RANK, 40, 0 },   /* runs above a threshold                               */
    [WORK_CAUSES]  = { KVT_RATE_RANK, 5, 0 },    /* keys of heads and cells, once for each               */
    [WORK_MINIMAX] = { KVT_RATE_CLASS, 80, 0 },  /* keys x steps x counts that are searched              */
    [WORK_STORE]   = { KVT_RATE_RANK, 450, 1 },  /* rows                                                 */
};

/* Of the bundled real trace: per head and step of a cell, and bytes in the database. */
#define EST_RUNS         0.12       /* runs above the three thresholds                */
#define EST_RESPONSIBLE  0.5        /* responsible entries per run                    */
#define EST_SERIES       0.9        /* stored series (lost, oracle) per head          */
#define EST_BASE_BYTES   ((uint64_t)14 << 20)    /* program and libraries                  */
#define EST_CACHE_BYTES  ((uint64_t)64 << 20)    /* SQLite's cache, when there is as much to write */
enum { ROW_HEAD = 231, ROW_KVHEAD = 92, ROW_TAU = 30, ROW_LAYER = 47, ROW_CELL = 2000, ROW_RUN = 86, ROW_RESPONSIBLE = 54,
       ROW_SERIES = 96, ROW_LADDER = 400 };

/* ---------------------------------------------------------------- the rates */

enum { CAL_KEYS = 2048, CAL_D = 64, CAL_REPS = 3 };

static double est_now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct est_cal { double qt[CAL_D * KVT_TILE], mass[64 * KVT_TILE]; float k[CAL_KEYS * CAL_D], tile[CAL_KEYS * KVT_TILE];
                         uint16_t key[CAL_KEYS]; uint32_t start[65], order[CAL_KEYS], tmp[CAL_KEYS]; } est_cal;

static void est_run(int rate, const kvt_kernels *kern, est_cal *c, const kvt_rows_args *a)
{
    if (rate == KVT_RATE_ROW)
        kern->rows(a);
    else if (rate == KVT_RATE_CLASS)
        kern->line_mass(c->tile, c->key, c->start, 64, c->mass);
    else
        kvt_rank(c->k, CAL_KEYS, c->order, c->tmp);
}

kvt_status kvt_rates_measure(const kvt_kernels *kern, kvt_rates *out, kvt_err *err)
{
    static const double elements[KVT_N_RATES] = { [KVT_RATE_ROW] = (double)CAL_KEYS * KVT_TILE * CAL_D, [KVT_RATE_RANK] = CAL_KEYS,
                                                  [KVT_RATE_CLASS] = (double)CAL_KEYS * KVT_TILE };
    est_cal *c = calloc(1, sizeof *c);
    double lse[KVT_TILE];
    uint32_t visible[KVT_TILE];
    kvt_rows_args a;

    if (!c)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < CAL_KEYS * CAL_D; i++)
        c->k[i] = (float)((i * 2654435761u >> 8) % 65536) / 65536 - 0.5f;
    for (uint32_t i = 0; i < CAL_D * KVT_TILE; i++)
        c->qt[i] = (double)c->k[7 * i];
    for (uint32_t j = 0; j < CAL_KEYS; j++)
        c->key[j] = (uint16_t)(j * 77 % CAL_KEYS);
    for (uint32_t i = 0; i <= 64; i++)
        c->start[i] = i * (CAL_KEYS / 64);
    for (uint32_t i = 0; i < KVT_TILE; i++)
        lse[i] = 8, visible[i] = CAL_KEYS;
    a = (kvt_rows_args){ .qt = c->qt, .k = c->k, .n_keys = CAL_KEYS, .d = CAL_D, .scale = 0.125, .lse = lse, .n_visible = visible, .tile = c->tile };
    for (int rate = 0; rate < KVT_N_RATES; rate++) {
        double best = 1e9;
        for (int rep = 0; rep < CAL_REPS; rep++) {           /* the least of a few stretches of 10 ms */
            const double start = est_now_s();
            double took;
            uint32_t n = 0;
            do {
                est_run(rate, kern, c, &a);
                n++;
                took = est_now_s() - start;
            } while (took < 0.01);
            best = took / n < best ? took / n : best;
        }
        out->s[rate] = best / elements[rate];
    }
    free(c);
    return KVT_OK;
}

/* ------------------------------------------------------------------ the plan */

typedef struct est_cell {           /* the cells of one configuration and budget      */
    const kvt_config *config;
    const kvt_budget *budget;
    uint32_t          n;            /* seeds that are to be measured                  */
    kvt_job           job;          /* of the layer at hand                           */
    kvt_setup         setup;
    int online, bound, minimax, in_prompt, deferred;
    int curve, stacked;             /* a point of a curve; one that shares a stack with the others */
} est_cell;

typedef struct est {
    const kvt_trace_info  *info;
    const kvt_replay_opts *opts;
    est_cell *cell;                 /* [n_cell]                                       */
    kvt_budget *grid;               /* [n_grid] of the curves                         */
    uint32_t  n_grid, n_points;     /* n_points: of all curves                        */
    uint32_t  n_cell, n_units, n_online, n_in_prompt, n_deferred, n_minimax;
    uint32_t  need, window, n_q;
    uint64_t  N, G, T, n_threads;
    uint64_t  peak, peak_cells, peak_threads;   /* bytes of the largest layer; of these, of cells, of threads */
    uint64_t  kept;                 /* bytes of all layers                            */
    double    work[N_WORK];
    double    rows, db_bytes;
} est;

static void est_classify(const est *e, est_cell *c, uint32_t layer)
{
    kvt__job(c->config, c->budget, e->info, layer, 0, &c->job);
    kvt__setup(c->config->policy, &c->job, &c->setup);
    c->online = c->setup.caps & KVT_POLICY_ONLINE && c->setup.capacity != KVT_NO_LIMIT;
    c->in_prompt = c->setup.prompt_stride > 0;
    c->deferred = c->setup.caps & KVT_POLICY_ONESHOT && (c->config->policy->allot || c->setup.rank_over == KVT_SPAN_MODEL);
    c->minimax = strcmp(c->config->policy->id, "oracle_minimax") == 0;
    c->bound = (c->config->policy->caps & KVT_POLICY_BOUND) != 0 && !c->minimax;
    c->stacked = c->curve && c->online && c->setup.stack && !(c->setup.caps & KVT_POLICY_ONESHOT);
}

static kvt_status est_claim(const est *e, const kvt_source *src, const kvt_config *config, const kvt_budget *b, kvt_sink sink,
                            uint32_t *n, kvt_err *err)
{
    const int random = (config->policy->caps & KVT_POLICY_RANDOM) || config->ties == KVT_TIES_SEEDED;
    const uint32_t n_seeds = !random ? 1 : e->opts->n_seeds ? e->opts->n_seeds : 5;

    *n = 0;
    for (uint32_t s = 0; s < n_seeds; s++) {
        kvt_cell id = { .trace = e->info, .trace_path = src->path, .config = &config->info, .budget = &b->info,
                        .seed = random ? e->opts->seed + s : 0, .requested_tokens = b->in_tokens ? b->value : b->value * e->info->n_prompt };
        int todo = 1;
        kvt_cell_key(&id);
        if (sink.ops)
            KVT_TRY(sink.ops->claim(sink.self, &id, &todo, err));
        *n += todo != 0;
    }
    return KVT_OK;
}

static kvt_status est_grid(est *e, kvt_err *err)
{
    uint32_t kept[KVT_CURVE_POINTS_MAX];

    e->n_grid = e->opts->n_curve ? kvt_curve_grid(e->info->n_prompt, e->opts->n_curve, kept) : 0;
    e->grid = calloc((size_t)e->n_grid + 1, sizeof *e->grid);
    if (!e->grid)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < e->n_grid; i++) {
        char text[16];
        snprintf(text, sizeof text, "%ut", kept[i]);
        KVT_TRY(kvt_budget_parse(&e->grid[i], text, KVT_RULE_SHARE, err));
    }
    return KVT_OK;
}

/* A cell, and what the whole replay needs for it. */
static void est_take(est *e, est_cell c, uint32_t layer)
{
    est_classify(e, &c, layer);
    e->need |= c.setup.needs;
    if (kvt__reads_window(c.config->policy, &c.job, &c.setup) && c.setup.window > e->window)
        e->window = c.setup.window;
    e->n_online += c.online ? c.n : 0, e->n_in_prompt += c.in_prompt ? c.n : 0;
    e->n_deferred += c.deferred ? c.n : 0, e->n_minimax += c.minimax ? c.n : 0;
    e->n_points += c.curve ? c.n : 0;
    e->cell[e->n_cell++] = c;
}

/* Curves: which are there already is not asked, all are counted. */
static void est_points(est *e, const kvt_config *config, uint32_t layer)
{
    const int random = (config->policy->caps & KVT_POLICY_RANDOM) || config->ties == KVT_TIES_SEEDED;

    if (strcmp(config->policy->id, "full") == 0 || strcmp(config->policy->id, "oracle_minimax") == 0)
        return;
    for (uint32_t i = 0; i < e->n_grid; i++)
        if (kvt_plan_check(e->info, config, &e->grid[i], NULL) == KVT_OK)
            est_take(e, (est_cell){ .config = config, .budget = &e->grid[i], .curve = 1,
                                    .n = !random ? 1 : e->opts->n_seeds ? e->opts->n_seeds : 5 }, layer);
}

/* Every cell that is to be measured. */
static kvt_status est_plan(est *e, const kvt_source *src, kvt_sink sink, kvt_err *err)
{
    const kvt_replay_opts *o = e->opts;
    uint32_t first = 0;

    KVT_TRY(est_grid(e, err));
    e->cell = calloc((size_t)o->n_config * ((size_t)o->n_budget + e->n_grid) + 1, sizeof *e->cell);
    if (!e->cell)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    while (e->info->layer[first].attn != KVT_ATTN_FULL)
        first++;
    e->window = e->info->window < KVT_OBSERVE ? e->info->window : KVT_OBSERVE;
    for (uint32_t i = 0; i < o->n_config; i++) {
        const uint32_t at = e->n_cell;
        uint32_t n_seeds = 0;
        for (uint32_t b = 0; b < o->n_budget; b++) {
            est_cell c = { .config = o->config[i], .budget = &o->budget[b] };
            if (kvt_plan_check(e->info, c.config, c.budget, NULL) < 0)
                continue;
            KVT_TRY(est_claim(e, src, c.config, c.budget, sink, &c.n, err));
            if (c.n == 0)
                continue;
            est_take(e, c, first);
        }
        est_points(e, o->config[i], first);
        for (uint32_t k = at; k < e->n_cell; k++)
            if (!e->cell[k].online && !e->cell[k].bound && e->cell[k].n > n_seeds)
                n_seeds = e->cell[k].n;
        e->n_units += n_seeds;
    }
    e->window = e->window < e->info->window ? e->window : e->info->window;
    e->n_q = e->need & KVT_NEED_PROMPT ? e->info->n_prompt : e->window;
    return KVT_OK;
}

/* Distinct counts that losses are bounded at, of one family: one per budget where all caches
 * hold the same, one per cache where they do not; no more than there are counts. */
static uint64_t est_counts(const est *e, int online)
{
    uint64_t n = 0;
    int even = 0;

    for (uint32_t i = 0; i < e->n_cell; i++) {
        const est_cell *c = &e->cell[i];
        if (c->online != online || (c->curve && !c->bound))
            continue;
        if (c->setup.rank_over != KVT_SPAN_CACHE || c->setup.uneven)
            n += (uint64_t)c->n * c->job.n_caches;
        else
            even = 1;
    }
    n += even ? e->opts->n_budget : 0;
    n += e->n_minimax && !online ? KVT_LADDER_ANCHORS : 0;
    return n < e->T ? n : e->T;
}

/* -------------------------------------------------------------------- memory */

/* lane.c: one cache for each cache of the cell, or one for the layer. */
static uint64_t est_lane_bytes(const est *e, const est_cell *c)
{
    const uint64_t lanes = c->setup.share_over == KVT_SPAN_LAYER ? 1 : c->job.n_caches;
    const uint64_t slot = 13 * sizeof(float) + sizeof(double) + c->config->policy->slot_cols * sizeof(float);

    return lanes * ((e->T + 1) * slot + c->setup.ws_bytes + sizeof(lane));
}

/* oneshot.c, mass.c, violation.c: one cell on one layer. */
static uint64_t est_cell_bytes(const est *e, const est_cell *c, const kvt_layer_info *x)
{
    const uint64_t caches = c->minimax ? x->n_heads : c->job.n_caches, steps = (uint64_t)x->n_heads * e->G;
    uint64_t n = steps * N_PARTS * sizeof(double) + (uint64_t)x->n_heads * sizeof(vio_list);

    if (c->curve)                                /* online: its losses; its lane, or a share of the stack */
        return (c->bound ? 0 : caches * e->N) + (c->online ? steps * N_PARTS * sizeof(double) : 0)
             + (c->stacked ? steps * sizeof(double) : c->online || c->in_prompt ? est_lane_bytes(e, c) : 0);
    if (!c->bound)
        n += caches * e->N;
    if (!c->bound && !c->minimax && !c->setup.nested && !c->deferred)
        n += (uint64_t)c->job.n_caches * e->N * sizeof(float);
    if (e->opts->output_error && !c->bound)
        n += 2 * (steps / KVT_ERR_EVERY + x->n_heads) * sizeof(double);
    return n + (c->online || c->in_prompt ? est_lane_bytes(e, c) : 0);
}

/* replay.c, gather.c: one cell, what stays from every layer until the end. */
static uint64_t est_kept_bytes(const est *e, const est_cell *c, const kvt_layer_info *x)
{
    const double runs = EST_RUNS * (double)(x->n_heads * e->G);
    const uint64_t sets = c->deferred ? (uint64_t)c->job.n_caches * e->N * (sizeof(float) + 1) : 0;
    uint64_t n = (uint64_t)x->n_heads * (sizeof(kvt_head_result) + KVT_N_TAU * sizeof(kvt_tau_result) + 2 * e->G * sizeof(uint32_t));

    if (c->curve)
        return sets + (uint64_t)x->n_heads * KVT_CURVE_METRICS * sizeof(uint32_t);
    n += (uint64_t)x->n_kv_heads * 2 * sizeof(kvt_kvhead_result) + sizeof(kvt_layer_result);
    n += (uint64_t)(runs * (double)(sizeof(kvt_violation) + sizeof(uint32_t)) * 1.5);     /* lists grow by doubling */
    n += (uint64_t)(runs * EST_RESPONSIBLE * sizeof(kvt_responsible) * 1.5);
    return n + sets;
}

static uint64_t est_stage_bytes(const est *e, const kvt_layer_info *x)
{
    const uint64_t head = (e->G + KVT_TILE - 1) / KVT_TILE * e->T * KVT_TILE * sizeof(float);
    const uint64_t fit = (e->opts->stage_bytes ? e->opts->stage_bytes : kvt_stage_default()) / head;

    return head * (fit < x->n_heads ? fit : x->n_heads);
}

static double est_share_staged(const est *e, const kvt_layer_info *x)
{
    return (double)est_stage_bytes(e, x)
         / ((double)x->n_heads * (double)((e->G + KVT_TILE - 1) / KVT_TILE * e->T) * KVT_TILE * sizeof(float));
}

/* prompt.c, rows.c, bounds.c: the layer itself. Mapped datasets count as well. */
static uint64_t est_layer_bytes(const est *e, const kvt_layer_info *x)
{
    const uint64_t H = x->n_heads, Hkv = x->n_kv_heads, row = x->d_k * sizeof(float);
    uint64_t n = Hkv * e->T * row + H * (e->n_q + e->G) * row + H * e->G * 3 * sizeof(double);

    n += Hkv * e->T * x->d_k * kvt_dtype_bytes(x->k_type) + H * (e->info->n_rows) * x->d_k * kvt_dtype_bytes(x->q_type);
    if (e->opts->output_error || e->need & KVT_NEED_VALUES)
        n += Hkv * e->T * x->d_v * (sizeof(float) + kvt_dtype_bytes(x->v_type));
    n += H * e->N * ((e->need & KVT_NEED_NU ? 2u : 0u) + (e->need & KVT_NEED_COLSTAT ? 2u : 0u)) * sizeof(float);
    n += H * (e->window + 1ull) * e->N * sizeof(float) + H * e->T * sizeof(double);
    n += est_stage_bytes(e, x);
    if (est_share_staged(e, x) < 1 && e->n_online)
        n += H * KVT_TILE * (e->T * sizeof(float) + x->d_k * sizeof(double));
    return n + 2 * H * e->G * (est_counts(e, 0) + est_counts(e, 1)) * sizeof(uint32_t);
}

/* replay.c, mass.c, ladder.c: what every thread has. */
static uint64_t est_thread_bytes(const est *e, uint32_t d)
{
    uint64_t n = (d + e->T) * KVT_TILE * sizeof(double);

    /* keys by class of every unit, making one of them, a stretch of masses, losses of points */
    n += e->n_units * e->N * sizeof(uint16_t) + e->N * 32 + 4096 * KVT_TILE * sizeof(float) + e->n_points * e->G * sizeof(uint32_t);
    if (e->n_minimax)
        n += (e->n_minimax + KVT_LADDER_ANCHORS) * (e->N + e->G * 3 * sizeof(double)) + e->N * 4 * sizeof(double);
    return n;
}

/* ---------------------------------------------------------------------- work */

static void est_layer_work(est *e, const kvt_layer_info *x)
{
    const double H = x->n_heads, decode = H * (double)e->G * ((double)e->N + (double)e->G / 2), prompt = H * (double)e->G * (double)e->N;
    const double families = (e->n_cell > 0) + (e->n_online > 0);
    const double again = 2 + families + (e->n_online > 0) + (e->n_minimax > 0), passes = 1 + again * (1 - est_share_staged(e, x));

    e->work[WORK_ROWS] += decode * passes * x->d_k + H * e->window * (double)e->N * x->d_k * (e->n_deferred ? 2 : 1);
    if (e->n_in_prompt)
        e->work[WORK_ROWS] += H * (double)e->N * (double)e->N * x->d_k / 2;
    e->work[WORK_CLASSES] += prompt * ((double)e->n_units + 1) + (e->n_online ? decode : 0);
    e->work[WORK_ORACLE] += prompt + (e->n_online ? decode : 0);
    if (e->n_minimax)
        e->work[WORK_MINIMAX] += prompt * (e->n_minimax + KVT_LADDER_ANCHORS);
}

static void est_cell_work(est *e, const est_cell *c, const kvt_layer_info *x)
{
    const double H = x->n_heads, heads = H * c->n, N = (double)e->N, G = (double)e->G;

    if (c->curve) {                              /* scored with the first; no runs, no causes */
        e->work[WORK_LANE] += c->online && !c->stacked ? heads * G * (N + G / 2) : 0;
        e->work[WORK_TAIL] += heads * G / 4;
        return;
    }
    if (!c->bound && !c->online && !(c->setup.nested && c != e->cell && c[-1].config == c->config))
        e->work[WORK_SCORE] += heads * e->window * N;
    if (c->online)
        e->work[WORK_LANE] += heads * G * (N + G / 2);
    if (c->in_prompt)
        e->work[WORK_LANE] += heads * N * (c->setup.prompt_capacity < N ? (double)c->setup.prompt_capacity : N / 2);
    e->work[WORK_TAIL] += heads * G;
    e->work[WORK_RUNS] += heads * G * EST_RUNS;
    e->work[WORK_CAUSES] += heads * N;
}

/* Rows of one cell and one layer, and their bytes. */
static void est_cell_rows(est *e, const est_cell *c, const kvt_layer_info *x)
{
    const double H = x->n_heads, kv = 2 * (double)x->n_kv_heads, runs = EST_RUNS * H * (double)e->G, series = EST_SERIES * H;
    const double ladder = c->minimax ? 2 * H : 0;

    if (c->curve) {
        e->rows += c->n * (H + 1) / (e->n_grid ? e->n_grid : 1);
        e->db_bytes += c->n * (H + 1) * (KVT_CURVE_METRICS * sizeof(uint32_t) + 2);
        return;
    }
    e->rows += c->n * (H * (1 + KVT_N_TAU) + kv + 1 + runs * (1 + EST_RESPONSIBLE) + series + ladder);
    e->db_bytes += c->n * (H * (ROW_HEAD + KVT_N_TAU * ROW_TAU) + kv * ROW_KVHEAD + ROW_LAYER + runs * (ROW_RUN + EST_RESPONSIBLE * ROW_RESPONSIBLE)
                           + series * (ROW_SERIES + 4 * (double)e->G) + ladder * ROW_LADDER);
}

static void est_layer(est *e, uint32_t layer)
{
    const kvt_layer_info *x = &e->info->layer[layer];
    const uint64_t threads = e->n_threads * est_thread_bytes(e, x->d_k);
    uint64_t cells = 0, all;

    for (uint32_t i = 0; i < e->n_cell; i++)
        est_classify(e, &e->cell[i], layer);
    est_layer_work(e, x);
    for (uint32_t i = 0; i < e->n_cell; i++) {
        const est_cell *c = &e->cell[i];
        cells += c->n * est_cell_bytes(e, c, x);
        e->kept += c->n * est_kept_bytes(e, c, x);
        est_cell_work(e, c, x);
        est_cell_rows(e, c, x);
    }
    all = cells + threads + est_layer_bytes(e, x);
    if (all > e->peak)
        e->peak = all, e->peak_cells = cells, e->peak_threads = threads;
}

kvt_status kvt_estimate_replay(const kvt_source *src, const kvt_replay_opts *opts, kvt_sink sink, const kvt_rates *rates,
                               kvt_estimate *out, kvt_err *err)
{
    const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    est e = { .info = src->info, .opts = opts, .N = src->info->n_prompt, .G = src->info->n_decode, .T = src->info->n_tokens };
    kvt_status st;

    KVT_TRY(kvt_plan_check_trace(src, err));
    e.n_threads = opts->n_threads ? opts->n_threads : n_cores > 0 ? (uint64_t)n_cores : 1;
    KVT_TRY_GOTO(st, est_plan(&e, src, sink, err));
    *out = (kvt_estimate){ 0 };
    for (uint32_t i = 0; i < e.n_cell; i++) {
        if (e.cell[i].curve)
            continue;
        out->n_cells += e.cell[i].n;
        e.rows += 2 * e.cell[i].n;
        e.db_bytes += (double)ROW_CELL * e.cell[i].n;
    }
    for (uint32_t l = 0; e.n_cell && l < e.info->n_layers; l++)
        if (e.info->layer[l].attn == KVT_ATTN_FULL)
            est_layer(&e, l);
    e.work[WORK_STORE] = e.rows;
    for (int w = 0; w < N_WORK; w++)
        out->seconds += e.work[w] * est_price[w].times * rates->s[est_price[w].rate] / (est_price[w].serial ? 1 : (double)e.n_threads);
    out->n_rows = (uint64_t)e.rows;
    out->db_bytes = (uint64_t)e.db_bytes;
    out->memory_bytes = EST_BASE_BYTES + (out->db_bytes < EST_CACHE_BYTES ? out->db_bytes : EST_CACHE_BYTES) + e.peak + e.kept;
    out->cell_bytes = e.peak_cells + e.kept;
    out->thread_bytes = e.peak_threads;
done:
    free(e.cell);
    free(e.grid);
    return st;
}
