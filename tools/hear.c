/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The wait of a receiver for the sender's first words, with its time limits. */

#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>

/* The wait, as far as it has come. */
struct hearing {
    const struct settings *settings;
    const struct connection *connection;
    sparsestream_source *source;
    int64_t start;
    int64_t heard; /* when something moved last */
    int64_t turns; /* calls that may read back what is held here */
    bool speaks;   /* it waits to be heard */
};

static int fail_late(const struct hearing *hearing, const char *what, int64_t limit)
{
    sparsestream_source_abort(hearing->source, ETIMEDOUT);
    return fail(EXIT_CUT, "%s: %s for %lld ms", hearing->connection->name, what, (long long)limit);
}

/* Waits until a call may get further. Returns 0, or an exit code after a message. */
static int wait_to_hear(struct hearing *hearing)
{
    const struct settings *settings = hearing->settings;
    sparsestream_wait wait = { .size = sizeof(wait) };
    int64_t now = now_ms(), left = INT32_MAX;

    if (settings->timeout_ms != 0)
        left = hearing->heard + settings->timeout_ms - now;
    if (left <= 0)
        return fail_late(hearing, hearing->speaks ? "no answer was taken" : "nothing came", settings->timeout_ms);
    if (settings->idle_ms != 0 && hearing->start + settings->idle_ms - now < left)
        left = hearing->start + settings->idle_ms - now;
    if (left <= 0)
        return fail_late(hearing, "nothing but signs of life came", settings->idle_ms);
    if (sparsestream_source_wait(hearing->source, &wait) < 0)
        return 0;
    hearing->speaks = (wait.events & POLLIN) == 0;
    if (wait.timeout_ms >= 0 && wait.timeout_ms < left)
        left = wait.timeout_ms;
    /* A sender that compares the held bytes sends signs of life. */
    if (wait_for_fd(wait.fd, wait.events, left) > 0)
        hearing->heard = now_ms();
    return 0;
}

/* The descriptors are in non-blocking mode: with others the library itself would wait, for ever. */
static int hear(struct hearing *hearing, const struct names *names, sparsestream_wire_info *info)
{
    int r, code;

    while ((r = sparsestream_source_wire_info(hearing->source, info)) == -EAGAIN || r == -EINTR) {
        /* The held part is being read back, at least 2 MiB per call. A flood of keepalives looks the same: bounded. */
        if (r == -EINTR && hearing->turns > 0) {
            hearing->turns--;
            hearing->heard = hearing->start = now_ms();
            continue;
        }
        code = wait_to_hear(hearing);
        if (code != 0)
            return code;
    }
    return r < 0 ? fail_wire(names, r) : 0;
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

int hear_sender(const struct settings *settings, const struct connection *connection, const struct names *names,
                sparsestream_source *source, int64_t held, sparsestream_wire_info *info)
{
    enum { STEP = 2 << 20, MORE = 16 };
    struct hearing hearing = {
        .settings = settings,
        .connection = connection,
        .source = source,
        .start = now_ms(),
        .turns = held > 0 ? held / STEP + MORE : 0,
    };
    /* Other programs have standard input and output, too: they are changed only while they must be. */
    int input = unblock(connection->read_fd), output = unblock(connection->write_fd), r;

    signals_set_blocking(input, output);
    hearing.heard = hearing.start;
    r = hear(&hearing, names, info);
    block(input);
    block(output);
    signals_set_blocking(-1, -1);
    return r;
}
