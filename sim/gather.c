/* gather.c - series -> results of heads, KV heads, layers; cells -> sink. Everything is
 * computed from Q1.31 integers, so the sums are exact and the order does not matter. */
#include "lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- series */

/* lost and oracle of every measured cell, for one head. */
static void gather_series_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;
    const size_t at = ((size_t)r->L.head0 + head) * r->G;

    (void)thread;
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        if (!c->measured || c->curve)
            continue;
        memcpy(c->oracle_q31 + at, kvt__oracle_of(r, c, head), r->G * sizeof *c->oracle_q31);
        for (uint32_t t = 0; t < r->G; t++) {
            const double *p = c->part + ((size_t)head * r->G + t) * N_PARTS;
            c->lost_q31[at + t] = !c->bound ? kvt_q31(p[PART_SINK] + p[PART_SELECTION] + p[PART_LATE] + p[PART_NEW])
                                    : c->oracle_q31[at + t];
        }
    }
}

void kvt__series(run *r) { kvt_pool_run(r->pool, r->L.H, gather_series_head, r); }

/* lost_ns of one head: evicted mass off the sinks over the row's mass off the sinks;
 * skip[t] = 1 where that is below 1e-6 or the step is trivial. */
static void gather_ns(const run *r, const run_cell *c, uint32_t head, uint32_t *x, uint8_t *skip)
{
    const uint32_t n_trivial = kvt__n_trivial(r, c);

    for (uint32_t t = 0; t < r->G; t++) {
        const double rest = r->L.ns_mass[(size_t)head * r->G + t];
        const double *p = c->part + ((size_t)head * r->G + t) * N_PARTS;
        skip[t] = t < n_trivial || !(rest >= 1e-6);
        x[t] = skip[t] ? 0 : kvt_q31((p[PART_SELECTION] + p[PART_LATE] + p[PART_NEW]) / rest);
    }
}

/* ------------------------------------------------------------ one query head */

/* Everything that is sorted for one cell of one layer, so that it can be sorted 16 series at a
 * time. Series: H x lost, H x lost_ns, then for every KV head and aggregate lost and lost_ns. */
typedef struct gather_buf {
    const uint32_t **x;             /* [n] series of G values                         */
    const uint8_t  **skip;          /* [n] steps that do not count                    */
    kvt_tail *tail;                 /* [n]                                            */
    uint32_t *ns, *kv, *sort, *one; /* [H][G], [Hkv][2][2][G], [16 G], [G]            */
    uint8_t  *ns_skip, *kv_skip, *trivial;   /* [H][G], [Hkv][2][G], [G]              */
    double   *real, *sorted;        /* [n_err]                                        */
} gather_buf;

static uint32_t gather_n_series(const layer_run *L) { return 2 * L->H + 4 * L->Hkv; }
/* Index of a KV head's lost; its lost_ns is the next. */
static uint32_t gather_kv_at(const layer_run *L, uint32_t kv, int mean) { return 2 * L->H + 4 * kv + (mean ? 2 : 0); }

static void gather_buf_free(gather_buf *w)
{
    free(w->x), free(w->skip), free(w->tail), free(w->ns), free(w->kv), free(w->sort), free(w->one);
    free(w->ns_skip), free(w->kv_skip), free(w->trivial), free(w->real), free(w->sorted);
}

static kvt_status gather_buf_alloc(const run *r, gather_buf *w, kvt_err *err)
{
    const layer_run *L = &r->L;
    const size_t G = r->G, n = gather_n_series(L);

    *w = (gather_buf){
        .x = malloc(n * sizeof *w->x), .skip = malloc(n * sizeof *w->skip), .tail = malloc(n * sizeof *w->tail),
        .ns = malloc(L->H * G * sizeof *w->ns), .kv = malloc(4 * L->Hkv * G * sizeof *w->kv),
        .sort = malloc(KVT_TILE * G * sizeof *w->sort), .one = malloc(G * sizeof *w->one),
        .ns_skip = malloc(L->H * G), .kv_skip = malloc(2 * L->Hkv * G), .trivial = malloc(G),
        .real = malloc(((size_t)r->n_err + 1) * sizeof *w->real), .sorted = malloc(((size_t)r->n_err + 1) * sizeof *w->sorted),
    };
    if (!w->x || !w->skip || !w->tail || !w->ns || !w->kv || !w->sort || !w->one || !w->ns_skip || !w->kv_skip || !w->trivial
        || !w->real || !w->sorted)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    return KVT_OK;
}

