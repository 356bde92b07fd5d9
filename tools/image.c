/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Disk images of other formats, FORMAT:FILE, through qemu-nbd, which is handed a listening socket.
 *
 * An image may name other files of the host as the rest of its content. Whoever made the image would then decide which
 * files a copy reads: such an image is refused unless --backing-chain is given.
 */

#include "export.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTEN_FD = 3, NOT_INSTALLED = 127 };

static const char *const formats[] = { "qcow2", "vmdk", "vdi", "vhdx" };

/* The format of a name, or NULL. */
static const char *format_of(const char *name)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        size_t length = strlen(formats[i]);

        if (strncmp(name, formats[i], length) == 0 && name[length] == ':' && name[length + 1] != '\0')
            return formats[i];
    }
    return NULL;
}

static const char *file_of(const char *name)
{
    return strchr(name, ':') + 1;
}

bool is_image(const char *name)
{
    return format_of(name) != NULL;
}

void image_hint(const char *name, int64_t size, char *text, size_t room)
{
    snprintf(text, room, " (qemu-img create -f %s '%s' %lld)", format_of(name), file_of(name), (long long)size);
}

/* ---- Other files that an image names ---- */

static uint64_t big_endian(const unsigned char *bytes, int count)
{
    uint64_t value = 0;

    while (count-- > 0)
        value = value << 8 | *bytes++;
    return value;
}

static uint64_t little_endian(const unsigned char *bytes, int count)
{
    uint64_t value = 0;

    while (count-- > 0)
        value = value << 8 | bytes[count];
    return value;
}

/* The header of a qcow2 image: a backing file at byte 8, features of version 3 at byte 72. */
static const char *foreign_in_qcow2(const unsigned char *header, ssize_t length)
{
    enum { BACKING = 8, FEATURES = 72, EXTERNAL_DATA = 1 << 2 };

    if (length < FEATURES || memcmp(header, "QFI\xfb", 4) != 0)
        return NULL;
    if (big_endian(header + BACKING, 8) != 0)
        return "a backing file";
    if (big_endian(header + 4, 4) >= 3 && length >= FEATURES + 8 &&
        (big_endian(header + FEATURES, 8) & EXTERNAL_DATA) != 0)
        return "an external data file";
    return NULL;
}

/* A sparse extent with its description inside, or a description, which names extents in other files. */
static const char *foreign_in_vmdk(int fd, const unsigned char *header, ssize_t length)
{
    enum { CAPACITY = 12, DESCRIPTION = 28, SECTOR = 512, MOST = 64 << 10 };
    char *text;
    const char *foreign = NULL;
    ssize_t got;

    if (length < SECTOR || memcmp(header, "KDMV", 4) != 0)
        return "extents in other files";
    if (little_endian(header + CAPACITY, 8) == 0)
        return "extents in other files";
    if (little_endian(header + DESCRIPTION, 8) == 0)
        return NULL;
    text = calloc(1, MOST + 1);
    if (text == NULL)
        return "a description that there is no memory for";
    got = pread(fd, text, MOST, (off_t)(little_endian(header + DESCRIPTION, 8) * SECTOR));
    if (got > 0 && strstr(text, "parentFileNameHint") != NULL)
        foreign = "a parent image";
    free(text);
    return foreign;
}

/* Returns 0 or an exit code, after a message. */
static int check_foreign(const struct settings *settings, const char *name, const char *path)
{
    unsigned char header[512];
    const char *foreign = NULL;
    ssize_t length;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return fail_errno(name, NULL, errno);
    length = pread(fd, header, sizeof(header), 0);
    if (length < 0) {
        close(fd);
        return fail_errno(name, "read", errno);
    }
    if (strcmp(format_of(name), "qcow2") == 0)
        foreign = foreign_in_qcow2(header, length);
    else if (strcmp(format_of(name), "vmdk") == 0)
        foreign = foreign_in_vmdk(fd, header, length);
    close(fd);
    if (foreign == NULL || settings->backing_chain)
        return 0;
    return fail(EXIT_REFUSED, "%s: has %s, which may be any file of this host (--backing-chain uses it)", name, foreign);
}

