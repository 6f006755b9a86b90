/* test_contract.c - what every policy must hold to, whatever it values; no reference values.
 * Goal: callbacks are pure, complete, honest about what they read, and do not look ahead;
 * for every registered policy and every value of its parameters. Method: the engine on
 * small random traces, with the probe of policy_probe.h between it and the policy, or with
 * one thing about the trace changed. Kept sets: test_contract_sets.c. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include "policy_probe.h"
#include "policy_statement.h"

static uint32_t n_called;

/* ---- callbacks ----------------------------------------------------------------------- */

static void callbacks(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    tape plain = world_sets(w, b, 3), probed = {0};
    size_t at = 0, n = 0;
    kvt_err err = {KVT_OK, ""};

    probe_enter(c, 0);
    cr_assert(world_replay(w, b, 1, (kvt_sink){NULL, NULL}, &probed, &err) == KVT_OK, "%s: %s", spec, err.text);
    probe_leave(c);
    n_called += probe.n_score + probe.n_worth;
    cr_assert(!probe.why[0], "%s, %u tokens: %s", spec, w->s.N, probe.why);
    cr_assert(tape_equal(&plain, &probed), "%s: other sets with 3 threads than with 1", spec);
    for (const uint32_t *s; (s = tape_next(&plain, &at)) != NULL; n++)
        for (uint32_t i = 0; i < s[SET_N]; i++)
            cr_assert(s[SET_POS + i] < w->s.N + (step_of(s) > 0 ? s[SET_STEP] : 0) && (!i || s[SET_POS + i] > s[SET_POS + i - 1]), "%s: position %u", spec, s[SET_POS + i]);
    cr_assert(n > 0 || c->caps & KVT_POLICY_BOUND, "%s: no kept sets", spec);
    tape_free(&plain), tape_free(&probed);
}

FOR_EVERY_POLICY(contract, callbacks_write_all_and_nothing_else_and_repeat_their_bits)
{
    const kvt_policy *p = kvt_policy_at(*i);

    cr_assert(p && kvt_policy_find(p->id) == p && p->abi == KVT_POLICY_ABI && p->version >= 1 && p->title && p->cite);
    cr_assert(*i == 0 || strcmp(kvt_policy_at(*i - 1)->id, p->id) < 0, "policies are sorted by id");
    cr_assert(!(p->caps & KVT_POLICY_ONESHOT) == !p->score && !(p->caps & KVT_POLICY_ONLINE) == !p->worth);
    cr_assert(!(p->caps & KVT_POLICY_ORACLE) == !(p->needs & KVT_NEED_FUTURE), "who reads the future is an oracle");
    specs_of(p, &list);
    for (uint32_t s = 0; s < N_SHAPES; s++) say(p, callbacks, s, 0, list.n_core);
    for (uint32_t k = list.n_core; k < list.n; k++) say(p, callbacks, k % N_SHAPES, k, k + 1);
    cr_log_info("%s: %u specs, %u runs, %u refused, %u calls", p->id, list.n, n_run, n_refused, n_called);
    cr_assert(n_run * 3 > n_refused && (n_called > 0) == (p->score || p->worth), "%u runs, %u refused, %u calls", n_run, n_refused, n_called);
}

/* ---- every choice runs --------------------------------------------------------------- */

FOR_EVERY_POLICY(contract, every_value_of_every_choice_runs_somewhere)
{
    const kvt_policy *p = kvt_policy_at(*i);
    uint8_t ran[KVT_PARAMS_MAX][32] = {{0}};
    world *w = world_make(&shapes[0], 1);

    specs_of(p, &list);
    for (uint32_t k = 0; k < list.n_core; k++) {
        kvt_config *c = config_if(p, list.s[k]);
        batch b;
        if (!c) continue;
        batch_make(&b, w, c, KVT_RULE_SHARE, budgets, N_BUDGETS, &n_refused);
        for (uint32_t d = 0; d < spec_params(p) && b.n_budget; d++)
            if (p->params[d].choices) ran[d][(uint32_t)c->param[d]] = 1;
        kvt_config_free(c);
    }
    for (uint32_t d = 0; d < spec_params(p); d++)
        for (uint32_t x = 0; x < spec_choices(&p->params[d]); x++)
            cr_assert(ran[d][x], "%s: value %u of %s is refused with everything else", p->id, x, p->params[d].name);
    world_free(w);
}

/* ---- needs ---------------------------------------------------------------------------- */

static const struct { uint32_t need, tensors; } needs[] = {
    {KVT_NEED_COLSTAT, 1u << KVT_T_STAT_SUM}, {KVT_NEED_NU, 1u << KVT_T_NU}, {KVT_NEED_VALUES, 1u << KVT_T_V},
};

