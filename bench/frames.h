/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Code as a daemon's author would write it: a stream over a socket with the smallest framing that carries holes,
 * and a file to read or write. The library calls these as callbacks; the plain C loop calls them itself.
 *
 * A frame is a header of a hole's length and a data length, in the host's byte order, and the data. No data ends
 * the stream. All waits. Failures are negative errnos.
 */
#ifndef BENCH_FRAMES_H
#define BENCH_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAMES_AT_HOLE (-4096)

struct frames {
    int socket;
    int64_t hole; /* sending: not yet sent; receiving: not yet handed on */
    int64_t data; /* receiving: left of the frame's data */
    bool ended;
};

int64_t frames_send(void *stream, const void *buffer, size_t length);
int frames_send_hole(void *stream, int64_t length);
int frames_send_end(void *stream);
int64_t frames_recv(void *stream, void *buffer, size_t length);
int frames_recv_hole(void *stream, int64_t *length);

struct file {
    int fd;
    int64_t at;
    int64_t size;
    int64_t data_start; /* reading: the last answer of the map, so that a boundary is asked for once */
    int64_t data_end;
};

/* A file at its start. `size` is where reading ends. */
struct file file_of(int fd, int64_t size);
int file_in_data(void *file, bool *in_data, int64_t *length);
int64_t file_read(void *file, void *buffer, size_t length);
int file_skip(void *file, int64_t length);
int64_t file_write(void *file, const void *buffer, size_t length);
int file_hole(void *file, int64_t length);

#endif
