/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Pipes and sockets as ends: waiting, never waiting, peers that go away, and zeros for holes. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* [0] to read from, [1] to write to. */
typedef void make_pair(int fds[2]);

static void make_pipe(int fds[2])
{
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
}

static void make_socket(int fds[2])
{
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
}

static const struct kind {
    const char *name;
    make_pair *make;
} kinds[] = { { "pipe", make_pipe }, { "socket", make_socket } };

static void set_blocking(int fd, bool blocking)
{
    REQUIRE(fcntl(fd, F_SETFL, blocking ? 0 : O_NONBLOCK) == 0);
}

static void close_both(int fds[2])
{
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

/* Writes until no more fits; the descriptor is in blocking mode afterwards, as before. Returns the bytes. */
static size_t fill_up(int fd)
{
    static const char junk[4096] = { 'j' };
    size_t total = 0;
    ssize_t count;

    set_blocking(fd, false);
    while ((count = write(fd, junk, sizeof junk)) > 0)
        total += (size_t) count;
    while ((count = write(fd, junk, 1)) > 0)
        total++;
    set_blocking(fd, true);
    return total;
}

/* The peer of an end: moves `content` in or out with pauses, then closes. */
struct peer {
    int fd;
    bool reads;
    unsigned char *bytes;
    size_t length, done;
    unsigned pause;
    pthread_t thread;
};

static void *run_peer(void *opaque)
{
    struct peer *peer = opaque;
    size_t step = 1000;

    while (peer->done < peer->length) {
        const size_t left = peer->length - peer->done;
        ssize_t count;

        if (peer->pause != 0)
            usleep(peer->pause);
        count = peer->reads ? read(peer->fd, peer->bytes + peer->done, left < step ? left : step)
                            : write(peer->fd, peer->bytes + peer->done, left < step ? left : step);
        if (count <= 0)
            break;
        peer->done += (size_t) count;
        step = step % 7000 + 999;
    }
    close(peer->fd);
    return NULL;
}

static void start_peer(struct peer *peer, int fd, bool reads, unsigned char *bytes, size_t length)
{
    *peer = (struct peer) { .fd = fd, .reads = reads, .bytes = bytes, .length = length,
                            .pause = 200 };
    REQUIRE((errno = pthread_create(&peer->thread, NULL, run_peer, peer)) == 0);
}

#define SIZE (600 * 1000)

static unsigned char *pattern_of(size_t length)
{
    unsigned char *bytes = malloc(length);

    REQUIRE(bytes != NULL);
    pattern_fill(bytes, length, 1, 0);
    return bytes;
}

static void all_bytes_of_a_slow_writer(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        unsigned char *bytes = pattern_of(SIZE);
        struct content taken = { .count = 0 };
        struct end to = { .to = &taken };
        struct sparsestream_stats stats = { .size = sizeof stats };
        struct sparsestream_source *source;
        struct peer peer;
        int fds[2];

        context("%s", kinds[i].name);
        kinds[i].make(fds);
        source = fd_source(fds[0]);
        start_peer(&peer, fds[1], false, bytes, SIZE);
        CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, &stats), 0);
        pthread_join(peer.thread, NULL);
        CHECK_INT(taken.length, ==, SIZE);
        CHECK_BYTES(taken.bytes, bytes, taken.length < SIZE ? taken.length : SIZE);
        CHECK_INT(taken.count, ==, 1);
        CHECK_INT(stats.total, ==, -1);
        sparsestream_source_free(source);
        close(fds[0]);
        content_free(&taken);
        free(bytes);
    }
}

/* send_all waits on a descriptor in non-blocking mode too. */
static void all_bytes_of_a_descriptor_that_does_not_block(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        unsigned char *bytes = pattern_of(SIZE);
        struct end to = { .to = NULL };
        struct sparsestream_source *source;
        struct peer peer;
        int fds[2];

        context("%s", kinds[i].name);
        kinds[i].make(fds);
        set_blocking(fds[0], false);
        source = fd_source(fds[0]);
        start_peer(&peer, fds[1], false, bytes, SIZE);
        CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL), 0);
        pthread_join(peer.thread, NULL);
        CHECK_INT(to.taken, ==, SIZE);
        CHECK_INT(fcntl(fds[0], F_GETFL) & O_NONBLOCK, !=, 0);
        sparsestream_source_free(source);
        close(fds[0]);
        free(bytes);
    }
}

