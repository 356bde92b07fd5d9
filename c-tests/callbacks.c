/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The caller's functions: how often and in which order they are called, and what becomes of each answer. */
#include "ends.h"
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct piece sample[] = { DATA(5000), HOLE(100000), DATA(7), HOLE(3) };

static int64_t no_read(void *opaque, void *buffer, size_t length)
{
    (void) opaque;
    (void) buffer;
    (void) length;
    return 0;
}

static int no_section(void *opaque, struct sparsestream_section *section)
{
    (void) opaque;
    section->kind = SPARSESTREAM_END;
    return 0;
}

/* Checks the next section of a source that is driven by hand. */
static void check_section(struct sparsestream_source *source, int kind, int64_t length)
{
    struct sparsestream_section section = { .size = sizeof section, .offset = -7, .reserved = -7 };

    CHECK_CODE(sparsestream_source_section(source, &section), 0);
    CHECK_INT(section.kind, ==, kind);
    CHECK_INT(section.length, ==, length);
    CHECK_INT(section.offset, ==, 0);
    CHECK_INT(section.reserved, ==, 0);
}

static void count_free(void *opaque)
{
    ++*(int *) opaque;
}

static void free_once_when_a_handle_is_freed(void)
{
    struct end from = { .from = &(struct content) { .count = 0 } };
    struct sparsestream_source *source = end_source(&from);
    struct end to = { .to = NULL };
    struct sparsestream_sink *sink = end_sink(&to);

    CHECK_INT(from.frees + to.frees, ==, 0);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(from.frees, ==, 1);
    CHECK_INT(to.frees, ==, 1);
    source = end_stream_source(&from);
    sink = end_stream_sink(&to);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(from.frees, ==, 2);
    CHECK_INT(to.frees, ==, 2);
    /* Never used, so neither finished nor aborted. */
    CHECK_INT(from.own_calls + from.aborts + to.own_calls + to.aborts, ==, 0);
}

static void free_once_when_construction_fails(void)
{
    struct sparsestream_source_ops source_ops = { .size = sizeof source_ops, .free = count_free };
    struct sparsestream_sink_ops sink_ops = { .size = sizeof sink_ops, .free = count_free };
    struct sparsestream_stream_ops stream_ops = { .size = sizeof stream_ops, .free = count_free };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct end end = { .to = NULL };
    int freed = 0;

    /* Required functions are missing. */
    CHECK_CODE(sparsestream_source_from_callbacks(&source_ops, &freed, &source), -EINVAL);
    CHECK_INT(freed, ==, 1);
    source_ops.read = no_read;
    source_ops.section = no_section;
    CHECK_CODE(sparsestream_source_from_callbacks(&source_ops, &freed, &source), -EINVAL);
    CHECK_INT(freed, ==, 2);
    CHECK_CODE(sparsestream_sink_to_callbacks(&sink_ops, &freed, &sink), -EINVAL);
    CHECK_INT(freed, ==, 3);
    CHECK_CODE(sparsestream_source_from_stream(&stream_ops, &freed, &source), -EINVAL);
    CHECK_INT(freed, ==, 4);
    CHECK_CODE(sparsestream_sink_to_stream(&stream_ops, &freed, &sink), -EINVAL);
    CHECK_INT(freed, ==, 5);
    /* There is no place for the handle. */
    CHECK_CODE(sparsestream_source_from_callbacks(&end_source_ops, &end, NULL), -EINVAL);
    CHECK_INT(end.frees, ==, 1);
    CHECK_CODE(sparsestream_sink_to_callbacks(&end_sink_ops, &end, NULL), -EINVAL);
    CHECK_INT(end.frees, ==, 2);
    CHECK_CODE(sparsestream_source_from_stream(&end_stream_ops, &end, NULL), -EINVAL);
    CHECK_INT(end.frees, ==, 3);
    CHECK_CODE(sparsestream_sink_to_stream(&end_stream_ops, &end, NULL), -EINVAL);
    CHECK_INT(end.frees, ==, 4);
    CHECK_INT(end.own_calls + end.aborts, ==, 0);
    CHECK(source == NULL && sink == NULL);
}

static void no_free_at_all(void)
{
    struct sparsestream_source_ops ops = { .size = sizeof ops, .read = no_read };
    struct sparsestream_source *source = NULL;

    CHECK_CODE(sparsestream_source_from_callbacks(&ops, NULL, &source), 0);
    sparsestream_source_free(source);
    ops.read = NULL;
    CHECK_CODE(sparsestream_source_from_callbacks(&ops, NULL, &source), -EINVAL);
    CHECK(source == NULL);
}

/* The table is copied: the caller may change or free its own. */
static void a_table_may_go(void)
{
    struct sparsestream_sink_ops ops = end_sink_ops;
    struct sparsestream_sink *sink = NULL;
    struct end to = { .to = NULL };

    CHECK_CODE(sparsestream_sink_to_callbacks(&ops, &to, &sink), 0);
    memset(&ops, 0x5a, sizeof ops);
    CHECK_CODE(sparsestream_sink_write(sink, "abc", 3), 3);
    CHECK_CODE(sparsestream_sink_hole(sink, 10), 10);
    sparsestream_sink_free(sink);
    CHECK_INT(to.frees, ==, 1);
    CHECK_INT(to.taken, ==, 13);
}

