/* cli.c - see kvt_cli.h. Order: values and getters, near matches, parsing one value,
 * parsing a command line (on getopt_long), help, dispatch.
 *
 * Every message is one line on stderr that begins with "kvtrace: " and quotes the word
 * it is about. Words of the command line are hostile text like any other. */
#include "kvt_cli.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvt_text.h"
#include "kvt_version.h"

#define CLI_WORD  96                /* bytes of a quoted word in a message            */
#define CLI_LONG  256               /* getopt values of long options start here       */
#define CLI_HELP  (CLI_LONG - 1)    /* --help, which every subcommand has             */
#define CLI_WIDTH 80                /* columns of --help                              */

typedef struct cli_value {
    bool     given, on;
    uint64_t u;
    double   x;
    char   **items;                 /* LIST: all; TEXT: items[0]                      */
    uint32_t n_items;
} cli_value;

struct kvt_args {
    const kvt_cmd *cmd;
    cli_value     *values;          /* [n_opts], in the order of cmd->opts            */
    uint32_t       n_opts;
    char         **operands;        /* borrowed from argv                             */
    uint32_t       n_operands;
    int            argc;
    char         **argv;
};

/* ------------------------------------------------------------------------ getters */

static const cli_value *cli_find(const kvt_args *a, const char *name, kvt_opt_type type)
{
    for (uint32_t i = 0; i < a->n_opts; i++)
        if (strcmp(a->cmd->opts[i].name, name) == 0) {
            KVT_ASSERT(a->cmd->opts[i].type == type);
            return &a->values[i];
        }
    KVT_ASSERT(!"no option of that name in the table");
    return NULL;
}

int kvt_arg_given(const kvt_args *a, const char *name)
{
    for (uint32_t i = 0; i < a->n_opts; i++)
        if (strcmp(a->cmd->opts[i].name, name) == 0) return a->values[i].given;
    KVT_ASSERT(!"no option of that name in the table");
    return 0;
}

int kvt_arg_flag(const kvt_args *a, const char *name)
{
    return cli_find(a, name, KVT_OPT_FLAG)->on;
}

uint64_t kvt_arg_uint(const kvt_args *a, const char *name)
{
    return cli_find(a, name, KVT_OPT_UINT)->u;
}

double kvt_arg_real(const kvt_args *a, const char *name)
{
    return cli_find(a, name, KVT_OPT_REAL)->x;
}

const char *kvt_arg_text(const kvt_args *a, const char *name)
{
    const cli_value *v = cli_find(a, name, KVT_OPT_TEXT);
    return v->n_items ? v->items[0] : NULL;
}

uint32_t kvt_arg_count(const kvt_args *a, const char *name)
{
    return name ? cli_find(a, name, KVT_OPT_LIST)->n_items : a->n_operands;
}

const char *kvt_arg_item(const kvt_args *a, const char *name, uint32_t i)
{
    const cli_value *v;

    if (!name) {
        KVT_ASSERT(i < a->n_operands);
        return a->operands[i];
    }
    v = cli_find(a, name, KVT_OPT_LIST);
    KVT_ASSERT(i < v->n_items);
    return v->items[i];
}

int kvt_arg_argc(const kvt_args *a)
{
    return a->argc;
}

char **kvt_arg_argv(const kvt_args *a)
{
    return a->argv;
}

/* -------------------------------------------------------------------- near matches */

