/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "ends.h"
#include "harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct piece *add_piece(struct content *content, int kind)
{
    if (content->count > 0 && content->pieces[content->count - 1].kind == kind)
        return &content->pieces[content->count - 1];
    if (content->count == content->room) {
        const size_t room = content->room == 0 ? 16 : content->room * 2;
        struct piece *pieces = realloc(content->pieces, room * sizeof *pieces);

        REQUIRE(pieces != NULL);
        content->pieces = pieces;
        content->room = room;
    }
    content->pieces[content->count] = (struct piece) { .kind = kind };
    return &content->pieces[content->count++];
}

void content_add_data(struct content *content, const void *bytes, size_t length)
{
    if (length == 0)
        return;
    if (content->byte_room - content->length < length) {
        const size_t room = (content->length + length) * 2;
        unsigned char *all = realloc(content->bytes, room);

        REQUIRE(all != NULL);
        content->bytes = all;
        content->byte_room = room;
    }
    memcpy(content->bytes + content->length, bytes, length);
    content->length += length;
    add_piece(content, SPARSESTREAM_DATA)->length += (int64_t) length;
}

void content_add_hole(struct content *content, int64_t length)
{
    if (length > 0)
        add_piece(content, SPARSESTREAM_HOLE)->length += length;
}

void content_add_keep(struct content *content, int64_t length)
{
    if (length > 0)
        add_piece(content, SPARSESTREAM_KEEP)->length += length;
}

void content_lay_out(struct content *content, const struct piece *pieces, size_t count,
                     unsigned seed)
{
    int64_t at = content_size(content);

    for (size_t i = 0; i < count; i++) {
        if (pieces[i].kind == SPARSESTREAM_HOLE) {
            content_add_hole(content, pieces[i].length);
        } else if (pieces[i].kind == SPARSESTREAM_KEEP) {
            content_add_keep(content, pieces[i].length);
        } else if (pieces[i].length > 0) {
            unsigned char *bytes = malloc((size_t) pieces[i].length);

            REQUIRE(bytes != NULL);
            pattern_fill(bytes, (size_t) pieces[i].length, seed, at);
            content_add_data(content, bytes, (size_t) pieces[i].length);
            free(bytes);
        }
        at += pieces[i].length;
    }
}

int64_t content_size(const struct content *content)
{
    int64_t size = 0;

    for (size_t i = 0; i < content->count; i++)
        size += content->pieces[i].length;
    return size;
}

void content_free(struct content *content)
{
    free(content->pieces);
    free(content->bytes);
    memset(content, 0, sizeof *content);
}

void content_check(const char *file, int line, const struct content *left,
                   const struct content *right)
{
    const size_t pieces = left->count < right->count ? left->count : right->count;

    for (size_t i = 0; i < pieces; i++) {
        if (left->pieces[i].kind != right->pieces[i].kind
            || left->pieces[i].length != right->pieces[i].length) {
            harness_fail(file, line, "piece %zu is kind %d of %jd bytes against kind %d of %jd", i,
                         left->pieces[i].kind, (intmax_t) left->pieces[i].length,
                         right->pieces[i].kind, (intmax_t) right->pieces[i].length);
            return;
        }
    }
    if (left->count != right->count)
        harness_fail(file, line, "%zu pieces against %zu", left->count, right->count);
    else if (left->length != right->length)
        harness_fail(file, line, "%zu data bytes against %zu", left->length, right->length);
    else if (left->length > 0 && memcmp(left->bytes, right->bytes, left->length) != 0)
        harness_fail_bytes(file, line, "the data", left->bytes, right->bytes, left->length);
}

static void note(struct end *end, char letter)
{
    struct journal *journal = end->journal;

    if (journal != NULL && journal->length + 1 < sizeof journal->text) {
        journal->text[journal->length++] = letter;
        journal->text[journal->length] = '\0';
    }
}

