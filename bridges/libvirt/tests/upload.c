/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Uploads to a real libvirtd. Each case compares bytes and allocated blocks with the source. */

#include "daemon.h"
#include "ends.h"
#include "fixtures.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static const struct piece sparse[] = { DATA(300 * KiB), HOLE(2 * MiB), DATA(MiB), HOLE(3 * MiB), DATA(64 * KiB),
                                       HOLE(1088 * KiB - 300 * KiB + 896 * KiB) };

static int64_t layout_length(const struct piece *pieces, size_t count)
{
    int64_t length = 0;

    for (size_t i = 0; i < count; i++)
        length += pieces[i].length;
    return length;
}

/* Uploads a file of this layout into the range, and checks what the volume has there. */
static void upload(struct daemon *daemon, virStorageVolPtr volume, int file, int64_t offset, int64_t length,
                   const struct sparsestream_libvirt_options *options)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_stats stats = { .size = sizeof(stats) };
    struct sparsestream_source *source = fd_source(file);

    (void) daemon;
    CHECK_RESULT(sparsestream_libvirt_upload(volume, offset, length, source, options, &stats, &failure), 0, &failure);
    CHECK_INT(failure.code, ==, 0);
    CHECK_INT(stats.position, ==, length);
    sparsestream_source_free(source);
}

/* The bytes of a device as a file. Returns 0 or -1. */
static int copy_range(int from, int to, int64_t length)
{
    static char buffer[MiB];

    for (int64_t at = 0; at < length; at += (int64_t) sizeof(buffer)) {
        const size_t want = length - at < (int64_t) sizeof(buffer) ? (size_t) (length - at) : sizeof(buffer);

        if (pread(from, buffer, want, at) != (ssize_t) want || pwrite(to, buffer, want, at) != (ssize_t) want)
            return -1;
    }
    return 0;
}

static void sparse_image_into_new_volume(void)
{
    const int64_t size = layout_length(sparse, COUNT(sparse));
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), target;

    daemon_start(&daemon);
    file_lay_out(file, 0, sparse, COUNT(sparse), 1);
    volume = volume_new(&daemon, "v", size);
    upload(&daemon, volume, file, 0, size, NULL);
    target = volume_file(&daemon, "v");
    CHECK_INT(file_size(target), ==, size);
    CHECK_SAME(file, 0, target, 0, size, 0);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static void many_sections_into_new_volume(void)
{
    const int64_t size = 64 * MiB;
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), target;

    daemon_start(&daemon);
    file_resize(file, size);
    for (int64_t offset = 0; offset < size; offset += 16 * KiB)
        file_fill(file, offset, 4 * KiB, 3);
    volume = volume_new(&daemon, "v", size);
    upload(&daemon, volume, file, 0, size, NULL);
    target = volume_file(&daemon, "v");
    CHECK_INT(file_size(target), ==, size);
    CHECK_SAME(file, 0, target, 0, size, 0);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* The layout into the middle of a volume full of old bytes. */
static void range_keeps_the_tail(void)
{
    const int64_t size = layout_length(sparse, COUNT(sparse)), capacity = 16 * MiB, offset = 3 * MiB;
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), target;

    daemon_start(&daemon);
    file_lay_out(file, 0, sparse, COUNT(sparse), 1);
    volume = volume_new_filled(&daemon, "v", capacity, 9);
    upload(&daemon, volume, file, offset, size, NULL);
    target = volume_file(&daemon, "v");
    CHECK_INT(file_size(target), ==, capacity);
    CHECK_INT(file_differs_from_pattern(target, 0, offset, 9, 0), ==, -1);
    CHECK_INT(file_differs_from_pattern(target, offset + size, capacity - offset - size, 9, 0), ==, -1);
    CHECK_SAME(file, 0, target, offset, size, capacity);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static void range_that_needs_zeros_refuses_required_holes(void)
{
    struct daemon daemon;
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source;
    virStorageVolPtr volume;
    int file = file_new("image"), target;

    daemon_start(&daemon);
    file_lay_out(file, 0, sparse, COUNT(sparse), 1);
    volume = volume_new_filled(&daemon, "v", 16 * MiB, 9);
    source = fd_source(file);
    CHECK_RESULT(sparsestream_libvirt_upload(
                     volume, 0, file_size(file), source,
                     LIBVIRT_OPTIONS(.transfer = TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_REQUIRED)), NULL,
                     &failure),
                 -EOPNOTSUPP, &failure);
    target = volume_file(&daemon, "v");
    CHECK_INT(file_differs_from_pattern(target, 0, 16 * MiB, 9, 0), ==, -1);
    sparsestream_source_free(source);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* Layouts over an old volume, to its end, with each policy that must leave no stale byte. */
