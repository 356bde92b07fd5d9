/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Where data and holes are: in_data, section_at, map and holes_supported on every kind of descriptor. */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "loopdev.h"
#include "random.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define UNTOUCHED INT64_C(-987654321)

/* Checks what both functions answer at one offset; the position is `position` before and after. */
static void check_at(int fd, int64_t position, bool data, int64_t length, int kind)
{
    struct sparsestream_section section = { .size = sizeof section, .reserved = -1 };
    int64_t got = UNTOUCHED;
    bool in_data = !data;

    context("at %jd", (intmax_t) position);
    REQUIRE(lseek(fd, position, SEEK_SET) == position);
    CHECK_CODE(sparsestream_in_data(fd, &in_data, &got), 0);
    CHECK_INT(in_data, ==, data);
    CHECK_INT(got, ==, length);
    CHECK_INT(file_position(fd), ==, position);

    REQUIRE(lseek(fd, 17, SEEK_SET) == 17);
    CHECK_CODE(sparsestream_section_at(fd, position, &section), 0);
    CHECK_INT(section.kind, ==, kind);
    CHECK_INT(section.offset, ==, position);
    CHECK_INT(section.length, ==, length);
    CHECK_INT(section.reserved, ==, 0);
    CHECK_INT(file_position(fd), ==, 17);
    context("%s", "");
}

static void check_data(int fd, int64_t at, int64_t length)
{
    check_at(fd, at, true, length, SPARSESTREAM_DATA);
}

static void check_hole(int fd, int64_t at, int64_t length)
{
    check_at(fd, at, false, length, SPARSESTREAM_HOLE);
}

static void check_end(int fd, int64_t at)
{
    check_at(fd, at, false, 0, SPARSESTREAM_END);
}

/* All four refuse the descriptor with `error`, touch no output, and say why. */
static void check_refused(int fd, int error)
{
    struct sparsestream_section section = { .size = sizeof section, .offset = UNTOUCHED, .length = UNTOUCHED, .kind = 77 };
    int64_t length = UNTOUCHED;
    bool in_data = true;

    CHECK_CODE(sparsestream_in_data(fd, &in_data, &length), -error);
    CHECK_INT(length, ==, UNTOUCHED);
    CHECK_INT(in_data, ==, true);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(error));
    in_data = false;
    CHECK_CODE(sparsestream_in_data(fd, &in_data, &length), -error);
    CHECK_INT(in_data, ==, false);
    CHECK_CODE(sparsestream_section_at(fd, 0, &section), -error);
    CHECK_INT(section.offset, ==, UNTOUCHED);
    CHECK_INT(section.length, ==, UNTOUCHED);
    CHECK_INT(section.kind, ==, 77);
    CHECK_CODE(sparsestream_holes_supported(fd), -error);
}

static int count_section(void *opaque, const struct sparsestream_section *section)
{
    (void) section;
    ++*(int *) opaque;
    return 0;
}

static void check_map_refused(int fd, int error)
{
    int called = 0;

    CHECK_CODE(sparsestream_map(fd, 0, 0, count_section, &called), -error);
    CHECK_INT(called, ==, 0);
}

#define UNIT (64 * KiB)

/* data 1, hole 2, data 1, hole 12: each UNIT long. */
static void lay_out_sample(int fd)
{
    const struct piece pieces[] = {
        DATA(UNIT), HOLE(2 * UNIT), DATA(UNIT), HOLE(12 * UNIT),
    };

    file_lay_out(fd, 0, pieces, COUNT(pieces), 1);
    REQUIRE(file_size(fd) == 16 * UNIT);
}

static void check_sample(int fd)
{
    check_data(fd, 0, UNIT);
    check_data(fd, 1, UNIT - 1);
    check_data(fd, 1000, UNIT - 1000);
    check_data(fd, UNIT - 1, 1);
    check_hole(fd, UNIT, 2 * UNIT);
    check_hole(fd, UNIT + 4097, 2 * UNIT - 4097);
    check_hole(fd, 3 * UNIT - 1, 1);
    check_data(fd, 3 * UNIT, UNIT);
    check_hole(fd, 4 * UNIT, 12 * UNIT);
    check_hole(fd, 16 * UNIT - 1, 1);
    check_end(fd, 16 * UNIT);
    check_end(fd, 16 * UNIT + 1);
    check_end(fd, 17 * UNIT);
    check_end(fd, 8 * GiB);
    CHECK_CODE(sparsestream_holes_supported(fd), 1);
}

static void data_holes_and_ends_of_a_file(void)
{
    const int fd = file_new("file");

    lay_out_sample(fd);
    check_sample(fd);
    close(fd);
}

