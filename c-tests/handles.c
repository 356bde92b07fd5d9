/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Handles: references, types, the order in which they are freed, and callbacks that use their own. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

static const struct piece sample[] = { DATA(5000), HOLE(100000), DATA(5000) };

/* Streams whose every function tries everything with the handles that it serves. */

struct meddler {
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    /* The other end, with which a transfer could be made. */
    struct sparsestream_source *other_source;
    struct sparsestream_sink *other_sink;
    int calls, aborts, frees;
    struct journal *journal;
};

static void check_ignored(const char *what)
{
    CHECK_CONTAINS(sparsestream_last_error(), what);
    CHECK_CONTAINS(sparsestream_last_error(), "Device or resource busy");
}

static void meddle(struct meddler *meddler)
{
    struct sparsestream_transfer *made = NULL;
    char buffer[16] = "";
    struct sparsestream_section section = { .size = sizeof section };

    meddler->calls++;
    if (meddler->source != NULL) {
        CHECK_CODE(sparsestream_source_read(meddler->source, buffer, sizeof buffer), -EBUSY);
        CHECK_CODE(sparsestream_source_section(meddler->source, &section), -EBUSY);
        CHECK_CODE(sparsestream_source_skip(meddler->source, 1), -EBUSY);
        CHECK_CODE(sparsestream_source_finish(meddler->source), -EBUSY);
        CHECK_CODE(sparsestream_source_abort(meddler->source, EIO), -EBUSY);
        if (meddler->other_sink != NULL)
            CHECK_CODE(sparsestream_transfer_new(meddler->source, meddler->other_sink, NULL, &made),
                       -EBUSY);
        sparsestream_source_free(meddler->source);
        check_ignored("source");
    }
    if (meddler->sink != NULL) {
        CHECK_CODE(sparsestream_sink_write(meddler->sink, buffer, sizeof buffer), -EBUSY);
        CHECK_CODE(sparsestream_sink_hole(meddler->sink, 1), -EBUSY);
        CHECK_CODE(sparsestream_sink_finish(meddler->sink), -EBUSY);
        CHECK_CODE(sparsestream_sink_abort(meddler->sink, EIO), -EBUSY);
        if (meddler->other_source != NULL)
            CHECK_CODE(sparsestream_transfer_new(meddler->other_source, meddler->sink, NULL, &made),
                       -EBUSY);
        sparsestream_sink_free(meddler->sink);
        check_ignored("sink");
    }
    if (meddler->transfer != NULL) {
        CHECK_CODE(sparsestream_transfer_run(meddler->transfer, 1), -EBUSY);
        CHECK_CODE(sparsestream_transfer_stats(meddler->transfer,
                                               &(struct sparsestream_stats) { .size = 8 }), -EBUSY);
        sparsestream_transfer_free(meddler->transfer);
        check_ignored("transfer");
        CHECK_CODE(sparsestream_transfer_cancel(meddler->transfer), 0);
    }
    CHECK(made == NULL);
}

static void meddler_note(struct meddler *meddler, char letter)
{
    if (meddler->journal != NULL) {
        meddler->journal->text[meddler->journal->length++] = letter;
        meddler->journal->text[meddler->journal->length] = '\0';
    }
}

static int64_t meddler_recv(void *opaque, void *buffer, size_t length)
{
    meddle(opaque);
    memset(buffer, 'x', length);
    return (int64_t) length;
}

static int64_t meddler_send(void *opaque, const void *buffer, size_t length)
{
    (void) buffer;
    meddle(opaque);
    return (int64_t) length;
}

static int64_t meddler_send_hole(void *opaque, int64_t length)
{
    meddle(opaque);
    return length;
}

static int meddler_finish(void *opaque)
{
    meddle(opaque);
    return 0;
}

static void meddler_abort(void *opaque, int error)
{
    struct meddler *meddler = opaque;

    CHECK_INT(error, ==, ECANCELED);
    meddler_note(meddler, meddler->source != NULL ? 'a' : 'A');
    meddler->aborts++;
    meddle(meddler);
}

