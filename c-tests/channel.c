/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The channel: a worker thread at one end, an event loop at the other. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct piece sample[] = { DATA(300000), HOLE(1000000), DATA(7), KEEP(60000), HOLE(300), KEEP(5),
                                       DATA(200000), KEEP(1) };

/* A transfer into a channel, one out of it, and the ends of both. */
struct line {
    struct content content, taken;
    struct end from, to;
    struct sparsestream_transfer *in, *out;
    int result;
};

static void line_open(struct line *line, const struct piece *pieces, size_t count,
                      const struct sparsestream_channel_options *options)
{
    struct sparsestream_sink *sink = NULL, *last = NULL;
    struct sparsestream_source *source = NULL, *first = NULL;

    memset(line, 0, sizeof *line);
    content_lay_out(&line->content, pieces, count, 3);
    line->from.from = &line->content;
    line->to.to = &line->taken;
    REQUIRE(sparsestream_channel(options, &sink, &source) == 0);
    REQUIRE(sparsestream_source_from_callbacks(&end_keeping_source_ops, &line->from, &first) == 0);
    REQUIRE(sparsestream_sink_to_callbacks(&end_keeping_sink_ops, &line->to, &last) == 0);
    line->in = new_transfer(first, sink, NULL);
    line->out = new_transfer(source, last, NULL);
    /* The transfers hold them. */
    sparsestream_source_free(first);
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    sparsestream_sink_free(last);
}

static void line_close(struct line *line)
{
    sparsestream_transfer_free(line->in);
    sparsestream_transfer_free(line->out);
    CHECK_INT(line->from.frees, ==, 1);
    CHECK_INT(line->to.frees, ==, 1);
    CHECK_INT(line->from.finishes + line->from.aborts, ==, 1);
    CHECK_INT(line->to.finishes + line->to.aborts, ==, 1);
    content_free(&line->content);
    content_free(&line->taken);
}

static void *run_in(void *opaque)
{
    struct line *line = opaque;

    line->result = sparsestream_transfer_run(line->in, 0);
    return NULL;
}

static pthread_t start(void *(*function)(void *), void *opaque)
{
    pthread_t thread;

    REQUIRE((errno = pthread_create(&thread, NULL, function, opaque)) == 0);
    return thread;
}

/* Runs a transfer, without waiting, as far as it goes. */
static int run_on(struct sparsestream_transfer *transfer)
{
    int code;

    while ((code = sparsestream_transfer_run(transfer, 65536)) == 1)
        ;
    return code;
}

/* Waits for what a transfer waits for. */
static void wait_for(struct sparsestream_transfer *transfer)
{
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct pollfd entry;

    CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
    CHECK_INT(wait.count, ==, 1);
    CHECK_INT(wait.events, ==, POLLIN);
    entry = (struct pollfd) { .fd = wait.fd, .events = POLLIN };
    CHECK_INT(poll(&entry, 1, 20000), ==, 1);
}

/* Whether it would wait. */
static bool waits(struct sparsestream_transfer *transfer)
{
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct pollfd entry;

    CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
    entry = (struct pollfd) { .fd = wait.fd, .events = POLLIN };
    return poll(&entry, 1, 0) == 0;
}

static void a_stream_crosses_to_another_thread(void)
{
    for (int turn = 0; turn < 6; turn++) {
        const struct sparsestream_channel_options small = { .size = sizeof small, .capacity = 131072 };
        struct line line;
        pthread_t worker;
        int code, again = 0;

        context("turn %d", turn);
        line_open(&line, sample, COUNT(sample), turn % 2 == 0 ? NULL : &small);
        line.from.most = turn < 2 ? 0 : 5000;
        line.to.most = turn < 4 ? 0 : 3000;
        worker = start(run_in, &line);
        while ((code = sparsestream_transfer_run(line.out, 65536)) != 0) {
            if (code == -EAGAIN) {
                again++;
                wait_for(line.out);
            } else if (code != 1) {
                break;
            }
        }
        CHECK_CODE(code, 0);
        pthread_join(worker, NULL);
        CHECK_CODE(line.result, 0);
        CHECK_CONTENT(&line.taken, &line.content);
        CHECK_INT(again, <, 3000);
        CHECK_INT(transfer_stats(line.out).keep_bytes, ==, 60006);
        CHECK_INT(transfer_stats(line.in).keep_bytes, ==, 60006);
        line_close(&line);
    }
}

