/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Files and devices as the ends of a transfer. */

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a descriptor is. Returns 0 or a negative errno. */
static int examine(struct target *end)
{
    struct stat st;

    if (fstat(end->fd, &st) < 0)
        return -errno;
    end->regular = S_ISREG(st.st_mode);
    end->device = S_ISBLK(st.st_mode);
    end->dev = end->device ? st.st_rdev : st.st_dev;
    end->ino = end->device ? 0 : st.st_ino;
    return 0;
}

int open_source(const char *path, struct target *source)
{
    int r;

    *source = (struct target){ .name = path, .path = path };
    if (strcmp(path, "-") == 0) {
        source->name = "standard input";
        source->path = NULL;
        source->fd = STDIN_FILENO;
    } else {
        source->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (source->fd < 0)
            return fail_errno(path, NULL, errno);
    }
    r = examine(source);
    return r < 0 ? fail_errno(source->name, NULL, r) : 0;
}

/*
 * A device is opened exclusively: the kernel then refuses one that is mounted, or part of something else.
 * Without O_CREAT this flag means nothing to other files.
 */
static int open_existing(const char *path, int mode)
{
    struct stat st;
    int exclusive = stat(path, &st) == 0 && S_ISBLK(st.st_mode) ? O_EXCL : 0;

    return open(path, mode | O_CLOEXEC | O_NOCTTY | exclusive);
}

int open_target(const char *path, bool existing, bool readable, struct target *target)
{
    int mode = readable ? O_RDWR : O_WRONLY;

    *target = (struct target){ .name = path, .path = path, .fd = -1 };
    if (strcmp(path, "-") == 0) {
        target->name = "standard output";
        target->path = NULL;
        target->fd = STDOUT_FILENO;
    } else {
        target->fd = open_existing(path, mode);
        if (target->fd < 0 && errno == ENOENT) {
            if (existing)
                return 0;
            target->fd = open(path, mode | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
            target->created = target->fd >= 0;
        }
        if (target->fd < 0) {
            target->error = errno;
            return fail_errno(path, NULL, target->error);
        }
    }
    target->error = -examine(target);
    return target->error != 0 ? fail_errno(target->name, NULL, target->error) : 0;
}

/* The name of a new file is durable once its directory is. */
static int sync_directory(const char *path)
{
    char *copy = strdup(path);
    int fd, r = 0;

    if (copy == NULL)
        return -ENOMEM;
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* One that may not be read cannot be synced either; a file system that has no way to is no failure. */
    if (fd < 0)
        r = errno == EACCES ? 0 : -errno;
    else if (fsync(fd) < 0 && errno != EINVAL)
        r = -errno;
    if (fd >= 0)
        close(fd);
    free(copy);
    return r;
}

int close_target(struct target *target, bool sync)
{
    int fd = target->fd, r = 0;

    if (fd < 0)
        return 0;
    target->fd = -1;
    if (close(fd) < 0)
        return fail_errno(target->name, "close", errno);
    if (sync && target->created)
        r = sync_directory(target->path);
    return r < 0 ? fail_errno(target->name, "fsync of its directory", r) : 0;
}

void abandon_target(struct target *target)
{
    struct stat st;

    if (target->fd < 0)
        return;
    if (target->created && fstat(target->fd, &st) == 0 && st.st_size == 0)
        unlink(target->path);
    close(target->fd);
    target->fd = -1;
}

bool same_file(const struct target *one, const struct target *other)
{
    return one->regular == other->regular && one->device == other->device && (one->regular || one->device) &&
           one->dev == other->dev && one->ino == other->ino;
}

struct amount {
    int64_t total;
    int64_t data;
};

static int add(void *opaque, const sparsestream_section *section)
{
    struct amount *amount = opaque;

    amount->total += section->length;
    if (section->kind == SPARSESTREAM_DATA)
        amount->data += section->length;
    return 0;
}

void measure(int fd, const struct settings *settings, int64_t *total, int64_t *work)
{
    struct amount amount = { 0 };

    *total = *work = -1;
    if (sparsestream_map(fd, settings->offset, settings->length, add, &amount) < 0)
        return;
    *total = amount.total;
    /* Where the map is not used, or holes are written, all of it moves. */
    *work = settings->ignore_map || settings->sparse == SPARSESTREAM_SPARSE_NEVER ? amount.total : amount.data;
}

void fill_source_options(sparsestream_source_options *options, const struct settings *settings)
{
    *options = (sparsestream_source_options){
        .size = sizeof(*options),
        .flags = settings->ignore_map ? SPARSESTREAM_IGNORE_MAP : 0,
        .offset = settings->offset,
        .length = settings->length,
    };
}

void fill_sink_options(sparsestream_sink_options *options, const struct settings *settings, int64_t offset,
                       bool truncate)
{
    *options = (sparsestream_sink_options){
        .size = sizeof(*options),
        .flags = (settings->sync ? SPARSESTREAM_SYNC : 0) | (truncate ? SPARSESTREAM_TRUNCATE : 0) |
                 (settings->known_zero ? SPARSESTREAM_KNOWN_ZERO : 0),
        .offset = offset,
    };
}
