/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Loads the bridge to NBD, which this command does not depend on, and opens exports and disk images with it. */

#include "export.h"

#include "bridge.h"
#include "image.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <sparsestream-nbd.h>
#include <string.h>

#define BRIDGE "libsparsestream-nbd.so.0"

struct bridge {
    __typeof__(sparsestream_nbd_open) *open;
    __typeof__(sparsestream_nbd_open_socket) *open_socket;
    __typeof__(sparsestream_nbd_info) *info;
    __typeof__(sparsestream_nbd_tune) *tune;
    __typeof__(sparsestream_nbd_map) *map;
    __typeof__(sparsestream_nbd_source) *source;
    __typeof__(sparsestream_nbd_sink) *sink;
    __typeof__(sparsestream_nbd_free) *free;
    __typeof__(sparsestream_nbd_last_error) *last_error;
};

/* The exports that are open: at most the two ends of a copy. */
struct opened {
    struct sparsestream_nbd *export;
    struct image image;
};

static struct bridge bridge;
static struct opened opened[2];
static int count;

bool is_export(const char *name)
{
    static const char *const schemes[] = { "nbd:", "nbds:", "nbd+unix:", "nbds+unix:", "nbd+vsock:", "nbds+vsock:" };

    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        size_t length = strlen(schemes[i]);

        if (strncmp(name, schemes[i], length) == 0 && strncmp(name + length, "//", 2) == 0)
            return true;
    }
    return is_image(name);
}

/* Returns 0 or an exit code, after a message. */
static int load(const char *name)
{
    const struct {
        void *place;
        const char *symbol;
    } symbols[] = {
        { &bridge.open, "sparsestream_nbd_open" },
        { &bridge.open_socket, "sparsestream_nbd_open_socket" },
        { &bridge.info, "sparsestream_nbd_info" },
        { &bridge.tune, "sparsestream_nbd_tune" },
        { &bridge.map, "sparsestream_nbd_map" },
        { &bridge.source, "sparsestream_nbd_source" },
        { &bridge.sink, "sparsestream_nbd_sink" },
        { &bridge.last_error, "sparsestream_nbd_last_error" },
        { &bridge.free, "sparsestream_nbd_free" },
    };
    static const struct bridge_file file = { "NBD", BRIDGE, "libsparsestream-nbd0", "libsparsestream-nbd" };
    void *library;

    if (bridge.free != NULL)
        return 0;
    library = bridge_load(name, &file);
    if (library == NULL)
        return EXIT_LOCAL;
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        *(void **)symbols[i].place = dlsym(library, symbols[i].symbol);
        if (*(void **)symbols[i].place == NULL)
            return fail(EXIT_LOCAL, "%s: " BRIDGE " is of another version", name);
    }
    return 0;
}

static int fail_bridge(const char *name, int error)
{
    const char *symbol = error_name(error);
    const char *words = bridge.last_error();

    return fail(EXIT_LOCAL, "%s: %s%s%s%s", name, words[0] != '\0' ? words : strerror(-error),
                symbol != NULL ? " (" : "", symbol != NULL ? symbol : "", symbol != NULL ? ")" : "");
}

/* Whether it is a URI with TLS. */
static bool is_encrypted(const char *name)
{
    return strncmp(name, "nbds", 4) == 0 && is_export(name);
}

int export_check_options(const struct settings *settings, int count, char **operands)
{
    const struct export_settings *export = &settings->export;
    const struct {
        bool given;
        bool tls;
        const char *name;
    } given[] = {
        { export->connections != 0, false, "connections" },
        { export->requests != 0, false, "requests" },
        { export->request_size != 0, false, "request-size" },
        { export->memory != 0, false, "memory" },
        { export->tls_certificates != NULL, true, "tls-certificates" },
        { export->tls_psk != NULL, true, "tls-psk" },
        { export->tls_username != NULL, true, "tls-username" },
        { export->no_verify_peer, true, "no-verify-peer" },
    };
    bool any = false, encrypted = false;

    for (int i = 0; i < count; i++) {
        any = any || is_export(operands[i]);
        encrypted = encrypted || is_encrypted(operands[i]);
    }
    for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++) {
        if (given[i].given && !(given[i].tls ? encrypted : any))
            return usage(settings, "--%s needs %s", given[i].name,
                         given[i].tls ? "an NBD URI with TLS (nbds://)" : "an NBD URI or a disk image");
    }
    if (export->memory != 0 && export->memory < export->request_size)
        return usage(settings, "--memory: %" PRId64 " is less than --request-size, %" PRId64, export->memory,
                     export->request_size);
    return 0;
}

/* Opens an export or an image. Returns 0 or an exit code, after a message. */
static int open_export(const struct settings *settings, const char *name, bool writable,
                       struct sparsestream_nbd **export)
{
    enum { RESOLVE_MS = 500 };
    const struct export_settings *export_settings = &settings->export;
    struct sparsestream_nbd_options options = {
        .size = sizeof(options),
        /* The URI is the user's own. */
        .flags = SPARSESTREAM_NBD_LOCAL_FILES,
        .timeout_ms = settings->timeout_ms,
        .connections = (int32_t)export_settings->connections,
        .requests = (int32_t)export_settings->requests,
        .request_size = export_settings->request_size,
        .memory = export_settings->memory,
    };
    struct opened *slot = &opened[count];
    int socket = -1, r;