/* Success is known at the sending side only when the receiving side has stored everything. */
static void the_sink_is_finished_when_the_other_side_is(void)
{
    struct line line;

    line_open(&line, (struct piece[]) { DATA(1000), HOLE(5) }, 2, NULL);
    CHECK_CODE(run_on(line.out), -EAGAIN);
    CHECK(waits(line.out));
    CHECK_CODE(run_on(line.in), -EAGAIN);
    CHECK_INT(line.from.finishes, ==, 0);
    CHECK(waits(line.in));
    CHECK(!waits(line.out));
    CHECK_CODE(run_on(line.out), 0);
    CHECK_INT(line.to.finishes, ==, 1);
    CHECK_CODE(run_on(line.in), 0);
    CHECK_INT(line.from.finishes, ==, 1);
    line_close(&line);
}

/* The total is known at the receiving side. */
static void the_total_crosses(void)
{
    const int in = file_in_memory();
    struct sparsestream_source_info info = { .size = sizeof info };
    struct sparsestream_section section = { .size = sizeof section };
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_source *source = NULL, *file;
    struct sparsestream_transfer *transfer;

    file_fill(in, 0, 5000, 1);
    file = fd_source(in);
    REQUIRE(sparsestream_channel(NULL, &sink, &source) == 0);
    CHECK_CODE(sparsestream_source_describe(source, &info), -EAGAIN);
    CHECK_CODE(sparsestream_source_section(source, &section), -EAGAIN);
    transfer = new_transfer(file, sink, NULL);
    CHECK_CODE(run_on(transfer), -EAGAIN);
    CHECK_CODE(sparsestream_source_describe(source, &info), 0);
    CHECK_INT(info.total, ==, 5000);
    CHECK_INT(info.flags, ==, SPARSESTREAM_WITH_HOLES);
    CHECK_CODE(sparsestream_source_section(source, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_DATA);
    CHECK_INT(section.length, ==, -1);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(file);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(in);
}

static void a_failure_crosses_with_its_words(void)
{
    struct line line;
    struct sparsestream_error error;

    /* From the receiving side to the sending one. */
    line_open(&line, sample, COUNT(sample), NULL);
    line.to.fault_letter = 'w';
    line.to.fault_call = 1;
    line.to.fault = -ENOSPC;
    CHECK_CODE(sparsestream_transfer_run(line.in, 1), 1);
    CHECK_CODE(sparsestream_transfer_run(line.out, 0), -ENOSPC);
    CHECK_CODE(sparsestream_transfer_run(line.in, 0), -ENOSPC);
    error = transfer_error(line.in);
    CHECK_INT(error.peer, ==, 1);
    CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_WRITE);
    CHECK_INT(error.offset, ==, 0);
    CHECK_CONTAINS(error.message, strerror(ENOSPC));
    CHECK_INT(line.from.abort_error, ==, ENOSPC);
    line_close(&line);

    /* And back, with words of the caller's. */
    line_open(&line, sample, COUNT(sample), NULL);
    CHECK_CODE(sparsestream_transfer_run(line.in, 1), 1);
    CHECK_CODE(sparsestream_transfer_fail(line.in, EREMOTEIO, "the disk was pulled"), 0);
    CHECK_CODE(sparsestream_transfer_run(line.in, 1), -EREMOTEIO);
    CHECK_CODE(sparsestream_transfer_run(line.out, 0), -EREMOTEIO);
    error = transfer_error(line.out);
    CHECK_INT(error.peer, ==, 1);
    CHECK_CONTAINS(error.message, "the disk was pulled");
    CHECK_INT(line.to.abort_error, ==, EREMOTEIO);
    line_close(&line);

    /* The last step, too. */
    line_open(&line, (struct piece[]) { DATA(10) }, 1, NULL);
    line.to.fault_letter = 'F';
    line.to.fault_call = 1;
    line.to.fault = -EDQUOT;
    CHECK_CODE(run_on(line.in), -EAGAIN);
    CHECK_CODE(run_on(line.out), -EDQUOT);
    CHECK_CODE(run_on(line.in), -EDQUOT);
    line_close(&line);
}

static void an_end_that_is_freed_cancels_the_other(void)
{
    for (int side = 0; side < 2; side++) {
        struct line line;

        line_open(&line, sample, COUNT(sample), NULL);
        CHECK_CODE(sparsestream_transfer_run(line.in, 1), 1);
        if (side == 0) {
            sparsestream_transfer_free(line.in);
            line.in = NULL;
            CHECK_CODE(sparsestream_transfer_run(line.out, 0), -ECANCELED);
            CHECK_INT(line.to.abort_error, ==, ECANCELED);
        } else {
            sparsestream_transfer_free(line.out);
            line.out = NULL;
            CHECK_CODE(sparsestream_transfer_run(line.in, 0), -ECANCELED);
            CHECK_INT(line.from.abort_error, ==, ECANCELED);
            line.to.aborts = 1;
        }
        if (side == 1)
            line.to.finishes = 0;
        line_close(&line);
    }
}

