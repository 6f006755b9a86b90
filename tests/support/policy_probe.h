/* policy_probe.h - a policy between the engine and the policy under test. Every callback is
 * called on copies first: inputs that were not asked for are NULL, those that were have
 * another stride and the exact length, outputs and scratch are full of NaN with guards
 * around them, columns have another stride. Then it is called again; the second answer is
 * the engine's and must have the same bits. One thread at a time.
 *
 * It also keeps a log of the calls on lanes, from which a test can drive a lane by hand. */
#ifndef POLICY_PROBE_H
#define POLICY_PROBE_H

#include <stdarg.h>
#include "policy_world.h"
#include "replay_impl.h"

enum { PROBE_GUARD = 16, PROBE_EVENTS = 400 };
enum { PROBE_BEGIN, PROBE_OBSERVE, PROBE_WORTH };

typedef struct probe_event {        /* one call on a lane, with copies of all it saw  */
    int         kind;
    kvt_lane    lane;
    kvt_job     job;
    kvt_event   ev;
    size_t      ws_bytes;
    float      *before, *after;     /* [slot_cols][n]                                 */
    float      *worth;              /* [n], of PROBE_WORTH                            */
} probe_event;

static struct probe {
    const kvt_policy *p;
    kvt_policy  wrap;
    char        why[400];           /* the first breach                               */
    uint32_t    n_score, n_worth, n_observe, n_allot;
    int         logging;            /* 1: keep the calls on the lanes of cache 0 of every layer */
    probe_event event[PROBE_EVENTS];
    uint32_t    n_events;
} probe;

static void probe_blame(const char *fmt, ...) KVT_PRINTF(1, 2);
static void probe_blame(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!probe.why[0]) vsnprintf(probe.why, sizeof probe.why, fmt, ap);
    va_end(ap);
}

static inline int probe_same(const void *a, const void *b, size_t n) { return n == 0 || memcmp(a, b, n) == 0; }

/* n bytes of NaN with guards before and after. */
static inline void *probe_lend(size_t n)
{
    unsigned char *p = aligned_alloc(64, (n + 64 * 2 + 63) & ~(size_t)63);
    memset(p, 0xff, n + 128);
    return p + 64;
}

static inline int probe_take(void *lent, size_t n)          /* 1 = the guards are intact */
{
    const unsigned char *p = (unsigned char *)lent - 64;
    int good = 1;
    for (size_t i = 0; i < 64; i++) good &= p[i] == 0xff && p[64 + n + i] == 0xff;
    free((unsigned char *)lent - 64);
    return good;
}

/* ---- inputs of score() and begin(), with what was asked for and nothing else --------- */

typedef struct probe_input { kvt_prompt in; float *win, *key, *val; } probe_input;

static inline float *probe_restride(const float *from, size_t stride, uint32_t heads, size_t n, size_t *out_stride)
{
    float *to = NULL;
    *out_stride = n + 3;
    if (!from) return NULL;
    to = malloc((heads * *out_stride + 1) * sizeof *to);
    memset(to, 0xff, (heads * *out_stride + 1) * sizeof *to);
    for (uint32_t g = 0; g < heads; g++) memcpy(to + g * *out_stride, from + g * stride, n * sizeof *to);
    return to;
}

