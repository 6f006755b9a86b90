/* store_hash.c - the content hash of a cell: SHA-256 over its rows in all child tables
 * (RESULTS.md, "Content hash").
 *
 * The child tables come in the order of schema.sql, rows by natural key, surrogate ids left
 * out: the tau value stands for tau_id, and a row of a violation names its violation by
 * layer, head, tau and first step. The run that wrote a check is not content.
 *
 * Violations and their entries are nine tenths of a cell's values, so their text is made from
 * what is being stored instead of from what was stored; a test holds it against the rows. */
#include "store_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_sha256.h"

enum { HASH_BEFORE = 6 };               /* queries of the tables before violation        */

static const char *const hash_query[KVT__N_HASH] = {
    "SELECT 'result_cell', n_head, held_share, held_mean, held_min, held_max, bytes_logical, bytes_physical,"
    " tie_share, row_defect_max, lost_mean, lost_worst, worst_layer, worst_head, worst_step, cvar95_mean,"
    " cvar95_worst_head, lost_ns_worst, ns_cvar95_worst, out_err_basis, out_err_worst, oracle_worst,"
    " regret_mean, n_violation, flags FROM result_cell WHERE cell_id = ?1",

    "SELECT 'result_head', layer, head, n_step, n_trivial, n_held, lost_mean, lost_max, max_step, lost_q50,"
    " lost_q90, lost_q95, lost_q99, lost_cvar95, lost_cvar99, ns_n, lost_ns_mean, lost_ns_max, ns_max_step,"
    " lost_ns_q95, lost_ns_cvar95, lost_prompt_mean, lost_prompt_max, err_n, out_err_mean, out_err_max,"
    " err_max_step, out_err_q95, out_err_cvar95, value_sep_mean, oracle_mean, oracle_max, fixed_mean,"
    " fixed_max, regret_mean, regret_max FROM result_head WHERE cell_id = ?1 ORDER BY layer, head",

    "SELECT 'result_kvhead', layer, kv_head, agg, n_held, lost_mean, lost_max, max_step, lost_q95, lost_cvar95,"
    " lost_ns_mean, lost_ns_max, lost_ns_cvar95, out_err_cvar95 FROM result_kvhead WHERE cell_id = ?1"
    " ORDER BY layer, kv_head, agg",

    "SELECT 'result_layer', layer, held_mean, lost_mean, lost_worst, worst_head, cvar95_worst_head"
    " FROM result_layer WHERE cell_id = ?1 ORDER BY layer",

    "SELECT 'result_head_tau', layer, head, tau, n_exceed, n_infeasible, n_run, longest_run, longest_start,"
    " first_step, excess_area FROM result_head_tau JOIN tau USING(tau_id) WHERE cell_id = ?1"
    " ORDER BY layer, head, tau",

    "SELECT 'result_series', layer, head, metric, step0, n, codec, data FROM result_series WHERE cell_id = ?1"
    " ORDER BY layer, head, metric",

    "SELECT 'ladder_head', layer, head, n_keep, n_step, n_trivial, oracle_mean, oracle_max, oracle_max_step,"
    " fixed_mean, fixed_max, random_mean, minimax_bound, minimax_found, minimax_iters, minimax_stop, stability_gap"
    " FROM ladder_head WHERE cell_id = ?1 ORDER BY layer, head",

    "SELECT 'minimax_cert', layer, head, bound_q31, n_lambda, lambda, best_set FROM minimax_cert WHERE cell_id = ?1"
    " ORDER BY layer, head",

    "SELECT 'validity', check_name, status, value, lim, message FROM validity WHERE cell_id = ?1"
    " ORDER BY check_name, message, status, value",
};

/* ---------------------------------------------------------------- text of a row */

enum { HASH_ROW = 768 };                /* text of a row without blobs: at most 16 values */

typedef struct hash_row {               /* one line that grows                           */
    char   text[HASH_ROW];
    size_t n;
} hash_row;

