/* trace_open_aside.c - what no replay computes with: /provenance, /logits, /verify and
 * /redact (FORMAT.md 5, 8, 9, 17). Still checked in full, because verify reads it. */
#include "trace_open.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- provenance */

static kvt_status open_provenance(kvt_reader *r, kvt_err *err)
{
    static const char *const names[] = {
        "engine", "engine_version", "engine_commit", "frontend", "frontend_version", "model_name",
        "model_revision", "model_arch", "weight_dtype", "compute_dtype", "kv_dtype", "attn_impl",
        "mask_impl", "tokenizer_sha256", "gpu", "driver", "cuda_runtime", "os", "command", "seed",
        "sampling", "decode_mode", "corpus", "corpus_revision", "prompt_sha256", "license_note", "host",
    };
    static const char *const texts[] = {"model_files", "config_json"};
    const kvt_h5_want json = {.types = KVT_H5_BIT(KVT_H5_U8), .rank = 1,
                              .dims = {KVT_H5_UP_TO(KVT_MAX_JSON)}, .unfinished = !r->info.complete};
    const size_t n = sizeof names / sizeof *names;
    kvt_pair *pair = kvt__reader_alloc(r, n * sizeof *pair);
    kvt_h5_at at;
    kvt_status st = KVT_OK;
    int found;

    if (!pair) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
    KVT_TRY(kvt__h5_group_open(&at, &r->root, "provenance", r->info.complete ? NULL : &found, err));
    if (at.id < 0) return KVT_OK;
    r->info.provenance = pair;
    for (size_t i = 0; i < n; i++) {
        kvt_pair *p = &pair[r->info.n_provenance];
        int64_t seed;
        char number[24];

        *p = (kvt_pair){names[i], ""};
        if (strcmp(names[i], "seed") == 0) {
            KVT_TRY_GOTO(st, kvt__reader_int(r, &at, names[i], INT64_MIN, INT64_MAX, 0, &seed, &found, err));
            if (!found) continue;
            snprintf(number, sizeof number, "%" PRId64, seed);
            KVT_TRY_GOTO(st, kvt__reader_keep(r, &p->value, number, err));
        } else {
            /* The engine is the one thing that every trace must name. */
            found = 1;
            KVT_TRY_GOTO(st, kvt__reader_text(r, &at, names[i], 0, &p->value,
                                              i == 0 && r->info.complete ? NULL : &found, err));
            if (!found) continue;
        }
        r->info.n_provenance++;
    }
    for (int i = 0; i < 2; i++)
        KVT_TRY_GOTO(st, kvt__reader_dataset(r, &at, texts[i], &json, NULL, &found, err));
done:
    kvt__h5_group_close(&at);
    return st;
}

/* ---------------------------------------------------------------- logits */

static kvt_status open_logits(kvt_reader *r, kvt_err *err)
{
    const uint64_t rows = (uint64_t)r->info.n_decode + 1;
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_I32), .rank = 2,
                        .dims = {rows, KVT_H5_UP_TO(KVT_MAX_TOPK)}};
    const kvt_h5_want lse = {.types = KVT_H5_BIT(KVT_H5_F32), .rank = 1, .dims = {rows}};
    kvt_h5_dataset d;
    int has_id, has_logit, has_lse;

    KVT_TRY(kvt__reader_dataset(r, &r->root, "logits/top_id", &want, &d, &has_id, err));
    if (has_id) want.dims[1] = d.dims[1];
    kvt__h5_dataset_close(&d);
    want.types = KVT_H5_BIT(KVT_H5_F32);
    KVT_TRY(kvt__reader_dataset(r, &r->root, "logits/top_logit", &want, NULL, &has_logit, err));
    KVT_TRY(kvt__reader_dataset(r, &r->root, "logits/lse", &lse, NULL, &has_lse, err));
    if (has_id != has_logit || has_id != has_lse)
        return kvt_fail(err, KVT_EFORMAT, "%s: /logits: top_id, top_logit and lse come together, and %s "
                        "is missing", r->file.name, !has_id ? "top_id" : !has_logit ? "top_logit" : "lse");
    return KVT_OK;
}

