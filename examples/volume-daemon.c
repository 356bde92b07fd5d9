/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A small storage daemon: serves the files and block devices of one directory as volumes over a Unix socket.
 *
 *     cc -o volume-daemon volume-daemon.c volume-clients.c volume-listener.c volume-log.c volume-options.c \
 *         volume-session.c volume-store.c volume-protocol.c $(pkg-config --cflags --libs sparsestream)
 *
 * One thread and one epoll serve all clients. Transfers take turns: each is run with a budget, and waits in
 * epoll while its client is not ready. So a slow client costs nothing, a huge hole does not delay other
 * clients, and the memory for a client does not depend on its data. Only the disk can delay all clients.
 *
 * The mode of the socket, 0600, decides who may connect. The resources of a client are limited: see volume-options.c.
 * SIGTERM and SIGINT give transfers a period of grace, and then end the daemon; the second signal ends it at
 * once.
 */

#define _GNU_SOURCE
#include "volume-clients.h"
#include "volume-listener.h"
#include "volume-log.h"
#include "volume-options.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum {
    TURNS_MS = 10,      /* of turns between two looks at epoll */
    FAREWELL_MS = 1000, /* to report the cancel to the clients */
    PAUSE_MS = 200,     /* without accepting clients, after accept(2) failed */
};

static struct {
    struct volume_options options;
    struct volume_service service;
    struct volume_listener listener;
    struct volume_clients clients;
    int epoll, signals;
    int64_t listen_at; /* accepting is paused until then; 0: it is not */
    int64_t stop_at;   /* the end of the period of grace; 0: the daemon is not stopping */
    bool cancelled;
} server;

static int watch(int operation, int fd, uint32_t events, void *who)
{
    struct epoll_event event = { .events = events, .data.ptr = who };

    return epoll_ctl(server.epoll, operation, fd, &event);
}

/* Connections. */

static void listen_again(bool on)
{
    server.listen_at = on ? 0 : now_ms() + PAUSE_MS;
    (void)watch(EPOLL_CTL_MOD, server.listener.fd, on ? EPOLLIN : 0, &server.listener);
}

static void accept_clients(void)
{
    for (int i = 0; i < 8; i++) {
        struct volume_client *client;
        uid_t user;
        int fd = listener_accept(&server.listener, &user);

        if (fd < 0 && errno != EAGAIN) {
            /* Out of descriptors or memory: epoll would report the connection again and again. */
            say("accept: %s", strerror(errno));
            listen_again(false);
        }
        if (fd < 0)
            return;
        client = clients_add(&server.clients, &server.service, fd, user);
        if (client != NULL && watch(EPOLL_CTL_ADD, fd, client->watched, client) < 0) {
            session_drop(&client->session, -errno, "epoll");
            clients_remove(&server.clients, client);
        }
    }
}

/* Turns. */

/* Does what the last turn of a client has come to. */
static void settle(struct volume_client *client, enum volume_turn turn)
{
    struct volume_session *session = &client->session;
    uint32_t events = (session->events & POLLIN ? EPOLLIN : 0) | (session->events & POLLOUT ? EPOLLOUT : 0);

    if (turn == VOLUME_WAIT && events != client->watched) {
        client->watched = events;
        if (watch(EPOLL_CTL_MOD, session->channel.fd, events, client) < 0)
            turn = session_drop(session, -errno, "epoll");
    }
    if (turn == VOLUME_AGAIN)
        clients_enqueue(&server.clients, client, false);
    else if (turn == VOLUME_DROP)
        clients_remove(&server.clients, client);
}

static void run_queue(void)
{
    int64_t until = now_ms() + TURNS_MS;
    struct volume_client *client;

    while (now_ms() < until && (client = clients_dequeue(&server.clients)) != NULL)
        settle(client, session_turn(&client->session));
}

