/* kvcap_open.c - what a capture is opened with, and the errors of a handle.
 *
 * kvcap_open claims NAME.part at once, so that an unwritable folder shows before a model
 * has run; the file gets its contents from kvcap_prompt on, when N is known. */
#include "kvcap_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "kvt_mul.h"
#include "kvt_text.h"
#include "kvt_version.h"

uint32_t kvcap_abi(void)
{
    return KVCAP_ABI;
}

const char *kvcap_version(void)
{
    return KVT_VERSION;
}

const char *kvcap_strerror(int status)
{
    switch (status) {
    case KVCAP_OK: return "success";
    case KVCAP_EARG: return "an argument has a value that is not allowed";
    case KVCAP_ENOMEM: return "out of host or device memory";
    case KVCAP_EIO: return "HDF5 or the operating system refused a write";
    case KVCAP_ERANGE: return "layer, head or token outside what was announced";
    case KVCAP_ENOTSUP: return "this build cannot do that";
    case KVCAP_EDEVICE: return "CUDA reported an error";
    case KVCAP_EABI: return "a struct or ABI number that this library does not know";
    case KVCAP_EORDER: return "a call out of order";
    case KVCAP_ESHAPE: return "a shape or stride contradicts kvcap_set_layer";
    default: return "unknown status";
    }
}

static void open_log(const kvcap *cap, int level, const char *text)
{
    if (cap->log) cap->log(level, text, cap->log_user);
}

void kvcap__say(const kvcap *cap, int level, const char *fmt, ...)
{
    char text[480];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    open_log(cap, level, text);
}

int kvcap__fail(kvcap *cap, int status, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    if (cap->status != KVCAP_OK) return cap->status;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cap->status = status;
    snprintf(cap->text, sizeof cap->text, "%.70s: %s", cap->shown ? cap->shown : "kvcap_open", text);
    open_log(cap, KVCAP_LOG_ERROR, cap->text);
    return status;
}

/* The writer speaks in kvt_status and already names the file; numbers that the ABI does
 * not have become EIO. */
int kvcap__fail_kvt(kvcap *cap, const kvt_err *err)
{
    int status = (int)err->status;

    if (cap->status != KVCAP_OK) return cap->status;
    if (status != KVCAP_EARG && status != KVCAP_ENOMEM && status != KVCAP_ERANGE && status != KVCAP_ENOTSUP)
        status = KVCAP_EIO;
    cap->status = status;
    snprintf(cap->text, sizeof cap->text, "%s", err->text);
    open_log(cap, KVCAP_LOG_ERROR, cap->text);
    return status;
}

int kvcap__no_memory(kvcap *cap)
{
    return kvcap__fail(cap, KVCAP_ENOMEM, "out of host memory");
}

int kvcap__stuck(const kvcap *cap)
{
    return cap ? cap->status : KVCAP_EARG;
}

int kvcap__take(void *dst, size_t size, const void *src)
{
    const unsigned char *from = src;
    uint32_t given;

    memcpy(&given, from, sizeof given);
    memset(dst, 0, size);
    if (given < sizeof given) return KVCAP_EABI;
    memcpy(dst, from, given < size ? given : size);
    for (size_t i = size; i < given; i++)
        if (from[i]) return KVCAP_EABI;
    return KVCAP_OK;
}

void *kvcap__grow(void *p, size_t n, size_t size)
{
    size_t bytes;
    return kvt_mul(n ? n : 1, size, &bytes) ? realloc(p, bytes) : NULL;
}

void kvcap__free(kvcap *cap)
{
    for (uint32_t l = 0; l < cap->n_layers && cap->layer; l++) kvcap__layer_free(&cap->layer[l]);
    free(cap->layer);
    for (int64_t i = 0; i < cap->n_piece; i++) free(cap->piece[i].bytes);
    free(cap->piece);
    free(cap->span);
    free(cap->ids);
    free(cap->rotary);
    kvcap__pairs_free(cap->provenance, cap->n_provenance);
    free(cap->model_files);
    free(cap->config);
    free(cap->path);
    free(cap->shown);
    free(cap->cluster_id);
    free(cap->sample_id);
    free(cap->z);
    free(cap->rows);
    free(cap);
}

