/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Hazards of limits, locks, flags and peers. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEP_MS 100
#define MOST_STEPS 2000
#define MOST_MEMORY (8 * MIB)

static const struct content small[] = {
    {CONTENT_DATA, 4096}, {CONTENT_HOLE, 8192}, {CONTENT_DATA, 4096}};

static void expect_size(int fd, int64_t most)
{
    struct stat status;

    need(fstat(fd, &status) == 0, "fstat");
    if (status.st_size > most) {
        fail("the size is %lld, more than %lld", (long long)status.st_size, (long long)most);
    }
}

static void message_makes_giant(const struct implementation *implementation)
{
    static const struct content giant[] = {{CONTENT_HOLE, 16 * TIB}};
    int sink = need_memory();
    struct outcome outcome;

    implementation->receive(giant, 1, &(struct request){.sink = sink, .sink_limit = 64 * MIB},
                            &outcome);
    expect_size(sink, 64 * MIB);
    expect_result(&outcome, -EFBIG);
}

static void file_size_limit(const struct implementation *implementation)
{
    static const struct content large[] = {{CONTENT_DATA, 64 * KIB}, {CONTENT_HOLE, 10 * MIB}};
    const struct rlimit limit = {MIB, MIB};
    struct fixture *fixture = need_fixture("tmpfs", NULL);
    int sink = need_file(fixture);
    struct outcome outcome;

    signal(SIGXFSZ, SIG_DFL);
    need(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
    implementation->receive(large, 2, &(struct request){.sink = sink}, &outcome);
    expect_result(&outcome, -EFBIG);
    expect_size(sink, MIB);
}

/* Does another process find the file locked by this one? */
static bool locked(int fd)
{
    int status = 0;
    pid_t pid = fork();

    need(pid >= 0, "fork");
    if (pid == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

        _exit(fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK ? 0 : 1);
    }
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    return status == 0;
}

static void locks_dropped(const struct implementation *implementation)
{
    struct fixture *fixture = need_fixture("tmpfs", NULL);
    int source = need_file(fixture);
    int sink = need_memory();
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct outcome outcome;

    need(content_write(source, 0, small, 3) == 0, "writing the source");
    need(fcntl(source, F_SETLK, &lock) == 0 && fcntl(sink, F_SETLK, &lock) == 0, "locking");
    need(locked(source) && locked(sink), "locking");
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, 0);
    expect_content(sink, small, 3);
    if (!locked(source) || !locked(sink)) {
        fail("the process has lost its lock on the %s", locked(source) ? "sink" : "source");
    }
}

static void sealed_sink(const struct implementation *implementation)
{
    static const struct content old[] = {{CONTENT_OLD, 64 * KIB}};
    static const struct content data[] = {{CONTENT_DATA, 4096}};
    int source = need_source(data, 1);
    int sink = need_source(old, 1);
    struct outcome outcome;

    need(fcntl(sink, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) == 0, "sealing");
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, -EPERM);
    expect_content(sink, old, 1);
}

static void append_sink(const struct implementation *implementation)
{
    static const struct content old[] = {{CONTENT_OLD, 64 * KIB}};
    struct fixture *fixture = need_fixture("tmpfs", NULL);
    int source = need_source(small, 3);
    int sink = need_file(fixture);
    struct outcome outcome;

    need(content_write(sink, 0, old, 1) == 0, "writing the old content");
    need(fcntl(sink, F_SETFL, O_APPEND) == 0, "O_APPEND");
    implementation->copy(&(struct request){.source = source, .sink = sink}, &outcome);
    expect_result(&outcome, 0);
    expect_size(sink, 64 * KIB + 16384);
    expect_part(sink, 0, old, 1);
    expect_part(sink, 64 * KIB, small, 3);
}

