/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* See volume-session.h. */

#include "volume-session.h"
#include "volume-log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BUDGET = 128 * 1024 }; /* of one turn of a transfer */

static const char *call_name(const struct volume_session *session)
{
    static const char *const names[] = { "call", "list", "info", "create", "delete", "upload", "download" };

    return names[session->call.type < sizeof(names) / sizeof(names[0]) ? session->call.type : 0];
}

/* Transfers. */

/* Returns the result of close(2) of the volume: a file system may report there that a write failed. */
static int release(struct volume_session *session)
{
    int r;

    sparsestream_transfer_free(session->transfer);
    sparsestream_source_free(session->source);
    sparsestream_sink_free(session->sink);
    session->transfer = NULL;
    session->source = NULL;
    session->sink = NULL;
    session->service->zeros -= session->zeros;
    session->zeros = 0;
    r = session->volume >= 0 && close(session->volume) < 0 ? -errno : 0;
    session->volume = -1;
    return r;
}

/* A hole that may have to be written as zeros is charged to its upload, and to all of them, before it is begun. */
static int charged_recv_hole(void *opaque, int64_t *length)
{
    struct volume_session *session =
        (struct volume_session *)((char *)opaque - offsetof(struct volume_session, stream));
    struct volume_service *service = session->service;
    int64_t written = session->zeros_below - session->call.offset - session->stream.position;
    int r = volume_receiver_ops.recv_hole(opaque, length);

    if (r < 0)
        return r;
    written = written < 0 ? 0 : written < *length ? written : *length;
    if (written > service->options->max_zeroed - session->zeros || written > service->options->max_zeroed_all - service->zeros)
        return -EDQUOT;
    session->zeros += written;
    service->zeros += written;
    return 0;
}

/* The ends of an upload: from the client's stream into the volume. */
static int open_upload(struct volume_session *session, const struct volume_facts *facts, bool device)
{
    const struct volume_call *call = &session->call;
    sparsestream_stream_ops ops = volume_receiver_ops;
    sparsestream_sink_options options = { .size = sizeof(options), .offset = call->offset };
    int r;

    /* The sink refuses bytes beyond its length. */
    options.length = call->length > 0 ? call->length : session->service->store.max_size - call->offset;
    options.flags = session->service->options->sync ? SPARSESTREAM_SYNC : 0;
    /* Holes may have to be written everywhere on a device or if no holes are wanted, otherwise only over old content. */
    session->zeros_below = call->sparse == SPARSESTREAM_SPARSE_NEVER || device ? INT64_MAX
                          : session->service->store.punches                              ? 0
                                                                              : facts->size;
    /* turn_end() ends the stream: after the volume is closed, more is known than an errno. */
    ops.finish = NULL;
    ops.abort = NULL;
    ops.recv_hole = charged_recv_hole;
    volume_stream_init(&session->stream, &session->channel, session->serial, call->length > 0 ? call->length : -1);
    r = sparsestream_sink_to_fd(session->volume, &options, &session->sink);
    return r < 0 ? r : sparsestream_source_from_stream(&ops, &session->stream, &session->source);
}

/* The ends of a download: from the volume into the client's stream. */
static int open_download(struct volume_session *session, struct volume_facts *facts)
{
    const struct volume_call *call = &session->call;
    sparsestream_stream_ops ops = volume_sender_ops;
    sparsestream_source_options options = { .size = sizeof(options), .offset = call->offset, .length = call->length };
    int r;

    ops.abort = NULL;
    volume_stream_init(&session->stream, &session->channel, session->serial, -1);
    facts->size = call->length > 0 ? call->length : facts->size - call->offset;
    r = sparsestream_source_from_fd(session->volume, &options, &session->source);
    return r < 0 ? r : sparsestream_sink_to_stream(&ops, &session->stream, &session->sink);
}

static int open_transfer(struct volume_session *session, struct volume_facts *facts)
{
    const struct volume_call *call = &session->call;
    const sparsestream_transfer_options options = {
        .size = sizeof(options),
        .flags = call->flags & VOLUME_DETECT_ZEROES ? SPARSESTREAM_DETECT_ZEROES : 0,
        .sparse = (int32_t)call->sparse,
        .buffer_size = VOLUME_BUFFER,
        .stall_ms = session->service->options->stall_ms,
    };
    bool upload = call->type == VOLUME_UPLOAD, device;
    int64_t room = session->service->store.max_size - call->offset;
    int r;

    if (upload && (room <= 0 || call->length > room))
        return store_fail(session->words, -EFBIG, "beyond the %lld bytes that a volume may have",
                          (long long)session->service->store.max_size);
    session->volume = store_volume(&session->service->store, call->name, upload ? O_WRONLY : O_RDONLY, facts, &device, session->words);
    if (session->volume < 0)
        return session->volume;
    r = upload ? open_upload(session, facts, device) : open_download(session, facts);
    if (r == 0)
        r = sparsestream_transfer_new(session->source, session->sink, &options, &session->transfer);
    if (r < 0) {
        store_fail(session->words, r, "%s", sparsestream_last_error());
        release(session);
    }
    return r;
}