/* A step whose output is below 1e-12 of the head's largest has no relative error: its norm
 * becomes 0. */
static void gather_drop_small_outputs(run *r)
{
    for (uint32_t h = 0; r->L.o_norm && h < r->L.H; h++) {
        double *norm = r->L.o_norm + (size_t)h * r->n_err, largest = 0;
        for (uint32_t i = 0; i < r->n_err; i++)
            largest = norm[i] > largest ? norm[i] : largest;
        for (uint32_t i = 0; i < r->n_err; i++)
            norm[i] = norm[i] >= 1e-12 * largest ? norm[i] : 0;
    }
}

static int gather_err_defined(const run *r, const run_cell *c, uint32_t head, uint32_t i, uint32_t n_trivial)
{
    const size_t at = (size_t)head * r->n_err + i;

    return i * KVT_ERR_EVERY >= n_trivial && r->L.o_norm[at] > 0 && isfinite(c->err[at]);
}

static void gather_errors(const run *r, const run_cell *c, uint32_t head, gather_buf *w, kvt_head_result *out)
{
    const double *err = c->err + (size_t)head * r->n_err, *sep = c->sep + (size_t)head * r->n_err;
    const uint32_t n_trivial = kvt__n_trivial(r, c);
    kvt_tail tail;

    for (uint32_t i = 0; i < r->n_err; i++)
        w->real[i] = gather_err_defined(r, c, head, i, n_trivial) ? err[i] : NAN;
    kvt_tail_of_real(w->real, r->n_err, w->sorted, &tail);
    out->err_n = tail.n;
    if (!tail.n)
        return;
    out->out_err_mean = tail.mean;
    out->out_err_max = tail.max;
    out->err_max_step = tail.max_at * KVT_ERR_EVERY;
    out->out_err_q95 = tail.q95;
    out->out_err_cvar95 = tail.cvar95;
    for (uint32_t i = 0; i < r->n_err; i++)
        w->real[i] = isnan(w->real[i]) || !isfinite(sep[i]) ? NAN : sep[i];
    kvt_tail_of_real(w->real, r->n_err, w->sorted, &tail);
    if (tail.n)
        out->value_sep_mean = tail.mean;
}

static void gather_prompt_share(const run *r, const run_cell *c, uint32_t head, gather_buf *w, kvt_head_result *out)
{
    kvt_tail tail;

    for (uint32_t t = 0; t < r->G; t++) {
        const double *p = c->part + ((size_t)head * r->G + t) * N_PARTS;
        const double mass = r->L.prompt_mass[(size_t)head * r->G + t];
        w->one[t] = mass > 0 ? kvt_q31((p[PART_SINK] + p[PART_SELECTION] + p[PART_LATE]) / mass) : 0;
    }
    kvt_top_of(w->one, w->trivial, r->G, &tail);
    out->lost_prompt_mean = tail.mean;
    out->lost_prompt_max = tail.max;
}

static void gather_regret(const run *r, const uint32_t *lost, const uint32_t *oracle, uint32_t n_trivial, kvt_head_result *out)
{
    int64_t sum = 0, max = INT64_MIN;

    out->regret_mean = out->regret_max = 0;
    for (uint32_t t = n_trivial; t < r->G; t++) {
        const int64_t d = (int64_t)lost[t] - oracle[t];
        sum += d;
        max = d > max ? d : max;
    }
    if (n_trivial < r->G) {
        out->regret_mean = (double)sum / (r->G - n_trivial) / KVT_Q31_ONE;
        out->regret_max = (double)max / KVT_Q31_ONE;
    }
}

