/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* checksum FILE...: the sparse tree digest of each, or with --check a comparison with a list of them. */

#include "remote.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEX = 2 * SPARSESTREAM_DIGEST_SIZE };

/* The result of digesting one file. */
struct result {
    char hex[HEX + 1];
    int64_t length;
    int64_t data_bytes;
    int64_t hole_bytes;
};

/* Counts of the results for the lines of one list. */
struct tally {
    int64_t lines;
    int64_t malformed;
    int64_t unreadable;
    int64_t different;
    int64_t same;
};

/* ---- Names and lists, in the format of sha256sum(1) ---- */

/* A name with the characters escaped that would break its line. The caller frees it; NULL: there is no memory. */
static char *escape(const char *name)
{
    char *escaped = malloc(2 * strlen(name) + 1), *to = escaped;

    for (; escaped != NULL && *name != '\0'; name++) {
        if (*name == '\\' || *name == '\n' || *name == '\r')
            *to++ = '\\';
        *to++ = *name == '\n' ? 'n' : *name == '\r' ? 'r' : *name;
    }
    if (escaped != NULL)
        *to = '\0';
    return escaped;
}

static bool needs_escape(const char *name)
{
    return name[strcspn(name, "\\\n\r")] != '\0';
}

static int put_line(const struct result *result, const char *name)
{
    char *escaped = escape(name);

    if (escaped == NULL)
        return fail_errno(name, NULL, ENOMEM);
    printf("%s%s  %s\n", needs_escape(name) ? "\\" : "", result->hex, escaped);
    free(escaped);
    return 0;
}

/* Undoes escape in place. False if the name is not one that it writes. */
static bool unescape(char *name)
{
    char *to = name;

    for (; *name != '\0'; name++) {
        if (*name != '\\') {
            *to++ = *name;
            continue;
        }
        name++;
        if (*name == '\\')
            *to++ = '\\';
        else if (*name == 'n')
            *to++ = '\n';
        else if (*name == 'r')
            *to++ = '\r';
        else
            return false;
    }
    *to = '\0';
    return true;
}

/* Splits a line of a list into a digest, which becomes lower case, and a name. False if it is not one. */
static bool parse_line(char *line, ssize_t length, char **hex, char **name)
{
    bool escaped;
    int i;

    if (memchr(line, '\0', (size_t)length) != NULL)
        return false;
    if (length > 0 && line[length - 1] == '\n')
        line[--length] = '\0';
    if (length > 0 && line[length - 1] == '\r')
        line[--length] = '\0';
    line += strspn(line, " \t");
    escaped = *line == '\\';
    line += escaped;
    for (i = 0; i < HEX; i++) {
        if (strchr("0123456789abcdefABCDEF", line[i]) == NULL || line[i] == '\0')
            return false;
        if (line[i] >= 'A' && line[i] <= 'F')
            line[i] += 'a' - 'A';
    }
    if (line[HEX] != ' ' || (line[HEX + 1] != ' ' && line[HEX + 1] != '*') || line[HEX + 2] == '\0')
        return false;
    line[HEX] = '\0';
    *hex = line;
    *name = line + HEX + 2;
    return !escaped || unescape(*name);
}

/* ---- Computing ---- */

static int on_progress(void *opaque, const sparsestream_stats *stats)
{
    progress_update(opaque, stats->position, stats->data_bytes, stats->hole_bytes, 0);
    return 0;
}

static void put_digest(const unsigned char *digest, const struct progress *progress, struct result *result)
{
    int i;

    for (i = 0; i < SPARSESTREAM_DIGEST_SIZE; i++)
        snprintf(result->hex + 2 * i, 3, "%02x", digest[i]);
    result->length = progress->position;
    result->data_bytes = progress->data_bytes;
    result->hole_bytes = progress->hole_bytes;
}

/* As digest_file, for what is not a file. */
static int digest_remote(const struct settings *settings, const char *name, struct result *result)
{
    struct progress progress;
    sparsestream_digest_options options = {
        .size = sizeof(options),
        .progress_ms = 100,
        .progress = on_progress,
        .opaque = &progress,
        .stall_ms = settings->timeout_ms,
    };
    unsigned char digest[SPARSESTREAM_DIGEST_SIZE];
    struct remote_pipe pipe;
    int r = remote_pipe_open(settings, name, &pipe);

    if (r != 0)
        return r;
    progress_start(&progress, settings->progress, "checksum", -1, -1);
    r = sparsestream_digest(pipe.fd, &options, digest);
    if (r < 0)
        r = fail_library(name, r);
    r = remote_close(remote_pipe_close(&pipe, r));
    if (r != 0)
        return r;
    progress_end(&progress);
    put_digest(digest, &progress, result);
    return 0;
}

