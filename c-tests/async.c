/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Ends of requests: a medium in memory whose answers come late, out of order, short, failed, from the
 * submission itself or from another thread.
 */
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MOST 256

/* When and how an end answers. */
enum habit {
    AT_ONCE,     /* within submit */
    LATE,        /* in a later advance, the last one first, a part of it */
    FROM_THREAD, /* by another thread */
};

struct medium {
    unsigned char *bytes;
    size_t size, room;
    enum habit habit;
    struct sparsestream_async_info info;
    struct sparsestream_request *waiting[MOST];
    size_t waiting_count, most_waiting, submitted;
    size_t fail_at; /* the request that fails, from 1 on; 0 for none */
    int fail_with;
    size_t refuse_at; /* the request that is not accepted, from 1 on; 0 for none */
    int64_t failed_at;
    bool explains, fails_to_flush, refuses_fast_zeroes;
    size_t zeroes, fast_zeroes;
    size_t refuse_every;
    int64_t final_size;
    char *memory;
    size_t memory_length;
    int event, described, finished, aborted, frees, flushes, outside, late_submit, ended_with;
    bool leave_some, refused;
    pthread_mutex_t lock;
    pthread_t thread;
    bool thread_runs, stop;
    unsigned random;
    /* For a source. */
    const int64_t *sections; /* lengths, data and holes by turns; NULL for all data */
};

#define WORDS "the quota of volume 7 is used up"

static int complain(void)
{
    CHECK_INT(sparsestream_set_error(EDQUOT, 0, -1, WORDS), ==, 0);
    return -EDQUOT;
}

static unsigned draw(struct medium *medium, unsigned below)
{
    medium->random = medium->random * 1103515245u + 12345u;
    return (medium->random >> 16) % below;
}

/* Carries out a request and returns the answer to it. */
static int64_t carry_out(struct medium *medium, struct sparsestream_request *request)
{
    int64_t length = request->length, block = medium->info.block;
    size_t offset = (size_t)request->offset;

    if (medium->fail_at != 0 && --medium->fail_at == 0)
        return -medium->fail_with;
    if (medium->habit != AT_ONCE && length > block && draw(medium, 3) == 0)
        length = (1 + draw(medium, (unsigned)(length / block))) * block;
    switch (request->kind) {
    case SPARSESTREAM_REQUEST_READ:
        if (offset + (size_t)length > medium->size)
            length = offset < medium->size ? (int64_t)(medium->size - offset) : 0;
        memcpy(request->buffer, medium->bytes + offset, (size_t)length);
        return length;
    case SPARSESTREAM_REQUEST_WRITE:
        if (offset + (size_t)length > medium->room)
            return -EIO;
        memcpy(medium->bytes + offset, request->buffer, (size_t)length);
        if (offset + (size_t)length > medium->size)
            medium->size = offset + (size_t)length;
        return length;
    case SPARSESTREAM_REQUEST_FAST_ZERO:
        medium->fast_zeroes++;
        if (medium->refuses_fast_zeroes)
            return -EOPNOTSUPP;
        memset(medium->bytes + offset, 0, (size_t)length);
        return length;
    case SPARSESTREAM_REQUEST_ZERO:
        medium->zeroes++;
        memset(medium->bytes + offset, 0, (size_t)length);
        return length;
    case SPARSESTREAM_REQUEST_FLUSH:
        medium->flushes++;
        return medium->fails_to_flush ? -medium->fail_with : 0;
    default:
        return -EOPNOTSUPP;
    }
}

static void answer(struct medium *medium, size_t nth)
{
    struct sparsestream_request *request = medium->waiting[nth];
    int64_t result = carry_out(medium, request);

    medium->waiting[nth] = medium->waiting[--medium->waiting_count];
    if (result < 0 && medium->explains) {
        medium->failed_at = request->offset;
        CHECK_INT(complain(), ==, result);
    }
    CHECK_INT(sparsestream_request_done(request, result), ==, 0);
    CHECK_INT(sparsestream_request_done(request, result), ==, -EALREADY);
}

/* It is ready again at once, which is all that ends the wait. */
static int not_now(struct medium *medium)
{
    medium->refused = true;
    return -EAGAIN;
}

