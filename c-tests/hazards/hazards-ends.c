/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Hazards of ends: too early, in the wrong place, or with an error that comes last. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct content one_piece[] = {{CONTENT_DATA, 8 * MIB}};

/* A reader of the pipe that cuts the file behind the back of who sends it. */
static pid_t start_cutter(int pipe_end, int other_end, int file, off_t size)
{
    pid_t pid = fork();

    need(pid >= 0, "fork");
    if (pid == 0) {
        char buffer[65536];

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(other_end);
        if (read(pipe_end, buffer, sizeof(buffer)) <= 0 || ftruncate(file, size) != 0) {
            _exit(1);
        }
        while (read(pipe_end, buffer, sizeof(buffer)) > 0) {
        }
        _exit(0);
    }
    return pid;
}

static void source_truncated(const struct implementation *implementation)
{
    struct fixture *fixture = need_fixture("ext4-4k", NULL);
    int source = need_file(fixture);
    struct outcome outcome;
    int ends[2];
    int status = 0;
    pid_t reader;

    need(content_write(source, 0, one_piece, 1) == 0, "writing the source");
    need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    reader = start_cutter(ends[0], ends[1], source, 3 * MIB);
    close(ends[0]);
    implementation->copy(&(struct request){.source = source, .sink = ends[1]}, &outcome);
    close(ends[1]);
    need(waitpid(reader, &status, 0) == reader && status == 0, "cutting the source");
    expect_result(&outcome, -ENODATA);
}

/* Copies a FUSE file whose reads go wrong. */
static void copy_of_early_end(const struct implementation *implementation, struct fuse_rule rule)
{
    struct outcome outcome;
    int sink = need_memory();
    int source;

    limit_seconds(3);
    need_fuse(0, one_piece, 1, &rule, 1, &source);
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, -ENODATA);
}

static void source_truncated_by_server(const struct implementation *implementation)
{
    copy_of_early_end(implementation,
                      (struct fuse_rule){FUSE_ON_READ, 2, FUSE_THEN_RESIZE, 3 * MIB});
}

static void nothing_to_read(const struct implementation *implementation)
{
    copy_of_early_end(implementation, (struct fuse_rule){FUSE_ON_READ, 0, FUSE_SHORT, 0});
}

static void last_write_enospc(const struct implementation *implementation)
{
    static const struct content more[] = {{CONTENT_DATA, 2200 * KIB}};
    struct fixture *fixture = need_fixture("tmpfs-2m", NULL);
    int source = need_source(more, 1);
    int sink = need_file(fixture);
    struct outcome outcome;

    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, -ENOSPC);
}

/* Receives the pieces into a FUSE file under a rule. */
static void receive_under_rule(const struct implementation *implementation, unsigned flags,
                               const struct content *pieces, size_t count, struct fuse_rule rule,
                               bool sync, struct outcome *outcome)
{
    int sink;

    limit_seconds(3);
    need_fuse(flags, NULL, 0, &rule, 1, &sink);
    implementation->receive(pieces, count, &(struct request){.sink = sink, .sync = sync}, outcome);
}

static void last_write_eio(const struct implementation *implementation)
{
    static const struct content data[] = {{CONTENT_DATA, 64 * KIB}};
    struct outcome outcome;

    receive_under_rule(implementation, 0, data, 1,
                       (struct fuse_rule){FUSE_ON_WRITE, 1, FUSE_FAIL, EIO}, false, &outcome);
    expect_result(&outcome, -EIO);
}

static void truncate_fails(const struct implementation *implementation)
{
    static const struct content pieces[] = {{CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, MIB}};
    struct outcome outcome;

    receive_under_rule(implementation, 0, pieces, 2,
                       (struct fuse_rule){FUSE_ON_TRUNCATE, 0, FUSE_FAIL, ENOSPC}, false, &outcome);
    expect_result(&outcome, -ENOSPC);
}

static void fsync_fails(const struct implementation *implementation)
{
    static const struct content data[] = {{CONTENT_DATA, 64 * KIB}};
    struct outcome outcome;

    receive_under_rule(implementation, 0, data, 1,
                       (struct fuse_rule){FUSE_ON_FSYNC, 0, FUSE_FAIL, EIO}, true, &outcome);
    expect_result(&outcome, -EIO);
}

