/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* --on-read-error=skip */

#ifndef SKIP_H
#define SKIP_H

#include "tool.h"

struct skipped {
    int64_t offset;
    int64_t length;
};

/* To be zeroed before the first use. Must outlive the source. */
struct skipping {
    int fd;
    const char *name;
    bool ignore_map;
    int64_t start;
    int64_t at;
    int64_t end;
    int64_t careful; /* up to there, small pieces are read */
    struct skipped *ranges;
    size_t count;
    size_t room;
    int64_t bytes; /* in all of them */
    FILE *map;
};

/* Refuses options that need it. Returns 0 or an exit code, after a message. */
int skip_check_options(const struct settings *settings);
/* Refuses a source of which nothing can be skipped, if that is asked for. Returns 0 or an exit code, after a message. */
int skip_check(const struct settings *settings, const struct target *from, int64_t length);
/* Opens the file of --error-map, if there is one; `to` may be NULL. Returns 0 or an exit code, after a message. */
int skip_open_map(struct skipping *skipping, const struct settings *settings, const struct target *from,
                  const struct target *to);
/* Makes the source, of `length` bytes. Returns 0 or a negative errno. */
int skip_source(struct skipping *skipping, const struct settings *settings, const struct target *from,
                int64_t length, sparsestream_source **source);
/* Only the first `length` bytes of the stream have got to the target: the map is of these. */
void skip_end_at(struct skipping *skipping, int64_t length);
/* Lists what was skipped, writes the map, and frees both. Returns `result`, or EXIT_SKIPPED after a message. */
int skip_report(struct skipping *skipping, const struct settings *settings, int result);

#endif