static int describe(void *opaque, struct sparsestream_async_info *info)
{
    struct medium *medium = opaque;

    /* A connection takes its time. */
    if (medium->described++ == 0)
        return not_now(medium);
    CHECK_INT(info->size, ==, sizeof *info);
    medium->info.size = info->size;
    medium->info.total = (int64_t)medium->size;
    *info = medium->info;
    return 0;
}

static int memory(void *opaque, void *start, size_t length)
{
    struct medium *medium = opaque;

    medium->memory = start;
    medium->memory_length = length;
    return 0;
}

static int submit(void *opaque, struct sparsestream_request *request)
{
    struct medium *medium = opaque;

    CHECK(medium->aborted == 0 && medium->finished == 0);
    CHECK_INT(request->size, ==, sizeof *request);
    CHECK(request->user == NULL);
    medium->submitted++;
    if (medium->submitted == medium->refuse_at) {
        medium->failed_at = request->offset;
        return complain();
    }
    if (medium->refuse_every != 0 && medium->submitted % medium->refuse_every == 0)
        return not_now(medium);
    CHECK_INT(request->offset % medium->info.block, ==, 0);
    CHECK_INT(request->length % medium->info.block, ==, 0);
    if (request->buffer != NULL) {
        char *start = request->buffer;

        CHECK((uintptr_t)start % medium->info.memory == 0);
        if (start < medium->memory || start + request->length > medium->memory + medium->memory_length)
            medium->outside++;
        if (medium->info.request_size != 0)
            CHECK_INT(request->length, <=, medium->info.request_size);
    }
    pthread_mutex_lock(&medium->lock);
    medium->waiting[medium->waiting_count++] = request;
    if (medium->waiting_count > medium->most_waiting)
        medium->most_waiting = medium->waiting_count;
    if (medium->habit == AT_ONCE)
        answer(medium, 0);
    pthread_mutex_unlock(&medium->lock);
    return 0;
}

static int advance(void *opaque)
{
    struct medium *medium = opaque;
    uint64_t count;

    if (medium->habit == LATE && draw(medium, 3) != 0)
        for (unsigned left = draw(medium, 4); left > 0 && medium->waiting_count > 0; left--)
            answer(medium, draw(medium, (unsigned)medium->waiting_count));
    if (medium->event >= 0 && medium->habit == FROM_THREAD && read(medium->event, &count, sizeof count) < 0)
        CHECK_INT(errno, ==, EAGAIN);
    return draw(medium, 2) == 0 ? -EAGAIN : 0;
}

static void *answer_all(void *opaque)
{
    struct medium *medium = opaque;
    uint64_t one = 1;
    bool stop = false;

    while (!stop) {
        usleep(100);
        pthread_mutex_lock(&medium->lock);
        while (medium->waiting_count > 0) {
            answer(medium, draw(medium, (unsigned)medium->waiting_count));
            CHECK_INT(write(medium->event, &one, sizeof one), ==, sizeof one);
        }
        stop = medium->stop;
        pthread_mutex_unlock(&medium->lock);
    }
    return NULL;
}

static int section(void *opaque, struct sparsestream_section *section)
{
    struct medium *medium = opaque;
    int64_t start = 0;

    if (draw(medium, 3) == 0)
        return not_now(medium);
    for (size_t i = 0;; i++) {
        if (section->offset < start + medium->sections[i]) {
            section->kind = i % 2 == 0 ? SPARSESTREAM_DATA : SPARSESTREAM_HOLE;
            section->length = start + medium->sections[i] - section->offset;
            return 0;
        }
        start += medium->sections[i];
    }
}

static int set_size(void *opaque, int64_t bytes)
{
    struct medium *medium = opaque;

    CHECK_INT(medium->waiting_count, ==, 0);
    medium->final_size = bytes;
    if ((size_t)bytes > medium->size)
        memset(medium->bytes + medium->size, 0, (size_t)bytes - medium->size);
    medium->size = (size_t)bytes;
    return 0;
}

static int wait_for(void *opaque, struct sparsestream_wait *wait)
{
    struct medium *medium = opaque;

    if (medium->habit == FROM_THREAD) {
        wait->fd = medium->event;
        wait->events = POLLIN;
    } else {
        wait->timeout_ms = 0;
    }
    if (medium->refused)
        wait->timeout_ms = 0;
    medium->refused = false;
    return 0;
}

