/* schema_sql.c - schema.sql as a string of the program, so that the file people read and
 * the schema a database gets are the same bytes. */
#include "store_impl.h"

__asm__(".pushsection .rodata\n"
        ".global kvt__schema_sql\n"
        ".type kvt__schema_sql, %object\n"
        "kvt__schema_sql:\n"
        ".incbin \"" KVT_SCHEMA_PATH "\"\n"
        ".byte 0\n"                                 /* a terminated C string */
        ".size kvt__schema_sql, . - kvt__schema_sql\n"
        ".popsection\n"
        ".pushsection .note.GNU-stack,\"\",%progbits\n" /* the stack need not be executable */
        ".popsection\n");
