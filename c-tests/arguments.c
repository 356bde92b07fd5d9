/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Wrong arguments: NULL, descriptors, numbers, and structs of other versions. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Live handles for calls in which only one thing is wrong. */
static struct fixture {
    int fd;
    struct content content, taken;
    struct end from, to;
    struct sparsestream_source *source, *frames;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
} f;

static void set_up(void)
{
    const struct piece pieces[] = { DATA(1000), HOLE(5000), DATA(10) };

    memset(&f, 0, sizeof f);
    f.fd = file_new("file");
    file_fill(f.fd, 0, 64 * KiB, 1);
    content_lay_out(&f.content, pieces, COUNT(pieces), 1);
    f.from.from = &f.content;
    f.to.to = &f.taken;
    f.source = end_stream_source(&f.from);
    f.sink = end_stream_sink(&f.to);
    f.transfer = new_transfer(f.source, f.sink, NULL);
}

static void tear_down(void)
{
    sparsestream_transfer_free(f.transfer);
    sparsestream_source_free(f.source);
    sparsestream_sink_free(f.sink);
    content_free(&f.content);
    content_free(&f.taken);
    close(f.fd);
}

static struct sparsestream_source *const poison_source = (void *) 0x51;
static struct sparsestream_sink *const poison_sink = (void *) 0x52;
static struct sparsestream_transfer *const poison_transfer = (void *) 0x53;

/* Sets the thread's message to one that no call here gives. */
static void set_message(void)
{
    CHECK_CODE(sparsestream_holes_supported(-1), -EBADF);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));
}

#define CHECK_NULL(call)                                                        \
    do {                                                                        \
        set_message();                                                          \
        CHECK_CODE(call, -EINVAL);                                              \
        CHECK_CONTAINS(sparsestream_last_error(), "NULL");                      \
    } while (0)

static void null_for_every_pointer(void)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer = NULL;
    struct end end = { .to = NULL };
    struct sparsestream_section section = { .size = sizeof section };
    struct sparsestream_source_info source_info = { .size = sizeof source_info };
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct sparsestream_event event = { .size = sizeof event };
    int64_t length;
    bool in_data;
    char byte = 0;

    set_up();
    CHECK_NULL(sparsestream_in_data(f.fd, NULL, &length));
    CHECK_NULL(sparsestream_in_data(f.fd, &in_data, NULL));
    CHECK_NULL(sparsestream_section_at(f.fd, 0, NULL));
    CHECK_NULL(sparsestream_map(f.fd, 0, 0, NULL, NULL));
    CHECK_NULL(sparsestream_sink_to_fd(f.fd, NULL, NULL));
    CHECK_NULL(sparsestream_sink_to_callbacks(NULL, NULL, &sink));
    CHECK_NULL(sparsestream_sink_to_callbacks(&end_sink_ops, &end, NULL));
    CHECK_NULL(sparsestream_sink_to_stream(NULL, NULL, &sink));
    CHECK_NULL(sparsestream_sink_to_stream(&end_stream_ops, &end, NULL));
    CHECK_NULL(sparsestream_sink_write(NULL, &byte, 1));
    CHECK_NULL(sparsestream_sink_write(f.sink, NULL, 1));
    CHECK_NULL(sparsestream_sink_hole(NULL, 1));
    CHECK_NULL(sparsestream_sink_finish(NULL));
    CHECK_NULL(sparsestream_sink_abort(NULL, EIO));
    CHECK_NULL(sparsestream_source_from_fd(f.fd, NULL, NULL));
    CHECK_NULL(sparsestream_source_from_callbacks(NULL, NULL, &source));
    CHECK_NULL(sparsestream_source_from_callbacks(&end_source_ops, &end, NULL));
    CHECK_NULL(sparsestream_source_from_stream(NULL, NULL, &source));
    CHECK_NULL(sparsestream_source_from_stream(&end_stream_ops, &end, NULL));
    CHECK_NULL(sparsestream_source_section(NULL, &section));
    CHECK_NULL(sparsestream_source_section(f.source, NULL));
    CHECK_NULL(sparsestream_source_describe(NULL, &source_info));
    CHECK_NULL(sparsestream_source_describe(f.source, NULL));
    CHECK_NULL(sparsestream_source_wait(NULL, &wait));
    CHECK_NULL(sparsestream_source_wait(f.source, NULL));
    CHECK_NULL(sparsestream_sink_keep(NULL, 1));
    CHECK_NULL(sparsestream_sink_announce(NULL, NULL, NULL));
    CHECK_NULL(sparsestream_sink_wait(NULL, &wait));
    CHECK_NULL(sparsestream_sink_wait(f.sink, NULL));
    CHECK_NULL(sparsestream_transfer_fail(NULL, EIO, "words"));
    CHECK_NULL(sparsestream_event_text(NULL, &byte, 1));
    CHECK_NULL(sparsestream_event_text(&event, NULL, 1));
    CHECK_NULL(sparsestream_source_read(NULL, &byte, 1));
    CHECK_NULL(sparsestream_source_read(f.source, NULL, 1));
    CHECK_NULL(sparsestream_source_skip(NULL, 1));
    CHECK_NULL(sparsestream_source_finish(NULL));
    CHECK_NULL(sparsestream_source_abort(NULL, EIO));
    CHECK_NULL(sparsestream_transfer_new(NULL, f.sink, NULL, &transfer));
    CHECK_NULL(sparsestream_transfer_new(f.source, NULL, NULL, &transfer));
    CHECK_NULL(sparsestream_transfer_new(f.source, f.sink, NULL, NULL));
    CHECK_NULL(sparsestream_transfer_run(NULL, 0));
    CHECK_NULL(sparsestream_transfer_wait(NULL, &(struct sparsestream_wait) { .size = 24 }));
    CHECK_NULL(sparsestream_transfer_wait(f.transfer, NULL));
    CHECK_NULL(sparsestream_transfer_stats(NULL, &(struct sparsestream_stats) { .size = 64 }));
    CHECK_NULL(sparsestream_transfer_stats(f.transfer, NULL));
    CHECK_NULL(sparsestream_transfer_error(NULL, &(struct sparsestream_error) { .size = 16 }));
    CHECK_NULL(sparsestream_transfer_error(f.transfer, NULL));
    CHECK_NULL(sparsestream_send_all(NULL, &end_stream_ops, &end, NULL, NULL));
    CHECK_NULL(sparsestream_send_all(f.source, NULL, NULL, NULL, NULL));
    CHECK_NULL(sparsestream_recv_all(NULL, NULL, f.sink, NULL, NULL));
    CHECK_NULL(sparsestream_recv_all(&end_stream_ops, &end, NULL, NULL, NULL));
    CHECK(source == NULL && sink == NULL && transfer == NULL);

    /* Functions that a signal handler may call do not change the message of the interrupted thread. */
    set_message();
    CHECK_INT(sparsestream_transfer_cancel(NULL), ==, -EINVAL);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));

    sparsestream_source_free(NULL);
    sparsestream_sink_free(NULL);
    sparsestream_transfer_free(NULL);
    /* Nothing was used, and nothing was broken. */
    CHECK_INT(f.from.own_calls + f.to.own_calls, ==, 0);
    CHECK_CODE(sparsestream_transfer_run(f.transfer, 0), 0);
    CHECK_CONTENT(&f.taken, &f.content);
    tear_down();
}

