/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sparse copying as it is usually written, for the hazards to catch. Every shortcut here is one that a program in
 * wide use takes:
 *
 * - a hole is a seek over it and an ftruncate to the new position, on a device the seek alone;
 * - the map of holes is believed, and one lseek after the other is taken for one moment in time;
 * - the first end of file is the end, and success;
 * - what a write reports is looked at when the next piece comes, so for the last one never;
 * - a descriptor's position is kept by opening its file again through /proc;
 * - a local copy leaves it all to copy_file_range;
 * - "would block" is answered by waiting.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "implementation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_SIZE (256 * 1024)

static int naive_in_data(int fd, bool *in_data, int64_t *length)
{
    off_t position = lseek(fd, 0, SEEK_CUR);
    off_t data = lseek(fd, position, SEEK_DATA);
    off_t edge;

    if (data == position) {
        *in_data = true;
        edge = lseek(fd, position, SEEK_HOLE);
    } else if (data >= 0) {
        *in_data = false;
        edge = data;
    } else if (errno == ENXIO) {
        *in_data = false;
        edge = lseek(fd, 0, SEEK_END);
    } else {
        return -errno;
    }
    if (edge < 0) {
        return -errno;
    }
    *length = edge - position;
    lseek(fd, position, SEEK_SET);
    return 0;
}

/* The receiving end. */
struct receiver {
    int fd;
    bool regular;
    bool ends_in_hole;
    int pending;
};

static int receiver_start(struct receiver *receiver, int fd, int64_t offset)
{
    struct stat status;

    memset(receiver, 0, sizeof(*receiver));
    receiver->fd = fd;
    if (fstat(fd, &status) != 0) {
        return -errno;
    }
    receiver->regular = S_ISREG(status.st_mode);
    if (offset > 0 && lseek(fd, offset, SEEK_SET) < 0) {
        return -errno;
    }
    return 0;
}

static int receive_data(struct receiver *receiver, const char *buffer, size_t length)
{
    int error = receiver->pending;

    receiver->pending = 0;
    receiver->ends_in_hole = false;
    while (error == 0 && length > 0) {
        ssize_t count = write(receiver->fd, buffer, length);

        if (count >= 0) {
            buffer += count;
            length -= (size_t)count;
        } else if (errno == EAGAIN) {
            struct pollfd wait = {.fd = receiver->fd, .events = POLLOUT};

            poll(&wait, 1, -1);
        } else if (errno != EINTR) {
            receiver->pending = -errno;
            break;
        }
    }
    return error;
}

static int receive_hole(struct receiver *receiver, int64_t length)
{
    off_t position;

    if (receiver->pending != 0) {
        return receiver->pending;
    }
    receiver->ends_in_hole = true;
    position = lseek(receiver->fd, length, SEEK_CUR);
    if (position < 0) {
        return -errno;
    }
    if (receiver->regular && ftruncate(receiver->fd, position) != 0) {
        receiver->pending = -errno;
    }
    return 0;
}

static int receiver_finish(struct receiver *receiver)
{
    if (receiver->ends_in_hole && !receiver->regular) {
        off_t end = lseek(receiver->fd, 0, SEEK_CUR);

        if (end < 0 || ftruncate(receiver->fd, end) != 0) {
            return -errno;
        }
    }
    return 0;
}

