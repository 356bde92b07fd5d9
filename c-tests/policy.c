/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The sparse request against what source and sink can do: every pair of ends under every request. */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "loopdev.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define UNIT (8 * KiB)

/* 48 KiB, which fit into a pipe. */
static const struct piece sample[] = { DATA(2 * UNIT), HOLE(2 * UNIT), DATA(UNIT), HOLE(UNIT) };
#define SAMPLE_SIZE (6 * UNIT)
#define SAMPLE_HOLES (3 * UNIT)

static const struct source_kind {
    const char *name;
    bool reports;
    enum { FROM_FILE, FROM_CALLBACKS, FROM_STREAM, FROM_PIPE, FROM_SOCKET, FROM_BLIND_CALLBACKS,
           FROM_DENSE_STREAM } kind;
} source_kinds[] = {
    { "file", true, FROM_FILE },
    { "callbacks with in_data", true, FROM_CALLBACKS },
    { "stream with recv_hole", true, FROM_STREAM },
    { "pipe", false, FROM_PIPE },
    { "socket", false, FROM_SOCKET },
    { "callbacks without in_data", false, FROM_BLIND_CALLBACKS },
    { "stream without recv_hole", false, FROM_DENSE_STREAM },
};

static const struct sink_kind {
    const char *name;
    bool makes;
    enum { TO_FILE, TO_CALLBACKS, TO_STREAM, TO_PIPE, TO_SOCKET, TO_DENSE_CALLBACKS,
           TO_DENSE_STREAM } kind;
} sink_kinds[] = {
    { "file", true, TO_FILE },
    { "callbacks with hole", true, TO_CALLBACKS },
    { "stream with send_hole", true, TO_STREAM },
    { "pipe", false, TO_PIPE },
    { "socket", false, TO_SOCKET },
    { "callbacks without hole", false, TO_DENSE_CALLBACKS },
    { "stream without send_hole", false, TO_DENSE_STREAM },
};

static const int32_t requests[] = {
    SPARSESTREAM_SPARSE_AUTO, SPARSESTREAM_SPARSE_REQUIRED, SPARSESTREAM_SPARSE_NEVER,
};

static struct pair {
    struct content content, taken;
    /* The content as plain bytes. */
    unsigned char plain[SAMPLE_SIZE];
    struct end from, to;
    int in, in_peer, out, out_peer;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
} p;

static void open_source(const struct source_kind *kind, const struct piece *pieces, size_t count)
{
    int fds[2];
    int64_t at = 0;

    content_lay_out(&p.content, pieces, count, 9);
    memset(p.plain, 0, sizeof p.plain);
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].kind == SPARSESTREAM_DATA)
            pattern_fill(p.plain + at, (size_t) pieces[i].length, 9, at);
        at += pieces[i].length;
    }
    REQUIRE(at == SAMPLE_SIZE);
    p.from.from = &p.content;
    p.in = p.in_peer = -1;
    switch (kind->kind) {
    case FROM_FILE:
        p.in = file_new("source");
        file_lay_out(p.in, 0, pieces, count, 9);
        p.source = fd_source(p.in);
        break;
    case FROM_CALLBACKS:
        p.source = end_source(&p.from);
        break;
    case FROM_STREAM:
        p.source = end_stream_source(&p.from);
        break;
    case FROM_PIPE:
    case FROM_SOCKET:
        REQUIRE(kind->kind == FROM_PIPE ? pipe2(fds, O_CLOEXEC) == 0
                                        : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)
                                          == 0);
        REQUIRE(write(fds[1], p.plain, sizeof p.plain) == sizeof p.plain);
        p.in = fds[0];
        if (kind->kind == FROM_PIPE)
            close(fds[1]);
        else
            REQUIRE(shutdown(p.in_peer = fds[1], SHUT_WR) == 0);
        p.source = fd_source(p.in);
        break;
    case FROM_BLIND_CALLBACKS:
        REQUIRE(sparsestream_source_from_callbacks(&end_blind_source_ops, &p.from, &p.source)
                == 0);
        break;
    case FROM_DENSE_STREAM:
        REQUIRE(sparsestream_source_from_stream(&end_dense_stream_ops, &p.from, &p.source) == 0);
        break;
    }
}

