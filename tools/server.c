/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* qemu-nbd, which is handed a socket that listens, and ends with its one connection. */

#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* The server's descriptors. LISTEN_FD is that of systemd's socket activation. */
enum { LISTEN_FD = 3, IMAGE_FD = 4, SPARE_FD = 10 };

enum { NOT_INSTALLED = 127, GRACE_MS = 1000, TERM_MS = 5000 };

/* ---- What it serves ---- */

/*
 * The image as the open descriptor, without any other file: neither a name that leads elsewhere by now nor what the
 * image names can have the server open another file. No part of the text comes from outside.
 */
static char *node_of_descriptor(const struct server *server)
{
    char *text;

    if (asprintf(&text, "json:{\"driver\": \"%s\", \"backing\": null, \"force-share\": %s, \"file\": {\"driver\": \"%s\", "
                 "\"filename\": \"/proc/self/fd/%d\", \"locking\": \"%s\"}}", server->format,
                 server->locks || server->writable ? "false" : "true", server->device ? "host_device" : "file", IMAGE_FD,
                 server->locks ? "auto" : "off") < 0)
        return NULL;
    return text;
}

/*
 * The image by its path, to which the names of its other files are relative. A comma of the path is written twice, so no
 * part of it is an option.
 */
static char *node_of_path(const struct server *server)
{
    char *path = malloc(2 * strlen(server->path) + 1), *at = path, *text = NULL;

    if (path == NULL)
        return NULL;
    for (const char *from = server->path; *from != '\0'; from++) {
        if (*from == ',')
            *at++ = ',';
        *at++ = *from;
    }
    *at = '\0';
    if (asprintf(&text, "driver=%s,force-share=%s,file.driver=%s,file.locking=%s,file.filename=%s", server->format,
                 server->locks || server->writable ? "off" : "on", server->device ? "host_device" : "file",
                 server->locks ? "auto" : "off", path) < 0)
        text = NULL;
    free(path);
    return text;
}

/* ---- The process ---- */

/* Makes a copy of a descriptor another one, which programs inherit. */
static void place(int fd, int wanted)
{
    if (dup2(fd, wanted) != wanted)
        _exit(NOT_INSTALLED);
}

/* In the child. */
_Noreturn static void run_server(const struct server *server, const char *node, int listener, int messages, pid_t parent)
{
    const char *arguments[8] = { "qemu-nbd", "--discard=unmap" };
    int count = 2, nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    char pid[16];

    /* A signal of the terminal is for the command, whose end is this one's. */
    setpgid(0, 0);
    /* qemu-nbd forgets a SIGTERM that comes while it starts, and without a client it does not end. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(NOT_INSTALLED);
    if (!server->writable)
        arguments[count++] = "--read-only";
    if (server->path != NULL)
        arguments[count++] = "--image-opts";
    arguments[count] = node;
    /* None of them may be in the place of another. */
    listener = fcntl(listener, F_DUPFD_CLOEXEC, SPARE_FD);
    messages = fcntl(messages, F_DUPFD_CLOEXEC, SPARE_FD);
    nothing = fcntl(nothing, F_DUPFD_CLOEXEC, SPARE_FD);
    place(fcntl(server->fd, F_DUPFD_CLOEXEC, SPARE_FD), IMAGE_FD);
    place(listener, LISTEN_FD);
    place(nothing, STDIN_FILENO);
    place(nothing, STDOUT_FILENO);
    place(messages, STDERR_FILENO);
    close_range(IMAGE_FD + 1, ~0U, 0);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "1", 1);
    unsetenv("LISTEN_FDNAMES");
    execvp(arguments[0], (char *const *)arguments);
    _exit(NOT_INSTALLED);
}

/* Makes a socket that listens and one that is connected to it. Their name is removed before this returns. */
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

