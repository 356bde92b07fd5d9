/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Random layouts through random misbehaviour: what arrives is what was sent,
 * the same bytes and, to the block, the same holes.
 *
 * A failing round prints its seed; --only and SPARSESTREAM_TEST_SEED=N bring it back, and
 * SPARSESTREAM_TEST_SECONDS=N sets the length of the run.
 */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "random.h"

#include <sparsestream.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST_PIECES 24
#define MOST_EXTENTS 256

/* The content that a round sends, and where it goes. */
struct round {
    struct random random;
    struct piece pieces[MOST_PIECES];
    size_t count;
    int in, out;
    /* The range of the source, and where it goes. */
    int64_t offset, length, to;
    bool prefilled;
    struct sparsestream_sink_options sink_options;
};

static int64_t random_length(struct random *random)
{
    switch (random_between(random, 0, 5)) {
    case 0:
        return random_between(random, 1, 10);
    case 1:
        return random_between(random, 1, 8) * 4096;
    case 2:
        return random_between(random, 1, 8) * 4096 + random_between(random, -5, 5);
    case 3:
        return random_between(random, 1, 200000);
    case 4:
        return 65536;
    default:
        return random_between(random, 1, 20000);
    }
}

static void make_round(struct round *round, uint64_t seed, int in, int out)
{
    struct random *random = &round->random;
    int64_t size = 0;

    memset(round, 0, sizeof *round);
    random->state = seed;
    round->in = in;
    round->out = out;
    round->count = (size_t) random_between(random, 0, MOST_PIECES);
    for (size_t i = 0; i < round->count; i++) {
        round->pieces[i].kind = random_percent(random, 50) ? SPARSESTREAM_DATA
                                                           : SPARSESTREAM_HOLE;
        round->pieces[i].length = random_length(random);
        if (round->pieces[i].kind == SPARSESTREAM_HOLE && random_percent(random, 5))
            round->pieces[i].length += GiB;
        size += round->pieces[i].length;
    }
    file_resize(in, 0);
    file_resize(out, 0);
    file_lay_out(in, 0, round->pieces, round->count, 1);
    round->offset = 0;
    round->length = size;
    if (size > 0 && random_percent(random, 30)) {
        round->offset = random_between(random, 0, size - 1);
        round->length = random_between(random, 1, size - round->offset);
    }
    if (random_percent(random, 40))
        round->to = random_percent(random, 50) ? random_between(random, 0, 16) * 4096
                                               : random_between(random, 0, 100000);
    round->prefilled = random_percent(random, 40);
    if (round->prefilled)
        file_fill(out, 0, random_between(random, 1, 600000), 2);
    round->sink_options.size = sizeof round->sink_options;
    round->sink_options.offset = round->to;
    if (random_percent(random, 30))
        round->sink_options.flags |= SPARSESTREAM_TRUNCATE;
}

/* Where the source's map, cut to the range and moved to the target, says data: every block that it touches, and no other. */
static void check_map(const struct round *round)
{
    static struct extent source[MOST_EXTENTS], target[MOST_EXTENTS];
    const int64_t block = file_block(round->out);
    const size_t source_count = file_map(round->in, source, MOST_EXTENTS);
    const size_t target_count = file_map(round->out, target, MOST_EXTENTS);
    int64_t expected = 0, got = 0, last = -1;

    for (size_t i = 0; i < source_count; i++) {
        int64_t from = source[i].offset, to = source[i].offset + source[i].length;

        if (source[i].kind != SPARSESTREAM_DATA)
            continue;
        if (from < round->offset)
            from = round->offset;
        if (to > round->offset + round->length)
            to = round->offset + round->length;
        if (from >= to)
            continue;
        from = (from - round->offset + round->to) / block;
        to = (to - round->offset + round->to + block - 1) / block;
        if (from <= last)
            from = last + 1;
        if (to > from)
            expected += to - from;
        if (to - 1 > last)
            last = to - 1;
        /* Each of these blocks is data in the target. */
        for (int64_t at = from; at < to; at++)
            CHECK_INT(lseek(round->out, at * block, SEEK_DATA), ==, at * block);
    }
    for (size_t i = 0; i < target_count; i++) {
        if (target[i].kind == SPARSESTREAM_DATA)
            got += (target[i].length + block - 1) / block;
    }
    CHECK_INT(got, ==, expected);
}

static void check_round(const struct round *round, int64_t old_size)
{
    const int64_t end = round->to + round->length;
    const bool cut = round->sink_options.flags & SPARSESTREAM_TRUNCATE;

    CHECK_INT(file_size(round->out), ==, cut || old_size < end ? end : old_size);
    CHECK_INT(file_differs(round->in, round->offset, round->out, round->to, round->length), ==,
              -1);
    if (round->prefilled) {
        const int64_t head = old_size < round->to ? old_size : round->to;

        CHECK_INT(file_differs_from_pattern(round->out, 0, head, 2, 0), ==, -1);
        CHECK_INT(file_not_zero(round->out, head, round->to - head), ==, -1);
        if (!cut && old_size > end)
            CHECK_INT(file_differs_from_pattern(round->out, end, old_size - end, 2, 0), ==, -1);
    } else if (file_maps_exactly(round->out)) {
        check_map(round);
    }
}

