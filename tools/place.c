/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Where in its file a stream starts, how long it is, and whether there is room for it. */

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int64_t size_of(const struct target *end)
{
    int64_t position, size;
    char byte;

    if (end->regular) {
        /* The size of the files of /proc and /sys does not show their content. */
        if (end->size == 0 && end->fd >= 0 && pread(end->fd, &byte, 1, 0) > 0)
            return -1;
        return end->size;
    }
    if (!end->device)
        return -1;
    position = lseek(end->fd, 0, SEEK_CUR);
    size = lseek(end->fd, 0, SEEK_END);
    if (position >= 0)
        lseek(end->fd, position, SEEK_SET);
    return size;
}

int64_t length_of(const struct settings *settings, const struct target *source)
{
    int64_t size = settings->length != 0 ? -1 : size_of(source);

    if (settings->length != 0)
        return settings->length;
    return size < 0 ? -1 : size - source->position - settings->offset;
}

int check_offset(const struct settings *settings, const char *option, const struct target *end, int64_t offset)
{
    if (offset <= 0 || end->fd < 0 || end->regular || end->device)
        return 0;
    return usage(settings, "--%s: %s has no offsets: it is neither a file nor a block device", option, end->name);
}

int check_range(const struct settings *settings, const struct target *source)
{
    int64_t size, rest;
    int r = check_offset(settings, "range", source, settings->offset);
    char length[24] = "";

    if (r != 0 || !settings->ranged)
        return r;
    size = size_of(source);
    if (size < 0)
        return 0;
    rest = size - source->position;
    if (settings->offset <= rest && settings->length <= rest - settings->offset)
        return 0;
    if (settings->length != 0)
        snprintf(length, sizeof(length), "%lld", (long long)settings->length);
    if (source->position > 0)
        return usage(settings, "--range: %lld:%s is not within the %lld bytes that %s has from its position on",
                     (long long)settings->offset, length, (long long)(rest < 0 ? 0 : rest), source->name);
    return usage(settings, "--range: %lld:%s is not within the %lld bytes of %s", (long long)settings->offset, length,
                 (long long)size, source->name);
}

int check_room(const struct target *target, int64_t offset, int64_t length)
{
    int64_t size, room;
    int seals;

    if (length < 0 || (!target->regular && !target->device))
        return 0;
    if (target->regular) {
        seals = fcntl(target->fd, F_GET_SEALS);
        if (seals < 0 || (seals & F_SEAL_GROW) == 0)
            return 0;
    }
    size = target->regular ? target->size : size_of(target);
    if (size < 0)
        return fail_errno(target->name, "lseek", errno);
    room = offset < size ? size - offset : 0;
    if (length <= room)
        return 0;
    return fail(EXIT_REFUSED, "%s: has room for %lld bytes, but the stream has %lld", target->name, (long long)room,
                (long long)length);
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

struct reservation {
    int fd;
    int64_t shift; /* from the source's offsets to the target's */
};

static int reserve(void *opaque, const sparsestream_section *section)
{
    struct reservation *reservation = opaque;

    if (section->kind != SPARSESTREAM_DATA ||
        fallocate(reservation->fd, FALLOC_FL_KEEP_SIZE, section->offset + reservation->shift, section->length) == 0)
        return 0;
    return -errno;
}

int preallocate(const struct settings *settings, const struct target *from, const struct target *to, int64_t offset)
{
    int64_t start = from->position + settings->offset;
    struct reservation reservation = { .fd = to->fd, .shift = offset - start };
    int64_t total, work;
    int r;

    /* A device counts as fully allocated. */
    if (!settings->preallocate || !to->regular)
        return 0;
    measure(from, settings, &total, &work);
    if (total < 0)
        return usage(settings, "--preallocate: %s has no size", from->name);
    if (work == total)
        r = total == 0 || fallocate(to->fd, FALLOC_FL_KEEP_SIZE, offset, total) == 0 ? 0 : -errno;
    else
        r = sparsestream_map(from->fd, start, settings->length, reserve, &reservation);
    if (r == 0)
        return 0;
    /* This frees the blocks that were allocated behind the end. */
    if (ftruncate(to->fd, to->size) < 0)
        warn("%s: allocated blocks cannot be freed: %s", to->name, strerror(errno));
    if (r == -EOPNOTSUPP)
        return fail(EXIT_REFUSED, "%s: --preallocate: the file system cannot allocate in advance", to->name);
    return fail_errno(to->name, "--preallocate", r);
}

void measure(const struct target *source, const struct settings *settings, int64_t *total, int64_t *work)
{
    struct amount amount = { 0 };

    *total = *work = -1;
    if (sparsestream_map(source->fd, source->position + settings->offset, settings->length, add, &amount) < 0)
        return;
    *total = amount.total;
    /* Where the map is not used, or holes are written, all of it moves. */
    *work = settings->ignore_map || settings->sparse == SPARSESTREAM_SPARSE_NEVER ? amount.total : amount.data;
}

void fill_source_options(sparsestream_source_options *options, const struct settings *settings,
                         const struct target *source)
{
    *options = (sparsestream_source_options){
        .size = sizeof(*options),
        .flags = settings->ignore_map ? SPARSESTREAM_IGNORE_MAP : 0,
        .offset = source->position + settings->offset,
        .length = settings->length,
    };
}

void fill_sink_options(sparsestream_sink_options *options, const struct settings *settings,
                       const struct target *target, int64_t offset, bool truncate)
{
    *options = (sparsestream_sink_options){
        .size = sizeof(*options),
        .flags = (settings->sync ? SPARSESTREAM_SYNC : 0) | (truncate ? SPARSESTREAM_TRUNCATE : 0) |
                 (settings->known_zero ? SPARSESTREAM_KNOWN_ZERO : 0),
        .offset = target->position + offset,
    };
}
