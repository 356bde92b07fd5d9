/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Callers and callbacks that break the rules in ways that a type cannot forbid. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static const struct piece sample[] = { DATA(5000), HOLE(100000), DATA(7) };

/* Errnos that mean "again". */
static const int again[] = { EAGAIN, EINTR };

/* A transfer between two tables over memory. */
struct stand {
    struct content content, taken;
    struct end from, to;
    struct sparsestream_transfer *transfer;
};

static void stand_init(struct stand *stand)
{
    memset(stand, 0, sizeof *stand);
    content_lay_out(&stand->content, sample, COUNT(sample), 3);
    stand->from.from = &stand->content;
    stand->to.to = &stand->taken;
}

/* The transfer holds both ends. */
static void stand_open(struct stand *stand, struct sparsestream_source *source, struct sparsestream_sink *sink,
                       const struct sparsestream_transfer_options *options)
{
    stand->transfer = new_transfer(source, sink, options);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

static void stand_close(struct stand *stand)
{
    sparsestream_transfer_free(stand->transfer);
    content_free(&stand->content);
    content_free(&stand->taken);
}

/* An errno that means "again", where nothing can be made again. */

/* It has failed for good, and the code does not invite the caller to try again. */
static void check_final(struct stand *stand)
{
    struct sparsestream_wait wait = { .size = sizeof wait };

    for (int run = 0; run < 2; run++)
        CHECK_CODE(sparsestream_transfer_run(stand->transfer, 0), -EIO);
    CHECK_INT(transfer_error(stand->transfer).code, ==, EIO);
    CHECK_CODE(sparsestream_transfer_wait(stand->transfer, &wait), 0);
    CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_NONE);
}

static int report_progress(void *opaque, const struct sparsestream_stats *stats)
{
    (void) stats;
    return *(const int *) opaque;
}

static int report_section(void *opaque, const struct sparsestream_section *section)
{
    (void) section;
    return *(const int *) opaque;
}

static int report_checkpoint(void *opaque, int64_t offset)
{
    (void) offset;
    return *(const int *) opaque;
}

static void a_callback_that_may_only_stop_a_transfer_stops_it_for_good(void)
{
    for (size_t i = 0; i < COUNT(again); i++) {
        int answer = -again[i];
        const struct sparsestream_transfer_options options[] = {
            { .size = sizeof *options, .progress = report_progress, .opaque = &answer },
            { .size = sizeof *options, .section = report_section, .opaque = &answer },
        };

        for (size_t j = 0; j < COUNT(options); j++) {
            struct stand stand;

            context("%s, callback %zu", harness_errno_name(answer), j);
            stand_init(&stand);
            stand_open(&stand, end_stream_source(&stand.from), end_stream_sink(&stand.to), &options[j]);
            check_final(&stand);
            CHECK_INT(stand.from.aborts, ==, 1);
            CHECK_INT(stand.to.aborts, ==, 1);
            stand_close(&stand);
        }
    }
}

static void a_checkpoint_callback_stops_a_transfer_for_good(void)
{
    for (size_t i = 0; i < COUNT(again); i++) {
        int answer = -again[i];
        const int fd = file_new("target");
        struct sparsestream_sink *sink = NULL;
        struct stand stand;

        context("%s", harness_errno_name(answer));
        stand_init(&stand);
        REQUIRE(sparsestream_sink_to_fd(fd, SINK_OPTIONS(.flags = SPARSESTREAM_SYNC, .checkpoint = report_checkpoint,
                                                         .opaque = &answer), &sink) == 0);
        stand_open(&stand, end_stream_source(&stand.from), sink, NULL);
        check_final(&stand);
        stand_close(&stand);
        close(fd);
        unlink("target");
    }
}

static void a_transfer_that_is_failed_has_failed_for_good(void)
{
    for (size_t i = 0; i < COUNT(again); i++) {
        struct stand stand;

        context("%s", harness_errno_name(again[i]));
        stand_init(&stand);
        stand_open(&stand, end_stream_source(&stand.from), end_stream_sink(&stand.to), NULL);
        CHECK_CODE(sparsestream_transfer_fail(stand.transfer, again[i], "the pool is empty"), 0);
        check_final(&stand);
        CHECK_CONTAINS(transfer_error(stand.transfer).message, "the pool is empty");
        CHECK_INT(stand.to.abort_error, ==, EIO);
        stand_close(&stand);
    }
}

