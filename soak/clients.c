/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The clients of the stress stand: many in one process, on one epoll, each on its own connection. Both ends of
 * every transfer go through the library.
 */

#define _GNU_SOURCE
#include "stand.h"
#include "volume-protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TURN = 64 * 1024,
    RATE = 64 * 1024,
    ROUND_MS = 60000, /* no transfer may take longer */
};

enum state { IDLE, CALL, REPLY, RUN, STOPPED, STRANGER };

struct client {
    enum state state;
    bool ready;
    bool connected;
    int64_t wake; /* microseconds, -1 for never */
    int64_t begun;
    uint32_t watched;
    struct volume_channel channel;
    struct volume_stream stream;
    uint32_t serial;

    int id;
    char name[16];
    enum manner manner;
    enum phase phase; /* that it was begun in */
    bool upload;
    bool acted;
    int64_t act_at;
    struct volume_call call;
    struct content content; /* what is sent, or expected */
    int64_t origin;         /* its offset that the stream begins with */
    int64_t length;
    int64_t at; /* in the stream */
    int64_t filled; /* zeros that came at the end, where the volume has data */
    bool differs;
    struct content old; /* of the volume before an upload */
    sparsestream_source *source;
    sparsestream_sink *sink;
    sparsestream_transfer *transfer;
};

static struct stand *stand;
static uint64_t random_state;
static int epoll_fd;

/* Ends of a transfer. */

static int made_section(void *opaque, sparsestream_section *section)
{
    struct client *client = opaque;
    int64_t left = client->length - client->at;
    bool data;

    if (left == 0)
        return 0;
    section->length = content_section(&client->content, client->origin + client->at, &data);
    if (section->length > left)
        section->length = left;
    section->kind = data ? SPARSESTREAM_DATA : SPARSESTREAM_HOLE;
    return 0;
}

static int64_t made_read(void *opaque, void *buffer, size_t length)
{
    struct client *client = opaque;
    int64_t left = client->length - client->at;

    if ((int64_t)length > left)
        length = (size_t)left;
    content_read(&client->content, client->origin + client->at, buffer, length);
    client->at += (int64_t)length;
    return (int64_t)length;
}

static int64_t made_skip(void *opaque, int64_t length)
{
    struct client *client = opaque;

    client->at += length;
    return length;
}

/*
 * A sender that fails fills its open packet up with zeros before it says ABORT. So zeros may be the last that comes,
 * no more than a packet has, of a transfer that then fails; anything else must be what the volume has.
 */
static void check_bytes(struct client *client, const unsigned char *bytes, size_t length)
{
    size_t same = client->filled > 0 ? 0 : content_like(&client->content, client->origin + client->at, bytes, length);

    client->filled += (int64_t)(length - same);
    for (size_t i = same; i < length; i++)
        client->differs = client->differs || bytes[i] != 0;
    if (client->filled > VOLUME_DATA_MAX)
        client->differs = true;
}

static int64_t checked_write(void *opaque, const void *buffer, size_t length)
{
    struct client *client = opaque;

    if ((int64_t)length > client->length - client->at)
        client->differs = true;
    else if (!client->differs)
        check_bytes(client, buffer, length);
    client->at += (int64_t)length;
    return (int64_t)length;
}

static int64_t checked_hole(void *opaque, int64_t length)
{
    struct client *client = opaque;
    int64_t left = length;

    if (length > client->length - client->at || client->filled > 0)
        client->differs = true;
    while (left > 0 && !client->differs) {
        bool data;
        int64_t section = content_section(&client->content, client->origin + client->at + length - left, &data);

        client->differs = data;
        left -= section;
    }
    client->at += length;
    return length;
}

static const sparsestream_source_ops made_ops = {
    .size = sizeof(sparsestream_source_ops),
    .section = made_section,
    .read = made_read,
    .skip = made_skip,
};

static const sparsestream_sink_ops checked_ops = {
    .size = sizeof(sparsestream_sink_ops),
    .write = checked_write,
    .hole = checked_hole,
};

/* Rounds. */

static void disconnect(struct client *client)
{
    if (client->connected)
        close(client->channel.fd);
    client->connected = false;
    client->watched = 0;
}