/* A whole transfer between two ends, run to the result; -EAGAIN is run again. */
struct run {
    struct content content, taken;
    struct journal journal;
    struct end from, to;
    int calls;
    int code, again;
    struct sparsestream_error error;
};

enum shape { STREAMS, CALLBACKS, SHAPES };

static void run_init(struct run *run)
{
    memset(run, 0, sizeof *run);
    content_lay_out(&run->content, sample, COUNT(sample), 3);
    run->from.from = &run->content;
    run->to.to = &run->taken;
    run->from.journal = run->to.journal = &run->journal;
    run->from.calls = run->to.calls = &run->calls;
}

static void run_shape(struct run *run, enum shape shape)
{
    struct sparsestream_source *source = shape == STREAMS ? end_stream_source(&run->from)
                                                          : end_source(&run->from);
    struct sparsestream_sink *sink = shape == STREAMS ? end_stream_sink(&run->to)
                                                      : end_sink(&run->to);
    struct sparsestream_transfer *transfer = new_transfer(source, sink, NULL);

    while ((run->code = sparsestream_transfer_run(transfer, 0)) == -EAGAIN && run->again < 1000)
        run->again++;
    run->error = transfer_error(transfer);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
}

static void run_end(struct run *run)
{
    CHECK_INT(run->from.frees, ==, 1);
    CHECK_INT(run->to.frees, ==, 1);
    content_free(&run->content);
    content_free(&run->taken);
}

/* Exactly one of finish and abort reached each end. */
static void check_ended(const struct run *run, enum shape shape)
{
    if (shape == STREAMS) {
        CHECK_INT(run->from.aborts + (run->from.finishes > 0), ==, 1);
        CHECK_INT(run->to.aborts + (run->to.finishes > 0), ==, 1);
    }
}

static void the_order_of_calls(void)
{
    struct run run;

    run_init(&run);
    run_shape(&run, STREAMS);
    CHECK_CODE(run.code, 0);
    CHECK_CONTENT(&run.taken, &run.content);
    CHECK_INT(run.from.finishes, ==, 1);
    CHECK_INT(run.to.finishes, ==, 1);
    CHECK_INT(run.from.aborts + run.to.aborts, ==, 0);
    /* The receiver finishes first, then the sender learns that everything is stored; free comes last. */
    REQUIRE(run.journal.length > 4);
    CHECK_STR(run.journal.text + run.journal.length - 4, "FfxX");
    /* A hole is taken right after recv has announced it, and sent whole. */
    for (size_t i = 0; i < run.journal.length; i++) {
        if (run.journal.text[i] == 'l')
            CHECK(i > 0 && run.journal.text[i - 1] == 'r');
    }
    CHECK_INT(run.from.skips, ==, 2);
    CHECK_INT(run.to.holes, ==, 2);
    run_end(&run);
}

static void counts_of_one_byte(void)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        struct run run;

        run_init(&run);
        run.from.most = 1;
        run.to.most = 1;
        run_shape(&run, (enum shape) shape);
        CHECK_CODE(run.code, 0);
        CHECK_CONTENT(&run.taken, &run.content);
        check_ended(&run, (enum shape) shape);
        run_end(&run);
    }
}

/* How many calls a transfer of this shape makes when nothing goes wrong. */
static int calls_of(enum shape shape)
{
    struct run run;
    int calls;

    run_init(&run);
    run_shape(&run, shape);
    CHECK_CODE(run.code, 0);
    CHECK_CONTENT(&run.taken, &run.content);
    check_ended(&run, shape);
    calls = run.calls;
    run_end(&run);
    CHECK_INT(calls, >, 8);
    return calls;
}

/* The answer of one call in place of its work, and the result of the whole run. */
static const struct outcome {
    int answer;
    int code;  /* of the run */
    int again; /* how often it must be run again */
} outcomes[] = {
    { .answer = -EAGAIN, .again = 1 },
    { .answer = -EINTR },
    { .answer = -ENOSPC, .code = -ENOSPC },
};

/* An end of a stream is aborted with the error, unless it is its own finish that failed. */
static void check_aborts(const struct end *end, int error)
{
    CHECK_INT(end->aborts, ==, end->finishes == 0);
    if (end->aborts)
        CHECK_INT(end->abort_error, ==, error);
}

static void check_failure(const struct run *run, enum shape shape, int call)
{
    const char last = run->journal.text[run->journal.length - 1];

    CHECK_INT(run->error.code, ==, -run->code);
    CHECK_INT(run->error.side, ==, run->from.faulted ? SPARSESTREAM_SIDE_SOURCE : SPARSESTREAM_SIDE_SINK);
    if (shape == STREAMS) {
        check_aborts(&run->from, -run->code);
        check_aborts(&run->to, -run->code);
    }
    /* Nothing is called after the end but abort, and free last. */
    CHECK_INT(run->calls, ==, call);
    CHECK(last == 'x' || last == 'X');
}

