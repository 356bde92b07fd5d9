/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#define _GNU_SOURCE
#include "query.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* Whether a hole of the map is one: the map of a file system with a server may lack what is only in the cache. */
static bool believed(int fd)
{
    struct statfs found;

    if (fstatfs(fd, &found) != 0)
        return false;
    switch (found.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
        return true;
    default:
        return false;
    }
}

int query_in_data(int fd, bool *in_data, int64_t *length)
{
    struct stat stat;
    off_t position, data, hole;
    int error = 0;
    bool found = false;
    int64_t left = 0;

    if (fstat(fd, &stat) != 0)
        return -errno;
    if (S_ISDIR(stat.st_mode))
        return -EISDIR;
    if (!S_ISREG(stat.st_mode))
        return -ESPIPE;
    position = lseek(fd, 0, SEEK_CUR);
    if (position < 0)
        return -errno;
    if (position < stat.st_size) {
        data = lseek(fd, position, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            data = stat.st_size;
        if (data < 0) {
            error = -errno;
        } else if (data > position) {
            found = !believed(fd);
            left = data - position;
        } else {
            hole = lseek(fd, position, SEEK_HOLE);
            if (hole < 0)
                error = -errno;
            found = true;
            left = hole - position;
        }
        if (lseek(fd, position, SEEK_SET) < 0)
            return -errno;
        if (error != 0)
            return error;
    }
    *in_data = found;
    *length = left;
    return 0;
}
