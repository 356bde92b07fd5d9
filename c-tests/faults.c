/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * System calls that fail and continue to fail, do nothing, or must not be made again, on both ends of a
 * transfer. tests/fault_sweep.rs fails each call once, in every way; c-tests/sandbox.c denies each for good.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "watch.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define OLD 1
#define NEW 2

/* Calls that do the same work; which of them the library uses is its own affair. */
static const long reading[] = { SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_preadv2 };
static const long writing[] = { SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_pwritev2 };
static const long syncing[] = { SYS_fsync, SYS_fdatasync };
static const long copying[] = { SYS_copy_file_range };
static const long sending[] = { SYS_sendfile };

struct fault {
    const long *numbers;
    size_t count;
    /* The call of these, from 1, that answers `answer`, and whether each one after it does too. */
    int call;
    bool stays;
    int64_t answer;
    /* Filled in: calls of these numbers. */
    int calls;
};

#define FAULT(class, ...) \
    { .numbers = class, .count = COUNT(class), __VA_ARGS__ }

static bool is_one_of(const struct fault *fault, long number)
{
    for (size_t i = 0; i < fault->count; i++) {
        if (fault->numbers[i] == number)
            return true;
    }
    return false;
}

static bool inject(void *opaque, const struct watched_call *call, int64_t *answer)
{
    struct fault *fault = opaque;

    if (!is_one_of(fault, call->number))
        return false;
    fault->calls++;
    if (fault->call == 0 || fault->calls < fault->call
        || (fault->calls > fault->call && !fault->stays))
        return false;
    *answer = fault->answer;
    return true;
}

/* A transfer made and run in a watched thread. */
struct job {
    int in, out;
    const struct sparsestream_sink_options *sink_options;
    /* In place of a descriptor. */
    struct end *from, *to;
    int code;
    struct sparsestream_error error;
    struct sparsestream_stats stats;
    char message[256];
};

static void run_job(void *opaque)
{
    struct job *job = opaque;
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;

    source = job->from != NULL ? end_stream_source(job->from) : fd_source(job->in);
    if (job->to != NULL)
        sink = end_stream_sink(job->to);
    else
        REQUIRE(sparsestream_sink_to_fd(job->out, job->sink_options, &sink) == 0);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 65536));
    job->code = sparsestream_transfer_run(transfer, 0);
    strncpy(job->message, sparsestream_last_error(), sizeof job->message - 1);
    job->error = transfer_error(transfer);
    job->stats = transfer_stats(transfer);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

static void run_faulty(struct job *job, int watched, struct fault *fault)
{
    struct watch watch = { .fd = watched, .handler = inject, .opaque = fault };

    fault->calls = 0;
    watch_run(&watch, run_job, job);
}

#define OLD_SIZE (2 * MiB)

static const struct piece sample[] = {
    DATA(100000), HOLE(300000), DATA(5), HOLE(100), DATA(200000), HOLE(7), DATA(1), HOLE(500000),
    DATA(1), HOLE(65536), DATA(1000), HOLE(12345),
};

/* Receives the sample over old content, under the fault. */
static struct job receive(struct fault *fault, const struct sparsestream_sink_options *options,
                          struct end *from, int *fd)
{
    struct content content = { .count = 0 };
    struct job job = { .from = from, .sink_options = options };

    *fd = file_new("file");
    file_fill(*fd, 0, OLD_SIZE, OLD);
    content_lay_out(&content, sample, COUNT(sample), NEW);
    *from = (struct end) { .from = &content };
    job.out = *fd;
    run_faulty(&job, *fd, fault);
    from->from = NULL;
    content_free(&content);
    CHECK_INT(from->aborts + (from->finishes > 0), ==, 1);
    CHECK_INT(from->aborts, ==, job.code != 0);
    return job;
}

/* The sample from 0 on, and behind it what was there. */
static void check_received(int fd)
{
    int64_t at = 0;

    for (size_t i = 0; i < COUNT(sample); i++) {
        if (sample[i].kind == SPARSESTREAM_DATA)
            CHECK_INT(file_differs_from_pattern(fd, at, sample[i].length, NEW, 0), ==, -1);
        else
            CHECK_INT(file_not_zero(fd, at, sample[i].length), ==, -1);
        at += sample[i].length;
    }
    CHECK_INT(file_differs_from_pattern(fd, at, OLD_SIZE - at, OLD, 0), ==, -1);
    CHECK_INT(file_size(fd), ==, OLD_SIZE);
}

