/* policy_world.h - small traces in memory for tests of policies: random operands with all
 * that a policy can ask for, or without a part of it, and the kept sets of a replay as one
 * list of words that can be compared. A test changes q, k, v between world_new() and
 * world_finish(), which computes everything that follows from them. */
#ifndef POLICY_WORLD_H
#define POLICY_WORLD_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_sim.h"
#include "ref_attention.h"

enum { WORLD_DM = 8 };

typedef struct shape {
    uint32_t L, Hq, Hkv, d, N, G, W;
    int      rope;
} shape;

typedef struct world {
    shape           s;
    uint32_t        T, R;
    kvt_layer_info *layer;
    kvt_trace_info  info;
    int32_t        *id, *query, *rotary;
    double         *inv_freq;
    int64_t         segment;
    float          *q, *k, *v, *wo; /* [L][Hq][T][d], [L][Hkv][T][d], the same, [L][Hq][d][WORLD_DM] */
    float         **data;           /* [L * KVT_T_END]                                */
    const float   **view;
} world;

static uint64_t world_state = 1;
static inline double world_uniform(void)            /* splitmix64 */
{
    uint64_t x = world_state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

static inline float world_normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += world_uniform();
    return (float)sum;
}

static inline float *world_q(const world *w, uint32_t l, uint32_t h, uint32_t p) { return w->q + (((size_t)l * w->s.Hq + h) * w->T + p) * w->s.d; }
static inline float *world_k(const world *w, uint32_t l, uint32_t g, uint32_t p) { return w->k + (((size_t)l * w->s.Hkv + g) * w->T + p) * w->s.d; }
static inline float *world_v(const world *w, uint32_t l, uint32_t g, uint32_t p) { return w->v + (((size_t)l * w->s.Hkv + g) * w->T + p) * w->s.d; }
static inline float *world_wo(const world *w, uint32_t l, uint32_t h) { return w->wo + ((size_t)l * w->s.Hq + h) * w->s.d * WORLD_DM; }

static inline float *world_fill(size_t n, float scale)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = scale * world_normal();
    return x;
}

static inline world *world_new(const shape *s, uint64_t seed)
{
    world *w = calloc(1, sizeof *w);

    world_state = seed;
    w->s = *s, w->T = s->N + s->G, w->R = s->W + s->G;
    w->layer = calloc(s->L, sizeof *w->layer);
    w->id = calloc(w->T, sizeof *w->id);
    w->query = calloc(w->R, sizeof *w->query);
    w->rotary = calloc(w->T, sizeof *w->rotary);
    w->inv_freq = calloc(s->d, sizeof *w->inv_freq);
    w->data = calloc((size_t)s->L * KVT_T_END, sizeof *w->data);
    w->view = calloc((size_t)s->L * KVT_T_END, sizeof *w->view);
    w->q = world_fill((size_t)s->L * s->Hq * w->T * s->d, 1.3f);
    w->k = world_fill((size_t)s->L * s->Hkv * w->T * s->d, 1.3f);
    w->v = world_fill((size_t)s->L * s->Hkv * w->T * s->d, 1);
    w->wo = world_fill((size_t)s->L * s->Hq * s->d * WORLD_DM, 1);
    return w;
}

