/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A client of volume-daemon on a GLib main loop: several transfers at once, in one thread.
 *
 *     volume-client-glib --socket PATH upload VOLUME FILE [download VOLUME FILE]...
 *
 *     cc -o volume-client-glib volume-client-glib.c volume-protocol.c $(pkg-config --cflags --libs sparsestream glib-2.0)
 *
 * Each descriptor that a transfer waits for, and its timeout, become sources of the main loop. They are the
 * descriptors that sparsestream_transfer_wait reports, or the socket while the protocol itself sends or
 * receives. SIGINT cancels all transfers. Prints a line for each transfer. The exit code is 0, 1 if a
 * transfer failed, or 2 for a wrong command line.
 */

#define _GNU_SOURCE
#include "volume-protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <glib.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRAM "volume-client-glib"

enum {
    BUFFER = 256 * 1024,
    BUDGET = 1024 * 1024, /* of one turn, so that the main loop can serve others */
    STALL_MS = 30000,
    MIN_TIMEOUT_MS = 1,
};

enum state { STATE_CALL, STATE_REPLY, STATE_TRANSFER };

struct loop {
    GMainLoop *main;
    int running;
    int failures;
    GSList *jobs;
};

struct job {
    struct loop *loop;
    enum state state;
    const char *file;
    struct volume_call call;
    struct volume_channel channel;
    struct volume_stream stream;
    int fd;
    bool cancelled;
    sparsestream_source *source;
    sparsestream_sink *sink;
    sparsestream_transfer *transfer;
    /* Sources of the main loop; 0 for none. */
    guint ready;
    guint watch;
    guint timeout;
};

static gboolean on_idle(gpointer opaque);
static gboolean on_ready(gint fd, GIOCondition condition, gpointer opaque);
static gboolean on_timeout(gpointer opaque);

static const char *verb(const struct job *job)
{
    return job->call.type == VOLUME_UPLOAD ? "upload" : "download";
}

static void remove_source(guint *id)
{
    if (*id != 0)
        g_source_remove(*id);
    *id = 0;
}

static void wait_for_nothing(struct job *job)
{
    remove_source(&job->ready);
    remove_source(&job->watch);
    remove_source(&job->timeout);
}

/* Ends the job, with a message if it failed. */
static void job_ended(struct job *job, const char *words)
{
    sparsestream_stats stats = { .size = sizeof(stats) };

    wait_for_nothing(job);
    if (words != NULL) {
        fprintf(stderr, PROGRAM ": %s %s: %s\n", verb(job), job->call.name, words);
        job->loop->failures++;
    } else if (sparsestream_transfer_stats(job->transfer, &stats) == 0) {
        printf("%s %s: %lld bytes: %lld data, %lld holes\n", verb(job), job->call.name,
               (long long)stats.position, (long long)stats.data_bytes, (long long)stats.hole_bytes);
    }
    sparsestream_transfer_free(job->transfer);
    sparsestream_source_free(job->source);
    sparsestream_sink_free(job->sink);
    job->transfer = NULL;
    job->source = NULL;
    job->sink = NULL;
    if (job->fd >= 0 && close(job->fd) < 0 && words == NULL) {
        fprintf(stderr, PROGRAM ": %s: %s\n", job->file, strerror(errno));
        job->loop->failures++;
    }
    if (job->channel.fd >= 0)
        close(job->channel.fd);
    job->fd = job->channel.fd = -1;
    if (--job->loop->running == 0)
        g_main_loop_quit(job->loop->main);
}

static void job_failed(struct job *job, int error)
{
    job_ended(job, strerror(-error));
}

/* Continues the job when the main loop has nothing more urgent to do. */
static void wait_for_turn(struct job *job)
{
    wait_for_nothing(job);
    job->ready = g_idle_add(on_idle, job);
}

static void wait_for_descriptor(struct job *job, int fd, int events)
{
    GIOCondition condition = G_IO_HUP | G_IO_ERR;

    if (events & POLLIN)
        condition |= G_IO_IN;
    if (events & POLLOUT)
        condition |= G_IO_OUT;
    job->watch = g_unix_fd_add(fd, condition, on_ready, job);
}

