/* test_easykv.c - the policies of EasyKV. Goal: kept sets equal those of a literal
 * transcription of the rules that shares no code with policies/, after every decode step.
 * Method: random operands; rows as softmax in double over what is cached; selections by
 * repeated search for the smallest; parameters drawn for every mode and policy; lengths at
 * which the reference fails must be refused. */
#include "policy_world.h"
#include "kvt_prim.h"

enum { MAX_T = 112, MAX_H = 6, KEEP_ALL = -1 };
typedef enum which { RECENCY, H2O, TOVA, ROCO, N_RULES } which;
typedef enum phase { DECODING, ENCODING, PPL, AUTO, BOTH, N_MODES } phase;
static const char *const rule_id[N_RULES] = {"recency", "h2o", "tova", "roco"};
static const char *const mode_id[N_MODES] = {"decoding", "encoding", "ppl", "auto", "encoding_decoding"};

typedef struct held {               /* what one KV head holds, in order of position   */
    uint32_t n, pos[MAX_T];
    float    s[MAX_T], q2[MAX_T], c[MAX_T];
} held;

typedef struct trial {              /* one configuration as the reference reads it    */
    which    rule;
    phase    mode;
    int      n, T, s0, keep, prompt, tokens;    /* tokens < 0: a share                */
    double   rr, share;
    int      reference;             /* rule of the counts                             */
    int      b, idx, r0, r;
} trial;

/* ---- rows ---------------------------------------------------------------------------- */

/* Mean row of heads h0 .. h0+n_heads-1 over the first `exempt` positions and the cache. */
static void mean_row(const world *w, uint32_t l, uint32_t h0, uint32_t n_heads, uint32_t p, uint32_t exempt, const held *k, float *row)
{
    uint32_t list[2 * MAX_T];
    double a[2 * MAX_T], mean[2 * MAX_T] = {0};

    for (uint32_t j = 0; j < exempt; j++) list[j] = j;
    memcpy(list + exempt, k->pos, k->n * sizeof *list);
    for (uint32_t h = h0; h < h0 + n_heads; h++) {
        world_attend(w, l, h, p, list, exempt + k->n, a);
        for (uint32_t i = 0; i < exempt + k->n; i++) mean[i] += a[i];
    }
    for (uint32_t i = 0; i < k->n; i++) row[i] = (float)(mean[exempt + i] / n_heads);
}

/* ---- the cache of EasyKV ----------------------------------------------------------------- */

static void enter(held *k, uint32_t p)
{
    k->pos[k->n] = p;
    k->s[k->n] = k->q2[k->n] = k->c[k->n] = 0;
    k->n++;
}

static void update(held *k, const float *row, which rule)
{
    for (uint32_t i = 0; i < k->n; i++) {
        k->s[i] = rule == TOVA ? row[i] : k->s[i] + row[i];
        k->q2[i] += row[i] * row[i];
        k->c[i] += 1;
    }
}

static void drop(held *k, const uint8_t *gone)
{
    uint32_t m = 0;
    for (uint32_t i = 0; i < k->n; i++)
        if (!gone[i]) k->pos[m] = k->pos[i], k->s[m] = k->s[i], k->q2[m] = k->q2[i], k->c[m] = k->c[i], m++;
    k->n = m;
}

/* Mark the first smallest of x among from..to-1 that is not marked. */
static int smallest(const float *x, int from, int to, uint8_t *mark)
{
    int best = -1;
    for (int i = from; i < to; i++)
        if (!mark[i] && (best < 0 || x[i] < x[best])) best = i;
    cr_assert(best >= 0);
    mark[best] = 1;
    return best;
}

