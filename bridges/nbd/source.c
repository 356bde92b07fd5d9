/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* An export as a source. */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The opaque of the table. */
struct source {
    struct end end;
    struct map *map; /* NULL if it reports no holes */
};

static int describe(void *opaque, struct sparsestream_async_info *info)
{
    struct source *source = opaque;
    const struct end *end = &source->end;
    const struct sparsestream_nbd_facts *facts = &end->export->facts;
    int64_t stop;
    int r = end_describe(&source->end, info);

    if (r < 0)
        return r;
    if ((facts->flags & SPARSESTREAM_NBD_REPORTS_HOLES) == 0 || (end->options.flags & SPARSESTREAM_IGNORE_MAP) != 0)
        return 0;
    info->flags = SPARSESTREAM_WITH_HOLES;
    stop = facts->export_size;
    if (end->options.length > 0 && end->options.length < stop - end->options.offset)
        stop = end->options.offset + end->options.length;
    if (source->map == NULL)
        source->map = map_new(end->export, end->options.offset, stop, end->options.least_hole);
    return source->map == NULL ? -ENOMEM : 0;
}

static int section(void *opaque, struct sparsestream_section *section)
{
    struct source *source = opaque;
    export_t *export = source->end.export;
    bool hole = false;
    int r;

    if (source->map == NULL) {
        section->kind = SPARSESTREAM_DATA;
        section->length = export->facts.export_size - section->offset;
        return 0;
    }
    r = map_section(source->map, section->offset, &hole, &section->length);
    if (r == -EAGAIN) {
        /* While no READ is in flight, the answer is received only here. */
        engine_advance(export);
        r = map_section(source->map, section->offset, &hole, &section->length);
    }
    if (r == 0)
        section->kind = hole ? SPARSESTREAM_HOLE : SPARSESTREAM_DATA;
    return r;
}

static int submit(void *opaque, struct sparsestream_request *request)
{
    return request->kind == SPARSESTREAM_REQUEST_READ ? end_submit(opaque, request) : -EOPNOTSUPP;
}

static void free_source(void *opaque)
{
    struct source *source = opaque;

    map_free(source->map);
    end_release(&source->end);
    free(source);
}

static const struct sparsestream_async_ops table = {
    .size = sizeof(table),
    .free = free_source,
    .describe = describe,
    .submit = submit,
    .section = section,
    .wait = end_wait,
    .advance = end_advance,
    .finish = end_finish,
    .abort = end_abort,
};

int sparsestream_nbd_source(struct sparsestream_nbd *export, const struct sparsestream_nbd_end_options *options,
                            struct sparsestream_source **out)
{
    struct sparsestream_async_options range = { .size = sizeof(range) };
    struct source *source;
    int r;

    if (out == NULL)
        return refuse(-EINVAL, "source: is NULL");
    *out = NULL;
    source = calloc(1, sizeof(*source));
    if (source == NULL)
        return refuse(-ENOMEM, "the memory for an end: %s", strerror(ENOMEM));
    r = end_init(&source->end, export, options, SPARSESTREAM_IGNORE_MAP);
    if (r < 0) {
        free(source);
        return r;
    }
    range.offset = source->end.options.offset;
    range.length = source->end.options.length;
    range.flags = source->end.options.flags & SPARSESTREAM_IGNORE_MAP;
    r = sparsestream_source_from_async(&table, source, &range, out);
    return r < 0 ? refuse(r, "%s", sparsestream_last_error()) : 0;
}
