/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Downloads into sinks that are slower than the daemon, while libvirt's event loop runs. */

#include "daemon.h"
#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#define SLOW_SIZE (256 * MiB)
/* Resident memory of a process that has queued half of it. */
#define UNBOUNDED_KIB (128 * 1024)
#define BOUND_KIB (32 * 1024)

struct slow {
    int64_t position;
    unsigned delay_us;
    /* The first call takes this long, */
    unsigned stall_us;
    /* or waits until the process takes this much memory, in KiB, or takes no more. */
    int64_t until_queued;
    /* Only the calls within these positions are slow; 0: all. */
    int64_t from, to;
    /* Only one call in this many is slow; 0: each. */
    int burst;
    int calls;
    bool wrong;
};

#define NOTHING_MORE_MS 10000
#define LOOK_MS 50

/* A sink that only is slow shows the fault if the daemon is faster, which it is not on a busy machine. */
static void wait_until_queued(int64_t kib)
{
    int64_t most = memory_peak();
    unsigned idle_ms = 0;

    while (most < kib && idle_ms < NOTHING_MORE_MS) {
        int64_t peak;

        usleep(LOOK_MS * 1000);
        peak = memory_peak();
        idle_ms = peak > most ? 0 : idle_ms + LOOK_MS;
        most = peak;
    }
}

static bool is_slow(struct slow *slow)
{
    if (slow->to > 0 && (slow->position < slow->from || slow->position >= slow->to))
        return false;
    return slow->burst == 0 || ++slow->calls % slow->burst == 0;
}

static int64_t slow_write(void *opaque, const void *buffer, size_t length)
{
    const unsigned char *bytes = buffer;
    struct slow *slow = opaque;

    if (bytes[0] != pattern_byte(1, slow->position)
        || bytes[length - 1] != pattern_byte(1, slow->position + (int64_t) length - 1))
        slow->wrong = true;
    if (slow->position == 0)
        wait_until_queued(slow->until_queued);
    if (slow->position == 0 && slow->stall_us > 0)
        usleep(slow->stall_us);
    else if (slow->delay_us > 0 && is_slow(slow))
        usleep(slow->delay_us);
    slow->position += (int64_t) length;
    return (int64_t) length;
}

static int64_t slow_hole(void *opaque, int64_t length)
{
    struct slow *slow = opaque;

    slow->position += length;
    return length;
}

static struct sparsestream_sink *slow_sink(struct slow *slow)
{
    static const struct sparsestream_sink_ops ops = { .size = sizeof(ops), .write = slow_write, .hole = slow_hole };
    struct sparsestream_sink *sink = NULL;

    CHECK_CODE(sparsestream_sink_to_callbacks(&ops, slow, &sink), 0);
    return sink;
}

/* Downloads the whole volume. */
static void download_into(virStorageVolPtr volume, struct slow *slow, const struct sparsestream_libvirt_options *options,
                          int64_t size)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_sink *sink = slow_sink(slow);

    CHECK_RESULT(sparsestream_libvirt_download(volume, 0, 0, sink, options, NULL, &failure), 0, &failure);
    CHECK(!slow->wrong);
    CHECK_INT(slow->position, ==, size);
    sparsestream_sink_free(sink);
}

/* How long the event loop lets a timer wait. */
struct gaps {
    int timer;
    int64_t last, longest;
};

#define TICK_MS 10

static void on_tick(int timer, void *opaque)
{
    struct gaps *gaps = opaque;
    const int64_t now = harness_now();

    (void) timer;
    if (now - gaps->last > gaps->longest)
        gaps->longest = now - gaps->last;
    gaps->last = now;
}

static void gaps_start(struct gaps *gaps)
{
    *gaps = (struct gaps) { .last = harness_now() };
    gaps->timer = virEventAddTimeout(TICK_MS, on_tick, gaps, NULL);
}

/* After the thread of the loop has ended. */
static void gaps_stop(struct gaps *gaps)
{
    virEventRemoveTimeout(gaps->timer);
}