/* Notes the call; true if it shall answer *answer and do nothing. */
static bool begin(struct end *end, char letter, int64_t *answer)
{
    int *calls = end->calls == NULL ? &end->own_calls : end->calls;
    int number;

    note(end, letter);
    ++*calls;
    if (end->fault_letter != 0) {
        if (letter != end->fault_letter)
            return false;
        number = ++end->letter_calls;
    } else {
        number = *calls;
    }
    if (end->fault_call != 0
        && (number == end->fault_call || (end->fault_stays && number > end->fault_call))) {
        end->faulted = true;
        *answer = end->fault;
        return true;
    }
    if (end->random != NULL) {
        if (random_percent(end->random, end->again_percent)) {
            *answer = -EAGAIN;
            return true;
        }
        if (random_percent(end->random, end->interrupt_percent)) {
            *answer = -EINTR;
            return true;
        }
    }
    return false;
}

static size_t limited(struct end *end, size_t length)
{
    if (end->most != 0 && length > end->most)
        length = end->most;
    if (end->random != NULL && length > 1 && random_percent(end->random, end->short_percent))
        length = (size_t) random_between(end->random, 1, (int64_t) length);
    return length;
}

/* The piece that comes next; NULL at the end. */
static const struct piece *current(struct end *end)
{
    while (end->piece < end->from->count
           && end->within == end->from->pieces[end->piece].length) {
        end->piece++;
        end->within = 0;
    }
    return end->piece < end->from->count ? &end->from->pieces[end->piece] : NULL;
}

static int64_t give_data(struct end *end, void *buffer, size_t length)
{
    const struct piece *piece = current(end);
    size_t count = length;

    if (piece == NULL)
        return 0;
    if (piece->kind == SPARSESTREAM_HOLE)
        return SPARSESTREAM_AT_HOLE;
    if (piece->kind == SPARSESTREAM_KEEP)
        return SPARSESTREAM_AT_KEEP;
    if ((int64_t) count > piece->length - end->within)
        count = (size_t) (piece->length - end->within);
    count = limited(end, count);
    memcpy(buffer, end->from->bytes + end->byte, count);
    end->byte += count;
    end->within += (int64_t) count;
    return (int64_t) count;
}

static int64_t take_data(struct end *end, const void *buffer, size_t length)
{
    const size_t count = limited(end, length);

    if (end->to != NULL)
        content_add_data(end->to, buffer, count);
    end->taken += (int64_t) count;
    return (int64_t) count;
}

static int64_t limited_hole(const struct end *end, int64_t length)
{
    return end->most_hole != 0 && length > end->most_hole ? end->most_hole : length;
}

static int64_t take_hole(struct end *end, int64_t length)
{
    length = limited_hole(end, length);
    if (end->to != NULL)
        content_add_hole(end->to, length);
    end->taken += length;
    return length;
}

static int64_t take_keep(struct end *end, int64_t length)
{
    length = limited_hole(end, length);
    if (end->to != NULL)
        content_add_keep(end->to, length);
    end->taken += length;
    return length;
}

static int on_section(void *opaque, struct sparsestream_section *section)
{
    struct end *end = opaque;
    const struct piece *piece;
    int64_t answer;

    if (begin(end, 'i', &answer))
        return (int) answer;
    piece = current(end);
    CHECK_INT(section->size, >=, sizeof *section);
    section->kind = piece == NULL ? SPARSESTREAM_END : piece->kind;
    section->length = piece == NULL ? 0 : piece->length - end->within;
    return 0;
}

/* A source that does not report holes returns zeros for them. */
static int64_t on_read(void *opaque, void *buffer, size_t length)
{
    struct end *end = opaque;
    const struct piece *piece;
    int64_t answer;

    end->reads++;
    if (begin(end, 'r', &answer))
        return answer;
    piece = current(end);
    if (piece != NULL && piece->kind == SPARSESTREAM_HOLE) {
        size_t count = length;

        if ((int64_t) count > piece->length - end->within)
            count = (size_t) (piece->length - end->within);
        count = limited(end, count);
        memset(buffer, 0, count);
        end->within += (int64_t) count;
        return (int64_t) count;
    }
    return give_data(end, buffer, length);
}