/* RoCo: F = the n_feasible smallest std; of these the `evict` smallest means. */
static void roco(const held *k, int sinks, int n_feasible, int evict, uint8_t *gone)
{
    float std[MAX_T], mean[MAX_T];
    uint8_t in_f[MAX_T] = {0}, taken[MAX_T] = {0};
    int f[MAX_T];
    const int n = (int)k->n;

    for (int i = 0; i < n; i++) {
        const float m = k->s[i] / k->c[i];
        std[i] = i < sinks || i >= n - 10 ? 1e9f : sqrtf(fmaxf(k->q2[i] / k->c[i] - m * m, 0));
    }
    if (n_feasible > n) n_feasible = n;
    for (int i = 0; i < n_feasible; i++) {          /* in order of std */
        f[i] = smallest(std, 0, n, in_f);
        mean[i] = k->s[f[i]] / k->c[f[i]];
    }
    for (int i = 0; i < evict; i++) gone[f[smallest(mean, 0, n_feasible, taken)]] = 1;
}

static void evict_chunk(held *k, const trial *t)
{
    uint8_t gone[MAX_T] = {0};
    const int n = (int)k->n, feasible = t->b - t->r - t->s0;

    if (t->rule == RECENCY) memset(gone + t->s0, 1, (size_t)t->T);
    if (t->rule == ROCO) roco(k, t->s0, feasible > t->T ? feasible : t->T, t->T, gone);
    for (int i = 0; i < t->T && (t->rule == H2O || t->rule == TOVA); i++) smallest(k->s, t->s0, n - t->r, gone);
    drop(k, gone);
}

static void evict_one(held *k, const trial *t)
{
    uint8_t gone[MAX_T] = {0};
    const int n = (int)k->n, r = (int)(0.3 * t->b);

    if (t->rule == RECENCY) gone[t->mode == DECODING ? 0 : t->s0] = 1;
    if (t->rule == TOVA) smallest(k->s, 0, n, gone);
    if (t->rule == ROCO) roco(k, 0, t->b - r, 1, gone);
    if (t->rule == H2O) smallest(k->s, 0, r ? n - r : 1, gone);
    drop(k, gone);
}

/* ---- counts -------------------------------------------------------------------------- */

/* b, idx, r0, r; 0: the reference knows no such run, KEEP_ALL: nothing ever leaves. */
static int count(trial *t)
{
    const int n = t->n, base = t->tokens >= 0 ? t->tokens : t->reference ? (int)(n * t->share) : (int)rint(n * t->share);

    if (t->mode != ENCODING && t->mode != PPL && t->tokens < 0) return 0;
    if (t->mode == AUTO && base > n) {
        t->mode = DECODING;
        t->b = base - n;
        return 1;
    }
    if (t->mode == AUTO) t->mode = BOTH;
    t->b = base;
    if (t->mode == DECODING) return 1;
    if (t->mode != BOTH && base >= n) return KEEP_ALL;
    if (t->mode == BOTH && (base > n || t->rule == H2O)) return 0;
    t->b += t->T;
    if (t->mode == BOTH && t->b >= n) t->b -= t->T;
    for (t->idx = t->b; t->idx >= 0 && (n - t->idx) % t->T; t->idx--) {}
    if (t->mode == ENCODING ? t->idx < t->T : t->idx <= 1) return 0;
    t->r0 = t->mode == ENCODING ? t->idx - t->T : t->idx % t->T ? t->idx % t->T : t->T;
    t->r = (int)(t->b * t->rr);
    if (t->rule == RECENCY && t->idx < t->s0) return 0;
    if ((t->rule == H2O || t->rule == TOVA) && t->idx < n && (t->r < 1 || t->idx - t->s0 - t->r < 0)) return 0;
    return 1;
}

/* ---- one layer, token by token -------------------------------------------------------- */

typedef struct player {             /* KV heads of a layer; sets after every step come from the engine */
    const world *w;
    const tape  *got;
    const trial *t;
    const char  *spec;
    uint32_t     l;
    held         k[MAX_H];
} player;

