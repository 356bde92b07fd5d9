/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Threads: handles are independent, one handle serves one call at a time and
 * says so to the others, cancel comes from anywhere. Built once more with
 * ThreadSanitizer, which then watches what this side of the interface sees.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 20 };

#if defined(__SANITIZE_THREAD__)
#define WATCHED 1
#else
#define WATCHED 0
#endif

static pthread_t start(void *(*run)(void *), void *argument)
{
    pthread_t thread;

    REQUIRE(pthread_create(&thread, NULL, run, argument) == 0);
    return thread;
}

#if WATCHED
/* Whether the program that says it is watched is. */
static volatile int plain_counter;

/* In rounds: a single one is missed now and then where only one thread runs at a time. */
static void *race(void *gate)
{
    for (int round = 0; round < 100; round++) {
        pthread_barrier_wait(gate);
        for (int i = 0; i < 1000; i++)
            plain_counter = plain_counter + 1;
    }
    return NULL;
}

static void the_watching_is_on(void)
{
    char self[4096], command[4200], line[512];
    bool found = false;
    FILE *run;

    if (harness_argument(0) != NULL && strcmp(harness_argument(0), "race") == 0) {
        pthread_barrier_t gate;
        pthread_t one;

        pthread_barrier_init(&gate, NULL, 2);
        one = start(race, &gate);
        race(&gate);
        pthread_join(one, NULL);
        return;
    }
    memset(self, 0, sizeof(self));
    REQUIRE(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    snprintf(command, sizeof(command), "TSAN_OPTIONS=exitcode=66 '%s' --only the_watching_is_on race 2>&1", self);
    run = popen(command, "re");
    REQUIRE(run != NULL);
    while (fgets(line, sizeof(line), run) != NULL)
        found = found || strstr(line, "data race") != NULL;
    pclose(run);
    CHECK(found);
}
#endif

/* Transfers, messages and all, in many threads at once: no thread sees anything of the others. */

struct job {
    unsigned seed;
    int in, out;
    int result;
    char message[256];
};

static void *copy(void *opaque)
{
    struct job *job = opaque;
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer = NULL;
    const struct sparsestream_transfer_options *options = TRANSFER_OPTIONS(.buffer_size = 8192);

    for (int round = 0; round < ROUNDS && job->result == 0; round++) {
        job->result = sparsestream_source_from_fd(job->in, NULL, &source);
        if (job->result == 0)
            job->result = sparsestream_sink_to_fd(job->out, NULL, &sink);
        if (job->result == 0)
            job->result = sparsestream_transfer_new(source, sink, options, &transfer);
        while (job->result == 0 && (job->result = sparsestream_transfer_run(transfer, 16384)) == 1)
            job->result = 0;
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        transfer = NULL;
        source = NULL;
        sink = NULL;
        /* This thread's message is about its own mistake. */
        if (sparsestream_section_at(-1 - (int) job->seed, 0, &(struct sparsestream_section) { .size = sizeof(struct sparsestream_section) }) != -EBADF)
            job->result = -ENOTRECOVERABLE;
        snprintf(job->message, sizeof(job->message), "%s", sparsestream_last_error());
        if (sparsestream_transfer_run(NULL, 1) != -EINVAL)
            job->result = -ENOTRECOVERABLE;
        if (strstr(sparsestream_last_error(), "transfer") == NULL)
            job->result = -ENOTRECOVERABLE;
    }
    return NULL;
}

static void handles_are_independent(void)
{
    const struct piece pieces[] = { DATA(100000), HOLE(200000), DATA(5), HOLE(300000), DATA(70000) };
    struct job jobs[THREADS];
    pthread_t threads[THREADS];

    memset(jobs, 0, sizeof(jobs));
    for (int i = 0; i < THREADS; i++) {
        jobs[i].seed = (unsigned) i;
        jobs[i].in = file_in_memory();
        jobs[i].out = file_in_memory();
        file_lay_out(jobs[i].in, 0, pieces, COUNT(pieces), (unsigned) i);
        file_fill(jobs[i].out, 0, 300000, 99);
    }
    for (int i = 0; i < THREADS; i++)
        threads[i] = start(copy, &jobs[i]);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_CODE(jobs[i].result, 0);
        CHECK_CONTAINS(jobs[i].message, "Bad file descriptor");
        CHECK_INT(file_differs(jobs[i].in, 0, jobs[i].out, 0, file_size(jobs[i].in)), ==, -1);
        close(jobs[i].in);
        close(jobs[i].out);
    }
}

