/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A stream driver with a loop of its own, like libvirt's virStreamSparseSendAll and
 * virStreamSparseRecvAll: it calls its caller's functions for data and holes, and they return -1 and set
 * errno on failure. Such functions only need a source and a sink that are driven by hand.
 *
 *     hand-driven FROM TO
 *
 *     cc -o hand-driven hand-driven.c $(pkg-config --cflags --libs sparsestream)
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sparsestream.h>
#include <stdio.h>
#include <unistd.h>

/* The driver's side: the shapes of its callbacks, and its loop. */

struct stream {
    long long data; /* bytes of data that were moved */
    long long holes;
};

typedef int (*source_func)(struct stream *st, char *data, size_t nbytes, void *opaque);
typedef int (*source_hole_func)(struct stream *st, int *in_data, long long *length, void *opaque);
typedef int (*source_skip_func)(struct stream *st, long long length, void *opaque);
typedef int (*sink_func)(struct stream *st, const char *data, size_t nbytes, void *opaque);
typedef int (*sink_hole_func)(struct stream *st, long long length, void *opaque);

struct driver {
    source_func source;
    source_hole_func source_hole;
    source_skip_func source_skip;
    sink_func sink;
    sink_hole_func sink_hole;
};

static int pass_data(struct stream *st, const struct driver *driver, long long length, void *from, void *to)
{
    char buffer[64 * 1024];
    size_t want = length >= 0 && length < (long long)sizeof(buffer) ? (size_t)length : sizeof(buffer);
    int got = driver->source(st, buffer, want, from);

    for (int done = 0; done < got;) {
        int taken = driver->sink(st, buffer + done, (size_t)(got - done), to);

        if (taken < 0)
            return -1;
        done += taken;
    }
    if (got > 0)
        st->data += got;
    return got;
}

/* Returns 0, or -1 with errno. A real driver has a network between the two. */
static int driver_run(struct stream *st, const struct driver *driver, void *from, void *to)
{
    for (;;) {
        int in_data, got;
        long long length;

        if (driver->source_hole(st, &in_data, &length, from) < 0)
            return -1;
        if (length == 0)
            return 0; /* the end */
        if (in_data) {
            got = pass_data(st, driver, length, from, to);
            if (got < 0)
                return -1;
        } else {
            if (driver->sink_hole(st, length, to) < 0 || driver->source_skip(st, length, from) < 0)
                return -1;
            st->holes += length;
        }
    }
}

/* The caller's side: each function is one call of the library. */

/* The driver's functions return an int: no count may be longer. */
static size_t at_most_int(size_t nbytes)
{
    return nbytes < INT_MAX ? nbytes : INT_MAX;
}

static int minus_one(int64_t r)
{
    if (r >= 0)
        return (int)r;
    errno = (int)-r;
    return -1;
}

/* Whether a call must be repeated: at once after a signal, otherwise after a wait. */
static int again(int64_t r, int (*wait)(void *), void *end)
{
    return r == -EINTR || (r == -EAGAIN && wait(end) == 0);
}

/* Waits until the end is ready: this program has nothing else to do. */
static int wait_for(const sparsestream_wait *wait)
{
    struct pollfd fds[8];
    int count = wait->count < 8 ? wait->count : 8;

    for (int i = 0; i < count; i++)
        fds[i] = (struct pollfd) { .fd = wait->fds[i].fd, .events = (short)wait->fds[i].events };
    return poll(fds, (nfds_t)count, wait->timeout_ms) < 0 && errno != EINTR ? -1 : 0;
}

static int wait_for_source(void *source)
{
    sparsestream_wait wait = { .size = sizeof(wait) };

    return minus_one(sparsestream_source_wait(source, &wait)) < 0 ? -1 : wait_for(&wait);
}

static int wait_for_sink(void *sink)
{
    sparsestream_wait wait = { .size = sizeof(wait) };

    return minus_one(sparsestream_sink_wait(sink, &wait)) < 0 ? -1 : wait_for(&wait);
}

static int my_source(struct stream *st, char *data, size_t nbytes, void *opaque)
{
    int64_t n;

    (void)st;
    do
        n = sparsestream_source_read(opaque, data, at_most_int(nbytes));
    while (again(n, wait_for_source, opaque));
    /* The file changed between the question and the read: 0 makes the driver ask again. */
    return n == SPARSESTREAM_AT_HOLE ? 0 : minus_one(n);
}

static int my_source_hole(struct stream *st, int *in_data, long long *length, void *opaque)
{
    sparsestream_section section = { .size = sizeof(section) };
    int r;

    (void)st;
    do
        r = sparsestream_source_section(opaque, &section);
    while (again(r, wait_for_source, opaque));
    if (r < 0)
        return minus_one(r);
    *in_data = section.kind == SPARSESTREAM_DATA;
    /* -1: data of an unknown length, such as that of a pipe. */
    *length = section.length;
    return 0;
}

static int my_source_skip(struct stream *st, long long length, void *opaque)
{
    int r;

    (void)st;
    do
        r = sparsestream_source_skip(opaque, length);
    while (again(r, wait_for_source, opaque));
    return minus_one(r);
}

static int my_sink(struct stream *st, const char *data, size_t nbytes, void *opaque)
{
    int64_t n;

    (void)st;
    do
        n = sparsestream_sink_write(opaque, data, at_most_int(nbytes));
    while (again(n, wait_for_sink, opaque));
    return minus_one(n);
}

static int my_sink_hole(struct stream *st, long long length, void *opaque)
{
    (void)st;
    while (length > 0) {
        /* Over old content a hole is made in steps. */
        int64_t made = sparsestream_sink_hole(opaque, length);

        if (again(made, wait_for_sink, opaque))
            continue;
        if (made < 0)
            return minus_one(made);
        length -= made;
    }
    return 0;
}

static int copy(int from, int to)
{
    static const struct driver driver = { my_source, my_source_hole, my_source_skip, my_sink, my_sink_hole };
    const sparsestream_sink_options options = { .size = sizeof(options), .flags = SPARSESTREAM_TRUNCATE };
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    struct stream st = { 0, 0 };
    int r;

    r = sparsestream_source_from_fd(from, NULL, &source);
    if (r == 0)
        r = sparsestream_sink_to_fd(to, &options, &sink);
    if (r == 0 && driver_run(&st, &driver, source, sink) < 0)
        r = -errno;
    /* Each end gets a finish or an abort. Only the finish sets the size of the target. */
    if (r == 0)
        do
            r = sparsestream_sink_finish(sink);
        while (again(r, wait_for_sink, sink));
    if (r == 0)
        do
            r = sparsestream_source_finish(source);
        while (again(r, wait_for_source, source));
    if (r < 0) {
        fprintf(stderr, "hand-driven: %s\n", sparsestream_last_error());
        if (sink != NULL)
            sparsestream_sink_abort(sink, -r);
        if (source != NULL)
            sparsestream_source_abort(source, -r);
    } else {
        printf("%lld bytes of data, %lld of holes\n", st.data, st.holes);
    }
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    return r;
}

int main(int argc, char **argv)
{
    int from, to, r;

    if (argc != 3) {
        fprintf(stderr, "usage: hand-driven FROM TO\n");
        return 2;
    }
    from = open(argv[1], O_RDONLY | O_CLOEXEC);
    to = open(argv[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (from < 0 || to < 0) {
        perror(from < 0 ? argv[1] : argv[2]);
        return 1;
    }
    r = copy(from, to);
    if (close(to) < 0 && r == 0) {
        perror(argv[2]);
        r = -1;
    }
    close(from);
    return r < 0 ? 1 : 0;
}
