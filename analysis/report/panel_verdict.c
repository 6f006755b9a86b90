/* Verdict: one computed sentence with number, place, unavoidable part and n; then the
 * same figures with the sink-excluded loss beside the raw one. */
#include "report_impl.h"

#include <math.h>

enum {                              /* columns of the worst cell                      */
    COL_CELL, COL_TRACE, COL_WORST, COL_LAYER, COL_HEAD, COL_STEP, COL_ORACLE_THERE, COL_ORACLE_MAX
};

static kvt_status verdict_worst(kvt__rows *out, kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    return kvt__rows_read(
        out, NULL, r->db, err,
        "SELECT v.cell_id, v.trace, rc.lost_worst, rc.worst_layer, rc.worst_head, rc.worst_step,\n"
        "       (SELECT max(x.peak_oracle_lost) FROM violation x WHERE x.cell_id = v.cell_id AND x.layer = "
        "rc.worst_layer\n"
        "          AND x.head = rc.worst_head AND x.peak_step = rc.worst_step),\n"
        "       (SELECT r.oracle_max FROM result_head r WHERE r.cell_id = v.cell_id AND r.layer = rc.worst_layer AND "
        "r.head = rc.worst_head)\n"
        "  FROM v_cell v JOIN result_cell rc USING(cell_id)\n"
        " WHERE %s AND v.config_id = %lld AND v.budget_id = %lld ORDER BY rc.lost_worst DESC, v.cell_id LIMIT 1",
        s->where, (long long)s->config_id, (long long)s->budget_id);
}

/* The oracle's loss at that step, from the stored series when no violation peaks there. */
static kvt_status verdict_oracle(double *out, kvt__report *r, const kvt__rows *w, kvt_err *err)
{
    kvt__rows s;
    *out = kvt__num(w, 0, COL_ORACLE_THERE);
    if (!isnan(*out)) return KVT_OK;
    KVT_TRY(kvt__rows_read(&s, NULL, r->db, err,
                           "SELECT data, step0 FROM result_series WHERE cell_id = %lld AND layer = %lld AND head = "
                           "%lld AND metric = 'oracle'",
                           (long long)kvt__int(w, 0, COL_CELL), (long long)kvt__int(w, 0, COL_LAYER),
                           (long long)kvt__int(w, 0, COL_HEAD)));
    if (s.n_row) {
        const kvt__value *v = kvt__at(&s, 0, 0);
        const int64_t at = kvt__int(w, 0, COL_STEP) - kvt__int(&s, 0, 1);
        if (at >= 0 && (uint64_t)at < v->n / 4) *out = kvt__q31(v, (size_t)at);
    }
    kvt__rows_free(&s);
    return KVT_OK;
}

static void verdict_sentence(h_page *h, const kvt__scope *s, const kvt__rows *w, double oracle)
{
    const double worst = kvt__num(w, 0, COL_WORST);
    char at[16], number[16];
    h_put(h, "<p class=\"verdict\">At %s of the prompt\xe2\x80\x99s entries, <b>%s</b>", h_percent(at, s->share),
          s->policy);
    if (s->rank.n_ranked > 1 && s->rank.e[0].config_id == s->config_id)
        h_put(h, ", of %zu configurations the one with the smallest %s,", s->rank.n_ranked,
              s->rank.by_mean ? "mean loss" : "tail loss");
    if (!(worst > 0)) {
        h_raw(h, " loses no attention in any head at any step; ");
    } else {
        h_put(h,
              " loses <b class=\"big\">%s</b> of the attention of layer\xc2\xa0%lld, head\xc2\xa0%lld at "
              "step\xc2\xa0%lld of %s; ",
              h_loss(number, worst), (long long)kvt__int(w, 0, COL_LAYER), (long long)kvt__int(w, 0, COL_HEAD),
              (long long)kvt__int(w, 0, COL_STEP), kvt__str(w, 0, COL_TRACE));
        if (!isnan(oracle))
            h_put(h, "<b>%s</b> of it could not have been avoided with this budget; ", h_loss(number, oracle));
        else if (!isnan(kvt__num(w, 0, COL_ORACLE_MAX)))    /* at another step, hence a bound */
            h_put(h, "at most <b>%s</b> of it could not have been avoided with this budget; ",
                  h_loss(number, kvt__num(w, 0, COL_ORACLE_MAX)));
    }
    kvt__put_n(h, s);
    h_raw(h, ".</p>\n");
    if (s->rank.by_mean)
        h_put(h, "<p>The tail does not tell the policies apart here: the CVaR95 of the worst KV head of %zu of %zu lies "
                 "between %s and %s. They are ranked by the mean.</p>\n", s->rank.n_alike, s->rank.n_ranked,
              h_loss(at, s->rank.alike_lo), h_loss(number, s->rank.alike_hi));
}

/* Upper (or lower) end of the two-sided 95 % Clopper-Pearson interval of k of n, by
 * bisection on the binomial tail. */
