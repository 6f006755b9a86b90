/* trace_write_end.c - the last part of a trace: tokens, queries, spans, /verify,
 * checksums, content id, complete = 1. */
#include "trace_write_impl.h"

#include <stdlib.h>
#include <string.h>

enum { END_MAX_NONFINITE = 1024 };

/* Every head of every tensor must have all its rows. */
static kvt_status end_tensors(kvt_writer *w, kvt_err *err)
{
    for (uint32_t layer = 0; layer < w->info.n_layers; layer++)
        for (int t = KVT_T_K; t < KVT_T_END; t++) {
            const kvt_write_tensor *const x = kvt__write_tensor_of(w, layer, (kvt_tensor)t);
            for (uint32_t head = 0; head < x->n_heads; head++) {
                const uint32_t want = x->rank == 1 ? 1 : kvt_tensor_rows(&w->info, &w->layer[layer], (kvt_tensor)t);
                char path[KVT_WRITE_PATH];
                if (x->head[head].rows == want) continue;
                kvt__write_tensor_path(path, layer, (kvt_tensor)t);
                return kvt_fail(err, KVT_EARG, "%s: %s: head %u has %u of %u rows", w->part.shown, path, head,
                                x->head[head].rows, want);
            }
        }
    for (uint32_t layer = 0; layer < w->info.n_layers; layer++)
        for (int t = KVT_T_K; t < KVT_T_END; t++)
            if (kvt__write_tensor_of(w, layer, (kvt_tensor)t)->n_heads > 0)
                KVT_TRY(kvt__write_tensor_end(w, layer, (kvt_tensor)t, err));
    return KVT_OK;
}

static kvt_status end_tokens(kvt_writer *w, const kvt_writer_tail *t, kvt_err *err)
{
    const uint64_t n = w->info.n_tokens, n_rows = w->info.n_rows, n_offsets = n + 1;
    int32_t *const index = malloc((size_t)n * sizeof *index);
    kvt_status st;

    if (!index) return kvt_fail(err, KVT_ENOMEM, "%s: no memory for %u tokens", w->part.shown, w->info.n_tokens);
    for (uint32_t i = 0; i < n; i++) index[i] = (int32_t)i;
    KVT_TRY_GOTO(st, kvt__write_group(w, "/tokens", err));
    KVT_TRY_GOTO(st, kvt__write_dataset(w, "/tokens/id", KVT_H5_I32, 1, &n, t->token_id, err));
    KVT_TRY_GOTO(st, kvt__write_dataset(w, "/tokens/position", KVT_H5_I32, 1, &n, t->rotary ? t->rotary : index, err));
    if (t->text) {
        const uint64_t n_bytes = (uint64_t)t->text_offset[n];
        KVT_TRY_GOTO(st, kvt__write_dataset(w, "/tokens/text_bytes", KVT_H5_U8, 1, &n_bytes, t->text, err));
        KVT_TRY_GOTO(st, kvt__write_dataset(w, "/tokens/text_offset", KVT_H5_I64, 1, &n_offsets, t->text_offset, err));
    }
    KVT_TRY_GOTO(st, kvt__write_group(w, "/queries", err));
    KVT_TRY_GOTO(st, kvt__write_dataset(w, "/queries/index", KVT_H5_I32, 1, &n_rows,
                                        index + (w->info.n_prompt - w->info.window), err));
    if (t->n_spans > 0) {
        const uint64_t n_spans = t->n_spans;
        KVT_TRY_GOTO(st, kvt__write_group(w, "/spans", err));
        KVT_TRY_GOTO(st, kvt__write_dataset(w, "/spans/begin", KVT_H5_I64, 1, &n_spans, t->span_begin, err));
        KVT_TRY_GOTO(st, kvt__write_dataset(w, "/spans/end", KVT_H5_I64, 1, &n_spans, t->span_end, err));
        KVT_TRY_GOTO(st, kvt__write_dataset(w, "/spans/kind", KVT_H5_I32, 1, &n_spans, t->span_kind, err));
    }
done:
    free(index);
    return st;
}

