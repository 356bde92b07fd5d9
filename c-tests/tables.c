/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Tables of the caller's functions that say more than data and holes. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const struct piece sample[] = { DATA(5000), HOLE(100000), DATA(7), KEEP(60000), HOLE(300), KEEP(5),
                                       DATA(9000), KEEP(1) };
static const struct piece without_keeps[] = { DATA(5000), HOLE(100000), DATA(7), HOLE(3) };

/* One transfer between two ends of these tables. */
struct stand {
    struct content content, taken;
    struct journal journal;
    struct end from, to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
};

static void stand_init(struct stand *stand, const struct piece *pieces, size_t count)
{
    memset(stand, 0, sizeof *stand);
    content_lay_out(&stand->content, pieces, count, 3);
    stand->from.from = &stand->content;
    stand->to.to = &stand->taken;
    stand->from.journal = stand->to.journal = &stand->journal;
}

static void stand_ends(struct stand *stand, const struct sparsestream_source_ops *source_ops,
                       const struct sparsestream_sink_ops *sink_ops)
{
    REQUIRE(sparsestream_source_from_callbacks(source_ops, &stand->from, &stand->source) == 0);
    REQUIRE(sparsestream_sink_to_callbacks(sink_ops, &stand->to, &stand->sink) == 0);
}

static void stand_streams(struct stand *stand, const struct sparsestream_stream_ops *source_ops,
                          const struct sparsestream_stream_ops *sink_ops)
{
    REQUIRE(sparsestream_source_from_stream(source_ops, &stand->from, &stand->source) == 0);
    REQUIRE(sparsestream_sink_to_stream(sink_ops, &stand->to, &stand->sink) == 0);
}

static int stand_run(struct stand *stand, const struct sparsestream_transfer_options *options)
{
    int code, again = 0;

    stand->transfer = new_transfer(stand->source, stand->sink, options);
    do
        code = sparsestream_transfer_run(stand->transfer, 0);
    while (code == -EAGAIN && again++ < 1000);
    return code;
}

static void stand_end(struct stand *stand)
{
    sparsestream_transfer_free(stand->transfer);
    sparsestream_source_free(stand->source);
    sparsestream_sink_free(stand->sink);
    CHECK_INT(stand->from.frees, ==, 1);
    CHECK_INT(stand->to.frees, ==, 1);
    content_free(&stand->content);
    content_free(&stand->taken);
}

/* Kept sections. */

struct seen {
    struct content content;
};

static int see_section(void *opaque, const struct sparsestream_section *section)
{
    struct seen *seen = opaque;

    CHECK_INT(section->size, ==, sizeof *section);
    CHECK_INT(section->offset, ==, content_size(&seen->content));
    if (section->kind == SPARSESTREAM_KEEP)
        content_add_keep(&seen->content, section->length);
    else if (section->kind == SPARSESTREAM_HOLE)
        content_add_hole(&seen->content, section->length);
    else
        content_add_data(&seen->content, "", 1);
    if (section->kind == SPARSESTREAM_DATA)
        seen->content.pieces[seen->content.count - 1].length = section->length;
    return 0;
}

static void kept_sections_go_from_table_to_table(void)
{
    for (int streams = 0; streams < 2; streams++) {
        for (int64_t most = 0; most <= 777; most += 777) {
            struct stand stand;
            struct seen seen = { .content = { .count = 0 } };
            struct sparsestream_stats stats;

            context("streams %d, at most %jd", streams, (intmax_t) most);
            stand_init(&stand, sample, COUNT(sample));
            stand.from.most_hole = stand.to.most_hole = most;
            if (streams)
                stand_streams(&stand, &end_keeping_stream_ops, &end_keeping_stream_ops);
            else
                stand_ends(&stand, &end_keeping_source_ops, &end_keeping_sink_ops);
            CHECK_CODE(stand_run(&stand, TRANSFER_OPTIONS(.section = see_section, .opaque = &seen)), 0);
            CHECK_CONTENT(&stand.taken, &stand.content);
            stats = transfer_stats(stand.transfer);
            CHECK_INT(stats.keep_bytes, ==, 60006);
            CHECK_INT(stats.keep_sections, ==, 3);
            CHECK_INT(stats.hole_bytes, ==, 100300);
            CHECK_INT(stats.data_bytes, ==, 14007);
            CHECK_INT(stats.position, ==, 60006 + 100300 + 14007);
            CHECK_INT(seen.content.count, ==, COUNT(sample));
            for (size_t i = 0; i < seen.content.count && i < COUNT(sample); i++) {
                CHECK_INT(seen.content.pieces[i].kind, ==, sample[i].kind);
                CHECK_INT(seen.content.pieces[i].length, ==, sample[i].length);
            }
            CHECK_INT(stand.from.finishes, ==, 1);
            CHECK_INT(stand.to.finishes, ==, 1);
            content_free(&seen.content);
            stand_end(&stand);
        }
    }
}

/* One that cannot keep is refused before a byte moves, whether or not a kept section would have come. */
static void a_sink_that_cannot_keep_is_refused_at_once(void)
{
    for (int streams = 0; streams < 2; streams++) {
        struct stand stand;
        struct sparsestream_error error;

        stand_init(&stand, without_keeps, COUNT(without_keeps));
        if (streams)
            stand_streams(&stand, &end_keeping_stream_ops, &end_stream_ops);
        else
            stand_ends(&stand, &end_keeping_source_ops, &end_sink_ops);
        CHECK_CODE(stand_run(&stand, NULL), -EOPNOTSUPP);
        error = transfer_error(stand.transfer);
        CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_KEEP);
        CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SINK);
        CHECK_INT(stand.from.reads + stand.to.writes + stand.to.holes, ==, 0);
        stand_end(&stand);
    }
}

