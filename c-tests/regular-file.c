/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Regular files as sources and sinks: holes over old content, sizes, ranges, limits, zeros, and files of /proc and /sys. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define OLD 1
#define NEW 2

/* Receives the pieces, with the pattern NEW from their own start, into the sink; returns the result. */
static int receive(struct sparsestream_sink *sink, const struct piece *pieces, size_t count)
{
    struct content content = { .count = 0 };
    struct end from = { .from = &content };
    int code;

    content_lay_out(&content, pieces, count, NEW);
    code = sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, NULL);
    content_free(&content);
    return code;
}

static int receive_at(int fd, const struct sparsestream_sink_options *options,
                      const struct piece *pieces, size_t count)
{
    struct sparsestream_sink *sink = NULL;
    int code = sparsestream_sink_to_fd(fd, options, &sink);

    CHECK_CODE(code, 0);
    if (code == 0)
        code = receive(sink, pieces, count);
    sparsestream_sink_free(sink);
    return code;
}

/* The file holds the pieces at `offset`: zeros in their holes. */
static void check_pieces(int fd, int64_t offset, const struct piece *pieces, size_t count)
{
    int64_t at = offset;

    for (size_t i = 0; i < count; i++) {
        if (pieces[i].kind == SPARSESTREAM_DATA)
            CHECK_INT(file_differs_from_pattern(fd, at, pieces[i].length, NEW, offset), ==, -1);
        else
            CHECK_INT(file_not_zero(fd, at, pieces[i].length), ==, -1);
        at += pieces[i].length;
    }
}

static void check_old(int fd, int64_t offset, int64_t length)
{
    CHECK_INT(file_differs_from_pattern(fd, offset, length, OLD, 0), ==, -1);
}

static void check_holes_over_old_content(int fd)
{
    const struct piece pieces[] = {
        HOLE(1000), DATA(3000), HOLE(MiB + 123), DATA(1), HOLE(777777), DATA(4096), HOLE(1),
        DATA(5), HOLE(4095),
    };
    const int64_t offsets[] = { 0, 1, 4096, 54321 };
    int64_t length = 0;

    for (size_t i = 0; i < COUNT(pieces); i++)
        length += pieces[i].length;
    for (size_t i = 0; i < COUNT(offsets); i++) {
        context("at %jd", (intmax_t) offsets[i]);
        file_resize(fd, 0);
        file_fill(fd, 0, 4 * MiB, OLD);
        CHECK_CODE(receive_at(fd, SINK_OPTIONS(.offset = offsets[i]), pieces, COUNT(pieces)), 0);
        check_old(fd, 0, offsets[i]);
        check_pieces(fd, offsets[i], pieces, COUNT(pieces));
        check_old(fd, offsets[i] + length, 4 * MiB - offsets[i] - length);
        CHECK_INT(file_size(fd), ==, 4 * MiB);
    }
    context("%s", "");
}

static void a_hole_over_old_content_reads_zero(void)
{
    const int fd = file_new("file");

    check_holes_over_old_content(fd);
    close(fd);
}

static void a_hole_over_old_content_reads_zero_in_memory(void)
{
    const int fd = file_in_memory();

    check_holes_over_old_content(fd);
    close(fd);
}

static void a_hole_gives_its_blocks_back(void)
{
    const struct piece pieces[] = { DATA(MiB), HOLE(6 * MiB), DATA(MiB) };
    const int fd = file_new("file");
    int64_t before;

    file_fill(fd, 0, 8 * MiB, OLD);
    REQUIRE(fsync(fd) == 0);
    /* Blocks behind the end may have been taken in advance; they are not the library's to give back. */
    before = file_allocated(fd);
    if (!file_punch(fd, MiB, 4096))
        skip("the file system punches no holes");
    CHECK_CODE(receive_at(fd, NULL, pieces, COUNT(pieces)), 0);
    check_pieces(fd, 0, pieces, COUNT(pieces));
    REQUIRE(fsync(fd) == 0);
    CHECK_INT(file_allocated(fd), <=, before - 6 * MiB + 256 * KiB);
    close(fd);
}

static void a_hole_across_the_old_end(void)
{
    const struct piece pieces[] = { DATA(10), HOLE(3 * MiB), DATA(10) };
    const int fd = file_new("file");

    file_fill(fd, 0, MiB, OLD);
    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.offset = 500000), pieces, COUNT(pieces)), 0);
    check_old(fd, 0, 500000);
    check_pieces(fd, 500000, pieces, COUNT(pieces));
    CHECK_INT(file_size(fd), ==, 500000 + 20 + 3 * MiB);
    close(fd);
}

static void a_range_never_shrinks_the_file(void)
{
    const struct piece pieces[] = { HOLE(MiB), DATA(MiB) };
    const int fd = file_new("file");

    file_fill(fd, 0, 10 * MiB, OLD);
    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.offset = 2 * MiB), pieces, COUNT(pieces)), 0);
    CHECK_INT(file_size(fd), ==, 10 * MiB);
    check_old(fd, 0, 2 * MiB);
    check_pieces(fd, 2 * MiB, pieces, COUNT(pieces));
    check_old(fd, 4 * MiB, 6 * MiB);
    /* A trailing hole does not either. */
    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.offset = 5 * MiB),
                          (struct piece[]) { DATA(1), HOLE(MiB) }, 2), 0);
    CHECK_INT(file_size(fd), ==, 10 * MiB);
    check_old(fd, 6 * MiB + 1, 4 * MiB - 1);
    close(fd);
}

