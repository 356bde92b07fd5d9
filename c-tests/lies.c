/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Callers and callbacks that break the rules in ways that a type cannot forbid. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
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

TESTS(
    CASE(a_callback_that_may_only_stop_a_transfer_stops_it_for_good),
    CASE_WITHIN(a_checkpoint_callback_stops_a_transfer_for_good, 20),
    CASE(a_transfer_that_is_failed_has_failed_for_good),
    CASE(a_request_that_is_answered_has_failed_for_good),
    CASE(an_end_that_is_aborted_has_failed_for_good))