static void open_sink(const struct sink_kind *kind)
{
    int fds[2];

    p.to.to = &p.taken;
    p.out = p.out_peer = -1;
    switch (kind->kind) {
    case TO_FILE:
        p.out = file_new("sink");
        p.sink = fd_sink(p.out);
        break;
    case TO_CALLBACKS:
        p.sink = end_sink(&p.to);
        break;
    case TO_STREAM:
        p.sink = end_stream_sink(&p.to);
        break;
    case TO_PIPE:
    case TO_SOCKET:
        REQUIRE(kind->kind == TO_PIPE ? pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0
                                      : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC
                                                   | SOCK_NONBLOCK, 0, fds) == 0);
        p.out = fds[1];
        p.out_peer = fds[0];
        p.sink = fd_sink(p.out);
        break;
    case TO_DENSE_CALLBACKS:
        REQUIRE(sparsestream_sink_to_callbacks(&end_dense_sink_ops, &p.to, &p.sink) == 0);
        break;
    case TO_DENSE_STREAM:
        REQUIRE(sparsestream_sink_to_stream(&end_dense_stream_ops, &p.to, &p.sink) == 0);
        break;
    }
}

static void close_pair(void)
{
    const int fds[] = { p.in, p.in_peer, p.out, p.out_peer };

    sparsestream_source_free(p.source);
    sparsestream_sink_free(p.sink);
    for (size_t i = 0; i < COUNT(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    content_free(&p.content);
    content_free(&p.taken);
}

/* All that the sink was given, as plain bytes. */
static size_t received(const struct sink_kind *kind, unsigned char *plain, size_t room)
{
    size_t length = 0, byte = 0;
    ssize_t count;

    memset(plain, 0, room);
    if (p.out_peer >= 0) {
        while (length < room && (count = read(p.out_peer, plain + length, room - length)) > 0)
            length += (size_t) count;
    } else if (kind->kind == TO_FILE) {
        count = pread(p.out, plain, room, 0);
        REQUIRE(count >= 0);
        length = (size_t) count;
    } else {
        for (size_t i = 0; i < p.taken.count; i++) {
            const size_t piece = (size_t) p.taken.pieces[i].length;

            REQUIRE(length + piece <= room);
            if (p.taken.pieces[i].kind == SPARSESTREAM_DATA) {
                memcpy(plain + length, p.taken.bytes + byte, piece);
                byte += piece;
            }
            length += piece;
        }
    }
    return length;
}

/* Was a byte taken off the source? */
static bool source_was_read(void)
{
    int left = 0;

    if (p.from.reads > 0)
        return true;
    if (p.in >= 0 && file_size(p.in) == 0 && lseek(p.in, 0, SEEK_CUR) < 0) {
        REQUIRE(ioctl(p.in, FIONREAD, &left) == 0);
        return left != SAMPLE_SIZE;
    }
    return false;
}

static void check_refused(const struct source_kind *source, const struct sink_kind *sink, int code,
                          const struct sparsestream_error *error)
{
    unsigned char plain[SAMPLE_SIZE + 1];

    CHECK_CODE(code, -EOPNOTSUPP);
    CHECK_INT(error->code, ==, EOPNOTSUPP);
    CHECK_INT(error->operation, ==, SPARSESTREAM_OPERATION_SPARSE);
    if (source->reports)
        CHECK_INT(error->side, ==, SPARSESTREAM_SIDE_SINK);
    else if (sink->makes)
        CHECK_INT(error->side, ==, SPARSESTREAM_SIDE_SOURCE);
    else
        CHECK_INT(error->side, !=, SPARSESTREAM_SIDE_NONE);
    /* Before a byte moves. */
    CHECK(!source_was_read());
    CHECK_INT(received(sink, plain, sizeof plain), ==, 0);
    CHECK_INT(p.to.writes + p.to.holes, ==, 0);
    if (source->kind == FROM_STREAM || source->kind == FROM_DENSE_STREAM)
        CHECK_INT(p.from.aborts, ==, 1);
    if (sink->kind == TO_STREAM || sink->kind == TO_DENSE_STREAM) {
        CHECK_INT(p.to.aborts, ==, 1);
        CHECK_INT(p.to.abort_error, ==, EOPNOTSUPP);
    }
    CHECK_INT(p.from.finishes + p.to.finishes, ==, 0);
}

static void check_moved(const struct sink_kind *sink, int code,
                        const struct sparsestream_stats *stats, int64_t holes, size_t hole_count)
{
    static unsigned char plain[SAMPLE_SIZE + 1];
    struct extent extents[16];

    CHECK_CODE(code, 0);
    CHECK_INT(received(sink, plain, sizeof plain), ==, SAMPLE_SIZE);
    CHECK_BYTES(plain, p.plain, SAMPLE_SIZE);
    CHECK_INT(stats->position, ==, SAMPLE_SIZE);
    CHECK_INT(stats->hole_bytes, ==, holes);
    CHECK_INT(stats->data_bytes, ==, SAMPLE_SIZE - holes);
    CHECK_INT(stats->hole_sections, ==, hole_count);
    if (sink->kind == TO_FILE) {
        const size_t count = file_map(p.out, extents, COUNT(extents));
        int64_t kept = 0;

        for (size_t i = 0; i < count; i++)
            kept += extents[i].kind == SPARSESTREAM_HOLE ? extents[i].length : 0;
        CHECK_INT(file_size(p.out), ==, SAMPLE_SIZE);
        if (file_maps_exactly(p.out))
            CHECK_INT(kept, ==, holes);
    } else {
        CHECK_INT(p.to.holes, ==, sink->makes ? hole_count : 0);
    }
}

static void run_pair(const struct source_kind *source, const struct sink_kind *sink,
                     const struct piece *pieces, size_t count,
                     const struct sparsestream_transfer_options *options,
                     int64_t holes, size_t hole_count)
{
    const bool refused = options->sparse == SPARSESTREAM_SPARSE_REQUIRED
                         && (!source->reports || !sink->makes);
    struct sparsestream_transfer *transfer;
    struct sparsestream_stats stats;
    struct sparsestream_error error;
    int code;

    context("%s to %s, request %d, flags %ju", source->name, sink->name, options->sparse,
            (uintmax_t) options->flags);
    memset(&p, 0, sizeof p);
    open_source(source, pieces, count);
    open_sink(sink);
    transfer = new_transfer(p.source, p.sink, options);
    code = sparsestream_transfer_run(transfer, 0);
    stats = transfer_stats(transfer);
    error = transfer_error(transfer);
    if (refused)
        check_refused(source, sink, code, &error);
    else
        check_moved(sink, code, &stats, holes, hole_count);
    sparsestream_transfer_free(transfer);
    close_pair();
}

static void every_source_sink_and_request(void)
{
    for (size_t i = 0; i < COUNT(source_kinds); i++) {
        for (size_t j = 0; j < COUNT(sink_kinds); j++) {
            for (size_t k = 0; k < COUNT(requests); k++) {
                const bool kept = source_kinds[i].reports && sink_kinds[j].makes
                                  && requests[k] != SPARSESTREAM_SPARSE_NEVER;

                run_pair(&source_kinds[i], &sink_kinds[j], sample, COUNT(sample),
                         TRANSFER_OPTIONS(.sparse = requests[k]), kept ? SAMPLE_HOLES : 0,
                         kept ? 2 : 0);
            }
        }
    }
}

/* Zeros are looked for in data, even of a source that reports holes. */
static void every_source_and_sink_with_zeros_detected(void)
{
    for (size_t i = 0; i < COUNT(source_kinds); i++) {
        for (size_t j = 0; j < COUNT(sink_kinds); j++) {
            for (size_t k = 0; k < COUNT(requests); k++) {
                const bool kept = sink_kinds[j].makes && requests[k] != SPARSESTREAM_SPARSE_NEVER;

                run_pair(&source_kinds[i], &sink_kinds[j], sample, COUNT(sample),
                         TRANSFER_OPTIONS(.sparse = requests[k], .zero_block = 4096,
                                          .flags = SPARSESTREAM_DETECT_ZEROES),
                         kept ? SAMPLE_HOLES : 0, kept ? 2 : 0);
            }
        }
    }
}

static void no_hole_call_for_what_is_all_data(void)
{
    const struct piece full[] = { DATA(SAMPLE_SIZE) };

    for (size_t i = 0; i < COUNT(source_kinds); i++) {
        for (size_t j = 0; j < COUNT(sink_kinds); j++) {
            for (size_t k = 0; k < COUNT(requests); k++) {
                run_pair(&source_kinds[i], &sink_kinds[j], full, COUNT(full),
                         TRANSFER_OPTIONS(.sparse = requests[k]), 0, 0);
                run_pair(&source_kinds[i], &sink_kinds[j], full, COUNT(full),
                         TRANSFER_OPTIONS(.sparse = requests[k],
                                          .flags = SPARSESTREAM_DETECT_ZEROES), 0, 0);
            }
        }
    }
}

/* Where no hole may be made, all of a file is allocated, its trailing hole too. */
static void never_allocates_everything(void)
{
    const int in = file_new("source"), out = file_new("sink");
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;

    file_fill(in, MiB, MiB, 1);
    file_resize(in, 4 * MiB);
    source = fd_source(in);
    sink = fd_sink(out);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_NEVER));
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    REQUIRE(fsync(out) == 0);
    CHECK_INT(file_allocated(out), >=, 4 * MiB);
    CHECK_INT(lseek(out, 0, SEEK_HOLE), ==, 4 * MiB);
    CHECK_INT(file_differs(in, 0, out, 0, 4 * MiB), ==, -1);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(in);
    close(out);
}