/* Rows, log-sum-exp, column sums and value norms of one head. */
static inline void world_head(world *w, uint32_t l, uint32_t h)
{
    const shape *s = &w->s;
    const uint32_t g = h / (s->Hq / s->Hkv);
    float **d = &w->data[(size_t)l * KVT_T_END];
    double *row = malloc(w->T * sizeof *row), *sum = calloc(s->N, sizeof *sum);

    for (uint32_t p = 0; p < w->T; p++) {
        const double lse = kvt_ref_row(&w->layer[l], p, world_q(w, l, h, p), world_k(w, l, g, 0), 0, NULL, row);
        double nu = 0;
        for (uint32_t j = 0; p < s->N && j <= p; j++) sum[j] += row[j];
        for (uint32_t o = 0; o < WORLD_DM; o++) {
            double x = 0;
            for (uint32_t c = 0; c < s->d; c++) x += (double)world_v(w, l, g, p)[c] * (double)world_wo(w, l, h)[c * WORLD_DM + o];
            nu += fabs(x);
        }
        d[KVT_T_NU][(size_t)h * w->T + p] = (float)nu;
        if (p < s->N - s->W) continue;
        d[KVT_T_LSE][(size_t)h * w->R + p - (s->N - s->W)] = (float)lse;
        memcpy(d[KVT_T_Q] + ((size_t)h * w->R + p - (s->N - s->W)) * s->d, world_q(w, l, h, p), s->d * sizeof(float));
    }
    for (uint32_t j = 0; j < s->N; j++) d[KVT_T_STAT_SUM][(size_t)h * s->N + j] = (float)sum[j];
    free(row), free(sum);
}

static inline void world_finish(world *w)
{
    const shape *s = &w->s;

    for (uint32_t p = 0; p < w->T; p++) w->rotary[p] = (int32_t)p;
    for (uint32_t r = 0; r < w->R; r++) w->query[r] = (int32_t)(s->N - s->W + r);
    for (uint32_t i = 0; i < s->d / 2; i++) w->inv_freq[i] = pow(100, -2.0 * i / s->d);
    w->info = (kvt_trace_info){.complete = 1, .created = "", .writer = "", .uuid = "u", .content_id = "abc", .exactness = "synthetic",
        .cluster_id = "u", .sample_id = "", .n_layers = s->L, .n_prompt = s->N, .n_decode = s->G, .n_tokens = w->T, .n_rows = w->R,
        .window = s->W, .question_start = s->N, .model_dim = WORLD_DM, .token_id = w->id, .rotary = w->rotary, .query_index = w->query,
        .layer = w->layer};
    for (uint32_t l = 0; l < s->L; l++) {
        float **d = &w->data[(size_t)l * KVT_T_END];
        w->layer[l] = (kvt_layer_info){.attn = KVT_ATTN_FULL, .n_heads = s->Hq, .n_kv_heads = s->Hkv, .d_k = s->d, .d_v = s->d, .kv_layer = l,
            .scale = 1 / sqrt(s->d), .rope_type = s->rope ? "default" : "", .rope_angle_type = s->rope ? "f64" : "",
            .rope_table_type = s->rope ? "f64" : "", .rope_dims = s->rope ? s->d : 0, .rope_segments = s->rope ? 1 : 0,
            .rope_attention_scaling = 1, .rope_inv_freq = s->rope ? w->inv_freq : NULL, .rope_segment_start = s->rope ? &w->segment : NULL,
            .has = 1u << KVT_T_K | 1u << KVT_T_V | 1u << KVT_T_Q | 1u << KVT_T_LSE | 1u << KVT_T_NU | 1u << KVT_T_STAT_SUM};
        d[KVT_T_K] = world_k(w, l, 0, 0);
        d[KVT_T_V] = world_v(w, l, 0, 0);
        d[KVT_T_Q] = malloc((size_t)s->Hq * w->R * s->d * sizeof(float));
        d[KVT_T_LSE] = malloc((size_t)s->Hq * w->R * sizeof(float));
        d[KVT_T_NU] = malloc((size_t)s->Hq * w->T * sizeof(float));
        d[KVT_T_STAT_SUM] = malloc((size_t)s->Hq * s->N * sizeof(float));
        for (uint32_t h = 0; h < s->Hq; h++) world_head(w, l, h);
    }
    for (size_t i = 0; i < (size_t)s->L * KVT_T_END; i++) w->view[i] = w->data[i];
}

static inline world *world_make(const shape *s, uint64_t seed)
{
    world *w = world_new(s, seed);
    world_finish(w);
    return w;
}

