/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#define _GNU_SOURCE
#include "frames.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
    uint64_t hole;
    uint64_t data;
};

static int64_t send_frame(struct frames *frames, const void *buffer, size_t length)
{
    struct header header = { .hole = (uint64_t)frames->hole, .data = length };
    struct iovec parts[2] = {
        { .iov_base = &header, .iov_len = sizeof header },
        { .iov_base = (void *)buffer, .iov_len = length },
    };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
    size_t left = sizeof header + length;

    while (left > 0) {
        const ssize_t count = sendmsg(frames->socket, &message, MSG_NOSIGNAL);
        size_t taken;

        if (count < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        left -= (size_t)count;
        taken = (size_t)count < parts[0].iov_len ? (size_t)count : parts[0].iov_len;
        parts[0].iov_base = (char *)parts[0].iov_base + taken;
        parts[0].iov_len -= taken;
        parts[1].iov_base = (char *)parts[1].iov_base + ((size_t)count - taken);
        parts[1].iov_len -= (size_t)count - taken;
    }
    frames->hole = 0;
    return (int64_t)length;
}

int64_t frames_send(void *stream, const void *buffer, size_t length)
{
    return send_frame(stream, buffer, length);
}

int frames_send_hole(void *stream, int64_t length)
{
    struct frames *const frames = stream;

    frames->hole += length;
    return 0;
}

int frames_send_end(void *stream)
{
    return (int)send_frame(stream, NULL, 0);
}

/* Receives all of it: a count, or a negative errno; an early end is one too. */
static int64_t receive(int socket, void *buffer, size_t length)
{
    size_t done = 0;

    while (done < length) {
        const ssize_t count = recv(socket, (char *)buffer + done, length - done, MSG_WAITALL);

        if (count == 0)
            return -ECONNRESET;
        if (count < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        done += (size_t)count;
    }
    return (int64_t)done;
}

int64_t frames_recv(void *stream, void *buffer, size_t length)
{
    struct frames *const frames = stream;
    int64_t count;

    if (frames->data == 0 && !frames->ended) {
        struct header header;

        count = receive(frames->socket, &header, sizeof header);
        if (count < 0)
            return count;
        if (header.hole > INT64_MAX || header.data > INT64_MAX)
            return -EPROTO;
        frames->hole = (int64_t)header.hole;
        frames->data = (int64_t)header.data;
        frames->ended = header.data == 0;
    }
    if (frames->hole > 0)
        return FRAMES_AT_HOLE;
    if (frames->ended)
        return 0;
    if ((int64_t)length > frames->data)
        length = (size_t)frames->data;
    count = receive(frames->socket, buffer, length);
    if (count > 0)
        frames->data -= count;
    return count;
}

int frames_recv_hole(void *stream, int64_t *length)
{
    struct frames *const frames = stream;

    *length = frames->hole;
    frames->hole = 0;
    return 0;
}

struct file file_of(int fd, int64_t size)
{
    return (struct file){ .fd = fd, .size = size, .data_start = -1 };
}

int file_in_data(void *opaque, bool *in_data, int64_t *length)
{
    struct file *const file = opaque;

    *in_data = false;
    *length = 0;
    if (file->at >= file->size)
        return 0;
    if (file->at >= file->data_end && file->at != file->data_start) {
        file->data_start = lseek(file->fd, file->at, SEEK_DATA);
        if (file->data_start < 0) {
            if (errno != ENXIO)
                return -errno;
            file->data_start = file->size;
        }
        file->data_end = file->data_start;
    }
    if (file->at < file->data_start) {
        *length = file->data_start - file->at;
        return 0;
    }
    if (file->at >= file->data_end) {
        file->data_end = lseek(file->fd, file->at, SEEK_HOLE);
        if (file->data_end < 0)
            return -errno;
    }
    *in_data = true;
    *length = file->data_end - file->at;
    return 0;
}

int64_t file_read(void *opaque, void *buffer, size_t length)
{
    struct file *const file = opaque;
    const ssize_t count = pread(file->fd, buffer, length, file->at);

    if (count < 0)
        return -errno;
    file->at += count;
    return count;
}

int file_skip(void *opaque, int64_t length)
{
    struct file *const file = opaque;

    file->at += length;
    return 0;
}

int64_t file_write(void *opaque, const void *buffer, size_t length)
{
    struct file *const file = opaque;
    const ssize_t count = pwrite(file->fd, buffer, length, file->at);

    if (count < 0)
        return -errno;
    file->at += count;
    if (file->size < file->at)
        file->size = file->at;
    return count;
}

int file_hole(void *opaque, int64_t length)
{
    struct file *const file = opaque;

    file->at += length;
    return 0;
}
