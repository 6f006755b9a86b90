/* The order of policies at one budget, and which of them are apart. */
#include "ranking.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report_impl.h"

enum { COL_CONFIG, COL_LABEL, COL_POLICY, COL_ROLE, COL_AWARE, COL_BUDGET, COL_HELD, COL_MEAN, COL_CVAR, COL_WORST,
       COL_WORST_NS };

double kvt__entry_value(const kvt__ranking *r, const kvt__entry *e) { return r->by_mean ? e->mean : e->cvar95; }
const char *kvt__ranking_key(const kvt__ranking *r) { return r->by_mean ? "mean" : "CVaR95"; }

const kvt__entry *kvt__ranking_find(const kvt__ranking *r, int64_t config_id)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->e[i].config_id == config_id) return &r->e[i];
    return NULL;
}

/* ---- reading ---------------------------------------------------------------------- */

static kvt_status ranking_budgets(kvt__ranking *r, sqlite3 *db, int64_t model_id, const char *split, kvt_err *err)
{
    kvt__rows b;
    kvt_status st = KVT_OK;
    KVT_TRY(kvt__rows_read(&b, NULL, db, err,
        "SELECT v.budget_id, v.budget, avg(v.requested_tokens / t.n_prompt) AS share\n"
        "  FROM v_cell v JOIN trace t USING(trace_id) JOIN budget b USING(budget_id)\n"
        " WHERE v.status = 'done' AND v.model_id = %lld AND v.split = %Q GROUP BY v.budget_id\n"
        " ORDER BY round(share, 9), b.rule DESC, v.budget, v.budget_id", (long long)model_id, split));
    r->budget = calloc(b.n_row ? b.n_row : 1, sizeof *r->budget);
    for (size_t i = 0; r->budget && i < b.n_row; i++) {
        r->budget[i] = (kvt__budget){kvt__int(&b, i, 0), strdup(kvt__str(&b, i, 1)), kvt__num(&b, i, 2)};
        r->n_budget = i + 1;
        if (!r->budget[i].label) st = KVT_ENOMEM;
    }
    if (!r->budget || st < 0) st = kvt_fail(err, KVT_ENOMEM, "out of memory for %zu budgets", b.n_row);
    kvt__rows_free(&b);
    return st;
}

static int entry_new(kvt__entry *e, const kvt__rows *rows, size_t i, size_t n_budget)
{
    const char *role = kvt__str(rows, i, COL_ROLE);
    *e = (kvt__entry){.config_id = kvt__int(rows, i, COL_CONFIG),
                      .label = strdup(kvt__str(rows, i, COL_LABEL)),
                      .policy = strdup(kvt__str(rows, i, COL_POLICY)),
                      .role = !strcmp(role, "policy") ? KVT__POLICY : !strcmp(role, "oracle") ? KVT__ORACLE : KVT__BASELINE,
                      .aware = kvt__int(rows, i, COL_AWARE) != 0,
                      .held = NAN, .mean = NAN, .cvar95 = NAN, .worst = NAN, .worst_ns = NAN,
                      .at = calloc(2 * n_budget + 1, sizeof *e->at)};
    if (!e->label || !e->policy || !e->at) return 0;
    for (size_t b = 0; b < 2 * n_budget; b++) e->at[b] = NAN;
    return 1;
}