/* Runs above the thresholds; `largest`: of the losses of the steps that count. */
static void gather_taus(const run *r, run_cell *c, uint32_t head, uint32_t largest)
{
    const size_t slot = (size_t)r->L.head0 + head;
    const uint32_t *lost = c->lost_q31 + slot * r->G, *oracle = c->oracle_q31 + slot * r->G;
    const uint32_t n_trivial = kvt__n_trivial(r, c);

    for (uint32_t k = 0; k < KVT_N_TAU; k++) {
        const uint32_t tau = kvt_q31(kvt_tau[k]);
        kvt_tau_result *x = &c->tau[slot * KVT_N_TAU + k];
        kvt_runs runs;
        *x = (kvt_tau_result){ .layer = r->L.layer, .head = head, .tau = k };
        if (largest <= tau)
            continue;
        kvt_runs_of(lost, n_trivial, r->G, tau, &runs);
        x->n_exceed = runs.n_exceed, x->n_run = runs.n_run, x->longest_run = runs.longest;
        x->longest_start = runs.longest_start, x->first_step = runs.first, x->excess_area = runs.area;
        for (uint32_t t = n_trivial; t < r->G; t++)
            x->n_infeasible += lost[t] > tau && oracle[t] > tau;
    }
}

static void gather_head(const run *r, run_cell *c, uint32_t head, gather_buf *w)
{
    const size_t slot = (size_t)r->L.head0 + head;
    const uint32_t *lost = c->lost_q31 + slot * r->G, *oracle = c->oracle_q31 + slot * r->G;
    const uint32_t *fixed = kvt__fixed_of(r, c, head), n_trivial = kvt__n_trivial(r, c);
    const kvt_tail *all = &w->tail[head], *ns = &w->tail[r->L.H + head];
    kvt_head_result *out = &c->head[slot];
    kvt_tail top;

    *out = (kvt_head_result){
        .layer = r->L.layer, .head = head, .n_step = r->G, .n_trivial = n_trivial, .n_held = kvt__held(r, c, head),
        .lost_ns_mean = NAN, .lost_ns_max = NAN, .lost_ns_q95 = NAN, .lost_ns_cvar95 = NAN,
        .lost_prompt_mean = NAN, .lost_prompt_max = NAN, .out_err_mean = NAN, .out_err_max = NAN,
        .out_err_q95 = NAN, .out_err_cvar95 = NAN, .value_sep_mean = NAN, .fixed_mean = NAN, .fixed_max = NAN,
    };
    out->lost_mean = all->mean, out->lost_max = all->max, out->max_step = all->max_at;
    out->lost_q50 = all->q50, out->lost_q90 = all->q90, out->lost_q95 = all->q95, out->lost_q99 = all->q99;
    out->lost_cvar95 = all->cvar95, out->lost_cvar99 = all->cvar99;
    kvt_top_of(oracle, w->trivial, r->G, &top);
    out->oracle_mean = top.mean, out->oracle_max = top.max;
    if (fixed) {
        kvt_top_of(fixed, w->trivial, r->G, &top);
        out->fixed_mean = top.mean, out->fixed_max = top.max;
    }
    gather_regret(r, lost, oracle, n_trivial, out);
    out->ns_n = ns->n;
    if (ns->n) {
        out->lost_ns_mean = ns->mean, out->lost_ns_max = ns->max, out->ns_max_step = ns->max_at;
        out->lost_ns_q95 = ns->q95, out->lost_ns_cvar95 = ns->cvar95;
    }
    if (!c->online)
        gather_prompt_share(r, c, head, w, out);
    if (c->err)
        gather_errors(r, c, head, w, out);
    gather_taus(r, c, head, kvt_q31(all->max));
}

/* -------------------------------------------------------------- one KV head */

/* Maximum or mean over the group of the values that are defined. */
static uint32_t gather_reduce(const uint32_t *x, size_t stride, const uint8_t *skip, uint32_t heads, int mean, uint8_t *none)
{
    uint64_t sum = 0, max = 0, n = 0;

    for (uint32_t i = 0; i < heads; i++) {
        if (skip && skip[i * stride])
            continue;
        sum += x[i * stride];
        max = x[i * stride] > max ? x[i * stride] : max;
        n++;
    }
    *none = n == 0;
    return n == 0 ? 0 : mean ? kvt_round((double)sum / (double)n) : (uint32_t)max;
}