static void nothing_is_asked_of_no_bytes(void)
{
    char byte = 'x';

    set_up();
    CHECK_CODE(sparsestream_source_read(f.source, &byte, 0), 0);
    CHECK_CODE(sparsestream_source_read(f.source, NULL, 0), 0);
    CHECK_CODE(sparsestream_sink_write(f.sink, &byte, 0), 0);
    CHECK_CODE(sparsestream_sink_write(f.sink, NULL, 0), 0);
    CHECK_CODE(sparsestream_sink_hole(f.sink, 0), 0);
    CHECK_INT(f.from.own_calls + f.to.own_calls, ==, 0);
    CHECK_INT(byte, ==, 'x');
    tear_down();
}

static void check_no_source(int fd, const struct sparsestream_source_options *options, int error)
{
    struct sparsestream_source *source = poison_source;

    CHECK_CODE(sparsestream_source_from_fd(fd, options, &source), -error);
    CHECK(source == NULL);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(error));
}

static void check_no_sink(int fd, const struct sparsestream_sink_options *options, int error)
{
    struct sparsestream_sink *sink = poison_sink;

    CHECK_CODE(sparsestream_sink_to_fd(fd, options, &sink), -error);
    CHECK(sink == NULL);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(error));
}

static void check_no_transfer(const struct sparsestream_transfer_options *options, int error)
{
    struct sparsestream_transfer *transfer = poison_transfer;
    struct end end = { .from = &f.content };
    struct content taken = { .count = 0 };
    struct end to = { .to = &taken };

    CHECK_CODE(sparsestream_transfer_new(f.source, f.sink, options, &transfer), -error);
    CHECK(transfer == NULL);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(error));
    /* The loops refuse the same, and end the stream before they free its table. */
    CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &end, f.sink, options, NULL), -error);
    CHECK_INT(end.own_calls, ==, 0);
    CHECK_INT(end.aborts, ==, 1);
    CHECK_INT(end.abort_error, ==, error);
    CHECK_INT(end.frees, ==, 1);
    CHECK_CODE(sparsestream_send_all(f.source, &end_stream_ops, &to, options, NULL), -error);
    CHECK_INT(to.own_calls, ==, 0);
    CHECK_INT(to.aborts, ==, 1);
    CHECK_INT(to.abort_error, ==, error);
    CHECK_INT(to.frees, ==, 1);
    CHECK_INT(f.from.own_calls + f.from.aborts + f.to.own_calls + f.to.aborts, ==, 0);
    content_free(&taken);
}

