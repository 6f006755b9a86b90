/* kvtrace replay: traces x policies x budgets -> a results database, and kept sets as
 * JSON lines. Everything is checked before any work starts. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/stat.h>
#include <unistd.h>

#include "estimate.h"
#include "kvt_cli.h"
#include "kvt_registry.h"
#include "kvt_sha256.h"
#include "kvt_sim.h"
#include "kvt_store.h"
#include "kvt_summary.h"
#include "kvt_text.h"
#include "plugin.h"
#include "trace_guard.h"

static const kvt_opt replay_opts[] = {
    { "policy", 'p', KVT_OPT_LIST, "SPEC[,SPEC...]", NULL, 0, 0, NULL, "policies, as id or id:param=value,...; default all. Baselines are always added" },
    KVT_PLUGIN_OPTS,
    { "budget", 'b', KVT_OPT_LIST, "SHARE|Nt[,...]", "0.05,0.1,0.2,0.4,0.6,0.8", 0, 0, NULL, "shares of the prompt (0.2), tokens per cache (128t); auto: also curves, over 32 budgets from 1 to 99 %; auto:N: over N; alone: beside the default" },
    { "output", 'o', KVT_OPT_TEXT, "FILE", NULL, 0, 0, NULL, "results database; an existing one is continued. Default: beside the trace, .db; kvtrace.db for several" },
    { "jobs", 'j', KVT_OPT_UINT, "N", NULL, 1, 256, NULL, "threads; default all cores. Results do not depend on it" },
    { "kept", 0, KVT_OPT_TEXT, "FILE", NULL, 0, 0, NULL, "also write the kept sets, one JSON object per line" },
    { "kept-every", 0, KVT_OPT_UINT, "N", NULL, 1, 4194304, NULL, "online policies: kept sets every N decode steps, from step 0" },
    { "budget-rule", 0, KVT_OPT_TEXT, "RULE", "share", 0, 0, "share|reference", "rounding of budgets: to nearest, or as the reference codes truncate" },
    { "tie", 0, KVT_OPT_TEXT, "ORDER", "low", 0, 0, "low|flat|high|seeded", "order among equal scores, for policies whose spec has no ties=" },
    { "output-error", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "also the output error |o - o'| / |o|, every 8th step (reads V)" },
    { "seed", 0, KVT_OPT_UINT, "N", "0", 0, 4294967295.0, NULL, "first of the 5 seeds of random policies" },
    { "isa", 0, KVT_OPT_TEXT, "NAME", "auto", 0, 0, "auto|portable|avx2|avx512", "instruction set of the row kernels; all give the same bits" },
    { "dry-run", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "print cells, rows, bytes, memory and time that this would take; write nothing" },
    { "keep-going", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "name bad traces, do the others, exit 3 at the end" },
    { "quiet", 'q', KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "no summary, no progress" },
    { 0 }
};

typedef struct replay_job {
    const kvt_args *args;
    kvt_config    **config;         /* owned                                           */
    char          **spec;           /* as typed, owned                                 */
    uint32_t        n_config, n_asked;   /* n_asked: of these, what the user asked for     */
    kvt_budget     *budget;
    const char    **budget_text;
    uint32_t        n_budget, n_curve;   /* n_curve: points of the curves, 0 = none       */
    kvt_source     *source;         /* [n operands], zeroed when it cannot be used     */
    uint32_t        n_bad;
    FILE           *kept;
    char           *kept_path, *kept_part;
    int             show_progress;
    struct timespec started;
    double          last_line_s;    /* since started                                   */
    double          rows_before, rows_all;   /* decode rows of the traces done, of all traces */
    uint32_t        trace_at, n_traces;
} replay_job;

static volatile sig_atomic_t replay_cancel;

static void replay_on_signal(int sig)
{
    if (replay_cancel)
        _exit(128 + sig);
    replay_cancel = 1;
    kvt_plugins_interrupt();
}

/* ------------------------------------------------------------- what to run */