/* The same operands in a trace with the last W prompt queries. */
static world *with_window(const world *w, uint32_t W)
{
    shape s = w->s;
    world *o;
    s.W = W;
    o = world_new(&s, 1);
    world_take(o, w, 0);
    world_finish(o);
    return o;
}

static uint32_t needs_of(const world *w, const batch *b, uint32_t budget, uint32_t *window, uint32_t *caps)
{
    uint32_t all = 0;
    *window = *caps = 0;
    for (uint32_t l = 0; l < w->s.L; l++) {
        kvt_job job;
        const kvt_setup s = setup_of(w, b, budget, l, &job);
        all |= s.needs, *caps |= s.caps;
        if (s.needs & KVT_NEED_WINDOW && s.window > *window) *window = s.window;
    }
    return all;
}

static void lacks_are_refused(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    uint32_t window, caps;
    const uint32_t need = needs_of(w, b, 0, &window, &caps);
    kvt_err err = {KVT_OK, ""};

    for (size_t k = 0; k < sizeof needs / sizeof *needs; k++) {
        world *poor = with_window(w, w->s.W);
        world_lacks(poor, needs[k].tensors);
        cr_assert(kvt_plan_check(&poor->info, c, &b->budget[0], &err) == (need & needs[k].need ? KVT_ENEED : KVT_OK), "%s: need %zu: %s", spec, k, err.text);
        world_free(poor);
    }
    if (need & KVT_NEED_PROMPT) {
        world *poor = with_window(w, w->s.N - 1);
        cr_assert(kvt_plan_check(&poor->info, c, &b->budget[0], &err) == KVT_ENEED && strstr(err.text, "--window"), "%s: %s", spec, err.text);
        world_free(poor);
    }
    if (need & KVT_NEED_WINDOW && window > 1 && window < w->s.N) {
        world *poor = with_window(w, window - 1);
        cr_assert(kvt_plan_check(&poor->info, c, &b->budget[0], &err) == KVT_ENEED && strstr(err.text, "--window"), "%s: %s", spec, err.text);
        world_free(poor);
    }
}

/* A trace with what was asked for and nothing else gives the same sets. */
static void no_more_is_needed(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    uint32_t window = 0, need = 0, caps = 0;
    tape rich, bare;
    world *poor;

    for (uint32_t k = 0; k < b->n_budget; k++) {
        uint32_t one, some;
        need |= needs_of(w, b, k, &one, &some), caps |= some;
        window = one > window ? one : window;
    }
    window = need & KVT_NEED_PROMPT || window > w->s.N ? w->s.N : window ? window : 1;
    poor = with_window(w, window);
    for (size_t k = 0; k < sizeof needs / sizeof *needs; k++)
        if (!(need & needs[k].need)) world_lacks(poor, needs[k].tensors);
    rich = world_sets(w, b, 2), bare = world_sets(poor, b, 2);
    cr_assert(tape_equal(&rich, &bare), "%s reads what it did not ask for", spec);
    tape_free(&rich), tape_free(&bare), world_free(poor);
    lacks_are_refused(w, spec, c, b);
}

FOR_EVERY_POLICY(contract, needs_are_honest_and_a_trace_without_them_is_refused)
{
    specs_of(kvt_policy_at(*i), &list);
    say(kvt_policy_at(*i), no_more_is_needed, 1, 0, list.n_core);
}

/* ---- state ------------------------------------------------------------------------------ */

/* Drive the lane of events a..b-1 by hand from its columns before event `from`. */
static void resume(const char *spec, uint32_t from, uint32_t b)
{
    enum { CAP = 150 };
    const uint32_t cols = probe.p->slot_cols;
    uint32_t pos[CAP], n = probe.event[from].ev.n;
    float *col = calloc((size_t)cols * CAP + 1, sizeof *col), worth[CAP];

    memcpy(pos, probe.event[from].ev.pos, n * sizeof *pos);
    for (uint32_t c = 0; c < cols; c++) memcpy(col + (size_t)c * CAP, probe.event[from].before + (size_t)c * n, n * sizeof *col);
    for (uint32_t k = from; k < b; k++) {
        const probe_event *e = &probe.event[k];
        kvt_lane lane = e->lane;
        kvt_ws ws = {aligned_alloc(64, e->ws_bytes + 64), 0, e->ws_bytes};
        uint32_t m = 0;

        for (uint32_t s = 0; s < n; s++) {                  /* who left since: close the gap */
            while (m < e->ev.n && e->ev.pos[m] < pos[s]) m++;
            if (m == e->ev.n || e->ev.pos[m] != pos[s]) {
                for (uint32_t c = 0; c < cols; c++) memmove(col + (size_t)c * CAP + s, col + (size_t)c * CAP + s + 1, (n - s - 1) * sizeof *col);
                memmove(pos + s, pos + s + 1, (n - s - 1) * sizeof *pos);
                n--, s--;
            }
        }
        for (; n < e->ev.n; n++) {                          /* who came: zero */
            for (uint32_t c = 0; c < cols; c++) col[(size_t)c * CAP + n] = 0;
            pos[n] = e->ev.pos[n];
        }
        cr_assert(n == e->ev.n && !memcmp(pos, e->ev.pos, n * sizeof *pos));
        lane.cap = CAP, lane.job = &e->job;
        for (uint32_t c = 0; c < cols; c++)
            cr_assert(!memcmp(col + (size_t)c * CAP, e->before + (size_t)c * n, n * sizeof *col), "%s: call %u: the columns moved otherwise", spec, k - from);
        if (e->kind == PROBE_OBSERVE) probe.p->observe(&lane, &e->ev, col);
        else probe.p->worth(&lane, &e->ev, &ws, col, worth);
        cr_assert(e->kind != PROBE_WORTH || !memcmp(worth, e->worth, n * sizeof *worth), "%s: call %u: another worth than in the run", spec, k - from);
        for (uint32_t c = 0; c < cols; c++)
            cr_assert(!memcmp(col + (size_t)c * CAP, e->after + (size_t)c * n, n * sizeof *col), "%s: call %u: other columns than in the run", spec, k - from);
        free(ws.base);
    }
    free(col);
}

