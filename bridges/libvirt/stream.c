/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A libvirt stream as an end of a transfer. */

#include "internal.h"

#include <errno.h>
#include <string.h>

/* Return values of virStreamSend and virStreamRecvFlags other than a count and -1. */
#define NOT_READY (-2)
#define HOLE_NEXT (-3)

static void guard(const struct lv_stream *stream, struct sigpipe *saved)
{
    if (!stream->guarded)
        sigpipe_block(saved);
}

static void unguard(const struct lv_stream *stream, const struct sigpipe *saved)
{
    if (!stream->guarded)
        sigpipe_restore(saved);
}

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

/* Remembers the end of what was sent, up to its last byte that is not zero: it can be distinguished from a
 * write that was lost. */
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

static int64_t send_data(struct lv_stream *stream, const void *buffer, size_t length)
{
    struct sigpipe saved;
    int64_t room;
    int sent;

    if (stream->lost)
        return connection_lost(stream);
    room = room_for(stream, length < SPARSESTREAM_LIBVIRT_MESSAGE ? (int64_t) length : SPARSESTREAM_LIBVIRT_MESSAGE);
    if (room < 0)
        return room;
    guard(stream, &saved);
    sent = virStreamSend(stream->stream, buffer, (size_t) room);
    unguard(stream, &saved);
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

    guard(stream, &saved);
    r = virStreamSendHole(stream->stream, length, 0);
    unguard(stream, &saved);
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

static int64_t send_hole(struct lv_stream *stream, int64_t length)
{
    const int64_t room = room_for(stream, length);
    int r;

    if (stream->lost)
        return connection_lost(stream);
    if (room < 0)
        return room;
    if (room < length)
        return error_set(stream->failure, -EFBIG, "more than the %lld bytes of the range", (long long) stream->length);
    r = stream->split == SPLIT_FIRST || stream->split == SPLIT_REST ? send_first_hole(stream, length)
                                                                    : send_hole_message(stream, length);
    if (r < 0)
        return r;
    stream->position += length;
    return length;
}

static int64_t receive_data(struct lv_stream *stream, void *buffer, size_t length)
{
    struct sigpipe saved;
    int got;

    if (stream->lost)
        return connection_lost(stream);
    if (length > SPARSESTREAM_LIBVIRT_MESSAGE)
        length = SPARSESTREAM_LIBVIRT_MESSAGE;
    guard(stream, &saved);
    pause_before(stream->pause);
    got = virStreamRecvFlags(stream->stream, buffer, length, VIR_STREAM_RECV_STOP_AT_HOLE);
    pause_after(stream->pause, (int64_t) length, got, got == HOLE_NEXT);
    unguard(stream, &saved);
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

static int receive_hole(struct lv_stream *stream, int64_t *length)
{
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
    pause_free(stream->pause);
    stream->pause = NULL;
    if (stream->closing != NULL)
        stream->closing(stream->opaque);
}

static void abort_stream(struct lv_stream *stream)
{
    struct sigpipe saved;

    close_stream(stream);
    if (stream->lost)
        return;
    guard(stream, &saved);
    virStreamAbort(stream->stream);
    unguard(stream, &saved);
}

static int finish_stream(struct lv_stream *stream)
{
    struct sigpipe saved;
    int r;

    if (stream->lost)
        return connection_lost(stream);
    if (stream->length >= 0 && stream->position < stream->length) {
        abort_stream(stream);
        return error_set(stream->failure, -ENODATA, "the source ended after %lld of %lld bytes",
                         (long long) stream->position, (long long) stream->length);
    }
    close_stream(stream);
    guard(stream, &saved);
    r = virStreamFinish(stream->stream);
    unguard(stream, &saved);
    return r < 0 ? error_take(stream->failure) : 0;
}

/* The table: each failure with its text. */

static int64_t with_text(const struct lv_stream *stream, int64_t result)
{
    if (result < 0 && result != -EAGAIN && result != SPARSESTREAM_AT_HOLE)
        sparsestream_set_error((int) -result, SPARSESTREAM_OPERATION_NONE, -1, stream->failure->message);
    return result;
}

static int64_t op_send(void *stream, const void *buffer, size_t length)
{
    return with_text(stream, send_data(stream, buffer, length));
}

static int64_t op_send_hole(void *stream, int64_t length)
{
    return with_text(stream, send_hole(stream, length));
}

static int64_t op_recv(void *stream, void *buffer, size_t length)
{
    return with_text(stream, receive_data(stream, buffer, length));
}

static int op_recv_hole(void *stream, int64_t *length)
{
    return (int) with_text(stream, receive_hole(stream, length));
}

static int op_finish(void *stream)
{
    return (int) with_text(stream, finish_stream(stream));
}

static void op_abort(void *stream, int error)
{
    (void) error;
    abort_stream(stream);
}

const struct sparsestream_stream_ops lv_stream_ops = {
    .size = sizeof(lv_stream_ops),
    .preferred = SPARSESTREAM_LIBVIRT_MESSAGE,
    .send = op_send,
    .send_hole = op_send_hole,
    .recv = op_recv,
    .recv_hole = op_recv_hole,
    .finish = op_finish,
    .abort = op_abort,
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
        abort_stream(stream);
}