static int describe_requests(void *opaque, struct sparsestream_async_info *info)
{
    (void) opaque;
    info->total = 4096;
    return 0;
}

static int answer_request(void *opaque, struct sparsestream_request *request)
{
    return sparsestream_request_done(request, -*(const int *) opaque);
}

static void a_request_that_is_answered_has_failed_for_good(void)
{
    const struct sparsestream_async_ops ops = { .size = sizeof ops, .describe = describe_requests,
                                                .submit = answer_request };

    for (size_t i = 0; i < COUNT(again); i++) {
        int answer = again[i];
        struct sparsestream_source *source = NULL;
        struct stand stand;

        context("%s", harness_errno_name(answer));
        stand_init(&stand);
        REQUIRE(sparsestream_source_from_async(&ops, &answer, NULL, &source) == 0);
        stand_open(&stand, source, end_stream_sink(&stand.to), NULL);
        check_final(&stand);
        CHECK_INT(stand.to.aborts, ==, 1);
        stand_close(&stand);
    }
}

static void an_end_that_is_aborted_has_failed_for_good(void)
{
    for (size_t i = 0; i < COUNT(again); i++) {
        char byte = 0;
        struct sparsestream_sink *sink = NULL;
        struct sparsestream_source *source = NULL;

        context("%s", harness_errno_name(again[i]));
        REQUIRE(sparsestream_channel(NULL, &sink, &source) == 0);
        CHECK_CODE(sparsestream_sink_abort(sink, again[i]), 0);
        CHECK_CODE(sparsestream_source_read(source, &byte, 1), -EIO);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        REQUIRE(sparsestream_channel(NULL, &sink, &source) == 0);
        CHECK_CODE(sparsestream_source_abort(source, again[i]), 0);
        CHECK_CODE(sparsestream_sink_write(sink, &byte, 1), -EIO);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
    }
}

/* Waiting. */

struct waiting {
    int fd;
    int calls;
};

static int64_t not_ready(void *opaque, void *buffer, size_t length)
{
    (void) buffer;
    (void) length;
    ((struct waiting *) opaque)->calls++;
    return -EAGAIN;
}

static int wait_for(void *opaque, struct sparsestream_wait *wait)
{
    wait->fd = ((struct waiting *) opaque)->fd;
    wait->events = POLLIN;
    return 0;
}

/* poll(2) returns at once for it. */
static void a_descriptor_that_is_closed_is_not_waited_for(void)
{
    const struct sparsestream_source_ops ops = { .size = sizeof ops, .read = not_ready, .wait = wait_for };
    const struct sparsestream_stream_ops stream_ops = { .size = sizeof stream_ops, .recv = not_ready, .wait = wait_for };
    const int fds[] = { 1000, INT_MAX };

    for (size_t i = 0; i < COUNT(fds); i++) {
        struct waiting waiting = { .fd = fds[i] };
        struct end to = { .to = NULL };
        struct sparsestream_source *source = NULL;
        struct sparsestream_sink *sink = end_sink(&to);
        struct sparsestream_transfer *transfer;
        struct sparsestream_error error;

        context("descriptor %d", fds[i]);
        REQUIRE(sparsestream_source_from_callbacks(&ops, &waiting, &source) == 0);
        transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.stall_ms = 2000));
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EBADF);
        CHECK_INT(waiting.calls, ==, 1);
        error = transfer_error(transfer);
        CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_WAIT);
        CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SOURCE);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        sink = end_sink(&to);
        CHECK_CODE(sparsestream_recv_all(&stream_ops, &waiting, sink, TRANSFER_OPTIONS(.stall_ms = 2000), NULL), -EBADF);
        CHECK_INT(waiting.calls, ==, 2);
        sparsestream_sink_free(sink);
    }
}

/* Fields for later versions, which must be 0 now. */

struct reserving {
    struct end end;
    int32_t section, info;
};

static int report_reserved_section(void *opaque, struct sparsestream_section *section)
{
    const struct reserving *reserving = opaque;
    const int code = end_source_ops.section(opaque, section);

    section->reserved = reserving->section;
    return code;
}

static int report_reserved_info(void *opaque, struct sparsestream_source_info *info)
{
    info->reserved = (uint32_t) ((struct reserving *) opaque)->info;
    return 0;
}