/* The spec with the run's order of equals. */
static kvt_status replay_parse_spec(const replay_job *job, const char *spec, kvt_config **out, kvt_err *err)
{
    const char *tie = kvt_arg_text(job->args, "tie");
    const size_t size = strlen(spec) + 32;
    kvt_status st;
    char *text;

    if (strcmp(tie, "low") == 0 || strstr(spec, "ties="))
        return kvt_config_parse(out, spec, err);
    text = malloc(size);
    if (!text)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    snprintf(text, size, "%s%sties=%s", spec, strchr(spec, ':') ? "," : ":", tie);
    st = kvt_config_parse(out, text, err);
    free(text);
    return st;
}

static kvt_status replay_add_config(replay_job *job, const char *spec, kvt_err *err)
{
    kvt_config *c = NULL, **list;
    char **specs, *typed;

    const kvt_status parsed = replay_parse_spec(job, spec, &c, err);
    if (parsed < 0) {                            /* not built yet is a usage error too */
        if (err && parsed == KVT_ENOTSUP)
            err->status = KVT_EARG;
        return parsed == KVT_ENOTSUP ? KVT_EARG : parsed;
    }
    for (uint32_t i = 0; i < job->n_config; i++)
        if (strcmp(job->config[i]->info.sha256, c->info.sha256) == 0) {
            kvt_config_free(c);                  /* the same configuration, typed twice */
            return KVT_OK;
        }
    list = realloc(job->config, (job->n_config + 1) * sizeof(*list));
    if (list)
        job->config = list;
    specs = realloc(job->spec, (job->n_config + 1) * sizeof *specs);
    if (specs)
        job->spec = specs;
    typed = malloc(strlen(spec) + 1);
    if (!list || !specs || !typed) {
        kvt_config_free(c);
        free(typed);
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    }
    strcpy(typed, spec);
    job->config[job->n_config] = c;
    job->spec[job->n_config++] = typed;
    return KVT_OK;
}

static void replay_drop_last(replay_job *job)
{
    job->n_config--;
    kvt_config_free(job->config[job->n_config]);
    free(job->spec[job->n_config]);
}

/* The forms of a policy that `all policies` means: its default, and the paper's form
 * where the reference code differs from it. */
static kvt_status replay_add_all(replay_job *job, kvt_err *err)
{
    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const kvt_policy *p = kvt_policy_at(i);
        KVT_TRY(replay_add_config(job, p->id, err));
        for (const kvt_param_def *d = p->params; d && d->name; d++)
            if (strcmp(d->name, "semantics") == 0) {
                char spec[96];
                snprintf(spec, sizeof spec, "%s:semantics=paper", p->id);
                KVT_TRY(replay_add_config(job, spec, err));
                if (job->config[job->n_config - 1]->refuse)     /* another impl has the paper's form */
                    replay_drop_last(job);
            }
    }
    return KVT_OK;
}

/* A policy from a file that no -p names. */
static kvt_status replay_add_loaded(replay_job *job, kvt_err *err)
{
    for (size_t i = 0; i < kvt_policy_count(); i++) {
        const kvt_policy *p = kvt_policy_at(i);
        int named = 0;
        for (uint32_t c = 0; c < job->n_config; c++)
            named |= job->config[c]->policy == p;
        if (kvt_policy_origin(p) && !named)
            KVT_TRY(replay_add_config(job, p->id, err));
    }
    return KVT_OK;
}

/* "auto" or "auto:N": curves. 0: it is a budget. */
static int replay_parse_auto(replay_job *job, const char *text, kvt_status *st, kvt_err *err)
{
    char *end;
    unsigned long n = KVT_CURVE_POINTS;

    *st = KVT_OK;
    if (strncmp(text, "auto", 4) != 0)
        return 0;
    if (text[4]) {
        n = text[4] == ':' && text[5] >= '0' && text[5] <= '9' ? strtoul(text + 5, &end, 10) : 0;
        if (n < 2 || n > KVT_CURVE_POINTS_MAX || *end) {
            *st = kvt_fail(err, KVT_EARG, "budget %s: expected auto, or auto:N with 2 <= N <= %u", text, KVT_CURVE_POINTS_MAX);
            return 1;
        }
    }
    job->n_curve = (uint32_t)n;
    return 1;
}

