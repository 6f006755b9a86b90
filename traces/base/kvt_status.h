/* kvt_status.h - how every fallible call in this project reports failure.
 *
 * A function that can fail returns kvt_status and writes its results through
 * out-parameters, which come first. KVT_OK is 0 and errors are negative, so
 * `if (st < 0)` reads the same everywhere. On failure the out-parameters are
 * untouched and nothing is left allocated. The last argument, `kvt_err *err`,
 * receives one line for a human; pass NULL not to care.
 *
 * A programmer's mistake (a NULL handle, an index past the end) is not a
 * status. It is a KVT_ASSERT, which stays on in release builds and is never
 * reached by the contents of a file or the words of a command line. */
#ifndef KVT_STATUS_H
#define KVT_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KVT_NODISCARD __attribute__((warn_unused_result))
#define KVT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define KVT_NODISCARD
#define KVT_PRINTF(f, a)
#endif

/* One list, three uses: the enum, kvt_status_name() and the manual.
 * Numbers are part of the ABI of libkvcap: append, never renumber. */
#define KVT_STATUS_LIST(X)                                                   \
    X(OK,           0, "success")                                            \
    X(EARG,        -1, "an argument has a value that is not allowed")        \
    X(ENOMEM,      -2, "out of host memory")                                 \
    X(EIO,         -3, "the operating system refused a read or a write")     \
    X(EFORMAT,     -4, "the file is not a trace, or it is damaged")          \
    X(EVERSION,    -5, "the file is newer than this program")                \
    X(ERANGE,      -6, "asked for a layer, head or row that is not there")   \
    X(ENEED,       -7, "the trace lacks what this policy or metric needs")   \
    X(ENOTSUP,     -8, "this build or this back end cannot do that")         \
    X(EDEVICE,     -9, "the GPU or its driver reported an error")            \
    X(EDB,        -10, "SQLite reported an error")                           \
    X(ECHECK,     -11, "a verification failed: checksum, row sum, recomputed output") \
    X(ECANCELLED, -12, "stopped because the caller asked")

typedef enum kvt_status {
#define X(name, num, text) KVT_##name = (num),
    KVT_STATUS_LIST(X)
#undef X
} kvt_status;

/* Detail for a human: one line without a line break. The size is fixed, because
 * reporting ENOMEM must need no memory. Text that came from a file is escaped by
 * the function that puts it here (kvt_printable, kvt_text.h). */
typedef struct kvt_err {
    kvt_status status;
    char       text[480]; /* "t.h5: /layers/007/k: shape 3x640x64, expected 3x768x64" */
} kvt_err;

const char *kvt_status_name(kvt_status st);   /* "EFORMAT"; never NULL */
const char *kvt_status_text(kvt_status st);

/* Fill *err (if not NULL) and return st:
 *     return kvt_fail(err, KVT_EFORMAT, "%s: no /layers group", path); */
kvt_status kvt_fail(kvt_err *err, kvt_status st, const char *fmt, ...) KVT_PRINTF(3, 4);

/* Forward a failure unchanged: the first message is the useful one. */
#define KVT_TRY(expr)                            \
    do {                                         \
        const kvt_status kvt_try_st_ = (expr);   \
        if (kvt_try_st_ < 0) return kvt_try_st_; \
    } while (0)
/* The same inside a function that releases at label `done`. */
#define KVT_TRY_GOTO(st, expr)                   \
    do {                                         \
        (st) = (expr);                           \
        if ((st) < 0) goto done;                 \
    } while (0)

/* The programmer is wrong: prints file:line and the condition, aborts. */
void kvt_assert_failed(const char *cond, const char *file, int line) __attribute__((noreturn));
#define KVT_ASSERT(cond) ((cond) ? (void)0 : kvt_assert_failed(#cond, __FILE__, __LINE__))

#ifdef __cplusplus
}
#endif
#endif