static double verdict_binomial_tail(uint32_t k, uint32_t n, double p)   /* P(X <= k) */
{
    double sum = 0;
    if (p <= 0) return 1;
    if (p >= 1) return k >= n;
    for (uint32_t i = 0; i <= k; i++)
        sum += exp(lgamma(n + 1.0) - lgamma(i + 1.0) - lgamma(n - i + 1.0) + i * log(p) + (n - i) * log1p(-p));
    return sum;
}

static double verdict_rate_bound(uint32_t k, uint32_t n, int upper)
{
    double lo = 0, hi = 1;
    if (upper ? k == n : k == 0) return upper ? 1 : 0;
    for (int i = 0; i < 60; i++) {
        const double p = (lo + hi) / 2;
        const int below =
            upper ? verdict_binomial_tail(k, n, p) > 0.025 : 1 - verdict_binomial_tail(k - 1, n, p) < 0.025;
        if (below) lo = p;
        else hi = p;
    }
    return (lo + hi) / 2;
}

/* What several clusters allow to say. One cluster allows nothing. */
static kvt_status verdict_clusters(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    enum { ENOUGH = 20 };
    h_page *h = &r->page;
    kvt__rows f;
    uint32_t k, n;
    char a[16], b[16], c[16];
    if (s->n_cluster < 2) return KVT_OK;
    KVT_TRY(kvt__rows_read(&f, NULL, r->db, err,
                           "SELECT sum(failed), count(*) FROM (SELECT max(failed) AS failed FROM v_trace_fail WHERE "
                           "model_id = %lld AND split = %Q\n"
                           "   AND config_id = %lld AND budget_id = %lld AND tau = 0.5 GROUP BY cluster_id)",
                           (long long)s->model_id, s->split, (long long)s->config_id, (long long)s->budget_id));
    if (kvt__int(&f, 0, 1) > 0) {
        k = (uint32_t)kvt__int(&f, 0, 0);
        n = (uint32_t)kvt__int(&f, 0, 1);
        h_put(h, "<p>%u of %u documents have a step that loses more than 0.5: rate %s [95\xc2\xa0%% %s .. %s].", k, n,
              h_percent(a, (double)k / n), h_percent(b, verdict_rate_bound(k, n, 0)),
              h_percent(c, verdict_rate_bound(k, n, 1)));
        if (n >= ENOUGH)
            h_put(h, " With 95\xc2\xa0%% confidence at most %s of documents are worse than the worst seen.",
                  h_percent(a, 1 - pow(0.05, 1.0 / n)));
        h_raw(h, "</p>\n");
    }
    kvt__rows_free(&f);
    return KVT_OK;
}

static kvt_status verdict_tiles(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    static const char *const name[5] = {"mean over heads and steps", "CVaR95 of the worst KV head", "worst step",
                                        "worst step, sinks excluded", "worst step, oracle"};
    h_page *h = &r->page;
    kvt__rows f;
    KVT_TRY(kvt__rows_read(&f, NULL, r->db, err,
        "SELECT mean_lost, cvar95_worst_head, worst_lost, worst_lost_ns, oracle_worst FROM v_policy_summary\n"
        " WHERE model_id = %lld AND split = %Q AND config_id = %lld AND budget_id = %lld",
        (long long)s->model_id, s->split, (long long)s->config_id, (long long)s->budget_id));
    h_put(h, "<dl class=\"tiles\" aria-label=\"Loss of %s\">", s->policy);
    for (size_t i = 0; f.n_row && i < 5; i++) {
        char number[16];
        h_put(h, "<div><dt>%s</dt><dd>%s</dd></div>", name[i], h_loss(number, kvt__num(&f, 0, i)));
    }
    h_raw(h, "</dl>\n");
    kvt__rows_free(&f);
    return KVT_OK;
}

static kvt_status verdict_body(kvt__report *r, const kvt__scope *s, kvt_err *err)
{
    kvt__rows w;
    double oracle = NAN;
    kvt_status st = verdict_worst(&w, r, s, err);
    if (st < 0) return st;
    if (w.n_row) {
        KVT_TRY_GOTO(st, verdict_oracle(&oracle, r, &w, err));
        verdict_sentence(&r->page, s, &w, oracle);
        KVT_TRY_GOTO(st, verdict_clusters(r, s, err));
        KVT_TRY_GOTO(st, verdict_tiles(r, s, err));
        h_raw(&r->page, "<p class=\"not\">Not shown: feedback of evictions on later tokens.</p>\n");
    }
done:
    kvt__rows_free(&w);
    return st;
}

kvt_status kvt__panel_verdict(kvt__report *r, kvt_err *err)
{
    return kvt__section(r, "verdict", "Verdict", verdict_body,
        "No finished cell, hence no verdict. kvtrace replay TRACE.h5 -o RESULTS.db computes them.", err);
}
