/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Block status as sections.
 *
 * The range is asked for in the largest steps. Several steps are under way where the answers are short, so that a large
 * hole costs few round trips. An answer is a hint: where there is none, the range is data. A server may answer for a small
 * part of what it is asked. If it does so all the time, reading costs less than asking, so as much as a request reads is data.
 */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    STEPS = 16,        /* under way or known */
    FEW_RUNS = 64,     /* an answer from which on no more steps are asked for ahead */
    MOST_RUNS = 65536, /* of one step: the rest of an answer is asked for again */
    FEW_BYTES = 16,    /* answers one after the other for less than a request reads */
};

struct run {
    int64_t end;
    bool hole;
};

enum step_state { STEP_ASKED, STEP_KNOWN };

struct step {
    struct op op;
    struct map *map;
    enum step_state state;
    int64_t known; /* the end of what the runs cover */
    int64_t end;
    struct run *runs;
    size_t count, room, at;
};

struct map {
    export_t *export;
    int64_t block, least_hole;
    int64_t end;
    int64_t asked; /* everything before is in a step */
    unsigned ahead; /* steps that are asked for at once */
    bool useless;   /* the server does not answer: everything is data */
    bool orphan;    /* not wanted any more: the last answer frees it */
    unsigned small; /* answers one after the other that were for less than a request reads */
    unsigned asking;
    int error; /* of the connection */
    unsigned first, used;
    struct step steps[STEPS];
};

struct map *map_new(export_t *export, int64_t start, int64_t end, int64_t least_hole)
{
    struct map *map = calloc(1, sizeof(*map));

    if (map == NULL)
        return NULL;
    map->export = export;
    map->block = export->facts.block_minimum;
    map->least_hole = least_hole;
    map->asked = start - start % map->block;
    map->end = end;
    map->ahead = 1;
    for (unsigned i = 0; i < STEPS; i++)
        map->steps[i].map = map;
    return map;
}

void map_free(struct map *map)
{
    if (map == NULL)
        return;
    map->orphan = true;
    if (map->asking > 0)
        return;
    for (unsigned i = 0; i < STEPS; i++)
        free(map->steps[i].runs);
    free(map);
}

/* Adds a run that ends at `end`. Returns whether there was room. */
static bool add_run(struct step *step, int64_t end, bool hole)
{
    struct run *last = step->count > 0 ? &step->runs[step->count - 1] : NULL;

    if (last != NULL && last->hole == hole) {
        last->end = end;
        return true;
    }
    if (step->count == step->room) {
        size_t room = step->room == 0 ? FEW_RUNS : step->room * 2;
        struct run *runs = room > MOST_RUNS ? NULL : realloc(step->runs, room * sizeof(*runs));

        if (runs == NULL)
            return false;
        step->runs = runs;
        step->room = room;
    }
    step->runs[step->count++] = (struct run){ .end = end, .hole = hole };
    return true;
}

/* Adds a hole from the end of the runs to `end`. Incomplete blocks at its ends are added as data. */
static bool add_hole(struct step *step, int64_t end)
{
    const struct map *map = step->map;
    int64_t start = step->known + map->block - 1, stop = end;

    start -= start % map->block;
    if (end != map->export->facts.export_size)
        stop -= end % map->block;
    if (stop - start < map->least_hole || stop <= start)
        return add_run(step, end, false);
    if (start > step->known && !add_run(step, start, false))
        return false;
    if (!add_run(step, stop, true))
        return false;
    return stop == end || add_run(step, end, false);
}

/* Called within libnbd. Neighbouring extents of one kind are one run before they are rounded. */
static void take_extents(struct op *op, const uint32_t *entries, size_t count)
{
    struct step *step = op->owner;
    size_t i = 0;

    while (i < count && step->known < step->end) {
        const bool hole = (entries[2 * i + 1] & LIBNBD_STATE_ZERO) != 0;
        int64_t end = step->known;

        for (; i < count && ((entries[2 * i + 1] & LIBNBD_STATE_ZERO) != 0) == hole && end < step->end; i++)
            end += entries[2 * i];
        if (end > step->end)
            end = step->end;
        if (end == step->known)
            continue;
        if (hole ? !add_hole(step, end) : !add_run(step, end, false))
            return;
        step->known = end;
    }
}

