/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Requests of files that the kernel answers late, by a FUSE server that delays them: the transfer is freed or cancelled,
 * the process forks, or the thread that submitted them exits, while they are in flight.
 *
 * The kernel writes into the memory of a read when the answer comes. Built with AddressSanitizer, freed memory is kept
 * aside: a checksum of each large block is taken when it is freed, and compared after all answers have come.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "fixtures.h"
#include "fuse-server.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE 65536
#define SIZE (24 * PIECE)
#define DELAY_MS 300

/* Freed memory */

#if defined(__SANITIZE_ADDRESS__)
/* From sanitizer/allocator_interface.h, which Debian's gcc does not install. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));
size_t __sanitizer_get_allocated_size(const volatile void *memory);

enum { BLOCKS = 64, LEAST = 100000, HEAD = 4096 };

static struct {
    const unsigned char *start;
    size_t length;
    uint64_t sum;
} freed[BLOCKS];
static size_t freed_count;

/* It reads what AddressSanitizer forbids to read. */
__attribute__((no_sanitize("address"), noinline)) static uint64_t sum_of(const unsigned char *start, size_t length)
{
    uint64_t sum = 14695981039346656037u;

    for (size_t i = 0; i < length; i++)
        sum = (sum ^ start[i]) * 1099511628211u;
    return sum;
}

static void on_free(const volatile void *memory)
{
    const unsigned char *start = (const unsigned char *)memory;
    size_t length = start == NULL ? 0 : __sanitizer_get_allocated_size(start);

    if (length < LEAST || freed_count == BLOCKS)
        return;
    /* AddressSanitizer itself writes to the start of a freed block. */
    start += HEAD;
    length -= HEAD;
    freed[freed_count].start = start;
    freed[freed_count].length = length;
    freed[freed_count++].sum = sum_of(start, length);
}

static void on_malloc(const volatile void *memory, size_t length)
{
    /* A block that is used again may change. */
    for (size_t i = 0; i < freed_count; i++)
        if ((const unsigned char *)memory < freed[i].start + freed[i].length
            && freed[i].start < (const unsigned char *)memory + length)
            freed[i] = freed[--freed_count];
}

static void watch_freed_memory(void)
{
    static int installed;

    freed_count = 0;
    if (!installed)
        installed = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    REQUIRE(installed > 0);
}

static void check_freed_memory(void)
{
    usleep((DELAY_MS + 100) * 1000);
    CHECK_INT(freed_count, >, 0);
    for (size_t i = 0; i < freed_count; i++)
        CHECK(sum_of(freed[i].start, freed[i].length) == freed[i].sum);
}
#else
static void watch_freed_memory(void)
{
}

static void check_freed_memory(void)
{
}
#endif

/* A file of a slow server, and a plain one */

static const struct fuse_rule slow[] = {
    { FUSE_ON_READ, 0, FUSE_DELAY, DELAY_MS },
    { FUSE_ON_WRITE, 0, FUSE_DELAY, DELAY_MS },
};
static const struct fuse_rule rather_slow[] = {
    { FUSE_ON_READ, 0, FUSE_DELAY, 20 },
    { FUSE_ON_WRITE, 0, FUSE_DELAY, 20 },
};

struct course {
    struct fixture fixture;
    int slow_fd, plain_fd;
    bool reads; /* the slow one is the source */
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
};

static void begin(struct course *course, bool reads, const struct fuse_rule *rules)
{
    struct sparsestream_transfer_options options = { .size = sizeof options, .request_size = PIECE, .depth = 8 };
    char reason[256];
    int error = fixtures_enter(reason, sizeof(reason));

    memset(course, 0, sizeof(*course));
    if (error == FIXTURE_ABSENT)
        skip("%s", reason);
    REQUIRE(error == 0);
    error = fixture_open("fuse", NULL, &course->fixture);
    if (error == FIXTURE_ABSENT)
        skip("%s", course->fixture.reason);
    REQUIRE(error == 0);
    course->reads = reads;
    course->plain_fd = file_new("plain");
    file_fill(reads ? course->fixture.server->memory : course->plain_fd, 0, SIZE, 3);
    course->slow_fd = fixture_file(&course->fixture, O_RDWR | O_DIRECT);
    if (course->slow_fd == -EINVAL)
        skip("FUSE has no O_DIRECT here");
    REQUIRE(course->slow_fd >= 0);
    course->source = fd_source(reads ? course->slow_fd : course->plain_fd);
    course->sink = fd_sink(reads ? course->plain_fd : course->slow_fd);
    REQUIRE(sparsestream_transfer_new(course->source, course->sink, &options, &course->transfer) == 0);
    fuse_server_rules(course->fixture.server, rules, 2);
}

static unsigned asked(const struct course *course)
{
    return fuse_server_count(course->fixture.server, course->reads ? FUSE_ON_READ : FUSE_ON_WRITE);
}

/* Runs it until the server has requests that it has not answered. */
static void run_until_in_flight(struct course *course)
{
    int64_t end = harness_now() + 5000;
    int code = 1;

    while (asked(course) < 2 && (code == 1 || code == -EAGAIN) && harness_now() < end) {
        code = sparsestream_transfer_run(course->transfer, 1);
        if (code == -EAGAIN)
            usleep(1000);
    }
    CHECK(code == 1 || code == -EAGAIN);
    REQUIRE(asked(course) >= 2);
}

static int run_to_its_end(struct sparsestream_transfer *transfer)
{
    int64_t end = harness_now() + 30000;
    int code;

    do {
        code = sparsestream_transfer_run(transfer, 1 << 20);
        if (code == -EAGAIN)
            usleep(1000);
    } while ((code == 1 || code == -EAGAIN) && harness_now() < end);
    return code;
}

