/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* File systems that do not report holes or contradict themselves, and files that change between two questions. */
#include "ends.h"
#include "files.h"
#include "harness.h"
#include "random.h"
#include "watch.h"

#include <sparsestream.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define UNIT (64 * KiB)
#define SIZE (16 * UNIT)
#define UNTOUCHED INT64_C(-987654321)

/* Answers of a system that lies: the truth, the offset that was asked for, or this number. */
#define TRUTH INT64_MIN
#define SAME (INT64_MIN + 1)

struct liar {
    int fd;
    int64_t data, hole, set;
    /* Done once, between the system's answer to the first question of this kind and the next question. */
    int when;
    void (*in_between)(int fd);
    bool done;
    /* All answers at random. */
    struct random *random;
    /* The type of the file system; 0: the truth. */
    int64_t type;
};

static int64_t system_answer(const struct watched_call *call)
{
    const off_t answer = lseek((int) call->arguments[0], (off_t) call->arguments[1],
                               (int) call->arguments[2]);

    return answer < 0 ? -errno : answer;
}

static bool lie(void *opaque, const struct watched_call *call, int64_t *answer)
{
    struct liar *liar = opaque;
    const int whence = (int) call->arguments[2];
    int64_t said;

    if (call->number == SYS_fstatfs && liar->type != 0) {
        struct statfs *answered = (void *) (uintptr_t) call->arguments[1];

        answered->f_type = (__typeof__(answered->f_type)) liar->type;
        *answer = 0;
        return true;
    }
    if (call->number != SYS_lseek)
        return false;
    if (liar->random != NULL && (whence == SEEK_DATA || whence == SEEK_HOLE)) {
        const int64_t answers[] = {
            TRUTH, TRUTH, SAME, -ENXIO, -EINVAL, 0, SIZE - 1, SIZE, SIZE + 1, INT64_MAX,
            random_between(liar->random, 0, SIZE),
        };

        said = answers[random_between(liar->random, 0, COUNT(answers) - 1)];
    } else {
        said = whence == SEEK_DATA ? liar->data
               : whence == SEEK_HOLE ? liar->hole
               : whence == SEEK_SET ? liar->set : TRUTH;
    }
    if (liar->in_between != NULL && whence == liar->when && !liar->done) {
        liar->done = true;
        *answer = said == TRUTH ? system_answer(call) : said;
        liar->in_between(liar->fd);
        return true;
    }
    if (said == TRUTH)
        return false;
    *answer = said == SAME ? (int64_t) call->arguments[1] : said;
    return true;
}

/* One question under a liar, by both ways of asking it. */
struct question {
    int fd;
    int64_t position;
    int code;
    bool in_data;
    int64_t length;
    char message[256];
    int at_code;
    struct sparsestream_section section;
};

static void ask_in_data(void *opaque)
{
    struct question *question = opaque;

    question->code = sparsestream_in_data(question->fd, &question->in_data, &question->length);
    strncpy(question->message, sparsestream_last_error(), sizeof question->message - 1);
}

static void ask_section_at(void *opaque)
{
    struct question *question = opaque;

    question->section.size = sizeof question->section;
    question->at_code = sparsestream_section_at(question->fd, question->position,
                                                &question->section);
}

static struct question ask_once(int fd, int64_t position, struct liar *liar)
{
    struct question question = { .fd = fd, .position = position, .in_data = true,
                                 .length = UNTOUCHED };
    struct watch watch = { .fd = fd, .handler = lie, .opaque = liar };

    liar->fd = fd;
    liar->done = false;
    REQUIRE(lseek(fd, position, SEEK_SET) == position);
    watch_run(&watch, ask_in_data, &question);
    CHECK_INT(watch_count(&watch, SYS_lseek), <=, 6);
    return question;
}

