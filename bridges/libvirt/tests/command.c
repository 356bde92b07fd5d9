/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The command with volumes by name, and the example of the manual page. Arguments: the command, the directory of the
 * bridge, the example. */

#include "daemon.h"
#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct piece sparse[] = { DATA(300 * KiB), HOLE(2 * MiB - 300 * KiB), DATA(MiB), HOLE(3 * MiB),
                                       DATA(64 * KiB), HOLE(2 * MiB - 64 * KiB) };
#define SIZE (8 * MiB)

/* Runs a shell command in which $S is the command, $V the prefix of volumes, $E the example and $U the daemon's URI; its
 * output goes to `output`. */
static int run(const struct daemon *daemon, const char *line, char *output, size_t size)
{
    char volumes[256], uri[256];
    int fd = file_in_memory(), status;
    ssize_t count;
    pid_t pid;

    snprintf(volumes, sizeof(volumes), "libvirt+storage:///system?socket=%s#pool/", daemon->socket);
    snprintf(uri, sizeof(uri), "storage:///system?socket=%s", daemon->socket);
    pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        sigset_t none;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        setenv("S", harness_argument(0), 1);
        setenv("V", volumes, 1);
        setenv("U", uri, 1);
        if (harness_argument(2) != NULL)
            setenv("E", harness_argument(2), 1);
        if (harness_argument(1) != NULL)
            setenv("LD_LIBRARY_PATH", harness_argument(1), 1);
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        execl("/bin/sh", "sh", "-c", line, NULL);
        _exit(127);
    }
    REQUIRE(waitpid(pid, &status, 0) == pid);
    count = pread(fd, output, size - 1, 0);
    output[count < 0 ? 0 : count] = '\0';
    close(fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A sparse file "image", and a volume "v" with its content (or without). */
static int set_up(struct daemon *daemon, bool filled)
{
    int image = file_new("image");

    daemon_start(daemon);
    if (access(harness_argument(0), X_OK) != 0)
        skip("the command is not built");
    file_lay_out(image, 0, sparse, COUNT(sparse), 1);
    virStorageVolFree(volume_new(daemon, "v", SIZE));
    if (filled) {
        int file = volume_file(daemon, "v");

        file_lay_out(file, 0, sparse, COUNT(sparse), 1);
        close(file);
    }
    return image;
}

static void check_volume(struct daemon *daemon, const char *name, int image)
{
    int file = volume_file(daemon, name);

    CHECK_INT(file_size(file), ==, SIZE);
    CHECK_SAME(image, 0, file, 0, SIZE, 0);
    close(file);
}

static void check_file(const char *name, int image)
{
    int file = open(name, O_RDONLY | O_CLOEXEC);

    REQUIRE(file >= 0);
    CHECK_INT(file_size(file), ==, SIZE);
    CHECK_SAME(image, 0, file, 0, SIZE, 0);
    close(file);
}

#define CHECK_RUN(daemon, line, expected)                                              \
    do {                                                                               \
        const int got_ = run(daemon, line, output, sizeof(output));                    \
        if (got_ != (expected))                                                        \
            harness_fail(__FILE__, __LINE__, "%s: %d against %d: %s", line, got_, expected, output); \
    } while (0)

static char output[65536];

static void copy_both_ways(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, false);

    CHECK_RUN(&daemon, "$S copy image \"${V}v\"", 0);
    check_volume(&daemon, "v", image);
    CHECK_RUN(&daemon, "$S copy \"${V}v\" back", 0);
    check_file("back", image);
    virStorageVolFree(volume_new(&daemon, "w", SIZE));
    CHECK_RUN(&daemon, "$S copy \"${V}v\" \"${V}w\"", 0);
    check_volume(&daemon, "w", image);
    CHECK_STR(output, "");
    close(image);
    daemon_stop(&daemon);
}

static void example_of_the_page(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, false);

    if (harness_argument(2) == NULL)
        skip("the example was not named");
    CHECK_RUN(&daemon, "$E \"$U\" pool v image", 0);
    CHECK_STR(output, "");
    check_volume(&daemon, "v", image);
    CHECK_RUN(&daemon, "$E \"$U\" pool v none", 1);
    CHECK_CONTAINS(output, "Bad file descriptor");
    close(image);
    daemon_stop(&daemon);
}

