/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The volume protocol; see volume-protocol.h. Part of volume-daemon and of volume-client. */

#define _GNU_SOURCE
#include "volume-protocol.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static void put_u32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void put_u64(uint8_t *to, uint64_t value)
{
    put_u32(to, (uint32_t)(value >> 32));
    put_u32(to + 4, (uint32_t)value);
}

static uint32_t get_u32(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static uint64_t get_u64(const uint8_t *from)
{
    return (uint64_t)get_u32(from) << 32 | get_u32(from + 4);
}

bool volume_name_valid(const char *name)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t length = strlen(name);

    if (length == 0 || length > VOLUME_NAME_MAX || strchr(letters, name[0]) == NULL)
        return false;
    for (size_t i = 1; i < length; i++) {
        if (strchr(letters, name[i]) == NULL && strchr("._+-", name[i]) == NULL)
            return false;
    }
    return true;
}

int volume_remote_errno(uint32_t status)
{
    if (status == EAGAIN || status == EINTR)
        return -EREMOTEIO;
    return -(int)status;
}

/* The connection. */

/* On a local socket, connect(2) succeeds or fails at once. */
int volume_connect(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd, error;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    error = errno;
    if (fd >= 0)
        close(fd);
    return -error;
}

void volume_channel_init(struct volume_channel *channel, int fd)
{
    memset(channel, 0, sizeof(*channel));
    channel->fd = fd;
}

static void put_header(uint8_t *to, uint32_t type, uint32_t serial, int status, size_t length)
{
    put_u32(to, (uint32_t)(VOLUME_HEADER + length));
    put_u32(to + 4, VOLUME_MAGIC);
    put_u32(to + 8, type);
    put_u32(to + 12, serial);
    put_u32(to + 16, (uint32_t)status);
}

/* Queues a header, and the payload unless it is to follow from elsewhere. */
static int queue(struct volume_channel *channel, uint32_t type, uint32_t serial, int status,
                 const void *payload, size_t length)
{
    size_t copied = payload == NULL ? 0 : length;

    if (channel->out_have + VOLUME_HEADER + copied > sizeof(channel->out))
        return -ENOBUFS;
    put_header(channel->out + channel->out_have, type, serial, status, length);
    channel->out_have += VOLUME_HEADER;
    if (copied > 0)
        memcpy(channel->out + channel->out_have, payload, copied);
    channel->out_have += copied;
    return 0;
}

int volume_queue(struct volume_channel *channel, uint32_t type, uint32_t serial, int status,
                 const void *payload, size_t length)
{
    if (length > VOLUME_SMALL_MAX || (payload == NULL && length > 0))
        return -EINVAL;
    return queue(channel, type, serial, status, payload, length);
}

int volume_queue_words(struct volume_channel *channel, uint32_t type, uint32_t serial, int status,
                       const char *words)
{
    return volume_queue(channel, type, serial, status, words, strnlen(words, VOLUME_WORDS_MAX));
}

int volume_queue_facts(struct volume_channel *channel, uint32_t type, uint32_t serial,
                       const struct volume_facts *facts, const char *name)
{
    uint8_t payload[16 + VOLUME_NAME_MAX];
    size_t length = strlen(name);

    if (length > VOLUME_NAME_MAX)
        return -EINVAL;
    put_u64(payload, (uint64_t)facts->size);
    put_u64(payload + 8, (uint64_t)facts->allocated);
    memcpy(payload + 16, name, length);
    return volume_queue(channel, type, serial, 0, payload, 16 + length);
}

int volume_queue_call(struct volume_channel *channel, uint32_t serial, const struct volume_call *call)
{
    uint8_t payload[VOLUME_CALL_FIXED + VOLUME_NAME_MAX];
    size_t length = strlen(call->name);

    put_u64(payload, (uint64_t)call->offset);
    put_u64(payload + 8, (uint64_t)call->length);
    put_u32(payload + 16, call->sparse);
    put_u32(payload + 20, call->flags);
    memcpy(payload + VOLUME_CALL_FIXED, call->name, length);
    return volume_queue(channel, call->type, serial, 0, payload, VOLUME_CALL_FIXED + length);
}

