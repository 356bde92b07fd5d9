/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* recv FILE */

#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { CHECKPOINT = 64 << 20 };

struct reception {
    struct settings *settings;
    struct target target;
    struct connection connection;
    struct resume resume;
    bool offered;
    sparsestream_wire_info info;
    struct names names;
};

static int64_t place(const struct settings *settings)
{
    return settings->offset;
}

/* Whether the target becomes what is received, instead of holding it at some place. */
static bool truncates(const struct settings *settings, const struct target *target)
{
    bool whole = !settings->ranged && target->path != NULL;

    return target->regular && !target->append && (settings->truncate >= 0 ? settings->truncate : whole);
}

/* `length`: 0 if it is not known yet, or -1 if it never will be. */
static int lock(const struct settings *settings, struct target *target, int64_t length)
{
    bool all = truncates(settings, target);

    if (settings->length != 0)
        length = settings->length;
    /* For a range without an end, lock only the bytes that will be received. The held bytes must not change
     * before they are compared. */
    if (!all && length == 0 && !settings->resume)
        return 0;
    return lock_target(settings, target, all ? 0 : place(settings), all || length < 0 ? 0 : length);
}

static int on_checkpoint(void *opaque, int64_t durable_offset)
{
    struct reception *reception = opaque;

    reception->resume.durable = durable_offset - reception->resume.at;
    return resume_save(&reception->resume);
}

/* Offers the sender the part that is held from an earlier transfer. */
static int make_offer(struct reception *reception, sparsestream_wire_options *wire)
{
    const struct settings *settings = reception->settings;
    struct resume *resume = &reception->resume;

    if (resume->known && resume->at != place(settings))
        return fail(EXIT_REFUSED, "%s: belongs to a transfer to offset %lld of %s", resume->path, (long long)resume->at,
                    reception->target.name);
    resume->at = place(settings);
    if (!resume->known || resume->durable == 0)
        return 0;
    if (reception->target.fd < 0 && settings->restart)
        return 0;
    if (reception->target.fd < 0)
        return fail(EXIT_REFUSED, "%s: does not hold the %lld bytes that are recorded in %s (--restart starts again)",
                    reception->target.name, (long long)resume->durable, resume->path);
    reception->offered = true;
    wire->resume_offset = resume->durable;
    wire->resume_fd = reception->target.fd;
    wire->resume_fd_offset = resume->at;
    memcpy(wire->identity, resume->identity, IDENTITY);
    return 0;
}

/* Makes the target, now that there is something to put into it. */
static int prepare_target(struct reception *reception)
{
    struct settings *settings = reception->settings;
    struct target *target = &reception->target;
    struct opening opening = { .readable = settings->resume, .mode = mode_of_new(settings, NULL) };
    int r = 0;

    if (target->fd < 0)
        r = open_target(settings, target->path, &opening, target);
    if (r == 0)
        r = lock(settings, target, reception->info.length == 0 ? -1 : reception->info.length);
    if (r != 0)
        return r;
    r = check_room(target, target->position + place(settings), reception->info.length);
    if (r != 0)
        target->error = ENOSPC;
    return r;
}

static int receive_into(struct reception *reception, sparsestream_source *source)
{
    struct settings *settings = reception->settings;
    const sparsestream_wire_info *info = &reception->info;
    struct target *target = &reception->target;
    sparsestream_sink_options options;
    sparsestream_sink *sink = NULL;
    struct progress progress;
    int r;

    fill_sink_options(&options, settings, target, place(settings) + info->start, truncates(settings, target));
    if (settings->resume) {
        options.sync_interval = settings->checkpoint != 0 ? settings->checkpoint : CHECKPOINT;
        options.checkpoint = on_checkpoint;
        options.opaque = reception;
        memcpy(reception->resume.identity, info->identity, IDENTITY);
    }
    r = open_direct(settings, target, NULL, true);
    if (r != 0) {
        sparsestream_source_abort(source, EIO);
        return r;
    }
    r = sparsestream_sink_to_fd(content_fd(target), &options, &sink);
    if (r < 0) {
        sparsestream_source_abort(source, -r);
        return fail_library(target->name, r);
    }
    progress_start(&progress, settings->progress, "recv", info->length,
                   settings->sparse == SPARSESTREAM_SPARSE_NEVER ? info->length : info->data_bytes);
    progress.map_fd = info->start > 0 ? target->fd : -1;
    progress.map_offset = place(settings);
    r = run_transfer(source, sink, settings, &reception->names, &progress);
    sparsestream_sink_free(sink);
    standard_advance(target, place(settings) + progress.position);
    if (r == 0)
        r = close_target(target, settings->sync || settings->resume);
    if (r == 0 && settings->resume)
        r = resume_remove(&reception->resume);
    if (r == 0)
        progress_end(&progress);
    return r;
}

