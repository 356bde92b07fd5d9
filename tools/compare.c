/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Compares the bytes, and the holes, of two files or devices. */

#include "compare.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20 };

enum { SAME = -1 };

/* Waits until a source may be ready. A signal that came just before is seen soon. */
static void wait_for_side(const struct side *side)
{
    enum { LONGEST_MS = 100 };
    sparsestream_wait wait = { .size = sizeof(wait) };

    if (sparsestream_source_wait(side->source, &wait) < 0)
        return;
    if (wait.timeout_ms < 0 || wait.timeout_ms > LONGEST_MS)
        wait.timeout_ms = LONGEST_MS;
    wait_for_fd(wait.fd, wait.events, wait.timeout_ms);
}

/* Waits for a stream, without which the library would, and for ever. */
static bool is_late(const struct side *side)
{
    return side->timeout_ms != 0 && wait_for_fd(side->fd, POLLIN, side->timeout_ms) == 0;
}

/* Reads ahead of a stream, as far as there is room. */
static int fill(struct side *side)
{
    side->stream = true;
    side->data = true;
    while (side->left < PIECE) {
        int64_t n;

        if (is_late(side))
            return fail_errno(side->name, "read", ETIMEDOUT);
        n = sparsestream_source_read(side->source, side->buffer + side->left, (size_t)(PIECE - side->left));

        if (n == -EAGAIN && !is_cancelled())
            wait_for_side(side);
        else if (n < 0 && n != -EINTR)
            return fail_library(side->name, (int)n);
        else if (n == 0)
            break;
        else if (n > 0)
            side->left += n;
    }
    return 0;
}

static int look(struct side *side)
{
    sparsestream_section section = { .size = sizeof(section) };
    int r;

    if (side->left > 0)
        return 0;
    if (is_late(side))
        return fail_errno(side->name, "read", ETIMEDOUT);
    while ((r = sparsestream_source_section(side->source, &section)) == -EAGAIN && !is_cancelled())
        wait_for_side(side);
    if (r < 0)
        return fail_library(side->name, r);
    if (section.length < 0)
        return fill(side);
    side->data = section.kind == SPARSESTREAM_DATA;
    side->left = section.length;
    return 0;
}

/* Reads all of `length`, within one section of data. */
static int read_all(struct side *side, int64_t length)
{
    int64_t done = side->stream ? length : 0;

    while (done < length) {
        int64_t n = sparsestream_source_read(side->source, side->buffer + done, (size_t)(length - done));

        if (n == -EAGAIN && !is_cancelled())
            wait_for_side(side);
        if (n == -EINTR || (n == -EAGAIN && !is_cancelled()))
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

/* Moves past a piece. */
static void move_on(struct side *side, int64_t length)
{
    side->left -= length;
    if (side->stream && side->left > 0)
        memmove(side->buffer, side->buffer + length, (size_t)side->left);
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
    }
    if (!sides[0].data && !sides[1].data) {
        comparison->hole_bytes += length;
        same = length;
    } else {
        comparison->data_bytes += length;
        if (sides[0].data != sides[1].data && all_zeros(&sides[sides[0].data ? 0 : 1], length))
            same = length;
        else
            same = first_difference(&sides[0], &sides[1], length);
    }
    for (i = 0; i < 2; i++)
        move_on(&sides[i], length);
    if (same == length)
        return SAME;
    comparison->at += same;
    return EXIT_DIFFERENT;
}

int compare(struct comparison *comparison, struct progress *progress)
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
        if (progress != NULL)
            progress_update(progress, comparison->at, comparison->data_bytes, comparison->hole_bytes, 0);
    }
}

int compare_open(const struct settings *settings, struct side *side, const struct target *file,
                 const sparsestream_source_options *options)
{
    int r;

    side->name = file->name;
    side->fd = file->fd;
    side->timeout_ms = file->regular || file->device ? 0 : settings->timeout_ms;
    r = sparsestream_source_from_fd(file->fd, options, &side->source);
    if (r < 0)
        return fail_library(file->name, r);
    return posix_memalign((void **)&side->buffer, 4096, PIECE) != 0 ? fail_errno(file->name, NULL, ENOMEM) : 0;
}

void compare_close(struct comparison *comparison)
{
    int i;

    for (i = 0; i < 2; i++) {
        sparsestream_source_free(comparison->sides[i].source);
        free(comparison->sides[i].buffer);
        comparison->sides[i] = (struct side){ 0 };
    }
}