/* Digests one file. Returns 0 or an exit code, after a message. */
static int digest_file(const struct settings *settings, const char *path, struct result *result)
{
    sparsestream_digest_options options = {
        .size = sizeof(options),
        .flags = settings->ignore_map ? SPARSESTREAM_IGNORE_MAP : 0,
        .progress_ms = 100,
        .progress = on_progress,
        .stall_ms = settings->timeout_ms,
    };
    unsigned char digest[SPARSESTREAM_DIGEST_SIZE];
    int64_t total = -1, work = -1;
    struct progress progress;
    struct target file;
    int r;

    if (is_remote(path))
        return digest_remote(settings, path, result);
    r = open_source(settings, path, &file);
    if (r == 0)
        r = check_range(settings, &file);
    if (r != 0) {
        if (file.fd > STDIN_FILENO)
            close(file.fd);
        return r;
    }
    options.offset = file.position + settings->offset;
    options.length = settings->length;
    options.opaque = &progress;
    if (settings->progress != PROGRESS_NONE)
        measure(&file, settings, &total, &work);
    progress_start(&progress, settings->progress, "checksum", total, work);
    r = sparsestream_digest(file.fd, &options, digest);
    if (r < 0)
        r = fail_library(file.name, r);
    else
        progress_end(&progress);
    standard_advance(&file, settings->offset + progress.position);
    if (file.fd != STDIN_FILENO)
        close(file.fd);
    if (r != 0)
        return r;
    put_digest(digest, &progress, result);
    return 0;
}

static int compute(const struct settings *settings, int count, char **paths)
{
    int failed = EXIT_OK, shown = 0, i;

    if (settings->json)
        putchar('[');
    for (i = 0; i < count; i++) {
        struct result result;
        int r = digest_file(settings, paths[i], &result);

        if (r != 0) {
            failed = r;
            continue;
        }
        if (settings->json) {
            fputs(shown++ == 0 ? "{\"file\": " : ",\n{\"file\": ", stdout);
            json_string(stdout, paths[i]);
            printf(", \"digest\": \"%s\", \"length\": %" PRId64 ", \"data_bytes\": %" PRId64 ", \"hole_bytes\": %" PRId64
                   "}", result.hex, result.length, result.data_bytes, result.hole_bytes);
        } else if ((r = put_line(&result, paths[i])) != 0) {
            failed = r;
        }
        /* A list is of use while the next image is read. */
        fflush(stdout);
    }
    if (settings->json)
        puts("]");
    return failed;
}

/* ---- Verifying ---- */

static void put_verdict(const struct settings *settings, const char *name, const char *words, const char *json)
{
    static int shown;

    if (settings->json) {
        fputs(shown++ == 0 ? "{\"file\": " : ",\n{\"file\": ", stdout);
        json_string(stdout, name);
        printf(", \"result\": \"%s\"}", json);
    } else if (!settings->status && !(settings->quiet && strcmp(words, "OK") == 0)) {
        char *escaped = escape(name);

        say("%s%s: %s", needs_escape(name) ? "\\" : "", escaped != NULL ? escaped : "?", words);
        free(escaped);
    }
    fflush(stdout);
}

static void verify_file(const struct settings *settings, const char *hex, const char *name, struct tally *tally)
{
    struct result result;

    if (settings->ignore_missing && strcmp(name, "-") != 0 && !is_remote(name) && access(name, F_OK) < 0 && errno == ENOENT)
        return;
    if (digest_file(settings, name, &result) != 0) {
        tally->unreadable++;
        put_verdict(settings, name, "FAILED open or read", "unreadable");
    } else if (strcmp(result.hex, hex) != 0) {
        tally->different++;
        put_verdict(settings, name, "FAILED", "failed");
    } else {
        tally->same++;
        put_verdict(settings, name, "OK", "ok");
    }
}

