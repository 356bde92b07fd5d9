/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Which operands are not files, and who opens them. */

#include "remote.h"

#include "export.h"
#include "volume.h"

bool is_remote(const char *name)
{
    return is_volume(name) || is_export(name);
}

bool names_remote(int count, char **operands)
{
    int i;

    for (i = 0; i < count; i++)
        if (is_remote(operands[i]))
            return true;
    return false;
}

int remote_source(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                  sparsestream_source **source)
{
    if (is_export(name))
        return export_source(settings, name, offset, length, source);
    return volume_source(settings, name, offset, length, source);
}

int remote_sink(const struct settings *settings, const char *name, int64_t offset, int64_t length,
                sparsestream_sink **sink)
{
    if (is_export(name))
        return export_sink(settings, name, offset, length, sink);
    return volume_sink(settings, name, offset, length, sink);
}

void remote_tune(sparsestream_transfer_options *options)
{
    export_tune(options);
}

int remote_close(int result)
{
    return export_close(result);
}
