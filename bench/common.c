/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SOCKET_BUFFER (4 * 1024 * 1024)

void fail(const char *format, ...)
{
    const int saved = errno;
    va_list arguments;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (saved != 0)
        fprintf(stderr, ": %s", strerror(saved));
    fputc('\n', stderr);
    exit(1);
}

int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * (int64_t)1000000000 + time.tv_nsec;
}

int open_source(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        fail("open %s", path);
    return fd;
}

int open_target(const char *path)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

    if (fd < 0)
        fail("create %s", path);
    return fd;
}

int64_t file_size(int fd)
{
    struct stat stat;

    if (fstat(fd, &stat) != 0)
        fail("fstat");
    return stat.st_size;
}

void *buffer_of(size_t size)
{
    void *const memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        fail("mmap of %zu bytes", size);
    return memory;
}

static void set_buffer(int socket, int forced, int polite)
{
    const int size = SOCKET_BUFFER;

    if (setsockopt(socket, SOL_SOCKET, forced, &size, sizeof size) != 0 &&
        setsockopt(socket, SOL_SOCKET, polite, &size, sizeof size) != 0)
        fail("setsockopt");
}

void run_ends(void (*send)(int socket, int source), void (*receive)(int socket, int target),
              const char *source, const char *target)
{
    const pid_t parent = getpid();
    int ends[2];
    int status;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        fail("socketpair");
    for (int i = 0; i < 2; i++) {
        set_buffer(ends[i], SO_SNDBUFFORCE, SO_SNDBUF);
        set_buffer(ends[i], SO_RCVBUFFORCE, SO_RCVBUF);
    }
    child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        close(ends[0]);
        receive(ends[1], open_target(target));
        exit(0);
    }
    close(ends[1]);
    send(ends[0], open_source(source));
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            fail("waitpid");
    errno = 0;
    if (status != 0)
        fail("the receiving end failed");
}

bool receive_all(int socket, void *buffer, size_t length)
{
    size_t done = 0;

    while (done < length) {
        const ssize_t count = recv(socket, (char *)buffer + done, length - done, MSG_WAITALL);

        if (count < 0) {
            if (errno == EINTR)
                continue;
            fail("recv");
        }
        if (count == 0) {
            errno = 0;
            if (done == 0)
                return false;
            fail("the sending end stopped early");
        }
        done += (size_t)count;
    }
    return true;
}

void send_all(int socket, const void *buffer, size_t length)
{
    while (length > 0) {
        const ssize_t count = send(socket, buffer, length, MSG_NOSIGNAL);

        if (count < 0) {
            if (errno == EINTR)
                continue;
            fail("send");
        }
        buffer = (const char *)buffer + count;
        length -= (size_t)count;
    }
}

void pread_all(int fd, void *buffer, size_t length, int64_t offset)
{
    while (length > 0) {
        const ssize_t count = pread(fd, buffer, length, offset);

        if (count <= 0) {
            if (count < 0 && errno == EINTR)
                continue;
            fail("pread at %jd", (intmax_t)offset);
        }
        buffer = (char *)buffer + count;
        length -= (size_t)count;
        offset += count;
    }
}

void pwrite_all(int fd, const void *buffer, size_t length, int64_t offset)
{
    while (length > 0) {
        const ssize_t count = pwrite(fd, buffer, length, offset);

        if (count < 0) {
            if (errno == EINTR)
                continue;
            fail("pwrite at %jd", (intmax_t)offset);
        }
        buffer = (const char *)buffer + count;
        length -= (size_t)count;
        offset += count;
    }
}

bool walk_next(struct walk *walk, int64_t *start, int64_t *end)
{
    *start = *end = walk->size;
    if (walk->at >= walk->size)
        return false;
    *start = lseek(walk->fd, walk->at, SEEK_DATA);
    if (*start < 0) {
        if (errno != ENXIO)
            fail("SEEK_DATA at %jd", (intmax_t)walk->at);
        walk->at = *start = walk->size;
        return false;
    }
    *end = lseek(walk->fd, *start, SEEK_HOLE);
    if (*end < 0)
        fail("SEEK_HOLE at %jd", (intmax_t)*start);
    walk->at = *end;
    return true;
}

int64_t parse_bytes(const char *text)
{
    static const char units[] = "KMGTPE";
    const char *unit;
    char *rest;
    int64_t value;

    if (strcmp(text, "max") == 0)
        return INT64_MAX;
    errno = 0;
    value = strtoll(text, &rest, 10);
    if (errno != 0 || rest == text || value < 0)
        fail("%s is no number of bytes", text);
    if (*rest == '\0')
        return value;
    unit = strchr(units, *rest);
    if (unit == NULL || rest[1] != '\0' || value > INT64_MAX >> (10 * (unit - units + 1)))
        fail("%s is no number of bytes", text);
    return value << (10 * (unit - units + 1));
}
