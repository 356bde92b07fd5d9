/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The pace of libvirt's event loop.
 *
 * libvirt's client reads from its socket whenever the event loop finds it readable, and queues what comes for a stream
 * without a limit. The only way to stop it is to delay the event loop. It reads one message in each round.
 *
 * A timer looks at the reader. While the reader keeps up, the loop is free. Otherwise the rounds of the loop are counted: it
 * is held until the reader has taken some messages from the queue, and then makes as many rounds. The longer that lasts, the
 * more messages the loop waits for: the queue has them, and the threads wake each other less often.
 */

#include "internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* How often the loop looks at the reader while it is free, in milliseconds. */
#define LOOK_MS 4
/* A reader of small messages may be late for this many looks: they take little memory, and it often catches up. */
#define LOOKS 4
/* How long a held loop waits before it looks at the reader; at first, and at most. */
#define FIRST_SLICE_NS 250000
#define LAST_SLICE_NS 4000000
/* A held loop waits for this many bytes, at first and at most, or for a message if that takes as long as ROUND_NS. */
#define FIRST_BATCH (256 << 10)
#define LAST_BATCH (2 << 20)
#define ROUND_NS 5000000
/* The longest delay of the loop. Keepalive messages wait as long. */
#define MOST_NS 1000000000

/* A call that takes longer than this, and returns a small message, has probably read the socket: the queue was empty. Copying
 * a large message may take as long. */
#define WAITED_NS 20000
#define SMALL 16384

/* Where the reader is. STOPPED: it did not return to the stream while the loop was held, and may never do so. */
enum reader { NOT_STARTED, IN_CALL, AWAY, STOPPED, FREED };

enum pace { FREE, COUNTED };

struct pause {
    pthread_mutex_t lock;
    /* The reader has taken as much as the loop waits for, or found the queue empty. */
    pthread_cond_t enough;
    int references, timer;
    /* The reader is at work until it has ended, and is not one that may stop in between. */
    bool busy;

    enum pace pace;
    /* The rounds of a counted loop until it is held again. */
    int64_t rounds;
    /* The bytes that a held loop waits for, and the total at which they were taken: INT64_MAX while it is not held. */
    int64_t batch, goal;
    /* The looks since the reader last kept up. */
    int late;

    enum reader reader;
    pthread_t thread;
    unsigned long calls;
    /* When the call began that the reader is in. */
    int64_t call_since;
    /* Since when the reader is watched, how long it was in calls since then, and whether it found the queue empty. */
    int64_t watched_since, in_calls;
    bool empty;
    /* The last call returned less than was asked for. */
    bool less;
    /* How many messages the reader has certainly taken, and bytes that may be a part of the next one. */
    int64_t messages, bytes;
    /* The bytes that it has taken; and both numbers when the watch began. */
    int64_t total, messages_then, total_then;
};

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Waits until the reader has taken enough, but not longer than this. */
static void wait_ns(struct pause *pause, int64_t ns)
{
    const int64_t until = now_ns() + ns;
    const struct timespec time = { .tv_sec = until / 1000000000, .tv_nsec = until % 1000000000 };

    pthread_cond_timedwait(&pause->enough, &pause->lock, &time);
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
    pthread_cond_destroy(&pause->enough);
    pthread_mutex_destroy(&pause->lock);
    free(pause);
}

/* The event loop's thread. */

static void watch(struct pause *pause, int64_t now)
{
    pause->watched_since = now;
    pause->in_calls = 0;
    pause->empty = false;
    pause->call_since = now;
    pause->messages_then = pause->messages;
    pause->total_then = pause->total;
}

/* Whether the reader found the queue empty, or was in calls for most of the time, and so waited for messages. If the sink
 * is slower than the daemon, the reader is in the sink for longer than in the calls that empty the queue. */
static bool keeps_up(const struct pause *pause, int64_t now)
{
    const int64_t current = pause->reader == IN_CALL ? now - pause->call_since : 0;

    return pause->empty || pause->in_calls + current >= (now - pause->watched_since) * 3 / 4;
}

/* Whether there is somebody to wait for. The reader itself may be who runs the event loop. */
static bool may_hold(const struct pause *pause)
{
    return (pause->reader == IN_CALL || pause->reader == AWAY) && !pthread_equal(pause->thread, pthread_self());
}

/* Whether the reader takes small messages, of which many may wait. */
static bool takes_small(const struct pause *pause)
{
    const int64_t messages = pause->messages - pause->messages_then;

    return messages > 0 && (pause->total - pause->total_then) / messages <= SMALL;
}

