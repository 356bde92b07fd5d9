/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A sink that writes blocks only where they differ from what is there. An equal block is not written, so a
 * block that is shared stays shared. */

#include "changes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 4096, PIECE = 1 << 20 };

/* Reads the target's content at `offset`; zeros behind its end. Returns 0 or a negative errno. */
static int read_old(struct changes *changes, int64_t offset, size_t length)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = pread(changes->fd, changes->old + done, length - done, offset + (int64_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    memset(changes->old + done, 0, length - done);
    return 0;
}

/* Has the library write data, or make a hole for NULL, so that both are as they would be without this sink. */
static int change(struct changes *changes, int64_t offset, const unsigned char *data, int64_t length)
{
    const sparsestream_sink_options options = { .size = sizeof(options), .offset = offset };
    sparsestream_sink *sink;
    int64_t done = 0, n;
    int r = sparsestream_sink_to_fd(changes->fd, &options, &sink);

    if (r < 0)
        return r;
    while (done < length && r == 0) {
        n = data != NULL ? sparsestream_sink_write(sink, data + done, (size_t)(length - done))
                         : sparsestream_sink_hole(sink, length - done);
        /* Where no hole can be made, zeros are written. */
        if (n == -EOPNOTSUPP && data == NULL) {
            static const unsigned char zeros[65536];
            size_t most = length - done < (int64_t)sizeof(zeros) ? (size_t)(length - done) : sizeof(zeros);

            n = sparsestream_sink_write(sink, zeros, most);
        }
        if (n < 0 && n != -EINTR)
            r = (int)n;
        if (n > 0)
            done += n;
    }
    if (r == 0)
        r = sparsestream_sink_finish(sink);
    sparsestream_sink_free(sink);
    if (r == 0)
        changes->bytes += length;
    return r;
}

/* The end of the block that `offset` is in, or `end` if that comes first. */
static int64_t block_end(int64_t offset, int64_t end)
{
    int64_t next = offset - offset % BLOCK + BLOCK;

    return next < end ? next : end;
}

/* `data`: what is to be at `offset`, or NULL for zeros. At most PIECE bytes. */
static int change_blocks(struct changes *changes, int64_t offset, const unsigned char *data, int64_t length)
{
    static const unsigned char zeros[BLOCK];
    int64_t at = offset, end = offset + length, from = -1;
    int r = read_old(changes, offset, (size_t)length);

    while (r == 0 && at < end) {
        int64_t next = block_end(at, end);
        const unsigned char *wanted = data != NULL ? data + (at - offset) : zeros;
        bool differs = memcmp(wanted, changes->old + (at - offset), (size_t)(next - at)) != 0;

        if (differs && from < 0)
            from = at;
        if (from >= 0 && (!differs || next == end)) {
            int64_t to = differs ? next : at;

            r = change(changes, from, data != NULL ? data + (from - offset) : NULL, to - from);
            from = -1;
        }
        at = next;
    }
    return r;
}

static int64_t send_data(void *opaque, const void *buffer, size_t length)
{
    struct changes *changes = opaque;
    int64_t most = length < PIECE ? (int64_t)length : PIECE;
    int r = change_blocks(changes, changes->at, buffer, most);

    if (r < 0)
        return r;
    changes->at += most;
    changes->total += most;
    return most;
}

static int64_t send_hole(void *opaque, int64_t length)
{
    struct changes *changes = opaque;
    int64_t at = changes->at, end = at + length;
    int r = 0;

    while (r == 0 && at < end) {
        sparsestream_section section = { .size = sizeof(section) };
        int64_t most;

        if (is_cancelled())
            return -ECANCELED;
        r = sparsestream_section_at(changes->fd, at, &section);
        if (r < 0 || section.kind == SPARSESTREAM_END)
            break;
        most = section.length < end - at ? section.length : end - at;
        if (section.kind == SPARSESTREAM_DATA) {
            most = most < PIECE ? most : PIECE;
            r = change_blocks(changes, at, NULL, most);
        }
        at += most;
    }
    if (r < 0)
        return r;
    changes->at = end;
    changes->total += length;
    return length;
}

static int finish(void *opaque)
{
    struct changes *changes = opaque;
    struct stat st;

    if (fstat(changes->fd, &st) < 0)
        return -errno;
    if (changes->regular && (st.st_size < changes->at || (changes->truncate && st.st_size > changes->at)) &&
        ftruncate(changes->fd, changes->at) < 0)
        return -errno;
    return changes->sync && fsync(changes->fd) < 0 ? -errno : 0;
}

int changes_sink(struct changes *changes, const struct settings *settings, const struct target *to, int64_t offset,
                 bool truncate, sparsestream_sink **sink)
{
    const sparsestream_stream_ops ops = {
        .size = sizeof(ops),
        .send = send_data,
        .send_hole = send_hole,
        .finish = finish,
    };

    *changes = (struct changes){
        .fd = to->fd,
        .regular = to->regular,
        .truncate = truncate,
        .sync = settings->sync,
        .at = offset,
        .old = malloc(PIECE),
    };
    if (changes->old == NULL)
        return -ENOMEM;
    return sparsestream_sink_to_stream(&ops, changes, sink);
}

void changes_free(struct changes *changes)
{
    free(changes->old);
    changes->old = NULL;
}