/* in_data and section_at answer the same; the position is kept. */
static void check_answer(int fd, int64_t position, const struct liar *liar, bool in_data,
                         int64_t length)
{
    struct liar first = *liar, second = *liar;
    struct question question = ask_once(fd, position, &first);
    struct watch watch = { .fd = fd, .handler = lie, .opaque = &second };

    CHECK_INT(question.code, ==, 0);
    CHECK_INT(question.in_data, ==, in_data);
    CHECK_INT(question.length, ==, length);
    CHECK_INT(file_position(fd), ==, position);
    watch_run(&watch, ask_section_at, &question);
    CHECK_INT(watch_count(&watch, SYS_lseek), <=, 6);
    CHECK_INT(question.at_code, ==, 0);
    CHECK_INT(question.section.kind, ==, in_data ? SPARSESTREAM_DATA
                                         : length == 0 ? SPARSESTREAM_END : SPARSESTREAM_HOLE);
    CHECK_INT(question.section.offset, ==, position);
    CHECK_INT(question.section.length, ==, length);
    CHECK_INT(file_position(fd), ==, position);
}

static int sample(void)
{
    const struct piece pieces[] = {
        DATA(UNIT), HOLE(2 * UNIT), DATA(UNIT), HOLE(12 * UNIT),
    };
    const int fd = file_new("file");

    file_lay_out(fd, 0, pieces, COUNT(pieces), 1);
    return fd;
}

static void ask_supported(void *opaque)
{
    struct question *question = opaque;

    question->code = sparsestream_holes_supported(question->fd);
}

static void a_file_system_that_does_not_report_holes(void)
{
    const int errors[] = { EINVAL, EOPNOTSUPP, ENOSYS, ENOTTY };
    const int fd = sample();

    for (size_t i = 0; i < COUNT(errors); i++) {
        struct liar liar = { .data = -errors[i], .hole = -errors[i], .set = TRUTH };
        struct watch watch = { .fd = fd, .handler = lie, .opaque = &liar };
        struct question question = { .fd = fd };

        context("%s", harness_errno_name(errors[i]));
        check_answer(fd, 0, &liar, true, SIZE);
        check_answer(fd, 1000, &liar, true, SIZE - 1000);
        check_answer(fd, 2 * UNIT, &liar, true, SIZE - 2 * UNIT);
        check_answer(fd, SIZE - 1, &liar, true, 1);
        check_answer(fd, SIZE, &liar, false, 0);
        check_answer(fd, SIZE + 5, &liar, false, 0);
        REQUIRE(lseek(fd, 77, SEEK_SET) == 77);
        watch_run(&watch, ask_supported, &question);
        CHECK_INT(question.code, ==, 0);
        CHECK_INT(file_position(fd), ==, 77);
    }
    close(fd);
}

static void a_failure_of_the_medium_is_the_answer(void)
{
    const struct { int64_t data, hole; int error; } errors[] = {
        { -EIO, TRUTH, EIO }, { -ENOMEM, TRUTH, ENOMEM }, { -ESTALE, TRUTH, ESTALE },
        { 0, -EIO, EIO },
    };
    const int fd = sample();

    for (size_t i = 0; i < COUNT(errors); i++) {
        struct liar liar = { .data = errors[i].data, .hole = errors[i].hole, .set = TRUTH };
        const struct question question = ask_once(fd, 0, &liar);

        context("%s", harness_errno_name(errors[i].error));
        CHECK_INT(question.code, ==, -errors[i].error);
        CHECK_CONTAINS(question.message, strerror(errors[i].error));
        CHECK_CONTAINS(question.message, "map");
        CHECK_INT(question.length, ==, UNTOUCHED);
        CHECK_INT(question.in_data, ==, true);
        CHECK_INT(file_position(fd), ==, 0);
    }
    close(fd);
}

static void an_errno_that_is_not_of_the_medium_means_data(void)
{
    const int errors[] = { ENOENT, EPERM, EACCES, EBADFD, EOVERFLOW, ENOKEY };
    const int fd = sample();

    for (size_t i = 0; i < COUNT(errors); i++) {
        struct liar liar = { .data = -errors[i], .hole = -errors[i], .set = TRUTH };
        struct watch watch = { .fd = fd, .handler = lie, .opaque = &liar };
        struct question question = { .fd = fd, .position = 2 * UNIT };

        context("%s", harness_errno_name(errors[i]));
        check_answer(fd, 0, &liar, true, SIZE);
        check_answer(fd, 2 * UNIT, &liar, true, SIZE - 2 * UNIT);
        watch_run(&watch, ask_section_at, &question);
        CHECK_INT(question.at_code, ==, 0);
        CHECK_INT(watch_count(&watch, SYS_fdatasync), ==, 1);
        watch_run(&watch, ask_supported, &question);
        CHECK_INT(question.code, ==, 0);
    }
    close(fd);
}

