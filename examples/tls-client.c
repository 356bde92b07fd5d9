/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Uploads a disk image to tls-daemon, or downloads one, with its holes. Resumes an interrupted transfer.
 *
 *     tls-client upload|download PORT CA-FILE FILE [BYTES-A-SECOND]
 *
 *     cc -o tls-client -D_GNU_SOURCE tls-client.c tls-disk.c tls-transport.c $(pkg-config --cflags --libs sparsestream gnutls)
 *
 * The image has the name of FILE at the daemon, without its directory. This program waits in one place,
 * `wait_for`. The daemon does the same for many sessions in one loop.
 */
#include "tls-disk.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int connect_to(int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

static void wait_for(int fd, int events, int timeout)
{
    struct pollfd ready = { .fd = fd, .events = (short)events };

    poll(&ready, 1, timeout);
}

static gnutls_session_t start_session(gnutls_certificate_credentials_t credentials, int fd, const char *request)
{
    gnutls_session_t session;
    int r;

    gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    gnutls_set_default_priority(session);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_server_name_set(session, GNUTLS_NAME_DNS, "localhost", strlen("localhost"));
    gnutls_session_set_verify_cert(session, "localhost", 0);
    gnutls_transport_set_int(session, fd);
    while ((r = gnutls_handshake(session)) == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED)
        wait_for(fd, gnutls_record_get_direction(session) == 1 ? POLLOUT : POLLIN, -1);
    if (r < 0) {
        gnutls_alert_send_appropriate(session, r);
        fprintf(stderr, "tls-client: handshake: %s\n", gnutls_strerror(r));
        exit(1);
    }
    while ((r = (int)gnutls_record_send(session, request, REQUEST_SIZE)) == GNUTLS_E_AGAIN)
        wait_for(fd, POLLOUT, -1);
    return session;
}

static int transfer(struct disk *disk)
{
    sparsestream_wait wait = { .size = sizeof(wait) };
    int r;

    while ((r = disk_step(disk, 0)) == -EAGAIN || r == 1) {
        if (r == -EAGAIN && disk_wait(disk, &wait) == 0)
            wait_for(wait.fd, wait.events, wait.timeout_ms);
    }
    return r;
}

int main(int argc, char **argv)
{
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    struct disk disk = { .fd = -1 };
    char request[REQUEST_SIZE] = "";
    const char *name;
    int fd, r;

    if (argc < 5 || (strcmp(argv[1], "upload") != 0 && strcmp(argv[1], "download") != 0)) {
        fprintf(stderr, "usage: tls-client upload|download PORT CA-FILE FILE [BYTES-A-SECOND]\n");
        return 2;
    }
    name = strrchr(argv[4], '/') != NULL ? strrchr(argv[4], '/') + 1 : argv[4];
    snprintf(request, sizeof(request), "%c%s", argv[1][0], name);
    disk.rate = argc > 5 ? atoll(argv[5]) : 0;
    gnutls_certificate_allocate_credentials(&credentials);
    if (gnutls_certificate_set_x509_trust_file(credentials, argv[3], GNUTLS_X509_FMT_PEM) < 1) {
        fprintf(stderr, "tls-client: %s: no certificate\n", argv[3]);
        return 1;
    }
    fd = connect_to(atoi(argv[2]));
    session = start_session(credentials, fd, request);
    r = request[0] == 'u' ? disk_send(&disk, session, argv[4]) : disk_receive(&disk, session, argv[4]);
    if (r == 0)
        r = transfer(&disk);
    if (r < 0)
        fprintf(stderr, "tls-client: %s\n", sparsestream_last_error()[0] != '\0' ? sparsestream_last_error() : strerror(-r));
    else if (disk.resumed > 0)
        printf("resumed at %lld\n", (long long)disk.resumed);
    disk_end(&disk);
    gnutls_deinit(session);
    gnutls_certificate_free_credentials(credentials);
    close(fd);
    return r < 0 ? 1 : 0;
}
