/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* copy --dry-run: what would be done. */

#include "tool.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Whether a file could be made there. */
static int check_parent(const char *path)
{
    char *copy = strdup(path);
    int r = 0;

    if (copy == NULL)
        return fail_errno(path, NULL, ENOMEM);
    if (access(dirname(copy), W_OK | X_OK) < 0)
        r = fail_errno(path, NULL, errno);
    free(copy);
    return r;
}

static const char *kind_of(const struct target *end)
{
    return end->regular ? "file" : end->device ? "device" : "stream";
}

static void show_source(const struct settings *settings, const struct target *from, int64_t length)
{
    long long start = (long long)(from->position + settings->offset);
    int64_t total, work;

    measure(from, settings, &total, &work);
    if (total >= 0)
        say("source: %s, a %s: %lld bytes from offset %lld on, of which %lld are read and %lld are holes", from->name,
            kind_of(from), (long long)total, start, (long long)work, (long long)(total - work));
    else if (length >= 0)
        say("source: %s, a %s: at most %lld bytes", from->name, kind_of(from), (long long)length);
    else
        say("source: %s, a %s: to its end", from->name, kind_of(from));
}

static void show_target(const struct settings *settings, const struct target *to, mode_t mode, int64_t end,
                        bool truncate)
{
    long long offset = (long long)(to->position + (settings->at < 0 ? 0 : settings->at));

    if (to->fd < 0)
        say("target: %s, a new file of mode %o: from offset %lld on", to->name, mode, offset);
    else if (!to->regular)
        say("target: %s, a %s: from offset %lld on", to->name, kind_of(to), offset);
    else if (to->append)
        say("target: %s, a file of %lld bytes: after its end", to->name, (long long)to->size);
    else if (end >= 0 && end < to->size)
        say("target: %s, a file of %lld bytes: from offset %lld on, %s after offset %lld", to->name,
            (long long)to->size, offset, truncate ? "cut" : "and kept", (long long)end);
    else
        say("target: %s, a file of %lld bytes: from offset %lld on", to->name, (long long)to->size, offset);
}

int show_plan(const struct settings *settings, const struct target *from, const struct target *to, int64_t length,
              bool truncate)
{
    mode_t mode = mode_of_new(settings, from), mask = umask(0);
    int64_t offset = to->position + (settings->at < 0 ? 0 : settings->at);
    int r = 0;

    umask(mask);
    if (to->fd < 0) {
        r = check_new(settings, to->path);
        if (r == 0)
            r = check_parent(to->path);
    }
    if (r != 0)
        return r;
    show_source(settings, from, length);
    show_target(settings, to, mode & ~mask, length < 0 ? -1 : offset + length, truncate);
    /* The target may be standard output, and is closed. */
    fflush(stdout);
    return 0;
}
