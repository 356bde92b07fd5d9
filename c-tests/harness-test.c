/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The harness reports failures: each misbehaving case below must be reported, with the reason. */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The harness needs no library; CHECK_CODE asks it for the message. */
#define sparsestream_last_error() "the message"

static void passes(void)
{
    CHECK_INT(1, ==, 1);
    CHECK(true);
    CHECK_STR("a", "a");
    CHECK_CONTAINS("abc", "b");
    CHECK_BYTES("abc", "abd", 2);
    CHECK_CODE(-ENOENT, -ENOENT);
}

static void skips(void)
{
    skip("no %s here", "reason");
}

static void skips_after_a_failure(void)
{
    CHECK(false);
    skip("too late");
}

static void fails_integers(void)
{
    context("round %d", 3);
    CHECK_INT(1 + 1, ==, 3);
}

static void fails_condition(void)
{
    CHECK(1 > 2);
}

static void fails_text(void)
{
    CHECK_STR("left", "right");
}

static void fails_part(void)
{
    CHECK_CONTAINS("left", "right");
}

static void fails_bytes(void)
{
    CHECK_BYTES("abcd", "abxd", 4);
}

static void fails_code(void)
{
    CHECK_CODE(-ENOENT, 0);
}

static void fails_need(void)
{
    errno = ENOSPC;
    REQUIRE(false);
}

static void fails_often(void)
{
    for (int i = 0; i < 100; i++)
        CHECK_INT(i, ==, -1);
}

static void crashes(void)
{
    raise(SIGSEGV);
}

static void hangs(void)
{
    for (;;)
        pause();
}

static void leaves_a_descriptor(void)
{
    REQUIRE(open("/dev/null", O_RDONLY) >= 0);
}

static void closes_a_descriptor(void)
{
    close(0);
}

static void *sleeps(void *opaque)
{
    pause();
    return opaque;
}

static void leaves_a_thread(void)
{
    pthread_t thread;

    REQUIRE(pthread_create(&thread, NULL, sleeps, NULL) == 0);
}

static void changes_a_disposition(void)
{
    signal(SIGPIPE, SIG_IGN);
}

static void changes_the_mask(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static void prints(void)
{
    puts("something");
}

static void exits(void)
{
    exit(3);
}

static void litters(void)
{
    REQUIRE(mkdir("directory", 0700) == 0);
    REQUIRE(mkdir("directory/inner", 0700) == 0);
    fclose(fopen("directory/inner/file", "we"));
    fclose(fopen("file", "we"));
}

static const struct test_case subjects[] = {
    CASE(passes),          CASE(skips),
    CASE(skips_after_a_failure),
    CASE(fails_integers),  CASE(fails_condition),
    CASE(fails_text),      CASE(fails_part),
    CASE(fails_bytes),     CASE(fails_code),
    CASE(fails_need),      CASE(fails_often),
    CASE(crashes),         CASE_WITHIN(hangs, 1),
    CASE(leaves_a_descriptor), CASE(closes_a_descriptor),
    CASE(leaves_a_thread), CASE(changes_a_disposition),
    CASE(changes_the_mask), CASE(prints),
    CASE(exits),           CASE(litters),
};

/* Runs one of the cases above; gives its output and returns its exit status. */
static int run_subject(const char *name, char *output, size_t room)
{
    char self[4096] = "", command[4352];
    size_t length;
    FILE *stream;

    /* By its name: under an emulator the link leads to the emulator where it is not read by the program itself. */
    REQUIRE(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(command, sizeof command, "exec '%s' --subject --only %s </dev/null 2>&1", self, name);
    stream = popen(command, "re");
    REQUIRE(stream != NULL);
    length = fread(output, 1, room - 1, stream);
    output[length] = '\0';
    return pclose(stream);
}

static void check_subject(const char *name, bool passes, const char *first, const char *second)
{
    char output[32768], line[100];

    context("%s", name);
    CHECK_INT(run_subject(name, output, sizeof output) == 0, ==, passes);
    CHECK_CONTAINS(output, "1..1\n");
    snprintf(line, sizeof line, "\n%sok 1 - %s", passes ? "" : "not ", name);
    CHECK_CONTAINS(output, line);
    CHECK_CONTAINS(output, first);
    CHECK_CONTAINS(output, second);
    context("%s", "");
}

static void what_passes_and_what_is_skipped(void)
{
    check_subject("passes", true, "ok 1 - passes\n", "");
    check_subject("skips", true, "ok 1 - skips # SKIP no reason here\n", "");
    check_subject("skips_after_a_failure", false, "false", "exit status 1");
}

static void what_a_check_says(void)
{
    check_subject("fails_integers", false, "1 + 1 == 3: 2 against 3", "[round 3]");
    check_subject("fails_condition", false, "harness-test.c:", "1 > 2: false");
    check_subject("fails_text", false, "\"left\" against \"right\"", "");
    check_subject("fails_part", false, "\"left\" against \"right\"", "contains");
    check_subject("fails_bytes", false, "1 of 4 bytes differ, first at 2: 0x63 against 0x78", "");
    check_subject("fails_code", false, "(ENOENT) against 0", "message \"the message\"");
    check_subject("fails_need", false, "the case needs false: No space left on device", "");
    check_subject("fails_often", false, "i == -1: 29 against -1", "more failures are not shown");
}

static void how_a_case_may_end(void)
{
    check_subject("crashes", false, "killed by signal 11", "");
    check_subject("hangs", false, "killed after", "");
    check_subject("exits", false, "exit status 3", "");
}

static void what_a_case_must_leave_as_it_was(void)
{
    check_subject("leaves_a_descriptor", false, "(/dev/null) was left open", "");
    check_subject("closes_a_descriptor", false, "descriptor 0 was closed", "");
    /* An emulator has threads of its own: 2 against 1, or more. */
    check_subject("leaves_a_thread", false, "threads", " against ");
    check_subject("changes_a_disposition", false, "the disposition of signal 13 was changed", "");
    check_subject("changes_the_mask", false, "signal 13 of the mask was changed", "");
    check_subject("prints", false, "printed: something", "");
}

static int64_t entries_here(void)
{
    char output[64];
    FILE *stream = popen("ls -A | wc -l", "re");

    REQUIRE(stream != NULL && fgets(output, sizeof output, stream) != NULL);
    pclose(stream);
    return atoi(output);
}

/* In the directory that TMPDIR names, which is as empty afterwards as before. */
static void the_directory_is_removed(void)
{
    char here[4096];

    REQUIRE(getcwd(here, sizeof here) != NULL && setenv("TMPDIR", here, 1) == 0);
    check_subject("litters", true, "", "");
    CHECK_INT(entries_here(), ==, 0);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        CASE(what_passes_and_what_is_skipped), CASE(what_a_check_says),
        CASE(how_a_case_may_end), CASE(what_a_case_must_leave_as_it_was),
        CASE(the_directory_is_removed),
    };

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--subject") == 0)
            return harness_main(argc, argv, subjects, sizeof subjects / sizeof *subjects);
    }
    return harness_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
