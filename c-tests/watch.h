/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Watches, delays and forges the system calls that a function makes on one
 * descriptor, by seccomp's user notification: no privilege, no tracer.
 *
 * The function runs in a thread of its own; the calling thread answers for the
 * system and is itself not watched, so that it can change the file in the
 * middle of the other's call.
 */
#ifndef WATCH_H
#define WATCH_H

#include <stdbool.h>
#include <stdint.h>

struct watched_call {
    /* SYS_lseek and the like. */
    long number;
    uint64_t arguments[6];
    /* How many calls of this number there were, this one included. */
    int count;
};

/*
 * Called before each watched call. True: the call is not made, and answers
 * *answer, a result or a negative errno. False: the system answers.
 */
typedef bool watch_handler(void *opaque, const struct watched_call *call, int64_t *answer);

/* The system calls that can be watched: those whose first argument is a descriptor. */
#define WATCHED_CALLS 24

struct watch {
    int fd;
    watch_handler *handler;
    void *opaque;
    /* Filled in: how often each was called; ask with watch_count. */
    int counts[WATCHED_CALLS];
};

/* Runs run(argument), watched. Skips the case where the system has no user notification. */
void watch_run(struct watch *watch, void (*run)(void *), void *argument);

/* Calls of SYS_... `number` so far. */
int watch_count(const struct watch *watch, long number);

#endif
