/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Options of every command, and the numbers in them. */

#include "tool.h"

#include <getopt.h>
#include <string.h>

/* The options by a letter each, by which a command says which it takes. They are no short options. */
static const struct option options[] = {
    { "range", required_argument, NULL, 'r' },
    { "at", required_argument, NULL, 'a' },
    { "sparse", required_argument, NULL, 's' },
    { "detect-zeroes", optional_argument, NULL, 'z' },
    { "ignore-map", no_argument, NULL, 'i' },
    { "known-zero", no_argument, NULL, 'k' },
    { "sync", no_argument, NULL, 'S' },
    { "truncate", no_argument, NULL, 't' },
    { "no-truncate", no_argument, NULL, 'T' },
    { "rate", required_argument, NULL, 'R' },
    { "timeout", required_argument, NULL, 'o' },
    { "progress", optional_argument, NULL, 'p' },
    { "quiet", no_argument, NULL, 'q' },
    { "json", no_argument, NULL, 'j' },
    { "list", no_argument, NULL, 'l' },
    { "rows", required_argument, NULL, 'w' },
    { "holes", no_argument, NULL, 'H' },
    { "check", no_argument, NULL, 'v' },
    { "status", no_argument, NULL, 'X' },
    { "strict", no_argument, NULL, 'Y' },
    { "warn", no_argument, NULL, 'W' },
    { "ignore-missing", no_argument, NULL, 'G' },
    { "connect", required_argument, NULL, 'c' },
    { "listen", required_argument, NULL, 'L' },
    { "exec", required_argument, NULL, 'x' },
    { "answers", no_argument, NULL, 'A' },
    { "resume", no_argument, NULL, 'u' },
    { "restart", no_argument, NULL, 'U' },
    { "checksum", no_argument, NULL, 'C' },
    { "state", required_argument, NULL, 'f' },
    { "checkpoint", required_argument, NULL, 'P' },
    { "max-size", required_argument, NULL, 'm' },
    { "idle-timeout", required_argument, NULL, 'I' },
    { "device", no_argument, NULL, 'D' },
    { "shared", no_argument, NULL, 'B' },
    { "no-lock", no_argument, NULL, 'K' },
    { "force", no_argument, NULL, 'F' },
    { "mode", required_argument, NULL, 'M' },
    { "preserve", optional_argument, NULL, 'V' },
    { "help", no_argument, NULL, 'h' },
};

enum { OPTIONS = sizeof(options) / sizeof(options[0]), LONG = 256 };

/* Digits with an optional K, M, G or T, powers of 1024, up to `end`. */
static bool parse_size(const char *text, const char *end, int64_t *size)
{
    static const char units[] = "KMGT";
    int64_t number = 0, factor = 1;
    const char *unit;

    if (end - text > 1 && (unit = strchr(units, end[-1])) != NULL) {
        factor = (int64_t)1 << (10 * (unit - units + 1));
        end--;
    }
    if (text == end)
        return false;
    for (; text != end; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, *text - '0', &number))
            return false;
    }
    return !__builtin_mul_overflow(number, factor, size);
}

static int take_size(const struct settings *settings, const char *name, const char *text, int64_t least,
                     int64_t *size)
{
    if (!parse_size(text, text + strlen(text), size))
        return usage(settings, "--%s: '%s' is not a number of bytes, such as 4096, 64K or 1G", name, text);
    if (*size < least)
        return usage(settings, "--%s: must be at least %lld", name, (long long)least);
    return -1;
}

static int take_range(struct settings *settings, const char *text)
{
    const char *colon = strchr(text, ':');
    const char *end = text + strlen(text);
    int64_t sum;

    settings->ranged = true;
    if (colon == NULL || !parse_size(text, colon, &settings->offset) ||
        (colon + 1 != end && (!parse_size(colon + 1, end, &settings->length) || settings->length == 0)) ||
        __builtin_add_overflow(settings->offset, settings->length, &sum))
        return usage(settings, "--range: '%s' is not OFFSET:LENGTH, or OFFSET: for all from there", text);
    return -1;
}

