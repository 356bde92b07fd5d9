/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A range of a storage volume as a source or a sink. */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>
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
    struct sigpipe saved;
    bool known;

    memset(volume, 0, sizeof(*volume));
    volume->vol = vol;
    sigpipe_block(&saved);
    volume->connection = virStorageVolGetConnect(vol);
    known = volume->connection != NULL && virStorageVolGetInfo(vol, &stored) == 0
            && virStorageVolGetInfoFlags(vol, &physical, VIR_STORAGE_VOL_GET_PHYSICAL) == 0;
    sigpipe_restore(&saved);
    if (!known)
        return error_take(failure);
    if (physical.allocation > INT64_MAX || stored.allocation > INT64_MAX)
        return error_set(failure, -EOVERFLOW, "the size of the volume is %llu or %llu bytes, but must be at most %lld",
                         physical.allocation, stored.allocation, (long long) INT64_MAX);
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
        return error_set(failure, -EINVAL, "the range has the offset %lld and the length %lld, but both must be 0 or more, "
                         "and their sum at most %lld", (long long) offset, (long long) *length, (long long) INT64_MAX);
    if (*length == 0 && offset <= volume->size)
        *length = volume->size - offset;
    else if (offset > volume->size || (volume->raw && *length > volume->size - offset))
        return error_set(failure, -ENOSPC, "the range of %lld bytes at %lld ends beyond the volume's end at %lld",
                         (long long) *length, (long long) offset, (long long) volume->size);
    return 0;
}

static int stream_new(const struct volume *volume, struct lv_stream *lv, failure_t *failure)
{
    virStreamPtr stream = virStreamNew(volume->connection, 0);

    lv_stream_init(lv, stream, failure);
    if (stream == NULL) {
        lv->open = false;
        return error_take(failure);
    }
    return 0;
}

/* Starts an upload, or a download, on the stream. */
static int stream_start(const struct volume *volume, struct lv_stream *lv, bool upload, int64_t offset,
                        int64_t length, bool sparse)
{
    struct sigpipe saved;
    int r;

    sigpipe_block(&saved);
    if (upload)
        r = virStorageVolUpload(volume->vol, lv->stream, (unsigned long long) offset, (unsigned long long) length,
                                sparse ? VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM : 0);
    else
        r = virStorageVolDownload(volume->vol, lv->stream, (unsigned long long) offset, (unsigned long long) length,
                                  sparse ? VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM : 0);
    sigpipe_restore(&saved);
    lv->length = length;
    return r < 0 ? error_take(lv->failure) : 0;
}

static void stream_close(struct lv_stream *lv)
{
    lv_stream_abort(lv);
    virStreamFree(lv->stream);
}

