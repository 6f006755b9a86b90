/* Post-mortem: the worst violations with the evicted entries that were responsible, in
 * their context, and what was known about them when they were evicted. */
#include "report_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_VIOLATIONS = 5, MOST_TOKENS = 5, CONTEXT = 20 };
enum {
    V_ID,
    V_LAYER,
    V_HEAD,
    V_TAU,
    V_START,
    V_N,
    V_PEAK,
    V_LOST,
    V_ORACLE,
    V_CAUSE,
    V_FORESEEABLE,
    V_RECURRENT,
    V_TOP1,
    V_TOP5,
    V_TOP20
};
enum { T_POS, T_SHARE, T_AGE, T_SEGMENT, T_EVICTED, T_RANK, T_MARGIN, T_LAST, T_IDLE };

/* The worst run of each head at the largest threshold that has any: otherwise one head
 * could fill the list, and every run would come once per threshold. */
static kvt_status postmortem_read(kvt__figure *fig, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(
        &fig->rows, &fig->sql, r->db, err,
        "SELECT violation_id, layer, head, tau, start_step, n_step, peak_step, round(peak_lost, 4) AS peak_lost,\n"
        "       round(peak_oracle_lost, 4) AS peak_oracle_lost, cause, foreseeable, recurrent,\n"
        "       round(share_top1, 4) AS share_top1, round(share_top5, 4) AS share_top5, round(share_top20, 4) AS "
        "share_top20\n"
        "  FROM (SELECT x.*, row_number() OVER (PARTITION BY layer, head ORDER BY peak_lost DESC, start_step) AS nth\n"
        "          FROM v_violations x\n"
        "         WHERE cell_id = %lld AND tau = (SELECT max(tau) FROM v_violations WHERE cell_id = %lld))\n"
        " WHERE nth = 1 ORDER BY peak_lost DESC, layer, head LIMIT %d",
        (long long)s->cell_id, (long long)s->cell_id, (int)MOST_VIOLATIONS);
}

static kvt_status token_context(kvt__report *r, const kvt__scope *s, int64_t pos, kvt_err *err)
{
    kvt__tokens tok;
    const int64_t first = pos > CONTEXT ? pos - CONTEXT : 0;
    KVT_TRY(kvt__tokens_read(&tok, r->db, s->trace_id, first, pos + CONTEXT + 1 - first, err));
    h_raw(&r->page, "<td class=\"context\">");
    if (tok.n) kvt__tokens_marked(&r->page, &tok, pos);
    else h_raw(&r->page, "no text");
    h_raw(&r->page, "</td>");
    kvt__tokens_free(&tok);
    return KVT_OK;
}

static void token_whole(h_page *h, const kvt__rows *t, size_t i, size_t col)
{
    if (isnan(kvt__num(t, i, col))) h_raw(h, "<td>-</td>");
    else h_put(h, "<td>%lld</td>", (long long)kvt__int(t, i, col));
}

static void token_score(h_page *h, const kvt__rows *t, size_t i, size_t col)
{
    const double v = kvt__num(t, i, col);
    if (!isfinite(v)) h_raw(h, "<td>-</td>");
    else if (v > 0 && v < 0.0001) h_raw(h, "<td>&lt;0.0001</td>");
    else h_put(h, "<td>%.4f</td>", v);
}

static void token_facts(h_page *h, const kvt__rows *t, size_t i)
{
    const kvt__value *last = kvt__at(t, i, T_LAST);
    if (kvt__int(t, i, T_EVICTED) < 0) h_raw(h, "<td>prefill</td>");
    else h_put(h, "<td>step %lld</td>", (long long)kvt__int(t, i, T_EVICTED));
    token_whole(h, t, i, T_RANK);
    token_score(h, t, i, T_MARGIN);
    if (last->type == SQLITE_NULL) h_raw(h, "<td>not before</td>");
    else if (last->whole < 0) h_raw(h, "<td>in the window</td>");
    else h_put(h, "<td>step %lld</td>", (long long)last->whole);
    token_whole(h, t, i, T_IDLE);
}