/* Decimal digits, and if need be a fraction: none of what strtod(3) takes besides, nor the locale's own point. */
static int take_seconds(const struct settings *settings, const char *name, const char *text, int64_t *ms)
{
    const int64_t most = 1000000000;
    int64_t whole = 0, thousandths = 0, unit = 100;
    const char *at = text;

    for (; *at >= '0' && *at <= '9' && whole <= most; at++)
        whole = whole * 10 + (*at - '0');
    if (at != text && *at == '.')
        for (at++; *at >= '0' && *at <= '9'; at++, unit /= 10)
            thousandths += (*at - '0') * unit;
    *ms = whole * 1000 + thousandths;
    if (at == text || *at != '\0' || *ms < 1 || whole > most)
        return usage(settings, "--%s: '%s' is not a number of seconds, such as 30 or 0.5", name, text);
    return -1;
}

static int take_mode(struct settings *settings, const char *text)
{
    const char *at;

    settings->mode = 0;
    for (at = text; *at >= '0' && *at <= '7' && at - text < 4; at++)
        settings->mode = settings->mode * 8 + (*at - '0');
    if (at == text || *at != '\0' || settings->mode > 0777)
        return usage(settings, "--mode: '%s' is not a mode from 0 to 777 in octal digits, such as 640", text);
    return -1;
}

static int take_preserve(struct settings *settings, const char *text)
{
    static const struct {
        const char *name;
        unsigned int bits;
    } known[] = {
        { "mode", PRESERVE_MODE },
        { "ownership", PRESERVE_OWNERSHIP },
        { "timestamps", PRESERVE_TIMESTAMPS },
        { "xattr", PRESERVE_XATTR },
        { "all", PRESERVE_MODE | PRESERVE_OWNERSHIP | PRESERVE_TIMESTAMPS | PRESERVE_XATTR },
    };
    const char *at = text != NULL ? text : "mode,ownership,timestamps";

    for (;;) {
        size_t length = strcspn(at, ","), i;

        for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            if (strlen(known[i].name) == length && strncmp(at, known[i].name, length) == 0)
                break;
        if (i == sizeof(known) / sizeof(known[0]))
            return usage(settings, "--preserve: '%.*s' is none of mode, ownership, timestamps, xattr, all",
                         (int)length, at);
        settings->preserve |= known[i].bits;
        if (at[length] == '\0')
            return -1;
        at += length + 1;
    }
}

static int take_sparse(struct settings *settings, const char *text)
{
    if (strcmp(text, "auto") == 0)
        settings->sparse = SPARSESTREAM_SPARSE_AUTO;
    else if (strcmp(text, "required") == 0)
        settings->sparse = SPARSESTREAM_SPARSE_REQUIRED;
    else if (strcmp(text, "never") == 0)
        settings->sparse = SPARSESTREAM_SPARSE_NEVER;
    else
        return usage(settings, "--sparse: '%s' is none of auto, required, never", text);
    return -1;
}

static int take_zero_block(struct settings *settings, const char *text)
{
    int64_t block = 0;

    settings->detect_zeroes = true;
    if (text == NULL)
        return -1;
    if (!parse_size(text, text + strlen(text), &block) || block < 512 || block > 1048576 ||
        (block & (block - 1)) != 0)
        return usage(settings, "--detect-zeroes: '%s' is not a power of two from 512 to 1M", text);
    settings->zero_block = (uint32_t)block;
    return -1;
}

static int take_progress(struct settings *settings, const char *text)
{
    if (text == NULL || strcmp(text, "bar") == 0)
        settings->progress = PROGRESS_BAR;
    else if (strcmp(text, "json") == 0)
        settings->progress = PROGRESS_JSON;
    else if (strcmp(text, "none") == 0)
        settings->progress = PROGRESS_NONE;
    else
        return usage(settings, "--progress: '%s' is none of bar, json, none", text);
    return -1;
}

