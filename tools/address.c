/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Addresses: unix:PATH, tcp:HOST:PORT and vsock:CID:PORT. */

#include "wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static const char wrong[] = "--%s: '%s' is not an address: unix:PATH, tcp:HOST:PORT or vsock:CID:PORT";

static int unix_address(const struct settings *settings, const char *option, const char *text,
                        struct sockaddr_un *address)
{
    const char *path = text + strlen("unix:");

    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (*path == '\0')
        return usage(settings, wrong, option, text);
    if (strlen(path) >= sizeof(address->sun_path))
        return usage(settings, "--%s: '%s': the path has %zu bytes, but that of a Unix socket may have at most %zu", option, text,
                     strlen(path), sizeof(address->sun_path) - 1);
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

static bool is_vsock(const char *text)
{
    return strncmp(text, "vsock:", strlen("vsock:")) == 0;
}

const char *path_of(const char *address)
{
    return is_unix(address) ? address + strlen("unix:") : NULL;
}

/* A decimal number of 32 bits at the start of a text; where it ends, or NULL. */
static const char *take_number(const char *text, unsigned int *value)
{
    char *end;
    unsigned long long number;

    if (*text < '0' || *text > '9')
        return NULL;
    errno = 0;
    number = strtoull(text, &end, 10);
    *value = (unsigned int)number;
    return errno != 0 || number > UINT32_MAX ? NULL : end;
}

/* Splits vsock:CID:PORT. An empty CID stands for `none`. */
static int vsock_address(const struct settings *settings, const char *option, const char *text, unsigned int none,
                         struct sockaddr_vm *address)
{
    const char *at = text + strlen("vsock:");

