/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Other servers, filters, transports and clients: bytes and holes arrive through each. */

#include "servers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static void check_file(const char *name, int image)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);

    REQUIRE(fd >= 0);
    CHECK_INT(file_size(fd), ==, SPARSE_SIZE);
    CHECK_INT(file_differs(image, 0, fd, 0, SPARSE_SIZE), ==, -1);
    close(fd);
}

/* Each eight bytes of this server are their own offset, most significant byte first. */
static void the_pattern_of_a_server_is_read_where_it_belongs(void)
{
    struct server server;
    unsigned char bytes[4096];
    int to = file_new("to");

    NBDKIT(&server, "pattern", "size=64M");
    CHECK_MOVED(move(export_source(server.uri, NULL, NULL), file_sink(to), NULL));
    CHECK_INT(file_size(to), ==, 64 * MiB);
    for (int64_t offset = 0; offset < 64 * MiB; offset += sizeof bytes) {
        REQUIRE(pread(to, bytes, sizeof bytes, offset) == sizeof bytes);
        for (size_t i = 0; i < sizeof bytes; i++) {
            if (bytes[i] != (unsigned char)((uint64_t)(offset + (int64_t)(i & ~7UL)) >> (56 - 8 * (i & 7)))) {
                CHECK_INT(offset + (int64_t)i, ==, -1);
                break;
            }
        }
    }
    server_stop(&server);
    close(to);
}

static void a_server_that_limits_its_rate_is_waited_for(void)
{
    struct server server;
    int64_t begun;
    int from = sparse_image("from"), to = file_new("to");

    /* 1.1 MiB of data at 16 Mbit/s is more than half a second; its bucket lends some of it. */
    NBDKIT(&server, "--filter=rate", "file", "from", "rate=16M", "burstiness=0.1");
    begun = harness_now();
    CHECK_MOVED(move(export_source(server.uri, NULL, NULL), file_sink(to), TRANSFER(.stall_ms = 20000)));
    CHECK_INT(harness_now() - begun, >, 200);
    CHECK_INT(file_differs(from, 0, to, 0, SPARSE_SIZE), ==, -1);
    server_stop(&server);
    close(from);
    close(to);
}

/* The server rounds the size of its file up: what is beyond the file reads as zeros, and takes zeros only. */
static void an_export_that_is_larger_than_its_file_is_moved(void)
{
    struct server server;
    struct outcome outcome;
    int from = sparse_image("from"), to = file_new("to");

    file_resize(from, SPARSE_SIZE - 1000);
    NBDKIT(&server, "--filter=truncate", "file", "from", "round-up=65536");
    outcome = move(export_source(server.uri, NULL, NULL), file_sink(to), NULL);
    CHECK_MOVED(outcome);
    file_resize(from, SPARSE_SIZE);
    check_file("to", from);
    CHECK_INT(outcome.stats.hole_bytes, >, 6 * MiB);
    server_stop(&server);
    file_fill(to, 0, SPARSE_SIZE, 3);
    file_resize(to, SPARSE_SIZE - 1000);
    NBDKIT(&server, "--filter=truncate", "file", "to", "round-up=65536");
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, NULL, NULL), NULL));
    server_stop(&server);
    CHECK_INT(file_differs(from, 0, to, 0, SPARSE_SIZE - 1000), ==, -1);
    close(from);
    close(to);
}

static void an_export_that_is_smaller_than_its_file_keeps_the_rest(void)
{
    struct server server;
    int from = sparse_image("from"), to = file_new("to");

    file_fill(to, 0, 2 * SPARSE_SIZE, 3);
    NBDKIT(&server, "--filter=truncate", "file", "to", "truncate=8M");
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, NULL, NULL), NULL));
    CHECK_INT(file_differs(from, 0, to, 0, SPARSE_SIZE), ==, -1);
    CHECK_INT(file_differs_from_pattern(to, SPARSE_SIZE, SPARSE_SIZE, 3, 0), ==, -1);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_server_is_reached_over_tcp(void)
{
    struct server server;
    int from = sparse_image("from"), to = file_new("to");

    nbdkit_start_tcp(&server, free_port(), (const char *const[]){ "file", "from", NULL });
    CHECK_MOVED(move(export_source(server.uri, NULL, NULL), file_sink(to), NULL));
    check_file("to", from);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_server_is_reached_over_vsock(void)
{
    struct server server;
    int from = sparse_image("from"), to = file_new("to");

    nbdkit_start_vsock(&server, 10000 + (int)(getpid() % 50000), (const char *const[]){ "file", "from", NULL });
    CHECK_MOVED(move(export_source(server.uri, NULL, NULL), file_sink(to), NULL));
    check_file("to", from);
    server_stop(&server);
    close(from);
    close(to);
}

static void nbdcopy_reads_what_was_written(void)
{
    struct server server;
    int from = sparse_image("from");

    NBDKIT(&server, "memory", "8M");
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, NULL, NULL), NULL));
    CHECK_INT(RUN("nbdcopy", server.uri, "to"), ==, 0);
    check_file("to", from);
    server_stop(&server);
    close(from);
}

/* The client of libnbd for Python reads the bytes, and sees the holes by itself. */
static void a_client_in_python_reads_what_was_written(void)
{
    static const char program[] =
        "import nbd, sys\n"
        "h = nbd.NBD()\n"
        "h.add_meta_context('base:allocation')\n"
        "h.connect_uri(sys.argv[1])\n"
        "size, holes, at = h.get_size(), 0, 0\n"
        "with open('to', 'wb') as file:\n"
        "    while at < size:\n"
        "        file.write(h.pread(min(1 << 20, size - at), at))\n"
        "        at += 1 << 20\n"
        "def seen(context, offset, entries, error):\n"
        "    global holes\n"
        "    holes += sum(l for l, f in zip(entries[::2], entries[1::2]) if f & nbd.STATE_ZERO)\n"
        "h.block_status(size, 0, seen)\n"
        "sys.exit(0 if size == 8 << 20 and holes >= 6 << 20 else 9)\n";
    const char *const pythons[] = { "python3", "/usr/bin/python3" };
    struct server server;
    const char *python = NULL;
    int from = sparse_image("from");

    for (size_t i = 0; i < COUNT(pythons) && python == NULL; i++) {
        if (RUN("sh", "-c", "command -v \"$0\" >/dev/null && \"$0\" -c 'import nbd'", pythons[i]) == 0)
            python = pythons[i];
    }
    if (python == NULL)
        skip("Python has no module nbd (Debian: python3-libnbd)");
    NBDKIT(&server, "memory", "8M");
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, NULL, NULL), NULL));
    CHECK_INT(RUN("sh", "-c", "exec \"$0\" -c \"$1\" \"$2\"", python, program, server.uri), ==, 0);
    check_file("to", from);
    server_stop(&server);
    close(from);
}

TESTS(
    CASE(the_pattern_of_a_server_is_read_where_it_belongs),
    CASE(a_server_that_limits_its_rate_is_waited_for),
    CASE(an_export_that_is_larger_than_its_file_is_moved),
    CASE(an_export_that_is_smaller_than_its_file_keeps_the_rest),
    CASE(a_server_is_reached_over_tcp),
    CASE(a_server_is_reached_over_vsock),
    CASE(nbdcopy_reads_what_was_written),
    CASE(a_client_in_python_reads_what_was_written),
)
