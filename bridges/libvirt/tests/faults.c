/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Blocking calls when the daemon has ended or no longer answers. */

#include "daemon.h"
#include "ends.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* Does something to the peer once this many bytes have moved. */
struct trap {
    struct daemon *daemon;
    struct relay *relay;
    void (*spring)(struct trap *trap);
    bool sprung;
    int64_t when;
};

static void kill_daemon(struct trap *trap)
{
    daemon_kill(trap->daemon);
}

static void freeze_relay(struct trap *trap)
{
    relay_freeze(trap->relay);
}

static int look(void *opaque, const struct sparsestream_stats *stats)
{
    struct trap *trap = opaque;

    if (!trap->sprung && stats->position >= 8 * MiB) {
        trap->sprung = true;
        trap->when = harness_now();
        trap->spring(trap);
    }
    return 0;
}

/* An upload, or a download, of 256 MiB over `connection` with the trap set. */
static int move(struct trap *trap, virConnectPtr connection, bool up, struct sparsestream_libvirt_failure *failure)
{
    const struct sparsestream_libvirt_options *options = LIBVIRT_OPTIONS(
        .transfer = TRANSFER_OPTIONS(.progress_bytes = MiB, .progress = look, .opaque = trap));
    virStorageVolPtr volume = up ? volume_new(trap->daemon, "v", 256 * MiB)
                                 : volume_new_filled(trap->daemon, "v", 256 * MiB, 1);
    virStorageVolPtr ours = virStorageVolLookupByKey(connection, virStorageVolGetKey(volume));
    int file = file_in_memory(), r;

    REQUIRE(ours != NULL);
    if (up) {
        struct sparsestream_source *source;

        file_fill(file, 0, 256 * MiB, 1);
        source = fd_source(file);
        r = sparsestream_libvirt_upload(ours, 0, 0, source, options, NULL, failure);
        sparsestream_source_free(source);
    } else {
        struct sparsestream_sink *sink = fd_sink(file);

        r = sparsestream_libvirt_download(ours, 0, 0, sink, options, NULL, failure);
        sparsestream_sink_free(sink);
    }
    CHECK(trap->sprung);
    virStorageVolFree(ours);
    virStorageVolFree(volume);
    close(file);
    return r;
}

/* SIGPIPE has its default action, as the harness leaves it: an upload that let it through would kill the case. */
static void daemon_killed(bool up, bool with_events)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct daemon daemon;
    struct trap trap = { .daemon = &daemon, .spring = kill_daemon };
    sigset_t pending;
    int r;

    daemon_start(&daemon);
    if (with_events)
        events_start();
    r = move(&trap, daemon.connection, up, &failure);
    context("%s", failure.message);
    /* An upload may meet the closed socket first with its write. */
    CHECK(r == -ECONNRESET || r == -EPIPE || r == -EIO);
    CHECK(failure.libvirt_code != 0);
    CHECK_INT(failure.side, ==, up ? SPARSESTREAM_SIDE_SINK : SPARSESTREAM_SIDE_SOURCE);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 0);
    if (with_events)
        events_stop();
    daemon_stop(&daemon);
}

static void upload_without_its_daemon(void)
{
    daemon_killed(true, false);
}

static void upload_without_its_daemon_with_events(void)
{
    daemon_killed(true, true);
}

static void download_without_its_daemon(void)
{
    daemon_killed(false, false);
}

static void download_without_its_daemon_with_events(void)
{
    daemon_killed(false, true);
}

/* The recipe: an event loop in a thread, and keepalive. */
static void peer_frozen(bool up)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct daemon daemon;
    struct relay relay;
    struct trap trap = { .daemon = &daemon, .relay = &relay, .spring = freeze_relay };
    virConnectPtr connection;
    int64_t took;
    int r;

    daemon_start(&daemon);
    relay_start(&relay, &daemon);
    events_start();
    connection = daemon_connect(relay.socket);
    CHECK_INT(virConnectSetKeepAlive(connection, 1, 2), ==, 0);
    r = move(&trap, connection, up, &failure);
    took = harness_now() - trap.when;
    context("%s", failure.message);
    CHECK(r == -ECONNRESET || r == -ETIMEDOUT || r == -EIO || r == -EPIPE);
    CHECK_INT(took, <, 8000 * harness_slowness());
    virConnectClose(connection);
    events_stop();
    relay_stop(&relay);
    daemon_stop(&daemon);
}

