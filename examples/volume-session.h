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
    VOLUME_WAIT,  /* for `events` of the socket, until the deadline */
    VOLUME_DROP,  /* the client has to go */
};

struct volume_session {
    struct volume_service *service;
    unsigned number;
    struct volume_channel channel;
    enum volume_turn (*turn)(struct volume_session *session); /* the work that it does next */
    short events;     /* that it waits for: POLLIN, POLLOUT */
    int64_t deadline; /* of the wait, in milliseconds of now_ms(); -1: none */
    uint64_t moved;   /* over the socket, when the deadline was set */

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
/* Does a bounded piece of work. */
enum volume_turn session_turn(struct volume_session *session);
/* The deadline has passed. */
enum volume_turn session_late(struct volume_session *session);
/* Whether its turns are those of a transfer; others are short. */
bool session_transfers(const struct volume_session *session);
/* Logs why the client has to go. Returns VOLUME_DROP. */
enum volume_turn session_drop(const struct volume_session *session, int r, const char *doing);
/* Releases everything but the socket. */
void session_close(struct volume_session *session);

/* CLOCK_MONOTONIC */
int64_t now_ms(void);

#endif
