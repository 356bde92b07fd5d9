/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Standard input, output and error: closed ones, and file positions that are shared with other programs. */

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int standard_occupy(void)
{
    int fd;

    for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
            continue;
        /* The lowest free number is this one. O_PATH can be neither read nor written. */
        if (open("/", O_PATH | O_CLOEXEC) != fd)
            return fail_errno("standard descriptors", "open", errno);
    }
    return 0;
}

int standard_examine(struct target *end)
{
    off_t position;
    int flags;

    if (end->path != NULL)
        return 0;
    flags = fcntl(end->fd, F_GETFL);
    if (flags < 0)
        return -errno;
    if ((flags & O_PATH) != 0)
        return -EBADF;
    if (!end->regular && !end->device)
        return 0;
    end->append = end->fd == STDOUT_FILENO && end->regular && (flags & O_APPEND) != 0;
    position = lseek(end->fd, 0, SEEK_CUR);
    if (position < 0)
        return -errno;
    end->position = end->append ? 0 : position;
    return 0;
}

void standard_advance(const struct target *end, int64_t bytes)
{
    if (end->path != NULL || (!end->regular && !end->device) || end->fd < 0)
        return;
    if (end->append)
        lseek(end->fd, 0, SEEK_END);
    else if (bytes > 0)
        lseek(end->fd, end->position + bytes, SEEK_SET);
}