static void a_map_that_is_ignored(void)
{
    const int fd = file_new("source");
    struct content taken = { .count = 0 };
    struct end to = { .to = &taken };
    struct sparsestream_source *source = NULL;

    file_lay_out(fd, 0, sample, COUNT(sample), 9);
    REQUIRE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP),
                                        &source) == 0);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL), 0);
    CHECK_INT(to.holes, ==, 0);
    CHECK_INT(to.taken, ==, SAMPLE_SIZE);
    CHECK_INT(taken.count, ==, 1);
    sparsestream_source_free(source);
    content_free(&taken);

    /* Holes are then those that are found. */
    to = (struct end) { .to = &taken };
    REQUIRE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP),
                                        &source) == 0);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to,
                                     TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES,
                                                      .zero_block = 4096), NULL), 0);
    CHECK_INT(to.holes, ==, 2);
    CHECK_INT(to.taken, ==, SAMPLE_SIZE);
    CHECK_INT(taken.length, ==, SAMPLE_SIZE - SAMPLE_HOLES);
    sparsestream_source_free(source);
    content_free(&taken);
    close(fd);
}

/* A block device has content everywhere, whatever lies below it. */
static void a_block_device_does_not_report_holes(void)
{
    const int backing = file_new("backing");
    struct sparsestream_source *source;
    struct content taken = { .count = 0 };
    struct end to = { .to = &taken };
    int device;

    file_lay_out(backing, 0, sample, COUNT(sample), 9);
    device = loop_device(backing);
    source = fd_source(device);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to,
                                     TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_REQUIRED),
                                     NULL), -EOPNOTSUPP);
    CHECK_INT(to.taken, ==, 0);
    CHECK_INT(to.aborts, ==, 1);
    sparsestream_source_free(source);
    to = (struct end) { .to = &taken };
    source = fd_source(device);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL), 0);
    CHECK_INT(to.holes, ==, 0);
    CHECK_INT(taken.length, ==, SAMPLE_SIZE);
    sparsestream_source_free(source);
    content_free(&taken);
    close(device);
    close(backing);
}

