/* kvtrace synth: a trace without a model, with structure planted in it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "kvt_cli.h"
#include "kvt_text.h"
#include "trace_synth.h"

static const kvt_opt synth_opts[] = {
    {.name = "output", .letter = 'o', .type = KVT_OPT_TEXT, .value = "FILE", .help = "The trace to write."},
    {.name = "layers", .type = KVT_OPT_UINT, .value = "N", .def = "4", .min = 1, .max = KVT_MAX_LAYERS,
     .help = "Layers."},
    {.name = "heads", .type = KVT_OPT_UINT, .value = "N", .def = "8", .min = 1, .max = KVT_MAX_HEADS,
     .help = "Query heads of a layer."},
    {.name = "kv-heads", .type = KVT_OPT_UINT, .value = "N", .def = "2", .min = 1, .max = KVT_MAX_HEADS,
     .help = "KV heads of a layer; divides --heads."},
    {.name = "head-dim", .type = KVT_OPT_UINT, .value = "N", .def = "32", .min = 8, .max = KVT_MAX_HEAD_DIM,
     .help = "Channels of a head, a multiple of 4."},
    {.name = "model-dim", .type = KVT_OPT_UINT, .value = "N", .def = "0", .min = 0, .max = KVT_MAX_MODEL_DIM,
     .help = "Width of the output projection behind nu; 0 = heads x head-dim."},
    {.name = "prompt", .type = KVT_OPT_UINT, .value = "TOKENS", .def = "256", .min = 1, .max = KVT_MAX_TOKENS,
     .help = "Prompt tokens."},
    {.name = "decode", .type = KVT_OPT_UINT, .value = "STEPS", .def = "64", .min = 0, .max = KVT_MAX_TOKENS,
     .help = "Decode steps."},
    {.name = "window", .type = KVT_OPT_UINT, .value = "TOKENS", .def = "64", .min = 1, .max = KVT_MAX_TOKENS,
     .help = "Last prompt tokens whose queries are stored; at most the prompt."},
    {.name = "dtype", .type = KVT_OPT_TEXT, .value = "TYPE", .def = "bf16", .choices = "f32|f16|bf16",
     .help = "Stored type of keys, values and queries."},
    {.name = "seed", .type = KVT_OPT_UINT, .value = "N", .def = "1", .min = 0, .max = 9007199254740991.0,
     .help = "Seed of all random numbers: the same seed and sizes, the same content id."},
    {.name = "text", .type = KVT_OPT_FLAG, .help = "Store made-up token text."},
    {.name = "no-stats", .type = KVT_OPT_FLAG,
     .help = "Leave out the statistics over all prompt queries: their cost grows with the square of the prompt."},
    {.name = "force", .type = KVT_OPT_FLAG, .help = "Replace a file that is there."},
    {0}};

/* "kvtrace synth -o t.h5 ..." into out, printable, cut where it is too long. */
static void synth_command(char *out, size_t size, const kvt_args *args)
{
    size_t at = 0;

    out[0] = '\0';
    for (int i = 0; i < kvt_arg_argc(args) && at + 8 < size; i++) {
        const char *word = kvt_arg_argv(args)[i];
        if (i == 0) word = "kvtrace";           /* without the folders of this machine */
        if (i > 0) out[at++] = ' ';
        kvt_printable_str(out + at, size - at, word);
        at += strlen(out + at);
    }
}

static kvt_dtype synth_type(const char *name)
{
    return strcmp(name, "f32") == 0 ? KVT_F32 : strcmp(name, "f16") == 0 ? KVT_F16 : KVT_BF16;
}

static kvt_status synth_say(const char *path, kvt_err *err)
{
    kvt_source src = {0};
    const kvt_trace_info *info;
    char shown[1024];

    KVT_TRY(kvt_source_open(&src, path, 0, err));
    info = src.info;
    printf("%s: %" PRIu32 " layers, %" PRIu32 " prompt tokens, %" PRIu32 " decode steps, %" PRIu64 " bytes\n",
           src.path, info->n_layers, info->n_prompt, info->n_decode, info->file_bytes);
    printf("content id: %s\n", info->content_id);
    for (uint32_t i = 0; i < info->n_provenance; i++)
        if (strcmp(info->provenance[i].name, "corpus") == 0)
            printf("%s\n", kvt_printable_str(shown, sizeof shown, info->provenance[i].value));
    kvt_source_close(&src);
    return KVT_OK;
}

static kvt_status synth_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    const char *const path = kvt_arg_text(args, "output");
    char command[1024], shown[256];
    struct stat there;
    const kvt_synth s = {
        .n_layers = (uint32_t)kvt_arg_uint(args, "layers"), .n_heads = (uint32_t)kvt_arg_uint(args, "heads"),
        .n_kv_heads = (uint32_t)kvt_arg_uint(args, "kv-heads"), .head_dim = (uint32_t)kvt_arg_uint(args, "head-dim"),
        .model_dim = (uint32_t)kvt_arg_uint(args, "model-dim"), .n_prompt = (uint32_t)kvt_arg_uint(args, "prompt"),
        .n_decode = (uint32_t)kvt_arg_uint(args, "decode"), .window = (uint32_t)kvt_arg_uint(args, "window"),
        .type = synth_type(kvt_arg_text(args, "dtype")), .seed = kvt_arg_uint(args, "seed"),
        .text = kvt_arg_flag(args, "text"), .no_stats = kvt_arg_flag(args, "no-stats"), .command = command,
    };

    if (!path || !*path) return kvt_fail(err, KVT_EARG, "which trace is to be written? Give -o FILE");
    if (!kvt_arg_flag(args, "force") && lstat(path, &there) == 0)
        return kvt_fail(err, KVT_EARG, "%s: is there already; --force replaces it",
                        kvt_printable_str(shown, sizeof shown, path));
    synth_command(command, sizeof command, args);
    KVT_TRY(kvt_synth_write(path, &s, err));
    *exit_code = KVT_EXIT_OK;
    return synth_say(path, err);
}

const kvt_cmd kvt_cmd_synth = {
    .name = "synth",
    .operands = "",
    .summary = "make a synthetic trace with planted structure",
    .details = "Writes a trace that needs no model and no GPU. Every fourth query head is a retrieval\n"
               "head: in a few decode steps it puts nearly all of its attention on one prompt token (a\n"
               "late bloomer) that no query looked at before. The other heads attend to sinks, to a\n"
               "local band or to heavy hitters. What was planted is printed, and stored as spans of\n"
               "kind needle and in the provenance of the trace. The same seed and sizes give the same\n"
               "content id; date and uuid of the file differ.\n\n"
               "Example:\n"
               "  kvtrace synth -o demo.h5 --seed 7\n"
               "  kvtrace verify demo.h5",
    .min_operands = 0,
    .max_operands = 0,
    .opts = synth_opts,
    .run = synth_run,
};