static void kept_sections_are_driven_by_hand(void)
{
    struct stand stand;
    struct sparsestream_section section = { .size = sizeof section };
    char buffer[10000];
    int64_t n;

    stand_init(&stand, sample, COUNT(sample));
    stand_ends(&stand, &end_keeping_source_ops, &end_keeping_sink_ops);
    while ((n = sparsestream_source_read(stand.source, buffer, sizeof buffer)) != 0) {
        if (n > 0) {
            CHECK_CODE(sparsestream_sink_write(stand.sink, buffer, (size_t) n), n);
            continue;
        }
        CHECK_CODE(sparsestream_source_section(stand.source, &section), 0);
        if (n == SPARSESTREAM_AT_KEEP) {
            CHECK_INT(section.kind, ==, SPARSESTREAM_KEEP);
            CHECK_CODE(sparsestream_sink_keep(stand.sink, section.length), section.length);
        } else {
            CHECK_CODE(n, SPARSESTREAM_AT_HOLE);
            CHECK_CODE(sparsestream_sink_hole(stand.sink, section.length), section.length);
        }
        CHECK_CODE(sparsestream_source_skip(stand.source, section.length), 0);
    }
    CHECK_CODE(sparsestream_sink_keep(stand.sink, 0), 0);
    CHECK_CODE(sparsestream_sink_keep(stand.sink, -1), -EINVAL);
    CHECK_CODE(sparsestream_source_finish(stand.source), 0);
    CHECK_CODE(sparsestream_sink_finish(stand.sink), 0);
    CHECK_CONTENT(&stand.taken, &stand.content);
    stand_end(&stand);
}

/* Describe and announce. */

struct scripted {
    struct stand stand;
    int describes, announces;
    uint64_t clear, add;
    int64_t total;
    uint32_t source_block, least_block, sink_block;
    int answer;
    struct sparsestream_plan plan;
};

/* The ends' own functions take the stand's end. */
static struct scripted *scripted_of(void *opaque)
{
    struct end *end = opaque;

    return (struct scripted *) ((char *) end
                            - (end->from != NULL ? offsetof(struct scripted, stand.from)
                                                 : offsetof(struct scripted, stand.to)));
}

static int scripted_describe(void *opaque, struct sparsestream_source_info *info)
{
    struct scripted *scripted = scripted_of(opaque);

    scripted->describes++;
    CHECK_INT(info->size, ==, sizeof *info);
    CHECK_INT(info->total, ==, -1);
    CHECK_INT(info->flags & SPARSESTREAM_WITH_HOLES, !=, 0);
    info->total = scripted->total;
    info->flags &= ~scripted->clear;
    info->flags |= scripted->add;
    info->preferred_block = scripted->source_block;
    return scripted->answer;
}

static int scripted_announce(void *opaque, const struct sparsestream_plan *plan,
                         struct sparsestream_sink_info *info)
{
    struct scripted *scripted = scripted_of(opaque);

    scripted->announces++;
    CHECK_INT(plan->size, ==, sizeof *plan);
    CHECK_INT(info->size, ==, sizeof *info);
    CHECK_INT(info->flags & SPARSESTREAM_WITH_HOLES, !=, 0);
    scripted->plan = *plan;
    info->flags &= ~scripted->clear;
    info->flags |= scripted->add;
    info->least_block = scripted->least_block;
    info->preferred_block = scripted->sink_block;
    return scripted->answer;
}

static void scripted_init(struct scripted *scripted, bool describe, bool announce)
{
    struct sparsestream_source_ops source_ops = end_source_ops;
    struct sparsestream_sink_ops sink_ops = end_sink_ops;

    memset(scripted, 0, sizeof *scripted);
    scripted->total = -1;
    stand_init(&scripted->stand, without_keeps, COUNT(without_keeps));
    if (describe)
        source_ops.describe = scripted_describe;
    if (announce)
        sink_ops.announce = scripted_announce;
    stand_ends(&scripted->stand, &source_ops, &sink_ops);
}

static void the_total_goes_from_the_source_to_the_sink(void)
{
    struct scripted scripted;

    scripted_init(&scripted, true, true);
    scripted.total = 105010;
    CHECK_CODE(stand_run(&scripted.stand, NULL), 0);
    CHECK_INT(scripted.plan.total, ==, 105010);
    CHECK_INT(scripted.plan.flags, ==, SPARSESTREAM_WITH_HOLES);
    CHECK_INT(transfer_stats(scripted.stand.transfer).total, ==, 105010);
    CHECK_INT(scripted.describes, ==, 1);
    CHECK_INT(scripted.announces, ==, 1);
    CHECK_CONTENT(&scripted.stand.taken, &scripted.stand.content);
    stand_end(&scripted.stand);
}

static void a_sink_may_refuse_what_is_announced(void)
{
    struct scripted scripted;

    scripted_init(&scripted, false, true);
    scripted.answer = -EDQUOT;
    CHECK_CODE(stand_run(&scripted.stand, NULL), -EDQUOT);
    CHECK_INT(scripted.plan.total, ==, -1);
    CHECK_INT(transfer_error(scripted.stand.transfer).operation, ==, SPARSESTREAM_OPERATION_OPEN);
    CHECK_INT(scripted.stand.from.own_calls + scripted.stand.to.own_calls, ==, 0);
    stand_end(&scripted.stand);
}

