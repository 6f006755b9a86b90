/* Goal: the replay engine is right. Method: a small random trace in memory, whose losses,
 * oracles and best fixed sets are computed again in the most literal way from the
 * definition, in double; and the same replay with other thread counts, instruction sets
 * and row storage, which must give the same bits. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_philox.h"
#include "kvt_sim.h"
#include "ref_attention.h"

enum { L = 2, H = 4, HKV = 2, D = 8, N = 70, G = 37, T = N + G, W = 40, R = W + G };

typedef struct world {
    kvt_layer_info layer[L];
    kvt_trace_info info;
    int32_t id[T], query[R];
    float *data[L * KVT_T_END];
    const float *view[L * KVT_T_END];
    double row[L][H][G][T];         /* full-cache attention of every decode step */
} world;

static float normal(uint32_t seed, uint32_t i)
{
    const uint32_t c[4] = { i, seed, 0, 0 }, k[2] = { 7, 9 };
    uint32_t o[4];

    kvt_philox4x32(c, k, o);
    return (float)(sqrt(-2 * log(((double)o[0] + 1) / 4294967297.0)) * cos(6.283185307179586 * (double)o[1] / 4294967296.0));
}

static float *fill(uint32_t seed, size_t n)
{
    float *x = malloc(n * sizeof *x);

    for (size_t i = 0; i < n; i++)
        x[i] = normal(seed, (uint32_t)i);
    return x;
}

static world *make_world(int sinks)
{
    world *w = calloc(1, sizeof *w);

    for (int i = 0; i < T; i++)
        w->id[i] = i % 11;
    for (int i = 0; i < R; i++)
        w->query[i] = N - W + i;
    w->info = (kvt_trace_info){ .complete = 1, .created = "", .writer = "", .uuid = "u", .content_id = "abc", .exactness = "synthetic",
        .cluster_id = "u", .sample_id = "", .n_layers = L, .n_prompt = N, .n_decode = G, .n_tokens = T, .n_rows = R, .window = W,
        .question_start = N, .model_dim = 8, .token_id = w->id, .rotary = w->id, .query_index = w->query, .layer = w->layer };
    for (uint32_t l = 0; l < L; l++) {
        float **d = &w->data[l * KVT_T_END];
        w->layer[l] = (kvt_layer_info){ .attn = KVT_ATTN_FULL, .n_heads = H, .n_kv_heads = HKV, .d_k = D, .d_v = D, .kv_layer = l,
            .scale = 0.9, .rope_type = "", .rope_angle_type = "", .rope_table_type = "", .has_sinks = sinks,
            .has = 1u << KVT_T_K | 1u << KVT_T_V | 1u << KVT_T_Q | 1u << KVT_T_LSE | 1u << KVT_T_NU | 1u << KVT_T_STAT_SUM
                 | (sinks ? 1u << KVT_T_SINKS : 0) };
        d[KVT_T_K] = fill(10 + l, (size_t)HKV * T * D);
        d[KVT_T_V] = fill(20 + l, (size_t)HKV * T * D);
        d[KVT_T_Q] = fill(30 + l, (size_t)H * R * D);
        d[KVT_T_NU] = fill(40 + l, (size_t)H * T);
        for (int i = 0; i < H * T; i++)
            d[KVT_T_NU][i] = fabsf(d[KVT_T_NU][i]);
        d[KVT_T_LSE] = calloc((size_t)H * R, sizeof(float));
        d[KVT_T_STAT_SUM] = calloc((size_t)H * N, sizeof(float));
        d[KVT_T_SINKS] = fill(50 + l, H);
        for (uint32_t h = 0; h < H; h++) {
            const float *k = d[KVT_T_K] + (size_t)(h / (H / HKV)) * T * D;
            for (uint32_t i = 0; i < R; i++) {
                double p[T];
                const uint32_t at = N - W + i;
                d[KVT_T_LSE][h * R + i] = (float)kvt_ref_row(&w->layer[l], at, d[KVT_T_Q] + ((size_t)h * R + i) * D, k, d[KVT_T_SINKS][h], NULL, p);
                for (uint32_t j = 0; j <= at && i < W; j++)
                    d[KVT_T_STAT_SUM][h * N + j] += (float)p[j];
                if (i >= W)
                    memcpy(w->row[l][h][i - W], p, (at + 1) * sizeof *p);
            }
        }
    }
    for (int i = 0; i < L * KVT_T_END; i++)
        w->view[i] = w->data[i];
    return w;
}