/* A transfer that ignores the map gets no holes from it. */
static void a_map_that_is_ignored_reports_nothing(void)
{
    const int fd = file_new("source");
    struct sparsestream_source *source = NULL;
    struct end to = { .to = NULL };

    file_lay_out(fd, 0, sample, COUNT(sample), 9);
    REQUIRE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP),
                                        &source) == 0);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to,
                                     TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_REQUIRED),
                                     NULL), -EOPNOTSUPP);
    CHECK_INT(to.taken, ==, 0);
    CHECK_INT(to.aborts, ==, 1);
    sparsestream_source_free(source);
    close(fd);
}

static void nothing_at_all_meets_every_request(void)
{
    const int fd = file_new("empty");

    for (size_t i = 0; i < COUNT(requests); i++) {
        struct sparsestream_source *source = fd_source(fd);
        struct end to = { .to = NULL };

        CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to,
                                         TRANSFER_OPTIONS(.sparse = requests[i]), NULL), 0);
        CHECK_INT(to.finishes, ==, 1);
        CHECK_INT(to.writes + to.holes, ==, 0);
        sparsestream_source_free(source);
    }
    close(fd);
}

TESTS(
    CASE_WITHIN(every_source_sink_and_request, 40),
    CASE_WITHIN(every_source_and_sink_with_zeros_detected, 40),
    CASE_WITHIN(no_hole_call_for_what_is_all_data, 40),
    CASE(never_allocates_everything),
    CASE(a_map_that_is_ignored),
    CASE(a_block_device_does_not_report_holes),
    CASE(a_map_that_is_ignored_reports_nothing),
    CASE(nothing_at_all_meets_every_request),
)