static void no_descriptor(void)
{
    const int fds[] = { -1, INT32_MIN, INT32_MAX, 999 };

    for (size_t i = 0; i < COUNT(fds); i++) {
        context("%d", fds[i]);
        check_no_source(fds[i], NULL, EBADF);
        check_no_sink(fds[i], NULL, EBADF);
    }
}

static void descriptors_that_cannot_be_used(void)
{
    const int directory = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int readable, writable, path;

    close(file_new("file"));
    readable = open("file", O_RDONLY | O_CLOEXEC);
    writable = open("file", O_WRONLY | O_CLOEXEC);
    path = open("file", O_PATH | O_CLOEXEC);
    REQUIRE(directory >= 0 && readable >= 0 && writable >= 0 && path >= 0);
    check_no_source(directory, NULL, EISDIR);
    check_no_sink(directory, NULL, EISDIR);
    check_no_source(writable, NULL, EBADF);
    check_no_sink(readable, NULL, EBADF);
    check_no_source(path, NULL, EBADF);
    check_no_sink(path, NULL, EBADF);
    close(directory);
    close(readable);
    close(writable);
    close(path);
}

static void numbers_out_of_range(void)
{
    const int64_t below[] = { -1, -4096, INT64_MIN };

    set_up();
    for (size_t i = 0; i < COUNT(below); i++) {
        context("%jd", (intmax_t) below[i]);
        check_no_source(f.fd, SOURCE_OPTIONS(.offset = below[i]), EINVAL);
        check_no_source(f.fd, SOURCE_OPTIONS(.length = below[i]), EINVAL);
        check_no_sink(f.fd, SINK_OPTIONS(.offset = below[i]), EINVAL);
        check_no_sink(f.fd, SINK_OPTIONS(.length = below[i]), EINVAL);
        check_no_sink(f.fd, SINK_OPTIONS(.sync_interval = below[i]), EINVAL);
        check_no_transfer(TRANSFER_OPTIONS(.progress_bytes = below[i]), EINVAL);
        check_no_transfer(TRANSFER_OPTIONS(.progress_ms = below[i]), EINVAL);
        check_no_transfer(TRANSFER_OPTIONS(.stall_ms = below[i]), EINVAL);
        check_no_transfer(TRANSFER_OPTIONS(.idle_ms = below[i]), EINVAL);
        check_no_transfer(TRANSFER_OPTIONS(.min_hole = below[i]), EINVAL);
        check_no_transfer(TRANSFER_OPTIONS(.rate = below[i]), EINVAL);
        CHECK_CODE(sparsestream_source_skip(f.source, below[i]), -EINVAL);
        CHECK_CODE(sparsestream_sink_hole(f.sink, below[i]), -EINVAL);
        CHECK_CODE(sparsestream_transfer_run(f.transfer, below[i]), -EINVAL);
    }
    context("%s", "");
    CHECK_CODE(sparsestream_source_abort(f.source, 0), -EINVAL);
    CHECK_CODE(sparsestream_source_abort(f.source, -EIO), -EINVAL);
    CHECK_CODE(sparsestream_sink_abort(f.sink, 0), -EINVAL);
    CHECK_CODE(sparsestream_sink_abort(f.sink, INT32_MIN), -EINVAL);
    CHECK_INT(f.from.own_calls + f.from.aborts + f.to.own_calls + f.to.aborts, ==, 0);
    /* A range whose end no offset can name. */
    check_no_source(f.fd, SOURCE_OPTIONS(.offset = 1, .length = INT64_MAX), EINVAL);
    tear_down();
}

static void sizes_of_blocks_and_buffers(void)
{
    const uint32_t bad_blocks[] = { 1, 256, 511, 513, 768, 65537, 2097152, UINT32_MAX };
    const uint64_t bad_buffers[] = { 1, 4095, 67108865, UINT64_C(1) << 40, UINT64_MAX };

    set_up();
    for (size_t i = 0; i < COUNT(bad_blocks); i++) {
        context("zero_block %ju", (uintmax_t) bad_blocks[i]);
        check_no_transfer(TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES,
                                           .zero_block = bad_blocks[i]), EINVAL);
    }
    for (size_t i = 0; i < COUNT(bad_buffers); i++) {
        context("buffer_size %ju", (uintmax_t) bad_buffers[i]);
        check_no_transfer(TRANSFER_OPTIONS(.buffer_size = bad_buffers[i]), EINVAL);
    }
    context("%s", "");
    for (uint32_t block = 512; block <= 1048576; block *= 2) {
        struct sparsestream_transfer *transfer = NULL;

        CHECK_CODE(sparsestream_transfer_new(f.source, f.sink,
                                             TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES,
                                                              .zero_block = block), &transfer), 0);
        sparsestream_transfer_free(transfer);
    }
    for (uint64_t buffer = 4096; buffer <= 67108864; buffer *= 4) {
        struct sparsestream_transfer *transfer = NULL;

        CHECK_CODE(sparsestream_transfer_new(f.source, f.sink,
                                             TRANSFER_OPTIONS(.buffer_size = buffer),
                                             &transfer), 0);
        sparsestream_transfer_free(transfer);
    }
    tear_down();
}