static void no_more_is_held_than_it_may(void)
{
    const struct sparsestream_channel_options options = { .size = sizeof options, .capacity = 131072 };
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_source *source = NULL;
    struct sparsestream_wait wait = { .size = sizeof wait };
    char buffer[10000] = "";
    int64_t held = 0, n;
    int before;

    REQUIRE(sparsestream_channel(&options, &sink, &source) == 0);
    while ((n = sparsestream_sink_write(sink, buffer, sizeof buffer)) > 0)
        held += n;
    CHECK_CODE(n, -EAGAIN);
    CHECK_INT(held, ==, 131072);
    CHECK_CODE(sparsestream_sink_hole(sink, 1), -EAGAIN);
    CHECK_CODE(sparsestream_sink_wait(sink, &wait), 0);
    CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(poll(&(struct pollfd) { .fd = wait.fd, .events = POLLIN }, 1, 0), ==, 0);
    before = 0;
    /* Not for each piece that is taken. */
    while (poll(&(struct pollfd) { .fd = wait.fd, .events = POLLIN }, 1, 0) == 0) {
        CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer) > 0, 1);
        before++;
    }
    CHECK_INT(before, >, 5);
    CHECK_CODE(sparsestream_sink_write(sink, buffer, sizeof buffer), sizeof buffer);
    CHECK_CODE(sparsestream_sink_keep(sink, 5), -EPROTO);
    sparsestream_sink_free(sink);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), -ECANCELED);
    sparsestream_source_free(source);
}

static void arguments_are_checked(void)
{
    struct sparsestream_channel_options options = { .size = sizeof options };
    struct sparsestream_sink *sink = (void *) &options;
    struct sparsestream_source *source = (void *) &options;

    CHECK_CODE(sparsestream_channel(NULL, NULL, &source), -EINVAL);
    CHECK(source == NULL);
    CHECK_CODE(sparsestream_channel(NULL, &sink, NULL), -EINVAL);
    CHECK(sink == NULL);
    options.flags = 1;
    CHECK_CODE(sparsestream_channel(&options, &sink, &source), -EINVAL);
    options.flags = 0;
    options.capacity = 131071;
    CHECK_CODE(sparsestream_channel(&options, &sink, &source), -EINVAL);
    options.capacity = (64 << 20) + 1;
    CHECK_CODE(sparsestream_channel(&options, &sink, &source), -EINVAL);
    CHECK(sink == NULL && source == NULL);
}

/*
 * Many at once: a worker with a loop of its own reads files, the main thread's loop takes from the channels.
 * While nothing moves, no thread runs.
 */

enum { LINES = 256 };

struct many {
    struct line lines[LINES];
    int gates[LINES]; /* the descriptors that the sources of the lines wait for */
    int stop;
    atomic_int runs;
};

struct gated {
    struct many *many;
    int number;
    int64_t given;
};

static struct gated gated[LINES];

#define GATED_BYTES 200000

/* Gives its bytes once its gate is open. */
static int64_t gated_read(void *opaque, void *buffer, size_t length)
{
    struct gated *end = opaque;
    struct pollfd entry = { .fd = end->many->gates[end->number], .events = POLLIN };

    if (end->given == GATED_BYTES)
        return 0;
    if (poll(&entry, 1, 0) != 1)
        return -EAGAIN;
    if ((int64_t) length > GATED_BYTES - end->given)
        length = (size_t) (GATED_BYTES - end->given);
    pattern_fill(buffer, length, (unsigned) end->number, end->given);
    end->given += (int64_t) length;
    return (int64_t) length;
}

static int gated_wait(void *opaque, struct sparsestream_wait *wait)
{
    struct gated *end = opaque;

    wait->fd = end->many->gates[end->number];
    wait->events = POLLIN;
    return 0;
}

static const struct sparsestream_source_ops gated_ops = {
    .size = sizeof gated_ops, .read = gated_read, .wait = gated_wait,
};

/* Runs a transfer until it waits, and watches what it waits for. Returns whether it has ended. */
static bool turn(struct many *many, struct sparsestream_transfer *transfer, int epoll, uint32_t number)
{
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u32 = number };
    int code;

    do {
        code = sparsestream_transfer_run(transfer, 65536);
        atomic_fetch_add(&many->runs, 1);
    } while (code == 1);
    if (code != -EAGAIN) {
        CHECK_CODE(code, 0);
        return true;
    }
    CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
    CHECK_INT(wait.fd, >=, 0);
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, wait.fd, &event) != 0)
        REQUIRE(epoll_ctl(epoll, EPOLL_CTL_ADD, wait.fd, &event) == 0);
    return false;
}

