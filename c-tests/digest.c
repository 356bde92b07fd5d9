/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The sparse tree digest of descriptors. The values are those of docs/digest.md. */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "loopdev.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNIT (64 * KiB)
#define OPTIONS(...) (&(struct sparsestream_digest_options) {                   \
    .size = sizeof(struct sparsestream_digest_options), __VA_ARGS__ })

struct hex {
    char text[2 * SPARSESTREAM_DIGEST_SIZE + 1];
};

static struct hex hex_of(int fd, const struct sparsestream_digest_options *options)
{
    unsigned char digest[SPARSESTREAM_DIGEST_SIZE + 1];
    struct hex hex = { "" };

    memset(digest, 0xee, sizeof digest);
    CHECK_CODE(sparsestream_digest(fd, options, digest), 0);
    CHECK_INT(digest[SPARSESTREAM_DIGEST_SIZE], ==, 0xee);
    for (size_t i = 0; i < SPARSESTREAM_DIGEST_SIZE; i++)
        snprintf(hex.text + 2 * i, 3, "%02x", digest[i]);
    return hex;
}

/* It is refused with `error`, and nothing is written. */
static void check_refused(int fd, const struct sparsestream_digest_options *options, int error)
{
    unsigned char digest[SPARSESTREAM_DIGEST_SIZE], untouched[SPARSESTREAM_DIGEST_SIZE];

    memset(digest, 0xee, sizeof digest);
    memset(untouched, 0xee, sizeof untouched);
    CHECK_CODE(sparsestream_digest(fd, options, digest), -error);
    CHECK_BYTES(digest, untouched, sizeof digest);
}

static void file_count(int fd, int64_t offset, unsigned seed, int64_t count)
{
    unsigned char bytes[UNIT * 2];

    for (int64_t i = 0; i < count; i++)
        bytes[i] = (unsigned char) ((seed + i) % 251);
    file_write(fd, offset, bytes, (size_t) count);
}

static void the_vectors_of_the_document(void)
{
    const int fd = file_in_memory();

    CHECK_STR(hex_of(fd, NULL).text, "e114b2463b9afd43245410f0ca51a69a8134a61506fd0b65cdd526b060440325");
    file_write(fd, 0, "a", 1);
    CHECK_STR(hex_of(fd, NULL).text, "8d28d264c60cff04a47ab6fac40f5a6dfaac20c8e75a4f0afe1ff67b5bc813c3");
    file_resize(fd, 0);
    file_resize(fd, 65537);
    CHECK_STR(hex_of(fd, NULL).text, "375cd4cac9b6f56b818647dd2870506a7ced41f8ea3871db1a3f9fea47110154");
    file_count(fd, 0, 7, UNIT);
    file_count(fd, UNIT + MiB, 9, UNIT);
    CHECK_STR(hex_of(fd, NULL).text, "94f8c6a2f121a1989acdbbc97e1f369d0212919248ee10fb792d5d30501b45c9");
    close(fd);
}

static void a_hole_has_the_digest_of_its_zeros(void)
{
    const int sparse = file_new("sparse"), dense = file_new("dense");
    static const char zeros[100 * 1024];
    struct hex hex;

    file_fill(sparse, 0, 70000, 1);
    file_fill(dense, 0, 70000, 1);
    file_resize(sparse, 70000 + 20 * (int64_t) sizeof zeros);
    for (int i = 0; i < 20; i++)
        file_write(dense, 70000 + i * (int64_t) sizeof zeros, zeros, sizeof zeros);
    hex = hex_of(sparse, NULL);
    CHECK_STR(hex_of(dense, NULL).text, hex.text);
    CHECK_STR(hex_of(sparse, OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP)).text, hex.text);
    file_write(dense, 70000 + 11 * (int64_t) sizeof zeros, "x", 1);
    CHECK(strcmp(hex_of(dense, NULL).text, hex.text) != 0);
    close(sparse);
    close(dense);
}

static int64_t nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void sixteen_tebibytes_take_less_than_a_millisecond(void)
{
    const int fd = file_in_memory();
    int64_t best = INT64_MAX;

    file_resize(fd, 16 * TiB);
    for (int i = 0; i < 20; i++) {
        const int64_t start = nanoseconds();

        CHECK_STR(hex_of(fd, NULL).text,
                  "e210ddaa4a4d0841726a032ff95746d8676cba4419c3551dd41473b0a750770d");
        if (nanoseconds() - start < best)
            best = nanoseconds() - start;
    }
    CHECK_INT(best, <, 1000000 * (int64_t) harness_slowness());
    close(fd);
}

