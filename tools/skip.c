/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A source that gives zeros for what cannot be read, and remembers where. */

#include "skip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The kernel reads whole pages. Those behind an unreadable one are likely to be unreadable too: they are read singly. */
enum { BLOCK = 4096, CAREFUL = 1 << 20 };

static bool is_of_medium(int error)
{
    return error == EIO || error == ENODATA || error == EREMOTEIO || error == EILSEQ || error == EUCLEAN ||
           error == EBADMSG;
}

/* Adds a range to the list, which is in order. Returns 0 or a negative errno. */
static int remember(struct skipping *skipping, int64_t offset, int64_t length)
{
    struct skipped *last = skipping->count > 0 ? &skipping->ranges[skipping->count - 1] : NULL;
    struct skipped *grown;

    skipping->bytes += length;
    if (last != NULL && last->offset + last->length == offset) {
        last->length += length;
        return 0;
    }
    if (skipping->count == skipping->room) {
        size_t room = skipping->room == 0 ? 64 : 2 * skipping->room;

        grown = reallocarray(skipping->ranges, room, sizeof(*grown));
        if (grown == NULL)
            return -ENOMEM;
        skipping->ranges = grown;
        skipping->room = room;
    }
    skipping->ranges[skipping->count++] = (struct skipped){ offset, length };
    return 0;
}

static int next_section(void *opaque, sparsestream_section *next)
{
    struct skipping *skipping = opaque;
    sparsestream_section section = { .size = sizeof(section), .kind = SPARSESTREAM_DATA, .length = INT64_MAX };
    int64_t left = skipping->end - skipping->at;
    int r = 0;

    if (left > 0 && !skipping->ignore_map)
        r = sparsestream_section_at(skipping->fd, skipping->at, &section);
    if (r < 0)
        return r;
    if (left == 0)
        next->kind = SPARSESTREAM_END;
    else
        next->kind = section.kind == SPARSESTREAM_HOLE ? SPARSESTREAM_HOLE : SPARSESTREAM_DATA;
    /* A file that has become shorter is found out when it is read. */
    next->length = section.kind == SPARSESTREAM_END || section.length > left ? left : section.length;
    return 0;
}

static int64_t read_data(void *opaque, void *buffer, size_t length)
{
    struct skipping *skipping = opaque;
    int64_t left = skipping->end - skipping->at;
    ssize_t n;
    int r;

    if ((int64_t)length > left)
        length = (size_t)left;
    if (length == 0)
        return 0;
    if (skipping->at < skipping->careful && length > (size_t)(BLOCK - skipping->at % BLOCK))
        length = (size_t)(BLOCK - skipping->at % BLOCK);
    n = pread(skipping->fd, buffer, length, skipping->at);
    if (n < 0 && is_of_medium(errno)) {
        if (length > (size_t)(BLOCK - skipping->at % BLOCK))
            length = (size_t)(BLOCK - skipping->at % BLOCK);
        skipping->careful = skipping->at + CAREFUL;
        n = pread(skipping->fd, buffer, length, skipping->at);
        if (n < 0 && is_of_medium(errno)) {
            r = remember(skipping, skipping->at, (int64_t)length);
            if (r < 0)
                return r;
            memset(buffer, 0, length);
            n = (ssize_t)length;
        }
    }
    if (n < 0)
        return -errno;
    if (n == 0)
        return -ENODATA;
    skipping->at += n;
    return n;
}

static int64_t skip(void *opaque, int64_t length)
{
    struct skipping *skipping = opaque;

    skipping->at += length;
    return length;
}

int skip_source(struct skipping *skipping, const struct settings *settings, const struct target *from,
                int64_t length, sparsestream_source **source)
{
    const sparsestream_source_ops ops = {
        .size = sizeof(ops),
        .section = next_section,
        .read = read_data,
        .skip = skip,
    };

    skipping->fd = from->fd;
    skipping->name = from->name;
    skipping->start = skipping->at = from->position + settings->offset;
    skipping->end = skipping->start + length;
    skipping->ignore_map = settings->ignore_map;
    /* An earlier source may have come to nothing. */
    skipping->careful = skipping->bytes = 0;
    skipping->count = 0;
    return sparsestream_source_from_callbacks(&ops, skipping, source);
}

int skip_check_options(const struct settings *settings)
{
    if (settings->error_map != NULL && !settings->skip_errors)
        return usage(settings, "--error-map needs --on-read-error=skip");
    return 0;
}

