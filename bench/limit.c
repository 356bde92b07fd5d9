/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The limit: what hand-written C does with files of which nothing can go wrong, as fast as is known how.
 *
 *   limit zero-copy SOURCE TARGET    over a Unix socket: big sections by sendfile and splice, small ones gathered
 *   limit read-write SOURCE TARGET   the same without zero-copy
 *   limit loop SOURCE TARGET         over a Unix socket: the reads and writes of `ours callbacks` in a plain loop
 *   limit file SOURCE TARGET         file to file: big sections by copy_file_range
 *   limit file-splice SOURCE TARGET  file to file: big sections by splice through a pipe
 *   limit detect SOURCE TARGET       over a Unix socket, blocks of 64 KiB that are all zeros made holes
 *   limit file-detect SOURCE TARGET  the same file to file
 *   limit read SOURCE NOTHING        reads the data of a file, one piece after the other
 *   limit write SOURCE TARGET        only what every way ends with: as many bytes where SOURCE has data, of one buffer
 *
 * None checks more than that calls succeed.
 */
#define _GNU_SOURCE
#include "common.h"
#include "frames.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

/* From here up the pages of a section are passed on, not copied. */
#define ZERO_COPY (64 * KIB)
#define ZERO_BLOCK (64 * KIB)
/* So much of a block is looked at to know whether it can be passed on uncopied. */
#define SAMPLE 512
#define BUFFER (MIB)
#define PIPE ((int)MIB)
#define WRITTEN (256 * KIB)

struct header {
    uint64_t hole;
    uint64_t data;
};

static bool zero_copy = true;

static void make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) != 0)
        fail("pipe");
    if (fcntl(ends[0], F_SETPIPE_SZ, PIPE) < 0)
        fail("F_SETPIPE_SZ");
}

/* Moves data into a file through a pipe, from a socket (`from` NULL) or from an offset of a file. */
static void splice_to_file(const int pipe[2], int source, int64_t *from, int target, int64_t *to,
                           int64_t length)
{
    while (length > 0) {
        ssize_t held = splice(source, from, pipe[1], NULL, (size_t)length, SPLICE_F_MOVE);

        if (held <= 0)
            fail("splice from the source");
        length -= held;
        while (held > 0) {
            const ssize_t count = splice(pipe[0], NULL, target, to, (size_t)held, SPLICE_F_MOVE);

            if (count <= 0)
                fail("splice to the target");
            held -= count;
        }
    }
}

struct writer {
    int socket;
    char *buffer;
    size_t used;
};

static void flush(struct writer *out)
{
    send_all(out->socket, out->buffer, out->used);
    out->used = 0;
}

static void sendfile_all(int socket, int source, int64_t *start, int64_t end)
{
    while (*start < end)
        if (sendfile(socket, source, start, (size_t)(end - *start)) <= 0)
            fail("sendfile at %jd", (intmax_t)*start);
}

static void send_sections(int socket, int source)
{
    struct walk walk = { .fd = source, .size = file_size(source) };
    struct writer out = { .socket = socket, .buffer = buffer_of(BUFFER) };
    int64_t sent = 0;
    int64_t start, end;
    bool more;

    do {
        more = walk_next(&walk, &start, &end);
        if (out.used + sizeof(struct header) > BUFFER)
            flush(&out);
        memcpy(out.buffer + out.used,
               &(struct header){ (uint64_t)(start - sent), (uint64_t)(end - start) },
               sizeof(struct header));
        out.used += sizeof(struct header);
        sent = end;
        if (zero_copy && end - start >= ZERO_COPY) {
            flush(&out);
            sendfile_all(socket, source, &start, end);
        }
        while (start < end) {
            int64_t piece = end - start;

            if (piece > (int64_t)(BUFFER - out.used) && (piece < ZERO_COPY || out.used == BUFFER))
                flush(&out);
            if (piece > (int64_t)(BUFFER - out.used))
                piece = (int64_t)(BUFFER - out.used);
            pread_all(source, out.buffer + out.used, (size_t)piece, start);
            out.used += (size_t)piece;
            start += piece;
        }
    } while (more);
    flush(&out);
}

struct reader {
    int socket;
    char *buffer;
    size_t begin;
    size_t end;
};

/* Makes sure of `least` bytes in the buffer, and takes up to `most` while at it. */
static void need(struct reader *in, size_t least, size_t most)
{
    if (in->end - in->begin >= least)
        return;
    memmove(in->buffer, in->buffer + in->begin, in->end - in->begin);
    in->end -= in->begin;
    in->begin = 0;
    while (in->end < least) {
        const ssize_t count = recv(in->socket, in->buffer + in->end, most - in->end, 0);

        if (count <= 0)
            fail("recv");
        in->end += (size_t)count;
    }
}

