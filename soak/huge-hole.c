/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A hole of 12 GiB into a block device that the daemon serves, while a probe asks it for listings.
 *
 *     huge-hole [--unhurried] DAEMON [WORD...]
 *
 * With --unhurried latencies are printed and not judged. If the zeroing takes too long, it is cancelled,
 * which must take effect at once.
 */

#define _GNU_SOURCE
#include "daemon.h"
#include "fixtures.h"
#include "probe.h"
#include "stand.h"
#include "volume-protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PROBE_MS = 20, ENOUGH_MS = 2000, PATIENCE_MS = 6000, DELAY_US = 100000, CANCEL_US = 500000, QUOTA_GIB = 13 };

static const int64_t hole = 12 * GiB;
static int tests, failures;
static bool unhurried;

__attribute__((format(printf, 2, 3))) static bool result(bool right, const char *format, ...)
{
    va_list arguments;

    tests++;
    failures += !right;
    printf("%s %d - ", right ? "ok" : "not ok", tests);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    return right;
}

static void skip(const char *name, const char *reason)
{
    tests++;
    printf("ok %d - %s # SKIP %s\n", tests, name, reason);
}

/* Makes the call and takes its answer, on a blocking connection. */
static int begin_upload(struct volume_channel *channel, const char *socket_path, const char *name)
{
    struct volume_call call = { .type = VOLUME_UPLOAD, .sparse = SPARSESTREAM_SPARSE_AUTO };
    int fd = volume_connect(socket_path), r;

    volume_channel_init(channel, fd);
    if (fd < 0)
        return fd;
    strcpy(call.name, name);
    r = volume_queue_call(channel, 1, &call);
    if (r == 0)
        r = volume_flush(channel);
    if (r == 0)
        r = volume_receive(channel, 0);
    if (r == 0 && (channel->in.type != VOLUME_REPLY || channel->in.status != 0))
        r = -EPROTO;
    volume_consume(channel);
    return r;
}

static int send_hole(struct volume_channel *channel, int64_t length)
{
    uint8_t payload[8];

    for (int i = 0; i < 8; i++)
        payload[i] = (uint8_t)((uint64_t)length >> (56 - 8 * i));
    return volume_queue(channel, VOLUME_HOLE, 1, 0, payload, sizeof(payload));
}

/* 0 or an errno as the daemon's status says; -1 for no status; -EAGAIN while there is none. */
static int take_status(struct volume_channel *channel, int flags)
{
    int r = volume_receive(channel, flags);

    if (r == -EAGAIN)
        return r;
    if (r < 0 || channel->in.type != VOLUME_STATUS)
        return -1;
    r = (int)channel->in.status;
    volume_consume(channel);
    return r;
}

/* One upload of the hole, listings all the while. Returns the status, or -EAGAIN when patience ended first. */
static int upload_hole(const char *kind, const char *socket_path, struct probe *probe, int64_t until)
{
    struct volume_channel channel;
    int64_t next = now_us();
    int r = begin_upload(&channel, socket_path, kind), status = -EAGAIN;

    if (r == 0)
        r = send_hole(&channel, hole);
    if (r == 0)
        r = volume_queue(&channel, VOLUME_FINISH, 1, 0, NULL, 0);
    if (r == 0)
        r = volume_flush(&channel);
    while (r == 0 && status == -EAGAIN && now_us() < until) {
        probe_once(probe);
        status = take_status(&channel, MSG_DONTWAIT);
        next += PROBE_MS * 1000;
        if (next > now_us() && status == -EAGAIN)
            usleep((useconds_t)(next - now_us()));
        else
            next = now_us();
    }
    if (channel.fd >= 0)
        close(channel.fd);
    return r < 0 ? -1 : status;
}

/* A fast device gets it several times, so that there is something to measure. */
static void test_hole(const char *kind, const char *socket_path, struct probe *probe)
{
    int64_t start = now_us(), took;
    int rounds = 0, status;

    probe->listing.count = probe->baseline.count = 0;
    do {
        status = upload_hole(kind, socket_path, probe, start + PATIENCE_MS * 1000);
        rounds++;
    } while (status == 0 && now_us() - start < ENOUGH_MS * 1000);
    took = now_us() - start;
    printf("# %s: %d times in %.2f s%s\n", kind, rounds, (double)took / 1e6,
           status == -EAGAIN ? ", the last one was left to itself" : "");
    result(status == 0 || status == -EAGAIN, "%s: the daemon makes it, status %d", kind, status);
    printf("# %s: %d listings: p50 %.2f ms, max %.2f ms; baseline max %.2f ms\n", kind, probe->listing.count,
           (double)times_percentile(&probe->listing, 50) / 1e3, (double)times_percentile(&probe->listing, 100) / 1e3,
           (double)times_percentile(&probe->baseline, 100) / 1e3);
    result(probe->failures == 0 && probe->listing.count > 0, "%s: no listing failed", kind);
    if (!unhurried)
        result(times_percentile(&probe->listing, 100) < DELAY_US + times_percentile(&probe->baseline, 100),
               "%s: nobody waits longer than %.0f ms and the baseline", kind, DELAY_US / 1e3);
}

