/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Requests in flight over the connections of an export. They come back in any order. */

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

void engine_init(struct engine *engine, void (*stepped)(export_t *export, struct connection *connection))
{
    engine->stepped = stepped;
    engine->done_end = &engine->done;
}

static void link_in_flight(struct engine *engine, struct op *op)
{
    op->next = engine->in_flight;
    op->link = &engine->in_flight;
    if (op->next != NULL)
        op->next->link = &op->next;
    engine->in_flight = op;
}

/* It is answered. `done` is called later, because this may be within libnbd. */
static void complete(struct op *op, int error)
{
    struct engine *engine = &op->export->engine;

    *op->link = op->next;
    if (op->next != NULL)
        op->next->link = op->link;
    op->connection->in_flight--;
    op->error = error;
    op->state = OP_DONE;
    op->next = NULL;
    *engine->done_end = op;
    engine->done_end = &op->next;
}

static int on_completion(void *user_data, int *error)
{
    struct op *op = user_data;
    const bool issuing = op->state == OP_ISSUED;

    complete(op, *error);
    /* 1 frees the command. libnbd still uses it if the connection breaks while the request is sent. */
    return issuing ? 0 : 1;
}

static int on_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t count,
                      int *error)
{
    struct op *op = user_data;

    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 && offset == (uint64_t)op->offset)
        op->extents(op, entries, count / 2);
    return 0;
}

static int64_t issue(struct nbd_handle *handle, struct op *op)
{
    const nbd_completion_callback completion = { .callback = on_completion, .user_data = op };
    const nbd_extent_callback extents = { .callback = on_extents, .user_data = op };
    const size_t length = (size_t)op->length;
    const uint64_t offset = (uint64_t)op->offset;

    switch (op->kind) {
    case OP_READ:
        return nbd_aio_pread(handle, op->buffer, length, offset, completion, op->flags);
    case OP_WRITE:
        return nbd_aio_pwrite(handle, op->buffer, length, offset, completion, op->flags);
    case OP_ZERO:
        return nbd_aio_zero(handle, length, offset, completion, op->flags);
    case OP_FLUSH:
        return nbd_aio_flush(handle, completion, op->flags);
    case OP_STATUS:
        return nbd_aio_block_status(handle, length, offset, extents, completion, op->flags);
    }
    return -1;
}

/*
 * The connection for the next request of a kind; NULL if none is ready. It is the first one with little to do, or, if there
 * is none, the one with the fewest requests: connections cost the server threads, and help only if one is too slow. That
 * for block status comes last: the others receive data with fewer system calls.
 */
static struct connection *choose(export_t *export, enum op_kind kind)
{
    enum { ENOUGH = 16 };
    const unsigned enough = export->options.requests < ENOUGH ? (unsigned)export->options.requests : ENOUGH;
    const unsigned count = kind == OP_STATUS ? 1 : export->wanted;
    struct connection *best = NULL;

    for (unsigned i = 1; i <= count; i++) {
        struct connection *connection = &export->connections[i % count];

        if (connection->state != CONNECTION_READY)
            continue;
        if (connection->in_flight < enough)
            return connection;
        if (best == NULL || connection->in_flight < best->in_flight)
            best = connection;
    }
    return best;
}

/* Completes the requests that a closed connection had in flight with its errno. */
static void fail_requests(export_t *export, const struct connection *connection, int error)
{
    struct op *op, *next;

    for (op = export->engine.in_flight; op != NULL; op = next) {
        next = op->next;
        if (connection == NULL || op->connection == connection)
            complete(op, error);
    }
    for (op = export->engine.done; op != NULL; op = op->next) {
        if (op->connection == connection && op->error == ENOTCONN)
            op->error = error;
    }
}

/* Acts on the state that a connection has come to. */
static void settle(export_t *export, struct connection *connection, enum connection_state before)
{
    if (connection->state == CONNECTION_CLOSED && before == CONNECTION_READY)
        failure_set(&export->failure, connection->failure.error, "%s", connection->failure.text);
    if (connection->state == CONNECTION_CLOSED)
        fail_requests(export, connection, connection->failure.error);
    if (before == CONNECTION_CONNECTING)
        export->engine.stepped(export, connection);
}

static void step(export_t *export, struct connection *connection, short events)
{
    const enum connection_state before = connection->state;

    connection_step(connection, events);
    settle(export, connection, before);
}

