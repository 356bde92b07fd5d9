/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Declarations shared by send and recv: the connection, and the record of an interrupted transfer. */

#ifndef WIRE_H
#define WIRE_H

#include "tool.h"

enum { IDENTITY = sizeof(((sparsestream_wire_options *)0)->identity) };

/* A way to the peer, and if `read_fd` (of a sender) or `write_fd` (of a receiver) is not -1 one back. */
struct connection {
    const char *name;
    int read_fd;
    int write_fd;
    int owned;   /* a socket of ours, which is both; -1: standard input and output */
    pid_t child; /* of --exec, or 0 */
};

/* connection.c */

/* Makes the connection of a command. Returns 0 or an exit code, after a message. */
int connection_open(const struct settings *settings, bool sending, const char *file,
                    struct connection *connection);
/* Ends it and waits for the command of --exec. Returns `result`, or an exit code if the command failed. */
int connection_close(const struct settings *settings, struct connection *connection, int result);

/* address.c */

/* Connects to, or waits for a connection at, the address of --connect or --listen. */
int open_connection(const struct settings *settings, int *fd);
/* Others than the users of this machine may be at the other end. */
bool over_network(const struct settings *settings);
/* Each piece has a checksum and the whole a digest: as requested, or by default over a network and with
 * --resume. */
bool with_checksums(const struct settings *settings);

/* hear.c */

/*
 * Waits for the introduction of the sender's stream, no longer than --timeout and --idle-timeout allow.
 * `held`: bytes that are here of an earlier transfer and will be read back. Returns 0 or an exit code, after
 * a message and with `source` aborted.
 */
int hear_sender(const struct settings *settings, const struct connection *connection, const struct names *names,
                sparsestream_source *source, int64_t held, sparsestream_wire_info *info);

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
/* Records that the stream is durable up to there. Returns 0 or a negative errno. */
int resume_save(struct resume *resume);
/* Removes the record: nothing is left to do. */
int resume_remove(const struct resume *resume);
void resume_free(struct resume *resume);

/* run.c */

/* The last failed call, on the connection, as run_transfer would report it. Returns an exit code. */
int fail_wire(const struct names *names, int error);

#endif
