/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The wire: frames over sockets and pipes, the receiver's answer, limits, and resuming. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
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

static void make_socket(int fds[2])
{
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
}

static struct sparsestream_sink *to_wire(int write_fd, int read_fd,
                                         const struct sparsestream_wire_options *options)
{
    struct sparsestream_sink *sink = NULL;

    CHECK_CODE(sparsestream_sink_to_wire(write_fd, read_fd, options, &sink), 0);
    REQUIRE(sink != NULL);
    return sink;
}

static struct sparsestream_source *from_wire(int read_fd, int write_fd,
                                             const struct sparsestream_wire_options *options)
{
    struct sparsestream_source *source = NULL;

    CHECK_CODE(sparsestream_source_from_wire(read_fd, write_fd, options, &source), 0);
    REQUIRE(source != NULL);
    return source;
}

/* A transfer that is run in turns with that of its peer. */
struct side {
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    int result;
};

static void side_begin(struct side *side, struct sparsestream_source *source,
                       struct sparsestream_sink *sink)
{
    *side = (struct side) { source, sink, new_transfer(source, sink, NULL), 1 };
}

static void side_end(struct side *side)
{
    sparsestream_transfer_free(side->transfer);
    sparsestream_source_free(side->source);
    sparsestream_sink_free(side->sink);
}

static void turn(struct side *side)
{
    if (side->result == 1 || side->result == -EAGAIN)
        side->result = sparsestream_transfer_run(side->transfer, 1 * MiB);
}

static bool ended(const struct side *side)
{
    return side->result != 1 && side->result != -EAGAIN;
}

static void run_both(struct side *sender, struct side *receiver)
{
    for (int i = 0; i < 100000 && !(ended(sender) && ended(receiver)); i++) {
        turn(sender);
        turn(receiver);
    }
    REQUIRE(ended(sender) && ended(receiver));
}

static void check_copy(int from, int to)
{
    struct extent left[16], right[16];
    size_t count = file_map(from, left, COUNT(left));

    CHECK_INT(file_size(to), ==, file_size(from));
    CHECK_INT(file_differs(from, 0, to, 0, file_size(from)), ==, -1);
    CHECK_INT(file_map(to, right, COUNT(right)), ==, count);
    for (size_t i = 0; i < count; i++) {
        CHECK_INT(left[i].kind, ==, right[i].kind);
        CHECK_INT(left[i].offset, ==, right[i].offset);
        CHECK_INT(left[i].length, ==, right[i].length);
    }
}

static void an_image_comes_over_a_socket(void)
{
    static const uint64_t flags[] = {
        0, SPARSESTREAM_WIRE_CHECKSUM, SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST,
    };
    int from = image_file(1);

    for (size_t i = 0; i < COUNT(flags); i++) {
        struct sparsestream_wire_options options = {
            .size = sizeof options, .flags = flags[i], .transfer_id = "a transfer",
        };
        struct sparsestream_wire_info info = { .size = sizeof info };
        struct sparsestream_stats stats;
        struct side sender, receiver;
        int to = file_in_memory(), fds[2];

        make_socket(fds);
        CHECK_CODE(sparsestream_wire_describe(from, 0, 0, &options), 0);
        side_begin(&sender, fd_source(from), to_wire(fds[0], fds[0], &options));
        turn(&sender);
        CHECK_INT(sender.result, ==, -EAGAIN);
        side_begin(&receiver, from_wire(fds[1], fds[1], NULL), fd_sink(to));
        CHECK_CODE(sparsestream_source_wire_info(receiver.source, &info), 0);
        CHECK_INT(info.length, ==, IMAGE_SIZE);
        CHECK_INT(info.source_size, ==, IMAGE_SIZE);
        CHECK_INT(info.data_bytes, ==, IMAGE_DATA);
        CHECK_INT(info.start, ==, 0);
        CHECK_INT(info.answers, ==, 1);
        CHECK_INT(info.flags, ==, flags[i]);
        CHECK_BYTES(info.transfer_id, options.transfer_id, sizeof info.transfer_id);
        CHECK_BYTES(info.identity, options.identity, sizeof info.identity);
        run_both(&sender, &receiver);
        CHECK_INT(sender.result, ==, 0);
        CHECK_INT(receiver.result, ==, 0);
        stats = transfer_stats(receiver.transfer);
        CHECK_INT(stats.data_bytes, ==, IMAGE_DATA);
        CHECK_INT(stats.total, ==, IMAGE_SIZE);
        check_copy(from, to);
        side_end(&sender);
        side_end(&receiver);
        close(fds[0]);
        close(fds[1]);
        close(to);
    }
    close(from);
}