static void abilities_are_asked_and_not_guessed(void)
{
    for (int side = 0; side < 2; side++) {
        struct scripted scripted;

        context("side %d", side);
        /* It says that it cannot, though there is a function. */
        scripted_init(&scripted, side == 0, side == 1);
        scripted.clear = SPARSESTREAM_WITH_HOLES;
        CHECK_CODE(stand_run(&scripted.stand, TRANSFER_OPTIONS(.sparse = SPARSESTREAM_SPARSE_REQUIRED)),
                   -EOPNOTSUPP);
        CHECK_INT(scripted.stand.from.reads + scripted.stand.to.writes, ==, 0);
        stand_end(&scripted.stand);

        /* It claims what it has no function for. */
        scripted_init(&scripted, side == 0, side == 1);
        scripted.add = side == 0 ? UINT64_C(1) << 40 : SPARSESTREAM_WITH_KEEPS;
        CHECK_CODE(stand_run(&scripted.stand, NULL), -EPROTO);
        CHECK_INT(scripted.stand.from.reads + scripted.stand.to.writes, ==, 0);
        stand_end(&scripted.stand);
    }
    {
        struct scripted scripted;

        /* A sink that cannot make holes gets zeros. */
        scripted_init(&scripted, false, true);
        scripted.clear = SPARSESTREAM_WITH_HOLES;
        CHECK_CODE(stand_run(&scripted.stand, NULL), 0);
        CHECK_INT(scripted.stand.to.holes, ==, 0);
        CHECK_INT(content_size(&scripted.stand.taken), ==, 105010);
        stand_end(&scripted.stand);
    }
}

static void both_may_be_asked_by_hand(void)
{
    struct scripted scripted;
    struct sparsestream_source_info source_info = { .size = sizeof source_info };
    struct sparsestream_sink_info sink_info = { .size = sizeof sink_info };
    struct sparsestream_plan plan = { .size = sizeof plan, .total = 4096 };

    scripted_init(&scripted, true, true);
    scripted.total = 105010;
    CHECK_CODE(sparsestream_source_describe(scripted.stand.source, &source_info), 0);
    CHECK_INT(source_info.total, ==, 105010);
    CHECK_INT(source_info.flags, ==, SPARSESTREAM_WITH_HOLES);
    CHECK_CODE(sparsestream_sink_announce(scripted.stand.sink, &plan, &sink_info), 0);
    CHECK_INT(scripted.plan.total, ==, 4096);
    CHECK_INT(scripted.plan.flags, ==, 0);
    CHECK_INT(sink_info.flags, ==, SPARSESTREAM_WITH_HOLES);
    plan.flags = SPARSESTREAM_WITH_KEEPS;
    CHECK_CODE(sparsestream_sink_announce(scripted.stand.sink, &plan, NULL), -EOPNOTSUPP);
    plan.flags = 1;
    CHECK_CODE(sparsestream_sink_announce(scripted.stand.sink, &plan, NULL), -EINVAL);
    plan = (struct sparsestream_plan) { .size = sizeof plan, .total = -2 };
    CHECK_CODE(sparsestream_sink_announce(scripted.stand.sink, &plan, NULL), -EINVAL);
    stand_end(&scripted.stand);
}

/* Pieces. */

static void holes_are_made_of_whole_blocks(void)
{
    struct scripted scripted;
    const struct piece *piece;
    int64_t at = 0;

    scripted_init(&scripted, false, true);
    scripted.least_block = 4096;
    CHECK_CODE(stand_run(&scripted.stand, NULL), 0);
    CHECK_INT(content_size(&scripted.stand.taken), ==, 105010);
    CHECK_INT(scripted.stand.taken.count, ==, 3);
    for (size_t i = 0; i < scripted.stand.taken.count; i++) {
        piece = &scripted.stand.taken.pieces[i];
        if (piece->kind == SPARSESTREAM_HOLE) {
            CHECK_INT(at % 4096, ==, 0);
            CHECK_INT(piece->length % 4096, ==, 0);
            CHECK_INT(piece->length, >, 90000);
        }
        at += piece->length;
    }
    /* The bytes written in place of the hole are zeros. */
    for (int i = 5000; i < 8192; i++)
        CHECK_INT(scripted.stand.taken.bytes[i], ==, 0);
    stand_end(&scripted.stand);
}

struct pieces {
    int64_t offset, preferred;
    int calls, off;
    size_t longest;
};

static int64_t pieces_send(void *opaque, const void *buffer, size_t length)
{
    struct pieces *pieces = opaque;

    (void) buffer;
    pieces->calls++;
    pieces->offset += (int64_t) length;
    pieces->off += pieces->preferred != 0 && pieces->offset % pieces->preferred != 0;
    if (length > pieces->longest)
        pieces->longest = length;
    return (int64_t) length;
}

static int64_t pieces_recv(void *opaque, void *buffer, size_t length)
{
    memset(buffer, 'x', length);
    return ((struct pieces *) opaque)->offset >= 1000000 ? 0 : pieces_send(opaque, buffer, length);
}

static int pieces_announce(void *opaque, const struct sparsestream_plan *plan,
                           struct sparsestream_sink_info *info)
{
    struct pieces *pieces = opaque;

    (void) plan;
    info->preferred_block = (uint32_t) pieces->preferred;
    return 0;
}

static void pieces_of_a_stream_are_cut_to_what_it_prefers(void)
{
    const struct sparsestream_stream_ops ops = {
        .size = sizeof ops, .preferred = 262120, .send = pieces_send, .recv = pieces_recv,
    };
    struct content content = { .count = 0 };
    struct end from = { .from = &content }, to = { .to = NULL };
    struct pieces sent = { .offset = 0 }, received = { .offset = 0 };
    struct sparsestream_source *source = end_source(&from);
    struct sparsestream_sink *sink = end_sink(&to);

    content_lay_out(&content, (struct piece[]) { DATA(3000000) }, 1, 1);
    CHECK_CODE(sparsestream_send_all(source, &ops, &sent, NULL, NULL), 0);
    CHECK_INT(sent.longest, ==, 262120);
    CHECK_INT(sent.offset, ==, 3000000);
    CHECK_CODE(sparsestream_recv_all(&ops, &received, sink, NULL, NULL), 0);
    CHECK_INT(received.longest, ==, 262120);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    content_free(&content);
}

