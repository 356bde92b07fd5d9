/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* An export as a sink. */

#include "internal.h"

#include <errno.h>

static const struct failure read_only = { EROFS, "the export is read-only" };

/* Whether holes are asked for. Where they are not, the transfer writes zeros. */
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
    struct end *end = opaque;
    int r = end_describe(end, info);

    if (r < 0)
        return r;
    if ((end->export->facts.flags & SPARSESTREAM_NBD_READ_ONLY) != 0) {
        sparsestream_set_error(read_only.error, SPARSESTREAM_OPERATION_OPEN, -1, read_only.text);
        return -read_only.error;
    }
    info->flags = SPARSESTREAM_ASYNC_READS;
    if (makes_holes(end))
        info->flags |= SPARSESTREAM_WITH_HOLES;
    if (end->zeroes == NULL)
        end->zeroes = zeroes_new(end);
    return end->zeroes == NULL ? -ENOMEM : 0;
}

static int submit(void *opaque, struct sparsestream_request *request)
{
    struct end *end = opaque;

    switch (request->kind) {
    case SPARSESTREAM_REQUEST_READ:
    case SPARSESTREAM_REQUEST_WRITE:
    case SPARSESTREAM_REQUEST_FLUSH:
        return end_submit(end, request);
    case SPARSESTREAM_REQUEST_ZERO:
        return zeroes_submit(end->zeroes, request);
    default:
        return -EOPNOTSUPP;
    }
}

static const struct sparsestream_async_ops table = {
    .size = sizeof(table),
    .free = end_free,
    .describe = describe,
    .submit = submit,
    .wait = end_wait,
    .advance = end_advance,
    .finish = end_finish,
    .abort = end_abort,
};

int sparsestream_nbd_sink(struct sparsestream_nbd *export, const struct sparsestream_nbd_end_options *options,
                          struct sparsestream_sink **sink)
{
    /* Success means that everything is on the server's medium. */
    struct sparsestream_async_options range = { .size = sizeof(range), .flags = SPARSESTREAM_SYNC };
    struct end *end = NULL;
    int r;

    if (sink == NULL)
        return refuse(-EINVAL, "sink: is NULL");
    *sink = NULL;
    if (export != NULL && export->state == EXPORT_OPEN && (export->facts.flags & SPARSESTREAM_NBD_READ_ONLY) != 0)
        return failure_report(&read_only);
    r = end_new(export, options, SPARSESTREAM_NBD_NO_HOLE, &end);
    if (r < 0)
        return r;
    range.offset = end->options.offset;
    range.length = end->options.length;
    r = sparsestream_sink_to_async(&table, end, &range, sink);
    return r < 0 ? refuse(r, "%s", sparsestream_last_error()) : 0;
}
