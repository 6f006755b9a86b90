/* minimax.c - the best fixed set for the worst step, with a certified bound.
 *
 * l_t(S) = mass of row t outside S. For weights lambda >= 0 over the rows with sum 1 and
 * every S of B entries, max_t l_t(S) >= sum_t lambda_t l_t(S) >= g(lambda), the mass of the
 * weighted row outside its B largest entries. A row player searches lambda by multiplicative
 * weights with AdaHedge's step (de Rooij, van Erven, Grunwald, Koolen, JMLR 15, 2014); the
 * answers of the set player are candidates for the best set. Whatever ends the search, both
 * numbers are valid. The bound that is published is evaluated again with integers. */
#include "minimax.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "measure.h"

#define MINIMAX_PASSES  64u         /* polish: exchanges at most                       */
#define MINIMAX_ADD     16u         /* entries tried in exchange                       */
#define MINIMAX_REMOVE  64u         /* for these members                               */
#define MINIMAX_BETTER  1e-12

typedef struct search {
    const kvt_minimax_rows *rows;
    uint32_t  n, n_rows, n_blocks;
    size_t    pad;                  /* n_rows rounded up to whole tiles                */
    double   *c;                    /* [n] weighted row                                */
    uint32_t *order;                /* [n] ranks of c                                  */
    kvt_ranked *ranked;             /* [2 n]                                           */
    uint16_t *cls;                  /* [n] index of the first count whose set holds it */
    double   *mass;                 /* [n_points + 1][16]                              */
    double   *lost;                 /* [n_points][pad]                                 */
    double   *lambda, *gain;        /* [pad] weights; summed losses                    */
    double   *x;                    /* [n] summed sets                                 */
    double   *column;               /* [MINIMAX_ADD + MINIMAX_REMOVE][pad]             */
} search;

static const float *minimax_tile(const search *s, uint32_t block)
{
    return s->rows->tile + (size_t)block * s->rows->block_stride;
}

/* s->order = indices by falling value, equals by rising index. */
static void minimax_rank(search *s, const double *value)
{
    kvt_rank_sums(value, s->n, s->ranked, s->ranked + s->n);
    for (uint32_t i = 0; i < s->n; i++)
        s->order[i] = s->ranked[i].j;
}

/* c = sum of the rows by weight, and its ranks. */
static void minimax_weighted(search *s, const double *lambda)
{
    memset(s->c, 0, s->n * sizeof *s->c);
    for (uint32_t b = 0; b < s->n_blocks; b++)
        s->rows->kern->weigh_lanes(minimax_tile(s, b), s->n, lambda + (size_t)b * KVT_TILE, s->c);
    minimax_rank(s, s->c);
}

/* Losses of the best sets by s->order, for points first..end-1: s->lost[point][row]. */
static void minimax_losses(search *s, const kvt_minimax_point *point, uint32_t first, uint32_t end)
{
    uint32_t k = first;

    for (uint32_t rank = 0; rank < s->n; rank++) {
        while (k < end && rank >= point[k].count)
            k++;
        s->cls[s->order[rank]] = (uint16_t)(k - first);
    }
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        memset(s->mass, 0, ((size_t)(end - first) + 1) * KVT_TILE * sizeof *s->mass);
        s->rows->kern->class_mass(minimax_tile(s, b), s->n, s->cls, s->mass);
        for (uint32_t l = 0; l < KVT_TILE; l++) {
            double lost = 0;
            for (k = end; k-- > first;) {
                lost += s->mass[((size_t)(k - first) + 1) * KVT_TILE + l];
                s->lost[(size_t)k * s->pad + (size_t)b * KVT_TILE + l] = lost;
            }
        }
    }
}

static double minimax_max(const double *x, uint32_t n, uint32_t *at)
{
    uint32_t best = 0;

    for (uint32_t t = 1; t < n; t++)
        if (x[t] > x[best])
            best = t;
    if (at)
        *at = best;
    return x[best];
}

/* The sets of s->order as candidates of points first..end-1. */
static void minimax_candidates(search *s, kvt_minimax_point *point, uint32_t first, uint32_t end)
{
    minimax_losses(s, point, first, end);
    for (uint32_t k = first; k < end; k++) {
        const double up = minimax_max(s->lost + (size_t)k * s->pad, s->n_rows, NULL);
        if (!(up < point[k].up))
            continue;
        point[k].up = up;
        for (uint32_t j = 0; j < s->n; j++)
            point[k].set[j] = s->cls[j] <= k - first;
    }
}

