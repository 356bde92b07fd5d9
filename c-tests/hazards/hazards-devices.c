/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Hazards of block devices. The medium is read with O_DIRECT. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE_SIZE (16 * MIB)
#define CANCEL_MS 100

static const struct fixture_options small_device = {.size = DEVICE_SIZE};

/* A device full of old bytes, on the medium too. */
static struct fixture *need_old_device(const char *name, int *fd)
{
    struct fixture *device = need_fixture(name, &small_device);

    *fd = need_file(device);
    need(content_write_old(*fd, 0, device->size) == 0 && fsync(*fd) == 0,
         "writing the old content");
    return device;
}

/* Receives the pieces at `offset` of a device of old bytes, which must hold them then, and all else as it was. */
static void receive_over_old(const struct implementation *implementation, const char *name,
                             const struct content *pieces, size_t count)
{
    struct content expected[16];
    struct outcome outcome;
    int fd;
    struct fixture *device = need_old_device(name, &fd);

    memcpy(expected, pieces, count * sizeof(*pieces));
    expected[count].kind = CONTENT_OLD;
    expected[count].length = device->size - content_length(pieces, count);
    implementation->receive(pieces, count, &(struct request){.sink = fd}, &outcome);
    expect_result(&outcome, 0);
    expect_device(device, expected, count + 1);
}

static void stale_device(const struct implementation *implementation)
{
    static const struct content pieces[] = {
        {CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, MIB},  {CONTENT_DATA, 100},
        {CONTENT_HOLE, 5000},     {CONTENT_DATA, 70000}, {CONTENT_HOLE, 300},
        {CONTENT_DATA, 4096},
    };

    receive_over_old(implementation, "loop-512", pieces, CONTENT_COUNT(pieces));
}

static void trailing_hole(const struct implementation *implementation)
{
    static const struct content pieces[] = {{CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, MIB}};

    receive_over_old(implementation, "loop-512", pieces, CONTENT_COUNT(pieces));
}

static void neighbours_in_a_sector(const struct implementation *implementation)
{
    /* Nothing here begins or ends with a sector of 4096 bytes. */
    static const struct content pieces[] = {
        {CONTENT_DATA, 700}, {CONTENT_HOLE, 1000},  {CONTENT_DATA, 100}, {CONTENT_HOLE, 9000},
        {CONTENT_DATA, 1},   {CONTENT_HOLE, 70001}, {CONTENT_DATA, 3},
    };

    receive_over_old(implementation, "loop-4096", pieces, CONTENT_COUNT(pieces));
}

/* A hole where the medium holds one thing, the cache another: whoever drops the cache brings the first to light. */
static void failed_punch(const struct implementation *implementation, int64_t offset, int64_t length)
{
    const struct content pieces[] = {{CONTENT_HOLE, length}, {CONTENT_DATA, 1}};
    const struct content around[] = {{CONTENT_OLD, offset},
                                     {CONTENT_OLD, DEVICE_SIZE - offset - length - 1}};
    /* Without a fallocate in its backing store the device refuses to punch when its cache was already
     * dropped. */
    struct fixture *device = need_fixture("loop-ramfs", &small_device);
    struct outcome outcome;
    char *durable = malloc(DEVICE_SIZE);
    int fd = need_file(device);

    need(durable != NULL, "memory");
    memset(durable, 'B', DEVICE_SIZE);
    need(pwrite(fd, durable, DEVICE_SIZE, 0) == DEVICE_SIZE && fsync(fd) == 0, "writing the medium");
    free(durable);
    need(content_write_old(fd, 0, DEVICE_SIZE) == 0, "writing the cache");
    implementation->receive(pieces, 2, &(struct request){.sink = fd, .sink_offset = offset},
                            &outcome);
    expect_result(&outcome, 0);
    expect_device_part(device, 0, around, 1);
    expect_device_part(device, offset, pieces, 2);
    expect_device_part(device, offset + length + 1, around + 1, 1);
}

static void failed_punch_of_sectors(const struct implementation *implementation)
{
    failed_punch(implementation, 4096, 3 * MIB);
}

static void failed_punch_unaligned(const struct implementation *implementation)
{
    failed_punch(implementation, 1000, 3 * MIB + 77);
}

static void device_as_source(const struct implementation *implementation)
{
    static const struct content pieces[] = {
        {CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, MIB}, {CONTENT_DATA, 70000}};
    struct fixture *device = need_fixture("loop-512", &small_device);
    int source = need_file(device);
    int sink = need_memory();
    struct outcome outcome;
    bool in_data = false;
    int64_t length = 0;
    int result;

    need(content_write(source, 0, pieces, 3) == 0, "writing the device");
    result = implementation->in_data(source, &in_data, &length);
    if (result != 0 || !in_data || length != DEVICE_SIZE) {
        fail("in_data is %d: %d, %lld", result, in_data, (long long)length);
    }
    implementation->copy(&(struct request){.source = source,
                                           .sink = sink,
                                           .source_length = content_length(pieces, 3)},
                         &outcome);
    expect_result(&outcome, 0);
    expect_content(sink, pieces, 3);
}