/* Take tensors (bits 1u << KVT_T_x) out of the trace. */
static inline void world_lacks(world *w, uint32_t tensors)
{
    for (uint32_t l = 0; l < w->s.L; l++) {
        w->layer[l].has &= ~tensors;
        for (uint32_t t = 0; t < KVT_T_END; t++)
            if (tensors & 1u << t) w->view[l * KVT_T_END + t] = NULL;
    }
}

/* The operands of `from` for every token that both have; query head h and KV head g of
 * `to` are head h + shift_q and g + shift_kv of `from`, around the end. */
static inline void world_take(world *to, const world *from, uint32_t shift_kv)
{
    const shape *s = &to->s;
    const uint32_t T = to->T < from->T ? to->T : from->T, gs = s->Hq / s->Hkv;
    const size_t row = (size_t)T * s->d * sizeof(float);

    for (uint32_t l = 0; l < s->L; l++)
        for (uint32_t h = 0; h < s->Hq; h++) {
            const uint32_t from_h = (h + shift_kv * gs) % s->Hq;
            memcpy(world_q(to, l, h, 0), world_q(from, l, from_h, 0), row);
            memcpy(world_wo(to, l, h), world_wo(from, l, from_h), s->d * WORLD_DM * sizeof(float));
            if (h >= s->Hkv) continue;
            memcpy(world_k(to, l, h, 0), world_k(from, l, (h + shift_kv) % s->Hkv, 0), row);
            memcpy(world_v(to, l, h, 0), world_v(from, l, (h + shift_kv) % s->Hkv, 0), row);
        }
}

static inline void world_free(world *w)
{
    for (uint32_t l = 0; l < w->s.L; l++) {
        float **d = &w->data[(size_t)l * KVT_T_END];
        free(d[KVT_T_Q]), free(d[KVT_T_LSE]), free(d[KVT_T_NU]), free(d[KVT_T_STAT_SUM]);
    }
    free(w->layer), free(w->id), free(w->query), free(w->rotary), free(w->inv_freq), free(w->data), free(w->view);
    free(w->q), free(w->k), free(w->v), free(w->wo), free(w);
}

/* All keys and values alike, queries zero: every row is uniform over what it sees. */
static inline world *world_equal(const shape *s)
{
    world *w = world_new(s, 71);
    for (uint32_t l = 0; l < s->L; l++)
        for (uint32_t h = 0; h < s->Hq; h++)
            for (uint32_t p = 0; p < w->T; p++) {
                memset(world_q(w, l, h, p), 0, s->d * sizeof(float));
                memcpy(world_wo(w, l, h), world_wo(w, 0, 0), s->d * WORLD_DM * sizeof(float));
                if (h >= s->Hkv) continue;
                memcpy(world_k(w, l, h, p), world_k(w, 0, 0, 0), s->d * sizeof(float));
                memcpy(world_v(w, l, h, p), world_v(w, 0, 0, 0), s->d * sizeof(float));
            }
    world_finish(w);
    return w;
}

/* ---- kept sets as words ----------------------------------------------------------- */

enum { SET_CONFIG, SET_BUDGET, SET_SEED, SET_LAYER, SET_CACHE, SET_STEP, SET_TIED, SET_N, SET_POS };

typedef struct tape {               /* sets one after the other: SET_POS words and the positions */
    uint32_t *word;
    size_t    n, cap;
    const kvt_replay_opts *opts;
} tape;

static inline void tape_put(tape *t, uint32_t x)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 4096;
        t->word = realloc(t->word, t->cap * sizeof *t->word);
    }
    t->word[t->n++] = x;
}

static inline void tape_free(tape *t) { free(t->word), *t = (tape){0}; }

/* The next set, or NULL. */
static inline const uint32_t *tape_next(const tape *t, size_t *at)
{
    const uint32_t *s = t->word + *at;
    if (*at >= t->n) return NULL;
    *at += SET_POS + s[SET_N];
    return s;
}

