/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The wire over the caller's functions: contracts of the table, and both ends over a transport that is never quite ready. */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "random.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WIRE_OPTIONS(...) \
    (&(struct sparsestream_wire_options) { .size = sizeof(struct sparsestream_wire_options), __VA_ARGS__ })

static const struct piece image[] = {
    HOLE(3 * MiB), DATA(5 * MiB), HOLE(1 * GiB), DATA(64 * KiB), HOLE(64 * KiB),
};
#define IMAGE_SIZE (3 * MiB + 5 * MiB + 1 * GiB + 128 * KiB)
#define IMAGE_DATA (5 * MiB + 64 * KiB)

static int image_file(unsigned seed)
{
    int fd = file_in_memory();

    file_lay_out(fd, 0, image, COUNT(image), seed);
    file_resize(fd, IMAGE_SIZE);
    return fd;
}

/* One direction between two ends, in memory. */
struct queue {
    unsigned char bytes[100000];
    size_t length;
    bool ended;
};

/* One end, with what it was asked. */
struct carrier {
    struct queue *in, *out;
    struct random random;
    int again_percent, fd, events, timeout_ms;
    /* Nothing can be written. */
    bool blocked;
    /* Instead of the call with this number, and each after it. */
    int fail_read, fail_write, fail_close, error;
    int reads, writes, closes, frees, waits;
    /* The write that was not ready. */
    const void *retry;
    size_t retry_length;
    unsigned char retry_bytes[256];
};

static bool chance(struct carrier *carrier, int percent)
{
    return random_percent(&carrier->random, (unsigned) percent);
}

static int64_t carrier_read(void *opaque, void *buffer, size_t length)
{
    struct carrier *carrier = opaque;
    struct queue *in = carrier->in;

    carrier->reads++;
    CHECK(length > 0);
    CHECK_INT(carrier->closes, ==, 0);
    if (carrier->fail_read != 0 && carrier->reads >= carrier->fail_read)
        return -carrier->error;
    if (chance(carrier, carrier->again_percent / 2))
        return -EINTR;
    if (in->length == 0 && in->ended)
        return 0;
    if (in->length == 0 || chance(carrier, carrier->again_percent))
        return -EAGAIN;
    length = length < in->length ? length : in->length;
    length = (size_t) random_between(&carrier->random, 1, (int64_t) length);
    memcpy(buffer, in->bytes, length);
    in->length -= length;
    memmove(in->bytes, in->bytes + length, in->length);
    return (int64_t) length;
}

static int64_t carrier_write(void *opaque, const void *buffer, size_t length)
{
    struct carrier *carrier = opaque;
    struct queue *out = carrier->out;
    size_t most = sizeof out->bytes - out->length;

    carrier->writes++;
    CHECK(length > 0);
    CHECK_INT(carrier->closes, ==, 0);
    /* A TLS library insists that a retry repeats the same write. */
    if (carrier->retry != NULL) {
        CHECK(buffer == carrier->retry);
        CHECK_INT(length, ==, carrier->retry_length);
        CHECK_BYTES(buffer, carrier->retry_bytes,
                    length < sizeof carrier->retry_bytes ? length : sizeof carrier->retry_bytes);
        carrier->retry = NULL;
    }
    if (carrier->fail_write != 0 && carrier->writes >= carrier->fail_write)
        return -carrier->error;
    if (carrier->blocked || most == 0 || chance(carrier, carrier->again_percent)) {
        carrier->retry = buffer;
        carrier->retry_length = length;
        memcpy(carrier->retry_bytes, buffer, length < sizeof carrier->retry_bytes ? length : sizeof carrier->retry_bytes);
        return chance(carrier, 50) && most != 0 && !carrier->blocked ? -EINTR : -EAGAIN;
    }
    length = length < most ? length : most;
    length = (size_t) random_between(&carrier->random, 1, (int64_t) length);
    memcpy(out->bytes + out->length, buffer, length);
    out->length += length;
    return (int64_t) length;
}

