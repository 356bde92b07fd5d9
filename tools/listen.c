/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Waiting for a peer at an address. Those that do not introduce themselves are dropped, one after the other. */

#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Peers wait in turn while one is heard. */
enum { BACKLOG = 16 };

/* A silent peer delays the others for at most this long. */
enum { HELLO_MS = 5000 };

/* This many cannot be accidents. */
enum { MOST_DROPPED = 1000 };

static int fail_socket(const struct listener *listener, const char *what, int error)
{
    fail_errno(listener->address, what, error);
    return EXIT_CUT;
}

/* Prints the address on which it listens: only this program knows it if the port is 0. */
static void tell_address(const struct listener *listener)
{
    struct sockaddr_storage bound;
    socklen_t length = sizeof(bound);
    char words[ADDRESS_TEXT];

    if (getsockname(listener->fd, (struct sockaddr *)&bound, &length) < 0 || !show_address(words, &bound, length))
        snprintf(words, sizeof(words), "%s", listener->address);
    report_event("listen", "listening on %s", words);
}

int listener_open(const struct settings *settings, struct listener *listener)
{
    int r;

    *listener = (struct listener){ .address = settings->listen, .fd = -1, .end = deadline(settings) };
    r = bind_to(settings, listener);
    if (r != 0)
        return r;
    /* Whoever connects may be gone again when the connection is accepted. */
    if (fcntl(listener->fd, F_SETFL, O_NONBLOCK) < 0 || listen(listener->fd, BACKLOG) < 0)
        return fail_socket(listener, "listen", errno);
    tell_address(listener);
    return 0;
}

/* Who has connected, for a message. */
static void name_peer(struct listener *listener, const struct sockaddr_storage *from, socklen_t length, int fd)
{
    struct ucred who;
    socklen_t size = sizeof(who);

    if (show_address(listener->peer, from, length))
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.pid > 0)
        snprintf(listener->peer, sizeof(listener->peer), "process %d", (int)who.pid);
    else
        snprintf(listener->peer, sizeof(listener->peer), "a peer");
}

int listener_accept(const struct settings *settings, struct listener *listener, int *fd)
{
    struct sockaddr_storage from = { 0 };
    socklen_t length;
    int64_t hello = HELLO_MS;

    do {
        int64_t left = listener->end == 0 ? INT32_MAX : listener->end - now_ms();

        if (left <= 0)
            return fail_socket(listener, "accept", ETIMEDOUT);
        wait_for_fd(listener->fd, POLLIN, left);
        length = sizeof(from);
        *fd = accept4(listener->fd, (struct sockaddr *)&from, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (*fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EAGAIN));
    if (*fd < 0)
        return fail_socket(listener, "accept", errno);
    tune_socket(*fd, from.ss_family);
    name_peer(listener, &from, length, *fd);
    /* One that is silent leaves time for another. */
    if (settings->timeout_ms != 0 && settings->timeout_ms / 2 < hello)
        hello = settings->timeout_ms / 2;
    listener->patience_ms = hello;
    listener->hello_by = now_ms() + hello;
    if (listener->end != 0 && listener->hello_by > listener->end)
        listener->hello_by = listener->end;
    return 0;
}

int listener_drop(struct listener *listener, const char *why)
{
    report_event("dropped", "dropped %s: %s", listener->peer, why);
    if (++listener->dropped < MOST_DROPPED)
        return 0;
    return fail(EXIT_CUT, "%s: %d peers connected, but none of them uses this protocol", listener->address,
                listener->dropped);
}

void listener_close(struct listener *listener)
{
    if (listener->fd >= 0)
        close(listener->fd);
    listener->fd = -1;
    if (listener->ino != 0) {
        remove_same(path_of(listener->address), listener->dev, listener->ino);
        signals_remove(NULL, 0, 0);
    }
    listener->ino = 0;
}
