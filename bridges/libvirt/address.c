/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Volumes by name: libvirt+URI#POOL/VOLUME. */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "libvirt+"

struct address {
    char *text;
    const char *uri, *pool, *volume;
};

static int parse(const char *name, struct address *address, failure_t *failure)
{
    char *fragment, *slash;

    if (name == NULL || strncmp(name, PREFIX, strlen(PREFIX)) != 0)
        return error_set(failure, -EINVAL, "a volume is named " PREFIX "URI#POOL/VOLUME");
    address->text = strdup(name + strlen(PREFIX));
    if (address->text == NULL)
        return error_set(failure, -ENOMEM, "no memory");
    fragment = strrchr(address->text, '#');
    slash = fragment == NULL ? NULL : strchr(fragment, '/');
    if (slash == NULL || slash == fragment + 1 || slash[1] == '\0')
        return error_set(failure, -EINVAL, "%s: a volume is named " PREFIX "URI#POOL/VOLUME", name);
    *fragment = *slash = '\0';
    address->uri = address->text;
    address->pool = fragment + 1;
    address->volume = slash + 1;
    return 0;
}

/* A connection of its own, which the volume holds. Returns 0 or a negative errno. */
static int look_up(const char *name, failure_t *failure, virStorageVolPtr *volume)
{
    virConnectPtr connection = NULL;
    virStoragePoolPtr pool = NULL;
    struct address address = { .text = NULL };
    struct sigpipe saved;
    int r;

    *volume = NULL;
    r = parse(name, &address, failure);
    if (r == 0) {
        sigpipe_block(&saved);
        connection = virConnectOpen(*address.uri == '\0' ? NULL : address.uri);
        if (connection != NULL)
            pool = virStoragePoolLookupByName(connection, address.pool);
        if (pool != NULL)
            *volume = virStorageVolLookupByName(pool, address.volume);
        if (*volume == NULL)
            r = error_take(failure);
        if (pool != NULL)
            virStoragePoolFree(pool);
        if (connection != NULL)
            virConnectClose(connection);
        sigpipe_restore(&saved);
    }
    free(address.text);
    return r;
}

int sparsestream_libvirt_source_from_name(const char *name, int64_t offset, int64_t length, const options_t *options,
                                          failure_t *failure_out, struct sparsestream_source **source)
{
    virStorageVolPtr volume;
    failure_t failure;
    int r;

    if (source == NULL || error_check(failure_out) < 0)
        return -EINVAL;
    *source = NULL;
    error_clear(&failure);
    r = look_up(name, &failure, &volume);
    if (r < 0) {
        error_give(&failure, failure_out);
        return r;
    }
    r = sparsestream_libvirt_source_from_volume(volume, offset, length, options, failure_out, source);
    virStorageVolFree(volume);
    return r;
}

int sparsestream_libvirt_sink_to_name(const char *name, int64_t offset, int64_t length, const options_t *options,
                                      failure_t *failure_out, struct sparsestream_sink **sink)
{
    virStorageVolPtr volume;
    failure_t failure;
    int r;

    if (sink == NULL || error_check(failure_out) < 0)
        return -EINVAL;
    *sink = NULL;
    error_clear(&failure);
    r = look_up(name, &failure, &volume);
    if (r < 0) {
        error_give(&failure, failure_out);
        return r;
    }
    r = sparsestream_libvirt_sink_to_volume(volume, offset, length, options, failure_out, sink);
    virStorageVolFree(volume);
    return r;
}