static void the_size_is_exact(void)
{
    const int64_t tails[] = { 1, 511, 4095, 4096, 4097, 10 * MiB + 3 };

    for (size_t i = 0; i < COUNT(tails); i++) {
        const struct piece pieces[] = { DATA(5000), HOLE(tails[i]) };
        const int fd = file_new("file");

        context("trailing hole of %jd", (intmax_t) tails[i]);
        CHECK_CODE(receive_at(fd, NULL, pieces, COUNT(pieces)), 0);
        CHECK_INT(file_size(fd), ==, 5000 + tails[i]);
        check_pieces(fd, 0, pieces, COUNT(pieces));
        file_resize(fd, 0);
        CHECK_CODE(receive_at(fd, NULL, pieces + 1, 1), 0);
        CHECK_INT(file_size(fd), ==, tails[i]);
        CHECK_INT(file_allocated(fd), ==, 0);
        close(fd);
    }
}

static void truncate_cuts_after_the_stream(void)
{
    const struct piece pieces[] = { DATA(1000), HOLE(50000) };
    const struct sparsestream_sink_options *options = SINK_OPTIONS(.flags = SPARSESTREAM_TRUNCATE);
    const int fd = file_new("file");

    file_fill(fd, 0, MiB, OLD);
    CHECK_CODE(receive_at(fd, options, pieces, COUNT(pieces)), 0);
    CHECK_INT(file_size(fd), ==, 51000);
    check_pieces(fd, 0, pieces, COUNT(pieces));
    /* The bytes before a range stay. */
    file_fill(fd, 0, MiB, OLD);
    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.flags = SPARSESTREAM_TRUNCATE, .offset = 3000), pieces,
                          COUNT(pieces)), 0);
    CHECK_INT(file_size(fd), ==, 54000);
    check_old(fd, 0, 3000);
    check_pieces(fd, 3000, pieces, COUNT(pieces));
    /* An empty stream empties it. */
    CHECK_CODE(receive_at(fd, options, NULL, 0), 0);
    CHECK_INT(file_size(fd), ==, 0);
    close(fd);
}

static void a_failed_stream_cuts_nothing(void)
{
    const struct piece pieces[] = { DATA(1000), HOLE(50000), DATA(1000) };
    struct content content = { .count = 0 };
    struct end from = { .from = &content, .fault_letter = 'r', .fault_call = 3, .fault = -EIO };
    struct sparsestream_sink *sink = NULL;
    const int fd = file_new("file");

    content_lay_out(&content, pieces, COUNT(pieces), NEW);
    file_fill(fd, 0, MiB, OLD);
    REQUIRE(sparsestream_sink_to_fd(fd, SINK_OPTIONS(.flags = SPARSESTREAM_TRUNCATE), &sink) == 0);
    CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, NULL), -EIO);
    sparsestream_sink_free(sink);
    CHECK_INT(file_size(fd), ==, MiB);
    check_old(fd, 51000, MiB - 51000);
    content_free(&content);
    close(fd);
}

struct checkpoints {
    int fd, calls, answer_at, answer;
    int64_t last;
};

static int on_checkpoint(void *opaque, int64_t durable)
{
    struct checkpoints *checkpoints = opaque;

    CHECK_INT(durable, >, checkpoints->last);
    checkpoints->last = durable;
    return ++checkpoints->calls == checkpoints->answer_at ? checkpoints->answer : 0;
}

static void checkpoints_report_what_is_durable(void)
{
    const struct piece pieces[] = { DATA(300000), HOLE(200000), DATA(100000), HOLE(7) };
    struct checkpoints checkpoints = { .fd = file_new("file") };

    CHECK_CODE(receive_at(checkpoints.fd,
                          SINK_OPTIONS(.offset = 1000, .sync_interval = 100000,
                                       .checkpoint = on_checkpoint, .opaque = &checkpoints),
                          pieces, COUNT(pieces)), 0);
    CHECK_INT(checkpoints.calls, >=, 2);
    CHECK_INT(checkpoints.calls, <=, 7);
    CHECK_INT(checkpoints.last, ==, 1000 + 600007);
    check_pieces(checkpoints.fd, 1000, pieces, COUNT(pieces));
    close(checkpoints.fd);
}

static void a_checkpoint_that_refuses(void)
{
    const struct piece pieces[] = { DATA(300000), HOLE(200000), DATA(100000) };

    for (int at = 1; at <= 2; at++) {
        struct checkpoints checkpoints = { .fd = file_new("file"), .answer_at = at,
                                           .answer = -EDOM };
        struct sparsestream_transfer *transfer;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink = NULL;
        struct content content = { .count = 0 };
        struct end from = { .from = &content };

        content_lay_out(&content, pieces, COUNT(pieces), NEW);
        source = end_stream_source(&from);
        REQUIRE(sparsestream_sink_to_fd(checkpoints.fd,
                                        SINK_OPTIONS(.sync_interval = 1,
                                                     .checkpoint = on_checkpoint,
                                                     .opaque = &checkpoints), &sink) == 0);
        transfer = new_transfer(source, sink, NULL);
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EDOM);
        CHECK_INT(transfer_error(transfer).operation, ==, SPARSESTREAM_OPERATION_CHECKPOINT);
        CHECK_INT(transfer_error(transfer).side, ==, SPARSESTREAM_SIDE_SINK);
        CHECK_INT(checkpoints.calls, ==, at);
        CHECK_INT(from.aborts, ==, 1);
        CHECK_INT(from.abort_error, ==, EDOM);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        content_free(&content);
        close(checkpoints.fd);
    }
}