static void old_volume(const struct piece *pieces, size_t count, int64_t offset, int holes, int64_t more)
{
    const int64_t size = layout_length(pieces, count);
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), target;

    daemon_start(&daemon);
    file_lay_out(file, 0, pieces, count, 1);
    volume = volume_new_filled(&daemon, "v", offset + size, 9);
    upload(&daemon, volume, file, offset, size, LIBVIRT_OPTIONS(.holes = holes));
    target = volume_file(&daemon, "v");
    CHECK_INT(file_size(target), ==, offset + size);
    CHECK_INT(file_differs_from_pattern(target, 0, offset, 9, 0), ==, -1);
    CHECK_SAME(file, 0, target, offset, size, offset + more);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static const struct piece hole_first[] = { HOLE(2 * MiB), DATA(MiB), HOLE(MiB), DATA(4 * KiB) };
static const struct piece only_hole[] = { HOLE(4 * MiB) };
static const struct piece hole_last[] = { DATA(MiB), HOLE(3 * MiB) };
/* The file system has no such hole: it is found in the data. */
static const struct piece byte_hole[] = { DATA(4095), HOLE(1), DATA(8192), HOLE(4 * KiB), DATA(4 * KiB) };

static void old_volume_auto(void)
{
    old_volume(sparse, COUNT(sparse), 0, SPARSESTREAM_LIBVIRT_HOLES_AUTO, 4096);
}

static void old_volume_auto_from_offset(void)
{
    old_volume(sparse, COUNT(sparse), MiB, SPARSESTREAM_LIBVIRT_HOLES_AUTO, 4096);
}

static void old_volume_split(void)
{
    old_volume(sparse, COUNT(sparse), 0, SPARSESTREAM_LIBVIRT_HOLES_SPLIT, 4096);
}

static void old_volume_split_hole_first(void)
{
    old_volume(hole_first, COUNT(hole_first), 0, SPARSESTREAM_LIBVIRT_HOLES_SPLIT, 4096);
}

static void old_volume_split_only_hole(void)
{
    old_volume(only_hole, COUNT(only_hole), 0, SPARSESTREAM_LIBVIRT_HOLES_SPLIT, 4096);
}

static void old_volume_split_hole_last(void)
{
    old_volume(hole_last, COUNT(hole_last), 0, SPARSESTREAM_LIBVIRT_HOLES_SPLIT, 4096);
}

static void old_volume_zeros(void)
{
    old_volume(sparse, COUNT(sparse), 0, SPARSESTREAM_LIBVIRT_HOLES_ZEROS, 16 * MiB);
}

/* A first hole of one byte, which only a source of the caller's own has. */
static void old_volume_split_hole_of_one_byte(void)
{
    struct content content = { .pieces = NULL };
    struct end end = { .from = &content };
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source;
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), target;
    int64_t size;

    daemon_start(&daemon);
    content_lay_out(&content, byte_hole, COUNT(byte_hole), 1);
    size = content_size(&content);
    file_lay_out(file, 0, byte_hole, COUNT(byte_hole), 1);
    volume = volume_new_filled(&daemon, "v", size, 9);
    source = end_source(&end);
    CHECK_RESULT(sparsestream_libvirt_upload(volume, 0, size, source,
                                             LIBVIRT_OPTIONS(.holes = SPARSESTREAM_LIBVIRT_HOLES_SPLIT), NULL,
                                             &failure),
                 0, &failure);
    target = volume_file(&daemon, "v");
    CHECK_INT(file_size(target), ==, size);
    CHECK_SAME(file, 0, target, 0, size, 4096);
    sparsestream_source_free(source);
    content_free(&content);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* TRUST is wrong here: libvirt leaves the old bytes under the first hole. If this ever fails, SPLIT is obsolete. */
