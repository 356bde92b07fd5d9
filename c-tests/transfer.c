/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The loop: budget, waiting, statistics, progress, sections, cancel, failure, stall and rate. */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "random.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

static const struct piece sample[] = { DATA(5000), HOLE(100000), DATA(7), HOLE(3) };
#define SAMPLE_SIZE 105010

/* A transfer between two streams in memory. */
static struct between {
    struct content content, taken;
    struct journal journal;
    struct end from, to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
} b;

static void set_up(const struct piece *pieces, size_t count,
                   const struct sparsestream_transfer_options *options)
{
    memset(&b, 0, sizeof b);
    content_lay_out(&b.content, pieces, count, 5);
    b.from.from = &b.content;
    b.to.to = &b.taken;
    b.from.journal = b.to.journal = &b.journal;
    b.source = end_stream_source(&b.from);
    b.sink = end_stream_sink(&b.to);
    b.transfer = new_transfer(b.source, b.sink, options);
}

/* As set_up, but the source is the same end behind one of these tables. */
static void use_tables(const struct sparsestream_source_ops *callbacks,
                       const struct sparsestream_stream_ops *stream,
                       const struct sparsestream_transfer_options *options)
{
    sparsestream_transfer_free(b.transfer);
    sparsestream_source_free(b.source);
    b.from.frees = 0;
    b.journal.length = 0;
    REQUIRE((callbacks != NULL
             ? sparsestream_source_from_callbacks(callbacks, &b.from, &b.source)
             : sparsestream_source_from_stream(stream, &b.from, &b.source)) == 0);
    b.transfer = new_transfer(b.source, b.sink, options);
}

static void tear_down(void)
{
    sparsestream_transfer_free(b.transfer);
    sparsestream_source_free(b.source);
    sparsestream_sink_free(b.sink);
    CHECK_INT(b.from.frees, ==, 1);
    CHECK_INT(b.to.frees, ==, 1);
    content_free(&b.content);
    content_free(&b.taken);
}

static void check_no_wait(void)
{
    struct sparsestream_wait wait = { .size = sizeof wait, .side = 77, .fd = 77, .events = 77,
                                      .timeout_ms = 77 };

    CHECK_CODE(sparsestream_transfer_wait(b.transfer, &wait), 0);
    CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_NONE);
    CHECK_INT(wait.fd, ==, -1);
    CHECK_INT(wait.events, ==, 0);
    CHECK_INT(wait.timeout_ms, ==, 0);
}

static void check_wait(int side, int fd, int events)
{
    struct sparsestream_wait wait = { .size = sizeof wait };

    CHECK_CODE(sparsestream_transfer_wait(b.transfer, &wait), 0);
    CHECK_INT(wait.side, ==, side);
    CHECK_INT(wait.fd, ==, fd);
    CHECK_INT(wait.events, ==, events);
    CHECK_INT(wait.timeout_ms, ==, -1);
}

