/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The callbacks, in the loops of libvirt's client; and streams that the caller opened, in ours. */

#include "daemon.h"
#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

static const struct piece sparse[] = { DATA(300 * KiB), HOLE(2 * MiB - 300 * KiB), DATA(MiB), HOLE(3 * MiB),
                                       DATA(64 * KiB), HOLE(2 * MiB - 64 * KiB) };
#define SIZE (8 * MiB)

struct stage {
    struct daemon daemon;
    virStorageVolPtr volume;
    virStreamPtr stream;
    int image, volume_fd;
};

/* A sparse image, a volume of its size, and a stream. */
static void set_up(struct stage *stage, bool filled)
{
    stage->image = file_new("image");
    daemon_start(&stage->daemon);
    stage->volume = volume_new(&stage->daemon, "v", SIZE);
    stage->volume_fd = volume_file(&stage->daemon, "v");
    file_lay_out(filled ? stage->volume_fd : stage->image, 0, sparse, COUNT(sparse), 1);
    stage->stream = virStreamNew(stage->daemon.connection, 0);
    REQUIRE(stage->stream != NULL);
}

static void tear_down(struct stage *stage)
{
    virStreamFree(stage->stream);
    virStorageVolFree(stage->volume);
    close(stage->volume_fd);
    close(stage->image);
    daemon_stop(&stage->daemon);
}

static void sparse_send_all(void)
{
    struct stage stage;
    struct sparsestream_source *source;

    set_up(&stage, false);
    source = fd_source(stage.image);
    CHECK_INT(virStorageVolUpload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM), ==, 0);
    CHECK_INT(virStreamSparseSendAll(stage.stream, sparsestream_libvirt_source_read,
                                     sparsestream_libvirt_source_section, sparsestream_libvirt_source_skip, source),
              ==, 0);
    CHECK_INT(virStreamFinish(stage.stream), ==, 0);
    CHECK_CODE(sparsestream_source_finish(source), 0);
    CHECK_SAME(stage.image, 0, stage.volume_fd, 0, SIZE, 0);
    sparsestream_source_free(source);
    tear_down(&stage);
}

static void send_all_reads_holes_as_zeros(void)
{
    struct stage stage;
    struct sparsestream_source *source;

    set_up(&stage, false);
    source = fd_source(stage.image);
    CHECK_INT(virStorageVolUpload(stage.volume, stage.stream, 0, 0, 0), ==, 0);
    CHECK_INT(virStreamSendAll(stage.stream, sparsestream_libvirt_source_read, source), ==, 0);
    CHECK_INT(virStreamFinish(stage.stream), ==, 0);
    CHECK_SAME(stage.image, 0, stage.volume_fd, 0, SIZE, SIZE);
    sparsestream_source_free(source);
    tear_down(&stage);
}

/* A pipe in non-blocking mode that is filled later: the callback waits for it. */
static void *fill_later(void *opaque)
{
    static unsigned char bytes[4096];
    const int *fd = opaque;

    for (int64_t at = 0; at < MiB; at += (int64_t) sizeof(bytes)) {
        if (at % (256 * KiB) == 0)
            usleep(20000);
        pattern_fill(bytes, sizeof(bytes), 1, at);
        if (write(*fd, bytes, sizeof(bytes)) != (ssize_t) sizeof(bytes))
            break;
    }
    close(*fd);
    return opaque;
}

static void sparse_send_all_from_nonblocking_pipe(void)
{
    struct stage stage;
    struct sparsestream_source *source;
    pthread_t thread;
    int ends[2];

    set_up(&stage, false);
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0 && fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    source = fd_source(ends[0]);
    REQUIRE(pthread_create(&thread, NULL, fill_later, &ends[1]) == 0);
    CHECK_INT(virStorageVolUpload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM), ==, 0);
    CHECK_INT(virStreamSparseSendAll(stage.stream, sparsestream_libvirt_source_read,
                                     sparsestream_libvirt_source_section, sparsestream_libvirt_source_skip, source),
              ==, 0);
    CHECK_INT(virStreamFinish(stage.stream), ==, 0);
    pthread_join(thread, NULL);
    CHECK_INT(file_differs_from_pattern(stage.volume_fd, 0, MiB, 1, 0), ==, -1);
    CHECK_INT(file_size(stage.volume_fd), ==, SIZE);
    sparsestream_source_free(source);
    close(ends[0]);
    tear_down(&stage);
}