static inline probe_input probe_narrow(const kvt_job *job, const kvt_setup *setup, const kvt_prompt *in)
{
    const uint32_t rows = setup->window, has = setup->needs;
    probe_input o = {*in, NULL, NULL, NULL};

    if (has & KVT_NEED_WINDOW && rows <= in->window) {      /* the last rows alone */
        o.win = malloc(((size_t)job->n_q_heads * rows * job->n + 1) * sizeof *o.win);
        for (uint32_t h = 0; h < job->n_q_heads; h++)
            memcpy(o.win + (size_t)h * rows * job->n, kvt_window_row(job, in, h, rows, 0), (size_t)rows * job->n * sizeof *o.win);
    } else if (has & KVT_NEED_WINDOW && job->n > rows) {
        probe_blame("%u rows were asked for, the prompt has %u", rows, in->window);
    }
    o.in.win = o.win, o.in.window = o.win ? rows : 0;
    if (!(has & KVT_NEED_COLSTAT)) o.in.col_sum = NULL;
    if (!(has & KVT_NEED_NU)) o.in.nu = NULL;
    if (!(has & KVT_NEED_FUTURE)) o.in.future_sum = NULL;
    if (!(has & KVT_NEED_PROMPT)) o.in.q = NULL;
    if (!(has & KVT_NEED_ROPE)) o.in.rope = NULL;
    if ((has & KVT_NEED_COLSTAT && !in->col_sum) || (has & KVT_NEED_NU && !in->nu) || (has & KVT_NEED_FUTURE && !in->future_sum)
        || (has & KVT_NEED_PROMPT && !in->q) || (has & KVT_NEED_VALUES && !in->val) || !in->key)
        probe_blame("the engine did not give what was asked for");
    o.in.key = o.key = probe_restride(in->key, in->key_stride, job->n_kv_heads, (size_t)job->n * job->head_dim, &o.in.key_stride);
    o.in.val = o.val = has & KVT_NEED_VALUES ? probe_restride(in->val, in->val_stride, job->n_kv_heads, (size_t)job->n * job->value_dim, &o.in.val_stride) : NULL;
    return o;
}

static inline void probe_drop(probe_input *o) { free(o->win), free(o->key), free(o->val); }

/* ---- one-shot ------------------------------------------------------------------------ */

/* One call of score() on lent memory, into copies of the engine's choice. */
static inline void probe_score_once(const kvt_job *job, const kvt_prompt *in, const kvt_setup *setup, kvt_choice *out)
{
    const size_t n = (size_t)job->n_caches * job->n;
    kvt_choice c;
    kvt_ws ws = {probe_lend(setup->ws_bytes), 0, setup->ws_bytes};

    c.score = probe_lend(n * sizeof *c.score);
    c.keep = probe_lend(job->n_caches * sizeof *c.keep);
    c.keep_layer = probe_lend(sizeof *c.keep_layer);
    c.stat = probe_lend(KVT_STATS * sizeof *c.stat);
    memcpy(c.keep, out->keep, job->n_caches * sizeof *c.keep);
    memcpy(c.keep_layer, out->keep_layer, sizeof *c.keep_layer);
    memset(c.stat, 0, KVT_STATS * sizeof *c.stat);
    probe.p->score(job, in, &ws, &c);
    for (size_t i = 0; i < n; i++)
        if (isnan(c.score[i])) {
            probe_blame("score %zu of cache %zu is NaN or was not written", i % job->n, i / job->n);
            break;
        }
    for (uint32_t i = 0; i < KVT_STATS; i++)
        if (isnan(c.stat[i])) probe_blame("stat %u is NaN", i);
    memcpy(out->score, c.score, n * sizeof *c.score);
    memcpy(out->keep, c.keep, job->n_caches * sizeof *c.keep);
    memcpy(out->keep_layer, c.keep_layer, sizeof *c.keep_layer);
    memcpy(out->stat, c.stat, KVT_STATS * sizeof *c.stat);
    if (!probe_take(ws.base, setup->ws_bytes)) probe_blame("score() wrote beyond its scratch");
    if (!probe_take(c.score, n * sizeof *c.score)) probe_blame("score() wrote beyond its scores");
    if (!probe_take(c.keep, job->n_caches * sizeof *c.keep) || !probe_take(c.keep_layer, sizeof *c.keep_layer)
        || !probe_take(c.stat, KVT_STATS * sizeof *c.stat))
        probe_blame("score() wrote beyond its counts");
}

static void probe_score(const kvt_job *job, const kvt_prompt *in, kvt_ws *ws, kvt_choice *out)
{
    const size_t n = (size_t)job->n_caches * job->n;
    kvt_setup setup;
    probe_input own;
    kvt_choice first = {malloc(n * sizeof(float)), malloc(job->n_caches * sizeof(uint32_t)), malloc(sizeof(uint64_t)), malloc(KVT_STATS * sizeof(double))};

    probe.n_score++;
    kvt__setup(probe.p, job, &setup);
    own = probe_narrow(job, &setup, in);
    memcpy(first.keep, out->keep, job->n_caches * sizeof *first.keep);
    *first.keep_layer = *out->keep_layer;
    probe_score_once(job, &own.in, &setup, &first);
    probe.p->score(job, in, ws, out);                       /* as the engine calls it */
    if (!probe_same(first.score, out->score, n * sizeof(float)) || !probe_same(first.keep, out->keep, job->n_caches * sizeof(uint32_t))
        || *first.keep_layer != *out->keep_layer || !probe_same(first.stat, out->stat, KVT_STATS * sizeof(double)))
        probe_blame("score() gives other bits the second time, or for wider inputs");
    probe_drop(&own);
    free(first.score), free(first.keep), free(first.keep_layer), free(first.stat);
}