static void expect_sets(const player *p, uint32_t exempt, uint32_t step)
{
    for (uint32_t g = 0; g < p->w->s.Hkv; g++) {
        const uint32_t *s = tape_find(p->got, 0, 0, 0, p->l, g, step);
        cr_assert(s, "%s: layer %u head %u: no set after step %d", p->spec, p->l, g, (int)step);
        cr_assert(s[SET_N] == exempt + p->k[g].n, "%s: layer %u head %u step %d: %u entries, expected %u", p->spec, p->l, g, (int)step,
                  s[SET_N], exempt + p->k[g].n);
        for (uint32_t j = 0; j < s[SET_N]; j++)
            cr_assert(s[SET_POS + j] == (j < exempt ? j : p->k[g].pos[j - exempt]), "%s: layer %u head %u step %d: entry %u is %u, expected %u",
                      p->spec, p->l, g, (int)step, j, s[SET_POS + j], j < exempt ? j : p->k[g].pos[j - exempt]);
    }
}

static void observe(player *p, uint32_t exempt, uint32_t query)
{
    const uint32_t gs = p->w->s.Hq / p->w->s.Hkv;
    const int layer = p->t->rule == TOVA && (p->t->mode == ENCODING || p->t->mode == PPL);
    float row[MAX_T];

    for (uint32_t g = 0; g < p->w->s.Hkv; g++) {
        mean_row(p->w, p->l, layer ? 0 : g * gs, layer ? p->w->s.Hq : gs, query, exempt, &p->k[g], row);
        update(&p->k[g], row, p->t->rule);
    }
}

static void play_chunks(player *p)
{
    const trial *t = p->t;

    for (int j = 0; j < t->r0; j++) {
        for (uint32_t g = 0; g < p->w->s.Hkv; g++) enter(&p->k[g], (uint32_t)j);
        if (t->keep) observe(p, 0, (uint32_t)j);
    }
    for (int from = t->r0; from < t->n; from += t->T) {
        const int over = (int)p->k[0].n + t->T > t->idx;
        for (int j = from; j < from + t->T; j++) {
            for (uint32_t g = 0; g < p->w->s.Hkv; g++) enter(&p->k[g], (uint32_t)j);
            if (over || t->keep) observe(p, 0, (uint32_t)j);
        }
        for (uint32_t g = 0; g < p->w->s.Hkv && over; g++) evict_chunk(&p->k[g], t);
    }
}

static void play(const world *w, const tape *got, const trial *t, int how, const char *spec)
{
    for (uint32_t l = 0; l < w->s.L; l++) {
        player p = {.w = w, .got = got, .t = t, .spec = spec, .l = l};
        const uint32_t exempt = t->mode == DECODING ? (uint32_t)(t->prompt ? t->prompt : t->n) : 0;
        const uint32_t size = (uint32_t)(t->mode == DECODING ? t->b : t->idx), first = exempt ? exempt : w->s.N;

        if (how == KEEP_ALL)
            for (uint32_t g = 0; g < w->s.Hkv; g++)
                for (uint32_t j = 0; j < w->s.N; j++) enter(&p.k[g], j);
        else if (!exempt)
            play_chunks(&p);
        if (t->mode == ENCODING || t->mode == PPL) {    /* a fixed set from here on */
            expect_sets(&p, 0, UINT32_MAX);
            continue;
        }
        expect_sets(&p, exempt, 0);
        for (uint32_t j = first; j < w->T; j++) {
            for (uint32_t g = 0; g < w->s.Hkv; g++) enter(&p.k[g], j);
            observe(&p, exempt, j);
            for (uint32_t g = 0; g < w->s.Hkv; g++)
                if (p.k[g].n > size) evict_one(&p.k[g], t);
            expect_sets(&p, exempt, j + 1 - first);
        }
    }
}

/* ---- comparing ----------------------------------------------------------------------- */

static const shape shapes[] = {{2, 4, 2, 4, 61, 24, 61, 0}, {2, 6, 2, 6, 72, 20, 72, 0}, {1, 3, 1, 4, 30, 40, 30, 0}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_DRAWS = 9 };

static int pick(int n) { return (int)(world_uniform() * n); }