static int carrier_close(void *opaque)
{
    struct carrier *carrier = opaque;

    if (carrier->fail_close != 0) {
        int answer = -carrier->fail_close;

        if (carrier->fail_close == EAGAIN)
            carrier->fail_close = 0;
        else
            carrier->closes++;
        return answer;
    }
    carrier->closes++;
    carrier->out->ended = true;
    return 0;
}

static int carrier_wait(void *opaque, struct sparsestream_wait *wait)
{
    struct carrier *carrier = opaque;

    carrier->waits++;
    wait->fd = carrier->fd;
    wait->events = carrier->events;
    if (carrier->timeout_ms > 0)
        wait->timeout_ms = carrier->timeout_ms;
    return 0;
}

static void carrier_free(void *opaque)
{
    ((struct carrier *) opaque)->frees++;
}

static const struct sparsestream_transport_ops carrier_ops = {
    .size = sizeof carrier_ops,
    .free = carrier_free,
    .read = carrier_read,
    .write = carrier_write,
    .close = carrier_close,
    .wait = carrier_wait,
};

/* Both directions, and both ends. */
struct line {
    struct queue there, back;
    struct carrier near, far;
};

static void line_begin(struct line *line, unsigned seed, int again_percent)
{
    line->there.length = line->back.length = 0;
    line->there.ended = line->back.ended = false;
    line->near = (struct carrier) { .in = &line->back, .out = &line->there, .fd = -1, .again_percent = again_percent };
    line->far = (struct carrier) { .in = &line->there, .out = &line->back, .fd = -1, .again_percent = again_percent };
    line->near.random.state = seed;
    line->far.random.state = seed + 1000;
}

static struct sparsestream_sink *to_transport(struct carrier *carrier, const struct sparsestream_wire_options *options)
{
    struct sparsestream_sink *sink = NULL;

    CHECK_CODE(sparsestream_sink_to_transport(&carrier_ops, carrier, options, &sink), 0);
    REQUIRE(sink != NULL);
    return sink;
}

static struct sparsestream_source *from_transport(struct carrier *carrier,
                                                  const struct sparsestream_wire_options *options)
{
    struct sparsestream_source *source = NULL;

    CHECK_CODE(sparsestream_source_from_transport(&carrier_ops, carrier, options, &source), 0);
    REQUIRE(source != NULL);
    return source;
}

struct side {
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    int result;
};

static void side_begin(struct side *side, struct sparsestream_source *source, struct sparsestream_sink *sink)
{
    *side = (struct side) { source, sink, new_transfer(source, sink, NULL), 1 };
}

static void side_end(struct side *side)
{
    sparsestream_transfer_free(side->transfer);
    sparsestream_source_free(side->source);
    sparsestream_sink_free(side->sink);
}

static bool ended(const struct side *side)
{
    return side->result != 1 && side->result != -EAGAIN;
}

static void turn(struct side *side)
{
    if (!ended(side))
        side->result = sparsestream_transfer_run(side->transfer, 1 * MiB);
}

static void run_both(struct side *sender, struct side *receiver)
{
    for (int i = 0; i < 1000000 && !(ended(sender) && ended(receiver)); i++) {
        turn(sender);
        turn(receiver);
    }
    REQUIRE(ended(sender) && ended(receiver));
}

static void an_image_comes_over_the_callers_functions(void)
{
    static struct line line;
    static const uint64_t flags[] = {
        0, SPARSESTREAM_WIRE_CHECKSUM, SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST,
    };
    int from = image_file(1);

    for (unsigned i = 0; i < 6; i++) {
        struct side sender, receiver;
        int to = file_in_memory();

        line_begin(&line, i, i < 3 ? 0 : 30);
        side_begin(&sender, fd_source(from), to_transport(&line.near, WIRE_OPTIONS(.flags = flags[i % 3])));
        side_begin(&receiver, from_transport(&line.far, NULL), fd_sink(to));
        run_both(&sender, &receiver);
        CHECK_INT(sender.result, ==, 0);
        CHECK_INT(receiver.result, ==, 0);
        CHECK_INT(transfer_stats(receiver.transfer).data_bytes, ==, IMAGE_DATA);
        CHECK_INT(file_differs(from, 0, to, 0, IMAGE_SIZE), ==, -1);
        CHECK_INT(line.near.closes, ==, 1);
        CHECK_INT(line.far.closes, ==, 1);
        CHECK_INT(line.near.frees, ==, 0);
        side_end(&sender);
        side_end(&receiver);
        CHECK_INT(line.near.closes, ==, 1);
        CHECK_INT(line.near.frees, ==, 1);
        CHECK_INT(line.far.frees, ==, 1);
        close(to);
    }
    close(from);
}

