/* selftest_main.c - `kvtrace selftest` alone, so that a changed source file is quickly linked. */
#include "kvt_cli.h"

extern const kvt_cmd kvt_cmd_selftest;

int main(int argc, char **argv)
{
    static const kvt_cmd *const cmds[] = { &kvt_cmd_selftest };
    return kvt_cli_main(argc, argv, cmds, 1);
}
