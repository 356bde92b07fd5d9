/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Servers that refuse, fail, stop and go away, and arguments that cannot be. */

#include "servers.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_now(const char *uri, const struct sparsestream_nbd_options *options)
{
    struct sparsestream_nbd *export = NULL;
    int r = sparsestream_nbd_open(uri, options, &export);

    CHECK((export != NULL) == (r == 0));
    sparsestream_nbd_free(export);
    return r;
}

static void an_error_of_the_server_has_the_offset_of_its_request(void)
{
    struct server server;
    struct outcome outcome;
    int to = file_new("to");

    /* Later requests fail as well, and may come back earlier. */
    NBDKIT(&server, "eval", "get_size=echo 64M",
           "pread=if [ $4 -ge 33554432 ]; then echo EIO bad >&2; exit 1; fi; "
           "sleep 0.0$(( $4 / 1048576 % 7 )); head -c $3 /dev/zero");
    outcome = move(export_source(server.uri, NULL, NULL), file_sink(to), NULL);
    CHECK_INT(outcome.r, ==, -EIO);
    CHECK_INT(outcome.error.side, ==, SPARSESTREAM_SIDE_SOURCE);
    CHECK_INT(outcome.error.operation, ==, SPARSESTREAM_OPERATION_READ);
    CHECK_INT(outcome.error.offset, >=, 32 * MiB);
    CHECK_INT(outcome.error.offset % (256 * KiB), ==, 0);
    server_stop(&server);
    close(to);
}

/* A server that offers another export after the first connection, and fails its reads. */
static void a_connection_to_another_export_is_not_used(void)
{
    const struct { const char *size, *write, *block; } others[] = {
        { "get_size=if [ $2 = 0 ]; then echo 8M; else echo 9M; fi", "can_write=exit 0", "block_size=echo 1 4096 1M" },
        { "get_size=echo 8M", "can_write=[ $2 = 0 ] || exit 3", "block_size=echo 1 4096 1M" },
        { "get_size=echo 8M", "can_write=exit 0", "block_size=if [ $2 = 0 ]; then echo 1 4096 1M; else echo 512 4096 1M; fi" },
    };

    for (size_t i = 0; i < COUNT(others); i++) {
        struct server server;
        int to = file_new("to"), opened = file_new("opened");

        context("row %zu", i);
        NBDKIT(&server, "eval", others[i].size, others[i].write, others[i].block, "can_multi_conn=exit 0",
               "open=echo >> opened; echo $(( $(wc -l < opened) - 1 ))",
               "pread=if [ $2 != 0 ]; then echo EIO another export >&2; exit 1; fi; sleep 0.01; head -c $3 /dev/zero");
        CHECK_MOVED(move(export_source(server.uri, NBD_OPTIONS(.request_size = 256 * KiB, .requests = 1), NULL),
                         file_sink(to), NULL));
        /* There was another one. */
        CHECK_INT(file_size(opened), >, 1);
        server_stop(&server);
        close(opened);
        close(to);
    }
    context("%s", "");
}