/* Puts the daemon's bytes of a small range into `buffer`. */
static int read_back(const struct volume *volume, int64_t offset, unsigned char *buffer, size_t length,
                     failure_t *failure)
{
    struct lv_stream lv;
    size_t got = 0;
    int r;

    r = stream_new(volume, &lv, failure);
    if (r < 0)
        return r;
    r = stream_start(volume, &lv, false, offset, (int64_t) length, false);
    while (r == 0 && got < length) {
        const int64_t count = lv_stream_ops.recv(&lv, buffer + got, length - got);

        if (count < 0)
            r = count == SPARSESTREAM_AT_HOLE ? error_set(failure, -EPROTO, "a hole in a stream that has none")
                                              : (int) count;
        else
            got += (size_t) count;
    }
    if (r == 0)
        r = lv_stream_ops.finish(&lv);
    stream_close(&lv);
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
    struct lv_stream lv;
    int r;

    r = stream_new(volume, &lv, failure);
    if (r < 0)
        return r;
    r = stream_start(volume, &lv, true, offset, 1, false);
    if (r == 0) {
        const int64_t sent = lv_stream_ops.send(&lv, &zero, 1);

        r = sent < 0 ? (int) sent : lv_stream_ops.finish(&lv);
    }
    stream_close(&lv);
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

/* A range of a volume as an end. */
struct volume_end {
    /* First, so that the functions of the stream serve this too. */
    struct lv_stream lv;
    struct volume volume;
    int64_t offset;
    bool verified;
    /* Where the stream's failure is kept, if the caller has no place for it. */
    failure_t failure;
};

static int finish_upload(void *opaque)
{
    struct volume_end *end = opaque;
    struct lv_stream *lv = &end->lv;
    int r = lv_stream_ops.finish(lv);

    if (r < 0)
        return r;
    if (lv->split_at >= 0)
        r = write_zero(&end->volume, end->offset + lv->split_at, lv->failure);
    if (r == 0 && end->verified)
        r = verify(&end->volume, end->offset, lv->length, lv, lv->failure);
    if (r < 0)
        sparsestream_set_error(-r, SPARSESTREAM_OPERATION_NONE, -1, lv->failure->message);
    return r;
}

static int describe(void *opaque, struct sparsestream_source_info *info)
{
    const struct volume_end *end = opaque;

    info->total = end->lv.length;
    return 0;
}

static void free_end(void *opaque)
{
    struct volume_end *end = opaque;
    struct sigpipe saved;

    lv_stream_abort(&end->lv);
    pause_free(end->lv.pause);
    /* The last reference to a connection makes a call to the daemon. */
    sigpipe_block(&saved);
    if (end->lv.stream != NULL)
        virStreamFree(end->lv.stream);
    virStorageVolFree(end->volume.vol);
    sigpipe_restore(&saved);
    free(end);
}

/* Returns 0 or a negative errno, with nothing to free. */
static int end_new(virStorageVolPtr vol, int64_t offset, int64_t length, failure_t *failure, struct volume_end **out)
{
    struct volume_end *end;
    int r;

    if (vol == NULL)
        return error_set(failure, -EINVAL, "the volume is NULL");
    if (virStorageVolRef(vol) < 0)
        return error_take(failure);
    end = calloc(1, sizeof(*end));
    if (end == NULL) {
        virStorageVolFree(vol);
        return error_set(failure, -ENOMEM, "no memory");
    }
    end->volume.vol = vol;
    r = examine(vol, &end->volume, failure);
    if (r == 0)
        r = check_range(&end->volume, offset, &length, failure);
    if (r == 0)
        r = stream_new(&end->volume, &end->lv, failure);
    if (r < 0) {
        free_end(end);
        return r;
    }
    end->offset = offset;
    end->lv.length = length;
    *out = end;
    return 0;
}

/* From now on failures are kept in the end itself. */
static void own_failure(struct volume_end *end)
{
    end->lv.failure = &end->failure;
    error_clear(&end->failure);
}

int volume_sink(virStorageVolPtr vol, int64_t offset, int64_t length, const options_t *options, bool own,
                failure_t *failure, struct sparsestream_sink **sink)
{
    struct sparsestream_stream_ops ops = lv_stream_ops;
    struct volume_end *end;
    int holes, r;

    r = end_new(vol, offset, length, failure, &end);
    if (r < 0)
        return r;
    holes = choose_holes(&end->volume, offset + end->lv.length, options);
    end->verified = end->lv.keep_tail = (options->flags & SPARSESTREAM_LIBVIRT_NO_VERIFY) == 0;
    end->lv.split = holes == SPARSESTREAM_LIBVIRT_HOLES_SPLIT ? SPLIT_FIRST : SPLIT_NEVER;
    if (holes == SPARSESTREAM_LIBVIRT_HOLES_ZEROS)
        ops.send_hole = NULL;
    ops.finish = finish_upload;
    ops.free = free_end;
    r = stream_start(&end->volume, &end->lv, true, offset, end->lv.length, ops.send_hole != NULL);
    if (r < 0) {
        free_end(end);
        return r;
    }
    end->lv.guarded = !own;
    if (own)
        own_failure(end);
    r = sparsestream_sink_to_stream(&ops, end, sink);
    return r < 0 ? error_set(failure, r, "%s", sparsestream_last_error()) : 0;
}

int volume_source(virStorageVolPtr vol, int64_t offset, int64_t length, const options_t *options, bool own,
                  failure_t *failure, struct sparsestream_source **source)
{
    struct sparsestream_stream_ops ops = lv_stream_ops;
    struct volume_end *end;
    int r;

    r = options_only_auto(options, failure);
    if (r < 0)
        return r;
    r = end_new(vol, offset, length, failure, &end);
    if (r < 0)
        return r;
    ops.describe = describe;
    ops.free = free_end;
    r = stream_start(&end->volume, &end->lv, false, offset, end->lv.length, true);
    if (r < 0) {
        free_end(end);
        return r;
    }
    if ((options->flags & SPARSESTREAM_LIBVIRT_NO_PAUSE) == 0)
        end->lv.pause = pause_new(!own);
    end->lv.guarded = !own;
    if (own)
        own_failure(end);
    r = sparsestream_source_from_stream(&ops, end, source);
    return r < 0 ? error_set(failure, r, "%s", sparsestream_last_error()) : 0;
}
