/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Addresses: unix:PATH and tcp:HOST:PORT. */

#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char wrong[] = "--%s: '%s' is not an address: unix:PATH or tcp:HOST:PORT";

static int unix_address(const struct settings *settings, const char *option, const char *text,
                        struct sockaddr_un *address)
{
    const char *path = text + strlen("unix:");

    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (*path == '\0')
        return usage(settings, wrong, option, text);
    if (strlen(path) >= sizeof(address->sun_path))
        return usage(settings, "--%s: the path of a Unix socket has at most %zu bytes", option,
                     sizeof(address->sun_path) - 1);
    memcpy(address->sun_path, path, strlen(path));
    return 0;
}

/* Looks up tcp:HOST:PORT, where HOST may be an address in brackets, or empty: that is 127.0.0.1. */
static int tcp_address(const struct settings *settings, const char *option, const char *text, int64_t end,
                       struct addrinfo **found)
{
    const char *host = text + strlen("tcp:");
    const char *colon = strrchr(host, ':');
    char name[NI_MAXHOST];
    size_t length;
    char *rest;
    long port;

    if (colon == NULL || colon[1] < '0' || colon[1] > '9')
        return usage(settings, wrong, option, text);
    errno = 0;
    port = strtol(colon + 1, &rest, 10);
    if (*rest != '\0' || errno != 0 || port > 65535)
        return usage(settings, "--%s: '%s': a port is a number from 0 to 65535", option, text);
    length = (size_t)(colon - host);
    if (length >= 2 && host[0] == '[' && host[length - 1] == ']') {
        host++;
        length -= 2;
    }
    if (length >= sizeof(name))
        return usage(settings, wrong, option, text);
    memcpy(name, host, length);
    name[length] = '\0';
    return resolve(text, length == 0 ? "127.0.0.1" : name, colon + 1, end, found);
}

static bool is_unix(const char *text)
{
    return strncmp(text, "unix:", strlen("unix:")) == 0;
}

static bool is_tcp(const char *text)
{
    return strncmp(text, "tcp:", strlen("tcp:")) == 0;
}

bool over_network(const struct settings *settings)
{
    return (settings->connect != NULL && is_tcp(settings->connect)) || (settings->listen != NULL && is_tcp(settings->listen));
}

bool with_checksums(const struct settings *settings)
{
    return settings->checksum >= 0 ? settings->checksum : over_network(settings) || settings->resume;
}

static int fail_socket(const char *address, const char *what, int error)
{
    fail_errno(address, what, error);
    return EXIT_CUT;
}

/* Detect a peer that disappeared without closing, and do not delay small frames. */
static void tune(int fd)
{
    const int on = 1;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* When --timeout is over, in ms of now_ms(); 0: never. */
static int64_t deadline(const struct settings *settings)
{
    return settings->timeout_ms == 0 ? 0 : now_ms() + settings->timeout_ms;
}

/* Connects until `end`, unless it is 0. Returns a descriptor or a negative errno. */
static int connect_one(const struct sockaddr *address, socklen_t length, int64_t end)
{
    int64_t left = end == 0 ? 0 : end - now_ms();
    const struct timeval limit = { left / 1000, left % 1000 * 1000 }, none = { 0 };
    int fd;

    if (left < 0 || (left == 0 && end != 0))
        return -ETIMEDOUT;
    fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(fd, address, length) < 0) {
        /* The limit is reported as if the call had just begun. */
        int error = errno == EINPROGRESS || errno == EAGAIN ? ETIMEDOUT : errno;

        close(fd);
        return -error;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
    return fd;
}

static int connect_to(const struct settings *settings, const char *text, int *fd)
{
    struct sockaddr_un local;
    int64_t end = deadline(settings);
    struct addrinfo *found, *at;
    int r;

    if (is_unix(text)) {
        r = unix_address(settings, "connect", text, &local);
        if (r != 0)
            return r;
        *fd = connect_one((struct sockaddr *)&local, sizeof(local), end);
        return *fd < 0 ? fail_socket(text, "connect", *fd) : 0;
    }
    r = tcp_address(settings, "connect", text, end, &found);
    if (r != 0)
        return r;
    *fd = -EADDRNOTAVAIL;
    for (at = found; at != NULL && *fd < 0; at = at->ai_next)
        *fd = connect_one(at->ai_addr, at->ai_addrlen, end);
    freeaddrinfo(found);
    if (*fd < 0)
        return fail_socket(text, "connect", *fd);
    tune(*fd);
    return 0;
}

/* `bound`: what was made at the path, which is removed in the end. */
static int listen_unix(const struct settings *settings, const char *text, int *listener, struct stat *bound)
{
    struct sockaddr_un local;
    mode_t mask;
    int r = unix_address(settings, "listen", text, &local);

    if (r != 0)
        return r;
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listener < 0)
        return fail_socket(text, "socket", errno);
    /* Only programs of the owner may connect. */
    mask = umask(0177);
    r = bind(*listener, (struct sockaddr *)&local, sizeof(local));
    umask(mask);
    if (r < 0)
        return fail_socket(text, "bind", errno);
    if (lstat(local.sun_path, bound) < 0)
        return fail_socket(text, "lstat", errno);
    signals_remove(text + strlen("unix:"), bound->st_dev, bound->st_ino);
    return 0;
}

