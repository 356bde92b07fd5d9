/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* How far it is: a bar on a terminal, JSON lines for programs. */

#include "tool.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { BAR_MS = 200, JSON_MS = 500 };

void progress_start(struct progress *progress, enum progress_mode mode, const char *verb, int64_t total,
                    int64_t work)
{
    *progress = (struct progress){
        .mode = mode,
        .verb = verb,
        .total = total,
        .work = work,
        .start_ms = now_ms(),
        .map_fd = -1,
    };
    if (mode == PROGRESS_JSON) {
        fprintf(stderr, "{\"event\": \"start\", \"command\": \"%s\", \"total\": ", verb);
        fprintf(stderr, total < 0 ? "null" : "%" PRId64, total);
        fputs(", \"data_total\": ", stderr);
        fprintf(stderr, work < 0 ? "null" : "%" PRId64, work);
        fputs("}\n", stderr);
    }
}

/* The share of the bytes that really move: 0 to 1, or less than 0 if it is not known. */
static double part_done(const struct progress *progress)
{
    double part = -1;

    /* Holes that had to be written as zeros make more work than the map shows. */
    if (progress->work > 0 && progress->done <= progress->work)
        part = (double)progress->done / (double)progress->work;
    else if (progress->total > 0)
        part = (double)progress->position / (double)progress->total;
    else if (progress->total == 0)
        part = 1;
    return part > 1 ? 1 : part;
}

/* A peer may announce any length, and what is computed from it may be out of every range. */
static int64_t whole(double value)
{
    const double most = 1e15;

    return (int64_t)(value < 0 ? 0 : value > most ? most : value);
}

static int64_t rate_of(const struct progress *progress)
{
    int64_t elapsed = now_ms() - progress->start_ms;

    return elapsed <= 0 ? 0 : whole((double)progress->done * 1000 / (double)elapsed);
}

/* -1: not known. */
static int64_t seconds_left(const struct progress *progress)
{
    double part = part_done(progress);
    double elapsed = (double)(now_ms() - progress->start_ms) / 1000;
    double begun = 0;

    if (progress->total > 0 && progress->begun > 0 && (progress->work <= 0 || progress->done > progress->work))
        begun = (double)progress->begun / (double)progress->total;
    if (part >= 1)
        return 0;
    if (part <= begun || elapsed <= 0)
        return -1;
    elapsed = (1 - part) / (part - begun) * elapsed + 0.5;
    return elapsed > 1e9 ? -1 : whole(elapsed);
}

static void show_json(const struct progress *progress, const char *event)
{
    int64_t left = seconds_left(progress);
    double part = part_done(progress);

    fprintf(stderr,
            "{\"event\": \"%s\", \"position\": %" PRId64 ", \"resumed_at\": %" PRId64 ", \"data_bytes\": %" PRId64
            ", \"hole_bytes\": %" PRId64 ", \"rate\": %" PRId64 ", \"seconds\": %.3f",
            event, progress->position, progress->begun, progress->data_bytes, progress->hole_bytes, rate_of(progress),
            (double)(now_ms() - progress->start_ms) / 1000);
    if (part < 0)
        fputs(", \"percent\": null", stderr);
    else
        fprintf(stderr, ", \"percent\": %.1f", part * 100);
    if (left < 0)
        fputs(", \"seconds_left\": null}\n", stderr);
    else
        fprintf(stderr, ", \"seconds_left\": %" PRId64 "}\n", left);
}

static const char *clock_of(char *buffer, size_t size, int64_t seconds)
{
    if (seconds >= 3600)
        snprintf(buffer, size, "%" PRId64 ":%02d:%02d", seconds / 3600, (int)(seconds / 60 % 60),
                 (int)(seconds % 60));
    else
        snprintf(buffer, size, "%d:%02d", (int)(seconds / 60), (int)(seconds % 60));
    return buffer;
}

