/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A range of a storage volume in one call. */

#include "internal.h"

#include <errno.h>
#include <string.h>

struct volume {
    virStorageVolPtr vol;
    virConnectPtr connection;
    /* A file, which the daemon cuts at each hole. */
    bool file;
    /* Bytes of the file or device; not those that a guest sees in an image of another format. */
    int64_t size;
    int64_t allocation;
    /* Whether both are the same. */
    bool raw;
};

/* Returns 0 or a negative errno. */
static int examine(virStorageVolPtr vol, struct volume *volume, failure_t *failure)
{
    virStorageVolInfo stored, physical;

    memset(volume, 0, sizeof(*volume));
    volume->vol = vol;
    volume->connection = virStorageVolGetConnect(vol);
    if (volume->connection == NULL || virStorageVolGetInfo(vol, &stored) < 0
        || virStorageVolGetInfoFlags(vol, &physical, VIR_STORAGE_VOL_GET_PHYSICAL) < 0)
        return error_take(failure);
    if (physical.allocation > INT64_MAX || stored.allocation > INT64_MAX)
        return error_set(failure, -EOVERFLOW, "the volume's size is not an offset");
    volume->file = stored.type == VIR_STORAGE_VOL_FILE;
    volume->size = (int64_t) physical.allocation;
    volume->allocation = (int64_t) stored.allocation;
    volume->raw = stored.capacity == physical.allocation;
    return 0;
}

/* Checks the range and fills in a length of 0. */
static int check_range(const struct volume *volume, int64_t offset, int64_t *length, failure_t *failure)
{
    if (offset < 0 || *length < 0 || *length > INT64_MAX - offset)
        return error_set(failure, -EINVAL, "a range of %lld bytes at %lld", (long long) *length, (long long) offset);
    if (*length == 0 && offset <= volume->size)
        *length = volume->size - offset;
    else if (offset > volume->size || (volume->raw && *length > volume->size - offset))
        return error_set(failure, -ENOSPC, "the range of %lld bytes at %lld ends beyond the volume's end at %lld",
                         (long long) *length, (long long) offset, (long long) volume->size);
    return 0;
}

/* One stream over a range of the volume. */
struct range {
    virStreamPtr stream;
    struct lv_stream lv;
};

static int range_open(const struct volume *volume, struct range *range, failure_t *failure)
{
    range->stream = virStreamNew(volume->connection, 0);
    if (range->stream == NULL)
        return error_take(failure);
    lv_stream_init(&range->lv, range->stream, failure);
    return 0;
}

static void range_close(struct range *range)
{
    virStreamFree(range->stream);
}

/* Starts an upload, or a download, on the stream. */
static int range_start(const struct volume *volume, struct range *range, bool upload, int64_t offset, int64_t length,
                       bool sparse)
{
    struct sigpipe saved;
    int r;

    sigpipe_block(&saved);
    if (upload)
        r = virStorageVolUpload(volume->vol, range->stream, (unsigned long long) offset, (unsigned long long) length,
                                sparse ? VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM : 0);
    else
        r = virStorageVolDownload(volume->vol, range->stream, (unsigned long long) offset, (unsigned long long) length,
                                  sparse ? VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM : 0);
    sigpipe_restore(&saved);
    range->lv.length = length;
    return r < 0 ? error_take(range->lv.failure) : 0;
}

/* Puts the daemon's bytes of a small range into `buffer`. */
static int read_back(const struct volume *volume, int64_t offset, unsigned char *buffer, size_t length,
                     failure_t *failure)
{
    struct range range;
    size_t got = 0;
    int r;

    r = range_open(volume, &range, failure);
    if (r < 0)
        return r;
    r = range_start(volume, &range, false, offset, (int64_t) length, false);
    while (r == 0 && got < length) {
        const int64_t count = lv_stream_ops.recv(&range.lv, buffer + got, length - got);

        if (count < 0)
            r = count == SPARSESTREAM_AT_HOLE ? error_set(failure, -EPROTO, "a hole in a stream that has none")
                                              : (int) count;
        else
            got += (size_t) count;
    }
    if (r == 0)
        r = lv_stream_ops.finish(&range.lv);
    else
        lv_stream_abort(&range.lv);
    range_close(&range);
    return r;
}