/* A download with the event loop in its thread. Returns the process's peak of memory, in KiB. */
static int64_t download_slowly(struct slow *slow, const struct sparsestream_libvirt_options *options, int64_t size,
                               struct gaps *gaps)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    struct gaps unused;
    int64_t peak;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", size, 1);
    events_start();
    gaps_start(gaps == NULL ? &unused : gaps);
    memory_reset();
    download_into(volume, slow, options, size);
    peak = memory_peak();
    virStorageVolFree(volume);
    events_stop();
    gaps_stop(gaps == NULL ? &unused : gaps);
    daemon_stop(&daemon);
    return peak;
}

static void slow_sink_is_bounded(void)
{
    CHECK_INT(download_slowly(&(struct slow) { .delay_us = 5000 }, NULL, SLOW_SIZE, NULL), <, BOUND_KIB);
}

static void slightly_slow_sink_is_bounded(void)
{
    CHECK_INT(download_slowly(&(struct slow) { .delay_us = 300 }, NULL, SLOW_SIZE, NULL), <, BOUND_KIB);
}

static void sink_that_is_slow_in_bursts_is_bounded(void)
{
    CHECK_INT(download_slowly(&(struct slow) { .delay_us = 250000, .burst = 128 }, NULL, SLOW_SIZE, NULL), <, BOUND_KIB);
}

static void sink_that_is_slow_in_the_middle_is_bounded(void)
{
    struct slow slow = { .delay_us = 5000, .from = 64 * MiB, .to = 192 * MiB };

    CHECK_INT(download_slowly(&slow, NULL, SLOW_SIZE, NULL), <, BOUND_KIB);
}

/* Many calls take one message. */
static void slow_sink_of_small_pieces_is_bounded(void)
{
    const struct sparsestream_transfer_options transfer = { .size = sizeof(transfer), .buffer_size = 4096 };
    struct slow slow = { .delay_us = 1000, .to = 8 * MiB };

    CHECK_INT(download_slowly(&slow, LIBVIRT_OPTIONS(.transfer = &transfer), 128 * MiB, NULL), <, BOUND_KIB);
}

/* The longest delay of the loop that is allowed, with time for a busy machine to run it. */
#define LONGEST_MS (1000 + 400 * harness_slowness())

static void very_slow_sink_is_bounded(void)
{
    struct gaps gaps;

    CHECK_INT(download_slowly(&(struct slow) { .delay_us = 100000 }, NULL, 16 * MiB, &gaps), <, BOUND_KIB);
    CHECK_INT(gaps.longest, <, LONGEST_MS);
}

static void loop_turns_while_a_write_takes_seconds(void)
{
    struct gaps gaps;

    download_slowly(&(struct slow) { .delay_us = 2500000 }, NULL, MiB / 2, &gaps);
    CHECK_INT(gaps.longest, <, LONGEST_MS);
}

/* How it is without. A libvirt with a bound makes the table in docs/libvirt.md out of date. */
static void slow_sink_is_not_bounded_by_libvirt(void)
{
    const int64_t peak = download_slowly(&(struct slow) { .until_queued = UNBOUNDED_KIB + 1 },
                                         LIBVIRT_OPTIONS(.flags = SPARSESTREAM_LIBVIRT_NO_PAUSE), SLOW_SIZE, NULL);

    if (peak < UNBOUNDED_KIB / 2)
        skip("this libvirt has a bound on what it queues");
    CHECK_INT(peak, >, UNBOUNDED_KIB);
}

#define SECTION 4096
#define SECTIONS 16384

/* Each section is two messages. */
static void slow_sink_of_small_sections_is_bounded(void)
{
    struct slow slow = { .delay_us = 50, .stall_us = 3000000 };
    struct daemon daemon;
    virStorageVolPtr volume;
    int64_t peak;
    int fd;

    daemon_start(&daemon);
    volume = volume_new(&daemon, "v", 2 * SECTION * SECTIONS);
    fd = volume_file(&daemon, "v");
    for (int64_t i = 0; i < SECTIONS; i++)
        file_fill(fd, i * 2 * SECTION, SECTION, 1);
    close(fd);
    events_start();
    memory_reset();
    download_into(volume, &slow, NULL, 2 * SECTION * SECTIONS);
    peak = memory_peak();
    CHECK_INT(peak, <, BOUND_KIB);
    virStorageVolFree(volume);
    events_stop();
    daemon_stop(&daemon);
}

