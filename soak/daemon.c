/* SPDX-License-Identifier: MIT OR Apache-2.0 */

#define _GNU_SOURCE
#include "daemon.h"
#include "stand.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORDS_MAX = 64, START_MS = 30000 };

static bool log_says(const char *path, const char *words)
{
    char line[1024];
    bool found = false;
    FILE *log = fopen(path, "re");

    while (log != NULL && !found && fgets(line, sizeof(line), log) != NULL)
        found = strstr(line, words) != NULL;
    if (log != NULL)
        fclose(log);
    return found;
}

/* The daemon has up to three descriptors for each of more clients than others would give it. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int daemon_start(struct daemon *daemon, const char *log, char *const *command, const char *const *options)
{
    const char *words[WORDS_MAX];
    int count = 0, fd, status;

    for (; *command != NULL && count < WORDS_MAX - 1; command++)
        words[count++] = *command;
    for (; *options != NULL && count < WORDS_MAX - 1; options++)
        words[count++] = *options;
    words[count] = NULL;
    snprintf(daemon->log, sizeof(daemon->log), "%s", log);
    fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    daemon->pid = fork();
    if (daemon->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        raise_descriptor_limit();
        dup2(fd, STDERR_FILENO);
        dup2(fd, STDOUT_FILENO);
        execvp(words[0], (char *const *)words);
        perror(words[0]);
        _exit(127);
    }
    close(fd);
    if (daemon->pid < 0)
        return -errno;
    for (int64_t start = now_us(); now_us() - start < START_MS * 1000;) {
        if (log_says(log, ": serving "))
            return 0;
        if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid) {
            daemon->pid = -1;
            break;
        }
        usleep(10000);
    }
    fprintf(stderr, "soak: the daemon does not start, see %s\n", log);
    return -EIO;
}

int64_t daemon_cpu_us(const struct daemon *daemon)
{
    struct timespec time;
    clockid_t clock;

    if (clock_getcpuclockid(daemon->pid, &clock) != 0 || clock_gettime(clock, &time) != 0)
        return -1;
    return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

int64_t daemon_late_us(const struct daemon *daemon)
{
    char path[64];
    long long run, late = -1;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)daemon->pid);
    file = fopen(path, "re");
    if (file == NULL)
        return -1;
    if (fscanf(file, "%lld %lld", &run, &late) != 2)
        late = -1;
    fclose(file);
    return late < 0 ? -1 : late / 1000;
}

int64_t daemon_peak_rss(const struct daemon *daemon)
{
    char path[64], line[256];
    long long kib = -1;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)daemon->pid);
    file = fopen(path, "re");
    if (file == NULL)
        return -1;
    while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "VmHWM: %lld kB", &kib) != 1)
        ;
    fclose(file);
    return kib < 0 ? -1 : kib * 1024;
}

int daemon_descriptors(const struct daemon *daemon)
{
    char path[64];
    int count = 0;
    struct dirent *entry;
    DIR *directory;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)daemon->pid);
    directory = opendir(path);
    if (directory == NULL)
        return -1;
    while ((entry = readdir(directory)) != NULL)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

int daemon_wait(struct daemon *daemon, int64_t ms)
{
    int64_t start = now_us();
    int status;

    if (daemon->pid <= 0)
        return -1;
    for (;;) {
        pid_t pid = waitpid(daemon->pid, &status, WNOHANG);

        if (pid == daemon->pid || pid < 0) {
            daemon->pid = -1;
            return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        }
        if (now_us() - start > ms * 1000) {
            kill(daemon->pid, SIGKILL);
            waitpid(daemon->pid, &status, 0);
            daemon->pid = -1;
            return -1;
        }
        usleep(10000);
    }
}