/* The weights of one iteration as a bound of points first..end-1, from the losses of the
 * answers. Returns g at point `own`. */
static double minimax_offer(const search *s, kvt_minimax_point *point, uint32_t first, uint32_t end, uint32_t own)
{
    double bound = 0;

    for (uint32_t k = first; k < end; k++) {
        kvt_minimax_point *p = &point[k];
        const double *lost = s->lost + (size_t)k * s->pad;
        double g = 0;
        for (uint32_t t = 0; t < s->n_rows; t++)
            g += s->lambda[t] * lost[t];
        if (g > p->lo) {
            p->lo = g;
            memcpy(p->lambda, s->lambda, s->n_rows * sizeof *p->lambda);
        }
        p->n_iter++;
        bound = k == own ? g : bound;
    }
    return bound;
}

/* Weights of the next iteration from the summed losses; returns the learning rate, 0 = none yet. */
static double minimax_weights(search *s, double delta)
{
    const double top = minimax_max(s->gain, s->n_rows, NULL), eta = delta > 0 ? log((double)s->n_rows) / delta : 0;
    double sum = 0;

    for (uint32_t t = 0; t < s->n_rows; t++) {
        s->lambda[t] = delta > 0 ? kvt_exp(eta * (s->gain[t] - top)) : s->gain[t] >= top;
        sum += s->lambda[t];
    }
    for (uint32_t t = 0; t < s->n_rows; t++)
        s->lambda[t] /= sum;
    return eta;
}

/* What exponential weights would have lost: U + ln(sum lambda exp(eta (l - U))) / eta. */
static double minimax_mix(const search *s, const double *lost, double eta)
{
    double top = 0, sum = 0;

    for (uint32_t t = 0; t < s->n_rows; t++)
        if (eta > 0 || s->lambda[t] > 0)
            top = lost[t] > top ? lost[t] : top;
    if (!(eta > 0))
        return top;
    for (uint32_t t = 0; t < s->n_rows; t++)
        sum += s->lambda[t] * kvt_exp(eta * (lost[t] - top));
    return top + log(sum) / eta;
}

/* The mean of the answers so far, as a fractional set and rounded to a set. Returns the
 * worst row of the fractional one. */
static double minimax_checkpoint(search *s, kvt_minimax_point *p, double weight)
{
    double worst = 0;

    for (uint32_t b = 0; b < s->n_blocks; b++) {
        const float *tile = minimax_tile(s, b);
        double lost[KVT_TILE] = { 0 };
        for (uint32_t j = 0; j < s->n; j++) {
            const double out = 1 - s->x[j] / weight;
            for (uint32_t l = 0; l < KVT_TILE; l++)
                lost[l] += out * kvt_mass(tile[(size_t)j * KVT_TILE + l]);
        }
        for (uint32_t l = 0; l < KVT_TILE; l++)
            worst = lost[l] > worst ? lost[l] : worst;
    }
    minimax_rank(s, s->x);
    minimax_candidates(s, p, 0, 1);
    return worst;
}

