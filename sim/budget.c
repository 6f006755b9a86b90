/* budget.c - "0.2" or "28t" as exact counts.
 *
 * A share is a decimal, not a double: 0.35 of 10 tokens is 3.5 and goes to 4 (halves to
 * even), whatever 0.35 * 10 is in binary. The product is therefore formed digit by digit
 * from the label, which is the shortest decimal of the value. The reference rule repeats
 * the double arithmetic of the reference codes instead, truncation included. */
#include "kvt_sim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_sha256.h"
#include "kvt_text.h"

#define BUDGET_DIGITS 30            /* decimals of a share, at most                   */
#define BUDGET_SPEC   31            /* characters of a spec, at most                  */
#define BUDGET_NUMBER 36            /* "0." and BUDGET_DIGITS decimals                */

/* floor and remainder of an exact product: the fraction is tenth / 10 and, when sticky,
 * a little more. */
typedef struct budget_product {
    uint64_t whole;
    uint32_t tenth;
    int      sticky;
} budget_product;

static int budget_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* digits [ '.' digits ] with at least one digit: its length, or 0. */
static size_t budget_decimal_length(const char *s)
{
    size_t n = 0, n_digits = 0;

    while (budget_is_digit(s[n]))
        n++, n_digits++;
    if (s[n] == '.') {
        n++;
        while (budget_is_digit(s[n]))
            n++, n_digits++;
    }
    return n_digits ? n : 0;
}

/* Shortest decimal without an exponent that reads back to x, 0 < x <= 1. One exists: a
 * spec has at most BUDGET_DIGITS decimals, and x came from a spec. */
static void budget_shortest(char out[BUDGET_NUMBER], double x)
{
    for (int decimals = 0; decimals <= BUDGET_DIGITS; decimals++) {
        snprintf(out, BUDGET_NUMBER, "%.*f", decimals, x);
        if (strtod(out, NULL) == x)
            return;
    }
}

kvt_status kvt_budget_parse(kvt_budget *out, const char *spec, kvt_rule rule, kvt_err *err)
{
    const size_t len = budget_decimal_length(spec);
    const int in_tokens = len > 0 && spec[len] == 't' && spec[len + 1] == 0;
    char shown[64], number[BUDGET_NUMBER];
    double value;

    kvt_printable_str(shown, sizeof shown, spec);
    if (!len || len > BUDGET_SPEC || (spec[len] && !in_tokens))
        return kvt_fail(err, KVT_EARG, "budget '%s': expected a share such as 0.2, or tokens per cache such as 28t", shown);
    value = strtod(spec, NULL);
    if (in_tokens) {
        if (memchr(spec, '.', len) || value < 1 || value > KVT_MAX_TOKENS)
            return kvt_fail(err, KVT_EARG, "budget '%s': tokens per cache must be a whole number from 1 to %u", shown, KVT_MAX_TOKENS);
        snprintf(number, sizeof number, "%.0ft", value);
    } else {
        if (!(value > 0) || value > 1)
            return kvt_fail(err, KVT_EARG, "budget '%s': a share must be above 0 and at most 1; tokens per cache end in t, as in 28t", shown);
        budget_shortest(number, value);
    }
    memset(out, 0, sizeof *out);
    snprintf(out->text, sizeof out->text, "%s%s", number, rule == KVT_RULE_REFERENCE ? " reference" : "");
    out->in_tokens = in_tokens;
    out->value = value;
    out->rule = rule;
    out->info.kind = in_tokens ? "tokens" : "share";
    out->info.value = value;
    out->info.rule = rule == KVT_RULE_REFERENCE ? "reference" : "share";
    out->info.label = out->text;
    return KVT_OK;
}

/* The decimal at the start of `label` times x. From the last decimal to the first:
 * v = (digit * x + v) / 10; the remainders are the digits of the fraction. */
static budget_product budget_multiply(const char *label, uint64_t x)
{
    const size_t len = budget_decimal_length(label);
    const char *point = memchr(label, '.', len);
    const size_t n_whole = point ? (size_t)(point - label) : len;
    budget_product v = { 0, 0, 0 };
    uint64_t whole = 0;

    for (size_t i = len; i > n_whole + 1; i--) {
        const uint64_t sum = (uint64_t)(label[i - 1] - '0') * x + v.whole;
        v.sticky |= v.tenth != 0;
        v.whole = sum / 10;
        v.tenth = (uint32_t)(sum % 10);
    }
    for (size_t i = 0; i < n_whole; i++)        /* 0 or 1 */
        whole = whole * 10 + (uint64_t)(label[i] - '0');
    v.whole += whole * x;
    return v;
}

