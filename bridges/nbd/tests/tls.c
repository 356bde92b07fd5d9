/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* TLS with certificates of an own authority, and with pre-shared keys. */

#include "servers.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <unistd.h>

static void write_text(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

#define CERTTOOL(...) REQUIRE(RUN("certtool", __VA_ARGS__) == 0)

/* A key, and a certificate for it that `ca` signs, or that is an authority itself. */
static void certify(const char *name, const char *ca, const char *template)
{
    char key[64], certificate[64], ca_key[64], ca_certificate[64];

    snprintf(key, sizeof key, "%s-key.pem", name);
    snprintf(certificate, sizeof certificate, "%s-cert.pem", name);
    snprintf(ca_key, sizeof ca_key, "%s-key.pem", ca);
    snprintf(ca_certificate, sizeof ca_certificate, "%s-cert.pem", ca);
    write_text("template", template);
    CERTTOOL("--generate-privkey", "--key-type=ecdsa", "--outfile", key);
    if (strcmp(name, ca) == 0)
        CERTTOOL("--generate-self-signed", "--load-privkey", key, "--template", "template", "--outfile", certificate);
    else
        CERTTOOL("--generate-certificate", "--load-privkey", key, "--load-ca-certificate", ca_certificate,
                 "--load-ca-privkey", ca_key, "--template", "template", "--outfile", certificate);
}

/* The directories "server", "client", "stranger" of another authority, and "bare" with the authority only. */
static void make_certificates(void)
{
    certify("ca", "ca", "cn = \"authority\"\nca\ncert_signing_key\n");
    certify("other", "other", "cn = \"another\"\nca\ncert_signing_key\n");
    certify("server", "ca", "cn = \"localhost\"\ndns_name = \"localhost\"\ntls_www_server\nencryption_key\nsigning_key\n");
    certify("client", "ca", "cn = \"client\"\ntls_www_client\nencryption_key\nsigning_key\n");
    REQUIRE(RUN("sh", "-c",
                "mkdir server client bare stranger && cp ca-cert.pem server && cp ca-cert.pem client && cp ca-cert.pem bare &&"
                "cp server-*.pem server && cp client-*.pem client && cp other-cert.pem stranger/ca-cert.pem") == 0);
}

static int open_now(const char *uri, const struct sparsestream_nbd_options *options)
{
    struct sparsestream_nbd *export = NULL;
    int r = sparsestream_nbd_open(uri, options, &export);

    CHECK((export != NULL) == (r == 0));
    sparsestream_nbd_free(export);
    return r;
}

#define TLS_OPTIONS(...) NBD_OPTIONS(.flags = SPARSESTREAM_NBD_TLS, __VA_ARGS__)

/* An export with TLS has all bytes of "from". */
static void check_content(const char *uri, const struct sparsestream_nbd_options *options, int from)
{
    struct sparsestream_nbd_facts facts = { .size = sizeof facts };
    struct sparsestream_nbd *export = open_export(uri, options);
    struct sparsestream_source *source = NULL;
    int to = file_new("to");

    CHECK_CODE(sparsestream_nbd_info(export, &facts), 0);
    CHECK_INT(facts.flags & SPARSESTREAM_NBD_ENCRYPTED, !=, 0);
    CHECK_CODE(sparsestream_nbd_source(export, NULL, &source), 0);
    sparsestream_nbd_free(export);
    CHECK_MOVED(move(source, file_sink(to), NULL));
    CHECK_INT(file_size(to), ==, file_size(from));
    CHECK_INT(file_differs(from, 0, to, 0, file_size(from)), ==, -1);
    close(to);
}

static int source_file(void)
{
    int from = file_new("from");

    file_fill(from, 1 * MiB, 3 * MiB, 1);
    file_resize(from, 8 * MiB);
    return from;
}

/* A certificate is for a name. A chroot without /etc/hosts has none for the loopback address. */
static void need_localhost(void)
{
    struct addrinfo *found;
    const int r = getaddrinfo("localhost", NULL, NULL, &found);

    if (r != 0)
        skip("the name localhost cannot be resolved: %s", gai_strerror(r));
    freeaddrinfo(found);
}

static void certificates_that_fit_are_accepted(void)
{
    struct server server;
    char uri[320];
    int from = source_file(), port = free_port();

    need_localhost();
    make_certificates();
    nbdkit_start_tcp(&server, port, (const char *const[]){ "--tls=require", "--tls-certificates=server",
                                                           "--tls-verify-peer", "file", "from", NULL });
    snprintf(uri, sizeof uri, "nbd://localhost:%d", port);
    check_content(uri, TLS_OPTIONS(.tls_certificates = "client"), from);
    snprintf(uri, sizeof uri, "nbds://localhost:%d/?tls-certificates=client", port);
    check_content(uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_LOCAL_FILES), from);
    CHECK_INT(open_now(uri, NULL), <, 0);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "tls-certificates");
    server_stop(&server);
    close(from);
}

