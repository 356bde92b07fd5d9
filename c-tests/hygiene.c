/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The state of the process that a library must leave alone. The harness checks
 * of every case of every program that descriptors, threads, dispositions and
 * the mask are what they were and that nothing was printed; here is the rest,
 * and what holds while a transfer is under way.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int entries_of(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    int count = 0;

    REQUIRE(directory != NULL);
    while ((entry = readdir(directory)) != NULL)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

/* The ends of pipes that are closed by an exec: all that the library may open while it works. */
static int private_pipe_ends(void)
{
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    int count = 0;

    REQUIRE(directory != NULL);
    while ((entry = readdir(directory)) != NULL) {
        char target[64] = "";

        if (readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1) > 0
            && strncmp(target, "pipe:", 5) == 0)
            count += (fcntl(atoi(entry->d_name), F_GETFD) & FD_CLOEXEC) != 0;
    }
    closedir(directory);
    return count;
}

/* The state of the process before the transfer, checked from within its callbacks. */
static struct {
    int descriptors, pipe_ends, threads;
    sigset_t mask;
    int checked, piped;
} before;

static void look(void)
{
    before.descriptors = entries_of("/proc/self/fd");
    before.pipe_ends = private_pipe_ends();
    before.threads = entries_of("/proc/self/task");
    REQUIRE(pthread_sigmask(SIG_BLOCK, NULL, &before.mask) == 0);
    before.checked = before.piped = 0;
}

static void check_as_before(void)
{
    const int pipe_ends = private_pipe_ends() - before.pipe_ends;
    sigset_t mask;

    before.checked++;
    before.piped += pipe_ends != 0;
    CHECK(pipe_ends == 0 || pipe_ends == 2);
    CHECK_INT(entries_of("/proc/self/fd"), ==, before.descriptors + pipe_ends);
    CHECK_INT(entries_of("/proc/self/task"), ==, before.threads);
    REQUIRE(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
    for (int number = 1; number < NSIG; number++)
        CHECK_INT(sigismember(&mask, number), ==, sigismember(&before.mask, number));
}

static int on_section(void *opaque, const struct sparsestream_section *section)
{
    (void) opaque;
    (void) section;
    check_as_before();
    return 0;
}

static int on_progress(void *opaque, const struct sparsestream_stats *stats)
{
    (void) opaque;
    (void) stats;
    check_as_before();
    return 0;
}

static int64_t checking_send(void *opaque, const void *buffer, size_t length)
{
    check_as_before();
    return end_stream_ops.send(opaque, buffer, length);
}

static void sample(int fd)
{
    const struct piece pieces[] = { DATA(64 * KiB), HOLE(64 * KiB), DATA(64 * KiB), HOLE(5) };

    file_lay_out(fd, 0, pieces, COUNT(pieces), 1);
}

/* No thread or blocked signal of its own while it works, and no descriptor but the two of one pipe. */
static void nothing_of_its_own_while_it_works(void)
{
    const struct sparsestream_transfer_options *options = TRANSFER_OPTIONS(
        .section = on_section, .progress = on_progress, .progress_bytes = 1000);
    struct sparsestream_stream_ops ops = end_stream_ops;
    struct content taken = { .count = 0 };
    struct end to = { .to = &taken }, from = { .from = &taken };
    const int in = file_new("in"), out = file_new("out");
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;

    ops.send = checking_send;
    sample(in);
    look();
    source = fd_source(in);
    sink = fd_sink(out);
    transfer = new_transfer(source, sink, options);
    check_as_before();
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    /* It is closed with the end, not only with the handle. */
    CHECK_INT(private_pipe_ends(), ==, before.pipe_ends);
    before.piped = 0;
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    source = fd_source(in);
    CHECK_CODE(sparsestream_send_all(source, &ops, &to, options, NULL), 0);
    CHECK_CODE(sparsestream_sink_abort(sink, EIO), 0);
    sparsestream_sink_free(sink);
    sink = fd_sink(out);
    CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, options, NULL), 0);
    CHECK_INT(before.checked, >, 10);
    CHECK_INT(before.piped, ==, 0);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    content_free(&taken);
    close(in);
    close(out);
}

