/* trace_write_check.c - what a writer is given is checked here, so that everything it
 * writes is accepted by a reader. Checks come before the first byte is written. */
#include "trace_write_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_text.h"

#define CHECK(cond, ...) \
    do { if (!(cond)) return kvt_fail(err, KVT_EARG, __VA_ARGS__); } while (0)

static kvt_status check_text(const char *shown, const char *name, const char *text, bool required, kvt_err *err)
{
    const size_t n = text ? strlen(text) : 0;
    CHECK(n > 0 || !required, "%s: %s is empty", shown, name);
    CHECK(n <= KVT_MAX_STRING, "%s: %s has %zu bytes, at most %u are allowed", shown, name, n, KVT_MAX_STRING);
    return KVT_OK;
}

static kvt_status check_range(const char *shown, const char *name, uint64_t value, uint64_t min, uint64_t max,
                              kvt_err *err)
{
    CHECK(value >= min && value <= max, "%s: %s is %" PRIu64 ", allowed are %" PRIu64 " to %" PRIu64, shown, name,
          value, min, max);
    return KVT_OK;
}

static bool check_is_one_of(const char *text, const char *const *list)
{
    for (; *list; list++)
        if (text && strcmp(text, *list) == 0) return true;
    return false;
}

/* ---------------------------------------------------------------- head */

