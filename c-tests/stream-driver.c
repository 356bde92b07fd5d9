/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The server half of examples/: the driver, called by the daemon of examples/stream-daemon.c (the first argument) and by
 * hand.
 */

#include "ends.h"
#include "fixtures.h"
#include "harness.h"
#include "stream-driver.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MESSAGE 262120
#define SIZE (8 * MiB)

static const struct piece sparse[] = { DATA(300 * KiB), HOLE(2 * MiB - 300 * KiB), DATA(MiB), HOLE(3 * MiB),
                                       DATA(64 * KiB), HOLE(2 * MiB - 64 * KiB) };

/* Opens with a descriptor of its own. */
static struct stream *open_stream(int fd, bool writes, int64_t offset, int64_t length, bool nonblocking)
{
    struct stream *stream = NULL;
    char path[64];
    int r, own;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    own = open(path, (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    REQUIRE(own >= 0);
    r = stream_open(own, writes, offset, length, nonblocking, &stream);
    CHECK_INT(r, ==, 0);
    if (r < 0)
        exit(1);
    return stream;
}

/* Runs the daemon over two files. Returns its exit status. */
static int daemon_run(bool blocking, const char *from, const char *to, int64_t offset, int64_t length)
{
    char at[32], many[32];
    int status;
    pid_t pid;

    snprintf(at, sizeof(at), "%lld", (long long) offset);
    snprintf(many, sizeof(many), "%lld", (long long) length);
    pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);

        dup2(null, STDERR_FILENO);
        if (blocking)
            execl(harness_argument(0), "stream-daemon", "--blocking", from, to, at, many, NULL);
        else
            execl(harness_argument(0), "stream-daemon", from, to, at, many, NULL);
        _exit(127);
    }
    REQUIRE(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void files(bool blocking)
{
    int image = file_new("image"), target = file_new("target");

    file_lay_out(image, 0, sparse, COUNT(sparse), 1);
    CHECK_INT(daemon_run(blocking, "image", "target", 0, 0), ==, 0);
    CHECK_INT(file_size(target), ==, SIZE);
    CHECK_INT(file_differs(image, 0, target, 0, SIZE), ==, -1);
    CHECK_INT(file_allocated(target), <=, file_allocated(image));
    /* A range over old content: the holes read zero, the rest stays. */
    file_fill(target, 0, SIZE, 9);
    CHECK_INT(daemon_run(blocking, "image", "target", MiB, 5 * MiB), ==, 0);
    CHECK_INT(file_size(target), ==, SIZE);
    CHECK_INT(file_differs(image, MiB, target, MiB, 5 * MiB), ==, -1);
    CHECK_INT(file_differs_from_pattern(target, 0, MiB, 9, 0), ==, -1);
    CHECK_INT(file_differs_from_pattern(target, 6 * MiB, 2 * MiB, 9, 0), ==, -1);
    /* A range that ends beyond the file. */
    CHECK_INT(daemon_run(blocking, "image", "target", 7 * MiB, 4 * MiB), ==, 0);
    CHECK_INT(file_differs(image, 7 * MiB, target, 7 * MiB, MiB), ==, -1);
    CHECK_INT(file_size(target), ==, SIZE);
    close(image);
    close(target);
}

static void files_by_events(void)
{
    files(false);
}

static void files_by_blocking_calls(void)
{
    files(true);
}

static void many_sections(void)
{
    int image = file_new("image"), target = file_new("target");

    file_resize(image, 16 * MiB);
    for (int64_t offset = 0; offset < 16 * MiB; offset += 16 * KiB)
        file_fill(image, offset, 4 * KiB, 3);
    CHECK_INT(daemon_run(false, "image", "target", 0, 0), ==, 0);
    CHECK_INT(file_size(target), ==, 16 * MiB);
    CHECK_INT(file_differs(image, 0, target, 0, 16 * MiB), ==, -1);
    CHECK_INT(file_allocated(target), <=, file_allocated(image));
    close(image);
    close(target);
}

static void block_device(void)
{
    struct fixture device;
    char reason[256];
    int image = file_new("image"), back = file_new("back"), r, fd;

    r = fixtures_enter(reason, sizeof(reason));
    if (r == 0)
        r = fixture_open("loop-512", NULL, &device);
    if (r == FIXTURE_ABSENT)
        skip("no loop device to be had");
    REQUIRE(r == 0);
    file_lay_out(image, 0, sparse, COUNT(sparse), 1);
    fd = fixture_file(&device, O_RDWR);
    REQUIRE(fd >= 0);
    file_fill(fd, 0, SIZE + MiB, 9);
    CHECK_INT(daemon_run(false, "image", device.path, 0, SIZE), ==, 0);
    CHECK_INT(file_differs_from_pattern(fd, SIZE, MiB, 9, 0), ==, -1);
    close(fd);
    /* The harness compares files only. */
    CHECK_INT(daemon_run(true, device.path, "back", 0, SIZE), ==, 0);
    CHECK_INT(file_size(back), ==, SIZE);
    CHECK_INT(file_differs(image, 0, back, 0, SIZE), ==, -1);
    close(image);
    close(back);
    CHECK_INT(fixture_close(&device), ==, 0);
}

/* The other side of a FIFO. */
static void *fill_fifo(void *opaque)
{
    static unsigned char buffer[MiB];
    int fd = open("fifo", O_WRONLY | O_CLOEXEC);

    pattern_fill(buffer, sizeof(buffer), 1, 0);
    for (size_t at = 0; at < sizeof(buffer);) {
        const ssize_t count = write(fd, buffer + at, sizeof(buffer) - at);

        if (count <= 0)
            break;
        at += (size_t) count;
    }
    close(fd);
    return opaque;
}

static void *drain_fifo(void *opaque)
{
    static unsigned char buffer[65536];
    int fd = open("fifo", O_RDONLY | O_CLOEXEC);
    int64_t *total = opaque, at = 0;
    ssize_t count;

    while ((count = read(fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t i = 0; i < count; i++, at++)
            *total += buffer[i] == pattern_byte(1, at);
    }
    close(fd);
    return opaque;
}

static void fifos(void)
{
    int target = file_new("target");
    int64_t right = 0;
    pthread_t thread;

    REQUIRE(mkfifo("fifo", 0600) == 0);
    REQUIRE(pthread_create(&thread, NULL, fill_fifo, NULL) == 0);
    CHECK_INT(daemon_run(false, "fifo", "target", 0, 0), ==, 0);
    pthread_join(thread, NULL);
    CHECK_INT(file_size(target), ==, MiB);
    CHECK_INT(file_differs_from_pattern(target, 0, MiB, 1, 0), ==, -1);
    REQUIRE(pthread_create(&thread, NULL, drain_fifo, &right) == 0);
    CHECK_INT(daemon_run(false, "target", "fifo", 0, 0), ==, 0);
    pthread_join(thread, NULL);
    CHECK_INT(right, ==, MiB);
    close(target);
}

/* By hand. */

static char message[MESSAGE];

static int send_pattern(struct stream *stream, int64_t length)
{
    for (int64_t at = 0; at < length;) {
        const int64_t want = length - at < MESSAGE ? length - at : MESSAGE;
        int sent;

        pattern_fill(message, (size_t) want, 1, at);
        sent = stream_driver.send(stream, message, (size_t) want);
        if (sent < 0)
            return sent;
        at += sent;
    }
    return 0;
}

/* The file system is full in the last message: libvirt's driver reports success 60 of 60 times. */
static void write_error_of_the_last_message(void)
{
    struct fixture small;
    char reason[256];
    int r = fixtures_enter(reason, sizeof(reason)), reported = 0;

    if (r == 0)
        r = fixture_open("tmpfs-2m", NULL, &small);
    if (r == FIXTURE_ABSENT)
        skip("no small tmpfs to be had");
    REQUIRE(r == 0);
    for (int round = 0; round < 60; round++) {
        int fd = fixture_file(&small, O_RDWR | O_CREAT | O_TRUNC);
        struct stream *stream = open_stream(fd, true, 0, 0, false);
        const int sent = send_pattern(stream, 8 * MESSAGE + 4096);

        if (sent == -1 || stream_driver.finish(stream) == -1)
            reported += stream_error(stream) == ENOSPC;
        stream_free(stream);
        close(fd);
    }
    CHECK_INT(reported, ==, 60);
    CHECK_INT(fixture_close(&small), ==, 0);
}

static void source_truncated_meanwhile(void)
{
    int file = file_new("image"), got;
    struct stream *stream;
    int64_t total = 0;

    file_fill(file, 0, 32 * MiB, 1);
    stream = open_stream(file, false, 0, 0, false);
    got = stream_driver.recv(stream, message, sizeof(message), 0);
    CHECK_INT(got, >, 0);
    file_resize(file, 8 * MiB);
    do
        total += got;
    while ((got = stream_driver.recv(stream, message, sizeof(message), 0)) > 0);
    CHECK_INT(got, ==, -1);
    CHECK_INT(stream_error(stream), ==, ENODATA);
    CHECK_INT(total, <, 32 * MiB);
    stream_free(stream);
    close(file);
}

static void abort_midway(void)
{
    int file = file_new("image"), target = file_new("target");
    int64_t begun;
    struct stream *stream;

    file_fill(file, 0, 32 * MiB, 1);
    stream = open_stream(file, false, 0, 0, false);
    CHECK_INT(stream_driver.recv(stream, message, sizeof(message), 0), >, 0);
    begun = harness_now();
    CHECK_INT(stream_driver.abort(stream), ==, 0);
    stream_free(stream);
    stream = open_stream(target, true, 0, 0, false);
    CHECK_INT(send_pattern(stream, 4 * MiB), ==, 0);
    CHECK_INT(stream_driver.abort(stream), ==, 0);
    stream_free(stream);
    /* Freed without a word. */
    stream = open_stream(file, false, 0, 0, true);
    stream_free(stream);
    CHECK_INT(harness_now() - begun, <, 2000 * harness_slowness());
    close(file);
    close(target);
}

/* The FIFO is not read. */
static void abort_while_the_file_waits(void)
{
    int file, reader;
    struct stream *stream;
    int64_t begun;

    REQUIRE(mkfifo("fifo", 0600) == 0);
    reader = open("fifo", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    file = open("fifo", O_WRONLY | O_CLOEXEC);
    stream = open_stream(file, true, 0, 0, true);
    while (stream_driver.send(stream, message, sizeof(message)) > 0)
        ;
    usleep(50000);
    begun = harness_now();
    CHECK_INT(stream_driver.abort(stream), ==, 0);
    CHECK_INT(harness_now() - begun, <, 500 * harness_slowness());
    stream_free(stream);
    close(file);
    close(reader);
}

static void data_and_holes_are_distinguished(void)
{
    int file = file_new("image"), got;
    struct stream *stream;
    int64_t length = -1;
    bool in_data = false;

    file_lay_out(file, 0, sparse, COUNT(sparse), 1);
    stream = open_stream(file, false, 0, 0, false);
    CHECK_INT(stream_driver.in_data(stream, &in_data, &length), ==, 0);
    CHECK(in_data);
    for (int64_t at = 0; at < 300 * KiB; at += got) {
        got = stream_driver.recv(stream, message, sizeof(message), STREAM_STOP_AT_HOLE);
        REQUIRE(got > 0);
    }
    CHECK_INT(stream_driver.recv(stream, message, sizeof(message), STREAM_STOP_AT_HOLE), ==, STREAM_HOLE_NEXT);
    CHECK_INT(stream_driver.in_data(stream, &in_data, &length), ==, 0);
    CHECK(!in_data);
    CHECK_INT(length, ==, 2 * MiB - 300 * KiB);
    /* A part of it as zeros, the rest as a hole. */
    memset(message, 1, sizeof(message));
    CHECK_INT(stream_driver.recv(stream, message, 4096, 0), ==, 4096);
    CHECK(message[0] == 0 && message[4095] == 0 && message[4096] == 1);
    CHECK_INT(stream_driver.recv_hole(stream, &length), ==, 0);
    CHECK_INT(length, ==, 2 * MiB - 300 * KiB - 4096);
    CHECK_INT(stream_driver.recv_hole(stream, &length), ==, 0);
    CHECK_INT(length, ==, 0);
    stream_free(stream);
    close(file);
}

TESTS(
    CASE(files_by_events),
    CASE(files_by_blocking_calls),
    CASE(many_sections),
    CASE(block_device),
    CASE(fifos),
    CASE_WITHIN(write_error_of_the_last_message, 60),
    CASE(source_truncated_meanwhile),
    CASE(abort_midway),
    CASE(abort_while_the_file_waits),
    CASE(data_and_holes_are_distinguished),
)