static void without_read_it_is_one_way(void)
{
    static struct line line;
    struct sparsestream_transport_ops out = carrier_ops, in = carrier_ops;
    struct side sender, receiver;
    struct sparsestream_sink *sink;
    struct sparsestream_source *source;
    int from = image_file(2), to = file_in_memory();

    out.read = NULL;
    in.write = NULL;
    line_begin(&line, 5, 10);
    CHECK_CODE(sparsestream_sink_to_transport(&out, &line.near, NULL, &sink), 0);
    CHECK_CODE(sparsestream_source_from_transport(&in, &line.far, NULL, &source), 0);
    side_begin(&sender, fd_source(from), sink);
    side_begin(&receiver, source, fd_sink(to));
    run_both(&sender, &receiver);
    CHECK_INT(sender.result, ==, 0);
    CHECK_INT(receiver.result, ==, 0);
    CHECK_INT(file_differs(from, 0, to, 0, IMAGE_SIZE), ==, -1);
    side_end(&sender);
    side_end(&receiver);
    close(from);
    close(to);
}

/* One-way nothing else confirms the stream. Two-way the peer's word does. */
static void a_goodbye_that_fails_counts_only_one_way(void)
{
    static struct line line;
    struct sparsestream_transport_ops out = carrier_ops;
    int from = image_file(3);

    for (int way = 0; way < 2; way++) {
        for (int again = 0; again < 2; again++) {
            struct sparsestream_sink *sink;
            struct side sender, receiver;
            int to = file_in_memory();

            line_begin(&line, 7, 0);
            line.near.fail_close = again ? EAGAIN : EIO;
            out.read = way == 0 ? NULL : carrier_read;
            CHECK_CODE(sparsestream_sink_to_transport(&out, &line.near, NULL, &sink), 0);
            side_begin(&sender, fd_source(from), sink);
            side_begin(&receiver, from_transport(&line.far, NULL), fd_sink(to));
            run_both(&sender, &receiver);
            CHECK_INT(receiver.result, ==, 0);
            CHECK_INT(sender.result, ==, way == 0 && !again ? -EIO : 0);
            CHECK_INT(line.near.closes, ==, 1);
            side_end(&sender);
            side_end(&receiver);
            CHECK_INT(line.near.closes, ==, 1);
            close(to);
        }
    }
    close(from);
}

static void a_failure_of_the_transport_is_the_errno_of_both(void)
{
    static struct line line;
    int from = image_file(4);

    for (int i = 0; i < 12; i++) {
        struct side sender, receiver;
        int to = file_in_memory();

        line_begin(&line, 11, 0);
        line.near.error = line.far.error = ECONNABORTED;
        if (i % 2 == 0)
            line.near.fail_write = 1 + i;
        else
            line.far.fail_read = 1 + i;
        side_begin(&sender, fd_source(from), to_transport(&line.near, NULL));
        side_begin(&receiver, from_transport(&line.far, NULL), fd_sink(to));
        for (int j = 0; j < 100000 && !(ended(&sender) && ended(&receiver)); j++) {
            turn(&sender);
            turn(&receiver);
        }
        if (i % 2 == 0) {
            CHECK_INT(sender.result, ==, -ECONNABORTED);
            CHECK_INT(transfer_error(sender.transfer).side, ==, SPARSESTREAM_SIDE_SINK);
            CHECK(receiver.result < 0);
        } else {
            CHECK_INT(receiver.result, ==, -ECONNABORTED);
            CHECK_INT(transfer_error(receiver.transfer).side, ==, SPARSESTREAM_SIDE_SOURCE);
            /* Reported by ERROR once a HELLO was understood. Before, it is not known that there is a peer. */
            CHECK_INT(sender.result, ==, i < 7 ? -ECONNRESET : -ECONNABORTED);
            CHECK_INT(transfer_error(sender.transfer).peer, ==, i < 7 ? 0 : 1);
        }
        CHECK_INT(line.near.closes, ==, 1);
        CHECK_INT(line.far.closes, ==, 1);
        side_end(&sender);
        side_end(&receiver);
        close(to);
    }
    close(from);
}