/* All budgets of all configurations; until the key is known, e->at holds both keys. */
static kvt_status ranking_entries(kvt__ranking *r, sqlite3 *db, int64_t model_id, const char *split, int64_t budget_id,
                                  kvt_err *err)
{
    kvt__rows rows;
    kvt_status st = KVT_OK;
    KVT_TRY(kvt__rows_read(&rows, NULL, db, err,
        "SELECT config_id, policy_label, policy, role, query_aware, budget_id, held_share, mean_lost, cvar95_worst_head,\n"
        "       worst_lost, worst_lost_ns FROM v_policy_summary WHERE model_id = %lld AND split = %Q\n"
        " ORDER BY config_id, budget_id", (long long)model_id, split));
    r->e = calloc(rows.n_row ? rows.n_row : 1, sizeof *r->e);
    if (!r->e) st = KVT_ENOMEM;
    for (size_t i = 0; st == KVT_OK && i < rows.n_row; i++) {
        size_t b = 0;
        kvt__entry *e;
        if (!i || kvt__int(&rows, i, COL_CONFIG) != kvt__int(&rows, i - 1, COL_CONFIG))
            st = entry_new(&r->e[r->n++], &rows, i, r->n_budget) ? KVT_OK : KVT_ENOMEM;
        e = &r->e[r->n - 1];
        while (b < r->n_budget && r->budget[b].budget_id != kvt__int(&rows, i, COL_BUDGET)) b++;
        if (st < 0 || b == r->n_budget) continue;
        e->at[b] = kvt__num(&rows, i, COL_CVAR);
        e->at[r->n_budget + b] = kvt__num(&rows, i, COL_MEAN);
        if (r->budget[b].budget_id != budget_id) continue;
        e->here = 1;
        e->held = kvt__num(&rows, i, COL_HELD);
        e->mean = kvt__num(&rows, i, COL_MEAN);
        e->cvar95 = kvt__num(&rows, i, COL_CVAR);
        e->worst = kvt__num(&rows, i, COL_WORST);
        e->worst_ns = kvt__num(&rows, i, COL_WORST_NS);
    }
    if (st < 0) st = kvt_fail(err, st, "out of memory for %zu results", rows.n_row);
    kvt__rows_free(&rows);
    return st;
}

/* ---- who is ranked ---------------------------------------------------------------- */

static int entry_same_traces(const kvt__rows *t, const kvt__entry *a, const kvt__entry *b)
{
    if (a->n_trace != b->n_trace) return 0;
    for (size_t i = 0; i < a->n_trace; i++)
        if (kvt__int(t, a->first_trace + i, 1) != kvt__int(t, b->first_trace + i, 1)) return 0;
    return 1;
}

/* The largest set of traces that policies have; of equally large ones the set that most
 * have. Its policies get place 1, to be numbered later. */
static void ranking_admit(kvt__ranking *r, const kvt__rows *traces)
{
    const kvt__entry *best = NULL;
    size_t n_best = 0;
    for (size_t i = 0; i < r->n; i++) {
        const kvt__entry *e = &r->e[i];
        size_t n = 0;
        if (e->role != KVT__POLICY || !e->here) continue;
        for (size_t k = 0; k < r->n; k++)
            n += r->e[k].role == KVT__POLICY && r->e[k].here && entry_same_traces(traces, e, &r->e[k]);
        if (best && (e->n_trace < best->n_trace || (e->n_trace == best->n_trace && n <= n_best))) continue;
        best = e;
        n_best = n;
    }
    if (!best) return;
    r->n_trace = best->n_trace;
    for (size_t i = 0; i < r->n; i++)
        if (r->e[i].role == KVT__POLICY && r->e[i].here && entry_same_traces(traces, best, &r->e[i])) {
            r->e[i].place = 1;
            r->n_ranked++;
        }
}

static kvt_status ranking_traces(kvt__ranking *r, sqlite3 *db, int64_t model_id, const char *split, int64_t budget_id,
                                 kvt_err *err)
{
    kvt__rows t;
    KVT_TRY(kvt__rows_read(&t, NULL, db, err,
        "SELECT DISTINCT config_id, trace_id FROM v_cell WHERE status = 'done' AND model_id = %lld AND split = %Q\n"
        "   AND budget_id = %lld ORDER BY config_id, trace_id", (long long)model_id, split, (long long)budget_id));
    for (size_t i = 0, k = 0; i < r->n; i++) {          /* both in the order of config_id */
        while (k < t.n_row && kvt__int(&t, k, 0) < r->e[i].config_id) k++;
        r->e[i].first_trace = k;
        while (k < t.n_row && kvt__int(&t, k, 0) == r->e[i].config_id) k++;
        r->e[i].n_trace = (uint32_t)(k - r->e[i].first_trace);
    }
    ranking_admit(r, &t);
    kvt__rows_free(&t);
    return KVT_OK;
}

/* ---- the key and the order ----------------------------------------------------------- */

size_t kvt__most_alike(const double *sorted, size_t n, size_t *first)
{
    size_t most = 0;
    *first = 0;
    for (size_t i = 0, end = 0; i < n; i++) {
        if (end < i) end = i;       /* not a number: alike to nothing                  */
        while (end < n && sorted[end] - sorted[i] < KVT__ALIKE) end++;
        if (end - i > most) {
            most = end - i;
            *first = i;
        }
    }
    return most;
}

