/* kvcap_session.c - the sequence: prompt, chosen tokens, text, spans, and the end.
 *
 * The last token that a run samples never enters the cache: it has no keys and no row,
 * and kvcap_close leaves it out together with its text. */
#include "kvcap_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_version.h"

static int session_add_id(kvcap *cap, int32_t id)
{
    if (id < -1 || (cap->vocab_size && id >= (int64_t)cap->vocab_size))
        return kvcap__fail(cap, KVCAP_ERANGE, "token %lld has id %d, the vocabulary has %u", (long long)cap->n_ids,
                           (int)id, cap->vocab_size);
    if (cap->n_ids == cap->cap_ids) {
        const int64_t more = cap->n_ids + cap->n_ids / 2 + KVCAP_BLOCK;
        int32_t *ids = kvcap__grow(cap->ids, (size_t)more, sizeof *ids);
        if (!ids) return kvcap__no_memory(cap);
        cap->ids = ids;
        cap->cap_ids = more;
    }
    cap->ids[cap->n_ids++] = id;
    return KVCAP_OK;
}

int kvcap_prompt(kvcap *cap, const int32_t *ids, int64_t n, int64_t question_start)
{
    kvt_writer_head head;
    kvt_err err;
    int rc = kvcap__stuck(cap);

    if (rc != KVCAP_OK) return rc;
    if (cap->writer) return kvcap__fail(cap, KVCAP_EORDER, "kvcap_prompt is called twice");
    if (!ids || n < 1) return kvcap__fail(cap, KVCAP_EARG, "kvcap_prompt: a prompt has at least one token");
    if (n > cap->max_tokens)
        return kvcap__fail(cap, KVCAP_ERANGE, "a prompt of %lld tokens, but max_tokens is %lld", (long long)n,
                           (long long)cap->max_tokens);
    if (question_start > n)
        return kvcap__fail(cap, KVCAP_ERANGE, "question_start %lld lies behind the prompt of %lld tokens",
                           (long long)question_start, (long long)n);
    for (int64_t i = 0; i < n && rc == KVCAP_OK; i++) rc = session_add_id(cap, ids[i]);
    if (rc != KVCAP_OK) return rc;
    cap->n_prompt = (uint32_t)n;
    cap->window = cap->asked_window < cap->n_prompt ? cap->asked_window : cap->n_prompt;
    cap->question_start = question_start < 0 ? cap->n_prompt : (uint32_t)question_start;
    head = (kvt_writer_head){.writer = "libkvcap " KVT_VERSION,
                             .exactness = "engine-operands",
                             .cluster_id = cap->cluster_id,
                             .sample_id = cap->sample_id,
                             .n_layers = cap->n_layers,
                             .n_prompt = cap->n_prompt,
                             .n_decode =
                                 cap->flags & KVCAP_EXACT_LEN ? (uint32_t)(cap->max_tokens - n) : KVT_LENGTH_UNKNOWN,
                             .window = cap->window,
                             .question_start = cap->question_start,
                             .model_dim = cap->model_dim,
                             .vocab_size = cap->vocab_size,
                             .provenance = cap->provenance,
                             .n_provenance = cap->n_attributes,
                             .model_files_json = cap->model_files,
                             .config_json = cap->config};
    if (kvt_writer_create(&cap->writer, cap->path, &head, &err) < 0) return kvcap__fail_kvt(cap, &err);
    return KVCAP_OK;
}

int kvcap_token(kvcap *cap, int32_t id, const int32_t *top_id, const float *top_logit, int32_t n_top, float lse)
{
    int rc = kvcap__stuck(cap);

    (void)lse; /* belongs to the logits, which are not stored */
    if (rc != KVCAP_OK) return rc;
    if (top_id || top_logit || n_top)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "kvcap_token: logits are not stored by this version; pass NULL and 0");
    if (!cap->started) return kvcap__fail(cap, KVCAP_EORDER, "kvcap_token before the prompt was attended to");
    for (uint32_t l = 0; l < cap->n_layers; l++)
        if (cap->layer[l].info.attn != KVT_ATTN_NONE && cap->layer[l].seen != cap->n_ids)
            return kvcap__fail(cap, KVCAP_EORDER, "kvcap_token for token %lld, but layer %u has seen only %lld tokens",
                               (long long)cap->n_ids, l, (long long)cap->layer[l].seen);
    return session_add_id(cap, id);
}

