/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A program outside the tree: copies a file with a hole through the installed
 * library, and says which version of the library did it.
 */
#define _FILE_OFFSET_BITS 64
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sparsestream.h>

enum { SIZE = 1 << 20 };

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, sparsestream_last_error());
    return 1;
}

int main(void)
{
    char from_path[] = "/tmp/sparsestream-program.XXXXXX";
    char to_path[] = "/tmp/sparsestream-program.XXXXXX";
    int from = mkstemp(from_path);
    int to = mkstemp(to_path);
    if (from < 0 || to < 0) {
        perror("mkstemp");
        return 1;
    }
    unlink(from_path);
    unlink(to_path);
    if (pwrite(from, "data", 4, 0) != 4 || ftruncate(from, SIZE) != 0) {
        perror("the source file");
        return 1;
    }

    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    sparsestream_transfer *transfer = NULL;
    if (sparsestream_source_from_fd(from, NULL, &source) != 0)
        return fail("source");
    if (sparsestream_sink_to_fd(to, NULL, &sink) != 0)
        return fail("sink");
    if (sparsestream_transfer_new(source, sink, NULL, &transfer) != 0)
        return fail("transfer");
    if (sparsestream_transfer_run(transfer, 0) != 0)
        return fail("run");
    sparsestream_transfer_free(transfer);
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);

    char copied[4];
    if (pread(to, copied, sizeof copied, 0) != (ssize_t)sizeof copied
        || memcmp(copied, "data", sizeof copied) != 0 || lseek(to, 0, SEEK_END) != SIZE) {
        fprintf(stderr, "the copy is not the source\n");
        return 1;
    }
    if (strcmp(sparsestream_version(), SPARSESTREAM_VERSION) != 0) {
        fprintf(stderr, "library %s, header %s\n", sparsestream_version(), SPARSESTREAM_VERSION);
        return 1;
    }
    puts(sparsestream_version());
    return 0;
}