static int check_back(const struct volume *volume, int64_t offset, const unsigned char *sent, size_t length,
                      failure_t *failure)
{
    unsigned char buffer[TAIL_SIZE];
    const int r = read_back(volume, offset, buffer, length, failure);

    if (r < 0)
        return r;
    if (memcmp(buffer, sent, length) != 0)
        return error_set(failure, -EIO,
                         "the daemon reported success, but %zu bytes at %lld of the volume are not those that were sent",
                         length, (long long) offset);
    return 0;
}

/* The zero under the first byte of the first hole. */
static int write_zero(const struct volume *volume, int64_t offset, failure_t *failure)
{
    static const unsigned char zero;
    struct range range;
    int r;

    r = range_open(volume, &range, failure);
    if (r < 0)
        return r;
    r = range_start(volume, &range, true, offset, 1, false);
    if (r == 0) {
        const int64_t sent = lv_stream_ops.send(&range.lv, &zero, 1);

        r = sent < 0 ? (int) sent : lv_stream_ops.finish(&range.lv);
    }
    lv_stream_abort(&range.lv);
    range_close(&range);
    return r < 0 ? r : check_back(volume, offset, &zero, 1, failure);
}

static int verify(const struct volume *before, int64_t offset, int64_t length, const struct lv_stream *sent,
                  failure_t *failure)
{
    const int64_t end = offset + length;
    struct volume after;
    int r;

    r = examine(before->vol, &after, failure);
    if (r == 0 && before->file && after.size != (before->size > end ? before->size : end))
        r = error_set(failure, -EIO, "the daemon reported success, but the volume's file has %lld bytes and not %lld",
                      (long long) after.size, (long long) (before->size > end ? before->size : end));
    if (r == 0 && sent->tail_length > 0)
        r = check_back(before, offset + sent->tail_at, sent->tail, sent->tail_length, failure);
    return r;
}

/* How holes are sent: as the caller asked, with what the daemon does to the file in mind. */
static int choose_holes(const struct volume *volume, int64_t end, const options_t *options)
{
    if (volume->file && end < volume->size)
        return SPARSESTREAM_LIBVIRT_HOLES_ZEROS;
    if (options->holes != SPARSESTREAM_LIBVIRT_HOLES_AUTO)
        return options->holes;
    /* A small file may be stored in its inode, without a block. */
    if (!volume->file || (volume->allocation == 0 && volume->size > 4096) || volume->size == 0)
        return SPARSESTREAM_LIBVIRT_HOLES_TRUST;
    return SPARSESTREAM_LIBVIRT_HOLES_SPLIT;
}

static int send_range(const struct volume *volume, int64_t offset, int64_t length, struct sparsestream_source *source,
                      const options_t *options, struct sparsestream_transfer_options *transfer,
                      struct sparsestream_stats *stats, failure_t *failure)
{
    const int holes = choose_holes(volume, offset + length, options);
    const bool verified = (options->flags & SPARSESTREAM_LIBVIRT_NO_VERIFY) == 0;
    struct range range;
    int r;

    if (holes == SPARSESTREAM_LIBVIRT_HOLES_ZEROS) {
        if (transfer->sparse == SPARSESTREAM_SPARSE_REQUIRED)
            return error_set(failure, -EOPNOTSUPP, "holes must be sent as zeros to this range of the volume");
        transfer->sparse = SPARSESTREAM_SPARSE_NEVER;
    }
    r = range_open(volume, &range, failure);
    if (r < 0)
        return r;
    r = range_start(volume, &range, true, offset, length, transfer->sparse != SPARSESTREAM_SPARSE_NEVER);
    if (r == 0) {
        range.lv.split = holes == SPARSESTREAM_LIBVIRT_HOLES_SPLIT ? SPLIT_FIRST : SPLIT_NEVER;
        range.lv.keep_tail = verified;
        r = stream_send(&range.lv, source, transfer, stats);
    }
    lv_stream_abort(&range.lv);
    range_close(&range);
    if (r == 0 && range.lv.split_at >= 0)
        r = write_zero(volume, offset + range.lv.split_at, failure);
    if (r == 0 && verified)
        r = verify(volume, offset, length, &range.lv, failure);
    return r;
}

