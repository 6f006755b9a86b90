/* trace_open_token.c - /tokens, /spans and /queries (FORMAT.md 6), whole and checked:
 * everything later indexes with these numbers. */
#include "trace_open.h"

#include <inttypes.h>
#include <stdlib.h>

static kvt_status check_queries(const kvt_reader *r, kvt_err *err)
{
    const kvt_trace_info *info = &r->info;
    const uint32_t n_asked = info->window + info->n_decode;
    const int32_t *index = info->query_index;

    for (uint32_t i = 0; i < info->n_rows; i++)
        if (index[i] < 0 || (uint32_t)index[i] >= info->n_tokens || (i && index[i] <= index[i - 1]))
            return kvt_fail(err, KVT_EFORMAT, "%s: /queries/index: element %u is %" PRId32 ", expected "
                            "strictly increasing token indexes below %u", r->file.name, i, index[i],
                            info->n_tokens);
    /* They increase and stay below T, so the last W + G must be the last W + G tokens. */
    if (info->n_rows < n_asked || (n_asked && index[info->n_rows - n_asked] !=
                                              (int32_t)(info->n_tokens - n_asked)))
        return kvt_fail(err, KVT_EFORMAT, "%s: /queries/index: does not hold all of tokens %u to %u, the "
                        "window and the decode steps", r->file.name, info->n_tokens - n_asked,
                        info->n_tokens - 1);
    return KVT_OK;
}

static kvt_status check_positions(const kvt_reader *r, kvt_err *err)
{
    const kvt_trace_info *info = &r->info;
    const int32_t *rotary = info->rotary;
    uint32_t windowed = info->n_layers;

    for (uint32_t layer = 0; layer < info->n_layers && windowed == info->n_layers; layer++)
        if (info->layer[layer].window) windowed = layer;
    for (uint32_t i = 0; i < info->n_tokens; i++) {
        if (info->token_id[i] < -1)
            return kvt_fail(err, KVT_EFORMAT, "%s: /tokens/id: token %u is %" PRId32 ", expected -1 or more",
                            r->file.name, i, info->token_id[i]);
        if (i && rotary[i] < rotary[i - 1])
            return kvt_fail(err, KVT_EFORMAT, "%s: /tokens/position: token %u has position %" PRId32
                            " after %" PRId32 ", expected non-decreasing positions", r->file.name, i,
                            rotary[i], rotary[i - 1]);
        if (windowed < info->n_layers && (int64_t)rotary[i] - rotary[0] != i)
            return kvt_fail(err, KVT_EFORMAT, "%s: /tokens/position: token %u has position %" PRId32
                            ", but /layers/%03u is %s and needs position minus token index constant",
                            r->file.name, i, rotary[i], windowed,
                            kvt_attn_name(info->layer[windowed].attn));
    }
    return KVT_OK;
}

static kvt_status open_text(kvt_reader *r, kvt_err *err)
{
    kvt_trace_info *info = &r->info;
    const kvt_h5_want bytes = {.types = KVT_H5_BIT(KVT_H5_U8), .rank = 1,
                               .dims = {KVT_H5_UP_TO(KVT_MAX_TEXT)}};
    const kvt_h5_want offset = {.types = KVT_H5_BIT(KVT_H5_I64), .rank = 1, .dims = {info->n_tokens + 1u}};
    const void *text = NULL, *off = NULL;
    uint64_t n = 0;
    int has_text, has_offset;

    KVT_TRY(kvt__reader_load(r, &r->root, "tokens/text_offset", &offset, &off, NULL, &has_offset, err));
    KVT_TRY(kvt__reader_load(r, &r->root, "tokens/text_bytes", &bytes, &text, &n, &has_text, err));
    if (has_text != has_offset)
        return kvt_fail(err, KVT_EFORMAT, "%s: /tokens/%s: missing; text_bytes and text_offset come "
                        "together", r->file.name, has_text ? "text_offset" : "text_bytes");
    if (!has_text) return KVT_OK;
    info->text = text;
    info->text_offset = off;
    for (uint32_t i = 0; i <= info->n_tokens; i++) {
        const int64_t o = info->text_offset[i];
        if (o < 0 || (uint64_t)o > n || (i == 0 && o != 0) || (i && o < info->text_offset[i - 1]) ||
            (i == info->n_tokens && (uint64_t)o != n))
            return kvt_fail(err, KVT_EFORMAT, "%s: /tokens/text_offset: element %u is %" PRId64 ", expected "
                            "offsets from 0 to %" PRIu64 " that do not decrease", r->file.name, i, o, n);
    }
    return KVT_OK;
}

