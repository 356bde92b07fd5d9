/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The library at the same work as limit.c, through its public header.
 *
 *   ours callbacks SOURCE TARGET    over a Unix socket, the caller's functions at all four ends
 *   ours stream SOURCE TARGET       over the caller's stream, files by descriptor
 *   ours wire SOURCE TARGET         over the wire of the library, files by descriptor
 *   ours file SOURCE TARGET         file to file
 *   ours file-detect SOURCE TARGET  the same, zeros made holes
 *   ours drop SOURCE NOTHING        reads a file and keeps nothing of it
 *   ours drop-direct SOURCE NOTHING the same with O_DIRECT
 *   ours stream-detect SOURCE TARGET
 *   ours wire-detect SOURCE TARGET
 *   ours in-data FILE               time of one query against query.c, in nanoseconds, as JSON
 *   ours walk FILE                  time of the map against the walk in C, for a section and its hole
 *   ours zero-check BUFFER BLOCK    speed of zero detection in blocks over a buffer, against memcmp
 *
 * Without anything that depends on time or on another process, for exact counts:
 *   ours ask FILE CALLS             CALLS queries
 *   ours map FILE                   the map once
 *   ours send FILE                  a file to a stream that takes all and keeps nothing
 *   ours receive SECTIONS TARGET    SECTIONS sections of 4 KiB, each with a hole after it, to a file
 *   ours wire-send FILE STREAM      a file to a wire that is a file
 *   ours wire-receive STREAM TARGET and back
 */
#define _GNU_SOURCE
#include "common.h"
#include "frames.h"
#include "query.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sparsestream.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(FRAMES_AT_HOLE == SPARSESTREAM_AT_HOLE, "frames.h speaks the header's language");

/* Zeros are looked for where they are sent: a receiver, which is a process of its own, need not do it again. */
static sparsestream_transfer_options options = { .size = sizeof options };

static void check(int64_t code)
{
    errno = 0;
    if (code < 0)
        fail("%s", sparsestream_last_error());
}

/* Waits as an event loop does that has nothing else to do. */
static void wait_for(sparsestream_transfer *transfer)
{
    sparsestream_wait wait = { .size = sizeof wait };
    struct pollfd ready;

    check(sparsestream_transfer_wait(transfer, &wait));
    ready = (struct pollfd){ .fd = wait.fd, .events = (short)wait.events };
    if (poll(&ready, 1, wait.timeout_ms) < 0 && errno != EINTR)
        fail("poll");
}