static void free_world(world *w)
{
    for (int i = 0; i < L * KVT_T_END; i++)
        free(w->data[i]);
    free(w);
}

/* ---- a sink that remembers, and a kept callback that remembers ----------------- */

typedef struct memory {
    int n;
    char label[64][96];
    kvt_result res[64];
    kvt_head_result *head[64];
    kvt_kvhead_result *kv[64];
    kvt_tau_result *tau[64];
    kvt_violation *vio[64];
    int claims, n_row_warnings;
} memory;

static void *copy(const void *p, size_t n) { void *q = malloc(n ? n : 1); return n ? memcpy(q, p, n) : q; }

static kvt_status mem_claim(void *self, const kvt_cell *cell, int *todo, kvt_err *err)
{
    (void)cell, (void)err;
    ((memory *)self)->claims++;
    *todo = 1;
    return KVT_OK;
}

static kvt_status mem_store(void *self, const kvt_cell *cell, const kvt_result *r, kvt_err *err)
{
    memory *m = self;
    (void)err;
    snprintf(m->label[m->n], sizeof m->label[0], "%s@%s#%d", cell->config->label, cell->budget->label, (int)cell->seed);
    m->res[m->n] = *r;
    m->head[m->n] = copy(r->head, r->n_head * sizeof *r->head);
    m->kv[m->n] = copy(r->kvhead, r->n_kvhead * sizeof *r->kvhead);
    m->tau[m->n] = copy(r->tau, r->n_tau * sizeof *r->tau);
    m->vio[m->n] = copy(r->violation, r->n_violation * sizeof *r->violation);
    for (size_t i = 0; i < r->n_violation; i++)
        m->vio[m->n][i].responsible = copy(r->violation[i].responsible, r->violation[i].n_responsible * sizeof(kvt_responsible));
    for (size_t i = 0; i < r->n_check; i++)
        m->n_row_warnings += strcmp(r->check[i].name, "row_defect") == 0 && strcmp(r->check[i].status, "warn") == 0;
    m->n++;
    return KVT_OK;
}

static kvt_status mem_fail(void *self, const kvt_cell *cell, const char *why, kvt_err *err)
{
    (void)self, (void)cell, (void)why, (void)err;
    return KVT_OK;
}

static const kvt_sink_ops mem_ops = { "memory", mem_claim, mem_store, mem_fail, NULL, NULL };

static int mem_find(const memory *m, const char *label)
{
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->label[i], label) == 0)
            return i;
    return -1;
}

static char kept_label[64][96];
static uint8_t kept_sets[64][L][H][G + 1][T];
static int n_kept;

static kvt_status on_kept(void *user, const kvt_kept_set *s, kvt_err *err)
{
    char label[96];
    int at = 0;
    (void)user, (void)err;

    snprintf(label, sizeof label, "%s@%s#%d", s->config->info.label, s->budget->info.label, (int)s->seed);
    while (at < n_kept && strcmp(kept_label[at], label) != 0)
        at++;
    if (at == n_kept)
        strcpy(kept_label[n_kept++], label);
    for (uint32_t h = 0; h < H; h++) {
        const uint32_t cache = s->config->caches == KVT_CACHES_QUERY ? h : h / (H / HKV);
        if (cache != s->cache)
            continue;
        for (uint32_t t = 0; t <= G; t++) {
            uint8_t *set = kept_sets[at][s->layer][h][t];
            if (s->step >= 0 && t != (uint32_t)s->step)
                continue;
            for (uint32_t i = 0; i < s->n; i++)
                set[s->pos[i]] = 1;
            for (uint32_t j = N; s->step < 0 && j < T; j++)
                set[j] = 1;
        }
    }
    return KVT_OK;
}