static uint32_t gather_kv_held(const run *r, const run_cell *c, uint32_t kv)
{
    const uint32_t copies = c->job.n_caches / c->job.n_kv_heads;
    uint32_t sum = 0;

    (void)r;
    for (uint32_t i = 0; i < copies; i++)
        sum += c->n_held[kv * copies + i];
    return sum;
}

static double gather_kv_error(const run *r, const run_cell *c, uint32_t kv, int mean, gather_buf *w)
{
    const uint32_t group = r->L.group, n_trivial = kvt__n_trivial(r, c);
    kvt_tail tail;

    for (uint32_t i = 0; i < r->n_err; i++) {
        double sum = 0, max = 0;
        uint32_t n = 0;
        for (uint32_t h = 0; h < group; h++) {
            const double e = c->err[((size_t)kv * group + h) * r->n_err + i];
            if (!gather_err_defined(r, c, kv * group + h, i, n_trivial))
                continue;
            sum += e;
            max = e > max ? e : max;
            n++;
        }
        w->real[i] = n == 0 ? NAN : mean ? sum / n : max;
    }
    kvt_tail_of_real(w->real, r->n_err, w->sorted, &tail);
    return tail.n ? tail.cvar95 : NAN;
}

static void gather_kv(const run *r, run_cell *c, uint32_t kv, int mean, gather_buf *w)
{
    const kvt_tail *all = &w->tail[gather_kv_at(&r->L, kv, mean)], *ns = all + 1;
    kvt_kvhead_result *out = &c->kvhead[((size_t)r->L.kv0 + kv) * 2 + (mean ? 1 : 0)];

    *out = (kvt_kvhead_result){ .layer = r->L.layer, .kv_head = kv, .agg_mean = mean, .n_held = gather_kv_held(r, c, kv),
        .lost_ns_mean = NAN, .lost_ns_max = NAN, .lost_ns_cvar95 = NAN, .out_err_cvar95 = NAN };
    out->lost_mean = all->mean, out->lost_max = all->max, out->max_step = all->max_at;
    out->lost_q95 = all->q95, out->lost_cvar95 = all->cvar95;
    if (ns->n)
        out->lost_ns_mean = ns->mean, out->lost_ns_max = ns->max, out->lost_ns_cvar95 = ns->cvar95;
    if (c->err)
        out->out_err_cvar95 = gather_kv_error(r, c, kv, mean, w);
}

/* ------------------------------------------------------- one cell, one layer */

static void gather_layer_row(const run *r, run_cell *c)
{
    const layer_run *L = &r->L;
    kvt_layer_result *out = &c->layer[L->slot];
    double held = 0, mean = 0;
    uint32_t n = 0;

    *out = (kvt_layer_result){ .layer = L->layer };
    for (uint32_t h = 0; h < L->H; h++) {
        const kvt_head_result *x = &c->head[L->head0 + h];
        if (x->n_trivial < x->n_step) {
            mean += x->lost_mean;
            n++;
        }
        if (x->lost_max > out->lost_worst || h == 0) {
            out->lost_worst = x->lost_max;
            out->worst_head = h;
        }
    }
    out->lost_mean = n ? mean / n : 0;
    for (uint32_t g = 0; g < L->Hkv; g++) {
        const kvt_kvhead_result *x = &c->kvhead[((size_t)L->kv0 + g) * 2];
        const uint32_t copies = c->job.n_caches / c->job.n_kv_heads;
        uint32_t after_prompt = 0;
        for (uint32_t i = 0; i < copies; i++)
            after_prompt += c->n_prompt[g * copies + i];
        out->cvar95_worst_head = x->lost_cvar95 > out->cvar95_worst_head ? x->lost_cvar95 : out->cvar95_worst_head;
        held += after_prompt;
        c->want_sum += c->budget->in_tokens ? c->budget->value * copies : c->budget->value * r->N;
        c->want_slack += 0.5 * (copies - 1);
        c->held_sum += after_prompt;
        c->held_min = after_prompt < c->held_min ? after_prompt : c->held_min;
        c->held_max = after_prompt > c->held_max ? after_prompt : c->held_max;
        c->bytes_held += (uint64_t)after_prompt * (L->d * kvt_dtype_bytes(L->info->k_type)
            + (L->info->has & (1u << KVT_T_V) ? L->d_v * kvt_dtype_bytes(L->info->v_type) : 0));
    }
    c->held_caches_kv += L->Hkv;
    out->held_mean = held / L->Hkv;
}

