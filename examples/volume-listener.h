/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The Unix socket on which volume-daemon accepts clients. */

#ifndef VOLUME_LISTENER_H
#define VOLUME_LISTENER_H

#include <sys/stat.h>

struct volume_listener {
    const char *path;
    struct stat st; /* to remove our socket and no other */
    int fd;
};

/* Makes the socket, with mode 0600, in place of one that a daemon which was killed has left. Returns 0 or -1 with errno. */
int listener_open(struct volume_listener *listener, const char *path);
/* Accepts nothing more, and removes the socket. */
void listener_close(struct volume_listener *listener);

#endif