static void run(sparsestream_source *source, sparsestream_sink *sink)
{
    sparsestream_transfer *transfer;
    int answer;

    check(sparsestream_transfer_new(source, sink, &options, &transfer));
    while ((answer = sparsestream_transfer_run(transfer, 0)) == -EAGAIN)
        wait_for(transfer);
    check(answer);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

/* The tables of this library, over functions that are shared with the others. */

static int64_t send_hole(void *stream, int64_t length)
{
    const int r = frames_send_hole(stream, length);

    return r < 0 ? r : length;
}

static int next_section(void *file, sparsestream_section *section)
{
    bool in_data;
    const int r = file_in_data(file, &in_data, &section->length);

    if (r == 0 && section->length > 0)
        section->kind = in_data ? SPARSESTREAM_DATA : SPARSESTREAM_HOLE;
    return r;
}

static int64_t skip_hole(void *file, int64_t length)
{
    const int r = file_skip(file, length);

    return r < 0 ? r : length;
}

static int64_t make_hole(void *file, int64_t length)
{
    const int r = file_hole(file, length);

    return r < 0 ? r : length;
}

static const sparsestream_stream_ops stream_ops = {
    .size = sizeof stream_ops,
    .send = frames_send,
    .send_hole = send_hole,
    .recv = frames_recv,
    .recv_hole = frames_recv_hole,
};

/* `finish` serves both directions, but only a sender has an end to send. */
static sparsestream_stream_ops sender_ops(void)
{
    sparsestream_stream_ops ops = stream_ops;

    ops.finish = frames_send_end;
    return ops;
}

static void send_by_callbacks(int socket, int fd)
{
    static const sparsestream_source_ops file_ops = {
        .size = sizeof file_ops,
        .section = next_section,
        .read = file_read,
        .skip = skip_hole,
    };
    const sparsestream_stream_ops ops = sender_ops();
    struct frames frames = { .socket = socket };
    struct file file = file_of(fd, file_size(fd));
    sparsestream_source *source;
    sparsestream_sink *sink;

    check(sparsestream_source_from_callbacks(&file_ops, &file, &source));
    check(sparsestream_sink_to_stream(&ops, &frames, &sink));
    run(source, sink);
}

static void receive_by_callbacks(int socket, int fd)
{
    static const sparsestream_sink_ops file_ops = {
        .size = sizeof file_ops,
        .write = file_write,
        .hole = make_hole,
    };
    struct frames frames = { .socket = socket };
    struct file file = file_of(fd, 0);
    sparsestream_source *source;
    sparsestream_sink *sink;

    check(sparsestream_source_from_stream(&stream_ops, &frames, &source));
    check(sparsestream_sink_to_callbacks(&file_ops, &file, &sink));
    run(source, sink);
    if (ftruncate(fd, file.at) != 0)
        fail("ftruncate");
}

static void send_by_stream(int socket, int fd)
{
    const sparsestream_stream_ops ops = sender_ops();
    struct frames frames = { .socket = socket };
    sparsestream_source *source;

    check(sparsestream_source_from_fd(fd, NULL, &source));
    check(sparsestream_send_all(source, &ops, &frames, &options, NULL));
    sparsestream_source_free(source);
}

static void receive_by_stream(int socket, int fd)
{
    struct frames frames = { .socket = socket };
    sparsestream_sink *sink;

    options.flags &= ~SPARSESTREAM_DETECT_ZEROES;
    check(sparsestream_sink_to_fd(fd, NULL, &sink));
    check(sparsestream_recv_all(&stream_ops, &frames, sink, &options, NULL));
    sparsestream_sink_free(sink);
}

/* `back` is -1 for a wire that has no way back. */
static void send_wire(int wire, int back, int fd)
{
    sparsestream_source *source;
    sparsestream_sink *sink;

    check(sparsestream_source_from_fd(fd, NULL, &source));
    check(sparsestream_sink_to_wire(wire, back, NULL, &sink));
    run(source, sink);
}

static void receive_wire(int wire, int back, int fd)
{
    sparsestream_source *source;
    sparsestream_sink *sink;

    check(sparsestream_source_from_wire(wire, back, NULL, &source));
    check(sparsestream_sink_to_fd(fd, NULL, &sink));
    run(source, sink);
}

/* As a daemon has its sockets. */
static void make_non_blocking(int socket)
{
    const int flags = fcntl(socket, F_GETFL);

    if (flags < 0 || fcntl(socket, F_SETFL, flags | O_NONBLOCK) < 0)
        fail("fcntl");
}

static void send_by_wire(int socket, int fd)
{
    make_non_blocking(socket);
    send_wire(socket, socket, fd);
}

static void receive_by_wire(int socket, int fd)
{
    make_non_blocking(socket);
    options.flags &= ~SPARSESTREAM_DETECT_ZEROES;
    receive_wire(socket, socket, fd);
}

static void copy_file(const char *from, const char *to)
{
    sparsestream_source *source;
    sparsestream_sink *sink;

    check(sparsestream_source_from_fd(open_source(from), NULL, &source));
    check(sparsestream_sink_to_fd(open_target(to), NULL, &sink));
    run(source, sink);
}

/* Timed pieces, long enough for the clock and short enough to stand side by side in the same noise. */
#define PIECES 300
#define CALLS 500

static int by_number(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_number);
    return values[count / 2];
}