static void a_file_in_memory(void)
{
    const int fd = file_in_memory();

    lay_out_sample(fd);
    check_sample(fd);
    REQUIRE(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0);
    check_sample(fd);
    close(fd);
}

static void a_file_of_a_tmpfs(void)
{
    const int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0)
        skip("no file can be made in /dev/shm: %s", strerror(errno));
    lay_out_sample(fd);
    check_sample(fd);
    close(fd);
}

static void how_the_descriptor_was_opened_does_not_matter(void)
{
    const int flags[] = { O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, O_RDONLY | O_NONBLOCK };
    const int fd = file_new("file");

    lay_out_sample(fd);
    close(fd);
    for (size_t i = 0; i < COUNT(flags); i++) {
        const int other = open("file", flags[i] | O_CLOEXEC);

        REQUIRE(other >= 0);
        check_sample(other);
        close(other);
    }
}

static void an_empty_file(void)
{
    const int fd = file_new("file");
    int called = 0;

    check_end(fd, 0);
    check_end(fd, 1);
    CHECK_CODE(sparsestream_map(fd, 0, 0, count_section, &called), 0);
    CHECK_INT(called, ==, 0);
    CHECK_INT(sparsestream_holes_supported(fd), >=, 0);
    close(fd);
}

static void a_file_that_is_one_hole(void)
{
    const int fd = file_new("file");

    file_resize(fd, 5 * MiB + 1);
    check_hole(fd, 0, 5 * MiB + 1);
    check_hole(fd, 12345, 5 * MiB + 1 - 12345);
    check_hole(fd, 5 * MiB, 1);
    check_end(fd, 5 * MiB + 1);
    CHECK_CODE(sparsestream_holes_supported(fd), 1);
    close(fd);
}

static void a_file_without_holes(void)
{
    const int fd = file_new("file");

    file_fill(fd, 0, MiB + 5, 1);
    check_data(fd, 0, MiB + 5);
    check_data(fd, MiB, 5);
    check_data(fd, MiB + 4, 1);
    check_end(fd, MiB + 5);
    CHECK_CODE(sparsestream_holes_supported(fd), 1);
    close(fd);
}

static void one_byte_at_the_end_of_a_hole(void)
{
    const int fd = file_new("file");

    file_fill(fd, MiB - 1, 1, 1);
    check_hole(fd, 0, lseek(fd, 0, SEEK_DATA));
    check_data(fd, MiB - 1, 1);
    check_end(fd, MiB);
    close(fd);
}

static void sixteen_tebibytes(void)
{
    const int fd = file_in_memory();

    file_resize(fd, 16 * TiB);
    file_fill(fd, 8 * TiB, UNIT, 1);
    check_hole(fd, 0, 8 * TiB);
    check_data(fd, 8 * TiB, UNIT);
    check_hole(fd, 8 * TiB + UNIT, 8 * TiB - UNIT);
    check_end(fd, 16 * TiB);
    close(fd);
}

static void a_file_that_is_cut_behind_the_position(void)
{
    const int fd = file_new("file");

    lay_out_sample(fd);
    file_resize(fd, UNIT / 2);
    check_data(fd, 0, UNIT / 2);
    check_end(fd, UNIT);
    check_end(fd, 3 * UNIT);
    close(fd);
}

/* The library's answers against lseek's, at random offsets of random files. */
static void agrees_with_the_system_everywhere(void)
{
    struct random random = { .state = 20 };

    for (int round = 0; round < 20; round++) {
        const int fd = file_new("file");
        int64_t size = 0;

        for (int i = 0; i < 8; i++) {
            const int64_t length = random_between(&random, 1, 200000);

            if (random_percent(&random, 50))
                file_fill(fd, size, length, 1);
            size += length;
        }
        file_resize(fd, size);
        for (int i = 0; i < 60; i++) {
            const int64_t at = random_between(&random, 0, size - 1);
            off_t data = lseek(fd, at, SEEK_DATA);

            REQUIRE(data >= 0 || errno == ENXIO);
            if (data < 0)
                check_hole(fd, at, size - at);
            else if (data > at)
                check_hole(fd, at, data - at);
            else
                check_data(fd, at, lseek(fd, at, SEEK_HOLE) - at);
        }
        close(fd);
    }
}