/* Sends the queue and then as much of `data` as possible. Returns the bytes of data, or a negative errno. */
static int64_t send_after_queue(struct volume_channel *channel, const void *data, size_t length)
{
    for (;;) {
        size_t queued = channel->out_have - channel->out_done;
        struct iovec parts[2] = {
            { .iov_base = channel->out + channel->out_done, .iov_len = queued },
            { .iov_base = (void *)data, .iov_len = length },
        };
        struct msghdr message = { .msg_iov = parts, .msg_iovlen = length > 0 ? 2 : 1 };
        ssize_t n;

        if (queued + length == 0)
            return 0;
        /* MSG_NOSIGNAL: a peer that has closed is an error here, and must not end this process. */
        n = sendmsg(channel->fd, &message, MSG_NOSIGNAL | channel->flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            channel->wants = POLLOUT;
            return -errno;
        }
        channel->sent += (uint64_t)n;
        if ((size_t)n < queued) {
            channel->out_done += (size_t)n;
            continue;
        }
        channel->out_have = channel->out_done = 0;
        if ((size_t)n > queued || length == 0)
            return (int64_t)((size_t)n - queued);
    }
}

int volume_flush(struct volume_channel *channel)
{
    return (int)send_after_queue(channel, NULL, 0);
}

/* Returns the count, at least 1, or a negative errno: -ECONNRESET if the connection was cut. */
static int64_t receive_some(struct volume_channel *channel, void *buffer, size_t length, int flags)
{
    ssize_t n;

    do
        n = recv(channel->fd, buffer, length, flags | channel->flags);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        channel->wants = POLLIN;
        return -errno;
    }
    if (n == 0)
        return -ECONNRESET;
    channel->received += (uint64_t)n;
    return n;
}

static bool length_fits(uint32_t type, uint32_t length)
{
    switch (type) {
    case VOLUME_LIST:
    case VOLUME_INFO:
    case VOLUME_CREATE:
    case VOLUME_DELETE:
    case VOLUME_UPLOAD:
    case VOLUME_DOWNLOAD:
        return length >= VOLUME_CALL_FIXED && length <= VOLUME_CALL_FIXED + VOLUME_NAME_MAX;
    case VOLUME_ENTRY:
        return length > 16 && length <= 16 + VOLUME_NAME_MAX;
    case VOLUME_REPLY:
    case VOLUME_ABORT:
    case VOLUME_STATUS:
        return length <= VOLUME_WORDS_MAX;
    case VOLUME_DATA:
        return length >= 1 && length <= VOLUME_DATA_MAX;
    case VOLUME_HOLE:
        return length == 8;
    case VOLUME_FINISH:
        return length == 0;
    default:
        return false;
    }
}

/* Detects every error in a header, before a byte of payload is read. */
static int take_header(struct volume_channel *channel)
{
    const uint8_t *header = channel->in_header;
    struct volume_packet *in = &channel->in;
    uint32_t length = get_u32(header);

    if (get_u32(header + 4) != VOLUME_MAGIC || length < VOLUME_HEADER)
        return -EPROTO;
    in->length = length - VOLUME_HEADER;
    in->type = get_u32(header + 8);
    in->serial = get_u32(header + 12);
    in->status = get_u32(header + 16);
    if (!length_fits(in->type, in->length) || in->status > 4095)
        return -EPROTO;
    if (in->type == VOLUME_ABORT && in->status == 0)
        return -EPROTO;
    if (in->status != 0 && in->type != VOLUME_ABORT && in->type != VOLUME_STATUS &&
        in->type != VOLUME_REPLY)
        return -EPROTO;
    return 0;
}

int volume_receive(struct volume_channel *channel, int flags)
{
    struct volume_packet *in = &channel->in;

    if (channel->in_broken)
        return -EPROTO;
    while (!channel->in_ready) {
        bool header = channel->in_have < VOLUME_HEADER;
        size_t at = header ? channel->in_have : channel->in_have - VOLUME_HEADER;
        uint8_t *to = header ? channel->in_header + at : in->payload + at;
        size_t need = header ? VOLUME_HEADER - at : in->length - at;
        int64_t n = receive_some(channel, to, need, flags);

        if (n < 0)
            return (int)n;
        channel->in_have += (size_t)n;
        if (channel->in_have == VOLUME_HEADER) {
            int r = take_header(channel);

            channel->in_broken = r < 0;
            if (r < 0)
                return r;
        }
        if (channel->in_have < VOLUME_HEADER)
            continue;
        channel->in_ready = in->type == VOLUME_DATA || channel->in_have == VOLUME_HEADER + in->length;
    }
    if (in->type == VOLUME_HOLE) {
        uint64_t hole = get_u64(in->payload);

        channel->in_broken = hole == 0 || hole > INT64_MAX;
    }
    return channel->in_broken ? -EPROTO : 0;
}