static void sync_is_done(void)
{
    const struct piece pieces[] = { DATA(1000), HOLE(50000), DATA(1) };
    const int fd = file_new("file");

    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.flags = SPARSESTREAM_SYNC), pieces, COUNT(pieces)), 0);
    check_pieces(fd, 0, pieces, COUNT(pieces));
    close(fd);
}

/* The promise is the caller's: where it does not hold, what was there stays, which shows that nothing was done. */
static void a_hole_costs_nothing_where_all_is_zero(void)
{
    const struct piece pieces[] = { DATA(4096), HOLE(MiB), DATA(4096), HOLE(100) };
    const struct sparsestream_sink_options *options = SINK_OPTIONS(.flags =
                                                                   SPARSESTREAM_KNOWN_ZERO);
    const int fd = file_new("file");

    CHECK_CODE(receive_at(fd, options, pieces, COUNT(pieces)), 0);
    check_pieces(fd, 0, pieces, COUNT(pieces));
    CHECK_INT(file_size(fd), ==, 2 * 4096 + MiB + 100);
    file_resize(fd, 0);
    file_fill(fd, 0, 2 * MiB, OLD);
    CHECK_CODE(receive_at(fd, options, pieces, COUNT(pieces)), 0);
    check_old(fd, 4096, MiB);
    CHECK_INT(file_size(fd), ==, 2 * MiB);
    close(fd);
}

/* Two streams, one behind the other, as `command >> file` twice. */
static void a_file_that_is_appended_to(void)
{
    const struct piece pieces[] = { HOLE(MiB), DATA(1000), HOLE(3 * MiB + 1) };
    const int64_t length = 4 * MiB + 1001;
    const int fd = open("file", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct sparsestream_sink *sink = (void *) 1;

    REQUIRE(fd >= 0);
    file_fill(fd, 0, 100, OLD);
    for (int i = 0; i < 2; i++) {
        CHECK_CODE(receive_at(fd, SINK_OPTIONS(.flags = SPARSESTREAM_SYNC | SPARSESTREAM_TRUNCATE),
                              pieces, COUNT(pieces)), 0);
        CHECK_INT(file_size(fd), ==, 100 + (i + 1) * length);
    }
    CHECK_INT(file_differs_from_pattern(fd, 0, 100, OLD, 0), ==, -1);
    for (int i = 0; i < 2; i++)
        check_pieces(fd, 100 + i * length, pieces, COUNT(pieces));
    if (file_maps_exactly(fd))
        CHECK_INT(file_allocated(fd), <=, 64 * KiB);
    CHECK_CODE(sparsestream_sink_to_fd(fd, SINK_OPTIONS(.offset = 4096), &sink), -EINVAL);
    CHECK(sink == NULL);
    CHECK_CONTAINS(sparsestream_last_error(), "O_APPEND");
    close(fd);
}

static void limit_file_size(rlim_t most)
{
    const struct rlimit limit = { .rlim_cur = most, .rlim_max = RLIM_INFINITY };

    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

/* Still alive behind each call: SIGXFSZ would have killed. */
static void the_limit_on_file_sizes(void)
{
    const struct { struct piece pieces[3]; size_t count; } streams[] = {
        { { DATA(MiB + 1) }, 1 },
        { { DATA(5000), HOLE(MiB) }, 2 },
        { { DATA(5000), HOLE(MiB), DATA(1) }, 3 },
        { { HOLE(4 * TiB) }, 1 },
        { { DATA(MiB), HOLE(1) }, 2 },
        { { DATA(MiB), DATA(1) }, 2 },
    };
    const int fd = file_new("file");
    struct sparsestream_sink *sink = (void *) 1;

    limit_file_size(MiB);
    for (size_t i = 0; i < COUNT(streams); i++) {
        context("stream %zu", i);
        file_resize(fd, 0);
        CHECK_CODE(receive_at(fd, NULL, streams[i].pieces, streams[i].count), -EFBIG);
        CHECK_CONTAINS(sparsestream_last_error(), strerror(EFBIG));
        CHECK_INT(file_size(fd), <=, MiB);
    }
    context("%s", "");
    /* Up to the limit is not beyond it. */
    file_resize(fd, 0);
    CHECK_CODE(receive_at(fd, NULL, (struct piece[]) { DATA(MiB) }, 1), 0);
    CHECK_INT(file_size(fd), ==, MiB);
    file_resize(fd, 0);
    CHECK_CODE(receive_at(fd, NULL, (struct piece[]) { DATA(1), HOLE(MiB - 1) }, 2), 0);
    CHECK_INT(file_size(fd), ==, MiB);
    CHECK_CODE(sparsestream_sink_to_fd(fd, SINK_OPTIONS(.offset = MiB + 1), &sink), -EFBIG);
    CHECK(sink == NULL);
    limit_file_size(RLIM_INFINITY);
    close(fd);
}

static void the_limit_by_hand(void)
{
    static char buffer[2 * MiB];
    const int fd = file_new("file");
    struct sparsestream_sink *sink;
    int64_t count, done = 0;

    limit_file_size(MiB);
    sink = fd_sink(fd);
    while ((count = sparsestream_sink_write(sink, buffer, sizeof buffer)) > 0)
        done += count;
    CHECK_CODE(count, -EFBIG);
    CHECK_INT(done, ==, MiB);
    CHECK_CODE(sparsestream_sink_hole(sink, 1), -EFBIG);
    sparsestream_sink_free(sink);
    limit_file_size(RLIM_INFINITY);
    CHECK_INT(file_size(fd), ==, MiB);
    close(fd);
}

static void sealed_files(void)
{
    const unsigned int seals[] = { F_SEAL_WRITE, F_SEAL_FUTURE_WRITE };
    struct sparsestream_sink *sink;
    int fd, code;

    for (size_t i = 0; i < COUNT(seals); i++) {
        sink = (void *) 1;
        fd = file_in_memory();
        file_fill(fd, 0, MiB, OLD);
        REQUIRE(fcntl(fd, F_ADD_SEALS, seals[i]) == 0);
        CHECK_CODE(sparsestream_sink_to_fd(fd, NULL, &sink), -EPERM);
        CHECK(sink == NULL);
        check_old(fd, 0, MiB);
        close(fd);
    }
    /* A file that may not grow can be written within its size, and not beyond. */
    fd = file_in_memory();
    file_fill(fd, 0, MiB, OLD);
    REQUIRE(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0);
    CHECK_CODE(receive_at(fd, NULL, (struct piece[]) { DATA(10), HOLE(5000), DATA(9) }, 3), 0);
    check_pieces(fd, 0, (struct piece[]) { DATA(10), HOLE(5000), DATA(9) }, 3);
    check_old(fd, 5019, MiB - 5019);
    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.offset = MiB - 5), (struct piece[]) { DATA(10) }, 1),
               -EPERM);
    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.offset = MiB - 5), (struct piece[]) { HOLE(10) }, 1),
               -EPERM);
    /* A file that may not shrink cannot be truncated: this is reported at once, or when it is tried. */
    code = sparsestream_sink_to_fd(fd, SINK_OPTIONS(.flags = SPARSESTREAM_TRUNCATE), &sink);
    if (code == 0)
        code = receive(sink, (struct piece[]) { DATA(10) }, 1);
    CHECK_CODE(code, -EPERM);
    sparsestream_sink_free(sink);
    CHECK_INT(file_size(fd), ==, MiB);
    close(fd);
}

