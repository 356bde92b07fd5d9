/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* copy --only-changes */

#ifndef CHANGES_H
#define CHANGES_H

#include "tool.h"

/* To be zeroed before the first use. Must outlive the sink. */
struct changes {
    int fd;
    bool regular;
    bool truncate;
    bool sync;
    int64_t at;
    int64_t bytes; /* that were written */
    int64_t total; /* that were compared */
    unsigned char *old;
};

/* A sink that writes blocks only where they differ from what is there. Returns 0 or a negative errno. */
int changes_sink(struct changes *changes, const struct settings *settings, const struct target *to, int64_t offset,
                 bool truncate, sparsestream_sink **sink);
void changes_free(struct changes *changes);

#endif