static void writeback_fails(const struct implementation *implementation)
{
    static const struct content data[] = {{CONTENT_DATA, MIB}};
    struct outcome outcome;

    receive_under_rule(implementation, FUSE_WRITEBACK, data, 1,
                       (struct fuse_rule){FUSE_ON_WRITE, 0, FUSE_FAIL, ENOSPC}, true, &outcome);
    if (outcome.result != -EIO) {
        expect_result(&outcome, -ENOSPC);
    }
}

static void close_fails(const struct implementation *implementation)
{
    static const struct content data[] = {{CONTENT_DATA, 64 * KIB}};
    static const struct fuse_rule rule = {FUSE_ON_FLUSH, 1, FUSE_FAIL, EIO};
    struct outcome outcome;
    int sink;
    struct fuse_server *server = need_fuse(0, NULL, 0, &rule, 1, &sink);

    implementation->receive(data, 1, &(struct request){.sink = sink}, &outcome);
    expect_result(&outcome, 0);
    expect_content(server->memory, data, 1);
    /* The caller closes, so the failure must not have been reported before. */
    if (close(sink) == 0 || errno != EIO) {
        fail("the caller's close does not fail, after %u flushes",
             fuse_server_count(server, FUSE_ON_FLUSH));
    }
}

static void nothing_written(const struct implementation *implementation)
{
    static const struct content data[] = {{CONTENT_DATA, 64 * KIB}};
    struct outcome outcome;

    receive_under_rule(implementation, 0, data, 1,
                       (struct fuse_rule){FUSE_ON_WRITE, 0, FUSE_SHORT, 0}, false, &outcome);
    expect_result(&outcome, -EIO);
}

static void short_counts(const struct implementation *implementation)
{
    static const struct content pieces[] = {
        {CONTENT_DATA, 100000}, {CONTENT_HOLE, 300 * KIB}, {CONTENT_DATA, 50001}};
    static const struct fuse_rule rules[] = {{FUSE_ON_READ, 0, FUSE_SHORT, 1000},
                                             {FUSE_ON_WRITE, 0, FUSE_SHORT, 777}};
    struct outcome outcome;
    int sink = need_memory();
    int fd;
    struct fuse_server *server = need_fuse(0, pieces, 3, rules, 2, &fd);

    implementation->copy(&(struct request){.source = fd, .sink = sink}, &outcome);
    expect_result(&outcome, 0);
    expect_content(sink, pieces, 3);
    implementation->copy(&(struct request){.source = sink, .sink = fd}, &outcome);
    expect_result(&outcome, 0);
    expect_content(server->memory, pieces, 3);
}

/* A file whose size says nothing of its content. */
static void made_up_file(const struct implementation *implementation, const char *path)
{
    char expected[4096];
    char got[4096];
    int source = open(path, O_RDONLY | O_CLOEXEC);
    int sink = need_memory();
    struct outcome outcome;
    ssize_t length;
    ssize_t count;

    if (source < 0) {
        skip("%s: %s", path, strerror(errno));
    }
    length = pread(source, expected, sizeof(expected), 0);
    need(length > 0, path);
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, 0);
    count = pread(sink, got, sizeof(got), 0);
    if (count != length || memcmp(got, expected, (size_t)length) != 0) {
        fail("%zd bytes came, %zd are in it", count, length);
    }
}

static void proc_file(const struct implementation *implementation)
{
    made_up_file(implementation, "/proc/self/cmdline");
}

static void sys_attribute(const struct implementation *implementation)
{
    made_up_file(implementation, "/sys/devices/system/cpu/online");
}

static const struct hazard hazards[] = {
    {"source-truncated", "a file cut while it is sent is a success", source_truncated, true},
    {"source-truncated-by-server", "the same where the file system cuts it", source_truncated_by_server, true},
    {"nothing-to-read", "reads give nothing though the size says more", nothing_to_read, true},
    {"last-write-enospc", "the last write finds no space: success", last_write_enospc, true},
    {"last-write-eio", "the last write fails: success", last_write_eio, true},
    {"truncate-fails", "the hole at the end cannot be made: success", truncate_fails, true},
    {"fsync-fails", "fsync fails: success", fsync_fails, true},
    {"writeback-fails", "written data is lost later, and fsync reports it: success", writeback_fails, true},
    {"close-fails", "the error of close is not reported", close_fails, false},
    {"nothing-written", "writes take nothing: endless", nothing_written, true},
    {"short-counts", "every read and write is short", short_counts, false},
    {"proc-file", "a file of size 0 that has content is empty", proc_file, true},
    {"sys-attribute", "a file of size 4096 with less content", sys_attribute, false},
};

const struct hazard_list hazards_of_ends = HAZARD_LIST(hazards);
