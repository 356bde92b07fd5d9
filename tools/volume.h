/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Volumes of libvirt, libvirt+URI#POOL/VOLUME. The bridge to libvirt is loaded when one is named. */

#ifndef VOLUME_H
#define VOLUME_H

#include "tool.h"

bool is_volume(const char *name);
/* The first of the two names that is a volume's, or NULL. A name may be NULL. */
const char *volume_among(const char *one, const char *other);
/* Open one. `length` 0: to its end. Return 0 or an exit code, after a message. */
int volume_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source);
int volume_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink);

#endif
