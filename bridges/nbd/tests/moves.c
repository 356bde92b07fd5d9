/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Bytes and holes, from servers and to servers. */

#include "servers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static const struct piece layout[] = {
    DATA(1 * MiB), HOLE(3 * MiB), DATA(64 * KiB), HOLE(64 * KiB), DATA(4 * KiB), HOLE(8 * MiB), DATA(100 * KiB),
    HOLE(924 * KiB),
};

static int64_t laid_out(void)
{
    int64_t size = 0;

    for (size_t i = 0; i < COUNT(layout); i++)
        size += layout[i].length;
    return size;
}

/* A file with the layout, full of old bytes where `old` says so. */
static int image(const char *file)
{
    int fd = file_new(file);

    file_lay_out(fd, 0, layout, COUNT(layout), 7);
    file_resize(fd, laid_out());
    return fd;
}

static int old_image(const char *file)
{
    int fd = file_new(file);

    file_fill(fd, 0, laid_out(), 3);
    return fd;
}

#define CHECK_SAME(left, right)                                                                            \
    do {                                                                                                   \
        CHECK_INT(file_size(left), ==, file_size(right));                                                  \
        CHECK_INT(file_differs(left, 0, right, 0, file_size(right)), ==, -1);                              \
    } while (0)

static void a_file_server_is_copied_with_its_holes(void)
{
    struct server server;
    int from = image("from"), to = file_new("to");
    struct outcome outcome;

    NBDKIT(&server, "file", "from");
    outcome = move(export_source(server.uri, NULL, NULL), file_sink(to), NULL);
    CHECK_MOVED(outcome);
    CHECK_SAME(from, to);
    CHECK_INT(outcome.stats.total, ==, laid_out());
    CHECK_INT(file_allocated(to), <=, file_allocated(from) + 64 * KiB);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_file_goes_to_a_server_full_of_old_bytes(void)
{
    struct server server;
    int from = image("from"), to = old_image("to");
    struct outcome outcome;

    NBDKIT(&server, "file", "to");
    outcome = move(file_source(from), export_sink(server.uri, NULL, NULL), NULL);
    CHECK_MOVED(outcome);
    CHECK_SAME(from, to);
    CHECK_INT(file_allocated(to), <=, file_allocated(from) + 64 * KiB);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_server_goes_to_a_server(void)
{
    struct server one, other;
    int from = image("from"), to = old_image("to");

    NBDKIT(&one, "--filter=delay", "file", "from", "rdelay=2ms");
    NBDKIT(&other, "--filter=delay", "file", "to", "wdelay=3ms");
    CHECK_MOVED(move(export_source(one.uri, NULL, NULL), export_sink(other.uri, NULL, NULL), NULL));
    CHECK_SAME(from, to);
    CHECK_INT(file_allocated(to), <=, file_allocated(from) + 64 * KiB);
    server_stop(&one);
    server_stop(&other);
    close(from);
    close(to);
}

/* A server which checks that what is written is what it would have sent itself. */
static void random_content_arrives_where_it_belongs(void)
{
    struct server one, other;

    NBDKIT(&one, "sparse-random", "size=256M", "seed=5", "percent=5", "runlength=102400");
    NBDKIT(&other, "--filter=delay", "sparse-random", "size=256M", "seed=5", "percent=5", "runlength=102400",
           "wdelay=1ms");
    CHECK_MOVED(move(export_source(one.uri, NULL, NULL), export_sink(other.uri, NULL, NULL), NULL));
    server_stop(&one);
    server_stop(&other);
}

static void the_check_of_that_server_notices_wrong_content(void)
{
    struct server one, other;

    NBDKIT(&one, "sparse-random", "size=16M", "seed=5", "percent=50", "runlength=65536");
    NBDKIT(&other, "sparse-random", "size=16M", "seed=6", "percent=50", "runlength=65536");
    CHECK_INT(move(export_source(one.uri, NULL, NULL), export_sink(other.uri, NULL, NULL), NULL).r, ==, -EIO);
    server_stop(&one);
    server_stop(&other);
}

static void an_empty_server_of_1_tib_costs_few_round_trips(void)
{
    struct server one, other;
    struct outcome outcome;
    int64_t begun = harness_now();

    NBDKIT(&one, "--filter=delay", "memory", "1T", "delay-extents=10ms");
    NBDKIT(&other, "memory", "1T");
    outcome = move(export_source(one.uri, NULL, NULL), export_sink(other.uri, NULL, NULL), NULL);
    CHECK_MOVED(outcome);
    CHECK_INT(outcome.stats.hole_bytes, ==, 1 * TiB);
    CHECK_INT(outcome.stats.data_bytes, ==, 0);
    /* 257 steps, of which 16 are under way at once. One by one they would take 2.6 s. */
    CHECK_INT(harness_now() - begun, <, 1500 * harness_slowness());
    server_stop(&one);
    server_stop(&other);
}

static void without_block_status_everything_is_read(void)
{
    struct server server;
    int from = image("from"), to = file_new("to");
    struct outcome outcome;

    NBDKIT(&server, "--filter=noextents", "file", "from");
    outcome = move(export_source(server.uri, NULL, NULL), file_sink(to), NULL);
    CHECK_MOVED(outcome);
    CHECK_INT(outcome.stats.data_bytes, ==, laid_out());
    CHECK_SAME(from, to);
    server_stop(&server);
    close(from);
    close(to);
}

static void block_status_that_fails_is_a_hint_that_is_absent(void)
{
    struct server server;
    int from = image("from"), to = file_new("to");
    struct outcome outcome;

    NBDKIT(&server, "--filter=error", "file", "from", "error-extents=EIO", "error-extents-rate=100%");
    outcome = move(export_source(server.uri, NULL, NULL), file_sink(to), NULL);
    CHECK_MOVED(outcome);
    CHECK_INT(outcome.stats.data_bytes, ==, laid_out());
    CHECK_SAME(from, to);
    server_stop(&server);
    close(from);
    close(to);
}

/* Holes that are finer than the block are read; requests that are not whole blocks would fail. */
static void holes_within_a_block_of_the_server_are_read(void)
{
    struct server server;
    int from = image("from"), to = file_new("to");
    struct outcome outcome;

    file_resize(from, 13 * MiB);
    NBDKIT(&server, "--filter=blocksize-policy", "file", "from", "blocksize-minimum=65536",
           "blocksize-preferred=65536", "blocksize-error-policy=error");
    outcome = move(export_source(server.uri, NULL, NULL), file_sink(to), NULL);
    CHECK_MOVED(outcome);
    CHECK_SAME(from, to);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_range_within_blocks_keeps_what_is_around_it(void)
{
    struct server server;
    int from = image("from"), to = old_image("to");

    file_resize(to, 14 * MiB);
    file_fill(to, 0, 14 * MiB, 3);
    NBDKIT(&server, "--filter=blocksize-policy", "file", "to", "blocksize-minimum=4096", "blocksize-preferred=4096",
           "blocksize-error-policy=error");
    file_resize(from, 3 * MiB + 333);
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, NULL, END_OPTIONS(.offset = 5001)), NULL));
    CHECK_INT(file_differs_from_pattern(to, 0, 5001, 3, 0), ==, -1);
    CHECK_INT(file_differs(from, 0, to, 5001, 3 * MiB + 333), ==, -1);
    CHECK_INT(file_differs_from_pattern(to, 5001 + 3 * MiB + 333, 14 * MiB - 5001 - 3 * MiB - 333, 3, 0), ==, -1);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_range_of_a_source_is_read(void)
{
    struct server server;
    int from = image("from"), to = file_new("to");
    struct outcome outcome;

    NBDKIT(&server, "file", "from");
    outcome = move(export_source(server.uri, NULL, END_OPTIONS(.offset = 1 * MiB - 77, .length = 4 * MiB)),
                   file_sink(to), NULL);
    CHECK_MOVED(outcome);
    CHECK_INT(file_size(to), ==, 4 * MiB);
    CHECK_INT(file_differs(from, 1 * MiB - 77, to, 0, 4 * MiB), ==, -1);
    CHECK_INT(outcome.stats.hole_bytes, >, 2 * MiB);
    server_stop(&server);
    close(from);
    close(to);
}

static void small_holes_are_read_if_that_is_asked(void)
{
    struct server server;
    int from = image("from"), to = file_new("to");
    struct outcome outcome;

    NBDKIT(&server, "file", "from");
    outcome = move(export_source(server.uri, NULL, END_OPTIONS(.least_hole = 128 * KiB)), file_sink(to), NULL);
    CHECK_MOVED(outcome);
    CHECK_SAME(from, to);
    CHECK_INT(outcome.stats.hole_sections, ==, 3);
    server_stop(&server);
    close(from);
    close(to);
}

static void check_sink(const struct sparsestream_nbd_end_options *end, const char *const *arguments, bool holes)
{
    struct server server;
    int from = image("from"), to = old_image("to");

    nbdkit_start(&server, arguments);
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, NULL, end), NULL));
    CHECK_SAME(from, to);
    CHECK_INT(file_allocated(to) <= file_allocated(from) + 64 * KiB, ==, holes);
    server_stop(&server);
    close(from);
    close(to);
}