/* The last place is the end's; of several waits in a row the last is kept. */
static void note(const struct client *client, enum moment_kind kind, int64_t value)
{
    struct record *record = &stand->records[client->id];
    int at = record->moments;

    if (at > 0 && kind == MOMENT_WAITED && record->timeline[at - 1].kind == MOMENT_WAITED)
        at--;
    if (at >= MOMENTS_MAX - (kind != MOMENT_ENDED))
        return;
    record->timeline[at] = (struct moment){ .at = now_us(), .value = value, .kind = (uint8_t)kind };
    record->moments = (uint8_t)(at + 1);
}

/* Ends the round, with what came of it. */
static void end_round(struct client *client, enum outcome outcome)
{
    note(client, MOMENT_ENDED, client->at);
    stand->records[client->id].outcome = (uint8_t)outcome;
    sparsestream_transfer_free(client->transfer);
    sparsestream_source_free(client->source);
    sparsestream_sink_free(client->sink);
    client->transfer = NULL;
    client->source = NULL;
    client->sink = NULL;
    unlinkat(stand->directory, client->name, 0);
    if (outcome != RIGHT || draw(&random_state) % 2 == 0)
        disconnect(client);
    if (client->state == STOPPED)
        atomic_fetch_sub(&stand->stopped, 1);
    client->state = IDLE;
    client->ready = true;
    client->wake = -1;
    atomic_fetch_sub(&stand->busy, 1);
}

__attribute__((format(printf, 2, 3))) static void end_wrong(struct client *client, const char *format, ...)
{
    struct record *record = &stand->records[client->id];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(record->why, sizeof(record->why), format, arguments);
    va_end(arguments);
    end_round(client, WRONG);
}