/* The budgets of a list, each once; "auto" alone stands beside the default ones. */
static kvt_status replay_parse_budgets(replay_job *job, kvt_rule rule, kvt_err *err)
{
    static const char *const usual[] = { "0.05", "0.1", "0.2", "0.4", "0.6", "0.8" };
    const uint32_t n_usual = sizeof usual / sizeof *usual, n = kvt_arg_count(job->args, "budget"), most = n > n_usual ? n : n_usual;
    int alone = 1;

    job->budget = calloc(most, sizeof *job->budget);
    job->budget_text = calloc(most, sizeof *job->budget_text);
    if (!job->budget || !job->budget_text)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        alone &= strncmp(kvt_arg_item(job->args, "budget", i), "auto", 4) == 0;
    for (uint32_t i = 0; i < n + (alone ? n_usual : 0); i++) {
        const char *text = i < n ? kvt_arg_item(job->args, "budget", i) : usual[i - n];
        kvt_budget *b = &job->budget[job->n_budget];
        int seen = 0;
        kvt_status st;
        if (replay_parse_auto(job, text, &st, err)) {
            KVT_TRY(st);
            continue;
        }
        KVT_TRY(kvt_budget_parse(b, text, rule, err));
        for (uint32_t k = 0; k < job->n_budget; k++)
            seen |= job->budget[k].in_tokens == b->in_tokens && job->budget[k].value == b->value;
        if (!seen)
            job->budget_text[job->n_budget++] = text;
    }
    return KVT_OK;
}

static kvt_status replay_parse(replay_job *job, kvt_err *err)
{
    const kvt_rule rule = strcmp(kvt_arg_text(job->args, "budget-rule"), "reference") == 0 ? KVT_RULE_REFERENCE : KVT_RULE_SHARE;
    for (uint32_t i = 0; i < kvt_arg_count(job->args, "policy"); i++)
        KVT_TRY(replay_add_config(job, kvt_arg_item(job->args, "policy", i), err));
    if (kvt_arg_count(job->args, "policy") == 0)
        KVT_TRY(replay_add_all(job, err));
    KVT_TRY(replay_add_loaded(job, err));
    job->n_asked = job->n_config;
    for (size_t i = 0; i < kvt_policy_count(); i++)
        if (kvt_policy_at(i)->caps & KVT_POLICY_BASELINE)
            KVT_TRY(replay_add_config(job, kvt_policy_at(i)->id, err));
    return replay_parse_budgets(job, rule, err);
}

/* Layers without full attention are held whole: they enter no budget and no metric. */
static void replay_name_whole_layers(const kvt_source *src)
{
    int any = 0;

    for (uint32_t l = 0; l < src->info->n_layers; l++) {
        const char *type = kvt_attn_name(src->info->layer[l].attn);
        if (src->info->layer[l].attn == KVT_ATTN_FULL)
            continue;
        if (any++)
            fprintf(stderr, ", %u (%s)", l, type);
        else
            fprintf(stderr, "kvtrace: %s: held whole, in no budget and no metric: layer %u (%s)", src->path, l, type);
    }
    if (any)
        fputc('\n', stderr);
}

/* Open every trace. The first bad one ends it unless --keep-going. */
static kvt_status replay_open_all(replay_job *job, int *exit_code, kvt_err *err)
{
    job->n_traces = kvt_arg_count(job->args, NULL);
    job->source = calloc(job->n_traces, sizeof *job->source);
    if (!job->source)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < job->n_traces; i++) {
        kvt_err why;
        kvt_status st;
        kvt_guard_begin(kvt_arg_item(job->args, NULL, i));
        st = kvt_source_open(&job->source[i], kvt_arg_item(job->args, NULL, i), 0, &why);
        kvt_guard_end();
        if (st == KVT_OK)
            st = kvt_plan_check_trace(&job->source[i], &why);
        if (st == KVT_OK && kvt_arg_flag(job->args, "output-error"))
            st = kvt_plan_check_values(&job->source[i], &why);
        if (st == KVT_OK) {
            if (job->show_progress)
                replay_name_whole_layers(&job->source[i]);
            continue;
        }
        if (st == KVT_ENOMEM) {
            *err = why;
            return st;
        }
        fprintf(stderr, "kvtrace: %s\n", why.text);
        kvt_source_close(&job->source[i]);
        job->source[i] = (kvt_source){ 0 };
        job->n_bad++;
        *exit_code = KVT_EXIT_INPUT;
        if (!kvt_arg_flag(job->args, "keep-going"))
            return KVT_OK;
    }
    return KVT_OK;
}

