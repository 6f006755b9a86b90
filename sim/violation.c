/* violation.c - violations of the stability assumption: maximal runs of steps with
 * lost > tau, their cause, and which evicted entries were needed.
 *
 * Causes, first match: every step of the run infeasible (the per-step oracle loses more
 * than tau too); else, over the steps that are the policy's fault, the kind of entry
 * that carries at least half of the evicted mass; else mixed.
 *
 * Responsible entries cost another look at the rows, and twenty rows of results each: they
 * are found for the worst run (largest excess area) of every head at the first threshold
 * (0.5, the one of DefensiveKV, arXiv 2510.13334). All runs have start, length, peak and
 * cause. */
#include "lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const double kvt_tau[KVT_N_TAU] = { 0.5, 0.25, 0.1 };

const char *kvt_cause_name(kvt_cause c)
{
    static const char *const name[] = { "infeasible", "sink_evicted", "late_bloomer", "selection", "new_token", "mixed" };
    return name[c];
}

void kvt__vio_free(vio_list *l)
{
    free(l->v), free(l->r), free(l->r_at);
    memset(l, 0, sizeof *l);
}

static int vio_reserve(vio_list *l, uint32_t more, uint32_t more_r)
{
    if (l->n + more > l->cap) {
        const uint32_t cap = (l->n + more) * 2;
        kvt_violation *v = realloc(l->v, cap * sizeof *v);
        uint32_t *at;
        if (!v)
            return 0;
        l->v = v;
        at = realloc(l->r_at, cap * sizeof *at);
        if (!at)
            return 0;
        l->r_at = at;
        l->cap = cap;
    }
    if (l->n_r + more_r > l->cap_r) {
        const uint32_t cap = (l->n_r + more_r) * 2;
        kvt_responsible *p = realloc(l->r, cap * sizeof *p);
        if (!p)
            return 0;
        l->r = p;
        l->cap_r = cap;
    }
    return 1;
}

kvt_status kvt__vio_move(vio_list *to, vio_list *from)
{
    if (!vio_reserve(to, from->n, from->n_r))
        return KVT_ENOMEM;
    for (uint32_t i = 0; i < from->n; i++) {
        to->v[to->n + i] = from->v[i];
        to->r_at[to->n + i] = from->r_at[i] + to->n_r;
    }
    if (from->n_r)
        memcpy(to->r + to->n_r, from->r, from->n_r * sizeof *from->r);
    to->n += from->n;
    to->n_r += from->n_r;
    kvt__vio_free(from);
    return KVT_OK;
}

static kvt_cause vio_cause(const run *r, const run_cell *c, uint32_t head, const uint32_t *lost, const uint32_t *oracle,
                           uint32_t start, uint32_t n, uint32_t tau)
{
    static const kvt_cause of_part[N_PARTS] = {
        [PART_SINK] = KVT_CAUSE_SINK_EVICTED, [PART_SELECTION] = KVT_CAUSE_SELECTION,
        [PART_LATE] = KVT_CAUSE_LATE_BLOOMER, [PART_NEW] = KVT_CAUSE_NEW_TOKEN,
    };
    double sum[N_PARTS] = { 0 }, all = 0;
    uint32_t n_fault = 0;

    for (uint32_t t = start; t < start + n; t++) {
        if (oracle[t] > tau || lost[t] <= tau)
            continue;
        n_fault++;
        for (uint32_t k = 0; k < N_PARTS; k++)
            sum[k] += c->part[((size_t)head * r->G + t) * N_PARTS + k];
    }
    if (n_fault == 0)
        return KVT_CAUSE_INFEASIBLE;
    for (uint32_t k = 0; k < N_PARTS; k++)
        all += sum[k];
    for (uint32_t k = 0; k < N_PARTS; k++)
        if (sum[k] >= all / 2)
            return of_part[k];
    return KVT_CAUSE_MIXED;
}

