/* policy_py.c - a policy written in Python, behind the interface of all others: each
 * callback is one question to a process that runs the user's file (py_child.h). A failure
 * there (exception, wrong shape, NaN, the process died) is remembered, every later answer
 * is NaN, and why() gives its one line. The fields of a message stand in the same order in
 * policies/kvtrace_policy.py. */
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "plugin_impl.h"
#include "py_child.h"

enum { OP_SETUP = 1, OP_SCORE, OP_BEGIN, OP_OBSERVE, OP_WORTH };
enum { ASIDE_KEY = 1, ASIDE_EVENT_Q = 2, ASIDE_EVENT_KEY = 4 };     /* data with no KVT_NEED bit */
enum { DTYPE_F4, DTYPE_U4, DTYPE_F8, DTYPE_I4 };
enum { PY_WHY = 400, PY_REFUSALS = 8, N_SETUP = 21, PY_WINDOW_MAX = 4194304 };

typedef struct py_policy {          /* kvt_policy.self                                */
    kvt_policy    policy;
    kvt_param_def params[KVT_PARAMS_MAX + 1];
    uint32_t      n_params, aside, window;
    int           window_param;     /* parameter that is the window, or -1            */
    int           has_setup, nested;
    kvt_first     first;
    py_pool       pool;
    char         *fields;           /* what the strings of policy and params point to */
    atomic_int    failed;
    char          why[PY_WHY];      /* of the first failure; does not change after it */
    char          refusal[PY_REFUSALS][PY_WHY];     /* reasons of setup(), static as promised */
    uint32_t      n_refusals;
} py_policy;

/* ---- a call ------------------------------------------------------------------------- */

static void py_fail(py_policy *p, const char *why)
{
    pthread_mutex_lock(&p->pool.lock);
    if (!atomic_load(&p->failed)) {
        snprintf(p->why, sizeof p->why, "%.*s", (int)sizeof p->why - 1, why);
        atomic_store(&p->failed, 1);
    }
    pthread_mutex_unlock(&p->pool.lock);
}

static const char *py_why(void *self)
{
    py_policy *p = self;

    return atomic_load(&p->failed) ? p->why : NULL;
}

static void py_put_job(py_child *c, const kvt_job *job, uint32_t n_params)
{
    const int64_t ints[14] = { job->n_layers, job->n_q_heads, job->n_kv_heads, job->n_caches, job->head_dim, job->value_dim, job->n,
                               job->n_new, (int64_t)job->rule, job->in_tokens, job->keep_cache, (int64_t)job->keep_layer,
                               (int64_t)job->keep_model, (int64_t)job->ties };
    const double reals[3] = { job->scale, job->share, job->tokens };

    py_put(c, ints, sizeof ints);
    py_put(c, &job->key, sizeof job->key);
    py_put(c, reals, sizeof reals);
    py_put(c, job->param, n_params * sizeof *job->param);
}

/* The process for one question, which has been told what is asked; NULL after a failure. */
static py_child *py_ask(py_policy *p, uint32_t op, const kvt_job *job)
{
    kvt_err err;
    py_child *c;

    if (atomic_load(&p->failed))
        return NULL;
    c = py_take(&p->pool, &err);
    if (!c) {
        py_fail(p, err.text);
        return NULL;
    }
    py_put(c, &op, sizeof op);
    py_put_job(c, job, p->n_params);
    return c;
}

/* 1: the answer follows. */
static int py_reply(py_policy *p, py_child *c, const char *what)
{
    char why[PY_WHY];
    const int ok = py_answer(c, what, why, sizeof why);

    if (ok > 0)
        return 1;
    py_fail(p, why);
    if (ok == 0)
        py_give(&p->pool, c);
    return 0;
}

static void py_done(py_policy *p, py_child *c, int complete)
{
    if (complete)
        py_give(&p->pool, c);
    else
        py_fail(p, "Python ended in the middle of an answer");
}

/* ---- what is sent ------------------------------------------------------------------- */

static void py_put_u32(py_child *c, uint32_t x)
{
    py_put(c, &x, sizeof x);
}

