/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Runs that block until an end is ready: a cancel and a failure from outside wake them at once, and while nothing
 * happens they cost nothing.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* So long that a run has settled to wait. */
#define SETTLED_US 100000

/* A run in a thread of its own, which no signal reaches. */
struct run {
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    pthread_t thread;
    atomic_int result;
};

static void *run_to_the_end(void *opaque)
{
    struct run *run = opaque;

    run->result = sparsestream_transfer_run(run->transfer, 0);
    return NULL;
}

/* Takes over both ends. */
static void start(struct run *run, struct sparsestream_source *source, struct sparsestream_sink *sink)
{
    pthread_attr_t attributes;
    sigset_t all, before;

    *run = (struct run) { .source = source, .sink = sink, .transfer = new_transfer(source, sink, NULL), .result = 1 };
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    REQUIRE(pthread_create(&run->thread, &attributes, run_to_the_end, run) == 0);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int join(struct run *run)
{
    pthread_join(run->thread, NULL);
    return run->result;
}

static void release(struct run *run)
{
    sparsestream_transfer_free(run->transfer);
    sparsestream_source_free(run->source);
    sparsestream_sink_free(run->sink);
}

static int64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t processor_us(void)
{
    struct rusage usage;

    REQUIRE(getrusage(RUSAGE_SELF, &usage) == 0);
    return ((int64_t) usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec
           + usage.ru_stime.tv_usec;
}

/* How often a thread, or all of the process, has waited. */
static int64_t switches(int who)
{
    struct rusage usage;

    REQUIRE(getrusage(who, &usage) == 0);
    return usage.ru_nvcsw;
}

static void by_cancel(struct run *run)
{
    CHECK_INT(sparsestream_transfer_cancel(run->transfer), ==, 0);
}

static void by_failure(struct run *run)
{
    CHECK_CODE(sparsestream_transfer_fail(run->transfer, ECONNRESET, "the line is dead"), 0);
}

static struct sparsestream_transfer *signalled;

static void on_signal(int number)
{
    const int before = errno;

    (void) number;
    CHECK_INT(sparsestream_transfer_cancel(signalled), ==, 0);
    CHECK_INT(errno, ==, before);
}

/* The handler runs in this thread, so that no signal ends the wait of the other. */
static void by_signal(struct run *run)
{
    const struct sigaction action = { .sa_handler = on_signal };
    struct sigaction before;

    signalled = run->transfer;
    REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
    errno = EXDEV;
    CHECK_INT(raise(SIGUSR1), ==, 0);
    REQUIRE(sigaction(SIGUSR1, &before, NULL) == 0);
}

static int compare(const void *left, const void *right)
{
    const int64_t one = *(const int64_t *) left, other = *(const int64_t *) right;

    return (one > other) - (one < other);
}

/* The median, since another program may have the processor at any one time. */
static void check_how_soon_it_ends(void (*end)(struct run *run), int expected)
{
    enum { ROUNDS = 11 };
    int64_t took[ROUNDS];
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        const int out = file_in_memory();
        struct run run;

        start(&run, fd_source(fds[0]), fd_sink(out));
        usleep(SETTLED_US + 7000 * (useconds_t) round);
        took[round] = now_us();
        end(&run);
        CHECK_CODE(join(&run), expected);
        took[round] = now_us() - took[round];
        release(&run);
        close(out);
    }
    qsort(took, ROUNDS, sizeof took[0], compare);
    CHECK_INT(took[ROUNDS / 2], <, 10000 * (int64_t) harness_slowness());
    close(fds[0]);
    close(fds[1]);
}

static void a_cancel_from_another_thread_wakes_it_at_once(void)
{
    check_how_soon_it_ends(by_cancel, -ECANCELED);
}

static void a_cancel_from_a_signal_handler_wakes_it_at_once(void)
{
    check_how_soon_it_ends(by_signal, -ECANCELED);
}

static void a_failure_from_another_thread_wakes_it_at_once(void)
{
    check_how_soon_it_ends(by_failure, -ECONNRESET);
}

/* Lets the process open no further descriptor. poll(2) still takes as many as are open. */
static void use_up_descriptors(struct rlimit *before)
{
    const int lowest = dup(STDOUT_FILENO);
    struct rlimit none;

    REQUIRE(lowest >= 0);
    close(lowest);
    REQUIRE(getrlimit(RLIMIT_NOFILE, before) == 0);
    none = *before;
    none.rlim_cur = (rlim_t) lowest;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
}

static void many_that_wait_cost_nothing(void)
{
    enum { RUNS = 256, SECONDS = 2 };
    static struct run runs[RUNS];
    int64_t switched, used;
    struct rlimit limit;
    int fds[2], out;

    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < 2 * RUNS)
        skip("%d descriptors cannot be opened", 2 * RUNS);
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    REQUIRE((out = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0);
    for (int i = 0; i < RUNS; i++)
        start(&runs[i], fd_source(fds[0]), fd_sink(out));
    usleep(5 * SETTLED_US * harness_slowness());
    switched = switches(RUSAGE_SELF);
    used = processor_us();
    usleep(SECONDS * 1000000);
    used = processor_us() - used;
    switched = switches(RUSAGE_SELF) - switched;
    CHECK_INT(switched, <, RUNS);
    /* 1 % of a processor. */
    CHECK_INT(used, <, SECONDS * 10000 * (int64_t) harness_slowness());
    for (int i = 0; i < RUNS; i++)
        by_cancel(&runs[i]);
    for (int i = 0; i < RUNS; i++) {
        CHECK_CODE(join(&runs[i]), -ECANCELED);
        release(&runs[i]);
    }
    close(fds[0]);
    close(fds[1]);
    close(out);
}

static void without_a_free_descriptor_it_is_cancelled_within_100_ms(void)
{
    const int out = file_in_memory();
    struct rlimit limit;
    struct run run;
    int64_t begun;
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    use_up_descriptors(&limit);
    start(&run, fd_source(fds[0]), fd_sink(out));
    usleep(2 * SETTLED_US);
    begun = harness_now();
    by_cancel(&run);
    CHECK_CODE(join(&run), -ECANCELED);
    /* 100 ms of promise, the rest for a busy machine. */
    CHECK_INT(harness_now() - begun, <, 500 * harness_slowness());
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    release(&run);
    close(fds[0]);
    close(fds[1]);
    close(out);
}

/* An end that cancels its own transfer while it is asked for the events that it waits for. */

struct waiter {
    struct sparsestream_transfer *transfer;
    int fd, waits;
};

static int64_t never_ready(void *opaque, void *buffer, size_t length)
{
    (void) opaque;
    (void) buffer;
    (void) length;
    return -EAGAIN;
}

static int cancel_when_asked(void *opaque, struct sparsestream_wait *wait)
{
    struct waiter *waiter = opaque;

    wait->fd = waiter->fd;
    wait->events = POLLIN;
    /* The last wait has no end of its own. */
    if (++waiter->waits < 3)
        wait->timeout_ms = 50;
    else
        CHECK_INT(sparsestream_transfer_cancel(waiter->transfer), ==, 0);
    return 0;
}

static void a_cancel_by_a_callback_just_before_the_wait_is_not_lost(void)
{
    const struct sparsestream_stream_ops ops = {
        .size = sizeof ops, .recv = never_ready, .wait = cancel_when_asked,
    };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink;
    const int out = file_in_memory();
    struct waiter waiter = { .waits = 0 };
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    waiter.fd = fds[0];
    REQUIRE(sparsestream_source_from_stream(&ops, &waiter, &source) == 0);
    sink = fd_sink(out);
    waiter.transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(waiter.transfer, 0), -ECANCELED);
    CHECK_INT(waiter.waits, ==, 3);
    sparsestream_transfer_free(waiter.transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(fds[0]);
    close(fds[1]);
    close(out);
}

/* Parent and child share what wakes a run. */
static void a_cancel_in_a_forked_child_does_not_disturb_it(void)
{
    const int out = file_in_memory();
    struct run run;
    int64_t used;
    int fds[2], status = -1;
    pid_t child;

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    start(&run, fd_source(fds[0]), fd_sink(out));
    usleep(SETTLED_US);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0)
        _exit(sparsestream_transfer_cancel(run.transfer) == 0 ? 0 : 1);
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_INT(status, ==, 0);
    used = processor_us();
    usleep(300000);
    used = processor_us() - used;
    CHECK_INT(used, <, 30000 * (int64_t) harness_slowness());
    CHECK_INT(run.result, ==, 1);
    by_cancel(&run);
    CHECK_CODE(join(&run), -ECANCELED);
    release(&run);
    close(fds[0]);
    close(fds[1]);
    close(out);
}

