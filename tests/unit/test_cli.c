/* test_cli.c - the command-line parser through its only door, kvt_cli_main.
 * Method: a subcommand that copies what it was given into `seen`; stdout and stderr go
 * to temporary files, because their exact lines are part of the promise. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kvt_cli.h"

static struct {
    int         runs, quiet, verbose, given_jobs, argc;
    uint64_t    jobs, seed;
    double      tau;
    char        output[64], ties[16], items[16][64], operands[4][64], words[256];
    uint32_t    n_items, n_operands;
    kvt_status  answer;
    const char *say;
    int         code;
} seen;

static char out[16384], err[4096];

static kvt_status fake_run(const kvt_args *a, int *exit_code, kvt_err *e)
{
    seen.runs++;
    seen.quiet = kvt_arg_flag(a, "quiet");
    seen.jobs = kvt_arg_uint(a, "jobs");
    seen.seed = kvt_arg_uint(a, "seed");
    seen.given_jobs = kvt_arg_given(a, "jobs");
    seen.tau = kvt_arg_real(a, "tau");
    snprintf(seen.ties, sizeof seen.ties, "%s", kvt_arg_text(a, "ties"));
    snprintf(seen.output, sizeof seen.output, "%s",
             kvt_arg_text(a, "output") ? kvt_arg_text(a, "output") : "(none)");
    seen.n_items = kvt_arg_count(a, "policy");
    for (uint32_t i = 0; i < seen.n_items && i < 16; i++)
        snprintf(seen.items[i], sizeof seen.items[i], "%s", kvt_arg_item(a, "policy", i));
    seen.n_operands = kvt_arg_count(a, NULL);
    for (uint32_t i = 0; i < seen.n_operands && i < 4; i++)
        snprintf(seen.operands[i], sizeof seen.operands[i], "%s", kvt_arg_item(a, NULL, i));
    seen.argc = kvt_arg_argc(a);
    for (int i = 0; i < seen.argc; i++) {
        strcat(seen.words, kvt_arg_argv(a)[i]);
        strcat(seen.words, " ");
    }
    *exit_code = seen.code;
    return seen.answer ? kvt_fail(e, seen.answer, "%s", seen.say) : KVT_OK;
}

static const kvt_opt fake_opts[] = {
    {.name = "policy", .letter = 'p', .type = KVT_OPT_LIST, .value = "SPEC[,SPEC...]", .def = "full,h2o",
     .help = "policies to replay"},
    {.name = "output", .letter = 'o', .type = KVT_OPT_TEXT, .value = "FILE", .help = "Where results go."},
    {.name = "jobs", .letter = 'j', .type = KVT_OPT_UINT, .value = "N", .def = "1", .min = 1, .max = 256,
     .help = "Threads."},
    {.name = "seed", .type = KVT_OPT_UINT, .value = "N", .def = "0", .help = "Any 64-bit number."},
    {.name = "tau", .type = KVT_OPT_REAL, .value = "SHARE", .def = "0.5", .min = 0, .max = 1,
     .help = "Threshold."},
    {.name = "ties", .type = KVT_OPT_TEXT, .value = "RULE", .def = "low", .choices = "low|flat|high|seeded",
     .help = "Which of two equal scores stays."},
    {.name = "quiet", .letter = 'q', .type = KVT_OPT_FLAG, .help = "Say less"},
    {.name = NULL}};
static const kvt_cmd fake = {.name = "replay", .operands = "TRACE...", .summary = "Replay traces.",
    .details = "One\nparagraph.\n\n  an  example\nAfter it.", .min_operands = 1, .max_operands = 3, .opts = fake_opts, .run = fake_run};
static const kvt_cmd bare = {.name = "selftest", .summary = "Test.", .run = NULL};
static const kvt_cmd *const cmds[] = {&fake, &bare};

static void slurp(int fd, char *text, size_t size)
{
    ssize_t n;
    lseek(fd, 0, SEEK_SET);
    n = read(fd, text, size - 1);
    text[n > 0 ? n : 0] = '\0';
    close(fd);
}

/* Run "kvtrace <line>", split at blanks; "''" stands for an empty word. */
static int run(const char *line)
{
    char copy[512], *argv[32] = {(char *)"kvtrace"};
    int argc = 1, code, old[2], fd[2];

    memset(&seen.runs, 0, offsetof(__typeof__(seen), answer));
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " "))
        argv[argc++] = strcmp(w, "''") ? w : w + 2;
    argv[argc] = NULL;
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        FILE *f = tmpfile();
        cr_assert(f != NULL);
        fd[i] = dup(fileno(f));
        fclose(f);
        old[i] = dup(i + 1);
        dup2(fd[i], i + 1);
    }
    code = kvt_cli_main(argc, argv, cmds, 2);
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        dup2(old[i], i + 1);
        close(old[i]);
    }
    slurp(fd[0], out, sizeof out);
    slurp(fd[1], err, sizeof err);
    return code;
}