static void a_pipe_is_enough_one_way(void)
{
    struct side sender, receiver;
    int from = image_file(2), to = file_in_memory(), fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    side_begin(&sender, fd_source(from),
               to_wire(fds[1], -1, WIRE_OPTIONS(.flags = SPARSESTREAM_WIRE_DIGEST)));
    side_begin(&receiver, from_wire(fds[0], -1, NULL), fd_sink(to));
    run_both(&sender, &receiver);
    CHECK_INT(sender.result, ==, 0);
    CHECK_INT(receiver.result, ==, 0);
    check_copy(from, to);
    side_end(&sender);
    side_end(&receiver);
    close(fds[0]);
    close(fds[1]);
    close(from);
    close(to);
}

static void the_receivers_full_disk_is_the_senders_error(void)
{
    int from = image_file(3);

    for (int i = 0; i < 20; i++) {
        struct end end = { .fault = -ENOSPC, .fault_letter = i % 2 == 0 ? 'w' : 'h',
                           .fault_call = 3 + i / 4, .fault_stays = true };
        struct sparsestream_error error;
        struct side sender, receiver;
        int fds[2];

        make_socket(fds);
        side_begin(&sender, fd_source(from), to_wire(fds[0], fds[0], NULL));
        side_begin(&receiver, from_wire(fds[1], fds[1], NULL), end_sink(&end));
        run_both(&sender, &receiver);
        if (end.faulted) {
            CHECK_INT(sender.result, ==, -ENOSPC);
            CHECK_INT(receiver.result, ==, -ENOSPC);
            error = transfer_error(sender.transfer);
            CHECK_INT(error.peer, ==, 1);
            CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SINK);
            CHECK_INT(error.operation, ==, i % 2 == 0 ? SPARSESTREAM_OPERATION_WRITE
                                                      : SPARSESTREAM_OPERATION_HOLE);
            CHECK_INT(error.offset, ==, transfer_error(receiver.transfer).offset);
            CHECK_CONTAINS(error.message, "peer: sink: ");
            CHECK_CONTAINS(error.message, strerror(ENOSPC));
            CHECK_INT(transfer_error(receiver.transfer).peer, ==, 0);
        }
        side_end(&sender);
        side_end(&receiver);
        close(fds[0]);
        close(fds[1]);
    }
    close(from);
}

static void a_limit_of_the_receiver_holds(void)
{
    struct side sender, receiver;
    int from = image_file(4), to = file_in_memory(), fds[2];

    make_socket(fds);
    side_begin(&sender, fd_source(from), to_wire(fds[0], fds[0], NULL));
    side_begin(&receiver, from_wire(fds[1], fds[1], WIRE_OPTIONS(.max_size = IMAGE_SIZE - 1)),
               fd_sink(to));
    run_both(&sender, &receiver);
    CHECK_INT(sender.result, ==, -EFBIG);
    CHECK_INT(receiver.result, ==, -EFBIG);
    CHECK_INT(transfer_error(sender.transfer).peer, ==, 1);
    CHECK_INT(file_size(to), ==, 0);
    side_end(&sender);
    side_end(&receiver);
    close(fds[0]);
    close(fds[1]);
    close(from);
    close(to);
}

static int record(void *opaque, int64_t durable)
{
    *(int64_t *) opaque = durable;
    return 0;
}