/* From a file, whose data may go by another way than through a buffer. */
static void all_bytes_of_a_file_to_a_slow_reader(void)
{
    const struct piece pieces[] = { DATA(200000), HOLE(300000), DATA(100000) };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        for (int blocking = 0; blocking < 2; blocking++) {
            unsigned char *bytes = malloc(SIZE + 1), *expected = malloc(SIZE);
            struct sparsestream_transfer *transfer;
            struct sparsestream_source *source;
            struct sparsestream_sink *sink;
            struct peer peer;
            int fds[2], code;
            const int file = file_new("file");

            context("%s, blocking %d", kinds[i].name, blocking);
            REQUIRE(bytes != NULL && expected != NULL);
            file_lay_out(file, 0, pieces, COUNT(pieces), 1);
            REQUIRE(pread(file, expected, SIZE, 0) == SIZE);
            kinds[i].make(fds);
            set_blocking(fds[1], blocking);
            source = fd_source(file);
            sink = fd_sink(fds[1]);
            transfer = new_transfer(source, sink, NULL);
            start_peer(&peer, fds[0], true, bytes, SIZE + 1);
            while ((code = sparsestream_transfer_run(transfer, 0)) == -EAGAIN) {
                struct pollfd polled = { .fd = fds[1], .events = POLLOUT };

                CHECK(!blocking);
                REQUIRE(poll(&polled, 1, 10000) == 1);
            }
            CHECK_CODE(code, 0);
            CHECK_INT(transfer_stats(transfer).data_bytes, ==, SIZE);
            sparsestream_transfer_free(transfer);
            sparsestream_source_free(source);
            sparsestream_sink_free(sink);
            close(fds[1]);
            pthread_join(peer.thread, NULL);
            CHECK_INT(peer.done, ==, SIZE);
            CHECK_BYTES(bytes, expected, SIZE);
            CHECK_INT(file_position(file), ==, 0);
            close(file);
            free(bytes);
            free(expected);
        }
    }
}

static void all_bytes_to_a_slow_reader(void)
{
    const struct piece pieces[] = { DATA(200000), HOLE(300000), DATA(100000) };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        unsigned char *bytes = malloc(SIZE + 1), *expected = pattern_of(SIZE);
        struct content content = { .count = 0 };
        struct end from = { .from = &content };
        struct sparsestream_stats stats = { .size = sizeof stats };
        struct sparsestream_sink *sink;
        struct peer peer;
        int fds[2];

        context("%s", kinds[i].name);
        REQUIRE(bytes != NULL);
        memset(expected + 200000, 0, 300000);
        content_lay_out(&content, pieces, COUNT(pieces), 1);
        kinds[i].make(fds);
        sink = fd_sink(fds[1]);
        start_peer(&peer, fds[0], true, bytes, SIZE + 1);
        CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, &stats), 0);
        sparsestream_sink_free(sink);
        close(fds[1]);
        pthread_join(peer.thread, NULL);
        /* A hole is written as the zeros that it is. */
        CHECK_INT(peer.done, ==, SIZE);
        CHECK_BYTES(bytes, expected, SIZE);
        CHECK_INT(stats.data_bytes, ==, SIZE);
        CHECK_INT(stats.hole_bytes, ==, 0);
        content_free(&content);
        free(bytes);
        free(expected);
    }
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
    (void) number;
    alarms = alarms + 1;
}

