/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* An export as a sink. */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct failure read_only = { EROFS, "the export is read-only" };

/* The opaque of the table. */
struct sink {
    struct end end;
    struct zeroes *zeroes;
};

/* Whether holes are requested. If not, the transfer writes zeros. */
static bool makes_holes(const struct end *end)
{
    const uint64_t flags = end->export->facts.flags;

    switch (end->options.zeroes) {
    case SPARSESTREAM_NBD_ZEROES_AUTO:
        return (flags & SPARSESTREAM_NBD_CAN_ZERO) != 0;
    case SPARSESTREAM_NBD_ZEROES_FAST:
        return (flags & SPARSESTREAM_NBD_CAN_ZERO) != 0 && (flags & SPARSESTREAM_NBD_CAN_FAST_ZERO) != 0;
    default:
        return false;
    }
}

static int describe(void *opaque, struct sparsestream_async_info *info)
{
    struct sink *sink = opaque;
    int r = end_describe(&sink->end, info);

    if (r < 0)
        return r;
    if ((sink->end.export->facts.flags & SPARSESTREAM_NBD_READ_ONLY) != 0) {
        sparsestream_set_error(read_only.error, SPARSESTREAM_OPERATION_OPEN, -1, read_only.text);
        return -read_only.error;
    }
    info->flags = SPARSESTREAM_ASYNC_READS;
    if (makes_holes(&sink->end))
        info->flags |= SPARSESTREAM_WITH_HOLES;
    if (makes_holes(&sink->end) && (sink->end.export->facts.flags & SPARSESTREAM_NBD_CAN_FAST_ZERO) != 0)
        info->flags |= SPARSESTREAM_ASYNC_FAST_ZERO;
    if (sink->zeroes == NULL)
        sink->zeroes = zeroes_new(&sink->end);
    return sink->zeroes == NULL ? -ENOMEM : 0;
}

static int submit(void *opaque, struct sparsestream_request *request)
{
    struct sink *sink = opaque;

    switch (request->kind) {
    case SPARSESTREAM_REQUEST_READ:
    case SPARSESTREAM_REQUEST_WRITE:
    case SPARSESTREAM_REQUEST_FLUSH:
        return end_submit(&sink->end, request);
    case SPARSESTREAM_REQUEST_ZERO:
    case SPARSESTREAM_REQUEST_FAST_ZERO:
        return zeroes_submit(sink->zeroes, request);
    default:
        return -EOPNOTSUPP;
    }
}

static int advance(void *opaque)
{
    struct sink *sink = opaque;

    engine_advance(sink->end.export);
    if (sink->zeroes != NULL)
        zeroes_advance(sink->zeroes);
    return end_report(&sink->end);
}

static void abort_sink(void *opaque, int error)
{
    struct sink *sink = opaque;

    end_abort(&sink->end, error);
    if (sink->zeroes != NULL)
        zeroes_advance(sink->zeroes);
}

static void free_sink(void *opaque)
{
    struct sink *sink = opaque;

    zeroes_free(sink->zeroes);
    end_release(&sink->end);
    free(sink);
}

static const struct sparsestream_async_ops table = {
    .size = sizeof(table),
    .free = free_sink,
    .describe = describe,
    .submit = submit,
    .wait = end_wait,
    .advance = advance,
    .finish = end_finish,
    .abort = abort_sink,
};

int sparsestream_nbd_sink(struct sparsestream_nbd *export, const struct sparsestream_nbd_end_options *options,
                          struct sparsestream_sink **out)
{
    /* Success means that everything is on the server's medium. */
    struct sparsestream_async_options range = { .size = sizeof(range), .flags = SPARSESTREAM_SYNC };
    struct sink *sink;
    int r;

    if (out == NULL)
        return refuse(-EINVAL, "sink: is NULL");
    *out = NULL;
    if (export != NULL && export->state == EXPORT_OPEN && (export->facts.flags & SPARSESTREAM_NBD_READ_ONLY) != 0)
        return failure_report(&read_only);
    sink = calloc(1, sizeof(*sink));
    if (sink == NULL)
        return refuse(-ENOMEM, "the memory for an end: %s", strerror(ENOMEM));
    r = end_init(&sink->end, export, options, SPARSESTREAM_NBD_NO_HOLE);
    if (r < 0) {
        free(sink);
        return r;
    }
    range.offset = sink->end.options.offset;
    range.length = sink->end.options.length;
    r = sparsestream_sink_to_async(&table, sink, &range, out);
    return r < 0 ? refuse(r, "%s", sparsestream_last_error()) : 0;
}
