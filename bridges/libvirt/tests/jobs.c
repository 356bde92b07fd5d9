/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Jobs, driven by libvirt's event loop. */

#include "daemon.h"
#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define SIZE (8 * MiB)

static const struct piece sparse[] = { DATA(300 * KiB), HOLE(2 * MiB - 300 * KiB), DATA(MiB), HOLE(3 * MiB),
                                       DATA(64 * KiB), HOLE(2 * MiB - 64 * KiB) };

/* The arguments and the number of calls of the done callback. */
struct outcome {
    bool done, free_job;
    int calls, result;
    struct sparsestream_libvirt_failure failure;
};

static void note(struct sparsestream_libvirt_job *job, int result, const struct sparsestream_libvirt_failure *failure,
                 void *opaque)
{
    struct outcome *outcome = opaque;

    outcome->done = true;
    outcome->calls++;
    outcome->result = result;
    outcome->failure = *failure;
    if (outcome->free_job)
        sparsestream_libvirt_job_free(job);
}

static virStreamPtr open_upload(virConnectPtr connection, virStorageVolPtr volume)
{
    virStreamPtr stream = virStreamNew(connection, VIR_STREAM_NONBLOCK);

    REQUIRE(stream != NULL);
    CHECK_INT(virStorageVolUpload(volume, stream, 0, 0, VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM), ==, 0);
    return stream;
}

static virStreamPtr open_download(virConnectPtr connection, virStorageVolPtr volume)
{
    virStreamPtr stream = virStreamNew(connection, VIR_STREAM_NONBLOCK);

    REQUIRE(stream != NULL);
    CHECK_INT(virStorageVolDownload(volume, stream, 0, 0, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM), ==, 0);
    return stream;
}

/* An upload and a download at once, on one connection and one watch. */
static void upload_and_download_at_once(void)
{
    struct outcome up = { .result = 1 }, down = { .result = 1, .free_job = true };
    struct daemon daemon;
    struct sparsestream_libvirt_watch *watch = NULL;
    struct sparsestream_libvirt_job *up_job = NULL, *down_job = NULL;
    struct sparsestream_stats stats = { .size = sizeof(stats) };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    virStorageVolPtr to, from;
    virStreamPtr up_stream, down_stream;
    int image = file_new("image"), target = file_new("target"), to_fd, from_fd;

    daemon_start(&daemon);
    to = volume_new(&daemon, "to", SIZE);
    from = volume_new(&daemon, "from", SIZE);
    to_fd = volume_file(&daemon, "to");
    from_fd = volume_file(&daemon, "from");
    file_lay_out(image, 0, sparse, COUNT(sparse), 1);
    file_lay_out(from_fd, 0, sparse, COUNT(sparse), 2);
    source = fd_source(image);
    sink = fd_sink(target);
    CHECK_INT(sparsestream_libvirt_watch_new(daemon.connection, 0, NULL, &watch), ==, 0);
    up_stream = open_upload(daemon.connection, to);
    down_stream = open_download(daemon.connection, from);
    CHECK_INT(sparsestream_libvirt_job_send(source, up_stream, watch, NULL, note, &up, NULL, &up_job), ==, 0);
    CHECK_INT(sparsestream_libvirt_job_recv(down_stream, sink, watch, NULL, note, &down, NULL, &down_job), ==, 0);
    virStreamFree(up_stream);
    virStreamFree(down_stream);
    CHECK(!up.done && !down.done);
    events_run_until(&up.done, 10);
    events_run_until(&down.done, 10);
    CHECK_RESULT(up.result, 0, &up.failure);
    CHECK_RESULT(down.result, 0, &down.failure);
    CHECK_SAME(image, 0, to_fd, 0, SIZE, 0);
    CHECK_INT(file_size(target), ==, SIZE);
    CHECK_SAME(from_fd, 0, target, 0, SIZE, 0);
    CHECK_INT(sparsestream_libvirt_job_stats(up_job, &stats), ==, 0);
    CHECK_INT(stats.position, ==, SIZE);
    CHECK_INT(sparsestream_libvirt_job_cancel(up_job), ==, 0);
    CHECK_INT(up.calls + down.calls, ==, 2);
    sparsestream_libvirt_job_free(up_job);
    sparsestream_libvirt_watch_free(watch);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    virStorageVolFree(to);
    virStorageVolFree(from);
    close(to_fd);
    close(from_fd);
    close(image);
    close(target);
    daemon_stop(&daemon);
}

