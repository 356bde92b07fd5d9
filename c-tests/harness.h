/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The test harness: TAP on standard output, one child process a case.
 *
 * A case runs in a directory of its own that is removed afterwards, within a
 * time limit, and must leave its process as it found it: the same open
 * descriptors, threads, signal dispositions and signal mask, and nothing
 * printed. A crash or a hang fails that case only.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct test_case {
    const char *name;
    void (*run)(void);
    /* Time limit before scaling; 0 for the default. */
    unsigned seconds;
};

#define CASE(function) { #function, function, 0 }
#define CASE_WITHIN(function, limit) { #function, function, limit }

/*
 * Runs the cases and returns main's exit status: 0 if none failed.
 *
 * --only NAME runs one case; --valgrind runs the program under valgrind, or
 * skips it where there is none. Other arguments are for the cases.
 */
int harness_main(int argc, char **argv, const struct test_case *cases, size_t count);

#define TESTS(...)                                                              \
    int main(int argc, char **argv)                                             \
    {                                                                           \
        static const struct test_case cases[] = { __VA_ARGS__ };                \
        return harness_main(argc, argv, cases, sizeof cases / sizeof *cases);   \
    }

/* The arguments of the program that are not the harness's; NULL beyond the last. */
const char *harness_argument(size_t number);

/* How much slower than natively the program runs: limits on time grow by it. */
unsigned harness_slowness(void);

/* Milliseconds of the monotonic clock. */
int64_t harness_now(void);

/* Failures of the case so far. */
int harness_failures(void);

/* Ends the case as skipped. */
_Noreturn void skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Printed with each later failure of the case, until it is set again; "" for nothing. */
void context(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Records a failure; the case continues. */
void harness_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void harness_fail_code(const char *file, int line, const char *expression, int64_t got,
                       int64_t expected, const char *message);
void harness_fail_bytes(const char *file, int line, const char *expression,
                        const unsigned char *left, const unsigned char *right, size_t length);

/* Records a failure of what a case needs, with errno in words, and ends the case. */
_Noreturn void harness_require(const char *file, int line, const char *expression);

/* "ENOENT" for 2 or -2, "0" for 0. */
const char *harness_errno_name(int64_t code);

/* `left op right` for integers, each evaluated once. */
#define CHECK_INT(left, op, right)                                              \
    do {                                                                        \
        const intmax_t left_ = (left), right_ = (right);                        \
        if (!(left_ op right_))                                                 \
            harness_fail(__FILE__, __LINE__, "%s: %jd against %jd",             \
                         #left " " #op " " #right, left_, right_);              \
    } while (0)

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition))                                                       \
            harness_fail(__FILE__, __LINE__, "%s: false", #condition);          \
    } while (0)

/* A call of the library that returns 0, a count or a negative errno. */
#define CHECK_CODE(call, expected)                                              \
    do {                                                                        \
        const int64_t got_ = (call), expected_ = (expected);                    \
        if (got_ != expected_)                                                  \
            harness_fail_code(__FILE__, __LINE__, #call, got_, expected_,       \
                              sparsestream_last_error());                       \
    } while (0)

#define CHECK_STR(left, right)                                                  \
    do {                                                                        \
        const char *left_ = (left), *right_ = (right);                          \
        if (strcmp(left_, right_) != 0)                                         \
            harness_fail(__FILE__, __LINE__, "%s: \"%s\" against \"%s\"",       \
                         #left " is " #right, left_, right_);                   \
    } while (0)

#define CHECK_CONTAINS(text, part)                                              \
    do {                                                                        \
        const char *text_ = (text), *part_ = (part);                            \
        if (strstr(text_, part_) == NULL)                                       \
            harness_fail(__FILE__, __LINE__, "%s: \"%s\" against \"%s\"",       \
                         #text " contains " #part, text_, part_);               \
    } while (0)

#define CHECK_BYTES(left, right, length)                                        \
    do {                                                                        \
        const void *left_ = (left), *right_ = (right);                          \
        const size_t length_ = (length);                                        \
        if (length_ != 0 && memcmp(left_, right_, length_) != 0)                \
            harness_fail_bytes(__FILE__, __LINE__, #left " is " #right, left_,  \
                               right_, length_);                                \
    } while (0)

#define REQUIRE(condition)                                                      \
    do {                                                                        \
        if (!(condition))                                                       \
            harness_require(__FILE__, __LINE__, #condition);                    \
    } while (0)

#endif
