/* trace_direct.c - bytes of a contiguous dataset without libhdf5: mapped, or by pread().
 *
 * Storage was checked against the size of the file when the dataset was opened. A file
 * that becomes shorter afterwards is an error of the read: pread() says so, and a mapping
 * is only made and read where the program guards it (trace_guard.h). */
#define _GNU_SOURCE                          /* madvise, mincore, sync_file_range */
#include "trace_h5.h"

#include "trace_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECT_AHEAD     ((size_t)1 << 20)       /* bytes that are asked for at a time, at least */
#define DIRECT_MAP_LEAST ((uint64_t)256 << 10)   /* below it a mapping costs more than it saves */

kvt_status kvt__h5_direct_failed(const kvt_h5_dataset *d, int why, kvt_err *err)
{
    struct stat sb;

    if (fstat(d->at.file->fd, &sb) == 0 && (uint64_t)sb.st_size < d->first_byte + d->n_bytes)
        return kvt_fail(err, KVT_EFORMAT, "%s: %s: its data lie past the end of the file: it became shorter while it was read",
                        d->at.file->name, d->at.path);
    return kvt_fail(err, KVT_EIO, "%s: %s: its data cannot be read: %s", d->at.file->name, d->at.path, strerror(why ? why : EIO));
}

kvt_status kvt__h5_direct_read(const kvt_h5_dataset *d, uint64_t from, size_t n, void *out, kvt_err *err)
{
    size_t done = 0;

    KVT_ASSERT(d->direct && from <= d->n_bytes && n <= d->n_bytes - from);
    while (done < n) {
        const ssize_t now = pread(d->at.file->fd, (char *)out + done, n - done, (off_t)(d->first_byte + from + done));
        if (now < 0 && errno == EINTR)
            continue;
        if (now <= 0)
            return kvt__h5_direct_failed(d, now < 0 ? errno : 0, err);
        done += (size_t)now;
    }
    return KVT_OK;
}

void kvt__h5_map_open(kvt_h5_map *m, const kvt_h5_dataset *d)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skip = d->first_byte % page;
    void *base;

    *m = (kvt_h5_map){ .base = NULL };
    if (!d->direct || d->n_bytes < DIRECT_MAP_LEAST || !kvt_guard_maps_are_on())
        return;
    base = mmap(NULL, (size_t)(skip + d->n_bytes), PROT_READ, MAP_SHARED, d->at.file->fd, (off_t)(d->first_byte - skip));
    if (base == MAP_FAILED)                  /* no such file system, no address space: pread() does it */
        return;
    (void)madvise(base, (size_t)(skip + d->n_bytes), MADV_SEQUENTIAL);
    *m = (kvt_h5_map){ .base = base, .bytes = (size_t)(skip + d->n_bytes), .skip = (size_t)skip, .asked = SIZE_MAX };
}

void kvt__h5_map_close(kvt_h5_map *m)
{
    if (m->base)
        munmap(m->base, m->bytes);
    *m = (kvt_h5_map){ .base = NULL };
}

/* Asking for pages that are there already costs a fifth of reading them: once per MiB, and
 * only when the first one is not there. */
void kvt__h5_map_expect(kvt_h5_map *m, uint64_t from, size_t n)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), first = ((size_t)from + m->skip) / page * page;
    unsigned char there = 0;

    if (first >= m->bytes || first / DIRECT_AHEAD == m->asked)
        return;
    m->asked = first / DIRECT_AHEAD;
    n = n > DIRECT_AHEAD ? n : DIRECT_AHEAD;
    n = m->bytes - first < n ? m->bytes - first : n;
    if (mincore(m->base + first, n < page ? n : page, &there) == 0 && !(there & 1))
        (void)madvise(m->base + first, n, MADV_WILLNEED);
}

void kvt__direct_send(int fd)
{
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd;
#endif
}
