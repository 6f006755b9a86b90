/* store_refs.c - the tables that a cell refers to: model, data set, trace, policy,
 * configuration, budget. Rows are found by their natural keys and added when they are new;
 * all of it happens inside the transaction that claims the cell. */
#include "store_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_sha256.h"
#include "kvt_text.h"

static const char *provenance(const kvt_trace_info *t, const char *name)
{
    for (uint32_t i = 0; i < t->n_provenance; i++)
        if (strcmp(t->provenance[i].name, name) == 0 && t->provenance[i].value[0]) return t->provenance[i].value;
    return NULL;
}

static int same_layers(sqlite3_stmt *st, const kvt_trace_info *t, int *code)
{
    uint32_t n = 0;

    while ((*code = sqlite3_step(st)) == SQLITE_ROW) {
        const kvt_layer_info *l = &t->layer[n];
        if (n++ == t->n_layers) return 0;
        if (sqlite3_column_int64(st, 0) != l->n_heads || sqlite3_column_int64(st, 1) != l->n_kv_heads
            || sqlite3_column_int64(st, 2) != l->d_k || sqlite3_column_int64(st, 3) != l->d_v
            || strcmp((const char *)sqlite3_column_text(st, 4), kvt_attn_name(l->attn)) != 0
            || sqlite3_column_int64(st, 5) != l->window)
            return 0;
    }
    return *code == SQLITE_DONE && n == t->n_layers;
}

/* First 8 hex digits of the SHA-256 of the shape of all layers. */
static void shape_hash(const kvt_trace_info *t, char out[9])
{
    char text[160], hex[65];
    uint8_t digest[32];
    kvt_sha256 h;

    kvt_sha256_init(&h);
    for (uint32_t i = 0; i < t->n_layers; i++) {
        const kvt_layer_info *l = &t->layer[i];
        const int n = snprintf(text, sizeof text, "%u %u %u %u %s %u\n", l->n_heads, l->n_kv_heads, l->d_k, l->d_v,
                               kvt_attn_name(l->attn), l->window);
        kvt_sha256_update(&h, text, (size_t)n);
    }
    kvt_sha256_final(&h, digest);
    kvt_sha256_hex(digest, hex);
    snprintf(out, 9, "%.8s", hex);
}

static kvt_status add_model(kvt_store *s, const kvt_cell *cell, const char *name, const char *revision,
                            int64_t *id, kvt_err *err)
{
    const kvt_trace_info *t = cell->trace;
    kvt__row r = kvt__row_begin(s, KVT__MODEL_ADD);

    kvt__add_printable(&r, name);
    kvt__add_printable(&r, revision);
    kvt__add_int(&r, t->n_layers);
    KVT_TRY(kvt__row_run(s, &r, cell, "model", err));
    *id = sqlite3_last_insert_rowid(s->db);
    for (uint32_t i = 0; i < t->n_layers; i++) {
        const kvt_layer_info *l = &t->layer[i];
        r = kvt__row_begin(s, KVT__MODEL_LAYER_ADD);
        kvt__add_int(&r, *id);
        kvt__add_int(&r, i);
        kvt__add_int(&r, l->n_heads);
        kvt__add_int(&r, l->n_kv_heads);
        kvt__add_int(&r, l->d_k);
        kvt__add_int(&r, l->d_v);
        kvt__add_text(&r, kvt_attn_name(l->attn));
        kvt__add_int_if(&r, l->window > 0, l->window);
        KVT_TRY(kvt__row_run(s, &r, cell, "model_layer", err));
    }
    return KVT_OK;
}

/* A name and revision that are there already with other layers are another model: its
 * revision gets "+" and the shape hash, so that unequal shapes are never averaged. */