static void run_with_call(enum shape shape, int call, const struct outcome *outcome)
{
    struct run run;

    run_init(&run);
    run.from.fault_call = run.to.fault_call = call;
    run.from.fault = run.to.fault = outcome->answer;
    run_shape(&run, shape);
    CHECK(run.from.faulted || run.to.faulted);
    CHECK_CODE(run.code, outcome->code);
    check_ended(&run, shape);
    if (outcome->code == 0) {
        CHECK_INT(run.again, ==, outcome->again);
        CHECK_CONTENT(&run.taken, &run.content);
    } else {
        check_failure(&run, shape, call);
    }
    run_end(&run);
}

static void not_ready_interrupted_or_failed_at_any_call(void)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        const int calls = calls_of((enum shape) shape);

        for (size_t i = 0; i < COUNT(outcomes); i++) {
            for (int call = 1; call <= calls; call++) {
                context("shape %d, call %d of %d, %s", shape, call, calls, harness_errno_name(-outcomes[i].answer));
                run_with_call((enum shape) shape, call, &outcomes[i]);
            }
        }
    }
}

/* A finish that is not ready is asked again until it answers; what it then says is the result. */
static void finish_is_repeated_only_while_not_ready(void)
{
    const struct { char letter; bool sink; } ends[] = { { 'F', true }, { 'f', false } };

    for (size_t i = 0; i < COUNT(ends); i++) {
        struct run run;
        struct end *end = ends[i].sink ? &run.to : &run.from;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;
        struct sparsestream_transfer *transfer;

        context("%c", ends[i].letter);
        run_init(&run);
        end->fault_letter = ends[i].letter;
        end->fault_call = 1;
        end->fault_stays = true;
        end->fault = -EAGAIN;
        source = end_stream_source(&run.from);
        sink = end_stream_sink(&run.to);
        transfer = new_transfer(source, sink, NULL);
        for (int tries = 1; tries <= 5; tries++) {
            CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EAGAIN);
            CHECK_INT(end->finishes, ==, tries);
        }
        end->fault = -EDQUOT;
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EDQUOT);
        CHECK_INT(end->finishes, ==, 6);
        CHECK_CODE(sparsestream_transfer_run(transfer, 0), -EDQUOT);
        CHECK_INT(end->finishes, ==, 6);
        CHECK_INT(end->aborts, ==, 0);
        sparsestream_transfer_free(transfer);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        CHECK_INT(end->finishes, ==, 6);
        CHECK_INT(end->aborts, ==, 0);
        CHECK_INT(run.from.aborts + (run.from.finishes > 0), ==, 1);
        CHECK_INT(run.to.aborts + (run.to.finishes > 0), ==, 1);
        run_end(&run);
    }
}

/* `answer` given at the first call with this letter must end the transfer with `error`. */
static void check_nonsense(enum shape shape, char letter, int64_t answer, int error)
{
    struct run run;
    const bool sink = strchr("whF", letter) != NULL;
    struct end *end = sink ? &run.to : &run.from;

    context("shape %d, '%c' answers %jd", (int) shape, letter, (intmax_t) answer);
    run_init(&run);
    end->fault_letter = letter;
    end->fault_call = 1;
    end->fault = answer;
    run_shape(&run, shape);
    CHECK(end->faulted);
    CHECK_CODE(run.code, -error);
    CHECK_INT(run.error.code, ==, error);
    CHECK_INT(run.error.side, ==, sink ? SPARSESTREAM_SIDE_SINK : SPARSESTREAM_SIDE_SOURCE);
    CHECK(strlen(run.error.message) > 0);
    CHECK_INT(run.again, ==, 0);
    check_ended(&run, shape);
    run_end(&run);
    context("%s", "");
}

static void counts_above_what_was_asked(void)
{
    const int64_t counts[] = { 64 * MiB + 1, INT64_C(1) << 32, INT64_C(1) << 40, INT64_MAX };

    for (size_t i = 0; i < COUNT(counts); i++) {
        check_nonsense(STREAMS, 'r', counts[i], EPROTO);
        check_nonsense(STREAMS, 'w', counts[i], EPROTO);
        check_nonsense(CALLBACKS, 'r', counts[i], EPROTO);
        check_nonsense(CALLBACKS, 'w', counts[i], EPROTO);
    }
}

