/* trace_part.c - creation and publication of a trace file, and the HDF5 file driver. */
#include "trace_part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

#include "kvt_text.h"
#include "trace_h5.h"

#define PART_SEND ((size_t)16 << 20)    /* bytes between two hints to the disk */

/* ---------------------------------------------------------------- HDF5 file driver */

typedef struct part_driver {
    H5FD_t    pub;                      /* HDF5's own part comes first */
    kvt_part *part;
} part_driver;

static H5FD_t *part_driver_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr)
{
    kvt_part *const *const info = H5Pget_driver_info(fapl);
    part_driver *d;

    (void)name, (void)flags, (void)maxaddr;
    if (!info || !(d = calloc(1, sizeof *d))) return NULL;
    d->part = *info;
    return &d->pub;
}

static kvt_part *part_of(const H5FD_t *file)
{
    return ((const part_driver *)(const void *)file)->part;
}

static herr_t part_driver_close(H5FD_t *file)
{
    free(file);                         /* the descriptor is the writer's */
    return 0;
}

static herr_t part_driver_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;                         /* those of HDF5's own POSIX driver */
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE
             | H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t part_driver_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return part_of(file)->eoa;
}

static herr_t part_driver_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t addr)
{
    (void)type;
    part_of(file)->eoa = addr;
    return 0;
}

static haddr_t part_driver_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return part_of(file)->eof;
}

static herr_t part_driver_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size, void *buffer)
{
    kvt_part *const p = part_of(file);
    uint8_t *to = buffer;

    (void)type, (void)dxpl;
    while (size > 0) {
        const ssize_t n = pread(p->fd, to, size, (off_t)addr);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            if (p->error == 0) p->error = errno;
            return -1;
        }
        if (n == 0) {                   /* past the end: zeros, as in HDF5's own driver */
            memset(to, 0, size);
            break;
        }
        to += n;
        addr += (haddr_t)n;
        size -= (size_t)n;
    }
    return 0;
}

/* The disk starts on what is written while more is hashed and written, so that the fsync at
 * the end finds little to do. */
static void part_start_writeback(kvt_part *p, size_t n)
{
    p->unsent += n;
    if (p->unsent >= PART_SEND) {
        kvt__direct_send(p->fd);
        p->unsent = 0;
    }
}

static herr_t part_driver_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size,
                                const void *buffer)
{
    kvt_part *const p = part_of(file);
    const uint8_t *from = buffer;

    (void)type, (void)dxpl;
    if (addr + size > p->eof) p->eof = addr + size;
    while (size > 0 && p->error == 0) {
        const ssize_t n = pwrite(p->fd, from, size, (off_t)addr);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            p->error = n < 0 ? errno : ENOSPC;
            break;
        }
        part_start_writeback(p, (size_t)n);
        from += n;
        addr += (haddr_t)n;
        size -= (size_t)n;
    }
    return 0;                           /* also when it failed: see the header */
}

static herr_t part_driver_truncate(H5FD_t *file, hid_t dxpl, hbool_t closing)
{
    kvt_part *const p = part_of(file);

    (void)dxpl, (void)closing;
    if (p->eof == p->eoa) return 0;
    if (p->error == 0 && ftruncate(p->fd, (off_t)p->eoa) != 0) p->error = errno;
    p->eof = p->eoa;
    return 0;
}

static hid_t part_driver_register(void)
{
    const H5FD_class_t driver = {
#ifdef H5FD_CLASS_VERSION
        .version = H5FD_CLASS_VERSION,
        .value = (H5FD_class_value_t)511,           /* last number open to private drivers */
#endif
        .name = "kvtrace_part",
        .maxaddr = (haddr_t)INT64_MAX,
        .fc_degree = H5F_CLOSE_STRONG,
        .fapl_size = sizeof(kvt_part *),
        .open = part_driver_open,
        .close = part_driver_close,
        .query = part_driver_query,
        .get_eoa = part_driver_get_eoa,
        .set_eoa = part_driver_set_eoa,
        .get_eof = part_driver_get_eof,
        .read = part_driver_read,
        .write = part_driver_write,
        .truncate = part_driver_truncate,
        .fl_map = H5FD_FLMAP_DICHOTOMY,
    };
    return H5FDregister(&driver);
}

/* ---------------------------------------------------------------- creation */

static kvt_status part_fail(const kvt_part *p, int error, const char *what, kvt_err *err)
{
    char reason[128];
    if (strerror_r(error, reason, sizeof reason) != 0) snprintf(reason, sizeof reason, "error %d", error);
    return kvt_fail(err, KVT_EIO, "%s: %s: %s", p->shown, what, reason);
}

static kvt_status part_create_h5(kvt_part *p, kvt_err *err)
{
    const hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    kvt_status st = KVT_OK;

    p->driver = part_driver_register();
    /* Bounds: a file killed after a flush opens (FORMAT.md 14.2). No sieve buffer: it would
     * be 64 KiB for every open dataset, and blocks of rows are written whole. */
    if (fapl < 0 || p->driver < 0 || H5Pset_driver(fapl, p->driver, &p) < 0
        || H5Pset_libver_bounds(fapl, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110) < 0
        || H5Pset_alignment(fapl, 65536, 4096) < 0 || H5Pset_sieve_buf_size(fapl, 0) < 0
        || (p->h5 = H5Fcreate(p->part, H5F_ACC_TRUNC, H5P_DEFAULT, fapl)) < 0)
        st = kvt__h5_fail(err, KVT_EIO, "%s: HDF5 cannot create the file", p->shown);
    if (fapl >= 0) H5Pclose(fapl);
    return st;
}