/* Signals come in all the time, and interrupt what can be interrupted. */
static void signals_do_not_disturb(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        const suseconds_t interval = 500 * (suseconds_t) harness_slowness();
        const struct itimerval often = { { 0, interval }, { 0, interval } };
        const struct itimerval never = { { 0, 0 }, { 0, 0 } };
        struct sigaction action = { .sa_handler = on_alarm }, before;
        unsigned char *bytes = pattern_of(SIZE), *got = malloc(SIZE + 1);
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer;
        struct peer writer, reader;
        sigset_t set, mask;
        int in[2], out[2];

        context("%s", kinds[i].name);
        REQUIRE(got != NULL);
        kinds[i].make(in);
        kinds[i].make(out);
        source = fd_source(in[0]);
        sink = fd_sink(out[1]);
        transfer = new_transfer(source, sink, NULL);
        /* The peers are not the library's, and are spared. */
        sigemptyset(&set);
        sigaddset(&set, SIGALRM);
        REQUIRE(pthread_sigmask(SIG_BLOCK, &set, &mask) == 0);
        start_peer(&writer, in[1], false, bytes, SIZE);
        start_peer(&reader, out[0], true, got, SIZE + 1);
        REQUIRE(pthread_sigmask(SIG_SETMASK, &mask, NULL) == 0);
        alarms = 0;
        REQUIRE(sigaction(SIGALRM, &action, &before) == 0);
        REQUIRE(setitimer(ITIMER_REAL, &often, NULL) == 0);
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
        REQUIRE(setitimer(ITIMER_REAL, &never, NULL) == 0);
        /* To ignore it is to drop one that is still on its way. */
        REQUIRE(signal(SIGALRM, SIG_IGN) == on_alarm);
        REQUIRE(sigaction(SIGALRM, &before, NULL) == 0);
        CHECK_INT(alarms, >, 0);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        close(in[0]);
        close(out[1]);
        pthread_join(writer.thread, NULL);
        pthread_join(reader.thread, NULL);
        CHECK_INT(reader.done, ==, SIZE);
        CHECK_BYTES(got, bytes, SIZE);
        free(bytes);
        free(got);
    }
}

/* An event loop with poll(2) and sparsestream_transfer_wait, from one descriptor to another, both non-blocking. */
static void an_event_loop_of_descriptors(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        unsigned char *bytes = pattern_of(SIZE), *got = malloc(SIZE + 1);
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer;
        struct peer writer, reader;
        int in[2], out[2], code, waits = 0;

        context("%s", kinds[i].name);
        REQUIRE(got != NULL);
        kinds[i].make(in);
        kinds[i].make(out);
        set_blocking(in[0], false);
        set_blocking(out[1], false);
        source = fd_source(in[0]);
        sink = fd_sink(out[1]);
        transfer = new_transfer(source, sink, NULL);
        /* Nothing is there yet. */
        CHECK_CODE(sparsestream_transfer_run(transfer, 100000), -EAGAIN);
        start_peer(&writer, in[1], false, bytes, SIZE);
        start_peer(&reader, out[0], true, got, SIZE + 1);
        while ((code = sparsestream_transfer_run(transfer, 100000)) == 1 || code == -EAGAIN) {
            struct sparsestream_wait wait = { .size = sizeof wait };
            struct pollfd polled;

            if (code == 1)
                continue;
            waits++;
            CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
            CHECK_INT(wait.fd, ==, wait.side == SPARSESTREAM_SIDE_SOURCE ? in[0] : out[1]);
            polled = (struct pollfd) { .fd = wait.fd, .events = (short) wait.events };
            CHECK_INT(poll(&polled, 1, 10000), ==, 1);
        }
        CHECK_CODE(code, 0);
        /* Each wait was for something: it does not spin. */
        CHECK_INT(waits, <, SIZE / 100);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        close(in[0]);
        close(out[1]);
        pthread_join(writer.thread, NULL);
        pthread_join(reader.thread, NULL);
        CHECK_INT(reader.done, ==, SIZE);
        CHECK_BYTES(got, bytes, SIZE);
        free(bytes);
        free(got);
    }
}

