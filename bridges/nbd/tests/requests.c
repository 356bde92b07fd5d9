/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Which requests a target gets, and in which order, by the log that nbdkit keeps of them. */

#include "servers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The requests of transfers to a server, as its log counts them. */
struct seen {
    int writes, zeroes, flushes, trims, fua;
    int fast; /* zeroes that the server may refuse if they are slow */
    int open;         /* writes and zeroes that are not answered */
    int open_at_flush; /* the most of them when a flush came */
    int after_flush;   /* writes and zeroes that came after the first flush */
};

/* Each request has one line when it comes, and one with three dots before its name when it is answered. */
static struct seen read_log(void)
{
    FILE *file = fopen("log", "r");
    struct seen seen = { 0 };
    char line[512];

    REQUIRE(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        const bool answered = strstr(line, " ...Write ") != NULL || strstr(line, " ...Zero ") != NULL;
        const bool came = strstr(line, " Write ") != NULL || strstr(line, " Zero ") != NULL;

        seen.writes += strstr(line, " Write ") != NULL;
        seen.zeroes += strstr(line, " Zero ") != NULL;
        seen.fast += strstr(line, " Zero ") != NULL && strstr(line, " fast=1") != NULL;
        seen.trims += strstr(line, " Trim ") != NULL;
        seen.fua += strstr(line, " fua=1") != NULL && strstr(line, " Connect ") == NULL;
        seen.open += came;
        seen.open -= answered;
        seen.after_flush += came && seen.flushes > 0;
        if (strstr(line, " Flush ") != NULL) {
            seen.flushes++;
            seen.open_at_flush = seen.open > seen.open_at_flush ? seen.open : seen.open_at_flush;
        }
    }
    fclose(file);
    return seen;
}

static struct seen copy(const struct sparsestream_nbd_options *options, const struct sparsestream_nbd_end_options *end,
                        const char *const *arguments)
{
    struct server server;
    struct seen seen;
    int from = sparse_image("from"), to = file_new("to");

    file_fill(to, 0, SPARSE_SIZE + 1 * MiB, 3);
    unlink("log");
    nbdkit_start(&server, arguments);
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, options, end), NULL));
    server_stop(&server);
    CHECK_INT(file_differs(from, 0, to, end != NULL ? end->offset : 0, SPARSE_SIZE), ==, -1);
    seen = read_log();
    CHECK_INT(seen.writes, >, 0);
    CHECK_INT(seen.open, ==, 0);
    CHECK_INT(seen.open_at_flush, ==, 0);
    CHECK_INT(seen.after_flush, ==, 0);
    CHECK_INT(seen.trims, ==, 0);
    CHECK_INT(seen.fua, ==, 0);
    close(from);
    close(to);
    return seen;
}

#define ARGUMENTS(...) ((const char *const[]){ __VA_ARGS__, "logfile=log", NULL })

static void one_flush_comes_after_all_answers(void)
{
    const struct seen seen = copy(NULL, NULL, ARGUMENTS("--filter=log", "file", "to"));

    CHECK_INT(seen.flushes, ==, 1);
    CHECK_INT(seen.zeroes, >, 0);
}

/* Answers that are late, and in another order, over four connections with one request each. */
static void one_flush_waits_for_all_connections(void)
{
    const struct seen seen =
        copy(NBD_OPTIONS(.connections = 4, .requests = 1, .request_size = 65536), NULL,
             ARGUMENTS("--filter=log", "--filter=delay", "file", "to", "wdelay=20ms", "delay-zero=60ms"));

    CHECK_INT(seen.flushes, ==, 1);
}

static void one_flush_comes_after_zeros_that_are_written(void)
{
    struct seen seen = copy(NULL, NULL, ARGUMENTS("--filter=log", "--filter=nozero", "file", "to", "wdelay=5ms",
                                                  "--filter=delay"));

    CHECK_INT(seen.flushes, ==, 1);
    CHECK_INT(seen.zeroes, ==, 0);
    seen = copy(NULL, END_OPTIONS(.zeroes = SPARSESTREAM_NBD_ZEROES_WRITE), ARGUMENTS("--filter=log", "file", "to"));
    CHECK_INT(seen.flushes, ==, 1);
    CHECK_INT(seen.zeroes, ==, 0);
}

static void one_flush_comes_after_blocks_that_are_read_and_written(void)
{
    const struct seen seen =
        copy(NULL, END_OPTIONS(.offset = 5001),
             ARGUMENTS("--filter=log", "--filter=blocksize-policy", "file", "to", "blocksize-minimum=4096",
                       "blocksize-preferred=4096", "blocksize-error-policy=error"));

    CHECK_INT(seen.flushes, ==, 1);
}

enum { TOOTH = 4096, TEETH = 256 };

/* As many bytes as the comb has, none of which is 0. */
#define OLD_CONTENT "data", "data=51*2097152"