static void check_failed(const struct job *job, int error, int operation, int side)
{
    CHECK_INT(job->code, ==, -error);
    CHECK_INT(job->error.code, ==, error);
    CHECK_INT(job->error.operation, ==, operation);
    CHECK_INT(job->error.side, ==, side);
    CHECK_CONTAINS(job->message, strerror(error));
    CHECK_CONTAINS(job->message, sparsestream_operation_name(operation));
    CHECK_CONTAINS(job->message, sparsestream_side_name(side));
}

/* Nothing written and no error either: an end is found all the same. */
static void writes_that_do_nothing(void)
{
    struct fault fault = FAULT(writing, .call = 2, .stays = true, .answer = 0);
    struct end from;
    struct job job;
    int fd;

    job = receive(&fault, NULL, &from, &fd);
    CHECK_INT(job.code, <, 0);
    CHECK_INT(job.error.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(fault.calls, <, 20);
    close(fd);
}

/* A late error is an error: what fsync says is the result of all. */
static void a_sync_that_fails(void)
{
    const int errors[] = { EIO, ENOSPC, EDQUOT };

    for (size_t i = 0; i < COUNT(errors); i++) {
        struct fault fault = FAULT(syncing, .call = 1, .answer = -errors[i]);
        struct end from;
        struct job job;
        int fd;

        context("%s", harness_errno_name(errors[i]));
        job = receive(&fault, SINK_OPTIONS(.flags = SPARSESTREAM_SYNC), &from, &fd);
        check_failed(&job, errors[i], SPARSESTREAM_OPERATION_SYNC, SPARSESTREAM_SIDE_SINK);
        /* To try again would be answered with a success that means nothing. */
        CHECK_INT(fault.calls, ==, 1);
        CHECK_INT(from.finishes, ==, 0);
        CHECK_INT(from.abort_error, ==, errors[i]);
        close(fd);
    }
}

static void no_sync_unless_asked_for(void)
{
    struct fault fault = FAULT(syncing, .call = 1, .stays = true, .answer = -EIO);
    struct end from;
    struct job job;
    int fd;

    job = receive(&fault, NULL, &from, &fd);
    CHECK_INT(job.code, ==, 0);
    CHECK_INT(fault.calls, ==, 0);
    check_received(fd);
    close(fd);
}

/* Sends a file of 4 data units of 64 KiB with holes between, under the fault. */
static struct job send_file(struct fault *fault, struct content *taken, struct end *to, int *fd)
{
    struct job job = { .to = to };

    *fd = file_new("file");
    for (int i = 0; i < 4; i++)
        file_fill(*fd, i * 128 * KiB, 64 * KiB, OLD);
    file_resize(*fd, 512 * KiB);
    *to = (struct end) { .to = taken };
    job.in = *fd;
    run_faulty(&job, *fd, fault);
    CHECK_INT(to->aborts + (to->finishes > 0), ==, 1);
    CHECK_INT(to->aborts, ==, job.code != 0);
    CHECK_INT(file_position(*fd), ==, 0);
    return job;
}

static void check_sent(const struct content *taken)
{
    size_t byte = 0;
    int64_t at = 0;

    CHECK_INT(content_size(taken), ==, 512 * KiB);
    CHECK_INT(taken->length, ==, 256 * KiB);
    for (size_t i = 0; i < taken->count; i++) {
        if (taken->pieces[i].kind == SPARSESTREAM_DATA) {
            for (int64_t j = 0; j < taken->pieces[i].length; j++) {
                if (taken->bytes[byte++] != pattern_byte(OLD, at + j)) {
                    CHECK_INT(at + j, ==, -1);
                    break;
                }
            }
        }
        at += taken->pieces[i].length;
    }
}

/* One read that must not wait fails, and the one in earnest after it does not. */
static void a_hint_that_fails_is_not_the_result(void)
{
    static const long hints[] = { SYS_preadv2 };
    const int errors[] = { EIO, EPERM, ENOSYS, EINVAL, EOPNOTSUPP, ESTALE };

    for (size_t i = 0; i < COUNT(errors); i++) {
        struct fault fault = FAULT(hints, .call = 1, .stays = true, .answer = -errors[i]);
        struct content taken = { .count = 0 };
        struct end to;
        struct job job;
        int fd;

        context("%s", harness_errno_name(errors[i]));
        job = send_file(&fault, &taken, &to, &fd);
        CHECK_INT(job.code, ==, 0);
        check_sent(&taken);
        content_free(&taken);
        close(fd);
    }
}

/* Whether reads that must not wait are refused, as on a tmpfs: one call finds that out. */
static bool refuses_nowait(void)
{
    char byte;
    const struct iovec piece = { &byte, 1 };
    const int fd = file_new("nowait");
    bool refuses;

    file_fill(fd, 0, 1, OLD);
    refuses = preadv2(fd, &piece, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
    close(fd);
    return refuses;
}

/* Nothing where the map says data and the size says more: the source has ended early. */
static void reads_that_find_the_end(void)
{
    const int before = refuses_nowait();

    for (int call = 1; call <= 4; call++) {
        struct fault fault = FAULT(reading, .call = before + call, .stays = true, .answer = 0);
        struct content taken = { .count = 0 };
        struct end to;
        struct job job;
        int fd;

        context("at call %d", call);
        job = send_file(&fault, &taken, &to, &fd);
        CHECK_INT(job.code, ==, -ENODATA);
        CHECK_INT(job.error.side, ==, SPARSESTREAM_SIDE_SOURCE);
        CHECK_INT(job.error.offset, ==, (call - 1) * 128 * KiB);
        CHECK_INT(job.error.expected, ==, 512 * KiB);
        CHECK_INT(fault.calls, <, before + call + 10);
        content_free(&taken);
        close(fd);
    }
}

/* From file to file, where the system may move the data by itself. */
static struct job copy_file(struct fault *fault, int *in, int *out)
{
    struct job job = { .code = 0 };

    *in = file_new("in");
    *out = file_new("out");
    for (int i = 0; i < 4; i++)
        file_fill(*in, i * 128 * KiB, 64 * KiB, OLD);
    file_resize(*in, 512 * KiB);
    job.in = *in;
    job.out = *out;
    run_faulty(&job, *in, fault);
    return job;
}

static void copies_that_the_system_does_not_make(void)
{
    const int errors[] = { EXDEV, ENOSYS, EINVAL, EOPNOTSUPP, EPERM, ETXTBSY, EBADF, EINTR, 0 };

    for (size_t i = 0; i < COUNT(errors); i++) {
        for (int call = 1; call <= 3; call++) {
            struct fault fault = FAULT(copying, .call = call, .stays = errors[i] != EINTR,
                                       .answer = -errors[i]);
            struct job job;
            int in, out;

            context("%s from call %d", harness_errno_name(errors[i]), call);
            job = copy_file(&fault, &in, &out);
            CHECK_INT(job.code, ==, 0);
            CHECK_INT(file_size(out), ==, 512 * KiB);
            CHECK_INT(file_differs(in, 0, out, 0, 512 * KiB), ==, -1);
            CHECK_INT(job.stats.data_bytes, ==, 256 * KiB);
            close(in);
            close(out);
        }
    }
}

/* After an error of a medium a copy may succeed in another way, or fail; it never succeeds with other bytes. */
static void copies_that_fail(void)
{
    const int errors[] = { EIO, ENOSPC, EDQUOT, EFBIG };

    for (size_t i = 0; i < COUNT(errors); i++) {
        struct fault fault = FAULT(copying, .call = 2, .stays = true, .answer = -errors[i]);
        struct job job;
        int in, out;

        context("%s", harness_errno_name(errors[i]));
        job = copy_file(&fault, &in, &out);
        if (job.code == 0)
            CHECK_INT(file_differs(in, 0, out, 0, 512 * KiB), ==, -1);
        else
            CHECK_INT(job.code, ==, -errors[i]);
        close(in);
        close(out);
    }
}

static void sends_that_the_system_does_not_make(void)
{
    const int errors[] = { EINVAL, ENOSYS, EOPNOTSUPP, EOVERFLOW, EIO, EINTR, 0 };

    for (size_t i = 0; i < COUNT(errors); i++) {
        struct fault fault = FAULT(sending, .call = 1, .stays = errors[i] != EINTR,
                                   .answer = -errors[i]);
        const int in = file_new("in");
        unsigned char got[30001], expected[30000];
        struct job job = { .in = in };
        int out[2];

        context("%s", harness_errno_name(errors[i]));
        file_fill(in, 0, 30000, OLD);
        pattern_fill(expected, sizeof expected, OLD, 0);
        REQUIRE(pipe2(out, O_CLOEXEC | O_NONBLOCK) == 0);
        job.out = out[1];
        run_faulty(&job, out[1], &fault);
        CHECK_INT(job.code, ==, 0);
        CHECK_INT(read(out[0], got, sizeof got), ==, sizeof expected);
        CHECK_BYTES(got, expected, sizeof expected);
        close(out[0]);
        close(out[1]);
        close(in);
    }
}

/* The flags that no kernel before a certain one knows, and how such a kernel refuses them. */
struct older {
    int flags;
    int error;
};

static bool be_older(void *opaque, const struct watched_call *call, int64_t *answer)
{
    const struct older *older = opaque;

    if (call->number != SYS_preadv2 && call->number != SYS_pwritev2)
        return false;
    if (((int) call->arguments[5] & older->flags) == 0)
        return false;
    *answer = -older->error;
    return true;
}

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x8
#endif
#define RWF_NOSIGNAL 0x100

/* Without the flags a pipe neither blocks a call with a budget, nor raises SIGPIPE, nor loses a byte. */
struct piping {
    int in, out, reader;
    int64_t budget;
    int code;
    size_t moved;
};

static void pipe_along(void *opaque)
{
    struct piping *piping = opaque;
    struct sparsestream_source *source = fd_source(piping->in);
    struct sparsestream_sink *sink = fd_sink(piping->out);
    struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL);
    unsigned char got[5000];
    ssize_t count;

    do {
        piping->code = sparsestream_transfer_run(transfer, piping->budget);
        while (piping->reader >= 0 && (count = read(piping->reader, got, sizeof got)) > 0) {
            for (ssize_t i = 0; i < count; i++)
                CHECK(got[i] == pattern_byte(OLD, (int64_t) piping->moved + i));
            piping->moved += (size_t) count;
        }
    } while (piping->code == 1);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

static void pipes_of_an_older_kernel(void)
{
    struct older kernels[] = {
        { RWF_NOSIGNAL, EOPNOTSUPP }, { RWF_NOSIGNAL | RWF_NOWAIT, EOPNOTSUPP },
    };

    for (size_t i = 0; i < COUNT(kernels); i++) {
        for (int reading = 0; reading < 2; reading++) {
            for (int closed = 0; closed < 2; closed++) {
                unsigned char bytes[60000];
                struct piping piping = { .budget = 100000 };
                struct watch watch = { .handler = be_older, .opaque = &kernels[i] };
                int in[2], out[2];

                context("kernel %zu, %s is older, the reader is %s", i,
                        reading ? "reading" : "writing", closed ? "closed" : "open");
                REQUIRE(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
                pattern_fill(bytes, sizeof bytes, OLD, 0);
                REQUIRE(write(in[1], bytes, sizeof bytes) == sizeof bytes);
                REQUIRE(fcntl(out[0], F_SETFL, O_NONBLOCK) == 0);
                piping.in = in[0];
                piping.out = out[1];
                piping.reader = closed ? -1 : out[0];
                if (closed)
                    close(out[0]);
                watch.fd = reading ? in[0] : out[1];
                watch_run(&watch, pipe_along, &piping);
                CHECK_INT(watch_count(&watch, reading ? SYS_preadv2 : SYS_pwritev2), >, 0);
                /* The writer is still there and may write: nothing is at its end yet. */
                CHECK_INT(piping.code, ==, closed ? -EPIPE : -EAGAIN);
                CHECK_INT(piping.moved, ==, closed ? 0 : sizeof bytes);
                if (!closed)
                    close(out[0]);
                close(out[1]);
                close(in[0]);
                close(in[1]);
            }
        }
    }
}

/* A pipe that is full but for a little: a call with a budget writes that little at most. */
static void a_full_pipe_of_an_older_kernel(void)
{
    struct older kernel = { RWF_NOSIGNAL | RWF_NOWAIT, EOPNOTSUPP };
    struct watch watch = { .handler = be_older, .opaque = &kernel };
    struct piping piping = { .budget = 100000, .reader = -1 };
    static const unsigned char bytes[60000] = { 1 };
    int in[2], out[2];

    REQUIRE(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    REQUIRE(write(in[1], bytes, sizeof bytes) == sizeof bytes);
    REQUIRE(write(out[1], bytes, 57000) == 57000);
    piping.in = in[0];
    piping.out = out[1];
    watch.fd = out[1];
    watch_run(&watch, pipe_along, &piping);
    CHECK_INT(piping.code, ==, -EAGAIN);
    CHECK_INT(watch_count(&watch, SYS_pwritev2), >, 0);
    close(in[0]);
    close(in[1]);
    close(out[0]);
    close(out[1]);
}

TESTS(
    CASE(writes_that_do_nothing),
    CASE(a_sync_that_fails),
    CASE(no_sync_unless_asked_for),
    CASE(a_hint_that_fails_is_not_the_result),
    CASE(reads_that_find_the_end),
    CASE(copies_that_the_system_does_not_make),
    CASE(copies_that_fail),
    CASE(sends_that_the_system_does_not_make),
    CASE(pipes_of_an_older_kernel),
    CASE(a_full_pipe_of_an_older_kernel),
)