static void copy_of_ranges(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, false), file, back;

    CHECK_RUN(&daemon, "$S copy --range 2M:1M --at 5M image \"${V}v\"", 0);
    file = volume_file(&daemon, "v");
    CHECK_INT(file_size(file), ==, SIZE);
    CHECK_INT(file_differs(image, 2 * MiB, file, 5 * MiB, MiB), ==, -1);
    CHECK_INT(file_not_zero(file, 0, 5 * MiB), ==, -1);
    CHECK_INT(file_not_zero(file, 6 * MiB, 2 * MiB), ==, -1);
    CHECK_RUN(&daemon, "$S copy --range 5M:1M \"${V}v\" back", 0);
    back = open("back", O_RDONLY | O_CLOEXEC);
    CHECK_INT(file_size(back), ==, MiB);
    CHECK_INT(file_differs(image, 2 * MiB, back, 0, MiB), ==, -1);
    close(back);
    close(file);
    close(image);
    daemon_stop(&daemon);
}

static void send_and_recv(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, false);

    CHECK_RUN(&daemon, "$S send image | $S recv \"${V}v\"", 0);
    check_volume(&daemon, "v", image);
    CHECK_RUN(&daemon, "$S send \"${V}v\" | $S recv back", 0);
    check_file("back", image);
    CHECK_RUN(&daemon, "$S send --exec \"$S recv other\" --checksum \"${V}v\"", 0);
    check_file("other", image);
    /* A stream of unknown length must fill the volume. */
    CHECK_RUN(&daemon, "cat image | $S send - | $S recv \"${V}v\"", 0);
    CHECK_RUN(&daemon, "head -c 1M image | $S send - | $S recv \"${V}v\"", 1);
    CHECK_CONTAINS(output, "ENODATA");
    close(image);
    daemon_stop(&daemon);
}

/* The map of a volume is that of its file. */
static void map(void)
{
    static char other[65536];
    struct daemon daemon;
    int image = set_up(&daemon, true);

    CHECK_RUN(&daemon, "$S map --list image", 0);
    memcpy(other, output, sizeof(other));
    CHECK_RUN(&daemon, "$S map --list \"${V}v\"", 0);
    CHECK_STR(output, other);
    CHECK_RUN(&daemon, "$S map image", 0);
    memcpy(other, output, sizeof(other));
    CHECK_RUN(&daemon, "$S map \"${V}v\"", 0);
    CHECK_STR(output, other);
    CHECK_RUN(&daemon, "$S map --json --range 1M:3M image", 0);
    memcpy(other, output, sizeof(other));
    CHECK_RUN(&daemon, "$S map --json --range 1M:3M \"${V}v\"", 0);
    CHECK_STR(output, other);
    close(image);
    daemon_stop(&daemon);
}

static void checksum(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, true);

    CHECK_RUN(&daemon, "test \"$($S checksum image | cut -c-64)\" = \"$($S checksum \"${V}v\" | cut -c-64)\"", 0);
    CHECK_RUN(&daemon, "$S checksum \"${V}v\" > list && $S checksum --check list", 0);
    CHECK_CONTAINS(output, "OK");
    CHECK_RUN(&daemon, "$S checksum \"${V}absent\"", 1);
    CHECK_CONTAINS(output, "ENOENT");
    close(image);
    daemon_stop(&daemon);
}

static void check(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, true);

    CHECK_RUN(&daemon, "$S check image \"${V}v\"", 0);
    CHECK_RUN(&daemon, "$S check \"${V}v\" \"${V}v\"", 0);
    CHECK_RUN(&daemon, "cp image other && printf x | dd of=other bs=1 seek=70000 conv=notrunc status=none", 0);
    CHECK_RUN(&daemon, "$S check other \"${V}v\"", 10);
    CHECK_CONTAINS(output, "70000");
    check_volume(&daemon, "v", image);
    close(image);
    daemon_stop(&daemon);
}

static void failures_name_the_volume(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, true);

    CHECK_RUN(&daemon, "$S copy \"${V}absent\" back", 1);
    CHECK_CONTAINS(output, "absent");
    CHECK_CONTAINS(output, "ENOENT");
    CHECK_INT(access("back", F_OK), ==, -1);
    CHECK_RUN(&daemon, "truncate -s 9M large && $S copy large \"${V}v\"", 1);
    CHECK_CONTAINS(output, "ENOSPC");
    CHECK_RUN(&daemon, "$S copy --sync image \"${V}v\"", 2);
    CHECK_RUN(&daemon, "$S copy image 'libvirt+nonsense'", 1);
    CHECK_CONTAINS(output, "POOL/VOLUME");
    CHECK_RUN(&daemon, "$S check --holes image \"${V}v\"", 2);
    check_volume(&daemon, "v", image);
    close(image);
    daemon_stop(&daemon);
}