/* Edits between two words, a swap of neighbours counting once; 99 for long words. */
static unsigned cli_distance(const char *a, const char *b)
{
    enum { MAX = 32 };
    unsigned d[MAX + 1][MAX + 1];
    const size_t n = strlen(a), m = strlen(b);

    if (n > MAX || m > MAX) return 99;
    for (size_t i = 0; i <= n; i++) d[i][0] = (unsigned)i;
    for (size_t j = 0; j <= m; j++) d[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

typedef struct cli_near {
    const char *typed;
    char        word[48];
    unsigned    distance;
} cli_near;

static void cli_near_try(cli_near *near, const char *word)
{
    const size_t n = strlen(near->typed);
    unsigned d = cli_distance(near->typed, word);

    if (n >= 2 && d > 1 && strncmp(near->typed, word, n) == 0) d = 1;   /* an abbreviation */
    if (strlen(word) < sizeof near->word && d < near->distance && d <= (n + 2) / 3) {
        near->distance = d;
        strcpy(near->word, word);
    }
}

/* "; did you mean 'budget'?" or "". */
static const char *cli_near_text(const cli_near *near, const char *dashes, char out[80])
{
    out[0] = '\0';
    if (near->word[0]) snprintf(out, 80, "; did you mean '%s%s'?", dashes, near->word);
    return out;
}

/* ----------------------------------------------------------------------- one value */

/* "--jobs" or "-j/--jobs". */
static const char *cli_opt_text(const kvt_opt *o, char out[64])
{
    if (o->letter) snprintf(out, 64, "-%c/--%s", o->letter, o->name);
    else snprintf(out, 64, "--%s", o->name);
    return out;
}

static bool cli_has_range(const kvt_opt *o)
{
    return o->min < o->max;         /* both 0: the table asks for none */
}

static kvt_status cli_bad_number(const kvt_opt *o, const char *text, kvt_err *err)
{
    const char *what = o->type == KVT_OPT_UINT ? "a whole number" : "a number";
    char name[64], word[CLI_WORD], lo[32], hi[32];

    cli_opt_text(o, name);
    kvt_printable_str(word, sizeof word, text);
    if (!cli_has_range(o))
        return kvt_fail(err, KVT_EARG, "option %s: '%s' is not %s", name, word, what);
    if (!isfinite(o->min) || !isfinite(o->max))
        return kvt_fail(err, KVT_EARG, "option %s: '%s' is not %s %s %s", name, word, what,
                        isfinite(o->min) ? "of at least" : "of at most",
                        kvt_number(lo, isfinite(o->min) ? o->min : o->max));
    return kvt_fail(err, KVT_EARG, "option %s: '%s' is not %s from %s to %s", name, word, what,
                    kvt_number(lo, o->min), kvt_number(hi, o->max));
}

static kvt_status cli_parse_uint(const kvt_opt *o, const char *text, uint64_t *out, kvt_err *err)
{
    uint64_t v = 0;

    if (*text == '\0') return cli_bad_number(o, text, err);
    for (const char *c = text; *c; c++) {
        const unsigned digit = (unsigned)(unsigned char)*c - '0';
        if (digit > 9 || v > (UINT64_MAX - digit) / 10) return cli_bad_number(o, text, err);
        v = v * 10 + digit;
    }
    if (cli_has_range(o) && ((double)v < o->min || (double)v > o->max))
        return cli_bad_number(o, text, err);
    *out = v;
    return KVT_OK;
}

static kvt_status cli_parse_real(const kvt_opt *o, const char *text, double *out, kvt_err *err)
{
    char *end;
    double x;

    /* strtod also takes leading space, hexadecimal, "inf" and "nan". */
    if (*text == '\0' || strspn(text, "0123456789.eE+-") != strlen(text))
        return cli_bad_number(o, text, err);
    x = strtod(text, &end);
    if (end == text || *end || !isfinite(x)) return cli_bad_number(o, text, err);
    if (cli_has_range(o) && (x < o->min || x > o->max)) return cli_bad_number(o, text, err);
    *out = x;
    return KVT_OK;
}

static kvt_status cli_check_choice(const kvt_opt *o, const char *text, kvt_err *err)
{
    cli_near near = {.typed = text, .distance = 99};
    char name[64], word[CLI_WORD], hint[80];
    const char *c = o->choices;

    while (c) {
        const char *bar = strchr(c, '|');
        const size_t n = bar ? (size_t)(bar - c) : strlen(c);
        char choice[48];

        KVT_ASSERT(n < sizeof choice);
        memcpy(choice, c, n);
        choice[n] = '\0';
        if (strcmp(choice, text) == 0) return KVT_OK;
        cli_near_try(&near, choice);
        c = bar ? bar + 1 : NULL;
    }
    return kvt_fail(err, KVT_EARG, "option %s: '%s' is not one of %s%s", cli_opt_text(o, name),
                    kvt_printable_str(word, sizeof word, text), o->choices,
                    cli_near_text(&near, "", hint));
}

/* Append a copy of text[0..n-1]. */
static kvt_status cli_push(const kvt_opt *o, cli_value *v, const char *text, size_t n, kvt_err *err)
{
    char **items, *copy, name[64];

    if (n == 0)
        return kvt_fail(err, KVT_EARG, "option %s: empty %s", cli_opt_text(o, name),
                        o->type == KVT_OPT_LIST ? "item in the list" : "value");
    copy = strndup(text, n);
    items = realloc(v->items, ((size_t)v->n_items + 1) * sizeof *items);
    if (items) v->items = items;
    if (!copy || !items) {
        free(copy);
        return kvt_fail(err, KVT_ENOMEM, "no memory for the command line");
    }
    v->items[v->n_items++] = copy;
    return o->choices ? cli_check_choice(o, copy, err) : KVT_OK;
}

/* Does the piece name a parameter of the policy before it ("kernel=5")? */
static bool cli_continues(const char *piece)
{
    return piece[strcspn(piece, "=:,")] == '=';
}

static kvt_status cli_parse_list(const kvt_opt *o, cli_value *v, const char *text, kvt_err *err)
{
    for (;;) {
        size_t n = strcspn(text, ",");

        while (n > 0 && text[n] == ',' && cli_continues(text + n + 1))
            n += 1 + strcspn(text + n + 1, ",");
        KVT_TRY(cli_push(o, v, text, n, err));
        if (text[n] == '\0') return KVT_OK;
        text += n + 1;
    }
}

static void cli_clear_items(cli_value *v)
{
    for (uint32_t i = 0; i < v->n_items; i++) free(v->items[i]);
    free(v->items);
    v->items = NULL;
    v->n_items = 0;
}

static kvt_status cli_set(const kvt_opt *o, cli_value *v, const char *text, kvt_err *err)
{
    switch (o->type) {
    case KVT_OPT_FLAG:
        v->on = true;
        return KVT_OK;
    case KVT_OPT_UINT:
        return cli_parse_uint(o, text, &v->u, err);
    case KVT_OPT_REAL:
        return cli_parse_real(o, text, &v->x, err);
    case KVT_OPT_TEXT:
        cli_clear_items(v);
        return cli_push(o, v, text, strlen(text), err);
    case KVT_OPT_LIST:
        return cli_parse_list(o, v, text, err);
    }
    KVT_ASSERT(!"option type");
    return KVT_OK;
}

/* ------------------------------------------------------------------- a command line */

static uint32_t cli_count_opts(const kvt_cmd *cmd)
{
    uint32_t n = 0;
    while (cmd->opts && cmd->opts[n].name) n++;
    return n;
}

static void cli_args_fini(kvt_args *a)
{
    for (uint32_t i = 0; i < a->n_opts && a->values; i++) cli_clear_items(&a->values[i]);
    free(a->values);
}

/* The tables of getopt: letters needs 3 bytes per option, longs one entry more than two. */
static void cli_getopt_tables(const kvt_cmd *cmd, uint32_t n, char *letters, struct option *longs)
{
    *letters++ = ':';               /* report a missing value as ':' and print nothing */
    for (uint32_t i = 0; i < n; i++) {
        const kvt_opt *o = &cmd->opts[i];
        const bool takes_value = o->type != KVT_OPT_FLAG;

        longs[i] = (struct option){.name = o->name, .has_arg = takes_value, .val = CLI_LONG + (int)i};
        if (o->letter) *letters++ = o->letter;
        if (o->letter && takes_value) *letters++ = ':';
    }
    *letters = '\0';
    longs[n] = (struct option){.name = "help", .val = CLI_HELP};
    longs[n + 1] = (struct option){.name = NULL};
}

static int cli_index_of(const kvt_cmd *cmd, uint32_t n, int c)
{
    if (c >= CLI_LONG) return c - CLI_LONG;
    for (uint32_t i = 0; i < n; i++)
        if (c != 0 && cmd->opts[i].letter == c) return (int)i;
    return -1;
}

static kvt_status cli_unknown_option(const kvt_cmd *cmd, uint32_t n, const char *typed, kvt_err *err)
{
    char word[CLI_WORD], hint[80], stem[CLI_WORD];
    cli_near near = {.typed = stem, .distance = 99};

    snprintf(stem, sizeof stem, "%.*s", (int)strcspn(typed + 2, "="), typed + 2);
    for (uint32_t i = 0; i < n; i++) cli_near_try(&near, cmd->opts[i].name);
    cli_near_try(&near, "help");
    return kvt_fail(err, KVT_EARG, "%s: unknown option '%s'%s See: kvtrace %s --help", cmd->name,
                    kvt_printable_str(word, sizeof word, typed),
                    near.word[0] ? cli_near_text(&near, "--", hint) : ".", cmd->name);
}

/* What getopt did not accept. `typed` is the word it stopped at. */
static kvt_status cli_refuse(const kvt_cmd *cmd, uint32_t n, int c, const char *typed, kvt_err *err)
{
    const int i = cli_index_of(cmd, n, optopt);
    char name[64], letter[3] = {'-', (char)optopt, '\0'}, word[16];

    if (i >= 0 && c == ':')
        return kvt_fail(err, KVT_EARG, "%s: option %s needs a value: %s", cmd->name,
                        cli_opt_text(&cmd->opts[i], name), cmd->opts[i].value);
    if (i >= 0)
        return kvt_fail(err, KVT_EARG, "%s: option %s takes no value", cmd->name,
                        cli_opt_text(&cmd->opts[i], name));
    if (optopt == CLI_HELP)
        return kvt_fail(err, KVT_EARG, "%s: option --help takes no value", cmd->name);
    if (optopt)
        return kvt_fail(err, KVT_EARG, "%s: unknown option '%s'. See: kvtrace %s --help", cmd->name,
                        kvt_printable_str(word, sizeof word, letter), cmd->name);
    return cli_unknown_option(cmd, n, typed, err);
}

/* getopt_long takes any unambiguous abbreviation; this program takes full words only,
 * so that a later option cannot change what a script means. */
static bool cli_is_full_word(const char *typed, const char *name)
{
    const size_t n = strcspn(typed + 2, "=");
    return strlen(name) == n && strncmp(typed + 2, name, n) == 0;
}

static kvt_status cli_parse_options(kvt_args *a, int argc, char **argv, char *letters,
                                    struct option *longs, bool *help, kvt_err *err)
{
    const kvt_cmd *cmd = a->cmd;
    int c;

    cli_getopt_tables(cmd, a->n_opts, letters, longs);
    optind = 0;                     /* glibc: forget everything about an earlier line */
    opterr = 0;
    while ((c = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        const char *typed = argv[optind - 1];
        int i;

        if (c == '?' || c == ':') return cli_refuse(cmd, a->n_opts, c, typed, err);
        if (c >= CLI_HELP) {
            if (optarg == typed) typed = argv[optind - 2];
            if (!cli_is_full_word(typed, longs[c == CLI_HELP ? (int)a->n_opts : c - CLI_LONG].name))
                return cli_unknown_option(cmd, a->n_opts, typed, err);
        }
        if (c == CLI_HELP) {
            *help = true;
            return KVT_OK;
        }
        i = cli_index_of(cmd, a->n_opts, c);
        a->values[i].given = true;
        KVT_TRY(cli_set(&cmd->opts[i], &a->values[i], optarg, err));
    }
    a->operands = argv + optind;
    a->n_operands = (uint32_t)(argc - optind);
    return KVT_OK;
}

static kvt_status cli_finish(kvt_args *a, kvt_err *err)
{
    const kvt_cmd *cmd = a->cmd;
    char word[CLI_WORD];

    for (uint32_t i = 0; i < a->n_opts; i++)
        if (!a->values[i].given && cmd->opts[i].def)
            KVT_TRY(cli_set(&cmd->opts[i], &a->values[i], cmd->opts[i].def, err));
    if (a->n_operands < cmd->min_operands)
        return kvt_fail(err, KVT_EARG, "%s: missing operand. Usage: kvtrace %s [OPTION]... %s",
                        cmd->name, cmd->name, cmd->operands);
    if (a->n_operands > cmd->max_operands)
        return kvt_fail(err, KVT_EARG, "%s: unexpected operand '%s'. Usage: kvtrace %s [OPTION]...%s%s",
                        cmd->name,
                        kvt_printable_str(word, sizeof word, a->operands[cmd->max_operands]),
                        cmd->name, cmd->operands && *cmd->operands ? " " : "",
                        cmd->operands ? cmd->operands : "");
    return KVT_OK;
}

/* ---------------------------------------------------------------------------- help */

/* One paragraph, words wrapped at CLI_WIDTH, from column `indent` on; tables may begin
 * their sentences in lower case. */
static void cli_wrap(const char *text, int indent, int column)
{
    for (bool first = true; *text; first = false) {
        const int n = (int)strcspn(text, " ");

        if (column > indent && column + 1 + n > CLI_WIDTH - 1) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        printf("%c%.*s", first ? toupper((unsigned char)*text) : *text, n - 1, text + 1);
        column += n;
        text += n;
        text += strspn(text, " ");
    }
    putchar('\n');
}

/* Paragraphs, wrapped; a line that begins with a blank stands as it is. */
static void cli_details(const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        char paragraph[2048];

        if (n && *text != ' ')
            while (text[n] == '\n' && text[n + 1] && text[n + 1] != '\n' && text[n + 1] != ' ')
                n += 1 + strcspn(text + n + 1, "\n");
        KVT_ASSERT(n < sizeof paragraph);
        for (size_t i = 0; i < n; i++) paragraph[i] = text[i] == '\n' ? ' ' : text[i];
        paragraph[n] = '\0';
        if (*text == ' ') puts(paragraph);
        else cli_wrap(paragraph, 0, 0);
        text += n + (text[n] == '\n');
    }
}

static void cli_help_opt(const kvt_opt *o)
{
    enum { INDENT = 28 };
    const char *dot = o->help[strlen(o->help) - 1] == '.' ? "" : ".";
    char line[512];
    int n = o->letter ? printf("  -%c, --%s", o->letter, o->name) : printf("      --%s", o->name);

    if (o->value) n += printf("=%s", o->value);
    if (n + 2 > INDENT) {
        putchar('\n');
        n = 0;
    }
    printf("%*s", INDENT - n, "");
    snprintf(line, sizeof line, "%s%s%s%s%s%s%s%s", o->help, dot, o->choices ? " One of " : "",
             o->choices ? o->choices : "", o->choices ? "." : "", o->def ? " Default: " : "",
             o->def ? o->def : "", o->def ? "." : "");
    cli_wrap(line, INDENT, INDENT);
}

static void cli_help_cmd(const kvt_cmd *cmd)
{
    const uint32_t n = cli_count_opts(cmd);
    static const kvt_opt help = {.name = "help", .help = "print this text and stop"};

    printf("Usage: kvtrace %s [OPTION]...%s%s\n\n", cmd->name,
           cmd->operands && *cmd->operands ? " " : "", cmd->operands ? cmd->operands : "");
    cli_wrap(cmd->summary, 0, 0);
    printf("\nOptions:\n");
    for (uint32_t i = 0; i < n; i++) cli_help_opt(&cmd->opts[i]);
    cli_help_opt(&help);
    if (cmd->details && *cmd->details) {
        putchar('\n');
        cli_details(cmd->details);
    }
}

/* The subcommand whose name follows `name` in the alphabet; NULL after the last. */
static const kvt_cmd *cli_after(const kvt_cmd *const *cmds, uint32_t n, const char *name)
{
    const kvt_cmd *next = NULL;

    for (uint32_t i = 0; i < n; i++)
        if (strcmp(cmds[i]->name, name) > 0 && (!next || strcmp(cmds[i]->name, next->name) < 0))
            next = cmds[i];
    return next;
}

static void cli_help_all(const kvt_cmd *const *cmds, uint32_t n)
{
    printf("Usage: kvtrace SUBCOMMAND [OPTION]... [OPERAND]...\n\n"
           "Replays recorded attention through KV-cache eviction policies and measures what\n"
           "they lose in the worst case.\n\nSubcommands:\n");
    for (const kvt_cmd *cmd = cli_after(cmds, n, ""); cmd; cmd = cli_after(cmds, n, cmd->name)) {
        printf("  %-12s", cmd->name);
        cli_wrap(cmd->summary, 14, 14);
    }
    printf("\nkvtrace help SUBCOMMAND tells about one of them, kvtrace --version about this build.\n"
           "Exit codes: 0 yes, 1 no, 2 usage, 3 unusable input, 4 failed, 130 stopped.\n");
}

/* ------------------------------------------------------------------------ dispatch */

static int cli_exit_code(kvt_status st)
{
    switch (st) {
    case KVT_OK:         return KVT_EXIT_OK;
    case KVT_EARG:       return KVT_EXIT_USAGE;
    case KVT_EFORMAT:
    case KVT_EVERSION:
    case KVT_ERANGE:
    case KVT_ENEED:
    case KVT_ENOTSUP:
    case KVT_ECHECK:     return KVT_EXIT_INPUT;
    case KVT_ECANCELLED: return KVT_EXIT_STOPPED;
    case KVT_EIO:
    case KVT_ENOMEM:
    case KVT_EDB:
    case KVT_EDEVICE:    break;
    }
    return KVT_EXIT_FAILED;
}

/* Print a failure and give its exit code. Text is escaped again on the way out: a
 * message that forgot to cannot move the cursor or make a second line. */
static int cli_report(kvt_status st, const kvt_err *err)
{
    char line[2048];

    fprintf(stderr, "kvtrace: %s\n",
            kvt_printable_str(line, sizeof line, err->text[0] ? err->text : kvt_status_text(st)));
    return cli_exit_code(st);
}

static kvt_status cli_pick(const kvt_cmd *const *cmds, uint32_t n, const char *verb,
                           const kvt_cmd **out, kvt_err *err)
{
    cli_near near = {.typed = verb, .distance = 99};
    char word[CLI_WORD], hint[80];

    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(cmds[i]->name, verb) == 0) {
            *out = cmds[i];
            return KVT_OK;
        }
        cli_near_try(&near, cmds[i]->name);
    }
    cli_near_try(&near, "help");
    return kvt_fail(err, KVT_EARG, "unknown %s '%s'%s See: kvtrace help",
                    verb[0] == '-' ? "option" : "subcommand",
                    kvt_printable_str(word, sizeof word, verb),
                    near.word[0] ? cli_near_text(&near, "", hint) : ".");
}