static kvt_status need_model(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err)
{
    const kvt_trace_info *t = cell->trace;
    const char *name = provenance(t, "model_name"), *revision = provenance(t, "model_revision");
    char *changed = NULL, hash[9];
    kvt_status rc = KVT_OK;

    if (!name) name = strcmp(t->exactness, "synthetic") == 0 ? "(synthetic)" : "(unknown)";
    if (!revision) revision = "";
    for (int attempt = 0; attempt < 2; attempt++) {
        kvt__row r = kvt__row_begin(s, KVT__MODEL_FIND);
        int code = SQLITE_DONE, same;
        kvt__add_printable(&r, name);
        kvt__add_printable(&r, revision);
        KVT_TRY_GOTO(rc, kvt__row_find(s, &r, cell, "model", id, err));
        if (*id == 0) {
            rc = add_model(s, cell, name, revision, id, err);
            goto done;
        }
        r = kvt__row_begin(s, KVT__MODEL_LAYERS);
        kvt__add_int(&r, *id);
        same = r.code == SQLITE_OK && same_layers(r.st, t, &code);
        if (r.st) sqlite3_reset(r.st);
        if (same) goto done;
        if (r.code != SQLITE_OK || (code != SQLITE_ROW && code != SQLITE_DONE)) {
            rc = kvt__row_fail(s, &r, cell, "model_layer", err);
            goto done;
        }
        if (attempt == 1) break;
        shape_hash(t, hash);
        changed = malloc(strlen(revision) + 10);
        if (!changed) {
            rc = kvt_fail(err, KVT_ENOMEM, "%s: out of memory", s->shown);
            goto done;
        }
        sprintf(changed, "%s+%s", revision, hash);
        revision = changed;
    }
    rc = kvt_fail(err, KVT_EDB, "%s: the layers of this trace's model differ from those stored under the same name "
                  "and shape; use a new file", s->shown);
done:
    free(changed);
    return rc;
}

static kvt_status need_dataset(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err)
{
    const char *name = provenance(cell->trace, "corpus"), *revision = provenance(cell->trace, "corpus_revision");
    const char *licence = provenance(cell->trace, "license_note");
    kvt__row r = kvt__row_begin(s, KVT__DATASET_FIND);

    kvt__add_printable(&r, name ? name : "(unknown)");
    kvt__add_printable(&r, revision ? revision : "");
    KVT_TRY(kvt__row_find(s, &r, cell, "dataset", id, err));
    if (*id) return KVT_OK;
    r = kvt__row_begin(s, KVT__DATASET_ADD);
    kvt__add_printable(&r, name ? name : "(unknown)");
    kvt__add_printable(&r, revision ? revision : "");
    if (licence) kvt__add_printable(&r, licence);
    else kvt__add_null(&r);
    KVT_TRY(kvt__row_run(s, &r, cell, "dataset", err));
    *id = sqlite3_last_insert_rowid(s->db);
    return KVT_OK;
}

static kvt_status add_tokens(kvt_store *s, const kvt_cell *cell, int64_t trace_id, kvt_err *err)
{
    const kvt_trace_info *t = cell->trace;

    for (uint32_t i = 0; i < t->n_tokens; i++) {
        kvt__row r = kvt__row_begin(s, KVT__TOKEN_ADD);
        kvt__add_int(&r, trace_id);
        kvt__add_int(&r, i);
        kvt__add_int(&r, t->token_id ? t->token_id[i] : -1);
        if (t->text && t->text_offset && r.st) {   /* an empty token is an empty blob, not NULL */
            const int64_t begin = t->text_offset[i], n = t->text_offset[i + 1] - begin;
            kvt__add_code(&r, n > 0 ? sqlite3_bind_blob64(r.st, ++r.col, t->text + begin, (sqlite3_uint64)n, SQLITE_TRANSIENT)
                                : sqlite3_bind_zeroblob(r.st, ++r.col, 0));
        } else {
            kvt__add_null(&r);
        }
        KVT_TRY(kvt__row_run(s, &r, cell, "trace_token", err));
    }
    return KVT_OK;
}

static kvt_status add_segment(kvt_store *s, const kvt_cell *cell, int64_t trace_id, uint32_t *seg_no,
                              const char *kind, int64_t begin, int64_t end, kvt_err *err)
{
    kvt__row r = kvt__row_begin(s, KVT__SEGMENT_ADD);

    kvt__add_int(&r, trace_id);
    kvt__add_int(&r, (*seg_no)++);
    kvt__add_text(&r, kind);
    kvt__add_text(&r, kind);
    kvt__add_int(&r, begin);
    kvt__add_int(&r, end);
    return kvt__row_run(s, &r, cell, "trace_segment", err);
}