static inline const uint32_t *tape_find(const tape *t, uint32_t config, uint32_t budget, uint32_t seed, uint32_t layer, uint32_t cache, uint32_t step)
{
    size_t at = 0;
    for (const uint32_t *s; (s = tape_next(t, &at)) != NULL;)
        if (s[SET_CONFIG] == config && s[SET_BUDGET] == budget && s[SET_SEED] == seed && s[SET_LAYER] == layer
            && (s[SET_CACHE] == cache || s[SET_CACHE] == KVT_ALL) && s[SET_STEP] == step)
            return s;
    return NULL;
}

static inline int set_has(const uint32_t *s, uint32_t pos)
{
    for (uint32_t i = 0; i < s[SET_N]; i++)
        if (s[SET_POS + i] == pos) return 1;
    return 0;
}

static inline int set_equal(const uint32_t *a, const uint32_t *b)
{
    return a[SET_N] == b[SET_N] && !memcmp(a + SET_POS, b + SET_POS, a[SET_N] * sizeof *a);
}

/* Is every position of a in b? */
static inline int set_within(const uint32_t *a, const uint32_t *b)
{
    for (uint32_t i = 0; i < a[SET_N]; i++)
        if (!set_has(b, a[SET_POS + i])) return 0;
    return 1;
}

static inline kvt_status tape_kept(void *user, const kvt_kept_set *s, kvt_err *err)
{
    tape *t = user;
    uint32_t config = 0;

    (void)err;
    while (t->opts->config[config] != s->config) config++;
    tape_put(t, config);
    tape_put(t, (uint32_t)(s->budget - t->opts->budget));
    tape_put(t, (uint32_t)s->seed);
    tape_put(t, s->layer);
    tape_put(t, s->cache);
    tape_put(t, (uint32_t)s->step);
    tape_put(t, s->last_kept == s->first_dropped);
    tape_put(t, s->n);
    for (uint32_t i = 0; i < s->n; i++) tape_put(t, s->pos[i]);
    return KVT_OK;
}

typedef struct batch {              /* configurations and budgets of one replay       */
    uint64_t          seed;
    const kvt_config *config[8];
    kvt_budget        budget[8];
    uint32_t          n_config, n_budget;
} batch;

static inline kvt_config *config_of(const char *spec)
{
    kvt_config *c = NULL;
    kvt_err err = {KVT_OK, ""};
    cr_assert(kvt_config_parse(&c, spec, &err) == KVT_OK, "%s: %s", spec, err.text);
    return c;
}

/* Softmax of query p of head h over the keys list[0..n). */
static inline void world_attend(const world *w, uint32_t l, uint32_t h, uint32_t p, const uint32_t *list, uint32_t n, double *a)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double z = 0;
        for (uint32_t c = 0; c < w->s.d; c++) z += (double)world_q(w, l, h, p)[c] * (double)world_k(w, l, h / (w->s.Hq / w->s.Hkv), list[i])[c];
        a[i] = z / sqrt(w->s.d);
        max = fmax(max, a[i]);
    }
    for (uint32_t i = 0; i < n; i++) sum += a[i] = exp(a[i] - max);
    for (uint32_t i = 0; i < n; i++) a[i] /= sum;
}

/* In place: a budget's label points into it. */
static inline void budget_of(kvt_budget *out, const char *text, kvt_rule rule)
{
    kvt_err err = {KVT_OK, ""};
    cr_assert(kvt_budget_parse(out, text, rule, &err) == KVT_OK, "%s: %s", text, err.text);
}

static inline void budget_move(kvt_budget *to, const kvt_budget *from)
{
    *to = *from;
    to->info.label = to->text;
}

/* Kept sets of every decode step; *sink NULL: nothing is measured. */
static inline kvt_status world_replay(const world *w, const batch *b, uint32_t threads, kvt_sink sink, tape *out, kvt_err *err)
{
    kvt_source src = {0};
    kvt_replay_opts o = {.config = b->config, .n_config = b->n_config, .budget = b->budget, .n_budget = b->n_budget, .seed = b->seed, .n_seeds = 2,
                         .n_threads = threads, .kept = tape_kept, .kept_user = out, .kept_every = 1};
    kvt_status st;

    out->opts = &o;
    cr_assert(kvt_source_open_memory(&src, &w->info, w->view, err) == KVT_OK, "%s", err->text);
    st = kvt_replay(&src, &o, sink, err);
    kvt_source_close(&src);
    out->opts = NULL;
    return st;
}

