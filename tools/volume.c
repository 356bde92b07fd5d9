/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Loads the bridge to libvirt, which this command does not depend on, and opens volumes with it. */

#include "volume.h"

#include "bridge.h"

#include <dlfcn.h>
#include <errno.h>
#include <sparsestream-libvirt-name.h>
#include <string.h>

#define PREFIX "libvirt+"
#define BRIDGE "libsparsestream-libvirt.so.0"

struct bridge {
    __typeof__(sparsestream_libvirt_source_from_name) *source;
    __typeof__(sparsestream_libvirt_sink_to_name) *sink;
    /* virSetErrorFunc */
    void (*set_error_func)(void *opaque, void (*handler)(void *opaque, void *error));
};

bool is_volume(const char *name)
{
    return strncmp(name, PREFIX, strlen(PREFIX)) == 0;
}

const char *volume_among(const char *one, const char *other)
{
    if (one != NULL && is_volume(one))
        return one;
    return other != NULL && is_volume(other) ? other : NULL;
}

/* libvirt would print each error by itself. */
static void no_print(void *opaque, void *error)
{
    (void)opaque;
    (void)error;
}

/* Returns the bridge, or NULL after a message. */
static const struct bridge *load(const char *name)
{
    static struct bridge bridge;
    static const struct bridge_file file = { "libvirt", BRIDGE, "libsparsestream-libvirt0", "libsparsestream-libvirt" };
    void *library;

    if (bridge.source != NULL)
        return &bridge;
    library = bridge_load(name, &file);
    if (library == NULL)
        return NULL;
    *(void **)&bridge.source = dlsym(library, "sparsestream_libvirt_source_from_name");
    *(void **)&bridge.sink = dlsym(library, "sparsestream_libvirt_sink_to_name");
    *(void **)&bridge.set_error_func = dlsym(library, "virSetErrorFunc");
    if (bridge.source == NULL || bridge.sink == NULL) {
        bridge.source = NULL;
        fail(EXIT_LOCAL, "%s: " BRIDGE " is of another version", name);
        return NULL;
    }
    if (bridge.set_error_func != NULL)
        bridge.set_error_func(NULL, no_print);
    return &bridge;
}

static int fail_open(const char *name, const sparsestream_libvirt_failure *failure)
{
    const char *symbol = error_name(failure->code);

    return fail(EXIT_LOCAL, "%s: %s%s%s%s", name, failure->message, symbol != NULL ? " (" : "",
                symbol != NULL ? symbol : "", symbol != NULL ? ")" : "");
}

int volume_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source)
{
    sparsestream_libvirt_failure failure = { .size = sizeof(failure) };
    const struct bridge *bridge = load(name);
    int r;

    if (bridge == NULL)
        return EXIT_LOCAL;
    if (settings->ignore_map)
        return usage(settings, "--ignore-map: the holes of %s are found by libvirt", name);
    deadline_set(settings, name, "no answer within", 0);
    r = bridge->source(name, offset, length, NULL, &failure, source);
    deadline_clear();
    return r < 0 ? fail_open(name, &failure) : 0;
}

int volume_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink)
{
    const sparsestream_libvirt_options options = {
        .size = sizeof(options),
        .holes = settings->known_zero ? SPARSESTREAM_LIBVIRT_HOLES_TRUST : SPARSESTREAM_LIBVIRT_HOLES_AUTO,
    };
    sparsestream_libvirt_failure failure = { .size = sizeof(failure) };
    const struct bridge *bridge = load(name);
    int r;

    if (bridge == NULL)
        return EXIT_LOCAL;
    if (settings->sync)
        return usage(settings, "--sync: libvirt has no way to make %s durable", name);
    if (settings->truncate > 0)
        return usage(settings, "--truncate: %s keeps its size", name);
    deadline_set(settings, name, "no answer within", 0);
    r = bridge->sink(name, offset, length, &options, &failure, sink);
    deadline_clear();
    return r < 0 ? fail_open(name, &failure) : 0;
}