/* Series of one KV head from those of its group. */
static void gather_kv_series(const run *r, const run_cell *c, uint32_t kv, int mean, gather_buf *w)
{
    const layer_run *L = &r->L;
    const uint32_t group = L->group, G = r->G, at = gather_kv_at(L, kv, mean);
    const uint32_t *lost = c->lost_q31 + ((size_t)L->head0 + (size_t)kv * group) * G, *ns = w->ns + (size_t)kv * group * G;
    const uint8_t *skip = w->ns_skip + (size_t)kv * group * G;
    uint32_t *kv_lost = w->kv + (size_t)(at - 2 * L->H) * G, *kv_ns = kv_lost + G;
    uint8_t *kv_skip = w->kv_skip + ((size_t)kv * 2 + (mean ? 1 : 0)) * G, none;

    for (uint32_t t = 0; t < G; t++) {
        kv_lost[t] = gather_reduce(lost + t, G, NULL, group, mean, &none);
        kv_ns[t] = gather_reduce(ns + t, G, skip + t, group, mean, &kv_skip[t]);
    }
    w->x[at] = kv_lost, w->skip[at] = w->trivial;
    w->x[at + 1] = kv_ns, w->skip[at + 1] = kv_skip;
}

/* All series of a cell, and their tails. */
static void gather_tails(const run *r, const run_cell *c, gather_buf *w)
{
    const layer_run *L = &r->L;
    const uint32_t n_trivial = kvt__n_trivial(r, c), n = gather_n_series(L), H = L->H, G = r->G;

    for (uint32_t t = 0; t < G; t++)
        w->trivial[t] = t < n_trivial;
    for (uint32_t h = 0; h < H; h++) {
        gather_ns(r, c, h, w->ns + (size_t)h * G, w->ns_skip + (size_t)h * G);
        w->x[h] = c->lost_q31 + ((size_t)L->head0 + h) * G, w->skip[h] = w->trivial;
        w->x[H + h] = w->ns + (size_t)h * G, w->skip[H + h] = w->ns_skip + (size_t)h * G;
    }
    for (uint32_t g = 0; g < L->Hkv; g++)
        for (int mean = 0; mean < 2; mean++)
            gather_kv_series(r, c, g, mean, w);
    for (uint32_t k = 0; k < n; k += KVT_TILE)
        kvt_tails_of(r->kern, w->x + k, w->skip + k, n - k < KVT_TILE ? n - k : KVT_TILE, G, w->sort, w->tail + k);
}

static kvt_status gather_cell_layer(run *r, run_cell *c, kvt_err *err)
{
    const layer_run *L = &r->L;
    gather_buf w;
    kvt_status st = gather_buf_alloc(r, &w, err);

    if (st < 0)
        goto done;
    gather_tails(r, c, &w);
    for (uint32_t h = 0; h < L->H; h++)
        gather_head(r, c, h, &w);
    for (uint32_t g = 0; g < L->Hkv; g++)
        for (int mean = 0; mean < 2; mean++)
            gather_kv(r, c, g, mean, &w);
    gather_layer_row(r, c);
    for (uint32_t h = 0; h < L->H && st == KVT_OK; h++)
        if (kvt__vio_move(c->all_vio, &c->vio[h]) < 0)
            st = kvt_fail(err, KVT_ENOMEM, "out of memory for violations");
done:
    gather_buf_free(&w);
    return st;
}

static void gather_cell_item(void *arg, uint32_t item, uint32_t thread)
{
    run *r = arg;

    (void)thread;
    r->item_status[item] = r->cell[item].measured && !r->cell[item].curve ? gather_cell_layer(r, &r->cell[item], &r->item_err[item]) : KVT_OK;
}

