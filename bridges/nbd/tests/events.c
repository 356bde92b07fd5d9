/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Exports in the event loop of a caller. */

#include "servers.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { JOBS = 4 };

struct loop_job {
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    struct sparsestream_wait wait;
    bool done;
};

/* Watches what a transfer waits for, for one time. */
static void watch(int epoll, struct loop_job *job)
{
    job->wait = (struct sparsestream_wait){ .size = sizeof job->wait };
    CHECK_CODE(sparsestream_transfer_wait(job->transfer, &job->wait), 0);
    for (int i = 0; i < job->wait.count; i++) {
        struct epoll_event event = { .events = EPOLLONESHOT, .data.ptr = job };

        event.events |= (job->wait.fds[i].events & POLLIN) ? EPOLLIN : 0;
        event.events |= (job->wait.fds[i].events & POLLOUT) ? EPOLLOUT : 0;
        if (epoll_ctl(epoll, EPOLL_CTL_MOD, job->wait.fds[i].fd, &event) < 0)
            REQUIRE(epoll_ctl(epoll, EPOLL_CTL_ADD, job->wait.fds[i].fd, &event) == 0);
    }
}

/* Runs a bounded part of a transfer. */
static void run_part(int epoll, struct loop_job *job)
{
    int r = sparsestream_transfer_run(job->transfer, 1 * MiB);

    if (r == 1)
        return;
    if (r == -EAGAIN) {
        watch(epoll, job);
        return;
    }
    CHECK_CODE(r, 0);
    job->done = true;
}

static int timeout_of(const struct loop_job *jobs)
{
    int timeout = 1000;

    for (int i = 0; i < JOBS; i++) {
        if (!jobs[i].done && jobs[i].wait.count == 0)
            return 0;
        if (!jobs[i].done && jobs[i].wait.timeout_ms >= 0 && jobs[i].wait.timeout_ms < timeout)
            timeout = jobs[i].wait.timeout_ms;
    }
    return timeout;
}

static void four_transfers_in_one_epoll_loop(void)
{
    struct server one[JOBS], other[JOBS];
    struct loop_job jobs[JOBS];
    int epoll = epoll_create1(EPOLL_CLOEXEC), left = JOBS;
    struct sparsestream_nbd_options *options = NBD_OPTIONS(.flags = SPARSESTREAM_NBD_NONBLOCK);

    REQUIRE(epoll >= 0);
    for (int i = 0; i < JOBS; i++) {
        char seed[16];

        snprintf(seed, sizeof seed, "seed=%d", i);
        NBDKIT(&one[i], "--filter=delay", "sparse-random", "size=64M", "percent=20", seed, "delay-read=2ms");
        NBDKIT(&other[i], "--filter=delay", "sparse-random", "size=64M", "percent=20", seed, "delay-write=2ms");
        jobs[i] = (struct loop_job){ .source = export_source(one[i].uri, options, NULL),
                                     .sink = export_sink(other[i].uri, options, NULL) };
        CHECK_CODE(sparsestream_transfer_new(jobs[i].source, jobs[i].sink, NULL, &jobs[i].transfer), 0);
    }
    while (left > 0) {
        struct epoll_event events[16];

        REQUIRE(epoll_wait(epoll, events, 16, timeout_of(jobs)) >= 0 || errno == EINTR);
        left = 0;
        for (int i = 0; i < JOBS; i++) {
            if (!jobs[i].done)
                run_part(epoll, &jobs[i]);
            left += !jobs[i].done;
        }
    }
    for (int i = 0; i < JOBS; i++) {
        sparsestream_transfer_free(jobs[i].transfer);
        sparsestream_source_free(jobs[i].source);
        sparsestream_sink_free(jobs[i].sink);
        server_stop(&one[i]);
        server_stop(&other[i]);
    }
    close(epoll);
}

static void an_export_that_is_opened_without_waiting_reports_when_it_is_ready(void)
{
    struct server server;
    struct sparsestream_nbd_facts facts = { .size = sizeof facts };
    struct sparsestream_nbd *export;
    int r;

    NBDKIT(&server, "memory", "5M");
    export = open_export(server.uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_NONBLOCK));
    while ((r = sparsestream_nbd_info(export, &facts)) == -EAGAIN) {
        struct sparsestream_wait wait = { .size = sizeof wait };
        struct pollfd fd;

        CHECK_CODE(sparsestream_nbd_wait(export, &wait), 0);
        fd = (struct pollfd){ .fd = wait.fd, .events = (short)wait.events };
        REQUIRE(wait.fd >= 0 && wait.timeout_ms > 0);
        poll(&fd, 1, wait.timeout_ms);
    }
    CHECK_INT(r, ==, 0);
    CHECK_INT(facts.export_size, ==, 5 * MiB);
    CHECK_INT(facts.connections, >=, 1);
    CHECK_INT(facts.flags & (SPARSESTREAM_NBD_CAN_ZERO | SPARSESTREAM_NBD_CAN_FLUSH | SPARSESTREAM_NBD_REPORTS_HOLES),
              ==, SPARSESTREAM_NBD_CAN_ZERO | SPARSESTREAM_NBD_CAN_FLUSH | SPARSESTREAM_NBD_REPORTS_HOLES);
    CHECK_INT(facts.flags & (SPARSESTREAM_NBD_READ_ONLY | SPARSESTREAM_NBD_ENCRYPTED), ==, 0);
    sparsestream_nbd_free(export);
    server_stop(&server);
}

static void a_stopped_server_fails_the_transfer_that_waits_for_it(void)
{
    struct server server;
    struct outcome outcome;
    int to = file_new("to");

    NBDKIT(&server, "memory", "1M");
    kill(server.pid, SIGSTOP);
    outcome = move(export_source(server.uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_NONBLOCK, .timeout_ms = 200), NULL),
                   file_sink(to), NULL);
    CHECK_INT(outcome.r, ==, -ETIMEDOUT);
    CHECK_CONTAINS(outcome.error.message, "200 ms");
    server_stop(&server);
    close(to);
}

TESTS(
    CASE(four_transfers_in_one_epoll_loop),
    CASE(an_export_that_is_opened_without_waiting_reports_when_it_is_ready),
    CASE(a_stopped_server_fails_the_transfer_that_waits_for_it),
)
