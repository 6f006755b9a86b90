/* Appendix: definitions, effective parameters, the SQL of every figure, provenance. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

#include "kvt_text.h"

static const struct {
    const char *term, *text;
} definition[] = {
    {"lost(t)", "Sum of the full-cache attention row of decode step t over the evicted positions. It equals the "
                "total-variation distance "
                "between that row and the row renormalised over the entries that are held."},
    {"step", "Decode step t, from 0: the token at position N + t enters, its query is evaluated on the held entries "
             "and itself, then the policy may evict. N = prompt length."},
    {"head", "Query head. A KV head takes the largest loss of its query heads at each step, where it says so."},
    {"budget", "Share of the prompt\xe2\x80\x99s KV entries that are held after the prefill eviction, sinks and window "
               "included, over all layers and KV heads."},
    {"mean", "Mean of lost over the steps that are not trivial, then over heads. A step is trivial when all entries "
             "fit the budget."},
    {"CVaR95",
     "Mean of the worst 5 % of the steps of one head, the last step taken in part. For a KV head of the series that "
     "takes the largest loss of its query heads at each step. Worst KV head: the one where it is largest."},
    {"worst", "Largest lost of any head at any step."},
    {"sinks excluded", "The same with positions 0 to 3 removed from numerator and denominator."},
    {"oracle",
     "At each step the best entries are chosen anew, as many as the policy holds: what it loses no choice can avoid."},
    {"best fixed set", "One set of entries for all steps, chosen in hindsight by summed attention."},
    {"decomposition", "lost = infeasible (oracle) + staticity (best fixed set \xe2\x88\x92 oracle) + selection (policy "
                      "\xe2\x88\x92 best fixed set)."},
    {"stability gap", "What every fixed set of so many entries loses at its worst step, at least (a bound certified by weights over "
                      "the steps), minus the largest loss of the oracle."},
    {"violation", "Maximal run of steps with lost above a threshold: 0.5, 0.25 or 0.1."},
    {"cause", "Infeasible when the oracle exceeds the threshold at all its steps; otherwise the class of entries with "
              "at least half of the evicted mass: "
              "sink evicted (positions 0 to 3), new token (generated), selection (prompt entry among the best of the "
              "last 32 prompt queries), late bloomer (the other prompt entries); mixed when none has half."},
    {"important", "An entry with more than an even share of the attention of a step."},
    {"cluster",
     "The independent unit of statistics: a document or a conversation. Steps and heads are not independent."},
};

static void appendix_definitions(h_page *h)
{
    h_raw(h, "<h3>Definitions</h3><dl class=\"terms\">\n");
    for (size_t i = 0; i < sizeof definition / sizeof *definition; i++)
        h_put(h, "<div><dt>%s</dt><dd>%s</dd></div>\n", definition[i].term, definition[i].text);
    h_raw(h, "</dl>\n");
}

static kvt_status appendix_parameters(kvt__report *r, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__rows p;
    char number[32];
    h_raw(h, "<h3>Policies and their effective parameters</h3>\n");
    KVT_TRY(kvt__rows_read(
        &p, NULL, r->db, err,
        "SELECT pc.config_id, pc.label, p.title, p.role, p.timing, p.budgeted, p.query_aware, pc.semantics, "
        "p.reference, pp.key, pp.value_num, pp.value_text\n"
        "  FROM policy_config pc JOIN policy p USING(policy_id) LEFT JOIN policy_param pp USING(config_id)\n"
        " ORDER BY CASE p.role WHEN 'policy' THEN 0 WHEN 'baseline' THEN 1 ELSE 2 END, pc.label, pc.config_id, "
        "pp.key"));
    if (!p.n_row) kvt__empty(r, "No policy is stored. kvtrace policies list names those of this program.");
    else
        h_raw(h, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Effective parameters\"><table "
                 "class=\"data params\">"
                 "<caption>What was run, not what was asked for. Scores that see the question are "
                 "marked.</caption><thead><tr><th scope=\"col\">policy</th>"
                 "<th scope=\"col\">title</th><th scope=\"col\">kind</th><th scope=\"col\">semantics</th><th "
                 "scope=\"col\">parameters</th><th scope=\"col\">reference</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < p.n_row;) {
        const int64_t id = kvt__int(&p, i, 0);
        const size_t first = i;
        h_raw(h, "<tr><th scope=\"row\">");
        kvt__put_label(h, kvt__str(&p, i, 1));
        h_put(h, "</th><td>%s</td><td>%s, %s, budget over %s%s</td><td>%s</td><td>", kvt__str(&p, i, 2),
              kvt__str(&p, i, 3), kvt__str(&p, i, 4), strcmp(kvt__str(&p, i, 5), "all") ? "the prompt" : "all entries",
              kvt__int(&p, i, 6) ? ", sees the question" : "", kvt__str(&p, i, 7));
        for (; i < p.n_row && kvt__int(&p, i, 0) == id; i++) {
            const kvt__value *num = kvt__at(&p, i, 10);
            if (!*kvt__str(&p, i, 9)) continue;
            h_put(h, "%s<span class=\"param\">%s=%s</span>", i > first ? " " : "", kvt__str(&p, i, 9),
                  isfinite(num->num) ? kvt_number(number, num->num) : kvt__str(&p, i, 11));
        }
        h_put(h, "</td><td>%s</td></tr>\n", kvt__str(&p, first, 8));
    }
    if (p.n_row) h_raw(h, "</tbody></table></div>\n");
    kvt__rows_free(&p);
    return KVT_OK;
}

static void appendix_sql(kvt__report *r)
{
    h_page *h = &r->page;
    h_raw(h, "<h3>SQL of the figures</h3>\n");
    if (!r->n_note) {
        kvt__empty(r, "No figure was drawn. kvtrace replay TRACE.h5 -o RESULTS.db makes the data.");
        return;
    }
    h_raw(h, "<p>The figures are drawn from exactly these rows. sqlite3 -header -csv RESULTS.db \"SQL\" gives them as "
             "CSV; the table column_doc has the unit of every column.</p>\n");
    for (size_t i = 0; i < r->n_note; i++) {
        h_put(h,
              "<details><summary>Figure %u</summary><p><a href=\"#%s\">to the figure</a></p><pre class=\"sql\"><code>",
              r->note[i].number, r->note[i].id);
        h_code(h, r->note[i].sql);
        h_raw(h, "</code></pre></details>\n");
    }
}

/* A run has more fields than a line has room for: one list per run, the newest first. */
static kvt_status appendix_runs(kvt__report *r, kvt_err *err)
{
    enum { MOST = 20 };
    h_page *h = &r->page;
    kvt__rows run;
    char number[32];
    KVT_TRY(kvt__rows_read(&run, NULL, r->db, err,
                           "SELECT run_id, status, started_utc AS started, finished_utc AS finished, 'kvtrace ' || "
                           "tool_version AS program,\n"
                           "       git_commit || CASE git_dirty WHEN 1 THEN ' with local changes' ELSE '' END AS "
                           "'commit', argv_json AS 'command line',\n"
                           "       seed, n_thread AS threads, config_sha256 AS configuration, compiler, cflags AS "
                           "flags, libc, cpu, os, 'SQLite ' || sqlite_version AS library\n"
                           "  FROM run ORDER BY run_id DESC"));
    if (!run.n_row) kvt__empty(r, "Nothing was run yet. kvtrace replay TRACE.h5 -o RESULTS.db is the first step.");
    for (size_t i = 0; i < run.n_row && i < MOST; i++) {
        h_put(h, "<h4>Run %lld</h4><dl class=\"terms run\">\n", (long long)kvt__int(&run, i, 0));
        for (size_t c = 1; c < run.n_col; c++) {
            const kvt__value *v = kvt__at(&run, i, c);
            if (v->type == SQLITE_NULL) continue;
            h_put(h, "<div><dt>%s</dt><dd>%s</dd></div>\n", run.name[c],
                  isfinite(v->num) ? kvt_number(number, v->num) : kvt__str(&run, i, c));
        }
        h_raw(h, "</dl>\n");
    }
    if (run.n_row > MOST)
        h_put(h, "<p class=\"under\">The newest %u of %zu runs; the table run has all.</p>\n", (unsigned)MOST,
              run.n_row);
    kvt__rows_free(&run);
    return KVT_OK;
}