static void probe_allot(const kvt_job *job, const kvt_layers *done, uint32_t *keep, uint32_t *capacity)
{
    const size_t bytes = (size_t)done->n_done * done->n_caches * sizeof *keep;
    uint32_t *k = probe_lend(bytes), *c = probe_lend(bytes);

    probe.n_allot++;
    memcpy(k, keep, bytes), memcpy(c, capacity, bytes);
    probe.p->allot(job, done, k, c);
    probe.p->allot(job, done, keep, capacity);
    if (!probe_same(k, keep, bytes) || !probe_same(c, capacity, bytes)) probe_blame("allot() gives other counts the second time");
    if (!probe_take(k, bytes) || !probe_take(c, bytes)) probe_blame("allot() wrote beyond its counts");
}

/* ---- online ---------------------------------------------------------------------------- */

/* The columns with stride `to`, NaN where no slot is. */
static inline float *probe_columns(const kvt_lane *lane, const kvt_event *ev, const float *col, uint32_t to)
{
    float *out = probe_lend((size_t)probe.p->slot_cols * to * sizeof *out);
    for (uint32_t c = 0; c < probe.p->slot_cols; c++)
        memcpy(out + (size_t)c * to, col + (size_t)c * lane->cap, ev->n * sizeof *out);
    return out;
}

/* Do the columns agree, and is what is no slot still NaN? */
static inline void probe_compare(const kvt_lane *lane, const kvt_event *ev, const float *col, float *own, uint32_t cap, const char *call)
{
    for (uint32_t c = 0; c < probe.p->slot_cols; c++) {
        if (!probe_same(own + (size_t)c * cap, col + (size_t)c * lane->cap, ev->n * sizeof *col))
            probe_blame("%s gives other columns the second time, or for another stride", call);
        for (uint32_t s = ev->n; s < cap; s++)
            if (!isnan(own[(size_t)c * cap + s])) probe_blame("%s wrote a column of a slot that is free", call);
        for (uint32_t s = 0; s < ev->n; s++)
            if (isnan(own[(size_t)c * cap + s])) probe_blame("%s left NaN in column %u", call, c);
    }
    if (!probe_take(own, (size_t)probe.p->slot_cols * cap * sizeof *own)) probe_blame("%s wrote beyond its columns", call);
}

static inline float *probe_pack(const kvt_lane *lane, uint32_t n, const float *col)
{
    float *out = malloc(((size_t)probe.p->slot_cols * n + 1) * sizeof *out);
    for (uint32_t c = 0; c < probe.p->slot_cols; c++)
        memcpy(out + (size_t)c * n, col + (size_t)c * lane->cap, n * sizeof *out);
    return out;
}

static inline void *probe_copy(const void *p, size_t n) { void *q = malloc(n + 1); return p ? memcpy(q, p, n) : (free(q), NULL); }

static inline probe_event *probe_log(int kind, const kvt_lane *lane, const kvt_event *ev, const float *col)
{
    const kvt_job *job = lane->job;
    probe_event *e;
    float *q;

    if (!probe.logging || (lane->cache != 0 && lane->cache != KVT_ALL) || probe.n_events == PROBE_EVENTS) return NULL;
    e = &probe.event[probe.n_events++];
    *e = (probe_event){.kind = kind, .lane = *lane, .job = *job, .ev = *ev, .before = probe_pack(lane, ev->n, col)};
    e->ev.pos = probe_copy(ev->pos, ev->n * sizeof *ev->pos);
    e->ev.prob = probe_copy(ev->prob, ev->n * sizeof *ev->prob);
    e->ev.key = probe_copy(ev->key, (size_t)(ev->query + 1) * job->head_dim * sizeof *ev->key);
    e->ev.q = q = probe_copy(ev->q, ev->q ? ev->n_heads * ev->q_stride * sizeof *q : 0);
    return e;
}