/* The spans of the trace and the generated part, by start, then descending end. */
static kvt_status add_segments(kvt_store *s, const kvt_cell *cell, int64_t trace_id, kvt_err *err)
{
    static const char *const kind[] = {"other", "system", "user", "assistant", "tool", "document", "question",
                                       "answer", "needle", "image", "reasoning"};
    const uint32_t n_kind = sizeof kind / sizeof kind[0];
    const kvt_trace_info *t = cell->trace;
    uint32_t seg_no = 0;
    int generated = t->n_decode == 0;              /* nothing to add */

    for (uint32_t i = 0; i < t->n_spans; i++) {
        const uint32_t k = (uint32_t)t->span_kind[i];
        if (!generated && (t->span_begin[i] > t->n_prompt
                           || (t->span_begin[i] == t->n_prompt && t->span_end[i] < t->n_tokens))) {
            generated = 1;
            KVT_TRY(add_segment(s, cell, trace_id, &seg_no, "generated", t->n_prompt, t->n_tokens, err));
        }
        KVT_TRY(add_segment(s, cell, trace_id, &seg_no, kind[k < n_kind ? k : 0], t->span_begin[i], t->span_end[i], err));
    }
    if (!generated) KVT_TRY(add_segment(s, cell, trace_id, &seg_no, "generated", t->n_prompt, t->n_tokens, err));
    return KVT_OK;
}

/* The stored type of the first layer that has a tensor, or NULL. */
static const char *first_type(const kvt_trace_info *t, kvt_tensor tensor)
{
    for (uint32_t i = 0; i < t->n_layers; i++) {
        const kvt_layer_info *l = &t->layer[i];
        if (l->has & (1u << tensor))
            return kvt_dtype_name(tensor == KVT_T_K ? l->k_type : tensor == KVT_T_V ? l->v_type
                                  : tensor == KVT_T_Q ? l->q_type : KVT_F32);
    }
    return NULL;
}

/* The sample's name in its corpus, else the file's name without folder and ".h5". */
static void add_trace_name(kvt__row *r, const kvt_cell *cell)
{
    const char *base = strrchr(cell->trace_path, '/');
    char name[256];
    size_t n;

    base = base ? base + 1 : cell->trace_path;
    n = strlen(base);
    if (n > 3 && strcmp(base + n - 3, ".h5") == 0) n -= 3;
    if (cell->trace->sample_id[0]) kvt_printable_str(name, sizeof name, cell->trace->sample_id);
    else kvt_printable(name, sizeof name, base, n);
    kvt__add_text(r, name);
}

kvt_status kvt__need_trace(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err)
{
    const kvt_trace_info *t = cell->trace;
    const char *engine = provenance(t, "engine"), *v_type = first_type(t, KVT_T_V), *k_type = first_type(t, KVT_T_K);
    int64_t model_id, dataset_id;
    kvt__row r = kvt__row_begin(s, KVT__TRACE_FIND);

    kvt__add_text(&r, t->content_id);
    kvt__add_printable(&r, t->cluster_id);
    KVT_TRY(kvt__row_find(s, &r, cell, "trace", id, err));
    if (*id) return KVT_OK;
    KVT_TRY(need_model(s, cell, &model_id, err));
    KVT_TRY(need_dataset(s, cell, &dataset_id, err));
    r = kvt__row_begin(s, KVT__TRACE_ADD);
    kvt__add_text(&r, t->content_id);
    add_trace_name(&r, cell);
    kvt__add_int(&r, model_id);
    kvt__add_int(&r, dataset_id);
    kvt__add_printable(&r, t->cluster_id);
    kvt__add_text(&r, strcmp(t->exactness, "synthetic") == 0 ? "synthetic" : "recorded");
    kvt__add_text(&r, t->exactness);
    kvt__add_int(&r, t->n_prompt);
    kvt__add_int(&r, t->n_decode);
    kvt__add_int(&r, t->window);
    kvt__add_int(&r, t->question_start);
    kvt__add_text(&r, k_type);
    kvt__add_text(&r, v_type);
    kvt__add_text(&r, first_type(t, KVT_T_Q));
    kvt__add_int(&r, v_type != NULL);
    kvt__add_int(&r, first_type(t, KVT_T_NU) != NULL);
    kvt__add_int(&r, t->redacted != 0);
    kvt__add_printable(&r, engine ? engine : "unknown");
    kvt__add_int(&r, t->format[0]);
    kvt__add_int(&r, t->format[1]);
    kvt__add_int(&r, (int64_t)t->file_bytes);
    kvt__add_printable(&r, cell->trace_path);
    KVT_TRY(kvt__row_run(s, &r, cell, "trace", err));
    *id = sqlite3_last_insert_rowid(s->db);
    KVT_TRY(add_tokens(s, cell, *id, err));
    return add_segments(s, cell, *id, err);
}