static void row_int(hash_row *r, int64_t x)
{
    char digit[24];
    size_t n = 0;
    uint64_t rest = x < 0 ? 0 - (uint64_t)x : (uint64_t)x;

    KVT_ASSERT(r->n + sizeof digit < HASH_ROW);
    do digit[n++] = (char)('0' + rest % 10); while (rest /= 10);
    if (x < 0) r->text[r->n++] = '-';
    while (n) r->text[r->n++] = digit[--n];
    r->text[r->n++] = '|';
}

/* What printf writes for %a of the number that SQLite gives back: its 0 has no sign. */
static void row_real(hash_row *r, double x)
{
    uint64_t bits;
    int exponent;

    KVT_ASSERT(r->n + 40 < HASH_ROW);
    if (x == 0) x = 0;
    memcpy(&bits, &x, sizeof bits);
    exponent = (int)(bits >> 52 & 0x7ff);
    bits &= UINT64_MAX >> 12;
    if (exponent == 0 || exponent == 0x7ff) {      /* 0, less than normal, not finite */
        r->n += (size_t)snprintf(r->text + r->n, 40, "%a|", x);
        return;
    }
    if (signbit(x)) r->text[r->n++] = '-';
    memcpy(r->text + r->n, "0x1.", 4);
    r->n += bits ? 4 : 3;
    for (; bits; bits = bits << 4 & UINT64_MAX >> 12) r->text[r->n++] = "0123456789abcdef"[bits >> 48];
    r->text[r->n++] = 'p';
    if (exponent >= 1023) r->text[r->n++] = '+';
    row_int(r, exponent - 1023);
}

static void row_null(hash_row *r)
{
    KVT_ASSERT(r->n + 2 < HASH_ROW);
    r->text[r->n++] = '-';
    r->text[r->n++] = '|';
}

static void row_number(hash_row *r, double x)      /* NaN is stored as NULL */
{
    if (isnan(x)) row_null(r);
    else row_real(r, x);
}

static void row_word(hash_row *r, const char *word)
{
    const size_t n = strlen(word);

    row_int(r, (int64_t)n);
    r->text[r->n - 1] = ':';
    KVT_ASSERT(r->n + n + 1 < HASH_ROW);
    memcpy(r->text + r->n, word, n);
    r->n += n;
    r->text[r->n++] = '|';
}

static void row_end(hash_row *r, kvt_sha256 *h)
{
    r->text[r->n++] = '\n';
    kvt_sha256_update(h, r->text, r->n);
    r->n = 0;
}

/* ---------------------------------------------------------------- stored rows */

/* Adds to the hash what does not fit the line any more. */
static void hash_value(kvt_sha256 *h, hash_row *r, sqlite3_stmt *st, int col)
{
    if (r->n + 64 > HASH_ROW) {
        kvt_sha256_update(h, r->text, r->n);
        r->n = 0;
    }
    switch (sqlite3_column_type(st, col)) {
    case SQLITE_INTEGER:
        row_int(r, sqlite3_column_int64(st, col));
        break;
    case SQLITE_FLOAT:
        row_real(r, sqlite3_column_double(st, col));
        break;
    case SQLITE_TEXT: case SQLITE_BLOB: {
        const void *bytes = sqlite3_column_blob(st, col);
        const size_t n = (size_t)sqlite3_column_bytes(st, col);
        row_int(r, (int64_t)n);
        r->text[r->n - 1] = ':';
        kvt_sha256_update(h, r->text, r->n);
        if (n) kvt_sha256_update(h, bytes, n);
        r->text[0] = '|';
        r->n = 1;
        break;
    }
    default:
        row_null(r);
    }
}

static kvt_status hash_rows(kvt_store *s, kvt_sha256 *h, int query, int64_t cell_id, kvt_err *err)
{
    hash_row row = {.n = 0};
    kvt_status rc = KVT_OK;
    int step = SQLITE_OK;
    sqlite3_stmt *st;

    if (!s->hash[query]) step = sqlite3_prepare_v3(s->db, hash_query[query], -1, SQLITE_PREPARE_PERSISTENT, &s->hash[query], NULL);
    st = s->hash[query];
    if (step == SQLITE_OK) step = sqlite3_bind_int64(st, 1, cell_id);
    if (step == SQLITE_OK)
        while ((step = sqlite3_step(st)) == SQLITE_ROW) {
            const int n_col = sqlite3_column_count(st);
            for (int col = 0; col < n_col; col++) hash_value(h, &row, st, col);
            row_end(&row, h);
        }
    if (step != SQLITE_DONE) rc = kvt__db_fail(s->db, s->shown, "hashing a cell", err);
    if (st) sqlite3_reset(st);
    return rc;
}