/* Is the configuration defined at some point of the curves? */
static int replay_has_point(const replay_job *job, const kvt_trace_info *info, const kvt_config *config)
{
    uint32_t kept[KVT_CURVE_POINTS_MAX];
    const uint32_t n = job->n_curve ? kvt_curve_grid(info->n_prompt, job->n_curve, kept) : 0;

    for (uint32_t i = 0; i < n; i++) {
        char text[16];
        kvt_budget b;
        snprintf(text, sizeof text, "%ut", kept[i]);
        if (kvt_budget_parse(&b, text, KVT_RULE_SHARE, NULL) == KVT_OK && kvt_plan_check(info, config, &b, NULL) == KVT_OK)
            return 1;
    }
    return 0;
}

/* Name the combinations that cannot run. Nothing left of what was asked for: say why and
 * set the exit code. */
static void replay_check_plan(const replay_job *job, int *exit_code)
{
    uint32_t n_ok = 0;
    int any_budget = 0;

    for (uint32_t i = 0; i < job->n_traces; i++)
        for (uint32_t c = 0; job->source[i].ops && c < job->n_config; c++) {
            n_ok += c < job->n_asked && replay_has_point(job, job->source[i].info, job->config[c]);
            for (uint32_t b = 0; b < job->n_budget; b++) {
                kvt_err why;
                const kvt_status st = kvt_plan_check(job->source[i].info, job->config[c], &job->budget[b], &why);
                if (st == KVT_OK) {
                    n_ok += c < job->n_asked;
                    continue;
                }
                fprintf(stderr, "kvtrace: %s: skipped: %s\n", job->source[i].path, why.text);
                any_budget |= st == KVT_EARG;
                if (st == KVT_ENEED)
                    break;                       /* the same at every budget */
            }
        }
    if (n_ok == 0 && *exit_code == KVT_EXIT_OK)  /* the budget is wrong, or the trace lacks something */
        *exit_code = any_budget ? KVT_EXIT_USAGE : KVT_EXIT_INPUT;
}

/* --------------------------------------------------------------- kept sets */

static kvt_status replay_kept_error(const replay_job *job, kvt_err *err)
{
    return kvt_fail(err, KVT_EIO, "%s: %s", job->kept_path, strerror(errno));
}

static kvt_status replay_kept_open(replay_job *job, kvt_err *err)
{
    const char *path = kvt_arg_text(job->args, "kept");
    struct stat there;

    if (!path)
        return KVT_OK;
    if (lstat(path, &there) == 0 && !S_ISREG(there.st_mode))
        return kvt_fail(err, KVT_EIO, "%s: is there already and is not a file; choose another name", path);
    job->kept_path = malloc(strlen(path) + 1);
    job->kept_part = malloc(strlen(path) + 6);
    if (!job->kept_path || !job->kept_part)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    strcpy(job->kept_path, path);
    sprintf(job->kept_part, "%s.part", path);
    kvt_plugins_remove_on_crash(job->kept_part);
    job->kept = fopen(job->kept_part, "w");
    return job->kept ? KVT_OK : replay_kept_error(job, err);
}

static kvt_status replay_kept_close(replay_job *job, int ok, kvt_err *err)
{
    kvt_status st = KVT_OK;

    if (!job->kept)
        return KVT_OK;
    if (fflush(job->kept) != 0 || ferror(job->kept) || fsync(fileno(job->kept)) != 0)
        st = replay_kept_error(job, err);
    if (fclose(job->kept) != 0 && st == KVT_OK)
        st = replay_kept_error(job, err);
    job->kept = NULL;
    if (ok && st == KVT_OK && rename(job->kept_part, job->kept_path) != 0)
        st = replay_kept_error(job, err);
    if (!ok || st < 0)
        unlink(job->kept_part);
    kvt_plugins_remove_on_crash(NULL);
    return st;
}

