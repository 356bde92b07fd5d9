/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Declarations shared by send and recv: the connection, and the record of an interrupted transfer. */

#ifndef WIRE_H
#define WIRE_H

#include "tool.h"

#include <sys/socket.h>

enum { IDENTITY = sizeof(((sparsestream_wire_options *)0)->identity) };

/* A quiet connection is shown to be alive, more often than any --timeout of the other end is likely to be. */
enum { KEEPALIVE_MS = 1000 };

/* "tcp:[2001:db8::1]:4711" */
enum { ADDRESS_TEXT = 1100 };

/* A socket where a peer is waited for. */
struct listener {
    const char *address;
    int fd;              /* -1: it waits for no further peer */
    dev_t dev;           /* of a Unix socket; ino 0: there is none */
    ino_t ino;
    int64_t end;         /* of --timeout; 0: never */
    int dropped;         /* peers that did not introduce themselves */
    char peer[ADDRESS_TEXT]; /* who connected last, until when it must have introduced itself, and how long that is */
    int64_t hello_by;
    int64_t patience_ms;
};

/* A way to the peer, and if `read_fd` (of a sender) or `write_fd` (of a receiver) is not -1 one back. */
struct connection {
    const char *name;
    int read_fd;
    int write_fd;
    int owned;   /* a socket of ours, which is both; -1: standard input and output */
    pid_t child; /* of --exec, or 0 */
    struct listener listener;
};

/* connection.c */

/* Makes the connection of a command. Returns 0 or an exit code, after a message. */
int connection_open(const struct settings *settings, bool sending, const char *file,
                    struct connection *connection);
/* Whether the peer can still be dropped, and another be waited for. */
bool connection_listens(const struct connection *connection);
/*
 * Closes the connection to a peer that did not introduce itself, and waits for the next. Returns 0 or an exit code, after
 * a message.
 */
int connection_drop(const struct settings *settings, struct connection *connection, const char *why);
/* The peer has introduced itself: no other can connect any more. */
void connection_settle(struct connection *connection);
/* Ends it and waits for the command of --exec. Returns `result`, or an exit code if the command failed. */
int connection_close(const struct settings *settings, struct connection *connection, int result);

/* address.c */

/* When --timeout is over, in ms of now_ms(); 0: never. */
int64_t deadline(const struct settings *settings);
/* Connects to the address of --connect. Returns 0 or an exit code, after a message. */
int connect_to(const struct settings *settings, int *fd);
/* Makes a socket with the address of a listener. Returns 0 or an exit code, after a message. */
int bind_to(const struct settings *settings, struct listener *listener);
/* An address as --connect takes it. False for one of a Unix socket, which peers have none of. */
bool show_address(char text[ADDRESS_TEXT], const struct sockaddr_storage *address, socklen_t length);
/* The path of a Unix socket, or NULL. */
const char *path_of(const char *address);
/* Of TCP: detects a peer that disappeared without closing, and does not delay small frames. */
void tune_socket(int fd, int family);
/* Others than the users of this machine may be at the other end. */
bool over_network(const struct settings *settings);
/* Each piece has a checksum and the whole a digest: as requested, or by default over TCP and vsock, and with
 * --resume. */
bool with_checksums(const struct settings *settings);

/* listen.c */

/* Listens at the address of --listen. Returns 0 or an exit code, after a message. */
int listener_open(const struct settings *settings, struct listener *listener);
/* Waits for a peer, whose descriptor is in non-blocking mode. Returns 0 or an exit code, after a message. */
int listener_accept(const struct settings *settings, struct listener *listener, int *fd);
/* Reports that the last peer was dropped. Returns 0, or an exit code after a message if there were too many. */
int listener_drop(struct listener *listener, const char *why);
void listener_close(struct listener *listener);

/* greet.c */

/* Refuses a receiver that anybody may connect to without a limit, and sets the limits that hold for one. */
int check_listening(struct settings *settings);
/* Sets the limit of a receiver: the shorter of --max-size and the length of --range. */
void limit_size(const struct settings *settings, sparsestream_wire_options *wire);
/*
 * Makes a source of the connection, and waits for a sender that introduces its stream. Returns 0 or an exit code, after
 * a message; the source is then aborted.
 */
int greet(const struct settings *settings, struct connection *connection, const struct names *names,
          const sparsestream_wire_options *wire, sparsestream_source **source, sparsestream_wire_info *info);

/* resolve.c */

struct addrinfo;

/*
 * The addresses of a host and a numeric port, for a stream. Asks until `end`, in ms of now_ms(), or without a limit for 0.
 * Messages name `address`. Returns 0 or an exit code, after a message. The caller frees `*found` with freeaddrinfo(3).
 */
int resolve(const char *address, const char *host, const char *port, int64_t end, struct addrinfo **found);

/* resume.c */

struct resume {
    char *path;    /* of the file that it is kept in */
    bool known;    /* a transfer broke off: the rest is set */
    int64_t at;    /* where in the target its stream starts */
    int64_t durable; /* bytes of the stream that are on the medium */
    unsigned char identity[IDENTITY]; /* of its source */
    dev_t dev; /* of the file at `path`; ino 0: none was seen */
    ino_t ino;
};

/* Reads what is known. Returns 0 or an exit code, after a message. */
int resume_load(struct resume *resume, const char *state, const char *target);
/* Makes sure that a record can be written. Returns 0 or an exit code, after a message. */
int resume_check(struct resume *resume);
/* Records that the stream is durable up to there. Returns 0 or a negative errno. */
int resume_save(struct resume *resume);
/* Removes the record: nothing is left to do. */
int resume_remove(const struct resume *resume);
void resume_free(struct resume *resume);

/* failure.c */

/* The last failed call, on the connection, as run_transfer would report it. Returns an exit code. */
int fail_wire(const struct names *names, int error);
/* A message of the library, without the side, and the name of its errno. */
void describe_failure(char *text, size_t size, const char *message, int error);

#endif