static int open_volume(struct client *client)
{
    return openat(stand->directory, client->name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

/* Is the volume what the upload, whole or not, should have made of it? */
static const char *check_upload(struct client *client, bool whole)
{
    int64_t from = client->call.offset, to = from + client->length, before, tail;
    int fd = open_volume(client);
    const char *wrong = NULL;

    if (fd < 0)
        return "the volume cannot be opened";
    before = from < client->old.size ? from : client->old.size;
    tail = client->old.size > to ? client->old.size - to : 0;
    if (!content_in_file(&client->old, 0, before, fd, 0))
        wrong = "bytes before the range were changed";
    else if (tail > 0 && !content_in_file(&client->old, to, tail, fd, to))
        wrong = "bytes behind the range were changed";
    else if (whole && !content_in_file(&client->content, client->origin, client->length, fd, from))
        wrong = "bytes of the range are not those that were sent";
    else if (whole && lseek(fd, 0, SEEK_END) != (to > client->old.size ? to : client->old.size))
        wrong = "the volume's size";
    close(fd);
    return wrong;
}

/* The transfer has ended here with `r`. */
static void transfer_ended(struct client *client, int r)
{
    bool should_fail = client->acted || client->phase == PHASE_HOLD;
    sparsestream_error error = { .size = sizeof(error) };
    const char *wrong = NULL;

    note(client, MOMENT_RETURNED, r);
    if (client->filled > 0)
        atomic_fetch_add(&stand->filled, 1);
    (void)sparsestream_transfer_error(client->transfer, &error);
    if (client->upload)
        wrong = check_upload(client, r == 0);
    else if (client->differs)
        wrong = "bytes that came are not those of the volume";
    else if (r == 0 && client->filled > 0)
        wrong = "the last bytes that came are zeros and not those of the volume";
    else if (r == 0 && client->at != client->length)
        wrong = "not all bytes came";
    /* A receiver that broke the protocol may have all bytes all the same; the daemon must know better. */
    if (r == 0 && client->manner == GARBAGE && client->acted && !client->upload)
        r = -EPROTO;
    if (wrong == NULL && r == 0 && client->acted)
        wrong = "success, though it was broken off";
    if (wrong == NULL && r < 0 && !should_fail)
        wrong = "it failed";
    if (wrong == NULL)
        end_round(client, r == 0 ? RIGHT : FAILED);
    else
        end_wrong(client, "%s; %lld zeros at the end; %s; the daemon says: %s", wrong, (long long)client->filled,
                  r == 0 ? "done" : error.message, client->stream.words);
}

static enum manner draw_manner(void)
{
    /* Few stalled clients: each one stalls for long, so they would soon be the majority. */
    static const enum manner manners[] = {
        FAST, FAST, FAST, FAST, FAST, FAST, FAST, SLOW,    SLOW,    SLOW,
        SLOW, CUT,  CUT,  CUT,  CUT,  GARBAGE, GARBAGE, CANCELLED, CANCELLED, STALLED,
    };

    return manners[draw(&random_state) % (sizeof(manners) / sizeof(manners[0]))];
}

static int prepare_upload(struct client *client)
{
    bool range = draw(&random_state) % 2 == 0;
    int64_t mixed;
    int fd, r = 0;

    if (client->manner == SLOW)
        mixed = draw_between(&random_state, 32 * KiB, 160 * KiB);
    else
        mixed = draw_between(&random_state, 700 * KiB, 2 * MiB);
    client->content = (struct content){ .seed = draw(&random_state), .mixed = mixed, .size = mixed };
    if (client->manner == FAST && client->call.sparse != SPARSESTREAM_SPARSE_NEVER && draw(&random_state) % 4 == 0)
        client->content.size += 1 * GiB;
    client->length = client->content.size;
    client->old = (struct content){ .seed = draw(&random_state), .dense = true };
    if (range) {
        client->call.offset = draw_between(&random_state, 0, 100 * KiB);
        client->old.size = client->old.mixed = draw_between(&random_state, 0, 400 * KiB);
    }
    client->call.length = draw(&random_state) % 2 == 0 ? client->length : 0;
    fd = open_volume(client);
    if (fd < 0)
        return -errno;
    r = content_write(&client->old, fd);
    close(fd);
    return r;
}

static int prepare_download(struct client *client)
{
    int which = (int)(draw(&random_state) % DOWNLOADABLE);
    char base[16];

    /* The last is small, for those that are slow. */
    if (client->manner == SLOW)
        which = DOWNLOADABLE - 1;
    else if (which == DOWNLOADABLE - 1 || (client->manner != FAST && which == DOWNLOADABLE - 2))
        which = 0;
    if (client->call.sparse == SPARSESTREAM_SPARSE_NEVER && which == DOWNLOADABLE - 2)
        which = 1;
    client->content = stand->volumes[which];
    client->length = client->content.size;
    if (client->manner == FAST && draw(&random_state) % 2 == 0) {
        client->call.offset = draw_between(&random_state, 0, client->content.mixed);
        client->call.length = draw_between(&random_state, 1, client->content.size - client->call.offset);
        client->origin = client->call.offset;
        client->length = client->call.length;
    }
    snprintf(base, sizeof(base), "base%d", which);
    return linkat(stand->directory, base, stand->directory, client->name, 0) < 0 ? -errno : 0;
}

static int begin_transfer(struct client *client)
{
    const sparsestream_transfer_options options = {
        .size = sizeof(options),
        .sparse = (int32_t)client->call.sparse,
        .buffer_size = TURN,
        .rate = client->manner == SLOW ? RATE : 0,
    };
    int r;

    volume_stream_init(&client->stream, &client->channel, client->serial, client->upload ? -1 : client->length);
    if (client->upload) {
        r = sparsestream_source_from_callbacks(&made_ops, client, &client->source);
        if (r == 0)
            r = sparsestream_sink_to_stream(&volume_sender_ops, &client->stream, &client->sink);
    } else {
        r = sparsestream_source_from_stream(&volume_receiver_ops, &client->stream, &client->source);
        if (r == 0)
            r = sparsestream_sink_to_callbacks(&checked_ops, client, &client->sink);
    }
    if (r == 0)
        r = sparsestream_transfer_new(client->source, client->sink, &options, &client->transfer);
    return r;
}

static int connect_client(struct client *client)
{
    struct epoll_event event = { .events = 0, .data.ptr = client };
    int64_t start = now_us();
    int fd = volume_connect(stand->socket_path);

    if (fd < 0)
        return fd;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        close(fd);
        return -EIO;
    }
    volume_channel_init(&client->channel, fd);
    client->connected = true;
    client->watched = 0;
    note(client, MOMENT_CONNECTED, now_us() - start);
    return 0;
}

/* Bytes that are not a call. */
static int send_garbage(struct client *client)
{
    unsigned char bytes[512];
    size_t length = (size_t)draw_between(&random_state, VOLUME_HEADER, sizeof(bytes));

    for (size_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)draw(&random_state);
    note(client, MOMENT_GARBAGE, (int64_t)length);
    return send(client->channel.fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -EIO;
}

static void begin_round(struct client *client)
{
    enum phase phase = (enum phase)atomic_load(&stand->phase);
    struct record *record;
    int previous = client->id, r = 0;

    client->ready = false;
    client->wake = now_us() + 20000;
    if ((phase != PHASE_LOAD && phase != PHASE_STALL && phase != PHASE_HOLD) ||
        (phase != PHASE_LOAD && client->phase == phase)) {
        disconnect(client);
        return;
    }
    client->id = atomic_fetch_add(&stand->begun, 1);
    if (client->id >= TRANSFERS_MAX) {
        atomic_store(&stand->begun, TRANSFERS_MAX);
        return;
    }
    atomic_fetch_add(&stand->busy, 1);
    client->phase = phase;
    client->manner = phase == PHASE_LOAD ? draw_manner() : PAUSED;
    client->upload = draw(&random_state) % 2 == 0;
    client->acted = client->differs = false;
    client->at = client->origin = client->filled = client->length = 0;
    client->begun = now_us();
    snprintf(client->name, sizeof(client->name), "t%d", client->id);
    record = &stand->records[client->id];
    *record = (struct record){
        .manner = (uint8_t)client->manner,
        .upload = client->upload,
        .phase = (uint8_t)phase,
        .begun = client->begun,
    };

    memset(&client->call, 0, sizeof(client->call));
    client->call.type = client->upload ? VOLUME_UPLOAD : VOLUME_DOWNLOAD;
    client->call.sparse = draw(&random_state) % 4 == 0 ? SPARSESTREAM_SPARSE_NEVER : SPARSESTREAM_SPARSE_AUTO;
    client->call.flags = draw(&random_state) % 4 == 0 ? VOLUME_DETECT_ZEROES : 0;
    strcpy(client->call.name, client->name);
    if (client->connected)
        note(client, MOMENT_REUSED, previous);
    else
        r = connect_client(client);
    if (r == 0)
        r = client->upload ? prepare_upload(client) : prepare_download(client);
    record->sparse = (uint8_t)client->call.sparse;
    record->flags = (uint8_t)client->call.flags;
    record->offset = client->call.offset;
    record->call_length = client->call.length;
    record->length = client->length;
    if (r < 0) {
        end_wrong(client, "the round could not be prepared: %s", strerror(-r));
        return;
    }
    client->act_at = draw_between(&random_state, 0, client->content.mixed / 2);
    client->ready = true;
    client->wake = -1;
    if (client->manner == GARBAGE && draw(&random_state) % 3 == 0) {
        client->state = STRANGER;
        r = send_garbage(client);
    } else {
        client->state = CALL;
        r = volume_queue_call(&client->channel, ++client->serial, &client->call);
    }
    if (r < 0)
        end_wrong(client, "the call could not be made: %s", strerror(-r));
}

/* One packet, whole, that breaks the protocol. */
static bool break_protocol(struct client *client)
{
    static const unsigned char packets[][28] = {
        { 0, 0, 0, 20, 'S', 'S', 'V', '1', 0, 0, 0, 99 },
        { 0, 0, 0, 28, 'S', 'S', 'V', '1', 0, 0, 0, VOLUME_HOLE },
        { 0, 0, 0, 20, 'S', 'S', 'V', '1', 0, 0, 0, VOLUME_DATA },
        { 0xff, 0xff, 0xff, 0xff, 'S', 'S', 'V', '1', 0, 0, 0, VOLUME_DATA },
        { 0, 0, 0, 20, 'S', 'S', 'V', '2', 0, 0, 0, VOLUME_FINISH },
    };
    size_t which = draw(&random_state) % (sizeof(packets) / sizeof(packets[0]));
    /* Within a packet of data it would be data. */
    bool between = client->channel.out_have == 0 && client->stream.data_left == 0;
    ssize_t n;

    if (client->upload && !between)
        return false;
    n = send(client->channel.fd, packets[which], sizeof(packets[which]), MSG_NOSIGNAL | MSG_DONTWAIT);
    return n > 0;
}

/* In the middle of the transfer: does what its manner is. */
static void act(struct client *client, int64_t position)
{
    switch (client->manner) {
    case STALLED:
        client->state = STOPPED;
        client->acted = true;
        atomic_fetch_add(&stand->stopped, 1);
        client->wake = -1;
        client->ready = false; /* until the daemon hangs up */
        break;
    case PAUSED:
        client->state = STOPPED;
        atomic_fetch_add(&stand->stopped, 1);
        client->wake = now_us() + 20000;
        client->ready = false;
        client->act_at = INT64_MAX;
        break;
    case CUT:
        client->acted = true;
        shutdown(client->channel.fd, SHUT_RDWR);
        break;
    case GARBAGE:
        client->acted = break_protocol(client);
        break;
    case CANCELLED:
        client->acted = true;
        (void)sparsestream_transfer_cancel(client->transfer);
        break;
    default:
        client->act_at = INT64_MAX;
        break;
    }
    if (client->acted || client->state == STOPPED)
        note(client, MOMENT_ACTED, position);
}

static void wait_for(struct client *client, int events)
{
    struct epoll_event event = { .events = events == POLLOUT ? EPOLLOUT : EPOLLIN, .data.ptr = client };

    client->ready = false;
    note(client, MOMENT_WAITED, client->at);
    if (client->upload && client->state == RUN)
        event.events |= EPOLLIN;
    if (event.events == client->watched)
        return;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, client->channel.fd, &event) == 0)
        client->watched = event.events;
}

