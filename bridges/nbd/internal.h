/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Declarations shared by the parts of the bridge, which are:
 *
 *     source.c, sink.c   the tables that a transfer calls
 *     zero.c, map.c      zeros by policy; block status as sections
 *     engine.c           requests in flight over the connections
 *     export.c           the connections of an export, and its properties as the server reports them
 *     connection.c       one connection: its set-up with a deadline, and one step of it
 *     options.c, failure.c
 */
#ifndef INTERNAL_H
#define INTERNAL_H

#include "sparsestream-nbd.h"

#include <libnbd.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    MOST_CONNECTIONS = 4,
    MOST_REQUESTS = 256,
    /* The most requests of the pool of a transfer. */
    MOST_DEPTH = 256,
    /* Offsets and lengths of any server are multiples of at most this. */
    MOST_BLOCK = 65536,
    /*
     * The requests of full size that a transfer begins with. More at once leave the processor's caches. With TLS this thread
     * encrypts for all of them, and the threads of a near server that has more take the processor away from it.
     */
    BEGIN_DEPTH = 8,
    BEGIN_ENCRYPTED = 4,
};

/* The most bytes of one request without a payload: the length must fit into 32 bits, whatever the minimum block. */
#define MOST_LENGTH ((int64_t)UINT32_MAX + 1 - MOST_BLOCK)

typedef struct sparsestream_nbd export_t;
typedef struct sparsestream_nbd_options options_t;
typedef struct sparsestream_nbd_end_options end_options_t;

/* failure.c */

/* A failure with its text; `error` is a positive errno, 0 for none. */
struct failure {
    int error;
    char text[256];
};

