/* Scopes and their focus: which numbers the report speaks about. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_text.h"

enum {                              /* columns of the candidates of a focus           */
    COL_CONFIG, COL_BUDGET, COL_LABEL, COL_NAME, COL_BUDGET_LABEL, COL_VALUE, COL_SHARE, COL_RANK
};

static kvt_status scope_candidates(kvt__rows *out, sqlite3 *db, int64_t model_id, const char *split, kvt_err *err)
{
    return kvt__rows_read(
        out, NULL, db, err,
        "SELECT s.config_id, s.budget_id, s.policy_label, s.policy, s.budget, b.value,\n"
        "       CASE b.kind WHEN 'share' THEN b.value ELSE\n"
        "         (SELECT avg(c.requested_tokens / t.n_prompt) FROM cell c JOIN trace t USING(trace_id)\n"
        "           WHERE c.budget_id = s.budget_id AND c.config_id = s.config_id AND c.status = 'done') END AS "
        "share,\n"
        "       CASE WHEN s.role = 'policy' THEN 0 WHEN s.policy = 'full' THEN 2 WHEN s.role = 'baseline' THEN 1 ELSE "
        "3 END AS pick\n"
        "  FROM v_policy_summary s JOIN budget b USING(budget_id)\n"
        " WHERE s.model_id = %lld AND s.split = %Q\n"
        " ORDER BY pick, b.rule = 'reference', b.label, s.policy_label, s.config_id",
        (long long)model_id, split);
}

/* A label names one configuration; an id all of that policy, unless it is a label too. */
static int scope_is_label(const kvt__rows *c, const kvt_report_opts *opts)
{
    for (size_t i = 0; opts->policy && i < c->n_row; i++)
        if (strcmp(opts->policy, kvt__str(c, i, COL_LABEL)) == 0) return 1;
    return 0;
}

static int scope_matches(const kvt__rows *c, size_t i, const kvt_report_opts *opts, int is_label)
{
    if (opts->policy && strcmp(opts->policy, kvt__str(c, i, is_label ? COL_LABEL : COL_NAME)) != 0) return 0;
    if (opts->budget && strcmp(opts->budget, kvt__str(c, i, COL_BUDGET_LABEL)) != 0) {
        char *end;
        const double wanted = strtod(opts->budget, &end);
        if (end == opts->budget || *end || wanted != kvt__num(c, i, COL_VALUE)) return 0;
    }
    return 1;
}

/* The budget of the focus: of the best kind of policy there is, the share nearest to 0.2.
 * Returns the first row of it that matches; SIZE_MAX: nothing matches. */
static size_t scope_pick(const kvt__rows *c, const kvt_report_opts *opts)
{
    const int is_label = scope_is_label(c, opts);
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < c->n_row; i++) {
        if (!scope_matches(c, i, opts, is_label)) continue;
        if (best == SIZE_MAX) {
            best = i;
            continue;
        }
        if (kvt__int(c, i, COL_RANK) != kvt__int(c, best, COL_RANK)) break;   /* sorted: only worse kinds follow */
        if (fabs(kvt__num(c, i, COL_SHARE) - 0.2) < fabs(kvt__num(c, best, COL_SHARE) - 0.2) - 1e-12) best = i;
    }
    return best;
}

/* Of the rows that match like `pick`, same kind and same budget, the one placed best. */
static size_t scope_place(const kvt__scope *s, size_t pick, const kvt_report_opts *opts)
{
    const kvt__rows *c = &s->focus;
    const int is_label = scope_is_label(c, opts);
    const kvt__entry *best = NULL;
    size_t row = pick;
    for (size_t i = 0; i < c->n_row; i++) {
        const kvt__entry *e;
        if (!scope_matches(c, i, opts, is_label) || kvt__int(c, i, COL_RANK) != kvt__int(c, pick, COL_RANK) ||
            kvt__int(c, i, COL_BUDGET) != kvt__int(c, pick, COL_BUDGET))
            continue;
        e = kvt__ranking_find(&s->rank, kvt__int(c, i, COL_CONFIG));
        if (!e || (best && e > best)) continue;
        best = e;
        row = i;
    }
    return row;
}