static void expect_untouched(const struct fixture *device)
{
    const struct content old = {CONTENT_OLD, device->size};

    expect_device(device, &old, 1);
}

static void hole_beyond_device(const struct implementation *implementation)
{
    static const struct content hole[] = {{CONTENT_HOLE, DEVICE_SIZE + 512}};
    struct outcome outcome;
    int fd;
    struct fixture *device = need_old_device("loop-512", &fd);

    implementation->receive(hole, 1, &(struct request){.sink = fd}, &outcome);
    expect_result(&outcome, -ENOSPC);
    expect_untouched(device);
}

static void copy_beyond_device(const struct implementation *implementation)
{
    static const struct content large[] = {
        {CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, DEVICE_SIZE - MIB}, {CONTENT_DATA, 2 * MIB}};
    int source = need_source(large, 3);
    struct outcome outcome;
    int fd;
    struct fixture *device = need_old_device("loop-512", &fd);

    implementation->copy(&(struct request){.source = source, .sink = fd}, &outcome);
    expect_result(&outcome, -ENOSPC);
    expect_untouched(device);
}

static void thin_device_full(const struct implementation *implementation)
{
    static const struct content data[] = {{CONTENT_DATA, 8 * MIB}};
    struct fixture *device = need_fixture("loop-thin", NULL);
    int source = need_source(data, 1);
    int fd = need_file(device);
    struct outcome outcome;

    implementation->copy(&(struct request){.source = source, .sink = fd, .sync = true}, &outcome);
    if (outcome.result != -EIO && outcome.result != -ENOSPC) {
        expect_result(&outcome, -EIO);
    }
}

static void huge_hole(const struct implementation *implementation)
{
    static const struct fixture_options huge = {.size = 12 * GIB};
    static const struct content pieces[] = {{CONTENT_HOLE, 12 * GIB - MIB}, {CONTENT_DATA, 512}};
    static const struct content zeros[] = {{CONTENT_HOLE, MIB}};
    /* Its backing store has no fallocate, so that every zero is written. */
    struct fixture *device = need_fixture("loop-ramfs", &huge);
    int fd = need_file(device);
    struct outcome outcome;

    need(content_write_old(fd, 12 * GIB - 2 * MIB, MIB) == 0 && fsync(fd) == 0,
         "writing the old content");
    implementation->receive(pieces, 2, &(struct request){.sink = fd, .cancel_ms = 200}, &outcome);
    if (outcome.result == 0) {
        expect_part(fd, 12 * GIB - 2 * MIB, zeros, 1);
        return;
    }
    expect_result(&outcome, -ECANCELED);
    if (outcome.late_ms < 0 || outcome.late_ms > CANCEL_MS) {
        fail("it ended %lld ms after the cancel, more than %d", (long long)outcome.late_ms, CANCEL_MS);
    }
}

static void medium_error(const struct implementation *implementation)
{
    struct fixture *device = need_fixture("loop-512", &small_device);
    int sink = need_memory();
    int source;
    struct outcome outcome;

    /* The device keeps its size: what lies beyond the end of its backing file cannot be read. */
    need(truncate(device->backing, 4 * MIB) == 0, "truncating the backing file");
    source = need_file(device);
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, -EIO);
}

static const struct hazard hazards[] = {
    {"stale-device", "a hole over old content of a device keeps the old bytes", stale_device, true},
    {"neighbours-in-a-sector", "a hole of part of a sector takes the rest with it", neighbours_in_a_sector, true},
    {"failed-punch-drops-cache", "a punch that failed has dropped what was cached", failed_punch_of_sectors, true},
    {"failed-punch-unaligned", "the same where the hole is not made of sectors", failed_punch_unaligned, true},
    {"trailing-hole-to-device", "a hole at the end of the stream ends in ftruncate of a device", trailing_hole, true},
    {"device-as-source", "a device has no map to be asked for", device_as_source, true},
    {"hole-beyond-device", "a hole beyond the end of the device is noticed too late", hole_beyond_device, true},
    {"copy-beyond-device", "more than the device holds is noticed when it is full", copy_beyond_device, true},
    {"thin-device-full", "a device whose store is full says so in fsync only", thin_device_full, true},
    {"huge-hole-blocks", "zeroing a huge hole cannot be cancelled", huge_hole, true},
    {"medium-error", "a part that cannot be read", medium_error, false},
};

const struct hazard_list hazards_of_devices = HAZARD_LIST(hazards);
