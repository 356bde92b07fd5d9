/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Downloads from a real libvirtd. Each case compares bytes and allocated blocks with the volume. */

#include "daemon.h"
#include "ends.h"

#include <errno.h>
#include <unistd.h>

static const struct piece sparse[] = { DATA(300 * KiB), HOLE(2 * MiB - 300 * KiB), DATA(MiB), HOLE(3 * MiB),
                                       DATA(64 * KiB), HOLE(2 * MiB - 64 * KiB) };
#define SIZE (8 * MiB)

static virStorageVolPtr sparse_volume(struct daemon *daemon)
{
    virStorageVolPtr volume = volume_new(daemon, "v", SIZE);
    int file = volume_file(daemon, "v");

    file_lay_out(file, 0, sparse, COUNT(sparse), 1);
    close(file);
    return volume;
}

/* A new file on the file system of the pools: one with the same granularity. */
static int new_target(struct daemon *daemon)
{
    virStorageVolFree(volume_new(daemon, "target", 0));
    return volume_file(daemon, "target");
}

static void download(virStorageVolPtr volume, int64_t offset, int64_t length, int target,
                     const struct sparsestream_libvirt_options *options)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_stats stats = { .size = sizeof(stats) };
    struct sparsestream_sink *sink = fd_sink(target);

    CHECK_RESULT(sparsestream_libvirt_download(volume, offset, length, sink, options, &stats, &failure), 0, &failure);
    sparsestream_sink_free(sink);
}