static int open_check(kvcap *cap, const kvcap_params *p)
{
    const uint32_t all_flags = KVCAP_STORE_V | KVCAP_STORE_TEXT | KVCAP_STORE_WO_GRAM | KVCAP_EXACT_LEN | KVCAP_STRICT;
    const uint32_t three = KVCAP_STAT_SUM | KVCAP_STAT_SUMSQ | KVCAP_STAT_MAX;

    if (p->n_layers == 0 || p->n_layers > KVT_MAX_LAYERS)
        return kvcap__fail(cap, KVCAP_EARG, "n_layers %u, expected 1..%u", p->n_layers, KVT_MAX_LAYERS);
    if (p->model_dim == 0 || p->model_dim > KVT_MAX_MODEL_DIM)
        return kvcap__fail(cap, KVCAP_EARG, "model_dim %u, expected 1..%u", p->model_dim, KVT_MAX_MODEL_DIM);
    if (p->vocab_size > INT32_MAX)
        return kvcap__fail(cap, KVCAP_EARG, "vocab_size %u does not fit in the file", p->vocab_size);
    if (p->max_tokens < 1 || p->max_tokens > (int64_t)KVT_MAX_TOKENS)
        return kvcap__fail(cap, KVCAP_EARG, "max_tokens %lld, expected 1..%u", (long long)p->max_tokens,
                           KVT_MAX_TOKENS);
    if (p->flags & ~all_flags) return kvcap__fail(cap, KVCAP_ENOTSUP, "unknown flags 0x%x", p->flags & ~all_flags);
    if (p->flags & KVCAP_STORE_WO_GRAM)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "KVCAP_STORE_WO_GRAM is not supported by this version");
    if (p->stat_flags & KVCAP_STAT_BLOCKS)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "KVCAP_STAT_BLOCKS is not supported by this version");
    if (p->stat_flags & KVCAP_STAT_EA)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "KVCAP_STAT_EA is not supported by this version");
    if (p->stat_flags != 0 && p->stat_flags != three)
        return kvcap__fail(cap, p->stat_flags & ~three ? KVCAP_ENOTSUP : KVCAP_EARG,
                           "stat_flags 0x%x: SUM, SUMSQ and MAX come together or not at all", p->stat_flags);
    if (p->compress)
        return kvcap__fail(cap, KVCAP_ENOTSUP, "compress %u: compressed traces are not written by this version",
                           p->compress);
    return KVCAP_OK;
}

/* Names become attributes of /provenance, so they must be plain and their values short. */
static int open_check_pair(kvcap *cap, const kvt_pair *pair)
{
    char shown[80];
    size_t n = strlen(pair->name);

    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789_", pair->name[i])) n = 0;
    if (n == 0 || n > 64)
        return kvcap__fail(cap, KVCAP_EARG, "provenance name '%s' is not [a-z0-9_]{1,64}",
                           kvt_printable_str(shown, sizeof shown, pair->name));
    if (strlen(pair->value) > KVT_MAX_STRING)
        return kvcap__fail(cap, KVCAP_EARG, "provenance %s is longer than %u bytes", pair->name, KVT_MAX_STRING);
    return KVCAP_OK;
}