static trial draw(const world *w, which rule, phase mode)
{
    static const int strides[] = {1, 1, 2, 3, 4, 5, 7, 8}, sinks[] = {4, 4, 0, 1, 8};
    static const double ratios[] = {0.1, 0.1, 0.25, 0, 0.5}, shares[] = {0.06, 0.2, 0.35, 0.5, 0.7, 0.95, 1};
    const int n = (int)w->s.N;
    trial t = {.rule = rule, .mode = mode, .n = n, .T = strides[pick(8)], .s0 = sinks[pick(5)], .keep = pick(2), .rr = ratios[pick(5)], .tokens = -1};

    t.reference = pick(2);
    if (mode == DECODING && pick(2)) t.prompt = 1 + pick(n - 1);
    if (mode == DECODING) t.tokens = pick(2) ? 1 + pick(6) : 1 + pick(n / 2);
    if (mode == AUTO) t.tokens = pick(2) ? n - 5 + pick(25) : 2 + pick(n);
    if (mode == BOTH) t.tokens = 1 + pick(n + 1);
    if ((mode == ENCODING || mode == PPL) && pick(3) == 0) t.tokens = 1 + pick(n + 1);
    if (t.tokens < 0) t.share = shares[pick(7)];
    return t;
}

/* 1 = compared, 0 = refused by both. */
static int compare(const world *w, trial t)
{
    char spec[200], text[24];
    const char *const name = mode_id[t.mode];
    batch b = {.n_config = 1, .n_budget = 1};
    kvt_err err = {KVT_OK, ""};
    kvt_status st;
    int how;

    snprintf(spec, sizeof spec, "%s:impl=easykv,mode=%s,stride=%d,sinks=%d,keep_attention=%s,recent_ratio=%g,prompt=%d", rule_id[t.rule], name, t.T,
             t.s0, t.keep ? "on" : "off", t.rr, t.prompt);
    snprintf(text, sizeof text, t.tokens < 0 ? "%g" : "%.0ft", t.tokens < 0 ? t.share : t.tokens);
    kvt_config *c = config_of(spec);
    b.config[0] = c;
    budget_of(&b.budget[0], text, t.reference ? KVT_RULE_REFERENCE : KVT_RULE_SHARE);
    how = count(&t);
    st = kvt_plan_check(&w->info, c, &b.budget[0], &err);
    cr_assert((st == KVT_OK) == (how != 0), "%s at %s, n %d: %s", spec, text, t.n, st ? err.text : "must be refused");
    if (how) {
        tape got = world_sets(w, &b, 1);
        snprintf(spec + strlen(spec), sizeof spec - strlen(spec), " at %s%s", text, t.reference ? " reference" : "");
        play(w, &got, &t, how, spec);
        tape_free(&got);
    } else {
        cr_assert(st == KVT_EARG && strstr(err.text, rule_id[t.rule]));
    }
    kvt_config_free(c);
    return how != 0;
}

Test(easykv, kept_sets_are_those_of_the_rules_in_every_mode, .timeout = 280)
{
    uint32_t n_run = 0, n_refused = 0;

    for (uint32_t i = 0; i < N_SHAPES; i++) {
        world *w = world_make(&shapes[i], 3 + i);
        for (which rule = 0; rule < N_RULES; rule++)
            for (phase mode = 0; mode < N_MODES; mode++)
                for (uint32_t k = 0; k < N_DRAWS; k++)
                    if (compare(w, draw(w, rule, mode))) n_run++;
                    else n_refused++;
        if (w->s.N == 30)           /* a share is trunc(30 * 0.2) = 6, without the detour over 1 - 0.2 */
            n_run += (uint32_t)compare(w, (trial){.rule = ROCO, .n = 30, .mode = ENCODING, .T = 1, .s0 = 4, .rr = 0.1, .tokens = -1, .share = 0.2, .reference = 1});
        world_free(w);
    }
    cr_assert(n_run > 350 && n_refused > 20, "%u compared, %u refused", n_run, n_refused);
}