static void meddler_free(void *opaque)
{
    struct meddler *meddler = opaque;

    meddler_note(meddler, meddler->source != NULL ? 'x' : 'X');
    meddler->frees++;
    meddle(meddler);
}

static const struct sparsestream_stream_ops meddler_ops = {
    .size = sizeof meddler_ops,
    .free = meddler_free,
    .send = meddler_send,
    .send_hole = meddler_send_hole,
    .recv = meddler_recv,
    .finish = meddler_finish,
    .abort = meddler_abort,
};

static struct sparsestream_source *meddler_source(struct meddler *meddler)
{
    REQUIRE(sparsestream_source_from_stream(&meddler_ops, meddler, &meddler->source) == 0);
    return meddler->source;
}

static struct sparsestream_sink *meddler_sink(struct meddler *meddler)
{
    REQUIRE(sparsestream_sink_to_stream(&meddler_ops, meddler, &meddler->sink) == 0);
    return meddler->sink;
}

static void callbacks_cannot_use_their_own_handle_by_hand(void)
{
    struct end from = { .from = &(struct content) { .count = 0 } }, to = { .to = NULL };
    struct meddler in = { .other_sink = end_sink(&to) }, out = { .other_source = end_source(&from) };
    struct sparsestream_source *source = meddler_source(&in);
    struct sparsestream_sink *sink = meddler_sink(&out);
    char buffer[16] = "";

    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 16);
    CHECK_CODE(sparsestream_sink_write(sink, buffer, sizeof buffer), 16);
    CHECK_CODE(sparsestream_sink_hole(sink, 5), 5);
    CHECK_INT(in.calls, ==, 1);
    CHECK_INT(out.calls, ==, 2);
    /* Used and not finished: aborted, then freed, once each. */
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(in.aborts, ==, 1);
    CHECK_INT(in.frees, ==, 1);
    CHECK_INT(in.calls, ==, 3);
    CHECK_INT(out.aborts, ==, 1);
    CHECK_INT(out.frees, ==, 1);
    CHECK_INT(out.calls, ==, 4);
    sparsestream_source_free(out.other_source);
    sparsestream_sink_free(in.other_sink);
}

static void callbacks_cannot_use_their_own_handle_in_a_transfer(void)
{
    for (int ends_first = 0; ends_first < 2; ends_first++) {
        struct journal journal = { .length = 0 };
        struct meddler in = { .journal = &journal }, out = { .journal = &journal };
        struct sparsestream_source *source = meddler_source(&in);
        struct sparsestream_sink *sink = meddler_sink(&out);
        struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL);

        context("ends first: %d", ends_first);
        CHECK_CODE(sparsestream_transfer_run(transfer, 1), 1);
        CHECK_INT(in.calls, >=, 1);
        CHECK_INT(out.calls, >=, 1);
        in.transfer = out.transfer = transfer;
        if (ends_first) {
            sparsestream_source_free(source);
            sparsestream_sink_free(sink);
            CHECK_STR(journal.text, "");
        }
        sparsestream_transfer_free(transfer);
        in.transfer = out.transfer = NULL;
        if (!ends_first) {
            CHECK_STR(journal.text, "Aa");
            sparsestream_source_free(source);
            sparsestream_sink_free(sink);
            CHECK_STR(journal.text, "AaxX");
        } else {
            CHECK_STR(journal.text, "AaXx");
        }
        CHECK_INT(in.aborts, ==, 1);
        CHECK_INT(in.frees, ==, 1);
        CHECK_INT(out.aborts, ==, 1);
        CHECK_INT(out.frees, ==, 1);
    }
}

/* Progress runs within the transfer. */
static int meddling_progress(void *opaque, const struct sparsestream_stats *stats)
{
    struct meddler *meddler = opaque;

    (void) stats;
    meddle(meddler);
    return 0;
}

