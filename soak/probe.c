/* SPDX-License-Identifier: MIT OR Apache-2.0 */

#define _GNU_SOURCE
#include "probe.h"
#include "stand.h"
#include "volume-protocol.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void echo(int fd)
{
    struct epoll_event event = { .events = EPOLLIN };
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    char byte;

    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        _exit(1);
    for (;;) {
        int n = epoll_wait(epoll, &event, 1, -1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 || read(fd, &byte, 1) != 1 || write(fd, &byte, 1) != 1)
            _exit(0);
    }
}

int probe_open(struct probe *probe, const char *socket_path)
{
    const struct timeval limit = { .tv_sec = 10 };
    int fds[2];

    memset(probe, 0, sizeof(*probe));
    probe->fd = probe->echo = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    probe->echo_pid = fork();
    if (probe->echo_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        echo(fds[1]);
    }
    close(fds[1]);
    probe->echo = fds[0];
    if (probe->echo_pid < 0)
        return -errno;
    probe->fd = volume_connect(socket_path);
    if (probe->fd < 0)
        return probe->fd;
    setsockopt(probe->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return 0;
}

static void add(struct times *times, int64_t us)
{
    if (times->count < PROBES_MAX)
        times->us[times->count++] = us;
}

static int list(int fd)
{
    const struct volume_call call = { .type = VOLUME_LIST };
    struct volume_channel channel;
    int r;

    volume_channel_init(&channel, fd);
    r = volume_queue_call(&channel, 1, &call);
    if (r == 0)
        r = volume_flush(&channel);
    while (r == 0) {
        r = volume_receive(&channel, 0);
        if (r == 0 && channel.in.type == VOLUME_REPLY)
            return channel.in.status == 0 ? 0 : -EIO;
        volume_consume(&channel);
    }
    return r;
}

void probe_once(struct probe *probe)
{
    int64_t start = now_us();
    char byte = 0;

    if (write(probe->echo, &byte, 1) == 1 && read(probe->echo, &byte, 1) == 1)
        add(&probe->baseline, now_us() - start);
    start = now_us();
    if (list(probe->fd) == 0)
        add(&probe->listing, now_us() - start);
    else
        probe->failures++;
}

void probe_close(struct probe *probe)
{
    if (probe->fd >= 0)
        close(probe->fd);
    if (probe->echo >= 0)
        close(probe->echo);
    if (probe->echo_pid > 0)
        waitpid(probe->echo_pid, NULL, 0);
    probe->fd = probe->echo = -1;
    probe->echo_pid = 0;
}

static int compare(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;

    return (a > b) - (a < b);
}

int64_t times_percentile(struct times *times, double share)
{
    int at = (int)((double)times->count * share / 100.0);

    if (times->count == 0)
        return -1;
    qsort(times->us, (size_t)times->count, sizeof(times->us[0]), compare);
    return times->us[at < times->count ? at : times->count - 1];
}