static void numbers_that_are_no_errno(void)
{
    const int64_t counts[] = { -4097, -5000, -100000, INT32_MIN, -INT64_C(4294967296), INT64_MIN };
    const int codes[] = { -4096, -4097, -100000, INT_MIN, 1, 4096, INT_MAX };

    for (size_t i = 0; i < COUNT(counts); i++) {
        check_nonsense(STREAMS, 'r', counts[i], EPROTO);
        check_nonsense(STREAMS, 'w', counts[i], EPROTO);
        check_nonsense(CALLBACKS, 'r', counts[i], EPROTO);
        check_nonsense(CALLBACKS, 'w', counts[i], EPROTO);
    }
    for (size_t i = 0; i < COUNT(codes); i++) {
        check_nonsense(STREAMS, 'l', codes[i], EPROTO);
        check_nonsense(STREAMS, 'f', codes[i], EPROTO);
        check_nonsense(STREAMS, 'F', codes[i], EPROTO);
        check_nonsense(CALLBACKS, 'i', codes[i], EPROTO);
        /* These answer counts. */
        if (codes[i] > 0 && codes[i] <= 4096)
            continue;
        check_nonsense(STREAMS, 'h', codes[i], EPROTO);
        check_nonsense(CALLBACKS, 'k', codes[i], EPROTO);
        check_nonsense(CALLBACKS, 'h', codes[i], EPROTO);
    }
    check_nonsense(STREAMS, 'h', 0, EPROTO);
    check_nonsense(CALLBACKS, 'k', 0, EPROTO);
    check_nonsense(CALLBACKS, 'h', 0, EPROTO);
}

/* Only recv may say that it is at a hole. */
static void at_a_hole_where_there_can_be_none(void)
{
    check_nonsense(STREAMS, 'w', SPARSESTREAM_AT_HOLE, EPROTO);
    check_nonsense(CALLBACKS, 'w', SPARSESTREAM_AT_HOLE, EPROTO);
    check_nonsense(CALLBACKS, 'r', SPARSESTREAM_AT_HOLE, EPROTO);
}

static void a_write_of_nothing(void)
{
    check_nonsense(STREAMS, 'w', 0, EPROTO);
    check_nonsense(CALLBACKS, 'w', 0, EPROTO);
}

/* An errno is passed on as it is, whichever it is. */
static void any_errno_is_the_result(void)
{
    const int errors[] = { EPERM, EIO, ENODATA, ECONNRESET, ESTALE, 4095 };

    for (size_t i = 0; i < COUNT(errors); i++) {
        for (const char *letter = "rlwhfF"; *letter != '\0'; letter++)
            check_nonsense(STREAMS, *letter, -errors[i], errors[i]);
        for (const char *letter = "irkwh"; *letter != '\0'; letter++)
            check_nonsense(CALLBACKS, *letter, -errors[i], errors[i]);
    }
}

/* A stream of holes whose lengths a test chooses. */
struct holes {
    const int64_t *lengths;
    size_t count, at;
    bool silent;
    int aborts, finishes, frees, recvs;
};

static int64_t holes_recv(void *opaque, void *buffer, size_t length)
{
    struct holes *holes = opaque;

    (void) buffer;
    (void) length;
    CHECK_INT(++holes->recvs, <, 100);
    return holes->at < holes->count ? SPARSESTREAM_AT_HOLE : 0;
}

static int holes_recv_hole(void *opaque, int64_t *length)
{
    struct holes *holes = opaque;

    if (!holes->silent)
        *length = holes->lengths[holes->at];
    holes->at++;
    return 0;
}

static int holes_finish(void *opaque)
{
    ((struct holes *) opaque)->finishes++;
    return 0;
}

static void holes_abort(void *opaque, int error)
{
    CHECK_INT(error, >, 0);
    ((struct holes *) opaque)->aborts++;
}

static void holes_free(void *opaque)
{
    ((struct holes *) opaque)->frees++;
}

static struct sparsestream_stream_ops holes_ops = {
    .size = sizeof holes_ops,
    .free = holes_free,
    .recv = holes_recv,
    .recv_hole = holes_recv_hole,
    .finish = holes_finish,
    .abort = holes_abort,
};

static void check_holes(const int64_t *lengths, size_t count, bool silent, int error, int other)
{
    struct holes holes = { .lengths = lengths, .count = count, .silent = silent };
    struct end to = { .to = NULL };
    struct sparsestream_sink *sink = end_stream_sink(&to);
    const int code = sparsestream_recv_all(&holes_ops, &holes, sink, NULL, NULL);

    context("first hole %jd", (intmax_t) lengths[0]);
    if (code != -other)
        CHECK_CODE(code, -error);
    CHECK_INT(holes.frees, ==, 1);
    CHECK_INT(holes.aborts + holes.finishes, ==, 1);
    CHECK_INT(holes.aborts, ==, error != 0);
    CHECK_INT(to.aborts + to.finishes, ==, 1);
    sparsestream_sink_free(sink);
    CHECK_INT(to.frees, ==, 1);
    context("%s", "");
}

static void holes_of_impossible_length(void)
{
    const int64_t wrong[] = { 0, -1, -4096, INT32_MIN, INT64_MIN };

    check_holes((int64_t[]) { 1, INT64_MAX - 1 }, 2, false, 0, 0);
    for (size_t i = 0; i < COUNT(wrong); i++)
        check_holes(&wrong[i], 1, false, EPROTO, EPROTO);
    /* A length that was not given does not count. */
    check_holes((int64_t[]) { 5 }, 1, true, EPROTO, EPROTO);
    /* The stream's offsets would overflow: no protocol can mean that, and no sink can hold it. */
    check_holes((int64_t[]) { INT64_MAX, 1 }, 2, false, EPROTO, EFBIG);
    check_holes((int64_t[]) { INT64_MAX, INT64_MAX, INT64_MAX }, 3, false, EPROTO, EFBIG);
}

