/* kvtrace bench: how fast the engine is, as ratios inside one run, against what the
 * machine can do or the plain way. For developers; tests/bench/SPEED.md is its log. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench.h"
#include "kvt_cli.h"
#include "kvt_text.h"
#include "trace_guard.h"

static const kvt_opt bench_opts[] = {
    { "isa", 0, KVT_OPT_TEXT, "NAME", "auto", 0, 0, "auto|portable|avx2|avx512", "instruction set of the kernels; rows measures all without it" },
    { "threads", 0, KVT_OPT_UINT, "N", "1", 1, 256, NULL, "threads of peak, sweep, scale and store; the others use one" },
    { "device", 0, KVT_OPT_TEXT, "NAME", "cpu", 0, 0, "cpu|cuda", "where; this version has no GPU code" },
    { "shape", 0, KVT_OPT_TEXT, "MODEL", NULL, 0, 0, "smollm2|llama8b|qwen7b", "heads, head size, prompt and steps of a model" },
    { "layers", 0, KVT_OPT_UINT, "N", NULL, 1, 1024, NULL, "layers; default 1" },
    { "n", 0, KVT_OPT_UINT, "KEYS", NULL, 16, 1048576, NULL, "prompt tokens" },
    { "d", 0, KVT_OPT_UINT, "CHANNELS", NULL, 8, 1024, NULL, "head size, a multiple of 4" },
    { "steps", 0, KVT_OPT_UINT, "N", NULL, 1, 65536, NULL, "decode steps" },
    { "policies", 0, KVT_OPT_UINT, "N", NULL, 1, 16, NULL, "policies" },
    { "budgets", 0, KVT_OPT_LIST, "N[,N]", NULL, 0, 0, NULL, "budgets, 1 to 256; mass compares a second number with the first" },
    { "reps", 0, KVT_OPT_UINT, "N", "10", 1, 100000, NULL, "repetitions, at least; below 10 a quick look that is never conclusive" },
    { "seed", 0, KVT_OPT_UINT, "N", "1", 0, 4294967295.0, NULL, "seed of synthetic input" },
    { "trace", 0, KVT_OPT_TEXT, "FILE", NULL, 0, 0, NULL, "sweep and store: replay this trace instead of a synthetic one" },
    { "bytes", 0, KVT_OPT_UINT, "MIB", "256", 1, 65536, NULL, "peak, trace-read, trace-write: what is written to disk and read again, MiB" },
    { "dir", 0, KVT_OPT_TEXT, "DIR", ".", 0, 0, NULL, "where files are made for the time of a bench" },
    { "baseline", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "sweep: also against a naive sweep in numpy" },
    { "json", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "JSON of schema kvtrace-bench/1" },
    { "check", 0, KVT_OPT_FLAG, NULL, NULL, 0, 0, NULL, "exit 1 when a target is missed, 4 when the run is inconclusive" },
    { 0 }
};

enum { BENCH_INCONCLUSIVE = 4 };

typedef struct bench_noise { double load1, steal_pct, spread; const char *why; } bench_noise;

/* ------------------------------------------------------------------- the host */