/* It is there until the end is finished or aborted. */
static void read_memory(const struct medium *medium)
{
    static volatile char read;

    for (size_t i = 0; i < medium->memory_length; i += 4096)
        read = medium->memory[i];
    (void)read;
}

static int finish(void *opaque)
{
    struct medium *medium = opaque;

    CHECK_INT(medium->waiting_count, ==, 0);
    medium->finished++;
    read_memory(medium);
    return 0;
}

static void abort_end(void *opaque, int error)
{
    struct medium *medium = opaque;

    medium->aborted++;
    read_memory(medium);
    medium->ended_with = error;
    pthread_mutex_lock(&medium->lock);
    while (medium->waiting_count > (medium->leave_some ? 1 : 0)) {
        struct sparsestream_request *request = medium->waiting[--medium->waiting_count];

        CHECK_INT(sparsestream_request_done(request, -ECANCELED), ==, 0);
    }
    pthread_mutex_unlock(&medium->lock);
}

static void count_free(void *opaque)
{
    ((struct medium *)opaque)->frees++;
}

static const struct sparsestream_async_ops ops = {
    .size = sizeof ops,
    .free = count_free,
    .describe = describe,
    .memory = memory,
    .submit = submit,
    .set_size = set_size,
    .wait = wait_for,
    .advance = advance,
    .finish = finish,
    .abort = abort_end,
};

static void medium_init(struct medium *medium, size_t size, size_t room, enum habit habit, unsigned seed)
{
    memset(medium, 0, sizeof *medium);
    medium->bytes = calloc(1, room);
    REQUIRE(medium->bytes != NULL);
    for (size_t i = 0; i < size; i++)
        medium->bytes[i] = (unsigned char)(i * 7 + i / 251 + seed) | 1;
    medium->size = size;
    medium->room = room;
    medium->habit = habit;
    medium->random = seed;
    medium->info.block = 512;
    medium->info.memory = 512;
    medium->info.depth = 8;
    medium->info.request_size = 8192;
    medium->event = -1;
    medium->final_size = -1;
    REQUIRE(pthread_mutex_init(&medium->lock, NULL) == 0);
    if (habit == FROM_THREAD) {
        medium->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        REQUIRE(medium->event >= 0);
        REQUIRE(pthread_create(&medium->thread, NULL, answer_all, medium) == 0);
        medium->thread_runs = true;
    }
}

static void medium_end(struct medium *medium)
{
    if (medium->thread_runs) {
        pthread_mutex_lock(&medium->lock);
        medium->stop = true;
        pthread_mutex_unlock(&medium->lock);
        pthread_join(medium->thread, NULL);
        close(medium->event);
    }
    CHECK_INT(medium->frees, ==, 1);
    CHECK_INT(medium->outside, ==, 0);
    CHECK_INT(medium->finished + medium->aborted, ==, 1);
    pthread_mutex_destroy(&medium->lock);
    free(medium->bytes);
}