/* The head of an array of rank 1 to 3; unused dimensions are 0. Its data follow. */
static void py_put_head(py_child *c, const char *name, uint32_t dtype, uint32_t a, const uint32_t *b, const uint32_t *d)
{
    char text[16] = { 0 };

    memcpy(text, name, strlen(name));
    py_put(c, text, sizeof text);
    py_put_u32(c, dtype);
    py_put_u32(c, a + 1);
    py_put_u32(c, b ? *b + 1 : 0);
    py_put_u32(c, d ? *d + 1 : 0);
}

static void py_put_end(py_child *c)
{
    static const char none[16];

    py_put(c, none, sizeof none);
}

/* n_rows strided blocks of b x d floats as one array. */
static void py_put_blocks(py_child *c, const char *name, const float *x, uint32_t n_rows, size_t stride, uint32_t b, uint32_t d)
{
    py_put_head(c, name, DTYPE_F4, n_rows, &b, &d);
    for (uint32_t i = 0; i < n_rows; i++)
        py_put(c, x + i * stride, (size_t)b * d * sizeof *x);
}

static void py_put_rope(py_child *c, const kvt_job *job, const kvt_rope *rope)
{
    const int32_t shape[3] = { (int32_t)rope->dims, (int32_t)rope->offset, rope->interleaved };

    py_put_head(c, "rope_shape", DTYPE_I4, 3, NULL, NULL);
    py_put(c, shape, sizeof shape);
    py_put_head(c, "rope_scaling", DTYPE_F8, 1, NULL, NULL);
    py_put(c, &rope->scaling, sizeof rope->scaling);
    py_put_head(c, "rope_inv_freq", DTYPE_F8, rope->dims / 2, NULL, NULL);
    py_put(c, rope->inv_freq, rope->dims / 2 * sizeof *rope->inv_freq);
    py_put_head(c, "rope_rotary", DTYPE_I4, job->n + job->n_new, NULL, NULL);
    py_put(c, rope->rotary, (size_t)(job->n + job->n_new) * sizeof *rope->rotary);
}

static uint32_t py_window(const py_policy *p, const kvt_job *job)
{
    return p->window_param < 0 ? p->window : (uint32_t)job->param[p->window_param];
}

static void py_put_prompt(py_child *c, const py_policy *p, const kvt_job *job, const kvt_prompt *in)
{
    const uint32_t needs = p->policy.needs, n = job->n, heads = job->n_q_heads, asked = py_window(p, job);
    const uint32_t window = asked < in->window ? asked : in->window;

    py_put_u32(c, in->layer);
    py_put_u32(c, in->slot);
    if ((needs & KVT_NEED_WINDOW) && in->win)
        py_put_blocks(c, "win", kvt_window_row(job, in, 0, window, 0), heads, (size_t)in->window * n, window, n);
    if ((needs & KVT_NEED_COLSTAT) && in->col_sum) {
        py_put_head(c, "col_sum", DTYPE_F4, heads, &n, NULL);
        py_put(c, in->col_sum, (size_t)heads * n * sizeof *in->col_sum);
    }
    if ((needs & KVT_NEED_NU) && in->nu) {
        py_put_head(c, "nu", DTYPE_F4, heads, &n, NULL);
        py_put(c, in->nu, (size_t)heads * n * sizeof *in->nu);
    }
    if ((needs & KVT_NEED_FUTURE) && in->future_sum) {
        py_put_head(c, "future_sum", DTYPE_F8, heads, &n, NULL);
        py_put(c, in->future_sum, (size_t)heads * n * sizeof *in->future_sum);
    }
    if ((needs & KVT_NEED_PROMPT) && in->q)
        py_put_blocks(c, "q", in->q, heads, (size_t)n * job->head_dim, n, job->head_dim);
    if ((p->aside & ASIDE_KEY) && in->key)
        py_put_blocks(c, "key", in->key, job->n_kv_heads, in->key_stride, n, job->head_dim);
    if ((needs & KVT_NEED_VALUES) && in->val)
        py_put_blocks(c, "val", in->val, job->n_kv_heads, in->val_stride, n, job->value_dim);
    if ((needs & KVT_NEED_ROPE) && in->rope)
        py_put_rope(c, job, in->rope);
    py_put_end(c);
}

