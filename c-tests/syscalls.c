/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* How many system calls the work takes, and which are never made. */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "tally.h"
#include "watch.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNIT (64 * KiB)

/* Counts of the calls of lseek by kind. */
struct probes {
    int data_and_hole, others;
};

static bool count_probes(void *opaque, const struct watched_call *call, int64_t *answer)
{
    struct probes *probes = opaque;

    (void) answer;
    if (call->number != SYS_lseek)
        return false;
    if (call->arguments[2] == SEEK_DATA || call->arguments[2] == SEEK_HOLE)
        probes->data_and_hole++;
    else
        probes->others++;
    return false;
}

struct walk {
    int fd, code;
    int sections;
    int64_t end;
};

static int count_section(void *opaque, const struct sparsestream_section *section)
{
    struct walk *walk = opaque;

    walk->sections++;
    walk->end = section->offset + section->length;
    return 0;
}

static void walk_map(void *opaque)
{
    struct walk *walk = opaque;

    walk->code = sparsestream_map(walk->fd, 0, 0, count_section, walk);
}

static void walk_transfer(void *opaque)
{
    struct walk *walk = opaque;
    struct end to = { .to = NULL };
    struct sparsestream_source *source = fd_source(walk->fd);

    walk->code = sparsestream_send_all(source, &end_stream_ops, &to,
                                       TRANSFER_OPTIONS(.section = count_section,
                                                        .opaque = walk), NULL);
    sparsestream_source_free(source);
}

/* A file of this many sections, the first one data. */
static int file_of_sections(int sections)
{
    const int fd = file_new("file");

    for (int i = 0; i < sections; i += 2)
        file_fill(fd, i * UNIT, UNIT, 1);
    file_resize(fd, sections * UNIT);
    return fd;
}

static void one_question_a_boundary(void)
{
    void (*const walks[])(void *) = { walk_map, walk_transfer };

    for (int sections = 0; sections <= 12; sections++) {
        const int fd = file_of_sections(sections);

        for (size_t i = 0; i < COUNT(walks); i++) {
            struct walk walk = { .fd = fd };
            struct probes probes = { 0, 0 };
            struct watch watch = { .fd = fd, .handler = count_probes, .opaque = &probes };

            context("%d sections, walk %zu", sections, i);
            watch_run(&watch, walks[i], &walk);
            CHECK_INT(walk.code, ==, 0);
            CHECK_INT(walk.sections, ==, sections);
            CHECK_INT(walk.end, ==, sections * UNIT);
            CHECK_INT(probes.data_and_hole, <=, sections + 1);
            CHECK_INT(probes.data_and_hole, >=, sections);
            /* The position is looked up and put back. */
            CHECK_INT(probes.others, <=, 2);
        }
        close(fd);
    }
}

/* data, hole, data, hole, data, hole, data, end */
static void eight_questions_for_seven_sections(void)
{
    const int fd = file_of_sections(7);
    struct walk walk = { .fd = fd };
    struct probes probes = { 0, 0 };
    struct watch watch = { .fd = fd, .handler = count_probes, .opaque = &probes };

    watch_run(&watch, walk_map, &walk);
    CHECK_INT(walk.sections, ==, 7);
    CHECK_INT(probes.data_and_hole, <=, 8);
    close(fd);
}

static int64_t available_memory(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    long long kib = 0;

    REQUIRE(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %lld", &kib) == 1)
            break;
    }
    fclose(file);
    return kib * 1024;
}