/* v / divisor to the nearest whole number, halves to even. */
static uint64_t budget_nearest(budget_product v, uint64_t divisor)
{
    const uint64_t floor_value = v.whole / divisor, rest = v.whole % divisor;
    /* Compare (rest + f) / divisor with 1/2 in units of 1/20: sticky adds less than one. */
    const uint64_t have = 20 * rest + 2 * v.tenth, half = 10 * divisor;
    const int above = have > half || (have == half && v.sticky);
    const int equal = have == half && !v.sticky;

    return floor_value + (above || (equal && (floor_value & 1u)));
}

void kvt_budget_counts(const kvt_budget *b, uint32_t n_kv_heads_model, int uniform, kvt_job *job)
{
    const uint32_t copies = job->n_caches / job->n_kv_heads;    /* physical copies per KV entry */
    const double n = job->n;

    job->in_tokens = b->in_tokens;
    job->share = b->value;
    if (b->in_tokens) {
        job->keep_cache = (uint32_t)b->value;
        job->keep_layer = (uint64_t)job->keep_cache * job->n_caches;
        job->keep_model = (uint64_t)job->keep_cache * n_kv_heads_model * copies;
        job->tokens = b->value;
        job->share = b->value * copies / n;
    } else if (b->rule == KVT_RULE_REFERENCE) {
        const double cr = 1 - b->value, all = n * (1 - cr) * job->n_kv_heads;

        job->tokens = n * (1 - cr) / copies;
        job->keep_cache = (uint32_t)job->tokens;
        job->keep_layer = (uint64_t)all;
        /* in the order of the reference: n * (1 - cr) * heads * layers */
        job->keep_model = (uint64_t)(uniform ? all * (n_kv_heads_model / job->n_kv_heads) : n * (1 - cr) * n_kv_heads_model);
    } else {
        job->tokens = n * b->value / copies;
        job->keep_cache = (uint32_t)budget_nearest(budget_multiply(b->text, job->n), copies);
        job->keep_layer = budget_nearest(budget_multiply(b->text, (uint64_t)job->n * job->n_kv_heads), 1);
        job->keep_model = budget_nearest(budget_multiply(b->text, (uint64_t)job->n * n_kv_heads_model), 1);
    }
}

uint32_t kvt_budget_uniform(const kvt_budget *b, uint32_t n_prompt)
{
    return b->in_tokens ? (uint32_t)b->value : (uint32_t)budget_nearest(budget_multiply(b->text, n_prompt), 1);
}

uint64_t kvt_random_key(uint64_t seed, const char *content_id)
{
    char text[24];
    uint8_t digest[32];
    kvt_sha256 s;
    uint64_t key = 0;

    snprintf(text, sizeof text, "%llu|", (unsigned long long)seed);
    kvt_sha256_init(&s);
    kvt_sha256_update(&s, text, strlen(text));
    kvt_sha256_update(&s, content_id, strlen(content_id));
    kvt_sha256_final(&s, digest);
    for (int i = 0; i < 8; i++)
        key = key << 8 | digest[i];
    return key;
}

uint32_t kvt_curve_grid(uint32_t n_prompt, uint32_t n_point, uint32_t *out)
{
    const int every = n_point >= n_prompt;
    uint32_t m = 0;

    for (uint32_t i = 0; i < (every ? n_prompt : n_point); i++) {
        const double at = n_point > 1 ? (double)i / (n_point - 1) : 1;
        const double x = every ? i + 1.0 : floor(0.01 * pow(99.0, at) * n_prompt + 0.5);
        const uint32_t count = x < 1 ? 1 : (uint32_t)x;
        if (count < n_prompt && (m == 0 || out[m - 1] < count))
            out[m++] = count;
    }
    return m;
}

void kvt_curve_share(char *text, uint32_t kept, uint32_t n_prompt)
{
    const uint64_t scale = 1000000000000u;

    snprintf(text, 32, "0.%012llu", (unsigned long long)((uint64_t)kept * scale / n_prompt + 1));
}
