/* Validity: what a reader must distrust before reading results. Not ok first, in words. */
#include "report_impl.h"

#include <string.h>

static const struct { const char *name, *claim; } check[] = {
    {"full_cache_floor", "Full cache: its loss must be exactly 0"},
    {"oracle_dominates", "Oracle: no policy may lose less than the per-step oracle"},
    {"minimax_dominates", "Bound: no fixed set may lose less than the certified bound"},
    {"budget_realised", "Budgets: each cell must hold as many entries as were asked for"},
    {"tie_share", "Ties: few choices may be decided by equal scores"},
    {"row_defect", "Rows: attention rows must sum to 1"},
    {"capture_error", "Capture: recomputed outputs must match the engine\xe2\x80\x99s samples"},
    {"freeze", "Freeze: no policy may be stuck on the early tokens"},
    {"closed_loop", "Closed loop: a sample with real eviction must agree with the open-loop loss"},
    {"query_aware_mix", "Question: policies that see it must not be compared with those that do not"},
    {"nested_audit", "Nesting: kept sets that are declared nested must nest"},
    {"trivial_share", "Trivial steps: few steps may fit the budget as a whole"},
    {"cluster_count", "Clusters: independent documents, of which a ranking needs 20"},
};

static const char *validity_claim(const char *name)
{
    for (size_t i = 0; i < sizeof check / sizeof *check; i++)
        if (strcmp(check[i].name, name) == 0) return check[i].claim;
    return name;
}

static const char *validity_word(const char *status)
{
    return !strcmp(status, "fail")   ? "failed"
           : !strcmp(status, "warn") ? "warning"
           : !strcmp(status, "ok")   ? "ok"
                                     : "not run";
}

enum { COL_NAME, COL_STATUS, COL_N, COL_MIN, COL_MAX, COL_LIM, COL_MESSAGE };

static void validity_rows(h_page *h, const kvt__rows *v, int ok)
{
    for (size_t i = 0; i < v->n_row; i++) {
        const char *word = validity_word(kvt__str(v, i, COL_STATUS));
        if ((strcmp(word, "ok") == 0) != ok || strcmp(kvt__str(v, i, COL_NAME), "cluster_count") == 0) continue;
        h_put(h, "<li class=\"is-%c\"><b class=\"status\">%s</b> <span>%s.", word[0], word,
              validity_claim(kvt__str(v, i, COL_NAME)));
        h_raw(h, " <span class=\"soft\">");
        if (kvt__int(v, i, COL_N) > 1)
            h_put(h, "%lld cells%s", (long long)kvt__int(v, i, COL_N), *kvt__str(v, i, COL_MESSAGE) ? ": " : "");
        h_put(h, "%s</span>", kvt__str(v, i, COL_MESSAGE));
        h_raw(h, "</span></li>\n");
    }
}

/* Cells that are not done: results that are missing are a reason for doubt. */
static kvt_status validity_unfinished(kvt__report *r, kvt_err *err)
{
    kvt__rows c;
    KVT_TRY(kvt__rows_read(&c, NULL, r->db, err,
                           "SELECT sum(status = 'failed'), sum(status IN ('todo', 'running')), min(CASE status WHEN "
                           "'failed' THEN error END) FROM cell"));
    if (kvt__int(&c, 0, 0) > 0)
        h_put(&r->page, "<li class=\"is-f\"><b class=\"status\">failed</b> <span>%lld cells could not be computed. "
              "<span class=\"soft\">%s</span></span></li>\n", (long long)kvt__int(&c, 0, 0), kvt__str(&c, 0, 2));
    if (kvt__int(&c, 0, 1) > 0)
        h_put(&r->page, "<li class=\"is-w\"><b class=\"status\">warning</b> <span>%lld cells are not finished; "
              "the same kvtrace replay command continues them.</span></li>\n", (long long)kvt__int(&c, 0, 1));
    kvt__rows_free(&c);
    return KVT_OK;
}

/* The number of clusters is known here, whether or not the run stored its own check. */
static void validity_clusters(kvt__report *r)
{
    enum { ENOUGH = 20 };
    for (size_t i = 0; i < r->n_scope; i++)
        if (r->scope[i].n_cluster < ENOUGH)
            h_put(&r->page,
                  "<li class=\"is-w\"><b class=\"status\">warning</b> <span>%s. <span class=\"soft\">%s: n = "
                  "%u</span></span></li>\n",
                  validity_claim("cluster_count"), r->scope[i].model, r->scope[i].n_cluster);
}

static void validity_missing(h_page *h, const kvt__rows *v)
{
    unsigned n = 0;
    for (size_t i = 0; i < sizeof check / sizeof *check; i++) {
        size_t k = 0;
        if (strcmp(check[i].name, "cluster_count") == 0) continue;
        while (k < v->n_row && strcmp(kvt__str(v, k, COL_NAME), check[i].name) != 0) k++;
        if (k < v->n_row) continue;
        if (!n++) h_raw(h, "<li class=\"is-n\"><b class=\"status\">not run</b> <span>");
        h_put(h, "%s. ", check[i].claim);
    }
    if (n) h_raw(h, "</span></li>\n");
}

kvt_status kvt__panel_validity(kvt__report *r, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__rows v;
    kvt_status st;
    h_raw(h, "<section id=\"validity\" aria-labelledby=\"validity-h\"><h2 id=\"validity-h\">Validity</h2>\n");
    if (!r->n_scope)
        kvt__empty(r, "No finished cell to check. kvtrace replay TRACE.h5 -o RESULTS.db computes and checks them.");
    KVT_TRY(kvt__rows_read(&v, NULL, r->db, err,
                           "SELECT check_name, status, n, value_min, value_max, lim, example FROM v_validity"));
    h_raw(h, "<ul class=\"checks\">\n");
    st = validity_unfinished(r, err);
    if (st == KVT_OK && r->n_scope) {
        validity_clusters(r);
        validity_rows(h, &v, 0);
        validity_missing(h, &v);
        validity_rows(h, &v, 1);
    }
    h_raw(h, "</ul>\n");
    if (v.n_row) {
        h_raw(h, "<details><summary>All checks with their limits</summary>\n");
        kvt__rows_put(h, &v, "Self-checks, worst first: smallest and largest value of all cells, and the limit.", 200);
        h_raw(h, "</details>\n");
    }
    h_raw(h, "</section>\n");
    kvt__rows_free(&v);
    return st;
}