static void show_bar(const struct progress *progress)
{
    char data[16], of[16], holes[16], rate[16], left[32], words[160], percent[16] = "", bar[64] = "";
    int64_t seconds = seconds_left(progress);
    double part = part_done(progress);
    int columns = columns_of(stderr), length, room;

    length = snprintf(words, sizeof(words), "data %s", human(data, sizeof(data), progress->data_bytes));
    if (progress->work >= 0 && progress->data_bytes <= progress->work)
        length += snprintf(words + length, sizeof(words) - (size_t)length, " of %s",
                           human(of, sizeof(of), progress->work));
    length += snprintf(words + length, sizeof(words) - (size_t)length, "  holes %s  %s/s",
                       human(holes, sizeof(holes), progress->hole_bytes),
                       human(rate, sizeof(rate), rate_of(progress)));
    if (seconds >= 0)
        length += snprintf(words + length, sizeof(words) - (size_t)length, "  %s left",
                           clock_of(left, sizeof(left), seconds));
    if (part >= 0) {
        snprintf(percent, sizeof(percent), "%3d%% ", (int)(part * 100));
        room = columns - 1 - length - (int)strlen(percent) - 3;
        if (room > 40)
            room = 40;
        if (room >= 8) {
            int filled = (int)(part * room);

            bar[0] = '[';
            memset(bar + 1, '#', (size_t)filled);
            memset(bar + 1 + filled, '-', (size_t)(room - filled));
            memcpy(bar + 1 + room, "] ", 3);
        }
    }
    bar_draw("%s%s%.*s", percent, bar, columns - 1 - (int)(strlen(percent) + strlen(bar)), words);
}

static int add_data(void *opaque, const sparsestream_section *section)
{
    if (section->kind == SPARSESTREAM_DATA)
        *(int64_t *)opaque += section->length;
    return 0;
}

/* A resumed stream begins later: the bytes before that are not work. */
static void begin_at(struct progress *progress, int64_t offset)
{
    int64_t before = 0;

    progress->begun = offset;
    if (progress->work >= 0 && progress->map_fd >= 0 &&
        sparsestream_map(progress->map_fd, progress->map_offset, offset, add_data, &before) == 0)
        progress->work = before < progress->work ? progress->work - before : 0;
    else
        progress->work = -1;
}

void progress_update(struct progress *progress, int64_t position, int64_t data_bytes, int64_t hole_bytes,
                     int64_t zero_bytes)
{
    int64_t now = now_ms();

    if (progress->begun == 0 && data_bytes + hole_bytes > 0 && position > data_bytes + hole_bytes)
        begin_at(progress, position - data_bytes - hole_bytes);
    progress->position = position;
    progress->data_bytes = data_bytes;
    progress->hole_bytes = hole_bytes;
    progress->done = data_bytes + zero_bytes;
    if (progress->mode == PROGRESS_NONE)
        return;
    if (now - progress->shown_ms < (progress->mode == PROGRESS_JSON ? JSON_MS : BAR_MS))
        return;
    progress->shown_ms = now;
    if (progress->mode == PROGRESS_JSON)
        show_json(progress, "progress");
    else if (isatty(STDERR_FILENO))
        show_bar(progress);
}

void progress_end(struct progress *progress)
{
    char data[16], holes[16], rate[16];
    int64_t elapsed = now_ms() - progress->start_ms;

    /* Nothing was left to move. Only now is it certain that the position did not move in a comparison. */
    if (progress->begun == 0 && progress->position > progress->data_bytes + progress->hole_bytes)
        begin_at(progress, progress->position - progress->data_bytes - progress->hole_bytes);
    if (progress->mode == PROGRESS_JSON) {
        show_json(progress, "end");
    } else if (progress->mode == PROGRESS_BAR) {
        bar_clear();
        fprintf(stderr, "%s: data %s, holes %s, in %.1f s (%s/s)\n", progress->verb,
                human(data, sizeof(data), progress->data_bytes),
                human(holes, sizeof(holes), progress->hole_bytes), (double)elapsed / 1000,
                human(rate, sizeof(rate), rate_of(progress)));
    }
}
