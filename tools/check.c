/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* check A B: the same bytes, and if that is asked the same holes. */

#include "compare.h"

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

int command_check(struct settings *settings, int count, char **operands)
{
    struct comparison comparison = { .holes_differ_at = -1 };
    struct target files[2] = { { .fd = -1 }, { .fd = -1 } };
    sparsestream_source_options options;
    struct progress progress;
    int i, r = 0;

    if (count < 2)
        return usage(settings, "check needs two files");
    if (count > 2)
        return usage(settings, "check: extra operand '%s'", operands[2]);
    if (settings->holes && settings->ignore_map)
        return usage(settings, "--holes and --ignore-map exclude each other");
    signals_catch();
    for (i = 0; i < 2 && r == 0; i++) {
        r = open_source(settings, operands[i], &files[i]);
        if (r == 0)
            r = check_range(settings, &files[i]);
        if (r != 0)
            break;
        fill_source_options(&options, settings, &files[i]);
        r = compare_open(&comparison.sides[i], &files[i], &options);
    }
    if (r == 0) {
        int64_t total = -1, work = -1;

        if (settings->progress != PROGRESS_NONE)
            measure(&files[0], settings, &total, &work);
        /* What is data in one only is read too. */
        progress_start(&progress, settings->progress, "check", total, -1);
        r = compare(&comparison, &progress);
        if (r == EXIT_OK || r == EXIT_DIFFERENT)
            progress_end(&progress);
        r = conclude(&comparison, r, settings);
    }
    compare_close(&comparison);
    for (i = 0; i < 2; i++) {
        standard_advance(&files[i], settings->offset + comparison.at);
        if (files[i].fd >= 0)
            close(files[i].fd);
    }
    return r;
}
