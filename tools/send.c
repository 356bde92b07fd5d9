/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* send FILE */

#include "skip.h"
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int describe(const struct target *file, const struct settings *settings, sparsestream_wire_options *options)
{
    int r;

    *options = (sparsestream_wire_options){
        .size = sizeof(*options),
        .flags = (with_checksums(settings) ? SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST : 0) |
                 (settings->resume ? SPARSESTREAM_WIRE_RESUME : 0) |
                 (settings->restart ? SPARSESTREAM_WIRE_RESTART : 0),
        .keepalive_ms = KEEPALIVE_MS,
    };
    r = sparsestream_wire_describe(file->fd, file->position + settings->offset, settings->length, options);
    /* A source without a size cannot be described, but it can be sent. */
    if (r == -ESPIPE && !settings->resume && settings->offset == 0)
        return 0;
    return r < 0 ? fail_library(file->name, r) : 0;
}

/* Leaves out of HELLO all that it need not say: it comes before the receiver is known. */
static void hide(sparsestream_wire_options *wire)
{
    memset(wire->identity, 0, sizeof(wire->identity));
    if ((wire->flags & SPARSESTREAM_WIRE_SIZES) == 0)
        return;
    wire->source_size = wire->data_bytes = -1;
    wire->source_offset = 0;
}

/* Sends to the peer that is connected. Returns an exit code, after a message, or DROPPED. */
static int send_to_peer(struct target *file, struct connection *connection, const struct settings *settings,
                        const sparsestream_wire_options *wire, struct skipping *skipping, struct progress *progress)
{
    const struct names names = {
        .source = file->name,
        .sink = connection->name,
        .peer = "receiver",
        .wire_side = SPARSESTREAM_SIDE_SINK,
        .connection = connection_listens(connection) ? connection : NULL,
    };
    sparsestream_source_options options;
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    int r;

    fill_source_options(&options, settings, file);
    r = settings->skip_errors ? skip_source(skipping, settings, file, length_of(settings, file), &source)
                              : sparsestream_source_from_fd(content_fd(file), &options, &source);
    if (r < 0)
        r = fail_library(file->name, r);
    else if ((r = sparsestream_sink_to_wire(connection->write_fd, connection->read_fd, wire, &sink)) < 0)
        r = fail_library(connection->name, r);
    else
        r = run_transfer(source, sink, settings, &names, progress);
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    return r;
}

static int send_file(struct target *file, struct connection *connection, struct settings *settings,
                     const sparsestream_wire_options *wire)
{
    bool sizes = (wire->flags & SPARSESTREAM_WIRE_SIZES) != 0;
    sparsestream_wire_options shown = *wire;
    struct skipping skipping = { 0 };
    struct progress progress;
    int64_t work = sizes ? wire->data_bytes : -1;
    int r;

    if (settings->ignore_map || settings->sparse == SPARSESTREAM_SPARSE_NEVER)
        work = sizes ? wire->length : -1;
    r = skip_open_map(&skipping, settings, file, NULL);
    /* Reading around errors needs the page cache. */
    if (r == 0 && !settings->skip_errors)
        r = open_direct(settings, file, NULL, false);
    if (r != 0)
        return skip_report(&skipping, settings, r);
    progress_start(&progress, settings->progress, "send", sizes ? wire->length : -1, work);
    progress.map_fd = file->fd;
    progress.map_offset = file->position + settings->offset;
    if (settings->no_identity)
        hide(&shown);
    do {
        r = send_to_peer(file, connection, settings, &shown, &skipping, &progress);
    } while (r == DROPPED);
    if (r == 0)
        progress_end(&progress);
    standard_advance(file, settings->offset + progress.position);
    skip_end_at(&skipping, progress.position);
    return skip_report(&skipping, settings, r);
}

int command_send(struct settings *settings, int count, char **operands)
{
    sparsestream_wire_options wire;
    struct connection connection;
    struct target file;
    int r;

    if (count < 1)
        return usage(settings, "send needs one file, or - for standard input");
    if (count > 1)
        return usage(settings, "send: extra operand '%s'", operands[1]);
    r = skip_check_options(settings);
    if (r != 0)
        return r;
    if (settings->skip_errors && settings->resume)
        return usage(settings, "--resume and --on-read-error=skip cannot be combined");
    if (settings->restart && !settings->resume)
        return usage(settings, "--restart needs --resume");
    if (settings->resume && settings->connect == NULL && settings->listen == NULL &&
        settings->command_line == NULL && !settings->answers)
        return usage(settings, "--resume needs a way back: --connect, --listen, --exec or --answers");
    if (settings->resume && strcmp(operands[0], "-") == 0)
        return usage(settings, "--resume: standard input cannot be read again");
    signals_catch();
    r = open_source(settings, operands[0], &file);
    if (r != 0)
        return r;
    r = check_range(settings, &file);
    if (r == 0)
        r = skip_check(settings, &file, length_of(settings, &file));
    if (r == 0)
        r = describe(&file, settings, &wire);
    if (r == 0)
        r = connection_open(settings, true, operands[0], &connection);
    if (r == 0) {
        warn_of_writers(settings, &file);
        r = send_file(&file, &connection, settings, &wire);
        r = connection_close(settings, &connection, r);
    }
    close_direct(&file);
    close(file.fd);
    return r;
}
