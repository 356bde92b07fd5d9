/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* copy SRC DST, copy SRC... DIRECTORY */

#include "changes.h"
#include "compare.h"
#include "skip.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* One copy. */
struct copy {
    struct settings *settings;
    struct target from;
    struct target to;
    int64_t at;     /* where in the target, from its position on */
    int64_t length; /* of the stream; -1: not known */
    bool truncate;
    struct skipping skipping;
    struct changes changes;
};

/* Locks the part of the target that will be written. A target that may be truncated, or a range of unknown
 * length, is locked to the end. */
static int lock(struct copy *copy)
{
    bool all = copy->truncate;

    return lock_target(copy->settings, &copy->to, all ? 0 : copy->at, all || copy->length < 0 ? 0 : copy->length);
}

static int make_source(struct copy *copy, sparsestream_source **source)
{
    sparsestream_source_options options;

    if (copy->settings->skip_errors)
        return skip_source(&copy->skipping, copy->settings, &copy->from, copy->length, source);
    fill_source_options(&options, copy->settings, &copy->from);
    return sparsestream_source_from_fd(content_fd(&copy->from), &options, source);
}

static int make_sink(struct copy *copy, sparsestream_sink **sink)
{
    sparsestream_sink_options options;

    if (copy->settings->only_changes)
        return changes_sink(&copy->changes, copy->settings, &copy->to, copy->at, copy->truncate, sink);
    fill_sink_options(&options, copy->settings, &copy->to, copy->at, copy->truncate);
    return sparsestream_sink_to_fd(content_fd(&copy->to), &options, sink);
}

/* Reads back `length` bytes of the target, from the medium where the kernel lets go of what it holds in memory. */
static int verify(struct copy *copy, int64_t length)
{
    struct comparison comparison = { .holes_differ_at = -1 };
    sparsestream_source_options from, to = { .size = sizeof(to), .offset = copy->at, .length = length };
    int r;

    if (length == 0)
        return 0;
    if (fdatasync(copy->to.fd) < 0)
        return fail_errno(copy->to.name, "fdatasync", errno);
    posix_fadvise(copy->to.fd, 0, 0, POSIX_FADV_DONTNEED);
    if (copy->to.device)
        ioctl(copy->to.fd, BLKFLSBUF, 0);
    fill_source_options(&from, copy->settings, &copy->from);
    from.length = length;
    r = compare_open(copy->settings, &comparison.sides[0], &copy->from, &from);
    if (r == 0)
        r = compare_open(copy->settings, &comparison.sides[1], &copy->to, &to);
    if (r == 0)
        r = compare(&comparison, NULL);
    if (r == EXIT_DIFFERENT)
        fail(r, "%s: verification: differs from %s at offset %lld", copy->to.name, copy->from.name,
             (long long)(copy->at + comparison.at));
    compare_close(&comparison);
    return r;
}

/* Reading around errors, and comparing before a write, need the page cache. */
static int bypass_cache(struct copy *copy)
{
    const struct settings *settings = copy->settings;
    int r = 0;

    if (!settings->skip_errors)
        r = open_direct(settings, &copy->from, &copy->to, false);
    if (r == 0 && !settings->only_changes)
        r = open_direct(settings, &copy->to, &copy->from, true);
    return r;
}

static int run(struct copy *copy)
{
    struct settings *settings = copy->settings;
    const struct names names = { .source = copy->from.name, .sink = copy->to.name };
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    struct progress progress = { 0 };
    int64_t total = -1, work = -1;
    int r;

    if (settings->progress != PROGRESS_NONE)
        measure(&copy->from, settings, &total, &work);
    r = bypass_cache(copy);
    if (r != 0)
        return r;
    r = make_source(copy, &source);
    if (r < 0) {
        r = fail_library(copy->from.name, r);
    } else if ((r = make_sink(copy, &sink)) < 0) {
        r = fail_library(copy->to.name, r);
    } else {
        progress_start(&progress, settings->progress, "copy", total, work);
        r = run_transfer(source, sink, settings, &names, &progress);
    }
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    standard_advance(&copy->to, copy->at + progress.position);
    standard_advance(&copy->from, settings->offset + progress.position);
    if (r == 0 && settings->read_back)
        r = verify(copy, progress.position);
    if (r == 0)
        r = preserve(settings, &copy->from, &copy->to);
    if (r == 0 && (r = close_target(&copy->to, settings->sync)) == 0)
        progress_end(&progress);
    if (r == 0 && settings->only_changes)
        report_event("changes", "%s: %lld of %lld bytes were different", copy->to.name, (long long)copy->changes.bytes,
             (long long)copy->changes.total);
    skip_end_at(&copy->skipping, progress.position);
    return skip_report(&copy->skipping, settings, r);
}

/* Checks that the two ends can do what the options need. */
static int check_ends(const struct copy *copy)
{
    const struct settings *settings = copy->settings;
    bool seeks = copy->from.regular || copy->from.device;
    bool reads_target = settings->read_back || settings->only_changes;
    int r;

    if (copy->to.append && settings->at >= 0)
        return usage(settings, "--at: standard output is in append mode, and is only written at its end");
    r = check_offset(settings, "at", &copy->to, settings->at);
    if (r != 0)
        return r;
    if (reads_target && (copy->to.path == NULL || (copy->to.fd >= 0 && !copy->to.regular && !copy->to.device)))
        return usage(settings, "--%s: %s cannot be read back", settings->read_back ? "verify" : "only-changes",
                     copy->to.name);
    if (settings->read_back && !seeks)
        return usage(settings, "--verify: %s cannot be read again", copy->from.name);
    r = skip_check(settings, &copy->from, copy->length);
    if (r != 0)
        return r;
    return copy->to.fd < 0 && copy->to.path != NULL ? 0 : check_preserve(settings, &copy->from, &copy->to);
}

