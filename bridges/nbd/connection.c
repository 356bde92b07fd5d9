/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* One connection. Everything goes through libnbd's asynchronous calls, so that a stopped server delays
 * nothing. */

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Sets the name whose pre-shared key is used. libnbd's own default is the user who logged in on the terminal, which a
 * daemon does not have. A URI that has a name overrides it.
 */
static int set_username(struct nbd_handle *handle, const options_t *options)
{
    struct passwd entry, *user = NULL;
    char buffer[4096];

    if (options->tls_username != NULL)
        return nbd_set_tls_username(handle, options->tls_username);
    if (getpwuid_r(geteuid(), &entry, buffer, sizeof(buffer), &user) != 0 || user == NULL)
        return 0;
    return nbd_set_tls_username(handle, user->pw_name);
}

static int set_up_tls(struct nbd_handle *handle, const struct address *address, const options_t *options)
{
    const bool wanted = (options->flags & SPARSESTREAM_NBD_TLS) != 0 ||
                        (address->uri != NULL && strncmp(address->uri, "nbds", 4) == 0);

    if ((options->flags & SPARSESTREAM_NBD_TLS) != 0 && nbd_set_tls(handle, LIBNBD_TLS_REQUIRE) < 0)
        return -1;
    if (options->tls_certificates != NULL && nbd_set_tls_certificates(handle, options->tls_certificates) < 0)
        return -1;
    if (options->tls_psk_file != NULL && nbd_set_tls_psk_file(handle, options->tls_psk_file) < 0)
        return -1;
    if (wanted && set_username(handle, options) < 0)
        return -1;
    if ((options->flags & SPARSESTREAM_NBD_NO_VERIFY_PEER) != 0 && nbd_set_tls_verify_peer(handle, false) < 0)
        return -1;
    return nbd_set_uri_allow_local_file(handle, (options->flags & SPARSESTREAM_NBD_LOCAL_FILES) != 0);
}

/* Whether a URI has this parameter. */
static bool has_parameter(const char *uri, const char *name)
{
    const size_t length = strlen(name);
    const char *at = uri != NULL ? strchr(uri, '?') : NULL;

    while (at != NULL && (strncmp(at + 1, name, length) != 0 || at[1 + length] != '='))
        at = strchr(at + 1, '&');
    return at != NULL;
}

/*
 * Refuses TLS if the certificate would not be verified: libnbd does not verify it for an address without a host name,
 * which is a socket that the caller has connected, a Unix socket or AF_VSOCK.
 */
static int check_verified(const struct address *address, const options_t *options, struct failure *failure)
{
    const char *uri = address->uri;
    const bool wanted = (options->flags & SPARSESTREAM_NBD_TLS) != 0 || (uri != NULL && strncmp(uri, "nbds", 4) == 0);
    const bool named = uri != NULL && (strncmp(uri, "nbd://", 6) == 0 || strncmp(uri, "nbds://", 7) == 0);
    const bool keys = options->tls_psk_file != NULL || has_parameter(uri, "tls-psk-file");

    if (!wanted || named || keys || (options->flags & SPARSESTREAM_NBD_NO_VERIFY_PEER) != 0)
        return 0;
    return failure_set(failure, ENOTSUP,
                       "a server without a host name cannot be verified by its certificate: use TCP, or pre-shared keys, "
                       "or do not verify the peer");
}

static int set_up_replies(struct nbd_handle *handle, enum connection_kind kind)
{
    switch (kind) {
    case CONNECTION_FOR_STATUS:
        return nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION);
    case CONNECTION_FOR_DATA:
        return nbd_set_request_structured_replies(handle, false);
    }
    return -1;
}

static int set_up(struct nbd_handle *handle, enum connection_kind kind, const struct address *address,
                  const options_t *options)
{
    /* The end of an export may lie within a block: libnbd would refuse a request up to it, so the server decides. */
    const uint32_t strict = LIBNBD_STRICT_MASK & ~LIBNBD_STRICT_ALIGN;

    if (nbd_set_strict_mode(handle, strict) < 0 || set_up_replies(handle, kind) < 0)
        return -1;
    /* The buffer of a read is used only if the read succeeds. */
    if (nbd_set_pread_initialize(handle, false) < 0)
        return -1;
    if (options->export_name != NULL && nbd_set_export_name(handle, options->export_name) < 0)
        return -1;
    return set_up_tls(handle, address, options);
}

static void fail(struct connection *connection)
{
    failure_take(&connection->failure);
    connection_close(connection);
}