/* ---- what a replay measures, in short ----------------------------------------------- */

typedef struct cell_note {
    uint32_t config, flags, held_min, held_max;
    char     budget[48];
    uint64_t seed;
    double   lost_worst, lost_mean, tie_share;
    int      says_empty;            /* a check warns that some head holds nothing     */
    char     broken[160];           /* a bound that does not hold, or ""              */
} cell_note;

typedef struct notes {
    const batch *b;
    cell_note    cell[64];
    uint32_t     n;
} notes;

static inline kvt_status notes_claim(void *self, const kvt_cell *cell, int *todo, kvt_err *err)
{
    (void)self, (void)cell, (void)err;
    *todo = 1;
    return KVT_OK;
}

static inline kvt_status notes_store(void *self, const kvt_cell *cell, const kvt_result *r, kvt_err *err)
{
    notes *n = self;
    cell_note *c = &n->cell[n->n++];

    (void)err;
    cr_assert(n->n <= sizeof n->cell / sizeof *n->cell);
    *c = (cell_note){.flags = r->flags, .held_min = r->held_min, .held_max = r->held_max, .seed = cell->seed, .lost_worst = r->lost_worst,
                     .lost_mean = r->lost_mean, .tie_share = r->tie_share};
    while (&n->b->config[c->config]->info != cell->config) c->config++;
    snprintf(c->budget, sizeof c->budget, "%s", cell->budget->label);
    for (size_t i = 0; i < r->n_check; i++)
        c->says_empty |= !strcmp(r->check[i].name, "budget_realised") && !strcmp(r->check[i].status, "warn") && strstr(r->check[i].message, "holds nothing");
    for (size_t i = 0; i < r->n_head; i++) {
        const kvt_head_result *h = &r->head[i];
        if (h->lost_mean < h->oracle_mean || h->lost_max < h->oracle_max)
            snprintf(c->broken, sizeof c->broken, "layer %u head %u: loses %.9g, the best set of every step %.9g", h->layer, h->head, h->lost_mean, h->oracle_mean);
        if (cell->config->fixed_set && h->lost_mean < h->fixed_mean)
            snprintf(c->broken, sizeof c->broken, "layer %u head %u: loses %.9g, the best fixed set %.9g", h->layer, h->head, h->lost_mean, h->fixed_mean);
    }
    return KVT_OK;
}

static inline kvt_status notes_fail(void *self, const kvt_cell *cell, const char *why, kvt_err *err)
{
    (void)self;
    return kvt_fail(err, KVT_ECHECK, "%s: %s", cell->config->label, why);
}

static const kvt_sink_ops notes_ops = {"notes", notes_claim, notes_store, notes_fail, NULL, NULL};

static inline notes world_notes(const world *w, const batch *b)
{
    notes n = {.b = b};
    tape t = {0};
    kvt_err err = {KVT_OK, ""};
    cr_assert(world_replay(w, b, 2, (kvt_sink){&notes_ops, &n}, &t, &err) == KVT_OK, "%s: %s", b->config[0]->info.label, err.text);
    tape_free(&t);
    return n;
}

static inline tape world_sets(const world *w, const batch *b, uint32_t threads)
{
    tape t = {0};
    kvt_err err = {KVT_OK, ""};
    cr_assert(world_replay(w, b, threads, (kvt_sink){NULL, NULL}, &t, &err) == KVT_OK, "%s: %s", b->config[0]->info.label, err.text);
    return t;
}

static inline int tape_equal(const tape *a, const tape *b)
{
    return a->n == b->n && (a->n == 0 || !memcmp(a->word, b->word, a->n * sizeof *a->word));
}

#endif
