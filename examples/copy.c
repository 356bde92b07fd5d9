/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Copies a file with its holes: the shortest useful program.
 *
 *     cc -o copy copy.c $(pkg-config --cflags --libs sparsestream)
 */

#include <fcntl.h>
#include <sparsestream.h>
#include <stdio.h>
#include <unistd.h>

static int copy(int from, int to)
{
    const sparsestream_sink_options options = { .size = sizeof(options), .flags = SPARSESTREAM_TRUNCATE };
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    sparsestream_transfer *transfer = NULL;
    int r;

    r = sparsestream_source_from_fd(from, NULL, &source);
    if (r == 0)
        r = sparsestream_sink_to_fd(to, &options, &sink);
    if (r == 0)
        r = sparsestream_transfer_new(source, sink, NULL, &transfer);
    if (r == 0)
        r = sparsestream_transfer_run(transfer, 0);
    if (r < 0)
        fprintf(stderr, "copy: %s\n", sparsestream_last_error());
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return r;
}

int main(int argc, char **argv)
{
    int from, to, r;

    if (argc != 3) {
        fprintf(stderr, "usage: copy FROM TO\n");
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