static kvt_status postmortem_tokens(kvt__report *r, const kvt__scope *s, int64_t violation_id, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__rows t;
    kvt_status st = KVT_OK;
    KVT_TRY(kvt__rows_read(
        &t, NULL, r->db, err,
        "SELECT pos, mass_share, age, segment, evicted_step, window_rank, score_margin, last_important, idle_steps\n"
        "  FROM v_token_postmortem WHERE violation_id = %lld ORDER BY ord LIMIT %d",
        (long long)violation_id, (int)MOST_TOKENS));
    if (!t.n_row) {
        kvt__empty(r, "The responsible entries of this run were not stored.");
        goto done;
    }
    h_raw(
        h,
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Evicted entries responsible\"><table "
        "class=\"dead\">"
        "<caption class=\"hid\">Evicted entries responsible, largest share first</caption><thead><tr>"
        "<th scope=\"col\"><abbr title=\"share of the attention lost in this run\">share</abbr></th><th "
        "scope=\"col\">position</th>"
        "<th scope=\"col\"><abbr title=\"steps and prompt tokens between the entry and the peak\">age</abbr></th><th "
        "scope=\"col\">evicted entry in its context</th>"
        "<th scope=\"col\">segment</th><th scope=\"col\">evicted at</th>"
        "<th scope=\"col\"><abbr title=\"by the policy's score when the choice was made; 1 = best\">rank</abbr></th>"
        "<th scope=\"col\"><abbr title=\"score of the last kept entry minus the score of this one\">margin</abbr></th>"
        "<th scope=\"col\"><abbr title=\"last step before the run with more than an even share of the attention\">last "
        "important</abbr></th>"
        "<th scope=\"col\"><abbr title=\"steps without importance before the "
        "run\">idle</abbr></th></tr></thead><tbody>\n");
    for (size_t i = 0; i < t.n_row; i++) {
        char share[16];
        h_put(h, "<tr><th scope=\"row\">%s</th><td>%lld</td><td>%lld</td>", h_percent(share, kvt__num(&t, i, T_SHARE)),
              (long long)kvt__int(&t, i, T_POS), (long long)kvt__int(&t, i, T_AGE));
        KVT_TRY_GOTO(st, token_context(r, s, kvt__int(&t, i, T_POS), err));
        h_put(h, "<td class=\"word\">%s</td>", *kvt__str(&t, i, T_SEGMENT) ? kvt__str(&t, i, T_SEGMENT) : "-");
        token_facts(h, &t, i);
        h_raw(h, "</tr>\n");
    }
    h_raw(h, "</tbody></table></div>\n");
done:
    kvt__rows_free(&t);
    return st;
}

/* What could have been known, from two stored flags. */
static void postmortem_flag(h_page *h, const kvt__value *flag, const char *yes, const char *no)
{
    if (flag->type == SQLITE_INTEGER) h_put(h, "<span class=\"flag\">%s</span>", flag->whole ? yes : no);
}

static void postmortem_flags(h_page *h, const kvt__rows *v, size_t i)
{
    postmortem_flag(h, kvt__at(v, i, V_FORESEEABLE),
                    "foreseeable: a window query ranked the main entry inside the budget",
                    "latent: no window query ranked the main entry inside the budget");
    postmortem_flag(h, kvt__at(v, i, V_RECURRENT),
                    "recurrent: it had been important and then idle for 32 steps or more",
                    "novel: it had not been important and then idle before");
}

static kvt_status postmortem_peak_text(kvt__report *r, const kvt__scope *s, int64_t peak, kvt_err *err)
{
    kvt__tokens tok;
    const int64_t pos = s->n_prompt + peak, first = pos > CONTEXT ? pos - CONTEXT : 0;
    KVT_TRY(kvt__tokens_read(&tok, r->db, s->trace_id, first, pos + CONTEXT + 1 - first, err));
    if (tok.n) {
        h_put(&r->page, "<p class=\"query\"><span class=\"soft\">Query at step %lld:</span> <span class=\"context\">",
              (long long)peak);
        kvt__tokens_marked(&r->page, &tok, pos);
        h_raw(&r->page, "</span></p>\n");
    }
    kvt__tokens_free(&tok);
    return KVT_OK;
}

