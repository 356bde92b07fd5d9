/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* An export as a source. */

#include "internal.h"

#include <errno.h>

static int describe(void *opaque, struct sparsestream_async_info *info)
{
    struct end *end = opaque;
    const struct sparsestream_nbd_facts *facts = &end->export->facts;
    int64_t stop;
    int r = end_describe(end, info);

    if (r < 0)
        return r;
    if ((facts->flags & SPARSESTREAM_NBD_TELLS_HOLES) == 0 || (end->options.flags & SPARSESTREAM_IGNORE_MAP) != 0)
        return 0;
    info->flags = SPARSESTREAM_WITH_HOLES;
    stop = facts->export_size;
    if (end->options.length > 0 && end->options.length < stop - end->options.offset)
        stop = end->options.offset + end->options.length;
    if (end->map == NULL)
        end->map = map_new(end->export, end->options.offset, stop, end->options.least_hole);
    return end->map == NULL ? -ENOMEM : 0;
}

static int section(void *opaque, struct sparsestream_section *section)
{
    struct end *end = opaque;
    bool hole = false;
    int r;

    if (end->map == NULL) {
        section->kind = SPARSESTREAM_DATA;
        section->length = end->export->facts.export_size - section->offset;
        return 0;
    }
    r = map_section(end->map, section->offset, &hole, &section->length);
    if (r == -EAGAIN) {
        /* While no request is in flight, the answer is received only here. */
        engine_advance(end->export);
        r = map_section(end->map, section->offset, &hole, &section->length);
    }
    if (r == 0)
        section->kind = hole ? SPARSESTREAM_HOLE : SPARSESTREAM_DATA;
    return r;
}

static int submit(void *opaque, struct sparsestream_request *request)
{
    return request->kind == SPARSESTREAM_REQUEST_READ ? end_submit(opaque, request) : -EOPNOTSUPP;
}

static const struct sparsestream_async_ops table = {
    .size = sizeof(table),
    .free = end_free,
    .describe = describe,
    .submit = submit,
    .section = section,
    .wait = end_wait,
    .advance = end_advance,
    .finish = end_finish,
    .abort = end_abort,
};

int sparsestream_nbd_source(struct sparsestream_nbd *export, const struct sparsestream_nbd_end_options *options,
                            struct sparsestream_source **source)
{
    struct sparsestream_async_options range = { .size = sizeof(range) };
    struct end *end = NULL;
    int r;

    if (source == NULL)
        return refuse(-EINVAL, "source: is NULL");
    *source = NULL;
    r = end_new(export, options, SPARSESTREAM_IGNORE_MAP, &end);
    if (r < 0)
        return r;
    range.offset = end->options.offset;
    range.length = end->options.length;
    range.flags = end->options.flags & SPARSESTREAM_IGNORE_MAP;
    r = sparsestream_source_from_async(&table, end, &range, source);
    return r < 0 ? refuse(r, "%s", sparsestream_last_error()) : 0;
}