static void unknown_flags_and_requests(void)
{
    const int32_t requests[] = { -1, 3, 4, INT32_MAX, INT32_MIN };

    set_up();
    for (int bit = 0; bit < 64; bit++) {
        const uint64_t flag = UINT64_C(1) << bit;

        context("flag %jx", (uintmax_t) flag);
        if (flag != SPARSESTREAM_IGNORE_MAP && flag != SPARSESTREAM_AT_MOST)
            check_no_source(f.fd, SOURCE_OPTIONS(.flags = flag), EINVAL);
        if (flag != SPARSESTREAM_SYNC && flag != SPARSESTREAM_TRUNCATE
            && flag != SPARSESTREAM_KNOWN_ZERO)
            check_no_sink(f.fd, SINK_OPTIONS(.flags = flag), EINVAL);
        if (flag != SPARSESTREAM_DETECT_ZEROES)
            check_no_transfer(TRANSFER_OPTIONS(.flags = flag), EINVAL);
    }
    for (size_t i = 0; i < COUNT(requests); i++) {
        context("request %d", requests[i]);
        check_no_transfer(TRANSFER_OPTIONS(.sparse = requests[i]), EINVAL);
    }
    tear_down();
}

/* An options struct of another version: `size` bytes, guarded behind. */
struct versioned {
    uint64_t size;
    unsigned char rest[1024];
};

#define GUARD 0xee

/* As `known` bytes of `from`, then zeros up to `size`, then guard bytes. */
static struct versioned version_of(const void *from, size_t known, uint64_t size)
{
    struct versioned made;

    memset(&made, GUARD, sizeof made);
    memset(&made, 0, size < sizeof made ? (size_t) size : 0);
    memcpy(&made, from, known < size ? known : (size_t) size);
    made.size = size;
    return made;
}

static int try_source_options(const void *options)
{
    struct sparsestream_source *source = poison_source;
    const int code = sparsestream_source_from_fd(f.fd, options, &source);

    CHECK((code == 0) == (source != NULL));
    CHECK(source != poison_source);
    sparsestream_source_free(source);
    return code;
}

static int try_sink_options(const void *options)
{
    struct sparsestream_sink *sink = poison_sink;
    const int code = sparsestream_sink_to_fd(f.fd, options, &sink);

    CHECK((code == 0) == (sink != NULL));
    CHECK(sink != poison_sink);
    sparsestream_sink_free(sink);
    return code;
}

static int try_transfer_options(const void *options)
{
    struct sparsestream_transfer *transfer = poison_transfer;
    const int code = sparsestream_transfer_new(f.source, f.sink, options, &transfer);

    CHECK((code == 0) == (transfer != NULL));
    CHECK(transfer != poison_transfer);
    sparsestream_transfer_free(transfer);
    return code;
}

static int try_wire_sink_options(const void *options)
{
    struct sparsestream_sink *sink = poison_sink;
    const int code = sparsestream_sink_to_wire(f.fd, -1, options, &sink);

    CHECK((code == 0) == (sink != NULL));
    CHECK(sink != poison_sink);
    sparsestream_sink_free(sink);
    return code;
}

static int try_wire_source_options(const void *options)
{
    struct sparsestream_source *source = poison_source;
    const int code = sparsestream_source_from_wire(f.fd, -1, options, &source);

    CHECK((code == 0) == (source != NULL));
    CHECK(source != poison_source);
    sparsestream_source_free(source);
    return code;
}

/* It writes what it was given, so it gets a copy. */
static int try_wire_describe(const void *options)
{
    struct versioned described;
    int code;

    memcpy(&described, options, sizeof described);
    code = sparsestream_wire_describe(f.fd, 0, 0, (void *) &described);
    if (code != 0)
        CHECK_BYTES(&described, options, sizeof described);
    return code;
}

static struct end tried;

/* In every case, `free` of the table is called once if it is known. */
static int try_source_ops(const void *ops)
{
    struct sparsestream_source *source = poison_source;
    int code;

    memset(&tried, 0, sizeof tried);
    tried.from = &f.content;
    code = sparsestream_source_from_callbacks(ops, &tried, &source);
    CHECK((code == 0) == (source != NULL));
    CHECK(source != poison_source);
    sparsestream_source_free(source);
    return code;
}

static int try_sink_ops(const void *ops)
{
    struct sparsestream_sink *sink = poison_sink;
    int code;

    memset(&tried, 0, sizeof tried);
    code = sparsestream_sink_to_callbacks(ops, &tried, &sink);
    CHECK((code == 0) == (sink != NULL));
    CHECK(sink != poison_sink);
    sparsestream_sink_free(sink);
    return code;
}

static int try_stream_source_ops(const void *ops)
{
    struct sparsestream_source *source = poison_source;
    int code;

    memset(&tried, 0, sizeof tried);
    tried.from = &f.content;
    code = sparsestream_source_from_stream(ops, &tried, &source);
    CHECK((code == 0) == (source != NULL));
    CHECK(source != poison_source);
    sparsestream_source_free(source);
    return code;
}

