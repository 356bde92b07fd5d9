/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Declarations shared by the programs of the benchmark: two ends, their socket, and the walk. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define KIB ((int64_t)1024)
#define MIB (1024 * KIB)

/* Ends the program with a message, and with errno in words if it is not 0. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Nanoseconds of the monotonic clock. */
int64_t now(void);

int open_source(const char *path);

/* A new file; one that is there already is an error, so that nothing is measured on old content. */
int open_target(const char *path);

int64_t file_size(int fd);

/* Page-aligned memory. */
void *buffer_of(size_t size);

/*
 * Runs `receive` in a child process and `send` here, at the ends of a Unix socket with buffers of
 * 4 MiB, and returns when both are done. Either fails by ending its process.
 */
void run_ends(void (*send)(int socket, int source), void (*receive)(int socket, int target),
              const char *source, const char *target);

/* recv(2) of all of it. Returns false at an orderly end before the first byte. */
bool receive_all(int socket, void *buffer, size_t length);

void send_all(int socket, const void *buffer, size_t length);

void pread_all(int fd, void *buffer, size_t length, int64_t offset);

void pwrite_all(int fd, const void *buffer, size_t length, int64_t offset);

/* A walk along the map of a file: one lseek(2) a boundary. */
struct walk {
    int fd;
    int64_t at;
    int64_t size;
};

/* The next data section. At the end of the file false, with both offsets at the end. */
bool walk_next(struct walk *walk, int64_t *start, int64_t *end);

/* A number of bytes: digits and one of K, M, G, T, P, E, or "max" for the longest file. */
int64_t parse_bytes(const char *text);

#endif
