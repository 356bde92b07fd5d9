/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* check A B: the same bytes, and if that is asked the same holes. */

#include "tool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

/* One of the two that are compared. */
struct side {
    const char *name;
    sparsestream_source *source;
    unsigned char *buffer;
    bool data;
    int64_t left; /* of the section that it is in */
};

struct comparison {
    struct side sides[2];
    int64_t at;
    const struct side *ended; /* the one that ends where the other goes on */
    int64_t data_bytes;
    int64_t hole_bytes;
    int64_t holes_differ_at; /* -1: nowhere so far */
};

enum { SAME = -1 };

static int look(struct side *side)
{
    sparsestream_section section = { .size = sizeof(section) };
    int r;

    if (side->left > 0)
        return 0;
    r = sparsestream_source_section(side->source, &section);
    if (r < 0)
        return fail_library(side->name, r);
    side->data = section.kind == SPARSESTREAM_DATA;
    side->left = section.length;
    return 0;
}

/* Reads all of `length`, within one section of data. */
static int read_all(struct side *side, int64_t length)
{
    int64_t done = 0;

    while (done < length) {
        int64_t n = sparsestream_source_read(side->source, side->buffer + done, (size_t)(length - done));

        if (n == -EINTR)
            continue;
        if (n < 0 && n != SPARSESTREAM_AT_HOLE)
            return fail_library(side->name, (int)n);
        /* The map has changed, or the file: a hole of it reads as zeros, an end is an end. */
        if (n <= 0)
            return fail(EXIT_LOCAL, "%s: changed while it was read", side->name);
        done += n;
    }
    return 0;
}

/* The first byte in which the pieces differ, or `length`. A hole is zeros. */
static int64_t first_difference(const struct side *a, const struct side *b, int64_t length)
{
    int64_t i;

    if (a->data && b->data && memcmp(a->buffer, b->buffer, (size_t)length) == 0)
        return length;
    for (i = 0; i < length; i++)
        if ((a->data ? a->buffer[i] : 0) != (b->data ? b->buffer[i] : 0))
            break;
    return i;
}

static bool all_zeros(const struct side *side, int64_t length)
{
    return side->buffer[0] == 0 && memcmp(side->buffer, side->buffer + 1, (size_t)length - 1) == 0;
}

/* One piece of both. Returns SAME, or an exit code after a message. */
static int compare_piece(struct comparison *comparison, int64_t length)
{
    struct side *sides = comparison->sides;
    int64_t same;
    int i, r;

    if (sides[0].data != sides[1].data && comparison->holes_differ_at < 0)
        comparison->holes_differ_at = comparison->at;
    for (i = 0; i < 2; i++) {
        if (sides[i].data)
            r = read_all(&sides[i], length);
        else if ((r = sparsestream_source_skip(sides[i].source, length)) < 0)
            r = fail_library(sides[i].name, r);
        if (r != 0)
            return r;
        sides[i].left -= length;
    }
    if (!sides[0].data && !sides[1].data) {
        comparison->hole_bytes += length;
        return SAME;
    }
    comparison->data_bytes += length;
    if (sides[0].data != sides[1].data && all_zeros(&sides[sides[0].data ? 0 : 1], length))
        return SAME;
    same = first_difference(&sides[0], &sides[1], length);
    if (same == length)
        return SAME;
    comparison->at += same;
    return EXIT_DIFFERENT;
}

static int compare(struct comparison *comparison, struct progress *progress)
{
    struct side *a = &comparison->sides[0], *b = &comparison->sides[1];

    for (;;) {
        int64_t length;
        int r = look(a);

        if (r == 0)
            r = look(b);
        if (r != 0)
            return r;
        if (a->left == 0 && b->left == 0)
            return EXIT_OK;
        if (a->left == 0 || b->left == 0) {
            comparison->ended = a->left == 0 ? a : b;
            return EXIT_DIFFERENT;
        }
        length = a->left < b->left ? a->left : b->left;
        /* Two holes are compared at once, whatever their length. */
        if ((a->data || b->data) && length > PIECE)
            length = PIECE;
        r = compare_piece(comparison, length);
        if (r != SAME)
            return r;
        comparison->at += length;
        progress_update(progress, comparison->at, comparison->data_bytes, comparison->hole_bytes, 0);
    }
}

static int conclude(const struct comparison *comparison, int result, const struct settings *settings)
{
    const struct side *a = &comparison->sides[0], *b = &comparison->sides[1];
    long long at = (long long)(settings->offset + comparison->at);

    if (result == EXIT_DIFFERENT) {
        if (settings->quiet)
            return result;
        if (comparison->ended != NULL)
            say("%s ends at offset %lld, %s goes on", comparison->ended->name, at,
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
        struct side *side = &comparison.sides[i];

        r = open_source(settings, operands[i], &files[i]);
        if (r == 0)
            r = check_range(settings, &files[i]);
        if (r != 0)
            break;
        fill_source_options(&options, settings, &files[i]);
        side->name = files[i].name;
        r = sparsestream_source_from_fd(files[i].fd, &options, &side->source);
        if (r < 0)
            r = fail_library(side->name, r);
        else if (posix_memalign((void **)&side->buffer, 4096, PIECE) != 0)
            r = fail_errno(side->name, NULL, ENOMEM);
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
    for (i = 0; i < 2; i++) {
        sparsestream_source_free(comparison.sides[i].source);
        standard_advance(&files[i], settings->offset + comparison.at);
        free(comparison.sides[i].buffer);
        if (files[i].fd >= 0)
            close(files[i].fd);
    }
    return r;
}
