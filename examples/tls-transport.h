/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A GnuTLS session as a transport of the wire. */
#ifndef TLS_TRANSPORT_H
#define TLS_TRANSPORT_H

#include <gnutls/gnutls.h>
#include <sparsestream.h>

/* The opaque is a gnutls_session_t whose handshake is done and whose socket is in non-blocking mode. */
extern const sparsestream_transport_ops tls_transport;

/* Returns the socket if GnuTLS has given the keys for sending to the kernel, otherwise -1. */
int tls_output_fd(void *session);

#endif