static void progress_cannot_use_its_own_transfer(void)
{
    struct content content = { .count = 0 };
    struct end from = { .from = &content }, to = { .to = NULL };
    struct meddler meddler = { .source = end_source(&from), .sink = end_sink(&to) };

    content_lay_out(&content, sample, COUNT(sample), 1);
    meddler.transfer = new_transfer(meddler.source, meddler.sink,
                                    TRANSFER_OPTIONS(.progress = meddling_progress, .opaque = &meddler));
    CHECK_CODE(sparsestream_transfer_run(meddler.transfer, 0), -ECANCELED);
    CHECK_INT(meddler.calls, >=, 1);
    sparsestream_transfer_free(meddler.transfer);
    sparsestream_source_free(meddler.source);
    sparsestream_sink_free(meddler.sink);
    CHECK_INT(from.frees, ==, 1);
    CHECK_INT(to.frees, ==, 1);
    content_free(&content);
}

/* Handles may be freed in any order, whatever has become of the transfer. */

enum { SOURCE, SINK, TRANSFER, HANDLES };
enum progress { UNUSED, UNDER_WAY, DONE, STAGES };

static void free_in_order(const int order[HANDLES], enum progress progress)
{
    struct journal journal = { .length = 0 };
    struct content content = { .count = 0 }, taken = { .count = 0 };
    struct end from = { .from = &content, .journal = &journal };
    struct end to = { .to = &taken, .journal = &journal };
    struct sparsestream_source *source = end_stream_source(&from);
    struct sparsestream_sink *sink = end_stream_sink(&to);
    struct sparsestream_transfer *transfer;
    bool freed[HANDLES] = { false };

    context("order %d %d %d, %s", order[0], order[1], order[2],
            progress == UNUSED ? "unused" : progress == DONE ? "done" : "under way");
    content_lay_out(&content, sample, COUNT(sample), 2);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    if (progress != UNUSED)
        CHECK_CODE(sparsestream_transfer_run(transfer, progress == DONE ? 0 : 1), progress != DONE);
    journal.length = 0;
    journal.text[0] = '\0';
    for (int i = 0; i < HANDLES; i++) {
        if (order[i] == SOURCE)
            sparsestream_source_free(source);
        else if (order[i] == SINK)
            sparsestream_sink_free(sink);
        else
            sparsestream_transfer_free(transfer);
        freed[order[i]] = true;
        /* An end lives until its own handle and the transfer are freed. */
        CHECK_INT(from.frees, ==, freed[SOURCE] && freed[TRANSFER]);
        CHECK_INT(to.frees, ==, freed[SINK] && freed[TRANSFER]);
        CHECK_INT(from.aborts, ==, freed[TRANSFER] && progress == UNDER_WAY);
        CHECK_INT(to.aborts, ==, freed[TRANSFER] && progress == UNDER_WAY);
        if (order[i] == TRANSFER && freed[SOURCE] && freed[SINK])
            CHECK_STR(journal.text, progress == UNDER_WAY ? "AaXx" : "Xx");
    }
    content_free(&content);
    content_free(&taken);
}

static void handles_may_be_freed_in_any_order(void)
{
    static const int orders[][HANDLES] = {
        { SOURCE, SINK, TRANSFER }, { SOURCE, TRANSFER, SINK }, { SINK, SOURCE, TRANSFER },
        { SINK, TRANSFER, SOURCE }, { TRANSFER, SOURCE, SINK }, { TRANSFER, SINK, SOURCE },
    };

    for (size_t i = 0; i < COUNT(orders); i++) {
        for (int progress = 0; progress < STAGES; progress++)
            free_in_order(orders[i], (enum progress) progress);
    }
}

/* A transfer continues after the handles of its ends were freed. */
static void a_transfer_holds_its_ends(void)
{
    struct content content = { .count = 0 }, taken = { .count = 0 };
    struct end from = { .from = &content }, to = { .to = &taken };
    struct sparsestream_source *source = end_stream_source(&from);
    struct sparsestream_sink *sink = end_stream_sink(&to);
    struct sparsestream_transfer *transfer;
    char buffer[16];

    content_lay_out(&content, sample, COUNT(sample), 2);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(transfer, 1), 1);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    /* The handles no longer exist for their caller, but the ends do. */
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), -EINVAL);
    CHECK_CONTAINS(sparsestream_last_error(), "freed");
    sparsestream_source_free(source);
    CHECK_CONTAINS(sparsestream_last_error(), "freed");
    CHECK_CODE(sparsestream_sink_write(sink, "x", 1), -EINVAL);
    sparsestream_sink_free(sink);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_CONTENT(&taken, &content);
    CHECK_INT(from.frees + to.frees, ==, 0);
    CHECK_INT(from.finishes, ==, 1);
    sparsestream_transfer_free(transfer);
    CHECK_INT(from.frees, ==, 1);
    CHECK_INT(to.frees, ==, 1);
    content_free(&content);
    content_free(&taken);
}