static void a_budget_bounds_one_call(void)
{
    const struct piece pieces[] = { DATA(300000) };
    const int64_t budget = 20000, buffer = 4096;
    int64_t before = 0;
    int code, runs = 0;

    set_up(pieces, COUNT(pieces), TRANSFER_OPTIONS(.buffer_size = (uint64_t) buffer));
    while ((code = sparsestream_transfer_run(b.transfer, budget)) == 1) {
        const int64_t now = transfer_stats(b.transfer).position;

        CHECK_INT(now - before, >=, budget - buffer);
        CHECK_INT(now - before, <=, budget + buffer);
        before = now;
        check_no_wait();
        REQUIRE(++runs < 1000);
    }
    CHECK_CODE(code, 0);
    CHECK_INT(runs, >=, 10);
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

static void a_hole_has_its_price_in_the_budget(void)
{
    struct piece pieces[400];
    int code, before = 0, runs = 0;

    for (size_t i = 0; i < COUNT(pieces); i += 2) {
        pieces[i] = (struct piece) HOLE(GiB);
        pieces[i + 1] = (struct piece) DATA(1);
    }
    set_up(pieces, COUNT(pieces), NULL);
    while ((code = sparsestream_transfer_run(b.transfer, 10 * 4096)) == 1) {
        /* One that takes long counts more, but it is made. */
        CHECK_INT(b.to.holes - before, >=, 1);
        CHECK_INT(b.to.holes - before, <=, 11);
        before = b.to.holes;
        REQUIRE(++runs < 1000);
    }
    CHECK_CODE(code, 0);
    CHECK_INT(runs, >=, 200 / 11);
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

static void the_least_budget_still_moves_on(void)
{
    const struct piece pieces[] = { DATA(20000), HOLE(MiB), DATA(1), HOLE(1) };
    int code, runs = 0;

    set_up(pieces, COUNT(pieces), TRANSFER_OPTIONS(.buffer_size = 4096));
    while ((code = sparsestream_transfer_run(b.transfer, 1)) == 1)
        REQUIRE(++runs < 30000);
    CHECK_CODE(code, 0);
    CHECK_INT(runs, >, 3);
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

static void any_buffer_moves_the_same(void)
{
    const uint64_t buffers[] = { 4096, 4097, 65536, 1048576, 67108864 };
    const struct piece pieces[] = { DATA(70001), HOLE(1), DATA(1), HOLE(4095), DATA(200000) };

    for (size_t i = 0; i < COUNT(buffers); i++) {
        context("buffer of %ju", (uintmax_t) buffers[i]);
        set_up(pieces, COUNT(pieces), TRANSFER_OPTIONS(.buffer_size = buffers[i]));
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
        CHECK_CONTENT(&b.taken, &b.content);
        tear_down();
    }
}

static void what_a_transfer_waits_for(void)
{
    set_up(sample, COUNT(sample), NULL);
    check_no_wait();
    b.from.fault_letter = 'r';
    b.from.fault_call = 1;
    b.from.fault = -EAGAIN;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    check_wait(SPARSESTREAM_SIDE_SOURCE, -1, 0);
    b.to.fault_letter = 'h';
    b.to.fault_call = 2;
    b.to.fault = -EAGAIN;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    check_wait(SPARSESTREAM_SIDE_SINK, -1, 0);
    b.to.fault_letter = 'F';
    b.to.fault_call = 1;
    b.to.letter_calls = 0;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    check_wait(SPARSESTREAM_SIDE_SINK, -1, 0);
    b.from.fault_letter = 'f';
    b.from.letter_calls = 0;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    check_wait(SPARSESTREAM_SIDE_SOURCE, -1, 0);
    CHECK_INT(transfer_error(b.transfer).code, ==, 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    check_no_wait();
    tear_down();
}

static void what_a_transfer_waits_for_on_descriptors(void)
{
    int in[2], out[2];
    char buffer[4096] = { 1 };

    REQUIRE(pipe2(in, O_CLOEXEC | O_NONBLOCK) == 0 && pipe2(out, O_CLOEXEC | O_NONBLOCK) == 0);
    while (write(out[1], buffer, sizeof buffer) > 0)
        ;
    memset(&b, 0, sizeof b);
    b.source = fd_source(in[0]);
    b.sink = fd_sink(out[1]);
    b.transfer = new_transfer(b.source, b.sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    check_wait(SPARSESTREAM_SIDE_SOURCE, in[0], POLLIN);
    REQUIRE(write(in[1], "abc", 3) == 3);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    check_wait(SPARSESTREAM_SIDE_SINK, out[1], POLLOUT);
    while (read(out[0], buffer, sizeof buffer) > 0)
        ;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    check_wait(SPARSESTREAM_SIDE_SOURCE, in[0], POLLIN);
    CHECK_INT(read(out[0], buffer, sizeof buffer), ==, 3);
    close(in[1]);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    check_no_wait();
    sparsestream_transfer_free(b.transfer);
    sparsestream_source_free(b.source);
    sparsestream_sink_free(b.sink);
    close(in[0]);
    close(out[0]);
    close(out[1]);
}

static void check_stats(const struct sparsestream_stats *stats)
{
    CHECK_INT(stats->size, ==, sizeof *stats);
    CHECK_INT(stats->position, ==, SAMPLE_SIZE);
    CHECK_INT(stats->data_bytes, ==, 5007);
    CHECK_INT(stats->hole_bytes, ==, 100003);
    CHECK_INT(stats->data_sections, ==, 2);
    CHECK_INT(stats->hole_sections, ==, 2);
    CHECK_INT(stats->zero_bytes, ==, 0);
}

static void statistics(void)
{
    struct sparsestream_stats stats;

    set_up(sample, COUNT(sample), NULL);
    stats = transfer_stats(b.transfer);
    CHECK_INT(stats.position, ==, 0);
    CHECK_INT(stats.total, ==, -1);
    CHECK_INT(stats.data_sections + stats.hole_sections, ==, 0);
    /* In small pieces, a section is still one section. */
    b.from.most = 100;
    b.to.most = 33;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    stats = transfer_stats(b.transfer);
    check_stats(&stats);
    tear_down();
}

static void statistics_of_the_loops(void)
{
    struct content content = { .count = 0 };
    struct end from = { .from = &content }, to = { .to = NULL };
    struct sparsestream_stats stats = { .size = sizeof stats };
    struct sparsestream_sink *sink = end_sink(&to);
    const int fd = file_new("file");
    struct sparsestream_source *source;

    content_lay_out(&content, sample, COUNT(sample), 5);
    CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, &stats), 0);
    check_stats(&stats);
    CHECK_INT(stats.total, ==, -1);
    sparsestream_sink_free(sink);

    file_fill(fd, 0, 100000, 1);
    file_resize(fd, 300000);
    source = fd_source(fd);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, &stats), 0);
    CHECK_INT(stats.total, ==, 300000);
    CHECK_INT(stats.position, ==, 300000);
    CHECK_INT(stats.data_bytes, >=, 100000);
    CHECK_INT(stats.data_bytes + stats.hole_bytes, ==, 300000);
    sparsestream_source_free(source);

    /* The work done before a failure is reported too. */
    source = fd_source(fd);
    to.taken = 0;
    to.fault_letter = 'h';
    to.fault_call = 1;
    to.fault = -EIO;
    memset(&stats, 0x5a, sizeof stats);
    stats.size = sizeof stats;
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, &stats), -EIO);
    CHECK_INT(stats.position, ==, to.taken);
    CHECK_INT(stats.data_bytes, ==, to.taken);
    CHECK_INT(stats.hole_bytes, ==, 0);
    CHECK_INT(stats.total, ==, 300000);
    sparsestream_source_free(source);
    content_free(&content);
    close(fd);
}

struct progress {
    int calls, answer, answer_at;
    int64_t last, first_gap;
    int64_t total;
    bool falls;
};

