/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A stream driver in the shape of libvirt's: a table of functions over a file, a block device, a FIFO or any other
 * descriptor, as a daemon calls them for each message of a client.
 *
 * File I/O is done by a thread of each stream. The daemon's thread never waits for a disk, unless the stream is in
 * blocking mode.
 */
#ifndef STREAM_DRIVER_H
#define STREAM_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stream;

/* Events, and flags for `recv`. */
enum { STREAM_READABLE = 1, STREAM_WRITABLE = 2 };
enum { STREAM_STOP_AT_HOLE = 1 };

/* Answers beside a count and -1, after which stream_error() has the errno. */
enum { STREAM_NOT_READY = -2, STREAM_HOLE_NEXT = -3 };

typedef void stream_event(struct stream *stream, int events, void *opaque);

struct stream_driver {
    int (*send)(struct stream *stream, const char *data, size_t length);
    int (*recv)(struct stream *stream, char *data, size_t length, unsigned int flags);
    /* Takes all of the hole. In non-blocking mode it may take nothing instead. */
    int (*send_hole)(struct stream *stream, int64_t length);
    /* Takes the next hole. The length is 0 if no hole comes next. */
    int (*recv_hole)(struct stream *stream, int64_t *length);
    /* At the end: false and 0. A length of -1 is not known. */
    int (*in_data)(struct stream *stream, bool *in_data, int64_t *length);
    int (*event_add)(struct stream *stream, int events, stream_event *callback, void *opaque);
    int (*event_update)(struct stream *stream, int events);
    int (*event_remove)(struct stream *stream);
    /* Waits until the file has all of the data, and returns the result. */
    int (*finish)(struct stream *stream);
    int (*abort)(struct stream *stream);
};

extern const struct stream_driver stream_driver;

/*
 * Opens a stream that reads (`writes` false) or writes `length` bytes of the descriptor from `offset` on; a length of 0
 * means to the end. The descriptor is closed with the stream, and if this fails. Returns 0 or a negative errno.
 */
int stream_open(int fd, bool writes, int64_t offset, int64_t length, bool nonblocking, struct stream **stream);
/* Aborts it if it is neither finished nor aborted. */
void stream_free(struct stream *stream);
/* The errno of the last -1, and its message. */
int stream_error(const struct stream *stream);
const char *stream_message(const struct stream *stream);

/*
 * One turn of an event loop over these streams: waits for at most `timeout_ms` and calls the callbacks of those that are
 * ready. A daemon watches the descriptors in its own loop instead. Returns the number of callbacks that were made.
 */
int stream_dispatch(struct stream *const *streams, size_t count, int timeout_ms);

#endif