static void bench_cpu(char *out, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(out, size, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (colon) {
            snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

static double bench_load1(void)
{
    FILE *f = fopen("/proc/loadavg", "r");
    double x = NAN;

    if (f) {
        if (fscanf(f, "%lf", &x) != 1)
            x = NAN;
        fclose(f);
    }
    return x;
}

/* Jiffies of all processors so far: of everything, and stolen by the hypervisor. */
static void bench_jiffies(double *all, double *stolen)
{
    FILE *f = fopen("/proc/stat", "r");
    double x[8] = { 0 };

    *all = *stolen = 0;
    if (!f)
        return;
    if (fscanf(f, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &x[0], &x[1], &x[2], &x[3], &x[4], &x[5], &x[6], &x[7]) == 8) {
        for (int i = 0; i < 8; i++)
            *all += x[i];
        *stolen = x[7];
    }
    fclose(f);
}

static void bench_judge(const bench_out *o, bench_noise *noise)
{
    uint32_t reps = BENCH_REPS;

    noise->spread = 1;
    for (uint32_t i = 0; i < o->n_items; i++) {
        noise->spread = o->item[i].spread > noise->spread ? o->item[i].spread : noise->spread;
        reps = o->item[i].time.reps < reps ? o->item[i].time.reps : reps;
    }
    noise->why = reps < BENCH_REPS ? "fewer than 10 repetitions"
        : noise->spread > 1.5 ? "the reference's median is above 1.5 times its minimum"
        : noise->steal_pct > 5 ? "the hypervisor took more than 5 % of the processors" : NULL;
#ifndef __OPTIMIZE__
    noise->why = noise->why ? noise->why : "the program was built without optimisation";
#endif
}

/* --------------------------------------------------------------------- output */

static void bench_put(cJSON *to, const char *name, double x)
{
    cJSON_AddItemToObject(to, name, isfinite(x) ? cJSON_CreateNumber(x) : cJSON_CreateNull());
}

static cJSON *bench_json_item(const bench_item *it)
{
    cJSON *j = cJSON_CreateObject(), *time, *work;

    cJSON_AddStringToObject(j, "name", it->name);
    cJSON_AddNumberToObject(j, "reps", it->time.reps);
    time = cJSON_AddObjectToObject(j, "time_s");
    bench_put(time, "min", it->time.min_s), bench_put(time, "p25", it->time.p25_s), bench_put(time, "median", it->time.median_s);
    for (int i = 0; i < 2 && it->extra[i].name; i++)
        bench_put(j, it->extra[i].name, it->extra[i].value);
    work = cJSON_AddObjectToObject(j, "work");
    bench_put(work, "elements", it->elements), bench_put(work, "bytes", it->bytes), bench_put(work, "flops", it->flops);
    if (it->ref_name) {
        cJSON *ref = cJSON_AddObjectToObject(j, "reference");
        cJSON_AddStringToObject(ref, "name", it->ref_name);
        bench_put(ref, "value", it->ref_value);
        cJSON_AddStringToObject(ref, "unit", it->ref_unit);
    } else {
        cJSON_AddNullToObject(j, "reference");
    }
    bench_put(j, "ratio", it->ratio);
    if (it->against) {
        cJSON *a = cJSON_AddObjectToObject(j, "accuracy");
        bench_put(a, "max_abs_err", it->max_err);
        cJSON_AddStringToObject(a, "against", it->against);
        bench_put(a, "tol", it->tol);
        cJSON_AddBoolToObject(a, "ok", it->max_err <= it->tol);
    } else {
        cJSON_AddNullToObject(j, "accuracy");
    }
    return j;
}

static void bench_json_host(cJSON *j, const bench_conf *c)
{
    cJSON *host = cJSON_AddObjectToObject(j, "host"), *conf;
    char cpu[256], os[400];
    struct utsname u;

    bench_cpu(cpu, sizeof cpu);
    if (uname(&u) == 0)
        snprintf(os, sizeof os, "%s %s", u.sysname, u.release);
    else
        snprintf(os, sizeof os, "unknown");
    cJSON_AddStringToObject(host, "cpu", cpu);
    cJSON_AddStringToObject(host, "isa", c->kern->name);
    cJSON_AddNumberToObject(host, "threads", c->threads);
    cJSON_AddNullToObject(host, "gpu");
    cJSON_AddStringToObject(host, "os", os);
    conf = cJSON_AddObjectToObject(j, "config");
    const struct { const char *name; double value; } size[] = {
        { "layers", c->layers }, { "heads", c->heads }, { "kv_heads", c->kv_heads }, { "n", c->n }, { "d", c->d },
        { "steps", c->steps }, { "policies", c->policies }, { "budgets", c->budgets[0] },
    };
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        if (size[i].value > 0)
            cJSON_AddNumberToObject(conf, size[i].name, size[i].value);
    cJSON_AddNumberToObject(conf, "seed", (double)c->seed);
}

static cJSON *bench_json(const char *name, const bench_out *o, const bench_noise *noise)
{
    cJSON *j = cJSON_CreateObject(), *x;

    cJSON_AddStringToObject(j, "schema", "kvtrace-bench/1");
    cJSON_AddStringToObject(j, "bench", name);
    bench_json_host(j, &o->conf);
    x = cJSON_AddObjectToObject(j, "noise");
    bench_put(x, "load1", noise->load1), bench_put(x, "steal_pct", noise->steal_pct), bench_put(x, "spread", noise->spread);
    cJSON_AddBoolToObject(x, "conclusive", noise->why == NULL);
    if (noise->why)
        cJSON_AddStringToObject(x, "reason", noise->why);
    x = cJSON_AddArrayToObject(j, "items");
    for (uint32_t i = 0; i < o->n_items; i++)
        cJSON_AddItemToArray(x, bench_json_item(&o->item[i]));
    if (o->has_baseline >= 0) {
        if (o->has_baseline)
            cJSON_AddStringToObject(j, "baseline", "numpy");
        else
            cJSON_AddNullToObject(j, "baseline");
    }
    x = cJSON_AddArrayToObject(j, "targets");
    for (uint32_t i = 0; i < o->n_targets; i++) {
        cJSON *t = cJSON_CreateObject();
        cJSON_AddStringToObject(t, "id", o->target[i].id);
        bench_put(t, "value", o->target[i].value);
        cJSON_AddStringToObject(t, "op", o->target[i].op);
        bench_put(t, "limit", o->target[i].limit);
        cJSON_AddBoolToObject(t, "ok", o->target[i].ok);
        cJSON_AddItemToArray(x, t);
    }
    x = cJSON_AddArrayToObject(j, "notes");
    for (uint32_t i = 0; i < o->n_notes; i++)
        cJSON_AddItemToArray(x, cJSON_CreateString(o->note[i]));
    return j;
}

static void bench_print(const char *name, const bench_out *o, const bench_noise *noise)
{
    printf("%s (%s, %u thread%s)\n", name, o->conf.kern->name, o->conf.threads, o->conf.threads == 1 ? "" : "s");
    for (uint32_t i = 0; i < o->n_items; i++) {
        const bench_item *it = &o->item[i];
        printf("  %-34s %10.4g ms", it->name, it->time.min_s * 1e3);
        for (int k = 0; k < 2 && it->extra[k].name; k++)
            printf("  %s %.4g", it->extra[k].name, it->extra[k].value);
        if (it->ref_name)
            printf("  ratio %.3g (%s: %.4g %s)", it->ratio, it->ref_name, it->ref_value, it->ref_unit);
        if (it->against)
            printf("  error %.2g%s", it->max_err, it->max_err <= it->tol ? "" : " TOO LARGE");
        putchar('\n');
    }
    for (uint32_t i = 0; i < o->n_targets; i++)
        printf("  target %-10s %.3g %s %g: %s\n", o->target[i].id, o->target[i].value, o->target[i].op, o->target[i].limit,
               o->target[i].ok ? "held" : "missed");
    printf("  noise: load %.1f, steal %.1f %%, spread %.2f: %s%s\n", noise->load1, noise->steal_pct, noise->spread,
           noise->why ? "inconclusive: " : "conclusive", noise->why ? noise->why : "");
    for (uint32_t i = 0; i < o->n_notes; i++)
        printf("  note: %s\n", o->note[i]);
}

/* ------------------------------------------------------------------------ run */

static uint32_t bench_uint(const kvt_args *args, const char *name, uint32_t otherwise)
{
    return kvt_arg_given(args, name) ? (uint32_t)kvt_arg_uint(args, name) : otherwise;
}

static kvt_status bench_shape(const kvt_args *args, bench_conf *c, kvt_err *err)
{
    static const struct { const char *name; uint32_t heads, kv_heads, d, n, steps; } shapes[] = {
        { "smollm2", 9, 3, 64, 4096, 512 }, { "llama8b", 32, 8, 128, 32768, 512 }, { "qwen7b", 28, 4, 128, 131072, 1024 },
    };
    const char *shape = kvt_arg_text(args, "shape");

    for (size_t i = 0; shape && i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shape, shapes[i].name) == 0)
            c->heads = shapes[i].heads, c->kv_heads = shapes[i].kv_heads, c->d = shapes[i].d, c->n = shapes[i].n, c->steps = shapes[i].steps;
    c->layers = bench_uint(args, "layers", 0);
    c->n = bench_uint(args, "n", c->n);
    c->d = bench_uint(args, "d", c->d);
    c->steps = bench_uint(args, "steps", c->steps);
    c->policies = bench_uint(args, "policies", 0);
    if (c->d % 4 != 0)
        return kvt_fail(err, KVT_EARG, "--d %u: expected a multiple of 4", c->d);
    if (kvt_arg_count(args, "budgets") > 2)
        return kvt_fail(err, KVT_EARG, "--budgets: at most two numbers");
    for (uint32_t i = 0; i < kvt_arg_count(args, "budgets"); i++) {
        char *end;
        const char *text = kvt_arg_item(args, "budgets", i);
        const unsigned long x = strtoul(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || x < 1 || x > 256)
            return kvt_fail(err, KVT_EARG, "--budgets: expected whole numbers from 1 to 256");
        c->budgets[i] = (uint32_t)x;
    }
    return KVT_OK;
}

static kvt_status bench_configure(const kvt_args *args, bench_conf *c, kvt_err *err)
{
    const char *isa = kvt_arg_text(args, "isa");

    if (strcmp(kvt_arg_text(args, "device"), "cuda") == 0)
        return kvt_fail(err, KVT_EARG, "not supported: --device cuda: this version has no GPU code");
    *c = (bench_conf){ .kern = kvt_kernels_find(isa), .isa_given = kvt_arg_given(args, "isa"), .threads = (uint32_t)kvt_arg_uint(args, "threads"),
                       .reps = (uint32_t)kvt_arg_uint(args, "reps"), .seed = kvt_arg_uint(args, "seed"),
                       .disk_bytes = kvt_arg_uint(args, "bytes") << 20, .trace = kvt_arg_text(args, "trace"),
                       .baseline = kvt_arg_flag(args, "baseline") };
    if (!c->kern)
        return kvt_fail(err, KVT_EARG, "--isa %s: this processor cannot run it; use --isa auto", isa);
    c->least_s = c->reps < BENCH_REPS ? 0 : 1;
    return bench_shape(args, c, err);
}

static kvt_status bench_measure(const bench_def *d, bench_out *o, const bench_conf *c, bench_noise *noise, kvt_err *err)
{
    double all[2], stolen[2];

    *o = (bench_out){ .conf = *c, .has_baseline = -1 };
    noise->load1 = bench_load1();
    bench_jiffies(&all[0], &stolen[0]);
    KVT_TRY(d->run(o, err));
    bench_jiffies(&all[1], &stolen[1]);
    noise->steal_pct = all[1] > all[0] ? 100 * (stolen[1] - stolen[0]) / (all[1] - all[0]) : 0;
    bench_judge(o, noise);
    return KVT_OK;
}

static int bench_missed(const bench_out *o)
{
    int missed = 0;

    for (uint32_t i = 0; i < o->n_targets; i++)
        missed |= !o->target[i].ok;
    return missed;
}

/* Wrong output fails, however busy the machine was. */
static int bench_wrong(const bench_out *o)
{
    int wrong = 0;

    for (uint32_t i = 0; i < o->n_items; i++)
        wrong |= o->item[i].against && !(o->item[i].max_err <= o->item[i].tol);
    return wrong;
}

static kvt_status bench_each(const kvt_args *args, const bench_conf *c, const char *name, int *exit_code, kvt_err *err)
{
    const int all = strcmp(name, "all") == 0, json = kvt_arg_flag(args, "json");
    bench_out *o = malloc(sizeof *o);
    int failed = 0, unclear = 0, first = 1;
    kvt_status st = KVT_OK;

    if (!o)
        return kvt_fail(err, KVT_ENOMEM, "out of memory");
    if (json && all)
        puts("[");
    for (const bench_def *d = bench_defs; d->name && st == KVT_OK; d++) {
        bench_noise noise;
        if (!all && strcmp(name, d->name) != 0)
            continue;
        st = bench_measure(d, o, c, &noise, err);
        if (st < 0)
            break;
        if (json) {
            cJSON *j = bench_json(d->name, o, &noise);
            char *text = cJSON_Print(j);
            printf("%s%s\n", first ? "" : ",\n", text ? text : "null");
            free(text);
            cJSON_Delete(j);
        } else {
            bench_print(d->name, o, &noise);
        }
        fflush(stdout);
        first = 0;
        failed |= bench_wrong(o) || (!noise.why && bench_missed(o));
        unclear |= noise.why != NULL;
    }
    if (json && all)
        puts("]");
    free(o);
    KVT_TRY(st);
    *exit_code = !kvt_arg_flag(args, "check") ? KVT_EXIT_OK : failed ? KVT_EXIT_NO : unclear ? BENCH_INCONCLUSIVE : KVT_EXIT_OK;
    return KVT_OK;
}

static void bench_list(void)
{
    for (const bench_def *d = bench_defs; d->name; d++)
        printf("%-12s %s\n", d->name, d->what);
}

static kvt_status bench_known(const char *name, kvt_err *err)
{
    for (const bench_def *d = bench_defs; d->name; d++)
        if (strcmp(d->name, name) == 0)
            return KVT_OK;
    return kvt_fail(err, KVT_EARG, "unknown bench; run: kvtrace bench list");
}

static kvt_status bench_run(const kvt_args *args, int *exit_code, kvt_err *err)
{
    const char *name = kvt_arg_item(args, NULL, 0), *dir = kvt_arg_text(args, "dir");
    bench_conf c = { 0 };
    char made[900];
    kvt_status st;

    *exit_code = KVT_EXIT_OK;
    KVT_TRY(bench_configure(args, &c, err));
    if (strcmp(name, "list") == 0) {
        bench_list();
        return KVT_OK;
    }
    if (strcmp(name, "all") != 0)
        KVT_TRY(bench_known(name, err));
    if (c.trace && strcmp(name, "sweep") != 0 && strcmp(name, "store") != 0)
        return kvt_fail(err, KVT_EARG, "--trace is for sweep and store");
    if (c.trace && access(c.trace, R_OK) != 0) {
        char shown[256];
        fprintf(stderr, "kvtrace: %s: %s\n", kvt_printable_str(shown, sizeof shown, c.trace), strerror(errno));
        *exit_code = KVT_EXIT_INPUT;
        return KVT_OK;
    }
    if (strlen(dir) > 800)
        return kvt_fail(err, KVT_EARG, "--dir: too long");
    snprintf(made, sizeof made, "%s/kvtrace-bench.XXXXXX", dir);
    if (!mkdtemp(made))
        return kvt_fail(err, KVT_EIO, "--dir: cannot make a folder there: %s", strerror(errno));
    c.dir = made;
    kvt_guard_maps();                        /* traces are read as the replay reads them */
    st = bench_each(args, &c, name, exit_code, err);
    rmdir(made);
    return st;
}

extern const kvt_cmd kvt_cmd_bench;
const kvt_cmd kvt_cmd_bench = {
    .name = "bench", .operands = "NAME|list|all", .summary = "measure the engine against the machine and the plain way",
    .details =
        "Reference and subject alternate, at least 10 times and a second each; a ratio is minimum\n"
        "over minimum, so it can be compared between machines. With --check: exit 0 when all\n"
        "targets hold, 1 when one is missed or an output is wrong, 4 when the machine was too\n"
        "busy to tell (median of a reference above 1.5 times its minimum, or more than 5 % of\n"
        "the processors taken by the hypervisor).\n\n"
        "  kvtrace bench list\n"
        "  kvtrace bench rows\n"
        "  kvtrace bench sweep --threads 2 --baseline --json --check\n",
    .min_operands = 1, .max_operands = 1, .opts = bench_opts, .run = bench_run,
};
