/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Declarations shared by the parts of the bridge. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include "sparsestream-libvirt.h"

#include <signal.h>
#include <stdbool.h>

typedef struct sparsestream_libvirt_failure failure_t;
typedef struct sparsestream_libvirt_options options_t;

/* sigpipe.c */

struct sigpipe {
    sigset_t mask;
    bool pending;
};

/* Blocks SIGPIPE in this thread; sigpipe_restore() removes a SIGPIPE that was raised since. errno does not change. */
void sigpipe_block(struct sigpipe *saved);
void sigpipe_restore(const struct sigpipe *saved);

/* errors.c */

/* Returns the negative errno of libvirt's last error in this thread, never 0, and puts its text into `failure`. */
int error_take(failure_t *failure);
/* Sets a failure that is not one of libvirt. Returns `error`, which is negative. */
int error_set(failure_t *failure, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Adds the transfer's failure. Its message comes from the end that failed, and includes libvirt's. */
void error_add_transfer(failure_t *failure, int error, const struct sparsestream_error *reported);
void error_clear(failure_t *failure);
/* Copies `failure` to the caller's struct, in the size of that struct. */
void error_give(const failure_t *failure, failure_t *out);
/* Returns 0, or -EINVAL if `size` of the struct is invalid. */
int error_check(const failure_t *out);

/* options.c */

/* Copies the options; fields that were not given are 0. Returns 0, -EINVAL or -E2BIG, with `failure`. */
int options_read(const options_t *given, uint64_t flags, options_t *options, failure_t *failure);
/* Refuses a setting of `holes` if no holes are sent to a volume. Returns 0 or -EINVAL. */
int options_only_auto(const options_t *options, failure_t *failure);
/* Sets the options of the transfer, with a buffer of one message by default. Returns 0, -EINVAL or -E2BIG. */
int options_transfer(const options_t *options, struct sparsestream_transfer_options *transfer, failure_t *failure);

/* pause.c */

struct pause;

/*
 * Delays the event loop while the reader of the stream does not keep up with it: repeatedly if the reader is known to be
 * `busy`, otherwise once. NULL if there is no event loop or no memory.
 */
struct pause *pause_new(bool busy);
/* Around each call of the reader, with the bytes that it asked for and got. */
void pause_before(struct pause *pause);
void pause_after(struct pause *pause, int64_t asked, int64_t got, bool at_hole);
void pause_free(struct pause *pause);

/* watch.c */

struct sparsestream_libvirt_job;

/* A job's place among those of a watch. */
struct watched {
    struct watched *next, **link;
    /* The connection is lost: `error` is a positive errno. It may take itself out. */
    void (*lost)(struct watched *watched, int error);
};

/* Returns 0, or a negative errno if the connection is lost already. */
int watch_add(struct sparsestream_libvirt_watch *watch, struct watched *watched, failure_t *failure);
void watch_remove(struct watched *watched);

/* stream.c */

#define TAIL_SIZE 4096

/* A libvirt stream as one end of a transfer. */
struct lv_stream {
    virStreamPtr stream;
    failure_t *failure;
    /* "Not ready" means -EAGAIN in non-blocking mode, and an error in blocking mode. */
    bool nonblocking;
    /* The function that drives the stream has blocked SIGPIPE, once for all calls. */
    bool guarded;
    /* The connection is lost: no call is made that could wait for it. */
    bool lost;
    struct pause *pause;
    /* Called before the stream is finished or aborted; may be NULL. */
    void (*closing)(void *opaque);
    void *opaque;
    /* Neither finished nor aborted yet. */
    bool open;

    int64_t position;
    /* The length that the stream must have when it ends; -1: any length. */
    int64_t length;

    /* Sending: the first hole goes as 1 + n-1 bytes. */
    enum { SPLIT_NEVER, SPLIT_FIRST, SPLIT_REST, SPLIT_DONE } split;
    /* Where that byte is; -1 while there was no hole. */
    int64_t split_at;
    /* Sending: the last bytes that were not all zeros. */
    bool keep_tail;
    int64_t tail_at;
    size_t tail_length;
    unsigned char tail[TAIL_SIZE];
};

/* Over a struct lv_stream, or a struct that starts with one. */
extern const struct sparsestream_stream_ops lv_stream_ops;

/* A stream that was opened for an upload or a download of libvirt, with no limit on its length. */
void lv_stream_init(struct lv_stream *stream, virStreamPtr wrapped, failure_t *failure);
/* Aborts it if it is open. */
void lv_stream_abort(struct lv_stream *stream);

/* volume.c */

/*
 * A range of a volume as an end; a length of 0 means to the volume's end. `own`: the caller drives the end, and the
 * transfer reports its failures. Otherwise failures are put into `failure`, which must outlive the end. Return 0 or a
 * negative errno.
 */
int volume_sink(virStorageVolPtr vol, int64_t offset, int64_t length, const options_t *options, bool own,
                failure_t *failure, struct sparsestream_sink **sink);
int volume_source(virStorageVolPtr vol, int64_t offset, int64_t length, const options_t *options, bool own,
                  failure_t *failure, struct sparsestream_source **source);

/* blocking.c */

/* Runs a transfer to its end, with SIGPIPE blocked; waits for descriptors in any mode. `failure` may hold what one of
 * the ends has put there. */
int run_to_end(struct sparsestream_source *source, struct sparsestream_sink *sink,
               const struct sparsestream_transfer_options *options, struct sparsestream_stats *stats,
               failure_t *failure);

#endif