/* Copies a comb of 4 KiB of data and of holes to a server with old content, and compares. */
static struct seen copy_comb(const struct sparsestream_nbd_end_options *end, const char *const *arguments)
{
    struct server one, two;
    struct outcome outcome;
    int from = file_new("from"), back = file_new("back");

    file_resize(from, 2 * TEETH * TOOTH);
    for (int64_t i = 0; i < TEETH; i++)
        file_fill(from, (2 * i + 1) * TOOTH, TOOTH, 5);
    unlink("log");
    NBDKIT(&one, "file", "from");
    nbdkit_start(&two, arguments);
    outcome = move(export_source(one.uri, NULL, NULL), export_sink(two.uri, NULL, end), NULL);
    CHECK_MOVED(outcome);
    CHECK_INT(outcome.stats.data_bytes + outcome.stats.hole_bytes, ==, 2 * TEETH * TOOTH);
    CHECK_MOVED(move(export_source(two.uri, NULL, NULL), file_sink(back), NULL));
    server_stop(&one);
    server_stop(&two);
    CHECK_INT(file_differs(from, 0, back, 0, 2 * TEETH * TOOTH), ==, -1);
    close(from);
    close(back);
    return read_log();
}

static void short_holes_are_zeroed_together_if_the_server_does_that_quickly(void)
{
    struct seen seen = copy_comb(NULL, ARGUMENTS("--filter=log", OLD_CONTENT));

    CHECK_INT(seen.writes, ==, TEETH);
    CHECK(seen.fast >= TEETH / 16 && seen.fast == seen.zeroes && seen.zeroes < TEETH / 2);
    seen = copy_comb(END_OPTIONS(.zeroes = SPARSESTREAM_NBD_ZEROES_WRITE), ARGUMENTS("--filter=log", OLD_CONTENT));
    CHECK(seen.fast == 0 && seen.zeroes == 0);
}

static void each_hole_is_zeroed_if_the_server_is_slow_with_ranges(void)
{
    /* It says that it can refuse, and refuses. */
    struct seen seen = copy_comb(
        NULL, ARGUMENTS("--filter=log", "--filter=nozero", OLD_CONTENT, "zeromode=plugin", "fastzeromode=slow"));

    CHECK(seen.fast >= 1 && seen.fast <= TEETH / 16);
    CHECK_INT(seen.zeroes - seen.fast, ==, TEETH);
    seen = copy_comb(
        NULL, ARGUMENTS("--filter=log", "--filter=nozero", OLD_CONTENT, "zeromode=plugin", "fastzeromode=none"));
    CHECK(seen.fast == 0 && seen.zeroes == TEETH);
}

static void a_server_that_cannot_flush_is_not_asked_to(void)
{
    const struct seen seen =
        copy(NULL, NULL,
             ARGUMENTS("--filter=log", "eval", "get_size=echo 9M", "can_write=exit 0",
                       "pread=dd if=to iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k status=none",
                       "pwrite=dd of=to oflag=seek_bytes seek=$4 conv=notrunc bs=64k status=none"));

    CHECK_INT(seen.flushes, ==, 0);
}

/* The requests of this name that came over the first connection, and over the others. */
static void count_connections(const char *request, int *first, int *others)
{
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen("log", "r");

    REQUIRE(file != NULL);
    *first = *others = 0;
    while (getline(&line, &room, file) > 0) {
        if (strstr(line, request) != NULL)
            ++*(strstr(line, " connection=1 ") != NULL ? first : others);
    }
    free(line);
    fclose(file);
}

static void data_is_read_over_other_connections_than_block_status(void)
{
    struct server server;
    int from = sparse_image("from"), to = file_new("to"), first, others;

    unlink("log");
    /* The other connections are ready before the first answer. */
    NBDKIT(&server, "--filter=log", "--filter=delay", "file", "from", "delay-extents=1", "logfile=log");
    CHECK_MOVED(move(export_source(server.uri, NULL, NULL), file_sink(to), NULL));
    server_stop(&server);
    CHECK_INT(file_differs(from, 0, to, 0, SPARSE_SIZE), ==, -1);
    count_connections(" Extents ", &first, &others);
    CHECK_INT(first, >, 0);
    CHECK_INT(others, ==, 0);
    count_connections(" Read ", &first, &others);
    CHECK_INT(first, ==, 0);
    CHECK_INT(others, >, 0);
    close(from);
    close(to);
}

TESTS(
    CASE(one_flush_comes_after_all_answers),
    CASE(one_flush_waits_for_all_connections),
    CASE(one_flush_comes_after_zeros_that_are_written),
    CASE(one_flush_comes_after_blocks_that_are_read_and_written),
    CASE(short_holes_are_zeroed_together_if_the_server_does_that_quickly),
    CASE(each_hole_is_zeroed_if_the_server_is_slow_with_ranges),
    CASE(a_server_that_cannot_flush_is_not_asked_to),
    CASE(data_is_read_over_other_connections_than_block_status),
)