/* Runs of one cell and head at all thresholds. */
static kvt_status vio_find(const run *r, run_cell *c, uint32_t head)
{
    const uint32_t *lost = c->lost_q31 + ((size_t)r->L.head0 + head) * r->G;
    const uint32_t *oracle = c->oracle_q31 + ((size_t)r->L.head0 + head) * r->G;
    vio_list *l = &c->vio[head];
    uint32_t largest = 0;

    for (uint32_t t = kvt__n_trivial(r, c); t < r->G; t++)
        largest = lost[t] > largest ? lost[t] : largest;
    for (uint32_t k = 0; k < KVT_N_TAU; k++) {
        const uint32_t tau = kvt_q31(kvt_tau[k]);
        for (uint32_t t = kvt__n_trivial(r, c); largest > tau && t < r->G; t++) {
            uint32_t end = t, peak = t;
            uint64_t area = 0;
            kvt_violation *v;
            if (lost[t] <= tau)
                continue;
            for (; end < r->G && lost[end] > tau; end++) {
                area += lost[end] - tau;
                if (lost[end] > lost[peak])
                    peak = end;
            }
            if (!vio_reserve(l, 1, 0))
                return KVT_ENOMEM;
            l->r_at[l->n] = l->n_r;
            v = &l->v[l->n++];
            *v = (kvt_violation){
                .layer = r->L.layer, .head = head, .tau = k, .start_step = t, .n_step = end - t, .peak_step = peak,
                .peak_lost = kvt_from_q31(lost[peak]), .peak_oracle_lost = kvt_from_q31(oracle[peak]),
                .excess_area = (double)area / KVT_Q31_ONE,
                .cause = vio_cause(r, c, head, lost, oracle, t, end - t, tau),
                .foreseeable = -1, .recurrent = -1, .share_top1 = NAN, .share_top5 = NAN, .share_top20 = NAN,
            };
            t = end - 1;
        }
    }
    return KVT_OK;
}

/* ---------------------------------------------------- who was needed (one head) */

typedef struct post_mortem {
    run      *r;
    uint32_t  head, words;          /* words of one importance history                 */
    uint64_t *important;            /* [T][words] bit t: a_t(j) > 1/n_t                */
    uint8_t  *in_window;            /* [N] the same in one of the last prompt rows     */
    double   *acc;                  /* [T] evicted mass of the open run                */
    float     last_kept;            /* lowest score kept, where scores are known        */
} post_mortem;

/* Step after which the entry was gone, INT32_MAX = held. */
static int32_t post_left(const post_mortem *p, const run_cell *c, const lane *l, uint32_t pos)
{
    if (l)
        return l->left[pos];
    if (pos >= p->r->N)
        return INT32_MAX;
    return kvt__kept_of(p->r, c, p->head)[pos] ? INT32_MAX : -1;
}

static void post_window(post_mortem *p)
{
    const run *r = p->r;
    const uint32_t rows = r->window < KVT_OBSERVE ? r->window : KVT_OBSERVE;

    memset(p->in_window, 0, r->N);
    for (uint32_t i = r->window - rows; i < r->window; i++) {
        const float *row = r->L.win + ((size_t)p->head * r->window + i) * r->N;
        const double line = 1.0 / (r->N - r->window + i + 1);
        for (uint32_t j = 0; j < r->N; j++)
            p->in_window[j] |= (double)row[j] > line;
    }
}

static void post_history(post_mortem *p, uint32_t block, const float *tile)
{
    const run *r = p->r;
    const uint32_t t0 = block * KVT_TILE, n = r->G - t0 < KVT_TILE ? r->G - t0 : KVT_TILE;
    float line[KVT_TILE];
    uint32_t bit[KVT_TILE];

    for (uint32_t i = 0; i < KVT_TILE; i++) {
        line[i] = 1.0f / (float)(r->N + t0 + i + 1);
        bit[i] = i < n ? 1u << i : 0;
    }
    /* what a step does not see is 0 in its lane; a block's bits lie in one word */
    for (uint32_t j = 0; j < r->N + t0 + n; j++) {
        uint32_t above = 0;
        for (uint32_t i = 0; i < KVT_TILE; i++)
            above |= tile[(size_t)j * KVT_TILE + i] > line[i] ? bit[i] : 0;
        p->important[(size_t)j * p->words + t0 / 64] |= (uint64_t)above << (t0 % 64);
    }
}

/* Last step before `step` at which entry j mattered: -1 in the window, -2 never. */
static int32_t post_last(const post_mortem *p, uint32_t j, uint32_t step)
{
    for (uint32_t t = step; t-- > 0;)
        if (p->important[(size_t)j * p->words + t / 64] >> (t % 64) & 1u)
            return (int32_t)t;
    return j < p->r->N && p->in_window[j] ? -1 : -2;
}

/* Entries of x[n] that rank before entry j: larger, or equal and at a lower position. */
static uint32_t post_before(const float *x, uint32_t n, uint32_t j)
{
    const float own = x[j];
    uint32_t before = 0;

    for (uint32_t k = 0; k < j; k++)
        before += x[k] >= own;
    for (uint32_t k = j + 1; k < n; k++)
        before += x[k] > own;
    return before;
}

