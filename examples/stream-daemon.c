/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Acts as a daemon: reads a stream from SOURCE and writes it to a stream of TARGET, in messages like those of libvirt.
 * One event loop drives both streams, or both block.
 *
 *     stream-daemon [--blocking] SOURCE TARGET [OFFSET [LENGTH]]
 *
 *     cc -o stream-daemon stream-daemon.c stream-driver.c $(pkg-config --cflags --libs sparsestream) -pthread
 *
 * OFFSET and LENGTH are the range of both. TARGET must exist.
 */

#define _GNU_SOURCE
#include "stream-driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A message of libvirt's protocol. */
enum { MESSAGE = 262120 };

struct relay {
    struct stream *from, *to;
    char message[MESSAGE];
    /* Bytes of the message: received, and sent. */
    int filled, sent;
    int64_t hole;
    bool ended;
    const struct stream *failed;
};

static void fail(struct relay *relay, const struct stream *stream)
{
    relay->failed = stream;
    relay->ended = true;
}

/* Takes the next data or hole. False if there is none yet. */
static bool receive(struct relay *relay)
{
    int got = stream_driver.recv(relay->from, relay->message, sizeof(relay->message), STREAM_STOP_AT_HOLE);

    if (got == STREAM_HOLE_NEXT)
        got = stream_driver.recv_hole(relay->from, &relay->hole);
    else if (got >= 0)
        relay->ended = got == 0;
    if (got == STREAM_NOT_READY)
        return false;
    if (got < 0)
        fail(relay, relay->from);
    relay->filled = relay->hole > 0 || got < 0 ? 0 : got;
    relay->sent = 0;
    return true;
}

/* Sends what was received. False if it cannot all be sent yet. */
static bool send_on(struct relay *relay)
{
    int r;

    if (relay->hole > 0) {
        r = stream_driver.send_hole(relay->to, relay->hole);
        if (r == 0)
            relay->hole = 0;
    } else {
        r = stream_driver.send(relay->to, relay->message + relay->sent, (size_t)(relay->filled - relay->sent));
        if (r > 0)
            relay->sent += r;
    }
    if (r == -1)
        fail(relay, relay->to);
    return r != STREAM_NOT_READY;
}

static bool is_pending(const struct relay *relay)
{
    return relay->hole > 0 || relay->sent < relay->filled;
}

/* Moves as much as is possible now, and reports what to wait for. */
static void on_event(struct stream *stream, int events, void *opaque)
{
    struct relay *relay = opaque;
    bool ready = true;

    (void)stream;
    (void)events;
    while (ready && !relay->ended)
        ready = is_pending(relay) ? send_on(relay) : receive(relay);
    stream_driver.event_update(relay->from, is_pending(relay) ? 0 : STREAM_READABLE);
    stream_driver.event_update(relay->to, is_pending(relay) ? STREAM_WRITABLE : 0);
}

/* Returns 0, or 1 after a message. */
static int run(struct relay *relay)
{
    struct stream *const streams[] = { relay->from, relay->to };

    stream_driver.event_add(relay->from, STREAM_READABLE, on_event, relay);
    stream_driver.event_add(relay->to, 0, on_event, relay);
    while (!relay->ended)
        stream_dispatch(streams, 2, -1);
    if (relay->failed == NULL && stream_driver.finish(relay->to) < 0)
        relay->failed = relay->to;
    if (relay->failed == NULL && stream_driver.finish(relay->from) < 0)
        relay->failed = relay->from;
    if (relay->failed != NULL)
        fprintf(stderr, "stream-daemon: %s\n", stream_message(relay->failed));
    return relay->failed != NULL;
}

static struct stream *open_stream(const char *path, bool writes, int64_t offset, int64_t length, bool nonblocking)
{
    int fd = open(path, (writes ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
    struct stream *stream = NULL;
    int r = fd < 0 ? -errno : stream_open(fd, writes, offset, length, nonblocking, &stream);

    if (r < 0)
        fprintf(stderr, "stream-daemon: %s: %s\n", path, strerror(-r));
    return stream;
}

int main(int argc, char **argv)
{
    static struct relay relay;
    bool nonblocking = argc < 2 || strcmp(argv[1], "--blocking") != 0;
    char **operands = argv + (nonblocking ? 1 : 2);
    int count = argc - (nonblocking ? 1 : 2), r = 1;

    if (count < 2 || count > 4) {
        fprintf(stderr, "usage: stream-daemon [--blocking] SOURCE TARGET [OFFSET [LENGTH]]\n");
        return 2;
    }
    int64_t offset = count > 2 ? atoll(operands[2]) : 0, length = count > 3 ? atoll(operands[3]) : 0;

    relay.from = open_stream(operands[0], false, offset, length, nonblocking);
    if (relay.from != NULL)
        relay.to = open_stream(operands[1], true, offset, length, nonblocking);
    if (relay.to != NULL)
        r = run(&relay);
    stream_free(relay.to);
    stream_free(relay.from);
    return r;
}
