/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Waiting for a sender that introduces its stream. */

#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

/* A peer that connects by itself and only shows that it is alive does not hold the one place for ever. */
enum { LISTEN_IDLE_MS = 300 * 1000 };

int check_listening(struct settings *settings)
{
    if (settings->listen == NULL)
        return 0;
    if (over_network(settings) && settings->max_size < 0 && settings->length == 0)
        return usage(settings, "--listen=%s lets anybody connect and needs --max-size, a number of bytes or none",
                     strncmp(settings->listen, "tcp:", strlen("tcp:")) == 0 ? "tcp:" : "vsock:");
    if (settings->idle_ms == 0)
        settings->idle_ms = LISTEN_IDLE_MS;
    return 0;
}

void limit_size(const struct settings *settings, sparsestream_wire_options *wire)
{
    wire->max_size = settings->max_size > 0 ? settings->max_size : 0;
    if (settings->length != 0 && (wire->max_size == 0 || settings->length < wire->max_size))
        wire->max_size = settings->length;
}

/* The wait for a sender, as far as it has come. */
struct hearing {
    const struct settings *settings;
    struct connection *connection;
    sparsestream_source *source;
    int64_t turns; /* calls that may read back what is held here; a flood of keepalives looks the same */
    int64_t start; /* the time since which only signs of life arrived */
    int64_t heard; /* the time when something moved last */
    bool speaks;   /* it waits until the peer accepts data */
    char late[96]; /* the reason why the time is over */
};

static int64_t limit(struct hearing *hearing, int64_t since, int64_t most, const char *what)
{
    int64_t left = since + most - now_ms();

    if (left <= 0 && *hearing->late == '\0')
        snprintf(hearing->late, sizeof(hearing->late), "%s for %lld ms", what, (long long)most);
    return left;
}

/* How long may be waited, by the shortest of the limits. If that is over, says in `late` why. */
static int64_t time_left(struct hearing *hearing, bool greeted)
{
    const struct settings *settings = hearing->settings;
    const struct listener *listener = &hearing->connection->listener;
    int64_t left = INT32_MAX, idle;

    if (connection_listens(hearing->connection) && !greeted) {
        left = listener->hello_by - now_ms();
        if (left <= 0)
            snprintf(hearing->late, sizeof(hearing->late), "did not introduce a stream within %lld ms",
                     (long long)listener->patience_ms);
        return left;
    }
    if (settings->timeout_ms != 0)
        left = limit(hearing, hearing->heard, settings->timeout_ms,
                     hearing->speaks ? "no answer was taken" : "nothing arrived");
    if (settings->idle_ms != 0) {
        idle = limit(hearing, hearing->start, settings->idle_ms, "only signs of life arrived");
        left = idle < left ? idle : left;
    }
    return left;
}

/* Waits until a call may get further. Returns whether there is time for it. */
static bool wait_to_hear(struct hearing *hearing, bool greeted)
{
    sparsestream_wait wait = { .size = sizeof(wait) };
    int64_t left = time_left(hearing, greeted);

    if (left <= 0)
        return false;
    if (sparsestream_source_wait(hearing->source, &wait) < 0)
        return true;
    hearing->speaks = (wait.events & POLLIN) == 0;
    if (wait.timeout_ms >= 0 && wait.timeout_ms < left)
        left = wait.timeout_ms;
    /* A sender that compares the held bytes sends signs of life in the meantime. */
    if (wait_for_fd(wait.fd, wait.events, left) > 0)
        hearing->heard = now_ms();
    return true;
}

/* Returns 0 or a negative errno. If that is of a limit, `late` says which. */
static int wait_for_sender(struct hearing *hearing, sparsestream_wire_info *info)
{
    int r;

    hearing->start = hearing->heard = now_ms();
    while ((r = sparsestream_source_wire_info(hearing->source, info)) == -EAGAIN || r == -EINTR) {
        if (info->greeted)
            connection_settle(hearing->connection);
        /* The held part is being read back, at least 2 MiB per call. */
        if (r == -EINTR && hearing->turns > 0) {
            hearing->turns--;
            hearing->heard = hearing->start = now_ms();
        } else if (!wait_to_hear(hearing, info->greeted)) {
            return -ETIMEDOUT;
        }
    }
    if (info->greeted)
        connection_settle(hearing->connection);
    return r;
}

/* Puts a descriptor into non-blocking mode. Returns it if that is a change, or -1. */
static int unblock(int fd)
{
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);

    return flags < 0 || (flags & O_NONBLOCK) != 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -1 : fd;
}

static void block(int fd)
{
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);

    if (flags >= 0)
        fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

/* The same with descriptors in non-blocking mode: with others the library itself would wait, for ever. */
static int hear(struct hearing *hearing, sparsestream_wire_info *info)
{
    const struct connection *connection = hearing->connection;
    /* Other programs have standard input and output, too: they are changed only while they must be. */
    int input = unblock(connection->read_fd), output = unblock(connection->write_fd), r;

    signals_set_blocking(input, output);
    r = wait_for_sender(hearing, info);
    block(input);
    block(output);
    signals_set_blocking(-1, -1);
    return r;
}

/* Drops a peer that is not a sender, and waits for the next. Frees the source. Returns 0 or an exit code. */
static int next_peer(const struct hearing *hearing, sparsestream_source **source, int error)
{
    char why[1024];

    if (*hearing->late != '\0')
        snprintf(why, sizeof(why), "%s", hearing->late);
    else
        describe_failure(why, sizeof(why), sparsestream_last_error(), error);
    sparsestream_source_free(*source);
    *source = NULL;
    return connection_drop(hearing->settings, hearing->connection, why);
}

int greet(const struct settings *settings, struct connection *connection, const struct names *names,
          const sparsestream_wire_options *wire, sparsestream_source **source, sparsestream_wire_info *info)
{
    enum { STEP = 2 << 20, MORE = 16 };

    for (;;) {
        struct hearing hearing = {
            .settings = settings,
            .connection = connection,
            .turns = wire->resume_offset > 0 ? wire->resume_offset / STEP + MORE : 0,
        };
        int r = sparsestream_source_from_wire(connection->read_fd, connection->write_fd, wire, source);

        if (r < 0)
            return fail_library(connection->name, r);
        *info = (sparsestream_wire_info){ .size = sizeof(*info) };
        hearing.source = *source;
        r = hear(&hearing, info);
        if (r == 0)
            return 0;
        if (!connection_listens(connection)) {
            if (*hearing.late == '\0')
                return fail_wire(names, r);
            sparsestream_source_abort(*source, ETIMEDOUT);
            return fail(EXIT_CUT, "%s: %s", connection->name, hearing.late);
        }
        r = next_peer(&hearing, source, r);
        if (r != 0)
            return r;
    }
}