static void the_sinks_length_is_a_limit(void)
{
    const struct { struct piece pieces[3]; size_t count; } beyond[] = {
        { { DATA(100001) }, 1 },
        { { HOLE(100001) }, 1 },
        { { DATA(100000), HOLE(1) }, 2 },
        { { HOLE(99999), DATA(2) }, 2 },
        { { DATA(1), HOLE(INT64_MAX - 1) }, 2 },
    };
    const struct { struct piece pieces[2]; size_t count; } within[] = {
        { { DATA(100000) }, 1 },
        { { HOLE(100000) }, 1 },
        { { DATA(1), HOLE(99999) }, 2 },
        { { DATA(5) }, 1 },
    };
    const struct sparsestream_sink_options *options = SINK_OPTIONS(.offset = 1000,
                                                                   .length = 100000);
    const int fd = file_new("file");

    for (size_t i = 0; i < COUNT(beyond); i++) {
        context("stream %zu", i);
        file_resize(fd, 0);
        file_fill(fd, 0, 200000, OLD);
        CHECK_CODE(receive_at(fd, options, beyond[i].pieces, beyond[i].count), -EFBIG);
        check_old(fd, 0, 1000);
        check_old(fd, 101000, 99000);
        CHECK_INT(file_size(fd), ==, 200000);
    }
    for (size_t i = 0; i < COUNT(within); i++) {
        context("stream %zu within", i);
        file_fill(fd, 0, 200000, OLD);
        CHECK_CODE(receive_at(fd, options, within[i].pieces, within[i].count), 0);
        check_pieces(fd, 1000, within[i].pieces, within[i].count);
        check_old(fd, 101000, 99000);
    }
    close(fd);
}

/* A file too large for the file system is refused; one that it can hold (on tmpfs up to 8 EiB) is not. */
static void a_hole_beyond_every_file(void)
{
    const int64_t large = INT64_MAX - 4096;
    const int fd = file_new("file");
    int code = receive_at(fd, NULL, (struct piece[]) { HOLE(large), DATA(1) }, 2);

    if (code == 0) {
        CHECK_INT(file_size(fd), ==, large + 1);
        CHECK_INT(lseek(fd, 0, SEEK_DATA), >=, large - 4096);
    } else {
        CHECK_CODE(code, -EFBIG);
        CHECK_INT(file_size(fd), ==, 0);
    }
    /* Here the offsets themselves end. */
    file_resize(fd, 0);
    CHECK_CODE(receive_at(fd, SINK_OPTIONS(.offset = INT64_MAX - 10),
                          (struct piece[]) { HOLE(100) }, 1), -EFBIG);
    CHECK_INT(file_size(fd), ==, 0);
    code = receive_at(fd, SINK_OPTIONS(.offset = INT64_MAX - 10), (struct piece[]) { DATA(100) },
                      1);
    CHECK_CODE(code, -EFBIG);
    close(fd);
}

