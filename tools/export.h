/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Exports of NBD servers, by URI, and disk images, as qcow2:FILE. The bridge to NBD is loaded when one is named. */

#ifndef EXPORT_H
#define EXPORT_H

#include "tool.h"

bool is_export(const char *name);
/* Open one. `length` 0: to its end. Return 0 or an exit code, after a message. */
int export_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source);
int export_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink);
/* Reports the sections of the range of --range. Returns 0 or an exit code, after a message. */
int export_map(const struct settings *settings, const char *name,
               int (*section)(void *opaque, const sparsestream_section *section), void *opaque);
void export_tune(sparsestream_transfer_options *options);
/* As remote_close. */
int export_close(int result);

/* image.c */

struct image {
    pid_t pid;
    const char *name;
};

/* Whether the name is FORMAT:FILE of a format that qemu-nbd serves. */
bool is_image(const char *name);
/*
 * Serves an image, and connects to it. Returns 0 or an exit code, after a message. The server ends when the
 * connection does.
 */
int image_serve(const struct settings *settings, const char *name, bool writable, struct image *image, int *connection);
/* Waits for the server to end. Returns `result`, or an exit code, after a message, if it failed. */
int image_wait(struct image *image, int result);
/* The command that makes an image of this name and size. */
void image_hint(const char *name, int64_t size, char *text, size_t room);

#endif