static kvt_status scope_cell(kvt__scope *s, sqlite3 *db, kvt_err *err)
{
    KVT_TRY(kvt__rows_read(&s->cell, NULL, db, err,
        "SELECT v.cell_id, v.trace_id, v.trace, t.n_prompt, t.n_decode\n"
        "  FROM v_cell v JOIN result_cell rc USING(cell_id) JOIN trace t USING(trace_id)\n"
        " WHERE %s AND v.config_id = %lld AND v.budget_id = %lld ORDER BY rc.cvar95_worst_head DESC, v.cell_id LIMIT 1",
        s->where, (long long)s->config_id, (long long)s->budget_id));
    if (!s->cell.n_row) return KVT_OK;
    s->cell_id = kvt__int(&s->cell, 0, 0);
    s->trace_id = kvt__int(&s->cell, 0, 1);
    s->trace = kvt__str(&s->cell, 0, 2);
    s->n_prompt = (uint32_t)kvt__int(&s->cell, 0, 3);
    s->n_decode = (uint32_t)kvt__int(&s->cell, 0, 4);
    return KVT_OK;
}

static kvt_status scope_focus(kvt__scope *s, sqlite3 *db, const kvt_report_opts *opts, int *found, kvt_err *err)
{
    static const kvt_report_opts none = {0};
    const kvt_report_opts *by = opts;
    size_t pick;
    KVT_TRY(scope_candidates(&s->focus, db, s->model_id, s->split, err));
    pick = scope_pick(&s->focus, opts);
    if (pick != SIZE_MAX) {
        *found = 1;
        s->by_user = opts->policy || opts->budget;
    } else {
        pick = scope_pick(&s->focus, by = &none);
    }
    if (pick == SIZE_MAX) return KVT_OK;        /* finished cells without a summary: no focus */
    s->budget_id = kvt__int(&s->focus, pick, COL_BUDGET);
    KVT_TRY(kvt__ranking_read(&s->rank, db, s->model_id, s->split, s->budget_id, err));
    pick = scope_place(s, pick, by);
    s->config_id = kvt__int(&s->focus, pick, COL_CONFIG);
    s->policy = kvt__str(&s->focus, pick, COL_LABEL);
    s->budget = kvt__str(&s->focus, pick, COL_BUDGET_LABEL);
    s->share = kvt__num(&s->focus, pick, COL_SHARE);
    return scope_cell(s, db, err);
}

/* "a, b, c" of the first column; shortened when it is long. */
static void scope_list(char *out, size_t size, const kvt__rows *rows)
{
    char one[64];
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < rows->n_row; i++) {
        const char *item = kvt_printable_str(one, sizeof one, kvt__str(rows, i, 0));
        if (n + strlen(item) + 8 > size) {
            snprintf(out + n, size - n, ", ...");
            return;
        }
        n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", item);
    }
}

/* The user named a policy that is not there: say which are. */
static kvt_status scope_unknown(sqlite3 *db, const char *option, const char *policy, kvt_err *err)
{
    kvt__rows have;
    char list[240], name[64];
    KVT_TRY(kvt__rows_read(&have, NULL, db, err,
                           "SELECT DISTINCT policy_label FROM v_cell WHERE status = 'done' ORDER BY 1"));
    scope_list(list, sizeof list, &have);
    kvt__rows_free(&have);
    return kvt_fail(err, KVT_EARG, "%s %s: no finished cell has it; there are: %s", option,
                    kvt_printable_str(name, sizeof name, policy), *list ? list : "none");
}

/* No cell has the budget, or the policy: the budgets there are, of the policy if it is there. */
static kvt_status scope_no_budget(sqlite3 *db, const kvt_report_opts *opts, kvt_err *err)
{
    kvt__rows have;
    char list[240], policy[64], budget[32];
    KVT_TRY(kvt__rows_read(&have, NULL, db, err,
                           "SELECT DISTINCT budget FROM v_cell WHERE status = 'done' AND (%Q IS NULL OR policy_label = "
                           "%Q OR policy = %Q) ORDER BY budget_value, budget",
                           opts->policy, opts->policy, opts->policy));
    scope_list(list, sizeof list, &have);
    kvt__rows_free(&have);
    if (opts->policy && !*list) return scope_unknown(db, "--policy", opts->policy, err);
    return kvt_fail(err, KVT_EARG, "--budget %s: no finished cell%s%s has it; there are: %s",
                    kvt_printable_str(budget, sizeof budget, opts->budget), opts->policy ? " of " : "",
                    opts->policy ? kvt_printable_str(policy, sizeof policy, opts->policy) : "", *list ? list : "none");
}

