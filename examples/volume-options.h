/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The command line of volume-daemon. */

#ifndef VOLUME_OPTIONS_H
#define VOLUME_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Sizes are in bytes. */
struct volume_options {
    const char *directory, *socket;
    bool sync;
    int64_t max_size; /* of a volume */
    int64_t max_zeroed, max_zeroed_all; /* zeros that holes of one upload, and of all that run, may make us write */
    int64_t max_clients, max_user; /* at a time: of all users, of one */
    int64_t stall_ms, idle_ms; /* 0: no limit */
    int64_t grace_ms;
    int64_t log_lines; /* in a second; 0: no limit */
};

/* Ends the program if it is asked for help, or for something that there is not. */
void options_parse(struct volume_options *options, int argc, char **argv);

#endif