/* libvirt reports the errno of a callback, and aborts the stream. */
static void failing_source_gives_its_errno_to_libvirt(void)
{
    static const struct piece data[] = { DATA(SIZE) };
    struct content content = { .pieces = NULL };
    struct end end = { .from = &content, .fault_call = 9, .fault = -EMEDIUMTYPE, .fault_stays = true };
    struct stage stage;
    struct sparsestream_source *source;

    set_up(&stage, false);
    content_lay_out(&content, data, COUNT(data), 1);
    source = end_source(&end);
    CHECK_INT(virStorageVolUpload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM), ==, 0);
    CHECK_INT(virStreamSparseSendAll(stage.stream, sparsestream_libvirt_source_read,
                                     sparsestream_libvirt_source_section, sparsestream_libvirt_source_skip, source),
              ==, -1);
    CHECK_INT(sparsestream_libvirt_errno(virGetLastError()), ==, EMEDIUMTYPE);
    sparsestream_source_free(source);
    content_free(&content);
    tear_down(&stage);
}

static void sparse_recv_all(void)
{
    struct stage stage;
    struct sparsestream_sink *sink;

    set_up(&stage, true);
    sink = fd_sink(stage.image);
    CHECK_INT(virStorageVolDownload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM), ==, 0);
    CHECK_INT(virStreamSparseRecvAll(stage.stream, sparsestream_libvirt_sink_write, sparsestream_libvirt_sink_hole,
                                     sink),
              ==, 0);
    CHECK_INT(virStreamFinish(stage.stream), ==, 0);
    CHECK_CODE(sparsestream_sink_finish(sink), 0);
    CHECK_INT(file_size(stage.image), ==, SIZE);
    CHECK_SAME(stage.volume_fd, 0, stage.image, 0, SIZE, 0);
    sparsestream_sink_free(sink);
    tear_down(&stage);
}

/* A sink that makes no holes gets zeros. */
static void sparse_recv_all_into_dense_sink(void)
{
    struct content taken = { .pieces = NULL };
    struct end end = { .to = &taken };
    struct stage stage;
    struct sparsestream_sink *sink = NULL;

    set_up(&stage, true);
    CHECK_CODE(sparsestream_sink_to_callbacks(&end_dense_sink_ops, &end, &sink), 0);
    CHECK_INT(virStorageVolDownload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM), ==, 0);
    CHECK_INT(virStreamSparseRecvAll(stage.stream, sparsestream_libvirt_sink_write, sparsestream_libvirt_sink_hole,
                                     sink),
              ==, 0);
    CHECK_INT(virStreamFinish(stage.stream), ==, 0);
    CHECK_CODE(sparsestream_sink_finish(sink), 0);
    CHECK_INT(taken.length, ==, SIZE);
    file_write(stage.image, 0, taken.bytes, taken.length);
    CHECK_SAME(stage.volume_fd, 0, stage.image, 0, SIZE, SIZE);
    sparsestream_sink_free(sink);
    content_free(&taken);
    tear_down(&stage);
}

static void failing_sink_gives_its_errno_to_libvirt(void)
{
    struct content taken = { .pieces = NULL };
    struct end end = { .to = &taken, .fault_call = 3, .fault = -ENOSPC, .fault_stays = true };
    struct stage stage;
    struct sparsestream_sink *sink;

    set_up(&stage, true);
    sink = end_sink(&end);
    CHECK_INT(virStorageVolDownload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM), ==, 0);
    CHECK_INT(virStreamSparseRecvAll(stage.stream, sparsestream_libvirt_sink_write, sparsestream_libvirt_sink_hole,
                                     sink),
              ==, -1);
    CHECK_INT(sparsestream_libvirt_errno(virGetLastError()), ==, ENOSPC);
    sparsestream_sink_free(sink);
    content_free(&taken);
    tear_down(&stage);
}

/* Ours. */

static void our_loop_sends(void)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_stats stats = { .size = sizeof(stats) };
    struct stage stage;
    struct sparsestream_source *source;

    set_up(&stage, false);
    source = fd_source(stage.image);
    CHECK_INT(virStorageVolUpload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM), ==, 0);
    CHECK_RESULT(sparsestream_libvirt_send(source, stage.stream, NULL, &stats, &failure), 0, &failure);
    CHECK_INT(stats.hole_sections, ==, 3);
    CHECK_SAME(stage.image, 0, stage.volume_fd, 0, SIZE, 0);
    sparsestream_source_free(source);
    tear_down(&stage);
}

