/* ranking.h - the order of the configurations of one model at one budget.
 *
 * The first key is CVaR95 of the worst KV head. Where more than half of the policies have
 * it within KVT__ALIKE of each other it does not say which is better, and the mean loss is
 * the first key. Ranked are the policies that were measured on the same traces, as many as
 * there are; a policy that was measured on others has numbers of other text and no place. */
#ifndef RANKING_H
#define RANKING_H

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>
#include "kvt_status.h"

#define KVT__ALIKE 0.01             /* losses that differ by less are called alike     */
#define KVT__FEWEST_CLUSTERS 6      /* below, no sign test can reach 5 %               */

typedef enum kvt__role { KVT__POLICY, KVT__BASELINE, KVT__ORACLE } kvt__role;

typedef struct kvt__budget {
    int64_t budget_id;
    char   *label;
    double  share;                  /* asked for, of the prompt's entries              */
} kvt__budget;

typedef struct kvt__entry {         /* one configuration                               */
    int64_t   config_id;
    char     *label, *policy;       /* as stored: not printable yet                    */
    kvt__role role;
    int       aware;                /* its score sees the question                     */
    int       here;                 /* has results at the budget; without: no figures  */
    unsigned  place;                /* 1 .. n_ranked; 0 = none                         */
    int       leads;                /* has the best place of the forms of its policy   */
    int       apart, apart_first;   /* from the one above, from the first: see n_cluster */
    uint32_t  n_trace;
    double    held, mean, cvar95, worst, worst_ns;
    double   *at;                   /* [n_budget] value of the first key; NaN = none   */
    size_t    first_trace;
} kvt__entry;

typedef struct kvt__ranking {
    kvt__entry  *e;                 /* policies in their order, those without a place, */
    size_t       n;                 /* those without results here; baselines; oracles  */
    size_t       n_ranked;
    int          by_mean;           /* CVaR95 does not separate the policies           */
    size_t       n_alike;           /* largest group of policies with CVaR95 alike ... */
    double       alike_lo, alike_hi;/* ... and its ends                                */
    uint32_t     n_trace;           /* of the ranked policies                          */
    uint32_t     n_cluster;         /* of the same. At least KVT__FEWEST_CLUSTERS: two
                                     * are apart by a sign test over clusters, 5 %, Holm
                                     * over all pairs; fewer: they differ by KVT__ALIKE */
    kvt__budget *budget;            /* smallest first                                  */
    size_t       n_budget;
} kvt__ranking;

kvt_status kvt__ranking_read(kvt__ranking *out, sqlite3 *db, int64_t model_id, const char *split,
                             int64_t budget_id, kvt_err *err) KVT_NODISCARD;
void       kvt__ranking_free(kvt__ranking *r);

double            kvt__entry_value(const kvt__ranking *r, const kvt__entry *e); /* of the first key */
const kvt__entry *kvt__ranking_find(const kvt__ranking *r, int64_t config_id);  /* NULL = none      */
const char       *kvt__ranking_key(const kvt__ranking *r);                      /* "mean", "CVaR95" */

/* Of n values in ascending order, the most that lie within KVT__ALIKE of each other;
 * *first is where they begin. */
size_t kvt__most_alike(const double *sorted, size_t n, size_t *first);
/* Two-sided p of the sign test, of the pairs of a and b that differ by more than 1e-6. */
double kvt__sign_test(const double *a, const double *b, size_t n);
/* Holm's adjustment of n values of p, in place. Returns 0 without memory. */
int    kvt__holm(double *p, size_t n);

#endif