/* A handle of one type is not taken for another. */
static void another_type_is_refused(void)
{
    struct content content = { .count = 0 };
    struct end from = { .from = &content }, to = { .to = NULL };
    struct sparsestream_source *source = end_source(&from);
    struct sparsestream_sink *sink = end_sink(&to);
    struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL), *made = NULL;
    struct sparsestream_stats stats = { .size = sizeof stats };
    void *const handles[] = { source, sink, transfer };
    char buffer[16] = "";

    for (size_t i = 0; i < COUNT(handles); i++) {
        context("handle %zu", i);
        if (handles[i] != source) {
            CHECK_CODE(sparsestream_source_read(handles[i], buffer, sizeof buffer), -EINVAL);
            CHECK_CODE(sparsestream_source_finish(handles[i]), -EINVAL);
            CHECK_CODE(sparsestream_transfer_new(handles[i], sink, NULL, &made), -EINVAL);
            CHECK_CODE(sparsestream_send_all(handles[i], &end_stream_ops,
                                             &(struct end) { .to = NULL }, NULL, NULL), -EINVAL);
            sparsestream_source_free(handles[i]);
            CHECK_CONTAINS(sparsestream_last_error(), "source");
        }
        if (handles[i] != sink) {
            CHECK_CODE(sparsestream_sink_write(handles[i], buffer, sizeof buffer), -EINVAL);
            CHECK_CODE(sparsestream_sink_finish(handles[i]), -EINVAL);
            CHECK_CODE(sparsestream_transfer_new(source, handles[i], NULL, &made), -EINVAL);
            sparsestream_sink_free(handles[i]);
            CHECK_CONTAINS(sparsestream_last_error(), "sink");
        }
        if (handles[i] != transfer) {
            CHECK_CODE(sparsestream_transfer_run(handles[i], 0), -EINVAL);
            CHECK_CODE(sparsestream_transfer_stats(handles[i], &stats), -EINVAL);
            CHECK_CODE(sparsestream_transfer_cancel(handles[i]), -EINVAL);
            sparsestream_transfer_free(handles[i]);
            CHECK_CONTAINS(sparsestream_last_error(), "transfer");
        }
    }
    CHECK(made == NULL);
    CHECK_INT(from.frees + to.frees + from.own_calls + to.own_calls, ==, 0);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(from.frees, ==, 1);
    CHECK_INT(to.frees, ==, 1);
}

/* An end that is in use when its transfer is freed is aborted when that call is done; the other one at once. */

struct busy {
    pthread_barrier_t inside, leave;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    int aborts, frees;
    bool waits;
    int64_t answer;
};

static void busy_wait(struct busy *busy)
{
    if (busy->waits) {
        busy->waits = false;
        pthread_barrier_wait(&busy->inside);
        pthread_barrier_wait(&busy->leave);
        CHECK_INT(busy->aborts, ==, 0);
    }
}

static int64_t busy_recv(void *opaque, void *buffer, size_t length)
{
    busy_wait(opaque);
    memset(buffer, 'x', length);
    return (int64_t) length;
}

static int64_t busy_send(void *opaque, const void *buffer, size_t length)
{
    (void) buffer;
    busy_wait(opaque);
    return (int64_t) length;
}

static void busy_abort(void *opaque, int error)
{
    struct busy *busy = opaque;

    CHECK_INT(error, ==, ECANCELED);
    busy->aborts++;
}

static void busy_free(void *opaque)
{
    struct busy *busy = opaque;

    busy->frees++;
}

static const struct sparsestream_stream_ops busy_ops = {
    .size = sizeof busy_ops,
    .free = busy_free,
    .send = busy_send,
    .recv = busy_recv,
    .abort = busy_abort,
};

