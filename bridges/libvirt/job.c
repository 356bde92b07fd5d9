/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Transfers that libvirt's event loop drives. */

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* More than the one message that libvirt's client reads in a round of the event loop. */
#define BUDGET (4 * SPARSESTREAM_LIBVIRT_MESSAGE)
/* The longest time that one round takes from the event loop, and the interval of checks for a cancel in it. */
#define HOLD_MS 1000
#define SLICE_MS 50
/* As many as a transfer can wait for. */
#define MOST_HANDLES 8

struct handle {
    int watch, fd;
};

struct sparsestream_libvirt_job {
    /* The caller's, one for each callback of the timer and the handles, and one while a callback runs. */
    int references;
    struct lv_stream lv;
    failure_t failure;
    struct sparsestream_transfer *transfer;
    /* The stream's handle: one of both. */
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct watched watched;
    bool may_hold, ended;
    /* The events that libvirt calls the job for. */
    bool stream_watched;
    atomic_int timer;
    struct handle handles[MOST_HANDLES];
    int handle_count;
    /* Why it must end, a positive errno; set by any thread. */
    atomic_int ending;
    sparsestream_libvirt_done done;
    void *opaque;
};

typedef struct sparsestream_libvirt_job job_t;

static void drive(job_t *job);

static void unref(void *opaque)
{
    job_t *job = opaque;
    struct sigpipe saved;

    if (--job->references > 0)
        return;
    /* The last reference to a connection makes a call to the daemon. */
    sigpipe_block(&saved);
    virStreamFree(job->lv.stream);
    sigpipe_restore(&saved);
    free(job);
}

/* The callbacks that libvirt calls. */

static void on_stream(virStreamPtr stream, int events, void *opaque)
{
    int none = 0;
    job_t *job = opaque;

    (void) stream;
    if ((events & (VIR_STREAM_EVENT_ERROR | VIR_STREAM_EVENT_HANGUP)) != 0
        && (events & (VIR_STREAM_EVENT_READABLE | VIR_STREAM_EVENT_WRITABLE)) == 0)
        atomic_compare_exchange_strong(&job->ending, &none, ECONNRESET);
    drive(job);
}

static void on_timer(int timer, void *opaque)
{
    virEventUpdateTimeout(timer, -1);
    drive(opaque);
}

static void on_handle(int handle, int fd, int events, void *opaque)
{
    (void) handle;
    (void) fd;
    (void) events;
    drive(opaque);
}

static void on_lost(struct watched *watched, int error)
{
    job_t *job = (job_t *) ((char *) watched - offsetof(job_t, watched));

    job->lv.lost = true;
    atomic_store(&job->ending, error);
    drive(job);
}

/* The stream, descriptors and timeouts that the job waits for. */

static void watch_stream(job_t *job, bool wanted)
{
    int events = job->source != NULL ? VIR_STREAM_EVENT_READABLE : VIR_STREAM_EVENT_WRITABLE;

    if (job->stream_watched)
        virStreamEventUpdateCallback(job->lv.stream, wanted ? events : 0);
}

/* Before the stream is finished or aborted: after it, libvirt knows no callback of it. */
static void forget_stream(void *opaque)
{
    job_t *job = opaque;

    if (!job->stream_watched)
        return;
    job->stream_watched = false;
    virStreamEventRemoveCallback(job->lv.stream);
}

static void forget_handles(job_t *job)
{
    for (int i = 0; i < job->handle_count; i++)
        virEventRemoveHandle(job->handles[i].watch);
    job->handle_count = 0;
}

static int handle_events(int events)
{
    return ((events & POLLIN) != 0 ? VIR_EVENT_HANDLE_READABLE : 0)
           | ((events & POLLOUT) != 0 ? VIR_EVENT_HANDLE_WRITABLE : 0);
}