static void py_put_event(py_child *c, const py_policy *p, const kvt_lane *lane, const kvt_event *ev, const float *score, const float *col)
{
    const uint32_t cols = p->policy.slot_cols, d = lane->job->head_dim;
    const uint32_t head[7] = { lane->layer, lane->cache, lane->capacity, ev->n, ev->query, ev->n_heads, cols };

    py_put(c, head, sizeof head);
    py_put_head(c, "pos", DTYPE_U4, ev->n, NULL, NULL);
    py_put(c, ev->pos, ev->n * sizeof *ev->pos);
    if (ev->prob) {
        py_put_head(c, "prob", DTYPE_F4, ev->n, NULL, NULL);
        py_put(c, ev->prob, ev->n * sizeof *ev->prob);
    }
    if (score) {
        py_put_head(c, "score", DTYPE_F4, lane->job->n, NULL, NULL);
        py_put(c, score, lane->job->n * sizeof *score);
    }
    if ((p->aside & ASIDE_EVENT_Q) && ev->q) {
        py_put_head(c, "q", DTYPE_F4, ev->n_heads, &d, NULL);
        for (uint32_t i = 0; i < ev->n_heads; i++)
            py_put(c, ev->q + i * ev->q_stride, d * sizeof *ev->q);
    }
    if ((p->aside & ASIDE_EVENT_KEY) && ev->key) {
        py_put_head(c, "key", DTYPE_F4, ev->n, &d, NULL);
        for (uint32_t s = 0; s < ev->n; s++)
            py_put(c, ev->key + (size_t)ev->pos[s] * d, d * sizeof *ev->key);
    }
    py_put_end(c);
    for (uint32_t k = 0; k < cols; k++)
        py_put(c, col + (size_t)k * lane->cap, ev->n * sizeof *col);
}

static int py_get_cols(py_child *c, const py_policy *p, const kvt_lane *lane, uint32_t n, float *col)
{
    for (uint32_t k = 0; k < p->policy.slot_cols; k++)
        if (!py_get(c, col + (size_t)k * lane->cap, n * sizeof *col))
            return 0;
    return 1;
}

/* ---- callbacks ---------------------------------------------------------------------- */

/* A refusal is static text: the same reason is kept once. */
static const char *py_refusal(py_policy *p, const char *text)
{
    const char *kept = "setup() refuses this budget";

    pthread_mutex_lock(&p->pool.lock);
    for (uint32_t i = 0; i < PY_REFUSALS; i++) {
        if (i == p->n_refusals)
            snprintf(p->refusal[p->n_refusals++], PY_WHY, "%s", text);
        if (!strcmp(p->refusal[i], text)) {
            kept = p->refusal[i];
            break;
        }
    }
    pthread_mutex_unlock(&p->pool.lock);
    return kept;
}

static int py_get_setup(py_policy *p, py_child *c, kvt_setup *out)
{
    int64_t x[N_SETUP];
    uint32_t n_text;
    char text[PY_WHY] = "", *at = text;

    if (!py_get(c, x, sizeof x) || !py_get(c, &n_text, sizeof n_text) || n_text >= sizeof text || !py_get(c, at, n_text))
        return 0;
    out->caps = (uint32_t)x[0], out->needs = (uint32_t)x[1], out->window = (uint32_t)x[2];
    out->caches = (kvt_caches)x[3], out->rank_over = (kvt_span)x[4], out->share_over = (kvt_span)x[5], out->first = (kvt_first)x[6];
    out->nested = x[7] != 0, out->keep_all = (int)x[8], out->overshoots = x[9] != 0, out->flags = (uint32_t)x[10];
    out->prompt_stride = (uint32_t)x[11], out->prompt_first = (uint32_t)x[12], out->prompt_capacity = (uint32_t)x[13];
    out->quiet = x[14] != 0, out->capacity = (uint32_t)x[15], out->prompt_wait = x[16] != 0, out->exempt = (uint32_t)x[17];
    out->steps_from = (uint32_t)x[18], out->hide_col = (uint32_t)x[19], out->uneven = x[20] != 0;
    if (n_text)
        out->refuse = py_refusal(p, text);
    return 1;
}