/* Resumes a transfer of which the first `held` bytes are there. */
static void go_on(int from, int to, int64_t held, const uint8_t identity[32], uint64_t restart,
                  int result, int64_t moved)
{
    struct sparsestream_wire_options sending = {
        .size = sizeof sending, .flags = SPARSESTREAM_WIRE_RESUME | restart,
    };
    struct sparsestream_wire_options receiving = {
        .size = sizeof receiving, .flags = restart, .resume_offset = held,
    };
    struct sparsestream_wire_info info = { .size = sizeof info };
    struct side sender, receiver = { .result = 1 };
    int fds[2], result_of_query;

    make_socket(fds);
    REQUIRE(fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
    CHECK_CODE(sparsestream_wire_describe(from, 0, 0, &sending), 0);
    memcpy(receiving.identity, identity, sizeof receiving.identity);
    receiving.resume_fd = to;
    side_begin(&sender, fd_source(from), to_wire(fds[0], fds[0], &sending));
    receiver.source = from_wire(fds[1], fds[1], &receiving);
    do {
        turn(&sender);
        result_of_query = sparsestream_source_wire_info(receiver.source, &info);
    } while (result_of_query == -EAGAIN || result_of_query == -EINTR);
    CHECK_INT(result_of_query, ==, result);
    if (result_of_query == 0) {
        CHECK_INT(info.start, ==, moved == IMAGE_SIZE ? 0 : held);
        CHECK_CODE(sparsestream_sink_to_fd(to, SINK_OPTIONS(.offset = info.start),
                                           &receiver.sink), 0);
        side_begin(&receiver, receiver.source, receiver.sink);
        run_both(&sender, &receiver);
        CHECK_INT(receiver.result, ==, 0);
        CHECK_INT(sender.result, ==, 0);
        CHECK_INT(transfer_stats(sender.transfer).data_bytes
                      + transfer_stats(sender.transfer).hole_bytes, ==, moved);
        CHECK_INT(file_differs(from, 0, to, 0, IMAGE_SIZE), ==, -1);
    } else {
        turn(&sender);
        CHECK_INT(sender.result, ==, result);
    }
    side_end(&sender);
    side_end(&receiver);
    close(fds[0]);
    close(fds[1]);
}

static void what_is_there_is_not_sent_again(void)
{
    struct sparsestream_wire_options options = { .size = sizeof options };
    struct sparsestream_sink *sink = NULL;
    struct side sender, receiver;
    int64_t durable = 0;
    int from = image_file(5), to = file_in_memory(), fds[2];

    /* The first attempt is interrupted: the sender ends without a report. */
    make_socket(fds);
    CHECK_CODE(sparsestream_wire_describe(from, 0, 0, &options), 0);
    side_begin(&sender, fd_source(from), to_wire(fds[0], fds[0], &options));
    CHECK_CODE(sparsestream_sink_to_fd(to, SINK_OPTIONS(.sync_interval = 1 * MiB,
                                                        .checkpoint = record, .opaque = &durable),
                                       &sink), 0);
    side_begin(&receiver, from_wire(fds[1], fds[1], NULL), sink);
    while (durable < 5 * MiB) {
        turn(&sender);
        turn(&receiver);
        REQUIRE(!ended(&receiver));
    }
    shutdown(fds[0], SHUT_RDWR);
    while (!ended(&receiver))
        turn(&receiver);
    CHECK_INT(receiver.result, ==, -ENODATA);
    side_end(&sender);
    side_end(&receiver);
    close(fds[0]);
    close(fds[1]);

    go_on(from, to, durable, options.identity, 0, 0, IMAGE_SIZE - durable);
    check_copy(from, to);
    close(from);
    close(to);
}

static void another_source_is_refused_or_sent_from_its_start(void)
{
    struct sparsestream_wire_options options = { .size = sizeof options };
    static const uint8_t any[32];
    uint8_t other[32] = { 1 };
    int from = image_file(6), to = image_file(6);

    CHECK_CODE(sparsestream_wire_describe(from, 0, 0, &options), 0);
    go_on(from, to, 4 * MiB, other, 0, -ESTALE, 0);
    go_on(from, to, 4 * MiB, other, SPARSESTREAM_WIRE_RESTART, 0, IMAGE_SIZE);
    /* The same by its name, and not by its content. */
    file_write(to, 3 * MiB + 7, "x", 1);
    go_on(from, to, 4 * MiB, options.identity, 0, -ESTALE, 0);
    go_on(from, to, 4 * MiB, any, SPARSESTREAM_WIRE_RESTART, 0, IMAGE_SIZE);
    go_on(from, to, 4 * MiB, any, 0, 0, IMAGE_SIZE - 4 * MiB);
    close(from);
    close(to);
}

static void a_sender_waits_for_the_answer(void)
{
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct sparsestream_transfer *transfer;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    int from = image_file(7), to_peer[2], from_peer[2];

    REQUIRE(pipe2(to_peer, O_CLOEXEC | O_NONBLOCK) == 0);
    REQUIRE(pipe2(from_peer, O_CLOEXEC | O_NONBLOCK) == 0);
    source = fd_source(from);
    sink = to_wire(to_peer[1], from_peer[0], NULL);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EAGAIN);
    CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
    CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(wait.fd, ==, from_peer[0]);
    CHECK_INT(wait.events, ==, POLLIN);
    close(from_peer[1]);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -ECONNRESET);
    CHECK_CONTAINS(sparsestream_last_error(), "before it reported a result");
    sparsestream_transfer_free(transfer);
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    close(from_peer[0]);
    close(to_peer[0]);
    close(to_peer[1]);
    close(from);
}

