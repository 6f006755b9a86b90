/* bench_growth.c - how the time of a replay grows, and what its database costs. */
#include "bench_replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "kvt_store.h"

/* ---- curves: one blob for each head, or one prepared row for each head and budget ------ */

enum { CURVE_LAYERS = 30, CURVE_HEADS = 9, CURVE_ROWS = CURVE_LAYERS * (CURVE_HEADS + 1) + 1, CURVES_AT_ONCE = 8 };

typedef struct bench_curves {
    kvt_curve_id  id;
    kvt_curve_row row[CURVE_ROWS];
    uint32_t      kept[KVT_CURVE_POINTS];
    uint32_t     *q31;              /* [CURVE_ROWS][KVT_CURVE_METRICS][KVT_CURVE_POINTS] */
    kvt_store    *store;            /* blobs                                           */
    sqlite3      *db;               /* rows, in a file of its own                      */
    sqlite3_stmt *add;
    char          path[2][1024];
} bench_curves;

static kvt_status curves_sql(bench_curves *c, const char *sql, kvt_err *err)
{
    if (sqlite3_exec(c->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return KVT_OK;
    return kvt_fail(err, KVT_EDB, "%s: %s", c->path[0], sqlite3_errmsg(c->db));
}

static kvt_status curves_as_rows(void *arg, double *s, kvt_err *err)
{
    bench_curves *c = arg;

    (void)s;
    for (uint32_t k = 0; k < CURVES_AT_ONCE; k++) {
        c->id.seed++;
        KVT_TRY(curves_sql(c, "BEGIN IMMEDIATE", err));
        for (uint32_t i = 0; i < CURVE_ROWS; i++)
            for (uint32_t p = 0; p < KVT_CURVE_POINTS; p++) {
                sqlite3_bind_int64(c->add, 1, (int64_t)c->id.seed);
                sqlite3_bind_int(c->add, 2, c->row[i].layer);
                sqlite3_bind_int(c->add, 3, c->row[i].head);
                sqlite3_bind_int64(c->add, 4, c->kept[p]);
                for (uint32_t m = 0; m < KVT_CURVE_METRICS; m++)
                    sqlite3_bind_double(c->add, 5 + (int)m, c->row[i].q31[m * KVT_CURVE_POINTS + p] * 0x1p-31);
                if (sqlite3_step(c->add) != SQLITE_DONE)
                    return kvt_fail(err, KVT_EDB, "%s: %s", c->path[0], sqlite3_errmsg(c->db));
                sqlite3_reset(c->add);
            }
        KVT_TRY(curves_sql(c, "COMMIT", err));
    }
    return KVT_OK;
}

static kvt_status curves_as_blobs(void *arg, double *s, kvt_err *err)
{
    bench_curves *c = arg;
    const kvt_sink sink = kvt_store_sink(c->store);

    (void)s;
    for (uint32_t k = 0; k < CURVES_AT_ONCE; k++) {
        c->id.seed++;
        KVT_TRY(sink.ops->curve_store(sink.self, &c->id, c->row, CURVE_ROWS, err));
    }
    return KVT_OK;
}

static void curves_unlink(const bench_curves *c)
{
    static const char *const suffix[] = { "", "-wal", "-shm" };
    char name[sizeof c->path[0] + 8];

    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "%s%s", c->path[i / 3], suffix[i % 3]);
        unlink(name);
    }
}

static void curves_free(bench_curves *c)
{
    if (!c)
        return;
    sqlite3_finalize(c->add);
    sqlite3_close(c->db);
    kvt_store_close(c->store);
    curves_unlink(c);
    free(c->q31);
    free(c);
}

/* The heads of a layer, the layer; the model last. */
static void curves_fill(bench_curves *c, uint64_t seed)
{
    const size_t n = (size_t)KVT_CURVE_METRICS * KVT_CURVE_POINTS;

    for (uint32_t i = 0; i < CURVE_ROWS; i++) {
        const int32_t at = (int32_t)(i % (CURVE_HEADS + 1)), last = i == CURVE_ROWS - 1;
        c->row[i] = (kvt_curve_row){ .layer = last ? -1 : (int32_t)(i / (CURVE_HEADS + 1)), .head = last || at == CURVE_HEADS ? -1 : at,
                                     .q31 = c->q31 + i * n };
    }
    for (size_t k = 0; k < CURVE_ROWS * n; k++)
        c->q31[k] = (uint32_t)(bench_uniform(seed, 64, k) * 0x1p31);
}