/* Exit 2, nothing run, nothing on stdout, and exactly this one line on stderr. */
static void refused(const char *line, const char *message)
{
    char expected[512];
    const int code = run(line);

    snprintf(expected, sizeof expected, "kvtrace: %s\n", message);
    cr_expect(code == 2, "%s: exit %d", line, code);
    cr_expect(seen.runs == 0, "%s: the command ran", line);
    cr_expect_str_eq(out, "");
    cr_expect(strcmp(err, expected) == 0, "%s\n  says:     %s  expected: %s", line, err, expected);
}

Test(cli, defaults_hold_when_nothing_is_given)
{
    cr_assert(run("replay a.h5") == 0, "%s", err);
    cr_expect(seen.jobs == 1 && seen.given_jobs == 0 && seen.tau == 0.5 && seen.quiet == 0);
    cr_expect_str_eq(seen.ties, "low");
    cr_expect_str_eq(seen.output, "(none)");
    cr_expect(seen.n_items == 2);
    cr_expect_str_eq(seen.items[0], "full");
    cr_expect_str_eq(seen.items[1], "h2o");
    cr_expect(seen.n_operands == 1);
    cr_expect_str_eq(seen.operands[0], "a.h5");
}

Test(cli, options_may_follow_operands_and_provenance_keeps_the_order)
{
    cr_assert(run("replay a.h5 -qj 4 b.h5 --tau=0.25 --output o.db -- -c.h5") == 0, "%s", err);
    cr_expect(seen.quiet == 1 && seen.jobs == 4 && seen.given_jobs == 1 && seen.tau == 0.25);
    cr_expect_str_eq(seen.output, "o.db");
    cr_expect(seen.n_operands == 3);
    cr_expect_str_eq(seen.operands[1], "b.h5");
    cr_expect_str_eq(seen.operands[2], "-c.h5");
    cr_expect_str_eq(seen.words, "kvtrace replay a.h5 -qj 4 b.h5 --tau=0.25 --output o.db -- -c.h5 ");
}

Test(cli, a_policy_keeps_its_own_commas)
{
    cr_assert(run("replay t -p snapkv:window=32,kernel=5,h2o") == 0, "%s", err);
    cr_expect(seen.n_items == 2);
    cr_expect_str_eq(seen.items[0], "snapkv:window=32,kernel=5");
    cr_expect_str_eq(seen.items[1], "h2o");
    cr_assert(run("replay t -p defensivekv:semantics=paper,rho=window,tova") == 0, "%s", err);
    cr_expect(seen.n_items == 2);
    cr_expect_str_eq(seen.items[0], "defensivekv:semantics=paper,rho=window");
    cr_expect_str_eq(seen.items[1], "tova");
    cr_assert(run("replay t -p h2o,snapkv:a=1,tova:b=2,c=3") == 0, "%s", err);
    cr_expect(seen.n_items == 3);
    cr_expect_str_eq(seen.items[1], "snapkv:a=1");
    cr_expect_str_eq(seen.items[2], "tova:b=2,c=3");
}

