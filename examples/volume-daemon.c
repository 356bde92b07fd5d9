/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A small storage daemon: serves the files and block devices of one directory as volumes over a Unix socket.
 *
 *     cc -o volume-daemon volume-daemon.c volume-listener.c volume-log.c volume-options.c volume-session.c \
 *         volume-store.c volume-protocol.c $(pkg-config --cflags --libs sparsestream)
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
#include "volume-listener.h"
#include "volume-log.h"
#include "volume-options.h"
#include "volume-session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    TURNS_MS = 10,      /* of turns between two looks at epoll */
    FAREWELL_MS = 1000, /* to report the cancel to the clients */
    PAUSE_MS = 200,     /* without accepting clients, after accept(2) failed */
};

struct client {
    TAILQ_ENTRY(client) all, next; /* next: in the queue of those that have something to do */
    bool queued;
    uid_t user;
    uint32_t watched; /* by epoll */
    int64_t deadline; /* in milliseconds; -1: none */
    uint64_t moved;   /* over the socket, when the deadline was set */
    struct volume_session session;
};

TAILQ_HEAD(clients, client);

static struct {
    struct volume_options options;
    struct volume_service service;
    struct volume_listener listener;
    int epoll, signals;
    struct clients clients, queue;
    int64_t count;     /* of clients */
    int64_t listen_at; /* accepting is paused until then; 0: it is not */
    int64_t stop_at;   /* the end of the period of grace; 0: the daemon is not stopping */
    bool cancelled;
} server;

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Clients. */

/* Calls are short, and go before transfers. */
static void enqueue(struct client *client, bool woken)
{
    if (client->queued)
        return;
    client->queued = true;
    if (woken && session_state(&client->session) != VOLUME_TRANSFER)
        TAILQ_INSERT_HEAD(&server.queue, client, next);
    else
        TAILQ_INSERT_TAIL(&server.queue, client, next);
}

static void client_free(struct client *client)
{
    if (client->queued)
        TAILQ_REMOVE(&server.queue, client, next);
    TAILQ_REMOVE(&server.clients, client, all);
    server.count--;
    session_close(&client->session);
    close(client->session.channel.fd); /* this also removes it from epoll */
    free(client);
}

/* Makes a client of a connection, unless there are too many of them, or of this user. */
static void client_new(int fd)
{
    struct epoll_event event = { .events = EPOLLIN };
    struct client *client = calloc(1, sizeof(*client)), *other;
    struct ucred peer = { .uid = (uid_t)-1 };
    socklen_t length = sizeof(peer);
    static unsigned numbers;
    int64_t own = 0;

    event.data.ptr = client;
    if (client == NULL || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
        say("a new client: %s", strerror(errno));
        free(client);
        close(fd);
        return;
    }
    *client = (struct client){ .user = peer.uid, .watched = EPOLLIN, .deadline = -1 };
    session_open(&client->session, &server.service, ++numbers, fd);
    TAILQ_FOREACH(other, &server.clients, all)
        own += other->user == client->user;
    TAILQ_INSERT_TAIL(&server.clients, client, all);
    server.count++;
    if (server.count > server.options.max_clients || own >= server.options.max_user) {
        say("client %u of user %u is refused: there are %lld", client->session.number, (unsigned)client->user,
            (long long)server.count - 1);
        if (volume_queue_words(&client->session.channel, VOLUME_REPLY, 0, EUSERS, "too many clients") == 0)
            (void)volume_flush(&client->session.channel);
        client_free(client);
    } else if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        session_drop(&client->session, -errno, "epoll");
        client_free(client);
    } else {
        enqueue(client, false);
    }
}

static void listen_again(bool on)
{
    struct epoll_event event = { .events = on ? EPOLLIN : 0, .data.ptr = &server.listener };

    server.listen_at = on ? 0 : now_ms() + PAUSE_MS;
    epoll_ctl(server.epoll, EPOLL_CTL_MOD, server.listener.fd, &event);
}

static void accept_clients(void)
{
    for (int i = 0; i < 8; i++) {
        int fd = accept4(server.listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            client_new(fd);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            if (errno != EAGAIN) {
                /* Out of descriptors or memory: epoll would report the connection again and again. */
                say("accept: %s", strerror(errno));
                listen_again(false);
            }
            return;
        }
    }
}

/* Sets the events that wake a waiting client: its socket, or its deadline. */
static int client_wait(struct client *client)
{
    struct volume_session *session = &client->session;
    const struct volume_channel *channel = &session->channel;
    struct epoll_event event = { .events = channel->wants == POLLOUT ? EPOLLOUT : EPOLLIN, .data.ptr = client };
    enum volume_state state = session_state(session);
    int64_t limit = state == VOLUME_IDLE ? server.options.idle_ms : server.options.stall_ms, now = now_ms();

    if (state == VOLUME_TRANSFER) {
        sparsestream_wait wait = { .size = sizeof(wait) };
        int r = sparsestream_transfer_wait(session->transfer, &wait);

        if (r < 0)
            return r;
        client->deadline = wait.timeout_ms >= 0 ? now + wait.timeout_ms : -1;
        event.events |= EPOLLIN; /* of a download: the receiver's failure */
    } else if (limit == 0) {
        client->deadline = -1;
    } else if (client->deadline < 0 || client->moved != channel->sent + channel->received) {
        client->deadline = now + limit;
        client->moved = channel->sent + channel->received;
    }
    if (event.events != client->watched && epoll_ctl(server.epoll, EPOLL_CTL_MOD, channel->fd, &event) < 0)
        return -errno;
    client->watched = event.events;
    return 0;
}

