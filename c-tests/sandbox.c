/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sandboxed runs: every system call that the library makes is denied by seccomp, one after the other, with each
 * errno that launchers use for what they do not know. The result must be the right bytes or a clear error, and
 * no run may spin.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "loopdev.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_NUMBERS 6
#define RUN_SECONDS 10
#define RUN_CPU_MS 400

/* Calls that stand for one another in a C library, or that a launcher does not know together. */
struct denied {
    const char *name;
    /* Ends with END. */
    long numbers[MOST_NUMBERS + 1];
};

#define DENIED(name, ...) { name, { __VA_ARGS__, END } }
#define END (-1)
/* Newer machines have one call each. */
#ifdef SYS_getrlimit
#define OLD_GETRLIMIT SYS_getrlimit
#else
#define OLD_GETRLIMIT SYS_prlimit64
#endif
#ifdef SYS_poll
#define OLD_POLL SYS_poll
#else
#define OLD_POLL SYS_ppoll
#endif

/* Machines of 32 bits have calls of their own for offsets and times of 64 bits. */
#if __SIZEOF_LONG__ == 4
#define LARGE(name) SYS_##name##64
#define LARGE_STAT SYS_fstatat64
#define LARGE_SEEK SYS__llseek
#ifdef SYS_fadvise64_64
#define LARGE_ADVICE SYS_fadvise64_64
#else
#define LARGE_ADVICE SYS_arm_fadvise64_64
#endif
#define LARGE_POLL SYS_ppoll_time64
#define LARGE_SIGNAL_WAIT SYS_rt_sigtimedwait_time64
#else
#define LARGE(name) SYS_##name
#define LARGE_STAT SYS_newfstatat
#define LARGE_SEEK SYS_lseek
#define LARGE_ADVICE SYS_fadvise64
#define LARGE_POLL SYS_ppoll
#define LARGE_SIGNAL_WAIT SYS_rt_sigtimedwait
#endif

static const struct denied denied_calls[] = {
    DENIED("fstat", LARGE(fstat), LARGE_STAT, SYS_statx),
    DENIED("statx", SYS_statx),
    DENIED("fstatfs", LARGE(fstatfs)),
    DENIED("fcntl", LARGE(fcntl)),
    DENIED("getsockopt", SYS_getsockopt),
    DENIED("getrlimit", SYS_prlimit64, OLD_GETRLIMIT),
    DENIED("ioctl", SYS_ioctl),
    DENIED("lseek", SYS_lseek, LARGE_SEEK),
    DENIED("pread", SYS_pread64),
    DENIED("preadv", SYS_preadv),
    DENIED("preadv2", SYS_preadv2),
    DENIED("pwrite", SYS_pwrite64),
    DENIED("pwritev", SYS_pwritev),
    DENIED("pwritev2", SYS_pwritev2),
    DENIED("read", SYS_read, SYS_readv),
    DENIED("write", SYS_write, SYS_writev),
    DENIED("recvmsg", SYS_recvmsg),
    DENIED("sendmsg", SYS_sendmsg),
    DENIED("fadvise", LARGE_ADVICE),
    DENIED("copy_file_range", SYS_copy_file_range),
    DENIED("sendfile", LARGE(sendfile)),
    DENIED("splice", SYS_splice),
    DENIED("pipe2", SYS_pipe2),
    DENIED("fallocate", SYS_fallocate),
    DENIED("ftruncate", LARGE(ftruncate)),
    DENIED("fsync", SYS_fsync),
    DENIED("fdatasync", SYS_fdatasync),
#ifdef SYS_sync_file_range
    DENIED("sync_file_range", SYS_sync_file_range),
#endif
    DENIED("poll", OLD_POLL, SYS_ppoll, LARGE_POLL),
    DENIED("signals", SYS_rt_sigprocmask, SYS_rt_sigpending, SYS_rt_sigtimedwait,
           LARGE_SIGNAL_WAIT),
    DENIED("getrandom", SYS_getrandom),
    DENIED("io_uring", SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register),
    DENIED("io_uring_enter", SYS_io_uring_enter),
    DENIED("io_uring_register", SYS_io_uring_register),
    DENIED("all that is new", SYS_statx, SYS_preadv2, SYS_pwritev2, SYS_copy_file_range, SYS_getrandom),
};

