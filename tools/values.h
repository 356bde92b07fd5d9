/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The values of options. Each take_ function returns -1 to continue, or EXIT_USAGE after a message. */

#ifndef VALUES_H
#define VALUES_H

#include "tool.h"

/* Digits with an optional K, M, G or T, powers of 1024, up to `end`. */
bool parse_size(const char *text, const char *end, int64_t *size);
int take_size(const struct settings *settings, const char *name, const char *text, int64_t least, int64_t *size);
int take_number(const struct settings *settings, const char *name, const char *text, int64_t least, int64_t most,
                int64_t *number);
int take_request_size(struct settings *settings, const char *text);
int take_range(struct settings *settings, const char *text);
int take_seconds(const struct settings *settings, const char *name, const char *text, int64_t *ms);
int take_mode(struct settings *settings, const char *text);
int take_preserve(struct settings *settings, const char *text);
int take_sparse(struct settings *settings, const char *text);
int take_zero_block(struct settings *settings, const char *text);
int take_direct(struct settings *settings, const char *text);
int take_progress(struct settings *settings, const char *text);

#endif
