/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The end of the program where a call of another library does not return. */

#include "tool.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static _Atomic(const char *) message;
static _Atomic(const struct target *) created;
static int64_t limit_ms;

static void start(int64_t ms)
{
    const struct itimerval time = { .it_value = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 } };

    setitimer(ITIMER_REAL, &time, NULL);
}

static void on_alarm(int number)
{
    const struct target *target = atomic_load(&created);
    const char *line = atomic_load(&message);
    struct stat st;

    (void)number;
    if (line == NULL)
        return;
    if (target != NULL && fstat(target->fd, &st) == 0 && st.st_size == 0)
        remove_same(target->path, st.st_dev, st.st_ino);
    if (bar_is_drawn() && write(STDERR_FILENO, "\r\033[K", 4) < 0)
        signals_leave(EXIT_LOCAL);
    if (write(STDERR_FILENO, line, strlen(line)) < 0)
        signals_leave(EXIT_LOCAL);
    signals_leave(EXIT_LOCAL);
}

void deadline_set(const struct settings *settings, const char *name, const char *words, int64_t more_ms)
{
    const struct sigaction action = { .sa_handler = on_alarm };

    deadline_clear();
    if (settings->timeout_ms == 0)
        return;
    atomic_store(&message, failure_line(EXIT_LOCAL, "%s: %s %lld ms (ETIMEDOUT)", name, words,
                                        (long long)settings->timeout_ms));
    sigaction(SIGALRM, &action, NULL);
    limit_ms = settings->timeout_ms + more_ms;
    start(limit_ms);
}

void deadline_extend(void)
{
    if (limit_ms != 0)
        start(limit_ms);
}

void deadline_clear(void)
{
    if (limit_ms == 0)
        return;
    limit_ms = 0;
    start(0);
    free((char *)atomic_exchange(&message, NULL));
}

void deadline_remove(const struct target *target)
{
    atomic_store(&created, target != NULL && target->created ? target : NULL);
}
