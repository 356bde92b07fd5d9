/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* copy SRC DST */

#include "tool.h"

#include <unistd.h>

/* Locks the part of the target that will be written, for as long as it is open. */
static int lock(const struct settings *settings, struct target *to, int64_t offset, int64_t length, bool truncate)
{
    /* What is cut, or has no known length, is locked to the end. */
    return lock_target(settings, to, truncate ? 0 : offset, truncate || length < 0 ? 0 : length);
}

/* The bytes that will be copied; -1 where that is not known. */
static int64_t length_of(const struct settings *settings, const struct target *from)
{
    int64_t size = settings->length != 0 ? -1 : size_of(from);

    if (settings->length != 0)
        return settings->length;
    return size < 0 ? -1 : size - from->position - settings->offset;
}

static int run(struct target *from, struct target *to, struct settings *settings, bool truncate)
{
    const struct names names = { .source = from->name, .sink = to->name };
    sparsestream_source_options source_options;
    sparsestream_sink_options sink_options;
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    struct progress progress = { 0 };
    int64_t at = settings->at < 0 ? 0 : settings->at;
    int64_t total = -1, work = -1;
    int r;

    fill_source_options(&source_options, settings, from);
    fill_sink_options(&sink_options, settings, to, at, truncate);
    if (settings->progress != PROGRESS_NONE)
        measure(from, settings, &total, &work);
    r = sparsestream_source_from_fd(from->fd, &source_options, &source);
    if (r < 0) {
        r = fail_library(from->name, r);
    } else if ((r = sparsestream_sink_to_fd(to->fd, &sink_options, &sink)) < 0) {
        r = fail_library(to->name, r);
    } else {
        progress_start(&progress, settings->progress, "copy", total, work);
        r = run_transfer(source, sink, settings, &names, &progress);
    }
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    standard_advance(to, at + progress.position);
    standard_advance(from, settings->offset + progress.position);
    if (r == 0)
        r = preserve(settings, from, to);
    if (r == 0 && (r = close_target(to, settings->sync)) == 0)
        progress_end(&progress);
    return r;
}

static int copy(struct target *from, struct target *to, struct settings *settings)
{
    /* What is copied to the start becomes the file; what is put elsewhere leaves the rest alone. */
    bool whole = settings->at < 0 && to->path != NULL;
    bool truncate = to->regular && !to->append && (settings->truncate >= 0 ? settings->truncate : whole);
    int64_t length = length_of(settings, from), at = settings->at < 0 ? 0 : settings->at;
    int r;

    if (same_file(from, to))
        return fail(EXIT_REFUSED, "%s and %s are the same file", from->name, to->name);
    if (to->append && settings->at >= 0)
        return usage(settings, "--at: standard output appends, and has no other place");
    r = check_preserve(settings, from, to);
    if (r != 0)
        return r;
    r = check_room(to, to->position + at, length);
    if (r == 0)
        r = lock(settings, to, at, length, truncate);
    return r == 0 ? run(from, to, settings, truncate) : r;
}

int command_copy(struct settings *settings, int count, char **operands)
{
    struct opening opening = { 0 };
    struct target from, to;
    int r;

    if (count < 2)
        return usage(settings, "copy needs a source and a target");
    if (count > 2)
        return usage(settings, "copy: extra operand '%s'", operands[2]);
    signals_catch();
    r = open_source(settings, operands[0], &from);
    if (r != 0)
        return r;
    r = check_range(settings, &from);
    if (r == 0) {
        opening.mode = mode_of_new(settings, &from);
        warn_of_writers(settings, &from);
        r = open_target(settings, operands[1], &opening, &to);
        if (r == 0)
            r = copy(&from, &to, settings);
        abandon_target(&to);
    }
    close(from.fd);
    return r;
}