#define ARGUMENTS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void zeros_are_written_where_the_server_cannot_zero(void)
{
    check_sink(NULL, ARGUMENTS("--filter=nozero", "file", "to"), false);
}

static void zeros_are_written_where_the_server_refuses_to_zero(void)
{
    check_sink(NULL, ARGUMENTS("--filter=error", "file", "to", "error-zero=EINVAL", "error-zero-rate=100%"),
               false);
}

static void zeros_are_written_where_that_is_asked(void)
{
    check_sink(END_OPTIONS(.zeroes = SPARSESTREAM_NBD_ZEROES_WRITE), ARGUMENTS("file", "to"), false);
}

static void zeroing_that_is_not_fast_is_not_waited_for(void)
{
    check_sink(END_OPTIONS(.zeroes = SPARSESTREAM_NBD_ZEROES_FAST),
               ARGUMENTS("--filter=nozero", "file", "to", "zeromode=emulate", "fastzeromode=slow"), false);
}

static void zeroed_ranges_stay_allocated_if_that_is_asked(void)
{
    check_sink(END_OPTIONS(.flags = SPARSESTREAM_NBD_NO_HOLE), ARGUMENTS("file", "to"), false);
}

/* A server that zeroes by itself, and one where TRIM is an error. */
static void a_hole_is_never_a_trim(void)
{
    check_sink(NULL, ARGUMENTS("--filter=error", "file", "to", "error-trim=EIO", "error-trim-rate=100%"), true);
}