/* Scores on both sides of the cut of one cache, where every cache is cut by itself; the
 * cut of a layer is the same for all its caches. */
static void gather_cut(const run *r, const run_cell *c, uint32_t cache, kvt_kept_set *set)
{
    const float *score = r->cell[c->score_of].score;

    if (!score || c->setup.rank_over != KVT_SPAN_CACHE)
        return;
    score += (size_t)cache * r->N;
    set->last_kept = set->first_dropped = NAN;
    for (uint32_t j = 0; j < r->N; j++) {
        float *side = c->kept[(size_t)cache * r->N + j] ? &set->last_kept : &set->first_dropped;
        const int better = side == &set->last_kept ? score[j] < *side : score[j] > *side;
        if (isnan(*side) || better)
            *side = score[j];
    }
}

/* Kept sets that were asked for, in the documented order. */
static kvt_status gather_kept(run *r, kvt_err *err)
{
    uint32_t *pos = malloc((r->N ? r->N : 1) * sizeof *pos);
    kvt_status st = KVT_OK;

    if (!pos)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < r->n_cells && st == KVT_OK; i++) {
        const run_cell *c = &r->cell[i];
        kvt_kept_set set = { .config = c->config, .budget = c->budget, .seed = c->id.seed, .layer = r->L.layer, .step = -1,
                             .pos = pos, .last_kept = c->last_kept, .first_dropped = c->first_dropped };
        if (c->bound || c->minimax || c->curve)  /* not one set per cache; nobody asks */
            continue;
        for (uint32_t k = 0; k < c->job.n_caches && st == KVT_OK; k++) {
            set.cache = k;
            if (!c->online) {
                set.n = 0;
                gather_cut(r, c, k, &set);
                for (uint32_t j = 0; j < r->N; j++)
                    if (c->kept[(size_t)k * r->N + j])
                        pos[set.n++] = j;
                st = r->opts->kept(r->opts->kept_user, &set, err);
                continue;
            }
            const lane *l = kvt__lane_of(r, i, k * kvt_group(&c->job));
            for (size_t at = 0; at < l->n_snap && st == KVT_OK; at += 4 + l->snap[at + 1]) {
                set.step = l->snap[at];
                set.n = l->snap[at + 1];
                memcpy(&set.last_kept, &l->snap[at + 2], 4);
                memcpy(&set.first_dropped, &l->snap[at + 3], 4);
                set.pos = l->snap + at + 4;
                st = r->opts->kept(r->opts->kept_user, &set, err);
            }
            set.pos = pos;
        }
    }
    free(pos);
    return st;
}

kvt_status kvt__gather_layer(run *r, kvt_err *err)
{
    if (r->opts->kept)
        KVT_TRY(gather_kept(r, err));
    gather_drop_small_outputs(r);
    kvt_pool_run(r->pool, r->n_cells, gather_cell_item, r);
    for (uint32_t i = 0; i < r->n_cells; i++)
        if (r->item_status[i] < 0) {
            if (err)
                *err = r->item_err[i];
            return r->item_status[i];
        }
    return KVT_OK;
}

/* --------------------------------------------------------------- whole cells */

static void gather_check(kvt_check *list, size_t *n, const char *name, const char *status, double value, double limit,
                         const char *message)
{
    kvt_check *c = &list[(*n)++];

    *c = (kvt_check){ .name = name, .status = status, .value = value, .limit = limit };
    strncpy(c->message, message, sizeof c->message - 1);
}