/* The same pages, log and durability on both sides. */
static kvt_status curves_new(bench_curves **out, const bench_replay *w, const bench_conf *conf, kvt_err *err)
{
    static char word[] = "bench";
    char *argv[] = { word, NULL };
    const kvt_run_info run = { .command = "bench", .argc = 1, .argv = argv, .config_sha256 = "", .seed = conf->seed, .n_threads = 1, .isa = "none" };
    bench_curves *c = calloc(1, sizeof *c);
    kvt_status st;

    if (!c || !(c->q31 = malloc(sizeof *c->q31 * CURVE_ROWS * KVT_CURVE_METRICS * KVT_CURVE_POINTS))) {
        free(c);
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    curves_fill(c, conf->seed);
    c->id = (kvt_curve_id){ .trace = w->src.info, .trace_path = w->src.path, .config = &w->config[0]->info, .kept = c->kept,
                            .n_point = kvt_curve_grid(1u << 20, KVT_CURVE_POINTS, c->kept) };
    snprintf(c->path[0], sizeof c->path[0], "%s/rows.db", conf->dir);
    snprintf(c->path[1], sizeof c->path[1], "%s/blobs.db", conf->dir);
    curves_unlink(c);
    if (sqlite3_open(c->path[0], &c->db) != SQLITE_OK) {
        st = kvt_fail(err, KVT_EIO, "%s: %s", c->path[0], sqlite3_errmsg(c->db));
        goto done;
    }
    KVT_TRY_GOTO(st, curves_sql(c, "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-65536;"
                                "CREATE TABLE point(curve INTEGER NOT NULL, layer INTEGER NOT NULL, head INTEGER NOT NULL, kept INTEGER NOT NULL,"
                                " lost_mean REAL NOT NULL, lost_q95 REAL NOT NULL, lost_cvar95 REAL NOT NULL, lost_max REAL NOT NULL,"
                                " PRIMARY KEY(curve, layer, head, kept)) STRICT, WITHOUT ROWID", err));
    if (sqlite3_prepare_v3(c->db, "INSERT INTO point VALUES(?,?,?,?,?,?,?,?)", -1, SQLITE_PREPARE_PERSISTENT, &c->add, NULL) != SQLITE_OK) {
        st = kvt_fail(err, KVT_EDB, "%s: %s", c->path[0], sqlite3_errmsg(c->db));
        goto done;
    }
    KVT_TRY_GOTO(st, kvt_store_open(&c->store, c->path[1], &run, err));
    *out = c;
    return KVT_OK;
done:
    curves_free(c);
    return st;
}

static kvt_status store_curves(bench_out *o, const bench_replay *w, kvt_err *err)
{
    const double n = (double)CURVES_AT_ONCE * CURVE_ROWS * KVT_CURVE_POINTS;
    bench_curves *c = NULL;
    bench_times rt, bt;
    bench_item *it;
    kvt_status st;

    KVT_TRY(curves_new(&c, w, &o->conf, err));
    KVT_TRY_GOTO(st, bench_pair(&o->conf, curves_as_rows, c, curves_as_blobs, c, &rt, &bt, err));
    it = bench_add(o, "curves as blobs, speed over rows");
    it->time = bt;
    it->elements = n;
    bench_reference(it, "a row per head and budget", &rt, n, "rows/s");
    it->ratio = rt.min_s / bt.min_s;
    bench_target_add(o, "D1", it->ratio, ">=", 8);
    bench_note(o, "curves: %d of %d layers x %d heads at %u budgets; a row holds all %d metrics and is inserted by a prepared statement in the order of its key",
               CURVES_AT_ONCE, CURVE_LAYERS, CURVE_HEADS, KVT_CURVE_POINTS, KVT_CURVE_METRICS);
done:
    curves_free(c);
    return st;
}

kvt_status bench_store(bench_out *o, kvt_err *err)
{
    bench_replay *with = NULL, *without = NULL;
    bench_times rt, st_;
    bench_item *it;
    kvt_status st;

    KVT_TRY(bench_replay_sizes(&o->conf, 1024, 128, 8, 8, err));
    KVT_TRY_GOTO(st, bench_replay_new(&without, &o->conf, "without", 0, err));
    KVT_TRY_GOTO(st, bench_replay_new(&with, &o->conf, "with", 1, err));
    KVT_TRY_GOTO(st, bench_pair(&o->conf, bench_replay_once, without, bench_replay_once, with, &rt, &st_, err));
    it = bench_add(o, "sweep with store, over without");
    it->time = st_;
    it->extra[0].name = "cells", it->extra[0].value = with->n_cells;
    it->extra[1].name = "ms_per_cell", it->extra[1].value = (st_.min_s - rt.min_s) / with->n_cells * 1e3;
    bench_reference(it, "sweep without store", &rt, 0, "s");
    it->ratio = st_.min_s / rt.min_s;
    bench_target_add(o, "D1", it->ratio, "<=", 1.10);
    st = store_curves(o, with, err);
done:
    bench_replay_free(with);
    bench_replay_free(without);
    return st;
}

/* Twice as much of one thing: ratio 2 is linear, 1 is free. */
static kvt_status growth_item(bench_out *o, bench_replay *base, const bench_conf *twice, const char *what, uint32_t times, kvt_err *err)
{
    bench_replay *w = NULL;
    bench_times rt, et;
    bench_item *it;
    kvt_status st;

    KVT_TRY(bench_replay_new(&w, twice, what, BENCH_CURVES, err));
    KVT_TRY_GOTO(st, bench_pair(&o->conf, bench_replay_once, base, bench_replay_once, w, &rt, &et, err));
    it = bench_add(o, "%u x %s", times, what);
    it->time = et;
    it->extra[0].name = "cells", it->extra[0].value = w->n_cells;
    bench_reference(it, "replay at 1 x", &rt, 0, "s");
    it->ratio = et.min_s / rt.min_s;
done:
    bench_replay_free(w);
    return st;
}

kvt_status bench_scale(bench_out *o, kvt_err *err)
{
    bench_replay *base = NULL;
    bench_conf c;
    kvt_status st;

    KVT_TRY(bench_replay_sizes(&o->conf, 1024, 128, 4, 8, err));
    KVT_TRY(bench_replay_new(&base, &o->conf, "base", BENCH_CURVES, err));
    c = o->conf, c.layers *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "layers", 2, err));
    c = o->conf, c.steps *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "steps", 2, err));
    c = o->conf, c.n *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "keys", 2, err));
    c = o->conf, c.budgets[0] *= 2;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "budgets", 2, err));
    c = o->conf, c.budgets[0] *= 4;
    KVT_TRY_GOTO(st, growth_item(o, base, &c, "budgets", 4, err));
    bench_note(o, "curves, dropped instead of stored; expected: 2 for layers, steps and keys, 1 for budgets");
done:
    bench_replay_free(base);
    return st;
}