void volume_consume(struct volume_channel *channel)
{
    channel->in_ready = false;
    channel->in_have = 0;
}

int volume_take_call(const struct volume_packet *packet, struct volume_call *call)
{
    const uint8_t *payload = packet->payload;
    uint64_t offset, length;
    size_t name;

    if (packet->type < VOLUME_LIST || packet->type > VOLUME_DOWNLOAD)
        return -EPROTO;
    offset = get_u64(payload);
    length = get_u64(payload + 8);
    memset(call, 0, sizeof(*call));
    call->type = packet->type;
    call->sparse = get_u32(payload + 16);
    call->flags = get_u32(payload + 20);
    if (offset > INT64_MAX || length > INT64_MAX - offset || (call->flags & ~VOLUME_DETECT_ZEROES) != 0 ||
        call->sparse > SPARSESTREAM_SPARSE_NEVER)
        return -EPROTO;
    call->offset = (int64_t)offset;
    call->length = (int64_t)length;
    name = packet->length - VOLUME_CALL_FIXED;
    memcpy(call->name, payload + VOLUME_CALL_FIXED, name);
    if (call->type == VOLUME_LIST)
        return name == 0 ? 0 : -EPROTO;
    /* A NUL within the name makes it shorter than it was sent. */
    return strlen(call->name) == name && volume_name_valid(call->name) ? 0 : -EINVAL;
}

int volume_take_facts(const struct volume_packet *packet, struct volume_facts *facts,
                      char name[VOLUME_NAME_MAX + 1])
{
    uint64_t size, allocated;
    size_t length;

    if (packet->length < 16 || packet->length > 16 + VOLUME_NAME_MAX)
        return -EPROTO;
    size = get_u64(packet->payload);
    allocated = get_u64(packet->payload + 8);
    if (size > INT64_MAX || allocated > INT64_MAX)
        return -EPROTO;
    facts->size = (int64_t)size;
    facts->allocated = (int64_t)allocated;
    length = packet->length - 16;
    memcpy(name, packet->payload + 16, length);
    name[length] = '\0';
    return length == 0 || volume_name_valid(name) ? 0 : -EPROTO;
}

void volume_take_words(const struct volume_packet *packet, char words[VOLUME_WORDS_MAX + 1])
{
    for (size_t i = 0; i < packet->length; i++) {
        uint8_t byte = packet->payload[i];

        /* The text may be shown on a terminal. */
        words[i] = byte < ' ' || byte == 0x7f ? '?' : (char)byte;
    }
    words[packet->length] = '\0';
}

/* Streams. */

void volume_stream_init(struct volume_stream *stream, struct volume_channel *channel, uint32_t serial,
                        int64_t expected)
{
    memset(stream, 0, sizeof(*stream));
    stream->channel = channel;
    stream->serial = serial;
    stream->expected = expected;
}

/* Queues the one packet that ends our part, and sends it. */
static int say_end(struct volume_stream *stream, uint32_t type, int status, const char *words)
{
    struct volume_channel *channel = stream->channel;
    int r;

    if (!stream->ended) {
        r = volume_flush(channel);
        if (r < 0)
            return r;
        r = volume_queue_words(channel, type, stream->serial, status, words);
        if (r < 0)
            return r;
        stream->ended = true;
    }
    return volume_flush(channel);
}

/* Sender: takes the receiver's STATUS, which has come. */
static int take_status(struct volume_stream *stream)
{
    struct volume_packet *in = &stream->channel->in;
    int result;

    if (in->type != VOLUME_STATUS || in->serial != stream->serial)
        return -EPROTO;
    result = volume_remote_errno(in->status);
    if (result < 0)
        volume_take_words(in, stream->words);
    volume_consume(stream->channel);
    stream->peer_ended = true;
    return result;
}

