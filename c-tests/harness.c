/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SECONDS 20
#define MOST_FAILURES 30
#define MOST_DESCRIPTORS 512

enum { EXIT_PASSED = 0, EXIT_FAILED = 1, EXIT_SKIPPED = 77, EXIT_VALGRIND = 99 };

static char **arguments;
static size_t argument_count;

/* Where a case writes its failures; shared with the parent, which reads it when the child has ended. */
static int report = -1;
static atomic_int failures;
static char said[160];

const char *harness_argument(size_t number)
{
    return number < argument_count ? arguments[number] : NULL;
}

unsigned harness_slowness(void)
{
    const char *slow = getenv("SPARSESTREAM_TEST_SLOWNESS");
    unsigned factor = slow == NULL ? 1 : (unsigned) atoi(slow);

#ifdef __SANITIZE_ADDRESS__
    factor *= 4;
#endif
    return factor == 0 ? 1 : factor;
}

int64_t harness_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int harness_failures(void)
{
    return atomic_load(&failures);
}

const char *harness_errno_name(int64_t code)
{
    const char *name;

    if (code == 0)
        return "0";
    if (code < -4095 || code > 4095)
        return "no errno";
    name = strerrorname_np((int) (code < 0 ? -code : code));
    return name == NULL ? "no errno" : name;
}

static void report_text(const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        const ssize_t count = write(report, text, left);

        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return;
        text += count;
        left -= (size_t) count;
    }
}

static void report_failure(const char *file, int line, const char *text)
{
    char whole[1200];
    const char *name = strrchr(file, '/');
    const int number = atomic_fetch_add(&failures, 1);

    if (number > MOST_FAILURES)
        return;
    if (number == MOST_FAILURES) {
        report_text("more failures are not shown\n");
        return;
    }
    snprintf(whole, sizeof whole, "%s:%d: %s%s%s%s\n", name == NULL ? file : name + 1, line, text,
             said[0] == '\0' ? "" : " [", said, said[0] == '\0' ? "" : "]");
    report_text(whole);
}

void harness_fail(const char *file, int line, const char *format, ...)
{
    const int saved = errno;
    char text[900];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    report_failure(file, line, text);
    errno = saved;
}

void harness_fail_code(const char *file, int line, const char *expression, int64_t got,
                       int64_t expected, const char *message)
{
    harness_fail(file, line, "%s: %jd (%s) against %jd (%s); message \"%s\"", expression,
                 (intmax_t) got, got < 0 ? harness_errno_name(got) : "a count", (intmax_t) expected,
                 expected < 0 ? harness_errno_name(expected) : "a count", message);
}

void harness_fail_bytes(const char *file, int line, const char *expression,
                        const unsigned char *left, const unsigned char *right, size_t length)
{
    size_t at = 0, different = 0;

    for (size_t i = length; i-- > 0;) {
        if (left[i] != right[i]) {
            at = i;
            different++;
        }
    }
    harness_fail(file, line, "%s: %zu of %zu bytes differ, first at %zu: 0x%02x against 0x%02x",
                 expression, different, length, at, left[at], right[at]);
}

void harness_require(const char *file, int line, const char *expression)
{
    harness_fail(file, line, "the case needs %s: %s", expression, strerror(errno));
    exit(EXIT_FAILED);
}

void context(const char *format, ...)
{
    const int saved = errno;
    va_list list;

    va_start(list, format);
    vsnprintf(said, sizeof said, format, list);
    va_end(list);
    errno = saved;
}

void skip(const char *format, ...)
{
    char text[300];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    /* A case that has failed before the skip stays a failure. */
    if (atomic_load(&failures) > 0)
        exit(EXIT_FAILED);
    report_text(text);
    exit(EXIT_SKIPPED);
}

/* The state of the process that a case must leave as it was. */
struct world {
    int descriptors[MOST_DESCRIPTORS];
    size_t descriptor_count;
    size_t threads;
    struct sigaction actions[NSIG];
    sigset_t mask, pending;
};

static void look(struct world *world)
{
    struct dirent *entry;
    DIR *directory = opendir("/proc/self/fd");

    memset(world, 0, sizeof *world);
    if (directory == NULL) {
        harness_require(__FILE__, __LINE__, "/proc/self/fd");
    }
    while ((entry = readdir(directory)) != NULL) {
        const int fd = atoi(entry->d_name);

        if (entry->d_name[0] == '.' || fd == dirfd(directory))
            continue;
        if (world->descriptor_count < MOST_DESCRIPTORS)
            world->descriptors[world->descriptor_count++] = fd;
    }
    closedir(directory);
    directory = opendir("/proc/self/task");
    if (directory == NULL) {
        harness_require(__FILE__, __LINE__, "/proc/self/task");
    }
    while ((entry = readdir(directory)) != NULL)
        world->threads += entry->d_name[0] != '.';
    closedir(directory);
    for (int number = 1; number < NSIG; number++)
        sigaction(number, NULL, &world->actions[number]);
    sigprocmask(SIG_BLOCK, NULL, &world->mask);
    sigpending(&world->pending);
}