static void hole_to_pipe(const struct implementation *implementation)
{
    int source = need_source(small, 3);
    char buffer[65536];
    struct outcome outcome;
    ssize_t count;
    char why[200];
    int ends[2];

    /* The whole stream fits into the pipe. */
    need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    implementation->copy(&(struct request){.source = source, .sink = ends[1]}, &outcome);
    expect_result(&outcome, 0);
    count = read(ends[0], buffer, sizeof(buffer));
    if (count != content_length(small, 3)) {
        fail("%zd bytes came instead of %lld", count, (long long)content_length(small, 3));
    }
    if (!content_matches_memory(buffer, (size_t)count, 0, small, 3, why, sizeof(why))) {
        fail("%s", why);
    }
}

/* Reads 64 KiB every 20 ms into the file. */
static pid_t start_slow_reader(int from, int other, int file)
{
    pid_t pid = fork();

    need(pid >= 0, "fork");
    if (pid == 0) {
        char buffer[65536];
        off_t offset = 0;
        ssize_t count;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(other);
        while ((count = recv(from, buffer, sizeof(buffer), 0)) > 0) {
            if (pwrite(file, buffer, (size_t)count, offset) != count) {
                _exit(1);
            }
            offset += count;
            fixture_sleep_ms(20);
        }
        _exit(count == 0 ? 0 : 1);
    }
    return pid;
}

static int64_t memory_peak(void)
{
    struct rusage usage;

    need(getrusage(RUSAGE_SELF, &usage) == 0, "getrusage");
    return (int64_t)usage.ru_maxrss * 1024;
}

static void slow_peer(const struct implementation *implementation)
{
    static const struct content pieces[] = {{CONTENT_DATA, 6 * MIB}};
    int source = need_source(pieces, 1);
    int arrived = need_memory();
    int64_t longest = 0;
    int64_t before;
    unsigned steps = 0;
    int result;
    int ends[2];
    int status = 0;
    pid_t reader;
    void *state;

    need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
    need(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0, "O_NONBLOCK");
    reader = start_slow_reader(ends[0], ends[1], arrived);
    close(ends[0]);
    before = memory_peak();
    state = implementation->start(&(struct request){.source = source, .sink = ends[1]}, &result);
    if (state == NULL) {
        fail("it does not start: %s", strerror(-result));
    }
    do {
        struct pollfd wait = {.fd = -1};
        int timeout = -1;
        int64_t begun = suite_now_ms();

        result = implementation->step(state, &wait, &timeout);
        if (suite_now_ms() - begun > longest) {
            longest = suite_now_ms() - begun;
        }
        steps++;
        if (result == -EAGAIN) {
            poll(&wait, 1, timeout);
        }
    } while ((result == 1 || result == -EAGAIN) && steps <= MOST_STEPS);
    implementation->end(state);
    close(ends[1]);
    if (steps > MOST_STEPS) {
        fail("it spins: %u steps are not enough", steps);
    }
    if (result != 0) {
        fail("the result is %s", strerrorname_np(-result));
    }
    if (memory_peak() - before > MOST_MEMORY) {
        fail("it takes %lld bytes of memory", (long long)(memory_peak() - before));
    }
    need(waitpid(reader, &status, 0) == reader && status == 0, "reading slowly");
    expect_content(arrived, pieces, 1);
    if (longest > STEP_MS) {
        fail("one step took %lld ms", (long long)longest);
    }
}

static const struct hazard hazards[] = {
    {"message-makes-giant", "one message makes a file of 16 TiB", message_makes_giant, true},
    {"file-size-limit", "a hole beyond RLIMIT_FSIZE kills the process", file_size_limit, true},
    {"locks-dropped", "the process loses its POSIX locks", locks_dropped, true},
    {"sealed-sink", "nothing can be written into a sealed memfd: success", sealed_sink, true},
    {"append-sink", "holes of a file that is appended to are lost", append_sink, false},
    {"hole-to-pipe", "a hole cannot be made in a pipe", hole_to_pipe, true},
    {"slow-peer-blocks", "a non-blocking caller is held up by a slow peer", slow_peer, true},
};

const struct hazard_list hazards_of_limits = HAZARD_LIST(hazards);
