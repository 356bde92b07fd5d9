/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CASE_SECONDS 10
#define LEAST_CAUGHT 12

enum verdict { PASS, FAIL, HANG, KILLED, SKIP, VERDICTS };

enum { EXIT_FAIL = 1, EXIT_SKIP = 77 };

static const char *const verdict_names[VERDICTS] = {"pass", "fail", "hang", "killed", "skip"};

struct report {
    enum verdict verdict;
    char text[400];
};

/* Where the child of a case leaves its reason; shared memory. */
static struct report *shared;

static _Noreturn void end_case(int status, const char *format, va_list arguments)
{
    vsnprintf(shared->text, sizeof(shared->text), format, arguments);
    exit(status);
}

void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    end_case(EXIT_FAIL, format, arguments);
}

void skip(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    end_case(EXIT_SKIP, format, arguments);
}

void need(bool worked, const char *what)
{
    if (!worked) {
        fail("the preparation failed: %s: %s", what, strerror(errno));
    }
}

void limit_seconds(unsigned seconds)
{
    alarm(seconds);
}

int64_t suite_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Cases that need no mount also run where mounting is not allowed. */
static void enter(void)
{
    char reason[200];
    int error = fixtures_enter(reason, sizeof(reason));

    if (error == FIXTURE_ABSENT) {
        skip("%s", reason);
    }
    if (error != 0) {
        fail("the preparation failed: %s", reason);
    }
}

struct fixture *need_fixture(const char *name, const struct fixture_options *options)
{
    struct fixture *fixture = malloc(sizeof(*fixture));
    int error;

    need(fixture != NULL, "memory");
    enter();
    error = fixture_open(name, options, fixture);
    if (error == FIXTURE_ABSENT) {
        skip("%s: %s", name, fixture->reason);
    }
    if (error != 0) {
        fail("the preparation failed: %s: %s", name, fixture->reason);
    }
    return fixture;
}

int need_file(const struct fixture *fixture)
{
    int fd = fixture_file(fixture, O_RDWR | O_CREAT);

    if (fd < 0) {
        fail("the preparation failed: %s: %s", fixture->path, strerror(-fd));
    }
    return fd;
}

int need_memory(void)
{
    int fd = memfd_create("hazard", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    need(fd >= 0, "memfd_create");
    return fd;
}

int need_source(const struct content *pieces, size_t count)
{
    int fd = need_memory();

    need(content_write(fd, 0, pieces, count) == 0, "writing the source");
    return fd;
}

struct fuse_server *need_fuse(unsigned flags, const struct content *pieces, size_t count,
                              const struct fuse_rule *rules, size_t rules_count, int *fd)
{
    struct fuse_server *server = malloc(sizeof(*server));
    char path[128];
    int error;

    need(server != NULL, "memory");
    enter();
    snprintf(path, sizeof(path), "%s/fuse", fixtures_directory());
    need(mkdir(path, 0700) == 0, path);
    error = fuse_server_start(server, path, flags);
    if (error == -ENOENT || error == -EPERM || error == -EACCES || error == -ENODEV) {
        skip("FUSE: %s", strerror(-error));
    }
    if (error != 0) {
        fail("the preparation failed: FUSE: %s", strerror(-error));
    }
    need(content_write(server->memory, 0, pieces, count) == 0, "writing the FUSE file");
    *fd = fuse_server_open(server, O_RDWR);
    if (*fd < 0) {
        fail("the preparation failed: opening the FUSE file: %s", strerror(-*fd));
    }
    fuse_server_rules(server, rules, rules_count);
    return server;
}

void expect_result(const struct outcome *outcome, int result)
{
    if (outcome->result != result) {
        fail("the result is %s instead of %s%s%s",
             outcome->result == 0 ? "success" : strerrorname_np(-outcome->result),
             result == 0 ? "success" : strerrorname_np(-result),
             outcome->message[0] != '\0' ? ": " : "", outcome->message);
    }
}

void expect_content(int fd, const struct content *pieces, size_t count)
{
    struct stat status;

    need(fstat(fd, &status) == 0, "fstat");
    if (status.st_size != content_length(pieces, count)) {
        fail("the size is %lld instead of %lld", (long long)status.st_size,
             (long long)content_length(pieces, count));
    }
    expect_part(fd, 0, pieces, count);
}

void expect_part(int fd, int64_t offset, const struct content *pieces, size_t count)
{
    char why[200];

    if (!content_matches(fd, offset, pieces, count, why, sizeof(why))) {
        fail("from offset %lld: %s", (long long)offset, why);
    }
}

void expect_device(const struct fixture *device, const struct content *pieces, size_t count)
{
    expect_device_part(device, 0, pieces, count);
}

/* Reads whole blocks of the device, which it must have. */
static void read_blocks(int fd, char *buffer, int64_t offset, int64_t length)
{
    for (int64_t at = 0; at < length;) {
        ssize_t got = pread(fd, buffer + at, (size_t)(length - at), offset + at);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            fail("reading the device at %lld: %s", (long long)(offset + at),
                 got < 0 ? strerror(errno) : "its end");
        }
        at += got;
    }
}