static void a_write_error_has_the_offset_of_its_request(void)
{
    struct server server;
    struct outcome outcome;
    int from = file_new("from");

    file_fill(from, 0, 4 * MiB, 1);
    NBDKIT(&server, "eval", "get_size=echo 64M", "can_write=exit 0", "pread=head -c $3 /dev/zero",
           "pwrite=cat > /dev/null; if [ $4 -eq 2097152 ]; then echo ENOSPC full >&2; exit 1; fi");
    outcome = move(file_source(from), export_sink(server.uri, NULL, NULL), NULL);
    CHECK_INT(outcome.r, ==, -ENOSPC);
    CHECK_INT(outcome.error.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(outcome.error.offset, ==, 2 * MiB);
    server_stop(&server);
    close(from);
}

static void a_flush_that_fails_fails_the_transfer(void)
{
    struct server server;
    struct outcome outcome;
    int from = file_new("from");

    file_fill(from, 0, 1 * MiB, 1);
    NBDKIT(&server, "eval", "get_size=echo 64M", "can_write=exit 0", "can_flush=exit 0",
           "pread=head -c $3 /dev/zero", "pwrite=cat > /dev/null", "flush=echo EIO lost >&2; exit 1");
    outcome = move(file_source(from), export_sink(server.uri, NULL, NULL), NULL);
    CHECK_INT(outcome.r, ==, -EIO);
    CHECK_INT(outcome.error.operation, ==, SPARSESTREAM_OPERATION_SYNC);
    server_stop(&server);
    close(from);
}

static void a_target_that_is_too_small_is_refused_before_a_byte_moves(void)
{
    struct server server;
    struct outcome outcome;
    int from = file_new("from"), to = file_new("to");

    file_fill(from, 0, 4 * MiB, 1);
    file_fill(to, 0, 4 * MiB - 512, 2);
    NBDKIT(&server, "file", "to");
    outcome = move(file_source(from), export_sink(server.uri, NULL, NULL), NULL);
    CHECK_INT(outcome.r, ==, -ENOSPC);
    CHECK_INT(file_differs_from_pattern(to, 0, 4 * MiB - 512, 2, 0), ==, -1);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_read_only_export_is_refused_as_a_sink(void)
{
    struct server server;
    struct sparsestream_nbd *export;
    struct sparsestream_sink *sink = NULL;

    NBDKIT(&server, "-r", "memory", "1M");
    export = open_export(server.uri, NULL);
    CHECK_CODE(sparsestream_nbd_sink(export, NULL, &sink), -EROFS);
    CHECK(sink == NULL);
    sparsestream_nbd_free(export);
    server_stop(&server);
}

static int kill_at(void *opaque, const struct sparsestream_stats *stats)
{
    struct server *server = opaque;

    if (server->pid != 0 && stats->position >= 4 * MiB)
        server_kill(server);
    return 0;
}

static void check_gone(bool source)
{
    struct server server;
    struct outcome outcome;
    int file = file_new("file");
    struct sparsestream_transfer_options *options =
        TRANSFER(.progress = kill_at, .progress_bytes = 1 * MiB, .opaque = &server);

    file_fill(file, 0, 64 * MiB, 1);
    NBDKIT(&server, "--filter=delay", "memory", "64M", "delay-read=3ms", "delay-write=3ms");
    if (source)
        outcome = move(export_source(server.uri, NULL, END_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP)), file_sink(file),
                       options);
    else
        outcome = move(file_source(file), export_sink(server.uri, NULL, NULL), options);
    CHECK_CODE(outcome.r, -ECONNRESET);
    CHECK_INT(outcome.error.side, ==, source ? SPARSESTREAM_SIDE_SOURCE : SPARSESTREAM_SIDE_SINK);
    CHECK_INT(outcome.error.offset, >=, outcome.stats.position);
    CHECK_INT(server.pid, ==, 0);
    close(file);
}

static void a_source_that_goes_away_is_an_error_with_an_offset(void)
{
    check_gone(true);
}

static void a_sink_that_goes_away_is_an_error_with_an_offset(void)
{
    check_gone(false);
}

/* The other server has requests in flight then, which must come back before the transfer ends. */
static void check_gone_between_servers(bool source)
{
    struct server mortal, other;
    struct outcome outcome;

    NBDKIT(&mortal, "--filter=delay", "memory", "64M", "delay-read=3ms", "delay-write=3ms");
    NBDKIT(&other, "--filter=delay", "memory", "64M", "delay-read=100ms", "delay-write=100ms");
    outcome = move(export_source(source ? mortal.uri : other.uri, NULL, END_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP)),
                   export_sink(source ? other.uri : mortal.uri, NULL, NULL),
                   TRANSFER(.progress = kill_at, .progress_bytes = 1 * MiB, .opaque = &mortal));
    CHECK_CODE(outcome.r, -ECONNRESET);
    CHECK_INT(outcome.error.side, ==, source ? SPARSESTREAM_SIDE_SOURCE : SPARSESTREAM_SIDE_SINK);
    server_stop(&other);
}

static void a_source_that_goes_away_ends_a_transfer_between_servers(void)
{
    check_gone_between_servers(true);
}

static void a_sink_that_goes_away_ends_a_transfer_between_servers(void)
{
    check_gone_between_servers(false);
}