/* The old content under the hole reads as zeros: its ends and samples are checked. */
static void test_zero(const char *kind, const struct fixture *fixture)
{
    static const unsigned char zeros[4096];
    unsigned char bytes[4096];
    int fd = fixture_file(fixture, O_RDONLY | O_CLOEXEC);
    bool zero = fd >= 0;

    for (int64_t at = 0; zero && at < hole; at += hole / 64)
        zero = pread(fd, bytes, sizeof(bytes), at) == sizeof(bytes) && memcmp(bytes, zeros, sizeof(bytes)) == 0;
    if (fd >= 0)
        close(fd);
    result(zero, "%s: it reads zero", kind);
}

/* More zeros than the daemon allows an upload. */
static void test_quota(const char *kind, const char *socket_path)
{
    struct volume_channel channel;
    int64_t start = now_us();
    int r = begin_upload(&channel, socket_path, kind), status;

    if (r == 0)
        r = send_hole(&channel, (QUOTA_GIB + 1) * GiB);
    if (r == 0)
        r = volume_flush(&channel);
    status = r == 0 ? take_status(&channel, 0) : -1;
    result(status == EDQUOT, "%s: a hole beyond the quota of zeros is refused, status %d", kind, status);
    if (!unhurried)
        result(now_us() - start < CANCEL_US, "%s: before anything is zeroed", kind);
    close(channel.fd);
}

static void test_device(const char *kind, const char *directory, char **command)
{
    const struct fixture_options size = { .size = 16 * GiB };
    char store[400], node[500], log[400], socket_path[400], quota[16];
    struct fixture fixture;
    struct daemon daemon = { .pid = -1 };
    struct probe *probe = calloc(1, sizeof(*probe));
    unsigned char old[4096];
    struct stat st;
    int fd, r = fixture_open(kind, &size, &fixture);

    if (r == FIXTURE_ABSENT || probe == NULL) {
        skip(kind, r == FIXTURE_ABSENT ? fixture.reason : "no memory");
        free(probe);
        return;
    }
    if (!result(r == 0, "%s: a device of 16 GiB%s%s", kind, r == 0 ? "" : ": ", r == 0 ? "" : fixture.reason)) {
        free(probe);
        return;
    }
    memset(old, 'A', sizeof(old));
    fd = fixture_file(&fixture, O_WRONLY | O_CLOEXEC);
    for (int64_t at = 0; fd >= 0 && at < hole; at += hole / 64)
        r = pwrite(fd, old, sizeof(old), at) == sizeof(old) ? r : -errno;
    if (fd >= 0)
        close(fd);
    snprintf(store, sizeof(store), "%s/store-%s", directory, kind);
    snprintf(node, sizeof(node), "%s/%s", store, kind);
    snprintf(log, sizeof(log), "%s/log-%s", directory, kind);
    snprintf(socket_path, sizeof(socket_path), "%s/sock-%s", directory, kind);
    snprintf(quota, sizeof(quota), "%dG", QUOTA_GIB);
    /* A mount of its own: there device nodes count. */
    if (r == 0 && (mkdir(store, 0700) < 0 || mount("soak", store, "tmpfs", MS_NOSUID, "mode=0700") < 0 ||
                   stat(fixture.path, &st) < 0 || mknod(node, S_IFBLK | 0600, st.st_rdev) < 0))
        r = -errno;
    if (r == 0)
        r = daemon_start(&daemon, log, command,
                         (const char *const[]){ "--dir", store, "--socket", socket_path, "--max-zeroed", quota,
                                                NULL });
    if (r == 0)
        r = probe_open(probe, socket_path);
    if (result(r == 0, "%s: the daemon serves it%s%s", kind, r == 0 ? "" : ": ", r == 0 ? "" : strerror(-r))) {
        int64_t start;
        int descriptors;

        probe_once(probe); /* answered: so it was let in */
        descriptors = daemon_descriptors(&daemon);
        test_quota(kind, socket_path);
        test_hole(kind, socket_path, probe);
        start = now_us();
        while (daemon_descriptors(&daemon) > descriptors && now_us() - start < (unhurried ? 20 : 1) * CANCEL_US)
            usleep(2000);
        result(daemon_descriptors(&daemon) <= descriptors, "%s: nothing of it is left after %.0f ms", kind,
               (double)(now_us() - start) / 1e3);
    }
    probe_close(probe);
    if (daemon.pid > 0) {
        kill(daemon.pid, SIGTERM);
        result(daemon_wait(&daemon, 10000) == 0, "%s: SIGTERM ends the daemon with 0", kind);
    }
    if (r == 0)
        test_zero(kind, &fixture);
    umount(store);
    result(fixture_close(&fixture) == 0, "%s: the device is let go", kind);
    free(probe);
}

int main(int argc, char **argv)
{
    char reason[256];
    int r;

    if (argc > 1 && strcmp(argv[1], "--unhurried") == 0) {
        unhurried = true;
        argc--;
        argv++;
    }
    if (argc < 2) {
        fputs("usage: huge-hole [--unhurried] DAEMON [WORD...]\n", stderr);
        return 2;
    }
    r = fixtures_enter(reason, sizeof(reason));
    if (r == FIXTURE_ABSENT) {
        printf("1..0 # SKIP %s\n", reason);
        return 0;
    }
    if (r == 0) {
        test_device("zram", fixtures_directory(), argv + 1);
        test_device("loop-512", fixtures_directory(), argv + 1);
    } else {
        result(false, "%s", reason);
    }
    printf("1..%d\n", tests);
    return failures > 0;
}