Test(cli, a_repeated_list_appends_and_replaces_the_default)
{
    cr_assert(run("replay t -p tova --policy=full,random -p h2o") == 0, "%s", err);
    cr_expect(seen.n_items == 4);
    cr_expect_str_eq(seen.items[0], "tova");
    cr_expect_str_eq(seen.items[2], "random");
    cr_expect_str_eq(seen.items[3], "h2o");
}

Test(cli, empty_items_and_values_are_refused)
{
    refused("replay t -p h2o,,tova", "option -p/--policy: empty item in the list");
    refused("replay t -p ,h2o", "option -p/--policy: empty item in the list");
    refused("replay t -p h2o,", "option -p/--policy: empty item in the list");
    refused("replay t --policy=", "option -p/--policy: empty item in the list");
    refused("replay t -o ''", "option -o/--output: empty value");
}

Test(cli, numbers_are_strict_and_name_their_range)
{
    static const char *const bad[] = {"0", "257", "-1", "1.5", "4x", "0x4", "+4", "1e2",
                                      "18446744073709551617", "99999999999999999999999"};
    char line[64], message[160];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(line, sizeof line, "replay t -j %s", bad[i]);
        snprintf(message, sizeof message, "option -j/--jobs: '%s' is not a whole number from 1 to 256", bad[i]);
        refused(line, message);
    }
    refused("replay t --jobs=", "option -j/--jobs: '' is not a whole number from 1 to 256");
    refused("replay t --tau 1.0001", "option --tau: '1.0001' is not a number from 0 to 1");
    refused("replay t --tau nan", "option --tau: 'nan' is not a number from 0 to 1");
    refused("replay t --tau 0x1p-1", "option --tau: '0x1p-1' is not a number from 0 to 1");
    refused("replay t --tau 0.5.1", "option --tau: '0.5.1' is not a number from 0 to 1");
    refused("replay t --tau 1e", "option --tau: '1e' is not a number from 0 to 1");
    refused("replay t --seed -1", "option --seed: '-1' is not a whole number");
}

Test(cli, the_ends_of_a_range_belong_to_it)
{
    cr_expect(run("replay t -j 1 --tau 0") == 0 && seen.tau == 0, "%s", err);
    cr_expect(run("replay t -j 256 --tau 1") == 0 && seen.jobs == 256, "%s", err);
    cr_expect(run("replay t --tau 1e-3") == 0 && seen.tau == 1e-3, "%s", err);
    cr_expect(run("replay t --seed 18446744073709551615") == 0 && seen.seed == UINT64_MAX, "%s", err);
}

Test(cli, unknown_words_are_named_with_the_nearest_one)
{
    refused("", "no subcommand given. See: kvtrace help");
    refused("replya t", "unknown subcommand 'replya'; did you mean 'replay'? See: kvtrace help");
    refused("xyzzy", "unknown subcommand 'xyzzy'. See: kvtrace help");
    refused("--bogus", "unknown option '--bogus'. See: kvtrace help");
    refused("help selftets", "unknown subcommand 'selftets'; did you mean 'selftest'? See: kvtrace help");
    refused("replay t --polcy=x", "replay: unknown option '--polcy=x'; did you mean '--policy'? See: kvtrace replay --help");
    refused("replay t --xyzzy", "replay: unknown option '--xyzzy'. See: kvtrace replay --help");
    refused("replay t -x", "replay: unknown option '-x'. See: kvtrace replay --help");
    refused("replay t --ties=lwo", "option --ties: 'lwo' is not one of low|flat|high|seeded; did you mean 'low'?");
}

Test(cli, an_abbreviation_is_not_an_option)
{
    refused("replay t --poli h2o", "replay: unknown option '--poli'; did you mean '--policy'? See: kvtrace replay --help");
    refused("replay t --qui", "replay: unknown option '--qui'; did you mean '--quiet'? See: kvtrace replay --help");
    refused("replay t --hel", "replay: unknown option '--hel'; did you mean '--help'? See: kvtrace replay --help");
}