/* Passes on what comes until the server has sent `length` bytes, and closes the connection after them. */
static void relay(const char *path, int client, size_t length)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct pollfd fds[] = { { .fd = client, .events = POLLIN },
                            { .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .events = POLLIN } };
    char buffer[4096];

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (connect(fds[1].fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return;
    while (length > 0 && poll(fds, 2, -1) > 0) {
        ssize_t count;

        if (fds[0].revents != 0 && ((count = read(client, buffer, sizeof(buffer))) <= 0 ||
                                    write(fds[1].fd, buffer, (size_t)count) != count))
            return;
        if (fds[1].revents == 0)
            continue;
        count = read(fds[1].fd, buffer, length < sizeof(buffer) ? length : sizeof(buffer));
        if (count <= 0 || write(client, buffer, (size_t)count) != count)
            return;
        length -= (size_t)count;
    }
}

static void a_connection_that_is_cut_within_a_reply_is_reset(void)
{
    /* In the handshake, in the header of a reply or its payload. */
    static const size_t lengths[] = { 10, 300, MiB + 100, 2 * MiB + 1 };
    struct server server;
    int file = file_new("file");

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct sparsestream_nbd *export = NULL;
        struct sparsestream_source *source = NULL;
        struct outcome outcome;
        int fds[2], r;
        pid_t child;

        context("cut after %zu bytes", lengths[i]);
        /* nbdkit 1.32 fails an assertion of its own when it cannot send, so each connection has another server. */
        NBDKIT(&server, "memory", "64M");
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            close(fds[0]);
            relay(server.socket, fds[1], lengths[i]);
            _exit(0);
        }
        close(fds[1]);
        r = sparsestream_nbd_open_socket(fds[0], NULL, &export);
        if (r == 0) {
            REQUIRE(sparsestream_nbd_source(export, END_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP), &source) == 0);
            outcome = move(source, file_sink(file), NULL);
            CHECK_INT(outcome.error.side, ==, SPARSESTREAM_SIDE_SOURCE);
            CHECK_INT(outcome.error.offset, >=, outcome.stats.position);
            r = outcome.r;
        } else {
            CHECK_INT(lengths[i], ==, lengths[0]);
        }
        CHECK_INT(r, ==, -ECONNRESET);
        sparsestream_nbd_free(export);
        REQUIRE(waitpid(child, NULL, 0) == child);
        server_kill(&server);
    }
    close(file);
}

static int stop_at(void *opaque, const struct sparsestream_stats *stats)
{
    struct server *server = opaque;

    if (stats->position >= 4 * MiB)
        kill(server->pid, SIGSTOP);
    return 0;
}

static void a_server_that_stops_is_noticed_by_the_stall_limit(void)
{
    struct server server;
    struct outcome outcome;
    int64_t begun;
    int file = file_new("file");

    file_fill(file, 0, 64 * MiB, 1);
    NBDKIT(&server, "--filter=delay", "memory", "64M", "delay-write=3ms");
    begun = harness_now();
    outcome = move(file_source(file), export_sink(server.uri, NULL, NULL),
                   TRANSFER(.progress = stop_at, .progress_bytes = 1 * MiB, .opaque = &server, .stall_ms = 500));
    CHECK_INT(outcome.r, ==, -ETIMEDOUT);
    CHECK_INT(harness_now() - begun, <, 5000 * harness_slowness());
    server_stop(&server);
    close(file);
}

static void a_stopped_server_does_not_hold_up_open(void)
{
    struct server server;
    int64_t begun;

    NBDKIT(&server, "memory", "1M");
    kill(server.pid, SIGSTOP);
    begun = harness_now();
    CHECK_INT(open_now(server.uri, NBD_OPTIONS(.timeout_ms = 300)), ==, -ETIMEDOUT);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "300 ms");
    CHECK_INT(harness_now() - begun, >=, 290);
    CHECK_INT(harness_now() - begun, <, 3000 * harness_slowness());
    server_stop(&server);
}

static void nobody_who_listens_is_an_error_at_once(void)
{
    CHECK_INT(open_now("nbd+unix:///?socket=/nonexistent/socket", NULL), ==, -ENOENT);
    CHECK_INT(open_now("nbd://127.0.0.1:1/", NULL), ==, -ECONNREFUSED);
    CHECK(sparsestream_nbd_last_error()[0] != '\0');
    CHECK_INT(open_now("http://127.0.0.1/", NULL), <, 0);
    CHECK_INT(open_now("", NULL), <, 0);
}

static void an_export_that_is_not_there_is_refused(void)
{
    struct server server;
    char uri[256];

    NBDKIT(&server, "--filter=exportname", "memory", "1M", "exportname-strict=true", "exportname=a");
    snprintf(uri, sizeof uri, "nbd+unix:///b?socket=%s", server.socket);
    CHECK_INT(open_now(uri, NULL), <, 0);
    snprintf(uri, sizeof uri, "nbd+unix:///a?socket=%s", server.socket);
    CHECK_INT(open_now(uri, NULL), ==, 0);
    server_stop(&server);
}

static void a_peer_that_does_not_speak_nbd_is_an_error(void)
{
    struct sparsestream_nbd *export = NULL;
    int fds[2];

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    REQUIRE(write(fds[1], "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n\r\n", 36) == 36);
    CHECK_INT(sparsestream_nbd_open_socket(fds[0], NULL, &export), <, 0);
    CHECK(export == NULL);
    close(fds[1]);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    close(fds[1]);
    CHECK_INT(sparsestream_nbd_open_socket(fds[0], NULL, &export), <, 0);
    CHECK(export == NULL);
}