int kvcap_text(kvcap *cap, int64_t token, const char *bytes, size_t n_bytes)
{
    const int rc = kvcap__stuck(cap);
    char *copy;

    if (rc != KVCAP_OK) return rc;
    if (!(cap->flags & KVCAP_STORE_TEXT)) return KVCAP_OK;
    /* One more than max_tokens: the last sampled token may be named, it is dropped later. */
    if (token < 0 || token > cap->max_tokens)
        return kvcap__fail(cap, KVCAP_ERANGE, "kvcap_text of token %lld, max_tokens is %lld", (long long)token,
                           (long long)cap->max_tokens);
    if (n_bytes && !bytes) return kvcap__fail(cap, KVCAP_EARG, "kvcap_text of token %lld: NULL", (long long)token);
    if (token >= cap->cap_piece) {
        const int64_t more = token + token / 2 + KVCAP_BLOCK;
        kvcap_piece_text *piece = kvcap__grow(cap->piece, (size_t)more, sizeof *piece);
        if (!piece) return kvcap__no_memory(cap);
        cap->piece = piece;
        cap->cap_piece = more;
    }
    while (cap->n_piece <= token) cap->piece[cap->n_piece++] = (kvcap_piece_text){NULL, 0};
    if (n_bytes > KVT_MAX_TEXT || cap->text_bytes - cap->piece[token].n_bytes + n_bytes > KVT_MAX_TEXT)
        return kvcap__fail(cap, KVCAP_ERANGE, "kvcap_text of token %lld: more than %u bytes of text", (long long)token,
                           KVT_MAX_TEXT);
    copy = kvcap__grow(NULL, n_bytes, 1);
    if (!copy) return kvcap__no_memory(cap);
    if (n_bytes) memcpy(copy, bytes, n_bytes);
    cap->text_bytes += n_bytes - cap->piece[token].n_bytes;
    free(cap->piece[token].bytes);
    cap->piece[token] = (kvcap_piece_text){copy, n_bytes};
    return KVCAP_OK;
}

/* Sorted by begin, then the longer first; nested or disjoint. */
int kvcap_span(kvcap *cap, int64_t begin, int64_t end, int32_t kind)
{
    const int rc = kvcap__stuck(cap);
    uint32_t at;

    if (rc != KVCAP_OK) return rc;
    if (begin < 0 || end < begin || end > cap->max_tokens + 1 || kind < 0 || kind > 10)
        return kvcap__fail(cap, KVCAP_EARG,
                           "span [%lld, %lld) of kind %d: expected 0 <= begin <= end <= max_tokens and a "
                           "kind of 0..10",
                           (long long)begin, (long long)end, (int)kind);
    for (uint32_t i = 0; i < cap->n_span; i++) {
        const kvcap_span_item *s = &cap->span[i];
        if ((begin < s->begin && s->begin < end && end < s->end) ||
            (s->begin < begin && begin < s->end && s->end < end))
            return kvcap__fail(cap, KVCAP_EARG, "span [%lld, %lld) crosses span [%lld, %lld)", (long long)begin,
                               (long long)end, (long long)s->begin, (long long)s->end);
    }
    if (cap->n_span == KVT_MAX_SPANS) return kvcap__fail(cap, KVCAP_ERANGE, "more than %u spans", KVT_MAX_SPANS);
    if (cap->n_span == cap->cap_span) {
        const uint32_t more = cap->cap_span * 2 + 16;
        kvcap_span_item *span = kvcap__grow(cap->span, more, sizeof *span);
        if (!span) return kvcap__no_memory(cap);
        cap->span = span;
        cap->cap_span = more;
    }
    for (at = cap->n_span; at > 0; at--) {
        const kvcap_span_item *s = &cap->span[at - 1];
        if (s->begin < begin || (s->begin == begin && s->end >= end)) break;
        cap->span[at] = *s;
    }
    cap->span[at] = (kvcap_span_item){begin, end, kind};
    cap->n_span++;
    return KVCAP_OK;
}

int kvcap_scores(kvcap *cap, uint32_t layer, const char *name, const float *host, int64_t n_heads, int64_t n_tokens)
{
    const int rc = kvcap__stuck(cap);

    (void)name, (void)host, (void)n_heads, (void)n_tokens;
    if (rc != KVCAP_OK) return rc;
    return kvcap__fail(cap, KVCAP_ENOTSUP, "kvcap_scores (layer %u) is not supported by this version", layer);
}

