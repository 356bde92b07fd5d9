/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* map FILE: a picture of data and holes, a list of them, or the output of `qemu-img map --output=json`. */

#include "remote.h"

#include <errno.h>
#include <inttypes.h>
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct map {
    const struct settings *settings;
    int64_t start;
    int64_t end;
    int64_t data_bytes;
    int64_t hole_bytes;
    int64_t data_sections;
    int64_t hole_sections;
    int64_t sections;
    /* Bytes of data in each cell of the picture. */
    int64_t *cells;
    int64_t cell_count;
};

/* Where cell number `cell` begins. */
static int64_t cell_start(const struct map *map, int64_t cell)
{
    int64_t length = map->end - map->start, rest = length % map->cell_count;

    /* length * cell / cell_count, in parts that fit: the picture has few cells. */
    return map->start + length / map->cell_count * cell + rest * cell / map->cell_count;
}

/* The cell in which byte `at` is. */
static int64_t cell_of(const struct map *map, int64_t at)
{
    int64_t cell = 0, past = map->cell_count;

    while (past - cell > 1) {
        int64_t middle = cell + (past - cell) / 2;

        if (cell_start(map, middle) <= at)
            cell = middle;
        else
            past = middle;
    }
    return cell;
}

static void paint(struct map *map, const sparsestream_section *section)
{
    int64_t at = section->offset, end = section->offset + section->length;
    int64_t cell = cell_of(map, at);

    while (at < end && cell < map->cell_count) {
        int64_t next = cell_start(map, cell + 1);
        int64_t most = end < next ? end : next;

        if (most > at) {
            map->cells[cell] += most - at;
            at = most;
        }
        cell++;
    }
}

static int count(void *opaque, const sparsestream_section *section)
{
    struct map *map = opaque;

    if (map->sections++ == 0)
        map->start = section->offset;
    map->end = section->offset + section->length;
    if (section->kind == SPARSESTREAM_DATA) {
        map->data_bytes += section->length;
        map->data_sections++;
    } else {
        map->hole_bytes += section->length;
        map->hole_sections++;
    }
    return 0;
}

static int list(void *opaque, const sparsestream_section *section)
{
    printf("%-4s %19" PRId64 " %19" PRId64 "\n", section->kind == SPARSESTREAM_DATA ? "data" : "hole",
           section->offset, section->length);
    return count(opaque, section);
}

static int list_json(void *opaque, const sparsestream_section *section)
{
    struct map *map = opaque;
    bool data = section->kind == SPARSESTREAM_DATA;

    printf("%s{ \"start\": %" PRId64 ", \"length\": %" PRId64 ", \"depth\": 0, \"present\": true, \"zero\": %s, "
           "\"data\": %s, \"compressed\": false, \"offset\": %" PRId64 "}",
           map->sections == 0 ? "" : ",\n", section->offset, section->length, data ? "false" : "true",
           data ? "true" : "false", section->offset);
    return count(opaque, section);
}

static int fill(void *opaque, const sparsestream_section *section)
{
    struct map *map = opaque;

    /* The file may have grown or shrunk since it was measured. */
    if (section->kind == SPARSESTREAM_DATA && section->offset < map->end)
        paint(map, section);
    return 0;
}

static void put_cell(const struct map *map, int64_t cell, bool utf8)
{
    static const char *const blocks[] = { "\u00b7", "\u2581", "\u2582", "\u2583", "\u2584",
                                          "\u2585", "\u2586", "\u2587", "\u2588" };
    static const char *const ascii[] = { ".", ":", "-", "=", "+", "*", "o", "%", "#" };
    int64_t size = cell_start(map, cell + 1) - cell_start(map, cell);
    int64_t data = map->cells[cell];
    int level;

    if (data == 0 || data >= size)
        level = data == 0 ? 0 : 8;
    else if (size <= INT64_MAX / 7)
        level = 1 + (int)(data * 7 / size);
    else
        level = 1 + (int)(data / (size / 7 + 1));

    fputs(utf8 ? blocks[level] : ascii[level], stdout);
}

/* The subject of a map: a descriptor, or a list of known sections. */
struct mapped {
    const char *name;
    int fd;
    const struct section_list *list; /* NULL: ask the descriptor */
};

/* As sparsestream_map. */
static int walk(const struct mapped *mapped, int64_t offset, int64_t length,
                int (*callback)(void *opaque, const sparsestream_section *section), void *opaque)
{
    size_t i;

    if (mapped->list == NULL)
        return sparsestream_map(mapped->fd, offset, length, callback, opaque);
    for (i = 0; i < mapped->list->count; i++)
        callback(opaque, &mapped->list->sections[i]);
    return 0;
}