/* Turns. Each does a bounded piece of work. */

static enum volume_turn turn_call(struct volume_session *session);

enum volume_turn session_drop(const struct volume_session *session, int r, const char *doing)
{
    say("client %u: %s: %s", session->number, doing, strerror(-r));
    return VOLUME_DROP;
}

static enum volume_turn answer(struct volume_session *session, int r, const struct volume_facts *facts)
{
    struct volume_channel *channel = &session->channel;

    if (r == 0)
        r = volume_queue_facts(channel, VOLUME_REPLY, session->serial, facts, "");
    else {
        say("client %u: %s %s refused: %s", session->number, call_name(session), session->call.name, session->words);
        r = volume_queue_words(channel, VOLUME_REPLY, session->serial, -r, session->words);
    }
    return r < 0 ? session_drop(session, r, "answer") : VOLUME_AGAIN;
}

/* Sends a directory of any length, one entry at a time. */
static enum volume_turn turn_list(struct volume_session *session)
{
    for (int entries = 0; entries < 64; entries++) {
        char name[VOLUME_NAME_MAX + 1];
        struct volume_facts facts = { 0, 0 };
        int r = volume_flush(&session->channel);

        if (r == -EAGAIN)
            return VOLUME_WAIT;
        if (r < 0)
            return session_drop(session, r, "list");
        r = store_next(&session->service->store, session->listing, name, &facts, session->words);
        if (r <= 0) {
            closedir(session->listing);
            session->listing = NULL;
            session->turn = turn_call;
            return answer(session, r, &(struct volume_facts){ 0, 0 });
        }
        if (name[0] != '\0' &&
            (r = volume_queue_facts(&session->channel, VOLUME_ENTRY, session->serial, &facts, name)) < 0)
            return session_drop(session, r, "list");
    }
    return VOLUME_AGAIN;
}

/* Sends our end of a stream, receives that of the client, and is then ready for the next call. */
static enum volume_turn turn_end(struct volume_session *session)
{
    struct volume_stream *stream = &session->stream;
    bool receiver = session->call.type == VOLUME_UPLOAD;
    int r = receiver        ? volume_receiver_end(stream, -session->result, session->words)
            : stream->ended ? 0
                            : volume_sender_abort(stream, -session->result, session->words);

    if (r == 0)
        r = receiver ? volume_receiver_drain(stream) : volume_sender_drain(stream);
    if (r < 0)
        return r == -EAGAIN ? VOLUME_WAIT : session_drop(session, r, call_name(session));
    session->turn = turn_call;
    return VOLUME_AGAIN;
}

static enum volume_turn turn_transfer(struct volume_session *session)
{
    sparsestream_error error = { .size = sizeof(error) };
    sparsestream_stats stats = { .size = sizeof(stats) };
    int r = sparsestream_transfer_run(session->transfer, BUDGET), closed;

    if (r == 1 || r == -EAGAIN)
        return r == 1 ? VOLUME_AGAIN : VOLUME_WAIT;
    session->words[0] = '\0';
    if (r < 0 && session->stream.words[0] != '\0')
        store_fail(session->words, r, "the client says: %s", session->stream.words);
    else if (r < 0 && sparsestream_transfer_error(session->transfer, &error) == 0)
        store_fail(session->words, r, "%s", error.message);
    sparsestream_transfer_stats(session->transfer, &stats);
    closed = release(session);
    if (r == 0 && closed < 0 && session->call.type == VOLUME_UPLOAD)
        r = store_fail(session->words, closed, "close: %s", strerror(-closed));
    session->result = r;
    say("client %u: %s %s: %lld bytes of data, %lld of holes: %s", session->number, call_name(session), session->call.name,
        (long long)stats.data_bytes, (long long)stats.hole_bytes, r == 0 ? "done" : session->words);
    session->turn = turn_end;
    if (r == -EPROTO || r == -ETIMEDOUT)
        (void)turn_end(session); /* nothing more is expected of this client; the text is sent if that is possible at once */
    return r == -EPROTO || r == -ETIMEDOUT || r == -EPIPE || r == -ECONNRESET ? VOLUME_DROP : VOLUME_AGAIN;
}

/* The stream begins after the answer was sent. */
static enum volume_turn turn_ready(struct volume_session *session)
{
    int r = volume_flush(&session->channel);

    if (r < 0)
        return r == -EAGAIN ? VOLUME_WAIT : session_drop(session, r, "answer");
    session->turn = turn_transfer;
    return VOLUME_AGAIN;
}

