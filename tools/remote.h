/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Operands that are not files: volumes of libvirt, exports of NBD servers, and disk images of other formats. */

#ifndef REMOTE_H
#define REMOTE_H

#include "tool.h"

/* remote.c */

bool is_remote(const char *name);
/* Whether one of the operands is one. */
bool names_remote(int count, char **operands);

/* Open one. `length` 0: to its end. Return 0 or an exit code, after a message. */
int remote_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source);
int remote_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink);
/* Sets what the operands that are open want of a transfer. */
void remote_tune(sparsestream_transfer_options *options);
/*
 * Ends what was opened, once the transfer and its ends are freed. Returns `result`, or an exit code after a message if
 * the other side failed at the last.
 */
int remote_close(int result);

/* remote-commands.c */

/* copy, send and recv with one. */
int command_remote(struct settings *settings, int count, char **operands);

/* remote-read.c */

struct section_list {
    sparsestream_section *sections;
    size_t count, room;
};

/* The sections of its range. Returns 0 or an exit code, after a message. */
int remote_sections(const struct settings *settings, const char *name, struct section_list *list);

/* Its range as a pipe that a thread fills, its holes as zeros. */
struct remote_pipe {
    int fd; /* to read; -1: not open */
    void *pump;
};

/* Returns 0 or an exit code, after a message. */
int remote_pipe_open(const struct settings *settings, const char *name, struct remote_pipe *pipe);
/* Returns `result`, or an exit code, after a message, if it could not be read to its end. */
int remote_pipe_close(struct remote_pipe *pipe, int result);

#endif