static void mem_free(memory *m)
{
    for (int i = 0; i < m->n; i++) {
        for (size_t k = 0; k < m->res[i].n_violation; k++)
            free((void *)(uintptr_t)m->vio[i][k].responsible);
        free(m->head[i]), free(m->kv[i]), free(m->tau[i]), free(m->vio[i]);
    }
}

static const char *const specs[] = { "full", "random", "random_protect:window=8", "streaming", "snapkv:window=8", "tova", "h2o",
                                     "defensivekv:window=8", "defensivekv:window=8,semantics=paper", "oracle_step", "oracle_fixed" };
enum { N_SPECS = sizeof specs / sizeof *specs };

static kvt_status run_world(world *w, memory *m, uint32_t threads, const kvt_kernels *kern, size_t stage, const char *budgets, int err_too,
                            kvt_err *err)
{
    kvt_config *config[N_SPECS];
    kvt_budget budget[4];
    kvt_source src = { 0 };
    uint32_t nb = 0;
    char text[64], *tok;
    kvt_status st;

    for (int i = 0; i < N_SPECS; i++)
        cr_assert(kvt_config_parse(&config[i], specs[i], err) == KVT_OK, "%s", err->text);
    strcpy(text, budgets);
    for (tok = strtok(text, ","); tok; tok = strtok(NULL, ","))
        cr_assert(kvt_budget_parse(&budget[nb++], tok, KVT_RULE_SHARE, err) == KVT_OK, "%s", err->text);
    const kvt_replay_opts o = { .config = (const kvt_config *const *)config, .n_config = N_SPECS, .budget = budget, .n_budget = nb, .n_seeds = 2,
        .n_threads = threads, .kernels = kern, .stage_bytes = stage, .output_error = err_too, .kept = on_kept, .kept_every = 1 };
    n_kept = 0;
    memset(kept_sets, 0, sizeof kept_sets);
    cr_assert(kvt_source_open_memory(&src, &w->info, w->view, err) == KVT_OK, "%s", err->text);
    st = kvt_replay(&src, &o, (kvt_sink){ &mem_ops, m }, err);
    kvt_source_close(&src);
    for (int i = 0; i < N_SPECS; i++)
        kvt_config_free(config[i]);
    return st;
}

/* ---- the literal definition ------------------------------------------------------ */

static double lost_at(const world *w, int l, int h, int t, const uint8_t *kept)
{
    double sum = 0;

    for (int j = 0; j < N + t; j++)
        if (!kept[j])
            sum += w->row[l][h][t][j];
    return sum;
}