static uint32_t n_resumed;

static void state(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    batch one = *b;
    tape t = {0};
    kvt_err err = {KVT_OK, ""};

    one.n_budget = 1;
    budget_move(&one.budget[0], &b->budget[b->n_budget / 2]);
    probe_enter(c, 1);
    cr_assert(world_replay(w, &one, 1, (kvt_sink){NULL, NULL}, &t, &err) == KVT_OK, "%s: %s", spec, err.text);
    probe_leave(c);
    for (uint32_t a = 0, e; a < probe.n_events; a = e) {    /* lane by lane */
        for (e = a; e < probe.n_events && probe.event[e].lane.layer == probe.event[a].lane.layer; e++) {}
        if (c->caps & KVT_POLICY_RANDOM) break;             /* its second seed is a second lane of the layer */
        resume(spec, (a + e) / 2, e);
        n_resumed++;
    }
    tape_free(&t);
    probe_forget();
}

FOR_EVERY_POLICY(contract, columns_are_all_the_state_there_is)
{
    const kvt_policy *p = kvt_policy_at(*i);

    specs_of(p, &list);
    say(p, state, 0, 0, list.n_core);
    cr_assert((n_resumed > 0) == (p->worth && !(p->caps & KVT_POLICY_RANDOM)), "%u lanes were resumed", n_resumed);
}

/* ---- causality ------------------------------------------------------------------------- */

static int same_until(const tape *a, const tape *b, int32_t step)
{
    size_t at = 0, bt = 0;
    for (;;) {
        const uint32_t *x, *y;
        do x = tape_next(a, &at); while (x && step_of(x) > step);
        do y = tape_next(b, &bt); while (y && step_of(y) > step);
        if (!x || !y) return x == y;
        if (memcmp(x, y, SET_TIED * sizeof *x) || !set_equal(x, y)) return 0;
    }
}

static uint32_t n_foresaw;

static void causality(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    const uint32_t half = w->s.G / 2;
    shape shorter = w->s;
    world *other = world_new(&w->s, 99), *brief;
    tape a, o, s;

    world_take(other, w, 0);
    world_state = 5;
    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t h = 0; h < w->s.Hq; h++)
            for (uint32_t p = w->s.N + half; p < w->T; p++)
                for (uint32_t d = 0; d < w->s.d; d++) {
                    world_q(other, l, h, p)[d] = 3 * world_normal();
                    if (h < w->s.Hkv) world_k(other, l, h, p)[d] = world_normal(), world_v(other, l, h, p)[d] = world_normal();
                }
    world_finish(other);
    shorter.G = half;
    brief = world_new(&shorter, 1);
    world_take(brief, w, 0);
    world_finish(brief);
    a = world_sets(w, b, 2), o = world_sets(other, b, 2), s = world_sets(brief, b, 2);
    if (c->caps & KVT_POLICY_ORACLE) {
        n_foresaw += !same_until(&a, &o, 0);
    } else {
        cr_assert(same_until(&a, &o, (int32_t)half), "%s: what comes after step %u changed what left before", spec, half);
        cr_assert(same_until(&a, &s, (int32_t)half), "%s: the number of decode steps changed what left", spec);
    }
    tape_free(&a), tape_free(&o), tape_free(&s);
    world_free(other), world_free(brief);
}

FOR_EVERY_POLICY(contract, only_oracles_read_the_future)
{
    const kvt_policy *p = kvt_policy_at(*i);

    specs_of(p, &list);
    say(p, causality, 0, 0, list.n_core);
    cr_assert((n_foresaw > 0) == (p->caps & KVT_POLICY_ORACLE && !(p->caps & KVT_POLICY_BOUND)), "%u sets depend on the future", n_foresaw);
}