static int run(struct sparsestream_source *source, struct sparsestream_sink *sink, int64_t *offset)
{
    struct sparsestream_transfer_options options
        = { .size = sizeof options, .request_size = 4096, .depth = 8 };
    struct sparsestream_transfer *transfer = NULL;
    struct sparsestream_error error = { .size = sizeof error };
    int code, again = 0;

    REQUIRE(sparsestream_transfer_new(source, sink, &options, &transfer) == 0);
    do
        code = sparsestream_transfer_run(transfer, 0);
    while (code == -EAGAIN && again++ < 100000);
    if (offset != NULL) {
        CHECK_INT(sparsestream_transfer_error(transfer, &error), ==, 0);
        *offset = error.offset;
    }
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

static void ends(struct medium *from, struct medium *to, const struct sparsestream_async_ops *from_ops,
                 struct sparsestream_async_options *options, struct sparsestream_source **source,
                 struct sparsestream_sink **sink)
{
    REQUIRE(sparsestream_source_from_async(from_ops, from, NULL, source) == 0);
    REQUIRE(sparsestream_sink_to_async(&ops, to, options, sink) == 0);
}

static void every_habit_of_both_ends_gives_the_same_bytes(void)
{
    for (unsigned seed = 1; seed < 40; seed++) {
        struct medium from, to;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        size_t size = 100000 + seed * 1013;

        medium_init(&from, size, size, (enum habit)(seed % 3), seed);
        medium_init(&to, 0, 400000, (enum habit)(seed / 3 % 3), seed + 1);
        from.refuse_every = seed % 5;
        to.refuse_every = seed % 7;
        if (from.refuse_every == 1)
            from.refuse_every = 0;
        if (to.refuse_every == 1)
            to.refuse_every = 0;
        to.info.flags = SPARSESTREAM_ASYNC_GROWS;
        ends(&from, &to, &ops, NULL, &source, &sink);
        context("seed %u", seed);
        CHECK_INT(run(source, sink, NULL), ==, 0);
        CHECK_INT(to.final_size, ==, (int64_t)size);
        CHECK(to.size == size && memcmp(to.bytes, from.bytes, size) == 0);
        CHECK_INT(from.finished + to.finished, ==, 2);
        if (from.habit != AT_ONCE)
            CHECK_INT(from.most_waiting, >, 1);
        medium_end(&from);
        medium_end(&to);
    }
}

static void holes_of_the_map_become_requests_for_zeros_within_the_end_and_none_beyond(void)
{
    static const int64_t sections[] = { 10000, 30000, 1, 511, 20000, 39488, 0 };
    struct sparsestream_async_ops with_map = ops;
    struct sparsestream_async_options options
        = { .size = sizeof options, .flags = SPARSESTREAM_SYNC, .offset = 700 };
    struct medium from, to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;

    with_map.section = section;
    medium_init(&from, 100000, 100000, LATE, 5);
    from.sections = sections;
    from.info.flags = SPARSESTREAM_WITH_HOLES;
    memset(from.bytes + 10000, 0, 30000);
    memset(from.bytes + 40001, 0, 511);
    memset(from.bytes + 60512, 0, 39488);
    medium_init(&to, 120000, 200000, LATE, 6);
    to.size = 119808;
    to.info.flags = SPARSESTREAM_WITH_HOLES | SPARSESTREAM_ASYNC_READS;
    unsigned char first = to.bytes[699], last = to.bytes[100700];

    ends(&from, &to, &with_map, &options, &source, &sink);
    CHECK_INT(run(source, sink, NULL), ==, 0);
    CHECK(memcmp(to.bytes + 700, from.bytes, 100000) == 0);
    CHECK(to.bytes[699] == first && to.bytes[100700] == last);
    CHECK_INT(to.flushes, ==, 1);
    CHECK_INT(to.final_size, ==, -1);
    medium_end(&from);
    medium_end(&to);
}

/* 4 KiB of data and of a hole by turns, from a source to a sink that may zero quickly. */
static void comb(uint64_t flags, bool refuses, enum habit habit, struct medium *to)
{
    enum { TOOTH = 4096, TEETH = 64, SIZE = 2 * TEETH * TOOTH };
    int64_t sections[2 * TEETH + 1] = { 0 };
    struct sparsestream_async_ops with_map = ops;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct medium from;

    with_map.section = section;
    medium_init(&from, SIZE, SIZE, habit, 5);
    medium_init(to, SIZE, SIZE, habit, 6);
    for (size_t i = 0; i < 2 * TEETH; i++) {
        sections[i] = TOOTH;
        if (i % 2 == 1)
            memset(from.bytes + i * TOOTH, 0, TOOTH);
    }
    from.sections = sections;
    from.info.flags = SPARSESTREAM_WITH_HOLES;
    to->info.flags = flags;
    to->refuses_fast_zeroes = refuses;
    ends(&from, to, &with_map, NULL, &source, &sink);
    CHECK_INT(run(source, sink, NULL), ==, 0);
    CHECK(memcmp(to->bytes, from.bytes, SIZE) == 0);
    medium_end(&from);
    medium_end(to);
}

static void short_holes_are_one_request_for_a_sink_that_zeroes_quickly(void)
{
    const uint64_t quick = SPARSESTREAM_WITH_HOLES | SPARSESTREAM_ASYNC_FAST_ZERO;
    struct medium to;

    for (enum habit habit = AT_ONCE; habit <= LATE; habit++) {
        context("habit %d", (int)habit);
        comb(SPARSESTREAM_WITH_HOLES, false, habit, &to);
        CHECK(to.zeroes >= 64 && to.fast_zeroes == 0);
        comb(quick, false, habit, &to);
        CHECK_INT(to.fast_zeroes, >, 0);
        /* It may answer a part of a range, and then the rest is requested hole by hole. */
        if (habit == AT_ONCE)
            CHECK(to.zeroes + to.fast_zeroes < 32);
        comb(quick, true, habit, &to);
        CHECK(to.zeroes >= 64 && to.fast_zeroes > 0 && to.fast_zeroes < 32);
        /* Without requests for zeros there are none of either kind. */
        comb(SPARSESTREAM_ASYNC_FAST_ZERO, false, habit, &to);
        CHECK(to.zeroes == 0 && to.fast_zeroes == 0);
    }
}

static void a_failed_request_is_reported_with_its_own_offset_and_all_others_are_answered_first(void)
{
    for (unsigned nth = 1; nth < 40; nth++) {
        struct medium from, to;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        int64_t offset = -2;

        medium_init(&from, 100352, 100352, LATE, nth);
        medium_init(&to, 100352, 200000, LATE, nth + 1);
        (nth % 2 != 0 ? &from : &to)->fail_at = nth / 2 + 1;
        (nth % 2 != 0 ? &from : &to)->fail_with = EIO;
        ends(&from, &to, &ops, NULL, &source, &sink);
        CHECK_INT(run(source, sink, &offset), ==, -EIO);
        CHECK(offset >= 0 && offset < 100352 && offset % 512 == 0);
        CHECK(from.aborted == 1 && to.aborted == 1 && from.ended_with == EIO);
        CHECK_INT(from.waiting_count + to.waiting_count, ==, 0);
        medium_end(&from);
        medium_end(&to);
    }
}

static void freeing_a_transfer_that_is_under_way_aborts_both_ends(void)
{
    struct medium from, to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer = NULL;
    struct sparsestream_transfer_options options
        = { .size = sizeof options, .request_size = 4096, .depth = 8 };

    medium_init(&from, 100352, 100352, LATE, 1);
    medium_init(&to, 100352, 200000, LATE, 2);
    ends(&from, &to, &ops, NULL, &source, &sink);
    REQUIRE(sparsestream_transfer_new(source, sink, &options, &transfer) == 0);
    for (int i = 0; i < 30 && to.waiting_count == 0; i++)
        CHECK(sparsestream_transfer_run(transfer, 4096) <= 1);
    CHECK_INT(from.waiting_count + to.waiting_count, >, 0);
    sparsestream_transfer_free(transfer);
    CHECK(from.aborted == 1 && to.aborted == 1 && from.ended_with == ECANCELED);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    medium_end(&from);
    medium_end(&to);
}

static void memory_of_a_request_that_abort_did_not_answer_stays(void)
{
    struct medium from, to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer = NULL;
    struct sparsestream_transfer_options options
        = { .size = sizeof options, .request_size = 4096, .depth = 8 };

    medium_init(&from, 100352, 100352, LATE, 1);
    medium_init(&to, 100352, 200000, LATE, 2);
    from.leave_some = true;
    ends(&from, &to, &ops, NULL, &source, &sink);
    REQUIRE(sparsestream_transfer_new(source, sink, &options, &transfer) == 0);
    for (int i = 0; i < 30 && from.waiting_count == 0; i++)
        CHECK(sparsestream_transfer_run(transfer, 4096) <= 1);
    REQUIRE(from.waiting_count > 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    REQUIRE(from.waiting_count == 1);
    /* A broken end that writes too late does no harm. */
    memset(from.waiting[0]->buffer, 7, (size_t)from.waiting[0]->length);
    CHECK_INT(sparsestream_request_done(from.waiting[0], 512), ==, 0);
    medium_end(&from);
    medium_end(&to);
}

static void a_write_beyond_a_fixed_end_is_refused_before_it_is_submitted(void)
{
    struct medium from, to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;

    medium_init(&from, 100352, 100352, LATE, 1);
    medium_init(&to, 51200, 200000, LATE, 2);
    ends(&from, &to, &ops, NULL, &source, &sink);
    CHECK_INT(run(source, sink, NULL), ==, -ENOSPC);
    CHECK_INT(to.submitted, ==, 0);
    medium_end(&from);
    medium_end(&to);
}

static void arguments_are_checked_and_the_opaque_is_freed(void)
{
    struct medium medium = { .event = -1 };
    struct sparsestream_async_ops broken = ops;
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    char byte;

    broken.submit = NULL;
    CHECK_INT(sparsestream_source_from_async(&broken, &medium, NULL, &source), ==, -EINVAL);
    CHECK(source == NULL && medium.frees == 1);
    broken = ops;
    broken.describe = NULL;
    CHECK_INT(sparsestream_sink_to_async(&broken, &medium, NULL, &sink), ==, -EINVAL);
    CHECK(sink == NULL && medium.frees == 2);
    CHECK_INT(sparsestream_sink_to_async(NULL, &medium, NULL, &sink), ==, -EINVAL);
    CHECK_INT(medium.frees, ==, 2);
    CHECK_INT(sparsestream_request_done(NULL, 0), ==, -EINVAL);
    CHECK_INT(sparsestream_source_from_async(&ops, &medium, NULL, &source), ==, 0);
    CHECK_INT(sparsestream_source_read(source, &byte, 1), ==, -EOPNOTSUPP);
    sparsestream_source_free(source);
    CHECK_INT(medium.frees, ==, 3);
}

static int nonsense(void *opaque, struct sparsestream_async_info *info)
{
    struct medium *medium = opaque;

    *info = medium->info;
    return 0;
}

static void a_description_that_cannot_be_is_refused(void)
{
    static const struct sparsestream_async_info wrong[] = {
        { .total = -1, .block = 1, .memory = 1, .depth = 1 },
        { .total = 4096, .block = 3, .memory = 1, .depth = 1 },
        { .total = 4096, .block = 131072, .memory = 1, .depth = 1 },
        { .total = 4096, .block = 512, .memory = 1024, .depth = 1 },
        { .total = 4096, .block = 0, .memory = 0, .depth = 1 },
        { .total = 4096, .block = 512, .memory = 1, .depth = 0 },
        { .total = 4096, .block = 512, .memory = 1, .depth = 1, .request_size = 256 },
        { .total = 4096, .block = 512, .memory = 1, .depth = 1, .flags = 1 },
    };
    struct sparsestream_async_ops broken = ops;

    broken.describe = nonsense;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct medium from, to;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;

        context("description %zu", i);
        medium_init(&from, 4096, 4096, LATE, 1);
        medium_init(&to, 4096, 4096, LATE, 2);
        from.info = wrong[i];
        ends(&from, &to, &broken, NULL, &source, &sink);
        CHECK_INT(run(source, sink, NULL), ==, -EPROTO);
        CHECK_INT(from.submitted + to.submitted, ==, 0);
        /* The sink was not used. */
        to.aborted |= 1;
        medium_end(&from);
        medium_end(&to);
    }
}

static size_t at_first_advance;

static int advance_counts(void *opaque)
{
    struct medium *medium = opaque;

    if (at_first_advance == 0)
        at_first_advance = medium->waiting_count;
    return advance(opaque);
}

static void a_transfer_begins_with_the_requests_that_an_end_asks_for(void)
{
    static const struct {
        uint32_t source, sink;
        size_t begun;
    } cases[] = { { 0, 0, 8 }, { 2, 0, 2 }, { 0, 3, 3 }, { 5, 4, 4 }, { 100, 0, 8 } };
    struct sparsestream_async_ops counting = ops;

    counting.advance = advance_counts;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct medium from, to;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;

        context("case %zu", i);
        medium_init(&from, 65536, 65536, LATE, 1);
        medium_init(&to, 65536, 65536, LATE, 2);
        from.info.begin_depth = cases[i].source;
        to.info.begin_depth = cases[i].sink;
        at_first_advance = 0;
        ends(&from, &to, &counting, NULL, &source, &sink);
        CHECK_INT(run(source, sink, NULL), ==, 0);
        CHECK_INT(at_first_advance, ==, cases[i].begun);
        CHECK_INT(memcmp(from.bytes, to.bytes, 65536), ==, 0);
        medium_end(&from);
        medium_end(&to);
    }
}