/* ---- The server ---- */

/* driver=qcow2,file.driver=file,file.filename=PATH, in which a comma is written twice: no part of PATH is an option. */
static char *image_options(const char *format, const char *path)
{
    size_t length = strlen(path), used;
    char *text = malloc(64 + strlen(format) + 2 * length);

    if (text == NULL)
        return NULL;
    used = (size_t)sprintf(text, "driver=%s,file.driver=file,file.filename=", format);
    for (; *path != '\0'; path++) {
        if (*path == ',')
            text[used++] = ',';
        text[used++] = *path;
    }
    text[used] = '\0';
    return text;
}

/* In the child. */
_Noreturn static void run_server(int listener, bool writable, const char *options)
{
    const char *arguments[] = { "qemu-nbd", "--image-opts", "--discard=unmap", options, writable ? NULL : "--read-only",
                                NULL };
    char pid[16];

    signal(SIGINT, SIG_IGN);
    if (dup2(listener, LISTEN_FD) != LISTEN_FD)
        _exit(NOT_INSTALLED);
    fcntl(LISTEN_FD, F_SETFD, 0);
    close_range(LISTEN_FD + 1, ~0U, 0);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "1", 1);
    unsetenv("LISTEN_FDNAMES");
    execvp(arguments[0], (char *const *)arguments);
    _exit(NOT_INSTALLED);
}

/* A socket that listens and one that is connected to it. Their name is gone when this returns. */
static int make_sockets(int *listener, int *connection)
{
    const char *where = getenv("TMPDIR");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char directory[64];
    int r = 0;

    if (where == NULL || strlen(where) > sizeof(directory) - 32)
        where = "/tmp";
    snprintf(directory, sizeof(directory), "%s/sparsestream-XXXXXX", where);
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listener < 0 || *connection < 0 || mkdtemp(directory) == NULL)
        return -errno;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/nbd", directory);
    if (bind(*listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(*listener, 1) < 0 ||
        connect(*connection, (struct sockaddr *)&address, sizeof(address)) < 0)
        r = -errno;
    unlink(address.sun_path);
    rmdir(directory);
    return r;
}

static int start_server(const char *name, const char *path, bool writable, struct image *image, int *connection)
{
    char *options = image_options(format_of(name), path);
    int listener = -1, r;

    if (options == NULL)
        return fail_errno(name, NULL, ENOMEM);
    r = make_sockets(&listener, connection);
    if (r == 0) {
        image->name = name;
        image->pid = fork();
        if (image->pid == 0)
            run_server(listener, writable, options);
        r = image->pid < 0 ? -errno : 0;
    }
    /* With this the connection breaks if the server does not start. */
    if (listener >= 0)
        close(listener);
    free(options);
    if (r == 0)
        return 0;
    image->pid = 0;
    if (*connection >= 0)
        close(*connection);
    return fail_errno(name, "qemu-nbd", r);
}

int image_serve(const struct settings *settings, const char *name, bool writable, struct image *image, int *connection)
{
    char path[PATH_MAX];
    int r;

    if (realpath(file_of(name), path) == NULL) {
        if (errno == ENOENT && writable)
            return fail(EXIT_LOCAL, "%s: does not exist: make it first (qemu-img create -f %s '%s' SIZE)", name,
                        format_of(name), file_of(name));
        return fail_errno(name, NULL, errno);
    }
    r = check_foreign(settings, name, path);
    return r != 0 ? r : start_server(name, path, writable, image, connection);
}

int image_wait(struct image *image, int result)
{
    int status;
    pid_t pid = image->pid;

    image->pid = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return result != 0 ? result : fail_errno(image->name, "qemu-nbd", errno);
    }
    if (result != 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return result;
    if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_INSTALLED)
        return fail(EXIT_LOCAL, "%s: qemu-nbd cannot be started (Debian: install qemu-utils)", image->name);
    if (WIFEXITED(status))
        return fail(EXIT_LOCAL, "%s: qemu-nbd ended with status %d", image->name, WEXITSTATUS(status));
    return fail(EXIT_LOCAL, "%s: qemu-nbd was killed by signal %d", image->name, WTERMSIG(status));
}