/* A write of the default size fits into the buffer of a Unix socket if net.core.wmem_max allows it, so that this thread need not
 * wait for the server in the middle of one. The kernel adapts the buffers of TCP by itself. */
static void set_buffer(int fd)
{
    enum { BUFFER = 1 << 20 };
    struct sockaddr_storage address = { 0 };
    socklen_t length = sizeof(address);

    /* A smaller buffer is only slower. */
    if (getsockname(fd, (struct sockaddr *)&address, &length) == 0 && address.ss_family == AF_UNIX)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ BUFFER }, sizeof(int));
}

void connection_review(struct connection *connection)
{
    struct nbd_handle *handle = connection->handle;

    connection->direction = nbd_aio_get_direction(handle);
    /* A connection that lives waits for something. */
    if (connection->direction == 0 && nbd_aio_is_closed(handle) == 1) {
        failure_set(&connection->failure, ECONNRESET, "the server closed the connection");
        connection_close(connection);
    } else if (connection->direction == 0 && nbd_aio_is_dead(handle) == 1) {
        fail(connection);
    } else if (connection->state == CONNECTION_CONNECTING) {
        /* Each address of a server is tried with a socket of its own. */
        connection->fd = nbd_aio_get_fd(handle);
        if (nbd_aio_is_ready(handle) == 1) {
            connection->state = CONNECTION_READY;
            set_buffer(connection->fd);
        }
    }
}

int connection_start(struct connection *connection, enum connection_kind kind, struct address *address,
                     const options_t *options)
{
    struct nbd_handle *handle = nbd_create();
    int r;

    *connection = (struct connection){ .state = CONNECTION_CONNECTING, .handle = handle, .fd = -1 };
    connection->deadline_ms = now_ms() + options->timeout_ms;
    if (check_verified(address, options, &connection->failure) < 0) {
        connection_close(connection);
        return -connection->failure.error;
    }
    if (handle == NULL || set_up(handle, kind, address, options) < 0) {
        fail(connection);
        return -connection->failure.error;
    }
    if (address->socket >= 0) {
        /* libnbd owns it from here on, whatever happens. */
        r = nbd_aio_connect_socket(handle, address->socket);
        address->socket = -1;
    } else {
        r = nbd_aio_connect_uri(handle, address->uri);
    }
    if (r < 0)
        fail(connection);
    else
        connection_review(connection);
    return -connection->failure.error;
}

void connection_step(struct connection *connection, short events)
{
    struct nbd_handle *handle = connection->handle;
    int r = 0;

    /* The next request on a broken connection reports the failure. */
    if ((events & (POLLHUP | POLLERR)) != 0)
        events |= POLLIN | POLLOUT;
    /* Never called without an event: libnbd would enter a state in which it sends nothing more. */
    if ((events & POLLIN) != 0 && (connection->direction & LIBNBD_AIO_DIRECTION_READ) != 0)
        r = nbd_aio_notify_read(handle);
    else if ((events & POLLOUT) != 0 && (connection->direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
        r = nbd_aio_notify_write(handle);
    if (r < 0)
        fail(connection);
    else
        connection_review(connection);
}

short connection_events(const struct connection *connection, int *fd)
{
    short events = 0;

    if (connection->state != CONNECTION_CONNECTING &&
        (connection->state != CONNECTION_READY || connection->in_flight == 0))
        return 0;
    *fd = connection->fd;
    if ((connection->direction & LIBNBD_AIO_DIRECTION_READ) != 0)
        events |= POLLIN;
    if ((connection->direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
        events |= POLLOUT;
    return *fd < 0 ? 0 : events;
}

/* Whether a message can be sent to the server: libnbd 1.14 reads freed memory if it finds out by itself that it cannot. */
static bool is_alive(const struct connection *connection)
{
    struct pollfd fd = { .fd = connection->fd, .events = POLLIN | POLLOUT };

    return poll(&fd, 1, 0) == 1 && fd.revents == POLLOUT;
}

void connection_leave(struct connection *connection)
{
    /* A disconnect request shows the server that the client did not crash. */
    if (connection->state == CONNECTION_READY && connection->in_flight == 0 && is_alive(connection))
        nbd_aio_disconnect(connection->handle, 0);
    connection_close(connection);
}

void connection_close(struct connection *connection)
{
    if (connection->handle != NULL)
        nbd_close(connection->handle);
    connection->handle = NULL;
    connection->state = CONNECTION_CLOSED;
}