Test(easykv, equal_rows_let_the_oldest_leave)
{
    const shape s = {1, 2, 1, 4, 40, 20, 40, 0};    /* all statistics of a row are equal */
    world *w = world_equal(&s);

    for (which rule = 0; rule < N_RULES; rule++)
        for (int keep = 0; keep < 2; keep++) {
            compare(w, (trial){.rule = rule, .mode = ENCODING, .n = 40, .T = 3, .s0 = 4, .keep = keep, .rr = 0.2, .tokens = 20});
            compare(w, (trial){.rule = rule, .mode = DECODING, .n = 40, .T = 1, .s0 = 4, .keep = keep, .rr = 0.1, .tokens = 12});
        }
    world_free(w);
}

Test(easykv, what_has_no_run_is_refused_by_name)
{
    static const struct { const char *spec, *budget, *why; } wrong[] = {
        {"h2o:impl=easykv,mode=auto", "30t", "h2o is not defined for mode=encoding_decoding"},
        {"roco:mode=decoding", "0.2", "takes its budget in tokens"},
        {"roco:mode=auto", "0.2", "takes its budget in tokens"},
        {"roco:mode=encoding_decoding", "73t", "needs mode=auto"},
        {"roco:prompt=20", "0.5", "belongs to mode=decoding"},
        {"roco:mode=decoding,prompt=73", "9t", "exceeds the prompt"},
        {"roco:stride=60", "0.1", "too small for the stride"},
        {"recency:sinks=40", "0.2", "must hold the sinks"},
        {"tova:impl=easykv", "0.05", "less than one recent token; the smallest budget that works here is 9t"},
        {"h2o:impl=easykv,recent_ratio=0.5", "5t", "the sinks and the recent tokens; the smallest budget that works here is 6t"},
        {"h2o:semantics=paper", "0.5", "defined for impl=mask_sim"},
        {"h2o:impl=mask_sim,recent=0", "0.5", "one token at least"},
        {"h2o:impl=one_shot,window=8,caches=kv", "8t", "must exceed the window; the smallest budget that works here is 9t"},
    };
    world *w = world_make(&shapes[1], 5);

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        kvt_config *c = config_of(wrong[i].spec);
        kvt_err err = {KVT_OK, ""};
        kvt_budget b;

        budget_of(&b, wrong[i].budget, KVT_RULE_SHARE);
        cr_assert(kvt_plan_check(&w->info, c, &b, &err) == KVT_EARG && strstr(err.text, wrong[i].why), "%s at %s: %s", wrong[i].spec,
                  wrong[i].budget, err.text);
        kvt_config_free(c);
    }
    world_free(w);
}

/* ---- random -------------------------------------------------------------------------- */

Test(easykv, random_drops_the_same_run_everywhere)
{
    static const struct { const char *spec, *budget; uint32_t step, n; } runs[] = {
        {"random:impl=easykv,stride=4", "0.5", UINT32_MAX, 40},     /* idx <= 36 + 4, 72 - idx divisible by 4 */
        {"random:impl=easykv,mode=ppl,stride=7", "20t", UINT32_MAX, 23},
        {"random:impl=easykv,mode=decoding,prompt=60", "9t", 30, 69},
        {"random:impl=easykv,mode=auto,stride=4", "40t", 20, 44},
    };
    world *w = world_make(&shapes[1], 6);

    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        batch b = {.seed = 11, .n_config = 1, .n_budget = 1};
        kvt_config *c = config_of(runs[i].spec);
        uint32_t other = 0;
        b.config[0] = c;
        budget_of(&b.budget[0], runs[i].budget, KVT_RULE_REFERENCE);
        tape got = world_sets(w, &b, 1);
        for (uint32_t l = 0; l < w->s.L; l++)
            for (uint32_t g = 0; g < w->s.Hkv; g++) {
                const uint32_t *s = tape_find(&got, 0, 0, 11, l, g, runs[i].step), *first = tape_find(&got, 0, 0, 11, 0, 0, runs[i].step);
                const uint32_t *seed = tape_find(&got, 0, 0, 12, l, g, runs[i].step);
                cr_assert(s && first && seed && s[SET_N] == runs[i].n && set_equal(s, first), "%s", runs[i].spec);
                cr_assert(runs[i].step != UINT32_MAX || set_has(s, 71), "%s: the newest entry of a chunk never leaves", runs[i].spec);
                other += !set_equal(s, seed);
            }
        cr_assert(other > 0, "%s: two seeds, one set", runs[i].spec);
        tape_free(&got);
        kvt_config_free(c);
    }
    world_free(w);
}

