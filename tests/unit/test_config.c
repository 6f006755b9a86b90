/* test_config.c - what a policy spec and a budget mean. Goal: the canonical text and the
 * counts are exact, and every wrong word is refused with what would have been right. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "kvt_sha256.h"
#include "kvt_sim.h"

static kvt_config *parse(const char *spec)
{
    kvt_config *c = NULL;
    kvt_err err = {KVT_OK, ""};

    cr_assert(kvt_config_parse(&c, spec, &err) == KVT_OK, "%s: %s", spec, err.text);
    return c;
}

static void check_names(const char *spec, const char *label, const char *json)
{
    kvt_config *c = parse(spec);
    uint8_t digest[32];
    char hex[65];

    cr_assert(!strcmp(c->info.label, label), "label %s, expected %s", c->info.label, label);
    cr_assert(!strcmp(c->info.canonical_json, json), "%s\nexpected %s", c->info.canonical_json, json);
    kvt_sha256_of(json, strlen(json), digest);
    kvt_sha256_hex(digest, hex);
    cr_assert(!strcmp(c->info.sha256, hex));
    for (uint32_t i = 1; i < c->info.n_param; i++)
        cr_assert(strcmp(c->info.param[i - 1].name, c->info.param[i].name) < 0, "parameters are sorted by name");
    kvt_config_free(c);
}

Test(config, canonical_json_holds_every_parameter_in_order)
{
    check_names("full", "full", "{\"caches\":\"kv\",\"id\":\"full\",\"params\":{\"semantics\":\"code\"},\"rows\":\"exact\",\"ties\":\"low\",\"version\":1}");
    check_names("snapkv:pooling=max,window=8.0,caches=query", "snapkv:window=8,pooling=max,caches=query",
                "{\"caches\":\"query\",\"id\":\"snapkv\",\"params\":{\"gqa\":\"mean\",\"impl\":\"dkv\",\"kernel\":5,\"pooling\":\"max\","
                "\"semantics\":\"code\",\"window\":8},\"rows\":\"exact\",\"ties\":\"low\",\"version\":1}");
    check_names("defensivekv:semantics=paper", "defensivekv:semantics=paper",
                "{\"caches\":\"kv\",\"id\":\"defensivekv\",\"params\":{\"kernel\":5,\"rho\":\"prefix\",\"semantics\":\"paper\","
                "\"window\":32},\"rows\":\"exact\",\"ties\":\"low\",\"version\":1}");
    check_names("observed", "observed",
                "{\"caches\":\"kv\",\"id\":\"observed\",\"params\":{\"semantics\":\"code\"},\"rows\":\"exact\",\"ties\":\"low\",\"version\":1}");
    check_names("knorm:ties=seeded,keep_last=32,keep_first=4", "knorm:ties=seeded,keep_first=4,keep_last=32",
                "{\"caches\":\"kv\",\"id\":\"knorm\",\"keep_first\":4,\"keep_last\":32,\"params\":{\"semantics\":\"code\"},"
                "\"rows\":\"exact\",\"ties\":\"seeded\",\"version\":1}");
}

Test(config, defaults_written_out_are_the_same_configuration)
{
    kvt_config *a = parse("snapkv"), *b = parse("snapkv:gqa=mean,caches=kv,semantics=code,kernel=5,window=32,impl=dkv,pooling=avg");

    cr_assert(!strcmp(a->info.sha256, b->info.sha256) && !strcmp(b->info.label, "snapkv"));
    kvt_config_free(a);
    kvt_config_free(b);
}

typedef struct info_row {
    const char *spec, *role, *timing, *budgeted, *semantics;
    int fixed_set, nested, head_adaptive, query_aware;
} info_row;

Test(config, describes_the_policy)
{
    static const info_row rows[] = {
        {"full", "baseline", "none", "prompt", "same", 1, 1, 0, 0},
        {"random", "baseline", "prefill", "prompt", "same", 1, 1, 0, 0},
        {"random_protect", "baseline", "prefill", "prompt", "same", 1, 1, 0, 0},
        {"streaming", "baseline", "prefill", "prompt", "same", 1, 1, 0, 0},
        {"snapkv", "policy", "prefill", "prompt", "same", 1, 1, 0, 1},
        {"defensivekv", "policy", "prefill", "prompt", "code", 1, 0, 1, 1},
        {"defensivekv:semantics=paper", "policy", "prefill", "prompt", "paper", 1, 1, 1, 1},
        {"tova", "policy", "decode", "all", "same", 0, 0, 0, 1},
        {"h2o", "policy", "decode", "all", "code", 0, 0, 0, 1},
        {"h2o:impl=one_shot,caches=kv", "policy", "prefill", "prompt", "code", 1, 1, 0, 1},
        {"snapkv:impl=original,caches=kv", "policy", "prefill", "prompt", "same", 1, 1, 0, 1},
        {"cake:impl=dkv", "policy", "prefill", "prompt", "code", 1, 0, 1, 1},
        {"layer_defensivekv", "policy", "prefill", "prompt", "code", 1, 0, 1, 1},
        {"knorm", "policy", "prefill", "prompt", "same", 1, 1, 0, 0},
        {"oracle_fixed", "oracle", "hindsight", "prompt", "same", 1, 1, 0, 1},
        {"oracle_step", "oracle", "hindsight", "prompt", "same", 0, 1, 0, 1},
        {"oracle_minimax", "oracle", "hindsight", "prompt", "same", 1, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const info_row *r = &rows[i];
        kvt_config *c = parse(r->spec);
        const kvt_config_info *x = &c->info;
        cr_assert(!strcmp(x->role, r->role) && !strcmp(x->timing, r->timing) && !strcmp(x->budgeted, r->budgeted)
                      && !strcmp(x->semantics, r->semantics) && x->may_overshoot == (c->caches == KVT_CACHES_QUERY),
                  "%s: %s %s %s %s", r->spec, x->role, x->timing, x->budgeted, x->semantics);
        cr_assert(x->fixed_set == r->fixed_set && x->nested == r->nested && x->head_adaptive == r->head_adaptive
                      && x->query_aware == r->query_aware,
                  "%s: %d %d %d %d", r->spec, x->fixed_set, x->nested, x->head_adaptive, x->query_aware);
        cr_assert(c->paper == !strcmp(r->semantics, "paper"));
        kvt_config_free(c);
    }
}

Test(config, steps_is_for_online_policies_and_for_kept_sets_only)
{
    kvt_config *c = parse("tova:impl=original,steps=30");

    cr_assert(c->steps == 30);
    kvt_config_free(c);
}

typedef struct refusal {
    const char *spec;
    kvt_status  st;
    const char *says;                               /* must be in the message */
} refusal;