/* How a transfer ends whose last write is not ready. */
enum ending { FAILED, FREED, STALLED };

static int end_while_blocked(struct side *side, struct carrier *carrier, enum ending ending, bool ready)
{
    const int writes = carrier->writes;

    REQUIRE(carrier->retry != NULL);
    REQUIRE(carrier->retry_length < sizeof carrier->retry_bytes);
    carrier->blocked = !ready;
    switch (ending) {
    case FAILED:
        CHECK_CODE(sparsestream_transfer_fail(side->transfer, ENOLCK, NULL), 0);
        turn(side);
        break;
    case STALLED:
        carrier->timeout_ms = 1;
        side->result = sparsestream_transfer_run(side->transfer, 0);
        break;
    case FREED:
        sparsestream_transfer_free(side->transfer);
        side->transfer = NULL;
        break;
    }
    /* It was offered again, and it was the same: carrier_write checks that. */
    CHECK_INT(carrier->writes, >, writes);
    CHECK_INT(carrier->closes, ==, 1);
    return side->result;
}

static void a_failure_does_not_change_an_end_of_the_stream_that_is_being_written(void)
{
    static struct line line;
    int from = file_in_memory();

    file_resize(from, 1 * MiB);
    for (int i = 0; i < 5; i++) {
        const enum ending ending = i / 2;
        const bool ready = i % 2 == 1;
        struct side sender, receiver;
        int to = file_in_memory(), result;

        line_begin(&line, 21, 0);
        side_begin(&sender, fd_source(from), to_transport(&line.near, NULL));
        sparsestream_transfer_free(sender.transfer);
        sender.transfer = new_transfer(sender.source, sender.sink, TRANSFER_OPTIONS(.stall_ms = ending == STALLED ? 20 : 0));
        side_begin(&receiver, from_transport(&line.far, NULL), fd_sink(to));
        turn(&sender);
        turn(&receiver);
        line.near.blocked = true;
        turn(&sender);
        CHECK_INT(sender.result, ==, -EAGAIN);
        result = end_while_blocked(&sender, &line.near, ending, ready);
        CHECK_INT(result, ==, ending == FAILED ? -ENOLCK : ending == STALLED ? -ETIMEDOUT : -EAGAIN);
        for (int j = 0; j < 1000 && !ended(&receiver); j++)
            turn(&receiver);
        CHECK_INT(receiver.result, ==, ready ? 0 : -ENODATA);
        side_end(&sender);
        side_end(&receiver);
        close(to);
    }
    close(from);
}

static void a_failure_does_not_change_a_result_that_is_being_written(void)
{
    static struct line line;
    int from = file_in_memory();

    file_resize(from, 1 * MiB);
    for (int i = 0; i < 2; i++) {
        const bool ready = i == 0;
        struct side sender, receiver;
        int to = file_in_memory();

        line_begin(&line, 23, 0);
        side_begin(&sender, fd_source(from), to_transport(&line.near, NULL));
        side_begin(&receiver, from_transport(&line.far, NULL), fd_sink(to));
        turn(&sender);
        turn(&receiver);
        turn(&sender);
        line.far.blocked = true;
        turn(&receiver);
        CHECK_INT(receiver.result, ==, -EAGAIN);
        end_while_blocked(&receiver, &line.far, FREED, ready);
        for (int j = 0; j < 1000 && !ended(&sender); j++)
            turn(&sender);
        CHECK_INT(sender.result, ==, ready ? 0 : -ECONNRESET);
        CHECK_INT(file_differs(from, 0, to, 0, 1 * MiB), ==, -1);
        side_end(&sender);
        side_end(&receiver);
        close(to);
    }
    close(from);
}

