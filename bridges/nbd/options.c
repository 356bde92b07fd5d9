/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Structs that start with their size, and the defaults of the options. */

#include "internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    MOST_STRUCT = 65536,
    LEAST_REQUEST_SIZE = 4096,
    DEFAULT_REQUEST_SIZE = 512 << 10,
};

/* A short struct is padded with zeros; the tail of a longer one must be zeros. */
static int read_struct(const void *given, size_t room, void *out)
{
    const unsigned char *bytes = given;
    uint64_t size;
    int r;

    memset(out, 0, room);
    if (given == NULL)
        return 0;
    r = struct_check(given, "options");
    if (r < 0)
        return r;
    memcpy(&size, given, sizeof(size));
    for (size_t i = room; i < size; i++) {
        if (bytes[i] != 0)
            return refuse(-E2BIG, "options: byte %zu is not 0, but this version has only %zu bytes", i, room);
    }
    memcpy(out, given, size < room ? size : room);
    return 0;
}

int struct_check(const void *out, const char *name)
{
    uint64_t size;

    if (out == NULL)
        return refuse(-EINVAL, "%s: is NULL", name);
    memcpy(&size, out, sizeof(size));
    if (size < sizeof(size) || size > MOST_STRUCT)
        return refuse(-EINVAL, "%s.size: %" PRIu64 " is not from %zu to %d", name, size, sizeof(size), MOST_STRUCT);
    return 0;
}

void struct_give(const void *from, size_t size, void *out)
{
    uint64_t room;

    memcpy(&room, out, sizeof(room));
    memset(out, 0, room);
    memcpy(out, from, room < size ? room : size);
    memcpy(out, &room, sizeof(room));
}

/* Sets a number that is 0 to its default, and checks the range. */
static int check_number(int64_t *value, int64_t standard, int64_t least, int64_t most, const char *name)
{
    if (*value == 0)
        *value = standard;
    if (*value < least || *value > most)
        return refuse(-EINVAL, "options.%s: %" PRId64 " is not from %" PRId64 " to %" PRId64, name, *value, least,
                      most);
    return 0;
}

struct flag {
    uint64_t flag;
    const char *name;
};

static const struct flag own_flags[] = {
    { SPARSESTREAM_NBD_NONBLOCK, "SPARSESTREAM_NBD_NONBLOCK" },
    { SPARSESTREAM_NBD_NO_VERIFY_PEER, "SPARSESTREAM_NBD_NO_VERIFY_PEER" },
    { SPARSESTREAM_NBD_LOCAL_FILES, "SPARSESTREAM_NBD_LOCAL_FILES" },
    { SPARSESTREAM_NBD_TLS, "SPARSESTREAM_NBD_TLS" },
    { 0, NULL },
};

static const struct flag end_flags[] = {
    /* The same bit. */
    { SPARSESTREAM_NBD_NO_HOLE, "SPARSESTREAM_IGNORE_MAP (a source) or SPARSESTREAM_NBD_NO_HOLE (a sink)" },
    { 0, NULL },
};

/* Refuses flags that are not known, and names those that are. */
static int check_flags(uint64_t given, uint64_t known, const struct flag *names)
{
    char text[256] = "";

    if ((given & ~known) == 0)
        return 0;
    for (; names->name != NULL; names++) {
        const size_t length = strlen(text);

        if ((known & names->flag) != 0)
            snprintf(text + length, sizeof(text) - length, "%s%s", length == 0 ? "" : ", ", names->name);
    }
    return refuse(-EINVAL, "options.flags: 0x%" PRIx64 " has 0x%" PRIx64 ", but may have only: %s", given, given & ~known,
                  text);
}

/* The default for the bytes of a request, which fits into this much memory; 0: the default. */
static int64_t default_request_size(int64_t memory)
{
    int64_t size = DEFAULT_REQUEST_SIZE;

    while (memory > 0 && size > memory && size > LEAST_REQUEST_SIZE)
        size /= 2;
    return size;
}

int options_read(const options_t *given, options_t *options)
{
    const uint64_t known = SPARSESTREAM_NBD_NONBLOCK | SPARSESTREAM_NBD_NO_VERIFY_PEER |
                           SPARSESTREAM_NBD_LOCAL_FILES | SPARSESTREAM_NBD_TLS;
    int64_t connections, requests;
    int r;

    r = read_struct(given, sizeof(*options), options);
    if (r < 0)
        return r;
    r = check_flags(options->flags, known, own_flags);
    if (r < 0)
        return r;
    connections = options->connections;
    requests = options->requests;
    if ((r = check_number(&options->timeout_ms, 30000, 1, INT32_MAX, "timeout_ms")) < 0 ||
        (r = check_number(&options->request_size, default_request_size(options->memory), LEAST_REQUEST_SIZE,
                          16 << 20, "request_size")) < 0 ||
        (r = check_number(&options->memory, 64 << 20, options->request_size, INT64_C(1) << 32, "memory")) < 0 ||
        (r = check_number(&connections, MOST_CONNECTIONS, 1, MOST_CONNECTIONS, "connections")) < 0 ||
        (r = check_number(&requests, 64, 1, MOST_REQUESTS, "requests")) < 0)
        return r;
    if ((options->request_size & (options->request_size - 1)) != 0)
        return refuse(-EINVAL, "options.request_size: %" PRId64 " is not a power of two from 4096 to 16777216",
                      options->request_size);
    options->connections = (int32_t)connections;
    options->requests = (int32_t)requests;
    return 0;
}

int end_options_read(const end_options_t *given, uint64_t flags, end_options_t *options)
{
    int r = read_struct(given, sizeof(*options), options);

    if (r < 0)
        return r;
    if ((r = check_flags(options->flags, flags, end_flags)) < 0 ||
        (r = check_number(&options->offset, 0, 0, INT64_MAX, "offset")) < 0 ||
        (r = check_number(&options->length, 0, 0, INT64_MAX, "length")) < 0 ||
        (r = check_number(&options->least_hole, 0, 0, INT64_MAX, "least_hole")) < 0)
        return r;
    if (options->zeroes < SPARSESTREAM_NBD_ZEROES_AUTO || options->zeroes > SPARSESTREAM_NBD_ZEROES_WRITE)
        return refuse(-EINVAL, "options.zeroes: %" PRId32 " is not SPARSESTREAM_NBD_ZEROES_AUTO (0), _FAST (1) or _WRITE (2)", options->zeroes);
    if (options->reserved != 0)
        return refuse(-EINVAL, "options.reserved: %" PRIu64 " is not 0", (uint64_t)options->reserved);
    return 0;
}