/* The sending end. */
static int send_file(int fd, int64_t left, struct receiver *receiver)
{
    char *buffer = malloc(BUFFER_SIZE);
    bool in_data = false;
    int64_t section = 0;
    int error = buffer == NULL ? -ENOMEM : 0;

    while (error == 0 && left > 0) {
        size_t wanted;
        ssize_t count;

        if (section == 0) {
            error = naive_in_data(fd, &in_data, &section);
            if (error != 0) {
                break;
            }
            if (section > left) {
                section = left;
            }
            if (!in_data && section != 0) {
                error = receive_hole(receiver, section);
                if (error == 0 && lseek(fd, section, SEEK_CUR) < 0) {
                    error = -errno;
                }
                left -= section;
                section = 0;
                continue;
            }
        }
        wanted = section < BUFFER_SIZE ? (size_t)section : BUFFER_SIZE;
        count = read(fd, buffer, wanted);
        if (count < 0) {
            error = -errno;
        } else if (count == 0) {
            break;
        } else {
            error = receive_data(receiver, buffer, (size_t)count);
            section -= count;
            left -= count;
        }
    }
    free(buffer);
    return error;
}

static int copy(const struct request *request)
{
    struct receiver receiver;
    char path[64];
    int own;
    int error;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", request->source);
    own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0) {
        return -errno;
    }
    error = receiver_start(&receiver, request->sink, request->sink_offset);
    if (error == 0 && request->source_offset > 0
        && lseek(own, request->source_offset, SEEK_SET) < 0) {
        error = -errno;
    }
    if (error == 0) {
        int64_t length = request->source_length > 0 ? request->source_length : INT64_MAX;

        error = send_file(own, length, &receiver);
    }
    if (error == 0) {
        error = receiver_finish(&receiver);
    }
    close(own);
    return error;
}

static void report(int result, struct outcome *outcome)
{
    outcome->result = result;
    outcome->late_ms = -1;
    snprintf(outcome->message, sizeof(outcome->message), "%s",
             result == 0 ? "" : strerror(-result));
}

static void naive_copy(const struct request *request, struct outcome *outcome)
{
    report(copy(request), outcome);
}

static void naive_copy_local(const struct request *request, struct outcome *outcome)
{
    struct stat status;
    off_t from = request->source_offset;
    off_t to = request->sink_offset;
    int error = fstat(request->source, &status) != 0 ? -errno : 0;

    while (error == 0 && from < status.st_size) {
        ssize_t count = copy_file_range(request->source, &from, request->sink, &to,
                                        (size_t)(status.st_size - from), 0);

        if (count < 0) {
            error = -errno;
        } else if (count == 0) {
            break;
        }
    }
    report(error, outcome);
}

static void naive_receive(const struct content *pieces, size_t count, const struct request *request,
                          struct outcome *outcome)
{
    struct receiver receiver;
    char *buffer = malloc(BUFFER_SIZE);
    int64_t offset = 0;
    int error = buffer == NULL ? -ENOMEM : 0;

    if (error == 0) {
        error = receiver_start(&receiver, request->sink, request->sink_offset);
    }
    for (size_t i = 0; i < count && error == 0; i++) {
        int64_t end = offset + pieces[i].length;

        if (pieces[i].kind == CONTENT_HOLE) {
            error = receive_hole(&receiver, pieces[i].length);
            offset = end;
        }
        while (offset < end && error == 0) {
            size_t part = end - offset < BUFFER_SIZE ? (size_t)(end - offset) : BUFFER_SIZE;

            content_fill(pieces, count, offset, buffer, part);
            error = receive_data(&receiver, buffer, part);
            offset += (int64_t)part;
        }
    }
    if (error == 0) {
        error = receiver_finish(&receiver);
    }
    free(buffer);
    report(error, outcome);
}

static void *naive_start(const struct request *request, int *error)
{
    struct request *state = malloc(sizeof(*state));

    *error = state == NULL ? -ENOMEM : 0;
    if (state != NULL) {
        *state = *request;
    }
    return state;
}

static int naive_step(void *state, struct pollfd *wait, int *timeout_ms)
{
    (void)wait;
    (void)timeout_ms;
    return copy(state);
}

const struct implementation naive = {
    .name = "naive",
    .in_data = naive_in_data,
    .copy = naive_copy,
    .copy_local = naive_copy_local,
    .receive = naive_receive,
    .start = naive_start,
    .step = naive_step,
    .end = free,
};