/* One search at the count of point `own`. */
static void minimax_search(search *s, kvt_minimax_point *point, uint32_t n_points, uint32_t own, uint32_t max_iter,
                           uint32_t most_iter, const kvt_minimax_trace *trace)
{
    kvt_minimax_point *p = &point[own];
    uint32_t first = p->shared ? 0 : own, end = p->shared ? n_points : own + 1;
    const double *lost = s->lost + (size_t)own * s->pad;
    double delta = 0, weight = 0, fractional = INFINITY;

    memset(s->gain, 0, s->pad * sizeof *s->gain);
    memset(s->x, 0, s->n * sizeof *s->x);
    for (uint32_t r = 1; r <= max_iter && p->up - p->lo > KVT_MINIMAX_TOL; r++) {
        const double eta = minimax_weights(s, delta);
        double g, more;
        minimax_weighted(s, s->lambda);
        minimax_candidates(s, point, first, end);
        g = minimax_offer(s, point, first, end, own);
        more = minimax_mix(s, lost, eta) - g;
        delta += more > 0 ? more : 0;
        for (uint32_t t = 0; t < s->n_rows; t++)
            s->gain[t] += lost[t];
        for (uint32_t j = 0; j < s->n; j++)
            if (s->cls[j] <= own - first)
                s->x[j] += r;
        weight += r;
        if (trace)
            trace->step(trace->user, r, eta, s->lambda, lost, g, delta, p);
        if ((r >= 8 && (r & (r - 1)) == 0) || r == max_iter || r == most_iter || p->up - p->lo <= KVT_MINIMAX_TOL) {
            const double worst = minimax_checkpoint(s, p, weight);
            fractional = worst < fractional ? worst : fractional;
            if (p->up - p->lo > KVT_MINIMAX_TOL && fractional - p->lo <= KVT_MINIMAX_TOL / 4) {
                p->stop = KVT_MINIMAX_FRACTIONAL;
                return;
            }
            if (r == max_iter && p->up - p->lo > KVT_MINIMAX_WIDE) {
                max_iter = most_iter;
                first = own, end = own + 1;
            }
        }
    }
}

/* ------------------------------------------------------------------ polish */

static void minimax_column(const search *s, uint32_t j, double *out)
{
    for (uint32_t b = 0; b < s->n_blocks; b++)
        for (uint32_t l = 0; l < KVT_TILE; l++)
            out[(size_t)b * KVT_TILE + l] = kvt_mass(minimax_tile(s, b)[(size_t)j * KVT_TILE + l]);
}

/* Entries outside the set that row t wants most; returns how many. */
static uint32_t minimax_wanted(const search *s, const uint8_t *set, uint32_t t, uint32_t *out)
{
    const float *row = minimax_tile(s, t / KVT_TILE) + t % KVT_TILE;
    uint32_t n = 0;

    for (uint32_t j = 0; j < s->n; j++) {
        uint32_t at = n < MINIMAX_ADD ? n++ : MINIMAX_ADD;
        if (set[j]) {
            n -= at < MINIMAX_ADD;
            continue;
        }
        if (at == MINIMAX_ADD && row[(size_t)j * KVT_TILE] <= row[(size_t)out[--at] * KVT_TILE])
            continue;
        for (; at > 0 && row[(size_t)out[at - 1] * KVT_TILE] < row[(size_t)j * KVT_TILE]; at--)
            out[at] = out[at - 1];
        out[at] = j;
    }
    return n;
}

/* Best exchange of one member for one other entry; 0 = none is better. */
static int minimax_exchange(search *s, kvt_minimax_point *p, double *lost)
{
    uint32_t add[MINIMAX_ADD], drop[MINIMAX_REMOVE], n_drop = 0, worst, best_add = 0, best_drop = 0;
    const double now = minimax_max(lost, s->n_rows, &worst);
    const uint32_t n_add = minimax_wanted(s, p->set, worst, add);
    double *in = s->column, *out = s->column + MINIMAX_ADD * s->pad, best = now - MINIMAX_BETTER;
    int found = 0;

    for (uint32_t rank = s->n; rank-- > 0 && n_drop < MINIMAX_REMOVE;)
        if (p->set[s->order[rank]])
            drop[n_drop++] = s->order[rank];
    for (uint32_t i = 0; i < n_add; i++)
        minimax_column(s, add[i], in + i * s->pad);
    for (uint32_t i = 0; i < n_drop; i++)
        minimax_column(s, drop[i], out + i * s->pad);
    for (uint32_t a = 0; a < n_add; a++)
        for (uint32_t d = 0; d < n_drop; d++) {
            const double *x = in + a * s->pad, *y = out + d * s->pad;
            double most = lost[worst] - x[worst] + y[worst];
            for (uint32_t t = 0; t < s->n_rows && most < best; t++) {
                const double l = lost[t] - x[t] + y[t];
                most = l > most ? l : most;
            }
            if (most < best) {
                best = most;
                best_add = a, best_drop = d;
                found = 1;
            }
        }
    if (!found)
        return 0;
    for (uint32_t t = 0; t < s->n_rows; t++)
        lost[t] = lost[t] - in[best_add * s->pad + t] + out[best_drop * s->pad + t];
    p->set[add[best_add]] = 1;
    p->set[drop[best_drop]] = 0;
    p->up = best;
    return 1;
}