static void ranges_of_a_source(void)
{
    const struct piece pieces[] = { DATA(64 * KiB), HOLE(128 * KiB), DATA(64 * KiB),
                                    HOLE(100 * KiB) };
    const struct { int64_t offset, length; size_t count; struct piece pieces[4]; } ranges[] = {
        { 0, 0, 4, { DATA(64 * KiB), HOLE(128 * KiB), DATA(64 * KiB), HOLE(100 * KiB) } },
        { 0, 356 * KiB, 4, { DATA(64 * KiB), HOLE(128 * KiB), DATA(64 * KiB), HOLE(100 * KiB) } },
        { 1, 0, 4, { DATA(64 * KiB - 1), HOLE(128 * KiB), DATA(64 * KiB), HOLE(100 * KiB) } },
        { 100, 200, 1, { DATA(200) } },
        { 65 * KiB, 5, 1, { HOLE(5) } },
        { 64 * KiB - 1, 2, 2, { DATA(1), HOLE(1) } },
        { 100 * KiB, 100 * KiB, 2, { HOLE(92 * KiB), DATA(8 * KiB) } },
        { 355 * KiB, 1 * KiB, 1, { HOLE(1 * KiB) } },
        { 356 * KiB, 0, 0, { HOLE(0) } },
    };
    const int fd = file_new("file");

    file_lay_out(fd, 0, pieces, COUNT(pieces), OLD);
    for (size_t i = 0; i < COUNT(ranges); i++) {
        struct content taken = { .count = 0 };
        struct end to = { .to = &taken };
        struct sparsestream_source *source = NULL;
        struct sparsestream_stats stats = { .size = sizeof stats };
        size_t byte = 0;
        int64_t at = ranges[i].offset;

        context("%jd+%jd", (intmax_t) at, (intmax_t) ranges[i].length);
        CHECK_CODE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.offset = ranges[i].offset,
                                                                  .length = ranges[i].length),
                                               &source), 0);
        REQUIRE(source != NULL);
        CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, &stats), 0);
        CHECK_INT(taken.count, ==, ranges[i].count);
        for (size_t j = 0; j < taken.count && j < ranges[i].count; j++) {
            const struct piece *piece = &taken.pieces[j];

            CHECK_INT(piece->kind, ==, ranges[i].pieces[j].kind);
            CHECK_INT(piece->length, ==, ranges[i].pieces[j].length);
            for (int64_t k = 0; piece->kind == SPARSESTREAM_DATA && k < piece->length; k++) {
                if (taken.bytes[byte++] != pattern_byte(OLD, at + k)) {
                    CHECK_INT(k, ==, -1);
                    break;
                }
            }
            at += piece->length;
        }
        CHECK_INT(stats.total, ==, at - ranges[i].offset);
        sparsestream_source_free(source);
        content_free(&taken);
    }
    close(fd);
}

static void ranges_that_are_not_there(void)
{
    const struct { int64_t offset, length; int error; } ranges[] = {
        { 100001, 0, EINVAL },       { 100001, 5, EINVAL },   { INT64_MAX, 0, EINVAL },
        { 0, 100001, ENODATA },      { 99999, 2, ENODATA },   { 100000, 1, ENODATA },
        { 50000, 1 * GiB, ENODATA },
    };
    const int fd = file_new("file");
    struct sparsestream_source *source;
    struct end to = { .to = NULL };
    int code;

    file_fill(fd, 0, 100000, OLD);
    for (size_t i = 0; i < COUNT(ranges); i++) {
        source = (void *) 1;
        context("%jd+%jd", (intmax_t) ranges[i].offset, (intmax_t) ranges[i].length);
        CHECK_CODE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.offset = ranges[i].offset,
                                                                  .length = ranges[i].length),
                                               &source), -ranges[i].error);
        CHECK(source == NULL);
    }
    context("%s", "");
    /* A size of 0 says nothing; what does not come is missed at the latest when it is read. */
    file_resize(fd, 0);
    code = sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.length = 5), &source);
    if (code == 0)
        code = sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL);
    CHECK_CODE(code, -ENODATA);
    CHECK_INT(to.finishes, ==, 0);
    sparsestream_source_free(source);
    close(fd);
}

static int resized = -1;
static int64_t resized_to;

static int64_t resize_and_send(void *opaque, const void *buffer, size_t length)
{
    if (resized >= 0) {
        if (file_size(resized) < resized_to)
            file_fill(resized, file_size(resized), resized_to - file_size(resized), OLD);
        else
            file_resize(resized, resized_to);
        resized = -1;
    }
    return end_stream_ops.send(opaque, buffer, length);
}

/* Sends the file, which gets another size once the first data was sent. */
static int send_resized(int fd, int64_t size, struct end *to, struct sparsestream_error *error)
{
    struct sparsestream_stream_ops ops = end_stream_ops;
    struct sparsestream_source *source = fd_source(fd);
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    int code;

    ops.send = resize_and_send;
    resized = fd;
    resized_to = size;
    REQUIRE(sparsestream_sink_to_stream(&ops, to, &sink) == 0);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 65536));
    code = sparsestream_transfer_run(transfer, 0);
    *error = transfer_error(transfer);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