static int on_progress(void *opaque, const struct sparsestream_stats *stats)
{
    struct progress *progress = opaque;

    CHECK_INT(stats->size, ==, sizeof *stats);
    CHECK_INT(stats->position, ==, stats->data_bytes + stats->hole_bytes);
    CHECK_INT(stats->position, ==, b.to.taken);
    if (stats->position < progress->last)
        progress->falls = true;
    progress->last = stats->position;
    progress->total = stats->total;
    return ++progress->calls == progress->answer_at ? progress->answer : 0;
}

static void progress_by_bytes(void)
{
    const struct piece pieces[] = { DATA(100000) };
    struct progress progress = { .calls = 0 };

    set_up(pieces, COUNT(pieces),
           TRANSFER_OPTIONS(.progress = on_progress, .opaque = &progress, .progress_bytes = 10000,
                            .buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    /* Pieces of 4096: it is called at the first that reaches each 10000. */
    CHECK_INT(progress.calls, >=, 8);
    CHECK_INT(progress.calls, <=, 11);
    CHECK_INT(progress.last, ==, 100000);
    CHECK(!progress.falls);
    tear_down();
}

static void progress_once_at_the_end(void)
{
    struct progress progress = { .calls = 0 };

    set_up(sample, COUNT(sample),
           TRANSFER_OPTIONS(.progress = on_progress, .opaque = &progress));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    CHECK_INT(progress.calls, ==, 1);
    CHECK_INT(progress.last, ==, SAMPLE_SIZE);
    tear_down();
}

static int64_t slow_recv(void *opaque, void *buffer, size_t length)
{
    usleep(2000);
    return end_stream_ops.recv(opaque, buffer, length);
}

static void progress_by_time(void)
{
    const struct piece pieces[] = { DATA(1000) };
    struct sparsestream_stream_ops ops = end_stream_ops;
    struct progress progress = { .calls = 0 };
    int64_t begun, elapsed;

    ops.recv = slow_recv;
    set_up(pieces, COUNT(pieces), NULL);
    b.from.most = 10;
    use_tables(NULL, &ops, TRANSFER_OPTIONS(.progress = on_progress, .opaque = &progress,
                                            .progress_ms = 20));
    begun = harness_now();
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    elapsed = harness_now() - begun;
    CHECK_INT(progress.calls, >=, 3);
    CHECK_INT(progress.calls, <=, elapsed / 20 + 2);
    CHECK_INT(progress.last, ==, 1000);
    tear_down();
}

static void progress_that_refuses(void)
{
    for (int at = 1; at <= 3; at++) {
        struct progress progress = { .answer_at = at, .answer = -EDOM };
        struct sparsestream_error error;

        context("at call %d", at);
        set_up(sample, COUNT(sample),
               TRANSFER_OPTIONS(.progress = on_progress, .opaque = &progress,
                                .progress_bytes = 1));
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EDOM);
        CHECK_INT(progress.calls, ==, at);
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EDOM);
        CHECK_INT(progress.calls, ==, at);
        error = transfer_error(b.transfer);
        CHECK_INT(error.code, ==, EDOM);
        CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_PROGRESS);
        CHECK_INT(b.from.aborts, ==, 1);
        CHECK_INT(b.to.aborts, ==, 1);
        CHECK_INT(b.from.abort_error, ==, EDOM);
        CHECK_INT(b.to.abort_error, ==, EDOM);
        CHECK_INT(b.from.finishes + b.to.finishes, ==, 0);
        tear_down();
    }
}

struct seen {
    struct content content;
    int calls, answer_at, answer;
};

static int on_section(void *opaque, const struct sparsestream_section *section)
{
    static const unsigned char zeros[1 << 20];
    struct seen *seen = opaque;
    const int64_t before = content_size(&seen->content);
    const size_t pieces = seen->content.count;

    CHECK_INT(section->offset, ==, before);
    CHECK_INT(section->length, >, 0);
    CHECK_INT(section->reserved, ==, 0);
    CHECK_INT(section->offset + section->length, <=, b.to.taken);
    if (section->kind == SPARSESTREAM_DATA) {
        REQUIRE(section->length <= (int64_t) sizeof zeros);
        content_add_data(&seen->content, zeros, (size_t) section->length);
    } else {
        CHECK_INT(section->kind, ==, SPARSESTREAM_HOLE);
        content_add_hole(&seen->content, section->length);
    }
    /* A section is reported once, as a whole: two of a kind are never adjacent. */
    CHECK_INT(seen->content.count, ==, pieces + 1);
    return ++seen->calls == seen->answer_at ? seen->answer : 0;
}

static void check_seen(const struct seen *seen)
{
    CHECK_INT(seen->content.count, ==, b.content.count);
    for (size_t i = 0; i < seen->content.count && i < b.content.count; i++) {
        CHECK_INT(seen->content.pieces[i].kind, ==, b.content.pieces[i].kind);
        CHECK_INT(seen->content.pieces[i].length, ==, b.content.pieces[i].length);
    }
}

static void every_section_is_reported_once_and_whole(void)
{
    for (unsigned seed = 1; seed <= 20; seed++) {
        struct random random = { .state = seed };
        struct seen seen = { .calls = 0 };
        int code;

        context("seed %u", seed);
        set_up(sample, COUNT(sample),
               TRANSFER_OPTIONS(.section = on_section, .opaque = &seen, .buffer_size = 4096));
        b.from.random = b.to.random = &random;
        b.from.short_percent = b.to.short_percent = 60;
        b.from.again_percent = b.to.again_percent = 30;
        do
            code = sparsestream_transfer_run(b.transfer, seed % 2 ? 0 : 500);
        while (code == -EAGAIN || code == 1);
        CHECK_CODE(code, 0);
        CHECK_CONTENT(&b.taken, &b.content);
        check_seen(&seen);
        content_free(&seen.content);
        tear_down();
    }
}