static void receive_sections(int socket, int target)
{
    struct reader in = { .socket = socket, .buffer = buffer_of(BUFFER) };
    struct header header;
    bool big = false;
    int64_t at = 0;
    int pipe[2];

    make_pipe(pipe);
    for (;;) {
        int64_t left;

        /* After a big section only a header is taken, so that the next section can be spliced whole. */
        need(&in, sizeof header, big ? sizeof header : BUFFER);
        memcpy(&header, in.buffer + in.begin, sizeof header);
        in.begin += sizeof header;
        at += (int64_t)header.hole;
        left = (int64_t)header.data;
        if (left == 0)
            break;
        big = zero_copy && left >= ZERO_COPY;
        while (left > 0) {
            size_t piece = in.end - in.begin;

            if (piece == 0 && big) {
                splice_to_file(pipe, socket, NULL, target, &at, left);
                break;
            }
            if (!big) {
                need(&in, left < ZERO_COPY ? (size_t)left : 1, BUFFER);
                piece = in.end - in.begin;
            }
            if (piece > (size_t)left)
                piece = (size_t)left;
            pwrite_all(target, in.buffer + in.begin, piece, at);
            in.begin += piece;
            at += (int64_t)piece;
            left -= (int64_t)piece;
        }
    }
    if (ftruncate(target, at) != 0)
        fail("ftruncate");
}

/* How far one kind reaches from the start of the buffer, which lies at `at`: `*zero` or data, in blocks of 64 KiB. */
static int64_t run_of(const char *buffer, int64_t at, int64_t length, bool *zero)
{
    int64_t done = 0;

    while (done < length) {
        int64_t block = ZERO_BLOCK - (at + done) % ZERO_BLOCK;
        bool found;

        if (block > length - done)
            block = length - done;
        found = buffer[done] == 0 && memcmp(buffer + done, buffer + done + 1, (size_t)block - 1) == 0;
        if (done == 0)
            *zero = found;
        else if (found != *zero)
            break;
        done += block;
    }
    return done;
}

/* Whether the start of a block shows that it holds more than zeros. */
static bool is_solid(int source, int64_t at, int64_t end)
{
    char sample[SAMPLE];
    const size_t size = end - at < SAMPLE ? (size_t)(end - at) : SAMPLE;

    pread_all(source, sample, size, at);
    return sample[0] != 0 || memcmp(sample, sample + 1, size - 1) != 0;
}

/* How far blocks look alike, at most so far that the buffer holds them. */
static int64_t alike(int source, int64_t start, int64_t end, bool *solid)
{
    int64_t at = start;

    *solid = is_solid(source, at, end);
    do {
        at += ZERO_BLOCK - at % ZERO_BLOCK;
    } while (at < end && at - start <= BUFFER - ZERO_BLOCK && is_solid(source, at, end) == *solid);
    return (at < end ? at : end) - start;
}

static void send_detected(int socket, int source)
{
    struct walk walk = { .fd = source, .size = file_size(source) };
    struct frames frames = { .socket = socket };
    char *const buffer = buffer_of(BUFFER);
    int64_t sent = 0;
    int64_t start, end;
    bool more;

    do {
        more = walk_next(&walk, &start, &end);
        frames_send_hole(&frames, start - sent);
        sent = end;
        while (start < end) {
            bool solid;
            const int64_t piece = alike(source, start, end, &solid);

            if (solid && piece >= ZERO_COPY) {
                const struct header header = { (uint64_t)frames.hole, (uint64_t)piece };

                send_all(socket, &header, sizeof header);
                frames.hole = 0;
                sendfile_all(socket, source, &start, start + piece);
                continue;
            }
            pread_all(source, buffer, (size_t)piece, start);
            for (int64_t done = 0, run; done < piece; done += run) {
                bool zero;

                run = run_of(buffer + done, start + done, piece - done, &zero);
                if (zero)
                    frames_send_hole(&frames, run);
                else if (frames_send(&frames, buffer + done, (size_t)run) != run)
                    fail("send");
            }
            start += piece;
        }
    } while (more);
    if (frames_send_end(&frames) != 0)
        fail("send");
}

/* `ours callbacks` without the library: the same calls in the same order. */
static void send_loop(int socket, int source)
{
    struct file file = file_of(source, file_size(source));
    struct frames frames = { .socket = socket };
    char *const buffer = buffer_of(BUFFER);

    for (;;) {
        bool in_data;
        int64_t length, count;

        if (file_in_data(&file, &in_data, &length) != 0)
            fail("in_data");
        if (length == 0)
            break;
        if (!in_data) {
            if (frames_send_hole(&frames, length) != 0 || file_skip(&file, length) != 0)
                fail("send_hole");
            continue;
        }
        count = file_read(&file, buffer, (size_t)(length < BUFFER ? length : BUFFER));
        if (count <= 0 || frames_send(&frames, buffer, (size_t)count) != count)
            fail("send");
    }
    if (frames_send_end(&frames) != 0)
        fail("send_end");
}