static void gather_checks(const run *r, const run_cell *c, const kvt_result *res, kvt_check *list, size_t *n)
{
    const double want = c->want_sum / (double)c->held_caches_kv;   /* per KV head, every copy counted */
    double worst_regret = 0;
    int redone = 0;

    for (size_t i = 0; i < res->n_head; i++)
        worst_regret = res->head[i].regret_mean < worst_regret ? res->head[i].regret_mean : worst_regret;
    if (c->full) {
        gather_check(list, n, "full_cache_floor", res->lost_worst == 0 ? "ok" : "fail", res->lost_worst, 0,
                     "the full cache loses exactly nothing");
        gather_check(list, n, "capture_error", r->info->verify_max_err <= r->info->verify_tol ? "ok" : "warn",
                     r->info->verify_max_err, r->info->verify_tol, "attention output recomputed at capture against the engine's own");
        return;
    }
    gather_check(list, n, "oracle_dominates", worst_regret >= -5e-5 ? "ok" : "fail", worst_regret, -5e-5,
                 "no head loses less than the per-step oracle at the same count");
    if (c->setup.exempt > 0)
        gather_check(list, n, "budget_realised", "ok", res->held_mean, want, "the budget counts generated tokens; the prompt always stays");
    else if (res->flags & KVT_FLAG_KEPT_ALL)
        gather_check(list, n, "budget_realised", "warn", res->held_mean, want,
                     "the prompt is not longer than the window, or the budget covers it: everything is kept");
    else if (res->held_min == 0)
        gather_check(list, n, "budget_realised", "warn", res->held_mean, want,
                     "tokens held per KV head against what was asked for; some KV head holds nothing after the prompt");
    else
        gather_check(list, n, "budget_realised", fabs(res->held_mean - want) <= 1 + c->want_slack / (double)c->held_caches_kv
                     ? "ok" : "warn", res->held_mean, want, "tokens held per KV head against what was asked for");
    if (res->flags & KVT_FLAG_CLAMPED)
        gather_check(list, n, "tie_share", "warn", res->tie_share, 0.05,
                     "budget too small for the first stage: its count is clamped at 0, the tie rule decides");
    else if (res->flags & KVT_FLAG_BELOW_WINDOW)
        gather_check(list, n, "tie_share", "warn", res->tie_share, 0.05,
                     "budget below the protected tokens: the tie rule decides which of them stay");
    else
        gather_check(list, n, "tie_share", res->tie_share <= 0.05 ? "ok" : "warn", res->tie_share, 0.05,
                     "kept entries whose score equals the first rejected score of their head");
    for (uint32_t i = 0; i < r->n_layers_full; i++)
        redone |= r->lse_redone_layers[i];
    gather_check(list, n, "row_defect", redone || res->row_defect_max > KVT_DEFECT_REDO ? "warn" : "ok", res->row_defect_max, KVT_DEFECT_REDO,
                 redone ? "stored log-sum-exp off by more than 2e-5 in some heads: recomputed from the operands" : "rows sum to 1");
    if (res->n_head && res->head[0].n_trivial > 0)
        gather_check(list, n, "trivial_share", "warn", (double)res->head[0].n_trivial / r->G, 0, "steps at which a uniform policy cannot have evicted anything");
}

static void gather_cell(const run *r, const run_cell *c, kvt_result *res)
{
    double lost = 0, cvar = 0, regret = 0;
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_heads_all; i++) {
        const kvt_head_result *h = &c->head[i];
        if (h->n_trivial < h->n_step) {
            lost += h->lost_mean, cvar += h->lost_cvar95, regret += h->regret_mean;
            n++;
        }
        if (i == 0 || h->lost_max > res->lost_worst) {
            res->lost_worst = h->lost_max;
            res->worst_layer = h->layer, res->worst_head = h->head, res->worst_step = h->max_step;
        }
        if (h->ns_n && !(res->lost_ns_worst >= h->lost_ns_max))
            res->lost_ns_worst = h->lost_ns_max;
        if (h->ns_n && !(res->ns_cvar95_worst >= h->lost_ns_cvar95))
            res->ns_cvar95_worst = h->lost_ns_cvar95;
        if (h->err_n && !(res->out_err_worst >= h->out_err_max))
            res->out_err_worst = h->out_err_max;
        res->oracle_worst = h->oracle_max > res->oracle_worst ? h->oracle_max : res->oracle_worst;
    }
    if (n) {
        res->lost_mean = lost / n, res->cvar95_mean = cvar / n, res->regret_mean = regret / n;
    }
    for (uint32_t i = 0; i < r->n_kv_all; i++) {
        const kvt_kvhead_result *k = &c->kvhead[(size_t)i * 2];
        res->cvar95_worst_head = k->lost_cvar95 > res->cvar95_worst_head ? k->lost_cvar95 : res->cvar95_worst_head;
    }
}

