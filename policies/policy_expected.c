/* Expected attention: what later queries should attend to, if they are like the prompt's.
 *
 * arXiv:2510.00636, as in NVIDIA/kvpress and FFY0/DefensiveKV 9251b95. Per query head: mean
 * mu and covariance S of the prompt's queries before rotation, sinks left out; both are
 * turned by R, the mean rotation over the next 512 positions; a normal query then gives
 * key k the logit k.mu / sqrt(d) + k'S k / (2 d); softmax over the tokens behind the sinks.
 * Per cache: (mean over the group + eps) times the L2 norm of the value. The sinks get the
 * best score of the layer. The logit takes sqrt(d) whatever the model's scale, as the
 * reference does. Layers that do not rotate have R = 1. */
#include "kvt_prim.h"

#include <math.h>

enum { P_SINKS, P_EPS };
static const kvt_param_def expected_params[] = {
    [P_SINKS] = { "sinks", 4, 0, 4194304, NULL, 1, "first tokens that stay and whose queries do not count" },
    [P_EPS]   = { "eps", 0, 0, 1e6, NULL, 0, "added to the expected attention before the value norm" },
    { 0 }
};

enum { EXPECTED_HORIZON = 512 };                /* later positions, tokens */

static void expected_setup(const kvt_job *job, kvt_setup *out)
{
    const size_t n = job->n, d = job->head_dim;

    out->nested = 1;
    out->ws_bytes = KVT_WS_BYTES(n * d, double) + KVT_WS_BYTES(d * d, double) + 5 * KVT_WS_BYTES(d, double)
                  + 2 * KVT_WS_BYTES(n, double) + KVT_WS_BYTES(n, float);
    if (job->n <= job->param[P_SINKS])
        out->keep_all = 1;                      /* no query counts, nothing to choose from */
    else if (job->keep_cache < job->param[P_SINKS])
        out->flags |= KVT_FLAG_BELOW_WINDOW;
}

typedef struct expected_scratch {
    double *turn;                               /* [n][dims] cos and sin of every query   */
    double *cov;                                /* [d][d]                                 */
    double *mu, *later, *next, *x, *y;          /* [d]; later: cos and sin, mean of the horizon */
    double *z, *sum;                            /* [n]                                    */
    float  *e;                                  /* [n]                                    */
} expected_scratch;

/* Multiply x, elements `stride` apart, by the rotations with cos and sin in cs; inverse
 * also undoes their length. */
static void expected_turn(const kvt_rope *rope, const double *cs, int inverse, size_t stride, double *x)
{
    for (uint32_t f = 0; rope && f < rope->dims / 2; f++) {
        double *a = x + (rope->offset + (rope->interleaved ? 2 * f : f)) * stride;
        double *b = a + (rope->interleaved ? 1 : rope->dims / 2) * stride;
        const double c = cs[2 * f], s = inverse ? -cs[2 * f + 1] : cs[2 * f + 1];
        const double norm = inverse ? c * c + s * s : 1, was = *a;

        *a = (was * c - *b * s) / norm;
        *b = (*b * c + was * s) / norm;
    }
}

/* Query t of a head before rotation: x[0 .. d-1]. */
static void expected_query(const kvt_prompt *in, const float *q, uint32_t d, uint32_t t, const expected_scratch *s, double *x)
{
    for (uint32_t i = 0; i < d; i++)
        x[i] = q[(size_t)t * d + i];
    expected_turn(in->rope, s->turn + (in->rope ? (size_t)t * in->rope->dims : 0), 1, 1, x);
}

/* Rotations of the prompt's queries, and the mean rotation of the horizon, which goes on
 * from the last prompt token. */
static void expected_rotations(const kvt_job *job, const kvt_prompt *in, const expected_scratch *s)
{
    const kvt_rope *rope = in->rope;

    if (!rope)
        return;
    for (uint32_t t = 0; t < job->n; t++)
        kvt_rope_turn(rope, t, rope->rotary[t], s->turn + (size_t)t * rope->dims);
    for (uint32_t i = 0; i < rope->dims; i++)
        s->later[i] = 0;
    for (uint32_t p = 0; p < EXPECTED_HORIZON; p++) {
        kvt_rope_turn(rope, job->n + p, (int64_t)rope->rotary[job->n - 1] + 1 + p, s->next);
        for (uint32_t i = 0; i < rope->dims; i++)
            s->later[i] += s->next[i] / EXPECTED_HORIZON;
    }
}