/* As from a TLS library, whose errors have no errno. */
static int64_t refused_read(void *opaque, void *buffer, size_t length)
{
    struct carrier *carrier = opaque;

    (void) buffer;
    (void) length;
    if (carrier->reads++ == 0)
        return -EAGAIN;
    CHECK_CODE(sparsestream_set_error(ECONNABORTED, 0, -1, "certificate verify failed"), 0);
    return -ECONNABORTED;
}

static int64_t broken_write(void *opaque, const void *buffer, size_t length)
{
    struct carrier *carrier = opaque;

    (void) buffer;
    return carrier->writes++ == 0 ? (int64_t) length : -EPIPE;
}

static void the_words_of_the_transport_are_the_error(void)
{
    static struct line line;
    struct sparsestream_transport_ops ops = carrier_ops;
    struct sparsestream_sink *sink;
    struct sparsestream_error error;
    struct side sender;
    int from = image_file(9);

    /* Reading knows the reason, whatever writing says. */
    for (int i = 0; i < 2; i++) {
        line_begin(&line, 19, 0);
        ops.read = refused_read;
        ops.write = i == 0 ? carrier_write : broken_write;
        CHECK_CODE(sparsestream_sink_to_transport(&ops, &line.near, NULL, &sink), 0);
        side_begin(&sender, fd_source(from), sink);
        for (int j = 0; j < 10 && !ended(&sender); j++)
            turn(&sender);
        CHECK_INT(sender.result, ==, -ECONNABORTED);
        CHECK_CONTAINS(sparsestream_last_error(), "certificate verify failed");
        error = transfer_error(sender.transfer);
        CHECK_CONTAINS(error.message, "certificate verify failed");
        CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SINK);
        side_end(&sender);
    }
    close(from);
}

static void what_it_waits_for_is_reported(void)
{
    static struct line line;
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct side sender;
    int from = image_file(5), fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    line_begin(&line, 13, 0);
    side_begin(&sender, fd_source(from), to_transport(&line.near, NULL));
    turn(&sender);
    CHECK_INT(sender.result, ==, -EAGAIN);
    CHECK_CODE(sparsestream_transfer_wait(sender.transfer, &wait), 0);
    CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(wait.fd, ==, -1);
    /* TLS may have to write before it can read. */
    line.near.fd = fds[1];
    line.near.events = POLLOUT;
    turn(&sender);
    CHECK_CODE(sparsestream_transfer_wait(sender.transfer, &wait), 0);
    CHECK_INT(wait.fd, ==, fds[1]);
    CHECK_INT(wait.events, ==, POLLOUT);
    side_end(&sender);
    close(fds[0]);
    close(fds[1]);
    close(from);
}

static void nonsense_is_an_error_and_not_believed(void)
{
    static struct line line;
    struct sparsestream_sink *sink;
    struct sparsestream_source *source;
    struct sparsestream_transport_ops ops = carrier_ops;

    line_begin(&line, 17, 0);
    source = from_transport(&line.far, NULL);
    line.far.fail_read = 1;
    line.far.error = -INT32_MAX;
    CHECK_INT(sparsestream_source_read(source, (char[4]) { 0 }, 4), ==, -EPROTO);
    sparsestream_source_free(source);
    CHECK_INT(line.far.frees, ==, 1);

    line_begin(&line, 17, 0);
    line.near.fail_write = 1;
    line.near.error = 0;
    sink = to_transport(&line.near, NULL);
    CHECK_INT(sparsestream_sink_write(sink, "data", 4), ==, -EIO);
    sparsestream_sink_free(sink);

    /* After every refusal, the opaque was freed once. */
    line_begin(&line, 17, 0);
    ops.read = NULL;
    source = (void *) &line;
    CHECK_CODE(sparsestream_source_from_transport(&ops, &line.far, NULL, &source), -EINVAL);
    CHECK(source == NULL);
    CHECK_INT(line.far.frees, ==, 1);
    ops = carrier_ops;
    ops.write = NULL;
    CHECK_CODE(sparsestream_sink_to_transport(&ops, &line.near, NULL, &sink), -EINVAL);
    CHECK_INT(line.near.frees, ==, 1);
    CHECK_CODE(sparsestream_sink_to_transport(&carrier_ops, &line.near, WIRE_OPTIONS(.max_size = 1), &sink), -EINVAL);
    CHECK_INT(line.near.frees, ==, 2);
    CHECK_CODE(sparsestream_sink_to_transport(&carrier_ops, &line.near, NULL, NULL), -EINVAL);
    CHECK_INT(line.near.frees, ==, 3);
    CHECK_CODE(sparsestream_sink_to_transport(NULL, &line.near, NULL, &sink), -EINVAL);
    CHECK_INT(line.near.frees, ==, 3);
    /* Nothing was said, and so no goodbye. */
    CHECK_INT(line.near.closes, ==, 0);
}

