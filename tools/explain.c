/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Prints the decisions of a transfer as it makes them, and afterwards how many bytes went which way. */

#include "tool.h"

#include <string.h>

enum { WAYS = sizeof(((sparsestream_stats *)NULL)->data_by_way) / sizeof(int64_t) };

typedef const char *way_name(int way);

void show_event(const struct settings *settings, const sparsestream_event *event)
{
    char words[256];

    if (sparsestream_event_text(event, words, sizeof(words)) < 0)
        return;
    if (settings->progress != PROGRESS_JSON) {
        report_event("trace", "offset %lld: %s", (long long)event->position, words);
        return;
    }
    fprintf(stderr, "{\"event\": \"trace\", \"offset\": %lld, \"kind\": %d, \"message\": ", (long long)event->position,
            event->kind);
    json_string(stderr, words);
    fputs("}\n", stderr);
}

/* "fetch 4096, copy 512", or nothing where no byte went any way. */
static const char *list(char *text, size_t size, way_name *name_of, const int64_t *bytes)
{
    size_t used = 0;
    int way;

    *text = '\0';
    for (way = 0; way < WAYS; way++)
        if (bytes[way] != 0 && used < size)
            used += (size_t)snprintf(text + used, size - used, "%s %s %lld", used == 0 ? ":" : ",", name_of(way),
                                     (long long)bytes[way]);
    return text;
}

static void json_list(const char *class, way_name *name_of, const int64_t *bytes)
{
    const char *between = "";
    int way;

    fprintf(stderr, ", \"%s\": {", class);
    for (way = 0; way < WAYS; way++) {
        if (bytes[way] == 0)
            continue;
        fprintf(stderr, "%s\"%s\": %lld", between, name_of(way), (long long)bytes[way]);
        between = ", ";
    }
    putc('}', stderr);
}

void explain(const struct settings *settings, const char *name, const sparsestream_stats *stats)
{
    char text[512];

    if (settings->progress == PROGRESS_JSON) {
        fputs("{\"event\": \"explain\", \"target\": ", stderr);
        json_string(stderr, name);
        json_list("data", sparsestream_way_name, stats->data_by_way);
        json_list("holes", sparsestream_hole_way_name, stats->holes_by_way);
        fprintf(stderr, ", \"found_zeros\": %lld, \"kept\": %lld}\n", (long long)stats->zero_bytes,
                (long long)stats->keep_bytes);
        return;
    }
    report_event("explain", "%s: %lld bytes of data%s", name, (long long)stats->data_bytes,
         list(text, sizeof(text), sparsestream_way_name, stats->data_by_way));
    report_event("explain", "%s: %lld bytes of holes%s", name, (long long)stats->hole_bytes,
         list(text, sizeof(text), sparsestream_hole_way_name, stats->holes_by_way));
    report_event("explain", "%s: %lld bytes of zeros found in data", name, (long long)stats->zero_bytes);
    report_event("explain", "%s: %lld bytes kept", name, (long long)stats->keep_bytes);
}