static void a_range_is_a_stream_of_its_own(void)
{
    const int whole = file_new("whole"), part = file_new("part");
    static unsigned char bytes[200000];

    file_fill(whole, 0, 300000, 1);
    file_resize(whole, MiB);
    pattern_fill(bytes, sizeof bytes, 1, 100000);
    file_write(part, 0, bytes, sizeof bytes);
    CHECK_STR(hex_of(whole, OPTIONS(.offset = 100000, .length = 200000)).text, hex_of(part, NULL).text);
    file_resize(part, MiB - 100000);
    CHECK_STR(hex_of(whole, OPTIONS(.offset = 100000)).text, hex_of(part, NULL).text);
    file_resize(part, 0);
    CHECK_STR(hex_of(whole, OPTIONS(.offset = MiB)).text, hex_of(part, NULL).text);
    check_refused(whole, OPTIONS(.offset = MiB + 1), EINVAL);
    check_refused(whole, OPTIONS(.length = MiB + 1), ENODATA);
    close(whole);
    close(part);
}

static void the_position_is_kept(void)
{
    const int fd = file_new("file");

    file_fill(fd, MiB, UNIT, 1);
    file_resize(fd, 4 * MiB);
    REQUIRE(lseek(fd, 4711, SEEK_SET) == 4711);
    hex_of(fd, NULL);
    CHECK_INT(file_position(fd), ==, 4711);
    check_refused(fd, OPTIONS(.length = 5 * MiB), ENODATA);
    CHECK_INT(file_position(fd), ==, 4711);
    close(fd);
}

static void a_pipe_is_digested_to_its_end(void)
{
    const int fd = file_new("file");
    int pipe_fds[2];
    pid_t child;

    file_fill(fd, 0, 3 * MiB + 5, 1);
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int status = -1;

        REQUIRE(pipe2(pipe_fds, O_CLOEXEC) == 0);
        child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            for (int64_t at = 0; at < 3 * MiB + 5; at += 1000) {
                unsigned char bytes[1000];
                const size_t length = at + 1000 > 3 * MiB + 5 ? (size_t) (3 * MiB + 5 - at) : 1000;

                pattern_fill(bytes, length, 1, at);
                if (write(pipe_fds[1], bytes, length) != (ssize_t) length)
                    _exit(1);
            }
            _exit(0);
        }
        close(pipe_fds[1]);
        if (nonblocking)
            REQUIRE(fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK) == 0);
        CHECK_STR(hex_of(pipe_fds[0], NULL).text, hex_of(fd, NULL).text);
        close(pipe_fds[0]);
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK_INT(status, ==, 0);
    }
    close(fd);
}

static void a_silent_pipe_times_out(void)
{
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    check_refused(fds[0], OPTIONS(.stall_ms = 100), ETIMEDOUT);
    close(fds[0]);
    close(fds[1]);
}

static void a_block_device(void)
{
    const int backing = file_new("file");
    int device;

    file_fill(backing, MiB, UNIT, 1);
    file_resize(backing, 4 * MiB);
    device = loop_device(backing);
    CHECK_STR(hex_of(device, NULL).text, hex_of(backing, NULL).text);
    close(device);
    close(backing);
}

struct watched {
    int calls;
    int answer;
    int64_t last;
    int64_t total;
    int64_t data_bytes;
};

static int watch(void *opaque, const struct sparsestream_stats *stats)
{
    struct watched *watched = opaque;

    CHECK_INT(stats->position, >=, watched->last);
    watched->calls++;
    watched->last = stats->position;
    watched->total = stats->total;
    watched->data_bytes = stats->data_bytes;
    return watched->answer;
}

