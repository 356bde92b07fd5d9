/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Options structs of any version. */

#include "internal.h"

#include <errno.h>
#include <string.h>

/* Copies a struct that starts with its size: a short one is padded with zeros, what is beyond ours must be zeros. */
static int read_sized(const void *given, size_t room, size_t least, void *out)
{
    const unsigned char *bytes = given;
    uint64_t size;

    memset(out, 0, room);
    memcpy(&size, given, sizeof(size));
    if (size < least || size > 65536)
        return -EINVAL;
    for (size_t i = room; i < size; i++) {
        if (bytes[i] != 0)
            return -E2BIG;
    }
    memcpy(out, given, size < room ? size : room);
    return 0;
}

int options_read(const options_t *given, uint64_t flags, options_t *options)
{
    static const options_t defaults = { .size = sizeof(defaults) };
    int r;

    r = read_sized(given == NULL ? &defaults : given, sizeof(*options), sizeof(uint64_t), options);
    if (r < 0)
        return r;
    if ((options->flags & ~flags) != 0 || options->reserved != 0)
        return -EINVAL;
    if (options->holes < SPARSESTREAM_LIBVIRT_HOLES_AUTO || options->holes > SPARSESTREAM_LIBVIRT_HOLES_TRUST)
        return -EINVAL;
    return 0;
}

int options_transfer(const options_t *options, struct sparsestream_transfer_options *transfer)
{
    int r = 0;

    if (options->transfer != NULL)
        r = read_sized(options->transfer, sizeof(*transfer), sizeof(uint64_t), transfer);
    else
        memset(transfer, 0, sizeof(*transfer));
    transfer->size = sizeof(*transfer);
    if (transfer->buffer_size == 0 && transfer->zero_block <= SPARSESTREAM_LIBVIRT_MESSAGE)
        transfer->buffer_size = SPARSESTREAM_LIBVIRT_MESSAGE;
    return r;
}