enum { URI_ROOM = 64 };

/* Starts a server that shows its certificate and asks for none; sets its address, by name. */
static void start_server(struct server *server, int port, char uri[URI_ROOM])
{
    need_localhost();
    make_certificates();
    nbdkit_start_tcp(server, port, (const char *const[]){ "--tls=require", "--tls-certificates=server", "file", "from",
                                                          NULL });
    snprintf(uri, URI_ROOM, "nbds://localhost:%d", port);
}

static void a_server_of_another_authority_is_refused(void)
{
    struct server server;
    int from = source_file(), port = free_port();
    char uri[URI_ROOM];

    start_server(&server, port, uri);
    CHECK_INT(open_now(uri, TLS_OPTIONS(.tls_certificates = "stranger")), <, 0);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "ertificate");
    check_content(uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_TLS | SPARSESTREAM_NBD_NO_VERIFY_PEER,
                                          .tls_certificates = "stranger"), from);
    server_stop(&server);
    close(from);
}

/* libnbd would accept any certificate there. */
static void a_certificate_that_nobody_verifies_is_refused(void)
{
    struct server server;
    char uri[320];
    int from = source_file();

    make_certificates();
    NBDKIT(&server, "--tls=require", "--tls-certificates=server", "file", "from");
    CHECK_INT(open_now(server.uri, TLS_OPTIONS(.tls_certificates = "client")), ==, -ENOTSUP);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "host name");
    snprintf(uri, sizeof uri, "nbds+unix:///?socket=%s&tls-certificates=client", server.socket);
    CHECK_INT(open_now(uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_LOCAL_FILES)), ==, -ENOTSUP);
    check_content(server.uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_TLS | SPARSESTREAM_NBD_NO_VERIFY_PEER,
                                          .tls_certificates = "client"), from);
    server_stop(&server);
    close(from);
}

static void a_client_without_a_certificate_is_refused_where_one_is_wanted(void)
{
    struct server server;
    struct sparsestream_nbd *export = NULL;
    int from = source_file(), to = file_new("to"), port = free_port();
    char uri[64];

    need_localhost();
    make_certificates();
    nbdkit_start_tcp(&server, port, (const char *const[]){ "--tls=require", "--tls-certificates=server",
                                                           "--tls-verify-peer", "file", "from", NULL });
    snprintf(uri, sizeof uri, "nbds://localhost:%d", port);
    /* With TLS 1.3 the client is done before the server has looked at its certificate. */
    if (sparsestream_nbd_open(uri, TLS_OPTIONS(.tls_certificates = "bare"), &export) == 0) {
        struct sparsestream_source *source = NULL;

        CHECK_CODE(sparsestream_nbd_source(export, NULL, &source), 0);
        CHECK_INT(move(source, file_sink(to), NULL).r, <, 0);
    }
    sparsestream_nbd_free(export);
    server_stop(&server);
    close(from);
    close(to);
}

