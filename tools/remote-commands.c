/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* copy, send and recv where one end is a volume of libvirt, an export of an NBD server or a disk image. */

#include "remote.h"
#include "volume.h"
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* The bytes that a source will give, or -1. */
static int64_t total_of(sparsestream_source *source)
{
    sparsestream_source_info info = { .size = sizeof(info) };

    return sparsestream_source_describe(source, &info) == 0 ? info.total : -1;
}

/* Refuses the options that need a descriptor at each end. */
static int check_options(const struct settings *settings)
{
    static const char message[] = "%s needs files or devices at both ends";

    if (settings->preserve != 0)
        return usage(settings, message, "--preserve");
    if (settings->dry_run)
        return usage(settings, message, "--dry-run");
    if (settings->preallocate)
        return usage(settings, message, "--preallocate");
    if (settings->skip_errors)
        return usage(settings, message, "--on-read-error=skip");
    if (settings->read_back)
        return usage(settings, message, "--verify");
    if (settings->only_changes)
        return usage(settings, message, "--only-changes");
    if (settings->device)
        return usage(settings, message, "--device");
    if (settings->direct)
        return usage(settings, message, "--direct");
    if (settings->resume)
        return usage(settings, message, "--resume");
    return 0;
}

/* Runs a transfer between both, and frees them. */
static int move(const struct settings *settings, const struct names *names, sparsestream_source *source,
                sparsestream_sink *sink, struct progress *progress)
{
    const char *volume = volume_among(names->source, names->sink);
    int64_t total = total_of(source);
    int r;

    /* Of a sender that has dropped a peer, it has begun. */
    if (progress->verb == NULL)
        progress_start(progress, settings->progress, settings->command, total, -1);
    r = run_transfer(source, sink, settings, names, progress);
    if (volume != NULL)
        deadline_set(settings, volume, "no answer within", 0);
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    deadline_clear();
    return remote_close(r);
}

static int copy_from_remote(struct settings *settings, const char *from, const char *to)
{
    const struct names names = { .source = from, .sink = to };
    const struct opening opening = { .mode = mode_of_new(settings, NULL) };
    sparsestream_source *source = NULL;
    sparsestream_sink_options options;
    sparsestream_sink *sink = NULL;
    struct progress progress = { 0 };
    struct target target;
    bool whole = settings->at < 0;
    int r;

    r = remote_source(settings, from, settings->offset, settings->length, &source);
    if (r != 0)
        return r;
    r = open_target(settings, to, &opening, &target);
    if (r == 0)
        r = lock_target(settings, &target, whole ? 0 : settings->at, 0);
    if (r == 0) {
        bool truncate = target.regular && !target.append && (settings->truncate >= 0 ? settings->truncate != 0 : whole);

        fill_sink_options(&options, settings, &target, whole ? 0 : settings->at, truncate);
        r = sparsestream_sink_to_fd(target.fd, &options, &sink);
        if (r < 0)
            r = fail_library(target.name, r);
    }
    if (r != 0) {
        sparsestream_source_free(source);
        abandon_target(&target);
        return r;
    }
    deadline_remove(&target);
    r = move(settings, &names, source, sink, &progress);
    deadline_remove(NULL);
    standard_advance(&target, (whole ? 0 : settings->at) + progress.position);
    if (r == 0 && (r = close_target(&target, settings->sync)) == 0)
        progress_end(&progress);
    abandon_target(&target);
    return r;
}

/* An empty stream is not uploaded, because a length of 0 would mean the whole volume. */
static int64_t refuse(void *opaque, const void *buffer, size_t length)
{
    (void)opaque;
    (void)buffer;
    (void)length;
    return -EFBIG;
}

static int open_sink(const struct settings *settings, const char *name, int64_t at, int64_t total,
                     sparsestream_sink **sink)
{
    static const sparsestream_sink_ops nothing = { .size = sizeof(nothing), .write = refuse };
    int r;

    if (total != 0)
        return remote_sink(settings, name, at, total < 0 ? 0 : total, sink);
    r = sparsestream_sink_to_callbacks(&nothing, NULL, sink);
    return r < 0 ? fail_library(name, r) : 0;
}

/* Makes a sink that takes all of the source, and moves it. Frees the source. */
static int into_remote(const struct settings *settings, const struct names *names, sparsestream_source *source,
                       int64_t total, int64_t at, struct progress *progress)
{
    sparsestream_sink *sink = NULL;
    int r = open_sink(settings, names->sink, at, total, &sink);

    if (r != 0) {
        sparsestream_source_abort(source, EIO);
        sparsestream_source_free(source);
        return r;
    }
    r = move(settings, names, source, sink, progress);
    if (r == 0)
        progress_end(progress);
    return r;
}

