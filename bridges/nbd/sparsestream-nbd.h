/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libsparsestream-nbd: the export of an NBD server as an end of a sparsestream transfer.
 *
 *     struct sparsestream_nbd *nbd;
 *     struct sparsestream_source *source;
 *
 *     r = sparsestream_nbd_open("nbd://server/disk", NULL, &nbd);
 *     if (r < 0)
 *         fprintf(stderr, "%s\n", sparsestream_nbd_last_error());
 *     r = sparsestream_nbd_source(nbd, NULL, &source);
 *
 * Functions return 0 or a negative errno. sparsestream_nbd_last_error() returns the message if a function of this header
 * failed; a transfer reports its own failures.
 *
 * Threads: an export and its end are used by one thread at a time. The library starts no thread and changes no
 * signal disposition. Only sparsestream_nbd_open(), sparsestream_nbd_open_socket() and sparsestream_nbd_map() wait
 * for the server. libnbd may also wait while it resolves a host name.
 */
#ifndef SPARSESTREAM_NBD_H
#define SPARSESTREAM_NBD_H

#include <sparsestream.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An open export: one or more connections to a server. */
typedef struct sparsestream_nbd sparsestream_nbd;

/* Flag: open returns at once. The connection is made while the transfer runs, or by sparsestream_nbd_info(), which
 * returns -EAGAIN until the export is open. */
#define SPARSESTREAM_NBD_NONBLOCK 1
/* Flag: with TLS, do not verify the identity of the server. Without this flag, certificates are refused with -ENOTSUP
 * if there is no host name to verify: over a Unix socket, AF_VSOCK or a socket of the caller. Pre-shared keys identify
 * the server even then. */
#define SPARSESTREAM_NBD_NO_VERIFY_PEER 2
/* Flag: the URI may name local files (tls-certificates=DIR, tls-psk-file=FILE). Do not set it for a URI from somebody
 * who must not read these files. */
#define SPARSESTREAM_NBD_LOCAL_FILES 4
/* Flag: only a connection with TLS is made, even if the URI does not ask for it. */
#define SPARSESTREAM_NBD_TLS 8

/* How an export is opened. Zero-initialise it and set `size`; NULL means all defaults. */
typedef struct sparsestream_nbd_options {
    /* sizeof(sparsestream_nbd_options). */
    uint64_t size;
    /* Any of SPARSESTREAM_NBD_NONBLOCK, _NO_VERIFY_PEER, _LOCAL_FILES, _TLS. */
    uint64_t flags;
    /* The connection must be ready within this many milliseconds (-ETIMEDOUT); 0 means 30000. */
    int64_t timeout_ms;
    /* The most bytes of one read or write: a power of two from 4096 to 16777216; 0 means 524288, or the
     * largest power of two that fits into `memory` if that is less. The server may allow less. */
    int64_t request_size;
    /* The most bytes of memory for requests in flight, at least `request_size`; 0 means 67108864. */
    int64_t memory;
    /* The most connections, 1 to 4; 0 means 4. More than one is made only if the server allows it (multi-conn). The first
     * one asks for holes; those that do not lead to the same export are closed. */
    int32_t connections;
    /* The most requests in flight on one connection, 1 to 256; 0 means 64. */
    int32_t requests;
    /* The name of the export, for sparsestream_nbd_open_socket(); NULL means "". A URI has its own. */
    const char *export_name;
    /* With TLS: the directory of the certificates, or a file with pre-shared keys; NULL means libnbd's defaults. */
    const char *tls_certificates;
    const char *tls_psk_file;
    /* With a file of pre-shared keys: the user name; NULL means the name of the user of this process. */
    const char *tls_username;
} sparsestream_nbd_options;

/* Flags of sparsestream_nbd_facts. */
/* The export cannot be written. */
#define SPARSESTREAM_NBD_READ_ONLY 1
/* The server reports where the export has holes (base:allocation). */
#define SPARSESTREAM_NBD_REPORTS_HOLES 2
/* The server can zero a range without receiving the zeros (CAN_ZERO), and can refuse if that is not faster than writing
 * (CAN_FAST_ZERO). */
#define SPARSESTREAM_NBD_CAN_ZERO 4
#define SPARSESTREAM_NBD_CAN_FAST_ZERO 8
/* The server can flush everything that was written to its medium. */
#define SPARSESTREAM_NBD_CAN_FLUSH 16
/* The server allows several connections. */
#define SPARSESTREAM_NBD_MULTI_CONN 32
/* The connection is encrypted. */
#define SPARSESTREAM_NBD_ENCRYPTED 64

/* The properties of an open export. Set `size` before the call. */
typedef struct sparsestream_nbd_facts {
    /* sizeof(sparsestream_nbd_facts), set by the caller. */
    uint64_t size;
    /* Any of the flags above. */
    uint64_t flags;
    /* The size of the export in bytes. */
    int64_t export_size;
    /* In bytes: offsets and lengths of requests are multiples of the minimum; multiples of the preferred block are
     * fastest; no request is larger than the maximum. */
    uint32_t block_minimum;
    uint32_t block_preferred;
    uint32_t block_maximum;
    /* The number of connections that are ready. More are made while a transfer runs. */
    uint32_t connections;
} sparsestream_nbd_facts;

/* How holes are written: `zeroes` of sparsestream_nbd_end_options. A hole is never written as TRIM, which may leave the
 * old bytes. */

/* The sink asks the server to zero the range. From the first refusal on, it writes zeros. If the server can zero faster
 * than it can write, one request zeroes several holes and short data between them, which is written afterwards. The
 * default. */