static int number_compare(double x, double y)           /* NaN last */
{
    if (isnan(x) || isnan(y)) return (isnan(x) != 0) - (isnan(y) != 0);
    return (x > y) - (x < y);
}

static int double_compare(const void *a, const void *b)
{
    return number_compare(*(const double *)a, *(const double *)b);
}

static int ranking_choose_key(kvt__ranking *r)
{
    double *v = malloc((r->n_ranked + 1) * sizeof *v);
    size_t n = 0, first;
    if (!v) return 0;
    for (size_t i = 0; i < r->n; i++)
        if (r->e[i].place) v[n++] = r->e[i].cvar95;
    qsort(v, n, sizeof *v, double_compare);
    r->n_alike = kvt__most_alike(v, n, &first);
    if (r->n_alike) {
        r->alike_lo = v[first];
        r->alike_hi = v[first + r->n_alike - 1];
    }
    r->by_mean = n > 1 && 2 * r->n_alike > n;
    free(v);
    for (size_t i = 0; i < r->n; i++)
        if (r->by_mean) memcpy(r->e[i].at, r->e[i].at + r->n_budget, r->n_budget * sizeof *v);
    return 1;
}

static int entry_compare(const kvt__entry *a, const kvt__entry *b, int by_mean)
{
    int c = (int)a->role - (int)b->role;
    if (!c) c = (b->place != 0) - (a->place != 0);
    if (!c) c = b->here - a->here;
    if (!c) c = by_mean ? number_compare(a->mean, b->mean) : number_compare(a->cvar95, b->cvar95);
    if (!c) c = by_mean ? number_compare(a->cvar95, b->cvar95) : number_compare(a->mean, b->mean);
    if (!c) c = strcmp(a->label, b->label);
    return c ? c : (a->config_id > b->config_id) - (a->config_id < b->config_id);
}

static int entry_by_mean(const void *a, const void *b) { return entry_compare(a, b, 1); }
static int entry_by_cvar(const void *a, const void *b) { return entry_compare(a, b, 0); }

/* ---- apart or not ---------------------------------------------------------------------- */

double kvt__sign_test(const double *a, const double *b, size_t n)
{
    const double least = 1e-6;      /* a smaller difference is none                    */
    size_t less = 0, more = 0, m, k;
    double term, sum;
    for (size_t i = 0; i < n; i++) {
        less += a[i] < b[i] - least;
        more += a[i] > b[i] + least;
    }
    m = less + more;
    k = less < more ? less : more;
    term = pow(0.5, (double)m);     /* P(X = 0); below 1e-300 for m > 1000, and so is p */
    sum = term;
    for (size_t i = 1; i <= k; i++) sum += term = term * (double)(m - i + 1) / (double)i;
    return fmin(1, 2 * sum);
}

typedef struct p_order { double p; size_t at; } p_order;

static int p_compare(const void *pa, const void *pb)
{
    const p_order *a = pa, *b = pb;
    if (a->p != b->p) return a->p < b->p ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

int kvt__holm(double *p, size_t n)
{
    p_order *o = malloc((n + 1) * sizeof *o);
    double largest = 0;
    if (!o) return 0;
    for (size_t i = 0; i < n; i++) o[i] = (p_order){p[i], i};
    qsort(o, n, sizeof *o, p_compare);
    for (size_t s = 0; s < n; s++) {
        largest = fmax(largest, fmin(1, (double)(n - s) * o[s].p));
        p[o[s].at] = largest;
    }
    free(o);
    return 1;
}

/* Policies that see the question and those that do not are two families: Holm over all
 * pairs of each. value is [n_ranked][n_cluster] in the order of the ranking. */
static int ranking_test(kvt__ranking *r, const double *value)
{
    const size_t n = r->n_ranked, m = r->n_cluster;
    double *p = malloc((n * n + 1) * sizeof *p);
    int ok = p != NULL;
    for (int aware = 0; ok && aware < 2; aware++) {
        size_t k = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = i + 1; j < n; j++)
                if (r->e[i].aware == aware && r->e[j].aware == aware)
                    p[k++] = kvt__sign_test(value + i * m, value + j * m, m);
        ok = kvt__holm(p, k);
        k = 0;
        for (size_t i = 0; ok && i < n; i++)
            for (size_t j = i + 1; j < n; j++)
                if (r->e[i].aware == aware && r->e[j].aware == aware) {
                    const int apart = p[k++] <= 0.05 && fabs(r->e[i].held - r->e[j].held) <= 0.005;
                    if (i == 0) r->e[j].apart_first = apart;
                    if (i + 1 == j) r->e[j].apart = apart;
                }
    }
    free(p);
    return ok;
}