static void a_cancelled_transfer_ends_at_once(void)
{
    struct server server;
    struct sparsestream_transfer *transfer = NULL;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    int64_t begun;
    int r, file = file_new("file");

    file_fill(file, 0, 8 * MiB, 1);
    NBDKIT(&server, "--filter=delay", "memory", "8M", "delay-write=10");
    source = file_source(file);
    sink = export_sink(server.uri, NULL, NULL);
    CHECK_CODE(sparsestream_transfer_new(source, sink, NULL, &transfer), 0);
    for (int i = 0; i < 20; i++)
        sparsestream_transfer_run(transfer, 1);
    begun = harness_now();
    CHECK_CODE(sparsestream_transfer_cancel(transfer), 0);
    while ((r = sparsestream_transfer_run(transfer, 0)) == -EAGAIN)
        poll(NULL, 0, 1);
    CHECK_INT(r, ==, -ECANCELED);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(harness_now() - begun, <, 1000 * harness_slowness());
    server_kill(&server);
    close(file);
}

static void arguments_that_cannot_be_are_refused(void)
{
    struct sparsestream_nbd *export = NULL;
    struct sparsestream_source *source = NULL, *second = NULL;
    struct server server;

    CHECK_CODE(sparsestream_nbd_open(NULL, NULL, &export), -EINVAL);
    CHECK_CODE(sparsestream_nbd_open("nbd://", NULL, NULL), -EINVAL);
    CHECK_CODE(sparsestream_nbd_open_socket(-1, NULL, &export), -EINVAL);
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.flags = 1 << 20)), ==, -EINVAL);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "0x100000, but may have only: SPARSESTREAM_NBD_NONBLOCK, ");
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.connections = 5)), ==, -EINVAL);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "connections");
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.requests = -1)), ==, -EINVAL);
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.request_size = 5000)), ==, -EINVAL);
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.memory = 4095)), ==, -EINVAL);
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.memory = 4096, .request_size = 8192)), ==, -EINVAL);
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.timeout_ms = -1)), ==, -EINVAL);
    CHECK_INT(open_now("nbd://x", NBD_OPTIONS(.export_name = "a")), ==, -EINVAL);
    NBDKIT(&server, "memory", "1M");
    export = open_export(server.uri, NULL);
    CHECK_CODE(sparsestream_nbd_source(NULL, NULL, &source), -EINVAL);
    CHECK_CODE(sparsestream_nbd_source(export, NULL, NULL), -EINVAL);
    CHECK_CODE(sparsestream_nbd_source(export, END_OPTIONS(.offset = -1), &source), -EINVAL);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "options.offset: -1 is not from 0 to ");
    CHECK_CODE(sparsestream_nbd_source(export, END_OPTIONS(.flags = 6), &source), -EINVAL);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "options.flags: 0x6 has 0x6, but may have only: SPARSESTREAM_IGNORE_MAP");
    CHECK_CODE(sparsestream_nbd_source(export, NULL, &source), 0);
    CHECK_CODE(sparsestream_nbd_source(export, NULL, &second), -EBUSY);
    sparsestream_nbd_free(export);
    sparsestream_source_free(source);
    sparsestream_nbd_free(NULL);
    server_stop(&server);
}

TESTS(
    CASE(an_error_of_the_server_has_the_offset_of_its_request),
    CASE(a_connection_to_another_export_is_not_used),
    CASE(a_write_error_has_the_offset_of_its_request),
    CASE(a_flush_that_fails_fails_the_transfer),
    CASE(a_target_that_is_too_small_is_refused_before_a_byte_moves),
    CASE(a_read_only_export_is_refused_as_a_sink),
    CASE(a_source_that_goes_away_is_an_error_with_an_offset),
    CASE(a_sink_that_goes_away_is_an_error_with_an_offset),
    CASE(a_source_that_goes_away_ends_a_transfer_between_servers),
    CASE(a_sink_that_goes_away_ends_a_transfer_between_servers),
    CASE(a_connection_that_is_cut_within_a_reply_is_reset),
    CASE(a_server_that_stops_is_noticed_by_the_stall_limit),
    CASE(a_stopped_server_does_not_hold_up_open),
    CASE(nobody_who_listens_is_an_error_at_once),
    CASE(an_export_that_is_not_there_is_refused),
    CASE(a_peer_that_does_not_speak_nbd_is_an_error),
    CASE(a_cancelled_transfer_ends_at_once),
    CASE(arguments_that_cannot_be_are_refused),
)