/* ---------------------------------------------------------------- violations */

static int violation_compare(const void *pa, const void *pb)
{
    const kvt_violation *a = *(const kvt_violation *const *)pa, *b = *(const kvt_violation *const *)pb;

    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    if (a->head != b->head) return a->head < b->head ? -1 : 1;
    if (a->tau != b->tau) return kvt_tau[a->tau] < kvt_tau[b->tau] ? -1 : 1;
    return (a->start_step > b->start_step) - (a->start_step < b->start_step);
}

static void hash_violation_key(hash_row *r, const char *table, const kvt_violation *x)
{
    row_word(r, table);
    row_int(r, x->layer);
    row_int(r, x->head);
    row_real(r, kvt_tau[x->tau]);
    row_int(r, x->start_step);
}

static void hash_violation(kvt_sha256 *h, const kvt_violation *x)
{
    hash_row r = {.n = 0};

    hash_violation_key(&r, "violation", x);
    row_int(&r, x->n_step);
    row_int(&r, x->peak_step);
    row_real(&r, x->peak_lost);
    row_real(&r, x->peak_oracle_lost);
    row_real(&r, x->excess_area);
    row_word(&r, kvt_cause_name(x->cause));
    x->foreseeable >= 0 ? row_int(&r, x->foreseeable) : row_null(&r);
    x->recurrent >= 0 ? row_int(&r, x->recurrent) : row_null(&r);
    row_number(&r, x->share_top1);
    row_number(&r, x->share_top5);
    row_number(&r, x->share_top20);
    row_end(&r, h);
}

static void hash_responsible(kvt_sha256 *h, const kvt_violation *x, uint32_t i)
{
    const kvt_responsible *e = &x->responsible[i];
    hash_row r = {.n = 0};

    hash_violation_key(&r, "violation_token", x);
    row_int(&r, i + 1);
    row_int(&r, e->pos);
    row_real(&r, e->mass_share);
    row_int(&r, e->evicted_step);
    e->rank > 0 ? row_int(&r, e->rank) : row_null(&r);
    row_number(&r, e->score);
    row_number(&r, e->score_margin);
    e->last_important >= -1 ? row_int(&r, e->last_important) : row_null(&r);
    e->idle_steps >= 0 ? row_int(&r, e->idle_steps) : row_null(&r);
    row_end(&r, h);
}

static kvt_status hash_violations(kvt_store *s, kvt_sha256 *h, const kvt_result *x, kvt_err *err)
{
    const kvt_violation **order = malloc((x->n_violation + 1) * sizeof *order);

    if (!order) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", s->shown);
    for (size_t i = 0; i < x->n_violation; i++) order[i] = &x->violation[i];
    qsort(order, x->n_violation, sizeof *order, violation_compare);
    for (size_t i = 0; i < x->n_violation; i++) hash_violation(h, order[i]);
    for (size_t i = 0; i < x->n_violation; i++)
        for (uint32_t k = 0; k < order[i]->n_responsible; k++) hash_responsible(h, order[i], k);
    free(order);
    return KVT_OK;
}

kvt_status kvt__result_sha256(kvt_store *s, int64_t cell_id, const kvt_result *x, char out[65], kvt_err *err)
{
    kvt_sha256 h;
    uint8_t digest[32];

    kvt_sha256_init(&h);
    for (int i = 0; i < HASH_BEFORE; i++) KVT_TRY(hash_rows(s, &h, i, cell_id, err));
    KVT_TRY(hash_violations(s, &h, x, err));
    for (int i = HASH_BEFORE; i < KVT__N_HASH; i++) KVT_TRY(hash_rows(s, &h, i, cell_id, err));
    kvt_sha256_final(&h, digest);
    kvt_sha256_hex(digest, out);
    return KVT_OK;
}