/* A lost position has an error of its own, and the outputs are not changed. */
static void a_position_that_cannot_be_put_back(void)
{
    struct liar liar = { .data = TRUTH, .hole = TRUTH, .set = -EIO };
    const int fd = sample();
    const struct question question = ask_once(fd, 2 * UNIT, &liar);

    CHECK_INT(question.code, ==, -EIO);
    CHECK_CONTAINS(question.message, sparsestream_operation_name(SPARSESTREAM_OPERATION_SEEK));
    CHECK_INT(question.length, ==, UNTOUCHED);
    CHECK_INT(question.in_data, ==, true);
    close(fd);
}

static void data_below_the_position(void)
{
    const struct liar liar = { .data = 0, .hole = TRUTH, .set = TRUTH };
    const int fd = sample();

    check_answer(fd, 1000, &liar, true, SIZE - 1000);
    check_answer(fd, 2 * UNIT, &liar, true, SIZE - 2 * UNIT);
    close(fd);
}

static void data_beyond_the_size(void)
{
    const int64_t answers[] = { SIZE + 1, 16 * TiB, INT64_MAX };
    const int fd = sample();

    for (size_t i = 0; i < COUNT(answers); i++) {
        const struct liar liar = { .data = answers[i], .hole = TRUTH, .set = TRUTH };

        context("%jd", (intmax_t) answers[i]);
        check_answer(fd, 0, &liar, true, SIZE);
        check_answer(fd, 2 * UNIT, &liar, true, SIZE - 2 * UNIT);
    }
    close(fd);
}

/* Data, and the hole behind it begins at once: always progress, and never a hole. */
static void a_hole_where_the_data_is(void)
{
    const struct liar liar = { .data = SAME, .hole = SAME, .set = TRUTH };
    const int fd = file_new("file");

    file_fill(fd, 0, 3 * MiB + 5, 1);
    check_answer(fd, 0, &liar, true, MiB);
    check_answer(fd, 1000, &liar, true, MiB);
    check_answer(fd, 3 * MiB, &liar, true, 5);
    close(fd);
}

static void a_hole_beyond_the_size(void)
{
    const int64_t answers[] = { SIZE + 1, 16 * TiB, INT64_MAX };
    const int fd = sample();

    for (size_t i = 0; i < COUNT(answers); i++) {
        const struct liar liar = { .data = TRUTH, .hole = answers[i], .set = TRUTH };

        context("%jd", (intmax_t) answers[i]);
        check_answer(fd, 0, &liar, true, SIZE);
    }
    close(fd);
}

static void a_hole_below_the_position(void)
{
    struct liar liar = { .data = TRUTH, .hole = 0, .set = TRUTH };
    const int fd = sample();
    const struct question question = ask_once(fd, 1000, &liar);

    CHECK_INT(question.code, ==, 0);
    CHECK_INT(question.in_data, ==, true);
    CHECK_INT(question.length, >, 0);
    CHECK_INT(question.length, <=, SIZE - 1000);
    close(fd);
}

static void no_hole_behind_the_data(void)
{
    const struct liar liar = { .data = TRUTH, .hole = -ENXIO, .set = TRUTH };
    const int fd = sample();

    check_answer(fd, 1000, &liar, true, SIZE - 1000);
    close(fd);
}

static void cut_to_unit(int fd)
{
    file_resize(fd, UNIT);
}

static void cut_to_nothing(int fd)
{
    file_resize(fd, 0);
}

static void cut_in_the_trailing_hole(int fd)
{
    file_resize(fd, 8 * UNIT);
}

static void append(int fd)
{
    file_fill(fd, SIZE, UNIT, 1);
}

