/* store_violation.c - rows of violation and violation_token: nine tenths of the rows of a
 * cell, so a statement takes many at a time. All violations of a cell come first, then the
 * entries, each table in the order of its key. */
#include "store_impl.h"

static void fill_violation(kvt__row *r, int64_t violation_id, int64_t cell_id, int64_t tau_id, const kvt_violation *x)
{
    kvt__add_int(r, violation_id);
    kvt__add_int(r, cell_id);
    kvt__add_int(r, x->layer);
    kvt__add_int(r, x->head);
    kvt__add_int(r, tau_id);
    kvt__add_int(r, x->start_step);
    kvt__add_int(r, x->n_step);
    kvt__add_int(r, x->peak_step);
    kvt__add_real(r, x->peak_lost);
    kvt__add_real(r, x->peak_oracle_lost);
    kvt__add_real(r, x->excess_area);
    kvt__add_text(r, kvt_cause_name(x->cause));
    kvt__add_int_if(r, x->foreseeable >= 0, x->foreseeable);
    kvt__add_int_if(r, x->recurrent >= 0, x->recurrent);
    kvt__add_real(r, x->share_top1);
    kvt__add_real(r, x->share_top5);
    kvt__add_real(r, x->share_top20);
}

static void fill_token(kvt__row *r, int64_t violation_id, uint32_t ord, const kvt_responsible *e)
{
    kvt__add_int(r, violation_id);
    kvt__add_int(r, ord);
    kvt__add_int(r, e->pos);
    kvt__add_real(r, e->mass_share);
    kvt__add_int(r, e->evicted_step);
    kvt__add_int_if(r, e->rank > 0, e->rank);
    kvt__add_real(r, e->score);
    kvt__add_real(r, e->score_margin);
    kvt__add_int_if(r, e->last_important >= -1, e->last_important);
    kvt__add_int_if(r, e->idle_steps >= 0, e->idle_steps);
}

kvt_status kvt__add_violations(kvt_store *s, const kvt_cell *cell, int64_t cell_id, const int64_t *tau_id,
                               const kvt_violation *x, size_t n, kvt_err *err)
{
    kvt__batch b = {.s = s, .cell = cell, .table = "violation", .one = KVT__ADD_VIOLATION, .left = n};
    kvt__batch t = {.s = s, .cell = cell, .table = "violation_token", .one = KVT__ADD_TOKEN};
    int64_t first;
    kvt__row r = kvt__row_begin(s, KVT__VIOLATION_NEXT);

    KVT_TRY(kvt__row_find(s, &r, cell, "violation", &first, err));
    for (size_t i = 0; i < n; i++) {
        kvt__batch_row(&b);
        fill_violation(&b.r, first + (int64_t)i, cell_id, tau_id[x[i].tau], &x[i]);
        KVT_TRY(kvt__batch_end_row(&b, err));
        t.left += x[i].n_responsible;
    }
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < x[i].n_responsible; k++) {
            kvt__batch_row(&t);
            fill_token(&t.r, first + (int64_t)i, k + 1, &x[i].responsible[k]);
            KVT_TRY(kvt__batch_end_row(&t, err));
        }
    return KVT_OK;
}