/* model_files and config_json are texts of up to 16 MiB and become datasets. */
static int open_provenance(kvcap *cap, const char *json)
{
    char why[160];
    int has_engine = 0;
    int rc = kvcap__json_pairs(json, &cap->provenance, &cap->n_provenance, why, sizeof why);

    if (rc != KVCAP_OK) return kvcap__fail(cap, rc, "%s", why);
    for (uint32_t i = 0; i < cap->n_provenance; i++) {
        const kvt_pair pair = cap->provenance[i];
        const int is_files = strcmp(pair.name, "model_files") == 0, is_config = strcmp(pair.name, "config_json") == 0;
        if (is_files || is_config) {
            char *copy = NULL;
            if (strlen(pair.value) > KVT_MAX_JSON)
                return kvcap__fail(cap, KVCAP_EARG, "provenance %s is longer than %u bytes", pair.name, KVT_MAX_JSON);
            copy = pair.value[0] ? strdup(pair.value) : NULL;
            if (pair.value[0] && !copy) return kvcap__no_memory(cap);
            *(is_files ? &cap->model_files : &cap->config) = copy;
            continue;
        }
        if (open_check_pair(cap, &pair) != KVCAP_OK) return cap->status;
        has_engine |= strcmp(pair.name, "engine") == 0 && pair.value[0];
    }
    if (!has_engine) return kvcap__fail(cap, KVCAP_EARG, "provenance_json has no \"engine\"");
    for (uint32_t i = 0; i < cap->n_provenance; i++) { /* those that become attributes first */
        const kvt_pair pair = cap->provenance[i];
        if (!pair.value[0] || strcmp(pair.name, "model_files") == 0 || strcmp(pair.name, "config_json") == 0) continue;
        cap->provenance[i] = cap->provenance[cap->n_attributes];
        cap->provenance[cap->n_attributes++] = pair;
    }
    return KVCAP_OK;
}

static int open_claim_part(kvcap *cap)
{
    const size_t n = strlen(cap->path);
    char *part = kvcap__grow(NULL, n + 6, 1);
    int fd;

    if (!part) return kvcap__no_memory(cap);
    snprintf(part, n + 6, "%s.part", cap->path);
    fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        kvcap__fail(cap, KVCAP_EIO, "cannot create the file with .part appended: %s", strerror(errno));
    else
        close(fd);
    free(part);
    return cap->status;
}

static int open_strings(kvcap *cap, const kvcap_params *p)
{
    const size_t n_path = p->path ? strlen(p->path) : 0;
    char shown[96];

    if (n_path == 0 || n_path > KVT_MAX_STRING)
        return kvcap__fail(cap, KVCAP_EARG, "path is NULL, empty or longer than %u bytes", KVT_MAX_STRING);
    if (!p->provenance_json) return kvcap__fail(cap, KVCAP_EARG, "provenance_json is NULL");
    if ((p->cluster_id && strlen(p->cluster_id) > KVT_MAX_STRING) ||
        (p->sample_id && strlen(p->sample_id) > KVT_MAX_STRING))
        return kvcap__fail(cap, KVCAP_EARG, "cluster_id or sample_id is longer than %u bytes", KVT_MAX_STRING);
    cap->path = strdup(p->path);
    cap->shown = strdup(kvt_printable_str(shown, sizeof shown, p->path));
    cap->cluster_id = p->cluster_id ? strdup(p->cluster_id) : NULL;
    cap->sample_id = p->sample_id ? strdup(p->sample_id) : NULL;
    if (!cap->path || !cap->shown || (p->cluster_id && !cap->cluster_id) || (p->sample_id && !cap->sample_id))
        return kvcap__no_memory(cap);
    return KVCAP_OK;
}

int kvcap_open(kvcap **out, const kvcap_params *params)
{
    kvcap_params p;
    kvcap *cap;
    int rc;

    if (!out || !params) return KVCAP_EARG;
    if (kvcap__take(&p, sizeof p, params) != KVCAP_OK || p.abi != KVCAP_ABI) return KVCAP_EABI;
    cap = calloc(1, sizeof *cap);
    if (!cap) return KVCAP_ENOMEM;
    cap->log = p.log;
    cap->log_user = p.log_user;
    rc = open_check(cap, &p);
    if (rc == KVCAP_OK) rc = open_strings(cap, &p);
    if (rc == KVCAP_OK) rc = open_provenance(cap, p.provenance_json);
    if (rc == KVCAP_OK) {
        cap->n_layers = p.n_layers;
        cap->model_dim = p.model_dim;
        cap->vocab_size = p.vocab_size;
        cap->asked_window = p.window ? p.window : 128;
        cap->flags = p.flags;
        cap->stat_flags = p.stat_flags;
        cap->max_tokens = p.max_tokens;
        cap->layer = calloc(p.n_layers, sizeof *cap->layer);
        rc = cap->layer ? open_claim_part(cap) : kvcap__no_memory(cap);
    }
    if (rc != KVCAP_OK) {
        kvcap__free(cap);
        return rc;
    }
    *out = cap;
    return KVCAP_OK;
}