static int cmp(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double oracle_at(const world *w, int l, int h, int t, uint32_t held, int all)
{
    const int n = all ? N + t : N;
    double x[T], sum = 0;

    memcpy(x, w->row[l][h][t], (size_t)n * sizeof *x);
    qsort(x, (size_t)n, sizeof *x, cmp);
    for (int i = 0; i < n - (int)held; i++)
        sum += x[i];
    return sum;
}

static void check_cell(const world *w, const memory *m, int c)
{
    int at = 0;
    const int online = strncmp(m->label[c], "tova", 4) == 0 || strncmp(m->label[c], "h2o", 3) == 0;
    const int bound = strncmp(m->label[c], "oracle_step", 11) == 0;

    while (!bound && strcmp(kept_label[at], m->label[c]) != 0)
        cr_assert(++at < n_kept, "no kept sets of %s", m->label[c]);
    for (int l = 0; l < L; l++)
        for (int h = 0; h < H; h++) {
            const kvt_head_result *r = &m->head[c][l * H + h];
            double lost[G], sum = 0, max = 0, oracle = 0, sorted[G];
            for (int t = 0; t < G; t++) {
                const double u = oracle_at(w, l, h, t, r->n_held, online);
                lost[t] = bound ? u : lost_at(w, l, h, t, kept_sets[at][l][h][t]);
                cr_assert(lost[t] >= u - 1e-7, "%s layer %d head %d step %d: %g < oracle %g", m->label[c], l, h, t, lost[t], u);
                sum += lost[t];
                max = lost[t] > max ? lost[t] : max;
                oracle += u;
            }
            cr_assert(fabs(r->lost_mean - sum / G) < 2e-6, "%s layer %d head %d: mean %.9g, expected %.9g", m->label[c], l, h, r->lost_mean, sum / G);
            cr_assert(fabs(r->lost_max - max) < 2e-6, "%s: max %.9g, expected %.9g", m->label[c], r->lost_max, max);
            cr_assert(fabs(r->oracle_mean - oracle / G) < 2e-6, "%s: oracle %.9g, expected %.9g", m->label[c], r->oracle_mean, oracle / G);
            memcpy(sorted, lost, sizeof sorted);
            qsort(sorted, G, sizeof *sorted, cmp);
            cr_assert(fabs(r->lost_q50 - sorted[(G - 1 + 1) / 2]) < 2e-6);
            /* G = 37: 5 % are 1.85 steps */
            cr_assert(fabs(r->lost_cvar95 - (sorted[G - 1] + 0.85 * sorted[G - 2]) / 1.85) < 2e-6);
            cr_assert(r->fixed_mean >= r->oracle_mean - 1e-9);
            if (!online && !bound)
                cr_assert(r->lost_mean >= r->fixed_mean - 1e-7, "%s: a fixed set beats the best fixed set", m->label[c]);
        }
}

static void check_world(int sinks)
{
    world *w = make_world(sinks);
    memory m = { 0 };
    kvt_err err = { KVT_OK, "" };

    cr_assert(run_world(w, &m, 2, NULL, 0, "0.1,0.3,0.7", 0, &err) == KVT_OK, "%s", err.text);
    cr_assert(m.n == (N_SPECS + 2) * 3, "%d cells", m.n);
    for (int c = 0; c < m.n; c++)
        check_cell(w, &m, c);
    cr_assert(m.n_row_warnings == 0);
    cr_assert(m.res[mem_find(&m, "full@0.1#0")].lost_worst == 0);
    cr_assert(fabs(m.res[mem_find(&m, "snapkv:window=8@0.3#0")].held_mean - 21) < 1e-12);
    mem_free(&m);
    free_world(w);
}

Test(replay, losses_and_oracles_equal_the_definition) { check_world(0); }
Test(replay, learned_sinks_stay_in_the_denominator) { check_world(1); }

/* Every stored number but durations. */
static void same_results(const memory *a, const memory *b)
{
    cr_assert(a->n == b->n && a->n > 0);
    for (int c = 0; c < a->n; c++) {
        cr_assert(strcmp(a->label[c], b->label[c]) == 0);
        cr_assert(memcmp(a->head[c], b->head[c], a->res[c].n_head * sizeof(kvt_head_result)) == 0, "%s heads", a->label[c]);
        cr_assert(memcmp(a->kv[c], b->kv[c], a->res[c].n_kvhead * sizeof(kvt_kvhead_result)) == 0, "%s KV heads", a->label[c]);
        cr_assert(memcmp(a->tau[c], b->tau[c], a->res[c].n_tau * sizeof(kvt_tau_result)) == 0, "%s taus", a->label[c]);
        cr_assert(a->res[c].n_violation == b->res[c].n_violation);
        for (size_t i = 0; i < a->res[c].n_violation; i++) {
            const kvt_violation *x = &a->vio[c][i], *y = &b->vio[c][i];
            cr_assert(x->start_step == y->start_step && x->n_step == y->n_step && x->cause == y->cause && x->n_responsible == y->n_responsible);
            for (uint32_t k = 0; k < x->n_responsible; k++)
                cr_assert(x->responsible[k].pos == y->responsible[k].pos && x->responsible[k].mass_share == y->responsible[k].mass_share);
        }
    }
}

Test(replay, threads_instruction_sets_and_storage_give_the_same_bits)
{
    world *w = make_world(0);
    memory base = { 0 };
    kvt_err err = { KVT_OK, "" };

    cr_assert(run_world(w, &base, 1, kvt_kernels_find("portable"), 0, "0.1,0.3,1", 1, &err) == KVT_OK, "%s", err.text);
    for (uint32_t threads = 1; threads <= 8; threads = threads < 3 ? threads + 1 : threads + 5)
        for (int stage = 0; stage < 2; stage++) {
            memory m = { 0 };
            cr_assert(run_world(w, &m, threads, NULL, stage ? 0 : 1, "0.1,0.3,1", 1, &err) == KVT_OK, "%s", err.text);
            same_results(&base, &m);
            mem_free(&m);
        }
    mem_free(&base);
    free_world(w);
}

Test(replay, output_error_is_lost_times_separation)
{
    world *w = make_world(0);
    memory m = { 0 };
    kvt_err err = { KVT_OK, "" };
    const int per_kv = H / HKV;

    cr_assert(run_world(w, &m, 2, NULL, 0, "0.3", 1, &err) == KVT_OK, "%s", err.text);
    for (int c = 0; c < m.n; c++) {
        int at = 0;
        if (strncmp(m.label[c], "oracle_step", 11) == 0 || strncmp(m.label[c], "full", 4) == 0)
            continue;
        while (strcmp(kept_label[at], m.label[c]) != 0)
            at++;
        for (int l = 0; l < L; l++)
            for (int h = 0; h < H; h++) {
                const float *v = w->data[l * KVT_T_END + KVT_T_V] + (size_t)(h / per_kv) * T * D;
                double sum = 0;
                int n = 0;
                for (int t = 0; t < G; t += 8, n++) {
                    double o[D] = { 0 }, k[D] = { 0 }, kept = 0, diff = 0, norm = 0;
                    for (int j = 0; j <= N + t; j++) {
                        const double a = w->row[l][h][t][j];
                        const int in = j == N + t || kept_sets[at][l][h][t][j];
                        kept += in ? a : 0;
                        for (int e = 0; e < D; e++) {
                            o[e] += a * (double)v[j * D + e];
                            k[e] += in ? a * (double)v[j * D + e] : 0;
                        }
                    }
                    for (int e = 0; e < D; e++) {
                        diff += (o[e] - k[e] / kept) * (o[e] - k[e] / kept);
                        norm += o[e] * o[e];
                    }
                    sum += sqrt(diff / norm);
                }
                cr_assert(m.head[c][l * H + h].err_n == (uint32_t)n);
                cr_assert(fabs(m.head[c][l * H + h].out_err_mean - sum / n) < 2e-5, "%s: %.9g, expected %.9g", m.label[c],
                          m.head[c][l * H + h].out_err_mean, sum / n);
            }
    }
    mem_free(&m);
    free_world(w);
}

/* Key 3 of layer 0, KV head 0 gets all attention of decode step 5 of head 0 and nothing
 * before: a set without it must show exactly one violation there. */
Test(replay, a_planted_late_bloomer_is_one_violation_at_its_step)
{
    world *w = make_world(0);
    memory m = { 0 };
    kvt_err err = { KVT_OK, "" };
    float *k = w->data[KVT_T_K] + 30 * D, *q = w->data[KVT_T_Q] + (size_t)(W + 5) * D;
    int c, found = 0;

    for (int i = 0; i < T * D; i++)
        w->data[KVT_T_K][i] *= 0.05f;            /* no other key stands out */
    for (int e = 0; e < D; e++) {
        k[e] = e == 0 ? -30.0f : 0;              /* hated by everybody with q[0] > 0 */
        for (int i = 0; i < R; i++)
            for (int h = 0; h < 2; h++)
                w->data[KVT_T_Q][((size_t)h * R + i) * D + e] = e == 0 ? 1.0f : 0.1f;
    }
    q[0] = -1.0f;
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < R; i++)
            w->data[KVT_T_LSE][h * R + i] = (float)kvt_ref_row(&w->layer[0], (uint32_t)(N - W + i), w->data[KVT_T_Q] + ((size_t)h * R + i) * D,
                                                               w->data[KVT_T_K], 0, NULL, NULL);
    cr_assert(run_world(w, &m, 2, NULL, 0, "0.9", 0, &err) == KVT_OK, "%s", err.text);
    c = mem_find(&m, "snapkv:window=8@0.9#0");
    cr_assert(c >= 0);
    for (size_t i = 0; i < m.res[c].n_violation; i++) {
        const kvt_violation *v = &m.vio[c][i];
        if (v->layer != 0 || v->head != 0 || v->tau != 0)
            continue;
        found++;
        cr_assert(v->start_step == 5 && v->n_step == 1 && v->peak_step == 5 && v->peak_lost > 0.99);
        cr_assert(v->cause == KVT_CAUSE_LATE_BLOOMER, "cause %s", kvt_cause_name(v->cause));
        cr_assert(v->n_responsible > 0 && v->responsible[0].pos == 30 && v->responsible[0].mass_share > 0.99);
        cr_assert(v->responsible[0].evicted_step == -1 && v->responsible[0].last_important == -2);
        cr_assert(v->recurrent == 0);
        cr_assert(v->foreseeable == 1, "63 are held, and the first observed row sees only 39 keys: all of them are in its top 63");
    }
    cr_assert(found == 1, "%d violations", found);
    mem_free(&m);
    free_world(w);
}