static int picture(const struct mapped *mapped, struct map *map)
{
    bool utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    int columns = columns_of(stdout);
    int64_t row, column, width;
    int r;

    width = columns > 20 ? columns - 2 : 18;
    map->cell_count = width * map->settings->rows;
    /* No cell is smaller than a byte. */
    if (map->cell_count > map->end - map->start) {
        map->cell_count = map->end - map->start;
        if (width > map->cell_count)
            width = map->cell_count;
    }
    map->cells = calloc((size_t)map->cell_count, sizeof(*map->cells));
    if (map->cells == NULL)
        return fail_errno(mapped->name, NULL, ENOMEM);
    r = walk(mapped, map->start, map->end - map->start, fill, map);
    if (r < 0)
        return fail_library(mapped->name, r);
    for (row = 0; row * width < map->cell_count; row++) {
        putchar('|');
        for (column = row * width; column < (row + 1) * width && column < map->cell_count; column++)
            put_cell(map, column, utf8);
        puts("|");
    }
    return 0;
}

static void totals(const struct map *map)
{
    int64_t all = map->data_bytes + map->hole_bytes;
    double percent = all == 0 ? 0 : (double)map->data_bytes * 100 / (double)all;
    char words[16];

    printf("data   %-10s %19" PRId64 " bytes in %" PRId64 " section%s, %.1f%%\n",
           human(words, sizeof(words), map->data_bytes), map->data_bytes, map->data_sections,
           map->data_sections == 1 ? "" : "s", percent);
    printf("holes  %-10s %19" PRId64 " bytes in %" PRId64 " section%s, %.1f%%\n",
           human(words, sizeof(words), map->hole_bytes), map->hole_bytes, map->hole_sections,
           map->hole_sections == 1 ? "" : "s", all == 0 ? 0 : 100 - percent);
    printf("total  %-10s %19" PRId64 " bytes\n", human(words, sizeof(words), all), all);
}

static int fail_without_map(const char *name)
{
    return fail(EXIT_LOCAL, "%s: has no map: it is neither a file nor a block device (ESPIPE)", name);
}

static int show(const struct mapped *mapped, int64_t offset, const struct settings *settings)
{
    struct map map = { .settings = settings, .start = offset, .end = offset };
    const char *name = mapped->name;
    int supported = mapped->list != NULL ? 1 : sparsestream_holes_supported(mapped->fd);
    int r;

    if (supported == -ESPIPE)
        return fail_without_map(name);
    if (supported < 0)
        return fail_library(name, supported);
    if (settings->json)
        putchar('[');
    r = walk(mapped, offset, settings->length, settings->json ? list_json : settings->list ? list : count, &map);
    if (settings->json)
        puts("]");
    if (r < 0) {
        fflush(stdout);
        return fail_library(name, r);
    }
    if (settings->json || settings->list)
        return 0;
    if (supported == 0)
        say("%s: its holes cannot be found: everything counts as data", name);
    if (map.end > map.start) {
        r = picture(mapped, &map);
        free(map.cells);
        if (r != 0)
            return r;
    }
    totals(&map);
    return 0;
}

static int map_remote(const char *name, const struct settings *settings)
{
    struct section_list list;
    const struct mapped mapped = { .name = name, .fd = -1, .list = &list };
    int r = remote_sections(settings, name, &list);

    if (r == 0)
        r = show(&mapped, settings->offset, settings);
    free(list.sections);
    return r;
}

int command_map(struct settings *settings, int count_of, char **operands)
{
    struct target file;
    struct stat st;
    int r;

    if (count_of < 1)
        return usage(settings, "map needs one file");
    if (count_of > 1)
        return usage(settings, "map: extra operand '%s'", operands[1]);
    if (settings->json && settings->list)
        return usage(settings, "--json and --list cannot be combined");
    if (is_remote(operands[0]))
        return map_remote(operands[0], settings);
    /* To open it would wait for a writer. */
    if (stat(operands[0], &st) == 0 && S_ISFIFO(st.st_mode))
        return fail_without_map(operands[0]);
    r = open_source(settings, operands[0], &file);
    if (r != 0)
        return r;
    r = check_range(settings, &file);
    if (r == 0) {
        const struct mapped mapped = { .name = file.name, .fd = file.fd };

        r = show(&mapped, file.position + settings->offset, settings);
    }
    close(file.fd);
    return r;
}