static void fill_the_trailing_hole(int fd)
{
    file_fill(fd, 4 * UNIT, 13 * UNIT, 1);
}

static void punch_the_first_data(int fd)
{
    if (!file_punch(fd, 0, UNIT))
        skip("the file system punches no holes");
}

/* One question while the file is changed after the answer to the first of this kind. */
static struct question ask_while(int64_t position, int when, void (*in_between)(int))
{
    struct liar liar = { .data = TRUTH, .hole = TRUTH, .set = TRUTH, .when = when,
                         .in_between = in_between };
    const int fd = sample();
    const struct question question = ask_once(fd, position, &liar);

    CHECK(liar.done);
    CHECK_INT(question.code, ==, 0);
    CHECK_INT(file_position(fd), ==, position);
    close(fd);
    return question;
}

/* Data appended in the meantime is never called a hole. */
static void a_file_that_grows_while_it_is_asked(void)
{
    struct question question = ask_while(4 * UNIT, SEEK_DATA, append);

    CHECK_INT(question.in_data, ==, false);
    CHECK_INT(question.length, ==, 12 * UNIT);
    question = ask_while(0, SEEK_HOLE, append);
    CHECK_INT(question.in_data, ==, true);
    CHECK_INT(question.length, ==, UNIT);
    question = ask_while(4 * UNIT, SEEK_DATA, fill_the_trailing_hole);
    CHECK_INT(question.length, <=, 12 * UNIT);
}

static void a_file_that_is_cut_while_it_is_asked(void)
{
    struct question question = ask_while(4 * UNIT, SEEK_DATA, cut_in_the_trailing_hole);

    CHECK_INT(question.in_data, ==, false);
    CHECK_INT(question.length, ==, 4 * UNIT);
    question = ask_while(4 * UNIT, SEEK_DATA, cut_to_unit);
    CHECK_INT(question.in_data, ==, false);
    CHECK_INT(question.length, ==, 0);
    /* It was data when SEEK_DATA was asked, and there is nothing when SEEK_HOLE is. */
    question = ask_while(1000, SEEK_DATA, cut_to_nothing);
    CHECK_INT(question.in_data, ==, false);
    CHECK_INT(question.length, ==, 0);
}

static void data_that_is_punched_while_it_is_asked_for(void)
{
    const struct question question = ask_while(0, SEEK_DATA, punch_the_first_data);

    /* A hole by now; to call it data is allowed, to get nowhere is not. */
    CHECK_INT(question.length, >, 0);
    CHECK_INT(question.length, <=, question.in_data ? MiB : 3 * UNIT);
}

/* A whole transfer under a liar. */
struct sending {
    int fd;
    uint64_t flags;
    struct content taken;
    struct end to;
    int code;
    int map_events[SPARSESTREAM_MAP_FLUSHED + 1]; /* how often each was traced */
};

static void note_map(void *opaque, const struct sparsestream_event *event)
{
    struct sending *sending = opaque;

    if (event->kind == SPARSESTREAM_EVENT_MAP && event->what <= SPARSESTREAM_MAP_FLUSHED)
        sending->map_events[event->what]++;
}

static void send(void *opaque)
{
    struct sending *sending = opaque;
    struct sparsestream_source *source = NULL;

    sending->to.to = &sending->taken;
    sending->code = sparsestream_source_from_fd(sending->fd,
                                                SOURCE_OPTIONS(.flags = sending->flags), &source);
    if (sending->code == 0)
        sending->code = sparsestream_send_all(source, &end_stream_ops, &sending->to,
                                              TRANSFER_OPTIONS(.trace = note_map, .opaque = sending), NULL);
    sparsestream_source_free(source);
}

/* Returns the calls of lseek. */
static int send_under(struct sending *sending, struct liar *liar)
{
    struct watch watch = { .fd = sending->fd, .handler = lie, .opaque = liar };

    liar->fd = sending->fd;
    watch_run(&watch, send, sending);
    return watch_count(&watch, SYS_lseek);
}

