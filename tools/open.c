/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* open(2) with the care that devices, FIFOs and /dev need. */

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_fifo(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISFIFO(st.st_mode);
}

static int64_t left_until(const struct settings *settings, int64_t end)
{
    return settings->timeout_ms == 0 ? INT32_MAX : end - now_ms();
}

/* Waits until a writer has come, which open(2) does without a time limit. */
static int wait_for_writer(const struct settings *settings, int fd, int64_t end)
{
    int r;

    do {
        int64_t left = left_until(settings, end);

        if (left <= 0)
            return -ETIMEDOUT;
        r = wait_for_fd(fd, POLLIN, left);
    } while (r == 0);
    return r < 0 ? r : 0;
}

static int open_fifo(const struct settings *settings, const char *path, int flags)
{
    enum { STEP_MS = 10 };
    int64_t end = now_ms() + settings->timeout_ms;
    int fd, r = 0;

    /* Without a reader, opening to write fails with ENXIO, and there is nothing to poll. */
    while ((fd = open(path, flags | O_NONBLOCK)) < 0 && (errno == ENXIO || errno == EINTR) && is_fifo(path)) {
        if (left_until(settings, end) <= 0)
            return -ETIMEDOUT;
        sleep_ms(STEP_MS);
    }
    if (fd < 0)
        return -errno;
    if ((flags & O_ACCMODE) == O_RDONLY)
        r = wait_for_writer(settings, fd, end);
    if (r == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0)
        r = -errno;
    if (r < 0)
        close(fd);
    return r < 0 ? r : fd;
}

/* Fails as an exclusive open does where a device is mounted. Other programs with --shared do the same for a moment. */
static int probe_device(int fd)
{
    enum { ATTEMPTS = 50, STEP_MS = 20 };
    char path[64];
    int probe, i;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    for (i = 0; (probe = open(path, O_RDONLY | O_EXCL | O_CLOEXEC)) < 0 && errno == EBUSY && i < ATTEMPTS; i++)
        sleep_ms(STEP_MS);
    if (probe < 0)
        return -errno;
    close(probe);
    return 0;
}

int open_existing(const struct settings *settings, const char *path, int flags)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    struct stat st;
    int fd, r;

    flags |= O_CLOEXEC | O_NOCTTY;
    /* Whoever waits at the other end of a FIFO must not see that it was opened. */
    if (settings->dry_run && is_fifo(path)) {
        fd = access(path, writes ? W_OK : R_OK) < 0 ? -1 : open(path, O_PATH | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
    }
    /* Only a hint. Were it wrong, a FIFO would be waited for without a limit. */
    if (is_fifo(path))
        return open_fifo(settings, path, flags);
    /*
     * The kernel refuses to open a block device exclusively that is mounted, or part of something else. For all other
     * files O_EXCL without O_CREAT means nothing, so there is no need to look first, and nothing to change in between.
     */
    fd = open(path, writes && !settings->shared ? flags | O_EXCL : flags);
    if (fd < 0)
        return -errno;
    if (writes && settings->shared && fstat(fd, &st) == 0 && S_ISBLK(st.st_mode)) {
        r = probe_device(fd);
        if (r < 0) {
            close(fd);
            return r;
        }
    }
    return fd;
}

static bool below(const char *path, const char *directory)
{
    size_t length = strlen(directory);

    return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/* Whether a new file at `path` would be a regular file among the devices, as a mistyped name of a device makes one. */
static bool among_devices(const char *path)
{
    char *copy = strdup(path);
    char *parent = copy != NULL ? realpath(dirname(copy), NULL) : NULL;
    struct stat root, devices, st;
    bool answer = false;

    if (parent != NULL && stat("/", &root) == 0 && stat("/dev", &devices) == 0 && stat(parent, &st) == 0 &&
        st.st_dev == devices.st_dev)
        answer = root.st_dev != devices.st_dev || below(parent, "/dev");
    /* Where it has no file system of its own. */
    if (parent != NULL && below(parent, "/dev/shm"))
        answer = false;
    free(parent);
    free(copy);
    return answer;
}

int check_new(const struct settings *settings, const char *path)
{
    char link[256];
    ssize_t length;

    if (settings->device || among_devices(path))
        return fail(EXIT_REFUSED, "%s: no such device, and none can be made", path);
    length = readlink(path, link, sizeof(link) - 1);
    if (length < 0)
        return 0;
    link[length] = '\0';
    return fail(EXIT_LOCAL, "%s: is a symbolic link to '%s', which does not exist", path, link);
}

void remove_same(const char *path, dev_t dev, ino_t ino)
{
    struct stat st;

    if (lstat(path, &st) == 0 && st.st_dev == dev && st.st_ino == ino)
        unlink(path);
}

int open_new(const struct settings *settings, const char *path, int flags, mode_t mode, int *error, int *code)
{
    struct stat st;
    int fd;

    *error = ENOENT;
    *code = check_new(settings, path);
    if (*code != 0)
        return -1;
    fd = open(path, flags | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, mode);
    if (fd >= 0) {
        /* The umask applies only to a mode that the user did not request. */
        if (settings->mode < 0 || fchmod(fd, mode) == 0)
            return fd;
        *error = errno;
        *code = fail_errno(path, "fchmod", *error);
        if (fstat(fd, &st) == 0)
            remove_same(path, st.st_dev, st.st_ino);
        close(fd);
        return -1;
    }
    *error = errno;
    *code = fail_errno(path, NULL, *error);
    return -1;
}