static void a_source_that_is_cut_while_it_is_sent(void)
{
    const int64_t cuts[] = { 2 * MiB, 65536, 1, 0, 4 * MiB - 1 };
    const int fd = file_new("file");

    for (size_t i = 0; i < COUNT(cuts); i++) {
        struct sparsestream_error error;
        struct end to = { .to = NULL };
        char text[32];

        context("cut to %jd", (intmax_t) cuts[i]);
        file_fill(fd, 0, 4 * MiB, OLD);
        CHECK_CODE(send_resized(fd, cuts[i], &to, &error), -ENODATA);
        CHECK_INT(error.code, ==, ENODATA);
        CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SOURCE);
        CHECK_INT(error.offset, ==, to.taken);
        CHECK_INT(error.offset, >=, cuts[i]);
        CHECK_INT(error.offset, <=, cuts[i] > 65536 ? cuts[i] : 65536);
        CHECK_INT(error.expected, ==, 4 * MiB);
        snprintf(text, sizeof text, "%jd", (intmax_t) error.offset);
        CHECK_CONTAINS(error.message, text);
        CHECK_CONTAINS(error.message, "4194304");
        CHECK_INT(to.aborts, ==, 1);
        CHECK_INT(to.abort_error, ==, ENODATA);
        CHECK_INT(to.finishes, ==, 0);
    }
    close(fd);
}

/* The hole at the end is content too: a file cut within it is as much too short. */
static void a_source_whose_trailing_hole_is_cut(void)
{
    const int fd = file_new("file");
    struct sparsestream_error error;
    struct end to = { .to = NULL };

    file_fill(fd, 0, MiB, OLD);
    file_resize(fd, 4 * MiB);
    CHECK_CODE(send_resized(fd, 2 * MiB, &to, &error), -ENODATA);
    CHECK_INT(error.expected, ==, 4 * MiB);
    CHECK_INT(to.aborts, ==, 1);
    CHECK_INT(to.finishes, ==, 0);
    close(fd);
}

static void a_source_that_grows_is_not_followed(void)
{
    const int fd = file_new("file");
    struct sparsestream_error error;
    struct end to = { .to = NULL };

    file_fill(fd, 0, MiB, OLD);
    CHECK_CODE(send_resized(fd, 3 * MiB, &to, &error), 0);
    CHECK_INT(to.taken, ==, MiB);
    CHECK_INT(to.finishes, ==, 1);
    CHECK_INT(file_size(fd), ==, 3 * MiB);
    /* Also where it ended in a hole. */
    file_resize(fd, 0);
    file_fill(fd, 0, MiB, OLD);
    file_resize(fd, 2 * MiB);
    to = (struct end) { .to = NULL };
    CHECK_CODE(send_resized(fd, 3 * MiB, &to, &error), 0);
    CHECK_INT(to.taken, ==, 2 * MiB);
    close(fd);
}

/* Files that the kernel generates as they are read: their size says 0, or a page. */
static void check_made_up(const char *path)
{
    static unsigned char expected[1 << 20];
    struct content taken = { .count = 0 };
    struct end to = { .to = &taken };
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct sparsestream_source *source = NULL;
    size_t length = 0;
    ssize_t count;

    context("%s", path);
    REQUIRE(fd >= 0);
    while ((count = read(fd, expected + length, sizeof expected - length)) > 0)
        length += (size_t) count;
    REQUIRE(count == 0 && lseek(fd, 0, SEEK_SET) == 0);
    CHECK_CODE(sparsestream_source_from_fd(fd, NULL, &source), 0);
    REQUIRE(source != NULL);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL), 0);
    CHECK_INT(taken.length, ==, length);
    CHECK_INT(to.taken, ==, length);
    CHECK_BYTES(taken.bytes, expected, taken.length < length ? taken.length : length);
    sparsestream_source_free(source);
    content_free(&taken);
    close(fd);
    context("%s", "");
}

static void files_of_proc(void)
{
    check_made_up("/proc/self/cmdline");
    check_made_up("/proc/version");
    check_made_up("/proc/filesystems");
    check_made_up("/proc/cpuinfo");
    check_made_up("/proc/self/environ");
}

static void files_of_sys(void)
{
    const char *const paths[] = {
        "/sys/devices/system/cpu/online", "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state", "/sys/kernel/fscaps",
    };
    int checked = 0;

    for (size_t i = 0; i < COUNT(paths); i++) {
        if (access(paths[i], R_OK) == 0) {
            check_made_up(paths[i]);
            checked++;
        }
    }
    if (checked == 0)
        skip("no attribute of /sys can be read");
}

/* Checks the sections of `given`, with zeros where the pattern says 0, when zeros are detected. */
static void check_detection(const struct piece *given, size_t given_count, uint32_t block,
                            uint64_t buffer_size, const struct piece *expected, size_t expected_count)
{
    struct content content = { .count = 0 }, taken = { .count = 0 };
    struct end to = { .to = &taken };
    const int fd = file_new("file");
    struct sparsestream_source *source = NULL;
    int64_t at = 0;

    for (size_t i = 0; i < given_count; i++) {
        if (given[i].kind == SPARSESTREAM_DATA) {
            file_fill(fd, at, given[i].length, OLD);
        } else {
            void *zeros = calloc(1, (size_t) given[i].length);

            REQUIRE(zeros != NULL);
            file_write(fd, at, zeros, (size_t) given[i].length);
            free(zeros);
        }
        at += given[i].length;
    }
    REQUIRE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP),
                                        &source) == 0);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to,
                                     TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES,
                                                      .zero_block = block,
                                                      .buffer_size = buffer_size), NULL), 0);
    CHECK_INT(taken.count, ==, expected_count);
    for (size_t i = 0; i < taken.count && i < expected_count; i++) {
        CHECK_INT(taken.pieces[i].kind, ==, expected[i].kind);
        CHECK_INT(taken.pieces[i].length, ==, expected[i].length);
    }
    sparsestream_source_free(source);
    content_free(&content);
    content_free(&taken);
    close(fd);
}