/* Not one more descriptor can be opened, and none is needed. */
static void no_descriptor_is_needed(void)
{
    struct rlimit limit, none;
    const int in = file_new("in"), out = file_new("out");
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    int64_t length;
    bool in_data;
    int fds[2];

    sample(in);
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    none = limit;
    none.rlim_cur = 0;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    CHECK_CODE(sparsestream_in_data(in, &in_data, &length), 0);
    CHECK_CODE(sparsestream_holes_supported(in), 1);
    source = fd_source(in);
    sink = fd_sink(out);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    source = fd_source(in);
    sink = fd_sink(fds[1]);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, MiB), -EAGAIN);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_INT(file_differs(in, 0, out, 0, file_size(in)), ==, -1);
    close(fds[0]);
    close(fds[1]);
    close(in);
    close(out);
}

/* Asked from another process, since a process does not see its own locks. */
static bool is_locked(const char *name)
{
    int status = 0;
    const pid_t child = fork();

    REQUIRE(child >= 0);
    if (child == 0) {
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        const int fd = open(name, O_RDWR | O_CLOEXEC);

        if (fd < 0 || fcntl(fd, F_GETLK, &lock) != 0)
            _exit(2);
        _exit(lock.l_type == F_UNLCK ? 0 : 1);
    }
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) <= 1);
    return WEXITSTATUS(status) == 1;
}

/* A close of any descriptor of a file drops all of the process's locks on it. */
static void posix_locks_are_kept(void)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    struct content taken = { .count = 0 };
    struct end to = { .to = &taken }, from = { .from = &taken };
    const int in = file_new("in"), out = file_new("out");
    struct sparsestream_source *source;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    int64_t length;
    bool in_data;

    sample(in);
    REQUIRE(fcntl(in, F_SETLK, &lock) == 0 && fcntl(out, F_SETLK, &lock) == 0);
    REQUIRE(is_locked("in") && is_locked("out"));
    CHECK_CODE(sparsestream_in_data(in, &in_data, &length), 0);
    CHECK_CODE(sparsestream_holes_supported(in), 1);
    source = fd_source(in);
    REQUIRE(sparsestream_sink_to_fd(out, SINK_OPTIONS(.flags = SPARSESTREAM_SYNC
                                                               | SPARSESTREAM_TRUNCATE), &sink)
            == 0);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    source = fd_source(in);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL), 0);
    sparsestream_source_free(source);
    sink = fd_sink(out);
    CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, NULL), 0);
    sparsestream_sink_free(sink);
    CHECK(is_locked("in"));
    CHECK(is_locked("out"));
    content_free(&taken);
    close(in);
    CHECK(!is_locked("in"));
    close(out);
}

/* How a transfer that uses a file's positions comes to its end. */
enum ending { SUCCESS, FAILURE, CANCELLED, FREED, ENDINGS };

static void positions_are_kept(void)
{
    for (int ending = 0; ending < ENDINGS; ending++) {
        const int in = file_new("in"), out = file_new("out");
        struct end to = { .to = NULL };
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer;

        context("ending %d", ending);
        sample(in);
        file_fill(out, 0, 100000, 1);
        REQUIRE(lseek(in, 12345, SEEK_SET) == 12345 && lseek(out, 54321, SEEK_SET) == 54321);
        source = fd_source(in);
        if (ending == SUCCESS) {
            sink = fd_sink(out);
        } else {
            to.fault_letter = 'h';
            to.fault_call = 1;
            to.fault = ending == FAILURE ? -EIO : -EAGAIN;
            sink = end_sink(&to);
        }
        transfer = new_transfer(source, sink, NULL);
        CHECK_CODE(sparsestream_transfer_run(transfer, 0),
                   ending == SUCCESS ? 0 : ending == FAILURE ? -EIO : -EAGAIN);
        if (ending == CANCELLED) {
            CHECK_CODE(sparsestream_transfer_cancel(transfer), 0);
            CHECK_CODE(sparsestream_transfer_run(transfer, 0), -ECANCELED);
        }
        if (ending != FREED)
            CHECK_INT(file_position(in), ==, 12345);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        CHECK_INT(file_position(in), ==, 12345);
        CHECK_INT(file_position(out), ==, 54321);
        close(in);
        close(out);
    }
}

