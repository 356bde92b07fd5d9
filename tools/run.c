/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Runs a transfer, with progress. */

#include "remote.h"
#include "volume.h"
#include "wire.h"

#include <errno.h>

/* The data that the callbacks of a transfer need. */
struct watching {
    const struct settings *settings;
    struct progress *progress;
    struct connection *connection; /* of a sender that listens; NULL when its receiver has answered */
    const struct names *names;
    const char *volume; /* the end whose calls have no time limit; NULL: none */
};

static void limit_time(const struct watching *watching)
{
    if (watching->volume != NULL)
        deadline_set(watching->settings, watching->volume, "nothing moved for", 0);
}

static int on_progress(void *opaque, const sparsestream_stats *stats)
{
    const struct watching *watching = opaque;

    deadline_extend();
    progress_update(watching->progress, stats->position, stats->data_bytes, stats->hole_bytes, stats->zero_bytes);
    return 0;
}

/*
 * Whether the peer of a sender is known to be a receiver: it has accepted HELLO, which brings the sender to another
 * stage, or it gives signs of life while it reads back what it holds.
 */
static bool is_answer(const sparsestream_event *event)
{
    if (event->kind == SPARSESTREAM_EVENT_STAGE)
        return event->what != SPARSESTREAM_STAGE_OPEN && event->what != SPARSESTREAM_STAGE_FAILED;
    return event->kind == SPARSESTREAM_EVENT_ALIVE;
}

static void on_event(void *opaque, const sparsestream_event *event)
{
    struct watching *watching = opaque;

    if (watching->settings->verbose)
        show_event(watching->settings, event);
    /* Making the target durable may take longer than the limit, and does not depend on the volume. */
    if (event->kind == SPARSESTREAM_EVENT_STAGE) {
        if (event->what == SPARSESTREAM_STAGE_FINISH_SINK && watching->volume == watching->names->source)
            deadline_clear();
        else
            limit_time(watching);
    }
    if (watching->connection != NULL && is_answer(event)) {
        connection_settle(watching->connection);
        watching->connection = NULL;
    }
}

/* Waits for an end that is not ready. A signal that came just before is seen soon. */
static void wait_for(sparsestream_transfer *transfer)
{
    enum { LONGEST_MS = 100 };
    sparsestream_wait wait = { .size = sizeof(wait) };

    if (sparsestream_transfer_wait(transfer, &wait) < 0)
        return;
    if (wait.timeout_ms < 0 || wait.timeout_ms > LONGEST_MS)
        wait.timeout_ms = LONGEST_MS;
    wait_for_fd(wait.fd, wait.events, wait.timeout_ms);
}

/* Ends the wait for the answer to HELLO of a peer that takes too long. */
static void hurry(const struct watching *watching, sparsestream_transfer *transfer)
{
    const struct listener *listener;
    char late[96];

    if (watching->connection == NULL)
        return;
    listener = &watching->connection->listener;
    if (now_ms() < listener->hello_by)
        return;
    snprintf(late, sizeof(late), "did not answer within %lld ms", (long long)listener->patience_ms);
    sparsestream_transfer_fail(transfer, ETIMEDOUT, late);
}

/* Whether a transfer failed because its peer is not a receiver, which is then dropped. */
static bool is_stranger(const struct watching *watching, const sparsestream_error *error, const struct names *names)
{
    return watching->connection != NULL && !is_cancelled() && error->peer == 0 &&
           (error->side == names->wire_side ||
            (error->side == SPARSESTREAM_SIDE_NONE && error->code == ETIMEDOUT));
}

static int drop_stranger(const struct watching *watching, const sparsestream_error *error)
{
    char why[sizeof(error->message) + 32];
    int r;

    describe_failure(why, sizeof(why), error->message, error->code);
    r = connection_drop(watching->settings, watching->connection, why);
    return r == 0 ? DROPPED : r;
}

int run_transfer(sparsestream_source *source, sparsestream_sink *sink, const struct settings *settings,
                 const struct names *names, struct progress *progress)
{
    /* With it a call does not sleep for --rate. */
    enum { BUDGET = 16 << 20 };
    struct watching watching = { .settings = settings, .progress = progress, .connection = names->connection,
                                 .names = names, .volume = volume_among(names->source, names->sink) };
    sparsestream_transfer_options options = {
        .size = sizeof(options),
        .flags = settings->detect_zeroes ? SPARSESTREAM_DETECT_ZEROES : 0,
        .sparse = settings->sparse,
        .zero_block = settings->zero_block,
        .progress_ms = 100,
        .progress = on_progress,
        .trace = settings->verbose || names->connection != NULL || watching.volume != NULL ? on_event : NULL,
        .opaque = &watching,
        .stall_ms = settings->timeout_ms,
        .idle_ms = settings->idle_ms,
        .rate = settings->rate,
        .min_hole = settings->min_hole,
    };
    sparsestream_error error = { .size = sizeof(error) };
    sparsestream_stats stats = { .size = sizeof(stats) };
    sparsestream_transfer *transfer = NULL;
    int r;

    remote_tune(&options);
    r = sparsestream_transfer_new(source, sink, &options, &transfer);
    if (r < 0)
        return fail_library("transfer", r);
    signals_cancel(transfer);
    do {
        limit_time(&watching);
        r = sparsestream_transfer_run(transfer, watching.volume != NULL ? BUDGET : 0);
        deadline_clear();
        if (r == -EAGAIN) {
            hurry(&watching, transfer);
            wait_for(transfer);
        }
    } while (r == -EAGAIN);
    if (r < 0)
        sparsestream_transfer_error(transfer, &error);
    if (sparsestream_transfer_stats(transfer, &stats) == 0) {
        progress->position = stats.position;
        if (settings->explain)
            explain(settings, names->sink, &stats);
    }
    signals_cancel(NULL);
    sparsestream_transfer_free(transfer);
    if (r < 0 && is_stranger(&watching, &error, names))
        return drop_stranger(&watching, &error);
    return r < 0 ? fail_transfer(&error, names) : 0;
}
