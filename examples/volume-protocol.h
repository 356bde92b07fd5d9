/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The volume protocol: packets over a stream socket between volume-daemon and volume-client.
 *
 * A packet is a header of 20 bytes and a payload; all numbers are big endian.
 *
 *      0  u32  length   bytes of the whole packet, header included
 *      4  u32  magic    VOLUME_MAGIC, which is also the version
 *      8  u32  type     VOLUME_LIST ... VOLUME_STATUS
 *     12  u32  serial   chosen by the client for a call; all packets that belong to the call carry it
 *     16  u32  status   0, or an errno: both ends run on one machine
 *
 * A call (LIST to DOWNLOAD) carries u64 offset, u64 length, u32 sparse, u32 flags and a name, and is
 * answered by one REPLY: status 0 with u64 size and u64 allocated, or an errno with a text. LIST is
 * answered by an ENTRY for each volume (u64 size, u64 allocated, name) before the REPLY.
 *
 * After a REPLY with status 0, one side sends a stream: the client after UPLOAD, the daemon after DOWNLOAD:
 *
 *     sender     (DATA | HOLE)*  then once FINISH or ABORT
 *     receiver   once STATUS: 0 after FINISH when all is stored, an errno as soon as it fails
 *
 * A sender that receives a failure ends with ABORT. A receiver that failed discards packets until the sender's
 * end. Then both sides know where the stream ended, and the next call may follow. A connection that is cut
 * anywhere else is an error. A sender that fails within a DATA fills it up with zeros, so that ABORT can
 * follow. So a receiver must not use the data of a stream unless the stream ends with FINISH.
 */

#ifndef VOLUME_PROTOCOL_H
#define VOLUME_PROTOCOL_H

#include <sparsestream.h>

enum {
    VOLUME_MAGIC = 0x53535631,
    VOLUME_HEADER = 20,
    VOLUME_DATA_MAX = 256 * 1024, /* payload of one DATA */
    VOLUME_SMALL_MAX = 512,       /* payload of anything else */
    VOLUME_NAME_MAX = 128,
    VOLUME_WORDS_MAX = 400,
    VOLUME_CALL_FIXED = 24,
    VOLUME_DRAIN_MAX = 4 * 1024 * 1024,
};

enum volume_type {
    VOLUME_LIST = 1,
    VOLUME_INFO,
    VOLUME_CREATE, /* length: the size of the new volume */
    VOLUME_DELETE,
    VOLUME_UPLOAD,   /* offset, length: bytes that will come, 0 if not known; sparse */
    VOLUME_DOWNLOAD, /* offset, length: 0 to the end; sparse; the REPLY's size: bytes that will come */
    VOLUME_REPLY = 16,
    VOLUME_ENTRY,
    VOLUME_DATA = 32, /* 1 to VOLUME_DATA_MAX bytes */
    VOLUME_HOLE,      /* u64 length, 1 to INT64_MAX */
    VOLUME_FINISH,
    VOLUME_ABORT,  /* status, text */
    VOLUME_STATUS, /* status, text */
};

/* Flag of a call: blocks of zeros in the sender's data become holes. */
#define VOLUME_DETECT_ZEROES 1u

struct volume_call {
    uint32_t type;
    uint32_t sparse; /* SPARSESTREAM_SPARSE_... */
    uint32_t flags;
    int64_t offset;
    int64_t length;
    char name[VOLUME_NAME_MAX + 1];
};

struct volume_facts {
    int64_t size;
    int64_t allocated;
};

/* One packet that came in. The payload of DATA stays in the socket, for the stream's reader. */
struct volume_packet {
    uint32_t type;
    uint32_t serial;
    uint32_t status;
    uint32_t length; /* of the payload */
    uint8_t payload[VOLUME_SMALL_MAX];
};

/*
 * One connection, over a blocking or a non-blocking socket. On a non-blocking socket the functions return
 * -EAGAIN, keep the part of a packet that they have, and set `wants` to POLLIN or POLLOUT.
 */
struct volume_channel {
    int fd;
    int flags; /* MSG_DONTWAIT makes a blocking socket a non-blocking one */
    short wants;
    uint64_t sent; /* bytes over the socket */
    uint64_t received;

