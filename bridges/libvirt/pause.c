/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libvirt's client reads from its socket whenever the event loop finds it readable, and queues what comes for a stream
 * without a limit. The only way to stop it is to delay the event loop. It reads one message in each round.
 *
 * A delayed loop reads nothing, and then the stream's reader reads the socket itself, with several times the system
 * calls. So the loop is not delayed as long as the reader finds the queue empty between two checks. Otherwise the
 * loop is delayed until the queue is empty, except for a round after each batch that the reader has taken.
 */

#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* How often the loop looks whether the reader is behind, in milliseconds. */
#define LOOK_MS 4
/* A reader that waits this long in one call has nothing queued. */
#define WAITING_NS 300000
/* A call that finds the queue empty polls and reads the socket, which takes more than this many times as long as taking a
 * message from the queue. It must have happened several times in a row: one call may have lost its processor. */
#define SLOWER 16
#define SLOW_CALLS 3
/* The least time that a call is counted with, for clocks that are not fine enough. */
#define LEAST_NS 200
/* Calls that return more are not compared: most of their time goes into copying. */
#define SMALL 16384
/* A batch is two calls of the reader at least, and this many bytes or this much time. */
#define BATCH SPARSESTREAM_LIBVIRT_MESSAGE
#define ROUND_NS 5000000
/* The longest delay of the loop. Keepalive messages wait as long. */
#define MOST_NS 1000000000

struct pause {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int timer, interval;
    int references;
    /* The reader is at work until it has ended, and not one that may stop in between. */
    bool busy;
    bool reading, paused, freed;
    unsigned long calls, given_up;
    int64_t taken;
    /* The batch is complete when these are reached. */
    unsigned long target_calls;
    int64_t target_taken;
    /* The reader found the queue empty since the last look. */
    bool empty;
    /* When the call began that the reader is in. */
    int64_t since;
    /* The last call returned less than was asked for. */
    bool less;
    /* The shortest call so far, and how many slow ones there were in a row. */
    int64_t shortest;
    int slow;
    pthread_t reader;
};

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

static void release(void *opaque)
{
    struct pause *pause = opaque;
    bool last;

    pthread_mutex_lock(&pause->lock);
    last = --pause->references == 0;
    pthread_mutex_unlock(&pause->lock);
    if (!last)
        return;
    pthread_cond_destroy(&pause->changed);
    pthread_mutex_destroy(&pause->lock);
    free(pause);
}

static void wait_some(struct pause *pause, int64_t until)
{
    const struct timespec time = { .tv_sec = until / 1000000000, .tv_nsec = until % 1000000000 };

    pthread_cond_clockwait(&pause->changed, &pause->lock, CLOCK_MONOTONIC, &time);
}

/* Whether there is somebody to wait for. The reader itself may be who runs the event loop. */
static bool may_hold(const struct pause *pause)
{
    return pause->calls > 0 && pause->calls != pause->given_up && !pthread_equal(pause->reader, pthread_self());
}

/* Whether the reader has taken a batch, or has nothing left to take. */
static bool far_enough(const struct pause *pause)
{
    return pause->empty || (pause->calls >= pause->target_calls && pause->taken >= pause->target_taken);
}

/* Holds the thread until the reader has taken a batch, or found the queue empty. Returns whether it was behind. */
static bool hold(struct pause *pause)
{
    const unsigned long begun_calls = pause->calls;
    const int64_t begun = now_ns();
    int64_t now = begun;

    pause->target_calls = begun_calls + 2;
    pause->target_taken = pause->taken + BATCH;
    pause->paused = true;
    while (!pause->freed && !far_enough(pause) && now - begun < MOST_NS) {
        if (pause->reading && now - pause->since >= WAITING_NS)
            pause->empty = true;
        else if (now - begun >= ROUND_NS && pause->calls >= pause->target_calls)
            break;
        else
            wait_some(pause, pause->reading ? pause->since + WAITING_NS : now + ROUND_NS);
        now = now_ns();
    }
    pause->paused = false;
    if (!pause->busy && pause->calls == begun_calls)
        pause->given_up = pause->calls;
    return !pause->empty;
}

static void look(int timer, void *opaque)
{
    struct pause *pause = opaque;
    int interval = LOOK_MS;
    bool update;

    pthread_mutex_lock(&pause->lock);
    if (!pause->empty && may_hold(pause) && hold(pause))
        interval = 0;
    pause->empty = false;
    update = interval != pause->interval && !pause->freed;
    pause->interval = interval;
    pthread_mutex_unlock(&pause->lock);
    if (update)
        virEventUpdateTimeout(timer, interval);
}

struct pause *pause_new(bool busy)
{
    struct pause *pause = calloc(1, sizeof(*pause));

    if (pause == NULL)
        return NULL;
    pthread_mutex_init(&pause->lock, NULL);
    pthread_cond_init(&pause->changed, NULL);
    pause->busy = busy;
    pause->interval = LOOK_MS;
    pause->shortest = INT64_MAX / SLOWER;
    /* The event loop's reference, dropped by release(), and the caller's. */
    pause->references = 2;
    pause->timer = virEventAddTimeout(LOOK_MS, look, pause, release);
    if (pause->timer < 0) {
        pause->references = 1;
        release(pause);
        return NULL;
    }
    return pause;
}

void pause_before(struct pause *pause)
{
    if (pause == NULL)
        return;
    pthread_mutex_lock(&pause->lock);
    pause->reading = true;
    pause->reader = pthread_self();
    pause->since = now_ns();
    pause->calls++;
    if (pause->paused && far_enough(pause))
        pthread_cond_signal(&pause->changed);
    pthread_mutex_unlock(&pause->lock);
}

/* Whether this call, like those before it, took so long that it must have read the socket. */
static bool was_slow(struct pause *pause, int64_t took)
{
    if (took < pause->shortest)
        pause->shortest = took > LEAST_NS ? took : LEAST_NS;
    pause->slow = took >= SLOWER * pause->shortest ? pause->slow + 1 : 0;
    return pause->slow >= SLOW_CALLS;
}

/* Whether this call, or the one before, shows that the queue was empty. */
static bool found_empty(struct pause *pause, int64_t asked, int64_t got, bool at_hole)
{
    /* libvirt fills the buffer from the queue as far as there is data before a hole. */
    const bool took_all = pause->less && !at_hole;

    pause->less = got > 0 && got < asked;
    return (got <= SMALL && was_slow(pause, now_ns() - pause->since)) || took_all;
}

void pause_after(struct pause *pause, int64_t asked, int64_t got, bool at_hole)
{
    if (pause == NULL)
        return;
    pthread_mutex_lock(&pause->lock);
    pause->reading = false;
    pause->taken += got > 0 ? got : 0;
    if (found_empty(pause, asked, got, at_hole)) {
        pause->empty = true;
        if (pause->paused)
            pthread_cond_signal(&pause->changed);
    }
    pthread_mutex_unlock(&pause->lock);
}

void pause_free(struct pause *pause)
{
    if (pause == NULL)
        return;
    pthread_mutex_lock(&pause->lock);
    pause->freed = true;
    pthread_cond_signal(&pause->changed);
    pthread_mutex_unlock(&pause->lock);
    virEventRemoveTimeout(pause->timer);
    release(pause);
}