static void a_longer_target_keeps_its_tail(void)
{
    struct server server;
    int from = image("from"), to = file_new("to");

    file_fill(to, 0, 20 * MiB, 3);
    NBDKIT(&server, "file", "to");
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, NULL, NULL), NULL));
    CHECK_INT(file_differs(from, 0, to, 0, laid_out()), ==, -1);
    CHECK_INT(file_differs_from_pattern(to, laid_out(), 20 * MiB - laid_out(), 3, 0), ==, -1);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_qcow2_image_keeps_its_map(void)
{
    struct server one, other;
    int from = image("from");

    CHECK_INT(RUN("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "from", "a.qcow2"), ==, 0);
    CHECK_INT(RUN("qemu-img", "create", "-q", "-f", "qcow2", "b.qcow2", "13766656"), ==, 0);
    QEMU_NBD(&one, "-r", "-f", "qcow2", "a.qcow2");
    QEMU_NBD(&other, "-f", "qcow2", "--discard=unmap", "--detect-zeroes=off", "b.qcow2");
    CHECK_MOVED(move(export_source(one.uri, NULL, NULL), export_sink(other.uri, NULL, NULL), NULL));
    server_stop(&one);
    server_stop(&other);
    CHECK_INT(RUN("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", "a.qcow2", "b.qcow2"), ==, 0);
    /* Strict: what is allocated in one is allocated in the other. */
    CHECK_INT(RUN("qemu-img", "compare", "-s", "-f", "raw", "-F", "qcow2", "from", "b.qcow2"), <=, 1);
    close(from);
}

static void an_old_qcow2_image_is_overwritten(void)
{
    struct server other;
    int from = image("from"), old = old_image("old");

    CHECK_INT(RUN("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=0.10", "old", "b.qcow2"), ==, 0);
    QEMU_NBD(&other, "-f", "qcow2", "b.qcow2");
    CHECK_MOVED(move(file_source(from), export_sink(other.uri, NULL, NULL), NULL));
    server_stop(&other);
    CHECK_INT(RUN("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "from", "b.qcow2"), ==, 0);
    close(from);
    close(old);
}

/* Holes moved to an overlay hide the content of its backing file. */
static void holes_hide_the_content_of_a_backing_file(void)
{
    struct server other;
    int from = image("from"), old = old_image("old");

    CHECK_INT(RUN("qemu-img", "create", "-q", "-f", "qcow2", "-b", "old", "-F", "raw", "b.qcow2"), ==, 0);
    QEMU_NBD(&other, "-f", "qcow2", "b.qcow2");
    CHECK_MOVED(move(file_source(from), export_sink(other.uri, NULL, NULL), NULL));
    server_stop(&other);
    CHECK_INT(RUN("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "from", "b.qcow2"), ==, 0);
    CHECK_INT(file_differs_from_pattern(old, 0, laid_out(), 3, 0), ==, -1);
    close(from);
    close(old);
}

static void depth_size_and_connections_do_not_change_the_content(void)
{
    const struct { int32_t connections, requests; int64_t size, memory; } rows[] = {
        { 1, 1, 4096, 4096 }, { 1, 256, 64 << 10, 0 }, { 4, 64, 0, 0 }, { 2, 3, 1 << 20, 3 << 20 },
    };
    struct server one, other;
    int from = image("from"), to = file_new("to");

    file_resize(from, 8 * MiB);
    NBDKIT(&one, "file", "from");
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sparsestream_nbd_options *options =
            NBD_OPTIONS(.connections = rows[i].connections, .requests = rows[i].requests,
                        .request_size = rows[i].size, .memory = rows[i].memory);
        struct sparsestream_transfer_options *transfer = TRANSFER(.sparse = SPARSESTREAM_SPARSE_AUTO);
        struct sparsestream_nbd *export = open_export(one.uri, options);
        struct sparsestream_source *source = NULL;

        context("row %zu", i);
        file_resize(to, 0);
        file_fill(to, 0, 8 * MiB, 3);
        NBDKIT(&other, "file", "to");
        CHECK_CODE(sparsestream_nbd_tune(export, transfer), 0);
        CHECK_CODE(sparsestream_nbd_source(export, NULL, &source), 0);
        sparsestream_nbd_free(export);
        CHECK_MOVED(move(source, export_sink(other.uri, options, NULL), transfer));
        CHECK_SAME(from, to);
        server_stop(&other);
    }
    context("%s", "");
    server_stop(&one);
    close(from);
    close(to);
}

struct seen {
    size_t count;
    bool right;
    int64_t next;
};

static int see(void *opaque, const struct sparsestream_section *section)
{
    struct seen *seen = opaque;

    seen->right = seen->right && seen->count < COUNT(layout) && section->offset == seen->next &&
                  section->kind == layout[seen->count].kind && section->length == layout[seen->count].length;
    seen->next += section->length;
    seen->count++;
    return 0;
}

static int see_one(void *opaque, const struct sparsestream_section *section)
{
    (void)opaque;
    (void)section;
    return -EDOM;
}

static void the_map_of_an_export_is_that_of_its_file(void)
{
    struct server server;
    struct seen seen = { .right = true };
    struct sparsestream_nbd *export;
    int from = image("from");

    if (!file_maps_exactly(from))
        skip("the file system does not map exactly");
    NBDKIT(&server, "file", "from");
    export = open_export(server.uri, NULL);
    CHECK_CODE(sparsestream_nbd_map(export, 0, 0, see, &seen), 0);
    CHECK(seen.right);
    CHECK_INT(seen.count, ==, COUNT(layout));
    CHECK_CODE(sparsestream_nbd_map(export, 0, 0, see_one, NULL), -EDOM);
    CHECK_CODE(sparsestream_nbd_map(export, laid_out(), 1, see, &seen), -EINVAL);
    CHECK_CODE(sparsestream_nbd_map(export, 0, 0, NULL, NULL), -EINVAL);
    sparsestream_nbd_free(export);
    server_stop(&server);
    close(from);
}

TESTS(
    CASE(a_file_server_is_copied_with_its_holes),
    CASE(a_file_goes_to_a_server_full_of_old_bytes),
    CASE(a_server_goes_to_a_server),
    CASE(random_content_arrives_where_it_belongs),
    CASE(the_check_of_that_server_notices_wrong_content),
    CASE(an_empty_server_of_1_tib_costs_few_round_trips),
    CASE(without_block_status_everything_is_read),
    CASE(block_status_that_fails_is_a_hint_that_is_absent),
    CASE(holes_within_a_block_of_the_server_are_read),
    CASE(a_range_within_blocks_keeps_what_is_around_it),
    CASE(a_range_of_a_source_is_read),
    CASE(small_holes_are_read_if_that_is_asked),
    CASE(zeros_are_written_where_the_server_cannot_zero),
    CASE(zeros_are_written_where_the_server_refuses_to_zero),
    CASE(zeros_are_written_where_that_is_asked),
    CASE(zeroing_that_is_not_fast_is_not_waited_for),
    CASE(zeroed_ranges_stay_allocated_if_that_is_asked),
    CASE(a_hole_is_never_a_trim),
    CASE(a_longer_target_keeps_its_tail),
    CASE(a_qcow2_image_keeps_its_map),
    CASE(an_old_qcow2_image_is_overwritten),
    CASE(holes_hide_the_content_of_a_backing_file),
    CASE(the_map_of_an_export_is_that_of_its_file),
    CASE(depth_size_and_connections_do_not_change_the_content),
)