static void warn_of(int64_t count, const char *one, const char *many)
{
    if (count > 0)
        report_event("warning", "sparsestream: WARNING: %" PRId64 " %s", count, count == 1 ? one : many);
}

/* Says what the whole list came to. Returns an exit code. */
static int conclude(const struct settings *settings, const char *list, const struct tally *tally)
{
    if (tally->lines == tally->malformed)
        return fail(EXIT_LOCAL, "%s: no properly formatted checksum lines found", list);
    if (!settings->status) {
        warn_of(tally->malformed, "line is improperly formatted", "lines are improperly formatted");
        warn_of(tally->unreadable, "listed file could not be read", "listed files could not be read");
        warn_of(tally->different, "computed checksum did NOT match", "computed checksums did NOT match");
        if (settings->ignore_missing && tally->same + tally->different + tally->unreadable == 0)
            fail(EXIT_LOCAL, "%s: no file was verified", list);
    }
    if (tally->different > 0 || tally->unreadable > 0 || (settings->strict && tally->malformed > 0) ||
        tally->same == 0)
        return EXIT_LOCAL;
    return EXIT_OK;
}

/* A list that is read no slower than --timeout allows. */
struct list {
    int fd;
    int64_t timeout_ms; /* 0: without a limit */
};

static ssize_t list_read(void *opaque, char *buffer, size_t length)
{
    const struct list *list = opaque;

    if (list->timeout_ms != 0 && wait_for_fd(list->fd, POLLIN, list->timeout_ms) == 0) {
        errno = ETIMEDOUT;
        return -1;
    }
    return read(list->fd, buffer, length);
}

static int list_close(void *opaque)
{
    const struct list *list = opaque;

    return list->fd == STDIN_FILENO ? 0 : close(list->fd);
}

/* Opens a list; `path` is NULL for standard input. Returns NULL and sets errno on failure. */
static FILE *list_open(const struct settings *settings, const char *path, struct list *list)
{
    const cookie_io_functions_t functions = { .read = list_read, .close = list_close };
    FILE *file;

    list->timeout_ms = settings->timeout_ms;
    list->fd = path == NULL ? STDIN_FILENO : open_existing(settings, path, O_RDONLY);
    if (list->fd < 0) {
        errno = -list->fd;
        return NULL;
    }
    file = fopencookie(list, "r", functions);
    if (file == NULL)
        list_close(list);
    return file;
}

static int verify_list(const struct settings *settings, const char *path)
{
    bool from_stdin = strcmp(path, "-") == 0;
    const char *list = from_stdin ? "standard input" : path;
    struct list opened;
    FILE *file = list_open(settings, from_stdin ? NULL : path, &opened);
    struct tally tally = { 0 };
    int64_t number = 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    int r;

    if (file == NULL)
        return fail_errno(list, NULL, errno);
    while ((length = getline(&line, &room, file)) > 0) {
        char *hex, *name;

        number++;
        if (line[0] == '#' || line[strspn(line, " \t\r\n")] == '\0')
            continue;
        tally.lines++;
        if (!parse_line(line, length, &hex, &name) || (from_stdin && strcmp(name, "-") == 0)) {
            tally.malformed++;
            if (settings->warn)
                report_event("warning", "sparsestream: %s: %" PRId64 ": improperly formatted checksum line", list, number);
            continue;
        }
        verify_file(settings, hex, name, &tally);
    }
    r = ferror(file) ? fail_errno(list, "read", errno) : conclude(settings, list, &tally);
    free(line);
    fclose(file);
    return r;
}

int command_checksum(struct settings *settings, int count, char **operands)
{
    int failed = EXIT_OK, i;

    if (count < 1)
        return usage(settings, "checksum needs a file");
    if (!settings->check_list && (settings->quiet || settings->status || settings->strict || settings->warn ||
                              settings->ignore_missing))
        return usage(settings, "--quiet, --status, --strict, --warn and --ignore-missing need --check");
    signals_catch();
    if (!settings->check_list)
        return compute(settings, count, operands);
    if (settings->json)
        putchar('[');
    for (i = 0; i < count; i++) {
        int r = verify_list(settings, operands[i]);

        if (r != EXIT_OK)
            failed = r;
    }
    if (settings->json)
        puts("]");
    return failed;
}