/* An event loop knows when a sign of life is due, and needs nothing else to keep a receiver patient. */
static void a_sender_is_run_when_a_sign_is_due(void)
{
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct sparsestream_transfer *sending, *receiving;
    struct sparsestream_source *from, *from_sender;
    struct sparsestream_sink *to_receiver, *to;
    int in[2], fds[2], file = file_in_memory();
    const int64_t stall_ms = 300 * harness_slowness(), begun = harness_now();

    REQUIRE(pipe2(in, O_CLOEXEC | O_NONBLOCK) == 0);
    make_socket(fds);
    from = fd_source(in[0]);
    to_receiver = to_wire(fds[0], fds[0], WIRE_OPTIONS(.keepalive_ms = 20));
    from_sender = from_wire(fds[1], fds[1], NULL);
    to = fd_sink(file);
    sending = new_transfer(from, to_receiver, NULL);
    receiving = new_transfer(from_sender, to,
                             TRANSFER_OPTIONS(.stall_ms = stall_ms, .idle_ms = 5 * stall_ms));
    CHECK_CODE(sparsestream_transfer_run(sending, 1), -EAGAIN);
    CHECK_CODE(sparsestream_transfer_run(receiving, 1), -EAGAIN);
    do {
        CHECK_CODE(sparsestream_transfer_run(sending, 1), -EAGAIN);
        CHECK_CODE(sparsestream_transfer_wait(sending, &wait), 0);
        CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_SOURCE);
        CHECK_INT(wait.fd, ==, in[0]);
        CHECK_INT(wait.timeout_ms, >=, 0);
        CHECK_INT(wait.timeout_ms, <=, 20);
        usleep((useconds_t) wait.timeout_ms * 1000);
        CHECK_CODE(sparsestream_transfer_run(receiving, 1), -EAGAIN);
    } while (harness_now() - begun < 2 * stall_ms);
    /* Nothing but signs for too long: it is patient no more. */
    usleep((useconds_t) (5 * stall_ms) * 1000);
    CHECK_CODE(sparsestream_transfer_run(sending, 1), -EAGAIN);
    CHECK_CODE(sparsestream_transfer_run(receiving, 1), -ETIMEDOUT);
    CHECK_INT(transfer_error(receiving).side, ==, SPARSESTREAM_SIDE_SOURCE);
    /* The failure is reported to the sender. */
    close(in[1]);
    CHECK_CODE(sparsestream_transfer_run(sending, 1), -ETIMEDOUT);
    CHECK_INT(transfer_error(sending).peer, ==, 1);
    sparsestream_transfer_free(sending);
    sparsestream_transfer_free(receiving);
    sparsestream_source_free(from);
    sparsestream_source_free(from_sender);
    sparsestream_sink_free(to_receiver);
    sparsestream_sink_free(to);
    close(in[0]);
    close(fds[0]);
    close(fds[1]);
    close(file);
}

/* So does one that receives, and a program that drives the source by hand. */
static void a_receiver_knows_when_a_sign_is_due(void)
{
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct sparsestream_source *from_sender;
    struct sparsestream_sink *to_receiver;
    unsigned char header[32];
    int fds[2], signs = 0;
    char byte;

    make_socket(fds);
    to_receiver = to_wire(fds[0], fds[0], NULL);
    from_sender = from_wire(fds[1], fds[1], WIRE_OPTIONS(.keepalive_ms = 20));
    CHECK_CODE(sparsestream_sink_hole(to_receiver, 1), -EAGAIN);
    for (int i = 0; i < 20; i++) {
        CHECK_CODE(sparsestream_source_read(from_sender, &byte, 1), -EAGAIN);
        CHECK_CODE(sparsestream_source_wait(from_sender, &wait), 0);
        CHECK_INT(wait.fd, ==, fds[1]);
        CHECK_INT(wait.timeout_ms, >=, 0);
        CHECK_INT(wait.timeout_ms, <=, 20);
        usleep((useconds_t) wait.timeout_ms * 1000);
    }
    /* ACCEPT has a body of 64 bytes. */
    CHECK_INT(recv(fds[0], header, sizeof header, MSG_DONTWAIT), ==, sizeof header);
    CHECK_INT(header[3], ==, 2);
    CHECK_INT(recv(fds[0], (char[64]) { 0 }, 64, MSG_DONTWAIT), ==, 64);
    while (recv(fds[0], header, sizeof header, MSG_DONTWAIT) == sizeof header) {
        CHECK_INT(header[3], ==, 8);
        signs++;
    }
    CHECK_INT(signs, >=, 3);
    sparsestream_source_free(from_sender);
    sparsestream_sink_free(to_receiver);
    close(fds[0]);
    close(fds[1]);
}