/* Was entry j among the best `held` of at least one observation row? */
static int post_foreseeable(const post_mortem *p, uint32_t j, uint32_t held)
{
    const run *r = p->r;
    const uint32_t rows = r->window < KVT_OBSERVE ? r->window : KVT_OBSERVE;

    if (j >= r->N)
        return 0;
    for (uint32_t i = r->window - rows; i < r->window; i++) {
        const float *row = r->L.win + ((size_t)p->head * r->window + i) * r->N;
        if (post_before(row, r->N, j) < held)
            return 1;
    }
    return 0;
}

/* How the entry stood when it was dropped. */
static void post_standing(const post_mortem *p, const run_cell *c, const lane *l, uint32_t pos, kvt_responsible *out)
{
    const run *r = p->r;
    const float *score;
    float last;

    if (l) {
        out->rank = l->left_rank[pos];
        out->score = (double)l->left_score[pos];
        out->score_margin = (double)l->left_margin[pos];
        return;
    }
    score = r->cell[c->score_of].score;
    if (!score)
        return;
    score += (size_t)kvt__cache_of(c, p->head) * r->N;
    last = p->last_kept;
    out->rank = 1 + post_before(score, r->N, pos);
    out->score = (double)score[pos];
    out->score_margin = last < INFINITY ? (double)last - out->score : NAN;
}

/* The lowest score that was kept: what all of a cache's evicted entries missed. */
static float post_last_kept(const post_mortem *p, const run_cell *c)
{
    const run *r = p->r;
    const float *score = r->cell[c->score_of].score;
    const uint8_t *kept = kvt__kept_of(r, c, p->head);
    float last = INFINITY;

    for (uint32_t k = 0; score && k < r->N; k++) {
        const float x = score[(size_t)kvt__cache_of(c, p->head) * r->N + k];
        if (kept[k] && x < last)
            last = x;
    }
    return last;
}

/* Positions of the largest masses, falling, ties to the lower position; returns how many
 * there are above 0. */
static uint32_t post_top(const double *acc, uint32_t n, uint32_t top[KVT_MAX_RESPONSIBLE])
{
    uint32_t m = 0;

    for (uint32_t j = 0; j < n; j++) {
        uint32_t at = m;
        if (!(acc[j] > (m < KVT_MAX_RESPONSIBLE ? 0 : acc[top[m - 1]])))
            continue;
        for (; at > 0 && acc[j] > acc[top[at - 1]]; at--)
            if (at < KVT_MAX_RESPONSIBLE)
                top[at] = top[at - 1];
        top[at] = j;
        m += m < KVT_MAX_RESPONSIBLE;
    }
    return m;
}

/* The largest entries of acc, by share. */
static kvt_status post_close(post_mortem *p, run_cell *c, uint32_t v_index, const lane *l)
{
    vio_list *list = &c->vio[p->head];
    const run *r = p->r;
    double all = 0, top = 0;
    kvt_violation *v;
    uint32_t best[KVT_MAX_RESPONSIBLE], n_best, n;

    for (uint32_t j = 0; j < r->T; j++)
        all += p->acc[j];
    if (!vio_reserve(list, 0, KVT_MAX_RESPONSIBLE))
        return KVT_ENOMEM;
    v = &list->v[v_index];
    list->r_at[v_index] = list->n_r;
    n_best = post_top(p->acc, r->T, best);
    p->last_kept = l ? 0 : post_last_kept(p, c);
    for (n = 0; n < n_best; n++) {
        kvt_responsible *e = &list->r[list->n_r];
        *e = (kvt_responsible){ .pos = best[n], .mass_share = p->acc[best[n]] / all, .score = NAN, .score_margin = NAN };
        e->evicted_step = post_left(p, c, l, best[n]);
        post_standing(p, c, l, best[n], e);
        e->last_important = post_last(p, best[n], v->start_step);
        e->idle_steps = e->last_important == -2 ? -1 : (int32_t)v->start_step - e->last_important - 1;
        if (n == 0) {
            v->foreseeable = r->window ? post_foreseeable(p, best[n], kvt__held(r, c, p->head)) : -1;
            v->recurrent = e->idle_steps >= 32;
        }
        top += p->acc[best[n]];
        list->n_r++;
        if (n == 0)
            v->share_top1 = top / all;
        if (n < 5)
            v->share_top5 = top / all;
        v->share_top20 = top / all;
    }
    v->n_responsible = n;
    return KVT_OK;
}