/* With a budget no call waits, though both descriptors are in blocking mode and stay so. */
static void a_budget_never_waits(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        static char buffer[MiB];
        struct sparsestream_wait wait = { .size = sizeof wait };
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer;
        int in[2], out[2], code;
        int64_t begun;

        context("%s", kinds[i].name);
        kinds[i].make(in);
        kinds[i].make(out);
        fill_up(out[1]);
        source = fd_source(in[0]);
        sink = fd_sink(out[1]);
        transfer = new_transfer(source, sink, NULL);
        begun = harness_now();
        CHECK_CODE(sparsestream_transfer_run(transfer, MiB), -EAGAIN);
        CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
        CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_SOURCE);
        CHECK_INT(wait.fd, ==, in[0]);
        CHECK_INT(wait.events, ==, POLLIN);
        REQUIRE(write(in[1], buffer, 50000) == 50000);
        CHECK_CODE(sparsestream_transfer_run(transfer, MiB), -EAGAIN);
        CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
        CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_SINK);
        CHECK_INT(wait.fd, ==, out[1]);
        CHECK_INT(wait.events, ==, POLLOUT);
        /* Room for a part only: what does not fit is not waited for. */
        REQUIRE(read(out[0], buffer, 8192) > 0);
        while ((code = sparsestream_transfer_run(transfer, MiB)) == 1)
            ;
        CHECK_CODE(code, -EAGAIN);
        CHECK_INT(harness_now() - begun, <, 2000 * harness_slowness());
        CHECK_INT(fcntl(in[0], F_GETFL) & O_NONBLOCK, ==, 0);
        CHECK_INT(fcntl(out[1], F_GETFL) & O_NONBLOCK, ==, 0);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        close_both(in);
        close_both(out);
    }
}

/* Who shares the open file may change its mode at any time: a budget is kept all the same. */
static void a_budget_never_waits_whatever_the_mode_was(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        const int file = file_new("file");
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer;
        int fds[2], code;
        int64_t begun;

        context("%s", kinds[i].name);
        file_fill(file, 0, 2 * MiB, 1);
        kinds[i].make(fds);
        set_blocking(fds[1], false);
        source = fd_source(file);
        sink = fd_sink(fds[1]);
        transfer = new_transfer(source, sink, NULL);
        set_blocking(fds[1], true);
        begun = harness_now();
        while ((code = sparsestream_transfer_run(transfer, 65536)) == 1)
            ;
        CHECK_CODE(code, -EAGAIN);
        CHECK_INT(harness_now() - begun, <, 2000 * harness_slowness());
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        close_both(fds);
        close(file);
    }
}

/* Without a budget a blocking descriptor is waited for, one that is not gives -EAGAIN. */
static void no_budget_waits_for_blocking_descriptors_only(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        unsigned char *bytes = pattern_of(5000);
        struct end to = { .to = NULL };
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer;
        struct peer peer;
        int fds[2];

        context("%s", kinds[i].name);
        kinds[i].make(fds);
        set_blocking(fds[0], false);
        source = fd_source(fds[0]);
        sink = end_sink(&to);
        transfer = new_transfer(source, sink, NULL);
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EAGAIN);
        /* The mode is looked at as it is now. */
        set_blocking(fds[0], true);
        start_peer(&peer, fds[1], false, bytes, 5000);
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
        pthread_join(peer.thread, NULL);
        CHECK_INT(to.taken, ==, 5000);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        close(fds[0]);
        free(bytes);
    }
}

/* Sends a source to a descriptor whose peer has closed its end. */
static void check_reader_has_gone(int fd, struct sparsestream_source *source)
{
    struct sparsestream_sink *sink = fd_sink(fd);
    struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL);
    struct sigaction action;
    sigset_t pending;

    /* The process would die of SIGPIPE. */
    REQUIRE(sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EPIPE);
    CHECK_INT(transfer_error(transfer).side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(transfer_error(transfer).operation, ==, SPARSESTREAM_OPERATION_WRITE);
    REQUIRE(sigpending(&pending) == 0);
    CHECK_INT(sigismember(&pending, SIGPIPE), ==, 0);
    sparsestream_transfer_free(transfer);
    sparsestream_sink_free(sink);
}