/* A download into a pipe: `end` is the reader's, by default in blocking mode. */
struct into_pipe {
    struct daemon daemon;
    virConnectPtr connection;
    struct relay relay;
    virStorageVolPtr volume;
    struct sparsestream_libvirt_watch *watch;
    struct sparsestream_libvirt_job *job;
    struct sparsestream_sink *sink;
    struct outcome outcome;
    int ends[2];
};

static void start_into_pipe(struct into_pipe *into, int64_t size, bool relayed)
{
    virStorageVolPtr volume;
    virStreamPtr stream;

    memset(into, 0, sizeof(*into));
    into->outcome.result = 1;
    daemon_start(&into->daemon);
    volume = volume_new_filled(&into->daemon, "v", size, 1);
    if (relayed) {
        relay_start(&into->relay, &into->daemon);
        into->connection = daemon_connect(into->relay.socket);
    } else {
        into->connection = into->daemon.connection;
        virConnectRef(into->connection);
    }
    into->volume = virStorageVolLookupByKey(into->connection, virStorageVolGetKey(volume));
    REQUIRE(into->volume != NULL);
    virStorageVolFree(volume);
    REQUIRE(pipe2(into->ends, O_CLOEXEC) == 0 && fcntl(into->ends[1], F_SETFL, O_NONBLOCK) == 0);
    into->sink = fd_sink(into->ends[1]);
    CHECK_INT(sparsestream_libvirt_watch_new(into->connection, 0, NULL, &into->watch), ==, 0);
    stream = open_download(into->connection, into->volume);
    CHECK_INT(sparsestream_libvirt_job_recv(stream, into->sink, into->watch, NULL, note, &into->outcome, NULL,
                                            &into->job), ==, 0);
    virStreamFree(stream);
}

static void end_into_pipe(struct into_pipe *into)
{
    sparsestream_libvirt_job_free(into->job);
    sparsestream_libvirt_watch_free(into->watch);
    sparsestream_sink_free(into->sink);
    virStorageVolFree(into->volume);
    virConnectClose(into->connection);
    close(into->ends[0]);
    close(into->ends[1]);
    if (into->relay.pid > 0)
        relay_stop(&into->relay);
    daemon_stop(&into->daemon);
}

/* Reads the other end of the pipe, slowly. */
struct reader {
    int fd;
    unsigned delay_us;
    int64_t position;
    bool right;
};

static void *read_pipe(void *opaque)
{
    static unsigned char buffer[65536];
    struct reader *reader = opaque;
    ssize_t count;

    while ((count = read(reader->fd, buffer, sizeof(buffer))) > 0) {
        if (buffer[0] != pattern_byte(1, reader->position)
            || buffer[count - 1] != pattern_byte(1, reader->position + count - 1))
            reader->right = false;
        reader->position += count;
        usleep(reader->delay_us);
    }
    return opaque;
}

static void slow_pipe_is_bounded(void)
{
    struct into_pipe into;
    struct reader reader = { .delay_us = 1000, .right = true };
    pthread_t thread;
    int64_t peak;

#ifdef __SANITIZE_ADDRESS__
    skip("AddressSanitizer keeps memory that was freed");
#endif
    start_into_pipe(&into, 256 * MiB, false);
    reader.fd = into.ends[0];
    REQUIRE(pthread_create(&thread, NULL, read_pipe, &reader) == 0);
    memory_reset();
    events_run_until(&into.outcome.done, 60);
    peak = memory_peak();
    CHECK_RESULT(into.outcome.result, 0, &into.outcome.failure);
    sparsestream_sink_free(into.sink);
    into.sink = NULL;
    sparsestream_libvirt_job_free(into.job);
    into.job = NULL;
    close(into.ends[1]);
    pthread_join(thread, NULL);
    into.ends[1] = dup(into.ends[0]);
    CHECK_INT(reader.position, ==, 256 * MiB);
    CHECK(reader.right);
    CHECK_INT(peak, <, 32 * 1024);
    end_into_pipe(&into);
}

static void *cancel_later(void *opaque)
{
    usleep(300000);
    sparsestream_libvirt_job_cancel(opaque);
    return NULL;
}

