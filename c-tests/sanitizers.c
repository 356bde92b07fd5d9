/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Proof that the programs built with AddressSanitizer and UBSan see what they
 * are for: each case makes a child commit an error, which must be reported.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs it in a child, which must fail, and whose standard error must hold both texts. */
static void check_reported(void (*commit)(void), const char *tool, const char *what)
{
    char report[65536];
    size_t length = 0;
    int status = 0, fds[2];
    ssize_t count;
    pid_t child;

#ifndef __SANITIZE_ADDRESS__
    skip("not built with the sanitizers");
#endif
    REQUIRE(pipe(fds) == 0);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        commit();
        exit(0);
    }
    close(fds[1]);
    while (length < sizeof report - 1
           && (count = read(fds[0], report + length, sizeof report - 1 - length)) > 0)
        length += (size_t) count;
    report[length] = '\0';
    close(fds[0]);
    REQUIRE(waitpid(child, &status, 0) == child);
    if (strstr(report, "LeakSanitizer has encountered a fatal error") != NULL)
        skip("leaks cannot be looked for here (ptrace is forbidden)");
    CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    CHECK_CONTAINS(report, tool);
    CHECK_CONTAINS(report, what);
}

/* Values that the compiler cannot see through. */
static volatile size_t sixteen = 16;
static volatile int greatest = INT_MAX;
static void *volatile lost;

static void overflow_of_the_heap(void)
{
    volatile char *bytes = malloc(sixteen);

    if (bytes != NULL)
        bytes[sixteen] = 1;
}

static void overflow_of_an_integer(void)
{
    greatest = greatest + 1;
}

static void library_writes_beyond_a_buffer(void)
{
    const int fd = file_new("file");
    struct sparsestream_source *source;
    char *bytes = malloc(sixteen);

    file_fill(fd, 0, 100, 1);
    source = fd_source(fd);
    sparsestream_source_read(source, bytes, sixteen + 1);
}

static void library_reads_beyond_a_buffer(void)
{
    const int fd = file_new("file");
    struct sparsestream_sink *sink = fd_sink(fd);
    char *bytes = malloc(sixteen);

    if (bytes == NULL)
        return;
    memset(bytes, 1, sixteen);
    sparsestream_sink_write(sink, bytes, sixteen + 1);
}

static void use_after_free(void)
{
    lost = malloc(sixteen);
    free(lost);
    *(volatile char *) lost = 1;
}

static void handle_is_lost(void)
{
    const int fd = file_new("file");

    lost = fd_source(fd);
    lost = NULL;
}

static void a_heap_overflow_is_seen(void)
{
    check_reported(overflow_of_the_heap, "AddressSanitizer", "heap-buffer-overflow");
}

static void an_integer_overflow_is_seen(void)
{
    check_reported(overflow_of_an_integer, "runtime error", "signed integer overflow");
}

static void a_use_after_free_is_seen(void)
{
    check_reported(use_after_free, "AddressSanitizer", "heap-use-after-free");
}

static void what_the_library_writes_is_seen(void)
{
    check_reported(library_writes_beyond_a_buffer, "AddressSanitizer", "heap-buffer-overflow");
}

static void what_the_library_reads_is_seen(void)
{
    check_reported(library_reads_beyond_a_buffer, "AddressSanitizer", "heap-buffer-overflow");
}

static void a_leak_of_the_library_is_seen(void)
{
    check_reported(handle_is_lost, "LeakSanitizer", "detected memory leaks");
}

TESTS(
    CASE(a_heap_overflow_is_seen),
    CASE(an_integer_overflow_is_seen),
    CASE(a_use_after_free_is_seen),
    CASE(what_the_library_writes_is_seen),
    CASE(what_the_library_reads_is_seen),
    CASE(a_leak_of_the_library_is_seen),
)
