/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A libvirt stream as an end of a transfer. */

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* What virStreamSend and virStreamRecvFlags return beside a count and -1. */
#define NOT_READY (-2)
#define HOLE_NEXT (-3)

static int not_ready(const struct lv_stream *stream)
{
    if (stream->nonblocking)
        return -EAGAIN;
    return error_set(stream->failure, -EINVAL, "the stream is in non-blocking mode");
}

static int connection_lost(const struct lv_stream *stream)
{
    return error_set(stream->failure, -ECONNRESET, "the connection to the daemon is lost");
}

/* How much of `length` bytes has room in what the stream may have; at least 1, or a negative errno. */
static int64_t room_for(const struct lv_stream *stream, int64_t length)
{
    int64_t left;

    if (stream->length < 0)
        return length;
    left = stream->length - stream->position;
    if (left <= 0)
        return error_set(stream->failure, -EFBIG, "more than the %lld bytes of the range", (long long) stream->length);
    return length < left ? length : left;
}

/* Remembers the end of what was sent, up to its last byte that is not zero: it can be told from a write that was lost. */
static void keep_tail(struct lv_stream *stream, const unsigned char *bytes, size_t length)
{
    size_t end = length, start;

    while (end > 0 && bytes[end - 1] == 0) {
        /* Whole blocks of zeros at the speed of memcmp. */
        if (end > TAIL_SIZE && memcmp(bytes + end - TAIL_SIZE, bytes + end - TAIL_SIZE + 1, TAIL_SIZE - 1) == 0)
            end -= TAIL_SIZE - 1;
        else
            end--;
    }
    if (end == 0)
        return;
    start = end > TAIL_SIZE ? end - TAIL_SIZE : 0;
    memcpy(stream->tail, bytes + start, end - start);
    stream->tail_at = stream->position + (int64_t) start;
    stream->tail_length = end - start;
}

static int64_t send_data(void *opaque, const void *buffer, size_t length)
{
    struct lv_stream *stream = opaque;
    struct sigpipe saved;
    int64_t room;
    int sent;

    if (stream->lost)
        return connection_lost(stream);
    room = room_for(stream, length < SPARSESTREAM_LIBVIRT_MESSAGE ? (int64_t) length : SPARSESTREAM_LIBVIRT_MESSAGE);
    if (room < 0)
        return room;
    sigpipe_block(&saved);
    sent = virStreamSend(stream->stream, buffer, (size_t) room);
    sigpipe_restore(&saved);
    if (sent == NOT_READY)
        return not_ready(stream);
    if (sent < 0)
        return error_take(stream->failure);
    if (stream->keep_tail)
        keep_tail(stream, buffer, (size_t) sent);
    stream->position += sent;
    return sent;
}

/* One hole message. */
static int send_hole_message(struct lv_stream *stream, int64_t length)
{
    struct sigpipe saved;
    int r;

    sigpipe_block(&saved);
    r = virStreamSendHole(stream->stream, length, 0);
    sigpipe_restore(&saved);
    if (r == NOT_READY)
        return not_ready(stream);
    return r < 0 ? error_take(stream->failure) : 0;
}

/* The daemon makes a hole by ftruncate at its end. After the first byte's the file ends there, so that the rest is new. */
static int send_first_hole(struct lv_stream *stream, int64_t length)
{
    int r = 0;

    if (stream->split == SPLIT_FIRST) {
        r = send_hole_message(stream, 1);
        if (r < 0)
            return r;
        stream->split_at = stream->position;
        stream->split = SPLIT_REST;
    }
    if (length > 1)
        r = send_hole_message(stream, length - 1);
    if (r == 0)
        stream->split = SPLIT_DONE;
    return r;
}

static int send_hole(void *opaque, int64_t length)
{
    struct lv_stream *stream = opaque;
    const int64_t room = room_for(stream, length);
    int r;

    if (stream->lost)
        return connection_lost(stream);
    if (room < 0)
        return (int) room;
    if (room < length)
        return error_set(stream->failure, -EFBIG, "more than the %lld bytes of the range", (long long) stream->length);
    r = stream->split == SPLIT_FIRST || stream->split == SPLIT_REST ? send_first_hole(stream, length)
                                                                    : send_hole_message(stream, length);
    if (r == 0)
        stream->position += length;
    return r;
}

static int64_t receive_data(void *opaque, void *buffer, size_t length)
{
    struct lv_stream *stream = opaque;
    struct sigpipe saved;
    int got;

    if (stream->lost)
        return connection_lost(stream);
    if (length > SPARSESTREAM_LIBVIRT_MESSAGE)
        length = SPARSESTREAM_LIBVIRT_MESSAGE;
    pause_reading(stream->pause, true);
    sigpipe_block(&saved);
    got = virStreamRecvFlags(stream->stream, buffer, length, VIR_STREAM_RECV_STOP_AT_HOLE);
    sigpipe_restore(&saved);
    pause_reading(stream->pause, false);
    if (got == HOLE_NEXT)
        return SPARSESTREAM_AT_HOLE;
    if (got == NOT_READY)
        return not_ready(stream);
    if (got < 0)
        return error_take(stream->failure);
    if (got == 0 && stream->length >= 0 && stream->position < stream->length)
        return error_set(stream->failure, -ENODATA, "the daemon ended the stream after %lld of %lld bytes",
                         (long long) stream->position, (long long) stream->length);
    if (got > 0 && stream->length >= 0 && got > stream->length - stream->position)
        return error_set(stream->failure, -EFBIG, "the daemon sent more than %lld bytes", (long long) stream->length);
    stream->position += got;
    return got;
}

