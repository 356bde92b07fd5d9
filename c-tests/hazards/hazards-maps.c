/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Hazards of maps of holes that are late, refused or wrong. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define ENDLESS_SECONDS 3

static const struct content data_hole_data[] = {
    {CONTENT_DATA, MIB}, {CONTENT_HOLE, MIB}, {CONTENT_DATA, MIB}};

/* Copies the file of a server with one rule; the copy must be `expected`. */
static void copy_under_rule(const struct implementation *implementation,
                            const struct content *pieces, size_t count,
                            const struct content *expected, size_t expected_count,
                            struct fuse_rule rule)
{
    struct outcome outcome;
    int sink = need_memory();
    int source;

    limit_seconds(ENDLESS_SECONDS);
    need_fuse(0, pieces, count, &rule, 1, &source);
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, 0);
    expect_content(sink, expected, expected_count);
}

/* The answer must be this one, and the position kept. */
static void expect_in_data(const struct implementation *implementation, int fd, bool in_data,
                           int64_t length)
{
    off_t position = lseek(fd, 0, SEEK_CUR);
    bool got = !in_data;
    int64_t got_length = -1;
    int result = implementation->in_data(fd, &got, &got_length);

    if (result != 0) {
        fail("in_data failed: %s", strerror(-result));
    }
    if (got != in_data || got_length != length) {
        fail("in_data says %s of %lld bytes instead of %s of %lld", got ? "data" : "a hole",
             (long long)got_length, in_data ? "data" : "a hole", (long long)length);
    }
    if (lseek(fd, 0, SEEK_CUR) != position) {
        fail("the position was moved");
    }
}

static void expect_in_data_error(const struct implementation *implementation, int fd, int error,
                                 const char *what)
{
    bool in_data = false;
    int64_t length = 0;
    int result = implementation->in_data(fd, &in_data, &length);

    if (result != error) {
        fail("in_data of %s is %s instead of %s", what,
             result == 0 ? "success" : strerrorname_np(-result), strerrorname_np(-error));
    }
}

static void append_during_probe(const struct implementation *implementation)
{
    static const struct content hole[] = {{CONTENT_HOLE, MIB}};
    static const struct fuse_rule append = {FUSE_ON_SEEK_DATA, 1, FUSE_THEN_APPEND, MIB};
    int fd;

    need_fuse(0, hole, 1, &append, 1, &fd);
    expect_in_data(implementation, fd, false, MIB);
}

static void append_during_copy(const struct implementation *implementation)
{
    static const struct content pieces[] = {{CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, MIB}};

    copy_under_rule(implementation, pieces, 2, pieces, 2,
                    (struct fuse_rule){FUSE_ON_SEEK_DATA, 2, FUSE_THEN_APPEND, MIB});
}

static void hole_at_position(const struct implementation *implementation)
{
    copy_under_rule(implementation, data_hole_data, 3, data_hole_data, 3,
                    (struct fuse_rule){FUSE_ON_SEEK_HOLE, 0, FUSE_POSITION, 0});
}

static void hole_at_position_in_data(const struct implementation *implementation)
{
    static const struct fuse_rule lie = {FUSE_ON_SEEK_HOLE, 0, FUSE_POSITION, 0};
    bool in_data = false;
    int64_t length = 0;
    int fd;
    int result;

    need_fuse(0, data_hole_data, 3, &lie, 1, &fd);
    result = implementation->in_data(fd, &in_data, &length);
    if (result != 0 || !in_data || length <= 0 || length > 3 * MIB) {
        fail("in_data is %d: %s of %lld bytes", result, in_data ? "data" : "a hole",
             (long long)length);
    }
}

static void punched_during_probe(const struct implementation *implementation)
{
    static const struct content before[] = {{CONTENT_DATA, 2 * MIB}};
    static const struct content after[] = {{CONTENT_HOLE, MIB}, {CONTENT_DATA, MIB}};

    copy_under_rule(implementation, before, 1, after, 2,
                    (struct fuse_rule){FUSE_ON_SEEK_DATA, 1, FUSE_THEN_PUNCH, MIB});
}

static void shrunk_during_probe(const struct implementation *implementation)
{
    static const struct fuse_rule shrink = {FUSE_ON_SEEK_DATA, 1, FUSE_THEN_RESIZE, 0};
    int fd;

    need_fuse(0, data_hole_data, 3, &shrink, 1, &fd);
    expect_in_data(implementation, fd, false, 0);
}

static void data_beyond_size(const struct implementation *implementation)
{
    copy_under_rule(implementation, data_hole_data, 3, data_hole_data, 3,
                    (struct fuse_rule){FUSE_ON_SEEK_DATA, 1, FUSE_END, TIB});
}

static void data_before_position(const struct implementation *implementation)
{
    static const struct fuse_rule lie = {FUSE_ON_SEEK_DATA, 0, FUSE_POSITION, -4096};
    int fd;

    need_fuse(0, data_hole_data, 3, &lie, 1, &fd);
    need(lseek(fd, MIB, SEEK_SET) == MIB, "lseek");
    expect_in_data(implementation, fd, true, 2 * MIB);
}