Test(cli, operands_and_values_are_counted)
{
    refused("replay", "replay: missing operand. Usage: kvtrace replay [OPTION]... TRACE...");
    refused("replay a b c d", "replay: unexpected operand 'd'. Usage: kvtrace replay [OPTION]... TRACE...");
    refused("selftest a", "selftest: unexpected operand 'a'. Usage: kvtrace selftest [OPTION]...");
    refused("replay t --jobs", "replay: option -j/--jobs needs a value: N");
    refused("replay t -j", "replay: option -j/--jobs needs a value: N");
    refused("replay t --quiet=yes", "replay: option -q/--quiet takes no value");
    refused("help a b", "usage: kvtrace help [SUBCOMMAND]");
}

Test(cli, hostile_words_stay_on_one_line)
{
    refused("replay t --\x1b[2J", "replay: unknown option '--\\u{1B}[2J'. See: kvtrace replay --help");
    refused("a\nb\xff", "unknown subcommand 'a\xE2\x86\xB5" "b\\xFF'. See: kvtrace help");
}

Test(cli, help_goes_to_stdout_and_runs_nothing)
{
    static const char *const lines[] = {"replay --help", "help replay", "replay t --help"};

    for (size_t i = 0; i < 3; i++) {
        cr_assert(run(lines[i]) == 0 && seen.runs == 0);
        cr_expect_str_eq(err, "");
        cr_expect(strncmp(out, "Usage: kvtrace replay [OPTION]... TRACE...\n", 43) == 0, "%s", out);
        cr_expect(strstr(out, "  -p, --policy=SPEC[,SPEC...]\n                            Policies to replay. Default:"),
                  "%s", out);
        cr_expect(strstr(out, "low|flat|high|seeded. Default: low.\n"), "%s", out);
        cr_expect(strstr(out, "  -q, --quiet               Say less.\n"), "%s", out);
        cr_expect(strstr(out, "      --help"), "%s", out);
        cr_expect(strstr(out, "\nOne paragraph.\n\n  an  example\nAfter it.\n"), "%s", out);
    }
    cr_assert(run("help") == 0);
    cr_expect(strstr(out, "  replay      Replay traces.\n"), "%s", out);
    cr_assert(run("--help") == 0 && strstr(out, "selftest"));
    cr_assert(run("--version") == 0);
    cr_expect(strncmp(out, "kvtrace ", 8) == 0 && strstr(out, "(commit "), "%s", out);
}

Test(cli, a_status_becomes_an_exit_code_and_one_line)
{
    static const struct { kvt_status st; int code; } map[] = {
        {KVT_EARG, 2}, {KVT_EFORMAT, 3}, {KVT_EVERSION, 3}, {KVT_ERANGE, 3}, {KVT_ENEED, 3},
        {KVT_ENOTSUP, 3}, {KVT_ECHECK, 3}, {KVT_EIO, 4}, {KVT_ENOMEM, 4}, {KVT_EDB, 4},
        {KVT_EDEVICE, 4}, {KVT_ECANCELLED, 130}};

    for (size_t i = 0; i < sizeof map / sizeof *map; i++) {
        seen.answer = map[i].st;
        seen.say = "t.h5: line\none";
        cr_expect(run("replay t") == map[i].code, "%s", kvt_status_name(map[i].st));
        cr_expect_str_eq(err, "kvtrace: t.h5: line\xE2\x86\xB5one\n");
        seen.say = "";
        run("replay t");
        cr_expect(strstr(err, kvt_status_text(map[i].st)), "%s", err);
    }
}

Test(cli, the_command_chooses_its_exit_code)
{
    seen.code = KVT_EXIT_NO;
    cr_expect(run("replay t") == 1);
    cr_expect_str_eq(err, "");
}

Test(cli, results_that_cannot_be_written_are_a_failure)
{
    /* Method: stdout on /dev/full in a child, because a stream that failed stays failed. */
    const char *argv[] = {"kvtrace", "help", NULL};
    int old = dup(1), code;

    cr_assert(freopen("/dev/full", "w", stdout) != NULL);
    code = kvt_cli_main(2, (char **)(uintptr_t)argv, cmds, 2);
    clearerr(stdout);
    dup2(old, 1);
    cr_expect(code == 4, "exit %d", code);
}