static void a_sink_that_is_a_stream_adds_little_memory_whatever_the_depth(void)
{
    enum { DEPTH = 256, REQUEST = 128 * KiB, PAGE = 4096, BLOCKS = 2 * 512 };
    static const size_t requests = (DEPTH + 1) * (size_t)((REQUEST + BLOCKS + PAGE - 1) / PAGE * PAGE);
    const struct sparsestream_transfer_options options
        = { .size = sizeof options, .request_size = REQUEST, .depth = DEPTH };
    struct sparsestream_transfer *transfer = NULL;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct medium from;
    int code, again = 0, file = file_new("copy");

    medium_init(&from, MiB, MiB, LATE, 1);
    from.info.depth = DEPTH;
    from.info.request_size = REQUEST;
    REQUIRE(sparsestream_source_from_async(&ops, &from, NULL, &source) == 0);
    REQUIRE(sparsestream_sink_to_fd(file, NULL, &sink) == 0);
    REQUIRE(sparsestream_transfer_new(source, sink, &options, &transfer) == 0);
    do
        code = sparsestream_transfer_run(transfer, 0);
    while (code == -EAGAIN && again++ < 100000);
    CHECK_INT(code, ==, 0);
    CHECK_INT(from.memory_length, >=, requests);
    CHECK_INT(from.memory_length, <=, requests + 16 * (64 * KiB + PAGE));
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    medium_end(&from);
    close(file);
}

