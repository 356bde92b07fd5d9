/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A private libvirtd for one case: its own sockets, state and pools, in a mount namespace of its own. A
 * daemon that cannot be had here skips the case.
 */
#ifndef DAEMON_H
#define DAEMON_H

#include "files.h"
#include "harness.h"

#include <sparsestream-libvirt.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

struct daemon {
    pid_t pid;
    char directory[64];
    char socket[100];
    char pool_directory[160];
    virConnectPtr connection;
    virStoragePoolPtr pool;
};

/* Initialises libvirt, quiet, with its event loop registered. */
bool daemon_prepare(void);
/* Runs the cases with libvirt initialised, quiet, and its event loop registered. */
int daemon_tests(int argc, char **argv, const struct test_case *cases, size_t count);

#define DAEMON_TESTS(...)                                                       \
    int main(int argc, char **argv)                                             \
    {                                                                           \
        static const struct test_case cases[] = { __VA_ARGS__ };                \
        return daemon_tests(argc, argv, cases, sizeof cases / sizeof *cases);   \
    }

/* Starts a daemon with one pool in a directory of its own. */
void daemon_start(struct daemon *daemon);
/* The same with the pool on a tmpfs of this many bytes. */
void daemon_start_small(struct daemon *daemon, int64_t size);
/* Ends the connection and the daemon. */
void daemon_stop(struct daemon *daemon);
void daemon_kill(struct daemon *daemon);

virConnectPtr daemon_connect(const char *socket);
/* A new raw volume without allocated blocks. */
virStorageVolPtr volume_new(struct daemon *daemon, const char *name, int64_t capacity);
/* The same, full of the pattern of `seed`. */
virStorageVolPtr volume_new_filled(struct daemon *daemon, const char *name, int64_t capacity, unsigned seed);
/* The volume's file, for reading and writing. */
int volume_file(struct daemon *daemon, const char *name);

/* libvirt's event loop in a thread of its own. */
void events_start(void);
void events_stop(void);
/* Runs it in this thread. */
void events_run_for(unsigned milliseconds);
/* The same until *done; fails the case after `seconds`. */
void events_run_until(const bool *done, unsigned seconds);

/* A process between client and daemon, which can stop forwarding. */
struct relay {
    pid_t pid;
    char socket[100];
};

void relay_start(struct relay *relay, const struct daemon *daemon);
void relay_freeze(struct relay *relay);
void relay_cut(struct relay *relay);
void relay_stop(struct relay *relay);

/* Peak of this process's resident memory in KiB since memory_reset(). */
void memory_reset(void);
int64_t memory_peak(void);

#define FAILURE { .size = sizeof(struct sparsestream_libvirt_failure) }
#define LIBVIRT_OPTIONS(...) \
    (&(struct sparsestream_libvirt_options) { .size = sizeof(struct sparsestream_libvirt_options), __VA_ARGS__ })

/* A call of the bridge, with its own words. */
#define CHECK_RESULT(call, expected, failure)                                                              \
    do {                                                                                                   \
        const int64_t got_ = (call), expected_ = (expected);                                               \
        if (got_ != expected_)                                                                             \
            harness_fail_code(__FILE__, __LINE__, #call, got_, expected_, (failure)->message);             \
    } while (0)

/* Do both files have the same bytes from these offsets on, and has the target no more blocks than the source
 * and `more`? */
#define CHECK_SAME(source, source_offset, target, target_offset, length, more)                             \
    do {                                                                                                   \
        CHECK_INT(file_differs(source, source_offset, target, target_offset, length), ==, -1);             \
        CHECK_INT(file_allocated(target), <=, file_allocated(source) + (more));                            \
    } while (0)

#endif
