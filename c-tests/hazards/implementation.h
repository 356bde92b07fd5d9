/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The interface that the hazards test: sparse copying, as a caller sees it. */
#ifndef IMPLEMENTATION_H
#define IMPLEMENTATION_H

#include "../fixtures/content.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct request {
    int source;            /* the descriptor to read; unused by receive() */
    int sink;              /* the descriptor to write */
    int64_t source_offset; /* in bytes */
    int64_t source_length; /* in bytes; 0: to the end */
    int64_t sink_offset;   /* in bytes */
    int64_t sink_limit;    /* most bytes that may come; 0: as many as do */
    bool sync;             /* success means durable */
    bool ignore_map;       /* the source's map of holes is not to be trusted */
    long cancel_ms;        /* cancel after this many milliseconds; 0: never */
};

struct outcome {
    int result;         /* 0 or a negative errno */
    int64_t late_ms;    /* from the cancel to the return; -1 if it returned before */
    char message[300];  /* what was said of a failure */
};

/* Returns 0 when done, 1 to be called again, -EAGAIN to be called after the event in `wait`, or another negative errno. */
typedef int step_function(void *state, struct pollfd *wait, int *timeout_ms);

struct implementation {
    const char *name;

    /* Is the descriptor's position in data or in a hole, and for how many bytes? Returns 0 or a negative errno. */
    int (*in_data)(int fd, bool *in_data, int64_t *length);

    /* Copies through a stream, as between two daemons. */
    void (*copy)(const struct request *request, struct outcome *outcome);

    /* Copies a file to a file in the best way that it knows. */
    void (*copy_local)(const struct request *request, struct outcome *outcome);

    /* Writes a stream that brings these pieces. */
    void (*receive)(const struct content *pieces, size_t count, const struct request *request,
                    struct outcome *outcome);

    /* The same as copy() for a caller with an event loop. start() returns NULL with `error` set. */
    void *(*start)(const struct request *request, int *error);
    step_function *step;
    void (*end)(void *state);
};

extern const struct implementation naive;
extern const struct implementation sparsestream;

#endif