static void wait_for_channel(struct job *job)
{
    wait_for_nothing(job);
    wait_for_descriptor(job, job->channel.fd, job->channel.wants);
}

/* The heart of it: the descriptors that the library waits for, as sources of the main loop. */
static void wait_for_transfer(struct job *job)
{
    sparsestream_wait wait = { .size = sizeof(wait) };
    int r = sparsestream_transfer_wait(job->transfer, &wait);

    wait_for_nothing(job);
    if (r < 0) {
        job_failed(job, r);
        return;
    }
    if (wait.fd >= 0)
        wait_for_descriptor(job, wait.fd, wait.events);
    else if (wait.side != SPARSESTREAM_SIDE_NONE)
        wait_for_descriptor(job, job->channel.fd, job->channel.wants);
    if (wait.timeout_ms >= 0)
        job->timeout = g_timeout_add(MAX((guint)wait.timeout_ms, MIN_TIMEOUT_MS), on_timeout, job);
}

static int begin_transfer(struct job *job, const struct volume_facts *facts)
{
    const sparsestream_transfer_options options = {
        .size = sizeof(options),
        .buffer_size = BUFFER,
        .stall_ms = STALL_MS,
    };
    bool upload = job->call.type == VOLUME_UPLOAD;
    int r;

    volume_stream_init(&job->stream, &job->channel, 1, upload ? -1 : facts->size);
    if (upload) {
        r = sparsestream_source_from_fd(job->fd, NULL, &job->source);
        if (r == 0)
            r = sparsestream_sink_to_stream(&volume_sender_ops, &job->stream, &job->sink);
    } else {
        /* Opened only now: if the volume is not available, the file is not changed. */
        job->fd = open(job->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (job->fd < 0)
            return -errno;
        r = sparsestream_source_from_stream(&volume_receiver_ops, &job->stream, &job->source);
        if (r == 0)
            r = sparsestream_sink_to_fd(job->fd, NULL, &job->sink);
    }
    if (r == 0)
        r = sparsestream_transfer_new(job->source, job->sink, &options, &job->transfer);
    return r;
}

static void turn_call(struct job *job)
{
    int r = volume_flush(&job->channel);

    if (r == -EAGAIN) {
        wait_for_channel(job);
    } else if (r < 0) {
        job_failed(job, r);
    } else {
        job->state = STATE_REPLY;
        wait_for_turn(job);
    }
}

static void turn_reply(struct job *job)
{
    struct volume_channel *channel = &job->channel;
    char name[VOLUME_NAME_MAX + 1], words[VOLUME_WORDS_MAX + 1];
    struct volume_facts facts;
    int r = volume_receive(channel, 0);

    if (r == -EAGAIN) {
        wait_for_channel(job);
        return;
    }
    if (r == 0 && channel->in.type != VOLUME_REPLY)
        r = -EPROTO;
    if (r == 0 && channel->in.status != 0) {
        volume_take_words(&channel->in, words);
        job_ended(job, words);
        return;
    }
    if (r == 0)
        r = volume_take_facts(&channel->in, &facts, name);
    volume_consume(channel);
    if (r == 0)
        r = begin_transfer(job, &facts);
    if (r < 0) {
        job_failed(job, r);
        return;
    }
    job->state = STATE_TRANSFER;
    wait_for_turn(job);
}

static void turn_transfer(struct job *job)
{
    int r = sparsestream_transfer_run(job->transfer, BUDGET);

    if (r == 1) {
        wait_for_turn(job);
    } else if (r == -EAGAIN) {
        wait_for_transfer(job);
    } else if (r == 0) {
        job_ended(job, NULL);
    } else {
        sparsestream_error error = { .size = sizeof(error) };

        /* If the daemon failed, its message explains more than ours. */
        if (job->stream.words[0] != '\0')
            job_ended(job, job->stream.words);
        else if (sparsestream_transfer_error(job->transfer, &error) == 0 && error.code != 0)
            job_ended(job, error.message);
        else
            job_failed(job, r);
    }
}

static void turn(struct job *job)
{
    if (job->cancelled && job->state != STATE_TRANSFER) {
        job_failed(job, -ECANCELED);
        return;
    }
    switch (job->state) {
    case STATE_CALL:
        turn_call(job);
        break;
    case STATE_REPLY:
        turn_reply(job);
        break;
    case STATE_TRANSFER:
        turn_transfer(job);
        break;
    }
}

/* A turn removes all sources of the job, including the one that called it; GLib must not remove that again. */
static gboolean on_idle(gpointer opaque)
{
    struct job *job = opaque;

    job->ready = 0;
    turn(job);
    return G_SOURCE_REMOVE;
}

static gboolean on_ready(gint fd, GIOCondition condition, gpointer opaque)
{
    struct job *job = opaque;

    (void)fd;
    (void)condition;
    job->watch = 0;
    turn(job);
    return G_SOURCE_REMOVE;
}

static gboolean on_timeout(gpointer opaque)
{
    struct job *job = opaque;

    job->timeout = 0;
    turn(job);
    return G_SOURCE_REMOVE;
}

static gboolean on_interrupt(gpointer opaque)
{
    struct loop *loop = opaque;

    for (GSList *item = loop->jobs; item != NULL; item = item->next) {
        struct job *job = item->data;

        if (job->channel.fd < 0)
            continue;
        job->cancelled = true;
        if (job->transfer != NULL)
            (void)sparsestream_transfer_cancel(job->transfer);
        wait_for_turn(job); /* the next turn handles the cancel */
    }
    return G_SOURCE_CONTINUE;
}

static int open_channel(struct volume_channel *channel, const char *path)
{
    int fd = volume_connect(path);

    volume_channel_init(channel, fd < 0 ? -1 : fd);
    if (fd < 0)
        return fd;
    return fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static void begin_job(struct job *job, const char *socket_path)
{
    int r = 0;

    job->loop->running++;
    if (job->call.type == VOLUME_UPLOAD) {
        job->fd = open(job->file, O_RDONLY | O_CLOEXEC);
        if (job->fd < 0)
            r = -errno;
    }
    if (r == 0)
        r = open_channel(&job->channel, socket_path);
    if (r == 0)
        r = volume_queue_call(&job->channel, 1, &job->call);
    if (r < 0)
        job_failed(job, r);
    else
        wait_for_turn(job);
}

static struct job *new_job(struct loop *loop, char **words)
{
    struct job *job = g_new0(struct job, 1);

    job->loop = loop;
    job->fd = job->channel.fd = -1;
    job->file = words[2];
    if (strcmp(words[0], "upload") == 0)
        job->call.type = VOLUME_UPLOAD;
    else if (strcmp(words[0], "download") == 0)
        job->call.type = VOLUME_DOWNLOAD;
    if (job->call.type == 0 || strlen(words[1]) > VOLUME_NAME_MAX) {
        g_free(job);
        return NULL;
    }
    strcpy(job->call.name, words[1]);
    return job;
}

static int usage(void)
{
    fputs("usage: " PROGRAM " --socket PATH {upload|download} VOLUME FILE...\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct loop loop = { .main = NULL };
    bool right = argc >= 6 && (argc - 3) % 3 == 0 && strcmp(argv[1], "--socket") == 0;
    guint interrupt;

    for (int i = 3; right && i < argc; i += 3) {
        struct job *job = new_job(&loop, argv + i);

        right = job != NULL;
        if (right)
            loop.jobs = g_slist_append(loop.jobs, job);
    }
    if (!right) {
        g_slist_free_full(loop.jobs, g_free);
        return usage();
    }
    loop.main = g_main_loop_new(NULL, FALSE);
    interrupt = g_unix_signal_add(SIGINT, on_interrupt, &loop);
    loop.running = 1; /* counts as a job while jobs are started, so that one that fails at once does not end the loop */
    for (GSList *item = loop.jobs; item != NULL; item = item->next)
        begin_job(item->data, argv[2]);
    if (--loop.running > 0)
        g_main_loop_run(loop.main);
    g_source_remove(interrupt);
    g_slist_free_full(loop.jobs, g_free);
    g_main_loop_unref(loop.main);
    if (fflush(stdout) != 0) {
        fprintf(stderr, PROGRAM ": stdout: %s\n", strerror(errno));
        loop.failures++;
    }
    return loop.failures > 0;
}
