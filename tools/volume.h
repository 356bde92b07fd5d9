/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Volumes of libvirt, libvirt+URI#POOL/VOLUME, as operands. The bridge to libvirt is loaded when one is named. */

#ifndef VOLUME_H
#define VOLUME_H

#include "tool.h"

bool is_volume(const char *name);
/* Whether one of the operands is a volume. */
bool names_volume(int count, char **operands);

/* volume.c */

/* Open one. `length` 0: to its end. Return 0 or an exit code, after a message. */
int volume_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source);
int volume_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink);

/* volume-commands.c */

/* copy, send and recv with a volume. */
int command_volume(struct settings *settings, int count, char **operands);

/* volume-read.c */

struct section_list {
    sparsestream_section *sections;
    size_t count, room;
};

/* The sections of a volume's range, by reading it. Returns 0 or an exit code, after a message. */
int volume_sections(const struct settings *settings, const char *name, struct section_list *list);

/* A volume's range as a pipe that a thread fills, its holes as zeros. */
struct volume_pipe {
    int fd; /* to read; -1: not open */
    void *pump;
};

/* Returns 0 or an exit code, after a message. */
int volume_pipe_open(const struct settings *settings, const char *name, struct volume_pipe *pipe);
/* Returns `result`, or an exit code, after a message, if the volume could not be read to its end. */
int volume_pipe_close(struct volume_pipe *pipe, int result);

#endif