static void positions_are_kept_by_hand(void)
{
    const int fd = file_new("file");
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    char buffer[1000];
    struct sparsestream_section section = { .size = sizeof section };

    sample(fd);
    REQUIRE(lseek(fd, 777, SEEK_SET) == 777);
    source = fd_source(fd);
    CHECK_CODE(sparsestream_source_section(source, &section), 0);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), sizeof buffer);
    CHECK_CODE(sparsestream_source_skip(source, 64 * KiB - 1000), 0);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), SPARSESTREAM_AT_HOLE);
    sparsestream_source_free(source);
    CHECK_INT(file_position(fd), ==, 777);
    sink = fd_sink(fd);
    CHECK_CODE(sparsestream_sink_write(sink, buffer, sizeof buffer), sizeof buffer);
    CHECK_INT(sparsestream_sink_hole(sink, 10000), >, 0);
    CHECK_INT(file_position(fd), ==, 777);
    CHECK_CODE(sparsestream_sink_finish(sink), 0);
    sparsestream_sink_free(sink);
    CHECK_INT(file_position(fd), ==, 777);
    close(fd);
}

/* The file's flags, times of change aside, are the caller's. */
static void flags_of_descriptors_are_kept(void)
{
    const int in = open("in", O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600);
    int fds[2], flags[3], descriptor_flags[3];
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;

    REQUIRE(in >= 0 && pipe(fds) == 0);
    file_fill(in, 0, 1000, 1);
    for (int i = 0; i < 3; i++) {
        flags[i] = fcntl(i < 2 ? fds[i] : in, F_GETFL);
        descriptor_flags[i] = fcntl(i < 2 ? fds[i] : in, F_GETFD);
    }
    source = fd_source(in);
    sink = fd_sink(fds[1]);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(fcntl(i < 2 ? fds[i] : in, F_GETFL), ==, flags[i]);
        CHECK_INT(fcntl(i < 2 ? fds[i] : in, F_GETFD), ==, descriptor_flags[i]);
    }
    close(fds[0]);
    close(fds[1]);
    close(in);
}

/* A descriptor that was passed in is still open, whether the call succeeds or fails. */
static void descriptors_stay_open(void)
{
    const int fd = file_new("file");
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;

    file_fill(fd, 0, 4, 1);
    sparsestream_source_free(fd_source(fd));
    sparsestream_sink_free(fd_sink(fd));
    CHECK_CODE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.flags = 1u << 20), &source),
               -EINVAL);
    CHECK_CODE(sparsestream_source_from_fd(fd, SOURCE_OPTIONS(.offset = 5), &source), -EINVAL);
    CHECK_CODE(sparsestream_sink_to_fd(fd, SINK_OPTIONS(.flags = 1u << 20), &sink), -EINVAL);
    CHECK_CODE(sparsestream_source_from_fd(fd, NULL, NULL), -EINVAL);
    CHECK_CODE(sparsestream_sink_to_fd(fd, NULL, NULL), -EINVAL);
    CHECK_INT(fcntl(fd, F_GETFD), >=, 0);
    close(fd);
}

/* The message names side and operation, and the errno in the system's words. */
static void messages_say_what_why_and_where(void)
{
    struct sparsestream_source *source = NULL;
    struct end to = { .fault_letter = 'w', .fault_call = 2, .fault = -ENOSPC };
    const int fd = file_new("file");

    file_fill(fd, 0, 100000, 1);
    CHECK_CODE(sparsestream_holes_supported(-1), -EBADF);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));
    source = fd_source(fd);
    CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &to,
                                     TRANSFER_OPTIONS(.buffer_size = 4096), NULL), -ENOSPC);
    CHECK_CONTAINS(sparsestream_last_error(), "sink");
    CHECK_CONTAINS(sparsestream_last_error(), "write");
    CHECK_CONTAINS(sparsestream_last_error(), "4096");
    CHECK_CONTAINS(sparsestream_last_error(), strerror(ENOSPC));
    sparsestream_source_free(source);
    close(fd);
}