static int copy_into_remote(struct settings *settings, const char *from, const char *to)
{
    const struct names names = { .source = from, .sink = to };
    sparsestream_source *source = NULL;
    sparsestream_source_options options;
    struct progress progress = { 0 };
    struct target file = { .fd = -1 };
    int r;

    if (is_remote(from)) {
        r = remote_source(settings, from, settings->offset, settings->length, &source);
    } else {
        r = open_source(settings, from, &file);
        if (r == 0)
            r = check_range(settings, &file);
        if (r == 0) {
            warn_of_writers(settings, &file);
            fill_source_options(&options, settings, &file);
            r = sparsestream_source_from_fd(file.fd, &options, &source);
            if (r < 0)
                r = fail_library(file.name, r);
        }
    }
    if (r == 0)
        r = into_remote(settings, &names, source, total_of(source), settings->at < 0 ? 0 : settings->at, &progress);
    if (file.fd >= 0) {
        standard_advance(&file, settings->offset + progress.position);
        if (file.fd != STDIN_FILENO)
            close(file.fd);
    }
    return r;
}

static int send_remote(struct settings *settings, const char *name)
{
    sparsestream_wire_options wire = {
        .size = sizeof(wire),
        .flags = with_checksums(settings) ? SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST : 0,
        .keepalive_ms = KEEPALIVE_MS,
    };
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    struct connection connection;
    struct names names = { .source = name, .peer = "receiver", .wire_side = SPARSESTREAM_SIDE_SINK };
    struct progress progress = { 0 };
    int r;

    r = remote_source(settings, name, settings->offset, settings->length, &source);
    if (r != 0)
        return r;
    r = connection_open(settings, true, name, &connection);
    if (r != 0) {
        sparsestream_source_free(source);
        return r;
    }
    names.sink = connection.name;
    do {
        names.connection = connection_listens(&connection) ? &connection : NULL;
        if (source == NULL && (r = remote_source(settings, name, settings->offset, settings->length, &source)) != 0)
            break;
        r = sparsestream_sink_to_wire(connection.write_fd, connection.read_fd, &wire, &sink);
        if (r < 0) {
            r = fail_library(connection.name, r);
            break;
        }
        r = move(settings, &names, source, sink, &progress);
        source = NULL;
    } while (r == DROPPED);
    if (r == 0)
        progress_end(&progress);
    sparsestream_source_free(source);
    return connection_close(settings, &connection, r);
}

static int recv_remote(struct settings *settings, const char *name)
{
    sparsestream_wire_options wire = {
        .size = sizeof(wire),
        .flags = with_checksums(settings) ? SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST : 0,
        .keepalive_ms = KEEPALIVE_MS,
    };
    sparsestream_source *source = NULL;
    sparsestream_wire_info info;
    struct connection connection;
    struct names names = { .sink = name, .peer = "sender", .wire_side = SPARSESTREAM_SIDE_SOURCE };
    struct progress progress = { 0 };
    int r = check_listening(settings);

    if (r != 0)
        return r;
    limit_size(settings, &wire);
    r = connection_open(settings, false, name, &connection);
    if (r != 0)
        return r;
    names.source = connection.name;
    r = greet(settings, &connection, &names, &wire, &source, &info);
    if (r == 0)
        r = into_remote(settings, &names, source, info.length, settings->offset, &progress);
    else
        sparsestream_source_free(source);
    return connection_close(settings, &connection, r);
}

int command_remote(struct settings *settings, int count, char **operands)
{
    bool copies = strcmp(settings->command, "copy") == 0;
    int r = check_options(settings);

    if (r != 0)
        return r;
    if (count != (copies ? 2 : 1))
        return usage(settings, "%s needs %s if one is not a file", settings->command,
                     copies ? "a source and a target" : "one operand");
    signals_catch();
    if (!copies)
        r = strcmp(settings->command, "send") == 0 ? send_remote(settings, operands[0])
                                                   : recv_remote(settings, operands[0]);
    else
        r = is_remote(operands[1]) ? copy_into_remote(settings, operands[0], operands[1])
                                   : copy_from_remote(settings, operands[0], operands[1]);
    return remote_close(r);
}
