/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Runs a transfer: progress, signals, and its failure in one line. */

#include "remote.h"
#include "volume.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic(sparsestream_transfer *) running;
static _Atomic(const char *) to_remove;
static dev_t remove_dev;
static ino_t remove_ino;
static atomic_int to_block[2] = { -1, -1 };
static volatile sig_atomic_t caught;

static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

void signals_leave(int code)
{
    const char *path = atomic_load(&to_remove);
    size_t i;

    if (path != NULL)
        remove_same(path, remove_dev, remove_ino);
    for (i = 0; i < sizeof(to_block) / sizeof(to_block[0]); i++) {
        int fd = atomic_load(&to_block[i]);

        if (fd >= 0)
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    }
    _exit(code);
}

static void on_signal(int number)
{
    sparsestream_transfer *transfer = atomic_load(&running);

    if (transfer != NULL && caught == 0) {
        caught = number;
        sparsestream_transfer_cancel(transfer);
        return;
    }
    /* Nothing runs yet, or what runs does not end: a second signal does not wait for it. */
    signals_leave(128 + number);
}

void signals_catch(void)
{
    struct sigaction action = { .sa_handler = on_signal };
    size_t i;

    sigemptyset(&action.sa_mask);
    for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        struct sigaction before;

        /* nohup stays in force. */
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
    /* The reader of the progress may exit; the transfer continues. */
    signal(SIGPIPE, SIG_IGN);
}

void signals_remove(const char *path, dev_t dev, ino_t ino)
{
    remove_dev = dev;
    remove_ino = ino;
    atomic_store(&to_remove, path);
}

void signals_set_blocking(int input, int output)
{
    atomic_store(&to_block[0], input);
    atomic_store(&to_block[1], output);
}

bool is_cancelled(void)
{
    return caught != 0;
}

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

static void on_event(void *opaque, const sparsestream_event *event)
{
    struct watching *watching = opaque;

    if (watching->settings->verbose)
        show_event(watching->settings, event);
    /* To make a file durable may take longer than the limit, and is no matter of the volume. */
    if (event->kind == SPARSESTREAM_EVENT_STAGE) {
        if (event->what == SPARSESTREAM_STAGE_FINISH_SINK && watching->volume == watching->names->source)
            deadline_clear();
        else
            limit_time(watching);
    }
    /* A sender comes to another stage when its receiver has accepted HELLO. */
    if (watching->connection != NULL && event->kind == SPARSESTREAM_EVENT_STAGE &&
        event->what != SPARSESTREAM_STAGE_OPEN && event->what != SPARSESTREAM_STAGE_FAILED) {
        connection_settle(watching->connection);
        watching->connection = NULL;
    }
}

/* Waits for an end that is not ready. A signal that came just before is seen soon. */
static void wait_for(sparsestream_transfer *transfer)
{
    enum { LONGEST_MS = 100, NAP_NS = 5000000 };
    sparsestream_wait wait = { .size = sizeof(wait) };

    if (sparsestream_transfer_wait(transfer, &wait) < 0)
        return;
    if (wait.timeout_ms < 0 || wait.timeout_ms > LONGEST_MS)
        wait.timeout_ms = LONGEST_MS;
    wait_for_fd(wait.fd, wait.events, wait.timeout_ms);
}

/* The exit code of a failure at the end that is the connection. */
static int code_of_wire(const sparsestream_error *error)
{
    switch (error->code) {
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ENODATA:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
    case ENETRESET:
        return EXIT_CUT;
    case EFBIG:
    case ESTALE:
    case EOPNOTSUPP:
        return EXIT_REFUSED;
    case EPROTO:
    case EBADMSG:
    case EMSGSIZE:
    case EPROTONOSUPPORT:
        return EXIT_STREAM;
    default:
        return EXIT_LOCAL;
    }
}

static int code_of(const sparsestream_error *error, const struct names *names)
{
    if (error->peer != 0)
        return EXIT_PEER;
    if (error->operation == SPARSESTREAM_OPERATION_SPARSE)
        return EXIT_REFUSED;
    /* The target refuses the stream before the first byte: too large for it, or what it may not become. */
    if (error->operation == SPARSESTREAM_OPERATION_OPEN && error->side == SPARSESTREAM_SIDE_SINK
        && names->wire_side != SPARSESTREAM_SIDE_SINK)
        return EXIT_REFUSED;
    if (names->wire_side != SPARSESTREAM_SIDE_NONE && error->side == names->wire_side)
        return code_of_wire(error);
    return EXIT_LOCAL;
}

static int fail_transfer(const sparsestream_error *error, const struct names *names)
{
    static const char nothing[] = ": nothing: ";
    const char *symbol = error_name(error->code);
    const char *words = error->message;
    const char *name = error->peer != 0 ? names->peer
                       : error->side == SPARSESTREAM_SIDE_SOURCE ? names->source
                       : error->side == SPARSESTREAM_SIDE_SINK ? names->sink
                                                               : "transfer";

    /* The side gets the name that the user knows. A peer may send an errno only. */
    if (error->peer != 0) {
        words += strncmp(words, "peer: ", strlen("peer: ")) == 0 ? strlen("peer: ") : 0;
        /* The words of this library for an end that was only given up. Those of others are left as they are. */
        if (error->operation == SPARSESTREAM_OPERATION_NONE && strstr(words, nothing) != NULL)
            words = strstr(words, nothing) + strlen(nothing);
    } else {
        words = without_side(words);
    }
    if (error->code == ECANCELED && caught != 0)
        return fail(128 + caught, "cancelled by %s at offset %lld", caught == SIGINT ? "SIGINT"
                    : caught == SIGTERM ? "SIGTERM" : "SIGHUP", (long long)error->offset);
    return fail(code_of(error, names), "%s: %s%s%s%s", name, words, symbol != NULL ? " (" : "", symbol != NULL ? symbol : "",
                symbol != NULL ? ")" : "");
}

void describe_failure(char *text, size_t size, int error)
{
    const char *symbol = error_name(error);

    snprintf(text, size, "%s%s%s%s", without_side(sparsestream_last_error()), symbol != NULL ? " (" : "",
             symbol != NULL ? symbol : "", symbol != NULL ? ")" : "");
}

int fail_wire(const struct names *names, int error)
{
    const char *message = sparsestream_last_error();
    sparsestream_error fields = { .size = sizeof(fields), .code = abs(error), .side = names->wire_side };

    fields.peer = strncmp(message, "peer: ", strlen("peer: ")) == 0;
    snprintf(fields.message, sizeof(fields.message), "%s", message);
    return fail_transfer(&fields, names);
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
    return watching->connection != NULL && caught == 0 && error->peer == 0 &&
           (error->side == names->wire_side ||
            (error->side == SPARSESTREAM_SIDE_NONE && error->code == ETIMEDOUT));
}

static int drop_stranger(const struct watching *watching, const sparsestream_error *error)
{
    const char *symbol = error_name(error->code);
    char why[sizeof(error->message) + 32];
    int r;

    snprintf(why, sizeof(why), "%s%s%s%s", without_side(error->message), symbol != NULL ? " (" : "",
             symbol != NULL ? symbol : "", symbol != NULL ? ")" : "");
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
    atomic_store(&running, transfer);
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
    atomic_store(&running, NULL);
    sparsestream_transfer_free(transfer);
    if (r < 0 && is_stranger(&watching, &error, names))
        return drop_stranger(&watching, &error);
    return r < 0 ? fail_transfer(&error, names) : 0;
}
