/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Files with known content and known holes. A file that cannot be made ends the case.
 *
 * The content is a pattern without a zero byte, a function of seed and offset,
 * so that stale, moved and missing bytes all show.
 */
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KiB INT64_C(1024)
#define MiB (1024 * KiB)
#define GiB (1024 * MiB)
#define TiB (1024 * GiB)

/* A part of a layout: `kind` is SPARSESTREAM_DATA or SPARSESTREAM_HOLE. */
struct piece {
    int kind;
    int64_t length;
};

#define DATA(length) { SPARSESTREAM_DATA, length }
#define HOLE(length) { SPARSESTREAM_HOLE, length }
#define KEEP(length) { SPARSESTREAM_KEEP, length }
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* A part of a file's map. */
struct extent {
    int kind;
    int64_t offset;
    int64_t length;
};

/* A new, empty file of the case's directory, for reading and writing. */
int file_new(const char *name);
/* A new memfd: a tmpfs file, which may be 8 EiB large. */
int file_in_memory(void);

unsigned char pattern_byte(unsigned seed, int64_t offset);
void pattern_fill(void *buffer, size_t length, unsigned seed, int64_t offset);

void file_write(int fd, int64_t offset, const void *buffer, size_t length);
/* Writes the pattern of `seed` for these offsets. */
void file_fill(int fd, int64_t offset, int64_t length, unsigned seed);
void file_resize(int fd, int64_t size);
/* Writes the data of the layout from `offset` on; what a hole lies over is left alone. Sets at least the size. */
void file_lay_out(int fd, int64_t offset, const struct piece *pieces, size_t count, unsigned seed);
/* Makes this range a hole; false where the file system cannot. */
bool file_punch(int fd, int64_t offset, int64_t length);

int64_t file_size(int fd);
/* Bytes that the file's blocks take. */
int64_t file_allocated(int fd);
int64_t file_block(int fd);
int64_t file_position(int fd);

/* The first offset of the range that differs, as an offset of `left`; -1 if none does. */
int64_t file_differs(int left, int64_t left_offset, int right, int64_t right_offset,
                     int64_t length);
/* The first offset of the range where the pattern of `seed` (made for offset minus `base`) is not; -1 if none. */
int64_t file_differs_from_pattern(int fd, int64_t offset, int64_t length, unsigned seed,
                                  int64_t base);
/* The first offset of the range that is not zero; -1 if none. Holes are not read. */
int64_t file_not_zero(int fd, int64_t offset, int64_t length);

/* The system's map of the file, not the library's. Returns the number of extents, at most `room`. */
size_t file_map(int fd, struct extent *extents, size_t room);
/* Does the file system keep exactly the blocks that were written, and tell so? */
bool file_maps_exactly(int fd);

#endif
