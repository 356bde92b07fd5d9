/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define CHUNK 65536

int file_new(const char *name)
{
    const int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    REQUIRE(fd >= 0);
    return fd;
}

int file_in_memory(void)
{
    const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    REQUIRE(fd >= 0);
    return fd;
}

unsigned char pattern_byte(unsigned seed, int64_t offset)
{
    uint64_t mixed = (uint64_t) offset + ((uint64_t) seed << 40);

    mixed = (mixed ^ (mixed >> 17)) * UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned char) (1 + (mixed >> 32) % 255);
}

void pattern_fill(void *buffer, size_t length, unsigned seed, int64_t offset)
{
    unsigned char *bytes = buffer;

    for (size_t i = 0; i < length; i++)
        bytes[i] = pattern_byte(seed, offset + (int64_t) i);
}

void file_write(int fd, int64_t offset, const void *buffer, size_t length)
{
    const unsigned char *bytes = buffer;

    while (length > 0) {
        const ssize_t count = pwrite(fd, bytes, length, offset);

        REQUIRE(count > 0);
        bytes += count;
        offset += count;
        length -= (size_t) count;
    }
}

void file_fill(int fd, int64_t offset, int64_t length, unsigned seed)
{
    unsigned char buffer[CHUNK];

    while (length > 0) {
        const size_t step = length < CHUNK ? (size_t) length : CHUNK;

        pattern_fill(buffer, step, seed, offset);
        file_write(fd, offset, buffer, step);
        offset += (int64_t) step;
        length -= (int64_t) step;
    }
}

void file_resize(int fd, int64_t size)
{
    REQUIRE(ftruncate(fd, size) == 0);
}

void file_lay_out(int fd, int64_t offset, const struct piece *pieces, size_t count, unsigned seed)
{
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].kind == SPARSESTREAM_DATA)
            file_fill(fd, offset, pieces[i].length, seed);
        offset += pieces[i].length;
    }
    if (file_size(fd) < offset)
        file_resize(fd, offset);
}

bool file_punch(int fd, int64_t offset, int64_t length)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == 0;
}

static struct stat status_of(int fd)
{
    struct stat status;

    REQUIRE(fstat(fd, &status) == 0);
    return status;
}

int64_t file_size(int fd)
{
    return status_of(fd).st_size;
}

int64_t file_allocated(int fd)
{
    return (int64_t) status_of(fd).st_blocks * 512;
}

int64_t file_block(int fd)
{
    return status_of(fd).st_blksize;
}

int64_t file_position(int fd)
{
    const off_t position = lseek(fd, 0, SEEK_CUR);

    REQUIRE(position >= 0);
    return position;
}

/* Exactly `length` bytes, zeros beyond the end; false at the end. */
static bool read_at(int fd, int64_t offset, unsigned char *buffer, size_t length)
{
    size_t done = 0;

    while (done < length) {
        const ssize_t count = pread(fd, buffer + done, length - done, offset + (int64_t) done);

        REQUIRE(count >= 0);
        if (count == 0)
            return false;
        done += (size_t) count;
    }
    return true;
}

/* Where the next data at or after `offset` begins; `end` if there is none before it. */
static int64_t next_data(int fd, int64_t offset, int64_t end)
{
    const off_t kept = lseek(fd, 0, SEEK_CUR);
    off_t data = lseek(fd, offset, SEEK_DATA);

    if (data < 0)
        data = errno == ENXIO ? end : offset;
    REQUIRE(kept >= 0 && lseek(fd, kept, SEEK_SET) == kept);
    return data < end ? data : end;
}

int64_t file_differs(int left, int64_t left_offset, int right, int64_t right_offset,
                     int64_t length)
{
    unsigned char a[CHUNK], b[CHUNK];
    int64_t done = 0;

    while (done < length) {
        const int64_t a_data = next_data(left, left_offset + done, left_offset + length)
                               - left_offset;
        const int64_t b_data = next_data(right, right_offset + done, right_offset + length)
                               - right_offset;
        size_t step;

        done = a_data < b_data ? a_data : b_data;
        if (done >= length)
            break;
        step = length - done < CHUNK ? (size_t) (length - done) : CHUNK;
        if (!read_at(left, left_offset + done, a, step)
            || !read_at(right, right_offset + done, b, step))
            return left_offset + done;
        if (memcmp(a, b, step) != 0) {
            for (size_t i = 0; i < step; i++) {
                if (a[i] != b[i])
                    return left_offset + done + (int64_t) i;
            }
        }
        done += (int64_t) step;
    }
    /* Holes beyond the end of a file are not content. */
    if (file_size(left) < left_offset + length)
        return file_size(left);
    return file_size(right) < right_offset + length ? left_offset + file_size(right) - right_offset
                                                    : -1;
}

int64_t file_differs_from_pattern(int fd, int64_t offset, int64_t length, unsigned seed,
                                  int64_t base)
{
    unsigned char buffer[CHUNK];

    for (int64_t done = 0; done < length;) {
        const size_t step = length - done < CHUNK ? (size_t) (length - done) : CHUNK;

        if (!read_at(fd, offset + done, buffer, step))
            return offset + done;
        for (size_t i = 0; i < step; i++) {
            const int64_t at = offset + done + (int64_t) i;

            if (buffer[i] != pattern_byte(seed, at - base))
                return at;
        }
        done += (int64_t) step;
    }
    return -1;
}

int64_t file_not_zero(int fd, int64_t offset, int64_t length)
{
    unsigned char buffer[CHUNK];
    int64_t at = offset;
    const int64_t end = offset + length;

    while ((at = next_data(fd, at, end)) < end) {
        const size_t step = end - at < CHUNK ? (size_t) (end - at) : CHUNK;

        if (!read_at(fd, at, buffer, step))
            return at;
        for (size_t i = 0; i < step; i++) {
            if (buffer[i] != 0)
                return at + (int64_t) i;
        }
        at += (int64_t) step;
    }
    return file_size(fd) < end ? file_size(fd) : -1;
}

size_t file_map(int fd, struct extent *extents, size_t room)
{
    const int64_t end = file_size(fd);
    const int64_t kept = file_position(fd);
    int64_t at = 0;
    size_t count = 0;

    while (at < end && count < room) {
        const bool data = next_data(fd, at, end) == at;
        int64_t next;

        if (data) {
            next = lseek(fd, at, SEEK_HOLE);
            REQUIRE(next > at);
        } else {
            next = next_data(fd, at, end);
        }
        if (next > end)
            next = end;
        extents[count++] = (struct extent) {
            .kind = data ? SPARSESTREAM_DATA : SPARSESTREAM_HOLE,
            .offset = at,
            .length = next - at,
        };
        at = next;
    }
    REQUIRE(lseek(fd, kept, SEEK_SET) == kept);
    return count;
}

bool file_maps_exactly(int fd)
{
    struct statfs status;

    REQUIRE(fstatfs(fd, &status) == 0);
    return status.f_type == TMPFS_MAGIC || status.f_type == EXT4_SUPER_MAGIC;
}
