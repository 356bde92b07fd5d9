/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The way to the peer: standard input and output, an address, or a command. */

#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* The command gets one end of a socket pair as its standard input and output. */
static int spawn_command(const struct settings *settings, struct connection *connection)
{
    char *arguments[] = { "sh", "-c", (char *)settings->command_line, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return fail_errno("--exec", "socketpair", errno);
    tune_socket(pair[0], AF_UNIX);
    tune_socket(pair[1], AF_UNIX);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    r = posix_spawn_file_actions_init(&actions);
    if (r == 0) {
        r = posix_spawnattr_init(&attributes);
        if (r == 0) {
            r = posix_spawn_file_actions_adddup2(&actions, pair[1], STDIN_FILENO);
            if (r == 0)
                r = posix_spawn_file_actions_adddup2(&actions, pair[1], STDOUT_FILENO);
            if (r == 0)
                r = posix_spawnattr_setsigdefault(&attributes, &defaults);
            if (r == 0)
                r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
            if (r == 0)
                r = posix_spawn(&connection->child, "/bin/sh", &actions, &attributes, arguments, environ);
            posix_spawnattr_destroy(&attributes);
        }
        posix_spawn_file_actions_destroy(&actions);
    }
    close(pair[1]);
    if (r != 0) {
        close(pair[0]);
        return fail_errno("--exec", "sh", r);
    }
    connection->owned = pair[0];
    return 0;
}

/* A pipe of the usual size holds so little that both ends would mostly wait for each other. */
static void widen_pipe(int fd)
{
    enum { ROOM = 1 << 20 };
    int room = fcntl(fd, F_GETPIPE_SZ);

    /* It is not a pipe, or more is not allowed: it carries as much, only slower. */
    if (room >= 0 && room < ROOM)
        fcntl(fd, F_SETPIPE_SZ, ROOM);
}

/* Answers can go to standard output unless somebody would see them there. */
static bool can_answer(const char *file)
{
    int flags = fcntl(STDOUT_FILENO, F_GETFL);

    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && !isatty(STDOUT_FILENO) && strcmp(file, "-") != 0;
}

static int use_standard(const struct settings *settings, bool sending, const char *file,
                        struct connection *connection)
{
    if (sending) {
        if (settings->answers && strcmp(file, "-") == 0)
            return usage(settings, "--answers: standard input is the file to send, so it cannot carry the answers");
        if (isatty(STDOUT_FILENO))
            return usage(settings, "standard output is a terminal: give --connect, --listen or --exec, or a pipe");
        connection->write_fd = STDOUT_FILENO;
        connection->read_fd = settings->answers ? STDIN_FILENO : -1;
        connection->name = "standard output";
        widen_pipe(STDOUT_FILENO);
    } else {
        if (isatty(STDIN_FILENO))
            return usage(settings, "standard input is a terminal: give --connect, --listen or --exec, or a pipe");
        connection->read_fd = STDIN_FILENO;
        connection->write_fd = can_answer(file) ? STDOUT_FILENO : -1;
        connection->name = "standard input";
        widen_pipe(STDIN_FILENO);
    }
    return 0;
}

static int use_socket(struct connection *connection)
{
    /* Then no call waits longer than --timeout allows. */
    if (fcntl(connection->owned, F_SETFL, O_NONBLOCK) < 0)
        return fail_errno(connection->name, "fcntl", errno);
    connection->read_fd = connection->write_fd = connection->owned;
    return 0;
}

int connection_open(const struct settings *settings, bool sending, const char *file,
                    struct connection *connection)
{
    int ways = (settings->connect != NULL) + (settings->listen != NULL) + (settings->command_line != NULL) +
               settings->answers;
    int r;

    *connection = (struct connection){ .read_fd = -1, .write_fd = -1, .owned = -1, .listener.fd = -1 };
    if (ways > 1)
        return usage(settings, sending ? "--connect, --listen, --exec and --answers cannot be combined"
                                       : "--connect, --listen and --exec cannot be combined");
    if (ways == 0 || settings->answers)
        return use_standard(settings, sending, file, connection);
    if (settings->listen != NULL) {
        connection->name = settings->listen;
        r = listener_open(settings, &connection->listener);
        if (r == 0)
            r = listener_accept(settings, &connection->listener, &connection->owned);
        if (r != 0)
            listener_close(&connection->listener);
    } else if (settings->command_line != NULL) {
        connection->name = settings->command_line;
        r = spawn_command(settings, connection);
    } else {
        connection->name = settings->connect;
        r = connect_to(settings, &connection->owned);
    }
    return r != 0 ? r : use_socket(connection);
}

bool connection_listens(const struct connection *connection)
{
    return connection->listener.fd >= 0;
}

int connection_drop(const struct settings *settings, struct connection *connection, const char *why)
{
    int r = listener_drop(&connection->listener, why);

    close(connection->owned);
    connection->owned = -1;
    if (r == 0)
        r = listener_accept(settings, &connection->listener, &connection->owned);
    return r != 0 ? r : use_socket(connection);
}

void connection_settle(struct connection *connection)
{
    listener_close(&connection->listener);
}

/* Waits for the command, which sees the end of its input. One that does not end is ended after `patience_ms`. */
static int wait_for_child(pid_t child, int64_t patience_ms)
{
    enum { STEP_MS = 10 };
    int64_t end = now_ms() + patience_ms;
    int number = SIGTERM, status = 0;
    pid_t r;

    while ((r = waitpid(child, &status, WNOHANG)) == 0 || (r < 0 && errno == EINTR)) {
        if (now_ms() >= end) {
            kill(child, number);
            end += patience_ms;
            number = SIGKILL;
        }
        sleep_ms(STEP_MS);
    }
    return status;
}

int connection_close(const struct settings *settings, struct connection *connection, int result)
{
    enum { PATIENCE_MS = 5000 };
    bool late = result != 0 && settings->timeout_ms != 0 && settings->timeout_ms < PATIENCE_MS;
    int status;

    listener_close(&connection->listener);
    if (connection->owned >= 0)
        close(connection->owned);
    connection->owned = -1;
    if (connection->child == 0)
        return result;
    /* After a success it may still have something to put away. */
    status = wait_for_child(connection->child, late ? settings->timeout_ms : PATIENCE_MS);
    connection->child = 0;
    /* The error of the transfer explains more than the exit status of its command. */
    if (result != 0 || status == 0)
        return result;
    if (WIFSIGNALED(status))
        return fail(EXIT_CUT, "%s: ended by signal %d", connection->name, WTERMSIG(status));
    return fail(EXIT_CUT, "%s: exited with %d", connection->name, WEXITSTATUS(status));
}
