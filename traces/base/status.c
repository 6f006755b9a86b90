#include "kvt_status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *kvt_status_name(kvt_status st)
{
    switch (st) {
#define X(name, num, text) case KVT_##name: return #name;
        KVT_STATUS_LIST(X)
#undef X
    }
    return "UNKNOWN";
}

const char *kvt_status_text(kvt_status st)
{
    switch (st) {
#define X(name, num, text) case KVT_##name: return text;
        KVT_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

kvt_status kvt_fail(kvt_err *err, kvt_status st, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        err->status = st;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return st;
}

void kvt_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "kvtrace: internal error at %s:%d: %s\n", file, line, cond);
    abort();
}