int skip_check(const struct settings *settings, const struct target *from, int64_t length)
{
    if (!settings->skip_errors || ((from->regular || from->device) && length >= 0))
        return 0;
    return usage(settings, "--on-read-error=skip: %s is neither a file of a known size nor a device", from->name);
}

static bool is_file_of(const struct stat *st, const struct target *end)
{
    return end != NULL && st->st_dev == end->st.st_dev && st->st_ino == end->st.st_ino;
}

int skip_open_map(struct skipping *skipping, const struct settings *settings, const struct target *from,
                  const struct target *to)
{
    const char *path = settings->error_map;
    struct settings plain = *settings;
    struct stat st;
    int fd, error, code;

    if (path == NULL)
        return 0;
    fd = open_existing(settings, path, O_WRONLY);
    if (fd == -ENOENT) {
        /* These are about the target. */
        plain.device = false;
        plain.mode = -1;
        fd = open_new(&plain, path, O_WRONLY, 0666, &error, &code);
        if (fd < 0)
            return code;
    }
    if (fd < 0)
        return fail_errno(path, NULL, fd);
    if (fstat(fd, &st) < 0) {
        error = errno;
        close(fd);
        return fail_errno(path, NULL, error);
    }
    if (is_file_of(&st, from) || is_file_of(&st, to)) {
        close(fd);
        return fail(EXIT_REFUSED, "%s: is the source or the target, and cannot be used for --error-map", path);
    }
    if ((S_ISREG(st.st_mode) && ftruncate(fd, 0) < 0) || (skipping->map = fdopen(fd, "w")) == NULL) {
        error = errno;
        close(fd);
        return fail_errno(path, NULL, error);
    }
    return 0;
}

void skip_end_at(struct skipping *skipping, int64_t length)
{
    int64_t end = skipping->start + length;

    if (end >= skipping->at)
        return;
    skipping->at = end;
    while (skipping->count > 0 && skipping->ranges[skipping->count - 1].offset >= end)
        skipping->bytes -= skipping->ranges[--skipping->count].length;
    if (skipping->count > 0) {
        struct skipped *last = &skipping->ranges[skipping->count - 1];

        if (last->offset + last->length > end) {
            skipping->bytes -= last->offset + last->length - end;
            last->length = end - last->offset;
        }
    }
}

/* The map is in the format of ddrescue(1), which can then try the rest. Bytes that were not reached are "non-tried". */
static int write_map(struct skipping *skipping, const char *path)
{
    static const char line[] = "0x%08llX  0x%08llX  %c\n";
    FILE *map = skipping->map;
    int64_t at = skipping->start;
    size_t i;

    fprintf(map, "# Mapfile. Created by sparsestream %s\n# current_pos  current_status  current_pass\n",
            SPARSESTREAM_VERSION);
    fprintf(map, "0x%08llX     %c               1\n#      pos        size  status\n", (unsigned long long)skipping->at,
            skipping->at == skipping->end ? '+' : '?');
    for (i = 0; i < skipping->count; i++) {
        const struct skipped *range = &skipping->ranges[i];

        if (range->offset > at)
            fprintf(map, line, (unsigned long long)at, (unsigned long long)(range->offset - at), '+');
        fprintf(map, line, (unsigned long long)range->offset, (unsigned long long)range->length, '-');
        at = range->offset + range->length;
    }
    if (skipping->at > at)
        fprintf(map, line, (unsigned long long)at, (unsigned long long)(skipping->at - at), '+');
    if (skipping->end > skipping->at)
        fprintf(map, line, (unsigned long long)skipping->at, (unsigned long long)(skipping->end - skipping->at), '?');
    skipping->map = NULL;
    if (ferror(map) | fclose(map))
        return fail_errno(path, NULL, errno);
    return 0;
}

int skip_report(struct skipping *skipping, const struct settings *settings, int result)
{
    size_t i;
    int r = 0;

    for (i = 0; i < skipping->count; i++)
        report_event("skipped", "%s: cannot be read at offset %lld for %lld bytes: zeros are written", skipping->name,
             (long long)skipping->ranges[i].offset, (long long)skipping->ranges[i].length);
    if (skipping->map != NULL)
        r = write_map(skipping, settings->error_map);
    if (result == 0)
        result = r;
    if (result == 0 && skipping->count > 0)
        result = fail(EXIT_SKIPPED, "%s: %lld bytes could not be read, in %zu place%s", skipping->name,
                      (long long)skipping->bytes, skipping->count, skipping->count == 1 ? "" : "s");
    free(skipping->ranges);
    *skipping = (struct skipping){ 0 };
    return result;
}
