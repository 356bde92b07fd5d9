/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Callbacks for the loops that libvirt's client has: virStreamSparseSendAll and its kin. */

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* libvirt puts errno into its error. */
static int failed(int64_t error)
{
    errno = (int) -error;
    return -1;
}

/* Whether a call is to be made again: at once, or when a descriptor of the end is ready, which is waited for here. */
static bool again(int64_t result, struct sparsestream_source *source, struct sparsestream_sink *sink)
{
    struct sparsestream_wait wait = { .size = sizeof(wait) };
    struct pollfd pollfds[sizeof(wait.fds) / sizeof(wait.fds[0])];

    if (result != -EAGAIN)
        return result == -EINTR;
    if ((source != NULL ? sparsestream_source_wait(source, &wait) : sparsestream_sink_wait(sink, &wait)) < 0)
        return false;
    /* Only the owner of that end knows what it waits for. */
    if (wait.count == 0 && wait.timeout_ms < 0)
        return false;
    for (int i = 0; i < wait.count; i++)
        pollfds[i] = (struct pollfd){ .fd = wait.fds[i].fd, .events = (short) wait.fds[i].events };
    return poll(pollfds, (nfds_t) wait.count, wait.timeout_ms) >= 0 || errno == EINTR;
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
    while (again(got, source, NULL));
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
    while (again(r, source, NULL));
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
    while (again(r, source, NULL));
    return r < 0 ? failed(r) : 0;
}

int sparsestream_libvirt_sink_write(virStreamPtr stream, const char *data, size_t length, void *sink)
{
    int64_t taken;

    (void) stream;
    do
        taken = sparsestream_sink_write(sink, data, length);
    while (again(taken, NULL, sink));
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
        else if (taken < 0 && !again(taken, NULL, sink))
            return failed(taken);
        else if (taken > 0)
            length -= taken;
    }
    (void) stream;
    return 0;
}