/* One value per cluster of every ranked policy; all have the same clusters. */
static kvt_status ranking_apart(kvt__ranking *r, sqlite3 *db, int64_t model_id, const char *split, int64_t budget_id,
                                kvt_err *err)
{
    kvt__rows c;
    double *value;
    KVT_TRY(kvt__rows_read(&c, NULL, db, err,
        "SELECT v.config_id, v.cluster_id, avg(rc.cvar95_worst_head), avg(rc.lost_mean) FROM v_cell v JOIN result_cell rc\n"
        " USING(cell_id) WHERE v.status = 'done' AND v.model_id = %lld AND v.split = %Q AND v.budget_id = %lld\n"
        " GROUP BY v.config_id, v.cluster_id ORDER BY v.config_id, v.cluster_id",
        (long long)model_id, split, (long long)budget_id));
    for (size_t k = 0; r->n_ranked && k < c.n_row; k++) r->n_cluster += kvt__int(&c, k, 0) == r->e[0].config_id;
    value = calloc(r->n_ranked * r->n_cluster + 1, sizeof *value);
    for (size_t i = 0; value && i < r->n_ranked; i++)
        for (size_t k = 0, at = 0; k < c.n_row && at < r->n_cluster; k++)
            if (kvt__int(&c, k, 0) == r->e[i].config_id) value[i * r->n_cluster + at++] = kvt__num(&c, k, r->by_mean ? 3 : 2);
    kvt__rows_free(&c);
    for (size_t i = 1; r->n_cluster < KVT__FEWEST_CLUSTERS && i < r->n_ranked; i++) {
        const double v = kvt__entry_value(r, &r->e[i]);
        r->e[i].apart = v - kvt__entry_value(r, &r->e[i - 1]) >= KVT__ALIKE;
        r->e[i].apart_first = v - kvt__entry_value(r, &r->e[0]) >= KVT__ALIKE;
    }
    if (value && r->n_cluster >= KVT__FEWEST_CLUSTERS && !ranking_test(r, value)) {
        free(value);
        value = NULL;
    }
    if (!value) return kvt_fail(err, KVT_ENOMEM, "out of memory for the comparison of %zu policies", r->n_ranked);
    free(value);
    return KVT_OK;
}

kvt_status kvt__ranking_read(kvt__ranking *out, sqlite3 *db, int64_t model_id, const char *split, int64_t budget_id,
                             kvt_err *err)
{
    kvt__ranking r = {0};
    kvt_status st = ranking_budgets(&r, db, model_id, split, err);
    KVT_TRY_GOTO(st, st);
    KVT_TRY_GOTO(st, ranking_entries(&r, db, model_id, split, budget_id, err));
    KVT_TRY_GOTO(st, ranking_traces(&r, db, model_id, split, budget_id, err));
    if (!ranking_choose_key(&r)) st = kvt_fail(err, KVT_ENOMEM, "out of memory for %zu policies", r.n_ranked);
    if (st < 0) goto done;
    qsort(r.e, r.n, sizeof *r.e, r.by_mean ? entry_by_mean : entry_by_cvar);
    for (size_t i = 0; i < r.n_ranked; i++) {
        size_t k = 0;
        while (strcmp(r.e[k].policy, r.e[i].policy) != 0) k++;
        r.e[i].place = (unsigned)i + 1;
        r.e[i].leads = k == i;
    }
    KVT_TRY_GOTO(st, ranking_apart(&r, db, model_id, split, budget_id, err));
done:
    if (st < 0) kvt__ranking_free(&r);
    else *out = r;
    return st;
}

void kvt__ranking_free(kvt__ranking *r)
{
    for (size_t i = 0; i < r->n; i++) {
        free(r->e[i].label);
        free(r->e[i].policy);
        free(r->e[i].at);
    }
    for (size_t i = 0; i < r->n_budget; i++) free(r->budget[i].label);
    free(r->e);
    free(r->budget);
    *r = (kvt__ranking){0};
}