/* Sorted by begin, then by descending end, a span crosses another exactly when it ends
 * after the innermost span that is still open where it begins. */
static kvt_status check_spans(const kvt_reader *r, kvt_err *err)
{
    const kvt_trace_info *info = &r->info;
    const int64_t *b = info->span_begin, *e = info->span_end, t = info->n_tokens;
    int64_t *open = malloc((info->n_spans + 1) * sizeof *open);
    uint32_t depth = 0, i;
    const char *why = NULL;

    if (!open) return kvt_fail(err, KVT_ENOMEM, "%s: out of memory", r->file.name);
    for (i = 0; i < info->n_spans && !why; i++) {
        if (b[i] < 0 || e[i] < b[i] || e[i] > t)
            why = "is not inside the tokens";
        else if (info->span_kind[i] < 0)
            why = "has a negative kind";
        else if (i && (b[i] < b[i - 1] || (b[i] == b[i - 1] && e[i] > e[i - 1])))
            why = "is out of order (by begin, then by descending end)";
        while (!why && depth && open[depth - 1] <= b[i]) depth--;
        if (!why && depth && e[i] > open[depth - 1]) why = "crosses another one; spans may nest";
        open[depth++] = e[i];
    }
    free(open);
    if (!why) return KVT_OK;
    i--;
    return kvt_fail(err, KVT_EFORMAT, "%s: /spans: span %u, begin %" PRId64 ", end %" PRId64 ", %s",
                    r->file.name, i, b[i], e[i], why);
}

static kvt_status open_spans(kvt_reader *r, kvt_err *err)
{
    kvt_h5_want want = {.types = KVT_H5_BIT(KVT_H5_I64), .rank = 1,
                        .dims = {KVT_H5_UP_TO(KVT_MAX_SPANS)}};
    const void *begin = NULL, *end = NULL, *kind = NULL;
    uint64_t n = 0;
    int has_begin, has_end, has_kind;

    KVT_TRY(kvt__reader_load(r, &r->root, "spans/begin", &want, &begin, &n, &has_begin, err));
    if (has_begin) want.dims[0] = n;
    KVT_TRY(kvt__reader_load(r, &r->root, "spans/end", &want, &end, NULL, &has_end, err));
    want.types = KVT_H5_BIT(KVT_H5_I32);
    KVT_TRY(kvt__reader_load(r, &r->root, "spans/kind", &want, &kind, NULL, &has_kind, err));
    if (has_begin != has_end || has_begin != has_kind)
        return kvt_fail(err, KVT_EFORMAT, "%s: /spans: begin, end and kind come together, and %s is "
                        "missing", r->file.name, !has_begin ? "begin" : !has_end ? "end" : "kind");
    r->info.n_spans = (uint32_t)n;
    r->info.span_begin = begin;
    r->info.span_end = end;
    r->info.span_kind = kind;
    return n ? check_spans(r, err) : KVT_OK;
}

kvt_status kvt__open_tokens(kvt_reader *r, kvt_err *err)
{
    kvt_trace_info *info = &r->info;
    const kvt_h5_want tokens = {.types = KVT_H5_BIT(KVT_H5_I32), .rank = 1, .dims = {info->n_tokens}};
    const kvt_h5_want flags = {.types = KVT_H5_BIT(KVT_H5_U8), .rank = 1, .dims = {info->n_tokens}};
    const kvt_h5_want rows = {.types = KVT_H5_BIT(KVT_H5_I32), .rank = 1, .dims = {info->n_rows}};
    const void *id = NULL, *position = NULL, *index = NULL, *flag = NULL;
    int found;

    if (!info->complete) {              /* written when the length is known, at the end */
        info->n_rows = 0;
        return KVT_OK;
    }
    KVT_TRY(kvt__reader_load(r, &r->root, "tokens/id", &tokens, &id, NULL, NULL, err));
    KVT_TRY(kvt__reader_load(r, &r->root, "tokens/position", &tokens, &position, NULL, NULL, err));
    KVT_TRY(kvt__reader_load(r, &r->root, "tokens/flags", &flags, &flag, NULL, &found, err));
    KVT_TRY(kvt__reader_load(r, &r->root, "queries/index", &rows, &index, NULL, NULL, err));
    info->token_id = id;
    info->rotary = position;
    info->token_flags = flag;
    info->query_index = index;
    KVT_TRY(check_queries(r, err));
    KVT_TRY(check_positions(r, err));
    KVT_TRY(open_text(r, err));
    return open_spans(r, err);
}