static int try_stream_sink_ops(const void *ops)
{
    struct sparsestream_sink *sink = poison_sink;
    int code;

    memset(&tried, 0, sizeof tried);
    code = sparsestream_sink_to_stream(ops, &tried, &sink);
    CHECK((code == 0) == (sink != NULL));
    CHECK(sink != poison_sink);
    sparsestream_sink_free(sink);
    return code;
}

static const struct sparsestream_source_options source_options = { .size = sizeof source_options };
static const struct sparsestream_sink_options sink_options = { .size = sizeof sink_options };
static const struct sparsestream_transfer_options transfer_options = {
    .size = sizeof transfer_options,
};
static const struct sparsestream_wire_options wire_options = { .size = sizeof wire_options };

/* `least`: the size from which on a struct holds all that it must. */
static const struct input {
    const char *name;
    const void *model;
    size_t size, least;
    bool is_table;
    int (*try)(const void *);
} inputs[] = {
    { "source options", &source_options, sizeof source_options, 8, false, try_source_options },
    { "sink options", &sink_options, sizeof sink_options, 8, false, try_sink_options },
    { "transfer options", &transfer_options, sizeof transfer_options, 8, false,
      try_transfer_options },
    { "wire options of a sender", &wire_options, sizeof wire_options, 8, false,
      try_wire_sink_options },
    { "wire options of a receiver", &wire_options, sizeof wire_options, 8, false,
      try_wire_source_options },
    { "wire options that are described", &wire_options, sizeof wire_options, 8, false,
      try_wire_describe },
    { "source callbacks", &end_source_ops, sizeof end_source_ops,
      offsetof(struct sparsestream_source_ops, skip) + sizeof(void *), true, try_source_ops },
    { "sink callbacks", &end_sink_ops, sizeof end_sink_ops,
      offsetof(struct sparsestream_sink_ops, write) + sizeof(void *), true, try_sink_ops },
    { "stream as a source", &end_stream_ops, sizeof end_stream_ops,
      offsetof(struct sparsestream_stream_ops, recv) + sizeof(void *), true,
      try_stream_source_ops },
    { "stream as a sink", &end_stream_ops, sizeof end_stream_ops,
      offsetof(struct sparsestream_stream_ops, send) + sizeof(void *), true, try_stream_sink_ops },
};

static void structs_of_an_earlier_version(void)
{
    set_up();
    for (size_t i = 0; i < COUNT(inputs); i++) {
        for (size_t size = 8; size <= inputs[i].size; size += 8) {
            const struct versioned short_one = version_of(inputs[i].model, inputs[i].size, size);
            const bool enough = size >= inputs[i].least;

            context("%s of %zu bytes", inputs[i].name, size);
            CHECK_CODE(inputs[i].try(&short_one), enough ? 0 : -EINVAL);
            if (inputs[i].is_table)
                CHECK_INT(tried.frees, ==, size >= 16);
        }
    }
    tear_down();
}

static void structs_of_a_later_version(void)
{
    set_up();
    for (size_t i = 0; i < COUNT(inputs); i++) {
        for (size_t more = 8; more <= 64; more += 8) {
            struct versioned long_one = version_of(inputs[i].model, inputs[i].size,
                                                   inputs[i].size + more);

            context("%s, %zu bytes longer", inputs[i].name, more);
            CHECK_CODE(inputs[i].try(&long_one), 0);
            if (inputs[i].is_table)
                CHECK_INT(tried.frees, ==, 1);
            /* One byte that is not zero says something that cannot be understood. */
            for (size_t at = inputs[i].size; at < inputs[i].size + more; at++) {
                ((unsigned char *) &long_one)[at] = 0x80;
                CHECK_CODE(inputs[i].try(&long_one), -E2BIG);
                CHECK_CONTAINS(sparsestream_last_error(), strerror(E2BIG));
                if (inputs[i].is_table)
                    CHECK_INT(tried.frees, ==, 1);
                ((unsigned char *) &long_one)[at] = 0;
            }
        }
    }
    tear_down();
}

static void sizes_that_are_no_structs(void)
{
    const uint64_t sizes[] = { 0, 1, 7, UINT64_C(1) << 20, UINT64_C(1) << 31, UINT64_C(1) << 32,
                               UINT64_C(1) << 63, UINT64_MAX };

    set_up();
    for (size_t i = 0; i < COUNT(inputs); i++) {
        for (size_t j = 0; j < COUNT(sizes); j++) {
            struct versioned wrong = version_of(inputs[i].model, inputs[i].size, inputs[i].size);

            wrong.size = sizes[j];
            context("%s of size %ju", inputs[i].name, (uintmax_t) sizes[j]);
            CHECK_CODE(inputs[i].try(&wrong), -EINVAL);
            /* Such a table cannot be trusted to hold `free`; it is never called twice. */
            if (inputs[i].is_table)
                CHECK_INT(tried.frees, <=, 1);
        }
    }
    tear_down();
}