static void a_field_for_later_versions_is_refused(void)
{
    const struct { int32_t section, info; } values[] = { { 0, 0 }, { 1, 0 }, { INT32_MIN, 0 }, { 0, 1 }, { 0, -1 } };
    struct sparsestream_transfer_options options = { .size = sizeof options, .reserved = 1 };

    for (size_t i = 0; i < COUNT(values); i++) {
        struct sparsestream_source_ops ops = end_source_ops;
        struct sparsestream_transfer *refused = NULL;
        struct reserving reserving = { .section = values[i].section, .info = values[i].info };
        struct sparsestream_source *source = NULL;
        struct sparsestream_sink *sink;
        struct stand stand;

        context("values %zu", i);
        stand_init(&stand);
        reserving.end.from = &stand.content;
        ops.section = report_reserved_section;
        ops.describe = report_reserved_info;
        REQUIRE(sparsestream_source_from_callbacks(&ops, &reserving, &source) == 0);
        sink = end_sink(&stand.to);
        CHECK_CODE(sparsestream_transfer_new(source, sink, &options, &refused), -EINVAL);
        CHECK_CONTAINS(sparsestream_last_error(), "options.reserved is 1, but must be 0");
        stand_open(&stand, source, sink, NULL);
        CHECK_CODE(sparsestream_transfer_run(stand.transfer, 0), i == 0 ? 0 : -EPROTO);
        stand_close(&stand);
    }
}

/* Lengths. */

struct claimed {
    struct end end;
    int64_t total;
};

static int describe(void *opaque, struct sparsestream_source_info *info)
{
    info->total = ((struct claimed *) opaque)->total;
    return 0;
}

static void a_source_that_ends_elsewhere_than_it_reported_fails(void)
{
    const struct {
        int64_t total;
        int code;
    } claims[] = {
        { 105007, 0 },
        { -1, 0 },
        { 105008, -ENODATA },
        { INT64_MAX, -ENODATA },
        { 105006, -EPROTO },
        { 4999, -EPROTO },
        { 0, -EPROTO },
    };

    for (size_t i = 0; i < COUNT(claims); i++) {
        for (int detects = 0; detects < 2; detects++) {
            struct sparsestream_stream_ops ops = end_stream_ops;
            struct sparsestream_source *source = NULL;
            struct claimed claimed = { .total = claims[i].total };
            struct sparsestream_error error;
            struct stand stand;

            context("total %jd, detects %d", (intmax_t) claims[i].total, detects);
            stand_init(&stand);
            claimed.end.from = &stand.content;
            ops.describe = describe;
            REQUIRE(sparsestream_source_from_stream(&ops, &claimed, &source) == 0);
            stand_open(&stand, source, end_stream_sink(&stand.to),
                       TRANSFER_OPTIONS(.flags = detects ? SPARSESTREAM_DETECT_ZEROES : 0));
            CHECK_CODE(sparsestream_transfer_run(stand.transfer, 0), claims[i].code);
            CHECK_INT(stand.to.finishes, ==, claims[i].code == 0);
            CHECK_INT(stand.to.aborts, ==, claims[i].code != 0);
            CHECK_INT(claimed.end.aborts, ==, claims[i].code != 0);
            error = transfer_error(stand.transfer);
            if (claims[i].code == -ENODATA) {
                CHECK_INT(error.offset, ==, 105007);
                CHECK_INT(error.expected, ==, claims[i].total);
            } else if (claims[i].code == -EPROTO) {
                CHECK_INT(error.offset, ==, claims[i].total);
                CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SOURCE);
            }
            stand_close(&stand);
        }
    }
}

/* A source that returns data again after its end. */
static int64_t end_twice(void *opaque, void *buffer, size_t length)
{
    int *calls = opaque;

    (void) length;
    *(char *) buffer = 'x';
    return ++*calls % 2;
}

