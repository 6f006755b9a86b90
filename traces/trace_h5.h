/* trace_h5.h - private: HDF5 as a trace uses it, for the reader and the writer.
 *
 * Nothing here prints: a public function of the reader or the writer wraps its body in
 * H5E_BEGIN_TRY ... H5E_END_TRY, and inside it kvt__h5_fail() appends what the library
 * said. A file is hostile: an object is opened by its exact name, component by
 * component, in the order of FORMAT.md 13.2, and nothing is allocated or read before
 * type, shape and storage have been checked. */
#ifndef KVT_TRACE_H5_H
#define KVT_TRACE_H5_H

#include <hdf5.h>
#include "kvt_trace.h"

/* ------------------------------------------------------------ types (FORMAT.md 2.6, 11.1) */

typedef enum kvt_h5_type {
    KVT_H5_U8, KVT_H5_U16, KVT_H5_U64, KVT_H5_I32, KVT_H5_I64,
    KVT_H5_F16, KVT_H5_BF16, KVT_H5_F32, KVT_H5_F64,
    KVT_H5_OTHER                              /* nothing a trace may hold */
} kvt_h5_type;
#define KVT_H5_BIT(t) (1u << (t))
#define KVT_H5_FLOATS (KVT_H5_BIT(KVT_H5_F16) | KVT_H5_BIT(KVT_H5_BF16) | KVT_H5_BIT(KVT_H5_F32))
#define KVT_H5_ANY    (KVT_H5_BIT(KVT_H5_OTHER) - 1u)

/* A new little-endian file type; the caller closes it with H5Tclose(). Negative when
 * the library has no memory. */
hid_t       kvt__h5_type_new(kvt_h5_type t);
/* By the properties of the type, never by H5Tequal; big-endian is KVT_H5_OTHER. */
kvt_h5_type kvt__h5_type_of(hid_t type);
kvt_h5_type kvt__h5_type_from(kvt_dtype t);
const char *kvt__h5_type_name(kvt_h5_type t); /* "u8", "bf16" ... "other" */
size_t      kvt__h5_type_bytes(kvt_h5_type t);

/* ------------------------------------------------------------ errors */

/* As kvt_fail(), and the innermost message of the HDF5 error stack in brackets. */
kvt_status kvt__h5_fail(kvt_err *err, kvt_status st, const char *fmt, ...) KVT_PRINTF(3, 4);
/* Once per process and before any file is opened: no filter plug-in is ever loaded. */
void       kvt__h5_init(void);

/* ------------------------------------------------------------ files */

typedef struct kvt_h5_file {
    hid_t    id, lapl;                        /* lapl refuses external links          */
    uint64_t n_bytes;                         /* fstat                                */
    int      fd;                              /* the library's own, borrowed          */
    int      user_block;                      /* 1: addresses do not count from byte 0 */
    char     name[256];                       /* printable, for messages              */
} kvt_h5_file;

/* Read only. EIO: missing, not a regular file, unreadable; EFORMAT: not HDF5, damaged. */
kvt_status kvt__h5_file_open(kvt_h5_file *out, const char *path, kvt_err *err);
void       kvt__h5_file_close(kvt_h5_file *f);

/* A place in the file: an open group, or a dataset whose attributes are read. */
typedef struct kvt_h5_at {
    const kvt_h5_file *file;
    hid_t              id;                    /* H5I_INVALID_HID: not there           */
    char               path[160];             /* printable; "" for the root           */
} kvt_h5_at;

/* Open the group at->path/name; found = NULL means it must be there. */
kvt_status kvt__h5_group_open(kvt_h5_at *out, const kvt_h5_at *at, const char *name, int *found,
                              kvt_err *err);
void       kvt__h5_group_close(kvt_h5_at *at);

/* Call each(user, name) for the name of every link of a group, hard or not; nothing is
 * opened. Stops at the first status that is not KVT_OK. EFORMAT: another kind of link, more
 * than `max` links, a damaged group. */
kvt_status kvt__h5_group_each(const kvt_h5_at *group, uint32_t max,
                              kvt_status (*each)(void *user, const char *name, kvt_err *err),
                              void *user, kvt_err *err);

/* ------------------------------------------------------------ datasets */