static void pieces_end_on_the_block_that_a_sink_prefers(void)
{
    const struct sparsestream_sink_ops ops = {
        .size = sizeof ops, .write = pieces_send, .announce = pieces_announce,
    };
    struct content content = { .count = 0 };
    struct end from = { .from = &content, .most = 100000 };
    struct pieces pieces = { .preferred = 65536 };
    struct sparsestream_source *source = end_source(&from);
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;

    content_lay_out(&content, (struct piece[]) { DATA(1000000) }, 1, 1);
    REQUIRE(sparsestream_sink_to_callbacks(&ops, &pieces, &sink) == 0);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_INT(pieces.offset, ==, 1000000);
    /* Off only where a piece ended before it reached a block. */
    CHECK_INT(pieces.calls - pieces.off, >=, 10);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    content_free(&content);
}

/* A hole that is made in parts lets a cancel and a budget act in between. */
static void a_long_hole_is_made_in_parts(void)
{
    struct content content = { .count = 0 };
    struct end from = { .from = &content, .most_hole = 4096 }, to = { .to = NULL, .most_hole = 4096 };
    struct sparsestream_source *source = end_source(&from);
    struct sparsestream_sink *sink = end_sink(&to);
    struct sparsestream_transfer *transfer;
    int code;

    content_lay_out(&content, (struct piece[]) { HOLE(INT64_C(1) << 30) }, 1, 1);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 65536), 1);
    CHECK_INT(to.holes, <=, 32);
    CHECK_CODE(sparsestream_transfer_cancel(transfer), 0);
    CHECK_CODE(sparsestream_transfer_run(transfer, 65536), -ECANCELED);
    CHECK_INT(to.holes, <=, 32);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);

    /* The parts of a hole that the source skips, too. */
    from = (struct end) { .from = &content, .most_hole = 1 << 28 };
    to = (struct end) { .to = NULL };
    source = end_source(&from);
    sink = end_sink(&to);
    transfer = new_transfer(source, sink, NULL);
    while ((code = sparsestream_transfer_run(transfer, 4096)) == 1)
        ;
    CHECK_CODE(code, 0);
    CHECK_INT(from.skips, ==, 4);
    CHECK_INT(to.taken, ==, INT64_C(1) << 30);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    content_free(&content);
}

/* Words. */

struct speaker {
    int error, operation;
    int64_t offset;
    const char *text;
    char heard[256];
    int aborts;
};

static int64_t speak(void *opaque, const void *buffer, size_t length)
{
    struct speaker *speaker = opaque;

    (void) buffer;
    (void) length;
    CHECK_CODE(sparsestream_set_error(speaker->error, speaker->operation, speaker->offset, speaker->text), 0);
    return -EDQUOT;
}

static void hear(void *opaque, int error)
{
    struct speaker *speaker = opaque;

    CHECK_INT(error, ==, EDQUOT);
    speaker->aborts++;
    snprintf(speaker->heard, sizeof speaker->heard, "%s", sparsestream_last_error());
}

static int64_t speaker_read(void *opaque, void *buffer, size_t length)
{
    (void) opaque;
    memset(buffer, 'x', length);
    return (int64_t) length;
}

static struct sparsestream_error speaker_error(struct speaker *speaker)
{
    const struct sparsestream_stream_ops ops = { .size = sizeof ops, .send = speak };
    const struct sparsestream_source_ops source_ops = {
        .size = sizeof source_ops, .read = speaker_read, .abort = hear,
    };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    struct sparsestream_error error;

    REQUIRE(sparsestream_source_from_callbacks(&source_ops, speaker, &source) == 0);
    REQUIRE(sparsestream_sink_to_stream(&ops, speaker, &sink) == 0);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EDQUOT);
    error = transfer_error(transfer);
    CHECK_STR(error.message, speaker->heard);
    CHECK_INT(speaker->aborts, ==, 1);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return error;
}

static void a_callback_says_why_it_failed(void)
{
    struct speaker speaker = { .error = EDQUOT, .offset = -1, .text = "the tenant is over its quota" };
    struct sparsestream_error error = speaker_error(&speaker);

    CHECK_INT(error.code, ==, EDQUOT);
    CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_WRITE);
    CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SINK);
    CHECK_INT(error.offset, ==, 0);
    CHECK_CONTAINS(error.message, "the tenant is over its quota");
    CHECK_CONTAINS(error.message, strerror(EDQUOT));
}

static void an_error_that_is_reported_late_names_its_own_offset(void)
{
    struct speaker speaker = { .error = EDQUOT, .operation = SPARSESTREAM_OPERATION_HOLE,
                               .offset = 1234567, .text = NULL };
    struct sparsestream_error error = speaker_error(&speaker);

    CHECK_INT(error.operation, ==, SPARSESTREAM_OPERATION_HOLE);
    CHECK_INT(error.offset, ==, 1234567);
    CHECK_INT(error.side, ==, SPARSESTREAM_SIDE_SINK);
}

static void words_about_another_errno_are_forgotten(void)
{
    struct speaker speaker = { .error = EIO, .offset = 77, .text = "another matter" };
    struct sparsestream_error error = speaker_error(&speaker);

    CHECK_INT(error.offset, ==, 0);
    CHECK(strstr(error.message, "another matter") == NULL);
    CHECK_CODE(sparsestream_set_error(0, 0, -1, NULL), -EINVAL);
    CHECK_CODE(sparsestream_set_error(4096, 0, -1, NULL), -EINVAL);
    CHECK_CODE(sparsestream_set_error(EIO, -1, -1, NULL), -EINVAL);
    CHECK_CODE(sparsestream_set_error(EIO, SPARSESTREAM_OPERATION_KEEP + 1, -1, NULL), -EINVAL);
    CHECK_CODE(sparsestream_set_error(EIO, 0, -2, NULL), -EINVAL);
}

