/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The driver: a transfer between the file and one end of a channel runs in a thread, and the functions of the table
 * use the other end.
 *
 *     cc -c stream-driver.c $(pkg-config --cflags sparsestream)
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "stream-driver.h"

#include <sparsestream.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_STREAMS = 64, MOST_FDS = 8 };

struct stream {
    int fd;
    bool writes, nonblocking, ended;
    /* The daemon's end of the channel: either a source or a sink. */
    sparsestream_sink *sink;
    sparsestream_source *source;
    /* The rest of a hole that the channel has not taken yet. */
    int64_t hole_left;
    /* The thread's. */
    pthread_t worker;
    sparsestream_transfer *transfer;
    int events;
    stream_event *callback;
    void *opaque;
    int error;
    char message[256];
};

static int fail(struct stream *stream, int64_t error)
{
    stream->error = (int)-error;
    snprintf(stream->message, sizeof(stream->message), "%s", sparsestream_last_error());
    return -1;
}

int stream_error(const struct stream *stream)
{
    return stream->error;
}

const char *stream_message(const struct stream *stream)
{
    return stream->message;
}

/* ---- Waiting for the channel ---- */

static int ask(const struct stream *stream, sparsestream_wait *wait)
{
    *wait = (sparsestream_wait){ .size = sizeof(*wait) };
    return stream->writes ? sparsestream_sink_wait(stream->sink, wait) : sparsestream_source_wait(stream->source, wait);
}

/* After -EAGAIN: 0 when the channel is ready, STREAM_NOT_READY in non-blocking mode, or -1. */
static int not_ready(struct stream *stream)
{
    struct pollfd pollfds[MOST_FDS];
    sparsestream_wait wait;
    int r;

    if (stream->nonblocking)
        return STREAM_NOT_READY;
    r = ask(stream, &wait);
    if (r < 0)
        return fail(stream, r);
    for (int i = 0; i < wait.count; i++)
        pollfds[i] = (struct pollfd){ .fd = wait.fds[i].fd, .events = (short)wait.fds[i].events };
    if (poll(pollfds, (nfds_t)wait.count, wait.timeout_ms) < 0 && errno != EINTR)
        return fail(stream, -errno);
    return 0;
}

/* Returns 0 if a call must be repeated; otherwise its result is in `*answer`. */
static int again(struct stream *stream, int64_t result, int *answer)
{
    if (result == -EINTR)
        return 0;
    if (result != -EAGAIN)
        *answer = result < 0 ? fail(stream, result) : (int)result;
    else if ((*answer = not_ready(stream)) == 0)
        return 0;
    return 1;
}

/* ---- Data and holes ---- */

static int driver_send(struct stream *stream, const char *data, size_t length)
{
    int answer;

    while (again(stream, sparsestream_sink_write(stream->sink, data, length), &answer) == 0)
        ;
    return answer;
}

static int driver_send_hole(struct stream *stream, int64_t length)
{
    int answer = 0;

    if (stream->hole_left == 0)
        stream->hole_left = length;
    while (stream->hole_left > 0) {
        int64_t taken = sparsestream_sink_hole(stream->sink, stream->hole_left);

        if (taken > 0)
            stream->hole_left -= taken;
        else if (again(stream, taken, &answer) != 0)
            return answer;
    }
    return 0;
}

static int section(struct stream *stream, sparsestream_section *next)
{
    int answer;

    *next = (sparsestream_section){ .size = sizeof(*next) };
    while (again(stream, sparsestream_source_section(stream->source, next), &answer) == 0)
        ;
    return answer;
}

static int skip(struct stream *stream, int64_t length)
{
    int answer;

    while (again(stream, sparsestream_source_skip(stream->source, length), &answer) == 0)
        ;
    return answer;
}

/* A caller that does not handle holes reads zeros. */
static int recv_zeros(struct stream *stream, char *data, size_t length)
{
    sparsestream_section next;
    int r = section(stream, &next);

    if (r != 0)
        return r;
    if ((int64_t)length > next.length)
        length = (size_t)next.length;
    memset(data, 0, length);
    r = skip(stream, (int64_t)length);
    return r != 0 ? r : (int)length;
}

static int driver_recv(struct stream *stream, char *data, size_t length, unsigned int flags)
{
    int64_t got;
    int answer;

    do {
        got = sparsestream_source_read(stream->source, data, length);
        if (got == SPARSESTREAM_AT_HOLE)
            return (flags & STREAM_STOP_AT_HOLE) != 0 ? STREAM_HOLE_NEXT : recv_zeros(stream, data, length);
    } while (again(stream, got, &answer) == 0);
    return answer;
}

static int driver_recv_hole(struct stream *stream, int64_t *length)
{
    sparsestream_section next;
    int r = section(stream, &next);

    if (r != 0)
        return r;
    *length = next.kind == SPARSESTREAM_HOLE ? next.length : 0;
    return *length == 0 ? 0 : skip(stream, *length);
}

static int driver_in_data(struct stream *stream, bool *in_data, int64_t *length)
{
    sparsestream_section next;
    int r = section(stream, &next);

    if (r != 0)
        return r;
    *in_data = next.kind == SPARSESTREAM_DATA;
    *length = next.length;
    return 0;
}

/* ---- Events ---- */

static int driver_event_add(struct stream *stream, int events, stream_event *callback, void *opaque)
{
    stream->events = events;
    stream->callback = callback;
    stream->opaque = opaque;
    return 0;
}

static int driver_event_update(struct stream *stream, int events)
{
    stream->events = events;
    return 0;
}

static int driver_event_remove(struct stream *stream)
{
    return driver_event_add(stream, 0, NULL, NULL);
}

