/* test_trace_synth.c - goal: a synthetic trace holds what it says it holds. Method: rows
 * recomputed from the file show each planted behaviour; odd shapes are readable. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ref_attention.h"
#include "trace_synth.h"

static char folder[64], path[96];
static kvt_err err;

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/kvt_synth_XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/s.h5", folder);
}

static void remove_folder(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert(system(command) == 0);
}

TestSuite(trace_synth, .init = make_folder, .fini = remove_folder);

static const kvt_synth small = { .n_layers = 2, .n_heads = 8, .n_kv_heads = 2, .head_dim = 16, .n_prompt = 128,
                                 .n_decode = 32, .window = 32, .type = KVT_BF16, .seed = 3 };

static void write_and_open(const kvt_synth *s, kvt_source *src)
{
    cr_assert(kvt_synth_write(path, s, &err) == KVT_OK, "%s", err.text);
    cr_assert(kvt_source_open(src, path, 0, &err) == KVT_OK, "%s", err.text);
}

/* Rows of the stored queries of one head: row[r * T + j]. */
static double *rows_of(kvt_source *src, uint32_t layer, uint32_t head)
{
    const kvt_trace_info *const n = src->info;
    const kvt_layer_info *const l = &n->layer[layer];
    double *const row = calloc((size_t)n->n_rows * n->n_tokens, sizeof *row);
    float *const k = malloc((size_t)n->n_tokens * l->d_k * sizeof *k), *const q = malloc(l->d_k * sizeof *q);

    cr_assert(row && k && q);
    cr_assert(kvt_source_read(src, KVT_T_K, layer, head / (l->n_heads / l->n_kv_heads), 0, n->n_tokens, k, &err)
              == KVT_OK, "%s", err.text);
    for (uint32_t r = 0; r < n->n_rows; r++) {
        cr_assert(kvt_source_read(src, KVT_T_Q, layer, head, r, 1, q, &err) == KVT_OK, "%s", err.text);
        kvt_ref_row(l, (uint32_t)n->query_index[r], q, k, 0.0f, NULL, row + (size_t)r * n->n_tokens);
    }
    free(k);
    free(q);
    return row;
}

/* Prompt tokens whose mean attention in the last W prompt rows is above that of the token. */
static uint32_t window_rank(const kvt_trace_info *n, const double *row, uint32_t token)
{
    uint32_t above = 0;
    for (uint32_t j = 0; j < n->n_prompt; j++) {
        double own = 0.0, other = 0.0;
        for (uint32_t r = 0; r < n->window; r++) {
            own += row[(size_t)r * n->n_tokens + token];
            other += row[(size_t)r * n->n_tokens + j];
        }
        above += other > own;
    }
    return above;
}

Test(trace_synth, late_bloomers_defeat_a_choice_made_at_the_window)
{
    kvt_source src = { 0 };
    uint32_t heads = 0;

    write_and_open(&small, &src);
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t head = 0; head < 8; head++) {
            const kvt_trace_info *const n = src.info;
            double *row;
            if (kvt_synth_role_of(layer, head) != KVT_SYNTH_RETRIEVAL) continue;
            row = rows_of(&src, layer, head);
            heads++;
            for (uint32_t i = 0, seen = 0; i < n->n_spans; i++) {
                const uint32_t token = (uint32_t)n->span_begin[i];
                uint32_t steps = 0;
                if (n->span_kind[i] != 8) continue;
                cr_assert(token < n->n_prompt - n->window && n->span_end[i] == token + 1);
                for (uint32_t t = 0; t < n->n_decode; t++)
                    steps += row[(size_t)(n->window + t) * n->n_tokens + token] > 0.5;
                /* Needle 0 twice, needle 1 once, n_decode / 16 = 2 steps each. */
                cr_assert(steps == (seen == 0 ? 4 : 2), "layer %u head %u token %u: %u steps", layer, head, token, steps);
                cr_assert(window_rank(n, row, token) > n->n_prompt / 2, "token %u has rank %u", token,
                          window_rank(n, row, token));
                seen++;
            }
            free(row);
        }
    cr_assert(heads == 4);
    kvt_source_close(&src);
}

static double share(const kvt_trace_info *n, const double *row, uint32_t from_back, uint32_t first, uint32_t last)
{
    double sum = 0.0;
    for (uint32_t r = 0; r < n->n_rows; r++) {
        const uint32_t p = (uint32_t)n->query_index[r];
        const uint32_t begin = from_back ? p + 1 - from_back : first, end = from_back ? p : last;
        for (uint32_t j = begin; j <= end; j++) sum += row[(size_t)r * n->n_tokens + j];
    }
    return sum / n->n_rows;
}