/* Sets the failure unless there already is one. Returns its negative errno. */
int failure_set(struct failure *failure, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same with libnbd's last error in this thread. */
int failure_take(struct failure *failure);
/* Makes it this thread's last error. Returns its negative errno. */
int failure_report(const struct failure *failure);
/* A failure of an argument, as this thread's last error. Returns `error`, which is negative. */
int refuse(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* options.c */

/* Copy the options, check them and set the defaults. Strings are not copied. Return 0, or a negative errno that was
 * reported. */
int options_read(const options_t *given, options_t *options);
int end_options_read(const end_options_t *given, uint64_t flags, end_options_t *options);
/* Returns 0, or -EINVAL if the size of the struct is invalid. */
int struct_check(const void *out, const char *name);
/* Copies a struct that starts with its size to the caller's struct, in the size of that struct. */
void struct_give(const void *from, size_t size, void *out);

/* connection.c */

enum connection_state {
    CONNECTION_NONE, /* not started */
    CONNECTION_CONNECTING,
    CONNECTION_READY,
    CONNECTION_CLOSED,
};

/* Libnbd receives the answer to a READ in four parts where block status was negotiated, and in two where it was not. */
enum connection_kind {
    CONNECTION_FOR_STATUS,
    CONNECTION_FOR_DATA,
};

struct connection {
    enum connection_state state;
    struct nbd_handle *handle;
    int64_t deadline_ms; /* of the set-up */
    unsigned in_flight;
    /* The same as libnbd's, which takes a lock to return them. */
    int fd;
    unsigned direction;
    struct failure failure; /* for which it was closed */
};

/* Where a server is. */
struct address {
    char *uri;
    int socket; /* -1: by the URI. Owned until a connection has it. */
};

int64_t now_ms(void);
/* Starts to connect. Returns 0 or a negative errno, with the connection closed and its failure set. */
int connection_start(struct connection *connection, enum connection_kind kind, struct address *address,
                     const options_t *options);
/* Handles the events that poll(2) has reported: receives at most one reply. */
void connection_step(struct connection *connection, short events);
/* Sees how a call of libnbd has left the connection, and closes it if it broke. */
void connection_review(struct connection *connection);
/* The events of poll(2) that it waits for; 0 if it waits for nothing. Sets `fd`. */
short connection_events(const struct connection *connection, int *fd);
/* Ends the session in an orderly way. Not after a failure: the server may close the connection at any moment then, and
 * nbd_aio_disconnect() of libnbd 1.14 reads freed memory if its message cannot be sent. */
void connection_leave(struct connection *connection);
/* Closes it. Requests in flight are not answered. */
void connection_close(struct connection *connection);

/* engine.c */

enum op_kind { OP_READ, OP_WRITE, OP_ZERO, OP_FLUSH, OP_STATUS };

/* OP_ISSUED: libnbd is being called with it. */
enum op_state { OP_IDLE, OP_ISSUED, OP_IN_FLIGHT, OP_DONE };

/* A request to the server. Its owner sets the first part; it stays where it is until `done` is called. */
struct op {
    enum op_kind kind;
    int64_t offset;
    int64_t length;
    void *buffer;
    uint32_t flags; /* LIBNBD_CMD_FLAG_... */
    /* Called by engine_advance() and engine_close(); `error` is a positive errno or 0. It may submit others. */
    void (*done)(struct op *op, int error);
    /* OP_STATUS: called within libnbd, which must not be called. */
    void (*extents)(struct op *op, const uint32_t *entries, size_t count);
    void *owner;

    /* Set by the engine. */
    enum op_state state;
    int error;
    export_t *export;
    struct connection *connection;
    struct op *next, **link;
};

struct engine {
    /* Called after each step of the set-up of a connection. */
    void (*stepped)(export_t *export, struct connection *connection);
    struct op *in_flight;
    struct op *done, **done_end;
};

void engine_init(struct engine *engine, void (*stepped)(export_t *export, struct connection *connection));
/* Sends a request. Returns 0, -EAGAIN if as many as allowed are in flight, or a negative errno. */
int engine_submit(export_t *export, struct op *op);
/* Sends and receives as much as possible, and calls `done` of each finished request. Never waits. */
void engine_advance(export_t *export);
/* Closes all connections, and fails the requests in flight with this errno. */
void engine_close(export_t *export, int error);
/* Sets the descriptors and the time to wait for. */
void engine_wait(export_t *export, struct sparsestream_wait *wait);

/* export.c */

enum export_state { EXPORT_CONNECTING, EXPORT_OPEN, EXPORT_FAILED };

struct sparsestream_nbd {
    unsigned references;
    enum export_state state;
    bool has_end;
    options_t options;
    struct address address;
    struct connection connections[MOST_CONNECTIONS]; /* only the first one can ask for block status */
    unsigned wanted; /* connections */
    struct engine engine;
    struct failure failure; /* for which it failed */
    /* Known once it is open. */
    struct sparsestream_nbd_facts facts;
    unsigned depth; /* requests in flight altogether */
    int64_t request_size;
};

void export_hold(export_t *export);
void export_drop(export_t *export);
/* Continues to connect. Returns 0 if the export is open, -EAGAIN, or the negative errno with which it failed. */
int export_connect(export_t *export);
/* The same, but waits. */
int export_wait(export_t *export);

/* map.c */

struct map;

/* The sections of a range, of which the holes have at least this length. NULL if there is no memory. */
struct map *map_new(export_t *export, int64_t start, int64_t end, int64_t least_hole);
/* Sets the section at an offset; the offsets of one map do not decrease. Returns 0, -EAGAIN or a negative errno. */
int map_section(struct map *map, int64_t offset, bool *hole, int64_t *length);
/* Requests that are still in flight for the map are awaited by the engine. */
void map_free(struct map *map);

/* end.c */

/* The state common to a source and a sink, each of which begins with it. That is the opaque of their tables. */
struct end {
    export_t *export;
    end_options_t options;
    struct op *ops; /* room for the requests of the transfer */
    struct op *idle;
    /* The request with the lowest offset that a lost connection had in flight. */
    bool lost;
    enum op_kind lost_kind;
    int64_t lost_offset;
};

/* Sets up an end of zeros. It holds the export until it is released. Returns 0 or a negative errno, reported. */
int end_init(struct end *end, export_t *export, const end_options_t *given, uint64_t flags);
void end_release(struct end *end);
int end_describe(struct end *end, struct sparsestream_async_info *info);
/* A READ, WRITE or FLUSH. Returns as `submit` of the table does. */
int end_submit(struct end *end, struct sparsestream_request *request);
int end_advance(void *opaque);
/* Reports the failure of the export, if it has failed. Returns 0 or its negative errno. */
int end_report(const struct end *end);
int end_wait(void *opaque, struct sparsestream_wait *wait);
int end_finish(void *opaque);
void end_abort(void *opaque, int error);
/* Returns a free request; NULL if the allowed number is in use. */
struct op *end_take_op(struct end *end);
void end_give_op(struct end *end, struct op *op);
/* Notes a failed request for the report of a lost connection. */
void end_note(struct end *end, const struct op *op);

/* zero.c */

struct zeroes;

struct zeroes *zeroes_new(struct end *end);
/* Makes a range read as zeros. Returns the same as `submit` of the table. */
int zeroes_submit(struct zeroes *zeroes, struct sparsestream_request *request);
/* Continues after -EAGAIN. */
void zeroes_advance(struct zeroes *zeroes);
void zeroes_free(struct zeroes *zeroes);

#endif