/* s->mu, s->cov of one query head, turned. */
static void expected_statistics(const kvt_job *job, const kvt_prompt *in, uint32_t head, const expected_scratch *s)
{
    const uint32_t n = job->n, d = job->head_dim, sinks = (uint32_t)job->param[P_SINKS], count = n - sinks;
    const float *q = in->q + (size_t)head * n * d;

    for (uint32_t i = 0; i < d; i++)
        s->mu[i] = 0;
    for (size_t i = 0; i < (size_t)d * d; i++)
        s->cov[i] = 0;
    for (uint32_t t = sinks; t < n; t++) {
        expected_query(in, q, d, t, s, s->x);
        for (uint32_t i = 0; i < d; i++)
            s->mu[i] += s->x[i];
    }
    for (uint32_t i = 0; i < d; i++)
        s->mu[i] /= count;
    for (uint32_t t = sinks; t < n; t++) {
        expected_query(in, q, d, t, s, s->x);
        for (uint32_t i = 0; i < d; i++)
            s->x[i] -= s->mu[i];
        for (uint32_t i = 0; i < d; i++)
            for (uint32_t k = 0; k <= i; k++)
                s->cov[(size_t)i * d + k] += s->x[i] * s->x[k];
    }
    for (uint32_t i = 0; i < d; i++)
        for (uint32_t k = 0; k <= i; k++)
            s->cov[(size_t)k * d + i] = s->cov[(size_t)i * d + k] /= count;
    expected_turn(in->rope, s->later, 0, 1, s->mu);
    for (uint32_t i = 0; i < d; i++)
        expected_turn(in->rope, s->later, 0, 1, s->cov + (size_t)i * d);
    for (uint32_t i = 0; i < d; i++)
        expected_turn(in->rope, s->later, 0, d, s->cov + i);
}

/* Adds the expected attention of one query head to s->sum. Rounded to f32 before the
 * division, so that what vanishes in f32 vanishes. */
static void expected_attend(const kvt_job *job, const float *key, const expected_scratch *s)
{
    const uint32_t n = job->n, d = job->head_dim, sinks = (uint32_t)job->param[P_SINKS];
    double top = -INFINITY, all = 0;

    for (uint32_t j = sinks; j < n; j++) {
        double linear = 0, square = 0;

        for (uint32_t i = 0; i < d; i++) {
            s->x[i] = key[(size_t)j * d + i];
            s->y[i] = 0;
        }
        for (uint32_t i = 0; i < d; i++)
            for (uint32_t k = 0; k < d; k++)
                s->y[k] += s->x[i] * s->cov[(size_t)i * d + k];
        for (uint32_t i = 0; i < d; i++) {
            linear += s->x[i] * s->mu[i];
            square += s->x[i] * s->y[i];
        }
        s->z[j] = linear / sqrt(d) + square / d / 2;
        top = s->z[j] > top ? s->z[j] : top;
    }
    for (uint32_t j = sinks; j < n; j++) {
        s->e[j] = (float)exp(s->z[j] - top);
        all += s->e[j];
    }
    for (uint32_t j = sinks; j < n; j++)
        s->sum[j] += (float)(s->e[j] / all);
}

static float expected_value_norm(const float *val, uint32_t d)
{
    double sum = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += (double)val[i] * (double)val[i];
    return (float)sqrt(sum);
}

static void expected_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const uint32_t n = job->n, d = job->head_dim, sinks = (uint32_t)job->param[P_SINKS], group = kvt_group(job);
    expected_scratch s;
    float best = 0;

    s.turn = kvt_ws_take(ws, (size_t)n * d, sizeof *s.turn);
    s.cov = kvt_ws_take(ws, (size_t)d * d, sizeof *s.cov);
    s.mu = kvt_ws_take(ws, d, sizeof *s.mu);
    s.later = kvt_ws_take(ws, d, sizeof *s.later);
    s.next = kvt_ws_take(ws, d, sizeof *s.next);
    s.x = kvt_ws_take(ws, d, sizeof *s.x);
    s.y = kvt_ws_take(ws, d, sizeof *s.y);
    s.z = kvt_ws_take(ws, n, sizeof *s.z);
    s.sum = kvt_ws_take(ws, n, sizeof *s.sum);
    s.e = kvt_ws_take(ws, n, sizeof *s.e);

    expected_rotations(job, in, &s);
    for (uint32_t c = 0; c < job->n_caches; c++) {
        const uint32_t g = kvt_kv_head(job, c);
        float *score = out->score + (size_t)c * n;

        for (uint32_t j = sinks; j < n; j++)
            s.sum[j] = 0;
        for (uint32_t i = 0; i < group; i++) {
            expected_statistics(job, in, c * group + i, &s);
            expected_attend(job, in->key + g * in->key_stride, &s);
        }
        for (uint32_t j = sinks; j < n; j++) {
            const float *val = in->val + g * in->val_stride + (size_t)j * job->value_dim;
            score[j] = (float)((s.sum[j] / group + job->param[P_EPS]) * expected_value_norm(val, job->value_dim));
            best = score[j] > best ? score[j] : best;
        }
    }
    for (uint32_t c = 0; c < job->n_caches; c++)
        for (uint32_t j = 0; j < sinks; j++)
            out->score[(size_t)c * n + j] = best;
}

extern const kvt_policy kvt_policy_expected;
const kvt_policy kvt_policy_expected = {
    .abi = KVT_POLICY_ABI, .caps = KVT_POLICY_ONESHOT, .needs = KVT_NEED_PROMPT | KVT_NEED_ROPE | KVT_NEED_VALUES, .version = 1,
    .id = "expected", .title = "Expected attention", .cite = "arXiv:2510.00636",
    .note = "Statistics are those of the prompt's own queries. The sinks tie with the layer's best token; later versions of kvpress "
            "put them above it.",
    .params = expected_params, .setup = expected_setup, .score = expected_score,
};