/*
 * A stream between two transfers in one thread: a few frames of bounded size,
 * so that each side must wait for the other.
 */
struct channel {
    struct random *random;
    struct { int kind; int64_t length, done; unsigned char bytes[3000]; } frames[4];
    unsigned first, count;
    bool ended;
    int finishes, aborts;
};

static bool misbehave(struct channel *channel, int64_t *answer)
{
    if (random_percent(channel->random, 15))
        *answer = -EAGAIN;
    else if (random_percent(channel->random, 5))
        *answer = -EINTR;
    else
        return false;
    return true;
}

static int64_t channel_send(void *stream, const void *buffer, size_t length)
{
    struct channel *channel = stream;
    unsigned last = (channel->first + channel->count) % COUNT(channel->frames);
    int64_t answer;

    if (misbehave(channel, &answer))
        return answer;
    if (channel->count == COUNT(channel->frames))
        return -EAGAIN;
    if (length > sizeof channel->frames[0].bytes)
        length = sizeof channel->frames[0].bytes;
    if (random_percent(channel->random, 50))
        length = (size_t) random_between(channel->random, 1, (int64_t) length);
    memcpy(channel->frames[last].bytes, buffer, length);
    channel->frames[last].kind = SPARSESTREAM_DATA;
    channel->frames[last].length = (int64_t) length;
    channel->frames[last].done = 0;
    channel->count++;
    return (int64_t) length;
}

static int64_t channel_send_hole(void *stream, int64_t length)
{
    struct channel *channel = stream;
    unsigned last = (channel->first + channel->count) % COUNT(channel->frames);
    int64_t answer;

    if (misbehave(channel, &answer))
        return answer;
    if (channel->count == COUNT(channel->frames))
        return -EAGAIN;
    if (length > 1 && random_percent(channel->random, 30))
        length = random_between(channel->random, 1, length);
    channel->frames[last].kind = SPARSESTREAM_HOLE;
    channel->frames[last].length = length;
    channel->frames[last].done = 0;
    channel->count++;
    return length;
}

static void take_frame(struct channel *channel)
{
    channel->first = (channel->first + 1) % COUNT(channel->frames);
    channel->count--;
}

static int64_t channel_recv(void *stream, void *buffer, size_t length)
{
    struct channel *channel = stream;
    int64_t answer, left;

    if (misbehave(channel, &answer))
        return answer;
    if (channel->count == 0)
        return channel->ended ? 0 : -EAGAIN;
    if (channel->frames[channel->first].kind == SPARSESTREAM_HOLE)
        return SPARSESTREAM_AT_HOLE;
    left = channel->frames[channel->first].length - channel->frames[channel->first].done;
    if ((int64_t) length > left)
        length = (size_t) left;
    if (random_percent(channel->random, 30))
        length = (size_t) random_between(channel->random, 1, (int64_t) length);
    memcpy(buffer, channel->frames[channel->first].bytes + channel->frames[channel->first].done,
           length);
    channel->frames[channel->first].done += (int64_t) length;
    if ((int64_t) length == left)
        take_frame(channel);
    return (int64_t) length;
}

static int channel_recv_hole(void *stream, int64_t *length)
{
    struct channel *channel = stream;
    int64_t answer;

    if (misbehave(channel, &answer))
        return (int) answer;
    *length = channel->frames[channel->first].length;
    take_frame(channel);
    return 0;
}

static int channel_finish(void *stream)
{
    struct channel *channel = stream;
    int64_t answer;

    if (misbehave(channel, &answer))
        return (int) answer;
    channel->ended = true;
    channel->finishes++;
    return 0;
}

static void channel_abort(void *stream, int error)
{
    (void) error;
    ((struct channel *) stream)->aborts++;
}

static const struct sparsestream_stream_ops channel_ops = {
    .size = sizeof channel_ops,
    .send = channel_send,
    .send_hole = channel_send_hole,
    .recv = channel_recv,
    .recv_hole = channel_recv_hole,
    .finish = channel_finish,
    .abort = channel_abort,
};

static uint64_t random_buffer(struct random *random)
{
    const uint64_t sizes[] = { 0, 4096, 5000, 65536, 100000 };

    return sizes[random_between(random, 0, COUNT(sizes) - 1)];
}