static int cli_run(const kvt_cmd *cmd, int argc, char **argv)
{
    const uint32_t n = cli_count_opts(cmd);
    kvt_args a = {.cmd = cmd, .n_opts = n, .argc = argc, .argv = argv};
    char **words = malloc((size_t)argc * sizeof *words);    /* getopt reorders its words */
    char *letters = malloc(3 * (size_t)n + 2);
    struct option *longs = calloc((size_t)n + 2, sizeof *longs);
    kvt_status st = KVT_OK;
    kvt_err err = {0};
    bool help = false;
    int code = KVT_EXIT_OK;

    a.values = calloc((size_t)n + 1, sizeof *a.values);
    if (!words || !letters || !longs || !a.values) {
        st = kvt_fail(&err, KVT_ENOMEM, "no memory for the command line");
        goto done;
    }
    memcpy(words, argv + 1, (size_t)argc * sizeof *words);  /* with the NULL at the end */
    KVT_TRY_GOTO(st, cli_parse_options(&a, argc - 1, words, letters, longs, &help, &err));
    if (help) {
        cli_help_cmd(cmd);
        goto done;
    }
    KVT_TRY_GOTO(st, cli_finish(&a, &err));
    st = cmd->run(&a, &code, &err);
done:
    if (st < 0) code = cli_report(st, &err);
    cli_args_fini(&a);
    free(longs);
    free(letters);
    free(words);
    return code;
}