static void pipes_and_sockets(void)
{
    int pair[2];

    REQUIRE(pipe2(pair, O_CLOEXEC) == 0);
    for (int i = 0; i < 2; i++) {
        check_refused(pair[i], ESPIPE);
        check_map_refused(pair[i], ESPIPE);
        close(pair[i]);
    }
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    for (int i = 0; i < 2; i++) {
        check_refused(pair[i], ESPIPE);
        check_map_refused(pair[i], ESPIPE);
        close(pair[i]);
    }
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(pair[0] >= 0);
    check_refused(pair[0], ESPIPE);
    close(pair[0]);
    REQUIRE(mkfifo("fifo", 0600) == 0);
    pair[0] = open("fifo", O_RDWR | O_CLOEXEC);
    REQUIRE(pair[0] >= 0);
    check_refused(pair[0], ESPIPE);
    check_map_refused(pair[0], ESPIPE);
    close(pair[0]);
}

static void character_devices(void)
{
    const char *const paths[] = { "/dev/zero", "/dev/null", "/dev/full", "/dev/urandom",
                                  "/dev/ptmx" };
    int checked = 0;

    for (size_t i = 0; i < COUNT(paths); i++) {
        const int fd = open(paths[i], O_RDWR | O_NOCTTY | O_CLOEXEC);

        if (fd < 0)
            continue;
        context("%s", paths[i]);
        checked++;
        check_refused(fd, ESPIPE);
        check_map_refused(fd, ESPIPE);
        close(fd);
    }
    context("%s", "");
    if (checked == 0)
        skip("no character device can be opened");
}

static void descriptors_without_a_name(void)
{
    sigset_t none;
    int fds[6];

    sigemptyset(&none);
    fds[0] = eventfd(1, EFD_CLOEXEC);
    fds[1] = epoll_create1(EPOLL_CLOEXEC);
    fds[2] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    fds[3] = inotify_init1(IN_CLOEXEC);
    fds[4] = signalfd(-1, &none, SFD_CLOEXEC);
    fds[5] = -1;
    for (int i = 0; fds[i] >= 0; i++) {
        context("number %d", i);
        check_refused(fds[i], ESPIPE);
        check_map_refused(fds[i], ESPIPE);
        close(fds[i]);
    }
    context("%s", "");
    REQUIRE(fds[0] >= 0 && fds[1] >= 0 && fds[2] >= 0 && fds[3] >= 0 && fds[4] >= 0);
}