static int take(struct settings *settings, int option, const char *text)
{
    switch (option) {
    case 'r':
        return take_range(settings, text);
    case 'a':
        return take_size(settings, "at", text, 0, &settings->at);
    case 's':
        return take_sparse(settings, text);
    case 'z':
        return take_zero_block(settings, text);
    case 'R':
        return take_size(settings, "rate", text, 1, &settings->rate);
    case 'o':
        return take_seconds(settings, "timeout", text, &settings->timeout_ms);
    case 'I':
        return take_seconds(settings, "idle-timeout", text, &settings->idle_ms);
    case 'M':
        return take_mode(settings, text);
    case 'V':
        return take_preserve(settings, text);
    case 'D':
        settings->device = true;
        return -1;
    case 'B':
        settings->shared = true;
        return -1;
    case 'K':
        settings->no_lock = true;
        return -1;
    case 'F':
        settings->force = true;
        return -1;
    case 'p':
        return take_progress(settings, text);
    case 'P':
        return take_size(settings, "checkpoint", text, 65536, &settings->checkpoint);
    case 'm':
        return take_size(settings, "max-size", text, 1, &settings->max_size);
    case 'w':
        if (!parse_size(text, text + strlen(text), &settings->rows) || settings->rows < 1 ||
            settings->rows > 1000)
            return usage(settings, "--rows: '%s' is not a number from 1 to 1000", text);
        return -1;
    case 'i':
        settings->ignore_map = true;
        return -1;
    case 'k':
        settings->known_zero = true;
        return -1;
    case 'S':
        settings->sync = true;
        return -1;
    case 't':
    case 'T':
        settings->truncate = option == 't';
        return -1;
    case 'q':
        settings->quiet = true;
        return -1;
    case 'j':
        settings->json = true;
        return -1;
    case 'l':
        settings->list = true;
        return -1;
    case 'H':
        settings->holes = true;
        return -1;
    case 'v':
        settings->verify = true;
        return -1;
    case 'X':
        settings->status = true;
        return -1;
    case 'Y':
        settings->strict = true;
        return -1;
    case 'W':
        settings->warn = true;
        return -1;
    case 'G':
        settings->ignore_missing = true;
        return -1;
    case 'c':
        settings->connect = text;
        return -1;
    case 'L':
        settings->listen = text;
        return -1;
    case 'x':
        settings->command_line = text;
        return -1;
    case 'A':
        settings->answers = true;
        return -1;
    case 'u':
        settings->resume = true;
        return -1;
    case 'U':
        settings->restart = true;
        return -1;
    case 'C':
        settings->checksum = true;
        return -1;
    case 'f':
        settings->state = text;
        return -1;
    default:
        return usage(settings, "option %d is not handled", option);
    }
}

static const char *name_of(int letter)
{
    int i;

    for (i = 0; i < OPTIONS; i++)
        if (options[i].val == letter)
            return options[i].name;
    return "?";
}

int parse_options(struct settings *settings, int argc, char **argv, const char *allowed)
{
    struct option taken[OPTIONS + 1] = { 0 };
    int option, count = 0, i;

    *settings = (struct settings){
        .command = settings->command,
        .at = -1,
        .truncate = -1,
        .rows = 1,
        .max_size = -1,
        .mode = -1,
    };
    for (i = 0; i < OPTIONS; i++)
        if (options[i].val == 'h' || strchr(allowed, options[i].val) != NULL) {
            taken[count] = options[i];
            taken[count++].val += LONG;
        }
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", taken, NULL)) != -1) {
        int r;

        if (option == 'h' || option == 'h' + LONG)
            return EXIT_OK;
        if (option == ':')
            return usage(settings, "--%s needs a value", name_of(optopt - LONG));
        if (option == '?' && optopt > LONG)
            return usage(settings, "--%s takes no value", name_of(optopt - LONG));
        if (option == '?' && optopt != 0)
            return usage(settings, "unknown option '-%c'", optopt);
        if (option == '?')
            return usage(settings, "unknown option '%s'", argv[optind - 1]);
        r = take(settings, option - LONG, optarg);
        if (r >= 0)
            return r;
    }
    if (settings->progress == PROGRESS_JSON)
        report_as_json();
    if (settings->quiet && settings->progress == PROGRESS_BAR)
        settings->progress = PROGRESS_NONE;
    return -1;
}