static void *fail_soon(void *transfer)
{
    usleep(50000);
    return (void *) (intptr_t) sparsestream_transfer_fail(transfer, ECONNRESET, "the guest went away");
}

/* Any thread may end a transfer with an error of its own. */
static void a_transfer_is_failed_from_another_thread(void)
{
    struct end to = { .to = NULL };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink = end_stream_sink(&to);
    struct sparsestream_transfer *transfer;
    struct sparsestream_error error;
    pthread_t thread;
    void *answer;
    int fds[2];

    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    source = fd_source(fds[0]);
    transfer = new_transfer(source, sink, NULL);
    REQUIRE(pthread_create(&thread, NULL, fail_soon, transfer) == 0);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -ECONNRESET);
    pthread_join(thread, &answer);
    CHECK_INT((intptr_t) answer, ==, 0);
    error = transfer_error(transfer);
    CHECK_INT(error.code, ==, ECONNRESET);
    CHECK_CONTAINS(error.message, "the guest went away");
    CHECK_INT(to.aborts, ==, 1);
    CHECK_INT(to.abort_error, ==, ECONNRESET);
    /* It has ended, and stays so. */
    CHECK_CODE(sparsestream_transfer_fail(transfer, EIO, "later"), 0);
    CHECK_CODE(sparsestream_transfer_cancel(transfer), 0);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -ECONNRESET);
    CHECK_CODE(sparsestream_transfer_fail(transfer, 0, NULL), -EINVAL);
    CHECK_CODE(sparsestream_transfer_fail(transfer, -EIO, NULL), -EINVAL);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(fds[0]);
    close(fds[1]);
}

/* Durability. */

struct durable {
    struct sparsestream_transfer *transfer;
    int64_t written, durable, reported;
    int reports;
    bool ended;
};

static int64_t durable_read(void *opaque, void *buffer, size_t length)
{
    struct durable *durable = opaque;

    if (durable->written >= 100000)
        return 0;
    memset(buffer, 'x', length);
    return (int64_t) length;
}

static void durable_reported(void *opaque, int64_t offset)
{
    struct durable *durable = opaque;

    CHECK_INT(offset, >, durable->reported);
    CHECK_INT(offset, <=, durable->written);
    durable->reported = offset;
    durable->reports++;
}

static int64_t durable_write(void *opaque, const void *buffer, size_t length)
{
    struct durable *durable = opaque;

    (void) buffer;
    durable->written += (int64_t) length;
    durable->durable = durable->written - durable->written % 10000;
    return (int64_t) length;
}

static int64_t durable_so_far(void *opaque)
{
    return ((struct durable *) opaque)->durable;
}

static void what_is_durable_is_reported_to_the_source(void)
{
    const struct sparsestream_source_ops source_ops = {
        .size = sizeof source_ops, .read = durable_read, .durable = durable_reported,
    };
    const struct sparsestream_sink_ops sink_ops = {
        .size = sizeof sink_ops, .write = durable_write, .durable = durable_so_far,
    };
    struct durable durable = { .written = 0 };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;

    REQUIRE(sparsestream_source_from_callbacks(&source_ops, &durable, &source) == 0);
    REQUIRE(sparsestream_sink_to_callbacks(&sink_ops, &durable, &sink) == 0);
    durable.transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(durable.transfer, 0), 0);
    CHECK_INT(durable.reported, >=, 100000);
    CHECK_INT(durable.reports, >=, 10);
    sparsestream_transfer_free(durable.transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

/* Memory of the ends. */

struct memory {
    char bytes[100000];
    size_t length, at;
    int lends, copies;
};

static int64_t memory_lent(void *opaque, const void **bytes)
{
    struct memory *memory = opaque;

    memory->lends++;
    *bytes = memory->bytes + memory->at;
    return (int64_t) (memory->length - memory->at);
}

static void memory_took(void *opaque, size_t length)
{
    struct memory *memory = opaque;

    CHECK_INT(length, <=, memory->length - memory->at);
    memory->at += length;
}

static int64_t memory_read(void *opaque, void *buffer, size_t length)
{
    struct memory *memory = opaque;

    memory->copies++;
    if (length > memory->length - memory->at)
        length = memory->length - memory->at;
    memcpy(buffer, memory->bytes + memory->at, length);
    memory->at += length;
    return (int64_t) length;
}

static int64_t memory_lend(void *opaque, void **bytes)
{
    struct memory *memory = opaque;

    memory->lends++;
    *bytes = memory->bytes + memory->at;
    return (int64_t) (sizeof memory->bytes - memory->at);
}

static int64_t memory_write(void *opaque, const void *buffer, size_t length)
{
    struct memory *memory = opaque;

    memory->copies++;
    REQUIRE(length <= sizeof memory->bytes - memory->at);
    memcpy(memory->bytes + memory->at, buffer, length);
    memory->at += length;
    return (int64_t) length;
}

static const struct sparsestream_source_ops memory_source_ops = {
    .size = sizeof memory_source_ops, .read = memory_read, .lent = memory_lent, .took = memory_took,
};

static void memory_committed(void *opaque, size_t length)
{
    struct memory *memory = opaque;

    CHECK_INT(length, <=, sizeof memory->bytes - memory->at);
    memory->at += length;
}

static const struct sparsestream_sink_ops memory_sink_ops = {
    .size = sizeof memory_sink_ops, .write = memory_write, .lend = memory_lend, .committed = memory_committed,
};

static void a_source_lends_its_memory(void)
{
    static struct memory from = { .length = 90000 }, to;
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;

    pattern_fill((unsigned char *) from.bytes, from.length, 1, 0);
    REQUIRE(sparsestream_source_from_callbacks(&memory_source_ops, &from, &source) == 0);
    REQUIRE(sparsestream_sink_to_callbacks(&memory_sink_ops, &to, &sink) == 0);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_BYTES(from.bytes, to.bytes, 90000);
    CHECK_INT(to.at, ==, 90000);
    CHECK_INT(from.lends, >, 0);
    /* Asked to be read only to see that it has ended. */
    CHECK_INT(from.copies, ==, 1);
    CHECK_INT(transfer_stats(transfer).data_by_way[SPARSESTREAM_WAY_LEND], ==, 90000);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

static void a_sink_lends_its_memory(void)
{
    static struct memory to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    unsigned char expected[90000];
    int fds[2];

    pattern_fill(expected, sizeof expected, 1, 0);
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    REQUIRE(fcntl(fds[1], F_SETPIPE_SZ, 1 << 20) > 0);
    REQUIRE(write(fds[1], expected, sizeof expected) == sizeof expected);
    close(fds[1]);
    source = fd_source(fds[0]);
    REQUIRE(sparsestream_sink_to_callbacks(&memory_sink_ops, &to, &sink) == 0);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_BYTES(expected, to.bytes, sizeof expected);
    CHECK_INT(to.copies, ==, 0);
    CHECK_INT(transfer_stats(transfer).data_by_way[SPARSESTREAM_WAY_LEND], ==, 90000);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    close(fds[0]);
}

static int64_t lend_nowhere(void *opaque, void **bytes)
{
    (void) opaque;
    *bytes = NULL;
    return 5;
}

static int64_t lent_nowhere(void *opaque, const void **bytes)
{
    (void) opaque;
    *bytes = NULL;
    return 5;
}

static void memory_that_is_none_is_refused(void)
{
    static struct memory from = { .length = 9 }, to;
    struct sparsestream_source_ops source_ops = memory_source_ops;
    struct sparsestream_sink_ops sink_ops = memory_sink_ops;
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    const int in = file_in_memory();

    file_fill(in, 0, 10, 1);
    source_ops.lent = lent_nowhere;
    REQUIRE(sparsestream_source_from_callbacks(&source_ops, &from, &source) == 0);
    REQUIRE(sparsestream_sink_to_callbacks(&sink_ops, &to, &sink) == 0);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EPROTO);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);

    sink_ops.lend = lend_nowhere;
    source = fd_source(in);
    REQUIRE(sparsestream_sink_to_callbacks(&sink_ops, &to, &sink) == 0);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EPROTO);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);

    source_ops.took = NULL;
    CHECK_CODE(sparsestream_source_from_callbacks(&source_ops, &from, &source), -EINVAL);
    sink_ops.committed = NULL;
    CHECK_CODE(sparsestream_sink_to_callbacks(&sink_ops, &to, &sink), -EINVAL);
    close(in);
}