static void py_setup(const kvt_job *job, kvt_setup *out)
{
    py_policy *p = job->self;
    py_child *c;

    out->window = py_window(p, job);
    out->first = p->first;
    out->nested = p->nested;
    c = p->has_setup ? py_ask(p, OP_SETUP, job) : NULL;
    if (c) {
        const int64_t x[N_SETUP] = {
            out->caps, out->needs, out->window, (int64_t)out->caches, (int64_t)out->rank_over, (int64_t)out->share_over,
            (int64_t)out->first, out->nested, out->keep_all, out->overshoots, out->flags, out->prompt_stride, out->prompt_first,
            out->prompt_capacity, out->quiet, out->capacity, out->prompt_wait, out->exempt, out->steps_from, out->hide_col,
            out->uneven,
        };
        py_put(c, x, sizeof x);
        if (py_reply(p, c, "in setup()"))
            py_done(p, c, py_get_setup(p, c, out));
    }
    if (atomic_load(&p->failed))
        out->refuse = p->why;
}

static int py_get_score(py_child *c, const kvt_job *job, kvt_choice *out)
{
    uint32_t n_keep;
    int64_t keep_layer;

    if (!py_get(c, out->score, (size_t)job->n_caches * job->n * sizeof *out->score) || !py_get(c, &n_keep, sizeof n_keep)
        || !py_get(c, &keep_layer, sizeof keep_layer) || (n_keep && n_keep != job->n_caches)
        || !py_get(c, out->keep, n_keep * sizeof *out->keep))
        return 0;
    if (keep_layer >= 0)
        *out->keep_layer = (uint64_t)keep_layer;
    return 1;
}

static void py_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    py_policy *p = job->self;
    py_child *c = py_ask(p, OP_SCORE, job);

    (void)ws;
    if (c) {
        py_put_prompt(c, p, job, in);
        if (py_reply(p, c, "in score()"))
            py_done(p, c, py_get_score(c, job, out));
    }
    if (atomic_load(&p->failed))
        for (size_t i = 0; i < (size_t)job->n_caches * job->n; i++)
            out->score[i] = NAN;
}

static void py_begin(const kvt_lane *lane, const kvt_prompt *in, const float *score, const kvt_event *ev, float *col)
{
    py_policy *p = lane->job->self;
    py_child *c = py_ask(p, OP_BEGIN, lane->job);

    if (!c)
        return;
    py_put_prompt(c, p, lane->job, in);
    py_put_event(c, p, lane, ev, score, col);
    if (py_reply(p, c, "in begin()"))
        py_done(p, c, py_get_cols(c, p, lane, ev->n, col));
}

static void py_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    py_policy *p = lane->job->self;
    py_child *c = py_ask(p, OP_OBSERVE, lane->job);

    if (!c)
        return;
    py_put_event(c, p, lane, ev, NULL, col);
    if (py_reply(p, c, "in observe()"))
        py_done(p, c, py_get_cols(c, p, lane, ev->n, col));
}

static void py_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    py_policy *p = lane->job->self;
    py_child *c = py_ask(p, OP_WORTH, lane->job);

    (void)ws;
    if (c) {
        py_put_event(c, p, lane, ev, NULL, col);
        if (py_reply(p, c, "in worth()"))
            py_done(p, c, py_get_cols(c, p, lane, ev->n, col) && py_get(c, worth, ev->n * sizeof *worth));
    }
    if (atomic_load(&p->failed))
        for (uint32_t s = 0; s < ev->n; s++)
            worth[s] = NAN;
}

/* ---- the descriptor ----------------------------------------------------------------- */

typedef struct py_text { const char *at, *end; } py_text;

static const char *py_field(py_text *t)
{
    const char *field = t->at < t->end ? t->at : "";

    if (t->at < t->end)
        t->at += strlen(t->at) + 1;
    return field;
}