static kvt_status part_create_file(kvt_part *p, kvt_err *err)
{
    struct stat s;

    if (lstat(p->path, &s) == 0 && !S_ISREG(s.st_mode) && !S_ISLNK(s.st_mode))
        return kvt_fail(err, KVT_EIO, "%s: is there already and is not a file; choose another name", p->shown);
    if (unlink(p->part) != 0 && errno != ENOENT)
        return part_fail(p, errno, "cannot remove the old .part file beside it", err);
    /* O_EXCL: never through a symbolic link that somebody else put there. */
    p->fd = open(p->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (p->fd < 0) return part_fail(p, errno, "cannot create its .part file", err);
    if (fstat(p->fd, &s) != 0) return part_fail(p, errno, "cannot examine its .part file", err);
    p->dev = s.st_dev;
    p->ino = s.st_ino;
    return part_create_h5(p, err);
}

kvt_status kvt__part_create(kvt_part *p, const char *path, kvt_err *err)
{
    const size_t n = strlen(path);
    kvt_status st;

    *p = (kvt_part){ .fd = -1, .driver = H5I_INVALID_HID, .h5 = H5I_INVALID_HID };
    kvt_printable_str(p->shown, sizeof p->shown, path);
    if (n == 0) return kvt_fail(err, KVT_EARG, "the name of the trace to write is empty");
    p->path = malloc(n + 1);
    p->part = malloc(n + 6);
    if (p->path && p->part) {
        memcpy(p->path, path, n + 1);
        snprintf(p->part, n + 6, "%s.part", path);
        st = part_create_file(p, err);
    } else {
        st = kvt_fail(err, KVT_ENOMEM, "%s: no memory for its name", p->shown);
    }
    if (st < 0) kvt__part_discard(p, 0);
    return st;
}

kvt_status kvt__part_check(const kvt_part *p, kvt_err *err)
{
    return p->error == 0 ? KVT_OK : part_fail(p, p->error, "writing its .part file", err);
}

kvt_status kvt__part_close_h5(kvt_part *p, kvt_err *err)
{
    const hid_t h5 = p->h5;
    p->h5 = H5I_INVALID_HID;
    if (h5 >= 0 && H5Fclose(h5) < 0)
        return kvt__h5_fail(err, KVT_EIO, "%s: HDF5 cannot close its .part file", p->shown);
    return kvt__part_check(p, err);
}

/* ---------------------------------------------------------------- publication */

static kvt_status part_sync_folder(const kvt_part *p, kvt_err *err)
{
    const char *const slash = strrchr(p->path, '/');
    const size_t n = slash ? (size_t)(slash - p->path) : 0;
    char *folder;
    int fd, error = 0;

    if (!(folder = malloc(n + 2))) return kvt_fail(err, KVT_ENOMEM, "%s: no memory for its folder's name", p->shown);
    memcpy(folder, p->path, n);
    memcpy(folder + n, n > 0 ? "" : slash ? "/" : ".", n > 0 ? 1 : 2);
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    /* A folder that may be written but not read, or a file system that cannot sync
     * folders, is not a failure. */
    if (fd < 0) return errno == EACCES ? KVT_OK : part_fail(p, errno, "cannot open its folder", err);
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EBADF) error = errno;
    close(fd);
    return error ? part_fail(p, error, "cannot sync its folder", err) : KVT_OK;
}

kvt_status kvt__part_publish(kvt_part *p, kvt_err *err)
{
    struct stat s;
    kvt_status st;
    int fd = p->fd;

    KVT_ASSERT(p->h5 < 0);
    if (fsync(fd) != 0) return part_fail(p, errno, "cannot sync its .part file", err);
    p->fd = -1;
    if (close(fd) != 0) return part_fail(p, errno, "cannot close its .part file", err);
    if (lstat(p->part, &s) != 0) return part_fail(p, errno, "its .part file is gone", err);
    if (s.st_dev != p->dev || s.st_ino != p->ino)
        return kvt_fail(err, KVT_EIO, "%s: its .part file was replaced: does another program write the same trace?",
                        p->shown);
    if (rename(p->part, p->path) != 0) return part_fail(p, errno, "cannot rename its .part file", err);
    st = part_sync_folder(p, err);
    if (st < 0) unlink(p->path);
    return st;
}

void kvt__part_discard(kvt_part *p, int keep_file)
{
    struct stat s;

    if (p->h5 >= 0) H5Fclose(p->h5);
    if (p->driver >= 0) H5FDunregister(p->driver);
    if (p->fd >= 0) close(p->fd);
    if (!keep_file && p->part && p->ino != 0 && lstat(p->part, &s) == 0 && s.st_dev == p->dev && s.st_ino == p->ino)
        unlink(p->part);                /* only the one that was created here */
    free(p->part);
    free(p->path);
    *p = (kvt_part){ .fd = -1, .driver = H5I_INVALID_HID, .h5 = H5I_INVALID_HID };
}
