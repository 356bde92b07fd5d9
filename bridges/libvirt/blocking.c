/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A stream that the caller opened, moved in one call. */

#include "internal.h"

#include <errno.h>

/* Checks and copies what the caller gave. Returns 0 or a negative errno. */
static int begin(struct lv_stream *lv, virStreamPtr stream, const options_t *given, uint64_t flags,
                 struct sparsestream_transfer_options *transfer, failure_t *failure)
{
    options_t options;
    int r;

    lv_stream_init(lv, stream, failure);
    r = options_read(given, flags, &options);
    if (r == 0)
        r = options_transfer(&options, transfer);
    if (r == 0 && options.holes != SPARSESTREAM_LIBVIRT_HOLES_AUTO)
        r = -EINVAL;
    if (r < 0)
        return error_set(failure, r, "the options of the bridge are not valid");
    if (stream == NULL)
        return error_set(failure, -EINVAL, "the stream is NULL");
    return 0;
}

int sparsestream_libvirt_send(struct sparsestream_source *source, virStreamPtr stream, const options_t *options,
                              struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct lv_stream lv;
    failure_t failure;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(&lv, stream, options, 0, &transfer, &failure);
    if (r == 0)
        r = stream_send(&lv, source, &transfer, stats);
    error_give(&failure, failure_out);
    return r;
}

int sparsestream_libvirt_recv(virStreamPtr stream, struct sparsestream_sink *sink, const options_t *options,
                              struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct lv_stream lv;
    failure_t failure;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(&lv, stream, options, SPARSESTREAM_LIBVIRT_NO_PAUSE, &transfer, &failure);
    if (r == 0) {
        if (options == NULL || (options->flags & SPARSESTREAM_LIBVIRT_NO_PAUSE) == 0)
            lv.pause = pause_new();
        r = stream_recv(&lv, sink, &transfer, stats);
        pause_free(lv.pause);
    }
    error_give(&failure, failure_out);
    return r;
}
