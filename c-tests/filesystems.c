/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* File systems that keep data to themselves, claim what they did not do, or refuse what others grant. */
#include "ends.h"
#include "files.h"
#include "fixtures/fixtures.h"
#include "fixtures/fuse-server.h"
#include "harness.h"
#include "watch.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RULES(rules) (rules), sizeof(rules) / sizeof((rules)[0])

static struct fixture fixture;

static void open_fixture(const char *name)
{
    char reason[200];
    int error = fixtures_enter(reason, sizeof reason);

    if (error == FIXTURE_ABSENT)
        skip("%s", reason);
    REQUIRE(error == 0);
    error = fixture_open(name, NULL, &fixture);
    if (error == FIXTURE_ABSENT)
        skip("%s", fixture.reason);
    if (error != 0)
        harness_fail(__FILE__, __LINE__, "%s", fixture.reason);
    REQUIRE(error == 0);
}

static int open_file(int flags)
{
    int fd = fixture_file(&fixture, flags);

    REQUIRE(fd >= 0);
    return fd;
}

static void close_fixture(void)
{
    CHECK_INT(fixture_close(&fixture), ==, 0);
}

/* Copies all of one descriptor to another. */
static int copy(int from, int to, const struct sparsestream_sink_options *sink_options,
                const struct sparsestream_transfer_options *options)
{
    struct sparsestream_source *source = fd_source(from);
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    int code;

    REQUIRE(sparsestream_sink_to_fd(to, sink_options, &sink) == 0);
    transfer = new_transfer(source, sink, options);
    code = sparsestream_transfer_run(transfer, 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

/* A map that a server makes, which has not seen what lies in the page cache. */

#define SIZE (8 * MiB)
#define DIRTY MiB
#define DIRTY_LENGTH (64 * KiB)

/* A file that is all hole to its server and has data in the cache; `*writer` keeps that there. */
static int dirty_file(int *writer)
{
    int fd;

    open_fixture("fuse-writeback");
    *writer = open_file(O_RDWR);
    file_resize(*writer, SIZE);
    REQUIRE(fsync(*writer) == 0);
    file_fill(*writer, DIRTY, DIRTY_LENGTH, 1);
    fd = open_file(O_RDONLY);
    fuse_server_rules(fixture.server, NULL, 0);
    /* The server has not seen it, or this is no test. */
    REQUIRE(lseek(fd, 0, SEEK_DATA) == -1 && errno == ENXIO);
    return fd;
}

static void check_dirty_copy(int fd)
{
    CHECK_INT(file_size(fd), ==, SIZE);
    CHECK_INT(file_not_zero(fd, 0, DIRTY), ==, -1);
    CHECK_INT(file_differs_from_pattern(fd, DIRTY, DIRTY_LENGTH, 1, 0), ==, -1);
    CHECK_INT(file_not_zero(fd, DIRTY + DIRTY_LENGTH, SIZE - DIRTY - DIRTY_LENGTH), ==, -1);
}

static void end_dirty_file(int writer, int fd)
{
    close(fd);
    close(writer);
    close_fixture();
}

static void data_in_the_cache_is_copied(void)
{
    int writer, fd = dirty_file(&writer), to = file_new("file");

    CHECK_CODE(copy(fd, to, NULL, NULL), 0);
    check_dirty_copy(to);
    CHECK_INT(fuse_server_count(fixture.server, FUSE_ON_FSYNC), ==, 1);
    if (file_maps_exactly(to))
        CHECK_INT(file_allocated(to), <=, DIRTY_LENGTH + 64 * KiB);
    close(to);
    end_dirty_file(writer, fd);
}

static void data_in_the_cache_is_found_by_a_question(void)
{
    struct sparsestream_section section;
    int64_t length = -1;
    bool in_data = true;
    int writer, fd = dirty_file(&writer);

    CHECK_CODE(sparsestream_in_data(fd, &in_data, &length), 0);
    CHECK_INT(in_data, ==, false);
    CHECK_INT(length, ==, DIRTY);
    CHECK_INT(file_position(fd), ==, 0);
    file_fill(writer, 3 * MiB, DIRTY_LENGTH, 1);
    CHECK_CODE(sparsestream_section_at(fd, 2 * MiB, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_HOLE);
    CHECK_INT(section.length, ==, MiB);
    CHECK_INT(file_position(fd), ==, 0);
    /* An answer that says data is believed as it is. */
    CHECK_INT(fuse_server_count(fixture.server, FUSE_ON_FSYNC), ==, 2);
    CHECK_CODE(sparsestream_section_at(fd, 3 * MiB, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_DATA);
    CHECK_INT(fuse_server_count(fixture.server, FUSE_ON_FSYNC), ==, 2);
    end_dirty_file(writer, fd);
}

struct sum {
    int64_t data, end;
    int sections;
};

static int add(void *opaque, const struct sparsestream_section *section)
{
    struct sum *sum = opaque;

    sum->sections++;
    sum->end = section->offset + section->length;
    if (section->kind == SPARSESTREAM_DATA)
        sum->data += section->length;
    return 0;
}

static void data_in_the_cache_is_in_the_map(void)
{
    struct sum sum = { .data = 0 };
    int writer, fd = dirty_file(&writer);

    CHECK_CODE(sparsestream_map(fd, 0, 0, add, &sum), 0);
    CHECK_INT(sum.data, ==, DIRTY_LENGTH);
    CHECK_INT(sum.end, ==, SIZE);
    CHECK_INT(sum.sections, ==, 3);
    CHECK_INT(fuse_server_count(fixture.server, FUSE_ON_FSYNC), ==, 1);
    end_dirty_file(writer, fd);
}

/* What cannot be written back may be anywhere: everything is read. */
static void a_flush_that_fails_makes_all_data(void)
{
    static const struct fuse_rule rules[] = { { FUSE_ON_FSYNC, 0, FUSE_FAIL, EIO } };
    struct sum sum = { .data = 0 };
    struct sparsestream_section section;
    int writer, fd = dirty_file(&writer), to = file_new("file");

    fuse_server_rules(fixture.server, RULES(rules));
    CHECK_CODE(sparsestream_section_at(fd, 0, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_DATA);
    CHECK_INT(section.length, ==, SIZE);
    file_fill(writer, DIRTY, DIRTY_LENGTH, 1);
    CHECK_CODE(sparsestream_map(fd, 0, 0, add, &sum), 0);
    CHECK_INT(sum.data, ==, SIZE);
    file_fill(writer, DIRTY, DIRTY_LENGTH, 1);
    CHECK_CODE(copy(fd, to, NULL, NULL), 0);
    check_dirty_copy(to);
    close(to);
    end_dirty_file(writer, fd);
}

/* The map is asked again after a flush where the question itself failed. */
static void a_question_that_fails_is_asked_again(void)
{
    static const struct fuse_rule rules[] = { { FUSE_ON_SEEK_DATA, 1, FUSE_FAIL, ENOENT } };
    struct sum sum = { .data = 0 };
    int writer, fd = dirty_file(&writer);

    fuse_server_rules(fixture.server, RULES(rules));
    CHECK_CODE(sparsestream_map(fd, 0, 0, add, &sum), 0);
    CHECK_INT(sum.data, ==, DIRTY_LENGTH);
    CHECK_INT(sum.sections, ==, 3);
    CHECK_INT(fuse_server_count(fixture.server, FUSE_ON_FSYNC), ==, 1);
    end_dirty_file(writer, fd);
}

/* Some versions of ext4 answer ENOENT before such a file is synced. */
static void a_file_within_its_inode_is_copied(void)
{
    struct sparsestream_section section;
    int fd, to = file_new("file");

    open_fixture("ext4-inline");
    fd = open_file(O_RDWR | O_CREAT);
    file_fill(fd, 0, 100, 1);
    CHECK_CODE(sparsestream_section_at(fd, 0, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_DATA);
    CHECK_INT(section.length, ==, 100);
    close(fd);
    CHECK_INT(fixture_close(&fixture), ==, 0);
    open_fixture("ext4-inline");
    fd = open_file(O_RDWR | O_CREAT);
    file_fill(fd, 0, 100, 1);
    CHECK_CODE(copy(fd, to, NULL, NULL), 0);
    CHECK_INT(file_size(to), ==, 100);
    CHECK_INT(file_differs(fd, 0, to, 0, 100), ==, -1);
    close(fd);
    close(to);
    close_fixture();
}

/* A file system whose map follows its cache is not flushed, and is named once a walk. */

struct walk {
    int fd, to, code;
};

static void walk_to_file(void *opaque)
{
    struct walk *walk = opaque;

    walk->code = copy(walk->fd, walk->to, NULL, NULL);
}

static void check_no_flush(const char *name)
{
    struct walk walk;
    struct watch watch = { .fd = -1 };

    open_fixture(name);
    walk.fd = open_file(O_RDWR | O_CREAT);
    walk.to = file_new("file");
    watch.fd = walk.fd;
    for (int i = 0; i < 8; i++)
        file_fill(walk.fd, i * MiB, 64 * KiB, 1);
    file_resize(walk.fd, 8 * MiB);
    watch_run(&watch, walk_to_file, &walk);
    CHECK_INT(walk.code, ==, 0);
    CHECK_INT(file_differs(walk.fd, 0, walk.to, 0, 8 * MiB), ==, -1);
    CHECK_INT(watch_count(&watch, SYS_fdatasync) + watch_count(&watch, SYS_fsync), ==, 0);
    CHECK_INT(watch_count(&watch, SYS_fstatfs), <=, 1);
    close(walk.fd);
    close(walk.to);
    close_fixture();
}

static void no_flush_on_ext4(void)
{
    check_no_flush("ext4-4k");
}

static void no_flush_on_xfs(void)
{
    check_no_flush("xfs");
}

static void no_flush_on_btrfs(void)
{
    check_no_flush("btrfs");
}

static void no_flush_on_tmpfs(void)
{
    check_no_flush("tmpfs");
}

/* Over an ext4 of its own: the layers of the overlay that others share may be anywhere. */
static void no_flush_on_an_overlay(void)
{
    static struct fixture overlay;
    char options[600], path[200];
    struct walk walk;
    struct watch watch = { .fd = -1 };

    open_fixture("ext4-4k");
    for (int i = 0; i < 4; i++) {
        static const char *const parts[] = { "lower", "upper", "work", "merged" };

        snprintf(path, sizeof path, "%s/%s", fixture.path, parts[i]);
        REQUIRE(mkdir(path, 0700) == 0);
    }
    snprintf(options, sizeof options, "lowerdir=%1$s/lower,upperdir=%1$s/upper,workdir=%1$s/work",
             fixture.path);
    if (mount("sparsestream-test", path, "overlay", MS_NOSUID | MS_NODEV, options) != 0)
        skip("overlay: %s", strerror(errno));
    overlay = fixture;
    strcat(overlay.path, "/merged");
    walk.fd = fixture_file(&overlay, O_RDWR | O_CREAT);
    REQUIRE(walk.fd >= 0);
    walk.to = file_new("file");
    watch.fd = walk.fd;
    file_fill(walk.fd, MiB, 64 * KiB, 1);
    file_resize(walk.fd, 2 * MiB);
    watch_run(&watch, walk_to_file, &walk);
    CHECK_INT(walk.code, ==, 0);
    CHECK_INT(file_differs(walk.fd, 0, walk.to, 0, 2 * MiB), ==, -1);
    CHECK_INT(watch_count(&watch, SYS_fdatasync) + watch_count(&watch, SYS_fsync), ==, 0);
    CHECK_INT(watch_count(&watch, SYS_ioctl), ==, 1);
    close(walk.fd);
    close(walk.to);
    CHECK_INT(umount2(path, 0), ==, 0);
    close_fixture();
}

TESTS(
    CASE(data_in_the_cache_is_copied),
    CASE(data_in_the_cache_is_found_by_a_question),
    CASE(data_in_the_cache_is_in_the_map),
    CASE(a_flush_that_fails_makes_all_data),
    CASE(a_question_that_fails_is_asked_again),
    CASE(a_file_within_its_inode_is_copied),
    CASE(no_flush_on_ext4),
    CASE(no_flush_on_xfs),
    CASE(no_flush_on_btrfs),
    CASE(no_flush_on_tmpfs),
    CASE(no_flush_on_an_overlay),
)
