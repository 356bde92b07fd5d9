/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Volumes as handles, and a range of one in a single call. */

#include "internal.h"

#include <errno.h>

/* The checks that every function makes first. */
static int begin(const options_t *given, uint64_t flags, options_t *options,
                 struct sparsestream_transfer_options *transfer, failure_t *failure)
{
    int r;

    error_clear(failure);
    r = options_read(given, flags, options, failure);
    return r < 0 ? r : options_transfer(options, transfer, failure);
}

int sparsestream_libvirt_sink_to_volume(virStorageVolPtr volume, int64_t offset, int64_t length,
                                        const options_t *given, failure_t *failure_out,
                                        struct sparsestream_sink **sink)
{
    struct sparsestream_transfer_options unused;
    options_t options;
    failure_t failure;
    int r;

    if (sink == NULL || error_check(failure_out) < 0)
        return -EINVAL;
    *sink = NULL;
    r = begin(given, SPARSESTREAM_LIBVIRT_NO_VERIFY, &options, &unused, &failure);
    if (r == 0)
        r = volume_sink(volume, offset, length, &options, true, &failure, sink);
    error_give(&failure, failure_out);
    return r;
}

int sparsestream_libvirt_source_from_volume(virStorageVolPtr volume, int64_t offset, int64_t length,
                                            const options_t *given, failure_t *failure_out,
                                            struct sparsestream_source **source)
{
    struct sparsestream_transfer_options unused;
    options_t options;
    failure_t failure;
    int r;

    if (source == NULL || error_check(failure_out) < 0)
        return -EINVAL;
    *source = NULL;
    r = begin(given, SPARSESTREAM_LIBVIRT_NO_PAUSE, &options, &unused, &failure);
    if (r == 0)
        r = volume_source(volume, offset, length, &options, true, &failure, source);
    error_give(&failure, failure_out);
    return r;
}

int sparsestream_libvirt_upload(virStorageVolPtr volume, int64_t offset, int64_t length,
                                struct sparsestream_source *source, const options_t *given,
                                struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct sparsestream_sink *sink = NULL;
    options_t options;
    failure_t failure;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(given, SPARSESTREAM_LIBVIRT_NO_VERIFY, &options, &transfer, &failure);
    if (r == 0 && source == NULL)
        r = error_set(&failure, -EINVAL, "the source is NULL");
    if (r == 0)
        r = volume_sink(volume, offset, length, &options, false, &failure, &sink);
    if (r == 0)
        r = run_to_end(source, sink, &transfer, stats, &failure);
    sparsestream_sink_free(sink);
    error_give(&failure, failure_out);
    return r;
}

int sparsestream_libvirt_download(virStorageVolPtr volume, int64_t offset, int64_t length,
                                  struct sparsestream_sink *sink, const options_t *given,
                                  struct sparsestream_stats *stats, failure_t *failure_out)
{
    struct sparsestream_transfer_options transfer;
    struct sparsestream_source *source = NULL;
    options_t options;
    failure_t failure;
    int r;

    if (error_check(failure_out) < 0)
        return -EINVAL;
    r = begin(given, SPARSESTREAM_LIBVIRT_NO_PAUSE, &options, &transfer, &failure);
    if (r == 0 && sink == NULL)
        r = error_set(&failure, -EINVAL, "the sink is NULL");
    if (r == 0)
        r = volume_source(volume, offset, length, &options, false, &failure, &source);
    if (r == 0)
        r = run_to_end(source, sink, &transfer, stats, &failure);
    sparsestream_source_free(source);
    error_give(&failure, failure_out);
    return r;
}
