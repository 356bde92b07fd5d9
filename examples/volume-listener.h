/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The Unix socket on which volume-daemon accepts clients. */

#ifndef VOLUME_LISTENER_H
#define VOLUME_LISTENER_H

#include <sys/stat.h>
#include <sys/types.h>

struct volume_listener {
    const char *path;
    struct stat st; /* to remove our socket and no other */
    int fd;
};

/* Makes the socket, with mode 0600, in place of one that a daemon which was killed has left. Returns 0 or -1 with errno. */
int listener_open(struct volume_listener *listener, const char *path);
/*
 * Accepts a client, and sets the user that it runs as. Returns its socket, or -1 with errno: EAGAIN if none waits.
 */
int listener_accept(struct volume_listener *listener, uid_t *user);
/* Accepts nothing more, and removes the socket. */
void listener_close(struct volume_listener *listener);

#endif