static int cli_dispatch(int argc, char **argv, const kvt_cmd *const *cmds, uint32_t n)
{
    const char *verb = argc > 1 ? argv[1] : NULL;
    const kvt_cmd *cmd = NULL;
    kvt_err err = {0};
    kvt_status st;

    if (!verb)
        return cli_report(KVT_EARG, &(kvt_err){.text = "no subcommand given. See: kvtrace help"});
    if (strcmp(verb, "--version") == 0 && argc == 2) {
        printf("kvtrace %s (commit %s%s, %s)\n", KVT_VERSION, KVT_GIT_COMMIT,
               KVT_GIT_DIRTY ? ", modified" : "", KVT_COMPILER);
        return KVT_EXIT_OK;
    }
    if (strcmp(verb, "--help") == 0 || strcmp(verb, "help") == 0) {
        if (argc > 3 || (argc == 3 && verb[0] == '-'))
            return cli_report(KVT_EARG, &(kvt_err){.text = "usage: kvtrace help [SUBCOMMAND]"});
        if (argc == 2) {
            cli_help_all(cmds, n);
            return KVT_EXIT_OK;
        }
        st = cli_pick(cmds, n, argv[2], &cmd, &err);
        if (st < 0) return cli_report(st, &err);
        cli_help_cmd(cmd);
        return KVT_EXIT_OK;
    }
    st = cli_pick(cmds, n, verb, &cmd, &err);
    return st < 0 ? cli_report(st, &err) : cli_run(cmd, argc, argv);
}

/* A program started with a closed stdout would get its first file as descriptor 1 and
 * print into it. The replacement is read-only, so that a write still fails. */
static void cli_hold_standard_files(void)
{
    int fd;

    do fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

int kvt_cli_main(int argc, char **argv, const kvt_cmd *const *cmds, uint32_t n)
{
    int code;

    cli_hold_standard_files();
    code = cli_dispatch(argc, argv, cmds, n);
    /* Results that did not reach their file are a failure, whatever the command thought. */
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && code <= KVT_EXIT_NO) {
        fprintf(stderr, "kvtrace: standard output: %s\n", errno ? strerror(errno) : "write failed");
        code = KVT_EXIT_FAILED;
    }
    return code;
}