static kvt_status replay_kept_line(void *user, const kvt_kept_set *set, kvt_err *err)
{
    replay_job *job = user;
    const char *spec = set->config->info.label;

    for (uint32_t i = 0; i < job->n_config; i++)
        if (job->config[i] == set->config)
            spec = job->spec[i];
    /* specs and budgets have been parsed: no character in them needs an escape */
    fprintf(job->kept, "{\"policy\":\"%s\",\"budget\":\"%s\",\"rule\":\"%s\",\"seed\":%llu,\"layer\":%u,\"cache\":%u,", spec,
            job->budget_text[set->budget - job->budget], set->budget->info.rule, (unsigned long long)set->seed, set->layer, set->cache);
    if (set->step >= 0)
        fprintf(job->kept, "\"step\":%lld,", (long long)set->step);
    if (job->n_traces > 1)
        fprintf(job->kept, "\"trace\":\"%s\",", job->source[job->trace_at].info->content_id);
    fputs("\"kept\":[", job->kept);
    for (uint32_t i = 0; i < set->n; i++)
        fprintf(job->kept, i ? ",%u" : "%u", set->pos[i]);
    fputs("]}\n", job->kept);
    return ferror(job->kept) ? replay_kept_error(job, err) : KVT_OK;
}

/* ---------------------------------------------------------------- progress */

/* Decode rows that a trace has to offer, 0 when it is not replayed. */
static double replay_rows(const kvt_source *src)
{
    double n = 0;

    for (uint32_t l = 0; src->ops && l < src->info->n_layers; l++)
        if (src->info->layer[l].attn == KVT_ATTN_FULL)
            n += (double)src->info->layer[l].n_heads * src->info->n_decode;
    return n;
}

static double replay_elapsed_s(const replay_job *job)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - job->started.tv_sec) + 1e-9 * (double)(now.tv_nsec - job->started.tv_nsec);
}

/* "41 s", "3:05 min", "2:10 h" */
static const char *replay_duration(char out[32], double s)
{
    const unsigned long x = s < 1e9 ? (unsigned long)(s + 0.5) : 1000000000ul;

    if (x < 100)
        snprintf(out, 32, "%lu s", x);
    else if (x < 6000)
        snprintf(out, 32, "%lu:%02lu min", x / 60, x % 60);
    else
        snprintf(out, 32, "%lu:%02lu h", x / 3600, x / 60 % 60);
    return out;
}

