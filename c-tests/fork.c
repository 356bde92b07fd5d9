/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fork(2) with handles open: the child has copies of them over the same open files. It may free its copies,
 * and then the parent's continue as if nothing had been, but for what the two share: a file's position, which
 * moves while a mapped file is walked, and the bytes that a pipe or a socket gives only once.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct piece pieces[] = { DATA(400000), HOLE(400000), DATA(400000), HOLE(400000), DATA(7) };

/* The child's exit status; it runs no harness. */
static int in_child(int (*run)(void *), void *argument)
{
    const pid_t child = fork();
    int status = 0;

    REQUIRE(child >= 0);
    if (child == 0)
        _exit(run(argument));
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

struct handles {
    int in, out;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
};

static struct handles half_way(void)
{
    struct handles handles = { .in = file_new("in"), .out = file_new("out") };

    file_lay_out(handles.in, 0, pieces, COUNT(pieces), 1);
    file_fill(handles.out, 0, 1000000, 2);
    REQUIRE(lseek(handles.in, 12345, SEEK_SET) == 12345);
    handles.source = fd_source(handles.in);
    handles.sink = fd_sink(handles.out);
    handles.transfer = new_transfer(handles.source, handles.sink, TRANSFER_OPTIONS(.buffer_size = 65536));
    REQUIRE(sparsestream_transfer_run(handles.transfer, 200000) == 1);
    return handles;
}

static void finish(struct handles *handles)
{
    int r;

    while ((r = sparsestream_transfer_run(handles->transfer, 100000)) == 1)
        ;
    CHECK_CODE(r, 0);
    CHECK_INT(file_differs(handles->in, 0, handles->out, 0, file_size(handles->in)), ==, -1);
    CHECK_INT(file_position(handles->in), ==, 12345);
    sparsestream_transfer_free(handles->transfer);
    sparsestream_source_free(handles->source);
    sparsestream_sink_free(handles->sink);
    close(handles->in);
    close(handles->out);
}

static int free_all(void *opaque)
{
    struct handles *handles = opaque;

    sparsestream_transfer_free(handles->transfer);
    sparsestream_source_free(handles->source);
    sparsestream_sink_free(handles->sink);
    close(handles->in);
    close(handles->out);
    return 0;
}

/* The walk sets the position before each use, so that a position which the child put back does not matter. */
static void a_child_that_frees_its_copies_disturbs_nothing(void)
{
    struct handles handles = half_way();

    CHECK_INT(in_child(free_all, &handles), ==, 0);
    finish(&handles);
}

static int do_nothing(void *opaque)
{
    (void) opaque;
    return 0;
}

static void nor_does_one_that_leaves_them(void)
{
    struct handles handles = half_way();

    CHECK_INT(in_child(do_nothing, &handles), ==, 0);
    finish(&handles);
}

/* The child need not free, and may continue by itself if both ends are files and the parent waits. */
static int run_to_the_end(void *opaque)
{
    struct handles *handles = opaque;

    return sparsestream_transfer_run(handles->transfer, 0) == 0 ? free_all(handles) : 1;
}

static void a_child_may_run_its_copy_while_the_parent_waits(void)
{
    struct handles handles = half_way();

    CHECK_INT(in_child(run_to_the_end, &handles), ==, 0);
    CHECK_INT(file_differs(handles.in, 0, handles.out, 0, file_size(handles.in)), ==, -1);
    /* And the parent's copy then does the same once more. */
    finish(&handles);
}

/* A free in the child puts the shared position back: it must come before the parent continues, or after it is done. */
static void the_position_is_shared(void)
{
    struct handles handles = half_way();
    const int64_t before = file_position(handles.in);

    CHECK_INT(before, !=, 12345);
    CHECK_INT(in_child(free_all, &handles), ==, 0);
    CHECK_INT(file_position(handles.in), ==, 12345);
    finish(&handles);
}

/* A cancel in the child is the child's. */
static int cancel_and_run(void *opaque)
{
    struct handles *handles = opaque;

    if (sparsestream_transfer_cancel(handles->transfer) != 0)
        return 1;
    return sparsestream_transfer_run(handles->transfer, 1) == -ECANCELED ? free_all(handles) : 2;
}

static void a_cancel_stays_in_its_process(void)
{
    struct handles handles = half_way();

    CHECK_INT(in_child(cancel_and_run, &handles), ==, 0);
    finish(&handles);
}

/* The abort of a stream whose copy the child frees speaks to the same peer: callbacks must know their process. */
struct spoken {
    int aborts;
    int frees;
};

static int64_t spoken_recv(void *opaque, void *buffer, size_t length)
{
    (void) opaque;
    memset(buffer, 'x', length);
    return (int64_t) length;
}

static void spoken_abort(void *opaque, int error)
{
    (void) error;
    ((struct spoken *) opaque)->aborts++;
}

static void spoken_free(void *opaque)
{
    ((struct spoken *) opaque)->frees++;
}

static const struct sparsestream_stream_ops spoken_ops = {
    .size = sizeof(struct sparsestream_stream_ops),
    .free = spoken_free,
    .recv = spoken_recv,
    .abort = spoken_abort,
};

static int free_source(void *source)
{
    sparsestream_source_free(source);
    return 0;
}

static void the_callbacks_of_a_copy_run_in_the_child(void)
{
    struct spoken *spoken = mmap(NULL, sizeof(*spoken), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sparsestream_source *source;
    unsigned char bytes[10];

    REQUIRE(spoken != MAP_FAILED);
    REQUIRE(sparsestream_source_from_stream(&spoken_ops, spoken, &source) == 0);
    CHECK_CODE(sparsestream_source_read(source, bytes, sizeof(bytes)), sizeof(bytes));
    CHECK_INT(in_child(free_source, source), ==, 0);
    CHECK_INT(spoken->aborts, ==, 1);
    CHECK_INT(spoken->frees, ==, 1);
    CHECK_CODE(sparsestream_source_read(source, bytes, sizeof(bytes)), sizeof(bytes));
    sparsestream_source_free(source);
    CHECK_INT(spoken->aborts, ==, 2);
    CHECK_INT(spoken->frees, ==, 2);
    munmap(spoken, sizeof(*spoken));
}

/* Messages are a process's own. */
static int say_something(void *opaque)
{
    (void) opaque;
    return sparsestream_holes_supported(-1) == -EBADF && strstr(sparsestream_last_error(), "descriptor") != NULL ? 0 : 1;
}

static void the_message_is_kept(void)
{
    char before[256];

    CHECK_CODE(sparsestream_transfer_run(NULL, 0), -EINVAL);
    strncpy(before, sparsestream_last_error(), sizeof(before) - 1);
    before[sizeof(before) - 1] = '\0';
    CHECK_INT(in_child(say_something, NULL), ==, 0);
    CHECK_STR(sparsestream_last_error(), before);
}

TESTS(
    CASE(a_child_that_frees_its_copies_disturbs_nothing),
    CASE(nor_does_one_that_leaves_them),
    CASE(a_child_may_run_its_copy_while_the_parent_waits),
    CASE(the_position_is_shared),
    CASE(a_cancel_stays_in_its_process),
    CASE(the_callbacks_of_a_copy_run_in_the_child),
    CASE(the_message_is_kept))
