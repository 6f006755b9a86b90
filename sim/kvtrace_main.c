/* kvtrace: one program, one subcommand per cmd_<name>.c (see CMakeLists.txt). */
#include "kvt_cli.h"
#include "cmd_list.inc"

int main(int argc, char **argv)
{
    return kvt_cli_main(argc, argv, cmd_list, (uint32_t)(sizeof cmd_list / sizeof *cmd_list));
}