    *address = (struct sockaddr_vm){ .svm_family = AF_VSOCK, .svm_cid = none };
    if (*at != ':')
        at = take_number(at, &address->svm_cid);
    if (at == NULL || *at != ':')
        return usage(settings, "--%s: '%s': a context is a number, as in vsock:3:1024", option, text);
    at = take_number(at + 1, &address->svm_port);
    if (at == NULL || *at != '\0')
        return usage(settings, "--%s: '%s': a port is a number from 0 to 4294967295", option, text);
    if (address->svm_port == 0 && strcmp(option, "listen") == 0)
        address->svm_port = VMADDR_PORT_ANY;
    return 0;
}

/* Others than the users of this machine may be at this address. */
static bool is_far(const char *text)
{
    return text != NULL && (is_tcp(text) || is_vsock(text));
}

bool over_network(const struct settings *settings)
{
    return is_far(settings->connect) || is_far(settings->listen);
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

/*
 * Over a network, detects a peer that disappeared without closing, and does not delay small frames. The system gives a local
 * socket a small buffer, so that both ends would mostly wait for each other. A smaller one than asked for does too.
 */
void tune_socket(int fd, int family)
{
    const int on = 1, room = 1 << 20;

    if (family == AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    if (family != AF_INET && family != AF_INET6)
        return;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int64_t deadline(const struct settings *settings)
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

/* The socket that is made at the path is removed in the end. */
static int bind_unix(const struct settings *settings, struct listener *listener)
{
    const char *text = listener->address;
    struct sockaddr_un local;
    struct stat bound;
    mode_t mask;
    int r = unix_address(settings, "listen", text, &local);

    if (r != 0)
        return r;
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener->fd < 0)
        return fail_socket(text, "socket", errno);
    /* Only programs of the owner may connect. */
    mask = umask(0177);
    r = bind(listener->fd, (struct sockaddr *)&local, sizeof(local));
    umask(mask);
    if (r < 0)
        return fail_socket(text, "bind", errno);
    if (lstat(local.sun_path, &bound) < 0)
        return fail_socket(text, "lstat", errno);
    listener->dev = bound.st_dev;
    listener->ino = bound.st_ino;
    signals_remove(path_of(text), bound.st_dev, bound.st_ino);
    return 0;
}

static int bind_vsock(const struct settings *settings, struct listener *listener)
{
    struct sockaddr_vm local;
    int r = vsock_address(settings, "listen", listener->address, VMADDR_CID_ANY, &local);

    if (r != 0)
        return r;
    listener->fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener->fd < 0)
        return fail_socket(listener->address, "socket", errno);
    return bind(listener->fd, (struct sockaddr *)&local, sizeof(local)) < 0
               ? fail_socket(listener->address, "bind", errno) : 0;
}

static int bind_tcp(const struct settings *settings, struct listener *listener)
{
    const int on = 1;
    struct addrinfo *found, *at;
    int r = tcp_address(settings, "listen", listener->address, listener->end, &found);

    if (r != 0)
        return r;
    r = EADDRNOTAVAIL;
    for (at = found; at != NULL; at = at->ai_next) {
        listener->fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (listener->fd >= 0) {
            setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
            if (bind(listener->fd, at->ai_addr, at->ai_addrlen) == 0)
                break;
        }
        r = errno;
        if (listener->fd >= 0)
            close(listener->fd);
        listener->fd = -1;
    }
    freeaddrinfo(found);
    return listener->fd < 0 ? fail_socket(listener->address, "bind", r) : 0;
}

bool show_address(char text[ADDRESS_TEXT], const struct sockaddr_storage *address, socklen_t length)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (address->ss_family == AF_VSOCK) {
        const struct sockaddr_vm *vsock = (const struct sockaddr_vm *)address;

        if (vsock->svm_cid == VMADDR_CID_ANY)
            snprintf(text, ADDRESS_TEXT, "vsock::%u", vsock->svm_port);
        else
            snprintf(text, ADDRESS_TEXT, "vsock:%u:%u", vsock->svm_cid, vsock->svm_port);
        return true;
    }
    if (address->ss_family == AF_UNIX ||
        getnameinfo((const struct sockaddr *)address, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return false;
    snprintf(text, ADDRESS_TEXT, strchr(host, ':') != NULL ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
    return true;
}

/* Refuses what is not an address. */
static int check_address(const struct settings *settings, const char *option, const char *text)
{
    return is_unix(text) || is_tcp(text) || is_vsock(text) ? 0 : usage(settings, wrong, option, text);
}

int bind_to(const struct settings *settings, struct listener *listener)
{
    int r = check_address(settings, "listen", listener->address);

    if (r != 0)
        return r;
    if (is_unix(listener->address))
        return bind_unix(settings, listener);
    return is_vsock(listener->address) ? bind_vsock(settings, listener) : bind_tcp(settings, listener);
}

int connect_to(const struct settings *settings, int *fd)
{
    const char *text = settings->connect;
    int64_t end = deadline(settings);
    struct sockaddr_storage address = { 0 };
    struct addrinfo *found, *at;
    int r = check_address(settings, "connect", text);

    if (r != 0)
        return r;
    *fd = -EADDRNOTAVAIL;
    if (is_tcp(text)) {
        r = tcp_address(settings, "connect", text, end, &found);
        if (r != 0)
            return r;
        for (at = found; at != NULL && *fd < 0; at = at->ai_next)
            *fd = connect_one(at->ai_addr, at->ai_addrlen, end);
        freeaddrinfo(found);
    } else if (is_unix(text)) {
        r = unix_address(settings, "connect", text, (struct sockaddr_un *)&address);
        if (r != 0)
            return r;
        *fd = connect_one((struct sockaddr *)&address, sizeof(struct sockaddr_un), end);
    } else {
        r = vsock_address(settings, "connect", text, VMADDR_CID_HOST, (struct sockaddr_vm *)&address);
        if (r != 0)
            return r;
        *fd = connect_one((struct sockaddr *)&address, sizeof(struct sockaddr_vm), end);
    }
    if (*fd < 0)
        return fail_socket(text, "connect", *fd);
    tune_socket(*fd, is_tcp(text) ? AF_INET : AF_UNIX);
    return 0;
}
