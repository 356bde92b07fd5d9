/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef BENCH_QUERY_H
#define BENCH_QUERY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Is the position in data or in a hole, and for how many bytes? In C by hand, with the system calls of
 * sparsestream_in_data: fstat, SEEK_CUR, SEEK_DATA, in data SEEK_HOLE, in a hole fstatfs, SEEK_SET. Returns 0 or a
 * negative errno.
 */
int query_in_data(int fd, bool *in_data, int64_t *length);

#endif