/* The pipe is not read: the job delays the event loop when another thread cancels it. */
static void cancel_acts_at_once(void)
{
    struct into_pipe into;
    pthread_t thread;
    int64_t begun;

    start_into_pipe(&into, 16 * MiB, false);
    REQUIRE(pthread_create(&thread, NULL, cancel_later, into.job) == 0);
    begun = harness_now();
    events_run_until(&into.outcome.done, 10);
    CHECK_INT(harness_now() - begun, <, 300 + 250 * harness_slowness());
    pthread_join(thread, NULL);
    CHECK_RESULT(into.outcome.result, -ECANCELED, &into.outcome.failure);
    CHECK_INT(virConnectIsAlive(into.connection), ==, 1);
    end_into_pipe(&into);
    CHECK_INT(into.outcome.calls, ==, 1);
}

static void freeing_aborts_without_done(void)
{
    struct into_pipe into;

    start_into_pipe(&into, 16 * MiB, false);
    events_run_for(200);
    CHECK(!into.outcome.done);
    end_into_pipe(&into);
    CHECK(!into.outcome.done);
}

static void freeing_before_the_first_step(void)
{
    struct into_pipe into;

    start_into_pipe(&into, MiB, false);
    end_into_pipe(&into);
    CHECK(!into.outcome.done);
}

/* libvirt sends the stream no event when its connection is lost. */
static void lost_connection_ends_the_job(void)
{
    struct into_pipe into;

    start_into_pipe(&into, 64 * MiB, true);
    events_run_for(100);
    relay_cut(&into.relay);
    events_run_until(&into.outcome.done, 5);
    CHECK_RESULT(into.outcome.result, -ECONNRESET, &into.outcome.failure);
    CHECK_CONTAINS(into.outcome.failure.message, "lost");
    end_into_pipe(&into);
    CHECK_INT(into.outcome.calls, ==, 1);
}

/* The stream waits for the daemon, not for the sink. */
static void lost_connection_ends_a_job_that_waits(void)
{
    struct daemon daemon;
    struct relay relay;
    virConnectPtr connection;
    virStorageVolPtr ours, volume;
    virStreamPtr stream;
    struct outcome outcome = { .result = 1 };
    struct sparsestream_libvirt_watch *watch = NULL;
    struct sparsestream_libvirt_job *job = NULL;
    struct sparsestream_sink *sink;
    int target = file_new("target");

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 64 * MiB, 1);
    relay_start(&relay, &daemon);
    connection = daemon_connect(relay.socket);
    ours = virStorageVolLookupByKey(connection, virStorageVolGetKey(volume));
    stream = open_download(connection, ours);
    CHECK_INT(sparsestream_libvirt_watch_new(connection, 0, NULL, &watch), ==, 0);
    relay_freeze(&relay);
    sink = fd_sink(target);
    CHECK_INT(sparsestream_libvirt_job_recv(stream, sink, watch, NULL, note, &outcome, NULL, &job), ==, 0);
    events_run_for(200);
    CHECK(!outcome.done);
    relay_cut(&relay);
    events_run_until(&outcome.done, 5);
    CHECK_RESULT(outcome.result, -ECONNRESET, &outcome.failure);
    sparsestream_libvirt_job_free(job);
    sparsestream_libvirt_watch_free(watch);
    sparsestream_sink_free(sink);
    virStreamFree(stream);
    virStorageVolFree(ours);
    virStorageVolFree(volume);
    virConnectClose(connection);
    relay_stop(&relay);
    close(target);
    daemon_stop(&daemon);
}

/* A peer that neither answers nor goes away: keepalive closes the connection. */
static void frozen_peer_ends_the_job(void)
{
    struct into_pipe into;
    struct reader reader = { .right = true };
    pthread_t thread;
    int64_t begun;

    start_into_pipe(&into, 256 * MiB, true);
    CHECK_INT(virConnectSetKeepAlive(into.connection, 1, 2), ==, 0);
    reader.fd = into.ends[0];
    reader.delay_us = 2000;
    REQUIRE(pthread_create(&thread, NULL, read_pipe, &reader) == 0);
    events_run_for(300);
    relay_freeze(&into.relay);
    begun = harness_now();
    events_run_until(&into.outcome.done, 15);
    CHECK_INT(harness_now() - begun, <, 8000 * harness_slowness());
    CHECK_RESULT(into.outcome.result, -ETIMEDOUT, &into.outcome.failure);
    sparsestream_sink_free(into.sink);
    into.sink = NULL;
    sparsestream_libvirt_job_free(into.job);
    into.job = NULL;
    close(into.ends[1]);
    pthread_join(thread, NULL);
    into.ends[1] = dup(into.ends[0]);
    end_into_pipe(&into);
}

