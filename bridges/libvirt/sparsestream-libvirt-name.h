/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libsparsestream-libvirt without the types of libvirt: volumes by name, and what they share with the rest of
 * sparsestream-libvirt.h. For programs that load the library at run time.
 */
#ifndef SPARSESTREAM_LIBVIRT_NAME_H
#define SPARSESTREAM_LIBVIRT_NAME_H

#include <sparsestream.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The most bytes of data in one message of libvirt's protocol. Every libvirt since 0.9.11 takes a message of this size. */
#define SPARSESTREAM_LIBVIRT_MESSAGE 262120

/* How holes are sent into a volume that may hold old bytes: `holes` of `sparsestream_libvirt_options`. libvirt's daemon
 * makes a hole by setting the size of the file, so the old bytes remain under the first hole. */

/* TRUST if the volume has no allocated blocks, or is a block device; otherwise SPLIT. The default. */
#define SPARSESTREAM_LIBVIRT_HOLES_AUTO 0
/* Every hole is sent as zeros. */
#define SPARSESTREAM_LIBVIRT_HOLES_ZEROS 1
/* The first hole is sent as a hole of one byte, at which the daemon truncates the file, and a hole of the rest. After
 * the upload is finished, a second upload writes a zero over that byte. */
#define SPARSESTREAM_LIBVIRT_HOLES_SPLIT 2
/* The volume already reads as zeros under the first hole of the stream, for example because the caller has just created
 * or wiped it. */
#define SPARSESTREAM_LIBVIRT_HOLES_TRUST 3

/* Flag: an upload does not read back the end of the data that it wrote. The daemon reports success even if the last
 * messages could not be written; with this flag, the upload reports success too. */
#define SPARSESTREAM_LIBVIRT_NO_VERIFY 1
/* Flag: a download never delays libvirt's event loop. If the sink is slower than the daemon, libvirt then queues the
 * rest of the volume in memory. */
#define SPARSESTREAM_LIBVIRT_NO_PAUSE 2

/* How a libvirt stream is used. Zero-initialise it and set `size`; NULL means all defaults. */
typedef struct sparsestream_libvirt_options {
    /* sizeof(sparsestream_libvirt_options). */
    uint64_t size;
    /* SPARSESTREAM_LIBVIRT_NO_VERIFY (uploads and sinks of a volume), SPARSESTREAM_LIBVIRT_NO_PAUSE (functions that
     * receive), or 0. */
    uint64_t flags;
    /* One of SPARSESTREAM_LIBVIRT_HOLES_..., for uploads and sinks of a volume; otherwise 0. */
    int32_t holes;
    /* 0. */
    int32_t reserved;
    /* Options of the transfer, or NULL. A `buffer_size` of 0 means one message. With a `sparse` of
     * SPARSESTREAM_SPARSE_REQUIRED, an upload whose holes must be sent as zeros fails with -EOPNOTSUPP. */
    const struct sparsestream_transfer_options *transfer;
} sparsestream_libvirt_options;

/* A failure, with libvirt's own error. Set `size` before the call. A call that fails fills the struct, and a call that
 * returns 0 zeroes it. */
typedef struct sparsestream_libvirt_failure {
    /* sizeof(sparsestream_libvirt_failure), set by the caller. */
    uint64_t size;
    /* The errno, positive; 0 if nothing has failed. */
    int32_t code;
    /* SPARSESTREAM_SIDE_... and SPARSESTREAM_OPERATION_... of the transfer; 0 if no transfer had begun, or if everything
     * was already moved. */
    int32_t side;
    int32_t operation;
    /* virErrorNumber and virErrorDomain; 0 if the failure was not one of libvirt. */
    int32_t libvirt_code;
    int32_t libvirt_domain;
    /* 0. */
    int32_t reserved;
    /* The offset of the failure in bytes, as in sparsestream_error; -1 if no offset applies. */
    int64_t offset;
    /* A description of the failure, with libvirt's own message if there is one. Always ends with a NUL byte. */
    char message[512];
} sparsestream_libvirt_failure;

/*
 * Make a sink that writes, or a source that reads, a range of the volume that is named libvirt+URI#POOL/VOLUME,
 * such as "libvirt+qemu:///system#default/vm.img". An empty URI means libvirt's default. The functions work like
 * sparsestream_libvirt_sink_to_volume() and sparsestream_libvirt_source_from_volume(), but open a connection of their
 * own, which is closed when the handle is freed.
 */
int sparsestream_libvirt_sink_to_name(const char *name,
                                      int64_t offset,
                                      int64_t length,
                                      const struct sparsestream_libvirt_options *options,
                                      struct sparsestream_libvirt_failure *failure,
                                      struct sparsestream_sink **sink);
int sparsestream_libvirt_source_from_name(const char *name,
                                          int64_t offset,
                                          int64_t length,
                                          const struct sparsestream_libvirt_options *options,
                                          struct sparsestream_libvirt_failure *failure,
                                          struct sparsestream_source **source);

#ifdef __cplusplus
}
#endif

#endif