static void receive_loop(int socket, int target)
{
    struct file file = file_of(target, 0);
    struct frames frames = { .socket = socket };
    char *const buffer = buffer_of(BUFFER);

    for (;;) {
        const int64_t count = frames_recv(&frames, buffer, BUFFER);
        int64_t hole;

        if (count == 0)
            break;
        if (count == FRAMES_AT_HOLE) {
            if (frames_recv_hole(&frames, &hole) != 0 || file_hole(&file, hole) != 0)
                fail("recv_hole");
            continue;
        }
        if (count < 0)
            fail("recv");
        for (int64_t done = 0; done < count;) {
            const int64_t taken = file_write(&file, buffer + done, (size_t)(count - done));

            if (taken <= 0)
                fail("write");
            done += taken;
        }
    }
    if (ftruncate(target, file.at) != 0)
        fail("ftruncate");
}

static void copy_file(const char *from, const char *to, bool by_splice)
{
    const int source = open_source(from);
    const int target = open_target(to);
    struct walk walk = { .fd = source, .size = file_size(source) };
    char *const buffer = buffer_of(ZERO_COPY);
    int64_t start, end;
    int pipe[2];

    make_pipe(pipe);
    while (walk_next(&walk, &start, &end)) {
        int64_t at = start;

        if (end - start < ZERO_COPY) {
            pread_all(source, buffer, (size_t)(end - start), start);
            pwrite_all(target, buffer, (size_t)(end - start), start);
        } else if (by_splice) {
            splice_to_file(pipe, source, &start, target, &at, end - start);
        } else {
            while (start < end)
                if (copy_file_range(source, &start, target, &at, (size_t)(end - start), 0) <= 0)
                    fail("copy_file_range at %jd", (intmax_t)start);
        }
    }
    if (ftruncate(target, walk.size) != 0)
        fail("ftruncate");
}

static void copy_detected(const char *from, const char *to)
{
    const int source = open_source(from);
    const int target = open_target(to);
    struct walk walk = { .fd = source, .size = file_size(source) };
    char *const buffer = buffer_of(BUFFER);
    int64_t start, end;

    while (walk_next(&walk, &start, &end)) {
        while (start < end) {
            const int64_t piece = end - start < BUFFER ? end - start : BUFFER;

            pread_all(source, buffer, (size_t)piece, start);
            for (int64_t done = 0, run; done < piece; done += run) {
                bool zero;

                run = run_of(buffer + done, start + done, piece - done, &zero);
                if (!zero)
                    pwrite_all(target, buffer + done, (size_t)run, start + done);
            }
            start += piece;
        }
    }
    if (ftruncate(target, walk.size) != 0)
        fail("ftruncate");
}

/* The buffer stays in the processor's cache, so that only the target takes time. */
static void write_only(const char *from, const char *to)
{
    const int source = open_source(from);
    const int target = open_target(to);
    struct walk walk = { .fd = source, .size = file_size(source) };
    char *const buffer = buffer_of(WRITTEN);
    int64_t start, end;

    memset(buffer, 1, WRITTEN);
    while (walk_next(&walk, &start, &end)) {
        while (start < end) {
            const int64_t piece = end - start < WRITTEN ? end - start : WRITTEN;

            pwrite_all(target, buffer, (size_t)piece, start);
            start += piece;
        }
    }
    if (ftruncate(target, walk.size) != 0)
        fail("ftruncate");
}

/* No look-ahead but the kernel's own. */
static void read_only(const char *from)
{
    const int source = open_source(from);
    struct walk walk = { .fd = source, .size = file_size(source) };
    char *const buffer = buffer_of(BUFFER);
    int64_t start, end;

    while (walk_next(&walk, &start, &end)) {
        while (start < end) {
            const int64_t piece = end - start < BUFFER ? end - start : BUFFER;

            pread_all(source, buffer, (size_t)piece, start);
            start += piece;
        }
    }
}

int main(int argc, char **argv)
{
    const char *const way = argc == 4 ? argv[1] : "";

    if (strcmp(way, "zero-copy") == 0) {
        run_ends(send_sections, receive_sections, argv[2], argv[3]);
    } else if (strcmp(way, "read-write") == 0) {
        zero_copy = false;
        run_ends(send_sections, receive_sections, argv[2], argv[3]);
    } else if (strcmp(way, "loop") == 0) {
        run_ends(send_loop, receive_loop, argv[2], argv[3]);
    } else if (strcmp(way, "file") == 0) {
        copy_file(argv[2], argv[3], false);
    } else if (strcmp(way, "file-splice") == 0) {
        copy_file(argv[2], argv[3], true);
    } else if (strcmp(way, "detect") == 0) {
        run_ends(send_detected, receive_sections, argv[2], argv[3]);
    } else if (strcmp(way, "file-detect") == 0) {
        copy_detected(argv[2], argv[3]);
    } else if (strcmp(way, "read") == 0) {
        read_only(argv[2]);
    } else if (strcmp(way, "write") == 0) {
        write_only(argv[2], argv[3]);
    } else {
        fputs("usage: limit WAY SOURCE TARGET\n", stderr);
        return 2;
    }
    return 0;
}