int kvcap_extra(kvcap *cap, uint32_t layer, const char *name, int64_t after, const int32_t *pos, const kvcap_view *q,
                const kvcap_view *k, const kvcap_view *v, void *cuda_stream)
{
    const int rc = kvcap__stuck(cap);

    (void)name, (void)after, (void)pos, (void)q, (void)k, (void)v, (void)cuda_stream;
    if (rc != KVCAP_OK) return rc;
    return kvcap__fail(cap, KVCAP_ENOTSUP, "kvcap_extra (layer %u) is not supported by this version", layer);
}

int kvcap_counters_get(const kvcap *cap, kvcap_counters *out)
{
    kvcap_counters c = {0};
    uint32_t size;

    if (!cap || !out || out->struct_size < sizeof out->struct_size) return KVCAP_EARG;
    size = out->struct_size;
    c.struct_size = size;
    c.n_nonfinite = cap->n_nonfinite;
    c.calls = cap->calls;
    c.bytes_in = cap->bytes_in;
    c.bytes_written = cap->bytes_written;
    memcpy(out, &c, size < sizeof c ? size : sizeof c);
    return KVCAP_OK;
}

int kvcap_error(const kvcap *cap, char *text, size_t n)
{
    if (!cap) return KVCAP_EARG;
    if (text && n) snprintf(text, n, "%s", cap->text);
    return cap->status;
}

/* Every attention layer has seen the same tokens, and at least the prompt. */
static int session_check_end(kvcap *cap, int64_t *n_tokens)
{
    int64_t seen = -1;

    if (!cap->writer) return kvcap__fail(cap, KVCAP_EORDER, "closed before kvcap_prompt: there is nothing to store");
    for (uint32_t l = 0; l < cap->n_layers; l++) {
        const kvcap_layer_state *ls = &cap->layer[l];
        if (ls->info.attn == KVT_ATTN_NONE && ls->is_set) continue;
        if (ls->seen < cap->n_prompt)
            return kvcap__fail(cap, KVCAP_EORDER,
                               "closed before the prefill was over: layer %u has seen %lld of %u tokens", l,
                               (long long)ls->seen, cap->n_prompt);
        if (seen >= 0 && ls->seen != seen)
            return kvcap__fail(cap, KVCAP_EORDER,
                               "closed in the middle of a step: layer %u has seen %lld tokens, the layers "
                               "before it %lld",
                               l, (long long)ls->seen, (long long)seen);
        seen = ls->seen;
    }
    if (seen < 0) return kvcap__fail(cap, KVCAP_EORDER, "closed, but no layer has attention");
    if ((cap->flags & KVCAP_EXACT_LEN) && seen != cap->max_tokens)
        return kvcap__fail(cap, KVCAP_ERANGE, "KVCAP_EXACT_LEN announced %lld tokens, %lld came",
                           (long long)cap->max_tokens, (long long)seen);
    *n_tokens = seen;
    return KVCAP_OK;
}

static int session_tail_text(kvcap *cap, int64_t n_tokens, uint8_t **text, int64_t **offset)
{
    int64_t at = 0;

    if (!(cap->flags & KVCAP_STORE_TEXT) || cap->n_piece == 0) return KVCAP_OK;
    *text = kvcap__grow(NULL, cap->text_bytes, 1);
    *offset = kvcap__grow(NULL, (size_t)n_tokens + 1, sizeof **offset);
    if (!*text || !*offset) return kvcap__no_memory(cap);
    for (int64_t i = 0; i < n_tokens; i++) {
        (*offset)[i] = at;
        if (i >= cap->n_piece || !cap->piece[i].n_bytes) continue;
        memcpy(*text + at, cap->piece[i].bytes, cap->piece[i].n_bytes);
        at += (int64_t)cap->piece[i].n_bytes;
    }
    (*offset)[n_tokens] = at;
    return KVCAP_OK;
}

/* Spans are cut at the last stored token. Cutting can make two ends equal; the order by
 * begin, then descending end, stays. */