static kvt_status end_verify(kvt_writer *w, const kvt_writer_tail *t, kvt_err *err)
{
    const uint32_t n_places = t->n_nonfinite < END_MAX_NONFINITE ? t->n_nonfinite : END_MAX_NONFINITE;
    const uint64_t n = t->n_samples, index[2] = { n, 3 }, places[2] = { n_places, 4 };
    uint64_t out[2] = { n, 0 }, rope_index[2] = { t->n_rope_samples, 3 }, rope[2] = { t->n_rope_samples, 0 };

    for (uint32_t l = 0; l < w->info.n_layers; l++) {
        if (w->layer[l].d_v > out[1]) out[1] = w->layer[l].d_v;
        if (w->layer[l].d_k > rope[1]) rope[1] = w->layer[l].d_k;
    }
    KVT_TRY(kvt__write_group(w, "/verify", err));
    KVT_TRY(kvt__write_real(w, "/verify", "tol", t->verify_tol, false, err));
    KVT_TRY(kvt__write_real(w, "/verify", "max_err", t->verify_max_err, false, err));
    KVT_TRY(kvt__write_int(w, "/verify", "passed", t->verify_passed != 0, false, err));
    KVT_TRY(kvt__write_int(w, "/verify", "n_nonfinite", t->n_nonfinite, false, err));
    KVT_TRY(kvt__write_dataset(w, "/verify/index", KVT_H5_I32, 2, index, t->sample_index, err));
    KVT_TRY(kvt__write_dataset(w, "/verify/attn_out", KVT_H5_F32, 2, out, t->sample_out, err));
    if (t->sample_lse) KVT_TRY(kvt__write_dataset(w, "/verify/engine_lse", KVT_H5_F32, 1, &n, t->sample_lse, err));
    if (n_places > 0) KVT_TRY(kvt__write_dataset(w, "/verify/nonfinite", KVT_H5_I64, 2, places, t->nonfinite, err));
    if (t->n_rope_samples == 0) return KVT_OK;
    KVT_TRY(kvt__write_dataset(w, "/verify/rope_index", KVT_H5_I32, 2, rope_index, t->rope_index, err));
    return kvt__write_dataset(w, "/verify/rope_k", KVT_H5_F32, 2, rope, t->rope_k, err);
}

static kvt_status end_flush(kvt_writer *w, kvt_err *err)
{
    if (H5Fflush(w->part.h5, H5F_SCOPE_GLOBAL) < 0)
        return kvt__h5_fail(err, KVT_EIO, "%s: HDF5 cannot flush its .part file", w->part.shown);
    return kvt__part_check(&w->part, err);
}

kvt_status kvt__write_end(kvt_writer *w, const kvt_writer_tail *tail, kvt_err *err)
{
    char content_id[65];

    KVT_TRY(kvt__write_check_tail(w, tail, err));
    w->info.n_decode = tail->n_decode;
    w->info.n_tokens = w->info.n_prompt + tail->n_decode;
    w->info.n_rows = w->info.window + tail->n_decode;
    KVT_TRY(end_tensors(w, err));
    KVT_TRY(kvt__write_int_again(w, "/", "n_decode", tail->n_decode, err));
    if (kvt_id_lines_int(w->id, "/", "n_decode", tail->n_decode) < 0)
        return kvt_fail(err, KVT_ENOMEM, "%s: no memory for the content id", w->part.shown);
    KVT_TRY(end_tokens(w, tail, err));
    KVT_TRY(end_verify(w, tail, err));
    kvt_id_lines_hash(w->id, content_id);
    KVT_TRY(kvt__write_text(w, "/", "content_id", content_id, false, err));
    KVT_TRY(kvt__write_checksums(w, err));
    /* All of it is on its way to the disk before the file says that it is complete. */
    KVT_TRY(end_flush(w, err));
    KVT_TRY(kvt__write_complete(w, 1, err));
    KVT_TRY(end_flush(w, err));
    KVT_TRY(kvt__part_close_h5(&w->part, err));
    return kvt__part_publish(&w->part, err);
}