static void directories(void)
{
    const char *const paths[] = { ".", "/dev/shm", "/proc", "/sys" };

    for (size_t i = 0; i < COUNT(paths); i++) {
        const int fd = open(paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
            continue;
        context("%s", paths[i]);
        check_refused(fd, EISDIR);
        check_map_refused(fd, EISDIR);
        close(fd);
    }
}

static void a_descriptor_of_a_path_only(void)
{
    const int fd = file_new("file");
    int path;

    lay_out_sample(fd);
    path = open("file", O_PATH | O_CLOEXEC);
    REQUIRE(path >= 0);
    check_refused(path, EBADF);
    check_map_refused(path, EBADF);
    close(path);
    close(fd);
}

static void no_descriptor(void)
{
    const int fds[] = { -1, -100, INT32_MIN, INT32_MAX, 999 };

    for (size_t i = 0; i < COUNT(fds); i++) {
        context("%d", fds[i]);
        check_refused(fds[i], EBADF);
        check_map_refused(fds[i], EBADF);
    }
}

static void a_block_device(void)
{
    const int64_t size = 4 * MiB;
    const int backing = file_new("backing");
    struct sparsestream_section section = { .size = sizeof section };
    int64_t length;
    bool in_data;
    int device;

    file_resize(backing, size);
    file_fill(backing, MiB, MiB, 1);
    device = loop_device(backing);
    check_data(device, 0, size);
    check_data(device, 1, size - 1);
    check_data(device, 3 * MiB, MiB);
    check_data(device, size - 1, 1);
    check_end(device, size);
    CHECK_CODE(sparsestream_section_at(device, size + 1, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_END);
    CHECK_INT(section.length, ==, 0);
    CHECK_CODE(sparsestream_section_at(device, INT64_MAX, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_END);
    CHECK_CODE(sparsestream_holes_supported(device), 0);
    REQUIRE(lseek(device, 512, SEEK_SET) == 512);
    CHECK_CODE(sparsestream_in_data(device, &in_data, &length), 0);
    CHECK_INT(file_position(device), ==, 512);
    close(device);
    close(backing);
}

/* Size 0 by fstat: at or beyond the end, whatever could be read. */
static void files_of_proc(void)
{
    const char *const paths[] = { "/proc/self/cmdline", "/proc/self/maps", "/proc/cpuinfo" };

    for (size_t i = 0; i < COUNT(paths); i++) {
        const int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        int64_t length = UNTOUCHED;
        bool in_data = true;
        char first;

        REQUIRE(fd >= 0);
        context("%s", paths[i]);
        if (file_size(fd) != 0) {
            /* Valgrind and qemu-user return a file of their own instead. */
            CHECK_INT(harness_slowness(), >, 1);
            close(fd);
            continue;
        }
        CHECK_CODE(sparsestream_in_data(fd, &in_data, &length), 0);
        CHECK_INT(in_data, ==, false);
        CHECK_INT(length, ==, 0);
        /* The position was kept: the first byte is still to be read. */
        CHECK_INT(file_position(fd), ==, 0);
        CHECK_INT(read(fd, &first, 1), ==, 1);
        CHECK_INT(sparsestream_holes_supported(fd), >=, 0);
        close(fd);
    }
}

static void offsets_below_zero(void)
{
    const int64_t offsets[] = { -1, -4096, INT64_MIN };
    const int fd = file_new("file");
    int called = 0;

    lay_out_sample(fd);
    for (size_t i = 0; i < COUNT(offsets); i++) {
        struct sparsestream_section section = { .size = sizeof section, .kind = 77 };

        CHECK_CODE(sparsestream_section_at(fd, offsets[i], &section), -EINVAL);
        CHECK_INT(section.kind, ==, 77);
        CHECK_CODE(sparsestream_map(fd, offsets[i], 0, count_section, &called), -EINVAL);
        CHECK_CODE(sparsestream_map(fd, 0, offsets[i], count_section, &called), -EINVAL);
    }
    CHECK_INT(called, ==, 0);
    close(fd);
}

static void the_greatest_offset(void)
{
    const int fd = file_new("file");
    struct sparsestream_section section = { .size = sizeof section };
    int called = 0;

    lay_out_sample(fd);
    CHECK_CODE(sparsestream_section_at(fd, INT64_MAX, &section), 0);
    CHECK_INT(section.kind, ==, SPARSESTREAM_END);
    CHECK_INT(section.offset, ==, INT64_MAX);
    CHECK_INT(section.length, ==, 0);
    CHECK_CODE(sparsestream_map(fd, INT64_MAX, 0, count_section, &called), 0);
    CHECK_INT(called, ==, 0);
    /* To the end, however far beyond it the range goes. */
    CHECK_CODE(sparsestream_map(fd, 4 * UNIT, INT64_MAX, count_section, &called), 0);
    CHECK_INT(called, ==, 1);
    close(fd);
}

struct sections {
    struct sparsestream_section all[64];
    size_t count;
    int stop_at, answer;
};

static int keep_section(void *opaque, const struct sparsestream_section *section)
{
    struct sections *sections = opaque;

    REQUIRE(sections->count < COUNT(sections->all));
    CHECK_INT(section->reserved, ==, 0);
    sections->all[sections->count++] = *section;
    return (int) sections->count == sections->stop_at ? sections->answer : 0;
}

static void check_map(int fd, int64_t offset, int64_t length, const struct extent *expected,
                      size_t count)
{
    struct sections sections = { .count = 0 };

    context("range %jd+%jd", (intmax_t) offset, (intmax_t) length);
    REQUIRE(lseek(fd, 33, SEEK_SET) == 33);
    CHECK_CODE(sparsestream_map(fd, offset, length, keep_section, &sections), 0);
    CHECK_INT(file_position(fd), ==, 33);
    CHECK_INT(sections.count, ==, count);
    for (size_t i = 0; i < sections.count && i < count; i++) {
        CHECK_INT(sections.all[i].kind, ==, expected[i].kind);
        CHECK_INT(sections.all[i].offset, ==, expected[i].offset);
        CHECK_INT(sections.all[i].length, ==, expected[i].length);
    }
    context("%s", "");
}

static void the_map_of_a_file(void)
{
    const struct extent whole[] = {
        { SPARSESTREAM_DATA, 0, UNIT },
        { SPARSESTREAM_HOLE, UNIT, 2 * UNIT },
        { SPARSESTREAM_DATA, 3 * UNIT, UNIT },
        { SPARSESTREAM_HOLE, 4 * UNIT, 12 * UNIT },
    };
    const int fd = file_new("file");

    lay_out_sample(fd);
    check_map(fd, 0, 0, whole, 4);
    check_map(fd, 0, 16 * UNIT, whole, 4);
    check_map(fd, 0, 40 * UNIT, whole, 4);
    close(fd);
}

static void the_map_is_cut_to_the_range(void)
{
    const int fd = file_new("file");

    lay_out_sample(fd);
    check_map(fd, 100, 200, (struct extent[]) { { SPARSESTREAM_DATA, 100, 200 } }, 1);
    check_map(fd, UNIT + 1, 2, (struct extent[]) { { SPARSESTREAM_HOLE, UNIT + 1, 2 } }, 1);
    check_map(fd, UNIT - 1, 2,
              (struct extent[]) { { SPARSESTREAM_DATA, UNIT - 1, 1 },
                                  { SPARSESTREAM_HOLE, UNIT, 1 } }, 2);
    check_map(fd, UNIT, 2 * UNIT, (struct extent[]) { { SPARSESTREAM_HOLE, UNIT, 2 * UNIT } }, 1);
    check_map(fd, 2 * UNIT + 7, 3 * UNIT,
              (struct extent[]) { { SPARSESTREAM_HOLE, 2 * UNIT + 7, UNIT - 7 },
                                  { SPARSESTREAM_DATA, 3 * UNIT, UNIT },
                                  { SPARSESTREAM_HOLE, 4 * UNIT, UNIT + 7 } }, 3);
    check_map(fd, 16 * UNIT - 1, 0,
              (struct extent[]) { { SPARSESTREAM_HOLE, 16 * UNIT - 1, 1 } }, 1);
    check_map(fd, 16 * UNIT, 0, NULL, 0);
    check_map(fd, 16 * UNIT + 1, 5, NULL, 0);
    close(fd);
}

static void the_map_stops_with_the_callbacks_answer(void)
{
    const int answers[] = { 7, 1, -EIO, -1, INT32_MAX, INT32_MIN };
    const int fd = file_new("file");

    lay_out_sample(fd);
    REQUIRE(lseek(fd, 33, SEEK_SET) == 33);
    for (size_t i = 0; i < COUNT(answers); i++) {
        for (int stop = 1; stop <= 4; stop++) {
            struct sections sections = { .stop_at = stop, .answer = answers[i] };

            context("answer %d at section %d", answers[i], stop);
            CHECK_CODE(sparsestream_map(fd, 0, 0, keep_section, &sections), answers[i]);
            CHECK_INT(sections.count, ==, stop);
            CHECK_INT(file_position(fd), ==, 33);
        }
    }
    close(fd);
}

static void the_map_of_a_block_device(void)
{
    const int backing = file_new("backing");
    int device;

    file_resize(backing, 4 * MiB);
    device = loop_device(backing);
    check_map(device, 0, 0, (struct extent[]) { { SPARSESTREAM_DATA, 0, 4 * MiB } }, 1);
    check_map(device, 512, 1024, (struct extent[]) { { SPARSESTREAM_DATA, 512, 1024 } }, 1);
    check_map(device, 4 * MiB, 0, NULL, 0);
    close(device);
    close(backing);
}

static int grow_file(void *opaque, const struct sparsestream_section *section)
{
    struct sections *sections = opaque;
    const int fd = open("file", O_WRONLY | O_CLOEXEC);

    REQUIRE(fd >= 0);
    file_fill(fd, 16 * UNIT, UNIT, 1);
    close(fd);
    return keep_section(sections, section);
}

static void the_maps_end_is_fixed_when_it_starts(void)
{
    struct sections sections = { .count = 0 };
    const int fd = file_new("file");

    lay_out_sample(fd);
    CHECK_CODE(sparsestream_map(fd, 0, 0, grow_file, &sections), 0);
    CHECK_INT(sections.count, ==, 4);
    CHECK_INT(sections.all[3].offset + sections.all[3].length, ==, 16 * UNIT);
    close(fd);
}

TESTS(
    CASE(data_holes_and_ends_of_a_file),
    CASE(a_file_in_memory),
    CASE(a_file_of_a_tmpfs),
    CASE(how_the_descriptor_was_opened_does_not_matter),
    CASE(an_empty_file),
    CASE(a_file_that_is_one_hole),
    CASE(a_file_without_holes),
    CASE(one_byte_at_the_end_of_a_hole),
    CASE(sixteen_tebibytes),
    CASE(a_file_that_is_cut_behind_the_position),
    CASE(agrees_with_the_system_everywhere),
    CASE(pipes_and_sockets),
    CASE(character_devices),
    CASE(descriptors_without_a_name),
    CASE(directories),
    CASE(a_descriptor_of_a_path_only),
    CASE(no_descriptor),
    CASE(a_block_device),
    CASE(files_of_proc),
    CASE(offsets_below_zero),
    CASE(the_greatest_offset),
    CASE(the_map_of_a_file),
    CASE(the_map_is_cut_to_the_range),
    CASE(the_map_stops_with_the_callbacks_answer),
    CASE(the_map_of_a_block_device),
    CASE(the_maps_end_is_fixed_when_it_starts),
)