/* Takes the rest of a range that one request can read for data, if all answers are that small. */
static void skip_questions(struct step *step)
{
    struct map *map = step->map;
    int64_t end = step->op.offset + map->export->request_size;

    if (step->known >= end || step->known >= step->end) {
        map->small = 0;
        return;
    }
    if (map->small < FEW_BYTES) {
        map->small++;
        return;
    }
    end = end < step->end ? end : step->end;
    if (add_run(step, end, false))
        step->known = end;
}

static void take_answer(struct op *op, int error)
{
    struct step *step = op->owner;
    struct map *map = step->map;

    step->state = STEP_KNOWN;
    map->asking--;
    if (map->orphan) {
        map_free(map);
        return;
    }
    if (error != 0 && map->export->failure.error != 0)
        map->error = error;
    /* The next answer would be empty too. */
    if (error != 0 || step->known == op->offset) {
        map->useless = true;
        return;
    }
    skip_questions(step);
    if (step->count > FEW_RUNS)
        map->ahead = 1;
    else if (map->ahead < STEPS)
        map->ahead *= 2;
}

/* Asks for the rest of a step whose known part was used. */
static int ask(struct step *step)
{
    int r;

    step->count = 0;
    step->at = 0;
    step->op.kind = OP_STATUS;
    step->op.offset = step->known;
    step->op.length = step->end - step->known;
    step->op.done = take_answer;
    step->op.extents = take_extents;
    step->op.owner = step;
    step->state = STEP_ASKED;
    r = engine_submit(step->map->export, &step->op);
    if (r < 0)
        step->state = STEP_KNOWN;
    else
        step->map->asking++;
    return r;
}

/* Asks for further steps, if that pays off. Returns 0 or a negative errno. */
static int ask_ahead(struct map *map)
{
    while (map->used < map->ahead && map->asked < map->end && !map->useless) {
        struct step *step = &map->steps[(map->first + map->used) % STEPS];
        int64_t left = map->end - map->asked;
        int r;

        /* A request is a multiple of the block, except at the end of the export. */
        if (left % map->block != 0 && map->end != map->export->facts.export_size)
            left += map->block - left % map->block;
        if (left > map->export->facts.export_size - map->asked)
            left = map->export->facts.export_size - map->asked;
        step->known = map->asked;
        step->end = map->asked + (left < MOST_LENGTH ? left : MOST_LENGTH);
        r = ask(step);
        if (r < 0)
            return r;
        map->asked = step->end;
        map->used++;
    }
    return 0;
}

/* The step that knows the section at an offset. Returns 0, -EAGAIN or a negative errno. */
static int find_step(struct map *map, int64_t offset, struct step **found)
{
    for (;;) {
        struct step *step;
        int r = ask_ahead(map);

        if (map->error != 0)
            return -map->error;
        if (r < 0)
            return r;
        step = &map->steps[map->first];
        if (map->useless)
            return 0;
        if (map->used == 0 || step->state == STEP_ASKED)
            return -EAGAIN;
        if (offset < step->known) {
            *found = step;
            return 0;
        }
        if (step->known == step->end) {
            map->first = (map->first + 1) % STEPS;
            map->used--;
        } else if ((r = ask(step)) < 0) {
            return r;
        }
    }
}

int map_section(struct map *map, int64_t offset, bool *hole, int64_t *length)
{
    struct step *step = NULL;
    int r = find_step(map, offset, &step);

    if (r < 0 && map->export->failure.error == 0 && r != -EAGAIN) {
        /* libnbd did not send it. */
        map->useless = true;
        r = 0;
    }
    if (r < 0)
        return r;
    *hole = false;
    *length = map->end - offset;
    if (step == NULL)
        return 0;
    while (step->runs[step->at].end <= offset)
        step->at++;
    *hole = step->runs[step->at].hole;
    if (step->runs[step->at].end - offset < *length)
        *length = step->runs[step->at].end - offset;
    return 0;
}
