/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A session of volume-daemon with one client: its calls in order, and the transfer of each upload or download. */

#ifndef VOLUME_SESSION_H
#define VOLUME_SESSION_H

#include "volume-options.h"
#include "volume-store.h"

enum { VOLUME_BUFFER = 64 * 1024 }; /* of one transfer */

/* The state that all sessions share. */
struct volume_service {
    const struct volume_options *options;
    struct volume_store store;
    int64_t zeros; /* charged to the uploads that run */
    bool stopping; /* no further call is taken */
};

enum volume_turn {
    VOLUME_AGAIN, /* there is more to do */
    VOLUME_WAIT,  /* for the socket, or for the time */
    VOLUME_DROP,  /* the client has to go */
};

/* The patience with a session that waits. */
enum volume_state {
    VOLUME_IDLE,     /* between two calls: nothing is owed */
    VOLUME_BUSY,     /* in a call */
    VOLUME_TRANSFER, /* sparsestream_transfer_wait() reports how long */
};

struct volume_session {
    struct volume_service *service;
    unsigned number;
    struct volume_channel channel;
    enum volume_turn (*turn)(struct volume_session *session); /* what it does next, a bounded piece of work */

    struct volume_call call; /* the one under way, and all that belongs to it */
    uint32_t serial;
    DIR *listing;
    int volume, result;
    struct volume_stream stream;
    int64_t zeros_below; /* holes of an upload before this offset may have to be written, */
    int64_t zeros;       /* and this many bytes of them were charged */
    sparsestream_source *source;
    sparsestream_sink *sink;
    sparsestream_transfer *transfer;
    char words[VOLUME_WORDS_MAX + 1];
};

void session_open(struct volume_session *session, struct volume_service *service, unsigned number, int fd);
enum volume_state session_state(const struct volume_session *session);
/* Logs why the client has to go. Returns VOLUME_DROP. */
enum volume_turn session_drop(const struct volume_session *session, int r, const char *doing);
/* Releases everything but the socket. */
void session_close(struct volume_session *session);

#endif
