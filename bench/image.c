/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Makes images and compares copies of them.
 *
 *   image make PATH SIZE SECTIONS LENGTH [ZERO_EVERY]
 *       SECTIONS data sections of LENGTH bytes, spread evenly over SIZE bytes. With ZERO_EVERY only one in so
 *       many pieces of 256 KiB holds bytes other than zero; the rest are zeros that are stored.
 *   image map PATH
 *       Prints its size, data sections, data bytes, allocated bytes, and as content the data bytes that are not in a
 *       block of 64 KiB of zeros.
 *   image compare SOURCE COPY
 *       Reads both, and prints whether the bytes are the same, and how their maps differ.
 */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 4096
#define BUFFER (MIB)
#define PIECE (256 * KIB)
#define ZERO_BLOCK (64 * KIB)

/* Bytes that encode their block, so that a moved block is found; no block is all zeros. */
static void fill(char *buffer, int64_t offset, size_t length)
{
    for (size_t block = 0; block < length; block += BLOCK) {
        uint64_t state = ((uint64_t)offset + block) * 0x9e3779b97f4a7c15u + 1;

        for (size_t at = block; at < block + BLOCK && at < length; at += sizeof state) {
            const size_t size = length - at < sizeof state ? length - at : sizeof state;

            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            memcpy(buffer + at, &state, size);
        }
    }
}

static void make(const char *path, int64_t size, int64_t sections, int64_t length, int64_t zero_every)
{
    const int fd = open_target(path);
    const int64_t stride = sections == 0 ? 0 : size / sections / BLOCK * BLOCK;
    char *const buffer = buffer_of(BUFFER);

    errno = 0;
    if (stride < length)
        fail("%s: the sections do not fit", path);
    if (ftruncate(fd, size) != 0)
        fail("ftruncate %s", path);
    for (int64_t section = 0; section < sections; section++) {
        for (int64_t done = 0; done < length;) {
            const int64_t at = section * stride + done;
            int64_t count = length - done < BUFFER ? length - done : BUFFER;

            if (zero_every != 0 && count > PIECE)
                count = PIECE;
            if (zero_every != 0 && at / PIECE % zero_every != 0)
                memset(buffer, 0, (size_t)count);
            else
                fill(buffer, at, (size_t)count);
            pwrite_all(fd, buffer, (size_t)count, at);
            done += count;
        }
    }
    if (fsync(fd) != 0)
        fail("fsync %s", path);
}

static bool is_zero(const char *buffer, size_t length)
{
    return length == 0 || (buffer[0] == 0 && memcmp(buffer, buffer + 1, length - 1) == 0);
}

static void map(const char *path)
{
    const int fd = open_source(path);
    struct walk walk = { .fd = fd, .size = file_size(fd) };
    char *const buffer = buffer_of(ZERO_BLOCK);
    int64_t sections = 0, data = 0, content = 0, start, end;
    struct stat stat;

    if (fstat(fd, &stat) != 0)
        fail("fstat %s", path);
    while (walk_next(&walk, &start, &end)) {
        sections++;
        data += end - start;
        while (start < end) {
            int64_t count = ZERO_BLOCK - start % ZERO_BLOCK;

            if (count > end - start)
                count = end - start;
            pread_all(fd, buffer, (size_t)count, start);
            content += is_zero(buffer, (size_t)count) ? 0 : count;
            start += count;
        }
    }
    printf("{\"size\": %jd, \"sections\": %jd, \"data\": %jd, \"allocated\": %jd, \"content\": %jd}\n",
           (intmax_t)walk.size, (intmax_t)sections, (intmax_t)data, (intmax_t)stat.st_blocks * 512,
           (intmax_t)content);
}

/* One of the two files, and the data section that it is in or comes to next. */
struct side {
    struct walk walk;
    int64_t start;
    int64_t end;
    char *buffer;
};

static void side_open(struct side *side, const char *path)
{
    const int fd = open_source(path);

    *side = (struct side){ .walk = { .fd = fd, .size = file_size(fd) }, .buffer = buffer_of(BUFFER) };
}

/* Moves on to the section that ends after `at`. */
static void side_reach(struct side *side, int64_t at)
{
    while (side->end <= at && side->start < side->walk.size)
        walk_next(&side->walk, &side->start, &side->end);
}

static int compare(const char *source, const char *copy)
{
    struct side sides[2];
    int64_t at = 0, missing = 0, extra = 0, different = -1;
    struct stat stat;

    side_open(&sides[0], source);
    side_open(&sides[1], copy);
    if (fstat(sides[1].walk.fd, &stat) != 0)
        fail("fstat %s", copy);
    while (different < 0) {
        int64_t end = INT64_MAX;
        bool in[2];

        side_reach(&sides[0], at);
        side_reach(&sides[1], at);
        if (at < sides[0].start && at < sides[1].start)
            at = sides[0].start < sides[1].start ? sides[0].start : sides[1].start;
        for (int i = 0; i < 2; i++) {
            in[i] = at >= sides[i].start && at < sides[i].end;
            if (in[i] && sides[i].end < end)
                end = sides[i].end;
            if (!in[i] && at < sides[i].start && sides[i].start < end)
                end = sides[i].start;
        }
        if (!in[0] && !in[1])
            break;
        if (end - at > BUFFER)
            end = at + BUFFER;
        for (int i = 0; i < 2; i++)
            if (in[i])
                pread_all(sides[i].walk.fd, sides[i].buffer, (size_t)(end - at), at);
        if (in[0] && in[1]) {
            if (memcmp(sides[0].buffer, sides[1].buffer, (size_t)(end - at)) != 0)
                different = at;
        } else {
            if (!is_zero(sides[in[1]].buffer, (size_t)(end - at)))
                different = at;
            *(in[0] ? &missing : &extra) += end - at;
        }
        at = end;
    }
    if (different < 0 && sides[0].walk.size != sides[1].walk.size)
        different = sides[0].walk.size < sides[1].walk.size ? sides[0].walk.size : sides[1].walk.size;
    printf("{\"same\": %s, \"different_at\": %jd, \"missing\": %jd, \"extra\": %jd, \"allocated\": %jd}\n",
           different < 0 ? "true" : "false", (intmax_t)different, (intmax_t)missing, (intmax_t)extra,
           (intmax_t)stat.st_blocks * 512);
    return different < 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc >= 6 && argc <= 7 && strcmp(argv[1], "make") == 0) {
        make(argv[2], parse_bytes(argv[3]), parse_bytes(argv[4]), parse_bytes(argv[5]),
             argc == 7 ? parse_bytes(argv[6]) : 0);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "map") == 0) {
        map(argv[2]);
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "compare") == 0)
        return compare(argv[2], argv[3]);
    fputs("usage: image make PATH SIZE SECTIONS LENGTH [ZERO_EVERY] | map PATH | compare SOURCE COPY\n",
          stderr);
    return 2;
}
