/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Counts the lseek calls that a function makes on one descriptor, without leaving its thread: for walks with
 * too many sections for watch.h.
 */
#ifndef TALLY_H
#define TALLY_H

struct tally {
    int fd;
    /* Filled in: calls with SEEK_DATA or SEEK_HOLE, and calls with any other. */
    long probes, others;
};

/* Runs run(argument) in a thread of its own. Skips the case where this cannot be done. */
void tally_run(struct tally *tally, void (*run)(void *), void *argument);

#endif