static void loop(struct many *many, bool worker, int stop)
{
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[64], event = { .events = EPOLLIN, .data.u32 = LINES };
    bool done[LINES] = { false };
    int left = LINES;

    REQUIRE(epoll >= 0);
    REQUIRE(epoll_ctl(epoll, EPOLL_CTL_ADD, stop, &event) == 0);
    for (uint32_t i = 0; i < LINES; i++)
        (void) turn(many, worker ? many->lines[i].in : many->lines[i].out, epoll, i);
    while (left > 0) {
        const int count = epoll_wait(epoll, events, COUNT(events), 60000);

        REQUIRE(count > 0);
        for (int i = 0; i < count; i++) {
            const uint32_t number = events[i].data.u32;

            if (number == LINES) {
                left = 0;
            } else if (!done[number]
                       && turn(many, worker ? many->lines[number].in : many->lines[number].out, epoll, number)) {
                done[number] = true;
                left--;
            }
        }
    }
    close(epoll);
}

static void *work(void *opaque)
{
    struct many *many = opaque;

    loop(many, true, many->stop);
    return NULL;
}

static void *take(void *opaque)
{
    struct many *many = opaque;

    loop(many, false, many->stop);
    return NULL;
}

static double processor_time(void)
{
    struct rusage usage;

    REQUIRE(getrusage(RUSAGE_SELF, &usage) == 0);
    return (double) usage.ru_utime.tv_sec + (double) usage.ru_stime.tv_sec
           + ((double) usage.ru_utime.tv_usec + (double) usage.ru_stime.tv_usec) / 1e6;
}