static int64_t never_ready(void *opaque, void *buffer, size_t length)
{
    (void) opaque;
    (void) buffer;
    (void) length;
    return -EAGAIN;
}

/* A source that is not ready, and names nothing that could be waited for. */
static void source_that_cannot_be_waited_for_fails(void)
{
    static const struct sparsestream_source_ops ops = { .size = sizeof(ops), .read = never_ready };
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_source *source = NULL;
    struct stage stage;

    set_up(&stage, false);
    CHECK_CODE(sparsestream_source_from_callbacks(&ops, NULL, &source), 0);
    CHECK_INT(virStorageVolUpload(stage.volume, stage.stream, 0, 0, 0), ==, 0);
    CHECK_RESULT(sparsestream_libvirt_send(source, stage.stream, NULL, NULL, &failure), -EAGAIN, &failure);
    CHECK_INT(failure.code, ==, EAGAIN);
    CHECK_CONTAINS(failure.message, "not ready");
    sparsestream_source_free(source);
    tear_down(&stage);
}

static void our_loop_receives(void)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct sparsestream_stats stats = { .size = sizeof(stats) };
    struct stage stage;
    struct sparsestream_sink *sink;

    set_up(&stage, true);
    sink = fd_sink(stage.image);
    CHECK_INT(virStorageVolDownload(stage.volume, stage.stream, 0, 0, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM), ==, 0);
    CHECK_RESULT(sparsestream_libvirt_recv(stage.stream, sink, NULL, &stats, &failure), 0, &failure);
    CHECK_INT(stats.hole_sections, ==, 3);
    CHECK_SAME(stage.volume_fd, 0, stage.image, 0, SIZE, 0);
    sparsestream_sink_free(sink);
    tear_down(&stage);
}

/* libvirt's own words survive the abort of the stream. */
static void failure_has_the_words_of_libvirt(void)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct stage stage;
    struct sparsestream_source *source;

    set_up(&stage, false);
    source = fd_source(stage.image);
    /* No upload was started on the stream. */
    CHECK_RESULT(sparsestream_libvirt_send(source, stage.stream, NULL, NULL, &failure), -EOPNOTSUPP, &failure);
    CHECK_INT(failure.libvirt_code, ==, VIR_ERR_NO_SUPPORT);
    CHECK_INT(failure.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_CONTAINS(failure.message, "virStreamSend");
    sparsestream_source_free(source);
    tear_down(&stage);
}

static void stream_in_nonblocking_mode_is_einval(void)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    struct stage stage;
    struct sparsestream_sink *sink;
    virStreamPtr stream;

    set_up(&stage, true);
    sink = fd_sink(stage.image);
    stream = virStreamNew(stage.daemon.connection, VIR_STREAM_NONBLOCK);
    CHECK_INT(virStorageVolDownload(stage.volume, stream, 0, 0, 0), ==, 0);
    CHECK_RESULT(sparsestream_libvirt_recv(stream, sink, NULL, NULL, &failure), -EINVAL, &failure);
    CHECK_CONTAINS(failure.message, "non-blocking");
    virStreamFree(stream);
    sparsestream_sink_free(sink);
    tear_down(&stage);
}