static void what_cannot_be_is_refused(void)
{
    static const struct sparsestream_wire_options of_sender[] = {
        { .flags = 1 << 20 },
        { .flags = SPARSESTREAM_WIRE_RESUME },
        { .flags = SPARSESTREAM_WIRE_SIZES, .length = -2 },
        { .flags = SPARSESTREAM_WIRE_SIZES, .length = 5, .source_size = 4, .data_bytes = -1 },
        { .flags = SPARSESTREAM_WIRE_SIZES, .length = 5, .source_size = 5, .data_bytes = 6 },
        { .max_size = 1 }, { .max_payload = 4096 }, { .resume_fd = 1 },
        { .resume_offset = 1 }, { .resume_fd_offset = 1 },
        { .checkpoint_interval = -1 }, { .keepalive_ms = -1 },
    };
    static const struct sparsestream_wire_options of_receiver[] = {
        { .flags = 1 << 20 }, { .flags = SPARSESTREAM_WIRE_RESUME },
        { .flags = SPARSESTREAM_WIRE_SIZES }, { .length = 1 }, { .data_bytes = 1 },
        { .checkpoint_interval = 1 }, { .keepalive_ms = -1 }, { .max_size = -1 },
        { .max_payload = 4095 }, { .max_payload = 4194305 }, { .resume_offset = -1 },
        { .resume_offset = 1, .resume_fd_offset = -1 },
    };
    struct sparsestream_wire_info info = { .size = sizeof info };
    struct sparsestream_sink *sink;
    struct sparsestream_source *source;
    int fds[2], file = file_in_memory(), directory = open(".", O_RDONLY | O_CLOEXEC);

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0 && directory >= 0);
    for (size_t i = 0; i < COUNT(of_sender); i++) {
        struct sparsestream_wire_options options = of_sender[i];

        options.size = sizeof options;
        sink = (void *) &options;
        CHECK_CODE(sparsestream_sink_to_wire(fds[1], -1, &options, &sink), -EINVAL);
        CHECK(sink == NULL);
    }
    for (size_t i = 0; i < COUNT(of_receiver); i++) {
        struct sparsestream_wire_options options = of_receiver[i];

        options.size = sizeof options;
        source = (void *) &options;
        CHECK_CODE(sparsestream_source_from_wire(fds[0], -1, &options, &source), -EINVAL);
        CHECK(source == NULL);
    }
    CHECK_CODE(sparsestream_sink_to_wire(fds[0], -1, NULL, &sink), -EBADF);
    CHECK_CODE(sparsestream_sink_to_wire(fds[1], fds[1], NULL, &sink), -EBADF);
    CHECK_CODE(sparsestream_source_from_wire(fds[1], -1, NULL, &source), -EBADF);
    CHECK_CODE(sparsestream_source_from_wire(directory, -1, NULL, &source), -EISDIR);
    CHECK_CODE(sparsestream_source_from_wire(-5, -1, NULL, &source), -EBADF);
    CHECK_CODE(sparsestream_sink_to_wire(fds[1], -1, NULL, NULL), -EINVAL);
    CHECK_CODE(sparsestream_source_from_wire(fds[0], -1, NULL, NULL), -EINVAL);
    CHECK_CODE(sparsestream_source_wire_info(NULL, &info), -EINVAL);
    source = fd_source(file);
    CHECK_CODE(sparsestream_source_wire_info(source, &info), -EINVAL);
    sparsestream_source_free(source);
    CHECK_CODE(sparsestream_wire_describe(file, 0, 0, NULL), -EINVAL);
    CHECK_CODE(sparsestream_wire_describe(fds[0], 0, 0, WIRE_OPTIONS(.flags = 0)), -ESPIPE);
    close(directory);
    close(file);
    close(fds[0]);
    close(fds[1]);
}