static void minimax_polish(search *s, kvt_minimax_point *p)
{
    double *lost = s->lost;

    memcpy(s->lambda, p->lambda, s->n_rows * sizeof *s->lambda);
    minimax_weighted(s, s->lambda);
    for (uint32_t j = 0; j < s->n; j++)
        s->cls[j] = p->set[j] ? 0 : 1;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        memset(s->mass, 0, 2 * KVT_TILE * sizeof *s->mass);
        s->rows->kern->class_mass(minimax_tile(s, b), s->n, s->cls, s->mass);
        memcpy(lost + (size_t)b * KVT_TILE, s->mass + KVT_TILE, KVT_TILE * sizeof *lost);
    }
    for (uint32_t pass = 0; pass < MINIMAX_PASSES && p->up > p->lo; pass++)
        if (!minimax_exchange(s, p, lost))
            break;
}

/* -------------------------------------------------------------------- all */

static kvt_status minimax_alloc(search *s, const kvt_minimax_rows *rows, uint32_t n_points, kvt_err *err)
{
    const size_t n = rows->n ? rows->n : 1;

    s->rows = rows;
    s->n = rows->n;
    s->n_rows = rows->n_rows;
    s->n_blocks = (rows->n_rows + KVT_TILE - 1) / KVT_TILE;
    s->pad = (size_t)s->n_blocks * KVT_TILE;
    s->c = malloc(n * sizeof *s->c);
    s->order = malloc(n * sizeof *s->order);
    s->ranked = malloc(2 * n * sizeof *s->ranked);
    s->cls = malloc(n * sizeof *s->cls);
    s->x = malloc(n * sizeof *s->x);
    s->mass = malloc(((size_t)n_points + 1) * KVT_TILE * sizeof *s->mass);
    s->lost = malloc((n_points * s->pad + 1) * sizeof *s->lost);
    s->lambda = calloc(s->pad + 1, sizeof *s->lambda);
    s->gain = calloc(s->pad + 1, sizeof *s->gain);
    s->column = malloc(((MINIMAX_ADD + MINIMAX_REMOVE) * s->pad + 1) * sizeof *s->column);
    if (!s->c || !s->order || !s->ranked || !s->cls || !s->x || !s->mass || !s->lost || !s->lambda || !s->gain || !s->column)
        return kvt_fail(err, KVT_ENOMEM, "out of memory for the minimax bound");
    return KVT_OK;
}

static void minimax_fini(search *s)
{
    free(s->c), free(s->order), free(s->ranked), free(s->cls), free(s->x);
    free(s->mass), free(s->lost), free(s->lambda), free(s->gain), free(s->column);
}

/* Start of a point: the unit vector of the per-step oracle's worst row. */
static int minimax_start(const kvt_minimax_rows *rows, kvt_minimax_point *p)
{
    p->n_iter = 0;
    p->stop = KVT_MINIMAX_LIMIT;
    p->lo = p->oracle_max;
    p->up = INFINITY;
    if (rows->n_rows > 0) {
        memset(p->lambda, 0, rows->n_rows * sizeof *p->lambda);
        p->lambda[p->oracle_at] = 1;
    }
    if (rows->n_rows > 0 && p->count < rows->n)
        return 1;
    p->lo = p->up = 0;
    p->stop = KVT_MINIMAX_TRIVIAL;
    memset(p->set, 1, rows->n);
    return 0;
}

kvt_status kvt_minimax(const kvt_minimax_rows *rows, kvt_minimax_point *point, uint32_t n_points, uint32_t max_iter,
                       uint32_t most_iter, const kvt_minimax_trace *trace, kvt_err *err)
{
    search s = { 0 };
    kvt_status st = KVT_OK;
    uint32_t n = 0;                              /* counts that leave something out: the first ones */

    for (uint32_t k = 0; k < n_points; k++)
        n += minimax_start(rows, &point[k]) != 0;
    if (n == 0)
        return KVT_OK;
    KVT_TRY_GOTO(st, minimax_alloc(&s, rows, n, err));
    if (rows->sum) {
        minimax_rank(&s, rows->sum);
        minimax_candidates(&s, point, 0, n);
    }
    for (int shared = 1; shared >= 0; shared--)
        for (uint32_t k = 0; k < n; k++)
            if ((point[k].shared != 0) == shared)
                minimax_search(&s, point, n, k, max_iter, most_iter, trace);
    for (uint32_t k = 0; k < n; k++) {
        minimax_polish(&s, &point[k]);
        if (rows->n_rows == 1)
            point[k].stop = KVT_MINIMAX_TRIVIAL;
        else if (point[k].up - point[k].lo <= KVT_MINIMAX_TOL)
            point[k].stop = KVT_MINIMAX_CERTIFIED;
    }
done:
    minimax_fini(&s);
    return st;
}

