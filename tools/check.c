/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* check A B: the same bytes, and if that is asked the same holes. */

#include "compare.h"
#include "remote.h"

#include <unistd.h>

static int conclude(const struct comparison *comparison, int result, const struct settings *settings)
{
    const struct side *a = &comparison->sides[0], *b = &comparison->sides[1];
    long long at = (long long)(settings->offset + comparison->at);

    if (result == EXIT_DIFFERENT) {
        if (settings->quiet)
            return result;
        if (comparison->ended != NULL)
            say("%s ends at offset %lld, %s is longer", comparison->ended->name, at,
                   comparison->ended == a ? b->name : a->name);
        else
            say("%s and %s differ at offset %lld", a->name, b->name, at);
    } else if (result == EXIT_OK && settings->holes && comparison->holes_differ_at >= 0) {
        result = EXIT_OTHER_HOLES;
        if (!settings->quiet)
            say("%s and %s have the same bytes; their holes differ at offset %lld", a->name, b->name,
                   (long long)(settings->offset + comparison->holes_differ_at));
    }
    return result;
}

/* Opens one side. An end that is not a file is read through a pipe, in which its holes are zeros. */
static int open_side(const struct settings *settings, const char *name, struct target *file, struct remote_pipe *pipe,
                     struct side *side)
{
    sparsestream_source_options options = { .size = sizeof(options) };
    int r;

    if (is_remote(name)) {
        if (settings->holes)
            return usage(settings, "--holes: %s is not a file", name);
        r = remote_pipe_open(settings, name, pipe);
        if (r != 0)
            return r;
        *file = (struct target){ .name = name, .fd = pipe->fd };
    } else {
        r = open_source(settings, name, file);
        if (r == 0)
            r = check_range(settings, file);
        if (r != 0)
            return r;
        fill_source_options(&options, settings, file);
    }
    return compare_open(settings, side, file, &options);
}

static int close_side(struct target *file, struct remote_pipe *pipe, int64_t position, int result)
{
    if (pipe->fd >= 0)
        return remote_pipe_close(pipe, result);
    standard_advance(file, position);
    if (file->fd >= 0)
        close(file->fd);
    return result;
}

int command_check(struct settings *settings, int count, char **operands)
{
    struct comparison comparison = { .holes_differ_at = -1 };
    struct target files[2] = { { .fd = -1 }, { .fd = -1 } };
    struct remote_pipe pipes[2] = { { .fd = -1 }, { .fd = -1 } };
    struct progress progress;
    int i, r = 0;

    if (count < 2)
        return usage(settings, "check needs two files");
    if (count > 2)
        return usage(settings, "check: extra operand '%s'", operands[2]);
    if (settings->holes && settings->ignore_map)
        return usage(settings, "--holes and --ignore-map cannot be combined");
    signals_catch();
    for (i = 0; i < 2 && r == 0; i++)
        r = open_side(settings, operands[i], &files[i], &pipes[i], &comparison.sides[i]);
    if (r == 0) {
        int64_t total = -1, work = -1;

        if (settings->progress != PROGRESS_NONE)
            measure(&files[0], settings, &total, &work);
        /* Ranges that are data in only one of the files are read too. */
        progress_start(&progress, settings->progress, "check", total, -1);
        r = compare(&comparison, &progress);
        if (r == EXIT_OK || r == EXIT_DIFFERENT)
            progress_end(&progress);
        r = conclude(&comparison, r, settings);
    }
    compare_close(&comparison);
    for (i = 0; i < 2; i++)
        r = close_side(&files[i], &pipes[i], settings->offset + comparison.at, r);
    return remote_close(r);
}