typedef double (*timed)(void *what, size_t piece);

/* Alternates two ways of one thing, and prints the median time of each and the median of their ratios. */
static void contest(const char *unit, timed ours, timed limit, void *what)
{
    static double times[2][PIECES], ratios[PIECES];

    ours(what, 0);
    limit(what, 0);
    for (size_t piece = 0; piece < PIECES; piece++) {
        /* Who goes first changes, so that neither always finds the caches warm. */
        const timed ways[2] = { ours, limit };
        const size_t first = piece % 2;

        times[first][piece] = ways[first](what, piece);
        times[!first][piece] = ways[!first](what, piece);
        ratios[piece] = times[0][piece] / times[1][piece];
    }
    printf("{\"unit\": \"%s\", \"ours\": %.2f, \"limit\": %.2f, \"ratio\": %.4f}\n", unit,
           median(times[0], PIECES), median(times[1], PIECES), median(ratios, PIECES));
}

struct queried {
    int fd;
    int64_t size;
};

static double query(const struct queried *file, size_t piece, int (*ask)(int, bool *, int64_t *))
{
    /* Offsets of both kinds, the same for both ways. */
    const int64_t step = file->size / CALLS;
    int64_t begun, taken = 0;

    for (int64_t call = 0; call < CALLS; call++) {
        const int64_t at = (call * step + (int64_t)piece * 4096) % file->size;
        bool in_data;
        int64_t length;

        if (lseek(file->fd, at, SEEK_SET) != at)
            fail("lseek");
        begun = now();
        if (ask(file->fd, &in_data, &length) != 0)
            fail("in_data at %jd", (intmax_t)at);
        taken += now() - begun;
    }
    return (double)taken / CALLS;
}

static double query_ours(void *file, size_t piece)
{
    return query(file, piece, sparsestream_in_data);
}

static double query_limit(void *file, size_t piece)
{
    return query(file, piece, query_in_data);
}

struct walked {
    int fd;
    int64_t size;
    int64_t sections;
};

static int count_section(void *opaque, const sparsestream_section *section)
{
    struct walked *const walked = opaque;

    walked->sections += section->kind == SPARSESTREAM_DATA;
    return 0;
}

static double walk_ours(void *what, size_t piece)
{
    struct walked *const walked = what;
    const int64_t begun = now();

    (void)piece;
    walked->sections = 0;
    check(sparsestream_map(walked->fd, 0, 0, count_section, walked));
    return (double)(now() - begun) / (double)walked->sections;
}

static double walk_limit(void *what, size_t piece)
{
    struct walked *const walked = what;
    struct walk walk = { .fd = walked->fd, .size = walked->size };
    const int64_t begun = now();
    int64_t start, end;

    (void)piece;
    walked->sections = 0;
    while (walk_next(&walk, &start, &end))
        walked->sections++;
    return (double)(now() - begun) / (double)walked->sections;
}

static int64_t write_nothing(void *opaque, const void *buffer, size_t length)
{
    (void)opaque;
    (void)buffer;
    return (int64_t)length;
}

static int64_t no_hole(void *opaque, int64_t length)
{
    (void)opaque;
    return length;
}

static int64_t send_nothing(void *stream, const void *buffer, size_t length)
{
    return write_nothing(stream, buffer, length);
}

static void send_to_nobody(const char *path)
{
    static const sparsestream_stream_ops ops = {
        .size = sizeof ops,
        .send = send_nothing,
        .send_hole = no_hole,
    };
    sparsestream_source *source;

    check(sparsestream_source_from_fd(open_source(path), NULL, &source));
    check(sparsestream_send_all(source, &ops, NULL, &options, NULL));
    sparsestream_source_free(source);
}