Test(config, refuses_what_it_does_not_know_and_says_what_exists)
{
    static const refusal rows[] = {
        {"", KVT_EARG, "id:param=value"},
        {"snapkw", KVT_EARG, "snapkv"},
        {"snapkv:", KVT_EARG, "param=value"},
        {"snapkv:window", KVT_EARG, "param=value"},
        {"snapkv:window=", KVT_EARG, "param=value"},
        {"snapkv:=8", KVT_EARG, "param=value"},
        {"snapkv:window=8,", KVT_EARG, "param=value"},
        {"snapkv:widow=8", KVT_EARG, "impl, window, kernel, pooling, gqa, semantics, caches"},
        {"snapkv:window=8,window=9", KVT_EARG, "twice"},
        {"snapkv:window=0", KVT_EARG, "from 1 to"},
        {"snapkv:window=-1", KVT_EARG, "whole number"},
        {"snapkv:window=1e1", KVT_EARG, "whole number"},
        {"snapkv:window= 8", KVT_EARG, "whole number"},
        {"snapkv:window=8.5", KVT_EARG, "whole number"},
        {"snapkv:window=.", KVT_EARG, "whole number"},
        {"snapkv:window=1.2.3", KVT_EARG, "whole number"},
        {"snapkv:window=nan", KVT_EARG, "whole number"},
        {"snapkv:kernel=4", KVT_EARG, "odd"},
        {"snapkv:kernel=1025", KVT_EARG, "1023"},
        {"snapkv:pooling=sum", KVT_EARG, "avg|max"},
        {"snapkv:pooling=av", KVT_EARG, "avg|max"},
        {"snapkv:pooling=avg|max", KVT_EARG, "avg|max"},
        {"snapkv:caches=both", KVT_EARG, "kv|query"},
        {"snapkv:steps=3", KVT_EARG, "no parameter 'steps'"},
        {"snapkv:semantics=paper", KVT_EARG, "only form"},
        {"defensivekv:semantics=draft", KVT_EARG, "code|paper"},
        {"defensivekv:caches=query", KVT_EARG, "caches=kv"},
        {"tova:caches=query", KVT_EARG, "caches=kv"},
        {"h2o:recent=1.01", KVT_EARG, "from 0 to 1"},
        {"h2o:steps=1.5", KVT_EARG, "whole number"},
        {"streaming:sinks=4,recent=3", KVT_EARG, "sinks"},
        {"snapkv:impl=nonsense", KVT_EARG, "dkv"},
        {"streaming:pos=compacted", KVT_ENOTSUP, "not built into this version"},
        {"pyramidkv:frozen_budget=on", KVT_ENOTSUP, "not built into this version"},
        {"quest", KVT_ENOTSUP, "not built into this version"},
        {"snapkv:ties=random", KVT_EARG, "low|flat|high|seeded"},
        {"snapkv:keep_first=1.5", KVT_EARG, "whole number"},
        {"full:keep_first=4", KVT_EARG, "no parameter 'keep_first'"},
        {"oracle_step:keep_last=4", KVT_EARG, "no parameter 'keep_last'"},
        {"rkv", KVT_ENOTSUP, "not built into this version"},
        {"\x1b[31mred\n", KVT_EARG, "\\u{1B}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static char nothing;
        kvt_config *const untouched = (kvt_config *)(void *)&nothing;
        kvt_config *c = untouched;
        kvt_err err = {KVT_OK, ""};
        const kvt_status st = kvt_config_parse(&c, rows[i].spec, &err);
        cr_assert(st == rows[i].st && err.status == st, "'%s' gave %s: %s", rows[i].spec, kvt_status_name(st), err.text);
        cr_assert(strstr(err.text, rows[i].says) != NULL, "'%s': the message '%s' does not say '%s'", rows[i].spec, err.text, rows[i].says);
        cr_assert(!strchr(err.text, '\n') && !strchr(err.text, '\x1b'));
        cr_assert(c == untouched, "an output changed on failure");
    }
}

Test(config, a_spec_of_any_length_is_refused_or_read)
{
    char spec[2000];
    kvt_config *c = NULL;

    memset(spec, 'a', sizeof spec - 1);
    spec[sizeof spec - 1] = 0;
    cr_assert(kvt_config_parse(&c, spec, NULL) == KVT_EARG);
    memcpy(spec, "snapkv:window=", 14);
    cr_assert(kvt_config_parse(&c, spec, NULL) == KVT_EARG);
    memset(spec + 14, '0', 400);
    spec[414] = 0;
    cr_assert(kvt_config_parse(&c, spec, NULL) == KVT_EARG);
}

/* ---------------------------------------------------------------- budgets */

static kvt_job counts(const char *spec, kvt_rule rule, uint32_t n, uint32_t n_q, uint32_t n_kv, uint32_t n_caches)
{
    kvt_job job = {.n_q_heads = n_q, .n_kv_heads = n_kv, .n_caches = n_caches, .n = n};
    kvt_budget b;
    kvt_err err = {KVT_OK, ""};

    cr_assert(kvt_budget_parse(&b, spec, rule, &err) == KVT_OK, "%s: %s", spec, err.text);
    kvt_budget_counts(&b, job.n_kv_heads, 1, &job);
    return job;
}

Test(budget, the_reference_rule_truncates_in_double)
{
    /* 1 - 0.8 is 0.19999999999999996 in double */
    cr_assert(counts("0.2", KVT_RULE_REFERENCE, 1000, 8, 8, 8).keep_cache == 199);
    cr_assert(counts("0.2", KVT_RULE_REFERENCE, 300, 8, 8, 8).keep_cache == 59);
    cr_assert(counts("0.2", KVT_RULE_REFERENCE, 1000, 8, 8, 8).keep_layer == 1599);
    cr_assert(counts("0.4", KVT_RULE_REFERENCE, 72, 4, 2, 2).keep_cache == 28);
    cr_assert(counts("0.4", KVT_RULE_REFERENCE, 72, 4, 2, 2).keep_layer == 57);
    cr_assert(counts("0.4", KVT_RULE_REFERENCE, 72, 4, 2, 4).keep_cache == 14);
    cr_assert(counts("1", KVT_RULE_REFERENCE, 72, 4, 2, 2).keep_cache == 72);
}

Test(budget, the_share_rule_rounds_the_exact_product_halves_to_even)
{
    cr_assert(counts("0.2", KVT_RULE_SHARE, 1000, 8, 8, 8).keep_cache == 200);
    cr_assert(counts("0.35", KVT_RULE_SHARE, 10, 1, 1, 1).keep_cache == 4);       /* 3.5 */
    cr_assert(counts("0.45", KVT_RULE_SHARE, 10, 1, 1, 1).keep_cache == 4);       /* 4.5 */
    cr_assert(counts("0.5", KVT_RULE_SHARE, 5, 1, 1, 1).keep_cache == 2);         /* 2.5 */
    cr_assert(counts("0.500000000000001", KVT_RULE_SHARE, 5, 1, 1, 1).keep_cache == 3);
    cr_assert(counts("0.499999999999999", KVT_RULE_SHARE, 5, 1, 1, 1).keep_cache == 2);
    cr_assert(counts("0.5", KVT_RULE_SHARE, 3, 4, 2, 2).keep_layer == 3);         /* not 2 x rne(1.5) */
    cr_assert(counts("0.2", KVT_RULE_SHARE, 50, 4, 1, 4).keep_cache == 2);        /* 10 / 4 = 2.5 */
    cr_assert(counts("0.2", KVT_RULE_SHARE, 70, 4, 1, 4).keep_cache == 4);        /* 14 / 4 = 3.5 */
    cr_assert(counts("0.2", KVT_RULE_SHARE, 70, 4, 1, 4).keep_layer == 14);
    cr_assert(counts("0.21", KVT_RULE_SHARE, 50, 4, 1, 4).keep_cache == 3);       /* 2.625 */
    cr_assert(counts("1", KVT_RULE_SHARE, KVT_MAX_TOKENS, 1024, 1024, 1024).keep_layer == (uint64_t)KVT_MAX_TOKENS * 1024);
}

Test(budget, the_share_rule_is_exact_for_every_thousandth)
{
    for (uint32_t k = 1; k <= 1000; k++)
        for (uint32_t n = 1; n <= 4096; n = n * 2 + (k % 3)) {
            char spec[16];
            const uint64_t product = (uint64_t)k * n;                             /* thousandths */
            uint64_t want = product / 1000;
            if (product % 1000 > 500 || (product % 1000 == 500 && want % 2)) want++;
            snprintf(spec, sizeof spec, k == 1000 ? "1.000" : "0.%03u", k);
            cr_assert(counts(spec, KVT_RULE_SHARE, n, 1, 1, 1).keep_cache == want, "%s of %u", spec, n);
        }
}

Test(budget, tokens_are_counts_per_cache)
{
    kvt_budget b;
    const kvt_job kv = counts("28t", KVT_RULE_SHARE, 72, 4, 2, 2), query = counts("28t", KVT_RULE_REFERENCE, 72, 4, 2, 4);

    cr_assert(kv.keep_cache == 28 && kv.keep_layer == 56 && fabs(kv.share - 28.0 / 72) < 1e-15);
    cr_assert(query.keep_cache == 28 && query.keep_layer == 112 && fabs(query.share - 56.0 / 72) < 1e-15);
    cr_assert(counts("100t", KVT_RULE_SHARE, 72, 4, 2, 2).keep_cache == 100, "an online cache may hold more than the prompt");
    cr_assert(kvt_budget_parse(&b, "28t", KVT_RULE_SHARE, NULL) == KVT_OK && kvt_budget_uniform(&b, 72) == 28);
    cr_assert(kvt_budget_parse(&b, "0.35", KVT_RULE_REFERENCE, NULL) == KVT_OK && kvt_budget_uniform(&b, 10) == 4,
              "trivial steps follow from the request, not from the rule");
}

Test(budget, labels_are_the_shortest_decimal)
{
    static const struct { const char *spec; kvt_rule rule; const char *label; } rows[] = {
        {"0.2", KVT_RULE_SHARE, "0.2"}, {"0.200", KVT_RULE_SHARE, "0.2"}, {".2", KVT_RULE_REFERENCE, "0.2 reference"},
        {"1", KVT_RULE_SHARE, "1"}, {"1.", KVT_RULE_SHARE, "1"}, {"28t", KVT_RULE_SHARE, "28t"},
        {"028t", KVT_RULE_REFERENCE, "28t reference"}, {"0.00001", KVT_RULE_SHARE, "0.00001"},
        {"0.10000000000000000001", KVT_RULE_SHARE, "0.1"},
        {".000000000000000000000000000001", KVT_RULE_REFERENCE, "0.000000000000000000000000000001 reference"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kvt_budget b;
        cr_assert(kvt_budget_parse(&b, rows[i].spec, rows[i].rule, NULL) == KVT_OK, "%s", rows[i].spec);
        cr_assert(!strcmp(b.info.label, rows[i].label), "%s: %s", rows[i].spec, b.info.label);
        cr_assert(!strcmp(b.info.kind, b.in_tokens ? "tokens" : "share") && b.info.value == b.value && b.rule == rows[i].rule);
    }
}

Test(budget, refuses_what_is_no_share_and_no_count)
{
    static const char *const rows[] = {"", "0", "0.0", "-0.1", "1.1", "2", "0t", "1.5t", "t", "28tt", "28 t", " 0.2", "0.2 ", "1e-1",
                                       "nan", "inf", "0x1p-1", "20%", ".", "0..2", "4194305t", "99999999999999999999999999t",
                                       "0.1111111111111111111111111111111111111111"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kvt_budget b = {.value = 7};
        kvt_err err = {KVT_OK, ""};
        cr_assert(kvt_budget_parse(&b, rows[i], KVT_RULE_SHARE, &err) == KVT_EARG, "'%s' was taken", rows[i]);
        cr_assert(strlen(err.text) > 0 && b.value == 7.0);
    }
}

Test(budget, the_random_key_is_the_first_64_bits_of_the_digest)
{
    /* printf '%s' '7|abc' | sha256sum */
    cr_assert(kvt_random_key(7, "abc") == 0x07ff858eb3ee7908u, "got %016llx", (unsigned long long)kvt_random_key(7, "abc"));
    cr_assert(kvt_random_key(7, "abc") != kvt_random_key(8, "abc"));
}