static double py_number(py_text *t)
{
    return strtod(py_field(t), NULL);
}

static uint32_t py_u32(py_text *t)
{
    const double x = py_number(t);

    return x > 0 && x <= UINT32_MAX ? (uint32_t)x : 0;
}

static kvt_status py_describe(py_policy *p, py_text t, kvt_err *err)
{
    kvt_policy *d = &p->policy;
    const char *window;
    uint32_t n;
    int has_begin, has_observe;

    d->abi = KVT_POLICY_ABI;
    d->id = py_field(&t), d->title = py_field(&t), d->cite = py_field(&t), d->note = py_field(&t);
    d->note = *d->note ? d->note : NULL;
    d->caps = py_u32(&t), d->needs = py_u32(&t), p->aside = py_u32(&t), d->version = py_u32(&t);
    d->caches = (kvt_caches)py_u32(&t), d->rank_over = (kvt_span)py_u32(&t), d->share_over = (kvt_span)py_u32(&t);
    p->first = (kvt_first)py_u32(&t), p->nested = py_u32(&t) != 0, d->slot_cols = py_u32(&t);
    window = py_field(&t), p->window = py_u32(&t);
    p->has_setup = py_u32(&t) != 0, has_begin = py_u32(&t) != 0, has_observe = py_u32(&t) != 0;
    n = py_u32(&t);
    if (n > KVT_PARAMS_MAX)
        return kvt_fail(err, KVT_EFORMAT, "%s: params: %u parameters, at most %u are allowed", p->pool.file.path, n, KVT_PARAMS_MAX);
    p->window_param = -1;
    for (uint32_t i = 0; i < n; i++) {
        kvt_param_def *x = &p->params[i];
        x->name = py_field(&t), x->def = py_number(&t), x->min = py_number(&t), x->max = py_number(&t);
        x->choices = py_field(&t), x->integer = (int)py_u32(&t), x->help = "";
        if (!strcmp(x->name, window))
            p->window_param = (int)i;
        if (!*x->choices)
            x->choices = NULL;
        else
            x->integer = 1;
    }
    p->n_params = n;
    d->params = p->params;
    d->self = p;
    d->setup = py_setup, d->why = py_why;
    d->score = d->caps & KVT_POLICY_ONESHOT ? py_score : NULL;
    d->worth = d->caps & KVT_POLICY_ONLINE ? py_worth : NULL;
    d->begin = has_begin ? py_begin : NULL;
    d->observe = has_observe ? py_observe : NULL;
    if (p->window_param >= 0) {
        const kvt_param_def *x = &p->params[p->window_param];
        if (x->choices || !x->integer || !(x->min >= 0 && x->max <= PY_WINDOW_MAX))
            return kvt_fail(err, KVT_EFORMAT, "%s: window = '%s': the parameter must be a whole number from 0 to at most %u", p->pool.file.path,
                            window, (unsigned)PY_WINDOW_MAX);
    }
    return KVT_OK;
}

static kvt_status py_copy_file(plugin_file *to, const plugin_file *from, kvt_err *err)
{
    *to = *from;
    to->real = malloc(strlen(from->real) + 1);
    to->data = malloc(from->n_bytes + 1);
    if (!to->real || !to->data)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    strcpy(to->real, from->real);
    memcpy(to->data, from->data, from->n_bytes + 1);
    return KVT_OK;
}

kvt_status kvt__policy_py(const plugin_file *f, kvt_err *err)
{
    py_policy *p = calloc(1, sizeof *p);
    kvt_status st;
    size_t n;

    if (!p)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    pthread_mutex_init(&p->pool.lock, NULL);
    pthread_cond_init(&p->pool.freed, NULL);
    st = py_copy_file(&p->pool.file, f, err);
    if (st == KVT_OK)
        st = py_start(&p->pool, &p->fields, &n, err);
    if (st < 0) {
        kvt__plugin_fini(&p->pool.file);
        free(p);
        return st;
    }
    KVT_TRY(py_describe(p, (py_text){ p->fields, p->fields + n }, err));     /* from here on it stays, as its process does */
    return kvt__plugin_add(f, &p->policy, err);
}