static enum volume_turn take_call(struct volume_session *session)
{
    struct volume_call *call = &session->call;
    struct volume_facts facts = { 0, 0 };
    bool device;
    int r;

    switch (call->type) {
    case VOLUME_LIST:
        r = store_list(&session->service->store, &session->listing, session->words);
        if (r == 0) {
            session->turn = turn_list;
            return VOLUME_AGAIN;
        }
        break;
    case VOLUME_INFO:
        r = store_volume(&session->service->store, call->name, O_RDONLY, &facts, &device, session->words);
        if (r >= 0)
            r = close(r);
        break;
    case VOLUME_CREATE:
        r = store_create(&session->service->store, call->name, call->length, session->words);
        break;
    case VOLUME_DELETE:
        r = store_delete(&session->service->store, call->name, session->words);
        break;
    default:
        r = open_transfer(session, &facts);
        if (r == 0)
            session->turn = turn_ready;
    }
    return answer(session, r, &facts);
}

/* Waits for a call, or sends the answer to the last one. */
static enum volume_turn turn_call(struct volume_session *session)
{
    struct volume_channel *channel = &session->channel;
    /* The next call is read after the last answer was sent, so that a client cannot make us store answers. */
    int r = volume_flush(channel);

    if (r == 0 && session->service->stopping)
        return VOLUME_DROP;
    if (r == 0)
        r = volume_receive(channel, 0);
    if (r == -EAGAIN)
        return VOLUME_WAIT;
    if (r == -ECONNRESET && channel->in_have == 0)
        return VOLUME_DROP; /* the client disconnected between two calls */
    if (r == 0) {
        session->serial = channel->in.serial;
        r = volume_take_call(&channel->in, &session->call);
    }
    if (r == -EPROTO) {
        /* Reports to a client that it does not speak the protocol, if that is possible without waiting. */
        if (volume_queue_words(channel, VOLUME_REPLY, session->serial, EPROTO, "not the volume protocol") == 0)
            (void)volume_flush(channel);
    }
    if (r < 0 && r != -EINVAL)
        return session_drop(session, r, "call");
    volume_consume(channel);
    if (r == 0)
        return take_call(session);
    strcpy(session->call.name, "?"); /* the name is not logged either */
    return answer(session, store_fail(session->words, r, "that is not the name of a volume"), NULL);
}

void session_open(struct volume_session *session, struct volume_service *service, unsigned number, int fd)
{
    *session = (struct volume_session){
        .service = service, .number = number, .turn = turn_call, .events = POLLIN, .deadline = -1, .volume = -1,
    };
    volume_channel_init(&session->channel, fd);
}

bool session_transfers(const struct volume_session *session)
{
    return session->turn == turn_transfer;
}

/* Between two calls, when nothing is owed. */
static bool is_idle(const struct volume_session *session)
{
    return session->turn == turn_call && session->channel.in_have == 0 && session->channel.out_have == 0;
}

int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Sets the events and the deadline of a wait. A deadline moves when bytes have moved. */
static int wait_for_client(struct volume_session *session)
{
    const struct volume_options *options = session->service->options;
    const struct volume_channel *channel = &session->channel;
    sparsestream_wait wait = { .size = sizeof(wait) };
    int64_t limit = is_idle(session) ? options->idle_ms : options->stall_ms;
    uint64_t moved = channel->sent + channel->received;
    int r;

    session->events = channel->wants == POLLOUT ? POLLOUT : POLLIN;
    if (session_transfers(session)) {
        r = sparsestream_transfer_wait(session->transfer, &wait);
        if (r < 0)
            return r;
        session->deadline = wait.timeout_ms >= 0 ? now_ms() + wait.timeout_ms : -1;
        session->events |= POLLIN; /* of a download: the receiver's failure */
    } else if (limit == 0) {
        session->deadline = -1;
    } else if (session->deadline < 0 || session->moved != moved) {
        session->deadline = now_ms() + limit;
        session->moved = moved;
    }
    return 0;
}

enum volume_turn session_turn(struct volume_session *session)
{
    bool transferred = session_transfers(session), idle = is_idle(session);
    enum volume_turn turn = session->turn(session);
    int r;

    if (session_transfers(session) != transferred || is_idle(session) != idle)
        session->deadline = -1;
    if (turn == VOLUME_WAIT && (r = wait_for_client(session)) < 0)
        turn = session_drop(session, r, "wait");
    return turn;
}

enum volume_turn session_late(struct volume_session *session)
{
    if (session_transfers(session))
        return VOLUME_AGAIN; /* the transfer itself reports which side was late */
    return session_drop(session, -ETIMEDOUT, "wait for the client");
}

void session_close(struct volume_session *session)
{
    release(session);
    if (session->listing != NULL)
        closedir(session->listing);
}