/* An option that the kind of descriptor does not allow is named, with its value and the value allowed. */
static void messages_name_the_option_that_is_refused(void)
{
    const struct sparsestream_source_options from = { .size = sizeof(from), .offset = 4096 };
    const struct sparsestream_sink_options sync = { .size = sizeof(sync), .flags = SPARSESTREAM_SYNC };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    int pipe_fds[2];

    REQUIRE(pipe2(pipe_fds, O_CLOEXEC) == 0);
    CHECK_CODE(sparsestream_source_from_fd(pipe_fds[0], &from, &source), -ESPIPE);
    CHECK_CONTAINS(sparsestream_last_error(), "source: open: options.offset is 4096, but must be 0 for a pipe");
    CHECK_CODE(sparsestream_sink_to_fd(pipe_fds[1], &sync, &sink), -ESPIPE);
    CHECK_CONTAINS(sparsestream_last_error(), "SPARSESTREAM_SYNC is 2, but must be 0 for a pipe");
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* A child made by fork continues with what it inherited: there is no lock and no thread to lose. */
static void a_forked_child_may_continue(void)
{
    const int in = file_new("in"), out = file_new("out");
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    int status = 0;
    pid_t child;

    sample(in);
    source = fd_source(in);
    sink = fd_sink(out);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(transfer, 4096), 1);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        const int code = sparsestream_transfer_run(transfer, 0);

        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        _exit(code == 0 ? 0 : 1);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_INT(status, ==, 0);
    CHECK_INT(file_differs(in, 0, out, 0, file_size(in)), ==, -1);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(in);
    close(out);
}

struct worker {
    pthread_t thread;
    int number;
};

static void *work(void *opaque)
{
    struct worker *worker = opaque;
    char in_name[16], out_name[16];
    int in, out;

    snprintf(in_name, sizeof in_name, "in%d", worker->number);
    snprintf(out_name, sizeof out_name, "out%d", worker->number);
    in = file_new(in_name);
    out = file_new(out_name);
    sample(in);
    for (int i = 0; i < 50; i++) {
        struct sparsestream_source *source = fd_source(in);
        struct sparsestream_sink *sink = fd_sink(out);
        struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL);

        CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        CHECK_CODE(sparsestream_holes_supported(-1 - worker->number), -EBADF);
        CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));
    }
    CHECK_INT(file_differs(in, 0, out, 0, file_size(in)), ==, -1);
    close(in);
    close(out);
    return NULL;
}

/* Handles have no state in common: threads with their own need no lock. */
static void threads_do_not_meet(void)
{
    struct worker workers[8];

    for (int i = 0; i < 8; i++) {
        workers[i].number = i;
        REQUIRE((errno = pthread_create(&workers[i].thread, NULL, work, &workers[i])) == 0);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(workers[i].thread, NULL);
}

/* A transfer takes its buffer and not more, however many there are one after the other. */
static void memory_does_not_grow(void)
{
    const int in = file_new("in"), out = file_new("out");
    struct rusage usage;
    long first = 0;

    if (harness_slowness() != 1)
        skip("the memory of an instrumented program is not the library's");
    sample(in);
    for (int i = 0; i < 400; i++) {
        struct sparsestream_source *source = fd_source(in);
        struct sparsestream_sink *sink = fd_sink(out);
        struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL);

        CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        REQUIRE(getrusage(RUSAGE_SELF, &usage) == 0);
        if (i == 50)
            first = usage.ru_maxrss;
    }
    CHECK_INT(usage.ru_maxrss - first, <, 512);
    close(in);
    close(out);
}

TESTS(
    CASE(nothing_of_its_own_while_it_works),
    CASE(no_descriptor_is_needed),
    CASE(posix_locks_are_kept),
    CASE(positions_are_kept),
    CASE(positions_are_kept_by_hand),
    CASE(flags_of_descriptors_are_kept),
    CASE(descriptors_stay_open),
    CASE(messages_say_what_why_and_where),
    CASE(messages_name_the_option_that_is_refused),
    CASE(a_forked_child_may_continue),
    CASE(threads_do_not_meet),
    CASE(memory_does_not_grow),
)