/* A handle that is handed from thread to thread, each waiting for the one before. */

struct relay {
    pthread_mutex_t lock;
    struct sparsestream_transfer *transfer;
    int result;
};

static void *run_a_piece(void *opaque)
{
    struct relay *relay = opaque;
    bool more = true;

    while (more) {
        pthread_mutex_lock(&relay->lock);
        if (relay->result == 1)
            relay->result = sparsestream_transfer_run(relay->transfer, 4096);
        more = relay->result == 1;
        pthread_mutex_unlock(&relay->lock);
    }
    return NULL;
}

static void a_handle_may_go_from_thread_to_thread(void)
{
    const struct piece pieces[] = { DATA(100000), HOLE(200000), DATA(300000) };
    struct relay relay = { .lock = PTHREAD_MUTEX_INITIALIZER, .result = 1 };
    struct content from = { .count = 0 }, to = { .count = 0 };
    struct end in = { .from = &from }, out = { .to = &to };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    pthread_t threads[THREADS];

    content_lay_out(&from, pieces, COUNT(pieces), 3);
    source = end_source(&in);
    sink = end_sink(&out);
    relay.transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    for (int i = 0; i < THREADS; i++)
        threads[i] = start(run_a_piece, &relay);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_CODE(relay.result, 0);
    CHECK_CONTENT(&from, &to);
    sparsestream_transfer_free(relay.transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    content_free(&from);
    content_free(&to);
}

/* A second caller is refused while the first is within a call, and does no harm. */

struct stuck {
    pthread_barrier_t inside, leave;
    struct sparsestream_transfer *transfer;
    int result;
    bool waits;
};

static int64_t stuck_read(void *opaque, void *buffer, size_t length)
{
    struct stuck *stuck = opaque;

    if (!stuck->waits)
        return 0;
    stuck->waits = false;
    pthread_barrier_wait(&stuck->inside);
    pthread_barrier_wait(&stuck->leave);
    if (length > 1000)
        length = 1000;
    memset(buffer, 'x', length);
    return (int64_t) length;
}

static void *run_whole(void *opaque)
{
    struct stuck *stuck = opaque;

    stuck->result = sparsestream_transfer_run(stuck->transfer, 0);
    return NULL;
}

static const struct sparsestream_source_ops stuck_ops = {
    .size = sizeof(struct sparsestream_source_ops),
    .read = stuck_read,
};

static void a_handle_in_use_says_so(void)
{
    struct sparsestream_stats stats = { .size = sizeof(stats) };
    struct sparsestream_error error = { .size = sizeof(error) };
    struct sparsestream_wait wait = { .size = sizeof(wait) };
    struct content to = { .count = 0 };
    struct end out = { .to = &to };
    struct stuck stuck = { .waits = true };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    unsigned char byte;
    pthread_t thread;

    pthread_barrier_init(&stuck.inside, NULL, 2);
    pthread_barrier_init(&stuck.leave, NULL, 2);
    REQUIRE(sparsestream_source_from_callbacks(&stuck_ops, &stuck, &source) == 0);
    sink = end_sink(&out);
    stuck.transfer = new_transfer(source, sink, NULL);
    thread = start(run_whole, &stuck);
    pthread_barrier_wait(&stuck.inside);
    CHECK_CODE(sparsestream_transfer_run(stuck.transfer, 1), -EBUSY);
    CHECK_CODE(sparsestream_transfer_stats(stuck.transfer, &stats), -EBUSY);
    CHECK_CODE(sparsestream_transfer_error(stuck.transfer, &error), -EBUSY);
    CHECK_CODE(sparsestream_transfer_wait(stuck.transfer, &wait), -EBUSY);
    CHECK_CODE(sparsestream_source_read(source, &byte, 1), -EBUSY);
    CHECK_CODE(sparsestream_sink_write(sink, &byte, 1), -EBUSY);
    CHECK_CONTAINS(sparsestream_last_error(), "in use");
    pthread_barrier_wait(&stuck.leave);
    pthread_join(thread, NULL);
    CHECK_CODE(stuck.result, 0);
    CHECK_INT(content_size(&to), ==, 1000);
    CHECK_CODE(sparsestream_transfer_stats(stuck.transfer, &stats), 0);
    CHECK_INT(stats.data_bytes, ==, 1000);
    sparsestream_transfer_free(stuck.transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    pthread_barrier_destroy(&stuck.inside);
    pthread_barrier_destroy(&stuck.leave);
    content_free(&to);
}

/* Many at one handle: each call is made whole or refused, and the content comes out as if one had made them all. */

struct crowd {
    struct sparsestream_transfer *transfer;
    atomic_int pieces, refused, strange;
};

static void *jostle(void *opaque)
{
    struct crowd *crowd = opaque;

    for (;;) {
        const int r = sparsestream_transfer_run(crowd->transfer, 4096);

        if (r == 0)
            return NULL;
        if (r == 1)
            atomic_fetch_add(&crowd->pieces, 1);
        else if (r == -EBUSY)
            atomic_fetch_add(&crowd->refused, 1);
        else
            atomic_fetch_add(&crowd->strange, 1);
    }
}

static void a_crowd_at_one_handle_does_no_harm(void)
{
    const struct piece pieces[] = { DATA(500000), HOLE(100000), DATA(500000) };
    struct content from = { .count = 0 }, to = { .count = 0 };
    struct end in = { .from = &from }, out = { .to = &to };
    struct crowd crowd = { .transfer = NULL };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    pthread_t threads[THREADS];

    if (WATCHED)
        skip("the lock within the handle is the library's, which is not built with ThreadSanitizer");
    content_lay_out(&from, pieces, COUNT(pieces), 4);
    source = end_source(&in);
    sink = end_sink(&out);
    crowd.transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    for (int i = 0; i < THREADS; i++)
        threads[i] = start(jostle, &crowd);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT(crowd.strange, ==, 0);
    CHECK_INT(crowd.pieces, >, 100);
    CHECK_CONTENT(&from, &to);
    CHECK_INT(in.frees, ==, 0);
    sparsestream_transfer_free(crowd.transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    content_free(&from);
    content_free(&to);
}

/* Cancel, while another thread is within a run that waits. */

static void *run_blocked(void *opaque)
{
    struct relay *relay = opaque;

    relay->result = sparsestream_transfer_run(relay->transfer, 0);
    return NULL;
}

static void *cancel(void *transfer)
{
    return (void *) (intptr_t) sparsestream_transfer_cancel(transfer);
}

static void cancel_comes_from_any_thread(void)
{
    struct relay relay = { .result = 1 };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    const int out = file_in_memory();
    pthread_t runner, cancellers[THREADS];
    int64_t begun;
    void *answer;
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    source = fd_source(fds[0]);
    sink = fd_sink(out);
    relay.transfer = new_transfer(source, sink, NULL);
    runner = start(run_blocked, &relay);
    usleep(50000);
    begun = harness_now();
    for (int i = 0; i < THREADS; i++)
        cancellers[i] = start(cancel, relay.transfer);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(cancellers[i], &answer);
        CHECK_INT((intptr_t) answer, ==, 0);
    }
    pthread_join(runner, NULL);
    CHECK_CODE(relay.result, -ECANCELED);
    CHECK_INT(harness_now() - begun, <, 100 + 400 * harness_slowness());
    sparsestream_transfer_free(relay.transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(fds[0]);
    close(fds[1]);
    close(out);
}

/* Cancels from several threads, at any moment of a run in pieces, and then the end of the handle in yet another thread. */

struct storm {
    pthread_barrier_t gate;
    struct sparsestream_transfer *transfer;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    int result;
};

struct bolt {
    struct storm *storm;
    unsigned long moment; /* turns of a loop */
    int result;
};

static void *run_in_pieces(void *opaque)
{
    struct storm *storm = opaque;

    pthread_barrier_wait(&storm->gate);
    while ((storm->result = sparsestream_transfer_run(storm->transfer, 4096)) == 1)
        ;
    return NULL;
}

static void *cancel_at_a_moment(void *opaque)
{
    struct bolt *bolt = opaque;
    volatile unsigned long left = bolt->moment;

    pthread_barrier_wait(&bolt->storm->gate);
    while (left > 0)
        left--;
    bolt->result = sparsestream_transfer_cancel(bolt->storm->transfer);
    return NULL;
}

static void *free_the_handles(void *opaque)
{
    struct storm *storm = opaque;

    sparsestream_transfer_free(storm->transfer);
    sparsestream_source_free(storm->source);
    sparsestream_sink_free(storm->sink);
    return NULL;
}

enum when { BEFORE, DURING, AFTER };

/* Returns what the transfer ended with. */
static int one_storm(const struct content *from, enum when when, unsigned long moment)
{
    enum { CANCELLERS = 3 };
    struct content to = { .count = 0 };
    struct end in = { .from = from }, out = { .to = &to };
    struct storm storm = { .source = end_stream_source(&in), .sink = end_stream_sink(&out) };
    struct bolt bolts[CANCELLERS];
    pthread_t runner, cancellers[CANCELLERS];

    storm.transfer = new_transfer(storm.source, storm.sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    if (when == BEFORE)
        CHECK_CODE(sparsestream_transfer_cancel(storm.transfer), 0);
    REQUIRE(pthread_barrier_init(&storm.gate, NULL, when == DURING ? CANCELLERS + 1 : 1) == 0);
    runner = start(run_in_pieces, &storm);
    for (int i = 0; i < CANCELLERS && when == DURING; i++) {
        bolts[i] = (struct bolt) { .storm = &storm, .moment = moment + moment * (unsigned long) i / 4, .result = 1 };
        cancellers[i] = start(cancel_at_a_moment, &bolts[i]);
    }
    for (int i = 0; i < CANCELLERS && when == DURING; i++) {
        pthread_join(cancellers[i], NULL);
        CHECK_CODE(bolts[i].result, 0);
    }
    pthread_join(runner, NULL);
    if (when == AFTER)
        CHECK_CODE(sparsestream_transfer_cancel(storm.transfer), 0);
    CHECK(storm.result == 0 || storm.result == -ECANCELED);
    /* Its end is its end, for good. */
    CHECK_CODE(sparsestream_transfer_run(storm.transfer, 4096), storm.result);
    if (storm.result == 0) {
        CHECK_CONTENT(from, &to);
        CHECK_INT(in.finishes, ==, 1);
        CHECK_INT(out.finishes, ==, 1);
        CHECK_INT(in.aborts + out.aborts, ==, 0);
    } else {
        CHECK_INT(in.aborts, ==, 1);
        CHECK_INT(out.aborts, ==, 1);
        CHECK_INT(in.abort_error, ==, ECANCELED);
        CHECK_INT(out.finishes, ==, 0);
    }
    pthread_join(start(free_the_handles, &storm), NULL);
    CHECK_INT(in.finishes + in.aborts, ==, 1);
    CHECK_INT(out.finishes + out.aborts, ==, 1);
    CHECK_INT(in.frees, ==, 1);
    CHECK_INT(out.frees, ==, 1);
    pthread_barrier_destroy(&storm.gate);
    content_free(&to);
    return storm.result;
}

static void a_cancel_may_come_at_any_moment(void)
{
    const struct piece pieces[] = { DATA(200000), HOLE(100000), DATA(100000) };
    struct content from = { .count = 0 };

    content_lay_out(&from, pieces, COUNT(pieces), 5);
    CHECK_CODE(one_storm(&from, BEFORE, 0), -ECANCELED);
    for (unsigned long round = 0; round < (WATCHED ? 2 : 10) * ROUNDS; round++)
        (void) one_storm(&from, DURING, round * round * 20);
    CHECK_CODE(one_storm(&from, AFTER, 0), 0);
    content_free(&from);
}

static struct sparsestream_transfer *signalled;
static atomic_int handler_result;

static void on_signal(int number)
{
    (void) number;
    handler_result = sparsestream_transfer_cancel(signalled);
}

static void *raise_soon(void *thread)
{
    usleep(50000);
    pthread_kill(*(pthread_t *) thread, SIGUSR1);
    return NULL;
}

static void cancel_comes_from_a_signal_handler(void)
{
    const struct sigaction action = { .sa_handler = on_signal };
    struct sigaction before;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    const int out = file_in_memory();
    pthread_t self = pthread_self(), helper;
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    source = fd_source(fds[0]);
    sink = fd_sink(out);
    signalled = new_transfer(source, sink, NULL);
    handler_result = -1;
    REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
    helper = start(raise_soon, &self);
    CHECK_CODE(sparsestream_transfer_run(signalled, 0), -ECANCELED);
    pthread_join(helper, NULL);
    CHECK_INT(handler_result, ==, 0);
    REQUIRE(sigaction(SIGUSR1, &before, NULL) == 0);
    sparsestream_transfer_free(signalled);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(fds[0]);
    close(fds[1]);
    close(out);
}

/*
 * pthread_cancel(3) of a thread that is within a call: the call comes to its end, and the cancel acts at the
 * thread's next cancellation point.
 */

struct condemned {
    pthread_barrier_t inside, cancelled;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    bool waits;
    int result, state_after;
    atomic_int reached_end;
};

/* Has cancellation points of its own. */
static int64_t condemned_read(void *opaque, void *buffer, size_t length)
{
    struct condemned *condemned = opaque;

    if (!condemned->waits)
        return 0;
    condemned->waits = false;
    pthread_barrier_wait(&condemned->inside);
    pthread_barrier_wait(&condemned->cancelled);
    usleep(1000);
    pthread_testcancel();
    memset(buffer, 'x', length < 1000 ? length : 1000);
    return length < 1000 ? (int64_t) length : 1000;
}

static const struct sparsestream_source_ops condemned_ops = {
    .size = sizeof(struct sparsestream_source_ops),
    .read = condemned_read,
};

static void *run_condemned(void *opaque)
{
    struct condemned *condemned = opaque;
    int state = -1;

    condemned->result = sparsestream_transfer_run(condemned->transfer, 0);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    condemned->state_after = state;
    pthread_setcancelstate(state, NULL);
    pthread_testcancel();
    atomic_store(&condemned->reached_end, 1);
    return NULL;
}

static void a_cancelled_thread_leaves_its_call_first(void)
{
    struct content to = { .count = 0 };
    struct end out = { .to = &to };
    struct condemned condemned = { .waits = true, .result = 1, .state_after = -1 };
    pthread_t thread;
    void *answer;

    if (WATCHED)
        skip("ThreadSanitizer has no thread cancellation");
    pthread_barrier_init(&condemned.inside, NULL, 2);
    pthread_barrier_init(&condemned.cancelled, NULL, 2);
    REQUIRE(sparsestream_source_from_callbacks(&condemned_ops, &condemned, &condemned.source) == 0);
    condemned.sink = end_sink(&out);
    condemned.transfer = new_transfer(condemned.source, condemned.sink, NULL);
    thread = start(run_condemned, &condemned);
    pthread_barrier_wait(&condemned.inside);
    CHECK_INT(pthread_cancel(thread), ==, 0);
    pthread_barrier_wait(&condemned.cancelled);
    pthread_join(thread, &answer);
    CHECK(answer == PTHREAD_CANCELED);
    CHECK_INT(condemned.reached_end, ==, 0);
    CHECK_CODE(condemned.result, 0);
    CHECK_INT(condemned.state_after, ==, PTHREAD_CANCEL_ENABLE);
    CHECK_INT(content_size(&to), ==, 1000);
    sparsestream_transfer_free(condemned.transfer);
    sparsestream_source_free(condemned.source);
    sparsestream_sink_free(condemned.sink);
    pthread_barrier_destroy(&condemned.inside);
    pthread_barrier_destroy(&condemned.cancelled);
    content_free(&to);
}

/* The same while the call waits in poll(2), which is a cancellation point. */
static void a_cancelled_thread_that_waits_leaves_its_call_first(void)
{
    struct condemned condemned = { .result = 1, .state_after = -1 };
    const int out = file_in_memory();
    pthread_t thread;
    void *answer;
    int fds[2];

    if (WATCHED)
        skip("ThreadSanitizer has no thread cancellation");
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    condemned.source = fd_source(fds[0]);
    condemned.sink = fd_sink(out);
    condemned.transfer = new_transfer(condemned.source, condemned.sink, NULL);
    thread = start(run_condemned, &condemned);
    usleep(50000);
    CHECK_INT(pthread_cancel(thread), ==, 0);
    usleep(50000);
    REQUIRE(write(fds[1], "x", 1) == 1);
    close(fds[1]);
    pthread_join(thread, &answer);
    CHECK(answer == PTHREAD_CANCELED);
    CHECK_INT(condemned.reached_end, ==, 0);
    CHECK_CODE(condemned.result, 0);
    CHECK_INT(file_size(out), ==, 1);
    sparsestream_transfer_free(condemned.transfer);
    sparsestream_source_free(condemned.source);
    sparsestream_sink_free(condemned.sink);
    close(fds[0]);
    close(out);
}

TESTS(
#if WATCHED
    CASE(the_watching_is_on),
#endif
    CASE(handles_are_independent),
    CASE(a_handle_may_go_from_thread_to_thread),
    CASE(a_handle_in_use_says_so),
    CASE(a_crowd_at_one_handle_does_no_harm),
    CASE(cancel_comes_from_any_thread),
    CASE(a_cancel_may_come_at_any_moment),
    CASE(cancel_comes_from_a_signal_handler),
    CASE(a_cancelled_thread_leaves_its_call_first),
    CASE(a_cancelled_thread_that_waits_leaves_its_call_first))