/* The blocks that `cp --sparse=always` looks at, so that a copy allocates no more. All targets are in one place. */
static uint32_t zero_block(const struct target *to)
{
    enum { LEAST = 512, MOST = 4096 };
    blksize_t block = to->regular ? to->st.st_blksize : MOST;

    return block >= LEAST && block < MOST && (block & (block - 1)) == 0 ? (uint32_t)block : MOST;
}

static int copy_opened(struct copy *copy)
{
    struct settings *settings = copy->settings;
    /* A copy to the start replaces the whole file; with --at, the rest of the file is left alone. */
    bool whole = settings->at < 0 && copy->to.path != NULL;
    int r;

    if (settings->zero_block == 0)
        settings->zero_block = zero_block(&copy->to);
    copy->at = settings->at < 0 ? 0 : settings->at;
    copy->length = length_of(settings, &copy->from);
    copy->truncate = copy->to.regular && !copy->to.append && (settings->truncate >= 0 ? settings->truncate : whole);
    if (same_file(&copy->from, &copy->to))
        return fail(EXIT_REFUSED, "%s and %s are the same file", copy->from.name, copy->to.name);
    r = check_ends(copy);
    if (r == 0)
        r = check_room(&copy->to, copy->to.position + copy->at, copy->length);
    if (r == 0)
        r = lock(copy);
    if (r == 0 && settings->dry_run)
        return show_plan(settings, &copy->from, &copy->to, copy->length, copy->truncate);
    if (r == 0)
        r = skip_open_map(&copy->skipping, settings, &copy->from, &copy->to);
    if (r == 0)
        r = preallocate(settings, &copy->from, &copy->to, copy->to.position + copy->at);
    if (r != 0)
        return skip_report(&copy->skipping, settings, r);
    r = run(copy);
    changes_free(&copy->changes);
    return r;
}

static int copy_one(struct settings *settings, const char *source, const char *target)
{
    struct copy copy = { .settings = settings };
    struct opening opening = {
        .existing = settings->dry_run,
        .readable = settings->read_back || settings->only_changes,
    };
    int r = open_source(settings, source, &copy.from);

    if (r != 0)
        return r;
    r = check_range(settings, &copy.from);
    if (r == 0) {
        opening.mode = mode_of_new(settings, &copy.from);
        warn_of_writers(settings, &copy.from);
        r = open_target(settings, target, &opening, &copy.to);
        if (r == 0)
            r = copy_opened(&copy);
        abandon_target(&copy.to);
    }
    close_direct(&copy.from);
    close(copy.from.fd);
    return r;
}

/* The name of a source in the directory. The caller frees it. */
static char *name_in(const char *directory, const char *source)
{
    char *copy = strdup(source), *path = NULL;

    if (copy != NULL && asprintf(&path, "%s/%s", directory, basename(copy)) < 0)
        path = NULL;
    free(copy);
    return path;
}

/* Each source into the directory. After a failure the others are copied all the same. */
static int copy_into(struct settings *settings, int count, char **sources, const char *directory)
{
    char **paths = calloc((size_t)count, sizeof(*paths));
    int i, j, first = paths == NULL ? fail_errno(directory, NULL, ENOMEM) : 0;

    for (i = 0; i < count && first == 0; i++) {
        if (strcmp(sources[i], "-") == 0)
            first = usage(settings, "copy: standard input has no name in %s", directory);
        else if ((paths[i] = name_in(directory, sources[i])) == NULL)
            first = fail_errno(directory, NULL, ENOMEM);
        for (j = 0; j < i && first == 0; j++)
            if (strcmp(paths[i], paths[j]) == 0)
                first = usage(settings, "copy: %s and %s would both be %s", sources[j], sources[i], paths[i]);
    }
    for (i = first == 0 ? 0 : count; i < count && !is_cancelled(); i++) {
        int r = copy_one(settings, sources[i], paths[i]);

        if (first == 0)
            first = r;
    }
    for (i = 0; paths != NULL && i < count; i++)
        free(paths[i]);
    free(paths);
    return first;
}

static int check_options(const struct settings *settings)
{
    int r = skip_check_options(settings);

    if (r != 0)
        return r;
    if (settings->read_back && settings->skip_errors)
        return usage(settings, "--verify and --on-read-error=skip cannot be combined");
    if (settings->only_changes && (settings->known_zero || settings->preallocate))
        return usage(settings, "--only-changes cannot be combined with --known-zero or --preallocate");
    if (settings->only_changes && settings->sparse == SPARSESTREAM_SPARSE_NEVER)
        return usage(settings, "--only-changes and --sparse=never cannot be combined");
    return 0;
}

int command_copy(struct settings *settings, int count, char **operands)
{
    const char *last = count > 0 ? operands[count - 1] : NULL;
    struct stat st;
    int r = check_options(settings);

    if (r != 0)
        return r;
    if (count < 2)
        return usage(settings, "copy needs a source and a target");
    signals_catch();
    if (strcmp(last, "-") != 0 && stat(last, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (count > 2 && settings->error_map != NULL)
            return usage(settings, "--error-map: there is more than one source");
        return copy_into(settings, count - 1, operands, last);
    }
    if (count > 2)
        return usage(settings, "copy: extra operand '%s', which is not a directory", last);
    return copy_one(settings, operands[0], last);
}