static void *use_by_hand(void *opaque)
{
    struct busy *busy = opaque;
    char buffer[16] = "";

    busy->answer = busy->source != NULL
                       ? sparsestream_source_read(busy->source, buffer, sizeof buffer)
                       : sparsestream_sink_write(busy->sink, buffer, sizeof buffer);
    return NULL;
}

static void a_busy_end_is_aborted_when_its_call_is_done(void)
{
    for (int side = 0; side < 2; side++) {
        struct busy in = { .waits = false }, out = { .waits = false };
        struct busy *busy = side == SOURCE ? &in : &out, *idle = side == SOURCE ? &out : &in;
        struct sparsestream_source *source = NULL;
        struct sparsestream_sink *sink = NULL;
        struct sparsestream_transfer *transfer;
        pthread_t thread;

        context("busy: %s", side == SOURCE ? "source" : "sink");
        REQUIRE(sparsestream_source_from_stream(&busy_ops, &in, &source) == 0);
        REQUIRE(sparsestream_sink_to_stream(&busy_ops, &out, &sink) == 0);
        transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
        CHECK_CODE(sparsestream_transfer_run(transfer, 1), 1);
        if (side == SOURCE)
            in.source = source;
        else
            out.sink = sink;
        busy->waits = true;
        pthread_barrier_init(&busy->inside, NULL, 2);
        pthread_barrier_init(&busy->leave, NULL, 2);
        REQUIRE(pthread_create(&thread, NULL, use_by_hand, busy) == 0);
        pthread_barrier_wait(&busy->inside);
        sparsestream_transfer_free(transfer);
        CHECK_INT(idle->aborts, ==, 1);
        pthread_barrier_wait(&busy->leave);
        pthread_join(thread, NULL);
        CHECK_CODE(busy->answer, 16);
        CHECK_INT(busy->aborts, ==, 1);
        CHECK_INT(in.frees + out.frees, ==, 0);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        CHECK_INT(in.frees, ==, 1);
        CHECK_INT(out.frees, ==, 1);
        CHECK_INT(in.aborts, ==, 1);
        CHECK_INT(out.aborts, ==, 1);
        pthread_barrier_destroy(&busy->inside);
        pthread_barrier_destroy(&busy->leave);
    }
}

/* A callback may free the transfer that holds its own end, which is aborted when the callback's call is done. */

static int64_t freeing_recv(void *opaque, void *buffer, size_t length)
{
    struct meddler *meddler = opaque;

    memset(buffer, 'x', length);
    sparsestream_transfer_free(meddler->transfer);
    meddler->transfer = NULL;
    CHECK_INT(meddler->aborts, ==, 0);
    return (int64_t) length;
}

static void a_callback_by_hand_may_free_the_transfer(void)
{
    static const struct sparsestream_stream_ops ops = {
        .size = sizeof ops, .recv = freeing_recv, .abort = meddler_abort, .free = meddler_free,
    };
    struct end to = { .to = NULL };
    struct meddler in = { .calls = 0 };
    struct sparsestream_sink *sink = end_stream_sink(&to);
    char buffer[16];

    REQUIRE(sparsestream_source_from_stream(&ops, &in, &in.source) == 0);
    in.transfer = new_transfer(in.source, sink, NULL);
    /* Begun, but nothing read yet. */
    CHECK_CODE(sparsestream_source_read(in.source, buffer, sizeof buffer), 16);
    CHECK(in.transfer == NULL);
    sparsestream_source_free(in.source);
    sparsestream_sink_free(sink);
    CHECK_INT(in.frees, ==, 1);
    CHECK_INT(to.frees, ==, 1);
}

/* A descriptor is the library's to use until `free` says otherwise. */

static void count_free(void *opaque)
{
    ++*(int *) opaque;
}