static void a_stream_that_claims_a_hole_it_cannot_receive(void)
{
    struct sparsestream_stream_ops ops = holes_ops;
    struct holes holes = { .lengths = (int64_t[]) { 5 }, .count = 1 };
    struct end to = { .to = NULL };
    struct sparsestream_sink *sink = end_sink(&to);

    ops.recv_hole = NULL;
    CHECK_CODE(sparsestream_recv_all(&ops, &holes, sink, NULL, NULL), -EPROTO);
    CHECK_INT(holes.aborts, ==, 1);
    CHECK_INT(holes.finishes, ==, 0);
    CHECK_INT(holes.frees, ==, 1);
    CHECK_INT(to.taken, ==, 0);
    sparsestream_sink_free(sink);
}

/* A source that says of itself what a test chooses. */
struct claim {
    int kind;
    int64_t length;
    int64_t read;
    int asked, reads, skips;
};

static int claim_section(void *opaque, struct sparsestream_section *section)
{
    struct claim *claim = opaque;

    section->kind = claim->kind;
    section->length = claim->length;
    return ++claim->asked > 100 ? -ELOOP : 0;
}

static int64_t claim_read(void *opaque, void *buffer, size_t length)
{
    struct claim *claim = opaque;

    memset(buffer, 'x', length);
    return ++claim->reads > 100 ? -ELOOP : claim->read;
}

static int64_t claim_skip(void *opaque, int64_t length)
{
    struct claim *claim = opaque;

    return ++claim->skips > 100 ? -ELOOP : length;
}

static int run_claim(struct claim *claim)
{
    const struct sparsestream_source_ops ops = {
        .size = sizeof ops, .section = claim_section, .read = claim_read, .skip = claim_skip,
    };
    struct end to = { .to = NULL };
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = end_sink(&to);
    struct sparsestream_transfer *transfer;
    int code;

    REQUIRE(sparsestream_source_from_callbacks(&ops, claim, &source) == 0);
    transfer = new_transfer(source, sink, NULL);
    code = sparsestream_transfer_run(transfer, 0);
    sparsestream_transfer_free(transfer);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    return code;
}

static void a_source_that_claims_what_is_not_there(void)
{
    struct claim nothing = { .kind = SPARSESTREAM_DATA, .length = 1000, .read = 0 };
    struct claim negative_data = { .kind = SPARSESTREAM_DATA, .length = -2, .read = 1 };
    struct claim unknown_data = { .kind = SPARSESTREAM_DATA, .length = -1, .read = 0 };
    struct claim negative_hole = { .kind = SPARSESTREAM_HOLE, .length = -1 };
    struct claim least_hole = { .kind = SPARSESTREAM_HOLE, .length = INT64_MIN };
    struct claim empty_hole = { .kind = SPARSESTREAM_HOLE, .length = 0 };
    struct claim empty_data = { .kind = SPARSESTREAM_DATA, .length = 0, .read = 1 };
    struct claim no_kind = { .kind = 77, .length = 1, .read = 1 };
    struct claim undeclared = { .kind = SPARSESTREAM_KEEP, .length = 1000 };
    struct claim end = { .kind = SPARSESTREAM_END, .length = 0 };

    /* Data was promised and does not come: the source ended early. */
    CHECK_CODE(run_claim(&nothing), -ENODATA);
    CHECK_INT(nothing.reads, <=, 3);
    CHECK_CODE(run_claim(&negative_data), -EPROTO);
    CHECK_CODE(run_claim(&negative_hole), -EPROTO);
    CHECK_CODE(run_claim(&least_hole), -EPROTO);
    CHECK_CODE(run_claim(&empty_hole), -EPROTO);
    CHECK_CODE(run_claim(&empty_data), -EPROTO);
    CHECK_CODE(run_claim(&no_kind), -EPROTO);
    CHECK_CODE(run_claim(&undeclared), -EPROTO);
    /* Data of unknown length, and then none. */
    CHECK_CODE(run_claim(&unknown_data), 0);
    CHECK_CODE(run_claim(&end), 0);
    CHECK_INT(end.reads, ==, 0);
}

/* The loops in one call: each callback's failure, and each refusal before the start. */
static void the_loops_free_and_end_the_stream_once(void)
{
    const char *letters[] = { "", "r", "l", "f", "w", "h", "F" };

    for (size_t i = 0; i < COUNT(letters); i++) {
        for (int sending = 0; sending < 2; sending++) {
            struct run run;
            struct end *streamed = sending ? &run.to : &run.from;
            const char letter = *letters[i];

            context("%s, '%s' fails", sending ? "send" : "receive", letters[i]);
            run_init(&run);
            run.from.fault_letter = run.to.fault_letter = letter == '\0' ? '?' : letter;
            run.from.fault_call = run.to.fault_call = 1;
            run.from.fault = run.to.fault = -EREMOTEIO;
            if (sending) {
                struct sparsestream_source *source = end_stream_source(&run.from);

                run.code = sparsestream_send_all(source, &end_stream_ops, &run.to, NULL, NULL);
                CHECK_INT(run.to.frees, ==, 1);
                CHECK_INT(run.from.frees, ==, 0);
                sparsestream_source_free(source);
            } else {
                struct sparsestream_sink *sink = end_stream_sink(&run.to);

                run.code = sparsestream_recv_all(&end_stream_ops, &run.from, sink, NULL, NULL);
                CHECK_INT(run.from.frees, ==, 1);
                CHECK_INT(run.to.frees, ==, 0);
                sparsestream_sink_free(sink);
            }
            CHECK_CODE(run.code, letter == '\0' ? 0 : -EREMOTEIO);
            CHECK_INT(streamed->aborts + streamed->finishes, ==, 1);
            check_ended(&run, STREAMS);
            run_end(&run);
        }
    }
}