/* What both directions check first. */
static int begin(virStorageVolPtr vol, const void *end, const options_t *given, uint64_t flags, options_t *options,
                 struct sparsestream_transfer_options *transfer, failure_t *failure)
{
    int r;

    error_clear(failure);
    if (vol == NULL || end == NULL)
        return error_set(failure, -EINVAL, "an argument is NULL");
    r = options_read(given, flags, options);
    if (r == 0)
        r = options_transfer(options, transfer);
    return r < 0 ? error_set(failure, r, "the options of the bridge are not valid") : 0;
}

int sparsestream_libvirt_upload(virStorageVolPtr vol, int64_t offset, int64_t length,
                                struct sparsestream_source *source, const options_t *given,
                                struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct volume volume;
    failure_t failure;
    options_t options;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(vol, source, given, SPARSESTREAM_LIBVIRT_NO_VERIFY, &options, &transfer, &failure);
    if (r == 0)
        r = examine(vol, &volume, &failure);
    if (r == 0)
        r = check_range(&volume, offset, &length, &failure);
    if (r == 0)
        r = send_range(&volume, offset, length, source, &options, &transfer, stats, &failure);
    error_give(&failure, failure_out);
    return r;
}

/* The source of a download does not know its total: the volume does. */
struct counted {
    int64_t total;
    int (*progress)(void *opaque, const struct sparsestream_stats *stats);
    int (*section)(void *opaque, const struct sparsestream_section *section);
    void *opaque;
};

static int tell_progress(void *opaque, const struct sparsestream_stats *stats)
{
    const struct counted *counted = opaque;
    struct sparsestream_stats with_total = { .size = 0 };
    const size_t size = stats->size < sizeof(with_total) ? (size_t) stats->size : sizeof(with_total);

    memcpy(&with_total, stats, size);
    with_total.size = size;
    with_total.total = counted->total;
    return counted->progress(counted->opaque, &with_total);
}

static int tell_section(void *opaque, const struct sparsestream_section *section)
{
    const struct counted *counted = opaque;

    return counted->section(counted->opaque, section);
}

static void count(struct counted *counted, int64_t total, struct sparsestream_transfer_options *transfer)
{
    *counted = (struct counted){ total, transfer->progress, transfer->section, transfer->opaque };
    transfer->opaque = counted;
    if (transfer->progress != NULL)
        transfer->progress = tell_progress;
    if (transfer->section != NULL)
        transfer->section = tell_section;
}

static int recv_range(const struct volume *volume, int64_t offset, int64_t length, struct sparsestream_sink *sink,
                      const options_t *options, const struct sparsestream_transfer_options *transfer,
                      struct sparsestream_stats *stats, failure_t *failure)
{
    struct range range;
    int r;

    r = range_open(volume, &range, failure);
    if (r < 0)
        return r;
    r = range_start(volume, &range, false, offset, length, transfer->sparse != SPARSESTREAM_SPARSE_NEVER);
    if (r == 0) {
        if ((options->flags & SPARSESTREAM_LIBVIRT_NO_PAUSE) == 0)
            range.lv.pause = pause_new();
        r = stream_recv(&range.lv, sink, transfer, stats);
        pause_free(range.lv.pause);
    }
    lv_stream_abort(&range.lv);
    range_close(&range);
    return r;
}

int sparsestream_libvirt_download(virStorageVolPtr vol, int64_t offset, int64_t length,
                                  struct sparsestream_sink *sink, const options_t *given,
                                  struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct counted counted;
    struct volume volume;
    failure_t failure;
    options_t options;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(vol, sink, given, SPARSESTREAM_LIBVIRT_NO_PAUSE, &options, &transfer, &failure);
    if (r == 0 && options.holes != SPARSESTREAM_LIBVIRT_HOLES_AUTO)
        r = error_set(&failure, -EINVAL, "`holes` is for uploads");
    if (r == 0)
        r = examine(vol, &volume, &failure);
    if (r == 0)
        r = check_range(&volume, offset, &length, &failure);
    if (r == 0) {
        count(&counted, length, &transfer);
        r = recv_range(&volume, offset, length, sink, &options, &transfer, stats, &failure);
    }
    error_give(&failure, failure_out);
    return r;
}