static void a_reader_that_has_left(void)
{
    const struct piece pieces[] = { DATA(100000), HOLE(100000) };
    const int file = file_new("file");

    file_fill(file, 0, 100000, 1);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        for (int blocking = 0; blocking < 2; blocking++) {
            struct sparsestream_source *source;
            int fds[2];

            kinds[i].make(fds);
            close(fds[0]);
            fds[0] = -1;
            set_blocking(fds[1], blocking);
            for (size_t j = 0; j < COUNT(pieces); j++) {
                struct content content = { .count = 0 };
                struct end from = { .from = &content };

                context("%s, %s, blocking %d", kinds[i].name, j == 0 ? "data" : "hole", blocking);
                content_lay_out(&content, pieces + j, 1, 1);
                source = end_stream_source(&from);
                check_reader_has_gone(fds[1], source);
                CHECK_INT(from.aborts, ==, 1);
                CHECK_INT(from.abort_error, ==, EPIPE);
                sparsestream_source_free(source);
                content_free(&content);
            }
            context("%s, file, blocking %d", kinds[i].name, blocking);
            source = fd_source(file);
            check_reader_has_gone(fds[1], source);
            sparsestream_source_free(source);
            close_both(fds);
        }
    }
    close(file);
}

static volatile sig_atomic_t pipes_signalled;

static void on_pipe_signal(int number)
{
    (void) number;
    pipes_signalled = 1;
}

/* The caller's handler is not called for what the library does, and its pending signal is left pending. */
static void the_callers_sigpipe_is_its_own(void)
{
    struct sigaction action = { .sa_handler = on_pipe_signal }, before;
    struct sparsestream_sink *sink;
    sigset_t set, mask, pending;
    int fds[2];

    REQUIRE(sigaction(SIGPIPE, &action, &before) == 0);
    make_pipe(fds);
    close(fds[0]);
    fds[0] = -1;
    sink = fd_sink(fds[1]);
    CHECK_CODE(sparsestream_sink_write(sink, "abc", 3), -EPIPE);
    CHECK_INT(pipes_signalled, ==, 0);

    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    REQUIRE(sigprocmask(SIG_BLOCK, &set, &mask) == 0);
    REQUIRE(raise(SIGPIPE) == 0);
    CHECK_CODE(sparsestream_sink_write(sink, "abc", 3), -EPIPE);
    REQUIRE(sigpending(&pending) == 0);
    CHECK_INT(sigismember(&pending, SIGPIPE), ==, 1);
    REQUIRE(sigprocmask(SIG_SETMASK, &mask, NULL) == 0);
    CHECK_INT(pipes_signalled, ==, 1);
    sparsestream_sink_free(sink);
    close_both(fds);
    REQUIRE(sigaction(SIGPIPE, &before, NULL) == 0);
}

static void a_writer_that_ends_too_early(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct end to = { .to = NULL };
        struct sparsestream_source *source = NULL;
        struct sparsestream_sink *sink = end_stream_sink(&to);
        struct sparsestream_transfer *transfer;
        struct sparsestream_error error;
        int fds[2];

        context("%s", kinds[i].name);
        kinds[i].make(fds);
        REQUIRE(write(fds[1], "0123456789", 10) == 10);
        close(fds[1]);
        fds[1] = -1;
        CHECK_CODE(sparsestream_source_from_fd(fds[0], SOURCE_OPTIONS(.length = 11), &source), 0);
        transfer = new_transfer(source, sink, NULL);
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), -ENODATA);
        CHECK_INT(transfer_stats(transfer).total, ==, 11);
        error = transfer_error(transfer);
        CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SOURCE);
        CHECK_INT(error.offset, ==, 10);
        CHECK_INT(error.expected, ==, 11);
        CHECK_INT(to.taken, ==, 10);
        CHECK_INT(to.aborts, ==, 1);
        CHECK_INT(to.finishes, ==, 0);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        close_both(fds);
    }
}