static const int denied_errors[] = { ENOSYS, EPERM, EACCES, EINVAL, EOPNOTSUPP };

static void deny(const struct denied *denied, int error)
{
    struct sock_filter filter[MOST_NUMBERS + 4];
    struct sock_fprog program = { .filter = filter };
    unsigned count = 0, numbers = 0;

    while (denied->numbers[numbers] != END)
        numbers++;
    filter[count++] = (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                                    offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < numbers; i++) {
        filter[count++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                                        (unsigned) denied->numbers[i],
                                                        numbers - i, 0);
    }
    filter[count++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[count++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K,
                                                    SECCOMP_RET_ERRNO | (unsigned) error);
    program.len = (unsigned short) count;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(77);
}

/* The result that the sandboxed process reports in the end. */
struct result {
    bool done;
    int code;
    char message[300];
};

static struct result *result;

/* The image that all move. */
static const struct piece image[] = {
    DATA(70011), HOLE(200000), DATA(5), HOLE(130000), DATA(65536), HOLE(300007),
};
#define IMAGE_SIZE (70011 + 200000 + 5 + 130000 + 65536 + 300007)
#define OLD_SIZE (IMAGE_SIZE + 100000)

struct scenario {
    const char *name;
    /* Makes the descriptors; runs before anything is denied. False: there is no such thing here. */
    bool (*begin)(void);
    /* In the sandbox. Returns a code of the library. */
    int (*run)(void);
    /* Another process at the other end of a pipe or socket, which is free; NULL: none. */
    int (*other)(void);
    /* Compares, after a success. */
    void (*check)(void);
    /* A call without which this one cannot be done. */
    const char *needs;
};

static int from, to, peer;

static int image_file(const char *name)
{
    const int fd = file_new(name);

    file_lay_out(fd, 0, image, COUNT(image), 1);
    file_resize(fd, IMAGE_SIZE);
    return fd;
}

static int old_file(const char *name)
{
    const int fd = file_new(name);

    file_fill(fd, 0, OLD_SIZE, 2);
    return fd;
}

static int move(struct sparsestream_source *source, struct sparsestream_sink *sink, bool detect)
{
    struct sparsestream_transfer *transfer = NULL;
    int code = sparsestream_transfer_new(source, sink,
                                         TRANSFER_OPTIONS(.flags = detect ? SPARSESTREAM_DETECT_ZEROES : 0),
                                         &transfer);

    if (code == 0)
        code = sparsestream_transfer_run(transfer, 0);
    /* Before the handles are freed: that may change the message. */
    snprintf(result->message, sizeof result->message, "%s", sparsestream_last_error());
    sparsestream_transfer_free(transfer);
    return code;
}

static int copy(bool sync, bool detect)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    int code = sparsestream_source_from_fd(from, NULL, &source);

    if (code == 0)
        code = sparsestream_sink_to_fd(to, SINK_OPTIONS(.flags = sync ? SPARSESTREAM_SYNC : 0), &sink);
    if (code == 0)
        code = move(source, sink, detect);
    else
        snprintf(result->message, sizeof result->message, "%s", sparsestream_last_error());
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

/* A file to a file with old content. */

static bool begin_files(void)
{
    from = image_file("from");
    to = old_file("to");
    return true;
}

static int run_files(void)
{
    return copy(true, false);
}

static int run_files_detecting(void)
{
    return copy(false, true);
}

static void check_target(void)
{
    CHECK_INT(file_differs(from, 0, to, 0, IMAGE_SIZE), ==, -1);
    CHECK_INT(file_differs_from_pattern(to, IMAGE_SIZE, OLD_SIZE - IMAGE_SIZE, 2, 0), ==, -1);
    CHECK_INT(file_size(to), ==, OLD_SIZE);
}

/* A file to a new file, which holes make longer. */

static bool begin_new_file(void)
{
    from = image_file("from");
    to = file_new("to");
    return true;
}

static void check_new_file(void)
{
    CHECK_INT(file_size(to), ==, IMAGE_SIZE);
    CHECK_INT(file_differs(from, 0, to, 0, IMAGE_SIZE), ==, -1);
}

/* Through a pipe or a socket, whose other end takes its time. */

static void pause_ms(long ms)
{
    const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

    nanosleep(&time, NULL);
}

static int feed_slowly(void)
{
    char buffer[65536];
    int64_t at = 0;

    while (at < IMAGE_SIZE) {
        const ssize_t count = pread(from, buffer, sizeof buffer, at);

        /* Twice, the library has to wait. */
        if (at == 0 || at == 131072)
            pause_ms(4);
        for (ssize_t done = 0; done < count;) {
            const ssize_t written = write(peer, buffer + done, (size_t) (count - done));

            if (written < 0)
                return 0;
            done += written;
        }
        at += count;
    }
    return 0;
}

static int take_slowly(void)
{
    char buffer[16384];
    ssize_t count;
    int64_t at = 0;

    while ((count = read(peer, buffer, sizeof buffer)) > 0) {
        if (pwrite(to, buffer, (size_t) count, at) != count)
            return 1;
        at += count;
        if (at < 3 * (int64_t) sizeof buffer)
            pause_ms(2);
    }
    return 0;
}

static bool ends_of(bool socket, bool reads)
{
    int ends[2];

    if (socket)
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    else
        REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    peer = ends[reads ? 1 : 0];
    return dup2(ends[reads ? 0 : 1], 100) == 100 && close(ends[reads ? 0 : 1]) == 0;
}

static bool begin_from(bool socket)
{
    from = image_file("from");
    to = old_file("to");
    return ends_of(socket, true);
}

static bool begin_from_pipe(void)
{
    return begin_from(false);
}

static bool begin_from_socket(void)
{
    return begin_from(true);
}

static bool begin_into(bool socket)
{
    from = image_file("from");
    to = file_new("to");
    return ends_of(socket, false);
}

static bool begin_into_pipe(void)
{
    return begin_into(false);
}

static bool begin_into_socket(void)
{
    return begin_into(true);
}

static int run_from(void)
{
    from = 100;
    return copy(false, false);
}

static int run_into(void)
{
    to = 100;
    return copy(false, false);
}

/* Over the wire, to and from a process that is free. */

static bool begin_wire(bool reads)
{
    from = image_file("from");
    to = reads ? old_file("to") : file_new("to");
    return ends_of(true, reads);
}

static bool begin_wire_out(void)
{
    return begin_wire(false);
}

static bool begin_wire_in(void)
{
    return begin_wire(true);
}

static int send_image(int fd)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    int code = sparsestream_source_from_fd(from, NULL, &source);

    if (code == 0)
        code = sparsestream_sink_to_wire(fd, fd, NULL, &sink);
    if (code == 0)
        code = move(source, sink, false);
    else
        snprintf(result->message, sizeof result->message, "%s", sparsestream_last_error());
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

static int take_image(int fd)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    int code = sparsestream_source_from_wire(fd, fd, NULL, &source);

    if (code == 0)
        code = sparsestream_sink_to_fd(to, NULL, &sink);
    if (code == 0)
        code = move(source, sink, false);
    else
        snprintf(result->message, sizeof result->message, "%s", sparsestream_last_error());
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

static int run_wire_out(void)
{
    return send_image(100);
}

static int run_wire_in(void)
{
    return take_image(100);
}

static int other_wire_out(void)
{
    struct result unused = { .done = false };

    result = &unused;
    take_image(peer);
    return 0;
}

static int other_wire_in(void)
{
    struct result unused = { .done = false };

    result = &unused;
    send_image(peer);
    return 0;
}

/* Questions. */

static int run_questions(void)
{
    struct sparsestream_section section = { .size = sizeof section };
    int64_t at = 0;
    int code = 0;

    while (at < IMAGE_SIZE) {
        code = sparsestream_section_at(from, at, &section);
        if (code < 0)
            break;
        /* A hole that is called data costs time; data that is called a hole costs data. */
        if (section.length <= 0)
            return -ERANGE;
        if (section.kind == SPARSESTREAM_HOLE && file_not_zero(from, at, section.length) != -1)
            return -ERANGE;
        at += section.length;
    }
    snprintf(result->message, sizeof result->message, "%s", sparsestream_last_error());
    return code;
}

static void check_nothing(void)
{
}

/* Devices. */

static bool begin_device(void)
{
    int backing;

    if (geteuid() != 0 || access("/dev/loop-control", R_OK | W_OK) != 0)
        return false;
    from = image_file("from");
    backing = file_new("backing");
    file_fill(backing, 0, (OLD_SIZE + 511) / 512 * 512, 2);
    to = loop_device(backing);
    close(backing);
    return true;
}

static void check_device(void)
{
    char buffer[4096], expected[4096];

    for (int64_t at = 0; at < IMAGE_SIZE; at += (int64_t) sizeof buffer) {
        const ssize_t count = pread(from, expected, sizeof expected, at);

        REQUIRE(count > 0 && pread(to, buffer, (size_t) count, at) == count);
        CHECK_BYTES(buffer, expected, (size_t) count);
    }
}

/* Past the page cache, with several requests under way. */

static bool direct(int fd)
{
    const int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
}

static bool begin_direct_files(void)
{
    return begin_files() && direct(from) && direct(to);
}

static bool begin_direct_new_file(void)
{
    return begin_new_file() && direct(from) && direct(to);
}

static int run_direct_files(void)
{
    return copy(false, false);
}

/* The comparison reads anything into any memory. */
static void through_the_cache(void)
{
    REQUIRE(fcntl(from, F_SETFL, 0) == 0 && fcntl(to, F_SETFL, 0) == 0);
}

static void check_direct_target(void)
{
    through_the_cache();
    check_target();
}

static void check_direct_new_file(void)
{
    through_the_cache();
    check_new_file();
}

static const struct scenario scenarios[] = {
    { "files", begin_files, run_files, NULL, check_target, NULL },
    { "files, zeros detected", begin_files, run_files_detecting, NULL, check_target, NULL },
    { "a new file", begin_new_file, run_files_detecting, NULL, check_new_file, NULL },
    { "from a pipe", begin_from_pipe, run_from, feed_slowly, check_target, NULL },
    { "from a socket", begin_from_socket, run_from, feed_slowly, check_target, NULL },
    { "into a pipe", begin_into_pipe, run_into, take_slowly, check_new_file, NULL },
    { "into a socket", begin_into_socket, run_into, take_slowly, check_new_file, NULL },
    { "wire out", begin_wire_out, run_wire_out, other_wire_out, check_new_file, NULL },
    { "wire in", begin_wire_in, run_wire_in, other_wire_in, check_target, NULL },
    { "questions", begin_files, run_questions, NULL, check_nothing, NULL },
    { "a device", begin_device, run_files, NULL, check_device, NULL },
    { "direct files", begin_direct_files, run_direct_files, NULL, check_direct_target, NULL },
    { "a direct new file", begin_direct_new_file, run_files_detecting, NULL, check_direct_new_file,
      /* Only whole blocks can be written, and the size is not a multiple of them. */
      "ftruncate" },
};

static pid_t start_other(const struct scenario *scenario)
{
    const pid_t other = fork();

    REQUIRE(other >= 0);
    if (other == 0) {
        signal(SIGPIPE, SIG_IGN);
        close(100);
        alarm(RUN_SECONDS);
        _exit(scenario->other());
    }
    return other;
}

static bool run_denied(const struct scenario *scenario, const struct denied *denied, int error)
{
    struct rusage usage;
    pid_t child, other = 0;
    int status = 0;
    long cpu_ms;

    memset(result, 0, sizeof *result);
    peer = -1;
    if (!scenario->begin())
        return false;
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (peer >= 0)
            close(peer);
        alarm(RUN_SECONDS);
        if (denied != NULL)
            deny(denied, error);
        result->code = scenario->run();
        result->done = true;
        _exit(0);
    }
    if (scenario->other != NULL)
        other = start_other(scenario);
    if (peer >= 0) {
        close(peer);
        close(100);
    }
    REQUIRE(wait4(child, &status, 0, &usage) == child);
    if (other > 0)
        REQUIRE(waitpid(other, NULL, 0) == other);
    cpu_ms = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip("this system has no seccomp filters");
    CHECK_INT(status, ==, 0);
    CHECK_INT(cpu_ms, <, RUN_CPU_MS * harness_slowness());
    CHECK(result->done || status != 0);
    if (status == 0 && result->code == 0)
        scenario->check();
    else if (status == 0) {
        CHECK_INT(result->code, <, 0);
        CHECK_INT(result->code, !=, -ENOTRECOVERABLE);
        CHECK_INT(result->code, !=, -ERANGE);
        CHECK_CONTAINS(result->message, ": ");
        if (getenv("SPARSESTREAM_TEST_VERBOSE") != NULL)
            dprintf(2, "# %s without %s (%s): %s\n", scenario->name, denied != NULL ? denied->name : "nothing",
                    harness_errno_name(error), result->message);
    }
    close(from);
    close(to);
    return true;
}