static void an_end_that_is_used_by_hand_is_refused_and_asked_for_nothing(void)
{
    struct medium from, to;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    char bytes[512] = { 0 };

    medium_init(&from, 4096, 4096, AT_ONCE, 1);
    medium_init(&to, 4096, 4096, AT_ONCE, 2);
    ends(&from, &to, &ops, NULL, &source, &sink);
    CHECK_INT(sparsestream_source_read(source, bytes, sizeof bytes), ==, -EOPNOTSUPP);
    CHECK_CONTAINS(sparsestream_last_error(), "only a transfer can use an end with requests in flight");
    CHECK_INT(sparsestream_sink_write(sink, bytes, sizeof bytes), ==, -EOPNOTSUPP);
    CHECK_CONTAINS(sparsestream_last_error(), "only a transfer can use an end with requests in flight");
    CHECK_INT(sparsestream_sink_hole(sink, 512), ==, -EOPNOTSUPP);
    CHECK_INT(from.submitted + to.submitted, ==, 0);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(from.frees, ==, 1);
    CHECK_INT(to.frees, ==, 1);
    /* An end that was refused need not be aborted. */
    from.aborted = to.aborted = 1;
    medium_end(&from);
    medium_end(&to);
}

static int describe_complains(void *opaque, struct sparsestream_async_info *info)
{
    (void)opaque;
    (void)info;
    return complain();
}

