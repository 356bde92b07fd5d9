/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What a receiver keeps of a transfer, so that it can go on after it broke off. */

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

int resume_load(struct resume *resume, const char *state, const char *target)
{
    FILE *file;
    int r = 0;

    *resume = (struct resume){ 0 };
    if (state != NULL)
        resume->path = strdup(state);
    else if (asprintf(&resume->path, "%s.sparsestream", target) < 0)
        resume->path = NULL;
    if (resume->path == NULL)
        return fail_errno(target, NULL, ENOMEM);
    file = fopen(resume->path, "re");
    if (file == NULL)
        return errno == ENOENT ? 0 : fail_errno(resume->path, NULL, errno);
    resume->known = parse(resume, file);
    if (!resume->known)
        r = ferror(file) ? fail_errno(resume->path, NULL, errno)
                         : fail(EXIT_LOCAL, "%s: this is no record of a transfer; remove it to start again",
                                resume->path);
    fclose(file);
    return r;
}

/* Writes a whole record, so that a half one is never found under its name. */
static int write_record(const struct resume *resume, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    int i, r = 0;

    if (file == NULL) {
        r = -errno;
        if (fd >= 0)
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

int resume_save(const struct resume *resume)
{
    char *path;
    int r;

    if (asprintf(&path, "%s.new", resume->path) < 0)
        return -ENOMEM;
    r = write_record(resume, path);
    if (r == 0 && rename(path, resume->path) < 0)
        r = -errno;
    if (r < 0)
        unlink(path);
    free(path);
    return r;
}

int resume_remove(const struct resume *resume)
{
    if (unlink(resume->path) < 0 && errno != ENOENT)
        return fail_errno(resume->path, NULL, errno);
    return 0;
}

void resume_free(struct resume *resume)
{
    free(resume->path);
    resume->path = NULL;
}