/* ------------------------------------------------------------- certificate */

kvt_status kvt_minimax_quantise(const double *lambda, uint32_t n, uint32_t *out, kvt_err *err)
{
    double *rest = calloc((size_t)n + 1, sizeof *rest);
    kvt_ranked *order = calloc(2 * (size_t)n + 1, sizeof *order);
    int64_t missing = (int64_t)1 << 31;
    kvt_status st = KVT_OK;

    if (!rest || !order) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    for (uint32_t t = 0; t < n; t++) {
        const double x = lambda[t] * KVT_Q31_ONE, whole = floor(x);
        out[t] = (uint32_t)whole;
        rest[t] = x - whole;
        missing -= out[t];
    }
    kvt_rank_sums(rest, n, order, order + n);
    for (uint32_t i = 0; missing > 0; i = i + 1 < n ? i + 1 : 0, missing--)
        out[order[i].j]++;
    for (uint32_t i = 0; missing < 0; i = i + 1 < n ? i + 1 : 0)    /* weights whose sum is a last bit above 1 */
        if (out[i] > 0)
            out[i]--, missing++;
done:
    free(rest);
    free(order);
    return st;
}

void kvt_minimax_weigh(const uint32_t *q, uint32_t n, const uint32_t *weight, uint64_t *column, uint64_t *total)
{
    for (uint32_t j = 0; j < n; j++) {
        uint64_t sum = 0;
        for (uint32_t l = 0; l < KVT_TILE; l++)
            sum += (uint64_t)weight[l] * q[(size_t)j * KVT_TILE + l];
        column[j] += sum;
        *total += sum;
    }
}

static int minimax_cmp_u64(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint32_t kvt_minimax_bound_q31(uint64_t *column, uint32_t n, uint32_t count, uint64_t total)
{
    qsort(column, n, sizeof *column, minimax_cmp_u64);
    for (uint32_t i = 0; i < count && i < n; i++)
        total -= column[n - 1 - i];
    return (uint32_t)(total >> 31);
}

kvt_status kvt_minimax_certify(const kvt_minimax_rows *rows, const kvt_minimax_point *point, uint32_t *weight,
                               uint32_t *bound_q31, kvt_err *err)
{
    const uint32_t n = rows->n, n_blocks = (rows->n_rows + KVT_TILE - 1) / KVT_TILE;
    uint64_t *column = calloc(n ? n : 1, sizeof *column), total = 0;
    uint32_t *q = malloc(((size_t)n * KVT_TILE + 1) * sizeof *q);
    kvt_status st = KVT_OK;

    if (!column || !q) {
        st = kvt_fail(err, KVT_ENOMEM, "out of memory");
        goto done;
    }
    KVT_TRY_GOTO(st, kvt_minimax_quantise(point->lambda, rows->n_rows, weight, err));
    for (uint32_t b = 0; b < n_blocks; b++) {
        const uint32_t t0 = b * KVT_TILE, m = rows->n_rows - t0 < KVT_TILE ? rows->n_rows - t0 : KVT_TILE;
        const float *tile = rows->tile + (size_t)b * rows->block_stride;
        uint32_t w[KVT_TILE] = { 0 };
        memcpy(w, weight + t0, m * sizeof *w);
        for (size_t i = 0; i < (size_t)n * KVT_TILE; i++)
            q[i] = kvt_q31((double)tile[i]);
        kvt_minimax_weigh(q, n, w, column, &total);
    }
    *bound_q31 = kvt_minimax_bound_q31(column, n, point->count, total);
done:
    free(column);
    free(q);
    return st;
}
