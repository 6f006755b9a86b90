/* summary_table.c - the configurations at one budget, a line each: traces and seeds
 * together, in the order of ranking.h. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_text.h"
#include "summary_impl.h"

enum { N_BEST = 6 };                /* policies with a line, of many configurations   */

typedef struct more_facts { int64_t n_seed; double n_half; } more_facts;     /* of one entry of the ranking */

static kvt_status read_facts(const kvt__summary *p, more_facts *more, kvt_err *err)
{
    static const char sql[] =
        "SELECT v.config_id, count(DISTINCT c.seed), 1.0 * sum((SELECT count(*) FROM result_head_tau x JOIN tau t"
        "  USING(tau_id) WHERE x.cell_id = v.cell_id AND t.tau = 0.5 AND x.n_exceed > 0)) / count(*)"
        " FROM v_cell v JOIN cell c USING(cell_id) WHERE v.model_id = ?1 AND v.split = ?2 AND v.budget_id = ?3"
        " AND v.status = 'done' GROUP BY v.config_id";
    sqlite3_stmt *st;
    int step;

    KVT_TRY(kvt__summary_query(p, sql, 0, &st, err));
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const kvt__entry *e = kvt__ranking_find(&p->rank, sqlite3_column_int64(st, 0));
        if (e) more[e - p->rank.e] = (more_facts){sqlite3_column_int64(st, 1), sqlite3_column_double(st, 2)};
    }
    return kvt__summary_end(p, st, step, err);
}

/* "random (5 seeds)", "cake (1 of 2 traces)" */
static void entry_label(char out[LABEL_SIZE + 64], const kvt__summary *p, const kvt__entry *e, const more_facts *more)
{
    size_t n;

    kvt_printable_str(out, LABEL_SIZE, e->label);
    n = strlen(out);
    if (more->n_seed > 1) n += (size_t)snprintf(out + n, 32, " (%" PRId64 " seeds)", more->n_seed);
    if (e->role == KVT__POLICY && !e->place)
        snprintf(out + n, 64, " (%u of %" PRId64 " traces)", (unsigned)e->n_trace, p->n_trace);
}

/* Of many configurations: the best policies, one of each baseline (the one without
 * parameters if it is there), the oracles. */
static int entry_shown(const kvt__summary *p, size_t i)
{
    const kvt__ranking *r = &p->rank;
    size_t first = i;

    if (!r->e[i].here) return 0;
    if (r->n <= KVT__MANY || r->e[i].role == KVT__ORACLE) return 1;
    if (r->e[i].role == KVT__POLICY) return i < N_BEST;
    for (size_t k = r->n; k-- > 0;)
        if (r->e[k].here && strcmp(r->e[k].policy, r->e[i].policy) == 0 && strcmp(r->e[first].label, r->e[i].policy) != 0)
            first = k;
    return first == i && strcmp(r->e[i].policy, "full") != 0;
}

static void print_entry(const kvt__summary *p, const kvt__entry *e, const more_facts *more, int width)
{
    const double value[5] = {e->held, e->mean, e->cvar95, e->worst, e->worst_ns};
    char label[LABEL_SIZE + 64], text[6][16], place[24] = "";

    entry_label(label, p, e, more);
    if (kvt__columns(label) > width) {                 /* cut between characters */
        size_t n = 0;
        for (int at = 0; at < width - 2 || (label[n] & 0xc0) == 0x80; n++)
            if ((label[n + 1] & 0xc0) != 0x80) at++;
        strcpy(label + n, "..");
    }
    for (int i = 0; i < 5; i++) kvt__digits(text[i], value[i]);
    if (more->n_half == floor(more->n_half)) snprintf(text[5], sizeof text[5], "%.0f", more->n_half);
    else kvt__digits(text[5], more->n_half);
    if (e->place && p->rank.n_ranked > 1) snprintf(place, sizeof place, "%s%u", e->place > 1 && !e->apart ? "~" : "", e->place);
    fprintf(p->out, "%3s %s%*s %5s %6s %6s %6s %8s %4s\n", place, label, width - kvt__columns(label), "", text[0], text[1],
            text[2], text[3], text[4], text[5]);
}

