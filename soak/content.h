/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Made-up volumes: what lies at an offset is a function of a seed, so that nothing need be stored to send it or to
 * check it. Data has no zero byte, so that stale, moved and missing bytes all show.
 */
#ifndef CONTENT_H
#define CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KiB INT64_C(1024)
#define MiB (1024 * KiB)
#define GiB (1024 * MiB)

struct content {
    uint64_t seed;
    int64_t mixed; /* bytes of data and holes; what follows is one hole */
    int64_t size;
    bool dense; /* no holes within `mixed` */
};

/* A small generator, for what is drawn at random. */
uint64_t draw(uint64_t *state);
/* From `least` to `most`. */
int64_t draw_between(uint64_t *state, int64_t least, int64_t most);

/* Bytes from `offset` to the end of its section, at most to the end of the content. */
int64_t content_section(const struct content *content, int64_t offset, bool *data);
void content_read(const struct content *content, int64_t offset, void *buffer, size_t length);
/* How many of the bytes, from the first on, are those of the content. */
size_t content_like(const struct content *content, int64_t offset, const void *buffer, size_t length);
bool content_is(const struct content *content, int64_t offset, const void *buffer, size_t length);

/* Writes the range to the file at the same offsets. 0 or -errno. */
int content_write(const struct content *content, int fd);
/* Is the range of the file, from `at` on, that of the content from `offset` on? Holes of the file are not read. */
bool content_in_file(const struct content *content, int64_t offset, int64_t length, int fd, int64_t at);

#endif
