/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libvirt's client reads from its socket whenever the event loop finds it readable, and queues what comes for a stream
 * without a limit. The one way to stop it is to hold up the event loop. It reads one message in each round, so a round is
 * let go for every two messages that the stream's reader takes.
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
#define LONGEST_SLICE_NS 5000000
/* The longest that the loop is held up. Keepalive messages wait as long. */
#define MOST_NS 1000000000

struct pause {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int timer;
    int references;
    /* The reader is at work until it has ended, and not one that may stop in between. */
    bool busy;
    bool reading, paused, freed;
    unsigned long calls, target, given_up;
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

/* Holds the thread until the reader has taken two messages or waits for one. Returns whether it was behind. */
static bool hold(struct pause *pause)
{
    const unsigned long begun_calls = pause->calls;
    const int64_t begun = now_ns();
    int64_t slice = WAITING_NS;
    bool behind = true;

    if (!may_hold(pause))
        return false;
    pause->target = begun_calls + 2;
    pause->paused = true;
    while (!pause->freed && pause->calls < pause->target && now_ns() - begun < MOST_NS) {
        const unsigned long calls = pause->calls;

        wait_some(pause, now_ns() + slice);
        if (pause->reading && pause->calls == calls) {
            behind = false;
            break;
        }
        /* The reader wakes this thread when it has gone far enough. One that is slow is looked at less often. */
        slice = slice < LONGEST_SLICE_NS ? 2 * slice : slice;
    }
    pause->paused = false;
    if (!pause->busy && pause->calls == begun_calls)
        pause->given_up = pause->calls;
    return behind;
}

static void look(int timer, void *opaque)
{
    struct pause *pause = opaque;
    bool behind, freed;

    pthread_mutex_lock(&pause->lock);
    behind = hold(pause);
    freed = pause->freed;
    pthread_mutex_unlock(&pause->lock);
    if (!freed)
        virEventUpdateTimeout(timer, behind ? 0 : LOOK_MS);
}

struct pause *pause_new(bool busy)
{
    struct pause *pause = calloc(1, sizeof(*pause));

    if (pause == NULL)
        return NULL;
    pthread_mutex_init(&pause->lock, NULL);
    pthread_cond_init(&pause->changed, NULL);
    pause->busy = busy;
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

void pause_reading(struct pause *pause, bool reading)
{
    if (pause == NULL)
        return;
    pthread_mutex_lock(&pause->lock);
    pause->reading = reading;
    pause->reader = pthread_self();
    pause->calls += reading;
    if (pause->paused && reading && pause->calls >= pause->target)
        pthread_cond_signal(&pause->changed);
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