static void many_open(struct many *many)
{
    memset(many, 0, sizeof *many);
    REQUIRE((many->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0);
    for (int i = 0; i < LINES; i++) {
        struct line *line = &many->lines[i];
        struct sparsestream_sink *sink = NULL, *last = NULL;
        struct sparsestream_source *source = NULL, *first = NULL;

        REQUIRE((many->gates[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0);
        gated[i] = (struct gated) { .many = many, .number = i };
        line->to.to = &line->taken;
        REQUIRE(sparsestream_channel(&(struct sparsestream_channel_options) {
                                         .size = sizeof(struct sparsestream_channel_options),
                                         .capacity = 131072 }, &sink, &source) == 0);
        REQUIRE(sparsestream_source_from_callbacks(&gated_ops, &gated[i], &first) == 0);
        REQUIRE(sparsestream_sink_to_callbacks(&end_keeping_sink_ops, &line->to, &last) == 0);
        line->in = new_transfer(first, sink, TRANSFER_OPTIONS(.buffer_size = 65536));
        line->out = new_transfer(source, last, TRANSFER_OPTIONS(.buffer_size = 65536));
        sparsestream_source_free(first);
        sparsestream_sink_free(sink);
        sparsestream_source_free(source);
        sparsestream_sink_free(last);
    }
}

/* The other side may have seen the end: anything put in after it would be lost. */
static void nothing_is_taken_after_the_end(void)
{
    char byte = 'x';
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_source *source = NULL;

    REQUIRE(sparsestream_channel(NULL, &sink, &source) == 0);
    CHECK_CODE(sparsestream_sink_write(sink, &byte, 1), 1);
    CHECK_CODE(sparsestream_sink_finish(sink), -EAGAIN);
    CHECK_CODE(sparsestream_source_read(source, &byte, 1), 1);
    CHECK_CODE(sparsestream_source_read(source, &byte, 1), 0);
    CHECK_CODE(sparsestream_sink_write(sink, &byte, 1), -ESHUTDOWN);
    CHECK_CODE(sparsestream_sink_hole(sink, 1), -ESHUTDOWN);
    CHECK_CODE(sparsestream_sink_finish(sink), -EAGAIN);
    CHECK_CODE(sparsestream_source_finish(source), 0);
    CHECK_CODE(sparsestream_sink_finish(sink), 0);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

/* A reader that finishes early has not received everything. */
static void a_sink_fails_if_not_all_of_it_was_taken(void)
{
    for (int round = 0; round < 4; round++) {
        const bool ended = round & 1, held = round & 2;
        char bytes[4] = "abc";
        struct sparsestream_sink *sink = NULL;
        struct sparsestream_source *source = NULL;

        context("ended %d, held %d", ended, held);
        REQUIRE(sparsestream_channel(NULL, &sink, &source) == 0);
        CHECK_CODE(sparsestream_sink_write(sink, bytes, 3), 3);
        if (!held)
            CHECK_CODE(sparsestream_sink_hole(sink, 5), 5);
        if (ended)
            CHECK_CODE(sparsestream_sink_finish(sink), -EAGAIN);
        CHECK_CODE(sparsestream_source_read(source, bytes, held ? 2 : 3), held ? 2 : 3);
        CHECK_CODE(sparsestream_source_finish(source), 0);
        CHECK_CODE(sparsestream_sink_finish(sink), -EPIPE);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
    }
}

static void more_descriptors(void)
{
    struct rlimit limit;

    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < 4 * LINES) {
        limit.rlim_cur = limit.rlim_max < 8 * LINES ? limit.rlim_max : 8 * LINES;
        if (limit.rlim_cur < 4 * LINES || setrlimit(RLIMIT_NOFILE, &limit) != 0)
            skip("%d descriptors cannot be opened", 4 * LINES);
    }
}

static void many_cross_at_once_and_nobody_spins(void)
{
    static struct many many;
    const uint64_t one = 1;
    pthread_t worker, taker;
    double before, idle;
    int runs;

    more_descriptors();
    many_open(&many);
    worker = start(work, &many);
    taker = start(take, &many);
    /* All of them wait, however long it takes to get there. */
    do {
        runs = atomic_load(&many.runs);
        usleep(200000 * harness_slowness());
    } while (atomic_load(&many.runs) != runs || runs < 2 * LINES);
    before = processor_time();
    usleep(1000000);
    idle = processor_time() - before;
    CHECK_INT(atomic_load(&many.runs), ==, runs);
    if (harness_slowness() == 1)
        CHECK_INT((int64_t) (idle * 1000000), <, 10000);
    /* All of them move. */
    for (int i = 0; i < LINES; i++)
        REQUIRE(write(many.gates[i], &one, sizeof one) == sizeof one);
    pthread_join(worker, NULL);
    pthread_join(taker, NULL);
    /* 200,000 bytes in pieces of 64 KiB are some turns for either side, not hundreds. */
    CHECK_INT(atomic_load(&many.runs), <, LINES * 60);
    for (int i = 0; i < LINES; i++) {
        struct line *line = &many.lines[i];
        unsigned char expected[1000];

        CHECK_INT(line->taken.length, ==, GATED_BYTES);
        pattern_fill(expected, sizeof expected, (unsigned) i, GATED_BYTES - 1000);
        if (line->taken.length == GATED_BYTES)
            CHECK_BYTES(line->taken.bytes + GATED_BYTES - 1000, expected, sizeof expected);
        sparsestream_transfer_free(line->in);
        sparsestream_transfer_free(line->out);
        CHECK_INT(line->to.finishes, ==, 1);
        CHECK_INT(line->to.frees, ==, 1);
        content_free(&line->taken);
        close(many.gates[i]);
    }
    close(many.stop);
}

/* A cancel at either side, at any moment. */
static void *cancel_soon(void *opaque)
{
    usleep(1000);
    sparsestream_transfer_cancel(opaque);
    return NULL;
}

static void a_cancel_of_either_side_ends_both(void)
{
    for (int round = 0; round < 20; round++) {
        struct line line;
        pthread_t worker, canceller;
        int code;

        context("round %d", round);
        line_open(&line, (struct piece[]) { DATA(8000000) }, 1, NULL);
        line.from.most = line.to.most = 500;
        worker = start(run_in, &line);
        canceller = start(cancel_soon, round % 2 == 0 ? line.in : line.out);
        code = sparsestream_transfer_run(line.out, 0);
        pthread_join(worker, NULL);
        pthread_join(canceller, NULL);
        CHECK_CODE(code, line.result);
        CHECK(code == -ECANCELED || code == 0);
        line_close(&line);
    }
}

TESTS(
    CASE(a_stream_crosses_to_another_thread),
    CASE(the_sink_is_finished_when_the_other_side_is),
    CASE(the_total_crosses),
    CASE(a_failure_crosses_with_its_words),
    CASE(an_end_that_is_freed_cancels_the_other),
    CASE(no_more_is_held_than_it_may),
    CASE(arguments_are_checked),
    CASE(nothing_is_taken_after_the_end),
    CASE(a_sink_fails_if_not_all_of_it_was_taken),
    CASE(many_cross_at_once_and_nobody_spins),
    CASE(a_cancel_of_either_side_ends_both))