/* Both transfers, run in turn with random budgets, until both have ended. */
static void run_through_channel(struct round *round)
{
    struct random *random = &round->random;
    static struct channel channel;
    struct sparsestream_source *sources[2] = { NULL };
    struct sparsestream_sink *sinks[2] = { NULL };
    struct sparsestream_transfer *transfers[2];
    int codes[2] = { 1, 1 }, runs = 0;

    memset(&channel, 0, sizeof channel);
    channel.random = random;
    REQUIRE(sparsestream_source_from_fd(round->in, SOURCE_OPTIONS(.offset = round->offset,
                                                                  .length = round->length),
                                        &sources[0]) == 0);
    REQUIRE(sparsestream_sink_to_stream(&channel_ops, &channel, &sinks[0]) == 0);
    REQUIRE(sparsestream_source_from_stream(&channel_ops, &channel, &sources[1]) == 0);
    REQUIRE(sparsestream_sink_to_fd(round->out, &round->sink_options, &sinks[1]) == 0);
    for (int i = 0; i < 2; i++)
        transfers[i] = new_transfer(sources[i], sinks[i],
                                    TRANSFER_OPTIONS(.buffer_size = random_buffer(random),
                                                     .sparse = SPARSESTREAM_SPARSE_REQUIRED));
    while (codes[0] != 0 || codes[1] != 0) {
        const int i = (int) random_between(random, 0, 1);
        const int64_t budget = random_percent(random, 30) ? 0 : random_between(random, 1, 50000);

        codes[i] = sparsestream_transfer_run(transfers[i], budget);
        if (codes[i] < 0 && codes[i] != -EAGAIN) {
            CHECK_CODE(codes[i], 0);
            break;
        }
        REQUIRE(++runs < 1000000);
    }
    CHECK_INT(channel.finishes, ==, 2);
    CHECK_INT(channel.aborts, ==, 0);
    for (int i = 0; i < 2; i++) {
        const struct sparsestream_stats stats = transfer_stats(transfers[i]);

        CHECK_INT(stats.position, ==, round->length);
        CHECK_INT(stats.data_bytes + stats.hole_bytes, ==, round->length);
        CHECK_INT(stats.zero_bytes, ==, 0);
        sparsestream_transfer_free(transfers[i]);
        sparsestream_source_free(sources[i]);
        sparsestream_sink_free(sinks[i]);
    }
}

/* From file to file, which may take ways of its own. */
static void run_directly(struct round *round)
{
    struct random *random = &round->random;
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer;
    int code;

    REQUIRE(sparsestream_source_from_fd(round->in, SOURCE_OPTIONS(.offset = round->offset,
                                                                  .length = round->length),
                                        &source) == 0);
    REQUIRE(sparsestream_sink_to_fd(round->out, &round->sink_options, &sink) == 0);
    transfer = new_transfer(source, sink, TRANSFER_OPTIONS(.buffer_size = random_buffer(random)));
    do
        code = sparsestream_transfer_run(transfer, random_between(random, 0, 100000));
    while (code == 1);
    CHECK_CODE(code, 0);
    CHECK_INT(transfer_stats(transfer).position, ==, round->length);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

static uint64_t first_seed(bool *only)
{
    const char *given = getenv("SPARSESTREAM_TEST_SEED");

    *only = given != NULL;
    return given != NULL ? strtoull(given, NULL, 0) : (uint64_t) time(NULL) * 1000003u + getpid();
}

static void go_through(int in, int out, void (*run)(struct round *))
{
    static struct round round;
    const char *given = getenv("SPARSESTREAM_TEST_SECONDS");
    const int64_t end = harness_now() + 1000 * (given == NULL ? 4 : atoi(given));
    uint64_t seed;
    bool only;
    int rounds = 0;

    seed = first_seed(&only);
    do {
        int64_t old_size;

        context("SPARSESTREAM_TEST_SEED=%ju", (uintmax_t) seed);
        make_round(&round, seed, in, out);
        old_size = file_size(out);
        /* A range of no bytes would mean all to the end. */
        if (round.length > 0) {
            run(&round);
            check_round(&round, old_size);
        }
        rounds++;
        seed++;
    } while (!only && harness_now() < end && harness_failures() == 0);
    context("%s", "");
    CHECK_INT(rounds, >, only ? 0 : 20 / (int) harness_slowness());
    close(in);
    close(out);
}

static void through_a_stream_in_files(void)
{
    go_through(file_new("in"), file_new("out"), run_through_channel);
}

static void through_a_stream_in_memory(void)
{
    go_through(file_in_memory(), file_in_memory(), run_through_channel);
}

static void directly_in_files(void)
{
    go_through(file_new("in"), file_new("out"), run_directly);
}

TESTS(
    CASE_WITHIN(through_a_stream_in_files, 30),
    CASE_WITHIN(through_a_stream_in_memory, 30),
    CASE_WITHIN(directly_in_files, 30),
)