/* A client that stalls continues when the daemon has hung up, however long that takes. */
static void watch_hangup(struct client *client)
{
    struct epoll_event event = { .events = EPOLLRDHUP, .data.ptr = client };

    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, client->channel.fd, &event) == 0)
        client->watched = event.events;
}

/* A client that waits only for time must not be woken by its socket, not even by a hang-up. */
static void watch_nothing(struct client *client)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET | EPOLLONESHOT, .data.ptr = client };

    if (client->connected && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, client->channel.fd, &event) == 0)
        client->watched = 0;
}

static void turn_run(struct client *client)
{
    sparsestream_stats stats = { .size = sizeof(stats) };
    int r;

    (void)sparsestream_transfer_stats(client->transfer, &stats);
    if (!client->acted && stats.position >= client->act_at && stats.position < client->length) {
        act(client, stats.position);
        if (client->state == STOPPED) {
            if (client->manner == STALLED)
                watch_hangup(client);
            else
                watch_nothing(client);
            return;
        }
    }
    r = sparsestream_transfer_run(client->transfer, TURN);
    if (r == 1)
        return;
    if (r == -EAGAIN) {
        sparsestream_wait wait = { .size = sizeof(wait) };

        (void)sparsestream_transfer_wait(client->transfer, &wait);
        client->wake = wait.timeout_ms < 0 ? -1 : now_us() + (int64_t)wait.timeout_ms * 1000;
        if (wait.side == SPARSESTREAM_SIDE_NONE) {
            client->ready = false;
            note(client, MOMENT_WAITED, client->at);
            watch_nothing(client);
        } else {
            wait_for(client, client->channel.wants);
        }
        return;
    }
    transfer_ended(client, r);
}

