/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The comparison of check, and of copy --verify. */

#ifndef COMPARE_H
#define COMPARE_H

#include "tool.h"

/* One of the two that are compared. */
struct side {
    const char *name;
    sparsestream_source *source;
    int fd;
    int64_t timeout_ms; /* the longest wait; 0: it is not a stream, or there is no limit */
    unsigned char *buffer;
    bool data;
    bool stream;  /* its sections have no length: the buffer has what was read ahead, which is `left` bytes */
    int64_t left; /* of the section that it is in */
};

/* To be zeroed, but for `holes_differ_at`, which is -1. */
struct comparison {
    struct side sides[2];
    int64_t at;
    const struct side *ended; /* the one that ends where the other continues */
    int64_t data_bytes;
    int64_t hole_bytes;
    int64_t holes_differ_at; /* -1: nowhere so far */
};

/* Opens one side. Returns 0 or an exit code, after a message. */
int compare_open(const struct settings *settings, struct side *side, const struct target *file,
                 const sparsestream_source_options *options);
/* Returns EXIT_OK, EXIT_DIFFERENT with the place in `at` and no message, or another exit code after one. */
int compare(struct comparison *comparison, struct progress *progress);
void compare_close(struct comparison *comparison);

#endif