static void a_name_that_is_not_the_servers_is_refused(void)
{
    struct server server;
    int from = source_file(), port = free_port();
    char uri[URI_ROOM];

    start_server(&server, port, uri);
    check_content(uri, TLS_OPTIONS(.tls_certificates = "client"), from);
    snprintf(uri, sizeof uri, "nbds://127.0.0.1:%d", port);
    CHECK_INT(open_now(uri, TLS_OPTIONS(.tls_certificates = "client")), <, 0);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "ertificate");
    server_stop(&server);
    close(from);
}

static void files_that_are_absent_are_named(void)
{
    struct server server;

    NBDKIT(&server, "memory", "1M");
    CHECK_INT(open_now(server.uri, TLS_OPTIONS(.tls_psk_file = "absent")), <, 0);
    CHECK(sparsestream_nbd_last_error()[0] != '\0');
    CHECK_INT(open_now(server.uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_TLS | SPARSESTREAM_NBD_NO_VERIFY_PEER,
                                               .tls_certificates = "absent")), <, 0);
    CHECK(sparsestream_nbd_last_error()[0] != '\0');
    server_stop(&server);
}

static void tls_that_the_server_does_not_have_is_refused(void)
{
    struct server server;

    NBDKIT(&server, "memory", "1M");
    CHECK_INT(open_now(server.uri, TLS_OPTIONS(.tls_psk_file = NULL)), <, 0);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "host name");
    CHECK_INT(open_now(server.uri, NBD_OPTIONS(.flags = SPARSESTREAM_NBD_TLS | SPARSESTREAM_NBD_NO_VERIFY_PEER)), <, 0);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "TLS");
    CHECK_INT(open_now(server.uri, NULL), ==, 0);
    server_stop(&server);
}

static void keys_that_fit_are_accepted_and_others_refused(void)
{
    struct server server;
    int from = source_file();

    write_text("keys", "alice:0123456789abcdef0123456789abcdef\n");
    write_text("wrong", "alice:ffffffffffffffffffffffffffffffff\n");
    NBDKIT(&server, "--tls=require", "--tls-psk=keys", "file", "from");
    CHECK_INT(open_now(server.uri, TLS_OPTIONS(.tls_psk_file = "wrong", .tls_username = "alice")), <, 0);
    CHECK(sparsestream_nbd_last_error()[0] != '\0');
    CHECK_INT(open_now(server.uri, TLS_OPTIONS(.tls_psk_file = "keys", .tls_username = "bob")), <, 0);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "bob");
    CHECK_INT(open_now(server.uri, NULL), <, 0);
    CHECK_CONTAINS(sparsestream_nbd_last_error(), "TLS");
    check_content(server.uri, TLS_OPTIONS(.tls_psk_file = "keys", .tls_username = "alice"), from);
    server_stop(&server);
    close(from);
}

/* Four connections write at once, each encrypted. */
static void an_encrypted_server_is_written(void)
{
    struct server server;
    int from = source_file(), to = file_new("to");
    const struct sparsestream_nbd_options *options = TLS_OPTIONS(.tls_psk_file = "keys", .tls_username = "alice");

    write_text("keys", "alice:0123456789abcdef0123456789abcdef\n");
    file_fill(to, 0, 8 * MiB, 3);
    NBDKIT(&server, "--tls=require", "--tls-psk=keys", "file", "to");
    CHECK_MOVED(move(file_source(from), export_sink(server.uri, options, NULL), NULL));
    CHECK_INT(file_differs(from, 0, to, 0, 8 * MiB), ==, -1);
    server_stop(&server);
    close(from);
    close(to);
}

TESTS(
    CASE(certificates_that_fit_are_accepted),
    CASE(a_server_of_another_authority_is_refused),
    CASE(a_certificate_that_nobody_verifies_is_refused),
    CASE(a_client_without_a_certificate_is_refused_where_one_is_wanted),
    CASE(a_name_that_is_not_the_servers_is_refused),
    CASE(files_that_are_absent_are_named),
    CASE(tls_that_the_server_does_not_have_is_refused),
    CASE(keys_that_fit_are_accepted_and_others_refused),
    CASE(an_encrypted_server_is_written),
)