/* Bytes behind the length are not read: they belong to the protocol. */
static void no_byte_behind_the_length_is_read(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct end to = { .to = NULL };
        struct sparsestream_source *source = NULL;
        char rest[10] = "";
        int fds[2];

        context("%s", kinds[i].name);
        kinds[i].make(fds);
        REQUIRE(write(fds[1], "0123456789", 10) == 10);
        CHECK_CODE(sparsestream_source_from_fd(fds[0], SOURCE_OPTIONS(.length = 7), &source), 0);
        CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL), 0);
        CHECK_INT(to.taken, ==, 7);
        CHECK_INT(read(fds[0], rest, sizeof rest), ==, 3);
        CHECK_STR(rest, "789");
        sparsestream_source_free(source);
        close_both(fds);
    }
}

static void a_limit_on_what_is_written(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct content content = { .count = 0 };
        struct end from = { .from = &content };
        struct sparsestream_sink *sink = NULL;
        int fds[2], waiting;

        context("%s", kinds[i].name);
        content_lay_out(&content, (struct piece[]) { DATA(10), HOLE(20) }, 2, 1);
        kinds[i].make(fds);
        CHECK_CODE(sparsestream_sink_to_fd(fds[1], SINK_OPTIONS(.length = 29), &sink), 0);
        CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, NULL), -EFBIG);
        sparsestream_sink_free(sink);
        REQUIRE(ioctl(fds[0], FIONREAD, &waiting) == 0);
        CHECK_INT(waiting, <=, 29);
        close_both(fds);
        content_free(&content);
    }
}

static void what_a_stream_cannot_have(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct sparsestream_source *source = (void *) 1;
        struct sparsestream_sink *sink = (void *) 1;
        int fds[2];

        context("%s", kinds[i].name);
        kinds[i].make(fds);
        CHECK_CODE(sparsestream_source_from_fd(fds[0], SOURCE_OPTIONS(.offset = 1), &source),
                   -ESPIPE);
        CHECK(source == NULL);
        CHECK_CODE(sparsestream_sink_to_fd(fds[1], SINK_OPTIONS(.offset = 1), &sink), -ESPIPE);
        CHECK(sink == NULL);
        /* Nothing here can be made durable. */
        CHECK_CODE(sparsestream_sink_to_fd(fds[1], SINK_OPTIONS(.flags = SPARSESTREAM_SYNC), &sink),
                   -ESPIPE);
        CHECK(sink == NULL);
        CHECK_CODE(sparsestream_sink_to_fd(fds[1], SINK_OPTIONS(.sync_interval = 1), &sink),
                   -ESPIPE);
        close_both(fds);
    }
}

static void a_pipes_ends_have_a_direction(void)
{
    struct sparsestream_source *source = (void *) 1;
    struct sparsestream_sink *sink = (void *) 1;
    int fds[2];

    make_pipe(fds);
    CHECK_CODE(sparsestream_source_from_fd(fds[1], NULL, &source), -EBADF);
    CHECK_CODE(sparsestream_sink_to_fd(fds[0], NULL, &sink), -EBADF);
    CHECK(source == NULL && sink == NULL);
    close_both(fds);
}

static void check_coming(struct sparsestream_source *source, int code, int kind, int64_t length)
{
    struct sparsestream_section section = { .size = sizeof section };

    CHECK_CODE(sparsestream_source_section(source, &section), code);
    if (code == 0) {
        CHECK_INT(section.kind, ==, kind);
        CHECK_INT(section.length, ==, length);
    }
}

static void check_wait(struct sparsestream_source *source, int timeout, int fd, int events)
{
    struct sparsestream_wait wait = { .size = sizeof wait };

    CHECK_CODE(sparsestream_source_wait(source, &wait), 0);
    CHECK_INT(wait.timeout_ms, ==, timeout);
    CHECK_INT(wait.count, ==, fd >= 0);
    CHECK_INT(wait.fd, ==, fd);
    CHECK_INT(wait.events, ==, events);
    CHECK_INT(wait.side, ==, fd >= 0 ? SPARSESTREAM_SIDE_SOURCE : SPARSESTREAM_SIDE_NONE);
    if (fd >= 0) {
        CHECK_INT(wait.fds[0].fd, ==, fd);
        CHECK_INT(wait.fds[0].events, ==, events);
    }
}

