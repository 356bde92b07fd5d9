/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A disk image over a TLS session, in both directions.
 *
 * While an image is received, its file is NAME.part, and NAME.resume records how much of it is durable. If a
 * transfer is interrupted for any reason, the next transfer of the same image resumes it.
 */
#include "tls-disk.h"

#include "tls-transport.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *join(const char *path, const char *suffix)
{
    char *joined = NULL;

    return asprintf(&joined, "%s%s", path, suffix) < 0 ? NULL : joined;
}

/* Replaces the old record by a new one, as a whole. */
static int save(struct disk *disk)
{
    char *path = join(disk->record_path, ".new");
    int fd = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), r = 0;

    if (fd < 0 || write(fd, &disk->record, sizeof(disk->record)) != sizeof(disk->record) || fsync(fd) < 0 ||
        rename(path, disk->record_path) < 0)
        r = errno != 0 ? -errno : -EIO;
    if (fd >= 0)
        close(fd);
    free(path);
    return r;
}

static int on_checkpoint(void *opaque, int64_t durable)
{
    struct disk *disk = opaque;

    disk->record.durable = durable;
    return save(disk);
}

static void load(struct disk *disk)
{
    int fd = open(disk->record_path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, &disk->record, sizeof(disk->record)) != sizeof(disk->record))
        disk->record = (struct record){ 0 };
    if (fd >= 0)
        close(fd);
}

static int begin(struct disk *disk, gnutls_session_t session, const char *path)
{
    *disk = (struct disk){ .session = session, .fd = -1, .rate = disk->rate };
    disk->path = strdup(path);
    disk->part = join(path, ".part");
    disk->record_path = join(path, ".resume");
    return disk->path == NULL || disk->part == NULL || disk->record_path == NULL ? -ENOMEM : 0;
}

static int new_transfer(struct disk *disk)
{
    const sparsestream_transfer_options options = { .size = sizeof(options), .rate = disk->rate, .idle_ms = 60000 };

    return sparsestream_transfer_new(disk->source, disk->sink, &options, &disk->transfer);
}

int disk_send(struct disk *disk, gnutls_session_t session, const char *path)
{
    sparsestream_wire_options wire = { .size = sizeof(wire), .keepalive_ms = 5000,
                                       .flags = SPARSESTREAM_WIRE_RESUME | SPARSESTREAM_WIRE_RESTART };
    int r = begin(disk, session, path);

    if (r < 0)
        return r;
    /* The digest reads every byte, so sendfile(2) is only used without it. A resumed transfer always has a digest. */
    if (tls_output_fd(session) < 0)
        wire.flags |= SPARSESTREAM_WIRE_DIGEST;
    disk->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (disk->fd < 0)
        return -errno;
    r = sparsestream_wire_describe(disk->fd, 0, 0, &wire);
    if (r == 0)
        r = sparsestream_source_from_fd(disk->fd, NULL, &disk->source);
    if (r == 0)
        r = sparsestream_sink_to_transport(&tls_transport, session, &wire, &disk->sink);
    return r < 0 ? r : new_transfer(disk);
}

int disk_receive(struct disk *disk, gnutls_session_t session, const char *path)
{
    sparsestream_wire_options wire = { .size = sizeof(wire), .flags = SPARSESTREAM_WIRE_RESTART,
                                       .max_size = INT64_C(1) << 42 };
    int r = begin(disk, session, path);

    if (r < 0)
        return r;
    disk->fd = open(disk->part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (disk->fd < 0)
        return -errno;
    load(disk);
    wire.resume_offset = disk->record.durable;
    wire.resume_fd = disk->fd;
    memcpy(wire.identity, disk->record.identity, sizeof(wire.identity));
    return sparsestream_source_from_transport(&tls_transport, session, &wire, &disk->source);
}

/* The sender has introduced its image, so the start of the stream is known. */
static int introduced(struct disk *disk, const sparsestream_wire_info *info)
{
    sparsestream_sink_options options = { .size = sizeof(options), .offset = info->start,
                                          .flags = SPARSESTREAM_SYNC | SPARSESTREAM_TRUNCATE, .sync_interval = 4 << 20,
                                          .checkpoint = on_checkpoint, .opaque = disk };
    int r;

    disk->resumed = disk->record.durable = info->start;
    memcpy(disk->record.identity, info->identity, sizeof(info->identity));
    r = save(disk);
    if (r == 0)
        r = sparsestream_sink_to_fd(disk->fd, &options, &disk->sink);
    return r < 0 ? r : new_transfer(disk);
}

int disk_step(struct disk *disk, int64_t budget)
{
    sparsestream_wire_info info = { .size = sizeof(info) };
    int r = 0;

    if (disk->transfer == NULL) {
        r = sparsestream_source_wire_info(disk->source, &info);
        if (r == -EINTR)
            return 1;
        if (r == 0)
            r = introduced(disk, &info);
        if (r < 0)
            return r;
    }
    r = sparsestream_transfer_run(disk->transfer, budget);
    if (r == 0 && disk->record.durable > 0) {
        if (rename(disk->part, disk->path) < 0)
            return -errno;
        unlink(disk->record_path);
    }
    return r;
}

int disk_wait(struct disk *disk, sparsestream_wait *wait)
{
    return disk->transfer != NULL ? sparsestream_transfer_wait(disk->transfer, wait)
                                  : sparsestream_source_wait(disk->source, wait);
}

void disk_end(struct disk *disk)
{
    sparsestream_transfer_free(disk->transfer);
    sparsestream_source_free(disk->source);
    sparsestream_sink_free(disk->sink);
    if (disk->fd >= 0)
        close(disk->fd);
    free(disk->path);
    free(disk->part);
    free(disk->record_path);
    *disk = (struct disk){ .fd = -1 };
}
