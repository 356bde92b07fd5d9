/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Reads an operand that is not a file for commands that need its sections, or a descriptor. */

#include "export.h"
#include "remote.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- Sections ---- */

static int add(struct section_list *list, int kind, int64_t offset, int64_t length)
{
    sparsestream_section *last = list->count == 0 ? NULL : &list->sections[list->count - 1];

    if (last != NULL && last->kind == kind) {
        last->length += length;
        return 0;
    }
    if (list->count == list->room) {
        size_t room = list->room == 0 ? 64 : 2 * list->room;
        sparsestream_section *grown = reallocarray(list->sections, room, sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        list->sections = grown;
        list->room = room;
    }
    list->sections[list->count++] = (sparsestream_section){
        .size = sizeof(sparsestream_section), .kind = kind, .offset = offset, .length = length,
    };
    return 0;
}

struct lister {
    struct section_list *list;
    int64_t offset;
};

static int64_t list_data(void *opaque, const void *buffer, size_t length)
{
    struct lister *lister = opaque;
    int r = add(lister->list, SPARSESTREAM_DATA, lister->offset, (int64_t)length);

    (void)buffer;
    lister->offset += (int64_t)length;
    return r < 0 ? r : (int64_t)length;
}

static int64_t list_hole(void *opaque, int64_t length)
{
    struct lister *lister = opaque;
    int r = add(lister->list, SPARSESTREAM_HOLE, lister->offset, length);

    lister->offset += length;
    return r < 0 ? r : length;
}

static int add_section(void *opaque, const sparsestream_section *section)
{
    return add(opaque, section->kind, section->offset, section->length);
}

int remote_sections(const struct settings *settings, const char *name, struct section_list *list)
{
    static const sparsestream_sink_ops ops = { .size = sizeof(ops), .write = list_data, .hole = list_hole };
    const struct names names = { .source = name, .sink = name };
    struct lister lister = { .list = list, .offset = settings->offset };
    sparsestream_source *source = NULL;
    sparsestream_sink *sink = NULL;
    struct progress progress = { 0 };
    int r;

    *list = (struct section_list){ 0 };
    signals_catch();
    if (is_export(name))
        return remote_close(export_map(settings, name, add_section, list));
    r = remote_source(settings, name, settings->offset, settings->length, &source);
    if (r != 0)
        return r;
    r = sparsestream_sink_to_callbacks(&ops, &lister, &sink);
    if (r < 0) {
        r = fail_library(name, r);
    } else {
        progress_start(&progress, settings->progress, "map", -1, -1);
        r = run_transfer(source, sink, settings, &names, &progress);
    }
    sparsestream_sink_free(sink);
    sparsestream_source_free(source);
    return remote_close(r);
}

/* ---- A pipe ---- */

struct pump {
    pthread_t thread;
    sparsestream_source *source;
    sparsestream_sink *sink;
    sparsestream_transfer *transfer;
    const char *name;
    int64_t timeout_ms;
    int fd;
    int result;
    sparsestream_error error;
};

static void *run_pump(void *opaque)
{
    struct pump *pump = opaque;

    pump->result = sparsestream_transfer_run(pump->transfer, 0);
    if (pump->result < 0) {
        pump->error.size = sizeof(pump->error);
        sparsestream_transfer_error(pump->transfer, &pump->error);
    }
    close(pump->fd);
    return NULL;
}

static void pump_free(struct pump *pump)
{
    sparsestream_transfer_free(pump->transfer);
    sparsestream_sink_free(pump->sink);
    sparsestream_source_free(pump->source);
    free(pump);
}

/* Returns 0 or an exit code, after a message, with the pump's descriptor open. */
static int pump_start(struct pump *pump, const struct settings *settings)
{
    sparsestream_transfer_options options = { .size = sizeof(options) };
    int r = remote_source(settings, pump->name, settings->offset, settings->length, &pump->source);

    if (r != 0)
        return r;
    r = sparsestream_sink_to_fd(pump->fd, NULL, &pump->sink);
    remote_tune(&options);
    if (r == 0)
        r = sparsestream_transfer_new(pump->source, pump->sink, &options, &pump->transfer);
    if (r < 0)
        return fail_library(pump->name, r);
    r = pthread_create(&pump->thread, NULL, run_pump, pump);
    return r != 0 ? fail_errno(pump->name, "pthread_create", r) : 0;
}

int remote_pipe_open(const struct settings *settings, const char *name, struct remote_pipe *out)
{
    struct pump *pump = calloc(1, sizeof(*pump));
    int ends[2], r;

    *out = (struct remote_pipe){ .fd = -1 };
    if (pump == NULL)
        return fail_errno(name, NULL, ENOMEM);
    if (pipe2(ends, O_CLOEXEC) < 0) {
        free(pump);
        return fail_errno(name, "pipe", errno);
    }
    fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
    pump->name = name;
    pump->timeout_ms = settings->timeout_ms;
    pump->fd = ends[1];
    r = pump_start(pump, settings);
    if (r != 0) {
        close(ends[0]);
        close(ends[1]);
        pump_free(pump);
        return r;
    }
    *out = (struct remote_pipe){ .fd = ends[0], .pump = pump };
    return 0;
}

/* Waits for the thread, which may be in a call of libvirt that does not return. Returns whether it has ended. */
static bool pump_join(const struct pump *pump)
{
    enum { STEP_MS = 5 };
    int64_t end = now_ms() + pump->timeout_ms;

    if (pump->timeout_ms == 0)
        return pthread_join(pump->thread, NULL) == 0;
    while (pthread_tryjoin_np(pump->thread, NULL) == EBUSY) {
        if (now_ms() >= end)
            return false;
        sleep_ms(STEP_MS);
    }
    return true;
}

int remote_pipe_close(struct remote_pipe *pipe, int result)
{
    struct pump *pump = pipe->pump;

    close(pipe->fd);
    pipe->fd = -1;
    if (result != 0)
        sparsestream_transfer_cancel(pump->transfer);
    if (!pump_join(pump))
        return result != 0 ? result : fail(EXIT_LOCAL, "%s: no answer within %lld ms (ETIMEDOUT)", pump->name,
                                           (long long)pump->timeout_ms);
    /* The reader's failure takes precedence: the pump then fails because of it. */
    if (result == 0 && pump->result < 0) {
        const char *symbol = error_name(pump->error.code);

        result = fail(EXIT_LOCAL, "%s: %s (%s)", pump->name, without_side(pump->error.message),
                      symbol != NULL ? symbol : "?");
    }
    pump_free(pump);
    return result;
}
