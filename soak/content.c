/* SPDX-License-Identifier: MIT OR Apache-2.0 */

#define _GNU_SOURCE
#include "content.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { UNIT = 16 * 1024 };

static uint64_t mix(uint64_t value)
{
    value += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

uint64_t draw(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return mix(*state);
}

int64_t draw_between(uint64_t *state, int64_t least, int64_t most)
{
    return least + (int64_t)(draw(state) % (uint64_t)(most - least + 1));
}

static bool is_data(const struct content *content, int64_t offset)
{
    if (offset >= content->mixed)
        return false;
    return content->dense || mix(content->seed ^ (uint64_t)(offset / UNIT / 3)) % 3 != 0;
}

int64_t content_section(const struct content *content, int64_t offset, bool *data)
{
    int64_t end = offset;

    *data = is_data(content, offset);
    while (end < content->size && is_data(content, end) == *data) {
        if (end >= content->mixed)
            end = content->size;
        else
            end = (end / UNIT + 1) * UNIT < content->mixed ? (end / UNIT + 1) * UNIT : content->mixed;
    }
    return (end < content->size ? end : content->size) - offset;
}

static uint64_t word_at(const struct content *content, int64_t offset)
{
    return mix(content->seed + (uint64_t)offset) | UINT64_C(0x0101010101010101);
}

static void fill_data(const struct content *content, int64_t offset, unsigned char *to, size_t length)
{
    while (length > 0) {
        uint64_t word = word_at(content, offset & ~INT64_C(7));
        size_t skip = (size_t)(offset & 7), count = 8 - skip < length ? 8 - skip : length;

        memcpy(to, (const unsigned char *)&word + skip, count);
        to += count;
        offset += (int64_t)count;
        length -= count;
    }
}

void content_read(const struct content *content, int64_t offset, void *buffer, size_t length)
{
    unsigned char *to = buffer;

    while (length > 0) {
        bool data;
        int64_t section = content_section(content, offset, &data);
        size_t count = section > 0 && (uint64_t)section < length ? (size_t)section : length;

        if (data)
            fill_data(content, offset, to, count);
        else
            memset(to, 0, count);
        to += count;
        offset += (int64_t)count;
        length -= count;
    }
}

size_t content_like(const struct content *content, int64_t offset, const void *buffer, size_t length)
{
    const unsigned char *bytes = buffer;
    unsigned char expected[4096];

    for (size_t done = 0; done < length;) {
        size_t count = length - done < sizeof(expected) ? length - done : sizeof(expected), same = 0;

        content_read(content, offset + (int64_t)done, expected, count);
        if (memcmp(expected, bytes + done, count) != 0) {
            while (expected[same] == bytes[done + same])
                same++;
            return done + same;
        }
        done += count;
    }
    return length;
}

bool content_is(const struct content *content, int64_t offset, const void *buffer, size_t length)
{
    return content_like(content, offset, buffer, length) == length;
}

int content_write(const struct content *content, int fd)
{
    unsigned char buffer[16 * 1024];
    int64_t offset = 0;

    if (ftruncate(fd, content->size) < 0)
        return -errno;
    while (offset < content->mixed) {
        bool data;
        int64_t section = content_section(content, offset, &data);
        size_t count = section < (int64_t)sizeof(buffer) ? (size_t)section : sizeof(buffer);
        ssize_t n;

        if (!data) {
            offset += section;
            continue;
        }
        fill_data(content, offset, buffer, count);
        n = pwrite(fd, buffer, count, offset);
        if (n < 0)
            return -errno;
        offset += n;
    }
    return 0;
}

bool content_in_file(const struct content *content, int64_t offset, int64_t length, int fd, int64_t at)
{
    unsigned char buffer[16 * 1024];

    while (length > 0) {
        bool data;
        int64_t section = content_section(content, offset, &data);
        size_t count = length < (int64_t)sizeof(buffer) ? (size_t)length : sizeof(buffer);
        ssize_t n;

        if (!data && section > MiB) {
            /* The file must have no data there; what its map calls data is read. */
            int64_t next = lseek(fd, at, SEEK_DATA);
            int64_t hole = next < 0 ? section : next - at;

            if (next < 0 && errno != ENXIO)
                return false;
            if (hole > section)
                hole = section;
            if (hole > length)
                hole = length;
            if (hole > 0) {
                if (lseek(fd, 0, SEEK_END) < at + hole)
                    return false;
                offset += hole;
                at += hole;
                length -= hole;
                continue;
            }
        }
        n = pread(fd, buffer, count, at);
        if (n <= 0 || !content_is(content, offset, buffer, (size_t)n))
            return false;
        offset += n;
        at += n;
        length -= n;
    }
    return true;
}