/* The changes of an image since its last backup, as a backup program knows them. */
struct increment {
    const sparsestream_section *sections;
    int fd;
    int64_t at;
};

static int increment_section(void *opaque, struct sparsestream_section *section)
{
    struct increment *increment = opaque;
    const sparsestream_section *next = increment->sections;

    while (next->kind != SPARSESTREAM_END && next->offset + next->length <= increment->at)
        next++;
    section->kind = next->kind;
    section->length = next->offset + next->length - increment->at;
    return 0;
}

static int64_t increment_read(void *opaque, void *buffer, size_t length)
{
    struct increment *increment = opaque;
    ssize_t count = pread(increment->fd, buffer, length, increment->at);

    increment->at += count;
    return count;
}

static int64_t increment_skip(void *opaque, int64_t length)
{
    ((struct increment *) opaque)->at += length;
    return length;
}

static int increment_describe(void *opaque, struct sparsestream_source_info *info)
{
    (void) opaque;
    info->total = 8 * MiB;
    return 0;
}

static const sparsestream_section changes[] = {
    { .offset = 0, .length = 1 * MiB, .kind = SPARSESTREAM_KEEP },
    { .offset = 1 * MiB, .length = 64 * KiB, .kind = SPARSESTREAM_DATA },
    { .offset = 1 * MiB + 64 * KiB, .length = 2 * MiB, .kind = SPARSESTREAM_KEEP },
    { .offset = 3 * MiB + 64 * KiB, .length = 1 * MiB, .kind = SPARSESTREAM_HOLE },
    { .offset = 4 * MiB + 64 * KiB, .length = 4 * MiB - 64 * KiB, .kind = SPARSESTREAM_KEEP },
    { .offset = 8 * MiB, .kind = SPARSESTREAM_END },
};

/* Sends the changes of `image` onto `to`. Returns both results. */
static void send_changes(int image, int to, const struct sparsestream_wire_options *sending,
                         const struct sparsestream_wire_options *receiving, int result[2])
{
    static const struct sparsestream_source_ops ops = {
        .size = sizeof ops, .flags = SPARSESTREAM_WITH_KEEPS, .section = increment_section,
        .read = increment_read, .skip = increment_skip, .describe = increment_describe,
    };
    struct increment increment = { .sections = changes, .fd = image };
    struct sparsestream_source *source = NULL;
    struct side sender, receiver;
    int fds[2];

    make_socket(fds);
    CHECK_CODE(sparsestream_source_from_callbacks(&ops, &increment, &source), 0);
    side_begin(&sender, source, to_wire(fds[0], fds[0], sending));
    side_begin(&receiver, from_wire(fds[1], fds[1], receiving), fd_sink(to));
    run_both(&sender, &receiver);
    result[0] = sender.result;
    result[1] = receiver.result;
    if (sender.result == 0)
        CHECK_INT(transfer_stats(receiver.transfer).keep_bytes, ==, 7 * MiB - 64 * KiB);
    side_end(&sender);
    side_end(&receiver);
    close(fds[0]);
    close(fds[1]);
}