/* Sender, before its end: a receiver sends only to report that it failed. */
static int check_receiver(struct volume_stream *stream)
{
    int r = volume_receive(stream->channel, MSG_DONTWAIT);

    if (r == -EAGAIN)
        return 0;
    if (r == 0)
        r = take_status(stream);
    return r == 0 ? -EPROTO : r;
}

/* Sender: the connection failed, but the receiver may have sent its reason before that. */
static int why_cut(struct volume_stream *stream, int error)
{
    int r;

    if (error != -EPIPE && error != -ECONNRESET)
        return error;
    r = check_receiver(stream);
    return r == 0 ? error : r;
}

/* Sender: the socket accepts no more data now; the receiver may have failed and stopped reading. */
static int while_waiting(struct volume_stream *stream)
{
    int r = check_receiver(stream);

    stream->channel->wants = POLLOUT;
    return r == 0 ? -EAGAIN : r;
}

static int64_t sender_send(void *opaque, const void *buffer, size_t length)
{
    struct volume_stream *stream = opaque;
    int64_t n;

    if (stream->data_left == 0) {
        int r = check_receiver(stream);

        if (r == 0)
            r = volume_flush(stream->channel);
        if (r < 0)
            return why_cut(stream, r);
        stream->data_left = length < VOLUME_DATA_MAX ? (uint32_t)length : VOLUME_DATA_MAX;
        r = queue(stream->channel, VOLUME_DATA, stream->serial, 0, NULL, stream->data_left);
        if (r < 0)
            return r;
    }
    /* The header is queued and cannot be taken back: the packet stays open over short counts and -EAGAIN. */
    if (length > stream->data_left)
        length = stream->data_left;
    n = send_after_queue(stream->channel, buffer, length);
    if (n == -EAGAIN)
        return while_waiting(stream);
    if (n < 0)
        return why_cut(stream, (int)n);
    stream->data_left -= (uint32_t)n;
    return n;
}

static int64_t sender_send_hole(void *opaque, int64_t length)
{
    struct volume_stream *stream = opaque;
    uint8_t payload[8];
    int r = check_receiver(stream);

    if (r == 0)
        r = volume_flush(stream->channel);
    if (r < 0)
        return why_cut(stream, r);
    put_u64(payload, (uint64_t)length);
    r = volume_queue(stream->channel, VOLUME_HOLE, stream->serial, 0, payload, sizeof(payload));
    if (r == 0)
        r = volume_flush(stream->channel);
    /* A queued hole counts as sent: after -EAGAIN the library would send it again. */
    return r == -EAGAIN || r == 0 ? length : r;
}

static int sender_finish(void *opaque)
{
    struct volume_stream *stream = opaque;
    int r = say_end(stream, VOLUME_FINISH, 0, "");

    if (r == -EAGAIN)
        return while_waiting(stream);
    if (r < 0)
        return why_cut(stream, r);
    /* The data was sent, but may not be stored yet: the receiver's answer is the result. */
    r = volume_receive(stream->channel, 0);
    return r < 0 ? r : take_status(stream);
}

int volume_sender_abort(struct volume_stream *stream, int error, const char *words)
{
    static const uint8_t zeros[16 * 1024];

    /* An open DATA packet is filled up, so that the peer finds the ABORT after it. */
    while (stream->data_left > 0) {
        size_t length = stream->data_left < sizeof(zeros) ? stream->data_left : sizeof(zeros);
        int64_t n = send_after_queue(stream->channel, zeros, length);

        if (n < 0)
            return (int)n;
        stream->data_left -= (uint32_t)n;
    }
    return say_end(stream, VOLUME_ABORT, error, words);
}

/* Not even a blocking socket may make a failed transfer wait: if the report cannot be sent now, the closed
 * connection shows the failure. */
static void sender_abort(void *opaque, int error)
{
    struct volume_stream *stream = opaque;

    stream->channel->flags |= MSG_DONTWAIT;
    (void)volume_sender_abort(stream, error, strerror(error));
}