/* Something that listens in the place of a daemon, and a daemon that stops: the calls of libvirt do not return. */

static void a_daemon_that_does_not_answer(void)
{
    static const char *const commands[] = {
        "copy --timeout=0.3 \"${V}v\" back", "copy --timeout=0.3 image \"${V}v\"", "map --timeout=0.3 \"${V}v\"",
        "check --timeout=0.3 image \"${V}v\"", "checksum --timeout=0.3 \"${V}v\"",
        "send --timeout=0.3 \"${V}v\" >stream", "copy --timeout=0.3 --progress=json \"${V}v\" back",
    };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct daemon daemon;
    int image = set_up(&daemon, true), listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char line[200];

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", daemon.socket);
    REQUIRE(unlink(daemon.socket) == 0);
    REQUIRE(bind(listener, (struct sockaddr *) &address, sizeof(address)) == 0 && listen(listener, 16) == 0);
    for (size_t i = 0; i < COUNT(commands); i++) {
        context("%s", commands[i]);
        snprintf(line, sizeof(line), "timeout 8 $S %s", commands[i]);
        CHECK_RUN(&daemon, line, 1);
        CHECK_CONTAINS(output, "#pool/v: no answer within 300 ms (ETIMEDOUT)");
        CHECK_INT(access("back", F_OK), ==, -1);
    }
    close(listener);
    close(image);
    daemon_stop(&daemon);
}

static void a_daemon_that_stops(void)
{
    static const char *const commands[] = {
        "copy --timeout=0.5 --rate=300K \"${V}v\" back", "copy --timeout=0.5 --rate=300K image \"${V}v\"",
        "send --timeout=0.5 --rate=300K \"${V}v\" | cat >stream; exit ${PIPESTATUS[0]}",
        "check --timeout=0.5 image \"${V}v\"", "checksum --timeout=0.5 \"${V}v\"",
    };
    struct daemon daemon;
    int image = set_up(&daemon, true);
    char line[300];

    /* The pauses of a rate are not those of a daemon. */
    CHECK_RUN(&daemon, "$S copy --timeout=0.2 --rate=600K \"${V}v\" slow", 0);
    CHECK_RUN(&daemon, "$S copy --timeout=0.2 --rate=600K image \"${V}v\"", 0);
    check_file("slow", image);
    for (size_t i = 0; i < COUNT(commands); i++) {
        context("%s", commands[i]);
        /* Those that cannot be slowed down are stopped as they begin. */
        snprintf(line, sizeof(line), "(sleep 0.%d; kill -STOP %d; sleep 6; kill -CONT %d) & timeout 8 bash -c '$S %s'; "
                 "r=$?; kill -CONT %d; exit $r", i < 3 ? 5 : 0, (int) daemon.pid, (int) daemon.pid, commands[i],
                 (int) daemon.pid);
        CHECK_RUN(&daemon, line, 1);
        CHECK_CONTAINS(output, "(ETIMEDOUT)");
    }
    close(image);
    daemon_stop(&daemon);
}

/* The command runs without libvirt, and without the bridge until a volume is named. */
static void bridge_is_loaded_at_run_time(void)
{
    struct daemon daemon;
    int image = set_up(&daemon, true);

    CHECK_RUN(&daemon, "LD_DEBUG=libs $S copy image back 2>&1 | grep -c 'libvirt[.]so'", 1);
    CHECK_RUN(&daemon, "unset LD_LIBRARY_PATH; $S copy \"${V}v\" other", 1);
    CHECK_CONTAINS(output, "the bridge to libvirt, libsparsestream-libvirt.so.0, cannot be loaded: ");
    CHECK_CONTAINS(output, "(install libsparsestream-libvirt0 on Debian, libsparsestream-libvirt on Fedora)");
    close(image);
    daemon_stop(&daemon);
}

DAEMON_TESTS(
    CASE(copy_both_ways),
    CASE(example_of_the_page),
    CASE(copy_of_ranges),
    CASE(send_and_recv),
    CASE(map),
    CASE(checksum),
    CASE(check),
    CASE(failures_name_the_volume),
    CASE(a_daemon_that_does_not_answer),
    CASE_WITHIN(a_daemon_that_stops, 60),
    CASE(bridge_is_loaded_at_run_time),
)