static int receive(struct reception *reception, const sparsestream_wire_options *wire)
{
    const struct settings *settings = reception->settings;
    struct connection *connection = &reception->connection;
    sparsestream_source *source = NULL;
    int r;

    reception->names = (struct names){
        .source = connection->name,
        .sink = reception->target.name,
        .peer = "sender",
        .wire_side = SPARSESTREAM_SIDE_SOURCE,
    };
    r = greet(settings, connection, &reception->names, wire, &source, &reception->info);
    if (r == 0) {
        if (reception->offered && reception->info.start == 0)
            report_event("restart", "%s: starts again: %s", reception->target.name,
                 memcmp(reception->info.identity, reception->resume.identity, IDENTITY) != 0
                     ? "the source is not that of the first transfer"
                     : "the target differs from the source, or the sender cannot resume");
        r = prepare_target(reception);
        if (r != 0)
            sparsestream_source_abort(source, reception->target.error != 0 ? reception->target.error : EIO);
    }
    if (r == 0)
        r = receive_into(reception, source);
    sparsestream_source_free(source);
    return r;
}

static int check_options(struct settings *settings, const char *file)
{
    if (settings->restart && !settings->resume)
        return usage(settings, "--restart needs --resume");
    if (!settings->resume && (settings->state != NULL || settings->checkpoint != 0))
        return usage(settings, "--state and --checkpoint need --resume");
    if (settings->resume && settings->known_zero)
        return usage(settings, "--resume and --known-zero cannot be combined");
    if (settings->resume && strcmp(file, "-") == 0)
        return usage(settings, "--resume: standard output cannot be written again");
    return check_listening(settings);
}

int command_recv(struct settings *settings, int count, char **operands)
{
    struct reception reception = { .settings = settings };
    const struct opening opening = { .existing = true, .readable = settings->resume };
    sparsestream_wire_options wire = {
        .size = sizeof(wire),
        .flags = (with_checksums(settings) ? SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST : 0) |
                 (settings->restart ? SPARSESTREAM_WIRE_RESTART : 0),
        .keepalive_ms = KEEPALIVE_MS,
    };
    int r;

    if (count < 1)
        return usage(settings, "recv needs one file, or - for standard output");
    if (count > 1)
        return usage(settings, "recv: extra operand '%s'", operands[1]);
    r = check_options(settings, operands[0]);
    if (r != 0)
        return r;
    limit_size(settings, &wire);
    signals_catch();
    /* A file that does not exist is created only after the sender has introduced its stream. */
    r = open_target(settings, operands[0], &opening, &reception.target);
    if (r == 0 && reception.target.append && settings->ranged)
        r = usage(settings, "--range: standard output is in append mode, and is only written at its end");
    if (r == 0)
        r = check_offset(settings, "range", &reception.target, place(settings));
    if (r == 0)
        r = lock(settings, &reception.target, 0);
    if (r == 0 && settings->resume && reception.target.device && settings->state == NULL)
        r = usage(settings, "--resume: a device needs --state, a file for the record");
    if (r == 0 && settings->resume) {
        r = resume_load(&reception.resume, settings->state, operands[0]);
        if (r == 0)
            r = make_offer(&reception, &wire);
        if (r == 0)
            r = resume_check(&reception.resume);
    }
    if (r == 0)
        r = connection_open(settings, false, operands[0], &reception.connection);
    if (r == 0) {
        r = receive(&reception, &wire);
        r = connection_close(settings, &reception.connection, r);
    }
    abandon_target(&reception.target);
    resume_free(&reception.resume);
    return r;
}