static int64_t receive_later(void *opaque, void *buffer, size_t length)
{
    return (int64_t) read(*(const int *) opaque, buffer, length) == -1 && errno == EAGAIN ? -EAGAIN : 0;
}

static int wait_for_it(void *opaque, struct sparsestream_wait *wait)
{
    wait->fd = *(const int *) opaque;
    wait->events = POLLIN;
    return 0;
}

static void *close_later(void *opaque)
{
    usleep(4 * SETTLED_US);
    close(*(const int *) opaque);
    return NULL;
}

/* There is no handle by which anybody could cancel it. */
static void a_whole_stream_in_one_call_waits_without_a_descriptor(void)
{
    const struct sparsestream_stream_ops ops = {
        .size = sizeof ops, .recv = receive_later, .wait = wait_for_it,
    };
    const int out = file_in_memory();
    struct sparsestream_sink *sink = fd_sink(out);
    struct rlimit limit;
    pthread_t thread;
    int64_t switched;
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    REQUIRE(pthread_create(&thread, NULL, close_later, &fds[1]) == 0);
    use_up_descriptors(&limit);
    switched = switches(RUSAGE_THREAD);
    CHECK_CODE(sparsestream_recv_all(&ops, &fds[0], sink, NULL, NULL), 0);
    CHECK_INT(switches(RUSAGE_THREAD) - switched, <, 5);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    pthread_join(thread, NULL);
    sparsestream_sink_free(sink);
    close(fds[0]);
    close(out);
}

TESTS(CASE(a_cancel_from_another_thread_wakes_it_at_once),
      CASE(a_cancel_from_a_signal_handler_wakes_it_at_once),
      CASE(a_failure_from_another_thread_wakes_it_at_once),
      CASE(many_that_wait_cost_nothing),
      CASE(without_a_free_descriptor_it_is_cancelled_within_100_ms),
      CASE(a_cancel_by_a_callback_just_before_the_wait_is_not_lost),
      CASE(a_cancel_in_a_forked_child_does_not_disturb_it),
      CASE(a_whole_stream_in_one_call_waits_without_a_descriptor))
