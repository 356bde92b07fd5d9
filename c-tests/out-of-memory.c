/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Allocations that fail, each one in turn: a call returns -ENOMEM, or does without the memory. Nothing ends the process.
 *
 * The library's allocator calls the C library's functions, which the ones of this program take the place of.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* glibc's own, under names that nothing takes the place of. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

/* Which allocations fail: the one after `left` others, and all later ones too if it `stays`. -1: none. */
static _Thread_local long left = -1;
static _Thread_local bool stays, failed;

static bool fails(void)
{
    if (left < 0 || (left > 0 && left-- > 0))
        return false;
    if (!stays)
        left = -1;
    failed = true;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    return fails() ? NULL : __libc_realloc(memory, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    if (fails())
        return ENOMEM;
    *memory = __libc_memalign(alignment, size);
    return *memory == NULL ? ENOMEM : 0;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : __libc_memalign(alignment, size);
}

struct files {
    int in, out, wire;
};

static const struct piece pieces[] = { DATA(70000), HOLE(400000), DATA(1300000), HOLE(4096) };

static struct files new_files(void)
{
    struct files files = { .in = file_new("in"), .out = file_new("out"), .wire = file_new("wire") };

    file_lay_out(files.in, 0, pieces, COUNT(pieces), 1);
    return files;
}

static void close_files(const struct files *files)
{
    close(files->in);
    close(files->out);
    close(files->wire);
}

static void check_copy(const struct files *files)
{
    CHECK_INT(file_size(files->out), ==, file_size(files->in));
    CHECK_INT(file_differs(files->in, 0, files->out, 0, file_size(files->in)), ==, -1);
}

/*
 * Runs it with each allocation failing in turn, alone or with all later ones, until there is none left that could.
 * `check` is called after each success.
 */
static void sweep(int (*run)(struct files *files), void (*check)(const struct files *files), struct files *files)
{
    for (int way = 0; way < 2; way++) {
        bool done = false;

        for (long nth = 0; !done; nth++) {
            int r;

            context("allocation %ld%s", nth + 1, way == 1 ? " and all later ones" : "");
            failed = false;
            stays = way == 1;
            left = nth;
            r = run(files);
            left = -1;
            done = !failed;
            if (done || r == 0)
                CHECK_CODE(r, 0);
            else
                CHECK_CODE(r, -ENOMEM);
            if (r == 0 && check != NULL)
                check(files);
            /* Otherwise nothing was tested. */
            if (done)
                CHECK_INT(nth, >, 0);
            REQUIRE(harness_failures() == 0);
        }
    }
}

/* Runs something of the test itself without a failure. */
#define UNHARMED(...)           \
    do {                        \
        const long left_ = left; \
        left = -1;              \
        __VA_ARGS__;            \
        left = left_;           \
    } while (0)

static int move(struct sparsestream_source *source, struct sparsestream_sink *sink,
                const struct sparsestream_transfer_options *options)
{
    struct sparsestream_transfer *transfer = NULL;
    int r = sparsestream_transfer_new(source, sink, options, &transfer);

    if (r == 0)
        r = sparsestream_transfer_run(transfer, 0);
    sparsestream_transfer_free(transfer);
    return r;
}

static int copy_file(struct files *files)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    int r;

    REQUIRE(ftruncate(files->out, 0) == 0);
    r = sparsestream_source_from_fd(files->in, NULL, &source);
    if (r == 0)
        r = sparsestream_sink_to_fd(files->out, NULL, &sink);
    if (r == 0)
        r = move(source, sink, TRANSFER_OPTIONS(.flags = SPARSESTREAM_DETECT_ZEROES));
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return r;
}

static void a_copy_of_a_file(void)
{
    struct files files = new_files();

    sweep(copy_file, check_copy, &files);
    close_files(&files);
}

/* The comparison reads anywhere. */
static void check_buffered(const struct files *files)
{
    REQUIRE(fcntl(files->in, F_SETFL, 0) == 0 && fcntl(files->out, F_SETFL, 0) == 0);
    check_copy(files);
    REQUIRE(fcntl(files->in, F_SETFL, O_DIRECT) == 0 && fcntl(files->out, F_SETFL, O_DIRECT) == 0);
}