static void arguments_are_checked(void)
{
    struct {
        struct sparsestream_libvirt_options options;
        uint64_t later;
    } longer = { { .size = sizeof(longer) }, 1 };
    struct sparsestream_libvirt_failure failure = FAILURE, no_size = { .size = 0 };
    struct sparsestream_source *source;
    struct stage stage;

    set_up(&stage, false);
    source = fd_source(stage.image);
    CHECK_RESULT(sparsestream_libvirt_send(source, NULL, NULL, NULL, &failure), -EINVAL, &failure);
    CHECK_RESULT(sparsestream_libvirt_send(NULL, stage.stream, NULL, NULL, &failure), -EINVAL, &failure);
    CHECK_RESULT(sparsestream_libvirt_send(source, stage.stream, LIBVIRT_OPTIONS(.flags = 4), NULL, &failure), -EINVAL,
                 &failure);
    CHECK_CONTAINS(failure.message, "options.flags is 0x4, but may have ");
    CHECK_RESULT(sparsestream_libvirt_send(source, stage.stream, LIBVIRT_OPTIONS(.holes = 1), NULL, &failure), -EINVAL,
                 &failure);
    CHECK_CONTAINS(failure.message, "options.holes is 1, but must be SPARSESTREAM_LIBVIRT_HOLES_AUTO (0)");
    CHECK_RESULT(sparsestream_libvirt_send(source, stage.stream, &longer.options, NULL, &failure), -E2BIG, &failure);
    CHECK_CONTAINS(failure.message, "options has a byte that is not 0 at ");
    CHECK_INT(sparsestream_libvirt_send(source, stage.stream, NULL, NULL, &no_size), ==, -EINVAL);
    CHECK_RESULT(sparsestream_libvirt_upload(NULL, 0, 0, source, NULL, NULL, &failure), -EINVAL, &failure);
    CHECK_RESULT(sparsestream_libvirt_upload(stage.volume, 0, 0, NULL, NULL, NULL, &failure), -EINVAL, &failure);
    CHECK_RESULT(sparsestream_libvirt_upload(stage.volume, 0, 0, source, LIBVIRT_OPTIONS(.holes = 4), NULL, &failure),
                 -EINVAL, &failure);
    CHECK_CONTAINS(failure.message, "options.holes is 4, but must be ");
    sparsestream_source_free(source);
    tear_down(&stage);
}

/* No error of libvirt makes a caller try again what has failed for good. */
static void errno_of_libvirt_errors(void)
{
    static const struct {
        virError error;
        int expected;
    } cases[] = {
        { { .code = VIR_ERR_OK }, 0 },
        { { .code = VIR_ERR_SYSTEM_ERROR, .int1 = ENOSPC }, ENOSPC },
        { { .code = VIR_ERR_SYSTEM_ERROR, .int1 = EAGAIN }, EIO },
        { { .code = VIR_ERR_SYSTEM_ERROR, .int1 = EINTR }, EIO },
        { { .code = VIR_ERR_SYSTEM_ERROR, .int1 = 0 }, EIO },
        { { .code = VIR_ERR_SYSTEM_ERROR, .int1 = -1 }, EIO },
        { { .code = VIR_ERR_SYSTEM_ERROR, .int1 = 4096 }, EIO },
        { { .code = VIR_ERR_INTERNAL_ERROR, .domain = VIR_FROM_RPC }, ECONNRESET },
        { { .code = VIR_ERR_INTERNAL_ERROR, .domain = VIR_FROM_STORAGE }, EIO },
        { { .code = VIR_ERR_NO_STORAGE_VOL }, ENOENT },
        { { .code = VIR_ERR_ACCESS_DENIED }, EACCES },
        { { .code = VIR_ERR_NO_SUPPORT }, EOPNOTSUPP },
        { { .code = 9999 }, EIO },
    };

    CHECK_INT(sparsestream_libvirt_errno(NULL), ==, 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        context("code %d, %d", cases[i].error.code, cases[i].error.int1);
        CHECK_INT(sparsestream_libvirt_errno(&cases[i].error), ==, cases[i].expected);
    }
    for (int code = 1; code < 200; code++) {
        const virError error = { .code = code, .int1 = EAGAIN };
        const int got = sparsestream_libvirt_errno(&error);

        context("code %d", code);
        CHECK(got > 0 && got != EAGAIN && got != EINTR);
    }
}

DAEMON_TESTS(
    CASE(sparse_send_all),
    CASE(send_all_reads_holes_as_zeros),
    CASE(sparse_send_all_from_nonblocking_pipe),
    CASE(failing_source_gives_its_errno_to_libvirt),
    CASE(sparse_recv_all),
    CASE(sparse_recv_all_into_dense_sink),
    CASE(failing_sink_gives_its_errno_to_libvirt),
    CASE(our_loop_sends),
    CASE(source_that_cannot_be_waited_for_fails),
    CASE(our_loop_receives),
    CASE(failure_has_the_words_of_libvirt),
    CASE(stream_in_nonblocking_mode_is_einval),
    CASE(arguments_are_checked),
    CASE(errno_of_libvirt_errors),
)
