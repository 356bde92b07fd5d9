/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* See volume-store.h. */

#define _GNU_SOURCE
#include "volume-store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int store_fail(char *words, int error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(words, VOLUME_WORDS_MAX + 1, format, arguments);
    va_end(arguments);
    return error;
}

/* Closes `fd` unless it is -1. */
static int fail_errno(char *words, const char *what, int fd)
{
    int error = errno;

    if (fd >= 0)
        close(fd);
    return store_fail(words, -error, "%s: %s", what, strerror(error));
}

int store_open(struct volume_store *store, const char *path, int64_t max_size, char *words)
{
    int fd;

    store->max_size = max_size;
    store->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->directory < 0)
        return fail_errno(words, path, -1);
    /* Tried on a file without a name. If the file system has no such files, holes count as expensive. */
    fd = openat(store->directory, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
    store->punches = fd >= 0 && pwrite(fd, "", 1, 0) == 1 &&
                     fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1) == 0;
    if (fd >= 0)
        close(fd);
    return 0;
}

int store_volume(const struct volume_store *store, const char *name, int flags, struct volume_facts *facts,
                 bool *device, char *words)
{
    struct stat st;
    /*
     * Opened once, and examined by the descriptor: the name may be another file a moment later. O_EXCL without
     * O_CREAT refuses a device that is mounted or that another program has claimed, and means nothing for a file.
     * O_NOFOLLOW: no symbolic link leads out of the directory. O_NONBLOCK: a FIFO does not hold us.
     */
    int fd = openat(store->directory, name,
                    flags | (flags == O_RDONLY ? 0 : O_EXCL) | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return fail_errno(words, "open", -1);
    if (fstat(fd, &st) < 0)
        return fail_errno(words, "stat", fd);
    *device = S_ISBLK(st.st_mode);
    if (!*device && !S_ISREG(st.st_mode)) {
        close(fd);
        return store_fail(words, -EINVAL, "not a volume");
    }
    *facts = (struct volume_facts){ .size = st.st_size, .allocated = (int64_t)st.st_blocks * 512 };
    if (*device) {
        /* stat(2) does not know the size of a device. */
        facts->size = facts->allocated = lseek(fd, 0, SEEK_END);
        if (facts->size < 0)
            return fail_errno(words, "size of the device", fd);
    }
    return fd;
}

int store_create(const struct volume_store *store, const char *name, int64_t size, char *words)
{
    int fd, r;

    if (size > store->max_size)
        return store_fail(words, -EFBIG, "larger than the %lld bytes that a volume may have",
                          (long long)store->max_size);
    fd = openat(store->directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail_errno(words, "create", -1);
    r = ftruncate(fd, size) < 0 ? fail_errno(words, "set the size", fd)
        : close(fd) < 0         ? fail_errno(words, "close", -1)
                                : 0;
    if (r < 0)
        unlinkat(store->directory, name, 0);
    return r;
}

int store_delete(const struct volume_store *store, const char *name, char *words)
{
    struct volume_facts facts;
    bool device;
    int fd = store_volume(store, name, O_RDONLY, &facts, &device, words);

    if (fd < 0)
        return fd;
    close(fd);
    if (device)
        return store_fail(words, -EPERM, "a device is not deleted");
    return unlinkat(store->directory, name, 0) < 0 ? fail_errno(words, "delete", -1) : 0;
}

int store_list(const struct volume_store *store, DIR **listing, char *words)
{
    int fd = openat(store->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    *listing = fd < 0 ? NULL : fdopendir(fd);
    return *listing == NULL ? fail_errno(words, "open the directory", fd) : 0;
}

int store_next(const struct volume_store *store, DIR *listing, char name[VOLUME_NAME_MAX + 1],
               struct volume_facts *facts, char *words)
{
    const struct dirent *entry;
    struct stat st;
    bool device;
    int fd;

    name[0] = '\0';
    errno = 0;
    entry = readdir(listing);
    if (entry == NULL)
        return errno == 0 ? 0 : fail_errno(words, "read the directory", -1);
    if (!volume_name_valid(entry->d_name) || fstatat(store->directory, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
        return 1;
    *facts = (struct volume_facts){ .size = st.st_size, .allocated = (int64_t)st.st_blocks * 512 };
    if (S_ISBLK(st.st_mode)) {
        fd = store_volume(store, entry->d_name, O_RDONLY, facts, &device, words);
        if (fd < 0)
            return 1;
        close(fd);
    }
    strcpy(name, entry->d_name);
    return 1;
}