static void free_all(struct course *course)
{
    sparsestream_transfer_free(course->transfer);
    sparsestream_source_free(course->source);
    sparsestream_sink_free(course->sink);
}

static void end(struct course *course)
{
    close(course->slow_fd);
    close(course->plain_fd);
    CHECK_INT(fixture_close(&course->fixture), ==, 0);
}

static void check_copy(const struct course *course)
{
    int server = course->fixture.server->memory;

    CHECK_INT(file_differs(course->plain_fd, 0, server, 0, SIZE), ==, -1);
    CHECK_INT(file_size(course->plain_fd), ==, SIZE);
    CHECK_INT(file_size(server), ==, SIZE);
}

/* The cases */

static void a_free_waits_for_what_the_kernel_has(void)
{
    for (int reads = 0; reads < 2; reads++) {
        struct course course;

        context("reads %d", reads);
        begin(&course, reads != 0, slow);
        run_until_in_flight(&course);
        watch_freed_memory();
        free_all(&course);
        check_freed_memory();
        end(&course);
    }
}

static void after_a_cancel_nothing_is_freed_before_everything_is_back(void)
{
    for (int reads = 0; reads < 2; reads++) {
        struct course course;

        context("reads %d", reads);
        begin(&course, reads != 0, slow);
        run_until_in_flight(&course);
        watch_freed_memory();
        CHECK_INT(sparsestream_transfer_cancel(course.transfer), ==, 0);
        CHECK_INT(sparsestream_transfer_run(course.transfer, 1), ==, -EAGAIN);
        CHECK_INT(run_to_its_end(course.transfer), ==, -ECANCELED);
        free_all(&course);
        check_freed_memory();
        end(&course);
    }
}

static void a_child_that_frees_its_copies_neither_waits_nor_disturbs(void)
{
    for (int reads = 0; reads < 2; reads++) {
        struct course course;
        int64_t begun;
        int status = 0;
        pid_t child;

        context("reads %d", reads);
        begin(&course, reads != 0, slow);
        run_until_in_flight(&course);
        begun = harness_now();
        child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            int code = sparsestream_transfer_run(course.transfer, 1);

            free_all(&course);
            _exit(code == -EBUSY ? harness_now() - begun < DELAY_MS / 2 ? 0 : 2 : 1);
        }
        fuse_server_rules(course.fixture.server, NULL, 0);
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status));
        CHECK_INT(WEXITSTATUS(status), ==, 0);
        CHECK_INT(run_to_its_end(course.transfer), ==, 0);
        check_copy(&course);
        free_all(&course);
        end(&course);
    }
}

static void *submit_and_exit(void *opaque)
{
    run_until_in_flight(opaque);
    return NULL;
}

static void another_thread_finishes_it_when_the_first_has_exited(void)
{
    for (int reads = 0; reads < 2; reads++) {
        struct course course;
        pthread_t thread;

        context("reads %d", reads);
        begin(&course, reads != 0, rather_slow);
        REQUIRE(pthread_create(&thread, NULL, submit_and_exit, &course) == 0);
        REQUIRE(pthread_join(thread, NULL) == 0);
        watch_freed_memory();
        CHECK_INT(run_to_its_end(course.transfer), ==, 0);
        check_copy(&course);
        free_all(&course);
        check_freed_memory();
        end(&course);
    }
}

static void a_thread_that_exits_may_leave_them_to_one_that_frees(void)
{
    struct course course;
    pthread_t thread;

    begin(&course, true, slow);
    REQUIRE(pthread_create(&thread, NULL, submit_and_exit, &course) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    watch_freed_memory();
    free_all(&course);
    check_freed_memory();
    end(&course);
}

static void *run_and_count(void *opaque)
{
    struct course *course = opaque;
    struct rusage usage;

    CHECK_INT(sparsestream_transfer_run(course->transfer, 0), ==, -ECANCELED);
    REQUIRE(getrusage(RUSAGE_THREAD, &usage) == 0);
    CHECK_INT((usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000,
              <, DELAY_MS / 3);
    return NULL;
}

static void a_run_that_was_cancelled_waits_for_them_without_spinning(void)
{
    for (int reads = 0; reads < 2; reads++) {
        struct course course;
        pthread_t thread;
        int64_t begun;

        context("reads %d", reads);
        begin(&course, reads != 0, slow);
        REQUIRE(pthread_create(&thread, NULL, run_and_count, &course) == 0);
        begun = harness_now();
        while (asked(&course) < 2 && harness_now() < begun + 5000)
            usleep(1000);
        /* It waits by now, in the way of long waits. */
        usleep(DELAY_MS * 1000 / 4);
        begun = harness_now();
        CHECK_INT(sparsestream_transfer_cancel(course.transfer), ==, 0);
        REQUIRE(pthread_join(thread, NULL) == 0);
        CHECK_INT(harness_now() - begun, >, DELAY_MS / 4);
        free_all(&course);
        end(&course);
    }
}

TESTS(CASE(a_free_waits_for_what_the_kernel_has),
      CASE(after_a_cancel_nothing_is_freed_before_everything_is_back),
      CASE(a_run_that_was_cancelled_waits_for_them_without_spinning),
      CASE(a_child_that_frees_its_copies_neither_waits_nor_disturbs),
      CASE(another_thread_finishes_it_when_the_first_has_exited),
      CASE(a_thread_that_exits_may_leave_them_to_one_that_frees))