/* The descriptors of the job are most often the same as the last time. */
static bool same_handles(const job_t *job, const struct sparsestream_wait *wait)
{
    if (job->handle_count != wait->count)
        return false;
    for (int i = 0; i < wait->count; i++) {
        if (job->handles[i].fd != wait->fds[i].fd)
            return false;
    }
    return true;
}

/* Returns 0 or a negative errno. */
static int watch_handles(job_t *job, const struct sparsestream_wait *wait)
{
    const bool same = same_handles(job, wait);

    if (!same)
        forget_handles(job);
    for (int i = 0; i < wait->count; i++) {
        const int events = handle_events(wait->fds[i].events);
        struct handle *handle = &job->handles[i];

        if (same) {
            virEventUpdateHandle(handle->watch, events);
            continue;
        }
        handle->fd = wait->fds[i].fd;
        handle->watch = virEventAddHandle(handle->fd, events, on_handle, job, unref);
        if (handle->watch < 0)
            return error_set(&job->failure, -ENOSYS, "libvirt's event loop does not watch descriptor %d", handle->fd);
        job->references++;
        job->handle_count++;
    }
    return 0;
}

static void rest_handles(const job_t *job)
{
    for (int i = 0; i < job->handle_count; i++)
        virEventUpdateHandle(job->handles[i].watch, 0);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Holds up the event loop until the sink is ready, or `until`. Returns whether it is. */
static bool hold(job_t *job, const struct sparsestream_wait *wait, int64_t until)
{
    struct pollfd pollfds[MOST_HANDLES];
    int64_t left;

    for (int i = 0; i < wait->count; i++)
        pollfds[i] = (struct pollfd){ .fd = wait->fds[i].fd, .events = (short) wait->fds[i].events };
    while ((left = until - now_ms()) > 0 && atomic_load(&job->ending) == 0) {
        const int r = poll(pollfds, (nfds_t) wait->count, (int) (left < SLICE_MS ? left : SLICE_MS));

        if (r > 0)
            return true;
        if (r < 0 && errno != EINTR)
            return false;
    }
    return false;
}

/* The next step of the job, and why the transfer was not run further. */
enum next { NEXT_AGAIN, NEXT_LATER, NEXT_WAIT };

static enum next wait_for(job_t *job, int64_t until, int *error)
{
    struct sparsestream_wait wait = { .size = sizeof(wait) };
    const int side = job->source != NULL ? SPARSESTREAM_SIDE_SOURCE : SPARSESTREAM_SIDE_SINK;
    bool hold_next = false;

    *error = sparsestream_transfer_wait(job->transfer, &wait);
    if (*error < 0) {
        error_set(&job->failure, *error, "%s", sparsestream_last_error());
        return NEXT_WAIT;
    }
    if (wait.count > 0) {
        hold_next = job->may_hold && wait.side == SPARSESTREAM_SIDE_SINK;
        if (hold_next && hold(job, &wait, until))
            return NEXT_AGAIN;
        *error = watch_handles(job, &wait);
    } else {
        rest_handles(job);
    }
    watch_stream(job, wait.side == side);
    virEventUpdateTimeout(job->timer, hold_next ? 0 : wait.timeout_ms);
    return NEXT_WAIT;
}

/* Runs the transfer until it waits or ends. Returns 1 if it waits, or its result. */
static int run(job_t *job)
{
    const int64_t until = now_ms() + HOLD_MS;
    enum next next = NEXT_AGAIN;
    int error = 0, r = 0;

    if (atomic_load(&job->ending) != 0)
        sparsestream_transfer_cancel(job->transfer);
    while (next == NEXT_AGAIN) {
        r = sparsestream_transfer_run(job->transfer, BUDGET);
        if (r == -EAGAIN)
            next = wait_for(job, until, &error);
        else if (r == 1)
            next = NEXT_LATER;
        else
            return r;
        if (error < 0)
            return error;
    }
    if (next == NEXT_LATER) {
        watch_stream(job, false);
        rest_handles(job);
        virEventUpdateTimeout(job->timer, 0);
    }
    return 1;
}

/* Takes the job out of the event loop. */
static void settle(job_t *job)
{
    job->ended = true;
    watch_remove(&job->watched);
    forget_handles(job);
    lv_stream_abort(&job->lv);
    forget_stream(job);
    if (job->timer >= 0)
        virEventRemoveTimeout(job->timer);
    job->timer = -1;
}

static void end(job_t *job, int result)
{
    struct sparsestream_error reported = { .size = sizeof(reported), .offset = -1 };
    const int why = atomic_load(&job->ending);

    /* A transfer that finished before it was asked to end has succeeded. */
    if (result == -ECANCELED && why != 0)
        result = -why;
    if (result < 0) {
        sparsestream_transfer_error(job->transfer, &reported);
        if (why != 0 && why != ECANCELED && result == -why)
            error_set(&job->failure, result, "the connection to the daemon is lost%s",
                      why == ETIMEDOUT ? ": it does not answer" : "");
        else
            error_add_transfer(&job->failure, result, &reported);
    } else {
        error_clear(&job->failure);
    }
    settle(job);
    job->done(job, result, &job->failure, job->opaque);
}

static void drive(job_t *job)
{
    struct sigpipe saved;
    int r;

    if (job->ended)
        return;
    job->references++;
    sigpipe_block(&saved);
    job->lv.guarded = true;
    r = run(job);
    if (r <= 0)
        end(job, r);
    job->lv.guarded = false;
    sigpipe_restore(&saved);
    unref(job);
}

/* Starting and freeing. */

/* Registers the job with libvirt. Returns 0 or a negative errno, with what was registered left to settle(). */
static int attach(job_t *job, struct sparsestream_libvirt_watch *watch, failure_t *failure)
{
    /* The first step is made from the event loop, so that `done` is never called before the start has returned. */
    job->timer = virEventAddTimeout(0, on_timer, job, unref);
    if (job->timer < 0)
        return error_set(failure, -ENOSYS, "libvirt has no event loop: virEventRegisterDefaultImpl() was not called");
    job->references++;
    /* Without a free function: libvirt 9.0 never calls it. */
    if (virStreamEventAddCallback(job->lv.stream, 0, on_stream, job, NULL) < 0)
        return error_take(failure);
    job->stream_watched = true;
    return watch == NULL ? 0 : watch_add(watch, &job->watched, failure);
}

static void discard(job_t *job)
{
    sparsestream_transfer_free(job->transfer);
    job->transfer = NULL;
    sparsestream_source_free(job->source);
    sparsestream_sink_free(job->sink);
    unref(job);
}

/* A job with its transfer, not yet known to libvirt. Returns 0 or a negative errno with nothing left. */
static int job_new(struct sparsestream_source *source, virStreamPtr stream, struct sparsestream_sink *sink,
                   const options_t *given, failure_t *failure, job_t **out)
{
    struct sparsestream_transfer_options transfer;
    options_t options;
    job_t *job;
    int r;

    r = options_read(given, source == NULL ? SPARSESTREAM_LIBVIRT_NO_PAUSE : 0, &options, failure);
    if (r == 0)
        r = options_transfer(&options, &transfer, failure);
    if (r == 0)
        r = options_only_auto(&options, failure);
    if (r < 0)
        return r;
    if (virStreamRef(stream) < 0)
        return error_take(failure);
    job = calloc(1, sizeof(*job));
    if (job == NULL) {
        virStreamFree(stream);
        return error_set(failure, -ENOMEM, "no memory");
    }
    job->references = 1;
    job->timer = -1;
    lv_stream_init(&job->lv, stream, &job->failure);
    job->lv.nonblocking = true;
    job->lv.closing = forget_stream;
    job->lv.opaque = job;
    job->watched.lost = on_lost;
    job->may_hold = source == NULL && (options.flags & SPARSESTREAM_LIBVIRT_NO_PAUSE) == 0;
    r = source == NULL ? sparsestream_source_from_stream(&lv_stream_ops, &job->lv, &job->source)
                       : sparsestream_sink_to_stream(&lv_stream_ops, &job->lv, &job->sink);
    if (r == 0)
        r = sparsestream_transfer_new(source == NULL ? job->source : source, source == NULL ? sink : job->sink,
                                      &transfer, &job->transfer);
    if (r < 0) {
        error_set(failure, r, "%s", sparsestream_last_error());
        discard(job);
        return r;
    }
    *out = job;
    return 0;
}

/* The checks that need no more than the arguments. Returns 0 or -EINVAL. */
static int check(const struct sparsestream_source *source, virStreamPtr stream, const struct sparsestream_sink *sink,
                 sparsestream_libvirt_done done, failure_t *failure)
{
    if (source == NULL && sink == NULL)
        return error_set(failure, -EINVAL, "the source or the sink is NULL");
    if (stream == NULL)
        return error_set(failure, -EINVAL, "the stream is NULL");
    return done == NULL ? error_set(failure, -EINVAL, "done is NULL") : 0;
}

static int start(struct sparsestream_source *source, virStreamPtr stream, struct sparsestream_sink *sink,
                 struct sparsestream_libvirt_watch *watch, const options_t *options, sparsestream_libvirt_done done,
                 void *opaque, failure_t *failure_out, job_t **out)
{
    failure_t failure;
    job_t *job = NULL;
    int r;

    if (out == NULL || error_check(failure_out) < 0)
        return -EINVAL;
    *out = NULL;
    error_clear(&failure);
    r = check(source, stream, sink, done, &failure);
    if (r == 0)
        r = job_new(source, stream, sink, options, &failure, &job);
    if (r == 0) {
        job->done = done;
        job->opaque = opaque;
        r = attach(job, watch, &failure);
    }
    if (r < 0 && job != NULL) {
        /* The stream stays as the caller gave it. */
        job->lv.open = false;
        settle(job);
        discard(job);
        job = NULL;
    }
    error_give(&failure, failure_out);
    *out = job;
    return r;
}

int sparsestream_libvirt_job_send(struct sparsestream_source *source, virStreamPtr stream,
                                  struct sparsestream_libvirt_watch *watch, const options_t *options,
                                  sparsestream_libvirt_done done, void *opaque, failure_t *failure, job_t **job)
{
    return start(source, stream, NULL, watch, options, done, opaque, failure, job);
}

int sparsestream_libvirt_job_recv(virStreamPtr stream, struct sparsestream_sink *sink,
                                  struct sparsestream_libvirt_watch *watch, const options_t *options,
                                  sparsestream_libvirt_done done, void *opaque, failure_t *failure, job_t **job)
{
    return start(NULL, stream, sink, watch, options, done, opaque, failure, job);
}

int sparsestream_libvirt_job_cancel(job_t *job)
{
    int none = 0;

    if (job == NULL)
        return -EINVAL;
    atomic_compare_exchange_strong(&job->ending, &none, ECANCELED);
    return sparsestream_libvirt_job_wake(job);
}

int sparsestream_libvirt_job_wake(job_t *job)
{
    if (job == NULL)
        return -EINVAL;
    /* A job that has ended has no timer any more: nothing happens then. */
    virEventUpdateTimeout(job->timer, 0);
    return 0;
}

int sparsestream_libvirt_job_stats(job_t *job, struct sparsestream_stats *stats)
{
    return job == NULL ? -EINVAL : sparsestream_transfer_stats(job->transfer, stats);
}

void sparsestream_libvirt_job_free(job_t *job)
{
    if (job == NULL)
        return;
    if (!job->ended) {
        /* Aborts both ends if it was run. */
        sparsestream_transfer_free(job->transfer);
        job->transfer = NULL;
        settle(job);
    }
    discard(job);
}