/* A stream that waits for several descriptors. */

struct waiter {
    int fds[3];
    int waits, calls;
    int64_t at;
};

static int64_t waiter_recv(void *opaque, void *buffer, size_t length)
{
    struct waiter *waiter = opaque;
    uint64_t count;

    waiter->calls++;
    for (int i = 0; i < 3; i++) {
        if (read(waiter->fds[i], &count, sizeof count) == sizeof count) {
            memset(buffer, 'x', length);
            waiter->at += (int64_t) length;
            return (int64_t) length;
        }
    }
    return waiter->at > 0 ? 0 : -EAGAIN;
}

static int waiter_wait(void *opaque, struct sparsestream_wait *wait)
{
    struct waiter *waiter = opaque;

    waiter->waits++;
    CHECK_INT(wait->size, ==, sizeof *wait);
    CHECK_INT(wait->fd, ==, -1);
    CHECK_INT(wait->timeout_ms, ==, -1);
    CHECK_INT(wait->count, ==, 0);
    for (int i = 0; i < 3; i++)
        wait->fds[i] = (struct sparsestream_wait_fd) { .fd = waiter->fds[i], .events = POLLIN };
    wait->count = 3;
    return 0;
}

static const struct sparsestream_stream_ops waiter_ops = {
    .size = sizeof waiter_ops, .recv = waiter_recv, .wait = waiter_wait,
};

static void waiter_open(struct waiter *waiter)
{
    memset(waiter, 0, sizeof *waiter);
    for (int i = 0; i < 3; i++) {
        waiter->fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        REQUIRE(waiter->fds[i] >= 0);
    }
}

static void waiter_close(struct waiter *waiter)
{
    for (int i = 0; i < 3; i++)
        close(waiter->fds[i]);
}

static void *wake(void *opaque)
{
    struct waiter *waiter = opaque;
    const uint64_t one = 1;

    usleep(50000);
    REQUIRE(write(waiter->fds[2], &one, sizeof one) == sizeof one);
    return NULL;
}