static void descriptors_are_given_back_by_free(void)
{
    const int in = file_in_memory(), out = file_in_memory();
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    int in_freed = 0, out_freed = 0;

    file_fill(in, 0, 100000, 1);
    CHECK_CODE(sparsestream_source_from_fd(in, SOURCE_OPTIONS(.free = count_free, .opaque = &in_freed),
                                           &source), 0);
    CHECK_CODE(sparsestream_sink_to_fd(out, SINK_OPTIONS(.free = count_free, .opaque = &out_freed),
                                       &sink), 0);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(transfer, 1), 1);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(in_freed + out_freed, ==, 0);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_INT(in_freed + out_freed, ==, 0);
    sparsestream_transfer_free(transfer);
    CHECK_INT(in_freed, ==, 1);
    CHECK_INT(out_freed, ==, 1);
    CHECK_INT(file_differs(in, 0, out, 0, 100000), ==, -1);
    close(in);
    close(out);
}

static void free_comes_once_when_a_descriptor_is_refused(void)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct { struct sparsestream_source_options options; uint64_t more; } later_source = { .more = 1 };
    struct { struct sparsestream_sink_options options; uint64_t more; } later_sink = { .more = 1 };
    int freed = 0;

    CHECK_CODE(sparsestream_source_from_fd(-1, SOURCE_OPTIONS(.free = count_free, .opaque = &freed),
                                           &source), -EBADF);
    CHECK_INT(freed, ==, 1);
    CHECK_CODE(sparsestream_sink_to_fd(-1, SINK_OPTIONS(.free = count_free, .opaque = &freed), &sink),
               -EBADF);
    CHECK_INT(freed, ==, 2);
    CHECK_CODE(sparsestream_source_from_fd(0, SOURCE_OPTIONS(.free = count_free, .opaque = &freed,
                                                             .flags = 1u << 30), &source), -EINVAL);
    CHECK_INT(freed, ==, 3);
    CHECK_CODE(sparsestream_sink_to_fd(0, SINK_OPTIONS(.free = count_free, .opaque = &freed,
                                                       .flags = 1u << 30), &sink), -EINVAL);
    CHECK_INT(freed, ==, 4);
    CHECK_CODE(sparsestream_source_from_fd(0, SOURCE_OPTIONS(.free = count_free, .opaque = &freed),
                                           NULL), -EINVAL);
    CHECK_INT(freed, ==, 5);
    CHECK_CODE(sparsestream_sink_to_fd(0, SINK_OPTIONS(.free = count_free, .opaque = &freed), NULL),
               -EINVAL);
    CHECK_INT(freed, ==, 6);
    later_source.options = *SOURCE_OPTIONS(.free = count_free, .opaque = &freed);
    later_source.options.size = sizeof later_source;
    CHECK_CODE(sparsestream_source_from_fd(0, &later_source.options, &source), -E2BIG);
    CHECK_INT(freed, ==, 7);
    later_sink.options = *SINK_OPTIONS(.free = count_free, .opaque = &freed);
    later_sink.options.size = sizeof later_sink;
    CHECK_CODE(sparsestream_sink_to_fd(0, &later_sink.options, &sink), -E2BIG);
    CHECK_INT(freed, ==, 8);
    /* Not a struct at all, by its size. */
    later_source.options.size = 4;
    CHECK_CODE(sparsestream_source_from_fd(0, &later_source.options, &source), -EINVAL);
    /* An early struct, which ends before `free`. */
    later_source.options.size = offsetof(struct sparsestream_source_options, opaque);
    CHECK_CODE(sparsestream_source_from_fd(-1, &later_source.options, &source), -EBADF);
    CHECK_INT(freed, ==, 8);
    CHECK(source == NULL && sink == NULL);
}

TESTS(
    CASE(callbacks_cannot_use_their_own_handle_by_hand),
    CASE(callbacks_cannot_use_their_own_handle_in_a_transfer),
    CASE(progress_cannot_use_its_own_transfer),
    CASE(handles_may_be_freed_in_any_order),
    CASE(a_transfer_holds_its_ends),
    CASE(another_type_is_refused),
    CASE(a_busy_end_is_aborted_when_its_call_is_done),
    CASE(a_callback_by_hand_may_free_the_transfer),
    CASE(descriptors_are_given_back_by_free),
    CASE(free_comes_once_when_a_descriptor_is_refused))
