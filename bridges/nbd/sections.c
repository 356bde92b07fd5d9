/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The sections of an export, for a caller that waits. */

#include "internal.h"

#include <errno.h>
#include <poll.h>

typedef int section_function(void *opaque, const struct sparsestream_section *section);

/* As map_section(), but waits. */
static int section_now(export_t *export, struct map *map, int64_t offset, bool *hole, int64_t *length)
{
    const int64_t limit = now_ms() + export->options.timeout_ms;
    int r;

    while ((r = map_section(map, offset, hole, length)) == -EAGAIN) {
        struct sparsestream_wait wait = { .size = sizeof(wait) };
        struct pollfd fds[MOST_CONNECTIONS];
        int64_t left = limit - now_ms();

        if (left <= 0)
            return failure_set(&export->failure, ETIMEDOUT, "no block status came for %lld ms",
                               (long long)export->options.timeout_ms);
        engine_wait(export, &wait);
        for (int i = 0; i < wait.count; i++)
            fds[i] = (struct pollfd){ .fd = wait.fds[i].fd, .events = (short)wait.fds[i].events };
        poll(fds, (nfds_t)wait.count, (int)left);
        engine_advance(export);
    }
    return r;
}

/* Reports a section once the next one is of another kind, or there is none. */
static int walk(export_t *export, struct map *map, int64_t offset, int64_t end, section_function *report, void *opaque)
{
    struct sparsestream_section section = { .size = sizeof(section), .offset = offset };
    int r = 0;

    while (offset < end && r >= 0) {
        bool hole;
        int64_t length;
        int kind;

        r = section_now(export, map, offset, &hole, &length);
        if (r < 0)
            return failure_report(&export->failure);
        kind = hole ? SPARSESTREAM_HOLE : SPARSESTREAM_DATA;
        if (section.length > 0 && section.kind != kind) {
            r = report(opaque, &section);
            section.offset = offset;
            section.length = 0;
        }
        section.kind = kind;
        section.length += length;
        offset += length;
    }
    if (r >= 0 && section.length > 0)
        r = report(opaque, &section);
    return r < 0 ? r : 0;
}

/* An export that does not report its holes is all data. */
static int report_data(section_function *report, void *opaque, int64_t offset, int64_t length)
{
    const struct sparsestream_section section = {
        .size = sizeof(section), .kind = SPARSESTREAM_DATA, .offset = offset, .length = length,
    };
    int r = length > 0 ? report(opaque, &section) : 0;

    return r < 0 ? r : 0;
}

int sparsestream_nbd_map(struct sparsestream_nbd *export, int64_t offset, int64_t length,
                         int (*section)(void *opaque, const struct sparsestream_section *section), void *opaque)
{
    struct map *map;
    int64_t room;
    int r;

    if (export == NULL || section == NULL)
        return refuse(-EINVAL, "an argument is NULL");
    if (export->has_end)
        return refuse(-EBUSY, "the export has an end");
    r = export_wait(export);
    if (r < 0)
        return failure_report(&export->failure);
    room = export->facts.export_size - offset;
    if (offset < 0 || length < 0 || room < 0 || length > room)
        return refuse(-EINVAL, "the range is not in the export, which has %lld bytes",
                      (long long)export->facts.export_size);
    if (length == 0)
        length = room;
    if ((export->facts.flags & SPARSESTREAM_NBD_REPORTS_HOLES) == 0)
        return report_data(section, opaque, offset, length);
    map = map_new(export, offset, offset + length, 0);
    if (map == NULL)
        return refuse(-ENOMEM, "the memory for a map is not there");
    r = walk(export, map, offset, offset + length, section, opaque);
    map_free(map);
    return r;
}