static void turn_reply(struct client *client)
{
    struct volume_channel *channel = &client->channel;
    char name[VOLUME_NAME_MAX + 1], words[VOLUME_WORDS_MAX + 1];
    struct volume_facts facts;
    int r = volume_receive(channel, 0);

    if (r == -EAGAIN) {
        wait_for(client, POLLIN);
        return;
    }
    if (r < 0 && client->phase == PHASE_HOLD) {
        end_round(client, FAILED);
        return;
    }
    if (r < 0) {
        end_wrong(client, "no answer to the call: %s", strerror(-r));
        return;
    }
    words[0] = '\0';
    if (channel->in.status != 0)
        volume_take_words(&channel->in, words);
    if (channel->in.type != VOLUME_REPLY || channel->in.serial != client->serial || channel->in.status != 0) {
        end_wrong(client, "no answer to call %u, but type %u, serial %u, status %u: %s", client->serial,
                  channel->in.type, channel->in.serial, channel->in.status, words);
        return;
    }
    note(client, MOMENT_ANSWERED, 0);
    r = volume_take_facts(&channel->in, &facts, name);
    volume_consume(channel);
    if (r == 0)
        r = begin_transfer(client);
    if (r < 0) {
        end_wrong(client, "the transfer could not begin: %s", strerror(-r));
        return;
    }
    stand->records[client->id].named = 1;
    client->state = RUN;
}