static int receive_hole(void *opaque, int64_t *length)
{
    struct lv_stream *stream = opaque;
    long long got = 0;
    int r;

    r = virStreamRecvHole(stream->stream, &got, 0);
    if (r == NOT_READY)
        return not_ready(stream);
    if (r < 0)
        return error_take(stream->failure);
    if (got <= 0)
        return error_set(stream->failure, -EPROTO, "the daemon sent a hole of %lld bytes", got);
    if (stream->length >= 0 && got > stream->length - stream->position)
        return error_set(stream->failure, -EFBIG, "the daemon sent more than %lld bytes", (long long) stream->length);
    stream->position += got;
    *length = got;
    return 0;
}

/* The stream is about to be finished or aborted. */
static void close_stream(struct lv_stream *stream)
{
    stream->open = false;
    if (stream->closing != NULL)
        stream->closing(stream->opaque);
}

static void abort_stream(void *opaque, int error)
{
    struct lv_stream *stream = opaque;
    struct sigpipe saved;

    (void) error;
    close_stream(stream);
    if (stream->lost)
        return;
    sigpipe_block(&saved);
    virStreamAbort(stream->stream);
    sigpipe_restore(&saved);
}

static int finish_stream(void *opaque)
{
    struct lv_stream *stream = opaque;
    struct sigpipe saved;
    int r;

    if (stream->lost)
        return connection_lost(stream);
    if (stream->length >= 0 && stream->position < stream->length) {
        abort_stream(stream, ENODATA);
        return error_set(stream->failure, -ENODATA, "the source ended after %lld of %lld bytes",
                         (long long) stream->position, (long long) stream->length);
    }
    close_stream(stream);
    sigpipe_block(&saved);
    r = virStreamFinish(stream->stream);
    sigpipe_restore(&saved);
    return r < 0 ? error_take(stream->failure) : 0;
}

const struct sparsestream_stream_ops lv_stream_ops = {
    .size = sizeof(lv_stream_ops),
    .send = send_data,
    .send_hole = send_hole,
    .recv = receive_data,
    .recv_hole = receive_hole,
    .finish = finish_stream,
    .abort = abort_stream,
};

void lv_stream_init(struct lv_stream *stream, virStreamPtr wrapped, failure_t *failure)
{
    memset(stream, 0, sizeof(*stream));
    stream->stream = wrapped;
    stream->failure = failure;
    stream->open = true;
    stream->length = -1;
    stream->split_at = -1;
    error_clear(failure);
}

void lv_stream_abort(struct lv_stream *stream)
{
    if (stream->open)
        abort_stream(stream, ECANCELED);
}

/* Waits for the caller's descriptor. The stream itself blocks. */
static int wait_for_end(struct sparsestream_transfer *transfer)
{
    struct sparsestream_wait wait = { .size = sizeof(wait) };
    struct pollfd pollfd;
    int r = sparsestream_transfer_wait(transfer, &wait);

    if (r < 0)
        return r;
    if (wait.fd < 0 && wait.side != SPARSESTREAM_SIDE_NONE)
        return -EAGAIN;
    pollfd = (struct pollfd){ .fd = wait.fd, .events = (short) wait.events };
    if (poll(&pollfd, 1, wait.timeout_ms) < 0 && errno != EINTR)
        return -errno;
    return 0;
}

static int run_to_end(struct lv_stream *stream, struct sparsestream_source *source, struct sparsestream_sink *sink,
                      const struct sparsestream_transfer_options *options, struct sparsestream_stats *stats)
{
    struct sparsestream_error told = { .size = sizeof(told), .offset = -1 };
    struct sparsestream_transfer *transfer = NULL;
    int waited = 0, r;

    r = sparsestream_transfer_new(source, sink, options, &transfer);
    if (r < 0)
        return error_set(stream->failure, r, "%s", sparsestream_last_error());
    do
        r = sparsestream_transfer_run(transfer, 0);
    while (r == -EAGAIN && (waited = wait_for_end(transfer)) == 0);
    if (waited < 0)
        r = waited;
    if (stats != NULL)
        sparsestream_transfer_stats(transfer, stats);
    if (r < 0) {
        sparsestream_transfer_error(transfer, &told);
        error_add_transfer(stream->failure, r, &told);
    }
    sparsestream_transfer_free(transfer);
    return r;
}

int stream_send(struct lv_stream *stream, struct sparsestream_source *source,
                const struct sparsestream_transfer_options *transfer, struct sparsestream_stats *stats)
{
    struct sparsestream_sink *sink = NULL;
    int r = sparsestream_sink_to_stream(&lv_stream_ops, stream, &sink);

    if (r < 0)
        return error_set(stream->failure, r, "%s", sparsestream_last_error());
    r = run_to_end(stream, source, sink, transfer, stats);
    sparsestream_sink_free(sink);
    return r;
}

int stream_recv(struct lv_stream *stream, struct sparsestream_sink *sink,
                const struct sparsestream_transfer_options *transfer, struct sparsestream_stats *stats)
{
    struct sparsestream_source *source = NULL;
    int r = sparsestream_source_from_stream(&lv_stream_ops, stream, &source);

    if (r < 0)
        return error_set(stream->failure, r, "%s", sparsestream_last_error());
    r = run_to_end(stream, source, sink, transfer, stats);
    sparsestream_source_free(source);
    return r;
}