#define SPARSESTREAM_NBD_ZEROES_AUTO 0
/* As AUTO, but the server is asked to refuse if zeroing is not faster than writing. If the server cannot do that, the
 * sink writes zeros. */
#define SPARSESTREAM_NBD_ZEROES_FAST 1
/* Zeros are written. */
#define SPARSESTREAM_NBD_ZEROES_WRITE 2

/* Flag of a sink: zeroed ranges stay allocated. */
#define SPARSESTREAM_NBD_NO_HOLE 1

/* How an export is used as an end. Zero-initialise it and set `size`; NULL means all defaults. */
typedef struct sparsestream_nbd_end_options {
    /* sizeof(sparsestream_nbd_end_options). */
    uint64_t size;
    /* Sink: 0 or SPARSESTREAM_NBD_NO_HOLE. Source: 0 or SPARSESTREAM_IGNORE_MAP, to read everything. */
    uint64_t flags;
    /* The offset in the export of the stream's first byte. */
    int64_t offset;
    /* Source: the number of bytes to read; 0 means to the end. Sink: the most bytes, holes included, that it accepts; 0
     * means to the end of the export. */
    int64_t length;
    /* Source: a hole of fewer bytes is read as data, which saves requests if the holes are small. 0 means that every
     * hole is reported. */
    int64_t least_hole;
    /* Sink: one of SPARSESTREAM_NBD_ZEROES_...; source: 0. */
    int32_t zeroes;
    /* Zero. */
    int32_t reserved;
} sparsestream_nbd_end_options;

/*
 * Opens the export of a URI: nbd://, nbds:// (TLS), nbd+unix://, nbds+unix://, nbd+vsock://, nbds+vsock://.
 *
 * Returns 0 and an export in `*nbd` that the caller frees, or a negative errno with `*nbd` NULL: -EINVAL (an
 * argument), -E2BIG (a struct from a later version), -ENOMEM, -ETIMEDOUT (`timeout_ms`), -ENOTSUP (libnbd was built
 * without a feature that the URI needs, or there is no host name to verify a certificate), -EPROTO (the server refused,
 * or does not speak NBD), -ECONNRESET (the server closed the connection, or it broke), -ECONNREFUSED and the other errnos
 * of connect(2).
 */
int sparsestream_nbd_open(const char *uri, const struct sparsestream_nbd_options *options,
                          struct sparsestream_nbd **nbd);

/*
 * Opens an export over a connected stream socket, with one connection.
 *
 * The call takes over the socket: it is closed when the export is freed, or before the call returns a failure. Returns
 * the same as sparsestream_nbd_open().
 */
int sparsestream_nbd_open_socket(int socket, const struct sparsestream_nbd_options *options,
                                 struct sparsestream_nbd **nbd);

/* Reports the properties of the export. Returns 0, -EINVAL, -EAGAIN (SPARSESTREAM_NBD_NONBLOCK: the export is not open
 * yet; see sparsestream_nbd_wait()), or the errno with which the connection failed. */
int sparsestream_nbd_info(struct sparsestream_nbd *nbd, struct sparsestream_nbd_facts *facts);

/* Sets the descriptors and the time to wait for after sparsestream_nbd_info() has returned -EAGAIN. Returns 0 or
 * -EINVAL. */
int sparsestream_nbd_wait(struct sparsestream_nbd *nbd, struct sparsestream_wait *wait);

/*
 * Calls `section` for each section of a range, in the order of their offsets, without reading data. Adjacent
 * sections differ in kind. A `length` of 0 means to the end. Waits for the server, at most `timeout_ms` for an
 * answer.
 *
 * Returns 0, -EINVAL (an argument, or a range that is not in the export), -ENOMEM, -EBUSY (the export has an end), the
 * errno of the connection, or the negative errno with which `section` ended the call.
 */
int sparsestream_nbd_map(struct sparsestream_nbd *nbd, int64_t offset, int64_t length,
                         int (*section)(void *opaque, const struct sparsestream_section *section), void *opaque);

/*
 * Sets `depth` and `request_size` of the options of a transfer with this export as one end. If they are 0, they
 * become the largest values that the options of the export allow: up to `requests` on each connection, within
 * `memory`. Returns 0 or -EINVAL.
 */
int sparsestream_nbd_tune(struct sparsestream_nbd *nbd, struct sparsestream_transfer_options *options);

/*
 * Makes a source, or a sink, of an export; only a transfer can use it. The end holds a reference to the export, so
 * the export may be freed first. An export has one end at a time.
 *
 * A source has a hole where the server reports that a range reads as zeros. The report is a hint: if it fails, is
 * absent or is finer than the minimum block, the range is read.
 *
 * A sink writes from `offset` on, and does not change bytes outside the stream. A stream that does not fit is refused
 * with -ENOSPC, before a byte moves if its length is known. Success means that the server has flushed everything to its
 * medium, if it can flush.
 *
 * Return 0 and a handle that the caller frees, or a negative errno: -EINVAL, -E2BIG, -ENOMEM, -EBUSY (the export has an
 * end), -EROFS (a sink of an export that is known to be read-only).
 */
int sparsestream_nbd_source(struct sparsestream_nbd *nbd, const struct sparsestream_nbd_end_options *options,
                            struct sparsestream_source **source);
int sparsestream_nbd_sink(struct sparsestream_nbd *nbd, const struct sparsestream_nbd_end_options *options,
                          struct sparsestream_sink **sink);

/* Frees the caller's handle. The connections are closed when no end holds the export any more. NULL is allowed. */
void sparsestream_nbd_free(struct sparsestream_nbd *nbd);

/* Returns the message of the last function of this header that failed on this thread; "" before the first failure. The
 * string is valid until the next such failure on this thread. */
const char *sparsestream_nbd_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