/* The application's own close callback. */
static void on_close(virConnectPtr connection, int reason, void *opaque)
{
    (void) connection;
    sparsestream_libvirt_watch_lost(opaque, reason);
}

static void close_callback_of_the_application(void)
{
    struct into_pipe into;
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_libvirt_watch *second = NULL, *own = NULL;
    struct sparsestream_libvirt_job *job = NULL;
    struct outcome outcome = { .result = 1 };
    struct sparsestream_sink *sink;
    virStreamPtr stream;
    int target = file_new("target");

    start_into_pipe(&into, MiB, true);
    /* libvirt has one close callback for each connection. */
    CHECK_RESULT(sparsestream_libvirt_watch_new(into.connection, 0, &failure, &second), -EBUSY, &failure);
    CHECK_INT(failure.code, ==, EBUSY);
    CHECK_CONTAINS(failure.message, "already");
    sparsestream_libvirt_watch_free(into.watch);
    into.watch = NULL;
    CHECK_INT(sparsestream_libvirt_watch_new(into.connection, 1, NULL, &own), ==, 0);
    CHECK_INT(virConnectRegisterCloseCallback(into.connection, on_close, own, NULL), ==, 0);
    sink = fd_sink(target);
    stream = open_download(into.connection, into.volume);
    relay_freeze(&into.relay);
    CHECK_INT(sparsestream_libvirt_job_recv(stream, sink, own, NULL, note, &outcome, NULL, &job), ==, 0);
    virStreamFree(stream);
    relay_cut(&into.relay);
    events_run_until(&outcome.done, 5);
    CHECK_RESULT(outcome.result, -ECONNRESET, &outcome.failure);
    sparsestream_libvirt_job_free(job);
    virConnectUnregisterCloseCallback(into.connection, on_close);
    /* A job on a connection that is lost is not started. */
    stream = virStreamNew(into.connection, VIR_STREAM_NONBLOCK);
    CHECK(sparsestream_libvirt_job_recv(stream, sink, own, NULL, note, &outcome, &failure, &job) < 0);
    CHECK(job == NULL && failure.code != 0 && failure.message[0] != '\0');
    virStreamFree(stream);
    sparsestream_libvirt_watch_free(own);
    sparsestream_sink_free(sink);
    close(target);
    end_into_pipe(&into);
}

static void failures_to_start_have_words(void)
{
    const struct sparsestream_libvirt_options *zeros = LIBVIRT_OPTIONS(.holes = SPARSESTREAM_LIBVIRT_HOLES_ZEROS);
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_libvirt_watch *watch = NULL;
    struct sparsestream_libvirt_job *job = NULL;
    struct outcome outcome = { .result = 1 };
    struct daemon daemon;
    struct sparsestream_sink *sink;
    virStreamPtr stream;
    int target = file_new("target");

    daemon_start(&daemon);
    sink = fd_sink(target);
    stream = virStreamNew(daemon.connection, VIR_STREAM_NONBLOCK);
    CHECK_RESULT(sparsestream_libvirt_job_recv(stream, NULL, NULL, NULL, note, &outcome, &failure, &job), -EINVAL, &failure);
    CHECK_CONTAINS(failure.message, "the source or the sink is NULL");
    CHECK_RESULT(sparsestream_libvirt_job_recv(NULL, sink, NULL, NULL, note, &outcome, &failure, &job), -EINVAL, &failure);
    CHECK_CONTAINS(failure.message, "the stream is NULL");
    CHECK_RESULT(sparsestream_libvirt_job_recv(stream, sink, NULL, NULL, NULL, &outcome, &failure, &job), -EINVAL, &failure);
    CHECK_CONTAINS(failure.message, "done is NULL");
    CHECK_RESULT(sparsestream_libvirt_job_recv(stream, sink, NULL, zeros, note, &outcome, &failure, &job), -EINVAL, &failure);
    CHECK_CONTAINS(failure.message, "options.holes is 1");
    /* No download was opened on the stream. */
    CHECK(sparsestream_libvirt_job_recv(stream, sink, NULL, NULL, note, &outcome, &failure, &job) < 0);
    CHECK(failure.libvirt_code != 0 && failure.message[0] != '\0');
    CHECK(job == NULL);
    CHECK_RESULT(sparsestream_libvirt_watch_new(daemon.connection, 2, &failure, &watch), -EINVAL, &failure);
    CHECK_CONTAINS(failure.message, "own_callback is 2");
    CHECK_RESULT(sparsestream_libvirt_watch_new(daemon.connection, 1, &failure, &watch), 0, &failure);
    CHECK_INT(failure.code, ==, 0);
    sparsestream_libvirt_watch_free(watch);
    virStreamFree(stream);
    sparsestream_sink_free(sink);
    close(target);
    daemon_stop(&daemon);
}