static int events_of(const struct stream *stream)
{
    return stream->callback == NULL || stream->ended ? 0
           : stream->events & (stream->writes ? STREAM_WRITABLE : STREAM_READABLE);
}

int stream_dispatch(struct stream *const *streams, size_t count, int timeout_ms)
{
    struct pollfd pollfds[MOST_STREAMS];
    int called = 0;

    for (size_t i = 0; i < count && i < MOST_STREAMS; i++) {
        sparsestream_wait wait;

        pollfds[i] = (struct pollfd){ .fd = -1 };
        if (events_of(streams[i]) == 0 || ask(streams[i], &wait) < 0)
            continue;
        /* An end of a channel has one descriptor while it waits; without one it is ready. */
        if (wait.count == 0)
            timeout_ms = 0;
        else
            pollfds[i] = (struct pollfd){ .fd = wait.fds[0].fd, .events = (short)wait.fds[0].events };
    }
    if (poll(pollfds, (nfds_t)count, timeout_ms) < 0)
        return 0;
    for (size_t i = 0; i < count && i < MOST_STREAMS; i++) {
        int events = events_of(streams[i]);

        if (events != 0 && (pollfds[i].fd < 0 || pollfds[i].revents != 0)) {
            called++;
            streams[i]->callback(streams[i], events, streams[i]->opaque);
        }
    }
    return called;
}

/* ---- The end, and the beginning ---- */

static void join(struct stream *stream)
{
    stream->ended = true;
    pthread_join(stream->worker, NULL);
}

static int driver_finish(struct stream *stream)
{
    bool nonblocking = stream->nonblocking;
    int answer;

    /* A daemon finishes once; the file's last write is waited for here. */
    stream->nonblocking = false;
    while (again(stream, stream->writes ? sparsestream_sink_finish(stream->sink)
                                        : sparsestream_source_finish(stream->source), &answer) == 0)
        ;
    stream->nonblocking = nonblocking;
    join(stream);
    return answer;
}

static int driver_abort(struct stream *stream)
{
    if (stream->writes)
        sparsestream_sink_abort(stream->sink, ECANCELED);
    else
        sparsestream_source_abort(stream->source, ECANCELED);
    /* The file's side may be waiting for a FIFO. */
    sparsestream_transfer_cancel(stream->transfer);
    join(stream);
    return 0;
}

const struct stream_driver stream_driver = {
    .send = driver_send,
    .recv = driver_recv,
    .send_hole = driver_send_hole,
    .recv_hole = driver_recv_hole,
    .in_data = driver_in_data,
    .event_add = driver_event_add,
    .event_update = driver_event_update,
    .event_remove = driver_event_remove,
    .finish = driver_finish,
    .abort = driver_abort,
};

/* The channel passes on the result of the transfer, so the thread need not report it. */
static void *work(void *opaque)
{
    struct stream *stream = opaque;

    sparsestream_transfer_run(stream->transfer, 0);
    return NULL;
}

static int start_worker(struct stream *stream)
{
    sigset_t all, before;
    int r;

    /* The daemon's own threads handle signals. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = -pthread_create(&stream->worker, NULL, work, stream);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

/*
 * As in libvirt, a range may end beyond the end of the source. The end of a file is known now: the file is read up to
 * that end, and it is an error if the file becomes shorter. The end of a FIFO is not known.
 */
static sparsestream_source_options range_of(int fd, int64_t offset, int64_t length)
{
    sparsestream_source_options options = { .size = sizeof(options), .offset = offset, .length = length };
    struct stat st;

    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        if (length > st.st_size - offset)
            options.length = 0;
    } else {
        options.flags = SPARSESTREAM_AT_MOST;
    }
    return options;
}

/* Makes the channel and the transfer to or from the file. Returns 0 or a negative errno. */
static int connect_file(struct stream *stream, int64_t offset, int64_t length)
{
    const sparsestream_source_options source_options = range_of(stream->fd, offset, length);
    const sparsestream_sink_options sink_options = { .size = sizeof(sink_options), .offset = offset, .length = length };
    sparsestream_source *from = NULL, *source = NULL;
    sparsestream_sink *to = NULL, *sink = NULL;
    int r = sparsestream_channel(NULL, &sink, &source);

    if (r == 0 && stream->writes)
        r = sparsestream_sink_to_fd(stream->fd, &sink_options, &to);
    else if (r == 0)
        r = sparsestream_source_from_fd(stream->fd, &source_options, &from);
    if (r == 0)
        r = sparsestream_transfer_new(stream->writes ? source : from, stream->writes ? to : sink, NULL,
                                      &stream->transfer);
    /* The transfer holds its ends. */
    sparsestream_source_free(from);
    sparsestream_sink_free(to);
    stream->sink = stream->writes ? sink : NULL;
    stream->source = stream->writes ? NULL : source;
    sparsestream_sink_free(stream->writes ? NULL : sink);
    sparsestream_source_free(stream->writes ? source : NULL);
    return r;
}

void stream_free(struct stream *stream)
{
    if (stream == NULL)
        return;
    if (!stream->ended)
        driver_abort(stream);
    sparsestream_transfer_free(stream->transfer);
    sparsestream_sink_free(stream->sink);
    sparsestream_source_free(stream->source);
    close(stream->fd);
    free(stream);
}

int stream_open(int fd, bool writes, int64_t offset, int64_t length, bool nonblocking, struct stream **out)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    int r;

    *out = NULL;
    if (stream == NULL) {
        close(fd);
        return -ENOMEM;
    }
    stream->fd = fd;
    stream->writes = writes;
    stream->nonblocking = nonblocking;
    r = connect_file(stream, offset, length);
    if (r == 0)
        r = start_worker(stream);
    if (r < 0) {
        stream->ended = true;
        stream_free(stream);
        return r;
    }
    *out = stream;
    return 0;
}