/* One violation at the first threshold. */
static kvt_status post_run(post_mortem *p, uint32_t cell, uint32_t v_index, uint32_t thread)
{
    run *r = p->r;
    run_cell *c = &r->cell[cell];
    const lane *l = c->online || c->in_prompt ? kvt__lane_of(r, cell, p->head) : NULL;
    const kvt_violation *v = &c->vio[p->head].v[v_index];
    const uint32_t end = v->start_step + v->n_step;

    memset(p->acc, 0, r->T * sizeof *p->acc);
    for (uint32_t b = v->start_step / KVT_TILE; b * KVT_TILE < end; b++) {
        const float *tile = kvt__tile(r, p->head, b, r->scratch[thread]);
        const uint32_t t0 = b * KVT_TILE;
        const uint32_t first = v->start_step > t0 ? v->start_step - t0 : 0, stop = end - t0 < KVT_TILE ? end - t0 : KVT_TILE;
        for (uint32_t j = 0; j < r->N + t0 + stop; j++) {
            const int32_t left = post_left(p, c, l, j);
            /* from the step after it left; one sum over the steps of a run, in order */
            const int64_t after = (int64_t)left + 1 - t0;
            double sum = p->acc[j];
            for (uint32_t i = after > first ? (after < stop ? (uint32_t)after : stop) : first; i < stop; i++)
                sum += (double)tile[(size_t)j * KVT_TILE + i];
            p->acc[j] = sum;
        }
    }
    return post_close(p, c, v_index, l);
}

/* Index of the run that is looked into, UINT32_MAX = none. */
static uint32_t post_pick(const run_cell *c, uint32_t head)
{
    uint32_t best = UINT32_MAX;

    if (!c->measured || c->curve || c->bound)    /* a bound picks another set at every step */
        return best;
    for (uint32_t k = 0; k < c->vio[head].n; k++)
        if (c->vio[head].v[k].tau == 0 && (best == UINT32_MAX || c->vio[head].v[k].excess_area > c->vio[head].v[best].excess_area))
            best = k;
    return best;
}

static kvt_status post_head(run *r, uint32_t head, uint32_t thread)
{
    post_mortem p = { .r = r, .head = head, .words = (r->G + 63) / 64 };
    kvt_status st = KVT_OK;
    int any = 0;

    for (uint32_t i = 0; i < r->n_cells && !any; i++)
        any = post_pick(&r->cell[i], head) != UINT32_MAX;
    if (!any)
        return KVT_OK;
    p.important = calloc((size_t)r->T * p.words, sizeof *p.important);
    p.in_window = malloc(r->N);
    p.acc = malloc(r->T * sizeof *p.acc);
    if (!p.important || !p.in_window || !p.acc) {
        st = KVT_ENOMEM;
        goto done;
    }
    post_window(&p);
    for (uint32_t b = 0; b < r->n_blocks; b++)
        post_history(&p, b, kvt__tile(r, head, b, r->scratch[thread]));
    for (uint32_t i = 0; i < r->n_cells && st == KVT_OK; i++) {
        const uint32_t k = post_pick(&r->cell[i], head);
        if (k != UINT32_MAX)
            st = post_run(&p, i, k, thread);
    }
done:
    free(p.important);
    free(p.in_window);
    free(p.acc);
    return st;
}

static void vio_head(void *arg, uint32_t head, uint32_t thread)
{
    run *r = arg;
    kvt_status st = KVT_OK;

    for (uint32_t i = 0; i < r->n_cells && st == KVT_OK; i++)
        if (r->cell[i].measured && !r->cell[i].curve)
            st = vio_find(r, &r->cell[i], head);
    if (st == KVT_OK)
        st = post_head(r, head, thread);
    r->item_status[head] = st == KVT_OK ? KVT_OK
        : kvt_fail(&r->item_err[head], st, "%s: layer %u head %u: out of memory for violations", r->src->path, r->L.layer, head);
}

kvt_status kvt__violations(run *r, kvt_err *err)
{
    for (uint32_t i = 0; i < r->n_cells; i++) {
        run_cell *c = &r->cell[i];
        if (c->measured && !c->curve && !(c->vio = calloc(r->L.H, sizeof *c->vio)))
            return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    kvt_pool_run(r->pool, r->L.H, vio_head, r);
    for (uint32_t h = 0; h < r->L.H; h++)
        if (r->item_status[h] < 0) {
            if (err)
                *err = r->item_err[h];
            return r->item_status[h];
        }
    return KVT_OK;
}