static void several_descriptors_are_waited_for(void)
{
    struct waiter waiter;
    struct end to = { .to = NULL };
    struct sparsestream_wait wait = { .size = sizeof wait };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = end_sink(&to);
    struct sparsestream_transfer *transfer;
    pthread_t thread;

    /* A caller that must not wait gets all of them. */
    waiter_open(&waiter);
    REQUIRE(sparsestream_source_from_stream(&waiter_ops, &waiter, &source) == 0);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = 4096));
    CHECK_CODE(sparsestream_transfer_run(transfer, 1), -EAGAIN);
    CHECK_CODE(sparsestream_transfer_wait(transfer, &wait), 0);
    CHECK_INT(wait.side, ==, SPARSESTREAM_SIDE_SOURCE);
    CHECK_INT(wait.count, ==, 3);
    CHECK_INT(wait.fd, ==, waiter.fds[0]);
    CHECK_INT(wait.events, ==, POLLIN);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(wait.fds[i].fd, ==, waiter.fds[i]);
        CHECK_INT(wait.fds[i].events, ==, POLLIN);
    }
    CHECK_INT(wait.timeout_ms, ==, -1);
    /* Who may wait does so by itself, without spinning. */
    REQUIRE(pthread_create(&thread, NULL, wake, &waiter) == 0);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    pthread_join(thread, NULL);
    CHECK_INT(waiter.calls, <, 20);
    CHECK_INT(to.taken, ==, 4096);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    waiter_close(&waiter);

    /* So do the loops in one call. */
    waiter_open(&waiter);
    to = (struct end) { .to = NULL };
    sink = end_sink(&to);
    REQUIRE(pthread_create(&thread, NULL, wake, &waiter) == 0);
    CHECK_CODE(sparsestream_recv_all(&waiter_ops, &waiter, sink, TRANSFER_OPTIONS(.buffer_size = 4096), NULL), 0);
    pthread_join(thread, NULL);
    CHECK_INT(to.taken, ==, 4096);
    sparsestream_sink_free(sink);
    waiter_close(&waiter);
}

/* The buffer of a call that is not ready. */

struct asker {
    struct random random;
    int64_t left;
    const void *buffer;
    size_t length;
    int agains, moved;
};

/* Is it the same call again, if the last one was not ready? Then is it ready? */
static bool ask(struct asker *asker, const void *buffer, size_t length)
{
    if (asker->buffer != NULL && (buffer != asker->buffer || length != asker->length))
        asker->moved++;
    asker->buffer = NULL;
    if (random_percent(&asker->random, 40)) {
        asker->buffer = buffer;
        asker->length = length;
        asker->agains++;
        return false;
    }
    return true;
}

static int64_t asker_read(void *opaque, void *buffer, size_t length)
{
    struct asker *asker = opaque;

    if (!ask(asker, buffer, length))
        return -EAGAIN;
    if ((int64_t) length > asker->left)
        length = (size_t) asker->left;
    length = length > 1 ? (size_t) random_between(&asker->random, 1, (int64_t) length) : length;
    if (length > 9000)
        length = 9000;
    memset(buffer, random_percent(&asker->random, 60) ? 0 : 'x', length);
    asker->left -= (int64_t) length;
    return (int64_t) length;
}

static int64_t asker_write(void *opaque, const void *buffer, size_t length)
{
    struct asker *asker = opaque;

    if (!ask(asker, buffer, length))
        return -EAGAIN;
    return length > 1 ? random_between(&asker->random, 1, (int64_t) length) : 1;
}

static int64_t asker_hole(void *opaque, int64_t length)
{
    (void) opaque;
    return length;
}

static void a_buffer_is_the_same_until_it_is_answered_for(void)
{
    for (int round = 0; round < 40; round++) {
        const struct sparsestream_source_ops source_ops = { .size = sizeof source_ops, .read = asker_read };
        const struct sparsestream_sink_ops sink_ops = {
            .size = sizeof sink_ops, .write = asker_write, .hole = asker_hole,
        };
        struct asker from = { .left = 300000 }, to = { .left = 0 };
        struct sparsestream_source *source = NULL;
        struct sparsestream_sink *sink = NULL;
        struct sparsestream_transfer *transfer;
        int code;

        context("round %d", round);
        from.random.state = (uint64_t) round;
        to.random.state = (uint64_t) round + 1000;
        REQUIRE(sparsestream_source_from_callbacks(&source_ops, &from, &source) == 0);
        REQUIRE(sparsestream_sink_to_callbacks(&sink_ops, &to, &sink) == 0);
        transfer = new_transfer(source, sink,
                                TRANSFER_OPTIONS(.flags = round % 4 == 3 ? 0 : SPARSESTREAM_DETECT_ZEROES,
                                                 .zero_block = 4096, .buffer_size = 20000));
        do
            code = sparsestream_transfer_run(transfer, random_between(&from.random, 1, 100000));
        while (code == 1 || code == -EAGAIN);
        CHECK_CODE(code, 0);
        CHECK_INT(from.agains, >, 5);
        CHECK_INT(to.agains, >, 0);
        CHECK_INT(from.moved, ==, 0);
        CHECK_INT(to.moved, ==, 0);
        CHECK_INT(transfer_stats(transfer).position, ==, 300000);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
    }
}

/* The trace. */

struct trace {
    char text[4096];
    int events, stages;
    int64_t last;
};

static void note_event(void *opaque, const struct sparsestream_event *event)
{
    struct trace *trace = opaque;
    char words[200], cut[8];
    const int64_t length = sparsestream_event_text(event, words, sizeof words);

    CHECK_INT(event->size, ==, sizeof *event);
    CHECK_INT(length, >, 8);
    CHECK_INT(length, ==, strlen(words));
    CHECK_CODE(sparsestream_event_text(event, cut, sizeof cut), length);
    CHECK_INT(strlen(cut), ==, sizeof cut - 1);
    CHECK_CODE(sparsestream_event_text(event, NULL, 0), length);
    CHECK_INT(event->position, >=, trace->last);
    trace->last = event->position;
    trace->events++;
    trace->stages += event->kind == SPARSESTREAM_EVENT_STAGE;
    snprintf(trace->text + strlen(trace->text), sizeof trace->text - strlen(trace->text), "%s\n", words);
}

/* A sink that makes no holes, and a request for none. */
static void the_trace_says_that_holes_are_written(void)
{
    for (int never = 0; never < 2; never++) {
        struct trace trace = { .events = 0 };
        struct stand stand;

        context("never %d", never);
        stand_init(&stand, without_keeps, COUNT(without_keeps));
        stand_ends(&stand, &end_source_ops, never ? &end_sink_ops : &end_dense_sink_ops);
        CHECK_CODE(stand_run(&stand, TRANSFER_OPTIONS(.trace = note_event, .opaque = &trace,
                                                      .sparse = never ? SPARSESTREAM_SPARSE_NEVER : 0)), 0);
        CHECK_CONTAINS(trace.text, "holes are written\n");
        stand_end(&stand);
    }
}

