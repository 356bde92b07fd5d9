/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A disk image that is sent or received over a TLS session, and resumed. Shared by the daemon and the client. */
#ifndef TLS_DISK_H
#define TLS_DISK_H

#include <gnutls/gnutls.h>
#include <sparsestream.h>
#include <stdint.h>

/* The client's request: 'u' to upload, 'd' to download, and a name without slashes, padded with zeros. */
#define REQUEST_SIZE 64

struct disk {
    sparsestream_source *source;
    sparsestream_sink *sink;
    sparsestream_transfer *transfer;
    gnutls_session_t session;
    int fd;
    int64_t rate;      /* bytes a second; 0: no limit */
    char *path;        /* the complete image */
    char *part;        /* the image while it is received */
    char *record_path; /* records how much of it is durable */
    struct record {
        int64_t durable;
        uint8_t identity[32];
    } record;
    int64_t resumed; /* where a transfer started */
};

/* Each returns 0 or a negative errno; sparsestream_last_error() has the message. */
int disk_send(struct disk *disk, gnutls_session_t session, const char *path);
int disk_receive(struct disk *disk, gnutls_session_t session, const char *path);
/* Moves about `budget` bytes (0: all). Returns 0 at the end, 1 if there is more to do, -EAGAIN, or another negative errno. */
int disk_step(struct disk *disk, int64_t budget);
/* Reports the events to wait for after -EAGAIN. */
int disk_wait(struct disk *disk, sparsestream_wait *wait);
void disk_end(struct disk *disk);

#endif