/* The descriptor under the functions, offered as kernel TLS allows. */
struct socket_end {
    int fd;
    bool plain;
    int64_t written;
};

static int64_t socket_read(void *opaque, void *buffer, size_t length)
{
    ssize_t count = recv(((struct socket_end *) opaque)->fd, buffer, length, MSG_DONTWAIT);

    return count < 0 ? -errno : count;
}

static int64_t socket_write(void *opaque, const void *buffer, size_t length)
{
    struct socket_end *end = opaque;
    ssize_t count = send(end->fd, buffer, length, MSG_DONTWAIT | MSG_NOSIGNAL);

    end->written += count > 0 ? count : 0;
    return count < 0 ? -errno : count;
}

static int socket_wait(void *opaque, struct sparsestream_wait *wait)
{
    wait->fd = ((struct socket_end *) opaque)->fd;
    wait->events = POLLIN | POLLOUT;
    return 0;
}

static int socket_plain(void *opaque)
{
    struct socket_end *end = opaque;

    return end->plain ? end->fd : -1;
}

static void data_goes_uncopied_through_an_offered_descriptor(void)
{
    static const struct sparsestream_transport_ops ops = {
        .size = sizeof ops, .read = socket_read, .write = socket_write, .wait = socket_wait,
        .input_fd = socket_plain, .output_fd = socket_plain,
    };
    int from = image_file(6);

    for (int plain = 0; plain < 2; plain++) {
        struct socket_end near = { .plain = plain }, far = { .plain = plain };
        struct sparsestream_sink *sink;
        struct sparsestream_source *source;
        struct side sender, receiver;
        int fds[2], to = file_in_memory();

        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
        near.fd = fds[0];
        far.fd = fds[1];
        CHECK_CODE(sparsestream_sink_to_transport(&ops, &near, NULL, &sink), 0);
        CHECK_CODE(sparsestream_source_from_transport(&ops, &far, NULL, &source), 0);
        side_begin(&sender, fd_source(from), sink);
        side_begin(&receiver, source, fd_sink(to));
        run_both(&sender, &receiver);
        CHECK_INT(sender.result, ==, 0);
        CHECK_INT(receiver.result, ==, 0);
        CHECK_INT(file_differs(from, 0, to, 0, IMAGE_SIZE), ==, -1);
        if (plain)
            CHECK_INT(near.written, <, 1 * MiB);
        else
            CHECK_INT(near.written, >, IMAGE_DATA);
        side_end(&sender);
        side_end(&receiver);
        close(fds[0]);
        close(fds[1]);
        close(to);
    }
    close(from);
}

TESTS(
    CASE(an_image_comes_over_the_callers_functions),
    CASE(without_read_it_is_one_way),
    CASE(a_goodbye_that_fails_counts_only_one_way),
    CASE(a_failure_of_the_transport_is_the_errno_of_both),
    CASE(a_failure_does_not_change_an_end_of_the_stream_that_is_being_written),
    CASE(a_failure_does_not_change_a_result_that_is_being_written),
    CASE(the_words_of_the_transport_are_the_error),
    CASE(what_it_waits_for_is_reported),
    CASE(nonsense_is_an_error_and_not_believed),
    CASE(data_goes_uncopied_through_an_offered_descriptor),
)
