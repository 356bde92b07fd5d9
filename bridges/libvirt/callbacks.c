/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Callbacks for the loops that libvirt's client has: virStreamSparseSendAll and its kin. */

#include "internal.h"

#include <errno.h>
#include <string.h>

/* libvirt puts errno into its error. */
static int failed(int64_t error)
{
    errno = (int) -error;
    return -1;
}

/* For a loop that knows no holes. */
static int read_hole(struct sparsestream_source *source, char *data, size_t length)
{
    struct sparsestream_section section = { .size = sizeof(section) };
    int r = sparsestream_source_section(source, &section);

    if (r < 0)
        return failed(r);
    if ((int64_t) length > section.length)
        length = (size_t) section.length;
    r = sparsestream_source_skip(source, (int64_t) length);
    if (r < 0)
        return failed(r);
    memset(data, 0, length);
    return (int) length;
}

int sparsestream_libvirt_source_read(virStreamPtr stream, char *data, size_t length, void *source)
{
    int64_t got;

    (void) stream;
    if (length > SPARSESTREAM_LIBVIRT_MESSAGE)
        length = SPARSESTREAM_LIBVIRT_MESSAGE;
    do
        got = sparsestream_source_read(source, data, length);
    while (got == -EINTR);
    if (got == SPARSESTREAM_AT_HOLE)
        return read_hole(source, data, length);
    if (got == SPARSESTREAM_AT_KEEP)
        return failed(-EOPNOTSUPP);
    return got < 0 ? failed(got) : (int) got;
}

int sparsestream_libvirt_source_section(virStreamPtr stream, int *in_data, long long *length, void *source)
{
    struct sparsestream_section section = { .size = sizeof(section) };
    int r;

    (void) stream;
    do
        r = sparsestream_source_section(source, &section);
    while (r == -EINTR);
    if (r < 0)
        return failed(r);
    /* libvirt's protocol has nothing for a section that is kept, or of a kind that is not known here. */
    if (section.kind != SPARSESTREAM_DATA && section.kind != SPARSESTREAM_HOLE && section.kind != SPARSESTREAM_END)
        return failed(-EOPNOTSUPP);
    *in_data = section.kind == SPARSESTREAM_DATA;
    /* A length that is not known: one message, and the question again. */
    *length = section.length < 0 ? SPARSESTREAM_LIBVIRT_MESSAGE : section.length;
    return 0;
}

int sparsestream_libvirt_source_skip(virStreamPtr stream, long long length, void *source)
{
    int r;

    (void) stream;
    do
        r = sparsestream_source_skip(source, length);
    while (r == -EINTR);
    return r < 0 ? failed(r) : 0;
}

int sparsestream_libvirt_sink_write(virStreamPtr stream, const char *data, size_t length, void *sink)
{
    int64_t taken;

    (void) stream;
    do
        taken = sparsestream_sink_write(sink, data, length);
    while (taken == -EINTR);
    return taken < 0 ? failed(taken) : (int) taken;
}

int sparsestream_libvirt_sink_hole(virStreamPtr stream, long long length, void *sink)
{
    static const char zeros[65536];
    bool written = false;

    while (length > 0) {
        const size_t piece = length < (long long) sizeof(zeros) ? (size_t) length : sizeof(zeros);
        int64_t taken;

        taken = written ? sparsestream_sink_write(sink, zeros, piece) : sparsestream_sink_hole(sink, length);
        if (taken == -EOPNOTSUPP && !written)
            written = true;
        else if (taken < 0 && taken != -EINTR)
            return failed(taken);
        else if (taken > 0)
            length -= taken;
    }
    (void) stream;
    return 0;
}