int engine_submit(export_t *export, struct op *op)
{
    struct connection *connection = choose(export, op->kind);
    int64_t cookie;

    if (connection == NULL || export->failure.error != 0)
        return -(export->failure.error != 0 ? export->failure.error : ENOTCONN);
    /* A block status request does not wait for its turn: no data moves before its answer. */
    if (op->kind != OP_STATUS && connection->in_flight >= (unsigned)export->options.requests)
        return -EAGAIN;
    op->export = export;
    op->connection = connection;
    op->error = 0;
    op->state = OP_ISSUED;
    link_in_flight(&export->engine, op);
    connection->in_flight++;
    cookie = issue(connection->handle, op);
    if (cookie >= 0 || op->state == OP_DONE) {
        const bool done = op->state == OP_DONE;

        if (!done)
            op->state = OP_IN_FLIGHT;
        /* First: other calls of libnbd would replace the words of the failure. */
        connection_review(connection);
        settle(export, connection, CONNECTION_READY);
        if (done && cookie >= 0 && connection->handle != NULL)
            nbd_aio_command_completed(connection->handle, (uint64_t)cookie);
        return 0;
    }
    /* libnbd refuses what the server did not negotiate, and what lies beyond the end. */
    *op->link = op->next;
    if (op->next != NULL)
        op->next->link = op->link;
    connection->in_flight--;
    op->state = OP_IDLE;
    return failure_take(&(struct failure){ 0 });
}

static void deliver(export_t *export)
{
    struct engine *engine = &export->engine;

    while (engine->done != NULL) {
        struct op *op = engine->done;

        engine->done = op->next;
        if (engine->done == NULL)
            engine->done_end = &engine->done;
        op->state = OP_IDLE;
        op->done(op, op->error);
    }
}

static void check_deadline(export_t *export, struct connection *connection)
{
    if (connection->state != CONNECTION_CONNECTING || now_ms() < connection->deadline_ms)
        return;
    failure_set(&connection->failure, ETIMEDOUT, "the server was not ready within %lld ms",
                (long long)export->options.timeout_ms);
    connection_close(connection);
    export->engine.stepped(export, connection);
}

/* Handles the events that poll(2) reports for all connections. Returns whether there were any. */
static bool step_ready(export_t *export)
{
    /* A step may start more connections, which are not polled yet. */
    const unsigned count = export->wanted;
    struct pollfd fds[MOST_CONNECTIONS];

    for (unsigned i = 0; i < count; i++) {
        fds[i] = (struct pollfd){ .fd = -1 };
        fds[i].events = connection_events(&export->connections[i], &fds[i].fd);
        if (fds[i].events == 0)
            fds[i].fd = -1;
    }
    if (poll(fds, count, 0) <= 0)
        return false;
    for (unsigned i = 0; i < count; i++) {
        if (fds[i].revents != 0)
            step(export, &export->connections[i], fds[i].revents);
    }
    return true;
}

void engine_advance(export_t *export)
{
    /* One step receives one reply, and the number of steps is limited: a server that never stops must not block the
     * transfer. */
    for (unsigned i = 0; i < MOST_REQUESTS && step_ready(export); i++)
        continue;
    for (unsigned i = 0; i < export->wanted; i++)
        check_deadline(export, &export->connections[i]);
    deliver(export);
}

void engine_close(export_t *export, int error)
{
    for (unsigned i = 0; i < export->wanted; i++)
        connection_close(&export->connections[i]);
    failure_set(&export->failure, error, "the transfer was aborted");
    export->state = EXPORT_FAILED;
    fail_requests(export, NULL, error);
    deliver(export);
}

void engine_wait(export_t *export, struct sparsestream_wait *wait)
{
    wait->fd = -1;
    wait->timeout_ms = -1;
    for (unsigned i = 0; i < export->wanted; i++) {
        const struct connection *connection = &export->connections[i];
        int fd = -1;
        short events = connection_events(connection, &fd);

        if (events == 0)
            continue;
        wait->fds[wait->count].fd = fd;
        wait->fds[wait->count].events = events;
        wait->count++;
        if (connection->state == CONNECTION_CONNECTING) {
            int64_t left = connection->deadline_ms - now_ms();

            left = left < 1 ? 1 : left;
            if (wait->timeout_ms < 0 || left < wait->timeout_ms)
                wait->timeout_ms = left > INT32_MAX ? INT32_MAX : (int32_t)left;
        }
    }
    if (wait->count > 0) {
        wait->fd = wait->fds[0].fd;
        wait->events = wait->fds[0].events;
    } else {
        wait->timeout_ms = 0;
    }
}
