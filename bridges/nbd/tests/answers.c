/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Servers that answer in unusual ways: the right bytes arrive, or the error says where. */

#include "servers.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* A server of the file `from` whose block status is what this script prints. */
static void serve(struct server *server, const char *script)
{
    char extents[512];

    snprintf(extents, sizeof extents, "extents=%s", script);
    NBDKIT(server, "eval", "get_size=echo 8M", "can_extents=exit 0", extents,
           "pread=dd if=from iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k status=none");
}

static void block_status_that_is_odd_does_not_change_the_bytes(void)
{
    static const char *const scripts[] = {
        /* Longer than the request and the export. */
        "echo 0 1M; echo 1M 3M hole,zero; echo 4M 100M",
        /* Empty extents, no extent at all, no numbers. */
        "echo $4 0; echo $4 $3",
        "true",
        "echo some text",
        /* After the place that was asked for, and before it. */
        "echo 5M 3M hole,zero",
        "echo 0 4K",
        /* It fails in the middle. */
        "if [ $4 -ge 1048576 ]; then echo EIO >&2; exit 1; fi; echo $4 512K",
        /* A hole that may not read as zeros is data. */
        "echo 0 8M hole",
        /* Not on the boundary of any block. */
        "echo 0 1048577; echo 1048577 3000000 hole,zero; echo 4048577 4M",
    };
    int from = sparse_image("from"), to = file_new("to");

    for (size_t i = 0; i < COUNT(scripts); i++) {
        struct server server;

        context("%s", scripts[i]);
        file_resize(to, 0);
        serve(&server, scripts[i]);
        CHECK_MOVED(move(export_source(server.uri, NULL, NULL), file_sink(to), NULL));
        CHECK_INT(file_size(to), ==, SPARSE_SIZE);
        CHECK_INT(file_differs(from, 0, to, 0, SPARSE_SIZE), ==, -1);
        server_stop(&server);
    }
    context("%s", "");
    close(from);
    close(to);
}

/* 2,048 answers for 4 KiB each would take half a minute. 32 do, as reads have 512 KiB. */
static void a_server_that_answers_for_little_is_not_asked_for_all(void)
{
    struct server server;
    struct outcome outcome;
    int64_t begun;
    int from = sparse_image("from"), to = file_new("to");

    NBDKIT(&server, "--filter=delay", "eval", "get_size=echo 8M", "can_extents=exit 0", "extents=echo $4 4096",
           "pread=dd if=from iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k status=none", "delay-extents=15ms");
    begun = harness_now();
    outcome = move(export_source(server.uri, NULL, NULL), file_sink(to), NULL);
    CHECK_MOVED(outcome);
    CHECK_INT(harness_now() - begun, <, 10000 * harness_slowness());
    CHECK_INT(file_differs(from, 0, to, 0, SPARSE_SIZE), ==, -1);
    server_stop(&server);
    close(from);
    close(to);
}

/* Copies 1 MiB to a server that runs `flush` at the flush. The error is at the end. */
static int fail_at_flush(const char *flush, int64_t stall_ms, int32_t *operation)
{
    struct server server;
    struct outcome outcome;
    int from = file_new("from");

    file_fill(from, 0, 1 * MiB, 1);
    NBDKIT(&server, "eval", "get_size=echo 64M", "can_write=exit 0", "can_flush=exit 0", "pread=head -c $3 /dev/zero",
           "pwrite=cat > /dev/null", flush);
    outcome = move(file_source(from), export_sink(server.uri, NULL, NULL), TRANSFER(.stall_ms = stall_ms));
    CHECK_INT(outcome.error.offset, ==, 1 * MiB);
    *operation = outcome.error.operation;
    server_kill(&server);
    close(from);
    return outcome.r;
}

static void a_server_that_dies_at_the_flush_is_an_error_at_the_end(void)
{
    int32_t operation;
    int r = fail_at_flush("flush=kill -9 $PPID", 0, &operation);

    CHECK_INT(r, ==, -ECONNRESET);
    CHECK_INT(operation, ==, SPARSESTREAM_OPERATION_SYNC);
}

static void a_server_that_stops_at_the_flush_is_noticed_by_the_stall_limit(void)
{
    int32_t operation;

    CHECK_INT(fail_at_flush("flush=kill -STOP $PPID; sleep 1", 500, &operation), ==, -ETIMEDOUT);
}

TESTS(
    CASE(block_status_that_is_odd_does_not_change_the_bytes),
    CASE(a_server_that_answers_for_little_is_not_asked_for_all),
    CASE(a_server_that_dies_at_the_flush_is_an_error_at_the_end),
    CASE(a_server_that_stops_at_the_flush_is_noticed_by_the_stall_limit),
)
