/* kvt_cli.h - one table per subcommand makes the parser and --help.
 *
 * The file <folder>/cmd_<name>.c defines `const kvt_cmd kvt_cmd_<name>;` and nothing
 * else public: the build finds it by its file name. Results go to stdout, everything
 * for people to stderr. */
#ifndef KVT_CLI_H
#define KVT_CLI_H

#include <stdint.h>
#include "kvt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {                              /* exit codes of every subcommand; stable, tested */
    KVT_EXIT_OK = 0,
    KVT_EXIT_NO = 1,                /* ran well, the answer is no: verify, selftest   */
    KVT_EXIT_USAGE = 2,             /* unknown option, policy, budget; contradiction  */
    KVT_EXIT_INPUT = 3,             /* a trace or a database is missing or bad        */
    KVT_EXIT_FAILED = 4,            /* memory, disk, device, database                 */
    KVT_EXIT_STOPPED = 130          /* interrupted; what was finished is stored       */
};

typedef enum kvt_opt_type {
    KVT_OPT_FLAG, KVT_OPT_UINT, KVT_OPT_REAL, KVT_OPT_TEXT, KVT_OPT_LIST
} kvt_opt_type;

typedef struct kvt_opt {
    const char  *name;              /* "budget"; NULL ends the table                  */
    char         letter;            /* 'b', or 0                                      */
    kvt_opt_type type;              /* LIST: may be repeated; items separated by commas;
                                     * a policy spec keeps its own commas: an item that
                                     * has '=' before any ':' continues the one before */
    const char  *value;             /* "SHARE[,SHARE...]" in help; NULL for a flag    */
    const char  *def;               /* as typed; NULL = none                          */
    double       min, max;          /* UINT and REAL                                  */
    const char  *choices;           /* "low|flat", or NULL                            */
    const char  *help;              /* one sentence, with the unit                    */
} kvt_opt;

typedef struct kvt_args kvt_args;   /* parsed values; getters assert on a wrong name  */
int         kvt_arg_given(const kvt_args *a, const char *name); /* typed by the user? */
int         kvt_arg_flag(const kvt_args *a, const char *name);
uint64_t    kvt_arg_uint(const kvt_args *a, const char *name);
double      kvt_arg_real(const kvt_args *a, const char *name);
const char *kvt_arg_text(const kvt_args *a, const char *name);  /* NULL = none        */
uint32_t    kvt_arg_count(const kvt_args *a, const char *name); /* LIST; NULL = operands */
const char *kvt_arg_item(const kvt_args *a, const char *name, uint32_t i);
/* The words of the whole command line, for provenance. */
int         kvt_arg_argc(const kvt_args *a);
char      **kvt_arg_argv(const kvt_args *a);

typedef struct kvt_cmd {
    const char    *name, *operands, *summary;   /* "replay", "TRACE...", one line     */
    const char    *details;                     /* body of --help, plain text         */
    uint32_t       min_operands, max_operands;
    const kvt_opt *opts;
    /* On success sets *exit_code. On failure returns a status; kvt_cli_main prints
     * "kvtrace: <err->text>" and turns the status into an exit code: EARG 2; EFORMAT,
     * EVERSION, ERANGE, ENEED, ENOTSUP, ECHECK 3; EIO, ENOMEM, EDB, EDEVICE 4;
     * ECANCELLED 130. A command that must say otherwise (an input file that does not
     * exist is EIO but exit 3) prints err->text itself and sets *exit_code. */
    kvt_status   (*run)(const kvt_args *args, int *exit_code, kvt_err *err);
} kvt_cmd;

/* Dispatch argv[1]; `--help`, `help VERB`, `--version`. Returns the exit code. */
int kvt_cli_main(int argc, char **argv, const kvt_cmd *const *cmds, uint32_t n);

#ifdef __cplusplus
}
#endif
#endif