/* A page of data, a page of hole, and so on: 512 MiB of memory. */
static void many_sections(void)
{
    enum { SECTIONS = 131072 };
    const int64_t page = sysconf(_SC_PAGESIZE);
    struct tally tally;
    struct walk walk = { .code = 77 };
    char *memory;
    int fd;

    if (available_memory() < SECTIONS * page * 3)
        skip("not enough memory for %d pages", SECTIONS);
    fd = file_in_memory();
    file_resize(fd, SECTIONS * 2 * page);
    memory = mmap(NULL, SECTIONS * 2 * (size_t) page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(memory != MAP_FAILED);
    for (int64_t i = 0; i < SECTIONS; i++)
        memory[i * 2 * page] = 1;
    munmap(memory, SECTIONS * 2 * (size_t) page);
    tally.fd = walk.fd = fd;
    tally_run(&tally, walk_map, &walk);
    CHECK_INT(walk.code, ==, 0);
    CHECK_INT(walk.sections, ==, 2 * SECTIONS);
    CHECK_INT(walk.end, ==, SECTIONS * 2 * page);
    CHECK_INT(tally.probes, <=, 2 * SECTIONS + 1);
    /* It was counted at all. */
    CHECK_INT(tally.probes, >=, SECTIONS);
    CHECK_INT(tally.others, <=, 2);
    close(fd);
}

static void ask_all(void *opaque)
{
    struct sparsestream_section section = { .size = sizeof section };
    const int fd = *(int *) opaque;
    int64_t length;
    bool in_data;

    CHECK_CODE(sparsestream_in_data(fd, &in_data, &length), -ESPIPE);
    CHECK_CODE(sparsestream_section_at(fd, 0, &section), -ESPIPE);
    CHECK_CODE(sparsestream_holes_supported(fd), -ESPIPE);
    CHECK_CODE(sparsestream_map(fd, 0, 0, count_section, NULL), -ESPIPE);
}

/* /dev/zero and the like answer 0 to any seek: what has no content to seek in is not asked. */
static void no_question_to_what_cannot_answer(void)
{
    const int fds[] = { open("/dev/zero", O_RDONLY | O_CLOEXEC), eventfd(0, EFD_CLOEXEC) };

    for (size_t i = 0; i < COUNT(fds); i++) {
        struct watch watch = { .fd = fds[i] };
        int fd = fds[i];

        REQUIRE(fd >= 0);
        watch_run(&watch, ask_all, &fd);
        CHECK_INT(watch_count(&watch, SYS_lseek), ==, 0);
        close(fd);
    }
}

static void walk_ignoring_the_map(void *opaque)
{
    struct walk *walk = opaque;
    struct end to = { .to = NULL };
    struct sparsestream_source *source = NULL;

    REQUIRE(sparsestream_source_from_fd(walk->fd, SOURCE_OPTIONS(.flags = SPARSESTREAM_IGNORE_MAP),
                                        &source) == 0);
    walk->code = sparsestream_send_all(source, &end_stream_ops, &to, NULL, NULL);
    walk->end = to.taken;
    sparsestream_source_free(source);
}

static void no_question_where_the_map_is_ignored(void)
{
    struct walk walk = { .fd = file_of_sections(7) };
    struct watch watch = { .fd = walk.fd };

    watch_run(&watch, walk_ignoring_the_map, &walk);
    CHECK_INT(walk.code, ==, 0);
    CHECK_INT(walk.end, ==, 7 * UNIT);
    CHECK_INT(watch_count(&watch, SYS_lseek), ==, 0);
    close(walk.fd);
}

/* Reads go to offsets, by whole buffers. */
static void reads_by_whole_buffers(void)
{
    const int fd = file_new("file");
    struct walk walk = { .fd = fd };
    struct watch watch = { .fd = fd };

    file_fill(fd, 0, 8 * MiB, 1);
    watch_run(&watch, walk_transfer, &walk);
    CHECK_INT(walk.code, ==, 0);
    CHECK_INT(watch_count(&watch, SYS_pread64) + watch_count(&watch, SYS_preadv), <=, 9);
    CHECK_INT(watch_count(&watch, SYS_pread64) + watch_count(&watch, SYS_preadv), >=, 8);
    CHECK_INT(watch_count(&watch, SYS_read) + watch_count(&watch, SYS_readv), ==, 0);
    close(fd);
}

struct receipt {
    int fd, code;
    uint64_t flags;
    const struct piece *pieces;
    size_t count;
};

static void receive(void *opaque)
{
    struct receipt *receipt = opaque;
    struct content content = { .count = 0 };
    struct end from = { .from = &content };
    struct sparsestream_sink *sink = NULL;

    content_lay_out(&content, receipt->pieces, receipt->count, 1);
    REQUIRE(sparsestream_sink_to_fd(receipt->fd, SINK_OPTIONS(.flags = receipt->flags), &sink)
            == 0);
    receipt->code = sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, NULL);
    sparsestream_sink_free(sink);
    content_free(&content);
}

/* The order in which a sink's file is written, sized and made durable. */
static bool note_order(void *opaque, const struct watched_call *call, int64_t *answer)
{
    char *order = opaque;
    const size_t length = strlen(order);
    char letter = 0;

    (void) answer;
    switch (call->number) {
    case SYS_pwrite64:
    case SYS_pwritev:
    case SYS_pwritev2:
        letter = 'w';
        break;
    case SYS_ftruncate:
        letter = 't';
        break;
    case SYS_fsync:
    case SYS_fdatasync:
        letter = 's';
        break;
    case SYS_fallocate:
        letter = 'h';
        break;
    case SYS_lseek:
    case SYS_write:
    case SYS_writev:
        letter = '!';
        break;
    }
    if (letter != 0 && (length == 0 || order[length - 1] != letter) && length < 60)
        order[length] = letter;
    return false;
}

static const struct piece written[] = { DATA(UNIT), HOLE(5 * UNIT), DATA(UNIT), HOLE(UNIT) };

static void check_order(int fd, uint64_t flags, const char *expected)
{
    struct receipt receipt = { .fd = fd, .flags = flags, .pieces = written,
                               .count = COUNT(written) };
    char order[64] = "";
    struct watch watch = { .fd = fd, .handler = note_order, .opaque = order };

    watch_run(&watch, receive, &receipt);
    CHECK_INT(receipt.code, ==, 0);
    CHECK_STR(order, expected);
    if (flags & SPARSESTREAM_SYNC)
        CHECK_INT(watch_count(&watch, SYS_fsync) + watch_count(&watch, SYS_fdatasync), ==, 1);
    if (strchr(expected, 't') != NULL)
        CHECK_INT(watch_count(&watch, SYS_ftruncate), ==, 1);
    CHECK_INT(file_position(fd), ==, 0);
}

/* A hole past the end costs one setting of the size; the position is not used. */
static void a_new_file_is_written_and_sized_once(void)
{
    const int fd = file_new("file");

    check_order(fd, 0, "wt");
    CHECK_INT(file_size(fd), ==, 8 * UNIT);
    close(fd);
}

static void sync_comes_last(void)
{
    const int fd = file_new("file");

    check_order(fd, SPARSESTREAM_SYNC, "wts");
    close(fd);
}

static void what_is_known_to_be_zero_is_not_punched(void)
{
    const int fd = file_new("file");

    file_resize(fd, 8 * UNIT);
    check_order(fd, SPARSESTREAM_KNOWN_ZERO, "w");
    CHECK_INT(file_size(fd), ==, 8 * UNIT);
    close(fd);
}

TESTS(
    CASE(one_question_a_boundary),
    CASE(eight_questions_for_seven_sections),
    CASE_WITHIN(many_sections, 40),
    CASE(no_question_to_what_cannot_answer),
    CASE(no_question_where_the_map_is_ignored),
    CASE(reads_by_whole_buffers),
    CASE(a_new_file_is_written_and_sized_once),
    CASE(sync_comes_last),
    CASE(what_is_known_to_be_zero_is_not_punched),
)