static void replay_clear_line(const replay_job *job)
{
    if (job->show_progress && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

static void replay_progress(void *user, uint32_t done, uint32_t all)
{
    replay_job *job = user;
    const double s = replay_elapsed_s(job);
    const double rows = job->rows_before + replay_rows(&job->source[job->trace_at]) * done / all;
    const int tty = isatty(STDERR_FILENO);
    char took[32], left[32];

    if (!tty && s - job->last_line_s < 60)
        return;
    job->last_line_s = s;
    replay_duration(took, s);
    replay_duration(left, rows > 0 ? s * (job->rows_all - rows) / rows : 0);
    if (!tty)
        fprintf(stderr, "kvtrace: trace %u/%u layer %u/%u after %s: %.3g rows/s, about %s left\n", job->trace_at + 1, job->n_traces,
                done, all, took, rows / s, left);
    else if (done < all)
        fprintf(stderr, "\r\033[Ktrace %u/%u  layer %u/%u  %s  %.3g rows/s  about %s left ", job->trace_at + 1, job->n_traces, done, all,
                took, rows / s, left);
    else
        fprintf(stderr, "\r\033[Ktrace %u/%u  %s  storing results ", job->trace_at + 1, job->n_traces, took);
    fflush(stderr);
}

/* --------------------------------------------------------------------- run */

/* -o, or the trace's name with .db. Owned by the caller. */
static char *replay_output(const replay_job *job)
{
    const char *given = kvt_arg_text(job->args, "output"), *trace = kvt_arg_item(job->args, NULL, 0);
    const char *base = given ? given : job->n_traces == 1 ? trace : "kvtrace.db";
    const size_t len = strlen(base);
    char *out = malloc(len + 4);

    if (!out)
        return NULL;
    strcpy(out, base);
    if (!given && job->n_traces == 1)
        strcpy(len > 3 && strcmp(base + len - 3, ".h5") == 0 ? out + len - 3 : out + len, ".db");
    return out;
}

static void replay_config_hash(const replay_job *job, char out[65])
{
    kvt_sha256 s;
    uint8_t digest[32];

    kvt_sha256_init(&s);
    for (uint32_t i = 0; i < job->n_config; i++)
        kvt_sha256_update(&s, job->config[i]->info.sha256, 64);
    for (uint32_t i = 0; i < job->n_budget; i++)
        kvt_sha256_update(&s, job->budget[i].info.label, strlen(job->budget[i].info.label) + 1);
    kvt_sha256_update(&s, &job->n_curve, job->n_curve ? sizeof job->n_curve : 0);
    kvt_sha256_final(&s, digest);
    kvt_sha256_hex(digest, out);
}

/* Is it the trace that cannot be replayed, so that --keep-going may go on? */
static int replay_is_bad_trace(kvt_status st)
{
    return st == KVT_ECHECK || st == KVT_ENEED || st == KVT_EFORMAT || st == KVT_ENOTSUP || st == KVT_ERANGE;
}

static kvt_replay_opts replay_opts_of(replay_job *job, const kvt_kernels *kern)
{
    return (kvt_replay_opts){
        .config = (const kvt_config *const *)job->config, .n_config = job->n_config,
        .budget = job->budget, .n_budget = job->n_budget, .n_curve = job->n_curve,
        .seed = kvt_arg_uint(job->args, "seed"),
        .n_threads = kvt_arg_given(job->args, "jobs") ? (uint32_t)kvt_arg_uint(job->args, "jobs") : 0,
        .kernels = kern, .output_error = kvt_arg_flag(job->args, "output-error"),
        .kept = job->kept ? replay_kept_line : NULL, .kept_user = job,
        .kept_every = kvt_arg_given(job->args, "kept-every") ? (uint32_t)kvt_arg_uint(job->args, "kept-every") : 0,
        .cancel = &replay_cancel, .progress = job->show_progress ? replay_progress : NULL, .progress_user = job,
    };
}

static kvt_status replay_traces(replay_job *job, kvt_store *store, const kvt_kernels *kern, int *exit_code, kvt_err *err)
{
    const kvt_replay_opts opts = replay_opts_of(job, kern);

    clock_gettime(CLOCK_MONOTONIC, &job->started);
    for (uint32_t i = 0; i < job->n_traces; i++)
        job->rows_all += replay_rows(&job->source[i]);
    for (job->trace_at = 0; job->trace_at < job->n_traces; job->trace_at++) {
        kvt_err why = { KVT_OK, "" };
        kvt_status st = KVT_OK;
        if (job->source[job->trace_at].ops)
            st = kvt_replay(&job->source[job->trace_at], &opts, kvt_store_sink(store), &why);
        replay_clear_line(job);
        job->rows_before += replay_rows(&job->source[job->trace_at]);
        if (st < 0 && replay_cancel)             /* what failed was stopped */
            return kvt_fail(err, KVT_ECANCELLED, "%s: stopped; the same command goes on where this one ended", job->source[job->trace_at].path);
        if (st < 0 && kvt_arg_flag(job->args, "keep-going") && replay_is_bad_trace(st)) {
            fprintf(stderr, "kvtrace: %s\n", why.text);
            *exit_code = KVT_EXIT_INPUT;
        } else if (st < 0) {
            if (err)
                *err = why;
            return st;
        }
    }
    return KVT_OK;
}

static kvt_status replay_summary(const char *path, kvt_err *err)
{
    sqlite3 *db = NULL;
    kvt_status st;

    KVT_TRY(kvt_store_open_read(&db, path, err));
    st = kvt_summary_print(db, path, stdout, err);
    sqlite3_close(db);
    return st;
}

static kvt_status replay_into(replay_job *job, const char *path, int *exit_code, kvt_err *err)
{
    const char *isa = kvt_arg_text(job->args, "isa");
    const kvt_kernels *kern = kvt_kernels_find(isa);
    struct sigaction action = { .sa_handler = replay_on_signal };
    kvt_store *store = NULL;
    char hash[65];
    kvt_run_info info = { .command = "replay", .argc = kvt_arg_argc(job->args), .argv = kvt_arg_argv(job->args),
                          .config_sha256 = hash, .seed = kvt_arg_uint(job->args, "seed") };
    kvt_status st;

    if (!kern)
        return kvt_fail(err, KVT_EARG, "--isa %s: this processor cannot run it; use --isa auto", isa);
    replay_config_hash(job, hash);
    info.isa = kern->name;
    info.n_threads = kvt_arg_given(job->args, "jobs") ? (uint32_t)kvt_arg_uint(job->args, "jobs") : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    KVT_TRY(replay_kept_open(job, err));
    st = kvt_store_open(&store, path, &info, err);
    if (st < 0) {
        (void)replay_kept_close(job, 0, NULL);
        return st;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (st == KVT_OK)
        st = replay_traces(job, store, kern, exit_code, err);
    if (st == KVT_OK)
        st = replay_kept_close(job, 1, err);
    else
        (void)replay_kept_close(job, 0, NULL);
    if (st == KVT_OK) {
        st = kvt_store_finish(store, *exit_code, err);
    } else {                                     /* the first failure is the one to report */
        const kvt_status second = kvt_store_finish(store, st == KVT_ECANCELLED ? KVT_EXIT_STOPPED : KVT_EXIT_FAILED, NULL);
        (void)second;
    }
    kvt_store_close(store);
    return st;
}

/* ----------------------------------------------------------------- dry run */

typedef struct replay_there { sqlite3 *db; sqlite3_stmt *find; const char *path; } replay_there;

/* Is the cell not in the database yet? */
static kvt_status replay_is_new(void *self, const kvt_cell *cell, int *todo, kvt_err *err)
{
    const replay_there *there = self;
    int code;

    *todo = 1;
    if (!there->find)
        return KVT_OK;
    sqlite3_reset(there->find);
    sqlite3_bind_text(there->find, 1, cell->key_sha256, -1, SQLITE_STATIC);
    code = sqlite3_step(there->find);
    *todo = code == SQLITE_DONE;
    return code == SQLITE_DONE || code == SQLITE_ROW ? KVT_OK : kvt_fail(err, KVT_EDB, "%s: %s", there->path, sqlite3_errmsg(there->db));
}

static void replay_print_bytes(const char *what, uint64_t bytes)
{
    if (bytes >= 10000000000u)
        printf("  %-9s %.1f GB\n", what, (double)bytes * 1e-9);
    else
        printf("  %-9s %.0f MB\n", what, (double)bytes * 1e-6 + 0.5);
}

static void replay_print_estimate(const char *name, const kvt_estimate *x)
{
    char shown[256], took[32];

    printf("%s\n  %-9s %u\n  %-9s %.3g\n", kvt_printable_str(shown, sizeof shown, name), "cells", x->n_cells, "rows", (double)x->n_rows);
    replay_print_bytes("database", x->db_bytes);
    replay_print_bytes("memory", x->memory_bytes);
    printf("  %-9s %s\n", "time", replay_duration(took, x->seconds));
}

/* More memory than there is: which knob turns most of it. */
static void replay_warn_memory(const kvt_estimate *x)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const uint64_t have = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;

    if (x->memory_bytes <= have)
        return;
    fprintf(stderr, "kvtrace: warning: %.1f GB of memory are needed, this machine has %.1f GB: %s\n", (double)x->memory_bytes * 1e-9,
            (double)have * 1e-9, x->thread_bytes > x->cell_bytes ? "use a smaller -j"
            : "name fewer policies with -p or fewer budgets with -b; several runs can fill one database");
}

static kvt_status replay_dry_run(replay_job *job, const char *path, kvt_err *err)
{
    static const kvt_sink_ops ops = { .name = "dry run", .claim = replay_is_new };
    const kvt_kernels *kern = kvt_kernels_find(kvt_arg_text(job->args, "isa"));
    const kvt_replay_opts opts = replay_opts_of(job, kern);
    replay_there there = { .path = path };
    kvt_estimate sum = { 0 };
    kvt_rates rates;
    uint32_t n = 0;
    kvt_status st = KVT_OK;

    if (!kern)
        return kvt_fail(err, KVT_EARG, "--isa %s: this processor cannot run it; use --isa auto", kvt_arg_text(job->args, "isa"));
    if (access(path, F_OK) == 0) {
        KVT_TRY(kvt_store_open_read(&there.db, path, err));
        if (sqlite3_prepare_v2(there.db, "SELECT 1 FROM cell WHERE key_sha256 = ?1 AND status = 'done'", -1, &there.find, NULL) != SQLITE_OK) {
            st = kvt_fail(err, KVT_EDB, "%s: %s", path, sqlite3_errmsg(there.db));
            goto done;
        }
    }
    KVT_TRY_GOTO(st, kvt_rates_measure(kern, &rates, err));
    for (uint32_t i = 0; i < job->n_traces; i++) {
        kvt_estimate x;
        if (!job->source[i].ops)
            continue;
        KVT_TRY_GOTO(st, kvt_estimate_replay(&job->source[i], &opts, (kvt_sink){ &ops, &there }, &rates, &x, err));
        replay_print_estimate(job->source[i].path, &x);
        sum.n_cells += x.n_cells, sum.n_rows += x.n_rows, sum.db_bytes += x.db_bytes, sum.seconds += x.seconds, n++;
        if (x.memory_bytes > sum.memory_bytes)
            sum.memory_bytes = x.memory_bytes, sum.cell_bytes = x.cell_bytes, sum.thread_bytes = x.thread_bytes;
    }
    if (n > 1)
        replay_print_estimate("all traces", &sum);
    printf("\nEstimates, mostly within a factor of 2. Nothing was written; the results would go to %s\n", path);
    replay_warn_memory(&sum);
done:
    sqlite3_finalize(there.find);
    sqlite3_close(there.db);
    return st;
}

static kvt_status replay_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    replay_job job = { .args = args, .show_progress = !kvt_arg_flag(args, "quiet") };
    char *path = NULL;
    kvt_status st;

    *exit_code = KVT_EXIT_OK;
    kvt_guard_maps();
    KVT_TRY_GOTO(st, kvt_plugins_load(args, err));
    KVT_TRY_GOTO(st, replay_parse(&job, err));
    KVT_TRY_GOTO(st, replay_open_all(&job, exit_code, err));
    if (job.n_bad && (!kvt_arg_flag(args, "keep-going") || job.n_bad == job.n_traces))
        goto done;
    replay_check_plan(&job, exit_code);
    if (*exit_code != KVT_EXIT_OK && !job.n_bad)
        goto done;
    path = replay_output(&job);
    if (path && kvt_arg_flag(args, "dry-run")) {
        st = replay_dry_run(&job, path, err);
        goto done;
    }
    st = path ? replay_into(&job, path, exit_code, err) : kvt_fail(err, KVT_ENOMEM, "out of memory");
    if (st == KVT_OK && !kvt_arg_flag(args, "quiet")) {
        st = replay_summary(path, err);
        if (st == KVT_OK)
            printf("\nResults: %s\nNext:    kvtrace report %s\n", path, path);
    }
done:
    for (uint32_t i = 0; job.source && i < job.n_traces; i++)
        kvt_source_close(&job.source[i]);
    for (uint32_t i = 0; i < job.n_config; i++) {
        kvt_config_free(job.config[i]);
        free(job.spec[i]);
    }
    free(job.source), free(job.config), free(job.spec), free(job.budget), free(job.budget_text);
    free(job.kept_path), free(job.kept_part), free(path);
    return st;
}

extern const kvt_cmd kvt_cmd_replay;
const kvt_cmd kvt_cmd_replay = {
    .name = "replay", .operands = "TRACE...", .summary = "replay traces through eviction policies into a results database",
    .details =
        "Replay is open loop: queries, keys and values come from a full-cache run, so an eviction\n"
        "does not change later hidden states. Losses are shares of the full-cache attention row\n"
        "that fell on evicted entries.\n\n"
        "A killed run leaves a sound database; the same command finishes it. Combinations of\n"
        "policy and trace that cannot exist are named and skipped.\n\n"
        "  kvtrace replay trace.h5\n"
        "  kvtrace replay trace.h5 --dry-run\n"
        "  kvtrace replay trace.h5 -p snapkv:window=32,h2o -b 0.1,0.2 -o results.db --kept kept.jsonl\n",
    .min_operands = 1, .max_operands = UINT32_MAX, .opts = replay_opts, .run = replay_run,
};