/* ---------------------------------------------------------------- verify */

static kvt_status check_samples(const kvt_reader *r, const int32_t *index, kvt_err *err)
{
    const kvt_trace_info *info = &r->info;

    for (uint32_t i = 0; i < info->n_samples; i++) {
        const int32_t layer = index[3 * i], head = index[3 * i + 1], row = index[3 * i + 2];
        if (layer < 0 || (uint32_t)layer >= info->n_layers || head < 0 ||
            (uint32_t)head >= info->layer[layer].n_heads || row < 0 || (uint32_t)row >= info->n_rows)
            return kvt_fail(err, KVT_EFORMAT, "%s: /verify/index: sample %u is layer %" PRId32 ", head %"
                            PRId32 ", row %" PRId32 ", which this trace does not have", r->file.name, i,
                            layer, head, row);
    }
    return KVT_OK;
}

static kvt_status check_nonfinite(const kvt_reader *r, const int64_t *x, uint64_t n, kvt_err *err)
{
    const kvt_trace_info *info = &r->info;

    for (uint64_t i = 0; i < n; i++, x += 4) {
        const uint32_t heads = x[0] < 0 || x[0] >= info->n_layers ? 0
                             : x[1] == 0 ? info->layer[x[0]].n_heads : info->layer[x[0]].n_kv_heads;
        if (x[1] < 0 || x[1] > 2 || x[2] < 0 || x[2] >= heads || x[3] < 0 || x[3] >= info->n_tokens)
            return kvt_fail(err, KVT_EFORMAT, "%s: /verify/nonfinite: entry %" PRIu64 " is layer %" PRId64
                            ", tensor %" PRId64 ", head %" PRId64 ", token %" PRId64 ", which this trace "
                            "does not have", r->file.name, i, x[0], x[1], x[2], x[3]);
    }
    return KVT_OK;
}

static kvt_status open_rope_samples(kvt_reader *r, const kvt_h5_at *at, uint32_t width, kvt_err *err)
{
    const kvt_trace_info *info = &r->info;
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_I32), .rank = 2,
                        .dims = {KVT_H5_UP_TO(KVT_MAX_VERIFY), 3}};
    const void *data = NULL;
    const int32_t *x;
    uint64_t n = 0;
    int has_index, has_k;

    KVT_TRY(kvt__reader_load(r, at, "rope_index", &want, &data, &n, &has_index, err));
    want = (kvt_h5_want){.types = KVT_H5_BIT(KVT_H5_F32), .rank = 2,
                         .dims = {has_index ? n : KVT_H5_UP_TO(KVT_MAX_VERIFY), width}};
    KVT_TRY(kvt__reader_dataset(r, at, "rope_k", &want, NULL, &has_k, err));
    if (has_index != has_k)
        return kvt_fail(err, KVT_EFORMAT, "%s: /verify/%s: missing; rope_index and rope_k come together",
                        r->file.name, has_index ? "rope_k" : "rope_index");
    r->n_rope = (uint32_t)n;
    r->rope_index = x = data;
    for (uint64_t i = 0; i < n; i++, x += 3)
        if (x[0] < 0 || (uint32_t)x[0] >= info->n_layers || x[1] < 0 ||
            (uint32_t)x[1] >= info->layer[x[0]].n_kv_heads || x[2] < 0 ||
            (uint32_t)x[2] >= info->n_tokens)
            return kvt_fail(err, KVT_EFORMAT, "%s: /verify/rope_index: sample %" PRIu64 " is layer %" PRId32
                            ", KV head %" PRId32 ", token %" PRId32 ", which this trace does not have",
                            r->file.name, i, x[0], x[1], x[2]);
    return KVT_OK;
}