static int advance_complains(void *opaque)
{
    const struct medium *medium = opaque;

    return medium->submitted > 3 ? complain() : advance(opaque);
}

static int set_size_complains(void *opaque, int64_t bytes)
{
    (void)opaque;
    (void)bytes;
    return complain();
}

static int finish_complains(void *opaque)
{
    (void)opaque;
    return complain();
}

static char heard[256];

static void abort_listens(void *opaque, int error)
{
    snprintf(heard, sizeof heard, "%s", sparsestream_last_error());
    abort_end(opaque, error);
}

static void the_words_of_an_end_reach_the_caller_and_the_other_end(void)
{
    for (int nth = 0; nth < 4; nth++) {
        struct sparsestream_async_ops listening = ops, complaining = ops;
        struct medium from, to;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer = NULL;
        int code, again = 0;

        context("function %d", nth);
        medium_init(&from, 100352, 100352, LATE, 3);
        medium_init(&to, 0, 200000, LATE, 4);
        to.info.flags = SPARSESTREAM_ASYNC_GROWS;
        listening.abort = abort_listens;
        if (nth == 0)
            complaining.describe = describe_complains;
        else if (nth == 1)
            complaining.advance = advance_complains;
        else if (nth == 2)
            complaining.set_size = set_size_complains;
        else
            complaining.finish = finish_complains;
        heard[0] = '\0';
        REQUIRE(sparsestream_source_from_async(&listening, &from, NULL, &source) == 0);
        REQUIRE(sparsestream_sink_to_async(&complaining, &to, NULL, &sink) == 0);
        REQUIRE(sparsestream_transfer_new(source, sink, NULL, &transfer) == 0);
        do
            code = sparsestream_transfer_run(transfer, 0);
        while (code == -EAGAIN && again++ < 100000);
        CHECK_INT(code, ==, -EDQUOT);
        CHECK_CONTAINS(sparsestream_last_error(), WORDS);
        CHECK_CONTAINS(heard, WORDS);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        medium_end(&from);
        /* A finish that failed is not followed by an abort. */
        if (nth == 3)
            to.finished = 1;
        medium_end(&to);
    }
}

