/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "servers.h"

#include <errno.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_ARGUMENTS = 40, START_MS = 20000 };

static bool is_installed(const char *program)
{
    const char *path = getenv("PATH");
    char name[512];

    while (path != NULL && *path != '\0') {
        size_t length = strcspn(path, ":");

        snprintf(name, sizeof name, "%.*s/%s", (int)length, path, program);
        if (access(name, X_OK) == 0)
            return true;
        path += length + (path[length] == ':');
    }
    return false;
}

/* Starts a program that ends with this process. Its output goes to a file of the case. */
static pid_t spawn(const char *const *arguments)
{
    pid_t pid;

    if (!is_installed(arguments[0]))
        skip("%s is not installed", arguments[0]);
    pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        int fd = open("output", O_WRONLY | O_CREAT | O_APPEND, 0600);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        /* No leftover of the case keeps a pipe or a socket open. */
        for (int other = 3; other < 256; other++)
            close(other);
        execvp(arguments[0], (char *const *)arguments);
        _exit(127);
    }
    return pid;
}

int run_program(const char *const *arguments)
{
    int status;
    pid_t pid = spawn(arguments);

    REQUIRE(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool accepts(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good;

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return good;
}

static void print_output(void)
{
    char line[512];
    FILE *file = fopen("output", "r");

    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        fprintf(stderr, "# %s", line);
    if (file != NULL)
        fclose(file);
}

/* Waits until the server listens: nbdkit and qemu-nbd then write their process id into a file. */
static void wait_until_ready(struct server *server, const char *pid_file)
{
    int64_t limit = harness_now() + START_MS * (int64_t)harness_slowness();

    while (access(pid_file, F_OK) != 0) {
        int status;

        if (waitpid(server->pid, &status, WNOHANG) == server->pid || harness_now() > limit) {
            print_output();
            harness_fail(__FILE__, __LINE__, "the server did not start");
            _exit(1);
        }
        poll(NULL, 0, 5);
    }
}

static void start(struct server *server, const char *const *first, const char *const *arguments,
                  const char *pid_file)
{
    const char *all[MOST_ARGUMENTS];
    size_t count = 0;

    while (*first != NULL)
        all[count++] = *first++;
    while (*arguments != NULL && count < MOST_ARGUMENTS - 1)
        all[count++] = *arguments++;
    all[count] = NULL;
    unlink(pid_file);
    server->pid = spawn(all);
    wait_until_ready(server, pid_file);
    snprintf(server->uri, sizeof server->uri, "nbd+unix:///?socket=%s", server->socket);
}

static void name(struct server *server, char *pid_file, size_t size)
{
    static int number;
    char directory[64];

    REQUIRE(getcwd(directory, sizeof directory) != NULL);
    number++;
    snprintf(server->socket, sizeof server->socket, "%s/%d.sock", directory, number);
    snprintf(pid_file, size, "%s/%d.pid", directory, number);
}

void nbdkit_start(struct server *server, const char *const *arguments)
{
    char pid_file[96];

    name(server, pid_file, sizeof pid_file);
    start(server, (const char *const[]){ "nbdkit", "-f", "-U", server->socket, "-P", pid_file, NULL }, arguments,
          pid_file);
}

int free_port(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    REQUIRE(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

void nbdkit_start_tcp(struct server *server, int port, const char *const *arguments)
{
    char pid_file[96], number[16];

    name(server, pid_file, sizeof pid_file);
    snprintf(number, sizeof number, "%d", port);
    start(server, (const char *const[]){ "nbdkit", "-f", "-i", "127.0.0.1", "-p", number, "-P", pid_file, NULL },
          arguments, pid_file);
    snprintf(server->uri, sizeof server->uri, "nbd://127.0.0.1:%d", port);
}

void nbdkit_start_vsock(struct server *server, int port, const char *const *arguments)
{
    struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = (unsigned)port };
    char pid_file[96], number[16];
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        skip("the kernel has no AF_VSOCK: %s", strerror(errno));
    /* No server listens yet: a kernel that has a loopback resets the connection, any other fails in another way. */
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != ECONNRESET && errno != ECONNREFUSED) {
        int error = errno;

        close(fd);
        skip("the kernel has no loopback of AF_VSOCK (module vsock_loopback): %s", strerror(error));
    }
    close(fd);
    name(server, pid_file, sizeof pid_file);
    snprintf(number, sizeof number, "%d", port);
    start(server, (const char *const[]){ "nbdkit", "-f", "--vsock", "-p", number, "-P", pid_file, NULL }, arguments,
          pid_file);
    snprintf(server->uri, sizeof server->uri, "nbd+vsock://1:%d", port);
}

void qemu_nbd_start(struct server *server, const char *const *arguments)
{
    char pid_option[128], pid_file[96];

    name(server, pid_file, sizeof pid_file);
    snprintf(pid_option, sizeof pid_option, "--pid-file=%s", pid_file);
    start(server, (const char *const[]){ "qemu-nbd", "-t", "-e", "8", "-k", server->socket, pid_option, NULL },
          arguments, pid_file);
    REQUIRE(accepts(server->socket));
}

int server_stop(struct server *server)
{
    int status = 0;

    kill(server->pid, SIGCONT);
    kill(server->pid, SIGTERM);
    REQUIRE(waitpid(server->pid, &status, 0) == server->pid);
    server->pid = 0;
    return status;
}

void server_kill(struct server *server)
{
    kill(server->pid, SIGKILL);
    REQUIRE(waitpid(server->pid, NULL, 0) == server->pid);
    server->pid = 0;
}

int sparse_image(const char *name)
{
    static const struct piece layout[] = { DATA(1 * MiB), HOLE(3 * MiB), DATA(100 * KiB),
                                           HOLE(SPARSE_SIZE - 4 * MiB - 100 * KiB) };
    int fd = file_new(name);

    file_lay_out(fd, 0, layout, COUNT(layout), 7);
    file_resize(fd, SPARSE_SIZE);
    return fd;
}

struct sparsestream_nbd *open_export(const char *uri, const struct sparsestream_nbd_options *options)
{
    struct sparsestream_nbd *export = NULL;
    int r = sparsestream_nbd_open(uri, options, &export);

    if (r != 0) {
        harness_fail_code(__FILE__, __LINE__, uri, r, 0, sparsestream_nbd_last_error());
        print_output();
        _exit(1);
    }
    return export;
}

struct sparsestream_source *export_source(const char *uri, const struct sparsestream_nbd_options *options,
                                          const struct sparsestream_nbd_end_options *end)
{
    struct sparsestream_nbd *export = open_export(uri, options);
    struct sparsestream_source *source = NULL;

    CHECK_CODE(sparsestream_nbd_source(export, end, &source), 0);
    sparsestream_nbd_free(export);
    return source;
}

struct sparsestream_sink *export_sink(const char *uri, const struct sparsestream_nbd_options *options,
                                      const struct sparsestream_nbd_end_options *end)
{
    struct sparsestream_nbd *export = open_export(uri, options);
    struct sparsestream_sink *sink = NULL;

    CHECK_CODE(sparsestream_nbd_sink(export, end, &sink), 0);
    sparsestream_nbd_free(export);
    return sink;
}

struct sparsestream_source *file_source(int fd)
{
    struct sparsestream_source *source = NULL;

    CHECK_CODE(sparsestream_source_from_fd(fd, NULL, &source), 0);
    return source;
}

struct sparsestream_sink *file_sink(int fd)
{
    struct sparsestream_sink *sink = NULL;

    CHECK_CODE(sparsestream_sink_to_fd(fd, NULL, &sink), 0);
    return sink;
}

/* Waits for what a transfer waits for. */
static void rest(struct sparsestream_transfer *transfer)
{
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct pollfd fds[8];

    CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
    for (int i = 0; i < wait.count; i++)
        fds[i] = (struct pollfd){ .fd = wait.fds[i].fd, .events = (short)wait.fds[i].events };
    REQUIRE(wait.count > 0 || wait.timeout_ms >= 0);
    poll(fds, (nfds_t)wait.count, wait.timeout_ms);
}

struct outcome move(struct sparsestream_source *source, struct sparsestream_sink *sink,
                    const struct sparsestream_transfer_options *options)
{
    struct outcome outcome = { .error = { .size = sizeof outcome.error }, .stats = { .size = sizeof outcome.stats } };
    struct sparsestream_transfer *transfer = NULL;

    outcome.r = sparsestream_transfer_new(source, sink, options, &transfer);
    REQUIRE(outcome.r == 0);
    while ((outcome.r = sparsestream_transfer_run(transfer, 0)) == -EAGAIN)
        rest(transfer);
    if (outcome.r < 0)
        CHECK_CODE(sparsestream_transfer_error(transfer, &outcome.error), 0);
    CHECK_CODE(sparsestream_transfer_stats(transfer, &outcome.stats), 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return outcome;
}
