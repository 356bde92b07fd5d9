/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * measure [-t SECONDS] [-m BYTES] [-p PID]... RESULT COMMAND [ARGUMENT]...
 *
 * Runs a command and writes to the file RESULT, as JSON, its wall, CPU and user CPU time in nanoseconds and its peak
 * resident memory in bytes, that of each process it waits for included (the largest of them counts for memory). With -p
 * CPU time, but not user CPU time, and memory include those of daemons that work for it. A program of its own because a
 * process inherits the peak of the one that starts it, and this one is small.
 *
 * With -m so much memory is taken, in large pages and in small ones, and given back before the clock starts. A virtual
 * machine may have given what was free to its host, and to get a page back costs several times what it costs to copy one:
 * the run would measure that.
 */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DAEMONS 8

struct daemon {
    pid_t pid;
    clockid_t clock;
    int64_t cpu;
};

static volatile sig_atomic_t running;

static void time_is_up(int number)
{
    (void)number;
    if (running > 0)
        kill(-running, SIGKILL);
}

static int64_t nanoseconds(struct timeval time)
{
    return time.tv_sec * (int64_t)1000000000 + time.tv_usec * (int64_t)1000;
}

static int64_t cpu_of(const struct daemon *daemon)
{
    struct timespec time;

    if (clock_gettime(daemon->clock, &time) != 0)
        fail("the CPU clock of process %d", (int)daemon->pid);
    return time.tv_sec * (int64_t)1000000000 + time.tv_nsec;
}

/* Makes the daemon's peak what it has now. */
static void forget_peak(pid_t pid)
{
    char path[64];
    int fd;

    snprintf(path, sizeof path, "/proc/%d/clear_refs", (int)pid);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "5", 1) != 1)
        fail("%s", path);
    close(fd);
}

static int64_t peak_of(pid_t pid)
{
    char line[256];
    long kilobytes = -1;
    FILE *file;

    snprintf(line, sizeof line, "/proc/%d/status", (int)pid);
    file = fopen(line, "re");
    if (file == NULL)
        fail("%s", line);
    while (kilobytes < 0 && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmHWM: %ld kB", &kilobytes) != 1)
            kilobytes = -1;
    fclose(file);
    errno = 0;
    if (kilobytes < 0)
        fail("no VmHWM of process %d", (int)pid);
    return kilobytes * KIB;
}

/* Memory that has pages of its own, large ones if asked for: they come from other lists of the kernel than small ones. */
static void take_memory(size_t bytes, int advice)
{
    char *const memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        fail("%zu bytes of memory", bytes);
    /* A kernel without large pages has none to be taken. */
    (void)madvise(memory, bytes, advice);
    for (size_t at = 0; at < bytes; at += 4 * KIB)
        memory[at] = 1;
}

/* Has so much memory twice, in a process that ends: what it touched is free again, and still this machine's. */
static void touch_memory(int64_t bytes)
{
    const pid_t child = fork();
    int status;

    if (child < 0)
        fail("fork");
    if (child == 0) {
        take_memory((size_t)bytes, MADV_HUGEPAGE);
        take_memory((size_t)bytes, MADV_NOHUGEPAGE);
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            fail("waitpid");
    errno = 0;
    if (status != 0)
        fail("%jd bytes of memory could not be touched", (intmax_t)bytes);
}

int main(int argc, char **argv)
{
    struct daemon daemons[DAEMONS];
    size_t count = 0;
    unsigned limit = 600;
    int64_t memory = 0;
    int64_t begun, wall, user, cpu, peak;
    struct rusage usage;
    int option, status;
    FILE *result;
    pid_t child;

    while ((option = getopt(argc, argv, "+t:m:p:")) != -1) {
        if (option == 't') {
            limit = (unsigned)atoi(optarg);
        } else if (option == 'm') {
            memory = parse_bytes(optarg);
        } else if (option == 'p' && count < DAEMONS) {
            daemons[count].pid = atoi(optarg);
            if (clock_getcpuclockid(daemons[count].pid, &daemons[count].clock) != 0)
                fail("no process %s", optarg);
            count++;
        } else {
            return 2;
        }
    }
    errno = 0;
    if (argc - optind < 2)
        fail("usage: measure [-t SECONDS] [-m BYTES] [-p PID]... RESULT COMMAND [ARGUMENT]...");
    result = fopen(argv[optind], "we");
    if (result == NULL)
        fail("create %s", argv[optind]);
    if (memory > 0)
        touch_memory(memory);
    for (size_t i = 0; i < count; i++) {
        forget_peak(daemons[i].pid);
        daemons[i].cpu = cpu_of(&daemons[i]);
    }
    signal(SIGALRM, time_is_up);
    begun = now();
    child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[optind + 1], argv + optind + 1);
        fail("exec %s", argv[optind + 1]);
    }
    setpgid(child, child);
    running = child;
    alarm(limit);
    while (wait4(child, &status, 0, &usage) < 0)
        if (errno != EINTR)
            fail("wait4");
    wall = now() - begun;
    running = 0;
    user = nanoseconds(usage.ru_utime);
    cpu = user + nanoseconds(usage.ru_stime);
    peak = usage.ru_maxrss * KIB;
    for (size_t i = 0; i < count; i++) {
        const int64_t high = peak_of(daemons[i].pid);

        cpu += cpu_of(&daemons[i]) - daemons[i].cpu;
        peak = high > peak ? high : peak;
    }
    fprintf(result, "{\"wall\": %jd, \"cpu\": %jd, \"user\": %jd, \"peak\": %jd, \"status\": %d}\n", (intmax_t)wall,
            (intmax_t)cpu, (intmax_t)user, (intmax_t)peak, status);
    if (fclose(result) != 0)
        fail("write %s", argv[optind]);
    return status == 0 ? 0 : 1;
}