/* A transfer whose `failing` end fails a request: refuses it, or answers it so. */
static void fails_with_words(struct medium *from, struct medium *to, const struct medium *failing,
                             struct sparsestream_async_options *options, int operation)
{
    struct sparsestream_async_ops listening = ops;
    struct sparsestream_error error = { .size = sizeof error };
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    struct sparsestream_transfer *transfer = NULL;
    int code, again = 0;

    listening.abort = abort_listens;
    heard[0] = '\0';
    REQUIRE(sparsestream_source_from_async(&listening, from, NULL, &source) == 0);
    REQUIRE(sparsestream_sink_to_async(&ops, to, options, &sink) == 0);
    REQUIRE(sparsestream_transfer_new(source, sink, NULL, &transfer) == 0);
    do
        code = sparsestream_transfer_run(transfer, 0);
    while (code == -EAGAIN && again++ < 100000);
    CHECK_INT(code, ==, -EDQUOT);
    CHECK_CONTAINS(sparsestream_last_error(), WORDS);
    CHECK_CONTAINS(heard, WORDS);
    CHECK_INT(sparsestream_transfer_error(transfer, &error), ==, 0);
    CHECK_INT(error.operation, ==, operation);
    CHECK_INT(error.side, ==, failing == from ? SPARSESTREAM_SIDE_SOURCE : SPARSESTREAM_SIDE_SINK);
    if (operation == SPARSESTREAM_OPERATION_SYNC)
        CHECK_INT(error.offset, ==, (int64_t)from->size);
    else
        CHECK_INT(error.offset, ==, failing->failed_at);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    medium_end(from);
    medium_end(to);
}

static void the_words_of_a_failed_request_reach_the_caller_with_its_offset(void)
{
    for (unsigned nth = 0; nth < 12; nth++) {
        struct medium from, to, *failing = nth % 2 == 0 ? &from : &to;

        context("case %u", nth);
        medium_init(&from, 100352, 100352, (enum habit)(nth / 2 % 3), 3);
        medium_init(&to, 100352, 200000, (enum habit)(nth / 2 % 3), 4);
        failing->explains = true;
        failing->fail_with = EDQUOT;
        if (nth < 6)
            failing->fail_at = 5;
        else
            failing->refuse_at = 5;
        fails_with_words(&from, &to, failing, NULL,
                         failing == &from ? SPARSESTREAM_OPERATION_READ : SPARSESTREAM_OPERATION_WRITE);
    }
}

static void the_words_of_a_failed_flush_reach_the_caller(void)
{
    struct sparsestream_async_options options = { .size = sizeof options, .flags = SPARSESTREAM_SYNC };
    struct medium from, to;

    medium_init(&from, 100352, 100352, LATE, 3);
    medium_init(&to, 100352, 200000, LATE, 4);
    to.explains = to.fails_to_flush = true;
    to.fail_with = EDQUOT;
    fails_with_words(&from, &to, &to, &options, SPARSESTREAM_OPERATION_SYNC);
}

TESTS(CASE(every_habit_of_both_ends_gives_the_same_bytes),
      CASE(short_holes_are_one_request_for_a_sink_that_zeroes_quickly),
      CASE(holes_of_the_map_become_requests_for_zeros_within_the_end_and_none_beyond),
      CASE(a_failed_request_is_reported_with_its_own_offset_and_all_others_are_answered_first),
      CASE(freeing_a_transfer_that_is_under_way_aborts_both_ends),
      CASE(memory_of_a_request_that_abort_did_not_answer_stays),
      CASE(a_write_beyond_a_fixed_end_is_refused_before_it_is_submitted),
      CASE(arguments_are_checked_and_the_opaque_is_freed),
      CASE(a_description_that_cannot_be_is_refused),
      CASE(a_transfer_begins_with_the_requests_that_an_end_asks_for),
      CASE(a_sink_that_is_a_stream_adds_little_memory_whatever_the_depth),
      CASE(an_end_that_is_used_by_hand_is_refused_and_asked_for_nothing),
      CASE(the_words_of_an_end_reach_the_caller_and_the_other_end),
      CASE(the_words_of_a_failed_request_reach_the_caller_with_its_offset),
      CASE(the_words_of_a_failed_flush_reach_the_caller))