static void upload_to_frozen_peer(void)
{
    peer_frozen(true);
}

static void download_from_frozen_peer(void)
{
    peer_frozen(false);
}

/* The peer freezes when all is sent, so that the answer to the finish is what does not come. */
static int64_t freeze_at_end(void *opaque, void *buffer, size_t length)
{
    struct trap *trap = opaque;

    (void) buffer;
    (void) length;
    trap->sprung = true;
    trap->when = harness_now();
    freeze_relay(trap);
    return 0;
}

static void finish_with_frozen_peer(void)
{
    static const struct sparsestream_source_ops ops = { .size = sizeof(ops), .read = freeze_at_end };
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct daemon daemon;
    struct relay relay;
    struct trap trap = { .daemon = &daemon, .relay = &relay };
    struct sparsestream_source *source = NULL;
    virConnectPtr connection;
    virStorageVolPtr volume, ours;
    virStreamPtr stream;
    int r;

    daemon_start(&daemon);
    volume = volume_new(&daemon, "v", MiB);
    relay_start(&relay, &daemon);
    events_start();
    connection = daemon_connect(relay.socket);
    CHECK_INT(virConnectSetKeepAlive(connection, 1, 2), ==, 0);
    ours = virStorageVolLookupByKey(connection, virStorageVolGetKey(volume));
    stream = virStreamNew(connection, 0);
    CHECK_INT(virStorageVolUpload(ours, stream, 0, 0, 0), ==, 0);
    CHECK_CODE(sparsestream_source_from_callbacks(&ops, &trap, &source), 0);
    r = sparsestream_libvirt_send(source, stream, NULL, NULL, &failure);
    context("%s", failure.message);
    CHECK(r == -ECONNRESET || r == -ETIMEDOUT || r == -EIO);
    CHECK_INT(failure.operation, ==, SPARSESTREAM_OPERATION_FINISH);
    CHECK_INT(harness_now() - trap.when, <, 8000 * harness_slowness());
    virStreamFree(stream);
    virStorageVolFree(ours);
    virStorageVolFree(volume);
    virConnectClose(connection);
    sparsestream_source_free(source);
    events_stop();
    relay_stop(&relay);
    daemon_stop(&daemon);
}

/* The sink fails when the peer is frozen already: the answer to the abort does not come. */
static int64_t freeze_and_fail(void *opaque, const void *buffer, size_t length)
{
    struct trap *trap = opaque;

    (void) buffer;
    (void) length;
    trap->when = harness_now();
    freeze_relay(trap);
    return -EMEDIUMTYPE;
}

static void abort_with_frozen_peer(void)
{
    static const struct sparsestream_sink_ops ops = { .size = sizeof(ops), .write = freeze_and_fail };
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct daemon daemon;
    struct relay relay;
    struct trap trap = { .daemon = &daemon, .relay = &relay };
    struct sparsestream_sink *sink = NULL;
    virConnectPtr connection;
    virStorageVolPtr volume, ours;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 16 * MiB, 1);
    relay_start(&relay, &daemon);
    events_start();
    connection = daemon_connect(relay.socket);
    CHECK_INT(virConnectSetKeepAlive(connection, 1, 2), ==, 0);
    ours = virStorageVolLookupByKey(connection, virStorageVolGetKey(volume));
    CHECK_CODE(sparsestream_sink_to_callbacks(&ops, &trap, &sink), 0);
    CHECK_RESULT(sparsestream_libvirt_download(ours, 0, 0, sink, NULL, NULL, &failure), -EMEDIUMTYPE, &failure);
    CHECK_INT(failure.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(harness_now() - trap.when, <, 8000 * harness_slowness());
    sparsestream_sink_free(sink);
    virStorageVolFree(ours);
    virStorageVolFree(volume);
    virConnectClose(connection);
    events_stop();
    relay_stop(&relay);
    daemon_stop(&daemon);
}

/* The client has not noticed: its first call writes to a socket that is closed. */