static void the_loops_end_with_what_is_not_ready(void)
{
    for (int sending = 0; sending < 2; sending++) {
        struct run run;
        struct end *streamed = sending ? &run.to : &run.from;

        run_init(&run);
        streamed->fault_letter = sending ? 'h' : 'l';
        streamed->fault_call = 1;
        streamed->fault = -EAGAIN;
        if (sending) {
            struct sparsestream_source *source = end_stream_source(&run.from);

            CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &run.to, NULL, NULL),
                       -EAGAIN);
            sparsestream_source_free(source);
        } else {
            struct sparsestream_sink *sink = end_stream_sink(&run.to);

            CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &run.from, sink, NULL, NULL),
                       -EAGAIN);
            sparsestream_sink_free(sink);
        }
        CHECK_INT(streamed->aborts, ==, 1);
        CHECK_INT(streamed->abort_error, ==, EAGAIN);
        CHECK_INT(streamed->finishes, ==, 0);
        check_ended(&run, STREAMS);
        run_end(&run);
    }
}

static void the_loops_that_refuse_end_the_stream_without_using_it(void)
{
    struct run run;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;

    run_init(&run);
    source = end_source(&run.from);
    sink = end_sink(&run.to);
    for (int sending = 0; sending < 2; sending++) {
        struct end stream = { .from = sending ? NULL : &run.content };
        struct sparsestream_stream_ops half = { .size = sizeof half, .free = end_stream_ops.free,
                                                .abort = end_stream_ops.abort };
        const struct sparsestream_transfer_options *bad = TRANSFER_OPTIONS(.flags = 1u << 30);
        int code[3];

        if (sending) {
            code[0] = sparsestream_send_all(NULL, &end_stream_ops, &stream, NULL, NULL);
            code[1] = sparsestream_send_all(source, &end_stream_ops, &stream, bad, NULL);
            code[2] = sparsestream_send_all(source, &half, &stream, NULL, NULL);
        } else {
            code[0] = sparsestream_recv_all(&end_stream_ops, &stream, NULL, NULL, NULL);
            code[1] = sparsestream_recv_all(&end_stream_ops, &stream, sink, bad, NULL);
            code[2] = sparsestream_recv_all(&half, &stream, sink, NULL, NULL);
        }
        for (int i = 0; i < 3; i++)
            CHECK_CODE(code[i], -EINVAL);
        CHECK_INT(stream.frees, ==, 3);
        CHECK_INT(stream.own_calls, ==, 0);
        /* The table without `send` or `recv` is none that could be used. */
        CHECK_INT(stream.aborts, ==, 2);
        CHECK_INT(stream.abort_error, ==, EINVAL);
    }
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_INT(run.calls, ==, 0);
    run_end(&run);
}

static void a_source_driven_by_hand(void)
{
    struct run run;
    struct sparsestream_source *source;
    struct content got = { .count = 0 };
    struct sparsestream_section section = { .size = sizeof section };
    char buffer[3000];
    int64_t count, length;

    run_init(&run);
    source = end_stream_source(&run.from);
    /* A stream knows of a hole only when it is there. */
    check_section(source, SPARSESTREAM_DATA, -1);
    while ((count = sparsestream_source_read(source, buffer, sizeof buffer)) != 0) {
        if (count > 0) {
            content_add_data(&got, buffer, (size_t) count);
            continue;
        }
        CHECK_CODE(count, SPARSESTREAM_AT_HOLE);
        CHECK_CODE(sparsestream_source_section(source, &section), 0);
        CHECK_INT(section.kind, ==, SPARSESTREAM_HOLE);
        length = section.length;
        CHECK_INT(length, >, 0);
        CHECK_CODE(sparsestream_source_skip(source, length + 1), -EINVAL);
        if (length > 2) {
            /* A part of it, and still at the hole. */
            CHECK_CODE(sparsestream_source_skip(source, 2), 0);
            content_add_hole(&got, 2);
            CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer),
                       SPARSESTREAM_AT_HOLE);
            length -= 2;
        }
        CHECK_CODE(sparsestream_source_skip(source, length), 0);
        content_add_hole(&got, length);
    }
    CHECK_CONTENT(&got, &run.content);
    CHECK_CODE(sparsestream_source_finish(source), 0);
    CHECK_CODE(sparsestream_source_abort(source, EIO), 0);
    CHECK_INT(run.from.finishes, ==, 1);
    CHECK_INT(run.from.aborts, ==, 0);
    sparsestream_source_free(source);
    CHECK_INT(run.from.finishes, ==, 1);
    CHECK_INT(run.from.aborts, ==, 0);
    CHECK_INT(run.from.frees, ==, 1);
    content_free(&run.content);
    content_free(&got);
}

