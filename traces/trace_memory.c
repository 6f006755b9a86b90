/* trace_memory.c - a source over arrays of the caller: golden cases, tests, and anything
 * that makes a trace without a file. */
#include "kvt_trace.h"

#include <stdlib.h>
#include <string.h>

typedef struct memory_source {
    kvt_trace_info info;
    const float   *data[];                     /* [n_layers * KVT_T_END] */
} memory_source;

static kvt_status memory_read(void *self, kvt_tensor tensor, uint32_t layer, uint32_t head, uint32_t row,
                              uint32_t n, float *out, int *finite, kvt_err *err)
{
    const memory_source *m = self;
    const kvt_layer_info *l = &m->info.layer[layer];
    const size_t rows = kvt_tensor_rows(&m->info, l, tensor);
    const size_t width = kvt_tensor_width(&m->info, l, tensor);
    const float *from = m->data[(size_t)layer * KVT_T_END + (size_t)tensor];

    (void)finite, (void)err;
    memcpy(out, from + (head * rows + row) * width, n * width * sizeof *out);
    return KVT_OK;
}

static void memory_close(void *self)
{
    free(self);
}

static const kvt_source_ops memory_ops = {.name = "memory", .read = memory_read, .close = memory_close};

kvt_status kvt_source_open_memory(kvt_source *out, const kvt_trace_info *info, const float *const *data,
                                  kvt_err *err)
{
    const size_t n = (size_t)info->n_layers * KVT_T_END;
    memory_source *m;

    if (info->n_layers < 1 || info->n_layers > KVT_MAX_LAYERS)
        return kvt_fail(err, KVT_EARG, "memory: %u layers, expected 1 to %u", info->n_layers,
                        KVT_MAX_LAYERS);
    for (uint32_t layer = 0; layer < info->n_layers; layer++)
        for (uint32_t t = KVT_T_K; t < KVT_T_END; t++)
            if ((info->layer[layer].has & 1u << t) && !data[(size_t)layer * KVT_T_END + t])
                return kvt_fail(err, KVT_EARG, "memory: layer %u has %s, but no array was given", layer,
                                kvt_tensor_path((kvt_tensor)t));
    m = malloc(sizeof *m + n * sizeof *m->data);
    if (!m) return kvt_fail(err, KVT_ENOMEM, "memory: no memory for %u layers", info->n_layers);
    m->info = *info;
    memcpy(m->data, data, n * sizeof *m->data);
    *out = (kvt_source){.ops = &memory_ops, .self = m, .info = &m->info, .path = "memory"};
    return KVT_OK;
}
