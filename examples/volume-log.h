/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The log of volume-daemon, on standard error. */

#ifndef VOLUME_LOG_H
#define VOLUME_LOG_H

#include <stdint.h>

/* Keeps files that are opened later from becoming the log: called before any other is opened. Returns 0 or -1. */
int log_open(void);
/* The most lines in a second; 0: no limit. */
void log_limit(int64_t lines);

/* Logs one line. A client can neither fill the log nor block the daemon through it: lines beyond the limit are only counted,
 * and so are lines that the reader of the log does not take at once. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