static void an_increment_makes_the_new_image_of_the_old(void)
{
    static const struct piece all[] = { DATA(8 * MiB) };
    static const struct piece changed[] = { DATA(64 * KiB) };
    struct sparsestream_sink *sink;
    int old = file_in_memory(), image = file_in_memory(), empty = file_in_memory(), fds[2], result[2];
    struct sparsestream_wire_options sending = {
        .size = sizeof sending, .flags = SPARSESTREAM_WIRE_DIGEST | SPARSESTREAM_WIRE_CHECKSUM,
        .base_identity = "the full backup",
    };
    struct sparsestream_wire_options receiving = {
        .size = sizeof receiving, .flags = SPARSESTREAM_WIRE_KEEP, .base_identity = "the full backup",
    };

    file_lay_out(old, 0, all, COUNT(all), 1);
    file_lay_out(image, 0, all, COUNT(all), 1);
    file_lay_out(image, 1 * MiB, changed, COUNT(changed), 2);
    REQUIRE(fallocate(image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * MiB + 64 * KiB, 1 * MiB) == 0);

    /* Refused before a byte moves: nothing to keep, another base, a receiver that was not asked to. */
    send_changes(image, empty, &sending, &receiving, result);
    CHECK_INT(result[0], ==, -ENODATA);
    CHECK_INT(result[1], ==, -ENODATA);
    CHECK_INT(file_size(empty), ==, 0);
    receiving.base_identity[0] = 'T';
    send_changes(image, old, &sending, &receiving, result);
    CHECK_INT(result[0], ==, -ESTALE);
    CHECK_INT(result[1], ==, -ESTALE);
    send_changes(image, old, &sending, NULL, result);
    CHECK_INT(result[0], ==, -EOPNOTSUPP);
    CHECK_INT(result[1], ==, -EOPNOTSUPP);
    receiving.base_identity[0] = 't';
    make_socket(fds);
    sending.flags |= SPARSESTREAM_WIRE_RESUME | SPARSESTREAM_WIRE_KEEP;
    CHECK_CODE(sparsestream_sink_to_wire(fds[0], fds[0], &sending, &sink), -EOPNOTSUPP);
    sending.flags &= ~(SPARSESTREAM_WIRE_RESUME | SPARSESTREAM_WIRE_KEEP);
    close(fds[0]);
    close(fds[1]);

    send_changes(image, old, &sending, &receiving, result);
    CHECK_INT(result[0], ==, 0);
    CHECK_INT(result[1], ==, 0);
    CHECK_INT(file_size(old), ==, 8 * MiB);
    CHECK_INT(file_differs(image, 0, old, 0, 8 * MiB), ==, -1);
    close(old);
    close(image);
    close(empty);
}