static int fill_stats(void *out)
{
    return sparsestream_transfer_stats(f.transfer, out);
}

static int fill_wait(void *out)
{
    return sparsestream_transfer_wait(f.transfer, out);
}

static int fill_error(void *out)
{
    return sparsestream_transfer_error(f.transfer, out);
}

static int fill_wire_info(void *out)
{
    return sparsestream_source_wire_info(f.frames, out);
}

static const struct output {
    const char *name;
    size_t size;
    int (*fill)(void *);
} outputs[] = {
    { "stats", sizeof(struct sparsestream_stats), fill_stats },
    { "wait", sizeof(struct sparsestream_wait), fill_wait },
    { "error", sizeof(struct sparsestream_error), fill_error },
    { "wire info", sizeof(struct sparsestream_wire_info), fill_wire_info },
};

/* A source of frames whose sender reported all that it can about the file. */
static struct sparsestream_source *frames_of_the_file(int frames)
{
    struct sparsestream_wire_options options = {
        .size = sizeof options, .flags = SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST,
    };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;

    memset(options.transfer_id, 0x11, sizeof options.transfer_id);
    CHECK_CODE(sparsestream_wire_describe(f.fd, 0, 0, &options), 0);
    CHECK_CODE(sparsestream_source_from_fd(f.fd, NULL, &source), 0);
    CHECK_CODE(sparsestream_sink_to_wire(frames, -1, &options, &sink), 0);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    sparsestream_transfer_free(transfer);
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);

    REQUIRE(lseek(frames, 0, SEEK_SET) == 0);
    REQUIRE(sparsestream_source_from_wire(frames, -1, NULL, &source) == 0);
    return source;
}

static void outputs_of_any_version(void)
{
    int frames;

    set_up();
    frames = file_new("frames");
    f.frames = frames_of_the_file(frames);
    /* So that every field has something to say. */
    f.to.fault_call = 3;
    f.to.fault = -EIO;
    CHECK_CODE(sparsestream_transfer_run(f.transfer, 0), -EIO);
    for (size_t i = 0; i < COUNT(outputs); i++) {
        struct versioned whole;

        memset(&whole, 0, sizeof whole);
        whole.size = outputs[i].size;
        CHECK_CODE(outputs[i].fill(&whole), 0);
        for (size_t size = 8; size <= outputs[i].size + 64; size += 8) {
            const size_t known = size < outputs[i].size ? size : outputs[i].size;
            unsigned char guards[sizeof(struct versioned)], zeros[64] = { 0 };
            struct versioned out;

            context("%s of %zu bytes", outputs[i].name, size);
            memset(guards, GUARD, sizeof guards);
            memset(&out, GUARD, sizeof out);
            out.size = size;
            CHECK_CODE(outputs[i].fill(&out), 0);
            CHECK_INT(out.size, ==, size);
            CHECK_BYTES(out.rest, whole.rest, known - 8);
            CHECK_BYTES((unsigned char *) &out + known, zeros, size - known);
            CHECK_BYTES((unsigned char *) &out + size, guards, sizeof out - size);
        }
        for (int bad = 0; bad < 3; bad++) {
            struct versioned out, before;

            memset(&out, GUARD, sizeof out);
            out.size = (uint64_t[]) { 0, 7, UINT64_MAX }[bad];
            before = out;
            context("%s of size %ju", outputs[i].name, (uintmax_t) out.size);
            CHECK_CODE(outputs[i].fill(&out), -EINVAL);
            CHECK_BYTES(&out, &before, sizeof out);
        }
    }
    sparsestream_source_free(f.frames);
    close(frames);
    tear_down();
}

/* Read and written: what is behind its size is neither. */
static void described_options_of_any_version(void)
{
    struct versioned whole;

    set_up();
    whole = version_of(&wire_options, sizeof wire_options, sizeof wire_options);
    CHECK_CODE(sparsestream_wire_describe(f.fd, 0, 0, (void *) &whole), 0);
    CHECK_INT(((struct sparsestream_wire_options *) &whole)->source_size, ==, 64 * KiB);
    for (size_t size = 8; size <= sizeof wire_options + 64; size += 8) {
        const size_t known = size < sizeof wire_options ? size : sizeof wire_options;
        struct versioned out = version_of(&wire_options, sizeof wire_options, size);
        unsigned char guards[sizeof out], zeros[64] = { 0 };

        context("%zu bytes", size);
        memset(guards, GUARD, sizeof guards);
        CHECK_CODE(sparsestream_wire_describe(f.fd, 0, 0, (void *) &out), 0);
        CHECK_INT(out.size, ==, size);
        CHECK_BYTES(out.rest, whole.rest, known - 8);
        CHECK_BYTES((unsigned char *) &out + known, zeros, size - known);
        CHECK_BYTES((unsigned char *) &out + size, guards, sizeof out - size);
    }
    tear_down();
}