static int session_tail_spans(kvcap *cap, int64_t n_tokens, kvt_writer_tail *tail, int64_t **bounds, int32_t **kind)
{
    if (cap->n_span == 0) return KVCAP_OK;
    *bounds = kvcap__grow(NULL, cap->n_span, 2 * sizeof **bounds);
    *kind = kvcap__grow(NULL, cap->n_span, sizeof **kind);
    if (!*bounds || !*kind) return kvcap__no_memory(cap);
    for (uint32_t i = 0; i < cap->n_span; i++) {
        (*bounds)[i] = cap->span[i].begin < n_tokens ? cap->span[i].begin : n_tokens;
        (*bounds)[cap->n_span + i] = cap->span[i].end < n_tokens ? cap->span[i].end : n_tokens;
        (*kind)[i] = cap->span[i].kind;
    }
    tail->n_spans = cap->n_span;
    tail->span_begin = *bounds;
    tail->span_end = *bounds + cap->n_span;
    tail->span_kind = *kind;
    return KVCAP_OK;
}

static int session_commit(kvcap *cap, int64_t n_tokens)
{
    const uint32_t n_decode = (uint32_t)(n_tokens - cap->n_prompt);
    kvt_writer_tail tail = {.n_decode = n_decode,
                            .token_id = cap->ids,
                            .rotary = cap->rotary,
                            .n_nonfinite = cap->n_nonfinite,
                            .nonfinite = cap->nonfinite[0]};
    kvcap_verdict v = {0};
    uint8_t *text = NULL;
    int64_t *offset = NULL, *bounds = NULL;
    int32_t *kind = NULL;
    kvt_err err;
    int rc = KVCAP_OK;

    for (uint32_t l = 0; l < cap->n_layers && rc == KVCAP_OK; l++)
        rc = cap->layer[l].is_announced ? kvcap__flush_layer(cap, l) : kvcap__announce(cap, l, NULL);
    if (rc == KVCAP_OK) rc = kvcap__verdict(cap, n_decode, &v);
    if (rc == KVCAP_OK) rc = session_tail_text(cap, n_tokens, &text, &offset);
    if (rc == KVCAP_OK) rc = session_tail_spans(cap, n_tokens, &tail, &bounds, &kind);
    if (rc == KVCAP_OK) {
        kvt_writer *writer = cap->writer;
        tail.text = text;
        tail.text_offset = offset;
        tail.n_samples = v.n_samples;
        tail.sample_index = v.index;
        tail.sample_out = v.out;
        tail.sample_lse = v.lse;
        tail.sample_width = v.width;
        tail.verify_tol = v.tol;
        tail.verify_max_err = v.max_err;
        tail.verify_passed = v.passed;
        cap->writer = NULL; /* commit frees it in any case */
        if (kvt_writer_commit(writer, &tail, &err) < 0) rc = kvcap__fail_kvt(cap, &err);
    }
    if (rc == KVCAP_OK && cap->n_nonfinite)
        kvcap__say(cap, KVCAP_LOG_WARN, "%s: %u operands are not finite (/verify/nonfinite)", cap->shown,
                   cap->n_nonfinite);
    if (rc == KVCAP_OK)
        kvcap__say(cap, v.passed ? KVCAP_LOG_INFO : KVCAP_LOG_WARN,
                   "%s: acceptance test %s: %u samples of the engine's output, largest error %.3g, tolerance %.3g",
                   cap->shown,
                   v.passed      ? "passed"
                   : v.n_samples ? "FAILED"
                                 : "not possible",
                   v.n_samples, v.max_err, v.tol);
    kvcap__verdict_free(&v);
    free(text);
    free(offset);
    free(bounds);
    free(kind);
    return rc;
}

int kvcap_close(kvcap **handle)
{
    kvcap *cap;
    int64_t n_tokens = 0;
    int rc;

    if (!handle || !*handle) return KVCAP_EARG;
    cap = *handle;
    *handle = NULL;
    rc = cap->status;
    if (rc == KVCAP_OK) rc = session_check_end(cap, &n_tokens);
    if (rc == KVCAP_OK) rc = session_commit(cap, n_tokens);
    kvt_writer_abort(cap->writer, 1);
    kvcap__free(cap);
    return rc;
}

void kvcap_abort(kvcap **handle)
{
    if (!handle || !*handle) return;
    kvt_writer_abort((*handle)->writer, 1);
    kvcap__free(*handle);
    *handle = NULL;
}