static void zeros_in_data_become_holes(void)
{
    const int64_t k = 4096;

    context("whole blocks");
    check_detection((struct piece[]) { DATA(k), HOLE(3 * k), DATA(k) }, 3, 4096, 65536,
                    (struct piece[]) { DATA(k), HOLE(3 * k), DATA(k) }, 3);
    context("all zeros");
    check_detection((struct piece[]) { HOLE(1000001) }, 1, 4096, 65536,
                    (struct piece[]) { HOLE(1000001) }, 1);
    context("the block in which data ends is data");
    check_detection((struct piece[]) { DATA(100), HOLE(10000) }, 2, 4096, 65536,
                    (struct piece[]) { DATA(k), HOLE(10100 - k) }, 2);
    context("the block in which data begins is data");
    check_detection((struct piece[]) { HOLE(2 * k + 100), DATA(k) }, 2, 4096, 65536,
                    (struct piece[]) { HOLE(2 * k), DATA(100 + k) }, 2);
    context("less than a block at the end");
    check_detection((struct piece[]) { DATA(k), HOLE(1) }, 2, 4096, 65536,
                    (struct piece[]) { DATA(k), HOLE(1) }, 2);
    context("zeros between that fill no block");
    check_detection((struct piece[]) { DATA(100), HOLE(2 * k - 200), DATA(100) }, 3, 4096, 65536,
                    (struct piece[]) { DATA(2 * k) }, 1);
    context("small blocks");
    check_detection((struct piece[]) { DATA(512), HOLE(512), DATA(512), HOLE(1024) }, 4, 512, 65536,
                    (struct piece[]) { DATA(512), HOLE(512), DATA(512), HOLE(1024) }, 4);
    context("the largest blocks");
    check_detection((struct piece[]) { HOLE(MiB), DATA(1), HOLE(MiB - 1), HOLE(MiB) }, 4, 1048576, 0,
                    (struct piece[]) { HOLE(MiB), DATA(MiB), HOLE(MiB) }, 3);
    context("the default block");
    check_detection((struct piece[]) { DATA(1), HOLE(3 * 65536 - 1) }, 2, 0, 65536,
                    (struct piece[]) { DATA(65536), HOLE(2 * 65536) }, 2);
}

static void zeros_take_no_blocks(void)
{
    const int in = file_new("in"), out = file_new("out");
    void *zeros = calloc(1, 4 * MiB);
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    struct sparsestream_stats stats;

    REQUIRE(zeros != NULL);
    file_write(in, 0, zeros, 4 * MiB);
    file_fill(in, 4 * MiB, MiB, OLD);
    file_write(in, 5 * MiB, zeros, 3 * MiB);
    free(zeros);
    REQUIRE(fsync(in) == 0 && file_allocated(in) >= 8 * MiB);
    source = fd_source(in);
    sink = fd_sink(out);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES));
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    stats = transfer_stats(transfer);
    CHECK_INT(stats.zero_bytes, ==, 7 * MiB);
    CHECK_INT(stats.data_bytes, ==, MiB);
    REQUIRE(fsync(out) == 0);
    CHECK_INT(file_allocated(out), <=, MiB + 64 * KiB);
    CHECK_INT(file_size(out), ==, 8 * MiB);
    CHECK_INT(file_differs(in, 0, out, 0, 8 * MiB), ==, -1);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(in);
    close(out);
}

static void a_copy_keeps_bytes_and_holes(void)
{
    const struct piece pieces[] = {
        HOLE(64 * KiB), DATA(64 * KiB), HOLE(MiB), DATA(4096), HOLE(4096), DATA(3 * MiB + 1),
        HOLE(5 * MiB),
    };
    const int in = file_new("in"), out = file_new("out");
    struct extent left[32], right[32];
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    size_t count;

    file_lay_out(in, 0, pieces, COUNT(pieces), OLD);
    source = fd_source(in);
    sink = fd_sink(out);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_REQUIRED));
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_INT(file_size(out), ==, file_size(in));
    CHECK_INT(file_differs(in, 0, out, 0, file_size(in)), ==, -1);
    if (file_maps_exactly(out)) {
        count = file_map(in, left, COUNT(left));
        CHECK_INT(file_map(out, right, COUNT(right)), ==, count);
        for (size_t i = 0; i < count; i++) {
            CHECK_INT(right[i].kind, ==, left[i].kind);
            CHECK_INT(right[i].offset, ==, left[i].offset);
            CHECK_INT(right[i].length, ==, left[i].length);
        }
    }
    REQUIRE(fsync(in) == 0 && fsync(out) == 0);
    CHECK_INT(file_allocated(out), <=, file_allocated(in));
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(in);
    close(out);
}

