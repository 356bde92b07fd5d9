/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Options structs of any version. */

#include "internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { MOST_STRUCT = 65536 };

/* Copies a struct that starts with its size: a short one is padded with zeros, what is beyond ours must be zeros. */
static int read_sized(const void *given, size_t room, void *out, const char *name, failure_t *failure)
{
    const unsigned char *bytes = given;
    uint64_t size;

    memset(out, 0, room);
    memcpy(&size, given, sizeof(size));
    if (size < sizeof(size) || size > MOST_STRUCT)
        return error_set(failure, -EINVAL, "%s.size is %" PRIu64 ", but must be from %zu to %d", name, size, sizeof(size),
                         MOST_STRUCT);
    for (size_t i = room; i < size; i++) {
        if (bytes[i] != 0)
            return error_set(failure, -E2BIG, "%s has a byte that is not 0 at %zu, but this version has only %zu bytes",
                             name, i, room);
    }
    memcpy(out, given, size < room ? size : room);
    return 0;
}

static const char *flag_names(uint64_t flags)
{
    switch (flags) {
    case SPARSESTREAM_LIBVIRT_NO_VERIFY:
        return "only SPARSESTREAM_LIBVIRT_NO_VERIFY";
    case SPARSESTREAM_LIBVIRT_NO_PAUSE:
        return "only SPARSESTREAM_LIBVIRT_NO_PAUSE";
    default:
        return "no flag";
    }
}

int options_read(const options_t *given, uint64_t flags, options_t *options, failure_t *failure)
{
    static const options_t defaults = { .size = sizeof(defaults) };
    int r;

    r = read_sized(given == NULL ? &defaults : given, sizeof(*options), options, "options", failure);
    if (r < 0)
        return r;
    if ((options->flags & ~flags) != 0)
        return error_set(failure, -EINVAL, "options.flags is 0x%" PRIx64 ", but may have %s", options->flags,
                         flag_names(flags));
    if (options->reserved != 0)
        return error_set(failure, -EINVAL, "options.reserved is %" PRId64 ", but must be 0", (int64_t) options->reserved);
    if (options->holes < SPARSESTREAM_LIBVIRT_HOLES_AUTO || options->holes > SPARSESTREAM_LIBVIRT_HOLES_TRUST)
        return error_set(failure, -EINVAL, "options.holes is %" PRId64 ", but must be SPARSESTREAM_LIBVIRT_HOLES_AUTO (0), "
                         "_ZEROS (1), _SPLIT (2) or _TRUST (3)", (int64_t) options->holes);
    return 0;
}

int options_only_auto(const options_t *options, failure_t *failure)
{
    if (options->holes == SPARSESTREAM_LIBVIRT_HOLES_AUTO)
        return 0;
    return error_set(failure, -EINVAL, "options.holes is %" PRId64 ", but must be SPARSESTREAM_LIBVIRT_HOLES_AUTO (0) except "
                     "for uploads of a volume", (int64_t) options->holes);
}

int options_transfer(const options_t *options, struct sparsestream_transfer_options *transfer, failure_t *failure)
{
    int r = 0;

    if (options->transfer != NULL)
        r = read_sized(options->transfer, sizeof(*transfer), transfer, "options.transfer", failure);
    else
        memset(transfer, 0, sizeof(*transfer));
    transfer->size = sizeof(*transfer);
    if (transfer->buffer_size == 0 && transfer->zero_block <= SPARSESTREAM_LIBVIRT_MESSAGE)
        transfer->buffer_size = SPARSESTREAM_LIBVIRT_MESSAGE;
    return r;
}