static void callbacks_driven_by_hand(void)
{
    struct run run;
    struct sparsestream_source *source;
    char buffer[8192];

    run_init(&run);
    source = end_source(&run.from);
    check_section(source, SPARSESTREAM_DATA, 5000);
    CHECK_CODE(sparsestream_source_read(source, buffer, 1000), 1000);
    CHECK_BYTES(buffer, run.content.bytes, 1000);
    check_section(source, SPARSESTREAM_DATA, 4000);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 4000);
    CHECK_BYTES(buffer, run.content.bytes + 1000, 4000);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), SPARSESTREAM_AT_HOLE);
    check_section(source, SPARSESTREAM_HOLE, 100000);
    CHECK_CODE(sparsestream_source_skip(source, 100001), -EINVAL);
    CHECK_CODE(sparsestream_source_skip(source, 99999), 0);
    check_section(source, SPARSESTREAM_HOLE, 1);
    CHECK_CODE(sparsestream_source_skip(source, 1), 0);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 7);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), SPARSESTREAM_AT_HOLE);
    check_section(source, SPARSESTREAM_HOLE, 3);
    CHECK_CODE(sparsestream_source_skip(source, 3), 0);
    check_section(source, SPARSESTREAM_END, 0);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 0);
    CHECK_CODE(sparsestream_source_finish(source), 0);
    sparsestream_source_free(source);
    CHECK_INT(run.from.frees, ==, 1);
    content_free(&run.content);
}

static void a_sink_driven_by_hand(void)
{
    struct content taken = { .count = 0 }, expected = { .count = 0 };
    struct end to = { .to = &taken, .most = 5 };
    struct sparsestream_sink *sink = end_stream_sink(&to);

    content_add_data(&expected, "hello world", 11);
    content_add_hole(&expected, 1000);
    CHECK_CODE(sparsestream_sink_write(sink, "hello world", 11), 5);
    CHECK_CODE(sparsestream_sink_write(sink, " world", 6), 5);
    CHECK_CODE(sparsestream_sink_write(sink, "d", 1), 1);
    CHECK_CODE(sparsestream_sink_hole(sink, 1000), 1000);
    CHECK_CODE(sparsestream_sink_finish(sink), 0);
    CHECK_CONTENT(&taken, &expected);
    CHECK_CODE(sparsestream_sink_abort(sink, EIO), 0);
    sparsestream_sink_free(sink);
    CHECK_INT(to.finishes, ==, 1);
    CHECK_INT(to.aborts, ==, 0);
    CHECK_INT(to.frees, ==, 1);
    content_free(&taken);
    content_free(&expected);
}

static void a_sink_without_holes_driven_by_hand(void)
{
    struct sparsestream_sink *sink = NULL;
    struct end to = { .to = NULL };

    CHECK_CODE(sparsestream_sink_to_stream(&end_dense_stream_ops, &to, &sink), 0);
    CHECK_CODE(sparsestream_sink_hole(sink, 10), -EOPNOTSUPP);
    CHECK_INT(to.taken, ==, 0);
    sparsestream_sink_free(sink);
    CHECK_CODE(sparsestream_sink_to_callbacks(&end_dense_sink_ops, &to, &sink), 0);
    CHECK_CODE(sparsestream_sink_hole(sink, 10), -EOPNOTSUPP);
    CHECK_INT(to.taken, ==, 0);
    sparsestream_sink_free(sink);
}

static void nonsense_by_hand(void)
{
    char buffer[16];

    for (int shape = 0; shape < SHAPES; shape++) {
        struct run run;
        struct sparsestream_source *source;
        struct sparsestream_sink *sink;

        context("shape %d", shape);
        run_init(&run);
        run.from.fault_letter = 'r';
        run.to.fault_letter = 'w';
        run.from.fault_call = run.to.fault_call = 1;
        run.from.fault = run.to.fault = 17;
        source = shape == STREAMS ? end_stream_source(&run.from) : end_source(&run.from);
        sink = shape == STREAMS ? end_stream_sink(&run.to) : end_sink(&run.to);
        CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), -EPROTO);
        CHECK_CODE(sparsestream_sink_write(sink, buffer, sizeof buffer), -EPROTO);
        sparsestream_source_free(source);
        sparsestream_sink_free(sink);
        run_end(&run);
    }
}

/* A stream that was used and then forgotten is not left without a word. */
static void freed_in_the_middle_by_hand(void)
{
    struct run run;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    char buffer[16];

    run_init(&run);
    source = end_stream_source(&run.from);
    sink = end_stream_sink(&run.to);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 16);
    CHECK_CODE(sparsestream_sink_hole(sink, 5), 5);
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_STR(run.journal.text, "rhaxAX");
    CHECK_INT(run.from.abort_error, ==, ECANCELED);
    CHECK_INT(run.to.abort_error, ==, ECANCELED);
    run_end(&run);
}