/* The transfer is driven by hand and left alone after some messages: the loop cannot wait for it to come back. */
static void reader_that_stops_holds_the_loop_once(void)
{
    static char buffer[SPARSESTREAM_LIBVIRT_MESSAGE];
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source = NULL;
    struct daemon daemon;
    virStorageVolPtr volume;
    struct gaps gaps;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 16 * MiB, 1);
    events_start();
    CHECK_RESULT(sparsestream_libvirt_source_from_volume(volume, 0, 0, NULL, &failure, &source), 0, &failure);
    gaps_start(&gaps);
    for (int i = 0; i < 4; i++)
        CHECK_INT(sparsestream_source_read(source, buffer, sizeof(buffer)), >, 0);
    usleep(1500000);
    CHECK_INT(gaps.longest, <, LONGEST_MS);
    gaps.longest = 0;
    usleep(1500000);
    CHECK_INT(gaps.longest, <, LONGEST_MS - 800);
    sparsestream_source_free(source);
    virStorageVolFree(volume);
    events_stop();
    gaps_stop(&gaps);
    daemon_stop(&daemon);
}

static void freeing_does_not_wait_for_the_delay(void)
{
    static char buffer[SPARSESTREAM_LIBVIRT_MESSAGE];
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source = NULL;
    struct daemon daemon;
    virStorageVolPtr volume;
    int64_t begun;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 16 * MiB, 1);
    events_start();
    CHECK_RESULT(sparsestream_libvirt_source_from_volume(volume, 0, 0, NULL, &failure, &source), 0, &failure);
    for (int i = 0; i < 4; i++)
        CHECK_INT(sparsestream_source_read(source, buffer, sizeof(buffer)), >, 0);
    usleep(100000);
    begun = harness_now();
    sparsestream_source_free(source);
    virStorageVolFree(volume);
    events_stop();
    CHECK_INT(harness_now() - begun, <, 400 * harness_slowness());
    daemon_stop(&daemon);
}

/* A delay of the loop would be one of the reader. */
static void reader_that_runs_the_loop_is_not_delayed(void)
{
    static char buffer[SPARSESTREAM_LIBVIRT_MESSAGE];
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source = NULL;
    struct daemon daemon;
    virStorageVolPtr volume;
    int64_t begun;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 4 * MiB, 1);
    CHECK_RESULT(sparsestream_libvirt_source_from_volume(volume, 0, 0, NULL, &failure, &source), 0, &failure);
    begun = harness_now();
    for (int64_t got = 0; got < 4 * MiB;) {
        const int64_t count = sparsestream_source_read(source, buffer, sizeof(buffer));

        CHECK_INT(count, >, 0);
        got += count;
        events_run_for(20);
    }
    CHECK_INT(harness_now() - begun, <, 3000 * harness_slowness());
    sparsestream_source_free(source);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* A sink during whose call the daemon ends. */
static int64_t write_without_a_daemon(void *opaque, const void *buffer, size_t length)
{
    struct daemon *daemon = opaque;

    (void) buffer;
    if (daemon->pid > 0) {
        /* The loop is delayed by now. */
        usleep(100000);
        daemon_kill(daemon);
    }
    usleep(100000);
    return (int64_t) length;
}

static void lost_connection_ends_a_slow_download(void)
{
    static const struct sparsestream_sink_ops ops = { .size = sizeof(ops), .write = write_without_a_daemon };
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_sink *sink = NULL;
    struct daemon daemon;
    virStorageVolPtr volume;
    int64_t begun = harness_now();

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 64 * MiB, 1);
    events_start();
    CHECK_CODE(sparsestream_sink_to_callbacks(&ops, &daemon, &sink), 0);
    CHECK(sparsestream_libvirt_download(volume, 0, 0, sink, NULL, NULL, &failure) < 0);
    CHECK(failure.message[0] != '\0');
    CHECK_INT(harness_now() - begun, <, 10000 * harness_slowness());
    sparsestream_sink_free(sink);
    virStorageVolFree(volume);
    events_stop();
    daemon_stop(&daemon);
}

/* A download in a thread, over a connection of its own. */
struct beside {
    virConnectPtr connection;
    virStorageVolPtr volume;
    struct slow slow;
    int64_t size;
    pthread_t thread;
};

