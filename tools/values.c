/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The values of options. */

#include "values.h"

#include <string.h>

bool parse_size(const char *text, const char *end, int64_t *size)
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

int take_size(const struct settings *settings, const char *name, const char *text, int64_t least,
              int64_t *size)
{
    if (!parse_size(text, text + strlen(text), size))
        return usage(settings, "--%s: '%s' is not a number of bytes, such as 4096, 64K or 1G", name, text);
    if (*size < least)
        return usage(settings, "--%s: '%s' is less than %lld", name, text, (long long)least);
    return -1;
}

int take_number(const struct settings *settings, const char *name, const char *text, int64_t least, int64_t most,
                int64_t *number)
{
    if (!parse_size(text, text + strlen(text), number) || *number < least || *number > most)
        return usage(settings, "--%s: '%s' is not a number from %lld to %lld", name, text, (long long)least,
                     (long long)most);
    return -1;
}

int take_request_size(struct settings *settings, const char *text)
{
    enum { LEAST = 4096, MOST = 16 << 20 };
    int64_t size;

    if (!parse_size(text, text + strlen(text), &size) || size < LEAST || size > MOST || (size & (size - 1)) != 0)
        return usage(settings, "--request-size: '%s' is not a power of two from 4K to 16M", text);
    settings->export.request_size = size;
    return -1;
}

int take_range(struct settings *settings, const char *text)
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
int take_seconds(const struct settings *settings, const char *name, const char *text, int64_t *ms)
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
        return usage(settings, "--%s: '%s' is not a number of seconds from 0.001 to %lld, such as 30 or 0.5", name, text,
                     (long long)most);
    return -1;
}

int take_mode(struct settings *settings, const char *text)
{
    const char *at;

    settings->mode = 0;
    for (at = text; *at >= '0' && *at <= '7' && at - text < 4; at++)
        settings->mode = settings->mode * 8 + (*at - '0');
    if (at == text || *at != '\0' || settings->mode > 0777)
        return usage(settings, "--mode: '%s' is not a mode from 0 to 777 in octal digits, such as 640", text);
    return -1;
}

int take_preserve(struct settings *settings, const char *text)
{
    static const struct {
        const char *name;
        unsigned int bits;
    } known[] = {
        { "mode", PRESERVE_MODE },
        { "ownership", PRESERVE_OWNERSHIP },
        { "timestamps", PRESERVE_TIMESTAMPS },
        { "xattr", PRESERVE_XATTR },
        { "all", PRESERVE_MODE | PRESERVE_OWNERSHIP | PRESERVE_TIMESTAMPS | PRESERVE_XATTR | PRESERVE_WHAT_CAN_BE },
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

int take_sparse(struct settings *settings, const char *text)
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

int take_zero_block(struct settings *settings, const char *text)
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

int take_direct(struct settings *settings, const char *text)
{
    if (strcmp(text, "never") == 0)
        settings->direct = DIRECT_NEVER;
    else if (strcmp(text, "auto") == 0)
        settings->direct = DIRECT_AUTO;
    else if (strcmp(text, "always") == 0)
        settings->direct = DIRECT_ALWAYS;
    else
        return usage(settings, "--direct: '%s' is none of never, auto, always", text);
    return -1;
}

int take_progress(struct settings *settings, const char *text)
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