/* Ends clients whose deadline has passed. Returns the milliseconds until the next deadline, or -1 if there is none. */
static int check_deadlines(void)
{
    int64_t now = now_ms(), next = INT64_MAX;
    struct volume_client *client, *following;

    if (server.stop_at != 0)
        next = server.stop_at;
    else if (server.listen_at != 0 && now >= server.listen_at)
        listen_again(true);
    else if (server.listen_at != 0)
        next = server.listen_at;
    for (client = TAILQ_FIRST(&server.clients.all); client != NULL; client = following) {
        int64_t deadline = client->session.deadline;

        following = TAILQ_NEXT(client, all);
        if (deadline < 0 || client->queued)
            continue;
        if (deadline <= now)
            settle(client, session_late(&client->session));
        else if (deadline < next)
            next = deadline;
    }
    if (!TAILQ_EMPTY(&server.clients.queue))
        return 0;
    return next == INT64_MAX ? -1 : next <= now ? 0 : next - now > INT32_MAX ? INT32_MAX : (int)(next - now);
}

/* The end. */

/* After the first signal no more clients are accepted and transfers continue; the second one does not wait
 * for them. */
static void stop(void)
{
    struct volume_client *client;

    if (server.stop_at != 0) {
        server.stop_at = now_ms();
        return;
    }
    server.stop_at = now_ms() + server.options.grace_ms;
    server.service.stopping = true;
    listener_close(&server.listener);
    say("stopping, %lld clients", (long long)server.clients.count);
    TAILQ_FOREACH(client, &server.clients.all, all)
        clients_enqueue(&server.clients, client, false);
}

/* At the end of the period of grace transfers are cancelled, and a little later all clients are dropped. */
static void stop_late(void)
{
    struct volume_client *client;

    if (server.stop_at == 0 || now_ms() < server.stop_at)
        return;
    while (server.cancelled && (client = TAILQ_FIRST(&server.clients.all)) != NULL) {
        session_drop(&client->session, -ECANCELED, "dropped");
        clients_remove(&server.clients, client);
    }
    server.cancelled = true;
    server.stop_at = now_ms() + FAREWELL_MS;
    TAILQ_FOREACH(client, &server.clients.all, all) {
        if (client->session.transfer != NULL)
            (void)sparsestream_transfer_cancel(client->session.transfer);
        clients_enqueue(&server.clients, client, false);
    }
}

static int serve(void)
{
    while (server.stop_at == 0 || server.clients.count > 0) {
        struct epoll_event events[64];
        int n = epoll_wait(server.epoll, events, 64, check_deadlines());

        if (n < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < n; i++) {
            struct signalfd_siginfo signal;

            if (events[i].data.ptr == &server.signals) {
                if (read(server.signals, &signal, sizeof(signal)) == (ssize_t)sizeof(signal))
                    stop();
            } else if (events[i].data.ptr != &server.listener) {
                clients_enqueue(&server.clients, events[i].data.ptr, true);
            } else if (server.stop_at == 0) {
                accept_clients();
            }
        }
        stop_late();
        run_queue();
    }
    return 0;
}

/* The start. */

static int failed(const char *what)
{
    int error = errno;

    say("%s: %s", what, strerror(error));
    return -error;
}

static int open_server(void)
{
    char words[VOLUME_WORDS_MAX + 1];
    sigset_t set;
    int r;

    server.service.options = &server.options;
    r = store_open(&server.service.store, server.options.directory, server.options.max_size, words);
    if (r < 0) {
        say("%s", words);
        return r;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    server.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (listener_open(&server.listener, server.options.socket) < 0)
        return failed(server.options.socket);
    if (server.signals < 0 || server.epoll < 0 ||
        watch(EPOLL_CTL_ADD, server.listener.fd, EPOLLIN, &server.listener) < 0 ||
        watch(EPOLL_CTL_ADD, server.signals, EPOLLIN, &server.signals) < 0)
        return failed("epoll");
    return 0;
}

int main(int argc, char **argv)
{
    int r;

    if (log_open() < 0)
        return 1;
    options_parse(&server.options, argc, argv);
    log_limit(server.options.log_lines);
    clients_init(&server.clients, &server.options);
    r = open_server();
    if (r == 0) {
        say("serving %s on %s: at most %lld clients of %zu KiB each", server.options.directory, server.options.socket,
            (long long)server.options.max_clients, (sizeof(struct volume_client) + VOLUME_BUFFER + 1023) / 1024);
        r = serve();
        if (r < 0)
            failed("epoll");
        else
            say("stopped");
    }
    return r < 0 ? 1 : 0;
}