static void progress_is_reported_and_can_cancel(void)
{
    const int fd = file_new("file");
    struct watched watched = { 0 };
    unsigned char digest[SPARSESTREAM_DIGEST_SIZE];

    file_fill(fd, 0, 4 * MiB, 1);
    file_resize(fd, 8 * MiB);
    CHECK_CODE(sparsestream_digest(fd, OPTIONS(.progress = watch, .opaque = &watched), digest), 0);
    CHECK_INT(watched.calls, ==, 1);
    CHECK_INT(watched.last, ==, 8 * MiB);
    CHECK_INT(watched.total, ==, 8 * MiB);
    watched = (struct watched) { 0 };
    CHECK_CODE(sparsestream_digest(fd, OPTIONS(.progress = watch, .opaque = &watched,
                                               .progress_bytes = MiB), digest), 0);
    CHECK_INT(watched.calls, >=, 4);
    CHECK_INT(watched.last, ==, 8 * MiB);
    watched = (struct watched) { .answer = -ECANCELED };
    check_refused(fd, OPTIONS(.progress = watch, .opaque = &watched, .progress_bytes = 1), ECANCELED);
    CHECK_INT(watched.calls, ==, 1);
    CHECK_INT(watched.last, <, 4 * MiB);
    CHECK_INT(file_position(fd), ==, 0);
    watched = (struct watched) { .answer = INT32_MIN };
    check_refused(fd, OPTIONS(.progress = watch, .opaque = &watched, .progress_bytes = 1), EPROTO);
    close(fd);
}

static int cut(void *opaque, const struct sparsestream_stats *stats)
{
    (void) stats;
    file_resize(*(int *) opaque, UNIT);
    return 0;
}

static void a_file_that_becomes_shorter_is_an_error(void)
{
    int fd = file_new("file");

    file_fill(fd, 0, 4 * MiB, 1);
    check_refused(fd, OPTIONS(.progress = cut, .opaque = &fd, .progress_bytes = 1), ENODATA);
    close(fd);
}

static void what_cannot_be_is_refused(void)
{
    struct {
        struct sparsestream_digest_options options;
        unsigned char more[16];
    } longer = { .options = { .size = sizeof longer } };
    unsigned char digest[SPARSESTREAM_DIGEST_SIZE];
    const int fd = file_new("file"), directory = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int write_only = open("file", O_WRONLY | O_CLOEXEC), path = open("file", O_PATH | O_CLOEXEC);
    int pair[2];

    CHECK_CODE(sparsestream_digest(fd, NULL, NULL), -EINVAL);
    CHECK_CONTAINS(sparsestream_last_error(), "digest");
    check_refused(fd, OPTIONS(.offset = -1), EINVAL);
    check_refused(fd, OPTIONS(.length = -1), EINVAL);
    check_refused(fd, OPTIONS(.offset = 1, .length = INT64_MAX), EINVAL);
    check_refused(fd, OPTIONS(.progress_bytes = -1), EINVAL);
    check_refused(fd, OPTIONS(.progress_ms = -1), EINVAL);
    check_refused(fd, OPTIONS(.stall_ms = -1), EINVAL);
    for (int bit = 0; bit < 64; bit++)
        if (UINT64_C(1) << bit != SPARSESTREAM_IGNORE_MAP)
            check_refused(fd, OPTIONS(.flags = UINT64_C(1) << bit), EINVAL);
    check_refused(fd, &(struct sparsestream_digest_options) { .size = 7 }, EINVAL);
    CHECK_CODE(sparsestream_digest(fd, &longer.options, digest), 0);
    longer.more[15] = 1;
    check_refused(fd, &longer.options, E2BIG);
    CHECK_CODE(sparsestream_digest(fd, &(struct sparsestream_digest_options) { .size = 8 }, digest), 0);
    check_refused(-1, NULL, EBADF);
    check_refused(directory, NULL, EISDIR);
    check_refused(write_only, NULL, EBADF);
    check_refused(path, NULL, EBADF);
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    check_refused(pair[0], NULL, EPROTOTYPE);
    close(pair[0]);
    close(pair[1]);
    REQUIRE(pipe2(pair, O_CLOEXEC) == 0);
    check_refused(pair[0], OPTIONS(.offset = 1), ESPIPE);
    close(pair[0]);
    close(pair[1]);
    close(path);
    close(write_only);
    close(directory);
    close(fd);
}

TESTS(
    CASE(the_vectors_of_the_document),
    CASE(a_hole_has_the_digest_of_its_zeros),
    CASE(sixteen_tebibytes_take_less_than_a_millisecond),
    CASE(a_range_is_a_stream_of_its_own),
    CASE(the_position_is_kept),
    CASE(a_pipe_is_digested_to_its_end),
    CASE(a_silent_pipe_times_out),
    CASE(a_block_device),
    CASE(progress_is_reported_and_can_cancel),
    CASE(a_file_that_becomes_shorter_is_an_error),
    CASE(what_cannot_be_is_refused),
)