/* Reads a file, past the page cache or through it, into nothing. */
static void drop(const char *path, bool direct)
{
    static const sparsestream_sink_ops ops = {
        .size = sizeof ops,
        .write = write_nothing,
        .hole = no_hole,
    };
    const int fd = open_source(path);
    sparsestream_source *source;
    sparsestream_sink *sink;

    if (direct && fcntl(fd, F_SETFL, O_DIRECT) != 0)
        fail("O_DIRECT for %s", path);
    check(sparsestream_source_from_fd(fd, NULL, &source));
    check(sparsestream_sink_to_callbacks(&ops, NULL, &sink));
    run(source, sink);
}

#define SECTION 4096

struct made {
    int64_t sections;
    int64_t data;
    int64_t hole;
};

static int64_t recv_made(void *stream, void *buffer, size_t length)
{
    struct made *const made = stream;
    size_t count;

    if (made->data == 0) {
        if (made->hole > 0)
            return SPARSESTREAM_AT_HOLE;
        if (made->sections == 0)
            return 0;
        made->sections--;
        made->data = made->hole = SECTION;
    }
    (void)buffer;
    count = length < (size_t)made->data ? length : (size_t)made->data;
    made->data -= (int64_t)count;
    return (int64_t)count;
}

static int recv_made_hole(void *stream, int64_t *length)
{
    struct made *const made = stream;

    *length = made->hole;
    made->hole = 0;
    return 0;
}

static void receive_from_nobody(int64_t sections, const char *path)
{
    static const sparsestream_stream_ops ops = {
        .size = sizeof ops,
        .recv = recv_made,
        .recv_hole = recv_made_hole,
    };
    struct made made = { .sections = sections };
    sparsestream_sink *sink;

    check(sparsestream_sink_to_fd(open_target(path), NULL, &sink));
    check(sparsestream_recv_all(&ops, &made, sink, &options, NULL));
    sparsestream_sink_free(sink);
}

static void ask(const char *path, int64_t calls)
{
    const int fd = open_source(path);

    for (int64_t call = 0; call < calls; call++) {
        bool in_data;
        int64_t length;

        check(sparsestream_in_data(fd, &in_data, &length));
    }
}

static void map(const char *path)
{
    struct walked walked = { .fd = open_source(path) };

    check(sparsestream_map(walked.fd, 0, 0, count_section, &walked));
}

#define CHECKED (64 * MIB)

/*
 * A source of zeros. It writes them only at first, so that the buffer has pages of its own; from then on the
 * buffer is found as it was left, and the clock runs.
 */
struct zeros {
    int64_t cold;
    int64_t left;
    int64_t begun;
    int64_t ended;
};

static int64_t read_zeros(void *opaque, void *buffer, size_t length)
{
    struct zeros *const zeros = opaque;
    int64_t *const left = zeros->cold > 0 ? &zeros->cold : &zeros->left;
    const int64_t count = *left < (int64_t)length ? *left : (int64_t)length;

    if (zeros->cold > 0)
        memset(buffer, 0, (size_t)count);
    else if (zeros->begun == 0)
        zeros->begun = now();
    else if (count == 0)
        zeros->ended = now();
    *left -= count;
    return count;
}


struct checked {
    size_t buffer;
    size_t block;
};

static double check_ours(void *what, size_t piece)
{
    static const sparsestream_source_ops source_ops = { .size = sizeof source_ops, .read = read_zeros };
    static const sparsestream_sink_ops sink_ops = {
        .size = sizeof sink_ops,
        .write = write_nothing,
        .hole = no_hole,
    };
    const struct checked *const sizes = what;
    struct zeros zeros = { .cold = 2 * (int64_t)sizes->buffer, .left = CHECKED };
    sparsestream_source *source;
    sparsestream_sink *sink;

    (void)piece;
    options.flags = SPARSESTREAM_DETECT_ZEROES;
    options.buffer_size = sizes->buffer;
    options.zero_block = (uint32_t)sizes->block;
    check(sparsestream_source_from_callbacks(&source_ops, &zeros, &source));
    check(sparsestream_sink_to_callbacks(&sink_ops, NULL, &sink));
    run(source, sink);
    return (double)(zeros.ended - zeros.begun) / (double)CHECKED * 1e3;
}

