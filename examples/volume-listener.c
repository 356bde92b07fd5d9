/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* See volume-listener.h. */

#define _GNU_SOURCE
#include "volume-listener.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Removes a socket that refuses connections: it is left over from a daemon that was killed. */
static void remove_stale(const struct sockaddr_un *address)
{
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct stat st;

    if (lstat(address->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
        connect(probe, (const struct sockaddr *)address, sizeof(*address)) < 0 && errno == ECONNREFUSED)
        unlink(address->sun_path);
    close(probe);
}

int listener_open(struct volume_listener *listener, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    mode_t mask;
    int r;

    if (strlen(path) >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    remove_stale(&address);
    listener->path = path;
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mask = umask(0177);
    r = listener->fd < 0 ? -1 : bind(listener->fd, (const struct sockaddr *)&address, sizeof(address));
    umask(mask);
    return r < 0 || lstat(path, &listener->st) < 0 ? -1 : listen(listener->fd, 128);
}

int listener_accept(struct volume_listener *listener, uid_t *user)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    int fd, error;

    do {
        fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
        error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    if (fd >= 0)
        *user = peer.uid;
    return fd;
}

void listener_close(struct volume_listener *listener)
{
    struct stat st;

    close(listener->fd);
    listener->fd = -1;
    if (lstat(listener->path, &st) == 0 && st.st_dev == listener->st.st_dev && st.st_ino == listener->st.st_ino)
        unlink(listener->path);
}