typedef struct worst_head { double cvar; uint32_t at; } worst_head;
static int gather_worst_cmp(const void *a, const void *b)
{
    const worst_head *x = a, *y = b;

    if (x->cvar != y->cvar)
        return x->cvar > y->cvar ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* Series that are stored: the 32 worst heads by CVaR95, the median head, and every head
 * with a step above the first threshold. */
static kvt_status gather_pick_series(const run *r, const run_cell *c, kvt_series *out, size_t *n, kvt_err *err)
{
    worst_head *w = malloc(r->n_heads_all * sizeof *w);
    uint8_t *want = calloc(r->n_heads_all, 1);

    if (!w || !want) {
        free(w), free(want);
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < r->n_heads_all; i++)
        w[i] = (worst_head){ c->head[i].lost_cvar95, i };
    qsort(w, r->n_heads_all, sizeof *w, gather_worst_cmp);
    for (uint32_t i = 0; i < r->n_heads_all && i < KVT_SERIES_WORST; i++)
        want[w[i].at] = 1;
    want[w[r->n_heads_all / 2].at] = 1;
    *n = 0;
    for (uint32_t i = 0; i < r->n_heads_all; i++) {
        const kvt_head_result *h = &c->head[i];
        if (!want[i] && c->tau[(size_t)i * KVT_N_TAU].n_exceed == 0)
            continue;
        out[(*n)++] = (kvt_series){ h->layer, h->head, "lost", 0, r->G, c->lost_q31 + (size_t)i * r->G };
        out[(*n)++] = (kvt_series){ h->layer, h->head, "oracle", 0, r->G, c->oracle_q31 + (size_t)i * r->G };
    }
    free(w), free(want);
    return KVT_OK;
}

static kvt_status gather_store(run *r, run_cell *c, kvt_err *err)
{
    kvt_check check[8];
    kvt_series *series = malloc((size_t)r->n_heads_all * 2 * sizeof *series);
    kvt_result res = { .n_head_total = r->n_heads_all, .out_err_basis = r->opts->output_error ? "v" : "none",
        .lost_ns_worst = NAN, .ns_cvar95_worst = NAN, .out_err_worst = NAN, .flags = c->flags, .wall_s = c->wall_s };
    kvt_status st;

    if (!series)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    res.held_mean = (double)c->held_sum / (double)c->held_caches_kv;
    res.held_share = res.held_mean / r->N;
    res.held_min = c->held_min, res.held_max = c->held_max;
    res.bytes_logical = res.bytes_physical = c->bytes_held;
    res.tie_share = c->n_kept_all ? (double)c->n_tied / (double)c->n_kept_all : 0;
    res.row_defect_max = r->defect_max;
    res.head = c->head, res.n_head = r->n_heads_all;
    res.kvhead = c->kvhead, res.n_kvhead = (size_t)r->n_kv_all * 2;
    res.layer = c->layer, res.n_layer = r->n_layers_full;
    res.tau = c->tau, res.n_tau = (size_t)r->n_heads_all * KVT_N_TAU;
    res.ladder = c->ladder, res.n_ladder = c->ladder ? r->n_heads_all : 0;
    for (uint32_t i = 0; i < c->all_vio->n; i++)
        c->all_vio->v[i].responsible = c->all_vio->r + c->all_vio->r_at[i];
    res.violation = c->all_vio->v, res.n_violation = c->all_vio->n;
    res.n_violation_total = c->all_vio->n;
    gather_cell(r, c, &res);
    gather_checks(r, c, &res, check, &res.n_check);
    res.check = check;
    st = gather_pick_series(r, c, series, &res.n_series, err);
    res.series = series;
    if (st == KVT_OK)
        st = r->sink.ops->store(r->sink.self, &c->id, &res, err);
    free(series);
    return st;
}

kvt_status kvt__store_cells(run *r, kvt_err *err)
{
    for (uint32_t i = 0; i < r->n_cells; i++)
        if (r->cell[i].measured && !r->cell[i].curve)
            KVT_TRY(gather_store(r, &r->cell[i], err));
    return KVT_OK;
}