static inline void probe_forget(void)
{
    for (uint32_t i = 0; i < probe.n_events; i++) {
        const probe_event *e = &probe.event[i];
        free((void *)(uintptr_t)e->ev.pos), free((void *)(uintptr_t)e->ev.prob), free((void *)(uintptr_t)e->ev.key), free((void *)(uintptr_t)e->ev.q);
        free(e->before), free(e->after), free(e->worth);
    }
    probe.n_events = 0;
}

static void probe_begin(const kvt_lane *lane, const kvt_prompt *in, const float *score, const kvt_event *ev, float *col)
{
    const uint32_t cap = ev->n + 5;
    float *own = probe_columns(lane, ev, col, cap);
    kvt_lane other = *lane;
    kvt_setup setup;
    probe_input input;

    kvt__setup(probe.p, lane->job, &setup);
    input = probe_narrow(lane->job, &setup, in);
    other.cap = cap;
    probe.p->begin(&other, &input.in, score, ev, own);
    probe.p->begin(lane, in, score, ev, col);
    probe_compare(lane, ev, col, own, cap, "begin()");
    probe_drop(&input);
}

static void probe_observe(const kvt_lane *lane, const kvt_event *ev, float *col)
{
    const uint32_t cap = ev->n + 5;
    float *own = probe_columns(lane, ev, col, cap);
    kvt_lane other = *lane;
    probe_event *e = probe_log(PROBE_OBSERVE, lane, ev, col);

    probe.n_observe++;
    other.cap = cap;
    probe.p->observe(&other, ev, own);
    probe.p->observe(lane, ev, col);
    probe_compare(lane, ev, col, own, cap, "observe()");
    if (e) e->after = probe_pack(lane, ev->n, col);
}

static void probe_worth(const kvt_lane *lane, const kvt_event *ev, kvt_ws *ws, float *col, float *worth)
{
    const uint32_t cap = ev->n + 5;
    const size_t bytes = ev->n * sizeof *worth;
    float *own = probe_columns(lane, ev, col, cap), *w = probe_lend(bytes);
    kvt_lane other = *lane;
    kvt_setup setup;
    kvt_ws lent;
    probe_event *e = probe_log(PROBE_WORTH, lane, ev, col);

    probe.n_worth++;
    kvt__setup(probe.p, lane->job, &setup);
    lent = (kvt_ws){probe_lend(setup.ws_bytes), 0, setup.ws_bytes};
    other.cap = cap;
    probe.p->worth(&other, ev, &lent, own, w);
    for (uint32_t s = 0; s < ev->n; s++)
        if (isnan(w[s])) {
            probe_blame("worth %u of %u is NaN or was not written", s, ev->n);
            break;
        }
    probe.p->worth(lane, ev, ws, col, worth);
    if (!probe_same(w, worth, bytes)) probe_blame("worth() gives other bits the second time, or for another stride");
    probe_compare(lane, ev, col, own, cap, "worth()");
    if (!probe_take(w, bytes)) probe_blame("worth() wrote beyond its worths");
    if (!probe_take(lent.base, setup.ws_bytes)) probe_blame("worth() wrote beyond its scratch");
    if (e) e->after = probe_pack(lane, ev->n, col), e->worth = probe_copy(worth, bytes), e->ws_bytes = setup.ws_bytes;
}

/* Put the probe in front of the policy of a configuration. */
static inline void probe_enter(kvt_config *c, int logging)
{
    probe_forget();
    memset(&probe, 0, sizeof probe);
    probe.p = c->policy;
    probe.wrap = *c->policy;
    probe.logging = logging;
    probe.wrap.base = NULL;                     /* score() makes it, under the probe      */
    if (probe.p->score) probe.wrap.score = probe_score;
    if (probe.p->allot) probe.wrap.allot = probe_allot;
    if (probe.p->begin) probe.wrap.begin = probe_begin;
    if (probe.p->observe) probe.wrap.observe = probe_observe;
    if (probe.p->worth) probe.wrap.worth = probe_worth;
    c->policy = &probe.wrap;
}

static inline void probe_leave(kvt_config *c) { c->policy = probe.p; }

#endif
