/* Header: what was replayed, on what, when, and the condition every number stands under. */
#include <stdio.h>

#include "report_impl.h"
#include "kvt_text.h"

static void header_contents(h_page *h)
{
    static const char *const part[][2] = {{"verdict", "Verdict"},
                                          {"validity", "Validity"},
                                          {"curves", "Ranking and curves"},
                                          {"heatmap", "Layers and heads"},
                                          {"timeline", "Steps"},
                                          {"postmortem", "Post-mortem"},
                                          {"decomposition", "Decomposition"},
                                          {"ladder", "Fixed sets"},
                                          {"appendix", "Appendix"}};
    h_raw(h, "<nav aria-label=\"Contents\"><ul>");
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        h_put(h, "<li><a href=\"#%s\">%s</a></li>", part[i][0], part[i][1]);
    h_raw(h, "</ul></nav>\n");
}

static kvt_status header_traces(kvt__report *r, kvt_err *err)
{
    enum { MOST = 6 };
    h_page *h = &r->page;
    kvt__rows t;
    KVT_TRY(kvt__rows_read(&t, NULL, r->db, err,
        "SELECT t.name, t.n_prompt, t.n_decode FROM trace t WHERE EXISTS\n"
        " (SELECT 1 FROM v_cell v WHERE v.trace_id = t.trace_id AND v.status = 'done') ORDER BY t.name, t.trace_id"));
    h_put(h, "<div><dt>%s</dt><dd>", t.n_row == 1 ? "Trace" : "Traces");
    for (size_t i = 0; i < t.n_row && i < MOST; i++)
        h_put(h, "%s%s <span class=\"soft\">(%lld\xc2\xa0prompt + %lld\xc2\xa0steps)</span>", i ? ", " : "",
              kvt__str(&t, i, 0), (long long)kvt__int(&t, i, 1), (long long)kvt__int(&t, i, 2));
    if (t.n_row > MOST) h_put(h, " and %zu more", t.n_row - MOST);
    if (!t.n_row) h_raw(h, "none");
    h_raw(h, "</dd></div>");
    kvt__rows_free(&t);
    return KVT_OK;
}

static kvt_status header_facts(kvt__report *r, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__rows f;
    h_raw(h, "<dl class=\"facts\">");
    h_put(h, "<div><dt>%s</dt><dd>", r->n_scope > 1 ? "Models" : "Model");
    for (size_t i = 0; i < r->n_scope; i++)
        h_put(h, "%s%s <span class=\"soft\">(%s split)</span>", i ? ", " : "", r->scope[i].model, r->scope[i].split);
    if (!r->n_scope) h_raw(h, "none");
    h_raw(h, "</dd></div>");
    KVT_TRY(header_traces(r, err));
    KVT_TRY(kvt__rows_read(&f, NULL, r->db, err,
        "SELECT (SELECT count(DISTINCT cluster_id) FROM v_cell WHERE status = 'done'),\n"
        "       (SELECT count(DISTINCT config_id) FROM v_cell WHERE status = 'done'),\n"
        "       (SELECT count(DISTINCT budget_id) FROM v_cell WHERE status = 'done'),\n"
        "       (SELECT substr(max(coalesce(finished_utc, started_utc)), 1, 10) FROM run)"));
    h_put(h, "<div><dt>Clusters</dt><dd>n\xc2\xa0=\xc2\xa0%lld</dd></div>"
             "<div><dt>Configurations</dt><dd>%lld policies and baselines, %lld budgets</dd></div>",
          (long long)kvt__int(&f, 0, 0), (long long)kvt__int(&f, 0, 1), (long long)kvt__int(&f, 0, 2));
    if (*kvt__str(&f, 0, 3)) h_put(h, "<div><dt>Date</dt><dd>%s</dd></div>", kvt__str(&f, 0, 3));
    h_raw(h, "</dl>\n");
    kvt__rows_free(&f);
    return KVT_OK;
}

kvt_status kvt__panel_header(kvt__report *r, kvt_err *err)
{
    h_page *h = &r->page;
    h_raw(
        h,
        "<a class=\"skip\" href=\"#main\">Skip to the verdict</a>\n<header>\n<p class=\"brand\">kvtrace report</p>\n");
    if (r->n_scope == 1) h_put(h, "<h1>What evicting KV-cache entries loses: %s</h1>\n", r->scope[0].model);
    else h_raw(h, "<h1>What evicting KV-cache entries loses</h1>\n");
    KVT_TRY(header_facts(r, err));
    h_raw(h, "<p class=\"openloop\">Open-loop replay on full-cache trajectories: evictions do not feed back into later "
             "queries.</p>\n");
    header_contents(h);
    h_raw(h, "</header>\n");
    return KVT_OK;
}
