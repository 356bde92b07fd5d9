/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Glue between libsparsestream and GnuTLS: everything that a program needs to
 * send or receive a sparse stream over a TLS session.
 */
#include "tls-transport.h"

#include <errno.h>
#include <gnutls/socket.h>
#include <poll.h>

/* Returns a negative errno for a GnuTLS error, and attaches the text of the error to it. */
static int tls_error(int error)
{
    if (error == GNUTLS_E_AGAIN)
        return -EAGAIN;
    if (error == GNUTLS_E_INTERRUPTED)
        return -EINTR;
    sparsestream_set_error(ECONNABORTED, SPARSESTREAM_OPERATION_NONE, -1, gnutls_strerror(error));
    return -ECONNABORTED;
}

static int64_t tls_read(void *session, void *buffer, size_t length)
{
    ssize_t r = gnutls_record_recv(session, buffer, length);

    return r < 0 ? tls_error((int)r) : r;
}

static int64_t tls_write(void *session, const void *buffer, size_t length)
{
    ssize_t r = gnutls_record_send(session, buffer, length);

    return r < 0 ? tls_error((int)r) : r;
}

static int tls_close(void *session)
{
    int r = gnutls_bye(session, GNUTLS_SHUT_WR);

    return r < 0 ? tls_error(r) : 0;
}

static int tls_wait(void *session, sparsestream_wait *wait)
{
    wait->fd = gnutls_transport_get_int(session);
    wait->events = gnutls_record_get_direction(session) == 1 ? POLLOUT : POLLIN;
    return 0;
}

/* If the kernel encrypts the data that is written to the socket, the library can send a file without a copy. */
int tls_output_fd(void *session)
{
#if GNUTLS_VERSION_NUMBER >= 0x030703
    if (gnutls_transport_is_ktls_enabled(session) & GNUTLS_KTLS_SEND)
        return gnutls_transport_get_int(session);
#endif
    (void)session;
    return -1;
}

const sparsestream_transport_ops tls_transport = {
    .size = sizeof(tls_transport),
    .read = tls_read,
    .write = tls_write,
    .close = tls_close,
    .wait = tls_wait,
    .output_fd = tls_output_fd,
};