static void statistics_of_the_loops_have_any_size(void)
{
    const struct piece pieces[] = { DATA(1000), HOLE(5000), DATA(10) };
    struct content content = { .count = 0 };
    struct sparsestream_sink *sink;
    struct end to = { .to = NULL };

    content_lay_out(&content, pieces, COUNT(pieces), 1);
    sink = end_sink(&to);
    for (size_t size = 16; size <= sizeof(struct sparsestream_stats) + 32; size += 8) {
        struct end from = { .from = &content };
        unsigned char guards[sizeof(struct versioned)];
        struct versioned out;

        memset(guards, GUARD, sizeof guards);
        memset(&out, GUARD, sizeof out);
        out.size = size;
        context("%zu bytes", size);
        CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &from, sink, NULL, (void *) &out), 0);
        CHECK_INT(((struct sparsestream_stats *) &out)->position, ==, 6010);
        CHECK_BYTES((unsigned char *) &out + size, guards, sizeof out - size);
        /* A sink that was finished takes no second stream. */
        sparsestream_sink_free(sink);
        sink = end_sink(&to);
    }
    sparsestream_sink_free(sink);
    content_free(&content);
}

static int use_source(void *opaque, struct sparsestream_section *section)
{
    (void) opaque;
    CHECK_CODE(sparsestream_source_section(f.source, section), -EBUSY);
    CHECK_CODE(sparsestream_source_skip(f.source, 1), -EBUSY);
    CHECK_CODE(sparsestream_source_finish(f.source), -EBUSY);
    CHECK_CODE(sparsestream_source_abort(f.source, EIO), -EBUSY);
    section->kind = SPARSESTREAM_DATA;
    section->length = 1;
    return 0;
}

static int64_t use_source_again(void *opaque, void *buffer, size_t length)
{
    (void) opaque;
    CHECK_CODE(sparsestream_source_read(f.source, buffer, length), -EBUSY);
    *(char *) buffer = 'x';
    return 1;
}

static int64_t use_sink(void *opaque, const void *buffer, size_t length)
{
    (void) opaque;
    CHECK_CODE(sparsestream_sink_write(f.sink, buffer, length), -EBUSY);
    CHECK_CODE(sparsestream_sink_hole(f.sink, 1), -EBUSY);
    CHECK_CODE(sparsestream_sink_finish(f.sink), -EBUSY);
    CHECK_CODE(sparsestream_sink_abort(f.sink, EIO), -EBUSY);
    return (int64_t) length;
}

static int64_t no_skip(void *opaque, int64_t length)
{
    (void) opaque;
    (void) length;
    return -EIO;
}

static void a_handle_in_use_by_its_own_callback(void)
{
    const struct sparsestream_source_ops source_ops = {
        .size = sizeof source_ops, .section = use_source, .read = use_source_again,
        .skip = no_skip,
    };
    const struct sparsestream_sink_ops sink_ops = { .size = sizeof sink_ops, .write = use_sink };
    struct sparsestream_section section = { .size = sizeof section };
    char byte = 0;

    memset(&f, 0, sizeof f);
    CHECK_CODE(sparsestream_source_from_callbacks(&source_ops, NULL, &f.source), 0);
    CHECK_CODE(sparsestream_source_section(f.source, &section), 0);
    CHECK_CODE(sparsestream_source_read(f.source, &byte, 1), 1);
    CHECK_INT(byte, ==, 'x');
    sparsestream_source_free(f.source);
    CHECK_CODE(sparsestream_sink_to_callbacks(&sink_ops, NULL, &f.sink), 0);
    CHECK_CODE(sparsestream_sink_write(f.sink, &byte, 1), 1);
    sparsestream_sink_free(f.sink);
}

static int use_transfer(void *opaque, const struct sparsestream_stats *stats)
{
    struct sparsestream_stats own = { .size = sizeof own, .position = -7 };
    struct sparsestream_wait wait = { .size = sizeof wait, .fd = -7 };
    struct sparsestream_error error = { .size = sizeof error, .code = -7 };

    (void) stats;
    CHECK_CODE(sparsestream_transfer_run(f.transfer, 0), -EBUSY);
    CHECK_CODE(sparsestream_transfer_stats(f.transfer, &own), -EBUSY);
    CHECK_CODE(sparsestream_transfer_wait(f.transfer, &wait), -EBUSY);
    CHECK_CODE(sparsestream_transfer_error(f.transfer, &error), -EBUSY);
    CHECK_INT(own.position, ==, -7);
    CHECK_INT(wait.fd, ==, -7);
    CHECK_INT(error.code, ==, -7);
    /* Its ends are in use with it. */
    CHECK_CODE(sparsestream_sink_hole(f.sink, 1), -EBUSY);
    CHECK_CODE(sparsestream_source_skip(f.source, 1), -EBUSY);
    ++*(int *) opaque;
    return 0;
}