/* What left inside the prompt, from the slots that the lanes saw. */
static uint32_t n_prompt_events;

static void prompt_causality(const world *w, const char *spec, kvt_config *c, const batch *b)
{
    const uint32_t from = w->s.N - 6;
    world *other = world_new(&w->s, 1);
    tape seen[2] = {{0}, {0}}, t = {0};
    batch one = *b;
    kvt_err err = {KVT_OK, ""};

    one.n_budget = 1;
    budget_move(&one.budget[0], &b->budget[b->n_budget / 2]);
    world_take(other, w, 0);
    for (uint32_t l = 0; l < w->s.L; l++)
        for (uint32_t h = 0; h < w->s.Hq; h++)
            for (uint32_t p = from; p < w->T; p++)
                for (uint32_t d = 0; d < w->s.d; d++) {
                    world_q(other, l, h, p)[d] *= -2;
                    if (h < w->s.Hkv) world_k(other, l, h, p)[d] *= 0.5f;
                }
    world_finish(other);
    for (int k = 0; k < 2; k++) {
        probe_enter(c, 1);
        cr_assert(world_replay(k ? other : w, &one, 1, (kvt_sink){NULL, NULL}, &t, &err) == KVT_OK, "%s: %s", spec, err.text);
        probe_leave(c);
        for (uint32_t e = 0; e < probe.n_events; e++) {
            const probe_event *x = &probe.event[e];
            if (x->ev.query >= from) continue;
            tape_put(&seen[k], x->lane.layer), tape_put(&seen[k], x->ev.query), tape_put(&seen[k], x->ev.n);
            for (uint32_t s = 0; s < x->ev.n; s++) tape_put(&seen[k], x->ev.pos[s]);
            n_prompt_events++;
        }
        tape_free(&t);
    }
    cr_assert(tape_equal(&seen[0], &seen[1]), "%s: what comes after prompt token %u changed what left before", spec, from);
    tape_free(&seen[0]), tape_free(&seen[1]);
    probe_forget();
    world_free(other);
}

FOR_EVERY_POLICY(contract, inside_the_prompt_too_nobody_reads_ahead)
{
    const kvt_policy *p = kvt_policy_at(*i);

    specs_of(p, &list);
    if (p->needs & KVT_NEED_PROMPT && p->worth) {
        say(p, prompt_causality, 0, 0, list.n_core);
        cr_assert(n_prompt_events > 0);
    }
}

/* ---- parameters ------------------------------------------------------------------------- */

static void refused(const kvt_policy *p, const kvt_param_def *d, const char *value, const char *must_say)
{
    char text[SPEC];
    kvt_config *c = NULL;
    kvt_err err = {KVT_OK, ""};

    snprintf(text, sizeof text, "%s:%s=%s", p->id, d->name, value);
    cr_assert(kvt_config_parse(&c, text, &err) == KVT_EARG, "%s is taken", text);
    cr_assert(strstr(err.text, d->name) && strstr(err.text, must_say), "%s: '%s' does not say '%s'", text, err.text, must_say);
}

FOR_EVERY_POLICY(contract, a_value_outside_its_range_is_refused_with_the_range)
{
    const kvt_policy *p = kvt_policy_at(*i);
    char value[48], range[64], text[SPEC];
    kvt_config *c = NULL;
    kvt_err err = {KVT_OK, ""};

    for (const kvt_param_def *d = p->params; d && d->name; d++) {
        cr_assert(d->help && *d->help);
        if (d->choices) {
            refused(p, d, "nonsense", d->choices);
            continue;
        }
        cr_assert(d->min <= d->def && d->def <= d->max, "%s: the default of %s", p->id, d->name);
        snprintf(range, sizeof range, "from %.15g to %.15g", d->min, d->max);
        snprintf(value, sizeof value, "%.15g", d->max * 2 + 1);
        refused(p, d, value, range);
        if (d->min > 0) {
            snprintf(value, sizeof value, "%.15f", d->min / 2);
            refused(p, d, d->integer ? "0" : value, range);
        }
        refused(p, d, "-1", range);
        refused(p, d, "nan", range);
        refused(p, d, "1x", range);
        if (d->integer) refused(p, d, "1.5", range);
        if (d->integer == 2) refused(p, d, "2", range);
    }
    snprintf(text, sizeof text, "%s:nonsense=1", p->id);
    cr_assert(kvt_config_parse(&c, text, &err) == KVT_EARG && strstr(err.text, "nonsense"), "%s", err.text);
    for (const kvt_param_def *d = p->params; d && d->name; d++) cr_assert(strstr(err.text, d->name), "%s does not list %s", err.text, d->name);
}
