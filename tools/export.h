/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Exports of NBD servers, by URI, and disk images, as qcow2:FILE. The bridge to NBD is loaded when one is named. */

#ifndef EXPORT_H
#define EXPORT_H

#include "tool.h"

bool is_export(const char *name);
/* Open one. `length` 0: to its end. Return 0 or an exit code, after a message. */
int export_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source);
int export_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink);
/* Reports the sections of the range of --range. Returns 0 or an exit code, after a message. */
int export_map(const struct settings *settings, const char *name,
               int (*section)(void *opaque, const sparsestream_section *section), void *opaque);
void export_tune(sparsestream_transfer_options *options);
/* Refuses options that no operand uses. Returns 0 or an exit code, after a message. */
int export_check_options(const struct settings *settings, int count, char **operands);
/* As remote_close. */
int export_close(int result);

#endif