static void a_copy_with_several_requests_in_flight(void)
{
    struct files files = new_files();

    if (fcntl(files.in, F_SETFL, O_DIRECT) != 0 || fcntl(files.out, F_SETFL, O_DIRECT) != 0)
        skip("the file system has no O_DIRECT");
    sweep(copy_file, check_buffered, &files);
    close_files(&files);
}

static int copy_by_callbacks(struct files *files)
{
    static const struct piece layout[] = { DATA(70000), HOLE(400000), DATA(5) };
    struct content from = { 0 };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct end in = { .from = &from }, out = { 0 };
    bool wants_sink;
    int r;

    (void)files;
    UNHARMED(content_lay_out(&from, layout, COUNT(layout), 1));
    r = sparsestream_source_from_callbacks(&end_source_ops, &in, &source);
    wants_sink = r == 0;
    if (wants_sink)
        r = sparsestream_sink_to_callbacks(&end_sink_ops, &out, &sink);
    if (r == 0)
        r = move(source, sink, NULL);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    if (r == 0)
        CHECK_INT(out.taken, ==, 470005);
    /* Whatever failed, and wherever. */
    CHECK_INT(in.frees, ==, 1);
    CHECK_INT(out.frees, ==, wants_sink);
    content_free(&from);
    return r;
}

static void a_copy_by_callbacks(void)
{
    sweep(copy_by_callbacks, NULL, NULL);
}

static int copy_by_wire(struct files *files)
{
    struct sparsestream_source *source = NULL, *from = NULL;
    struct sparsestream_sink *sink = NULL, *to = NULL;
    int r = sparsestream_source_from_fd(files->in, NULL, &source);

    REQUIRE(ftruncate(files->out, 0) == 0);
    REQUIRE(ftruncate(files->wire, 0) == 0 && lseek(files->wire, 0, SEEK_SET) == 0);
    if (r == 0)
        r = sparsestream_sink_to_wire(files->wire, -1, NULL, &to);
    if (r == 0)
        r = move(source, to, NULL);
    REQUIRE(lseek(files->wire, 0, SEEK_SET) == 0);
    if (r == 0)
        r = sparsestream_source_from_wire(files->wire, -1, NULL, &from);
    if (r == 0)
        r = sparsestream_sink_to_fd(files->out, NULL, &sink);
    if (r == 0)
        r = move(from, sink, NULL);
    sparsestream_source_free(source);
    sparsestream_source_free(from);
    sparsestream_sink_free(to);
    sparsestream_sink_free(sink);
    return r;
}

static void a_copy_by_wire(void)
{
    struct files files = new_files();

    sweep(copy_by_wire, check_copy, &files);
    close_files(&files);
}

/* Both ends of a channel by turns on one thread. */
static int copy_by_channel(struct files *files)
{
    struct sparsestream_source *source = NULL, *channel_out = NULL;
    struct sparsestream_sink *sink = NULL, *channel_in = NULL;
    struct sparsestream_transfer *one = NULL, *other = NULL;
    int r = sparsestream_channel(NULL, &channel_in, &channel_out), first = 1, second = 1;

    REQUIRE(ftruncate(files->out, 0) == 0);
    if (r == 0)
        r = sparsestream_source_from_fd(files->in, NULL, &source);
    if (r == 0)
        r = sparsestream_sink_to_fd(files->out, NULL, &sink);
    if (r == 0)
        r = sparsestream_transfer_new(source, channel_in, NULL, &one);
    if (r == 0)
        r = sparsestream_transfer_new(channel_out, sink, NULL, &other);
    while (r == 0 && (first != 0 || second != 0)) {
        if (first != 0)
            first = sparsestream_transfer_run(one, 1 << 18);
        if (second != 0)
            second = sparsestream_transfer_run(other, 1 << 18);
        /* An end that is not ready waits for the other. */
        if (first < 0 && first != -EAGAIN)
            r = first;
        else if (second < 0 && second != -EAGAIN)
            r = second;
    }
    sparsestream_transfer_free(one);
    sparsestream_transfer_free(other);
    sparsestream_source_free(source);
    sparsestream_source_free(channel_out);
    sparsestream_sink_free(channel_in);
    sparsestream_sink_free(sink);
    return r;
}