/* Every byte that was sent is the file's, or is zero where `lost_allowed` says that a lie may have hidden it. */
static void check_sent(const struct sending *sending, int64_t size, bool lost_allowed)
{
    unsigned char *bytes = malloc((size_t) size + 1);
    int64_t at = 0;
    size_t byte = 0;

    REQUIRE(bytes != NULL && pread(sending->fd, bytes, (size_t) size, 0) == size);
    CHECK_INT(content_size(&sending->taken), ==, size);
    for (size_t i = 0; i < sending->taken.count && at < size; i++) {
        const struct piece *piece = &sending->taken.pieces[i];

        if (piece->kind == SPARSESTREAM_DATA) {
            CHECK_BYTES(sending->taken.bytes + byte, bytes + at, (size_t) piece->length);
            byte += (size_t) piece->length;
        } else if (!lost_allowed) {
            for (int64_t j = at; j < at + piece->length; j++) {
                if (bytes[j] != 0) {
                    CHECK_INT(j, ==, -1);
                    break;
                }
            }
        }
        at += piece->length;
    }
    free(bytes);
}

/* This became of the map, and nothing else did but that it was asked. Each is traced once. */
static void check_traced(const struct sending *sending, int expected)
{
    for (int what = SPARSESTREAM_MAP_ASKED; what <= SPARSESTREAM_MAP_FLUSHED; what++) {
        if (what != SPARSESTREAM_MAP_ASKED || expected == what)
            CHECK_INT(sending->map_events[what], ==, what == expected);
    }
}

static void a_transfer_gets_through_every_lie(void)
{
    const struct { struct liar liar; int event; } lies[] = {
        { { .data = -EINVAL, .hole = -EINVAL, .set = TRUTH }, SPARSESTREAM_MAP_REFUSED },
        { { .data = -EOPNOTSUPP, .hole = -EOPNOTSUPP, .set = TRUTH }, SPARSESTREAM_MAP_REFUSED },
        { { .data = 0, .hole = TRUTH, .set = TRUTH }, SPARSESTREAM_MAP_DISTRUSTED },
        { { .data = 0, .hole = 0, .set = TRUTH }, SPARSESTREAM_MAP_DISTRUSTED },
        { { .data = SIZE + 1, .hole = TRUTH, .set = TRUTH }, SPARSESTREAM_MAP_DISTRUSTED },
        { { .data = INT64_MAX, .hole = TRUTH, .set = TRUTH }, SPARSESTREAM_MAP_DISTRUSTED },
        { { .data = TRUTH, .hole = SAME, .set = TRUTH }, SPARSESTREAM_MAP_DISTRUSTED },
        { { .data = SAME, .hole = SAME, .set = TRUTH }, SPARSESTREAM_MAP_DISTRUSTED },
        { { .data = SAME, .hole = -ENXIO, .set = TRUTH }, SPARSESTREAM_MAP_ASKED },
        { { .data = TRUTH, .hole = SIZE + 1, .set = TRUTH }, SPARSESTREAM_MAP_ASKED },
        { { .data = SAME, .hole = INT64_MAX, .set = TRUTH }, SPARSESTREAM_MAP_ASKED },
    };
    const int fd = sample();

    for (size_t i = 0; i < COUNT(lies); i++) {
        struct sending sending = { .fd = fd };
        struct liar liar = lies[i].liar;

        context("lie %zu", i);
        CHECK_INT(send_under(&sending, &liar), <=, 40);
        CHECK_INT(sending.code, ==, 0);
        check_sent(&sending, SIZE, false);
        check_traced(&sending, lies[i].event);
        content_free(&sending.taken);
    }
    close(fd);
}

/* Where the map hides data, only not asking it helps. */
static void a_map_that_hides_data_can_be_ignored(void)
{
    struct liar liar = { .data = -ENXIO, .hole = 0, .set = TRUTH };
    struct sending sending = { .flags = SPARSESTREAM_IGNORE_MAP };

    sending.fd = sample();
    CHECK_INT(send_under(&sending, &liar), ==, 0);
    CHECK_INT(sending.code, ==, 0);
    CHECK_INT(sending.to.holes, ==, 0);
    check_sent(&sending, SIZE, false);
    content_free(&sending.taken);
    close(sending.fd);
}