/* Holds the loop until the reader has taken a batch or keeps up. Returns the loop's new pace. */
static enum pace hold(struct pause *pause)
{
    const unsigned long calls = pause->calls;
    const int64_t messages = pause->messages, begun = now_ns();
    int64_t taken = 0, held = 0, slice = FIRST_SLICE_NS;

    watch(pause, begun);
    pause->goal = pause->total + pause->batch;
    while (pause->total < pause->goal && held < (taken > 0 ? ROUND_NS : MOST_NS)) {
        wait_ns(pause, slice);
        slice = slice * 2 < LAST_SLICE_NS ? slice * 2 : LAST_SLICE_NS;
        held = now_ns() - begun;
        taken = pause->messages - messages;
        if (pause->reader == FREED || keeps_up(pause, begun + held))
            return FREE;
    }
    if (!pause->busy && pause->calls == calls)
        pause->reader = STOPPED;
    pause->batch = pause->batch * 2 < LAST_BATCH ? pause->batch * 2 : LAST_BATCH;
    /* The first round comes before the next look. */
    pause->rounds = taken > 0 ? taken - 1 : 0;
    return COUNTED;
}

/* Called in each round of a counted loop, and from time to time in a free one. */
static enum pace next_pace(struct pause *pause)
{
    enum pace pace;

    if (pause->pace == COUNTED && pause->rounds > 0) {
        pause->rounds--;
        return COUNTED;
    }
    if (!may_hold(pause))
        return FREE;
    if (pause->pace == FREE) {
        pause->late = keeps_up(pause, now_ns()) ? 0 : pause->late + 1;
        if (pause->late == 0 || (pause->late < LOOKS && takes_small(pause)))
            return FREE;
        pause->batch = FIRST_BATCH;
    }
    pace = hold(pause);
    pause->goal = INT64_MAX;
    pause->late = 0;
    return pace;
}

static void look(int timer, void *opaque)
{
    struct pause *pause = opaque;
    enum pace pace;
    bool update;

    pthread_mutex_lock(&pause->lock);
    pace = next_pace(pause);
    if (pace == FREE)
        watch(pause, now_ns());
    update = pace != pause->pace && pause->reader != FREED;
    pause->pace = pace;
    pthread_mutex_unlock(&pause->lock);
    if (update)
        virEventUpdateTimeout(timer, pace == FREE ? LOOK_MS : 0);
}

struct pause *pause_new(bool busy)
{
    struct pause *pause = calloc(1, sizeof(*pause));
    pthread_condattr_t monotonic;

    if (pause == NULL)
        return NULL;
    pthread_mutex_init(&pause->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&pause->enough, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pause->goal = INT64_MAX;
    pause->busy = busy;
    pause->watched_since = now_ns();
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

/* The reader's thread. */

/* Counts what a call has taken. */
static void count(struct pause *pause, int64_t asked, int64_t got, bool at_hole)
{
    /* libvirt fills the buffer from the queue as far as there is data before a hole. */
    if (pause->less && !at_hole)
        pause->empty = true;
    pause->less = got > 0 && got < asked;
    if (got > 0)
        pause->total += got;
    /* The hole itself is a message too, which the reader takes next. */
    if (pause->less || at_hole) {
        pause->messages++;
    } else if (got > 0) {
        pause->bytes += got;
        pause->messages += pause->bytes / SPARSESTREAM_LIBVIRT_MESSAGE;
        pause->bytes %= SPARSESTREAM_LIBVIRT_MESSAGE;
    }
}

void pause_before(struct pause *pause)
{
    if (pause == NULL)
        return;
    pthread_mutex_lock(&pause->lock);
    pause->reader = IN_CALL;
    pause->thread = pthread_self();
    pause->calls++;
    pause->call_since = now_ns();
    pthread_mutex_unlock(&pause->lock);
}

void pause_after(struct pause *pause, int64_t asked, int64_t got, bool at_hole)
{
    int64_t took;

    if (pause == NULL)
        return;
    pthread_mutex_lock(&pause->lock);
    took = now_ns() - pause->call_since;
    pause->reader = AWAY;
    pause->in_calls += took;
    count(pause, asked, got, at_hole);
    if (took > WAITED_NS && got <= SMALL)
        pause->empty = true;
    if (pause->goal != INT64_MAX && (pause->total >= pause->goal || pause->empty))
        pthread_cond_signal(&pause->enough);
    pthread_mutex_unlock(&pause->lock);
}

void pause_free(struct pause *pause)
{
    if (pause == NULL)
        return;
    pthread_mutex_lock(&pause->lock);
    pause->reader = FREED;
    pthread_cond_signal(&pause->enough);
    pthread_mutex_unlock(&pause->lock);
    virEventRemoveTimeout(pause->timer);
    release(pause);
}