static void a_section_callback_that_refuses(void)
{
    for (int at = 1; at <= 4; at++) {
        struct seen seen = { .answer_at = at, .answer = -EDOM };

        context("at section %d", at);
        set_up(sample, COUNT(sample),
               TRANSFER_OPTIONS(.section = on_section, .opaque = &seen));
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EDOM);
        CHECK_INT(seen.calls, ==, at);
        CHECK_INT(transfer_error(b.transfer).operation, ==, SPARSESTREAM_OPERATION_PROGRESS);
        CHECK_INT(b.from.aborts, ==, 1);
        CHECK_INT(b.to.aborts, ==, 1);
        CHECK_INT(b.from.finishes + b.to.finishes, ==, 0);
        content_free(&seen.content);
        tear_down();
    }
}

static void zeros_that_are_found_are_holes(void)
{
    const struct piece pieces[] = { DATA(4096 + 100), HOLE(10 * 4096) };
    struct seen seen = { .calls = 0 };
    struct sparsestream_stats stats;

    set_up(pieces, COUNT(pieces), NULL);
    use_tables(&end_blind_source_ops, NULL,
               TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES, .zero_block = 4096,
                                .section = on_section, .opaque = &seen));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    /* Whole blocks of zeros only: the one that begins with 100 bytes of data stays data. */
    CHECK_INT(b.taken.count, ==, 2);
    CHECK_INT(b.taken.pieces[0].length, ==, 2 * 4096);
    CHECK_INT(b.taken.pieces[1].length, ==, 4096 * 9 + 100);
    stats = transfer_stats(b.transfer);
    CHECK_INT(stats.zero_bytes, ==, 9 * 4096 + 100);
    CHECK_INT(stats.hole_bytes, ==, 9 * 4096 + 100);
    CHECK_INT(stats.data_bytes, ==, 2 * 4096);
    CHECK_INT(stats.data_sections, ==, 1);
    CHECK_INT(stats.hole_sections, ==, 1);
    CHECK_INT(seen.calls, ==, 2);
    content_free(&seen.content);
    tear_down();
}

/* How the bytes come in does not change what a block is: no hole is smaller than one, and none is missed. */
static void zeros_are_found_whatever_the_counts(void)
{
    const size_t counts[] = { 1, 10, 100, 1448, 4095, 4096, 4097 };
    struct piece pieces[64];

    /* Runs of zeros, first many too short to fill a block, then two blocks and some more. */
    for (size_t i = 0; i < COUNT(pieces) - 2; i += 2) {
        pieces[i] = (struct piece) DATA(100);
        pieces[i + 1] = (struct piece) HOLE(100);
    }
    pieces[COUNT(pieces) - 2] = (struct piece) DATA(100);
    pieces[COUNT(pieces) - 1] = (struct piece) HOLE(3 * 4096);
    for (size_t i = 0; i < COUNT(counts); i++) {
        const int64_t size = 62 * 100 + 100 + 3 * 4096;

        context("counts of at most %zu", counts[i]);
        set_up(pieces, COUNT(pieces), NULL);
        b.from.most = counts[i];
        use_tables(&end_blind_source_ops, NULL,
                   TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES, .zero_block = 4096));
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
        CHECK_INT(b.taken.count, ==, 2);
        CHECK_INT(b.taken.pieces[0].kind, ==, SPARSESTREAM_DATA);
        CHECK_INT(b.taken.pieces[0].length, ==, 2 * 4096);
        CHECK_INT(content_size(&b.taken), ==, size);
        tear_down();
    }
}

static void cancelled_before_it_runs(void)
{
    set_up(sample, COUNT(sample), NULL);
    CHECK_CODE(sparsestream_transfer_cancel(b.transfer), 0);
    CHECK_CODE(sparsestream_transfer_cancel(b.transfer), 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ECANCELED);
    CHECK_INT(b.to.taken, ==, 0);
    CHECK_INT(transfer_error(b.transfer).code, ==, ECANCELED);
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    CHECK_INT(b.from.abort_error, ==, ECANCELED);
    CHECK_INT(b.from.finishes + b.to.finishes, ==, 0);
    tear_down();
}

static void cancelled_between_two_runs(void)
{
    set_up(sample, COUNT(sample), NULL);
    b.to.fault_call = 2;
    b.to.fault = -EAGAIN;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    CHECK_CODE(sparsestream_transfer_cancel(b.transfer), 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ECANCELED);
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    tear_down();
}

static int cancel_section(void *opaque, const struct sparsestream_section *section)
{
    (void) opaque;
    (void) section;
    CHECK_CODE(sparsestream_transfer_cancel(b.transfer), 0);
    return 0;
}

static void cancelled_from_its_own_callback(void)
{
    set_up(sample, COUNT(sample), TRANSFER_OPTIONS(.section = cancel_section));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ECANCELED);
    /* The section ends where the next begins; the step that found this out is the last. */
    CHECK_INT(b.to.taken, >=, 5000);
    CHECK_INT(b.to.taken, <=, 105000);
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    tear_down();
}

