/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* copy SRC DST */

#include "tool.h"

#include <unistd.h>

static int copy(struct target *from, struct target *to, struct settings *settings)
{
    const struct names names = { .source = from->name, .sink = to->name };
    /* What is copied to the start becomes the file; what is put elsewhere leaves the rest alone. */
    bool truncate = to->regular && (settings->truncate >= 0 ? settings->truncate : settings->at < 0);
    sparsestream_source_options source_options;
    sparsestream_sink_options sink_options;
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    struct progress progress;
    int64_t total = -1, work = -1;
    int r;

    if (same_file(from, to))
        return fail(EXIT_REFUSED, "%s and %s are the same file", from->name, to->name);
    fill_source_options(&source_options, settings);
    fill_sink_options(&sink_options, settings, settings->at < 0 ? 0 : settings->at, truncate);
    if (settings->progress != PROGRESS_NONE)
        measure(from->fd, settings, &total, &work);
    r = sparsestream_source_from_fd(from->fd, &source_options, &source);
    if (r < 0) {
        r = fail_library(from->name, r);
    } else if ((r = sparsestream_sink_to_fd(to->fd, &sink_options, &sink)) < 0) {
        r = fail_library(to->name, r);
    } else {
        progress_start(&progress, settings->progress, "copy", total, work);
        r = run_transfer(source, sink, settings, &names, &progress);
        if (r == 0 && (r = close_target(to, settings->sync)) == 0)
            progress_end(&progress);
    }
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    return r;
}

int command_copy(struct settings *settings, int count, char **operands)
{
    struct target from, to;
    int r;

    if (count != 2)
        return usage(settings, "copy needs a source and a target");
    signals_catch();
    r = open_source(operands[0], &from);
    if (r != 0)
        return r;
    r = open_target(operands[1], false, false, &to);
    if (r == 0) {
        r = copy(&from, &to, settings);
        abandon_target(&to);
    }
    close(from.fd);
    return r;
}