static bool has_descriptor(const struct world *world, int fd)
{
    for (size_t i = 0; i < world->descriptor_count; i++) {
        if (world->descriptors[i] == fd)
            return true;
    }
    return false;
}

static void compare(const struct world *before, const struct world *after)
{
    for (size_t i = 0; i < after->descriptor_count; i++) {
        const int fd = after->descriptors[i];
        char path[64], target[200];
        ssize_t length;

        if (has_descriptor(before, fd))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        length = readlink(path, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = '\0';
        harness_fail(__FILE__, __LINE__, "descriptor %d (%s) was left open", fd, target);
    }
    for (size_t i = 0; i < before->descriptor_count; i++) {
        if (!has_descriptor(after, before->descriptors[i]))
            harness_fail(__FILE__, __LINE__, "descriptor %d was closed", before->descriptors[i]);
    }
    CHECK_INT(after->threads, ==, before->threads);
    for (int number = 1; number < NSIG; number++) {
        if (after->actions[number].sa_handler != before->actions[number].sa_handler)
            harness_fail(__FILE__, __LINE__, "the disposition of signal %d was changed", number);
        if (sigismember(&after->mask, number) != sigismember(&before->mask, number))
            harness_fail(__FILE__, __LINE__, "signal %d of the mask was changed", number);
        if (sigismember(&after->pending, number) != sigismember(&before->pending, number))
            harness_fail(__FILE__, __LINE__, "signal %d was left pending", number);
    }
}

/* A joined thread may still be listed for a moment. */
static void look_after(struct world *after, const struct world *before)
{
    for (int tries = 0; tries < 100; tries++) {
        look(after);
        if (after->threads <= before->threads)
            return;
        usleep(5000);
    }
}

#if defined(__SANITIZE_THREAD__)
static void *nothing(void *opaque)
{
    return opaque;
}

/* ThreadSanitizer starts a thread of its own with the first that is made, and keeps it. */
static void settle(void)
{
    pthread_t thread;

    REQUIRE(pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
}
#else
static void settle(void)
{
}
#endif

static _Noreturn void run_child(const struct test_case *test, const char *directory, int stray,
                                const sigset_t *mask)
{
    static struct world before, after;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    sigprocmask(SIG_SETMASK, mask, NULL);
    REQUIRE(chdir(directory) == 0);
    REQUIRE(dup2(stray, STDOUT_FILENO) >= 0 && dup2(stray, STDERR_FILENO) >= 0);
    umask(022);
    settle();
    look(&before);
    test->run();
    context("%s", "");
    if (atomic_load(&failures) == 0) {
        look_after(&after, &before);
        compare(&before, &after);
    }
    exit(atomic_load(&failures) > 0 ? EXIT_FAILED : EXIT_PASSED);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void) status;
    (void) kind;
    (void) where;
    return remove(path);
}

/* Each line of `fd`, at most `most` bytes of it, as a TAP diagnostic. */
static size_t print_diagnostics(int fd, const char *before, size_t most)
{
    char buffer[4096];
    off_t at = 0;
    bool begun = false;
    ssize_t count;

    while ((size_t) at < most && (count = pread(fd, buffer, sizeof buffer, at)) > 0) {
        for (ssize_t i = 0; i < count; i++) {
            if (!begun)
                printf("# %s", before);
            begun = buffer[i] != '\n';
            putchar(buffer[i]);
        }
        at += count;
    }
    if (begun)
        putchar('\n');
    return (size_t) at;
}

static void print_skip_reason(int fd)
{
    char text[301];
    const ssize_t length = pread(fd, text, sizeof text - 1, 0);

    text[length < 0 ? 0 : length] = '\0';
    for (char *c = text; *c != '\0'; c++) {
        if (*c == '\n')
            *c = ' ';
    }
    printf(" # SKIP %s\n", text);
}

/* Waits for the child; false if it had to be killed. Ends the program on a signal to stop. */
static bool wait_child(pid_t child, unsigned seconds, int *status, const char *directory)
{
    const int64_t end = harness_now() + (int64_t) seconds * 1000;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    for (;;) {
        const int64_t left = end - harness_now();
        struct timespec time = { .tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000 };
        int got;

        if (waitpid(child, status, WNOHANG) == child)
            return true;
        if (left <= 0) {
            kill(child, SIGKILL);
            while (waitpid(child, status, 0) < 0 && errno == EINTR)
                ;
            return false;
        }
        got = sigtimedwait(&set, NULL, &time);
        if (got == SIGTERM || got == SIGINT) {
            kill(-child, SIGKILL);
            kill(child, SIGKILL);
            waitpid(child, status, 0);
            nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
            _exit(EXIT_FAILED);
        }
    }
}

static bool run_case(const struct test_case *test, size_t number, const sigset_t *mask)
{
    const unsigned limit = (test->seconds == 0 ? DEFAULT_SECONDS : test->seconds)
                           * harness_slowness();
    const char *base = getenv("TMPDIR");
    char directory[4096];
    int stray, status = 0;
    struct stat printed;
    bool in_time, passed;
    pid_t child;

    report = memfd_create("report", MFD_CLOEXEC);
    stray = memfd_create("output", MFD_CLOEXEC);
    snprintf(directory, sizeof directory, "%s/sparsestream-test-XXXXXX",
             base == NULL || *base == '\0' ? "/tmp" : base);
    if (report < 0 || stray < 0 || mkdtemp(directory) == NULL
        || fcntl(stray, F_SETFL, O_APPEND) != 0 || fcntl(report, F_SETFL, O_APPEND) != 0) {
        printf("Bail out! no place to run a test: %s\n", strerror(errno));
        exit(EXIT_FAILED);
    }
    fflush(stdout);
    child = fork();
    if (child < 0) {
        printf("Bail out! fork: %s\n", strerror(errno));
        exit(EXIT_FAILED);
    }
    if (child == 0)
        run_child(test, directory, stray, mask);
    setpgid(child, child);
    in_time = wait_child(child, limit, &status, directory);
    kill(-child, SIGKILL);

    passed = in_time && WIFEXITED(status)
             && (WEXITSTATUS(status) == EXIT_PASSED || WEXITSTATUS(status) == EXIT_SKIPPED);
    if (fstat(stray, &printed) != 0 || printed.st_size != 0)
        passed = false;
    printf("%s %zu - %s", passed ? "ok" : "not ok", number, test->name);
    if (passed && WEXITSTATUS(status) == EXIT_SKIPPED) {
        print_skip_reason(report);
    } else {
        putchar('\n');
        print_diagnostics(report, "", 65536);
        print_diagnostics(stray, "printed: ", 65536);
        if (!in_time)
            printf("# killed after %u seconds\n", limit);
        else if (WIFSIGNALED(status))
            printf("# killed by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
        else if (WEXITSTATUS(status) == EXIT_VALGRIND)
            printf("# valgrind found errors; its report is on standard error\n");
        else if (!passed)
            printf("# exit status %d\n", WEXITSTATUS(status));
    }
    fflush(stdout);
    close(report);
    close(stray);
    nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    return passed;
}

/* Becomes valgrind running this program; returns only where there is none. */
static void become_valgrind(char **argv)
{
    static const char *const options[] = {
        "valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--track-fds=no",
        "--show-leak-kinds=definite,indirect,possible",
        "--errors-for-leak-kinds=definite,indirect,possible",
    };
    const size_t own = sizeof options / sizeof *options;
    size_t count = 0;
    char **all;

    while (argv[count] != NULL)
        count++;
    all = calloc(own + count + 1, sizeof *all);
    if (all == NULL)
        return;
    for (size_t i = 0; i < own; i++)
        all[i] = (char *) options[i];
    count = own;
    all[count++] = argv[0];
    for (size_t i = 1; argv[i] != NULL; i++) {
        if (strcmp(argv[i], "--valgrind") != 0)
            all[count++] = argv[i];
    }
    setenv("SPARSESTREAM_TEST_SLOWNESS", "10", 1);
    execvp("valgrind", all);
    free(all);
}

int harness_main(int argc, char **argv, const struct test_case *cases, size_t count)
{
    const char *only = NULL;
    sigset_t set, mask;
    size_t number = 0;
    bool failed = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--valgrind") == 0) {
            become_valgrind(argv);
            printf("1..0 # SKIP valgrind cannot be run: %s\n", strerror(errno));
            return 0;
        }
    }
    arguments = argv;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else
            arguments[argument_count++] = argv[i];
    }
    /* Taken with sigtimedwait, by which a case's end and the end of its time are awaited at once. */
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, &mask);
    /* A process that ignored SIGPIPE could not show that the library does not raise it. */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);

    printf("1..%zu\n", only == NULL ? count : 1);
    for (size_t i = 0; i < count; i++) {
        if (only == NULL || strcmp(only, cases[i].name) == 0)
            failed |= !run_case(&cases[i], ++number, &mask);
    }
    if (only != NULL && number == 0) {
        printf("Bail out! no case is called %s\n", only);
        return EXIT_FAILED;
    }
    return failed ? EXIT_FAILED : EXIT_PASSED;
}