static void a_transfer_that_has_ended_cannot_be_cancelled(void)
{
    set_up(sample, COUNT(sample), NULL);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    CHECK_CODE(sparsestream_transfer_cancel(b.transfer), 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    CHECK_INT(transfer_error(b.transfer).code, ==, 0);
    CHECK_INT(b.from.aborts + b.to.aborts, ==, 0);
    tear_down();
}

static void *cancel_soon(void *opaque)
{
    (void) opaque;
    usleep(100000);
    CHECK_INT(sparsestream_transfer_cancel(b.transfer), ==, 0);
    return NULL;
}

/* Cancel ends a wait on a blocking descriptor within 100 ms. */
static void check_cancel_of_wait(int in, int out)
{
    int64_t begun;
    pthread_t thread;

    memset(&b, 0, sizeof b);
    b.source = fd_source(in);
    b.sink = fd_sink(out);
    b.transfer = new_transfer(b.source, b.sink, NULL);
    begun = harness_now();
    REQUIRE((errno = pthread_create(&thread, NULL, cancel_soon, NULL)) == 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ECANCELED);
    /* 100 ms until it is cancelled, 100 ms of promise, the rest for a busy machine. */
    CHECK_INT(harness_now() - begun, <, 1000 * harness_slowness());
    pthread_join(thread, NULL);
    sparsestream_transfer_free(b.transfer);
    sparsestream_source_free(b.source);
    sparsestream_sink_free(b.sink);
}

static void cancelled_from_another_thread_while_it_waits(void)
{
    char buffer[65536] = { 1 };
    int in[2], out[2];

    REQUIRE(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    check_cancel_of_wait(in[0], out[1]);
    /* The sink is full. */
    REQUIRE(fcntl(out[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(out[1], buffer, sizeof buffer) > 0)
        ;
    REQUIRE(fcntl(out[1], F_SETFL, 0) == 0);
    REQUIRE(write(in[1], "abc", 3) == 3);
    check_cancel_of_wait(in[0], out[1]);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

static int64_t endless_recv(void *stream, void *buffer, size_t length)
{
    (void) stream;
    memset(buffer, 'x', length);
    return (int64_t) length;
}

static void cancelled_from_another_thread_while_it_works(void)
{
    struct sparsestream_stream_ops ops = end_stream_ops;
    pthread_t thread;

    ops.recv = endless_recv;
    set_up(sample, COUNT(sample), NULL);
    b.to.to = NULL;
    use_tables(NULL, &ops, NULL);
    REQUIRE((errno = pthread_create(&thread, NULL, cancel_soon, NULL)) == 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ECANCELED);
    pthread_join(thread, NULL);
    CHECK_INT(b.to.taken, >, 0);
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    tear_down();
}

static void on_alarm(int number)
{
    (void) number;
    sparsestream_transfer_cancel(b.transfer);
}

static void cancelled_from_a_signal_handler(void)
{
    const struct itimerval soon = { .it_value = { .tv_usec = 100000 } };
    struct sigaction action = { .sa_handler = on_alarm }, before;
    int in[2], out[2];
    int64_t begun;

    REQUIRE(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    memset(&b, 0, sizeof b);
    b.source = fd_source(in[0]);
    b.sink = fd_sink(out[1]);
    b.transfer = new_transfer(b.source, b.sink, NULL);
    REQUIRE(sigaction(SIGALRM, &action, &before) == 0);
    begun = harness_now();
    REQUIRE(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ECANCELED);
    CHECK_INT(harness_now() - begun, <, 1000 * harness_slowness());
    REQUIRE(sigaction(SIGALRM, &before, NULL) == 0);
    sparsestream_transfer_free(b.transfer);
    sparsestream_source_free(b.source);
    sparsestream_sink_free(b.sink);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

static void run_again_after_the_end(void)
{
    int calls;

    set_up(sample, COUNT(sample), NULL);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    calls = b.from.own_calls + b.to.own_calls;
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 1), 0);
    }
    CHECK_INT(b.from.own_calls + b.to.own_calls, ==, calls);
    CHECK_INT(transfer_stats(b.transfer).position, ==, SAMPLE_SIZE);
    tear_down();

    set_up(sample, COUNT(sample), NULL);
    b.to.fault_call = 2;
    b.to.fault = -ENOSPC;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ENOSPC);
    calls = b.from.own_calls + b.to.own_calls;
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ENOSPC);
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 1), -ENOSPC);
        CHECK_CONTAINS(sparsestream_last_error(), strerror(ENOSPC));
    }
    CHECK_INT(b.from.own_calls + b.to.own_calls, ==, calls);
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    CHECK_INT(transfer_error(b.transfer).code, ==, ENOSPC);
    tear_down();
}

static void freed_in_the_middle(void)
{
    set_up(sample, COUNT(sample), TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 4096), 1);
    sparsestream_transfer_free(b.transfer);
    b.transfer = NULL;
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    CHECK_INT(b.from.abort_error, ==, ECANCELED);
    CHECK_INT(b.to.abort_error, ==, ECANCELED);
    tear_down();
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    CHECK_INT(b.from.finishes + b.to.finishes, ==, 0);
}

static void freed_while_an_end_is_not_ready(void)
{
    set_up(sample, COUNT(sample), NULL);
    b.from.fault_call = 1;
    b.from.fault = -EAGAIN;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    tear_down();
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    CHECK_INT(b.from.finishes + b.to.finishes, ==, 0);
}

