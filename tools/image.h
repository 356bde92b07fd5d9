/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Disk images of other formats, FORMAT:FILE, through qemu-nbd. */

#ifndef IMAGE_H
#define IMAGE_H

#include "tool.h"

/* A server that runs; `pid` 0: none. */
struct image {
    pid_t pid;
    const char *name;
    int messages; /* the file with its messages */
    int64_t timeout_ms;
};

/* image.c */

/* Whether the name is FORMAT:FILE of a format that qemu-nbd serves. */
bool is_image(const char *name);
/*
 * Serves an image, and connects to it. Returns 0 or an exit code, after a message. The server ends when the
 * connection does.
 */
int image_serve(const struct settings *settings, const char *name, bool writable, struct image *image, int *connection);
/* A message that an image has no room for this length, with the command that makes one of a size. Returns an exit code. */
int image_too_small(const char *name, int64_t room, int64_t length, int64_t size);

/* foreign.c */

/*
 * Sets `foreign` to a description of the other files that an open image uses for its content, or NULL if there are none.
 * Returns 0 or a negative errno.
 */
int image_foreign(const char *format, int fd, const char **foreign);

/* server.c */

struct server {
    const char *format;
    int fd;           /* the image, open */
    const char *path; /* NULL: no other file is opened */
    bool device;
    bool writable;
    bool locks;
};

/* Starts qemu-nbd. Returns 0 with a connection to it, or a negative errno. */
int server_start(const struct server *server, struct image *image, int *connection);
/*
 * Waits for the server to end after its connection was closed; it is made to end if the command has failed. Returns
 * `result`, or an exit code, after a message, if it failed.
 */
int image_wait(struct image *image, int result);
/*
 * The same where no connection came about. Returns an exit code, after a message, if the server failed, and 0 if the
 * reason is another one.
 */
int image_reason(struct image *image);

#endif