/* The result of `sparsestream_source_wire_info` for bytes on a socket, and whether HELLO has come. */
static int introduction_of(const void *bytes, size_t length, bool ends, int64_t max_size, int *greeted)
{
    struct sparsestream_wire_info info;
    struct sparsestream_source *source;
    int fds[2], result;

    memset(&info, 0xff, sizeof info);
    info.size = sizeof info;
    make_socket(fds);
    REQUIRE(fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
    REQUIRE(send(fds[0], bytes, length, 0) == (ssize_t) length);
    if (ends)
        REQUIRE(shutdown(fds[0], SHUT_WR) == 0);
    source = from_wire(fds[1], fds[1], WIRE_OPTIONS(.max_size = max_size));
    result = sparsestream_source_wire_info(source, &info);
    *greeted = info.greeted;
    CHECK_INT(info.size, ==, sizeof info);
    if (result < 0)
        CHECK_INT(info.length, ==, 0);
    sparsestream_source_free(source);
    close(fds[0]);
    close(fds[1]);
    return result;
}

static void it_is_known_whether_a_peer_has_introduced_itself(void)
{
    static const char request[] = "GET / HTTP/1.1\r\n";
    char hello[512];
    struct sparsestream_sink *sink;
    struct side sender;
    int from = image_file(3), fds[2], greeted;
    ssize_t length;

    make_socket(fds);
    sink = to_wire(fds[0], fds[0], NULL);
    side_begin(&sender, fd_source(from), sink);
    turn(&sender);
    length = recv(fds[1], hello, sizeof hello, 0);
    CHECK_INT(length, ==, 32 + 144);
    side_end(&sender);
    close(fds[0]);
    close(fds[1]);
    close(from);

    CHECK_CODE(introduction_of(hello, (size_t) length, false, 0, &greeted), 0);
    CHECK_INT(greeted, ==, 1);
    CHECK_CODE(introduction_of(hello, (size_t) length, false, 1, &greeted), -EFBIG);
    CHECK_INT(greeted, ==, 1);
    CHECK_CODE(introduction_of(hello, (size_t) length - 1, false, 0, &greeted), -EAGAIN);
    CHECK_INT(greeted, ==, 0);
    CHECK_CODE(introduction_of(hello, (size_t) length - 1, true, 0, &greeted), -ENODATA);
    CHECK_INT(greeted, ==, 0);
    CHECK_CODE(introduction_of(request, sizeof request - 1, false, 0, &greeted), -EPROTO);
    CHECK_INT(greeted, ==, 0);
    hello[100] ^= 1;
    CHECK_CODE(introduction_of(hello, (size_t) length, false, 0, &greeted), -EBADMSG);
    CHECK_INT(greeted, ==, 0);
}

/* Writes signs of life until it is killed. */
static pid_t flood(int fd, const uint8_t *sign, size_t length)
{
    static uint8_t signs[64 * KiB];
    pid_t child = fork();

    REQUIRE(child >= 0);
    if (child > 0)
        return child;
    for (size_t at = 0; at + length <= sizeof signs; at += length)
        memcpy(signs + at, sign, length);
    while (write(fd, signs, sizeof signs / length * length) > 0)
        ;
    _exit(0);
}

/* A sign of life, from a sender whose source is slow. */
static void make_sign(uint8_t sign[32])
{
    uint8_t hello[32 + 144];
    struct side sender;
    ssize_t count = -1;
    int in[2], fds[2];

    REQUIRE(pipe2(in, O_CLOEXEC | O_NONBLOCK) == 0);
    make_socket(fds);
    side_begin(&sender, fd_source(in[0]), to_wire(fds[0], -1, WIRE_OPTIONS(.keepalive_ms = 10)));
    turn(&sender);
    REQUIRE(recv(fds[1], hello, sizeof hello, MSG_DONTWAIT) == sizeof hello);
    for (int i = 0; i < 100 && count < 0; i++) {
        usleep(10000);
        turn(&sender);
        count = recv(fds[1], sign, 32, MSG_DONTWAIT);
    }
    REQUIRE(count == 32);
    side_end(&sender);
    close(in[0]);
    close(in[1]);
    close(fds[0]);
    close(fds[1]);
}

/* The peer sends only signs of life, while the receiver waits for its answer to an offer. */
static void a_flood_of_signs_does_not_keep_a_call(void)
{
    struct sparsestream_wire_options sending = {
        .size = sizeof sending, .flags = SPARSESTREAM_WIRE_RESUME,
    };
    struct sparsestream_wire_options receiving = { .size = sizeof receiving, .resume_offset = 4 * MiB };
    struct sparsestream_wire_info info = { .size = sizeof info };
    int from = image_file(8), fds[2], bounded = 0;
    struct sparsestream_source *source;
    struct side sender;
    uint8_t sign[32];
    pid_t peer;

    make_sign(sign);
    make_socket(fds);
    REQUIRE(fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
    CHECK_CODE(sparsestream_wire_describe(from, 0, 0, &sending), 0);
    memcpy(receiving.identity, sending.identity, sizeof receiving.identity);
    receiving.resume_fd = from;
    side_begin(&sender, fd_source(from), to_wire(fds[0], fds[0], &sending));
    source = from_wire(fds[1], fds[1], &receiving);
    turn(&sender);
    REQUIRE(fcntl(fds[0], F_SETFL, 0) == 0);
    peer = flood(fds[0], sign, sizeof sign);
    for (int i = 0; i < 10000 && bounded < 10; i++) {
        int result = sparsestream_source_wire_info(source, &info);

        CHECK(result == -EINTR || result == -EAGAIN);
        CHECK_INT(info.greeted, ==, 1);
        bounded += result == -EINTR;
        if (result == -EAGAIN)
            poll(&(struct pollfd) { .fd = fds[1], .events = POLLIN }, 1, 100);
    }
    kill(peer, SIGKILL);
    REQUIRE(waitpid(peer, NULL, 0) == peer);
    CHECK_INT(bounded, ==, 10);
    side_end(&sender);
    sparsestream_source_free(source);
    close(from);
    close(fds[0]);
    close(fds[1]);
}

TESTS(
    CASE(it_is_known_whether_a_peer_has_introduced_itself),
    CASE(an_image_comes_over_a_socket),
    CASE(a_pipe_is_enough_one_way),
    CASE(the_receivers_full_disk_is_the_senders_error),
    CASE(a_limit_of_the_receiver_holds),
    CASE(what_is_there_is_not_sent_again),
    CASE(another_source_is_refused_or_sent_from_its_start),
    CASE(a_sender_waits_for_the_answer),
    CASE(a_sender_is_run_when_a_sign_is_due),
    CASE(a_receiver_knows_when_a_sign_is_due),
    CASE(a_flood_of_signs_does_not_keep_a_call),
    CASE(what_cannot_be_is_refused),
    CASE(an_increment_makes_the_new_image_of_the_old),
)