static void hole_beyond_size(const struct implementation *implementation)
{
    static const struct fuse_rule lie = {FUSE_ON_SEEK_HOLE, 0, FUSE_END, TIB};
    int fd;

    need_fuse(0, data_hole_data, 3, &lie, 1, &fd);
    expect_in_data(implementation, fd, true, 3 * MIB);
}

/* Both questions refused with one errno: everything is data. */
static void refused(const struct implementation *implementation, int error)
{
    const struct fuse_rule rules[] = {{FUSE_ON_SEEK_DATA, 0, FUSE_FAIL, error},
                                      {FUSE_ON_SEEK_HOLE, 0, FUSE_FAIL, error}};
    struct outcome outcome;
    int sink = need_memory();
    int source;

    need_fuse(0, data_hole_data, 3, rules, 2, &source);
    expect_in_data(implementation, source, true, 3 * MIB);
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, 0);
    expect_content(sink, data_hole_data, 3);
}

static void refused_einval(const struct implementation *implementation)
{
    refused(implementation, EINVAL);
}

static void refused_eopnotsupp(const struct implementation *implementation)
{
    refused(implementation, EOPNOTSUPP);
}

static void refused_enosys(const struct implementation *implementation)
{
    refused(implementation, ENOSYS);
}

static void probe_fails(const struct implementation *implementation)
{
    static const struct fuse_rule rule = {FUSE_ON_SEEK_DATA, 2, FUSE_FAIL, EIO};
    struct outcome outcome;
    int sink = need_memory();
    int source;

    need_fuse(0, data_hole_data, 3, &rule, 1, &source);
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, -EIO);
}

static void map_hides_data(const struct implementation *implementation)
{
    static const struct fuse_rule rule = {FUSE_ON_SEEK_DATA, 0, FUSE_FAIL, ENXIO};
    struct outcome outcome;
    int sink = need_memory();
    int source;

    need_fuse(0, data_hole_data, 3, &rule, 1, &source);
    implementation->copy(
        &(struct request){.source = source, .sink = sink, .ignore_map = true}, &outcome);
    expect_result(&outcome, 0);
    expect_content(sink, data_hole_data, 3);
}

static void position_beyond_end(const struct implementation *implementation)
{
    int fd = need_source(data_hole_data, 3);

    need(lseek(fd, 3 * MIB, SEEK_SET) == 3 * MIB, "lseek");
    expect_in_data(implementation, fd, false, 0);
    need(lseek(fd, 5 * MIB, SEEK_SET) == 5 * MIB, "lseek");
    expect_in_data(implementation, fd, false, 0);
}

static void no_files(const struct implementation *implementation)
{
    int ends[2];
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int nothing = open("/", O_PATH | O_CLOEXEC);

    need(zero >= 0 && directory >= 0 && nothing >= 0 && pipe2(ends, O_CLOEXEC) == 0, "open");
    expect_in_data_error(implementation, zero, -ESPIPE, "/dev/zero");
    expect_in_data_error(implementation, ends[0], -ESPIPE, "a pipe");
    expect_in_data_error(implementation, directory, -EISDIR, "a directory");
    expect_in_data_error(implementation, nothing, -EBADF, "an O_PATH descriptor");
}

static const struct hazard hazards[] = {
    {"append-during-probe", "data appended between two questions becomes a hole", append_during_probe, true},
    {"append-during-copy", "the same in a copy: zeros where there is data", append_during_copy, true},
    {"hole-at-position", "SEEK_HOLE answers the position: endless, or half the file", hole_at_position, true},
    {"hole-at-position-in-data", "the same asked directly: a section of no bytes", hole_at_position_in_data, true},
    {"punched-during-probe", "data becomes a hole between two questions", punched_during_probe, true},
    {"shrunk-during-probe", "the file is cut between two questions", shrunk_during_probe, true},
    {"data-beyond-size", "SEEK_DATA answers beyond the size: a hole of 1 TiB", data_beyond_size, true},
    {"data-before-position", "SEEK_DATA answers before the position: a negative hole", data_before_position, true},
    {"hole-beyond-size", "SEEK_HOLE answers beyond the size", hole_beyond_size, true},
    {"map-refused-einval", "the map is refused with EINVAL", refused_einval, true},
    {"map-refused-eopnotsupp", "the map is refused with EOPNOTSUPP", refused_eopnotsupp, true},
    {"map-refused-enosys", "the map is refused with ENOSYS", refused_enosys, false},
    {"probe-fails", "the map fails with EIO in the middle", probe_fails, false},
    {"map-hides-data", "the map says hole where there is data, and is to be ignored", map_hides_data, true},
    {"position-beyond-end", "a negative length beyond the end", position_beyond_end, true},
    {"no-files", "what has no content to seek in gets an answer", no_files, true},
};

const struct hazard_list hazards_of_maps = HAZARD_LIST(hazards);
