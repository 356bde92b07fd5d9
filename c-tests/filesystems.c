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
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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
    /* The server must not have seen it, or this tests nothing. */
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

static int run_between(struct sparsestream_source *source, struct sparsestream_sink *sink)
{
    struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL);
    int code = sparsestream_transfer_run(transfer, 0);

    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

/* Over the wire, with the stream stored in a file in between. */
static void data_in_the_cache_is_sent(void)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    int writer, fd = dirty_file(&writer), stream = file_new("stream"), to = file_new("file");

    REQUIRE(sparsestream_sink_to_wire(stream, -1, NULL, &sink) == 0);
    CHECK_CODE(run_between(fd_source(fd), sink), 0);
    CHECK_INT(file_size(stream), <, MiB);
    REQUIRE(lseek(stream, 0, SEEK_SET) == 0);
    REQUIRE(sparsestream_source_from_wire(stream, -1, NULL, &source) == 0);
    CHECK_CODE(run_between(source, fd_sink(to)), 0);
    check_dirty_copy(to);
    CHECK_INT(fuse_server_count(fixture.server, FUSE_ON_FSYNC), ==, 1);
    close(stream);
    close(to);
    end_dirty_file(writer, fd);
}

static void data_in_the_cache_is_found_by_a_question(void)
{
    struct sparsestream_section section = { .size = sizeof section };
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

/* Data that cannot be written back may be anywhere: everything is read. */
static void a_flush_that_fails_makes_all_data(void)
{
    static const struct fuse_rule rules[] = { { FUSE_ON_FSYNC, 0, FUSE_FAIL, EIO } };
    struct sum sum = { .data = 0 };
    struct sparsestream_section section = { .size = sizeof section };
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

/* Holes that are required are a promise about all of the stream, which a map that fails later cannot keep. */

#define LATE_HOLE (2 * MiB)

/* Data, then a hole, to a server with this rule. Returns the code of a copy to `*to`. */
static int copy_late_hole(const struct fuse_rule *rule, int sparse, int *to)
{
    int fd, code;

    open_fixture("fuse-writeback");
    *to = file_new("file");
    file_fill(*to, 0, 100, 2);
    file_fill(fixture.server->memory, 0, MiB, 1);
    file_fill(fixture.server->memory, LATE_HOLE, MiB, 1);
    fuse_server_rules(fixture.server, rule, 1);
    fd = open_file(O_RDONLY);
    code = copy(fd, *to, NULL, TRANSFER_OPTIONS(.sparse = sparse));
    if (code == 0)
        CHECK_INT(file_differs(fd, 0, *to, 0, LATE_HOLE + MiB), ==, -1);
    close(fd);
    return code;
}

static void required_holes_are_refused_if_the_flush_fails(void)
{
    static const struct fuse_rule rule = { FUSE_ON_FSYNC, 0, FUSE_FAIL, EIO };
    int to;

    CHECK_CODE(copy_late_hole(&rule, SPARSESTREAM_SPARSE_REQUIRED, &to), -EOPNOTSUPP);
    CHECK_CONTAINS(sparsestream_last_error(), "cannot report holes");
    CHECK_INT(file_size(to), ==, 100);
    CHECK_INT(file_differs_from_pattern(to, 0, 100, 2, 0), ==, -1);
    close(to);
    close_fixture();
    CHECK_CODE(copy_late_hole(&rule, SPARSESTREAM_SPARSE_AUTO, &to), 0);
    close(to);
    close_fixture();
}

static void required_holes_fail_if_the_map_fails_later(void)
{
    static const struct fuse_rule rules[] = {
        { FUSE_ON_SEEK_HOLE, 2, FUSE_FAIL, EINVAL },
        { FUSE_ON_SEEK_HOLE, 2, FUSE_FAIL, ENOENT },
        { FUSE_ON_SEEK_DATA, 2, FUSE_FAIL, EOPNOTSUPP },
    };

    for (size_t i = 0; i < COUNT(rules); i++) {
        int to;

        context("rule %zu", i);
        CHECK_CODE(copy_late_hole(&rules[i], SPARSESTREAM_SPARSE_REQUIRED, &to), -EOPNOTSUPP);
        CHECK_CONTAINS(sparsestream_last_error(), "cannot be used any longer");
        close(to);
        close_fixture();
        CHECK_CODE(copy_late_hole(&rules[i], SPARSESTREAM_SPARSE_AUTO, &to), 0);
        close(to);
        close_fixture();
    }
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

#define OUTGROWN 200

/*
 * ext4 answers a question for a hole with ENOENT while a file that was within its inode, and no longer fits there, is not
 * written back.
 */
static int file_that_leaves_its_inode(void)
{
    int fd;

    open_fixture("ext4-inline");
    fd = open_file(O_RDWR | O_CREAT);
    file_fill(fd, 0, 20, 2);
    REQUIRE(fsync(fd) == 0);
    file_fill(fd, 0, OUTGROWN, 1);
    return fd;
}

static void a_file_within_its_inode_is_copied(void)
{
    struct sparsestream_section section = { .size = sizeof section };
    struct sum sum = { .data = 0 };
    int fd = file_that_leaves_its_inode(), to = file_new("file");

    CHECK_CODE(sparsestream_section_at(fd, 0, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_DATA);
    CHECK_INT(section.length, ==, OUTGROWN);
    close(fd);
    close_fixture();
    fd = file_that_leaves_its_inode();
    CHECK_CODE(sparsestream_map(fd, 0, 0, add, &sum), 0);
    CHECK_INT(sum.data, ==, OUTGROWN);
    CHECK_INT(sum.end, ==, OUTGROWN);
    close(fd);
    close_fixture();
    fd = file_that_leaves_its_inode();
    CHECK_CODE(copy(fd, to, NULL, NULL), 0);
    CHECK_INT(file_size(to), ==, OUTGROWN);
    CHECK_INT(file_differs(fd, 0, to, 0, OUTGROWN), ==, -1);
    close(fd);
    close_fixture();
    /* One that fits. */
    open_fixture("ext4-inline");
    fd = open_file(O_RDWR | O_CREAT);
    file_fill(fd, 0, 100, 1);
    REQUIRE(ftruncate(to, 0) == 0);
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

/* A file system that keeps the bytes of what it says it has punched. */

#define OLD_SIZE (4 * MiB)

static const struct fuse_rule lying_punch[] = {
    { FUSE_ON_FALLOCATE, 0, FUSE_PRETEND, FALLOC_FL_PUNCH_HOLE },
};
static const struct fuse_rule lying_about_zeroes[] = {
    { FUSE_ON_FALLOCATE, 0, FUSE_PRETEND, 0 },
};

/* Data, a hole and data, at odd places, over old content in `old`; what is behind stays. */
static void copy_over_old(const struct fuse_rule *rule, int flags, const struct piece *old,
                          size_t old_count)
{
    const struct piece pieces[] = { DATA(5000), HOLE(3 * MiB + 77), DATA(1234), HOLE(100) };
    const int64_t hole = 5000, data = hole + 3 * MiB + 77, tail = data + 1234, end = tail + 100;
    int from = file_new("from"), fd;

    file_lay_out(from, 0, pieces, COUNT(pieces), 2);
    file_resize(from, end);
    fuse_server_rules(fixture.server, NULL, 0);
    REQUIRE(ftruncate(fixture.server->memory, 0) == 0);
    file_lay_out(fixture.server->memory, 0, old, old_count, 1);
    file_resize(fixture.server->memory, OLD_SIZE);
    fuse_server_rules(fixture.server, rule, rule != NULL);
    fd = open_file(flags);
    CHECK_CODE(copy(from, fd, NULL, TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_REQUIRED)), 0);
    if (flags == O_RDWR)
        CHECK_INT(file_differs(from, 0, fd, 0, end), ==, -1);
    fsync(fd);
    close(fd);
    CHECK_INT(file_differs(from, 0, fixture.server->memory, 0, end), ==, -1);
    CHECK_INT(file_size(fixture.server->memory), ==, OLD_SIZE);
    close(from);
}

static const struct piece all_old[] = { DATA(OLD_SIZE) };
static const struct piece old_in_the_middle[] = {
    HOLE(2 * MiB + 999), DATA(4097), HOLE(OLD_SIZE - 2 * MiB - 999 - 4097),
};

static void copy_over_old_in_every_way(const struct fuse_rule *rule, int flags)
{
    const char *const kinds[] = { "fuse", "fuse-cached", "fuse-writeback" };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        context("%s", kinds[i]);
        open_fixture(kinds[i]);
        copy_over_old(rule, flags, all_old, COUNT(all_old));
        close_fixture();
        /* Anew: what is changed behind the kernel's back is not seen where it caches. */
        open_fixture(kinds[i]);
        copy_over_old(rule, flags, old_in_the_middle, COUNT(old_in_the_middle));
        close_fixture();
    }
}

static void a_punch_that_did_nothing_is_made_good(void)
{
    copy_over_old_in_every_way(lying_punch, O_RDWR);
}

static void zeroing_that_did_nothing_is_made_good(void)
{
    copy_over_old_in_every_way(lying_about_zeroes, O_RDWR);
}

/* It cannot be looked at, so the punch is not relied on. */
static void a_punch_that_cannot_be_read_back_is_not_made(void)
{
    copy_over_old_in_every_way(lying_punch, O_WRONLY);
}

/* One that does what it says is asked to punch, and a byte of the whole is read back. */
static void a_punch_that_works_is_kept(void)
{
    open_fixture("fuse");
    copy_over_old(NULL, O_RDWR, all_old, COUNT(all_old));
    CHECK_INT(file_allocated(fixture.server->memory), <=, OLD_SIZE - 3 * MiB + 64 * KiB);
    close_fixture();
}

/* Targets that take less than others do. */

static const struct piece holes[] = { HOLE(70000), DATA(5000), HOLE(300000), DATA(1), HOLE(65536) };
#define HOLES_SIZE (70000 + 5000 + 300000 + 1 + 65536)

/* Copies `holes` to a server with these rules. Returns the result. */
static int copy_holes(const struct fuse_rule *rules, size_t count, int64_t size, uint64_t flags,
                      int *from)
{
    int fd, code;

    open_fixture("fuse");
    *from = file_new("from");
    file_lay_out(*from, 0, holes, COUNT(holes), 1);
    file_resize(*from, HOLES_SIZE);
    if (size > 0)
        file_fill(fixture.server->memory, 0, size, 3);
    fd = open_file(O_RDWR);
    fuse_server_rules(fixture.server, rules, count);
    code = copy(*from, fd, SINK_OPTIONS(.flags = flags), NULL);
    close(fd);
    return code;
}

static void end_copy_holes(int from, bool same)
{
    if (same) {
        CHECK_INT(file_size(fixture.server->memory), ==, HOLES_SIZE);
        CHECK_INT(file_differs(from, 0, fixture.server->memory, 0, HOLES_SIZE), ==, -1);
    }
    close(from);
    close_fixture();
}

static void zeros_where_only_the_next_byte_can_be_written(void)
{
    const int errors[] = { ESPIPE, EINVAL, EOPNOTSUPP };

    for (size_t i = 0; i < COUNT(errors); i++) {
        const struct fuse_rule rules[] = {
            { FUSE_ON_WRITE, 0, FUSE_FAIL_BEYOND, errors[i] },
            { FUSE_ON_TRUNCATE, 0, FUSE_FAIL, errors[i] },
            { FUSE_ON_FALLOCATE, 0, FUSE_FAIL, EOPNOTSUPP },
        };
        int from, code;

        context("%s", harness_errno_name(errors[i]));
        code = copy_holes(RULES(rules), 0, 0, &from);
        CHECK_CODE(code, 0);
        end_copy_holes(from, true);
    }
}

/* To write what was left out before takes longer than a stall may, and is none. */
static void zeros_that_take_long_are_no_stall(void)
{
    static const struct fuse_rule rules[] = {
        { FUSE_ON_WRITE, 0, FUSE_FAIL_BEYOND, ESPIPE },
        { FUSE_ON_WRITE, 0, FUSE_DELAY, 5 },
    };
    const int64_t hole = 100 * MiB;
    int from = file_new("from"), fd;

    open_fixture("fuse");
    file_fill(from, hole, 100, 1);
    fd = open_file(O_RDWR);
    fuse_server_rules(fixture.server, RULES(rules));
    CHECK_CODE(copy(from, fd, NULL, TRANSFER_OPTIONS(.stall_ms = 300)), 0);
    close(fd);
    CHECK_INT(file_size(fixture.server->memory), ==, hole + 100);
    CHECK_INT(file_differs(from, 0, fixture.server->memory, 0, hole + 100), ==, -1);
    close(from);
    close_fixture();
}

static void a_size_that_is_right_need_not_be_set(void)
{
    const int errors[] = { ENOSYS, EPERM, EOPNOTSUPP };

    for (size_t i = 0; i < COUNT(errors); i++) {
        const struct fuse_rule rules[] = { { FUSE_ON_TRUNCATE, 0, FUSE_FAIL, errors[i] } };
        int from, code;

        context("%s", harness_errno_name(errors[i]));
        code = copy_holes(RULES(rules), HOLES_SIZE, SPARSESTREAM_TRUNCATE, &from);
        CHECK_CODE(code, 0);
        end_copy_holes(from, true);
        /* It can be reached by writing. */
        code = copy_holes(RULES(rules), HOLES_SIZE - 50000, SPARSESTREAM_TRUNCATE, &from);
        CHECK_CODE(code, 0);
        end_copy_holes(from, true);
    }
}

static void a_size_that_cannot_be_cut_is_refused_first(void)
{
    const int errors[] = { ENOSYS, EPERM, EIO };

    for (size_t i = 0; i < COUNT(errors); i++) {
        const struct fuse_rule rules[] = { { FUSE_ON_TRUNCATE, 0, FUSE_FAIL, errors[i] } };
        int from, code;

        context("%s", harness_errno_name(errors[i]));
        code = copy_holes(RULES(rules), HOLES_SIZE + 5, SPARSESTREAM_TRUNCATE, &from);
        CHECK_CODE(code, -errors[i]);
        CHECK_CONTAINS(sparsestream_last_error(), "the size of the file cannot be set");
        CHECK_INT(fuse_server_count(fixture.server, FUSE_ON_WRITE), ==, 0);
        CHECK_INT(file_differs_from_pattern(fixture.server->memory, 0, HOLES_SIZE + 5, 3, 0), ==, -1);
        end_copy_holes(from, false);
    }
}

/* Space. */

/* Blocks that `copy` leaves of alternating data and holes, without what is not data. */
static int64_t allocated_by_copy(const char *name, int64_t data, int64_t hole, int count,
                                 bool piped, int sparse)
{
    int from = file_new("from"), to;
    struct stat status;
    int64_t size = count * (data + hole);

    open_fixture(name);
    to = open_file(O_RDWR | O_CREAT | O_TRUNC);
    for (int i = 0; i < count; i++)
        file_fill(from, i * (data + hole), data, 1);
    file_resize(from, size);
    if (piped) {
        struct sparsestream_sink *sink = fd_sink(to);
        char *buffer = malloc((size_t) data);

        /* Small pieces, as a slow stream brings them. */
        REQUIRE(buffer != NULL);
        for (int i = 0; i < count; i++) {
            int64_t at = i * (data + hole), done = 0;

            pattern_fill(buffer, (size_t) data, 1, at);
            while (done < data) {
                int64_t most = data - done < 65536 ? data - done : 65536;
                int64_t taken = sparsestream_sink_write(sink, buffer + done, (size_t) most);

                REQUIRE(taken > 0);
                done += taken;
            }
            for (done = 0; done < hole;) {
                int64_t made = sparsestream_sink_hole(sink, hole - done);

                CHECK_INT(made, >=, 0);
                done += made > 0 ? made : hole - done;
            }
        }
        free(buffer);
        CHECK_CODE(sparsestream_sink_finish(sink), 0);
        sparsestream_sink_free(sink);
    } else {
        CHECK_CODE(copy(from, to, NULL, TRANSFER_OPTIONS(.sparse = sparse)), 0);
    }
    CHECK_INT(file_differs(from, 0, to, 0, size), ==, -1);
    REQUIRE(fsync(to) == 0 && fstat(to, &status) == 0);
    CHECK_INT(status.st_size, ==, size);
    close(from);
    close(to);
    close_fixture();
    return (int64_t) status.st_blocks * 512;
}

static void holes_take_no_blocks_on_xfs(void)
{
    const struct { int64_t data, hole; int count; } layouts[] = {
        { MiB, MiB, 16 }, { 64 * KiB, 64 * KiB, 64 }, { 4096, 4096, 512 }, { 64 * KiB, 4 * KiB, 100 },
        { 5000, 12345, 64 },
    };

    for (size_t i = 0; i < COUNT(layouts); i++) {
        const int64_t data = layouts[i].data, hole = layouts[i].hole;
        /* A block at either side of an end that is not a block's. */
        const int64_t most = layouts[i].count * ((data + 4095) / 4096 * 4096 + (data % 4096 ? 8192 : 0));

        context("%jd of data, %jd of hole", (intmax_t) data, (intmax_t) hole);
        for (int piped = 0; piped <= 1; piped++) {
            CHECK_INT(allocated_by_copy("xfs", data, hole, layouts[i].count, piped,
                                        SPARSESTREAM_SPARSE_AUTO), <=, most + 64 * KiB);
        }
    }
}

/* Two writers of one file, each of a range of its own: neither gives back what is the other's. */
static void what_another_writes_before_the_range_is_kept(void)
{
    static const char *const kinds[] = { "xfs", "ext4-4k", "btrfs", "fuse" };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct sparsestream_sink *sink = NULL;
        int to;

        context("%s", kinds[i]);
        open_fixture(kinds[i]);
        to = open_file(O_RDWR | O_CREAT);
        file_fill(to, 0, 4096, 1);
        REQUIRE(sparsestream_sink_to_fd(to, SINK_OPTIONS(.offset = 2 * MiB), &sink) == 0);
        file_fill(to, 64 * KiB, MiB, 1);
        CHECK_INT(sparsestream_sink_hole(sink, MiB), ==, MiB);
        CHECK_INT(sparsestream_sink_write(sink, "x", 1), ==, 1);
        CHECK_INT(sparsestream_sink_hole(sink, MiB), ==, MiB);
        CHECK_CODE(sparsestream_sink_finish(sink), 0);
        sparsestream_sink_free(sink);
        CHECK_INT(file_differs_from_pattern(to, 0, 4096, 1, 0), ==, -1);
        CHECK_INT(file_differs_from_pattern(to, 64 * KiB, MiB, 1, 0), ==, -1);
        CHECK_INT(file_size(to), ==, 4 * MiB + 1);
        close(to);
        close_fixture();
    }
}

/* A copy that ends at any of its calls, as by SIGKILL. */

struct killed {
    struct walk walk;
    int calls, end_at;
};

static bool end_there(void *opaque, const struct watched_call *call, int64_t *answer)
{
    struct killed *killed = opaque;

    (void) call;
    (void) answer;
    if (++killed->calls == killed->end_at)
        _exit(9);
    return false;
}

static void walk_to_its_end(void *opaque)
{
    struct killed *killed = opaque;

    killed->walk.code = copy(killed->walk.fd, killed->walk.to, SINK_OPTIONS(.flags = SPARSESTREAM_SYNC),
                             TRANSFER_OPTIONS(.buffer_size = 65536));
}

/* Copies, with every call on the target counted, and ends at one of them. Returns whether it came to that. */
static bool copy_until(int from, int to, int end_at)
{
    struct killed killed = { .walk = { .fd = from, .to = to }, .end_at = end_at };
    struct watch watch = { .fd = to, .handler = end_there, .opaque = &killed };
    int status = 0;
    pid_t child = fork();

    REQUIRE(child >= 0);
    if (child == 0) {
        watch_run(&watch, walk_to_its_end, &killed);
        _exit(killed.walk.code == 0 ? 0 : 1);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9);
    return WEXITSTATUS(status) == 9;
}

static void check_killed(const char *name, const struct piece *pieces, size_t count)
{
    int from = file_new("from"), to, end_at = 1;
    bool ended = true;
    int64_t size;

    file_lay_out(from, 0, pieces, count, 1);
    size = file_size(from);
    open_fixture(name);
    while (ended) {
        context("%s at call %d", name, end_at);
        REQUIRE(end_at < 200);
        to = open_file(O_RDWR | O_CREAT | O_TRUNC);
        ended = copy_until(from, to, end_at++);
        /* The size comes last: with it, nothing is left to be written. */
        CHECK_INT(file_size(to), <=, size);
        CHECK(ended || file_size(to) == size);
        CHECK(file_size(to) < size || file_differs(from, 0, to, 0, size) == -1);
        close(to);
    }
    CHECK_INT(end_at, >, 8);
    close(from);
    close_fixture();
}

static void nothing(void *opaque)
{
    (void) opaque;
}

static void a_killed_copy_has_its_size_only_when_it_is_whole(void)
{
    static const struct piece hole_last[] = {
        DATA(200000), HOLE(MiB), DATA(5000), HOLE(64 * KiB), DATA(1), HOLE(64 * KiB), DATA(9000),
        HOLE(MiB), DATA(30000), HOLE(64 * KiB), DATA(4096), HOLE(70000), DATA(1), HOLE(2 * MiB),
    };
    static const struct piece data_last[] = {
        HOLE(MiB), DATA(200000), HOLE(MiB), DATA(5000), HOLE(64 * KiB), DATA(1), HOLE(64 * KiB),
        DATA(9000), HOLE(MiB), DATA(30000), HOLE(64 * KiB), DATA(4096), HOLE(70000), DATA(70000),
    };
    const char *const kinds[] = { "xfs", "ext4-4k", "tmpfs", "fuse" };
    struct watch watch = { .fd = -1 };

    /* The copies are watched in children, where a case cannot be skipped. */
    watch_run(&watch, nothing, NULL);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        check_killed(kinds[i], hole_last, COUNT(hole_last));
        check_killed(kinds[i], data_last, COUNT(data_last));
    }
}

/* Does any extent of the file share its blocks? */
static bool shares_blocks(int fd)
{
    union {
        struct fiemap map;
        char room[sizeof(struct fiemap) + 64 * sizeof(struct fiemap_extent)];
    } request;

    memset(&request, 0, sizeof request);
    request.map.fm_length = UINT64_MAX;
    request.map.fm_flags = FIEMAP_FLAG_SYNC;
    request.map.fm_extent_count = 64;
    REQUIRE(ioctl(fd, FS_IOC_FIEMAP, &request.map) == 0);
    REQUIRE(request.map.fm_mapped_extents > 0);
    for (unsigned i = 0; i < request.map.fm_mapped_extents; i++) {
        if (request.map.fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED)
            return true;
    }
    return false;
}

/* A copy within one file system, which could share all of it. */
static void check_sharing(const char *name, int sparse, bool shared)
{
    char path[200];
    int from, to;

    context("%s", name);
    open_fixture(name);
    snprintf(path, sizeof path, "%s/from", fixture.path);
    from = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(from >= 0);
    file_fill(from, 0, 2 * MiB, 1);
    file_resize(from, 3 * MiB);
    to = open_file(O_RDWR | O_CREAT);
    CHECK_CODE(copy(from, to, NULL, TRANSFER_OPTIONS(.sparse = sparse)), 0);
    CHECK_INT(file_differs(from, 0, to, 0, 3 * MiB), ==, -1);
    CHECK_INT(shares_blocks(to), ==, shared);
    if (sparse == SPARSESTREAM_SPARSE_NEVER)
        CHECK_INT(file_allocated(to), >=, 3 * MiB);
    close(from);
    close(to);
    close_fixture();
}

static void nothing_is_shared_where_no_hole_is_wanted(void)
{
    check_sharing("btrfs", SPARSESTREAM_SPARSE_NEVER, false);
    check_sharing("xfs", SPARSESTREAM_SPARSE_NEVER, false);
    check_sharing("btrfs", SPARSESTREAM_SPARSE_AUTO, true);
}

/* A stream that cannot fit is refused before a byte is written. */

static void more_than_a_device_holds_is_refused_with_both_sizes(void)
{
    char expected[100], first = 1;
    int from = file_new("from"), to;

    open_fixture("loop-odd");
    file_fill(from, 0, 64 * KiB, 1);
    file_resize(from, fixture.size + 4096);
    to = open_file(O_RDWR);
    CHECK_CODE(copy(from, to, NULL, NULL), -ENOSPC);
    snprintf(expected, sizeof expected, "the stream has %jd bytes for offset 0, but there is room for %jd",
             (intmax_t) fixture.size + 4096, (intmax_t) fixture.size);
    CHECK_CONTAINS(sparsestream_last_error(), expected);
    CHECK_INT(pread(to, &first, 1, 0), ==, 1);
    CHECK_INT(first, ==, 0);
    close(from);
    close(to);
    close_fixture();
}

static void a_file_that_may_not_grow_is_left_as_it_is(void)
{
    int from = file_new("from"), to = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    file_fill(from, 0, 128 * KiB, 1);
    file_fill(to, 0, 64 * KiB, 2);
    REQUIRE(fcntl(to, F_ADD_SEALS, F_SEAL_GROW) == 0);
    CHECK_CODE(copy(from, to, NULL, NULL), -EPERM);
    CHECK_CONTAINS(sparsestream_last_error(), "sealed against growing");
    CHECK_INT(file_differs_from_pattern(to, 0, 64 * KiB, 2, 0), ==, -1);
    /* A copy that does not make the file longer is written. */
    file_resize(from, 64 * KiB);
    CHECK_CODE(copy(from, to, NULL, NULL), 0);
    CHECK_INT(file_differs(from, 0, to, 0, 64 * KiB), ==, -1);
    close(from);
    close(to);
}

TESTS(
    CASE(data_in_the_cache_is_copied),
    CASE(data_in_the_cache_is_sent),
    CASE(data_in_the_cache_is_found_by_a_question),
    CASE(data_in_the_cache_is_in_the_map),
    CASE(a_flush_that_fails_makes_all_data),
    CASE(required_holes_are_refused_if_the_flush_fails),
    CASE(required_holes_fail_if_the_map_fails_later),
    CASE(a_question_that_fails_is_asked_again),
    CASE(a_file_within_its_inode_is_copied),
    CASE(no_flush_on_ext4),
    CASE(no_flush_on_xfs),
    CASE(no_flush_on_btrfs),
    CASE(no_flush_on_tmpfs),
    CASE(no_flush_on_an_overlay),
    CASE(a_punch_that_did_nothing_is_made_good),
    CASE(zeroing_that_did_nothing_is_made_good),
    CASE(a_punch_that_cannot_be_read_back_is_not_made),
    CASE(a_punch_that_works_is_kept),
    CASE(zeros_where_only_the_next_byte_can_be_written),
    CASE(zeros_that_take_long_are_no_stall),
    CASE(a_size_that_is_right_need_not_be_set),
    CASE(a_size_that_cannot_be_cut_is_refused_first),
    CASE(holes_take_no_blocks_on_xfs),
    CASE(what_another_writes_before_the_range_is_kept),
    CASE_WITHIN(a_killed_copy_has_its_size_only_when_it_is_whole, 60),
    CASE(nothing_is_shared_where_no_hole_is_wanted),
    CASE(more_than_a_device_holds_is_refused_with_both_sizes),
    CASE(a_file_that_may_not_grow_is_left_as_it_is),
)
