/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The daemon under test: started, looked at from outside, and ended. */
#ifndef DAEMON_H
#define DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct daemon {
    pid_t pid;
    char log[256];
};

/*
 * Runs the command with these words appended, its log in the file, and waits until it serves. 0 or -errno; the reason is
 * on stderr. `command` and `options` end with NULL.
 */
int daemon_start(struct daemon *daemon, const char *log, char *const *command, const char *const *options);

/* Facts of the process; -1 if they cannot be had. */
int64_t daemon_cpu_us(const struct daemon *daemon);
int64_t daemon_late_us(const struct daemon *daemon); /* it could run, and had no processor */
int64_t daemon_peak_rss(const struct daemon *daemon);
int daemon_descriptors(const struct daemon *daemon);

/* Waits for its end, at most for this time, and then kills it. Its exit status, or -1. */
int daemon_wait(struct daemon *daemon, int64_t ms);

#endif