static void trusted_old_volume_has_stale_bytes(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), target;
    const int64_t size = layout_length(hole_first, COUNT(hole_first));

    daemon_start(&daemon);
    file_lay_out(file, 0, hole_first, COUNT(hole_first), 1);
    volume = volume_new_filled(&daemon, "v", size, 9);
    upload(&daemon, volume, file, 0, size, LIBVIRT_OPTIONS(.holes = SPARSESTREAM_LIBVIRT_HOLES_TRUST));
    target = volume_file(&daemon, "v");
    if (file_not_zero(target, 0, 2 * MiB) == -1)
        skip("this libvirtd leaves no old bytes under the first hole");
    CHECK_INT(file_differs_from_pattern(target, 0, 2 * MiB, 9, 0), ==, -1);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* A volume that is a block device: the daemon writes zeros for holes there, and cuts nothing. */
static void block_device(void)
{
    static struct fixture device;
    struct daemon daemon;
    virStorageVolPtr volume;
    char path[256];
    int file = file_new("image"), back = file_new("back"), fd, r;
    const int64_t size = layout_length(sparse, COUNT(sparse));

    daemon_start(&daemon);
    r = fixture_open("loop-512", NULL, &device);
    if (r == FIXTURE_ABSENT)
        skip("no loop device to be had: %s", device.reason);
    REQUIRE(r == 0);
    /* A pool in a directory takes no block device by itself. */
    volume = volume_new(&daemon, "v", size);
    snprintf(path, sizeof(path), "%s/v", daemon.pool_directory);
    REQUIRE(unlink(path) == 0 && symlink(device.path, path) == 0);
    fd = fixture_file(&device, O_RDWR);
    file_lay_out(file, 0, sparse, COUNT(sparse), 1);
    for (int holes = SPARSESTREAM_LIBVIRT_HOLES_AUTO; holes <= SPARSESTREAM_LIBVIRT_HOLES_TRUST; holes++) {
        context("holes %d", holes);
        file_fill(fd, 0, size + MiB, 9);
        REQUIRE(fsync(fd) == 0);
        upload(&daemon, volume, file, 0, size, LIBVIRT_OPTIONS(.holes = holes));
        CHECK_INT(file_differs_from_pattern(fd, size, MiB, 9, 0), ==, -1);
        CHECK_INT(copy_range(fd, back, size), ==, 0);
        CHECK_INT(file_differs(file, 0, back, 0, size), ==, -1);
    }
    context("%s", "");
    close(fd);
    close(file);
    close(back);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
    CHECK_INT(fixture_close(&device), ==, 0);
}

/* Write errors. */

/* The volume has room for all but the last message. Returns how many of the uploads reported success. */
static int full_uploads(struct daemon *daemon, virStorageVolPtr volume, int file, int rounds, uint64_t flags)
{
    int successes = 0;

    for (int round = 0; round < rounds; round++) {
        struct sparsestream_libvirt_failure failure = FAILURE;
        struct sparsestream_source *source = fd_source(file);
        int target = volume_file(daemon, "v"), r;

        file_resize(target, 0);
        file_resize(target, file_size(file));
        close(target);
        r = sparsestream_libvirt_upload(volume, 0, file_size(file), source, LIBVIRT_OPTIONS(.flags = flags), NULL,
                                        &failure);
        sparsestream_source_free(source);
        if (r == 0) {
            successes++;
            continue;
        }
        context("round %d: %s", round, failure.message);
        CHECK(r == -EIO || r == -ENOSPC);
        CHECK_INT(failure.code, ==, -r);
    }
    context("%s", "");
    return successes;
}