/* The daemon must drop us, and may say why. */
static void turn_stranger(struct client *client)
{
    struct volume_channel *channel = &client->channel;
    int r = volume_receive(channel, 0);

    if (r == -EAGAIN) {
        wait_for(client, POLLIN);
    } else if (r == 0 && (channel->in.type != VOLUME_REPLY || channel->in.status != EPROTO)) {
        end_wrong(client, "garbage was taken for a call: type %u, status %u", channel->in.type, channel->in.status);
    } else if (r == 0) {
        volume_consume(channel);
    } else {
        end_round(client, FAILED);
    }
}

/* Half of those that hold when the daemon is shut down use its period of grace, the others do nothing. */
static bool may_go_on(const struct client *client, int phase)
{
    if (client->phase == PHASE_STALL)
        return phase != PHASE_STALL;
    return phase >= PHASE_GONE || (phase == PHASE_SHUTDOWN && client->id % 2 == 0);
}

static void turn(struct client *client)
{
    int phase = atomic_load(&stand->phase), r;

    if (client->state != IDLE && now_us() - client->begun > (int64_t)ROUND_MS * 1000) {
        end_wrong(client, "it does not end, in state %d", (int)client->state);
        return;
    }
    switch (client->state) {
    case IDLE:
        begin_round(client);
        break;
    case CALL:
        r = volume_flush(&client->channel);
        if (r == -EAGAIN)
            wait_for(client, POLLOUT);
        else if (r < 0 && client->phase == PHASE_HOLD)
            end_round(client, FAILED);
        else if (r < 0)
            end_wrong(client, "the call could not be sent: %s", strerror(-r));
        else {
            note(client, MOMENT_CALLED, (int64_t)client->channel.sent);
            client->state = REPLY;
        }
        break;
    case REPLY:
        turn_reply(client);
        break;
    case RUN:
        turn_run(client);
        break;
    case STOPPED:
        client->wake = now_us() + 20000;
        client->ready = false;
        if (client->manner == STALLED || may_go_on(client, phase)) {
            atomic_fetch_sub(&stand->stopped, 1);
            note(client, MOMENT_WENT_ON, client->at);
            client->state = RUN;
            client->ready = true;
        }
        break;
    case STRANGER:
        turn_stranger(client);
        break;
    }
}

_Noreturn void clients_run(struct stand *the_stand, int number, int count)
{
    struct client *clients = calloc((size_t)count, sizeof(*clients));

    stand = the_stand;
    random_state = stand->seed + (uint64_t)number * 1000003;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (clients == NULL || epoll_fd < 0)
        _exit(1);
    for (int i = 0; i < count; i++) {
        clients[i].ready = true;
        clients[i].phase = PHASE_END;
    }
    for (int64_t last = now_us(); atomic_load(&stand->phase) != PHASE_END;) {
        struct epoll_event events[128];
        int64_t now = now_us(), next = now + 50000, absent;
        int n;

        for (int i = 0; i < count; i++) {
            if (clients[i].ready)
                next = now;
            else if (clients[i].wake >= 0 && clients[i].wake < next)
                next = clients[i].wake;
        }
        n = epoll_wait(epoll_fd, events, 128, next <= now ? 0 : (int)((next - now + 999) / 1000));
        for (int i = 0; i < n; i++) {
            struct client *client = events[i].data.ptr;

            /* While it stands still or waits for time, its socket is not its concern. */
            if (client->watched != 0)
                client->ready = true;
        }
        now = now_us();
        absent = now - last;
        last = now;
        for (int i = 0; i < count; i++) {
            struct client *client = &clients[i];
            bool late = client->state != IDLE && now - client->begun > (int64_t)ROUND_MS * 1000;

            if (client->state != IDLE && stand->records[client->id].absent < absent)
                stand->records[client->id].absent = absent;
            if (client->wake >= 0 && now >= client->wake) {
                client->wake = -1;
                client->ready = true;
            }
            if (client->ready || late)
                turn(client);
        }
    }
    for (int i = 0; i < count; i++) {
        if (clients[i].state != IDLE)
            end_wrong(&clients[i], "it had not ended when the stand did, in state %d", (int)clients[i].state);
        disconnect(&clients[i]);
    }
    free(clients);
    _exit(0);
}