static void new_transfers_without_a_daemon(void)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct daemon daemon;
    virConnectPtr connections[4];
    virStorageVolPtr volumes[4];
    int target = file_new("target");

    daemon_start(&daemon);
    virStorageVolFree(volume_new_filled(&daemon, "v", MiB, 1));
    for (int i = 0; i < 4; i++) {
        virStoragePoolPtr pool;

        connections[i] = daemon_connect(daemon.socket);
        pool = virStoragePoolLookupByName(connections[i], "pool");
        volumes[i] = virStorageVolLookupByName(pool, "v");
        virStoragePoolFree(pool);
        REQUIRE(volumes[i] != NULL);
    }
    daemon_kill(&daemon);
    source = fd_source(target);
    CHECK(sparsestream_libvirt_upload(volumes[0], 0, 0, source, NULL, NULL, &failure) < 0);
    CHECK(failure.libvirt_code != 0);
    sparsestream_source_free(source);
    sink = fd_sink(target);
    CHECK(sparsestream_libvirt_download(volumes[1], 0, 0, sink, NULL, NULL, &failure) < 0);
    CHECK(failure.libvirt_code != 0);
    sparsestream_sink_free(sink);
    CHECK(sparsestream_libvirt_sink_to_volume(volumes[2], 0, 0, NULL, &failure, &sink) < 0);
    CHECK(sparsestream_libvirt_source_from_volume(volumes[3], 0, 0, NULL, &failure, &source) < 0);
    for (int i = 0; i < 4; i++) {
        virStorageVolFree(volumes[i]);
        virConnectClose(connections[i]);
    }
    close(target);
    daemon_stop(&daemon);
}

/* The handle is the last user of its connection, which says farewell to the daemon. */
static void freed_without_a_daemon(void)
{
    static char buffer[SPARSESTREAM_LIBVIRT_MESSAGE];
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source = NULL;
    struct daemon daemon;
    char name[400];

    daemon_start(&daemon);
    virStorageVolFree(volume_new_filled(&daemon, "v", 4096, 1));
    snprintf(name, sizeof(name), "libvirt+storage:///system?socket=%s#pool/v", daemon.socket);
    CHECK_RESULT(sparsestream_libvirt_source_from_name(name, 0, 0, NULL, &failure, &source), 0, &failure);
    while (sparsestream_source_read(source, buffer, sizeof(buffer)) > 0)
        ;
    CHECK_CODE(sparsestream_source_finish(source), 0);
    daemon_kill(&daemon);
    sparsestream_source_free(source);
    daemon_stop(&daemon);
}

static void watch_without_a_daemon(void)
{
    struct sparsestream_libvirt_watch *watch = NULL, *late = NULL;
    struct daemon daemon;
    virConnectPtr connection;

    daemon_start(&daemon);
    connection = daemon_connect(daemon.socket);
    CHECK_INT(sparsestream_libvirt_watch_new(daemon.connection, 0, NULL, &watch), ==, 0);
    daemon_kill(&daemon);
    CHECK(sparsestream_libvirt_watch_new(connection, 0, NULL, &late) < 0);
    CHECK(late == NULL);
    sparsestream_libvirt_watch_free(watch);
    virConnectClose(connection);
    daemon_stop(&daemon);
}

/* A SIGPIPE that the caller had blocked and pending stays pending. */
static void pending_sigpipe_of_the_caller_stays(void)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_sink *sink;
    struct daemon daemon;
    virStorageVolPtr volume;
    sigset_t set, before, pending;
    int target = file_new("target"), number;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", MiB, 1);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    raise(SIGPIPE);
    sink = fd_sink(target);
    CHECK_RESULT(sparsestream_libvirt_download(volume, 0, 0, sink, NULL, NULL, &failure), 0, &failure);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1);
    sigwait(&set, &number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sparsestream_sink_free(sink);
    virStorageVolFree(volume);
    close(target);
    daemon_stop(&daemon);
}

DAEMON_TESTS(
    CASE(upload_without_its_daemon),
    CASE(upload_without_its_daemon_with_events),
    CASE(download_without_its_daemon),
    CASE(download_without_its_daemon_with_events),
    CASE_WITHIN(upload_to_frozen_peer, 40),
    CASE_WITHIN(download_from_frozen_peer, 40),
    CASE_WITHIN(finish_with_frozen_peer, 40),
    CASE_WITHIN(abort_with_frozen_peer, 40),
    CASE(new_transfers_without_a_daemon),
    CASE(freed_without_a_daemon),
    CASE(watch_without_a_daemon),
    CASE(pending_sigpipe_of_the_caller_stays),
)
