/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Files and devices as the ends of a transfer. */

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Finds out the type, size and device of a descriptor. Returns 0 or a negative errno. */
static int examine(struct target *end)
{
    if (fstat(end->fd, &end->st) < 0)
        return -errno;
    end->regular = S_ISREG(end->st.st_mode);
    end->device = S_ISBLK(end->st.st_mode);
    end->size = end->regular ? end->st.st_size : 0;
    end->dev = end->device ? end->st.st_rdev : end->st.st_dev;
    end->ino = end->device ? 0 : end->st.st_ino;
    return standard_examine(end);
}

/* open(2) of a socket fails with ENXIO, as for a device that was removed. */
static int fail_open(const char *path, int error)
{
    struct stat st;

    if (error == ENXIO && stat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        return fail(EXIT_LOCAL, "%s: is a socket, and cannot be opened as a file (ENXIO)", path);
    return fail_errno(path, NULL, error);
}

int open_source(const struct settings *settings, const char *path, struct target *source)
{
    int r;

    *source = (struct target){ .name = path, .path = path };
    if (strcmp(path, "-") == 0) {
        source->name = "standard input";
        source->path = NULL;
        source->fd = STDIN_FILENO;
    } else {
        source->fd = open_existing(settings, path, O_RDONLY);
        if (source->fd < 0)
            return fail_open(path, -source->fd);
    }
    r = examine(source);
    if (r == 0 && S_ISDIR(source->st.st_mode))
        r = -EISDIR;
    if (r < 0)
        return fail_errno(source->name, NULL, r);
    /* As read(2) finds it there. */
    if (source->size > 0 && source->position > source->size)
        source->position = source->size;
    return 0;
}

/* Root can open files of /proc and /sys that cannot be written. The errno of write(2) would not explain that. */
static bool cannot_be_written(const struct target *target)
{
    struct statfs fs;

    return target->regular && (target->st.st_mode & 0222) == 0 && fstatfs(target->fd, &fs) == 0 &&
           (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC);
}

/*
 * Lets old content be read, where that is allowed: a file system that is not one of the kernel's own may claim to have
 * punched a hole, and the library relies on that only if it can look. The name may lead elsewhere by now.
 */
static void make_readable(struct target *target)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", target->fd);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return;
    dup3(fd, target->fd, O_CLOEXEC);
    close(fd);
}

int open_target(const struct settings *settings, const char *path, const struct opening *opening,
                struct target *target)
{
    int mode = opening->readable ? O_RDWR : O_WRONLY;
    int r;

    *target = (struct target){ .name = path, .path = path, .fd = -1 };
    if (strcmp(path, "-") == 0) {
        target->name = "standard output";
        target->path = NULL;
        target->fd = STDOUT_FILENO;
    } else {
        target->fd = open_existing(settings, path, mode);
        if (target->fd == -ENOENT) {
            if (opening->existing && !settings->device)
                return 0;
            target->fd = open_new(settings, path, mode, opening->mode, &target->error, &r);
            if (target->fd < 0)
                return r;
            target->created = true;
        }
        if (target->fd < 0) {
            target->error = -target->fd;
            return fail_open(path, target->error);
        }
    }
    target->error = -examine(target);
    if (target->error != 0)
        return fail_errno(target->name, NULL, target->error);
    if (settings->device && !target->device) {
        target->error = ENOTBLK;
        return fail(EXIT_REFUSED, "%s: is not a block device", target->name);
    }
    if (cannot_be_written(target)) {
        target->error = EACCES;
        return fail(EXIT_LOCAL, "%s: is a file of the kernel that cannot be written (EACCES)", target->name);
    }
    if (mode == O_WRONLY && target->path != NULL && target->regular && target->size > 0 && !settings->dry_run)
        make_readable(target);
    if (!settings->force && isatty(target->fd)) {
        target->error = EINVAL;
        return usage(settings, "%s is a terminal: --force writes to it all the same", target->name);
    }
    return 0;
}

/* The name of a new file is durable once its directory is. */
static int sync_directory(const char *path)
{
    char *copy = strdup(path);
    int fd, r = 0;

    if (copy == NULL)
        return -ENOMEM;
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* A directory that may not be read cannot be synced either. A file system that cannot sync one is not a
     * failure. */
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
    close_direct(target);
    unlock_target(target);
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
        remove_same(target->path, st.st_dev, st.st_ino);
    close_direct(target);
    unlock_target(target);
    close(target->fd);
    target->fd = -1;
}

bool same_file(const struct target *one, const struct target *other)
{
    return one->regular == other->regular && one->device == other->device && (one->regular || one->device) &&
           one->dev == other->dev && one->ino == other->ino;
}