#define KVT_H5_MAX_RANK 32
typedef struct kvt_h5_dataset {
    kvt_h5_at   at;
    kvt_h5_type type;
    size_t      elem_bytes, string_bytes;     /* string_bytes != 0: fixed-length text */
    uint32_t    rank;
    uint64_t    dims[KVT_H5_MAX_RANK];
    uint64_t    n_elem, n_bytes;              /* logical                              */
    int         direct;                       /* 1: these bytes lie in the file as they are, */
    uint64_t    first_byte;                   /* from here on, inside its size        */
    int         space_padded;                 /* of a string                          */
} kvt_h5_dataset;

typedef struct kvt_h5_want {                  /* what section 3 says of a dataset     */
    uint32_t types;                           /* mask of KVT_H5_BIT()                 */
    size_t   string_bytes;                    /* != 0: text of this width instead     */
    uint32_t rank;                            /* 0: 1 to 32 axes, any extents         */
    uint64_t dims[4];                         /* KVT_H5_UP_TO(n): at most n           */
    int      unfinished;                      /* 1: its data may be missing; never read */
} kvt_h5_want;
#define KVT_H5_ATMOST    (UINT64_C(1) << 63)
#define KVT_H5_UP_TO(n)  (KVT_H5_ATMOST | (uint64_t)(n))

/* Steps 3 to 7 of FORMAT.md 13.2. Not there: with found, *found = 0 and KVT_OK. */
kvt_status kvt__h5_dataset_open(kvt_h5_dataset *out, const kvt_h5_at *at, const char *name,
                                const kvt_h5_want *want, int *found, kvt_err *err);
void       kvt__h5_dataset_close(kvt_h5_dataset *d);
/* All n_bytes of it, as typed in the file. */
kvt_status kvt__h5_dataset_read(const kvt_h5_dataset *d, void *out, kvt_err *err);
/* The block start[], count[] of rank axes, C order, as typed in the file. */
kvt_status kvt__h5_dataset_read_block(const kvt_h5_dataset *d, const uint64_t *start,
                                      const uint64_t *count, void *out, kvt_err *err);

/* ------------------------------------------------------------ bytes without the library (trace_direct.c) */

/* Bytes from .. from + n - 1 of a direct dataset. EFORMAT: the file became shorter; EIO. */
kvt_status kvt__h5_direct_read(const kvt_h5_dataset *d, uint64_t from, size_t n, void *out, kvt_err *err);
/* The line for a read that failed with errno `why` (0 = end of file, or a mapped page that
 * is not there). */
kvt_status kvt__h5_direct_failed(const kvt_h5_dataset *d, int why, kvt_err *err);

typedef struct kvt_h5_map {                   /* byte i of the dataset is base[skip + i] */
    unsigned char *base;                      /* NULL: not mapped                     */
    size_t         bytes, skip;
    size_t         asked;                     /* MiB of it that was last asked for    */
} kvt_h5_map;

/* Maps a large direct dataset where the program guards mapped pages; base stays NULL
 * otherwise. Read what is mapped inside kvt_guard_touch() only. */
void kvt__h5_map_open(kvt_h5_map *m, const kvt_h5_dataset *d);
void kvt__h5_map_close(kvt_h5_map *m);
/* Bytes from .. from + n - 1, as far as there are such, will be read next. */
void kvt__h5_map_expect(kvt_h5_map *m, uint64_t from, size_t n);
/* The disk may start on what was written to fd. Only a hint: fsync() decides. */
void kvt__direct_send(int fd);

/* "3x640x64" into out; at most size bytes. Returns out. */
char      *kvt__h5_shape(char *out, size_t size, uint32_t rank, const uint64_t *dims);

/* ------------------------------------------------------------ attributes (FORMAT.md 2.4, 2.5) */

/* found = NULL: the attribute is required. Otherwise *found says whether it is there,
 * and *out is untouched when it is not. Exactly n elements (a scalar counts as one). */
kvt_status kvt__h5_attr_int(const kvt_h5_at *at, const char *name, uint32_t n, int64_t *out,
                            int *found, kvt_err *err);
/* Finite, or refused. */
kvt_status kvt__h5_attr_real(const kvt_h5_at *at, const char *name, double *out, int *found,
                             kvt_err *err);
/* out[KVT_MAX_STRING + 1], terminated; a required string is not empty. */
kvt_status kvt__h5_attr_text(const kvt_h5_at *at, const char *name, char *out, int *found,
                             kvt_err *err);

#endif