    struct volume_packet in;
    bool in_ready;
    bool in_broken; /* -EPROTO from here on: the start of the next packet is not known */
    size_t in_have; /* bytes of header and payload so far */
    uint8_t in_header[VOLUME_HEADER];

    size_t out_have;
    size_t out_done;
    uint8_t out[2 * (VOLUME_HEADER + VOLUME_SMALL_MAX)];
};

/* One stream on a channel, as its sender or as its receiver: the opaque of the library's callbacks. */
struct volume_stream {
    struct volume_channel *channel;
    uint32_t serial;
    uint32_t data_left; /* bytes of the open DATA packet still to be sent or received */
    int64_t position;   /* received so far */
    int64_t expected;   /* the length that the sender announced; -1 if it announced none */
    int64_t drained;
    bool ended;      /* our FINISH, ABORT or STATUS is queued */
    bool peer_ended; /* the peer's has come */
    char words[VOLUME_WORDS_MAX + 1]; /* the peer's text, if it sent the reason of its failure */
};

/* 1 to VOLUME_NAME_MAX of A-Z a-z 0-9 . _ + -, the first a letter or a digit: so no path, nothing hidden. */
bool volume_name_valid(const char *name);

/* Connects to the daemon's socket. Returns a socket in blocking mode, or a negative errno. */
int volume_connect(const char *path);

void volume_channel_init(struct volume_channel *channel, int fd);

/* Queues a packet other than DATA. Returns 0, or -ENOBUFS when more than two wait. */
int volume_queue(struct volume_channel *channel, uint32_t type, uint32_t serial, int status,
                 const void *payload, size_t length);
int volume_queue_words(struct volume_channel *channel, uint32_t type, uint32_t serial, int status,
                       const char *words);
int volume_queue_facts(struct volume_channel *channel, uint32_t type, uint32_t serial,
                       const struct volume_facts *facts, const char *name);
int volume_queue_call(struct volume_channel *channel, uint32_t serial, const struct volume_call *call);

/* Sends what is queued. Returns 0, -EAGAIN or a negative errno. */
int volume_flush(struct volume_channel *channel);

/*
 * Makes the next packet stand in channel->in, until volume_consume. Returns 0, -EAGAIN, -ECONNRESET
 * (cut), -EPROTO (not this protocol), or another negative errno. `flags`: 0 or MSG_DONTWAIT.
 */
int volume_receive(struct volume_channel *channel, int flags);
void volume_consume(struct volume_channel *channel);

/* Decode channel->in. Return 0, -EPROTO, or -EINVAL for an invalid name. */
int volume_take_call(const struct volume_packet *packet, struct volume_call *call);
int volume_take_facts(const struct volume_packet *packet, struct volume_facts *facts,
                      char name[VOLUME_NAME_MAX + 1]);
void volume_take_words(const struct volume_packet *packet, char words[VOLUME_WORDS_MAX + 1]);

/* A peer's status as a negative errno that no loop takes for "try again". */
int volume_remote_errno(uint32_t status);

/* `expected`: the bytes that the sender announced, -1 if none; of no meaning to a sender. */
void volume_stream_init(struct volume_stream *stream, struct volume_channel *channel, uint32_t serial,
                        int64_t expected);

/* The tables for the library; their opaque is a struct volume_stream. */
extern const sparsestream_stream_ops volume_sender_ops;
extern const sparsestream_stream_ops volume_receiver_ops;

/* Ends a stream with a failure and its text. Call again while it returns -EAGAIN. */
int volume_sender_abort(struct volume_stream *stream, int error, const char *words);

/* Sends the one STATUS of the receiver: 0, or an errno and its text. Call again while it returns -EAGAIN. */
int volume_receiver_end(struct volume_stream *stream, int error, const char *words);

/*
 * Discards packets until the peer has ended its part. Call again while it returns -EAGAIN. Returns -EPROTO if
 * the peer sends more than VOLUME_DRAIN_MAX.
 */
int volume_sender_drain(struct volume_stream *stream);
int volume_receiver_drain(struct volume_stream *stream);

#endif
