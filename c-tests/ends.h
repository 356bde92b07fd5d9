/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Ends of a transfer from callbacks over memory. They misbehave as configured, and record their calls.
 */
#ifndef ENDS_H
#define ENDS_H

#include "files.h"
#include "random.h"

#include <sparsestream.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A stream's content: pieces, and the bytes of those that are data. Neighbours of one kind are merged. */
struct content {
    struct piece *pieces;
    size_t count, room;
    unsigned char *bytes;
    size_t length, byte_room;
};

void content_add_data(struct content *content, const void *bytes, size_t length);
void content_add_hole(struct content *content, int64_t length);
void content_add_keep(struct content *content, int64_t length);
/* The layout with the pattern of `seed`, counted from the content's start. */
void content_lay_out(struct content *content, const struct piece *pieces, size_t count,
                     unsigned seed);
int64_t content_size(const struct content *content);
void content_free(struct content *content);

/* Do both have the same pieces and bytes? Says what differs. */
#define CHECK_CONTENT(left, right) content_check(__FILE__, __LINE__, left, right)
void content_check(const char *file, int line, const struct content *left,
                   const struct content *right);

/*
 * The calls that were made, in order, one letter each:
 * as a source i (section), r (read, recv), k (skip), l (recv_hole, recv_keep), f (finish), a (abort), x (free),
 * as a sink   w (write, send), h (hole, send_hole), e (keep, send_keep), F (finish), A (abort), X (free).
 */
struct journal {
    char text[8192];
    size_t length;
};

struct end {
    /* The content that it gives as a source, and how far it has come. */
    const struct content *from;
    size_t piece, byte;
    int64_t within;
    /* The content that it took as a sink; NULL: counted only. */
    struct content *to;
    int64_t taken;

    struct journal *journal;
    /* Counts the calls of this end or, if shared, of both; `free` is not counted. */
    int *calls;
    int own_calls;
    /* The call with this number, and if `fault_stays` each one after it, answers `fault` and does nothing else. */
    int fault_call;
    int64_t fault;
    bool fault_stays;
    /* Fault only calls with this letter, which are then counted apart; 0: all. */
    char fault_letter;
    int letter_calls;
    /* Whether a fault was given. */
    bool faulted;
    /* No count above this; 0: no limit. */
    size_t most;
    /* No hole or kept section longer than this in one call; 0: no limit. */
    int64_t most_hole;
    /* Random short counts, -EAGAIN and -EINTR. */
    struct random *random;
    unsigned short_percent, again_percent, interrupt_percent;

    int reads, skips, writes, holes, keeps, finishes, aborts, frees;
    int abort_error;
};

/* Tables over `struct end`. Those without `section` and `recv_hole` do not report holes, those without `hole` cannot make them. */
extern const struct sparsestream_source_ops end_source_ops, end_blind_source_ops, end_keeping_source_ops;
extern const struct sparsestream_sink_ops end_sink_ops, end_dense_sink_ops, end_keeping_sink_ops;
extern const struct sparsestream_stream_ops end_stream_ops, end_dense_stream_ops, end_keeping_stream_ops;

/* Handles over an end; what fails ends the case. */
struct sparsestream_source *end_source(struct end *end);
struct sparsestream_source *end_stream_source(struct end *end);
struct sparsestream_sink *end_sink(struct end *end);
struct sparsestream_sink *end_stream_sink(struct end *end);

/* Handles over a descriptor with default options. */
struct sparsestream_source *fd_source(int fd);
struct sparsestream_sink *fd_sink(int fd);
struct sparsestream_transfer *new_transfer(struct sparsestream_source *source,
                                           struct sparsestream_sink *sink,
                                           const struct sparsestream_transfer_options *options);

/* Options that are all defaults, the size set. */
#define SOURCE_OPTIONS(...) \
    (&(struct sparsestream_source_options) { .size = sizeof(struct sparsestream_source_options), __VA_ARGS__ })
#define SINK_OPTIONS(...) \
    (&(struct sparsestream_sink_options) { .size = sizeof(struct sparsestream_sink_options), __VA_ARGS__ })
#define TRANSFER_OPTIONS(...) \
    (&(struct sparsestream_transfer_options) { .size = sizeof(struct sparsestream_transfer_options), __VA_ARGS__ })

struct sparsestream_stats transfer_stats(struct sparsestream_transfer *transfer);
struct sparsestream_error transfer_error(struct sparsestream_transfer *transfer);

#endif