static long resident_peak(void)
{
    struct rusage usage;

    REQUIRE(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_maxrss;
}

static void sixteen_tebibytes_with_one_mebibyte_of_data(void)
{
    const int in = file_in_memory(), out = file_in_memory();
    struct content taken = { .count = 0 };
    struct end to = { .to = &taken }, from = { .from = &taken };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    int64_t begun;
    long before;

    for (int i = 0; i < 16; i++)
        file_fill(in, i * TiB + 123 * MiB, 64 * KiB, OLD);
    file_resize(in, 16 * TiB);
    /* The stream's own memory is not the library's. */
    taken.byte_room = 2 * MiB;
    taken.bytes = malloc(taken.byte_room);
    REQUIRE(taken.bytes != NULL);
    memset(taken.bytes, 1, taken.byte_room);
    before = resident_peak();
    begun = harness_now();
    source = fd_source(in);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL), 0);
    sparsestream_source_free(source);
    sink = fd_sink(out);
    CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, NULL), 0);
    sparsestream_sink_free(sink);
    CHECK_INT(harness_now() - begun, <, 1000 * harness_slowness());
    /* KiB; what an instrumented program takes for itself says nothing. */
    if (harness_slowness() == 1)
        CHECK_INT(resident_peak() - before, <, 8 * 1024);
    CHECK_INT(content_size(&taken), ==, 16 * TiB);
    CHECK_INT(taken.length, ==, MiB);
    CHECK_INT(file_size(out), ==, 16 * TiB);
    CHECK_INT(file_allocated(out), ==, file_allocated(in));
    CHECK_INT(file_differs(in, 0, out, 0, 16 * TiB), ==, -1);
    content_free(&taken);
    close(in);
    close(out);
}

static void a_file_driven_by_hand(void)
{
    const struct piece pieces[] = { DATA(64 * KiB), HOLE(64 * KiB), DATA(10), HOLE(64 * KiB) };
    const int in = file_new("in"), out = file_new("out");
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    char buffer[10000];
    struct sparsestream_section section = { .size = sizeof section };
    int64_t count, length, size;

    file_lay_out(in, 0, pieces, COUNT(pieces), OLD);
    size = file_size(in);
    file_fill(out, 0, 128 * KiB, NEW);
    source = fd_source(in);
    sink = fd_sink(out);
    CHECK_CODE(sparsestream_source_section(source, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_DATA);
    CHECK_INT(section.length, ==, 64 * KiB);
    while ((count = sparsestream_source_read(source, buffer, sizeof buffer)) != 0) {
        if (count == SPARSESTREAM_AT_HOLE) {
            CHECK_CODE(sparsestream_source_section(source, &section), 0);
            CHECK_INT(section.kind, ==, SPARSESTREAM_HOLE);
            length = section.length;
            CHECK_INT(length, >, 0);
            CHECK_CODE(sparsestream_source_skip(source, length), 0);
            while (length > 0) {
                count = sparsestream_sink_hole(sink, length);
                REQUIRE(count > 0 && count <= length);
                length -= count;
            }
            continue;
        }
        REQUIRE(count > 0);
        for (int64_t done = 0; done < count;) {
            const int64_t taken = sparsestream_sink_write(sink, buffer + done,
                                                          (size_t) (count - done));

            REQUIRE(taken > 0);
            done += taken;
        }
    }
    CHECK_CODE(sparsestream_source_section(source, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_END);
    CHECK_INT(section.length, ==, 0);
    CHECK_CODE(sparsestream_source_finish(source), 0);
    CHECK_CODE(sparsestream_sink_finish(sink), 0);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(file_size(out), ==, size);
    CHECK_INT(file_differs(in, 0, out, 0, size), ==, -1);
    close(in);
    close(out);
}

/* Skipping data by hand reads none of it. */
static void a_part_that_is_skipped_by_hand(void)
{
    const int fd = file_new("file");
    struct sparsestream_source *source;
    char buffer[100];

    file_fill(fd, 0, 100000, OLD);
    source = fd_source(fd);
    CHECK_CODE(sparsestream_source_skip(source, 5000), 0);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), sizeof buffer);
    CHECK_INT((unsigned char) buffer[0], ==, pattern_byte(OLD, 5000));
    CHECK_CODE(sparsestream_source_skip(source, 94901), -EINVAL);
    CHECK_CODE(sparsestream_source_skip(source, 94900), 0);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 0);
    sparsestream_source_free(source);
    close(fd);
}

TESTS(
    CASE(a_hole_over_old_content_reads_zero),
    CASE(a_hole_over_old_content_reads_zero_in_memory),
    CASE(a_hole_gives_its_blocks_back),
    CASE(a_hole_across_the_old_end),
    CASE(a_range_never_shrinks_the_file),
    CASE(the_size_is_exact),
    CASE(truncate_cuts_after_the_stream),
    CASE(a_failed_stream_cuts_nothing),
    CASE(checkpoints_report_what_is_durable),
    CASE(a_checkpoint_that_refuses),
    CASE(sync_is_done),
    CASE(a_hole_costs_nothing_where_all_is_zero),
    CASE(a_file_that_is_appended_to),
    CASE(the_limit_on_file_sizes),
    CASE(the_limit_by_hand),
    CASE(sealed_files),
    CASE(the_sinks_length_is_a_limit),
    CASE(a_hole_beyond_every_file),
    CASE(ranges_of_a_source),
    CASE(ranges_that_are_not_there),
    CASE(a_source_that_is_cut_while_it_is_sent),
    CASE(a_source_whose_trailing_hole_is_cut),
    CASE(a_source_that_grows_is_not_followed),
    CASE(files_of_proc),
    CASE(files_of_sys),
    CASE(zeros_in_data_become_holes),
    CASE(zeros_take_no_blocks),
    CASE(a_copy_keeps_bytes_and_holes),
    CASE(sixteen_tebibytes_with_one_mebibyte_of_data),
    CASE(a_file_driven_by_hand),
    CASE(a_part_that_is_skipped_by_hand),
)