static void run_queue(void)
{
    int64_t until = now_ms() + TURNS_MS;

    while (!TAILQ_EMPTY(&server.queue) && now_ms() < until) {
        struct client *client = TAILQ_FIRST(&server.queue);
        struct volume_session *session = &client->session;
        enum volume_state before = session_state(session);
        enum volume_turn turn;
        int r;

        TAILQ_REMOVE(&server.queue, client, next);
        client->queued = false;
        turn = session->turn(session);
        if (session_state(session) != before)
            client->deadline = -1;
        if (turn == VOLUME_WAIT && (r = client_wait(client)) < 0)
            turn = session_drop(session, r, "wait");
        if (turn == VOLUME_AGAIN)
            enqueue(client, false);
        else if (turn == VOLUME_DROP)
            client_free(client);
    }
}

/* Ends clients whose deadline has passed. Returns the milliseconds until the next deadline, or -1 if there is none. */
static int check_deadlines(void)
{
    int64_t now = now_ms(), next = INT64_MAX;
    struct client *client, *following;

    if (server.stop_at != 0)
        next = server.stop_at;
    else if (server.listen_at != 0 && now >= server.listen_at)
        listen_again(true);
    else if (server.listen_at != 0)
        next = server.listen_at;
    for (client = TAILQ_FIRST(&server.clients); client != NULL; client = following) {
        following = TAILQ_NEXT(client, all);
        if (client->deadline < 0 || client->queued)
            continue;
        if (client->deadline > now) {
            next = client->deadline < next ? client->deadline : next;
        } else if (session_state(&client->session) == VOLUME_TRANSFER) {
            enqueue(client, true); /* the transfer itself reports which side was late */
        } else {
            session_drop(&client->session, -ETIMEDOUT, "wait for the client");
            client_free(client);
        }
    }
    if (!TAILQ_EMPTY(&server.queue))
        return 0;
    return next == INT64_MAX ? -1 : next <= now ? 0 : next - now > INT32_MAX ? INT32_MAX : (int)(next - now);
}

/* After the first signal no more clients are accepted and transfers continue; the second one does not wait
 * for them. */
static void stop(void)
{
    struct client *client;

    if (server.stop_at != 0) {
        server.stop_at = now_ms();
        return;
    }
    server.stop_at = now_ms() + server.options.grace_ms;
    server.service.stopping = true;
    listener_close(&server.listener);
    say("stopping, %lld clients", (long long)server.count);
    TAILQ_FOREACH(client, &server.clients, all)
        enqueue(client, false);
}

/* At the end of the period of grace transfers are cancelled, and a little later all clients are dropped. */
static void stop_late(void)
{
    struct client *client;

    if (server.stop_at == 0 || now_ms() < server.stop_at)
        return;
    while (server.cancelled && (client = TAILQ_FIRST(&server.clients)) != NULL) {
        session_drop(&client->session, -ECANCELED, "dropped");
        client_free(client);
    }
    server.cancelled = true;
    server.stop_at = now_ms() + FAREWELL_MS;
    TAILQ_FOREACH(client, &server.clients, all) {
        if (client->session.transfer != NULL)
            (void)sparsestream_transfer_cancel(client->session.transfer);
        enqueue(client, false);
    }
}

static int serve(void)
{
    while (server.stop_at == 0 || server.count > 0) {
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
                enqueue(events[i].data.ptr, true);
            } else if (server.stop_at == 0) {
                accept_clients();
            }
        }
        stop_late();
        run_queue();
    }
    return 0;
}

/* Start and end. */

static int failed(const char *what)
{
    int error = errno;

    say("%s: %s", what, strerror(error));
    return -error;
}

static int open_server(void)
{
    struct epoll_event listener = { .events = EPOLLIN, .data.ptr = &server.listener };
    struct epoll_event signals = { .events = EPOLLIN, .data.ptr = &server.signals };
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
        epoll_ctl(server.epoll, EPOLL_CTL_ADD, server.listener.fd, &listener) < 0 ||
        epoll_ctl(server.epoll, EPOLL_CTL_ADD, server.signals, &signals) < 0)
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
    TAILQ_INIT(&server.clients);
    TAILQ_INIT(&server.queue);
    r = open_server();
    if (r == 0) {
        say("serving %s on %s: at most %lld clients of %zu KiB each", server.options.directory, server.options.socket,
            (long long)server.options.max_clients, (sizeof(struct client) + VOLUME_BUFFER + 1023) / 1024);
        r = serve();
        if (r < 0)
            failed("epoll");
        else
            say("stopped");
    }
    return r < 0 ? 1 : 0;
}
