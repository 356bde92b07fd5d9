/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Serves disk images over TLS: uploads and downloads, any number at a time, in one thread and one epoll
 * loop.
 *
 *     tls-daemon CERTIFICATE-FILE KEY-FILE DIRECTORY
 *
 *     cc -o tls-daemon -D_GNU_SOURCE tls-daemon.c tls-disk.c tls-transport.c $(pkg-config --cflags --libs sparsestream gnutls)
 *
 * Listens on a port of the loopback interface that the kernel chooses, and prints its number. Each
 * session is served one piece at a time, so that the other sessions do not wait for it. This is only an
 * example: it does not authenticate clients.
 */
#include "tls-disk.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE (1 << 20)
#define CLIENTS 64

struct client {
    gnutls_session_t session;
    int fd;
    enum { FREE, HANDSHAKE, REQUEST, TRANSFER } state;
    char request[REQUEST_SIZE];
    size_t length;
    struct disk disk;
    bool waits;     /* for its socket; otherwise it is served again at once */
    int timeout_ms; /* after which it is served in any case; -1: no limit */
    int tls_error;  /* the error that ended it before its transfer */
};

static gnutls_certificate_credentials_t credentials;
static struct client clients[CLIENTS];
static int loop;

static void end_client(struct client *client, int error)
{
    const char *words = client->tls_error != 0 ? gnutls_strerror(client->tls_error)
                        : client->state == TRANSFER ? sparsestream_last_error() : "";

    if (error == 0)
        printf("%.63s: done, resumed at %lld\n", client->request, (long long)client->disk.resumed);
    else
        printf("%.63s: %s\n", client->request, words[0] != '\0' ? words : strerror(-error));
    if (client->state == TRANSFER)
        disk_end(&client->disk);
    gnutls_deinit(client->session);
    close(client->fd);
    *client = (struct client){ .fd = -1 };
}

static void accept_client(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct client *client = clients;
    struct epoll_event event = { .events = 0 };

    while (client < clients + CLIENTS && client->state != FREE)
        client++;
    if (fd < 0 || client == clients + CLIENTS) {
        if (fd >= 0)
            close(fd);
        return;
    }
    *client = (struct client){ .fd = fd, .state = HANDSHAKE, .timeout_ms = -1, .disk.fd = -1 };
    gnutls_init(&client->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    gnutls_set_default_priority(client->session);
    gnutls_credentials_set(client->session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_transport_set_int(client->session, fd);
    event.data.ptr = client;
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
}

static int start_transfer(struct client *client)
{
    const char *name = client->request + 1;

    if (memchr(client->request, '\0', REQUEST_SIZE) == NULL || name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
        return -EINVAL;
    client->state = TRANSFER;
    return client->request[0] == 'd' ? disk_send(&client->disk, client->session, name)
                                     : disk_receive(&client->disk, client->session, name);
}

static int ended(struct client *client, int error)
{
    if (!gnutls_error_is_fatal(error))
        return -EAGAIN;
    client->tls_error = error;
    return -ECONNABORTED;
}

/* A piece of work. Returns as `disk_step`. */
static int step(struct client *client)
{
    int r;

    switch (client->state) {
    case HANDSHAKE:
        r = gnutls_handshake(client->session);
        if (r < 0)
            return ended(client, r);
        client->state = REQUEST;
        return 1;
    case REQUEST:
        r = (int)gnutls_record_recv(client->session, client->request + client->length, REQUEST_SIZE - client->length);
        if (r <= 0)
            return ended(client, r == 0 ? GNUTLS_E_PREMATURE_TERMINATION : r);
        client->length += (size_t)r;
        if (client->length < REQUEST_SIZE)
            return 1;
        r = start_transfer(client);
        return r < 0 ? r : 1;
    case TRANSFER:
        return disk_step(&client->disk, PIECE);
    default:
        return -EINVAL;
    }
}

static void serve(struct client *client)
{
    sparsestream_wait wait = { .size = sizeof(wait), .fd = client->fd, .timeout_ms = -1 };
    struct epoll_event event = { .data.ptr = client };
    int r = step(client);

    if (r != 1 && r != -EAGAIN) {
        end_client(client, r);
        return;
    }
    client->waits = r == -EAGAIN;
    if (!client->waits)
        return;
    wait.events = gnutls_record_get_direction(client->session) == 1 ? POLLOUT : POLLIN;
    if (client->state == TRANSFER)
        disk_wait(&client->disk, &wait);
    client->timeout_ms = wait.timeout_ms;
    client->waits = wait.timeout_ms != 0;
    if (wait.fd == client->fd) {
        event.events = (wait.events & POLLIN ? EPOLLIN : 0) | (wait.events & POLLOUT ? EPOLLOUT : 0);
        epoll_ctl(loop, EPOLL_CTL_MOD, client->fd, &event);
    }
}

static int next_timeout(void)
{
    int timeout = -1;

    for (struct client *client = clients; client < clients + CLIENTS; client++) {
        if (client->state == FREE)
            continue;
        if (!client->waits)
            return 0;
        if (client->timeout_ms >= 0 && (timeout < 0 || client->timeout_ms < timeout))
            timeout = client->timeout_ms;
    }
    return timeout;
}

static int listen_somewhere(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, CLIENTS) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        perror("listen");
        exit(1);
    }
    printf("port %d\n", ntohs(address.sin_port));
    return fd;
}

int main(int argc, char **argv)
{
    struct epoll_event events[CLIENTS], event = { .events = EPOLLIN };
    int listener, r;

    setvbuf(stdout, NULL, _IOLBF, 0);
    gnutls_certificate_allocate_credentials(&credentials);
    r = argc != 4 ? GNUTLS_E_INVALID_REQUEST
                  : gnutls_certificate_set_x509_key_file(credentials, argv[1], argv[2], GNUTLS_X509_FMT_PEM);
    if (r < 0 || chdir(argv[3]) < 0) {
        fprintf(stderr, "usage: tls-daemon CERTIFICATE-FILE KEY-FILE DIRECTORY (%s)\n", gnutls_strerror(r));
        return 2;
    }
    listener = listen_somewhere();
    loop = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int timeout = next_timeout();
        int count = epoll_wait(loop, events, CLIENTS, timeout);

        if (count < 0 && errno != EINTR)
            return 1;
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;

            if (client == NULL)
                accept_client(listener);
            else
                client->waits = false;
        }
        for (struct client *client = clients; client < clients + CLIENTS; client++) {
            if (client->state != FREE && (!client->waits || (count == 0 && client->timeout_ms >= 0)))
                serve(client);
        }
    }
}