static void whole_volume(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int target, file;

    daemon_start(&daemon);
    volume = sparse_volume(&daemon);
    target = new_target(&daemon);
    file = volume_file(&daemon, "v");
    download(volume, 0, 0, target, NULL);
    CHECK_INT(file_size(target), ==, SIZE);
    CHECK_SAME(file, 0, target, 0, SIZE, 0);
    close(file);
    close(target);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* Ranges that begin and end within data, within holes, at their borders, and at the volume's end. */
static void ranges(void)
{
    static const int64_t offsets[] = { 0, 1, 100 * KiB, MiB, 2 * MiB, 3 * MiB + 4096, 6 * MiB, 7 * MiB, SIZE - 1 };
    static const int64_t lengths[] = { 1, 4095, 65536, MiB, 3 * MiB + 1 };
    struct daemon daemon;
    virStorageVolPtr volume;
    int target, file;

    daemon_start(&daemon);
    volume = sparse_volume(&daemon);
    target = new_target(&daemon);
    file = volume_file(&daemon, "v");
    for (size_t i = 0; i < COUNT(offsets); i++) {
        for (size_t j = 0; j < COUNT(lengths); j++) {
            if (offsets[i] + lengths[j] > SIZE)
                continue;
            context("%jd bytes at %jd", (intmax_t) lengths[j], (intmax_t) offsets[i]);
            file_resize(target, 0);
            download(volume, offsets[i], lengths[j], target, NULL);
            CHECK_INT(file_size(target), ==, lengths[j]);
            CHECK_SAME(file, offsets[i], target, 0, lengths[j], 0);
        }
    }
    context("%s", "");
    file_resize(target, 0);
    download(volume, SIZE, 0, target, NULL);
    CHECK_INT(file_size(target), ==, 0);
    close(file);
    close(target);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static void holes_as_zeros_when_asked(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int target, file;

    daemon_start(&daemon);
    volume = sparse_volume(&daemon);
    target = new_target(&daemon);
    file = volume_file(&daemon, "v");
    download(volume, 0, 0, target,
             LIBVIRT_OPTIONS(.transfer = TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_NEVER)));
    CHECK_SAME(file, 0, target, 0, SIZE, SIZE);
    CHECK_INT(file_allocated(target), >=, SIZE);
    close(file);
    close(target);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

struct seen {
    int64_t last, total;
    int calls;
};

static int look(void *opaque, const struct sparsestream_stats *stats)
{
    struct seen *seen = opaque;

    CHECK_INT(stats->position, >=, seen->last);
    CHECK_INT(stats->total, ==, SIZE);
    seen->last = stats->position;
    seen->total = stats->total;
    seen->calls++;
    return 0;
}

static void progress_has_a_total(void)
{
    struct seen seen = { .calls = 0 };
    struct daemon daemon;
    virStorageVolPtr volume;
    int target;

    daemon_start(&daemon);
    volume = sparse_volume(&daemon);
    target = new_target(&daemon);
    download(volume, 0, 0, target,
             LIBVIRT_OPTIONS(.transfer = TRANSFER_OPTIONS(.progress_bytes = MiB, .progress = look, .opaque = &seen)));
    CHECK_INT(seen.last, ==, SIZE);
    CHECK_INT(seen.calls, >, 2);
    close(target);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static void range_beyond_the_end_is_refused(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int target;
    static const int64_t ranges[][3] = { { 0, SIZE + 1, -ENOSPC }, { SIZE + 1, 0, -ENOSPC }, { -1, 0, -EINVAL },
                                         { 1, INT64_MAX, -EINVAL }, { 0, -1, -EINVAL } };

    daemon_start(&daemon);
    volume = sparse_volume(&daemon);
    target = new_target(&daemon);
    for (size_t i = 0; i < COUNT(ranges); i++) {
        struct sparsestream_libvirt_failure failure = FAILURE;
        struct sparsestream_sink *sink = fd_sink(target);

        CHECK_RESULT(sparsestream_libvirt_download(volume, ranges[i][0], ranges[i][1], sink, NULL, NULL, &failure),
                     ranges[i][2], &failure);
        sparsestream_sink_free(sink);
    }
    close(target);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static int shorten(void *opaque, const struct sparsestream_stats *stats)
{
    const int *file = opaque;

    if (stats->position > MiB && file_size(*file) > 20 * MiB)
        file_resize(*file, 20 * MiB);
    return 0;
}

static void volume_truncated_meanwhile_is_enodata(void)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_sink *sink;
    struct daemon daemon;
    virStorageVolPtr volume;
    int target, file;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 64 * MiB, 1);
    target = new_target(&daemon);
    file = volume_file(&daemon, "v");
    sink = fd_sink(target);
    CHECK_RESULT(sparsestream_libvirt_download(
                     volume, 0, 0, sink,
                     LIBVIRT_OPTIONS(.transfer = TRANSFER_OPTIONS(.progress_bytes = KiB, .progress = shorten,
                                                                  .opaque = &file)),
                     NULL, &failure),
                 -ENODATA, &failure);
    CHECK_INT(failure.side, ==, SPARSESTREAM_SIDE_SOURCE);
    sparsestream_sink_free(sink);
    close(file);
    close(target);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* A sink that is full aborts the stream; the connection stays of use. */
static void full_sink_is_enospc(void)
{
    struct content taken = { .pieces = NULL };
    struct end end = { .to = &taken, .fault_call = 5, .fault = -ENOSPC, .fault_stays = true };
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_sink *sink;
    struct daemon daemon;
    virStorageVolPtr volume;
    int target;

    daemon_start(&daemon);
    volume = volume_new_filled(&daemon, "v", 64 * MiB, 1);
    sink = end_sink(&end);
    CHECK_RESULT(sparsestream_libvirt_download(volume, 0, 0, sink, NULL, NULL, &failure), -ENOSPC, &failure);
    CHECK_INT(failure.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(failure.libvirt_code, ==, 0);
    sparsestream_sink_free(sink);
    content_free(&taken);
    target = new_target(&daemon);
    download(volume, 0, MiB, target, NULL);
    CHECK_INT(file_differs_from_pattern(target, 0, MiB, 1, 0), ==, -1);
    close(target);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

DAEMON_TESTS(
    CASE(whole_volume),
    CASE(ranges),
    CASE(holes_as_zeros_when_asked),
    CASE(progress_has_a_total),
    CASE(range_beyond_the_end_is_refused),
    CASE(volume_truncated_meanwhile_is_enodata),
    CASE(full_sink_is_enospc),
)