static kvt_status check_provenance(const char *shown, const kvt_writer_head *h, kvt_err *err)
{
    bool engine = false;

    for (uint32_t i = 0; i < h->n_provenance; i++) {
        const kvt_pair *p = &h->provenance[i];
        char name[48], value[64];
        kvt_printable_str(name, sizeof name, p->name);
        CHECK(p->name && *p->name && strlen(p->name) <= 64
                  && strspn(p->name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(p->name),
              "%s: '%s' is not a name for a provenance attribute (1 to 64 of a-z, 0-9, _)", shown, name);
        KVT_TRY(check_text(shown, name, p->value, false, err));
        for (uint32_t j = 0; j < i; j++)
            CHECK(strcmp(h->provenance[j].name, p->name) != 0, "%s: provenance %s is given twice", shown, name);
        if (strcmp(p->name, "engine") == 0 && p->value && *p->value) engine = true;
        if (strcmp(p->name, "seed") == 0 && p->value && *p->value) {
            char *end;
            errno = 0;
            (void)strtoll(p->value, &end, 10);
            CHECK(*end == '\0' && errno == 0, "%s: provenance seed is '%s', which is not an integer", shown,
                  kvt_printable_str(value, sizeof value, p->value));
        }
    }
    CHECK(engine, "%s: provenance lacks 'engine' (\"none\" if there was none)", shown);
    return KVT_OK;
}

kvt_status kvt__write_check_head(const char *shown, const kvt_writer_head *h, kvt_err *err)
{
    static const char *const exactness[] = { "engine-operands", "rounded", "recomputed", "synthetic", NULL };
    char text[64];

    KVT_TRY(check_text(shown, "the writer's name", h->writer, true, err));
    KVT_TRY(check_text(shown, "cluster_id", h->cluster_id, false, err));
    KVT_TRY(check_text(shown, "sample_id", h->sample_id, false, err));
    KVT_TRY(check_text(shown, "created", h->created, false, err));
    CHECK(!h->exactness || !*h->exactness || check_is_one_of(h->exactness, exactness),
          "%s: exactness is '%s', allowed are engine-operands, rounded, recomputed, synthetic", shown,
          kvt_printable_str(text, sizeof text, h->exactness));
    CHECK(!h->uuid || !*h->uuid || (strlen(h->uuid) == 36 && strspn(h->uuid, "0123456789abcdefABCDEF-") == 36),
          "%s: uuid '%s' is not 36 hexadecimal digits and hyphens", shown,
          kvt_printable_str(text, sizeof text, h->uuid));
    KVT_TRY(check_range(shown, "n_layers", h->n_layers, 1, KVT_MAX_LAYERS, err));
    KVT_TRY(check_range(shown, "n_prompt", h->n_prompt, 1, KVT_MAX_TOKENS, err));
    if (h->n_decode != KVT_LENGTH_UNKNOWN)
        KVT_TRY(check_range(shown, "n_decode", h->n_decode, 0, KVT_MAX_TOKENS - h->n_prompt, err));
    KVT_TRY(check_range(shown, "window", h->window, 1, h->n_prompt, err));
    KVT_TRY(check_range(shown, "question_start", h->question_start, 0, h->n_prompt, err));
    KVT_TRY(check_range(shown, "model_dim", h->model_dim, 1, KVT_MAX_MODEL_DIM, err));
    KVT_TRY(check_range(shown, "vocab_size", h->vocab_size, 0, INT32_MAX, err));
    CHECK(!h->model_files_json || strlen(h->model_files_json) <= KVT_MAX_JSON, "%s: model_files exceeds %u bytes",
          shown, KVT_MAX_JSON);
    CHECK(!h->config_json || strlen(h->config_json) <= KVT_MAX_JSON, "%s: config_json exceeds %u bytes", shown,
          KVT_MAX_JSON);
    return check_provenance(shown, h, err);
}

/* ---------------------------------------------------------------- layer */

static kvt_status check_rope(const char *shown, uint32_t layer, const kvt_layer_info *l, kvt_err *err)
{
    static const char *const types[] = { "f64", "f32", "f16", "bf16", NULL };

    if (l->rope_dims == 0) return KVT_OK;
    CHECK(l->rope_dims % 2 == 0 && l->rope_dims <= l->d_k && l->rope_offset <= l->d_k - l->rope_dims,
          "%s: layer %u: rope covers channels %u to %u of %u, an even number is needed", shown, layer,
          l->rope_offset, l->rope_offset + l->rope_dims - 1, l->d_k);
    CHECK(l->rope_segments >= 1 && l->rope_segments <= KVT_MAX_ROPE_SEGMENTS && l->rope_inv_freq
              && l->rope_segment_start && l->rope_segment_start[0] == 0,
          "%s: layer %u: rope needs 1 to %u segments, the first at token 0", shown, layer, KVT_MAX_ROPE_SEGMENTS);
    for (uint32_t z = 1; z < l->rope_segments; z++)
        CHECK(l->rope_segment_start[z] > l->rope_segment_start[z - 1] && l->rope_segment_start[z] < KVT_MAX_TOKENS,
              "%s: layer %u: rope segment %u does not start after the one before", shown, layer, z);
    for (uint32_t i = 0; i < l->rope_segments * (l->rope_dims / 2); i++)
        CHECK(isfinite(l->rope_inv_freq[i]), "%s: layer %u: rope inv_freq[%u] is not finite", shown, layer, i);
    CHECK(isfinite(l->rope_attention_scaling), "%s: layer %u: rope attention_scaling is not finite", shown, layer);
    CHECK(check_is_one_of(l->rope_angle_type, types) && check_is_one_of(l->rope_table_type, types),
          "%s: layer %u: rope angle and table types are f64, f32, f16 or bf16", shown, layer);
    return check_text(shown, "rope type", l->rope_type, false, err);
}

static kvt_status check_tensors(const char *shown, uint32_t layer, const kvt_layer_info *l, kvt_err *err)
{
    const uint32_t stats = 1u << KVT_T_STAT_SUM | 1u << KVT_T_STAT_SUMSQ | 1u << KVT_T_STAT_MAX;
    const uint32_t cache = 1u << KVT_T_K | 1u << KVT_T_V, query = 1u << KVT_T_Q | 1u << KVT_T_LSE;

    CHECK(l->has < 1u << KVT_T_END && !(l->has & 1u), "%s: layer %u: unknown tensor announced", shown, layer);
    CHECK((l->has & query) == query, "%s: layer %u: q and lse must be recorded", shown, layer);
    if (l->kv_layer == layer)
        CHECK(l->has & 1u << KVT_T_K, "%s: layer %u: k must be recorded", shown, layer);
    else
        CHECK(!(l->has & cache), "%s: layer %u: attends to the cache of layer %u and can have no k and v of its own",
              shown, layer, l->kv_layer);
    CHECK((l->has & stats) == 0 || (l->has & stats) == stats,
          "%s: layer %u: stats sum, sumsq and max must be recorded together", shown, layer);
    CHECK(!l->has_sinks == !(l->has & 1u << KVT_T_SINKS),
          "%s: layer %u: sinks must be recorded exactly where the layer has learned sinks", shown, layer);
    return KVT_OK;
}

static kvt_status check_attention(const kvt_writer *w, uint32_t layer, const kvt_layer_info *l, kvt_err *err)
{
    const char *const shown = w->part.shown;
    const bool windowed = l->attn == KVT_ATTN_SLIDING || l->attn == KVT_ATTN_CHUNKED;

    CHECK(l->n_heads >= 1 && l->n_heads <= KVT_MAX_HEADS && l->n_kv_heads >= 1 && l->n_heads % l->n_kv_heads == 0,
          "%s: layer %u: %u query heads and %u KV heads; at most %u, a multiple", shown, layer, l->n_heads,
          l->n_kv_heads, KVT_MAX_HEADS);
    CHECK(l->d_k >= 1 && l->d_k <= KVT_MAX_HEAD_DIM && l->d_v >= 1 && l->d_v <= KVT_MAX_HEAD_DIM,
          "%s: layer %u: d_k is %u, d_v %u; allowed are 1 to %u", shown, layer, l->d_k, l->d_v, KVT_MAX_HEAD_DIM);
    CHECK(l->k_type <= KVT_BF16 && l->v_type <= KVT_BF16 && l->q_type <= KVT_BF16,
          "%s: layer %u: unknown element type", shown, layer);
    CHECK(isfinite(l->scale) && l->scale > 0.0, "%s: layer %u: scale must be finite and above 0", shown, layer);
    CHECK(isfinite(l->softcap) && l->softcap >= 0.0, "%s: layer %u: softcap must be finite and not below 0", shown,
          layer);
    CHECK(windowed ? l->window >= 1 && l->window <= INT32_MAX : l->window == 0,
          "%s: layer %u: attention is %s and its window %u", shown, layer, kvt_attn_name(l->attn), l->window);
    CHECK(l->kv_layer < w->info.n_layers, "%s: layer %u: kv_layer is %u of %u layers", shown, layer, l->kv_layer,
          w->info.n_layers);
    KVT_TRY(check_tensors(shown, layer, l, err));
    return check_rope(shown, layer, l, err);
}

kvt_status kvt__write_check_layer(const kvt_writer *w, uint32_t layer, const kvt_layer_info *l,
                                  const char *lse_source, kvt_err *err)
{
    static const char *const sources[] = { "engine", "recomputed", NULL };
    const char *const shown = w->part.shown;

    CHECK(w->n_announced < w->info.n_layers, "%s: layer %u announced, there are %u layers", shown, layer,
          w->info.n_layers);
    CHECK(layer == w->n_announced, "%s: layer %u announced, layer %u comes next", shown, layer, w->n_announced);
    CHECK(!lse_source || check_is_one_of(lse_source, sources), "%s: layer %u: lse is from 'engine' or 'recomputed'",
          shown, layer);
    if (l->recorded)
        return kvt_fail(err, KVT_ENOTSUP, "%s: layer %u: recorded rows are not written by this version", shown, layer);
    CHECK(l->attn <= KVT_ATTN_NONE, "%s: layer %u: unknown kind of attention", shown, layer);
    if (l->attn != KVT_ATTN_NONE) return check_attention(w, layer, l, err);
    CHECK(l->has == 0, "%s: layer %u: a layer without attention has no tensors", shown, layer);
    return KVT_OK;
}

/* ---------------------------------------------------------------- tail */

static kvt_status check_tokens(const kvt_writer *w, const kvt_writer_tail *t, uint32_t n_tokens, kvt_err *err)
{
    const char *const shown = w->part.shown;
    bool windowed = false;

    for (uint32_t l = 0; l < w->info.n_layers; l++)
        windowed |= w->layer[l].attn == KVT_ATTN_SLIDING || w->layer[l].attn == KVT_ATTN_CHUNKED;
    CHECK(t->token_id, "%s: there are no token ids", shown);
    CHECK(!t->text == !t->text_offset, "%s: token text and its offsets must be given together", shown);
    for (uint32_t i = 0; i < n_tokens; i++) {
        CHECK(t->token_id[i] >= -1, "%s: token %u has the id %" PRId32 ", -1 means unknown", shown, i,
              t->token_id[i]);
        if (t->text_offset)
            CHECK(t->text_offset[0] == 0 && t->text_offset[i + 1] >= t->text_offset[i]
                      && t->text_offset[i + 1] <= KVT_MAX_TEXT,
                  "%s: text of token %u is bytes %" PRId64 " to %" PRId64 "; they start at 0, never decrease and end "
                  "below %u", shown, i, t->text_offset[i], t->text_offset[i + 1], KVT_MAX_TEXT);
        if (!t->rotary) continue;
        CHECK(t->rotary[i] >= 0 && (i == 0 || t->rotary[i] >= t->rotary[i - 1]),
              "%s: token %u has the rotary position %" PRId32 ", which is below the one before", shown, i,
              t->rotary[i]);
        CHECK(!windowed || (int64_t)t->rotary[i] - t->rotary[0] == (int64_t)i,
              "%s: token %u has the rotary position %" PRId32 "; with sliding or chunked layers positions must count "
              "tokens", shown, i, t->rotary[i]);
    }
    return KVT_OK;
}

/* Sorted by begin, then by descending end; nested or disjoint. `open` holds the ends of
 * the spans around the current one. */
static kvt_status check_spans(const char *shown, const kvt_writer_tail *t, uint32_t n_tokens, kvt_err *err)
{
    int64_t *open;
    uint32_t n_open = 0;
    kvt_status st = KVT_OK;

    if (t->n_spans == 0) return KVT_OK;
    KVT_TRY(check_range(shown, "number of spans", t->n_spans, 0, KVT_MAX_SPANS, err));
    CHECK(t->span_begin && t->span_end && t->span_kind, "%s: spans lack begins, ends or kinds", shown);
    open = malloc(t->n_spans * sizeof *open);
    if (!open) return kvt_fail(err, KVT_ENOMEM, "%s: no memory for %u spans", shown, t->n_spans);
    for (uint32_t i = 0; i < t->n_spans && st == KVT_OK; i++) {
        const int64_t begin = t->span_begin[i], end = t->span_end[i];
        const bool sorted = i == 0 || begin > t->span_begin[i - 1]
                            || (begin == t->span_begin[i - 1] && end <= t->span_end[i - 1]);
        while (n_open > 0 && open[n_open - 1] <= begin) n_open--;
        if (begin < 0 || begin > end || end > (int64_t)n_tokens || !sorted || (n_open > 0 && end > open[n_open - 1]))
            st = kvt_fail(err, KVT_EARG, "%s: span %u [%" PRId64 ", %" PRId64 ") is outside 0 to %u, out of order or "
                          "crosses another", shown, i, begin, end, n_tokens);
        else if (t->span_kind[i] < 0 || t->span_kind[i] > 10)
            st = kvt_fail(err, KVT_EARG, "%s: span %u has the kind %" PRId32 ", allowed are 0 to 10", shown, i,
                          t->span_kind[i]);
        open[n_open++] = end;
    }
    free(open);
    return st;
}

/* index: layer, head, item (row or token). */
static kvt_status check_index(const kvt_writer *w, const char *what, const int32_t *index, uint32_t n, bool kv,
                              uint32_t n_items, kvt_err *err)
{
    CHECK(n <= KVT_MAX_VERIFY && (n == 0 || index), "%s: %u %s samples, at most %u", w->part.shown, n, what,
          KVT_MAX_VERIFY);
    for (uint32_t i = 0; i < n; i++) {
        const int32_t *const x = index + 3 * (size_t)i;
        const kvt_layer_info *const l
            = x[0] >= 0 && (uint32_t)x[0] < w->info.n_layers ? &w->layer[x[0]] : NULL;
        const uint32_t heads = !l ? 0 : kv ? l->n_kv_heads : l->n_heads;
        CHECK(heads > 0 && x[1] >= 0 && (uint32_t)x[1] < heads && x[2] >= 0 && (uint32_t)x[2] < n_items,
              "%s: %s sample %u is layer %" PRId32 ", head %" PRId32 ", %s %" PRId32 ", which is not there",
              w->part.shown, what, i, x[0], x[1], kv ? "token" : "row", x[2]);
    }
    return KVT_OK;
}

kvt_status kvt__write_check_tail(const kvt_writer *w, const kvt_writer_tail *t, kvt_err *err)
{
    const char *const shown = w->part.shown;
    uint32_t n_tokens, max_d_v = 0;

    CHECK(w->n_announced == w->info.n_layers, "%s: %u of %u layers were written", shown, w->n_announced,
          w->info.n_layers);
    KVT_TRY(check_range(shown, "n_decode", t->n_decode, w->known ? w->info.n_decode : 0,
                        w->known ? w->info.n_decode : KVT_MAX_TOKENS - w->info.n_prompt, err));
    n_tokens = w->info.n_prompt + t->n_decode;
    KVT_TRY(check_tokens(w, t, n_tokens, err));
    KVT_TRY(check_spans(shown, t, n_tokens, err));
    for (uint32_t l = 0; l < w->info.n_layers; l++)
        if (w->layer[l].d_v > max_d_v) max_d_v = w->layer[l].d_v;
    KVT_TRY(check_index(w, "output", t->sample_index, t->n_samples, false, w->info.window + t->n_decode, err));
    KVT_TRY(check_index(w, "rope", t->rope_index, t->n_rope_samples, true, n_tokens, err));
    CHECK(t->n_samples == 0 || (t->sample_out && t->sample_width == max_d_v),
          "%s: output samples are %u wide, expected %u", shown, t->sample_width, max_d_v);
    CHECK(t->n_rope_samples == 0 || t->rope_k, "%s: rope samples without keys", shown);
    CHECK(isfinite(t->verify_tol) && t->verify_tol > 0.0, "%s: verify_tol must be finite and above 0", shown);
    CHECK(isfinite(t->verify_max_err) && t->verify_max_err >= 0.0, "%s: verify_max_err must be finite and not below 0",
          shown);
    CHECK(t->n_nonfinite == 0 || t->nonfinite, "%s: %u non-finite operands without their places", shown,
          t->n_nonfinite);
    return KVT_OK;
}