Test(trace_synth, the_other_roles_are_what_they_are_called)
{
    kvt_source src = { 0 };
    uint32_t seen[4] = { 0 };

    write_and_open(&small, &src);
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t head = 0; head < 8; head++) {
            const kvt_trace_info *const n = src.info;
            double *const row = rows_of(&src, layer, head), sinks = share(n, row, 0, 0, 3), band = share(n, row, 16, 0, 0);
            double heavy = 0.0;
            const char *text = "";
            for (uint32_t i = 0; i < n->n_provenance; i++)
                if (strcmp(n->provenance[i].name, "corpus") == 0) text = n->provenance[i].value;
            cr_assert((text = strstr(text, "heavy hitters: tokens ")) != NULL);
            for (text += strlen("heavy hitters: tokens "); *text && *text != ';';) {
                char *end;
                const uint32_t token = (uint32_t)strtoul(text, &end, 10);
                heavy += share(n, row, 0, token, token);
                text = *end == ',' ? end + 2 : end;
            }
            switch (kvt_synth_role_of(layer, head)) {
            case KVT_SYNTH_RETRIEVAL: break;
            case KVT_SYNTH_SINK: cr_assert(sinks > 0.8, "layer %u head %u: %g", layer, head, sinks); break;
            case KVT_SYNTH_LOCAL: cr_assert(band > 0.4, "layer %u head %u: %g", layer, head, band); break;
            case KVT_SYNTH_HEAVY: cr_assert(heavy > 0.4, "layer %u head %u: %g", layer, head, heavy); break;
            }
            seen[kvt_synth_role_of(layer, head)]++;
            free(row);
        }
    for (int role = 0; role < 4; role++) cr_assert(seen[role] == 4);
    kvt_source_close(&src);
}

Test(trace_synth, content_follows_the_seed)
{
    kvt_synth s = small;
    char id[3][65], uuid[3][37];

    for (int i = 0; i < 3; i++) {
        kvt_source src = { 0 };
        s.seed = i == 2 ? 4 : 3;
        s.command = i == 1 ? "another command" : NULL;
        write_and_open(&s, &src);
        memcpy(id[i], src.info->content_id, 65);
        memcpy(uuid[i], src.info->uuid, 37);
        kvt_source_close(&src);
    }
    cr_assert(strcmp(id[0], id[1]) == 0 && strcmp(id[0], id[2]) != 0);
    cr_assert(strcmp(uuid[0], uuid[1]) != 0, "every file has its own uuid");
}

Test(trace_synth, odd_shapes_are_readable)
{
    const kvt_synth shapes[] = {
        { .n_layers = 1, .n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .n_prompt = 1, .n_decode = 0, .window = 1 },
        { .n_layers = 1, .n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .n_prompt = 1, .n_decode = 1, .window = 9 },
        { .n_layers = 1, .n_heads = 2, .n_kv_heads = 2, .head_dim = 12, .n_prompt = 8, .n_decode = 3, .window = 8 },
        { .n_layers = 5, .n_heads = 6, .n_kv_heads = 3, .head_dim = 8, .n_prompt = 9, .n_decode = 9, .window = 2,
          .type = KVT_F16, .model_dim = 5, .text = 1 },
        { .n_layers = 2, .n_heads = 4, .n_kv_heads = 4, .head_dim = 64, .n_prompt = 70, .n_decode = 130, .window = 70,
          .type = KVT_BF16, .seed = INT64_MAX },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        kvt_source src = { 0 };
        write_and_open(&shapes[i], &src);
        cr_assert(src.info->n_tokens == shapes[i].n_prompt + shapes[i].n_decode);
        cr_assert((src.info->text != NULL) == shapes[i].text);
        kvt_source_close(&src);
    }
}

Test(trace_synth, shapes_that_cannot_be_made_are_refused)
{
    struct stat s;
    kvt_synth x;
#define REFUSE(change, word)                                                                     \
    do {                                                                                         \
        x = small;                                                                               \
        change;                                                                                  \
        cr_assert(kvt_synth_write(path, &x, &err) == KVT_EARG);                                  \
        cr_assert(strstr(err.text, word) != NULL, "'%s' is not in: %s", word, err.text);         \
    } while (0)
    REFUSE(x.head_dim = 14, "head dimension 14");
    REFUSE(x.head_dim = 4, "head dimension 4");
    REFUSE(x.head_dim = 1028, "1028");
    REFUSE(x.n_kv_heads = 3, "8 query heads and 3 KV heads");
    REFUSE(x.n_heads = 0, "0 query heads");
    REFUSE(x.n_layers = 1025, "1025 layers");
    REFUSE((x.n_heads = 1024, x.n_kv_heads = 1, x.head_dim = 128), "model dimension");
    REFUSE(x.n_prompt = 0, "0 prompt tokens");
    REFUSE(x.n_decode = KVT_MAX_TOKENS, "decode steps");
    REFUSE(x.window = 0, "window 0");
    REFUSE(x.seed = UINT64_MAX, "seed");
    cr_assert(stat(path, &s) != 0);
}