void expect_device_part(const struct fixture *device, int64_t offset, const struct content *pieces,
                        size_t count)
{
    static const struct {
        int flags;
        const char *name;
    } ways[] = {{0, "in the cache"}, {O_DIRECT, "on the medium"}};
    int64_t block = device->kind->block;
    int64_t length = content_length(pieces, count);
    int64_t from = offset / block * block;
    int64_t to = (offset + length + block - 1) / block * block;
    void *buffer = NULL;

    need(posix_memalign(&buffer, 4096, (size_t)(to - from)) == 0, "memory");
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char why[200];
        int fd = fixture_file(device, O_RDONLY | ways[i].flags);

        need(fd >= 0, "opening the device");
        read_blocks(fd, buffer, from, to - from);
        if (!content_matches_memory((char *)buffer + (offset - from), (size_t)length, 0, pieces,
                                    count, why, sizeof(why))) {
            fail("from offset %lld, %s: %s", (long long)offset, ways[i].name, why);
        }
        close(fd);
    }
    free(buffer);
}

/* The runner. */

static _Noreturn void run_child(const struct hazard *hazard,
                                const struct implementation *implementation)
{
    const struct rlimit no_core = {0, 0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    setrlimit(RLIMIT_CORE, &no_core);
    /* Its default action ends the process: an implementation that never comes back is a hang. */
    signal(SIGALRM, SIG_DFL);
    alarm(CASE_SECONDS);
    hazard->run(implementation);
    exit(0);
}

/* Waits for the child; one that not even an alarm ends is killed. */
static int wait_for(pid_t child)
{
    int64_t end = suite_now_ms() + (CASE_SECONDS + 5) * 1000;
    int status = 0;

    while (waitpid(child, &status, WNOHANG) == 0) {
        if (suite_now_ms() > end) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            return SIGALRM;
        }
        fixture_sleep_ms(2);
    }
    return status;
}

static void run_case(const struct hazard *hazard, const struct implementation *implementation,
                     struct report *report)
{
    pid_t child;
    int status;

    memset(shared, 0, sizeof(*shared));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        run_child(hazard, implementation);
    }
    if (child < 0) {
        report->verdict = FAIL;
        snprintf(report->text, sizeof(report->text), "fork: %s", strerror(errno));
        return;
    }
    setpgid(child, child);
    status = wait_for(child);
    /* Processes that the case started and did not wait for. */
    kill(-child, SIGKILL);
    *report = *shared;
    report->verdict = FAIL;
    if (WIFSIGNALED(status)) {
        int number = WTERMSIG(status);

        report->verdict = number == SIGALRM ? HANG : KILLED;
        snprintf(report->text, sizeof(report->text), "%s", number == SIGALRM ? "it does not end" : strsignal(number));
    } else if (WEXITSTATUS(status) == 0) {
        report->verdict = PASS;
    } else if (WEXITSTATUS(status) == EXIT_SKIP) {
        report->verdict = SKIP;
    }
}

static const struct hazard_list *const lists[] = {
    &hazards_of_files, &hazards_of_devices, &hazards_of_maps, &hazards_of_ends, &hazards_of_limits,
};
#define LISTS (sizeof(lists) / sizeof(lists[0]))

static size_t count_hazards(void)
{
    size_t count = 0;

    for (size_t i = 0; i < LISTS; i++) {
        count += lists[i]->count;
    }
    return count;
}

static bool chosen(const struct hazard *hazard, char *const *names, int count)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(hazard->name, names[i]) == 0) {
            return true;
        }
    }
    return count == 0;
}

static void print_verdict(const char *name, const struct report *report)
{
    printf("#   %s: %s%s%s\n", name, verdict_names[report->verdict],
           report->text[0] != '\0' ? ": " : "", report->text);
}

static void print_totals(const char *name, const unsigned totals[VERDICTS])
{
    printf("# %s:", name);
    for (int i = 0; i < VERDICTS; i++) {
        printf(" %s %u", verdict_names[i], totals[i]);
    }
    printf("\n");
}