static int64_t on_skip(void *opaque, int64_t length)
{
    struct end *end = opaque;
    const struct piece *piece;
    int64_t answer;

    end->skips++;
    if (begin(end, 'k', &answer))
        return answer;
    piece = current(end);
    CHECK(piece != NULL && piece->kind != SPARSESTREAM_DATA);
    if (piece == NULL)
        return -EIO;
    CHECK_INT(length, >, 0);
    CHECK_INT(length, <=, piece->length - end->within);
    length = limited_hole(end, length);
    end->within += length;
    return length;
}

static int64_t on_write(void *opaque, const void *buffer, size_t length)
{
    struct end *end = opaque;
    int64_t answer;

    end->writes++;
    CHECK_INT(length, >, 0);
    if (begin(end, 'w', &answer))
        return answer;
    return take_data(end, buffer, length);
}

static int64_t on_hole(void *opaque, int64_t length)
{
    struct end *end = opaque;
    int64_t answer;

    end->holes++;
    CHECK_INT(length, >, 0);
    if (begin(end, 'h', &answer))
        return answer;
    return take_hole(end, length);
}

static int64_t on_keep(void *opaque, int64_t length)
{
    struct end *end = opaque;
    int64_t answer;

    end->keeps++;
    CHECK_INT(length, >, 0);
    if (begin(end, 'e', &answer))
        return answer;
    return take_keep(end, length);
}

static int64_t on_recv(void *opaque, void *buffer, size_t length)
{
    struct end *end = opaque;
    int64_t answer;

    end->reads++;
    if (begin(end, 'r', &answer))
        return answer;
    return give_data(end, buffer, length);
}

static int64_t on_recv_dense(void *opaque, void *buffer, size_t length)
{
    return on_read(opaque, buffer, length);
}

static int recv_section(struct end *end, int kind, int64_t *length)
{
    const struct piece *piece;
    int64_t answer;

    end->skips++;
    if (begin(end, 'l', &answer))
        return (int) answer;
    piece = current(end);
    CHECK(piece != NULL && piece->kind == kind);
    if (piece == NULL)
        return -EIO;
    *length = piece->length - end->within;
    end->within = piece->length;
    return 0;
}

static int on_recv_hole(void *opaque, int64_t *length)
{
    return recv_section(opaque, SPARSESTREAM_HOLE, length);
}

static int on_recv_keep(void *opaque, int64_t *length)
{
    return recv_section(opaque, SPARSESTREAM_KEEP, length);
}

static int on_finish(void *opaque)
{
    struct end *end = opaque;
    int64_t answer;

    end->finishes++;
    return begin(end, end->from == NULL ? 'F' : 'f', &answer) ? (int) answer : 0;
}

static void on_abort(void *opaque, int error)
{
    struct end *end = opaque;

    note(end, end->from == NULL ? 'A' : 'a');
    end->aborts++;
    end->abort_error = error;
}

static void on_free(void *opaque)
{
    struct end *end = opaque;

    note(end, end->from == NULL ? 'X' : 'x');
    end->frees++;
}

const struct sparsestream_source_ops end_source_ops = {
    .size = sizeof end_source_ops,
    .free = on_free,
    .section = on_section,
    .read = on_read,
    .skip = on_skip,
};

const struct sparsestream_source_ops end_keeping_source_ops = {
    .size = sizeof end_keeping_source_ops,
    .free = on_free,
    .flags = SPARSESTREAM_WITH_KEEPS,
    .section = on_section,
    .read = on_read,
    .skip = on_skip,
    .finish = on_finish,
    .abort = on_abort,
};

const struct sparsestream_source_ops end_blind_source_ops = {
    .size = sizeof end_blind_source_ops,
    .free = on_free,
    .read = on_read,
};