static void freed_between_the_two_finishes(void)
{
    set_up(sample, COUNT(sample), NULL);
    b.from.fault_letter = 'f';
    b.from.fault_call = 1;
    b.from.fault = -EAGAIN;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
    tear_down();
    CHECK_INT(b.to.finishes, ==, 1);
    CHECK_INT(b.to.aborts, ==, 0);
    /* Its finish gave no answer yet, and is not asked for one any more. */
    CHECK_INT(b.from.finishes, ==, 1);
    CHECK_INT(b.from.aborts, <=, 1);
}

static void freed_without_having_run(void)
{
    set_up(sample, COUNT(sample), NULL);
    tear_down();
    CHECK_INT(b.from.own_calls + b.to.own_calls, ==, 0);
    CHECK_INT(b.from.aborts + b.to.aborts, ==, 0);
}

/* The letter of the fault, and the error that must be reported. */
static void check_error(bool callbacks, char letter, int number, int operation, int side,
                        int64_t offset)
{
    struct sparsestream_error error = { .size = sizeof error };

    context("'%c' number %d fails", letter, number);
    set_up(sample, COUNT(sample), NULL);
    if (callbacks) {
        sparsestream_transfer_free(b.transfer);
        sparsestream_source_free(b.source);
        sparsestream_sink_free(b.sink);
        b.from.frees = b.to.frees = 0;
        b.source = end_source(&b.from);
        b.sink = end_sink(&b.to);
        b.transfer = new_transfer(b.source, b.sink, NULL);
    }
    error = transfer_error(b.transfer);
    CHECK_INT(error.code, ==, 0);
    b.from.fault_letter = b.to.fault_letter = letter;
    b.from.fault_call = b.to.fault_call = number;
    b.from.fault = b.to.fault = -ESTALE;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ESTALE);
    error = transfer_error(b.transfer);
    CHECK_INT(error.size, ==, sizeof error);
    CHECK_INT(error.code, ==, ESTALE);
    CHECK_INT(error.operation, ==, operation);
    CHECK_INT(error.side, ==, side);
    CHECK_INT(error.peer, ==, 0);
    if (offset >= 0)
        CHECK_INT(error.offset, ==, offset);
    CHECK_INT(error.expected, ==, -1);
    CHECK_STR(error.message, sparsestream_last_error());
    CHECK_CONTAINS(error.message, strerror(ESTALE));
    CHECK_CONTAINS(error.message, sparsestream_side_name(side));
    CHECK_CONTAINS(error.message, sparsestream_operation_name(operation));
    if (error.offset >= 0) {
        char number_text[32];

        snprintf(number_text, sizeof number_text, "%jd", (intmax_t) error.offset);
        CHECK_CONTAINS(error.message, number_text);
    }
    tear_down();
    context("%s", "");
}

static void the_failure_as_fields(void)
{
    check_error(false, 'r', 1, SPARSESTREAM_OPERATION_READ, SPARSESTREAM_SIDE_SOURCE, 0);
    check_error(false, 'l', 1, SPARSESTREAM_OPERATION_SKIP, SPARSESTREAM_SIDE_SOURCE, 5000);
    check_error(false, 'l', 2, SPARSESTREAM_OPERATION_SKIP, SPARSESTREAM_SIDE_SOURCE, 105007);
    check_error(false, 'w', 1, SPARSESTREAM_OPERATION_WRITE, SPARSESTREAM_SIDE_SINK, 0);
    check_error(false, 'w', 2, SPARSESTREAM_OPERATION_WRITE, SPARSESTREAM_SIDE_SINK, 105000);
    check_error(false, 'h', 1, SPARSESTREAM_OPERATION_HOLE, SPARSESTREAM_SIDE_SINK, 5000);
    check_error(false, 'h', 2, SPARSESTREAM_OPERATION_HOLE, SPARSESTREAM_SIDE_SINK, 105007);
    check_error(false, 'f', 1, SPARSESTREAM_OPERATION_FINISH, SPARSESTREAM_SIDE_SOURCE, -1);
    check_error(false, 'F', 1, SPARSESTREAM_OPERATION_FINISH, SPARSESTREAM_SIDE_SINK, -1);
    check_error(true, 'i', 1, SPARSESTREAM_OPERATION_MAP, SPARSESTREAM_SIDE_SOURCE, 0);
    check_error(true, 'r', 1, SPARSESTREAM_OPERATION_READ, SPARSESTREAM_SIDE_SOURCE, 0);
    check_error(true, 'k', 1, SPARSESTREAM_OPERATION_SKIP, SPARSESTREAM_SIDE_SOURCE, 5000);
    check_error(true, 'k', 2, SPARSESTREAM_OPERATION_SKIP, SPARSESTREAM_SIDE_SOURCE, 105007);
    check_error(true, 'w', 2, SPARSESTREAM_OPERATION_WRITE, SPARSESTREAM_SIDE_SINK, 105000);
    check_error(true, 'h', 2, SPARSESTREAM_OPERATION_HOLE, SPARSESTREAM_SIDE_SINK, 105007);
}

static void the_message_is_cut_to_the_struct(void)
{
    struct { struct sparsestream_error error; unsigned char guard; } out;

    set_up(sample, COUNT(sample), NULL);
    b.to.fault_call = 1;
    b.to.fault = -ESTALE;
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ESTALE);
    memset(&out, 0xee, sizeof out);
    out.error.size = sizeof out.error;
    CHECK_CODE(sparsestream_transfer_error(b.transfer, &out.error), 0);
    CHECK(memchr(out.error.message, '\0', sizeof out.error.message) != NULL);
    CHECK_INT(out.guard, ==, 0xee);
    tear_down();
}