static void print_usage(const char *program, FILE *file)
{
    fprintf(file,
            "usage: %s [--implementation naive|sparsestream] [HAZARD...]\n"
            "       %s --list\n"
            "Without an implementation both are put to the hazards: sparsestream must pass each, naive must be\n"
            "caught by each that is marked for it, and by at least %d.\n",
            program, program, LEAST_CAUGHT);
}

static void print_list(void)
{
    for (size_t i = 0; i < LISTS; i++) {
        for (size_t j = 0; j < lists[i]->count; j++) {
            const struct hazard *hazard = &lists[i]->hazards[j];

            printf("%-28s %s %s\n", hazard->name, hazard->catches_naive ? "*" : " ", hazard->what);
        }
    }
}

struct tally {
    unsigned naive[VERDICTS];
    unsigned ours[VERDICTS];
    unsigned marked;   /* marked for the naive one, and not skipped */
    unsigned caught;   /* of these */
    unsigned failures; /* lines that say "not ok" */
    unsigned number;
};

static void check(struct tally *tally, bool passed, const char *name, const char *skipped)
{
    printf("%s %u - %s", passed ? "ok" : "not ok", ++tally->number, name);
    printf(skipped != NULL ? " # SKIP %s\n" : "%s\n", skipped != NULL ? skipped : "");
    tally->failures += passed ? 0 : 1;
}

static void run_hazard(const struct hazard *hazard, const struct implementation *only,
                       struct tally *tally)
{
    struct report by_naive = {.verdict = PASS};
    struct report by_ours = {.verdict = PASS};
    const struct report *result = only == &naive ? &by_naive : &by_ours;

    printf("# %s: %s\n", hazard->name, hazard->what);
    if (only != &sparsestream) {
        run_case(hazard, &naive, &by_naive);
        tally->naive[by_naive.verdict]++;
        print_verdict(naive.name, &by_naive);
    }
    if (only != &naive) {
        run_case(hazard, &sparsestream, &by_ours);
        tally->ours[by_ours.verdict]++;
        print_verdict(sparsestream.name, &by_ours);
    }
    if (hazard->catches_naive && by_naive.verdict != SKIP) {
        tally->marked++;
        tally->caught += by_naive.verdict != PASS ? 1 : 0;
    }
    check(tally, result->verdict == PASS || result->verdict == SKIP, hazard->name,
          result->verdict == SKIP ? result->text : NULL);
    if (only == NULL && hazard->catches_naive && by_naive.verdict == PASS) {
        printf("#   the naive implementation must not pass this\n");
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"implementation", required_argument, NULL, 'i'},
        {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    const struct implementation *only = NULL;
    struct tally tally = {0};
    unsigned known = 0;
    int option;
    int left;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'i' && strcmp(optarg, naive.name) == 0) {
            only = &naive;
        } else if (option == 'i' && strcmp(optarg, sparsestream.name) == 0) {
            only = &sparsestream;
        } else if (option == 'l' || option == 'h') {
            if (option == 'l') {
                print_list();
            } else {
                print_usage(argv[0], stdout);
            }
            return 0;
        } else {
            print_usage(argv[0], stderr);
            return 2;
        }
    }
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        printf("Bail out! no shared memory\n");
        return 1;
    }
    fixtures_begin();
    for (size_t i = 0; i < LISTS; i++) {
        for (size_t j = 0; j < lists[i]->count; j++) {
            if (chosen(&lists[i]->hazards[j], argv + optind, argc - optind)) {
                run_hazard(&lists[i]->hazards[j], only, &tally);
                known++;
            }
        }
    }
    if (known == 0 || (argc > optind && known != (unsigned)(argc - optind))) {
        printf("Bail out! there is no such hazard; --list names them\n");
        return 2;
    }
    left = fixtures_leftover();
    check(&tally, left == 0, "no loop device stays attached", NULL);
    if (only == NULL) {
        check(&tally, tally.caught == tally.marked,
              "the naive implementation is caught by each hazard marked for it", NULL);
    }
    if (only == NULL && known == count_hazards()) {
        bool enough = tally.marked >= LEAST_CAUGHT;

        check(&tally, !enough || tally.caught >= LEAST_CAUGHT,
              "the naive implementation is caught by at least 12 hazards",
              enough ? NULL : "too many hazards were skipped");
    }
    if (only != &sparsestream) {
        print_totals(naive.name, tally.naive);
    }
    if (only != &naive) {
        print_totals(sparsestream.name, tally.ours);
    }
    printf("1..%u\n", tally.number);
    return tally.failures == 0 ? 0 : 1;
}