static kvt_status scope_read(kvt__scope *s, sqlite3 *db, const kvt_report_opts *opts, int *found, kvt_err *err)
{
    KVT_TRY(kvt__rows_read(&s->own, NULL, db, err,
                           "SELECT CASE (SELECT count(*) FROM model x WHERE x.name = v.model) WHEN 1 THEN "
                           "v.model ELSE rtrim(v.model || ' ' || m.revision) END,\n"
                           "       v.split, count(DISTINCT v.trace_id), count(DISTINCT v.cluster_id)\n"
                           "  FROM v_cell v JOIN model m USING(model_id) WHERE %s",
                           s->where));
    s->model = kvt__str(&s->own, 0, 0);
    s->split = kvt__str(&s->own, 0, 1);
    s->n_trace = (uint32_t)kvt__int(&s->own, 0, 2);
    s->n_cluster = (uint32_t)kvt__int(&s->own, 0, 3);
    return scope_focus(s, db, opts, found, err);
}

/* Names of --highlight that no scope has. */
static kvt_status scope_highlight(kvt__report *r, const kvt_report_opts *opts, kvt_err *err)
{
    int *found = calloc(opts->n_highlight + 1, sizeof *found);
    kvt_status st = found ? KVT_OK : kvt_fail(err, KVT_ENOMEM, "out of memory for %zu names", opts->n_highlight);
    for (size_t i = 0; st == KVT_OK && i < r->n_scope; i++) st = kvt__highlight(&r->scope[i], opts, found, err);
    for (size_t i = 0; st == KVT_OK && i < opts->n_highlight; i++)
        if (!found[i]) st = scope_unknown(r->db, "--highlight", opts->highlight[i], err);
    free(found);
    return st;
}

kvt_status kvt__scopes_read(kvt__report *r, const kvt_report_opts *opts, kvt_err *err)
{
    kvt__rows have;
    int found = 0;
    kvt_status st = KVT_OK;
    KVT_TRY(kvt__rows_read(&have, NULL, r->db, err,
        "SELECT v.model_id, v.split FROM v_cell v JOIN result_cell rc USING(cell_id)\n"
        " WHERE v.status = 'done' GROUP BY v.model_id, v.split ORDER BY count(*) DESC, v.model_id, v.split"));
    r->scope = calloc(have.n_row ? have.n_row : 1, sizeof *r->scope);
    if (!r->scope) st = kvt_fail(err, KVT_ENOMEM, "out of memory for %zu models", have.n_row);
    for (size_t i = 0; st == KVT_OK && i < have.n_row; i++) {
        kvt__scope *s = &r->scope[i];
        r->n_scope = i + 1;
        s->model_id = kvt__int(&have, i, 0);
        sqlite3_snprintf((int)sizeof s->where, s->where, "v.status = 'done' AND v.model_id = %lld AND v.split = %Q",
                         (long long)s->model_id, kvt__str(&have, i, 1));
        if (i) snprintf(s->suffix, sizeof s->suffix, "-%zu", i + 1);
        KVT_TRY_GOTO(st, scope_read(s, r->db, opts, &found, err));
    }
    if (st == KVT_OK && !found && opts->budget) st = scope_no_budget(r->db, opts, err);
    if (st == KVT_OK && !found && opts->policy) st = scope_unknown(r->db, "--policy", opts->policy, err);
    if (st == KVT_OK) st = scope_highlight(r, opts, err);
done:
    kvt__rows_free(&have);
    return st;
}

void kvt__scopes_free(kvt__report *r)
{
    for (size_t i = 0; i < r->n_scope; i++) {
        kvt__rows_free(&r->scope[i].own);
        kvt__rows_free(&r->scope[i].focus);
        kvt__rows_free(&r->scope[i].cell);
        kvt__ranking_free(&r->scope[i].rank);
    }
    free(r->scope);
    r->scope = NULL;
    r->n_scope = 0;
}