kvt_status kvt__need_config(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err)
{
    const kvt_config_info *c = cell->config;
    int64_t policy_id;
    kvt__row r = kvt__row_begin(s, KVT__CONFIG_FIND);

    kvt__add_text(&r, c->sha256);
    KVT_TRY(kvt__row_find(s, &r, cell, "policy_config", id, err));
    if (*id) return KVT_OK;

    r = kvt__row_begin(s, KVT__POLICY_FIND);
    kvt__add_text(&r, c->policy_id);
    KVT_TRY(kvt__row_find(s, &r, cell, "policy", &policy_id, err));
    if (!policy_id) {
        r = kvt__row_begin(s, KVT__POLICY_ADD);
        kvt__add_text(&r, c->policy_id);
        kvt__add_text(&r, c->title);
        kvt__add_text(&r, c->role);
        kvt__add_text(&r, c->timing);
        kvt__add_text(&r, c->budgeted);
        kvt__add_int(&r, c->fixed_set != 0);
        kvt__add_int(&r, c->nested != 0);
        kvt__add_int(&r, c->head_adaptive != 0);
        kvt__add_int(&r, c->query_aware != 0);
        kvt__add_text(&r, c->cite);
        KVT_TRY(kvt__row_run(s, &r, cell, "policy", err));
        policy_id = sqlite3_last_insert_rowid(s->db);
    }
    r = kvt__row_begin(s, KVT__CONFIG_ADD);
    kvt__add_int(&r, policy_id);
    kvt__add_text(&r, c->label);
    kvt__add_text(&r, c->semantics);
    kvt__add_int(&r, c->may_overshoot != 0);
    kvt__add_text(&r, c->canonical_json);
    kvt__add_text(&r, c->sha256);
    KVT_TRY(kvt__row_run(s, &r, cell, "policy_config", err));
    *id = sqlite3_last_insert_rowid(s->db);
    for (uint32_t i = 0; i < c->n_param; i++) {
        r = kvt__row_begin(s, KVT__PARAM_ADD);
        kvt__add_int(&r, *id);
        kvt__add_text(&r, c->param[i].name);
        kvt__add_real(&r, c->param[i].num);
        kvt__add_text(&r, isnan(c->param[i].num) ? c->param[i].word : NULL);
        KVT_TRY(kvt__row_run(s, &r, cell, "policy_param", err));
    }
    return KVT_OK;
}

kvt_status kvt__need_budget(kvt_store *s, const kvt_cell *cell, int64_t *id, kvt_err *err)
{
    const kvt_budget_info *b = cell->budget;
    kvt__row r = kvt__row_begin(s, KVT__BUDGET_FIND);

    kvt__add_text(&r, b->kind);
    kvt__add_real(&r, b->value);
    kvt__add_text(&r, b->rule);
    KVT_TRY(kvt__row_find(s, &r, cell, "budget", id, err));
    if (*id) return KVT_OK;
    r = kvt__row_begin(s, KVT__BUDGET_ADD);
    kvt__add_text(&r, b->kind);
    kvt__add_real(&r, b->value);
    kvt__add_text(&r, b->rule);
    kvt__add_text(&r, b->label);
    KVT_TRY(kvt__row_run(s, &r, cell, "budget", err));
    *id = sqlite3_last_insert_rowid(s->db);
    return KVT_OK;
}