const struct sparsestream_sink_ops end_sink_ops = {
    .size = sizeof end_sink_ops,
    .free = on_free,
    .write = on_write,
    .hole = on_hole,
};

const struct sparsestream_sink_ops end_keeping_sink_ops = {
    .size = sizeof end_keeping_sink_ops,
    .free = on_free,
    .write = on_write,
    .hole = on_hole,
    .keep = on_keep,
    .finish = on_finish,
    .abort = on_abort,
};

const struct sparsestream_sink_ops end_dense_sink_ops = {
    .size = sizeof end_dense_sink_ops,
    .free = on_free,
    .write = on_write,
};

const struct sparsestream_stream_ops end_stream_ops = {
    .size = sizeof end_stream_ops,
    .free = on_free,
    .send = on_write,
    .send_hole = on_hole,
    .recv = on_recv,
    .recv_hole = on_recv_hole,
    .finish = on_finish,
    .abort = on_abort,
};

const struct sparsestream_stream_ops end_keeping_stream_ops = {
    .size = sizeof end_keeping_stream_ops,
    .free = on_free,
    .flags = SPARSESTREAM_WITH_KEEPS,
    .send = on_write,
    .send_hole = on_hole,
    .send_keep = on_keep,
    .recv = on_recv,
    .recv_hole = on_recv_hole,
    .recv_keep = on_recv_keep,
    .finish = on_finish,
    .abort = on_abort,
};

const struct sparsestream_stream_ops end_dense_stream_ops = {
    .size = sizeof end_dense_stream_ops,
    .free = on_free,
    .send = on_write,
    .recv = on_recv_dense,
    .finish = on_finish,
    .abort = on_abort,
};

struct sparsestream_source *end_source(struct end *end)
{
    struct sparsestream_source *source = NULL;

    REQUIRE(sparsestream_source_from_callbacks(&end_source_ops, end, &source) == 0);
    return source;
}

struct sparsestream_source *end_stream_source(struct end *end)
{
    struct sparsestream_source *source = NULL;

    REQUIRE(sparsestream_source_from_stream(&end_stream_ops, end, &source) == 0);
    return source;
}

struct sparsestream_sink *end_sink(struct end *end)
{
    struct sparsestream_sink *sink = NULL;

    REQUIRE(sparsestream_sink_to_callbacks(&end_sink_ops, end, &sink) == 0);
    return sink;
}

struct sparsestream_sink *end_stream_sink(struct end *end)
{
    struct sparsestream_sink *sink = NULL;

    REQUIRE(sparsestream_sink_to_stream(&end_stream_ops, end, &sink) == 0);
    return sink;
}

struct sparsestream_source *fd_source(int fd)
{
    struct sparsestream_source *source = NULL;

    REQUIRE(sparsestream_source_from_fd(fd, NULL, &source) == 0);
    return source;
}

struct sparsestream_sink *fd_sink(int fd)
{
    struct sparsestream_sink *sink = NULL;

    REQUIRE(sparsestream_sink_to_fd(fd, NULL, &sink) == 0);
    return sink;
}

struct sparsestream_transfer *new_transfer(struct sparsestream_source *source,
                                           struct sparsestream_sink *sink,
                                           const struct sparsestream_transfer_options *options)
{
    struct sparsestream_transfer *transfer = NULL;

    REQUIRE(sparsestream_transfer_new(source, sink, options, &transfer) == 0);
    return transfer;
}

struct sparsestream_stats transfer_stats(struct sparsestream_transfer *transfer)
{
    struct sparsestream_stats stats = { .size = sizeof stats };

    CHECK_CODE(sparsestream_transfer_stats(transfer, &stats), 0);
    return stats;
}

struct sparsestream_error transfer_error(struct sparsestream_transfer *transfer)
{
    struct sparsestream_error error = { .size = sizeof error };

    CHECK_CODE(sparsestream_transfer_error(transfer, &error), 0);
    return error;
}
