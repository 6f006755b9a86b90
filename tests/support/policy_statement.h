/* policy_statement.h - say something about every registered policy: a statement is checked
 * for each of its specs, on small traces, at several budgets, both rules by turns. */
#ifndef POLICY_STATEMENT_H
#define POLICY_STATEMENT_H

#include <criterion/parameterized.h>
#include "policy_specs.h"
#include "replay_impl.h"

/* Traces of several lengths and head counts, all with the queries of the whole prompt. */
static const shape shapes[] = {
    {3, 4, 2, 8, 46, 14, 46, 0}, {2, 6, 3, 4, 33, 9, 33, 1}, {3, 3, 1, 4, 61, 20, 61, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };
static const char *const budgets[] = {"0.1", "0.35", "0.6", "0.9", "19t", "52t"};
enum { N_BUDGETS = sizeof budgets / sizeof *budgets };

static specs list;                                  /* of the policy of this process */
static uint32_t n_run, n_refused;                   /* configuration x budget */

static inline struct criterion_test_params each_policy(void)
{
    static size_t index[64];
    for (size_t i = 0; i < kvt_policy_count() && i < 64; i++) index[i] = i;
    return cr_make_param_array(size_t, index, kvt_policy_count());
}
#define FOR_EVERY_POLICY(suite, name)                                  \
    ParameterizedTestParameters(suite, name) { return each_policy(); } \
    ParameterizedTest(size_t *i, suite, name, .timeout = 280)

typedef void statement(const world *w, const char *spec, kvt_config *c, const batch *b);

/* The statement for the specs from..to-1 on one trace, both rules by turns. */
static inline void say(const kvt_policy *p, statement *check, uint32_t shape_index, uint32_t from, uint32_t to)
{
    world *w = world_make(&shapes[shape_index], 11 * shape_index + 3);

    for (uint32_t k = from; k < to; k++) {
        kvt_config *c = config_if(p, list.s[k]);
        batch b;
        if (!c) {
            n_refused += N_BUDGETS;
            continue;
        }
        batch_make(&b, w, c, (k + shape_index) % 2 ? KVT_RULE_REFERENCE : KVT_RULE_SHARE, budgets, N_BUDGETS, &n_refused);
        n_run += b.n_budget;
        if (b.n_budget) check(w, list.s[k], c, &b);
        kvt_config_free(c);
    }
    world_free(w);
}

static inline kvt_setup setup_of(const world *w, const batch *b, uint32_t budget, uint32_t layer, kvt_job *job)
{
    kvt_setup s;
    kvt__job(b->config[0], &b->budget[budget], &w->info, layer, 1, job);
    kvt__setup(b->config[0]->policy, job, &s);
    return s;
}

static inline int32_t step_of(const uint32_t *set) { return (int32_t)set[SET_STEP]; }
static inline int at_prompt_end(const uint32_t *set) { return step_of(set) <= 0; }

#endif
