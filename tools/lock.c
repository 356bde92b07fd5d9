/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Locks, against two programs that write one image. The command holds a write lock on the bytes that it writes. QEMU
 * holds read locks on single bytes: one for each thing that it does with the image, from 100 on, and one for each thing
 * that it does not want others to do, from 200 on. All are locks of the open file (F_OFD_SETLK), which no close(2)
 * elsewhere in the program drops.
 */

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { QEMU_DOES = 100, QEMU_FORBIDS = 200, QEMU_BYTES = 64, QEMU_WRITES = 1 };

/* The type of a lock of somebody else that conflicts with this one; F_UNLCK if there is none. */
static short conflict(int fd, short type, int64_t offset, int64_t length)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = offset, .l_len = length };

    return fcntl(fd, F_OFD_GETLK, &lock) < 0 ? F_UNLCK : lock.l_type;
}

/* Whether QEMU has locked any of these bytes. A write lock there is another range's writer. */
static bool qemu_locked(int fd, int64_t first, int64_t count)
{
    short type = conflict(fd, F_WRLCK, first, count);
    int64_t i;

    for (i = 0; type == F_WRLCK && count > 1 && i < count; i++)
        if (conflict(fd, F_WRLCK, first + i, 1) == F_RDLCK)
            return true;
    return type == F_RDLCK;
}

static bool qemu_uses(int fd)
{
    return qemu_locked(fd, QEMU_DOES, QEMU_BYTES) || qemu_locked(fd, QEMU_FORBIDS, QEMU_BYTES);
}

static int refuse(struct target *target)
{
    /* The program that holds the lock has opened the file, although it is empty: do not remove it. */
    target->created = false;
    target->error = EBUSY;
    return fail(EXIT_REFUSED, qemu_uses(target->fd)
                                  ? "%s: is in use by QEMU, which has locked it; --no-lock writes it all the same"
                                  : "%s: is locked by another program; --no-lock writes it all the same",
                target->name);
}

int lock_target(const struct settings *settings, struct target *target, int64_t offset, int64_t length)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offset, .l_len = length };

    if (settings->no_lock || target->path == NULL || target->fd < 0 || target->locked ||
        (!target->regular && !target->device))
        return 0;
    if (fcntl(target->fd, F_OFD_SETLK, &lock) == 0) {
        target->locked = true;
        return qemu_uses(target->fd) ? refuse(target) : 0;
    }
    if (errno == EAGAIN || errno == EACCES)
        return refuse(target);
    warn("%s: cannot be locked against other programs that write it: %s", target->name, strerror(errno));
    return 0;
}

void unlock_target(struct target *target)
{
    struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

    /* close(2) would keep it for as long as a child process has the open file. */
    if (target->locked)
        fcntl(target->fd, F_OFD_SETLK, &lock);
    target->locked = false;
}

void warn_of_writers(const struct settings *settings, const struct target *source)
{
    if (settings->no_lock || source->path == NULL || (!source->regular && !source->device))
        return;
    if (qemu_locked(source->fd, QEMU_DOES + QEMU_WRITES, 1))
        warn("%s: QEMU has it open for writing: the copy may mix content of different times", source->name);
    else if (conflict(source->fd, F_RDLCK, settings->offset, settings->length) == F_WRLCK)
        warn("%s: another program has locked it to write it: the copy may mix content of different times",
             source->name);
}