static void a_source_that_has_ended_is_not_read_again(void)
{
    const struct sparsestream_source_ops ops = { .size = sizeof ops, .read = end_twice };
    const struct sparsestream_stream_ops stream_ops = { .size = sizeof stream_ops, .recv = end_twice };
    struct sparsestream_section section = { .size = sizeof section };

    for (int stream = 0; stream < 2; stream++) {
        struct sparsestream_source *source = NULL;
        int calls = 0;
        char byte;

        context("stream %d", stream);
        if (stream)
            REQUIRE(sparsestream_source_from_stream(&stream_ops, &calls, &source) == 0);
        else
            REQUIRE(sparsestream_source_from_callbacks(&ops, &calls, &source) == 0);
        CHECK_CODE(sparsestream_source_read(source, &byte, 1), 1);
        for (int round = 0; round < 3; round++)
            CHECK_CODE(sparsestream_source_read(source, &byte, 1), 0);
        CHECK_CODE(sparsestream_source_section(source, &section), 0);
        CHECK_INT(section.kind, ==, SPARSESTREAM_END);
        CHECK_CODE(sparsestream_source_finish(source), 0);
        CHECK_INT(calls, ==, 2);
        sparsestream_source_free(source);
    }
}

/* A hole that would end beyond the largest offset is refused, and the sink stays usable. */
static void check_largest_offset(struct sparsestream_sink *sink, bool keeps)
{
    const char bytes[2] = "x";

    CHECK_CODE(sparsestream_sink_hole(sink, INT64_MAX - 1), INT64_MAX - 1);
    for (int round = 0; round < 3; round++) {
        CHECK_CODE(sparsestream_sink_hole(sink, INT64_MAX), -EOVERFLOW);
        CHECK_CODE(sparsestream_sink_hole(sink, 2), -EOVERFLOW);
        CHECK_CODE(sparsestream_sink_write(sink, bytes, 2), -EOVERFLOW);
        if (keeps)
            CHECK_CODE(sparsestream_sink_keep(sink, 2), -EOVERFLOW);
    }
    CHECK_CODE(sparsestream_sink_write(sink, bytes, 1), 1);
    CHECK_CODE(sparsestream_sink_hole(sink, 1), -EOVERFLOW);
}

static void nothing_is_written_beyond_the_largest_offset(void)
{
    const struct sparsestream_plan plan = { .size = sizeof plan, .total = -1,
                                            .flags = SPARSESTREAM_WITH_HOLES | SPARSESTREAM_WITH_KEEPS };
    struct end end = { .to = NULL };
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_source *source = NULL;
    struct sparsestream_section section = { .size = sizeof section };
    const int out = open("/dev/null", O_WRONLY);

    context("table");
    REQUIRE(sparsestream_sink_to_callbacks(&end_keeping_sink_ops, &end, &sink) == 0);
    check_largest_offset(sink, true);
    CHECK_INT(end.taken, ==, INT64_MAX);
    sparsestream_sink_free(sink);
    context("stream");
    end = (struct end) { .to = NULL };
    sink = end_stream_sink(&end);
    check_largest_offset(sink, false);
    sparsestream_sink_free(sink);
    context("channel");
    REQUIRE(sparsestream_channel(NULL, &sink, &source) == 0);
    CHECK_CODE(sparsestream_sink_announce(sink, &plan, NULL), 0);
    CHECK_CODE(sparsestream_source_section(source, &section), -EAGAIN);
    check_largest_offset(sink, true);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    /* That of a wire has failed then. */
    context("wire");
    REQUIRE(out >= 0 && sparsestream_sink_to_wire(out, -1, NULL, &sink) == 0);
    CHECK_CODE(sparsestream_sink_hole(sink, INT64_MAX), INT64_MAX);
    for (int round = 0; round < 3; round++)
        CHECK_CODE(sparsestream_sink_hole(sink, 1), -EOVERFLOW);
    sparsestream_sink_free(sink);
    close(out);
}

TESTS(
    CASE(a_callback_that_may_only_stop_a_transfer_stops_it_for_good),
    CASE_WITHIN(a_checkpoint_callback_stops_a_transfer_for_good, 20),
    CASE(a_transfer_that_is_failed_has_failed_for_good),
    CASE(a_request_that_is_answered_has_failed_for_good),
    CASE(an_end_that_is_aborted_has_failed_for_good),
    CASE(a_descriptor_that_is_closed_is_not_waited_for),
    CASE(a_field_for_later_versions_is_refused),
    CASE(a_source_that_ends_elsewhere_than_it_reported_fails),
    CASE(a_source_that_has_ended_is_not_read_again),
    CASE(nothing_is_written_beyond_the_largest_offset))
