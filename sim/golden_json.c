/* golden_json.c - the golden file as bytes of the program, so that selftest needs no
 * path and the tests read the same file. */
#include "golden.h"

__asm__(".section .rodata\n"
        ".global kvt__golden_json\n"
        ".type kvt__golden_json, %object\n"
        "kvt__golden_json:\n"
        ".incbin \"" KVT_GOLDEN_PATH "\"\n"
        ".size kvt__golden_json, . - kvt__golden_json\n"
        ".global kvt__golden_json_end\n"
        "kvt__golden_json_end:\n"
        ".byte 0\n"
        ".section .note.GNU-stack,\"\",%progbits\n"   /* the stack need not be executable */
        ".text\n");
