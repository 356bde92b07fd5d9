/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* libsparsestream as an implementation for the hazards. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "implementation.h"

#include <errno.h>
#include <pthread.h>
#include <sparsestream.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define STEP_BUDGET (1024 * 1024)

struct ends {
    sparsestream_source *source;
    sparsestream_sink *sink;
    sparsestream_transfer *transfer;
};

static void free_ends(struct ends *ends)
{
    sparsestream_transfer_free(ends->transfer);
    sparsestream_sink_free(ends->sink);
    sparsestream_source_free(ends->source);
    memset(ends, 0, sizeof(*ends));
}

static int open_sink(const struct request *request, struct ends *ends)
{
    sparsestream_sink_options options = {
        .size = sizeof(options),
        .flags = request->sync ? SPARSESTREAM_SYNC : 0,
        .offset = request->sink_offset,
        .length = request->sink_limit,
    };

    return sparsestream_sink_to_fd(request->sink, &options, &ends->sink);
}

static int open_ends(const struct request *request, struct ends *ends)
{
    sparsestream_source_options options = {
        .size = sizeof(options),
        .flags = request->ignore_map ? SPARSESTREAM_IGNORE_MAP : 0,
        .offset = request->source_offset,
        .length = request->source_length,
    };
    int error = sparsestream_source_from_fd(request->source, &options, &ends->source);

    if (error == 0) {
        error = open_sink(request, ends);
    }
    if (error == 0) {
        error = sparsestream_transfer_new(ends->source, ends->sink, NULL, &ends->transfer);
    }
    return error;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct canceller {
    sparsestream_transfer *transfer;
    int ended;
    long after_ms;
    int64_t cancelled_at;
};

static void *cancel_later(void *opaque)
{
    struct canceller *canceller = opaque;
    struct pollfd wait = {.fd = canceller->ended, .events = POLLIN};

    if (poll(&wait, 1, (int)canceller->after_ms) == 0) {
        canceller->cancelled_at = now_ms();
        sparsestream_transfer_cancel(canceller->transfer);
    }
    return NULL;
}

/* Runs a transfer to its end while another thread waits to cancel it. */
static int run_and_cancel(sparsestream_transfer *transfer, long after_ms, int64_t *late_ms)
{
    struct canceller canceller = {
        .transfer = transfer, .ended = eventfd(0, EFD_CLOEXEC), .after_ms = after_ms};
    pthread_t thread;
    int64_t returned_at;
    int result;

    if (canceller.ended < 0) {
        return -errno;
    }
    result = -pthread_create(&thread, NULL, cancel_later, &canceller);
    if (result != 0) {
        close(canceller.ended);
        return result;
    }
    result = sparsestream_transfer_run(transfer, 0);
    returned_at = now_ms();
    if (eventfd_write(canceller.ended, 1) != 0) {
        abort();
    }
    pthread_join(thread, NULL);
    close(canceller.ended);
    if (canceller.cancelled_at > 0) {
        *late_ms = returned_at > canceller.cancelled_at ? returned_at - canceller.cancelled_at : 0;
    }
    return result;
}

static void report(int result, struct outcome *outcome)
{
    outcome->result = result;
    snprintf(outcome->message, sizeof(outcome->message), "%s",
             result == 0 ? "" : sparsestream_last_error());
}

static void ours_copy(const struct request *request, struct outcome *outcome)
{
    struct ends ends = {0};
    int result = open_ends(request, &ends);

    outcome->late_ms = -1;
    if (result == 0) {
        result = request->cancel_ms > 0
            ? run_and_cancel(ends.transfer, request->cancel_ms, &outcome->late_ms)
            : sparsestream_transfer_run(ends.transfer, 0);
    }
    report(result, outcome);
    free_ends(&ends);
}

/* A stream that brings prepared pieces. */
struct script {
    const struct content *pieces;
    size_t count;
    size_t piece;
    int64_t taken;  /* of the piece */
    int64_t offset; /* of the stream */
};

static int64_t script_recv(void *stream, void *buffer, size_t length)
{
    struct script *script = stream;
    const struct content *piece;
    int64_t left;

    while (script->piece < script->count
           && script->taken == script->pieces[script->piece].length) {
        script->piece++;
        script->taken = 0;
    }
    if (script->piece == script->count) {
        return 0;
    }
    piece = &script->pieces[script->piece];
    if (piece->kind == CONTENT_HOLE) {
        return SPARSESTREAM_AT_HOLE;
    }
    left = piece->length - script->taken;
    if ((int64_t)length > left) {
        length = (size_t)left;
    }
    content_fill(script->pieces, script->count, script->offset, buffer, length);
    script->taken += (int64_t)length;
    script->offset += (int64_t)length;
    return (int64_t)length;
}

static int script_recv_hole(void *stream, int64_t *length)
{
    struct script *script = stream;

    *length = script->pieces[script->piece].length;
    script->offset += *length;
    script->taken = *length;
    return 0;
}

static void ours_receive(const struct content *pieces, size_t count, const struct request *request,
                         struct outcome *outcome)
{
    const sparsestream_stream_ops ops = {
        .size = sizeof(ops), .recv = script_recv, .recv_hole = script_recv_hole};
    struct script script = {.pieces = pieces, .count = count};
    struct ends ends = {0};
    int result = open_sink(request, &ends);

    outcome->late_ms = -1;
    if (result == 0 && request->cancel_ms == 0) {
        result = sparsestream_recv_all(&ops, &script, ends.sink, NULL, NULL);
    } else if (result == 0) {
        result = sparsestream_source_from_stream(&ops, &script, &ends.source);
        if (result == 0) {
            result = sparsestream_transfer_new(ends.source, ends.sink, NULL, &ends.transfer);
        }
        if (result == 0) {
            result = run_and_cancel(ends.transfer, request->cancel_ms, &outcome->late_ms);
        }
    }
    report(result, outcome);
    free_ends(&ends);
}

static void *ours_start(const struct request *request, int *error)
{
    struct ends *ends = calloc(1, sizeof(*ends));

    if (ends == NULL) {
        *error = -ENOMEM;
        return NULL;
    }
    *error = open_ends(request, ends);
    if (*error != 0) {
        free_ends(ends);
        free(ends);
        return NULL;
    }
    return ends;
}

static int ours_step(void *state, struct pollfd *wait, int *timeout_ms)
{
    struct ends *ends = state;
    sparsestream_wait needed = {.size = sizeof(needed)};
    int result = sparsestream_transfer_run(ends->transfer, STEP_BUDGET);

    if (result == -EAGAIN) {
        int error = sparsestream_transfer_wait(ends->transfer, &needed);

        if (error != 0) {
            return error;
        }
        wait->fd = needed.fd;
        wait->events = (short)needed.events;
        *timeout_ms = needed.timeout_ms;
    }
    return result;
}

static void ours_end(void *state)
{
    free_ends(state);
    free(state);
}

const struct implementation sparsestream = {
    .name = "sparsestream",
    .in_data = sparsestream_in_data,
    .copy = ours_copy,
    .copy_local = ours_copy,
    .receive = ours_receive,
    .start = ours_start,
    .step = ours_step,
    .end = ours_end,
};