static void pipes_driven_by_hand(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        char buffer[100];
        int fds[2];

        context("%s", kinds[i].name);
        kinds[i].make(fds);
        set_blocking(fds[0], false);
        source = fd_source(fds[0]);
        sink = fd_sink(fds[1]);
        check_wait(source, 0, -1, 0);
        check_coming(source, -EAGAIN, 0, 0);
        check_wait(source, -1, fds[0], POLLIN);
        CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), -EAGAIN);
        check_wait(source, -1, fds[0], POLLIN);
        CHECK_CODE(sparsestream_sink_write(sink, "hello", 5), 5);
        CHECK_CODE(sparsestream_sink_hole(sink, 5), -EOPNOTSUPP);
        /* A look takes nothing, and is ready when the read is. */
        check_coming(source, 0, SPARSESTREAM_DATA, -1);
        check_wait(source, 0, -1, 0);
        CHECK_CODE(sparsestream_source_read(source, buffer, 2), 2);
        check_coming(source, 0, SPARSESTREAM_DATA, -1);
        CHECK_CODE(sparsestream_source_read(source, buffer + 2, sizeof buffer), 3);
        CHECK_BYTES(buffer, "hello", 5);
        check_coming(source, -EAGAIN, 0, 0);
        CHECK_CODE(sparsestream_sink_write(sink, "x", 1), 1);
        CHECK_CODE(sparsestream_sink_finish(sink), 0);
        close(fds[1]);
        fds[1] = -1;
        /* The remaining byte comes before the end. */
        check_coming(source, 0, SPARSESTREAM_DATA, -1);
        CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 1);
        check_coming(source, 0, SPARSESTREAM_END, 0);
        CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 0);
        CHECK_CODE(sparsestream_source_finish(source), 0);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        close_both(fds);
    }
}

static void character_devices(void)
{
    const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    struct sparsestream_source *source = NULL;
    struct sparsestream_transfer *transfer;
    struct sparsestream_sink *sink;

    if (zero < 0 || null < 0 || full < 0)
        skip("no /dev/zero, /dev/null or /dev/full");
    CHECK_CODE(sparsestream_source_from_fd(zero, SOURCE_OPTIONS(.length = 5 * MiB), &source), 0);
    sink = fd_sink(null);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_INT(transfer_stats(transfer).data_bytes, ==, 5 * MiB);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);

    CHECK_CODE(sparsestream_source_from_fd(zero, SOURCE_OPTIONS(.length = 5), &source), 0);
    sink = fd_sink(full);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -ENOSPC);
    CHECK_INT(transfer_error(transfer).side, ==, SPARSESTREAM_SIDE_SINK);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(zero);
    close(null);
    close(full);
}

TESTS(
    CASE(all_bytes_of_a_slow_writer),
    CASE(all_bytes_of_a_descriptor_that_does_not_block),
    CASE(all_bytes_of_a_file_to_a_slow_reader),
    CASE(all_bytes_to_a_slow_reader),
    CASE(signals_do_not_disturb),
    CASE(an_event_loop_of_descriptors),
    CASE(a_budget_never_waits),
    CASE_WITHIN(a_budget_never_waits_whatever_the_mode_was, 8),
    CASE(no_budget_waits_for_blocking_descriptors_only),
    CASE(a_reader_that_has_left),
    CASE(the_callers_sigpipe_is_its_own),
    CASE(a_writer_that_ends_too_early),
    CASE(no_byte_behind_the_length_is_read),
    CASE(a_limit_on_what_is_written),
    CASE(what_a_stream_cannot_have),
    CASE(a_pipes_ends_have_a_direction),
    CASE(pipes_driven_by_hand),
    CASE(character_devices),
)