static void late_write_error_is_reported(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image");

    daemon_start_small(&daemon, 2 * MiB);
    file_fill(file, 0, 8 * SPARSESTREAM_LIBVIRT_MESSAGE + 4096, 1);
    volume = volume_new(&daemon, "v", file_size(file));
    CHECK_INT(full_uploads(&daemon, volume, file, 60, 0), ==, 0);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* How it is without reading back. A daemon that reports the error makes the table in docs/libvirt.md out of date. */
static void late_write_error_is_lost_by_libvirt(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), lost;

    daemon_start_small(&daemon, 2 * MiB);
    file_fill(file, 0, 8 * SPARSESTREAM_LIBVIRT_MESSAGE + 4096, 1);
    volume = volume_new(&daemon, "v", file_size(file));
    lost = full_uploads(&daemon, volume, file, 60, SPARSESTREAM_LIBVIRT_NO_VERIFY);
    if (lost == 0)
        skip("this libvirtd reports the write error of the last message");
    CHECK_INT(lost, ==, 60);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static void write_error_in_the_middle_is_reported(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image");

    daemon_start_small(&daemon, 2 * MiB);
    file_fill(file, 0, 32 * MiB, 1);
    volume = volume_new(&daemon, "v", file_size(file));
    CHECK_INT(full_uploads(&daemon, volume, file, 5, 0), ==, 0);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* The end that is lost is followed by a hole. */
static void late_write_error_before_a_hole_is_reported(void)
{
    static const struct piece pieces[] = { DATA(8 * SPARSESTREAM_LIBVIRT_MESSAGE + 4096), HOLE(MiB) };
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image");

    daemon_start_small(&daemon, 2 * MiB);
    file_lay_out(file, 0, pieces, COUNT(pieces), 1);
    volume = volume_new(&daemon, "v", file_size(file));
    CHECK_INT(full_uploads(&daemon, volume, file, 20, 0), ==, 0);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

/* Sources that are not as announced. */

static int truncate_source(void *opaque, const struct sparsestream_stats *stats)
{
    const int *file = opaque;

    if (stats->position >= 4 * MiB && file_size(*file) > 5 * MiB)
        file_resize(*file, 5 * MiB);
    return 0;
}

static void source_truncated_meanwhile_is_enodata(void)
{
    struct daemon daemon;
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source;
    virStorageVolPtr volume;
    int file = file_new("image");

    daemon_start(&daemon);
    file_fill(file, 0, 16 * MiB, 1);
    volume = volume_new(&daemon, "v", 16 * MiB);
    source = fd_source(file);
    CHECK_RESULT(sparsestream_libvirt_upload(
                     volume, 0, 16 * MiB, source,
                     LIBVIRT_OPTIONS(.transfer = TRANSFER_OPTIONS(.progress_bytes = MiB, .progress = truncate_source,
                                                                  .opaque = &file)),
                     NULL, &failure),
                 -ENODATA, &failure);
    CHECK_INT(failure.side, ==, SPARSESTREAM_SIDE_SOURCE);
    CHECK_INT(failure.offset, ==, 5 * MiB);
    CHECK_INT(failure.libvirt_code, ==, 0);
    /* The stream is aborted, the connection of use. */
    CHECK_INT(virConnectIsAlive(daemon.connection), ==, 1);
    sparsestream_source_free(source);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

static void source_of_another_length_is_refused(void)
{
    struct daemon daemon;
    virStorageVolPtr volume;
    int file = file_new("image"), target;

    daemon_start(&daemon);
    file_fill(file, 0, 2 * MiB, 1);
    volume = volume_new_filled(&daemon, "v", 4 * MiB, 9);
    for (int i = 0; i < 3; i++) {
        static const int64_t lengths[] = { 3 * MiB, MiB, 5 * MiB };
        static const int expected[] = { -ENODATA, -EFBIG, -ENOSPC };
        struct sparsestream_libvirt_failure failure = FAILURE;
        struct sparsestream_source *source = fd_source(file);

        context("%jd bytes", (intmax_t) lengths[i]);
        CHECK_RESULT(sparsestream_libvirt_upload(volume, 0, lengths[i], source, NULL, NULL, &failure), expected[i],
                     &failure);
        sparsestream_source_free(source);
    }
    target = volume_file(&daemon, "v");
    CHECK_INT(file_size(target), ==, 4 * MiB);
    CHECK_INT(file_differs_from_pattern(target, 2 * MiB, 2 * MiB, 9, 0), ==, -1);
    close(target);
    close(file);
    virStorageVolFree(volume);
    daemon_stop(&daemon);
}

DAEMON_TESTS(
    CASE(sparse_image_into_new_volume),
    CASE(many_sections_into_new_volume),
    CASE(range_keeps_the_tail),
    CASE(range_that_needs_zeros_refuses_required_holes),
    CASE(old_volume_auto),
    CASE(old_volume_auto_from_offset),
    CASE(old_volume_split),
    CASE(old_volume_split_hole_first),
    CASE(old_volume_split_only_hole),
    CASE(old_volume_split_hole_last),
    CASE(old_volume_split_hole_of_one_byte),
    CASE(old_volume_zeros),
    CASE(trusted_old_volume_has_stale_bytes),
    CASE(block_device),
    CASE_WITHIN(late_write_error_is_reported, 60),
    CASE_WITHIN(late_write_error_is_lost_by_libvirt, 60),
    CASE(late_write_error_before_a_hole_is_reported),
    CASE(write_error_in_the_middle_is_reported),
    CASE(source_truncated_meanwhile_is_enodata),
    CASE(source_of_another_length_is_refused),
)
