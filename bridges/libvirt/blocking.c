/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A stream that the caller opened, moved in one call. */

#include "internal.h"

#include <errno.h>
#include <poll.h>

/* Waits for a descriptor of an end in non-blocking mode. libvirt's streams block. */
static int wait_for_end(struct sparsestream_transfer *transfer, failure_t *failure)
{
    struct sparsestream_wait wait = { .size = sizeof(wait) };
    struct pollfd pollfds[sizeof(wait.fds) / sizeof(wait.fds[0])];
    int r = sparsestream_transfer_wait(transfer, &wait);

    if (r < 0)
        return error_set(failure, r, "%s", sparsestream_last_error());
    /* Only the owner of that end knows its event. */
    if (wait.count == 0 && wait.timeout_ms < 0)
        return error_set(failure, -EAGAIN, "the %s is not ready, and names nothing to wait for",
                         wait.side == SPARSESTREAM_SIDE_SOURCE ? "source" : "sink");
    for (int i = 0; i < wait.count; i++)
        pollfds[i] = (struct pollfd){ .fd = wait.fds[i].fd, .events = (short) wait.fds[i].events };
    if (poll(pollfds, (nfds_t) wait.count, wait.timeout_ms) < 0 && errno != EINTR)
        return error_set(failure, -errno, "poll failed with errno %d", errno);
    return 0;
}

int run_to_end(struct sparsestream_source *source, struct sparsestream_sink *sink,
               const struct sparsestream_transfer_options *options, struct sparsestream_stats *stats,
               failure_t *failure)
{
    struct sparsestream_error reported = { .size = sizeof(reported), .offset = -1 };
    struct sparsestream_transfer *transfer = NULL;
    struct sigpipe saved;
    int waited = 0, r;

    r = sparsestream_transfer_new(source, sink, options, &transfer);
    if (r < 0)
        return error_set(failure, r, "%s", sparsestream_last_error());
    sigpipe_block(&saved);
    do
        r = sparsestream_transfer_run(transfer, 0);
    while (r == -EAGAIN && (waited = wait_for_end(transfer, failure)) == 0);
    if (waited < 0)
        r = waited;
    if (stats != NULL)
        sparsestream_transfer_stats(transfer, stats);
    if (r < 0) {
        sparsestream_transfer_error(transfer, &reported);
        error_add_transfer(failure, r, &reported);
    } else {
        error_clear(failure);
    }
    sparsestream_transfer_free(transfer);
    sigpipe_restore(&saved);
    return r;
}

/* Checks and copies the arguments of the caller. Returns 0 or a negative errno. */
static int begin(struct lv_stream *lv, virStreamPtr stream, const options_t *given, uint64_t flags,
                 options_t *options, struct sparsestream_transfer_options *transfer, failure_t *failure)
{
    int r;

    lv_stream_init(lv, stream, failure);
    lv->guarded = true;
    r = options_read(given, flags, options, failure);
    if (r == 0)
        r = options_transfer(options, transfer, failure);
    if (r == 0)
        r = options_only_auto(options, failure);
    if (r < 0)
        return r;
    if (stream == NULL)
        return error_set(failure, -EINVAL, "the stream is NULL");
    return 0;
}

int sparsestream_libvirt_send(struct sparsestream_source *source, virStreamPtr stream, const options_t *given,
                              struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct sparsestream_sink *sink = NULL;
    struct lv_stream lv;
    options_t options;
    failure_t failure;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(&lv, stream, given, 0, &options, &transfer, &failure);
    if (r == 0 && (r = sparsestream_sink_to_stream(&lv_stream_ops, &lv, &sink)) < 0)
        error_set(&failure, r, "%s", sparsestream_last_error());
    if (r == 0)
        r = run_to_end(source, sink, &transfer, stats, &failure);
    sparsestream_sink_free(sink);
    error_give(&failure, failure_out);
    return r;
}

int sparsestream_libvirt_recv(virStreamPtr stream, struct sparsestream_sink *sink, const options_t *given,
                              struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct sparsestream_source *source = NULL;
    struct lv_stream lv;
    options_t options;
    failure_t failure;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(&lv, stream, given, SPARSESTREAM_LIBVIRT_NO_PAUSE, &options, &transfer, &failure);
    if (r == 0 && (r = sparsestream_source_from_stream(&lv_stream_ops, &lv, &source)) < 0)
        error_set(&failure, r, "%s", sparsestream_last_error());
    if (r == 0) {
        if ((options.flags & SPARSESTREAM_LIBVIRT_NO_PAUSE) == 0)
            lv.pause = pause_new(true);
        r = run_to_end(source, sink, &transfer, stats, &failure);
        /* A transfer that was not run has neither finished nor aborted the stream. */
        pause_free(lv.pause);
    }
    sparsestream_source_free(source);
    error_give(&failure, failure_out);
    return r;
}
