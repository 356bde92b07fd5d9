/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* NBD servers that others wrote, one for a case, and transfers to and from them. A server that is not
 * installed skips the case. */
#ifndef SERVERS_H
#define SERVERS_H

#include "files.h"
#include "harness.h"

#include <sparsestream-nbd.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

struct server {
    pid_t pid;
    char socket[96];
    char uri[160];
};

/* Starts nbdkit with these arguments, and waits until it is ready. */
void nbdkit_start(struct server *server, const char *const *arguments);
#define NBDKIT(server, ...) nbdkit_start(server, (const char *const[]){ __VA_ARGS__, NULL })
/* A port of the loopback on which no process listens. */
int free_port(void);
/* As nbdkit_start, at this port of the loopback. */
void nbdkit_start_tcp(struct server *server, int port, const char *const *arguments);
/* As nbdkit_start, at this port of AF_VSOCK; skips the case if the kernel has no loopback there. */
void nbdkit_start_vsock(struct server *server, int port, const char *const *arguments);
/* The same with qemu-nbd, over the file that is its last argument. */
void qemu_nbd_start(struct server *server, const char *const *arguments);
#define QEMU_NBD(server, ...) qemu_nbd_start(server, (const char *const[]){ __VA_ARGS__, NULL })
/* Ends it, and returns its status as waitpid(2) has it. */
int server_stop(struct server *server);
/* Kills it. */
void server_kill(struct server *server);

/* Runs a program to its end. Returns its exit status; skips the case if it is not installed. */
int run_program(const char *const *arguments);
#define RUN(...) run_program((const char *const[]){ __VA_ARGS__, NULL })

#define NBD_OPTIONS(...) \
    (&(struct sparsestream_nbd_options) { .size = sizeof(struct sparsestream_nbd_options), __VA_ARGS__ })
#define END_OPTIONS(...) \
    (&(struct sparsestream_nbd_end_options) { .size = sizeof(struct sparsestream_nbd_end_options), __VA_ARGS__ })

/* A new file of SPARSE_SIZE bytes: data, a hole, data, and a hole at the end. */
enum { SPARSE_SIZE = 8 * MiB };
int sparse_image(const char *name);

/* An export that must open. */
struct sparsestream_nbd *open_export(const char *uri, const struct sparsestream_nbd_options *options);
struct sparsestream_source *export_source(const char *uri, const struct sparsestream_nbd_options *options,
                                          const struct sparsestream_nbd_end_options *end);
struct sparsestream_sink *export_sink(const char *uri, const struct sparsestream_nbd_options *options,
                                      const struct sparsestream_nbd_end_options *end);

/* How a transfer ended. */
struct outcome {
    int r;
    struct sparsestream_error error;
    struct sparsestream_stats stats;
};

/* Runs a transfer to its end, and frees the ends. `transfer` may be NULL. */
struct outcome move(struct sparsestream_source *source, struct sparsestream_sink *sink,
                    const struct sparsestream_transfer_options *transfer);
#define TRANSFER(...) \
    (&(struct sparsestream_transfer_options) { .size = sizeof(struct sparsestream_transfer_options), __VA_ARGS__ })

struct sparsestream_source *file_source(int fd);
struct sparsestream_sink *file_sink(int fd);

/* Fails the case unless it succeeded. */
#define CHECK_MOVED(call)                                                                                  \
    do {                                                                                                   \
        const struct outcome moved_ = (call);                                                              \
        if (moved_.r != 0)                                                                                 \
            harness_fail_code(__FILE__, __LINE__, #call, moved_.r, 0, moved_.error.message);               \
    } while (0)

#endif
