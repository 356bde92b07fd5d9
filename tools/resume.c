/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The record that a receiver keeps of a transfer, so that an interrupted transfer can resume. */

#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char first_line[] = "sparsestream resume 1";

static bool read_identity(const char *text, unsigned char *identity)
{
    int i;

    for (i = 0; i < IDENTITY; i++) {
        unsigned int byte;

        if (sscanf(text + (ptrdiff_t)2 * i, "%2x", &byte) != 1)
            return false;
        identity[i] = (unsigned char)byte;
    }
    return true;
}

static bool parse(struct resume *resume, FILE *file)
{
    char line[sizeof(first_line) + 1], identity[2 * IDENTITY + 1];

    if (fgets(line, sizeof(line), file) == NULL || strncmp(line, first_line, strlen(first_line)) != 0)
        return false;
    if (fscanf(file, "at %" SCNd64 "\ndurable %" SCNd64 "\nidentity %64[0-9a-f]\n", &resume->at, &resume->durable,
               identity) != 3)
        return false;
    return strlen(identity) == 2 * IDENTITY && read_identity(identity, resume->identity) && resume->at >= 0 &&
           resume->durable >= 0 && resume->durable <= INT64_MAX - resume->at;
}

/*
 * Why a file is not taken for one that this program wrote, or NULL. In a directory that others may write to, anybody
 * can put anything in its place.
 */
static const char *why_not_ours(int fd, struct stat *st)
{
    if (fstat(fd, st) < 0)
        return strerror(errno);
    if (!S_ISREG(st->st_mode))
        return "is not a regular file";
    if (st->st_uid != geteuid())
        return "belongs to another user";
    if (st->st_nlink > 1)
        return "has more than one name";
    return NULL;
}

int resume_load(struct resume *resume, const char *state, const char *target)
{
    const char *why;
    struct stat st;
    FILE *file;
    int fd, r = 0;

    *resume = (struct resume){ 0 };
    if (state != NULL)
        resume->path = strdup(state);
    else if (asprintf(&resume->path, "%s.sparsestream", target) < 0)
        resume->path = NULL;
    if (resume->path == NULL)
        return fail_errno(target, NULL, ENOMEM);
    fd = open(resume->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == ELOOP)
        return fail(EXIT_REFUSED, "%s: is a symbolic link, and not a record of a transfer", resume->path);
    if (fd < 0)
        return errno == ENOENT ? 0 : fail_errno(resume->path, NULL, errno);
    why = why_not_ours(fd, &st);
    file = why == NULL ? fdopen(fd, "r") : NULL;
    if (file == NULL) {
        r = why != NULL ? fail(EXIT_REFUSED, "%s: %s, and is not used as a record of a transfer", resume->path, why)
                        : fail_errno(resume->path, NULL, errno);
        close(fd);
        return r;
    }
    resume->known = parse(resume, file);
    if (!resume->known)
        r = ferror(file) ? fail_errno(resume->path, NULL, errno)
                         : fail(EXIT_LOCAL, "%s: is not a record of a transfer; remove it to start again",
                                resume->path);
    resume->dev = st.st_dev;
    resume->ino = st.st_ino;
    fclose(file);
    return r;
}

/*
 * Makes a new file. A file that an earlier receiver left there is removed, if it is a record. If it is not, `*why` says
 * why not.
 */
static int open_record(const char *path, const char **why)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
    int fd = open(path, flags, 0600);
    struct stat st;

    *why = NULL;
    if (fd >= 0 || errno != EEXIST)
        return fd < 0 ? -errno : fd;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    *why = fd >= 0 ? why_not_ours(fd, &st) : errno == ELOOP ? "is a symbolic link" : strerror(errno);
    if (fd >= 0)
        close(fd);
    if (*why != NULL)
        return -EEXIST;
    remove_same(path, st.st_dev, st.st_ino);
    fd = open(path, flags, 0600);
    return fd < 0 ? -errno : fd;
}

/* Writes a whole record to a new file. */
static int write_record(const struct resume *resume, int fd)
{
    FILE *file = fdopen(fd, "w");
    int i, r = 0;

    if (file == NULL) {
        r = -errno;
        close(fd);
        return r;
    }
    fprintf(file, "%s\nat %" PRId64 "\ndurable %" PRId64 "\nidentity ", first_line, resume->at, resume->durable);
    for (i = 0; i < IDENTITY; i++)
        fprintf(file, "%02x", resume->identity[i]);
    putc('\n', file);
    if (fflush(file) != 0 || fsync(fd) < 0)
        r = -errno;
    if (fclose(file) != 0 && r == 0)
        r = -errno;
    return r;
}

/* The name under which a record is written. The caller frees it. */
static char *name_of_next(const struct resume *resume)
{
    char *path;

    return asprintf(&path, "%s.new", resume->path) < 0 ? NULL : path;
}

/* A half record is never found under its name: it is written under another, and renamed. */
int resume_save(struct resume *resume)
{
    char *path = name_of_next(resume);
    const char *why;
    struct stat st;
    int fd, r;

    if (path == NULL)
        return -ENOMEM;
    fd = open_record(path, &why);
    r = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : 0;
    if (r == 0) {
        r = write_record(resume, fd);
        if (r == 0 && rename(path, resume->path) < 0)
            r = -errno;
        if (r == 0) {
            resume->dev = st.st_dev;
            resume->ino = st.st_ino;
        } else {
            remove_same(path, st.st_dev, st.st_ino);
        }
    } else if (fd >= 0) {
        close(fd);
    }
    free(path);
    return r;
}

int resume_check(struct resume *resume)
{
    static const char words[] = "the record of the transfer cannot be written";
    char *path = name_of_next(resume);
    const char *why;
    struct stat st;
    int fd, r = 0;

    if (path == NULL)
        return fail_errno(resume->path, NULL, ENOMEM);
    fd = open_record(path, &why);
    if (fd < 0 && why != NULL) {
        r = fail(EXIT_REFUSED, "%s: %s, and is not replaced by a record of a transfer", path, why);
    } else if (fd < 0) {
        r = fail_errno(resume->path, words, fd);
    } else {
        if (fstat(fd, &st) == 0)
            remove_same(path, st.st_dev, st.st_ino);
        close(fd);
    }
    free(path);
    /* A new record must be able to take the place of the one that is there. */
    if (r == 0 && resume->known && (fd = resume_save(resume)) < 0)
        r = fail_errno(resume->path, words, fd);
    return r;
}

int resume_remove(const struct resume *resume)
{
    struct stat st;

    if (resume->ino == 0)
        return 0;
    remove_same(resume->path, resume->dev, resume->ino);
    if (lstat(resume->path, &st) == 0 && st.st_dev == resume->dev && st.st_ino == resume->ino)
        return fail(EXIT_LOCAL, "%s: cannot be removed", resume->path);
    return 0;
}

void resume_free(struct resume *resume)
{
    free(resume->path);
    resume->path = NULL;
}
