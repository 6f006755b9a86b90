/* trace_part.h - private: the file NAME.part that becomes NAME when it is complete.
 *
 * libhdf5 1.10 crashes in H5Fclose or at exit when it cannot write its metadata (a full
 * disk). It is therefore given its own file driver, which reports every write as done,
 * remembers the first error and drops what comes after it. So: ask kvt__part_check()
 * after every call of HDF5 that may write.
 *
 * Order: create; HDF5 on p->h5; close_h5; publish or discard. */
#ifndef KVT_TRACE_PART_H
#define KVT_TRACE_PART_H

#include <hdf5.h>
#include <sys/types.h>
#include "kvt_status.h"

typedef struct kvt_part {
    char   *path, *part;                /* final name, name while it is written      */
    char    shown[256];                 /* path, printable                           */
    int     fd, error;                  /* error: errno of the first failed write    */
    dev_t   dev;                        /* of the file that was created              */
    ino_t   ino;
    haddr_t eoa, eof;                   /* what HDF5 has allocated; what was written */
    size_t  unsent;                     /* bytes that the disk has not been hinted at */
    hid_t   driver, h5;
} kvt_part;

/* An old NAME.part is replaced. Refuses a NAME that is there and is not a file. */
kvt_status kvt__part_create(kvt_part *p, const char *path, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__part_check(const kvt_part *p, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__part_close_h5(kvt_part *p, kvt_err *err) KVT_NODISCARD;
/* fsync, rename, fsync the directory. */
kvt_status kvt__part_publish(kvt_part *p, kvt_err *err) KVT_NODISCARD;
/* Closes and frees what is still there; a zeroed part is not allowed. */
void       kvt__part_discard(kvt_part *p, int keep_file);

#endif