static const char *role_heading(kvt__role role)
{
    if (role == KVT__POLICY) return "policies";
    return role == KVT__BASELINE ? "baselines" : "bounds (these know the future)";
}

static void print_left_out(const kvt__summary *p)
{
    const kvt__ranking *r = &p->rank;
    char worst[40] = "", value[16];
    size_t n = 0;

    for (size_t i = 0; i < r->n; i++) n += r->e[i].role == KVT__POLICY && !entry_shown(p, i);
    if (!n) return;
    if (r->n_ranked > N_BEST)
        snprintf(worst, sizeof worst, ", up to a %s of %s", kvt__ranking_key(r),
                 kvt__digits(value, kvt__entry_value(r, &r->e[r->n_ranked - 1])));
    fprintf(p->out, "    ... %zu more%s; kvtrace report shows all\n", n, worst);
}

static void print_legend(const kvt__summary *p)
{
    const char *per_trace = p->n_trace > 1 ? ", mean per trace" : "";

    if (p->rank.n > KVT__MANY)
        kvt__say(p->out, "CVaR95: the worst 5 %% of the steps of the worst KV head. no sinks: without positions 0 "
                 "to 3. >0.5: heads with a step that loses more than half%s.", per_trace);
    else
        kvt__say(p->out, "held: share of the prompt's entries that stay. mean: over heads and steps. CVaR95: mean "
                        "of the worst 5 %% of the steps of the worst KV head%s. worst: largest loss of any head and "
                        "step. no sinks: the same without positions 0 to 3. >0.5: query heads with a step that loses "
                        "more than half%s.", p->n_trace > 1 ? ", mean over traces" : "", per_trace);
}

/* What the order rests on, before it. */
static void print_order(const kvt__summary *p)
{
    const kvt__ranking *r = &p->rank;
    char lo[16], hi[16], why[160] = "", test[200];

    if (r->n_ranked < 2) return;
    if (r->by_mean)
        snprintf(why, sizeof why, "CVaR95 does not separate these policies: %zu of %zu lie between %s and %s. ", r->n_alike,
                 r->n_ranked, kvt__digits(lo, r->alike_lo), kvt__digits(hi, r->alike_hi));
    if (r->n_cluster < KVT__FEWEST_CLUSTERS)
        snprintf(test, sizeof test, "~: within 0.01 of the line above; a test of the order needs %d clusters",
                 KVT__FEWEST_CLUSTERS);
    else snprintf(test, sizeof test, "~: not separated from the line above by a sign test over clusters");
    kvt__say(p->out, "%sOrdered by the %s (%s).", why, r->by_mean ? "mean" : "CVaR95 of the worst KV head", test);
}

kvt_status kvt__summary_table(const kvt__summary *p, kvt_err *err)
{
    enum { LEAST = 18, MOST = 35 };               /* width of a label */
    const kvt__ranking *r = &p->rank;
    more_facts *more = calloc(r->n + 1, sizeof *more);
    char label[LABEL_SIZE + 64];
    int width = LEAST, role = -1;
    kvt_status st;

    if (!more) return kvt_fail(err, KVT_ENOMEM, "out of memory for %zu configurations", r->n);
    st = read_facts(p, more, err);
    for (size_t i = 0; i < r->n && st == KVT_OK; i++) {
        if (!entry_shown(p, i)) continue;
        entry_label(label, p, &r->e[i], &more[i]);
        if (kvt__columns(label) > width) width = kvt__columns(label) < MOST ? kvt__columns(label) : MOST;
    }
    if (st == KVT_OK) {
        print_order(p);
        fprintf(p->out, "%-*s %5s %6s %6s %6s %8s %4s\n", width + 4, "share lost, 0..1", "held", "mean", "CVaR95", "worst",
                "no sinks", ">0.5");
    }
    for (size_t i = 0; i < r->n && st == KVT_OK; i++) {
        if (!entry_shown(p, i)) continue;
        if (role == KVT__POLICY && r->e[i].role != KVT__POLICY) print_left_out(p);
        if (role != (int)r->e[i].role) fprintf(p->out, "%s\n", role_heading(r->e[i].role));
        role = (int)r->e[i].role;
        print_entry(p, &r->e[i], &more[i], width);
    }
    free(more);
    if (st == KVT_OK) print_legend(p);
    return st;
}