static kvt_status postmortem_one(kvt__report *r, const kvt__scope *s, const kvt__rows *v, size_t i, kvt_err *err)
{
    h_page *h = &r->page;
    const int64_t start = kvt__int(v, i, V_START), n = kvt__int(v, i, V_N);
    const char *why = kvt__cause_meaning(kvt__str(v, i, V_CAUSE));
    char lost[16], oracle[16], a[16], b[16], c[16];
    h_put(h, "<article class=\"case\"><h4>Layer %lld, head %lld, ", (long long)kvt__int(v, i, V_LAYER),
          (long long)kvt__int(v, i, V_HEAD));
    if (n == 1) h_put(h, "step %lld", (long long)start);
    else h_put(h, "steps %lld to %lld", (long long)start, (long long)(start + n - 1));
    h_put(h, ": loses <b>%s</b> at step %lld <span class=\"soft\">(unavoidable %s)</span></h4>\n",
          h_loss(lost, kvt__num(v, i, V_LOST)), (long long)kvt__int(v, i, V_PEAK),
          h_loss(oracle, kvt__num(v, i, V_ORACLE)));
    h_put(h, "<p class=\"flags\"><span class=\"flag\"><b>%s</b>%s%s</span>", kvt__cause_words(kvt__str(v, i, V_CAUSE)),
          why ? ": " : "", why);
    postmortem_flags(h, v, i);
    if (!isnan(kvt__num(v, i, V_TOP1)))
        h_put(h, "<span class=\"flag\">one entry holds %s of what was lost, five %s, twenty %s</span>",
              h_percent(a, kvt__num(v, i, V_TOP1)), h_percent(b, kvt__num(v, i, V_TOP5)),
              h_percent(c, kvt__num(v, i, V_TOP20)));
    h_raw(h, "</p>\n");
    KVT_TRY(postmortem_peak_text(r, s, kvt__int(v, i, V_PEAK), err));
    KVT_TRY(postmortem_tokens(r, s, kvt__int(v, i, V_ID), err));
    h_raw(h, "</article>\n");
    return KVT_OK;
}

static kvt_status postmortem_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    h_page *h = &r->page;
    kvt__figure fig = {0};
    kvt_status st;
    char number[16];
    KVT_TRY(postmortem_read(&fig, r, s, err));
    if (!fig.rows.n_row) {
        h_put(h,
              "<p class=\"empty\">%s at budget %s has no violation in %s: no run of steps above a threshold is stored. "
              "A smaller budget may have one: kvtrace report RESULTS.db --budget SHARE --force.</p>\n",
              s->policy, s->budget, s->trace);
        kvt__figure_free(&fig);
        return KVT_OK;
    }
    kvt__figure_begin(r, &fig, s, "postmortem");
    h_put(h, "The worst run above %.2f of each of %zu %s under %s at budget %s in %s; the largest loses %s.</p>\n",
          kvt__num(&fig.rows, 0, V_TAU), fig.rows.n_row, fig.rows.n_row == 1 ? "head" : "heads", s->policy, s->budget,
          s->trace, h_loss(number, kvt__num(&fig.rows, 0, V_LOST)));
    for (size_t i = 0; i < fig.rows.n_row; i++) {
        st = postmortem_one(r, s, &fig.rows, i, err);
        if (st < 0) {
            kvt__figure_free(&fig);
            return st;
        }
    }
    h_put(h,
          "<p class=\"under\">At most %d entries per run; the table violation_token holds up to 20. Context: %d tokens "
          "on either side, the evicted one marked.</p>\n",
          (int)MOST_TOKENS, (int)CONTEXT);
    kvt__figure_end(r, &fig, s, "what the model would have written without these entries.");
    return KVT_OK;
}

kvt_status kvt__panel_postmortem(kvt__report *r, kvt_err *err)
{
    return kvt__section(
        r, "postmortem", "Post-mortem of the worst violations", postmortem_body,
        "No finished cell. kvtrace replay TRACE.h5 -o RESULTS.db finds the violations and the entries responsible.",
        err);
}