static double check_limit(void *what, size_t piece)
{
    static char *buffer;
    const struct checked *const sizes = what;
    int64_t begun;
    size_t at = 0;

    (void)piece;
    if (buffer == NULL) {
        buffer = buffer_of(sizes->buffer);
        memset(buffer, 0, sizes->buffer);
    }
    begun = now();
    for (int64_t done = 0; done < CHECKED; done += (int64_t)sizes->block) {
        /* The compiler must not find out that it is the same each time. */
        __asm__ volatile("" : : "r"(buffer) : "memory");
        if (buffer[at] != 0 || memcmp(buffer + at, buffer + at + 16, sizes->block - 16) != 0)
            fail("zeros that are none");
        at = (at + sizes->block) % sizes->buffer;
    }
    return (double)(now() - begun) / (double)CHECKED * 1e3;
}

int main(int argc, char **argv)
{
    const char *const way = argc > 1 ? argv[1] : "";

    if (argc == 3 && strcmp(way, "in-data") == 0) {
        struct queried file = { .fd = open_source(argv[2]) };

        file.size = file_size(file.fd);
        contest("ns", query_ours, query_limit, &file);
        return 0;
    }
    if (argc == 3 && strcmp(way, "walk") == 0) {
        struct walked file = { .fd = open_source(argv[2]) };

        file.size = file_size(file.fd);
        contest("ns", walk_ours, walk_limit, &file);
        return 0;
    }
    if (argc == 4 && strcmp(way, "zero-check") == 0) {
        struct checked sizes = { (size_t)parse_bytes(argv[2]), (size_t)parse_bytes(argv[3]) };

        contest("ps/byte", check_ours, check_limit, &sizes);
        return 0;
    }
    if (argc == 3 && strcmp(way, "map") == 0) {
        map(argv[2]);
        return 0;
    }
    if (argc == 3 && strcmp(way, "send") == 0) {
        send_to_nobody(argv[2]);
        return 0;
    }
    if (argc != 4) {
        fputs("usage: ours WAY ARGUMENT...; see ours.c\n", stderr);
        return 2;
    }
    if (strstr(way, "-detect") != NULL)
        options.flags = SPARSESTREAM_DETECT_ZEROES;
    if (strcmp(way, "callbacks") == 0) {
        run_ends(send_by_callbacks, receive_by_callbacks, argv[2], argv[3]);
    } else if (strcmp(way, "stream") == 0 || strcmp(way, "stream-detect") == 0) {
        run_ends(send_by_stream, receive_by_stream, argv[2], argv[3]);
    } else if (strcmp(way, "wire") == 0 || strcmp(way, "wire-detect") == 0) {
        run_ends(send_by_wire, receive_by_wire, argv[2], argv[3]);
    } else if (strcmp(way, "file") == 0 || strcmp(way, "file-detect") == 0) {
        copy_file(argv[2], argv[3]);
    } else if (strcmp(way, "drop") == 0 || strcmp(way, "drop-direct") == 0) {
        drop(argv[2], strcmp(way, "drop-direct") == 0);
    } else if (strcmp(way, "wire-send") == 0) {
        send_wire(open_target(argv[3]), -1, open_source(argv[2]));
    } else if (strcmp(way, "wire-receive") == 0) {
        receive_wire(open_source(argv[2]), -1, open_target(argv[3]));
    } else if (strcmp(way, "ask") == 0) {
        ask(argv[2], parse_bytes(argv[3]));
    } else if (strcmp(way, "receive") == 0) {
        receive_from_nobody(parse_bytes(argv[2]), argv[3]);
    } else {
        fail("%s is no way", way);
    }
    return 0;
}