static void make_result(void)
{
    result = mmap(NULL, sizeof *result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(result != MAP_FAILED);
}

/* Without these calls the work is done in another way, whichever errno says that they are not known. */
static bool has_another_way(const struct denied *denied)
{
    static const char *const names[] = {
#if __SIZEOF_LONG__ == 8
        /* With 32 bits, fstat(3) of glibc is this call, and has another way for ENOSYS only. */
        "statx", "all that is new",
#endif
        "fstatfs", "preadv", "preadv2", "pwritev2", "recvmsg", "sendmsg", "fadvise", "copy_file_range",
        "sendfile", "splice", "pipe2", "ioctl", "fallocate", "ftruncate", "fdatasync", "poll",
        "getrandom", "sync_file_range",
        "io_uring", "io_uring_enter", "io_uring_register",
    };

    for (size_t i = 0; i < COUNT(names); i++) {
        if (strcmp(denied->name, names[i]) == 0)
            return true;
    }
    return false;
}

static bool needs(const struct scenario *scenario, const struct denied *denied)
{
    return scenario->needs != NULL && strcmp(scenario->needs, denied->name) == 0;
}

static void deny_all(size_t first, size_t last)
{
    make_result();
    for (size_t i = first; i <= last; i++) {
        context("%s", scenarios[i].name);
        if (!run_denied(&scenarios[i], NULL, 0))
            continue;
        CHECK_INT(result->code, ==, 0);
        for (size_t j = 0; j < COUNT(denied_calls); j++) {
            for (size_t k = 0; k < COUNT(denied_errors); k++) {
                context("%s without %s: %s", scenarios[i].name, denied_calls[j].name,
                        harness_errno_name(denied_errors[k]));
                run_denied(&scenarios[i], &denied_calls[j], denied_errors[k]);
                if (has_another_way(&denied_calls[j]) && !needs(&scenarios[i], &denied_calls[j]))
                    CHECK_INT(result->code, ==, 0);
            }
        }
    }
    munmap(result, sizeof *result);
}

static void calls_between_files(void)
{
    deny_all(0, 2);
}

static void calls_of_streams(void)
{
    deny_all(3, 6);
}

static void calls_of_the_wire(void)
{
    deny_all(7, 8);
}

static void calls_of_questions(void)
{
    deny_all(9, 9);
}

static void calls_of_a_device(void)
{
    deny_all(10, 10);
}

static void calls_of_direct_files(void)
{
    deny_all(11, 12);
}

TESTS(
    CASE_WITHIN(calls_between_files, 60),
    CASE_WITHIN(calls_of_streams, 60),
    CASE_WITHIN(calls_of_the_wire, 60),
    CASE_WITHIN(calls_of_questions, 30),
    CASE_WITHIN(calls_of_a_device, 30),
    CASE_WITHIN(calls_of_direct_files, 60),
)
