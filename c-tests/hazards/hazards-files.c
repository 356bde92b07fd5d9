/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Hazards of writing and copying regular files. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* Holes of whole blocks, of less than one, and at the end, and what is not to be touched behind them. */
static const struct content over_old[] = {
    {CONTENT_DATA, 64 * KIB},  {CONTENT_HOLE, 256 * KIB}, {CONTENT_DATA, 100},
    {CONTENT_HOLE, 5000},      {CONTENT_DATA, 70000},     {CONTENT_HOLE, 9},
    {CONTENT_DATA, 8000},      {CONTENT_HOLE, 128 * KIB}, {CONTENT_OLD, 64 * KIB},
};
#define OVER_OLD_SENT (CONTENT_COUNT(over_old) - 1)

static void stale(const struct implementation *implementation, const char *name)
{
    struct fixture *fixture = need_fixture(name, NULL);
    int fd = need_file(fixture);
    struct outcome outcome;

    need(content_write_old(fd, 0, content_length(over_old, CONTENT_COUNT(over_old))) == 0,
         "writing the old content");
    need(fsync(fd) == 0, "fsync");
    implementation->receive(over_old, OVER_OLD_SENT, &(struct request){.sink = fd}, &outcome);
    expect_result(&outcome, 0);
    expect_part(fd, 0, over_old, OVER_OLD_SENT);
    expect_content(fd, over_old, CONTENT_COUNT(over_old));
}

static void stale_ext4(const struct implementation *implementation)
{
    stale(implementation, "ext4-4k");
}

static void stale_ext3(const struct implementation *implementation)
{
    stale(implementation, "ext3");
}

static void stale_ext2(const struct implementation *implementation)
{
    stale(implementation, "ext2");
}

static void stale_ramfs(const struct implementation *implementation)
{
    stale(implementation, "ramfs");
}

static void stale_tmpfs(const struct implementation *implementation)
{
    stale(implementation, "tmpfs");
}

static void stale_huge_pages(const struct implementation *implementation)
{
    stale(implementation, "tmpfs-huge");
}

static void range_write_cuts(const struct implementation *implementation)
{
    static const struct content range[] = {{CONTENT_HOLE, MIB}, {CONTENT_DATA, MIB}};
    static const struct content before[] = {{CONTENT_OLD, 2 * MIB}};
    static const struct content after[] = {{CONTENT_OLD, 6 * MIB}};
    int fd = need_memory();
    struct outcome outcome;
    struct stat status;

    need(content_write_old(fd, 0, 10 * MIB) == 0, "writing the old content");
    implementation->receive(range, 2, &(struct request){.sink = fd, .sink_offset = 2 * MIB},
                            &outcome);
    expect_result(&outcome, 0);
    need(fstat(fd, &status) == 0, "fstat");
    if (status.st_size != 10 * MIB) {
        fail("the size is %lld instead of %lld", (long long)status.st_size, (long long)(10 * MIB));
    }
    expect_part(fd, 0, before, 1);
    expect_part(fd, 2 * MIB, range, 2);
    expect_part(fd, 4 * MIB, after, 1);
}

static void local_copy_fills_holes(const struct implementation *implementation)
{
    static const struct content sparse[] = {
        {CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, 32 * MIB}, {CONTENT_DATA, 64 * KIB}};
    struct fixture *fixture = need_fixture("ext4-4k", NULL);
    int source = need_file(fixture);
    struct outcome outcome;
    struct stat status;
    char path[sizeof(fixture->path) + 8];
    int copy;

    need(content_write(source, 0, sparse, 3) == 0, "writing the source");
    snprintf(path, sizeof(path), "%s/copy", fixture->path);
    copy = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    need(copy >= 0, path);
    implementation->copy_local(&(struct request){.source = source, .sink = copy}, &outcome);
    expect_result(&outcome, 0);
    expect_content(copy, sparse, 3);
    need(fsync(copy) == 0 && fstat(copy, &status) == 0, "fstat");
    if ((int64_t)status.st_blocks * 512 > MIB) {
        fail("%lld bytes are allocated for 131072 of data", (long long)status.st_blocks * 512);
    }
}

static void unwritten_extents(const struct implementation *implementation)
{
    static const struct content partly[] = {
        {CONTENT_HOLE, 512 * KIB}, {CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, 448 * KIB}};
    struct fixture *fixture = need_fixture("ext4-4k", NULL);
    int source = need_file(fixture);
    int sink = need_memory();
    struct outcome outcome;

    need(fallocate(source, 0, 0, MIB) == 0, "fallocate");
    /* Dirty pages over an unwritten extent: no hole, though nothing of them is on the disk yet. */
    need(content_write(source, 0, partly, 3) == 0, "writing the source");
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, 0);
    expect_content(sink, partly, 3);
}

static const struct hazard hazards[] = {
    {"stale-ext4", "a hole over old content on ext4 keeps the old bytes", stale_ext4, true},
    {"stale-ext3", "the same on ext3, which has no ZERO_RANGE", stale_ext3, true},
    {"stale-ext2", "the same on ext2", stale_ext2, true},
    {"stale-ramfs", "the same on ramfs, which has no punch", stale_ramfs, true},
    {"stale-tmpfs", "the same on tmpfs", stale_tmpfs, true},
    {"stale-huge-pages", "the same on tmpfs with huge pages", stale_huge_pages, true},
    {"range-write-cuts-file", "a range write with a hole cuts the file behind it", range_write_cuts, true},
    {"local-copy-fills-holes", "copy_file_range across a hole allocates it", local_copy_fills_holes, true},
    {"unwritten-extents", "dirty pages of an unwritten extent are taken for a hole", unwritten_extents, false},
};

const struct hazard_list hazards_of_files = HAZARD_LIST(hazards);
