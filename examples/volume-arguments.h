/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Numbers on the command lines of volume-daemon and volume-client. */

#ifndef VOLUME_ARGUMENTS_H
#define VOLUME_ARGUMENTS_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A decimal number with an optional K, M, G or T (powers of 1024), or an end of the program with code 2. */
static inline int64_t parse_size(const char *program, const char *name, const char *text)
{
    static const char units[] = "KMGT";
    const char *unit;
    char *end;
    long long number;
    int64_t factor = 1;

    errno = 0;
    number = strtoll(text, &end, 10);
    if (*end != '\0' && (unit = strchr(units, *end)) != NULL) {
        factor = (int64_t)1 << (10 * (unit - units + 1));
        end++;
    }
    if (end == text || *end != '\0' || errno != 0 || number < 0 || number > INT64_MAX / factor) {
        fprintf(stderr, "%s: %s: '%s' is not a number of bytes\n", program, name, text);
        exit(2);
    }
    return number * factor;
}

#endif