int server_start(const struct server *server, struct image *image, int *connection)
{
    char *node = server->path != NULL ? node_of_path(server) : node_of_descriptor(server);
    pid_t parent = getpid();
    int listener = -1, r = node == NULL ? -ENOMEM : 0;

    *connection = -1;
    image->pid = 0;
    image->messages = memfd_create("qemu-nbd", MFD_CLOEXEC);
    if (r == 0 && image->messages < 0)
        r = -errno;
    if (r == 0)
        r = make_sockets(&listener, connection);
    if (r == 0) {
        image->pid = fork();
        if (image->pid == 0)
            run_server(server, node, listener, image->messages, parent);
        r = image->pid < 0 ? -errno : 0;
    }
    /* With this the connection breaks if the server does not start. */
    if (listener >= 0)
        close(listener);
    free(node);
    if (r == 0)
        return 0;
    image->pid = 0;
    if (image->messages >= 0)
        close(image->messages);
    if (*connection >= 0)
        close(*connection);
    return r;
}

/* ---- Its end ---- */

/* Waits at most this long, or for ever if it is 0. Returns whether it has ended. */
static bool wait_for(pid_t pid, int64_t ms, int *status)
{
    int64_t limit = now_ms() + ms, nap = 1;

    for (;;) {
        pid_t r = waitpid(pid, status, WNOHANG);

        if (r == pid)
            return true;
        if (r < 0 && errno != EINTR) {
            *status = 0;
            return true;
        }
        if (ms > 0 && now_ms() >= limit)
            return false;
        sleep_ms(nap);
        nap = nap < 20 ? 2 * nap : nap;
    }
}

/* Reads the start of its output, as one line. */
static void read_messages(int fd, char *text, size_t room)
{
    ssize_t length = pread(fd, text, room - 1, 0);
    char *at;

    if (length < 0)
        length = 0;
    while (length > 0 && text[length - 1] == '\n')
        length--;
    text[length] = '\0';
    for (at = text; *at != '\0'; at++)
        if (*at == '\n')
            *at = ' ';
}

/* A wait of this program in milliseconds, at most --timeout. */
static int64_t at_most(const struct image *image, int64_t ms)
{
    return image->timeout_ms != 0 && image->timeout_ms < ms ? image->timeout_ms : ms;
}

/* A script that starts the server is in a process group with it. */
static void stop(const struct image *image, int number)
{
    if (kill(-image->pid, number) < 0)
        kill(image->pid, number);
}

/* Waits for the end of the server, which is made to end after this long. Returns whether it ended by itself. */
static bool end(struct image *image, int64_t ms, int *status, char *text, size_t room)
{
    pid_t pid = image->pid;
    bool ended = wait_for(pid, ms, status);

    if (!ended) {
        stop(image, SIGTERM);
        if (!wait_for(pid, at_most(image, TERM_MS), status)) {
            stop(image, SIGKILL);
            /* One that the kernel holds ends when that lets go of it. */
            wait_for(pid, at_most(image, TERM_MS), status);
        }
    }
    read_messages(image->messages, text, room);
    close(image->messages);
    image->pid = 0;
    return ended;
}

/* Returns 0 or an exit code, after a message. */
static int check_end(const struct image *image, int status, const char *text)
{
    if (WIFSIGNALED(status))
        return fail(EXIT_LOCAL, "%s: qemu-nbd was killed by signal %d", image->name, WTERMSIG(status));
    if (WEXITSTATUS(status) == NOT_INSTALLED && text[0] == '\0')
        return fail(EXIT_LOCAL, "%s: qemu-nbd cannot be started: install qemu-utils (Debian) or qemu-img (Fedora)",
                    image->name);
    if (WEXITSTATUS(status) != 0)
        return fail(EXIT_LOCAL, "%s: qemu-nbd ended with status %d%s%s", image->name, WEXITSTATUS(status),
                    text[0] != '\0' ? ": " : "", text);
    if (text[0] != '\0')
        warn("%s: %s", image->name, text);
    return 0;
}

int image_wait(struct image *image, int result)
{
    char text[1024];
    int status;

    if (!end(image, result != 0 ? at_most(image, GRACE_MS) : image->timeout_ms, &status, text, sizeof(text)) && result == 0)
        return fail(EXIT_LOCAL, "%s: qemu-nbd did not end within %lld ms", image->name, (long long)image->timeout_ms);
    return result != 0 ? result : check_end(image, status, text);
}

int image_reason(struct image *image)
{
    char text[1024];
    int status;

    return end(image, at_most(image, GRACE_MS), &status, text, sizeof(text)) ? check_end(image, status, text) : 0;
}
