/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * --direct: the file is opened a second time, with O_DIRECT, for its content. Everything else stays with the first
 * descriptor, whose locks belong to the open file and do not go with the second one.
 */

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Less is not worth it: a page cache holds it, or reads it at once. */
#define LEAST (INT64_C(1) << 20)

/* Whether blocks of one may become blocks of the other: that is faster than anything that moves bytes. */
static bool shares(const struct target *one, const struct target *other)
{
    struct statfs fs;

    return one->regular && other->regular && one->st.st_dev == other->st.st_dev && fstatfs(one->fd, &fs) == 0 &&
           (fs.f_type == XFS_SUPER_MAGIC || fs.f_type == (long)BTRFS_SUPER_MAGIC);
}

/* Whether much of a file is in the page cache, judged by a few pages of it. */
static bool cached(const struct target *file)
{
    enum { SAMPLES = 64 };
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int there = 0, i;

    if (!file->regular)
        return false;
    for (i = 0; i < SAMPLES; i++) {
        off_t at = file->size / SAMPLES * i;
        unsigned char in_memory = 0;
        void *map = mmap(NULL, page, PROT_READ, MAP_SHARED, file->fd, at - at % (off_t)page);

        if (map == MAP_FAILED)
            return true;
        if (mincore(map, page, &in_memory) == 0)
            there += in_memory & 1;
        munmap(map, page);
    }
    return there > SAMPLES / 4;
}

static bool worth_it(const struct settings *settings, const struct target *end, const struct target *other, bool writes)
{
    if (other != NULL && shares(end, other))
        return false;
    /* The cache makes a write that need not be on the medium faster, and a read of what it has. */
    return writes ? settings->sync : (end->device || end->size >= LEAST) && !cached(end);
}

static int open_anew(struct target *end, bool writes)
{
    int flags = O_DIRECT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    struct stat st;
    int fd;

    /* To keep the rest of a block it must be read. */
    fd = open(end->path, flags | (writes ? O_RDWR : O_RDONLY));
    if (fd < 0 && writes && errno == EACCES)
        fd = open(end->path, flags | O_WRONLY);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || st.st_dev != end->st.st_dev || st.st_ino != end->st.st_ino ||
        st.st_rdev != end->st.st_rdev) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

int open_direct(const struct settings *settings, struct target *end, const struct target *other, bool writes)
{
    bool always = settings->direct == DIRECT_ALWAYS;
    int fd;

    if (settings->direct == DIRECT_NEVER || end->direct_fd > 0)
        return 0;
    /* Standard input and output are others' too: their descriptors are used as they are. */
    if ((!end->regular && !end->device) || end->path == NULL)
        return 0;
    if (!always && !worth_it(settings, end, other, writes))
        return 0;
    fd = open_anew(end, writes);
    if (fd == -ESTALE)
        return fail(EXIT_LOCAL, "%s: was replaced by another file in the meantime (ESTALE)", end->name);
    if (fd < 0 && always)
        return fail_errno(end->name, "O_DIRECT", fd);
    if (fd > 0)
        end->direct_fd = fd;
    return 0;
}

int content_fd(const struct target *end)
{
    /* 0 is taken: see standard_occupy(). */
    return end->direct_fd > 0 ? end->direct_fd : end->fd;
}

void close_direct(struct target *end)
{
    if (end->direct_fd > 0)
        close(end->direct_fd);
    end->direct_fd = 0;
}
