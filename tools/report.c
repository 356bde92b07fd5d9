/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Failures in one line, and numbers for people. */

#include "tool.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static bool as_json;

void report_as_json(void)
{
    as_json = true;
}

/* The bytes of the UTF-8 character at `text`, or 0 if there is none. */
static int utf8_length(const unsigned char *text)
{
    int length = text[0] < 0x80                       ? 1
                 : text[0] >= 0xc2 && text[0] <= 0xdf ? 2
                 : text[0] >= 0xe0 && text[0] <= 0xef ? 3
                 : text[0] >= 0xf0 && text[0] <= 0xf4 ? 4
                                                      : 0;
    int i;

    for (i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
        (text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
        return 0;
    return length;
}

/* Control characters of both sets, and those that change the order in which the line is shown. */
static bool is_control(const unsigned char *at, int length)
{
    if (length == 1)
        return *at < 0x20 || *at == 0x7f;
    if (length == 2)
        return (at[0] == 0xc2 && at[1] < 0xa0) || (at[0] == 0xd8 && at[1] == 0x9c);
    if (length != 3 || at[0] != 0xe2)
        return false;
    /* Beside U+061C: U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069 */
    return (at[1] == 0x80 && (at[2] == 0x8e || at[2] == 0x8f || (at[2] >= 0xa8 && at[2] <= 0xae))) ||
           (at[1] == 0x81 && at[2] >= 0xa6 && at[2] <= 0xa9);
}

/* The number of a character of at most three bytes. */
static unsigned int code_point(const unsigned char *at, int length)
{
    if (length == 1)
        return at[0];
    if (length == 2)
        return (at[0] & 0x1fU) << 6 | (at[1] & 0x3fU);
    return (at[0] & 0x0fU) << 12 | (at[1] & 0x3fU) << 6 | (at[2] & 0x3fU);
}

void json_string(FILE *file, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;

    putc('"', file);
    while (*at != '\0') {
        int length = utf8_length(at);

        if (*at == '"' || *at == '\\')
            fprintf(file, "\\%c", *at);
        else if (length == 0)
            fputs("\\ufffd", file);
        else if (is_control(at, length))
            fprintf(file, "\\u%04x", code_point(at, length));
        else
            fwrite(at, 1, (size_t)length, file);
        at += length == 0 ? 1 : length;
    }
    putc('"', file);
}

/* A name, or the text of a peer, may hold anything: it must not break the line or control the terminal. */
static void put_line(FILE *file, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;

    while (*at != '\0') {
        int length = utf8_length(at);

        if (length == 0 || is_control(at, length))
            putc('?', file);
        else
            fwrite(at, 1, (size_t)length, file);
        at += length == 0 ? 1 : length;
    }
}

static void put_failure(FILE *file, int code, const char *text, const char *hint)
{
    if (as_json) {
        fprintf(file, "{\"event\": \"error\", \"exit\": %d, \"message\": ", code);
        json_string(file, text);
        fputs("}\n", file);
    } else {
        fputs("sparsestream: ", file);
        put_line(file, text);
        fputs(hint, file);
        putc('\n', file);
    }
}

static void report(int code, const char *text, const char *hint)
{
    bar_clear();
    put_failure(stderr, code, text, hint);
}

static char *format_text(const char *format, va_list arguments)
{
    char *text;

    return vasprintf(&text, format, arguments) < 0 ? NULL : text;
}

int fail(int code, const char *format, ...)
{
    va_list arguments;
    char *text;

    va_start(arguments, format);
    text = format_text(format, arguments);
    va_end(arguments);
    report(code, text != NULL ? text : "out of memory", "");
    free(text);
    return code;
}

char *failure_line(int code, const char *format, ...)
{
    va_list arguments;
    char *text, *line = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&line, &size);

    if (file == NULL)
        return NULL;
    va_start(arguments, format);
    text = format_text(format, arguments);
    va_end(arguments);
    put_failure(file, code, text != NULL ? text : "out of memory", "");
    free(text);
    if (fclose(file) == 0)
        return line;
    free(line);
    return NULL;
}

static void put_event(const char *event, const char *prefix, char *text)
{
    if (text == NULL)
        return;
    bar_clear();
    if (as_json) {
        fprintf(stderr, "{\"event\": \"%s\", \"message\": ", event);
        json_string(stderr, text);
        fputs("}\n", stderr);
    } else {
        fputs(prefix, stderr);
        put_line(stderr, text);
        putc('\n', stderr);
    }
    free(text);
}

void report_event(const char *event, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    put_event(event, "", format_text(format, arguments));
    va_end(arguments);
}

void warn(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    put_event("warning", "sparsestream: warning: ", format_text(format, arguments));
    va_end(arguments);
}

void say(const char *format, ...)
{
    va_list arguments;
    char *text;

    va_start(arguments, format);
    text = format_text(format, arguments);
    va_end(arguments);
    if (text == NULL)
        return;
    put_line(stdout, text);
    putchar('\n');
    free(text);
}

int usage(const struct settings *settings, const char *format, ...)
{
    va_list arguments;
    char *text;
    char hint[64];

    va_start(arguments, format);
    text = format_text(format, arguments);
    va_end(arguments);
    snprintf(hint, sizeof(hint), " (see 'sparsestream %s%s--help')", settings->command,
             *settings->command == '\0' ? "" : " ");
    report(EXIT_USAGE, text != NULL ? text : "out of memory", hint);
    free(text);
    return EXIT_USAGE;
}

const char *error_name(int error)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
    return strerrorname_np(abs(error));
#else
    (void)error;
    return NULL;
#endif
}

int fail_errno(const char *name, const char *what, int error)
{
    const char *symbol = error_name(error);

    return fail(EXIT_LOCAL, "%s: %s%s%s%s%s%s", name, what != NULL ? what : "", what != NULL ? ": " : "",
                strerror(abs(error)), symbol != NULL ? " (" : "", symbol != NULL ? symbol : "",
                symbol != NULL ? ")" : "");
}

const char *without_side(const char *message)
{
    static const char *const sides[] = { "source: ", "sink: ", "transfer: " };
    size_t i;

    for (i = 0; i < sizeof(sides) / sizeof(sides[0]); i++)
        if (strncmp(message, sides[i], strlen(sides[i])) == 0)
            return message + strlen(sides[i]);
    return message;
}

int fail_library(const char *name, int error)
{
    const char *symbol = error_name(error);

    return fail(EXIT_LOCAL, "%s: %s%s%s%s", name, without_side(sparsestream_last_error()),
                symbol != NULL ? " (" : "", symbol != NULL ? symbol : "", symbol != NULL ? ")" : "");
}

const char *human(char *buffer, size_t size, int64_t bytes)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    /* A value that would be rounded up to 1024 is shown as one of the next unit. */
    if (value >= 1023.5 && unit > 0 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value = 1;
        unit++;
    }
    if (unit == 0)
        snprintf(buffer, size, "%lld %s", (long long)bytes, bytes == 1 ? "byte" : units[unit]);
    else
        snprintf(buffer, size, value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return buffer;
}