static void the_trace_names_the_limit_that_ended_a_transfer(void)
{
    const struct sparsestream_transfer_options limits[] = {
        { .size = sizeof *limits, .stall_ms = 50, .trace = note_event },
        { .size = sizeof *limits, .idle_ms = 50, .trace = note_event },
    };

    for (size_t i = 0; i < COUNT(limits); i++) {
        struct trace trace = { .events = 0 };
        struct sparsestream_transfer_options options = limits[i];
        struct stand stand;
        int ends[2];

        context("limit %zu", i);
        REQUIRE(pipe(ends) == 0);
        stand_init(&stand, without_keeps, COUNT(without_keeps));
        stand_ends(&stand, &end_source_ops, &end_sink_ops);
        sparsestream_source_free(stand.source);
        stand.source = fd_source(ends[0]);
        options.opaque = &trace;
        CHECK_CODE(stand_run(&stand, &options), -ETIMEDOUT);
        CHECK_CONTAINS(trace.text, i == 0 ? "held up by the limit: stall\n" : "held up by the limit: idle\n");
        stand_end(&stand);
        close(ends[0]);
        close(ends[1]);
    }
}

static void the_trace_says_what_was_decided(void)
{
    static struct trace trace;
    struct stand stand;
    struct sparsestream_stats stats;

    stand_init(&stand, without_keeps, COUNT(without_keeps));
    stand_ends(&stand, &end_source_ops, &end_sink_ops);
    CHECK_CODE(stand_run(&stand, TRANSFER_OPTIONS(.trace = note_event, .opaque = &trace)), 0);
    CHECK_CONTAINS(trace.text, "stage: open\n");
    CHECK_CONTAINS(trace.text, "stage: move\n");
    CHECK_CONTAINS(trace.text, "stage: finished\n");
    CHECK_CONTAINS(trace.text, "data moves by copy\n");
    CHECK_CONTAINS(trace.text, "holes are passed\n");
    CHECK_INT(trace.stages, ==, 6);
    stats = transfer_stats(stand.transfer);
    CHECK_INT(stats.data_by_way[SPARSESTREAM_WAY_COPY], ==, 5007);
    CHECK_INT(stats.holes_by_way[SPARSESTREAM_HOLE_PASSED], ==, 100003);
    CHECK_STR(sparsestream_way_name(SPARSESTREAM_WAY_COPY), "copy");
    CHECK_STR(sparsestream_way_name(0), "unknown");
    CHECK_STR(sparsestream_hole_way_name(SPARSESTREAM_HOLE_PUNCHED), "punched");
    CHECK_STR(sparsestream_hole_way_name(99), "unknown");
    stand_end(&stand);
}

/* The most that is read. */

static void a_length_may_be_only_the_most(void)
{
    const int in = file_in_memory(), out = file_in_memory();
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer;
    int fds[2];

    file_fill(in, 0, 1000, 1);
    CHECK_CODE(sparsestream_source_from_fd(in, SOURCE_OPTIONS(.length = 5000), &source), -ENODATA);
    CHECK_CODE(sparsestream_source_from_fd(in, SOURCE_OPTIONS(.length = 5000, .offset = 100,
                                                              .flags = SPARSESTREAM_AT_MOST), &source), 0);
    sink = fd_sink(out);
    transfer = new_transfer(source, sink, NULL);
    CHECK_CODE(sparsestream_transfer_run(transfer, 0), 0);
    CHECK_INT(transfer_stats(transfer).total, ==, 900);
    CHECK_INT(file_size(out), ==, 900);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    for (int length = 3; length <= 7; length++) {
        char buffer[16];

        REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
        REQUIRE(write(fds[1], "hello", 5) == 5);
        close(fds[1]);
        CHECK_CODE(sparsestream_source_from_fd(fds[0], SOURCE_OPTIONS(.length = length,
                                                                      .flags = SPARSESTREAM_AT_MOST),
                                               &source), 0);
        CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), length < 5 ? length : 5);
        CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 0);
        sparsestream_source_free(source);
        close(fds[0]);
    }
    close(in);
    close(out);
}

TESTS(
    CASE(kept_sections_go_from_table_to_table),
    CASE(a_sink_that_cannot_keep_is_refused_at_once),
    CASE(kept_sections_are_driven_by_hand),
    CASE(the_total_goes_from_the_source_to_the_sink),
    CASE(a_sink_may_refuse_what_is_announced),
    CASE(abilities_are_asked_and_not_guessed),
    CASE(both_may_be_asked_by_hand),
    CASE(holes_are_made_of_whole_blocks),
    CASE(pieces_of_a_stream_are_cut_to_what_it_prefers),
    CASE(pieces_end_on_the_block_that_a_sink_prefers),
    CASE(a_long_hole_is_made_in_parts),
    CASE(a_callback_says_why_it_failed),
    CASE(an_error_that_is_reported_late_names_its_own_offset),
    CASE(words_about_another_errno_are_forgotten),
    CASE(a_transfer_is_failed_from_another_thread),
    CASE(what_is_durable_is_reported_to_the_source),
    CASE(a_source_lends_its_memory),
    CASE(a_sink_lends_its_memory),
    CASE(memory_that_is_none_is_refused),
    CASE(several_descriptors_are_waited_for),
    CASE(a_buffer_is_the_same_until_it_is_answered_for),
    CASE(the_trace_says_what_was_decided),
    CASE(the_trace_says_that_holes_are_written),
    CASE(the_trace_names_the_limit_that_ended_a_transfer),
    CASE(a_length_may_be_only_the_most))