Test(replay, a_row_that_does_not_sum_to_one_rejects_the_trace_with_its_place)
{
    world *w = make_world(0);
    memory m = { 0 };
    kvt_err err = { KVT_OK, "" };

    w->data[KVT_T_END + KVT_T_LSE][2 * R + W + 4] += 0.01f;
    cr_assert(run_world(w, &m, 2, NULL, 0, "0.3", 0, &err) == KVT_ECHECK);
    cr_assert(strstr(err.text, "layer 1 head 2 step 4"), "%s", err.text);
    cr_assert(m.n == 0);
    free_world(w);
}

Test(replay, a_log_sum_exp_that_is_slightly_off_is_recomputed_and_noted)
{
    world *w = make_world(0);
    memory m = { 0 };
    kvt_err err = { KVT_OK, "" };

    w->data[KVT_T_LSE][1 * R + W + 4] += 2e-4f;
    cr_assert(run_world(w, &m, 2, NULL, 0, "0.3", 0, &err) == KVT_OK, "%s", err.text);
    for (int c = 0; c < m.n; c++)
        check_cell(w, &m, c);
    cr_assert(m.n_row_warnings > 0 && m.res[0].row_defect_max < 1e-6);
    mem_free(&m);
    free_world(w);
}

Test(replay, nan_operands_are_an_error_with_their_place)
{
    world *w = make_world(0);
    memory m = { 0 };
    kvt_err err = { KVT_OK, "" };

    w->data[KVT_T_K][(size_t)1 * T * D + 60 * D + 2] = NAN;
    cr_assert(run_world(w, &m, 2, NULL, 0, "0.3", 0, &err) == KVT_ECHECK);
    cr_assert(strstr(err.text, "/layers/000/k: head 1 row 60"), "%s", err.text);
    cr_assert(m.n == 0);
    free_world(w);
}