    if (count == sizeof(opened) / sizeof(opened[0]))
        return fail(EXIT_LOCAL, "%s: %d exports are open already, the most that this command opens", name, count);
    r = load(name);
    if (r != 0)
        return r;
    *slot = (struct opened){ 0 };
    if (is_image(name)) {
        r = image_serve(settings, name, writable, &slot->image, &socket);
        if (r != 0)
            return r;
        r = bridge.open_socket(socket, &options, &slot->export);
    } else {
        if (is_encrypted(name)) {
            options.tls_certificates = export_settings->tls_certificates;
            options.tls_psk_file = export_settings->tls_psk;
            options.tls_username = export_settings->tls_username;
            options.flags |= export_settings->no_verify_peer ? SPARSESTREAM_NBD_NO_VERIFY_PEER : 0;
        }
        /* The bridge keeps to the time, but not while the name of the host is resolved. */
        deadline_set(settings, name, "no answer within", RESOLVE_MS);
        r = bridge.open(name, &options, &slot->export);
        deadline_clear();
    }
    if (r < 0 && slot->image.pid != 0) {
        /* The reason why the server died is the better message. */
        int code = image_reason(&slot->image);

        return code != 0 ? code : fail_bridge(name, r);
    }
    if (r < 0)
        return fail_bridge(name, r);
    *export = slot->export;
    count++;
    return 0;
}

/* Refuses a range that is not in the export. */
static int check_export_range(const struct settings *settings, const char *name, struct sparsestream_nbd *export,
                              int64_t offset, int64_t length)
{
    struct sparsestream_nbd_facts facts = { .size = sizeof(facts) };
    int r = bridge.info(export, &facts);

    if (r < 0)
        return fail_bridge(name, r);
    if (offset <= facts.export_size && length <= facts.export_size - offset)
        return 0;
    return usage(settings, "--range: %" PRId64 ":%" PRId64 " is not within the %" PRId64 " bytes of %s", offset, length,
                 facts.export_size, name);
}

int export_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source)
{
    const struct sparsestream_nbd_end_options options = {
        .size = sizeof(options),
        .flags = settings->ignore_map ? SPARSESTREAM_IGNORE_MAP : 0,
        .offset = offset,
        .length = length,
    };
    struct sparsestream_nbd *export;
    int r = open_export(settings, name, false, &export);

    if (r == 0)
        r = check_export_range(settings, name, export, offset, length);
    if (r != 0)
        return r;
    r = bridge.source(export, &options, source);
    return r < 0 ? fail_bridge(name, r) : 0;
}

static int check_export_room(const char *name, struct sparsestream_nbd *export, int64_t offset, int64_t length)
{
    struct sparsestream_nbd_facts facts = { .size = sizeof(facts) };
    int64_t room;
    int r = bridge.info(export, &facts);

    if (r < 0)
        return fail_bridge(name, r);
    if (offset <= facts.export_size && length <= facts.export_size - offset)
        return 0;
    room = offset < facts.export_size ? facts.export_size - offset : 0;
    if (is_image(name))
        return image_too_small(name, room, length, offset + length);
    return fail(EXIT_REFUSED, "%s: has room for %" PRId64 " bytes, but %" PRId64 " are to be written", name, room, length);
}

int export_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink)
{
    const struct sparsestream_nbd_end_options options = { .size = sizeof(options), .offset = offset };
    struct sparsestream_nbd *export;
    int r;

    if (settings->truncate > 0)
        return usage(settings, "--truncate: %s keeps its size", name);
    r = open_export(settings, name, true, &export);
    if (r == 0)
        r = check_export_room(name, export, offset, length);
    if (r != 0)
        return r;
    r = bridge.sink(export, &options, sink);
    return r < 0 ? fail_bridge(name, r) : 0;
}

int export_map(const struct settings *settings, const char *name,
               int (*section)(void *opaque, const sparsestream_section *section), void *opaque)
{
    struct sparsestream_nbd *export;
    int r = open_export(settings, name, false, &export);

    if (r == 0)
        r = check_export_range(settings, name, export, settings->offset, settings->length);
    if (r != 0)
        return r;
    r = bridge.map(export, settings->offset, settings->length, section, opaque);
    return r < 0 ? fail_bridge(name, r) : 0;
}

void export_tune(sparsestream_transfer_options *options)
{
    int i;

    for (i = 0; i < count; i++)
        bridge.tune(opened[i].export, options);
}

int export_close(int result)
{
    while (count > 0) {
        struct opened *last = &opened[--count];

        bridge.free(last->export);
        if (last->image.pid != 0)
            result = image_wait(&last->image, result);
    }
    return result;
}