/* For every answer of the system: an end, the right size, and no byte that is not the file's. */
static void a_transfer_gets_through_answers_at_random(void)
{
    const int fd = sample();

    for (unsigned seed = 1; seed <= 150; seed++) {
        struct random random = { .state = seed };
        struct liar liar = { .data = TRUTH, .hole = TRUTH, .set = TRUTH, .random = &random };
        struct sending sending = { .fd = fd };

        context("seed %u", seed);
        CHECK_INT(send_under(&sending, &liar), <, 500);
        CHECK_INT(sending.code, ==, 0);
        if (sending.code == 0)
            check_sent(&sending, SIZE, true);
        content_free(&sending.taken);
    }
    close(fd);
}

static int count_section(void *opaque, const struct sparsestream_section *section)
{
    int64_t *end = opaque;

    CHECK_INT(section->offset, ==, *end);
    CHECK_INT(section->length, >, 0);
    *end = section->offset + section->length;
    return 0;
}

struct walk {
    int fd, code;
    int64_t end;
};

static void walk(void *opaque)
{
    struct walk *this = opaque;

    this->code = sparsestream_map(this->fd, 0, 0, count_section, &this->end);
}

static void a_map_gets_through_answers_at_random(void)
{
    const int fd = sample();

    for (unsigned seed = 1; seed <= 150; seed++) {
        struct random random = { .state = seed };
        struct liar liar = { .data = TRUTH, .hole = TRUTH, .set = TRUTH, .random = &random };
        struct walk this = { .fd = fd };
        struct watch watch = { .fd = fd, .handler = lie, .opaque = &liar };

        context("seed %u", seed);
        liar.fd = fd;
        watch_run(&watch, walk, &this);
        CHECK_INT(this.code, ==, 0);
        CHECK_INT(this.end, ==, SIZE);
        CHECK_INT(watch_count(&watch, SYS_lseek), <, 500);
    }
    close(fd);
}

/* The SMB client of Linux answers EIO for what has more sections than it asks its server for. */
static void a_failure_of_the_map_of_smb_means_data(void)
{
    const int64_t types[] = { 0xff534d42, 0xfe534d42 };
    const int fd = sample();

    for (size_t i = 0; i < COUNT(types); i++) {
        struct liar liar = { .data = -EIO, .hole = -EIO, .set = TRUTH, .type = types[i] };
        struct watch watch = { .fd = fd, .handler = lie, .opaque = &liar };
        struct question question = { .fd = fd, .position = 2 * UNIT };
        struct walk this = { .fd = fd };

        context("type %jx", (uintmax_t) types[i]);
        check_answer(fd, 0, &liar, true, SIZE);
        watch_run(&watch, ask_section_at, &question);
        CHECK_INT(question.at_code, ==, 0);
        CHECK_INT(question.section.kind, ==, SPARSESTREAM_DATA);
        watch_run(&watch, ask_supported, &question);
        CHECK_INT(question.code, ==, 0);
        watch_run(&watch, walk, &this);
        CHECK_INT(this.code, ==, 0);
        CHECK_INT(this.end, ==, SIZE);
    }
    close(fd);
}

TESTS(
    CASE(a_file_system_that_does_not_report_holes),
    CASE(a_failure_of_the_medium_is_the_answer),
    CASE(an_errno_that_is_not_of_the_medium_means_data),
    CASE(a_failure_of_the_map_of_smb_means_data),
    CASE(a_position_that_cannot_be_put_back),
    CASE(data_below_the_position),
    CASE(data_beyond_the_size),
    CASE(a_hole_where_the_data_is),
    CASE(a_hole_beyond_the_size),
    CASE(a_hole_below_the_position),
    CASE(no_hole_behind_the_data),
    CASE(a_file_that_grows_while_it_is_asked),
    CASE(a_file_that_is_cut_while_it_is_asked),
    CASE(data_that_is_punched_while_it_is_asked_for),
    CASE(a_transfer_gets_through_every_lie),
    CASE(a_map_that_hides_data_can_be_ignored),
    CASE(a_transfer_gets_through_answers_at_random),
    CASE(a_map_gets_through_answers_at_random),
)