static int listen_tcp(const struct settings *settings, const char *text, int *listener)
{
    const int on = 1;
    struct addrinfo *found, *at;
    int r = tcp_address(settings, "listen", text, deadline(settings), &found);

    if (r != 0)
        return r;
    r = EADDRNOTAVAIL;
    for (at = found; at != NULL; at = at->ai_next) {
        *listener = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (*listener >= 0) {
            setsockopt(*listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
            if (bind(*listener, at->ai_addr, at->ai_addrlen) == 0)
                break;
        }
        r = errno;
        if (*listener >= 0)
            close(*listener);
        *listener = -1;
    }
    freeaddrinfo(found);
    return *listener < 0 ? fail_socket(text, "bind", r) : 0;
}

/* Reports the address: with port 0 only this process knows it. */
static void tell_address(const char *text, int listener)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    char host[NI_MAXHOST], port[NI_MAXSERV], words[NI_MAXHOST + NI_MAXSERV + 8];

    if (is_tcp(text) && getsockname(listener, (struct sockaddr *)&address, &length) == 0 &&
        getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        bool brackets = strchr(host, ':') != NULL;

        snprintf(words, sizeof(words), "tcp:%s%s%s:%s", brackets ? "[" : "", host, brackets ? "]" : "", port);
        text = words;
    }
    tell("listen", "listening on %s", text);
}

static int accept_one(const struct settings *settings, const char *text, int listener, int *fd)
{
    int64_t end = now_ms() + settings->timeout_ms;

    /* The peer may have closed the connection before it is accepted. */
    if (fcntl(listener, F_SETFL, O_NONBLOCK) < 0 || listen(listener, 1) < 0)
        return fail_socket(text, "listen", errno);
    tell_address(text, listener);
    do {
        int64_t left = settings->timeout_ms == 0 ? INT32_MAX : end - now_ms();

        if (left <= 0)
            return fail_socket(text, "accept", ETIMEDOUT);
        wait_for_fd(listener, POLLIN, left);
        *fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    } while (*fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EAGAIN));
    if (*fd < 0)
        return fail_socket(text, "accept", errno);
    if (is_tcp(text))
        tune(*fd);
    return 0;
}

static int listen_on(const struct settings *settings, const char *text, int *fd)
{
    int listener = -1;
    struct stat bound = { 0 };
    int r = is_unix(text) ? listen_unix(settings, text, &listener, &bound) : listen_tcp(settings, text, &listener);

    if (r == 0)
        r = accept_one(settings, text, listener, fd);
    if (listener >= 0)
        close(listener);
    if (bound.st_ino != 0) {
        remove_same(text + strlen("unix:"), bound.st_dev, bound.st_ino);
        signals_remove(NULL, 0, 0);
    }
    return r;
}

int open_connection(const struct settings *settings, int *fd)
{
    const char *text = settings->connect != NULL ? settings->connect : settings->listen;
    const char *option = settings->connect != NULL ? "connect" : "listen";

    if (!is_unix(text) && !is_tcp(text))
        return usage(settings, wrong, option, text);
    return settings->connect != NULL ? connect_to(settings, text, fd) : listen_on(settings, text, fd);
}