static void a_transfer_in_use_by_its_own_callback(void)
{
    int called = 0;

    set_up();
    sparsestream_transfer_free(f.transfer);
    f.transfer = new_transfer(f.source, f.sink,
                              TRANSFER_OPTIONS(.progress = use_transfer, .opaque = &called,
                                               .progress_bytes = 1));
    CHECK_CODE(sparsestream_transfer_run(f.transfer, 0), 0);
    CHECK_INT(called, >, 1);
    CHECK_CONTENT(&f.taken, &f.content);
    tear_down();
}

static void names_and_versions(void)
{
    const char *names[SPARSESTREAM_OPERATION_KEEP + 1];

    for (int i = 0; i <= SPARSESTREAM_OPERATION_KEEP; i++) {
        names[i] = sparsestream_operation_name(i);
        CHECK(strlen(names[i]) > 0);
        CHECK(strcmp(names[i], "unknown") != 0);
        for (int j = 0; j < i; j++)
            CHECK(strcmp(names[i], names[j]) != 0);
    }
    CHECK_STR(sparsestream_operation_name(SPARSESTREAM_OPERATION_WRITE), "write");
    CHECK_STR(sparsestream_operation_name(SPARSESTREAM_OPERATION_ALLOCATE), "allocate");
    CHECK_STR(sparsestream_operation_name(-1), "unknown");
    CHECK_STR(sparsestream_operation_name(SPARSESTREAM_OPERATION_KEEP + 1), "unknown");
    CHECK_STR(sparsestream_operation_name(INT32_MAX), "unknown");
    CHECK_STR(sparsestream_operation_name(INT32_MIN), "unknown");
    CHECK_STR(sparsestream_side_name(SPARSESTREAM_SIDE_NONE), "transfer");
    CHECK_STR(sparsestream_side_name(SPARSESTREAM_SIDE_SOURCE), "source");
    CHECK_STR(sparsestream_side_name(SPARSESTREAM_SIDE_SINK), "sink");
    CHECK_STR(sparsestream_side_name(-1), "unknown");
    CHECK_STR(sparsestream_side_name(3), "unknown");
    CHECK_STR(sparsestream_version(), SPARSESTREAM_VERSION);
    char version[32];
    snprintf(version, sizeof(version), "%d.%d.%d", SPARSESTREAM_VERSION_MAJOR, SPARSESTREAM_VERSION_MINOR,
        SPARSESTREAM_VERSION_PATCH);
    CHECK_STR(version, SPARSESTREAM_VERSION);
    CHECK_CODE(sparsestream_version_number(), SPARSESTREAM_VERSION_NUMBER);
}

/* In the preprocessor, where it is used. */
#if !SPARSESTREAM_CHECK_VERSION(SPARSESTREAM_VERSION_MAJOR, SPARSESTREAM_VERSION_MINOR, SPARSESTREAM_VERSION_PATCH)
#error this header is not of its own version
#endif
#if !SPARSESTREAM_CHECK_VERSION(0, 0, 999) || SPARSESTREAM_CHECK_VERSION(SPARSESTREAM_VERSION_MAJOR + 1, 0, 0)
#error versions are compared wrongly
#endif

static void *other_thread(void *opaque)
{
    (void) opaque;
    CHECK_STR(sparsestream_last_error(), "");
    CHECK_CODE(sparsestream_section_at(-1, 0, NULL), -EINVAL);
    CHECK_CONTAINS(sparsestream_last_error(), "NULL");
    return NULL;
}

static void a_thread_has_its_own_message(void)
{
    pthread_t thread;

    CHECK_STR(sparsestream_last_error(), "");
    set_message();
    REQUIRE((errno = pthread_create(&thread, NULL, other_thread, NULL)) == 0);
    pthread_join(thread, NULL);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));
}

static void only_failures_change_the_message(void)
{
    set_up();
    set_message();
    CHECK_CODE(sparsestream_holes_supported(f.fd), 1);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));
    f.from.fault_call = 1;
    f.from.fault = -EAGAIN;
    CHECK_CODE(sparsestream_transfer_run(f.transfer, 0), -EAGAIN);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));
    CHECK_CODE(sparsestream_transfer_run(f.transfer, 0), 0);
    CHECK_CONTAINS(sparsestream_last_error(), strerror(EBADF));
    tear_down();
}

TESTS(
    CASE(null_for_every_pointer),
    CASE(nothing_is_asked_of_no_bytes),
    CASE(no_descriptor),
    CASE(descriptors_that_cannot_be_used),
    CASE(numbers_out_of_range),
    CASE(sizes_of_blocks_and_buffers),
    CASE(unknown_flags_and_requests),
    CASE(structs_of_an_earlier_version),
    CASE(structs_of_a_later_version),
    CASE(sizes_that_are_no_structs),
    CASE(outputs_of_any_version),
    CASE(described_options_of_any_version),
    CASE(statistics_of_the_loops_have_any_size),
    CASE(a_handle_in_use_by_its_own_callback),
    CASE(a_transfer_in_use_by_its_own_callback),
    CASE(names_and_versions),
    CASE(a_thread_has_its_own_message),
    CASE(only_failures_change_the_message),
)