/* Where the run starts: every entry of 0 .. N-T-1 in a chunk, of 0 .. N-1 while generating. */
static void check_starts(const char *spec, uint32_t query, uint32_t n, uint32_t capacity, uint32_t starts)
{
    enum { DRAWS = 20000 };
    kvt_config *c = config_of(spec);
    kvt_job job = {.n_q_heads = 1, .n_kv_heads = 1, .n_caches = 1, .n = 30, .n_new = 9, .in_tokens = 1, .keep_cache = capacity, .param = c->param};
    uint32_t pos[MAX_T], seen[MAX_T] = {0};
    kvt_lane lane = {.job = &job, .cache = KVT_ALL, .cap = MAX_T, .capacity = capacity};
    const kvt_event ev = {.n = n, .pos = pos, .query = query};
    kvt_ws ws = {NULL, 0, 0};
    double chi = 0;

    for (uint32_t i = 0; i < n; i++) pos[i] = i;
    for (uint32_t k = 0; k < DRAWS; k++) {
        float worth[MAX_T];
        uint32_t at = 0, m = 0;
        job.key = k * 0x9e3779b97f4a7c15u;
        c->policy->worth(&lane, &ev, &ws, NULL, worth);
        while (at < n && worth[at] > 0) at++;
        while (at + m < n && worth[at + m] == 0) m++;
        cr_assert(m == n - capacity, "%s: a run of %u leaves", spec, m);
        for (uint32_t i = at + m; i < n; i++) cr_assert(worth[i] > 0);
        cr_assert(at < starts);
        seen[at]++;
    }
    for (uint32_t i = 0; i < starts; i++) chi += pow(seen[i] - (double)DRAWS / starts, 2) / ((double)DRAWS / starts);
    cr_assert(chi < (starts - 1) + 5 * sqrt(2.0 * (starts - 1)), "%s: chi2 %g over %u starts", spec, chi, starts);
    kvt_config_free(c);
}

Test(easykv, random_starts_anywhere)
{
    check_starts("random:impl=easykv,stride=3", 20, 15, 12, 12);
    check_starts("random:impl=easykv", 20, 11, 10, 10);
    check_starts("random:impl=easykv,mode=decoding", 33, 10, 9, 10);
    check_starts("random:impl=easykv,mode=encoding_decoding", 33, 10, 9, 10);
}

Test(easykv, random_scope_model_draws_once_for_all_heads)
{
    world *w = world_make(&shapes[0], 8);
    kvt_config *head = config_of("random"), *model = config_of("random:scope=model");
    batch b = {.config = {head, model}, .n_config = 2, .n_budget = 1};
    const uint32_t *h0, *m0;

    budget_of(&b.budget[0], "0.5", KVT_RULE_SHARE);
    tape got = world_sets(w, &b, 1);
    h0 = tape_find(&got, 0, 0, 0, 0, 0, UINT32_MAX), m0 = tape_find(&got, 1, 0, 0, 0, 0, UINT32_MAX);
    cr_assert(h0 && m0 && set_equal(h0, m0));
    for (uint32_t l = 0; l < 2; l++)
        for (uint32_t g = 0; g < 2; g++) {
            cr_assert(set_equal(m0, tape_find(&got, 1, 0, 0, l, g, UINT32_MAX)));
            cr_assert(l + g == 0 || !set_equal(h0, tape_find(&got, 0, 0, 0, l, g, UINT32_MAX)));
        }
    tape_free(&got);
    kvt_config_free(head), kvt_config_free(model);
    world_free(w);
}