static int64_t receiver_recv(void *opaque, void *buffer, size_t length)
{
    struct volume_stream *stream = opaque;
    struct volume_channel *channel = stream->channel;
    struct volume_packet *in = &channel->in;
    int64_t n;

    if (stream->peer_ended)
        return 0;
    if (stream->data_left == 0) {
        int r = volume_receive(channel, 0);

        if (r < 0)
            return r;
        if (in->serial != stream->serial)
            return -EPROTO;
        switch (in->type) {
        case VOLUME_DATA:
            stream->data_left = in->length;
            volume_consume(channel);
            break;
        case VOLUME_HOLE:
            return SPARSESTREAM_AT_HOLE;
        case VOLUME_FINISH:
            volume_consume(channel);
            stream->peer_ended = true;
            return stream->expected >= 0 && stream->position != stream->expected ? -ENODATA : 0;
        case VOLUME_ABORT:
            r = volume_remote_errno(in->status);
            volume_take_words(in, stream->words);
            volume_consume(channel);
            stream->peer_ended = true;
            return r;
        default:
            return -EPROTO;
        }
        if (stream->expected >= 0 && stream->data_left > stream->expected - stream->position)
            return -EFBIG;
    }
    if (length > stream->data_left)
        length = stream->data_left;
    n = receive_some(channel, buffer, length, 0);
    if (n > 0) {
        stream->data_left -= (uint32_t)n;
        stream->position += n;
    }
    return n;
}

static int receiver_recv_hole(void *opaque, int64_t *length)
{
    struct volume_stream *stream = opaque;
    int64_t hole = (int64_t)get_u64(stream->channel->in.payload);
    int64_t most = stream->expected >= 0 ? stream->expected : INT64_MAX;

    volume_consume(stream->channel);
    if (hole > most - stream->position)
        return -EFBIG;
    stream->position += hole;
    *length = hole;
    return 0;
}

int volume_receiver_end(struct volume_stream *stream, int error, const char *words)
{
    return say_end(stream, VOLUME_STATUS, error, words);
}

static int receiver_finish(void *opaque)
{
    return volume_receiver_end(opaque, 0, "");
}

static void receiver_abort(void *opaque, int error)
{
    struct volume_stream *stream = opaque;

    stream->channel->flags |= MSG_DONTWAIT;
    (void)volume_receiver_end(stream, error, strerror(error));
}

int volume_sender_drain(struct volume_stream *stream)
{
    while (!stream->peer_ended) {
        int r = volume_receive(stream->channel, 0);

        if (r == 0)
            r = take_status(stream);
        /* The status itself was already handled. */
        if (r < 0 && !stream->peer_ended)
            return r;
    }
    return 0;
}

int volume_receiver_drain(struct volume_stream *stream)
{
    struct volume_packet *in = &stream->channel->in;
    uint8_t scratch[16 * 1024];

    while (!stream->peer_ended) {
        int r;

        if (stream->data_left > 0) {
            size_t length = stream->data_left < sizeof(scratch) ? stream->data_left : sizeof(scratch);
            int64_t n = receive_some(stream->channel, scratch, length, 0);

            if (n < 0)
                return (int)n;
            stream->data_left -= (uint32_t)n;
            stream->drained += n;
        } else {
            r = volume_receive(stream->channel, 0);
            if (r < 0)
                return r;
            if (in->serial != stream->serial || in->type < VOLUME_DATA || in->type > VOLUME_ABORT)
                return -EPROTO;
            stream->data_left = in->type == VOLUME_DATA ? in->length : 0;
            stream->peer_ended = in->type == VOLUME_FINISH || in->type == VOLUME_ABORT;
            stream->drained += VOLUME_HEADER;
            volume_consume(stream->channel);
        }
        if (stream->drained > VOLUME_DRAIN_MAX)
            return -EPROTO;
    }
    return 0;
}

const sparsestream_stream_ops volume_sender_ops = {
    .size = sizeof(sparsestream_stream_ops),
    .send = sender_send,
    .send_hole = sender_send_hole,
    .finish = sender_finish,
    .abort = sender_abort,
};

const sparsestream_stream_ops volume_receiver_ops = {
    .size = sizeof(sparsestream_stream_ops),
    .recv = receiver_recv,
    .recv_hole = receiver_recv_hole,
    .finish = receiver_finish,
    .abort = receiver_abort,
};