static void *run_beside(void *opaque)
{
    struct beside *beside = opaque;

    download_into(beside->volume, &beside->slow, NULL, beside->size);
    return NULL;
}

static void beside_start(struct beside *beside, struct daemon *daemon, const char *name, int64_t size, unsigned delay_us)
{
    virStorageVolPtr volume = volume_new_filled(daemon, name, size, 1);

    *beside = (struct beside) { .slow = { .delay_us = delay_us }, .size = size };
    beside->connection = daemon_connect(daemon->socket);
    beside->volume = virStorageVolLookupByKey(beside->connection, virStorageVolGetKey(volume));
    REQUIRE(beside->volume != NULL);
    virStorageVolFree(volume);
    REQUIRE(pthread_create(&beside->thread, NULL, run_beside, beside) == 0);
}

static void beside_stop(struct beside *beside)
{
    pthread_join(beside->thread, NULL);
    virStorageVolFree(beside->volume);
    virConnectClose(beside->connection);
}

/* Each pauses the loop for the other too. */
static void two_downloads_on_one_loop(void)
{
    struct slow fast = { .delay_us = 0 };
    struct daemon daemon;
    struct beside slow;
    virStorageVolPtr volume;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 64 * MiB, 1);
    events_start();
    memory_reset();
    beside_start(&slow, &daemon, "slow", 16 * MiB, 30000);
    download_into(volume, &fast, NULL, 64 * MiB);
    CHECK_INT(slow.slow.position, <, slow.size);
    beside_stop(&slow);
    CHECK_INT(memory_peak(), <, BOUND_KIB);
    virStorageVolFree(volume);
    events_stop();
    daemon_stop(&daemon);
}

static void note(struct sparsestream_libvirt_job *job, int result, const struct sparsestream_libvirt_failure *failure,
                 void *opaque)
{
    (void) job;
    CHECK_RESULT(result, 0, failure);
    *(bool *) opaque = true;
}

/* The job needs the rounds of a loop that the blocking download delays. */
static void job_beside_a_blocking_download(void)
{
    struct slow fast = { .delay_us = 0 };
    struct sparsestream_libvirt_job *job = NULL;
    struct sparsestream_sink *sink = slow_sink(&fast);
    struct daemon daemon;
    struct beside slow;
    virStorageVolPtr volume;
    virStreamPtr stream;
    bool done = false;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 16 * MiB, 1);
    beside_start(&slow, &daemon, "slow", 32 * MiB, 5000);
    stream = virStreamNew(daemon.connection, VIR_STREAM_NONBLOCK);
    CHECK_INT(virStorageVolDownload(volume, stream, 0, 0, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM), ==, 0);
    CHECK_INT(sparsestream_libvirt_job_recv(stream, sink, NULL, NULL, note, &done, NULL, &job), ==, 0);
    virStreamFree(stream);
    events_run_until(&done, 20);
    CHECK_INT(fast.position, ==, 16 * MiB);
    CHECK(!fast.wrong);
    sparsestream_libvirt_job_free(job);
    beside_stop(&slow);
    sparsestream_sink_free(sink);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

DAEMON_TESTS(
    CASE_WITHIN(slow_sink_is_bounded, 60),
    CASE_WITHIN(slightly_slow_sink_is_bounded, 60),
    CASE_WITHIN(very_slow_sink_is_bounded, 60),
    CASE_WITHIN(slow_sink_is_not_bounded_by_libvirt, 60),
    CASE_WITHIN(slow_sink_of_small_sections_is_bounded, 60),
    CASE_WITHIN(sink_that_is_slow_in_bursts_is_bounded, 60),
    CASE_WITHIN(sink_that_is_slow_in_the_middle_is_bounded, 60),
    CASE_WITHIN(slow_sink_of_small_pieces_is_bounded, 60),
    CASE_WITHIN(loop_turns_while_a_write_takes_seconds, 60),
    CASE(reader_that_stops_holds_the_loop_once),
    CASE(freeing_does_not_wait_for_the_delay),
    CASE(reader_that_runs_the_loop_is_not_delayed),
    CASE_WITHIN(lost_connection_ends_a_slow_download, 60),
    CASE_WITHIN(two_downloads_on_one_loop, 60),
    CASE_WITHIN(job_beside_a_blocking_download, 60),
)