static kvt_status appendix_provenance(kvt__report *r, kvt_err *err)
{
    static const char *const query[2][2] = {
        {"Traces", "SELECT t.name AS trace, m.name AS model, m.revision, d.name AS dataset, t.cluster_id AS cluster, "
                   "t.kind, t.exactness,\n"
                   "       t.n_prompt, t.n_decode, t.engine, t.content_id\n"
                   "  FROM trace t JOIN model m USING(model_id) JOIN dataset d USING(dataset_id) ORDER BY t.trace_id"},
        {"Cells", "SELECT status, engine_version, metric_version, count(*) AS n_cell FROM cell GROUP BY 1, 2, 3 ORDER "
                  "BY 2, 3, 1"}};
    h_raw(&r->page, "<h3>Provenance</h3>\n");
    for (size_t i = 0; i < 2; i++) {
        kvt__rows rows;
        KVT_TRY(kvt__rows_read(&rows, NULL, r->db, err, "%s", query[i][1]));
        if (rows.n_row) kvt__rows_put(&r->page, &rows, query[i][0], 200);
        kvt__rows_free(&rows);
    }
    return appendix_runs(r, err);
}

kvt_status kvt__panel_appendix(kvt__report *r, kvt_err *err)
{
    h_page *h = &r->page;
    h_raw(h, "<section id=\"appendix\" aria-labelledby=\"appendix-h\"><h2 id=\"appendix-h\">Appendix</h2>\n");
    appendix_definitions(h);
    KVT_TRY(appendix_parameters(r, err));
    appendix_sql(r);
    KVT_TRY(appendix_provenance(r, err));
    h_raw(h, "<p class=\"under\">Colour scale: cividis, anchors from d3-scale-chromatic 3.1.1, copyright Mike Bostock, "
             "ISC licence. Line colours: Okabe and Ito.</p>\n"
             "<p class=\"not last\">Not shown: how a model that really evicts would continue (the replay is open "
             "loop), the quality of its answers, "
             "speed and memory of an implementation, and texts other than the traces listed above.</p>\n</section>\n");
    return KVT_OK;
}