/* A source of the caller's own that is not ready, until it is woken. */
struct sleeper {
    int64_t position;
    bool ready;
};

static int64_t sleep_read(void *opaque, void *buffer, size_t length)
{
    struct sleeper *sleeper = opaque;

    if (sleeper->position == MiB)
        return 0;
    if (sleeper->position == MiB / 2 && !sleeper->ready)
        return -EAGAIN;
    if ((int64_t) length > MiB / 2 - sleeper->position % (MiB / 2))
        length = (size_t) (MiB / 2 - sleeper->position % (MiB / 2));
    pattern_fill(buffer, length, 1, sleeper->position);
    sleeper->position += (int64_t) length;
    return (int64_t) length;
}

static void source_that_sleeps_is_woken(void)
{
    static const struct sparsestream_source_ops ops = { .size = sizeof(ops), .read = sleep_read };
    struct sleeper sleeper = { .ready = false };
    struct daemon daemon;
    struct outcome outcome = { .result = 1 };
    struct sparsestream_libvirt_job *job = NULL;
    struct sparsestream_source *source = NULL;
    virStorageVolPtr volume;
    virStreamPtr stream;
    int file;

    daemon_start(&daemon);
    volume = volume_new(&daemon, "v", MiB);
    file = volume_file(&daemon, "v");
    CHECK_CODE(sparsestream_source_from_callbacks(&ops, &sleeper, &source), 0);
    stream = open_upload(daemon.connection, volume);
    CHECK_INT(sparsestream_libvirt_job_send(source, stream, NULL, NULL, note, &outcome, NULL, &job), ==, 0);
    virStreamFree(stream);
    events_run_for(150);
    CHECK_INT(sleeper.position, ==, MiB / 2);
    sleeper.ready = true;
    CHECK_INT(sparsestream_libvirt_job_wake(job), ==, 0);
    events_run_until(&outcome.done, 5);
    CHECK_RESULT(outcome.result, 0, &outcome.failure);
    CHECK_INT(file_differs_from_pattern(file, 0, MiB, 1, 0), ==, -1);
    sparsestream_libvirt_job_free(job);
    sparsestream_source_free(source);
    virStorageVolFree(volume);
    close(file);
    daemon_stop(&daemon);
}

/* The volume's file system fills up early: the daemon's error is the job's. */
static void error_of_the_daemon_ends_the_job(void)
{
    struct daemon daemon;
    struct outcome outcome = { .result = 1 };
    struct sparsestream_libvirt_job *job = NULL;
    struct sparsestream_source *source;
    virStorageVolPtr volume;
    virStreamPtr stream;
    int image = file_new("image");

    daemon_start_small(&daemon, 2 * MiB);
    file_fill(image, 0, 64 * MiB, 1);
    volume = volume_new(&daemon, "v", 64 * MiB);
    source = fd_source(image);
    stream = open_upload(daemon.connection, volume);
    CHECK_INT(sparsestream_libvirt_job_send(source, stream, NULL, NULL, note, &outcome, NULL, &job), ==, 0);
    virStreamFree(stream);
    events_run_until(&outcome.done, 20);
    CHECK_RESULT(outcome.result, -ENOSPC, &outcome.failure);
    CHECK_INT(outcome.failure.libvirt_code, ==, VIR_ERR_SYSTEM_ERROR);
    sparsestream_libvirt_job_free(job);
    sparsestream_source_free(source);
    virStorageVolFree(volume);
    close(image);
    daemon_stop(&daemon);
}

DAEMON_TESTS(
    CASE(upload_and_download_at_once),
    CASE_WITHIN(slow_pipe_is_bounded, 90),
    CASE(cancel_acts_at_once),
    CASE(freeing_aborts_without_done),
    CASE(freeing_before_the_first_step),
    CASE(lost_connection_ends_the_job),
    CASE(lost_connection_ends_a_job_that_waits),
    CASE_WITHIN(frozen_peer_ends_the_job, 40),
    CASE(close_callback_of_the_application),
    CASE(failures_to_start_have_words),
    CASE(source_that_sleeps_is_woken),
    CASE_WITHIN(error_of_the_daemon_ends_the_job, 40),
)
