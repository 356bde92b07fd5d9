/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* See volume-log.h. */

#define _GNU_SOURCE
#include "volume-log.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static int64_t most;

int log_open(void)
{
    int fd;

    /* If descriptor 0, 1 or 2 is closed, the next file that is opened gets its number, and the log would go there. */
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    signal(SIGPIPE, SIG_IGN); /* of a log that is not read */
    return fd < 0 ? -1 : close(fd);
}

void log_limit(int64_t lines)
{
    most = lines;
}

/* Whether the limit of this second is not reached. */
static bool may_speak(void)
{
    static int64_t second, lines;
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec != second) {
        second = now.tv_sec;
        lines = 0;
    }
    return most == 0 || lines++ < most;
}

void say(const char *format, ...)
{
    static int64_t lost;
    char line[1024];
    struct pollfd log = { .fd = STDERR_FILENO, .events = POLLOUT };
    va_list arguments;
    int length;

    if (!may_speak() || poll(&log, 1, 0) != 1) {
        lost++;
        return;
    }
    if (lost > 0)
        dprintf(STDERR_FILENO, "volume-daemon: %lld lines were left out\n", (long long)lost);
    lost = 0;
    va_start(arguments, format);
    length = vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    dprintf(STDERR_FILENO, "volume-daemon: %s%s\n", line, length >= (int)sizeof(line) ? "..." : "");
}