static kvt_status open_verify(kvt_reader *r, kvt_err *err)
{
    kvt_trace_info *info = &r->info;
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_I32), .rank = 2,
                        .dims = {KVT_H5_UP_TO(KVT_MAX_VERIFY), 3}};
    uint32_t most_dv = 0, most_dk = 0;
    const void *data = NULL;
    uint64_t n = 0;
    kvt_h5_at at;
    kvt_status st;
    int found;

    for (uint32_t l = 0; l < info->n_layers; l++) {
        if (info->layer[l].d_v > most_dv) most_dv = info->layer[l].d_v;
        if (info->layer[l].d_k > most_dk) most_dk = info->layer[l].d_k;
    }
    KVT_TRY(kvt__h5_group_open(&at, &r->root, "verify", NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_real(r, &at, "tol", 0, 0, &info->verify_tol, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_real(r, &at, "max_err", 0, 0, &info->verify_max_err, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_int(r, &at, "passed", 0, 1, 0, &r->passed, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_int(r, &at, "n_nonfinite", 0, INT64_MAX, 0, &r->n_nonfinite, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_load(r, &at, "index", &want, &data, &n, NULL, err));
    info->n_samples = (uint32_t)n;
    info->sample_index = data;
    KVT_TRY_GOTO(st, check_samples(r, info->sample_index, err));
    want = (kvt_h5_want){.types = KVT_H5_BIT(KVT_H5_F32), .rank = 2, .dims = {n, most_dv}};
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &at, "attn_out", &want, NULL, NULL, err));
    want = (kvt_h5_want){.types = KVT_H5_BIT(KVT_H5_F32), .rank = 1, .dims = {n}};
    KVT_TRY_GOTO(st, kvt__reader_dataset(r, &at, "engine_lse", &want, NULL, &found, err));
    want = (kvt_h5_want){.types = KVT_H5_BIT(KVT_H5_I64), .rank = 2, .dims = {KVT_H5_UP_TO(1024), 4}};
    n = 0;
    KVT_TRY_GOTO(st, kvt__reader_load(r, &at, "nonfinite", &want, &data, &n, &found, err));
    KVT_TRY_GOTO(st, check_nonfinite(r, data, n, err));
    st = open_rope_samples(r, &at, most_dk, err);
done:
    kvt__h5_group_close(&at);
    return st;
}

/* ---------------------------------------------------------------- redact */

static kvt_status open_redact(kvt_reader *r, kvt_err *err)
{
    static const char dtypes[] = "f32|f16|bf16";
    const char *ids = "", *dtype = "", *source = "";
    double error;
    uint32_t choice;
    kvt_h5_at at;
    kvt_status st;

    if (!r->info.redacted) return KVT_OK;
    KVT_TRY(kvt__h5_group_open(&at, &r->root, "redact", NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_text(r, &at, "ids", 0, &ids, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_text(r, &at, "dtype", 0, &dtype, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_choice(&at, "dtype", dtype, dtypes, &choice, err));
    KVT_TRY_GOTO(st, kvt__reader_text(r, &at, "source_dtype", 0, &source, NULL, err));
    KVT_TRY_GOTO(st, kvt__reader_choice(&at, "source_dtype", source, dtypes, &choice, err));
    r->redact_source = (kvt_dtype)choice;
    KVT_TRY_GOTO(st, kvt__reader_real(r, &at, "max_logit_err", 0, 0, &error, NULL, err));
    st = kvt__reader_real(r, &at, "max_mass_err", 0, 0, &error, NULL, err);
done:
    kvt__h5_group_close(&at);
    return st;
}

kvt_status kvt__open_asides(kvt_reader *r, kvt_err *err)
{
    KVT_TRY(open_provenance(r, err));
    if (!r->info.complete) return KVT_OK;
    KVT_TRY(open_logits(r, err));
    KVT_TRY(open_verify(r, err));
    return open_redact(r, err);
}