static void a_copy_by_channel(void)
{
    struct files files = new_files();

    sweep(copy_by_channel, check_copy, &files);
    close_files(&files);
}

/* A medium whose requests are answered at once. */
static int describe(void *opaque, struct sparsestream_async_info *info)
{
    const struct files *files = opaque;

    info->total = file_size(files->in);
    return 0;
}

static int describe_sink(void *opaque, struct sparsestream_async_info *info)
{
    const struct files *files = opaque;

    info->total = file_size(files->out);
    info->flags = SPARSESTREAM_ASYNC_GROWS;
    return 0;
}

/* All of it is there until the end is finished. */
static char *memory;
static size_t memory_length;

static int take_memory(void *opaque, void *start, size_t length)
{
    (void)opaque;
    memory = start;
    memory_length = length;
    return 0;
}

static int read_memory(void *opaque)
{
    unsigned sum = 0;

    (void)opaque;
    for (size_t i = 0; i < memory_length; i += 4096)
        sum += (unsigned char)memory[i];
    memory_length = 0;
    return sum == UINT32_MAX ? -EIO : 0;
}

static void read_memory_again(void *opaque, int error)
{
    (void)error;
    read_memory(opaque);
}

static int read_or_write(void *opaque, struct sparsestream_request *request)
{
    const struct files *files = opaque;
    int64_t r = request->length;

    if (request->kind == SPARSESTREAM_REQUEST_READ)
        r = pread(files->in, request->buffer, (size_t)request->length, request->offset);
    else if (request->kind == SPARSESTREAM_REQUEST_WRITE)
        r = pwrite(files->out, request->buffer, (size_t)request->length, request->offset);
    return sparsestream_request_done(request, r < 0 ? -errno : r);
}

static int copy_by_requests(struct files *files)
{
    static const struct sparsestream_async_ops in = {
        .size = sizeof in,
        .describe = describe,
        .submit = read_or_write,
    };
    static const struct sparsestream_async_ops out = {
        .size = sizeof out,
        .describe = describe_sink,
        .submit = read_or_write,
        .memory = take_memory,
        .finish = read_memory,
        .abort = read_memory_again,
    };
    struct sparsestream_async_options options = { .size = sizeof options, .flags = 0 };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    int r;

    REQUIRE(ftruncate(files->out, 0) == 0);
    r = sparsestream_source_from_async(&in, files, &options, &source);
    options.flags = SPARSESTREAM_SYNC;
    if (r == 0)
        r = sparsestream_sink_to_async(&out, files, &options, &sink);
    if (r == 0)
        r = move(source, sink, NULL);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return r;
}

static void a_copy_by_requests(void)
{
    struct files files = new_files();

    sweep(copy_by_requests, check_copy, &files);
    close_files(&files);
}

static int digest(struct files *files)
{
    static uint8_t known[32];
    uint8_t found[32];
    const int r = sparsestream_digest(files->in, NULL, found);

    if (r == 0 && memcmp(known, (const uint8_t[32]){ 0 }, 32) == 0)
        memcpy(known, found, 32);
    if (r == 0)
        CHECK_BYTES(found, known, 32);
    return r;
}

static void a_digest(void)
{
    struct files files = new_files();

    sweep(digest, NULL, &files);
    close_files(&files);
}

TESTS(
    CASE(a_copy_of_a_file),
    CASE(a_copy_with_several_requests_in_flight),
    CASE(a_copy_by_callbacks),
    CASE(a_copy_by_wire),
    CASE(a_copy_by_channel),
    CASE(a_copy_by_requests),
    CASE(a_digest),
)