/* The ends wait for ever; the transfer ends by itself and says which one is late. */
static void check_stall(int in, int out, int side)
{
    struct sparsestream_error error;
    int64_t begun, elapsed;

    memset(&b, 0, sizeof b);
    b.source = fd_source(in);
    b.sink = fd_sink(out);
    b.transfer = new_transfer(b.source, b.sink, TRANSFER_OPTIONS(.stall_ms = 150));
    begun = harness_now();
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ETIMEDOUT);
    elapsed = harness_now() - begun;
    CHECK_INT(elapsed, >=, 149);
    CHECK_INT(elapsed, <, 1500 * harness_slowness());
    error = transfer_error(b.transfer);
    CHECK_INT(error.code, ==, ETIMEDOUT);
    CHECK_INT(error.side, ==, side);
    CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_WAIT);
    CHECK_CONTAINS(error.message, sparsestream_side_name(side));
    sparsestream_transfer_free(b.transfer);
    sparsestream_source_free(b.source);
    sparsestream_sink_free(b.sink);
}

static void a_late_side_ends_the_transfer(void)
{
    char buffer[65536] = { 1 };
    int in[2], out[2];

    REQUIRE(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    check_stall(in[0], out[1], SPARSESTREAM_SIDE_SOURCE);
    REQUIRE(fcntl(out[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(out[1], buffer, sizeof buffer) > 0)
        ;
    REQUIRE(fcntl(out[1], F_SETFL, 0) == 0);
    REQUIRE(write(in[1], "abc", 3) == 3);
    check_stall(in[0], out[1], SPARSESTREAM_SIDE_SINK);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

static void a_late_callback_ends_the_transfer(void)
{
    for (int sink = 0; sink < 2; sink++) {
        struct sparsestream_wait wait = { .size = sizeof wait };
        struct end *late = sink ? &b.to : &b.from;

        context("%s", sink ? "sink" : "source");
        set_up(sample, COUNT(sample), TRANSFER_OPTIONS(.stall_ms = 100));
        late->fault_letter = sink ? 'w' : 'r';
        late->fault_call = 1;
        late->fault = -EAGAIN;
        late->fault_stays = true;
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -EAGAIN);
        /* An event loop must come back in time to see it. */
        CHECK_CODE(sparsestream_transfer_wait(b.transfer, &wait), 0);
        CHECK_INT(wait.side, ==, sink ? SPARSESTREAM_SIDE_SINK : SPARSESTREAM_SIDE_SOURCE);
        CHECK_INT(wait.timeout_ms, >=, 0);
        CHECK_INT(wait.timeout_ms, <=, 100);
        usleep(120000);
        CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ETIMEDOUT);
        CHECK_INT(transfer_error(b.transfer).side, ==,
                  sink ? SPARSESTREAM_SIDE_SINK : SPARSESTREAM_SIDE_SOURCE);
        CHECK_INT(b.from.aborts, ==, 1);
        CHECK_INT(b.to.aborts, ==, 1);
        CHECK_INT(b.to.abort_error, ==, ETIMEDOUT);
        tear_down();
    }
}

static void *drip(void *opaque)
{
    const int fd = *(int *) opaque;

    for (int i = 0; i < 40; i++) {
        usleep(20000);
        REQUIRE(write(fd, "x", 1) == 1);
    }
    close(fd);
    return NULL;
}

/* Slow is not late: only time without a byte counts. */
static void a_slow_side_is_not_late(void)
{
    struct end to = { .to = NULL };
    pthread_t thread;
    int in[2];

    REQUIRE(pipe2(in, O_CLOEXEC) == 0);
    memset(&b, 0, sizeof b);
    b.source = fd_source(in[0]);
    b.sink = end_sink(&to);
    b.transfer = new_transfer(b.source, b.sink,
                              TRANSFER_OPTIONS(.stall_ms = 600 * harness_slowness()));
    REQUIRE((errno = pthread_create(&thread, NULL, drip, &in[1])) == 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    pthread_join(thread, NULL);
    CHECK_INT(to.taken, ==, 40);
    sparsestream_transfer_free(b.transfer);
    sparsestream_source_free(b.source);
    sparsestream_sink_free(b.sink);
    close(in[0]);
}

static void a_rate_is_kept(void)
{
    const struct piece pieces[] = { DATA(600000) };
    int64_t begun, elapsed;

    set_up(pieces, COUNT(pieces), TRANSFER_OPTIONS(.rate = 2000000, .buffer_size = 16384));
    begun = harness_now();
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    elapsed = harness_now() - begun;
    /* 300 ms at this rate; the last piece may go at once. */
    CHECK_INT(elapsed, >=, 250);
    CHECK_INT(elapsed, <, 2000 * harness_slowness());
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

static void a_rate_in_an_event_loop(void)
{
    const struct piece pieces[] = { DATA(200000) };
    const int64_t begun = harness_now();
    int code, waits = 0;

    set_up(pieces, COUNT(pieces), TRANSFER_OPTIONS(.rate = 1000000, .buffer_size = 16384));
    while ((code = sparsestream_transfer_run(b.transfer, 65536)) != 0) {
        struct sparsestream_wait wait = { .size = sizeof wait };

        if (code == 1)
            continue;
        CHECK_CODE(code, -EAGAIN);
        if (code != -EAGAIN)
            break;
        CHECK_CODE(sparsestream_transfer_wait(b.transfer, &wait), 0);
        CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_NONE);
        CHECK_INT(wait.fd, ==, -1);
        CHECK_INT(wait.events, ==, 0);
        /* 0 if the time has passed since the run: the number of waits shows that it is not said too early. */
        CHECK_INT(wait.timeout_ms, >=, 0);
        CHECK_INT(wait.timeout_ms, <=, 1000);
        REQUIRE(++waits < 1000);
        usleep((useconds_t) wait.timeout_ms * 1000);
    }
    CHECK_INT(waits, >, 0);
    /* To come back after the time that was said is enough: no spinning. */
    CHECK_INT(waits, <=, 30);
    CHECK_INT(harness_now() - begun, >=, 150);
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

static void holes_are_free_of_the_rate(void)
{
    const struct piece pieces[] = { HOLE(TiB), DATA(1), HOLE(TiB) };
    const int64_t begun = harness_now();

    set_up(pieces, COUNT(pieces), TRANSFER_OPTIONS(.rate = 10000));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    CHECK_INT(harness_now() - begun, <, 1000 * harness_slowness());
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

/* The rate's own waiting is not the fault of an end. */
static void a_rate_does_not_stall(void)
{
    const struct piece pieces[] = { DATA(30000) };

    set_up(pieces, COUNT(pieces),
           TRANSFER_OPTIONS(.rate = 50000, .buffer_size = 10000, .stall_ms = 100));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

static void *run_transfer(void *opaque)
{
    *(int *) opaque = sparsestream_transfer_run(b.transfer, 0);
    return NULL;
}

static void another_thread_may_continue(void)
{
    pthread_t thread;
    int code = 77;

    set_up(sample, COUNT(sample), TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 4096), 1);
    REQUIRE((errno = pthread_create(&thread, NULL, run_transfer, &code)) == 0);
    pthread_join(thread, NULL);
    CHECK_CODE(code, 0);
    CHECK_CONTENT(&b.taken, &b.content);
    tear_down();
}

static void no_memory_for_the_buffer(void)
{
    struct rlimit limit, little;
    struct sparsestream_error error;
    long pages;
    FILE *file;

    if (harness_slowness() != 1)
        skip("an instrumented program needs its address space");
    set_up(sample, COUNT(sample), TRANSFER_OPTIONS(.buffer_size = 67108864));
    file = fopen("/proc/self/statm", "re");
    REQUIRE(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    REQUIRE(getrlimit(RLIMIT_AS, &limit) == 0);
    little = limit;
    little.rlim_cur = (rlim_t) pages * (rlim_t) sysconf(_SC_PAGESIZE) + 16 * MiB;
    REQUIRE(setrlimit(RLIMIT_AS, &little) == 0);
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), -ENOMEM);
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    error = transfer_error(b.transfer);
    CHECK_INT(error.code, ==, ENOMEM);
    CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_ALLOCATE);
    CHECK_INT(b.from.reads + b.to.writes + b.to.holes, ==, 0);
    CHECK_INT(b.from.aborts, ==, 1);
    CHECK_INT(b.to.aborts, ==, 1);
    CHECK_INT(b.to.abort_error, ==, ENOMEM);
    tear_down();
}

static void an_empty_stream(void)
{
    struct progress progress = { .calls = 0 };

    set_up(NULL, 0, TRANSFER_OPTIONS(.progress = on_progress, .opaque = &progress));
    CHECK_CODE(sparsestream_transfer_run(b.transfer, 0), 0);
    CHECK_INT(b.to.finishes, ==, 1);
    CHECK_INT(b.from.finishes, ==, 1);
    CHECK_INT(b.to.writes + b.to.holes, ==, 0);
    CHECK_INT(progress.calls, ==, 1);
    tear_down();
}

TESTS(
    CASE(a_budget_bounds_one_call),
    CASE(a_hole_has_its_price_in_the_budget),
    CASE(the_least_budget_still_moves_on),
    CASE(any_buffer_moves_the_same),
    CASE(what_a_transfer_waits_for),
    CASE(what_a_transfer_waits_for_on_descriptors),
    CASE(statistics),
    CASE(statistics_of_the_loops),
    CASE(progress_by_bytes),
    CASE(progress_once_at_the_end),
    CASE(progress_by_time),
    CASE(progress_that_refuses),
    CASE(every_section_is_reported_once_and_whole),
    CASE(a_section_callback_that_refuses),
    CASE(zeros_that_are_found_are_holes),
    CASE(zeros_are_found_whatever_the_counts),
    CASE(cancelled_before_it_runs),
    CASE(cancelled_between_two_runs),
    CASE(cancelled_from_its_own_callback),
    CASE(a_transfer_that_has_ended_cannot_be_cancelled),
    CASE(cancelled_from_another_thread_while_it_waits),
    CASE(cancelled_from_another_thread_while_it_works),
    CASE(cancelled_from_a_signal_handler),
    CASE(run_again_after_the_end),
    CASE(freed_in_the_middle),
    CASE(freed_while_an_end_is_not_ready),
    CASE(freed_between_the_two_finishes),
    CASE(freed_without_having_run),
    CASE(the_failure_as_fields),
    CASE(the_message_is_cut_to_the_struct),
    CASE(a_late_side_ends_the_transfer),
    CASE(a_late_callback_ends_the_transfer),
    CASE(a_slow_side_is_not_late),
    CASE(a_rate_is_kept),
    CASE(a_rate_in_an_event_loop),
    CASE(holes_are_free_of_the_rate),
    CASE(a_rate_does_not_stall),
    CASE(another_thread_may_continue),
    CASE(no_memory_for_the_buffer),
    CASE(an_empty_stream),
)