/* An end that has finished is not called again, and says so: a move of nothing is not a success. */
static void an_end_that_is_over_is_not_used_again(void)
{
    enum { BY_STREAM, BY_CALLBACKS, BY_FILE, WAYS };
    const int in = file_new("in"), out = file_new("out");

    file_fill(in, 0, 100, 1);
    for (int way = 0; way < WAYS; way++) {
        for (int failed = 0; failed < 2; failed++) {
            struct run run;
            struct sparsestream_source *source;
            struct sparsestream_sink *sink;
            char buffer[16] = "";
            int calls;

            context("way %d, %s", way, failed ? "aborted" : "finished");
            run_init(&run);
            source = way == BY_STREAM ? end_stream_source(&run.from)
                     : way == BY_CALLBACKS ? end_source(&run.from) : fd_source(in);
            sink = way == BY_STREAM ? end_stream_sink(&run.to)
                   : way == BY_CALLBACKS ? end_sink(&run.to) : fd_sink(out);
            CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 16);
            CHECK_CODE(sparsestream_sink_write(sink, buffer, sizeof buffer), 16);
            CHECK_CODE(failed ? sparsestream_source_abort(source, EIO)
                              : sparsestream_source_finish(source), 0);
            CHECK_CODE(failed ? sparsestream_sink_abort(sink, EIO)
                              : sparsestream_sink_finish(sink), 0);
            calls = run.calls;
            CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), -ESHUTDOWN);
            CHECK_CODE(sparsestream_sink_write(sink, buffer, sizeof buffer), -ESHUTDOWN);
            CHECK_CODE(sparsestream_sink_hole(sink, 5), -ESHUTDOWN);
            CHECK_CODE(sparsestream_recv_all(&end_stream_ops, &(struct end) { .from = &run.content },
                                             sink, NULL, NULL), -ESHUTDOWN);
            CHECK_CODE(sparsestream_send_all(source, &end_stream_ops, &(struct end) { .to = NULL },
                                             NULL, NULL), -ESHUTDOWN);
            CHECK_INT(run.calls, ==, calls);
            sparsestream_source_free(source);
            sparsestream_sink_free(sink);
            if (way == BY_STREAM) {
                CHECK_INT(run.from.aborts + run.from.finishes, ==, 1);
                CHECK_INT(run.to.aborts + run.to.finishes, ==, 1);
            }
            if (way == BY_FILE)
                run.from.frees = run.to.frees = 1;
            run_end(&run);
        }
    }
    close(in);
    close(out);
}

static void aborted_by_hand(void)
{
    struct run run;
    struct sparsestream_source *source;
    struct sparsestream_sink *sink;
    char buffer[16];

    run_init(&run);
    source = end_stream_source(&run.from);
    sink = end_stream_sink(&run.to);
    CHECK_CODE(sparsestream_source_read(source, buffer, sizeof buffer), 16);
    CHECK_CODE(sparsestream_sink_write(sink, buffer, sizeof buffer), 16);
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(sparsestream_source_abort(source, EREMOTEIO + i), 0);
        CHECK_CODE(sparsestream_sink_abort(sink, ENOLINK + i), 0);
    }
    sparsestream_source_free(source);
    sparsestream_sink_free(sink);
    CHECK_STR(run.journal.text, "rwaAxX");
    CHECK_INT(run.from.abort_error, ==, EREMOTEIO);
    CHECK_INT(run.to.abort_error, ==, ENOLINK);
    run_end(&run);
}

TESTS(
    CASE(free_once_when_a_handle_is_freed),
    CASE(free_once_when_construction_fails),
    CASE(no_free_at_all),
    CASE(a_table_may_go),
    CASE(the_order_of_calls),
    CASE(counts_of_one_byte),
    CASE(not_ready_interrupted_or_failed_at_any_call),
    CASE(finish_is_repeated_only_while_not_ready),
    CASE(counts_above_what_was_asked),
    CASE(numbers_that_are_no_errno),
    CASE(at_a_hole_where_there_can_be_none),
    CASE(a_write_of_nothing),
    CASE(any_errno_is_the_result),
    CASE(holes_of_impossible_length),
    CASE(a_stream_that_claims_a_hole_it_cannot_receive),
    CASE(a_source_that_claims_what_is_not_there),
    CASE(the_loops_free_and_end_the_stream_once),
    CASE(the_loops_end_with_what_is_not_ready),
    CASE(the_loops_that_refuse_end_the_stream_without_using_it),
    CASE(a_source_driven_by_hand),
    CASE(callbacks_driven_by_hand),
    CASE(a_sink_driven_by_hand),
    CASE(a_sink_without_holes_driven_by_hand),
    CASE(nonsense_by_hand),
    CASE(freed_in_the_middle_by_hand),
    CASE(an_end_that_is_over_is_not_used_again),
    CASE(aborted_by_hand),
)
